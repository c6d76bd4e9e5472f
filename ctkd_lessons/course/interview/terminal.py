"""``ctkd interview``: cards, mock interview, search and history in a plain terminal."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from ctkd_lessons.course.interview import bank, coding, history, mock, present
from ctkd_lessons.course.interview.bank import LANGUAGES, Question
from ctkd_lessons.course.interview.console import Stopped, ask, ask_number, ask_points, ask_rating, prepare
from ctkd_lessons.course.interview.memory import Memory
from ctkd_lessons.course.interview.phrases import say
from ctkd_lessons.course.interview.schedule import suggested_rating
from ctkd_lessons.course.interview.search import matching
from ctkd_lessons.course.lessons import CourseError

MOCK_LEVEL = 2  # of a mock interview, if none is given


def run(
    practice: Callable[["Terminal"], None], language: str, topic: str | None, level: int | None, kind: str | None
) -> None:
    """Practise until the questions or the learner's patience end; every answer is kept as soon as it is given."""
    terminal = Terminal(language, topic, level, kind)
    with suppress(Stopped, KeyboardInterrupt):
        practice(terminal)
    if terminal.answered:
        print(say("done", language, count=terminal.answered))


def now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)


class Terminal:
    """Practice in a terminal: one learner, one language, some of the questions."""

    def __init__(self, language: str, topic: str | None, level: int | None, kind: str | None) -> None:
        if language not in LANGUAGES:
            raise CourseError(f"There is no language {language!r}. There are: {', '.join(LANGUAGES)}.")
        self.language = language
        self._print(prepare(language))
        self.of_all_levels = matching(bank.questions(), topic=topic, kind=kind)
        self.questions = matching(self.of_all_levels, level=level)
        self.level = level
        self.memory = Memory()
        self.answered = 0
        self._notice()

    def cards(self) -> None:
        """Ask what is due, the longest overdue first, then what was never asked, until the learner stops."""
        ids, questions = [one.id for one in self.questions], {one.id: one for one in self.questions}
        if not ids:
            self._say("nothing_fits")
        # Asked anew each time: a card answered badly is due in a minute, and another window may have answered one.
        while order := self.memory.due(ids, now()):
            self._notice()
            self._say("card", number=self.answered + 1, total=self.answered + len(order))
            self._card(questions[order[0]])
        if ids:
            due = [card.due for name, card in self.memory.cards().items() if name in questions]
            self._say("none_due", when=present.local(min(due)))

    def search(self, text: str) -> None:
        """List the questions with these words, and ask the one that is chosen."""
        found = matching(self.questions, text)
        if not found:
            self._say("nothing_fits")
        for number, question in enumerate(found, 1):
            head = " · ".join([say("level", self.language, level=question.level), say(question.kind, self.language)])
            print(f"{number:3} {present.plain(question.text[self.language].question.splitlines()[0])} ({head})")
        while found and (number := ask_number(len(found), f"\n{say('choose', self.language)}")):
            self._card(found[number - 1])

    def mock_interview(self, minutes: float, role: str) -> None:
        """Hold a timed interview and show the sheet; the clock stands while the learner marks."""
        start, level = now(), self.level or MOCK_LEVEL
        weak = history.weak_topics(self.of_all_levels, self.memory, start)
        chosen = mock.plan(self.of_all_levels, role, level, minutes, seed=int(start.timestamp()), weak=weak)
        self._say("mock", count=len(chosen), minutes=minutes, role=say(role, self.language), level=level)
        answers: list[mock.Answer] = []
        try:
            self._interview(chosen, minutes, f"{start:%Y-%m-%d %H:%M:%S}", answers)
        finally:
            if answers:
                print("\n" + present.plain(present.sheet_markdown(mock.summary(answers), self.language)))

    def progress(self) -> None:
        """Show how practice went so far."""
        reviews, standings = self.memory.reviews(), history.standings(self.questions, self.memory, now())
        self._notice()
        seen, total, due = (sum(getattr(one, name) for one in standings) for name in ("seen", "total", "due"))
        days = len(history.by_day(reviews))
        self._say("history", reviews=len(reviews), days=days, seen=seen, total=total, due=due)
        self._say("history_head")
        for one in standings:
            score = "" if one.score is None else f"{'█' * round(10 * one.score)} {one.score:.0%}"
            print(f"  {bank.topics()[one.topic][self.language]}: {one.seen}/{one.total}, {one.due}, {score or '–'}")
        for name, count, share in history.mocks(reviews):
            self._say("mock_done", when=name, count=count, score=round(100 * share))

    def export(self, path: Path) -> None:
        """Write all answers into a file."""
        self.memory.export(path)
        self._say("exported", count=len(self.memory.reviews()), path=path)

    def import_(self, path: Path) -> None:
        """Add the answers of a file."""
        self._say("imported", count=self.memory.import_(path), path=path)

    def _card(self, question: Question) -> None:
        passed, _ = self._ask(question)
        made = self._mark(question)
        rating = ask_rating(1 if passed is False else suggested_rating(made), self.language)
        due = self.memory.rate(question.id, rating, made, self.language, now())
        self.answered += 1
        self._notice()
        self._say("due", when=present.local(due))

    def _interview(self, chosen: Sequence[Question], minutes: float, name: str, answers: list[mock.Answer]) -> None:
        left = minutes * 60
        for number, question in enumerate(chosen, 1):
            if left <= 0:
                self._say("time_over", count=len(chosen) - number + 1)
                return
            each = mock.MINUTES[question.kind]
            self._say("mock_question", number=number, total=len(chosen), minutes=each, left=round(left / 60))
            passed, seconds = self._ask(question)
            left -= seconds
            self._say("took", took=round(seconds / 60, 1), minutes=each)
            made = self._mark(question)
            rating = 1 if passed is False else suggested_rating(made)
            self.memory.rate(question.id, rating, made, self.language, now(), name)
            self.answered += 1
            answers.append(mock.Answer(question, made, seconds, passed))

    def _ask(self, question: Question) -> tuple[bool | None, float]:
        """Ask; return whether the check of a coding question passed, and the seconds it took."""
        start = time.monotonic()
        print(present.plain(present.question_markdown(question, self.language)))
        if figure := present.figure_path(question):
            self._say("figure", path=figure)
        passed = self._code(question.exercise) if question.exercise else None
        if not question.exercise:
            ask(say("show", self.language))
        return passed, time.monotonic() - start

    def _code(self, exercise: str) -> bool:
        """Check the learner's file until it passes or they skip it."""
        path = coding.work_file(exercise)
        print(present.plain(coding.task(exercise)) + "\n")
        while ask(say("write", self.language, path=path)).lower() != "s":
            self._say("loading")
            try:
                report = coding.check_source(exercise, path.read_text(encoding="utf-8"))
            except KeyboardInterrupt:  # an endless loop, say
                self._say("stopped_check")
                continue
            except (OSError, UnicodeDecodeError) as error:
                print(f"{path}: {error}")
                continue
            print(report)
            if report.passed:
                return True
        return False

    def _mark(self, question: Question) -> tuple[bool, ...]:
        points = question.text[self.language].points
        print("\n" + present.plain(present.answer_markdown(question, self.language)))
        return ask_points(len(points), self.language)

    def _notice(self) -> None:
        self._print(self.memory.notice)
        self.memory.notice = ""

    def _say(self, phrase: str, **values: object) -> None:
        print(say(phrase, self.language, **values), flush=True)

    @staticmethod
    def _print(text: str) -> None:
        if text:
            print(f"{text}\n")
