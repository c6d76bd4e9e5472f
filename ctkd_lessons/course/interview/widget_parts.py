"""What the tabs of the practice notebook share: rendered text, a question with its marking, choices by topic."""

import base64
from collections.abc import Callable
from dataclasses import replace

import ipywidgets

from ctkd_lessons.course.interview import bank, coding, present
from ctkd_lessons.course.interview.bank import KINDS, LEVELS, Question
from ctkd_lessons.course.interview.labels import label
from ctkd_lessons.course.interview.markup import for_anki
from ctkd_lessons.course.interview.phrases import say

WRAPPED = {"flex_flow": "row wrap"}
HIDDEN, SHOWN = "none", None  # of a layout's ``display``
ANY = "any"  # to a ``Dropdown``, None means that nothing is chosen


class Markdown(ipywidgets.Output):
    """A text that JupyterLab itself renders, with its formulas, code and links to lessons."""

    def show(self, text: str) -> None:
        """Replace the text."""
        shown = {"output_type": "display_data", "data": {"text/markdown": text, "text/plain": text}, "metadata": {}}
        self.outputs = (shown,) if text else ()


class Asked(ipywidgets.VBox):
    """A question; then, when it is revealed, its points to tick and its answer.

    ``passed``: of a coding question, whether its last check passed; ``on_reveal``, ``on_tick``: what else to do then.
    """

    def __init__(self) -> None:
        self.on_reveal: Callable[[], None] = lambda: None
        self.on_tick: Callable[[], None] = lambda: None
        self.passed: bool | None = None
        self.text, self.answer, self.figure = Markdown(), Markdown(), ipywidgets.HTML()
        self.task, self.finding = Markdown(), ipywidgets.HTML()
        self.code = ipywidgets.Textarea(rows=14, layout={"width": "auto"})
        self.code.add_class("ctkd-code")
        self.check, self.show = button("check_code", self._check), button("show_answer", self.reveal, style="primary")
        self.coding = ipywidgets.VBox([self.task, self.code, self.check, self.finding])
        self.tick, self.points = ipywidgets.HTML(), ipywidgets.VBox()
        self.marking = ipywidgets.VBox([self.tick, self.points, self.answer])
        super().__init__([self.text, self.figure, self.coding, self.show, self.marking])
        self.add_class("ctkd-asked")

    def ask(self, question: Question, language: str) -> None:
        """Ask another question."""
        self.question, self.passed, self.finding.value = question, False if question.exercise else None, ""
        self.coding.layout.display = SHOWN if question.exercise else HIDDEN
        self.code.value = coding.starter(question.exercise) if question.exercise else ""
        path = present.figure_path(question)
        self.figure.value = picture(path.read_bytes(), say("figure", language, path=path.name)) if path else ""
        count = len(question.text[language].points)
        self.points.children = [ipywidgets.Checkbox(indent=False, layout={"width": "100%"}) for _ in range(count)]
        for box in self.points.children:
            box.description_allow_html = True
            box.observe(lambda _: self.on_tick(), names="value")
        self._reveal(False)
        self.speak(language)

    def speak(self, language: str) -> None:
        """Say everything in a language; what is ticked stays ticked, for the points keep their order."""
        self.language = language
        self.check.description, self.show.description = label("check", language), label("show_answer", language)
        self.code.description, self.tick.value = "", f"<b>{label('tick', language)}</b>"
        self.text.show(present.question_markdown(self.question, language))
        self.task.show(coding.task(self.question.exercise).partition("\n")[2] if self.question.exercise else "")
        text = self.question.text[language]
        for box, point in zip(self.points.children, text.points, strict=True):
            box.description = for_anki(point).strip().removeprefix("<p>").removesuffix("</p>")
        # The points stand above, to be ticked: once is enough.
        without = replace(self.question, text={language: replace(text, points=())})
        self.answer.show(present.answer_markdown(without, language))

    @property
    def made(self) -> tuple[bool, ...]:
        """Which points are ticked."""
        return tuple(box.value for box in self.points.children)

    def reveal(self) -> None:
        """Show the points and the answer."""
        self._reveal(True)
        self.on_reveal()

    def _reveal(self, shown: bool) -> None:
        self.marking.layout.display = SHOWN if shown else HIDDEN
        self.show.layout.display = HIDDEN if shown else SHOWN

    def _check(self) -> None:
        from ctkd_lessons.course.check import panel

        self.finding.value = label("checking", self.language)
        report = coding.check_source(self.question.exercise, self.code.value)
        self.passed = report.passed
        self.finding.value = panel(report.finding.verdict, report.lines)
        self.on_tick()


class Choice(ipywidgets.HBox):
    """Which questions: by topic, level and kind; ``on_change``: what to do with another choice."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self.topic, self.level, self.kind = (ipywidgets.Dropdown(layout={"width": "auto"}) for _ in range(3))
        super().__init__([self.topic, self.level, self.kind], layout=WRAPPED)
        self._quiet = False
        for one in self.children:
            one.observe(lambda _: None if self._quiet else on_change(), names="value")

    def speak(self, language: str) -> None:
        """Name the choices in a language; what is chosen stays chosen."""
        topics = [(title[language], name) for name, title in bank.topics().items()]
        levels = [(say("level", language, level=level), level) for level in LEVELS]
        kinds = [(say(kind, language), kind) for kind in KINDS]
        self._quiet = True
        for one, name, options in zip(self.children, ("topic", "level", "kind"), (topics, levels, kinds), strict=True):
            relabel(one, [(label(f"any_{name}", language), ANY), *options])
        self._quiet = False

    @property
    def chosen(self) -> dict[str, str | int | None]:
        """What is chosen, as ``matching`` takes it."""
        chosen = zip(("topic", "level", "kind"), self.children, strict=True)
        return {name: None if one.value == ANY else one.value for name, one in chosen}


def relabel(dropdown: ipywidgets.Dropdown, options: list[tuple[str, object]]) -> None:
    """Give a dropdown's options other words and keep what is chosen."""
    value = dropdown.value
    dropdown.options = options
    dropdown.value = value if value in [one for _, one in options] else options[0][1]


def button(name: str, action: Callable[[], None], style: str = "") -> ipywidgets.Button:
    """Return a button."""
    made = ipywidgets.Button(button_style=style, layout={"width": "auto", "align_self": "flex-start"})
    made.add_class(f"ctkd-{name}")
    made.on_click(lambda _: action())
    return made


def picture(png: bytes, alt: str) -> str:
    """Return a PNG file as HTML with its text alternative."""
    return f'<img style="max-width: 100%" src="data:image/png;base64,{base64.b64encode(png).decode()}" alt="{alt}">'
