"""Marks into nbgrader's gradebook, and the graded notebooks beside it, where nbgrader looks for them.

nbgrader's own classes and tables, but one commit for each submission: whoever is stopped midway
leaves all of a student's marks or none. What an instructor entered by hand stays.
"""

from contextlib import closing
from datetime import datetime
from pathlib import Path

import nbformat
from dateutil.parser import ParserError
from nbformat import NotebookNode
from nbgrader.api import (
    Assignment,
    Comment,
    Grade,
    Gradebook,
    Notebook,
    Student,
    SubmittedAssignment,
    SubmittedNotebook,
)
from nbgrader.preprocessors import AssignLatePenalties, SaveCells
from nbgrader.utils import parse_utc
from sqlalchemy import select
from sqlalchemy.orm import Session
from traitlets.config import Config

from ctkd_lessons.course.authoring import exercise_sheet
from ctkd_lessons.course.classroom import files
from ctkd_lessons.course.classroom.names import student_id, visible
from ctkd_lessons.course.classroom.nbgrading import database
from ctkd_lessons.course.classroom.nbgrading.handback import autograded, said
from ctkd_lessons.course.classroom.results import Result
from ctkd_lessons.course.lessons import CourseError, Lesson, read_notebook

COURSE = "ctkd"


def prepare(path: Path, lesson: Lesson) -> None:
    """Make sure that the gradebook at ``path`` holds a lesson's cells and points; marks stay as they are.

    Raises ``CourseError`` for a file that is no gradebook, or another course's, or that cannot be written.
    """
    path, sheet = path.resolve(), exercise_sheet(read_notebook(lesson.solution))
    course = database.settings(path, lesson).CourseDirectory.get("course_id", COURSE)
    with database.explained(path):
        if not path.exists() or not path.stat().st_size:
            database.create(path, course)
        database.refuse_foreign(path, course)
        with closing(Gradebook(database.url(path), course)) as gradebook:
            gradebook.update_or_create_assignment(lesson.name)
            database.refuse_other_cells(path, gradebook, lesson, sheet)
        where = {"notebook": lesson.name, "assignment": lesson.name, "db_url": database.url(path)}
        SaveCells().preprocess(sheet, {"nbgrader": where})


def write(path: Path, lesson: Lesson, result: Result, notebook: NotebookNode | None) -> None:
    """Put one result into the gradebook, and the notebook with its marks into ``autograded/`` beside it.

    The same result twice changes nothing. ``notebook``: what was handed in, ``None`` if it cannot be read.
    """
    path, student = path.resolve(), student_id(result.student)
    shown = nbformat.writes(autograded(lesson, result, notebook)) + "\n"
    file = path.parent / "autograded" / student / lesson.name / f"{lesson.name}.ipynb"
    files.replace(file, shown.encode(errors="replace"))
    with database.explained(path), database.session(path) as db, db.begin():
        submitted = _submission(db, lesson, student, result.submitted)
        _mark(submitted, result)
        db.flush()
        submitted.late_submission_penalty = _penalty(db, submitted, database.settings(path, lesson))


def _submission(db: Session, lesson: Lesson, student: str, time: str) -> SubmittedNotebook:
    """Return a student's notebook in the gradebook, made if it is not there, with a row for every cell."""
    assignment = db.scalars(select(Assignment).where(Assignment.name == lesson.name)).one_or_none()
    notebook = next((one for one in assignment.notebooks if one.name == lesson.name), None) if assignment else None
    if notebook is None:
        raise CourseError(f"The gradebook holds no {lesson.name}. Run: nbgrader generate_assignment {lesson.name}")
    whose = (SubmittedAssignment.student_id == student, SubmittedAssignment.assignment_id == assignment.id)
    handed_in = db.scalars(select(SubmittedAssignment).where(*whose)).one_or_none()
    if handed_in is None:
        who = db.get(Student, student) or Student(id=student)
        handed_in = SubmittedAssignment(assignment=assignment, student=who)
    handed_in.timestamp = _time(time)
    found = next((one for one in handed_in.notebooks if one.notebook_id == notebook.id), None)
    submitted = found or SubmittedNotebook(assignment=handed_in, notebook=notebook)
    db.add(submitted)
    db.flush()
    _add_rows(submitted, notebook)
    return submitted


def _add_rows(submitted: SubmittedNotebook, notebook: Notebook) -> None:
    graded = {grade.cell_id for grade in submitted.grades}
    commented = {comment.cell_id for comment in submitted.comments}
    submitted.grades += [Grade(cell=cell) for cell in notebook.grade_cells if cell.id not in graded]
    submitted.comments += [Comment(cell=cell) for cell in notebook.solution_cells if cell.id not in commented]


def _time(text: str) -> datetime | None:
    try:
        return parse_utc(text) if text else None
    except (ParserError, OverflowError):
        return None


def _mark(submitted: SubmittedNotebook, result: Result) -> None:
    """Set what the grader found. By hand stays by hand; it is shown for review where the grader says otherwise now."""
    marks = {mark.exercise.partition(".")[2]: mark for mark in result.marks}
    comments = {comment.cell.name: comment for comment in submitted.comments}
    for grade in submitted.grades:
        name = grade.cell.name.removeprefix("check_")
        mark, comment = marks.get(name), comments.get(name)
        reason = f"Not graded: {visible(result.reason)}" if result.state == "failed" else ""
        text = "\n\n".join(filter(None, [reason, said(mark) if mark else ""])) or None
        points = mark.points if mark else None
        if (grade.auto_score, comment and comment.auto_comment) == (points, comment and text):
            continue
        grade.auto_score = points
        grade.needs_manual_grade = bool(reason) or mark is None or grade.manual_score is not None
        if comment:
            comment.auto_comment = text


def _penalty(db: Session, submitted: SubmittedNotebook, config: Config) -> float | None:
    """Return what nbgrader's late-submission plugin takes off; ``None`` for work in time."""
    seconds = submitted.assignment.total_seconds_late
    if not seconds:
        return None
    plugin = AssignLatePenalties(config=config).plugin_class(config=config)
    score = db.scalar(select(SubmittedNotebook.score).where(SubmittedNotebook.id == submitted.id))
    penalty = plugin.late_submission_penalty(submitted.assignment.student_id, score, seconds)
    return None if penalty is None else min(max(penalty, 0.0), score)
