"""The command ``ctkd``: start, check, progress, doctor, lab, interview, and for a class: grade."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from ctkd_lessons.course.lessons import ROOT, CourseError, Lesson, find, lessons

app = typer.Typer(help="The course on cross-task knowledge distillation.", no_args_is_help=True, add_completion=False)
GRADEBOOK = ROOT / "gradebook.db"
LessonName = Annotated[str, typer.Argument(metavar="LESSON", help='such as "01"')]


@app.command()
def start(lesson: LessonName) -> None:
    """Copy a lesson's exercise sheet into my_work/, where you work on it."""
    found = _find(lesson)
    where = found.work.relative_to(found.root)
    if found.work.exists():
        print(f"{where} is there already; it was left as it is. To begin anew, rename it and start again.")
        return
    found.work.parent.mkdir(parents=True, exist_ok=True)
    # Never over a file that appeared meanwhile: "x" fails if it exists.
    with found.work.open("x", encoding="utf-8") as file:
        file.write(found.exercise.read_text(encoding="utf-8"))
    print(f"Your sheet: {where}\nOpen it in JupyterLab (ctkd lab), and check it with: ctkd check {found.number}")


@app.command()
def check(lesson: LessonName) -> None:
    """Run your notebook of a lesson from top to bottom and check every exercise."""
    found = _find(lesson)
    if not found.work.exists():
        _stop(f"There is no {found.work.relative_to(found.root)} yet. Begin with: ctkd start {found.number}")
    from ctkd_lessons.course.run import run_work  # loads pytest, which the other commands do not need

    print(f"Running {found.work.relative_to(found.root)} …")
    results, notes = run_work(found)
    for result in results:
        if not result.passed or result.graded:
            print(result)
    for note in notes:
        print(f"note: {note}")
    graded = [result for result in results if result.graded]
    done = sum(result.passed for result in graded)
    print(f"{done} of {len(graded)} exercises pass.")
    if done < len(graded) or not all(result.passed for result in results):
        raise typer.Exit(1)


@app.command()
def progress() -> None:
    """Show what your saved notebooks say of every exercise."""
    from ctkd_lessons.course.progress import standings

    for lesson in lessons():
        print(lesson.name)
        standing = standings(lesson)
        if isinstance(standing, str):
            print(f"    {standing}")
            continue
        for one in standing:
            print(f"    {one.verdict:16} {one.exercise:24} {one.title}")


@app.command()
def doctor() -> None:
    """Look for what would spoil the course on this machine, and say what to do."""
    from ctkd_lessons.course.doctor import examine

    diagnoses = examine()
    print(*diagnoses, sep="\n")
    if not all(one.fine for one in diagnoses):
        raise typer.Exit(1)
    print("All is well.")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def lab(
    context: typer.Context,
    formgrader: Annotated[bool, typer.Option("--formgrader", help="open nbgrader's formgrader instead")] = False,
) -> None:
    """Open JupyterLab on the first notebook; further options go to "jupyter lab"."""
    first = "/lab?formgrader=true" if formgrader else "/lab/tree/notebooks/00_start_here.ipynb"
    # Nothing leaves the machine: JupyterLab would look for news and newer versions of itself, and ask whether it may.
    options = ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    settings = [str(Path(__file__).parent / "jupyter"), *filter(None, [os.environ.get("JUPYTER_CONFIG_PATH")])]
    # Not as an argument: that would make the notebook's folder the root, and put my_work/ out of reach.
    options += [f"--ServerApp.root_dir={ROOT}", f"--LabApp.default_url={first}"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # in a container, where JupyterLab would refuse
        options += ["--allow-root"]
    command = [sys.executable, "-m", "jupyterlab", *options, *context.args]
    # A terminal in JupyterLab should find "ctkd" too.
    path = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    environment = os.environ | {"JUPYTER_CONFIG_PATH": os.pathsep.join(settings), "PATH": os.pathsep.join(path)}
    raise typer.Exit(subprocess.call(command, cwd=ROOT, env=environment))


@app.command()
def interview(
    topic: Annotated[str | None, typer.Argument(metavar="TOPIC", help="only this topic, such as soft_targets")] = None,
    level: Annotated[int | None, typer.Option(help="only this level, 1 to 3; of a mock interview, the highest")] = None,
    kind: Annotated[str | None, typer.Option(help="only this kind, such as derivation or coding")] = None,
    language: Annotated[str, typer.Option(help="en or zh")] = "en",
    mock: Annotated[
        float | None, typer.Option(metavar="MINUTES", help="hold a mock interview of so many minutes")
    ] = None,
    role: Annotated[str, typer.Option(help="of the mock interview: research, engineer or applied")] = "applied",
    search: Annotated[str, typer.Option(metavar="TEXT", help="list the questions with these words, and choose")] = "",
    history: Annotated[bool, typer.Option("--history", help="show how practice went so far")] = False,
    export: Annotated[Path | None, typer.Option(metavar="FILE", help="write your answers into a new file")] = None,
    import_: Annotated[
        Path | None, typer.Option("--import", metavar="FILE", help="add the answers of such a file")
    ] = None,
    anki: Annotated[Path | None, typer.Option(metavar="FILE", help="write a deck for Anki, such as cards.apkg")] = None,
    sheet: Annotated[Path | None, typer.Option(metavar="FILE", help="write a page to print, such as page.html")] = None,
) -> None:
    """Practise interview questions: cards that come back when they are due, or a mock interview."""
    if anki or sheet:
        _write_out(anki, sheet, language, topic)
        return
    from ctkd_lessons.course.interview import terminal

    def practice(at: terminal.Terminal) -> None:
        if import_:
            at.import_(import_)
        if export:
            at.export(export)
        if history:
            at.progress()
        if mock is not None:
            at.mock_interview(mock, role)
        elif search:
            at.search(search)
        elif not (import_ or export or history):
            at.cards()

    try:
        terminal.run(practice, language, topic, level, kind)
    except CourseError as error:
        _stop(str(error))


@app.command()
def grade(
    lesson: LessonName,
    submissions: Annotated[
        Path | None,
        typer.Option(help="folder of STUDENT/LESSON/LESSON.ipynb; if not given, submitted/ by the gradebook"),
    ] = None,
    gradebook: Annotated[Path, typer.Option(help="nbgrader's database; all results lie beside it")] = GRADEBOOK,
    jobs: Annotated[int | None, typer.Option(min=1, help="how many at once  [default: one per CPU]")] = None,
    dask: Annotated[str, typer.Option(metavar="ADDRESS", help="grade on the workers of this Dask cluster")] = "",
    replay: Annotated[bool, typer.Option("--replay", help="grade once more on the same inputs and compare")] = False,
    again: Annotated[bool, typer.Option("--again", help="grade also what is graded already")] = False,
    student: Annotated[list[str] | None, typer.Option(help="only this one, again; may be given several times")] = None,
    private: Annotated[Path | None, typer.Option(help="a module with exercises of your own")] = None,
    seconds: Annotated[float | None, typer.Option(min=1, help="how long a submission may run")] = None,
) -> None:
    """Grade what a class handed in, in a sandbox, into nbgrader's gradebook."""
    from ctkd_lessons.course.classroom.runs.handed_in import (  # the grader's packages are for instructors
        Class,
        private_text,
    )

    found = _find(lesson)
    gradebook = gradebook.absolute()
    folder = (submissions or gradebook.parent / "submitted").absolute()
    try:
        text = private_text(private, found) if private else ""
        of = Class(found, folder, gradebook, tuple(student or ()), text, seconds)
        if replay:
            from ctkd_lessons.course.classroom.runs.replay import replay as replay_class

            raise typer.Exit(0 if replay_class(of, jobs, dask) else 1)
        from ctkd_lessons.course.classroom.runs.run import grade_class

        grade_class(of, jobs, dask, again)
    except CourseError as error:
        _stop(str(error))
    except OSError as error:
        _stop(f"It cannot go on: {error}.")
    except KeyboardInterrupt:
        _stop("Stopped. The same command goes on from there.")


def _write_out(anki: Path | None, sheet: Path | None, language: str, topic: str | None) -> None:
    """Write the bank, or one topic of it, as files."""
    from ctkd_lessons.course.interview import anki as decks  # both load much that a card in the terminal needs not
    from ctkd_lessons.course.interview import bank
    from ctkd_lessons.course.interview import sheet as sheets

    try:
        if anki:
            print(f"{decks.deck(language, anki, questions=bank.questions(topic))} notes in {anki}.")
        if sheet:
            sheet.write_text(sheets.page(language, topic), encoding="utf-8")
            print(f"The page is in {sheet}.")
    except CourseError as error:
        _stop(str(error))
    except OSError as error:
        _stop(f"{error.filename} cannot be written: {error.strerror}. Choose another file.")


def _find(text: str) -> Lesson:
    try:
        return find(text)
    except CourseError as error:
        _stop(str(error))


def _stop(message: str) -> None:
    print(message, file=sys.stderr)
    raise typer.Exit(2)
