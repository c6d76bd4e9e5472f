"""What the functions of ``meta`` share: parameters in two forms, tasks together or one by one, what they refuse."""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.func import vmap
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from ctkd_lessons import expect

Params = TypeVar("Params", dict[str, Tensor], tuple[Tensor, ...])
TaskLoss = Callable[..., Tensor]
Names = Collection[str] | Collection[int]
# Under vmap, PyTorch 2.13 gets second derivatives of these wrong where scale and shift are adapted, silently.
_FUSED_NORMALISATIONS = {"layer_norm", "batch_norm", "instance_norm"}
# On a CPU, four layers of 32 channels under vmap take 0.8 of a loop's time at 16 × 16 pixels, 1.2 at 28 × 28.
_CONVOLUTIONS = {"conv1d", "conv2d", "conv3d"}
_LARGEST_IMAGE = 20 * 20


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
        images = args[0] if name in _CONVOLUTIONS and args else None
        if isinstance(images, Tensor) and images.device.type == "cpu" and images.shape[2:].numel() > _LARGEST_IMAGE:
            raise _Obstacle(name, wrong=False)
        return func(*args, **(kwargs or {}))


def stacks(
    loss: TaskLoss, params: Params, support: tuple[Tensor, ...], *, second_order: bool, together: bool | None
) -> bool:
    """Decide whether ``vmap`` over the tasks gives the right answer and is quicker."""
    if together not in (None, True, False):
        raise TypeError(f"together: expected True, False or None, got {together!r}")
    if together is False:
        return False
    obstacle = _obstacle(loss, params, next(_one_by_one(support)))
    if obstacle and obstacle.wrong and second_order and (together or not _readable(support[0])):
        raise _wrong(obstacle)
    return obstacle is None or together is True


def over_tasks(one: Callable[..., Any], *batches: tuple[Tensor, ...], stacked: bool, together: bool | None) -> Any:
    """Return what ``one`` makes of each task, stacked along a first axis."""
    if stacked:
        try:
            return vmap(one, randomness="different")(*batches)
        except RuntimeError:  # an operation that vmap cannot do, or an error that the loop shows more plainly
            if together:
                raise
    made = [one(*task) for task in zip(*map(_one_by_one, batches), strict=True)]
    return tree_map(lambda *column: torch.stack(column), *made)


def expect_right_under_vmap(loss: TaskLoss, params: Params, batch: tuple[Tensor, ...]) -> None:
    """Raise if this is inside ``vmap`` and the loss's second derivatives are wrong there."""
    if not all(map(_readable, (*batch, *entries(params)))):
        obstacle = _obstacle(loss, params, batch)
        if obstacle and obstacle.wrong:
            raise _wrong(obstacle)


def _obstacle(loss: TaskLoss, params: Params, batch: tuple[Tensor, ...]) -> _Obstacle | None:
    try:
        with torch.no_grad(), _Watch():
            loss(params, *batch)
    except _Obstacle as obstacle:
        return obstacle
    return None


def _wrong(obstacle: _Obstacle) -> ValueError:
    return ValueError(
        f"loss: {obstacle} has wrong second derivatives under vmap; write the normalisation out in plain operations, "
        "or take first_order=True"
    )


def _one_by_one(batch: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, ...]]:
    """Yield one task's tensors after the other."""
    return zip(*(tensor.unbind() for tensor in batch), strict=True)


def keys(params: dict[str, Tensor] | tuple[Tensor, ...]) -> list[str] | list[int]:
    """Return the names of a dict's entries, or a tuple's places."""
    return list(params) if isinstance(params, dict) else list(range(len(params)))


def entries(params: dict[str, Tensor] | tuple[Tensor, ...]) -> list[Tensor]:
    """Return the tensors, in order."""
    return list(params.values() if isinstance(params, dict) else params)


def like(params: Params, entries: Sequence[Tensor]) -> Params:
    """Return new entries in the form of ``params``."""
    return dict(zip(params, entries, strict=True)) if isinstance(params, dict) else tuple(entries)


def _readable(tensor: Tensor) -> bool:
    """Return whether values can be read: not inside ``vmap``, and not while being traced."""
    try:
        bool(tensor.flatten()[0] == 0)
    except RuntimeError:
        return False
    return True


def expect_inner(loss: object, params: object, lr: object, steps: object, only: object) -> None:
    """Raise unless an inner loop can be made of these."""
    if not callable(loss):
        raise TypeError(f"loss: expected a function of parameters and a batch, got {type(loss).__name__}")
    if not isinstance(params, (dict, tuple)):
        raise TypeError(f"params: expected a dict or a tuple of tensors, got {type(params).__name__}")
    if not params:
        raise ValueError("params: expected at least one tensor, got none")
    for key, value in zip(keys(params), entries(params), strict=True):
        if not isinstance(value, Tensor) or not value.is_floating_point():
            got = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"params[{key!r}]: expected a floating tensor, got {got}")
    expect.number("lr", lr, above=0)
    expect.count("steps", steps, low=0)
    if only is not None:
        if isinstance(only, str) or not isinstance(only, Collection) or not len(only):
            raise TypeError(f"only: expected some of {keys(params)}, got {only!r}")
        unknown = [key for key in only if key not in keys(params)]
        if unknown:
            raise ValueError(f"only: expected some of {keys(params)}, got {unknown[0]!r}")


def expect_tasks(name: str, batch: object, tasks: int | None = None) -> None:
    """Raise unless this is a tuple of tensors with as many tasks as leading axis."""
    if not isinstance(batch, (tuple, list)) or not batch or not all(isinstance(one, Tensor) for one in batch):
        got = [type(one).__name__ for one in batch] if isinstance(batch, (tuple, list)) else type(batch).__name__
        raise TypeError(f"{name}: expected a tuple of tensors, got {got}")
    shapes = [tuple(one.shape) for one in batch]
    leading = {shape[:1] for shape in shapes}
    if leading in ({()}, {(0,)}) or len(leading) > 1 or (tasks is not None and leading != {(tasks,)}):
        wanted = f"{tasks} tasks, as in support," if tasks is not None else "the same number of tasks, at least one,"
        raise ValueError(f"{name}: expected {wanted} as leading axis of every tensor, got shapes {shapes}")


def expect_scalar(value: object) -> Tensor:
    """Raise unless a loss returned a scalar; return it."""
    if not isinstance(value, Tensor) or value.ndim:
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"loss: expected it to return a scalar tensor, got {got}")
    return value


def expect_converging(losses: Tensor, steps: int, *, one_task: bool = False) -> None:
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
