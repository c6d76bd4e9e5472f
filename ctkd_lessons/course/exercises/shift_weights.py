"""Lesson 08's exercises on importance weights: what they are, how many examples they leave, the loss they make."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ctkd_lessons import shift as lesson
from ctkd_lessons.course.exercises.description import (
    Answer,
    Case,
    Exercise,
    Mistake,
    Observation,
    Property,
    observe_call,
    observe_value_only,
)
from ctkd_lessons.course.exercises.shared import chosen

# --- density_ratio ----------------------------------------------------------------------------


def _ratio_inputs(rng: np.random.Generator) -> list[Case]:
    def case(size: int, dtype: str) -> np.ndarray:
        return rng.uniform(0.1, 0.95, size).astype(dtype)

    cases = [case(6, "float32"), case(9, "float64"), case(5, "float32"), case(1, "float64"), np.full(4, 0.25)]
    cases[1][[2, 5]] = 1, 1e-3
    cases[2][3] = 0.5
    return [{"p_source": p} for p in cases]


def _wrong_ratio(p_source: Tensor, **switches: bool) -> Tensor:
    p = p_source
    ways = {
        "target_share": lambda: 1 - p,
        "source_share": lambda: p,
        "inverted": lambda: p / (1 - p),
        "inverse": lambda: 1 / p,
        "hard": lambda: (p < 0.5).to(p.dtype),
        "cut": lambda: ((1 - p) / p).clamp(max=1),
        "parts_normalised": lambda: ((1 - p) / (1 - p).mean()) / (p / p.mean()),
    }
    w = chosen(ways, switches, lambda: (1 - p) / p)()
    if "logs" in switches:
        return ((1 - p) / p).log()
    if "not_normalised" in switches or "parts_normalised" in switches:
        return w
    if "softmaxed" in switches:
        return torch.softmax(w, 0)
    return w / (w.sum() if "sum_one" in switches else w.max() if "largest_one" in switches else w.mean())


DENSITY_RATIO = Exercise(
    id="08.density_ratio",
    title="Weights from a domain classifier",
    points=2,
    reference=lesson.density_ratio,
    inputs=_ratio_inputs,
    drive=observe_value_only,
    wrong=_wrong_ratio,
    mistakes=(
        Mistake(
            "target_share",
            "computed with 1 − p alone",
            "P(target | x) is no ratio of densities: it never exceeds 1, however rare x is in the source. Bayes' rule "
            "divides by P(source | x).",
        ),
        Mistake(
            "source_share",
            "computed with p itself",
            "That gives weight to what looks like the *source*, which is there already.",
        ),
        Mistake(
            "inverted",
            "the ratio upside down: source over target",
            "Which points should count more, those that look like the target or those that look like the source? p is "
            "the probability of the source.",
        ),
        Mistake(
            "inverse",
            "computed with 1/p",
            "1/p is one more than the ratio. It weighs towards source and target mixed: a point that is surely of the "
            "source would keep a weight.",
        ),
        Mistake(
            "logs",
            "the logs of the ratios",
            "A weight multiplies a loss, and is never negative. Stop before the log.",
        ),
        Mistake(
            "hard",
            "computed with a weight for points that look like the target, and none for the others",
            "A decision throws away how much more likely a point is in the target. Keep the ratio.",
        ),
        Mistake(
            "cut",
            "computed with ratios cut at 1",
            "Weights above 1 are what the repair needs. Cutting them calms the variance, at the price of a bias; the "
            "exercise asks for the plain ratio.",
        ),
        Mistake(
            "not_normalised",
            "right but for the scale: the mean is not 1",
            "The ratio holds a constant factor, the sizes of the two samples. What must the weights be divided by?",
        ),
        Mistake(
            "sum_one",
            "right but for the scale: the weights sum to 1",
            "Their *mean* should be 1, so that a weighted loss is as large as an unweighted one.",
        ),
        Mistake(
            "largest_one",
            "right but for the scale: the largest weight is 1",
            "Then the loss shrinks as soon as one weight is large. Their *mean* should be 1.",
        ),
        Mistake(
            "softmaxed",
            "a softmax of the ratios",
            "The ratios are weights already: no exponential. A division is all that is missing.",
        ),
        Mistake(
            "parts_normalised",
            "computed with 1 − p and p each divided by its mean",
            "Then the mean of the *ratio* is not 1. Divide first, normalise after.",
        ),
    ),
    properties=(
        Property(
            "does not change when the odds of all points are multiplied by ten",
            lambda answer: torch.allclose(answer(_ODDS / (1 + _ODDS)), answer(10 * _ODDS / (1 + 10 * _ODDS))),
        ),
    ),
    sizes=lambda case: {"the number of examples": len(case["p_source"])},
    alone=frozenset({"logs", "hard", "cut", "parts_normalised", "softmaxed", "source_share"}),
)
_ODDS = torch.tensor([0.2, 1.0, 3.0, 0.7])


# --- effective_sample_size --------------------------------------------------------------------


def _size_inputs(rng: np.random.Generator) -> list[Case]:
    def case(size: int, dtype: str, scale: float = 1.0) -> np.ndarray:
        return (rng.exponential(1, size) * scale).astype(dtype)

    cases = [case(7, "float32"), case(12, "float64", 5), case(5, "float32", 1e-30), case(6, "float32", 1e30),
             np.full(8, 0.5), case(1, "float64"), case(9, "float64")]  # fmt: skip
    cases[1][[0, 4, 5]] = 0
    cases[6][1:] = 0  # all the weight on one
    return [{"weights": weights} for weights in cases]


def _wrong_size(weights: Tensor, **switches: bool) -> Tensor:
    w, n = weights, len(weights)
    raw = {
        "no_square": lambda: w.sum() / w.square().sum(),
        "total": lambda: w.sum(),
        "as_mean_one": lambda: n / (1 + w.var(correction=0)),
    }
    if raw.keys() & switches:
        return chosen(raw, switches, lambda: w)()
    w = w if "unscaled" in switches else w / w.max()
    p = w / w.sum()
    ways = {
        "inverted": lambda: w.square().sum() / w.sum().square(),
        "rooted": lambda: w.sum() / w.norm(),
        "norm": lambda: w.sum().square() / w.norm(),
        "nonzero": lambda: (w > 0).sum().to(w.dtype),
        "largest": lambda: w.sum() / w.max(),
        "perplexity": lambda: torch.special.entr(p).sum().exp(),
        "sample_variance": lambda: n / (1 + (w - w.mean()).square().sum() / (n - 1) / w.mean().square()),
        "sum_of_squared": lambda: w.square().sum() / w.square().sum(),
    }
    value = chosen(ways, switches, lambda: w.sum().square() / w.square().sum())()
    return value / n if "share" in switches else value


EFFECTIVE_SAMPLE_SIZE = Exercise(
    id="08.effective_sample_size",
    title="How many examples are left?",
    points=2,
    reference=lesson.effective_sample_size,
    inputs=_size_inputs,
    drive=observe_value_only,
    wrong=_wrong_size,
    mistakes=(
        Mistake(
            "unscaled",
            "right but for very large or small weights, where the squares leave the range of float32",
            "1e-30 squared is 0 in float32, 1e30 squared is inf. The scale does not matter: choose one before you "
            "square.",
        ),
        Mistake(
            "no_square",
            "computed with Σw where (Σw)² belongs",
            "If all weights double, n_eff should stay the same. Count the powers.",
        ),
        Mistake(
            "inverted",
            "one over the effective sample size",
            "Equal weights should give n, not 1/n.",
        ),
        Mistake(
            "share",
            "the effective sample size as a share of n",
            "Equal weights should give n, not 1.",
        ),
        Mistake(
            "rooted",
            "the root of the effective sample size",
            "‖w‖ is a root. n_eff has squares above and below.",
        ),
        Mistake(
            "norm",
            "computed with ‖w‖ in the denominator, not its square",
            "`norm` takes a root. The denominator is the sum of the squares itself.",
        ),
        Mistake(
            "sum_of_squared",
            "computed with the same sum above and below: it is always 1",
            "(Σw)² is the square of a sum, Σw² the sum of the squares. Which of them did you write twice?",
        ),
        Mistake(
            "nonzero",
            "the number of weights above zero",
            "A weight of one millionth counts there like any other. n_eff asks how unequal they are.",
        ),
        Mistake(
            "largest",
            "the sum over the largest weight",
            "That, too, is n for equal weights. Kish's measure takes the squares of all of them.",
        ),
        Mistake(
            "perplexity",
            "the exponential of the weights' entropy",
            "That, too, is n for equal weights and 1 for a single one. Kish's measure takes squares.",
        ),
        Mistake(
            "sample_variance",
            "computed with the variance that divides by n − 1",
            "n / (1 + variance / mean²) is n_eff if the variance divides by n.",
        ),
        Mistake(
            "as_mean_one",
            "right only where the weights have mean 1",
            "n / (1 + variance) forgets the mean. These weights have any scale.",
        ),
        Mistake("total", "the sum of the weights", "For weights of mean 1 the sum is n, however unequal they are."),
    ),
    properties=(
        Property(
            "does not change when all weights are multiplied by ten",
            lambda answer: abs(float(answer(10 * _ODDS) - answer(_ODDS))) < 1e-5,
        ),
    ),
    sizes=lambda case: {"the number of examples": len(case["weights"])},
    alone=frozenset({"no_square", "total", "as_mean_one", "nonzero", "sum_of_squared", "largest", "sample_variance"}),
)


# --- weighted_loss ----------------------------------------------------------------------------


def _loss_inputs(rng: np.random.Generator) -> list[Case]:
    def case(examples: int, classes: int, dtype: str, spread: float = 2.0) -> Case:
        return {
            "logits": rng.normal(0, spread, (examples, classes)).astype(dtype),
            "labels": rng.integers(0, classes, examples),
            "weights": rng.exponential(1.5, examples).astype(dtype),
        }

    cases = [case(5, 3, "float32"), case(4, 7, "float64"), case(8, 2, "float32"), case(6, 4, "float64", 500),
             case(1, 5, "float64")]  # fmt: skip
    cases[1]["weights"][2] = 0
    cases[2]["weights"][[0, 5]] = 0
    return cases


def _observe_loss(answer: Answer, case: Case) -> Observation:
    """See what ``F.cross_entropy`` says of weights of examples where it wants those of classes."""
    try:
        return observe_call(answer, case, constants=("weights",))
    except RuntimeError as error:
        if "weight tensor" in str(error) or "'weight'" in str(error):
            return {"type": "torch.Tensor", "weights": "given to F.cross_entropy as weights of classes"}
        raise


def _weighted_loss(logits: Tensor, labels: Tensor, weights: Tensor, **switches: bool) -> Tensor:
    """Return the mean of w_i · cross-entropy_i over the batch; the weights are constants."""
    w = weights if "not_detached" in switches else weights.detach()
    z = logits * w[:, None] if "logits_weighed" in switches else logits
    if "softmax_twice" in switches:
        z = torch.softmax(z, dim=1)
    if "class_weights" in switches:
        return F.cross_entropy(z, labels, weight=w)
    if "log_of_softmax" in switches:
        each = -torch.softmax(z, dim=1).log()[torch.arange(len(z)), labels]
    else:
        each = F.cross_entropy(z, labels, reduction="none")
    if "unweighted" in switches or "logits_weighed" in switches:
        w = torch.ones_like(w)
    if "softmaxed" in switches or "cut" in switches:
        w = torch.softmax(w, 0) if "softmaxed" in switches else w.clamp(max=1)
    terms = each / w if "divided" in switches else w * each
    terms = w * each.mean() if "mean_first" in switches else terms
    if "summed" in switches or "softmaxed" in switches:
        return terms.sum()
    if "positive_only" in switches:
        return terms.sum() / (w > 0).sum()
    value = terms.sum() / w.sum() if "by_sum" in switches else terms.mean()
    value = value / logits.shape[1] if "over_classes" in switches else value
    return terms if "per_example" in switches else value


WEIGHTED_LOSS = Exercise(
    id="08.weighted_loss",
    title="A loss that speaks for the target",
    points=2,
    reference=_weighted_loss,
    inputs=_loss_inputs,
    drive=_observe_loss,
    wrong=_weighted_loss,
    mistakes=(
        Mistake(
            "by_sum",
            "computed with a division by the batch's sum of weights",
            "The weights have mean 1 over the whole source, not over each batch. Divided by its own sum, a batch of "
            "unimportant examples would pull as hard as any other. Divide by their number.",
        ),
        Mistake(
            "not_detached",
            "right in value, but gradient flows into `weights`",
            "Training could lower the loss by lowering the weights. Cut them from the graph.",
        ),
        Mistake(
            "class_weights",
            "computed with the weights given to `F.cross_entropy`, which takes them for weights of *classes*",
            "Its argument `weight` has one entry per class. You need the loss of each example first: see `reduction`.",
        ),
        Mistake(
            "mean_first",
            "the mean loss times the weights, when it is too late to weigh",
            "`F.cross_entropy` averages unless told otherwise. Each example's loss must meet its own weight before the "
            "mean.",
        ),
        Mistake("summed", "summed over the batch", "Divide by the number of examples."),
        Mistake("unweighted", "the loss without the weights", "Multiply each example's loss by its weight."),
        Mistake(
            "per_example",
            "one number per example",
            "A loss is one number: average over the batch.",
        ),
        Mistake(
            "logits_weighed",
            "computed with the weights on the logits",
            "A large weight would only make the model look sure. It belongs on the example's *loss*.",
        ),
        Mistake(
            "divided",
            "computed with losses divided by their weights",
            "An example of large weight should count more.",
        ),
        Mistake(
            "positive_only",
            "computed with the mean over the examples of weight above zero",
            "An example of weight 0 counts in the number of examples.",
        ),
        Mistake("softmaxed", "computed with a softmax of the weights", "The weights are used as they come."),
        Mistake("cut", "computed with weights cut at 1", "Weights above 1 are what the repair needs. Use them whole."),
        Mistake(
            "over_classes",
            "computed with a mean over examples *and* classes",
            "Of each row only the label's entry counts: divide by the number of examples.",
        ),
        Mistake(
            "softmax_twice",
            "computed with probabilities where `F.cross_entropy` expects logits",
            "It applies the softmax itself.",
        ),
        Mistake(
            "log_of_softmax",
            "right for small logits, but takes the log of a softmax that has reached 0",
            "log(0) is −inf. Which function gives log-probabilities in one step?",
        ),
    ),
    properties=(
        Property(
            "is the plain cross-entropy where all weights are 1",
            lambda answer: torch.allclose(answer(_LOGITS, _LABELS, torch.ones(3)), F.cross_entropy(_LOGITS, _LABELS)),
        ),
    ),
    sizes=lambda case: dict(
        zip(("the number of examples", "the number of classes"), case["logits"].shape, strict=True)
    ),
    alone=frozenset(
        {"class_weights", "unweighted", "per_example", "logits_weighed", "divided", "positive_only", "softmaxed", "cut"}
        | {"by_sum"}
    ),
)
_LOGITS = torch.tensor([[1.0, -1.0], [0.3, 0.8], [2.0, 0.0]])
_LABELS = torch.tensor([0, 1, 1])
