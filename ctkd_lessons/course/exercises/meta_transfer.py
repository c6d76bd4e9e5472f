"""The exercises of lesson 11. Those with rules stand in ``meta_transfer_rules``, those of a learner that is given
help, and of a student that reads the support, in ``meta_transfer_students``.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ctkd_lessons import meta_transfer as lesson
from ctkd_lessons.course.exercises.description import (
    Answer,
    Case,
    Exercise,
    Mistake,
    Observation,
    Property,
    observe_call,
    observe_value,
)
from ctkd_lessons.course.exercises.meta_transfer_rules import MUST_LINK_TARGETS, RULE_TARGETS
from ctkd_lessons.course.exercises.meta_transfer_students import DISTIL_META_LEARNER, READ_SUPPORT, TRUST_LOSS
from ctkd_lessons.course.exercises.shared import draw, mistake_not_detached

# --- feature_level_loss -----------------------------------------------------------------------


def _feature_inputs(rng: np.random.Generator) -> list[Case]:
    sizes = [(4, 3, 6, 2), (5, 4, 3, 5), (3, 2, 3, 3), (6, 5, 2, 4), (2, 3, 5, 1)]
    shapes = [{"logits": (n, c), "mapped": (b, d), "shared": (b, d)} for n, c, b, d in sizes]
    cases = draw(rng, shapes, spread=1.5)
    return [
        {
            "logits": case["logits"],
            "labels": rng.integers(0, classes, examples),
            "mapped": case["mapped"],
            "shared": case["shared"],
            "weight": weight,
        }
        for case, (examples, classes, *_), weight in zip(cases, sizes, (0.5, 2.0, 1.0, 0.0, 0.1), strict=True)
    ]


def _wrong_feature_loss(
    logits: Tensor, labels: Tensor, mapped: Tensor, shared: Tensor, weight: float, **mistakes: bool
) -> Tensor:
    ways = {name for name, on in mistakes.items() if on}
    h = mapped.detach() if "mapped_cut" in ways else mapped
    g = shared if "not_detached" in ways else shared.detach()
    if "unit" in ways:
        h, g = F.normalize(h), F.normalize(g)
    gap = h.mean(dim=0, keepdim=True) - g.mean(dim=0, keepdim=True) if "means" in ways else h - g
    each = gap.square().sum(dim=1)
    each = gap.norm(dim=1) if "length" in ways else gap.abs().sum(dim=1) if "absolute" in ways else each
    each = gap.square().mean(dim=1) if "element_mean" in ways else each
    each = each if ways & {"no_half", "length", "absolute"} else each / 2
    closeness = each.sum() if ways & {"summed", "other_size"} else each.mean()
    closeness = closeness / len(logits) if "other_size" in ways else closeness
    right = logits.softmax(dim=1) if "softmax_twice" in ways else logits
    task = F.cross_entropy(right, labels, reduction="sum" if "task_summed" in ways else "mean")
    if "weight_on_task" in ways or "weight_on_both" in ways:
        return weight * task + (weight if "weight_on_both" in ways else 1) * closeness
    if "blended" in ways:
        return (1 - weight) * task + weight * closeness
    if "one_term" in ways:
        return weight * closeness
    return task + (1 if "weight_ignored" in ways else weight) * closeness


FEATURE_LEVEL_LOSS = Exercise(
    id="11.feature_level_loss",
    title="A map into shared features",
    points=2,
    reference=lesson.feature_level_loss,
    inputs=_feature_inputs,
    drive=lambda answer, case: observe_call(answer, case, constants=("shared",)),
    wrong=_wrong_feature_loss,
    mistakes=(
        mistake_not_detached("shared"),
        Mistake(
            "mapped_cut",
            "right in value, but no gradient reaches `mapped`",
            "The *map* learns. Which of the two is the constant?",
        ),
        Mistake(
            "summed",
            "computed with the distances summed over the examples",
            "Average over the B examples, or the map's term grows with its batch.",
        ),
        Mistake(
            "no_half",
            "computed without the ½",
            "The hint loss has a ½ in front of the square, here as in lesson 02.",
        ),
        Mistake(
            "element_mean",
            "computed with a mean over the features as well",
            "‖·‖² *sums* over the D features; only over the examples is it a mean. `F.mse_loss` averages over both.",
        ),
        Mistake(
            "other_size",
            "computed with the distances divided by the number of *labelled* examples",
            "The two terms have examples of their own, n and B. Each takes its own mean.",
        ),
        Mistake(
            "weight_on_task",
            "computed with the weight on the task's term",
            "The weight stands before the distances.",
        ),
        Mistake(
            "weight_on_both",
            "computed with the weight on both terms",
            "Mind the brackets: the weight belongs to the distances alone.",
        ),
        Mistake(
            "blended",
            "computed with 1 − weight before the task's term",
            "The task's term stands undivided: the weight may be above 1.",
        ),
        Mistake("weight_ignored", "computed as if the weight were 1", "What does `weight` multiply?"),
        Mistake(
            "one_term",
            "the distances alone",
            "The learner's own task is part of the loss: the cross-entropy is missing.",
        ),
        Mistake(
            "length",
            "computed with the distance where half its square belongs",
            "‖·‖² has no root.",
        ),
        Mistake("absolute", "computed with absolute differences", "‖·‖² sums *squares*."),
        Mistake(
            "unit",
            "computed with directions alone: features of length one, or one minus the cosine",
            "The map should arrive at the shared features, length and all: nothing is normalised.",
        ),
        Mistake(
            "means",
            "a comparison of the mean features",
            "Each example has a place of its own to arrive at. First the square, then the mean.",
        ),
        Mistake(
            "softmax_twice",
            "computed with a softmax before `F.cross_entropy`",
            "`F.cross_entropy` applies the softmax itself.",
        ),
        Mistake("task_summed", "computed with the cross-entropy summed over the examples", "Both terms are means."),
    ),
    properties=(
        Property(
            "is the task's loss alone where the map has arrived",
            lambda answer: torch.allclose(answer(_LOGITS, _LABELS, _LOGITS, _LOGITS, 3.0), _TASK),
        ),
    ),
    sizes=lambda case: {
        "the number of labelled examples": len(case["labels"]),
        "the number of mapped examples": len(case["mapped"]),
        "the number of features": case["mapped"].shape[1],
    },
    alone=frozenset(
        {"length", "absolute", "unit", "means", "softmax_twice", "one_term", "blended", "weight_ignored"}
        | {"other_size"}
    ),
)
_LOGITS, _LABELS = torch.tensor([[1.0, -1.0], [0.5, 2.0]]), torch.tensor([0, 0])
_TASK = F.cross_entropy(_LOGITS, _LABELS)


# --- transfer_gain ----------------------------------------------------------------------------


def _gain_inputs(rng: np.random.Generator) -> list[Case]:
    def case(seeds: int, gain: tuple[float, float], ceiling: float | None = None) -> Case:
        scratch = rng.uniform(0.3, 0.6, seeds)
        best = rng.uniform(0.8, 0.95, seeds) if ceiling is None else ceiling
        return {
            "transferred": scratch + rng.uniform(*gain, seeds) * (best - scratch),
            "scratch": scratch,
            "ceiling": best,
        }

    # Negative transfer, a student beyond its ceiling, a single seed, and one ceiling for all.
    return [
        case(4, (-0.45, 1.3)),
        case(3, (0.1, 0.9), 1.0),
        case(5, (-0.45, -0.1)),
        case(2, (1.1, 1.4), 0.9),
        case(1, (0.2, 0.6)),
    ]


def _observe_gain(answer: Answer, case: Case) -> Observation:
    given = {name: value.copy() if isinstance(value, np.ndarray) else value for name, value in case.items()}
    seen = observe_value(answer(*given.values()))
    return seen | {f"`{name}` afterwards": value for name, value in given.items() if isinstance(value, np.ndarray)}


def _wrong_gain(
    transferred: NDArray, scratch: NDArray, ceiling: NDArray | float, **mistakes: bool
) -> NDArray | np.floating:
    ways = {name for name, on in mistakes.items() if on}
    ceiling = np.asarray(1.0 if "ceiling_one" in ways else ceiling)
    base, top = scratch, ceiling
    if "one_baseline" in ways:
        base, top = scratch.mean(), ceiling.mean()
    if "ratio_of_means" in ways:
        return (transferred.mean() - scratch.mean()) / (ceiling.mean() - scratch.mean())
    won = base - transferred if "turned" in ways else top - transferred if "left_over" in ways else transferred - base
    missing = top - base
    if "absolute" in ways:
        gain = won
    elif "of_scratch" in ways:
        gain = won / base
    elif "of_ceiling" in ways:
        gain = won / top
    elif "share_of_ceiling" in ways:
        gain = transferred / top * np.ones_like(scratch)
    elif "of_what_is_left" in ways:
        gain = won / (top - transferred)
    elif "no_baseline" in ways:
        gain = transferred / missing
    else:
        gain = won / missing
    if "no_negative" in ways or "clipped" in ways:
        gain = np.clip(gain, 0, 1 if "clipped" in ways else None)
    gain = 100 * gain if "percent" in ways else np.abs(gain) if "size_only" in ways else gain
    return gain.mean() if "averaged" in ways else gain


TRANSFER_GAIN = Exercise(
    id="11.transfer_gain",
    title="What has the transfer won?",
    points=2,
    reference=lesson.transfer_gain,
    inputs=_gain_inputs,
    drive=_observe_gain,
    wrong=_wrong_gain,
    mistakes=(
        Mistake(
            "absolute",
            "the plain difference to scratch",
            "Two points of 50 missing are little, two of three are much. Divide by what was missing.",
        ),
        Mistake(
            "of_scratch",
            "the gain relative to scratch",
            "That is large where scratch is bad, whatever there is to win. Divide by what was missing.",
        ),
        Mistake(
            "of_ceiling",
            "the difference to scratch, divided by the ceiling",
            "The gain should be 1 when the ceiling is reached. What was missing at the beginning?",
        ),
        Mistake(
            "share_of_ceiling",
            "the share of the ceiling",
            "As good as from scratch should be 0. Where is the baseline?",
        ),
        Mistake(
            "no_baseline",
            "computed without the baseline in the numerator",
            "As good as from scratch should be 0.",
        ),
        Mistake(
            "left_over",
            "the share that is still missing: one minus the gain",
            "The numerator is what was won, not what is left to win.",
        ),
        Mistake(
            "of_what_is_left",
            "what was won, divided by what is *still* missing",
            "What was missing is counted from scratch. At the ceiling you would divide by zero.",
        ),
        Mistake("turned", "the gain with its sign turned", "Better than scratch is above 0."),
        Mistake(
            "no_negative",
            "computed with negative gains cut to 0",
            "Negative transfer is what one has to see: keep it.",
        ),
        Mistake(
            "clipped",
            "computed with gains cut to between 0 and 1",
            "A gain may be below 0, and even above 1: keep what was measured.",
        ),
        Mistake("size_only", "the gain without its sign", "Below 0 it is negative transfer. That must show."),
        Mistake("percent", "the gain in per cent", "1 is the ceiling, not 100."),
        Mistake(
            "averaged",
            "the mean of the gains",
            "Return a gain for each seed: without them there is no interval.",
        ),
        Mistake(
            "ratio_of_means",
            "one ratio, of mean differences",
            "Each seed has its own baseline and ceiling: first the ratio of each, and no mean at all.",
        ),
        Mistake(
            "one_baseline",
            "computed with the mean baseline and ceiling of all seeds",
            "Seed i is compared with seed i. That is why the seeds are paired.",
        ),
        Mistake(
            "ceiling_one",
            "computed with a ceiling of 1, whatever `ceiling` says",
            "The ceiling is what could be reached with all help, not a perfect score.",
        ),
    ),
    properties=(
        Property(
            "does not change when all scores are stretched and shifted",
            lambda answer: bool(np.allclose(answer(_AFTER, _BEFORE, _TOP), answer(*(3 * s + 1 for s in _SCORES)))),
        ),
    ),
    sizes=lambda case: {"the number of seeds": len(case["scratch"])},
    alone=frozenset(
        {"absolute", "of_scratch", "of_ceiling", "share_of_ceiling", "of_what_is_left", "clipped", "size_only"}
        | {"ratio_of_means", "one_baseline", "no_baseline", "left_over"}
    ),
)
_SCORES = _AFTER, _BEFORE, _TOP = np.array([0.5, 0.8]), np.array([0.4, 0.5]), np.array([0.9, 0.7])

EXERCISES = (
    FEATURE_LEVEL_LOSS,
    RULE_TARGETS,
    MUST_LINK_TARGETS,
    TRUST_LOSS,
    READ_SUPPORT,
    DISTIL_META_LEARNER,
    TRANSFER_GAIN,
)
