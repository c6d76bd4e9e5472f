"""What the broken runs share: the digits, a teacher, one plain training loop that notes what it sees."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctkd_lessons.data import digits
from ctkd_lessons.models import mlp
from ctkd_lessons.seeds import stream
from ctkd_lessons.sources import Source
from ctkd_lessons.threads import one_thread

Curves = dict[str, list[float]]  # name → values; the first is what the others are drawn over
SEED = 0  # of the pictures in the bank; each is one run, as a reader would meet it


@cache
def data() -> digits.Digits:
    """Return the digits with the parts of one seed."""
    return digits.load([SEED])


def part(name: str) -> tuple[Tensor, Tensor]:
    """Return images and labels of ``train``, ``validation`` or ``test``."""
    rows = getattr(data(), name)[0]
    return data().images[rows], data().labels[rows]


@contextmanager
def chance(purpose: str) -> Iterator[None]:
    """Draw from a random stream of its own, and leave the caller's alone."""
    with torch.random.fork_rng(), one_thread():
        torch.manual_seed(stream(SEED, purpose))
        yield


def network(sizes: Sequence[int], purpose: str = "weights") -> nn.Sequential:
    """Return an untrained MLP whose weights depend on the seed alone."""
    with chance(purpose):
        return mlp(sizes)


def train(
    parameters: Iterator[nn.Parameter],
    loss: Callable[[Tensor], Tensor],
    rows: Tensor,
    watch: Callable[[float], dict[str, float]],
    *,
    steps: int = 300,
    every: int = 10,
    learning_rate: float = 3e-3,
    make_optimiser: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
) -> Curves:
    """Train by a plain loop; ``loss(rows of a batch)``; note ``watch(loss)`` before every ``every``-th step."""
    optimiser, curves = make_optimiser(list(parameters), lr=learning_rate), {}
    order = Source(rows, rows=torch.arange(len(rows))).order(0, SEED, steps + 1, 64, 0)
    with chance("noise"):
        for step, batch in enumerate(rows[order]):
            value = loss(batch)
            if step % every == 0:
                note(curves, {"step": step} | watch(value.item()))
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
    return curves


def note(curves: Curves, seen: dict[str, Any]) -> None:
    """Append one value to each curve."""
    for name, value in seen.items():
        curves.setdefault(name, []).append(float(value))


@torch.no_grad()
def accuracy(model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> float:
    """Return the share of right answers, with the model in the mode that it is in."""
    return (model(images).argmax(dim=1) == labels).float().mean().item()


def on_validation(model: nn.Module) -> float:
    """Return the accuracy on the validation part."""
    return accuracy(model, *part("validation"))


def taught(
    sizes: Sequence[int], *, steps: int = 400, rows: Tensor | None = None, purpose: str = "teacher"
) -> nn.Module:
    """Return a network that has learned the training part's labels, or those of ``rows``."""
    model, digit = network(sizes, purpose), data()
    rows = digit.train[0] if rows is None else rows
    train(
        model.parameters(),
        lambda b: F.cross_entropy(model(digit.images[b]), digit.labels[b]),
        rows,
        lambda _: {},
        steps=steps,
    )
    return model.eval()


@cache
def teacher() -> nn.Module:
    """Return the teacher of most runs, trained on all training digits."""
    return taught([64, 128, 128, 10])
