"""What several test modules draw their inputs from."""

import pytest
import torch
from hypothesis import strategies as st

SEEDS = st.integers(0, 2**20)
EVERY_DTYPE = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])


def normal(*shape, seed=0, dtype=torch.float64):
    """Draw normal numbers, the same for every dtype but for rounding."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
