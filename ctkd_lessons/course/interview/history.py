"""How practice went so far: by topic, by day, by mock interview."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from statistics import mean

from ctkd_lessons.course.interview.bank import Question
from ctkd_lessons.course.interview.memory import Memory
from ctkd_lessons.course.interview.mock import WEAK
from ctkd_lessons.course.interview.reviews import Review


@dataclass(frozen=True)
class Standing:
    """How a topic stands; ``score``: mean share of points made at each question's last answer, ``None`` before any."""

    topic: str
    total: int
    seen: int
    due: int
    score: float | None


def standings(questions: Sequence[Question], memory: Memory, now: datetime) -> list[Standing]:
    """Return how each topic of the questions stands, in their order."""
    last = {one.question_id: one for one in memory.reviews()}
    due = {one for one in memory.due([question.id for question in questions], now) if one in last}
    found = []
    for topic in dict.fromkeys(question.topic for question in questions):
        ids = [question.id for question in questions if question.topic == topic]
        seen = [one for one in ids if one in last]
        score = mean([_share(last[one]) for one in seen]) if seen else None
        found.append(Standing(topic, len(ids), len(seen), len(due & set(ids)), score))
    return found


def weak_topics(questions: Sequence[Question], memory: Memory, now: datetime) -> list[str]:
    """Return the topics that were answered, and not well: a mock interview asks more of them."""
    return [one.topic for one in standings(questions, memory, now) if one.score is not None and one.score < WEAK]


def by_day(reviews: Sequence[Review]) -> dict[date, int]:
    """Return how many answers each day saw, days in the learner's own time zone."""
    return dict(Counter(one.when.astimezone().date() for one in reviews))


def mocks(reviews: Sequence[Review]) -> list[tuple[str, int, float]]:
    """Return each mock interview: its id, how many questions were answered, the share of points made."""
    by_mock: dict[str, list[float]] = {}
    for review in reviews:
        if review.mock:
            by_mock.setdefault(review.mock, []).append(_share(review))
    return [(mock, len(shares), mean(shares)) for mock, shares in by_mock.items()]


def _share(review: Review) -> float:
    return sum(review.made) / len(review.made) if review.made else 0.0
