"""The marks of a class as CSV, for a spreadsheet."""

import csv
import io
import re
from collections.abc import Iterator, Sequence

from ctkd_lessons.course.classroom.names import visible
from ctkd_lessons.course.classroom.results import Mark, Result

LONGEST = 32_000  # characters in a cell: Excel breaks a longer one in two
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
# A formula may also begin where a spreadsheet that expects semicolons or tabs cuts the line.
_FORMULA = re.compile(r"(^(?=\t)|(?:^|[;\t\n])(?= *[=+\-@＝＋－＠]))")


def as_csv(results: Sequence[Result]) -> str:
    """Return one row per student, by name; to be written as UTF-8.

    The byte order mark in front is for Excel, which takes the file for an old Windows code page without it;
    LibreOffice and pandas skip it, Python reads it with ``encoding="utf-8-sig"``. Text that a spreadsheet
    would take for a formula gets an apostrophe in front, plain numbers do not.
    """
    exercises = exercises_of(results)
    file = io.StringIO(newline="")
    rows = csv.writer(file)
    columns = [f"{exercise} {column}" for exercise in exercises for column in ("points", "verdict", "mistakes")]
    start, end = ["student", "state", "reason", "total", "out_of"], ["notes", "seed", "digest", "submitted", "seconds"]
    rows.writerow(map(_cell, [*start, *columns, *end]))
    for result in in_order(results):
        rows.writerow(map(_cell, _row(result, exercises)))
    return "\ufeff" + file.getvalue()


def in_order(results: Sequence[Result]) -> list[Result]:
    """Return the results by name of the student, capitals or not."""
    return sorted(results, key=lambda result: (result.student.casefold(), result.student))


def exercises_of(results: Sequence[Result]) -> list[str]:
    """Return the ids of all exercises in the order of the notebook.

    The longest list of marks comes first, for a failed submission may lack some.
    """
    longest_first = sorted(in_order(results), key=lambda result: -len(result.marks))
    return list(dict.fromkeys(mark.exercise for result in longest_first for mark in result.marks))


def _row(result: Result, exercises: Sequence[str]) -> Iterator[object]:
    yield from (result.student, result.state, result.reason, result.points, result.out_of)
    marks = {mark.exercise: mark for mark in result.marks}
    for exercise in exercises:
        yield from _columns(marks.get(exercise))
    yield from ("; ".join(result.notes), result.seed, result.digest, result.submitted, result.seconds)


def _columns(mark: Mark | None) -> tuple[object, ...]:
    return ("", "", "") if mark is None else (mark.points, mark.verdict, "; ".join(mark.mistakes))


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return round(value, 4) if isinstance(value, float) else value
    text = visible(value[:LONGEST])
    return text if _NUMBER.fullmatch(text) else _FORMULA.sub(r"\1'", text)[:LONGEST]
