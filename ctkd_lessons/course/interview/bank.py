"""The question bank: one YAML file per topic, read into plain data.

Reading is quick and imports nothing heavy; ``schema.json`` beside the files says what a file may hold,
and the tests hold every file against it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ctkd_lessons.course.lessons import CourseError

FOLDER = Path(__file__).parent / "bank"
LANGUAGES = ("en", "zh")
LEVELS = (1, 2, 3)
KINDS = ("concept", "derivation", "comparison", "debugging", "design", "coding", "paper")


class BankError(CourseError):
    """A bank file that cannot be used; the message names file, question and field."""


@dataclass(frozen=True)
class Wrong:
    """A common wrong answer, and why it is wrong."""

    says: str
    why: str


@dataclass(frozen=True)
class Text:
    """A question in one language; ``points``: what a good answer makes, each markable on its own."""

    question: str
    points: tuple[str, ...]
    answer: str
    wrong: tuple[Wrong, ...]
    follow_ups: tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """A question in both languages.

    ``id``: never changes; ``topic``: name of its file; ``lesson``, ``section``: number of the lesson and id of
    the cell that teaches it; ``in_lesson``: whether the lesson's own list shows it; ``papers``: keys of
    papers.yaml; ``claims``: "01: text of a claim of lesson 01"; ``articles``: "000 §1", the article's part that
    asks it; ``exercise``, ``mistakes``: of a coding question, what checks it, and wrong answers by name;
    ``figure``: file in ``figures/``, of a debugging question.
    """

    id: str
    topic: str
    level: int
    kind: str
    lesson: str
    section: str
    text: Mapping[str, Text]
    in_lesson: bool = False
    papers: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()
    articles: tuple[str, ...] = ()
    exercise: str = ""
    mistakes: tuple[str, ...] = ()
    figure: str = ""


@cache
def topics() -> dict[str, dict[str, str]]:
    """Return the topics in their order: file name without ending → title by language."""
    return _read("topics")


@cache
def questions(topic: str | None = None) -> tuple[Question, ...]:
    """Return the questions of a topic, or of all; raise ``BankError`` for an unknown topic or a bad file."""
    if topic is None:
        return tuple(question for name in topics() for question in questions(name))
    if topic not in topics():
        raise BankError(f"There is no topic {topic!r}. There are: {', '.join(topics())}.")
    return tuple(_question(topic, entry) for entry in _read(topic))


def find(question_id: str) -> Question:
    """Return the question with an id; raise ``BankError`` if there is none."""
    for question in questions():
        if question.id == question_id:
            return question
    raise BankError(f"There is no question {question_id!r} in the bank.")


@cache
def papers() -> dict[str, dict[str, Any]]:
    """Return the papers: key → authors, year, title, venue."""
    return _read("papers")


@cache
def glossary() -> list[dict[str, str]]:
    """Return the terms that both languages use: en, zh, and what it means in each."""
    return _read("glossary")


@cache
def articles() -> dict[str, dict[str, Any]]:
    """Return the source articles: number → title and parts, each part with the ids of its questions."""
    return _read("articles")


def schema() -> dict[str, Any]:
    """Return the JSON schema of the bank's files: one definition per kind of file."""
    return json.loads((FOLDER / "schema.json").read_text(encoding="utf-8"))


def _read(name: str) -> Any:
    path = FOLDER / f"{name}.yaml"
    try:
        # The C loader is ten times as fast: the first card is there at once.
        return yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BankError(f"{path.name} cannot be read: {error}") from None


def _question(topic: str, entry: Any) -> Question:
    where = f"{topic}.yaml, question {entry.get('id', '?') if isinstance(entry, dict) else entry!r}"
    try:
        lesson, _, section = entry["lesson"].partition("#")
        lists = {name: tuple(entry.get(name, ())) for name in ("papers", "claims", "articles", "mistakes")}
        rest = {name: entry[name] for name in ("in_lesson", "exercise", "figure") if name in entry}
        text = {language: _text(entry[language]) for language in LANGUAGES}
        return Question(entry["id"], topic, entry["level"], entry["kind"], lesson, section, text, **lists, **rest)
    except KeyError as error:
        raise BankError(f"{where}: the field {error} is missing.") from None
    except (TypeError, AttributeError) as error:
        raise BankError(f"{where}: a field has the wrong form ({error}).") from None


def _text(entry: Mapping[str, Any]) -> Text:
    wrong = tuple(Wrong(one["says"], one["why"]) for one in entry["wrong"])
    points: Sequence[str] = entry["points"]
    return Text(entry["question"], tuple(points), entry["answer"], wrong, tuple(entry["follow_ups"]))
