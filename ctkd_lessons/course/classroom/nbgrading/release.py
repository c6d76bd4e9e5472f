"""What nbgrader does last to an exercise sheet, so that it is the file ``make exercises`` writes."""

from typing import Any

from nbformat import NotebookNode
from nbgrader.preprocessors import NbGraderPreprocessor

from ctkd_lessons.course.authoring import tidy


class Tidy(NbGraderPreprocessor):
    """Drop from a notebook what differs from machine to machine."""

    def preprocess(self, notebook: NotebookNode, resources: dict[str, Any]) -> tuple[NotebookNode, dict[str, Any]]:
        """Return the notebook as the course keeps it."""
        return tidy(notebook), resources
