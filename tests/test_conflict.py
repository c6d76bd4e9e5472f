"""The reference implementations of lesson 07 against slow loops, brute force, other solvers and autograd."""

import math
from functools import partial
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import EVERY_DTYPE, SEEDS, normal
from scipy.optimize import minimize
from torch import nn
from torch.func import grad, vmap

from ctkd_lessons.conflict import (
    cagrad,
    gradient_cosine,
    gradnorm_loss,
    mgda,
    pcgrad,
    task_gradients,
    two_task_weight,
    uncertainty_loss,
)

exactly = partial(pytest.approx, rel=1e-10, abs=1e-12)
close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-12)
near = partial(np.testing.assert_allclose, rtol=0, atol=1e-6)


def positive(*shape, seed=0):
    return normal(*shape, seed=seed).exp()


def orders(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).argsort(dim=-1)


def vectors(*rows, dtype=torch.float64):
    return torch.tensor(rows, dtype=dtype)


# --- slow ways, on lists of numbers or by trying everything -----------------------------------


def dot(a, b):
    return math.fsum(p * q for p, q in zip(a, b, strict=True))


def slow_cosine(gradients):
    rows = gradients.tolist()
    sizes = [math.sqrt(dot(row, row)) for row in rows]
    return [
        [dot(a, b) / (m * n) if m * n else 0.0 for b, n in zip(rows, sizes, strict=True)]
        for a, m in zip(rows, sizes, strict=True)
    ]


def slow_pcgrad(gradients, order):
    rows = gradients.tolist()
    total = [0.0] * len(rows[0])
    for i, row in enumerate(rows):
        rest = list(row)
        for j in order[i].tolist():
            product = dot(rest, rows[j])
            if j != i and product < 0:
                share = product / dot(rows[j], rows[j])
                rest = [value - share * other for value, other in zip(rest, rows[j], strict=True)]
        total = [value + other for value, other in zip(total, rest, strict=True)]
    return total


def slow_uncertainty(losses, log_variances):
    pairs = zip(losses.tolist(), log_variances.tolist(), strict=True)
    return math.fsum(loss / (2 * math.exp(s)) + s / 2 for loss, s in pairs)


def slow_gradnorm(norms, losses, first, weights, alpha):
    norms, losses, first, weights = (value.tolist() for value in (norms, losses, first, weights))
    ratios = [now / start for now, start in zip(losses, first, strict=True)]
    mean_ratio = math.fsum(ratios) / len(ratios)
    weighted = [w * norm for w, norm in zip(weights, norms, strict=True)]
    mean = math.fsum(weighted) / len(weighted)
    pairs = zip(weighted, ratios, strict=True)
    return math.fsum(abs(size - mean * (ratio / mean_ratio) ** alpha) for size, ratio in pairs)


def shortest_by_enumeration(gradients):
    """Return the shortest mixture: on every set of tasks, solve for weights of sum one; keep those that are ≥ 0."""
    rows, best = gradients.numpy(), None
    for size in range(1, len(rows) + 1):
        for some in map(list, combinations(range(len(rows)), size)):
            first, edges = rows[some[0]], rows[some[1:]] - rows[some[0]]
            others = np.linalg.lstsq(edges.T, -first)[0] if len(edges) else np.zeros(0)
            mixture = first + others @ edges
            allowed = 1 - others.sum() >= -1e-12 and (others >= -1e-12).all()
            if allowed and (best is None or mixture @ mixture < best @ best):
                best = mixture
    return best


def averse_by_slsqp(gradients, c):
    """Return CAGrad's direction from a general solver, on gradients scaled to about one."""
    scale = gradients.norm(dim=1).max().item()
    rows = gradients.numpy() / scale
    mean = rows.mean(axis=0)
    reach = c * np.linalg.norm(mean)
    starts = [np.full(len(rows), 1 / len(rows)), *(0.9 * np.eye(len(rows)) + 0.1 / len(rows))]
    found = [
        minimize(
            lambda w: w @ rows @ mean + reach * np.linalg.norm(w @ rows),
            start,
            jac=lambda w: rows @ mean + reach * rows @ (w @ rows) / np.linalg.norm(w @ rows),
            bounds=[(0, 1)] * len(rows),
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
            method="SLSQP",
            options={"ftol": 1e-16, "maxiter": 1000},
        )
        for start in starts
    ]
    mixture = min(found, key=lambda one: one.fun).x @ rows
    return (mean + reach * mixture / np.linalg.norm(mixture)) * scale


# --- task_gradients ---------------------------------------------------------------------------


def network(width=5, tasks=3):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trunk = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, width))
        return trunk.double(), nn.ModuleList(nn.Linear(width, 1) for _ in range(tasks)).double()


@pytest.mark.parametrize("batched", [True, False])
def test_task_gradients_are_those_of_a_backward_per_task(batched):
    trunk, heads = network()
    x = normal(7, 4)
    losses = torch.stack([head(trunk(x)).square().mean() for head in heads])
    found = task_gradients(losses, trunk.parameters(), batched=batched)
    for k, head in enumerate(heads):
        trunk.zero_grad()
        head(trunk(x)).square().mean().backward()
        close(found[k], nn.utils.parameters_to_vector([p.grad for p in trunk.parameters()]))
    assert not found.requires_grad


@pytest.mark.parametrize("batched", [True, False])
def test_a_parameter_that_a_task_does_not_reach_counts_zero(batched):
    a, b = normal(3).requires_grad_(), normal(2, 2).requires_grad_()
    losses = torch.stack([a.sum(), (2 * b).sum(), torch.zeros((), dtype=torch.float64)])
    expected = vectors([1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 2, 2, 2, 2], [0] * 7)
    assert torch.equal(task_gradients(losses, [a, b], batched=batched), expected)


def test_a_task_without_examples_counts_zero_when_its_loss_does():
    """A mean over nothing is nan and is refused; a sum over nothing divided by at least one is 0."""
    trunk, heads = network(tasks=2)
    answers = [head(trunk(normal(4, 4))) for head in heads]
    empty = answers[1][:0].square()
    with pytest.raises(ValueError, match="losses: expected finite values, got nan or inf"):
        task_gradients(torch.stack([answers[0].square().mean(), empty.mean()]), trunk.parameters())
    losses = torch.stack([answers[0].square().mean(), empty.sum() / max(len(empty), 1)])
    found = task_gradients(losses, trunk.parameters())
    assert found[0].any()
    assert not found[1].any()
    close(pcgrad(found, orders(2, 2)), found[0])
    assert not mgda(found)[1].any()


def test_convolutions_have_task_gradients_too():
    trunk, x = nn.Conv2d(1, 2, 3), normal(2, 1, 5, 5, dtype=torch.float32)
    losses = lambda answer: torch.stack([answer.square().mean(), answer.mean()])
    both = [task_gradients(losses(trunk(x)), trunk.parameters(), batched=batched) for batched in (True, False)]
    torch.testing.assert_close(*both)


# --- gradient_cosine --------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 8), st.integers(1, 20), SEEDS)
def test_cosines_equal_a_slow_loop(tasks, width, seed):
    gradients = normal(tasks, width, seed=seed) * positive(tasks, 1, seed=seed + 1)
    close(gradient_cosine(gradients), vectors(*slow_cosine(gradients)))


def test_cosines_know_no_lengths_and_zero_stays_zero():
    gradients = vectors([3, 4], [-30, -40], [0, 0], [4e-200, -3e-200])
    close(gradient_cosine(gradients), vectors([1, -1, 0, 0], [-1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]))


def test_cosines_have_a_gradient_also_beside_zero():
    gradients = normal(3, 4).requires_grad_()
    assert torch.autograd.gradcheck(gradient_cosine, (gradients,))
    zero = torch.zeros(2, 3, requires_grad=True)
    gradient_cosine(zero).sum().backward()
    assert torch.isfinite(zero.grad).all()


# --- uncertainty_loss -------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 8), SEEDS)
def test_uncertainty_equals_a_slow_sum(tasks, seed):
    losses, s = positive(tasks, seed=seed), normal(tasks, seed=seed + 1)
    assert uncertainty_loss(losses, s).item() == exactly(slow_uncertainty(losses, s))


def test_uncertainty_has_the_right_gradients():
    losses, s = positive(4).requires_grad_(), normal(4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(uncertainty_loss, (losses, s))
    assert torch.autograd.gradgradcheck(uncertainty_loss, (losses, s))


def test_uncertainty_is_least_where_the_variance_is_the_loss():
    losses = positive(4)
    s = losses.log().requires_grad_()
    uncertainty_loss(losses, s).backward()
    close(s.grad, torch.zeros_like(s))
    close(uncertainty_loss(losses, s.detach()), (1 + losses.log()).sum() / 2)


def test_a_loss_of_zero_pulls_its_variance_down_for_ever_and_stays_finite():
    losses, s = vectors(0.0, 1.0), torch.zeros(2, dtype=torch.float64, requires_grad=True)
    value = uncertainty_loss(losses, s)
    value.backward()
    assert value.item() == 0.5
    assert s.grad.tolist() == [0.5, 0.0]


# --- gradnorm_loss ----------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 8), st.sampled_from([0, 0.12, 1.5, 3.0]), SEEDS)
def test_gradnorm_equals_a_slow_sum(tasks, alpha, seed):
    arguments = [positive(tasks, seed=seed + k) for k in range(4)]
    assert gradnorm_loss(*arguments, alpha).item() == exactly(slow_gradnorm(*arguments, alpha))


def test_gradnorm_trains_the_weights_alone_towards_a_constant_target():
    norms, losses, first, weights = (positive(5, seed=k).requires_grad_() for k in range(4))
    gradnorm_loss(norms, losses, first, weights).backward()
    assert norms.grad is losses.grad is first.grad is None
    ratio = losses / first
    target = ((weights * norms).mean() * (ratio / ratio.mean()) ** 1.5).detach()
    close(weights.grad, (torch.sign(weights * norms - target) * norms).detach())
    found = grad(gradnorm_loss, argnums=3)(norms.detach(), losses.detach(), first.detach(), weights.detach())
    close(found, weights.grad)


def test_gradnorm_gives_the_slow_task_a_longer_gradient():
    """Both gradients are equally long, but the second task has come less far: its weight should grow."""
    weights = torch.ones(2, requires_grad=True)
    gradnorm_loss(torch.ones(2), torch.tensor([0.1, 0.9]), torch.ones(2), weights).backward()
    assert weights.grad[0] > 0 > weights.grad[1]


def test_gradnorm_at_its_limits():
    one, zero = torch.ones(2), torch.zeros(2)
    assert gradnorm_loss(one, zero, one, one).item() == 0  # no loss left: all rates are one
    assert gradnorm_loss(zero, one, one, one).item() == 0  # no gradient anywhere
    assert gradnorm_loss(one, torch.tensor([0.0, 1.0]), one, one).item() == pytest.approx(1 + 2**1.5 - 1)
    assert gradnorm_loss(one[:1], one[:1], one[:1], one[:1]).item() == 0  # a single task
    weights = torch.ones(2, requires_grad=True)
    gradnorm_loss(one, zero, one, weights).backward()
    assert torch.isfinite(weights.grad).all()


# --- pcgrad -----------------------------------------------------------------------------------


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 8), st.integers(1, 20), SEEDS)
def test_pcgrad_equals_a_slow_loop(tasks, width, seed):
    gradients, order = normal(tasks, width, seed=seed), orders(tasks, tasks, seed=seed)
    gradients = gradients * positive(tasks, 1, seed=seed + 1)
    expected = vectors(*slow_pcgrad(gradients, order))
    close(pcgrad(gradients, order), expected, atol=1e-10 * gradients.norm().item())


def test_pcgrad_by_hand():
    """The first keeps what is across the second, and the other way round."""
    gradients = vectors([1, 0], [-1, 1])
    close(pcgrad(gradients, orders(2, 2)), vectors(0.5, 0.5) + vectors(0, 1))


def test_pcgrad_depends_on_the_order():
    gradients = vectors([1, 0, 0], [-1, 1, 0], [-1, -1, 0.5])
    first, second = torch.tensor([[0, 1, 2], [1, 0, 2], [2, 0, 1]]), torch.tensor([[0, 2, 1], [1, 2, 0], [2, 1, 0]])
    assert (pcgrad(gradients, first) - pcgrad(gradients, second)).abs().max() > 0.1


def test_pcgrad_is_the_sum_where_nothing_conflicts():
    gradients = positive(4, 6)
    close(pcgrad(gradients, orders(4, 4)), gradients.sum(0))
    close(pcgrad(gradients[:1], torch.zeros(1, 1, dtype=torch.int64)), gradients[0])


def test_pcgrad_at_its_limits():
    order = torch.tensor([[0, 1], [1, 0]])
    assert not pcgrad(vectors([1, 2], [-1, -2]), order).any()  # nothing is left of opposite gradients
    close(pcgrad(vectors([1, 2], [0, 0]), order), vectors(1, 2))  # a task without gradient stays out
    assert not pcgrad(torch.zeros(2, 3), order).any()
    gradients = normal(2, 9, seed=3)
    for scale in (1e-160, 1e150):
        close(pcgrad(gradients * scale, order) / scale, pcgrad(gradients, order))


# --- mgda -------------------------------------------------------------------------------------


@pytest.mark.parametrize("tasks", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("width", [1, 2, 4, 8, 30])
@pytest.mark.parametrize("seed", range(4))
def test_mgda_equals_the_best_of_all_sets_of_tasks(tasks, width, seed):
    gradients = (normal(tasks, width, seed=seed) + 0.3 * seed) * positive(tasks, 1, seed=seed + 9)
    weights, direction = mgda(gradients)
    near(direction.numpy(), shortest_by_enumeration(gradients))
    assert (weights >= 0).all()
    assert weights.sum().item() == exactly(1)
    close(direction, weights @ gradients)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 8), st.integers(1, 40), st.sampled_from([1e-12, 1.0, 1e9]), SEEDS)
def test_no_task_objects_to_the_shortest_mixture(tasks, width, scale, seed):
    """g_i · d ≥ ‖d‖² for all i: this holds for the shortest mixture and no other."""
    gradients = normal(tasks, width, seed=seed) * scale
    _, direction = mgda(gradients)
    assert (gradients @ direction - direction @ direction).min() >= -1e-9 * scale**2


def test_mgda_of_dominated_and_collinear_gradients():
    for rows, expected in {
        ((1.0, 0.0), (2.0, 0.0)): (1, 0),  # the same direction: the shorter one
        ((1.0, 0.0), (3.0, 0.1)): (1, 0),  # dominated: the mixture would be longer
        ((1.0, 0.0), (-2.0, 0.0)): (0, 0),  # opposite: nothing is left
        ((1.0, 1.0), (1.0, 1.0)): (1, 1),  # the same twice
        ((1.0, 0.0), (0.0, 1.0)): (0.5, 0.5),
        ((1.0, 0.0), (0.0, 1.0), (0.5, 0.5)): (0.5, 0.5),  # the third lies between the others
        ((1.0, 0.0), (0.0, 1.0), (5.0, 5.0)): (0.5, 0.5),
        ((1.0, 1e-9), (1.0, -1e-9)): (1, 0),
        ((1e-8, 0.0), (0.0, 1e8)): (1e-8, 0),
    }.items():
        weights, direction = mgda(vectors(*rows))
        near(direction.numpy(), expected)
        assert weights.min() >= 0
        assert weights.sum().item() == exactly(1)


def test_mgda_at_its_limits():
    for gradients in (torch.zeros(3, 4), torch.cat([normal(2, 4, dtype=torch.float32), torch.zeros(1, 4)])):
        weights, direction = mgda(gradients)
        assert not direction.any()
        assert weights.sum() == 1
    weights, direction = mgda(normal(1, 4))
    assert weights.tolist() == [1]
    close(direction, normal(1, 4)[0])


# --- two_task_weight --------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 9), st.sampled_from([1e-170, 1e-6, 1.0, 1e100]), SEEDS)
def test_two_tasks_need_no_solver(width, scale, seed):
    first, second = normal(2, width, seed=seed) * positive(2, 1, seed=seed + 1)
    weight = two_task_weight(first * scale, second * scale)
    _, direction = mgda(torch.stack([first, second]))
    near((weight * first + (1 - weight) * second).numpy(), direction.numpy())
    assert 0 <= weight <= 1


def test_two_tasks_at_their_limits():
    one, zero = vectors(1.0, 2.0), vectors(0.0, 0.0)
    assert two_task_weight(one, one).item() == 0.5
    assert two_task_weight(zero, zero).item() == 0.5
    assert two_task_weight(zero, one).item() == 1  # a task without gradient gets all the weight
    assert two_task_weight(one, 3 * one).item() == 1
    assert two_task_weight(3 * one, one).item() == 0
    assert two_task_weight(one, -one).item() == 0.5


def test_two_task_weight_maps_over_seeds():
    first, second = normal(5, 4), normal(5, 4, seed=1)
    close(vmap(two_task_weight)(first, second), torch.stack(list(map(two_task_weight, first, second))))


# --- cagrad -----------------------------------------------------------------------------------


def apart(tasks, width, seed):
    """Gradients that conflict, but whose mixtures stay away from zero."""
    return normal(tasks, width, seed=seed) + 0.7 * normal(width, seed=seed + 99)


@pytest.mark.parametrize("tasks", [1, 2, 3, 8])
@pytest.mark.parametrize("c", [0.1, 0.5, 0.9, 1.5])
@pytest.mark.parametrize("seed", range(4))
def test_cagrad_equals_a_general_solver(tasks, c, seed):
    gradients = apart(tasks, 12, seed)
    weights, direction = cagrad(gradients, c)
    near(direction.numpy(), averse_by_slsqp(gradients, c), atol=1e-6 * gradients.norm().item())
    mixture, mean = weights @ gradients, gradients.mean(0)
    close(direction, mean + c * mean.norm() * mixture / mixture.norm())
    assert weights.min() >= 0
    assert weights.sum().item() == exactly(1)


@settings(deadline=None, max_examples=80)
@given(st.integers(1, 8), st.integers(1, 20), st.sampled_from([0.1, 0.5, 0.9, 2.0]), SEEDS)
def test_cagrad_reaches_its_upper_bound(tasks, width, c, seed):
    """For any weights, g_w · g_0 + c ‖g_0‖ ‖g_w‖ bounds what the worst task can gain: no direction does better."""
    gradients = normal(tasks, width, seed=seed)
    weights, direction = cagrad(gradients, c)
    mixture, mean = weights @ gradients, gradients.mean(0)
    reach, size = c * mean.norm(), gradients.norm() ** 2
    assert (direction - mean).norm() <= reach * (1 + 1e-6)
    if mixture.norm() > 1e-6:
        bound = mixture @ mean + reach * mixture.norm()
        assert (gradients @ direction).min() >= bound - 1e-7 * size


@pytest.mark.parametrize("tasks", [2, 3, 8])
@pytest.mark.parametrize("scale", [1e-6, 1e-12, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cagrad_does_not_see_the_scale(tasks, scale, dtype):
    for seed in range(5):
        gradients = apart(tasks, 30, seed).to(dtype)
        weights, direction = cagrad(gradients)
        small_weights, small = cagrad(gradients * scale)
        tolerance = 1e-6 if dtype == torch.float64 else 1e-5
        near(small.numpy() / scale, direction.numpy(), atol=tolerance * gradients.norm().item())
        near(small_weights.numpy(), weights.numpy(), atol=10 * tolerance)
        assert (weights - 1 / tasks).abs().max() > 1e-3


@pytest.mark.parametrize("c", [1.5, 2.0])
@pytest.mark.parametrize("width", [1, 2, 3])
def test_cagrad_with_a_long_reach_where_nothing_improves_all(width, c):
    """Zero is a mixture of these: no direction improves all, and with c > 1 the formula would divide 0 by 0."""
    found = 0
    for seed in range(40):
        gradients = normal(5, width, seed=seed)
        if np.linalg.norm(shortest_by_enumeration(gradients)) < 1e-9:
            found += 1
            close(cagrad(gradients, c)[1], gradients.mean(0))
    assert found > 5


def test_cagrad_without_reach_is_the_mean():
    gradients = normal(4, 6)
    close(cagrad(gradients, 0)[1], gradients.mean(0))


def test_cagrad_at_its_limits():
    for gradients in (torch.zeros(2, 3), vectors([1, 0], [-1, 0])):
        weights, direction = cagrad(gradients)
        assert not direction.any()
        assert weights.sum().item() == pytest.approx(1)
    gradient = vectors([3, 4])
    close(cagrad(gradient, 0.5)[1], 1.5 * gradient[0])  # a single task: reach into its own direction
    weights, direction = cagrad(vectors([1, 2], [0, 0]))  # a task that nothing improves: all weight, mean direction
    assert weights.tolist() == [0, 1]
    close(direction, vectors(0.5, 1))


# --- all of them ------------------------------------------------------------------------------


@EVERY_DTYPE
def test_the_dtype_stays(dtype):
    gradients, order = normal(3, 6, dtype=dtype), orders(3, 3)
    losses, s = positive(3).to(dtype), normal(3, dtype=dtype)
    values = [gradient_cosine(gradients), pcgrad(gradients, order), *mgda(gradients), *cagrad(gradients)]
    values += [uncertainty_loss(losses, s), gradnorm_loss(losses, losses, losses, s)]
    values += [two_task_weight(gradients[0], gradients[1])]
    wide = gradients.double()
    exact = [gradient_cosine(wide), pcgrad(wide, order), *mgda(wide), *cagrad(wide)]
    for value, right in zip(values, exact, strict=False):
        torch.testing.assert_close(value.double(), right, rtol=0, atol=4 * torch.finfo(dtype).eps * wide.norm().item())
    assert {value.dtype for value in values} == {dtype}


@EVERY_DTYPE
def test_half_precision_does_not_overflow(dtype):
    """The square of 300 is beyond float16."""
    gradients = torch.tensor([[300.0, 0], [-300, 300]], dtype=dtype)
    torch.testing.assert_close(gradient_cosine(gradients)[0, 1].item(), -(0.5**0.5), rtol=1e-2, atol=0)
    order = orders(2, 2)
    assert pcgrad(gradients, order).tolist() == pytest.approx([150, 450], rel=1e-2)
    assert mgda(gradients)[1].tolist() == pytest.approx([60, 120], rel=1e-2)
    assert torch.isfinite(cagrad(gradients)[1]).all()
    assert two_task_weight(*gradients).item() == pytest.approx(0.6, rel=1e-2)


def test_all_that_is_mapped_equals_a_loop():
    gradients, order = normal(6, 4, 7), orders(6, 4, 4)
    close(vmap(gradient_cosine)(gradients), torch.stack([gradient_cosine(one) for one in gradients]))
    close(vmap(pcgrad)(gradients, order), torch.stack([pcgrad(*both) for both in zip(gradients, order, strict=True)]))
    four = [positive(6, 4, seed=k) for k in range(4)]
    for function, arguments in ((uncertainty_loss, four[:2]), (gradnorm_loss, four)):
        together = vmap(function)(*arguments)
        close(together, torch.stack([function(*one) for one in zip(*arguments, strict=True)]))
        place = len(arguments) - 1
        together = vmap(grad(function, argnums=place))(*arguments)
        one_by_one = [grad(function, argnums=place)(*one) for one in zip(*arguments, strict=True)]
        close(together, torch.stack(one_by_one))


def test_no_gradient_passes_through_the_surgeons():
    gradients = normal(3, 4).requires_grad_()
    for direction in (pcgrad(gradients, orders(3, 3)), mgda(gradients)[1], cagrad(gradients)[1]):
        assert not direction.requires_grad


def test_nothing_changes_its_input():
    gradients, order = normal(3, 4), orders(3, 3)
    for function in (gradient_cosine, partial(pcgrad, order=order), mgda, cagrad):
        function(gradients)
    assert torch.equal(gradients, normal(3, 4))
    assert torch.equal(order, orders(3, 3))


# --- bad input --------------------------------------------------------------------------------

ONE, PAIR, GRADIENTS, ORDER = torch.ones(1), torch.ones(2), torch.ones(2, 3), torch.tensor([[0, 1], [1, 0]])
WEIGHT = torch.ones((), requires_grad=True)
SURGEONS = {"gradient_cosine": gradient_cosine, "pcgrad": lambda g: pcgrad(g, ORDER), "mgda": mgda, "cagrad": cagrad}


@pytest.mark.parametrize("function", SURGEONS.values(), ids=SURGEONS)
@pytest.mark.parametrize(
    ("gradients", "error", "names"),
    [
        ([[1.0]], TypeError, "gradients: expected a torch.Tensor, got list"),
        (torch.ones(2, 3, dtype=torch.int64), TypeError, "gradients: expected a floating dtype, got torch.int64"),
        (torch.ones(3), ValueError, r"gradients: expected shape \(K, P\), a row per task, got \(3,\)"),
        (torch.ones(1, 2, 3), ValueError, r"gradients: expected shape \(K, P\)"),
        (torch.ones(0, 3), ValueError, r"gradients: expected at least one .* got shape \(0, 3\)"),
        (torch.ones(2, 0), ValueError, r"gradients: expected at least one .* got shape \(2, 0\)"),
        (torch.full((2, 3), torch.nan), ValueError, "gradients: expected finite values, got nan or inf"),
        (torch.full((2, 3), torch.inf), ValueError, "gradients: expected finite values, got nan or inf"),
    ],
)
def test_gradients_that_are_none(function, gradients, error, names):
    with pytest.raises(error, match=names):
        function(gradients)


BAD = {
    "uncertainty inf": (lambda: uncertainty_loss(PAIR / 0, PAIR), ValueError, "losses: expected finite values"),
    "uncertainty nan": (lambda: uncertainty_loss(PAIR * torch.nan, PAIR), ValueError, "losses: expected finite"),
    "uncertainty negative": (lambda: uncertainty_loss(-PAIR, PAIR), ValueError, "losses: .* at least 0, got a neg"),
    "uncertainty list": (lambda: uncertainty_loss([1.0], PAIR), TypeError, "losses: expected a torch.Tensor, got list"),
    "uncertainty scalar": (lambda: uncertainty_loss(WEIGHT, WEIGHT), ValueError, r"losses: expected .* got shape \(\)"),
    "uncertainty none": (lambda: uncertainty_loss(PAIR[:0], PAIR[:0]), ValueError, "losses: expected at least one"),
    "uncertainty shapes": (
        lambda: uncertainty_loss(PAIR, ONE),
        ValueError,
        r"log_variances: expected the shape of losses, \(2,\), got \(1,\)",
    ),
    "uncertainty dtypes": (lambda: uncertainty_loss(PAIR, PAIR.double()), TypeError, "log_variances: .* dtype of los"),
    "uncertainty rows": (lambda: uncertainty_loss(GRADIENTS, GRADIENTS), ValueError, r"losses: expected shape \(K,\)"),
    "uncertainty variance": (lambda: uncertainty_loss(PAIR, PAIR / 0), ValueError, "log_variances: expected finite"),
    "gradnorm inf": (lambda: gradnorm_loss(PAIR, PAIR / 0, PAIR, PAIR), ValueError, "^losses: expected finite"),
    "gradnorm negative": (lambda: gradnorm_loss(PAIR, -PAIR, PAIR, PAIR), ValueError, "^losses: .* at least 0"),
    "gradnorm length": (lambda: gradnorm_loss(-PAIR, PAIR, PAIR, PAIR), ValueError, "gradient_norms: .* at least 0"),
    "gradnorm nan": (lambda: gradnorm_loss(PAIR, PAIR, PAIR, PAIR * torch.nan), ValueError, "weights: expected fin"),
    "gradnorm first": (
        lambda: gradnorm_loss(PAIR, PAIR, PAIR * 0, PAIR),
        ValueError,
        "first_losses: expected losses above zero, got zero",
    ),
    "gradnorm shapes": (lambda: gradnorm_loss(PAIR, PAIR, PAIR, ONE), ValueError, "weights: expected the shape of gra"),
    "gradnorm alpha": (lambda: gradnorm_loss(PAIR, PAIR, PAIR, PAIR, -1), ValueError, "alpha: .* at least 0, got -1"),
    "order list": (lambda: pcgrad(GRADIENTS, [[0, 1], [1, 0]]), TypeError, "order: expected an int64 tensor, got list"),
    "order floats": (lambda: pcgrad(GRADIENTS, ORDER.float()), TypeError, "order: .* got torch.float32"),
    "order one row": (lambda: pcgrad(GRADIENTS, ORDER[0]), ValueError, r"order: expected shape \(2, 2\), .* \(2,\)"),
    "order too wide": (
        lambda: pcgrad(GRADIENTS, orders(3, 3)),
        ValueError,
        r"order: expected shape \(2, 2\), a row per task, got \(3, 3\)",
    ),
    "order twice": (
        lambda: pcgrad(GRADIENTS, ORDER * 0),
        ValueError,
        "order: expected every row to be a permutation of 0 to 1, got one that is not",
    ),
    "order from one": (lambda: pcgrad(GRADIENTS, ORDER + 1), ValueError, "order: .* permutation of 0 to 1"),
    "order negative": (lambda: pcgrad(GRADIENTS, ORDER - 1), ValueError, "order: .* permutation of 0 to 1"),
    "c negative": (lambda: cagrad(GRADIENTS, -0.1), ValueError, "c: expected a finite number at least 0, got -0.1"),
    "c nan": (lambda: cagrad(GRADIENTS, math.nan), ValueError, "c: expected a finite number"),
    "c a tensor": (lambda: cagrad(GRADIENTS, ONE), TypeError, "c: expected a Python number, got Tensor"),
    "two widths": (lambda: two_task_weight(PAIR, ONE), ValueError, r"second: expected the shape of first, \(2,\)"),
    "two rows": (lambda: two_task_weight(GRADIENTS, GRADIENTS), ValueError, "first: expected 1 axes"),
    "two dtypes": (lambda: two_task_weight(PAIR, PAIR.double()), TypeError, "second: expected the dtype of first"),
    "two nan": (lambda: two_task_weight(PAIR, PAIR * torch.nan), ValueError, "second: expected finite values"),
    "no parameters": (lambda: task_gradients(PAIR * WEIGHT, []), ValueError, "parameters: expected at least one ten"),
    "no graph": (lambda: task_gradients(PAIR, [WEIGHT]), ValueError, "losses: expected losses that depend on the par"),
    "a scalar loss": (lambda: task_gradients(2 * WEIGHT, [WEIGHT]), ValueError, r"losses: .* got shape \(\)"),
    "an infinite loss": (lambda: task_gradients(PAIR * WEIGHT / 0, [WEIGHT]), ValueError, "losses: expected finite"),
}


@pytest.mark.parametrize(("call", "error", "names"), BAD.values(), ids=BAD)
def test_bad_input_names_the_argument(call, error, names):
    with pytest.raises(error, match=names):
        call()
