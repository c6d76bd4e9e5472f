"""The reference implementations of lesson 11 against slow loops, scikit-learn, SciPy, autograd and hand counts."""

import math
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import EVERY_DTYPE, SEEDS, normal
from scipy.special import log_softmax
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestCentroid
from torch import nn
from torch.func import grad, vmap

from ctkd_lessons.meta_transfer import (
    SetStudent,
    blended_head,
    episode_logits,
    feature_level_loss,
    head_logits,
    rule_targets,
    teacher_agreement,
    transfer_gain,
)
from ctkd_lessons.training import Source, fit

exactly = partial(pytest.approx, rel=1e-12, abs=1e-12)
close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-12)


def classes_of(examples, classes, seed=0):
    return torch.randint(classes, (examples,), generator=torch.Generator().manual_seed(seed))


def chances(*shape, seed=0, dtype=torch.float64):
    return torch.softmax(2 * normal(*shape, seed=seed), dim=-1).to(dtype)


# --- episode_logits ---------------------------------------------------------------------------


def by_prototypes(embeddings, ways, shots):
    """Distances to the class means, one query and one class after the other."""
    support, queries = embeddings[: ways * shots], embeddings[ways * shots :]
    rows = []
    for query in queries:
        means = [sum(support[c * shots + k] for k in range(shots)) / shots for c in range(ways)]
        rows.append(torch.stack([-((query - mean) ** 2).sum() for mean in means]))
    return torch.stack(rows)


@pytest.mark.filterwarnings("ignore:invalid value encountered in divide")  # by scikit-learn, of single shots
@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 4), st.integers(1, 7), SEEDS)
def test_episodes_are_answered_by_the_nearest_mean(ways, shots, queries, width, seed):
    embeddings = normal(ways * (shots + queries), width, seed=seed)
    made = episode_logits(embeddings, ways, shots)
    close(made, by_prototypes(embeddings, ways, shots))
    if ways > 1:
        labels = np.arange(ways).repeat(shots)
        nearest = NearestCentroid().fit(embeddings[: ways * shots].numpy(), labels)
        assert made.argmax(dim=1).tolist() == nearest.predict(embeddings[ways * shots :].numpy()).tolist()


def test_episodes_by_hand():
    """Support 0, 2 | 10, 12; queries 1 | 9: distances to 1 and 11."""
    embeddings = torch.tensor([[0.0], [2], [10], [12], [1], [9]])
    assert episode_logits(embeddings, 2, 2).tolist() == [[0, -100], [-64, -4]]


def test_episodes_under_vmap_and_gradients_equal_a_loop():
    episodes = normal(4, 10, 3)
    made = vmap(lambda one: episode_logits(one, 2, 2))(episodes)
    close(made, torch.stack([by_prototypes(one, 2, 2) for one in episodes]))
    labels = torch.arange(2).repeat_interleave(3)
    loss = lambda logits_of: lambda one: F.cross_entropy(logits_of(one, 2, 2), labels)
    close(vmap(grad(loss(episode_logits)))(episodes), torch.stack([grad(loss(by_prototypes))(e) for e in episodes]))


# --- feature_level_loss -----------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 6), st.integers(1, 5), st.floats(0, 3), SEEDS)
def test_feature_level_loss_by_hand_written_parts(examples, classes, mapped_examples, width, weight, seed):
    logits, labels = normal(examples, classes, seed=seed), classes_of(examples, classes, seed)
    mapped, shared = normal(mapped_examples, width, seed=seed + 1), normal(mapped_examples, width, seed=seed + 2)
    task = -np.mean([log_softmax(row)[y] for row, y in zip(logits.numpy(), labels, strict=True)])
    apart = np.mean([((h - g) ** 2).sum() / 2 for h, g in zip(mapped.numpy(), shared.numpy(), strict=True)])
    assert feature_level_loss(logits, labels, mapped, shared, weight).item() == exactly(task + weight * apart)


def test_the_shared_side_stands_still_and_the_others_learn():
    logits, mapped, shared = (normal(4, 3, seed=seed).requires_grad_() for seed in range(3))
    loss = feature_level_loss(logits, classes_of(4, 3), mapped, shared, 0.5)
    of_logits, of_mapped, of_shared = torch.autograd.grad(loss, [logits, mapped, shared], allow_unused=True)
    assert of_shared is None
    close(of_mapped, 0.5 * (mapped - shared).detach() / 4)
    close(of_logits, (logits.softmax(1) - F.one_hot(classes_of(4, 3), 3)).detach() / 4)


def test_without_weight_the_task_alone_is_left():
    logits, labels = normal(4, 3), classes_of(4, 3)
    assert feature_level_loss(logits, labels, normal(2, 5), normal(2, 5, seed=1), 0) == F.cross_entropy(logits, labels)


def test_feature_level_loss_under_vmap_equals_a_loop():
    logits, mapped, shared = normal(3, 4, 2), normal(3, 5, 6), normal(3, 5, 6, seed=1)
    labels = torch.stack([classes_of(4, 2, seed) for seed in range(3)])
    batches = list(zip(logits, labels, mapped, shared, strict=True))
    made = vmap(feature_level_loss)(logits, labels, mapped, shared)
    close(made, torch.stack([feature_level_loss(*one) for one in batches]))
    gradients = vmap(grad(feature_level_loss, argnums=2))(logits, labels, mapped, shared)
    close(gradients, torch.stack([grad(feature_level_loss, argnums=2)(*one) for one in batches]))


# --- rule_targets -----------------------------------------------------------------------------


def by_enumeration(answers, holds, strength):
    """Marginals by a loop over exercises and all combinations, in Python's numbers."""
    targets = [np.zeros(one.shape) for one in answers]
    for row in range(len(answers[0])):
        weights = {}
        for classes in product(*(range(one.shape[1]) for one in answers)):
            p = math.prod(float(one[row, c]) for one, c in zip(answers, classes, strict=True))
            weights[classes] = p * (1.0 if holds[classes] else math.exp(-strength))
        for classes, weight in weights.items():
            for place, c in enumerate(classes):
                targets[place][row, c] += weight / math.fsum(weights.values())
    return targets


def a_rule(sizes, seed):
    holds = torch.rand(sizes, generator=torch.Generator().manual_seed(seed)) < 0.4
    holds.view(-1)[seed % holds.numel()] = True
    return holds


@settings(deadline=None, max_examples=80)
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.integers(1, 4),
    st.sampled_from([0, 0.5, 2.0, 30.0, math.inf]),
    SEEDS,
)
def test_targets_equal_a_loop_over_all_combinations(sizes, examples, strength, seed):
    answers = [chances(examples, size, seed=seed + place) for place, size in enumerate(sizes)]
    holds = a_rule(sizes, seed)
    made = rule_targets(answers, holds, strength)
    assert isinstance(made, tuple)
    for target, expected in zip(made, by_enumeration(answers, holds, strength), strict=True):
        np.testing.assert_allclose(target.numpy(), expected, rtol=1e-10, atol=1e-14)
        close(target.sum(dim=1), torch.ones(examples, dtype=torch.float64))


def test_targets_by_hand():
    """Two digits of 0 and 1 whose sum must be 1: (0, 1) weighs 0.2 · 0.4, (1, 0) weighs 0.8 · 0.6."""
    answers = (torch.tensor([[0.2, 0.8]]), torch.tensor([[0.6, 0.4]]))
    sums_to_one = torch.tensor([[False, True], [True, False]])
    first, second = rule_targets(answers, sums_to_one)
    torch.testing.assert_close(first, torch.tensor([[1, 6]]) / 7)
    torch.testing.assert_close(second, torch.tensor([[6, 1]]) / 7)
    first, _ = rule_targets(answers, sums_to_one, math.log(2))  # broken: (0, 0) 0.12 / 2, (1, 1) 0.32 / 2
    torch.testing.assert_close(first, torch.tensor([[0.08 + 0.06, 0.48 + 0.16]]) / 0.78)


def test_a_rule_without_strength_or_that_all_keep_changes_nothing():
    answers = [chances(5, 3), chances(5, 2, seed=1), chances(5, 4, seed=2)]
    for made in (rule_targets(answers, a_rule([3, 2, 4], 0), 0), rule_targets(answers, torch.ones(3, 2, 4).bool())):
        for target, one in zip(made, answers, strict=True):
            close(target, one)


@EVERY_DTYPE
def test_a_rule_that_one_combination_keeps_makes_sure(dtype):
    holds = torch.zeros(3, 2, dtype=torch.bool)
    holds[2, 0] = True
    first, second = rule_targets((chances(4, 3, dtype=dtype), chances(4, 2, seed=1, dtype=dtype)), holds)
    assert first.dtype == second.dtype == dtype
    assert first.tolist() == [[0, 0, 1]] * 4
    assert second.tolist() == [[1, 0]] * 4


@pytest.mark.parametrize(
    ("dtype", "tolerance"),  # at log 1e-72 = -166 the numbers of float32 stand 1.5e-5 apart
    [(torch.bfloat16, 2**-6), (torch.float32, 5e-5), (torch.float64, 1e-12)],
)
@pytest.mark.parametrize("small", [1e-30, 1e-36])
def test_targets_of_very_small_probabilities(dtype, tolerance, small):
    """What the rule allows is a product of two such probabilities, one of them three times as large."""
    answers = [torch.tensor([[1.0, small, 3 * small]], dtype=dtype), torch.tensor([[1.0, small, small]], dtype=dtype)]
    holds = torch.zeros(3, 3, dtype=torch.bool)
    holds[1, 1] = holds[2, 2] = True
    for target in rule_targets(answers, holds):
        assert target.dtype == dtype
        assert target[0].tolist() == pytest.approx([0, 0.25, 0.75], rel=tolerance, abs=small)


def test_targets_in_half_precision_are_as_exact_as_their_answers():
    """The logs are not taken in half precision, where those of improbable answers stand far apart."""
    for dtype in (torch.bfloat16, torch.float16):
        answers = [torch.tensor([[0.993, 2e-3, 5e-3]]).to(dtype), torch.tensor([[1.0, 1e-5, 3e-6]]).to(dtype)]
        holds = torch.zeros(3, 3, dtype=torch.bool)
        holds[1, 1] = holds[2, 2] = True
        exact = by_enumeration([one.double() for one in answers], holds, math.inf)
        for target, one in zip(rule_targets(answers, holds), exact, strict=True):
            np.testing.assert_allclose(target.double().numpy(), one, atol=torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("strength", [0, 2.0, math.inf])
def test_targets_of_zero_probabilities_are_finite(dtype, strength):
    answers = (torch.tensor([[0.0, 1], [1, 0]], dtype=dtype), torch.tensor([[0.5, 0.5], [1, 0]], dtype=dtype))
    holds = torch.tensor([[True, False], [False, True]])
    made = rule_targets(answers, holds, strength)
    assert all(torch.isfinite(one).all() for one in made)
    # The first row's rule leaves (1, 1); the second row's is kept as it is.
    expected = by_enumeration(answers, holds, strength)
    for target, one in zip(made, expected, strict=True):
        np.testing.assert_allclose(target.double().numpy(), one, atol=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_targets_in_half_precision(dtype):
    answers = [chances(6, 3, dtype=dtype), chances(6, 4, seed=1, dtype=dtype)]
    holds = a_rule([3, 4], 2)
    for target, exact in zip(rule_targets(answers, holds, 1.5), by_enumeration(answers, holds, 1.5), strict=True):
        assert target.dtype == dtype
        np.testing.assert_allclose(target.double().numpy(), exact, atol=8 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_targets_under_vmap_equal_a_loop(parts):
    answers = [chances(4, 5, 2 + place, seed=place) for place in range(parts)]
    holds = a_rule([2 + place for place in range(parts)], 1)
    made = vmap(lambda *one: rule_targets(one, holds, 1.2))(*answers)
    alone = [rule_targets(one, holds, 1.2) for one in zip(*answers, strict=True)]
    for target, each in zip(made, zip(*alone, strict=True), strict=True):
        close(target, torch.stack(each))


@EVERY_DTYPE
def test_a_rule_that_only_impossible_answers_keep_is_kept_all_the_same(dtype):
    sure = torch.tensor([[1.0, 0, 0]], dtype=dtype)
    holds = torch.zeros(3, 3, dtype=torch.bool)
    holds[1, 2] = True
    first, second = rule_targets((sure, sure), holds)
    assert (first.tolist(), second.tolist()) == ([[0, 1, 0]], [[0, 0, 1]])


def test_no_gradient_reaches_the_answers_and_nothing_is_changed():
    answers = [chances(3, 2).requires_grad_(), chances(3, 2, seed=1).requires_grad_()]
    made = rule_targets(answers, torch.eye(2).bool())
    assert not any(one.requires_grad for one in made)
    assert torch.equal(answers[0], chances(3, 2))


# --- teacher_agreement ------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(1, 5), SEEDS)
def test_agreement_equals_scipys_mean_log_probability(examples, classes, seed):
    logits, labels = 3 * normal(examples, classes, seed=seed), classes_of(examples, classes, seed)
    expected = log_softmax(logits.numpy(), axis=1)[np.arange(examples), labels.numpy()].mean()
    assert teacher_agreement(logits, labels).item() == exactly(expected)


def test_agreement_by_hand():
    """Probabilities of 1/4 and 3/4 for the right class; a teacher who knows all agrees by 0."""
    logits = torch.tensor([[1.0, 3], [1, 3]]).log().double()
    assert teacher_agreement(logits, torch.tensor([0, 1])).item() == pytest.approx(
        (math.log(0.25) + math.log(0.75)) / 2
    )
    assert teacher_agreement(torch.tensor([[0.0, 500], [500, 0]]), torch.tensor([1, 0])).item() == 0
    assert teacher_agreement(torch.zeros(3, 4), torch.tensor([0, 3, 1])).item() == pytest.approx(-math.log(4))


def test_the_teacher_gets_no_gradient_from_its_agreement():
    logits = normal(3, 4).requires_grad_()
    assert not teacher_agreement(logits, classes_of(3, 4)).requires_grad


def test_agreement_under_vmap_equals_a_loop():
    logits, labels = normal(5, 4, 3), torch.stack([classes_of(4, 3, seed) for seed in range(5)])
    pairs = zip(logits, labels, strict=True)
    close(vmap(teacher_agreement)(logits, labels), torch.stack([teacher_agreement(*pair) for pair in pairs]))


# --- blended_head -----------------------------------------------------------------------------


def a_learner(examples=6, others=9, width=4, classes=3, seed=0):
    labels = classes_of(examples, classes, seed)
    return (
        normal(examples, width, seed=seed),
        F.one_hot(labels, classes).double(),
        normal(others, width, seed=seed + 1) + 0.5,
        chances(others, classes, seed=seed + 2),
    )


def by_ridge(images, targets, others, teacher, trust, ridge):
    """scikit-learn on all rows together, each weighted; the appended 1 is one more feature, and shrinks like any."""
    rows = np.concatenate([images, others])
    rows = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
    weights = np.repeat([(1 - trust) / len(images), trust / len(others)], [len(images), len(others)])
    model = Ridge(alpha=ridge, fit_intercept=False, solver="cholesky")
    return (
        model.fit(rows, np.concatenate([targets, teacher]), sample_weight=weights).coef_.reshape(targets.shape[1], -1).T
    )


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 8), st.integers(1, 8), st.integers(1, 5), st.integers(1, 4), st.floats(0, 1),
    st.sampled_from([1e-3, 0.01, 1.0]), SEEDS,
)  # fmt: skip
def test_the_head_equals_scikit_learns_ridge(examples, others, width, classes, trust, ridge, seed):
    learner = a_learner(examples, others, width, classes, seed)
    made = blended_head(*learner, trust, ridge)
    expected = by_ridge(*(one.numpy() for one in learner), trust, ridge)
    assert made.shape == (width + 1, classes)
    np.testing.assert_allclose(made.numpy(), expected, rtol=1e-10, atol=1e-10)


def objective(head, images, targets, others, teacher, trust, ridge):
    """What the head should be least of, written as in its docstring."""
    answer = lambda x: x @ head[:-1] + head[-1]
    own = (answer(images) - targets).square().sum(dim=1).mean()
    other = (answer(others) - teacher).square().sum(dim=1).mean()
    return (1 - trust) * own + trust * other + ridge * head.square().sum()


@pytest.mark.parametrize("trust", [0, 0.3, 1])
@pytest.mark.parametrize("ridge", [0.01, 0.5])
def test_the_head_is_where_the_objective_is_flat(trust, ridge):
    learner = a_learner()
    head = blended_head(*learner, trust, ridge)
    slope = grad(objective)(head, *learner, trust, ridge)
    assert slope.abs().max() < 1e-12
    best = objective(head, *learner, trust, ridge)
    for seed in range(5):
        assert objective(head + 0.01 * normal(*head.shape, seed=seed), *learner, trust, ridge) > best


def test_without_trust_the_teacher_does_not_count_and_with_all_the_labels_do_not():
    images, targets, others, teacher = a_learner()
    other_teacher = chances(9, 3, seed=77)
    close(blended_head(images, targets, others, teacher, 0), blended_head(images, targets, others, other_teacher, 0))
    close(blended_head(images, targets, others, teacher, 1), blended_head(images, 1 - targets, others, teacher, 1))
    assert not torch.allclose(
        blended_head(images, targets, others, teacher, 0.1), blended_head(images, targets, others, other_teacher, 0.1)
    )
    # With all trust in the labels, and none in the teacher, the two sets exchange their parts.
    close(blended_head(images, targets, others, teacher, 0.3), blended_head(others, teacher, images, targets, 0.7))


def test_the_head_is_differentiable_in_trust_and_images():
    images, targets, others, teacher = a_learner(5, 4, 2, 2)
    trust = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    solve = lambda trust, images, others: blended_head(images, targets, others, teacher, trust)
    arguments = (trust, images.requires_grad_(), others.requires_grad_())
    assert torch.autograd.gradcheck(solve, arguments)
    assert torch.autograd.gradgradcheck(solve, arguments)


def test_the_teacher_gets_no_gradient_from_the_head():
    images, targets, others, teacher = a_learner()
    teacher.requires_grad_()
    assert not blended_head(images, targets, others, teacher, 0.5).requires_grad
    made = blended_head(images.requires_grad_(), targets, others, teacher, 0.5)
    assert torch.autograd.grad(made.sum(), teacher, allow_unused=True) == (None,)


def test_heads_under_vmap_equal_a_loop():
    learners = [torch.stack(parts) for parts in zip(*(a_learner(seed=seed) for seed in range(4)), strict=True)]
    trust = torch.tensor([0.0, 0.2, 0.7, 1.0], dtype=torch.float64)
    one_by_one = list(zip(*learners, trust, strict=True))
    close(vmap(blended_head)(*learners, trust), torch.stack([blended_head(*one) for one in one_by_one]))
    loss = lambda *one: blended_head(*one).square().sum()
    gradients = vmap(grad(loss, argnums=4))(*learners, trust)
    close(gradients, torch.stack([grad(loss, argnums=4)(*one) for one in one_by_one]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_head_keeps_the_dtype(dtype):
    learner = [one.to(dtype) for one in a_learner()]
    exact = blended_head(*a_learner(), 0.5).numpy()
    for trust, precision in ((0.5, dtype), (torch.tensor(0.5, dtype=dtype), dtype), (torch.tensor(0.5), torch.float32)):
        made = blended_head(*learner, trust)
        assert made.dtype == dtype
        np.testing.assert_allclose(made.numpy(), exact, rtol=0, atol=20 * torch.finfo(precision).eps)


class Line(nn.Module):
    """Intercept and slope of the trust."""

    def __init__(self):
        super().__init__()
        self.values = nn.Parameter(torch.zeros(2))


def learners(count, seed=0):
    """Learners whose teacher is either always right or always wrong about the classes: its agreement tells which."""
    draw = torch.Generator().manual_seed(seed)
    middles = torch.tensor([[1.5, 0.0], [-1.5, 0.0]])
    drawn = []
    for _ in range(count):
        labels, others, asked = (torch.tensor([0, 1]).repeat(size) for size in (1, 8, 8))
        images = [middles[of] + torch.randn(len(of), 2, generator=draw) for of in (labels, others, asked)]
        wrong = int(torch.randint(2, (), generator=draw))
        logits = [4 * F.one_hot((of + wrong) % 2, 2).float() for of in (labels, others)]
        drawn.append((images[0], labels, images[1], *logits, images[2], asked))
    return [torch.stack(parts) for parts in zip(*drawn, strict=True)]


def trust_in(line, teacher_logits, labels):
    return torch.sigmoid(line.values[0] + line.values[1] * teacher_agreement(teacher_logits, labels))


def queries_loss(line, support, labels, others, teacher_support, teacher_others, queries, query_labels):
    """The loss of one learner's queries under its own head."""
    head = blended_head(support, F.one_hot(labels, 2).to(support), others, teacher_others.softmax(1),
                        trust_in(line, teacher_support, labels))  # fmt: skip
    return F.cross_entropy(head_logits(head, queries), query_labels)


def test_a_trust_learned_by_fit_tells_a_good_teacher_from_a_bad_one():
    """Learned over forty learners, a teacher who knows the labels gets a large share, another hardly any."""

    def loss(line, *batch):
        return vmap(partial(queries_loss, line))(*batch).mean()

    lines = fit(Line, loss, Source(*learners(40)), seeds=3, steps=300, batch_size=20, learning_rate=0.2,
                progress_bar=False)  # fmt: skip
    labels = torch.tensor([0, 1])
    for place in range(3):
        good, bad = (
            trust_in(lines.one(place), 4 * F.one_hot(of, 2).float(), labels).item() for of in (labels, 1 - labels)
        )
        assert good > 0.8
        assert bad < 0.2


# --- head_logits ------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [5.0, 1.0, 0.3])
def test_head_logits_are_scaled_and_have_an_intercept(scale):
    head, images = normal(4, 2), normal(5, 3, seed=1)
    close(head_logits(head, images, scale), scale * (images @ head[:-1] + head[-1]))
    close(head_logits(head, images), 5 * (images @ head[:-1] + head[-1]))


def test_head_logits_under_vmap_equal_a_loop():
    heads, images = normal(3, 4, 2), normal(3, 5, 3, seed=1)
    alone = [head_logits(*one) for one in zip(heads, images, strict=True)]
    close(vmap(head_logits)(heads, images), torch.stack(alone))


# --- SetStudent -------------------------------------------------------------------------------


def a_student(seed=0, **sizes):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SetStudent(**sizes).double()


@pytest.mark.parametrize("leading", [(), (3,), (2, 4)])
@pytest.mark.parametrize(("shots", "queries"), [(1, 1), (5, 7), (6, 2)])
def test_the_student_answers_each_task_by_its_own_support(leading, shots, queries):
    student = a_student(width=8, code=4)
    x, y, asked = normal(*leading, shots, 1), normal(*leading, shots, 1, seed=1), normal(*leading, queries, 1, seed=2)
    made = student(x, y, asked)
    assert made.shape == (*leading, queries, 1)
    for place in product(*map(range, leading)):  # one task, one query after the other
        code = torch.stack([student.encoder(torch.cat([a, b])) for a, b in zip(x[place], y[place], strict=True)]).mean(
            0
        )
        one = torch.stack([student.decoder(torch.cat([query, code])) for query in asked[place]])
        close(made[place], one)


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 9), SEEDS)
def test_the_order_of_the_support_does_not_matter(shots, seed):
    student, order = a_student(seed), torch.randperm(shots, generator=torch.Generator().manual_seed(seed))
    x, y, asked = normal(2, shots, 1, seed=seed), normal(2, shots, 1, seed=seed + 1), normal(2, 4, 1, seed=seed + 2)
    close(student(x[:, order], y[:, order], asked), student(x, y, asked))
    close(student(torch.cat([x, x], 1), torch.cat([y, y], 1), asked), student(x, y, asked))  # nor its repetition
    apart = student(x, y.roll(1, dims=1), asked) - student(x, y, asked)  # which y belongs to which x does matter
    assert apart.abs().max() > 1e-6


def test_the_student_is_differentiable_in_all_it_reads():
    student = a_student(width=6, code=3)
    given = [normal(2, n, 1, seed=seed).requires_grad_() for seed, n in enumerate((4, 4, 3))]
    assert torch.autograd.gradcheck(student, given)
    assert all(one.any() for one in torch.autograd.grad(student(*given).sum(), given))


def test_widths_of_the_student():
    student = SetStudent(width=5, code=3)
    assert [layer.weight.shape for layer in student.encoder if isinstance(layer, nn.Linear)] == [(5, 2), (5, 5), (3, 5)]
    assert [layer.weight.shape for layer in student.decoder if isinstance(layer, nn.Linear)] == [(5, 4), (5, 5), (1, 5)]


def test_students_in_fit_learn_to_read_the_support():
    """Tasks are y = a · x: without the support nothing is better than 0, whose error is the mean of a² x², 1/3."""
    draw = torch.Generator().manual_seed(0)
    slopes, x, asked = (torch.rand(400, n, 1, generator=draw) * 2 - 1 for n in (1, 6, 6))
    slopes = slopes.sign()
    data = Source(x, slopes * x, asked, slopes * asked, rows=torch.arange(300))
    loss = lambda student, x, y, queries, answers: F.mse_loss(student(x, y, queries), answers)
    students = fit(partial(SetStudent, 16, 8), loss, data, seeds=3, steps=300, batch_size=50, learning_rate=5e-3,
                   progress_bar=False)  # fmt: skip
    for place in range(3):
        with torch.no_grad():
            made = students.one(place)(x[300:], (slopes * x)[300:], asked[300:])
        assert F.mse_loss(made, (slopes * asked)[300:]) < 0.05


# --- transfer_gain ----------------------------------------------------------------------------


def test_transfer_gain_by_hand():
    made = transfer_gain([0.75, 0.5, 0.4, 0.9], [0.5, 0.5, 0.5, 0.8], [1.0, 0.9, 0.7, 0.85])
    assert made.tolist() == exactly([0.5, 0, -0.5, 2])
    assert made.dtype == np.float64


def test_one_ceiling_for_all_seeds_or_one_number_for_everything():
    assert transfer_gain([0.75, 0.6], [0.5, 0.2]).tolist() == exactly([0.5, 0.5])
    assert transfer_gain([0.75, 0.6], [0.5, 0.2], 0.9).tolist() == exactly([0.625, 4 / 7])
    made = transfer_gain(0.75, 0.5)
    assert made.shape == ()
    assert made == 0.5
    assert transfer_gain([3], [2], 6).tolist() == [0.25]
    assert transfer_gain(torch.tensor([-1.0]), np.array([-3]), [-2.5]).tolist() == [4]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.floats(0.1, 20), st.floats(-5, 5), SEEDS)
def test_gains_are_seed_by_seed_and_know_no_scale(seeds, stretch, shift, seed):
    rng = np.random.default_rng(seed)
    scratch, missing, share = rng.normal(size=seeds), rng.uniform(0.1, 1, seeds), rng.normal(size=seeds)
    scores = scratch + share * missing, scratch, scratch + missing
    np.testing.assert_allclose(transfer_gain(*scores), share, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(transfer_gain(*(stretch * one + shift for one in scores)), share, rtol=1e-7, atol=1e-7)


# --- bad input --------------------------------------------------------------------------------

LOGITS, LABELS, NAN = torch.ones(4, 3), torch.tensor([0, 1, 2, 0]), torch.full((4, 3), torch.nan)
H, P, HOLDS = torch.ones(5, 2), torch.full((4, 2), 0.5), torch.eye(2).bool()
LEARNER = (torch.ones(4, 2), torch.ones(4, 3), torch.ones(5, 2), torch.ones(5, 3))


def learner_with(place, value):
    return (*LEARNER[:place], value, *LEARNER[place + 1 :])


BAD = {
    "episode ways": (lambda: episode_logits(H, 0, 1), ValueError, "ways: expected at least 1, got 0"),
    "episode shots": (lambda: episode_logits(H, 1, 0), ValueError, "shots: expected at least 1, got 0"),
    "episode shots half": (lambda: episode_logits(H, 1, 0.5), TypeError, "shots: expected an int, got float"),
    "episode no queries": (lambda: episode_logits(torch.ones(6, 2), 3, 2), ValueError, "embeddings: expected 6 of the"),
    "episode few": (lambda: episode_logits(torch.ones(5, 2), 3, 2), ValueError, "embeddings: expected 6 .* got 5 in"),
    "episode uneven": (
        lambda: episode_logits(torch.ones(10, 2), 3, 2),
        ValueError,
        "embeddings: expected 6 of the support and a multiple of 3 of queries, got 10 in all",
    ),
    "episode axes": (lambda: episode_logits(torch.ones(6, 2, 2), 2, 1), ValueError, r"embeddings: .* 2 axes \(B, D\)"),
    "episode integers": (lambda: episode_logits(torch.ones(6, 2).long(), 2, 1), TypeError, "embeddings: .* floating"),
    "episode nan": (lambda: episode_logits(NAN, 2, 1), ValueError, "embeddings: expected finite values"),
    "feature weight": (lambda: feature_level_loss(LOGITS, LABELS, H, H, -1), ValueError, "weight: .* at least 0, got"),
    "feature weight inf": (lambda: feature_level_loss(LOGITS, LABELS, H, H, math.inf), ValueError, "weight: .* finite"),
    "feature shapes": (
        lambda: feature_level_loss(LOGITS, LABELS, H, H[:1]),
        ValueError,
        r"shared: expected the shape of mapped, \(5, 2\), got \(1, 2\)",
    ),
    "feature dtypes": (lambda: feature_level_loss(LOGITS, LABELS, H, H.double()), TypeError, "shared: .* dtype of map"),
    "feature labels": (lambda: feature_level_loss(LOGITS, LABELS + 1, H, H), ValueError, "labels: .* classes 0 to 2"),
    "feature count": (lambda: feature_level_loss(LOGITS, LABELS[:2], H, H), ValueError, r"labels: expected shape \(4,"),
    "feature nan": (lambda: feature_level_loss(NAN, LABELS, H, H), ValueError, "logits: expected finite"),
    "feature mapped": (lambda: feature_level_loss(LOGITS, LABELS, H[0], H), ValueError, "mapped: expected 2 axes"),
    "feature list": (lambda: feature_level_loss(LOGITS, LABELS, H, [1.0]), TypeError, "shared: expected a torch.Ten"),
    "rule answers": (lambda: rule_targets(P, HOLDS), TypeError, "answers: expected at least one .* got Tensor"),
    "rule none": (lambda: rule_targets([], HOLDS), TypeError, "answers: expected at least one tensor of probab"),
    "rule a list": (lambda: rule_targets([[0.5, 0.5]], HOLDS), TypeError, r"answers\[0\]: expected a torch.Tensor"),
    "rule logits": (lambda: rule_targets([P, 2 * P], HOLDS), ValueError, r"answers\[1\]: expected rows of probabil"),
    "rule unnormalised": (
        lambda: rule_targets([P, 0.9 * P], HOLDS),
        ValueError,
        r"answers\[1\]: expected rows of probabilities",
    ),
    "rule negative": (
        lambda: rule_targets([torch.tensor([[1.5, -0.5]])], torch.ones(2).bool()),
        ValueError,
        r"answers\[0\]: expected rows of probabilities",
    ),
    "rule nan": (lambda: rule_targets([P * torch.nan, P], HOLDS), ValueError, r"answers\[0\]: expected finite"),
    "rule batches": (
        lambda: rule_targets([P, P[:3]], HOLDS),
        ValueError,
        r"answers\[1\]: expected the 4 examples of answers\[0\], got 3",
    ),
    "rule dtypes": (lambda: rule_targets([P, P.double()], HOLDS), TypeError, r"answers\[1\]: expected the dtype"),
    "rule axes": (lambda: rule_targets([P[0]], HOLDS), ValueError, r"answers\[0\]: expected 2 axes"),
    "rule never kept": (
        lambda: rule_targets([P, P], torch.zeros(2, 2).bool()),
        ValueError,
        "holds: expected a rule that some combination of answers keeps, got none",
    ),
    "rule numbers": (lambda: rule_targets([P, P], HOLDS.long()), TypeError, "holds: .* bool tensor, got torch.int64"),
    "rule no tensor": (lambda: rule_targets([P, P], [[True]]), TypeError, "holds: expected a bool tensor, got list"),
    "rule shape": (
        lambda: rule_targets([P, P], torch.ones(2, 3).bool()),
        ValueError,
        r"holds: expected an axis for each part's classes, \(2, 2\), got \(2, 3\)",
    ),
    "rule parts": (lambda: rule_targets([P], HOLDS), ValueError, r"holds: .* \(2,\), got \(2, 2\)"),
    "rule strength": (lambda: rule_targets([P, P], HOLDS, -0.1), ValueError, "strength: .* at least 0, got -0.1"),
    "rule strength nan": (lambda: rule_targets([P, P], HOLDS, math.nan), ValueError, "strength: .* got nan"),
    "rule strength none": (lambda: rule_targets([P, P], HOLDS, None), TypeError, "strength: .* number, got NoneType"),
    "agreement labels": (lambda: teacher_agreement(LOGITS, LABELS.float()), TypeError, "labels: expected an integer"),
    "agreement range": (lambda: teacher_agreement(LOGITS, LABELS - 1), ValueError, "labels: expected classes 0 to 2"),
    "agreement count": (lambda: teacher_agreement(LOGITS, LABELS[:1]), ValueError, r"labels: expected shape \(4,\)"),
    "agreement nan": (lambda: teacher_agreement(NAN, LABELS), ValueError, "teacher_logits: expected finite"),
    "agreement axes": (lambda: teacher_agreement(LOGITS[0], LABELS), ValueError, "teacher_logits: expected 2 axes"),
    "head trust above": (lambda: blended_head(*LEARNER, 1.1), ValueError, "trust: .* at most 1, got 1.1"),
    "head trust below": (lambda: blended_head(*LEARNER, -0.1), ValueError, "trust: .* at least 0 .* got -0.1"),
    "head trust tensor": (lambda: blended_head(*LEARNER, torch.tensor(1.5)), ValueError, "trust: .* 0 to 1, got an"),
    "head trust minus": (lambda: blended_head(*LEARNER, torch.tensor(-0.1)), ValueError, "trust: .* 0 to 1, got an"),
    "head trust nan": (lambda: blended_head(*LEARNER, torch.tensor(torch.nan)), ValueError, "trust: .* 0 to 1, got"),
    "head trusts": (lambda: blended_head(*LEARNER, torch.ones(2)), ValueError, r"trust: .* without axes, got .*\(2,\)"),
    "head trust word": (lambda: blended_head(*LEARNER, "0.5"), TypeError, "trust: expected a Python number, got str"),
    "head ridge": (lambda: blended_head(*LEARNER, 0.5, 0), ValueError, "ridge: .* above 0, got 0"),
    "head width": (
        lambda: blended_head(*learner_with(2, torch.ones(5, 4)), 0.5),
        ValueError,
        "other_images, teacher: expected 2 features and 3 classes .* got 4 and 3",
    ),
    "head classes": (
        lambda: blended_head(*learner_with(3, torch.ones(5, 2)), 0.5),
        ValueError,
        "other_images, teacher: expected 2 features and 3 classes .* got 2 and 2",
    ),
    "head targets": (lambda: blended_head(*learner_with(1, LOGITS[:3]), 0.5), ValueError, "targets: .* the 4 ex"),
    "head teacher": (lambda: blended_head(*learner_with(3, LOGITS), 0.5), ValueError, "teacher: .* the 5 ex"),
    "head labels": (
        lambda: blended_head(*learner_with(1, torch.ones(4, 3).long()), 0.5),
        TypeError,
        "targets: expected a floating dtype, got torch.int64",
    ),
    "head nan": (lambda: blended_head(*learner_with(0, H[:4] * torch.nan), 0.5), ValueError, "images: expected finite"),
    "head axes": (lambda: blended_head(*learner_with(2, H[0]), 0.5), ValueError, "other_images: expected 2 axes"),
    "gain ceiling": (
        lambda: transfer_gain([0.7, 0.7], [0.5, 0.9], [0.8, 0.9]),
        ValueError,
        r"ceiling: expected scores above scratch, got \[0.8 0.9\] with scratch \[0.5 0.9\]",
    ),
    "gain ceiling one": (lambda: transfer_gain([1.0, 1.0], [0.5, 1.0]), ValueError, "ceiling: expected scores above"),
    "gain seeds": (
        lambda: transfer_gain([0.7, 0.7], [0.5, 0.5, 0.5]),
        ValueError,
        r"transferred, scratch, ceiling: .* got shapes \[\(2,\), \(3,\), \(\)\]",
    ),
    "gain ceilings": (lambda: transfer_gain([0.7] * 2, [0.5] * 2, [0.9] * 3), ValueError, "one score per seed each"),
    "gain one against many": (lambda: transfer_gain(0.7, [0.5, 0.5]), ValueError, "one score per seed each"),
    "gain nan": (lambda: transfer_gain([math.nan], [0.5]), ValueError, "transferred: expected finite scores"),
    "gain scratch": (lambda: transfer_gain([0.7], [-math.inf]), ValueError, "scratch: expected finite scores"),
    "gain inf": (lambda: transfer_gain([0.7], [0.5], math.inf), ValueError, "ceiling: expected finite scores"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "error", "names"), BAD.values(), ids=BAD)
def test_bad_input_names_the_argument(call, error, names):
    with pytest.raises(error, match=names):
        call()
