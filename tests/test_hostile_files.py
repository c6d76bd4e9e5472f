"""Attacks by files: what a notebook may hold, what may lie in a submission's place, what an archive may unpack to."""

import json
import os
import socket
import stat
import struct
import tarfile
import time
import zipfile
from io import BytesIO

import hostile
import pytest
from traitlets.config import LoggingConfigurable

from ctkd_lessons.course.classroom import grade, submission
from ctkd_lessons.course.classroom.box import sandbox
from ctkd_lessons.course.classroom.submission import Task
from ctkd_lessons.course.lessons import read_notebook

LESSON = hostile.LESSON
NAME = f"{LESSON.name}.ipynb"
REFUSES = sandbox.ready()
sandboxed = pytest.mark.skipif(bool(REFUSES), reason=REFUSES)
NOT_RUN = sandbox.Outcome([{"ready": True}, {"changed": []}])


def graded(content, seconds=60.0):
    return grade.grade(Task("anna", LESSON.name, content, seed=5, seconds=seconds))


def looked_over(content, monkeypatch):
    """Grade without running anything: quickly, into a result that any file can hold, with no points."""
    monkeypatch.setattr(grade, "run", lambda *arguments: NOT_RUN)
    start = time.monotonic()
    result = graded(content)
    assert time.monotonic() - start < 5
    assert result.points == 0
    assert result.reason if result.state == "failed" else result.state == "graded"
    assert len(json.dumps(result.as_record(), ensure_ascii=False).encode()) < 20_000
    return result


def raw(**changes):
    """Return the sheet as plain JSON, with changes at its top."""
    return json.loads(json.dumps(hostile.sheet())) | changes


def changed(path, value):
    """Return the sheet with one thing replaced, or taken away where the value is ``del``."""
    work = raw()
    *way, last = path
    place = work
    for step in way:
        place = place[step]
    if value == "del":
        del place[last]
    else:
        place[last] = value
    return work


CELL = next(number for number, cell in enumerate(hostile.sheet().cells) if cell.get("id") == hostile.RIGHT)
ODD = (None, [], {}, 5, "x", True, [[]], {"a": 1}, float("inf"), "\ud800\0\u202e", "del")
PLACES = (
    *(("cells",), ("metadata",), ("nbformat",), ("metadata", "kernelspec"), ("metadata", "language_info")),
    *(("cells", CELL, key) for key in ("id", "source", "metadata", "cell_type", "outputs", "execution_count")),
    ("cells", CELL, "metadata", "nbgrader"),
    *(("cells", CELL, "metadata", "nbgrader", key) for key in ("grade_id", "grade", "locked", "solution")),
    *(("cells", 0), ("cells", CELL, "source")),
)


@pytest.mark.parametrize("path", PLACES, ids=lambda path: "-".join(map(str, path)))
def test_anything_may_stand_anywhere_in_a_notebook(monkeypatch, path):
    for value in ODD:
        looked_over(json.dumps(changed(path, value)).encode(), monkeypatch)


_EMPTY = {"cell_type": "raw", "metadata": {}, "source": ""}
_V3 = {"cells": [{"cell_type": "code", "input": "1", "language": "python", "metadata": {}, "outputs": []}]}
NOTEBOOKS = {
    "empty": (b"", "no whole notebook"),
    "blank": (b" \n", "no whole notebook"),
    "no JSON": (b"print(1)", "no whole notebook"),
    "truncated": (json.dumps(raw()).encode()[:3000], "no whole notebook"),
    "no text": (b"\x80\x04cos\nsystem\n(S'true'\ntR.", "no whole notebook"),
    "UTF-16": (json.dumps(raw()).encode("utf-16"), "no whole notebook"),
    "a list": (b"[1, 2]", "no whole notebook"),
    "100,000 deep": (b"[" * 100_000, "nested too deeply"),
    "deep in the metadata": (b'{"a":' * 100_000, "nested too deeply"),
    "a number of 5,000 digits": (b'{"nbformat": ' + b"9" * 5000 + b"}", "no whole notebook"),
    "version 2": (json.dumps({"nbformat": 2, "worksheets": [_V3], "metadata": {}}).encode(), "has the format 2"),
    "version 3": (json.dumps({"nbformat": 3, "worksheets": [_V3], "metadata": {}}).encode(), "has the format 3"),
    "version 9": (json.dumps(raw(nbformat=9)).encode(), "has the format 9"),
    "no cells": (json.dumps(raw(cells=[])).encode(), "another lesson"),
    "another lesson's cells": (json.dumps(raw(cells=[_EMPTY])).encode(), "another lesson"),
    "100,000 cells": (json.dumps(raw(cells=[_EMPTY] * 100_000)).encode(), "It has 100,000 cells"),
    "R": (json.dumps(raw(metadata={"kernelspec": {"name": "ir", "language": "R"}})).encode(), "written for 'R'"),
    "Julia": (json.dumps(raw(metadata={"language_info": {"name": "julia"}})).encode(), "written for 'julia'"),
}


@pytest.mark.parametrize(("content", "reason"), NOTEBOOKS.values(), ids=NOTEBOOKS)
def test_what_is_no_notebook_is_said_to_be_none(monkeypatch, content, reason):
    result = looked_over(content, monkeypatch)
    assert result.state == "failed"
    assert reason in result.reason


def test_broken_outputs_do_not_keep_the_grader_busy(monkeypatch):
    # nbformat takes minutes to say what is wrong with each of them.
    content = json.dumps(changed(("cells", CELL, "outputs"), [{"output_type": "x"}] * 200_000)).encode()
    assert looked_over(content, monkeypatch).state == "graded"


def tampered():
    """Return sheets whose cells were deleted, edited, doubled or tagged anew."""
    sheets = {name: hostile.sheet() for name in ("deleted", "edited", "doubled", "tagged")}
    cells = {name: {cell.get("id"): cell for cell in work.cells} for name, work in sheets.items()}
    for name in ("check_projected_hint", "check_attention_map", "imports"):
        sheets["deleted"].cells.remove(cells["deleted"][name])
    cells["edited"]["check_projected_hint"].source = "pass"
    cells["edited"]["imports"].source = "import torch\ncheck = lambda *a: 'right'"
    twice = cells["doubled"]["check_projected_hint"], cells["doubled"]["projected_hint"], cells["doubled"]["imports"]
    sheets["doubled"].cells += [one.copy() for one in twice]
    for name in ("check_projected_hint", "projected_hint", "similarity_loss"):
        cells["tagged"][name].metadata.nbgrader |= {"points": 1000, "grade": True, "locked": False, "solution": False}
    cells["tagged"]["distance_loss"].metadata.nbgrader.grade_id = "check_distance_loss"
    return sheets


NOTES = {
    "deleted": "The cell check_projected_hint is missing.",
    "edited": "The cell check_projected_hint was changed; grading uses the original.",
    "doubled": "The cell check_projected_hint stands 2 times.",
    "tagged": "The cell check_projected_hint was tagged anew.",
}


@sandboxed
@pytest.mark.parametrize("name", NOTES)
def test_tampering_with_cells_moves_no_point(monkeypatch, name):
    run = sandbox.run
    monkeypatch.setattr(grade, "run", lambda files, request, limits: run(files, request | {"dynamo": False}, limits))
    result = graded(json.dumps(tampered()[name]).encode())
    assert result.state == "graded"
    assert NOTES[name] in result.notes
    assert [mark.points for mark in result.marks] == [2.0, 0, 0, 0, 0, 0]
    assert result.out_of == 17


@pytest.fixture
def place(tmp_path):
    """Return the folder of anna's submission; a secret lies outside."""
    (tmp_path / "secret.ipynb").write_text("what only the host knows")
    folder = tmp_path / "submitted" / "anna" / LESSON.name
    folder.mkdir(parents=True)
    return folder


def found(place):
    (task,) = submission.find(place.parents[1], LESSON)
    assert b"only the host" not in task.content
    assert "only the host" not in str(task)
    return task


def a_link(place):
    (place / NAME).symlink_to(place.parents[2] / "secret.ipynb")


def a_link_to_a_device(place):
    (place / NAME).symlink_to("/dev/zero")


def a_pipe(place):
    os.mkfifo(place / NAME)


def a_socket(place):
    here = os.getcwd()
    os.chdir(place)  # a socket's address is short
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("s")
    os.rename("s", NAME)
    os.chdir(here)


def a_device(place):
    try:
        os.mknod(place / NAME, 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("only root makes devices")


def a_folder(place):
    (place / NAME).mkdir()


def nothing(place):
    (place / "answers.docx").write_text("")


def fifty_megabytes(place):
    with (place / NAME).open("wb") as file:
        file.truncate(50_000_000)


def a_linked_folder(place):
    place.rmdir()
    (place.parents[2] / "elsewhere").mkdir()
    (place.parents[2] / "elsewhere" / NAME).write_text("what only the host knows")
    place.symlink_to(place.parents[2] / "elsewhere")


def a_linked_student(place):
    a_linked_folder(place)
    place.unlink()
    place.parent.rmdir()
    (place.parents[2] / "home" / LESSON.name).mkdir(parents=True)
    (place.parents[2] / "home" / LESSON.name / NAME).write_text("what only the host knows")
    place.parent.symlink_to(place.parents[2] / "home")


def a_linked_timestamp(place):
    (place / NAME).write_text("{}")
    (place / "timestamp.txt").symlink_to(place.parents[2] / "secret.ipynb")


def a_timestamp_of_a_gigabyte(place):
    (place / NAME).write_text("{}")
    with (place / "timestamp.txt").open("wb") as file:
        file.truncate(1_000_000_000)


FILES = {
    a_link: "Is it a link?",
    a_link_to_a_device: "Is it a link?",
    a_pipe: "is no plain file",
    a_socket: "cannot be read",
    a_device: "is no plain file",
    a_folder: "is no plain file",
    nothing: "The folder holds: answers.docx",
    fifty_megabytes: "has 50.0 MB; at most 5 MB are read",
    a_linked_folder: "Links are not followed",
    a_linked_student: "Links are not followed",
    a_linked_timestamp: "timestamp.txt cannot be read",
    a_timestamp_of_a_gigabyte: "timestamp.txt has 1000.0 MB",
}


@pytest.mark.parametrize(("lay", "reason"), FILES.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_what_is_no_plain_file_is_not_read(place, monkeypatch, lay, reason):
    lay(place)
    task = found(place)
    assert reason in task.problem
    monkeypatch.setattr(grade, "run", lambda *arguments: pytest.fail("something was run"))
    result = grade.grade(task)
    assert (result.state, result.reason, result.points) == ("failed", task.problem, 0)


def test_names_that_are_no_text_do_not_end_the_class(place):
    (place / NAME).write_text("{}")
    for name in (b"\xff\xfe.py", b"torch.py", "\u202egnp.\x1b[2J".encode()):
        (place / os.fsdecode(name)).touch()
    result = grade.grade(found(place))
    assert "3 other files" in result.notes[0]
    json.dumps(result.as_record()["notes"], ensure_ascii=False).encode()


# --- archives ----------------------------------------------------------------------------------


def zipped(*members):
    """Return a zip of (name, content) or (ZipInfo, content)."""
    file = BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def lying_zip():
    """A zip whose directory says that 200 MB are 10 bytes."""
    content = zipped(("a.ipynb", bytes(200_000_000)))
    return content.replace(struct.pack("<I", 200_000_000), struct.pack("<I", 10))


def tarred(name, content=b"x"):
    file = BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        archive.addfile(info, BytesIO(content))
    return file.getvalue()


ARCHIVES = {
    "path traversal.zip": lambda: zipped(("../../evil", "x")),
    "backslash.zip": lambda: zipped(("..\\..\\evil", "x")),
    "newline.zip": lambda: zipped(("a\nb", "x")),
    "long name.zip": lambda: zipped(("x" * 5000, "x")),
    "bomb.zip": lambda: zipped(("a.ipynb", bytes(200_000_000))),
    "lying bomb.zip": lying_zip,
    "traversal.tar.gz": lambda: tarred("../../evil"),
    "bomb.tar.gz": lambda: tarred("a", bytes(200_000_000)),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_hostile_archive_unpacks_to_nothing(tmp_path, name):
    """At the limits that teachers have; more archives, at limits that are quickly passed, stand in test_nbgrader.py."""
    extract = pytest.importorskip("ctkd_lessons.course.classroom.nbgrading.extract")
    archives, target = tmp_path / "in" / "archive", tmp_path / "a" / "b" / "out"
    archives.mkdir(parents=True)
    target.mkdir(parents=True)
    (archives / name).write_bytes(ARCHIVES[name]())
    (archives / "honest.zip").write_bytes(zipped((f"anna/{NAME}", "{}")))
    before = {path for path in tmp_path.rglob("*") if target not in path.parents}
    extractor = extract.SafeExtractor(parent=LoggingConfigurable())
    start = time.monotonic()
    extractor.extract(str(archives), str(target))
    assert time.monotonic() - start < 20
    assert [path.relative_to(target) for path in target.rglob("*") if not path.is_dir()] == [
        (target / "honest" / "anna" / NAME).relative_to(target)
    ]
    assert {path for path in tmp_path.rglob("*") if target not in path.parents} == before
    assert not os.path.exists("/tmp/evil-ctkd")


def test_a_good_sheet_is_read_whole():
    work = read_notebook(LESSON.solution)
    read = submission.notebook(json.dumps(work).encode())
    assert [cell.source for cell in read.cells] == [cell.source for cell in work.cells]
    lines = raw()
    for cell in lines["cells"]:
        cell["source"] = cell["source"].splitlines(keepends=True)
    assert [cell.source for cell in submission.notebook(b"\xef\xbb\xbf" + json.dumps(lines).encode()).cells] == [
        cell.source for cell in hostile.sheet().cells
    ]
