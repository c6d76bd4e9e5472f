"""Lesson 08's repairs: label shift from a confusion matrix, and the bug hunt in weighing by a domain classifier."""

import numpy as np
import torch
from torch import Tensor

from ctkd_lessons.course.exercises.description import Case, Exercise, Mistake, Property, observe_value_only
from ctkd_lessons.course.exercises.shared import chosen

# --- label_shift_weights: the variant ---------------------------------------------------------


def _confusion(rng: np.random.Generator, classes: int) -> np.ndarray:
    """Draw shares of (prediction i, label j) of a classifier that is mostly right, with labels unequally frequent."""
    given_label = rng.uniform(0.05, 0.3, (classes, classes)) + np.diag(rng.uniform(1.5, 3, classes))
    labels = rng.uniform(0.4, 2, classes)
    joint = given_label / given_label.sum(axis=0) * labels
    return joint / joint.sum()


def _label_inputs(rng: np.random.Generator) -> list[Case]:
    def case(counts: list[int], dtype: str) -> Case:
        """Give class i as often as counts[i] says; a class that is never predicted asks for a weight below zero."""
        predictions = rng.permutation(np.repeat(np.arange(len(counts)), counts))
        return {"confusion": _confusion(rng, len(counts)).astype(dtype), "target_predictions": predictions}

    return [
        case([0, 9, 14, 3], "float64"),
        case([5, 2, 6], "float32"),
        case([7, 3, 12, 6, 0], "float64"),
        case([4, 10], "float32"),
        case([3], "float64"),
    ]


def _label_shift_weights(confusion: Tensor, target_predictions: Tensor, **switches: bool) -> Tensor:
    """Return each class's share in the target over its share in the source, from predictions alone.

    A classifier trained on the source predicts class i on a share q_i of the target. Where only the classes'
    frequencies changed, it errs within each class as before: q = confusion · w. So w = confusion⁻¹ q; chance may
    bring it below zero, and it is cut there.

    ``confusion``: (C, C), the share of held-out source examples with prediction i and label j, invertible;
    ``target_predictions``: (m,) int64, each 0 … C − 1. Returns (C,).
    Source: Lipton, Wang & Smola 2018, "Detecting and Correcting for Label Shift with Black Box Predictors".
    """
    classes = len(confusion)
    counts = torch.bincount(target_predictions, minlength=0 if "seen_only" in switches else classes)
    q = counts.to(confusion.dtype) / (1 if "counts" in switches else len(target_predictions))
    matrix = confusion / confusion.sum(dim=0) if "given_label" in switches else confusion
    matrix = confusion / confusion.sum(dim=1, keepdim=True) if "given_prediction" in switches else matrix
    matrix = matrix.T if "transposed" in switches else matrix
    ways = {
        "not_inverted": lambda: matrix @ q,
        "elementwise": lambda: (1 / matrix) @ q,
        "diagonal": lambda: q / matrix.diagonal(),
        "by_predictions": lambda: q / confusion.sum(dim=1),
        "by_labels": lambda: q / confusion.sum(dim=0),
    }
    w = chosen(ways, switches, lambda: torch.linalg.solve(matrix, q))()
    w = w if "not_cut" in switches else w.abs() if "absolute" in switches else w.clamp(min=0)
    w = w.clamp(max=1) if "cut_above" in switches else w
    w = 1 / w if "upside_down" in switches else w
    if "mean_one" in switches or "sum_one" in switches:
        w = w / (w.mean() if "mean_one" in switches else w.sum())
    return w


LABEL_SHIFT_WEIGHTS = Exercise(
    id="08.label_shift_weights",
    title="Label shift, repaired without a label",
    points=3,
    reference=_label_shift_weights,
    inputs=_label_inputs,
    drive=observe_value_only,
    wrong=_label_shift_weights,
    mistakes=(
        Mistake(
            "not_cut",
            "right but for weights below zero, which it keeps",
            "A class cannot be rarer than never. What should become of a negative solution?",
        ),
        Mistake(
            "absolute",
            "right but for weights below zero, of which it drops the sign",
            "A solution of −0.3 says that the class is as good as absent. Which weight ≥ 0 is nearest?",
        ),
        Mistake(
            "transposed",
            "computed with the confusion matrix transposed",
            "Row i is a *prediction*, and q_i is the share of a prediction. What does the sum over the labels j give?",
        ),
        Mistake(
            "given_label",
            "the labels' shares in the target, not yet divided by those in the source",
            "With each column divided by its sum, the matrix holds P(prediction | label), and the solution is how "
            "frequent each label is in the target. A weight compares that with the source. With the shares as they "
            "come, both happen at once.",
        ),
        Mistake(
            "given_prediction",
            "computed with each row divided by its sum",
            "Then it holds P(label | prediction), and *that* changes under label shift. Take the shares as they come.",
        ),
        Mistake(
            "counts",
            "computed with numbers of predictions where their shares belong",
            "The confusion matrix holds shares, which sum to 1. What must q sum to?",
        ),
        Mistake(
            "not_inverted",
            "computed with confusion · q",
            "q = confusion · w is known on the left. Solve it for w.",
        ),
        Mistake(
            "elementwise",
            "computed with one over each entry of the matrix",
            "`1 / confusion` is not the inverse of the matrix. See `torch.linalg`.",
        ),
        Mistake(
            "diagonal",
            "computed from the diagonal alone, as if the classifier made no errors",
            "What is predicted as class i holds errors from other classes. All of row i counts.",
        ),
        Mistake(
            "by_predictions",
            "how often each class is predicted in the target over how often in the source",
            "That compares predictions. The errors among them blur the change of the *labels*; the confusion matrix "
            "undoes the blur.",
        ),
        Mistake(
            "by_labels",
            "how often each class is predicted in the target over how often it is the label in the source",
            "That compares predictions with labels. The confusion matrix says how the one follows from the other.",
        ),
        Mistake(
            "seen_only",
            "right only where the last class is among the predictions",
            "A class that is never predicted has a share of 0, and its place in q. `torch.bincount` can be told how "
            "many classes there are.",
        ),
        Mistake(
            "cut_above",
            "computed with weights cut at 1",
            "A class that is more frequent in the target has a weight above 1. Cut below zero only.",
        ),
        Mistake(
            "mean_one",
            "right but for the scale: the mean is 1",
            "The mean over the *source examples* is 1, not the mean over the classes. Leave the scale as it comes.",
        ),
        Mistake(
            "sum_one",
            "right but for the scale: the weights sum to 1",
            "They are ratios of shares, not shares. Leave the scale as it comes.",
        ),
        Mistake(
            "upside_down",
            "one over each weight: source over target",
            "A class that is more frequent in the target needs a weight above 1.",
        ),
    ),
    properties=(
        Property(
            "gives weights of 1 where the target's predictions are as frequent as the source's",
            lambda answer: torch.allclose(
                answer(_SHARES, torch.tensor([0, 1, 1, 0, 1])).double(), torch.ones(2).double()
            ),
        ),
    ),
    sizes=lambda case: {
        "the number of classes": len(case["confusion"]),
        "the number of target examples": len(case["target_predictions"]),
    },
    alone=frozenset(
        {"not_inverted", "elementwise", "diagonal", "by_predictions", "by_labels", "seen_only", "cut_above", "mean_one"}
        | {"sum_one", "upside_down"}
    ),
)
_SHARES = torch.tensor([[0.3, 0.1], [0.2, 0.4]], dtype=torch.float64)


# --- weigh_by_domain: the bug hunt ------------------------------------------------------------


def _domain_inputs(rng: np.random.Generator) -> list[Case]:
    def case(n: int, m: int, width: int, steps: int, learning_rate: float, dtype: str) -> Case:
        return {
            "source": rng.normal(0, 1, (n, width)).astype(dtype),
            "target": rng.normal(0.7, 1.2, (m, width)).astype(dtype),
            "steps": steps,
            "learning_rate": learning_rate,
        }

    return [case(9, 5, 3, 8, 0.8, "float64"), case(6, 11, 2, 5, 0.5, "float32"), case(7, 7, 4, 6, 1.0, "float64")]


def _weigh_by_domain(
    source: Tensor,
    target: Tensor,
    steps: int,
    learning_rate: float,
    *,
    in_sample: bool = False,
    carried_over: bool = False,
    uncounted: bool = False,
    inverted: bool = False,
    not_normalised: bool = False,
    no_folds: bool = False,
    fold_of_all: bool = False,
    halves: bool = False,
    no_offset: bool = False,
    uphill: bool = False,
    summed: bool = False,
    doubled: bool = False,
    counted_by_all: bool = False,
    target_share: bool = False,
    sum_one: bool = False,
    fold_normalised: bool = False,
    pooled_mean: bool = False,
    target_points: bool = False,
) -> Tensor:
    """Weigh source points by a logistic regression between the domains, each judged by one that never saw it."""
    n, m = len(source), len(target)
    x = torch.cat([source, target])
    x = torch.cat([x, (torch.zeros_like if no_offset else torch.ones_like)(x[:, :1])], dim=1)
    is_source = (torch.arange(n + m) < n).to(x.dtype)
    fold = torch.cat([torch.arange(size) * 2 // size if halves else torch.arange(size) % 2 for size in (n, m)])
    fold = torch.arange(n + m) % 2 if fold_of_all else fold
    p = torch.zeros_like(is_source)
    theta = torch.zeros_like(x[0])
    for k in (0, 1):
        theta = theta if carried_over else torch.zeros_like(theta)
        train = (fold >= 0) if no_folds else fold != k
        t = is_source[train]
        share = (t / t.sum() + (1 - t) / (1 - t).sum()) / 2
        share = torch.ones_like(t) if summed else torch.full_like(t, 1 / len(t)) if uncounted else share
        share = t / (2 * n) + (1 - t) / (2 * m) if counted_by_all else 2 * share if doubled else share
        for _ in range(steps):
            error = share * (torch.sigmoid(x[train] @ theta) - t)
            theta = theta - (-learning_rate if uphill else learning_rate) * error @ x[train]
        judged = train if in_sample else fold == k
        p[judged] = torch.sigmoid(x[judged] @ theta)
    w = p / (1 - p) if inverted else 1 - p if target_share else (1 - p) / p
    if fold_normalised:
        sums = [w[:n][fold[:n] == k].mean() for k in (0, 1)]
        return w[:n] / torch.stack(sums)[fold[:n]]
    mean = w.mean() if pooled_mean else w[:n].mean()
    w = w[n:] if target_points else w[:n]
    mean = w.mean() if target_points else w.sum() if sum_one else mean
    return w if not_normalised else w / mean


_BUGS = 5
_DOMAIN_MISTAKES = (
    Mistake(
        "in_sample",
        "weighing by a classifier that judges the points it was trained on",
        "There it looks surer than it is. A point's fold is the one that its classifier has *not* seen.",
    ),
    Mistake(
        "carried_over",
        "weighing by a second classifier that starts from the first one's parameters",
        "The first was trained on the very points that the second judges. Each fold's classifier starts from zero.",
    ),
    Mistake(
        "uncounted",
        "weighing by a classifier to which the larger domain counts more",
        "The loss is half the source's mean plus half the target's. How much does one point of each weigh in it?",
    ),
    Mistake(
        "inverted",
        "weighing with the ratio upside down: source over target",
        "p is the probability of the source. Which points should count more?",
    ),
    Mistake(
        "not_normalised",
        "weighing without bringing the mean to 1",
        "The weights of the source points have mean 1. What is missing in the last line?",
    ),
    Mistake(
        "no_folds",
        "weighing by one classifier, trained on all points",
        "It has seen every point that it judges. Train on one fold, judge the other.",
    ),
    Mistake(
        "fold_of_all",
        "right but for the folds, which are counted through both domains",
        "Row i of *each* domain belongs to fold i mod 2: the count starts again at the target.",
    ),
    Mistake(
        "halves",
        "right but for the folds, which are the first half and the second",
        "Fold 0 holds the even rows of each domain, fold 1 the odd ones.",
    ),
    Mistake(
        "no_offset",
        "weighing by a classifier without an offset",
        "Its border could only pass through the origin. The column of ones carries the offset.",
    ),
    Mistake(
        "uphill",
        "weighing by a classifier that walks up its loss",
        "The gradient is (σ(x · θ) − label) · x. Which way does a step go?",
    ),
    Mistake(
        "summed",
        "weighing by a classifier whose loss is a sum over the points",
        "Each domain's losses are averaged, and both means count one half.",
    ),
    Mistake(
        "doubled",
        "weighing by a classifier with twice the loss",
        "Each domain's mean counts one *half*.",
    ),
    Mistake(
        "counted_by_all",
        "right but for the means in the loss, which are divided by the domains' whole sizes",
        "Only one fold of each domain is in training. Divide by how many points it has there.",
    ),
    Mistake(
        "target_share",
        "weighing with 1 − p alone",
        "That never exceeds 1. The ratio of the densities divides by p.",
    ),
    Mistake(
        "sum_one",
        "right but for the scale: the weights sum to 1",
        "Their *mean* is 1.",
    ),
    Mistake(
        "fold_normalised",
        "right but for the scale: each fold has mean 1",
        "The mean over *all* source points is 1. Normalise once, at the end.",
    ),
    Mistake(
        "pooled_mean",
        "right but for the scale: the mean is taken over both domains",
        "The weights belong to the source points. Take the mean of those alone.",
    ),
    Mistake(
        "target_points",
        "the weights of the target's points",
        "Source points are what is weighed: (n,).",
    ),
)
WEIGH_BY_DOMAIN = Exercise(
    id="08.weigh_by_domain",
    title="Bug hunt: weights from a domain classifier",
    points=4,
    reference=_weigh_by_domain,
    inputs=_domain_inputs,
    drive=observe_value_only,
    wrong=_weigh_by_domain,
    mistakes=_DOMAIN_MISTAKES,
    sizes=lambda case: {
        "the number of source points": len(case["source"]),
        "the number of target points": len(case["target"]),
    },
    at_once=_BUGS,
    alone=frozenset(mistake.name for mistake in _DOMAIN_MISTAKES[_BUGS:]),
)
