"""Say in words what differs, and what to do about it."""

import numpy as np

from ctkd_lessons.course.exercises.description import Case, Observation
from ctkd_lessons.course.slips import LARGE

STAY_IN_TORCH = "Stay in torch to the end: NumPy, `.item()` and `float()` cut the gradient."


def sentence(key: str | None, expected: Observation, got: Observation) -> str:
    """Say what differs."""
    if key == "raised":
        return f"Your function stopped with {got['raised']}: {got['message']}{got['line']}"
    if key not in got:
        return f"Your function gives no {key}."
    want, have = expected[key], got[key]
    if key == "type":
        return f"Your function returns {'nothing' if have == 'NoneType' else _a(have)}; expected {_a(want)}."
    if key == "differentiable":
        return "No gradient flows from your value to the inputs."
    if key.startswith("gradient into") and want == "none":
        return f"Gradient flows into {key.removeprefix('gradient into ')}; it should receive none."
    if not isinstance(want, np.ndarray) or not isinstance(have, np.ndarray):
        return f"The {key} should be {want}; yours is {have}."
    if key.endswith("afterwards"):
        return f"Your function changes its input {key.removesuffix(' afterwards')} in place."
    if want.shape != have.shape:
        return f"The {key} should have shape {want.shape}; yours has {have.shape}."
    if not np.isfinite(have).all() and np.isfinite(want).all():
        return f"The {key} holds nan or inf; the right one is finite."
    if key.startswith("gradient of") and not have.any():
        return f"No gradient reaches {key.removeprefix('gradient of ')}."
    at = np.unravel_index(np.abs(want.astype(float) - have.astype(float)).argmax(), want.shape)
    place = f" at {tuple(map(int, at))}" if want.ndim else ""
    if want.dtype == bool:
        return f"The {key} differs{place}: expected {want[at]}, got {have[at]}."
    if key == "value" and expected.get("type", "").startswith("tuple"):
        place = f" in number {at[0] + 1} of the {len(want)} you return"
    digits = 6 if f"{want[at]:.6g}" != f"{have[at]:.6g}" else 12
    return f"The {key} differs{place}: expected {want[at]:.{digits}g}, got {have[at]:.{digits}g}."


_SHAPES = "Write the shape of each array beside its line: which axes must agree, and does one need a transpose?"
_ON_ERROR = {  # words of Python's, PyTorch's or NumPy's message → what to do
    "context manager protocol": "A function under `@contextmanager` yields once. Are the line above it and the `yield` "
    "still there?",
    "not an iterator": "A function under `@contextmanager` yields once. Is its `yield` still there?",
    "detach().numpy()": STAY_IN_TORCH,
    "does not require grad": "What you call `backward` on depends on no parameter: look at `detach`, `no_grad`, "
    "swapped arguments.",
    "backward through the graph a second time": "Each step needs a forward pass of its own: run the model inside the "
    "loop.",
    "modified by an inplace operation": "`backward` needs the weights that the loss was made with: does `step` come "
    "before it?",
    "mismatch in its core dimension": _SHAPES,
    "not aligned": _SHAPES,
    "could not be broadcast": _SHAPES,
    "shapes cannot be multiplied": _SHAPES,
}
_ON_PLACE = {  # how the name of what differs begins or ends → what to do
    "differentiable": "Look for `.detach()`, `.item()`, `torch.no_grad()` or a `torch.tensor(…)` around a tensor.",
    "afterwards": "Look for an assignment into the input (`x[…] = …`), `+=`, or a method that ends in `_`.",
    "after training": "Go through the loop line by line: what enters each loss and with which weight, the models' "
    "modes, the order of `zero_grad`, `backward` and `step`, the optimiser. Plain gradient descent is "
    "`torch.optim.SGD` with no momentum.",
    "gradient into": "The teacher is a constant for the student: which call cuts a tensor from the graph?",
}


def advice_on(key: str | None, expected: Observation, got: Observation) -> tuple[str, ...]:
    """Say what to do about a difference that no known mistake explains."""
    if key is None:
        return ()
    if key == "raised" and "positional argument" in got["message"] and not got["line"]:
        return ("Keep the name and the arguments of the function as they were given.",)
    if key == "raised":
        return tuple(advice for words, advice in _ON_ERROR.items() if words in got["message"])[:1]
    if key in ("type", "dtype"):
        return (_advice_on_type(expected, got) if key == "type" else _advice_on_dtype(expected),)
    for words, advice in _ON_PLACE.items():
        if key.startswith(words) or key.endswith(words):
            return (advice,)
    value = got.get(key)
    return _advice_on_value(key, value, expected) if isinstance(value, np.ndarray) else ()


def _advice_on_type(expected: Observation, got: Observation) -> str:
    if got["type"] == "NoneType":
        return "Does every path end in a `return`?"
    if "tensor" not in expected["type"].lower():
        return f"Turn the result into {_a(expected['type'])} at the end."
    left_torch = any(word in got["type"] for word in ("float", "int", "bool", "numpy"))
    return STAY_IN_TORCH if left_torch else f"Return {_a(expected['type'])} and nothing else."


def _advice_on_dtype(expected: Observation) -> str:
    if expected["dtype"] == "bool":
        return "Return True or False for each entry: what a comparison gives."
    return "The result should have the dtype of the inputs: look for a tensor made with a fixed dtype."


def _advice_on_value(key: str, value: np.ndarray, expected: Observation) -> tuple[str, ...]:
    if not np.isfinite(value).all() and key.startswith("gradient"):
        return (
            "Look for a root, a power below 1 or a division at 0: its slope is infinite there, and ∞ · 0 is nan, even "
            "where a `where` hides it afterwards. Or for `exp` or `log` at their limits: stay in log space.",
        )
    if not np.isfinite(value).all():
        return (
            "Look for `exp` of something large, for the log of 0 or of anything that is no probability (stay in log "
            "space), for a negative number under a root, for 0 / 0.",
        )
    if key.startswith("gradient of") and not value.any():
        return ("Look for `.detach()`, `.data`, `torch.no_grad()` or a copy on its way into the value.",)
    if key == "value" and value.ndim and not expected["value"].ndim and expected.get("type") == "torch.Tensor":
        return ("A loss is one number for the whole batch.",)
    return ()


def _a(noun: str) -> str:
    """Put the article in front: "a float", "an int"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def describe(case: Case) -> str:
    """Name the arguments of a case: shapes and dtypes of arrays, values of scalars, words, a few whole numbers."""
    return ", ".join(f"{name}{_in_short(np.asarray(value))}" for name, value in case.items())


def _in_short(value: np.ndarray) -> str:
    words = value.dtype.kind == "U"
    if not value.ndim or words or (value.size <= 12 and (value == value.round()).all()):
        return f" = {value.tolist()}"
    largest = np.abs(value).max()
    return f" {value.shape} {value.dtype}" + (f" up to ±{largest:.4g}" if largest >= LARGE else "")
