"""Where a lesson's files lie: lesson, solution, exercise sheet, the learner's own copy."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[2]


class CourseError(Exception):
    """Something a learner can put right; the message says how."""


@dataclass(frozen=True)
class Lesson:
    """A lesson with exercises; ``name``: "01_soft_targets"."""

    name: str
    root: Path = ROOT

    @property
    def number(self) -> str:
        """The two digits at the front of the name."""
        return self.name[:2]

    @property
    def notebook(self) -> Path:
        """The lesson itself."""
        return self.root / "notebooks" / f"{self.name}.ipynb"

    @property
    def solution(self) -> Path:
        """The single source of the exercises."""
        return self._sheet("solutions")

    @property
    def exercise(self) -> Path:
        """The sheet generated from the solution."""
        return self._sheet("exercises")

    @property
    def work(self) -> Path:
        """The learner's copy of the sheet."""
        return self._sheet("my_work")

    def _sheet(self, folder: str) -> Path:
        return self.root / folder / self.name / f"{self.name}.ipynb"


def lessons(root: Path = ROOT) -> list[Lesson]:
    """Return all lessons that have exercises, in order."""
    found = [Lesson(path.parent.name, root) for path in sorted((root / "solutions").glob("*/*.ipynb"))]
    if not found:
        raise CourseError(
            f"There are no lessons in {root}. Install the course from its folder: pip install -e . -c constraints.txt"
        )
    return found


def find(text: str, root: Path = ROOT) -> Lesson:
    """Return the lesson meant by "01", "1" or "01_soft_targets"."""
    known = lessons(root)
    for lesson in known:
        if text in (lesson.name, lesson.number, lesson.number.lstrip("0")):
            return lesson
    raise CourseError(f"There is no lesson {text!r} with exercises. There are: {', '.join(one.name for one in known)}.")


def grade_id_of(cell: NotebookNode) -> str | None:
    """Return nbgrader's name of a cell, ``None`` for a cell that has none."""
    return cell.metadata.get("nbgrader", {}).get("grade_id")


def read_notebook(path: Path) -> NotebookNode:
    """Read a notebook; raise ``CourseError`` with what to do if that cannot be done."""
    import nbformat  # slow to load, and "ctkd --help" needs none

    try:
        text = path.read_text(encoding="utf-8")
        return nbformat.reads(text, as_version=4)
    except FileNotFoundError:
        raise CourseError(f"There is no file {path}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CourseError(f"{path} cannot be read: {error}.") from None
    except (
        json.JSONDecodeError,
        nbformat.ValidationError,
        nbformat.reader.NotJSONError,
        AttributeError,
        KeyError,
    ) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise CourseError(
            f"{path} is not a whole notebook ({reason}). It was left as it is. An earlier version may lie in the "
            "folder .ipynb_checkpoints beside it; or rename the file and start again with `ctkd start`."
        ) from None
