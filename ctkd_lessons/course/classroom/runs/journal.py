"""What a run has found so far, one line of JSON per event, so that a killed run goes on where it was.

The kinds of line: "run" (a run begins), "result" (a submission ended), "written" (its marks are in the
gradebook too), "no gradebook" (no marks are there any more), "finished" (the run came to its end). A
student's last result counts. A line is added with one call of the system; what a killed run wrote of its
last line is cut off before the next one.
"""

import errno
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ctkd_lessons.course.classroom.results import Result
from ctkd_lessons.course.lessons import CourseError

FORMAT = 1


@dataclass(frozen=True)
class Run:
    """One call of the grader.

    ``lesson``: "01_soft_targets"; ``seed``: what the inputs are drawn from, and the name of the run;
    ``again``: whether earlier results were put aside; ``students``: the only ones graded, none for
    all; ``rules``: a digest of what was graded by; ``versions``, ``submissions``, ``began``: for the reader.
    """

    lesson: str
    seed: int
    again: bool
    students: tuple[str, ...]
    rules: str
    versions: Mapping[str, str]
    submissions: int
    began: str


@dataclass(frozen=True)
class Entry:
    """A student's last result; ``task``: a digest of what was handed in; ``rules``: as in ``Run``."""

    result: Result
    task: str
    rules: str
    written: bool = False


class Journal:
    """The journal in the file ``path``; reading creates nothing.

    ``entries``: the last result of each student; ``unfinished``: a run over the whole class that did not
    come to its end, or ``None``. Raises ``CourseError`` if the file is damaged elsewhere than at its end.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[str, Entry] = {}
        self.unfinished: Run | None = None
        self._rules = ""
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            content = b""
        except OSError as error:
            raise CourseError(f"{path} cannot be read: {error.strerror}.") from None
        *lines, torn = content.split(b"\n")
        self._size = len(content) - len(torn)
        for number, line in enumerate(lines, 1):
            try:
                self._take(json.loads(line))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise self._damaged(number, error) from None

    def begin(self, run: Run) -> None:
        """Note that a run begins."""
        self._add("run", asdict(run))

    def keep(self, result: Result, task: str) -> None:
        """Keep a result; ``task``: a digest of what was handed in."""
        self._add("result", {"result": result.as_record(), "task": task})

    def wrote(self, student: str) -> None:
        """Note that a student's marks are in the gradebook."""
        self._add("written", {"student": student})

    def lose_gradebook(self) -> None:
        """Note that the gradebook is gone: all marks must be written once more."""
        self._add("no gradebook", {})

    def finish(self, seed: int) -> None:
        """Note that the run with this seed came to its end."""
        self._add("finished", {"seed": seed})

    def _take(self, record: dict[str, Any]) -> None:
        if record["format"] != FORMAT:
            raise ValueError(f"expected format {FORMAT}, got {record['format']!r}")
        if record["kind"] == "run":
            run = Run(**{**record["run"], "students": tuple(record["run"]["students"])})
            self._rules = run.rules
            self.unfinished = self.unfinished if run.students else run
        elif record["kind"] == "result":
            result = Result.from_record(record["result"])
            self.entries[result.student] = Entry(result, record["task"], self._rules)
        elif record["kind"] == "written":
            self.entries[record["student"]] = replace(self.entries[record["student"]], written=True)
        elif record["kind"] == "no gradebook":
            self.entries = {student: replace(entry, written=False) for student, entry in self.entries.items()}
        elif record["kind"] == "finished":
            self.unfinished = None if self.unfinished and self.unfinished.seed == record["seed"] else self.unfinished
        else:
            raise ValueError(f"there is no kind {record['kind']!r}")

    def _add(self, kind: str, about: dict[str, Any]) -> None:
        record = {"format": FORMAT, "kind": kind, **({"run": about} if kind == "run" else about)}
        line = json.dumps(record).encode() + b"\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.ftruncate(handle, self._size)
            if os.write(handle, line) < len(line):  # the disk took a part of it; the next line cuts that off
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            os.fsync(handle)
        finally:
            os.close(handle)
        self._size += len(line)
        self._take(record)

    def _damaged(self, number: int, error: Exception) -> CourseError:
        return CourseError(
            f"Line {number} of {self.path} is damaged ({type(error).__name__}: {error}). Nothing was changed. Put the "
            "file back from a copy; or rename it and grade again: the gradebook keeps its marks until then."
        )
