"""Coding questions: the sheet's text and stub to begin with, and the check of what the learner wrote.

torch is loaded by the check, not before.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ctkd_lessons.course.lessons import ROOT, CourseError, find

if TYPE_CHECKING:
    from ctkd_lessons.course.check import Report


def task(exercise_id: str) -> str:
    """Return the exercise's text of its sheet, as Markdown."""
    return _cells(exercise_id)[f"{_name(exercise_id)}-text"]


def starter(exercise_id: str) -> str:
    """Return what the learner begins with: the sheet's imports, and the function's head."""
    cells, name = _cells(exercise_id), _name(exercise_id)
    imports = [line for line in cells["imports"].splitlines() if not line.endswith("import check")]
    parts = ["\n".join(imports).strip(), cells.get(f"broken_{name}", ""), cells[name]]
    return "\n\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def work_file(exercise_id: str, root: Path = ROOT) -> Path:
    """Return the file in my_work/ where the learner writes; made from the starter if it is not there."""
    path = root / "my_work" / "interview" / f"{exercise_id}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_text(starter(exercise_id), encoding="utf-8")
    return path


def check_source(exercise_id: str, source: str) -> Report:
    """Run the learner's code and check the function in it; whatever is wrong with it stands in the report."""
    from ctkd_lessons.course.check import Report
    from ctkd_lessons.course.examine import Finding, examine
    from ctkd_lessons.course.exercises import find as find_exercise

    exercise, names = find_exercise(exercise_id), {"__name__": "answer"}
    try:
        exec(compile(source, f"{exercise_id}.py", "exec"), names)  # the learner's own code in their own process
    except (Exception, SystemExit) as error:  # noqa: BLE001 -- it may raise anything
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        headline = f"The code cannot be run: {type(error).__name__}{line}: {getattr(error, 'msg', error)}."
        return Report(Finding(exercise, "wrong", headline))
    if exercise.name not in names:
        advice = "Keep the name of the function as it was given."
        return Report(Finding(exercise, "wrong", f"There is no function `{exercise.name}`.", details=(advice,)))
    return Report(examine(exercise, names[exercise.name]))


def _name(exercise_id: str) -> str:
    return exercise_id.partition(".")[2]


@cache
def _cells(exercise_id: str) -> dict[str, str]:
    """Return the cells of the exercise's sheet by their ids; read as plain JSON, which is quick."""
    sheet = find(exercise_id.partition(".")[0]).exercise
    cells = json.loads(sheet.read_text(encoding="utf-8"))["cells"]
    found = {cell["id"]: "".join(cell["source"]) for cell in cells}
    if _name(exercise_id) not in found:
        raise CourseError(f"{sheet} has no exercise {exercise_id!r}.")
    return found
