"""Lesson 06's exercises with weights: adaptive weights, dynamic weight average, and the hunt in teacher annealing."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctkd_lessons import multi_task as lesson
from ctkd_lessons.course.exercises.description import (
    Answer,
    Case,
    Exercise,
    Mistake,
    Observation,
    Property,
    observe_value,
    observe_value_only,
    tensors,
)
from ctkd_lessons.course.exercises.shared import ADAM, ZEROED_LATE, chosen, parameters_of, wrong_step

_Ways = dict[str, Callable[..., Tensor]]


def _observe_weights(answer: Answer, case: Case) -> Observation:
    """Observe the value, and whether gradient could pass through it."""
    seen = observe_value_only(answer, case)
    given = [v.requires_grad_() * 1 if isinstance(v, Tensor) else v for v in tensors(case).values()]
    value = answer(*given)
    graph = isinstance(value, Tensor) and value.requires_grad
    return seen | {"gradient graph of the weights": "some" if graph else "none"}


_WEIGHTS_NOT_DETACHED = Mistake(
    "not_detached",
    "right in value, but gradient flows through the weights",
    "The student could then shrink a loss by shrinking its *weight*. Weights are constants: cut them from the graph.",
)
_SUMS_TO_ONE = Mistake(
    "sums_to_one",
    "computed with weights that sum to 1",
    "They should sum to K: then equal tasks get the weight 1 each, and the learning rate means what it meant before.",
)
_TEMPERATURE_MULTIPLIED = Mistake(
    "temperature_multiplied",
    "computed with T multiplied",
    "A *high* temperature evens the weights out: divide by it.",
)
_TEMPERATURE_IGNORED = Mistake(
    "temperature_ignored",
    "computed without the temperature",
    "T says how much the weights may differ. Where does it stand in the formula?",
)


# --- adaptive_weights -------------------------------------------------------------------------


def _adaptive_inputs(rng: np.random.Generator) -> list[Case]:
    def case(tasks: int, temperature: float, dtype: str = "float64") -> Case:
        losses = {f"{who}_losses": np.exp(rng.normal(0, 1, tasks)).astype(dtype) for who in ("student", "teacher")}
        return losses | {"temperature": temperature}

    # The last: a power of the ratio leaves float32, a softmax of its log does not.
    cases = [
        case(3, 1.6),
        case(2, 0.5, dtype="float32"),
        case(5, 3.0),
        case(1, 2.0, dtype="float32"),
        case(4, 1.0),
        case(3, 0.02, dtype="float32"),
    ]
    cases[-1]["student_losses"][0] = 100 * cases[-1]["teacher_losses"][0]
    return cases


_COMPARED: _Ways = {
    "difference": lambda student, teacher: student - teacher,
    "student_alone": lambda student, teacher: student.log(),
    "student_losses": lambda student, teacher: student,
}


def _wrong_adaptive(
    student_losses: Tensor,
    teacher_losses: Tensor,
    temperature: float,
    *,
    not_detached: bool = False,
    inverted: bool = False,
    no_log: bool = False,
    no_softmax: bool = False,
    sums_to_one: bool = False,
    largest_one: bool = False,
    temperature_multiplied: bool = False,
    temperature_ignored: bool = False,
    divided_late: bool = False,
    powers: bool = False,
    **switches: bool,
) -> Tensor:
    student, teacher = student_losses, teacher_losses
    if not not_detached:
        student, teacher = student.detach(), teacher.detach()
    ratio = teacher / student if inverted else student / teacher
    heat = 1 / temperature if temperature_multiplied else 1 if temperature_ignored or divided_late else temperature
    compare = chosen(_COMPARED, switches, lambda student, teacher: ratio if no_log else ratio.log())
    weights = (compare(student, teacher) / heat).softmax(0)
    if no_softmax:
        return ratio
    if powers:
        weights = ratio ** (1 / heat) / (ratio ** (1 / heat)).sum()
    weights = weights / temperature if divided_late else weights
    return weights / weights.max() if largest_one else weights * (1 if sums_to_one else len(student))


ADAPTIVE_WEIGHTS = Exercise(
    id="06.adaptive_weights",
    title="Strategy 4: weights that follow the progress",
    points=3,
    reference=lesson.adaptive_weights,
    inputs=_adaptive_inputs,
    drive=_observe_weights,
    wrong=_wrong_adaptive,
    mistakes=(
        _WEIGHTS_NOT_DETACHED,
        _SUMS_TO_ONE,
        _TEMPERATURE_MULTIPLIED,
        _TEMPERATURE_IGNORED,
        Mistake(
            "inverted",
            "computed with the teacher's loss over the student's",
            "Then a task counts the *less*, the further the student is behind. Which loss belongs above?",
        ),
        Mistake(
            "no_log",
            "computed with the ratio in the place of its log",
            "Twice as far behind and half as far behind should differ from even by the same factor. What makes a "
            "ratio symmetric? (Subtracting 1 from it changes nothing: a softmax takes no notice.)",
        ),
        Mistake(
            "difference",
            "computed with the difference of the losses",
            "A difference depends on the unit of the loss: a task with large losses would win. Take the log of the "
            "*ratio*.",
        ),
        Mistake(
            "student_alone",
            "computed from the student's losses, as if all teachers were alike",
            "A task that even its teacher finds hard needs no more weight. Where does the teacher's loss come in?",
        ),
        Mistake(
            "student_losses",
            "a softmax of the student's losses",
            "Losses of different tasks can't be compared as they are. Divide each by its teacher's, and take the log.",
        ),
        Mistake(
            "no_softmax",
            "the bare ratios",
            "They may be of any size, and T plays no part. Take their log, divide it by T, and let the tasks share K.",
        ),
        Mistake(
            "divided_late",
            "divided by T after the softmax",
            "That changes the sum, not the differences. T belongs *inside* the softmax.",
        ),
        Mistake(
            "largest_one",
            "scaled so that the largest weight is 1",
            "The weights should *sum* to K, whatever their differences.",
        ),
        Mistake(
            "powers",
            "right until a power of the ratio overflows",
            "(L_student / L_teacher)^(1/T) leaves float32 for a small T. A softmax of logs says the same and stays "
            "in range.",
        ),
    ),
    properties=(
        Property(
            "gives every task the weight 1 where all are equally far behind",
            lambda answer: torch.allclose(
                answer(torch.tensor([0.2, 1.0, 6.0]), torch.tensor([0.1, 0.5, 3.0]), 0.7), torch.ones(3)
            ),
        ),
    ),
    sizes=lambda case: {"the number of tasks": len(case["student_losses"]), "the temperature": case["temperature"]},
    alone=frozenset(
        {
            "temperature_multiplied",
            "difference",
            "student_alone",
            "student_losses",
            "no_softmax",
            "divided_late",
            "largest_one",
            "powers",
        }
    ),
    at_once=3,  # a first try forgets several of these
)


# --- dwa_schedule: the variant ----------------------------------------------------------------


def _dwa_inputs(rng: np.random.Generator) -> list[Case]:
    shapes = (((5, 3), 1.6, "float64"), ((4, 2), 0.5, "float32"), ((3, 4), 2.0, "float64"), ((7, 1), 2.0, "float32"))
    cases = [
        {"losses": np.exp(rng.normal(0, 0.5, shape)).astype(dtype), "temperature": temperature}
        for shape, temperature, dtype in shapes
    ]
    # As long as there is nothing to compare; and losses that a learner may print.
    return [
        *cases,
        {"losses": np.array([[2.0, 8.0], [1.0, 8.0], [1.0, 4.0], [1.0, 1.0]]), "temperature": 2.0},
        {"losses": np.exp(rng.normal(0, 0.5, (2, 3))), "temperature": 1.0},
        {"losses": np.exp(rng.normal(0, 0.5, (1, 3))), "temperature": 1.0},
    ]


def _dwa_schedule(losses: Tensor, temperature: float) -> Tensor:
    """Return the weights (E, K) of every epoch: 1 in the first two, then dynamic weight average."""
    later = [lesson.dwa_weights(losses[t - 1], losses[t - 2], temperature) for t in range(2, len(losses))]
    return torch.cat([torch.ones_like(losses[:2]), torch.stack(later)]) if later else torch.ones_like(losses)


# How far back the two epochs lie that are compared.
_EPOCHS: dict[str, int] = {"looks_ahead": 0, "late": 2}
_RATIOS: _Ways = {
    "inverted": lambda last, earlier, first: earlier / last,
    "logged": lambda last, earlier, first: (last / earlier).log(),
    "difference": lambda last, earlier, first: last - earlier,
    "since_start": lambda last, earlier, first: last / first,
    "last_alone": lambda last, earlier, first: last,
}


def _wrong_dwa(
    losses: Tensor,
    temperature: float,
    *,
    not_detached: bool = False,
    sums_to_one: bool = False,
    first_uneven: bool = False,
    first_zero: bool = False,
    first_left_out: bool = False,
    wrapped: bool = False,
    one_on: bool = False,
    ratios: bool = False,
    over_epochs: bool = False,
    no_softmax: bool = False,
    temperature_multiplied: bool = False,
    temperature_ignored: bool = False,
    **switches: bool,
) -> Tensor:
    table = losses if not_detached else losses.detach()
    back = chosen(_EPOCHS, switches, 1)
    start, tasks = back + 1, table.shape[1]
    if wrapped:
        pairs = [table[t - 1] / table[t - 2] for t in range(len(table))]
        return tasks * (torch.stack(pairs) / temperature).softmax(1)
    first = torch.ones_like(table[:start]) / (tasks if first_uneven else 1) * (0 if first_zero else 1)
    if one_on:
        table = torch.cat([table[1:], table[-1:]])
    if len(table) <= start:
        return first[:0] if first_left_out else first
    heat = 1 / temperature if temperature_multiplied else 1 if temperature_ignored else temperature
    compare = chosen(_RATIOS, switches, lambda last, earlier, first: last / earlier)
    values = compare(table[1 : len(table) - back], table[: len(table) - start], table[:1]) / heat
    if ratios:
        return torch.cat([first, values * heat])
    shares = values / values.sum(1, keepdim=True) if no_softmax else values.softmax(0 if over_epochs else 1)
    later = shares * (1 if sums_to_one else tasks)
    return later if first_left_out else torch.cat([first, later])


DWA_SCHEDULE = Exercise(
    id="06.dwa_schedule",
    title="Dynamic weight average over a whole training",
    points=3,
    reference=_dwa_schedule,
    inputs=_dwa_inputs,
    drive=_observe_weights,
    wrong=_wrong_dwa,
    mistakes=(
        _WEIGHTS_NOT_DETACHED,
        _SUMS_TO_ONE,
        _TEMPERATURE_MULTIPLIED,
        _TEMPERATURE_IGNORED,
        Mistake(
            "inverted",
            "computed with L(t − 2) / L(t − 1)",
            "Then a task counts the more, the *faster* its loss falls. The later epoch belongs above.",
        ),
        Mistake(
            "logged",
            "computed with the log of the ratio",
            "The adaptive weights of exercise 3 have a log. Liu et al. put the ratio itself into the softmax.",
        ),
        Mistake(
            "difference",
            "computed with the difference of the two losses",
            "A difference depends on the unit of the loss. Divide.",
        ),
        Mistake(
            "since_start",
            "compared with the first epoch",
            "A ratio to the very start falls for every task that ever learned. Compare the two epochs before this one.",
        ),
        Mistake(
            "last_alone",
            "computed from the last epoch's losses, not from how they changed",
            "Losses of different tasks can't be compared as they are. Divide each by its own loss an epoch earlier.",
        ),
        Mistake(
            "looks_ahead",
            "computed with the loss of the epoch itself",
            "When epoch t begins, its loss is not known yet. Which two epochs are over?",
        ),
        Mistake(
            "one_on",
            "computed with the loss of the epoch itself, from the third row on",
            "The first two rows are right. When epoch t begins, only the losses up to t − 1 are known.",
        ),
        Mistake(
            "wrapped",
            "computed with negative row numbers in the first two epochs",
            "`losses[-1]` is the *last* epoch. What do the first two rows hold instead?",
        ),
        Mistake(
            "ratios",
            "the bare ratios",
            "They may sum to anything. The formula puts them through a softmax.",
        ),
        Mistake(
            "first_zero",
            "computed with zeros in the first two rows",
            "With a weight of 0 nothing is learned. In the first two epochs all weights are 1.",
        ),
        Mistake(
            "late",
            "an epoch late",
            "At the start of epoch t the epochs t − 1 and t − 2 are over. Where do your rows begin?",
        ),
        Mistake(
            "first_uneven",
            "computed with 1/K in the first rows",
            "Every row sums to K. What has each task in the first two?",
        ),
        Mistake(
            "first_left_out",
            "computed without rows for the epochs that have nothing to compare",
            "One row for each epoch: in the first two all weights are 1.",
        ),
        Mistake(
            "over_epochs",
            "computed with a softmax over the epochs",
            "The tasks of *one* epoch share the weight. Which axis are they on?",
        ),
        Mistake(
            "no_softmax",
            "shared out in proportion to the ratios",
            "That is close while all ratios are near 1. The formula has a softmax.",
        ),
    ),
    sizes=lambda case: {"the number of tasks": case["losses"].shape[1], "the temperature": case["temperature"]},
    alone=frozenset(
        {
            "logged",
            "difference",
            "since_start",
            "last_alone",
            "one_on",
            "wrapped",
            "ratios",
            "first_zero",
            "first_left_out",
            "over_epochs",
            "no_softmax",
        }
    ),
)


# --- anneal_tasks: the bug hunt ---------------------------------------------------------------

_FEATURES, _CLASSES = 3, 3


def _annealing_inputs(rng: np.random.Generator) -> list[Case]:
    def case(tasks: int, steps: int, **numbers: float) -> Case:
        return {
            "images": rng.normal(0, 1, (7, _FEATURES)),
            "labels": rng.integers(0, _CLASSES, (7, tasks)),
            "batches": np.stack([rng.permutation(7)[:4] for _ in range(steps)]),
            **numbers,
        }

    # The first case is the quickest: every subset of the bugs is tried on it.
    return [
        case(2, 2, temperature=1.6, learning_rate=0.5),
        case(3, 3, temperature=0.7, learning_rate=0.3),
    ]


class _Student(nn.Module):
    """A shared layer and a head for each task: x → list of logits."""

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.trunk = nn.Linear(_FEATURES, 4)
        self.heads = nn.ModuleList(nn.Linear(4, _CLASSES) for _ in range(tasks))

    def forward(self, x: Tensor) -> list[Tensor]:
        features = torch.tanh(self.trunk(x))
        return [head(features) for head in self.heads]


def _teacher() -> nn.Module:
    """Build a teacher with batch normalisation that was trained on images of another kind."""
    # Its running averages are those of the last batch: a forward pass more makes no difference.
    model = nn.Sequential(nn.Linear(_FEATURES, 4), nn.BatchNorm1d(4, momentum=1.0), nn.Linear(4, _CLASSES)).double()
    model(torch.randn(20, _FEATURES, dtype=torch.float64))
    return model


def _observe_annealing(answer: Answer, case: Case) -> Observation:
    """Build student and teachers, let the answer train, and look at all of them."""
    given = tensors(case)
    tasks = case["labels"].shape[1]
    teachers, student = [_teacher() for _ in range(tasks)], _Student(tasks).double()
    states = [value for teacher in teachers for value in teacher.state_dict().values()]
    before = [value.clone() for value in states]
    value = observe_value(answer(teachers, student, *given.values()))
    parameters = [p for teacher in teachers for p in teacher.parameters()]
    return {
        "type": value["type"],
        "student after training": parameters_of(student).astype("float32"),
        **({"value": value["value"]} if "value" in value else {}),
        "change of the teachers": "none" if all(map(torch.equal, before, states)) else "some",
        "gradient left in the teachers": "some" if any(p.grad is not None for p in parameters) else "none",
        "teachers' `requires_grad`": "as it was" if all(p.requires_grad for p in parameters) else "False",
    }


def _anneal_tasks(
    teachers: Sequence[nn.Module],
    student: nn.Module,
    images: Tensor,
    labels: Tensor,
    batches: Tensor,
    temperature: float,
    learning_rate: float,
    *,
    teachers_training: bool = False,
    last_teacher: bool = False,
    over_batch: bool = False,
    progress_reversed: bool = False,
    weights_not_detached: bool = False,
    first_teacher: bool = False,
    teacher_not_detached: bool = False,
    progress_short: bool = False,
    progress_one_on: bool = False,
    smoothed: bool = False,
    weights_inverted: bool = False,
    weights_to_one: bool = False,
    weights_ignored: bool = False,
    annealed_errors: bool = False,
    accumulates: bool = False,
    zeroed_late: bool = False,
    adam: bool = False,
) -> float:
    """Teach the student in place, from the teachers first and from the labels at the end; return the last loss."""
    optimiser = (torch.optim.Adam if adam else torch.optim.SGD)(student.parameters(), lr=learning_rate)
    for teacher in teachers:
        teacher.train(teachers_training)
    for step, rows in enumerate(batches):
        share = (step + progress_one_on) / (len(batches) - (not (progress_short or progress_one_on)))
        share = 1 - share if progress_reversed else share
        with torch.set_grad_enabled(teacher_not_detached):
            said = [teacher(images[rows]).log_softmax(0 if over_batch else 1) for teacher in teachers]
        if first_teacher or last_teacher:
            said = [said[-1 if last_teacher else 0]] * len(said)
        losses, ratios = [], []
        for output, log_p, truth in zip(student(images[rows]), said, labels[rows].T, strict=True):
            one_hot = F.one_hot(truth, output.shape[1])
            soft = torch.full_like(log_p, 1 / _CLASSES) if smoothed else log_p.exp()
            losses.append(F.cross_entropy(output, (1 - share) * soft + share * one_hot))
            error = losses[-1] if annealed_errors else F.cross_entropy(output, truth)
            ratios.append((error / F.nll_loss(log_p, truth)) ** (-1 if weights_inverted else 1))
        behind = torch.stack(ratios) if weights_not_detached else torch.stack(ratios).detach()
        weights = (behind.log() / temperature).softmax(0) * (1 if weights_to_one else len(behind))
        loss = ((1 if weights_ignored else weights) * torch.stack(losses)).sum()
        wrong_step(optimiser, loss, accumulates=accumulates, zeroed_late=zeroed_late)
    return loss.item()


# The five bugs of the broken training come in any mixture; then what one may add when mending it.
_BUGS = 5
_ANNEALING_MISTAKES = (
    Mistake(
        "teachers_training",
        "a training whose teachers are still in training mode",
        "Batch normalisation then looks at the batch, and every run changes the teacher. A network is in training mode "
        "until told otherwise.",
    ),
    Mistake(
        "last_teacher",
        "a training in which the last teacher teaches every task",
        "One loop over the teachers is over before the loop over the tasks begins. What is left of it?",
    ),
    Mistake(
        "over_batch",
        "a training whose teachers share out probability among the examples",
        "The *classes* of one example compete with each other. Which axis are they on?",
    ),
    Mistake(
        "progress_reversed",
        "a training that anneals the wrong way round",
        "It should begin with the teachers and end with the labels. What are the targets in the first step?",
    ),
    Mistake(
        "weights_not_detached",
        "a training whose gradient flows through the weights",
        "The student can shrink its loss by shrinking a *weight*. Cut the weights from the graph.",
    ),
    Mistake(
        "first_teacher",
        "a training in which the first teacher teaches every task",
        "Head k learns from teacher k: what is the index?",
    ),
    Mistake(
        "teacher_not_detached",
        "right for the student, but a training that leaves gradients in the teachers",
        "The teachers are constants. Run them under `torch.no_grad()`.",
    ),
    Mistake(
        "progress_short",
        "a training that never quite comes to the labels",
        "The last step has the number len(batches) − 1. For what do you have to divide to get 1 there?",
    ),
    Mistake(
        "progress_one_on",
        "a training that does not begin with the teachers alone",
        "In the first step the progress is 0, in the last it is 1.",
    ),
    Mistake(
        "smoothed",
        "a training with smoothed labels in the place of the teachers",
        "Even probabilities say nothing about the image. The other part of the target is what the teacher answers.",
    ),
    Mistake(
        "weights_inverted",
        "a training whose weights favour the tasks that are ahead",
        "The further the student is behind its teacher, the more the task counts. The student's error belongs above.",
    ),
    Mistake(
        "weights_to_one",
        "a training whose weights sum to 1",
        "They should sum to the number of tasks, as in exercise 3.",
    ),
    Mistake(
        "weights_ignored",
        "a training that just adds up the losses",
        "Each task's loss has its weight, as in exercise 3.",
    ),
    Mistake(
        "annealed_errors",
        "a training whose weights follow the annealed losses",
        "Early on, the annealed loss measures the distance to the teacher. The weights compare errors on the *labels*.",
    ),
    Mistake(
        "accumulates",
        "a training whose gradients pile up from step to step",
        "`backward` adds to `.grad`. What must happen before it?",
    ),
    ZEROED_LATE,
    ADAM,
)
ANNEAL_TASKS = Exercise(
    id="06.anneal_tasks",
    title="Bug hunt: teacher annealing over several tasks",
    points=4,
    reference=_anneal_tasks,
    inputs=_annealing_inputs,
    drive=_observe_annealing,
    wrong=_anneal_tasks,
    mistakes=_ANNEALING_MISTAKES,
    at_once=_BUGS,
    alone=frozenset(mistake.name for mistake in _ANNEALING_MISTAKES[_BUGS:]),
)
