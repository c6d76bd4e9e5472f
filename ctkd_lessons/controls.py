"""Negative controls: teachers from which one thing has been taken away.

A method is believed only if its gain goes when the thing it claims to use goes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ctkd_lessons import expect
from ctkd_lessons.seeds import stream


def shuffle_wrong_classes(logits: Tensor, seeds: Sequence[int]) -> Tensor:
    """Deal each example's smaller logits out to the wrong classes at random; the largest stays.

    The targets stay as soft as they were and keep their first choice, but no longer say which
    wrong class is the likelier one.

    ``logits``: (S, n, C), the teacher's; ``seeds``: the S seeds. Returns the same shape.
    Raises ``ValueError``/``TypeError`` if these do not fit together.
    """
    expect.logits("logits", logits, ndim=3)
    chance = _generators(logits, seeds, "shuffled classes")
    order = logits.argsort(dim=-1, descending=True)
    keys = torch.stack([torch.rand(logits.shape[1:], generator=one) for one in chance]).to(logits.device)
    # The first choice gets the smallest key, so sorting the keys leaves it where it was.
    places = keys.scatter(-1, order[..., :1], -1.0).argsort(dim=-1)
    return torch.empty_like(logits).scatter_(-1, places, logits.gather(-1, order))


def shuffle_examples(outputs: Tensor, seeds: Sequence[int]) -> Tensor:
    """Give each example what the teacher says about another one.

    ``outputs``: (S, n, …), the teacher's logits or features; ``seeds``: the S seeds, each of which
    always deals in the same way, so that several outputs of one teacher stay together. Returns the
    same shape. Raises ``ValueError``/``TypeError`` if these do not fit together.
    """
    expect.features("outputs", outputs)
    chance = _generators(outputs, seeds, "shuffled examples")
    order = [torch.randperm(outputs.shape[1], generator=one) for one in chance]
    return torch.stack([one[rows.to(one.device)] for one, rows in zip(outputs, order, strict=True)])


def _generators(outputs: Tensor, seeds: Sequence[int], purpose: str) -> list[torch.Generator]:
    """Return each seed's own source of chance; raise ``ValueError`` unless there is a seed per teacher."""
    if len(seeds) != len(outputs):
        raise ValueError(f"seeds: expected {len(outputs)}, one per teacher, got {len(seeds)}")
    return [torch.Generator().manual_seed(stream(seed, purpose)) for seed in seeds]
