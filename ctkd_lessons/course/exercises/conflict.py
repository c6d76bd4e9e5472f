"""The exercises of lesson 07. Those with PCGrad stand in ``conflict_surgery``."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ctkd_lessons import conflict as lesson
from ctkd_lessons.course.exercises.conflict_surgery import PCGRAD, SURGERY_STEP, direction_lies_along
from ctkd_lessons.course.exercises.description import (
    Case,
    Exercise,
    Mistake,
    Property,
    observe_call,
    observe_value_only,
)
from ctkd_lessons.course.exercises.shared import draw

# --- gradient_cosine --------------------------------------------------------------------------


def _cosine_inputs(rng: np.random.Generator) -> list[Case]:
    shapes = [(3, 5), (4, 7), (2, 2), (5, 3), (4, 4), (1, 6)]
    cases = draw(rng, [{"gradients": shape} for shape in shapes], spread=2)
    cases[1]["gradients"][2] = 0
    cases[3]["gradients"] *= 1e-4
    return cases


def _wrong_cosine(
    gradients: Tensor,
    *,
    products: bool = False,
    over_tasks: bool = False,
    parameters_compared: bool = False,
    one_length: bool = False,
    other_length: bool = False,
    squared_lengths: bool = False,
    one_norm: bool = False,
    absolute_length: bool = False,
    centred: bool = False,
    magnitudes: bool = False,
    conflicts_only: bool = False,
    signs: bool = False,
    angles: bool = False,
    distances: bool = False,
    diagonal_zero: bool = False,
    with_mean: bool = False,
    unguarded: bool = False,
) -> Tensor:
    g = gradients - gradients.mean(1, keepdim=True) if centred else gradients
    sizes = g.norm(p=1 if absolute_length else 2, dim=0 if over_tasks else 1, keepdim=True)
    sizes = g.norm() if one_norm else sizes.square() if squared_lengths else sizes
    sizes = torch.ones_like(sizes) if products else sizes if unguarded else torch.where(sizes > 0, sizes, 1)
    unit = g / sizes
    rows = unit.T if parameters_compared else unit
    other = unit.mean(0, keepdim=True).expand_as(unit) if with_mean else g if one_length else rows
    cosine = g @ rows.T if other_length else rows @ other.T
    if magnitudes or conflicts_only or signs:
        cosine = cosine.abs() if magnitudes else cosine.clamp(max=0) if conflicts_only else cosine.sign()
    if angles or distances:
        cosine = cosine.clamp(-1, 1).arccos() if angles else 1 - cosine
    return cosine * (1 - torch.eye(len(cosine), dtype=cosine.dtype)) if diagonal_zero else cosine


GRADIENT_COSINE = Exercise(
    id="07.gradient_cosine",
    title="Do two tasks pull the same way?",
    points=2,
    reference=lesson.gradient_cosine,
    inputs=_cosine_inputs,
    drive=observe_value_only,
    wrong=_wrong_cosine,
    mistakes=(
        Mistake(
            "products",
            "the products g_i · g_j without the lengths",
            "A cosine is between −1 and 1. What must a product be divided by, so that lengths no longer count?",
        ),
        Mistake(
            "unguarded",
            "right but for a task without gradient, where it divides by zero",
            "A gradient of zero points nowhere: its cosines should be 0. `F.normalize` guards against a length of 0.",
        ),
        Mistake(
            "over_tasks",
            "computed with lengths taken over the tasks",
            "The rows of (K, P) are the tasks. Along which axis does *one* gradient lie?",
        ),
        Mistake(
            "parameters_compared",
            "a comparison of the parameters, (P, P), not of the tasks",
            "Two (K, P) matrices: which product gives (K, K)?",
        ),
        Mistake(
            "one_length",
            "computed with one of the two lengths only",
            "The matrix should be symmetric. Divide by ‖g_i‖ *and* ‖g_j‖.",
        ),
        Mistake(
            "other_length",
            "computed with each column divided by its length, and no row",
            "A (K,) tensor under a (K, K) one divides the columns. The rows have lengths, too.",
        ),
        Mistake(
            "squared_lengths",
            "computed with squared lengths",
            "What does it say about a gradient and itself? That must be 1. Is a root missing?",
        ),
        Mistake(
            "one_norm",
            "computed with one length for all tasks together",
            "`norm()` without an axis is the length of the whole matrix. Each gradient needs its own.",
        ),
        Mistake(
            "absolute_length",
            "computed with sums of absolute entries for lengths (L1)",
            "The length in a cosine is the Euclidean one (L2).",
        ),
        Mistake(
            "centred",
            "the correlation: each gradient's mean was subtracted first",
            "`np.corrcoef` does that. A gradient whose entries are all 1 is a direction like any other.",
        ),
        Mistake(
            "magnitudes",
            "computed without the sign",
            "The sign is what we ask for: below zero the tasks conflict.",
        ),
        Mistake(
            "conflicts_only",
            "computed with all cosines above zero cut to zero",
            "Keep the positive ones: they say which tasks help each other.",
        ),
        Mistake("signs", "the signs of the cosines", "How much two tasks conflict is part of the answer."),
        Mistake("angles", "the angles, not their cosines", "The formula stops before the arc cosine."),
        Mistake(
            "distances",
            "one minus the cosine: a distance",
            "A gradient and itself should give 1, opposite ones −1.",
        ),
        Mistake(
            "diagonal_zero",
            "right but for the diagonal, which is zero",
            "The cosine of a gradient with itself is 1. Leave the diagonal as it comes.",
        ),
        Mistake(
            "with_mean",
            "computed with the mean of all directions in the place of task j",
            "Entry (i, j) compares task i with task j alone.",
        ),
    ),
    properties=(
        Property(
            "does not change when one task's loss is multiplied by ten",
            lambda answer: torch.allclose(answer(_THREE * torch.tensor([[1.0], [10], [1]])), answer(_THREE), atol=1e-5),
        ),
    ),
    sizes=lambda case: dict(
        zip(("the number of tasks", "the number of parameters"), case["gradients"].shape, strict=True)
    ),
    alone=frozenset(
        {
            "parameters_compared",
            "signs",
            "angles",
            "distances",
            "with_mean",
            "one_norm",
            "products",
            "one_length",
            "other_length",
        }
        | {"over_tasks", "magnitudes", "conflicts_only"}
    ),
)
_THREE = torch.tensor([[1.0, 2.0, -1.0], [0.5, -1.0, 3.0], [2.0, 0.0, 1.0]])


# --- uncertainty_loss -------------------------------------------------------------------------


def _uncertainty_inputs(rng: np.random.Generator) -> list[Case]:
    cases = draw(rng, [{"losses": (size,), "log_variances": (size,)} for size in (2, 3, 5, 1, 8)])
    for case in cases:
        case["losses"] = np.exp(case["losses"])
    cases[0]["log_variances"] = np.abs(cases[0]["log_variances"])
    cases[2]["losses"][0] = 0
    return cases


def _wrong_uncertainty(
    losses: Tensor,
    log_variances: Tensor,
    *,
    classification: bool = False,
    whole_penalty: bool = False,
    no_penalty: bool = False,
    penalty_subtracted: bool = False,
    grows: bool = False,
    linear: bool = False,
    as_deviation: bool = False,
    as_variance: bool = False,
    as_sigma: bool = False,
    with_constant: bool = False,
    softened: bool = False,
    squared_penalty: bool = False,
    penalty_weighed: bool = False,
    averaged: bool = False,
    per_task: bool = False,
    softmax: bool = False,
    squared_losses: bool = False,
    weights_cut: bool = False,
    variances_cut: bool = False,
    losses_cut: bool = False,
) -> Tensor:
    s = log_variances.detach() if variances_cut else log_variances
    s = 2 * s if as_deviation else s.log() if as_variance else 2 * s.log() if as_sigma else s
    weights = torch.softmax(-s, 0) if softmax else 1 - s if linear else (s if grows else -s).exp()
    weights = weights.detach() if weights_cut else weights
    losses = losses.detach() if losses_cut else losses
    penalty = (1 + s.exp()).log() if softened else s.square() if squared_penalty else weights * s
    penalty = penalty if softened or squared_penalty or penalty_weighed else s + np.log(2 * np.pi) * with_constant
    penalty = penalty * (0 if no_penalty else -1 if penalty_subtracted else 1) * (1 if whole_penalty else 0.5)
    terms = (1 if classification else 0.5) * weights * (losses.square() if squared_losses else losses) + penalty
    return terms if per_task else terms.mean() if averaged else terms.sum()


_UNCERTAINTY_MISTAKES = (
    Mistake(
        "classification",
        "Kendall's form for classification: e^(−s) L without the ½",
        "Both forms stand in the paper. This exercise takes the one for regression, where the ½ comes from the "
        "Gaussian's log-density.",
    ),
    Mistake(
        "whole_penalty",
        "right but for the second term, which has no ½",
        "The log-density holds log σ, and s = log σ². How much of s is log σ?",
    ),
    Mistake(
        "no_penalty",
        "the weighted losses alone",
        "Without the second term every s grows for ever and all weights go to zero. What makes a large variance dear?",
    ),
    Mistake(
        "penalty_subtracted",
        "right but for the sign of the second term",
        "A large variance should cost something: otherwise s grows for ever.",
    ),
    Mistake(
        "grows",
        "computed with weights that grow with the variance",
        "A noisy task should count less. What is 1/σ² in terms of s = log σ²?",
    ),
    Mistake(
        "linear",
        "computed with the weights 1 − s",
        "That is e^(−s) for small s only, and it may fall below zero.",
    ),
    Mistake(
        "as_deviation",
        "computed as if s were log σ",
        "Here s = log σ², twice that: 1/σ² is e^(−s).",
    ),
    Mistake(
        "as_variance",
        "computed as if s were the variance itself",
        "`log_variances` are logs, and may be negative. What is 1/σ² in terms of s = log σ²?",
    ),
    Mistake(
        "as_sigma",
        "computed as if s were σ itself",
        "`log_variances` may be negative. How do you get from s = log σ² to 1/σ²?",
    ),
    Mistake(
        "with_constant",
        "computed with the Gaussian's constant, ½ log 2π for each task",
        "It moves no gradient, and the formula leaves it out.",
    ),
    Mistake(
        "softened",
        "computed with log(1 + σ²) in the second term",
        "That is the variant of Liebel and Körner (2018), which keeps the loss above zero. Here it is log σ².",
    ),
    Mistake("squared_penalty", "computed with s² in the second term", "The second term is linear in s."),
    Mistake(
        "penalty_weighed",
        "computed with e^(−s) in front of both terms",
        "Mind the brackets: the weight belongs to the loss alone.",
    ),
    Mistake("averaged", "averaged over the tasks", "The tasks are added up."),
    Mistake("per_task", "one number per task", "A loss is one number: add up the tasks."),
    Mistake(
        "softmax",
        "computed with weights that sum to one",
        "No softmax: each task's weight is its own 1/σ², and the second term keeps it from vanishing.",
    ),
    Mistake("squared_losses", "computed with squared losses", "L is the loss already: nothing is squared."),
    Mistake(
        "weights_cut",
        "right in value, but the weights e^(−s) are cut from the graph",
        "Then s feels the second term only and falls for ever. It must feel both.",
    ),
    Mistake(
        "variances_cut",
        "right in value, but `log_variances` receives no gradient",
        "s is trained with the network. Where does the graph end?",
    ),
    Mistake(
        "losses_cut",
        "right in value, but the losses are cut from the graph",
        "Then the network learns nothing. Only a *teacher* is cut off.",
    ),
)
UNCERTAINTY_LOSS = Exercise(
    id="07.uncertainty_loss",
    title="Weigh tasks by their noise",
    points=2,
    reference=lesson.uncertainty_loss,
    inputs=_uncertainty_inputs,
    drive=observe_call,
    wrong=_wrong_uncertainty,
    mistakes=_UNCERTAINTY_MISTAKES,
    properties=(
        Property(
            "is least where s is the log of the loss",
            lambda answer: bool(_slope_at_the_best(answer).abs().max() < 1e-5),
        ),
    ),
    sizes=lambda case: {"the number of tasks": len(case["losses"])},
    alone=frozenset(
        {
            "linear",
            "as_deviation",
            "as_variance",
            "as_sigma",
            "with_constant",
            "softened",
            "squared_penalty",
            "penalty_weighed",
            "softmax",
        }
        | {"squared_losses", "per_task", "penalty_subtracted", "weights_cut", "variances_cut"}
    ),
)


def _slope_at_the_best(answer: object) -> Tensor:
    losses = torch.tensor([0.1, 2.0, 30.0])
    s = losses.log().requires_grad_()
    return torch.autograd.grad(answer(losses, s), s)[0]


# --- two_task_weight --------------------------------------------------------------------------


def _two_inputs(rng: np.random.Generator) -> list[Case]:
    cases = draw(rng, [{"first": (size,), "second": (size,)} for size in (4, 3, 6, 5, 2, 3, 4)])
    for case, overlap in zip(cases, (-0.4, 0.2, 0.9, -0.2, 1.1, 1.0, 0.6), strict=True):
        case["second"] = (overlap * case["first"] + 0.5 * case["second"]).astype(case["first"].dtype)
    cases[2]["first"] = 4 * cases[2]["second"] + 0.1 * cases[2]["first"]  # the second is shorter, and agrees
    cases[4]["second"] = 3 * cases[4]["first"] + 0.1 * cases[4]["second"]  # the first is
    cases[5]["second"] = cases[5]["first"].copy()
    cases[3]["first"] *= 3
    return cases


def _wrong_two(
    first: Tensor,
    second: Tensor,
    *,
    not_clamped: bool = False,
    clamped_below: bool = False,
    other_weight: bool = False,
    turned: bool = False,
    no_square: bool = False,
    not_divided: bool = False,
    wrong_partner: bool = False,
    no_cross_term: bool = False,
    by_sum: bool = False,
    lengths: bool = False,
    squared_lengths: bool = False,
    unit: bool = False,
    half: bool = False,
    shorter: bool = False,
    conflict_only: bool = False,
    sigmoid: bool = False,
    direction: bool = False,
    both_weights: bool = False,
    zero_at_equal: bool = False,
    unguarded: bool = False,
) -> Tensor:
    if unit:
        first, second = F.normalize(first, dim=0), F.normalize(second, dim=0)
    gap = second + first if by_sum else second - first
    square = first.square().sum() + second.square().sum() if no_cross_term else gap.square().sum()
    square = torch.ones_like(square) if not_divided else square.sqrt() if no_square else square
    top = gap @ (first if wrong_partner else second) * (-1 if turned else 1)
    if lengths or squared_lengths:
        power = 2 if squared_lengths else 1
        top, square = second.norm() ** power, first.norm() ** power + second.norm() ** power
    at_equal = 0.0 if zero_at_equal else 0.5
    weight = top / square if unguarded else torch.where(square > 0, top / torch.where(square > 0, square, 1), at_equal)
    limits = (None, None) if not_clamped else (0, None) if clamped_below else (0, 1)
    weight = weight.clamp(*limits) if any(limit is not None for limit in limits) else weight
    weight = weight.sigmoid() if sigmoid else 0 * weight + 0.5 if half else weight
    weight = (first.norm() < second.norm()).to(weight.dtype) if shorter else weight
    weight = torch.where(first @ second < 0, weight, 0.5) if conflict_only else weight
    weight = 1 - weight if other_weight else weight
    if both_weights:
        return torch.stack([weight, 1 - weight])
    return weight * first + (1 - weight) * second if direction else weight


TWO_TASK_WEIGHT = Exercise(
    id="07.two_task_weight",
    title="The shortest mixture of two gradients",
    points=2,
    reference=lesson.two_task_weight,
    inputs=_two_inputs,
    drive=observe_value_only,
    wrong=_wrong_two,
    mistakes=(
        Mistake(
            "not_clamped",
            "right only where the weight lies between 0 and 1",
            "A negative weight would go *up* that task's loss. Where both gradients agree and one is much shorter, the "
            "shortest mixture is the shorter one itself.",
        ),
        Mistake(
            "clamped_below",
            "a weight that may exceed one",
            "Then the other task's weight, 1 − w, is negative. The clamp has two ends.",
        ),
        Mistake(
            "other_weight",
            "the second task's weight",
            "w belongs to g_1. If g_1 is tiny, should w be near 0 or near 1?",
        ),
        Mistake(
            "turned",
            "computed with the difference turned round in one of the two places",
            "The numerator is (g_2 − g_1) · g_2. In the denominator the sign does not matter; here it does.",
        ),
        Mistake(
            "no_square",
            "computed with the length of the difference where its square belongs",
            "If both gradients become ten times as long, w should stay the same. Count the powers.",
        ),
        Mistake(
            "not_divided",
            "computed without the denominator",
            "If both gradients become ten times as long, w should stay the same. What makes it so?",
        ),
        Mistake(
            "wrong_partner",
            "computed with g_1 where g_2 belongs in the numerator",
            "Set the derivative of ‖w g_1 + (1 − w) g_2‖² by w to zero: which gradient stands without w?",
        ),
        Mistake(
            "no_cross_term",
            "computed with ‖g_1‖² + ‖g_2‖² in the denominator",
            "‖g_2 − g_1‖² has a third term, −2 g_1 · g_2.",
        ),
        Mistake(
            "by_sum",
            "computed with the sum of the gradients, not their difference",
            "The mixture moves from g_2 to g_1 as w grows. Along which vector?",
        ),
        Mistake(
            "lengths",
            "the second's length as a share of both",
            "That looks at the lengths alone. It is right only if the gradients are opposite; the angle counts, too.",
        ),
        Mistake(
            "squared_lengths",
            "the second's squared length as a share of both",
            "That is right only if the gradients are at a right angle.",
        ),
        Mistake(
            "unit",
            "computed from gradients brought to length one",
            "Then w is always ½. The formula takes the gradients as they are.",
        ),
        Mistake("half", "equal weights", "Which w makes the mixture shortest? It depends on both gradients."),
        Mistake(
            "shorter",
            "the shorter gradient alone",
            "A mixture can be shorter than either of the two: try a right angle.",
        ),
        Mistake(
            "conflict_only",
            "right only where the gradients conflict",
            "The shortest mixture is asked for whatever the angle.",
        ),
        Mistake("sigmoid", "computed with a sigmoid in place of the clamp", "Cut at 0 and 1, and change nothing else."),
        Mistake("direction", "the mixture itself", "Return w, one number."),
        Mistake("both_weights", "both tasks' weights", "Return the first one's: the other is what is left of 1."),
        Mistake(
            "zero_at_equal",
            "right but for two equal gradients",
            "A small number in the denominator makes 0 / 0 a zero. Every w gives the same mixture there: return ½.",
        ),
        Mistake(
            "unguarded",
            "right but for two equal gradients, where it divides by zero",
            "Then every w gives the same mixture. Return ½.",
        ),
    ),
    properties=(
        Property(
            "gives both tasks together all the weight, whichever comes first",
            lambda answer: abs(float(answer(_THREE[0], _THREE[1]) + answer(_THREE[1], _THREE[0])) - 1) < 1e-6,
        ),
    ),
    sizes=lambda case: {"the number of parameters": len(case["first"])},
    alone=frozenset(
        {
            "unit",
            "half",
            "shorter",
            "lengths",
            "squared_lengths",
            "conflict_only",
            "sigmoid",
            "direction",
            "by_sum",
            "both_weights",
        }
        | {"clamped_below", "no_cross_term", "wrong_partner"}
    ),
)


# --- impartial_weights: the variant -----------------------------------------------------------


def _impartial_inputs(rng: np.random.Generator) -> list[Case]:
    def case(tasks: int, width: int, dtype: str) -> Case:
        # What the tasks have in common keeps the answer away from a division by nearly zero.
        g = 0.6 * rng.normal(0, 1, (tasks, width)) + rng.normal(0, 1, width)
        return {"gradients": (g * np.exp(rng.normal(0, 0.5, (tasks, 1)))).astype(dtype)}

    def with_a_negative_weight() -> Case:
        while True:
            found = case(3, 5, "float64")
            if _impartial_weights(torch.tensor(found["gradients"])).min() < -0.1:
                return found

    return [with_a_negative_weight(), case(2, 4, "float32"), case(4, 9, "float64"), case(3, 3, "float32"),
            case(1, 3, "float64")]  # fmt: skip


def _impartial_weights(
    gradients: Tensor,
    *,
    raw_products: bool = False,
    unit_mixture: bool = False,
    swapped: bool = False,
    first_missing: bool = False,
    first_one: bool = False,
    first_last: bool = False,
    one_turned: bool = False,
    clamped: bool = False,
    cut_only: bool = False,
    absolute_length: bool = False,
    softmaxed: bool = False,
    lengths_only: bool = False,
    projections_one: bool = False,
    shortest: bool = False,
    squared_lengths: bool = False,
    over_tasks: bool = False,
    equal: bool = False,
    direction: bool = False,
) -> Tensor:
    """Return weights of sum one whose mixture has the same component along every task's gradient."""
    power = 2 if squared_lengths else 1
    norm = 1 if absolute_length else 2
    unit = gradients / gradients.norm(p=norm, dim=0 if over_tasks else 1, keepdim=True) ** power
    u = gradients if raw_products else unit
    g = unit if unit_mixture else gradients
    differences, gaps = u[:1] - u[1:], g[:1] - g[1:]
    left, right = (gaps, differences) if swapped else (differences, gaps)
    rest = torch.linalg.solve(left @ right.T, left @ g[0]) * (-1 if one_turned else 1)
    first = torch.ones(1, dtype=g.dtype) if first_one else 1 - rest.sum()[None]
    weights = torch.cat([rest, first] if first_last else [first, rest])
    if lengths_only or equal:
        weights = torch.ones_like(weights) if equal else 1 / gradients.norm(dim=1)
        weights = weights / weights.sum()
    if projections_one:
        weights = torch.linalg.solve(unit @ gradients.T, torch.ones_like(weights))
    weights = lesson.mgda(unit if unit_mixture else gradients)[0] if shortest else weights
    weights = weights.clamp(min=0) if cut_only else weights
    if clamped or softmaxed:
        weights = weights.clamp(min=0) / weights.clamp(min=0).sum() if clamped else torch.softmax(weights, 0)
    return rest if first_missing else weights @ gradients if direction else weights


IMPARTIAL_WEIGHTS = Exercise(
    id="07.impartial_weights",
    title="The same gain for every task",
    points=3,
    reference=_impartial_weights,
    inputs=_impartial_inputs,
    drive=observe_value_only,
    wrong=_impartial_weights,
    mistakes=(
        Mistake(
            "raw_products",
            "computed with the gradients themselves where their directions belong: the products g_i · d are equal",
            "Then a long gradient asks for the same number as a short one. The component along g_i is d · u_i, with "
            "u_i of length one.",
        ),
        Mistake(
            "unit_mixture",
            "computed for a mixture of the directions u_i",
            "d mixes the gradients g_i themselves. Only what d is compared with has length one.",
        ),
        Mistake(
            "swapped",
            "computed with the two kinds of differences swapped",
            "The equations are (u_1 − u_j) · d = 0. Which of the two multiplies d from the left?",
        ),
        Mistake(
            "first_missing",
            "the weights of tasks 2 … K",
            "The first task's weight is what is left of 1. Put it in front.",
        ),
        Mistake(
            "first_one",
            "right but for the first weight, which is 1",
            "All weights sum to one. What is left for the first?",
        ),
        Mistake(
            "first_last",
            "right but for the order: the first task's weight stands at the end",
            "Weight k belongs to task k. In which order do you put the pieces together?",
        ),
        Mistake(
            "one_turned",
            "computed with one of the differences turned round",
            "d = g_1 − Σ w_j (g_1 − g_j), over j = 2 … K: check the sign of each difference.",
        ),
        Mistake(
            "clamped",
            "computed with negative weights cut to zero and the others scaled",
            "MGDA's weights are ≥ 0. These need not be: nothing is cut.",
        ),
        Mistake(
            "cut_only",
            "computed with negative weights cut to zero",
            "A negative weight is allowed here: without it the components are no longer equal.",
        ),
        Mistake(
            "absolute_length",
            "computed with gradients divided by the sum of their absolute entries (L1)",
            "Length is L2. In `F.normalize` the second argument is p, the third the axis.",
        ),
        Mistake(
            "softmaxed",
            "a softmax of the weights",
            "The weights sum to one by themselves, if the first is what the others leave.",
        ),
        Mistake(
            "lengths_only",
            "weights that are one over each gradient's length",
            "For two tasks that is right. With three, the angles count, too.",
        ),
        Mistake(
            "projections_one",
            "right but for the scale: every component is 1",
            "The weights should sum to one.",
        ),
        Mistake(
            "shortest",
            "MGDA's weights",
            "The shortest mixture has equal products g_i · d, where no weight is zero. Here the products with u_i are "
            "equal.",
        ),
        Mistake(
            "squared_lengths",
            "computed with gradients divided by their squared lengths",
            "Then components as long as the gradients come out. A direction has length one: divide by the length.",
        ),
        Mistake(
            "over_tasks",
            "computed with lengths taken over the tasks",
            "The rows are the tasks. Along which axis does *one* gradient lie?",
        ),
        Mistake("equal", "equal weights", "That is the mean. Solve for the weights."),
        Mistake("direction", "the direction d", "Return the weights, (K,)."),
    ),
    properties=(
        Property(
            "gains the same along every task's gradient",
            lambda answer: direction_lies_along(answer(_THREE) @ _THREE, _THREE),
        ),
    ),
    sizes=lambda case: dict(
        zip(("the number of tasks", "the number of parameters"), case["gradients"].shape, strict=True)
    ),
    alone=frozenset(
        {"first_missing", "lengths_only", "projections_one", "cut_only", "absolute_length", "equal", "direction"}
        | {"softmaxed", "clamped", "over_tasks", "squared_lengths", "swapped", "raw_products"}
    ),
)

EXERCISES = (GRADIENT_COSINE, UNCERTAINTY_LOSS, TWO_TASK_WEIGHT, PCGRAD, IMPARTIAL_WEIGHTS, SURGERY_STEP)
