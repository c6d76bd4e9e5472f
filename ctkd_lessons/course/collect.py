"""Let pytest run a learner's notebook: the plugin behind ``ctkd check`` and ``pytest my_work/…``.

nbval alone would compare the notebook with itself and pass anything. So the locked cells and
their recorded outputs come from the solution, by ``grade_id``; of the learner's own cells only
errors count. Everything happens on a copy in memory: the learner's file is only read.
"""

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from nbformat import NotebookNode
from nbval.kernel import RunningKernel
from nbval.plugin import IPyNbCell, IPyNbFile, NbCellError

from ctkd_lessons.course.lessons import ROOT, CourseError, find, grade_id_of, read_notebook

NOTES = pytest.StashKey[list[str]]()


def overlay(work: NotebookNode, solution: NotebookNode) -> tuple[NotebookNode, list[str]]:
    """Return a copy of the learner's notebook with the solution's locked cells, and notes for the learner.

    A check cell that was deleted is put back at the end, one that stands twice is used once.
    Raises ``CourseError`` if the notebook belongs to another lesson.
    """
    locked = {grade_id_of(cell): cell for cell in solution.cells if grade_id_of(cell) and cell.metadata.nbgrader.locked}
    counts = Counter(grade_id_of(cell) for cell in work.cells)
    if not any(grade_id in counts for grade_id in locked):
        raise CourseError("This notebook holds none of the lesson's check cells: it seems to belong to another lesson.")
    notes, cells, used = [], [], set()
    for cell in work.cells:
        grade_id = grade_id_of(cell)
        if grade_id in used:
            continue
        if grade_id in locked:
            used.add(grade_id)
            cells.append(locked[grade_id])
        elif cell.cell_type == "code":
            cells.append(_ignoring_output(cell))
    for grade_id, cell in locked.items():
        if grade_id in used:
            if counts[grade_id] > 1:
                notes.append(f"The cell {grade_id} stands {counts[grade_id]} times in the notebook; it was used once.")
        elif cell.cell_type == "code":
            cells.append(cell)
            notes.append(f"The cell {grade_id} is missing; this check put it back. Copy it from the exercise sheet.")
    return NotebookNode(solution | {"cells": cells}), notes


def _ignoring_output(cell: NotebookNode) -> NotebookNode:
    # The count stands for "was run": nbval skips a cell without one.
    metadata = NotebookNode(cell.metadata | {"tags": ["nbval-ignore-output"]})
    return NotebookNode(cell | {"metadata": metadata, "outputs": [], "execution_count": 1})


class WorkFile(IPyNbFile):
    """A learner's notebook under the overlay."""

    def collect(self) -> Iterator["WorkCell"]:
        """Yield one item per code cell."""
        try:
            work = read_notebook(self.path)
            self.nb, notes = overlay(work, read_notebook(find(self.path.parent.name, _root(self.config)).solution))
        except CourseError as error:
            raise self.CollectError(str(error)) from None
        self.stash[NOTES] = notes
        for number, cell in enumerate(cell for cell in self.nb.cells if cell.cell_type == "code"):
            graded = cell.metadata.get("nbgrader", {}).get("grade", False)
            options = {"check": graded, "skip": False, "check_exception": False}
            name = grade_id_of(cell) if graded else f"cell {number + 1}"
            yield WorkCell.from_parent(self, name=name, cell_num=number, cell=cell, options=options)

    def setup(self) -> None:
        """Start the kernel of this environment in the learner's folder."""
        startup = self.config.option.nbval_kernel_startup_timeout
        self.kernel = WatchedKernel("python3", cwd=str(self.path.parent), startup_timeout=startup)


class WatchedKernel(RunningKernel):
    """A kernel whose death is noticed within a second, not after the cell's whole time."""

    def await_reply(self, msg_id: str, timeout: float) -> None:
        """Wait for the reply; raise ``Empty`` after ``timeout`` seconds, ``RuntimeError`` on a death."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                return super().await_reply(msg_id, timeout=1)
            except Empty:
                if not self.is_alive():
                    raise RuntimeError("it died while it ran this cell") from None
                if time.monotonic() > deadline:
                    raise


class WorkCell(IPyNbCell):
    """One cell; a failing check cell shows the learner's panel instead of a difference of outputs."""

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException]) -> Any:
        """Say what is wrong in the learner's words."""
        for output in self.test_outputs or []:
            if "ctkd" in output.get("metadata", {}):
                return output["data"]["text/plain"]
        if isinstance(excinfo.value, NbCellError):
            where = self.cell.source.strip().splitlines()[0] if self.cell.source.strip() else "an empty cell"
            reason = (excinfo.value.inner_traceback or "").strip().splitlines()
            return f"{excinfo.value} (the cell that begins with `{where}`)\n    {reason[-1] if reason else ''}".rstrip()
        return f"The kernel stopped: {excinfo.value}. Look at the cells before this one for an endless loop or a crash."


def _root(config: pytest.Config) -> Path:
    return Path(config.getoption("ctkd_root") or ROOT)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let tests use another course folder."""
    parser.addoption("--ctkd-root", dest="ctkd_root", default=None, help="folder of the course (for its own tests)")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> WorkFile | None:
    """Collect the notebooks of ``my_work/``."""
    work = _root(parent.config) / "my_work"
    if file_path.suffix == ".ipynb" and work in file_path.parents and file_path.stem == file_path.parent.name:
        return WorkFile.from_parent(parent, path=file_path)
    return None
