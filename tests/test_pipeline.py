"""The pipeline of lesson 05, hooks and vectors against slow loops, autograd, and what must not change."""

import copy
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import EVERY_DTYPE, SEEDS, normal
from torch import nn
from torch.func import grad, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from ctkd_lessons.features import hint_loss
from ctkd_lessons.hooks import expect_heard, expect_layers, listen
from ctkd_lessons.models import mlp
from ctkd_lessons.pipeline import (
    BRIDGE,
    TASKS,
    KnowledgeExtractor,
    MultiTaskNetwork,
    box_iou,
    bridge_loss,
    fuse_knowledge,
    mask_iou,
    student_loss,
    student_step,
    task_losses,
    to_boxes,
)
from ctkd_lessons.training import Source, fit
from ctkd_lessons.vectors import at_least_float32, length, unit

exactly = partial(pytest.approx, rel=1e-10, abs=1e-13)
equal = partial(torch.testing.assert_close, rtol=1e-11, atol=1e-14)


def boxes(*shape, seed=0, dtype=torch.float64):
    """Draw boxes of positive size, no two edges in line."""
    corner = 6 * torch.rand(*shape, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    size = 1 + 6 * torch.rand(*shape, 2, generator=torch.Generator().manual_seed(seed + 10**7), dtype=torch.float64)
    return torch.cat([corner, corner + size], dim=-1).to(dtype)


# --- intersection over union ------------------------------------------------------------------


def slow_box_iou(a, b):
    shared = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    together = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / together if together else 0.0


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 3), max_size=3), SEEDS)
def test_box_iou_equals_the_slow_loop(shape, seed):
    a, b = boxes(*shape, seed=seed), boxes(*shape, seed=seed + 1)
    found = box_iou(a, b)
    assert found.shape == tuple(shape)
    expected = [slow_box_iou(*pair) for pair in zip(a.view(-1, 4).tolist(), b.view(-1, 4).tolist(), strict=True)]
    assert found.flatten().tolist() == exactly(expected)
    equal(box_iou(b, a), found)
    equal(box_iou(2 * a + 3, 2 * b + 3), found)


PIXEL_BOXES = st.tuples(*[st.integers(0, 4)] * 4)


@settings(deadline=None, max_examples=100)
@given(PIXEL_BOXES, PIXEL_BOXES)
def test_ious_of_boxes_in_whole_pixels_are_those_of_their_masks(one, other):
    grid = torch.arange(8)
    pairs, masks = [], []
    for x, y, wide, high in (one, other):
        pairs.append(torch.tensor([x, y, x + wide, y + high]).double())
        masks.append(((grid >= y) & (grid < y + high)).unsqueeze(1) & (grid >= x) & (grid < x + wide))
    found = box_iou(*pairs).item()
    assert 0 <= found <= 1
    assert found == pytest.approx(mask_iou(*masks).item(), rel=1e-6)
    cells = [{(i, j) for i in range(8) for j in range(8) if mask[i, j]} for mask in masks]
    union = len(cells[0] | cells[1])
    assert found == exactly(len(cells[0] & cells[1]) / union if union else 0)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([0, 0, 4, 4], [0, 0, 4, 4], 1),
        ([0, 0, 4, 4], [2, 2, 6, 6], 4 / 28),
        ([0, 0, 4, 4], [1, 1, 2, 3], 2 / 16),  # one inside the other
        ([0, 0, 2, 2], [2, 0, 4, 2], 0),  # touching edges
        ([0, 0, 2, 2], [2, 2, 4, 4], 0),  # touching corners
        ([0, 0, 1, 1], [5, 0, 6, 1], 0),
        ([0, 0, 1, 1], [5, 5, 6, 6], 0),  # apart both ways: two negative sides are no area
        ([3, 3, 3, 3], [3, 3, 3, 3], 0),  # both empty
        ([3, 0, 3, 9], [3, 0, 3, 9], 0),
        ([3, 3, 3, 3], [0, 0, 4, 4], 0),
        ([-4, -4, 0, 0], [-2, -4, 0, 0], 0.5),
    ],
)
def test_box_iou_by_hand(a, b, expected):
    a, b = torch.tensor([a, b]).float()
    assert box_iou(a, b).item() == pytest.approx(expected)
    assert box_iou(b, a).item() == pytest.approx(expected)
    a.requires_grad_()
    (slope,) = torch.autograd.grad(box_iou(a, b), a)
    assert slope.isfinite().all()


def test_mask_iou_by_hand():
    a = torch.tensor([[[1, 1, 0], [0, 1, 0]], [[0, 0, 0], [0, 0, 0]], [[1, 1, 1], [1, 1, 1]]]) > 0
    b = torch.tensor([[[0, 1, 1], [0, 1, 0]], [[0, 0, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]]) > 0
    assert mask_iou(a, b).tolist() == [0.5, 0, 0]
    assert mask_iou(a, a).tolist() == [1, 0, 1]
    assert mask_iou(a, b).dtype == torch.float32
    assert mask_iou(a[0], b[0]).shape == ()
    assert mask_iou(a.view(3, 1, 2, 3), b.view(3, 1, 2, 3)).shape == (3, 1)
    assert torch.equal(vmap(mask_iou)(a, b), mask_iou(a, b))


@EVERY_DTYPE
def test_box_functions_keep_the_dtype(dtype):
    a, b = 60 * boxes(9, dtype=dtype), 60 * boxes(9, seed=1, dtype=dtype)  # areas leave the range of float16
    found = box_iou(a, b)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), box_iou(a.double(), b.double()), rtol=2 * torch.finfo(dtype).eps, atol=0)
    outputs = normal(9, 4, dtype=dtype)
    assert to_boxes(outputs, 16).dtype == dtype
    expected = to_boxes(outputs.double(), 16)
    torch.testing.assert_close(to_boxes(outputs, 16).double(), expected, rtol=0, atol=40 * torch.finfo(dtype).eps)


# --- boxes from outputs -----------------------------------------------------------------------


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 4), st.integers(1, 30), st.sampled_from([1.0, 10.0]), SEEDS)
def test_boxes_of_outputs_equal_the_slow_loop(batch, side, loud, seed):
    outputs = loud * normal(batch, 4, seed=seed)
    found = to_boxes(outputs, side)
    for box, (x, y, wide, high) in zip(found.tolist(), outputs.tolist(), strict=True):
        x, y, wide, high = (side * sigmoid(value) for value in (x, y, wide, high))
        assert box == exactly([x - wide / 2, y - high / 2, x + wide / 2, y + high / 2])
    assert (found[:, 2:] >= found[:, :2]).all()
    assert to_boxes(outputs.view(batch, 1, 4), side).shape == (batch, 1, 4)
    box_iou(found, found)  # never inside out


def test_boxes_of_extreme_outputs():
    far = torch.tensor([[1e4, -1e4, -1e4, 1e4], [0, 0, 1e4, 1e4]])
    assert to_boxes(far, 16).tolist() == [[16, -8, 16, 8], [0, 0, 16, 16]]


# --- gradients, vmap --------------------------------------------------------------------------

LABELS, MASKS, KNOWLEDGE = torch.tensor([0, 2, 1, 2]), normal(4, 3, 3, seed=5) > 0, normal(4, 3, seed=1)
TRUE_BOXES = boxes(4, seed=6)


def all_tasks(classes, box, mask):
    """Add up the three losses, with weights that tell them apart."""
    losses = task_losses({"class": classes, "box": box, "mask": mask}, LABELS, TRUE_BOXES, MASKS)
    return losses["class"] + 2 * losses["box"] + 3 * losses["mask"]


SMOOTH = {
    "box IoU": (box_iou, boxes(5), boxes(5, seed=1)),
    "to boxes": (lambda outputs: to_boxes(outputs, 16), normal(5, 4)),
    "bridge": (lambda bridged: bridge_loss(bridged, KNOWLEDGE), normal(4, 3)),
    "tasks": (all_tasks, normal(4, 3), normal(4, 4, seed=1), normal(4, 9, seed=2)),
}


@pytest.mark.parametrize("case", SMOOTH.values(), ids=SMOOTH)
def test_gradients(case):
    function, *inputs = case
    inputs = tuple(one.clone().requires_grad_() for one in inputs)
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def stacked_inputs(inputs):
    """Return three variants of each input, boxes still boxes."""
    return [torch.stack([one, one.flip(0), one.roll(1, 0) + 0.1]) for one in inputs]


@pytest.mark.filterwarnings("error")  # vmap warns where it falls back to a slow loop
@pytest.mark.parametrize("case", SMOOTH.values(), ids=SMOOTH)
def test_vmap_equals_loop(case):
    function, *inputs = case
    stacked, places = stacked_inputs(inputs), tuple(range(len(inputs)))
    slopes = grad(lambda *one: function(*one).square().sum(), argnums=places)
    for one in (lambda *x: (function(*x),), slopes):
        mapped = vmap(one)(*stacked)
        looped = [one(*each) for each in zip(*stacked, strict=True)]
        equal(mapped, tuple(torch.stack(column) for column in zip(*looped, strict=True)))
    value, back = vjp(function, *inputs)
    upstream = normal(3, *value.shape, seed=9)
    looped = [back(each) for each in upstream]
    equal(vmap(back)(upstream), tuple(torch.stack(column) for column in zip(*looped, strict=True)))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("function", [bridge_loss, lambda a, b: box_iou(a, b).sum()], ids=["bridge", "box IoU"])
def test_vmap_over_one_side(function):
    a, b = stacked_inputs([boxes(5), boxes(5, seed=1)])
    for one in (function, grad(function)):
        equal(vmap(one, (0, None))(a, b[0]), torch.stack([one(each, b[0]) for each in a]))
        equal(vmap(one, (None, 0))(a[0], b), torch.stack([one(a[0], each) for each in b]))
    mapped = vmap(grad(function))
    equal(make_fx(mapped, tracing_mode="fake")(a, b)(a, b), mapped(a, b))


@pytest.mark.filterwarnings("error")
def test_vmap_of_empty_and_touching_boxes():
    a = torch.tensor([[0.0, 0, 2, 2], [3, 3, 3, 3], [0, 0, 1, 4]]).double()
    b = torch.tensor([[2.0, 0, 4, 2], [3, 3, 3, 3], [5, 5, 6, 6]]).double()
    slopes = vmap(grad(box_iou))(a, b)
    equal(slopes, torch.stack([grad(box_iou)(*pair) for pair in zip(a, b, strict=True)]))
    assert slopes.isfinite().all()


# --- bridge -----------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5), st.integers(1, 5), SEEDS)
def test_bridge_equals_the_slow_loop(batch, width, seed):
    bridged, knowledge = normal(batch, width, seed=seed), normal(batch, width, seed=seed + 1)
    pairs = zip(bridged.tolist(), knowledge.tolist(), strict=True)
    slow = math.fsum(math.dist(b, z) ** 2 for b, z in pairs) / batch
    assert bridge_loss(bridged, knowledge).item() == exactly(slow)
    assert 2 * hint_loss(bridged, knowledge).item() == exactly(slow)
    assert bridge_loss(bridged, bridged.clone()).item() == 0


def test_no_gradient_to_the_knowledge():
    bridged, knowledge = normal(4, 3).requires_grad_(), normal(4, 3, seed=1).requires_grad_()
    bridge_loss(bridged, knowledge).backward()
    assert knowledge.grad is None
    assert bridged.grad.any()
    assert not grad(bridge_loss, argnums=1)(bridged.detach(), knowledge.detach()).any()
    assert not fuse_knowledge([knowledge]).requires_grad


# --- fusion of knowledge ----------------------------------------------------------------------


def slow_fusion(knowledge, weights):
    rows = [[] for _ in range(len(knowledge[0]))]
    for one, weight in zip(knowledge, weights, strict=True):
        table = one.flatten(1).tolist()
        means = [math.fsum(column) / len(table) for column in zip(*table, strict=True)]
        centred = [[value - mean for value, mean in zip(row, means, strict=True)] for row in table]
        rms = math.sqrt(math.fsum(value**2 for row in centred for value in row) / len(table))
        for row, values in zip(rows, centred, strict=True):
            row += [math.sqrt(weight / math.fsum(weights)) * value / rms for value in values]
    return rows


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 6), st.lists(st.tuples(st.integers(1, 4), st.floats(0.01, 5)), min_size=1, max_size=4), SEEDS)
def test_fused_knowledge_equals_the_slow_loop(examples, teachers, seed):
    knowledge = [normal(examples, wide, 2, seed=seed + place) + place for place, (wide, _) in enumerate(teachers)]
    weights = [weight for _, weight in teachers]
    for found, used in (
        (fuse_knowledge(knowledge, weights), weights),
        (fuse_knowledge(tuple(knowledge)), [1.0] * len(weights)),
    ):
        assert found.shape == (examples, sum(2 * wide for wide, _ in teachers))
        for row, expected in zip(found.tolist(), slow_fusion(knowledge, used), strict=True):
            assert row == exactly(expected)
        assert found.square().sum(1).mean().item() == exactly(1)
        # What a bridge that always answers zero leaves unexplained: all of it.
        assert bridge_loss(torch.zeros_like(found), found).item() == exactly(1)


def test_each_teacher_has_its_share_however_wide_or_loud():
    knowledge = [normal(20, 3), 1000 * normal(20, 50, seed=1) - 7, 0.01 * normal(20, 2, 2, seed=2)]
    shares = [part.square().sum(1).mean().item() for part in fuse_knowledge(knowledge, [1, 2, 5]).split([3, 50, 4], 1)]
    assert shares == exactly([1 / 8, 2 / 8, 5 / 8])
    expected = fuse_knowledge(knowledge, [1, 2, 5])
    louder = [knowledge[0], 0.3 * knowledge[1] + 40, knowledge[2]]
    torch.testing.assert_close(fuse_knowledge(louder, [10, 20, 50]), expected, rtol=1e-9, atol=1e-12)
    silent = fuse_knowledge(knowledge, [1, 0, 1])
    assert not silent[:, 3:53].any()
    assert silent.isfinite().all()
    assert fuse_knowledge(knowledge).mean(dim=0).abs().max() < 1e-14


@EVERY_DTYPE
def test_fusion_keeps_the_dtype_and_its_inputs(dtype):
    # Sums of squares leave the range of float16 on both ends.
    knowledge = [30 * normal(5, 3000, dtype=dtype), 1e-3 * normal(5, 4, seed=1, dtype=dtype)]
    before = [one.clone() for one in knowledge]
    found = fuse_knowledge(knowledge)
    assert found.dtype == dtype
    expected = fuse_knowledge([one.double() for one in knowledge])
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
    assert all(torch.equal(*pair) for pair in zip(knowledge, before, strict=True))
    found.zero_()
    assert all(torch.equal(*pair) for pair in zip(knowledge, before, strict=True))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [1.0, 0.1])  # seven times 0.1 and their mean differ by rounding
def test_a_teacher_that_always_says_the_same(value):
    constant, other = torch.full((7, 3), value), normal(7, 2, dtype=torch.float32)
    with pytest.raises(
        ValueError, match=r"knowledge\[1\]: expected features that differ between examples, got the sam"
    ):
        fuse_knowledge([other, constant])
    # Inside vmap values cannot be read: it adds zeros, never a NaN.
    inside = vmap(lambda a, b: fuse_knowledge([a, b]))(torch.stack([other, -other]), torch.stack([constant, constant]))
    assert not inside[..., 2:].any()
    torch.testing.assert_close(inside[0, :, :2], fuse_knowledge([other]) * math.sqrt(0.5))


@pytest.mark.filterwarnings("error")
def test_fusion_under_vmap_equals_the_loop():
    a, b = normal(3, 5, 2), normal(3, 5, 4, seed=1)
    fused = lambda *one: fuse_knowledge(one, [1, 3])
    equal(vmap(fused)(a, b), torch.stack([fused(*pair) for pair in zip(a, b, strict=True)]))
    equal(vmap(fused, (0, None))(a, b[0]), torch.stack([fused(one, b[0]) for one in a]))


# --- tasks ------------------------------------------------------------------------------------


def slow_tasks(outputs, labels, true_boxes, masks):
    rows, side = len(labels), masks.shape[-1]
    cross = [
        math.log(math.fsum(map(math.exp, row))) - row[y]
        for row, y in zip(outputs["class"].tolist(), labels, strict=True)
    ]
    smooth = []
    for found, true in zip(to_boxes(outputs["box"], side).tolist(), true_boxes.tolist(), strict=True):
        for d in (abs(p - q) / side for p, q in zip(found, true, strict=True)):
            smooth.append(d**2 / 0.2 if d < 0.1 else d - 0.05)
    pixels = [
        -math.log(sigmoid(z) if y else 1 - sigmoid(z))
        for z, y in zip(outputs["mask"].flatten().tolist(), masks.flatten().tolist(), strict=True)
    ]
    return {
        "class": math.fsum(cross) / rows,
        "box": math.fsum(smooth) / len(smooth),
        "mask": math.fsum(pixels) / len(pixels),
    }


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.integers(2, 5), st.integers(1, 5), SEEDS)
def test_task_losses_equal_the_slow_loop(batch, classes, side, seed):
    outputs = {"class": normal(batch, classes, seed=seed), "box": normal(batch, 4, seed=seed + 1)}
    outputs["mask"] = normal(batch, side**2, seed=seed + 2)
    labels = torch.arange(batch) % classes
    true_boxes, masks = to_boxes(normal(batch, 4, seed=seed + 3), side), normal(batch, side, side, seed=seed + 4) > 0
    found = task_losses(outputs | {BRIDGE: None, "parity": None}, labels, true_boxes, masks)
    assert tuple(found) == TASKS
    for name, expected in slow_tasks(outputs, labels.tolist(), true_boxes, masks).items():
        assert found[name].item() == exactly(expected)
        assert task_losses({name: outputs[name]}, labels, true_boxes, masks)[name] == found[name]
    one_hot = F.one_hot(labels, classes).double()
    soft = task_losses(outputs, one_hot, true_boxes, masks.double())
    assert [soft[name].item() for name in TASKS] == exactly([found[name].item() for name in TASKS])


@EVERY_DTYPE
def test_task_losses_keep_the_dtype(dtype):
    outputs = {"class": normal(4, 3, dtype=dtype), "box": normal(4, 4, dtype=dtype), "mask": normal(4, 9, dtype=dtype)}
    found = task_losses(outputs, LABELS, TRUE_BOXES.float(), MASKS)
    expected = task_losses({name: one.double() for name, one in outputs.items()}, LABELS, TRUE_BOXES, MASKS)
    for name in TASKS:
        assert found[name].dtype == dtype
        assert found[name].item() == pytest.approx(expected[name].item(), rel=max(20 * torch.finfo(dtype).eps, 1e-6))


# --- hooks ------------------------------------------------------------------------------------


class Teacher(nn.Module):
    """Dropout, batch norm, an in-place ReLU after the layer one looks at, and a layer that never runs."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(inplace=True), nn.Dropout())
        self.head, self.spare = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x):
        hidden = self.body(x)
        if not x.any():
            raise ArithmeticError("the model itself fails")
        return self.head(hidden)


def hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


X = normal(5, 3, dtype=torch.float32)


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    return Teacher()


def test_extract_gives_what_the_layers_put_out_and_leaves_the_teacher_as_it_was(teacher):
    teacher.body[3].eval()
    before, modes = copy.deepcopy(teacher.state_dict()), [module.training for module in teacher.modules()]
    extractor, graphs = KnowledgeExtractor(teacher, ["head", "body.1", "body"]), []
    handle = teacher.head.register_forward_hook(lambda module, inputs, output: graphs.append(output.requires_grad))
    found = extractor.extract(X)
    handle.remove()
    assert graphs == [False]  # no memory spent on a way back that nobody takes
    assert list(found) == ["head", "body.1", "body"]
    assert modes == [module.training for module in teacher.modules()]
    assert teacher.training
    assert hooks(teacher) == 0
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())  # running averages
    expected = copy.deepcopy(teacher).eval()
    normed = expected.body[1](expected.body[0](X))
    assert torch.equal(found["body.1"], normed)  # the in-place ReLU came later
    assert (normed < 0).any()
    assert torch.equal(found["body"], normed.relu())  # no dropout
    assert torch.equal(found["head"], expected(X))
    assert not any(one.requires_grad for one in found.values())
    assert torch.is_grad_enabled()


def test_the_last_run_inside_the_block_counts(teacher):
    teacher.eval()
    with KnowledgeExtractor(teacher, ["head"]) as extractor:
        teacher(X + 1)
        first = extractor.knowledge["head"]
        output = teacher(X)
        assert torch.equal(extractor.knowledge["head"], output)
        assert not torch.equal(first, output)
        assert output.requires_grad
        assert not extractor.knowledge["head"].requires_grad
    teacher(X + 1)  # nobody listens any more
    assert torch.equal(extractor.knowledge["head"], output)
    assert hooks(teacher) == 0


def test_an_extractor_can_be_entered_again_and_forgets(teacher):
    extractor = KnowledgeExtractor(teacher, ["head"])
    for x in (X, X + 1):
        with extractor:
            with pytest.raises(RuntimeError, match="expected a forward pass inside its `with` first, got none"):
                _ = extractor.knowledge
            output = teacher(x)
        assert torch.equal(extractor.knowledge["head"], output)
    assert torch.equal(extractor.extract(X)["head"], teacher.eval()(X))


def test_reading_before_a_forward_pass(teacher):
    extractor = KnowledgeExtractor(teacher, ["head"])
    with pytest.raises(RuntimeError, match="KnowledgeExtractor: expected a forward pass inside its `with` first"):
        _ = extractor.knowledge
    teacher(X)
    with pytest.raises(RuntimeError, match="expected a forward pass"):
        _ = extractor.knowledge


def test_entering_twice_at_once(teacher):
    extractor = KnowledgeExtractor(teacher, ["head", "body"])
    with extractor:
        with pytest.raises(RuntimeError, match="KnowledgeExtractor: expected to be entered once at a time"):
            extractor.__enter__()
        with pytest.raises(RuntimeError, match="entered once at a time"):
            extractor.extract(X)
        assert teacher.training
        assert hooks(teacher) == 2
        output = teacher(X)  # the first one still listens
        assert torch.equal(extractor.knowledge["head"], output)
    assert hooks(teacher) == 0
    with KnowledgeExtractor(teacher, ["body"]) as one, KnowledgeExtractor(teacher, ["head"]) as other:  # two may
        teacher(X)
        assert set(one.knowledge) == {"body"}
        assert set(other.knowledge) == {"head"}


def test_nothing_is_left_when_something_fails(teacher):
    extractor = KnowledgeExtractor(teacher, ["body", "head"])
    with pytest.raises(ArithmeticError):
        extractor.extract(torch.zeros(5, 3))
    assert hooks(teacher) == 0
    assert all(module.training for module in teacher.modules())
    with pytest.raises(ArithmeticError), extractor:
        teacher(torch.zeros(5, 3))
    assert hooks(teacher) == 0
    with pytest.raises(ValueError, match=r"layers: expected layers that the model runs, got \['head'\]"):
        _ = extractor.knowledge  # only "body" was reached
    with pytest.raises(KeyError), extractor:
        raise KeyError
    assert hooks(teacher) == 0
    assert set(extractor.extract(X)) == {"body", "head"}  # and it still works


def test_a_layer_that_goes_away_does_not_jam_the_extractor(teacher):
    extractor, spare = KnowledgeExtractor(teacher, ["head", "spare"]), teacher.spare
    del teacher.spare
    for _ in range(2):
        with pytest.raises(ValueError, match="layers: expected a list of names among"):
            extractor.__enter__()
    teacher.spare = spare
    with extractor:
        assert hooks(teacher) == 2
    assert hooks(teacher) == 0


@pytest.mark.parametrize(
    ("layers", "error", "names"),
    [
        (["body.9"], ValueError, r"layers: expected .*\['body', 'body.0', .*'head', 'spare'\], got \['body.9'\]"),
        (["head", ""], ValueError, "layers: expected a list of names among"),
        ("head", ValueError, "layers: expected a list of names among .*got 'head'"),
        (None, ValueError, "layers: expected a list of names among .*got None"),
        ([], ValueError, "layers: expected at least one name, got none"),
        ([0], ValueError, r"layers: expected a list of names .*got \[0\]"),
    ],
)
def test_bad_layers_are_named(teacher, layers, error, names):
    with pytest.raises(error, match=names):
        KnowledgeExtractor(teacher, layers)
    assert hooks(teacher) == 0


def test_layers_that_do_not_run_or_put_out_no_tensor(teacher):
    with pytest.raises(ValueError, match=r"layers: expected layers that the model runs, got \['spare'\]"):
        KnowledgeExtractor(teacher, ["head", "spare"]).extract(X)
    recurrent = nn.Sequential(nn.LSTM(3, 4))
    with pytest.raises(TypeError, match="layers: expected layers that put out a tensor, '0' gave tuple"):
        KnowledgeExtractor(recurrent, ["0"]).extract(torch.zeros(5, 2, 3))
    assert hooks(teacher) == hooks(recurrent) == 0
    with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module, got function"):
        KnowledgeExtractor(lambda x: x, ["0"])


def test_listen_keeps_gradients_and_other_hooks(teacher):
    calls = []
    handle = teacher.head.register_forward_hook(lambda *_: calls.append(1))
    with listen(teacher, ["body.0"]) as seen:
        teacher(X)
        assert hooks(teacher) == 2
    assert hooks(teacher) == len(calls) == 1
    handle.remove()
    assert list(seen) == ["body.0"]
    seen["body.0"].sum().backward()
    assert teacher.body[0].weight.grad.any()
    assert expect_layers(teacher, [])["body.0"] is teacher.body[0]
    expect_heard(["body.0"], seen)


# --- vectors ----------------------------------------------------------------------------------


def test_lengths_and_directions():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [-2.0, 0.0]]).double()
    assert length(x).tolist() == [5, 0, 2]
    assert unit(x).tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0, 0], [-1, 0]]
    away = x[::2].clone().requires_grad_()
    assert torch.autograd.gradcheck(length, away)
    assert torch.autograd.gradgradcheck(length, away)
    assert torch.autograd.gradcheck(unit, away)
    assert torch.autograd.gradgradcheck(unit, away)
    zero = torch.zeros(1, 3, requires_grad=True)
    for function in (length, unit):
        (slope,) = torch.autograd.grad(function(zero).sum(), zero, create_graph=True)
        assert slope.isfinite().all()
        assert torch.autograd.grad(slope.sum(), zero, allow_unused=True, materialize_grads=True)[0].isfinite().all()
    assert not grad(lambda v: length(v).sum())(torch.zeros(2, 3)).any()


def test_narrow_floats_become_float32_and_others_stay():
    kept = {torch.float16: torch.float32, torch.bfloat16: torch.float32}
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert at_least_float32(torch.zeros(1, dtype=dtype)).dtype == kept.get(dtype, dtype)


# --- the student ------------------------------------------------------------------------------


def make_student():
    heads = {"class": nn.Linear(6, 3), "box": nn.Linear(6, 4), "mask": nn.Linear(6, 9), BRIDGE: nn.Linear(6, 5)}
    return MultiTaskNetwork(nn.Sequential(nn.Linear(9, 6), nn.ReLU()), heads)


PICTURES = normal(4, 9, dtype=torch.float32)
LABELLED = (PICTURES, LABELS, TRUE_BOXES.float(), MASKS)
TRANSFER = (normal(7, 9, seed=1, dtype=torch.float32), fuse_knowledge([normal(7, 5, seed=2, dtype=torch.float32)]))


def test_every_head_answers_on_the_same_features():
    torch.manual_seed(0)
    student = make_student()
    outputs = student(PICTURES)
    assert {name: tuple(one.shape) for name, one in outputs.items()} == {
        "class": (4, 3), "box": (4, 4), "mask": (4, 9), BRIDGE: (4, 5)
    }  # fmt: skip
    features = student.trunk(PICTURES)
    assert all(torch.equal(one, student.heads[name](features)) for name, one in outputs.items())


@pytest.mark.parametrize("weight", [0, 0.5, 3])
def test_student_loss_adds_up(weight):
    torch.manual_seed(0)
    student = make_student()
    tasks = task_losses(student(PICTURES), *LABELLED[1:])
    bridge = bridge_loss(student(TRANSFER[0])[BRIDGE], TRANSFER[1])
    expected = sum(one.item() for one in tasks.values()) + weight * bridge.item()
    assert student_loss(student, LABELLED, TRANSFER, weight).item() == pytest.approx(expected, rel=1e-6)
    if weight == 3:
        default = student_loss(student, LABELLED, TRANSFER).item()
        assert default == pytest.approx(expected - 2 * bridge.item(), rel=1e-5)


def test_a_step_is_that_of_a_plain_loop_and_steps_help():
    torch.manual_seed(0)
    student = make_student().eval()
    twin = copy.deepcopy(student)
    optimiser = torch.optim.SGD(student.parameters(), lr=0.1)
    sum(one.sum() for one in student(PICTURES).values()).backward()  # old gradients do not count
    before = student_step(student, optimiser, LABELLED, TRANSFER, 2.0)
    loss = student_loss(twin, LABELLED, TRANSFER, 2.0)
    assert before == pytest.approx(loss.item())
    slopes = torch.autograd.grad(loss, list(twin.parameters()))
    for mine, old, slope in zip(student.parameters(), twin.parameters(), slopes, strict=True):
        torch.testing.assert_close(mine, old - 0.1 * slope)
    assert student.training
    losses = [student_step(student, optimiser, LABELLED, TRANSFER) for _ in range(200)]
    assert losses[-1] < 0.5 * losses[0]
    assert not student.heads[BRIDGE](student.trunk(TRANSFER[0])).sub(TRANSFER[1]).square().sum(1).mean() > 0.5


def test_students_learn_stacked_as_in_a_loop():
    def loss(model, labelled, transfer):
        return student_loss(model, labelled, transfer)

    data = [Source(*LABELLED), Source(*TRANSFER)]
    train = partial(fit, make_student, loss, data, seeds=2, steps=6, batch_size=4)
    stacked, looped = train(together=True), train(together=False)
    assert torch.allclose(stacked.losses, looped.losses, rtol=1e-5)


# --- bad input --------------------------------------------------------------------------------

BOX, ROWS = torch.tensor([[0.0, 0, 2, 3]]), torch.arange(12.0).view(4, 3)
OUTPUTS = {"class": normal(4, 3), "box": normal(4, 4), "mask": normal(4, 9)}


def losses(labels=LABELS, true_boxes=TRUE_BOXES, masks=MASKS, **changes):
    return task_losses(OUTPUTS | changes, labels, true_boxes, masks)


@pytest.mark.parametrize(
    ("call", "error", "names"),
    [
        (lambda: box_iou(BOX, BOX.flip(1)), ValueError, "b: expected x1 ≥ x0 and y1 ≥ y0, got a box of negative width"),
        (lambda: box_iou(BOX[:, [2, 1, 0, 3]], BOX), ValueError, "a: expected x1 ≥ x0 and y1 ≥ y0"),
        (lambda: box_iou(BOX[:, [0, 3, 2, 1]], BOX), ValueError, "a: expected x1 ≥ x0 and y1 ≥ y0"),
        (lambda: box_iou(BOX, BOX[:, :3]), ValueError, r"b: expected boxes \(…, 4\), got shape \(1, 3\)"),
        (lambda: box_iou(BOX, BOX[0]), ValueError, r"b: expected the shape of a, \(1, 4\), got \(4,\)"),
        (lambda: box_iou(BOX, BOX.expand(3, 4)), ValueError, "b: expected the shape of a"),
        (lambda: box_iou(BOX, BOX.double()), TypeError, "b: expected the dtype of a"),
        (lambda: box_iou(BOX.long(), BOX), TypeError, "a: expected a floating dtype, got torch.int64"),
        (lambda: box_iou(BOX.tolist(), BOX), TypeError, "a: expected a torch.Tensor, got list"),
        (lambda: box_iou(BOX * torch.nan, BOX), ValueError, "a: expected finite values"),
        (lambda: box_iou(BOX[:0], BOX[:0]), ValueError, "a: expected at least one"),
        (lambda: mask_iou(MASKS, MASKS.int()), TypeError, "b: expected a boolean tensor, got torch.int32"),
        (lambda: mask_iou(None, MASKS), TypeError, "a: expected a boolean tensor, got NoneType"),
        (lambda: mask_iou(MASKS, MASKS[:1]), ValueError, r"b: expected the shape of a, \(4, 3, 3\), got \(1, 3, 3\)"),
        (lambda: mask_iou(MASKS[0, 0], MASKS[0, 0]), ValueError, r"a: expected shape \(…, H, W\), got \(3,\)"),
        (lambda: to_boxes(ROWS, 16), ValueError, r"outputs: expected shape \(…, 4\), got \(4, 3\)"),
        (lambda: to_boxes(BOX * torch.inf, 16), ValueError, "outputs: expected finite values"),
        (lambda: to_boxes(BOX, 0), ValueError, "side: expected at least 1, got 0"),
        (lambda: to_boxes(BOX, 16.0), TypeError, "side: expected an int, got float"),
        (lambda: fuse_knowledge([]), ValueError, "knowledge: expected at least one tensor, got none"),
        (lambda: fuse_knowledge(ROWS), TypeError, "knowledge: expected a list of tensors, got Tensor"),
        (lambda: fuse_knowledge([ROWS, None]), TypeError, r"knowledge\[1\]: expected a torch.Tensor, got NoneType"),
        (lambda: fuse_knowledge([ROWS, ROWS[:3]]), ValueError, r"knowledge\[1\]: expected the 4 examples of .*got 3"),
        (lambda: fuse_knowledge([ROWS, ROWS.double()]), TypeError, r"knowledge\[1\]: expected the dtype of knowledge"),
        (lambda: fuse_knowledge([ROWS, ROWS * torch.nan]), ValueError, r"knowledge\[1\]: expected finite values"),
        (lambda: fuse_knowledge([ROWS[:, 0]]), ValueError, r"knowledge\[0\]: expected at least 2 axes"),
        (lambda: fuse_knowledge([ROWS[:1]]), ValueError, r"knowledge\[0\]: expected features that differ"),
        (lambda: fuse_knowledge([ROWS], [1, 1]), ValueError, "weights: expected 1, one per teacher, got 2"),
        (lambda: fuse_knowledge([ROWS, ROWS], [0, 0]), ValueError, r"weights: expected a sum above zero, got \[0, 0\]"),
        (lambda: fuse_knowledge([ROWS, ROWS], [2, -1]), ValueError, "weights: expected .*at least 0, got -1"),
        (lambda: fuse_knowledge([ROWS], [torch.nan]), ValueError, "weights: expected a finite number"),
        (lambda: fuse_knowledge([ROWS], [None]), TypeError, "weights: expected a Python number, got NoneType"),
        (lambda: bridge_loss(ROWS, ROWS[:, :2]), ValueError, "bridged: expected the shape of knowledge"),
        (lambda: bridge_loss(ROWS, ROWS[:1]), ValueError, "bridged: expected the shape of knowledge"),
        (lambda: bridge_loss(ROWS, ROWS.half()), TypeError, "bridged: expected the dtype of knowledge"),
        (lambda: bridge_loss(ROWS, ROWS / 0), ValueError, "knowledge: expected finite values"),
        (lambda: bridge_loss(ROWS[0], ROWS[0]), ValueError, "bridged: expected at least 2 axes"),
        (lambda: bridge_loss([1.0], ROWS), TypeError, "bridged: expected a torch.Tensor, got list"),
        (lambda: task_losses({BRIDGE: ROWS}, LABELS, TRUE_BOXES, MASKS), ValueError, r"outputs: .*one of \['class'"),
        (lambda: losses(labels=LABELS + 1), ValueError, "labels: expected classes 0 to 2, got 1 to 3"),
        (lambda: losses(labels=LABELS[:3]), ValueError, r"labels: expected shape \(4,\), got \(3,\)"),
        (lambda: losses(labels=normal(4, 2)), ValueError, "labels: expected the shape of outputs"),
        (lambda: losses(labels=None), TypeError, "labels: expected a torch.Tensor, got NoneType"),
        (lambda: losses(true_boxes=TRUE_BOXES[:1]), ValueError, r"outputs\['box'\]: expected the shape of boxes"),
        (lambda: losses(masks=MASKS[:1]), ValueError, r"outputs\['mask'\]: expected the shape of masks, flattened"),
        (lambda: losses(mask=normal(4, 8)), ValueError, r"outputs\['mask'\]: expected the shape of masks"),
        (lambda: losses(box=normal(4, 5)), ValueError, r"outputs: expected shape \(…, 4\), got \(4, 5\)"),
        (lambda: losses(**{"class": ROWS * torch.nan}), ValueError, r"outputs\['class'\]: expected finite values"),
        (lambda: losses(mask=normal(4, 9) / 0), ValueError, r"outputs\['mask'\]: expected finite values"),
        (lambda: student_loss(make_student(), LABELLED, TRANSFER, -0.1), ValueError, "weight: expected .*at least 0"),
        (lambda: student_loss(make_student(), LABELLED, TRANSFER, "1"), TypeError, "weight: expected a Python number"),
        (
            lambda: student_loss(MultiTaskNetwork(nn.Identity(), {"class": mlp([9, 3])}), LABELLED, TRANSFER),
            ValueError,
            r"student: expected an output 'bridge' among its answers, got \['class'\]",
        ),
    ],
)  # fmt: skip
def test_bad_input_names_the_argument(call, error, names):
    with pytest.raises(error, match=names):
        call()
