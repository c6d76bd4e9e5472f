"""The command line on a copy of the course: start, check, progress; and notebooks in every bad state."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from typer.testing import CliRunner

from ctkd_lessons.course import cli, doctor, progress
from ctkd_lessons.course.collect import overlay
from ctkd_lessons.course.lessons import ROOT, CourseError, Lesson, find, lessons, read_notebook
from ctkd_lessons.course.run import run_work

NAME = "01_soft_targets"
RIGHT = """def kd_loss(student_logits, teacher_logits, temperature):
    log_s = F.log_softmax(student_logits / temperature, dim=-1)
    log_t = F.log_softmax(teacher_logits.detach() / temperature, dim=-1)
    return temperature**2 * (log_t.exp() * (log_t - log_s)).sum(dim=-1).mean()
"""


@pytest.fixture
def lesson(tmp_path):
    """A course folder of its own, with a fresh sheet in my_work."""
    for folder in ("solutions", "exercises"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    lesson = Lesson(NAME, tmp_path)
    lesson.work.parent.mkdir(parents=True)
    shutil.copy(lesson.exercise, lesson.work)
    return lesson


def cell(notebook, cell_id):
    return next(one for one in notebook.cells if one.id == cell_id)


def edit(lesson, **sources):
    """Write sources into the learner's cells, by id."""
    notebook = nbformat.read(lesson.work, as_version=4)
    for cell_id, source in sources.items():
        cell(notebook, cell_id).source = source
    nbformat.write(notebook, lesson.work)
    return notebook


def outcome(lesson, **options):
    before = lesson.work.read_bytes()
    results, notes = run_work(lesson, **options)
    assert lesson.work.read_bytes() == before, "the learner's file was touched"
    assert sorted(path.name for path in lesson.work.parent.iterdir()) == [lesson.work.name]
    return {result.name: result for result in results}, notes


# --- ctkd check -------------------------------------------------------------------------------


def test_untouched_sheet_is_not_attempted(lesson):
    results, notes = outcome(lesson)
    graded = [result for result in results.values() if result.graded]
    assert len(graded) == 6
    assert all(not result.passed and "not attempted yet" in result.text for result in graded)
    assert notes == []


def test_solution_passes(lesson):
    shutil.copy(lesson.solution, lesson.work)
    results, notes = outcome(lesson)
    assert all(result.passed for result in results.values())
    assert notes == []


def test_one_right_one_wrong_one_crash(lesson):
    edit(
        lesson,
        kd_loss=RIGHT,
        soften="def soften(logits, temperature):\n    return torch.softmax(logits * temperature, -1)",
        correct_bias="def correct_bias(logits, label, offset):\n    return logits.nothing",
    )
    results, _ = outcome(lesson)
    assert results["check_kd_loss"].passed
    assert "multiplied by the temperature" in results["check_soften"].text
    assert "stopped with AttributeError" in results["check_correct_bias"].text


def test_a_learner_who_rewrites_the_check_gains_nothing(lesson):
    notebook = nbformat.read(lesson.work, as_version=4)
    solved = nbformat.read(lesson.solution, as_version=4)
    mine, theirs = cell(notebook, "check_kd_loss"), cell(solved, "check_kd_loss")
    mine.source = f"print({theirs.outputs[0].data['text/plain']!r})"
    mine.outputs, mine.execution_count = theirs.outputs, 3
    nbformat.write(notebook, lesson.work)
    results, _ = outcome(lesson)
    assert not results["check_kd_loss"].passed


def test_deleted_and_doubled_check_cells_are_noted(lesson):
    notebook = edit(lesson, kd_loss=RIGHT)
    notebook.cells = [one for one in notebook.cells if one.id != "check_kd_loss"]
    twin = nbformat.from_dict(cell(notebook, "check_soften"))
    twin.id = "twin"
    notebook.cells.append(twin)
    nbformat.write(notebook, lesson.work)
    results, notes = outcome(lesson)
    assert results["check_kd_loss"].passed
    assert sorted(notes) == [
        "The cell check_kd_loss is missing; this check put it back. Copy it from the exercise sheet.",
        "The cell check_soften stands 2 times in the notebook; it was used once.",
    ]


def test_an_endless_loop_ends(lesson):
    edit(lesson, soften="while True: pass", kd_loss=RIGHT)
    results, _ = outcome(lesson, seconds_per_cell=3)
    assert any("Timeout of 3 seconds" in result.text for result in results.values())
    assert not results["check_soften"].passed


def test_a_dead_kernel_is_reported_at_once(lesson):
    edit(lesson, soften="import os\nos._exit(1)")
    results, _ = outcome(lesson)
    assert any("The kernel stopped" in result.text for result in results.values())
    assert not any(result.passed for result in results.values() if result.graded)


def test_a_syntax_error_shows_where(lesson):
    edit(lesson, soften="def soften(logits, temperature):\nreturn logits", kd_loss=RIGHT)
    results, _ = outcome(lesson)
    assert any("the cell that begins with `def soften" in result.text for result in results.values())
    assert results["check_kd_loss"].passed


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is not a whole notebook"),
        ("{", "is not a whole notebook"),
        ('{"cells": [', "is not a whole notebook"),
        ("[1, 2]", "is not a whole notebook"),
        ("{}", "is not a whole notebook"),
        ('{"nbformat": 4, "nbformat_minor": 5, "metadata": {}}', "is not a whole notebook"),
        ('{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}', "belong to another lesson"),
        ('{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{"cell_type": "code"}]}', "notebook"),
    ],
)
def test_broken_notebooks_say_what_to_do(lesson, content, words):
    lesson.work.write_text(content)
    results, _ = outcome(lesson)
    assert words in results["notebook"].text


def test_half_a_file(lesson):
    text = lesson.work.read_text()
    lesson.work.write_text(text[: len(text) // 2])
    results, _ = outcome(lesson)
    assert "is not a whole notebook" in results["notebook"].text
    assert ".ipynb_checkpoints" in results["notebook"].text


def test_binary_file(lesson):
    lesson.work.write_bytes(b"\xff\xfe\x00\x01")
    results, _ = outcome(lesson)
    assert "cannot be read" in results["notebook"].text


def test_the_overlay_leaves_its_inputs_alone():
    solution = read_notebook(find("01").solution)
    work = read_notebook(find("01").exercise)
    copies = json.dumps(solution), json.dumps(work)
    overlay(work, solution)
    assert (json.dumps(solution), json.dumps(work)) == copies


def test_plain_pytest_does_the_same(lesson):
    edit(lesson, kd_loss=RIGHT)
    command = [sys.executable, "-m", "pytest", str(lesson.work.parent), f"--ctkd-root={lesson.root}", "-q"]
    run = subprocess.run([*command, f"--rootdir={lesson.root}"], cwd=lesson.root, capture_output=True, text=True)
    assert run.returncode == 1
    assert "5 failed" in run.stdout
    assert "`soften` is not attempted yet" in run.stdout


# --- ctkd start, progress, doctor, lab --------------------------------------------------------


@pytest.fixture
def command(lesson, monkeypatch):
    """The command line on the copy of the course."""
    monkeypatch.setattr(cli, "find", lambda text: find(text, lesson.root))
    monkeypatch.setattr(cli, "lessons", lambda: lessons(lesson.root))
    return lambda *arguments: CliRunner().invoke(cli.app, arguments)


def test_start_copies_and_never_overwrites(command, lesson):
    lesson.work.write_text("precious")
    result = command("start", "1")
    assert result.exit_code == 0
    assert "left as it is" in result.output
    assert lesson.work.read_text() == "precious"
    lesson.work.unlink()
    assert "ctkd check 01" in command("start", NAME).output
    assert lesson.work.read_bytes() == lesson.exercise.read_bytes()


@pytest.mark.parametrize("name", ["start", "check"])
def test_unknown_lesson_lists_the_known(command, name):
    result = command(name, "77")
    assert result.exit_code == 2
    assert "There are: 01_soft_targets" in result.output


def test_check_without_a_sheet_says_how_to_begin(command, lesson):
    lesson.work.unlink()
    result = command("check", "01")
    assert result.exit_code == 2
    assert "ctkd start 01" in result.output


def test_check_counts(command, lesson):
    edit(lesson, kd_loss=RIGHT)
    result = command("check", "01")
    assert result.exit_code == 1
    assert "✔ check_kd_loss" in result.output
    assert "1 of 6 exercises pass." in result.output


def test_progress_reads_saved_outputs(command, lesson):
    assert "not checked yet" in command("progress").output
    shutil.copy(lesson.solution, lesson.work)
    assert command("progress").output.count("passed") == 6
    lesson.work.write_text("{")
    assert "not a whole notebook" in command("progress").output
    lesson.work.unlink()
    assert progress.standings(lesson) == "not started: ctkd start 01"


def test_doctor_is_content_here_and_names_each_problem(monkeypatch, tmp_path):
    assert all(one.fine for one in doctor.examine()), [str(one) for one in doctor.examine() if not one.fine]
    monkeypatch.setenv("CTKD_SEED", "many")
    monkeypatch.setattr(doctor.sys, "version_info", (3, 9))
    monkeypatch.setattr(doctor, "PACKAGES", ("no-such-package", "numpy"))
    (tmp_path / "constraints.txt").write_text("numpy==0.1\n")
    problems = [str(one) for one in doctor.examine(tmp_path) if not one.fine]
    for words in (
        "Python 3.9",
        "no-such-package is not installed",
        "tested with 0.1",
        "notebooks are not",
        "CTKD_SEED",
    ):
        assert any(words in problem and "→" in problem for problem in problems), words


def test_lab_is_offline_and_hands_options_on(monkeypatch):
    called = []
    monkeypatch.setattr(
        cli.subprocess, "call", lambda command, **options: called.append((command, options["env"])) or 0
    )
    assert CliRunner().invoke(cli.app, ["lab", "--no-browser", "--port=8899"]).exit_code == 0
    assert {"--no-browser", "--port=8899", f"--ServerApp.root_dir={ROOT}"} <= set(called[0][0])
    assert called[0][1]["PATH"].startswith(str(Path(sys.executable).parent))


def test_a_folder_without_lessons_says_how_to_install(tmp_path):
    with pytest.raises(CourseError, match=r"pip install -e \."):
        lessons(tmp_path)


# --- what must stay light ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        ("import ctkd_lessons", ["torch", "numpy", "matplotlib"]),
        ("import ctkd_lessons.course.cli", ["torch", "numpy", "matplotlib", "pytest", "sklearn"]),
        ("import ctkd_lessons.course.collect", ["torch", "matplotlib", "sklearn"]),
    ],
)
def test_imports_nothing_heavy(code, heavy):
    run = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"], capture_output=True, text=True
    )
    assert not set(heavy) & set(run.stdout.split())
    assert run.returncode == 0, run.stderr
