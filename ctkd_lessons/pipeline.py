"""The cross-task pipeline: teachers of several tasks → extractor → fusion → bridge → one student → test.

Sources: Romero et al. 2015, "FitNets: Hints for Thin Deep Nets" (hints through a regressor);
Caruana 1997, "Multitask Learning" (one trunk, several heads); Everingham et al. 2010, "The PASCAL
Visual Object Classes Challenge", section 4.2 (intersection over union).

=========  ====================  ==============================================================
symbol     argument              shape, meaning
=========  ====================  ==============================================================
f_k        knowledge             (n, D_k) what a layer of teacher k puts out for n examples
w_k        weights               (K,) how much teacher k counts, ≥ 0
z          (result)              (n, Σ D_k) the fused knowledge of all teachers
b          bridged               (n, Σ D_k) what the student's bridge makes of its own features
(a, b)     a, b                  (…, 4) boxes, (x0, y0, x1, y1) in pixels, x1 and y1 exclusive
=========  ====================  ==============================================================

The teachers never receive gradient. Only ``student_step`` changes anything: the student.

Where this departs from FitNets: knowledge is centred and scaled first, so that no teacher counts
more because its numbers are larger, and bridge and tasks are trained together, not one after the other.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctkd_lessons import expect
from ctkd_lessons.hooks import expect_heard, expect_layers, listen
from ctkd_lessons.vectors import at_least_float32

TASKS = ("class", "box", "mask")
BRIDGE = "bridge"  # the student's output that is compared with the fused knowledge


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Divide the area that two boxes share by the area they cover together.

    IoU = |a ∩ b| / |a ∪ b|; 0 where both are empty.

    ``a``, ``b``: (…, 4), floating, same shape and dtype, (x0, y0, x1, y1) in pixels, x1 and y1
    exclusive. Returns (…,) in [0, 1]. Raises ``ValueError``/``TypeError`` if they are not, and for
    boxes of negative width or height. Source: Everingham et al. 2010, section 4.2.
    """
    for name, boxes in {"a": a, "b": b}.items():
        _expect_boxes(name, boxes)
    expect.same_shape("b", b, "a", a)
    dtype, a, b = a.dtype, at_least_float32(a), at_least_float32(b)  # 256 × 256 pixels leave float16
    overlap = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    return _ratio(overlap.clamp(min=0).prod(dim=-1), _area(a) + _area(b)).to(dtype)


def mask_iou(a: Tensor, b: Tensor) -> Tensor:
    """Divide the pixels that two masks share by the pixels either has; 0 where both are empty.

    ``a``, ``b``: (…, H, W), bool, same shape. Returns (…,), float32 in [0, 1]. Raises
    ``ValueError``/``TypeError`` if they are not.
    """
    for name, masks in {"a": a, "b": b}.items():
        if not isinstance(masks, Tensor) or masks.dtype != torch.bool:
            raise TypeError(f"{name}: expected a boolean tensor, got {getattr(masks, 'dtype', type(masks).__name__)}")
        if masks.ndim < 2:
            raise ValueError(f"{name}: expected shape (…, H, W), got {tuple(masks.shape)}")
    expect.same_shape("b", b, "a", a)
    shared, sizes = (count.flatten(-2).float().sum(dim=-1) for count in (a & b, a.int() + b.int()))
    return _ratio(shared, sizes)


def to_boxes(outputs: Tensor, side: int) -> Tensor:
    """Turn four numbers of any size into a box of at most the canvas' size, its centre on the canvas.

    centre = side · σ(o_0, o_1), size = side · σ(o_2, o_3). Such a box is never inside out.

    ``outputs``: (…, 4), floating; ``side``: pixels. Returns (…, 4), (x0, y0, x1, y1).
    Raises ``ValueError``/``TypeError`` if these do not fit.
    """
    expect.logits("outputs", outputs)
    if outputs.shape[-1] != 4:
        raise ValueError(f"outputs: expected shape (…, 4), got {tuple(outputs.shape)}")
    expect.count("side", side)
    centre, half = side * outputs[..., :2].sigmoid(), side / 2 * outputs[..., 2:].sigmoid()
    return torch.cat([centre - half, centre + half], dim=-1)


class KnowledgeExtractor:
    """Keep what the named layers of a teacher put out, as a context manager whose hooks clean up.

    ``with KnowledgeExtractor(teacher, ["2"]) as extractor:`` run the teacher, then read
    ``extractor.knowledge["2"]``; or call ``extract(x)``, which does all of it.

    ``layers``: names as in ``model.named_modules()``. Raises ``ValueError``, listing the layers
    there are, for an unknown name or none, and ``RuntimeError`` when read before the teacher ran or
    entered a second time before it was left.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str]) -> None:
        expect_layers(model, layers)
        if not layers:
            raise ValueError("layers: expected at least one name, got none")
        self.model, self.layers = model, tuple(layers)
        self._open: AbstractContextManager[dict[str, Tensor]] | None = None
        self._seen: dict[str, Tensor] = {}

    def __enter__(self) -> "KnowledgeExtractor":
        if self._open is not None:
            raise RuntimeError("KnowledgeExtractor: expected to be entered once at a time; leave its `with` first")
        listening = listen(self.model, self.layers, detach=True)
        self._seen = listening.__enter__()
        self._open = listening
        return self

    def __exit__(self, *error: object) -> None:
        self._open.__exit__(*error)
        self._open = None

    @property
    def knowledge(self) -> dict[str, Tensor]:
        """What each layer put out in the teacher's last run: name → tensor, without gradient."""
        if not self._seen:
            raise RuntimeError("KnowledgeExtractor: expected a forward pass inside its `with` first, got none")
        expect_heard(self.layers, self._seen)
        return {name: self._seen[name] for name in self.layers}

    @torch.no_grad()
    def extract(self, x: Tensor) -> dict[str, Tensor]:
        """Run the teacher on ``x`` in evaluation mode and return its knowledge; it stays as it was."""
        modes = {module: module.training for module in self.model.modules()}
        self.model.eval()
        try:
            with self:
                self.model(x)
        finally:
            for module, mode in modes.items():
                module.training = mode
        return self.knowledge


def fuse_knowledge(knowledge: Sequence[Tensor], weights: Sequence[float] | None = None) -> Tensor:
    """Put the knowledge of several teachers side by side, each with its share of the whole.

    z = [√w_k (f_k − mean f_k) / rms_k]_k, rms_k² = mean_i ‖f_ki − mean f_k‖², Σ w_k = 1. So
    mean_i ‖z_i‖² = 1, and teacher k contributes w_k of it, however wide or loud its layer is.

    ``knowledge``: K tensors (n, …), flattened to rows, same n and dtype; ``weights``: (K,), ≥ 0, any
    scale; left out, all alike. Returns (n, Σ D_k), without gradient. Raises
    ``ValueError``/``TypeError`` if these do not fit, for weights that sum to zero, and for a teacher
    that says the same about every example; inside ``vmap``, where that is not seen, it adds zeros.
    """
    if not isinstance(knowledge, (list, tuple)):
        raise TypeError(f"knowledge: expected a list of tensors, got {type(knowledge).__name__}")
    if not knowledge:
        raise ValueError("knowledge: expected at least one tensor, got none")
    shares = _shares(weights, len(knowledge))
    parts = []
    for place, (one, share) in enumerate(zip(knowledge, shares, strict=True)):
        name = f"knowledge[{place}]"
        expect.features(name, one)
        expect.same_batch("knowledge[0]", knowledge[0], name, one)
        rows = at_least_float32(one.detach()).flatten(1)
        centred = rows - rows[:1]  # exactly zero where all examples are alike; minus the mean, rounding is left
        centred = centred - centred.mean(dim=0)
        rms = centred.square().sum(dim=1).mean().sqrt()
        expect.true(rms > 0, f"{name}: expected features that differ between examples, got the same")
        parts.append((share**0.5 * centred / torch.where(rms > 0, rms, 1)).to(one.dtype))
    return torch.cat(parts, dim=1)


def bridge_loss(bridged: Tensor, knowledge: Tensor) -> Tensor:
    """Measure how much of the teachers' knowledge the student's features do not give back.

    L = mean_i ‖b_i − z_i‖². For knowledge from ``fuse_knowledge`` this is the share of the knowledge
    that stays unexplained: 1 for a bridge that always answers zero, 0 for a perfect one.

    ``bridged``: (B, D), the student's features after its bridge; ``knowledge``: (B, D). Returns a
    scalar ≥ 0: twice ``features.hint_loss``. Raises ``ValueError``/``TypeError`` if these do not fit.
    Source: Romero et al. 2015, equation 3.
    """
    expect.features("bridged", bridged)
    expect.features("knowledge", knowledge)
    expect.same_shape("bridged", bridged, "knowledge", knowledge)
    return (bridged - knowledge.detach()).square().flatten(1).sum(dim=1).mean()


class MultiTaskNetwork(nn.Module):
    """One trunk, one head per task: x → name → output. A bridge is one more head.

    ``trunk``: (B, …) → (B, D); ``heads``: name → module on the trunk's features.
    """

    def __init__(self, trunk: nn.Module, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleDict(heads)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return what every head answers."""
        features = self.trunk(x)
        return {name: head(features) for name, head in self.heads.items()}


def task_losses(outputs: Mapping[str, Tensor], labels: Tensor, boxes: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """Return the loss of each of the three tasks, those that ``outputs`` has.

    class: cross-entropy; box: smooth L1 (β = 0.1) of the corners as shares of the side; mask:
    cross-entropy of each pixel, mean over pixels.

    ``outputs``: "class" (B, C) logits, "box" (B, 4) as for ``to_boxes``, "mask" (B, side²) logits;
    others are left alone. ``labels``: (B,), or (B, C) probabilities; ``boxes``: (B, 4) pixels;
    ``masks``: (B, side, side), bool or probabilities. Raises ``ValueError``/``TypeError`` if these do not
    fit and if none of the three is there.
    """
    side = masks.shape[-1]
    losses = {}
    if "class" in outputs:
        _expect_classes(outputs["class"], labels)
        losses["class"] = F.cross_entropy(outputs["class"], labels)
    if "box" in outputs:
        answer, truth = to_boxes(outputs["box"], side), boxes.to(outputs["box"].dtype)
        expect.same_shape("outputs['box']", answer, "boxes", truth)
        losses["box"] = F.smooth_l1_loss(answer / side, truth / side, beta=0.1)
    if "mask" in outputs:
        answer, truth = outputs["mask"], masks.flatten(1).to(outputs["mask"].dtype)
        expect.logits("outputs['mask']", answer)
        expect.same_shape("outputs['mask']", answer, "masks, flattened", truth)
        # −y log σ(z) − (1 − y) log(1 − σ(z)), for which PyTorch's own takes twice as long under vmap.
        losses["mask"] = (F.softplus(answer, threshold=50.0) - truth * answer).mean()
    if not losses:
        raise ValueError(f"outputs: expected at least one of {list(TASKS)}, got {list(outputs)}")
    return losses


def student_loss(
    student: nn.Module, labelled: tuple[Tensor, ...], transfer: tuple[Tensor, Tensor], weight: float = 1.0
) -> Tensor:
    """Add up the student's tasks on the labelled scenes and its bridge on the transfer scenes.

    L = L_class + L_box + L_mask + weight · L_bridge.

    ``student(x)``: name → output, ``BRIDGE`` among them; ``labelled``: images, labels, boxes, masks as
    in ``task_losses``; ``transfer``: images and fused knowledge, no labels. Raises ``ValueError`` for
    a negative weight and a student without a bridge. Returns a scalar.
    """
    expect.number("weight", weight, low=0)
    images, *truth = labelled
    tasks = sum(task_losses(student(images), *truth).values())
    images, knowledge = transfer
    outputs = student(images)
    if BRIDGE not in outputs:
        raise ValueError(f"student: expected an output {BRIDGE!r} among its answers, got {list(outputs)}")
    return tasks + weight * bridge_loss(outputs[BRIDGE], knowledge)


def student_step(
    student: nn.Module,
    optimiser: torch.optim.Optimizer,
    labelled: tuple[Tensor, ...],
    transfer: tuple[Tensor, Tensor],
    weight: float = 1.0,
) -> float:
    """Train the student, bridge included, by one step; return the loss before it.

    Arguments and errors as ``student_loss``.
    """
    student.train()
    optimiser.zero_grad()
    loss = student_loss(student, labelled, transfer, weight)
    loss.backward()
    optimiser.step()
    return loss.item()


def _shares(weights: Sequence[float] | None, count: int) -> list[float]:
    """Return weights that sum to one."""
    weights = [1.0] * count if weights is None else list(weights)
    if len(weights) != count:
        raise ValueError(f"weights: expected {count}, one per teacher, got {len(weights)}")
    for weight in weights:
        expect.number("weights", weight, low=0)
    if sum(weights) == 0:
        raise ValueError(f"weights: expected a sum above zero, got {weights}")
    return [weight / sum(weights) for weight in weights]


def _expect_classes(logits: Tensor, labels: Tensor) -> None:
    """Raise unless the labels are classes (B,) or probabilities (B, C) of the logits' shape."""
    expect.logits("outputs['class']", logits, ndim=2)
    if isinstance(labels, Tensor) and labels.is_floating_point():
        expect.same_shape("labels", labels, "outputs['class']", logits)
    else:
        expect.labels("labels", labels, examples=len(logits), classes=logits.shape[1])


def _expect_boxes(name: str, boxes: Tensor) -> None:
    expect.logits(name, boxes)
    if boxes.shape[-1] != 4:
        raise ValueError(f"{name}: expected boxes (…, 4), got shape {tuple(boxes.shape)}")
    inside_out = f"{name}: expected x1 ≥ x0 and y1 ≥ y0, got a box of negative width or height"
    expect.true(boxes[..., 2:] >= boxes[..., :2], inside_out)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1)


def _ratio(shared: Tensor, sizes: Tensor) -> Tensor:
    """Return shared / (sizes − shared), 0 where there is nothing at all."""
    together = sizes - shared
    return torch.where(together > 0, shared / torch.where(together > 0, together, 1), 0)
