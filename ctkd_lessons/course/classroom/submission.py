"""Find what was handed in, and look it over before anything is run."""

import hashlib
import json
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nbformat import NotebookNode, from_dict

from ctkd_lessons.course.lessons import CourseError, Lesson, grade_id_of

LARGEST = 5_000_000  # bytes; a sheet with its answers has some 30,000
MOST_CELLS = 1000  # a sheet has some 25
FLAGS = ("grade_id", "grade", "solution", "locked", "points", "task")


@dataclass(frozen=True)
class Task:
    """One submission to grade, as plain data, so that it can be graded on another machine.

    ``lesson``: "01_soft_targets"; ``content``: the notebook's bytes; ``problem``: why there is nothing to
    run, in words, else ""; ``notes``: what the instructor should know; ``submitted``: what nbgrader's
    timestamp.txt says, or ""; ``seed``: what the inputs are drawn from; ``seconds``: how long the student's
    code may run; ``private``: the text of a module with exercises of the instructor's own, or "".
    """

    student: str
    lesson: str
    content: bytes
    problem: str = ""
    notes: tuple[str, ...] = ()
    submitted: str = ""
    seed: int = 0
    seconds: float = 60.0
    private: str = ""

    @property
    def digest(self) -> str:
        """The notebook's SHA-256, "" where there is none."""
        return hashlib.sha256(self.content).hexdigest() if self.content else ""


def find(folder: Path, lesson: Lesson) -> list[Task]:
    """Return a task for each student who handed a lesson in: ``folder/STUDENT/LESSON/LESSON.ipynb``.

    Links are not followed. Raises ``CourseError`` where there is no such folder or nobody handed in.
    """
    if not folder.is_dir():
        raise CourseError(f"There is no folder {folder}. Submissions belong in {_pattern(folder, lesson)}.")
    students = sorted(entry.name for entry in os.scandir(folder) if not entry.name.startswith("."))
    tasks = [_task(folder, student, lesson) for student in students if os.path.lexists(folder / student / lesson.name)]
    if not tasks:
        raise CourseError(f"Nobody has handed in {lesson.name}: there is no {_pattern(folder, lesson)}.")
    return tasks


def _pattern(folder: Path, lesson: Lesson) -> Path:
    return folder / "STUDENT" / lesson.name / f"{lesson.name}.ipynb"


def _task(folder: Path, student: str, lesson: Lesson) -> Task:
    where = folder / student / lesson.name
    content, problem, notes, submitted = b"", "", [], ""
    try:
        content = _read(where, f"{lesson.name}.ipynb", LARGEST)
        notes = list(_strays(where, lesson))
        if os.path.lexists(where / "timestamp.txt"):
            submitted = _read(where, "timestamp.txt", 100).decode(errors="replace").strip()
    except CourseError as error:
        problem = str(error)
    return Task(student, lesson.name, content, problem, tuple(notes), submitted)


def _read(folder: Path, name: str, largest: int) -> bytes:
    """Read a plain file of a submission; raise ``CourseError`` for anything else."""
    for part in (folder.parent, folder):
        if part.is_symlink() or not part.is_dir():
            raise CourseError(f"{part.name} is a link or no folder. Links are not followed.")
    try:
        # Not through a link, and a pipe must not make us wait.
        handle = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        others = ", ".join(sorted(os.listdir(folder))[:5]) or "nothing"
        raise CourseError(f"There is no {name}. The folder holds: {others}.") from None
    except OSError as error:
        raise CourseError(f"{name} cannot be read: {error.strerror}. Is it a link?") from None
    about = os.fstat(handle)
    if not stat.S_ISREG(about.st_mode):
        os.close(handle)
        raise CourseError(f"{name} is no plain file.")
    with os.fdopen(handle, "rb") as file:
        if about.st_size > largest:
            raise CourseError(
                f"{name} has {about.st_size / 1e6:.1f} MB; at most {largest / 1e6:g} MB are read. Clear its outputs, "
                "save it, and hand it in again."
            )
        return file.read(largest)


def _strays(folder: Path, lesson: Lesson) -> Iterator[str]:
    expected = {f"{lesson.name}.ipynb", "timestamp.txt", ".ipynb_checkpoints"}
    strays = sorted(set(os.listdir(folder)) - expected)
    if strays:
        shown = ", ".join(strays[:5]) + (" …" if len(strays) > 5 else "")
        yield f"Beside the notebook lie {len(strays)} other files, which grading does not use: {shown}."


def notebook(content: bytes) -> NotebookNode:
    """Read a notebook for Python; raise ``CourseError`` that says what it is instead.

    Only what grading uses is kept. nbformat's validation is left out: a broken file can keep it busy for minutes.
    """
    try:
        raw = json.loads(content.decode("utf-8-sig"))
        version, cells, about = raw["nbformat"], raw.get("cells", []), raw.get("metadata", {})
        language = about.get("kernelspec", {}).get("language") or about.get("language_info", {}).get("name", "python")
        if version == 4 and len(cells) <= MOST_CELLS:
            cells = [_cell(cell) for cell in cells]
    except RecursionError:
        raise CourseError("This is no notebook: it is nested too deeply.") from None
    except (AttributeError, KeyError, LookupError, TypeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise CourseError(f"This is no whole notebook ({type(error).__name__}: {reason}).") from None
    if version != 4:
        raise CourseError(
            f"This notebook has the format {str(version)[:20]}; grading reads 4. Open it in JupyterLab, save it, and "
            "hand it in again."
        )
    if len(cells) > MOST_CELLS:
        raise CourseError(f"It has {len(cells):,} cells; at most {MOST_CELLS:,} are read.")
    if language != "python":
        raise CourseError(f"This notebook is written for {str(language)[:40]!r}; the course runs Python.")
    return from_dict({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells})


def _cell(raw: dict) -> dict:
    """Return of a cell what grading uses; raise ``ValueError`` where that is something else than it should be."""
    kind, source, ours = raw["cell_type"], raw["source"], raw["metadata"].get("nbgrader", {})
    text = source if isinstance(source, str) else "".join(source)
    if kind not in ("code", "markdown", "raw") or not isinstance(ours.get("grade_id", ""), str):
        raise ValueError("a cell of an unknown type, or a grade_id that is no text")
    flags = {name: ours[name] for name in FLAGS if isinstance(ours.get(name), bool | int | float | str)}
    kept = {"cell_type": kind, "source": text, "metadata": {"nbgrader": flags} if flags else {}}
    if kind == "code":
        kept |= {"outputs": [], "execution_count": None}
    return kept | ({"id": raw["id"]} if isinstance(raw.get("id"), str) else {})


def cells_to_run(work: NotebookNode, solution: NotebookNode) -> tuple[list[str], list[str]]:
    """Return the code to run, and notes on what was changed.

    Locked cells come from the solution, check cells are left out (points come from elsewhere), all other
    code is the student's. Raises ``CourseError`` if the notebook belongs to another lesson.
    """
    ours = {cell.metadata.nbgrader.grade_id: cell for cell in solution.cells if "nbgrader" in cell.metadata}
    counts = Counter(grade_id_of(cell) for cell in work.cells)
    if not any(name in counts for name in ours):
        raise CourseError("It holds none of the lesson's cells: it seems to belong to another lesson.")
    locked = {name: cell.source for name, cell in ours.items() if _flag(cell, "locked") and not _flag(cell, "grade")}
    run = [source for name, source in locked.items() if name not in counts]
    placed = set()
    for cell in work.cells:
        name = grade_id_of(cell)
        if name in locked:
            run += [locked[name]] if name not in placed else []
            placed.add(name)
        elif cell.cell_type == "code" and not (name in ours and _flag(ours[name], "grade")):
            run.append(cell.source)
    return run, list(_changes(work, ours, counts))


def _changes(work: NotebookNode, ours: dict[str, NotebookNode], counts: Counter) -> Iterator[str]:
    """Say what is not as it was handed out. None of it moves a point."""
    for name in ours:
        if not counts[name]:
            yield f"The cell {name} is missing."
        elif counts[name] > 1:
            yield f"The cell {name} stands {counts[name]} times."
    for cell in work.cells:
        mine = ours.get(grade_id_of(cell))
        if mine is None:
            continue
        flags = ("grade", "solution", "locked", "points")
        if cell.cell_type != mine.cell_type or any(_flag(cell, flag) != _flag(mine, flag) for flag in flags):
            yield f"The cell {grade_id_of(cell)} was tagged anew."
        elif _flag(mine, "locked") and cell.source.strip() != mine.source.strip():
            yield f"The cell {grade_id_of(cell)} was changed; grading uses the original."


def _flag(cell: NotebookNode, name: str) -> object:
    return cell.metadata.nbgrader.get(name)
