"""The notebook a student gets back: their own cells as they stand, and what the grader said below each check."""

from collections.abc import Iterator

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output, new_raw_cell

from ctkd_lessons.course.authoring import tidy
from ctkd_lessons.course.check import SIGNS, panel
from ctkd_lessons.course.classroom.names import visible
from ctkd_lessons.course.classroom.results import Mark, Result
from ctkd_lessons.course.lessons import Lesson, grade_id_of, read_notebook

NEW = {"code": new_code_cell, "markdown": new_markdown_cell, "raw": new_raw_cell}


def autograded(lesson: Lesson, result: Result, notebook: NotebookNode | None) -> NotebookNode:
    """Return a submission as nbgrader's formgrader and feedback show it; ``None`` gives the empty sheet.

    Locked cells and all metadata come from the exercise sheet. A student's own cells are kept as text,
    their outputs are not. A cell that stands twice counts once; one that is missing is put at the end.
    """
    sheet = read_notebook(lesson.exercise)
    cells = list(_arranged(notebook or sheet, sheet))
    marks = {f"check_{mark.exercise.partition('.')[2]}": mark for mark in result.marks}
    for cell in cells:
        mark = marks.get(grade_id_of(cell))
        if mark:
            cell.outputs = [_output(mark)]
    top = (
        [new_code_cell("# From the grader", id="result", outputs=[_failure(result)])]
        if result.state == "failed"
        else []
    )
    return tidy(NotebookNode(sheet | {"cells": [*top, *cells]}))


def said(mark: Mark) -> str:
    """Return what the learner's own check would have said, as Markdown; "" for a right answer."""
    return "" if mark.verdict == "passed" else "\n\n".join(visible(line) for line in (mark.headline, *mark.details))


def _arranged(work: NotebookNode, sheet: NotebookNode) -> Iterator[NotebookNode]:
    """Yield the cells of ``work`` in their order, with the sheet's identity where they have one."""
    ours = {grade_id_of(cell): cell for cell in sheet.cells if grade_id_of(cell)}
    texts = {cell.id: cell for cell in sheet.cells if not grade_id_of(cell)}
    for number, cell in enumerate(work.cells):
        mine = ours.pop(grade_id_of(cell), None)
        if mine is not None:
            locked = mine.metadata.nbgrader.locked
            yield NotebookNode(mine | ({} if locked else {"source": str(cell.source)}))
        elif cell.get("id") in texts and cell.source == texts[cell.id].source:
            yield texts.pop(cell.id)
        elif not _is_copy(cell, sheet):
            yield NEW[cell.cell_type](str(cell.source), id=f"own-{number}")
    for mine in ours.values():
        yield NotebookNode(mine | ({} if mine.metadata.nbgrader.locked else {"source": "# This cell is missing."}))


def _is_copy(cell: NotebookNode, sheet: NotebookNode) -> bool:
    """Tell whether a cell repeats a locked cell, by its name: nothing of it is the student's."""
    locked = [grade_id_of(one) for one in sheet.cells if one.metadata.get("nbgrader", {}).get("locked")]
    return grade_id_of(cell) in locked


def _output(mark: Mark) -> NotebookNode:
    points = f"{mark.points:g} of {mark.out_of:g} points"
    title = f"{SIGNS[mark.verdict]} {mark.exercise} ({points}): {visible(mark.headline)}"
    return _shown(mark.verdict, [title, *map(visible, mark.details)])


def _failure(result: Result) -> NotebookNode:
    return _shown("stopped", [f"{SIGNS['stopped']} This notebook was not graded.", visible(result.reason)])


def _shown(verdict: str, lines: list[str]) -> NotebookNode:
    return new_output("display_data", {"text/plain": "\n    ".join(lines), "text/html": panel(verdict, lines)})
