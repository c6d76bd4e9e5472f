"""The exercises of lesson 02: what to match."""

from collections.abc import Callable
from functools import partial
from itertools import chain

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctkd_lessons import features as lesson
from ctkd_lessons.course.exercises.description import (
    Answer,
    Case,
    Exercise,
    Mistake,
    Observation,
    Property,
    observe_call,
    observe_value_only,
    tensors,
)
from ctkd_lessons.course.exercises.shared import (
    ACCUMULATES,
    ADAM,
    CROSS_ENTROPY,
    FOURTH_POWER,
    LOG_OF_SOFTMAX,
    NO_SQUARE,
    PROBABILITIES_SQUARED,
    STUDENT_NOT_LOGGED,
    STUDENT_UNSOFTENED,
    SUMMED,
    SWAPPED,
    TEACHER_UNSOFTENED,
    ZEROED_LATE,
    chosen,
    draw,
    mistake_not_detached,
    mistake_student_cut,
    wrong_factor,
    wrong_step,
    wrong_terms,
)
from ctkd_lessons.soft_targets import kd_loss

# What the properties are tried on: two examples of two channels; three points in the plane.
_TWO_MAPS = torch.arange(1.0, 25.0).view(2, 2, 2, 3)
_THREE_POINTS = torch.tensor([[0.0, 1.0], [2.0, 5.0], [3.0, -1.0]])


def _sizes(case: Case) -> dict[str, float]:
    """Name the sizes of the teacher's maps (B, M, H, W)."""
    batch, channels, height, width = case["teacher_features"].shape
    return {
        "the number of examples": batch,
        "the number of channels": channels,
        "the number of positions": height * width,
        "the number of entries per example": channels * height * width,
    }


# --- attention_map ----------------------------------------------------------------------------


def _map_inputs(rng: np.random.Generator) -> list[Case]:
    shapes = ((3, 4, 2, 5), (2, 3, 4, 4), (1, 2, 3, 1), (5, 1, 3, 2), (4, 6, 5, 3), (3, 2, 3, 4))
    cases = draw(rng, [{"features": shape} for shape in shapes], spread=2)
    cases[-1]["features"][1] = 0  # one example of the batch in which the layer is silent
    return cases


_ENERGIES: dict[str, Callable[[Tensor], Tensor]] = {
    "absolute": lambda features: features.abs().sum(1),
    "not_squared": lambda features: features.sum(1),
    "summed_first": lambda features: features.sum(1).square(),
    "rooted": lambda features: features.norm(dim=1),
    "largest": lambda features: features.square().amax(1),
    "over_positions": lambda features: features.square().sum((2, 3)).unsqueeze(1),
}
_LENGTHS: dict[str, Callable[[Tensor], Tensor]] = {
    "not_normalised": lambda energy: torch.ones((), dtype=energy.dtype),
    "absolute_sum": lambda energy: energy.abs().sum((1, 2), keepdim=True),
    "squared_length": lambda energy: energy.square().sum((1, 2), keepdim=True),
    "over_batch": lambda energy: energy.norm(),
    "over_examples": lambda energy: energy.norm(dim=0),
    "over_height": lambda energy: energy.norm(dim=1, keepdim=True),
    "over_width": lambda energy: energy.norm(dim=2, keepdim=True),
    "largest_is_one": lambda energy: energy.amax((1, 2), keepdim=True),
    "root_at_zero": lambda energy: energy.square().sum((1, 2), keepdim=True).sqrt(),
}


def _wrong_map(
    features: Tensor,
    *,
    columns_first: bool = False,
    features_normalised: bool = False,
    softmaxed: bool = False,
    no_guard: bool = False,
    **switches: bool,
) -> Tensor:
    if features_normalised:
        return F.normalize(features, dim=1).square().sum(1).flatten(1)
    energy_of = chosen(_ENERGIES, switches, lambda features: features.square().sum(1))
    length_of = chosen(_LENGTHS, switches, lambda energy: energy.norm(dim=(1, 2), keepdim=True))
    energy = energy_of(features).mT if columns_first else energy_of(features)
    if softmaxed:
        return energy.flatten(1).softmax(1)
    return (energy / (length_of(energy) + (0 if no_guard else 1e-12))).flatten(1)


ATTENTION_MAP = Exercise(
    id="02.attention_map",
    title="The attention map",
    points=2,
    reference=lesson.attention_map,
    inputs=_map_inputs,
    drive=observe_call,
    wrong=_wrong_map,
    mistakes=(
        Mistake(
            "absolute",
            "computed from absolute values instead of squares",
            "The paper tries both; here the activations are squared before they are added up.",
        ),
        Mistake(
            "not_squared",
            "computed from the plain sum over the channels",
            "Positive and negative activations cancel. What makes both count?",
        ),
        Mistake(
            "summed_first",
            "the square of a sum instead of the sum of squares",
            "Activations of opposite sign must not cancel: which comes first, the square or the sum?",
        ),
        Mistake(
            "rooted",
            "computed from the root of the sum of squares",
            "A norm over the channels takes a root at the end. The formula has none.",
        ),
        Mistake(
            "largest",
            "computed from the largest square instead of their sum",
            "The paper has this form, too; here all channels count.",
        ),
        Mistake(
            "over_positions",
            "one number per channel instead of one per position",
            "The map says *where* the layer is active: add up over the channels, axis 1, and keep H and W.",
        ),
        Mistake(
            "features_normalised",
            "1 at every position: the features are normalised, not the map",
            "Add up the squares first; then divide the map by its length.",
        ),
        Mistake(
            "columns_first",
            "flattened column by column",
            "Keep the order of the axes: position (h, w) goes to entry h·W + w.",
        ),
        Mistake(
            "not_normalised",
            "not normalised",
            "Two networks whose activations differ only in size should have the same map. Divide by its length.",
        ),
        Mistake(
            "absolute_sum",
            "divided by its sum (L1) instead of its length (L2)",
            "‖q‖₂ is the root of the sum of squares. In `F.normalize` the second argument is p, the third the axis.",
        ),
        Mistake(
            "squared_length",
            "divided by the square of its length",
            "The sum of the squared entries should be 1 afterwards. A root is missing.",
        ),
        Mistake(
            "over_batch",
            "divided by one length for the whole batch",
            "Each example's map has length 1, whatever the others in the batch are.",
        ),
        Mistake(
            "over_examples",
            "normalised over the examples",
            "Each *row* of the result should have length 1, not each column. Which axis is that?",
        ),
        Mistake(
            "over_height",
            "normalised over the height only",
            "`F.normalize` works on axis 1 unless told otherwise. Which axis is that before the map is flattened?",
        ),
        Mistake(
            "over_width",
            "normalised over the width only",
            "The last axis holds all positions only after the map is flattened.",
        ),
        Mistake(
            "largest_is_one",
            "scaled so that its largest entry is 1",
            "Good for a picture, but one outlier then rules the scale. Divide by the length.",
        ),
        Mistake("softmaxed", "a softmax over the positions", "The formula has no exponential: divide by the length."),
        Mistake(
            "no_guard",
            "right but for a map of zeros, where it divides 0 by 0",
            "A layer may be silent on an example. Divide by something that is never 0, and such a map stays zero.",
        ),
        Mistake(
            "root_at_zero",
            "right in value, but its gradient at a map of zeros is nan",
            "Where does your code take the root of 0, or divide by 0 and drop the result? Neither has a slope, and a "
            "nan that `where` hides still spoils the gradient. `F.normalize` guards against both.",
        ),
    ),
    properties=(
        Property(
            "does not change when the features are multiplied by a constant",
            lambda answer: torch.allclose(answer(_TWO_MAPS), answer(7 * _TWO_MAPS), rtol=1e-4),
        ),
    ),
    alone=frozenset(
        {
            "largest",
            "over_positions",
            "features_normalised",
            "softmaxed",
            "largest_is_one",
            "over_width",
            "root_at_zero",
        }
    ),
)


# --- projected_hint ---------------------------------------------------------------------------


def _hint_inputs(rng: np.random.Generator) -> list[Case]:
    # Examples, student's and teacher's channels, height, width; equal widths first: a transposed weight fits.
    sizes = ((4, 3, 3, 2, 5), (3, 2, 5, 4, 3), (1, 4, 2, 3, 3), (6, 2, 3, 1, 4), (2, 5, 4, 3, 2))
    shapes = [
        {"student_features": (b, m_s, h, w), "teacher_features": (b, m_t, h, w), "weight": (m_t, m_s)}
        for b, m_s, m_t, h, w in sizes
    ]
    return draw(rng, shapes)


def _projected_hint(student_features: Tensor, teacher_features: Tensor, weight: Tensor) -> Tensor:
    """½ mean_i ‖W f_s − f_t‖², W applied at every position."""
    return lesson.hint_loss(torch.einsum("ts,bshw->bthw", weight, student_features), teacher_features)


def _wrong_hint(
    student_features: Tensor,
    teacher_features: Tensor,
    weight: Tensor,
    *,
    element_mean: bool = False,
    half_element_mean: bool = False,
    no_half: bool = False,
    summed: bool = False,
    position_mean: bool = False,
    not_squared: bool = False,
    absolute: bool = False,
    not_detached: bool = False,
    student_cut: bool = False,
    weight_cut: bool = False,
    transposed: bool = False,
    teacher_projected: bool = False,
    reshaped: bool = False,
) -> Tensor:
    student = student_features.detach() if student_cut else student_features
    teacher = teacher_features if not_detached or student_cut else teacher_features.detach()
    weight = weight.detach() if weight_cut else weight
    matrix = weight.T if transposed else weight
    if teacher_projected:
        difference = student - torch.einsum("st,bshw->bthw", matrix, teacher)
    elif reshaped:
        # The memory is read as if the channels were the last axis: positions and channels get mixed up.
        rows = student.reshape(len(student), -1, student.shape[1])
        difference = (rows @ matrix.T).reshape(teacher.shape) - teacher
    else:
        difference = torch.einsum("ts,bshw->bthw", matrix, student) - teacher
    terms = difference.abs() if absolute else difference.square()
    if element_mean or half_element_mean:
        return terms.mean() * (0.5 if half_element_mean else 1.0)
    per_example = terms.mean((2, 3)).sum(1) if position_mean else terms.sum((1, 2, 3))
    per_example = per_example.sqrt() if not_squared else per_example
    return (per_example.sum() if summed else per_example.mean()) * (1 if no_half else 0.5)


PROJECTED_HINT = Exercise(
    id="02.projected_hint",
    title="The hint loss behind a projector",
    points=2,
    reference=_projected_hint,
    inputs=_hint_inputs,
    drive=partial(observe_call, constants=("teacher_features",)),
    wrong=_wrong_hint,
    mistakes=(
        Mistake(
            "element_mean",
            "the mean over all elements",
            "`F.mse_loss` gives this: 2/(M·H·W) times the hint loss. Add up over everything but the examples.",
        ),
        Mistake(
            "half_element_mean",
            "half the mean over all elements",
            "The ½ is right. But `F.mse_loss` averages over channels and positions, and ‖·‖² adds them up.",
        ),
        Mistake("no_half", "twice the right one: the ½ is missing", "The hint loss is *half* the squared distance."),
        SUMMED,
        Mistake(
            "position_mean",
            "averaged over the positions, too",
            "‖·‖² is a sum over channels *and* positions; the mean runs over the examples only.",
        ),
        Mistake(
            "not_squared",
            "the distance, not its square",
            "The formula has ‖·‖²: leave out the root.",
        ),
        Mistake(
            "absolute",
            "computed from absolute differences",
            "‖·‖² adds up squares, not absolute values.",
        ),
        mistake_not_detached("teacher_features"),
        mistake_student_cut("student_features"),
        Mistake(
            "weight_cut",
            "right in value, but no gradient reaches the projector's weight",
            "The projector is trained with the student. `.detach()`, `.data` or a copy of `weight` cuts it off.",
        ),
        Mistake(
            "transposed",
            "computed with the transposed weight, which fits only where both networks are equally wide",
            "`weight` has shape (M_t, M_s): which of its axes meets the student's channels?",
        ),
        Mistake(
            "teacher_projected",
            "the teacher projected to the student's width",
            "The projector belongs to the student: it turns M_s channels into M_t.",
        ),
        Mistake(
            "reshaped",
            "computed from features whose channels and positions got mixed up by a reshape",
            "`reshape` and `view` don't move an axis; they only count the numbers anew. Which call moves one?",
        ),
    ),
    properties=(
        Property(
            "is zero when the projected student equals the teacher",
            lambda answer: abs(float(answer(_TWO_MAPS, 2 * _TWO_MAPS, 2 * torch.eye(2)))) < 1e-6,
        ),
    ),
    sizes=_sizes,
    alone=frozenset({"transposed", "absolute"}),
)


# --- similarity_loss --------------------------------------------------------------------------


def _similarity_inputs(rng: np.random.Generator) -> list[Case]:
    # As many entries as examples first: there even FᵀF has the right shape. Then other widths and sizes.
    shapes = (
        ((4, 2, 1, 2), (4, 2, 1, 2)),
        ((3, 2, 3, 2), (3, 5, 3, 2)),
        ((2, 3, 2, 4), (2, 4, 1, 3)),
        ((6, 4, 1, 2), (6, 2, 3, 2)),
        ((5, 1, 2, 3), (5, 3, 4, 4)),
    )
    return draw(rng, [{"student_features": s, "teacher_features": t} for s, t in shapes])


def _wrong_similarity(
    student_features: Tensor,
    teacher_features: Tensor,
    *,
    not_normalised: bool = False,
    absolute_row_sums: bool = False,
    row_sums: bool = False,
    whole_norm: bool = False,
    mean_length: bool = False,
    cosine: bool = False,
    both_normalised: bool = False,
    centred: bool = False,
    no_batch_mean: bool = False,
    one_batch_mean: bool = False,
    not_squared: bool = False,
    absolute: bool = False,
    feature_gram: bool = False,
    channels_as_rows: bool = False,
    channel_gram: bool = False,
    pooled: bool = False,
    not_detached: bool = False,
    student_cut: bool = False,
) -> Tensor:
    def matrix(features: Tensor) -> Tensor:
        features = features.mean((2, 3)) if pooled else features.flatten(0, 1) if channels_as_rows else features
        features = features.transpose(0, 1) if channel_gram else features
        rows = features.flatten(1)
        rows = F.normalize(rows) if cosine or both_normalised else rows - rows.mean(0) if centred else rows
        gram = rows.T @ rows if feature_gram else rows @ rows.T
        if not_normalised or cosine:
            return gram
        if row_sums:
            return gram / gram.sum(1, keepdim=True)
        return gram / gram.norm() if whole_norm else F.normalize(gram, p=1 if absolute_row_sums else 2)

    student = student_features.detach() if student_cut else student_features
    teacher = teacher_features if not_detached or student_cut else teacher_features.detach()
    difference = matrix(student) - matrix(teacher)
    if channels_as_rows or channel_gram:
        return difference.square().mean()
    if mean_length:
        return difference.norm(dim=1).mean()
    batch = len(student_features)
    total = difference.abs().sum() if absolute else difference.square().sum()
    total = total.sqrt() if not_squared else total
    return total / (1 if no_batch_mean else batch if one_batch_mean else batch**2)


SIMILARITY_LOSS = Exercise(
    id="02.similarity_loss",
    title="The similarity loss",
    points=3,
    reference=lesson.similarity_loss,
    inputs=_similarity_inputs,
    drive=partial(observe_call, constants=("teacher_features",)),
    wrong=_wrong_similarity,
    mistakes=(
        Mistake(
            "not_normalised",
            "computed from a matrix whose rows were not normalised",
            "A teacher with larger activations has larger entries everywhere. Divide each row of G by its length.",
        ),
        Mistake(
            "absolute_row_sums",
            "computed from rows divided by the sum of their absolute values (L1)",
            "The length of a row is the root of its sum of squares. In `F.normalize` the second argument is p, not the "
            "axis; a public library makes this slip.",
        ),
        Mistake(
            "row_sums",
            "computed from rows divided by their sum",
            "A sum may be zero or negative. The length of a row is the root of its sum of squares.",
        ),
        Mistake(
            "whole_norm",
            "computed from a matrix divided by its own norm",
            "Each *row* of G gets length 1, not the matrix as a whole.",
        ),
        Mistake(
            "cosine",
            "computed from cosines: the features are normalised, the rows of G are not",
            "G = F Fᵀ comes first, from the features as they are; then its rows are normalised.",
        ),
        Mistake(
            "both_normalised",
            "computed with features normalised before the product, too",
            "G = F Fᵀ takes the features as they are. Only its rows are normalised.",
        ),
        Mistake(
            "centred",
            "computed from centred features",
            "Centring belongs to CKA. G = F Fᵀ takes the features as they are.",
        ),
        Mistake(
            "no_batch_mean",
            "the sum over all pairs of examples",
            "There are B² pairs, and the loss should not grow with the batch.",
        ),
        Mistake("one_batch_mean", "divided by B, not by B²", "G has B² entries: one for each pair of examples."),
        Mistake(
            "not_squared",
            "the norm of the difference, not its square",
            "‖·‖²_F is the sum of the squared entries: leave out the root.",
        ),
        Mistake(
            "mean_length",
            "the mean over the examples of the length of each row's difference",
            "That is how the attention loss ends. Here the end is ‖·‖²_F / B²: every entry squared, and no root.",
        ),
        Mistake("absolute", "computed from absolute differences", "‖·‖²_F adds up squares, not absolute values."),
        Mistake(
            "feature_gram",
            "computed from FᵀF, which relates features instead of examples",
            "G is (B, B), whatever the width of the layer. On which side does the transposed matrix stand?",
        ),
        Mistake(
            "channels_as_rows",
            "computed with one row for each channel of each example",
            "F has one row per *example*: flatten everything but the batch.",
        ),
        Mistake(
            "channel_gram",
            "computed from an (M, M) matrix, which relates channels instead of examples",
            "G is (B, B): its entry (i, j) compares example i with example j, over all channels and positions.",
        ),
        Mistake(
            "pooled",
            "computed from features averaged over the positions",
            "Keep the positions: each example is one long row of M·H·W numbers.",
        ),
        mistake_not_detached("teacher_features"),
        mistake_student_cut("student_features"),
    ),
    properties=(
        Property(
            "does not change when all features of the student are multiplied by a constant",
            lambda answer: torch.allclose(
                answer(_TWO_MAPS, _TWO_MAPS.flip(1)), answer(3 * _TWO_MAPS, _TWO_MAPS.flip(1)), rtol=1e-4
            ),
        ),
        Property(
            "takes features without height and width, too",
            lambda answer: torch.allclose(
                answer(_TWO_MAPS.flatten(1), _TWO_MAPS.flip(1)), answer(_TWO_MAPS, _TWO_MAPS.flip(1))
            ),
        ),
    ),
    sizes=lambda case: {"the number of examples": len(case["teacher_features"])},
    alone=frozenset(
        {
            "both_normalised",
            "centred",
            "row_sums",
            "channels_as_rows",
            "channel_gram",
            "mean_length",
            "absolute",
            "student_cut",
        }
    ),
)


# --- distance_loss ----------------------------------------------------------------------------


def _distance_inputs(rng: np.random.Generator) -> list[Case]:
    # Examples, student's width, teacher's width; all in double precision, but see _observe_distances.
    plain, narrow, two, wide, outlier, twins, near, near_many = (
        {"student_embeddings": rng.normal(0, 1, (b, d_s)), "teacher_embeddings": rng.normal(0, 1, (b, d_t))}
        for b, d_s, d_t in ((5, 3, 3), (4, 6, 2), (2, 3, 5), (7, 2, 8), (8, 4, 3), (6, 4, 4), (6, 3, 4), (30, 4, 3))
    )
    outlier["student_embeddings"][0] *= 20  # differences beyond 1, where Huber's loss turns straight
    for embeddings, row in zip(twins.values(), (0, 2), strict=True):
        embeddings[row + 1] = embeddings[row]
    for case in (near, near_many):  # rounded, so that single precision holds the very same rows
        case["student_embeddings"] = (1000 + 0.1 * case["student_embeddings"]).astype("float32").astype("float64")
    return [plain, narrow, two, wide, outlier, twins, near, near_many]


_STUDENTS_GRADIENT = "gradient of `student_embeddings`"


def _observe_distances(answer: Answer, case: Case) -> Observation:
    """Observe a call in double precision, and whether single precision gives the same."""
    seen = observe_call(answer, case, constants=("teacher_embeddings",))
    # Compared as single precision: a tiny number under the root, against its slope at 0, is no mistake.
    seen |= {key: value.astype("float32") for key, value in seen.items() if key in ("value", _STUDENTS_GRADIENT)}
    if not np.isfinite(seen.get(_STUDENTS_GRADIENT, 0)).all():
        seen[_STUDENTS_GRADIENT][...] = np.nan  # which entries are spoilt depends on rounding; one spoils the step
    if "value" not in seen:
        return seen
    single = observe_value_only(answer, {name: value.astype("float32") for name, value in case.items()})
    value = single.get("value", np.zeros(0))
    kept = value.shape == seen["value"].shape and np.allclose(value, seen["value"], rtol=1e-2, equal_nan=True)
    return seen | {
        "dtype for float32": single.get("dtype", "none"),
        "value for float32": "as for float64" if kept else "another",
    }


def _differences(rows: Tensor) -> Tensor:
    return rows.unsqueeze(0) - rows.unsqueeze(1)


def _gram_squares(rows: Tensor) -> Tensor:
    """|a|² + |b|² − 2 a·b: what loses its digits."""
    lengths = rows.square().sum(-1)
    squares = lengths.unsqueeze(0) + lengths.unsqueeze(1) - 2 * rows @ rows.T
    return squares.clamp(min=0) * (1 - torch.eye(len(rows), dtype=rows.dtype))


def _root(square: Tensor) -> Tensor:
    """Take the root; where it is zero, so is its slope."""
    return torch.where(square > 0, torch.where(square > 0, square, 1).sqrt(), 0)


_DISTANCES: dict[str, Callable[[Tensor], Tensor]] = {
    "squared_distances": lambda rows: _differences(rows).square().sum(-1),
    "manhattan": lambda rows: _differences(rows).abs().sum(-1),
    "unit_embeddings": lambda rows: _differences(F.normalize(rows)).norm(dim=-1),
    "cdist": lambda rows: torch.cdist(rows, rows),
}
_SCALES: dict[str, Callable[[Tensor], Tensor]] = {
    "not_normalised": lambda distances: torch.ones((), dtype=distances.dtype),
    "diagonal_counted": lambda distances: distances.mean(),
    "positive_only": lambda distances: distances[distances > 0].mean(),
    "largest": lambda distances: distances.max(),
    "scale_cut": lambda distances: _mean_distance(distances).detach(),
}
_PENALTIES: dict[str, Callable[[Tensor], Tensor]] = {
    "mean_square": lambda difference: difference.square(),
    "half_square": lambda difference: 0.5 * difference.square(),
    "absolute": lambda difference: difference.abs(),
}


def _mean_distance(distances: Tensor) -> Tensor:
    return distances.sum() / (len(distances) * (len(distances) - 1))


def _huber(difference: Tensor) -> Tensor:
    return F.huber_loss(difference, torch.zeros_like(difference), reduction="none")


def _wrong_distance(
    student_embeddings: Tensor,
    teacher_embeddings: Tensor,
    *,
    gram: bool = False,
    root_at_zero: bool = False,
    teacher_scale: bool = False,
    pairs_only: bool = False,
    summed: bool = False,
    not_detached: bool = False,
    student_cut: bool = False,
    **switches: bool,
) -> Tensor:
    def euclidean(rows: Tensor) -> Tensor:
        square = _gram_squares(rows) if gram else _differences(rows).square().sum(-1)
        return square.sqrt() if root_at_zero else _root(square)

    student = student_embeddings.detach() if student_cut else student_embeddings
    teacher = teacher_embeddings if not_detached or student_cut else teacher_embeddings.detach()
    distances_of, scale_of = chosen(_DISTANCES, switches, euclidean), chosen(_SCALES, switches, _mean_distance)
    d_s, d_t = distances_of(student), distances_of(teacher)
    difference = d_s / scale_of(d_t if teacher_scale else d_s) - d_t / scale_of(d_t)
    terms = chosen(_PENALTIES, switches, _huber)(difference)
    batch = len(terms)
    return terms.sum() / (1 if summed else batch * (batch - 1) if pairs_only else batch**2)


DISTANCE_LOSS = Exercise(
    id="02.distance_loss",
    title="The relational loss of distances",
    points=3,
    reference=lesson.distance_loss,
    inputs=_distance_inputs,
    drive=_observe_distances,
    wrong=_wrong_distance,
    mistakes=(
        Mistake(
            "not_normalised",
            "computed from plain distances",
            "The student may live on another scale. Divide each network's distances by their mean.",
        ),
        Mistake(
            "diagonal_counted",
            "computed with the zeros of the diagonal in the mean distance",
            "Average over pairs of *different* examples: B·(B − 1) of them.",
        ),
        Mistake(
            "positive_only",
            "right but for examples that coincide: it leaves their distance out of the mean",
            "Here the mean runs over all pairs i ≠ j, also those at distance 0. The authors' code leaves these out.",
        ),
        Mistake(
            "teacher_scale",
            "computed with the teacher's mean distance for both networks",
            "Each network has its own scale: divide its distances by their own mean.",
        ),
        Mistake(
            "largest",
            "computed from distances divided by the largest",
            "One outlier would rule the scale. Divide by the mean.",
        ),
        Mistake(
            "scale_cut",
            "right in value, but the student's mean distance is cut from the graph",
            "The mean depends on the student, too: let the gradient flow through it.",
        ),
        Mistake(
            "squared_distances",
            "computed from squared distances",
            "A distance is the *root* of the sum of squares.",
        ),
        Mistake(
            "manhattan",
            "computed from sums of absolute differences",
            "The Euclidean distance is the root of the sum of *squares*.",
        ),
        Mistake(
            "unit_embeddings",
            "computed from embeddings of length 1",
            "The embeddings stay as they are. It is the distances that are divided, by their mean.",
        ),
        Mistake(
            "gram",
            "right on paper, but |a|² + |b|² − 2 a·b loses its digits in float32 where two rows are nearly the same",
            "Two large numbers are subtracted that agree in all their digits. Subtract the rows before you square.",
        ),
        Mistake(
            "cdist",
            "right for small batches; beyond 25 rows `torch.cdist` takes |a|² + |b|² − 2 a·b and loses its digits",
            "Subtract the rows yourself, or look up `compute_mode`.",
        ),
        Mistake(
            "root_at_zero",
            "right in value, but its gradient is nan: the root of 0 has an infinite slope",
            "The diagonal is 0, and so is the distance of two equal rows. ∞ · 0 is nan, even where a `where` hides it "
            "afterwards. `Tensor.norm` knows that; `sqrt` does not.",
        ),
        Mistake(
            "mean_square",
            "computed from squared differences",
            "Huber's loss is ½ d² up to 1 and a straight line beyond: outliers pull less.",
        ),
        Mistake(
            "half_square",
            "right for small differences; beyond 1 Huber's loss is no longer ½ d²",
            "Beyond δ = 1 it goes on as a straight line, |d| − ½. Torch has this loss.",
        ),
        Mistake(
            "absolute",
            "computed from absolute differences",
            "Huber's loss is ½ d² up to 1; only beyond does it grow like |d|.",
        ),
        Mistake(
            "pairs_only",
            "averaged over the pairs of different examples only",
            "Only the mean distance leaves the diagonal out. The loss is the mean over all B² pairs.",
        ),
        Mistake("summed", "the sum over the pairs", "Take the mean over all B² pairs."),
        mistake_not_detached("teacher_embeddings"),
        mistake_student_cut("student_embeddings"),
    ),
    properties=(
        Property(
            "does not change when all embeddings of the student are multiplied by a constant",
            lambda answer: torch.allclose(
                answer(_THREE_POINTS, _THREE_POINTS.flip(1).square()),
                answer(5 * _THREE_POINTS, _THREE_POINTS.flip(1).square()),
                rtol=1e-4,
            ),
        ),
    ),
    sizes=lambda case: {"the number of examples": len(case["teacher_embeddings"])},
    alone=frozenset(
        {"largest", "manhattan", "teacher_scale", "scale_cut", "unit_embeddings", "absolute", "student_cut"}
    ),
)


# --- channel_loss: the variant whose answer the lesson does not print -------------------------


def _channel_inputs(rng: np.random.Generator) -> list[Case]:
    shapes = ((3, 4, 2, 3), (2, 3, 4, 5), (1, 2, 3, 2), (4, 1, 2, 2), (5, 6, 3, 1))
    cases = draw(rng, [{"student_features": shape, "teacher_features": shape} for shape in shapes], spread=2)
    student, teacher = rng.normal(0, 2, (2, 2, 3, 2, 4)).astype("float32")
    teacher[..., 0, 0], student[..., 1, 1] = 1000.0, 1000.0  # a softmax that reaches 0
    cases.append({"student_features": student, "teacher_features": teacher})
    return [{**case, "temperature": t} for case, t in zip(cases, (4.0, 2.0, 1.0, 3.0, 0.5, 2.0), strict=True)]


def _channel_loss(student_features: Tensor, teacher_features: Tensor, temperature: float) -> Tensor:
    """T² · mean over examples and channels of KL(p_t ‖ p_s), softened over the positions."""
    student, teacher = (features.flatten(2).flatten(0, 1) for features in (student_features, teacher_features))
    return kd_loss(student, teacher, temperature)  # each channel of each example is a row, positions are the classes


def _wrong_channel(
    student_features: Tensor,
    teacher_features: Tensor,
    temperature: float,
    *,
    over_channels: bool = False,
    teacher_over_channels: bool = False,
    over_everything: bool = False,
    over_width: bool = False,
    width_mean: bool = False,
    element_mean: bool = False,
    batch_mean: bool = False,
    position_mean: bool = False,
    summed: bool = False,
    no_square: bool = False,
    fourth_power: bool = False,
    not_detached: bool = False,
    probabilities_squared: bool = False,
    features_squared: bool = False,
    no_temperature: bool = False,
    **switches: bool,
) -> Tensor:
    teacher = teacher_features if not_detached else teacher_features.detach()
    temperature = 1.0 if no_temperature else temperature
    if features_squared:
        return F.mse_loss(student_features, teacher)
    batch, channels, height, width = student_features.shape
    positions = height * width

    def rows(features: Tensor) -> Tensor:
        """Return one row for each softmax."""
        if over_channels:
            return features.permute(0, 2, 3, 1).reshape(-1, channels)
        length = channels * positions if over_everything else width if over_width or width_mean else positions
        return features.reshape(-1, length)

    if probabilities_squared:
        return F.mse_loss(*(torch.softmax(rows(one) / temperature, -1) for one in (student_features, teacher)))
    if teacher_over_channels:
        p_t = torch.softmax(teacher / temperature, 1)
        log_s = F.log_softmax(student_features.flatten(2) / temperature, -1).view_as(p_t)
        return F.kl_div(log_s, p_t, reduction="sum") * temperature**2 / (batch * channels)
    total = wrong_terms(rows(student_features), rows(teacher), temperature, **switches).sum()
    count = (
        batch * channels * positions
        if element_mean
        else batch
        if batch_mean
        else batch * positions
        if position_mean
        else 1
        if summed
        else batch * channels * (height if width_mean else 1)
    )
    return total / count * wrong_factor(temperature, no_square=no_square, fourth_power=fourth_power)


CHANNEL_LOSS = Exercise(
    id="02.channel_loss",
    title="Channel-wise distillation",
    points=3,
    reference=_channel_loss,
    inputs=_channel_inputs,
    drive=partial(observe_call, constants=("teacher_features",)),
    wrong=_wrong_channel,
    mistakes=(
        Mistake(
            "over_channels",
            "computed from softmaxes over the channels",
            "Each channel is a distribution over *positions*: it says where this channel looks.",
        ),
        Mistake(
            "teacher_over_channels",
            "computed with a teacher whose softmax runs over the channels",
            "The student is right. Both sides are distributions over the same thing: the positions of one channel.",
        ),
        Mistake(
            "over_everything",
            "computed from one softmax over channels and positions together",
            "Keep the channels apart: each of the B·M distributions sums to 1.",
        ),
        Mistake(
            "over_width",
            "computed from softmaxes over the width only",
            "A channel has H·W positions, and all of them share one softmax. Which two axes become one?",
        ),
        Mistake(
            "width_mean",
            "the mean over all *rows* of the channels, each with a softmax of its own",
            "All H·W positions of a channel share one softmax: flatten H and W first.",
        ),
        Mistake(
            "element_mean",
            "averaged over the positions, too",
            "Add up over the positions; average over examples and channels. `reduction='mean'` of `F.kl_div` averages "
            "over everything.",
        ),
        Mistake(
            "batch_mean",
            "averaged over the examples only",
            "`reduction='batchmean'` divides by the first axis. Here the channels are averaged, too.",
        ),
        Mistake(
            "position_mean",
            "averaged over examples and positions instead of examples and channels",
            "The positions are what each distribution runs over: add them up.",
        ),
        Mistake(
            "summed",
            "summed over examples and channels",
            "Average over both, or the loss grows with the batch and the width.",
        ),
        SWAPPED,
        NO_SQUARE,
        FOURTH_POWER,
        mistake_not_detached("teacher_features"),
        LOG_OF_SOFTMAX,
        STUDENT_UNSOFTENED,
        TEACHER_UNSOFTENED,
        Mistake(
            "no_temperature",
            "computed without the temperature",
            "It has two places: under the activations, and in front of the sum, squared.",
        ),
        STUDENT_NOT_LOGGED,
        CROSS_ENTROPY,
        PROBABILITIES_SQUARED,
        Mistake(
            "features_squared",
            "the squared difference of the features",
            "That compares the numbers themselves. Here each channel becomes a distribution first.",
        ),
    ),
    properties=(
        Property(
            "does not change when a constant is added to a whole channel",
            lambda answer: torch.allclose(
                answer(_TWO_MAPS, _TWO_MAPS.flip(3), 2.0),
                answer(_TWO_MAPS + torch.tensor([3.0, -2.0]).view(1, 2, 1, 1), _TWO_MAPS.flip(3), 2.0),
                rtol=1e-3,
            ),
        ),
    ),
    sizes=lambda case: _sizes(case) | {"the temperature": case["temperature"]},
    alone=frozenset(
        {
            "no_temperature",
            "probabilities_squared",
            "features_squared",
            "fourth_power",
            "student_not_logged",
            "teacher_over_channels",
            "width_mean",
        }
    ),
)


# --- distil_features: the bug hunt ------------------------------------------------------------


def _distil_inputs(rng: np.random.Generator) -> list[Case]:
    return [
        {
            "layer": 1,
            "images": rng.normal(0, 1, (examples, 5)),
            "labels": rng.integers(0, 3, examples),
            "steps": steps,
            "weight": weight,
            "learning_rate": rate,
        }
        for examples, steps, weight, rate in ((6, 1, 0.5, 0.1), (4, 2, 2.0, 0.05), (9, 3, 0.3, 0.1))
    ]


def _state(module: nn.Module) -> np.ndarray:
    return torch.cat([value.double().flatten() for value in module.state_dict().values()]).numpy()


def _observe_training(answer: Answer, case: Case) -> Observation:
    """Build student, projector and a teacher with batch normalisation, let the answer train, and look at all three."""
    torch.manual_seed(1)
    student = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    projector = nn.Linear(4, 6).double()
    # Unlike dropout, batch normalisation in training mode gives the same output however often it is run.
    teacher = nn.Sequential(nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6)), nn.ReLU(), nn.Linear(6, 3)).double()
    teacher(torch.randn(20, 5, dtype=torch.float64) + 0.5)  # running statistics other than those of the images
    before = _state(teacher)
    given = tensors(case)
    answer(student, projector, teacher, *given.values())
    touched = any(p.grad is not None and p.grad.any() for p in teacher.parameters())
    frozen = not all(p.requires_grad for p in teacher.parameters())
    hooks = any(module._forward_hooks or module._forward_pre_hooks for module in teacher.modules())
    return {
        "student after training": _state(student),
        "projector after training": _state(projector),
        "hook left in the teacher": "some" if hooks else "none",
        "change of the teacher": "none" if np.array_equal(before, _state(teacher)) else "some",
        "gradient left in the teacher": "some" if touched else "none",
        "teacher's `requires_grad`": "False" if frozen else "as it was",
    }


_HINTS: dict[str, Callable[[Tensor], Tensor]] = {
    "element_mean": lambda difference: difference.square().mean(),
    "half_element_mean": lambda difference: 0.5 * difference.square().mean(),
    "no_half": lambda difference: difference.square().sum() / len(difference),
    "not_squared": lambda difference: 0.5 * difference.norm(dim=1).mean(),
    "hint_summed": lambda difference: 0.5 * difference.square().sum(),
}
_LOSSES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "weight_on_labels": lambda hard, hint, weight: weight * hard + hint,
    "hint_only": lambda hard, hint, weight: weight * hint,
    "no_hint": lambda hard, hint, weight: hard,
    "no_weight": lambda hard, hint, weight: hard + hint,
}


def _distil_features(
    student: nn.Sequential,
    projector: nn.Module,
    teacher: nn.Sequential,
    layer: int,
    images: Tensor,
    labels: Tensor,
    steps: int,
    weight: float,
    learning_rate: float,
    *,
    projector_left_out: bool = False,
    hook_stays: bool = False,
    teacher_training: bool = False,
    wrong_layer: bool = False,
    teacher_too_early: bool = False,
    both_too_early: bool = False,
    teacher_in_graph: bool = False,
    student_cut: bool = False,
    accumulates: bool = False,
    zeroed_late: bool = False,
    adam: bool = False,
    **switches: bool,
) -> None:
    """Train student and projector in place by gradient descent on cross-entropy + weight · hint loss."""
    trained = chain(student.parameters(), () if projector_left_out else projector.parameters())
    optimiser = (torch.optim.Adam if adam else torch.optim.SGD)(trained, lr=learning_rate)
    teacher.train(teacher_training)
    seen = {}
    listened = teacher[layer - 1 if teacher_too_early or both_too_early else layer]
    hook = listened.register_forward_hook(lambda module, inputs, output: seen.update(features=output))
    hint_of = chosen(_HINTS, switches, lambda difference: 0.5 * difference.square().sum() / len(difference))
    loss_of = chosen(_LOSSES, switches, lambda hard, hint, weight: hard + weight * hint)
    for _ in range(steps):
        with torch.set_grad_enabled(teacher_in_graph):
            teacher(images)
        features = student[: layer if wrong_layer or both_too_early else layer + 1](images)
        hint = hint_of(projector(features.detach() if student_cut else features) - seen["features"])
        loss = loss_of(F.cross_entropy(student(images), labels), hint, weight)
        wrong_step(optimiser, loss, accumulates=accumulates, zeroed_late=zeroed_late)
    if not hook_stays:
        hook.remove()


# The five bugs of the broken loop, which come in any mixture; then what one may add when mending it.
_BUGS = 5
_LOOP_MISTAKES = (
    Mistake(
        "projector_left_out",
        "a loop whose projector stays as it was",
        "The projector learns, too. Who is told which parameters to change?",
    ),
    Mistake(
        "hook_stays",
        "a loop that leaves its hook in the teacher",
        "The hook goes on working long after the training. What does `register_forward_hook` return, and what for?",
    ),
    Mistake(
        "teacher_training",
        "a loop whose teacher is still in training mode",
        "Batch normalisation then uses the batch's own statistics, and changes the teacher's. A network is in "
        "training mode until told otherwise.",
    ),
    Mistake(
        "element_mean",
        "a loop whose hint is the mean over all elements",
        "`F.mse_loss` averages over the features, too. The hint loss adds them up, averages over the examples, and "
        "halves.",
    ),
    Mistake(
        "wrong_layer",
        "a loop that takes the student's features one layer too early",
        "`layer` is an index, and a slice ends *before* its second number. Which layers does `student[:layer]` run?",
    ),
    ACCUMULATES,
    Mistake(
        "teacher_in_graph",
        "a loop whose hint sends gradient into the teacher",
        "What the hook takes carries its graph. The teacher is a constant: run it so that no graph is built.",
    ),
    Mistake(
        "student_cut",
        "a loop whose hint does not reach the student",
        "The hint should shape the student's features; cut from the graph, they only train the projector.",
    ),
    Mistake("no_half", "a loop whose hint is twice the right one", "The hint loss is *half* the squared distance."),
    Mistake(
        "weight_on_labels",
        "a loop that puts the weight on the labels",
        "`weight` says how much the *hint* counts; the labels' term counts 1.",
    ),
    Mistake("hint_only", "a loop without the labels' term", "The student should classify, too."),
    Mistake(
        "no_hint",
        "a loop whose hint plays no part",
        "Only the labels train the student, and nothing trains the projector. Is the hint in the loss, with its graph?",
    ),
    Mistake("no_weight", "a loop whose hint has no weight", "`weight` says how much the hint counts."),
    Mistake(
        "hint_summed",
        "a loop whose hint is summed over the batch",
        "Add up over the features only; average over the examples.",
    ),
    Mistake(
        "half_element_mean",
        "a loop whose hint is half the mean over all elements",
        "The ½ is right. But `F.mse_loss` averages over the features, and the hint loss adds them up.",
    ),
    Mistake(
        "teacher_too_early",
        "a loop that takes the teacher's features one layer too early",
        "A hook on `teacher[layer]` sees what that layer gives. Is it still there, and does your loop use what it saw?",
    ),
    Mistake(
        "both_too_early",
        "a loop that takes both networks' features one layer too early",
        "`layer` is an index, and a slice ends *before* its second number. Which layers does `teacher[:layer]` run?",
    ),
    Mistake(
        "not_squared",
        "a loop whose hint is half the distance, not half its square",
        "The formula has ‖·‖²: leave out the root.",
    ),
    ZEROED_LATE,
    ADAM,
)
DISTIL_FEATURES = Exercise(
    id="02.distil_features",
    title="Bug hunt: training with a hint",
    points=4,
    reference=_distil_features,
    inputs=_distil_inputs,
    drive=_observe_training,
    wrong=_distil_features,
    mistakes=_LOOP_MISTAKES,
    at_once=_BUGS,
    alone=frozenset(mistake.name for mistake in _LOOP_MISTAKES[_BUGS:]),
)

EXERCISES = (ATTENTION_MAP, PROJECTED_HINT, SIMILARITY_LOSS, DISTANCE_LOSS, CHANNEL_LOSS, DISTIL_FEATURES)
