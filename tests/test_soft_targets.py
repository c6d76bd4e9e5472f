"""The reference implementations of lesson 01 against hand values, a slow loop, autograd and the limit."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import grad, vmap

from ctkd_lessons.soft_targets import (
    balanced_offset,
    correct_bias,
    distillation_loss,
    kd_loss,
    logit_matching_loss,
    soften,
)

BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def logits(batch, classes, seed=0, dtype=torch.float64):
    return torch.randn(batch, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def slow_soften(row, temperature):
    top = max(row)
    powers = [math.exp((z - top) / temperature) for z in row]
    return [power / math.fsum(powers) for power in powers]


def slow_kd(student, teacher, temperature):
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        p_s, p_t = slow_soften(s, temperature), slow_soften(t, temperature)
        total += math.fsum(b * (math.log(b) - math.log(a)) for a, b in zip(p_s, p_t, strict=True))
    return temperature**2 * total / len(student)


def test_hand_values():
    assert soften(torch.tensor([0.0, math.log(3.0)]), 1.0).tolist() == pytest.approx([0.25, 0.75])
    assert soften(torch.tensor([0.0, math.log(9.0)]), 2.0).tolist() == pytest.approx([0.25, 0.75])
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, math.log(3.0)]])
    by_hand = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert kd_loss(student, teacher, 1.0).item() == pytest.approx(by_hand)
    assert kd_loss(2 * student, 2 * teacher, 2.0).item() == pytest.approx(4 * by_hand)
    mixed = distillation_loss(student, teacher, torch.tensor([1]), 1.0, alpha=0.25).item()
    assert mixed == pytest.approx(0.25 * by_hand + 0.75 * math.log(2))
    assert logit_matching_loss(torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 0.0]])).item() == 5.0
    assert correct_bias(torch.tensor([[1.0, 2.0]]), 0, 0.5).tolist() == [[1.5, 2.0]]
    assert balanced_offset(torch.tensor([[0.0, 1.0], [0.0, 3.0], [5.0, 1.0]]), 0, 0.6) == 1.0


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(2, 12), st.floats(0.3, 30), st.integers(0, 2**20))
def test_slow_loop(batch, classes, temperature, seed):
    student, teacher = 3 * logits(batch, classes, seed), 3 * logits(batch, classes, seed + 1)
    assert kd_loss(student, teacher, temperature).item() == pytest.approx(
        slow_kd(student, teacher, temperature), rel=1e-10
    )
    expected = [slow_soften(row, temperature) for row in student.tolist()]
    assert torch.allclose(soften(student, temperature), torch.tensor(expected, dtype=torch.float64), rtol=1e-12)
    square = sum((a - b) ** 2 for a, b in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True))
    assert logit_matching_loss(student, teacher).item() == pytest.approx(square / (batch * classes), rel=1e-10)


def test_pytorch_agrees():
    student, teacher = logits(5, 7), logits(5, 7, 1)
    theirs = F.kl_div(
        F.log_softmax(student / 3, -1), F.log_softmax(teacher / 3, -1), reduction="batchmean", log_target=True
    )
    assert torch.allclose(kd_loss(student, teacher, 3.0), 9 * theirs, rtol=1e-12)


def test_gradients():
    student, teacher, labels = logits(4, 5).requires_grad_(), logits(4, 5, 1), torch.tensor([0, 4, 2, 2])
    for function in (
        lambda s: kd_loss(s, teacher, 2.5),
        lambda s: distillation_loss(s, teacher, labels, 2.5, 0.3),
        lambda s: logit_matching_loss(s, teacher),
        lambda s: soften(s, 2.5),
        lambda s: correct_bias(s, 1, 0.5),
    ):
        assert torch.autograd.gradcheck(function, student)
        assert torch.autograd.gradgradcheck(function, student)


@pytest.mark.parametrize(
    "function", [kd_loss, logit_matching_loss, lambda s, t: distillation_loss(s, t, torch.tensor([0, 1]))]
)
def test_teacher_receives_no_gradient(function):
    student, teacher = logits(2, 3).requires_grad_(), logits(2, 3, 1).requires_grad_()
    function(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


def test_high_temperature_limit():
    student, teacher = logits(6, 4), logits(6, 4, 1) + 5
    centre = lambda z: z - z.mean(-1, keepdim=True)
    limit = 0.5 * logit_matching_loss(centre(student), centre(teacher)).item()
    errors = [abs(kd_loss(student, teacher, t).item() - limit) for t in (10.0, 100.0, 1000.0)]
    assert errors[0] > 5 * errors[1] > 25 * errors[2]
    assert errors[2] < 1e-3 * limit


@BOTH
def test_huge_logits_stay_finite(dtype):
    huge = torch.tensor([[1e5, -1e5, 0.0], [-1e5, 1e5, 1e5]], dtype=dtype)
    assert soften(huge, 1.0).isfinite().all()
    student = huge.flip(-1).clone().requires_grad_()
    loss = distillation_loss(student, huge, torch.tensor([0, 1]), 2.0, 0.5)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


@BOTH
def test_dtype_is_kept(dtype):
    student, teacher = logits(3, 4, dtype=dtype), logits(3, 4, 1, dtype=dtype)
    results = [soften(student, 2.0), kd_loss(student, teacher), logit_matching_loss(student, teacher)]
    results += [distillation_loss(student, teacher, torch.tensor([0, 1, 2])), correct_bias(student, 1, 0.5)]
    assert {result.dtype for result in results} == {dtype}


def test_vmap_equals_loop():
    students, teachers = torch.stack([logits(3, 4, i) for i in range(5)]), logits(3, 4, 9)
    labels = torch.tensor([0, 1, 3])
    function = lambda s: distillation_loss(s, teachers, labels, 3.0, 0.7)
    assert torch.allclose(vmap(function)(students), torch.stack([function(s) for s in students]), rtol=1e-12)
    assert torch.allclose(
        vmap(grad(function))(students), torch.stack([grad(function)(s) for s in students]), rtol=1e-12
    )


def test_offset_lifts_exactly_the_share():
    z = logits(40, 5)
    lifted = correct_bias(z, 2, balanced_offset(z, 2, 0.3) + 1e-9)
    assert (lifted.argmax(-1) == 2).sum() == 12


GOOD = torch.zeros(2, 3)
LABELS = torch.tensor([0, 2])


@pytest.mark.parametrize(
    ("call", "error", "names"),
    [
        (lambda: soften(GOOD, 0.0), ValueError, "temperature: expected .* above 0, got 0"),
        (lambda: soften(GOOD, float("nan")), ValueError, "temperature"),
        (lambda: soften(GOOD, "4"), TypeError, "temperature: expected a Python number, got str"),
        (lambda: soften(GOOD, True), TypeError, "temperature"),
        (lambda: soften([1.0, 2.0], 1.0), TypeError, "logits: expected a torch.Tensor, got list"),
        (lambda: soften(GOOD.long(), 1.0), TypeError, "logits: expected a floating dtype"),
        (lambda: soften(torch.tensor(1.0), 1.0), ValueError, "logits: expected at least one axis"),
        (lambda: kd_loss(GOOD, GOOD, -1.0), ValueError, "temperature"),
        (lambda: kd_loss(GOOD, torch.zeros(1, 3)), ValueError, r"teacher_logits: expected the shape .* got \(1, 3\)"),
        (lambda: kd_loss(GOOD, torch.zeros(3)), ValueError, "teacher_logits: expected 2 axes"),
        (lambda: kd_loss(GOOD, GOOD.double()), TypeError, "teacher_logits: expected the dtype"),
        (lambda: kd_loss(GOOD[:0], GOOD[:0]), ValueError, "student_logits: expected at least one example"),
        (lambda: kd_loss(GOOD + torch.inf, GOOD), ValueError, "student_logits: expected finite"),
        (lambda: kd_loss(GOOD, GOOD * torch.nan), ValueError, "teacher_logits: expected finite"),
        (
            lambda: distillation_loss(GOOD, GOOD, LABELS, 4.0, 1.5),
            ValueError,
            "alpha: .*at least 0 and at most 1, got 1.5",
        ),
        (lambda: distillation_loss(GOOD, GOOD, LABELS.float()), TypeError, "labels: expected an integer dtype"),
        (
            lambda: distillation_loss(GOOD, GOOD, torch.tensor([0, 3])),
            ValueError,
            "labels: expected classes 0 to 2, got 0 to 3",
        ),
        (lambda: distillation_loss(GOOD, GOOD, torch.tensor([-100, 1])), ValueError, "labels"),
        (lambda: distillation_loss(GOOD, GOOD, LABELS[:1]), ValueError, r"labels: expected shape \(2,\), got \(1,\)"),
        (lambda: correct_bias(GOOD, 3, 1.0), ValueError, "label: expected 0 to 2, got 3"),
        (lambda: correct_bias(GOOD, 1, float("inf")), ValueError, "offset"),
        (lambda: balanced_offset(GOOD, 1, 0.0), ValueError, "share"),
        (lambda: balanced_offset(torch.zeros(2, 1), 0, 0.5), ValueError, "at least two classes"),
    ],
)
def test_bad_input_names_the_argument(call, error, names):
    with pytest.raises(error, match=names):
        call()
