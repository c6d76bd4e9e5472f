"""The reference implementations of lesson 04 against slow loops, other libraries, autograd and invariances."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import SEEDS, normal
from scipy.linalg import orthogonal_procrustes
from scipy.optimize import nnls
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from torch.func import grad, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from ctkd_lessons.cross_task import (
    extract_features,
    fit_transfer_map,
    fuse,
    procrustes,
    relationship_loss,
    stacking_weights,
)
from ctkd_lessons.data import digits

exactly = partial(pytest.approx, rel=1e-10, abs=1e-12)
close = partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10)
equal = partial(torch.testing.assert_close, rtol=1e-11, atol=1e-14)


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def rotation(width, seed=0):
    return np.linalg.qr(numbers(width, width, seed=seed)).Q


# --- slow loops, on lists of numbers ----------------------------------------------------------


def dot(a, b):
    return math.fsum(p * q for p, q in zip(a, b, strict=True))


def columns(rows):
    return [list(column) for column in zip(*rows, strict=True)]


def product(a, b):
    return [[dot(row, column) for column in columns(b)] for row in a]


def slow_inverse(matrix):
    """Invert by Gauss-Jordan elimination with the largest pivot."""
    size = len(matrix)
    rows = [[*row, *(float(i == j) for j in range(size))] for i, row in enumerate(matrix)]
    for place in range(size):
        best = max(range(place, size), key=lambda i: abs(rows[i][place]))
        rows[place], rows[best] = rows[best], rows[place]
        pivot = rows[place][place]
        rows[place] = [value / pivot for value in rows[place]]
        for i in range(size):
            if i != place:
                factor = rows[i][place]
                rows[i] = [value - factor * other for value, other in zip(rows[i], rows[place], strict=True)]
    return [row[size:] for row in rows]


def slow_map(source, target, ridge):
    """Solve the normal equations (SᵀS + ridge I) W = SᵀT."""
    gram = product(columns(source), source)
    for place in range(len(gram)):
        gram[place][place] += ridge
    return product(slow_inverse(gram), product(columns(source), target))


def slow_distance(e, i, j):
    a, b = ([value / math.sqrt(dot(row, row)) for value in row] for row in (e[i], e[j]))
    return math.dist(a, b)


def slow_relationship(student, teacher, anchor, positive, negative, temperature):
    student, teacher = student.tolist(), teacher.tolist()
    total = []
    for a, p, n in zip(anchor.tolist(), positive.tolist(), negative.tolist(), strict=True):
        s, t = (
            1 / (1 + math.exp(-(slow_distance(e, a, n) - slow_distance(e, a, p)) / temperature))
            for e in (student, teacher)
        )
        total.append(t * math.log(t / s) + (1 - t) * math.log((1 - t) / (1 - s)))
    return math.fsum(total) / len(total)


def slow_fuse(predictions, weights):
    total = math.fsum(weights)
    answer = [0.0] * len(predictions[0])
    for weight, one in zip(weights, predictions, strict=True):
        answer = [old + weight / total * value for old, value in zip(answer, one, strict=True)]
    return answer


# --- features ---------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 12), st.integers(1, 6), st.floats(-50, 50), SEEDS)
def test_features_are_those_of_scikit_learn_but_for_the_sign(examples, width, shift, seed):
    x = numbers(examples, width, seed=seed) * np.arange(1, width + 1) + shift
    components = 1 + seed % min(examples - 1, width)
    mine, whitening = extract_features(x, components)
    pca = PCA(components, whiten=True, svd_solver="full").fit(x)
    theirs = pca.transform(x)
    signs = np.sign((mine * theirs).sum(axis=0))
    close(mine, signs * theirs, rtol=1e-7, atol=1e-7)
    new = numbers(5, width, seed=seed + 1)
    scale = np.abs(theirs).max() + np.abs(pca.transform(new)).max()
    close(whitening.apply(new), signs * pca.transform(new), rtol=1e-7, atol=1e-7 * scale)


@settings(deadline=None, max_examples=40)
@given(st.integers(3, 12), st.integers(1, 6), SEEDS)
def test_features_have_the_identity_as_covariance_and_come_in_order(examples, width, seed):
    x = numbers(examples, width, seed=seed)
    components = min(examples - 1, width)
    features, whitening = extract_features(x, components)
    assert features.shape == (examples, components)
    assert whitening.directions.shape == (width, components)
    for i, a in enumerate(columns(features.tolist())):
        assert math.fsum(a) == pytest.approx(0, abs=1e-9)
        for j, b in enumerate(columns(features.tolist())):
            assert dot(a, b) / (examples - 1) == pytest.approx(float(i == j), abs=1e-9)
    # Directions are orthogonal; 1 / length is the standard deviation along each, the largest first.
    gram = whitening.directions.T @ whitening.directions
    deviations = 1 / np.sqrt(np.diag(gram))
    assert np.all(np.diff(deviations) <= 1e-12)
    close(gram, np.diag(np.diag(gram)), atol=1e-8 * gram.max())
    unit = whitening.directions * deviations
    for i, deviation in enumerate(deviations):
        close(((x - x.mean(0)) @ unit[:, i]).std(ddof=1), deviation)
    biggest = np.abs(whitening.directions).argmax(axis=0)
    assert np.all(whitening.directions[biggest, np.arange(components)] > 0)


def test_new_data_are_centred_and_scaled_as_the_old():
    x, new = numbers(20, 3) * [1, 5, 10] + 7, numbers(4, 3, seed=1) + 100
    features, whitening = extract_features(x, 2)
    close(whitening.apply(x), features)
    close(whitening.mean, x.mean(0))
    assert np.abs(whitening.apply(new).mean(0)).max() > 5  # not centred by their own mean
    close(whitening.apply(new)[1:2], whitening.apply(new[1:2]))


def test_features_do_not_see_shift_rotation_or_scale():
    x = numbers(30, 4) * [1, 2, 3, 4]
    expected, _ = extract_features(x, 3)
    for other in (x + 5, 100 * x, x @ rotation(4), np.hstack([x, np.zeros((30, 2))])):
        found, _ = extract_features(other, 3)
        close(found * np.sign((found * expected).sum(0)), expected, rtol=1e-7, atol=1e-9)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.integers(0, 3), st.sampled_from([1e-6, 1.0, 1e6]), SEEDS)
def test_every_direction_that_varies_can_be_had_and_no_more(rank, extra, size, seed):
    low = numbers(12, rank, seed=seed) @ numbers(rank, rank + extra, seed=seed + 1)
    x = size * low + 3 * size
    features, _ = extract_features(x, rank)
    assert np.isfinite(features).all()
    close(features.T @ features / 11, np.eye(rank), rtol=1e-5, atol=1e-5)
    if extra:
        names = rf"components: expected at most {rank}, the rank of the covariance of x, got {rank + 1}"
        with pytest.raises(ValueError, match=names):
            extract_features(x, rank + 1)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -1e6, 1e-12])
@pytest.mark.parametrize("examples", [2, 7, 1000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_never_varies_is_refused_whatever_rounding_leaves(value, examples, dtype):
    with pytest.raises(ValueError, match="components: expected at most 0, the rank"):
        extract_features(np.full((examples, 3), value, dtype=dtype), 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_far_away_mean_adds_no_direction(dtype):
    x = (numbers(100, 2) @ numbers(2, 4, seed=1) + 1e4).astype(dtype)  # rank 2 but for rounding
    assert extract_features(x, 2)[0].shape == (100, 2)
    with pytest.raises(ValueError, match="components: expected at most 2, the rank"):
        extract_features(x, 3)


def test_as_many_examples_as_features_leave_one_direction_less():
    assert extract_features(numbers(4, 4), 3)[0].shape == (4, 3)
    with pytest.raises(ValueError, match="components: expected at most 3, the rank"):
        extract_features(numbers(4, 4), 4)


def test_real_digits():
    images = digits.load(1).images.numpy()
    features, _ = extract_features(images.astype(float), 61)
    close(features.T @ features / 1796, np.eye(61), atol=1e-9)
    with pytest.raises(ValueError, match="at most 61"):  # three pixels are always white
        extract_features(images.astype(float), 62)
    assert extract_features(images, 61)[0].shape == (1797, 61)  # in float32, too


# --- the map ----------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 8), st.integers(1, 4), st.integers(1, 3), st.sampled_from([1e-3, 0.5, 30.0]), SEEDS)
def test_map_equals_the_slow_loop_and_scikit_learn(examples, width, target_width, ridge, seed):
    source, target = numbers(examples, width, seed=seed), numbers(examples, target_width, seed=seed + 1)
    found = fit_transfer_map(source, target, ridge=ridge)
    slow = slow_map(source.tolist(), target.tolist(), ridge)
    # The loop squares the condition number; a well-posed problem agrees to every digit.
    close(found, slow, atol=1e-10 if ridge >= 0.5 else 1e-8, rtol=1e-10 if ridge >= 0.5 else 1e-8)
    close(found, Ridge(ridge, fit_intercept=False).fit(source, target).coef_.reshape(target_width, width).T, rtol=1e-7)
    assert found.shape == (width, target_width)


def test_the_default_ridge_is_a_thousandth():
    source, target = numbers(9, 3), numbers(9, 2, seed=1)
    close(fit_transfer_map(source, target), slow_map(source.tolist(), target.tolist(), 1e-3))


def test_map_is_the_smallest_of_several_without_ridge():
    source, target = numbers(10, 2) @ numbers(2, 4, seed=1), numbers(10, 3, seed=2)  # rank 2 of 4
    found = fit_transfer_map(source, target, ridge=0)
    close(found, np.linalg.pinv(source) @ target)
    close(found, fit_transfer_map(source, target, ridge=1e-9), rtol=1e-6, atol=1e-7)  # and the limit of small ones
    assert not fit_transfer_map(np.zeros((4, 2)), target[:4], ridge=0).any()
    assert not fit_transfer_map(np.zeros((4, 2)), target[:4]).any()
    few = fit_transfer_map(source[:1], target[:1], ridge=0)  # one example, four features
    close(source[:1] @ few, target[:1])


def test_ridge_shrinks_and_no_neighbour_is_better():
    source, target = numbers(12, 3), numbers(12, 2, seed=1)
    sizes = [np.linalg.norm(fit_transfer_map(source, target, ridge=ridge)) for ridge in (0, 0.1, 1, 10, 1e4)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 0.01 * sizes[0]

    def cost(w):
        return np.square(source @ w - target).sum() + 2 * np.square(w).sum()

    best = fit_transfer_map(source, target, ridge=2)
    assert all(cost(best + 0.01 * numbers(3, 2, seed=seed)) > cost(best) for seed in range(20))


def test_map_finds_a_linear_relation_exactly():
    source, w = numbers(20, 3), numbers(3, 5, seed=1)
    close(fit_transfer_map(source, source @ w, ridge=0), w)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 8), st.integers(1, 5), SEEDS)
def test_rotation_is_that_of_scipy_and_no_other_is_better(examples, width, seed):
    source, target = numbers(examples, width, seed=seed), numbers(examples, width, seed=seed + 1)
    found = procrustes(source, target)
    close(found.T @ found, np.eye(width))
    if examples >= width:  # unique
        close(found, orthogonal_procrustes(source, target)[0], rtol=1e-6, atol=1e-8)
    distance = np.linalg.norm(source @ found - target)
    assert all(np.linalg.norm(source @ rotation(width, seed=other) - target) >= distance - 1e-9 for other in range(10))


def test_rotation_or_reflection_is_found_again():
    source = numbers(10, 4)
    for turn in (rotation(4), rotation(4) @ np.diag([1, 1, 1, -1])):
        close(procrustes(source, source @ turn), turn)
    close(procrustes(source, 3 * source), np.eye(4))
    turn = procrustes(np.zeros((5, 2)), np.ones((5, 2)))  # nothing to go by: any rotation will do
    close(turn.T @ turn, np.eye(2))


# --- fusion -----------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.floats(0.01, 10), min_size=1, max_size=5), st.lists(st.integers(1, 3), min_size=1, max_size=3), SEEDS
)
def test_fusion_equals_the_slow_loop(weights, shape, seed):
    predictions = numbers(len(weights), *shape, seed=seed)
    flat = predictions.reshape(len(weights), -1).tolist()
    assert fuse(predictions, weights).ravel().tolist() == exactly(slow_fuse(flat, weights))
    assert fuse(predictions).ravel().tolist() == exactly(slow_fuse(flat, [1.0] * len(weights)))
    close(fuse(predictions, [3 * weight for weight in weights]), fuse(predictions, weights))
    close(fuse(predictions, [-weight for weight in weights]), fuse(predictions, weights))
    assert fuse(predictions).shape == tuple(shape)


def test_fusion_of_one_and_of_the_trusted():
    predictions = numbers(3, 4, 2)
    close(fuse(predictions[:1]), predictions[0])
    close(fuse(predictions[:1], [0.1]), predictions[0])
    close(fuse(predictions, [0, 1, 0]), predictions[1])
    close(fuse(predictions, [-1, 2, 0]), 2 * predictions[1] - predictions[0])
    close(fuse([[0, 1], [1, 1]]), [0.5, 1])  # integers, lists
    assert fuse(np.abs(predictions) / np.abs(predictions).sum(2, keepdims=True)).sum(1) == pytest.approx(1)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 4), st.integers(2, 6), st.integers(1, 3), SEEDS)
def test_stacking_meets_the_conditions_of_a_minimum(models, examples, classes, seed):
    targets = np.abs(numbers(examples, classes, seed=seed))
    predictions = targets + numbers(models, examples, classes, seed=seed + 1)
    flat = predictions.reshape(models, -1)
    raw = nnls(flat.T, targets.ravel())[0]
    if not raw.any():
        return
    weights = stacking_weights(predictions, targets)
    assert weights.sum() == pytest.approx(1)
    assert (weights >= 0).all()
    close(weights, raw / raw.sum())
    # Karush-Kuhn-Tucker: at the best scale no slope where a weight is positive, none downhill where it is zero.
    mixed = weights @ flat
    slope = flat @ (mixed * (mixed @ targets.ravel() / (mixed @ mixed)) - targets.ravel())
    assert np.abs(slope[weights > 0]).max() < 1e-8
    assert (slope > -1e-8).all()


def test_stacking_trusts_the_right_one():
    targets = numbers(50, 3)
    noisy, unrelated = targets + 0.5 * numbers(50, 3, seed=1), numbers(50, 3, seed=2)
    close(stacking_weights([targets, noisy, unrelated], targets), [1, 0, 0], atol=1e-9)
    close(stacking_weights([-targets, 7 * targets], targets), [0, 1])
    close(stacking_weights([noisy], targets), [1])
    good, bad = stacking_weights([targets + 0.5 * numbers(50, 3, seed=3), targets + numbers(50, 3, seed=4)], targets)
    assert good == pytest.approx(0.8, abs=0.1)  # weights as the inverse variances, 4 to 1
    assert bad == pytest.approx(0.2, abs=0.1)


# --- all of NumPy: types, inputs --------------------------------------------------------------

ALL = {
    "features": (lambda x, y: extract_features(x, 2)[0], lambda x, y: extract_features(x, 2)[1].apply(y)),
    "map": (fit_transfer_map, partial(fit_transfer_map, ridge=0)),
    "rotation": (procrustes,),
    "fusion": (lambda x, y: fuse([x, y]), lambda x, y: fuse([x, y], [1, 2])),
}


@pytest.mark.parametrize("functions", ALL.values(), ids=ALL)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64])
def test_dtypes_and_inputs_left_unchanged(functions, dtype):
    x, y = ((8 * numbers(9, 3, seed=seed)).astype(dtype) for seed in (0, 1))
    before = x.copy(), y.copy()
    for function in functions:
        found = function(x, y)
        kept = {np.int64: np.float64, np.float16: np.float16 if functions is ALL["fusion"] else np.float32}
        assert found.dtype == kept.get(dtype, dtype)
        tolerance = {np.float16: 1e-2, np.float32: 1e-4}.get(dtype, 1e-12)
        close(found, function(x.astype(float), y.astype(float)), rtol=tolerance, atol=tolerance)
        close(function(x.tolist(), y.tolist()), found, rtol=tolerance, atol=tolerance)
    assert np.array_equal(x, before[0])
    assert np.array_equal(y, before[1])


def test_half_a_digit_tells_of_the_other_half():
    images = digits.load(1).images.numpy().astype(float)
    (left, of_left), (right, of_right) = (extract_features(images[:900, half::2], 8) for half in (0, 1))
    truth = of_right.apply(images[900:, 1::2])

    def correlation(target):
        guess = of_left.apply(images[900:, ::2]) @ fit_transfer_map(left, target)
        return np.corrcoef(guess.ravel(), truth.ravel())[0, 1]

    assert correlation(right) > 0.5
    assert abs(correlation(np.random.default_rng(0).permutation(right))) < 0.2


# --- relationship matching --------------------------------------------------------------------

A, P, N = torch.tensor([0, 1, 2, 3, 3]), torch.tensor([1, 2, 0, 0, 4]), torch.tensor([2, 4, 3, 1, 0])
TRIPLETS = (A, P, N)


def loss(student, teacher):
    return relationship_loss(student, teacher, A, P, N, 0.7)


def test_hand_value():
    # Anchor and positive at a right angle (√2), anchor and negative opposite (2); the teacher sees no difference.
    student, teacher = torch.tensor([[3.0, 0.0], [0.0, 0.5], [-7.0, 0.0]]), torch.eye(3)
    one = [torch.tensor([place]) for place in range(3)]
    p = 1 / (1 + math.exp(-(2 - math.sqrt(2)) / 0.5))
    expected = 0.5 * math.log(0.5 / p) + 0.5 * math.log(0.5 / (1 - p))
    assert relationship_loss(student, teacher, *one, 0.5).item() == pytest.approx(expected)
    anchor, positive, negative = one
    swapped = relationship_loss(student, teacher, anchor, negative, positive, 0.5).item()
    assert swapped == pytest.approx(expected)  # this teacher does not mind; a decided one does
    told = relationship_loss(teacher, student, *one, 0.5).item()
    assert told == pytest.approx(p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p)))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 4), st.integers(1, 9), st.floats(0.5, 20), SEEDS)
def test_relationship_equals_the_slow_loop(batch, width_s, width_t, triplets, temperature, seed):
    student, teacher = normal(batch, width_s, seed=seed), normal(batch, width_t, seed=seed + 1)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(batch, (3, triplets), generator=generator)  # alike ones among them
    expected = slow_relationship(student, teacher, *rows, temperature)
    assert relationship_loss(student, teacher, *rows, temperature).item() == pytest.approx(
        expected, rel=1e-10, abs=1e-14
    )


def test_the_default_temperature_is_four():
    student, teacher = normal(5, 3), normal(5, 2, seed=1)
    assert relationship_loss(student, teacher, A, P, N).item() == exactly(
        slow_relationship(student, teacher, A, P, N, 4)
    )


def test_gradients():
    student, teacher = normal(5, 3).requires_grad_(), normal(5, 2, seed=1)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), student)
    assert torch.autograd.gradgradcheck(lambda s: loss(s, teacher), student)


def test_teacher_receives_no_gradient():
    student, teacher = normal(5, 3).requires_grad_(), normal(5, 2, seed=1).requires_grad_()
    loss(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0
    assert not grad(loss, argnums=1)(student.detach(), teacher.detach()).any()


@pytest.mark.filterwarnings("error")  # vmap warns where it falls back to a slow loop
def test_vmap_equals_loop():
    students, teachers = normal(3, 5, 3), normal(3, 5, 2, seed=1)
    second = lambda s, t: grad(lambda x: grad(loss)(x, t).square().sum())(s)
    for one in (loss, grad(loss), second):
        equal(vmap(one)(students, teachers), torch.stack([one(*pair) for pair in zip(students, teachers, strict=True)]))
        equal(vmap(one, (0, None))(students, teachers[0]), torch.stack([one(s, teachers[0]) for s in students]))
        equal(vmap(one, (None, 0))(students[0], teachers), torch.stack([one(students[0], t) for t in teachers]))
    back = vjp(lambda s: loss(s, teachers[0]), students[0])[1]
    upstream = normal(4, seed=2)
    equal(vmap(back)(upstream)[0], torch.stack([back(one)[0] for one in upstream]))
    rows = torch.stack([torch.stack(TRIPLETS), torch.stack(TRIPLETS).flip(1), torch.stack((P, N, A))])
    each = lambda s, r: grad(lambda x: relationship_loss(x, teachers[0], *r))(s)
    equal(vmap(each)(students, rows), torch.stack([each(*pair) for pair in zip(students, rows, strict=True)]))
    mapped = vmap(grad(loss))
    equal(
        make_fx(mapped, tracing_mode="fake", _allow_non_fake_inputs=True)(students, teachers)(students, teachers),
        mapped(students, teachers),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_kept(dtype):
    student, teacher = 40 * normal(5, 3000, dtype=dtype), 40 * normal(5, 2000, seed=1, dtype=dtype)
    before = student.clone(), teacher.clone()
    found = relationship_loss(student, teacher, A, P, N, 0.05)
    assert found.dtype == dtype
    assert found.ndim == 0
    expected = relationship_loss(student.double(), teacher.double(), A, P, N, 0.05).item()
    assert found.item() == pytest.approx(
        expected, rel=torch.finfo(dtype).eps, abs=4 * min(torch.finfo(dtype).eps, 1e-7)
    )
    assert torch.equal(student, before[0])
    assert torch.equal(teacher, before[1])


@pytest.mark.parametrize("case", ["zeros", "one is zero", "two alike", "all alike", "opposite", "as the teacher"])
@pytest.mark.parametrize("temperature", [1e-4, 1.0, 1e4])
def test_gradients_stay_finite(case, temperature):
    student, teacher = normal(5, 3), normal(5, 3, seed=1)
    if case == "zeros":
        student = torch.zeros(5, 3, dtype=torch.float64)
    elif case == "one is zero":
        student[0] = teacher[1] = 0
    elif case == "two alike":
        student[1] = student[0]
    elif case == "all alike":
        student, teacher = student[:1].expand(5, 3).clone(), teacher[:1].expand(5, 3)
    elif case == "opposite":
        student[1] = -student[0]
    else:
        student = teacher.clone()
    student.requires_grad_()
    value = relationship_loss(student, teacher, A, P, N, temperature)
    (slope,) = torch.autograd.grad(value, student, create_graph=True)
    (second,) = torch.autograd.grad(slope.sum(), student)
    assert value.isfinite()
    assert slope.isfinite().all()
    assert second.isfinite().all()
    if case == "as the teacher":
        assert value.item() == pytest.approx(0, abs=1e-12)
        assert slope.abs().max() < 1e-10 / min(temperature, 1)


def test_limits():
    student, teacher = normal(5, 3), normal(5, 2, seed=1)
    # Zero embeddings are at distance zero from each other: p = ½ everywhere.
    nothing = torch.zeros(5, 3, dtype=torch.float64)
    alike = torch.ones(5, 2, dtype=torch.float64)
    assert relationship_loss(nothing, alike, A, P, N).item() == 0
    # Identical anchor, positive and negative say nothing.
    assert relationship_loss(student, teacher, A, A, A, 0.1).item() == 0
    # Identical anchor and positive: d_ap = 0, but d_an counts.
    expected = slow_relationship(student, teacher, A, A, N, 0.5)
    assert relationship_loss(student, teacher, A, A, N, 0.5).item() == exactly(expected)
    assert expected > 0
    # At low temperatures every digit stays: a sure teacher, a student as sure of the contrary, z = 2 / τ.
    line, back = torch.tensor([[1.0], [1], [-1]]), torch.tensor([[1.0], [-1], [1]])
    one = [torch.tensor([place]) for place in range(3)]
    assert relationship_loss(back, line, *one, 1e-3).item() == pytest.approx(2000)
    assert relationship_loss(line, line, *one, 1e-3).item() == 0
    # Flat at high temperatures, and never negative.
    assert 0 <= relationship_loss(student, teacher, A, P, N, 1e6).item() < 1e-12


def test_relationship_does_not_see_rotation_length_or_width_but_shift():
    student, teacher = normal(5, 3), normal(5, 2, seed=1)
    expected = loss(student, teacher)
    turned = student @ torch.from_numpy(rotation(3))
    wider = torch.cat([turned, torch.zeros(5, 2)], dim=1) * torch.tensor([[0.1], [1], [7], [30], [2]])
    equal(loss(wider, teacher), expected)
    assert not torch.allclose(loss(student + 1, teacher), expected, rtol=1e-2)
    assert not torch.allclose(relationship_loss(student, teacher, A, N, P, 0.7), expected * 1.0001, rtol=1e-8)
    equal(relationship_loss(student, teacher, A, N, P, 0.7), expected)  # p and 1 − p change places in both


# --- bad input --------------------------------------------------------------------------------

X, Y = numbers(6, 3), numbers(6, 3, seed=1)
E, ROW = torch.ones(4, 2), torch.tensor([0, 1])


def match(**changes):
    arguments = {"student_embeddings": E, "teacher_embeddings": E, "anchor": ROW, "positive": ROW, "negative": ROW}
    return relationship_loss(**(arguments | changes))


@pytest.mark.parametrize(
    ("call", "error", "names"),
    [
        (lambda: extract_features(X, 0), ValueError, "components: expected 1 to 3, got 0"),
        (lambda: extract_features(X, 4), ValueError, "components: expected 1 to 3, got 4"),
        (lambda: extract_features(X, 2.0), TypeError, "components: expected an int, got float"),
        (lambda: extract_features(X[:1], 1), ValueError, r"x: expected shape \(n, D\), n ≥ 2 and D ≥ 1, got \(1, 3\)"),
        (lambda: extract_features(X[0], 1), ValueError, r"x: expected shape .*got \(3,\)"),
        (lambda: extract_features(X[:, :0], 1), ValueError, r"x: expected shape .*got \(6, 0\)"),
        (lambda: extract_features(X * np.nan, 1), ValueError, "x: expected finite values"),
        (lambda: extract_features([["a", "b"], ["c", "d"]], 1), TypeError, "x: expected numbers, got <U1"),
        (lambda: extract_features(X + 0j, 1), TypeError, "x: expected numbers, got complex128"),
        (lambda: extract_features([[1, 2], [3]], 1), ValueError, "x: expected an array, got rows of different lengths"),
        (lambda: extract_features(X, 3)[1].apply(X[:, :2]), ValueError, r"x: expected 3 columns, got shape \(6, 2\)"),
        (lambda: extract_features(X, 3)[1].apply(X[:0]), ValueError, "x: expected shape .*n ≥ 1"),
        (lambda: extract_features(X, 3)[1].apply(X + np.inf), ValueError, "x: expected finite values"),
        (lambda: fit_transfer_map(X, Y, ridge=-1e-9), ValueError, "ridge: expected .*at least 0, got -1e-09"),
        (lambda: fit_transfer_map(X, Y, ridge=np.nan), ValueError, "ridge: expected a finite number .*got nan"),
        (lambda: fit_transfer_map(X, Y, ridge="1"), TypeError, "ridge: expected a Python number, got str"),
        (lambda: fit_transfer_map(X, Y[:5]), ValueError, "target: expected the 6 examples of source, got 5"),
        (lambda: fit_transfer_map(X[:0], Y[:0]), ValueError, "source: expected shape"),
        (lambda: fit_transfer_map(X, Y[:, 0]), ValueError, r"target: expected shape .*got \(6,\)"),
        (lambda: fit_transfer_map(X, Y * np.inf), ValueError, "target: expected finite values"),
        (lambda: procrustes(X, Y[:, :2]), ValueError, "target: expected the 3 columns of source, got 2"),
        (lambda: procrustes(X, Y[:5]), ValueError, "target: expected the 6 examples of source, got 5"),
        (lambda: procrustes(X * np.nan, Y), ValueError, "source: expected finite values"),
        (lambda: fuse(X[0]), ValueError, r"predictions: expected shape \(M, n, …\) .*got \(3,\)"),
        (lambda: fuse(X[:0]), ValueError, r"predictions: expected shape .*got \(0, 3\)"),
        (lambda: fuse(X * np.nan), ValueError, "predictions: expected finite values"),
        (lambda: fuse(X[:2], [1]), ValueError, r"weights: expected shape \(2,\), one per model, got \(1,\)"),
        (lambda: fuse(X[:2], [[1], [1]]), ValueError, r"weights: expected shape \(2,\).*got \(2, 1\)"),
        (lambda: fuse(X[:2], [1, -1]), ValueError, r"weights: expected a sum other than zero, got \[1.0, -1.0\]"),
        (lambda: fuse(X[:2], [0, 0]), ValueError, "weights: expected a sum other than zero"),
        # 0.1 + 0.2 − 0.3 is 5.6e-17 after rounding: a fusion of sizes 1e16.
        (lambda: fuse(X[:3], [0.1, 0.2, -0.3]), ValueError, "weights: expected a sum other than zero"),
        (lambda: fuse(X[:2], [1, np.nan]), ValueError, "weights: expected finite values"),
        (lambda: fuse(X[:2], [1, None]), TypeError, "weights: expected numbers, got object"),
        (lambda: stacking_weights(X[0], Y[0]), ValueError, "predictions: expected shape"),
        (lambda: stacking_weights(X[None], Y[:5]), ValueError, r"targets: expected shape \(6, 3\) .*got \(5, 3\)"),
        (lambda: stacking_weights(X[None], Y * np.nan), ValueError, "targets: expected finite values"),
        (lambda: stacking_weights(-X[None], X), ValueError, "predictions: expected a model that agrees .*zero for all"),
        (lambda: stacking_weights(0 * X[None], X), ValueError, "predictions: expected a model that agrees"),
        (lambda: match(anchor=ROW[:0]), ValueError, r"anchor: expected at least one row number, .*got shape \(0,\)"),
        (lambda: match(positive=ROW[:1]), ValueError, "positive: expected 2 row numbers as in anchor, got 1"),
        (lambda: match(negative=ROW[:1]), ValueError, "negative: expected 2 row numbers as in anchor, got 1"),
        (lambda: match(negative=ROW + 3), ValueError, "negative: expected row numbers 0 to 3, got others"),
        (lambda: match(positive=ROW - 1), ValueError, "positive: expected row numbers 0 to 3, got others"),
        (lambda: match(anchor=ROW.float()), TypeError, "anchor: expected an int64 tensor, got torch.float32"),
        (lambda: match(anchor=[0, 1]), TypeError, "anchor: expected an int64 tensor, got list"),
        (lambda: match(anchor=ROW[None]), ValueError, r"anchor: expected .*got shape \(1, 2\)"),
        (lambda: match(temperature=0), ValueError, "temperature: expected .*above 0, got 0"),
        (lambda: match(temperature=None), TypeError, "temperature: expected a Python number, got NoneType"),
        (lambda: match(student_embeddings=E[0]), ValueError, "student_embeddings: expected 2 axes"),
        (lambda: match(student_embeddings=E.tolist()), TypeError, "student_embeddings: expected a torch.Tensor"),
        (lambda: match(student_embeddings=E * torch.nan), ValueError, "student_embeddings: expected finite"),
        (lambda: match(teacher_embeddings=E[..., None]), ValueError, "teacher_embeddings: expected 2 axes"),
        (lambda: match(teacher_embeddings=E / 0), ValueError, "teacher_embeddings: expected finite"),
        (lambda: match(teacher_embeddings=E[:3]), ValueError, "teacher_embeddings: expected the 4 examples of"),
        (lambda: match(teacher_embeddings=E.double()), TypeError, "teacher_embeddings: expected the dtype of student_"),
        (lambda: match(teacher_embeddings=E.long()), TypeError, "teacher_embeddings: expected a floating dtype"),
        (lambda: match(teacher_embeddings=E[:, :0]), ValueError, "teacher_embeddings: expected no axis of size zero"),
    ],
)  # fmt: skip
def test_bad_input_names_the_argument(call, error, names):
    with pytest.raises(error, match=names):
        call()
