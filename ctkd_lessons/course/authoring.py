"""The authors' tools: ``python -m ctkd_lessons.course.authoring --help``.

They keep what is generated in step with its source: executed notebooks, exercise sheets, the
page of claims, environment.yml. Tests compare each with what these functions would write.
"""

import base64
import hashlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated

import nbformat
import typer
from nbclient import NotebookClient
from nbformat import NotebookNode

from ctkd_lessons.course.lessons import ROOT, lessons, read_notebook

app = typer.Typer(help="Keep the generated files of the course in step.", no_args_is_help=True, add_completion=False)
WIDGET = "application/vnd.jupyter.widget-view+json"
README_PICTURE = ROOT / "docs" / "crossover.png"
SEEDS_SHOWN = "claims-other-seeds.json"


@app.command()
def notebooks(
    paths: Annotated[list[Path] | None, typer.Argument()] = None,
    jobs: Annotated[int, typer.Option(help="notebooks at a time, each on one thread")] = min(2, os.cpu_count() or 1),
) -> None:
    """Execute lessons and solutions in place and print the seconds each one takes."""
    given = paths or [*sorted((ROOT / "notebooks").glob("*.ipynb")), *(lesson.solution for lesson in lessons())]
    start = time.perf_counter()
    # A training keeps to one thread, so that a second core would have nothing to do.
    with ThreadPoolExecutor(jobs) as pool:
        for path, seconds in pool.map(partial(_refresh, one_thread=jobs > 1), given):
            print(f"{path.parent.name + '/' + path.name:60} {seconds:6.1f} s", flush=True)
    print(f"{len(given)} notebooks in {time.perf_counter() - start:.1f} s, {jobs} at a time")


def _refresh(path: Path, *, one_thread: bool) -> tuple[Path, float]:
    start = time.perf_counter()
    nbformat.write(tidy(execute(read_notebook(path), path.parent, one_thread=one_thread)), path)
    return path, time.perf_counter() - start


@app.command()
def exercises() -> None:
    """Generate the exercise sheets from the solutions."""
    for lesson in lessons():
        lesson.exercise.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(exercise_sheet(read_notebook(lesson.solution)), lesson.exercise)
        print(lesson.exercise.relative_to(ROOT))


@app.command()
def claims() -> None:
    """Write the page of all claims and README's picture from the executed lessons."""
    (ROOT / "notebooks" / "claims.md").write_text(claims_page(ROOT), encoding="utf-8", newline="\n")
    README_PICTURE.parent.mkdir(exist_ok=True)
    README_PICTURE.write_bytes(readme_picture(ROOT))


@app.command()
def interview() -> None:
    """Write each lesson's list of interview questions from the bank, and the figures of the bank's broken runs."""
    from ctkd_lessons.course.interview import runs
    from ctkd_lessons.course.interview.lists import lesson_section

    runs.main()
    for lesson in lessons():
        notebook = read_notebook(lesson.notebook)
        cell = next(cell for cell in notebook.cells if cell.id == "interview")
        cell.source = lesson_section(lesson.number, cell.source.splitlines()[0])
        nbformat.write(notebook, lesson.notebook)


@app.command()
def environment() -> None:
    """Write environment.yml from constraints.txt."""
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    (ROOT / "environment.yml").write_text(conda_environment(constraints), encoding="utf-8", newline="\n")


@app.command()
def sweep(
    seeds: Annotated[list[int], typer.Argument(help="values of CTKD_SEED")],
    lesson: Annotated[str, typer.Option(help="only the lesson of this number, such as 02")] = "",
) -> None:
    """Run lessons under other seeds and note, for each claim, where it held."""
    for seed in seeds:
        for path in sorted((ROOT / "notebooks").glob(f"{lesson or '[0-9]'}*.ipynb")):
            notebook = read_notebook(path)
            made = _claims(execute(notebook, path.parent, seed=seed, allow_errors=True))
            _note_held(ROOT / "notebooks" / SEEDS_SHOWN, path.stem, code_of(notebook), seed, made)
            broken = [claim["text"] for claim in made if not claim["holds"]]
            print(f"{path.stem} CTKD_SEED={seed}: {len(made)} claims, broken: {broken or 'none'}", flush=True)


def execute(
    notebook: NotebookNode, folder: Path, *, seed: int = 0, allow_errors: bool = False, one_thread: bool = False
) -> NotebookNode:
    """Run a notebook in its folder and return it with its outputs."""
    settings = {"CTKD_SEED": str(seed), "CTKD_NO_PROGRESS": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    settings |= {"OMP_NUM_THREADS": "1"} if one_thread else {}
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        allow_errors=allow_errors,
    )
    return client.execute(env=os.environ | settings)


def tidy(notebook: NotebookNode) -> NotebookNode:
    """Return a notebook without what differs from machine to machine: timings, widget state, versions."""
    notebook.metadata = NotebookNode(
        kernelspec={"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        language_info={"name": "python"},
    )
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            # A saved widget shows nothing without its kernel; its static twin stays.
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
    return notebook


def exercise_sheet(solution: NotebookNode) -> NotebookNode:
    """Return the sheet a learner gets, made by nbgrader's own preprocessors."""
    from nbgrader.preprocessors import CheckCellMetadata, ClearOutput, ClearSolutions, ComputeChecksums, LockCells

    sheet, resources = solution, {}
    for preprocessor in (LockCells, ClearSolutions, ClearOutput, CheckCellMetadata, ComputeChecksums):
        sheet, resources = preprocessor().preprocess(sheet, resources)
    return tidy(sheet)


def code_of(notebook: NotebookNode) -> str:
    """Return a fingerprint of a notebook's code: what was found with other code says nothing about this one."""
    source = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def claims_page(root: Path) -> str:
    """Return the page of all claims, read from the outputs of the executed lessons."""
    seeds_path = root / "notebooks" / SEEDS_SHOWN
    others = json.loads(seeds_path.read_text(encoding="utf-8")) if seeds_path.exists() else {}
    lines = [
        "# All claims of the course",
        "",
        "Generated by `make claims` from the executed lessons: the mean over seeds, its 95 % interval, the bound that",
        "the interval's near end must keep, and at how many other values of `CTKD_SEED` the claim held. Do not edit.",
    ]
    for path in sorted((root / "notebooks").glob("[0-9]*.ipynb")):
        notebook, found = read_notebook(path), others.get(path.stem, {})
        held = found["claims"] if found.get("code") == code_of(notebook) else {}
        rows = [_row(claim, held) for claim in _claims(notebook)]
        if rows:
            head = ["", f"## [{path.stem}]({path.name})", "", "| claim | measured | bound | seeds | other seeds |"]
            lines += [*head, "| --- | --- | --- | --- | --- |", *rows]
    return "\n".join(lines) + "\n"


def readme_picture(root: Path) -> bytes:
    """Return the figure of lesson 01 that README shows."""
    cells = read_notebook(root / "notebooks" / "01_soft_targets.ipynb").cells
    outputs = next(cell.outputs for cell in cells if cell.id == "crossover")
    return base64.b64decode(next(output.data["image/png"] for output in outputs if "data" in output))


def conda_environment(constraints: str) -> str:
    """Return environment.yml: python, pip and every pin of constraints.txt."""
    pins = [line for line in constraints.splitlines() if line and not line.startswith("#")]
    head = (
        "# Generated from constraints.txt by `make environment`. Do not edit.\nname: ctkd\nchannels:\n  - conda-forge\n"
    )
    packages = [f"      - '{pin}'" if ";" in pin else f"      - {pin}" for pin in [*pins, "-e ."]]
    return head + "dependencies:\n  - python=3.11\n  - pip\n  - pip:\n" + "\n".join(packages) + "\n"


def _note_held(file: Path, lesson: str, code: str, seed: int, made: list[dict]) -> None:
    """Add to the file at which seed each claim held; what was found with other code is dropped."""
    table = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if table.get(lesson, {}).get("code") != code:
        table[lesson] = {"code": code, "claims": {}}
    for claim in made:
        table[lesson]["claims"].setdefault(claim["text"], {})[str(seed)] = claim["holds"]
    file.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _claims(notebook: NotebookNode) -> list[dict]:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    records = [output.get("metadata", {}).get("ctkd", {}) for output in outputs]
    return [record["claim"] for record in records if "claim" in record]


def _row(claim: dict, others: dict[str, dict[str, bool]]) -> str:
    measured = claim["measured"]
    numbers = [f"{measured[key]:.3f}".replace("-", "−") for key in ("mean", "low", "high")]
    held = list(others.get(claim["text"], {}).values())
    elsewhere = f"{sum(held)} of {len(held)}" if held else "not yet run"
    interval = f"{numbers[0]} [{numbers[1]}, {numbers[2]}]"
    return f"| {claim['text']} | {interval} | {claim['bound']} | {measured['seeds']} | {elsewhere} |"


if __name__ == "__main__":
    app()
