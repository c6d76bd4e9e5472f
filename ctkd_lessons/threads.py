"""Keep small tensor operations on one CPU thread."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one CPU thread inside the block.

    For operations too small to share out: more threads gain little, and as soon as another program
    wants the cores they wait for each other at every operation, which then takes a hundred times
    as long.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
