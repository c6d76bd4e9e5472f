"""Grading one submission: what the sandbox holds, what comes out, what it earns."""

import dataclasses

import nbformat
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from ctkd_lessons.course.classroom.box import sandbox
from ctkd_lessons.course.classroom.box.plain import pack, unpack
from ctkd_lessons.course.classroom.box.rooms import exercises_of, rooms
from ctkd_lessons.course.classroom.box.slicing import Library
from ctkd_lessons.course.classroom.grade import credit, grade
from ctkd_lessons.course.classroom.results import Result
from ctkd_lessons.course.classroom.submission import LARGEST, Task, cells_to_run, find, notebook
from ctkd_lessons.course.exercises.description import Exercise
from ctkd_lessons.course.lessons import ROOT, CourseError, lessons, read_notebook
from ctkd_lessons.course.lessons import find as find_lesson

LESSONS = lessons()
every_lesson = pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
WHY_NOT = sandbox.ready()
in_sandbox = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
ONE = find_lesson("01")


def sheet(lesson=ONE, /, **answers):
    """Return a notebook's bytes: the exercise sheet with answers filled in, by grade_id."""
    made = read_notebook(lesson.exercise)
    for cell in made.cells:
        cell.source = answers.get(cell.metadata.get("nbgrader", {}).get("grade_id"), cell.source)
    return nbformat.writes(made).encode()


def solutions(lesson=ONE):
    """Return the right answers by grade_id."""
    cells = [cell for cell in read_notebook(lesson.solution).cells if "nbgrader" in cell.metadata]
    return {c.metadata.nbgrader.grade_id: c.source for c in cells if c.metadata.nbgrader.solution}


def graded(content, **settings):
    return grade(Task("Anna", ONE.name, content, **{"seed": 7, **settings}))


# --- what a sandbox holds ---------------------------------------------------------------------


@every_lesson
def test_each_exercise_has_one_room(lesson):
    placed = [name for room in rooms(lesson) for name in room.ids]
    assert sorted(placed) == sorted(exercise.id for exercise in exercises_of(lesson))


def test_a_function_that_one_exercise_gives_and_another_asks_for_parts_them():
    first, second = rooms(ONE)
    assert second.ids == ("01.distil",)
    assert "01.kd_loss" in first.ids
    assert "log_softmax" in second.files["ctkd_lessons/soft_targets.py"]
    assert "log_softmax" not in "".join(first.files.values())


def test_a_slice_holds_a_name_and_what_it_needs():
    text = "import math\nimport os\nA = 1\ndef f():\n    return math.pi + A\ndef g():\n    return f()\ndef h(): pass\n"
    library = Library({"m": text})
    assert library.closure([("m", "g")]) == {("m", name) for name in ("g", "f", "math", "A")}
    cut = library.cut(library.closure([("m", "f")]))["m"]
    assert "import math" in cut
    assert not any(word in cut for word in ("import os", "def g", "def h"))
    with pytest.raises(ValueError, match="binds no 'missing'"):
        library.closure([("m", "missing")])


# --- plain data -------------------------------------------------------------------------------

ARRAYS = nps.arrays(
    st.sampled_from(["float32", "float64", "int64", "bool", "<U3", "complex64"]),
    nps.array_shapes(min_dims=0, min_side=0),
)


@given(st.dictionaries(st.text(max_size=3), st.one_of(ARRAYS, st.text(), st.integers(), st.booleans())))
def test_what_is_packed_comes_back(value):
    again = unpack(pack(value))
    assert again.keys() == value.keys()
    for name, entry in value.items():
        assert type(again[name]) is type(entry)
        np.testing.assert_array_equal(again[name], entry)
        assert getattr(again[name], "dtype", None) == getattr(entry, "dtype", None)


@pytest.mark.parametrize(
    "forged",
    [
        None,
        [1, 2],
        {"array": "AAAA", "dtype": "|O", "shape": [1]},
        {"array": "AAAA", "dtype": "<f8", "shape": [10**9, 10**9]},
        {"array": "AAAA", "dtype": "<f8", "shape": [-1]},
        {"array": "AAAA", "dtype": "<f8", "shape": [True]},
        {"array": "%%%", "dtype": "<f8", "shape": [0]},
        {"array": "", "dtype": "nonsense", "shape": [0]},
        {"array": "", "dtype": "<U0", "shape": [10**9]},
        {"dict": [["a"]]},
        {"dict": [[1, 2]]},
        {"dict": {}},
        {"pickle": "gASVAAA="},
    ],
)
def test_what_was_never_packed_is_refused(forged):
    with pytest.raises(ValueError, match="packed"):
        unpack(forged)


# --- what was handed in -----------------------------------------------------------------------


def hand_in(folder, student, content=b"{}", name=None):
    place = folder / student / ONE.name
    place.mkdir(parents=True)
    (place / (name or f"{ONE.name}.ipynb")).write_bytes(content)
    return place


def test_submissions_are_found_by_student(tmp_path):
    for student in ("Zoë Ångström", "李 明", "o'neill; rm -rf"):
        hand_in(tmp_path, student)
    place = hand_in(tmp_path, "late")
    (place / "timestamp.txt").write_text("2026-11-20 23:59:59 UTC\n")
    (place / "torch.py").write_text("")
    (tmp_path / "absent" / "02_what_to_match").mkdir(parents=True)
    tasks = {task.student: task for task in find(tmp_path, ONE)}
    assert set(tasks) == {"Zoë Ångström", "李 明", "o'neill; rm -rf", "late"}
    assert tasks["late"].submitted == "2026-11-20 23:59:59 UTC"
    assert "torch.py" in tasks["late"].notes[0]


def test_a_misnamed_or_huge_notebook_is_told_as_such(tmp_path):
    hand_in(tmp_path, "a", name="my answers.ipynb")
    hand_in(tmp_path, "b", content=b" " * (LARGEST + 1))
    problems = [task.problem for task in find(tmp_path, ONE)]
    assert "my answers.ipynb" in problems[0]
    assert "Clear its outputs" in problems[1]


@pytest.mark.parametrize("make", [lambda place: None, lambda place: place.mkdir()], ids=["no folder", "empty"])
def test_no_submissions_say_where_they_belong(tmp_path, make):
    make(tmp_path / "submitted")
    with pytest.raises(CourseError, match=r"STUDENT/01_soft_targets/01_soft_targets\.ipynb"):
        find(tmp_path / "submitted", ONE)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no whole notebook"),
        (b"\xff\xfe", "no whole notebook"),
        (b"[" * 200_000, "no whole notebook|nested"),
        (b'{"cells": 3, "nbformat": 4, "nbformat_minor": 5, "metadata": {}}', "no whole notebook"),
        (b'{"cells": [], "nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": {"language": "R"}}}', "'R'"),
    ],
)
def test_what_is_no_python_notebook_is_told_as_such(content, words):
    with pytest.raises(CourseError, match=words):
        notebook(content)


def test_changed_locked_cells_run_as_they_were_and_are_noted():
    work = read_notebook(ONE.exercise)
    by_id = {cell.id: cell for cell in work.cells}
    by_id["imports"].source = "import this"
    by_id["check_soften"].source = "print('full marks')"
    by_id["check_kd_loss"].metadata.nbgrader.points = 99
    work.cells.remove(by_id["soften"])
    work.cells.append(by_id["kd_loss"])
    run, notes = cells_to_run(work, read_notebook(ONE.solution))
    assert not any("import this" in source or "full marks" in source for source in run)
    assert [source for source in run if source == read_notebook(ONE.solution).cells[1].source]
    told = " ".join(notes)
    for words in ("imports was changed", "check_soften was changed", "check_kd_loss was tagged anew"):
        assert words in told
    assert "soften is missing" in told
    assert "kd_loss stands 2 times" in told


# --- marks ------------------------------------------------------------------------------------


@in_sandbox
@every_lesson
def test_the_solution_earns_all_points(lesson):
    result = grade(Task("Anna", lesson.name, lesson.solution.read_bytes(), seed=3))
    assert (result.state, result.reason, result.notes) == ("graded", "", ())
    assert [mark.verdict for mark in result.marks] == ["passed"] * len(result.marks)
    assert result.points == result.out_of == sum(exercise.points for exercise in exercises_of(lesson))
    assert Result.from_record(result.as_record()) == result


@in_sandbox
def test_a_mixed_sheet_earns_what_it_is_worth_and_hears_the_hints():
    answers = {
        "soften": solutions()["soften"],
        "kd_loss": "def kd_loss(s, t, temperature):\n"
        "    p = F.softmax(t / temperature, -1)\n"
        "    terms = p * (F.log_softmax(t / temperature, -1) - F.log_softmax(s / temperature, -1))\n"
        "    return temperature**2 * terms.sum(-1).mean()",
        "kd_gradient_limit": "def kd_gradient_limit(s, t):\n    while True: pass",
        "correct_bias": "def correct_bias(logits, label, offset):\n    logits[:, label] += offset\n    return logits",
        "balanced_offset": "balanced_offset = 3",
        "distil": "def distil(:",
    }
    marks = {mark.exercise: mark for mark in graded(sheet(**answers)).marks}
    assert marks["01.soften"].points == 2
    assert (marks["01.kd_loss"].points, marks["01.kd_loss"].mistakes) == (1.5, ("not_detached",))
    assert marks["01.kd_gradient_limit"].verdict == "stopped"
    assert "endless loop" in marks["01.kd_gradient_limit"].headline
    assert "changes its input" in " ".join((marks["01.correct_bias"].headline, *marks["01.correct_bias"].details)) or (
        marks["01.correct_bias"].mistakes
    )
    assert 0 < marks["01.correct_bias"].points < 1
    assert "of type int" in marks["01.balanced_offset"].headline
    assert "There is no function `distil`" in marks["01.distil"].headline


@in_sandbox
def test_the_same_seed_gives_the_same_marks_and_another_other_inputs():
    content = sheet(soften="def soften(logits, temperature):\n    return torch.softmax(logits * temperature, -1)")
    first, again, other = (graded(content, seed=seed) for seed in (1, 1, 2))
    assert dataclasses.replace(first, seconds=0) == dataclasses.replace(again, seconds=0)
    assert other.marks[0].mistakes == first.marks[0].mistakes == ("multiplied",)


@in_sandbox
def test_a_cell_that_fails_or_hangs_costs_no_other_cell():
    work = nbformat.reads(sheet(**solutions()).decode(), as_version=4)
    work.cells.insert(1, nbformat.v4.new_code_cell("1 / 0"))
    work.cells.insert(2, nbformat.v4.new_code_cell("%matplotlib inline\nprint('hi')\ndisplay(3)"))
    result = graded(nbformat.writes(work).encode())
    assert result.points == result.out_of
    assert "begins with `1 / 0` stopped with ZeroDivisionError" in result.notes[0]


def test_a_submission_with_a_problem_fails_in_words_and_runs_nothing(monkeypatch):
    monkeypatch.setattr("ctkd_lessons.course.classroom.grade.run", None)
    result = graded(b"", problem="There is no notebook.")
    assert (result.state, result.reason, result.points, result.out_of) == ("failed", "There is no notebook.", 0, 16)


@in_sandbox
def test_the_private_variant_of_the_guide_takes_the_place_of_an_exercise():
    guide = (ROOT / "docs" / "teaching.md").read_text(encoding="utf-8")
    private = guide.partition("```python\n")[2].partition("```")[0]
    usual = graded(sheet(kd_loss=solutions()["kd_loss"]), private=private).marks[1]
    assert (usual.title, usual.points, usual.mistakes) == ("The reverse divergence", 0, ("forward",))
    reverse = (
        "def kd_loss(s, t, T):\n    log_s, log_t = F.log_softmax(s / T, -1), F.log_softmax(t.detach() / T, -1)\n"
        "    return T**2 * F.kl_div(log_t, log_s, reduction='batchmean', log_target=True)"
    )
    assert graded(sheet(kd_loss=reverse), private=private).marks[1].points == 3


CASES = [{"x": np.asarray(v)} for v in (9.0, 9.0, 9.0, 4.0)]


def seen(value, **beside):
    return {"value": np.asarray(value), "type": "torch.Tensor", **beside}


@pytest.mark.parametrize(
    ("given", "share"),
    [
        ([1.0, 2.0, 3.0, 4.0], 1.0),
        ([1.0, 2.0, 3.0, 5.0], 0.75),
        ([1.0, 2.0, 0.0, 0.0], 0.5),
        ([1.0, 0.0, 0.0, 0.0], 0.0),
    ],
)
def test_credit_is_the_share_of_right_inputs_from_one_half_on(given, share):
    assert credit(CASES, [seen(v) for v in (1.0, 2.0, 3.0, 4.0)], [seen(v) for v in given]) == share


@pytest.mark.parametrize(("value", "share"), [(1.0, 0.5), (4.0, 0.0)], ids=["computed", "an input given back"])
def test_credit_is_half_where_only_something_beside_a_computed_value_is_wrong(value, share):
    expected, found = (seen(value, **{"gradient into `t`": word}) for word in ("none", "some"))
    assert credit(CASES[3:], [expected], [found]) == share


# --- without bubblewrap -----------------------------------------------------------------------


def test_without_bubblewrap_nothing_is_run_and_the_way_to_get_it_is_told(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert "apt-get install bubblewrap" in sandbox.ready()


def test_a_bubblewrap_that_cannot_make_a_sandbox_is_told(monkeypatch, tmp_path):
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert "No permissions to create new namespace" in sandbox.ready()


def test_every_exercise_is_of_the_class_that_rooms_look_for():
    assert all(type(exercise) is Exercise for lesson in LESSONS for exercise in exercises_of(lesson))
