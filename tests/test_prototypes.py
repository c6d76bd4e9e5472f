"""Lesson 10's prototypes against scikit-learn, slow loops, autograd."""

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import EVERY_DTYPE, SEEDS, normal
from sklearn.neighbors import NearestCentroid
from torch import nn
from torch.func import grad, vmap

from ctkd_lessons.meta import prototype_logits, prototypes
from ctkd_lessons.training import Source, fit

close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-12)


def classes_of(examples, classes, seed):
    """Labels in random order, each class at least once."""
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.permutation(np.r_[np.arange(classes), rng.integers(classes, size=examples - classes)]))


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 5), st.integers(0, 9), st.integers(1, 6), SEEDS)
def test_prototypes_equal_scikit_learns_nearest_centroid(classes, more, width, seed):
    examples = classes + more
    x, labels, queries = normal(examples, width, seed=seed), classes_of(examples, classes, seed), normal(7, width)
    found = prototypes(x, labels, classes)
    if more:  # scikit-learn wants fewer classes than examples
        model = NearestCentroid().fit(x.numpy(), labels.numpy())
        close(found, torch.from_numpy(model.centroids_))
        assert (prototype_logits(queries, found).argmax(1).numpy() == model.predict(queries.numpy())).all()
    for k in range(classes):
        members = [row for row, label in zip(x.tolist(), labels.tolist(), strict=True) if label == k]
        means = [math.fsum(column) / len(members) for column in zip(*members, strict=True)]
        close(found[k], torch.tensor(means, dtype=torch.float64))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 6), SEEDS)
def test_prototype_logits_equal_a_slow_loop(queries, classes, width, seed):
    q, c = normal(queries, width, seed=seed), normal(classes, width, seed=seed + 1)
    expected = [
        [-math.fsum((a - b) ** 2 for a, b in zip(one, other, strict=True)) for other in c.tolist()]
        for one in q.tolist()
    ]
    close(prototype_logits(q, c), torch.tensor(expected, dtype=torch.float64))


def test_prototypes_by_hand():
    x = torch.tensor([[0.0, 2], [4, 0], [2, 4], [5, 5]])
    centres = prototypes(x, torch.tensor([1, 0, 1, 2]), 3)
    assert centres.tolist() == [[4, 0], [1, 3], [5, 5]]
    assert prototype_logits(torch.tensor([[1.0, 0]]), centres).tolist() == [[-9, -9, -41]]


def test_prototypes_are_differentiable_and_map():
    labels = torch.tensor([2, 0, 1, 2, 2])
    answer = lambda x, q: prototype_logits(q, prototypes(x, labels, 3))
    inputs = [normal(5, 3).requires_grad_(), normal(4, 3, seed=1).requires_grad_()]
    assert torch.autograd.gradcheck(answer, inputs)
    assert torch.autograd.gradgradcheck(answer, inputs)
    x, q = normal(6, 5, 3), normal(6, 4, 3, seed=1)
    many = torch.stack([labels[torch.randperm(5, generator=torch.Generator().manual_seed(k))] for k in range(6)])
    of_one = lambda x, y, q: prototype_logits(q, prototypes(x, y, 3))
    close(vmap(of_one)(x, many, q), torch.stack([of_one(*one) for one in zip(x, many, q, strict=True)]))
    summed = lambda x, y, q: of_one(x, y, q).log_softmax(1)[:, 0].sum()
    each = torch.stack([grad(summed)(*one) for one in zip(x, many, q, strict=True)])
    close(vmap(grad(summed))(x, many, q), each)


@EVERY_DTYPE
def test_prototypes_keep_the_dtype_and_take_labels_of_any_integer_kind(dtype):
    x, labels = normal(300, 3, dtype=dtype) + 100, torch.arange(300) % 2
    found = [prototypes(x, labels.to(kind), 2) for kind in (torch.int64, torch.int32, torch.uint8)]
    assert all(torch.equal(one, found[0]) for one in found)
    assert found[0].dtype == prototype_logits(x, found[0]).dtype == dtype
    # 150 numbers near 100 add up to more than 15,000, of which float16 would lose the last digits.
    exact = prototypes(x.double(), labels, 2)
    tolerance = {torch.float32: 1e-6, torch.float64: 1e-14}.get(dtype, torch.finfo(dtype).eps)
    torch.testing.assert_close(found[0].double(), exact, rtol=tolerance, atol=0)


def test_logits_of_embeddings_far_from_the_origin_keep_their_digits():
    """q² − 2qc + c² is of the size 10⁸ here, where float32 counts in eights."""
    queries, centres = (normal(5, 4, seed=seed, dtype=torch.float32) + 1e4 for seed in (0, 1))
    exact = prototype_logits(queries.double(), centres.double())
    torch.testing.assert_close(prototype_logits(queries, centres).double(), exact, rtol=1e-6, atol=0)
    short = 2 * queries @ centres.T - queries.square().sum(1, keepdim=True) - centres.square().sum(1)
    assert ((short.double() - exact) / exact).abs().max() > 0.1
    apart = prototype_logits(queries, centres + 1e4 * torch.eye(5, 4)).double()
    exact = prototype_logits(queries.double(), (centres + 1e4 * torch.eye(5, 4)).double())
    torch.testing.assert_close(apart, exact, rtol=1e-6, atol=0)


def test_a_class_without_example_is_named_as_such():
    with pytest.raises(ValueError, match="labels: expected each of the 3 classes at least once, got a class without"):
        prototypes(normal(4, 2), torch.tensor([0, 2, 0, 2]), 3)


def test_prototypes_can_be_trained_inside_fit():
    """A prototypical network: seeds stacked and traced, against a loss by hand."""
    images, labels = normal(12, 8, 5, dtype=torch.float32), torch.arange(8).expand(12, 8) % 2
    # No bias: distances do not feel it, and AdamW would follow its rounding errors.
    make = lambda: nn.Linear(5, 3, bias=False)

    def by_reference(model, x, y):
        of_task = lambda x, y: F.cross_entropy(
            prototype_logits(model(x[4:]), prototypes(model(x[:4]), y[:4], 2)), y[4:]
        )
        return vmap(of_task)(x, y).mean()

    def by_hand(model, x, y):
        f = model(x)
        centres = torch.stack([f[:, 0:4:2].mean(1), f[:, 1:4:2].mean(1)], dim=1)
        squares = (f[:, 4:, None] - centres[:, None]).square().sum(3)
        return F.cross_entropy(-squares.flatten(0, 1), y[:, 4:].flatten())

    data = Source(images, labels)
    options = {"seeds": 2, "steps": 5, "batch_size": 3, "learning_rate": 0.05}
    found, expected = fit(make, by_reference, data, **options), fit(make, by_hand, data, **options, together=False)
    for name, value in expected.parameters.items():
        torch.testing.assert_close(found.parameters[name], value, rtol=1e-4, atol=1e-5)


# --- bad input --------------------------------------------------------------------------------

E, Y = normal(4, 2), torch.tensor([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((E.tolist(), Y, 2), TypeError, "embeddings: expected a torch.Tensor, got list"),
        ((E.long(), Y, 2), TypeError, "embeddings: expected a floating dtype, got torch.int64"),
        ((E[0], Y, 2), ValueError, r"embeddings: expected 2 axes \(B, D\), got shape \(2,\)"),
        ((E * math.nan, Y, 2), ValueError, "embeddings: expected finite values"),
        ((E[:0], Y[:0], 2), ValueError, "embeddings: expected no axis of size zero"),
        ((E, Y.float(), 2), TypeError, "labels: expected an integer dtype such as torch.int64, got torch.float32"),
        ((E, Y[:3], 2), ValueError, r"labels: expected shape \(4,\), got \(3,\)"),
        ((E, Y + 1, 2), ValueError, "labels: expected classes 0 to 1, got 1 to 2"),
        ((E, Y - 1, 2), ValueError, "labels: expected classes 0 to 1, got -1 to 0"),
        ((E, Y.tolist(), 2), TypeError, "labels: expected a torch.Tensor, got list"),
        ((E, Y, 2.0), TypeError, "classes: expected an int, got float"),
        ((E, Y, 0), ValueError, "classes: expected at least 1, got 0"),
    ],
)
def test_prototypes_say_what_is_wrong(arguments, error, words):
    with pytest.raises(error, match=words):
        prototypes(*arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((E[0], E), ValueError, "queries: expected 2 axes"),
        ((E, E[0]), ValueError, "prototypes: expected 2 axes"),
        ((E.long(), E), TypeError, "queries: expected a floating dtype"),
        ((E, "c"), TypeError, "prototypes: expected a torch.Tensor, got str"),
        ((E, E[:, :1]), ValueError, "prototypes: expected 2 features as in queries, got 1"),
        ((E, E.float()), TypeError, "prototypes: expected the dtype of queries, torch.float64, got torch.float32"),
        ((E * math.inf, E), ValueError, "queries: expected finite values"),
    ],
)
def test_prototype_logits_say_what_is_wrong(arguments, error, words):
    with pytest.raises(error, match=words):
        prototype_logits(*arguments)
