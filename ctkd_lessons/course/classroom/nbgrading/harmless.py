"""Show a student's notebook as a web page without anything that a browser would run.

nbconvert's own ``sanitize_html`` covers outputs; nbgrader's pages write text cells and comments past it. So text
goes through ``markdown``, outputs through ``clean``, and ``Harmless`` keeps of a notebook only what is shown.
"""

import re
from binascii import Error as Base64Error
from binascii import a2b_base64
from typing import Any

import bleach
from bleach.css_sanitizer import CSSSanitizer
from jinja2 import pass_context
from jinja2.runtime import Context
from nbconvert.exporters import HTMLExporter
from nbconvert.preprocessors import Preprocessor
from nbformat import NotebookNode

# fmt: off
TAGS = frozenset({
    "a", "abbr", "b", "blockquote", "br", "caption", "code", "dd", "del", "details", "div", "dl", "dt", "em", "h1",
    "h2", "h3", "h4", "h5", "h6", "hr", "i", "img", "kbd", "li", "ol", "p", "pre", "s", "small", "span", "strong",
    "sub", "summary", "sup", "table", "tbody", "td", "tfoot", "th", "thead", "tr", "u", "ul",
})
# fmt: on
# What the check's panel and tables need; nothing that could lay one thing over another.
STYLES = CSSSanitizer(allowed_css_properties=["border-left", "margin-top", "max-width", "padding", "text-align"])
PICTURES = ("image/png", "image/jpeg")
TEXT = ("text/plain", "text/html")
NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")


def clean(html: str | bytes) -> str:
    """Return HTML of which only text, tables, links to web pages and embedded pictures are left."""
    text = html.decode(errors="replace") if isinstance(html, bytes) else str(html)
    protocols = {"http", "https", "mailto", "data"}
    return bleach.clean(text, TAGS, _is_allowed, protocols, strip=True, css_sanitizer=STYLES)


@pass_context
def markdown(context: Context, source: str) -> str:
    """Turn Markdown into clean HTML."""
    return clean(HTMLExporter().markdown2html(context, source))


class Harmless(Preprocessor):
    """Keep of a notebook what is shown: sources, plain outputs, nbgrader's marks on cells."""

    enabled = True

    def preprocess(self, notebook: NotebookNode, resources: dict[str, Any]) -> tuple[NotebookNode, dict[str, Any]]:
        """Return a copy without widgets, scripts, attachments and foreign metadata."""
        cells = [_shown(cell, number) for number, cell in enumerate(notebook.cells)]
        return NotebookNode(notebook | {"metadata": {"language_info": {"name": "python"}}, "cells": cells}), resources


def _is_allowed(tag: str, name: str, value: str) -> bool:
    if name == "style":
        return True  # its properties are looked at one by one
    if name == "class":  # of highlighted code; other classes belong to the page
        return all(word == "ctkd-check" or re.fullmatch(r"highlight|[a-z]{1,2}\d?", word) for word in value.split())
    if tag == "a":
        return name == "title" or (name == "href" and not value.strip().lower().startswith("data"))
    if tag == "img":  # a picture from elsewhere would tell its owner who looks, and when
        return name == "alt" or (name == "src" and value.startswith(tuple(f"data:{kind};base64," for kind in PICTURES)))
    return name in ("colspan", "rowspan") and value.isdecimal()


def _shown(cell: NotebookNode, number: int) -> NotebookNode:
    kept = NotebookNode(id=f"cell-{number}", cell_type=cell.cell_type, source=cell.source, metadata=NotebookNode())
    ours = cell.metadata.get("nbgrader", {})
    if NAME.fullmatch(str(ours.get("grade_id", ""))):
        kept.metadata.nbgrader = ours
    if cell.cell_type == "code":
        kept.execution_count = None
        kept.outputs = [_shown_output(output) for output in cell.outputs]
    return kept


def _shown_output(output: NotebookNode) -> NotebookNode:
    """Return an output as a stream or a bundle of text and pictures."""
    if output.output_type in ("stream", "error"):
        text = output.text if output.output_type == "stream" else "\n".join(output.traceback)
        return NotebookNode(output_type="stream", name="stdout", text=str(text))
    data = {kind: output.data[kind] for kind in TEXT if kind in output.data}
    data |= {kind: output.data[kind] for kind in PICTURES if _is_base64(output.data.get(kind))}
    return NotebookNode(output_type="display_data", metadata=NotebookNode(), data=NotebookNode(data))


def _is_base64(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(a2b_base64("".join(value.split()), strict_mode=True))
    except Base64Error:
        return False
