"""Knowledge transfer inside meta-learning: what a learner of few examples may be given beside them.

Sources: Hu, Ma, Liu, Hovy & Xing 2016, "Harnessing Deep Neural Networks with Logic Rules" (targets from
rules); Bertinetto, Henriques, Torr & Vedaldi 2019, "Meta-learning with Differentiable Closed-form Solvers"
(a head that is solved for); Garnelo et al. 2018, "Conditional Neural Processes" (a network that reads the
support set); Romero et al. 2015, "FitNets" (matching features).

======  ==================  =====================================================================
symbol  argument            shape, meaning
======  ==================  =====================================================================
f       embeddings          (N·K + N·Q, D) one episode's support, then its queries, class by class
N, K    ways, shots         classes of an episode, and support examples of each
h, g    mapped, shared      (B, D) features mapped into a shared space; where they should arrive
p_j     answers[j]          (n, C_j) what a model answers about the j-th part of n exercises
r       holds               (C_1, …, C_k) bool: which combinations of answers the rule allows
β       strength            number: how much a broken rule costs, in nats
α       trust               number in [0, 1]: the teacher's share of what a learner fits
======  ==================  =====================================================================
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from ctkd_lessons import expect
from ctkd_lessons.features import hint_loss
from ctkd_lessons.meta import prototype_logits, prototypes
from ctkd_lessons.models import mlp
from ctkd_lessons.vectors import at_least_float32


def episode_logits(embeddings: Tensor, ways: int, shots: int) -> Tensor:
    """Answer an episode's queries by the prototypes of its support.

    ``embeddings``: (N·K + N·Q, D), support first, each class by class. Returns (N·Q, N); the queries' labels
    are ``arange(ways).repeat_interleave(queries)``. Raises ``ValueError``/``TypeError`` for anything else.
    """
    expect.features("embeddings", embeddings, ndim=2)
    expect.count("ways", ways)
    expect.count("shots", shots)
    queries = len(embeddings) - ways * shots
    if queries < ways or queries % ways:
        raise ValueError(
            f"embeddings: expected {ways * shots} of the support and a multiple of {ways} of queries, "
            f"got {len(embeddings)} in all"
        )
    labels = torch.arange(ways, device=embeddings.device).repeat_interleave(shots)
    return prototype_logits(embeddings[ways * shots :], prototypes(embeddings[: ways * shots], labels, ways))


def feature_level_loss(logits: Tensor, labels: Tensor, mapped: Tensor, shared: Tensor, weight: float = 1.0) -> Tensor:
    """Learn a task and, on other examples, a map into a shared feature space.

    L = cross-entropy(logits, y) + weight · ½ mean_i ‖h_i − g_i‖².

    ``logits``: (n, C), ``labels``: (n,); ``mapped``, ``shared``: (B, D); ``shared`` gets no gradient;
    ``weight`` ≥ 0. Returns a scalar. Raises ``ValueError``/``TypeError`` for anything else.
    """
    expect.logits("logits", logits, ndim=2)
    expect.labels("labels", labels, examples=logits.shape[0], classes=logits.shape[1])
    expect.number("weight", weight, low=0)
    expect.features("mapped", mapped, ndim=2)
    expect.features("shared", shared, ndim=2)
    expect.same_shape("shared", shared, "mapped", mapped)
    return F.cross_entropy(logits, labels.long()) + weight * hint_loss(mapped, shared.detach())


def rule_targets(answers: Sequence[Tensor], holds: Tensor, strength: float = math.inf) -> tuple[Tensor, ...]:
    """Correct a model's answers about the parts of an exercise by a rule that ties the parts together.

    q(y_1 … y_k) ∝ Π_j p_j(y_j) · e^{−β} where the rule is broken, · 1 where it holds; returned are q's
    marginals. β = ∞: only what the rule allows is possible. β = 0: the answers as they are.

    ``answers``: k ≥ 1 tensors (n, C_j) of probabilities; ``holds``: (C_1, …, C_k) bool, true at least
    once; ``strength`` ≥ 0. Returns k targets (n, C_j), without gradient. Raises ``ValueError``/``TypeError``
    for anything else. Source: Hu et al. 2016, equation 4, with one rule.
    """
    _expect_answers(answers)
    if strength != math.inf:
        expect.number("strength", strength, low=0)
    sizes = [one.shape[1] for one in answers]
    if not isinstance(holds, Tensor) or holds.dtype != torch.bool:
        raise TypeError(f"holds: expected a bool tensor, got {getattr(holds, 'dtype', type(holds).__name__)}")
    if list(holds.shape) != sizes:
        raise ValueError(f"holds: expected an axis for each part's classes, {tuple(sizes)}, got {tuple(holds.shape)}")
    expect.true(holds.any(), "holds: expected a rule that some combination of answers keeps, got none")
    joint = torch.where(holds, 0.0, -strength).to(at_least_float32(answers[0]))
    for place, one in enumerate(answers):  # in logarithms: products of small probabilities would vanish
        log_p = at_least_float32(one.detach()).clamp(min=torch.finfo(joint.dtype).tiny).log()
        joint = joint + log_p.view(len(log_p), *(log_p.shape[1] if axis == place else 1 for axis in range(len(sizes))))
    joint = joint.flatten(1).softmax(dim=1).view(-1, *sizes)
    others = [[axis + 1 for axis in range(len(sizes)) if axis != place] for place in range(len(sizes))]
    return tuple((joint.sum(dim=axes) if axes else joint).to(answers[0].dtype) for axes in others)


def teacher_agreement(teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """Say how well a teacher knows a learner's own labels: the mean log-probability it gives them, at most 0.

    ``teacher_logits``: (n, C), ``labels``: (n,). Returns a scalar. Raises ``ValueError``/``TypeError`` else.
    """
    expect.logits("teacher_logits", teacher_logits, ndim=2)
    expect.labels("labels", labels, examples=teacher_logits.shape[0], classes=teacher_logits.shape[1])
    return -F.cross_entropy(teacher_logits.detach(), labels.long())


def blended_head(
    images: Tensor, targets: Tensor, other_images: Tensor, teacher: Tensor, trust: Tensor | float, ridge: float = 0.01
) -> Tensor:
    """Solve for the linear head that fits a learner's few labels and a teacher's answers, in shares 1 − α and α.

    W = argmin (1 − α) mean ‖W^T x − y‖² + α mean ‖W^T x' − t‖² + ridge · ‖W‖², each x with a 1 appended.

    The answer can be differentiated with respect to α: so α can be learned over many learners.
    ``images``: (n, D), ``targets``: (n, C) one-hot; ``other_images``: (m, D), ``teacher``: (m, C)
    probabilities, without gradient; ``trust``: a number or a tensor without axes, in [0, 1]; ``ridge`` > 0.
    Returns (D + 1, C), the last row for the appended 1. Raises ``ValueError``/``TypeError`` for anything
    else. Source: Bertinetto et al. 2019, section 3.2, with a second set of targets.
    """
    for name, value in {"images": images, "targets": targets, "other_images": other_images, "teacher": teacher}.items():
        expect.features(name, value, ndim=2)
    if images.shape[1] != other_images.shape[1] or targets.shape[1] != teacher.shape[1]:
        raise ValueError(
            f"other_images, teacher: expected {images.shape[1]} features and {targets.shape[1]} classes as in images "
            f"and targets, got {other_images.shape[1]} and {teacher.shape[1]}"
        )
    expect.same_batch("images", images, "targets", targets)
    expect.same_batch("other_images", other_images, "teacher", teacher)
    expect.number("ridge", ridge, above=0)
    if isinstance(trust, Tensor):
        if trust.ndim:
            raise ValueError(f"trust: expected a number or a tensor without axes, got shape {tuple(trust.shape)}")
        expect.true((trust >= 0) & (trust <= 1), "trust: expected a number of 0 to 1, got another")
    else:
        expect.number("trust", trust, low=0, high=1)
    own, other = _with_one(images), _with_one(other_images)
    share, teachers_share = (1 - trust) / len(own), trust / len(other)
    gram = share * own.T @ own + teachers_share * other.T @ other
    right = share * own.T @ targets + teachers_share * other.T @ teacher.detach()
    return torch.linalg.solve(gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device), right)


def head_logits(head: Tensor, images: Tensor, scale: float = 5.0) -> Tensor:
    """Return scale · W^T x, x with a 1 appended: the head fits numbers of 0 to 1, a softmax wants larger ones."""
    return scale * _with_one(images) @ head


class SetStudent(nn.Module):
    """A network that reads a support set and answers at once, without an inner loop.

    Encodes each support pair, averages, and gives the mean to the decoder beside each query:
    y = decoder(x, mean_i encoder(x_i, y_i)). Called with support x and y and query x, each (…, n, 1); the
    order of the support does not matter. Source: Garnelo et al. 2018, without the variance.
    """

    def __init__(self, width: int = 64, code: int = 32) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp([2, width, width, code]), mlp([1 + code, width, width, 1])

    def forward(self, x: Tensor, y: Tensor, queries: Tensor) -> Tensor:
        """Return answers in the shape of ``queries``."""
        code = self.encoder(torch.cat([x, y], dim=-1)).mean(dim=-2, keepdim=True)
        return self.decoder(torch.cat([queries, code.expand(*queries.shape[:-1], -1)], dim=-1))


def transfer_gain(transferred: ArrayLike, scratch: ArrayLike, ceiling: ArrayLike = 1.0) -> NDArray[np.float64]:
    """Return which share of what was missing the transfer has won: (a − a_scratch) / (a_ceiling − a_scratch).

    0: as from scratch; 1: as the ceiling; below 0: negative transfer. All are scores, larger is better, one
    per seed, (S,), or one for all; the same budget and test. Raises ``ValueError`` unless all are finite and
    the ceiling is above scratch everywhere: a gain over nothing missing means nothing.
    """
    values = [np.asarray(one, dtype=np.float64) for one in (transferred, scratch, ceiling)]
    for name, one in zip(("transferred", "scratch", "ceiling"), values, strict=True):
        if not np.isfinite(one).all():
            raise ValueError(f"{name}: expected finite scores, got {one}")
    if values[0].shape != values[1].shape or values[2].shape not in ((), values[1].shape):
        raise ValueError(
            f"transferred, scratch, ceiling: expected one score per seed each, got shapes {[v.shape for v in values]}"
        )
    if (values[2] <= values[1]).any():
        raise ValueError(f"ceiling: expected scores above scratch, got {values[2]} with scratch {values[1]}")
    return (values[0] - values[1]) / (values[2] - values[1])


def _with_one(images: Tensor) -> Tensor:
    return torch.cat([images, torch.ones_like(images[:, :1])], dim=1)


def _expect_answers(answers: object) -> None:
    if not isinstance(answers, (list, tuple)) or not answers:
        raise TypeError(f"answers: expected at least one tensor of probabilities, got {type(answers).__name__}")
    for place, one in enumerate(answers):
        name = f"answers[{place}]"
        expect.logits(name, one, ndim=2)
        expect.same_batch("answers[0]", answers[0], name, one)
        sums = at_least_float32(one).sum(dim=1)
        expect.true((one >= 0).all() & ((sums - 1).abs() < 0.01).all(), f"{name}: expected rows of probabilities")
