"""Lesson 10's exercises with learned learning: step sizes that are learned too, and the bug hunt in meta-training."""

import numpy as np
import torch

from ctkd_lessons.course.exercises.description import Answer, Case, Exercise, Mistake, Observation, Property, tensors
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
    observe_params,
    squared_error,
)

# --- meta_sgd: the variant --------------------------------------------------------------------


def _sgd_inputs(rng: np.random.Generator) -> list[Case]:
    def case(width: int, hidden: int, examples: int, dtype: str) -> Case:
        rates = draw_params(rng, width, hidden, dtype, name="rates")  # some are below zero
        rates = {name: np.asarray(0.1 * value + 0.05, dtype) for name, value in rates.items()}
        return draw_params(rng, width, hidden, dtype) | rates | draw_batch(rng, dtype, examples, width)

    return [case(2, 3, 5, "float64"), case(3, 0, 4, "float32"), case(1, 2, 1, "float64"), case(2, 4, 6, "float32")]


def _observe_sgd(answer: Answer, case: Case) -> Observation:
    given, params, rates = tensors(case), leaves(case), leaves(case, "rates")
    batch = given["x"], given["y"]
    found = answer(squared_error, params, rates, batch)
    seen = observe_params(found, params, into={"params": params, "rates": rates})
    return seen | observe_afterwards(("params", "rates", "batch"), params, rates, batch)


def _meta_sgd(
    loss: TaskLoss,
    params: Params,
    rates: Params,
    batch: Batch,
    *,
    rates_cut: bool = False,
    first_order: bool = False,
    start_cut: bool = False,
    detached: bool = False,
    one_rate_each: bool = False,
    one_rate: bool = False,
    first_rate: bool = False,
    summed_rates: bool = False,
    ascent: bool = False,
    rates_added: bool = False,
    exponentiated: bool = False,
    absolute: bool = False,
    clamped: bool = False,
    squashed: bool = False,
    on_params: bool = False,
    divided: bool = False,
    at_rates: bool = False,
    signs: bool = False,
    unit: bool = False,
    two_steps: bool = False,
    last_only: bool = False,
    moved: bool = False,
    in_place: bool = False,
) -> Params:
    """Take one step with a step size for every entry of every parameter."""
    start = tuple(entry.detach() for entry in params) if start_cut else params
    a = [rate.detach() for rate in rates] if rates_cut else list(rates)
    if one_rate or one_rate_each or first_rate or summed_rates:
        whole = torch.cat([rate.flatten() for rate in a]).mean()
        of_one = [rate.sum() if summed_rates else rate.flatten()[0] if first_rate else rate.mean() for rate in a]
        a = [(whole if one_rate else one).expand_as(rate) for one, rate in zip(of_one, a, strict=True)]
    a = [rate.exp() for rate in a] if exponentiated else [rate.sigmoid() for rate in a] if squashed else a
    a = [rate.abs() for rate in a] if absolute else [rate.clamp(min=0) for rate in a] if clamped else a
    now = start
    for _ in range(1 + two_steps):
        at = tuple(rates) if at_rates else params if now is start else now
        gradients = list(gradients_of(loss, at, batch, graph=not first_order))
        gradients = [g.sign() if signs else g / g.norm() if unit else g for g in gradients]
        made = []
        for place, (old, rate, g) in enumerate(zip(now, a, gradients, strict=True)):
            step = rate + g if rates_added else g / rate if divided else rate * g
            new = rate * old - g if on_params else old + step if ascent else old - step
            made.append(old if last_only and place < len(now) - 1 else new)
        now = tuple(made)
    return handed_back(params, now, in_place=in_place, moved=moved, detached=detached)


META_SGD = Exercise(
    id="10.meta_sgd",
    title="A step size for every weight",
    points=3,
    reference=_meta_sgd,
    inputs=_sgd_inputs,
    drive=_observe_sgd,
    wrong=_meta_sgd,
    mistakes=(
        Mistake(
            "rates_cut",
            "right in value, but no gradient reaches `rates`",
            "The step sizes are learned with the start: they are multiplied in as tensors, never as numbers.",
        ),
        Mistake(
            "first_order",
            "right in value, but the step's gradient is a constant: first order",
            "The meta-gradient goes through ∇L(θ), too. `torch.autograd.grad` keeps the way there only with "
            "`create_graph=True`.",
        ),
        Mistake(
            "start_cut",
            "right in value, but θ is cut from the graph where the step starts",
            "θ − α∘∇L(θ) holds θ twice. The gradient must flow through both.",
        ),
        Mistake(
            "detached",
            "right in value, but the new parameters are cut from the graph",
            "Nothing is detached: start and step sizes learn through the step.",
        ),
        Mistake(
            "one_rate_each",
            "computed with one step size for each tensor: the mean of its rates",
            "∘ multiplies entry by entry: within a tensor, each weight has a step size of its own.",
        ),
        Mistake(
            "one_rate",
            "computed with one step size for all: the mean of all rates",
            "∘ multiplies entry by entry: each weight has a step size of its own.",
        ),
        Mistake(
            "first_rate",
            "computed with each tensor's first rate for all its entries",
            "∘ multiplies entry by entry. Nothing is indexed.",
        ),
        Mistake(
            "summed_rates",
            "computed with the sum of a tensor's rates for all its entries",
            "∘ multiplies entry by entry. Nothing is added up.",
        ),
        Mistake(
            "ascent",
            "computed with a step *up* the loss",
            "A rate may be below zero, but the sign in front of it is a minus.",
        ),
        Mistake("rates_added", "computed with rates added to the gradient", "∘ is a product, entry by entry."),
        Mistake(
            "exponentiated",
            "computed as if `rates` were logs",
            "Here a rate is the step size itself, and may be below zero.",
        ),
        Mistake(
            "absolute",
            "computed with rates made positive",
            "A rate below zero is allowed: for that weight the best way on this kind of task may be uphill.",
        ),
        Mistake(
            "clamped",
            "computed with rates below zero cut to zero",
            "Rates are taken as they are: one below zero may have been learned, and nothing is cut.",
        ),
        Mistake("squashed", "computed with a sigmoid of the rates", "A rate is the step size itself."),
        Mistake("on_params", "computed with rates multiplied into θ", "The rates scale the *gradient*."),
        Mistake("divided", "computed with gradients divided by the rates", "A large rate makes a long step."),
        Mistake(
            "at_rates",
            "computed with the loss's gradient at α",
            "The gradient is taken at θ. Which tuple does `loss` receive?",
        ),
        Mistake(
            "signs",
            "computed with the gradient's signs",
            "Direction and length of each entry's step come from α∘∇L.",
        ),
        Mistake("unit", "computed with gradients of length one", "The gradient is taken as it is."),
        Mistake("two_steps", "computed with two steps", "Meta-SGD takes one."),
        Mistake("last_only", "computed with a step of the last parameter alone", "All parameters move."),
        Mistake("moved", "the way gone, φ − θ", "Return the new parameters themselves."),
        Mistake(
            "in_place",
            "right in value, but it changes the parameters it was given",
            "Every other task starts from them, too. Make new tensors.",
        ),
    ),
    properties=(
        Property(
            "gives each rate minus the product of the gradients before and after the step",
            lambda answer: _rates_learn(answer),
        ),
    ),
    alone=frozenset(
        {"in_place", "moved", "detached", "two_steps", "start_cut", "divided", "at_rates", "on_params", "rates_added"}
        | {"one_rate", "one_rate_each", "first_rate", "summed_rates", "exponentiated", "absolute", "clamped"}
        | {"squashed", "signs", "unit", "last_only"}
    ),
)


def _rates_learn(answer: Answer) -> bool:
    """∂L(φ; Q)/∂α = −∇L(θ; S) ∘ ∇L(φ; Q): a rate grows where both agree."""
    params = torch.tensor([0.3, -0.2]).requires_grad_(), torch.tensor(0.1).requires_grad_()
    rates = torch.tensor([0.1, 0.3]).requires_grad_(), torch.tensor(-0.1).requires_grad_()
    support = torch.tensor([[1.0, 2], [0, -1], [2, 1]]), torch.tensor([1.0, -1, 2])
    query = torch.tensor([[2.0, -1], [1, 1]]), torch.tensor([0.0, 3])
    phi = answer(squared_error, params, rates, support)
    before, after = gradients_of(squared_error, params, support), gradients_of(squared_error, phi, query)
    found = torch.autograd.grad(squared_error(phi, *query), rates)
    return all(torch.allclose(one, -a * b, atol=1e-6) for one, a, b in zip(found, before, after, strict=True))


# --- meta_train: the bug hunt -----------------------------------------------------------------


def _train_inputs(rng: np.random.Generator) -> list[Case]:
    def case(steps: int, tasks: int, width: int, hidden: int, lr: float, meta_lr: float, dtype: str) -> Case:
        made = draw_params(rng, width, hidden, dtype)
        for name, points in (("support", 3), ("query", 4)):
            made |= draw_batch(rng, dtype, steps, tasks, points, width, names=(f"{name}[0]", f"{name}[1]"))
        return made | {"lr": lr, "meta_lr": meta_lr}

    return [
        case(2, 2, 2, 2, 0.08, 0.05, "float64"),
        case(1, 3, 2, 0, 0.06, 0.1, "float32"),
        case(3, 1, 1, 2, 0.08, 0.05, "float64"),
    ]


def _observe_train(answer: Answer, case: Case) -> Observation:
    """Train, and look at the start that was learned."""
    given, params = tensors(case), leaves(case)
    support, query = ((given[f"{name}[0]"], given[f"{name}[1]"]) for name in ("support", "query"))
    found = answer(squared_error, params, support, query, case["lr"], case["meta_lr"])
    return observe_params(found, params) | observe_afterwards(("params", "support", "query"), params, support, query)


def _meta_train(
    loss: TaskLoss,
    params: Params,
    support: Batch,
    query: Batch,
    lr: float,
    meta_lr: float,
    *,
    same_tasks: bool = False,
    carried: bool = False,
    first_order: bool = False,
    support_scored: bool = False,
    from_adapted: bool = False,
    not_adapted: bool = False,
    query_learned: bool = False,
    summed: bool = False,
    last_task: bool = False,
    rates_swapped: bool = False,
    ascent: bool = False,
    inner_ascent: bool = False,
    one_step: bool = False,
    last_step_left_out: bool = False,
    reptile: bool = False,
    before_added: bool = False,
    in_place: bool = False,
) -> Params:
    """Learn a start by MAML: one inner step per task, one step of plain gradient descent per group of tasks."""
    inner, outer = (meta_lr, lr) if rates_swapped else (lr, meta_lr)
    inner, outer = -inner if inner_ascent else inner, -outer if ascent else outer
    given, params = params, tuple(entry.detach().requires_grad_() for entry in params)
    steps, tasks = support[0].shape[:2]
    for step in range(1 if one_step else steps - last_step_left_out):
        adapted, losses, ends = params, [], []
        for task in range(tasks):
            place = 0 if same_tasks else step
            own, asked = ([part[place, task] for part in batch] for batch in (support, query))
            start = adapted if carried else params
            gradients = gradients_of(loss, start, asked if query_learned else own, graph=not first_order)
            adapted = tuple(p - inner * g for p, g in zip(start, gradients, strict=True))
            ends.append(adapted)
            losses.append(loss(params if not_adapted else adapted, *(own if support_scored else asked)))
            if before_added:
                losses[-1] = losses[-1] + loss(params, *own)
        total = losses[-1] if last_task else sum(losses) / (1 if summed else tasks)
        gradients = torch.autograd.grad(total, params)
        if reptile:
            gradients = [p - sum(column) / tasks for p, *column in zip(params, *ends, strict=True)]
        at = adapted if from_adapted else params
        params = tuple((p - outer * g).detach().requires_grad_() for p, g in zip(at, gradients, strict=True))
    if in_place:
        with torch.no_grad():
            for entry, new in zip(given, params, strict=True):
                entry.copy_(new)
    return params


# The five bugs of the broken training come in any mixture.
_BUGS = 5
_TRAIN_MISTAKES = (
    Mistake(
        "same_tasks",
        "a training that sees the same tasks at every step",
        "Meta-step number `step` has tasks of its own. Which index picks them?",
    ),
    Mistake(
        "carried",
        "a training in which a task starts from where the task before it ended",
        "Every task starts from θ. At which `adapted` does the inner step begin for the second task?",
    ),
    Mistake(
        "first_order",
        "a training whose inner gradients are constants: first-order MAML",
        "The meta-gradient goes through the inner step. What does `torch.autograd.grad` need to keep the way there?",
    ),
    Mistake(
        "support_scored",
        "a training whose meta-gradient comes from the support sets",
        "The support has been learned from already. Which examples say how well?",
    ),
    Mistake(
        "from_adapted",
        "a training whose meta-step starts from a task's adapted parameters",
        "The inner step was made on trial: it is not kept. What the meta-step changes is θ.",
    ),
    Mistake(
        "not_adapted",
        "a training on the query losses before adaptation",
        "Which parameters does the query loss belong to?",
    ),
    Mistake(
        "query_learned", "a training whose inner step sees the query set", "The inner step sees the support alone."
    ),
    Mistake("summed", "a training on the sum over the tasks", "The meta-loss is the tasks' mean."),
    Mistake("last_task", "a training on the last task of each group", "Are the tasks' losses added up?"),
    Mistake("rates_swapped", "a training with the two step sizes swapped", "`lr` is the inner one."),
    Mistake("ascent", "a training whose meta-step goes *up*", "A step goes down the loss. Mind the sign."),
    Mistake("inner_ascent", "a training whose inner step goes *up*", "The inner step goes down the support's loss."),
    Mistake("one_step", "a training of one meta-step", "Is the `return` inside the loop?"),
    Mistake("last_step_left_out", "a training that leaves out the last meta-step", "How many meta-steps are there?"),
    Mistake("reptile", "a training by Reptile", "The meta-step goes down the query loss's gradient."),
    Mistake(
        "before_added",
        "a training on the query losses plus the support losses before adaptation",
        "The support's loss serves the inner step alone.",
    ),
    Mistake(
        "in_place",
        "right, but it changes the parameters it was given",
        "Return new tensors, and leave the given ones as they are.",
    ),
)
META_TRAIN = Exercise(
    id="10.meta_train",
    title="Bug hunt: meta-training",
    points=4,
    reference=_meta_train,
    inputs=_train_inputs,
    drive=_observe_train,
    wrong=_meta_train,
    mistakes=_TRAIN_MISTAKES,
    at_once=_BUGS,
    alone=frozenset(mistake.name for mistake in _TRAIN_MISTAKES[_BUGS:]),
)
