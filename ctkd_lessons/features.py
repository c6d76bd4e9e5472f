"""Features: train a student to match what lies inside a teacher, or how it relates its examples.

Sources: Romero et al. 2015, "FitNets: Hints for Thin Deep Nets", equation 3 (hints); Zagoruyko &
Komodakis 2017, "Paying More Attention to Attention", equation 2 (attention); Tung & Mori 2019,
"Similarity-Preserving Knowledge Distillation", equations 2 to 4; Park et al. 2019, "Relational
Knowledge Distillation", equations 6 to 9; Kornblith et al. 2019, "Similarity of Neural Network
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

Where this departs from the papers: the attention loss is the norm of the equation (the authors'
released code takes the mean of squares), and the relational distances are divided by the mean over
all pairs of different examples (the authors' code leaves out pairs at distance zero).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctkd_lessons import expect


def activations(model: nn.Module, x: Tensor, layers: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
    """Run a model and return its output together with what the named layers put out.

    ``layers``: names as in ``model.named_modules()``, such as ``["2"]``. Returns the output and
    name → tensor, with gradients attached. The model is left as it was. Raises ``ValueError``,
    listing the layers there are, for an unknown name or a layer that was not run.
    """
    known = {name: module for name, module in model.named_modules() if name}
    unknown = [name for name in layers if name not in known]
    if isinstance(layers, str) or unknown:
        raise ValueError(f"layers: expected a list of names among {list(known)}, got {layers!r}")
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> torch.utils.hooks.RemovableHandle:
        return known[name].register_forward_hook(lambda module, inputs, output: seen.update({name: output}))

    handles = [keep(name) for name in layers]
    try:
        output = model(x)
    finally:
        for handle in handles:
            handle.remove()
    silent = [name for name in layers if name not in seen]
    if silent:
        raise ValueError(f"layers: expected layers that the model runs, got {silent}, which it does not")
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
    return _unit(_energy(features).flatten(1))


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
        _unit(F.adaptive_avg_pool2d(_energy(features), size).flatten(1))
        for features in (student_features, teacher_features.detach())
    )
    return _length(q_s - q_t).mean()


def similarity_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """Measure how differently the two networks rate which examples of the batch are alike.

    L = ‖G_s − G_t‖²_F / B², G = F Fᵀ with rows of length 1, F: (B, …) flattened to rows.

    Features: (B, …), same B and dtype, anything else may differ. Returns a scalar ≥ 0. Raises
    ``ValueError``/``TypeError`` if they are not. Source: Tung & Mori 2019, equations 2 to 4.
    One library divides each row by its sum (L1) by mistake.
    """
    _expect_features(student_features, teacher_features)
    rows_s, rows_t = student_features.flatten(1), teacher_features.detach().flatten(1)
    return (_unit(rows_s @ rows_s.mT) - _unit(rows_t @ rows_t.mT)).square().mean()


def distance_loss(student_embeddings: Tensor, teacher_embeddings: Tensor) -> Tensor:
    """Measure how differently the two networks space the examples of the batch (RKD-D).

    L = mean over B² pairs of Huber(d_s − d_t), δ = 1; d: Euclidean distances divided by the mean
    distance of different examples. If all examples coincide, d is zero.

    Embeddings: (B, D), B ≥ 2, same B and dtype, D may differ. Returns a scalar ≥ 0. Raises
    ``ValueError``/``TypeError`` if they are not. Source: Park et al. 2019, equations 6 and 7.
    """
    _expect_features(student_embeddings, teacher_embeddings, kind="embeddings", ndim=2, low_batch=2)
    d_s, d_t = _relative_distances(student_embeddings), _relative_distances(teacher_embeddings.detach())
    return F.huber_loss(d_s, d_t)


def angle_loss(student_embeddings: Tensor, teacher_embeddings: Tensor) -> Tensor:
    """Measure how differently the two networks place the examples around each other (RKD-A).

    L = mean over B³ triplets of Huber(cos_s − cos_t), δ = 1; cos: of the angle at example j between
    the directions to i and k, 0 where a direction has no length.

    Arguments, result and errors as ``distance_loss``; takes memory for B³ numbers.
    Source: Park et al. 2019, equations 8 and 9.
    """
    _expect_features(student_embeddings, teacher_embeddings, kind="embeddings", ndim=2, low_batch=2)
    return F.huber_loss(_cosines(student_embeddings), _cosines(teacher_embeddings.detach()))


def linear_cka(x: Tensor, y: Tensor, *, debiased: bool = False) -> Tensor:
    """Say how alike two representations of the same examples are: 1 if equal up to rotation and scale.

    CKA = ‖YᵀX‖²_F / (‖XᵀX‖_F ‖YᵀY‖_F), columns centred. The value grows with the width when
    examples are few; ``debiased=True`` takes the unbiased estimate of each factor instead, which
    is 0 on average for unrelated features and may be negative.

    ``x``, ``y``: (n, …), flattened to rows; same n and dtype; n ≥ 2, or n ≥ 4 debiased. Returns a
    scalar. Raises ``ValueError``/``TypeError`` if they are not, and for features that are the same
    for every example. Sources: Kornblith et al. 2019, section 3; Song et al. 2012, "Feature
    Selection via Dependence Maximization", equation 5 (unbiased).
    """
    expect.features("x", x, low_batch=4 if debiased else 2)
    expect.features("y", y, low_batch=4 if debiased else 2)
    _expect_same_batch("x", x, "y", y)
    k, l = (_gram(features.flatten(1)) for features in (x, y))  # noqa: E741 -- the paper's letters
    dependence = _unbiased_hsic if debiased else lambda a, b: (a * b).sum()
    own_x, own_y = dependence(k, k), dependence(l, l)
    expect.true(own_x > 0, "x: expected features that differ between examples, got the same for all")
    expect.true(own_y > 0, "y: expected features that differ between examples, got the same for all")
    return dependence(k, l) / (own_x.sqrt() * own_y.sqrt())


def _energy(features: Tensor) -> Tensor:
    """Return the sum of squares over the maps: (B, M, H, W) → (B, H, W)."""
    return features.square().sum(dim=1)


def _length(x: Tensor) -> Tensor:
    """Return the Euclidean length over the last axis; where it is zero, so is its gradient."""
    square = x.square().sum(dim=-1)
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1).sqrt(), 0)


def _unit(x: Tensor) -> Tensor:
    """Divide by the length over the last axis; zero stays zero, with a gradient that stays small."""
    length = _length(x).unsqueeze(-1)
    return x / torch.where(length > 0, length, 1)


def _relative_distances(embeddings: Tensor) -> Tensor:
    # Differences first: |a|² + |b|² − 2 a·b loses all digits when a and b are nearly the same.
    distances = _length(embeddings.unsqueeze(0) - embeddings.unsqueeze(1))
    batch = len(embeddings)
    mean = distances.sum() / (batch * (batch - 1))  # the diagonal adds nothing to the sum
    return distances / torch.where(mean > 0, mean, 1)


def _cosines(embeddings: Tensor) -> Tensor:
    """Return the cosines at j between i and k: (B, B, B), axes j, i, k."""
    directions = _unit(embeddings.unsqueeze(0) - embeddings.unsqueeze(1))
    return directions @ directions.mT


def _gram(rows: Tensor) -> Tensor:
    centred = rows - rows.mean(dim=0)
    return centred @ centred.mT


def _unbiased_hsic(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741 -- the paper's letters
    n = len(k)
    off_diagonal = 1 - torch.eye(n, dtype=k.dtype, device=k.device)
    k, l = k * off_diagonal, l * off_diagonal  # noqa: E741
    sums = k.sum() * l.sum() / ((n - 1) * (n - 2))
    crossed = 2 / (n - 2) * (k.sum(dim=0) * l.sum(dim=0)).sum()
    return ((k * l).sum() + sums - crossed) / (n * (n - 3))


def _expect_features(
    student: Tensor, teacher: Tensor, *, kind: str = "features", ndim: int | None = None, low_batch: int = 1
) -> None:
    expect.features(f"student_{kind}", student, ndim=ndim, low_batch=low_batch)
    expect.features(f"teacher_{kind}", teacher, ndim=ndim, low_batch=low_batch)
    _expect_same_batch(f"student_{kind}", student, f"teacher_{kind}", teacher)


def _expect_same_batch(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    if len(value) != len(other):
        raise ValueError(f"{other_name}: expected the {len(value)} examples of {name}, got {len(other)}")
    if value.dtype != other.dtype:
        raise TypeError(f"{other_name}: expected the dtype of {name}, {value.dtype}, got {other.dtype}")
