"""Soft targets: train a student on a teacher's softened class probabilities.

Source: Hinton, Vinyals & Dean 2015, "Distilling the Knowledge in a Neural Network", section 2.

========  ==================  ==========================================================
symbol    argument            shape, meaning
========  ==================  ==========================================================
z_s       student_logits      (B, C): B examples, C classes
z_t       teacher_logits      (B, C): never receives gradient
y         labels              (B,): classes 0 … C − 1
T         temperature         number > 0: large T makes the probabilities more even
α         alpha               number in [0, 1]: weight of the teacher against the labels
p_s, p_t                      (B, C): softmax(z / T)
========  ==================  ==========================================================

Where this departs from the paper: the paper writes the soft term as a cross-entropy; here it is
the KL divergence. The two differ by the teacher's entropy, so their gradients are equal, and the
KL divergence is zero when the student agrees with the teacher.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ctkd_lessons import expect


def soften(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Turn logits into probabilities, the more even the higher the temperature.

    p_c = exp(z_c / T) / Σ_k exp(z_k / T), over the last axis.

    ``logits``: (…, C), floating. Returns the same shape and dtype; finite for logits of ±1e5.
    Raises ``ValueError``/``TypeError`` for non-finite or empty logits and for T ≤ 0.
    Source: Hinton et al. 2015, equation 1.
    """
    expect.logits("logits", logits)
    expect.number("temperature", temperature, above=0)
    return torch.softmax(logits / temperature, dim=-1)


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0) -> Tensor:
    """Measure how far the student's softened probabilities are from the teacher's.

    L = T² · mean_i Σ_c p_t (log p_t − log p_s), p = softmax(z / T).

    The gradient of the sum shrinks like 1 / T²; the factor T² keeps the loss's weight the same
    at every temperature. Both logits: (B, C), same dtype. Returns a scalar ≥ 0, up to rounding.
    Raises ``ValueError``/``TypeError`` if shapes, dtypes, values or T are not as above.
    Source: Hinton et al. 2015, section 2.
    """
    expect.logit_pair(student_logits, teacher_logits)
    expect.number("temperature", temperature, above=0)
    log_student = F.log_softmax(student_logits / temperature, dim=-1)
    log_teacher = F.log_softmax(teacher_logits.detach() / temperature, dim=-1)
    # Written out: F.kl_div has no batching rule for vmap.
    divergence = (log_teacher.exp() * (log_teacher - log_student)).sum(dim=-1)
    return temperature**2 * divergence.mean()


def distillation_loss(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float = 4.0, alpha: float = 0.9
) -> Tensor:
    """Mix the teacher's soft targets with the labels.

    L = α · kd_loss(z_s, z_t, T) + (1 − α) · cross_entropy(z_s, y); the labels' term has T = 1.

    Both logits: (B, C); ``labels``: (B,), integers. Returns a scalar.
    Raises ``ValueError``/``TypeError`` as ``kd_loss``, for alpha outside [0, 1] and bad labels.
    Source: Hinton et al. 2015, section 2. Some code puts α on the labels instead.
    """
    expect.number("alpha", alpha, low=0, high=1)
    soft = kd_loss(student_logits, teacher_logits, temperature)
    expect.labels("labels", labels, examples=student_logits.shape[0], classes=student_logits.shape[1])
    return alpha * soft + (1 - alpha) * F.cross_entropy(student_logits, labels.long())


def logit_matching_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Measure the squared difference of the logits.

    L = mean over all elements of (z_s − z_t)².

    Both logits: (B, C), same dtype. Returns a scalar ≥ 0. The form ½ Σ_c (…)², averaged over the
    batch, is C / 2 times this. As T → ∞, ``kd_loss`` becomes half of this loss on *centred*
    logits (each row minus its mean). Raises ``ValueError``/``TypeError`` as ``kd_loss``.
    Source: Ba & Caruana 2014, "Do Deep Nets Really Need to be Deep?", section 2.
    """
    expect.logit_pair(student_logits, teacher_logits)
    return (student_logits - teacher_logits.detach()).square().mean()


def correct_bias(logits: Tensor, label: int, offset: float) -> Tensor:
    """Add ``offset`` to the logit of one class and leave the others alone.

    ``logits``: (…, C); ``label``: 0 … C − 1. Returns a new tensor of the same shape and dtype.
    Raises ``ValueError``/``TypeError`` for an unknown class or a non-finite offset.
    Source: Hinton et al. 2015, section 3: the class that the transfer set never showed.
    """
    expect.logits("logits", logits)
    expect.count("label", label, low=0, high=logits.shape[-1] - 1)
    expect.number("offset", offset)
    is_label = torch.arange(logits.shape[-1], device=logits.device) == label
    return logits + offset * is_label.to(logits.dtype)


def balanced_offset(logits: Tensor, label: int, share: float) -> float:
    """Find the smallest offset with which at least ``share`` of the examples are given the class.

    The margin of an example is the largest other logit minus the logit of ``label``: an offset as
    large as the margin lifts the class to the top. The answer is the ⌈share · B⌉-th smallest margin.

    ``logits``: (B, C), C ≥ 2. Needs no label: only how frequent the class is known to be.
    Raises ``ValueError``/``TypeError`` for an unknown class or a share outside (0, 1].
    """
    expect.logits("logits", logits, ndim=2)
    expect.count("label", label, low=0, high=logits.shape[-1] - 1)
    expect.number("share", share, above=0, high=1)
    others = torch.cat([logits[:, :label], logits[:, label + 1 :]], dim=-1)
    if others.shape[-1] == 0:
        raise ValueError(f"logits: expected at least two classes, got shape {tuple(logits.shape)}")
    margins = others.amax(dim=-1) - logits[:, label]
    # Rounded first, so that 0.07 · 100 counts as 7 and not as 7.000000000000001.
    rank = max(1, math.ceil(round(share * len(logits), 9)))
    return float(margins.sort().values[rank - 1])
