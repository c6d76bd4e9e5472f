"""Lengths and directions of vectors whose gradient stays finite at zero."""

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Return float32 for narrower floats: sums of squares of squares soon leave the range of float16."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def length(x: Tensor) -> Tensor:
    """Return the Euclidean length over the last axis; where it is zero, so is its gradient."""
    square = x.square().sum(dim=-1)
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1).sqrt(), 0)


def unit(x: Tensor) -> Tensor:
    """Divide by the length over the last axis; zero stays zero, with a gradient that stays small."""
    size = length(x).unsqueeze(-1)
    return x / torch.where(size > 0, size, 1)
