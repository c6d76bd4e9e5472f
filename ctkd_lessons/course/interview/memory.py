"""What a learner has practised. Only reviews are kept; the cards follow from them, so that the two cannot disagree."""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path

from fsrs import Card

from ctkd_lessons.course.interview import store
from ctkd_lessons.course.interview.reviews import Review, read_exported, write_exported
from ctkd_lessons.course.interview.schedule import clock_notice, moment, replay, utc
from ctkd_lessons.course.lessons import CourseError

__all__ = ["Memory", "Review", "default_path"]


def default_path() -> Path:
    """Return where the file lies: $CTKD_INTERVIEW, or the user's data folder."""
    if os.environ.get("CTKD_INTERVIEW"):
        return Path(os.environ["CTKD_INTERVIEW"]).expanduser()
    from platformdirs import user_data_path

    return user_data_path("ctkd", appauthor=False) / "interview.sqlite"


class Memory:
    """What a learner has practised: one SQLite file, safe against a crash and two windows at once.

    ``notice``: what the learner should be told (a damaged file was set aside, the clock went back), "" if nothing.
    Every call opens the file anew: any thread or process may call, and no window holds an old state.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = Path(path) if path else default_path()
        self.notice = ""
        self.reviews()  # whatever is wrong with the file is told at once

    def card(self, question_id: str) -> Card | None:
        """Return a question's card, ``None`` if it was never answered."""
        return self.cards().get(question_id)

    def cards(self) -> dict[str, Card]:
        """Return the cards of all questions ever answered."""
        by_question: dict[str, list[Review]] = {}
        for review in self.reviews():
            by_question.setdefault(review.question_id, []).append(review)
        return {question_id: _card(reviews) for question_id, reviews in by_question.items()}

    def rate(
        self, question_id: str, rating: int, made: Sequence[bool], language: str, now: datetime, mock: str = ""
    ) -> datetime:
        """Write an answer down and return when the question is due next; ``rating``: 1 again, 2 hard, 3 good, 4 easy.

        ``made``: which of the answer's points; ``mock``: id of the mock interview it belongs to.
        """
        now = utc(now)
        with self._file() as file:
            file.execute("begin immediate")  # nobody else writes between reading the last review and adding this one
            before = store.read(file, question_id)
            last = before[-1].when if before else None
            review = Review(question_id, moment(now, last), rating, tuple(made), language, mock)
            store.add(file, [review])
            file.execute("commit")
        self._tell(clock_notice(now, last))
        return _card([*before, review]).due

    def due(self, ids: Sequence[str], now: datetime) -> list[str]:
        """Return the ids that are due, longest overdue first, then those never answered, in the order given."""
        now, cards = utc(now), self.cards()
        self._tell(clock_notice(now, max((card.last_review for card in cards.values()), default=None)))
        due = [one for one in ids if one in cards and cards[one].due <= now]
        return [*sorted(due, key=lambda one: cards[one].due), *(one for one in ids if one not in cards)]

    def reviews(self) -> list[Review]:
        """Return all answers, oldest first."""
        with self._file() as file:
            return store.read(file)

    def export(self, path: Path) -> None:
        """Write all answers into a new JSON file."""
        write_exported(Path(path), self.reviews())

    def import_(self, path: Path) -> int:
        """Add the answers of an exported file that are not here yet; return how many these were."""
        reviews = read_exported(Path(path))
        with self._file() as file:
            file.execute("begin immediate")
            added = store.add(file, reviews)
            file.execute("commit")
        return added

    def _tell(self, notice: str) -> None:
        if notice not in self.notice:  # one notice never takes the place of another that nobody has read yet
            self.notice = f"{self.notice}\n{notice}".strip()

    @contextmanager
    def _file(self) -> Iterator[sqlite3.Connection]:
        """Open the file; an exception before "commit" leaves it as it was."""
        try:
            file, notice = store.opened(self.path)
            self._tell(notice)
            with closing(file):
                yield file
        except (OSError, sqlite3.Error) as error:
            raise CourseError(
                f"{self.path}, where your practice is kept, cannot be used: {error}. "
                "Make it and its folder writable, or name another file: CTKD_INTERVIEW=FILE."
            ) from None


def _card(reviews: Sequence[Review]) -> Card:
    return replay((one.rating, one.when) for one in reviews)
