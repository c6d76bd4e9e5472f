"""Compare two observations. Nothing is broadcast before it is compared."""

from collections.abc import Sequence

import numpy as np

from ctkd_lessons.course.exercises.description import Observation

# Relative to the largest expected entry: room for another order of operations, none for another formula.
TOLERANCE = {"float16": 2e-2, "float32": 2e-4, "float64": 1e-6}


def differs(expected: Observation, got: Observation) -> str | None:
    """Return the first thing in which two observations differ, or ``None``."""
    if "raised" in got and "raised" not in expected:
        return "raised"
    for key, want in expected.items():
        if key in ("line", "message"):
            continue
        if key not in got or not same(want, got[key]):
            return key
    return None


def same(want: object, got: object) -> bool:
    """Whether two entries agree: type, shape, where they are finite, and values within the dtype's tolerance."""
    if not isinstance(want, np.ndarray) or not isinstance(got, np.ndarray):
        return type(want) is type(got) and want == got
    if want.shape != got.shape:
        return False
    tolerance = TOLERANCE.get(str(want.dtype), 0.0)
    finite = np.isfinite(want)
    if not np.array_equal(finite, np.isfinite(got)):
        return False
    want, got = want[finite].astype(np.float64), got[finite].astype(np.float64)
    # An expected zero (no gradient to the teacher) allows for rounding at the scale of one.
    scale = max(np.abs(want).max(initial=0.0), 1e-3)
    return bool((np.abs(want - got) <= tolerance * scale).all())


def equal_values(left: Sequence[Observation], right: Sequence[Observation]) -> bool:
    """Whether both hold the same values, whatever else differs."""
    return all("value" in a and "value" in b and same(a["value"], b["value"]) for a, b in zip(left, right, strict=True))
