"""Settings for every pytest run in this repository."""

import os
import sys
import tempfile
from pathlib import Path

import pytest

# A class is graded on Linux only: the sandbox is there only.
_GRADING = ("classroom", "gradebook", "grading", "grading_run", "hostile_code", "hostile_files", "nbgrader")
collect_ignore = [] if sys.platform.startswith("linux") else [f"tests/test_{name}.py" for name in _GRADING]


def pytest_configure(config: pytest.Config) -> None:
    """Compare notebooks with their recorded outputs but for measured numbers, and without progress bars."""
    os.environ["CTKD_NO_PROGRESS"] = "1"
    practised = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    config.add_cleanup(practised.cleanup)
    os.environ["CTKD_INTERVIEW"] = str(Path(practised.name) / "interview.sqlite")  # never the learner's own
    if "PYTEST_XDIST_WORKER" in os.environ:  # threads of several workers would wait for each other
        os.environ["OMP_NUM_THREADS"] = "1"
    if config.option.nbval_sanitize_with is None:
        config.option.nbval_sanitize_with = str(Path(__file__).parent / "tests" / "nbval.cfg")
