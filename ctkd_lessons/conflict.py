"""When tasks disagree: how gradients conflict, and how to make one direction of several.

Sources: Kendall, Gal & Cipolla 2018, "Multi-Task Learning Using Uncertainty to Weigh Losses"; Chen et
al. 2018, "GradNorm"; Yu et al. 2020, "Gradient Surgery for Multi-Task Learning" (PCGrad); Sener &
Koltun 2018, "Multi-Task Learning as Multi-Objective Optimization" (MGDA); Liu et al. 2021,
"Conflict-Averse Gradient Descent for Multi-task Learning" (CAGrad).

=======  ===============  ==========================================================================
symbol   argument         shape, meaning
=======  ===============  ==========================================================================
g_i      gradients[i]     (P,) gradient of task i's loss with respect to the shared parameters
g_0      (mean)           (P,) mean of the tasks' gradients
L_i      losses           (K,) one loss per task, ≥ 0
s_i      log_variances    (K,) log σ_i², trained with the network
G_i      gradient_norms   (K,) length of g_i
w_i      weights          (K,) how much task i counts
d        (result)         (P,) the direction; the step is −learning rate · d
=======  ===============  ==========================================================================

``pcgrad``, ``mgda`` and ``cagrad`` need the gradients' angles and lengths alone: after one product
(K, P) × (P, K) all they do is small. None of them lets gradient through: they make gradients.

A task without gradient (no example of it in the batch) stays out of ``gradient_cosine`` and ``pcgrad``.
For ``mgda`` and ``cagrad`` it is a task that nothing can improve: see there.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import brentq, nnls
from torch import Tensor

from ctkd_lessons import expect
from ctkd_lessons.vectors import at_least_float32

_ROUNDING = 1e-12  # of float64, after some sums
_NOTHING = 1e-9  # a mixture this short beside its longest part is zero but for rounding


def task_gradients(losses: Tensor, parameters: Sequence[Tensor], *, batched: bool = True) -> Tensor:
    """Return the gradient of each task's loss, flattened: row i is g_i.

    ``losses``: (K,), finite, with gradient; ``parameters``: those that tasks share. One a task does
    not reach counts zero. ``batched``: one backward pass for all tasks; with convolutions a pass per
    task is faster. Returns (K, P). Raises ``ValueError``/``TypeError`` if these do not fit, and for a loss of nan,
    such as a mean over no example: such a task counts 0.
    """
    _expect_tasks("losses", losses)
    parameters = list(parameters)
    if not parameters:
        raise ValueError("parameters: expected at least one tensor, got none")
    if not losses.requires_grad:
        raise ValueError("losses: expected losses that depend on the parameters, got some without gradient")
    rows = torch.eye(len(losses), dtype=losses.dtype, device=losses.device)
    if batched:
        found = torch.autograd.grad(losses, parameters, rows, is_grads_batched=True, materialize_grads=True)
        return torch.cat([one.flatten(1) for one in found], dim=1)
    each = [torch.autograd.grad(losses, parameters, row, retain_graph=True, materialize_grads=True) for row in rows]
    return torch.stack([torch.cat([one.flatten() for one in found]) for found in each])


def gradient_cosine(gradients: Tensor) -> Tensor:
    """Return the cosine of the angle between every two tasks' gradients: below zero they conflict.

    cos_ij = g_i · g_j / (‖g_i‖ ‖g_j‖); 0 where one of them is zero.

    ``gradients``: (K, P). Returns (K, K). Raises ``ValueError``/``TypeError`` for anything else.
    """
    rows, _ = _scaled(gradients)
    return _angles(rows)[0].to(gradients.dtype)


def uncertainty_loss(losses: Tensor, log_variances: Tensor) -> Tensor:
    """Weigh the tasks by how noisy each is, with variances that are trained like weights.

    L = Σ_i ½ e^{−s_i} L_i + ½ s_i. Its best s_i is log L_i: where that is reached, every task
    counts ½ and its gradient is divided by its own loss. For a loss of zero no s_i is best; s_i
    falls with every step, and the value stays finite.

    ``losses``: (K,), finite, ≥ 0; ``log_variances``: (K,). Returns a scalar. Raises
    ``ValueError``/``TypeError`` if these do not fit. Source: Kendall et al. 2018, equation 7, written
    for K regression tasks; their form for classification has no ½ before e^{−s} L.
    """
    _expect_losses("losses", losses)
    _expect_tasks("log_variances", log_variances)
    expect.same_shape("log_variances", log_variances, "losses", losses)
    return 0.5 * ((-log_variances).exp() * losses + log_variances).sum()


def gradnorm_loss(
    gradient_norms: Tensor, losses: Tensor, first_losses: Tensor, weights: Tensor, alpha: float = 1.5
) -> Tensor:
    """Compare the lengths of the weighted gradients with what each task should have: train ``weights`` with it.

    L = Σ_i |w_i G_i − mean_j(w_j G_j) · r_i^α|, r_i = (L_i / L_i(0)) / mean_j(L_j / L_j(0)), the
    target held constant. A task that has come less far than the others gets a longer gradient.
    Where all losses are zero, every r_i is 1.

    All (K,): ``gradient_norms`` ≥ 0; ``losses`` ≥ 0; ``first_losses`` > 0, those at the start;
    ``weights``, to be kept at a sum of K after each step. Only ``weights`` receives gradient. ``alpha``
    ≥ 0: how strongly to balance. Returns a scalar. Raises ``ValueError``/``TypeError`` if these do not
    fit. Source: Chen et al. 2018, equation 2; they take G_i over the last shared layer.
    """
    for name, value in {"gradient_norms": gradient_norms, "losses": losses, "first_losses": first_losses}.items():
        _expect_losses(name, value)
    expect.true(first_losses > 0, "first_losses: expected losses above zero, got zero")
    _expect_tasks("weights", weights)
    for name, value in {"losses": losses, "first_losses": first_losses, "weights": weights}.items():
        expect.same_shape(name, value, "gradient_norms", gradient_norms)
    expect.number("alpha", alpha, low=0)
    ratio = losses.detach() / first_losses.detach()
    mean = ratio.mean()
    rate = torch.where(mean > 0, ratio / torch.where(mean > 0, mean, 1), 1)
    weighted = weights * gradient_norms.detach()
    target = (weighted.mean() * rate**alpha).detach()
    return (weighted - target).abs().sum()


@torch.no_grad()
def pcgrad(gradients: Tensor, order: Tensor) -> Tensor:
    """Take out of each gradient what points against another task, then add them up.

    For each task i, start with g_i; for every other j, in the order given: where the rest of g_i
    conflicts with g_j, subtract its projection on g_j, (g_i · g_j / ‖g_j‖²) g_j. Each g_j is the
    original one.

    ``gradients``: (K, P); ``order``: (K, K), int64, row i a permutation of 0 … K − 1, the order in
    which task i meets the others (itself is passed over); ``torch.rand(K, K).argsort(dim=1)`` draws
    one. Returns (P,). Raises ``ValueError``/``TypeError`` if these do not fit.
    Source: Yu et al. 2020, algorithm 1.
    """
    rows, largest = _scaled(gradients)
    cosines, lengths = _angles(rows)
    _expect_order(order, len(rows))
    turns = order.mT  # (turn, task): which task each one meets
    others = torch.eye(len(rows), dtype=rows.dtype, device=rows.device)
    others = others[turns] * (1 - others)  # (turn, task, K): 1 for the task that is met, unless it is itself
    steps = cosines[turns] * others.sum(dim=2, keepdim=True)
    sizes = lengths * largest.squeeze(1)
    left, taken = sizes.unsqueeze(1) * cosines, []  # left[i, j]: how long what is left of g_i is along g_j
    for turn, step in zip(turns.unsqueeze(2).unbind(), steps.unbind(), strict=True):
        taken.append(left.gather(1, turn).clamp(max=0))
        left = torch.addcmul(left, taken[-1], step, value=-1)
    mixture = sizes - (torch.stack(taken) * others).sum(dim=(0, 1))  # of unit vectors
    return (mixture / lengths @ rows).to(gradients.dtype)


@torch.no_grad()
def mgda(gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Return the shortest mixture of the gradients: a direction that no task objects to.

    min_w ‖Σ_i w_i g_i‖, w_i ≥ 0, Σ w_i = 1. For the result d, g_i · d ≥ ‖d‖² for every task; d = 0
    says that no direction improves all tasks. So it is for a task without gradient: that task gets
    all the weight. Leave it out, if it only lacks examples.

    ``gradients``: (K, P). Returns (weights (K,), direction (P,)). Where gradients depend on each
    other several weights may give the same direction; it returns one. Raises ``ValueError``/
    ``TypeError`` for anything else. Source: Sener & Koltun 2018, equation 3; theirs is an iteration
    (Frank & Wolfe), this one is exact.
    """
    _expect_gradients(gradients)
    weights = torch.as_tensor(_shortest_mixture(_corners(gradients))).to(gradients)
    return weights, weights @ gradients


def two_task_weight(first: Tensor, second: Tensor) -> Tensor:
    """Return the first task's weight in the shortest mixture of two gradients; the second has the rest.

    w = clamp((g_2 − g_1) · g_2 / ‖g_2 − g_1‖², 0, 1); ½ where both are the same.

    ``first``, ``second``: (P,). Returns a scalar in [0, 1]. Raises ``ValueError``/``TypeError`` if
    these do not fit. Source: Sener & Koltun 2018, equation 4.
    """
    for name, value in {"first": first, "second": second}.items():
        expect.logits(name, value, ndim=1)
    expect.same_shape("second", second, "first", first)
    largest = torch.maximum(first.abs().max(), second.abs().max())
    scale = torch.where(largest > 0, largest, 1)  # squares of small numbers vanish
    gap = (second - first) / scale
    square = gap.square().sum()
    weight = (gap * second / scale).sum() / torch.where(square > 0, square, 1)
    return torch.where(square > 0, weight.clamp(0, 1), 0.5)


@torch.no_grad()
def cagrad(gradients: Tensor, c: float = 0.5) -> tuple[Tensor, Tensor]:
    """Stay near the mean gradient, but serve the task that gains least.

    d maximises min_i g_i · d within ‖d − g_0‖ ≤ c ‖g_0‖: d = g_0 + c ‖g_0‖ g_w / ‖g_w‖, g_w = Σ w_i g_i,
    where w on the simplex minimises g_w · g_0 + c ‖g_0‖ ‖g_w‖. Where g_w is zero, d = g_0.

    ``gradients``: (K, P); ``c`` ≥ 0: 0 is the mean gradient; below 1 the mean loss still falls.
    Returns (weights (K,), direction (P,)). Raises ``ValueError``/``TypeError`` for anything else.
    Source: Liu et al. 2021, equations 3 and 4. One public implementation divides d by 1 + c² as well.
    """
    _expect_gradients(gradients)
    expect.number("c", c, low=0)
    corners = _corners(gradients)
    found = _averse_weights(corners, c)
    weights, mean = torch.as_tensor(found).to(gradients), gradients.mean(dim=0)
    size = np.linalg.norm(corners @ found)
    if size <= _NOTHING * np.linalg.norm(corners, axis=0).max():
        return weights, mean
    pull = c * np.linalg.norm(corners.mean(axis=1)) / size
    mixture = torch.as_tensor(found, device=gradients.device) @ gradients.double()  # may be short: keep its digits
    return weights, mean + (pull * mixture).to(gradients)


def _scaled(gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows in float32 at least, the largest number of each at one, and what each was divided by (K, 1).

    Squares of small numbers would vanish otherwise.
    """
    _expect_gradients(gradients)
    rows = at_least_float32(gradients)
    largest = rows.detach().abs().amax(dim=1, keepdim=True)
    largest = torch.where(largest > 0, largest, 1)
    return rows / largest, largest


def _angles(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cosines (K, K) and the lengths (K,) of the rows; of a row of zeros 0 and 1."""
    products = rows @ rows.mT
    squares = products.diagonal()
    lengths = torch.where(squares > 0, squares, 1).sqrt()
    return products / (lengths.unsqueeze(1) * lengths), lengths


def _corners(gradients: Tensor) -> np.ndarray:
    """Return the gradients as columns in a space of K dimensions, the largest number about one.

    Lengths and angles stay. The K × K products g_i · g_j would do, but with half the digits.
    """
    columns = gradients.mT.double()
    largest = columns.abs().max()
    return torch.linalg.qr(columns / torch.where(largest > 0, largest, 1), mode="r").R.cpu().numpy()


def _shortest_mixture(corners: np.ndarray) -> np.ndarray:
    """Return the weights (K,) ≥ 0, sum 1, that make the mixture of the columns (D, K) shortest.

    Minimise ‖corners · v‖² + (1 − Σ v)² over v ≥ 0 instead. For a fixed mixture v / Σ v of length l the
    best Σ v leaves l² / (1 + l²), which grows with l: the same mixture is best.
    """
    lengths = np.linalg.norm(corners, axis=0)
    if not lengths.min():
        return np.eye(len(lengths))[lengths.argmin()]
    rows = np.vstack([corners / lengths.min(), np.ones(len(lengths))])
    weights = nnls(rows, np.eye(len(rows))[-1])[0]
    return weights / weights.sum()


def _averse_weights(corners: np.ndarray, c: float) -> np.ndarray:
    """Minimise g_w · g_0 + c ‖g_0‖ ‖g_w‖ over the weights; the gradients are the columns of ``corners``.

    With 2 ‖g_w‖ = min_t (‖g_w‖² / t + t) it becomes, for a fixed t, the shortest mixture of the
    gradients shifted by s · g_0, s = t / (c ‖g_0‖). What is left is to find the s with t = ‖g_w‖.
    """
    mean = corners.mean(axis=1, keepdims=True)
    reach = c * np.linalg.norm(mean)
    if reach == 0:
        objects = (corners.T @ mean)[:, 0]
        return np.eye(len(objects))[objects.argmin()] if mean.any() else _shortest_mixture(corners)

    def excess(shift: float) -> float:
        return shift * reach - np.linalg.norm(corners @ _shortest_mixture(corners + shift * mean))

    high = 2 * np.linalg.norm(corners, axis=0).max() / reach  # once would do, but for rounding
    low = _ROUNDING * high
    shift = low if excess(low) >= 0 else brentq(excess, low, high, xtol=low, rtol=_ROUNDING)
    return _shortest_mixture(corners + shift * mean)


def _expect_tasks(name: str, value: Tensor) -> None:
    """Raise unless ``value`` is one finite number per task, (K,)."""
    expect.logits(name, value)
    if value.ndim != 1:
        raise ValueError(f"{name}: expected shape (K,), one number per task, got {tuple(value.shape)}")


def _expect_losses(name: str, value: Tensor) -> None:
    _expect_tasks(name, value)
    expect.true(value >= 0, f"{name}: expected numbers of at least 0, got a negative one")


def _expect_gradients(gradients: Tensor) -> None:
    expect.logits("gradients", gradients)
    if gradients.ndim != 2:
        raise ValueError(f"gradients: expected shape (K, P), a row per task, got {tuple(gradients.shape)}")


def _expect_order(order: Tensor, tasks: int) -> None:
    """Raise unless every row of ``order`` (K, K) is a permutation of 0 … K − 1."""
    if not isinstance(order, Tensor) or order.dtype != torch.int64:
        raise TypeError(f"order: expected an int64 tensor, got {getattr(order, 'dtype', type(order).__name__)}")
    if order.shape != (tasks, tasks):
        raise ValueError(f"order: expected shape ({tasks}, {tasks}), a row per task, got {tuple(order.shape)}")
    every = torch.arange(tasks, device=order.device).expand(tasks, tasks)
    message = f"order: expected every row to be a permutation of 0 to {tasks - 1}, got one that is not"
    expect.true(order.sort(dim=1).values == every, message)
