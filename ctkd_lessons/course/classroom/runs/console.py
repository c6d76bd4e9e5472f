"""What ``ctkd grade`` says while it runs."""

import os
import sys
from collections.abc import Iterator, Sequence
from statistics import median

from tqdm import tqdm

from ctkd_lessons.course.classroom.results import Result
from ctkd_lessons.course.classroom.runs.handed_in import Class, shown
from ctkd_lessons.course.classroom.submission import Task


def watched(ended: Iterator[tuple[Task, Result]], total: int) -> Iterator[tuple[Task, Result]]:
    """Show a bar, and a line for each that ended, once the caller is done with it."""
    disable = bool(os.environ.get("CTKD_NO_PROGRESS"))
    with tqdm(total=total, desc="grading", unit="submission", file=sys.stdout, leave=False, disable=disable) as bar:
        for task, result in ended:
            yield task, result
            tqdm.write(line(result), file=sys.stdout)
            bar.update()


def line(result: Result) -> str:
    """Return a result as one line: sign, student, points or the reason, seconds."""
    good = result.state == "graded"
    outcome = f"{result.points:g} of {result.out_of:g} points" if good else f"failed: {shown(result.reason)}"
    return f"{'✔' if good else '✘'} {shown(result.student, 60)}  {outcome}  {result.seconds:.1f} s"


def sum_up(of: Class, results: Sequence[Result], missing: Sequence[str]) -> None:
    """Print how it ended and where it lies; ``missing``: what did not reach the gradebook."""
    points = [result.points for result in results if result.state == "graded"]
    middle = f", median {median(points):g} points" if points else ""
    print(f"{len(points)} graded, {len(results) - len(points)} failed{middle}.")
    for problem in missing:
        print(f"Not in the gradebook: {problem}")
    print(f"Gradebook: {of.gradebook}\nMarks: {of.folder / 'grades.csv'}\nReport: {of.folder / 'report.html'}")
