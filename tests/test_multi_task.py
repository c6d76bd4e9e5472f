"""The six strategies of lesson 06 against slow loops, other libraries, hand calculations and autograd."""

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import EVERY_DTYPE, SEEDS, normal
from sklearn.cross_decomposition import CCA
from sklearn.decomposition import PCA
from torch import nn
from torch.func import functional_call, grad, vmap

from ctkd_lessons.multi_task import (
    ATTENTION,
    AttentiveNetwork,
    adaptive_weights,
    annealed_targets,
    answer_losses,
    answers,
    attention_transfer,
    common_features,
    dwa_weights,
    fuse_answers,
    fusion_loss,
    labelled_mean,
    separate_loss,
    shared_loss,
    transfer_loss,
    weighted_sum,
)
from ctkd_lessons.pipeline import TASKS, MultiTaskNetwork, bridge_loss, fuse_knowledge, task_losses

exactly = partial(pytest.approx, rel=1e-10, abs=1e-12)
equal = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-12)


def positive(*shape, seed=0, dtype=torch.float64):
    return normal(*shape, seed=seed).exp().to(dtype)


def numbers(*values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype)


def outputs_of(batch=3, classes=4, pixels=9, seed=0, dtype=torch.float64, tasks=TASKS):
    widths = {"class": classes, "box": 4, "mask": pixels}
    return {
        task: normal(batch, wide, seed=seed + place, dtype=dtype)
        for place, (task, wide) in enumerate(widths.items())
        if task in tasks
    }


# --- slow ways, on lists of numbers -----------------------------------------------------------


def slow_softmax(row):
    raised = [math.exp(value - max(row)) for value in row]
    return [value / math.fsum(raised) for value in raised]


def slow_kl(p, q):
    return math.fsum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True) if a)


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def slow_box(row):
    x, y, wide, high = map(sigmoid, row)
    return [x - wide / 2, y - high / 2, x + wide / 2, y + high / 2]


def slow_smooth(a, b):
    gap = abs(a - b)
    return gap**2 / 0.2 if gap < 0.1 else gap - 0.05


SLOW_ANSWERS = {"class": slow_softmax, "box": slow_box, "mask": lambda row: [sigmoid(value) for value in row]}
SLOW_DISTANCES = {
    "class": lambda target, answer: slow_kl(target, answer),
    "box": lambda target, answer: math.fsum(map(slow_smooth, target, answer)) / 4,
    "mask": lambda target, answer: (
        math.fsum(slow_kl([t, 1 - t], [a, 1 - a]) for t, a in zip(target, answer, strict=True)) / len(answer)
    ),
}


def slow_answers(outputs):
    return {task: [SLOW_ANSWERS[task](row) for row in rows.tolist()] for task, rows in outputs.items()}


def slow_distances(outputs, targets):
    """Return d_k per task; ``targets``: task → rows of answers."""
    said = slow_answers(outputs)
    return [
        math.fsum(map(SLOW_DISTANCES[task], targets[task], said[task])) / len(said[task])
        for task in TASKS
        if task in said
    ]


def slow_fusion(teachers, weights):
    said, fused = [slow_answers(one) for one in teachers], {}
    for task in TASKS:
        known = [(one[task], weight) for one, weight in zip(said, weights, strict=True) if task in one]
        total = math.fsum(weight for _, weight in known)
        if known:
            rows = range(len(known[0][0]))
            fused[task] = [
                [math.fsum(w * answer[i][j] for answer, w in known) / total for j in range(len(known[0][0][i]))]
                for i in rows
            ]
    return fused


def slow_bridge(bridged, target):
    return math.fsum(math.dist(*pair) ** 2 for pair in zip(bridged.tolist(), target.tolist(), strict=True)) / len(
        target
    )


def slow_weights(values, temperature):
    return [len(values) * share for share in slow_softmax([value / temperature for value in values])]


# --- labelled_mean ----------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.booleans()), min_size=1, max_size=6))
def test_labelled_mean_equals_the_slow_loop(rows):
    losses, has_label = numbers(*(loss for loss, _ in rows)), torch.tensor([there for _, there in rows])
    known = [loss for loss, there in rows if there]
    assert labelled_mean(losses, has_label).item() == exactly(math.fsum(known) / max(len(known), 1))


def test_a_task_without_a_label_in_the_batch_sits_the_step_out():
    losses = positive(4).requires_grad_()
    value = labelled_mean(losses, torch.zeros(4, dtype=torch.bool))
    assert value.item() == 0
    (slope,) = torch.autograd.grad(value, losses)
    assert not slope.any()
    # And so it goes on through whatever is made of it: no weight scheme turns it into nan.
    both = torch.stack([value, losses.sum()])
    assert adaptive_weights(both, numbers(0.0, 1.0)).isfinite().all()
    assert adaptive_weights(both, numbers(0.5, 1.0)).tolist() == exactly([0, 2])
    assert dwa_weights(both, numbers(0.0, 1.0)).isfinite().all()
    assert weighted_sum(both, numbers(1.0, 1.0)).isfinite()


def test_labelled_mean_of_a_large_batch_stays_in_float16():
    losses = torch.full((2000,), 100.0, dtype=torch.float16)
    assert labelled_mean(losses, torch.ones(2000, dtype=torch.bool)).item() == 100


# --- answers and their distances --------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.integers(1, 5), st.sampled_from([1, 4, 9]), SEEDS)
def test_answers_and_distances_equal_the_slow_loop(batch, classes, pixels, seed):
    student, teacher = (outputs_of(batch, classes, pixels, seed=seed + place) for place in (0, 100))
    said = answers(teacher)
    for task, expected in slow_answers(teacher).items():
        equal(said[task], torch.tensor(expected, dtype=torch.float64))
    expected = slow_distances(student, slow_answers(teacher))
    assert answer_losses(student, said).tolist() == exactly(expected)
    assert answer_losses(teacher, said).tolist() == pytest.approx([0, 0, 0], abs=1e-15)
    some = {"mask": student["mask"], "other": normal(2), "class": student["class"]}
    assert answer_losses(some, said).tolist() == exactly([expected[0], expected[2]])
    assert list(answers(some)) == ["class", "mask"]


def test_distances_are_those_of_pytorch():
    student, said = outputs_of(), answers(outputs_of(seed=50))
    found = answer_losses(student, said)
    logs = student["class"].log_softmax(1)
    assert found[0].item() == exactly(F.kl_div(logs, said["class"], reduction="batchmean").item())
    equal(found[1], F.smooth_l1_loss(answers(student)["box"], said["box"], beta=0.1))
    pixels, ink = (torch.stack([one, 1 - one]) for one in (student["mask"].sigmoid(), said["mask"]))
    equal(found[2], F.kl_div(pixels.log(), ink, reduction="sum") / ink[0].numel())
    entropy = F.binary_cross_entropy(said["mask"], said["mask"])
    equal(found[2], F.binary_cross_entropy_with_logits(student["mask"], said["mask"]) - entropy)


def test_distances_to_the_truth_are_the_tasks_losses():
    """Certain targets have no entropy: what is left is lesson 05's losses on labels."""
    student, labels, masks = outputs_of(), torch.tensor([0, 3, 1]), normal(3, 3, 3, seed=8) > 0
    corners = answers(outputs_of(seed=50))["box"]
    truth = {"class": F.one_hot(labels, 4).double(), "box": corners, "mask": masks.flatten(1).double()}
    expected = task_losses(student, labels, 3 * corners, masks)
    equal(answer_losses(student, truth), torch.stack(list(expected.values())))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distances_of_extreme_outputs_are_finite(dtype):
    student, teacher = outputs_of(dtype=dtype), outputs_of(seed=50, dtype=dtype)
    far = {task: (1e4 * value).requires_grad_() for task, value in student.items()}
    losses = separate_loss(far, {task: 1e4 * value for task, value in teacher.items()})
    assert losses.isfinite()
    assert all(slope.isfinite().all() for slope in torch.autograd.grad(losses, list(far.values())))


# --- the six strategies -----------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.floats(0, 5), SEEDS)
def test_shared_loss_equals_the_slow_loop(tasks, batch, width, weight, seed):
    losses, bridged, features = positive(tasks, seed=seed), normal(batch, width, seed=seed), normal(batch, width)
    slow = math.fsum(losses.tolist()) + weight * slow_bridge(bridged, features)
    assert shared_loss(losses, bridged, features, weight).item() == exactly(slow)
    assert shared_loss(losses, bridged, features, 0).item() == exactly(math.fsum(losses.tolist()))


def test_shared_loss_by_hand():
    # 1 + 2, and half of (3² + 4² + 0) / 2.
    assert shared_loss(numbers(1, 2), numbers([3, 4], [1, 1]), numbers([0, 0], [1, 1]), 0.5).item() == exactly(9.25)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.integers(1, 5), st.sets(st.sampled_from(TASKS), min_size=1), SEEDS)
def test_separate_loss_equals_the_slow_loop(batch, classes, tasks, seed):
    student, teacher = (outputs_of(batch, classes, seed=seed + place, tasks=tasks) for place in (0, 100))
    slow = slow_distances(student, slow_answers(teacher))
    weights = positive(len(tasks), seed=seed)
    assert separate_loss(student, teacher).item() == exactly(math.fsum(slow))
    found = separate_loss(student, teacher | {"other": normal(1)}, weights)
    assert found.item() == exactly(math.fsum(w * d for w, d in zip(weights.tolist(), slow, strict=True)))
    assert separate_loss(student, student, weights).item() == pytest.approx(0, abs=1e-14)


@settings(deadline=None, max_examples=30)
@given(st.floats(0, 1), st.floats(0, 1), SEEDS)
def test_transfer_loss_equals_the_slow_loop(progress, switch, seed):
    losses, bridged, common = positive(3, seed=seed), normal(4, 2, seed=seed), normal(4, 2, seed=1)
    slow = slow_bridge(bridged, common) if progress < switch else math.fsum(losses.tolist())
    for given_as in (progress, torch.tensor(progress, dtype=torch.float64)):
        assert transfer_loss(losses, bridged, common, given_as, switch).item() == exactly(slow)


def test_transfer_loss_switches_where_it_says():
    given_to = numbers(1, 2), normal(4, 2).requires_grad_(), normal(4, 2, seed=1)
    at = lambda progress, *switch: transfer_loss(*given_to, progress, *switch)
    assert at(0.5).item() == at(0, 0).item() == at(1).item() == at(1, 1).item() == 3
    assert at(0.499).item() == at(0).item() == at(0.999, 1).item() == exactly(slow_bridge(*given_to[1:]))
    (bridge,) = torch.autograd.grad(at(0.7), given_to[1])
    assert not bridge.any()  # the hint is over
    losses = numbers(1, 2).requires_grad_()
    (tasks,) = torch.autograd.grad(transfer_loss(losses, *given_to[1:], 0.2), losses)
    assert not tasks.any()  # the labels' turn has not come


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6)), min_size=1, max_size=6), st.floats(0.05, 20))
def test_adaptive_weights_equal_the_slow_loop(pairs, temperature):
    student, teacher = (numbers(*column) for column in zip(*pairs, strict=True))
    found = adaptive_weights(student, teacher, temperature)
    assert found.tolist() == exactly(slow_weights([math.log(s / t) for s, t in pairs], temperature))
    assert found.sum().item() == exactly(len(pairs))
    # What is the same for all tasks changes nothing: another unit of the teachers' losses.
    equal(adaptive_weights(student, 8 * teacher, temperature), found)


def test_adaptive_weights_by_hand():
    # Twice, as far as, and half as far as the teacher: 2 : 1 : ½ at T = 1, √ of it at T = 2, even at T → ∞.
    losses = numbers(2, 3, 0.5), numbers(1, 3, 1)
    assert adaptive_weights(*losses).tolist() == exactly([12 / 7, 6 / 7, 3 / 7])
    root = 2**0.5
    total = root + 1 + 1 / root
    assert adaptive_weights(*losses, 2.0).tolist() == exactly([3 * root / total, 3 / total, 3 / root / total])
    assert adaptive_weights(*losses, 1e9).tolist() == pytest.approx([1, 1, 1])
    assert adaptive_weights(*losses, 1e-3).tolist() == pytest.approx([3, 0, 0])


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.floats(0, 1e3), st.floats(1e-2, 1e3)), min_size=1, max_size=6), st.floats(0.1, 20))
def test_dwa_weights_equal_the_slow_loop(pairs, temperature):
    last, earlier = (numbers(*column) for column in zip(*pairs, strict=True))
    found = dwa_weights(last, earlier, temperature)
    expected = slow_weights([a / b for a, b in pairs], temperature)
    torch.testing.assert_close(found, numbers(*expected), rtol=1e-8, atol=1e-12)  # exp of up to 1e6
    assert found.sum().item() == exactly(len(pairs))


def test_dwa_weights_by_hand():
    # One loss stands still, one was halved; T = 2 unless told otherwise.
    a, b = math.exp(0.5), math.exp(0.25)
    assert dwa_weights(numbers(3, 1), numbers(3, 2)).tolist() == exactly([2 * a / (a + b), 2 * b / (a + b)])
    assert dwa_weights(numbers(3, 10), numbers(6, 20)).tolist() == exactly([1, 1])


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3)), min_size=1, max_size=6))
def test_weighted_sum_equals_the_slow_loop(pairs):
    losses, weights = (numbers(*column) for column in zip(*pairs, strict=True))
    slow = math.fsum(loss * weight for loss, weight in pairs)
    assert weighted_sum(losses, weights).item() == pytest.approx(slow, rel=1e-10, abs=1e-8)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=2), st.integers(1, 9), SEEDS)
def test_attention_transfer_equals_the_slow_loop(shape, patches, seed):
    student, teacher = (2 * normal(*shape, patches, seed=seed + place) for place in (0, 1))
    pairs = zip(student.reshape(-1, patches).tolist(), teacher.reshape(-1, patches).tolist(), strict=True)
    slow = [slow_kl(slow_softmax(t), slow_softmax(s)) for s, t in pairs]
    assert attention_transfer(student, teacher).item() == exactly(math.fsum(slow) / len(slow))
    assert attention_transfer(student, student + 3).item() == pytest.approx(0, abs=1e-14)
    flat = (one.reshape(-1, patches) for one in (student, teacher))
    log_s, log_t = (one.log_softmax(1) for one in flat)
    equal(attention_transfer(student, teacher), F.kl_div(log_s, log_t, reduction="batchmean", log_target=True))


def test_attention_transfer_of_extreme_scores_is_finite():
    student = (1e4 * normal(3, 2, 4, dtype=torch.float32)).requires_grad_()
    value = attention_transfer(student, 1e4 * normal(3, 2, 4, seed=1, dtype=torch.float32))
    assert value.isfinite()
    assert torch.autograd.grad(value, student)[0].isfinite().all()


TEACHERS = st.lists(st.tuples(st.sets(st.sampled_from(TASKS), min_size=1), st.floats(0.01, 5)), min_size=1, max_size=4)


@settings(deadline=None, max_examples=30)
@given(TEACHERS, st.integers(1, 3), SEEDS)
def test_fusion_equals_the_slow_loop(teachers, batch, seed):
    said = [outputs_of(batch, seed=seed + 10 * m, tasks=tasks) for m, (tasks, _) in enumerate(teachers)]
    student = outputs_of(batch, seed=seed + 99, tasks=set.union(*(tasks for tasks, _ in teachers)))
    weights = [weight for _, weight in teachers]
    for scheme, used in ((weights, weights), (None, [1.0] * len(weights)), ([3 * w for w in weights], weights)):
        expected = slow_fusion(said, used)
        fused = fuse_answers(said, scheme)
        assert list(fused) == list(expected)
        for task, rows in expected.items():
            equal(fused[task], torch.tensor(rows, dtype=torch.float64))
        slow = math.fsum(slow_distances(student, expected))
        assert fusion_loss(student, said, scheme).item() == exactly(slow)


def test_fusion_by_hand():
    # A sure teacher and one that knows nothing, three to one: 0.75 · (1, 0) + 0.25 · (½, ½).
    sure, even = {"class": numbers([1000, 0])}, {"class": numbers([0, 0]), "box": numbers([0, 0, 0, 0])}
    fused = fuse_answers([sure, even], [3, 1])
    equal(fused["class"], numbers([0.875, 0.125]))
    equal(fused["box"], numbers([0.25, 0.25, 0.75, 0.75]))  # of the only one that has it
    equal(fuse_answers([sure, even], [0, 1])["class"], numbers([0.5, 0.5]))
    assert fusion_loss(even, [even]).item() == 0
    student = {"class": numbers([math.log(0.875), math.log(0.125)])}
    assert fusion_loss(student, [sure, even], [3, 1]).item() == pytest.approx(0, abs=1e-14)


def test_fusion_with_one_teacher_is_separate():
    student, teacher = outputs_of(), outputs_of(seed=50)
    equal(fusion_loss(student, [teacher]), separate_loss(student, teacher))
    parts = [{task: value} for task, value in teacher.items()]
    equal(fusion_loss(student, parts, [5, 0.1, 2]), separate_loss(student, teacher))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.integers(1, 5), st.floats(0, 1), SEEDS)
def test_annealed_targets_equal_the_slow_loop(batch, classes, share, seed):
    p = normal(batch, classes, seed=seed).softmax(1)
    labels = torch.randint(classes, (batch,), generator=torch.Generator().manual_seed(seed))
    slow = [
        [(1 - share) * value + share * (place == label) for place, value in enumerate(row)]
        for row, label in zip(p.tolist(), labels.tolist(), strict=True)
    ]
    for given_as in (share, torch.tensor(share, dtype=torch.float64)):
        found = annealed_targets(p, labels, given_as)
        equal(found, torch.tensor(slow, dtype=torch.float64))
        equal(found.sum(1), torch.ones(batch, dtype=torch.float64))
    equal(annealed_targets(p, labels, 0), p)
    equal(annealed_targets(p, labels.int(), 1.0), F.one_hot(labels, classes).double())


# --- common features --------------------------------------------------------------------------


def products(g):
    """Return what does not depend on the signs of the columns."""
    return g @ g.T


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 8), st.lists(st.integers(1, 4), min_size=1, max_size=3), st.data())
def test_common_features_are_principal_directions(examples, widths, data):
    seed, components = data.draw(SEEDS), data.draw(st.integers(1, min(examples - 1, sum(widths))))
    knowledge = [normal(examples, wide, seed=seed + place) for place, wide in enumerate(widths)]
    found = common_features(knowledge, components)
    assert found.shape == (examples, components)
    fused = fuse_knowledge(knowledge)
    expected = torch.tensor(PCA(components).fit_transform(fused.numpy()))
    expected = expected / expected.square().sum(1).mean().sqrt()
    torch.testing.assert_close(products(found), products(expected), rtol=1e-7, atol=1e-8)
    assert found.square().sum(1).mean().item() == exactly(1)
    assert found.mean(0).abs().max() < 1e-10
    # Eigenvectors of the Gram matrix, by their definition.
    gram = products(fused)
    sizes = (found * (gram @ found)).sum(0) / found.square().sum(0)
    torch.testing.assert_close(gram @ found, found * sizes, rtol=1e-7, atol=1e-8)
    assert sizes.tolist() == sorted(sizes.tolist(), reverse=True)


def test_common_features_of_one_teacher_are_its_principal_components():
    features = normal(12, 5, seed=3) * numbers(5, 3, 2, 1, 0.5) + 7
    expected = torch.tensor(PCA(3).fit_transform(features.numpy()))
    expected = expected / expected.square().sum(1).mean().sqrt()
    equal(products(common_features([features], 3)), products(expected))
    every = common_features([features], 5)
    equal(products(every), products(fuse_knowledge([features])))  # nothing is lost


def test_common_features_of_two_whitened_teachers_are_canonical():
    """Whitened, a direction in which two teachers correlate by ρ has the variance 1 + ρ."""
    shared = normal(60, 2, seed=1)
    left, right = (shared @ normal(2, 3, seed=s) + 0.7 * normal(60, 3, seed=s + 5) for s in (2, 3))
    white = [(one - one.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(one.T.cov()).T) for one in (left, right)]
    cca = CCA(3, scale=False, max_iter=20_000, tol=1e-14).fit(left.numpy(), right.numpy())
    pairs = cca.transform(left.numpy(), right.numpy())
    correlations = [np.corrcoef(a, b)[0, 1] for a, b in zip(*(one.T for one in pairs), strict=True)]
    found = common_features(white, 3)
    sizes = found.square().sum(0)
    assert (sizes / sizes[0]).tolist() == pytest.approx([(1 + r) / (1 + correlations[0]) for r in correlations])
    for column, a, b in zip(found.T, *(one.T for one in pairs), strict=True):
        both = a / a.std() + b / b.std()  # the sum of the two canonical variates
        assert abs(np.corrcoef(column, both)[0, 1]) == pytest.approx(1, abs=1e-6)


def test_what_several_teachers_keep_comes_first():
    """Three teachers know one thing each of their own and one thing together; widths and loudness differ."""
    patterns = torch.tensor([[(-1.0) ** (i & j).bit_count() for j in range(1, 5)] for i in range(8)]).double()
    together, *own = patterns.T
    knowledge = [k * torch.stack([together, one], 1) + k for k, one in enumerate(own, start=1)]
    found = common_features(knowledge, 1).squeeze(1)
    equal(found * found[0].sign(), together * together[0].sign())
    sizes = common_features(knowledge, 4).square().mean(0)
    assert sizes.tolist() == exactly([1 / 2, 1 / 6, 1 / 6, 1 / 6])


def test_more_components_than_directions_are_zero():
    rank_one = normal(6, 1) @ normal(1, 4, seed=1)
    found = common_features([rank_one], 3)
    assert found.isfinite().all()
    assert found[:, 1:].abs().max() < 1e-7
    assert common_features([normal(3, 5)], 3).isfinite().all()  # centred: 2 directions for 3 examples


# --- gradients --------------------------------------------------------------------------------

STUDENT, TEACHER = outputs_of(), outputs_of(seed=50)
FEATURES, LABELS = normal(3, 5, seed=1), torch.tensor([0, 3, 1])
LABELLED = torch.tensor([True, False, True])
ANOTHER, SCORES = outputs_of(seed=80), normal(3, 2, 4, seed=1)


def in_mapping(function):
    return lambda *tensors: function(dict(zip(TASKS, tensors, strict=True)))


SMOOTH = {
    "labelled mean": (lambda losses: labelled_mean(losses, LABELLED), normal(3)),
    "answers": (in_mapping(lambda outputs: sum(one.square().sum() for one in answers(outputs).values())),
                *STUDENT.values()),
    "shared": (lambda losses, bridged: shared_loss(losses, bridged, FEATURES, 0.3), positive(3), normal(3, 5)),
    "separate": (in_mapping(lambda outputs: separate_loss(outputs, TEACHER, numbers(1, 20, 3))), *STUDENT.values()),
    "transfer, hints": (lambda losses, bridged: transfer_loss(losses, bridged, FEATURES, 0.1), positive(3),
                        normal(3, 5)),
    "transfer, labels": (lambda losses, bridged: transfer_loss(losses, bridged, FEATURES, 0.6), positive(3),
                         normal(3, 5)),
    "weighted sum": (lambda losses: weighted_sum(losses, numbers(1, 0, 3)), normal(3)),
    "attention": (lambda scores: attention_transfer(scores, SCORES), normal(3, 2, 4)),
    "fusion": (in_mapping(lambda outputs: fusion_loss(outputs, [TEACHER, ANOTHER], [1, 3])),
               *STUDENT.values()),
}  # fmt: skip


@pytest.mark.parametrize("case", SMOOTH.values(), ids=SMOOTH)
def test_gradients(case):
    function, *inputs = case
    inputs = tuple(one.clone().requires_grad_() for one in inputs)
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.filterwarnings("error")  # vmap warns where it falls back to a slow loop
@pytest.mark.parametrize("case", SMOOTH.values(), ids=SMOOTH)
def test_vmap_equals_loop(case):
    function, *inputs = case
    stacked = [torch.stack([one, one.flip(0), 2 * one]) for one in inputs]
    slopes = grad(function, argnums=tuple(range(len(inputs))))
    for one in (lambda *x: (function(*x),), slopes):
        looped = [one(*each) for each in zip(*stacked, strict=True)]
        equal(vmap(one)(*stacked), tuple(torch.stack(column) for column in zip(*looped, strict=True)))


WEIGHTS = {
    "adaptive": (adaptive_weights, positive(4, 3), positive(4, 3, seed=1)),
    "adaptive, zeros": (adaptive_weights, numbers([0, 1, 2], [0, 0, 1]), numbers([1, 0, 2], [0, 1, 1])),
    "dwa": (dwa_weights, positive(4, 3), positive(4, 3, seed=1)),
    "dwa, zeros": (dwa_weights, numbers([0, 1, 2], [0, 0, 1]), numbers([1, 0, 2], [0, 1, 1])),
    "annealed": (lambda p, share: annealed_targets(p, LABELS, share), normal(2, 3, 4).softmax(-1), numbers(0, 0.3)),
    "transfer": (lambda bridged, share: transfer_loss(numbers(1, 2), bridged, FEATURES, share),
                 normal(2, 3, 5), numbers(0.2, 0.8)),
    "attention": (attention_transfer, normal(2, 3, 4), normal(2, 3, 4, seed=1)),
    "separate": (lambda a, b: separate_loss({"class": a}, {"class": b}, numbers(2)), normal(2, 3, 4),
                 normal(2, 3, 4, seed=1)),
    "fusion": (lambda a, b: fusion_loss({"mask": a}, [{"mask": b}, {"mask": a}], [1, 2]), normal(2, 3, 4),
               normal(2, 3, 4, seed=1)),
    "common": (lambda a, b: products(common_features([a, b], 2)), normal(2, 5, 3), normal(2, 5, 4, seed=1)),
    "labelled": (labelled_mean, normal(2, 3), torch.tensor([[True, False, True], [False] * 3])),
}  # fmt: skip


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", WEIGHTS.values(), ids=WEIGHTS)
def test_vmap_over_teacher_and_progress(case):
    """Every seed has its own teacher, and ``fit`` gives the progress as a tensor."""
    function, *stacked = case
    equal(vmap(function)(*stacked), torch.stack([function(*each) for each in zip(*stacked, strict=True)]))


CONSTANTS = {
    "shared": lambda x, c: shared_loss(x.sum(1), x, c),
    "separate": lambda x, c: separate_loss({"class": x}, {"class": c}),
    "separate, box": lambda x, c: separate_loss({"box": x}, {"box": c}),
    "separate, mask": lambda x, c: separate_loss({"mask": x}, {"mask": c}),
    "separate, weights": lambda x, c: separate_loss({"mask": x}, {"mask": x + 1}, c[0, :1].abs()),
    "answer losses": lambda x, c: answer_losses({"class": x}, {"class": c.softmax(1)}).sum(),
    "transfer": lambda x, c: transfer_loss(x.sum(1), x, c, 0.1),
    "weighted sum": lambda x, c: weighted_sum(x[0], c[0].abs()),
    "adaptive": lambda x, c: (x[0] * adaptive_weights(c[0].abs(), c[1].abs())).sum(),
    "dwa": lambda x, c: (x[0] * dwa_weights(c[0].abs(), c[1].abs())).sum(),
    "attention": attention_transfer,
    "fuse answers": lambda x, c: (x * fuse_answers([{"class": c}])["class"]).sum(),
    "fusion": lambda x, c: fusion_loss({"class": x}, [{"class": c}, {"class": 2 * c}], [1, 2]),
    "annealed": lambda x, c: (x * annealed_targets(c.softmax(1), LABELS, 0.3)).sum(),
    "common": lambda x, c: (x[:, :2] * common_features([c], 2)).sum(),
}


@pytest.mark.parametrize("loss", CONSTANTS.values(), ids=CONSTANTS)
def test_no_gradient_to_teachers_and_weights(loss):
    x, c = positive(3, 4).requires_grad_(), normal(3, 4, seed=1).requires_grad_()
    found, none = torch.autograd.grad(loss(x, c), (x, c), allow_unused=True)
    assert found.any()
    assert none is None
    assert not grad(loss, argnums=1)(x.detach(), c.detach()).any()


def test_weights_carry_no_graph():
    losses = positive(3).requires_grad_()
    assert not adaptive_weights(losses, positive(3, seed=1)).requires_grad
    assert not adaptive_weights(positive(3), losses).requires_grad
    assert not dwa_weights(losses, losses).requires_grad


# --- dtypes -----------------------------------------------------------------------------------

BY_DTYPE = {
    "labelled mean": lambda dtype: labelled_mean(normal(3, dtype=dtype), LABELLED),
    "answers": lambda dtype: torch.cat([one.flatten() for one in answers(outputs_of(dtype=dtype)).values()]),
    "answer losses": lambda dtype: answer_losses(
        outputs_of(dtype=dtype), {task: one.to(dtype) for task, one in answers(TEACHER).items()}),
    "shared": lambda dtype: shared_loss(positive(3, dtype=dtype), normal(3, 5, dtype=dtype), FEATURES.to(dtype), 0.3),
    "separate": lambda dtype: separate_loss(outputs_of(dtype=dtype), outputs_of(seed=50, dtype=dtype)),
    "separate, weights": lambda dtype: separate_loss(
        outputs_of(dtype=dtype), outputs_of(seed=50, dtype=dtype), positive(3, dtype=dtype)),
    "common": lambda dtype: products(
        common_features([normal(6, 3, dtype=dtype), normal(6, 2, seed=1, dtype=dtype)], 2)),
    "transfer": lambda dtype: transfer_loss(
        positive(3, dtype=dtype), normal(3, 5, dtype=dtype), FEATURES.to(dtype), torch.tensor(0.2)),
    "adaptive": lambda dtype: adaptive_weights(positive(3, dtype=dtype), positive(3, seed=1, dtype=dtype), 0.7),
    "dwa": lambda dtype: dwa_weights(positive(3, dtype=dtype), positive(3, seed=1, dtype=dtype)),
    "weighted sum": lambda dtype: weighted_sum(positive(3, dtype=dtype), positive(3, seed=1, dtype=dtype)),
    "attention": lambda dtype: attention_transfer(normal(3, 4, dtype=dtype), normal(3, 4, seed=1, dtype=dtype)),
    "fusion": lambda dtype: fusion_loss(
        outputs_of(dtype=dtype), [outputs_of(seed=50, dtype=dtype), outputs_of(seed=80, dtype=dtype)], [1, 3]),
    "annealed": lambda dtype: annealed_targets(normal(3, 4, dtype=dtype).softmax(1), LABELS, torch.tensor(0.3)),
}  # fmt: skip


@EVERY_DTYPE
@pytest.mark.parametrize("name", BY_DTYPE)
def test_the_dtype_is_kept(name, dtype):
    found, expected = BY_DTYPE[name](dtype), BY_DTYPE[name](torch.float64)
    assert found.dtype == dtype
    tolerance = 20 * torch.finfo(dtype).eps
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


# --- limits of the weights --------------------------------------------------------------------


@EVERY_DTYPE
@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        ([0, 0], [0, 0], [1, 1]),  # two zeros are a tie
        ([0, 2], [0, 2], [1, 1]),  # and a tie is as even as any other
        ([1, 1], [0, 1], [2, 0]),  # a teacher without error: that task takes all
        ([1, 1, 1], [0, 0, 1], [1.5, 1.5, 0]),  # or several share
        ([0, 1], [1, 1], [0, 2]),  # nothing left to learn
        ([0, 0], [1, 1], [1, 1]),
        ([0], [0], [1]),
        ([5], [1], [1]),  # a single task always has the weight 1
    ],
)
def test_adaptive_weights_at_zero(student, teacher, expected, dtype):
    found = adaptive_weights(numbers(*student, dtype=dtype), numbers(*teacher, dtype=dtype))
    assert found.dtype == dtype
    assert found.tolist() == pytest.approx(expected, abs=5e-4)


@EVERY_DTYPE
@pytest.mark.parametrize(
    ("last", "earlier", "expected"),
    [
        ([0, 0], [0, 0], [1, 1]),  # what stays zero counts as unchanged
        ([0, 2], [0, 2], [1, 1]),
        ([1, 1], [0, 1], [2, 0]),  # what was zero and no longer is takes all
        ([1, 9, 1], [0, 0, 1], [1.5, 1.5, 0]),
        ([0], [0], [1]),
        ([5], [1], [1]),
    ],
)
def test_dwa_weights_at_zero(last, earlier, expected, dtype):
    found = dwa_weights(numbers(*last, dtype=dtype), numbers(*earlier, dtype=dtype))
    assert found.dtype == dtype
    assert found.tolist() == expected


@EVERY_DTYPE
@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-40, 1e-8, 1e40, 1e300])
@pytest.mark.parametrize("scheme", [adaptive_weights, dwa_weights])
def test_weights_at_any_temperature(scheme, temperature, dtype):
    limits = torch.finfo(dtype)
    for one in ([1, 1, 3], [1, 3, 0], [limits.max, 1, limits.tiny]):
        for other in ([1, 2, 3], [0, 1, 2], [limits.tiny, 2, limits.max]):
            found = scheme(numbers(*one, dtype=dtype), numbers(*other, dtype=dtype), temperature)
            assert (found >= 0).all()
            assert found.sum().item() == pytest.approx(3, abs=0.02)
    found = scheme(numbers(3, 1, 2, dtype=dtype), numbers(1, 1, 1, dtype=dtype), temperature)
    assert found.tolist() == ([3, 0, 0] if temperature < 1 else pytest.approx([1, 1, 1]))


def test_gradient_under_a_weight_of_zero_is_zero():
    losses = positive(3).requires_grad_()
    weights = adaptive_weights(losses, numbers(0, 1, 1))
    (slope,) = torch.autograd.grad(weighted_sum(losses, weights), losses)
    assert slope.tolist() == exactly([3, 0, 0])


# --- the network with attention ---------------------------------------------------------------


def network(pixels=36, patches=9, tasks=("class", "box")):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        gate, trunk = nn.Linear(pixels, patches), nn.Sequential(nn.Linear(pixels, 5), nn.Tanh())
        return AttentiveNetwork(gate, trunk, {task: nn.Linear(5, 4) for task in tasks}).double()


def test_attention_multiplies_each_pixel_by_that_of_its_patch():
    model, x = network(), normal(3, 36)
    outputs = model(x)
    assert list(outputs) == ["class", "box", ATTENTION]
    scores = model.gate(x)
    equal(outputs[ATTENTION], scores)
    seen = x.clone()
    for i, row in enumerate(scores.tolist()):
        shares = slow_softmax(row)
        for y in range(6):
            for column in range(6):
                seen[i, 6 * y + column] *= 9 * shares[3 * (y // 2) + column // 2]
    for task in ("class", "box"):
        equal(outputs[task], model.heads[task](model.trunk(seen)))
    assert all(p.grad.any() for p in _backward(model, x).gate.parameters())


def _backward(model, x):
    model(x)["class"].sum().backward()
    return model


def test_even_attention_changes_nothing():
    model, x = network(), normal(3, 36)
    nn.init.zeros_(model.gate.weight)
    nn.init.constant_(model.gate.bias, 7)
    plain = MultiTaskNetwork(model.trunk, model.heads)(x)
    for task, output in plain.items():
        equal(model(x)[task], output)


@pytest.mark.filterwarnings("error")
def test_attention_under_vmap_equals_the_loop():
    model, x = network(), normal(2, 3, 36)
    parameters = {name: torch.stack([p.detach(), 2 * p.detach()]) for name, p in model.named_parameters()}
    run = lambda weights, x: functional_call(model, weights, (x,))["class"]
    looped = [run({name: p[i] for name, p in parameters.items()}, x[i]) for i in range(2)]
    equal(vmap(run)(parameters, x), torch.stack(looped))


@pytest.mark.parametrize(("pixels", "patches"), [(36, 8), (36, 16), (35, 1), (36, 2)])
def test_patches_that_do_not_tile_the_image(pixels, patches):
    with pytest.raises(
        ValueError, match=f"gate: expected P square patches that tile {pixels} pixels, got P = {patches}"
    ):
        network(pixels, patches)(normal(2, pixels))


# --- bad input --------------------------------------------------------------------------------

THREE, FOUR, PAIR = positive(3), positive(4), normal(2, 4)
ONE_NAN, ONE_INF, ONE_LESS = numbers(1, math.nan, 1), numbers(1, math.inf, 1), numbers(1, -0.1, 1)
P = PAIR.softmax(1)
TWO_LABELS = torch.tensor([0, 3])
CLASS = {"class": PAIR}

BAD = [
    # labelled_mean
    (lambda: labelled_mean(THREE, torch.tensor([1, 0, 1])), TypeError, "has_label: expected a boolean tensor, got tor"),
    (lambda: labelled_mean(THREE, [True] * 3), TypeError, "has_label: expected a boolean tensor, got list"),
    (lambda: labelled_mean(THREE, LABELLED[:2]), ValueError, r"has_label: expected shape \(3,\), got \(2,\)"),
    (lambda: labelled_mean(ONE_NAN, LABELLED), ValueError, "losses: expected finite values"),
    (lambda: labelled_mean(PAIR, PAIR > 0), ValueError, r"losses: expected one axis, got shape \(2, 4\)"),
    (lambda: labelled_mean(THREE[:0], LABELLED[:0]), ValueError, "losses: expected at least one"),
    # answers
    (lambda: answers([PAIR]), TypeError, "outputs: expected a mapping from task to tensor, got list"),
    (lambda: answers({}), ValueError, r"outputs: expected at least one of \['class', 'box', 'mask'\], got \[\]"),
    (lambda: answers({"digit": PAIR}), ValueError, r"at least one of .*, got \['digit'\]"),
    (lambda: answers({"box": normal(2, 3)}), ValueError, r"outputs: expected shape \(…, 4\), got \(2, 3\)"),
    (lambda: answers({"mask": normal(2, 3, 3)}), ValueError, r"outputs\['mask'\]: expected 2 axes"),
    (lambda: answers({"class": PAIR.long()}), TypeError, r"outputs\['class'\]: expected a floating dtype"),
    (lambda: answer_losses(CLASS, {"box": PAIR}), ValueError, r"targets: expected an answer for each of \['class'\]"),
    (lambda: answer_losses(CLASS, {"class": P[:, :3]}), ValueError, r"targets\['class'\]: expected the shape of"),
    (lambda: answer_losses(CLASS, {"class": P[:1]}), ValueError, r"targets\['class'\]: expected the shape of"),
    (lambda: answer_losses(CLASS, {"class": P.float()}), TypeError, r"targets\['class'\]: expected the dtype of"),
    (lambda: answer_losses({"class": PAIR / 0}, {"class": P}), ValueError, r"outputs\['class'\]: expected finite"),
    # shared_loss
    (lambda: shared_loss(ONE_LESS, PAIR, PAIR), ValueError, "losses: expected numbers of at least 0, got a negative"),
    (lambda: shared_loss(ONE_INF, PAIR, PAIR), ValueError, "losses: expected finite values, got nan or inf"),
    (lambda: shared_loss([1.0], PAIR, PAIR), TypeError, r"losses: expected a torch\.Tensor, got list"),
    (lambda: shared_loss(THREE[:0], PAIR, PAIR), ValueError, "losses: expected at least one"),
    (lambda: shared_loss(THREE.sum(), PAIR, PAIR), ValueError, "losses: expected at least one axis"),
    (lambda: shared_loss(THREE, PAIR, PAIR[:, :2]), ValueError, "bridged: expected the shape of knowledge"),
    (lambda: shared_loss(THREE, PAIR, PAIR, -1), ValueError, "weight: expected a finite number at least 0, got -1"),
    (lambda: shared_loss(THREE, PAIR, PAIR, math.nan), ValueError, "weight: expected a finite number"),
    # separate_loss
    (lambda: separate_loss(CLASS, {"mask": PAIR}), ValueError, "targets: expected an answer for each of"),
    (lambda: separate_loss(CLASS, {}), ValueError, "outputs: expected at least one of"),
    (lambda: separate_loss(CLASS, CLASS, numbers(0)), ValueError, "weights: expected a sum above zero, got 0"),
    (lambda: separate_loss(CLASS, CLASS, numbers(1, 1)), ValueError, "weights: expected the shape of losses"),
    (lambda: separate_loss(CLASS, CLASS, [1.0]), TypeError, r"weights: expected a torch\.Tensor, got list"),
    # common_features
    (lambda: common_features([], 1), ValueError, "knowledge: expected at least one tensor, got none"),
    (lambda: common_features(PAIR, 1), TypeError, "knowledge: expected a list of tensors, got Tensor"),
    (lambda: common_features([PAIR], 3), ValueError, "components: expected 1 to 2, got 3"),
    (lambda: common_features([PAIR], 0), ValueError, "components: expected 1 to 2, got 0"),
    (lambda: common_features([PAIR], 1.0), TypeError, "components: expected an int, got float"),
    (lambda: common_features([PAIR, normal(3, 4)], 1), ValueError, r"knowledge\[1\]: expected the 2 examples"),
    (lambda: common_features([torch.ones(2, 4)], 1), ValueError, "expected features that differ between examples"),
    # transfer_loss
    (lambda: transfer_loss(THREE, PAIR, PAIR, 1.1), ValueError, "progress: expected a finite number at least 0 and at"),
    (lambda: transfer_loss(THREE, PAIR, PAIR, -0.1), ValueError, "progress: expected a finite number"),
    (lambda: transfer_loss(THREE, PAIR, PAIR, math.nan), ValueError, "progress: expected a finite number"),
    (lambda: transfer_loss(THREE, PAIR, PAIR, numbers(1.5)[0]), ValueError, "progress: expected a number from 0 to 1"),
    (lambda: transfer_loss(THREE, PAIR, PAIR, numbers(math.nan)[0]), ValueError, "progress: expected a number from 0"),
    (lambda: transfer_loss(THREE, PAIR, PAIR, numbers(0.5)), ValueError, "progress: expected one floating number"),
    (lambda: transfer_loss(THREE, PAIR, PAIR, torch.tensor(1)), ValueError, "progress: expected one floating number"),
    (lambda: transfer_loss(THREE, PAIR, PAIR, "0"), TypeError, "progress: expected a Python number, got str"),
    (lambda: transfer_loss(THREE, PAIR, PAIR, 0.5, 2), ValueError, "switch: expected a finite number at least 0 and"),
    (lambda: transfer_loss(ONE_LESS, PAIR, PAIR, 0.1), ValueError, "losses: expected numbers of at least 0"),
    (lambda: transfer_loss(THREE, PAIR, PAIR.T, 0.9), ValueError, "bridged: expected the shape"),
    # weighted_sum
    (lambda: weighted_sum(THREE, torch.zeros(3).double()), ValueError, "weights: expected a sum above zero, got 0"),
    (lambda: weighted_sum(THREE, ONE_LESS), ValueError, "weights: expected numbers of at least 0"),
    (lambda: weighted_sum(THREE, ONE_NAN), ValueError, "weights: expected finite values"),
    (lambda: weighted_sum(ONE_INF, THREE), ValueError, "losses: expected finite values"),
    (lambda: weighted_sum(THREE, FOUR), ValueError, r"weights: expected the shape of losses, \(3,\), got \(4,\)"),
    (lambda: weighted_sum(THREE, THREE.float()), TypeError, "weights: expected the dtype of losses"),
    (lambda: weighted_sum(PAIR, PAIR), ValueError, "losses: expected one axis"),
    # attention_transfer
    (lambda: attention_transfer(THREE, THREE), ValueError, "student_scores: expected at least 2 axes"),
    (lambda: attention_transfer(PAIR, PAIR[:, :3]), ValueError, "teacher_scores: expected the shape of student_scores"),
    (lambda: attention_transfer(PAIR, PAIR[:1]), ValueError, "teacher_scores: expected the shape of student_scores"),
    (lambda: attention_transfer(PAIR, PAIR.softmax(1).log() / 0), ValueError, "teacher_scores: expected finite values"),
    (lambda: attention_transfer(PAIR[:, :0], PAIR[:, :0]), ValueError, "student_scores: expected no axis of size zero"),
    # fusion
    (lambda: fuse_answers([]), ValueError, "teacher_outputs: expected a list of at least one teacher's outputs"),
    (lambda: fuse_answers(CLASS), ValueError, "teacher_outputs: expected a list"),
    (lambda: fuse_answers([CLASS, {}]), ValueError, "outputs: expected at least one of"),
    (lambda: fuse_answers([CLASS], [1, 2]), ValueError, "weights: expected 1, one per teacher, got 2"),
    (lambda: fuse_answers([CLASS], []), ValueError, "weights: expected 1, one per teacher, got 0"),
    (lambda: fuse_answers([CLASS], [-1]), ValueError, "weights: expected a finite number at least 0, got -1"),
    (lambda: fuse_answers([CLASS], [math.inf]), ValueError, "weights: expected a finite number"),
    (lambda: fuse_answers([CLASS, CLASS], [0, 0]), ValueError, "weights: expected a finite sum above zero over the"),
    (lambda: fuse_answers([CLASS, CLASS], [1e308, 1e308]), ValueError, "weights: expected a finite sum above zero"),
    (lambda: fuse_answers([CLASS, {"box": PAIR}], [1, 0]), ValueError, "above zero over the teachers of 'box'"),
    (lambda: fuse_answers([CLASS, {"class": PAIR[:, :3]}]), ValueError, "an answer for 'class': expected the shape"),
    (lambda: fusion_loss(CLASS, [{"box": PAIR}]), ValueError, r"targets: expected an answer for each of \['class'\]"),
    (lambda: fusion_loss({"class": PAIR[:1]}, [CLASS]), ValueError, r"targets\['class'\]: expected the shape of"),
    # annealed_targets
    (lambda: annealed_targets(P, TWO_LABELS, 1.5), ValueError, "progress: expected a finite number"),
    (lambda: annealed_targets(P, TWO_LABELS, True), TypeError, "progress: expected a Python number, got bool"),
    (lambda: annealed_targets(P, TWO_LABELS, numbers(-0.1)[0]), ValueError, "progress: expected a number from 0 to 1"),
    (lambda: annealed_targets(PAIR, TWO_LABELS, 0.5), ValueError, "expected numbers from 0 to 1, got others .logits"),
    (lambda: annealed_targets(P, TWO_LABELS + 1, 0.5), ValueError, "labels: expected classes 0 to 3, got 1 to 4"),
    (lambda: annealed_targets(P, TWO_LABELS - 1, 0.5), ValueError, "labels: expected classes 0 to 3, got -1 to 2"),
    (lambda: annealed_targets(P, TWO_LABELS[:1], 0.5), ValueError, r"labels: expected shape \(2,\), got \(1,\)"),
    (lambda: annealed_targets(P, P, 0.5), TypeError, "labels: expected an integer dtype"),
    (lambda: annealed_targets(P[0], TWO_LABELS, 0.5), ValueError, "teacher_probabilities: expected 2 axes"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "names"), BAD, ids=range(len(BAD)))
def test_bad_input_names_the_argument(call, error, names):
    with pytest.raises(error, match=names):
        call()


SCHEMES = {
    "adaptive": (adaptive_weights, "student_losses", "teacher_losses"),
    "dwa": (dwa_weights, "last_losses", "earlier_losses"),
}


@pytest.mark.parametrize(("scheme", "first", "second"), SCHEMES.values(), ids=SCHEMES)
@pytest.mark.parametrize(
    ("bad", "error", "words"),
    [
        (ONE_NAN, ValueError, "expected finite values, got nan or inf"),
        (ONE_INF, ValueError, "expected finite values, got nan or inf"),
        (ONE_LESS, ValueError, "expected numbers of at least 0, got a negative one"),
        (THREE[:0], ValueError, "expected at least one"),
        (THREE.sum(), ValueError, "expected at least one axis"),
        (PAIR.abs(), ValueError, r"expected one axis, got shape \(2, 4\)"),
        (THREE.long(), TypeError, "expected a floating dtype"),
        (THREE.tolist(), TypeError, r"expected a torch\.Tensor, got list"),
    ],
)
def test_bad_losses_in_the_weights(scheme, first, second, bad, error, words):
    with pytest.raises(error, match=f"{first}: {words}"):
        scheme(bad, THREE)
    with pytest.raises(error, match=f"{second}: {words}"):
        scheme(THREE, bad)


@pytest.mark.parametrize(("scheme", "first", "second"), SCHEMES.values(), ids=SCHEMES)
def test_bad_pairs_and_temperatures(scheme, first, second):
    with pytest.raises(ValueError, match=rf"{second}: expected the shape of {first}, \(3,\), got \(4,\)"):
        scheme(THREE, FOUR)
    with pytest.raises(TypeError, match=f"{second}: expected the dtype of {first}"):
        scheme(THREE, THREE.float())
    for temperature in (0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="temperature: expected a finite number above 0"):
            scheme(THREE, THREE, temperature)
    with pytest.raises(TypeError, match="temperature: expected a Python number, got Tensor"):
        scheme(THREE, THREE, torch.tensor(1.0))


def test_inputs_are_left_alone():
    losses, p = positive(3), P.clone()
    before = losses.clone()
    adaptive_weights(losses, losses)
    dwa_weights(losses, losses)
    weighted_sum(losses, losses)
    labelled_mean(losses, LABELLED)
    annealed_targets(p, TWO_LABELS, 0.0).zero_()
    assert torch.equal(losses, before)
    assert torch.equal(p, P)
    assert bridge_loss(PAIR, PAIR).item() == 0
