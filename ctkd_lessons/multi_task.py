"""Six strategies by which one student learns several tasks from teachers.

Sources: Li & Bilen 2020, "Knowledge Distillation for Multi-task Learning" (a teacher per task); Clark et
al. 2019, "BAM! Born-Again Multi-Task Networks for Natural Language Understanding" (teacher annealing);
Liu, Johns & Davison 2019, "End-to-End Multi-Task Learning with Attention" (DWA); Romero et al. 2015,
"FitNets: Hints for Thin Deep Nets" (hints first, labels later).

=========  ====================  ===============================================================
symbol     argument              shape, meaning
=========  ====================  ===============================================================
L_k        losses                (K,) the student's loss at each task, on labels
d_k        (result)              how far the student's answer at task k is from its teacher's
o_k        outputs               task → (B, …) what each head puts out, as in ``pipeline``
b          bridged               (B, D) what the student's bridge makes of its trunk's features
f          features              (B, D) what the teacher's trunk puts out, centred and scaled
g          common                (B, D) leading directions of all teachers' features together
w_k        weights               (K,) how much task k counts, ≥ 0
v_m        weights               (M,) how much teacher m counts, ≥ 0, any scale
a          scores                (…, P) attention before its softmax, over P places
λ          progress              in [0, 1], the share of the training that is done
=========  ====================  ===============================================================

The teachers never receive gradient, and no weight does. Tasks come in the order class, box, mask.

Where this departs: Li & Bilen compare unit-length features through an adaptor per task, here answers
are compared (lesson 05's bridge is close to their form). FitNets trains hints and labels as two runs;
here one run switches. BAM! anneals on labelled data only, and so does the lesson.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctkd_lessons import expect
from ctkd_lessons.pipeline import TASKS, bridge_loss, fuse_knowledge, to_boxes
from ctkd_lessons.vectors import at_least_float32

ATTENTION = "attention"  # the network's output that holds its attention's scores


class AttentiveNetwork(nn.Module):
    """Look at the image through an attention over patches, then one trunk, then a head per task.

    a = gate(x), α = softmax(a) over P patches, trunk(P · α · x): each pixel is multiplied by its
    patch's α, times P, so that even attention changes nothing.

    ``gate``: (B, side²) → (B, P), P a square number that tiles the image; ``trunk``: (B, side²) → (B, D);
    ``heads``: name → module on the trunk's features. Returns name → output, ``ATTENTION`` with the
    scores a among them. Raises ``ValueError`` if the patches do not tile the image.
    """

    def __init__(self, gate: nn.Module, trunk: nn.Module, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.gate, self.trunk, self.heads = gate, trunk, nn.ModuleDict(heads)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return what every head answers, and the attention's scores."""
        scores = self.gate(x)
        features = self.trunk(x * _spread(scores, x.shape[-1]))
        return {name: head(features) for name, head in self.heads.items()} | {ATTENTION: scores}


def labelled_mean(losses: Tensor, has_label: Tensor) -> Tensor:
    """Average a task's losses over the examples of a batch that have a label for it; 0 without one.

    Without a label in the batch the gradient is zero, too: the task sits this step out.

    ``losses``: (B,), finite, also where there is no label (give those any valid one); ``has_label``:
    (B,), bool. Returns a scalar. Raises ``ValueError``/``TypeError`` if these do not fit.
    """
    _expect_vector("losses", losses)
    if not isinstance(has_label, Tensor) or has_label.dtype != torch.bool:
        got = getattr(has_label, "dtype", type(has_label).__name__)
        raise TypeError(f"has_label: expected a boolean tensor, got {got}")
    if has_label.shape != losses.shape:
        raise ValueError(f"has_label: expected shape {tuple(losses.shape)}, got {tuple(has_label.shape)}")
    total = torch.where(has_label, at_least_float32(losses), 0).sum()
    return (total / has_label.sum().clamp(min=1)).to(losses.dtype)


def answers(outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn outputs into answers that can be compared and averaged; the tasks that are there.

    class: probabilities (B, C); box: corners (B, 4) as shares of the side; mask: probabilities of ink
    (B, side²). Raises ``ValueError``/``TypeError`` for outputs without any of the three tasks.
    """
    tasks = _tasks_of("outputs", outputs)
    for task in tasks:
        expect.logits(f"outputs['{task}']", outputs[task], ndim=2)
    turn = {"class": lambda z: z.softmax(dim=-1), "box": lambda z: to_boxes(z, 1), "mask": torch.sigmoid}
    return {task: turn[task](outputs[task]) for task in tasks}


def answer_losses(outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
    """Return how far the student's answer at each task is from a target: d_k, 0 where they agree.

    class: KL(target ‖ student); box: smooth L1 (β = 0.1) of the corners as shares of the side;
    mask: KL of each pixel, ink or not, mean over pixels. All: mean over the batch.

    ``outputs``: task → logits or box outputs, others are left alone; ``targets``: as ``answers``
    returns them, at least of the same tasks, without gradient. Returns (K,), in the order of
    ``TASKS``. Raises ``ValueError``/``TypeError`` if these do not fit.
    """
    tasks = _tasks_of("outputs", outputs)
    distances = {"class": _class_distance, "box": _box_distance, "mask": _mask_distance}
    found = []
    for task in tasks:
        if task not in targets:
            raise ValueError(f"targets: expected an answer for each of {tasks}, got {list(targets)}")
        expect.logits(f"outputs['{task}']", outputs[task], ndim=2)
        expect.logits(f"targets['{task}']", targets[task], ndim=2)
        expect.same_shape(f"targets['{task}']", targets[task], f"outputs['{task}']", outputs[task])
        found.append(distances[task](outputs[task], targets[task].detach()))
    return torch.stack(found)


def shared_loss(losses: Tensor, bridged: Tensor, features: Tensor, weight: float = 1.0) -> Tensor:
    """Strategy 1: learn the tasks, and the features that ONE multi-task teacher uses for all of them.

    L = Σ_k L_k + weight · mean_i ‖b_i − f_i‖².

    ``losses``: (K,), ≥ 0; ``bridged``, ``features``: (B, D), features best from ``fuse_knowledge``, so
    that 1 means nothing was explained. Returns a scalar. Raises ``ValueError``/``TypeError`` if these
    do not fit.
    """
    _expect_losses("losses", losses)
    expect.number("weight", weight, low=0)
    return losses.sum() + weight * bridge_loss(bridged, features)


def separate_loss(
    outputs: Mapping[str, Tensor], teacher_outputs: Mapping[str, Tensor], weights: Tensor | None = None
) -> Tensor:
    """Strategy 2: each head learns what its own task's teacher answers.

    L = Σ_k w_k d_k, d_k as in ``answer_losses``.

    ``outputs``, ``teacher_outputs``: task → (B, …), the student's and each task's own teacher's;
    ``weights``: (K,), ≥ 0, left out: all 1. Returns a scalar, 0 where all agree. Raises
    ``ValueError``/``TypeError`` if these do not fit, and for weights that sum to zero.
    Source: Li & Bilen 2020, section 3.2, for features; answers here.
    """
    distances = answer_losses(outputs, answers(teacher_outputs))
    return distances.sum() if weights is None else weighted_sum(distances, weights)


def common_features(knowledge: Sequence[Tensor], components: int) -> Tensor:
    """Return the leading principal directions of all teachers' features together.

    g = the first columns of U S, where U S Vᵀ = fuse_knowledge(knowledge), scaled so that
    mean_i ‖g_i‖² = 1. What several teachers keep adds up in these directions and comes first; what
    one alone keeps comes later.

    ``knowledge``: K tensors (n, …), same n and dtype; ``components``: at most n and Σ D_k. Returns
    (n, components), centred, without gradient; a column's sign means nothing. Raises
    ``ValueError``/``TypeError`` if these do not fit.
    """
    fused = fuse_knowledge(knowledge)
    expect.count("components", components, high=min(fused.shape))
    left, sizes, _ = torch.linalg.svd(at_least_float32(fused), full_matrices=False)
    return (left[:, :components] * sizes[:components] * (len(left) / sizes[:components].square().sum()) ** 0.5).to(
        fused
    )


def transfer_loss(
    losses: Tensor, bridged: Tensor, common: Tensor, progress: Tensor | float, switch: float = 0.5
) -> Tensor:
    """Strategy 3: a new student first learns the teachers' common features, then the tasks.

    L = mean_i ‖b_i − g_i‖² while progress < switch, Σ_k L_k from then on.

    ``losses``: (K,), ≥ 0; ``bridged``, ``common``: (B, D); ``progress``, ``switch``: in [0, 1]; switch 0:
    labels alone, 1: the bridge alone. Returns a scalar. Raises ``ValueError``/``TypeError`` if these
    do not fit. Source: Romero et al. 2015, algorithm 1, with common features as hints.
    """
    _expect_losses("losses", losses)
    expect.number("switch", switch, low=0, high=1)
    progress = _progress(progress, losses)
    return torch.where(progress < switch, bridge_loss(bridged, common), losses.sum())


def adaptive_weights(student_losses: Tensor, teacher_losses: Tensor, temperature: float = 1.0) -> Tensor:
    """Strategy 4: let a task count the more, the further the student is behind its teacher there.

    w = K · softmax(log(L_student / L_teacher) / T). No gradient passes through the weights.

    ``student_losses``, ``teacher_losses``: (K,), ≥ 0, on the same examples; T > 0. A loss of zero counts
    as the smallest positive number of its type: a task whose teacher makes no error takes all the
    weight, one without error of the student none; two zeros are a tie. Returns (K,), sum K.
    Raises ``ValueError``/``TypeError`` for losses that are negative or not finite.
    """
    _expect_losses("student_losses", student_losses)
    _expect_losses("teacher_losses", teacher_losses)
    expect.same_shape("teacher_losses", teacher_losses, "student_losses", student_losses)
    expect.number("temperature", temperature, above=0)
    tiny = torch.finfo(student_losses.dtype).tiny
    student, teacher = (
        at_least_float32(one.detach().clamp(min=tiny)).log() for one in (student_losses, teacher_losses)
    )
    return _softmax_weights(student - teacher, temperature).to(student_losses.dtype)


def dwa_weights(last_losses: Tensor, earlier_losses: Tensor, temperature: float = 2.0) -> Tensor:
    """Dynamic weight average: let a task count the more, the slower its loss falls.

    w = K · softmax((L(t−1) / L(t−2)) / T). In the first two epochs there is nothing to compare: use 1.

    ``last_losses``, ``earlier_losses``: (K,), ≥ 0, each task's mean over an epoch; T > 0. A loss that
    was zero and no longer is takes all the weight; one that stays zero counts as unchanged. Returns
    (K,), sum K, without gradient. Raises ``ValueError``/``TypeError`` for losses that are negative or
    not finite. Source: Liu, Johns & Davison 2019, equation 7.
    """
    _expect_losses("last_losses", last_losses)
    _expect_losses("earlier_losses", earlier_losses)
    expect.same_shape("earlier_losses", earlier_losses, "last_losses", last_losses)
    expect.number("temperature", temperature, above=0)
    last, earlier = (at_least_float32(one.detach()) for one in (last_losses, earlier_losses))
    ratio = last / torch.where(earlier > 0, earlier, 1)
    ratio = torch.where(earlier > 0, ratio, torch.where(last > 0, torch.inf, 1.0))
    return _softmax_weights(ratio, temperature).to(last_losses.dtype)


def weighted_sum(losses: Tensor, weights: Tensor) -> Tensor:
    """Add up losses by weights: Σ_k w_k L_k. The weights get no gradient, or they would all fall to zero.

    ``losses``, ``weights``: (K,), weights ≥ 0 with a sum above zero. Returns a scalar. Raises
    ``ValueError``/``TypeError`` if these do not fit.
    """
    _expect_vector("losses", losses)
    _expect_losses("weights", weights)
    expect.same_shape("weights", weights, "losses", losses)
    expect.true(weights.sum() > 0, "weights: expected a sum above zero, got 0")
    return (weights.detach() * losses).sum()


def attention_transfer(student_scores: Tensor, teacher_scores: Tensor) -> Tensor:
    """Strategy 5: the student learns where its teacher looks.

    L = mean over examples (and tasks) of KL(softmax(a_teacher) ‖ softmax(a_student)).

    Both: (B, P), or (B, K, P) for an attention per task: scores before the softmax, which no zero
    weight can turn into an infinite loss. Returns a scalar ≥ 0. Raises ``ValueError``/``TypeError`` if
    they do not fit.
    """
    for name, scores in {"student_scores": student_scores, "teacher_scores": teacher_scores}.items():
        expect.features(name, scores)
    expect.same_shape("teacher_scores", teacher_scores, "student_scores", student_scores)
    student, teacher = student_scores.log_softmax(dim=-1), teacher_scores.detach().log_softmax(dim=-1)
    return (teacher.exp() * (teacher - student)).sum(dim=-1).mean()


def fuse_answers(
    teacher_outputs: Sequence[Mapping[str, Tensor]], weights: Sequence[float] | None = None
) -> dict[str, Tensor]:
    """Average what several teachers answer, task by task, over the teachers that have the task.

    t_k = Σ_m v_m answer_mk / Σ_m v_m. Answers are averaged, not outputs: probabilities and corners.

    ``teacher_outputs``: M times task → (B, …); ``weights``: (M,), ≥ 0, any scale, left out: all alike.
    Returns task → answer, without gradient. Raises ``ValueError``/``TypeError`` if these do not fit,
    and where the weights of a task's teachers sum to zero.
    """
    if not isinstance(teacher_outputs, (list, tuple)) or not teacher_outputs:
        raise ValueError("teacher_outputs: expected a list of at least one teacher's outputs")
    weights = [1.0] * len(teacher_outputs) if weights is None else list(weights)
    if len(weights) != len(teacher_outputs):
        raise ValueError(f"weights: expected {len(teacher_outputs)}, one per teacher, got {len(weights)}")
    for weight in weights:
        expect.number("weights", weight, low=0)
    said = [answers(one) for one in teacher_outputs]
    fused = {}
    for task in (task for task in TASKS if any(task in one for one in said)):
        known = [(weight, one[task].detach()) for weight, one in zip(weights, said, strict=True) if task in one]
        total = sum(weight for weight, _ in known)
        if not 0 < total < float("inf"):
            raise ValueError(f"weights: expected a finite sum above zero over the teachers of {task!r}, got {weights}")
        for _, one in known:
            expect.same_shape(f"an answer for {task!r}", one, "another teacher's", known[0][1])
        fused[task] = sum(weight / total * one for weight, one in known)
    return fused


def fusion_loss(
    outputs: Mapping[str, Tensor],
    teacher_outputs: Sequence[Mapping[str, Tensor]],
    weights: Sequence[float] | None = None,
) -> Tensor:
    """Strategy 6: each head learns the fused answer of all teachers that know its task.

    L = Σ_k d_k, the distance to ``fuse_answers``. Arguments and errors: see there; ``outputs`` as in
    ``answer_losses``. Returns a scalar, 0 where the student gives the fused answer.
    """
    return answer_losses(outputs, fuse_answers(teacher_outputs, weights)).sum()


def annealed_targets(teacher_probabilities: Tensor, labels: Tensor, progress: Tensor | float) -> Tensor:
    """Teacher annealing: targets that start as the teacher's and end as the labels.

    t = (1 − λ) · p_teacher + λ · one-hot(y).

    ``teacher_probabilities``: (B, C), rows in [0, 1]; ``labels``: (B,), integers; ``progress``: λ in
    [0, 1]. Returns (B, C), without gradient. Raises ``ValueError``/``TypeError`` if these do not fit.
    Source: Clark et al. 2019, section 3.2; their λ rises linearly from 0 to 1.
    """
    expect.logits("teacher_probabilities", teacher_probabilities, ndim=2)
    inside = (teacher_probabilities >= 0) & (teacher_probabilities <= 1)
    expect.true(inside, "teacher_probabilities: expected numbers from 0 to 1, got others (logits?)")
    examples, classes = teacher_probabilities.shape
    expect.labels("labels", labels, examples=examples, classes=classes)
    share = _progress(progress, teacher_probabilities)
    # Compared, not F.one_hot, which reads values and so does not pass through vmap.
    one_hot = (labels.unsqueeze(1) == torch.arange(classes, device=labels.device)).to(teacher_probabilities.dtype)
    return (1 - share) * teacher_probabilities.detach() + share * one_hot


def _spread(scores: Tensor, pixels: int) -> Tensor:
    """Return each pixel's attention, P · softmax(scores): (B, P) → (B, pixels)."""
    side, patches = round(pixels**0.5), round(scores.shape[-1] ** 0.5)
    if side**2 != pixels or patches**2 != scores.shape[-1] or side % patches:
        raise ValueError(f"gate: expected P square patches that tile {pixels} pixels, got P = {scores.shape[-1]}")
    size = side // patches
    grid = scores.shape[-1] * scores.softmax(dim=-1).view(-1, patches, 1, patches, 1)
    return grid.expand(-1, patches, size, patches, size).reshape(-1, pixels)


def _softmax_weights(values: Tensor, temperature: float) -> Tensor:
    """Return K · softmax(values / T); infinite entries share alike."""
    limits = torch.finfo(values.dtype)
    # The largest is taken off first: whatever T, nothing grows, and ∞ − ∞ never comes up.
    behind = torch.where(values == values.max(), 0, values - values.max())
    return len(values) * (behind / min(max(temperature, limits.tiny), limits.max)).softmax(dim=0)


def _class_distance(outputs: Tensor, target: Tensor) -> Tensor:
    # entr(p) = −p log p, 0 at p = 0. The target's entropy is a constant that makes agreement count 0.
    return (-target * outputs.log_softmax(dim=-1) - torch.special.entr(target)).sum(dim=-1).mean()


def _box_distance(outputs: Tensor, target: Tensor) -> Tensor:
    return F.smooth_l1_loss(to_boxes(outputs, 1), target, beta=0.1)


def _mask_distance(outputs: Tensor, target: Tensor) -> Tensor:
    # −t log σ(z) − (1 − t) log(1 − σ(z)), minus the target's entropy.
    entropy = torch.special.entr(target) + torch.special.entr(1 - target)
    return (F.softplus(outputs, threshold=50.0) - target * outputs - entropy).mean()


def _tasks_of(name: str, outputs: Mapping[str, Tensor]) -> list[str]:
    if not isinstance(outputs, Mapping):
        raise TypeError(f"{name}: expected a mapping from task to tensor, got {type(outputs).__name__}")
    tasks = [task for task in TASKS if task in outputs]
    if not tasks:
        raise ValueError(f"{name}: expected at least one of {list(TASKS)}, got {list(outputs)}")
    return tasks


def _progress(progress: Tensor | float, like: Tensor) -> Tensor:
    """Return the progress as a tensor of ``like``'s type; raise unless it is one number in [0, 1]."""
    if not isinstance(progress, Tensor):
        expect.number("progress", progress, low=0, high=1)
        return torch.as_tensor(progress, dtype=like.dtype, device=like.device)
    if progress.ndim != 0 or not progress.is_floating_point():
        raise ValueError(
            f"progress: expected one floating number, got {progress.dtype} of shape {tuple(progress.shape)}"
        )
    expect.true((progress >= 0) & (progress <= 1), "progress: expected a number from 0 to 1, got another")
    return progress.to(like.dtype)


def _expect_vector(name: str, value: Tensor) -> None:
    expect.logits(name, value)
    if value.ndim != 1:
        raise ValueError(f"{name}: expected one axis, got shape {tuple(value.shape)}")


def _expect_losses(name: str, value: Tensor) -> None:
    _expect_vector(name, value)
    expect.true(value >= 0, f"{name}: expected numbers of at least 0, got a negative one")
