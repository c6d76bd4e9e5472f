"""What the exercises of several lessons share: inputs, and the mistakes people make with any KL divergence."""

from collections.abc import Callable, Iterable, Mapping
from itertools import cycle
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctkd_lessons.course.exercises.description import Mistake

SWAPPED = Mistake(
    "swapped",
    "the KL divergence with teacher and student swapped",
    "KL(p_t ‖ p_s) averages over the *teacher's* probabilities. Which of the two stands in front of the logs?",
)
NO_SQUARE = Mistake(
    "no_square",
    "the KL divergence without the factor T²",
    "Without it the gradient shrinks like 1/T², and the soft term fades beside a labels' term.",
)
FOURTH_POWER = Mistake("fourth_power", "too large by T²: the factor is there twice", "One factor T² is enough.")
LOG_OF_SOFTMAX = Mistake(
    "log_of_softmax",
    "right for small inputs, but takes the log of a softmax that has reached 0",
    "log(0) is −inf and 0 · inf is nan. Which function gives log-probabilities in one step?",
)
STUDENT_UNSOFTENED = Mistake(
    "student_unsoftened",
    "computed with a student at temperature 1",
    "Both sides are softened with the same temperature.",
)
TEACHER_UNSOFTENED = Mistake(
    "teacher_unsoftened",
    "computed with a teacher at temperature 1",
    "Soft targets are soft because the *teacher's* side is divided by T, too.",
)
STUDENT_NOT_LOGGED = Mistake(
    "student_not_logged",
    "computed with the student's probabilities where their logs belong",
    "`F.kl_div` takes *log*-probabilities first and probabilities second.",
)
PROBABILITIES_SQUARED = Mistake(
    "probabilities_squared",
    "the squared difference of the probabilities",
    "It hardly sees the small probabilities, the teacher's dark knowledge. Use the KL divergence.",
)
CROSS_ENTROPY = Mistake(
    "cross_entropy",
    "the cross-entropy of student and teacher, not the KL divergence",
    "The gradient is the same, but the value is not zero when both agree: the teacher's entropy is missing.",
)
SUMMED = Mistake("summed", "summed over the batch", "Average over the examples, or the loss grows with the batch size.")
ACCUMULATES = Mistake(
    "accumulates",
    "a loop whose gradients pile up from step to step",
    "`backward` adds to `.grad`. What must happen before it?",
)
ZEROED_LATE = Mistake(
    "zeroed_late",
    "a loop after which the student is as it was",
    "Something clears the gradients between `backward` and `step`, or the student that learns is a copy.",
)
ADAM = Mistake(
    "adam",
    "right but for the optimiser: Adam",
    "The exercise asks for plain gradient descent, `torch.optim.SGD` with no momentum, so that everyone gets the same "
    "numbers.",
)
ALPHA_ON_LABELS = Mistake(
    "alpha_on_labels",
    "a loop that puts α on the labels",
    "Here α is the weight of the teacher's term, 1 − α that of the labels.",
)
SOFTMAX_TWICE = Mistake(
    "softmax_twice",
    "a loop that gives `F.cross_entropy` probabilities",
    "`F.cross_entropy` applies the softmax itself: what does it expect?",
)


def mistake_not_detached(argument: str) -> Mistake:
    """Return the mistake of a teacher's ``argument`` left in the graph."""
    return Mistake(
        "not_detached",
        f"right in value, but gradient flows into `{argument}`",
        f"The teacher is a constant for the student. Cut `{argument}` from the graph before you use it.",
    )


def mistake_student_cut(argument: str) -> Mistake:
    """Return the mistake of a student cut from the graph in the teacher's place."""
    return Mistake(
        "student_cut",
        "right in value, but the student is cut from the graph, not the teacher",
        f"Nothing can be learned when no gradient reaches `{argument}`. Which of the two is the constant?",
    )


def chosen(ways: Mapping[str, Callable], switches: Mapping[str, bool], right: Callable) -> Callable:
    """Return the wrong way that a switch asks for, or the right one."""
    return next((way for name, way in ways.items() if name in switches), right)


def parameters_of(model: nn.Module) -> np.ndarray:
    """Return all weights of a model, one after the other."""
    return nn.utils.parameters_to_vector(model.parameters()).detach().numpy()


def hooks_on(model: nn.Module) -> int:
    """Count the forward hooks on a model and all of its layers."""
    return sum(len(layer._forward_hooks) + len(layer._forward_pre_hooks) for layer in model.modules())


def draw(
    rng: np.random.Generator, shapes: Iterable[Mapping[str, tuple[int, ...]]], spread: float = 1.0
) -> list[dict[str, Any]]:
    """Draw a case for each mapping of names to shapes: normal numbers, in single and double precision in turn."""
    return [
        {name: rng.normal(0, spread, shape).astype(dtype) for name, shape in named.items()}
        for named, dtype in zip(shapes, cycle(("float32", "float64")), strict=False)
    ]


def wrong_terms(
    student: Tensor,
    teacher: Tensor,
    temperature: float,
    *,
    swapped: bool = False,
    log_of_softmax: bool = False,
    student_unsoftened: bool = False,
    teacher_unsoftened: bool = False,
    student_not_logged: bool = False,
    cross_entropy: bool = False,
) -> Tensor:
    """Return the terms of KL(teacher ‖ student), before they are added up: p_t (log p_t − log p_s) over the last axis.

    Each switch makes a mistake; without any the terms are right.
    """
    log_s = _logs(student / (1.0 if student_unsoftened else temperature), naive=log_of_softmax)
    log_t = _logs(teacher / (1.0 if teacher_unsoftened else temperature), naive=log_of_softmax)
    if swapped:
        log_s, log_t = log_t, log_s
    if student_not_logged:
        log_s = log_s.exp()
    return log_t.exp() * ((0.0 if cross_entropy else log_t) - log_s)


def wrong_factor(temperature: float, *, no_square: bool, fourth_power: bool) -> float:
    """Return the factor in front of a softened divergence, T² unless a switch says otherwise."""
    return temperature ** (0 if no_square else 4 if fourth_power else 2)


def wrong_step(optimiser: torch.optim.Optimizer, loss: Tensor, *, accumulates: bool, zeroed_late: bool) -> None:
    """Take one step down the gradient of ``loss``; each switch makes a mistake."""
    if not accumulates:
        optimiser.zero_grad()
    loss.backward()
    if zeroed_late:
        optimiser.zero_grad()
    optimiser.step()


def _logs(values: Tensor, *, naive: bool) -> Tensor:
    return torch.softmax(values, -1).log() if naive else F.log_softmax(values, -1)
