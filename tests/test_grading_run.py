"""Grading a class, the run: what is kept, what is done again, and what happens when something breaks.

The grader itself is a fake (``fake_grading.py``); processes, signals, disks, databases and Dask are real.
"""

import errno
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest
from fake_grading import EXERCISES, FAKES, LESSON, Here, class_of, hand_in, not_ready, sign
from typer.testing import CliRunner

from ctkd_lessons.course import cli
from ctkd_lessons.course.classroom import submission
from ctkd_lessons.course.classroom.runs import journal as journals
from ctkd_lessons.course.classroom.runs import parts as opening
from ctkd_lessons.course.classroom.runs import replay as replaying
from ctkd_lessons.course.classroom.runs import run
from ctkd_lessons.course.classroom.runs.handed_in import fingerprint, rules_of, shown
from ctkd_lessons.course.classroom.runs.journal import Journal
from ctkd_lessons.course.classroom.runs.pool import KILLED, Processes, completed
from ctkd_lessons.course.lessons import CourseError

PROGRAM = [sys.executable, str(Path(__file__).with_name("fake_grading.py"))]
needs_bubblewrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")


@pytest.fixture
def here(monkeypatch):
    """Grade in this process; gives the list of what was graded."""
    for module in (run, replaying):
        monkeypatch.setattr(module, "opened_workers", lambda *_: nullcontext(Here()))
        monkeypatch.setattr(module, "the_parts", lambda: FAKES)
    monkeypatch.setattr(Here, "graded", [])
    return Here.graded


@pytest.fixture
def folder(tmp_path):
    hand_in(tmp_path, ana="right", bob="half", cleo="none")
    return tmp_path


def grade(folder, parts=FAKES, again=False, **options):
    run.grade_class(class_of(folder, **options), parts=parts, again=again)


def marks(folder):
    """Return what the gradebook says: student → points; and look whether the database is sound."""
    with closing(sqlite3.connect(folder / "gradebook.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return dict(db.execute("SELECT student, points FROM marks"))


def lines(folder):
    return [json.loads(line) for line in class_of(folder).journal.read_text().splitlines()]


def stopping(count, error):
    """Return parts whose gradebook breaks with the ``count``-th mark."""
    calls = []

    def write(*arguments):
        calls.append(arguments)
        if len(calls) == count:
            raise error
        FAKES.write(*arguments)

    return replace(FAKES, write=write)


# --- what is done, and what is not done again ----------------------------------------------------


def test_every_submission_ends_in_gradebook_table_and_report(folder, here, capsys):
    hand_in(folder, dora="raises")
    grade(folder)
    assert marks(folder) == {"ana": 6, "bob": 3, "cleo": 0, "dora": 0}
    assert (class_of(folder).folder / "report.html").read_text() == "4 results"
    table = (class_of(folder).folder / "grades.csv").read_text(encoding="utf-8-sig").splitlines()
    assert [row.split(",")[:2] for row in table[1:]] == [[name, "graded"] for name in ("ana", "bob", "cleo")] + [
        ["dora", "failed"]
    ]
    said = capsys.readouterr().out
    assert "✔ bob  3 of 6 points  0.1 s\n" in said
    assert "✘ dora  failed: The grader broke down over it (RuntimeError: ⟨U+001B⟩[2Jhere is <b>why</b>)." in said
    assert "3 graded, 1 failed, median 3 points.\n" in said
    assert [line["kind"] for line in lines(folder)] == ["run", *["result", "written"] * 4, "finished"]
    failed = Journal(class_of(folder).journal).entries["dora"].result
    assert [mark.exercise for mark in failed.marks] == [f"01.{name}" for name in EXERCISES]
    assert (failed.points, failed.out_of > 6) == (0, True)


def test_only_what_is_new_or_changed_is_graded(folder, here):
    grade(folder)
    here.clear()
    hand_in(folder, bob="right", emil="half")
    grade(folder)
    assert [task.student for task in here] == ["bob", "emil"]
    assert marks(folder) == {"ana": 6, "bob": 6, "cleo": 0, "emil": 3}
    here.clear()
    (folder / "submitted" / "ana" / LESSON.name / "torch.py").write_text("")
    (folder / "submitted" / "cleo" / LESSON.name / "timestamp.txt").write_text("2026-03-01 12:00:00 UTC")
    grade(folder)
    assert [task.student for task in here] == ["ana", "cleo"]


def test_a_mark_of_somebody_who_handed_in_nothing_any_more_stays(folder, here):
    grade(folder)
    shutil.rmtree(folder / "submitted" / "ana")
    grade(folder)
    assert marks(folder)["ana"] == 6
    assert (class_of(folder).folder / "report.html").read_text() == "3 results"


def test_again_grades_all_on_new_inputs_and_student_only_one(folder, here):
    grade(folder)
    first = {task.seed for task in here}
    here.clear()
    grade(folder, again=True)
    assert [task.student for task in here] == ["ana", "bob", "cleo"]
    second = {task.seed for task in here}
    assert (len(first), len(second), len(first & second)) == (1, 1, 0)
    here.clear()
    grade(folder, students=("bob",))
    assert [task.student for task in here] == ["bob"]
    assert {task.seed for task in here}.isdisjoint(first | second)
    with pytest.raises(CourseError, match=r"zoe has handed in nothing in .*There are: ana, bob, cleo"):
        grade(folder, students=("zoe",))


def test_an_unfinished_run_goes_on_with_its_seed(folder, here):
    with pytest.raises(CourseError, match=r"2 results are kept in .*results.jsonl. The same command goes on"):
        grade(folder, stopping(2, CourseError("The database is locked.")))
    seed = here[0].seed
    here.clear()
    grade(folder)
    assert [(task.student, task.seed) for task in here] == [("cleo", seed)]
    assert marks(folder) == {"ana": 6, "bob": 3, "cleo": 0}
    hand_in(folder, emil="right")
    grade(folder)
    assert here[-1].student == "emil"
    assert here[-1].seed != seed


def test_again_does_not_go_on_with_a_run_that_was_not_again(folder, here):
    with pytest.raises(CourseError):
        grade(folder, stopping(2, CourseError("Locked.")))
    seed = here[0].seed
    here.clear()
    grade(folder, again=True)
    assert [task.student for task in here] == ["ana", "bob", "cleo"]
    assert here[0].seed != seed


def test_an_unfinished_run_of_again_does_not_grade_twice(folder, here):
    grade(folder)
    before = here[0].seed
    with pytest.raises(CourseError):
        grade(folder, stopping(2, CourseError("Locked.")), again=True)
    here.clear()
    grade(folder, students=("ana",))  # in between: neither ends that run nor takes its seed
    ana = here[0].seed
    grade(folder, again=True)
    assert [task.student for task in here] == ["ana", "ana", "cleo"]
    seeds = {student: entry.result.seed for student, entry in Journal(class_of(folder).journal).entries.items()}
    assert seeds["ana"] == seeds["bob"] == seeds["cleo"] not in (before, ana)


def test_other_exercises_are_told_and_draw_a_new_seed(folder, here, monkeypatch, capsys):
    with pytest.raises(CourseError):
        grade(folder, stopping(2, CourseError("Locked.")))
    seed = here[0].seed
    monkeypatch.setattr(run, "rules_of", lambda name, private: "others")
    grade(folder)
    assert here[-1].seed != seed
    assert "2 were graded with other exercises, or another --private file. --again grades" in capsys.readouterr().out
    assert rules_of("01", "") != rules_of("01", "x") != rules_of("02", "x")


def test_a_new_gradebook_gets_all_marks(folder, here):
    grade(folder)
    (folder / "gradebook.db").unlink()
    here.clear()
    with pytest.raises(CourseError):  # nor are they forgotten when that is cut short
        grade(folder, replace(FAKES, prepare=lambda *_: FAKES.prepare(*_) or _raise(CourseError("Stop."))))
    assert marks(folder) == {}
    grade(folder, students=("bob",))
    assert marks(folder) == {"ana": 6, "bob": 3, "cleo": 0}
    assert [task.student for task in here] == ["bob"]


def _raise(error):
    raise error


def test_a_notebook_that_the_gradebook_chokes_on_costs_no_marks(folder, here, capsys):
    def write(path, lesson, result, notebook):
        if result.student == "bob" or (result.student == "ana" and notebook is not None):
            raise RecursionError("too deep")
        FAKES.write(path, lesson, result, notebook)

    grade(folder, replace(FAKES, write=write))
    assert marks(folder) == {"ana": 6, "cleo": 0}
    assert "Not in the gradebook: bob (RecursionError: too deep)\n" in capsys.readouterr().out
    grade(folder)
    assert marks(folder) == {"ana": 6, "bob": 3, "cleo": 0}


def test_names_in_any_script(tmp_path, here, capsys):
    names = {
        "Zoë Müller": "right",
        "李 雷": "half",
        "علي": "none",
        "a'b; DROP TABLE": "right",
        "x\n\x1b[31m\u202e": "half",
    }
    hand_in(tmp_path, **names)
    grade(tmp_path)
    assert marks(tmp_path).keys() == names.keys()
    said = capsys.readouterr().out
    assert "✔ 李 雷  3 of 6" in said
    assert "✔ x ⟨U+001B⟩[31m⟨U+202E⟩  3 of 6" in said
    assert not {"\x1b", "\u202e"} & set(said)
    assert shown("a" * 300) == "a" * 199 + "…"


# --- the journal ---------------------------------------------------------------------------------


def test_half_a_last_line_is_dropped_and_cut_off(folder, here):
    grade(folder)
    path = class_of(folder).journal
    whole = path.read_bytes()
    *_, result, _, _ = whole.splitlines(keepends=True)
    for torn in (b"{", result[:-1], b"\xff\x00\x00", result[: len(result) // 2]):
        path.write_bytes(whole + torn)
        assert Journal(path).entries.keys() == {"ana", "bob", "cleo"}
        assert path.read_bytes() == whole + torn, "reading changed the file"
        grade(folder, students=("ana",))
        assert Counter(line["kind"] for line in lines(folder))["result"] == 4
        assert path.read_bytes().startswith(whole)
    assert marks(folder) == {"ana": 6, "bob": 3, "cleo": 0}


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (b"garbage\n", "JSONDecodeError"),
        (b"\n", "JSONDecodeError"),
        (b'"\xff"\n', "UnicodeDecodeError"),
        (b"[]\n", "TypeError"),
        (b'{"format": 2, "kind": "finished", "seed": 1}\n', "expected format 1, got 2"),
        (b'{"format": 1, "kind": "other"}\n', "there is no kind 'other'"),
        (b'{"format": 1, "kind": "result", "result": {"student": "ana"}, "task": ""}\n', "KeyError"),
        (b'{"format": 1, "kind": "written", "student": "nobody"}\n', "KeyError"),
    ],
)
def test_other_damage_is_named_and_nothing_is_lost(folder, here, damage, reason):
    grade(folder)
    path = class_of(folder).journal
    first, *rest = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + damage + b"".join(rest))
    before, table = path.read_bytes(), marks(folder)
    with pytest.raises(CourseError, match=rf"Line 2 of .*results.jsonl is damaged \(.*{reason}.*Nothing was changed"):
        grade(folder, again=True)
    assert (path.read_bytes(), marks(folder)) == (before, table)


def test_a_line_is_whole_or_not_there(folder, here, monkeypatch):
    """The disk takes half a line, then nothing, then has room again."""
    grade(folder)
    path, before = class_of(folder).journal, class_of(folder).journal.read_bytes()
    journal = Journal(path)
    entry = journal.entries["ana"]
    write = os.write
    monkeypatch.setattr(journals.os, "write", lambda handle, data: write(handle, data[:50]))
    with pytest.raises(OSError, match="No space left"):
        journal.keep(entry.result, "new")
    monkeypatch.setattr(journals.os, "write", lambda handle, data: _raise(OSError(errno.ENOSPC, "Full")))
    with pytest.raises(OSError, match="Full"):
        journal.keep(entry.result, "new")
    assert Journal(path).entries["ana"].task == entry.task
    monkeypatch.setattr(journals.os, "write", write)
    journal.keep(entry.result, "new")
    assert Journal(path).entries == journal.entries
    assert journal.entries["ana"].task == "new"
    assert len(path.read_bytes().splitlines()) == len(before.splitlines()) + 1


# --- replay --------------------------------------------------------------------------------------


def test_replay_uses_the_recorded_seeds_and_writes_nothing(folder, here, capsys):
    grade(folder)
    grade(folder, students=("bob",))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    seeds = {task.student: task.seed for task in here}
    here.clear()
    assert replaying.replay(class_of(folder), parts=FAKES)
    assert {task.student: task.seed for task in here} == seeds
    assert "All 3 marks are the same.\n" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    here.clear()
    assert replaying.replay(class_of(folder, students=("ana",)), parts=FAKES)
    assert [task.student for task in here] == ["ana"]


def test_replay_names_what_differs_and_what_it_cannot_replay(folder, here, monkeypatch, capsys):
    grade(folder)

    def other(task):
        result = FAKES.grade(task)
        marks = (replace(result.marks[0], mistakes=("forgot",)), *result.marks[1:])
        return replace(result, marks=marks) if task.student == "bob" else replace(result, seconds=9.0)

    monkeypatch.setattr(replaying, "rules_of", lambda name, private: "others")
    assert not replaying.replay(class_of(folder), parts=replace(FAKES, grade=other))
    said = capsys.readouterr().out
    assert "1 of 3 marks differ: bob.\n" in said
    assert "3 were graded with other exercises" in said
    hand_in(folder, ana="half", new="right")
    shutil.rmtree(folder / "submitted" / "cleo")
    assert replaying.replay(class_of(folder), parts=FAKES)
    said = capsys.readouterr().out
    assert "– ana: skipped" in said
    assert "– cleo: skipped" in said
    assert "The marks are the same.\n" in said


def test_replay_of_nothing(folder, here):
    with pytest.raises(CourseError, match="nothing to replay"):
        replaying.replay(class_of(folder), parts=FAKES)


# --- bad input -----------------------------------------------------------------------------------


def test_nothing_is_run_without_submissions_sandbox_or_folder(tmp_path, here, monkeypatch):
    with pytest.raises(CourseError, match=f"There is no folder .*submitted.*STUDENT/{LESSON.name}/{LESSON.name}.ipynb"):
        grade(tmp_path)
    (tmp_path / "submitted" / "ana").mkdir(parents=True)
    with pytest.raises(CourseError, match="Nobody has handed in"):
        grade(tmp_path)
    hand_in(tmp_path, ana="right")
    with pytest.raises(CourseError, match=r"There is no folder .*nowhere for the gradebook"):
        run.grade_class(replace(class_of(tmp_path), gradebook=tmp_path / "nowhere" / "g.db"), parts=FAKES)
    monkeypatch.setattr(run, "opened_workers", opening.opened_workers)
    with pytest.raises(CourseError, match="install bubblewrap"):
        grade(tmp_path, replace(FAKES, ready=lambda: "install bubblewrap"))
    assert here == []
    assert not (tmp_path / "gradebook.db").exists()


def test_two_graders_at_once(folder, here):
    started = []

    def write(*arguments):
        with pytest.raises(CourseError, match=r"Another grader is at work on .*gradebook.db"):
            grade(folder)
        started.append(subprocess.run([*PROGRAM, str(folder)], capture_output=True, text=True, check=False))
        FAKES.write(*arguments)

    hand_in(folder, bob="right")
    shutil.rmtree(folder / "submitted" / "ana")
    shutil.rmtree(folder / "submitted" / "cleo")
    grade(folder, replace(FAKES, write=write))
    assert [(one.returncode, one.stdout.partition(" on ")[0]) for one in started] == [(2, "Another grader is at work")]
    assert marks(folder) == {"bob": 6}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_place_that_takes_nothing_says_what_to_do(folder, here, number):
    advice = {errno.ENOSPC: "Make room", errno.EROFS: "written into", errno.EACCES: "may write into"}[number]
    with pytest.raises(CourseError, match=rf"It cannot go on: .*{advice}.*3 results are kept"):
        grade(folder, stopping(3, OSError(number, os.strerror(number), "x")))
    grade(folder)
    assert marks(folder) == {"ana": 6, "bob": 3, "cleo": 0}
    assert (
        Counter(line["result"]["student"] for line in lines(folder) if line["kind"] == "result").most_common(1)[0][1]
        == 1
    )


@needs_bubblewrap
def test_a_disk_that_is_really_full(tmp_path):
    """On a disk of its own: first with no room left, then with some."""
    hand_in(tmp_path, **{f"s{number}": "right" for number in range(8)})
    program = " ".join([*PROGRAM, "."])
    script = f"cp -r /proc/self/cwd/../kept/submitted . && head -c 70000 /dev/zero > filler; {program}; echo code $?;"
    script += f" rm filler; {program}; echo code $?; cp -r gradebook.db grading ../kept"
    (tmp_path / "kept").mkdir()
    (tmp_path / "disk").mkdir()
    (tmp_path / "submitted").rename(tmp_path / "kept" / "submitted")
    disk = ["--size", "131072", "--tmpfs", str(tmp_path / "disk"), "--chdir", str(tmp_path / "disk")]
    done = subprocess.run(
        ["bwrap", "--dev-bind", "/", "/", *disk, "sh", "-c", script], capture_output=True, text=True, check=False
    )
    first, second = done.stdout.split("code 2\n")
    assert "disk is full" in first or "No space left on device. Make room" in first, done
    assert "results are kept in" in first, done
    assert "code 0" in second, done
    assert marks(tmp_path / "kept") == {f"s{number}": 6 for number in range(8)}
    assert Counter(line["kind"] for line in lines(tmp_path / "kept"))["result"] == 8


@needs_bubblewrap
def test_a_folder_that_is_really_read_only(folder):
    command = ["bwrap", "--dev-bind", "/", "/", "--ro-bind", str(folder), str(folder), *PROGRAM, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done
    assert "Read-only file system. Use a folder that can be written into. Nothing was run." in done.stdout
    assert [path.name for path in folder.iterdir()] == ["submitted"]


# --- processes that end before their time --------------------------------------------------------


def test_a_killed_worker_costs_nobody_else_their_mark(tmp_path):
    once = f"kills once {tmp_path / 'was here'}"
    hand_in(tmp_path, a="right", b="kills", c="half", d="right", e=once, f="half")
    with Processes(1) as workers:
        ended = {task.student: result for task, result in completed(class_of(tmp_path).tasks(), FAKES.grade, workers)}
    assert {student: result.points for student, result in ended.items()} == dict(
        zip("abcdef", (6, 0, 3, 6, 0, 3), strict=True)
    )
    assert {student for student, result in ended.items() if result.state == "failed"} == {"b"}
    assert ended["b"].reason == KILLED


def _processes_of(session):
    """Return the living processes of a session."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def _none_left(session):
    deadline = time.monotonic() + 10
    while (left := _processes_of(session)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left == []


MOMENTS = (
    "before the first",
    "half a line",
    "in the gradebook",
    "report",
    "putting the report in place",
    "between journal and gradebook",
)


def test_kill_9_at_any_moment_then_the_same_command_again(tmp_path):
    """With the real gradebook."""
    pytest.importorskip("nbgrader")
    for moment in MOMENTS:
        hand_in(tmp_path / moment, **{"Zoë M": "right", "李雷": "half", "c": "none"})
    done = subprocess.run([*PROGRAM, "--killed", str(tmp_path), *MOMENTS], capture_output=True, text=True, check=False)
    reports = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert [report[:2] for report in reports] == [[m, n] for m in MOMENTS for n in (m, "")], done
    for _, now, session, status in reports:
        assert os.waitstatus_to_exitcode(status) == (-signal.SIGKILL if now else 0), done
        assert _none_left(session)
    for moment in MOMENTS:
        results = [line["result"]["student"] for line in lines(tmp_path / moment) if line["kind"] == "result"]
        assert sorted(results) == ["Zoë M", "c", "李雷"], moment  # nothing was graded twice
        assert len({line["run"]["seed"] for line in lines(tmp_path / moment) if line["kind"] == "run"}) == 1
        assert _in_nbgrader(tmp_path / moment) == [("Zoë M", 6), ("c", 0), ("李雷", 3)], moment
        report = class_of(tmp_path / moment).folder
        assert sorted(path.name for path in report.iterdir() if not path.name.startswith(".")) == [
            "grades.csv",
            "report.html",
            "results.jsonl",
        ]


def _in_nbgrader(folder):
    with closing(sqlite3.connect(folder / "gradebook.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return db.execute(
            "SELECT student_id, SUM(auto_score) FROM submitted_assignment"
            " JOIN submitted_notebook ON submitted_notebook.assignment_id = submitted_assignment.id"
            " JOIN grade ON grade.notebook_id = submitted_notebook.id GROUP BY submitted_assignment.id ORDER BY 1"
        ).fetchall()


def test_control_c_keeps_what_is_done(tmp_path):
    hand_in(tmp_path, a="right", b="slow", c="slow")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # Where the tests run in the background, Ctrl-C is ignored, and a child would inherit that.
    pipes["preexec_fn"] = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    grader = subprocess.Popen([*PROGRAM, str(tmp_path)], start_new_session=True, **pipes)
    said = [grader.stdout.readline(), grader.stdout.readline()]
    assert said[1].startswith("✔ a"), said
    os.killpg(grader.pid, signal.SIGINT)
    out, errors = grader.communicate(timeout=20)
    assert (grader.returncode, errors) == (2, "")
    assert out.startswith("Stopped. 1 results are kept in ")
    assert _none_left(grader.pid)
    assert Journal(class_of(tmp_path).journal).entries.keys() == {"a"}


# --- Dask ----------------------------------------------------------------------------------------


def test_on_a_dask_cluster(tmp_path):
    """A real scheduler with two worker processes; the grader finds it by its address."""
    distributed = pytest.importorskip("distributed")
    hand_in(tmp_path, **{f"s{number}": "right" for number in range(6)}, bad="raises")
    of = class_of(tmp_path)
    options = {"n_workers": 2, "threads_per_worker": 2, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**options, host="127.0.0.1") as cluster:
        address = cluster.scheduler_address
        with pytest.raises(CourseError, match=r"The worker tcp.* cannot grade: install bubblewrap"):
            run.grade_class(of, dask=address, parts=replace(FAKES, ready=not_ready))
        run.grade_class(of, dask=address, parts=FAKES)
        assert marks(tmp_path) == {f"s{number}": 6 for number in range(6)} | {"bad": 0}
        assert replaying.replay(of, dask=address, parts=FAKES)
        task = replace(of.tasks()[1], private=str(tmp_path))
        with opening.Cluster(address) as workers:
            assert workers.width == 4
            ended = [result.state for _, result in completed([replace(task, seed=n) for n in range(8)], sign, workers)]
        assert ended == ["graded"] * 8
        assert len({path.name.split(" ")[1] for path in tmp_path.glob("pid *")}) == 2
    with pytest.raises(CourseError, match=r"No Dask cluster with a worker answers at 'tcp://127.0.0.1:1'"):
        opening.Cluster("tcp://127.0.0.1:1", patience=0.2)


# --- the command ---------------------------------------------------------------------------------


def ctkd(folder, *arguments, lesson="1"):
    return CliRunner().invoke(cli.app, ["grade", lesson, "--gradebook", str(folder / "gradebook.db"), *arguments])


def test_the_command_and_its_exit_codes(folder, here, tmp_path):
    done = ctkd(folder)
    assert (done.exit_code, "2 graded" in done.output, "3 graded" in done.output) == (0, False, True), done.output
    assert ctkd(folder, "--replay").exit_code == 0
    hand_in(folder, bob="chance")
    here.clear()
    assert ctkd(folder, "--student", "bob", "--student", "ana", "--seconds", "7").exit_code == 0
    assert [(task.student, task.seconds) for task in here] == [("ana", 7.0), ("bob", 7.0)]
    points = marks(folder)["bob"]
    while time.time_ns() % 5 + 1 == points:
        pass
    other = folder.parent / "elsewhere"
    shutil.move(folder / "submitted", other)
    here.clear()
    assert ctkd(folder, "--submissions", str(other), "--again").exit_code == 0
    assert len(here) == 3
    done = ctkd(folder, "--again")
    assert (done.exit_code, "There is no folder" in done.output) == (2, True)
    done = ctkd(folder, lesson="99")
    assert (done.exit_code, "There is no lesson '99'" in done.output) == (2, True)


def test_replay_that_differs_is_exit_code_1(folder, here, monkeypatch):
    assert ctkd(folder).exit_code == 0
    monkeypatch.setattr(replaying, "the_parts", lambda: replace(FAKES, grade=_all_wrong))
    assert ctkd(folder, "--replay").exit_code == 1


def _all_wrong(task):
    result = FAKES.grade(task)
    return replace(result, marks=tuple(replace(mark, points=0.0) for mark in result.marks))


def test_private_exercises_travel_with_the_tasks(folder, here):
    module = folder / "mine.py"
    module.write_text(
        "from dataclasses import replace\nfrom ctkd_lessons.course.exercises import find\n"
        'EXERCISES = (replace(find("01.soften"), title="Mine"),)\n'
    )
    assert ctkd(folder, "--private", str(module)).exit_code == 0
    assert {task.private for task in here} == {module.read_text()}
    for text, reason in [("1 / 0", "ZeroDivisionError"), ("EXERCISES = ()", "hold none of lesson 01")]:
        module.write_text(text)
        done = ctkd(folder, "--private", str(module))
        assert (done.exit_code, reason in done.output) == (2, True), done.output
    assert ctkd(folder, "--private", str(folder / "none.py")).exit_code == 2


def test_a_fingerprint_is_of_all_that_was_handed_in():
    task = submission.Task("ana", LESSON.name, b"x")
    others = [
        replace(task, content=b"y"),
        replace(task, problem="p"),
        replace(task, notes=("n",)),
        replace(task, submitted="s"),
    ]
    assert len({fingerprint(one) for one in [task, *others]}) == 5
    assert fingerprint(replace(task, seed=3)) == fingerprint(task)
