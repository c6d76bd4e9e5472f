"""A grader that only pretends, to test what surrounds it. As a program: ``fake_grading.py FOLDER``."""

import json
import os
import shutil
import signal
import sqlite3
import sys
import time
from concurrent.futures import BrokenExecutor, Future
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from ctkd_lessons.course.classroom.results import Mark, Result
from ctkd_lessons.course.classroom.runs.handed_in import Class
from ctkd_lessons.course.classroom.runs.parts import Parts
from ctkd_lessons.course.lessons import CourseError, find

LESSON = find("01")
EXERCISES = ("soften", "kd_loss", "kd_gradient_limit", "correct_bias", "balanced_offset", "distil")


def hand_in(folder, **words):
    """Write a notebook for each student that tells the fake what to do with it."""
    for student, word in words.items():
        file = folder / "submitted" / student / LESSON.name / f"{LESSON.name}.ipynb"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"cells": [], "metadata": {"word": word}, "nbformat": 4, "nbformat_minor": 5}))


def class_of(folder, **options):
    return Class(LESSON, folder / "submitted", folder / "gradebook.db", **options)


def grade(task):
    word = "failed" if task.problem else json.loads(task.content)["metadata"]["word"]
    if word == "raises":
        raise RuntimeError("\x1b[2Jhere is <b>why</b>")
    if word == "kills" or (word.startswith("kills once ") and not _was_here(Path(word[11:]))):
        kill()
    if word == "slow":
        time.sleep(60)
    right = {"right": 6, "half": 3, "chance": 1 + time.time_ns() % 5}.get(word, 0)
    verdicts = ["passed"] * right + ["wrong"] * (6 - right)
    marks = tuple(
        Mark(f"01.{name}", name, float(verdict == "passed"), 1.0, verdict, "Said.")
        for name, verdict in zip(EXERCISES, verdicts, strict=True)
    )
    state = "failed" if word == "failed" else "graded"
    about = (task.notes, marks, task.seed, task.digest, 0.1, task.submitted)
    return Result(task.student, task.lesson, state, task.problem, *about)


class Here:
    """Workers without processes: grades at once, and counts."""

    killed = BrokenExecutor
    width = 1
    graded: ClassVar[list] = []

    def submit(self, grade, task):
        future = Future()
        self.graded.append(task)
        try:
            future.set_result(grade(task))
        except RuntimeError as error:
            future.set_exception(error)
        return future


def _was_here(file):
    """Tell the second try from the first."""
    was = file.exists()
    file.touch()
    return was


def ready():
    return ""


def not_ready():
    return "install bubblewrap"


def sign(task):
    """Leave a file that says which process graded, and fail if another thread of it grades too."""
    mine = Path(task.private, f"pid {os.getpid()}")
    mine.touch(exist_ok=False)
    time.sleep(0.1)
    mine.rename(mine.with_name(f"{mine.name} {task.seed}"))
    return grade(replace(task, private=""))


def prepare(path, lesson):
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE IF NOT EXISTS marks (student TEXT PRIMARY KEY, points REAL)")


def write(path, lesson, result, notebook):
    try:
        with closing(sqlite3.connect(path)) as db, db:
            db.execute("INSERT OR REPLACE INTO marks VALUES (?, ?)", (result.student, result.points))
    except sqlite3.OperationalError as error:
        raise CourseError(f"The gradebook cannot be written: {error}.") from None


def page(lesson, results):
    return f"{len(results)} results"


FAKES = Parts(grade, ready, prepare, write, page)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def _after(count, function):
    """Return a function that kills the process the ``count``-th time it is called, before it does anything."""
    calls = iter(range(count - 1))

    def counted(*arguments):
        if next(calls, None) is None:
            kill()
        return function(*arguments)

    return counted


def _half_a_line(handle, line):
    if b'"result"' not in line:
        return os.write(handle, line)
    os.write(handle, line[: len(line) // 2])
    return kill()


def _not_the_report(source, target):
    if target.name == "report.html":
        kill()
    os.replace(source, target)


def killed_at(moment, parts):
    """Return parts with which the grader kills itself at a moment."""
    from ctkd_lessons.course.classroom import files
    from ctkd_lessons.course.classroom.runs import journal

    if moment == "before the first":
        return replace(parts, prepare=lambda *_: kill())
    if moment == "half a line":
        journal.os = type("os", (), {**vars(os), "write": staticmethod(_half_a_line)})
    if moment == "between journal and gradebook":
        return replace(parts, write=_after(2, parts.write))
    if moment == "in the gradebook":
        from sqlalchemy import event
        from sqlalchemy.orm import Session

        event.listen(Session, "before_commit", _after(2, lambda session: None))
    if moment == "report":
        return replace(parts, page=lambda *_: kill())
    if moment == "putting the report in place":
        files.os = type("os", (), {**vars(os), "replace": staticmethod(_not_the_report)})
    return parts


def main(folder):
    from ctkd_lessons.course.classroom.runs import run

    try:
        run.grade_class(class_of(Path(folder)), jobs=1, parts=FAKES)
    except CourseError as error:
        print(error, flush=True)
        return 2
    return 0


def main_killed(folder, *moments):
    """With the real gradebook: for each moment, be killed there, then grade again; say how each process ended."""
    from ctkd_lessons.course.classroom.nbgrading import gradebook
    from ctkd_lessons.course.classroom.runs import run

    gradebook.prepare(Path(folder, "gradebook.db"), LESSON)
    parts = replace(FAKES, prepare=lambda *_: None, write=gradebook.write)
    for moment in moments:
        shutil.copy(Path(folder, "gradebook.db"), Path(folder, moment))
        for now in (moment, ""):
            child = os.fork()  # the packages are loaded already
            if not child:
                os.setsid()
                if moment != moments[-1]:  # real processes once: they take a second to start
                    run.opened_workers = lambda *_: nullcontext(Here())
                run.grade_class(class_of(Path(folder, moment)), jobs=1, parts=killed_at(now, parts))
                os._exit(0)
            print(json.dumps([moment, now, child, os.waitpid(child, 0)[1]]), flush=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]) if "--killed" not in sys.argv else main_killed(sys.argv[2], *sys.argv[3:]))
