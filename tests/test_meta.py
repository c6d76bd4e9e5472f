"""Lesson 10's inner and outer loops against plain loops, torch.optim, closed forms, autograd."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import SEEDS, normal
from torch import nn
from torch.func import functional_call, grad, grad_and_value, vmap

from ctkd_lessons.meta import adapt, maml_loss, reptile_direction
from ctkd_lessons.models import conv, mlp
from ctkd_lessons.training import Source, fit

close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-12)
TASKS, WAYS = 3, 3


def made(build, *, seed=0, dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build().to(dtype)


def parameters(model):
    return {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}


def regression(model):
    return lambda params, x, y: F.mse_loss(functional_call(model, params, (x,)), y)


def classification(model):
    return lambda params, x, y: F.cross_entropy(functional_call(model, params, (x,)), y)


def waves(tasks=TASKS, points=4, seed=0, dtype=torch.float64):
    return normal(tasks, points, 1, seed=seed, dtype=dtype), normal(tasks, points, 1, seed=seed + 1, dtype=dtype)


def vectors(width, tasks=TASKS, points=4, seed=0):
    labels = torch.randint(WAYS, (tasks, points), generator=torch.Generator().manual_seed(seed))
    return normal(tasks, points, width, seed=seed), labels


def linear(params, x, y):
    """Half the squared error of w · x + b, for a tuple (w, b)."""
    return (x @ params[0] + params[1] - y).square().mean() / 2


def pair(width=3, seed=0):
    return normal(width, seed=seed).requires_grad_(), normal(seed=seed + 1).requires_grad_()


def lines(*shape, seed=0):
    """Inputs (…, D), and a target for each."""
    return normal(*shape, seed=seed), normal(*shape[:-1], seed=seed + 1)


# --- what they are compared with: plain loops -------------------------------------------------


def stepped(loss, params, batch, *, lr, steps, first_order=False, only=None):
    """Inner steps written out with torch.autograd, on a dict."""
    now = dict(params)
    for _ in range(steps):
        names = [name for name in now if only is None or name in only]
        gradients = torch.autograd.grad(
            loss(now, *batch), [now[name] for name in names], create_graph=True, allow_unused=True
        )
        for name, gradient in zip(names, gradients, strict=True):
            if gradient is not None:
                now[name] = now[name] - lr * (gradient.detach() if first_order else gradient)
    return now


def looped(loss, params, support, query, **how):
    """The mean query loss, one task after the other."""
    total = 0
    for task in range(len(support[0])):
        end = stepped(loss, params, [part[task] for part in support], **how)
        total = total + loss(end, *[part[task] for part in query])
    return total / len(support[0])


def value_and_gradients(value, params):
    entries = list(params.values() if isinstance(params, dict) else params)
    found = torch.autograd.grad(value, entries, allow_unused=True)
    return [value.detach()] + [torch.zeros_like(e) if g is None else g for e, g in zip(entries, found, strict=True)]


def agrees(loss, params, support, query, *, together=(None, True, False), **how):
    """Compare value and meta-gradient with the plain loop; return the latter."""
    expected = value_and_gradients(looped(loss, params, support, query, **how), params)
    for choice in together:
        found = value_and_gradients(maml_loss(loss, params, support, query, together=choice, **how), params)
        for one, other in zip(found, expected, strict=True):
            close(one, other)
    return expected


# --- adapt ------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 1, 2, 7])
def test_adapt_equals_torchs_sgd_on_a_copy(steps):
    model = made(lambda: mlp([1, 6, 5, 1]))
    params, (x, y) = parameters(model), waves(1)
    found = adapt(regression(model), params, x[0], y[0], lr=0.1, steps=steps)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimiser.zero_grad()
        F.mse_loss(model(x[0]), y[0]).backward()
        optimiser.step()
    assert list(found) == list(params)
    for name, value in model.named_parameters():
        close(found[name], value)
        assert torch.equal(params[name], made(lambda: mlp([1, 6, 5, 1])).get_parameter(name))


def test_a_tuple_and_a_dict_give_the_same():
    params, batch = pair(), lines(5, 3, seed=2)
    as_tuple = adapt(linear, params, *batch, lr=0.1, steps=3)
    as_dict = adapt(
        lambda params, *batch: linear((params["w"], params["b"]), *batch),
        dict(zip("wb", params, strict=True)),
        *batch,
        lr=0.1,
        steps=3,
    )
    assert isinstance(as_tuple, tuple)
    assert list(as_dict) == ["w", "b"]
    for one, other in zip(as_tuple, as_dict.values(), strict=True):
        assert torch.equal(one, other)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.integers(0, 6), st.floats(0.01, 0.3), SEEDS)
def test_adapt_on_a_quadratic_equals_its_closed_form(width, steps, lr, seed):
    """With L = ½ θᵀHθ − cᵀθ every step multiplies the distance to the minimum by I − αH; so does the derivative."""
    root, c = normal(width + 1, width, seed=seed), normal(width, seed=seed + 1)
    hessian = root.T @ root / width
    theta = normal(width, seed=seed + 2).requires_grad_()
    quadratic = lambda params, h, c: params[0] @ h @ params[0] / 2 - c @ params[0]
    (end,) = adapt(quadratic, (theta,), hessian, c, lr=lr, steps=steps)
    power = torch.linalg.matrix_power(torch.eye(width, dtype=torch.float64) - lr * hessian, steps)
    lowest = torch.linalg.solve(hessian, c)
    torch.testing.assert_close(end, lowest + power @ (theta - lowest), rtol=1e-7, atol=1e-7)
    jacobian = torch.stack([torch.autograd.grad(one, theta, retain_graph=True)[0] for one in end])
    close(jacobian, power)
    # First order: the steps' gradients are constants.
    (end,) = adapt(quadratic, (theta,), hessian, c, lr=lr, steps=steps, first_order=True)
    jacobian = torch.stack([torch.autograd.grad(one, theta, retain_graph=True)[0] for one in end])
    assert torch.equal(jacobian, torch.eye(width, dtype=torch.float64))


def test_the_gradient_through_the_steps_equals_finite_differences():
    model = made(lambda: nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)))
    names, batch = list(parameters(model)), (normal(4, 2), normal(4, 1, seed=1))

    def after(x, y, *entries):
        params = dict(zip(names, entries, strict=True))
        end = adapt(regression(model), params, x, y, lr=0.3, steps=2)
        return regression(model)(end, 0.5 * batch[0], -batch[1])

    inputs = [batch[0].clone().requires_grad_(), batch[1].clone().requires_grad_(), *parameters(model).values()]
    assert torch.autograd.gradcheck(after, inputs)
    assert torch.autograd.gradgradcheck(after, inputs)


def test_adapt_leaves_the_given_parameters_and_the_dict_alone():
    model = made(lambda: mlp([1, 4, 1]))
    params, (x, y) = parameters(model), waves(1)
    before, entries = {name: value.clone() for name, value in params.items()}, dict(params)
    found = adapt(regression(model), params, x[0], y[0], lr=0.5, steps=3)
    for name, value in before.items():
        assert params[name] is entries[name]
        assert torch.equal(params[name], value)
        assert params[name].grad is None
        assert not torch.equal(found[name], value)


@pytest.mark.parametrize("only", [["2.weight", "2.bias"], {"2.bias"}, ("0.weight",)])
@pytest.mark.parametrize("first_order", [True, False])
def test_only_some_parameters_adapt(only, first_order):
    model = made(lambda: mlp([1, 4, 1]))
    params, (x, y) = parameters(model), waves(1)
    found = adapt(regression(model), params, x[0], y[0], lr=0.2, steps=3, first_order=first_order, only=only)
    expected = stepped(regression(model), params, (x[0], y[0]), lr=0.2, steps=3, first_order=first_order, only=only)
    for name, value in found.items():
        close(value, expected[name])
        assert (value is params[name]) == (name not in only)
    for one, other in zip(
        value_and_gradients(regression(model)(found, x[0], y[0]), params),
        value_and_gradients(regression(model)(expected, x[0], y[0]), params),
        strict=True,
    ):
        close(one, other)


def test_only_for_a_tuple_names_places():
    params, batch = pair(), lines(5, 3, seed=2)
    found = adapt(linear, params, *batch, lr=0.1, steps=2, only=[1])
    assert found[0] is params[0]
    assert found[1] != params[1]


def test_adapt_under_vmap_equals_a_loop():
    params, (x, y) = pair(), lines(TASKS, 5, 3, seed=2)
    each = [adapt(linear, params, *batch, lr=0.1, steps=3) for batch in zip(x, y, strict=True)]
    found = vmap(lambda x, y: adapt(linear, params, x, y, lr=0.1, steps=3))(x, y)
    for one, several in zip(found, zip(*each, strict=True), strict=True):
        close(one, torch.stack(several))
    # Starts of their own, too.
    starts = normal(TASKS, 3, seed=8), normal(TASKS, seed=9)
    found = vmap(lambda w, b, x, y: adapt(linear, (w, b), x, y, lr=0.1, steps=2))(*starts, x, y)
    for place in range(TASKS):
        expected = adapt(linear, tuple(s[place] for s in starts), x[place], y[place], lr=0.1, steps=2)
        for one, other in zip(found, expected, strict=True):
            close(one[place], other)


@pytest.mark.parametrize("first_order", [True, False])
def test_adapt_under_grad_equals_autograd(first_order):
    params, (x, y) = pair(), lines(5, 3, seed=2)
    after = lambda params: linear(adapt(linear, params, x, y, lr=0.1, steps=3, first_order=first_order), 2 * x, y)
    expected = torch.autograd.grad(after(params), params)
    for one, other in zip(grad(after)(params), expected, strict=True):
        close(one, other)


# --- maml_loss: one parameter by hand ---------------------------------------------------------


def test_the_meta_gradient_of_one_parameter_by_hand():
    """L = ½ (θx − y)²; θ' = θ − αx(θx − y); dL'/dθ = (θ'u − v) u (1 − αx²), the last factor gone in first order."""
    theta, x, y, u, v, lr = 0.7, [1.5, -0.5], [2.0, 1.0], [0.5, 2.0], [1.0, -1.0], 0.1
    loss = lambda params, x, y: (params[0] * x - y).square() / 2
    values, second, first = [], [], []
    for task in range(2):
        end = theta - lr * x[task] * (theta * x[task] - y[task])
        values.append((end * u[task] - v[task]) ** 2 / 2)
        first.append((end * u[task] - v[task]) * u[task])
        second.append(first[-1] * (1 - lr * x[task] ** 2))
    tensors = [torch.tensor(one, dtype=torch.float64) for one in (x, y, u, v)]
    for first_order, expected in ((False, second), (True, first)):
        for together in (True, False):
            params = (torch.tensor(theta, dtype=torch.float64, requires_grad=True),)
            found = maml_loss(
                loss, params, tuple(tensors[:2]), tuple(tensors[2:]), lr=lr, first_order=first_order, together=together
            )
            assert found.item() == pytest.approx(sum(values) / 2, rel=1e-13)
            (gradient,) = torch.autograd.grad(found, params)
            assert gradient.item() == pytest.approx(sum(expected) / 2, rel=1e-13)


# --- maml_loss: plain loops -------------------------------------------------------------------

HOW = [
    pytest.param(
        {"lr": 0.1, "steps": steps, "first_order": first_order},
        id=f"{steps} steps, {'first' if first_order else 'second'} order",
    )
    for steps in (0, 1, 3)
    for first_order in (True, False)
]  # fmt: skip


@pytest.mark.parametrize("how", HOW)
def test_maml_of_an_mlp_equals_a_plain_loop(how):
    model = made(lambda: mlp([1, 8, 8, 1]))
    agrees(regression(model), parameters(model), waves(), waves(points=6, seed=5), **how)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("side", [8, 28])
def test_maml_of_a_conv_net_equals_a_plain_loop(side, how):
    model = made(lambda: conv([3, 4], WAYS, side=side))
    agrees(classification(model), parameters(model), vectors(side**2), vectors(side**2, points=3, seed=5), **how)


class HandNormalised(nn.Module):
    """Layers with a normalisation written out: over the features, or over the batch."""

    def __init__(self, axis):
        super().__init__()
        self.first, self.last, self.axis = nn.Linear(4, 6), nn.Linear(6, WAYS), axis
        self.scale, self.shift = nn.Parameter(1 + 0.1 * torch.randn(6)), nn.Parameter(0.1 * torch.randn(6))

    def forward(self, x):
        h = self.first(x)
        centred = h - h.mean(dim=self.axis, keepdim=True)
        h = centred / (centred.square().mean(dim=self.axis, keepdim=True) + 1e-5).sqrt()
        return self.last(torch.relu(h * self.scale + self.shift))


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("axis", [0, 1], ids=["over the batch", "over the features"])
def test_maml_with_a_normalisation_written_by_hand_equals_a_plain_loop(axis, how):
    model = made(partial(HandNormalised, axis))
    agrees(classification(model), parameters(model), vectors(4), vectors(4, points=6, seed=5), **how)


def with_layer(layer: Callable[[], nn.Module], *, shape: tuple[int, ...] = (6,)) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(
        nn.Linear(4, 6), nn.Unflatten(1, shape), layer(), nn.Tanh(), nn.Flatten(), nn.Linear(6, WAYS)
    )


# The first three have wrong second derivatives under vmap.
FUSED = {
    "layer_norm": with_layer(lambda: nn.LayerNorm(6)),
    "batch_norm": with_layer(lambda: nn.BatchNorm1d(6, track_running_stats=False)),
    "instance_norm": with_layer(lambda: nn.InstanceNorm1d(2, affine=True), shape=(2, 3)),
}
NORMALISATIONS = FUSED | {
    "group_norm": with_layer(lambda: nn.GroupNorm(2, 6)),
    "rms_norm": with_layer(lambda: nn.RMSNorm(6)),
}


def shaken(build):
    """A model whose scales and shifts are not 1 and 0."""
    model = made(build)
    with torch.no_grad():
        for place, value in enumerate(model.parameters()):
            value += 0.2 * normal(*value.shape, seed=place)
    return model


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", NORMALISATIONS)
def test_maml_with_torchs_normalisations_equals_a_plain_loop(kind, how):
    model = shaken(NORMALISATIONS[kind])
    choices = (None, False) if kind in FUSED and not how["first_order"] else (None, True, False)
    agrees(classification(model), parameters(model), vectors(4), vectors(4, points=6, seed=5), together=choices, **how)


@pytest.mark.parametrize("kind", FUSED)
def test_a_normalisation_that_vmap_gets_wrong_is_refused(kind):
    model = shaken(FUSED[kind])
    loss, params, support, query = classification(model), parameters(model), vectors(4), vectors(4, seed=5)
    words = rf"loss: {kind} has wrong second derivatives under vmap; write the normalisation out .* first_order=True"
    with pytest.raises(ValueError, match=words):
        maml_loss(loss, params, support, query, together=True)

    def of_one_seed(entries, support, query, **how):
        return maml_loss(loss, dict(zip(params, entries, strict=True)), support, query, lr=0.1, **how)

    entries = [torch.stack([value, 1.1 * value]).detach() for value in params.values()]
    several = tuple(torch.stack([part, part.flip(0)]) for part in support)
    with pytest.raises(ValueError, match=words):
        vmap(partial(of_one_seed), in_dims=(0, 0, None))(entries, several, query)
    # First order is right under an outer vmap, too.
    mapped = grad_and_value(partial(of_one_seed, first_order=True))
    gradients, values = vmap(mapped, in_dims=(0, 0, None))(entries, several, query)
    for seed in range(2):
        start = {name: value[seed].requires_grad_() for name, value in zip(params, entries, strict=True)}
        batch = tuple(part[seed] for part in several)
        expected = value_and_gradients(looped(loss, start, batch, query, lr=0.1, steps=1, first_order=True), start)
        for one, other in zip([values, *gradients], expected, strict=True):
            close(one[seed], other)


def test_running_averages_are_no_obstacle_while_they_are_frozen():
    """In evaluation mode batch norm is a fixed affine map, but its scale and shift still adapt."""
    model = shaken(with_layer(lambda: nn.BatchNorm1d(6))).eval()
    agrees(
        classification(model),
        parameters(model),
        vectors(4),
        vectors(4, seed=5),
        together=(None, False),
        lr=0.1,
        steps=2,
    )


def test_why_they_are_refused():
    """Should this fail, PyTorch has mended layer_norm under vmap, and the refusal can go."""
    model = shaken(FUSED["layer_norm"])
    loss, params, support, query = classification(model), parameters(model), vectors(4), vectors(4, seed=5)

    def of_one(support, query):
        end = {n: p - 0.1 * g for (n, p), g in zip(params.items(), grad(loss)(params, *support).values(), strict=True)}
        return loss(end, *query)

    wrong = value_and_gradients(vmap(of_one)(support, query).mean(), params)
    right = value_and_gradients(looped(loss, params, support, query, lr=0.1, steps=1), params)
    close(wrong[0], right[0])
    assert max((a - b).abs().max().item() for a, b in zip(wrong[1:], right[1:], strict=True)) > 1e-6


# --- first order, ANIL, and other ways in ------------------------------------------------------


def test_first_order_is_the_gradient_at_the_ends():
    """∂φ/∂θ = 1: the meta-gradient is the mean of ∇L(φ_i; Q_i)."""
    model = made(lambda: mlp([1, 8, 1]))
    loss, params, support, query = regression(model), parameters(model), waves(), waves(seed=5)
    ends = [adapt(loss, params, x, y, lr=0.2, steps=3) for x, y in zip(*support, strict=True)]
    at_ends = [grad(loss)(end, x, y) for end, x, y in zip(ends, *query, strict=True)]
    value = maml_loss(loss, params, support, query, lr=0.2, steps=3, first_order=True)
    for name, one in zip(params, value_and_gradients(value, params)[1:], strict=True):
        close(one, torch.stack([gradients[name] for gradients in at_ends]).mean(0))


@pytest.mark.parametrize("how", HOW)
def test_anil_equals_a_plain_loop(how):
    """Only the last layer adapts; the meta-gradient reaches all layers."""
    model = made(lambda: mlp([1, 8, 6, 1]))
    support, query = waves(), waves(points=6, seed=5)
    found = agrees(regression(model), parameters(model), support, query, only=["4.weight", "4.bias"], **how)
    assert all(gradient.abs().max() > 0 for gradient in found[1:])


@pytest.mark.parametrize("together", [True, False])
def test_parameters_that_the_loss_does_not_use_get_no_gradient(together):
    model = made(lambda: mlp([1, 4, 1]))
    loss = regression(model)
    params = parameters(model)
    more = params | {"unused": normal(2).requires_grad_()}
    wrapped = lambda named, *batch: loss({name: named[name] for name in params}, *batch)
    how = {"lr": 0.1, "steps": 2, "together": together}
    found = value_and_gradients(maml_loss(wrapped, more, waves(), waves(seed=5), **how), more)
    expected = value_and_gradients(maml_loss(loss, params, waves(), waves(seed=5), **how), params)
    for one, other in zip(found[:-1], expected, strict=True):
        close(one, other)
    assert not found[-1].any()
    assert torch.equal(adapt(wrapped, more, *(part[0] for part in waves()))["unused"], more["unused"])


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_parameters_without_gradient_and_no_grad_give_the_same_value(together, steps):
    model = made(lambda: mlp([1, 4, 1]))
    params, how = parameters(model), {"lr": 0.1, "steps": steps, "together": together}
    expected = looped(regression(model), params, waves(), waves(seed=5), lr=0.1, steps=steps)
    plain = {name: value.detach() for name, value in params.items()}
    mixed = plain | {"2.bias": params["2.bias"]}
    found = [maml_loss(regression(model), one, waves(), waves(seed=5), **how) for one in (plain, mixed)]
    with torch.no_grad():
        found.append(maml_loss(regression(model), params, waves(), waves(seed=5), **how))
    for value in found:
        close(value.detach(), expected.detach())
    assert [value.requires_grad for value in found] == [False, True, False]
    for one, other in zip(
        torch.autograd.grad(found[1], mixed["2.bias"]), torch.autograd.grad(expected, params["2.bias"]), strict=True
    ):
        close(one, other)


def test_maml_under_grad_and_under_vmap_over_starts():
    model = made(lambda: mlp([1, 4, 1]))
    loss, params = regression(model), parameters(model)
    support, query = waves(), waves(seed=5)
    of_start = lambda params: maml_loss(loss, params, support, query, lr=0.1, steps=2)
    expected = value_and_gradients(of_start(params), params)
    for one, other in zip(grad(of_start)(params).values(), expected[1:], strict=True):
        close(one, other)
    starts = {name: torch.stack([value, 0.5 * value]).detach() for name, value in params.items()}
    found, values = vmap(grad_and_value(of_start))(starts)
    for name, one, other in zip(params, found.values(), expected[1:], strict=True):
        close(one[0], other, msg=name)
    close(values[0], expected[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("together", [True, False])
def test_dtypes_are_kept(dtype, together):
    model = made(lambda: mlp([1, 4, 1]))
    exact = maml_loss(regression(model), parameters(model), waves(), waves(seed=5), lr=0.1, steps=2)
    other = made(lambda: mlp([1, 4, 1]), dtype=dtype)
    params, support, query = parameters(other), waves(dtype=dtype), waves(seed=5, dtype=dtype)
    found = maml_loss(regression(other), params, support, query, lr=0.1, steps=2, together=together)
    assert found.dtype == dtype
    assert found.item() == pytest.approx(exact.item(), rel=6 * torch.finfo(dtype).eps)
    ends = adapt(regression(other), params, support[0][0], support[1][0], lr=0.1, steps=2)
    ways = reptile_direction(regression(other), params, support, lr=0.1, steps=2, together=together)
    assert {value.dtype for value in (*ends.values(), *ways.values())} == {dtype}


@pytest.mark.parametrize(("side", "calls_grow"), [(20, False), (21, True)])
def test_large_images_come_one_task_after_the_other(side, calls_grow):
    model = made(lambda: conv([2], WAYS, side=side))
    calls = []

    def loss(params, x, y):
        calls.append(1)
        return classification(model)(params, x, y)

    counts = []
    for tasks in (2, 4):
        calls.clear()
        maml_loss(loss, parameters(model), vectors(side**2, tasks), vectors(side**2, tasks, seed=5), lr=0.1)
        counts.append(len(calls))
    assert (counts[1] > counts[0]) == calls_grow


def test_dropout_differs_from_task_to_task():
    """The number of places kept in both tasks together: even, were they the same places."""
    loss = lambda params, x: (F.dropout(x, 0.5) * params[0]).sum() / 2
    params, ones = (torch.ones((), dtype=torch.float64),), (torch.ones(2, 50, dtype=torch.float64),)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = [2 * maml_loss(loss, params, ones, ones, lr=0.1, steps=0, together=True).item() for _ in range(30)]
    assert any(value % 2 == 1 for value in found)


# --- inside fit -------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{}, {"first_order": True}, {"only": ["2.weight", "2.bias"]}, {"steps": 3}])
def test_meta_training_inside_fit_equals_plain_loops_over_seeds_and_tasks(how):
    """Each example of the source is a task; seeds are stacked, and inside them tasks are."""
    support, query = waves(20, dtype=torch.float32), waves(20, points=6, seed=5, dtype=torch.float32)
    make = lambda: made(lambda: nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 1)), dtype=torch.float32)
    how = {"lr": 0.1, "steps": 1} | how

    def meta_loss(model, *batch):
        named = dict(model.named_parameters())
        return maml_loss(regression(model), named, batch[:2], batch[2:], **how)

    data, steps = Source(*support, *query), 8
    settings = {"seeds": 3, "steps": steps, "batch_size": 4, "learning_rate": 0.03}
    students = fit(make, meta_loss, data, **settings)
    one_by_one = fit(make, meta_loss, data, **settings, together=False)
    assert students.stacked
    for place, seed in enumerate(students.seeds):
        model = make()
        optimiser = torch.optim.AdamW(model.parameters(), lr=0.03, weight_decay=0)
        for rows in data.order(place, seed, steps, 4, 0):
            params = parameters(model)
            batch = [[part[rows] for part in batch] for batch in (support, query)]
            value = looped(regression(model), params, *batch, **how)
            for entry, gradient in zip(model.parameters(), value_and_gradients(value, params)[1:], strict=True):
                entry.grad = gradient
            optimiser.step()
        for name, value in model.named_parameters():
            torch.testing.assert_close(students.parameters[name][place], value.detach(), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(one_by_one.parameters[name][place], value.detach(), rtol=1e-4, atol=1e-5)


# --- reptile_direction ------------------------------------------------------------------------


@pytest.mark.parametrize("together", [None, True, False])
def test_one_reptile_step_is_plain_training(together):
    model = made(lambda: mlp([1, 8, 1]))
    loss, params, (x, y) = regression(model), parameters(model), waves()
    found = reptile_direction(loss, params, (x, y), lr=0.2, steps=1, together=together)
    mean = torch.stack([loss(params, *one) for one in zip(x, y, strict=True)]).mean()
    for one, gradient in zip(found.values(), torch.autograd.grad(mean, list(params.values())), strict=True):
        close(one, 0.2 * gradient)


@pytest.mark.parametrize("together", [None, True, False])
@pytest.mark.parametrize("steps", [0, 2, 5])
@pytest.mark.parametrize(
    ("build", "batch"),
    [
        (lambda: mlp([4, 6, WAYS]), vectors(4)),
        (lambda: conv([2, 3], WAYS, side=8), vectors(64)),
        (lambda: conv([2], WAYS, side=28), vectors(784)),
        (NORMALISATIONS["layer_norm"], vectors(4)),
        (NORMALISATIONS["batch_norm"], vectors(4)),
    ],
    ids=["mlp", "conv", "large images", "layer norm", "batch norm"],
)
def test_reptile_equals_a_loop_of_sgd(build, batch, steps, together):
    model = made(build)
    found = reptile_direction(classification(model), parameters(model), batch, lr=0.1, steps=steps, together=together)
    ends = []
    for x, y in zip(*batch, strict=True):
        learner = made(build)
        optimiser = torch.optim.SGD(learner.parameters(), lr=0.1)
        for _ in range(steps):
            optimiser.zero_grad()
            F.cross_entropy(learner(x), y).backward()
            optimiser.step()
        ends.append(dict(learner.named_parameters()))
    for name, start in model.named_parameters():
        expected = start.detach() - torch.stack([end[name].detach() for end in ends]).mean(0)
        close(found[name], expected)
        assert not found[name].requires_grad


def test_reptile_on_a_tuple_and_under_no_grad():
    params, batch = pair(), lines(TASKS, 5, 3, seed=2)
    found = reptile_direction(linear, params, batch, lr=0.1, steps=3)
    assert isinstance(found, tuple)
    with torch.no_grad():
        again = reptile_direction(linear, tuple(one.detach() for one in params), batch, lr=0.1, steps=3)
    assert all(map(torch.equal, found, again))
    assert torch.is_grad_enabled()


def test_stepping_down_reptiles_direction_lands_in_the_mean_of_the_ends():
    params, batch = pair(), lines(TASKS, 5, 3, seed=2)
    ends = [adapt(linear, params, *one, lr=0.1, steps=4) for one in zip(*batch, strict=True)]
    direction = reptile_direction(linear, params, batch, lr=0.1, steps=4)
    for start, way, several in zip(params, direction, zip(*ends, strict=True), strict=True):
        close(start - way, torch.stack(several).mean(0))


# --- a diverging inner loop -------------------------------------------------------------------

ONE = (torch.tensor(1.0, dtype=torch.float64, requires_grad=True),)


def steep(params, slope, target):
    """A parabola: an overlong step multiplies the error."""
    return ((slope * params[0] - target) ** 2).sum()


def slopes(*values):
    return torch.tensor(values, dtype=torch.float64), torch.zeros(len(values), dtype=torch.float64)


@pytest.mark.parametrize("together", [True, False])
def test_a_diverging_inner_loop_names_task_and_step(together):
    """The second task's error grows by 2αx² ≈ 10¹⁹⁹ at the first step; its square is no longer finite."""
    run = partial(maml_loss, steep, ONE, lr=0.01, together=together)
    with pytest.raises(FloatingPointError, match="the loss of task 1 is inf at inner step 1 of 3; try a smaller lr"):
        run(slopes(1.0, 1e100, 1.0), slopes(1.0, 1.0, 1.0), steps=3)
    with pytest.raises(FloatingPointError, match="the loss of task 2 is inf at inner step 0 of 1"):
        run(slopes(1.0, 1.0, 1e160), slopes(1.0, 1.0, 1.0), steps=1)
    with pytest.raises(FloatingPointError, match="the loss of task 1 is inf on the query set after 2 inner steps"):
        run(slopes(1.0, 1.0), slopes(1.0, 1e160), steps=2)
    with pytest.raises(FloatingPointError, match="the loss of task 0 is nan at inner step 0"):
        run((torch.tensor([torch.nan]), torch.zeros(1)), slopes(1.0), steps=1)
    with pytest.raises(FloatingPointError, match="the loss of task 1 is inf at inner step 1 of 3"):
        reptile_direction(steep, ONE, slopes(1.0, 1e100), lr=0.01, steps=3, together=together)


def test_a_diverging_adapt_names_the_step():
    batch = [part[0] for part in slopes(1e100)]
    with pytest.raises(FloatingPointError, match="the loss is inf at inner step 1 of 4; try a smaller lr"):
        adapt(steep, ONE, *batch, lr=0.01, steps=4)
    (end,) = adapt(steep, ONE, *batch, lr=0.01, steps=1)  # the loss before the only step is finite
    assert end.isfinite()


# --- bad input --------------------------------------------------------------------------------

X = lines(2, 4, 3)  # two tasks
P = pair()
N = {"w": P[0], "b": P[1]}


def named(params, x, y):
    return linear((params["w"], params["b"]), x, y)


BAD_INNER = [
    ({"lr": 0.0}, ValueError, r"lr: expected a finite number above 0, got 0\.0"),
    ({"lr": -0.1}, ValueError, r"lr: expected a finite number above 0, got -0\.1"),
    ({"lr": math.nan}, ValueError, "lr: expected a finite number above 0, got nan"),
    ({"lr": math.inf}, ValueError, "lr: expected a finite number above 0, got inf"),
    ({"lr": "0.1"}, TypeError, "lr: expected a Python number, got str"),
    ({"lr": torch.tensor(0.1)}, TypeError, "lr: expected a Python number, got Tensor"),
    ({"steps": -1}, ValueError, "steps: expected at least 0, got -1"),
    ({"steps": 1.5}, TypeError, "steps: expected an int, got float"),
    ({"steps": True}, TypeError, "steps: expected an int, got bool"),
    ({"loss": "squares"}, TypeError, "loss: expected a function of parameters and a batch, got str"),
    ({"loss": lambda params, x, y: x @ params[0] - y}, ValueError,
     r"loss: expected it to return a scalar tensor, got shape \(4,\)"),
    ({"loss": lambda params, x, y: 1.0}, ValueError, "loss: expected it to return a scalar tensor, got float"),
    ({"params": list(P)}, TypeError, "params: expected a dict or a tuple of tensors, got list"),
    ({"params": P[0]}, TypeError, "params: expected a dict or a tuple of tensors, got Tensor"),
    ({"params": ()}, ValueError, "params: expected at least one tensor, got none"),
    ({"params": {}}, ValueError, "params: expected at least one tensor, got none"),
    ({"params": (P[0], torch.tensor(1))}, TypeError, r"params\[1\]: expected a floating tensor, got torch\.int64"),
    ({"params": {"w": P[0], "b": 0.5}}, TypeError, r"params\['b'\]: expected a floating tensor, got float"),
]  # fmt: skip
BAD_ONLY = [
    ({"only": [2]}, ValueError, r"only: expected some of \[0, 1\], got 2"),
    ({"only": []}, TypeError, r"only: expected some of \[0, 1\], got \[\]"),
    ({"only": 1}, TypeError, r"only: expected some of \[0, 1\], got 1"),
    ({"only": ["w", "c"], "params": N, "loss": named}, ValueError, r"only: expected some of \['w', 'b'\], got 'c'"),
    ({"only": "w", "params": N, "loss": named}, TypeError, r"only: expected some of \['w', 'b'\], got 'w'"),
]
BAD_SUPPORT = [
    ({"support": X[0]}, TypeError, "support: expected a tuple of tensors, got Tensor"),
    ({"support": ()}, TypeError, r"support: expected a tuple of tensors, got \[\]"),
    ({"support": (X[0], [1.0, 2.0])}, TypeError, r"support: expected a tuple of tensors, got \['Tensor', 'list'\]"),
    ({"support": (X[0], X[1][:1])}, ValueError,
     r"support: expected the same number of tasks, at least one, as leading axis .* \[\(2, 4, 3\), \(1, 4\)\]"),
    ({"support": (X[0][:0], X[1][:0])}, ValueError, r"support: expected the same number of tasks, at least one,"),
    ({"support": (torch.tensor(1.0),)}, ValueError, r"support: expected the same number of tasks, at least one,"),
    ({"together": "yes"}, TypeError, "together: expected True, False or None, got 'yes'"),
]  # fmt: skip
BAD_QUERY = [
    ({"query": X[0]}, TypeError, "query: expected a tuple of tensors, got Tensor"),
    ({"query": (X[0][:1], X[1][:1])}, ValueError, r"query: expected 2 tasks, as in support, as leading axis"),
    ({"query": (X[0], X[1][:1])}, ValueError, r"query: expected 2 tasks, as in support, .* \[\(2, 4, 3\), \(1, 4\)\]"),
]


@pytest.mark.parametrize(("change", "error", "words"), BAD_INNER + BAD_ONLY)
def test_adapt_says_what_is_wrong(change, error, words):
    given = {"loss": linear, "params": P, "lr": 0.1, "steps": 1} | change
    with pytest.raises(error, match=words):
        adapt(given.pop("loss"), given.pop("params"), X[0][0], X[1][0], **given)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(("change", "error", "words"), BAD_INNER + BAD_ONLY + BAD_SUPPORT + BAD_QUERY)
def test_maml_loss_says_what_is_wrong(change, error, words, together):
    given = {"loss": linear, "params": P, "support": X, "query": X, "together": together} | change
    positional = [given.pop(name) for name in ("loss", "params", "support", "query")]
    with pytest.raises(error, match=words):
        maml_loss(*positional, **given)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(("change", "error", "words"), BAD_INNER + BAD_SUPPORT)
def test_reptile_says_what_is_wrong(change, error, words, together):
    given = {"loss": linear, "params": P, "support": X, "together": together} | change
    positional = [given.pop(name) for name in ("loss", "params", "support")]
    with pytest.raises(error, match=words):
        reptile_direction(*positional, **given)


def test_adapt_under_vmap_refuses_what_would_be_silently_wrong():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1)).double()
    params = {name: value.detach() for name, value in model.named_parameters()}

    def loss(params, x):
        return functional_call(model, params, (x,)).square().mean()

    def end(x, first_order):
        return adapt(loss, params, x, lr=0.1, first_order=first_order)["2.bias"]

    with pytest.raises(ValueError, match="layer_norm has wrong second derivatives under vmap"):
        vmap(lambda x: end(x, False))(normal(2, 5, 3))
    alone = torch.stack([end(x, False) for x in normal(2, 5, 3)])
    torch.testing.assert_close(vmap(lambda x: end(x, True))(normal(2, 5, 3)), alone, rtol=1e-12, atol=1e-12)


def test_what_vmap_cannot_do_is_done_one_task_after_the_other():
    theta, x, y = normal(3, 2), normal(4, 5, 2), torch.arange(20).view(4, 5) % 3

    def loss(params, x, y):
        return (x @ params[0].T - F.one_hot(y)).square().mean()

    value = maml_loss(loss, (theta,), (x, y), (x, y), lr=0.1)
    assert value == maml_loss(loss, (theta,), (x, y), (x, y), lr=0.1, together=False)
    with pytest.raises(RuntimeError, match="vmap"):
        maml_loss(loss, (theta,), (x, y), (x, y), lr=0.1, together=True)
