"""A small class: its folder, what students hand in, and how that was graded."""

import shutil
from copy import deepcopy

import nbformat

from ctkd_lessons.course.classroom.results import Mark, Result
from ctkd_lessons.course.examine import examine
from ctkd_lessons.course.exercises import of_lesson
from ctkd_lessons.course.lessons import ROOT, Lesson, read_notebook

LESSON = "01_soft_targets"
EVIL = (
    "<script>window.pwned = 1</script><img src=x onerror='window.pwned = 1'><svg onload='window.pwned = 1'></svg>"
    "<a href='javascript:window.pwned = 1'>press me</a> <iframe src='javascript:window.pwned = 1'></iframe>"
)
EVIL_MARKDOWN = (
    "[press *me*](javascript:window.pwned=1) ![seen](http://127.0.0.1:9/who-looks.png)\n\n"
    "[and me](/formgrader/manage_students/x%22;window.pwned=1;%22)\n\n" + EVIL
)


def make_class(folder):
    """Copy what an instructor has of one lesson, and return it."""
    for part in ("solutions", "exercises"):
        shutil.copytree(ROOT / part / LESSON, folder / part / LESSON)
    shutil.copy(ROOT / "nbgrader_config.py", folder)
    return Lesson(LESSON, folder)


def sheet(lesson):
    """Return the exercise sheet with an answer in every cell."""
    work = read_notebook(lesson.exercise)
    for cell in work.cells:
        if cell.metadata.get("nbgrader", {}).get("solution"):
            cell.source = cell.source.replace("raise NotImplementedError()", 'return "my <b>answer</b>"')
    return work


def hostile(lesson):
    """Return a sheet that would take over the page it is shown on."""
    work = deepcopy(sheet(lesson))
    evil = '"><script>window.pwned = 1</script>'
    kinds = {"text/html": EVIL, "text/plain": EVIL, "text/markdown": EVIL_MARKDOWN, "text/latex": EVIL}
    kinds |= {"application/javascript": "window.pwned = 1", "image/svg+xml": EVIL, "image/png": evil}
    outputs = [nbformat.v4.new_output("display_data", {kind: data}) for kind, data in kinds.items()]
    outputs += [nbformat.v4.new_output("stream", text=EVIL), nbformat.v4.new_output("error", traceback=[EVIL])]
    outputs[0].metadata["text/html"] = {"isolated": True}
    cell = nbformat.v4.new_code_cell(f"'{EVIL}'", outputs=outputs)
    cell.metadata.update(magics_language=evil, tags=[evil])
    cell.metadata.nbgrader = {**work.cells[3].metadata.nbgrader, "grade_id": evil, "points": evil, "grade": True}
    work.cells[1:1] = [nbformat.v4.new_markdown_cell(EVIL_MARKDOWN), cell]
    work.metadata.title = evil
    work.metadata.language_info.pygments_lexer = evil
    work.metadata.widgets = {"application/vnd.jupyter.widget-state+json": {"state": {"x": evil}}}
    return work


def graded(student, wrong=(), **changes):
    """Return a result with real findings: right everywhere but for the first mistake of the exercises ``wrong``."""
    marks = []
    for exercise in of_lesson("01"):
        if exercise.name not in wrong:
            says = f"`{exercise.name}` is right on all 7 inputs."
            marks.append(Mark(exercise.id, exercise.title, exercise.points, exercise.points, "passed", says))
            continue
        found = examine(exercise, exercise.variant(exercise.mistakes[0]))
        names = tuple(mistake.name for mistake in found.mistakes)
        rest = (exercise.points / 2, exercise.points, found.verdict, found.headline, found.details, names, 3, 7)
        marks.append(Mark(exercise.id, exercise.title, *rest))
    given = {
        "state": "graded",
        "reason": "",
        "notes": (),
        "marks": tuple(marks),
        "seed": 1,
        "digest": "",
        "seconds": 1.0,
    }
    return Result(student=student, lesson=LESSON, **{**given, **changes})


def failed(student, reason, marks=(), **changes):
    """Return a result of a submission that could not be graded to its end."""
    return graded(student, state="failed", reason=reason, marks=tuple(marks), **changes)
