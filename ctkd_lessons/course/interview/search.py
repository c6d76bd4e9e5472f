"""Finding questions by topic, level, kind and words."""

from collections.abc import Sequence

from ctkd_lessons.course.interview import bank
from ctkd_lessons.course.interview.bank import KINDS, LEVELS, Question
from ctkd_lessons.course.lessons import CourseError


def matching(
    questions: Sequence[Question],
    text: str = "",
    topic: str | None = None,
    level: int | None = None,
    kind: str | None = None,
) -> list[Question]:
    """Return the questions that fit all that is given; ``text``: words that must all occur, in either language."""
    for name, value, known in (("topic", topic, bank.topics()), ("level", level, LEVELS), ("kind", kind, KINDS)):
        if value is not None and value not in known:
            raise CourseError(f"There is no {name} {value!r}. There are: {', '.join(map(str, known))}.")
    words = text.casefold().split()
    return [
        one
        for one in questions
        if topic in (None, one.topic)
        and level in (None, one.level)
        and kind in (None, one.kind)
        and all(word in everything(one) for word in words)
    ]


def everything(question: Question) -> str:
    """Return a question's words in both languages, in small letters: what a search looks through."""
    parts = [question.id, question.kind, question.exercise, *bank.topics().get(question.topic, {}).values()]
    for text in question.text.values():
        wrong = (part for one in text.wrong for part in (one.says, one.why))
        parts += [text.question, *text.points, text.answer, *wrong, *text.follow_ups]
    return "\n".join(parts).casefold()
