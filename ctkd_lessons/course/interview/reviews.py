"""A review, one answer of a learner, and the JSON file that carries reviews to another machine."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ctkd_lessons.course.interview.bank import LANGUAGES
from ctkd_lessons.course.interview.schedule import RATINGS, utc
from ctkd_lessons.course.lessons import CourseError

FORMAT = "ctkd interview reviews"
VERSION = 1
FIELDS = ("question", "at", "rating", "made", "language", "mock")
Row = tuple[str, str, int, str, str, str]


@dataclass(frozen=True)
class Review:
    """One answer; ``made``: which of the answer's points; ``mock``: id of the mock interview, "" outside of one."""

    question_id: str
    when: datetime
    rating: int
    made: tuple[bool, ...]
    language: str
    mock: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.question_id, str) or not isinstance(self.mock, str):
            raise ValueError(f"question and mock: expected text, got {self.question_id!r} and {self.mock!r}")
        if type(self.rating) is not int or self.rating not in RATINGS:
            raise ValueError(f"rating: expected 1 (again) to 4 (easy), got {self.rating!r}")
        if self.language not in LANGUAGES:
            raise ValueError(f"language: expected one of {', '.join(LANGUAGES)}, got {self.language!r}")
        if not all(isinstance(one, bool) for one in self.made):
            raise ValueError(f"made: expected true or false for each point, got {self.made!r}")

    def row(self) -> Row:
        """Return the review as the file holds it."""
        # Always with microseconds: text then sorts as time does, and equal times are equal texts.
        when = self.when.isoformat(timespec="microseconds")
        return self.question_id, when, self.rating, json.dumps(list(self.made)), self.language, self.mock


def from_row(row: Sequence) -> Review:
    """Return the review of a row; raise ``ValueError`` or ``TypeError`` for a row that no review gives."""
    question, at, rating, made, language, mock = row
    return Review(question, utc(datetime.fromisoformat(at)), rating, tuple(json.loads(made)), language, mock)


def write_exported(path: Path, reviews: Sequence[Review]) -> None:
    """Write reviews into a new file, never over one that is there."""
    rows = [dict(zip(FIELDS, one.row(), strict=True)) | {"made": list(one.made)} for one in reviews]
    whole = {"format": FORMAT, "version": VERSION, "reviews": rows}
    try:
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(whole, ensure_ascii=False, indent=1) + "\n")
    except FileExistsError:
        raise CourseError(f"{path} is there already and was left as it is. Name a new file.") from None
    except OSError as error:
        raise CourseError(f"{path} cannot be written: {error}.") from None


def read_exported(path: Path) -> list[Review]:
    """Return the reviews of an exported file; raise ``CourseError`` if it is none, or not whole."""
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CourseError(f"{path} cannot be read: {error}.") from None
    except ValueError as error:  # what is no UTF-8, too
        raise CourseError(f"{path} is no file that `ctkd interview --export` wrote: {error}.") from None
    if not isinstance(whole, dict) or whole.get("format") != FORMAT or not isinstance(whole.get("reviews"), list):
        raise CourseError(f'{path} is no file that `ctkd interview --export` wrote: it lacks "format": "{FORMAT}".')
    if whole.get("version") != VERSION:
        raise CourseError(
            f"{path}: this course reads version {VERSION}, the file is of version {whole.get('version')}. "
            "Update the course, then import again."
        )
    return [_exported(entry, f"{path}, review {place}") for place, entry in enumerate(whole["reviews"], 1)]


def _exported(entry: dict, where: str) -> Review:
    try:
        return from_row([json.dumps(entry[field]) if field == "made" else entry[field] for field in FIELDS])
    except KeyError as error:
        raise CourseError(f"{where}: the field {error} is missing. Nothing was imported.") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise CourseError(f"{where}: {error}. Nothing was imported.") from None
