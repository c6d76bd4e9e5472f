"""Marks in nbgrader's SQLite gradebook, and the notebooks that are handed back."""

import os
import signal
import sqlite3

import nbformat
import pytest
from classroom import EVIL, LESSON, failed, graded, hostile, make_class, sheet

from ctkd_lessons.course.classroom.names import student_id
from ctkd_lessons.course.classroom.nbgrading import database, gradebook
from ctkd_lessons.course.classroom.nbgrading.handback import autograded
from ctkd_lessons.course.lessons import CourseError, read_notebook

api = pytest.importorskip("nbgrader.api")


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """Make a gradebook with the lesson in it."""
    path = tmp_path_factory.mktemp("empty") / "gradebook.db"
    gradebook.prepare(path, make_class(path.parent))
    return path


@pytest.fixture
def lesson(tmp_path):
    return make_class(tmp_path)


@pytest.fixture
def book(empty, lesson):
    """Copy the empty gradebook to where a test may write."""
    path = lesson.root / "gradebook.db"
    path.write_bytes(empty.read_bytes())
    return path


def rows(book, query, *values):
    with sqlite3.connect(book) as db:
        return db.execute(query, values).fetchall()


def marks(book, student):
    """Return check cell → automatic score, manual score, extra credit, whether to look at it."""
    with api.Gradebook(f"sqlite:///{book}", "ctkd") as nbgrader:
        submitted = nbgrader.find_submission_notebook(LESSON, LESSON, student)
        return {
            grade.name: (grade.auto_score, grade.manual_score, grade.extra_credit, grade.needs_manual_grade)
            for grade in submitted.grades
        }


def comments(book, student):
    with api.Gradebook(f"sqlite:///{book}", "ctkd") as nbgrader:
        submitted = nbgrader.find_submission_notebook(LESSON, LESSON, student)
        return {comment.name: (comment.auto_comment, comment.manual_comment) for comment in submitted.comments}


def dump(book):
    with sqlite3.connect(book) as db:
        return list(db.iterdump())


# --- making a gradebook -----------------------------------------------------------------------


def test_a_new_gradebook_holds_the_lessons_cells_and_points(empty):
    with api.Gradebook(f"sqlite:///{empty}", "ctkd") as nbgrader:
        notebook = nbgrader.find_notebook(LESSON, LESSON)
        points = {cell.name: cell.max_score for cell in notebook.grade_cells}
        assert points["check_kd_loss"] == 3
        assert sum(points.values()) == notebook.max_score == 16
        assert {cell.name for cell in notebook.solution_cells} == {name.removeprefix("check_") for name in points}
        assert nbgrader.find_assignment(LESSON).course_id == "ctkd"
        assert "BEGIN SOLUTION" not in nbgrader.find_source_cell("kd_loss", LESSON, LESSON).source
    assert rows(empty, "PRAGMA integrity_check") == [("ok",)]
    assert rows(empty, "SELECT COUNT(*) FROM alembic_version") == [(1,)]


def test_preparing_again_keeps_marks_and_takes_over_changed_text(book, lesson):
    gradebook.write(book, lesson, graded("Anna Li", wrong=["soften"]), sheet(lesson))
    before = marks(book, "Anna Li")
    solution = read_notebook(lesson.solution)
    next(cell for cell in solution.cells if cell.id == "broken_distil").source += "\n# a remark"
    nbformat.write(solution, lesson.solution)
    gradebook.prepare(book, lesson)
    assert marks(book, "Anna Li") == before
    assert rows(book, "SELECT source FROM source_cell WHERE name = 'broken_distil'")[0][0].endswith("# a remark")


def test_a_due_date_survives(book, lesson):
    with api.Gradebook(f"sqlite:///{book}", "ctkd") as nbgrader:
        nbgrader.update_or_create_assignment(LESSON, duedate="2026-11-01 12:00:00 UTC")
    gradebook.prepare(book, lesson)
    assert rows(book, "SELECT duedate FROM assignment")[0][0].startswith("2026-11-01 12:00:00")


def refusal(book, lesson):
    before = book.read_bytes()
    with pytest.raises(CourseError) as caught:
        gradebook.prepare(book, lesson)
    assert book.read_bytes() == before
    return str(caught.value)


def test_what_is_no_gradebook_is_refused(lesson):
    book = lesson.root / "gradebook.db"
    book.write_text("student,points\nAnna,3\n" * 100)
    assert "no gradebook" in refusal(book, lesson)
    book.unlink()
    with sqlite3.connect(book) as db:
        db.execute("CREATE TABLE recipes (name TEXT)")
    assert "no gradebook of nbgrader" in refusal(book, lesson)
    book.unlink()
    book.mkdir()
    with pytest.raises(CourseError, match="is a folder"):
        gradebook.prepare(book, lesson)


def test_another_courses_gradebook_is_refused(book, lesson):
    with sqlite3.connect(book) as db:
        db.execute("UPDATE assignment SET course_id = 'algebra'")
        db.execute("UPDATE course SET id = 'algebra' WHERE id = 'ctkd'")
    assert "another course: 'algebra', not 'ctkd'" in refusal(book, lesson)
    with sqlite3.connect(book) as db:
        db.execute("DELETE FROM assignment")
    assert "another course: 'algebra'" in refusal(book, lesson)


@pytest.mark.parametrize(
    "change",
    ["UPDATE grade_cells SET max_score = 5", "UPDATE base_cell SET name = 'x' WHERE name = 'check_kd_loss'"],
)
def test_a_lesson_with_other_cells_or_points_is_refused(book, lesson, change):
    with sqlite3.connect(book) as db:
        db.execute(change)
    said = refusal(book, lesson)
    assert "check_kd_loss" in said
    assert f"nbgrader generate_assignment {LESSON} --force" in said


def test_a_locked_gradebook_is_said_to_be_locked(book, lesson, monkeypatch):
    monkeypatch.setattr(database, "WAIT", 0.1)
    other = sqlite3.connect(book)
    other.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(CourseError, match=r"locked. Another program is writing"):
            gradebook.prepare(book, lesson)
    finally:
        other.close()


@pytest.mark.parametrize("text", ["attempt to write a readonly database", "database or disk is full"])
def test_what_the_database_reports_comes_with_what_to_do(book, text):
    with pytest.raises(CourseError, match=r"(permissions|make room)"), database.explained(book):
        raise sqlite3.OperationalError(text)


def test_no_folder_is_named(lesson):
    with pytest.raises(CourseError, match="nowhere"):
        gradebook.prepare(lesson.root / "nowhere" / "gradebook.db", lesson)


# --- marks ------------------------------------------------------------------------------------


def test_points_and_hints_arrive(book, lesson):
    result = graded("Anna Li", wrong=["kd_loss"], submitted="2026-11-01 10:00:00 UTC")
    gradebook.write(book, lesson, result, sheet(lesson))
    assert marks(book, "Anna Li")["check_kd_loss"] == (1.5, None, None, False)
    assert marks(book, "Anna Li")["check_distil"] == (4, None, None, False)
    said = comments(book, "Anna Li")
    assert said["distil"] == (None, None)
    assert said["kd_loss"][0].startswith("This is the KL divergence with teacher and student swapped")
    assert result.marks[1].details[0] in said["kd_loss"][0]
    assert rows(book, "SELECT timestamp FROM submitted_assignment") == [("2026-11-01 10:00:00.000000",)]


def test_writing_twice_changes_nothing(book, lesson):
    for result in (graded("Anna Li", wrong=["kd_loss"]), failed("Bob", "Endless loop.")):
        gradebook.write(book, lesson, result, sheet(lesson))
        before, file = dump(book), (lesson.root / "autograded" / result.student / LESSON / f"{LESSON}.ipynb")
        content = file.read_bytes()
        gradebook.write(book, lesson, result, sheet(lesson))
        assert dump(book) == before
        assert file.read_bytes() == content


def test_what_was_given_by_hand_stays(book, lesson):
    gradebook.write(book, lesson, graded("Anna Li", wrong=["kd_loss", "soften"]), sheet(lesson))
    with api.Gradebook(f"sqlite:///{book}", "ctkd") as nbgrader:
        grade = nbgrader.find_grade("check_kd_loss", LESSON, LESSON, "Anna Li")
        grade.manual_score, grade.extra_credit, grade.needs_manual_grade = 2.5, 0.5, False
        nbgrader.find_comment("kd_loss", LESSON, LESSON, "Anna Li").manual_comment = "Nearly!"
        nbgrader.db.commit()
    gradebook.write(book, lesson, graded("Anna Li", wrong=["kd_loss", "soften"]), sheet(lesson))
    assert marks(book, "Anna Li")["check_kd_loss"] == (1.5, 2.5, 0.5, False)
    gradebook.write(book, lesson, graded("Anna Li"), sheet(lesson))
    # Graded anew with another outcome: the mark by hand counts, and is shown for review.
    assert marks(book, "Anna Li")["check_kd_loss"] == (3, 2.5, 0.5, True)
    assert marks(book, "Anna Li")["check_soften"] == (2, None, None, False)
    assert comments(book, "Anna Li")["kd_loss"] == (None, "Nearly!")


def test_a_failed_submission_is_shown_for_manual_grading(book, lesson):
    kept = graded("", wrong=["kd_loss"]).marks[:2]
    gradebook.write(book, lesson, failed("Bob", "It was stopped after 60 s.", kept), None)
    found = marks(book, "Bob")
    assert found["check_soften"] == (2, None, None, True)
    assert found["check_distil"] == (None, None, None, True)
    said = comments(book, "Bob")
    assert said["distil"] == ("Not graded: It was stopped after 60 s.", None)
    assert said["kd_loss"][0].startswith("Not graded: It was stopped after 60 s.\n\nThis is the KL divergence")
    with api.Gradebook(f"sqlite:///{book}", "ctkd") as nbgrader:
        assert [one["needs_manual_grade"] for one in nbgrader.submission_dicts(LESSON)] == [True]
    # Looked at and resolved: the same result does not bring it back.
    with sqlite3.connect(book) as db:
        db.execute("UPDATE grade SET needs_manual_grade = 0")
    gradebook.write(book, lesson, failed("Bob", "It was stopped after 60 s.", kept), None)
    assert not any(mark[3] for mark in marks(book, "Bob").values())


def test_nobody_elses_marks_change(book, lesson):
    gradebook.write(book, lesson, graded("Anna Li"), sheet(lesson))
    before = marks(book, "Anna Li"), comments(book, "Anna Li")
    gradebook.write(book, lesson, graded("Anna", wrong=["kd_loss"]), sheet(lesson))
    gradebook.write(book, lesson, failed("Anna Li ", "x"), None)
    assert (marks(book, "Anna Li"), comments(book, "Anna Li")) == before


@pytest.mark.parametrize("student", ["Анна Петрова", "李雷", "O'Brien", "Anna Maria Li", "müller & sons; 1"])
def test_names_are_kept(book, lesson, student):
    gradebook.write(book, lesson, graded(student), sheet(lesson))
    assert rows(book, "SELECT id FROM student") == [(student,)]
    assert (lesson.root / "autograded" / student / LESSON / f"{LESSON}.ipynb").exists()


BAD_NAMES = ['x";alert(1);"', "<img src=x>", "a[b]*", "50%22", "\u202egnp", "tab\there", " x", "n" * 250, "\udcff"]


def test_names_that_a_page_would_trip_over_are_replaced_and_told_apart(book, lesson):
    for student in BAD_NAMES:
        gradebook.write(book, lesson, graded(student), sheet(lesson))
    kept = [name for (name,) in rows(book, "SELECT id FROM student")]
    assert len(kept) == len(BAD_NAMES)
    assert not any(set(name) & set('<>"\\%#[]*?\t\u202e') or len(name) > 100 or name != name.strip() for name in kept)
    assert student_id("a_b") == "a_b"
    assert student_id("a[b") != student_id("a]b")


def test_a_wrong_time_is_no_reason_to_lose_a_mark(book, lesson):
    for time in ("yesterday, honestly", "9" * 40, ""):
        gradebook.write(book, lesson, graded("Anna Li", submitted=time), sheet(lesson))
        assert rows(book, "SELECT timestamp FROM submitted_assignment") == [(None,)]


def test_late_work_loses_what_the_configured_plugin_says(book, lesson):
    config = lesson.root / "nbgrader_config.py"
    config.write_text(config.read_text() + '\nc.LateSubmissionPlugin.penalty_method = "zero"\n')
    database._settings.cache_clear()
    with api.Gradebook(f"sqlite:///{book}", "ctkd") as nbgrader:
        nbgrader.update_or_create_assignment(LESSON, duedate="2026-11-01 12:00:00 UTC")
    for student, time in {"late": "2026-11-01 14:00:00 CET", "in time": "2026-11-01T12:59:59+01:00"}.items():
        gradebook.write(book, lesson, graded(student, wrong=["kd_loss"], submitted=time), sheet(lesson))
    query = "SELECT student_id, late_submission_penalty FROM submitted_notebook n JOIN submitted_assignment a ON a.id ="
    assert sorted(rows(book, query + " n.assignment_id")) == [("in time", None), ("late", 14.5)]
    gradebook.write(book, lesson, graded("late", submitted="2026-11-01 11:00:00 UTC"), sheet(lesson))
    assert ("late", None) in rows(book, query + " n.assignment_id")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_leaves_all_marks_of_a_student_or_none(book, lesson, monkeypatch):
    gradebook.write(book, lesson, graded("Anna Li"), sheet(lesson))
    before = dump(book)
    for name in ("_add_rows", "_mark", "_penalty"):
        child = os.fork()
        if not child:
            monkeypatch.setattr(gradebook, name, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
            gradebook.write(book, lesson, graded("Bob"), sheet(lesson))
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        assert dump(book) == before
    gradebook.write(book, lesson, graded("Bob"), sheet(lesson))
    assert sum(mark[0] for mark in marks(book, "Bob").values()) == 16
    assert rows(book, "PRAGMA integrity_check") == [("ok",)]


def test_a_lesson_that_is_not_in_the_gradebook_is_named(book, lesson):
    with sqlite3.connect(book) as db:
        db.execute("DELETE FROM notebook")
    with pytest.raises(CourseError, match=f"holds no {LESSON}"):
        gradebook.write(book, lesson, graded("Anna Li"), sheet(lesson))


# --- the notebook that is handed back ---------------------------------------------------------


def by_name(notebook):
    named = [(cell.metadata.nbgrader.grade_id, cell) for cell in notebook.cells if "nbgrader" in cell.metadata]
    assert len({name for name, _ in named}) == len(named)
    return dict(named)


def test_the_handed_back_notebook_shows_answers_and_what_the_grader_said(lesson):
    work = sheet(lesson)
    for cell in work.cells:
        if cell.cell_type == "code":
            cell.outputs = [nbformat.v4.new_output("stream", text="forged: all points")]
    back = autograded(lesson, graded("Anna Li", wrong=["kd_loss"]), work)
    nbformat.validate(back)
    cells = by_name(back)
    assert 'return "my <b>answer</b>"' in cells["kd_loss"].source
    shown = cells["check_kd_loss"].outputs[0].data
    assert shown["text/plain"].startswith("✘ 01.kd_loss (1.5 of 3 points): This is the KL divergence")
    assert "<em>teacher" in shown["text/html"]
    assert "forged" not in nbformat.writes(back)
    assert [cell.id for cell in back.cells] == [cell.id for cell in work.cells]


def test_locked_cells_are_restored_missing_ones_put_back_double_ones_used_once(lesson):
    work = sheet(lesson)
    cells = by_name(work)
    cells["check_kd_loss"].source = "print('full marks')"
    cells["check_kd_loss"].metadata.nbgrader.points = 300
    cells["imports"].metadata.nbgrader.locked = False
    cells["imports"].source = "import evil"
    work.cells = [cell for cell in work.cells if cell not in (cells["check_soften"], cells["distil"])]
    work.cells += [cells["kd_loss"], cells["check_kd_loss"], nbformat.v4.new_code_cell("def helper(): ...", id="h")]
    back = autograded(lesson, graded("Anna Li"), work)
    nbformat.validate(back)
    assert {name: cell.metadata.nbgrader for name, cell in by_name(back).items()} == {
        name: cell.metadata.nbgrader for name, cell in by_name(read_notebook(lesson.exercise)).items()
    }
    text = "\n".join(cell.source for cell in back.cells)
    assert text.count('check("01.kd_loss", kd_loss)') == text.count('check("01.soften", soften)') == 1
    assert text.count("def kd_loss(") == 2  # the second one is text, for whoever wonders which was meant
    assert "full marks" not in text
    assert "import evil" not in text
    assert "def helper" in text
    assert by_name(back)["distil"].source == "# This cell is missing."


@pytest.mark.parametrize("readable", [True, False])
def test_a_failed_submission_says_why_on_top(lesson, readable):
    back = autograded(lesson, failed("Bob", f"It wrote \x1b[2J and {EVIL}"), sheet(lesson) if readable else None)
    nbformat.validate(back)
    shown = back.cells[0].outputs[0].data
    assert "It wrote ⟨U+001B⟩[2J" in shown["text/plain"]
    assert "<script" not in shown["text/html"]
    assert "&lt;script&gt;" in shown["text/html"]
    assert ("my <b>answer</b>" in nbformat.writes(back)) == readable


def test_nothing_of_a_hostile_notebook_but_its_text_is_handed_back(lesson):
    back = autograded(lesson, graded("Eve"), hostile(lesson))
    nbformat.validate(back)
    assert set(back.metadata) == {"kernelspec", "language_info"}
    ours = {cell.id: cell.metadata for cell in read_notebook(lesson.exercise).cells}
    assert all(cell.metadata == ours.get(cell.id, {}) for cell in back.cells)
    kept = [output for cell in back.cells for output in cell.get("outputs", [])]
    assert "pwned" not in str(kept)


def test_a_text_that_no_utf8_file_can_hold_is_no_reason_to_stop(book, lesson):
    work = sheet(lesson)
    by_name(work)["kd_loss"].source += "\n# \ud800"
    gradebook.write(book, lesson, graded("Anna Li"), work)
    read_notebook(lesson.root / "autograded" / "Anna Li" / LESSON / f"{LESSON}.ipynb")
