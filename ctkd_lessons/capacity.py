"""Capacity: what a teacher and a student may weigh, and which part of a soft target helps.

Sources: Zhao et al. 2022, "Decoupled Knowledge Distillation", equations 5 to 7 (DKD); Hinton,
Vinyals & Dean 2015, "Distilling the Knowledge in a Neural Network", section 2 (ensembles as
teachers); Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", section 2 (int8).

========  ==================  ==========================================================
symbol    argument            shape, meaning
========  ==================  ==========================================================
z_s, z_t  …_logits            (B, C): B examples, C classes; the teacher's get no gradient
y         labels              (B,): the target class of each example
T         temperature         number > 0
b                             (B, 2): [p_y, 1 − p_y], the target class against all others
p̂                             (B, C − 1): softmax over the classes other than y
M                             number of teachers in an ensemble
========  ==================  ==========================================================

For each example KL(p_t ‖ p_s) = KL(b_t ‖ b_s) + (1 − p_y of the teacher) · KL(p̂_t ‖ p̂_s). Plain
distillation therefore mutes the second term where the teacher is sure; DKD weights the two by hand.

Where this departs from the papers: both terms carry the factor T², as in the authors' code of DKD;
the int8 layer finds the range of its inputs anew for every example and needs no zero point.
"""

import copy

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor, nn

from ctkd_lessons import expect
from ctkd_lessons.scorecard import count_flops, count_parameters  # the bill belongs to this lesson, too

__all__ = [
    "Int8Linear",
    "count_flops",
    "count_parameters",
    "dkd_loss",
    "dkd_terms",
    "ensemble_targets",
    "pareto_front",
    "quantise",
]


def dkd_terms(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float = 4.0
) -> tuple[Tensor, Tensor]:
    """Split the distillation loss into a part about the target class and a part about the others.

    TCKD = T² · mean_i KL(b_t ‖ b_s); NCKD = T² · mean_i KL(p̂_t ‖ p̂_s).

    Both logits: (B, C), C ≥ 2, same dtype; ``labels``: (B,), integers. Returns two scalars ≥ 0, up
    to rounding, finite for logits of ±1e5: everything stays in log space, and no class is masked
    out with a large number. Raises ``ValueError``/``TypeError`` if shapes, dtypes, values or T are
    not as above. Source: Zhao et al. 2022, equation 5.
    """
    expect.logit_pair(student_logits, teacher_logits)
    batch, classes = student_logits.shape
    if classes < 2:
        raise ValueError(f"student_logits: expected at least two classes, got shape {tuple(student_logits.shape)}")
    expect.labels("labels", labels, examples=batch, classes=classes)
    expect.number("temperature", temperature, above=0)
    binary_s, others_s = _split(student_logits / temperature, labels)
    binary_t, others_t = _split(teacher_logits.detach() / temperature, labels)
    return temperature**2 * _kl(binary_t, binary_s), temperature**2 * _kl(others_t, others_s)


def dkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
) -> Tensor:
    """Weigh the two parts of the distillation loss by hand: α · TCKD + β · NCKD.

    Arguments as ``dkd_terms``; ``alpha``, ``beta``: numbers ≥ 0. Returns a scalar. The paper adds
    the cross-entropy with the labels, and warms the whole term up. Raises ``ValueError``/
    ``TypeError`` as ``dkd_terms``. Source: Zhao et al. 2022, equation 7.
    """
    expect.number("alpha", alpha, low=0)
    expect.number("beta", beta, low=0)
    target, others = dkd_terms(student_logits, teacher_logits, labels, temperature)
    return alpha * target + beta * others


def ensemble_targets(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Average the softened probabilities of several teachers.

    p = 1/M Σ_m softmax(z_m / T).

    ``logits``: (M, B, C), M ≥ 1. Returns (B, C). The mean of the *logits*, which the paper allows as
    well (the geometric mean of the probabilities), lets one over-confident member outvote the rest.
    To use the result where logits are expected, pass ``temperature * p.log()``; a probability that
    has underflowed to 0 becomes −inf there. Raises ``ValueError``/``TypeError`` for other shapes and
    T ≤ 0. Source: Hinton et al. 2015.
    """
    if isinstance(logits, Tensor) and logits.ndim == 3 and not len(logits):
        raise ValueError(f"logits: expected at least one teacher, got shape {tuple(logits.shape)}")
    expect.logits("logits", logits, ndim=3)
    expect.number("temperature", temperature, above=0)
    return torch.softmax(logits / temperature, dim=-1).mean(dim=0)


def pareto_front(costs: ArrayLike, scores: ArrayLike) -> np.ndarray:
    """Say which models are worth their price: no other is as cheap and as good, and better in one.

    ``costs``: (n,) or (n, k), k kinds of cost, smaller is better; ``scores``: (n,), larger is
    better. Returns (n,) booleans. Equal models are both kept. Raises ``ValueError`` for other
    shapes, no model, and values that are not finite.
    """
    costs, scores = np.asarray(costs, dtype=float), np.asarray(scores, dtype=float)
    if scores.ndim != 1 or not len(scores) or not np.isfinite(scores).all():
        raise ValueError(f"scores: expected at least one finite number, (n,), got shape {scores.shape}")
    if costs.ndim not in (1, 2) or len(costs) != len(scores) or not np.isfinite(costs).all():
        raise ValueError(f"costs: expected finite numbers, ({len(scores)},) or ({len(scores)}, k), got {costs.shape}")
    goods = np.column_stack([-costs, scores])  # one row per model, larger is better everywhere
    as_good = (goods[:, None] >= goods[None, :]).all(axis=-1)  # [i, j]: i is nowhere worse than j
    better = (goods[:, None] > goods[None, :]).any(axis=-1)
    return ~(as_good & better).any(axis=0)


class Int8Linear(nn.Module):
    """A linear layer that multiplies 8-bit integers.

    Each output's weights share one scale, each example's inputs another: w ≈ s_w · w₈ with w₈ in
    −127 … 127. The product of integers is exact; only the rounding to 8 bits loses something.
    The weights take a quarter of the bytes. Source: Jacob et al. 2018, section 2.1, without offsets.
    Written to be read, not to be fast: speed needs a processor's own 8-bit kernels.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, scale = _rounded(linear.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, inputs) to (…, outputs)."""
        whole, scale = _rounded(x)
        # In float64 a product of whole numbers is exact up to 2⁵³, and every device has it.
        product = whole.double() @ self.weight.double().mT
        answer = (product * scale * self.scale.squeeze(-1)).to(x.dtype)
        return answer if self.bias is None else answer + self.bias


def quantise(model: nn.Module) -> nn.Module:
    """Return a copy of a trained model whose linear layers multiply 8-bit integers.

    A layer that stands in several places stays one layer. Raises ``ValueError`` if the model has no
    linear layer, ``TypeError`` if it is no module.
    """
    expect.module("model", model)
    quantised = copy.deepcopy(model).eval()
    int8 = {module: Int8Linear(module).eval() for module in quantised.modules() if isinstance(module, nn.Linear)}
    if not int8:
        raise ValueError(f"model: expected at least one linear layer, got {type(model).__name__} with none")
    if quantised in int8:
        return int8[quantised]
    for name, module in list(quantised.named_modules(remove_duplicate=False)):
        if module in int8:
            quantised.set_submodule(name, int8[module])
    return quantised


def _split(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log-probabilities of target against rest, (B, 2), and among the rest, (B, C − 1)."""
    y = labels.long().unsqueeze(-1)
    places = torch.arange(logits.shape[-1] - 1, device=logits.device)
    rest = logits.gather(-1, places + (places >= y))  # every column but y's
    pair = torch.cat([logits.gather(-1, y), rest.logsumexp(dim=-1, keepdim=True)], dim=-1)
    return F.log_softmax(pair, dim=-1), F.log_softmax(rest, dim=-1)


def _kl(log_t: Tensor, log_s: Tensor) -> Tensor:
    # Written out: F.kl_div has no batching rule for vmap.
    return (log_t.exp() * (log_t - log_s)).sum(dim=-1).mean()


def _rounded(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return 8-bit integers and, per row, the scale that turns them back: x ≈ scale · integers."""
    scale = x.abs().amax(dim=-1, keepdim=True) / 127
    whole = (x / torch.where(scale > 0, scale, 1)).round().clamp(-127, 127)  # float16 can round to 128
    return whole.to(torch.int8), scale
