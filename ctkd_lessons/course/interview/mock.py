"""The mock interview: which questions, how long for each, and the sheet at the end."""

import random
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from ctkd_lessons.course.interview.bank import LEVELS, Question
from ctkd_lessons.course.lessons import CourseError

# Minutes an interviewer gives a question of each kind, in the order of an interview: from light to heavy.
MINUTES = {"concept": 3, "comparison": 3, "paper": 4, "debugging": 5, "derivation": 6, "coding": 12, "design": 10}
# How often each role is asked each kind.
ROLES = {
    "research": {"concept": 2, "comparison": 2, "paper": 4, "debugging": 1, "derivation": 4, "coding": 1, "design": 1},
    "engineer": {"concept": 2, "comparison": 1, "paper": 1, "debugging": 4, "derivation": 1, "coding": 4, "design": 2},
    "applied": {"concept": 3, "comparison": 3, "paper": 1, "debugging": 2, "derivation": 1, "coding": 2, "design": 4},
}
CODING_FROM = 20  # minutes; from here on one question is a coding question
WEAK_TOPICS_MORE = 3  # how many times as likely a question of a weak topic is
STRONG, WEAK = 0.75, 0.5  # a topic's score from which it is strong, and below which it is weak


@dataclass(frozen=True)
class Answer:
    """An answer in a mock interview; ``made``: which points; ``passed``: whether a coding question's check did."""

    question: Question
    made: tuple[bool, ...]
    seconds: float = 0.0
    passed: bool | None = None

    @property
    def score(self) -> float:
        """The share of points made; of a coding question, its check counts as much as they do."""
        share = sum(self.made) / len(self.made) if self.made else 0.0
        return share if self.passed is None else (share + self.passed) / 2


@dataclass(frozen=True)
class Sheet:
    """How a mock interview went; scores from 0 to 1, ``lessons``: numbers of the lessons to read again."""

    score: float
    minutes: float
    by_topic: Mapping[str, float]
    by_kind: Mapping[str, float]
    strong: tuple[str, ...]
    weak: tuple[str, ...]
    lessons: tuple[str, ...]


def plan(
    questions: Sequence[Question], role: str, level: int, minutes: float, seed: int, weak: Collection[str] = ()
) -> list[Question]:
    """Return the questions of an interview, none above ``level``; ``weak``: topics to ask more of.

    The same ``seed`` gives the same interview.
    """
    _check_asked(role, level, minutes)
    chance, chosen = random.Random(seed), []
    rest = [one for one in questions if one.level <= level]
    if minutes >= CODING_FROM:
        chosen += _draw(chance, [one for one in rest if one.kind == "coding"], [], weak)
    while True:
        left = minutes - sum(MINUTES[one.kind] for one in chosen)
        rest = [one for one in rest if one not in chosen and MINUTES[one.kind] <= left]
        # The more time a kind has taken, the less likely it is: an interview mixes them.
        taken = {kind: sum(MINUTES[kind] for one in chosen if one.kind == kind) for kind in MINUTES}
        kinds = {one.kind: ROLES[role][one.kind] / (3 + taken[one.kind]) ** 2 for one in rest}
        if not kinds:
            return sorted(chosen, key=lambda one: list(MINUTES).index(one.kind))
        kind = chance.choices(list(kinds), list(kinds.values()))[0]
        chosen += _draw(chance, [one for one in rest if one.kind == kind], chosen, weak)


def summary(answers: Sequence[Answer]) -> Sheet:
    """Return how the interview went: scores by topic and kind, and which lessons teach what was weak."""
    by_topic = _means((one.question.topic, one.score) for one in answers)
    by_kind = _means((one.question.kind, one.score) for one in answers)
    weak = tuple(topic for topic, score in by_topic.items() if score < WEAK)
    return Sheet(
        score=mean([one.score for one in answers]) if answers else 0.0,
        minutes=sum(one.seconds for one in answers) / 60,
        by_topic=by_topic,
        by_kind=by_kind,
        strong=tuple(topic for topic, score in by_topic.items() if score >= STRONG),
        weak=weak,
        # Also a single weak answer in a topic that went well otherwise is worth a look.
        lessons=tuple(
            sorted({one.question.lesson for one in answers if one.score < WEAK or one.question.topic in weak})
        ),
    )


def _check_asked(role: str, level: int, minutes: float) -> None:
    if role not in ROLES:
        raise CourseError(f"There is no role {role!r}. There are: {', '.join(ROLES)}.")
    if level not in LEVELS:
        raise CourseError(f"There is no level {level!r}. There are: {', '.join(map(str, LEVELS))}.")
    shortest = min(MINUTES.values())
    if not minutes >= shortest:
        raise CourseError(f"An interview takes at least {shortest} minutes, the time of one question; not {minutes}.")


def _draw(
    chance: random.Random, questions: Sequence[Question], chosen: Sequence[Question], weak: Collection[str]
) -> list[Question]:
    """Draw a question, rather of a weak topic and of one not asked yet; an empty list if there is none."""
    asked = Counter(one.topic for one in chosen)
    weights = [(WEAK_TOPICS_MORE if one.topic in weak else 1) / (1 + asked[one.topic]) for one in questions]
    return chance.choices(questions, weights) if questions else []


def _means(scores: Iterable[tuple[str, float]]) -> dict[str, float]:
    by_name: dict[str, list[float]] = {}
    for name, score in scores:
        by_name.setdefault(name, []).append(score)
    return {name: mean(values) for name, values in by_name.items()}
