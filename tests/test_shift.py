"""The reference implementations of lesson 08 against slow loops, Bayes by hand, scikit-learn, NumPy and chance."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import EVERY_DTYPE, SEEDS, normal
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler
from torch.func import grad, vmap

from ctkd_lessons.shift import (
    density_ratio,
    domain_error,
    domain_probabilities,
    effective_sample_size,
    median_gamma,
    mmd,
    proxy_a_distance,
)

exactly = partial(pytest.approx, rel=1e-12, abs=1e-14)
close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-12)
EITHER = pytest.mark.parametrize("unbiased", [False, True])
GAMMAS = [0.1, 1.0, 0.5]


def numbers(*values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype)


def t_of(values, expected):
    """How many standard errors the mean of independent draws lies from what is expected."""
    return float((np.mean(values) - expected) / (np.std(values, ddof=1) / math.sqrt(len(values))))


def t_limit(draws, alpha):
    """A right expectation is farther off than this many standard errors once in 1/alpha choices of the seed."""
    return stats.t.ppf(1 - alpha / 2, draws - 1)


# --- mmd --------------------------------------------------------------------------------------


def slow_mmd(x, y, gammas, unbiased):
    """One pair after the other, on lists of numbers."""

    def mean_kernel(left, right, *, same):
        terms = [
            math.fsum(math.exp(-gamma * math.fsum((p - q) ** 2 for p, q in zip(a, b, strict=True))) for gamma in gammas)
            for i, a in enumerate(left)
            for j, b in enumerate(right)
            if not (same and unbiased and i == j)
        ]
        return math.fsum(terms) / len(terms)

    x, y = x.tolist(), y.tolist()
    return mean_kernel(x, x, same=True) + mean_kernel(y, y, same=True) - 2 * mean_kernel(x, y, same=False)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(2, 7),
    st.integers(2, 7),
    st.integers(1, 5),
    st.lists(st.sampled_from([1e-6, 0.03, 0.5, 1, 20.0]), min_size=1, max_size=4),
    st.booleans(),
    SEEDS,
)
def test_mmd_equals_a_double_loop(n, m, width, gammas, unbiased, seed):
    x, y = normal(n, width, seed=seed), normal(m, width, seed=seed + 1) + 0.5
    assert mmd(x, y, gammas, unbiased).item() == exactly(slow_mmd(x, y, gammas, unbiased))


@EITHER
def test_mmd_equals_scikit_learns_kernels(unbiased):
    x, y = normal(30, 4), normal(50, 4, seed=1) + 0.3
    expected = 0
    for gamma in GAMMAS:
        k_x, k_y, k_xy = rbf_kernel(x, x, gamma), rbf_kernel(y, y, gamma), rbf_kernel(x, y, gamma)
        within = [k[~np.eye(len(k), dtype=bool)] if unbiased else k for k in (k_x, k_y)]
        expected += sum(k.mean() for k in within) - 2 * k_xy.mean()
    assert mmd(x, y, GAMMAS, unbiased).item() == exactly(expected)


def test_mmd_by_hand():
    """Two points a distance of 1 apart: k = 1 each with itself, 1/e across."""
    one, other = numbers([0.0, 0.0]), numbers([0.6, 0.8])
    assert mmd(one, other, [1]).item() == exactly(2 - 2 / math.e)
    assert mmd(one, other, (1, 2)).item() == exactly(4 - 2 / math.e - 2 / math.e**2)
    twice = torch.cat([one, one])
    assert mmd(twice, torch.cat([other, other]), [1], unbiased=True).item() == exactly(2 - 2 / math.e)


@EITHER
@pytest.mark.parametrize(("of_x", "of_y"), [(1e4, 1e4), (1e4, -1e4), (0, 1e6), (-1e6, -1e6)])
def test_mmd_keeps_its_digits_far_from_the_origin(of_x, of_y, unbiased):
    """In float32, with both samples far out, or far from each other."""
    x = normal(20, 3, dtype=torch.float32) + of_x
    y = normal(25, 3, seed=1, dtype=torch.float32) + of_y
    expected = slow_mmd(x, y, GAMMAS, unbiased)  # of the rounded points
    assert mmd(x, y, GAMMAS, unbiased).item() == pytest.approx(expected, rel=1e-5)


@EITHER
def test_mmd_has_the_right_gradients(unbiased):
    x, y = normal(5, 3).requires_grad_(), (normal(4, 3, seed=1) + 0.5).requires_grad_()
    of_both = lambda x, y: mmd(x, y, GAMMAS, unbiased)
    assert torch.autograd.gradcheck(of_both, (x, y))
    assert torch.autograd.gradgradcheck(of_both, (x, y))


@EITHER
def test_mmd_maps_over_seeds(unbiased):
    x, y = normal(6, 5, 3), normal(6, 4, 3, seed=1)
    of_both = lambda x, y: mmd(x, y, GAMMAS, unbiased)
    pairs = list(zip(x, y, strict=True))
    close(vmap(of_both)(x, y), torch.stack([of_both(a, b) for a, b in pairs]))
    slopes = vmap(grad(of_both, argnums=(0, 1)))(x, y)
    for k in (0, 1):
        close(slopes[k], torch.stack([grad(of_both, argnums=(0, 1))(a, b)[k] for a, b in pairs]))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 8), st.integers(1, 8), st.sampled_from([1e-8, 0.5, 1e6]), SEEDS)
def test_the_v_statistic_is_never_negative_and_symmetric(n, m, gamma, seed):
    x, y = normal(n, 3, seed=seed), normal(m, 3, seed=seed + 1)
    assert mmd(x, y, [gamma]) >= -1e-14
    assert mmd(y, x, [gamma]).item() == exactly(mmd(x, y, [gamma]).item())
    assert mmd(x, x, [gamma]).item() == 0


def test_the_unbiased_mmd_averages_to_zero_for_equal_distributions():
    """2000 independent pairs of samples of one distribution.

    A right estimator fails once in 10,000 choices of the seed. On the same draws the V-statistic fails, and so does
    an estimate that leaves the diagonals out but still divides by n² and m².
    """
    draws, n, m, alpha = 2000, 8, 5, 1e-4
    x, y = normal(draws, n, 2), normal(draws, m, 2, seed=1)
    limit = t_limit(draws, alpha)
    unbiased, biased = (
        vmap(lambda x, y, unbiased=unbiased: mmd(x, y, GAMMAS, unbiased))(x, y).numpy() for unbiased in (True, False)
    )
    assert abs(t_of(unbiased, 0)) < limit
    assert unbiased.min() < 0
    excess = len(GAMMAS) * (1 / n + 1 / m)  # what the diagonals bring
    assert t_of(biased, 0) > limit
    assert t_of(biased - excess, 0) < -limit


def test_a_shift_is_seen():
    """500 independent pairs with means half a deviation apart fail the test that equal distributions pass."""
    x, y = normal(500, 20, 2), normal(500, 20, 2, seed=1) + 0.5
    shifted = vmap(lambda x, y: mmd(x, y, [0.5], unbiased=True))(x, y)
    assert t_of(shifted.numpy(), 0) > t_limit(500, 1e-4)


@EITHER
@EVERY_DTYPE
def test_mmd_keeps_the_dtype(dtype, unbiased):
    x, y = normal(6, 3, dtype=dtype), normal(5, 3, seed=1, dtype=dtype) + 2
    found = mmd(x, y, GAMMAS, unbiased)
    assert found.dtype == dtype
    assert found.item() == pytest.approx(slow_mmd(x, y, GAMMAS, unbiased), rel=2 * torch.finfo(dtype).eps, abs=1e-6)


def test_large_numbers_stay_in_the_range_of_half_precision():
    x, y = normal(6, 3) * 100, normal(5, 3, seed=1) * 100
    found = mmd(x.half(), y.half(), [1e-4])
    assert found.item() == pytest.approx(slow_mmd(x.half(), y.half(), [1e-4], False), rel=1e-3)


X, Y = normal(4, 3), normal(5, 3)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((X, Y, [0.0]), ValueError, "gammas: expected a finite number above 0, got 0"),
        ((X, Y, [1.0, -2.0]), ValueError, "gammas: expected a finite number above 0, got -2"),
        ((X, Y, [math.inf]), ValueError, "gammas: expected a finite number above 0, got inf"),
        ((X, Y, [math.nan]), ValueError, "gammas: expected a finite number above 0, got nan"),
        ((X, Y, []), TypeError, r"gammas: expected a list of at least one number, got \[\]"),
        ((X, Y, 1.0), TypeError, "gammas: expected a list of at least one number, got 1.0"),
        ((X, Y, 1), TypeError, "gammas: expected a list of at least one number, got 1"),
        ((X, Y, "12"), TypeError, "gammas: expected a list of at least one number, got '12'"),
        ((X, Y, ["1"]), TypeError, "gammas: expected a Python number, got str"),
        ((X, Y, [True]), TypeError, "gammas: expected a Python number, got bool"),
        ((X, Y, None), TypeError, "gammas: expected a list of at least one number, got None"),
        ((X, Y, torch.ones(2)), TypeError, "gammas: expected a list of at least one number, got tensor"),
        ((X[:1], Y, [1.0], True), ValueError, "x: expected at least 2 examples"),
        ((X, Y[:1], [1.0], True), ValueError, "y: expected at least 2 examples"),
        ((X[:0], Y, [1.0]), ValueError, "x: expected no axis of size zero"),
        ((X, Y[:, :2], [1.0]), ValueError, "y: expected the 3 columns of x, got 2"),
        ((X, Y.float(), [1.0]), TypeError, "y: expected the dtype of x, torch.float64, got torch.float32"),
        ((X[0], Y, [1.0]), ValueError, r"x: expected 2 axes \(B, D\), got shape \(3,\)"),
        ((X[None], Y, [1.0]), ValueError, r"x: expected 2 axes \(B, D\)"),
        ((X.long(), Y, [1.0]), TypeError, "x: expected a floating dtype"),
        ((X.numpy(), Y, [1.0]), TypeError, "x: expected a torch.Tensor, got ndarray"),
        ((X, Y / 0, [1.0]), ValueError, "y: expected finite values"),
    ],
)
def test_mmd_refuses(arguments, error, words):
    with pytest.raises(error, match=words):
        mmd(*arguments)


# --- median_gamma -----------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1e-6, 1.0, 1e6]), SEEDS)
def test_median_gamma_equals_numpys_median(n, m, scale, seed):
    """Of an even number of distances, the lower of the two in the middle."""
    x, y = normal(n, 3, seed=seed) * scale, normal(m, 3, seed=seed + 1) * scale
    points = torch.cat([x, y]).numpy()
    squares = [((a - b) ** 2).sum() for i, a in enumerate(points) for b in points[:i]]
    assert median_gamma(x, y) == pytest.approx(1 / np.quantile(squares, 0.5, method="lower"), rel=1e-12)


def test_median_gamma_by_hand():
    assert median_gamma(numbers([0.0], [1.0]), numbers([3.0])) == exactly(1 / 4)  # distances 1, 2, 3
    assert isinstance(median_gamma(X.float(), Y.float()), float)
    assert median_gamma(X.half(), Y.half()) == pytest.approx(median_gamma(X, Y), rel=1e-2)


def test_median_gamma_refuses():
    with pytest.raises(ValueError, match="x, y: expected points that differ, got a median distance of zero"):
        median_gamma(torch.zeros(3, 2), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="expected points that differ"):
        median_gamma(torch.zeros(6, 2), torch.ones(1, 2))  # most are equal
    with pytest.raises(ValueError, match="y: expected the 3 columns of x, got 2"):
        median_gamma(X, Y[:, :2])
    with pytest.raises(TypeError, match="y: expected the dtype of x"):
        median_gamma(X, Y.float())
    with pytest.raises(ValueError, match="x: expected 2 axes"):
        median_gamma(X[0], Y)


# --- density_ratio ----------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 30), st.floats(-2, 2), st.floats(0.7, 2), st.floats(0.01, 0.99), SEEDS)
def test_the_ratio_of_two_gaussians_whatever_the_shares_of_the_domains(size, mean, deviation, share, seed):
    """By Bayes' rule from the exact densities; the share of source points among all cancels."""
    x = normal(size, seed=seed).numpy()
    source, target = stats.norm.pdf(x), stats.norm.pdf(x, mean, deviation)
    p = share * source / (share * source + (1 - share) * target)
    expected = target / source
    close(density_ratio(torch.from_numpy(p)), torch.from_numpy(expected / expected.mean()), rtol=1e-8, atol=1e-10)


def test_weighted_source_points_have_the_targets_mean():
    """E_Q[x] from 20,000 points of P; |t| of a right ratio exceeds its limit once in 10,000 choices of the seed."""
    x = normal(20_000)
    p = torch.sigmoid(0.045 - 0.3 * x)  # of N(0, 1) against N(0.3, 1): near enough for weights without a long tail
    w = density_ratio(p)
    assert abs(t_of((w * (x - 0.3)).numpy(), 0)) < t_limit(len(x), 1e-4)
    turned = density_ratio(1 - p)
    assert abs(t_of((turned * (x - 0.3)).numpy(), 0)) > t_limit(len(x), 1e-4)


def test_density_ratio_at_its_limits():
    assert density_ratio(numbers(1.0, 0.5, 1.0)).tolist() == [0, 3, 0]  # surely of the source: no weight
    assert density_ratio(numbers(0.3)).item() == exactly(1)
    close(density_ratio(numbers(*[0.2] * 7)), numbers(*[1] * 7))
    close(density_ratio(numbers(0.5, 0.25)), numbers(0.5, 1.5))
    assert density_ratio(numbers(1e-300, 0.5)).tolist() == [2, exactly(2e-300)]


@EVERY_DTYPE
def test_density_ratio_stays_in_range_and_keeps_the_dtype(dtype):
    """1/p leaves float16 at p = 1e-5, and float32 at 1e-39."""
    tiny = torch.finfo(dtype).smallest_normal / 8
    for least in (1e-5, tiny):
        found = density_ratio(numbers(least, 0.5, 1.0, dtype=dtype))
        assert found.dtype == dtype
        assert found[0].item() == pytest.approx(3, rel=1e-2)
        assert found[2] == 0
    p = torch.rand(40, generator=torch.Generator().manual_seed(0)).clamp(min=0.05).to(dtype)
    expected = (1 - p.double()) / p.double()
    torch.testing.assert_close(density_ratio(p), (expected / expected.mean()).to(dtype))


def test_density_ratio_has_the_right_gradient_and_maps_over_seeds():
    p = torch.sigmoid(normal(4, 6))
    assert torch.autograd.gradcheck(density_ratio, (p[0].clone().requires_grad_(),))
    close(vmap(density_ratio)(p), torch.stack([density_ratio(row) for row in p]))


@pytest.mark.parametrize(
    ("p", "error", "words"),
    [
        (numbers(0.0, 0.5), ValueError, "p_source: expected probabilities above 0 and at most 1"),
        (numbers(-0.1, 0.5), ValueError, "p_source: expected probabilities above 0 and at most 1"),
        (numbers(1.01, 0.5), ValueError, "p_source: expected probabilities above 0 and at most 1"),
        (numbers(math.nan, 0.5), ValueError, "p_source: expected finite values"),
        (numbers(1.0, 1.0), ValueError, "p_source: expected a point that could be of the target, got 1 everywhere"),
        (numbers(), ValueError, "p_source: expected at least one example"),
        (numbers([0.5]), ValueError, r"p_source: expected one number per example, \(n,\), got shape \(1, 1\)"),
        (torch.tensor(0.5), ValueError, "p_source: expected at least one axis"),
        (torch.ones(2, dtype=torch.int64), TypeError, "p_source: expected a floating dtype"),
        ([0.5], TypeError, "p_source: expected a torch.Tensor, got list"),
    ],
)
def test_density_ratio_refuses(p, error, words):
    with pytest.raises(error, match=words):
        density_ratio(p)


# --- effective_sample_size --------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20).filter(lambda w: max(w) > 1e-3),
    st.sampled_from([1e-300, 1e-30, 1.0, 7.0, 1e30, 1e300]),
)
def test_effective_size_equals_a_slow_sum_at_every_scale(weights, scale):
    expected = math.fsum(weights) ** 2 / math.fsum(w * w for w in weights)
    found = effective_sample_size(numbers(*weights) * scale).item()
    assert found == pytest.approx(expected, rel=1e-12)
    assert 1 - 1e-12 <= found <= len(weights) * (1 + 1e-12)


def test_effective_size_at_its_limits():
    assert effective_sample_size(torch.full((9,), 0.3)).item() == pytest.approx(9)
    assert effective_sample_size(numbers(0.0, 5.0, 0.0)).item() == 1
    assert effective_sample_size(numbers(2.0, 0.0, 2.0, 2.0)).item() == exactly(3)
    assert effective_sample_size(numbers(3.0)).item() == 1
    assert effective_sample_size(numbers(1.0, 2.0, 3.0)).item() == exactly(36 / 14)


@pytest.mark.parametrize("scale", [1e-45, 1e-30, 1e30, 3e38])
def test_effective_size_knows_no_scale_in_single_precision(scale):
    assert effective_sample_size(torch.full((1000,), scale)).item() == pytest.approx(1000, rel=1e-6)


@EVERY_DTYPE
def test_effective_size_keeps_the_dtype_and_its_range(dtype):
    found = effective_sample_size(torch.ones(512, dtype=dtype))  # the square of the sum leaves float16
    assert found.dtype == dtype
    assert found.item() == 512


def test_effective_size_is_the_variance_of_a_weighted_mean():
    """Var(Σ w z / Σ w) = 1 / n_eff for z of variance 1; a right size fails once in 10,000 choices of the seed."""
    w, draws = normal(12).exp(), 20_000
    means = (normal(draws, 12, seed=1) @ w / w.sum()).numpy()
    low, high = stats.chi2.ppf([0.5e-4, 1 - 0.5e-4], draws) / draws
    n_eff = effective_sample_size(w).item()
    assert low < n_eff * np.square(means).mean() < high
    assert n_eff < 0.8 * len(w)  # so the number of weights would not have passed


def test_effective_size_has_the_right_gradient_and_maps_over_seeds():
    w = normal(4, 6).exp()
    assert torch.autograd.gradcheck(effective_sample_size, (w[0].clone().requires_grad_(),))
    close(vmap(effective_sample_size)(w), torch.stack([effective_sample_size(row) for row in w]))


@pytest.mark.parametrize(
    ("weights", "error", "words"),
    [
        (torch.zeros(3), ValueError, "weights: expected at least one weight above zero, got zeros"),
        (numbers(1.0, -1e-9), ValueError, "weights: expected no weight below zero"),
        (numbers(1.0, math.inf), ValueError, "weights: expected finite values"),
        (numbers(math.nan), ValueError, "weights: expected finite values"),
        (numbers(), ValueError, "weights: expected at least one example"),
        (torch.ones(2, 2), ValueError, r"weights: expected one number per example, \(n,\), got shape \(2, 2\)"),
        (torch.ones(2, dtype=torch.int64), TypeError, "weights: expected a floating dtype"),
        ([1.0], TypeError, "weights: expected a torch.Tensor, got list"),
    ],
)
def test_effective_size_refuses(weights, error, words):
    with pytest.raises(error, match=words):
        effective_sample_size(weights)


# --- proxy_a_distance, domain_error -----------------------------------------------------------


@pytest.mark.parametrize(("error", "distance"), [(0, 2), (0.5, 0), (0.25, 1), (0.6, -0.4), (1, -2)])
def test_proxy_a_distance_of_a_number_and_of_tensors(error, distance):
    found = proxy_a_distance(error)
    assert found == pytest.approx(distance, abs=1e-15)
    assert isinstance(found, (int, float))
    for shape in ((), (3,), (2, 2)):
        found = proxy_a_distance(torch.full(shape, error, dtype=torch.float64))
        close(found, torch.full(shape, distance, dtype=torch.float64))


@EVERY_DTYPE
def test_proxy_a_distance_keeps_the_dtype_and_maps(dtype):
    errors = numbers(0.25, 0.5, dtype=dtype)
    assert proxy_a_distance(errors).dtype == dtype
    assert torch.equal(vmap(proxy_a_distance)(errors), numbers(1, 0, dtype=dtype))


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (-0.1, ValueError, "error: expected a finite number at least 0 and at most 1, got -0.1"),
        (1.1, ValueError, "error: expected a finite number at least 0 and at most 1, got 1.1"),
        (math.nan, ValueError, "error: expected a finite number"),
        ("0.5", TypeError, "error: expected a Python number, got str"),
        (None, TypeError, "error: expected a Python number, got NoneType"),
        (numbers(0.5, 1.2), ValueError, "error: expected values of 0 to 1, got others"),
        (numbers(math.nan), ValueError, "error: expected finite values"),
        (torch.tensor([1]), TypeError, "error: expected a floating dtype"),
    ],
)
def test_proxy_a_distance_refuses(error, kind, words):
    with pytest.raises(kind, match=words):
        proxy_a_distance(error)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.7, 1.0]), min_size=1, max_size=9),
       st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.7, 1.0]), min_size=1, max_size=9))  # fmt: skip
def test_domain_error_counts_both_domains_alike(source, target):
    missed, mistaken = sum(p < 0.5 for p in source), sum(p >= 0.5 for p in target)
    expected = (missed / len(source) + mistaken / len(target)) / 2
    assert domain_error(numbers(*source), numbers(*target)) == exactly(expected)
    repeated = domain_error(numbers(*source), numbers(*target * 5))
    assert repeated == exactly(expected)  # more of the same points change nothing


def test_domain_error_of_a_classifier_that_cannot_tell_is_one_half():
    assert domain_error(torch.full((3,), 0.5), torch.full((8,), 0.5)) == 0.5
    assert domain_error(torch.ones(3), torch.zeros(8)) == 0
    assert domain_error(torch.zeros(3), torch.ones(8)) == 1


def test_domain_error_refuses():
    with pytest.raises(ValueError, match="p_of_source: expected one number per example"):
        domain_error(torch.ones(2, 1), torch.ones(2))
    with pytest.raises(TypeError, match=r"p_of_target: expected a torch\.Tensor, got list"):
        domain_error(torch.ones(2), [1.0])
    with pytest.raises(ValueError, match="p_of_target: expected at least one example"):
        domain_error(torch.ones(2), torch.ones(0))


# --- domain_probabilities ---------------------------------------------------------------------


def in_a_loop_over_folds(source, target, penalty, folds, seed):
    """Standardise by the training folds, fit on them, judge the fold that was left out."""
    points = np.concatenate([source, target])
    is_source = np.arange(len(points)) < len(source)
    found = np.full(len(points), np.nan)
    for train, held_out in StratifiedKFold(folds, shuffle=True, random_state=seed).split(points, is_source):
        scaler = StandardScaler().fit(points[train])
        share = np.where(is_source[train], is_source[train].mean(), 1 - is_source[train].mean())
        classifier = LogisticRegression(C=1 / penalty, max_iter=1000)
        classifier.fit(scaler.transform(points[train]), is_source[train], sample_weight=0.5 / share)
        found[held_out] = classifier.predict_proba(scaler.transform(points[held_out]))[:, 1]
    return found[: len(source)], found[len(source) :]


@pytest.mark.parametrize(("n", "m", "folds", "penalty", "seed"), [(40, 25, 5, 1.0, 0), (12, 60, 2, 0.1, 3)])
def test_domain_probabilities_equal_a_loop_over_folds(n, m, folds, penalty, seed):
    source, target = normal(n, 4), 2 * normal(m, 4, seed=1) + 0.7
    found = domain_probabilities(source, target, penalty=penalty, folds=folds, seed=seed)
    expected = in_a_loop_over_folds(source.numpy(), target.numpy(), penalty, folds, seed)
    for one, other in zip(found, expected, strict=True):
        assert not np.isnan(other).any()
        np.testing.assert_allclose(one.numpy(), other, atol=1e-6)


def test_equal_domains_are_told_apart_by_chance_only_because_points_are_held_out():
    """60 independent pairs of samples of one distribution.

    A held-out fold has nothing to do with the classifier that judges it, so the error averages to exactly ½. A right
    function fails once in 10,000 choices of the seed. Judged on its own training points, a classifier fails.
    """
    draws = 60
    held_out, in_sample = [], []
    for seed in range(draws):
        source, target = normal(30, 15, seed=2 * seed), normal(30, 15, seed=2 * seed + 1)
        held_out.append(domain_error(*domain_probabilities(source, target, seed=seed)))
        points, is_source = torch.cat([source, target]).numpy(), np.arange(60) < 30
        p = torch.from_numpy(LogisticRegression().fit(points, is_source).predict_proba(points)[:, 1])
        in_sample.append(domain_error(p[:30], p[30:]))
    assert abs(t_of(held_out, 0.5)) < t_limit(draws, 1e-4)
    assert t_of(in_sample, 0.5) < -t_limit(draws, 1e-4)


def test_domains_count_alike_however_many_points_they_have():
    """Five times as many source points of the same distribution: p stays about ½, not 5/6."""
    p_of_source, p_of_target = domain_probabilities(normal(500, 3), normal(100, 3, seed=1))
    for p in (p_of_source, p_of_target):
        assert abs(p.mean().item() - 0.5) < 0.05
        assert p.max() < 5 / 6


def test_a_larger_penalty_draws_towards_one_half():
    source, target = normal(50, 3), normal(60, 3, seed=1) + 1
    spreads = [
        (domain_probabilities(source, target, penalty=penalty)[0] - 0.5).abs().mean() for penalty in (0.01, 10, 1e6)
    ]
    assert spreads[0] > spreads[1] > spreads[2]
    assert spreads[2] < 1e-3


def test_domains_apart_are_told_apart_and_weights_stay_finite():
    p_of_source, p_of_target = domain_probabilities(normal(20, 2), normal(20, 2, seed=1) + 1000, penalty=1e-6)
    assert domain_error(p_of_source, p_of_target) == 0
    assert torch.isfinite(density_ratio(p_of_source)).all()


def test_a_point_far_out_on_the_wrong_side_keeps_a_finite_weight():
    """Held out, it gets a logit of thousands; a p of exactly 0 would have no ratio."""
    source, target = normal(20, 1), normal(20, 1, seed=1) + 3
    outlier = source.clone()
    outlier[0] = 1e5
    p, _ = domain_probabilities(outlier, target)
    assert p[0].item() == exactly(1e-6)
    assert torch.isfinite(density_ratio(p)).all()
    outlier = target.clone()
    outlier[0] = -1e5
    assert domain_probabilities(source, outlier)[1][0].item() == exactly(1 - 1e-6)


def test_domain_probabilities_are_the_same_on_every_call_and_know_their_seed():
    source, target = normal(30, 3), normal(20, 3, seed=1)
    torch.manual_seed(0)
    np.random.seed(0)
    first = domain_probabilities(source, target)
    torch.manual_seed(1)
    np.random.seed(1)
    again, other = domain_probabilities(source, target), domain_probabilities(source, target, seed=1)
    assert torch.equal(torch.cat(first), torch.cat(again))
    assert not torch.equal(torch.cat(first), torch.cat(other))


@EVERY_DTYPE
def test_domain_probabilities_keep_the_dtype_and_leave_the_points_alone(dtype):
    source, target = normal(12, 3, dtype=dtype).requires_grad_(), normal(10, 3, seed=1, dtype=dtype) + 2
    before = source.detach().clone(), target.clone()
    p_of_source, p_of_target = domain_probabilities(source, target)
    assert p_of_source.shape == (12,)
    assert p_of_target.shape == (10,)
    assert p_of_source.dtype == p_of_target.dtype == dtype
    assert not p_of_source.requires_grad
    assert torch.equal(source.detach(), before[0])
    assert torch.equal(target, before[1])
    assert torch.isfinite(density_ratio(p_of_source)).all()


def test_a_feature_that_never_changes_does_no_harm():
    source, target = normal(12, 3), normal(10, 3, seed=1)
    source[:, 1] = target[:, 1] = 4
    assert torch.isfinite(torch.cat(domain_probabilities(source, target))).all()


@pytest.mark.parametrize(
    ("source", "target", "options", "error", "words"),
    [
        (X, Y, {}, ValueError, "source: expected at least 5 examples"),
        (Y, X, {}, ValueError, "target: expected at least 5 examples"),
        (X, Y, {"folds": 1}, ValueError, "folds: expected at least 2, got 1"),
        (X, Y, {"folds": 2.0}, TypeError, "folds: expected an int, got float"),
        (X, Y, {"folds": 2, "penalty": 0}, ValueError, "penalty: expected a finite number above 0, got 0"),
        (X, Y, {"folds": 2, "penalty": "1"}, TypeError, "penalty: expected a Python number, got str"),
        (X, Y[:, :2], {"folds": 2}, ValueError, "target: expected the 3 columns of source, got 2"),
        (X, Y.float(), {"folds": 2}, TypeError, "target: expected the dtype of source"),
        (X[0], Y, {"folds": 2}, ValueError, "source: expected 2 axes"),
        (X / 0, Y, {"folds": 2}, ValueError, "source: expected finite values"),
        (X, Y.tolist(), {"folds": 2}, TypeError, "target: expected a torch.Tensor, got list"),
    ],
)
def test_domain_probabilities_refuse(source, target, options, error, words):
    with pytest.raises(error, match=words):
        domain_probabilities(source, target, **options)
