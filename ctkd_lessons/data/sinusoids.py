"""Sine waves to regress: a task is a wave, and a few of its points are all that a learner sees.

Amplitude and phase are uniform, as in Finn, Abbeel & Levine 2017, "Model-Agnostic Meta-Learning for Fast
Adaptation of Deep Networks", section 5.1: y = a · sin(x − φ), a in [0.1, 5], φ in [0, π], x in [−5, 5].
The points carry no noise.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ctkd_lessons import expect
from ctkd_lessons.seeds import course_seeds, stream

AMPLITUDES = (0.1, 5.0)
PHASES = (0.0, math.pi)
REACH = 5.0  # x lies in [−REACH, REACH]


@dataclass(frozen=True)
class Waves:
    """T tasks with n points each, or S × T of several seeds; all float32.

    ``x``, ``y``: (…, T, n, 1); ``amplitudes``, ``phases``: (…, T), phases in radians.
    """

    x: Tensor
    y: Tensor
    amplitudes: Tensor
    phases: Tensor


def draw(
    tasks: int,
    points: int,
    seeds: int | Sequence[int] = 10,
    *,
    part: str = "train",
    amplitudes: tuple[float, float] = AMPLITUDES,
    phases: tuple[float, float] = PHASES,
) -> Waves:
    """Draw ``tasks`` waves for each seed, (S, T, …), and ``points`` places on each.

    ``part`` names a random stream of its own, such as "test"; ``amplitudes``, ``phases``: the ends of the
    ranges, phases in radians. Same arguments, same waves. Raises ``ValueError``/``TypeError`` for anything else.
    """
    expect.count("tasks", tasks)
    expect.count("points", points)
    if not isinstance(part, str):
        raise TypeError(f'part: expected a name such as "test", got {part!r}')
    _expect_range("amplitudes", amplitudes, low=0)
    _expect_range("phases", phases)
    chances = [torch.Generator().manual_seed(stream(seed, f"waves {part}")) for seed in course_seeds(seeds)]
    a, p = (
        low + (high - low) * torch.stack([torch.rand(tasks, generator=chance) for chance in chances])
        for low, high in (amplitudes, phases)
    )
    x = REACH * (2 * torch.stack([torch.rand(tasks, points, 1, generator=chance) for chance in chances]) - 1)
    return Waves(x, wave(x, a, p), a, p)


def wave(x: Tensor, amplitudes: Tensor, phases: Tensor) -> Tensor:
    """Return a · sin(x − φ). ``x``: (…, T, n, 1); ``amplitudes``, ``phases``: (…, T)."""
    return amplitudes[..., None, None] * torch.sin(x - phases[..., None, None])


def _expect_range(name: str, ends: tuple[float, float], **bounds: float) -> None:
    if not isinstance(ends, (tuple, list)) or len(ends) != 2:
        raise TypeError(f"{name}: expected the two ends of a range, got {ends!r}")
    for end in ends:
        expect.number(name, end, **bounds)
    if ends[0] > ends[1]:
        raise ValueError(f"{name}: expected the lower end first, got {ends!r}")
