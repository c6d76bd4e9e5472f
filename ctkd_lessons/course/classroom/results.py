"""What grading a submission gives: plain data that travels between processes and into files."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Mark:
    """What one exercise earned.

    ``exercise``: "01.kd_loss"; ``verdict``: "passed", "wrong", "not attempted", or "stopped" where the
    answer was ended by a limit; ``headline``, ``details``: what the learner's own check would have said;
    ``mistakes``: names of the known mistakes the answer makes; ``right``, ``inputs``: on how many of the
    random inputs everything was right.
    """

    exercise: str
    title: str
    points: float
    out_of: float
    verdict: str
    headline: str
    details: tuple[str, ...] = ()
    mistakes: tuple[str, ...] = ()
    right: int = 0
    inputs: int = 0


@dataclass(frozen=True)
class Result:
    """How one submission ended.

    ``lesson``: "01_soft_targets"; ``state``: "graded" or "failed"; ``reason``: why it failed, in words,
    else ""; ``notes``: what the instructor should know; ``seed``: what the inputs were drawn from;
    ``digest``: SHA-256 of the notebook, "" where there is none; ``submitted``: an ISO time or "".
    A failed submission keeps the marks that stood before it failed; the others have no points.
    """

    student: str
    lesson: str
    state: str
    reason: str
    notes: tuple[str, ...]
    marks: tuple[Mark, ...]
    seed: int
    digest: str
    seconds: float
    submitted: str = ""

    @property
    def points(self) -> float:
        """The sum over the exercises."""
        return sum(mark.points for mark in self.marks)

    @property
    def out_of(self) -> float:
        """The most there is to earn."""
        return sum(mark.out_of for mark in self.marks)

    def as_record(self) -> dict[str, Any]:
        """Return plain dicts, lists and numbers, for JSON."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Result":
        """Build a result from ``as_record``; raise ``TypeError`` or ``KeyError`` where something is missing."""
        tuples = ("details", "mistakes")
        marks = (
            Mark(**{name: tuple(v) if name in tuples else v for name, v in mark.items()}) for mark in record["marks"]
        )
        return cls(**{**record, "notes": tuple(record["notes"]), "marks": tuple(marks)})
