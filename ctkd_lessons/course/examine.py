"""Compare an answer with its exercise and say in words what is wrong.

In this order: what the answer does on random inputs; whether that equals a known mistake or a pair
of them; whether it is a generic slip (a constant factor, the sign, a transpose); else the first
thing that differs, and whether a known mistake explains at least that input. Nothing is broadcast
before it is compared.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import compress, permutations
from zlib import crc32

import numpy as np
import torch
import torch._dynamo  # the first optimiser loads it, in over a second: better now than in a check

from ctkd_lessons.course.exercises.description import Answer, Case, Exercise, Mistake, Observation, Property
from ctkd_lessons.course.observing import watch

# Relative to the largest expected entry: room for another order of operations, none for another formula.
TOLERANCE = {"float16": 2e-2, "float32": 2e-4, "float64": 1e-6}

LARGE = 100.0  # an input with such entries is there to make exp overflow, or a softmax reach 0

STAY_IN_TORCH = "Stay in torch to the end: NumPy, `.item()` and `float()` cut the gradient."


@dataclass(frozen=True)
class Finding:
    """What a check found.

    ``verdict``: "passed", "not attempted" or "wrong"; ``headline``: one sentence; ``mistakes``: the
    known mistakes the answer makes; ``details``: further sentences, the most helpful first.
    """

    exercise: Exercise
    verdict: str
    headline: str
    mistakes: tuple[Mistake, ...] = ()
    details: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the answer is right."""
        return self.verdict == "passed"


def examine(exercise: Exercise, answer: Answer, seed: int = 0) -> Finding:
    """Examine an answer on the exercise's random inputs, drawn from ``seed``."""
    if not callable(answer):
        headline = f"`{exercise.name}` should be a function; this is of type {type(answer).__name__}."
        return Finding(exercise, "wrong", headline, details=("Run the cell that defines it, then check again.",))
    cases = cases_of(exercise, seed)
    seen = [observe(exercise, answer, case) for case in cases]
    finding = judge(exercise, seen, seed, again=lambda: observe(exercise, answer, cases[0], chance=1))
    broken = [prop.says for prop in exercise.properties if finding.passed and not _holds(prop, answer)]
    if not broken:
        return finding
    return Finding(exercise, "wrong", f"Right on the random inputs, but a right answer {broken[0]}; yours does not.")


@lru_cache(maxsize=256)
def cases_of(exercise: Exercise, seed: int = 0) -> tuple[Case, ...]:
    """Return the exercise's random inputs, drawn from ``seed``."""
    return tuple(exercise.inputs(np.random.default_rng([seed, crc32(exercise.id.encode())])))


def observe(exercise: Exercise, answer: Answer, case: Case, chance: int = 0) -> Observation:
    """Drive an answer on one case, torch's chance set by ``chance``."""
    return watch(exercise.drive, answer, case, chance)


def expected_of(exercise: Exercise, seed: int = 0) -> list[Observation]:
    """Return what the right answer gives on each of ``cases_of(exercise, seed)``."""
    return [_of_variant(exercise, None, seed, place) for place in range(len(cases_of(exercise, seed)))]


def judge(
    exercise: Exercise, seen: Sequence[Observation], seed: int = 0, again: Callable[[], Observation] | None = None
) -> Finding:
    """Judge observations of ``cases_of(exercise, seed)``, wherever they were made.

    ``again``: gives the first input's observation once more, under another state of torch's chance.
    """
    # The stub raises it without a word; torch's own NotImplementedErrors say what is missing.
    if all(one.get("raised") == "NotImplementedError" and not one["message"] for one in seen):
        return Finding(exercise, "not attempted", f"`{exercise.name}` is not attempted yet.")
    cases = cases_of(exercise, seed)
    expected = expected_of(exercise, seed)
    right = [differs(want, got) is None for want, got in zip(expected, seen, strict=True)]
    if all(right):
        text = f"`{exercise.name}` is right on all {len(cases)} inputs" + _properties(exercise)
        return Finding(exercise, "passed", text + ".")
    twice = expected[0], observe(exercise, exercise.reference, cases[0], chance=1)
    if again is not None and _is_random(twice, (seen[0], again())):
        headline = "Your function gives another value on a second call with the same arguments."
        advice = "Does it make a layer with random weights of its own? Everything it needs stands in its arguments."
        return Finding(exercise, "wrong", headline, details=(advice,))
    mistakes, variant = _recognise(exercise, expected, seen, seed)
    first = right.index(False)
    difference = differs(expected[first], seen[first])
    where = f"Input {first + 1} of {len(cases)}: {_describe(cases[first])}."
    if mistakes:
        headline = "This is " + ", and at the same time ".join(mistake.says for mistake in mistakes) + "."
        details = [mistake.hint for mistake in mistakes]
        beside = differs(variant[first], seen[first])
        # How far a nan spreads depends on how it came about; that is no second mistake.
        if beside and _is_finite(variant[first][beside]):
            details.append(f"Beside that: {_sentence(beside, variant[first], seen[first])}")
        return Finding(exercise, "wrong", headline, mistakes, tuple(details))
    slip = _slip(exercise, cases, expected, seen)
    sentence = _sentence(difference, expected[first], seen[first])
    if slip:
        return Finding(exercise, "wrong", slip, details=(sentence, where))
    partly = _recognise_in_part(exercise, expected, seen, seed, first)
    what = " and ".join(mistake.says for mistake in partly)
    hints = tuple(mistake.hint for mistake in partly)
    if partly and not any(right):
        headline = f"On input {first + 1} this is {what}. On others it is not: something else is wrong, too."
        return Finding(exercise, "wrong", headline, details=(*hints, sentence, where))
    advice = _advice(difference, expected[first], seen[first])
    if partly:
        advice = (f"On input {first + 1} it gives what this gives: {what}.", *hints, *advice)
    if any(right):
        one = f"such as: {_describe(cases[right.index(True)])}"
        advice = (f"It is right on {sum(right)} of {len(cases)} inputs, {one}. What is special about them?", *advice)
    return Finding(exercise, "wrong", sentence, details=(*advice, where))


def differs(expected: Observation, got: Observation) -> str | None:
    """Return the first thing in which two observations differ, or ``None``."""
    if "raised" in got and "raised" not in expected:
        return "raised"
    for key, want in expected.items():
        if key in ("line", "message"):
            continue
        if key not in got or not _same(want, got[key]):
            return key
    return None


def _same(want: object, got: object) -> bool:
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


def _is_random(expected: tuple[Observation, Observation], seen: tuple[Observation, Observation]) -> bool:
    """Whether the answer's value depends on chance where the right one does not."""
    return [_varies(*expected), _varies(*seen)] == [False, True]


def _varies(one: Observation, other: Observation) -> bool:
    values = one.get("value"), other.get("value")
    return all(isinstance(value, np.ndarray) for value in values) and not _same(*values)


@lru_cache(maxsize=8192)
def _of_variant(exercise: Exercise, mistakes: tuple[Mistake, ...] | None, seed: int, place: int) -> Observation:
    """Return what the known wrong answer, or the right one, gives on one case: once, for a learner checks often."""
    answer = exercise.reference if mistakes is None else exercise.variant(*mistakes)
    return observe(exercise, answer, cases_of(exercise, seed)[place])


def _recognise(
    exercise: Exercise, expected: Sequence[Observation], seen: Sequence[Observation], seed: int
) -> tuple[tuple[Mistake, ...], Sequence[Observation]]:
    """Return the known mistakes that explain the observations, and what these mistakes alone give.

    Equal in everything comes first; equal in value only means the mistake and something else.
    """
    in_value: tuple[tuple[Mistake, ...], Sequence[Observation]] = ((), ())
    for mistakes in exercise.combinations():
        variant = [_of_variant(exercise, mistakes, seed, 0)]
        # Most variants are out after one input; the others are worth all of them.
        if differs(variant[0], seen[0]) is not None and not equal_values(variant, seen[:1]):
            continue
        variant += [_of_variant(exercise, mistakes, seed, place) for place in range(1, len(seen))]
        if all(differs(a, b) is None for a, b in zip(variant, seen, strict=True)):
            return mistakes, variant
        if not in_value[0] and equal_values(variant, seen) and not equal_values(variant, expected):
            in_value = mistakes, variant
    return in_value


def _recognise_in_part(
    exercise: Exercise, expected: Sequence[Observation], seen: Sequence[Observation], seed: int, place: int
) -> tuple[Mistake, ...]:
    """Return the known mistakes that explain one input, for an answer that none explains on all."""
    for mistakes in exercise.combinations():
        variant = _of_variant(exercise, mistakes, seed, place)
        equal = equal_values([variant], [seen[place]]) and not equal_values([variant], [expected[place]])
        if equal or differs(variant, seen[place]) is None:
            return mistakes
    return ()


def equal_values(left: Sequence[Observation], right: Sequence[Observation]) -> bool:
    """Whether both hold the same values, whatever else differs."""
    return all(
        "value" in a and "value" in b and _same(a["value"], b["value"]) for a, b in zip(left, right, strict=True)
    )


def _slip(
    exercise: Exercise, cases: Sequence[Case], expected: Sequence[Observation], seen: Sequence[Observation]
) -> str | None:
    """Name a generic slip: the same on every input, whatever the exercise."""
    if not all(isinstance(one.get("value"), np.ndarray) for one in (*expected, *seen)):
        return None
    pairs = [(want["value"], got["value"]) for want, got in zip(expected, seen, strict=True)]
    if all(want.ndim == 2 and _same(want, got.T) for want, got in pairs):
        return "Your answer is the transpose of the right one."
    if not all(want.shape == got.shape and np.isfinite(got).all() for want, got in pairs):
        return None
    first = pairs[0][1]
    if all(got.shape == first.shape and np.array_equal(got, first) for _, got in pairs):
        return "Your function returns the same value whatever it is given."
    if all(_same(want, got) for want, got in pairs):
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
    return _same(np.zeros_like(value), value)


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
    return factor if factor and _same(want, np.asarray(other / factor, want.dtype)) else None


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


def _sentence(key: str | None, expected: Observation, got: Observation) -> str:
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


def _advice(key: str | None, expected: Observation, got: Observation) -> tuple[str, ...]:
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


def _describe(case: Case) -> str:
    """Name the arguments of a case: shapes and dtypes of arrays, values of scalars, words, a few whole numbers."""
    return ", ".join(f"{name}{_in_short(np.asarray(value))}" for name, value in case.items())


def _in_short(value: np.ndarray) -> str:
    words = value.dtype.kind == "U"
    if not value.ndim or words or (value.size <= 12 and (value == value.round()).all()):
        return f" = {value.tolist()}"
    largest = np.abs(value).max()
    return f" {value.shape} {value.dtype}" + (f" up to ±{largest:.4g}" if largest >= LARGE else "")


def _is_finite(seen: object) -> bool:
    return not isinstance(seen, np.ndarray) or bool(np.isfinite(seen).all())


def _holds(prop: Property, answer: Answer) -> bool:
    try:
        with torch.enable_grad():
            return prop.holds(answer)
    except Exception:  # noqa: BLE001 -- an answer may raise anything; then the property does not hold
        return False


def _properties(exercise: Exercise) -> str:
    return "".join(f"; it {prop.says}" for prop in exercise.properties)
