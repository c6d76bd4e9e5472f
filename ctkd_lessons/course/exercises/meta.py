"""The exercises of lesson 10. Training loops stand in ``meta_training``, few-shot classes in ``meta_fewshot``."""

import numpy as np
import torch
from torch import Tensor

from ctkd_lessons import meta as lesson
from ctkd_lessons.course.exercises.description import Answer, Case, Exercise, Mistake, Observation, Property, tensors
from ctkd_lessons.course.exercises.meta_fewshot import PROTOTYPE_ANSWERS, SAMPLE_EPISODE
from ctkd_lessons.course.exercises.meta_losses import (
    Batch,
    Params,
    TaskLoss,
    draw_batch,
    draw_params,
    gradients_of,
    handed_back,
    leaves,
    observe_afterwards,
    observe_loss,
    observe_params,
    squared_error,
    tasks_of,
)
from ctkd_lessons.course.exercises.meta_training import META_SGD, META_TRAIN

# --- adapt ------------------------------------------------------------------------------------


def _adapt_inputs(rng: np.random.Generator) -> list[Case]:
    def case(width: int, hidden: int, examples: int, lr: float, steps: int, dtype: str) -> Case:
        rest = {"lr": lr, "steps": steps}
        return draw_params(rng, width, hidden, dtype) | draw_batch(rng, dtype, examples, width) | rest

    return [
        case(2, 3, 5, 0.05, 3, "float64"),
        case(3, 0, 4, 0.1, 1, "float32"),
        case(2, 4, 6, 0.03, 2, "float32"),
        case(2, 0, 5, 0.1, 0, "float64"),
        case(1, 2, 1, 0.02, 5, "float64"),
    ]


def _observe_adapt(answer: Answer, case: Case) -> Observation:
    """Adapt a small network, and look at the answer, the gradient through it, and what was given."""
    given, params = tensors(case), leaves(case)
    batch = given["x"], given["y"]
    seen = observe_params(
        answer(squared_error, params, batch, case["lr"], case["steps"]), params, into={"params": params}
    )
    return seen | observe_afterwards(("params", "batch"), params, batch)


def _right_adapt(loss: TaskLoss, params: Params, batch: Batch, lr: float, steps: int) -> Params:
    return lesson.adapt(loss, params, *batch, lr=lr, steps=steps)


def _wrong_adapt(
    loss: TaskLoss,
    params: Params,
    batch: Batch,
    lr: float,
    steps: int,
    *,
    first_order: bool = False,
    start_cut: bool = False,
    detached: bool = False,
    start_gradient: bool = False,
    restarted: bool = False,
    ascent: bool = False,
    in_place: bool = False,
    summed: bool = False,
    one_more: bool = False,
    one_fewer: bool = False,
    one_step: bool = False,
    last_only: bool = False,
    first_only: bool = False,
    one_by_one: bool = False,
    rate_forgotten: bool = False,
    rate_shared: bool = False,
    unit: bool = False,
    moved: bool = False,
) -> Params:
    start = tuple(entry.detach() for entry in params) if start_cut else params
    rate = (1 if rate_forgotten else lr / max(steps, 1) if rate_shared else lr) * (-1 if ascent else 1)
    rate *= len(batch[0]) if summed else 1
    chosen = {len(params) - 1} if last_only else {0} if first_only else set(range(len(params)))
    now, at = start, params
    for _ in range(1 if one_step else max(steps + one_more - one_fewer, 0)):
        gradients = list(gradients_of(loss, at, batch, graph=not first_order))
        if unit:
            gradients = [g / g.norm() for g in gradients]
        old, changed = start if restarted else now, list(now)
        for place in sorted(chosen):
            if one_by_one:
                gradients[place] = gradients_of(loss, tuple(changed), batch, graph=not first_order)[place]
            changed[place] = old[place] - rate * gradients[place]
        now = tuple(changed)
        at = params if start_gradient else now
    return handed_back(params, now, in_place=in_place, moved=moved, detached=detached)


ADAPT = Exercise(
    id="10.adapt",
    title="Inner steps",
    points=2,
    reference=_right_adapt,
    inputs=_adapt_inputs,
    drive=_observe_adapt,
    wrong=_wrong_adapt,
    mistakes=(
        Mistake(
            "first_order",
            "right in value, but the steps' gradients are constants: first order",
            "φ depends on θ in two ways: directly, and through the gradient. `torch.autograd.grad` forgets how the "
            "gradient came about unless you say `create_graph=True`; `torch.func.grad` remembers. Nothing is detached.",
        ),
        Mistake(
            "start_cut",
            "right in value, but θ itself is cut from the graph where the step starts",
            "θ − α∇L(θ) holds θ twice. The gradient must flow through both.",
        ),
        Mistake(
            "detached",
            "right in value, but no gradient flows from the answer to `params`",
            "No `detach`, `.data`, `no_grad` or optimiser: the new parameters are ordinary tensors, made by a "
            "subtraction.",
        ),
        Mistake(
            "start_gradient",
            "computed with the gradient at the start for every step",
            "The second step's gradient is taken where the first one ended.",
        ),
        Mistake(
            "restarted",
            "computed with every step starting from θ",
            "A step continues from where the last one ended: φ ← φ − α∇L(φ).",
        ),
        Mistake("ascent", "computed with steps *up* the loss", "A step goes down the loss. Mind the sign."),
        Mistake(
            "in_place",
            "right in value, but it changes the parameters it was given",
            "Every other task starts from them, too. Make new tensors: no `-=`, no assignment to `.data`.",
        ),
        Mistake(
            "summed",
            "computed with steps as many times too long as there are examples",
            "`loss` has averaged over the examples already. Take it as it comes, for the whole batch at once.",
        ),
        Mistake("one_more", "computed with one step too many", "How often does the loop run for `steps` = 0?"),
        Mistake("one_fewer", "computed with one step too few", "How often does the loop run for `steps` = 1?"),
        Mistake(
            "one_step",
            "computed with one step, whatever `steps` says",
            "Is the `return` inside the loop? And with `steps` = 0 nothing changes.",
        ),
        Mistake(
            "last_only",
            "computed with steps of the last parameter alone",
            "All parameters move. Does the loop keep each of them?",
        ),
        Mistake(
            "first_only",
            "computed with steps of the first parameter alone",
            "All parameters move. Which gradients does the call return?",
        ),
        Mistake(
            "one_by_one",
            "computed with one parameter after the other, each seeing the change of those before it",
            "One step: all gradients are taken at the same φ, then all parameters move.",
        ),
        Mistake("rate_forgotten", "computed with a step size of one", "α is `lr`."),
        Mistake(
            "rate_shared",
            "computed with a step size of α divided by the number of steps",
            "Each step has the whole size α.",
        ),
        Mistake(
            "unit",
            "computed with gradients of length one",
            "The gradient is taken as it is: flat places give short steps.",
        ),
        Mistake("moved", "the way gone, φ − θ", "Return the new parameters themselves."),
    ),
    properties=(
        Property("has a meta-gradient that equals the one derived by hand", lambda answer: _as_by_hand(answer)),
    ),
    sizes=lambda case: {"the step size": case["lr"]},
    alone=frozenset(
        {"in_place", "start_cut", "detached", "unit", "one_by_one", "moved", "one_step", "restarted", "rate_shared"}
        | {"summed", "rate_forgotten", "one_more", "one_fewer", "last_only", "first_only"}
    ),
)


def _as_by_hand(answer: Answer) -> bool:
    """One parameter, L = ½(θx − y)²: the second loss after a step has the derivative (φu − v)·u·(1 − αx²)."""
    theta, x, y, u, v, lr = (torch.tensor(value, dtype=torch.float64) for value in (0.7, 1.5, -1, 0.8, 2, 0.1))
    theta.requires_grad_()
    loss = lambda params, x, y: (params[0] * x - y).square() / 2
    (phi,) = answer(loss, (theta,), (x, y), lr.item(), 1)
    (found,) = torch.autograd.grad(loss((phi,), u, v), theta)
    by_hand = theta - lr * (theta * x - y) * x
    return bool(torch.isclose(found, (by_hand * u - v) * u * (1 - lr * x**2), rtol=1e-9))


# --- maml_loss --------------------------------------------------------------------------------


def _maml_inputs(rng: np.random.Generator) -> list[Case]:
    def case(tasks: int, width: int, hidden: int, points: tuple[int, int], lr: float, dtype: str) -> Case:
        made = draw_params(rng, width, hidden, dtype)
        for name, count in zip(("support", "query"), points, strict=True):
            made |= draw_batch(rng, dtype, tasks, count, width, names=(f"{name}[0]", f"{name}[1]"))
        return made | {"lr": lr}

    return [
        case(3, 2, 3, (4, 4), 0.1, "float64"),
        case(2, 3, 0, (5, 3), 0.07, "float32"),
        case(4, 1, 2, (3, 5), 0.1, "float64"),
        case(1, 2, 2, (4, 6), 0.05, "float64"),
        case(2, 2, 4, (1, 2), 0.04, "float32"),
    ]


def _sets(case: Case) -> tuple[Batch, Batch]:
    given = tensors(case)
    return (given["support[0]"], given["support[1]"]), (given["query[0]"], given["query[1]"])


def _observe_maml(answer: Answer, case: Case) -> Observation:
    """Look at the loss, the meta-gradient, and what was given."""
    params, (support, query) = leaves(case), _sets(case)
    seen = observe_loss(answer(squared_error, params, support, query, case["lr"]), {"params": params})
    return seen | observe_afterwards(("params", "support", "query"), params, support, query)


def _right_maml(loss: TaskLoss, params: Params, support: Batch, query: Batch, lr: float) -> Tensor:
    return lesson.maml_loss(loss, params, support, query, lr=lr)


def _wrong_maml(
    loss: TaskLoss,
    params: Params,
    support: Batch,
    query: Batch,
    lr: float,
    *,
    first_order: bool = False,
    start_cut: bool = False,
    cut: bool = False,
    support_scored: bool = False,
    query_learned: bool = False,
    summed: bool = False,
    last_task: bool = False,
    first_task: bool = False,
    per_task: bool = False,
    carried: bool = False,
    shared: bool = False,
    not_adapted: bool = False,
    both_scored: bool = False,
    gain: bool = False,
    ascent: bool = False,
    rate_forgotten: bool = False,
    two_steps: bool = False,
    last_parameter: bool = False,
    neighbour: bool = False,
    worst: bool = False,
) -> Tensor:
    rate = (1 if rate_forgotten else lr) * (-1 if ascent else 1)
    own = list(zip(tasks_of(support), tasks_of(query), strict=True))
    start = tuple(entry.detach() for entry in params) if start_cut else params
    first_moved = len(params) - 1 if last_parameter else 0
    values, now = [], start
    for place, (support_one, query_one) in enumerate(own):
        learned = [query_one] if query_learned else [support_one]
        learned = [task for task, _ in own] if shared else learned
        scored = own[(place + 1) % len(own)][1] if neighbour else query_one
        scored = support_one if support_scored else scored
        now = now if carried else start
        for _ in range(0 if not_adapted else 1 + two_steps):
            at = params if now is start else now
            each = [gradients_of(loss, at, batch, graph=not first_order) for batch in learned]
            mean = [sum(column) / len(each) for column in zip(*each, strict=True)]
            now = tuple(
                old - rate * (g if k >= first_moved else 0) for k, (old, g) in enumerate(zip(now, mean, strict=True))
            )
        after = loss(tuple(entry.detach() for entry in now) if cut else now, *scored)
        after = after + loss(params, *support_one) if both_scored else after
        values.append(after - loss(params, *scored) if gain else after)
    chosen = torch.stack(values[-1:] if last_task else values[:1] if first_task else values)
    if per_task or worst:
        return chosen.max() if worst else chosen
    return chosen.sum() if summed else chosen.mean()


MAML_LOSS = Exercise(
    id="10.maml_loss",
    title="The loss after adaptation",
    points=3,
    reference=_right_maml,
    inputs=_maml_inputs,
    drive=_observe_maml,
    wrong=_wrong_maml,
    mistakes=(
        Mistake(
            "support_scored",
            "computed with the support set in the place of the query set",
            "MAML asks how well a task fares on examples that the inner step has *not* seen.",
        ),
        Mistake(
            "query_learned",
            "computed with an inner step on the query set",
            "The inner step sees the support set alone: the query set stands for what comes later.",
        ),
        Mistake(
            "first_order",
            "right in value, but first order: the inner gradient is a constant",
            "The meta-gradient goes through the inner step. `torch.autograd.grad` keeps the way there only with "
            "`create_graph=True`; `torch.func.grad` does so by itself.",
        ),
        Mistake(
            "start_cut",
            "right in value, but θ is cut from the graph where the inner step starts",
            "θ − α∇L(θ) holds θ twice. The gradient must flow through both.",
        ),
        Mistake(
            "cut",
            "right in value, but the adapted parameters are cut from the graph",
            "Then no gradient reaches θ, and nothing is learned. Which call cuts it?",
        ),
        Mistake("summed", "summed over the tasks", "Average, or the meta-step grows with the number of tasks."),
        Mistake("last_task", "the last task's loss", "Does the loop overwrite the loss? All tasks count."),
        Mistake("first_task", "the first task's loss", "Is the `return` inside the loop? All tasks count."),
        Mistake("per_task", "one number per task", "A loss is one number: average over the tasks."),
        Mistake(
            "carried",
            "computed with adapted parameters carried over to the next task",
            "Every task starts from θ. Give the adapted parameters a name of their own.",
        ),
        Mistake(
            "shared",
            "computed with one adaptation on all tasks' supports, the same for every task",
            "Each task takes its own step, on its own support set: T different φ_i.",
        ),
        Mistake(
            "not_adapted",
            "the query loss *before* adaptation",
            "That is plain training on all tasks. Score the parameters that the inner step made.",
        ),
        Mistake(
            "both_scored",
            "the query loss after adaptation plus the support loss before it",
            "The support's loss serves the inner step alone.",
        ),
        Mistake(
            "gain",
            "what adaptation changed: the query loss after minus that before",
            "A bad start gains most. What counts is where the tasks end.",
        ),
        Mistake("ascent", "computed with an inner step *up* the loss", "The inner step goes down. Mind the sign."),
        Mistake("rate_forgotten", "computed with an inner step of size one", "α is `lr`."),
        Mistake("two_steps", "computed with two inner steps", "One inner step is asked for."),
        Mistake(
            "last_parameter",
            "ANIL: the inner step moves the last parameter alone",
            "In MAML all parameters move.",
        ),
        Mistake(
            "neighbour",
            "computed with each task scored on another task's query set",
            "Support i and query i belong to the same task: go through both side by side.",
        ),
        Mistake("worst", "the worst task's loss", "Average over the tasks."),
    ),
    properties=(
        Property("has a meta-gradient that equals the one derived by hand", lambda answer: _maml_by_hand(answer)),
    ),
    sizes=lambda case: {"the number of tasks": len(case["support[0]"])},
    alone=frozenset(
        {"cut", "start_cut", "last_task", "first_task", "per_task", "shared", "not_adapted", "both_scored", "gain"}
        | {"rate_forgotten", "two_steps", "last_parameter", "neighbour", "worst", "ascent"}
    ),
)


def _maml_by_hand(answer: Answer) -> bool:
    """One parameter and two tasks, each with L = ½(θx − y)²."""
    theta, lr = torch.tensor(0.7, dtype=torch.float64, requires_grad=True), 0.1
    x, y, u, v = torch.tensor([[1.5, -1], [-1, 0.5], [0.8, -0.6], [2, 1]], dtype=torch.float64)
    loss = lambda params, x, y: (params[0] * x - y).square() / 2
    (found,) = torch.autograd.grad(answer(loss, (theta,), (x, y), (u, v), lr), theta)
    phi = theta - lr * (theta * x - y) * x
    return bool(torch.isclose(found, ((phi * u - v) * u * (1 - lr * x**2)).mean(), rtol=1e-9))


# --- reptile_direction ------------------------------------------------------------------------


def _reptile_inputs(rng: np.random.Generator) -> list[Case]:
    def case(tasks: int, width: int, hidden: int, points: int, lr: float, steps: int, dtype: str) -> Case:
        batch = draw_batch(rng, dtype, tasks, points, width, names=("support[0]", "support[1]"))
        return draw_params(rng, width, hidden, dtype) | batch | {"lr": lr, "steps": steps}

    return [
        case(3, 2, 3, 4, 0.1, 3, "float64"),
        case(2, 3, 0, 5, 0.05, 2, "float32"),
        case(4, 1, 2, 3, 0.1, 1, "float64"),
        case(1, 2, 2, 4, 0.08, 4, "float64"),
        case(3, 2, 4, 1, 0.04, 5, "float32"),
    ]


def _observe_reptile(answer: Answer, case: Case) -> Observation:
    given, params = tensors(case), leaves(case)
    support = given["support[0]"], given["support[1]"]
    seen = observe_params(answer(squared_error, params, support, case["lr"], case["steps"]), params)
    return seen | observe_afterwards(("params", "support"), params, support)


def _right_reptile(loss: TaskLoss, params: Params, support: Batch, lr: float, steps: int) -> Params:
    return lesson.reptile_direction(loss, params, support, lr=lr, steps=steps)


def _wrong_reptile(
    loss: TaskLoss,
    params: Params,
    support: Batch,
    lr: float,
    steps: int,
    *,
    turned: bool = False,
    by_rate: bool = False,
    by_steps: bool = False,
    last_task: bool = False,
    first_task: bool = False,
    summed: bool = False,
    last_gradient: bool = False,
    first_gradient: bool = False,
    start_gradients: bool = False,
    carried: bool = False,
    pooled: bool = False,
    ends: bool = False,
    per_task: bool = False,
    one_fewer: bool = False,
    ascent: bool = False,
    unit: bool = False,
    median: bool = False,
    in_place: bool = False,
) -> Params:
    batches, all_ends, start = tasks_of(support), [], params
    own_loss = loss
    if pooled:  # one training on the mean of all tasks' losses
        own_loss = lambda params, *_: torch.stack([loss(params, *one) for one in batches]).mean()
    for batch in batches:
        now = start
        for _ in range(1 if first_gradient else steps - one_fewer):
            at = params if start_gradients else now
            gradients = gradients_of(own_loss, at, batch, graph=False)
            old = params if last_gradient else now
            step = [lr * (-g if ascent else g) for g in gradients]
            now = tuple(entry - one for entry, one in zip(now, step, strict=True))
            end = tuple(entry - one for entry, one in zip(old, step, strict=True))
        all_ends.append(end if steps > one_fewer else now)
        start = now if carried else params
    all_ends = all_ends[-1:] if last_task else all_ends[:1] if first_task else all_ends
    stacked = [torch.stack(column).detach() for column in zip(*all_ends, strict=True)]
    starts = [entry.detach().clone() for entry in params]
    centres = [one.median(dim=0).values if median else one.mean(dim=0) for one in stacked]
    found = [start - centre for start, centre in zip(starts, centres, strict=True)]
    if per_task:
        found = [start - one for start, one in zip(starts, stacked, strict=True)]
    found = centres if ends else [-one for one in found] if turned else found
    factor = len(all_ends) if summed else 1
    factor /= (lr if by_rate else 1) * (steps if by_steps else 1)
    if unit:
        factor /= torch.cat([one.flatten() for one in found]).norm()
    if in_place:
        with torch.no_grad():
            for entry, centre in zip(params, centres, strict=True):
                entry.copy_(centre)
    return tuple(one * factor for one in found)


REPTILE_DIRECTION = Exercise(
    id="10.reptile_direction",
    title="Reptile: from the ends back to the start",
    points=2,
    reference=_right_reptile,
    inputs=_reptile_inputs,
    drive=_observe_reptile,
    wrong=_wrong_reptile,
    mistakes=(
        Mistake(
            "turned",
            "the direction turned round, from the start to the ends",
            "An optimiser steps *down* what it is given. Then θ minus the direction should lie nearer to the ends.",
        ),
        Mistake(
            "by_rate",
            "the direction divided by the step size",
            "The paper divides so where Adam takes the meta-step. Here it is θ minus the mean end, undivided.",
        ),
        Mistake("by_steps", "the direction divided by the number of steps", "It is the whole way, not one step of it."),
        Mistake("last_task", "the direction of the last task alone", "Keep every task's end; then take the mean."),
        Mistake("first_task", "the direction of the first task alone", "Is the `return` inside the loop?"),
        Mistake("summed", "summed over the tasks", "The *mean* end is what the start is compared with."),
        Mistake(
            "last_gradient",
            "α times the mean of the last steps' gradients",
            "That is first-order MAML, scored on the support. Reptile looks at the whole way from θ to the end.",
        ),
        Mistake(
            "first_gradient",
            "α times the gradient at the start: what a single step gives",
            "`steps` says how far each task goes.",
        ),
        Mistake(
            "start_gradients",
            "computed with the gradient at the start for every step",
            "The second step's gradient is taken where the first one ended. Otherwise Reptile is plain training.",
        ),
        Mistake(
            "carried",
            "computed with each task starting where the one before it ended",
            "Every task starts from θ.",
        ),
        Mistake(
            "pooled",
            "one training on all tasks at once",
            "Each task goes its own way; only the ends are averaged. With one step the two are the same.",
        ),
        Mistake("ends", "the mean of the ends", "Return the direction: θ minus that."),
        Mistake("per_task", "one direction per task", "One direction for all: average over the tasks."),
        Mistake("one_fewer", "computed with one step too few", "How often does the loop run for `steps` = 1?"),
        Mistake("ascent", "computed with inner steps *up* the loss", "The inner steps go down. Mind the sign."),
        Mistake(
            "unit", "the direction brought to length one", "Its length is part of it: where tasks agree, it is long."
        ),
        Mistake("median", "computed with the median of the ends", "The paper takes the mean."),
        Mistake(
            "in_place",
            "right in value, but it moves the parameters it was given",
            "Return the direction, and leave the step to the optimiser.",
        ),
    ),
    properties=(
        Property("is plain training on all tasks where there is one step", lambda answer: _one_step_is_plain(answer)),
    ),
    sizes=lambda case: {
        "the number of tasks": len(case["support[0]"]),
        "the step size": case["lr"],
        "the number of steps": case["steps"],
    },
    alone=frozenset(
        {"last_task", "first_task", "first_gradient", "last_gradient", "start_gradients", "pooled", "ends", "per_task"}
        | {"unit", "median", "in_place", "ascent", "by_rate", "by_steps", "one_fewer", "carried"}
    ),
)


def _one_step_is_plain(answer: Answer) -> bool:
    params = torch.tensor([[0.3], [-0.2]], requires_grad=True), torch.tensor([0.1], requires_grad=True)
    params += (torch.tensor([0.5], requires_grad=True),)
    x, y = torch.linspace(-1, 1, 12).view(2, 3, 2), torch.linspace(2, -1, 6).view(2, 3)
    losses = [squared_error(params, *one) for one in zip(x, y, strict=True)]
    expected = torch.autograd.grad(torch.stack(losses).mean(), params)
    found = answer(squared_error, params, (x, y), 0.1, 1)
    return all(torch.allclose(a, 0.1 * b, atol=1e-6) for a, b in zip(found, expected, strict=True))


EXERCISES = (ADAPT, MAML_LOSS, REPTILE_DIRECTION, PROTOTYPE_ANSWERS, SAMPLE_EPISODE, META_SGD, META_TRAIN)
