"""When a question is asked again: FSRS, the scheduler of ``fsrs``, with its defaults and without chance."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache

from fsrs import Card, Rating, Scheduler

RATINGS = {1: "again", 2: "hard", 3: "good", 4: "easy"}
TOLERANCE = timedelta(minutes=5)  # two machines' clocks differ a little; that is worth no message


@cache
def scheduler() -> Scheduler:
    """Return the scheduler; fuzzing would give the same reviews other intervals each time."""
    return Scheduler(enable_fuzzing=False)


def suggested_rating(made: Sequence[bool]) -> int:
    """Return the rating for the points made: all 3 (good), at least half 2 (hard), fewer 1 (again)."""
    if made and all(made):
        return 3
    return 2 if sum(made) * 2 >= len(made) > 0 else 1


def replay(reviews: Iterable[tuple[int, datetime]]) -> Card | None:
    """Return the card that (rating, when) of one question make, oldest first; ``None`` if there is none."""
    card = None
    for rating, when in reviews:
        # With its own id and time a new card does not look at the clock.
        card, _ = scheduler().review_card(card or Card(card_id=0, due=when), Rating(rating), when)
    return card


def utc(now: datetime) -> datetime:
    """Return a time in UTC; raise ``ValueError`` if it does not say its time zone."""
    if now.tzinfo is None:
        raise ValueError(f"now: expected a datetime with a time zone, such as datetime.now(UTC), got {now!r}")
    return now.astimezone(UTC)


def moment(now: datetime, last: datetime | None) -> datetime:
    """Return the time a review counts as made: now, but never at or before the question's last review.

    A clock that went backwards would otherwise plan a question into time that was lived already.
    """
    return now if last is None or now > last else last + timedelta(microseconds=1)


def clock_notice(now: datetime, last: datetime | None) -> str:
    """Return what to tell if the clock stands before the last review, "" if it does not."""
    if last is None or now >= last - TOLERANCE:
        return ""
    return (
        f"The clock of this computer says {now:%Y-%m-%d %H:%M} UTC, but you practised on {last:%Y-%m-%d %H:%M} UTC. "
        "Nothing is lost, and nothing is planned before that. Please set the clock right."
    )
