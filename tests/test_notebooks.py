"""What is kept executed or generated is in step with its source; a broken notebook is caught."""

import os
import re
import subprocess
import sys
import tomllib

import nbformat
import pytest

from ctkd_lessons.course.authoring import (
    README_PICTURE,
    WIDGET,
    claims_page,
    conda_environment,
    exercise_sheet,
    readme_picture,
)
from ctkd_lessons.course.exercises import of_lesson
from ctkd_lessons.course.lessons import ROOT, lessons, read_notebook

KEPT_EXECUTED = [*sorted((ROOT / "notebooks").glob("*.ipynb")), *(lesson.solution for lesson in lessons())]
every_notebook = pytest.mark.parametrize("path", KEPT_EXECUTED, ids=lambda path: f"{path.parent.name}/{path.stem}")
every_lesson = pytest.mark.parametrize("lesson", lessons(), ids=lambda lesson: lesson.name)


# --- generated files --------------------------------------------------------------------------


@every_lesson
def test_exercise_sheet_is_what_the_solution_gives(lesson):
    assert exercise_sheet(read_notebook(lesson.solution)) == read_notebook(lesson.exercise), "run: make exercises"


def test_page_of_claims_is_what_the_lessons_say():
    page = (ROOT / "notebooks" / "claims.md").read_text(encoding="utf-8")
    assert page == claims_page(ROOT), "run: make claims"
    assert [path.name for path in (ROOT / "notebooks").glob("[01]*.ipynb") if f"]({path.name})" not in page] == []


def test_readmes_picture_is_the_lessons():
    assert README_PICTURE.read_bytes() == readme_picture(ROOT), "run: make claims"


def test_conda_environment_carries_the_pins():
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert (ROOT / "environment.yml").read_text(encoding="utf-8") == conda_environment(constraints), (
        "run: make environment"
    )
    assert "\n      - torch==2.13.0\n" in conda_environment(constraints)


def test_every_dependency_is_pinned_and_has_its_reason():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").lower()
    reasons = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for requirement in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        name = re.split(r"[<>=]", requirement)[0]
        assert f"\n{name}==" in pins, name
        assert f"`{name}`" in reasons, name


def test_the_readme_lists_every_lesson():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        assert f"notebooks/{path.name}" in readme, path.name


# --- solutions and their exercises ------------------------------------------------------------


@every_lesson
def test_solution_has_one_answer_and_one_check_per_exercise(lesson):
    cells = [cell for cell in read_notebook(lesson.solution).cells if "nbgrader" in cell.metadata]
    answers = [cell.metadata.nbgrader.grade_id for cell in cells if cell.metadata.nbgrader.solution]
    checks = {cell.metadata.nbgrader.grade_id: cell for cell in cells if cell.metadata.nbgrader.grade}
    exercises = of_lesson(lesson.number)
    assert answers == [exercise.name for exercise in exercises]
    assert list(checks) == [f"check_{exercise.name}" for exercise in exercises]
    for exercise in exercises:
        cell = checks[f"check_{exercise.name}"]
        assert cell.source == f'check("{exercise.id}", {exercise.name})'
        assert cell.metadata.nbgrader.points == exercise.points
        assert cell.metadata.nbgrader.locked


@every_lesson
def test_the_sheet_holds_no_answer(lesson):
    for cell in read_notebook(lesson.exercise).cells:
        assert not cell.get("outputs")
        assert "BEGIN SOLUTION" not in cell.source
        if cell.metadata.get("nbgrader", {}).get("solution"):
            assert cell.source.rstrip().endswith("raise NotImplementedError()")


# --- notebooks as they are kept ---------------------------------------------------------------


def unrun_cells(notebook):
    """nbval skips a cell without an execution count in silence."""
    return [cell.id for cell in notebook.cells if cell.cell_type == "code" and cell.execution_count is None]


@every_notebook
def test_kept_notebooks_are_clean(path):
    text = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert len(text) < 400_000
    assert not re.search(r"/(home|root|tmp|Users|work)/", text)
    assert unrun_cells(notebook) == []
    assert WIDGET not in text
    assert "widgets" not in notebook.metadata
    for cell in notebook.cells:
        assert re.fullmatch(r"[a-z0-9_-]+", cell.id), "give the cell a speaking id"
        if cell.cell_type == "code":
            assert len(cell.source.splitlines()) <= 25, cell.id
            assert all(output.get("name") != "stderr" for output in cell.outputs), cell.id
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    assert output.metadata["image/png"]["alt"] == output.data["text/plain"]


@every_lesson
def test_lessons_follow_the_template(lesson):
    text = "\n".join(cell.source for cell in read_notebook(lesson.notebook).cells)
    for part in ("**Claim.**", "What you will be able to do", "Notation", "When it fails", "Claims", "Summary"):
        assert part in text, part
    for part in ("Exercises", "Interview questions", "References"):
        assert part in text, part
    assert text.count("claim(") >= 5


@every_notebook
def test_links_between_files_lead_somewhere(path):
    for cell in read_notebook(path).cells:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", cell.source if cell.cell_type == "markdown" else ""):
            assert (path.parent / target).exists(), target


# --- nbval catches what it should -------------------------------------------------------------


def printed(text):
    return nbformat.v4.new_output("stream", text=text)


def broken(**changes):
    cell = nbformat.v4.new_code_cell("print(1 + 1)", execution_count=1)
    cell.outputs = [printed("2\n")]
    cell.update(changes)
    return nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": {"name": "python3", "display_name": "x"}})


def test_a_cell_that_was_never_run_is_caught():
    notebook = broken(execution_count=None, outputs=[])
    assert unrun_cells(notebook) == [notebook.cells[0].id]
    assert unrun_cells(broken()) == []


@pytest.mark.parametrize(
    ("notebook", "passes"),
    [
        (broken(), True),
        (broken(source="print(1 + 2)"), False),
        (broken(source="1 / 0"), False),
        (broken(source="while True: pass"), False),
        (broken(source="import os; os._exit(1)"), False),
        (broken(source="print('0.123 [0.1, 0.2]')", outputs=[printed("−0.4 [−0.5, +0.3]\n")]), True),
        (broken(source="print('0.123')", outputs=[printed("0.456\n")]), False),
    ],
    ids=["whole", "changed output", "error", "endless loop", "dead kernel", "measured number", "analytic number"],
)
def test_nbval_catches_broken_notebooks(tmp_path, notebook, passes):
    nbformat.write(notebook, tmp_path / "lesson.ipynb")
    options = ["--nbval", f"--nbval-sanitize-with={ROOT / 'tests/nbval.cfg'}", "--nbval-cell-timeout=3", "--rootdir=."]
    command = [sys.executable, "-m", "pytest", *options, "-c", os.devnull, "-q", "lesson.ipynb"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (run.returncode == 0) == passes, run.stdout
