"""Lesson 07's exercises with PCGrad: the projection itself, and the bug hunt in a training step."""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctkd_lessons import conflict as lesson
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
from ctkd_lessons.course.exercises.shared import parameters_of

# --- pcgrad -----------------------------------------------------------------------------------


def direction_lies_along(direction: Tensor, gradients: Tensor) -> bool:
    """Return whether the direction has the same component along every gradient."""
    components = gradients @ direction / gradients.norm(dim=1)
    return bool((components - components.mean()).abs().max() < 1e-4)


def _orders(rng: np.random.Generator, tasks: int) -> np.ndarray:
    return np.stack([rng.permutation(tasks) for _ in range(tasks)])


def _pcgrad_inputs(rng: np.random.Generator) -> list[Case]:
    def case(tasks: int, width: int, dtype: str, conflict: float) -> Case:
        gradients = rng.normal(0, 1, (tasks, width)) * rng.uniform(0.5, 2, (tasks, 1))
        gradients[1:] -= conflict * gradients[0]
        return {"gradients": gradients.astype(dtype), "order": _orders(rng, tasks)}

    def turned_against_itself() -> Case:
        """Draw until what is left of a gradient conflicts with the gradient itself: seldom."""
        while True:
            found = case(7, 3, "float64", 0)
            right, wrong = (_pcgrad(*tensors(found).values(), itself=itself) for itself in (False, True))
            if (right - wrong).norm() > 0.05 * right.norm():
                return found

    first, second = case(5, 7, "float64", 0.3), case(3, 4, "float32", 0.4)
    return [first, second, turned_against_itself(), case(2, 5, "float64", 0.8), case(5, 8, "float32", 0.2)]


def _turns(i: int, order: Tensor, **how: bool) -> Iterator[int]:
    tasks = len(order)
    row = torch.arange(tasks) if how["order_ignored"] else order[0] if how["one_order"] else order[i]
    row = order[:, i] if how["order_column"] else row.argsort() if how["as_ranks"] else row
    row = row.flip(0) if how["backwards"] else row
    return (j for j in row.tolist() if j != i or how["itself"])


def _pcgrad(
    gradients: Tensor,
    order: Tensor,
    *,
    itself: bool = False,
    always: bool = False,
    agreement: bool = False,
    changed: bool = False,
    not_divided: bool = False,
    length_once: bool = False,
    own_length: bool = False,
    along_own: bool = False,
    added: bool = False,
    averaged: bool = False,
    not_summed: bool = False,
    order_ignored: bool = False,
    one_order: bool = False,
    order_column: bool = False,
    as_ranks: bool = False,
    backwards: bool = False,
    at_once: bool = False,
    judged_before: bool = False,
    first_only: bool = False,
    dropped: bool = False,
    unit: bool = False,
    plain_sum: bool = False,
) -> Tensor:
    """Project every gradient off those it conflicts with, one after the other; add up what is left."""
    g = F.normalize(gradients) if unit else gradients
    rest = g.clone()
    ways = {"order_ignored": order_ignored, "one_order": one_order, "order_column": order_column}
    for i in range(len(g)):
        for j in _turns(i, order, **ways, as_ranks=as_ranks, backwards=backwards, itself=itself):
            other = rest[j].clone() if changed else g[j]
            product = (g[i] if at_once else rest[i]) @ other
            judged = g[i] @ g[j] if judged_before else product
            if not (always or (judged > 0 if agreement else judged < 0)):
                continue
            square = (g[i] if own_length else other).square().sum()
            square = torch.ones_like(square) if not_divided else square.sqrt() if length_once else square
            step = product / square * (g[i] if along_own else other)
            rest[i] = 0 * rest[i] if dropped else rest[i] + step if added else rest[i] - step
            if first_only:
                break
    rest = g if plain_sum else rest
    return rest if not_summed else rest.mean(0) if averaged else rest.sum(0)


PCGRAD = Exercise(
    id="07.pcgrad",
    title="Gradient surgery",
    points=4,
    reference=lesson.pcgrad,
    inputs=_pcgrad_inputs,
    drive=observe_value_only,
    wrong=_pcgrad,
    mistakes=(
        Mistake(
            "changed",
            "computed with projections on gradients that are already changed",
            "Each task meets the others' *original* gradients. Which tensor do you read g_j from, and has the loop "
            "written to it?",
        ),
        Mistake(
            "always",
            "computed with a projection at every turn, conflict or none",
            "Where two gradients agree nothing is taken away. What is the sign of a product in a conflict?",
        ),
        Mistake(
            "agreement",
            "computed with a projection where the gradients agree",
            "In a conflict the product is *below* zero.",
        ),
        Mistake(
            "plain_sum",
            "the plain sum of the gradients",
            "Does what is left of each gradient reach the sum? `rest = rest - …` makes a new tensor, and a loop over a "
            "copy leaves the original as it was.",
        ),
        Mistake(
            "itself",
            "right but for j = i, which it lets through",
            "What is left of g_i may point against g_i itself, and then it is projected on its own gradient. Pass over "
            "j = i.",
        ),
        Mistake(
            "not_divided",
            "computed without dividing by ‖g_j‖²",
            "What remains should be at a right angle to g_j. Check: is its product with g_j zero?",
        ),
        Mistake(
            "length_once",
            "computed with ‖g_j‖ in the denominator",
            "g_j stands twice in the numerator, once in the product and once as the direction: divide by its length "
            "twice.",
        ),
        Mistake(
            "own_length",
            "computed with ‖g_i‖² in the denominator",
            "The projection is *on* g_j: whose length does not matter in the end?",
        ),
        Mistake(
            "along_own",
            "computed with steps along g_i",
            "That only makes g_i shorter or longer. What conflicts is its part along g_j: take that away.",
        ),
        Mistake(
            "added",
            "computed with the projection added",
            "The product is negative, and subtracting it turns g_i away from the conflict. Mind the sign.",
        ),
        Mistake("averaged", "the mean of what is left of each task", "The algorithm adds up what is left."),
        Mistake("not_summed", "what is left of each task, not yet added up", "One direction for all: (P,)."),
        Mistake(
            "order_ignored",
            "computed in the order 0, 1, 2, …",
            "`order[i]` says in which order task i meets the others.",
        ),
        Mistake(
            "one_order",
            "computed with the first row's order for every task",
            "Task i has a row of its own in `order`.",
        ),
        Mistake(
            "order_column",
            "computed with the columns of `order`",
            "Row i is task i's order.",
        ),
        Mistake(
            "as_ranks",
            "computed as if `order[i, j]` were the turn at which task j comes",
            "It is the other way round: `order[i, t]` is the task that comes at turn t.",
        ),
        Mistake("backwards", "computed in the reversed order", "`order[i, 0]` comes first."),
        Mistake(
            "at_once",
            "computed with all products taken from the untouched g_i",
            "After the first projection g_i is another vector. The next product is of what is *left* of it.",
        ),
        Mistake(
            "judged_before",
            "computed with conflicts judged by the untouched gradients",
            "A projection may end a conflict with the next task, or start one. Ask about what is left of g_i.",
        ),
        Mistake(
            "first_only",
            "computed with at most one projection per task",
            "A task may conflict with several. Does the loop go on after the first?",
        ),
        Mistake(
            "dropped",
            "computed with conflicting gradients dropped whole",
            "Only the part along g_j goes. What is at a right angle to it stays.",
        ),
        Mistake(
            "unit",
            "computed from gradients brought to length one",
            "Lengths stay as they are: PCGrad changes angles, and what it takes away.",
        ),
    ),
    properties=(
        Property(
            "is the plain sum where no gradients conflict",
            lambda answer: torch.allclose(answer(_AGREEING, _ORDER), _AGREEING.sum(0)),
        ),
    ),
    sizes=lambda case: dict(
        zip(("the number of tasks", "the number of parameters"), case["gradients"].shape, strict=True)
    ),
    alone=frozenset(
        {"plain_sum", "agreement", "along_own", "not_summed", "as_ranks", "backwards", "order_column", "first_only"}
        | {"dropped", "unit", "judged_before", "added", "at_once", "own_length", "one_order"}
    ),
)
_AGREEING = torch.tensor([[1.0, 2.0, 0.5], [0.5, 0.1, 3.0], [2.0, 0.3, 1.0]])
_ORDER = torch.tensor([[2, 1, 0], [0, 1, 2], [1, 0, 2]])


# --- surgery_step: the bug hunt ---------------------------------------------------------------


def _step_inputs(rng: np.random.Generator) -> list[Case]:
    def case(tasks: int, examples: int, steps: int, learning_rate: float) -> Case:
        return {
            "x": rng.normal(0, 1, (examples, 3)),
            "targets": rng.normal(0, 2, (tasks, examples, 1)),
            "orders": np.stack([_orders(rng, tasks) for _ in range(steps)]),
            "learning_rate": learning_rate,
        }

    return [case(3, 5, 3, 0.05), case(6, 4, 4, 0.02), case(2, 6, 2, 0.05)]


def _observe_step(answer: Answer, case: Case) -> Observation:
    """Build a network, let the answer take some steps, and look at trunk and heads."""
    given = tensors(case)
    x, targets, orders, rate = given.values()
    trunk = nn.Sequential(nn.Linear(3, 4), nn.Tanh()).double()
    heads = nn.ModuleList(nn.Linear(4, 1) for _ in targets).double()
    with torch.no_grad():  # heads that pull in different directions
        for k, head in enumerate(heads):
            head.weight.mul_(3.0 * (-1) ** k)
    optimiser = torch.optim.SGD([*trunk.parameters(), *heads.parameters()], lr=rate, momentum=0.5)
    values = [observe_value(answer(trunk, heads, optimiser, x, targets, order)) for order in orders]
    seen: Observation = {"type": values[0]["type"]}
    if all("value" in value and np.size(value["value"]) == 1 for value in values):
        losses = np.array([float(value["value"]) for value in values])
        seen |= {
            "loss that the first step returns": losses[:1].reshape(()),
            "trunk after training": parameters_of(trunk),
            "heads after training": parameters_of(heads),
            "value": losses,
        }
    return seen | {f"`{name}` afterwards": value.numpy() for name, value in given.items() if name != "learning_rate"}


def _surgery_step(
    trunk: nn.Module,
    heads: nn.ModuleList,
    optimiser: torch.optim.Optimizer,
    x: Tensor,
    targets: Tensor,
    order: Tensor,
    *,
    heads_too: bool = False,
    accumulates: bool = False,
    changed: bool = False,
    always: bool = False,
    added: bool = False,
    averaged: bool = False,
    one_order: bool = False,
    not_divided: bool = False,
    at_once: bool = False,
    no_surgery: bool = False,
    heads_kept: bool = False,
    heads_averaged: bool = False,
    zeroed_late: bool = False,
    one_head: bool = False,
    same_target: bool = False,
    loss_after: bool = False,
    mean_returned: bool = False,
    mean_loss: bool = False,
) -> float:
    """Take one PCGrad step in the trunk and a plain one in the heads; return the sum of the losses before it."""

    def all_losses() -> Tensor:
        pairs = enumerate(zip(heads, targets, strict=True))
        mean = "mean" if not mean_loss else "sum"
        each = [
            F.mse_loss((heads[0] if one_head else head)(trunk(x)), targets[0 if same_target else k], reduction=mean)
            for k, (head, _) in pairs
        ]
        return torch.stack(each)

    losses, own = all_losses(), list(heads.parameters())
    shared = [*trunk.parameters(), *(own if heads_too else [])]
    if not accumulates:
        optimiser.zero_grad()
    (losses.mean() if heads_averaged else losses.sum()).backward(retain_graph=True)
    gradients = lesson.task_gradients(losses, shared, batched=False)
    switches = {"changed": changed, "always": always, "averaged": averaged, "one_order": one_order}
    direction = _pcgrad(gradients, order, **switches, not_divided=not_divided, at_once=at_once)
    direction = gradients.sum(0) if no_surgery else direction
    for parameter, piece in zip(shared, direction.split([p.numel() for p in shared]), strict=True):
        parameter.grad = piece.view_as(parameter) + (parameter.grad if added else 0)
    if heads_kept or zeroed_late:
        for parameter in own if heads_kept else [*shared, *own]:
            parameter.grad = None
    optimiser.step()
    value = all_losses() if loss_after else losses
    return (value.mean() if mean_returned else value.sum()).item()


# The five bugs of the broken step come in any mixture.
_BUGS = 5
_STEP_MISTAKES = (
    Mistake(
        "heads_too",
        "a step that operates on the heads, too",
        "Each head is one task's own: nobody conflicts with it, and its gradient stays as it is. Surgery is for the "
        "parameters that the tasks *share*.",
    ),
    Mistake(
        "changed",
        "a step that projects on gradients that are already changed",
        "Each task meets the others' *original* gradients. Which of the two tensors holds those?",
    ),
    Mistake(
        "always",
        "a step that projects at every turn, conflict or none",
        "Where two gradients agree nothing is taken away. A condition is missing.",
    ),
    Mistake(
        "accumulates",
        "a step whose gradients pile up on those of the step before",
        "`backward` adds to `.grad`. What must happen before it?",
    ),
    Mistake(
        "added",
        "a step that adds the new direction to the gradient it should replace",
        "After `backward` the trunk's `.grad` holds the plain sum. The new direction takes its place.",
    ),
    Mistake("averaged", "a step along the mean of what is left", "What is left of each task is added up."),
    Mistake("one_order", "a step that takes one order for all tasks", "Row i of `order` is task i's."),
    Mistake(
        "not_divided",
        "a step that does not divide by ‖g_j‖²",
        "What remains should be at a right angle to g_j.",
    ),
    Mistake(
        "at_once",
        "a step that takes all products from the untouched gradients",
        "After the first projection, the next product is of what is *left*.",
    ),
    Mistake(
        "no_surgery",
        "a step along the plain sum of the gradients",
        "The tasks' gradients are computed, but does what is left of them reach the trunk's `.grad`?",
    ),
    Mistake(
        "heads_kept",
        "a step that leaves the heads as they were",
        "Each head follows the gradient of its own loss. Does anything fill, or clear, its `.grad`?",
    ),
    Mistake(
        "heads_averaged",
        "a step whose heads receive the gradient of the *mean* loss",
        "Each head follows its own loss, undivided.",
    ),
    Mistake(
        "zeroed_late",
        "a step after which the network is as it was",
        "Something clears the gradients between filling them and `step`.",
    ),
    Mistake(
        "one_head",
        "a step that sends all tasks through one head",
        "Head k answers for task k.",
    ),
    Mistake(
        "same_target",
        "a step that trains all heads on one task's targets",
        "`targets[k]` belongs to head k.",
    ),
    Mistake(
        "mean_loss",
        "a step whose losses are summed over the examples",
        "`F.mse_loss` averages over them, unless told otherwise.",
    ),
    Mistake(
        "loss_after",
        "right in training, but it returns the loss after the step",
        "Return the sum that you computed before it. No second run is needed.",
    ),
    Mistake(
        "mean_returned",
        "right in training, but it returns the mean of the losses",
        "Return their sum.",
    ),
)
SURGERY_STEP = Exercise(
    id="07.surgery_step",
    title="Bug hunt: a step of PCGrad",
    points=4,
    reference=_surgery_step,
    inputs=_step_inputs,
    drive=_observe_step,
    wrong=_surgery_step,
    mistakes=_STEP_MISTAKES,
    at_once=_BUGS,
    alone=frozenset(mistake.name for mistake in _STEP_MISTAKES[_BUGS:]),
)
