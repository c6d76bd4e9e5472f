"""The class report: one HTML page for the ten minutes before class.

It opens without network, and nothing in it runs but the few lines that sort its table.
"""

import base64
import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from urllib.parse import quote

import jinja2
import numpy as np
from markupsafe import Markup

from ctkd_lessons.course import exercises
from ctkd_lessons.course.check import SIGNS, marked_up
from ctkd_lessons.course.classroom.results import Mark, Result
from ctkd_lessons.course.classroom.table import exercises_of, in_order, visible
from ctkd_lessons.course.exercises.description import Mistake
from ctkd_lessons.course.lessons import Lesson

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


def page(lesson: Lesson, results: Sequence[Result], when: datetime | None = None) -> str:
    """Return the report on a lesson's results as HTML, to be written as UTF-8.

    ``when``: the time that it shows, else now. Its links lead from ``grading/LESSON/`` to the notebooks
    in ``autograded/``.
    """
    results = in_order(results)
    points, out_of = [result.points for result in results if result.state == "graded"], _out_of(results)
    return _template().render(
        lesson=lesson,
        results=results,
        failed=_by_text([(result.reason, result) for result in results if result.state == "failed"]),
        noted=_by_text([(note, result) for result in results for note in result.notes]),
        points=points,
        quartiles=np.quantile(points, (0.25, 0.5, 0.75)).tolist() if points else [],
        out_of=out_of,
        when=f"{when or datetime.now():%Y-%m-%d %H:%M}",
        seeds=sorted({result.seed for result in results}),
        mistakes=common_mistakes(results),
        standings=standings(results),
        bars=histogram(points, out_of),
    )


def common_mistakes(results: Sequence[Result]) -> list[Common]:
    """Return every mistake made in the class, the commonest first."""
    by: dict[tuple[str, str], list[Result]] = {}
    titles, attempted = {}, Counter()
    for result, mark in _marks(results):
        titles[mark.exercise] = mark.title
        attempted[mark.exercise] += _kind(result, mark) in _ATTEMPTED
        for name in dict.fromkeys(mark.mistakes):
            by.setdefault((mark.exercise, name), []).append(result)
    found = [
        Common(exercise, titles[exercise], _mistake(exercise, name), tuple(students), attempted[exercise])
        for (exercise, name), students in sorted(by.items())
    ]
    return sorted(found, key=lambda one: -len(one.by))


def standings(results: Sequence[Result]) -> list[Standing]:
    """Return how the class stands in each exercise."""
    return [_standing(exercise, results) for exercise in exercises_of(results)]


def histogram(points: Sequence[float], out_of: float) -> list[Bar]:
    """Count points in at most ``MOST_BARS`` + 1 bars of whole points; all the points there are have their own."""
    width = max(1, math.ceil(out_of / MOST_BARS))
    places = Counter(_place(one, width) for one in points)
    middle = _place(float(np.median(points)), width) if points else None
    return [
        Bar(place * width, (place + 1) * width, places[place], 100 * places[place] / max(places.values()), place == middle)
        for place in range(_place(out_of, width) + 1 if points else 0)
    ]


def _place(points: float, width: int) -> int:
    return int(round(points, 6) // width)  # 0.1 + 0.2 + 0.7 is a whole point


def _out_of(results: Sequence[Result]) -> float:
    return max((result.out_of for result in results), default=0.0)


def _marks(results: Sequence[Result]) -> Iterator[tuple[Result, Mark]]:
    return ((result, mark) for result in results for mark in result.marks)


def _kind(result: Result, mark: Mark | None) -> str:
    """Return which of KINDS a mark is; in a failed submission, nobody knows what was not attempted."""
    if mark is None or (result.state == "failed" and mark.verdict == "not attempted"):
        return "failed" if result.state == "failed" else "untried"
    return _KIND_OF.get(mark.verdict) or ("known" if mark.mistakes else "other")


def _standing(exercise: str, results: Sequence[Result]) -> Standing:
    pairs = [(result, next((one for one in result.marks if one.exercise == exercise), None)) for result in results]
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


def _by_text(said: Sequence[tuple[str, Result]]) -> dict[str, list[Result]]:
    """Gather whom the same text is about, the commonest text last: a rare one deserves the first look."""
    by: dict[str, list[Result]] = {}
    for text, result in said:
        by.setdefault(text, []).append(result)
    return dict(sorted(by.items(), key=lambda one: len(one[1])))


@cache
def _template() -> jinja2.Template:
    # Whatever is printed passes through ``visible`` and is escaped, so that no line of the template can forget it.
    shown = lambda value: visible(value) if type(value) is str else value
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, finalize=shown, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "short": _short,
        "number": lambda value: f"{round(value, 2):g}",
        "in_url": lambda name: quote(name, safe="", errors="replace"),
        "marked_up": lambda text: Markup(marked_up(text)),
        "digest": lambda text: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode(),
    }
    environment.globals |= {"KINDS": KINDS, "SIGNS": SIGNS | {"stopped": "■"}, "kind": _kind}
    text = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    return environment.from_string(text)


def _short(text: str, longest: int) -> str:
    """Return a text on one line, cut where it is longer than ``longest`` characters."""
    line = " ".join(visible(text[: 10 * longest]).split()) or "(blank)"
    return line if len(line) <= longest else line[: longest - 1] + "…"
