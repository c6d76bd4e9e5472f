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

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap
from torch.overrides import TorchFunctionMode

from ctkd_lessons import expect
from ctkd_lessons.vectors import at_least_float32

Params = TypeVar("Params", dict[str, Tensor], tuple[Tensor, ...])
TaskLoss = Callable[..., Tensor]
Names = Collection[str] | Collection[int]
# Under vmap, PyTorch 2.13 gets second derivatives of these wrong where scale and shift are adapted, silently.
_FUSED_NORMALISATIONS = {"layer_norm", "batch_norm", "instance_norm"}
# On a CPU, four layers of 32 channels under vmap take 0.8 of a loop's time at 16 × 16 pixels, 1.2 at 28 × 28.
_CONVOLUTIONS = {"conv1d", "conv2d", "conv3d"}
_LARGEST_IMAGE = 20 * 20


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
    _expect_inner(loss, params, lr, steps, only)
    adapted, losses = _adapt(loss, params, batch, lr, steps, first_order, only)
    _expect_converging(losses.unsqueeze(0), steps, one_task=True)
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
    _expect_inner(loss, params, lr, steps, only)
    _expect_tasks("support", support)
    _expect_tasks("query", query, tasks=len(support[0]))

    stacked = _stack(loss, params, support, second_order=not first_order, together=together)
    # Slightly quicker than torch.func, where there is no vmap and the parameters can carry a gradient themselves.
    plain = not stacked and torch.is_grad_enabled() and all(entry.requires_grad for entry in _entries(params))

    def one(support: tuple[Tensor, ...], query: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        adapted, losses = _adapt(loss, params, support, lr, steps, first_order, only, plain)
        after = loss(adapted, *query)
        return after, torch.cat([losses, after.detach().unsqueeze(0)])

    if stacked:
        after, losses = vmap(one, randomness="different")(support, query)
    else:
        made = [one(*task) for task in zip(_tasks(support), _tasks(query), strict=True)]
        after, losses = (torch.stack(column) for column in zip(*made, strict=True))
    _expect_converging(losses, steps)
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
    _expect_inner(loss, params, lr, steps, None)
    _expect_tasks("support", support)

    def one(support: tuple[Tensor, ...]) -> tuple[Params, Tensor]:
        return _adapt(loss, params, support, lr, steps, True, None)

    with torch.no_grad():  # of the steps; each step's own gradient is taken by torch.func all the same
        if _stack(loss, params, support, second_order=False, together=together):
            ends, losses = vmap(one, randomness="different")(support)
            ends = _entries(ends)
        else:
            made = [one(task) for task in _tasks(support)]
            ends = [torch.stack(column) for column in zip(*(_entries(end) for end, _ in made), strict=True)]
            losses = torch.stack([values for _, values in made])
        _expect_converging(losses, steps)
        return _like(params, [start - end.mean(dim=0) for start, end in zip(_entries(params), ends, strict=True)])


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
    entries, losses = _entries(params), []
    chosen = [place for place, key in enumerate(_keys(params)) if only is None or key in only]

    def of_chosen(values: Sequence[Tensor]) -> Tensor:
        changed = dict(zip(chosen, values, strict=True))
        return _expect_scalar(loss(_like(params, [changed.get(i, entry) for i, entry in enumerate(entries)]), *batch))

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
    return _like(params, entries), torch.stack(losses) if losses else entries[0].new_zeros(0)


class _Obstacle(Exception):
    """A loss is about to do what ``vmap`` gets wrong, or has nothing to gain by."""

    def __init__(self, operation: str, *, wrong: bool) -> None:
        super().__init__(operation)
        self.wrong = wrong


class _Watch(TorchFunctionMode):
    """Stops a loss at the first obstacle to ``vmap``, before it is carried out."""

    def __torch_function__(self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = getattr(func, "__name__", "").removeprefix("native_")
        if name in _FUSED_NORMALISATIONS:
            raise _Obstacle(name, wrong=True)
        if name in _CONVOLUTIONS and not args[0].is_cuda and args[0].shape[2:].numel() > _LARGEST_IMAGE:
            raise _Obstacle(name, wrong=False)
        return func(*args, **(kwargs or {}))


def _stack(
    loss: TaskLoss, params: Params, support: tuple[Tensor, ...], *, second_order: bool, together: bool | None
) -> bool:
    """Decide whether ``vmap`` over the tasks gives the right answer and is quicker."""
    if together not in (None, True, False):
        raise TypeError(f"together: expected True, False or None, got {together!r}")
    if together is False:
        return False
    try:
        with torch.no_grad(), _Watch():
            loss(params, *next(_tasks(support)))
    except _Obstacle as obstacle:
        if second_order and obstacle.wrong and (together or not _readable(support[0])):
            raise ValueError(
                f"loss: {obstacle} has wrong second derivatives under vmap; write the normalisation out in plain "
                "operations, or take first_order=True"
            ) from None
        return together is True
    return True


def _tasks(batch: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, ...]]:
    """Yield one task's tensors after the other."""
    return zip(*(tensor.unbind() for tensor in batch), strict=True)


def _keys(params: dict[str, Tensor] | tuple[Tensor, ...]) -> list[str] | list[int]:
    return list(params) if isinstance(params, dict) else list(range(len(params)))


def _entries(params: dict[str, Tensor] | tuple[Tensor, ...]) -> list[Tensor]:
    return list(params.values() if isinstance(params, dict) else params)


def _like(params: Params, entries: Sequence[Tensor]) -> Params:
    """Return new entries in the form of ``params``."""
    return dict(zip(params, entries, strict=True)) if isinstance(params, dict) else tuple(entries)


def _readable(tensor: Tensor) -> bool:
    """Return whether values can be read: not inside ``vmap``, and not while being traced."""
    try:
        bool(tensor.flatten()[0] == 0)
    except RuntimeError:
        return False
    return True


def _expect_inner(loss: object, params: object, lr: object, steps: object, only: object) -> None:
    """Raise unless an inner loop can be made of these."""
    if not callable(loss):
        raise TypeError(f"loss: expected a function of parameters and a batch, got {type(loss).__name__}")
    if not isinstance(params, (dict, tuple)):
        raise TypeError(f"params: expected a dict or a tuple of tensors, got {type(params).__name__}")
    if not params:
        raise ValueError("params: expected at least one tensor, got none")
    for key, value in zip(_keys(params), _entries(params), strict=True):
        if not isinstance(value, Tensor) or not value.is_floating_point():
            got = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"params[{key!r}]: expected a floating tensor, got {got}")
    expect.number("lr", lr, above=0)
    expect.count("steps", steps, low=0)
    if only is not None:
        if isinstance(only, str) or not isinstance(only, Collection) or not len(only):
            raise TypeError(f"only: expected some of {_keys(params)}, got {only!r}")
        unknown = [key for key in only if key not in _keys(params)]
        if unknown:
            raise ValueError(f"only: expected some of {_keys(params)}, got {unknown[0]!r}")


def _expect_tasks(name: str, batch: object, tasks: int | None = None) -> None:
    """Raise unless this is a tuple of tensors with as many tasks as leading axis."""
    if not isinstance(batch, (tuple, list)) or not batch or not all(isinstance(one, Tensor) for one in batch):
        got = [type(one).__name__ for one in batch] if isinstance(batch, (tuple, list)) else type(batch).__name__
        raise TypeError(f"{name}: expected a tuple of tensors, got {got}")
    shapes = [tuple(one.shape) for one in batch]
    leading = {shape[:1] for shape in shapes}
    if leading in ({()}, {(0,)}) or len(leading) > 1 or (tasks is not None and leading != {(tasks,)}):
        wanted = f"{tasks} tasks, as in support," if tasks is not None else "the same number of tasks, at least one,"
        raise ValueError(f"{name}: expected {wanted} as leading axis of every tensor, got shapes {shapes}")


def _expect_scalar(value: object) -> Tensor:
    if not isinstance(value, Tensor) or value.ndim:
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"loss: expected it to return a scalar tensor, got {got}")
    return value


def _expect_converging(losses: Tensor, steps: int, *, one_task: bool = False) -> None:
    """Raise unless all losses (T, steps), or (T, steps + 1) with the query's, are finite, where they can be read."""
    try:
        broken = (~torch.isfinite(losses)).nonzero().tolist()
    except RuntimeError:  # inside vmap or tracing: whoever maps looks at the result
        return
    if broken:
        task, step = broken[0]
        where = "" if one_task else f" of task {task}"
        when = f"at inner step {step} of {steps}" if step < steps else f"on the query set after {steps} inner steps"
        raise FloatingPointError(
            f"the loss{where} is {losses[task, step].item():g} {when}; try a smaller lr, and look for a log or a "
            "division by zero"
        )
