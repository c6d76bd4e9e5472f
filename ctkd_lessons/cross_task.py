"""Across tasks: extract features, map them from one task to another, match relations, fuse models.

Sources: Kessy, Lewin & Strimmer 2018, "Optimal Whitening and Decorrelation" (PCA whitening);
Hoerl & Kennard 1970, "Ridge Regression"; Schönemann 1966, "A Generalized Solution of the Orthogonal
Procrustes Problem"; Breiman 1996, "Stacked Regressions"; Ye, Lu & Zhan 2020, "Distilling Cross-Task
Knowledge via Relationship Matching", section 4.1 (REFILLED, stage 1).

======  ======================  ===========================================================
symbol  argument                shape, meaning
======  ======================  ===========================================================
X       x                       (n, D) examples in rows
S, T    source, target          (n, D_s), (n, D_t) two views of the same examples
W       (result)                (D_s, D_t) the map from one to the other
y_m     predictions             (M, n, …) what M models say
e       …_embeddings            (B, D) one vector per example; the two widths may differ
a, p, n anchor, …               (M,) row numbers: anchor, one other example, another one
τ       temperature             float > 0
======  ======================  ===========================================================

The first half is plain NumPy, the last function PyTorch. The teacher never receives gradient.

Where this departs from the papers: REFILLED picks triplets by their labels; here the caller does.
Where released code departs from the paper, this does not: one branch of it halves the loss.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import nnls
from torch import Tensor

from ctkd_lessons import expect
from ctkd_lessons.vectors import at_least_float32, length, unit


@dataclass(frozen=True)
class Whitening:
    """What ``extract_features`` learned: ``mean`` (D,) and ``directions`` (D, components)."""

    mean: NDArray
    directions: NDArray

    def apply(self, x: ArrayLike) -> NDArray:
        """Return the features of further examples: (m, D) → (m, components), with the old mean and scale."""
        x = _matrix("x", x)
        if x.shape[1] != len(self.mean):
            raise ValueError(f"x: expected {len(self.mean)} columns, got shape {x.shape}")
        return (x - self.mean) @ self.directions


def extract_features(x: ArrayLike, components: int) -> tuple[NDArray, Whitening]:
    """Centre, rotate to the principal components, and scale each to variance one (PCA whitening).

    features = (X − mean) V / s · √(n − 1), with X − mean = U diag(s) Vᵀ. Their covariance (n − 1) is
    the identity. Each direction's largest entry is positive, which settles its sign.

    ``x``: (n, D), n ≥ 2; ``components``: 1 … D. Returns features (n, components) and the
    ``Whitening`` that applies to new data. Raises ``ValueError``/``TypeError`` if these do not fit,
    and where the covariance has fewer directions of any variance than ``components``.
    Source: Kessy et al. 2018, section 3 (PCA whitening).
    """
    x = _matrix("x", x, low=2)
    expect.count("components", components, high=x.shape[1])
    mean = x[0] + (x - x[0]).mean(axis=0)  # exact for a column that never varies
    scales, directions = np.linalg.svd(x - mean, full_matrices=False)[1:]
    # What rounding leaves of a direction without variance must not be blown up to variance one.
    rounding = max(scales.max(), np.linalg.norm(mean)) * max(x.shape) * np.finfo(x.dtype).eps
    rank = int((scales > rounding).sum())
    if components > rank:
        raise ValueError(f"components: expected at most {rank}, the rank of the covariance of x, got {components}")
    largest = np.take_along_axis(directions, np.abs(directions).argmax(axis=1, keepdims=True), axis=1)
    directions = (directions * np.sign(largest))[:components].T
    whitening = Whitening(mean, directions / scales[:components] * math.sqrt(len(x) - 1))
    return whitening.apply(x), whitening


def fit_transfer_map(source: ArrayLike, target: ArrayLike, ridge: float = 1e-3) -> NDArray:
    """Find the linear map from source to target features, with a penalty on its size.

    W = argmin ‖S W − T‖²_F + ridge ‖W‖²_F = (SᵀS + ridge I)⁻¹ Sᵀ T. With ``ridge=0`` and several
    solutions, the smallest W.

    ``source``: (n, D_s), ``target``: (n, D_t), the same examples in the same order; ``ridge`` ≥ 0.
    Returns (D_s, D_t). There is no intercept: centre first. Raises ``ValueError``/``TypeError`` if
    these do not fit. Source: Hoerl & Kennard 1970, equation 2.1.
    """
    source, target = _views(source, target)
    expect.number("ridge", ridge, low=0)
    # ‖S W − T‖² + ridge ‖W‖² is one least-squares problem with √ridge · I below S; squaring S loses digits.
    width = source.shape[1]
    below = math.sqrt(ridge) * np.eye(width, dtype=source.dtype)
    zeros = np.zeros((width, target.shape[1]), dtype=target.dtype)
    return np.linalg.lstsq(np.vstack([source, below]), np.vstack([target, zeros]))[0]


def procrustes(source: ArrayLike, target: ArrayLike) -> NDArray:
    """Find the rotation (or reflection) that brings source features closest to target features.

    W = argmin ‖S W − T‖_F over W with WᵀW = I; W = U Vᵀ, where SᵀT = U diag(σ) Vᵀ. Lengths and
    angles stay as they are. It is unique where SᵀT has full rank.

    ``source``, ``target``: (n, D), the same examples. Returns (D, D). Raises
    ``ValueError``/``TypeError`` if these do not fit. Source: Schönemann 1966, section 2.
    """
    source, target = _views(source, target)
    if source.shape[1] != target.shape[1]:
        raise ValueError(f"target: expected the {source.shape[1]} columns of source, got {target.shape[1]}")
    u, _, vt = np.linalg.svd(source.T @ target)
    return u @ vt


def fuse(predictions: ArrayLike, weights: Sequence[float] | None = None) -> NDArray:
    """Average what several models say.

    ŷ = Σ_m w_m y_m / Σ_m w_m; without weights, the plain mean.

    ``predictions``: (M, n, …), such as probabilities; ``weights``: (M,), any scale. Returns (n, …).
    Raises ``ValueError``/``TypeError`` if these do not fit and for weights that sum to zero.
    """
    predictions = _finite("predictions", predictions)
    if predictions.ndim < 2 or not predictions.size:
        raise ValueError(f"predictions: expected shape (M, n, …) with no empty axis, got {predictions.shape}")
    weights = np.ones(len(predictions)) if weights is None else _finite("weights", weights)
    if weights.shape != (len(predictions),):
        raise ValueError(f"weights: expected shape ({len(predictions)},), one per model, got {weights.shape}")
    total = weights.sum()
    if abs(total) <= np.finfo(float).eps * len(weights) * np.abs(weights).sum():
        raise ValueError(f"weights: expected a sum other than zero, got {weights.tolist()}")
    return np.tensordot((weights / total).astype(predictions.dtype), predictions, axes=1)


def stacking_weights(predictions: ArrayLike, targets: ArrayLike) -> NDArray:
    """Find how much to trust each model: non-negative least squares on examples no model was trained on.

    w = argmin ‖Σ_m w_m y_m − y‖² over w ≥ 0, then scaled to sum to one, as ``fuse`` does anyway.

    ``predictions``: (M, n, …); ``targets``: (n, …), such as one-hot labels. Returns (M,), float64.
    Raises ``ValueError``/``TypeError`` if these do not fit, and where no model points towards the
    targets at all, so that every weight is zero. Source: Breiman 1996, section 3.
    """
    predictions, targets = _finite("predictions", predictions), _finite("targets", targets)
    if predictions.ndim < 2 or not predictions.size:
        raise ValueError(f"predictions: expected shape (M, n, …) with no empty axis, got {predictions.shape}")
    if targets.shape != predictions.shape[1:]:
        raise ValueError(f"targets: expected shape {predictions.shape[1:]} as in predictions, got {targets.shape}")
    weights = nnls(predictions.reshape(len(predictions), -1).T.astype(float), targets.ravel().astype(float))[0]
    if not weights.any():
        raise ValueError("predictions: expected a model that agrees with the targets, got weights of zero for all")
    return weights / weights.sum()


def relationship_loss(
    student_embeddings: Tensor,
    teacher_embeddings: Tensor,
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    temperature: float = 4.0,
) -> Tensor:
    """Measure how differently student and teacher say which of two examples lies nearer to a third.

    p = σ((d_an − d_ap) / τ), d: Euclidean distances of embeddings of length one;
    L = mean over triplets of KL(Bernoulli p_t ‖ Bernoulli p_s). No classes are compared, so those
    of teacher and student may be disjoint.

    Embeddings: (B, D), same B and dtype, D may differ; ``anchor``, ``positive``, ``negative``: (M,),
    row numbers into the batch, M ≥ 1; ``temperature`` > 0. Returns a scalar ≥ 0, up to rounding; an
    embedding of zero stays zero. Raises ``ValueError``/``TypeError`` if these do not fit.
    Source: Ye et al. 2020, section 4.1.
    """
    for name, embeddings in {
        "student_embeddings": student_embeddings,
        "teacher_embeddings": teacher_embeddings,
    }.items():
        expect.features(name, embeddings, ndim=2)
    expect.same_batch("student_embeddings", student_embeddings, "teacher_embeddings", teacher_embeddings)
    triplets = {"anchor": anchor, "positive": positive, "negative": negative}
    for name, rows in triplets.items():
        expect.rows(name, rows, below=len(student_embeddings))
        if len(rows) != len(anchor):
            raise ValueError(f"{name}: expected {len(anchor)} row numbers as in anchor, got {len(rows)}")
    expect.number("temperature", temperature, above=0)
    s = _nearness(student_embeddings, anchor, positive, negative) / temperature
    t = _nearness(teacher_embeddings.detach(), anchor, positive, negative) / temperature
    # log σ(z) and log(1 − σ(z)) = log σ(−z): nothing is lost where p is near 0 or 1.
    kl = t.sigmoid() * (F.logsigmoid(t) - F.logsigmoid(s)) + (-t).sigmoid() * (F.logsigmoid(-t) - F.logsigmoid(-s))
    return kl.mean().to(student_embeddings.dtype)


def _nearness(embeddings: Tensor, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Return d_an − d_ap on the unit sphere: (M,), positive where ``positive`` is the nearer one."""
    e = unit(at_least_float32(embeddings))
    a, p, n = (e.index_select(0, rows) for rows in (anchor, positive, negative))
    return length(a - n) - length(a - p)


def _finite(name: str, value: ArrayLike) -> NDArray:
    """Return a finite floating array; integers become float64."""
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name}: expected an array, got rows of different lengths") from error
    if array.dtype.kind not in "iufb":
        raise TypeError(f"{name}: expected numbers, got {array.dtype}")
    array = array if array.dtype.kind == "f" else array.astype(float)
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite values, got nan or inf")
    return array


def _matrix(name: str, value: ArrayLike, low: int = 1) -> NDArray:
    array = _finite(name, value)
    if array.ndim != 2 or len(array) < low or not array.shape[1]:
        raise ValueError(f"{name}: expected shape (n, D), n ≥ {low} and D ≥ 1, got {array.shape}")
    return array.astype(np.promote_types(array.dtype, np.float32), copy=False)  # LAPACK knows no float16


def _views(source: ArrayLike, target: ArrayLike) -> tuple[NDArray, NDArray]:
    source, target = _matrix("source", source), _matrix("target", target)
    if len(source) != len(target):
        raise ValueError(f"target: expected the {len(source)} examples of source, got {len(target)}")
    return source, target
