"""The reference implementations of lesson 02 against hand values, slow loops, autograd and invariances."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import SEEDS, normal
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from ctkd_lessons.features import (
    activations,
    angle_loss,
    attention_loss,
    attention_map,
    distance_loss,
    hint_loss,
    linear_cka,
    similarity_loss,
)
from ctkd_lessons.models import mlp
from ctkd_lessons.training import Source, fit


def debiased_cka(x, y):
    return linear_cka(x, y, debiased=True)


# name: function, shape of the student's side, shape of the teacher's
LOSSES = {
    "hint": (hint_loss, (4, 2, 3), (4, 2, 3)),
    "attention": (attention_loss, (3, 2, 3, 2), (3, 4, 3, 2)),
    "pooled attention": (attention_loss, (3, 2, 5, 2), (3, 4, 3, 3)),
    "similarity": (similarity_loss, (4, 3), (4, 2, 3)),
    "distance": (distance_loss, (4, 3), (4, 5)),
    "angle": (angle_loss, (4, 3), (4, 5)),
}
CKA = {
    "CKA": (lambda x, y: linear_cka(x, y), (6, 3), (6, 2, 2)),
    "debiased CKA": (debiased_cka, (6, 3), (6, 2, 2)),
}
EVERY_LOSS = pytest.mark.parametrize(("function", "student", "teacher"), LOSSES.values(), ids=LOSSES)
EVERYTHING = pytest.mark.parametrize(("function", "student", "teacher"), (LOSSES | CKA).values(), ids=LOSSES | CKA)


def rotation(width, seed=0):
    return torch.linalg.qr(normal(width, width, seed=seed)).Q


exactly = partial(pytest.approx, rel=1e-10, abs=1e-13)


# --- slow loops -------------------------------------------------------------------------------


def dot(a, b):
    return math.fsum(p * q for p, q in zip(a, b, strict=True))


def unit(row):
    length = math.sqrt(dot(row, row))
    return [value / length for value in row]


def minus(a, b):
    return [p - q for p, q in zip(a, b, strict=True)]


def huber(difference):
    return 0.5 * difference**2 if abs(difference) <= 1 else abs(difference) - 0.5


def slow_hint(student, teacher):
    pairs = zip(student.flatten(1).tolist(), teacher.flatten(1).tolist(), strict=True)
    return math.fsum(0.5 * dot(minus(s, t), minus(s, t)) for s, t in pairs) / len(student)


def slow_energy(maps):
    """Sum of squares over the maps of one example, (M, H, W) → rows of numbers."""
    return [[math.fsum(one[i][j] ** 2 for one in maps) for j in range(len(maps[0][0]))] for i in range(len(maps[0]))]


def slow_pool(energy, height, width):
    """Average the bins of adaptive pooling: bin i of h covers rows ⌊i·H/h⌋ to ⌈(i + 1)·H/h⌉."""

    def cells(place, bins, size):
        return range(place * size // bins, -(-(place + 1) * size // bins))

    pooled = []
    for i in range(height):
        for j in range(width):
            rows, columns = cells(i, height, len(energy)), cells(j, width, len(energy[0]))
            pooled.append(math.fsum(energy[r][c] for r in rows for c in columns) / (len(rows) * len(columns)))
    return pooled


def slow_attention(student, teacher):
    size = [min(a, b) for a, b in zip(student.shape[2:], teacher.shape[2:], strict=True)]
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        difference = minus(unit(slow_pool(slow_energy(s), *size)), unit(slow_pool(slow_energy(t), *size)))
        total += math.sqrt(dot(difference, difference))
    return total / len(student)


def slow_similarity(student, teacher):
    def matrix(features):
        rows = features.flatten(1).tolist()
        return [unit([dot(a, b) for b in rows]) for a in rows]

    differences = [minus(a, b) for a, b in zip(matrix(student), matrix(teacher), strict=True)]
    return math.fsum(dot(row, row) for row in differences) / len(student) ** 2


def slow_distance(student, teacher):
    def distances(embeddings):
        rows, batch = embeddings.tolist(), range(len(embeddings))
        found = {(i, j): math.dist(rows[i], rows[j]) for i in batch for j in batch}
        mean = math.fsum(found[pair] for pair in found if pair[0] != pair[1]) / (len(batch) * (len(batch) - 1))
        return {pair: distance / mean for pair, distance in found.items()}

    d_s, d_t = distances(student), distances(teacher)
    return math.fsum(huber(d_s[pair] - d_t[pair]) for pair in d_s) / len(student) ** 2


def slow_angle(student, teacher):
    def cosine(rows, i, j, k):
        return 0.0 if j in (i, k) else dot(unit(minus(rows[i], rows[j])), unit(minus(rows[k], rows[j])))

    s, t, batch = student.tolist(), teacher.tolist(), range(len(student))
    triplets = [(i, j, k) for i in batch for j in batch for k in batch]
    return math.fsum(huber(cosine(s, *one) - cosine(t, *one)) for one in triplets) / len(triplets)


def slow_cka(x, y):
    """Compute the CKA from features × features matrices: no Gram matrix of examples anywhere."""

    def columns(features):
        centred = [
            [value - math.fsum(c) / len(c) for value in c] for c in zip(*features.flatten(1).tolist(), strict=True)
        ]
        return centred

    def squares(a, b):
        return math.fsum(dot(p, q) ** 2 for p in a for q in b)

    x, y = columns(x), columns(y)
    return squares(x, y) / math.sqrt(squares(x, x) * squares(y, y))


def slow_debiased_cka(x, y):
    """Compute the debiased CKA from Song et al. 2012, equation 5, as it stands there, features not centred."""

    def gram(features):
        rows = features.flatten(1).tolist()
        return [[dot(a, b) if i != j else 0.0 for j, b in enumerate(rows)] for i, a in enumerate(rows)]

    def hsic(k, l):  # noqa: E741 -- the paper's letters
        n = len(k)
        trace = math.fsum(k[i][j] * l[j][i] for i in range(n) for j in range(n))
        sum_k, sum_l = (math.fsum(math.fsum(row) for row in matrix) for matrix in (k, l))
        product = math.fsum(k[i][j] * l[j][m] for i in range(n) for j in range(n) for m in range(n))
        return (trace + sum_k * sum_l / ((n - 1) * (n - 2)) - 2 / (n - 2) * product) / (n * (n - 3))

    k, l = gram(x), gram(y)  # noqa: E741
    return hsic(k, l) / math.sqrt(hsic(k, k) * hsic(l, l))


def test_hand_values():
    assert hint_loss(torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 1.0]])).item() == 0.5 * (1 + 4)
    two_maps = torch.tensor([[[[1.0, 2.0]], [[math.sqrt(2), 0.0]]]])  # sums of squares: 3 and 4
    assert attention_map(two_maps).tolist() == [pytest.approx([0.6, 0.8])]
    left, right = torch.tensor([[[[5.0, 0.0]]]]), torch.tensor([[[[0.0, -2.0]]]])
    assert attention_loss(left, right).item() == pytest.approx(math.sqrt(2))
    same, apart = torch.tensor([[2.0], [2.0]]), torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    assert similarity_loss(same, apart).item() == pytest.approx(2 * (2 - math.sqrt(2)) / 4)
    line, corner = torch.tensor([[0.0], [1.0], [-1.0]]), torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    even = torch.eye(3)  # three points at the same distance
    # Distances 1, 1, 2, of mean 4/3, against 1, 1, 1.
    assert distance_loss(line, even).item() == pytest.approx(2 * (0.25**2 + 0.25**2 + 0.5**2) / 2 / 9)
    # Cosines −1, 1, 1 against 0, √½, √½.
    assert angle_loss(line, corner).item() == pytest.approx(2 * (0.5 + 2 * (1 - math.sqrt(0.5)) ** 2 / 2) / 27)
    # With one feature each, CKA is the squared correlation.
    assert linear_cka(line, torch.tensor([[3.0], [4.0], [4.0]])).item() == pytest.approx(0)
    assert linear_cka(line, torch.tensor([[0.0], [5.0], [0.0]])).item() == pytest.approx(0.75)


WIDTHS = st.integers(1, 4)
SIZES = st.tuples(st.integers(1, 7), st.integers(1, 7))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 3), WIDTHS, WIDTHS, SIZES, SIZES, SEEDS)
def test_maps_equal_the_slow_loop(batch, width_s, width_t, size_s, size_t, seed):
    student, teacher = normal(batch, width_s, *size_s, seed=seed), normal(batch, width_t, *size_t, seed=seed + 1)
    assert attention_loss(student, teacher).item() == exactly(slow_attention(student, teacher))
    for q, maps in zip(attention_map(student).tolist(), student.tolist(), strict=True):
        assert q == exactly(unit([value for row in slow_energy(maps) for value in row]))
    other = normal(batch, width_s, *size_s, seed=seed + 2)
    assert hint_loss(student, other).item() == exactly(slow_hint(student, other))


@pytest.mark.parametrize(
    ("size_s", "size_t"), [((6, 2), (3, 4)), ((5, 3), (3, 5)), ((7, 7), (3, 2)), ((4, 1), (1, 4)), ((8, 8), (5, 5))]
)
def test_maps_of_other_sizes_are_averaged_to_the_smaller(size_s, size_t):
    student, teacher = normal(2, 3, *size_s), normal(2, 2, *size_t, seed=1)
    assert attention_loss(student, teacher).item() == exactly(slow_attention(student, teacher))


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 6), WIDTHS, WIDTHS, st.sampled_from([1.0, 50.0]), SEEDS)
def test_relations_equal_the_slow_loop(batch, width_s, width_t, far, seed):
    student, teacher = normal(batch, width_s, seed=seed), normal(batch, width_t, seed=seed + 1)
    student[0] *= far  # far away: the linear part of Huber's loss
    assert similarity_loss(student, teacher).item() == exactly(slow_similarity(student, teacher))
    assert distance_loss(student, teacher).item() == exactly(slow_distance(student, teacher))
    assert angle_loss(student, teacher).item() == exactly(slow_angle(student, teacher))


@settings(deadline=None, max_examples=40)
@given(st.integers(4, 8), WIDTHS, WIDTHS, st.floats(-20, 20), SEEDS)
def test_cka_equals_the_slow_loop(examples, width_x, width_y, shift, seed):
    x, y = normal(examples, width_x, 2, seed=seed) + shift, normal(examples, width_y, seed=seed + 1)
    assert linear_cka(x, y).item() == pytest.approx(slow_cka(x, y), rel=1e-9, abs=1e-12)
    # The loop does not centre and so loses digits to the shift; the estimate does not depend on it.
    slow = slow_debiased_cka(x - shift, y)
    assert linear_cka(x, y, debiased=True).item() == pytest.approx(slow, rel=1e-8, abs=1e-10)


def test_debiased_cka_of_unrelated_features_is_zero_on_average():
    x, y = normal(400, 12, 30), normal(400, 12, 40, seed=1)  # 400 draws of 12 examples
    plain, debiased = vmap(linear_cka)(x, y), vmap(debiased_cka)(x, y)
    standard_error = debiased.std() / math.sqrt(len(debiased))
    assert debiased.mean().abs() < 4 * standard_error
    assert standard_error < 0.02
    assert plain.mean() > 0.7
    assert linear_cka(x[0], x[0], debiased=True).item() == pytest.approx(1)


# --- gradients, vmap, precision ---------------------------------------------------------------


@EVERYTHING
def test_gradients(function, student, teacher):
    student, teacher = normal(*student).requires_grad_(), normal(*teacher, seed=1)
    assert torch.autograd.gradcheck(lambda s: function(s, teacher), student)
    assert torch.autograd.gradgradcheck(lambda s: function(s, teacher), student)


def test_gradients_of_the_map_and_of_both_sides_of_cka():
    maps = normal(2, 2, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(attention_map, maps)
    assert torch.autograd.gradgradcheck(attention_map, maps)
    x, y = normal(6, 3).requires_grad_(), normal(6, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(linear_cka, (x, y))
    assert torch.autograd.gradcheck(debiased_cka, (x, y))


@EVERY_LOSS
def test_teacher_receives_no_gradient(function, student, teacher):
    student, teacher = normal(*student).requires_grad_(), normal(*teacher, seed=1).requires_grad_()
    function(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0
    assert not grad(function, argnums=1)(student.detach(), teacher.detach()).any()


@pytest.mark.filterwarnings("error")  # vmap warns where it falls back to a slow loop
@EVERYTHING
def test_vmap_equals_loop(function, student, teacher):
    students, teachers = normal(3, *student), normal(3, *teacher, seed=1)
    equal = partial(torch.testing.assert_close, rtol=1e-11, atol=1e-14)
    for one in (function, grad(function)):
        equal(vmap(one)(students, teachers), torch.stack([one(*pair) for pair in zip(students, teachers, strict=True)]))
        equal(vmap(one, (0, None))(students, teachers[0]), torch.stack([one(s, teachers[0]) for s in students]))
        equal(vmap(one, (None, 0))(students[0], teachers), torch.stack([one(students[0], t) for t in teachers]))
    mapped = vmap(lambda s, t: grad(function)(s, t))
    traced = make_fx(mapped, tracing_mode="fake")(students, teachers)  # as training.fit does
    equal(traced(students, teachers), mapped(students, teachers))


@EVERYTHING
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_kept(function, student, teacher, dtype):
    # Sizes at which a sum of squares of squares leaves the range of float16.
    batch, wide = student[0], [40 * size for size in student[1:2]]
    s, t = (normal(batch, *wide, *shape[2:], seed=seed, dtype=dtype) for seed, shape in enumerate((student, teacher)))
    t = s + t if function is hint_loss else t
    assert function(s, t).dtype == dtype
    assert attention_map(normal(2, 3, 4, 4, dtype=dtype)).dtype == dtype
    expected = function(s.double(), t.double()).item()
    assert function(s, t).item() == pytest.approx(expected, rel=max(20 * torch.finfo(dtype).eps, 1e-12))


INVARIANT = {name: case for name, case in (LOSSES | CKA).items() if name != "hint"}


@pytest.mark.parametrize("scale", [2.0**-12, 2.0**12])
@pytest.mark.parametrize(("function", "student", "teacher"), INVARIANT.values(), ids=INVARIANT)
def test_the_scale_does_not_matter(function, student, teacher, scale):
    student, teacher = normal(*student, dtype=torch.float32), normal(*teacher, seed=1, dtype=torch.float32)
    assert torch.allclose(function(scale * student, teacher / scale), function(student, teacher), rtol=1e-5)
    slope = grad(function)(scale * student, scale * teacher)
    assert torch.allclose(scale * slope, grad(function)(student, teacher), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("function", [similarity_loss, distance_loss, angle_loss])
def test_the_largest_numbers_of_float16(function):
    student, teacher = normal(4, 3), normal(4, 5, seed=1)
    expected = function(student, teacher).item()
    student = (60_000 * student / student.abs().max()).half()
    assert function(student, teacher.half()).item() == pytest.approx(expected, rel=0.02)


def test_distances_of_nearly_identical_rows_are_right_in_float32():
    def gram_trick(embeddings):
        squares, products = embeddings.square().sum(1), embeddings @ embeddings.mT
        distances = (squares[:, None] + squares - 2 * products).clamp(min=1e-12).sqrt()
        return distances / (distances.sum() / (len(distances) * (len(distances) - 1)))

    student = normal(1, 32, dtype=torch.float32) + 1e-5 * normal(8, 32, seed=1, dtype=torch.float32)
    teacher = normal(8, 16, seed=2, dtype=torch.float32)
    expected = slow_distance(student, teacher)
    assert distance_loss(student, teacher).item() == pytest.approx(expected, rel=1e-5)
    assert angle_loss(student, teacher).item() == pytest.approx(slow_angle(student, teacher), rel=1e-5)
    tricked = nn.functional.huber_loss(gram_trick(student), gram_trick(teacher)).item()
    assert tricked != pytest.approx(expected, rel=0.1)
    slope, true_slope = grad(distance_loss)(student, teacher), grad(distance_loss)(student.double(), teacher.double())
    assert (slope - true_slope).norm() < 1e-5 * true_slope.norm()


@EVERY_LOSS
@pytest.mark.parametrize("case", ["two alike", "all alike", "zeros", "one is zero", "as the teacher"])
def test_gradients_stay_finite(function, student, teacher, case):
    shape, student, teacher = student, normal(*student), normal(*teacher, seed=1)
    if case == "two alike":
        student[1] = student[0]
    elif case == "all alike":
        student = student[:1].expand(shape).clone()
    elif case == "zeros":
        student = torch.zeros(shape)
        teacher = teacher.float()
    elif case == "one is zero":
        student[0] = 0
    else:
        teacher = student.clone()
    student.requires_grad_()
    value = function(student, teacher)
    (slope,) = torch.autograd.grad(value, student, create_graph=True)
    (second,) = torch.autograd.grad(slope.sum(), student)
    assert value.isfinite()
    assert slope.isfinite().all()
    assert second.isfinite().all()


def test_a_map_of_zeros_stays_zero():
    assert not attention_map(torch.zeros(2, 3, 4, 4)).any()


@EVERYTHING
def test_layout_in_memory_does_not_matter(function, student, teacher):
    student, teacher = normal(*student), normal(*teacher, seed=1)
    scattered = [t.transpose(0, -1).contiguous().transpose(0, -1) for t in (student, teacher)]
    assert torch.allclose(function(*scattered), function(student, teacher), rtol=1e-12)


# --- what a loss sees and what it does not ----------------------------------------------------


@EVERY_LOSS
def test_zero_for_equal_features_and_never_below(function, student, teacher):
    same, student, teacher = normal(*student), normal(*student), normal(*teacher, seed=1)
    assert function(same, same.clone()).item() == pytest.approx(0, abs=1e-14)
    assert function(student, teacher) > 0


@EVERYTHING
def test_order_of_the_examples_does_not_matter(function, student, teacher):
    student, teacher = normal(*student), normal(*teacher, seed=1)
    assert torch.allclose(function(student.flip(0), teacher.flip(0)), function(student, teacher), rtol=1e-10)
    assert not torch.allclose(function(student.flip(0), teacher), function(student, teacher), rtol=1e-3)


@pytest.mark.parametrize("function", [similarity_loss, distance_loss, angle_loss, linear_cka, debiased_cka])
def test_relations_do_not_see_rotation_scale_or_width(function):
    student, teacher = normal(6, 4), normal(6, 3, seed=1)
    expected = function(student, teacher)
    wider = torch.cat([3 * student @ rotation(4), torch.zeros(6, 5)], dim=1) @ rotation(9, seed=1)
    assert torch.allclose(function(wider, -0.1 * teacher @ rotation(3)), expected, rtol=1e-9)
    # An uneven stretch is no rotation.
    assert not torch.allclose(function(student * torch.tensor([5.0, 1, 1, 1]), teacher), expected, rtol=1e-2)
    shifted = function(student + 1, teacher)
    assert torch.allclose(shifted, expected, rtol=1e-9) == (function is not similarity_loss)


def test_hint_sees_rotation_and_scale():
    student, teacher = normal(6, 4), normal(6, 4, seed=1)
    for other in (student @ rotation(4), 2 * student, student + 3):
        assert not torch.allclose(hint_loss(other, teacher), hint_loss(student, teacher), rtol=1e-2)


def test_attention_sees_where_and_not_in_which_map_or_how_much():
    student, teacher = normal(3, 4, 5, 5), normal(3, 2, 5, 5, seed=1)
    expected = attention_loss(student, teacher)
    mixed = torch.einsum("cm,bmhw->bchw", rotation(4), student) * torch.tensor([0.1, 1, 7]).view(3, 1, 1, 1)
    assert torch.allclose(attention_loss(mixed, teacher), expected, rtol=1e-9)
    assert not torch.allclose(attention_loss(student.flip(-1), teacher), expected, rtol=1e-3)
    assert torch.allclose(attention_map(student).norm(dim=1), torch.ones(3, dtype=torch.float64))


# --- activations ------------------------------------------------------------------------------


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4))
        self.head, self.spare = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x):
        if x.sum() == 0:
            raise ArithmeticError("the model itself fails")
        return self.head(self.body(x))


def hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


def test_activations_are_what_the_layers_give():
    model, x = Nested(), torch.ones(5, 3)
    output, seen = activations(model, x, ["body.0", "body", "head"])
    assert list(seen) == ["body.0", "body", "head"]
    assert torch.equal(output, model(x))
    assert torch.equal(seen["body.0"], model.body[0](x))
    assert torch.equal(seen["body"], model.body(x))
    assert torch.equal(seen["head"], output)
    assert hooks(model) == 0
    seen["body"].square().sum().backward()
    mine = model.body[0].weight.grad.clone()
    model.zero_grad()
    model.body(x).square().sum().backward()
    assert torch.equal(mine, model.body[0].weight.grad)
    assert model.head.weight.grad is None
    assert activations(model, x, [])[1] == {}


def test_what_runs_after_a_layer_does_not_change_what_was_seen():
    model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True)), normal(5, 3, dtype=torch.float32)
    _, seen = activations(model, x, ["0"])
    assert torch.equal(seen["0"], model[0](x))
    assert (seen["0"] < 0).any()


def test_a_layer_that_runs_twice_shows_its_last_output():
    relu = nn.ReLU()
    model, x = nn.Sequential(nn.Linear(3, 4), relu, nn.Linear(4, 4), relu), normal(5, 3, dtype=torch.float32)
    output, seen = activations(model, x, ["1"])
    assert torch.equal(seen["1"], output)


@pytest.mark.parametrize(
    ("layers", "error", "names"),
    [
        (
            ["body.7"],
            ValueError,
            r"layers: .*\['body', 'body.0', 'body.1', 'body.2', 'head', 'spare'\], got \['body.7'\]",
        ),
        ("body", ValueError, "layers: expected a list of names among .*'body'.*, got 'body'"),
        ([""], ValueError, "layers"),
        ([0], ValueError, "layers: expected a list of names .*, got \\[0\\]"),
        (None, ValueError, "layers: expected a list of names .*, got None"),
        (iter(["body"]), ValueError, "layers: expected a list of names"),
        (["body", "spare"], ValueError, r"layers: expected layers that the model runs, got \['spare'\]"),
    ],
)
def test_bad_layers_are_named_and_leave_no_hook(layers, error, names):
    model = Nested()
    with pytest.raises(error, match=names):
        activations(model, torch.ones(5, 3), layers)
    assert hooks(model) == 0


def test_hooks_are_gone_when_the_model_fails():
    model = Nested()
    with pytest.raises(ArithmeticError):
        activations(model, torch.zeros(5, 3), ["body", "head"])
    assert hooks(model) == 0


def test_only_layers_with_one_tensor_can_be_seen():
    model = nn.Sequential(nn.LSTM(3, 4))
    with pytest.raises(TypeError, match="layers: expected layers that put out a tensor, '0' gave tuple"):
        activations(model, torch.zeros(5, 2, 3), ["0"])
    assert hooks(model) == 0
    with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module, got function"):
        activations(lambda x: x, torch.zeros(5, 3), ["0"])


@pytest.mark.parametrize(
    ("relation", "width"), [(hint_loss, 6), (similarity_loss, 5), (distance_loss, 5), (angle_loss, 5)]
)
def test_students_learn_from_activations_stacked_as_in_a_loop(relation, width):
    x, target = normal(40, 3, dtype=torch.float32), normal(40, width, seed=1, dtype=torch.float32)

    def loss(model, x, target):
        output, seen = activations(model, x, ["0"])
        return relation(seen["0"], target) + output.square().mean()

    train = partial(fit, partial(mlp, [3, 6, 2]), loss, Source(x, target), seeds=2, steps=8, batch_size=8)
    stacked, looped = train(together=True), train(together=False)
    assert torch.allclose(stacked.losses, looped.losses, rtol=1e-5)
    assert torch.allclose(stacked.predict(x), looped.predict(x), atol=1e-4)
    assert hooks(stacked.one(0)) == hooks(looped.one(0)) == 0


def test_activations_follow_functional_call():
    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = mlp([3, 4, 2])

        def forward(self, x):
            return activations(self.model, x, ["0"])[1]["0"]

    weights, x = normal(5, 4, 3, dtype=torch.float32), normal(6, 3, dtype=torch.float32)
    watched = Watched()
    seen = vmap(lambda w: functional_call(watched, {"model.0.weight": w}, (x,)))(weights)
    for place, weight in enumerate(weights):
        assert torch.allclose(seen[place], x @ weight.T + watched.model[0].bias, atol=1e-6)
    assert hooks(watched) == 0


# --- bad input --------------------------------------------------------------------------------

ROWS, MAPS = torch.arange(12.0).view(4, 3), torch.ones(4, 2, 3, 3)


@EVERY_LOSS
def test_bad_features_name_the_argument(function, student, teacher):
    student, teacher = normal(*student), normal(*teacher, seed=1)
    for call, error, names in (
        (lambda: function(student[:-1], teacher), ValueError, "(teacher|student)_.*: expected the .*got "),
        (lambda: function(student.tolist(), teacher), TypeError, "student_.*: expected a torch.Tensor, got list"),
        (lambda: function(student, None), TypeError, "teacher_.*: expected a torch.Tensor, got NoneType"),
        (lambda: function(student.long(), teacher), TypeError, "student_.*: expected a floating dtype"),
        (lambda: function(student, teacher.float()), TypeError, "_.*: expected the dtype of"),
        (lambda: function(student * torch.nan, teacher), ValueError, "student_.*: expected finite values"),
        (lambda: function(student, teacher + torch.inf), ValueError, "teacher_.*: expected finite values"),
        (lambda: function(student[0, 0], teacher), ValueError, "student_.*: expected .* axes"),
        (lambda: function(student, teacher[:, 0, 0] if teacher.ndim > 2 else teacher[:, 0]), ValueError, "teacher_"),
        (lambda: function(student[:0], teacher[:0]), ValueError, "student_.*: expected no axis of size zero"),
        (lambda: function(student[..., :0], teacher), ValueError, "student_.*: expected no axis of size zero"),
    ):
        with pytest.raises(error, match=names):
            call()


@pytest.mark.parametrize(
    ("call", "error", "names"),
    [
        (
            lambda: hint_loss(ROWS, ROWS[:, :2]),
            ValueError,
            r"student_features: expected the shape .*\(4, 2\), got \(4, 3\)",
        ),
        (lambda: hint_loss(ROWS[:, :1], ROWS), ValueError, "student_features: expected the shape"),  # no broadcast
        (lambda: attention_map(ROWS), ValueError, r"features: expected 4 axes \(B, M, H, W\), got shape \(4, 3\)"),
        (lambda: attention_map(MAPS[..., :0]), ValueError, "features: expected no axis of size zero"),
        (lambda: attention_map(MAPS * torch.nan), ValueError, "features: expected finite"),
        (lambda: attention_loss(MAPS, ROWS), ValueError, "teacher_features: expected 4 axes"),
        (lambda: attention_loss(MAPS, MAPS[:, :, :0]), ValueError, "teacher_features: expected no axis of size zero"),
        (lambda: similarity_loss(ROWS, MAPS[:3]), ValueError, "teacher_features: expected the 4 examples of student"),
        (lambda: distance_loss(MAPS, MAPS), ValueError, r"student_embeddings: expected 2 axes \(B, D\)"),
        (lambda: distance_loss(ROWS[:1], ROWS[:1]), ValueError, "student_embeddings: expected at least 2 examples"),
        (lambda: angle_loss(ROWS[:1], ROWS[:1]), ValueError, "student_embeddings: expected at least 2 examples"),
        (lambda: angle_loss(ROWS, ROWS[:3]), ValueError, "teacher_embeddings: expected the 4 examples of student"),
        (lambda: linear_cka(ROWS, ROWS[:3]), ValueError, "y: expected the 4 examples of x, got 3"),
        (lambda: linear_cka(ROWS, ROWS.double()), TypeError, "y: expected the dtype of x"),
        (lambda: linear_cka(ROWS[:1], ROWS[:1]), ValueError, "x: expected at least 2 examples"),
        (lambda: debiased_cka(ROWS[:3], ROWS[:3]), ValueError, "x: expected at least 4 examples"),
        (lambda: linear_cka(ROWS[:, 0], ROWS), ValueError, "x: expected at least 2 axes"),
        (lambda: linear_cka(ROWS, ROWS * torch.nan), ValueError, "y: expected finite"),
        # Rounding leaves something of 0.1 minus the mean of seven 0.1: no reason to measure it.
        (lambda: linear_cka(torch.full((7, 3), 0.1), normal(7, 2).float()), ValueError, "x: .* the same for all"),
        (lambda: linear_cka(ROWS, torch.ones(4, 2)), ValueError, "y: expected features that differ between examples"),
        (lambda: debiased_cka(torch.ones(4, 2), ROWS), ValueError, "x: .* the same for all"),
        (lambda: debiased_cka(torch.eye(7), normal(7, 2).float()), ValueError, "x: .* none but for the bias"),
        (lambda: debiased_cka(normal(7, 2), torch.eye(7)[:, :1].double()), ValueError, "y: .* none but for the bias"),
    ],
)
def test_bad_input_names_the_argument(call, error, names):
    with pytest.raises(error, match=names):
        call()
