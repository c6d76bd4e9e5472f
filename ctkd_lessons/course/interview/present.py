"""A question and its answer as Markdown, for terminal, notebook, paper and Anki."""

import re
from datetime import datetime
from functools import cache
from pathlib import Path

from ctkd_lessons.course.interview import bank
from ctkd_lessons.course.interview.bank import BankError, Question
from ctkd_lessons.course.interview.formulas import as_text
from ctkd_lessons.course.interview.mock import Sheet
from ctkd_lessons.course.interview.phrases import say
from ctkd_lessons.course.lessons import ROOT


def question_markdown(question: Question, language: str) -> str:
    """Return the question, and above it topic, level and kind."""
    topic = bank.topics()[question.topic][language]
    level = say("level", language, level=question.level)
    return f"*{topic} · {level} · {say(question.kind, language)}*\n\n{question.text[language].question.strip()}\n"


def answer_markdown(question: Question, language: str) -> str:
    """Return the points, the model answer, wrong answers, follow-ups, what the course measured, and sources."""
    text = question.text[language]
    wrong = [f"*{one.says.strip()}* {one.why.strip()}" for one in text.wrong]
    sections = (
        ("points", "\n".join(f"{number}. {point.strip()}" for number, point in enumerate(text.points, 1))),
        ("answer", text.answer.strip()),
        ("wrong", _list(wrong)),
        ("follow_ups", _list(text.follow_ups)),
        ("measured", _list(claim_numbers(question))),
        ("papers", _list(_paper(key) for key in question.papers)),
        ("lesson", _list([lesson_link(question, language)])),
    )
    return "\n\n".join(f"**{say(name, language)}**\n\n{body}" for name, body in sections if body) + "\n"


def claim_numbers(question: Question) -> list[str]:
    """Return the question's claims, each with the number measured: "text: mean [low, high]"."""
    return [f"{_claim_text(claim)}: {_number(question, claim)}" for claim in question.claims]


def lesson_path(number: str) -> str:
    """Return the path of a lesson's notebook from its number; raise ``BankError`` if there is none."""
    found = sorted((ROOT / "notebooks").glob(f"{number}_*.ipynb"))
    if not found:
        raise BankError(f"There is no notebook of a lesson {number!r} in {ROOT / 'notebooks'}.")
    return f"notebooks/{found[0].name}"


def lesson_link(question: Question, language: str) -> str:
    """Return a Markdown link that works from a notebook beside the lesson, and opens it at the cell."""
    name = Path(lesson_path(question.lesson)).name
    cell = f"#cell-id={question.section}" if question.section else ""
    return f"[{say('lesson_at', language, name=name, cell=question.section)}]({name}{cell})"


def sheet_markdown(sheet: Sheet, language: str) -> str:
    """Return the sheet at the end of a mock interview; its links work from a notebook beside the lessons."""
    titles = {name: title[language] for name, title in bank.topics().items()}
    scores = {say("topic", language): {titles.get(name, name): score for name, score in sheet.by_topic.items()}}
    scores[say("kind", language)] = {say(name, language): score for name, score in sheet.by_kind.items()}
    lines = [f"**{say('sheet', language, score=round(100 * sheet.score), minutes=round(sheet.minutes))}**", ""]
    for head, rows in scores.items():
        lines += [f"- {head} · {name}: {round(100 * score)} %" for name, score in rows.items()]
    for head, names in (("strong", sheet.strong), ("weak", sheet.weak)):
        named = ", ".join(titles.get(name, name) for name in names)
        lines.append(f"- **{say(head, language)}:** {named or say('nothing', language)}")
    names = [Path(lesson_path(number)).name for number in sheet.lessons]
    lines += [f"- {say('read_again', language)}: [notebooks/{name}]({name})" for name in names]
    return "\n".join(lines) + "\n"


def figure_path(question: Question) -> Path | None:
    """Return where the question's figure lies, ``None`` if it has none."""
    return bank.FOLDER / "figures" / question.figure if question.figure else None


def local(when: datetime) -> str:
    """Return a time as the learner's clock shows it."""
    return f"{when.astimezone():%Y-%m-%d %H:%M}"


def plain(markdown: str) -> str:
    """Return Markdown for a terminal: no stars around words, of a link its words, formulas as text; code stays."""
    parts = re.split(r"(```.*?```|`[^`\n]+`|\$\$.*?\$\$|\$[^$\n]+\$)", markdown, flags=re.DOTALL)
    return "".join(_as_is(part) if place % 2 else _unstressed(part) for place, part in enumerate(parts))


def _as_is(part: str) -> str:
    return as_text(part.strip("$")) if part.startswith("$") else part


def _unstressed(text: str) -> str:
    text = re.sub(r"\[([^\]]+)\]\([^)\s]+\)", r"\1", text)
    return re.sub(r"(\*{1,2})(?=\S)([^*]+?)(?<=\S)\1", r"\2", text)


def _list(items: object) -> str:
    return "\n".join(f"- {item.strip()}" for item in items)


def _paper(key: str) -> str:
    paper = bank.papers().get(key)
    # A key that is missing is for the tests to find; a learner can do without.
    return f"{paper['authors']} ({paper['year']}). {paper['title']}." if paper else key


def _claim_text(claim: str) -> str:
    return claim.partition(":")[2].strip()


def _number(question: Question, claim: str) -> str:
    found = _measured().get((claim.partition(":")[0].strip(), _claim_text(claim)))
    if found is None:
        raise BankError(f"{question.topic}.yaml, question {question.id}: notebooks/claims.md has no claim {claim!r}.")
    return found


@cache
def _measured() -> dict[tuple[str, str], str]:
    """Return (lesson number, text of a claim) → what was measured, from the page of claims."""
    numbers, lesson = {}, ""
    for line in (ROOT / "notebooks" / "claims.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("## ["):
            lesson = line[4:6]
        elif line.startswith("| ") and not line.startswith(("| claim |", "| --- |")):
            # A claim may hold a "|" of its own (|P_s - P_t|): the four last columns are counted from the end.
            text, measured, *_ = line.strip("| ").rsplit(" | ", 4)
            numbers[lesson, text] = measured
    return numbers
