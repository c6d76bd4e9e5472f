"""The exercises of lesson 09: closer covariances, and judging by the domain that was left out.

Those with an adversary stand in ``cross_domain_adversarial``, those with pseudo-labels in ``cross_domain_labels``.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctkd_lessons import cross_domain as lesson
from ctkd_lessons.course.exercises.cross_domain_adversarial import CONDITIONAL_FEATURES, DANN_LOSS, REVERSE_GRADIENT
from ctkd_lessons.course.exercises.cross_domain_labels import CONFIDENT_PSEUDO_LABELS, SELF_TRAIN
from ctkd_lessons.course.exercises.description import (
    Answer,
    Case,
    Exercise,
    Mistake,
    Observation,
    Property,
    observe_call,
    observe_value,
    tensors,
)
from ctkd_lessons.course.exercises.shared import draw

# --- coral_loss -------------------------------------------------------------------------------


def _coral_inputs(rng: np.random.Generator) -> list[Case]:
    # As many examples in both domains first: there even covariances of the examples can be compared.
    sizes = [(5, 5, 3), (7, 4, 2), (3, 6, 4), (4, 9, 1), (2, 3, 5)]
    cases = draw(rng, [{"source": (n, width), "target": (m, width)} for n, m, width in sizes])
    for case in cases:
        case["source"] += 1
        case["target"] *= 2
    return cases


def _covariance(
    f: Tensor,
    middle: Tensor,
    divisor: float,
    *,
    not_centred: bool,
    correlations: bool,
    over_examples: bool,
    diagonal_only: bool,
) -> Tensor:
    if over_examples:  # as torch.cov(f) does, where examples are no fewer than two
        centred = f - f.mean(1, keepdim=True)
        return centred @ centred.T / max(f.shape[1] - 1, 1)
    centred = f if not_centred else f - middle
    c = centred.T @ centred / divisor
    if correlations:
        deviations = c.diagonal().sqrt()
        c = c / (deviations[:, None] * deviations)
    return c.diagonal() if diagonal_only else c


def _wrong_coral(
    source: Tensor,
    target: Tensor,
    *,
    common_mean: bool = False,
    by_n: bool = False,
    not_divided: bool = False,
    one_size: bool = False,
    no_four: bool = False,
    no_width: bool = False,
    width_once: bool = False,
    root: bool = False,
    absolute: bool = False,
    with_means: bool = False,
    means_only: bool = False,
    one_mean: bool = False,
    example_means: bool = False,
    root_of_all: bool = False,
    source_cut: bool = False,
    target_cut: bool = False,
    not_centred: bool = False,
    correlations: bool = False,
    over_examples: bool = False,
    diagonal_only: bool = False,
) -> Tensor:
    source, target = source.detach() if source_cut else source, target.detach() if target_cut else target
    samples, both = (source, target), torch.cat([source, target]).mean(0)
    counted = {"not_centred": not_centred, "correlations": correlations}
    c = []
    for f in samples:
        divisor = 1 if not_divided else len(source if one_size else f) - (0 if by_n else 1)
        middle = both if common_mean else f.mean() if one_mean else f.mean(1, True) if example_means else f.mean(0)
        c.append(_covariance(f, middle, divisor, **counted, over_examples=over_examples, diagonal_only=diagonal_only))
    gap, means = c[0] - c[1], source.mean(0) - target.mean(0)
    size = gap.abs().sum() if absolute else gap.norm() if root else gap.square().sum()
    size = means.square().sum() if means_only else size
    value = size / (1 if no_four else 4) / source.shape[1] ** (0 if no_width else 1 if width_once else 2)
    value = value.sqrt() if root_of_all else value
    return value + means.square().mean() if with_means else value


CORAL_LOSS = Exercise(
    id="09.coral_loss",
    title="Covariances apart",
    points=2,
    reference=lesson.coral_loss,
    inputs=_coral_inputs,
    drive=observe_call,
    wrong=_wrong_coral,
    mistakes=(
        Mistake(
            "not_centred",
            "computed from products of features whose mean was not taken away",
            "A covariance is about deviations from the mean. Without that a mere shift of one domain changes the loss.",
        ),
        Mistake(
            "by_n",
            "computed with covariances divided by n",
            "Here they are divided by n − 1, as `torch.cov` and `np.cov` do.",
        ),
        Mistake(
            "no_four",
            "four times the right one: the 4 under the line is missing",
            "Public code often leaves it out. The formula divides by 4D².",
        ),
        Mistake(
            "no_width",
            "not divided by D²",
            "A covariance matrix has D² entries. Without the division wide features have a large loss.",
        ),
        Mistake("width_once", "divided by D once", "A covariance matrix has D² entries."),
        Mistake(
            "root",
            "computed with the Frobenius norm where its square belongs",
            "‖·‖²_F is the plain sum of the squared entries. No root.",
        ),
        Mistake(
            "root_of_all", "the root of the right one", "The Frobenius norm stands there *squared*: no root at the end."
        ),
        Mistake("absolute", "the sum of absolute differences, not of squares", "‖·‖²_F sums the *squared* entries."),
        Mistake(
            "with_means",
            "computed with the squared difference of the means on top",
            "Some public code adds it. Deep CORAL compares covariances alone: a shift of one domain changes nothing.",
        ),
        Mistake(
            "common_mean",
            "computed with the mean of both domains together taken away",
            "Each domain has a mean of its own: its covariance is about that.",
        ),
        Mistake(
            "one_mean",
            "computed with one mean over all features",
            "Each feature has a mean of its own. Along which axis do the examples lie?",
        ),
        Mistake(
            "example_means",
            "computed with each example's mean taken away",
            "Each *feature* has a mean, over the examples. Along which axis do these lie?",
        ),
        Mistake(
            "one_size",
            "computed with the source's n − 1 under both covariances",
            "n and m may differ. Each domain is divided by its own number, less one.",
        ),
        Mistake(
            "not_divided",
            "computed with sums in the place of covariances",
            "More examples should not make a covariance larger. Divide by n − 1.",
        ),
        Mistake(
            "diagonal_only",
            "a comparison of the variances alone",
            "How two features vary *together* counts, too: all D² entries.",
        ),
        Mistake(
            "correlations",
            "a comparison of the correlations",
            "A covariance is not divided by the deviations: how much a feature varies counts.",
        ),
        Mistake(
            "means_only",
            "a comparison of the means",
            "CORAL compares covariances, (D, D) for each domain.",
        ),
        Mistake(
            "over_examples",
            "computed with covariances of the examples, not of the features",
            "`torch.cov` takes one *variable* per row; here a row is an example. With n examples and D features, which "
            "shape should a covariance have?",
        ),
        Mistake(
            "source_cut",
            "right in value, but no gradient reaches `source`",
            "One network makes both features, and both sides should move. Nothing is cut here.",
        ),
        Mistake(
            "target_cut",
            "right in value, but no gradient reaches `target`",
            "The target is no teacher: one network makes both features, and both sides should move.",
        ),
    ),
    properties=(
        Property(
            "does not change when one domain is shifted",
            lambda answer: torch.allclose(answer(_SOURCE + 5, _TARGET), answer(_SOURCE, _TARGET), rtol=1e-4),
        ),
    ),
    sizes=lambda case: {
        "the number of features": case["source"].shape[1],
        "the number of source examples": len(case["source"]),
        "the number of target examples": len(case["target"]),
    },
    alone=frozenset(
        {"means_only", "over_examples", "correlations", "common_mean", "width_once", "absolute"}
        | {"one_mean", "example_means", "root_of_all", "not_divided", "one_size", "no_width"}
    ),
)
_SOURCE = torch.tensor([[1.0, 2.0], [0.5, -1.0], [2.0, 0.0]])
_TARGET = torch.tensor([[0.0, 1.0], [3.0, -1.0], [2.0, 0.5], [1.0, 1.0]])


# --- leave_one_domain_out ---------------------------------------------------------------------


def _domains(rng: np.random.Generator) -> list[Case]:
    names = ["printed", "thick", "blurred", "handwritten", "noisy"]
    return [
        {name: rng.normal(2**place, 1, (3, 2)) for place, name in enumerate(names[:count])} for count in (4, 3, 2, 5)
    ]


class _Trained:
    """A model that remembers what it was trained on."""

    def __init__(self, weight: float) -> None:
        self.weight = weight


class _Recorder:
    """Functions to train and to score that note what they were given."""

    def __init__(self, domains: Mapping[str, Tensor]) -> None:
        self.domains, self.trained, self.scored = domains, [], []

    def train(self, others: Any) -> _Trained:
        if isinstance(others, Tensor):
            raise TypeError("train: expected a list of domains, got a single tensor")
        received = list(others)
        self.trained.append(("a mapping of " if isinstance(others, Mapping) else "") + self._named(received))
        return _Trained(sum(float(self._data(one).sum()) for one in received))

    def score(self, model: Any, domain: Any) -> float:
        if not isinstance(model, _Trained):
            raise TypeError(f"score: expected a model first, then a domain, got {type(model).__name__} first")
        several = list(domain) if isinstance(domain, (list, tuple)) else [domain]
        self.scored.append(self._named(several))
        return model.weight - float(sum(self._data(one).square().mean() for one in several)) / len(several)

    def _data(self, one: Any) -> Tensor:
        return self.domains[one] if isinstance(one, str) else one

    def _named(self, several: Sequence[Any]) -> str:
        names = {id(data): name for name, data in self.domains.items()}
        named = [
            f"the name {one!r}" if isinstance(one, str) else names.get(id(one), "something else") for one in several
        ]
        return " + ".join(named) or "nothing"


def _observe_leaving_out(answer: Answer, case: Case) -> Observation:
    """Let the answer train and score with functions that record; look at what it returns and what they saw."""
    domains = tensors(case)
    recorder = _Recorder(domains)
    scores = answer(dict(domains), recorder.train, recorder.score)
    if not isinstance(scores, dict):
        return observe_value(scores)
    seen: Observation = {"type": "dict", "names": ", ".join(map(str, scores))}
    others = [type(value).__name__ for value in scores.values() if not isinstance(value, (int, float))]
    seen["score of each domain"] = f"a {others[0]}" if others else "a number"
    if not others:
        seen["value"] = np.array(list(scores.values()), dtype=np.float64)
    seen["data that `train` received, call by call,"] = "; ".join(recorder.trained)
    seen["data that `score` received, call by call,"] = "; ".join(recorder.scored)
    return seen


def _wrong_leaving_out(
    domains: Mapping[str, Any],
    train: Callable[[Any], Any],
    score: Callable[[Any, Any], Any],
    *,
    left_out_too: bool = False,
    trained_once: bool = False,
    on_left_out: bool = False,
    scored_on_others: bool = False,
    scored_on_all: bool = False,
    pairwise: bool = False,
    names_given: bool = False,
    mapping_given: bool = False,
    mean_only: bool = False,
    first_only: bool = False,
    next_scored: bool = False,
) -> Any:
    scores, names = {}, list(domains)
    once = train(list(domains.values())) if trained_once else None
    for place, (name, left_out) in enumerate(domains.items()):
        others = {other: one for other, one in domains.items() if (other != name) ^ on_left_out or left_out_too}
        given = others if mapping_given else list(others) if names_given else list(others.values())
        judged = domains[names[(place + 1) % len(names)]] if next_scored else left_out
        judged = list(domains.values()) if scored_on_all else list(others.values()) if scored_on_others else judged
        if on_left_out and not scored_on_others:
            judged = [one for other, one in domains.items() if other != name]
        if pairwise:
            each = [score(train([one]), judged) for one in others.values()]
            scores[name] = sum(each) / len(each)
        else:
            scores[name] = score(once if trained_once else train(given), judged)
        if first_only:
            break
    return sum(scores.values()) / len(scores) if mean_only else scores


LEAVE_ONE_DOMAIN_OUT = Exercise(
    id="09.leave_one_domain_out",
    title="Leave one domain out",
    points=2,
    reference=lesson.leave_one_domain_out,
    inputs=_domains,
    drive=_observe_leaving_out,
    wrong=_wrong_leaving_out,
    mistakes=(
        Mistake(
            "left_out_too",
            "an evaluation that trains on all domains, the left-out one too",
            "Then nothing is left out, and the score says nothing about a domain never seen.",
        ),
        Mistake(
            "trained_once",
            "an evaluation of one model, trained once on all domains",
            "Each domain needs a model that never saw it: how many trainings are that?",
        ),
        Mistake(
            "on_left_out",
            "an evaluation the wrong way round: trained on one domain, scored on the others",
            "One domain is *left out* of the training and scored on.",
        ),
        Mistake(
            "scored_on_others",
            "an evaluation that scores on the domains it trained on",
            "A good score there is no news. What was left out, and why?",
        ),
        Mistake(
            "scored_on_all",
            "an evaluation that scores on all domains",
            "The model has seen all but one of them. Score on the one.",
        ),
        Mistake(
            "pairwise",
            "an evaluation with a model for each single other domain, whose scores are averaged",
            "One model learns from *all* the others together: `train` takes a list.",
        ),
        Mistake(
            "names_given",
            "right but for what `train` receives: names where data belong",
            "`train` takes the others' data. What does a loop over a dict give?",
        ),
        Mistake(
            "mapping_given",
            "right but for what `train` receives: a dict where a list belongs",
            "`train` takes a list of the others' data, without their names.",
        ),
        Mistake(
            "next_scored",
            "an evaluation that scores on a domain that it trained on: the next one",
            "Is the domain you score on the one you left out in the same turn?",
        ),
        Mistake(
            "first_only",
            "right for the first domain, and the others are missing",
            "Each domain is left out once. Does a `return` or a `break` end the loop too early?",
        ),
        Mistake(
            "mean_only",
            "the mean of the scores",
            "Return a score for each name: a mean hides the domain at which the model fails.",
        ),
    ),
    sizes=lambda case: {"the number of domains": len(case)},
    alone=frozenset(
        {"trained_once", "on_left_out", "pairwise", "scored_on_all", "next_scored", "mapping_given"}
        | {"first_only", "mean_only"}
    ),
)

EXERCISES = (
    CORAL_LOSS,
    REVERSE_GRADIENT,
    DANN_LOSS,
    CONDITIONAL_FEATURES,
    CONFIDENT_PSEUDO_LABELS,
    SELF_TRAIN,
    LEAVE_ONE_DOMAIN_OUT,
)
