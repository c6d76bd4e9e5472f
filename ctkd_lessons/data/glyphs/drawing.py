"""Printed characters, drawn from the fonts that ship inside matplotlib: no file is downloaded.

A character is kept as a *signed distance field*: for each place, how far it is from the edge of the
ink, positive inside. Slant, size and place are a change of coordinates; the width of the strokes is the
distance at which ink begins. So all images are drawn at once, sharp at every size.

Fonts: DejaVu Sans, Sans Mono and Serif, and STIXGeneral, in their styles. Others in the folder answer
some characters with another glyph: ``cmsy10`` shows a prime for "0".
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.ft2font import FT2Font, LoadFlags
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from ctkd_lessons import expect
from ctkd_lessons.seeds import course_seeds, stream
from ctkd_lessons.threads import one_thread

DIGITS = "0123456789"
_FOLDER = Path(mpl.get_data_path(), "fonts", "ttf")
_TEXT_FONT = re.compile(r"(DejaVu(Sans|SansMono|Serif)(-\w+)?|STIXGeneral\w*)")
_INK = 64  # pixels: the larger side of a character while its field is measured …
_CANVAS = 96  # … on a canvas of this side; the field is kept at half of this resolution
_FILL = 0.85  # the larger side of a character takes this share of an image
_FINE = 32  # an image is drawn at least this fine, then averaged down to its side
# How much an image may be turned (radians), slanted, stretched across and along, moved right and down
# (half sides), and its strokes widened on either side (heights of the character).
_FORM = (0.21, 0.3, 0.15, 0.15, 0.12, 0.12, 0.025)
_THINNEST = 0.8  # strokes lose at most this share of the widest one, or an image could be empty
_CHUNK = 2000  # images at a time: what fits into a processor's cache is drawn faster


@dataclass(frozen=True)
class Glyphs:
    """n drawn characters, or S × n of several seeds.

    ``images``: (…, n, side²), float32 in [0, 1], 1 is ink; ``labels``: (…, n), int64, places in
    ``characters``; ``fonts``: (…, n), int64, places in ``fonts()``; ``characters``: what was asked for.
    """

    images: Tensor
    labels: Tensor
    fonts: Tensor
    characters: str


@cache
def fonts() -> tuple[str, ...]:
    """Return the names of the fonts in use, in alphabetical order."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.ttf") if _TEXT_FONT.fullmatch(path.stem)))


def fonts_with(character: str) -> tuple[int, ...]:
    """Return which fonts hold a character, as places in ``fonts()``.

    Of fonts that draw it alike to the pixel, the first. Raises ``ValueError`` if no font holds it, or if
    it is more than one character, or nothing but space.
    """
    if not isinstance(character, str) or len(character) != 1:
        raise ValueError(f"character: expected one character, got {character!r}")
    drawable = _fonts_with(character)
    if not drawable:
        raise ValueError(
            f"character: expected one that a font of {', '.join(fonts())} can draw, got {character!r} "
            f"(U+{ord(character):04X})"
        )
    return drawable


def render(characters: str, count: int, *, seed: int, side: int = 16, variation: float = 1.0) -> Glyphs:
    """Draw ``count`` images: as many of each character as of any other, give or take one, in shuffled order.

    Each image draws its font among those that hold the character, and its form: turned by up to 12°,
    slanted by up to 0.3, up to 15 % wider, narrower, higher or lower, moved by up to 6 % of the side,
    strokes wider or thinner by up to 5 % of the height but never gone; all times ``variation``, from 0 to 3.

    ``characters``: distinct; ``seed``: an integer of 0 or more; ``side``: pixels, 4 to 64. Same arguments, same images.
    Raises ``ValueError``/``TypeError`` for anything else, naming a character that no font has.
    """
    if not isinstance(characters, str) or not characters or len(set(characters)) < len(characters):
        raise ValueError(f"characters: expected a text of distinct characters, got {characters!r}")
    expect.count("count", count)
    expect.count("seed", seed, low=0)
    expect.count("side", side, low=4, high=64)
    expect.number("variation", variation, low=0, high=3)
    chance = torch.Generator().manual_seed(stream(seed, "glyphs"))
    labels = torch.arange(count)[torch.randperm(count, generator=chance)] % len(characters)
    luck = torch.rand(count, generator=chance)
    drawable = [fonts_with(one) for one in characters]
    places = [drawable[label][int(u * len(drawable[label]))] for label, u in zip(labels.tolist(), luck, strict=True)]
    pairs = list(zip(labels.tolist(), places, strict=True))  # which character in which font
    kinds = {pair: number for number, pair in enumerate(sorted(set(pairs)))}
    fields = torch.stack([_field(characters[label], place) for label, place in kinds])
    which = torch.tensor([kinds[pair] for pair in pairs])
    form = variation * torch.tensor(_FORM) * (2 * torch.rand(count, 7, generator=chance) - 1)
    with one_thread():
        drawn = [
            _draw(fields, rows, numbers, side)
            for rows, numbers in zip(which.split(_CHUNK), form.split(_CHUNK), strict=True)
        ]
    return Glyphs(torch.cat(drawn), labels, torch.tensor(places), characters)


def printed_digits(
    count: int, seeds: int | Sequence[int] = 10, *, part: str = "train", side: int = 8, variation: float = 1.0
) -> Glyphs:
    """Draw ``count`` printed digits for each seed, (S, n, …); ``part`` names a stream of its own."""
    each = [
        render(DIGITS, count, seed=stream(seed, f"printed {part}"), side=side, variation=variation)
        for seed in course_seeds(seeds)
    ]
    return Glyphs(
        *(torch.stack([getattr(one, name) for one in each]) for name in ("images", "labels", "fonts")), DIGITS
    )


def _draw(fields: Tensor, which: Tensor, form: Tensor, side: int) -> Tensor:
    """Draw images (n, side²) of the fields (F, h, h) at the places ``which`` (n,), in the given ``form`` (n, 7)."""
    turn, slant, width, height, right, down, stroke = form.T
    stroke = stroke.maximum(-_THINNEST * fields.flatten(1).amax(dim=1)[which])
    cos, sin, one, zero = turn.cos(), turn.sin(), torch.ones_like(turn), torch.zeros_like(turn)
    turned = torch.stack([cos, -sin, sin, cos], dim=1).view(-1, 2, 2)
    slanted = torch.stack([one, -slant, zero, one], dim=1).view(-1, 2, 2)
    stretched = torch.diag_embed(torch.stack([1 + width, 1 + height], dim=1))
    # Of each place on the canvas we ask where in the field it comes from: the inverse of what the form does.
    back = torch.linalg.inv(turned @ slanted @ stretched) * (_INK / _CANVAS / _FILL)
    back = torch.cat([back, -back @ torch.stack([right, down], dim=1).unsqueeze(2)], dim=2)
    fine = side * -(-_FINE // side)
    grid = F.affine_grid(back, [len(back), 1, fine, fine], align_corners=False)
    distance = F.grid_sample(fields[which].unsqueeze(1), grid, padding_mode="border", align_corners=False)
    ink = 0.5 + (distance + stroke.view(-1, 1, 1, 1)) * (_FILL * fine)  # from 0 to 1 within a fine pixel
    return F.avg_pool2d(ink.clamp(0, 1), fine // side).flatten(1)


@cache
def _fonts_with(character: str) -> tuple[int, ...]:
    different: dict[bytes, int] = {}
    for place in range(len(fonts())):
        field = _field(character, place)
        if field is not None:
            different.setdefault(field.numpy().tobytes(), place)
    return tuple(different.values())


@cache
def _field(character: str, place: int) -> Tensor | None:
    """Return how far each place is from the ink's edge, (48, 48), in heights of the character; none without ink."""
    first = _ink(character, place, _INK)
    if first is None:
        return None
    ink = _ink(character, place, _INK * _INK / max(first.shape))  # now its larger side is _INK, but for rounding
    above, left = ((_CANVAS - size) // 2 for size in ink.shape)
    canvas = np.zeros((_CANVAS, _CANVAS), dtype=bool)
    canvas[above : above + ink.shape[0], left : left + ink.shape[1]] = ink
    # A pixel's centre is half a pixel nearer to the edge than the next pixel's centre on the other side.
    distance = distance_transform_edt(canvas) - distance_transform_edt(~canvas)
    distance = torch.from_numpy(distance - np.sign(distance) / 2).float() / _INK
    with one_thread():
        return F.avg_pool2d(distance.unsqueeze(0), 2)[0]


def _ink(character: str, place: int, size: float) -> np.ndarray | None:
    """Return where a font puts ink, cut to the ink's own box; none if it lacks the character or draws nothing."""
    font = _open(place)
    if not font.get_char_index(ord(character)):
        return None
    font.set_size(size, 72)
    font.set_text(character, 0, flags=LoadFlags.NO_HINTING)
    font.draw_glyphs_to_bitmap(antialiased=True)
    ink = np.asarray(font.get_image()) > 127
    rows, columns = ink.any(axis=1).nonzero()[0], ink.any(axis=0).nonzero()[0]
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if len(rows) else None


@cache
def _open(place: int) -> FT2Font:
    return FT2Font(str(_FOLDER / f"{fonts()[place]}.ttf"))
