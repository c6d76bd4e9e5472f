"""Lesson 09's exercises with pseudo-labels: which to keep, and the bug hunt in self-training."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ctkd_lessons import cross_domain as lesson
from ctkd_lessons.course.exercises.description import (
    Answer,
    Case,
    Exercise,
    Mistake,
    Observation,
    observe_value,
    observe_value_only,
    tensors,
)

# --- confident_pseudo_labels ------------------------------------------------------------------


def _probabilities(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Draw sixteenths: ties in the confidence, none for the first choice; some classes are chosen more often."""
    *leading, classes = shape
    often = np.linspace(2.5, 1, classes) / np.linspace(2.5, 1, classes).sum()
    rows = []
    while len(rows) < math.prod(leading):
        row = rng.multinomial(16, rng.dirichlet(4 * often * classes / 2))
        if (row == row.max()).sum() == 1:
            rows.append(row / 16)
    return np.array(rows).reshape(shape)


def _with_a_rare_class(case: Case) -> Case:
    """Name the last class once only, while others are more confident of it as their second choice."""
    p = case["probabilities"]
    last = p.argmax(1) == p.shape[1] - 1
    p[last] = p[last][:, ::-1]
    p[:5] = np.array([[3, 4, 4, 5], [10, 0, 0, 6], [0, 9, 1, 6], [8, 0, 2, 6], [0, 1, 9, 6]]) / 16
    return case


def _pseudo_inputs(rng: np.random.Generator) -> list[Case]:
    def case(dtype: str, share: float, threshold: float, *shape: int) -> Case:
        return {"probabilities": _probabilities(rng, *shape).astype(dtype), "share": share, "threshold": threshold}

    return [
        case("float64", 0.75, 0.5, 2, 17, 3),
        _with_a_rare_class(case("float32", 0.625, 0.0, 18, 4)),
        case("float64", 1.0, 0.625, 3, 12, 3),
        case("float64", 0.125, 0.0, 2, 10, 4),
        case("float32", 0.625, 0.4375, 2, 2, 16, 3),
        case("float64", 0.5, 1.0, 4, 3),
    ]


def _observe_pseudo(answer: Answer, case: Case) -> Observation:
    """Look at both tensors that come back, and at the probabilities afterwards."""
    given = tensors(case)
    found = answer(*given.values())
    if not isinstance(found, (tuple, list)) or len(found) != 2:
        size = f" of {len(found)}" if isinstance(found, (tuple, list)) else ""
        return {"type": type(found).__name__ + size}
    seen: Observation = {"type": "tuple of 2"}
    for name, value in zip(("labels", "kept"), found, strict=True):
        of_one = observe_value(value)
        seen[f"type of `{name}`"] = of_one["type"]
        seen |= {f"{key} of `{name}`": of_one[key] for key in ("dtype", "value") if key in of_one}
    return seen | {"`probabilities` afterwards": given["probabilities"].numpy()}


def _rank(confidence: Tensor, labels: Tensor, p: Tensor, ways: set[str]) -> Tensor:
    """Return how many examples stand before each one, (…, n)."""
    n = confidence.shape[-1]
    mine, other = confidence.unsqueeze(-1), confidence.unsqueeze(-2)
    if "by_column" in ways:  # against all that is said of the class, also where another class is the first choice
        other = p.transpose(-1, -2).gather(-2, labels.unsqueeze(-1).expand(*labels.shape, n))
    place = torch.arange(n)
    earlier = place < place.unsqueeze(1)
    if "later_first" in ways:
        earlier = place > place.unsqueeze(1)
    better = other < mine if "ascending" in ways else other > mine
    before = better if "ties_kept" in ways else better | ((other == mine) & earlier)
    same_class = labels.unsqueeze(-1) == labels.unsqueeze(-2)
    everyone = ways & {"whole_quota", "classes_together", "by_column"}
    return (before if everyone else before & same_class).sum(-1)


def _quota(p: Tensor, labels: Tensor, share: float, ways: set[str]) -> Tensor:
    n, classes = p.shape[-2:]
    own = (labels.unsqueeze(-1) == labels.unsqueeze(-2)).sum(-1)  # the number of its class
    part = share * (own if "own_share" in ways else torch.tensor(n)).to(torch.float64)
    part = part if ways & {"own_share", "not_divided", "whole_quota"} else part / classes
    part = part.ceil() if "rounded_up" in ways else part.round() if "rounded" in ways else part.floor()
    part = part.clamp(min=0 if "may_be_none" in ways else 1)
    return part + (1 if "one_too_many" in ways else -1 if "one_too_few" in ways else 0)


def _wrong_pseudo(probabilities: Tensor, share: float, threshold: float, **mistakes: bool) -> tuple[Tensor, Tensor]:
    ways = {name for name, on in mistakes.items() if on}
    p = probabilities.softmax(-1) if "softmax_twice" in ways else probabilities
    if "pooled" in ways:
        labels, kept = _wrong_pseudo(p.flatten(0, -2), share, threshold, **(mistakes | {"pooled": False}))
        return labels.view(p.shape[:-1]), kept.view(p.shape[:-1])
    if "ensemble" in ways and p.ndim > 2:
        p = p.mean(dim=tuple(range(p.ndim - 2)), keepdim=True).expand_as(p)
    confidence, labels = p.max(dim=-1)
    if "margin" in ways:
        best = p.topk(2, dim=-1).values
        confidence = best[..., 0] - best[..., 1]
    if "entropy" in ways:
        confidence = 1 + torch.special.xlogy(p, p).sum(-1) / math.log(p.shape[-1])
    kept = torch.ones_like(labels, dtype=torch.bool)
    if "share_ignored" not in ways:
        kept = _rank(confidence, labels, p, ways) < _quota(p, labels, share, ways)
    if "threshold_ignored" not in ways:
        passes = confidence > threshold if "strictly" in ways else confidence >= threshold
        kept = kept & (~passes if "below" in ways else passes)
    kept = ~kept if "dropped" in ways else kept
    return torch.where(kept, labels, -1) if "blanked" in ways else labels, kept


_PSEUDO_MISTAKES = (
    Mistake(
        "whole_quota",
        "computed with one quota for all classes together",
        "Easy classes then take all the places. Each class has a quota of its own, ⌊share · n / C⌋.",
    ),
    Mistake(
        "not_divided",
        "computed with the quota ⌊share · n⌋ for each class",
        "All C classes together should fill the share: divide by C.",
    ),
    Mistake(
        "own_share",
        "computed with a share of each class's own examples",
        "So stands it in the paper, and a class that is named too often stays so. Here every class has the same quota.",
    ),
    Mistake(
        "classes_together",
        "computed with ranks among all examples",
        "An example competes with those of its own class only. Among whom do you count who is more confident?",
    ),
    Mistake(
        "by_column",
        "computed with ranks in the column of each class, over examples that chose another class, too",
        "An example competes with those whose *first choice* is the same class.",
    ),
    Mistake(
        "pooled",
        "computed over all seeds together",
        "Each seed has a model of its own, and a quota too. The last two axes belong to one seed: nothing may cross "
        "the others.",
    ),
    Mistake(
        "ensemble",
        "computed from the mean over the seeds",
        "Then all seeds learn the same labels, and are no longer independent. Each labels for itself.",
    ),
    Mistake(
        "ascending",
        "computed with the *least* confident first",
        "In which direction do you sort? The most confident of a class have the first places.",
    ),
    Mistake(
        "below",
        "computed with the examples *below* the threshold",
        "Kept is what is confident enough: at least the threshold.",
    ),
    Mistake("strictly", "right but at the threshold itself, which it refuses", "At least `threshold`: ≥."),
    Mistake("threshold_ignored", "computed without the threshold", "A place is not enough: how confident must it be?"),
    Mistake("share_ignored", "computed without the share", "Confidence is not enough: how many places has a class?"),
    Mistake(
        "may_be_none",
        "right but where the quota falls below one: it keeps nothing",
        "A class never loses its last place: at least one.",
    ),
    Mistake("rounded_up", "computed with a quota that is rounded up", "⌊·⌋ rounds *down*."),
    Mistake(
        "rounded",
        "computed with a quota rounded to the nearest number",
        "⌊·⌋ rounds down even what is nearly the next number.",
    ),
    Mistake(
        "one_too_many",
        "computed with one place too many in each class",
        "Does the first rank count 0 or 1? Then decide between < and ≤.",
    ),
    Mistake(
        "one_too_few",
        "computed with one place too few in each class",
        "The last place counts, too. Does your first rank count 0 or 1? Then decide between < and ≤.",
    ),
    Mistake(
        "ties_kept",
        "right but for ties at the last place: it keeps them all",
        "A cut-off value lets in everyone that reaches it. Of equals the *earlier* example goes first: count ranks.",
    ),
    Mistake(
        "later_first",
        "right but for ties: the later example goes first",
        "Of equals the *earlier* one goes first. Turning a sorted list round turns ties round, too; `argsort` takes "
        "`descending=True` and `stable=True`.",
    ),
    Mistake(
        "softmax_twice",
        "computed with a softmax of the probabilities",
        "They are probabilities already. A second softmax makes all answers look alike.",
    ),
    Mistake(
        "margin",
        "computed with the lead over the second choice for confidence",
        "Confidence is the largest probability itself.",
    ),
    Mistake(
        "entropy",
        "computed with (one minus) the entropy for confidence",
        "The other classes' probabilities do not matter here: confidence is the largest one.",
    ),
    Mistake("dropped", "the examples to drop", "True stands for an example that is kept."),
    Mistake(
        "blanked",
        "right but for the labels of examples that are not kept, which are −1",
        "`kept` says that already. Return the first choice of every example.",
    ),
)
CONFIDENT_PSEUDO_LABELS = Exercise(
    id="09.confident_pseudo_labels",
    title="Labels one can trust",
    points=3,
    reference=lesson.confident_pseudo_labels,
    inputs=_pseudo_inputs,
    drive=_observe_pseudo,
    wrong=_wrong_pseudo,
    mistakes=_PSEUDO_MISTAKES,
    alone=frozenset(mistake.name for mistake in _PSEUDO_MISTAKES)
    - {"whole_quota", "pooled", "ascending", "strictly", "threshold_ignored", "later_first", "blanked", "may_be_none"},
)


# --- self_train: the bug hunt -----------------------------------------------------------------


def _self_train_inputs(rng: np.random.Generator) -> list[Case]:
    def case(seeds: int, n: int, m: int, classes: int, **numbers: float) -> Case:
        # Models in doubt, which have something in common: they change their minds, and their mean decides something.
        return {
            "weights": 0.2 * (rng.normal(0, 1, (3, classes)) + rng.normal(0, 1, (seeds, 3, classes))),
            "source": rng.normal(0, 1, (n, 3)),
            "labels": rng.integers(0, classes, n),
            "target": rng.normal(1.5, 1.5, (m, 3)),
            **numbers,
        }

    def case_in_which_labels_change() -> Case:
        """Draw until new labels differ from the first even where a model hears itself alone: often at once."""
        while True:
            found = case(3, 5, 30, 3, rounds=3, steps=2, learning_rate=2.0, threshold=0.5)
            alone = [{"all_kept": True, "source_dropped": True, "pooled": pooled} for pooled in (False, True)]
            given = list(tensors(found).values())
            if all((_self_train(*given, **w) - _self_train(*given, **w, made_once=True)).norm() > 1e-2 for w in alone):
                return found

    return [
        case_in_which_labels_change(),
        case(2, 6, 20, 4, rounds=2, steps=3, learning_rate=1.0, threshold=0.4),
        case(2, 4, 6, 2, rounds=2, steps=2, learning_rate=0.5, threshold=1.0),
    ]


def _self_train(
    weights: Tensor,
    source: Tensor,
    labels: Tensor,
    target: Tensor,
    rounds: int,
    steps: int,
    learning_rate: float,
    threshold: float,
    *,
    made_once: bool = False,
    pooled: bool = False,
    all_kept: bool = False,
    source_dropped: bool = False,
    by_all: bool = False,
    summed: bool = False,
    below: bool = False,
    soft: bool = False,
    made_at_each_step: bool = False,
    seeds_averaged: bool = False,
    restarted: bool = False,
    one_step: bool = False,
    target_dropped: bool = False,
    unguarded: bool = False,
    upwards: bool = False,
    source_first: bool = False,
    unchanged: bool = False,
) -> Tensor:
    """Train linear models on the source's labels and on their own confident labels of the target."""
    start = weights

    def labelled(weights: Tensor) -> tuple[Tensor, Tensor]:
        p = torch.softmax(target @ weights, dim=-1)
        p = p.mean(0, keepdim=True).expand_as(p) if pooled else p
        confidence, own = p.max(dim=-1)
        kept = torch.ones_like(confidence) if all_kept else (confidence >= threshold).to(p.dtype)
        return p if soft else F.one_hot(own, p.shape[-1]).to(p.dtype), 1 - kept if below else kept

    for turn in range(rounds):
        weights = start if restarted else weights
        if turn == 0 or not made_once:
            own, kept = labelled(weights)
        for step in range(1 if one_step else steps):
            if made_at_each_step and step:
                own, kept = labelled(weights)
            weights = weights.detach().requires_grad_()
            of_source = -F.log_softmax(source @ weights, dim=-1)[:, torch.arange(len(labels)), labels].mean(1)
            of_target = -(own * F.log_softmax(target @ weights, dim=-1)).sum(-1)
            count = kept.sum(1) if unguarded else kept.sum(1).clamp(min=1)
            count = len(target) if by_all else 1 if summed else count
            of_target = (kept * of_target).sum(1) / count
            dropped = source_dropped or (source_first and turn)
            loss = (0 if dropped else of_source) + (0 if target_dropped else of_target)
            (gradient,) = torch.autograd.grad(loss.mean() if seeds_averaged else loss.sum(), weights)
            weights = weights.detach() - learning_rate * (-gradient if upwards else gradient)
    return start if unchanged else weights


# The four bugs of the broken loop come in any mixture.
_BUGS = 4
_SELF_TRAIN_MISTAKES = (
    Mistake(
        "made_once",
        "a loop that makes its labels once and never again",
        "After a round the models know better. Each round begins with new labels.",
    ),
    Mistake(
        "pooled",
        "a loop whose models all learn labels from the mean over the seeds",
        "Each model learns from its *own* answers: else the seeds are no longer independent, and their interval is too "
        "narrow. Which line mixes the first axis?",
    ),
    Mistake(
        "all_kept",
        "a loop that keeps unconfident labels",
        "Only labels with a probability of at least `threshold` count. Is it ever looked at?",
    ),
    Mistake(
        "source_dropped",
        "a loop that forgets the source",
        "Its labels are the only true ones: without them the models drift after their own mistakes. Do they reach the "
        "loss?",
    ),
    Mistake(
        "by_all",
        "a loop that divides the target's loss by all of its examples",
        "It is the mean over the examples that are *kept*.",
    ),
    Mistake("summed", "a loop that sums the target's loss", "It is the mean over the examples that are kept."),
    Mistake("below", "a loop that keeps the *un*confident labels", "Kept is a probability of at least `threshold`."),
    Mistake(
        "soft",
        "a loop that learns the probabilities, not the first choice",
        "The gradient towards one's own probabilities is zero at first. Take the first choice for the label.",
    ),
    Mistake(
        "made_at_each_step",
        "a loop that makes new labels at every step",
        "Labels are made at the beginning of a round and kept for all of its steps.",
    ),
    Mistake(
        "seeds_averaged",
        "a loop whose loss is the mean over the seeds",
        "Then each model learns more slowly the more seeds there are. Add the seeds up: each has its own gradient.",
    ),
    Mistake(
        "restarted",
        "a loop that starts each round from the first weights",
        "A round goes on where the last one ended.",
    ),
    Mistake("one_step", "a loop with one step in each round", "Each round takes `steps` steps."),
    Mistake("target_dropped", "a loop that never learns from the target", "Does the second loss reach the sum?"),
    Mistake(
        "unguarded",
        "right but where a model is confident of nothing: it divides by zero",
        "A model that keeps no label learns from the source alone.",
    ),
    Mistake("upwards", "a loop that goes up the loss", "Which sign has a step down?"),
    Mistake(
        "unchanged",
        "a loop that returns the weights as they came",
        "Does the step's result go into the next step, and into what you return?",
    ),
    Mistake(
        "source_first",
        "a loop that looks at the source in its first round only",
        "Source and target are learned together, in every round.",
    ),
)
SELF_TRAIN = Exercise(
    id="09.self_train",
    title="Bug hunt: self-training",
    points=4,
    reference=_self_train,
    inputs=_self_train_inputs,
    drive=observe_value_only,
    wrong=_self_train,
    mistakes=_SELF_TRAIN_MISTAKES,
    at_once=_BUGS,
    sizes=lambda case: {"the number of seeds": len(case["weights"])},
    alone=frozenset(mistake.name for mistake in _SELF_TRAIN_MISTAKES[_BUGS:]),
)
