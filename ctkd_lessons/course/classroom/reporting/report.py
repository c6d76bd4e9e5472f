"""The class report: one HTML page for the ten minutes before class.

It opens without network, and nothing in it runs but the few lines that sort its table.
"""

import base64
import hashlib
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from urllib.parse import quote

import jinja2
import numpy as np
from markupsafe import Markup

from ctkd_lessons.course.check import SIGNS, marked_up
from ctkd_lessons.course.classroom.names import student_id, visible
from ctkd_lessons.course.classroom.reporting.overview import KINDS, by_exercise, common_mistakes, histogram, standings
from ctkd_lessons.course.classroom.reporting.table import in_order
from ctkd_lessons.course.classroom.results import Result
from ctkd_lessons.course.lessons import Lesson


def page(lesson: Lesson, results: Sequence[Result], when: datetime | None = None) -> str:
    """Return the report on a lesson's results as HTML, to be written as UTF-8.

    ``when``: the time that it shows, else now. Its links lead from ``grading/LESSON/`` to the notebooks
    in ``autograded/``.
    """
    results = in_order(results)
    points = [result.points for result in results if result.state == "graded"]
    out_of = max((result.out_of for result in results), default=0.0)
    text = _template().render(
        lesson=lesson,
        results=results,
        failed=_by_text([(result.reason, result) for result in results if result.state == "failed"]),
        noted=_by_text([(note, result) for result in results for note in result.notes]),
        points=points,
        quartiles=np.quantile(points, (0.25, 0.5, 0.75)).tolist() if points else [],
        out_of=out_of,
        when=f"{when or datetime.now():%Y-%m-%d %H:%M}",
        seeds=sorted({result.seed for result in results}),
        mistakes=common_mistakes(results),
        standings=standings(results),
        bars=histogram(points, out_of),
        rows=[(result, by_exercise(result)) for result in results],
    )
    return text.lstrip()


def _by_text(said: Sequence[tuple[str, Result]]) -> dict[str, list[Result]]:
    """Gather whom the same text is about, the commonest text last: a rare one deserves the first look."""
    by: dict[str, list[Result]] = {}
    for text, result in said:
        by.setdefault(text, []).append(result)
    return dict(sorted(by.items(), key=lambda one: len(one[1])))


@cache
def _template() -> jinja2.Template:
    # Whatever is printed passes through ``visible`` and is escaped, so that no line of the template can forget it.
    shown = lambda value: visible(value) if type(value) is str else value
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, finalize=shown, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "short": _short,
        "number": lambda value: f"{round(value, 2):g}",
        "in_url": lambda name: quote(name, safe="", errors="replace"),
        "folder": student_id,
        "marked_up": lambda text: Markup(marked_up(visible(text))),
        "digest": lambda text: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode(),
    }
    environment.globals |= {"KINDS": KINDS, "SIGNS": SIGNS}
    text = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    return environment.from_string(text)


def _short(text: str, longest: int) -> str:
    """Return a text on one line, cut where it is longer than ``longest`` characters."""
    line = " ".join(visible(text[: 10 * longest]).split()) or "(blank)"
    return line if len(line) <= longest else line[: longest - 1] + "…"
