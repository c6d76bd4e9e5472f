"""Run a program where it can do no harm: bubblewrap, limits, and a watch from outside.

The sandbox has no network, a read-only system, an empty home, its own processes, no environment of ours,
and no root. It sees the Python installation, not the course. Every limit ends it, never the grader.
"""

import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from ctkd_lessons.course.classroom.box import syscalls
from ctkd_lessons.course.lessons import ROOT

COURSE = "/course"
INSIDE = Path(__file__).with_name("inside.py")
GIB, MIB = 1 << 30, 1 << 20
INSTALL = "On Debian and Ubuntu: sudo apt-get install bubblewrap. On Fedora: sudo dnf install bubblewrap."


@dataclass(frozen=True)
class Limits:
    """What a submission may use. Times in seconds, sizes in bytes; ``seconds`` and ``memory`` are for all of it."""

    seconds: float = 60.0
    cell_seconds: float = 20.0
    exercise_seconds: float = 10.0
    memory: int = 3 * GIB
    memory_of_one: int = 6 * GIB  # address space: PyTorch maps far more than it uses
    printed: int = 10 * MIB
    answers: int = 16 * MIB
    file: int = 16 * MIB
    disk: int = 64 * MIB
    processes: int = 32
    open_files: int = 64

    def inside(self) -> dict[str, Any]:
        """Return what the program inside sets for itself before the student's code runs."""
        resources = {
            "RLIMIT_AS": self.memory_of_one,
            "RLIMIT_CPU": int(self.seconds) + 5,
            "RLIMIT_FSIZE": self.file,
            "RLIMIT_NPROC": self.processes,
            "RLIMIT_NOFILE": self.open_files,
            "RLIMIT_CORE": 0,
        }
        return {"resources": resources, "cell_seconds": self.cell_seconds, "exercise_seconds": self.exercise_seconds}


@dataclass
class Outcome:
    """What came out of a sandbox.

    ``events``: what the program inside wrote, each a dict; ``ending``: "" if it came to its end by itself,
    else the limit that ended it ("time", "memory", "output", "answers") or "died"; ``printed``: the last of
    what it printed.
    """

    events: list[dict] = field(default_factory=list)
    ending: str = ""
    printed: str = ""


# Whoever a submission runs as must be able to read the libraries.
_TRIAL = """
import os, sys
if sys.argv[1] != "None":
    user = int(sys.argv[1])
    os.setgroups([]), os.setresgid(user, user, user), os.setresuid(user, user, user)
import torch, IPython
"""


def ready() -> str:
    """Return "" if submissions can be run safely here, else why not and what to do."""
    if not sys.platform.startswith("linux"):
        return "Grading needs Linux: submissions run in bubblewrap, which is there only. Nothing was run."
    if shutil.which("bwrap") is None:
        return f"bubblewrap is not installed; without it no submission is run. {INSTALL}"
    if not syscalls.is_known():
        return f"Grading needs a processor of {' or '.join(syscalls.MACHINES)}. Nothing was run."
    with _filter() as calls:
        program = [sys.executable, "-I", "-B", "-c", _TRIAL, str(_user())]
        command = [*_bubblewrap(Path(tempfile.gettempdir()), Limits(), calls), *program]
        trial = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, pass_fds=(calls,))
    if trial.returncode == 0:
        return ""
    reason = (trial.stderr.strip().splitlines() or [f"exit code {trial.returncode}"])[-1]
    return (
        f"bubblewrap cannot make a sandbox here ({reason}); nothing was run. Version 0.8 or newer is needed, and a "
        "system that lets you make user namespaces: see docs/teaching.md, “When bubblewrap refuses”."
    )


def run(files: dict[str, str], request: dict[str, Any], limits: Limits) -> Outcome:
    """Run the program inside on a request, with ``files`` (path → text) as the course it sees."""
    with tempfile.TemporaryDirectory(prefix="ctkd-") as name:
        folder = Path(name)
        request = request | {"limits": limits.inside(), "user": _user(), "course": COURSE}
        texts = files | {"inside.py": INSIDE.read_text(encoding="utf-8"), "request.json": json.dumps(request)}
        for path, text in texts.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
        for place in (folder, *folder.rglob("*")):
            place.chmod(0o755 if place.is_dir() else 0o644)
        with _filter() as calls:
            return _watched(_bubblewrap(folder, limits, calls), limits, calls)


def _user() -> int | None:
    """Return what root becomes inside: a user of its own, so that its processes are counted alone."""
    return 200_000 + os.getpid() if os.geteuid() == 0 else None


@contextmanager
def _filter() -> Iterator[int]:
    """Yield a file descriptor from which bubblewrap reads the filter of system calls."""
    reading, writing = os.pipe()
    os.write(writing, syscalls.program())
    os.close(writing)
    try:
        yield reading
    finally:
        os.close(reading)


def _watched(bubblewrap: list[str], limits: Limits, calls: int) -> Outcome:
    reading, writing = os.pipe()
    program = [sys.executable, "-I", "-B", f"{COURSE}/inside.py", f"{COURSE}/request.json", str(writing)]
    process = subprocess.Popen(
        [*bubblewrap, *program],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(writing, calls),
        start_new_session=True,
        env={},  # it could be read inside, in /proc/1/environ
    )
    os.close(writing)
    try:
        answers, printed, ending = _read(process, reading, limits)
    finally:
        _end(process)
        process.stdout.close()
        os.close(reading)
    events = list(_events(answers))
    if not ending and (not events or "changed" not in events[-1] or "exercise" in events[-1]):
        ending = "died"
    return Outcome(events, ending, printed.decode("utf-8", errors="replace"))


def _end(process: subprocess.Popen) -> None:
    """Kill everything inside and wait until it is gone."""
    try:
        for first in psutil.Process(process.pid).children():
            first.kill()  # process 1 inside: before its end is told, the kernel ends all others
    except psutil.NoSuchProcess:
        pass  # it came to its end meanwhile
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _read(process: subprocess.Popen, answers_from: int, limits: Limits) -> tuple[bytes, bytes, str]:
    """Read both pipes until they close or a limit is passed; return answers, the end of what was printed, the limit."""
    answers, printed, count = bytearray(), b"", 0
    deadline = time.monotonic() + limits.seconds
    with selectors.DefaultSelector() as selector:
        selector.register(answers_from, selectors.EVENT_READ)
        selector.register(process.stdout.fileno(), selectors.EVENT_READ)
        looked = 0.0
        while selector.get_map():
            for key, _ in selector.select(timeout=0.1):
                data = os.read(key.fd, MIB)
                if not data:
                    selector.unregister(key.fd)
                elif key.fd == answers_from:
                    answers += data
                else:
                    printed, count = (printed + data)[-4000:], count + len(data)
            if time.monotonic() - looked > 0.1:
                looked = time.monotonic()
                used = _memory_of(process.pid)
            for ending, passed in (
                ("time", time.monotonic() > deadline),
                ("output", count > limits.printed),
                ("answers", len(answers) > limits.answers),
                ("memory", used > limits.memory),
            ):
                if passed:
                    return bytes(answers), printed, ending
    return bytes(answers), printed, ""


def _memory_of(pid: int) -> int:
    """Return how many bytes the processes of a sandbox hold for themselves."""
    total = 0
    try:
        processes = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return 0
    for one in processes:
        try:
            memory = one.memory_info()
        except psutil.Error:
            continue  # it ended meanwhile
        total += memory.rss - memory.shared
    return total


def _events(answers: bytes) -> Iterator[dict]:
    """Yield what can be read; a hostile program may write anything."""
    for line in answers.splitlines():
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict):
            yield event


def _bubblewrap(course: Path, limits: Limits, calls: int) -> list[str]:
    """Return the command up to the program: what is seen, and what is not."""
    is_root = os.geteuid() == 0
    # Root gives up its rights inside; anyone else is nobody in a user namespace of their own.
    user = ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    if not is_root:
        user = ["--unshare-user", "--disable-userns", "--uid", "65534", "--gid", "65534"]
    namespaces = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    places = [
        *("--perms", "1777", "--size", str(limits.disk), "--tmpfs", "/tmp"),  # first: Python itself may lie in /tmp
        *_system(),
        # Process 1 is bubblewrap; without root it is the student's own user, who could write into its memory.
        *("--proc", "/proc", "--size", "4096", "--tmpfs", "/proc/1", "--remount-ro", "/proc/1"),
        *("--perms", "0755", "--dir", "/dev", "--size", str(MIB), "--tmpfs", "/dev/shm"),
        # No /dev/zero: mapped as shared, it is memory that nobody counts.
        *(word for name in ("null", "random", "urandom") for word in ("--dev-bind", f"/dev/{name}", f"/dev/{name}")),
        *("--ro-bind", str(course), COURSE, "--remount-ro", "/", "--chdir", "/tmp"),
    ]
    settings = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "USER": "student", "LANG": "C.UTF-8", "MPLBACKEND": "agg"}
    settings |= {
        "OMP_NUM_THREADS": "1",
        "MPLCONFIGDIR": "/tmp",
        "IPYTHONDIR": "/tmp",
        "TORCHINDUCTOR_CACHE_DIR": "/tmp",
    }
    environment = [word for name, value in settings.items() for word in ("--setenv", name, value)]
    ends = ["--die-with-parent", "--new-session", "--hostname", "sandbox", "--clearenv", "--seccomp", str(calls)]
    return [shutil.which("bwrap"), *user, *namespaces, *ends, *environment, *places, "--"]


def _system() -> Iterator[str]:
    """Yield what shows the system's programs and this Python, but not the course."""
    for place in map(Path, ("/usr", "/bin", "/lib", "/lib64", "/lib32", "/etc/ld.so.cache", "/etc/alternatives")):
        if place.is_symlink():
            yield from ("--symlink", os.readlink(place), str(place))
        elif place.exists():
            yield from ("--ro-bind", str(place), str(place))
    prefixes = {Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix, Path(sys.executable).parent.parent)}
    for prefix in sorted(prefixes):
        if not prefix.is_relative_to("/usr"):
            for parent in reversed(prefix.parents[:-1]):  # left to itself, bubblewrap makes them for root alone
                yield from ("--perms", "0755", "--dir", str(parent))
            yield from ("--ro-bind", str(prefix), str(prefix))
    # Installed with a plain "pip install", the course lies among the libraries; its folder may lie under /usr.
    for place in (ROOT, *map(Path, find_spec("ctkd_lessons").submodule_search_locations)):
        if any(place.resolve().is_relative_to(prefix) for prefix in (*prefixes, Path("/usr"))):
            yield from ("--size", str(MIB), "--tmpfs", str(place.resolve()))
