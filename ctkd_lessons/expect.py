"""What an argument must be: each check names the argument, what was expected and what came.

Checks of types, shapes and Python scalars always run. Checks of *values* (finite, label range)
run where values can be read; inside ``torch.func.vmap`` they cannot, and are left out.
"""

import math
from numbers import Integral, Real

import torch
from torch import Tensor, nn


def number(
    name: str, value: object, *, above: float = -math.inf, low: float = -math.inf, high: float = math.inf
) -> None:
    """Raise unless ``value`` is a finite Python number with ``above < value`` and ``low <= value <= high``."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected a Python number, got {type(value).__name__}")
    bounds = [f"above {above:g}"] * (above > -math.inf) + [f"at least {low:g}"] * (low > -math.inf)
    bounds += [f"at most {high:g}"] * (high < math.inf)
    if not (math.isfinite(value) and value > above and low <= value <= high):
        raise ValueError(f"{name}: expected a finite number{' ' if bounds else ''}{' and '.join(bounds)}, got {value}")


def count(name: str, value: object, *, low: int = 1, high: int | None = None) -> None:
    """Raise unless ``value`` is an int with ``low <= value`` (and ``value <= high``)."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}: expected an int, got {type(value).__name__}")
    if value < low or (high is not None and value > high):
        raise ValueError(
            f"{name}: expected {f'{low} to {high}' if high is not None else f'at least {low}'}, got {value}"
        )


def logits(name: str, value: object, *, ndim: int | None = None) -> None:
    """Raise unless ``value`` is a finite floating tensor with at least one example and one class."""
    _floating(name, value)
    if value.ndim < 1 or (ndim is not None and value.ndim != ndim):
        expected = "at least one axis (classes last)" if ndim is None else f"{ndim} axes"
        raise ValueError(f"{name}: expected {expected}, got shape {tuple(value.shape)}")
    if value.numel() == 0:
        raise ValueError(f"{name}: expected at least one example and one class, got shape {tuple(value.shape)}")
    _finite(name, value)


def logit_pair(student_logits: object, teacher_logits: object) -> None:
    """Raise unless both are logits (B, C) of the same shape and dtype."""
    logits("student_logits", student_logits, ndim=2)
    logits("teacher_logits", teacher_logits, ndim=2)
    same_shape("teacher_logits", teacher_logits, "student_logits", student_logits)


def features(name: str, value: object, *, ndim: int | None = None, low_batch: int = 1) -> None:
    """Raise unless ``value`` is a finite floating tensor (B, …), not empty, with B ≥ ``low_batch``."""
    _floating(name, value)
    if value.ndim < 2 or (ndim is not None and value.ndim != ndim):
        expected = {2: "2 axes (B, D)", 4: "4 axes (B, M, H, W)"}.get(ndim, "at least 2 axes (B, …)")
        raise ValueError(f"{name}: expected {expected}, got shape {tuple(value.shape)}")
    if value.numel() == 0:
        raise ValueError(f"{name}: expected no axis of size zero, got shape {tuple(value.shape)}")
    if len(value) < low_batch:
        raise ValueError(f"{name}: expected at least {low_batch} examples, got shape {tuple(value.shape)}")
    _finite(name, value)


def module(name: str, value: object) -> None:
    """Raise unless ``value`` is a ``torch.nn.Module``."""
    if not isinstance(value, nn.Module):
        raise TypeError(f"{name}: expected a torch.nn.Module, got {type(value).__name__}")


def true(condition: Tensor, message: str) -> None:
    """Raise ``ValueError`` with ``message`` unless all of ``condition`` is true, where it can be read."""
    if not _holds(condition):
        raise ValueError(message)


def same_shape(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Raise unless both tensors have the same shape and dtype; nothing is broadcast."""
    if value.shape != other.shape:
        raise ValueError(f"{name}: expected the shape of {other_name}, {tuple(other.shape)}, got {tuple(value.shape)}")
    if value.dtype != other.dtype:
        raise TypeError(f"{name}: expected the dtype of {other_name}, {other.dtype}, got {value.dtype}")


def same_batch(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Raise unless both tensors hold as many examples, in the same dtype."""
    if len(value) != len(other):
        raise ValueError(f"{other_name}: expected the {len(value)} examples of {name}, got {len(other)}")
    if value.dtype != other.dtype:
        raise TypeError(f"{other_name}: expected the dtype of {name}, {value.dtype}, got {other.dtype}")


def rows(name: str, value: object, *, below: int) -> None:
    """Raise unless ``value`` is a tensor of row numbers (m,), int64, m ≥ 1, each in 0 … below − 1."""
    if not isinstance(value, Tensor) or value.dtype != torch.int64:
        raise TypeError(f"{name}: expected an int64 tensor, got {getattr(value, 'dtype', type(value).__name__)}")
    if value.ndim != 1 or not len(value):
        raise ValueError(f"{name}: expected at least one row number, (m,), got shape {tuple(value.shape)}")
    true((value >= 0) & (value < below), f"{name}: expected row numbers 0 to {below - 1}, got others")


def labels(name: str, value: object, *, examples: int, classes: int) -> None:
    """Raise unless ``value`` is an integer tensor of shape (examples,) with entries 0 … classes − 1."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"{name}: expected an integer dtype such as torch.int64, got {value.dtype}")
    if tuple(value.shape) != (examples,):
        raise ValueError(f"{name}: expected shape ({examples},), got {tuple(value.shape)}")
    if not _holds((value >= 0) & (value < classes)):
        raise ValueError(f"{name}: expected classes 0 to {classes - 1}, got {int(value.min())} to {int(value.max())}")


def _floating(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")
    if not value.is_floating_point():
        raise TypeError(f"{name}: expected a floating dtype, got {value.dtype}")


def _finite(name: str, value: Tensor) -> None:
    largest = value.detach().abs().amax()  # nan or inf if any entry is; a tenth of the time of isfinite on all
    true(torch.isfinite(largest), f"{name}: expected finite values, got nan or inf")


def _holds(condition: Tensor) -> bool:
    """Return whether all entries are true; true as well where values cannot be read."""
    try:
        return bool(condition.all())
    except RuntimeError:  # vmap and tracing refuse to turn a tensor into a bool
        return True
