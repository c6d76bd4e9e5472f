"""The reference implementations of lesson 03 and the bill, against hand values, slow loops and PyTorch's counter."""

import copy
import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import SEEDS, normal
from torch import nn
from torch.func import grad, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from ctkd_lessons.capacity import Int8Linear, dkd_loss, dkd_terms, ensemble_targets, pareto_front, quantise
from ctkd_lessons.models import conv, mlp
from ctkd_lessons.scorecard import count_bytes, count_flops, count_parameters, latency, peak_memory, scorecard
from ctkd_lessons.soft_targets import kd_loss, soften

BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def labels(batch, classes, seed=0):
    return torch.randint(classes, (batch,), generator=torch.Generator().manual_seed(seed))


# --- DKD --------------------------------------------------------------------------------------


def slow_dkd(student, teacher, labels, temperature):
    def split(row, label):
        powers = [math.exp((z - max(row)) / temperature) for z in row]
        total = math.fsum(powers)
        rest = [power for place, power in enumerate(powers) if place != label]
        return [powers[label] / total, math.fsum(rest) / total], [power / math.fsum(rest) for power in rest]

    def kl(p, q):
        return math.fsum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))

    target, others = [], []
    for s, t, label in zip(student.tolist(), teacher.tolist(), labels.tolist(), strict=True):
        (b_s, rest_s), (b_t, rest_t) = split(s, label), split(t, label)
        target.append(kl(b_t, b_s))
        others.append(kl(rest_t, rest_s))
    return temperature**2 * math.fsum(target) / len(target), temperature**2 * math.fsum(others) / len(others)


def test_dkd_by_hand():
    # The teacher says ½, ¼, ¼, the student ¼, ½, ¼, and the label is the first class.
    student, teacher = torch.tensor([[1.0, 2.0, 1.0]]).log(), torch.tensor([[2.0, 1.0, 1.0]]).log()
    target, others = dkd_terms(student, teacher, torch.tensor([0]), 1.0)
    by_hand = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert target.item() == pytest.approx(by_hand)
    assert others.item() == pytest.approx(0.5 * math.log(0.5 / (2 / 3)) + 0.5 * math.log(0.5 / (1 / 3)))
    assert [v.item() for v in dkd_terms(3 * student, 3 * teacher, torch.tensor([0]), 3.0)] == pytest.approx(
        [9 * target.item(), 9 * others.item()]
    )
    assert dkd_loss(student, teacher, torch.tensor([0]), 1.0, alpha=2.0, beta=0.5) == 2 * target + 0.5 * others
    target, others = dkd_terms(student, teacher, torch.tensor([0]), 4.0)
    assert dkd_loss(student, teacher, torch.tensor([0])) == target + 8 * others


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(2, 12), st.floats(0.3, 30), SEEDS)
def test_dkd_equals_the_slow_loop(batch, classes, temperature, seed):
    student, teacher = 3 * normal(batch, classes, seed=seed), 3 * normal(batch, classes, seed=seed + 1)
    y = labels(batch, classes, seed)
    terms = [term.item() for term in dkd_terms(student, teacher, y, temperature)]
    assert terms == pytest.approx(slow_dkd(student, teacher, y, temperature), rel=1e-10, abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 12), st.floats(0.3, 30), SEEDS)
def test_distillation_is_the_sum_of_its_two_parts(classes, temperature, seed):
    student, teacher, y = (
        3 * normal(1, classes, seed=seed),
        3 * normal(1, classes, seed=seed + 1),
        labels(1, classes, seed),
    )
    target, others = dkd_terms(student, teacher, y, temperature)
    mute = 1 - soften(teacher, temperature)[0, y]
    assert kd_loss(student, teacher, temperature).item() == pytest.approx(
        (target + mute * others).item(), rel=1e-10, abs=1e-12
    )


def test_two_classes_have_no_others():
    student, teacher = normal(5, 2), normal(5, 2, seed=1)
    target, others = dkd_terms(student, teacher, labels(5, 2), 2.0)
    assert others == 0
    assert target.item() == pytest.approx(kd_loss(student, teacher, 2.0).item(), rel=1e-12)


@BOTH
@pytest.mark.parametrize("size", [200.0, 1e5])
def test_huge_logits_stay_finite_and_right(size, dtype):
    student = size * torch.tensor([[1, -1, 0, 0.5], [-1, 1, 1, 0], [0, 0, 0, 1]], dtype=dtype)
    teacher, y = student.flip(-1).clone(), torch.tensor([0, 0, 3])
    student.requires_grad_()
    terms = dkd_terms(student, teacher, y, 1.0)
    loss = dkd_loss(student, teacher, y, 1.0)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()
    # Most probabilities are 0 or 1 here: of the target, −log p_s where the teacher is sure.
    exact = dkd_terms(student.detach().double(), teacher.double(), y, 1.0)
    assert [term.item() for term in terms] == pytest.approx([term.item() for term in exact], rel=1e-5)
    masked = torch.softmax(student.detach() - 1000 * F.one_hot(y, 4), dim=-1).log()  # what some code does
    assert not masked.isfinite().all()


def test_dkd_gradients():
    student, teacher, y = normal(4, 5).requires_grad_(), normal(4, 5, seed=1).requires_grad_(), labels(4, 5)
    for function in (lambda s: dkd_terms(s, teacher, y, 2.5), lambda s: dkd_loss(s, teacher, y, 2.5)):
        assert torch.autograd.gradcheck(function, student)
        assert torch.autograd.gradgradcheck(function, student)
    dkd_loss(student, teacher, y).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


@pytest.mark.filterwarnings("error")  # vmap warns where it falls back to a slow loop
def test_vmap_equals_loop():
    students, teachers = normal(3, 4, 5), normal(3, 4, 5, seed=1)
    y = torch.stack([labels(4, 5, seed) for seed in range(3)])
    equal = partial(torch.testing.assert_close, rtol=1e-11, atol=1e-14)
    for one in (dkd_loss, grad(dkd_loss)):
        loop = torch.stack([one(*case) for case in zip(students, teachers, y, strict=True)])
        equal(vmap(one)(students, teachers, y), loop)
        shared = torch.stack([one(student, teachers[0], y[0]) for student in students])
        equal(vmap(one, (0, None, None))(students, teachers[0], y[0]), shared)
    mapped = vmap(lambda s, t, y: grad(dkd_loss)(s, t, y))
    equal(
        make_fx(mapped, tracing_mode="fake")(students, teachers, y)(students, teachers, y),
        mapped(students, teachers, y),
    )
    equal(vmap(ensemble_targets)(students.unsqueeze(1)), soften(students))


@BOTH
def test_dtype_is_kept(dtype):
    student, teacher = normal(3, 4, dtype=dtype), normal(3, 4, seed=1, dtype=dtype)
    results = [*dkd_terms(student, teacher, labels(3, 4)), dkd_loss(student, teacher, labels(3, 4))]
    results += [ensemble_targets(torch.stack([student, teacher]))]
    assert {result.dtype for result in results} == {dtype}
    for kind in (torch.uint8, torch.int32):
        assert dkd_loss(student, teacher, labels(3, 4).to(kind)) == dkd_loss(student, teacher, labels(3, 4))


# --- ensembles, Pareto front ------------------------------------------------------------------


def test_ensemble_by_hand():
    two = torch.tensor([[[0.0, math.log(3.0)]], [[0.0, 0.0]]])
    assert ensemble_targets(two).tolist() == [pytest.approx([0.375, 0.625])]
    assert ensemble_targets(2 * two, 2.0).tolist() == [pytest.approx([0.375, 0.625])]
    assert torch.equal(ensemble_targets(two[:1], 3.0), soften(two[0], 3.0))
    assert not torch.allclose(ensemble_targets(two), soften(two.mean(dim=0)), atol=1e-3)


def test_ensemble_as_a_teacher():
    student, members = normal(4, 5), 3 * normal(3, 4, 5, seed=1)
    p, q = ensemble_targets(members, 2.0), soften(student, 2.0)
    as_logits = 2.0 * p.log()
    assert torch.allclose(soften(as_logits, 2.0), p, rtol=1e-12)
    by_hand = 4.0 * (p * (p.log() - q.log())).sum(dim=-1).mean()
    assert kd_loss(student, as_logits, 2.0).item() == pytest.approx(by_hand.item(), rel=1e-12)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=12))
def test_pareto_front_equals_the_slow_loop(models):
    def beaten(one):
        return any(a <= one[0] and b <= one[1] and c >= one[2] and (a, b, c) != one for a, b, c in models)

    costs, scores = [one[:2] for one in models], [one[2] for one in models]
    assert pareto_front(costs, scores).tolist() == [not beaten(one) for one in models]
    first = [cost for cost, _ in costs]
    one_cost = pareto_front(first, scores)
    assert one_cost.tolist() == pareto_front([[cost, 7] for cost in first], scores).tolist()
    assert one_cost[np.argmax(np.subtract(scores, np.multiply(0.01, first)))]  # the cheapest of the best


def test_pareto_front_by_hand():
    #         cheap, dear, dear and worse, a twin of the first, as dear as the second and better
    assert pareto_front([1, 5, 6, 1, 5], [0.8, 0.9, 0.85, 0.8, 0.95]).tolist() == [True, False, False, True, True]


# --- int8 -------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 5), st.integers(1, 40), st.integers(1, 6), st.booleans(), st.floats(-20, 20), SEEDS)
def test_int8_error_is_bounded_by_the_scales(batch, inputs, outputs, bias, exponent, seed):
    linear, x = nn.Linear(inputs, outputs, bias=bias).double(), 10.0**exponent * normal(batch, inputs, seed=seed)
    with torch.no_grad():
        linear.weight.copy_(normal(outputs, inputs, seed=seed + 1))
    int8 = Int8Linear(linear)
    half_w, half_x = int8.scale.mT / 2, x.abs().amax(dim=1, keepdim=True) / 127 / 2  # the most that rounding moves
    kept = (int8.scale * int8.weight).abs().sum(dim=1)
    bound = half_w * x.abs().sum(dim=1, keepdim=True) + half_x * kept
    assert ((int8(x) - linear(x)).abs() <= bound * (1 + 1e-9) + 1e-12).all()
    assert int8.weight.dtype == torch.int8
    assert (int8.weight.int().abs().amax(dim=1) == 127).all()


def test_int8_is_exact_where_nothing_is_rounded():
    linear = nn.Linear(3, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[127.0, -3.0, 0.0], [0.5, 63.5, -1.0]]))  # scales 1 and ½
    x = torch.tensor([[127.0, 1.0, -50.0], [-254.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
    assert torch.allclose(Int8Linear(linear)(x), linear(x), rtol=1e-6)
    assert torch.equal(Int8Linear(linear)(x)[2], linear.bias)


def test_int8_of_zeros_and_of_any_shape():
    linear = nn.Linear(4, 3, bias=False)
    nn.init.zeros_(linear.weight)
    assert not Int8Linear(linear)(normal(2, 4, dtype=torch.float32)).any()
    deep, x = Int8Linear(nn.Linear(4, 3)), normal(2, 5, 4, dtype=torch.float32)
    assert torch.equal(deep(x)[1], deep(x[1]))
    assert deep(x[:0]).shape == (0, 5, 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_int8_keeps_the_dtype_and_its_range(dtype):
    model, x = mlp([200, 50, 10]).to(dtype), normal(6, 200, dtype=dtype)
    answer = quantise(model)(x)
    assert answer.dtype == dtype
    assert (answer - model(x)).abs().max() < 0.05


def test_quantise_leaves_the_original_and_shrinks_the_copy():
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Sequential(nn.Dropout(), nn.Linear(32, 10, bias=False)))
    before = copy.deepcopy(model.state_dict())
    small = quantise(model)
    assert [type(module) for module in model.modules()].count(nn.Linear) == 2
    assert [type(module) for module in small.modules()].count(Int8Linear) == 2
    assert model.training
    assert not any(module.training for module in small.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    # A byte for each weight, four for each output's scale and bias.
    assert count_bytes(small) == 64 * 32 + 32 * 10 + 4 * (32 + 10) + 4 * 32
    assert count_flops(small, torch.zeros(1, 64)) == count_flops(model, torch.zeros(1, 64))
    x = normal(200, 64, dtype=torch.float32)
    assert (small(x).argmax(1) == model.eval()(x).argmax(1)).float().mean() > 0.95
    assert not small(x).requires_grad


def test_quantise_alone_or_in_several_places():
    linear, x = nn.Linear(4, 4), normal(3, 4, dtype=torch.float32)
    alone = quantise(linear)
    assert isinstance(alone, Int8Linear)
    assert torch.allclose(alone(x), linear(x), atol=0.05)
    tied = quantise(nn.Sequential(linear, nn.ReLU(), linear))
    assert tied[0] is tied[2]
    assert torch.equal(tied[0].weight, alone.weight)


# --- the bill ---------------------------------------------------------------------------------


def torch_counts(model, x):
    with FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops()


def test_flops_are_two_per_multiply_add():
    assert count_flops(mlp([64, 32, 10]), torch.zeros(1, 64)) == 2 * (64 * 32 + 32 * 10)
    assert count_flops(conv([4], 10), torch.zeros(1, 64)) == 2 * (64 * 9 * 4 + 4 * 64 * 10)
    assert count_flops(nn.ReLU(), torch.zeros(1, 64)) == 0


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([1, 2, 4]),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 2),
)
def test_flops_of_convolutions_equal_the_formula(per_group, out_per_group, groups, kernel, stride, padding):
    layer = nn.Conv2d(per_group * groups, out_per_group * groups, kernel, stride=stride, padding=padding, groups=groups)
    x = torch.zeros(5, per_group * groups, 7, 6)
    high, wide = ((size + 2 * padding - kernel) // stride + 1 for size in x.shape[2:])
    assert count_flops(layer, x) == 2 * per_group * kernel**2 * out_per_group * groups * high * wide


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (mlp([64, 100, 30, 10]), (64,)),
        (conv([8, 16, 32], 10), (64,)),
        (nn.Sequential(nn.Conv1d(4, 6, 3, dilation=2), nn.ConvTranspose1d(6, 2, 4, stride=2)), (4, 12)),
        (nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), (5, 16)),
    ],
    ids=["mlp", "conv", "transposed", "attention"],
)
def test_flops_are_those_of_pytorch_for_one_example_of_any_batch(model, shape):
    model.eval()
    expected = torch_counts(model, torch.zeros(1, *shape))
    assert expected > 0
    with torch.no_grad():
        assert count_flops(model, torch.zeros(1, *shape)) == expected
    assert count_flops(model, torch.zeros(7, *shape)) == expected


def test_parameters_count_frozen_ones_and_shared_ones_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
    assert count_parameters(model) == 2 * 12 + 6  # running averages are not learned
    model[0].requires_grad_(False)
    assert count_parameters(model) == 2 * 12 + 6
    model[2].weight = model[0].weight
    assert count_parameters(model) == 12 + 3 + 6


def test_bytes_follow_the_dtypes():
    model = nn.Sequential(nn.Linear(3, 2).half(), nn.BatchNorm1d(2))
    assert count_bytes(model) == 2 * 8 + 4 * 4 + 4 * 4 + 8  # averages, and a counter of eight bytes
    model[0].bias = None
    assert count_bytes(model) == 2 * 6 + 4 * 4 + 4 * 4 + 8


def test_peak_memory_by_hand():
    x = torch.zeros(1, 64)
    # Weights and input stay; beside them the most is what one layer takes in and puts out.
    assert peak_memory(mlp([64, 32, 10]), x) == 4 * (2410 + 64 + 32 + 32)
    assert peak_memory(mlp([64, 10]), x) == 4 * (650 + 64 + 10)
    assert peak_memory(mlp([64, 32, 10]), torch.zeros(5, 64)) == 4 * (2410 + 5 * (64 + 32 + 32))
    # A convolution and its ReLU hold four maps each; what a deeper layer needs is less.
    assert peak_memory(conv([4, 2], 10), x) == 4 * (count_parameters(conv([4, 2], 10)) + 64 + 256 + 256)
    in_place = nn.Sequential(nn.Linear(64, 32), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(32, 10))
    assert peak_memory(in_place, x) == 4 * (2410 + 64 + 32 + 10)


def test_peak_memory_forgets_what_is_freed_and_counts_what_is_shared_once():
    x, shared = torch.zeros(1, 50), nn.Linear(50, 50)
    deep = nn.Sequential(*[shared, nn.ReLU()] * 30)
    assert peak_memory(deep, x) == peak_memory(nn.Sequential(shared, nn.ReLU(), shared), x)

    class Listed(nn.Module):
        def forward(self, x):
            return sum([x * place for place in range(5)])  # a list keeps all five

    class Reused(nn.Module):
        def forward(self, x):
            for _ in range(5):
                (x * 1).sum()  # freed at once: what comes next may get the same address
            return x * 2, x * 3

    assert peak_memory(Listed(), x) == 4 * 50 * (1 + 5 + 2)  # and sum a total and the next
    assert peak_memory(Reused(), torch.zeros(1, 10**6)) == 4 * 10**6 * (1 + 2)


def test_peak_memory_of_a_row_is_not_that_of_its_table():
    table = torch.zeros(1000, 64)
    assert peak_memory(mlp([64, 10]), table[:1]) == peak_memory(mlp([64, 10]), torch.zeros(1, 64))


def test_quantised_weights_need_less_memory():
    model = mlp([64, 512, 10])
    assert count_bytes(quantise(model)) < 0.3 * count_bytes(model)


@pytest.mark.parametrize("measure", [count_flops, peak_memory, partial(latency, repeats=1), scorecard])
def test_measuring_leaves_the_model_as_it_was(measure):
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 2))
    model[1].eval()
    before, chance = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    x = torch.ones(1, 8, requires_grad=True)
    assert measure(model, x)
    assert [module.training for module in model.modules()] == [True, True, False, True, True]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert x.grad is None
    assert torch.equal(chance, torch.get_rng_state())


def test_scorecard_is_the_whole_bill():
    model, x = mlp([64, 32, 10]), torch.zeros(1, 64)
    card = scorecard(model, x)
    assert (card.parameters, card.flops, card.memory) == (2410, 4736, peak_memory(model, x))
    assert f"{card.memory:,} bytes for an example" in str(card)


# --- bad input --------------------------------------------------------------------------------

GOOD, Y, MODEL, X = torch.zeros(2, 3), torch.tensor([0, 2]), mlp([3, 2]), torch.zeros(1, 3)
NO_WEIGHTS = nn.Sequential(nn.Flatten(), nn.ReLU())


@pytest.mark.parametrize(
    ("call", "error", "names"),
    [
        (lambda: dkd_terms(GOOD, GOOD, Y, 0.0), ValueError, "temperature: expected .* above 0, got 0"),
        (lambda: dkd_terms(GOOD, GOOD[:1], Y), ValueError, r"teacher_logits: expected the shape .* got \(1, 3\)"),
        (
            lambda: dkd_terms(GOOD[:, :1], GOOD[:, :1], Y * 0),
            ValueError,
            "student_logits: expected at least two classes",
        ),
        (lambda: dkd_terms(GOOD[0], GOOD, Y), ValueError, "student_logits: expected 2 axes"),
        (lambda: dkd_terms(GOOD[:0], GOOD[:0], Y[:0]), ValueError, "student_logits: expected at least one example"),
        (lambda: dkd_terms(GOOD, GOOD.double(), Y), TypeError, "teacher_logits: expected the dtype"),
        (lambda: dkd_terms(GOOD.long(), GOOD, Y), TypeError, "student_logits: expected a floating dtype"),
        (lambda: dkd_terms(GOOD, GOOD + torch.inf, Y), ValueError, "teacher_logits: expected finite"),
        (lambda: dkd_terms(GOOD, GOOD, Y + 1), ValueError, "labels: expected classes 0 to 2, got 1 to 3"),
        (lambda: dkd_terms(GOOD, GOOD, Y - 1), ValueError, "labels: expected classes 0 to 2, got -1 to 1"),
        (lambda: dkd_terms(GOOD, GOOD, Y.float()), TypeError, "labels: expected an integer dtype"),
        (lambda: dkd_terms(GOOD, GOOD, F.one_hot(Y)), ValueError, r"labels: expected shape \(2,\), got \(2, 3\)"),
        (lambda: dkd_loss(GOOD, GOOD, Y, alpha=-1.0), ValueError, "alpha: expected .*at least 0, got -1"),
        (lambda: dkd_loss(GOOD, GOOD, Y, beta=float("nan")), ValueError, "beta"),
        (lambda: dkd_loss(GOOD, GOOD, Y, beta="8"), TypeError, "beta: expected a Python number, got str"),
        (
            lambda: ensemble_targets(torch.zeros(0, 2, 3)),
            ValueError,
            r"logits: expected at least one teacher, got .*\(0, 2, 3\)",
        ),
        (lambda: ensemble_targets(GOOD), ValueError, "logits: expected 3 axes"),
        (lambda: ensemble_targets([GOOD, GOOD]), TypeError, "logits: expected a torch.Tensor, got list"),
        (lambda: ensemble_targets(GOOD[None], -1.0), ValueError, "temperature"),
        (lambda: ensemble_targets(GOOD[None] * torch.nan), ValueError, "logits: expected finite"),
        (lambda: pareto_front([], []), ValueError, "scores: expected at least one"),
        (lambda: pareto_front([1.0], [[1.0]]), ValueError, "scores"),
        (lambda: pareto_front([1.0], [1.0, 2.0]), ValueError, r"costs: expected finite numbers, \(2,\) or \(2, k\)"),
        (lambda: pareto_front(3.0, [1.0]), ValueError, "costs"),
        (lambda: pareto_front([np.inf], [1.0]), ValueError, "costs"),
        (lambda: pareto_front([1.0], [np.nan]), ValueError, "scores"),
        (lambda: quantise(NO_WEIGHTS), ValueError, "model: expected at least one linear layer, got Sequential"),
        (lambda: quantise(None), TypeError, r"model: expected a torch\.nn\.Module, got NoneType"),
        (lambda: count_parameters(NO_WEIGHTS), ValueError, "model: expected a module with parameters, got Sequential"),
        (lambda: count_parameters(MODEL.parameters()), TypeError, "model: expected a torch"),
        (lambda: count_bytes(None), TypeError, "model"),
        (lambda: count_flops(lambda x: x, X), TypeError, "model"),
        (lambda: peak_memory(None, X), TypeError, "model"),
        (lambda: count_flops(MODEL, X[:0]), ValueError, "x: expected a batch of at least one example, got shape"),
        (lambda: count_flops(MODEL, [1.0]), TypeError, "x: expected a torch.Tensor, got list"),
        (lambda: peak_memory(MODEL, torch.tensor(1.0)), ValueError, "example: expected a batch"),
        (lambda: peak_memory(MODEL, None), TypeError, "example"),
        (lambda: scorecard(NO_WEIGHTS, X), ValueError, "model: expected a module with parameters"),
    ],
)
def test_bad_input_names_the_argument(call, error, names):
    with pytest.raises(error, match=names):
        call()
