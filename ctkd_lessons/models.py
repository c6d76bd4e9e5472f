"""The networks of the course: small enough for a laptop, plain enough to read."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from ctkd_lessons import expect


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Build linear layers with ReLU between them.

    ``sizes``: inputs, hidden widths, outputs, such as ``[64, 32, 10]``. Maps (B, sizes[0]) to
    (B, sizes[-1]). Raises ``ValueError`` for fewer than two sizes or a size below 1.
    """
    if len(sizes) < 2:
        raise ValueError(f"sizes: expected inputs, hidden widths and outputs, got {list(sizes)}")
    for size in sizes:
        expect.count("sizes", size)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def conv(channels: Sequence[int], outputs: int, side: int = 8) -> nn.Sequential:
    """Build 3 × 3 convolutions with ReLU, each but the first after a halving of the image.

    ``channels``: one entry per convolution; ``side``: image height and width. Maps flat images
    (B, side²) to (B, outputs). Raises ``ValueError`` if the image is halved below one pixel.
    """
    if not channels or side >> (len(channels) - 1) < 1:
        raise ValueError(f"channels: expected 1 to {side.bit_length()} entries for side {side}, got {list(channels)}")
    layers: list[nn.Module] = [nn.Unflatten(1, (1, side, side))]
    for depth, (inputs, width) in enumerate(pairwise([1, *channels])):
        expect.count("channels", width)
        layers += [nn.MaxPool2d(2)] * (depth > 0) + [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
    side_at_end = side >> (len(channels) - 1)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels[-1] * side_at_end**2, outputs))


def strided_conv(channels: Sequence[int], outputs: int, side: int = 8) -> nn.Sequential:
    """Build 2 × 2 convolutions of stride 2 with ReLU: each halves the image.

    Their patches don't overlap, so that stacked students (``fit`` with ``together=True``) are quick.
    ``channels``: one entry per convolution; ``side``: image height and width. Maps flat images
    (B, side²) to (B, outputs). Raises ``ValueError`` if the side cannot be halved so often.
    """
    if not channels or side % 2 ** len(channels):
        raise ValueError(f"channels: expected as many entries as side {side} can be halved, got {list(channels)}")
    layers: list[nn.Module] = [nn.Unflatten(1, (1, side, side))]
    for inputs, width in pairwise([1, *channels]):
        expect.count("channels", width)
        layers += [nn.Conv2d(inputs, width, 2, stride=2), nn.ReLU()]
    side_at_end = side // 2 ** len(channels)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels[-1] * side_at_end**2, outputs))
