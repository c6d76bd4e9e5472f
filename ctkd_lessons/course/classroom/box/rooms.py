"""Divide a lesson's exercises into rooms: what may lie beside a student's code while it is graded.

A sheet may import one lesson function and ask for another; a drive may need what another exercise asks
for. So each exercise has a room, what its drive and its own cells need, and answers, what its reference
and its wrong answers need beyond that. Exercises share a sandbox if no room holds an answer of the others.
"""

import ast
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType

from nbformat import NotebookNode

from ctkd_lessons.course import exercises as described
from ctkd_lessons.course.classroom.box.slicing import Library, Name
from ctkd_lessons.course.exercises.description import Exercise
from ctkd_lessons.course.lessons import ROOT, Lesson, read_notebook

PRIVATE = "ctkd_private"
HARNESS: tuple[Name, ...] = (
    ("ctkd_lessons.course.observing", "watch"),
    ("ctkd_lessons.course.classroom.box.plain", "pack"),
    ("ctkd_lessons.course.classroom.box.plain", "unpack"),
)
CHECK = 'def check(exercise_id, answer):\n    """Points come from elsewhere."""\n'
WITHHELD = """
def {name}(*arguments, **keywords):
    raise RuntimeError("`{name}` is not there while this exercise is graded: write out what it does")
"""


@dataclass
class Room:
    """Exercises that are graded in one sandbox; ``names``: what of the course it holds."""

    exercises: list[Exercise] = field(default_factory=list)
    names: set[Name] = field(default_factory=set)
    answers: set[Name] = field(default_factory=set)


@dataclass(frozen=True)
class Furnished:
    """A room as files.

    ``ids``: of its exercises; ``modules``: in which module each drive lies; ``files``: path → source;
    ``dynamo``: whether optimisers or vmap are in use, which load ``torch._dynamo``.
    """

    ids: tuple[str, ...]
    modules: dict[str, str]
    files: dict[str, str]
    dynamo: bool


def exercises_of(lesson: Lesson, private: str = "") -> tuple[Exercise, ...]:
    """Return a lesson's exercises; those of the private module take the place of the same id, others follow."""
    found = {exercise.id: exercise for exercise in described.of_lesson(lesson.number)}
    if private:
        mine = {exercise.id: exercise for exercise in _load(private).EXERCISES}
        found |= {name: exercise for name, exercise in mine.items() if name.partition(".")[0] == lesson.number}
    return tuple(found.values())


@cache
def _load(private: str) -> ModuleType:
    """Run the instructor's module: it is trusted, as the course's own are."""
    module = ModuleType(PRIVATE)
    exec(compile(private, f"{PRIVATE}.py", "exec"), module.__dict__)
    return module


@cache
def rooms(lesson: Lesson, private: str = "") -> tuple[Furnished, ...]:
    """Return the rooms of a lesson, as few as will do."""
    solution = read_notebook(lesson.solution)
    library = Library({"sheet": _locked_code(solution), **({PRIVATE: private} if private else {})})
    shared: list[Room] = []
    for exercise in exercises_of(lesson, private):
        one = _room_of(exercise, solution, library, private)
        host = next((room for room in shared if _get_on(room, one)), None)
        if host is None:
            shared.append(one)
        else:
            host.exercises += one.exercises
            host.names |= one.names
            host.answers |= one.answers
    return tuple(_furnish(room, solution, library, private) for room in shared)


def _get_on(a: Room, b: Room) -> bool:
    return not (a.names & b.answers or b.names & a.answers)


def _locked_code(solution: NotebookNode) -> str:
    cells = (cell for cell in solution.cells if cell.cell_type == "code" and "nbgrader" in cell.metadata)
    return "\n".join(c.source for c in cells if c.metadata.nbgrader.locked and not c.metadata.nbgrader.grade)


def _room_of(exercise: Exercise, solution: NotebookNode, library: Library, private: str) -> Room:
    module, described_as = _description(exercise.id, private)
    # What its own cells use, such as the broken training of a bug hunt, the sheet gives on purpose.
    given = library.used_by("sheet", ast.parse(_own_cells(exercise, solution)))
    names = library.closure([*HARNESS, *library.used_by(module, described_as["drive"]), *given])
    asked = [described_as["reference"], described_as["wrong"]]
    answers = library.closure(name for node in asked for name in library.used_by(module, node)) - names
    own = {name for name in answers if not _is_foundation(name, library)}
    return Room([exercise], {name for name in names if name[0] != "sheet"}, own)


def _own_cells(exercise: Exercise, solution: NotebookNode) -> str:
    """Return the code of an exercise in the solution: its answer, and what a bug hunt begins with."""
    names = exercise.name, f"broken_{exercise.name}"
    return "\n".join(cell.source for cell in solution.cells if cell.get("id") in names)


def _is_foundation(name: Name, library: Library) -> bool:
    """Whether a name gives nothing away: an import, or what the lessons stand on."""
    module = name[0].removeprefix("ctkd_lessons.").split(".")[0]
    return library.is_import(*name) or module in ("expect", "threads", "vectors", "hooks", "models", "data", "sources")


@cache
def _description(exercise_id: str, private: str) -> tuple[str, dict[str, ast.expr]]:
    """Return the module that describes an exercise, and the arguments of its ``Exercise(…)``."""
    folder = Path(described.__file__).parent
    texts = {PRIVATE: private} if private else {}
    texts |= {f"{described.__name__}.{file.stem}": file.read_text("utf-8") for file in sorted(folder.glob("*.py"))}
    for module, text in texts.items():
        for node in ast.walk(ast.parse(text)) if f'"{exercise_id}"' in text else ():
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Exercise":
                arguments = {keyword.arg: keyword.value for keyword in node.keywords}
                if getattr(arguments.get("id"), "value", None) == exercise_id:
                    return module, arguments
    raise ValueError(f"exercise: no module holds Exercise(id={exercise_id!r}, …), written out")


def _furnish(room: Room, solution: NotebookNode, library: Library, private: str) -> Furnished:
    sources = library.cut(room.names)
    for module, names in _imported_by_sheet(library).items():
        missing = sorted(name for name in names if (module, name) not in room.names)
        sources[module] = sources.get(module, "") + "".join(WITHHELD.format(name=name) for name in missing)
    sources["ctkd_lessons.course.check"] = CHECK
    modules = {}
    for exercise in room.exercises:
        module, described_as = _description(exercise.id, private)
        modules[exercise.id] = module
        sources.setdefault(module, "")
        drive = ast.unparse(described_as["drive"])
        sources[module] += f"\nDRIVE_{exercise.name} = {drive}\n"
    code = "".join([*sources.values(), *(_own_cells(exercise, solution) for exercise in room.exercises)])
    dynamo = "optim" in code or "vmap" in code
    return Furnished(tuple(exercise.id for exercise in room.exercises), modules, _files(sources), dynamo)


def _imported_by_sheet(library: Library) -> dict[str, set[str]]:
    """Return what the sheet's locked cells import from the course: module → names."""
    found: dict[str, set[str]] = {}
    for node in ast.walk(library.tree("sheet")):
        if isinstance(node, ast.ImportFrom) and node.module != "ctkd_lessons.course.check":
            for alias in node.names:
                if library.holds(f"{node.module}.{alias.name}"):
                    found.setdefault(f"{node.module}.{alias.name}", set())
                elif library.holds(node.module):
                    found.setdefault(node.module, set()).add(alias.name)
    return found


def _files(sources: dict[str, str]) -> dict[str, str]:
    """Return the modules as files, each package with its ``__init__.py``."""
    packages = {module.rpartition(".")[0] for module in sources}
    packages |= {".".join(name.split(".")[:n]) for name in packages for n in range(1, len(name.split(".")))} - {""}
    inits = {f"{name.replace('.', '/')}/__init__.py": "" for name in packages if name}
    places = {module: module.replace(".", "/") for module in sources}
    return inits | {
        f"{place}/__init__.py" if (ROOT / place).is_dir() else f"{place}.py": sources[module]
        for module, place in places.items()
    }
