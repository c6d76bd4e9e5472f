"""The exercises of lesson 04 on fusing models: weighted means, and weights fitted on left-out examples."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from ctkd_lessons import cross_task as lesson
from ctkd_lessons.course.exercises.cross_task_maps import afterwards, observe_arrays
from ctkd_lessons.course.exercises.description import (
    Answer,
    Case,
    Exercise,
    Mistake,
    Observation,
    Property,
    observe_value,
)

Fit = Callable[[NDArray, NDArray], Callable[[NDArray], NDArray]]  # (x, y) → predict(new x)


# --- fuse -------------------------------------------------------------------------------------


def _fuse_inputs(rng: np.random.Generator) -> list[Case]:
    def case(*shape: int, weighted: bool = True) -> Case:
        predictions = rng.gamma(1.0, 1.0, shape) + 0.05
        if len(shape) == 3:
            predictions /= predictions.sum(-1, keepdims=True)
        return {"predictions": predictions} | ({"weights": rng.uniform(0.2, 3, shape[0])} if weighted else {})

    # As many models as examples and classes first: there any axis fits.
    cases = [case(3, 3, 3), case(2, 5, 4), case(4, 6), case(3, 4, 2, weighted=False), case(5, 3, weighted=False)]
    trusted = case(3, 2, 5)
    trusted["weights"] = np.array([0.0, 2.0, 2.0])
    return [*cases, trusted, case(1, 4, 3)]


def _wrong_fuse(
    predictions: NDArray,
    weights: NDArray | None = None,
    *,
    not_normalised: bool = False,
    summed: bool = False,
    divided_by_models: bool = False,
    ignored: bool = False,
    squared: bool = False,
    over_examples: bool = False,
    over_last: bool = False,
    weights_on_last: bool = False,
    weights_on_examples: bool = False,
    weights_softmaxed: bool = False,
    weights_of_length_one: bool = False,
    weights_by_largest: bool = False,
    geometric: bool = False,
    log_mean: bool = False,
    renormalised: bool = False,
    hard: bool = False,
    vote: bool = False,
    median: bool = False,
    trusted: bool = False,
    logits: bool = False,
) -> NDArray:
    w = np.ones(len(predictions)) if weights is None or ignored else weights**2 if squared else weights
    if median:
        return np.median(predictions, axis=0)
    if trusted:
        return predictions[w.argmax()]
    if weights is not None and weights_softmaxed:
        w = np.exp(w) / np.exp(w).sum()
    plain_sum = summed or (not_normalised and weights is not None)
    total = 1.0 if plain_sum else len(w) if divided_by_models else w.sum()
    total = np.linalg.norm(w) if weights_of_length_one else w.max() if weights_by_largest else total
    if over_examples or over_last:
        # Without weights there is nothing that would not fit.
        axis = -1 if over_last else 1
        return predictions.mean(axis) if weights is None else np.average(predictions, axis=axis, weights=w)
    behind = 0 if weights_on_last else 1 if weights_on_examples else predictions.ndim - 1
    behind = predictions.ndim - 1 if weights is None else behind
    in_logs = geometric or logits or log_mean
    fused = (w.reshape(-1, *[1] * behind) * (np.log(predictions) if in_logs else predictions)).sum(0) / total
    fused = np.exp(fused) if geometric or logits else fused
    if vote:
        return fused.argmax(-1)
    if hard:
        return np.eye(predictions.shape[-1])[fused.argmax(-1)]
    return fused / fused.sum(-1, keepdims=True) if renormalised or logits else fused


FUSE = Exercise(
    id="04.fuse",
    title="Fuse what several models say",
    points=2,
    reference=lesson.fuse,
    inputs=_fuse_inputs,
    drive=observe_arrays,
    wrong=_wrong_fuse,
    mistakes=(
        Mistake(
            "not_normalised",
            "a weighted sum, not a mean",
            "The weights may sum to anything. What turns the sum into a mean?",
        ),
        Mistake(
            "summed",
            "a sum, not a mean, with weights or without",
            "Two models that say the same should give just that. What must the sum be divided by?",
        ),
        Mistake(
            "divided_by_models",
            "a weighted sum divided by the number of models",
            "Doubling all weights should change nothing. What should the sum be divided by?",
        ),
        Mistake("ignored", "the plain mean: the weights play no part", "Use `weights` where they are given."),
        Mistake("squared", "computed with squared weights", "Each weight enters once."),
        Mistake(
            "over_examples",
            "averaged over the examples",
            "In (M, n, …) the models are the first axis, and it is the one that goes.",
        ),
        Mistake(
            "over_last",
            "averaged over the last axis",
            "The models are the *first* axis, however many follow.",
        ),
        Mistake(
            "weights_on_examples",
            "computed with one axis of length 1 behind the weights, however many axes the predictions have",
            "For (M, n, C) that lines the weights up with the examples. (M, n, C) needs two such axes, (M, n) one.",
        ),
        Mistake(
            "weights_on_last",
            "computed with the weights on the last axis",
            "NumPy lines shapes up from the right, so (M,) meets the *last* axis. How do you give `weights` axes of "
            "length 1 behind the first?",
        ),
        Mistake(
            "weights_softmaxed",
            "computed with a softmax of the weights",
            "A softmax turns a weight of 0 into something. Divide by the sum.",
        ),
        Mistake(
            "weights_of_length_one",
            "computed with weights of length one",
            "Their *sum* should be one, not their sum of squares.",
        ),
        Mistake(
            "weights_by_largest",
            "computed with the weights divided by the largest",
            "Then the largest is one. Their *sum* should be.",
        ),
        Mistake(
            "geometric",
            "the geometric mean",
            "An average of logs lets one model's small probability veto the rest. Average the predictions themselves.",
        ),
        Mistake(
            "log_mean",
            "the mean of the logs",
            "Average the predictions themselves, and leave the logs out.",
        ),
        Mistake(
            "hard",
            "1 for the likeliest class and 0 elsewhere",
            "Keep what the models say about the other classes. And not all predictions are about classes.",
        ),
        Mistake(
            "vote",
            "the number of the likeliest class",
            "Return the average itself: the rest of what the models say is lost otherwise.",
        ),
        Mistake(
            "logits",
            "a softmax of averaged logs",
            "A model that is very sure then outvotes the rest. Average the predictions themselves.",
        ),
        Mistake(
            "renormalised",
            "scaled so that each example sums to one",
            "A mean of probabilities sums to one by itself. Other predictions need not.",
        ),
        Mistake("median", "the median of the models", "Each model counts with its weight: take the mean."),
        Mistake(
            "trusted",
            "what the model with the largest weight says",
            "The others count, too, as much as their weights.",
        ),
    ),
    properties=(
        Property(
            "does not change when all weights are doubled",
            lambda answer: bool(
                np.allclose(
                    answer(np.arange(6.0).reshape(2, 3), np.array([1.0, 3.0])),
                    answer(np.arange(6.0).reshape(2, 3), np.array([2.0, 6.0])),
                )
            ),
        ),
    ),
    sizes=lambda case: dict(
        zip(("the number of models", "the number of examples"), case["predictions"].shape, strict=False)
    ),
    alone=frozenset(
        {
            "median",
            "trusted",
            "weights_of_length_one",
            "weights_by_largest",
            "weights_on_examples",
            "over_examples",
            "over_last",
            "log_mean",
            "hard",
            "vote",
            "logits",
            "renormalised",
        }
    ),
)


# --- stack_models: the variant ----------------------------------------------------------------


def _stack_inputs(rng: np.random.Generator) -> list[Case]:
    def case(examples: int, models: int, folds: int, *, memoriser: int = 0, constant: int = 0) -> Case:
        x = rng.normal(0, 1, (examples, 2 * models))
        y = x @ rng.uniform(0.5, 1.5, 2 * models) + rng.normal(1, 0.3, examples)
        numbers = {"folds": rng.permutation(np.arange(examples) % folds), "models": models}
        return {"x": x, "y": y, **numbers, "memoriser": memoriser, "constant": constant}

    return [
        case(18, 2, 2),
        case(25, 2, 3, memoriser=1),
        case(31, 3, 5, memoriser=1, constant=1),
        case(20, 3, 4, constant=1),
    ]


def _part(columns: slice) -> Fit:
    """A linear model that sees some columns only."""

    def fit(x: NDArray, y: NDArray) -> Callable[[NDArray], NDArray]:
        mean, middle = x[:, columns].mean(0), y.mean()
        weights = np.linalg.lstsq(x[:, columns] - mean, y - middle)[0]
        return lambda new: (new[:, columns] - mean) @ weights + middle

    return fit


def _memorise(x: NDArray, y: NDArray) -> Callable[[NDArray], NDArray]:
    """Answer with the nearest example: never wrong on those it was fitted to."""
    return lambda new: y[np.square(new[:, None] - x).sum(-1).argmin(1)]


def _always_the_mean(x: NDArray, y: NDArray) -> Callable[[NDArray], NDArray]:
    middle = y.mean()
    return lambda new: np.full(len(new), middle)


def _observe_stack(answer: Answer, case: Case) -> Observation:
    fits = [_part(slice(2 * m, 2 * m + 2)) for m in range(case["models"])]
    fits += [_memorise] * case["memoriser"] + [_always_the_mean] * case["constant"]
    with np.errstate(all="ignore"):
        value = answer(fits, case["x"], case["y"], case["folds"])
    return observe_value(value) | afterwards(case)


def _left_out(fits: list[Fit], x: NDArray, y: NDArray, folds: NDArray, **how: bool) -> NDArray:
    """Return (M, n): what each model says of each example when fitted without the example's fold."""
    said, parts = np.zeros((len(fits), len(y))), []
    for fold in np.unique(folds):
        out = folds == fold
        fitted_to, asked = (out, ~out) if how["inverted"] else (out, out) if how["same_fold"] else (~out, out)
        asked = np.ones_like(out) if how["last_fold"] else asked
        predicts = [fit(x[fitted_to], y[fitted_to]) for fit in fits]
        said[:, asked] = [predict(x[asked]) for predict in predicts]
        parts.append(said[:, asked])
    if how["each_alone"]:
        return _left_out(fits, x, y, np.arange(len(y)), **how | {"each_alone": False})
    if how["in_sample"]:
        return np.array([fit(x, y)(x) for fit in fits])
    return np.concatenate(parts, axis=1) if how["fold_order"] else said


def _stack_models(
    fits: list[Fit],
    x: NDArray,
    y: NDArray,
    folds: NDArray,
    *,
    in_sample: bool = False,
    inverted: bool = False,
    same_fold: bool = False,
    last_fold: bool = False,
    fold_order: bool = False,
    each_alone: bool = False,
    blocks: bool = False,
    one_fold: bool = False,
    unconstrained: bool = False,
    clipped: bool = False,
    not_normalised: bool = False,
    weights_of_length_one: bool = False,
    softmaxed: bool = False,
    by_error: bool = False,
    by_root_error: bool = False,
    winner: bool = False,
    equal: bool = False,
    per_fold: bool = False,
    centred: bool = False,
) -> NDArray:
    """Fit weights on predictions for left-out examples: non-negative least squares, scaled to sum one."""
    folds = np.sort(folds) if blocks else folds
    how = {"in_sample": in_sample, "inverted": inverted, "same_fold": same_fold, "last_fold": last_fold}
    said = _left_out(fits, x, y, folds, **how, fold_order=fold_order, each_alone=each_alone)
    if one_fold:
        said, y = said[:, folds == 0], y[folds == 0]
    if by_error or winner or by_root_error:
        errors = np.square(said - y).mean(1)
        errors = np.sqrt(errors) if by_root_error else errors
        weights = np.eye(len(fits))[errors.argmin()] if winner else 1 / errors
    elif equal:
        weights = np.ones(len(fits))
    elif per_fold:
        each = [nnls(said[:, folds == fold].T, y[folds == fold])[0] for fold in np.unique(folds)]
        weights = np.mean([one / one.sum() for one in each], axis=0)
    else:
        columns, goal = said.T, y
        if centred:
            columns, goal = columns - columns.mean(0), y - y.mean()
        free = unconstrained or clipped
        weights = np.linalg.lstsq(columns, goal)[0] if free else nnls(columns, goal)[0]
        weights = np.maximum(weights, 0) if clipped else weights
    if softmaxed:
        return np.exp(weights) / np.exp(weights).sum()
    return weights / (1.0 if not_normalised else np.linalg.norm(weights) if weights_of_length_one else weights.sum())


STACK_MODELS = Exercise(
    id="04.stack_models",
    title="Stacking on left-out examples",
    points=3,
    reference=_stack_models,
    inputs=_stack_inputs,
    drive=_observe_stack,
    wrong=_stack_models,
    mistakes=(
        Mistake(
            "in_sample",
            "fitted to predictions for examples that the models have seen",
            "A model that memorises is then trusted most. Ask each model only about examples it was not fitted to.",
        ),
        Mistake(
            "inverted",
            "computed from models that were fitted to one fold and asked about the others",
            "The fold is what is left *out* of the fit.",
        ),
        Mistake(
            "same_fold",
            "computed from models that were fitted to a fold and asked about the same fold",
            "Then each model has seen the examples it is asked about. Fit it to all the others.",
        ),
        Mistake(
            "last_fold",
            "computed from the models of the last fold only",
            "Each fold's models answer for the examples of that fold. Do later ones overwrite what earlier ones said?",
        ),
        Mistake(
            "fold_order",
            "computed from predictions in the order of the folds and targets in the order of the examples",
            "`np.concatenate` puts fold after fold. Which row of `y` does each prediction belong to?",
        ),
        Mistake(
            "each_alone",
            "computed with each example left out alone",
            "`folds` says which examples are left out together.",
        ),
        Mistake(
            "blocks",
            "computed with folds of examples that stand one after the other",
            "`folds[i]` is example i's fold, and they come in any order. Which comparison finds all of one fold?",
        ),
        Mistake(
            "one_fold",
            "fitted to the examples of one fold only",
            "Every example is left out once. Collect what the models say of all of them; then fit the weights.",
        ),
        Mistake(
            "unconstrained",
            "plain least squares, which gives some models negative weights",
            "No model should count against the others: w ≥ 0. SciPy's `nnls` keeps to that.",
        ),
        Mistake(
            "clipped",
            "plain least squares with negative weights set to zero afterwards",
            "Once a model drops out, the others' best weights change. `nnls` solves for w ≥ 0 at once.",
        ),
        Mistake("not_normalised", "right but for the scale of the weights", "They should sum to one."),
        Mistake(
            "weights_of_length_one",
            "weights of length one",
            "Their *sum* should be one, not their sum of squares.",
        ),
        Mistake("softmaxed", "a softmax of the weights", "A weight of 0 should stay 0: divide by the sum."),
        Mistake(
            "by_error",
            "weights that are one over each model's squared error",
            "That looks at each model alone. Two models that err together should share one weight: fit all at once.",
        ),
        Mistake(
            "by_root_error",
            "weights that are one over the root of each model's squared error",
            "That looks at each model alone. Fit all weights at once, by least squares.",
        ),
        Mistake(
            "winner",
            "the best model alone",
            "A weaker model may know what the best one does not. Fit all weights at once, by least squares.",
        ),
        Mistake("equal", "equal weights", "Which weights, on the left-out examples, come closest to `y`?"),
        Mistake(
            "per_fold",
            "the mean of weights fitted to each fold",
            "One fold is little to fit weights to. Collect the predictions of all folds first; then fit once.",
        ),
        Mistake(
            "centred",
            "computed from centred predictions and targets",
            "The formula takes them as they are, with no intercept.",
        ),
    ),
    sizes=lambda case: {
        "the number of examples": len(case["y"]),
        "the number of folds": float(case["folds"].max() + 1),
    },
    alone=frozenset(
        {
            "by_error",
            "by_root_error",
            "winner",
            "equal",
            "per_fold",
            "clipped",
            "same_fold",
            "fold_order",
            "each_alone",
            "blocks",
            "one_fold",
            "centred",
            "softmaxed",
            "weights_of_length_one",
        }
    ),
)
