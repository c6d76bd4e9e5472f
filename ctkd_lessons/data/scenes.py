"""Scenes: a real handwritten digit somewhere on a canvas, among crops of other digits.

One picture, three tasks: which digit (class), where (box), which pixels (mask). The digits are
those of ``data.digits``. Each part of a seed is composed from that part's digits alone, clutter
included: no digit seen in training turns up in a validation or test scene.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ctkd_lessons import expect
from ctkd_lessons.data import digits
from ctkd_lessons.seeds import stream
from ctkd_lessons.threads import one_thread

# Difficulty: how many crops of other digits per digit-sized area of the canvas, and how dark they are.
CLUTTER = {"none": (0.0, 0.0), "little": (0.5, 0.5), "some": (1.0, 0.5), "much": (1.0, 1.0)}
_FIELDS = ("images", "labels", "boxes", "masks", "rows")
_CROP = 4  # pixels: a quarter of a digit shows strokes, but is never a whole digit


@dataclass(frozen=True)
class Scenes:
    """Scenes with what is true of them. n scenes; those of several seeds have a leading axis S.

    ``images``: (…, n, side²), float32 in [0, 1]; ``labels``: (…, n), int64 in 0 … 9; ``boxes``:
    (…, n, 4), float32, (x0, y0, x1, y1) in pixels, x1 and y1 exclusive, tight around the digit's ink;
    ``masks``: (…, n, side, side), bool, the digit's ink; ``rows``: (…, n), int64, which digit it is.
    """

    images: Tensor
    labels: Tensor
    boxes: Tensor
    masks: Tensor
    rows: Tensor

    @property
    def side(self) -> int:
        """Height and width of the canvas in pixels."""
        return self.masks.shape[-1]

    def take(self, start: int, stop: int) -> "Scenes":
        """Return the scenes ``start`` … ``stop`` − 1 of each seed. Raises ``ValueError`` if there are none."""
        count = self.labels.shape[-1]
        expect.count("start", start, low=0, high=count - 1)
        expect.count("stop", stop, low=start + 1, high=count)
        rows = torch.arange(start, stop)
        axis = self.labels.ndim - 1
        return Scenes(*(getattr(self, field).index_select(axis, rows) for field in _FIELDS))


@dataclass(frozen=True)
class Parts:
    """Train, validation and test scenes of S seeds, each (S, n, …), and the seeds."""

    train: Scenes
    validation: Scenes
    test: Scenes
    seeds: tuple[int, ...]


def load(
    seeds: int | Sequence[int] = 10,
    *,
    train: int = 2000,
    validation: int = 500,
    test: int = 1000,
    side: int = 16,
    clutter: str = "some",
) -> Parts:
    """Compose scenes for each seed, every part from its own digits.

    ``train``, ``validation``, ``test``: scenes per seed; a digit appears in several, each time at
    another place in other clutter. ``side``, ``clutter``: as in ``compose``. Deterministic.
    Raises ``ValueError``/``TypeError`` as ``course_seeds`` and ``compose``.
    """
    source = digits.load(seeds)
    parts = []
    for name, count in {"train": train, "validation": validation, "test": test}.items():
        expect.count(name, count)
        own = [stream(seed, f"{name} scenes") for seed in source.seeds]  # or equal parts would share their layouts
        scenes = [
            compose(source.images, source.labels, count, rows=rows, seed=seed, side=side, clutter=clutter)
            for rows, seed in zip(getattr(source, name), own, strict=True)
        ]
        parts.append(Scenes(*(torch.stack([getattr(one, field) for one in scenes]) for field in _FIELDS)))
    return Parts(*parts, source.seeds)


@one_thread()
def compose(
    images: Tensor,
    labels: Tensor,
    count: int,
    *,
    rows: Tensor | None = None,
    seed: int = 0,
    side: int = 16,
    clutter: str = "some",
) -> Scenes:
    """Place ``count`` digits on canvases of ``side`` × ``side`` pixels, each in clutter of its own.

    ``images``: (m, h²), square digits, floating, in [0, 1]; ``labels``: (m,); ``rows``: the digits
    that may be used, as targets and as clutter, all m if left out; ``clutter``: a key of ``CLUTTER``.
    Every digit is used equally often, up to one. Clutter lies under the digit's ink, which is never
    hidden. Raises ``ValueError``/``TypeError`` if these do not fit together, for a digit without ink
    and for a canvas smaller than the digit.
    """
    height = _expect_digits(images, labels)
    expect.count("count", count)
    expect.count("side", side)
    if side < height:
        raise ValueError(f"side: expected at least the digit's {height} pixels, got {side}")
    if clutter not in CLUTTER:
        raise ValueError(f"clutter: expected one of {list(CLUTTER)}, got {clutter!r}")
    rows = torch.arange(len(images)) if rows is None else rows
    expect.rows("rows", rows, below=len(images))
    generator = torch.Generator().manual_seed(stream(seed, "scenes"))
    order = torch.cat([torch.randperm(len(rows), generator=generator) for _ in range(math.ceil(count / len(rows)))])
    chosen = rows[order[:count]]
    density, darkness = CLUTTER[clutter]
    crops = round(density * (side / height) ** 2)
    background = darkness * _background(images[rows], count, crops, side, generator)
    corners = torch.randint(side - height + 1, (count, 2), generator=generator)
    ink = torch.zeros(count, side * side, dtype=images.dtype)
    ink.scatter_(1, _pixels(corners, height, side), images[chosen])
    masks = (ink > 0).view(count, side, side)
    return Scenes(torch.where(ink > 0, ink, background), labels[chosen], boxes_of(masks), masks, chosen)


def boxes_of(masks: Tensor) -> Tensor:
    """Return the tight boxes around masks: (…, H, W) bool → (…, 4) float32, (x0, y0, x1, y1) in pixels.

    x1 and y1 are exclusive. Raises ``TypeError`` unless the masks are boolean and ``ValueError`` for
    an empty one, which has no box.
    """
    if not isinstance(masks, Tensor) or masks.dtype != torch.bool:
        raise TypeError(f"masks: expected a boolean tensor, got {getattr(masks, 'dtype', type(masks).__name__)}")
    if masks.ndim < 2:
        raise ValueError(f"masks: expected shape (…, H, W), got {tuple(masks.shape)}")
    expect.true(masks.flatten(-2).any(dim=-1), "masks: expected at least one true pixel in each, got an empty one")
    ends = []
    for across in (-2, -1):  # rows collapsed: x; columns collapsed: y
        filled = masks.any(dim=across).int()
        ends.append((filled.argmax(dim=-1), filled.shape[-1] - filled.flip(-1).argmax(dim=-1)))
    (x0, x1), (y0, y1) = ends
    return torch.stack([x0, y0, x1, y1], dim=-1).float()


def _background(digit_images: Tensor, count: int, crops: int, side: int, generator: torch.Generator) -> Tensor:
    """Strew ``crops`` pieces of random digits over each canvas: (count, side²)."""
    canvas = torch.zeros(count, side * side, dtype=digit_images.dtype)
    if not crops:
        return canvas
    height = math.isqrt(digit_images.shape[1])
    size = min(_CROP, height)
    who = torch.randint(len(digit_images), (count * crops, 1), generator=generator)
    cut = torch.randint(height - size + 1, (count * crops, 2), generator=generator)
    put = torch.randint(side - size + 1, (count * crops, 2), generator=generator)
    pieces = digit_images.flatten()[who * height**2 + _pixels(cut, size, height)]
    places = _pixels(put, size, side)
    return canvas.scatter_reduce_(1, places.view(count, -1), pieces.view(count, -1), "amax")


def _pixels(corners: Tensor, size: int, side: int) -> Tensor:
    """Return the flat pixel numbers of squares: corners (n, 2) as (x, y) → (n, size²), row by row."""
    steps = torch.arange(size)
    inside = (steps.unsqueeze(1) * side + steps).flatten()
    return corners[:, :1] + corners[:, 1:] * side + inside


def _expect_digits(images: Tensor, labels: Tensor) -> int:
    """Return the height of the digits; raise unless images and labels are as ``compose`` says."""
    expect.features("images", images, ndim=2)
    height = math.isqrt(images.shape[1])
    if height**2 != images.shape[1]:
        raise ValueError(f"images: expected flat squares (m, h²), got shape {tuple(images.shape)}")
    expect.true((images >= 0) & (images <= 1), "images: expected values in [0, 1]")
    expect.true((images > 0).any(dim=1), "images: expected ink in every digit, got an empty one")
    expect.labels("labels", labels, examples=len(images), classes=digits.CLASSES)
    return height
