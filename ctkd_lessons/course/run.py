"""Run a learner's notebook by pytest and collect what it says."""

import io
import os
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

import pytest

from ctkd_lessons.course.collect import NOTES, WorkFile
from ctkd_lessons.course.lessons import Lesson


@dataclass(frozen=True)
class Result:
    """What became of one cell: its name, whether it is a check cell, and the text for the learner."""

    name: str
    graded: bool
    passed: bool
    text: str

    def __str__(self) -> str:
        return f"✔ {self.name}" if self.passed else self.text if self.graded else f"✘ {self.name}: {self.text}"


class _Listener:
    """A pytest plugin that keeps the results."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.notes: list[str] = []

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        if isinstance(item.parent, WorkFile):
            self.notes = item.parent.stash[NOTES]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.results.append(Result("notebook", False, False, report.longreprtext))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.failed:
            name = report.nodeid.rpartition("::")[2]
            graded = not name.startswith("cell ")
            # Cells after one that ran out of time are "expected to fail" for nbval: for a learner they did.
            passed = report.passed and not hasattr(report, "wasxfail")
            text = report.longreprtext or "not run, because an earlier cell ran out of time"
            self.results.append(Result(name, graded, passed, text))


def run_work(lesson: Lesson, seconds_per_cell: int = 120) -> tuple[list[Result], list[str]]:
    """Run the learner's notebook of a lesson; return the result of every cell, and notes."""
    listener = _Listener()
    root = lesson.root
    arguments = [
        str(lesson.work),
        f"--rootdir={root}",
        f"--ctkd-root={root}",
        f"--nbval-cell-timeout={seconds_per_cell}",
    ]
    # An empty configuration, so that the course's own test options play no part; no files left behind.
    arguments += ["-c", os.devnull, "-p", "no:cacheprovider"]
    # pytest's own report is for developers.
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        pytest.main(arguments, plugins=[listener])
    return listener.results, listener.notes
