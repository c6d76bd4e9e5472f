"""The cards' tab: what is due, one question after the other."""

from collections.abc import Callable
from datetime import datetime

import ipywidgets

from ctkd_lessons.course.interview import bank
from ctkd_lessons.course.interview.bank import Question
from ctkd_lessons.course.interview.labels import label
from ctkd_lessons.course.interview.memory import Memory
from ctkd_lessons.course.interview.phrases import say
from ctkd_lessons.course.interview.present import local
from ctkd_lessons.course.interview.schedule import RATINGS, suggested_rating
from ctkd_lessons.course.interview.search import matching
from ctkd_lessons.course.interview.widget_parts import HIDDEN, SHOWN, Asked, Choice, button


class Card(ipywidgets.VBox):
    """A question to answer, mark and keep; ``on_kept``: what to do then, told when it is asked again."""

    def __init__(self, memory: Memory, now: Callable[[], datetime], on_kept: Callable[[str], None]) -> None:
        self.memory, self.now, self.on_kept = memory, now, on_kept
        self.asked, self.rating = Asked(), ipywidgets.ToggleButtons(style={"button_width": "auto"})
        self.keep = button("keep", self._keep, style="primary")
        self.closing = ipywidgets.VBox([self.rating, self.keep])
        self.asked.on_reveal, self.asked.on_tick = self._revealed, self._suggest
        super().__init__([self.asked, self.closing])
        self.ask(None, "en")

    def ask(self, question: Question | None, language: str) -> None:
        """Ask a question, or none."""
        self.layout.display = SHOWN if question else HIDDEN
        self.closing.layout.display = HIDDEN
        if question:
            self.asked.ask(question, language)
        self._name(language)

    def speak(self, language: str) -> None:
        """Go on in another language, with the same question."""
        if self.layout.display != HIDDEN:
            self.asked.speak(language)
        self._name(language)

    def _name(self, language: str) -> None:
        value = self.rating.value
        self.rating.description = label("rating", language)
        self.rating.options = [(label(name, language), rating) for rating, name in RATINGS.items()]
        self.rating.value = value or 1
        self.keep.description = label("next", language)

    def _revealed(self) -> None:
        self._suggest()
        self.closing.layout.display = SHOWN

    def _suggest(self) -> None:
        # The learner may choose another one.
        self.rating.value = 1 if self.asked.passed is False else suggested_rating(self.asked.made)

    def _keep(self) -> None:
        asked = self.asked
        due = self.memory.rate(asked.question.id, self.rating.value, asked.made, asked.language, self.now())
        self.on_kept(say("due", asked.language, when=local(due)))


class Cards(ipywidgets.VBox):
    """Questions of a choice, the longest overdue first, then those never seen."""

    def __init__(self, memory: Memory, now: Callable[[], datetime], language: str) -> None:
        self.memory, self.now, self.language = memory, now, language
        self.choice, self.state = Choice(self.ask_next), ipywidgets.HTML()
        self.card = Card(memory, now, self.ask_next)
        super().__init__([self.choice, self.state, self.card])
        self.choice.speak(language)
        self.ask_next()

    def speak(self, language: str) -> None:
        """Go on in another language, with the same question."""
        self.language = language
        self.choice.speak(language)
        self.card.speak(language)
        self._tell(self._waiting())

    def ask_next(self, before: str = "") -> None:
        """Ask what is due next; ``before``: what to say above it."""
        waiting = self._waiting()
        self.card.ask(bank.find(waiting[0]) if waiting else None, self.language)
        self._tell(waiting, before)

    def _waiting(self) -> list[str]:
        """Return the ids of the questions to answer now."""
        return self.memory.due(self._ids(), self.now())

    def _ids(self) -> list[str]:
        return [question.id for question in matching(bank.questions(), **self.choice.chosen)]

    def _tell(self, waiting: list[str], before: str = "") -> None:
        count = label("waiting", self.language, count=len(waiting)) if waiting else self._none_waiting()
        self.state.value = " ".join(filter(None, [before, count]))

    def _none_waiting(self) -> str:
        cards, ids = self.memory.cards(), self._ids()
        due = [cards[one].due for one in ids if one in cards]
        return label("all_done", self.language, when=local(min(due))) if due else say("nothing_fits", self.language)
