"""Asking and telling in a plain terminal, also one without UTF-8."""

import codecs
import io
import re
import sys
import unicodedata

from ctkd_lessons.course.interview.phrases import say
from ctkd_lessons.course.interview.schedule import RATINGS

SAMPLE = {"en": "T² α → · — ≥", "zh": "教师与学生：软目标"}
# What comes nearest in ASCII, where taking a letter apart (² → 2, é → e) gives none.
NEAREST = {"→": "->", "−": "-", "–": "-", "—": "-", "·": "*", "×": "x", "’": "'", "‘": "'", "“": '"', "”": '"'}
NEAREST |= {"≤": "<=", "≥": ">=", "≠": "!=", "≈": "~", "✔": "+", "✘": "x", "○": "o", "■": "#", "█": "#", "…": "..."}


class Stopped(Exception):
    """The learner wants to end, or there is no more input; everything answered is kept already."""


def prepare(language: str) -> str:
    """Let this terminal replace what it cannot show; return what to tell the learner about it, "" if nothing."""
    codecs.register_error("nearest", _nearest)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="nearest")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        SAMPLE[language].encode(encoding)
    except UnicodeEncodeError:
        return say("encoding", language, encoding=encoding)
    return ""


def ask(prompt: str) -> str:
    """Return what the learner types; raise ``Stopped`` at "q", Ctrl-C and Ctrl-D."""
    try:
        text = input(prompt).strip()
    except (EOFError, KeyboardInterrupt):
        print()
        raise Stopped from None
    if text.lower() in ("q", "ｑ"):
        raise Stopped
    return text


def ask_points(count: int, language: str) -> tuple[bool, ...]:
    """Ask which of ``count`` points the answer made, until the answer can be understood."""
    while True:
        text = ask(say("which", language)).lower()
        if text == "a":
            return (True,) * count
        numbers = {int(number) for number in re.findall(r"\d+", text)}
        if re.fullmatch(r"[\d\s,，、]*", text) and numbers <= set(range(1, count + 1)):
            return tuple(place in numbers for place in range(1, count + 1))
        print(say("which_again", language, count=count))


def ask_rating(suggested: int, language: str) -> int:
    """Ask for a rating, until it is one; only Enter takes the one suggested."""
    while True:
        text = ask(say("rating", language, suggested=suggested)) or str(suggested)
        if text in map(str, RATINGS):
            return int(text)
        print(say("rating_again", language))


def ask_number(count: int, prompt: str) -> int | None:
    """Ask for a number from 1 to ``count``; ``None`` for anything else."""
    text = ask(prompt)
    return int(text) if text.isdecimal() and 1 <= int(text) <= count else None


def _nearest(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_ascii, error.object[error.start : error.end])), error.end


def _ascii(sign: str) -> str:
    apart = unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode()
    return NEAREST.get(sign) or apart or "?"
