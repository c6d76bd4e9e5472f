"""What a class made of a lesson: its mistakes, its exercises, its points."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ctkd_lessons.course import exercises
from ctkd_lessons.course.classroom.reporting.table import exercises_of
from ctkd_lessons.course.classroom.results import Mark, Result
from ctkd_lessons.course.exercises.description import Mistake

# What became of an exercise in one submission: the style's name for it → the words.
KINDS = {
    "passed": "passed",
    "known": "with a known mistake",
    "other": "wrong in another way",
    "untried": "not attempted",
    "stopped": "stopped by a limit",
    "failed": "in a failed submission",
}
_KIND_OF = {"passed": "passed", "not attempted": "untried", "stopped": "stopped"}
_ATTEMPTED = ("passed", "known", "other", "stopped")
MOST_BARS = 20


@dataclass(frozen=True)
class Common:
    """A mistake in an exercise, who makes it, and how many attempted the exercise."""

    exercise: str
    title: str
    mistake: Mistake
    by: tuple[Result, ...]
    attempted: int

    @property
    def share(self) -> float:
        """Which part of those who attempted the exercise, in per cent."""
        return 100 * len(self.by) / self.attempted


@dataclass(frozen=True)
class Standing:
    """How the class stands in an exercise; ``mean``: of the graded, ``None`` where nobody is."""

    exercise: str
    title: str
    out_of: float
    mean: float | None
    counts: dict[str, int]  # one of KINDS → submissions
    others: tuple[tuple[Result, Mark], ...]  # wrong in another way

    @property
    def segments(self) -> Iterator[tuple[str, int, float, float]]:
        """The parts of a bar: kind, how many, where it begins and how long it is, in per cent."""
        begin, total = 0.0, sum(self.counts.values())
        for kind, count in self.counts.items():
            yield kind, count, begin, 100 * count / total
            begin += 100 * count / total


@dataclass(frozen=True)
class Bar:
    """A bar of the histogram: from which number of points to below which."""

    begin: float
    end: float
    count: int
    height: float  # in per cent of the tallest
    middle: bool  # whether the median lies in it


def common_mistakes(results: Sequence[Result]) -> list[Common]:
    """Return every mistake made in the class, the commonest first."""
    by: dict[tuple[str, str], list[Result]] = {}
    titles, attempted = {}, Counter()
    for result, mark in ((one, mark) for one in results for mark in one.marks):
        if _kind(result, mark) in _ATTEMPTED:
            titles[mark.exercise] = mark.title
            attempted[mark.exercise] += 1
            for name in dict.fromkeys(mark.mistakes):
                by.setdefault((mark.exercise, name), []).append(result)
    found = [
        Common(exercise, titles[exercise], _mistake(exercise, name), tuple(students), attempted[exercise])
        for (exercise, name), students in by.items()
    ]
    order = exercises_of(results)
    return sorted(found, key=lambda one: (-len(one.by), order.index(one.exercise), one.mistake.name))


def standings(results: Sequence[Result]) -> list[Standing]:
    """Return how the class stands in each exercise."""
    return [_standing(exercise, results) for exercise in exercises_of(results)]


def histogram(points: Sequence[float], out_of: float) -> list[Bar]:
    """Count points in at most ``MOST_BARS`` + 1 bars of whole points; all the points there are have their own."""
    width = max(1, math.ceil(out_of / MOST_BARS))
    places = Counter(_place(one, width) for one in points)
    middle = _place(float(np.median(points)), width) if points else None
    tallest, last = max(places.values(), default=0), _place(out_of, width)
    return [
        Bar(place * width, (place + 1) * width, places[place], 100 * places[place] / tallest, place == middle)
        for place in range(last + 1 if points else 0)
    ]


def by_exercise(result: Result) -> dict[str, Mark]:
    """Return a submission's marks by the exercise's id."""
    return {mark.exercise: mark for mark in result.marks}


def _place(points: float, width: int) -> int:
    return int(round(points, 6) // width)  # 0.6 + 0.3 + 0.1 is a little less than 1


def _kind(result: Result, mark: Mark | None) -> str:
    """Return which of KINDS a mark is; in a failed submission, nobody knows what was not attempted."""
    if mark is None or (result.state == "failed" and mark.verdict == "not attempted"):
        return "failed" if result.state == "failed" else "untried"
    return _KIND_OF.get(mark.verdict) or ("known" if mark.mistakes else "other")


def _standing(exercise: str, results: Sequence[Result]) -> Standing:
    pairs = [(result, by_exercise(result).get(exercise)) for result in results]
    known = [(result, mark) for result, mark in pairs if mark]
    graded = [mark.points for result, mark in known if result.state == "graded"]
    counts = Counter(_kind(result, mark) for result, mark in pairs)
    return Standing(
        exercise,
        title=known[0][1].title,
        out_of=max(mark.out_of for _, mark in known),
        mean=sum(graded) / len(graded) if graded else None,
        counts={kind: counts[kind] for kind in KINDS if counts[kind]},
        others=tuple((result, mark) for result, mark in known if _kind(result, mark) == "other"),
    )


def _mistake(exercise: str, name: str) -> Mistake:
    """Look a mistake up; a private exercise's is known by its name only."""
    try:
        known = {mistake.name: mistake for mistake in exercises.find(exercise).mistakes}
    except ValueError:
        known = {}
    return known.get(name, Mistake(name, "", ""))
