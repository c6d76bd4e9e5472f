"""The exercises of lesson 04 on one feature space: extract features, map them, turn them."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ctkd_lessons import cross_task as lesson
from ctkd_lessons.course.exercises.description import (
    Answer,
    Case,
    Exercise,
    Mistake,
    Observation,
    Property,
    observe_value,
)

MAPPED = Mistake("mapped", "the mapped features, not the map", "Return W itself: it should fit new examples, too.")
CENTRED = Mistake(
    "centred",
    "computed from centred features",
    "A mean is not part of this formula: whoever calls the function has centred, or wants no centring.",
)


def observe_arrays(answer: Answer, case: Case) -> Observation:
    """Call a NumPy answer with the case's values in order; observe the value, and the arrays as the call left them."""
    with np.errstate(all="ignore"):  # what comes of it shows in the value
        value = answer(*case.values())
    return observe_value(value) | afterwards(case)


def afterwards(case: Case) -> Observation:
    """Return every array of a case as a call left it."""
    return {f"`{name}` afterwards": value for name, value in case.items() if isinstance(value, np.ndarray)}


# --- extract_features -------------------------------------------------------------------------


def _feature_inputs(rng: np.random.Generator) -> list[Case]:
    def case(examples: int, width: int, others: int, components: int) -> Case:
        # Columns of different size that go together; the other examples lie elsewhere and vary more.
        mixing, offset = rng.normal(0, 1, (width, width)) * np.arange(1, width + 1), rng.normal(0, 3, width)
        x, other = rng.normal(0, 1, (examples, width)), rng.normal(1, 2, (others, width))
        return {"x": x @ mixing + offset, "other": other @ mixing + offset, "components": components}

    return [case(8, 4, 6, 2), case(12, 3, 5, 3), case(20, 6, 7, 4), case(6, 2, 4, 1), case(9, 5, 8, 5)]


def _extract(x: NDArray, components: int) -> tuple[NDArray, Callable[[NDArray], NDArray]]:
    features, whitening = lesson.extract_features(x, components)
    return features, whitening.apply


def _observe_features(answer: Answer, case: Case) -> Observation:
    """Observe the features of ``x`` and of other examples, each direction turned so that its sign plays no part."""
    x = case["x"].copy()  # the answer may change the other one
    with np.errstate(all="ignore"):
        made = answer(case["x"], case["components"])
        if not isinstance(made, (tuple, list)) or [callable(one) for one in made] != [False, True]:
            return {"type": _kind(made)}
        features, apply = made
        others, again = apply(case["other"]), apply(x)
    kinds = {"type": _kind(made), "type of what `apply` returns": _name(others)}
    if not isinstance(features, np.ndarray) or not isinstance(others, np.ndarray):
        return kinds
    same = np.shape(again) == features.shape and np.allclose(again, features, equal_nan=True)
    values = {"value": _turned(features), "result of `apply` to other examples": _turned(others)}
    return kinds | values | {"result of `apply` to `x`": _SAME if same else "something else"} | afterwards(case)


_SAME = "the features"


def _turned(features: NDArray) -> NDArray:
    """Turn each direction so that a weighted sum over the examples is positive."""
    if features.ndim != 2:
        return features
    return features * np.where(np.cos(np.arange(len(features))) @ features < 0, -1.0, 1.0)


def _kind(made: object) -> str:
    """Say what was returned: "pair (numpy.ndarray, function)"."""
    if not isinstance(made, (tuple, list)):
        return _name(made)
    word = "pair" if len(made) == 2 else f"{type(made).__name__} of {len(made)}"
    return f"{word} ({', '.join(map(_name, made[:4]))}{', …' if len(made) > 4 else ''})"


def _name(value: object) -> str:
    return "function" if callable(value) else observe_value(value)["type"]


def _wrong_features(
    x: NDArray,
    components: int,
    *,
    not_centred: bool = False,
    one_mean: bool = False,
    rows_centred: bool = False,
    standardised: bool = False,
    ascending: bool = False,
    turned_round: bool = False,
    vt_transposed: bool = False,
    eigenvector_rows: bool = False,
    one_scale: bool = False,
    not_whitened: bool = False,
    singular: bool = False,
    biased: bool = False,
    variance: bool = False,
    multiplied: bool = False,
    zca: bool = False,
    no_rotation: bool = False,
    mean_forgotten: bool = False,
    own_mean: bool = False,
    own_scale: bool = False,
    own_statistics: bool = False,
    scale_forgotten: bool = False,
) -> tuple[NDArray, Callable[[NDArray], NDArray]]:
    switches = {name: value for name, value in locals().items() if value is True}

    def centre(rows: NDArray, mean: NDArray) -> NDArray:
        return rows - (rows.mean(1, keepdims=True) if rows_centred else mean)

    mean = np.zeros(x.shape[1]) if not_centred else np.broadcast_to(x.mean(), x.shape[1]) if one_mean else x.mean(0)
    widths = x.std(0, ddof=0 if biased else 1) if standardised or no_rotation else np.ones(x.shape[1])
    scales, directions = np.linalg.svd(centre(x, mean) / widths)[1:]
    order = slice(None, None, -1 if ascending else 1)
    scales, directions = scales[order], directions[order] if vt_transposed else directions[order].T
    if eigenvector_rows:
        directions = np.linalg.eigh(np.cov(x, rowvar=False))[1][:, ::-1].T
    scales = scales / (1.0 if singular else np.sqrt(len(x) - (0 if biased else 1)))
    if one_scale:
        projected = (centre(x, mean) @ directions)[:, :components]
        scales = np.full_like(scales, projected.std(ddof=0 if biased else 1))
    factors = np.ones_like(scales) if not_whitened else scales if multiplied else scales ** -(2.0 if variance else 1.0)
    matrix = np.eye(len(scales)) if no_rotation else directions * factors
    matrix = ((matrix @ directions.T) if zca else matrix)[:, :components]
    matrix = matrix[:, ::-1] if turned_round else matrix

    def apply(new: NDArray) -> NDArray:
        if own_statistics:
            rest = {name: True for name in switches if name != "own_statistics"}
            return _wrong_features(new, components, **rest)[0]
        start = 0 * mean if mean_forgotten else new.mean(0) if own_mean else mean
        # Forgotten is the centring as a whole, or the scaling.
        moved = (new if mean_forgotten else centre(new, start)) / widths
        if scale_forgotten:
            return moved @ (directions[:, :components])
        projected = moved @ matrix
        return projected / projected.std(0, ddof=1) if own_scale else projected

    return centre(x, mean) / widths @ matrix, apply


EXTRACT_FEATURES = Exercise(
    id="04.extract_features",
    title="Extract features: centre, rotate, whiten",
    points=3,
    reference=_extract,
    inputs=_feature_inputs,
    drive=_observe_features,
    wrong=_wrong_features,
    mistakes=(
        Mistake(
            "own_statistics",
            "right for `x`, but `apply` finds the mean, directions and scales anew from the examples it is given",
            "Then no two sets of examples share a feature space. All three come from `x`; `apply` only uses them.",
        ),
        Mistake(
            "own_mean",
            "right for `x`, but `apply` subtracts the mean of the examples it is given",
            "How would it treat a single new example? The mean of `x` belongs to the features.",
        ),
        Mistake(
            "own_scale",
            "right for `x`, but `apply` scales by the deviations of the examples it is given",
            "New examples may vary more or less than `x`, and the features should show it. Keep the scales of `x`.",
        ),
        Mistake(
            "mean_forgotten",
            "right for `x`, but `apply` forgets the mean",
            "What was subtracted from `x` is subtracted from new examples, too.",
        ),
        Mistake(
            "scale_forgotten",
            "right for `x`, but `apply` forgets the scales",
            "The features of `x` have variance 1. What brought them there?",
        ),
        Mistake(
            "not_centred",
            "computed without centring",
            "The first direction then points at the mean instead of along the largest variance.",
        ),
        Mistake(
            "one_mean",
            "centred with one mean of all numbers",
            "Each column has a mean of its own: which axis do the examples lie along?",
        ),
        Mistake(
            "rows_centred",
            "centred row by row",
            "The mean of a *column* runs over the examples. Which axis goes away?",
        ),
        Mistake(
            "not_whitened",
            "rotated but not whitened",
            "The columns are uncorrelated, but their variances differ. Divide each by something.",
        ),
        Mistake(
            "singular",
            "divided by the singular values themselves: each column has length 1, not variance 1",
            "The variance is the sum of squares divided by n − 1. How is a singular value related to a deviation?",
        ),
        Mistake(
            "biased",
            "scaled to variance one with n, not n − 1",
            "Here the variance is the sum of squares divided by n − 1. NumPy's `std` and `var` need `ddof=1` for that.",
        ),
        Mistake(
            "variance",
            "divided by the variances",
            "To bring a column to variance 1, divide it by its standard deviation. The eigenvalues of the covariance "
            "are variances.",
        ),
        Mistake("multiplied", "multiplied by the deviations", "To bring a deviation s to 1, divide by s."),
        Mistake(
            "ascending",
            "made of the directions of least variance",
            "`np.linalg.eigh` sorts from small to large. Which end do you want?",
        ),
        Mistake(
            "turned_round",
            "made of the right directions, but the one of largest variance comes last",
            "`np.linalg.eigh` sorts from small to large. Turn its columns round, and its eigenvalues.",
        ),
        Mistake(
            "eigenvector_rows",
            "made of the rows of what `np.linalg.eigh` returns",
            "Its eigenvectors are the *columns*. (It is `np.linalg.svd` that returns directions in rows.)",
        ),
        Mistake(
            "one_scale",
            "divided by one deviation of all numbers",
            "Each direction has a deviation of its own: which axis do the examples lie along?",
        ),
        Mistake(
            "vt_transposed",
            "made of the columns of what `np.linalg.svd` returns last",
            "`svd` returns Vᵀ: its *rows* are the directions.",
        ),
        Mistake(
            "zca",
            "whitened and then rotated back (ZCA)",
            "That is white, too, but its first columns are not the principal components. Leave out the last rotation.",
        ),
        Mistake(
            "no_rotation",
            "the first columns, each scaled to variance one",
            "They are still correlated, and nothing chose them. First rotate to the directions of largest variance.",
        ),
        Mistake(
            "standardised",
            "computed from columns that were scaled to variance one before the rotation",
            "That finds other directions (PCA of the correlations). Only centre; scale after the rotation.",
        ),
    ),
    properties=(
        Property(
            "copes with a pixel that never changes",
            lambda answer: bool(np.allclose(np.cov(answer(_WITH_CONSTANT_PIXEL, 2)[0].T), np.eye(2))),
        ),
    ),
    sizes=lambda case: {"the number of examples": len(case["x"]), "√(n − 1)": np.sqrt(len(case["x"]) - 1)},
    alone=frozenset(
        {
            "own_statistics",
            "multiplied",
            "zca",
            "no_rotation",
            "scale_forgotten",
            "rows_centred",
            "turned_round",
            "eigenvector_rows",
            "one_scale",
        }
    ),
)
_WITH_CONSTANT_PIXEL = np.array([[1.0, 5, 0], [2, 5, 1], [4, 5, 0], [0, 5, 3], [3, 5, 2]])


# --- fit_transfer_map -------------------------------------------------------------------------


def _map_inputs(rng: np.random.Generator) -> list[Case]:
    def case(examples: int, source: int, target: int, ridge: float) -> Case:
        s = rng.normal(0.5, 1, (examples, source))
        noise = rng.normal(2, 1, (examples, target))
        return {"source": s, "target": s @ rng.normal(0, 1, (source, target)) + noise, "ridge": ridge}

    # Equal widths first: there even a transposed map has the right shape.
    return [case(9, 3, 3, 2.0), case(7, 4, 2, 0.5), case(15, 2, 5, 5.0), case(12, 6, 6, 0.0), case(6, 1, 2, 0.1)]


def _wrong_map(
    source: NDArray,
    target: NDArray,
    ridge: float,
    *,
    own_features: bool = False,
    swapped: bool = False,
    transposed: bool = False,
    no_ridge: bool = False,
    ridge_everywhere: bool = False,
    ridge_n: bool = False,
    ridge_per_example: bool = False,
    ridge_rooted: bool = False,
    ridge_squared: bool = False,
    ridge_doubled: bool = False,
    ridge_negative: bool = False,
    gram_scaled: bool = False,
    target_gram: bool = False,
    centred: bool = False,
    intercept_first: bool = False,
    intercept_last: bool = False,
    intercept_dropped: bool = False,
    no_inverse: bool = False,
    mapped: bool = False,
) -> NDArray:
    s, t = (target, target) if own_features else (target, source) if swapped else (source, target)
    if centred:
        s, t = s - s.mean(0), t - t.mean(0)
    ones = np.ones((len(s), 1))
    if intercept_first:
        s = np.hstack([ones, s])
    elif intercept_last or intercept_dropped:
        s = np.hstack([s, ones])
    penalty = ridge**0.5 if ridge_rooted else ridge**2 if ridge_squared else 2 * ridge if ridge_doubled else ridge
    penalty *= len(s) if ridge_n else 1 / len(s) if ridge_per_example else -1 if ridge_negative else 1
    before = t if target_gram else s
    gram = before.T @ before + (0 if no_ridge else penalty) * (1.0 if ridge_everywhere else np.eye(before.shape[1]))
    gram = gram / len(s) if gram_scaled else gram
    w = s.T @ t if no_inverse else np.linalg.solve(gram, s.T @ t)
    w = w[:-1] if intercept_dropped else w
    return s @ w if mapped else w.T if transposed else w


FIT_TRANSFER_MAP = Exercise(
    id="04.fit_transfer_map",
    title="The map between two feature spaces",
    points=2,
    reference=lesson.fit_transfer_map,
    inputs=_map_inputs,
    drive=observe_arrays,
    wrong=_wrong_map,
    mistakes=(
        Mistake(
            "own_features",
            "a map from the target's features to themselves",
            "A common slip in published code: the source plays no part, and nothing is transferred. What enters the "
            "map, and what should come out?",
        ),
        Mistake(
            "swapped",
            "the map from target to source",
            "W stands behind S: its rows meet the source's columns. Which of the two is predicted?",
        ),
        Mistake(
            "transposed",
            "the right map, transposed",
            "Examples lie in rows, so the map is applied as S·W, not as W·s. W has shape (D_s, D_t).",
        ),
        Mistake(
            "no_ridge",
            "the plain least-squares map: the penalty is missing",
            "`ridge` keeps W small where the data say little. Where does it enter the normal equations?",
        ),
        Mistake(
            "ridge_everywhere",
            "computed with `ridge` added to every entry of SᵀS",
            "‖W‖² adds to the diagonal only: which matrix is ridge on the diagonal and 0 elsewhere?",
        ),
        Mistake(
            "ridge_n",
            "computed with n times the penalty",
            "The error is a *sum* over the examples, so the penalty is not multiplied by their number.",
        ),
        Mistake(
            "ridge_per_example",
            "computed with an n-th of the penalty",
            "The penalty counts once for all examples together, as the formula says.",
        ),
        Mistake(
            "ridge_rooted",
            "computed with the root of the penalty",
            "The root belongs to the rows one may add *below S*, whose squares enter. In SᵀS it is `ridge` itself.",
        ),
        Mistake(
            "ridge_squared",
            "computed with the square of the penalty",
            "Rows added below S enter SᵀS as squares. What must stand in them so that `ridge` comes out?",
        ),
        Mistake(
            "ridge_doubled",
            "computed with twice the penalty",
            "Both squares give a factor 2 when differentiated, and it cancels.",
        ),
        Mistake(
            "ridge_negative",
            "computed with the penalty subtracted",
            "The penalty makes SᵀS easier to invert, so it can't shrink the diagonal.",
        ),
        Mistake(
            "gram_scaled",
            "computed with SᵀS divided by n, but not SᵀT",
            "Both sides of the normal equations are sums over the examples, or both are means.",
        ),
        Mistake(
            "target_gram",
            "computed with TᵀT where SᵀS belongs",
            "What is inverted has as many rows as the source has columns.",
        ),
        CENTRED,
        Mistake(
            "intercept_first",
            "a map with an intercept as its first row",
            "The formula has none: W has as many rows as the source has columns. Leave out the column of ones.",
        ),
        Mistake(
            "intercept_last",
            "a map with an intercept as its last row",
            "The formula has no column of ones: W has as many rows as the source has columns.",
        ),
        Mistake(
            "intercept_dropped",
            "fitted with a column of ones whose row was dropped afterwards",
            "The other rows changed when the ones were there. Fit without them.",
        ),
        Mistake(
            "no_inverse",
            "SᵀT alone",
            "The source's features overlap. What must SᵀT be multiplied by to solve the normal equations?",
        ),
        MAPPED,
    ),
    properties=(
        Property(
            "also works with more features than examples",
            lambda answer: bool(np.allclose(answer(np.ones((1, 3)), np.ones((1, 2)), 1.0), 0.25)),
        ),
    ),
    sizes=lambda case: {"the number of examples": len(case["source"])},
    alone=frozenset(
        {
            "ridge_rooted",
            "ridge_squared",
            "ridge_doubled",
            "ridge_negative",
            "gram_scaled",
            "target_gram",
            "intercept_first",
            "intercept_last",
            "intercept_dropped",
            "no_inverse",
        }
    ),
)


# --- procrustes -------------------------------------------------------------------------------


def _turn_inputs(rng: np.random.Generator) -> list[Case]:
    def case(examples: int, width: int, mirrored: bool) -> Case:
        turn = np.linalg.qr(rng.normal(0, 1, (width, width)))[0]
        turn[:, 0] *= np.linalg.det(turn) * (-1 if mirrored else 1)
        # Columns of different size: there least squares and the turn differ in more than rounding.
        source = rng.normal(0.5, 1, (examples, width)) * rng.uniform(0.5, 2, width)
        return {"source": source, "target": 2 * source @ turn + rng.normal(0.3, 0.7, (examples, width))}

    return [case(9, 3, False), case(12, 4, True), case(7, 2, True), case(20, 6, False), case(5, 1, True)]


def _wrong_turn(
    source: NDArray,
    target: NDArray,
    *,
    swapped: bool = False,
    v_for_vt: bool = False,
    order_turned: bool = False,
    u_transposed: bool = False,
    axes_matched: bool = False,
    qr: bool = False,
    qr_of_fit: bool = False,
    with_scales: bool = False,
    rotation_only: bool = False,
    scaled: bool = False,
    centred: bool = False,
    lengths_equal: bool = False,
    least_squares: bool = False,
    polar: bool = False,
    no_rotation: bool = False,
    mapped: bool = False,
) -> NDArray:
    s, t = (target, source) if swapped else (source, target)
    if centred:
        s, t = s - s.mean(0), t - t.mean(0)
    if lengths_equal:
        s, t = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (s, t))
    cross = s.T @ t
    fitted = np.linalg.lstsq(s, t)[0]
    u, sizes, vt = np.linalg.svd(fitted if polar else cross)
    if rotation_only:
        u[:, -1] *= np.sign(np.linalg.det(u @ vt))
    w = u @ vt.T if v_for_vt else vt @ u if order_turned else (u * sizes if with_scales else u) @ vt
    if scaled:
        w = w * (sizes.sum() / (s * s).sum())
    w = u.T @ vt if u_transposed else w
    if axes_matched:
        axes_s, axes_t = (np.linalg.svd(one, full_matrices=False)[2] for one in (s, t))
        w = axes_s.T @ axes_t
    w = np.linalg.qr(fitted if qr_of_fit else cross)[0] if qr or qr_of_fit else w
    w = fitted if least_squares else np.eye(len(w)) if no_rotation else w
    return s @ w if mapped else w


PROCRUSTES = Exercise(
    id="04.procrustes",
    title="Turn one feature space onto another",
    points=2,
    reference=lesson.procrustes,
    inputs=_turn_inputs,
    drive=observe_arrays,
    wrong=_wrong_turn,
    mistakes=(
        Mistake(
            "swapped",
            "the turn from target to source, which is the transpose of the right one",
            "Of which product do you take the SVD, SᵀT or TᵀS? Or do U and V stand in the wrong order?",
        ),
        Mistake(
            "v_for_vt",
            "computed with V where Vᵀ belongs",
            "The last thing `np.linalg.svd` returns is Vᵀ already.",
        ),
        Mistake(
            "order_turned",
            "Vᵀ·U instead of U·Vᵀ",
            "The result is orthogonal, but turns something else. Source stands on the left of SᵀT, and so does its U.",
        ),
        Mistake(
            "u_transposed",
            "Uᵀ·Vᵀ instead of U·Vᵀ",
            "`np.linalg.svd` returns U itself and Vᵀ: neither needs to be transposed.",
        ),
        Mistake(
            "with_scales",
            "SᵀT itself, put together again",
            "What makes the result orthogonal? The singular values are the only part that stretches.",
        ),
        Mistake(
            "rotation_only",
            "the best rotation, without reflections",
            "That is Kabsch's problem. Here W may be any orthogonal matrix: its determinant may be −1.",
        ),
        Mistake(
            "scaled",
            "the right turn times the best scale",
            "Procrustes in the wider sense also stretches. Here lengths stay as they are.",
        ),
        CENTRED,
        Mistake(
            "lengths_equal",
            "computed from examples of length one",
            "The formula takes the features as they are: a long example counts more than a short one.",
        ),
        Mistake(
            "least_squares",
            "the least-squares map, which is not orthogonal",
            "WᵀW should be the identity. Which factors of the SVD of SᵀT are orthogonal?",
        ),
        Mistake(
            "polar",
            "the orthogonal matrix nearest to the least-squares map",
            "Near in the entries of W is not near in S·W: directions in which S is large should count more. Start "
            "from SᵀT.",
        ),
        Mistake(
            "qr",
            "orthogonalised by QR",
            "That keeps the first column's direction and bends the rest. The SVD treats all directions alike.",
        ),
        Mistake(
            "qr_of_fit",
            "the least-squares map, orthogonalised by QR",
            "Orthogonalising afterwards does not give the best orthogonal map. Start from the SVD of SᵀT.",
        ),
        Mistake(
            "axes_matched",
            "the turn that brings the principal directions of S onto those of T",
            "It never looks at which row of S belongs to which row of T. SᵀT does.",
        ),
        Mistake(
            "no_rotation",
            "the identity whatever is given",
            "Is it the SVD of SᵀT that you take, and are U and Vᵀ those of the same SVD?",
        ),
        MAPPED,
    ),
    properties=(
        Property(
            "is the identity when source and target are the same",
            lambda answer: bool(np.allclose(answer(_FEW_ROWS, _FEW_ROWS), np.eye(2))),
        ),
    ),
    sizes=lambda case: {"the number of examples": len(case["source"])},
    alone=frozenset(
        {
            "scaled",
            "least_squares",
            "polar",
            "no_rotation",
            "order_turned",
            "u_transposed",
            "qr",
            "qr_of_fit",
            "axes_matched",
        }
    ),
)
_FEW_ROWS = np.array([[1.0, 2.0], [0.0, 1.0], [3.0, -1.0]])
