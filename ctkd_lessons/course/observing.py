"""Drive an answer on one input and note what it does. A grader runs this beside the student's code."""

import inspect
import traceback
from collections.abc import Callable, Iterator
from types import CodeType

import numpy as np
import torch

from ctkd_lessons.course.exercises.description import Answer, Case, Observation
from ctkd_lessons.threads import one_thread


def watch(drive: Callable[[Answer, Case], Observation], answer: Answer, case: Case, chance: int = 0) -> Observation:
    """Drive an answer on one case, torch's chance set by ``chance``; an exception becomes part of the observation."""
    copies = {name: value.copy() if isinstance(value, np.ndarray) else value for name, value in case.items()}
    try:
        with one_thread(), torch.enable_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(chance)
            return drive(answer, copies)
    except Exception as error:  # noqa: BLE001 -- an answer may raise anything; it becomes a finding
        return {"raised": type(error).__name__, "message": str(error), "line": _line_of(answer, error)}


def _line_of(answer: Answer, error: Exception) -> str:
    """Return where in the answer's own code an error arose: " (your line 3: `…`)"."""
    code = getattr(inspect.unwrap(answer), "__code__", None)  # a decorator such as @contextmanager wraps it
    names = set(_names_within(code)) if code else set()
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.name in names and frame.filename == code.co_filename and frame.lineno >= code.co_firstlineno
    ]
    if not frames:
        return ""
    line = frames[-1]
    return f" (line {line.lineno - code.co_firstlineno + 1} of your function: `{line.line}`)"


def _names_within(code: CodeType) -> Iterator[str]:
    """Yield the names of a function and of those made in it, such as hooks."""
    yield code.co_name
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_within(constant)
