"""The SQLite file that holds the reviews: opening it, and setting it aside if it is damaged."""

import sqlite3
from contextlib import closing
from itertools import count
from pathlib import Path

from ctkd_lessons.course.interview.reviews import Review, from_row
from ctkd_lessons.course.lessons import CourseError

VERSION = 1
WAIT = 30.0  # seconds until another window has written; it takes milliseconds
TABLE = """
create table if not exists reviews (
    question text not null, at text not null, rating integer not null, made text not null,
    language text not null, mock text not null, primary key (question, at))
"""
# What SQLite says of a file that is none of its own, or broken, or lacks the table it should have.
DAMAGED = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR)


def opened(path: Path) -> tuple[sqlite3.Connection, str]:
    """Return the file, ready to read and write, and a notice if a damaged one had to be set aside."""
    path.parent.mkdir(parents=True, exist_ok=True)
    notice = _set_aside(path) if _damage(path) else ""
    file = _connect(path)
    if _version(file) == 0:
        with file:
            file.execute("begin immediate")
            file.execute(TABLE)
            file.execute(f"pragma user_version = {VERSION}")
    return file, notice


def read(file: sqlite3.Connection, question_id: str | None = None) -> list[Review]:
    """Return the reviews of a question, or all, oldest first."""
    where = ("", ()) if question_id is None else ("where question = ?", (question_id,))
    columns = "question, at, rating, made, language, mock"
    return [from_row(row) for row in file.execute(f"select {columns} from reviews {where[0]} order by at", where[1])]


def add(file: sqlite3.Connection, reviews: list[Review]) -> int:
    """Add reviews that are not there yet, inside the caller's transaction; return how many these were."""
    before = file.total_changes
    file.executemany("insert or ignore into reviews values (?, ?, ?, ?, ?, ?)", [one.row() for one in reviews])
    return file.total_changes - before


def _connect(path: Path) -> sqlite3.Connection:
    # Transactions are begun by hand; SQLite's journal undoes those that a crash cut short.
    return sqlite3.connect(path, timeout=WAIT, isolation_level=None)


def _version(file: sqlite3.Connection) -> int:
    return file.execute("pragma user_version").fetchone()[0]


def _damage(path: Path) -> str:
    """Return what is wrong with the file, "" if nothing; raise ``CourseError`` for a file that is not ours."""
    if not path.exists():
        return ""
    with closing(_connect(path)) as file:
        try:
            version, tables = _version(file), file.execute("select count(*) from sqlite_master").fetchone()[0]
            if version > VERSION or (version == 0 and tables):
                raise CourseError(
                    f"{path} was written by a newer version of the course, or by another program, and was left as it "
                    "is. Update the course, or name another file: CTKD_INTERVIEW=FILE."
                )
            found = file.execute("pragma quick_check(1)").fetchone()[0]
            if version:
                read(file)
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF in DAMAGED:
                return str(error)
            raise
        except (TypeError, ValueError) as error:
            return str(error)
    return "" if found == "ok" else found


def _set_aside(path: Path) -> str:
    """Rename a damaged file and return what to tell; nothing if another window did it meanwhile."""
    from filelock import FileLock  # two windows must not set aside each other's new file

    with FileLock(f"{path}.lock", timeout=WAIT):
        reason = _damage(path)
        if not reason:
            return ""
        names = (path.with_name(f"{path.stem}.damaged-{number}{path.suffix}") for number in count(1))
        aside = next(name for name in names if not name.exists())
        path.rename(aside)
        journal = path.with_name(f"{path.name}-journal")
        if journal.exists():
            journal.rename(aside.with_name(f"{aside.name}-journal"))
    return (
        f"The file of what you practised is damaged ({reason}). It was set aside, unchanged, as {aside}. "
        "Practice begins anew. If you have exported your reviews: ctkd interview --import FILE."
    )
