"""A lesson's submissions of a class, and where what comes of them lies."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ctkd_lessons.course.classroom import submission
from ctkd_lessons.course.classroom.names import visible
from ctkd_lessons.course.classroom.submission import Task
from ctkd_lessons.course.lessons import CourseError, Lesson, find


@dataclass(frozen=True)
class Class:
    """A lesson's submissions, and the gradebook beside which the results lie.

    ``students``: the only ones to grade, none for all; ``private``: the text of a module with exercises
    of the instructor's own; ``seconds``: how long a submission may run, ``None`` for the usual time.
    """

    lesson: Lesson
    submissions: Path
    gradebook: Path
    students: tuple[str, ...] = ()
    private: str = ""
    seconds: float | None = None

    @property
    def folder(self) -> Path:
        """Where journal, marks and report lie."""
        return self.gradebook.parent / "grading" / self.lesson.name

    @property
    def journal(self) -> Path:
        """What the runs found so far."""
        return self.folder / "results.jsonl"

    def tasks(self) -> list[Task]:
        """Return what was handed in, by everyone; raise ``CourseError`` if that is nothing."""
        limits = {} if self.seconds is None else {"seconds": self.seconds}
        found = submission.find(self.submissions, self.lesson)
        return [replace(task, private=self.private, **limits) for task in found]

    def chosen(self, tasks: Sequence[Task]) -> list[Task]:
        """Return the tasks of ``students``; raise ``CourseError`` if one of them handed in nothing."""
        unknown = sorted(set(self.students) - {task.student for task in tasks})
        if unknown:
            known = ", ".join(shown(task.student) for task in tasks[:10]) + (" …" if len(tasks) > 10 else "")
            raise CourseError(f"{shown(unknown[0])} has handed in nothing in {self.submissions}. There are: {known}.")
        return [task for task in tasks if not self.students or task.student in self.students]


def private_text(path: Path, lesson: Lesson) -> str:
    """Return the text of a module with exercises of the instructor's own; raise ``CourseError`` if it is none."""
    from ctkd_lessons.course.classroom.box.rooms import exercises_of

    try:
        text = path.read_text(encoding="utf-8")
        usual, all_of_them = exercises_of(lesson), exercises_of(lesson, text)
    except Exception as error:  # noqa: BLE001 -- a module may fail in any way
        raise CourseError(f"--private {path} cannot be used: {type(error).__name__}: {error}.") from None
    if usual == all_of_them:
        raise CourseError(f"--private {path}: its EXERCISES hold none of lesson {lesson.number}.")
    return text


def fingerprint(task: Task) -> str:
    """Return a digest of what was handed in: the notebook, the time, and what a first look at it said."""
    about = [task.digest, task.problem, task.notes, task.submitted]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def rules_of(name: str, private: str) -> str:
    """Return a digest of what a lesson is graded by: the descriptions, the solution, the private exercises."""
    lesson = find(name)
    sources = sorted((lesson.root / "ctkd_lessons" / "course" / "exercises").glob("*.py"))
    texts = [path.read_bytes() for path in [*sources, lesson.solution]]
    return hashlib.sha256(b"\0".join([*texts, private.encode()])).hexdigest()


def shown(text: str, longest: int = 200) -> str:
    """Return a student's text on one line, with nothing in it that would act on a terminal."""
    line = visible(" ".join(text.split()))
    return line if len(line) <= longest else f"{line[: longest - 1]}…"
