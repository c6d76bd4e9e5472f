"""Name a generic slip: a constant factor, the sign, a transpose, a clamp; whatever the exercise."""

from collections.abc import Sequence
from itertools import compress, permutations

import numpy as np

from ctkd_lessons.course.comparing import same
from ctkd_lessons.course.exercises.description import Case, Exercise, Observation

LARGE = 100.0  # an input with such entries is there to make exp overflow, or a softmax reach 0


def slip(
    exercise: Exercise, cases: Sequence[Case], expected: Sequence[Observation], seen: Sequence[Observation]
) -> str | None:
    """Name a generic slip: the same on every input, whatever the exercise."""
    if not all(isinstance(one.get("value"), np.ndarray) for one in (*expected, *seen)):
        return None
    pairs = [(want["value"], got["value"]) for want, got in zip(expected, seen, strict=True)]
    if all(want.ndim == 2 and same(want, got.T) for want, got in pairs):
        return "Your answer is the transpose of the right one."
    if not all(want.shape == got.shape and np.isfinite(got).all() for want, got in pairs):
        return None
    first = pairs[0][1]
    if all(got.shape == first.shape and np.array_equal(got, first) for _, got in pairs):
        return "Your function returns the same value whatever it is given."
    if all(same(want, got) for want, got in pairs):
        return None
    arrays = all(one["type"] == "torch.Tensor" or "numpy.ndarray" in one["type"] for one in expected)
    if arrays and all(want.dtype.kind == "f" and _is_near(want, got) for want, got in pairs):
        return (
            "Nearly right: within 2 % on every input. "
            "Do you add a small constant under a root, in a denominator or in a log?"
        )
    if all("tensor" in one["type"].lower() for one in expected) and _is_capped(cases, pairs):
        return (
            "Right for small inputs, but too small for large ones: something caps the value. Do you add a small "
            "constant inside a log, clamp a probability, or mask with a number that is not low enough?"
        )
    told = [not (_is_zero(want) and _is_zero(got)) for want, got in pairs]  # 0 = r · 0 says nothing about r
    factors = [_factor(want, got) for want, got in compress(pairs, told)]
    return _name_factor(factors, [exercise.sizes(case) for case in compress(cases, told)]) if all(factors) else None


def _is_zero(value: np.ndarray) -> bool:
    return same(np.zeros_like(value), value)


def _is_near(want: np.ndarray, got: np.ndarray) -> bool:
    scale = 0.1 if _is_zero(want) else np.abs(want).max(initial=0.0)
    return bool((np.abs(want - got) <= 0.02 * scale).all())


def _is_capped(cases: Sequence[Case], pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> bool:
    """Whether only large inputs go wrong, and there by values too small."""
    large = [any(np.abs(value).max(initial=0.0) >= LARGE for value in map(np.asarray, case.values())) for case in cases]
    wrong = [pair for is_large, pair in zip(large, pairs, strict=True) if is_large and not _is_near(*pair)]
    small = [pair for is_large, pair in zip(large, pairs, strict=True) if not is_large]
    return (
        bool(wrong and small)
        and all(_is_near(*pair) for pair in small)
        and all((np.abs(got) <= np.abs(want)).all() for want, got in wrong)
    )


def _factor(want: np.ndarray, got: np.ndarray) -> float | None:
    """Return r if got = r · want, r not 0, else ``None``."""
    wide, other = want.astype(np.float64), got.astype(np.float64)
    square = float((wide * wide).sum())
    factor = float((wide * other).sum()) / square if square else 0.0
    return factor if factor and same(want, np.asarray(other / factor, want.dtype)) else None


def _name_factor(factors: Sequence[float], sizes: Sequence[dict[str, float]]) -> str | None:
    """Say what the factors are: one number everywhere, or a named size of each input."""
    if np.allclose(factors, factors[0], rtol=1e-3):
        if np.isclose(factors[0], -1, rtol=1e-3):
            return "Your answer has the wrong sign."
        return f"Your answer is {factors[0]:.4g} times the right one, on every input."
    powers = {1: "times {}", -1: "divided by {}", 2: "times the square of {}", -2: "divided by the square of {}"}
    for name in sizes[0]:
        for power, words in powers.items():
            scaled = [factor / size[name] ** power for factor, size in zip(factors, sizes, strict=True)]
            if np.allclose(scaled, scaled[0], rtol=1e-3):
                constant = "" if np.isclose(scaled[0], 1, rtol=1e-3) else f" and times {scaled[0]:.4g}"
                return f"Your answer is the right one {words.format(name)}{constant}."
    for over, under in permutations(sizes[0], 2):
        if np.allclose(factors, [size[over] / size[under] for size in sizes], rtol=1e-3):
            return f"Your answer is the right one times {over} and divided by {under}."
    return None
