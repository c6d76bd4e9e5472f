"""The bank's Markdown as HTML, for Anki and for paper. In the notebook JupyterLab itself renders it."""

from collections.abc import Callable
from functools import cache
from html import escape
from typing import Any

import mistune

from ctkd_lessons.course.interview.formulas import readable


def for_anki(markdown: str) -> str:
    r"""Return HTML whose formulas stand in ``\( \)`` and ``\[ \]``, which Anki hands to MathJax."""
    return _renderer(_mathjax)(markdown)


def for_paper(markdown: str) -> str:
    """Return HTML whose formulas are plain HTML too."""
    return _renderer(_plain)(markdown)


class _Linkless(mistune.HTMLRenderer):
    """A link to a lesson leads nowhere from a phone or from paper: keep its words."""

    def link(self, text: str, url: str, title: str | None = None) -> str:
        """Return the words alone."""
        return text


@cache
def _renderer(formulas: Callable[[mistune.Markdown], None]) -> Callable[[str], Any]:
    return mistune.create_markdown(renderer=_Linkless(escape=True), plugins=["math", "table", formulas])


def _mathjax(markdown: mistune.Markdown) -> None:
    markdown.renderer.register("inline_math", lambda _, latex: rf"\({escape(latex, quote=False)}\)")
    markdown.renderer.register("block_math", lambda _, latex: rf"<div>\[{escape(latex, quote=False)}\]</div>")


def _plain(markdown: mistune.Markdown) -> None:
    markdown.renderer.register("inline_math", lambda _, latex: f'<span class="formula">{readable(latex)}</span>')
    markdown.renderer.register("block_math", lambda _, latex: f'<p class="formula">{readable(latex)}</p>')
