"""Partial credit is for those who know something: answers that know nothing earn nothing, in any exercise."""

import numpy as np
import pytest
import torch

from ctkd_lessons.course.classroom.grade import credit
from ctkd_lessons.course.examine import cases_of, expected_of, observe, read
from ctkd_lessons.course.exercises import MODULES, of_lesson
from ctkd_lessons.course.observing import watch

EXERCISES = [exercise for number in MODULES for exercise in of_lesson(number)]


def raises(*arguments):
    raise ValueError


LAZY = {
    "the first argument": lambda *a: a[0],
    "the last argument": lambda *a: a[-1],
    "all arguments": lambda *a: list(a),
    "nothing": lambda *a: None,
    "zero": lambda *a: torch.tensor(0.0),
    "zero, twice as long": lambda *a: torch.tensor(0.0, dtype=torch.float64),
    "zero, a float": lambda *a: 0.0,
    "one, a float": lambda *a: 1.0,
    "an empty list": lambda *a: [],
    "zeros": lambda *a: torch.zeros_like(a[0]),
    "ones": lambda *a: torch.ones_like(a[0]),
    "equal shares": lambda *a: torch.full_like(a[0], 1 / a[0].shape[-1]),
    "the mean": lambda *a: a[0].mean(),
    "the means": lambda *a: a[0].mean(0),
    "the sum": lambda *a: a[0].sum(),
    "the sum times zero": lambda *a: (a[0] * 0).sum(),
    "the square": lambda *a: a[0] ** 2,
    "a softmax": lambda *a: a[0].softmax(-1),
    "an error": raises,
}


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.id)
def test_a_lazy_answer_earns_nothing(exercise):
    cases, expected = cases_of(exercise), expected_of(exercise)
    for name, answer in LAZY.items():
        share = credit(cases, expected, [observe(exercise, answer, case) for case in cases])
        assert share == 0, name


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.id)
def test_guessing_all_but_the_numbers_earns_nothing(exercise):
    """A forger knows every word that a drive writes and what the inputs are afterwards; numbers must be computed."""
    cases = cases_of(exercise)
    for number in (0, 1):
        forged = [forge(watch(exercise.drive, exercise.reference, case), number) for case in cases]
        found = [read(exercise, one, case) for one, case in zip(forged, cases, strict=True)]
        assert credit(cases, expected_of(exercise), found) == 0


def forge(seen, number):
    numeric = {key for key, one in seen.items() if isinstance(one, np.ndarray) and one.dtype.kind != "U"}
    return {
        key: np.full_like(one, number) if key in numeric and not key.endswith("afterwards") else one
        for key, one in seen.items()
    }
