"""Open, make and look over the SQLite file that is nbgrader's gradebook."""

import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

from nbformat import NotebookNode
from nbgrader.api import Gradebook
from nbgrader.apps.baseapp import NbGrader
from sqlalchemy import create_engine
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import Session
from traitlets.config import Config

from ctkd_lessons.course.lessons import CourseError, Lesson

WAIT = 10.0  # seconds that another program may keep the gradebook to itself
_OTHER = "To use another file: --gradebook FILE."
_ADVICE = {
    "locked": "Another program is writing into it: close it, or wait, and try again.",
    "readonly": "It may not be written: change its permissions, or those of its folder.",
    "unable to open": "It, or its folder, cannot be opened for writing: look at the permissions.",
    "full": "The disk is full: make room and try again.",
    "no such": "A newer nbgrader needs it brought up to date: copy it, then `nbgrader db upgrade`.",
    "not a database": f"It is no gradebook. {_OTHER}",
    "malformed": "It is damaged: bring it back from a copy.",
}


def settings(path: Path, lesson: Lesson) -> Config:
    """Return what nbgrader_config.py beside the gradebook says, else the one of the course folder."""
    return _settings(path.parent if (path.parent / "nbgrader_config.py").exists() else lesson.root)


@lru_cache(maxsize=8)
def _settings(folder: Path) -> Config:
    app = NbGrader(config_dir=str(folder), log_level="ERROR")
    app.load_cwd_config = False
    app.load_config_file()
    return app.config


def url(path: Path) -> str:
    """Return the address of a gradebook as nbgrader writes it."""
    return f"sqlite:///{path}"


@contextmanager
def session(path: Path) -> Iterator[Session]:
    """Open a gradebook; others may be writing, so it waits for them a while."""
    engine = create_engine(url(path), connect_args={"timeout": WAIT})
    try:
        with Session(engine) as session:
            yield session
    finally:
        engine.dispose()


def create(path: Path, course: str) -> None:
    """Make an empty gradebook; half a one is never seen."""
    # nbgrader calls alembic by name; it lies beside Python also where nobody activated the environment.
    search = os.environ.get("PATH", os.defpath)
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), search])
    try:
        with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            new = Path(folder, path.name)
            Gradebook(url(new), course).close()
            os.replace(new, path)
    finally:
        os.environ["PATH"] = search


def refuse_foreign(path: Path, course: str) -> None:
    """Raise ``CourseError`` for what is no gradebook, or another course's."""
    if path.is_dir():
        raise CourseError(f"{path} is a folder, no gradebook. {_OTHER}")
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", timeout=WAIT, uri=True)) as db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not {"course", "assignment", "grade"} <= tables:
            raise CourseError(f"{path} is no gradebook of nbgrader. {_OTHER}")
        used = {name for (name,) in db.execute("SELECT DISTINCT course_id FROM assignment")}
        # nbgrader adds "default_course" by itself.
        known = {name for (name,) in db.execute("SELECT id FROM course")} - {"default_course"}
    if used - {course} or (known and course not in known):
        others = ", ".join(sorted(map(repr, (used or known) - {course})))
        raise CourseError(f"{path} is the gradebook of another course: {others}, not {course!r}. {_OTHER}")


def refuse_other_cells(path: Path, gradebook: Gradebook, lesson: Lesson, sheet: NotebookNode) -> None:
    """Raise ``CourseError`` where the gradebook's lesson has other check cells or points than the sheet."""
    ours = [cell.metadata.nbgrader for cell in sheet.cells if cell.metadata.get("nbgrader", {}).get("grade")]
    wanted = {cell.grade_id: float(cell.points) for cell in ours}
    for notebook in gradebook.find_assignment(lesson.name).notebooks:
        found = {cell.name: cell.max_score for cell in notebook.grade_cells}
        if notebook.name != lesson.name or found != wanted:
            what = ", ".join(sorted(name for name, _ in found.items() ^ wanted.items())) or notebook.name
            raise CourseError(
                f"{path} holds a {lesson.name} with other cells or points ({what}). If you changed the lesson, "
                f"bring the gradebook up to date: nbgrader generate_assignment {lesson.name} --force. {_OTHER}"
            )


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what the database reports into what to do."""
    try:
        yield
    except (DatabaseError, sqlite3.DatabaseError) as error:
        text = str(getattr(error, "orig", error))
        advice = next((advice for sign, advice in _ADVICE.items() if sign in text), "")
        raise CourseError(f"The gradebook {path}: {text}. {advice}".strip()) from error
    except OSError as error:
        raise CourseError(f"The gradebook {path} cannot be written: {error.strerror or error}.") from error
