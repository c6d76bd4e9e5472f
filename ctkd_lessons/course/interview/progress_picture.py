"""Progress as a picture, with numbers only: its words stand beside it, in the learner's language."""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from io import BytesIO

from matplotlib.figure import Figure

from ctkd_lessons.course.interview.history import Standing

DAYS = 14
BLUE, PALE = "#0072b2", "#9ecae1"  # as in the lessons' figures; told apart in grey, too


def draw(standings: Sequence[Standing], by_day: Mapping[date, int], today: date) -> bytes:
    """Return a PNG: answers per day, and of each topic what was seen and, of that, what was known."""
    figure = Figure(figsize=(8, 2.8), layout="constrained", dpi=110)
    left, right = figure.subplots(1, 2)
    days = [today - timedelta(days=before) for before in reversed(range(DAYS))]
    left.bar(range(DAYS), [by_day.get(day, 0) for day in days], color=BLUE)
    left.set_xticks(range(0, DAYS, 3), [f"{day:%m-%d}" for day in days[::3]])
    left.yaxis.get_major_locator().set_params(integer=True)
    left.set_ylim(bottom=0, top=max(4, *(by_day.get(day, 0) for day in days)) * 1.05)
    seen = [one.seen / one.total for one in standings]
    known = [share * (one.score or 0) for share, one in zip(seen, standings, strict=True)]
    places = range(1, len(standings) + 1)
    right.bar(places, seen, color=PALE, edgecolor=BLUE, hatch="//", linewidth=0.5)
    right.bar(places, known, color=BLUE)
    right.set_xticks(places)
    right.set_ylim(0, 1.02)
    right.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    file = BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
