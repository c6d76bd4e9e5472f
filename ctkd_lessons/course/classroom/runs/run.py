"""Grade a class: what is left to do, side by side, each result into journal and gradebook as it comes."""

import errno
import platform
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock, Timeout
from nbformat import NotebookNode

from ctkd_lessons import __version__
from ctkd_lessons.course.classroom import files, submission
from ctkd_lessons.course.classroom.reporting.table import as_csv
from ctkd_lessons.course.classroom.results import Result
from ctkd_lessons.course.classroom.runs.console import sum_up, watched
from ctkd_lessons.course.classroom.runs.handed_in import Class, fingerprint, rules_of, shown
from ctkd_lessons.course.classroom.runs.journal import Entry, Journal, Run
from ctkd_lessons.course.classroom.runs.parts import Parts, opened_workers, the_parts
from ctkd_lessons.course.classroom.runs.pool import completed
from ctkd_lessons.course.classroom.submission import Task
from ctkd_lessons.course.lessons import CourseError

_ADVICE = {
    errno.ENOSPC: "Make room on the disk. ",
    errno.EDQUOT: "Make room on the disk. ",
    errno.EROFS: "Use a folder that can be written into. ",
    errno.EACCES: "Use a folder that you may write into. ",
}


def grade_class(
    of: Class, jobs: int | None = None, dask: str = "", again: bool = False, parts: Parts | None = None
) -> None:
    """Grade what is not graded yet; write the marks, the table and the report.

    ``again``: grade also what is graded; ``jobs``: how many at once; ``dask``: the address of a cluster.
    Raises ``CourseError`` where it cannot go on; the same call then takes up where this one stopped.
    """
    parts = parts or the_parts()
    everyone = of.tasks()
    tasks = of.chosen(everyone)
    with _lock(of.gradebook), opened_workers(parts, of, jobs, dask) as workers:
        journal = Journal(of.journal)
        writing = _Writing(of, journal, parts)
        with _kept(journal):
            writing.prepare()
            run = _run(of, journal, again, len(tasks))
            todo = [replace(task, seed=run.seed) for task in tasks if not _is_done(task, run, journal)]
            _announce(tasks, todo, run, journal)
            journal.begin(run)
            writing.catch_up(everyone)
            for task, result in watched(completed(todo, parts.grade, workers), len(todo)):
                journal.keep(result, fingerprint(task))
                writing.mark(result, task)
            results = writing.publish()
            journal.finish(run.seed)
    sum_up(of, results, writing.missing)


class _Writing:
    """Puts marks into the gradebook; ``missing``: whose could not be put there, and why."""

    def __init__(self, of: Class, journal: Journal, parts: Parts) -> None:
        self.of, self.journal, self.parts = of, journal, parts
        self.missing: list[str] = []

    def prepare(self) -> None:
        """Make the gradebook ready. In a new one, no marks are written."""
        if self.journal.entries and not (self.of.gradebook.exists() and self.of.gradebook.stat().st_size):
            self.journal.lose_gradebook()
        self.parts.prepare(self.of.gradebook, self.of.lesson)

    def catch_up(self, everyone: Sequence[Task]) -> None:
        """Write what an earlier run found and did not come to write."""
        tasks = {task.student: task for task in everyone}
        for student, entry in list(self.journal.entries.items()):
            task = tasks.get(student)
            if not entry.written and (task is None or _is_unchanged(task, entry)):
                self.mark(entry.result, task)

    def mark(self, result: Result, task: Task | None) -> None:
        """Write one result. A notebook that cannot be shown must not cost its student the marks."""
        notebook = _notebook(task)
        for content in [None] if notebook is None else [notebook, None]:
            try:
                self.parts.write(self.of.gradebook, self.of.lesson, result, content)
            except (CourseError, OSError):
                raise
            except Exception as error:  # noqa: BLE001 -- no submission may end the run
                problem = f"{shown(result.student)} ({type(error).__name__}: {shown(str(error))})"
            else:
                self.journal.wrote(result.student)
                return
        self.missing.append(problem)

    def publish(self) -> list[Result]:
        """Write table and report, and return the results in them."""
        results = [entry.result for entry in self.journal.entries.values()]
        files.replace(self.of.folder / "grades.csv", as_csv(results).encode())
        files.replace(self.of.folder / "report.html", self.parts.page(self.of.lesson, results).encode())
        return results


def _notebook(task: Task | None) -> NotebookNode | None:
    try:
        return None if task is None or task.problem else submission.notebook(task.content)
    except CourseError:
        return None


@contextmanager
def _lock(gradebook: Path) -> Iterator[None]:
    """Let one grader at a time at a gradebook. The system takes the lock from a grader that was killed."""
    if not gradebook.parent.is_dir():
        raise CourseError(f"There is no folder {gradebook.parent} for the gradebook.")
    lock = FileLock(f"{gradebook}.lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise CourseError(f"Another grader is at work on {gradebook}. Wait until it has ended.") from None
    except OSError as error:
        advice = _ADVICE.get(error.errno, "")
        raise CourseError(f"{gradebook.parent}: {error.strerror}. {advice}Nothing was run.") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _kept(journal: Journal) -> Iterator[None]:
    """Say what is kept when a run cannot go on."""
    try:
        yield
    except KeyboardInterrupt:
        what = "Stopped. "
    except OSError as error:
        what = f"It cannot go on: {error}. {_ADVICE.get(error.errno, '')}"
    except CourseError as error:
        what = f"{error} "
    else:
        return
    count = len(journal.entries)
    kept = f"{count} results are kept in {journal.path}. The same command goes on from there." if count else ""
    raise CourseError(f"{what}{kept}".strip())


def _run(of: Class, journal: Journal, again: bool, submissions: int) -> Run:
    """Return the run that was not finished, or a new one with a seed of its own."""
    before, rules = journal.unfinished, rules_of(of.lesson.name, of.private)
    goes_on = before and not of.students and before.rules == rules and (before.again or not again)
    seed = before.seed if goes_on else secrets.randbits(32)
    versions = {"ctkd": __version__, "torch": version("torch"), "python": platform.python_version()}
    began = datetime.now(UTC).isoformat(timespec="seconds")
    return Run(of.lesson.name, seed, again or bool(of.students), of.students, rules, versions, submissions, began)


def _is_unchanged(task: Task, entry: Entry) -> bool:
    return entry.task == fingerprint(task)


def _is_done(task: Task, run: Run, journal: Journal) -> bool:
    """Whether a result stands that this run need not find again. The seed is the name of a run."""
    entry = journal.entries.get(task.student)
    return entry is not None and _is_unchanged(task, entry) and (not run.again or entry.result.seed == run.seed)


def _announce(tasks: Sequence[Task], todo: Sequence[Task], run: Run, journal: Journal) -> None:
    seed = f"; inputs drawn from seed {run.seed}" if todo else ""
    print(f"{run.lesson}: {len(tasks)} submissions, {len(todo)} to grade{seed}.")
    done = {task.student for task in tasks} - {task.student for task in todo}
    others = sum(journal.entries[student].rules != run.rules for student in done)
    if others:
        print(f"{others} were graded with other exercises, or another --private file. --again grades all anew.")
