"""The bank as a package for Anki: one note per question, in a deck per topic.

Ids of decks, notes and their type follow from names that never change. A package imported again therefore
updates its notes; Anki keeps what it knows of their cards.
"""

from collections.abc import Iterable
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import genanki

from ctkd_lessons.course.interview import bank, present
from ctkd_lessons.course.interview.bank import Question
from ctkd_lessons.course.interview.markup import for_anki
from ctkd_lessons.course.lessons import CourseError

DECKS = {"en": "Cross-task distillation", "zh": "跨任务知识蒸馏"}
STYLE = """
.card { font-family: sans-serif; font-size: 18px; line-height: 1.5; text-align: left; max-width: 46em; margin: auto; }
.card pre { white-space: pre-wrap; } .card img { max-width: 100%; } .card table { border-collapse: collapse; }
.card th, .card td { border: 1px solid; padding: .2em .5em; }
"""


def deck(language: str, path: Path, questions: Iterable[Question] | None = None, timestamp: float | None = None) -> int:
    """Write a package of the questions, all if none are given; return how many notes it holds.

    ``timestamp``: seconds since 1970, now if not given; an import updates notes that are older than that.
    Raises ``CourseError`` for an unknown language, and if the file cannot be written.
    """
    if language not in DECKS:
        raise CourseError(f"There is no language {language!r}. There are: {', '.join(DECKS)}.")
    chosen = list(bank.questions() if questions is None else questions)
    whole = BytesIO()  # a package cut short never takes the place of a good one
    package(chosen, language).write_to_file(whole, timestamp)
    try:
        path.write_bytes(whole.getvalue())
    except OSError as error:
        raise CourseError(f"{path} cannot be written: {error.strerror}. Name a file in a folder of yours.") from None
    return len(chosen)


def package(questions: Iterable[Question], language: str) -> genanki.Package:
    """Return the package: a deck per topic, and the figures."""
    decks: dict[str, genanki.Deck] = {}
    figures = set()
    for question in questions:
        name = f"{DECKS[language]}::{bank.topics()[question.topic][language]}"
        of_topic = genanki.Deck(_number(f"deck {question.topic} {language}"), name)
        decks.setdefault(question.topic, of_topic).add_note(_note(question, language))
        if question.figure:
            figures.add(present.figure_path(question))
    return genanki.Package(list(decks.values()), [str(path) for path in sorted(figures)])


def _note(question: Question, language: str) -> genanki.Note:
    front = for_anki(present.question_markdown(question, language))
    # What the picture shows stands in the question.
    figure = f'<img src="{question.figure}" alt="">' if question.figure else ""
    tags = [question.topic, question.kind, f"level-{question.level}"]
    fields = [front, figure, for_anki(present.answer_markdown(question, language))]
    return genanki.Note(_MODEL, fields, guid=genanki.guid_for("ctkd", question.id, language), tags=tags)


def _number(name: str) -> int:
    """Return Anki's id for a name: always the same, between 2³⁰ and 2³¹."""
    return 2**30 + int.from_bytes(sha256(name.encode()).digest()[:4]) % 2**30


_MODEL = genanki.Model(
    _number("model 1"),
    "ctkd interview question",
    fields=[{"name": "Question"}, {"name": "Figure"}, {"name": "Answer"}],
    templates=[
        {
            "name": "Question",
            "qfmt": "{{Question}}{{Figure}}",
            "afmt": "{{FrontSide}}<hr id=answer>{{Answer}}",
        }
    ],
    css=STYLE,
)
