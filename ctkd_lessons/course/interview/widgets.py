"""Practice in the notebook: cards, a mock interview, search and progress, in English and in Chinese."""

import base64
from collections.abc import Callable
from datetime import UTC, date, datetime

import ipywidgets
from IPython.display import display

from ctkd_lessons.course.interview import bank, history, progress_picture
from ctkd_lessons.course.interview.history import Standing
from ctkd_lessons.course.interview.labels import label
from ctkd_lessons.course.interview.memory import Memory
from ctkd_lessons.course.interview.phrases import say
from ctkd_lessons.course.interview.search import matching
from ctkd_lessons.course.interview.widget_cards import Card, Cards
from ctkd_lessons.course.interview.widget_mock import Interview
from ctkd_lessons.course.interview.widget_parts import Choice, Markdown, picture

LANGUAGES = [("English", "en"), ("中文", "zh")]
TABS = ("cards", "interview", "search", "progress")
STYLE = """<style>
.ctkd-code textarea { font-family: var(--jp-code-font-family, monospace); tab-size: 4; }
.ctkd-asked .widget-checkbox { height: auto; } .ctkd-asked .widget-checkbox label { align-items: baseline; }
.ctkd-asked .widget-checkbox span { white-space: normal; line-height: 1.4; }
</style>"""


def utc_now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)


class Practice(ipywidgets.VBox):
    """All of practice in one box; every answer is kept at once, in ``memory``."""

    def __init__(self, memory: Memory | None = None, now: Callable[[], datetime] = utc_now) -> None:
        self.memory = memory or Memory()
        reviews = self.memory.reviews()
        language = reviews[-1].language if reviews else "en"
        self.language = ipywidgets.ToggleButtons(options=LANGUAGES, value=language, style={"button_width": "auto"})
        self.notice = ipywidgets.HTML()
        self.cards, self.interview = Cards(self.memory, now, language), Interview(self.memory, now, language)
        self.search, self.progress = Search(self.memory, now, language), Progress(self.memory, now, language)
        self.parts = (self.cards, self.interview, self.search, self.progress)
        self.tabs = ipywidgets.Tab(self.parts)
        super().__init__([ipywidgets.HTML(STYLE), self.language, self.notice, self.tabs])
        self.add_class("ctkd-practice")
        self.language.observe(lambda _: self.speak(), names="value")
        self.tabs.observe(lambda _: self._opened(), names="selected_index")
        self.speak()

    def speak(self) -> None:
        """Say everything in the language chosen."""
        language = self.language.value
        self.language.description = label("language", language)
        self.tabs.titles = [label(name, language) for name in TABS]
        for part in self.parts:
            part.speak(language)
        self._opened()

    def _opened(self) -> None:
        """Show what another tab, or another window, has changed."""
        if self.tabs.selected_index == TABS.index("progress"):
            self.progress.refresh()
        self.notice.value = self.memory.notice


class Search(ipywidgets.VBox):
    """Questions by words, topic, level and kind; the one chosen can be answered."""

    def __init__(self, memory: Memory, now: Callable[[], datetime], language: str) -> None:
        self.words = ipywidgets.Text(continuous_update=False)
        self.choice, self.count, self.kept = Choice(self.find), ipywidgets.HTML(), ipywidgets.HTML()
        self.found = ipywidgets.Select(rows=8, layout={"width": "auto"})
        self.card = Card(memory, now, self._kept)
        super().__init__([self.words, self.choice, self.count, self.found, self.kept, self.card])
        self.words.observe(lambda _: self.find(), names="value")
        self.found.observe(lambda _: self._chosen(), names="value")
        self.speak(language)

    def speak(self, language: str) -> None:
        """Go on in another language, with the same question."""
        self.language, chosen = language, self.found.value
        self.words.description = label("words", language)
        self.choice.speak(language)
        self.find()
        self.found.value = chosen

    def find(self) -> None:
        """Look for the questions that fit."""
        fitting = matching(bank.questions(), self.words.value, **self.choice.chosen)
        with self.found.hold_sync():  # one message: a second one would undo a quick choice
            self.found.options = [(self._title(question.id), question.id) for question in fitting]
            self.found.value = None
        self.count.value = label("found", self.language, count=len(fitting))
        self._chosen()

    def _title(self, question_id: str) -> str:
        return bank.find(question_id).text[self.language].question.strip().splitlines()[0].replace("$", "")

    def _chosen(self) -> None:
        self.kept.value = ""
        self.card.ask(bank.find(self.found.value) if self.found.value else None, self.language)

    def _kept(self, due: str) -> None:
        self.found.value = None
        self.kept.value = due


class Progress(ipywidgets.VBox):
    """How practice went so far, as a picture and a table."""

    def __init__(self, memory: Memory, now: Callable[[], datetime], language: str) -> None:
        self.memory, self.now, self.language = memory, now, language
        self.head, self.image, self.table = ipywidgets.HTML(), ipywidgets.HTML(), Markdown()
        self.head.add_class("ctkd-counts")
        super().__init__([self.head, self.image, self.table])

    def speak(self, language: str) -> None:
        """Go on in another language."""
        self.language = language

    def refresh(self) -> None:
        """Read anew what was practised."""
        reviews, now = self.memory.reviews(), self.now()
        standings, days = history.standings(bank.questions(), self.memory, now), history.by_day(reviews)
        seen, total, due = (sum(getattr(one, name) for one in standings) for name in ("seen", "total", "due"))
        counts = {"reviews": len(reviews), "days": len(days), "seen": seen, "total": total, "due": due}
        self.head.value = f"<b>{say('history', self.language, **counts)}</b>"
        words = label("picture", self.language)
        self.image.value = picture(progress_picture.draw(standings, days, now.astimezone().date()), words)
        self.table.show(f"{words}\n\n{table(standings, self.language)}")


def table(standings: list[Standing], language: str) -> str:
    """Return how each topic stands as a Markdown table."""
    head = [" ", say("topic", language), *(label(name, language) for name in ("seen", "due_now", "last_score"))]
    rows = [head, ["---"] * len(head)]
    for number, one in enumerate(standings, 1):
        score = "–" if one.score is None else f"{one.score:.0%}"
        rows.append([str(number), bank.topics()[one.topic][language], f"{one.seen} / {one.total}", str(one.due), score])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def example() -> None:
    """Show what progress looks like, made up: for readers without a kernel."""
    standings = [
        Standing(topic, 12, max(0, 12 - place), 0, 0.95 - 0.06 * place) for place, topic in enumerate(bank.topics())
    ]
    today = date(2026, 1, 14)
    days = {date(2026, 1, day): (3 * day) % 11 for day in range(2, 15)}
    alt = "Answers per day over two weeks, and of each topic the share of questions seen and of points made: made up."
    png = base64.b64encode(progress_picture.draw(standings, days, today)).decode()
    display({"image/png": png, "text/plain": alt}, raw=True, metadata={"image/png": {"alt": alt}})
