"""Attacks by code: every submission ends in a stated result, gains nothing, and leaves nothing behind."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from functools import partial
from itertools import pairwise

import hostile
import nbformat
import psutil
import pytest

from ctkd_lessons.course.classroom import grade
from ctkd_lessons.course.classroom.box import rooms, sandbox, syscalls
from ctkd_lessons.course.classroom.submission import Task
from ctkd_lessons.course.examine import cases_of, differs, examine, expected_of, observe
from ctkd_lessons.course.exercises import MODULES, of_lesson
from ctkd_lessons.course.lessons import find, read_notebook

SECRET = "what only the host knows"
REFUSES = sandbox.ready()
sandboxed = pytest.mark.skipif(bool(REFUSES), reason=REFUSES)


class Host:
    """Grades sheets and knows what must not change."""

    def __init__(self, monkeypatch, folder):
        self.folder = folder
        self.canary = folder / "canary.txt"
        for path in (self.canary, folder / "gradebook.db", folder / "submitted" / "berta" / "berta.ipynb"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(SECRET)
            path.chmod(0o666)
        self.outcomes = []
        (folder / "temp").mkdir()
        self.before = self.state()
        monkeypatch.setattr(tempfile, "tempdir", str(folder / "temp"))
        monkeypatch.setenv("CTKD_SECRET", SECRET)
        self.limit = lambda **limits: monkeypatch.setattr(grade, "Limits", partial(sandbox.Limits, **limits))
        monkeypatch.setattr(grade, "run", self._run)

    def state(self):
        """Return what lies in the folder, the grader's temporary files among it."""
        return {path: path.read_text() if path.is_file() else "" for path in self.folder.rglob("*")}

    def _run(self, files, request, limits):
        # What nobody here trains with takes a second to load.
        outcome = sandbox.run(files, request | {"dynamo": False}, limits)
        self.outcomes.append(outcome)
        return outcome

    def grade(self, work, seconds=60.0, **limits):
        """Grade a notebook under limits; afterwards nothing may be left."""
        self.limit(**{"cell_seconds": 20.0, "exercise_seconds": 1.5} | limits)
        start = time.monotonic()
        result = grade.grade(Task("anna", hostile.LESSON.name, nbformat.writes(work).encode(), seed=5, seconds=seconds))
        assert time.monotonic() - start < seconds + 10
        assert not left_behind()
        assert self.state() == self.before
        json.dumps(result.as_record(), ensure_ascii=False).encode()
        return result


@pytest.fixture
def host(monkeypatch, tmp_path):
    return Host(monkeypatch, tmp_path)


def left_behind():
    """Return processes that belong to a sandbox of ours."""
    found = [*psutil.Process().children(recursive=True), *inside(os.getpid())]
    return [one for one in found if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def inside(grader):
    """Yield the processes in the sandbox of a grader that is root."""
    for process in psutil.process_iter():
        try:
            if process.uids().real == 200_000 + grader:
                yield process
        except psutil.NoSuchProcess:
            continue


def points(result):
    return {mark.exercise.partition(".")[2]: mark.points for mark in result.marks}


@sandboxed
@pytest.mark.parametrize("attack", hostile.BY_CODE, ids=lambda attack: attack.name)
def test_an_attack_gains_nothing_and_says_how_it_ended(host, attack):
    limits = dict(attack.limits)
    result = host.grade(hostile.sheet(attack.cell, attack.answers), limits.pop("seconds", 60.0), **limits)
    assert (result.state, bool(result.reason)) == (("failed", True) if attack.reason else ("graded", False)), result
    assert attack.reason in result.reason
    assert attack.note in " ".join(result.notes)
    earned = points(result)
    assert earned.pop(hostile.RIGHT) == (2.0 if attack.keeps else 0.0)
    assert set(earned.values()) == {0.0}
    said = {mark.exercise.partition(".")[2]: mark.headline for mark in result.marks}
    for name, words in attack.headlines.items():
        assert words in said[name], said
    assert all(len(line) < 3000 for mark in result.marks for line in (mark.headline, *mark.details))


@sandboxed
def test_nothing_of_the_host_can_be_reached(host, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        name = f"ctkd-test-{os.getpid()}"
        abstract.bind(f"\0{name}")
        abstract.listen()
        known = {
            "SECRET": SECRET,
            "CANARY": str(host.canary),
            "FOLDER": str(tmp_path),
            "PORT": server.getsockname()[1],
            "ABSTRACT": name,
            "PLACES": [str(hostile.LESSON.solution), str(hostile.LESSON.root / "ctkd_lessons" / "features.py")],
        }
        result = host.grade(hostile.probes(**known))
    printed = host.outcomes[-1].printed.splitlines()
    assert [line[6:] for line in printed if line.startswith("tried ")] == list(hostile.PROBES), result
    assert [line for line in printed if line.startswith("GOT")] == []
    assert result.points == points(result)[hostile.RIGHT] == 2.0
    assert result.state == "graded"


@sandboxed
@pytest.mark.skipif(os.geteuid() != 0, reason="by their user the processes inside are told apart for root only")
def test_a_grader_that_is_killed_takes_everything_inside_with_it(tmp_path):
    daemon = "import ctypes, os\nctypes.CDLL(None).prctl(1, 0)\nif not os.fork(): os.setsid()\nwhile True: pass"
    task = Task("anna", hostile.LESSON.name, nbformat.writes(hostile.sheet(daemon)).encode())
    program = f"from ctkd_lessons.course.classroom import grade, submission\ngrade.grade(submission.{task!r})"
    grader = subprocess.Popen([sys.executable, "-c", program], env=os.environ | {"TMPDIR": str(tmp_path)})
    wait_until(lambda: len(list(inside(grader.pid))) > 1)
    grader.kill()
    grader.wait()
    wait_until(lambda: not list(inside(grader.pid)))


def wait_until(happened):
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@sandboxed
def test_after_all_that_a_good_submission_has_full_marks(host):
    result = host.grade(read_notebook(hostile.LESSON.solution), exercise_seconds=10.0)
    assert (result.state, result.points) == ("graded", result.out_of)


@pytest.mark.parametrize(("name", "events"), hostile.forged_events().items(), ids=lambda value: str(value)[:40])
def test_what_is_forged_is_read_without_harm(host, monkeypatch, name, events):
    lines = "\n".join(json.dumps(event) for event in [{"ready": True}, *events, {"changed": []}])
    outcome = sandbox.Outcome(list(sandbox._events(lines.encode())))
    monkeypatch.setattr(grade, "run", lambda *arguments: outcome)
    start = time.monotonic()
    result = host.grade(hostile.sheet())
    assert time.monotonic() - start < 5
    assert result.points == 0
    assert len(json.dumps(result.as_record())) < 20_000


def test_the_filter_knows_its_machines():
    for machine in syscalls.MACHINES:
        program = syscalls.program(machine)
        assert len(program) % 8 == 0
        assert program[-8] == syscalls.RETURN
    for numbers, others in pairwise(sorted(syscalls.REFUSED.values())):
        assert numbers[0] != others[0]
    assert len({numbers[1] for numbers in syscalls.REFUSED.values()}) == len(syscalls.REFUSED)
    with pytest.raises(ValueError, match="expected one of x86_64, aarch64, got 'sparc'"):
        syscalls.program("sparc")


def test_an_unknown_machine_runs_nothing(monkeypatch):
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: "/usr/bin/bwrap")
    monkeypatch.setattr(syscalls, "is_known", lambda: False)
    monkeypatch.setattr(sandbox.subprocess, "run", lambda *a, **k: pytest.fail("something was run"))
    assert "Nothing was run" in sandbox.ready()


@pytest.mark.parametrize("number", MODULES)
def test_no_room_holds_an_answer(number, tmp_path):
    """Whatever can be called in a room's files is no answer to an exercise of that room."""
    for room in rooms.rooms(find(number)):
        asked = [exercise for exercise in of_lesson(number) if exercise.id in room.ids]
        for path, source in room.files.items():
            for name, function in callables(path, source):
                passed = [one.id for one in asked if is_answer(one, function)]
                assert not passed, f"{path}: {name} passes {passed}"


def test_an_answer_in_a_room_would_be_found():
    exercise = of_lesson("02")[0]
    source = f"from ctkd_lessons.features import {exercise.reference.__name__} as innocent"
    assert [name for name, function in callables("room.py", source) if is_answer(exercise, function)] == ["innocent"]


def callables(path, source):
    """Run one of a room's files by itself; return what can be called there, but for libraries."""
    space = {"__name__": "ctkd_room", "__file__": path}
    exec(compile(source, path, "exec"), space)
    named = [(name, value) for name, value in space.items() if callable(value)]
    return [(name, value) for name, value in named if str(getattr(value, "__module__", "")).startswith("ctkd_")]


def is_answer(exercise, function):
    try:
        first = observe(exercise, function, cases_of(exercise)[0])
    except BaseException:  # noqa: BLE001 -- it was not made to be an answer
        return False
    return differs(expected_of(exercise)[0], first) is None and examine(exercise, function).passed


# What bubblewrap alone keeps out, without the limits that are set inside and without torch.
BY_BUBBLEWRAP = (
    *("environment", "arguments of the grader", "a file of the host", "writing a file of the host", "passwords"),
    *("root", "a user namespace", "a user namespace, by clone", "a file system of its own", "the memory of process 1"),
    *("uncounted memory: memfd", "uncounted memory: System V", "uncounted memory: a shared mapping"),
    *("uncounted memory: /dev/zero", "keys of the grader's session", "privileges of programs"),
)


@sandboxed
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_who_grades_without_being_root_is_as_safe(monkeypatch, host, tmp_path_factory):
    """Bubblewrap's side of it: this Python may lie where nobody else can read it, so the system's takes its place."""
    python = "/usr/bin/python3"
    if not os.access(python, os.X_OK):
        pytest.skip(f"there is no {python}")
    attempts = {name: hostile.PROBES[name] for name in BY_BUBBLEWRAP}
    course = tmp_path_factory.mktemp("course")
    (course / "inside.py").write_text(
        hostile.program(attempts, SECRET=SECRET, CANARY=str(host.canary), FOLDER="/nowhere")
    )
    for folder in (course, *course.parents[:-2]):
        folder.chmod(0o755)
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    with sandbox._filter() as calls:
        command = sandbox._bubblewrap(course, sandbox.Limits(), calls)
        for place in {str(place) for place in map(os.path.realpath, (sys.prefix, sys.base_prefix))}:
            at = command.index(place) - 1
            del command[at : at + 3]
        nobody = {"user": 65534, "group": 65534, "extra_groups": [], "pass_fds": (calls,), "env": {}}
        done = subprocess.run(
            [*command, python, "/course/inside.py"], capture_output=True, text=True, timeout=60, **nobody
        )
    lines = done.stdout.splitlines()
    assert [line[6:] for line in lines if line.startswith("tried ")] == list(attempts), done.stderr
    assert [line for line in lines if line.startswith("GOT")] == []
