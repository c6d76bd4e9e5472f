"""Distribution shift: how far two samples are apart, and what weights can repair.

Sources: Gretton et al. 2012, "A Kernel Two-Sample Test" (MMD); Ben-David et al. 2007, "Analysis of
Representations for Domain Adaptation" (proxy A-distance); Bickel, Brückner & Scheffer 2009,
"Discriminative Learning Under Covariate Shift" (weights from a domain classifier); Kish 1965, "Survey
Sampling" (effective sample size).

=======  ===========  ==============================================================================
symbol   argument     shape, meaning
=======  ===========  ==============================================================================
x        x, source    (n, D) sample of one distribution, P
y        y, target    (m, D) sample of the other, Q
γ        gammas       numbers > 0, one over a squared length: how local the comparison is
p        p_source     (n,) P(source | x_i) by a domain classifier that did not train on x_i
w        weights      (n,) estimate of Q(x_i) / P(x_i), mean 1
ε        error        the domain classifier's error on data it did not train on, ½ is chance
=======  ===========  ==============================================================================
"""

from collections.abc import Sequence
from numbers import Real

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import Tensor

from ctkd_lessons import expect
from ctkd_lessons.threads import one_thread
from ctkd_lessons.vectors import at_least_float32


@one_thread()  # samples of some hundred points; on a busy machine a hundred times as quick
def mmd(x: Tensor, y: Tensor, gammas: Sequence[float], unbiased: bool = False) -> Tensor:
    """Estimate the squared maximum mean discrepancy of two samples: 0 for equal distributions.

    MMD² = mean k(x, x') + mean k(y, y') − 2 mean k(x, y), k(a, b) = Σ_γ exp(−γ ‖a − b‖²).

    The V-statistic (default) counts each point's kernel with itself: it is ≥ 0 and too large, by at most
    (1/n + 1/m) · number of gammas. ``unbiased`` leaves those out; then it averages to 0 for equal
    distributions and can be negative.

    ``x``: (n, D), ``y``: (m, D), same dtype; ``unbiased`` needs n, m ≥ 2; ``gammas``: at least one
    number > 0. Returns a scalar. Raises ``ValueError``/``TypeError`` for anything else.
    Source: Gretton et al. 2012, equations 3 (unbiased) and 5.
    """
    _expect_samples("x", x, "y", y, least=2 if unbiased else 1)
    if isinstance(gammas, (Real, str)) or not isinstance(gammas, Sequence) or not len(gammas):
        raise TypeError(f"gammas: expected a list of at least one number, got {gammas!r}")
    for gamma in gammas:
        expect.number("gammas", gamma, above=0)
    wide = at_least_float32(x), at_least_float32(y)
    within = [_kernel(sample, sample, gammas) for sample in wide]
    if unbiased:
        means = [(block.sum() - block.diagonal().sum()) / (len(block) * (len(block) - 1)) for block in within]
    else:
        means = [block.mean() for block in within]
    return (sum(means) - 2 * _kernel(*wide, gammas).mean()).to(x.dtype)


def median_gamma(x: Tensor, y: Tensor) -> float:
    """Return 1 / (median of ‖a − b‖² over all pairs of different points): the usual choice of γ.

    ``x``: (n, D), ``y``: (m, D). Raises ``ValueError``/``TypeError`` for other shapes, and when the
    median is zero because most points are equal. Source: Gretton et al. 2012, section 8, but for a factor.
    """
    _expect_samples("x", x, "y", y, least=1)
    median = float(torch.pdist(torch.cat([x, y]).detach().double()).square().median())
    if not median > 0:
        raise ValueError("x, y: expected points that differ, got a median distance of zero, so no bandwidth follows")
    return 1 / median


def density_ratio(p_source: Tensor) -> Tensor:
    """Turn a domain classifier's probabilities on source points into importance weights.

    w = (1 − p) / p, divided by its mean.

    By Bayes' rule (1 − p) / p is Q(x) / P(x) but for a constant factor, which the division removes.

    ``p_source``: (n,), above 0, at most 1. Returns (n,), mean 1. Raises ``ValueError``/``TypeError``
    for anything else, and where all weights are zero. Source: Bickel et al. 2009, section 3.
    """
    _expect_vector("p_source", p_source)
    within = (p_source > 0) & (p_source <= 1)
    expect.true(within, "p_source: expected probabilities above 0 and at most 1, got others")
    p = at_least_float32(p_source)
    ratio = (1 - p) * (p.amin() / p)  # 1 / p could leave the range of floats
    total = ratio.mean()
    expect.true(
        total > 0, "p_source: expected a point that could be of the target, got 1 everywhere: no weight is left"
    )
    return (ratio / total).to(p_source.dtype)


def effective_sample_size(weights: Tensor) -> Tensor:
    """Say how many equally weighted examples average as steadily as these weighted ones.

    n_eff = (Σ w)² / Σ w²: n for equal weights, 1 where one example has all the weight.

    ``weights``: (n,), ≥ 0, not all zero; their scale does not matter. Returns a scalar. Raises
    ``ValueError``/``TypeError`` for anything else. Source: Kish 1965.
    """
    _expect_vector("weights", weights)
    expect.true(weights >= 0, "weights: expected no weight below zero, got some")
    wide = at_least_float32(weights)
    largest = wide.amax()
    expect.true(largest > 0, "weights: expected at least one weight above zero, got zeros")
    scaled = wide / largest  # squares of very large or small weights would leave the range of floats
    return (scaled.sum().square() / scaled.square().sum()).to(weights.dtype)


def proxy_a_distance(error: float | Tensor) -> float | Tensor:
    """Turn a domain classifier's held-out error into a distance of domains.

    d = 2 (1 − 2 ε): 2 where the domains can be told apart without error, 0 at chance. An error above
    ½, which chance brings, makes it negative.

    ``error``: a number or a floating tensor of any shape, each in [0, 1]. Returns the same kind. Raises
    ``ValueError``/``TypeError`` for anything else. Source: Ben-David et al. 2007, section 4.
    """
    if isinstance(error, Tensor):
        expect.logits("error", error.reshape(-1))
        expect.true((error >= 0) & (error <= 1), "error: expected values of 0 to 1, got others")
    else:
        expect.number("error", error, low=0, high=1)
    return 2 * (1 - 2 * error)


def domain_probabilities(
    source: Tensor, target: Tensor, *, penalty: float = 1.0, folds: int = 5, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Let a logistic regression tell the domains apart; each point is judged by one that never saw it.

    The domains count alike, however many points each has, so that ½ is chance.

    ``source``: (n, D), ``target``: (m, D), same dtype, each at least ``folds`` points; ``penalty`` > 0:
    a larger one draws the answers towards ½ and the weights towards 1. Returns P(source | x) for the
    source (n,) and for the target (m,), within 1e-6 of 0 and 1 at most. Raises
    ``ValueError``/``TypeError`` for anything else.
    """
    expect.count("folds", folds, low=2)
    _expect_samples("source", source, "target", target, least=folds)
    expect.number("penalty", penalty, above=0)
    points = at_least_float32(torch.cat([source, target])).numpy(force=True)
    is_source = torch.arange(len(points)) < len(source)
    classifier = LogisticRegression(C=1 / penalty, class_weight="balanced", max_iter=1000)
    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    with threadpool_limits(1):  # products this small are not worth sharing out, least of all on a busy machine
        found = cross_val_predict(
            make_pipeline(StandardScaler(), classifier), points, is_source.numpy(), cv=split, method="predict_proba"
        )
    found = torch.from_numpy(found[:, 1]).clamp(1e-6, 1 - 1e-6).to(source)
    return found[: len(source)], found[len(source) :]


def domain_error(p_of_source: Tensor, p_of_target: Tensor) -> float:
    """Return a domain classifier's error, both domains counted alike: ½ is chance.

    ``p_of_source``: (n,), ``p_of_target``: (m,): P(source | x) of points it did not train on.
    Raises ``ValueError``/``TypeError`` for anything else.
    """
    _expect_vector("p_of_source", p_of_source)
    _expect_vector("p_of_target", p_of_target)
    missed, mistaken = (p_of_source < 0.5).double().mean(), (p_of_target >= 0.5).double().mean()
    return float(missed + mistaken) / 2


def _kernel(a: Tensor, b: Tensor, gammas: Sequence[float]) -> Tensor:
    """Return Σ_γ exp(−γ ‖a_i − b_j‖²), (n, m)."""
    middle = (a.mean(dim=0) + b.mean(dim=0)).detach() / 2  # the distances stay; far from 0 squares would lose digits
    a, b = a - middle, b - middle
    distances = (a.square().sum(dim=1).unsqueeze(1) + b.square().sum(dim=1) - 2 * a @ b.T).clamp(min=0)
    return torch.stack([(-gamma * distances).exp() for gamma in gammas]).sum(dim=0)


def _expect_samples(name: str, value: Tensor, other_name: str, other: Tensor, *, least: int) -> None:
    """Raise unless both are samples (n, D) and (m, D) of one dtype, with at least ``least`` points each."""
    for one, sample in {name: value, other_name: other}.items():
        expect.features(one, sample, ndim=2, low_batch=least)
    if value.shape[1] != other.shape[1]:
        raise ValueError(f"{other_name}: expected the {value.shape[1]} columns of {name}, got {other.shape[1]}")
    if value.dtype != other.dtype:
        raise TypeError(f"{other_name}: expected the dtype of {name}, {value.dtype}, got {other.dtype}")


def _expect_vector(name: str, value: Tensor) -> None:
    expect.logits(name, value)
    if value.ndim != 1:
        raise ValueError(f"{name}: expected one number per example, (n,), got shape {tuple(value.shape)}")
