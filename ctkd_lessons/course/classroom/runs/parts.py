"""What a run is put together from."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ctkd_lessons.course.classroom.results import Result
from ctkd_lessons.course.classroom.runs.handed_in import Class, rules_of
from ctkd_lessons.course.classroom.runs.pool import Cluster, Grade, Processes, Workers
from ctkd_lessons.course.lessons import CourseError, Lesson

if TYPE_CHECKING:
    from nbformat import NotebookNode


@dataclass(frozen=True)
class Parts:
    """Functions of the other modules: see there. Tests put others in their place."""

    grade: Grade
    ready: Callable[[], str]
    prepare: Callable[[Path, Lesson], None]
    write: Callable[[Path, Lesson, Result, "NotebookNode | None"], None]
    page: Callable[[Lesson, Sequence[Result]], str]


def the_parts() -> Parts:
    """Return the real ones; raise ``CourseError`` if nbgrader is not installed."""
    try:
        from ctkd_lessons.course.classroom.nbgrading import gradebook
    except ModuleNotFoundError as error:
        raise CourseError(f'{error.name} is missing: pip install -e ".[classroom]" -c constraints.txt') from None
    from ctkd_lessons.course.classroom import grade
    from ctkd_lessons.course.classroom.box import sandbox
    from ctkd_lessons.course.classroom.reporting import report

    return Parts(grade.grade, sandbox.ready, gradebook.prepare, gradebook.write, report.page)


@contextmanager
def opened_workers(parts: Parts, of: Class, jobs: int | None, dask: str) -> Iterator[Workers]:
    """Open the workers: ``jobs`` processes, or the Dask cluster at an address.

    Nothing is run where there is no sandbox: raises ``CourseError``.
    """
    if not dask:
        if problem := parts.ready():
            raise CourseError(problem)
        with Processes(jobs or os.cpu_count() or 1) as processes:
            yield processes
        return
    with Cluster(dask, jobs) as cluster:
        mine = rules_of(of.lesson.name, of.private)
        for address, answer in cluster.on_each(_of_worker, parts.ready, of.lesson.name, of.private).items():
            if problem := _problem(answer, mine):
                raise CourseError(f"The worker {address} cannot grade: {problem}")
        yield cluster


def _of_worker(ready: Callable[[], str], name: str, private: str) -> tuple[str, str]:
    return ready(), rules_of(name, private)


def _problem(answer: tuple[str, str] | Exception, mine: str) -> str:
    install = "Install this version of the course there, too."
    if isinstance(answer, Exception):
        return f"{type(answer).__name__}: {answer}. {install}"
    return answer[0] or ("" if answer[1] == mine else f"its exercises are not the same as here. {install}")
