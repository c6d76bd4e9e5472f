"""Distillation across domains: labels in the source, none in the target.

Sources: Sun & Saenko 2016, "Deep CORAL"; Ganin et al. 2016, "Domain-Adversarial Training of Neural
Networks" (DANN); Saito et al. 2018, "Maximum Classifier Discrepancy for Unsupervised Domain Adaptation"
(MCD); Zou et al. 2018, "Unsupervised Domain Adaptation for Semantic Segmentation via
Class-Balanced Self-Training"; Shi & Sha 2012, "Information-Theoretical Learning of Discriminative
Clusters for Unsupervised Domain Adaptation" (choosing without labels).

=======  =========================  =============================================================
symbol   argument                   shape, meaning
=======  =========================  =============================================================
f_s      source                     (n, D) features of the source's images
f_t      target                     (m, D) features of the target's images
a        source_logits, …           (n,) or (n, 1) the critic's logit: large for "source"
λ        strength                   number: how strongly the critic's gradient is turned round
t        progress                   share of the training that is done, in [0, 1]
p        probabilities              (…, n, C) what a model answers on n target images
=======  =========================  =============================================================

Where this departs from the papers: DANN's authors label the source 0 and the target 1; here the source
is 1, as P(source | x) is in ``shift``. The loss is the same.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctkd_lessons import expect
from ctkd_lessons.vectors import at_least_float32

Domain = TypeVar("Domain")


def coral_loss(source: Tensor, target: Tensor) -> Tensor:
    """Measure how far the covariances of two samples of features are apart. The means do not count.

    L = ‖C_s − C_t‖²_F / (4 D²), covariances divided by n − 1.

    ``source``: (n, D), ``target``: (m, D), same dtype, n, m ≥ 2. Returns a scalar ≥ 0. Gradient flows
    into both. Raises ``ValueError``/``TypeError`` for anything else. Source: Sun & Saenko 2016, equation 1.
    """
    for name, value in {"source": source, "target": target}.items():
        expect.features(name, value, ndim=2, low_batch=2)
    if source.shape[1] != target.shape[1] or source.dtype != target.dtype:
        raise ValueError(
            f"target: expected {source.shape[1]} features of {source.dtype} as in source, "
            f"got {target.shape[1]} of {target.dtype}"
        )
    difference = _covariance(at_least_float32(source)) - _covariance(at_least_float32(target))
    return (difference.square().sum() / (4 * source.shape[1] ** 2)).to(source.dtype)


def _covariance(features: Tensor) -> Tensor:
    centred = features - features.mean(dim=0)
    return centred.T @ centred / (len(features) - 1)  # written out: torch.cov cannot be traced by fit


def reverse_gradient(x: Tensor, strength: float | Tensor = 1.0) -> Tensor:
    """Return ``x`` as it is; the gradient that comes back is multiplied by −strength.

    What lies behind it learns to lower the loss, what lies before it to raise it.

    ``x``: any floating tensor; ``strength``: a number ≥ 0, or a tensor without axes, as under a
    ``ramp``; it gets no gradient. Works under ``vmap``. Raises ``ValueError``/``TypeError`` for anything
    else. Source: Ganin et al. 2016, equation 18.
    """
    expect.logits("x", x)
    if isinstance(strength, Tensor):
        if strength.ndim or not strength.is_floating_point():
            raise ValueError(f"strength: expected a number or a floating tensor (), got shape {tuple(strength.shape)}")
        strength = strength.detach()
        expect.true(torch.isfinite(strength) & (strength >= 0), "strength: expected a finite number of at least 0")
    else:
        expect.number("strength", strength, low=0)
    return _Reversed.apply(x, torch.as_tensor(strength, dtype=x.dtype, device=x.device))


class _Reversed(torch.autograd.Function):
    generate_vmap_rule = True  # both directions are plain tensor operations: vmap can map them itself

    @staticmethod
    def forward(x: Tensor, strength: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (strength,) = ctx.saved_tensors
        return -strength * gradient, None


def domain_loss(source_logits: Tensor, target_logits: Tensor) -> Tensor:
    """Measure how badly a critic tells the domains apart: the source should get large logits.

    L = ½ (mean log(1 + e^{−a_s}) + mean log(1 + e^{a_t})): log 2 for a critic that knows nothing.

    Each of any shape, one logit per image; both domains count alike. Returns a scalar. Raises
    ``ValueError``/``TypeError`` for anything else. Source: Ganin et al. 2016, equation 9.
    """
    expect.logits("source_logits", source_logits)
    expect.logits("target_logits", target_logits)
    if source_logits.dtype != target_logits.dtype:
        raise TypeError(f"target_logits: expected dtype {source_logits.dtype}, got {target_logits.dtype}")
    return (F.softplus(-source_logits).mean() + F.softplus(target_logits).mean()) / 2


def ramp(progress: float | Tensor) -> float | Tensor:
    """Rise from 0 to nearly 1: 2 / (1 + e^{−10 t}) − 1.

    Early on the critic's gradient is noise; the classifier learns alone.

    ``progress``: a number or a floating tensor in [0, 1]. Returns the same kind.
    Raises ``ValueError``/``TypeError`` for anything else. Source: Ganin et al. 2016, section 5.2.
    """
    if isinstance(progress, Tensor):
        expect.logits("progress", progress.reshape(-1))
        expect.true((progress >= 0) & (progress <= 1), "progress: expected values of 0 to 1, got others")
        return 2 * torch.sigmoid(10 * progress) - 1
    expect.number("progress", progress, low=0, high=1)
    return 2 / (1 + math.exp(-10 * progress)) - 1


class DomainNetwork(nn.Module):
    """A trunk that makes features, a head that names the class, a critic that names the domain.

    ``trunk``: images (B, …) → features (B, D); ``head``: features → (B, C); ``critic``: features →
    (B, 1). Called on images, it answers with class logits.
    """

    def __init__(self, trunk: nn.Module, head: nn.Module, critic: nn.Module) -> None:
        super().__init__()
        for name, part in {"trunk": trunk, "head": head, "critic": critic}.items():
            expect.module(name, part)
        self.trunk, self.head, self.critic = trunk, head, critic

    def forward(self, images: Tensor) -> Tensor:
        """Return class logits (B, C)."""
        return self.head(self.trunk(images))


def dann_loss(
    model: DomainNetwork, source: Tensor, labels: Tensor, target: Tensor, strength: float | Tensor = 1.0
) -> Tensor:
    """Train a classifier on the source whose features don't give the domain away.

    L = cross-entropy(head(f_s), y) + domain_loss(critic(R(f_s)), critic(R(f_t))), R = ``reverse_gradient``.

    One step down this loss improves head and critic, and moves the trunk *up* the critic's loss.

    ``source``: (n, …) images, ``labels``: (n,); ``target``: (m, …) images without labels. Returns a scalar.
    Raises ``ValueError``/``TypeError`` if these do not fit. Source: Ganin et al. 2016, equations 13 to 18.
    """
    source_features, target_features = model.trunk(source), model.trunk(target)
    logits = model.head(source_features)
    expect.labels("labels", labels, examples=logits.shape[0], classes=logits.shape[1])
    judged = [model.critic(reverse_gradient(one, strength)) for one in (source_features, target_features)]
    return F.cross_entropy(logits, labels.long()) + domain_loss(*judged)


def classifier_discrepancy(first_logits: Tensor, second_logits: Tensor) -> Tensor:
    """Measure how far two classifiers' answers to the same images are apart.

    d = mean over images and classes of |p_1 − p_2|, p = softmax of the logits; at most 2 / C.

    Both (B, C), same dtype. Returns a scalar ≥ 0. Gradient flows into both: in MCD the heads raise d on the
    target, and the trunk, behind ``reverse_gradient``, lowers it. Raises ``ValueError``/``TypeError`` if
    these do not fit. Source: Saito et al. 2018, equation 2.
    """
    expect.logits("first_logits", first_logits, ndim=2)
    expect.logits("second_logits", second_logits, ndim=2)
    expect.same_shape("second_logits", second_logits, "first_logits", first_logits)
    return (first_logits.softmax(dim=1) - second_logits.softmax(dim=1)).abs().mean()


def standardise(images: Tensor, domain: Tensor, floor: float = 0.1) -> Tensor:
    """Bring a domain's images to mean 0 and spread 1 in each pixel, with the domain's *own* unlabelled images.

    z = (x − mean_domain) / (spread_domain + floor). The floor keeps pixels that hardly vary from being blown up.

    ``images``: (…, n, D) to be changed; ``domain``: (…, m, D), m ≥ 2, of the same domain; ``floor`` > 0.
    Returns the shape of ``images``. Raises ``ValueError``/``TypeError`` if these do not fit together.
    Source: after Li et al. 2018, "Adaptive Batch Normalization for Practical Domain Adaptation".
    """
    expect.features("images", images)
    expect.features("domain", domain)
    expect.number("floor", floor, above=0)
    if domain.shape[-2] < 2 or domain.shape[-1] != images.shape[-1] or domain.shape[:-2] != images.shape[:-2]:
        raise ValueError(
            f"domain: expected at least two images of {images.shape[-1]} pixels, with the leading axes "
            f"{tuple(images.shape[:-2])}, got shape {tuple(domain.shape)}"
        )
    return (images - domain.mean(dim=-2, keepdim=True)) / (domain.std(dim=-2, keepdim=True) + floor)


def confident_pseudo_labels(probabilities: Tensor, share: float = 1.0, threshold: float = 0.0) -> tuple[Tensor, Tensor]:
    """Take a model's first choices as labels where it is confident, no class more than its part.

    Kept is an example whose largest probability is at least ``threshold``, and among the ⌊share · n / C⌋
    most confident of its class (at least one). Equal confidence: the earlier example first.

    ``probabilities``: (…, n, C), of each seed's *own* model; ``share``: in (0, 1]; ``threshold``: in
    [0, 1]. Returns labels (…, n), int64, and kept (…, n), bool. Raises ``ValueError``/``TypeError`` for
    anything else. Source: Zou et al. 2018, section 4, with equal classes.
    """
    _expect_probabilities(probabilities)
    expect.number("share", share, above=0, high=1)
    expect.number("threshold", threshold, low=0, high=1)
    examples, classes = probabilities.shape[-2:]
    quota = max(1, int(round(share * examples / classes, 9)))
    confidence, labels = probabilities.detach().max(dim=-1)
    order = confidence.argsort(dim=-1, descending=True, stable=True)
    sorted_labels = F.one_hot(labels.gather(-1, order), classes)
    rank_by_class = (sorted_labels.cumsum(dim=-2) * sorted_labels).sum(dim=-1)  # 1 for the most confident of its class
    rank = torch.empty_like(rank_by_class).scatter_(-1, order, rank_by_class)
    return labels, (rank <= quota) & (confidence >= threshold)


def nearest_neighbours(x: Tensor, count: int) -> Tensor:
    """Return the rows of the ``count`` points nearest to each point, itself included.

    ``x``: (…, n, D), n ≥ ``count``. Returns (…, n, count), int64.
    Raises ``ValueError``/``TypeError`` for anything else.
    """
    expect.features("x", x)
    expect.count("count", count, high=x.shape[-2])
    x = at_least_float32(x.detach())
    x = x - x.mean(dim=-2, keepdim=True)  # the distances stay; far from 0 they would lose digits
    distances = torch.cdist(x, x)
    distances.diagonal(dim1=-2, dim2=-1).fill_(-1)  # itself first, also among its doubles
    return distances.topk(count, dim=-1, largest=False).indices


def smooth_over_neighbours(probabilities: Tensor, neighbours: Tensor, rounds: int = 3) -> Tensor:
    """Replace each answer with the mean over its neighbours' answers, ``rounds`` times.

    An image that was mistaken alone is outvoted by others that look like it.

    ``probabilities``: (…, n, C); ``neighbours``: (…, n, k), rows. Returns (…, n, C); rows still add up to 1.
    Raises ``ValueError``/``TypeError`` if these do not fit together.
    Source: after Zhou et al. 2004, "Learning with Local and Global Consistency".
    """
    _expect_probabilities(probabilities)
    expect.count("rounds", rounds, low=0)
    if not isinstance(neighbours, Tensor) or neighbours.dtype != torch.int64:
        raise TypeError(
            f"neighbours: expected int64 rows, got {getattr(neighbours, 'dtype', type(neighbours).__name__)}"
        )
    if neighbours.shape[:-1] != probabilities.shape[:-1] or not neighbours.shape[-1]:
        raise ValueError(
            f"neighbours: expected {(*probabilities.shape[:-1], 'k')}, got shape {tuple(neighbours.shape)}"
        )
    examples, classes = probabilities.shape[-2:]
    expect.true(
        (neighbours >= 0) & (neighbours < examples), f"neighbours: expected rows 0 to {examples - 1}, got others"
    )
    flat = neighbours.flatten(-2).unsqueeze(-1).expand(*neighbours.shape[:-2], -1, classes)
    for _ in range(rounds):
        probabilities = probabilities.gather(-2, flat).unflatten(-2, neighbours.shape[-2:]).mean(dim=-2)
    return probabilities


def mutual_information(probabilities: Tensor) -> Tensor:
    """Say how decided *and* how varied answers are, without a label: larger is better.

    I = H(mean_i p_i) − mean_i H(p_i), H(p) = −Σ_c p_c log p_c: log C at best, 0 where all answers are
    alike. Entropy alone would praise a model that calls everything a 1.

    ``probabilities``: (…, n, C). Returns (…). Raises ``ValueError``/``TypeError`` for anything else.
    Source: Shi & Sha 2012, section 3.
    """
    _expect_probabilities(probabilities)
    return _entropy(probabilities.mean(dim=-2)) - _entropy(probabilities).mean(dim=-1)


def leave_one_domain_out(
    domains: Mapping[str, Domain],
    train: Callable[[Sequence[Domain]], Any],
    score: Callable[[Any, Domain], Any],
) -> dict[str, Any]:
    """Score each domain with a model that was trained on all the others.

    ``domains``: name → data, at least two; ``train(others)``: a model of the others' data, in order;
    ``score(model, left_out)``: what counts. Returns name → score. Raises ``ValueError``/``TypeError`` for
    fewer than two domains.
    """
    if not isinstance(domains, Mapping):
        raise TypeError(f"domains: expected name → data, got {type(domains).__name__}")
    if len(domains) < 2:
        raise ValueError(f"domains: expected at least two, so that one can be left out, got {len(domains)}")
    others = {name: [one for other, one in domains.items() if other != name] for name in domains}
    return {name: score(train(others[name]), left_out) for name, left_out in domains.items()}


def _entropy(probabilities: Tensor) -> Tensor:
    return -torch.special.xlogy(probabilities, probabilities).sum(dim=-1)


def _expect_probabilities(value: Tensor) -> None:
    expect.logits("probabilities", value)
    if value.ndim < 2:
        raise ValueError(f"probabilities: expected (…, n, C), got shape {tuple(value.shape)}")
    total = value.detach().sum(dim=-1)
    expect.true(
        (value >= 0) & (total - 1).abs().le(1e-3).unsqueeze(-1), "probabilities: expected rows ≥ 0 that add up to 1"
    )
