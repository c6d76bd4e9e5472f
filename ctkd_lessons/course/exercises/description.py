"""How an exercise is described: once, as plain data and small functions.

The check cell, ``ctkd check``, the project's tests and the grader all use the same description.
An answer is never looked at directly: ``drive`` exercises it and returns an *observation*, a dict
of plain strings and NumPy arrays, so that the answer may run in another process.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

Case = Mapping[str, Any]  # argument name → NumPy array or Python scalar
Observation = dict[str, Any]  # what was seen → str or NumPy array, the most telling first
Answer = Callable[..., Any]


@dataclass(frozen=True)
class Mistake:
    """A wrong answer that people give.

    ``name``: the switch of ``Exercise.wrong`` that makes it; ``says``: what such an answer is, to
    follow "This is …"; ``hint``: what to think about, without giving the code away.
    """

    name: str
    says: str
    hint: str


@dataclass(frozen=True)
class Property:
    """Something that must be true of every right answer, beyond equality on random inputs."""

    says: str
    holds: Callable[[Answer], bool]


@dataclass(frozen=True)
class Exercise:
    """One exercise.

    ``id``: lesson and name, "01.kd_loss"; ``reference``: the right answer;
    ``inputs(rng)``: random valid cases, shapes varying, edge cases included;
    ``drive(answer, case)``: exercise the answer and return an observation;
    ``read(seen, case)``: what to make of it, away from the answer: where a drive returns chance's numbers,
    they become words that two right answers share;
    ``wrong``: takes what the reference takes and one switch per mistake;
    ``sizes(case)``: named numbers an answer may be off by, such as {"the number of classes": 10};
    ``alone``: mistakes that make no sense together with another one;
    ``at_once``: how many mistakes in one answer are told apart.
    """

    id: str
    title: str
    points: int
    reference: Answer
    inputs: Callable[[np.random.Generator], list[Case]]
    drive: Callable[[Answer, Case], Observation]
    wrong: Answer
    mistakes: tuple[Mistake, ...]
    properties: tuple[Property, ...] = ()
    sizes: Callable[[Case], dict[str, float]] = lambda case: {}
    alone: frozenset[str] = frozenset()
    at_once: int = 2
    read: Callable[[Observation, Case], Observation] = lambda seen, case: seen

    @property
    def name(self) -> str:
        """The function the learner writes: "kd_loss"."""
        return self.id.partition(".")[2]

    def variant(self, *mistakes: Mistake) -> Answer:
        """Return a working wrong answer that makes the given mistakes."""
        switches = {mistake.name: True for mistake in mistakes}
        return lambda *arguments: self.wrong(*arguments, **switches)

    def combinations(self) -> list[tuple[Mistake, ...]]:
        """Return every single mistake, then the sensible pairs, and so on up to ``at_once``."""
        together = [mistake for mistake in self.mistakes if mistake.name not in self.alone]
        several = [group for size in range(2, self.at_once + 1) for group in combinations(together, size)]
        return [(mistake,) for mistake in self.mistakes] + several


def tensors(case: Case) -> dict[str, Any]:
    """Return a case's values by name, NumPy arrays as new tensors."""
    return {name: torch.tensor(v) if isinstance(v, np.ndarray) else v for name, v in case.items()}


def observe_value_only(answer: Answer, case: Case) -> Observation:
    """Call ``answer`` with the case's values in order; NumPy arrays become tensors.

    Observes the type of what comes back, its dtype and value, and every array as the call left it.
    """
    given = tensors(case)
    seen = observe_value(answer(*given.values()))
    for name, value in given.items():
        if isinstance(value, Tensor):
            seen[f"`{name}` afterwards"] = value.detach().numpy()
    return seen


def observe_call(answer: Answer, case: Case, constants: tuple[str, ...] = ()) -> Observation:
    """Observe the value as ``observe_value_only``, and the gradient.

    With respect to every floating tensor; for a value that is no scalar, the gradient of a fixed
    weighted sum of it. Of ``constants`` only whether any gradient reaches them.
    """
    seen = observe_value_only(answer, case)
    return seen | _observe_gradients(answer, case, constants) if seen["type"] == "torch.Tensor" else seen


def observe_value(value: object) -> Observation:
    """Describe a returned value: its type, its dtype, and the value itself where it is numeric."""
    if isinstance(value, Tensor):
        return {"type": "torch.Tensor", "dtype": str(value.dtype), "value": value.detach().cpu().numpy()}
    if isinstance(value, (np.ndarray, np.generic)):
        return {"type": f"numpy.{type(value).__name__}", "dtype": str(value.dtype), "value": np.asarray(value)}
    if isinstance(value, (bool, int, float)):
        return {"type": type(value).__name__, "value": np.asarray(value, dtype=np.float64)}
    return {"type": type(value).__name__}


def _observe_gradients(answer: Answer, case: Case, constants: tuple[str, ...]) -> Observation:
    leaves = {
        name: torch.tensor(value, requires_grad=True)
        for name, value in case.items()
        if isinstance(value, np.ndarray) and np.issubdtype(value.dtype, np.floating)
    }
    # A copy, because an answer that changes its input in place may not do so to a leaf.
    given = [
        leaves[name].clone() if name in leaves else torch.tensor(value) if isinstance(value, np.ndarray) else value
        for name, value in case.items()
    ]
    value = answer(*given)
    if not value.requires_grad:
        return {"differentiable": "no"}
    weights = torch.cos(torch.arange(value.numel(), dtype=value.dtype)).view(value.shape)
    total = (value * weights).sum() if value.ndim else value
    gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    seen: Observation = {"differentiable": "yes"}
    for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
        if name in constants:
            seen[f"gradient into `{name}`"] = "none" if gradient is None or not gradient.any() else "some"
        else:
            seen[f"gradient of `{name}`"] = (torch.zeros_like(leaf) if gradient is None else gradient).numpy()
    return seen
