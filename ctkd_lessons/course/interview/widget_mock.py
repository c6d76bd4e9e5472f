"""The mock interview's tab: choose it, answer against the clock, read the sheet."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from math import ceil

import ipywidgets

from ctkd_lessons.course.interview import bank, history, mock
from ctkd_lessons.course.interview.bank import LEVELS, Question
from ctkd_lessons.course.interview.labels import label
from ctkd_lessons.course.interview.memory import Memory
from ctkd_lessons.course.interview.phrases import say
from ctkd_lessons.course.interview.present import sheet_markdown
from ctkd_lessons.course.interview.schedule import suggested_rating
from ctkd_lessons.course.interview.widget_parts import HIDDEN, SHOWN, WRAPPED, Asked, Markdown, button, relabel

MINUTES = (15, 30, 45, 60)


class Interview(ipywidgets.VBox):
    """A timed interview; the clock stands while the learner marks an answer."""

    def __init__(self, memory: Memory, now: Callable[[], datetime], language: str) -> None:
        self.memory, self.now = memory, now
        self.role, self.level, self.minutes = (ipywidgets.Dropdown() for _ in range(3))
        self.start = button("start", self.begin, style="primary")
        self.setting = ipywidgets.HBox([self.role, self.level, self.minutes, self.start], layout=WRAPPED)
        self.clock, self.bar = ipywidgets.HTML(), ipywidgets.FloatProgress(layout={"width": "100%"})
        self.asked, self.sheet = Asked(), Markdown()
        self.next, self.stop = button("next", self._marked, style="primary"), button("stop", self._finish)
        self.clock.add_class("ctkd-clock")
        self.sheet.add_class("ctkd-sheet")
        self.buttons = ipywidgets.HBox([self.next, self.stop])
        self.running = ipywidgets.VBox([self.clock, self.bar, self.asked, self.buttons])
        self.asked.on_reveal = self._revealed
        self.questions: list[Question] = []
        self.answers: list[mock.Answer] = []
        super().__init__([self.setting, self.running, self.sheet])
        self.speak(language)
        self.level.value, self.minutes.value = 2, 30
        self._show(running=False)

    def speak(self, language: str) -> None:
        """Go on in another language: setting, question and sheet."""
        self.language = language
        relabel(self.role, [(say(role, language), role) for role in mock.ROLES])
        relabel(self.level, [(str(level), level) for level in LEVELS])
        relabel(self.minutes, [(str(minutes), minutes) for minutes in MINUTES])
        for one, name in ((self.role, "role"), (self.level, "level_to"), (self.minutes, "minutes")):
            one.description = label(name, language)
        self.next.description, self.stop.description = label("next", language), label("stop", language)
        self.start.description = label("once_more" if self.answers else "start", language)
        if self.is_running:
            self.asked.speak(language)
            self.tick()
        elif self.answers:
            self.sheet.show(sheet_markdown(mock.summary(self.answers), language))

    @property
    def is_running(self) -> bool:
        """Whether an interview has begun and not ended."""
        return len(self.answers) < len(self.questions)

    def begin(self) -> None:
        """Begin an interview."""
        start, every = self.now(), bank.questions()
        weak = history.weak_topics(every, self.memory, start)
        level, minutes = self.level.value, self.minutes.value
        self.questions = mock.plan(every, self.role.value, level, minutes, seed=int(start.timestamp()), weak=weak)
        self.id, self.answers, self.spent = f"{start:%Y-%m-%d %H:%M:%S}", [], 0.0
        self.sheet.show("")
        self._show(running=True)
        self._ask()
        self._run_clock()

    def tick(self) -> None:
        """Show the time that is left."""
        total = 60 * self.minutes.value
        left = max(0.0, total - self.spent - self._seconds())
        minutes, seconds = divmod(ceil(left), 60)
        question = self.asked.question
        self.clock.value = say(
            "mock_question",
            self.language,
            number=len(self.answers) + 1,
            total=len(self.questions),
            minutes=mock.MINUTES[question.kind],
            left=f"{minutes}:{seconds:02}",
        )
        self.bar.max, self.bar.value = total, left
        self.bar.bar_style = "" if left else "danger"
        if not left:
            self.clock.value += f" <b>{label('time_up', self.language)}</b>"

    def _ask(self) -> None:
        self.asked.ask(self.questions[len(self.answers)], self.language)
        self.asked_at, self.took = self.now(), None
        self.next.layout.display = HIDDEN
        self.tick()

    def _seconds(self) -> float:
        """Return how long this question took, or has taken so far."""
        return (self.now() - self.asked_at).total_seconds() if self.took is None else self.took

    def _revealed(self) -> None:
        self.took = self._seconds()
        self.next.layout.display = SHOWN

    def _marked(self) -> None:
        asked, made = self.asked, self.asked.made
        rating = 1 if asked.passed is False else suggested_rating(made)
        self.memory.rate(asked.question.id, rating, made, self.language, self.now(), self.id)
        self.answers.append(mock.Answer(asked.question, made, self.took, asked.passed))
        self.spent += self.took
        if self.is_running and self.spent < 60 * self.minutes.value:
            self._ask()
        else:
            self._finish()

    def _finish(self) -> None:
        self.questions = self.questions[: len(self.answers)]
        self._show(running=False)
        self.sheet.show(sheet_markdown(mock.summary(self.answers), self.language) if self.answers else "")
        self.start.description = label("once_more" if self.answers else "start", self.language)

    def _show(self, running: bool) -> None:
        self.setting.layout.display = HIDDEN if running else SHOWN
        self.running.layout.display = SHOWN if running else HIDDEN

    def _run_clock(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # no kernel: the time is read at each click all the same
            return
        self._task = loop.create_task(self._count_down(self.id))

    async def _count_down(self, interview: str) -> None:
        while self.is_running and self.id == interview:
            self.tick()
            await asyncio.sleep(1)
