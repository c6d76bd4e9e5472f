"""Many submissions side by side: in processes of this machine, or on a Dask cluster."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Future, ProcessPoolExecutor, wait
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection
from typing import Any, Protocol

from ctkd_lessons.course.classroom.results import Mark, Result
from ctkd_lessons.course.classroom.submission import Task
from ctkd_lessons.course.lessons import CourseError, find

Grade = Callable[[Task], Result]
KILLED = "The process that graded it was killed, twice. Is there enough memory for this many at once (--jobs)?"
_ALONE = threading.Lock()


class Workers(Protocol):
    """What grades; ``width``: how many submissions it holds at once; ``killed``: what a worker's death raises."""

    width: int
    killed: type[Exception]

    def submit(self, grade: Grade, task: Task) -> Future[Result]:
        """Begin to grade a submission."""
        ...


def completed(tasks: Sequence[Task], grade: Grade, workers: Workers) -> Iterator[tuple[Task, Result]]:
    """Grade the tasks and yield each with its result as it ends.

    Whatever goes wrong with one becomes its result: "failed", with the reason. When a worker is killed, the
    submissions it may have held are tried once more at the end, one at a time.
    """
    lost = []
    for task, result in _side_by_side(tasks, grade, workers, workers.width):
        if result is None:
            lost.append(task)
        else:
            yield task, result
    for task in lost:
        for _, result in _side_by_side([task], grade, workers, 1):
            yield task, result or failed(task, KILLED)


def failed(task: Task, reason: str) -> Result:
    """Return the result of a submission that the grader itself could not cope with."""
    from ctkd_lessons.course.classroom.box.rooms import (
        exercises_of,  # loads torch, which the grader itself does not need
    )

    exercises = exercises_of(find(task.lesson), task.private)
    marks = tuple(Mark(one.id, one.title, 0.0, one.points, "stopped", "Not graded.") for one in exercises)
    about = (task.seed, task.digest, 0.0, task.submitted)
    return Result(task.student, task.lesson, "failed", reason, task.notes, marks, *about)


def _side_by_side(
    tasks: Sequence[Task], grade: Grade, workers: Workers, width: int
) -> Iterator[tuple[Task, Result | None]]:
    """Yield each task with its result, or with ``None`` where a worker was killed."""
    waiting, flight = deque(tasks), {}
    while waiting or flight:
        # Only a few at once: those in flight are all that a killed worker can have held.
        while waiting and len(flight) < width:
            task = waiting.popleft()
            flight[workers.submit(grade, task)] = task
        for future in wait(flight, return_when=FIRST_COMPLETED).done:
            task = flight.pop(future)
            yield task, _outcome(future, task, workers)


def _outcome(future: Future[Result], task: Task, workers: Workers) -> Result | None:
    try:
        return future.result()
    except workers.killed:
        return None
    except CancelledError:
        raise CourseError("The connection to the Dask cluster was lost.") from None
    except Exception as error:  # noqa: BLE001 -- no submission may end the run
        what = f"{type(error).__name__}: {error}"[:500]
        return failed(task, f"The grader broke down over it ({what}). Look at it yourself.")


def _alone(grade: Grade, task: Task) -> Result:
    """Grade in a worker. A Dask worker may have several threads, but torch has one source of chance per process."""
    with _ALONE:
        return grade(task)


class Processes(AbstractContextManager["Processes"]):
    """Processes of this machine. When one is killed, the others are replaced with it."""

    killed = BrokenExecutor

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self.width = jobs + 1  # the next one waits where no process has to wait for it
        self._open()

    def submit(self, grade: Grade, task: Task) -> Future[Result]:
        """Begin to grade a submission."""
        try:
            return self._pool.submit(_alone, grade, task)
        except BrokenExecutor:
            self.__exit__()
            self._open()
            return self._pool.submit(_alone, grade, task)

    def _open(self) -> None:
        # The processes live as long as this pipe is open: also a grader that is killed takes them with it.
        context = multiprocessing.get_context("spawn")
        self._reader, self._writer = context.Pipe(duplex=False)
        self._pool = ProcessPoolExecutor(self.jobs, context, _begin, (self._reader,))

    def __exit__(self, *_: object) -> None:
        self._writer.close()
        self._pool.shutdown(cancel_futures=True)
        self._reader.close()


def _begin(pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the grader alone answers
    threading.Thread(target=_end_with, args=(pipe,), daemon=True).start()


def _end_with(pipe: Connection) -> None:
    pipe.poll(None)  # nothing is ever sent: this returns when the other end is closed
    os._exit(1)


class Cluster(AbstractContextManager["Cluster"]):
    """The workers of a running Dask cluster.

    ``jobs``: how many submissions at once, ``None``: one per thread; ``patience``: how many seconds to wait
    for an answer, and again for a worker.
    """

    def __init__(self, address: str, jobs: int | None = None, patience: float = 20) -> None:
        try:
            from distributed import Client, KilledWorker
        except ModuleNotFoundError:
            raise CourseError('Dask is not installed: pip install -e ".[dask]" -c constraints.txt') from None
        try:
            self._client = Client(address, timeout=patience, set_as_default=False)
            self._client.wait_for_workers(1, timeout=patience)
        except (OSError, ValueError) as error:
            if hasattr(self, "_client"):
                self._client.close()
            raise CourseError(f"No Dask cluster with a worker answers at {address!r} ({error}).") from None
        self.killed = KilledWorker
        self.width = jobs or sum(self._client.nthreads().values())
        self._executor = self._client.get_executor(pure=False)

    def submit(self, grade: Grade, task: Task) -> Future[Result]:
        """Begin to grade a submission."""
        return self._executor.submit(_alone, grade, task)

    def on_each(self, function: Callable[..., Any], *arguments: object) -> dict[str, Any]:
        """Return what a function gives on each worker, by the worker's address; an exception is returned too."""
        return self._client.run(function, *arguments, on_error="return")

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(wait=False)
        self._client.close()
