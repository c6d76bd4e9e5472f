"""Lesson 06's exercise on the answer of several teachers together, and the mistakes of any loss over tasks."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ctkd_lessons import multi_task as lesson
from ctkd_lessons.course.exercises.description import (
    Answer,
    Case,
    Exercise,
    Mistake,
    Observation,
    observe_call,
)
from ctkd_lessons.course.exercises.shared import (
    CROSS_ENTROPY,
    LOG_OF_SOFTMAX,
    STUDENT_NOT_LOGGED,
    SUMMED,
    SWAPPED,
    mistake_not_detached,
    mistake_student_cut,
)

OF_DIVERGENCES = (
    SWAPPED,
    mistake_student_cut("student_logits"),
    Mistake(
        "element_mean",
        "computed with the mean over the classes, too",
        "A KL divergence adds up over the classes; the mean runs over the examples. `F.kl_div` has "
        '`reduction="batchmean"` for it.',
    ),
    SUMMED,
    Mistake(
        "tasks_averaged", "divided by the number of tasks", "The tasks' losses are added up, each with its weight."
    ),
    CROSS_ENTROPY,
    LOG_OF_SOFTMAX,
    STUDENT_NOT_LOGGED,
)

_CLASSES = {"digit": 4, "parity": 2, "loops": 3}


def _fusion_inputs(rng: np.random.Generator) -> list[Case]:
    # What the student learns, then what each teacher knows and how much it counts.
    some = ["digit", "parity"]
    cases = [
        _teachers(rng, 3, some, (some, 0.5), (["digit"], 1.2)),
        _teachers(rng, 4, ["loops"], (["loops"], 2.0), (["loops"], 1.0), (["loops"], 1.0), dtype="float32"),
        _teachers(rng, 1, some, (["parity"], 3.0), (["digit"], 1.0), (some, 0.0)),
        _teachers(rng, 2, [*_CLASSES], ([*_CLASSES], 0.4), dtype="float32"),
        _teachers(rng, 2, some, (some, 1.0), (["parity"], 2.0), (some, 4.0), spread=300.0, dtype="float32"),
    ]
    for name, logits in cases[-1].items():
        if name.startswith("teacher"):
            logits[:, 0] += 1000  # all teachers are sure of it: the fused answer holds zeros
    return cases


def _teachers(
    rng: np.random.Generator,
    examples: int,
    tasks: list[str],
    *teachers: tuple[list[str], float],
    spread: float = 1.5,
    dtype: str = "float64",
) -> Case:
    def logits(task: str) -> np.ndarray:
        return rng.normal(0, spread, (examples, _CLASSES[task])).astype(dtype)

    case: dict[str, np.ndarray | float] = {f"student_logits[{task}]": logits(task) for task in tasks}
    for m, (known, _) in enumerate(teachers):
        case |= {f"teacher_logits[{m}][{task}]": logits(task) for task in known}
    return case | {f"weights[{m}]": weight for m, (_, weight) in enumerate(teachers)}


def _observe_fusion(answer: Answer, case: Case) -> Observation:
    """Hand the answer a mapping, a list of mappings and a list of numbers."""

    def arranged(*values: Tensor | float) -> Tensor:
        given = dict(zip(case, values, strict=True))
        weights = [value for name, value in given.items() if name.startswith("weights")]
        student = _mapping(given, "student_logits")
        return answer(student, [_mapping(given, f"teacher_logits[{m}]") for m in range(len(weights))], weights)

    return observe_call(arranged, case, constants=tuple(name for name in case if name.startswith("teacher")))


def _mapping(given: Mapping[str, Tensor | float], who: str) -> dict[str, Tensor]:
    return {name[len(who) + 1 : -1]: value for name, value in given.items() if name.startswith(f"{who}[")}


def _fusion_loss(
    student_logits: Mapping[str, Tensor], teacher_logits: Sequence[Mapping[str, Tensor]], weights: Sequence[float]
) -> Tensor:
    """Σ_k mean_i KL(t_k ‖ p_student,k), t_k the weighted mean of what task k's teachers answer."""
    total = 0.0
    for task, student in student_logits.items():
        known = [(one[task], weight) for one, weight in zip(teacher_logits, weights, strict=True) if task in one]
        teachers, shares = zip(*known, strict=True)
        total = total + lesson.fusion_loss({"class": student}, [{"class": one} for one in teachers], shares)
    return total


def _fused(
    teachers: Sequence[Tensor | None],
    weights: Sequence[float],
    *,
    logits_averaged: bool = False,
    voted: bool = False,
    unweighted: bool = False,
    divided_by_count: bool = False,
    missing_as_zero: bool = False,
    missing_as_even: bool = False,
    weights_ignored: bool = False,
    weights_softmaxed: bool = False,
    first_teacher: bool = False,
) -> Tensor:
    """Return the answer of all teachers together, as probabilities; ``None`` for one without the task."""
    there = next(one for one in teachers if one is not None)
    if missing_as_even:
        teachers = [torch.zeros_like(there) if one is None else one for one in teachers]
    if weights_ignored or weights_softmaxed:
        plain = torch.tensor(weights, dtype=torch.float64)
        weights = (torch.ones_like(plain) if weights_ignored else plain.softmax(0)).tolist()
    known = [(one, weight) for one, weight in zip(teachers, weights, strict=True) if one is not None]
    if first_teacher:
        return there.softmax(-1)
    total = 1 if unweighted else sum(weights) if missing_as_zero else sum(weight for _, weight in known)
    total = len(known) if divided_by_count else total
    if logits_averaged:
        return sum(weight / total * one for one, weight in known).softmax(-1)
    answers = ((F.one_hot(z.argmax(-1), z.shape[-1]).to(z) if voted else z.softmax(-1), w) for z, w in known)
    return sum(weight / total * answer for answer, weight in answers)


def _wrong_fusion(
    student_logits: Mapping[str, Tensor],
    teacher_logits: Sequence[Mapping[str, Tensor]],
    weights: Sequence[float],
    *,
    not_detached: bool = False,
    student_cut: bool = False,
    losses_averaged: bool = False,
    tasks_averaged: bool = False,
    common_tasks: bool = False,
    swapped: bool = False,
    element_mean: bool = False,
    summed: bool = False,
    cross_entropy: bool = False,
    student_not_logged: bool = False,
    log_of_softmax: bool = False,
    **switches: bool,
) -> Tensor:
    def distance(student: Tensor, target: Tensor) -> Tensor:
        logs = student.softmax(-1).log() if log_of_softmax else student.log_softmax(-1)
        if student_not_logged:
            logs = logs.exp()
        if swapped:
            terms = logs.exp() * (logs - target.log())
        else:
            terms = (0 if cross_entropy else torch.special.xlogy(target, target)) - target * logs
        return terms.mean() if element_mean else terms.sum() if summed else terms.sum(-1).mean()

    total = 0.0
    for task, student in student_logits.items():
        cut = student_cut or not_detached
        teachers = [one.get(task) if cut or task not in one else one[task].detach() for one in teacher_logits]
        student = student.detach() if student_cut else student
        if common_tasks and any(one is None for one in teachers):
            continue
        if losses_averaged:
            known = [(one, w) for one, w in zip(teachers, weights, strict=True) if one is not None]
            whole = sum(w for _, w in known)
            loss = sum(w / whole * distance(student, one.softmax(-1)) for one, w in known)
        else:
            loss = distance(student, _fused(teachers, weights, **switches))
        total = total + loss / (len(student_logits) if tasks_averaged else 1)
    return total


FUSION_LOSS = Exercise(
    id="06.fusion_loss",
    title="Strategy 6: the answer of all teachers together",
    points=3,
    reference=_fusion_loss,
    inputs=_fusion_inputs,
    drive=_observe_fusion,
    wrong=_wrong_fusion,
    mistakes=(
        *OF_DIVERGENCES,
        mistake_not_detached("teacher_logits"),
        Mistake(
            "logits_averaged",
            "computed with the average of the teachers' logits",
            "A teacher with large logits would outvote the others. Average what they *answer*: probabilities.",
        ),
        Mistake(
            "losses_averaged",
            "the average of the divergences from each teacher",
            "The gradient is the same, but the value is not 0 for a student that gives the fused answer. Fuse first, "
            "then compare once.",
        ),
        Mistake(
            "unweighted",
            "computed with weights that don't sum to one",
            "What the teachers answer together must still be probabilities. What do you divide by?",
        ),
        Mistake(
            "divided_by_count",
            "divided by the number of teachers, not by the sum of their weights",
            "What the teachers answer together must sum to 1 again. What do the weights sum to?",
        ),
        Mistake(
            "missing_as_zero",
            "computed as if a teacher without the task answered zero",
            "Divide by the weights of those who *have* the task. The others keep silent; they don't vote for nothing.",
        ),
        Mistake(
            "missing_as_even",
            "computed as if a teacher without the task found all classes alike",
            "A teacher without the task says nothing, not “I don't know”. Leave it out, its weight included.",
        ),
        Mistake(
            "common_tasks",
            "computed for the tasks alone that all teachers have",
            "One teacher is enough for a task to be learned. Fuse over those who have it.",
        ),
        Mistake(
            "weights_ignored",
            "computed with the same weight for all teachers",
            "`weights` says how much each teacher counts.",
        ),
        Mistake(
            "weights_softmaxed",
            "computed with a softmax of the weights",
            "A weight of zero should silence a teacher, and twice the weight be twice the say. Divide by the sum.",
        ),
        Mistake(
            "first_teacher",
            "computed with the first teacher that has the task",
            "All teachers that have the task answer together.",
        ),
        Mistake(
            "voted",
            "computed from the teachers' votes",
            "A vote says nothing about the other classes. Average probabilities.",
        ),
    ),
    sizes=lambda case: {
        "the number of tasks": sum(name.startswith("student") for name in case),
        "the number of examples": len(next(iter(case.values()))),
        "the number of teachers": sum(name.startswith("weights") for name in case),
    },
    alone=frozenset(
        {
            "student_cut",
            "summed",
            "log_of_softmax",
            "student_not_logged",
            "losses_averaged",
            "divided_by_count",
            "missing_as_even",
            "common_tasks",
            "weights_softmaxed",
            "first_teacher",
            "voted",
        }
    ),
)
