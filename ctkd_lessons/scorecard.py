"""What a model is worth and what it costs: accuracy, recall, parameters, FLOPs, latency, memory."""

import copy
import time
import weakref
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
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
    """Return how many numbers a model has learned, frozen ones included; shared ones count once.

    Raises ``TypeError``/``ValueError`` for what is no module or has no parameters.
    """
    expect.module("model", model)
    sizes = [parameter.numel() for parameter in model.parameters()]
    if not sizes:
        raise ValueError(f"model: expected a module with parameters, got {type(model).__name__} with none")
    return sum(sizes)


def count_flops(model: nn.Module, x: Tensor) -> int:
    """Return the floating-point operations of one forward pass for one example, 2 per multiply-add.

    ``x``: (B, …), any B ≥ 1. Counts matrix products and convolutions, as PyTorch's own counter
    does; activations and biases are left out, and so is what runs inside one fused operation, such as
    an LSTM on the CPU. Counting multiply-adds once gives half of this.
    """
    _expect_example("x", x)
    with FlopCounterMode(display=False) as counter, torch.enable_grad():  # without, transformers run fused, too
        _at_rest(model)(x)
    return counter.get_total_flops() // len(x)


def count_bytes(model: nn.Module) -> int:
    """Return the bytes that a model's parameters and buffers take."""
    expect.module("model", model)
    return sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))


def peak_memory(model: nn.Module, example: Tensor) -> int:
    """Return the bytes that a forward pass needs: weights, input, and the most alive beside them.

    Counts tensors, not what the operations or the interpreter use inside.
    """
    _expect_example("example", example)
    model, example = _at_rest(model), example.clone()  # a row of a large table counts as a row
    with _LiveBytes([*model.parameters(), *model.buffers(), example]) as live, torch.no_grad():
        model(example)
    return live.peak


def latency(model: nn.Module, example: Tensor, repeats: int = 100) -> float:
    """Return the median seconds of one forward pass, after ten that do not count."""
    _expect_example("example", example)
    expect.count("repeats", repeats)
    model, seconds = _at_rest(model), []
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
    """The bill of one model: parameters; per example FLOPs, seconds, and bytes at the peak."""

    parameters: int
    flops: int
    latency: float
    memory: int

    def __str__(self) -> str:
        return (
            f"{self.parameters:,} parameters, {self.flops:,} FLOPs, "
            f"{1e6 * self.latency:.0f} µs and {self.memory:,} bytes for an example"
        )


def scorecard(model: nn.Module, example: Tensor) -> Scorecard:
    """Measure what one prediction costs. ``example``: one input with a batch axis of 1."""
    _expect_example("example", example)
    if len(example) != 1:
        raise ValueError(f"example: expected one input with a batch axis of 1, got shape {tuple(example.shape)}")
    bill = count_parameters(model), count_flops(model, example), latency(model, example), peak_memory(model, example)
    return Scorecard(*bill)


class _LiveBytes(TorchDispatchMode):
    """Follow every tensor an operation makes until it is freed. ``peak``: the most bytes at once."""

    def __init__(self, given: list[Tensor]) -> None:
        super().__init__()
        self.known: set[int] = set()  # addresses of the storages that are alive
        self.live = self.peak = 0
        for tensor in given:
            self._note(tensor)

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None) -> object:
        """Run the operation and note what it made."""
        made = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._note(tensor)
        return made

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        address, size = storage.data_ptr(), storage.nbytes()
        if not size or address in self.known:  # a view takes nothing
            return
        self.known.add(address)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, address, size)

    def _forget(self, address: int, size: int) -> None:
        self.known.discard(address)
        self.live -= size


def _at_rest(model: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode: measuring must not move running averages or the mode."""
    expect.module("model", model)
    return copy.deepcopy(model).eval()


def _expect_example(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")
    if value.ndim < 1 or not value.numel():
        raise ValueError(f"{name}: expected a batch of at least one example, got shape {tuple(value.shape)}")


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
