"""Settings for every pytest run in this repository."""

import os
from pathlib import Path

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Compare notebooks with their recorded outputs but for measured numbers, and without progress bars."""
    os.environ["CTKD_NO_PROGRESS"] = "1"
    if config.option.nbval_sanitize_with is None:
        config.option.nbval_sanitize_with = str(Path(__file__).parent / "tests" / "nbval.cfg")
