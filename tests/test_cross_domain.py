"""The reference implementations of lesson 09 against NumPy, scikit-learn, slow loops, hand-written losses, autograd."""

import math
from fractions import Fraction
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import EVERY_DTYPE, SEEDS, normal
from scipy.special import softmax
from scipy.stats import entropy
from sklearn.metrics import mutual_info_score
from sklearn.neighbors import NearestNeighbors
from torch import nn
from torch.func import functional_call, grad, vmap

from ctkd_lessons.cross_domain import (
    DomainNetwork,
    classifier_discrepancy,
    confident_pseudo_labels,
    coral_loss,
    dann_loss,
    domain_loss,
    leave_one_domain_out,
    mutual_information,
    nearest_neighbours,
    ramp,
    reverse_gradient,
    smooth_over_neighbours,
    standardise,
)
from ctkd_lessons.models import mlp
from ctkd_lessons.training import Source, fit

exactly = partial(pytest.approx, rel=1e-12, abs=1e-12)
close = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)


def chances(*shape, seed=0):
    return torch.softmax(2 * normal(*shape, seed=seed), dim=-1)


def eighths(examples, classes, seed):
    """Probabilities of one eighth each: ties everywhere, and no rounding."""
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.multinomial(8, [1 / classes] * classes, examples) / 8)


# --- coral_loss -------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 9), st.integers(2, 9), st.integers(1, 6), SEEDS)
def test_coral_equals_numpys_covariances(n, m, width, seed):
    source, target = normal(n, width, seed=seed), 3 * normal(m, width, seed=seed + 1) + 2
    covariances = [np.cov(one.numpy(), rowvar=False).reshape(width, width) for one in (source, target)]
    expected = ((covariances[0] - covariances[1]) ** 2).sum() / (4 * width**2)
    assert coral_loss(source, target).item() == exactly(expected)


def test_coral_by_hand_and_the_means_do_not_count():
    source, target = torch.tensor([[0.0], [2]]), torch.tensor([[0.0], [4]])  # variances 2 and 8
    assert coral_loss(source, target).item() == 36 / 4
    assert coral_loss(source + 100, target - 7).item() == 36 / 4
    assert coral_loss(normal(6, 3), normal(6, 3) + normal(3, seed=1)).item() == pytest.approx(0, abs=1e-25)


def test_coral_is_differentiable_twice():
    pair = [normal(4, 3).requires_grad_(), normal(6, 3, seed=1).requires_grad_()]
    assert torch.autograd.gradcheck(coral_loss, pair)
    assert torch.autograd.gradgradcheck(coral_loss, pair)


def test_coral_under_vmap_equals_a_loop():
    source, target = normal(5, 4, 3), normal(5, 6, 3, seed=1)
    pairs = list(zip(source, target, strict=True))
    close(vmap(coral_loss)(source, target), torch.stack([coral_loss(*pair) for pair in pairs]))
    close(vmap(grad(coral_loss))(source, target), torch.stack([grad(coral_loss)(*pair) for pair in pairs]))


@EVERY_DTYPE
def test_coral_keeps_the_dtype_and_does_not_overflow(dtype):
    """At this spread the products of a column add up to 2·10⁵: more than float16 holds."""
    source, target = normal(200, 2, dtype=dtype) * 30, normal(200, 2, seed=1, dtype=dtype) * 31
    found = coral_loss(source, target)
    assert found.dtype == dtype
    exact = coral_loss(source.double(), target.double()).item()
    assert found.item() == pytest.approx(exact, rel=4 * torch.finfo(dtype).eps)


# --- reverse_gradient -------------------------------------------------------------------------

STRENGTHS = [0, 0.3, 1.0, 2.5, torch.tensor(0.7), torch.tensor(0.7, dtype=torch.float64)]


@pytest.mark.parametrize("strength", STRENGTHS)
@EVERY_DTYPE
def test_reversed_is_the_same_value_and_the_gradient_turned_round(strength, dtype):
    x, weights = normal(2, 3, dtype=dtype).requires_grad_(), normal(2, 3, seed=1, dtype=dtype)
    made = reverse_gradient(x, strength)
    assert torch.equal(made, x)
    assert made.dtype == dtype
    (gradient,) = torch.autograd.grad((weights * made).sum(), x)
    assert gradient.dtype == dtype
    assert torch.equal(gradient, -torch.as_tensor(strength, dtype=dtype) * weights)


def test_only_what_passes_through_is_turned_round():
    x = normal(4).requires_grad_()
    (gradient,) = torch.autograd.grad((3 * reverse_gradient(x, 0.5) + 2 * x).sum(), x)
    close(gradient, torch.full((4,), 2 - 1.5, dtype=torch.float64))


def test_what_lies_behind_learns_as_ever():
    x, weights = normal(4), normal(4, seed=1).requires_grad_()
    (gradient,) = torch.autograd.grad((weights * reverse_gradient(x, 0.5)).sum(), weights)
    close(gradient, x)


def test_the_strength_gets_no_gradient():
    x, strength = normal(3).requires_grad_(), torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    found = torch.autograd.grad(reverse_gradient(x, strength).square().sum(), [x, strength], allow_unused=True)
    close(found[0], -0.5 * 2 * x.detach())
    assert found[1] is None


def cubes(x, strength):
    return reverse_gradient(x, strength).pow(3).sum()


def test_reversed_under_grad_and_vmap():
    x = normal(4, 3)
    close(grad(cubes)(x[0], 0.5), -0.5 * 3 * x[0] ** 2)
    close(vmap(grad(cubes), in_dims=(0, None))(x, 0.5), -0.5 * 3 * x**2)
    close(vmap(reverse_gradient)(x), x)


def test_reversed_under_vmap_with_a_strength_for_each():
    x, strengths = normal(4, 3), torch.tensor([0.0, 0.1, 1, 2], dtype=torch.float64)
    close(vmap(grad(cubes))(x, strengths), -strengths[:, None] * 3 * x**2)
    one = torch.tensor(0.3, dtype=torch.float64)
    close(vmap(grad(cubes), in_dims=(0, None))(x, one), -one * 3 * x**2)
    close(vmap(grad(cubes), in_dims=(None, 0))(x[0], strengths), -strengths[:, None] * 3 * x[0] ** 2)


def test_reversed_twice_differentiated():
    """The gradient is −λ · 3 y²; on the way back through y = R(x) it is turned round once more."""
    x = normal(4)
    inner = lambda x: grad(cubes)(x, 0.5).sum()
    close(grad(inner)(x), 0.5**2 * 6 * x)
    close(vmap(grad(inner))(torch.stack([x, 2 * x])), 0.5**2 * 6 * torch.stack([x, 2 * x]))
    leaf = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(cubes(leaf, 0.5), leaf, create_graph=True)
    close(torch.autograd.grad(first.sum(), leaf)[0], 0.5**2 * 6 * x)


def domain_network(dtype=torch.float64, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return DomainNetwork(nn.Sequential(mlp([5, 4]), nn.Tanh()), mlp([4, 3]), mlp([4, 4, 1])).to(dtype)


def test_a_training_under_vmap_equals_a_loop_that_knows_no_reversal():
    """``fit`` traces the stacked loss once; the share of the training that is done arrives as a tensor."""
    images, labels = normal(40, 5, dtype=torch.float32), torch.arange(40) % 3
    others = normal(30, 5, seed=1, dtype=torch.float32) + 1
    make = partial(domain_network, torch.float32)
    loss = lambda model, source, target, progress: dann_loss(model, *source, *target, strength=ramp(progress))
    data, steps = [Source(images, labels), Source(others)], 12
    settings = {"seeds": 3, "steps": steps, "batch_size": 8, "learning_rate": 0.03}
    students = fit(make, loss, data, **settings, together=True)
    one_by_one = fit(make, loss, data, **settings, together=False)
    assert students.stacked
    for place, seed in enumerate(students.seeds):
        model = make()
        optimiser = torch.optim.AdamW(model.parameters(), lr=0.03, weight_decay=0)
        orders = [source.order(place, seed, steps, 8, number) for number, source in enumerate(data)]
        for step, (rows, other_rows) in enumerate(zip(*orders, strict=True)):
            named = two_losses(model, images[rows], labels[rows], others[other_rows], ramp(step / steps))
            for name, parameter in model.named_parameters():
                parameter.grad = named[name]
            optimiser.step()
        for name, value in model.named_parameters():
            torch.testing.assert_close(students.parameters[name][place], value.detach(), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(one_by_one.parameters[name][place], value.detach(), rtol=1e-4, atol=1e-5)


# --- domain_loss, ramp ------------------------------------------------------------------------


@pytest.mark.parametrize("shapes", [((4,), (7,)), ((4, 1), (2, 1)), ((1,), (3, 1))])
def test_domain_loss_equals_torchs(shapes):
    source, target = (2 * normal(*shape, seed=seed) for seed, shape in enumerate(shapes))
    as_source = F.binary_cross_entropy_with_logits(source, torch.ones_like(source))
    as_target = F.binary_cross_entropy_with_logits(target, torch.zeros_like(target))
    close(domain_loss(source, target), (as_source + as_target) / 2)
    assert domain_loss(0 * source, 0 * target).item() == exactly(math.log(2))


@EVERY_DTYPE
def test_domain_loss_stays_finite_at_large_logits(dtype):
    large = torch.tensor([1e4, -1e4], dtype=dtype)
    pair = [large.clone().requires_grad_(), large.clone().requires_grad_()]
    found = domain_loss(*pair)
    assert found.item() == pytest.approx(5000, rel=0.01)  # half of all answers are wrong, each by 10⁴
    assert found.dtype == dtype
    for gradient in torch.autograd.grad(found, pair):
        assert gradient.isfinite().all()
    assert domain_loss(large[:1], large[1:]).item() == 0


def test_domain_loss_is_differentiable_and_maps():
    pair = [normal(4).requires_grad_(), normal(6, seed=1).requires_grad_()]
    assert torch.autograd.gradcheck(domain_loss, pair)
    several = normal(3, 4), normal(3, 6, seed=1)
    close(vmap(domain_loss)(*several), torch.stack([domain_loss(*one) for one in zip(*several, strict=True)]))


def test_the_ramp_rises_from_zero_to_nearly_one():
    assert ramp(0) == 0
    assert round(ramp(1), 4) == 0.9999
    values = [ramp(share / 10) for share in range(11)]
    assert values == exactly([2 / (1 + math.exp(-share)) - 1 for share in range(11)])
    assert all(early < late for early, late in pairwise(values))
    close(ramp(torch.arange(11.0).double() / 10), torch.tensor(values, dtype=torch.float64))
    assert ramp(torch.tensor(0.0)) == 0
    assert ramp(torch.tensor(0.5, dtype=torch.float32)).dtype == torch.float32


# --- dann_loss --------------------------------------------------------------------------------


def two_losses(model, source, labels, target, strength):
    """Return each parameter's gradient from two losses of their own and no reversal."""
    parameters = dict(model.named_parameters())
    classification = F.cross_entropy(model.head(model.trunk(source)), labels)
    logits = [model.critic(model.trunk(images)).flatten() for images in (source, target)]
    domain = -(F.logsigmoid(logits[0]).mean() + F.logsigmoid(-logits[1]).mean()) / 2
    found = {}
    for sign, loss in ((1, classification), (-strength, domain)):
        gradients = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True, allow_unused=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                found[name] = found.get(name, 0) + (gradient if name.startswith("critic") else sign * gradient)
    return found


@pytest.mark.parametrize("strength", [0, 0.4, 3.0, torch.tensor(0.4, dtype=torch.float64)])
@pytest.mark.parametrize("sizes", [(6, 6), (6, 9), (1, 2)])
def test_one_step_improves_head_and_critic_and_moves_the_trunk_up_the_critics_loss(strength, sizes):
    model = domain_network()
    source, target = normal(sizes[0], 5), normal(sizes[1], 5, seed=1) + 0.5
    labels = torch.arange(sizes[0]) % 3
    loss = dann_loss(model, source, labels, target, strength)
    features = model.trunk(source), model.trunk(target)
    separate = F.cross_entropy(model.head(features[0]), labels) + domain_loss(*map(model.critic, features))
    assert loss.item() == exactly(separate.item())
    loss.backward()
    expected = two_losses(model, source, labels, target, strength)
    assert set(expected) == {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        close(parameter.grad, expected[name])


def test_dann_loss_takes_labels_of_any_integer_kind_and_images_of_any_shape():
    flat = domain_network()
    model = DomainNetwork(nn.Sequential(nn.Flatten(), nn.Linear(4, 4).double()), flat.head, flat.critic)
    found = [dann_loss(model, normal(3, 1, 2, 2), torch.tensor([0, 1, 2], dtype=kind), normal(5, 1, 2, 2))
             for kind in (torch.int64, torch.int32, torch.uint8)]  # fmt: skip
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_dann_loss_under_vmap_equals_a_loop():
    models = [domain_network(seed=seed) for seed in range(3)]
    source, target, labels = normal(3, 4, 5), normal(3, 6, 5, seed=1), torch.arange(12).view(3, 4) % 3
    stacked, _ = torch.func.stack_module_state(models)
    wrapped = _Loss(models[0])
    named = {f"model.{name}": value.detach() for name, value in stacked.items()}
    found = vmap(grad(lambda *arguments: functional_call(wrapped, arguments[0], arguments[1:])))(
        named, source, labels, target
    )
    for place, model in enumerate(models):
        expected = two_losses(model, source[place], labels[place], target[place], 0.5)
        for name, gradient in expected.items():
            close(found[f"model.{name}"][place], gradient)


class _Loss(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, source, labels, target):
        return dann_loss(self.model, source, labels, target, 0.5)


def test_the_network_answers_with_class_logits():
    model = domain_network()
    close(model(normal(2, 5)), model.head(model.trunk(normal(2, 5))))
    assert {name.partition(".")[0] for name, _ in model.named_parameters()} == {"trunk", "head", "critic"}


# --- classifier_discrepancy, standardise ------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 8), st.integers(1, 6), SEEDS)
def test_discrepancy_equals_a_slow_loop(examples, classes, seed):
    pair = 2 * normal(examples, classes, seed=seed), 2 * normal(examples, classes, seed=seed + 1)
    p, q = (softmax(one.numpy(), axis=1).tolist() for one in pair)
    gaps = [abs(a - b) for first, second in zip(p, q, strict=True) for a, b in zip(first, second, strict=True)]
    found = classifier_discrepancy(*pair).item()
    assert found == exactly(math.fsum(gaps) / len(gaps))
    assert found <= 2 / classes


def test_discrepancy_at_its_limits_and_under_vmap():
    logits = 1e4 * torch.eye(4, dtype=torch.float64)
    assert classifier_discrepancy(logits, logits).item() == 0
    assert classifier_discrepancy(logits, logits.roll(1, dims=1)).item() == exactly(2 / 4)
    pair = normal(3, 5, 4), normal(3, 5, 4, seed=1)
    close(vmap(classifier_discrepancy)(*pair), torch.stack(list(map(classifier_discrepancy, *pair))))
    assert torch.autograd.gradcheck(classifier_discrepancy, [one[0].clone().requires_grad_() for one in pair])


@pytest.mark.parametrize("floor", [0.1, 1.0])
def test_standardised_by_the_domains_own_images(floor):
    images, domain = normal(2, 4, 3), 5 * normal(2, 9, 3, seed=1) + 7
    found = standardise(images, domain, floor)
    for one in range(2):
        own = domain[one].numpy()
        expected = (images[one].numpy() - own.mean(axis=0)) / (own.std(axis=0, ddof=1) + floor)
        close(found[one], torch.tensor(expected))
        close(found[one], standardise(images[one], domain[one], floor))


def test_standardising_undoes_a_change_of_brightness_and_contrast():
    images = normal(50, 3)
    close(standardise(3 * images + 2, 3 * images + 2, 1e-15), standardise(images, images, 1e-15))
    assert standardise(torch.ones(3, 2), torch.ones(4, 2)).eq(0).all()  # pixels that never vary stay finite


# --- confident_pseudo_labels ------------------------------------------------------------------


def slow_pseudo_labels(probabilities, share, threshold):
    """One seed: sort each class's examples by confidence and take the first few."""
    rows, classes = probabilities.tolist(), probabilities.shape[-1]
    labels = [row.index(max(row)) for row in rows]
    quota = max(1, math.floor(share * len(rows) / classes))
    kept = [False] * len(rows)
    for label in range(classes):
        own = [place for place, given in enumerate(labels) if given == label]
        own.sort(key=lambda place: (-max(rows[place]), place))
        for place in own[:quota]:
            kept[place] = max(rows[place]) >= threshold
    return labels, kept


@settings(deadline=None, max_examples=150)
@given(st.integers(1, 30), st.integers(1, 5), st.integers(1, 20), st.integers(0, 8), SEEDS, st.booleans())
def test_pseudo_labels_equal_a_slow_loop(examples, classes, twentieths, eighth, seed, tied):
    make = partial(eighths, examples, classes) if tied else partial(chances, examples, classes)
    p = torch.stack([make(seed=seed), make(seed=seed + 1)])
    labels, kept = confident_pseudo_labels(p, twentieths / 20, eighth / 8)
    assert (labels.dtype, kept.dtype) == (torch.int64, torch.bool)
    for one in range(2):
        expected = slow_pseudo_labels(p[one], Fraction(twentieths, 20), eighth / 8)
        assert (labels[one].tolist(), kept[one].tolist()) == expected


def test_each_seed_is_for_itself_whatever_the_leading_axes():
    p = chances(2, 3, 12, 4)
    labels, kept = confident_pseudo_labels(p, 0.6, 0.4)
    assert labels.shape == kept.shape == (2, 3, 12)
    for i in range(2):
        for j in range(3):
            alone = confident_pseudo_labels(p[i, j], 0.6, 0.4)
            assert torch.equal(labels[i, j], alone[0])
            assert torch.equal(kept[i, j], alone[1])


def test_of_equals_the_earlier_is_kept():
    p = torch.tensor([[0.75, 0.25], [0.25, 0.75], [0.75, 0.25], [0.875, 0.125], [0.75, 0.25], [0.25, 0.75]])
    labels, kept = confident_pseudo_labels(p, 2 / 3)  # two per class
    assert labels.tolist() == [0, 1, 0, 0, 0, 1]
    assert kept.tolist() == [True, True, False, True, False, True]
    assert confident_pseudo_labels(torch.full((3, 2), 0.5))[0].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("examples", "share", "quota"),
    [(100, 0.29, 29), (100, 0.57, 57), (10, 0.3, 3), (10, 0.35, 3), (10, 0.39, 3), (10, 0.05, 1), (1000, 0.001, 1)],
)
def test_the_quota_is_rounded_down_but_not_by_a_rounding_error(examples, share, quota):
    """0.29 · 100 is 28.999999999999996."""
    assert confident_pseudo_labels(torch.ones(examples, 1), share)[1].sum() == quota


def test_the_threshold_itself_is_enough():
    p = torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4]])
    assert confident_pseudo_labels(p, 1.0, 0.9)[1].tolist() == [True, True, False]
    assert confident_pseudo_labels(p, 1.0, 0.91)[1].tolist() == [False] * 3
    assert confident_pseudo_labels(p.requires_grad_(), 1.0, 0.9)[0].tolist() == [0, 1, 0]


def test_one_hot_answers_are_kept_up_to_the_quota():
    p = torch.eye(3)[torch.tensor([0, 0, 0, 0, 0, 1])]
    assert confident_pseudo_labels(p)[1].tolist() == [True, True, False, False, False, True]


# --- nearest_neighbours, smooth_over_neighbours -----------------------------------------------


@pytest.mark.parametrize(("n", "width", "count"), [(5, 2, 5), (24, 3, 4), (200, 8, 7), (1, 1, 1)])
def test_neighbours_equal_scikit_learns(n, width, count):
    x = normal(n, width)
    expected = NearestNeighbors(n_neighbors=count).fit(x).kneighbors(x, return_distance=False)
    assert np.array_equal(nearest_neighbours(x, count).numpy(), expected)


@pytest.mark.parametrize("shift", [0.0, 1e2, 1e4])
def test_neighbours_far_from_the_origin(shift):
    """Beyond 25 points torch.cdist multiplies matrices, and loses all digits where squares are large."""
    x = normal(200, 8, dtype=torch.float32) + shift
    expected = NearestNeighbors(n_neighbors=5).fit(x.double()).kneighbors(x.double(), return_distance=False)
    same = (nearest_neighbours(x, 5).sort().values == torch.tensor(expected).sort().values).all(dim=1)
    assert same.float().mean() >= 0.99  # two neighbours may be as far to within float32


def test_a_point_is_its_own_neighbour_even_beside_its_doubles():
    x = normal(3, 2).repeat(20, 1)
    assert torch.equal(nearest_neighbours(x, 1)[:, 0], torch.arange(60))
    found = nearest_neighbours(x, 20)
    assert torch.equal(found % 3, (torch.arange(60) % 3)[:, None].expand(60, 20))


@EVERY_DTYPE
def test_neighbours_of_each_seed(dtype):
    x = normal(2, 3, 30, 4, dtype=dtype).requires_grad_()
    found = nearest_neighbours(x, 3)
    assert found.dtype == torch.int64
    for i in range(2):
        for j in range(3):
            assert torch.equal(found[i, j], nearest_neighbours(x[i, j], 3))


def slow_smoothing(probabilities, neighbours, rounds):
    rows = probabilities.tolist()
    for _ in range(rounds):
        rows = [
            [math.fsum(rows[other][c] for other in others) / len(others) for c in range(len(rows[0]))]
            for others in neighbours.tolist()
        ]
    return torch.tensor(rows, dtype=torch.float64)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 5), st.integers(0, 4), SEEDS)
def test_smoothing_equals_a_slow_loop(examples, classes, count, rounds, seed):
    p = chances(2, examples, classes, seed=seed)
    chosen = torch.randint(examples, (2, examples, count), generator=torch.Generator().manual_seed(seed))
    found = smooth_over_neighbours(p, chosen, rounds)
    for one in range(2):
        close(found[one], slow_smoothing(p[one], chosen[one], rounds))
    close(found.sum(dim=-1), torch.ones(2, examples, dtype=torch.float64))


def test_one_mistake_among_look_alikes_is_outvoted():
    x = torch.tensor([[0.0], [0.1], [0.2], [5.0], [5.1], [5.2]], dtype=torch.float64)
    p = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1], [0, 1], [0, 1]], dtype=torch.float64)
    smooth = smooth_over_neighbours(p, nearest_neighbours(x, 3), rounds=1)
    assert smooth.argmax(dim=1).tolist() == [0, 0, 0, 1, 1, 1]
    close(smooth[1], torch.tensor([2, 1], dtype=torch.float64) / 3)
    assert p[1].tolist() == [0, 1]


# --- mutual_information -----------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 12), st.integers(1, 5), SEEDS)
def test_mutual_information_equals_scikit_learns_and_scipys(examples, classes, seed):
    p = eighths(examples, classes, seed)
    counts = (8 * p.numpy()).astype(int)  # of image and answer together: scikit-learn takes whole numbers
    assert mutual_information(p).item() == exactly(mutual_info_score(None, None, contingency=counts))
    for given_p in (p, chances(examples, classes, seed=seed)):
        expected = entropy(given_p.numpy().mean(axis=0)) - np.mean(entropy(given_p.numpy(), axis=1))
        assert mutual_information(given_p).item() == exactly(expected)


def test_mutual_information_of_decided_undecided_and_uniform_answers():
    assert mutual_information(torch.eye(4, dtype=torch.float64)).item() == exactly(math.log(4))
    assert mutual_information(torch.eye(4)[[1, 1, 1]]).item() == 0  # decided, but all alike
    assert mutual_information(torch.full((5, 4), 0.25)).item() == pytest.approx(0, abs=1e-6)
    several = chances(2, 3, 6, 4)
    found = mutual_information(several)
    assert found.shape == (2, 3)
    close(found[1, 2], mutual_information(several[1, 2]))


# --- leave_one_domain_out ---------------------------------------------------------------------


def test_each_domain_is_judged_by_a_model_of_the_others_only():
    domains = {"thick": 1, "blurred": 20, "printed": 300}
    seen = []

    def train(others):
        seen.append(list(others))
        return sum(others)

    scores = leave_one_domain_out(domains, train, lambda model, left_out: (model, left_out))
    assert list(scores.items()) == [("thick", (320, 1)), ("blurred", (301, 20)), ("printed", (21, 300))]
    assert seen == [[20, 300], [1, 300], [1, 20]]


def test_domains_are_left_out_by_name_though_their_data_be_equal():
    one = torch.zeros(2)
    found = leave_one_domain_out({"a": one, "b": one, "c": one}, len, lambda model, _: model)
    assert found == {"a": 2, "b": 2, "c": 2}


# --- bad input --------------------------------------------------------------------------------

NAN = torch.tensor([[0.5, math.nan], [0.5, 0.5]])
P, MODEL = chances(6, 3), domain_network()
ROWS = nearest_neighbours(normal(6, 2), 2)
BAD = {
    "coral one example": (coral_loss, (normal(1, 3), normal(4, 3)), ValueError, "source: expected at least 2 examples"),
    "coral one target": (coral_loss, (normal(4, 3), normal(1, 3)), ValueError, "target: expected at least 2 examples"),
    "coral widths": (coral_loss, (normal(4, 3), normal(4, 2)), ValueError, "target: expected 3 features .* got 2"),
    "coral dtypes": (coral_loss, (normal(4, 3), normal(4, 3).float()), ValueError, "target: .*float64.*float32"),
    "coral axes": (coral_loss, (normal(4, 3, 2), normal(4, 3)), ValueError, r"source: expected 2 axes .* \(4, 3, 2\)"),
    "coral integers": (coral_loss, (normal(4, 3), torch.ones(4, 3).long()), TypeError, "target: expected a floating"),
    "coral nan": (coral_loss, (NAN, NAN), ValueError, "source: expected finite"),
    "coral no tensor": (coral_loss, ([[1.0]], normal(4, 1)), TypeError, "source: expected a torch.Tensor, got list"),
    "reverse no tensor": (reverse_gradient, (1.0,), TypeError, "x: expected a torch.Tensor, got float"),
    "reverse integers": (reverse_gradient, (torch.ones(2).long(),), TypeError, "x: expected a floating"),
    "reverse nan": (reverse_gradient, (NAN,), ValueError, "x: expected finite"),
    "strength below 0": (reverse_gradient, (P, -1), ValueError, "strength: .* at least 0, got -1"),
    "strength nan": (reverse_gradient, (P, math.nan), ValueError, "strength: expected a finite number"),
    "strength inf": (reverse_gradient, (P, math.inf), ValueError, "strength: expected a finite number"),
    "strength word": (reverse_gradient, (P, "1"), TypeError, "strength: expected a Python number, got str"),
    "strength axes": (reverse_gradient, (P, torch.ones(1)), ValueError, r"strength: .* got shape \(1,\)"),
    "strength whole": (reverse_gradient, (P, torch.tensor(1)), ValueError, "strength: expected a number or a floating"),
    "strength tensor below 0": (reverse_gradient, (P, torch.tensor(-1.0)), ValueError, "strength: .* at least 0"),
    "strength tensor nan": (reverse_gradient, (P, torch.tensor(math.nan)), ValueError, "strength: expected a finite"),
    "domain nan": (domain_loss, (NAN, P), ValueError, "source_logits: expected finite"),
    "domain empty": (domain_loss, (P, P[:0]), ValueError, "target_logits: expected at least one"),
    "domain dtypes": (domain_loss, (P, P.float()), TypeError, "target_logits: expected dtype torch.float64, got .*32"),
    "domain no tensor": (domain_loss, (P, 0.0), TypeError, "target_logits: expected a torch.Tensor, got float"),
    "ramp below": (ramp, (-0.1,), ValueError, "progress: .* at least 0 and at most 1, got -0.1"),
    "ramp above": (ramp, (torch.tensor([0.5, 1.1]),), ValueError, "progress: expected values of 0 to 1"),
    "ramp nan": (ramp, (math.nan,), ValueError, "progress: expected a finite number"),
    "ramp word": (ramp, ("half",), TypeError, "progress: expected a Python number, got str"),
    "ramp whole": (ramp, (torch.tensor(1),), TypeError, "progress: expected a floating dtype"),
    "network part": (DomainNetwork, (MODEL, MODEL, len), TypeError, "critic: expected a torch.nn.Module, got builtin"),
    "dann labels": (dann_loss, (MODEL, normal(4, 5), torch.tensor([0, 1, 2, 3]), normal(2, 5)), ValueError,
                    "labels: expected classes 0 to 2, got 0 to 3"),
    "dann too few": (dann_loss, (MODEL, normal(4, 5), torch.tensor([0, 1]), normal(2, 5)), ValueError,
                     r"labels: expected shape \(4,\), got \(2,\)"),
    "dann floats": (dann_loss, (MODEL, normal(2, 5), torch.ones(2), normal(2, 5)), TypeError,
                    "labels: expected an integer"),
    "dann strength": (dann_loss, (MODEL, normal(2, 5), torch.tensor([0, 1]), normal(2, 5), -1), ValueError,
                      "strength: .* at least 0, got -1"),
    "discrepancy shapes": (classifier_discrepancy, (P, P[:2]), ValueError, r"second_logits: .* \(6, 3\), got \(2, 3\)"),
    "discrepancy dtypes": (classifier_discrepancy, (P, P.float()), TypeError, "second_logits: expected the dtype"),
    "discrepancy axes": (classifier_discrepancy, (P[0], P[0]), ValueError, "first_logits: expected 2 axes"),
    "standardise one image": (standardise, (P, P[:1]), ValueError, "domain: expected at least two images of 3 pixels"),
    "standardise pixels": (standardise, (P, P[:, :2]), ValueError, r"domain: .* 3 pixels.* got shape \(6, 2\)"),
    "standardise axes": (standardise, (P, P[None]), ValueError, r"domain: .* leading axes \(\), got shape \(1, 6, 3\)"),
    "standardise floor": (standardise, (P, P, 0), ValueError, "floor: .* above 0, got 0"),
    "standardise nan": (standardise, (P, NAN), ValueError, "domain: expected finite"),
    "labels not one": (confident_pseudo_labels, (P / 2,), ValueError, "probabilities: expected rows ≥ 0 that add up"),
    "labels below 0": (confident_pseudo_labels, (torch.tensor([[1.5, -0.5]]),), ValueError, "probabilities: .* rows ≥"),
    "labels nan": (confident_pseudo_labels, (NAN,), ValueError, "probabilities: expected finite"),
    "labels one row": (confident_pseudo_labels, (P[0],), ValueError, r"probabilities: expected \(…, n, C\), got .*3"),
    "share 0": (confident_pseudo_labels, (P, 0), ValueError, "share: .* above 0 and at most 1, got 0"),
    "share 2": (confident_pseudo_labels, (P, 2), ValueError, "share: .* at most 1, got 2"),
    "share word": (confident_pseudo_labels, (P, "all"), TypeError, "share: expected a Python number, got str"),
    "threshold 2": (confident_pseudo_labels, (P, 1.0, 2), ValueError, "threshold: .* at most 1, got 2"),
    "threshold nan": (confident_pseudo_labels, (P, 1.0, math.nan), ValueError, "threshold: expected a finite number"),
    "count 0": (nearest_neighbours, (P, 0), ValueError, "count: expected 1 to 6, got 0"),
    "count 7": (nearest_neighbours, (P, 7), ValueError, "count: expected 1 to 6, got 7"),
    "count 1.5": (nearest_neighbours, (P, 1.5), TypeError, "count: expected an int, got float"),
    "points nan": (nearest_neighbours, (NAN, 1), ValueError, "x: expected finite"),
    "points axes": (nearest_neighbours, (normal(4), 1), ValueError, "x: expected at least 2 axes"),
    "rows float": (smooth_over_neighbours, (P, P), TypeError, "neighbours: expected int64 rows, got torch.float64"),
    "rows list": (smooth_over_neighbours, (P, [[0]]), TypeError, "neighbours: expected int64 rows, got list"),
    "rows short": (smooth_over_neighbours, (P, ROWS[:3]), ValueError, r"neighbours: expected \(6, 'k'\), got .*\(3, 2"),
    "rows none": (smooth_over_neighbours, (P, ROWS[:, :0]), ValueError, r"neighbours: .* got shape \(6, 0\)"),
    "rows outside": (smooth_over_neighbours, (P, ROWS + 4), ValueError, "neighbours: expected rows 0 to 5"),
    "rows below 0": (smooth_over_neighbours, (P, ROWS - 9), ValueError, "neighbours: expected rows 0 to 5"),
    "rounds": (smooth_over_neighbours, (P, ROWS, -1), ValueError, "rounds: expected at least 0, got -1"),
    "smooth logits": (smooth_over_neighbours, (normal(6, 3), ROWS), ValueError, "probabilities: expected rows"),
    "information logits": (mutual_information, (normal(6, 3),), ValueError, "probabilities: expected rows"),
    "information row": (mutual_information, (P[0],), ValueError, r"probabilities: expected \(…, n, C\)"),
    "information list": (mutual_information, ([0.5, 0.5],), TypeError, "probabilities: expected a torch.Tensor"),
    "one domain": (leave_one_domain_out, ({"a": 1}, len, max), ValueError, "domains: expected at least two, .* got 1"),
    "no domain": (leave_one_domain_out, ({}, len, max), ValueError, "domains: expected at least two, .* got 0"),
    "domains list": (leave_one_domain_out, ([1, 2], len, max), TypeError, "domains: expected name → data, got list"),
}  # fmt: skip


@pytest.mark.parametrize(("function", "arguments", "error", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_named(function, arguments, error, words):
    with pytest.raises(error, match=words):
        function(*arguments)
