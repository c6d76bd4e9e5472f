"""The exercises of lesson 04. Those in NumPy but one stand in ``cross_task_maps`` and ``cross_task_fusion``."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ctkd_lessons import cross_task as lesson
from ctkd_lessons.course.exercises.cross_task_fusion import FUSE, STACK_MODELS
from ctkd_lessons.course.exercises.cross_task_maps import EXTRACT_FEATURES, FIT_TRANSFER_MAP, PROCRUSTES, observe_arrays
from ctkd_lessons.course.exercises.description import Case, Exercise, Mistake, Property, observe_call
from ctkd_lessons.course.exercises.shared import mistake_not_detached, mistake_student_cut

# --- relationship_loss ------------------------------------------------------------------------


def _relation_inputs(rng: np.random.Generator) -> list[Case]:
    def case(examples: int, student: int, teacher: int, triplets: int, temperature: float, spread: float = 2) -> Case:
        rows = np.stack([rng.permutation(examples)[:3] for _ in range(triplets)], axis=1)
        # Single precision, because `F.pairwise_distance` adds a millionth.
        return {
            "student_embeddings": rng.normal(0, spread, (examples, student)).astype("float32"),
            "teacher_embeddings": rng.normal(0, spread, (examples, teacher)).astype("float32"),
            **dict(zip(("anchor", "positive", "negative"), rows, strict=True)),
            "temperature": temperature,
        }

    cases = [case(5, 3, 4, 6, 0.5), case(6, 4, 2, 3, 2.0), case(4, 2, 2, 8, 4.0), case(7, 5, 3, 1, 1.0)]
    # One triplet names the same row twice; in the last case p rounds to 0 or 1.
    cases[1]["positive"][0] = cases[1]["anchor"][0]
    return [*cases, case(6, 3, 3, 20, 0.02, spread=200)]


_DISTANCES: dict[str, Callable[[Tensor], Tensor]] = {
    "squared": lambda difference: difference.square().sum(-1),
    "absolute": lambda difference: difference.abs().sum(-1),
    "root_at_zero": lambda difference: difference.square().sum(-1).sqrt(),
}


def _wrong_relation(
    student_embeddings: Tensor,
    teacher_embeddings: Tensor,
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    temperature: float,
    *,
    swapped: bool = False,
    student_turned: bool = False,
    not_normalised: bool = False,
    student_not_normalised: bool = False,
    teacher_not_normalised: bool = False,
    over_batch: bool = False,
    squared: bool = False,
    absolute: bool = False,
    root_at_zero: bool = False,
    cosine: bool = False,
    no_temperature: bool = False,
    multiplied: bool = False,
    square_in_front: bool = False,
    argument_doubled: bool = False,
    absolute_length: bool = False,
    one_term: bool = False,
    student_not_logged: bool = False,
    gaps_squared: bool = False,
    cross_entropy: bool = False,
    hard: bool = False,
    probabilities_squared: bool = False,
    log_of_sigmoid: bool = False,
    halved: bool = False,
    summed: bool = False,
    not_detached: bool = False,
    student_cut: bool = False,
) -> Tensor:
    measure = _DISTANCES.get(
        "squared" if squared else "absolute" if absolute else "root_at_zero" if root_at_zero else "",
        lambda difference: difference.norm(dim=-1),
    )

    def nearness(embeddings: Tensor, plain: bool, turned: bool) -> Tensor:
        e = embeddings if plain else F.normalize(embeddings, p=1 if absolute_length else 2, dim=0 if over_batch else 1)
        a, p, n = e[anchor], e[negative if turned else positive], e[positive if turned else negative]
        gap = (a * p - a * n).sum(-1) if cosine else measure(a - n) - measure(a - p)
        gap = 2 * gap if argument_doubled else gap
        return gap if no_temperature else gap * temperature if multiplied else gap / temperature

    student = student_embeddings.detach() if student_cut else student_embeddings
    teacher = teacher_embeddings if not_detached or student_cut else teacher_embeddings.detach()
    s = nearness(student, not_normalised or student_not_normalised, student_turned)
    t = nearness(teacher, not_normalised or teacher_not_normalised, False)
    s, t = (t, s) if swapped else (s, t)
    log_of = (lambda z: z.sigmoid().log()) if log_of_sigmoid else F.logsigmoid
    turn = (lambda z: (1 - z.sigmoid()).log()) if log_of_sigmoid else lambda z: F.logsigmoid(-z)
    p = (t > 0).to(t.dtype) if hard else t.sigmoid()
    entropy = 0.0 if cross_entropy or hard else 1.0
    terms = p * (entropy * log_of(t) - log_of(s))
    if not one_term:
        terms = terms + (1 - p if log_of_sigmoid or hard else (-t).sigmoid()) * (entropy * turn(t) - turn(s))
    if student_not_logged:
        terms = p * (log_of(t) - s.sigmoid()) + (-t).sigmoid() * (turn(t) - (-s).sigmoid())
    elif probabilities_squared or gaps_squared:
        terms = (t - s if gaps_squared else t.sigmoid() - s.sigmoid()).square()
    total = terms.sum() if summed else terms.mean()
    return total * (0.5 if halved else 1.0) * (temperature**2 if square_in_front else 1.0)


RELATIONSHIP_LOSS = Exercise(
    id="04.relationship_loss",
    title="Relationship matching",
    points=4,
    reference=lesson.relationship_loss,
    inputs=_relation_inputs,
    drive=partial(observe_call, constants=("teacher_embeddings",)),
    wrong=_wrong_relation,
    mistakes=(
        Mistake(
            "swapped",
            "the KL divergence with teacher and student swapped",
            "KL(p_t ‖ p_s) averages over the *teacher's* probabilities. Which of the two stands in front of the logs?",
        ),
        Mistake(
            "halved",
            "half the right one: averaged over the two outcomes, too",
            "`F.kl_div` with `reduction='mean'` divides by the two outcomes, as some released code does. Add up over "
            "them; average over the triplets.",
        ),
        Mistake(
            "one_term",
            "p_t (log p_t − log p_s) alone: half of the KL divergence is missing",
            "There are two outcomes: the positive is nearer, or it is not. The second has probability 1 − p.",
        ),
        Mistake(
            "not_normalised",
            "computed from embeddings that are not normalised",
            "Two networks may have embeddings of any size. First bring each example's embedding to length one.",
        ),
        Mistake(
            "student_not_normalised",
            "computed with a student whose embeddings are not normalised",
            "Both sides are brought to length one.",
        ),
        Mistake(
            "teacher_not_normalised",
            "computed with a teacher whose embeddings are not normalised",
            "Both sides are brought to length one, or their distances can't be compared.",
        ),
        Mistake(
            "over_batch",
            "computed from embeddings normalised over the batch",
            "Each *row* should have length one. Which axis of (B, D) is the embedding's?",
        ),
        Mistake(
            "absolute_length",
            "computed from embeddings divided by the sum of their absolute entries (L1)",
            "Length is L2. In `F.normalize` the second argument is p, the third the axis.",
        ),
        Mistake(
            "squared",
            "computed from squared distances",
            "d is the Euclidean distance: a root is missing.",
        ),
        Mistake(
            "absolute",
            "computed from sums of absolute differences",
            "d is the Euclidean distance (L2), not the city-block distance (L1).",
        ),
        Mistake(
            "cosine",
            "computed from cosines instead of distances",
            "On the unit sphere d² = 2 − 2 cos. The formula compares d itself.",
        ),
        Mistake(
            "root_at_zero",
            "right in value, but its gradient is nan where a triplet names the same row twice",
            "There d = 0, and a root has no slope at 0. `norm` guards against that.",
        ),
        Mistake("no_temperature", "computed without the temperature", "Divide the difference of the distances by τ."),
        Mistake(
            "multiplied",
            "computed with the difference of the distances multiplied by τ",
            "A high temperature makes the answer less sure. Should the difference grow or shrink?",
        ),
        Mistake(
            "argument_doubled",
            "computed with twice the difference of the distances",
            "A softmax over (z, −z) is σ(2z). Over which two numbers is it σ(z)?",
        ),
        Mistake(
            "square_in_front",
            "too large by τ²",
            "The factor belongs to the distillation loss of lesson 01. This formula has none.",
        ),
        Mistake(
            "student_turned",
            "computed with positive and negative swapped on one side",
            "Both networks answer the same question. Is it d_an − d_ap for student and teacher alike?",
        ),
        Mistake(
            "cross_entropy",
            "the cross-entropy of student and teacher, not the KL divergence",
            "The gradient is the same, but the value is not zero when both agree: the teacher's entropy is missing.",
        ),
        Mistake(
            "hard",
            "computed with a teacher that only says which of the two is nearer",
            "How *much* nearer is what the student should learn: keep the teacher's probability.",
        ),
        Mistake(
            "probabilities_squared",
            "the squared difference of the probabilities",
            "The formula compares them by the KL divergence of two Bernoulli distributions.",
        ),
        Mistake(
            "gaps_squared",
            "the squared difference of the two arguments of σ",
            "Turn both into probabilities first, and compare those by the KL divergence.",
        ),
        Mistake(
            "student_not_logged",
            "computed with the student's probabilities where their logs belong",
            "`F.kl_div` takes *log*-probabilities first and probabilities second.",
        ),
        Mistake(
            "log_of_sigmoid",
            "right for high temperatures, but takes the log of a sigmoid that has reached 0",
            "log(0) is −inf and 0 · inf is nan. Which function gives log σ(z) in one step? And 1 − σ(z) = σ(−z).",
        ),
        Mistake(
            "summed",
            "summed over the triplets",
            "Average over the triplets, or the loss grows with their number.",
        ),
        mistake_not_detached("teacher_embeddings"),
        mistake_student_cut("student_embeddings"),
    ),
    properties=(
        Property(
            "is zero when the student's embeddings are twice the teacher's",
            lambda answer: abs(float(answer(2 * _POINTS, _POINTS, *_ROWS, 0.5))) < 1e-6,
        ),
        Property(
            "stays the same when positives and negatives swap places",
            lambda answer: torch.allclose(
                answer(_POINTS, _POINTS.flip(0), *_ROWS, 0.5),
                answer(_POINTS, _POINTS.flip(0), _ROWS[0], _ROWS[2], _ROWS[1], 0.5),
                rtol=1e-3,
            ),
        ),
    ),
    sizes=lambda case: {
        "the number of triplets": len(case["anchor"]),
        "the temperature": case["temperature"],
        "the number of examples": len(case["student_embeddings"]),
    },
    alone=frozenset(
        {
            "absolute_length",
            "argument_doubled",
            "gaps_squared",
            "student_not_logged",
            "student_not_normalised",
            "teacher_not_normalised",
            "absolute",
            "cosine",
            "root_at_zero",
            "student_turned",
            "hard",
            "probabilities_squared",
            "square_in_front",
        }
    ),
)
_POINTS = torch.tensor([[0.0, 1.0], [2.0, 5.0], [3.0, -1.0], [-1.0, 0.5]])
_ROWS = (torch.tensor([0, 1]), torch.tensor([1, 3]), torch.tensor([2, 0]))


# --- transfer: the bug hunt -------------------------------------------------------------------


def _transfer_inputs(rng: np.random.Generator) -> list[Case]:
    def case(examples: int, source: int, target: int, new: int, components: int, ridge: float) -> Case:
        mixing = rng.normal(0, 1, (source, source)) * np.arange(1, source + 1)
        s, new_source = rng.normal(0.5, 1, (examples, source)), rng.normal(2, 1.5, (new, source))
        t = np.tanh(s @ rng.normal(0, 1, (source, target))) + rng.normal(3, 0.3, (examples, target))
        numbers = {"components": components, "ridge": ridge}
        return {"source": s @ mixing, "target": t, "new_source": new_source @ mixing, **numbers}

    return [case(10, 4, 3, 6, 2, 1.0), case(14, 5, 2, 7, 3, 3.0), case(9, 3, 4, 5, 3, 0.5), case(20, 6, 3, 4, 1, 2.0)]


def _transfer(
    source: NDArray,
    target: NDArray,
    new_source: NDArray,
    components: int,
    ridge: float,
    *,
    own_statistics: bool = False,
    directions_transposed: bool = False,
    backwards: bool = False,
    ridge_everywhere: bool = False,
    target_mean_missing: bool = False,
    own_mean: bool = False,
    new_not_centred: bool = False,
    leak: bool = False,
    new_not_scaled: bool = False,
    not_whitened: bool = False,
    singular: bool = False,
    biased: bool = False,
    variance: bool = False,
    inverted: bool = False,
    no_ridge: bool = False,
    ridge_n: bool = False,
    target_scaled: bool = False,
    target_whitened: bool = False,
    mean_subtracted: bool = False,
    mean_twice: bool = False,
    one_target_mean: bool = False,
) -> NDArray:
    """Whiten the source, map it to the centred target, and predict the target's features of new examples."""

    def whitening_of(x: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        mean = x.mean(0)
        scales, rows = np.linalg.svd(x - mean)[1:]
        directions = (rows if directions_transposed else rows.T)[:, :components]
        deviations = scales[:components] / (1.0 if singular else np.sqrt(len(x) - (0 if biased else 1)))
        return mean, directions, directions / (1.0 if not_whitened else deviations ** (2 if variance else 1))

    mean, directions, whiten = whitening_of(np.vstack([source, new_source]) if leak else source)
    features = (source - mean) @ whiten
    new_mean, _, new_whiten = whitening_of(new_source)
    start = new_mean if own_statistics or own_mean else 0.0 if new_not_centred else mean
    new_features = (new_source - start) @ (new_whiten if own_statistics else directions if new_not_scaled else whiten)

    target_mean = target.mean(None if one_target_mean else 0)
    goal = target - target_mean
    if target_scaled:
        goal = goal / goal.std(0)
    elif target_whitened:
        goal = np.linalg.svd(goal, full_matrices=False)[0] * np.sqrt(len(goal) - 1)
    s, t = (goal, features) if backwards or inverted else (features, goal)
    penalty = 0.0 if no_ridge else ridge * len(s) if ridge_n else ridge
    w = np.linalg.solve(s.T @ s + penalty * (1.0 if ridge_everywhere else np.eye(s.shape[1])), s.T @ t)
    mapped = new_features @ (np.linalg.pinv(w) if inverted else w.T if backwards else w)
    return mapped + target_mean * (0 if target_mean_missing else -1 if mean_subtracted else 2 if mean_twice else 1)


# The five bugs of the broken pipeline come in any mixture, and so does a half-mended first one.
_BUGS = 5
_TRANSFER_MISTAKES = (
    Mistake(
        "own_statistics",
        "a pipeline that whitens new examples with their own mean, directions and scales",
        "Then no feature means the same in both sets, and the map fits the first only. All three come from `source`.",
    ),
    Mistake(
        "directions_transposed",
        "a pipeline that takes the columns of Vᵀ for the directions",
        "`np.linalg.svd` returns Vᵀ: its *rows* are the directions. How do you get the first of them into columns?",
    ),
    Mistake(
        "backwards",
        "a pipeline that fits the map from target to source and then transposes it",
        "The shape fits, but that is another map. Fit it in the direction in which it is used: what is known of a new "
        "example, and what is wanted?",
    ),
    Mistake(
        "ridge_everywhere",
        "a pipeline that adds `ridge` to every entry of the matrix",
        "The penalty ‖W‖² adds to the diagonal only.",
    ),
    Mistake(
        "target_mean_missing",
        "a pipeline that never adds the target's mean",
        "The map was fitted to centred target features. What is missing from its answer?",
    ),
    Mistake(
        "own_mean",
        "a pipeline that centres new examples with their own mean",
        "New examples may come one at a time. Subtract the mean of `source`.",
    ),
    Mistake(
        "new_not_centred",
        "a pipeline that does not centre the new examples",
        "What was subtracted from `source` is subtracted from new examples, too.",
    ),
    Mistake(
        "leak",
        "a pipeline whose whitening has seen the new examples",
        "Mean, directions and scales come from `source` alone. New examples may come one at a time, and later.",
    ),
    Mistake(
        "new_not_scaled",
        "a pipeline that forgets to scale the new examples",
        "The features of `source` have variance 1. What brought them there?",
    ),
    Mistake(
        "not_whitened",
        "a pipeline that rotates but does not whiten",
        "Each direction is divided by its deviation: the penalty depends on it.",
    ),
    Mistake(
        "singular",
        "a pipeline that divides by the singular values themselves",
        "A deviation is a singular value divided by √(n − 1). The penalty depends on that scale.",
    ),
    Mistake(
        "biased",
        "a pipeline that whitens with n instead of n − 1",
        "The scales were right before: √(n − 1), with n the examples of `source`.",
    ),
    Mistake(
        "variance",
        "a pipeline that divides by the variances",
        "To bring a direction to variance 1, divide by its deviation.",
    ),
    Mistake(
        "inverted",
        "a pipeline that fits the map from target to source and then inverts it",
        "The best way back is not the inverse of the best way there. Fit from source to target.",
    ),
    Mistake("no_ridge", "a pipeline without the penalty", "`ridge` belongs on the diagonal of the matrix."),
    Mistake(
        "ridge_n",
        "a pipeline with n times the penalty",
        "The error is a sum over the examples: the penalty is not multiplied by their number.",
    ),
    Mistake(
        "target_scaled",
        "a pipeline that scales the target's features to variance one and never back",
        "The target is centred only.",
    ),
    Mistake(
        "target_whitened",
        "a pipeline that whitens the target, too",
        "Only the source is whitened. The answer should be in the target's own units.",
    ),
    Mistake(
        "mean_subtracted",
        "a pipeline that subtracts the target's mean at the end",
        "It was subtracted once, before the fit. What undoes that?",
    ),
    Mistake("mean_twice", "a pipeline that adds the target's mean twice", "It was subtracted once."),
    Mistake(
        "one_target_mean",
        "a pipeline with one mean for all of the target's features",
        "Each column has a mean of its own: which axis do the examples lie along?",
    ),
)
TRANSFER = Exercise(
    id="04.transfer",
    title="Bug hunt: from one task to another",
    points=4,
    reference=_transfer,
    inputs=_transfer_inputs,
    drive=observe_arrays,
    wrong=_transfer,
    mistakes=_TRANSFER_MISTAKES,
    at_once=_BUGS,
    alone=frozenset(mistake.name for mistake in _TRANSFER_MISTAKES[_BUGS + 2 :]),
)

EXERCISES = (EXTRACT_FEATURES, FIT_TRANSFER_MAP, PROCRUSTES, FUSE, RELATIONSHIP_LOSS, STACK_MODELS, TRANSFER)
