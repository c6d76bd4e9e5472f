"""The check cell: ``check("01.kd_loss", kd_loss)`` shows a small panel."""

import html
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ctkd_lessons.course.examine import Finding, examine
from ctkd_lessons.course.exercises import find
from ctkd_lessons.course.exercises.description import Answer

SIGNS = {"passed": "✔", "not attempted": "○", "wrong": "✘", "stopped": "■"}
# One hue each for right and wrong, told apart by colour-blind readers; the sign says it too.
COLOURS = {"passed": "#0072b2", "not attempted": "#777777", "wrong": "#d55e00", "stopped": "#d55e00"}


class CheckFailed(AssertionError):
    """An answer did not pass, where a grading tool waits for an exception."""


@dataclass(frozen=True)
class Report:
    """A finding as a panel in JupyterLab and as plain text elsewhere."""

    finding: Finding

    @property
    def passed(self) -> bool:
        """Whether the answer is right."""
        return self.finding.passed

    @property
    def lines(self) -> list[str]:
        """The headline with its sign, then one line per detail."""
        title = f"{SIGNS[self.finding.verdict]} {self.finding.exercise.id}: {self.finding.headline}"
        return [title, *self.finding.details]

    def __repr__(self) -> str:
        return "\n    ".join(self.lines)

    def _repr_mimebundle_(self, **_: object) -> tuple[dict[str, str], dict[str, object]]:
        """Return both forms, and beside them what ``ctkd progress`` reads."""
        record = {
            "exercise": self.finding.exercise.id,
            "verdict": self.finding.verdict,
            "mistakes": [mistake.name for mistake in self.finding.mistakes],
        }
        return {"text/plain": repr(self), "text/html": panel(self.finding.verdict, self.lines)}, {"ctkd": record}


def panel(verdict: str, lines: Sequence[str]) -> str:
    """Return a headline and details as HTML, whatever they hold; ``verdict``: a key of ``SIGNS``."""
    headline, *details = (marked_up(line) for line in lines)
    items = "".join(f'<div style="margin-top:.4em">{line}</div>' for line in details)
    style = f"border-left:4px solid {COLOURS[verdict]};padding:.5em .9em;max-width:46em"
    return f'<div class="ctkd-check" style="{style}"><strong>{headline}</strong>{items}</div>'


def marked_up(line: str) -> str:
    """Turn `code` and *stress* into HTML; a star inside code stays a star."""
    parts = re.split(r"(`[^`]+`)", html.escape(line))
    return "".join(
        f"<code>{part[1:-1]}</code>" if part.startswith("`") else re.sub(r"\*([^*]+)\*", r"<em>\1</em>", part)
        for part in parts
    )


def check(exercise_id: str, answer: Answer) -> Report:
    """Check an answer and return the panel that says how it stands.

    Raises ``ValueError`` for an unknown exercise. A wrong answer raises nothing, so that "Run All"
    goes on, except under nbgrader, which counts an exception as zero points.
    """
    report = Report(examine(find(exercise_id), answer))
    if not report.passed and os.environ.get("NBGRADER_EXECUTION"):
        raise CheckFailed(repr(report))
    return report
