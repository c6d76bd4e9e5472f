"""Learning to learn: start where a few steps on a few examples go far.

Sources: Finn, Abbeel & Levine 2017, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks"
(MAML); Nichol, Achiam & Schulman 2018, "On First-Order Meta-Learning Algorithms" (Reptile); Raghu, Raghu,
Bengio & Vinyals 2020, "Rapid Learning or Feature Reuse? Towards Understanding the Effectiveness of MAML"
(ANIL); Snell, Swersky & Zemel 2017, "Prototypical Networks for Few-shot Learning".

======  ==================  ====================================================================
symbol  argument            shape, meaning
======  ==================  ====================================================================
θ       params              dict or tuple of tensors: where every task starts
φ_i                         the same after ``steps`` inner steps on the support set of task i
L       loss                function: ``loss(params, *batch)`` → scalar
α       lr                  number: the size of an inner step
S, Q    support, query      tuples of tensors (T, n, …): what T tasks learn from, and are scored on
c_k     prototypes          (C, D): the mean embedding of each class
======  ==================  ====================================================================

All models here are functions of their parameters (``torch.func.functional_call``): an adapted network is
the same module called with other numbers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import grad_and_value

from ctkd_lessons import expect, inner
from ctkd_lessons.inner import Names, Params, TaskLoss
from ctkd_lessons.vectors import at_least_float32


def adapt(
    loss: TaskLoss,
    params: Params,
    *batch: Tensor,
    lr: float = 0.01,
    steps: int = 1,
    first_order: bool = False,
    only: Names | None = None,
) -> Params:
    """Take gradient steps on one task and return the new parameters; the given ones stay as they are.

    φ ← φ − α ∇_φ L(φ; batch), ``steps`` times from φ = θ. The answer can be differentiated with respect to
    θ, through the steps. ``first_order``: the steps' gradients count as constants, so that ∂φ/∂θ = 1.

    ``loss(params, *batch)``: a scalar; ``lr`` > 0; ``steps`` ≥ 0; ``only``: the keys (or places) of the
    parameters that may change, all if left out: the last layer's for ANIL. Works under ``vmap`` and ``grad``.
    Raises ``ValueError``/``TypeError`` for anything else, and ``FloatingPointError`` naming the step where
    the loss is no longer finite. Source: Finn et al. 2017, equation 1.
    """
    inner.expect_inner(loss, params, lr, steps, only)
    if not first_order and steps:
        inner.expect_right_under_vmap(loss, params, batch)
    adapted, losses = _adapt(loss, params, batch, lr, steps, first_order, only)
    inner.expect_converging(losses.unsqueeze(0), steps, one_task=True)
    return adapted


def maml_loss(
    loss: TaskLoss,
    params: Params,
    support: tuple[Tensor, ...],
    query: tuple[Tensor, ...],
    *,
    lr: float = 0.01,
    steps: int = 1,
    first_order: bool = False,
    only: Names | None = None,
    together: bool | None = None,
) -> Tensor:
    """Return how badly the tasks' query sets fare after adaptation: the loss that MAML steps down.

    L = mean_i L(φ_i; Q_i), φ_i = ``adapt``(L, θ, S_i).

    ``support``, ``query``: the loss's further arguments with the tasks as leading axis, (T, …) each;
    other arguments as for ``adapt``. ``together``: all tasks in one batched operation, or one after the other;
    the result is the same. Default: together, unless images are too large to gain by it, or PyTorch's own
    normalisation layers, wrong in second derivatives under ``vmap``, are in use.
    Raises as ``adapt`` does, naming the task. Source: Finn et al. 2017, algorithm 1; section 5.2 for
    first order; Raghu et al. 2020, section 4 for ``only``.
    """
    inner.expect_inner(loss, params, lr, steps, only)
    inner.expect_tasks("support", support)
    inner.expect_tasks("query", query, tasks=len(support[0]))

    stacked = inner.stacks(loss, params, support, second_order=not first_order, together=together)
    # Slightly quicker than torch.func, where there is no vmap and the parameters can carry a gradient themselves.
    plain = not stacked and torch.is_grad_enabled() and all(entry.requires_grad for entry in inner.entries(params))

    def one(support: tuple[Tensor, ...], query: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        adapted, losses = _adapt(loss, params, support, lr, steps, first_order, only, plain)
        after = loss(adapted, *query)
        return after, torch.cat([losses, after.detach().unsqueeze(0)])

    after, losses = inner.over_tasks(one, support, query, stacked=stacked, together=together)
    inner.expect_converging(losses, steps)
    return after.mean()


def reptile_direction(
    loss: TaskLoss,
    params: Params,
    support: tuple[Tensor, ...],
    *,
    lr: float = 0.01,
    steps: int = 5,
    together: bool | None = None,
) -> Params:
    """Return θ − mean_i φ_i: the way from where the tasks end to where they start.

    Stepping *down* this direction, as down a gradient, moves the start towards the tasks' ends. With
    ``steps=1`` it is α times the gradient of the tasks' mean loss: plain training on all tasks. No query set.

    ``support``: (T, …) tensors. Returns the form of ``params``, without gradient. Raises as ``maml_loss``
    does. Source: Nichol et al. 2018, algorithm 2. There, each inner step draws a batch of its own and Adam
    takes it; here all steps see the same examples, and are plain.
    """
    inner.expect_inner(loss, params, lr, steps, None)
    inner.expect_tasks("support", support)

    def one(support: tuple[Tensor, ...]) -> tuple[Params, Tensor]:
        return _adapt(loss, params, support, lr, steps, True, None)

    with torch.no_grad():  # of the steps; each step's own gradient is taken by torch.func all the same
        stacked = inner.stacks(loss, params, support, second_order=False, together=together)
        ends, losses = inner.over_tasks(one, support, stacked=stacked, together=together)
        inner.expect_converging(losses, steps)
        return inner.like(
            params,
            [start - end.mean(dim=0) for start, end in zip(inner.entries(params), inner.entries(ends), strict=True)],
        )


def prototypes(embeddings: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return the mean embedding of each class, c_k = mean of f(x_i) over y_i = k.

    ``embeddings``: (n, D), floating; ``labels``: (n,), integers 0 … classes − 1, each at least once.
    Returns (classes, D). Raises ``ValueError``/``TypeError`` for anything else, naming a class without
    examples. Source: Snell et al. 2017, equation 1.
    """
    expect.features("embeddings", embeddings, ndim=2)
    expect.count("classes", classes)
    expect.labels("labels", labels, examples=len(embeddings), classes=classes)
    every = torch.arange(classes, device=labels.device).unsqueeze(1)
    members = (labels == every).to(at_least_float32(embeddings).dtype)  # (C, n); one_hot cannot be traced by fit
    sizes = members.sum(dim=1, keepdim=True)
    expect.true(sizes > 0, f"labels: expected each of the {classes} classes at least once, got a class without example")
    return (members @ at_least_float32(embeddings) / sizes).to(embeddings.dtype)


def prototype_logits(queries: Tensor, prototypes: Tensor) -> Tensor:
    """Return −‖q − c_k‖², squared, no root: softmax over the classes makes probabilities of it.

    ``queries``: (n, D), ``prototypes``: (C, D), same dtype. Returns (n, C). Raises
    ``ValueError``/``TypeError`` if these do not fit together. Source: Snell et al. 2017, equation 2.
    """
    expect.features("queries", queries, ndim=2)
    expect.features("prototypes", prototypes, ndim=2)
    if queries.shape[1] != prototypes.shape[1]:
        raise ValueError(f"prototypes: expected {queries.shape[1]} features as in queries, got {prototypes.shape[1]}")
    if queries.dtype != prototypes.dtype:
        raise TypeError(f"prototypes: expected the dtype of queries, {queries.dtype}, got {prototypes.dtype}")
    # Differences first: the short form q² − 2qc + c² loses digits where embeddings are large.
    difference = at_least_float32(queries).unsqueeze(1) - at_least_float32(prototypes)
    return -difference.square().sum(dim=2).to(queries.dtype)


def _adapt(
    loss: TaskLoss,
    params: Params,
    batch: tuple[Tensor, ...],
    lr: float,
    steps: int,
    first_order: bool,
    only: Names | None,
    plain: bool = False,
) -> tuple[Params, Tensor]:
    """Return the adapted parameters and the loss before each step, (steps,).

    ``plain``: take gradients by ``torch.autograd``, a little quicker than ``torch.func`` outside ``vmap``.
    """
    entries, losses = inner.entries(params), []
    chosen = [place for place, key in enumerate(inner.keys(params)) if only is None or key in only]

    def of_chosen(values: Sequence[Tensor]) -> Tensor:
        changed = dict(zip(chosen, values, strict=True))
        return inner.expect_scalar(
            loss(inner.like(params, [changed.get(i, entry) for i, entry in enumerate(entries)]), *batch)
        )

    for _ in range(steps):
        values = [entries[place] for place in chosen]
        if plain:
            value = of_chosen(values)
            gradients = torch.autograd.grad(value, values, create_graph=not first_order, materialize_grads=True)
        else:
            gradients, value = grad_and_value(of_chosen)(values)
        losses.append(value.detach())
        for place, gradient in zip(chosen, gradients, strict=True):
            entries[place] = entries[place] - lr * (gradient.detach() if first_order else gradient)
    return inner.like(params, entries), torch.stack(losses) if losses else entries[0].new_zeros(0)
