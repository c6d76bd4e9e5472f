"""What a model is worth and what it costs: accuracy, recall, parameters, FLOPs, latency."""

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ctkd_lessons import expect


def accuracy(logits: Tensor, labels: Tensor, rows: Tensor | None = None) -> np.ndarray:
    """Return the share of right predictions of every seed: (S,), in [0, 1].

    ``logits``: (S, n, C); ``labels``: (n,); ``rows``: (S, m), the rows of each seed that count,
    all n if left out. Raises ``ValueError``/``TypeError`` where these do not fit together.
    """
    hits, rows = _hits(logits, labels, rows)
    return hits.gather(1, rows).double().mean(dim=1).cpu().numpy()


def recall(logits: Tensor, labels: Tensor, label: int, rows: Tensor | None = None) -> np.ndarray:
    """Return the share of the examples of one class that are recognised, for every seed: (S,).

    Arguments as ``accuracy``; raises ``ValueError`` too if a seed's rows hold no such example.
    """
    hits, rows = _hits(logits, labels, rows)
    expect.count("label", label, low=0, high=logits.shape[-1] - 1)
    of_class = labels[rows] == label
    if not of_class.any(dim=1).all():
        raise ValueError(f"label: expected at least one example of class {label} among the rows of every seed")
    return ((hits.gather(1, rows) & of_class).sum(dim=1).double() / of_class.sum(dim=1)).cpu().numpy()


def count_parameters(model: nn.Module) -> int:
    """Return how many numbers training may change."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def count_flops(model: nn.Module, example: Tensor) -> int:
    """Return the floating-point operations of one forward pass, 2 per multiply-add.

    ``example``: one input with a batch axis of 1. Counts matrix products and convolutions, as
    PyTorch's own counter does; activations and biases are left out.
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(example)
    return counter.get_total_flops()


def latency(model: nn.Module, example: Tensor, repeats: int = 100) -> float:
    """Return the median seconds of one forward pass, after ten that do not count."""
    expect.count("repeats", repeats)
    seconds = []
    with torch.no_grad():
        for _ in range(10 + repeats):
            _finish(example.device)
            start = time.perf_counter()
            model(example)
            _finish(example.device)
            seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[10:]))


@dataclass(frozen=True)
class Scorecard:
    """The bill of one model: parameters, FLOPs per example, seconds per example."""

    parameters: int
    flops: int
    latency: float

    def __str__(self) -> str:
        return f"{self.parameters:,} parameters, {self.flops:,} FLOPs, {1e6 * self.latency:.0f} µs an example"


def scorecard(model: nn.Module, example: Tensor) -> Scorecard:
    """Measure what one prediction costs. ``example``: one input with a batch axis of 1."""
    if not isinstance(example, Tensor) or example.ndim < 1 or len(example) != 1:
        raise ValueError(
            f"example: expected one input with a batch axis of 1, got {getattr(example, 'shape', example)}"
        )
    model.eval()
    return Scorecard(count_parameters(model), count_flops(model, example), latency(model, example))


def _hits(logits: Tensor, labels: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor]:
    expect.logits("logits", logits, ndim=3)
    seeds, examples, classes = logits.shape
    expect.labels("labels", labels, examples=examples, classes=classes)
    if rows is None:
        rows = torch.arange(examples, device=labels.device).expand(seeds, -1)
    if not isinstance(rows, Tensor) or rows.dtype != torch.int64:
        raise TypeError(f"rows: expected a torch.int64 tensor, got {getattr(rows, 'dtype', type(rows).__name__)}")
    if rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < examples:
        raise ValueError(f"rows: expected row numbers 0 to {examples - 1}, got {int(rows.min())} to {int(rows.max())}")
    if rows.ndim != 2 or len(rows) != seeds or rows.shape[1] == 0:
        raise ValueError(f"rows: expected shape ({seeds}, m), got {tuple(rows.shape)}")
    return logits.argmax(dim=-1) == labels, rows


def _finish(device: torch.device) -> None:
    """Wait for an accelerator, which answers before it has finished."""
    if device.type != "cpu":
        torch.accelerator.synchronize()
