"""Domains made of another: the same digits inverted, blurred, noisy, with thicker or thinner strokes.

Each kind has a strength from 0, the images as they are, to 1. A strength is one and the same change for
handwritten and for printed digits of one size. In larger images a blur grows with the side; noise stays
a matter of single pixels, and strokes grow and shrink by one pixel.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ctkd_lessons import expect
from ctkd_lessons.seeds import stream
from ctkd_lessons.threads import one_thread


def changed(images: Tensor, kind: str, strength: float, *, seed: int = 0) -> Tensor:
    """Return images of another domain.

    ``images``: (…, side²) in [0, 1]; ``kind``: a key of ``KINDS``; ``strength``: in [0, 1]; ``seed``:
    where noise comes from, the same for every strength. Returns the same shape, in [0, 1].
    Raises ``ValueError``/``TypeError`` for another kind (names those there are), size or range.
    """
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    expect.number("strength", strength, low=0, high=1)
    expect.count("seed", seed, low=0)
    expect.logits("images", images)
    side = math.isqrt(images.shape[-1])
    if side**2 != images.shape[-1]:
        raise ValueError(f"images: expected square images, flat, (…, side²), got shape {tuple(images.shape)}")
    expect.true(
        (images >= 0) & (images <= 1), "images: expected pixels from 0 to 1, got others; divide by the largest?"
    )
    if strength == 0:
        return images.clone()
    with one_thread():
        pixels = KINDS[kind](images.reshape(-1, 1, side, side), strength, stream(seed, f"{kind} images"))
    return pixels.clamp(0, 1).reshape(images.shape)


def _inverted(images: Tensor, strength: float, seed: int) -> Tensor:
    """Mix with the negative: at one half all pixels are equally grey, at 1 ink is paper and paper ink."""
    return (1 - strength) * images + strength * (1 - images)


def _blurred(images: Tensor, strength: float, seed: int) -> Tensor:
    """Blur with a Gaussian, at full strength one eighth of the side wide."""
    side = images.shape[-1]
    width = max(strength * side / 8, 1e-3)  # narrower, its square may be zero: then each pixel would be 0 / 0
    places = torch.arange(side, dtype=images.dtype, device=images.device)
    weights = (-(places.unsqueeze(1) - places).square() / (2 * width**2)).exp()  # row: where each pixel takes from
    weights = weights / weights.sum(dim=1, keepdim=True)
    return weights @ images @ weights.T


def _noisy(images: Tensor, strength: float, seed: int) -> Tensor:
    """Add normal noise, at full strength with a standard deviation of one half."""
    chance = torch.Generator().manual_seed(seed)
    noise = torch.randn(images.shape, generator=chance).to(images)
    return images + strength / 2 * noise


def _thick(images: Tensor, strength: float, seed: int) -> Tensor:
    """Mix with the darkest of a pixel and its four neighbours."""
    darkest = torch.maximum(
        F.max_pool2d(images, (3, 1), stride=1, padding=(1, 0)), F.max_pool2d(images, (1, 3), stride=1, padding=(0, 1))
    )
    return (1 - strength) * images + strength * darkest


def _thin(images: Tensor, strength: float, seed: int) -> Tensor:
    """Mix with the lightest of a pixel and its four neighbours."""
    return 1 - _thick(1 - images, strength, seed)


KINDS: dict[str, Callable[[Tensor, float, int], Tensor]] = {
    "inverted": _inverted,
    "blurred": _blurred,
    "noisy": _noisy,
    "thick": _thick,
    "thin": _thin,
}
