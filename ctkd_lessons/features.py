"""Features: train a student to match what lies inside a teacher, or how it relates its examples.

Sources: Romero et al. 2015, "FitNets: Hints for Thin Deep Nets", equation 3 (hints); Zagoruyko &
Komodakis 2017, "Paying More Attention to Attention", equation 2 (attention); Tung & Mori 2019,
"Similarity-Preserving Knowledge Distillation", equations 2 to 4; Park et al. 2019, "Relational
Knowledge Distillation", section 3.2; Kornblith et al. 2019, "Similarity of Neural Network
Representations Revisited", section 3 (CKA).

========  ==================  ==========================================================
symbol    argument            shape, meaning
========  ==================  ==========================================================
f_s, f_t  …_features          (B, …) what a layer puts out for B examples; maps (B, M, H, W)
e_s, e_t  …_embeddings        (B, D) one vector per example; the two widths may differ
q                             (B, H·W) attention map: where a layer is active, of length 1
G                             (B, B) how alike the examples are to one network
========  ==================  ==========================================================

The teacher never receives gradient. ``hint_loss`` compares numbers with numbers, so a student of
another width needs a projector. The others compare what does not depend on the width.

Where this departs from the papers: the weights β/2 and λ are left to the caller. Maps of different
sizes are averaged down to the smaller; the paper interpolates them. The relational losses are
means over all B² pairs and B³ triplets; the paper sums over those of different examples.

Where released code departs from the papers, this does not: the attention loss is a norm (the
authors' code takes the mean of squares), and relational distances are divided by the mean over all
pairs of different examples (the authors' code leaves out pairs at distance zero).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctkd_lessons import expect
from ctkd_lessons.hooks import expect_heard, listen
from ctkd_lessons.vectors import at_least_float32, length, unit


def activations(model: nn.Module, x: Tensor, layers: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
    """Run a model and return its output together with what the named layers put out.

    ``layers``: names as in ``model.named_modules()``, such as ``["2"]``. Returns the output and
    name → tensor, with gradients attached; of a layer that runs several times, the last. The model
    is left as it was. Raises ``ValueError``, listing the layers there are, for an unknown name or a
    layer that was not run, and ``TypeError`` for a layer that puts out no tensor.
    """
    with listen(model, layers) as seen:
        output = model(x)
    expect_heard(layers, seen)
    return output, seen


def hint_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """Measure the squared difference of two layers' outputs.

    L = ½ mean_i ‖f_s − f_t‖², summed over everything but the batch.

    Both features: (B, …), same shape and dtype; a student of another width goes through its
    projector first. Returns a scalar ≥ 0. The mean over *elements*, which some code takes, is
    2 / (M·H·W) times this. Raises ``ValueError``/``TypeError`` if shapes, dtypes or values are not
    as above. Source: Romero et al. 2015, equation 3.
    """
    _expect_features(student_features, teacher_features)
    expect.same_shape("student_features", student_features, "teacher_features", teacher_features)
    return 0.5 * (student_features - teacher_features.detach()).square().flatten(1).sum(dim=1).mean()


def attention_map(features: Tensor) -> Tensor:
    """Say where a convolutional layer is active, example by example.

    q = Σ_c f_c², flattened and divided by its length; a map of zeros stays zero.

    ``features``: (B, M, H, W). Returns (B, H·W). Raises ``ValueError``/``TypeError`` for other
    shapes, maps of zero size and non-finite values. Source: Zagoruyko & Komodakis 2017, section 3.1.
    """
    expect.features("features", features, ndim=4)
    return unit(_energy(features).flatten(1)).to(features.dtype)


def attention_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """Measure how far the student looks elsewhere than the teacher.

    L = mean_i ‖q_s − q_t‖₂. Where the maps differ in height or width, the sums of squares are
    first averaged down to the smaller size.

    Features: (B, M, H, W), M, H and W may differ. Returns a scalar ≥ 0. Raises
    ``ValueError``/``TypeError`` as ``attention_map``, and for another batch size or dtype.
    Source: Zagoruyko & Komodakis 2017, equation 2.
    """
    _expect_features(student_features, teacher_features, ndim=4)
    size = [min(pair) for pair in zip(student_features.shape[2:], teacher_features.shape[2:], strict=True)]
    q_s, q_t = (
        unit(F.adaptive_avg_pool2d(_energy(features), size).flatten(1))
        for features in (student_features, teacher_features.detach())
    )
    return length(q_s - q_t).mean().to(student_features.dtype)


def similarity_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """Measure how differently the two networks rate which examples of the batch are alike.

    L = ‖G_s − G_t‖²_F / B², G = F Fᵀ with rows of length 1, F: (B, …) flattened to rows.

    Features: (B, …), same B and dtype, anything else may differ. Returns a scalar ≥ 0. Raises
    ``ValueError``/``TypeError`` if they are not. Source: Tung & Mori 2019, equations 2 to 4.
    """
    _expect_features(student_features, teacher_features)
    rows = (at_least_float32(features.flatten(1)) for features in (student_features, teacher_features.detach()))
    g_s, g_t = (unit(one @ one.mT) for one in rows)
    return (g_s - g_t).square().mean().to(student_features.dtype)


def distance_loss(student_embeddings: Tensor, teacher_embeddings: Tensor) -> Tensor:
    """Measure how differently the two networks space the examples of the batch (RKD-D).

    L = mean over B² pairs of Huber(d_s − d_t), δ = 1; d: Euclidean distances divided by the mean
    distance of different examples. If all examples coincide, d is zero.

    The value keeps its digits for nearly identical rows in float32. The gradient loses some where
    tight clusters lie far apart, but is right under ``vmap``, where that of ``torch.cdist`` is not.

    Embeddings: (B, D), B ≥ 2, same B and dtype, D may differ. Returns a scalar ≥ 0. Raises
    ``ValueError``/``TypeError`` if they are not. Source: Park et al. 2019, section 3.2.1.
    """
    _expect_features(student_embeddings, teacher_embeddings, kind="embeddings", ndim=2, low_batch=2)
    d_s, d_t = _relative_distances(student_embeddings), _relative_distances(teacher_embeddings.detach())
    # The Huber loss with δ = 1. F.huber_loss warns under vmap where only the teacher differs by seed.
    return F.smooth_l1_loss(d_s, d_t).to(student_embeddings.dtype)


def angle_loss(student_embeddings: Tensor, teacher_embeddings: Tensor) -> Tensor:
    """Measure how differently the two networks place the examples around each other (RKD-A).

    L = mean over B³ triplets of Huber(cos_s − cos_t), δ = 1; cos: of the angle at example j between
    the directions to i and k, 0 where a direction has no length.

    Arguments, result and errors as ``distance_loss``; takes memory for B³ numbers.
    Source: Park et al. 2019, section 3.2.2.
    """
    _expect_features(student_embeddings, teacher_embeddings, kind="embeddings", ndim=2, low_batch=2)
    cos_s, cos_t = _cosines(student_embeddings), _cosines(teacher_embeddings.detach())
    return F.smooth_l1_loss(cos_s, cos_t).to(student_embeddings.dtype)


def linear_cka(x: Tensor, y: Tensor, *, debiased: bool = False) -> Tensor:
    """Say how alike two representations of the same examples are: 1 if equal up to rotation and scale.

    CKA = ‖YᵀX‖²_F / (‖XᵀX‖_F ‖YᵀY‖_F), columns centred. With K = XXᵀ and L = YYᵀ this is the cosine
    between K and L taken as vectors: Σ K∘L / (‖K‖_F ‖L‖_F). The value grows with the width when
    examples are few; ``debiased=True`` takes the unbiased estimate of each factor instead, which
    is 0 on average for unrelated features and may be negative.

    ``x``, ``y``: (n, …), flattened to rows; same n and dtype; n ≥ 2, or n ≥ 4 debiased. Returns a
    scalar. Raises ``ValueError``/``TypeError`` if they are not, for features that are the same for
    every example, and debiased where nothing but bias is there, as for one-hot rows.
    Sources: Kornblith et al. 2019, section 3; Song et al. 2012, "Feature Selection via Dependence
    Maximization", equation 5 (unbiased).
    """
    expect.features("x", x, low_batch=4 if debiased else 2)
    expect.features("y", y, low_batch=4 if debiased else 2)
    expect.same_batch("x", x, "y", y)
    return (_likeness("x", x, debiased) * _likeness("y", y, debiased)).sum().to(x.dtype)


def _energy(features: Tensor) -> Tensor:
    """Return the sum of squares over the maps: (B, M, H, W) → (B, H, W)."""
    return at_least_float32(features).square().sum(dim=1)


def _relative_distances(embeddings: Tensor) -> Tensor:
    """Return the distances of all pairs, divided by their mean: (B, D) → (B, B); 0 has the gradient 0."""
    batch, x = len(embeddings), at_least_float32(embeddings)
    # The values from differences: |a|² + |b|² − 2 a·b loses all digits when a and b are nearly the same.
    values = torch.cdist(x.detach(), x.detach(), compute_mode="donot_use_mm_for_euclid_dist")
    # The slopes from |a|² + |b|² − 2 a·b: under vmap those of cdist are wrong (torch 2.13), and only first order.
    x = x - x.detach().mean(dim=0)
    squares = x.square().sum(dim=-1)
    changes = squares.unsqueeze(0) + squares.unsqueeze(1) - 2 * x @ x.mT
    apart = values > 0
    distances = torch.where(apart, values.square() + (changes - changes.detach()), 1).sqrt() * apart
    mean = distances.mean() * (batch / (batch - 1))  # the diagonal adds nothing to the sum
    return distances / torch.where(mean > 0, mean, 1)


def _cosines(embeddings: Tensor) -> Tensor:
    """Return the cosines at j between i and k: (B, B, B), axes j, i, k."""
    x = at_least_float32(embeddings)
    directions = unit(x.unsqueeze(0) - x.unsqueeze(1))
    return directions @ directions.mT


def _likeness(name: str, features: Tensor, debiased: bool) -> Tensor:
    """Return how alike the examples are as a vector of length 1: (n · n,)."""
    rows = at_least_float32(features).flatten(1)
    differ = rows != rows[:1]  # before centring, which leaves rounding errors
    expect.true(differ.any(), f"{name}: expected features that differ between examples, got the same for all")
    rows = rows - rows.mean(dim=0)
    rows = rows / rows.abs().amax()  # CKA knows no scale; squares of squares of large features would overflow
    k = rows @ rows.mT
    if debiased:
        rounding = 8 * torch.finfo(k.dtype).eps * k.abs().amax()
        k = _without_bias(k)
        expect.true(
            (k.abs() > rounding).any(),
            f"{name}: expected examples of which some are more alike than others, got none but for the bias",
        )
    return unit(k.flatten())


def _without_bias(k: Tensor) -> Tensor:
    """Drop the diagonal and centre the rest, so that Σ K∘L is n (n − 3) times the unbiased HSIC of Song et al."""
    n = len(k)
    others = 1 - torch.eye(n, dtype=k.dtype, device=k.device)
    k = k * others
    row_means = k.sum(dim=0) / (n - 2)
    return (k - row_means.unsqueeze(0) - row_means.unsqueeze(1) + k.sum() / ((n - 1) * (n - 2))) * others


def _expect_features(
    student: Tensor, teacher: Tensor, *, kind: str = "features", ndim: int | None = None, low_batch: int = 1
) -> None:
    expect.features(f"student_{kind}", student, ndim=ndim, low_batch=low_batch)
    expect.features(f"teacher_{kind}", teacher, ndim=ndim, low_batch=low_batch)
    expect.same_batch(f"student_{kind}", student, f"teacher_{kind}", teacher)
