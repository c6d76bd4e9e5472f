"""Compare an answer with its exercise and say in words what is wrong.

In this order: what the answer does on random inputs; whether that equals a known mistake or a pair
of them; whether it is a generic slip (a constant factor, the sign, a transpose); else the first
thing that differs, and whether a known mistake explains at least that input. Nothing is broadcast
before it is compared.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from zlib import crc32

import numpy as np
import torch
import torch._dynamo  # the first optimiser loads it, in over a second: better now than in a check

from ctkd_lessons.course.comparing import differs, equal_values, same
from ctkd_lessons.course.exercises.description import Answer, Case, Exercise, Mistake, Observation, Property
from ctkd_lessons.course.observing import watch
from ctkd_lessons.course.slips import slip
from ctkd_lessons.course.wording import advice_on, describe, sentence


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
    return read(exercise, watch(exercise.drive, answer, case, chance), case)


def read(exercise: Exercise, seen: Observation, case: Case) -> Observation:
    """Return what an exercise makes of what was seen of one case."""
    return seen if "raised" in seen else exercise.read(seen, case)


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
    where = f"Input {first + 1} of {len(cases)}: {describe(cases[first])}."
    if mistakes:
        headline = "This is " + ", and at the same time ".join(mistake.says for mistake in mistakes) + "."
        details = [mistake.hint for mistake in mistakes]
        beside = differs(variant[first], seen[first])
        # How far a nan spreads depends on how it came about; that is no second mistake.
        if beside and _is_finite(variant[first][beside]):
            details.append(f"Beside that: {sentence(beside, variant[first], seen[first])}")
        return Finding(exercise, "wrong", headline, mistakes, tuple(details))
    generic = slip(exercise, cases, expected, seen)
    differing = sentence(difference, expected[first], seen[first])
    if generic:
        return Finding(exercise, "wrong", generic, details=(differing, where))
    partly = _recognise_in_part(exercise, expected, seen, seed, first)
    what = " and ".join(mistake.says for mistake in partly)
    hints = tuple(mistake.hint for mistake in partly)
    if partly and not any(right):
        headline = f"On input {first + 1} this is {what}. On others it is not: something else is wrong, too."
        return Finding(exercise, "wrong", headline, details=(*hints, differing, where))
    advice = advice_on(difference, expected[first], seen[first])
    if partly:
        advice = (f"On input {first + 1} it gives what this gives: {what}.", *hints, *advice)
    if any(right):
        one = f"such as: {describe(cases[right.index(True)])}"
        advice = (f"It is right on {sum(right)} of {len(cases)} inputs, {one}. What is special about them?", *advice)
    return Finding(exercise, "wrong", differing, details=(*advice, where))


def _is_random(expected: tuple[Observation, Observation], seen: tuple[Observation, Observation]) -> bool:
    """Whether the answer's value depends on chance where the right one does not."""
    return [_varies(*expected), _varies(*seen)] == [False, True]


def _varies(one: Observation, other: Observation) -> bool:
    values = one.get("value"), other.get("value")
    return all(isinstance(value, np.ndarray) for value in values) and not same(*values)


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
