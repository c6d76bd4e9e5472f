"""What ``training.fit`` draws its batches from."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ctkd_lessons.seeds import stream


class Source:
    """Examples that ``fit`` draws batches from.

    ``tensors``: (n, …) each, the same for all seeds. ``per_seed``: (S, n, …) each, such as the
    outputs of each seed's own teacher. ``rows``: (S, m) or (m,): the rows that may be drawn, all n
    if left out; so that each seed has its own split without a copy of the data.
    A batch holds the drawn rows of ``tensors``, then those of ``per_seed``.
    Raises ``ValueError``/``TypeError`` where these do not fit together.
    """

    def __init__(self, *tensors: Tensor, rows: Tensor | None = None, per_seed: Sequence[Tensor] = ()) -> None:
        every = [*tensors, *per_seed]
        if not every or not all(isinstance(tensor, Tensor) for tensor in every):
            raise TypeError(f"Source: expected at least one tensor, got {[type(t).__name__ for t in every]}")
        if any(tensor.ndim < 1 for tensor in tensors) or any(tensor.ndim < 2 for tensor in per_seed):
            raise ValueError("Source: expected tensors (n, …), and (S, n, …) in per_seed, got too few axes")
        lengths = [len(tensor) for tensor in tensors] + [tensor.shape[1] for tensor in per_seed]
        if len(set(lengths)) > 1:
            raise ValueError(f"Source: expected the same number of examples in every tensor, got {lengths}")
        # A slice such as images[:, :100] would be copied whole for every batch, where the first two axes become one.
        self.tensors, self.per_seed, self.examples = tensors, tuple(t.contiguous() for t in per_seed), lengths[0]
        self.rows = torch.arange(self.examples) if rows is None else rows
        # Where each seed's own examples begin once the first two axes of ``per_seed`` are one.
        seeds = len(per_seed[0]) if per_seed else 0
        self._starts = torch.arange(seeds, device=every[0].device).unsqueeze(1) * self.examples
        if not isinstance(self.rows, Tensor) or self.rows.ndim not in (1, 2):
            raise TypeError(
                f"rows: expected a tensor (m,) or (S, m), got {getattr(self.rows, 'shape', type(self.rows))}"
            )
        if self.rows.numel() == 0:
            raise ValueError("rows: expected at least one row to draw from, got none")
        if self.rows.dtype != torch.int64 or self.rows.min() < 0 or self.rows.max() >= self.examples:
            raise ValueError(f"rows: expected int64 row numbers below {self.examples}")

    @property
    def device(self) -> torch.device:
        """The device of the examples."""
        return (*self.tensors, *self.per_seed)[0].device

    def check_seeds(self, seeds: int) -> None:
        """Raise ``ValueError`` unless everything that differs by seed has ``seeds`` entries."""
        sizes = [len(tensor) for tensor in self.per_seed] + [len(self.rows)] * (self.rows.ndim == 2)
        if any(size != seeds for size in sizes):
            raise ValueError(f"data: expected {seeds} seeds in per_seed and rows, got {sizes}")

    def order(self, place: int, seed: int, steps: int, batch_size: int, number: int) -> Tensor:
        """Return the rows of every batch of one seed: (steps, batch_size), each pass reshuffled.

        ``place``: the seed's position in ``rows``; ``number``: the source's position in the data.
        """
        rows = self.rows[place] if self.rows.ndim == 2 else self.rows
        generator = torch.Generator().manual_seed(stream(seed, f"batches of source {number}"))
        passes = math.ceil(steps * batch_size / len(rows))
        shuffled = torch.cat([torch.randperm(len(rows), generator=generator) for _ in range(passes)])
        return rows[shuffled[: steps * batch_size]].view(steps, batch_size)

    def orders(self, seeds: Sequence[int], steps: int, batch_size: int, number: int) -> Tensor:
        """Return ``order`` of every seed: (steps, S, batch_size), on the examples' device."""
        orders = [self.order(place, seed, steps, batch_size, number) for place, seed in enumerate(seeds)]
        return torch.stack(orders, dim=1).to(self.device)

    def batch(self, order: Tensor) -> tuple[Tensor, ...]:
        """Return the rows (S, batch_size) of every seed: (S, batch_size, …) of each tensor."""
        shared = [(table, order) for table in self.tensors]
        own = [(table.flatten(0, 1), order + self._starts) for table in self.per_seed]
        return tuple(table.index_select(0, rows.flatten()).unflatten(0, order.shape) for table, rows in (*shared, *own))

    def one_seed(self, place: int) -> list[Tensor]:
        """Return all tensors (n, …) as the seed at ``place`` sees them."""
        return [*self.tensors, *(tensor[place] for tensor in self.per_seed)]
