"""The program in the sandbox: run a notebook's cells, then drive its functions and write down what they do.

Nothing here is trusted by the grader: a student's code runs in the same process and can change all of it.
What is written down must be *right* to earn a point, and what is right is known outside only.
"""

import builtins
import importlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

LARGEST_MESSAGE = 2000  # characters of an exception's text


def main(request_file: str, results: int) -> None:
    """Serve the request in a file; write one line of JSON per event to the file descriptor ``results``."""
    with open(request_file, encoding="utf-8") as file:
        request = json.load(file)
    _confine(request["limits"], request["user"])
    sys.path.insert(0, request["course"])
    say = _Speaker(results)
    shell = _warm_up(request)
    watch, pack, unpack = _harness()
    drives = {one["id"]: _drive(one) for one in request["exercises"]}
    before = _library_functions()
    say(ready=True)
    _run_cells(shell, request["cells"], request["limits"]["cell_seconds"], say)
    for one in request["exercises"]:
        cases = [unpack(case) for case in one["cases"]]
        answer = shell.user_ns.get(one["name"])

        def work(one: dict = one, answer: Any = answer, cases: list = cases) -> None:
            seen = [pack(watch(drives[one["id"]], answer, case)) for case in cases]
            again = pack(watch(drives[one["id"]], answer, cases[0], 1))
            say(exercise=one["id"], seen=seen, again=again, changed=_changed(before))

        if answer is None or not callable(answer):
            say(exercise=one["id"], missing=None if answer is None else type(answer).__name__[:100])
        else:
            _in_child(work, request["limits"]["exercise_seconds"], lambda why, one=one: say(exercise=one["id"], **why))
    say(changed=_changed(before))
    os._exit(0)  # whatever waits in the background ends with the sandbox


class _Speaker:
    """Write events, one JSON object a line."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __call__(self, **event: Any) -> None:
        rest = (json.dumps(event) + "\n").encode()
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]


def _confine(limits: dict, user: int | None) -> None:
    """Give up root where we have it, then set limits that no one here can raise."""
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    for name, most in limits["resources"].items():
        resource.setrlimit(getattr(resource, name), (most, most))


def _warm_up(request: dict) -> Any:
    """Load what every notebook needs, before the clock of the cells runs."""
    import torch
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    torch.set_num_threads(1)
    if request["dynamo"]:
        import torch._dynamo  # the first optimiser and the first vmap load it, in over a second
    settings = Config({"HistoryManager": {"enabled": False}})
    shell = InteractiveShell(user_module=ModuleType("__main__"), colors="nocolor", config=settings)
    builtins.get_ipython = lambda: shell
    torch.manual_seed(0)
    return shell


def _harness() -> tuple[Callable, Callable, Callable]:
    from ctkd_lessons.course.classroom.box.plain import pack, unpack
    from ctkd_lessons.course.observing import watch

    return watch, pack, unpack


def _drive(exercise: dict) -> Callable:
    return getattr(importlib.import_module(exercise["module"]), f"DRIVE_{exercise['name']}")


def _run_cells(shell: Any, cells: list[str], seconds: float, say: _Speaker) -> None:
    """Run the cells in order; one that fails or takes too long does not keep the others from running."""
    signal.signal(signal.SIGALRM, _time_is_up)
    for number, source in enumerate(cells):
        say(cell=number)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            run = shell.run_cell(source, silent=True)
            error = run.error_before_exec or run.error_in_exec
        except BaseException as raised:  # noqa: BLE001 -- a cell may raise anything
            error = raised
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if error is not None:
            say(cell=number, error=f"{type(error).__name__}: {error}"[:LARGEST_MESSAGE])


def _time_is_up(*_: object) -> None:
    raise TimeoutError("the cell did not end in time")


def _in_child(work: Callable[[], None], seconds: float, tell: Callable[[dict], None]) -> None:
    """Do the work in a process of its own, so that an endless loop or a crash costs one exercise only."""
    child = os.fork()
    if not child:
        try:
            os.setpgid(0, 0)
            work()
        except BaseException:  # noqa: BLE001 -- the child must not go on where the parent is
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    deadline = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > deadline:
            _kill(child)
            os.waitpid(child, 0)
            tell({"stopped": "time"})
            return
        time.sleep(0.002)
    if os.WIFSIGNALED(status):
        tell({"stopped": signal.Signals(os.WTERMSIG(status)).name})
    elif os.WEXITSTATUS(status):
        tell({"stopped": "exit"})


def _kill(child: int) -> None:
    for send in (os.killpg, os.kill):
        try:
            send(child, signal.SIGKILL)
        except OSError:
            continue


def _library_functions() -> list[tuple[str, Any, dict[str, Any]]]:
    """Note what the names of the libraries mean before the student's code runs."""
    import numpy as np
    import torch
    from torch import nn

    spaces = {
        "builtins": builtins,
        "os": os,
        "json": json,
        "numpy": np,
        "torch": torch,
        "torch.autograd": torch.autograd,
        "torch.nn": nn,
        "torch.nn.functional": nn.functional,
        "torch.optim": torch.optim,
        "torch.Tensor": torch.Tensor,
        "torch.nn.Module": nn.Module,
    }
    spaces |= {name: module for name, module in sys.modules.items() if name.startswith("ctkd_")}
    return [(name, space, dict(vars(space))) for name, space in spaces.items()]


def _changed(before: list[tuple[str, Any, dict[str, Any]]]) -> list[str]:
    """Return the names that mean something else now: an honest sheet changes none."""
    return list(_differences(before))[:20]


def _differences(before: list[tuple[str, Any, dict[str, Any]]]) -> Iterator[str]:
    innocent = ("_", "manual_seed")  # what the shell showed last; torch._dynamo wraps this one when it is loaded
    for name, space, noted in before:
        now = vars(space)
        yield from (
            f"{name}.{key}" for key, value in noted.items() if now.get(key) is not value and key not in innocent
        )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
