"""The exercises of lesson 01: soft targets."""

import math
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctkd_lessons import soft_targets
from ctkd_lessons.course.exercises.description import (
    Answer,
    Case,
    Exercise,
    Mistake,
    Observation,
    Property,
    observe_call,
    observe_value_only,
    tensors,
)
from ctkd_lessons.course.exercises.shared import (
    ACCUMULATES,
    ADAM,
    ALPHA_ON_LABELS,
    CROSS_ENTROPY,
    FOURTH_POWER,
    LOG_OF_SOFTMAX,
    NO_SQUARE,
    PROBABILITIES_SQUARED,
    SOFTMAX_TWICE,
    STUDENT_NOT_LOGGED,
    STUDENT_UNSOFTENED,
    SUMMED,
    SWAPPED,
    TEACHER_UNSOFTENED,
    ZEROED_LATE,
    draw,
    mistake_not_detached,
    wrong_factor,
    wrong_step,
    wrong_terms,
)

SHAPES = ((4, 10), (1, 3), (7, 5), (16, 10), (3, 2), (5, 12))


def _pairs(rng: np.random.Generator) -> list[dict]:
    """Student and teacher logits of both precisions and many shapes."""
    return draw(rng, [{"student_logits": shape, "teacher_logits": shape} for shape in SHAPES], spread=3)


def _batch_and_classes(case: Case) -> dict[str, float]:
    batch, classes = next(value.shape for value in case.values() if isinstance(value, np.ndarray))
    sizes = {"the number of classes": classes, "the number of examples": batch}
    return sizes | ({"the temperature": case["temperature"]} if "temperature" in case else {})


# --- soften -----------------------------------------------------------------------------------


def _soften_inputs(rng: np.random.Generator) -> list[Case]:
    temperatures = (1.0, 4.0, 0.5, 2.5, 8.0, 20.0)
    cases = [
        {"logits": pair["student_logits"], "temperature": t} for pair, t in zip(_pairs(rng), temperatures, strict=True)
    ]
    # Rows that lie far apart, too: the largest logit of the batch is no help for the others.
    huge = rng.choice([-1e5, 0.0, 1e5], (3, 6)) + rng.normal(0, 1, (3, 6)) + np.array([[0.0], [-3e5], [3e5]])
    return [*cases, {"logits": huge, "temperature": 2.0}]


def _wrong_soften(
    logits: Tensor,
    temperature: float,
    *,
    multiplied: bool = False,
    no_temperature: bool = False,
    batch_axis: bool = False,
    unstable: bool = False,
    divided_after: bool = False,
    hard: bool = False,
    logs: bool = False,
    over_everything: bool = False,
) -> Tensor:
    axis = 0 if batch_axis else -1
    if logs:
        return F.log_softmax(logits / temperature, axis)
    if over_everything:
        return torch.softmax((logits / temperature).flatten(), 0).view(logits.shape)
    if hard:
        return F.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)
    if divided_after:
        return torch.softmax(logits, axis) / temperature
    scaled = logits * temperature if multiplied else logits if no_temperature else logits / temperature
    if unstable:
        return scaled.exp() / scaled.exp().sum(axis, keepdim=True)
    return torch.softmax(scaled, axis)


SOFTEN = Exercise(
    id="01.soften",
    title="Softmax with a temperature",
    points=2,
    reference=soft_targets.soften,
    inputs=_soften_inputs,
    drive=observe_call,
    wrong=_wrong_soften,
    mistakes=(
        Mistake(
            "multiplied",
            "the softmax of logits multiplied by the temperature",
            "A high temperature should make the probabilities more even: should the logits grow or shrink?",
        ),
        Mistake(
            "no_temperature",
            "the plain softmax, without the temperature",
            "Use `temperature`: it changes the logits before the softmax.",
        ),
        Mistake(
            "batch_axis",
            "a softmax over the examples",
            "Each *row* is one example and should sum to 1. Which axis holds the classes?",
        ),
        Mistake(
            "unstable",
            "the right formula, but `exp` overflows for large logits",
            "exp(1000) is inf. Subtracting the same number from a whole row changes nothing: which one helps?",
        ),
        Mistake(
            "divided_after",
            "the softmax divided by the temperature afterwards",
            "Those rows no longer sum to 1. The temperature belongs inside the exponential.",
        ),
        Mistake(
            "hard",
            "a one-hot vector: the limit of a temperature near zero",
            "Keep what the smaller logits say: softmax instead of argmax.",
        ),
        Mistake("logs", "the log of the softmax", "Probabilities lie between 0 and 1. Yours are negative."),
        Mistake(
            "over_everything",
            "a softmax over the whole batch at once",
            "Each *row* is one example and should sum to 1. Keep the classes' axis apart.",
        ),
    ),
    properties=(
        Property(
            "does not change when a constant is added to all logits of a row",
            lambda answer: torch.allclose(
                answer(torch.tensor([[1.0, 2.0, 4.0]]), 3.0), answer(torch.tensor([[101.0, 102.0, 104.0]]), 3.0)
            ),
        ),
    ),
    sizes=_batch_and_classes,
    alone=frozenset({"hard", "divided_after", "logs", "over_everything"}),
)


# --- kd_loss ----------------------------------------------------------------------------------


def _kd_inputs(rng: np.random.Generator) -> list[Case]:
    cases = [{**pair, "temperature": t} for pair, t in zip(_pairs(rng), (4.0, 2.0, 1.0, 8.0, 3.0, 5.0), strict=True)]
    student, teacher = rng.normal(0, 3, (2, 4, 6)).astype("float32")
    teacher[:, 0], student[:, 1] = 1000.0, 1000.0
    return [*cases, {"student_logits": student, "teacher_logits": teacher, "temperature": 2.0}]


def _wrong_kd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float,
    *,
    no_square: bool = False,
    fourth_power: bool = False,
    element_mean: bool = False,
    summed: bool = False,
    not_detached: bool = False,
    batch_axis: bool = False,
    logits_squared: bool = False,
    probabilities_squared: bool = False,
    **switches: bool,
) -> Tensor:
    teacher = teacher_logits if not_detached else teacher_logits.detach()
    if logits_squared:
        return F.mse_loss(student_logits, teacher)
    if probabilities_squared:
        return F.mse_loss(torch.softmax(student_logits / temperature, -1), torch.softmax(teacher / temperature, -1))
    if batch_axis:
        terms = wrong_terms(student_logits.T, teacher.T, temperature, **switches).T
    else:
        terms = wrong_terms(student_logits, teacher, temperature, **switches)
    divergence = terms.mean() if element_mean else terms.sum() if summed else terms.sum(-1).mean()
    return divergence * wrong_factor(temperature, no_square=no_square, fourth_power=fourth_power)


KD_LOSS = Exercise(
    id="01.kd_loss",
    title="The distillation loss",
    points=3,
    reference=soft_targets.kd_loss,
    inputs=_kd_inputs,
    drive=partial(observe_call, constants=("teacher_logits",)),
    wrong=_wrong_kd,
    mistakes=(
        SWAPPED,
        NO_SQUARE,
        Mistake(
            "element_mean",
            "averaged over examples *and* classes",
            "Sum over the classes, average over the examples only. `reduction='mean'` of `F.kl_div` does this too.",
        ),
        SUMMED,
        mistake_not_detached("teacher_logits"),
        LOG_OF_SOFTMAX,
        STUDENT_UNSOFTENED,
        TEACHER_UNSOFTENED,
        Mistake(
            "batch_axis",
            "computed from softmaxes over the examples",
            "Each *row* is one example. Which axis holds the classes?",
        ),
        STUDENT_NOT_LOGGED,
        FOURTH_POWER,
        Mistake(
            "logits_squared",
            "the squared difference of the logits",
            "That is the limit at high temperature, but for centring and a ½. Here T is finite: compare probabilities.",
        ),
        PROBABILITIES_SQUARED,
        CROSS_ENTROPY,
    ),
    properties=(
        Property(
            "is zero when the student equals the teacher",
            lambda answer: abs(float(answer(torch.eye(3), torch.eye(3), 4.0))) < 1e-6,
        ),
    ),
    sizes=_batch_and_classes,
    alone=frozenset({"logits_squared", "probabilities_squared"}),
)


# --- kd_gradient_limit ------------------------------------------------------------------------


def _gradient_limit(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """(z̃_s − z̃_t) / (B · C): the gradient of ½ · mean over B and C of (z̃_s − z̃_t)²."""
    difference = student_logits - teacher_logits
    return (difference - difference.mean(dim=-1, keepdim=True)) / difference.numel()


def _wrong_gradient_limit(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    not_centred: bool = False,
    centred_over_batch: bool = False,
    opposite: bool = False,
    no_batch_mean: bool = False,
    no_class_mean: bool = False,
    no_half: bool = False,
) -> Tensor:
    difference = teacher_logits - student_logits if opposite else student_logits - teacher_logits
    if not not_centred:
        difference = difference - difference.mean(dim=0 if centred_over_batch else -1, keepdim=True)
    batch, classes = difference.shape
    divisor = (1 if no_batch_mean else batch) * (1 if no_class_mean else classes) / (2 if no_half else 1)
    return difference / divisor


KD_GRADIENT_LIMIT = Exercise(
    id="01.kd_gradient_limit",
    title="The gradient at high temperature",
    points=3,
    reference=_gradient_limit,
    inputs=lambda rng: [
        *_pairs(rng),
        # More examples than classes and fewer: 1 / B and 1 / C cannot be taken for each other.
        {"student_logits": rng.normal(5, 2, (9, 4)), "teacher_logits": rng.normal(-5, 2, (9, 4))},
    ],
    drive=observe_value_only,
    wrong=_wrong_gradient_limit,
    mistakes=(
        Mistake(
            "not_centred",
            "the difference of logits that were not centred",
            "A softmax ignores a constant added to a row, so the gradient of each row sums to zero. Does yours?",
        ),
        Mistake(
            "centred_over_batch",
            "centred over the examples",
            "The softmax runs over the classes of one example: take the mean of each row.",
        ),
        Mistake(
            "opposite",
            "the negative gradient: the direction of descent",
            "A gradient points uphill: where the student's logit is too large, it is positive.",
        ),
        Mistake(
            "no_batch_mean",
            "the gradient of a sum over the examples",
            "`kd_loss` averages over the batch.",
        ),
        Mistake(
            "no_class_mean",
            "too large by the number of classes",
            "At high temperature every probability is near 1/C: the softmax's derivative brings in that factor.",
        ),
        Mistake(
            "no_half",
            "twice the gradient",
            "The limit is *half* the mean square; its derivative has no 2.",
        ),
    ),
    properties=(
        Property(
            "agrees with autograd through `kd_loss` at T = 1000",
            lambda answer: _agrees_with_autograd(answer),
        ),
    ),
    sizes=_batch_and_classes,
)


def _agrees_with_autograd(answer: Answer) -> bool:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 6, 4, generator=generator, dtype=torch.float64)
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(soft_targets.kd_loss(student, teacher, 1000.0), student)
    return torch.allclose(answer(student.detach(), teacher), gradient, atol=1e-3)


# --- correct_bias -----------------------------------------------------------------------------


def _bias_inputs(rng: np.random.Generator) -> list[Case]:
    return [
        {"logits": pair["student_logits"], "label": int(rng.integers(shape[1])), "offset": float(rng.normal(0, 3))}
        for pair, shape in zip(_pairs(rng), SHAPES, strict=True)
    ]


def _wrong_bias(
    logits: Tensor,
    label: int,
    offset: float,
    *,
    in_place: bool = False,
    whole_row: bool = False,
    subtracted: bool = False,
    replaced: bool = False,
    on_example: bool = False,
    scaled: bool = False,
    on_predicted: bool = False,
) -> Tensor:
    if in_place:
        logits[:, label] += offset
        return logits
    if whole_row:
        return logits + offset
    answer = logits.clone()
    if on_example:
        answer[label % len(logits)] += offset
    elif on_predicted:
        answer[torch.arange(len(logits)), logits.argmax(-1)] += offset
    elif replaced:
        answer[:, label] = offset
    elif scaled:
        answer[:, label] *= offset
    else:
        answer[:, label] += -offset if subtracted else offset
    return answer


CORRECT_BIAS = Exercise(
    id="01.correct_bias",
    title="Raise the bias of one class",
    points=1,
    reference=soft_targets.correct_bias,
    inputs=_bias_inputs,
    drive=observe_value_only,
    wrong=_wrong_bias,
    mistakes=(
        Mistake(
            "in_place",
            "right in value, but it changes the logits it was given",
            "The caller still needs the old ones, to compare before and after. Work on a copy.",
        ),
        Mistake(
            "whole_row",
            "the offset added to every class",
            "That changes no prediction: the softmax ignores a constant. Add it to one column.",
        ),
        Mistake("subtracted", "the offset subtracted", "The unseen class is predicted too rarely: raise its logit."),
        Mistake("replaced", "the logit replaced by the offset", "Keep what the student knows: add to the logit."),
        Mistake(
            "on_example",
            "the offset added to one example instead of one class",
            "`logits[label]` is a row. Classes are the last axis.",
        ),
        Mistake("scaled", "the logit multiplied by the offset", "An offset is added. A product flips negative logits."),
        Mistake(
            "on_predicted",
            "the offset added to the predicted class of each example",
            "`label` says which class was never seen; the prediction plays no part.",
        ),
    ),
    sizes=_batch_and_classes,
    at_once=1,
)


# --- balanced_offset: the variant whose answer the lesson does not print ----------------------


def _offset_inputs(rng: np.random.Generator) -> list[Case]:
    # 0.07 · 100 is 7.000000000000001 in floating point; 0.33 · 10 is no whole number.
    shares = (0.1, 0.25, 0.5, 0.07, 1.0, 0.33)
    sizes = ((40, 10), (8, 3), (30, 5), (100, 10), (12, 2), (10, 6))
    cases = [
        {"logits": rng.normal(0, 3, size).astype(dtype), "label": int(rng.integers(size[1])), "share": share}
        for size, share, dtype in zip(sizes, shares, ("float64", "float32") * 3, strict=True)
    ]
    # All logits negative: a zero in the place of the class would win. The class leads: its offset is below zero.
    led = rng.normal(-30, 2, (15, 4)) + np.array([0.0, 15.0, 0.0, 0.0])
    return [*cases, {"logits": led, "label": 1, "share": 0.4}]


def _observe_number(answer: Answer, case: Case) -> Observation:
    """Call an answer that returns a Python number: no gradient, no dtype."""
    given = tensors(case)
    value = answer(*given.values())
    seen = {"type": type(value).__name__ if not isinstance(value, Tensor) else "torch.Tensor"}
    if isinstance(value, (int, float)):
        # Margins are differences of logits in the inputs' precision.
        seen = {"type": "float", "value": np.asarray(value, dtype=case["logits"].dtype)}
    return seen | {"`logits` afterwards": given["logits"].detach().numpy()}


def _wrong_offset(
    logits: Tensor,
    label: int,
    share: float,
    *,
    opposite: bool = False,
    own_class_included: bool = False,
    second_largest: bool = False,
    wrong_end: bool = False,
    rounded_down: bool = False,
    mean_margin: bool = False,
    zero_for_class: bool = False,
    next_one: bool = False,
    not_rounded: bool = False,
    between: bool = False,
) -> float:
    others = logits.clone()
    if not own_class_included:
        others[:, label] = 0 if zero_for_class else -torch.inf
    best = others.median(-1).values if second_largest else others.amax(-1)
    margins = best - logits[:, label]
    margins = (-margins if opposite else margins).sort(descending=wrong_end).values
    if mean_margin:
        return float(margins.mean())
    if between:
        return float(margins.quantile(share))
    rank = share * len(logits) if not_rounded else round(share * len(logits), 9)
    place = (math.floor(rank) if rounded_down else math.ceil(rank)) - (0 if next_one else 1)
    return float(margins[min(max(0, place), len(margins) - 1)])


BALANCED_OFFSET = Exercise(
    id="01.balanced_offset",
    title="Find the offset without labels",
    points=3,
    reference=soft_targets.balanced_offset,
    inputs=_offset_inputs,
    drive=_observe_number,
    wrong=_wrong_offset,
    mistakes=(
        Mistake(
            "opposite",
            "computed from margins of the wrong sign",
            "An example that prefers another class by 2 needs an offset of +2.",
        ),
        Mistake(
            "own_class_included",
            "computed with the class itself among its rivals",
            "Compare with the largest of the *other* logits, or no margin is ever negative.",
        ),
        Mistake(
            "second_largest",
            "computed against the middle logit instead of the largest",
            "To be predicted, the class must beat every other class.",
        ),
        Mistake(
            "wrong_end",
            "counted from the largest margin down",
            "The examples that need least are lifted first: count from the smallest margin.",
        ),
        Mistake(
            "rounded_down",
            "rounded down: it may lift one example too few",
            "*At least* the share: round the number of examples up.",
        ),
        Mistake(
            "zero_for_class",
            "computed with a 0 in the place of the class's own logit",
            "All logits may be negative; then the 0 is the largest. What loses against every number?",
        ),
        Mistake(
            "next_one",
            "the margin one place too far",
            "Python counts from 0: the k-th smallest is at place k − 1.",
        ),
        Mistake(
            "not_rounded",
            "right but for rounding: 0.07 · 100 is 7.000000000000001",
            "Round the product to a few digits before you round it up.",
        ),
        Mistake(
            "between",
            "a quantile that lies between two margins",
            "`quantile` interpolates. Take one of the margins themselves.",
        ),
        Mistake(
            "mean_margin",
            "the mean margin",
            "A mean says nothing about how many examples lie below it. You need a quantile.",
        ),
    ),
    properties=(
        Property(
            "lifts the class to the top for the given share of examples",
            lambda answer: _lifts_share(answer),
        ),
    ),
    alone=frozenset({"mean_margin", "between", "not_rounded", "zero_for_class"}),
)


def _lifts_share(answer: Answer) -> bool:
    logits = torch.randn(50, 5, generator=torch.Generator().manual_seed(0))
    lifted = soft_targets.correct_bias(logits, 2, float(answer(logits, 2, 0.3)) + 1e-4)
    return int((lifted.argmax(-1) == 2).sum()) == 15


# --- distil: the bug hunt ---------------------------------------------------------------------


def _distil_inputs(rng: np.random.Generator) -> list[Case]:
    return [
        {
            "images": rng.normal(0, 1, (examples, 5)),
            "labels": rng.integers(0, 3, examples),
            "steps": steps,
            "temperature": temperature,
            "alpha": alpha,
            "learning_rate": rate,
        }
        for examples, steps, temperature, alpha, rate in (
            (6, 3, 4.0, 0.9, 0.1),
            (4, 1, 2.0, 0.3, 0.05),
            (9, 2, 3.0, 0.7, 0.2),
        )
    ]


def _observe_training(answer: Answer, case: Case) -> Observation:
    """Build a student and a teacher with dropout, let the answer train, and look at both."""
    torch.manual_seed(1)
    student = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    teacher = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)).double()
    before = nn.utils.parameters_to_vector(teacher.parameters()).detach().numpy()
    given = tensors(case)
    answer(student, teacher, *given.values())
    after = nn.utils.parameters_to_vector(teacher.parameters()).detach().numpy()
    touched = any(p.grad is not None and p.grad.any() for p in teacher.parameters())
    return {
        "student after training": nn.utils.parameters_to_vector(student.parameters()).detach().numpy(),
        "`teacher` afterwards": after - before,
        "gradient left in the teacher": "some" if touched else "none",
    }


def _distil(
    student: nn.Module,
    teacher: nn.Module,
    images: Tensor,
    labels: Tensor,
    steps: int,
    temperature: float,
    alpha: float,
    learning_rate: float,
    *,
    teacher_training: bool = False,
    accumulates: bool = False,
    alpha_on_labels: bool = False,
    softmax_twice: bool = False,
    zeroed_late: bool = False,
    adam: bool = False,
) -> None:
    """Train the student in place by gradient descent on the whole batch."""
    optimiser = (torch.optim.Adam if adam else torch.optim.SGD)(student.parameters(), lr=learning_rate)
    teacher.train(teacher_training)
    for _ in range(steps):
        with torch.no_grad():
            teacher_logits = teacher(images)
        student_logits = student(images)
        soft = soft_targets.kd_loss(student_logits, teacher_logits, temperature)
        hard = F.cross_entropy(student_logits.softmax(-1) if softmax_twice else student_logits, labels)
        weight = 1 - alpha if alpha_on_labels else alpha
        loss = weight * soft + (1 - weight) * hard
        wrong_step(optimiser, loss, accumulates=accumulates, zeroed_late=zeroed_late)


DISTIL = Exercise(
    id="01.distil",
    title="Bug hunt: the training loop",
    points=4,
    reference=_distil,
    inputs=_distil_inputs,
    drive=_observe_training,
    wrong=_distil,
    mistakes=(
        Mistake(
            "teacher_training",
            "a loop whose teacher is still in training mode",
            "The teacher has dropout: in training mode its answer changes each time. Which method switches it off?",
        ),
        ACCUMULATES,
        ALPHA_ON_LABELS,
        SOFTMAX_TWICE,
        ZEROED_LATE,
        ADAM,
    ),
    at_once=4,
    alone=frozenset({"zeroed_late", "adam"}),
)

EXERCISES = (SOFTEN, KD_LOSS, KD_GRADIENT_LIMIT, CORRECT_BIAS, BALANCED_OFFSET, DISTIL)
