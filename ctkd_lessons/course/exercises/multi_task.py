"""The exercises of lesson 06: six strategies for many tasks. Fusion and weights have files of their own."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ctkd_lessons import multi_task as lesson
from ctkd_lessons.course.exercises import multi_task_fusion, multi_task_weights
from ctkd_lessons.course.exercises.description import (
    Answer,
    Case,
    Exercise,
    Mistake,
    Observation,
    Property,
    observe_call,
)
from ctkd_lessons.course.exercises.multi_task_fusion import OF_DIVERGENCES
from ctkd_lessons.course.exercises.shared import (
    CROSS_ENTROPY,
    LOG_OF_SOFTMAX,
    PROBABILITIES_SQUARED,
    STUDENT_NOT_LOGGED,
    SWAPPED,
    chosen,
    draw,
    mistake_not_detached,
    mistake_student_cut,
    wrong_terms,
)

# --- shared_loss ------------------------------------------------------------------------------


def _shared_inputs(rng: np.random.Generator) -> list[Case]:
    # Tasks, examples, features, weight.
    sizes = ((3, 4, 5, 0.3), (2, 5, 3, 2.0), (1, 1, 4, 0.7), (4, 3, 1, 1.0), (3, 6, 2, 0.0))
    cases = draw(rng, [{"losses": (k,), "bridged": (b, d), "features": (b, d)} for k, b, d, _ in sizes])
    for case, (*_, weight) in zip(cases, sizes, strict=True):
        case |= {"losses": np.abs(case["losses"]), "weight": weight}
    return cases


def _observe_shared(answer: Answer, case: Case) -> Observation:
    return observe_call(answer, case, constants=("features",))


_DISTANCES: dict[str, Callable[[Tensor], Tensor]] = {
    "element_mean": lambda difference: difference.square().mean(),
    "halved": lambda difference: difference.square().sum(1).mean() / 2,
    "half_element_mean": lambda difference: difference.square().mean() / 2,
    "summed": lambda difference: difference.square().sum(),
    "batch_summed": lambda difference: difference.square().mean(1).sum(),
    "not_squared": lambda difference: difference.norm(dim=1).mean(),
    "absolute": lambda difference: difference.abs().sum(1).mean(),
    "absolute_mean": lambda difference: difference.abs().mean(),
    "smooth": lambda difference: F.smooth_l1_loss(difference, torch.zeros_like(difference)),
    "whole_norm": lambda difference: difference.norm(),
    "subtracted": lambda difference: -difference.square().sum(1).mean(),
}


def _wrong_shared(
    losses: Tensor,
    bridged: Tensor,
    features: Tensor,
    weight: float,
    *,
    not_detached: bool = False,
    student_cut: bool = False,
    unit: bool = False,
    tasks_averaged: bool = False,
    per_task: bool = False,
    weight_on_tasks: bool = False,
    weight_on_all: bool = False,
    weight_ignored: bool = False,
    mixed: bool = False,
    no_hint: bool = False,
    no_tasks: bool = False,
    **switches: bool,
) -> Tensor:
    features = features if not_detached or student_cut else features.detach()
    bridged = bridged.detach() if student_cut else bridged
    if unit:
        bridged, features = F.normalize(bridged), F.normalize(features)
    hint = chosen(_DISTANCES, switches, lambda difference: difference.square().sum(1).mean())(bridged - features)
    hint = hint * (len(losses) if per_task else 0 if no_hint else 1)
    tasks = (losses.mean() if tasks_averaged else losses.sum()) * (0 if no_tasks else 1)
    if mixed:
        return (1 - weight) * tasks + weight * hint
    on_tasks = weight if weight_on_tasks or weight_on_all else 1
    return on_tasks * tasks + (1 if weight_on_tasks or weight_ignored else weight) * hint


SHARED_LOSS = Exercise(
    id="06.shared_loss",
    title="Strategy 1: one teacher, one shared trunk",
    points=2,
    reference=lesson.shared_loss,
    inputs=_shared_inputs,
    drive=_observe_shared,
    wrong=_wrong_shared,
    mistakes=(
        mistake_not_detached("features"),
        mistake_student_cut("bridged"),
        Mistake(
            "element_mean",
            "computed with the mean over the features, too",
            "`F.mse_loss` averages over everything. ‖·‖² adds up over the features; the mean runs over the examples.",
        ),
        Mistake(
            "halved",
            "computed with half the squared distance",
            "FitNets has a ½ in front; the formula here has none.",
        ),
        Mistake(
            "half_element_mean",
            "computed with half the mean over all entries",
            "No ½ here, and ‖·‖² adds up over the features.",
        ),
        Mistake(
            "summed",
            "computed with squared distances summed over the batch",
            "The mean over the examples, or the teacher counts more in a larger batch.",
        ),
        Mistake(
            "batch_summed",
            "averaged over the features and summed over the examples",
            "The other way round: which axis does ‖·‖² use up, and which one the mean?",
        ),
        Mistake(
            "not_squared",
            "computed with distances in the place of squared distances",
            "The formula squares: near its target a distance still pulls with full force, a square lets go.",
        ),
        Mistake("absolute", "computed with absolute differences", "‖·‖² is the sum of *squares*."),
        Mistake(
            "absolute_mean",
            "computed with the mean absolute difference",
            "`F.l1_loss` does that. Square, add up over the features, average over the examples.",
        ),
        Mistake("smooth", "computed with the smooth absolute difference", "The squared distance, without a kink."),
        Mistake(
            "whole_norm",
            "computed with one norm over the whole batch",
            "`norm()` without an axis mixes all examples, and takes a root. Square, add up over the features, average.",
        ),
        Mistake(
            "subtracted",
            "computed with the teacher's term taken away",
            "The loss should *fall* when the student comes nearer to the teacher.",
        ),
        Mistake(
            "unit",
            "computed from rows of length one",
            "Li & Bilen compare unit rows. Here the features are scaled already, and the bridge must match their "
            "length, too.",
        ),
        Mistake("tasks_averaged", "computed with the mean of the tasks' losses", "The tasks' losses are added up."),
        Mistake(
            "per_task",
            "computed with the teacher's term once for each task",
            "`losses + number` adds the number to *every* entry. When do you add up the tasks?",
        ),
        Mistake(
            "weight_on_tasks",
            "computed with the weight on the tasks",
            "`weight` says how much the *teacher's* term counts.",
        ),
        Mistake(
            "weight_on_all",
            "computed with the weight on the whole sum",
            "Then it only changes the learning rate. Which term does the formula weigh?",
        ),
        Mistake("weight_ignored", "computed without the weight", "`weight` says how much the teacher's term counts."),
        Mistake(
            "mixed",
            "computed with 1 − weight on the tasks",
            "Some losses are shared out like that. Here the tasks keep their full weight.",
        ),
        Mistake(
            "no_hint",
            "the tasks' losses without a teacher",
            "That is plain multi-task learning. Where does what the teacher knows come in?",
        ),
        Mistake("no_tasks", "the teacher's term without the tasks", "The student learns from the labels, too."),
    ),
    sizes=lambda case: {
        "the number of tasks": len(case["losses"]),
        "the number of examples": len(case["features"]),
        "the number of features": case["features"].shape[1],
    },
    alone=frozenset(
        {
            "student_cut",
            "half_element_mean",
            "batch_summed",
            "not_squared",
            "absolute",
            "absolute_mean",
            "smooth",
            "whole_norm",
            "subtracted",
            "unit",
            "weight_on_all",
            "mixed",
            "no_hint",
            "no_tasks",
        }
    ),
)


# --- separate_loss ----------------------------------------------------------------------------


def _separate_inputs(rng: np.random.Generator) -> list[Case]:
    # As many classes at every task first: there one teacher fits all. The last logits take a softmax to 0.
    return [
        _tasks(rng, 4, [5, 5, 5], [0.5, 2.0, 1.2]),
        _tasks(rng, 3, [2, 4], [1.0, 3.0], dtype="float32"),
        _tasks(rng, 5, [3], [0.7]),
        _tasks(rng, 1, [3, 2, 4], [1.0, 0.0, 1.0], dtype="float32"),
        _tasks(rng, 2, [4, 3], [1.5, 0.5], spread=300.0, dtype="float32"),
    ]


def _tasks(
    rng: np.random.Generator,
    examples: int,
    classes: list[int],
    weights: list[float],
    *,
    spread: float = 1.5,
    dtype: str = "float64",
) -> Case:
    """Draw student's and teacher's logits for each task; names say which list they belong to."""
    logits = {
        f"{who}_logits[{k}]": rng.normal(0, spread, (examples, c)).astype(dtype)
        for who in ("student", "teacher")
        for k, c in enumerate(classes)
    }
    return logits | {f"weights[{k}]": weight for k, weight in enumerate(weights)}


def _observe_separate(answer: Answer, case: Case) -> Observation:
    """Hand the answer three lists."""

    def in_lists(*values: Tensor | float) -> Tensor:
        given = dict(zip(case, values, strict=True))
        lists = ([v for name, v in given.items() if name.startswith(who)] for who in ("student", "teacher", "weights"))
        return answer(*lists)

    return observe_call(in_lists, case, constants=tuple(name for name in case if name.startswith("teacher")))


def _separate_loss(
    student_logits: Sequence[Tensor], teacher_logits: Sequence[Tensor], weights: Sequence[float]
) -> Tensor:
    """Σ_k w_k · mean_i KL(p_teacher,k ‖ p_student,k)."""
    pairs = zip(student_logits, teacher_logits, weights, strict=True)
    return sum(w * lesson.separate_loss({"class": student}, {"class": teacher}) for student, teacher, w in pairs)


def _wrong_separate(
    student_logits: Sequence[Tensor],
    teacher_logits: Sequence[Tensor],
    weights: Sequence[float],
    *,
    not_detached: bool = False,
    student_cut: bool = False,
    one_teacher: bool = False,
    last_teacher: bool = False,
    teachers_averaged: bool = False,
    one_softmax: bool = False,
    tasks_averaged: bool = False,
    weights_ignored: bool = False,
    weights_normalised: bool = False,
    weights_softmaxed: bool = False,
    first_task: bool = False,
    last_task: bool = False,
    **switches: bool,
) -> Tensor:
    teachers = list(teacher_logits) if not_detached or student_cut else [one.detach() for one in teacher_logits]
    students = [one.detach() for one in student_logits] if student_cut else list(student_logits)
    if one_teacher or last_teacher:
        teachers = [teachers[-1 if last_teacher else 0]] * len(students)
    if teachers_averaged:
        teachers = [torch.stack([one.softmax(1) for one in teachers]).mean(0).log()] * len(students)
    if weights_softmaxed:
        weights = torch.tensor(weights, dtype=torch.float64).softmax(0).tolist()
    if first_task or last_task:
        students, teachers, weights = ([one[-1 if last_task else 0]] for one in (students, teachers, weights))
    if one_softmax:
        students, teachers, weights = [torch.cat(students, 1)], [torch.cat(teachers, 1)], [1.0]
    total = len(students) if tasks_averaged else sum(weights) if weights_normalised else 1
    shares = [(1 if weights_ignored else weight) / total for weight in weights]
    pairs = zip(students, teachers, shares, strict=True)
    return sum(share * _wrong_divergence(student, teacher, **switches) for student, teacher, share in pairs)


def _wrong_divergence(
    student: Tensor,
    teacher: Tensor,
    *,
    element_mean: bool = False,
    summed: bool = False,
    over_batch: bool = False,
    hard: bool = False,
    raw_teacher: bool = False,
    logits_squared: bool = False,
    probabilities_squared: bool = False,
    **switches: bool,
) -> Tensor:
    """Return a task's mean KL(teacher ‖ student), or what a switch makes of it."""
    if logits_squared:
        return F.mse_loss(student, teacher)
    if probabilities_squared:
        return F.mse_loss(student.softmax(1), teacher.softmax(1))
    if raw_teacher:
        return (teacher * (teacher.log() - student.log_softmax(1))).sum(1).mean()
    if hard:
        return F.cross_entropy(student, teacher.argmax(1))
    turned = (one.T if over_batch else one for one in (student, teacher))
    terms = wrong_terms(*turned, 1.0, **switches)
    examples = terms.sum(0) if over_batch else terms.sum(1)
    return terms.mean() if element_mean else examples.sum() if summed else examples.mean()


_OVER_BATCH = Mistake(
    "over_batch",
    "computed with a softmax over the batch",
    "The classes of *one* example compete with each other. Which axis are they on?",
)
SEPARATE_LOSS = Exercise(
    id="06.separate_loss",
    title="Strategy 2: a teacher for each task",
    points=3,
    reference=_separate_loss,
    inputs=_separate_inputs,
    drive=_observe_separate,
    wrong=_wrong_separate,
    mistakes=(
        *OF_DIVERGENCES,
        mistake_not_detached("teacher_logits"),
        Mistake(
            "one_teacher",
            "computed with the first teacher for every task",
            "Each head learns from its own task's teacher. Which teacher does the loop use in its second turn?",
        ),
        Mistake(
            "last_teacher",
            "computed with the last teacher for every task",
            "Each head learns from its own task's teacher. Does one loop end before the other begins?",
        ),
        Mistake(
            "teachers_averaged",
            "computed with the average of all teachers for every task",
            "Class 2 of one task has nothing to do with class 2 of another. Each head has a teacher of its own.",
        ),
        Mistake(
            "one_softmax",
            "computed with one softmax over the classes of all tasks",
            "Each task is a question of its own, and its probabilities sum to 1. Take one task after the other.",
        ),
        _OVER_BATCH,
        Mistake(
            "weights_ignored",
            "computed with the same weight for all tasks",
            "`weights` says how much a task counts.",
        ),
        Mistake(
            "weights_normalised",
            "divided by the sum of the weights",
            "The weights are taken as they are: twice the weights, twice the loss.",
        ),
        Mistake(
            "weights_softmaxed",
            "computed with a softmax of the weights",
            "The weights are taken as they are: a weight of zero should silence a task.",
        ),
        Mistake(
            "first_task",
            "computed for the first task alone",
            "Does the `return` stand inside the loop?",
        ),
        Mistake(
            "last_task",
            "computed for the last task alone",
            "Each turn of the loop should *add* to the total.",
        ),
        Mistake(
            "raw_teacher",
            "computed with the teacher's logits where its probabilities belong",
            "Logits may be negative, and they don't sum to 1. What turns them into probabilities?",
        ),
        Mistake(
            "hard",
            "computed from the teachers' hard labels",
            "The largest class alone says nothing of the others. Compare *probabilities*.",
        ),
        Mistake(
            "logits_squared",
            "the squared difference of the logits",
            "Logits may be shifted without changing an answer. Compare probabilities, by the KL divergence.",
        ),
        PROBABILITIES_SQUARED,
    ),
    sizes=lambda case: {
        "the number of tasks": sum(name.startswith("weights") for name in case),
        "the number of examples": len(case["student_logits[0]"]),
        "the sum of the weights": sum(value for name, value in case.items() if name.startswith("weights")),
    },
    properties=(
        Property(
            "is 0 where student and teachers agree",
            lambda answer: abs(answer([torch.tensor([[1.0, 2.0]])], [torch.tensor([[3.0, 4.0]])], [2.0]).item()) < 1e-6,
        ),
    ),
    alone=frozenset(
        {
            "student_cut",
            "log_of_softmax",
            "student_not_logged",
            "last_teacher",
            "teachers_averaged",
            "one_softmax",
            "over_batch",
            "weights_normalised",
            "weights_softmaxed",
            "first_task",
            "last_task",
            "raw_teacher",
            "hard",
            "logits_squared",
            "probabilities_squared",
        }
    ),
)


# --- attention_loss ---------------------------------------------------------------------------


def _attention_inputs(rng: np.random.Generator) -> list[Case]:
    # Examples, tasks, patches; then an attention for all tasks together. The last scores take a softmax to 0.
    shapes = ((3, 2, 4), (4, 9), (2, 3, 5), (1, 4), (2, 2, 6))
    cases = draw(rng, [{"student_scores": shape, "teacher_scores": shape} for shape in shapes], spread=1.5)
    cases[-1] = {name: 200 * value for name, value in cases[-1].items()}
    return cases


def _observe_attention(answer: Answer, case: Case) -> Observation:
    return observe_call(answer, case, constants=("teacher_scores",))


_BEFORE: dict[str, Callable[[Tensor], Tensor]] = {
    "over_batch": lambda scores: scores.movedim(0, -1),
    "over_tasks": lambda scores: scores.movedim(1, -1),
    "flattened": lambda scores: scores.flatten(1),
    "softmax_twice": lambda scores: scores.softmax(-1),
    "averaged_first": lambda scores: scores.mean(1) if scores.ndim == 3 else scores,
}


def _wrong_attention(
    student_scores: Tensor,
    teacher_scores: Tensor,
    *,
    not_detached: bool = False,
    student_cut: bool = False,
    patches_averaged: bool = False,
    summed: bool = False,
    tasks_summed: bool = False,
    raw_teacher: bool = False,
    raw: bool = False,
    scores_squared: bool = False,
    probabilities_squared: bool = False,
    **switches: bool,
) -> Tensor:
    teacher = teacher_scores if not_detached or student_cut else teacher_scores.detach()
    student = student_scores.detach() if student_cut else student_scores
    if scores_squared:
        return F.mse_loss(student, teacher)
    if probabilities_squared:
        return F.mse_loss(student.softmax(-1), teacher.softmax(-1))
    if raw_teacher or raw:
        logs = student.log() if raw else student.log_softmax(-1)
        return (teacher * (teacher.log() - logs)).sum(-1).mean()
    before = chosen(_BEFORE, switches, lambda scores: scores)
    others = {name: on for name, on in switches.items() if name not in _BEFORE}
    terms = wrong_terms(before(student), before(teacher), 1.0, **others)
    places = terms.sum(-1)
    if patches_averaged:
        return terms.mean()
    return places.sum() if summed else places.sum() / len(student) if tasks_summed else places.mean()


ATTENTION_LOSS = Exercise(
    id="06.attention_loss",
    title="Strategy 5: look where the teacher looks",
    points=2,
    reference=lesson.attention_transfer,
    inputs=_attention_inputs,
    drive=_observe_attention,
    wrong=_wrong_attention,
    mistakes=(
        SWAPPED,
        mistake_not_detached("teacher_scores"),
        mistake_student_cut("student_scores"),
        Mistake(
            "patches_averaged",
            "computed with the mean over the patches",
            "A KL divergence adds up over what the probabilities are shared out to: the patches.",
        ),
        Mistake(
            "summed",
            "summed over examples and tasks",
            "Average over both, or the loss grows with the batch.",
        ),
        Mistake(
            "tasks_summed",
            "summed over the tasks",
            '`reduction="batchmean"` divides by the length of the *first* axis only. The mean runs over examples and '
            "tasks.",
        ),
        Mistake(
            "over_batch",
            "computed with a softmax over the batch",
            "Attention is shared out among the patches of *one* image: the last axis.",
        ),
        Mistake(
            "over_tasks",
            "computed with a softmax over axis 1",
            "With an attention for each task axis 1 counts the tasks. The patches stand on the *last* axis.",
        ),
        Mistake(
            "flattened",
            "computed with one softmax over the patches of all tasks together",
            "Each task has an attention of its own, and each sums to 1.",
        ),
        Mistake(
            "averaged_first",
            "computed from scores averaged over the tasks",
            "Two tasks that look at opposite corners would cancel. Compare each task's attention, then average.",
        ),
        Mistake(
            "raw_teacher",
            "computed with the teacher's scores where its probabilities belong",
            "Scores may be negative, and they don't sum to 1. What turns them into attention?",
        ),
        Mistake(
            "raw",
            "computed with scores where probabilities belong, on both sides",
            "Scores may be negative: their log is nan. What turns them into attention?",
        ),
        Mistake(
            "softmax_twice",
            "computed with a softmax of a softmax",
            "Once is enough: twice, every attention is nearly even.",
        ),
        CROSS_ENTROPY,
        LOG_OF_SOFTMAX,
        STUDENT_NOT_LOGGED,
        PROBABILITIES_SQUARED,
        Mistake(
            "scores_squared",
            "the squared difference of the scores",
            "Scores may be shifted without changing where anyone looks. Compare after the softmax.",
        ),
    ),
    sizes=lambda case: {
        "the number of patches": case["student_scores"].shape[-1],
        "the number of examples": len(case["student_scores"]),
    },
    properties=(
        Property(
            "is 0 where both look at the same place",
            lambda answer: abs(answer(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])).item()) < 1e-6,
        ),
    ),
    alone=frozenset(
        {
            "student_cut",
            "raw_teacher",
            "raw",
            "softmax_twice",
            "averaged_first",
            "log_of_softmax",
            "student_not_logged",
            "probabilities_squared",
            "scores_squared",
        }
    ),
)


EXERCISES = (
    SHARED_LOSS,
    SEPARATE_LOSS,
    multi_task_weights.ADAPTIVE_WEIGHTS,
    ATTENTION_LOSS,
    multi_task_fusion.FUSION_LOSS,
    multi_task_weights.DWA_SCHEDULE,
    multi_task_weights.ANNEAL_TASKS,
)
