"""What lesson 10's exercises on inner loops share: a small network as a function of its parameters, and how to look."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ctkd_lessons.course.exercises.description import Case, Observation, observe_value, tensors

Params = tuple[Tensor, ...]
Batch = tuple[Tensor, ...]
TaskLoss = Callable[..., Tensor]


def squared_error(params: Params, x: Tensor, y: Tensor) -> Tensor:
    """Return how far a small network is from y: linear if it has two parameters, else with a hidden layer."""
    weight, bias, *head = params
    hidden = x @ weight + bias
    answer = torch.tanh(hidden) @ head[0] if head else hidden
    return (answer - y).square().mean()


def draw_params(rng: np.random.Generator, width: int, hidden: int, dtype: str, name: str = "params") -> Case:
    """Draw the parameters of a network: ``hidden`` units, or none for a linear one."""
    shapes = [(width, hidden), (hidden,), (hidden,)] if hidden else [(width,), ()]
    return {f"{name}[{place}]": rng.normal(0, 0.7, shape).astype(dtype) for place, shape in enumerate(shapes)}


def draw_batch(rng: np.random.Generator, dtype: str, *shape: int, names: tuple[str, str] = ("x", "y")) -> Case:
    """Draw inputs of this shape, features last, and a target for each."""
    x = rng.normal(0, 1, shape)
    # Targets that vary from task to task, else all tasks' gradients are alike.
    y = 1.5 * x.sum(-1) * rng.normal(0, 1, (*shape[:-2], 1)) + rng.normal(0, 1, shape[:-1])
    return {names[0]: x.astype(dtype), names[1]: y.astype(dtype)}


def leaves(case: Case, name: str = "params") -> Params:
    """Return the parameters of a case as tensors that require gradients."""
    return tuple(value.requires_grad_() for key, value in tensors(case).items() if key.startswith(f"{name}["))


def gradients_of(loss: TaskLoss, params: Params, batch: Batch, *, graph: bool = True) -> Params:
    """Return a loss's gradients, with the graph they were made by or without."""
    return torch.autograd.grad(loss(params, *batch), params, create_graph=graph)


def handed_back(params: Params, now: Params, *, in_place: bool, moved: bool, detached: bool) -> Params:
    """Return new parameters as wrong answers do: written over the given ones, as a change, or cut from the graph."""
    if in_place:
        with torch.no_grad():
            for entry, new in zip(params, now, strict=True):
                entry.copy_(new)
        return params
    if moved:
        return tuple(new - old for new, old in zip(now, params, strict=True))
    return tuple(entry.detach() for entry in now) if detached else now


def tasks_of(batch: Batch) -> list[Batch]:
    """Return each task's tensors."""
    return list(zip(*batch, strict=True))


def observe_params(returned: object, given: Params, *, into: dict[str, Params] | None = None) -> Observation:
    """Look at new parameters, and at the gradient from a weighted sum of them into those named in ``into``."""
    if not isinstance(returned, tuple) or not all(isinstance(one, Tensor) for one in returned):
        return {"type": type(returned).__name__}
    seen: Observation = {"type": f"tuple of {len(returned)} tensors"}
    if len(returned) != len(given):
        return seen
    for place, one in enumerate(returned):
        seen[f"dtype of entry [{place}]"] = str(one.dtype)
        seen[f"entry [{place}] that you return"] = one.detach().numpy()
    if into is not None and all(one.shape == like.shape for one, like in zip(returned, given, strict=True)):
        flat = torch.cat([one.flatten() for one in returned])
        seen |= observe_gradients((flat * torch.cos(torch.arange(len(flat), dtype=flat.dtype))).sum(), into)
    # What the sign, a constant factor and the like are recognised by.
    return seen | {"value": np.concatenate([one.detach().numpy().ravel() for one in returned])}


def observe_loss(returned: object, into: dict[str, Params]) -> Observation:
    """Look at a loss and its gradients."""
    seen = observe_value(returned)
    scalar = isinstance(returned, Tensor) and not returned.ndim
    return seen | observe_gradients(returned, into) if scalar else seen


def observe_gradients(total: Tensor, into: dict[str, Params]) -> Observation:
    """Look at a scalar's gradients with respect to the tensors, by name."""
    if not total.requires_grad:
        return {"differentiable": "no"}
    named = {f"{name}[{place}]": one for name, several in into.items() for place, one in enumerate(several)}
    found = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    if all(gradient is None for gradient in found):  # of copies, which a gradient may well reach
        return {"differentiable": "no"}
    made = [torch.zeros_like(one) if g is None else g for one, g in zip(named.values(), found, strict=True)]
    return {"differentiable": "yes"} | {
        f"gradient of `{name}`": gradient.numpy() for name, gradient in zip(named, made, strict=True)
    }


def observe_afterwards(names: Sequence[str], *several: Sequence[Tensor]) -> Observation:
    """Look at what was given, as the call left it."""
    return {
        f"`{name}[{place}]` afterwards": one.detach().numpy()
        for name, tuple_of in zip(names, several, strict=True)
        for place, one in enumerate(tuple_of)
    }
