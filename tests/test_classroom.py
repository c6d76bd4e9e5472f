"""A class from hand-in to feedback: real sandbox, real gradebook, real nbgrader, real Dask. Nothing is faked."""

import csv
import shutil
import sqlite3
from contextlib import closing

import nbformat
import pytest
from nbgrader.apps import NbGraderApp
from typer.testing import CliRunner

from ctkd_lessons.course import cli
from ctkd_lessons.course.classroom.box import sandbox
from ctkd_lessons.course.lessons import ROOT, find

LESSON = find("08")
REFUSES = sandbox.ready()
pytestmark = pytest.mark.skipif(bool(REFUSES), reason=REFUSES)
WRONG = {
    "effective_sample_size": "def effective_sample_size(w):\n    return w.square().sum() / w.sum() ** 2",
    "density_ratio": "def density_ratio(*a):\n    while True: pass",
}
LOOP = "while True:\n    try:\n        while True:\n            x = 1\n    except BaseException:\n        pass"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A class of five, graded."""
    folder = tmp_path_factory.mktemp("class")
    shutil.copy(ROOT / "nbgrader_config.py", folder)
    for part in ("solutions", "exercises"):
        shutil.copytree(ROOT / part / LESSON.name, folder / part / LESSON.name)
    solution = LESSON.solution.read_text(encoding="utf-8")
    hand_in(folder, "Zoë Ångström", solution)
    hand_in(folder, "李 明", edited(solution, WRONG))
    hand_in(folder, "empty", LESSON.exercise.read_text(encoding="utf-8"))
    hand_in(folder, "broken", solution[:5000])
    hand_in(folder, "endless", edited(solution, {"mmd": LOOP}))
    done = ctkd(folder, "--jobs", "2", "--seconds", "20")
    assert done.exit_code == 0, done.output
    assert "3 graded, 2 failed" in done.output
    return folder


def hand_in(folder, student, text):
    place = folder / "submitted" / student / LESSON.name
    place.mkdir(parents=True)
    (place / f"{LESSON.name}.ipynb").write_text(text, encoding="utf-8")


def edited(text, sources):
    work = nbformat.reads(text, as_version=4)
    for cell in work.cells:
        cell.source = sources.get(cell.id, cell.source)
    return nbformat.writes(work)


def ctkd(folder, *arguments):
    return CliRunner().invoke(cli.app, ["grade", "08", "--gradebook", str(folder / "gradebook.db"), *arguments])


def rows(folder):
    with (folder / "grading" / LESSON.name / "grades.csv").open(encoding="utf-8-sig", newline="") as file:
        return {row["student"]: row for row in csv.DictReader(file)}


def test_each_submission_ends_in_a_stated_result(folder):
    found = rows(folder)
    assert (float(found["Zoë Ångström"]["total"]), float(found["empty"]["total"])) == (18, 0)
    wrong = found["李 明"]
    assert float(wrong["total"]) == 18 - 2 - 2
    assert wrong["08.effective_sample_size mistakes"]
    assert wrong["08.density_ratio verdict"] == "stopped"
    assert "no whole notebook" in found["broken"]["reason"]
    assert "did not end within 20 s" in found["endless"]["reason"]
    assert "`while True:` was running" in found["endless"]["reason"]


def test_the_gradebook_the_table_and_the_report_agree(folder):
    query = (
        "SELECT a.student_id, SUM(g.auto_score), MAX(g.needs_manual_grade) FROM grade g "
        "JOIN submitted_notebook n ON g.notebook_id = n.id JOIN submitted_assignment a ON n.assignment_id = a.id "
        "GROUP BY a.student_id"
    )
    with closing(sqlite3.connect(folder / "gradebook.db")) as database:
        kept = {student: (points, manual) for student, points, manual in database.execute(query)}
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    table = rows(folder)
    assert {student: points for student, (points, _) in kept.items()} == {
        student: float(row["total"]) for student, row in table.items()
    }
    assert {student for student, (_, manual) in kept.items() if manual} == {"broken", "endless"}
    report = (folder / "grading" / LESSON.name / "report.html").read_text(encoding="utf-8")
    assert "5 submissions: 3 graded, 2 failed" in " ".join(report.split())


def test_feedback_holds_the_hint_and_the_points(folder, monkeypatch):
    monkeypatch.chdir(folder)
    NbGraderApp.launch_instance(["generate_feedback", LESSON.name])
    page = (folder / "feedback" / "李 明" / LESSON.name / f"{LESSON.name}.html").read_text(encoding="utf-8")
    row = rows(folder)["李 明"]
    assert "endless loop" in page
    assert row["08.effective_sample_size mistakes"]
    assert "Score: 14.0 / 18.0" in page


def test_nothing_is_graded_twice_and_a_replay_on_dask_gives_the_same_marks(folder):
    distributed = pytest.importorskip("distributed")
    assert "0 to grade" in ctkd(folder).output
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**options, host="127.0.0.1") as cluster:
        students = ("--student", "李 明", "--student", "broken", "--student", "Zoë Ångström")
        done = ctkd(folder, "--replay", "--dask", cluster.scheduler_address, *students)
    assert done.exit_code == 0, done.output
    assert "All 3 marks are the same" in done.output


def test_without_bubblewrap_nothing_is_run(folder, monkeypatch):
    before = rows(folder)
    monkeypatch.setenv("PATH", "/nowhere")
    done = ctkd(folder, "--again")
    assert done.exit_code == 2
    assert "apt-get install bubblewrap" in done.output
    assert rows(folder) == before
