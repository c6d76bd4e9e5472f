"""Printed characters: what the generator promises, and that every font draws what it is asked for."""

import hashlib
import subprocess
import sys
import time
from dataclasses import fields
from functools import cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, get_font
from matplotlib.patches import PathPatch
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D

from ctkd_lessons.data.glyphs import DIGITS, drawing, fonts, fonts_with, printed_digits, render

STYLES = {
    "DejaVuSans": ("", "-Bold", "-BoldOblique", "-Oblique"),
    "DejaVuSansMono": ("", "-Bold", "-BoldOblique", "-Oblique"),
    "DejaVuSerif": ("", "-Bold", "-BoldItalic", "-Italic"),
    "STIXGeneral": ("", "Bol", "BolIta", "Italic"),
}
NAMES = [family + style for family, styles in STYLES.items() for style in styles]
TWINS = "∑—|'"  # in some fonts bold or slanted as in others: the very same picture
SIDE = 16


def file_of(font):
    return str(Path(mpl.get_data_path(), "fonts", "ttf", f"{font}.ttf"))


def same(a, b):
    return all(torch.equal(getattr(a, one.name), getattr(b, one.name)) for one in fields(a)[:3])


def upright(character, place, side=SIDE):
    """Draw one character as it stands in the font, (side, side)."""
    field = drawing._field(character, place).unsqueeze(0)
    return drawing._draw(field, torch.tensor([0]), torch.zeros(1, 7), side).view(side, side).numpy()


@cache
def outlined(character, font, side=SIDE):
    """Draw one character another way: its outline, moved and scaled to the same box, filled by Agg."""
    path = TextPath((0, 0), character, size=100, prop=FontProperties(fname=file_of(font)))
    box = path.get_extents()
    scale = 0.85 * side / max(box.width, box.height)
    middle = (
        Affine2D().translate(-(box.x0 + box.x1) / 2, -(box.y0 + box.y1) / 2).scale(scale).translate(side / 2, side / 2)
    )
    figure = Figure(figsize=(1, 1), dpi=side)
    figure.add_artist(PathPatch(path.transformed(middle), transform=None, linewidth=0, color="black"))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return 1 - np.asarray(canvas.buffer_rgba())[..., 0] / 255


def likeness(a, b):
    return np.corrcoef(a.ravel(), b.ravel())[0, 1]


def read(image, without=None):
    """Return the digit whose outline, in any font but one, is most like the image."""
    known = [(digit, outlined(digit, font)) for font in NAMES if font != without for digit in DIGITS]
    return max(known, key=lambda one: likeness(one[1], image))[0]


# --- the fonts --------------------------------------------------------------------------------


def test_the_fonts_are_those_promised():
    assert list(fonts()) == NAMES


@pytest.mark.parametrize("font", NAMES)
def test_each_font_draws_the_outline_of_the_character(font):
    place = NAMES.index(font)
    for character in DIGITS + "AßЖ@W":
        drawn = upright(character, place)
        alike = likeness(drawn, outlined(character, font))
        assert alike > 0.93, character
        assert drawn.sum() == pytest.approx(outlined(character, font).sum(), rel=0.1), character
        others = [likeness(drawn, outlined(other, font)) for other in DIGITS if other != character]
        assert max(others) < alike - 0.05, character


@pytest.mark.parametrize("font", NAMES)
def test_each_font_draws_the_digit_it_is_asked_for(font):
    assert "".join(read(upright(digit, NAMES.index(font)), without=font) for digit in DIGITS) == DIGITS


def test_a_font_that_answers_with_another_glyph_would_be_found():
    assert sum(read(outlined(digit, "cmsy10")) == digit for digit in DIGITS) <= 3  # its "0" is a prime
    assert "".join(read(outlined(digit, "cmss10")) for digit in DIGITS) == DIGITS  # a font it never saw


@pytest.mark.parametrize("character", TWINS)
def test_twins_are_dropped_and_nothing_else(character):
    kept = fonts_with(character)
    assert len({upright(character, place, 32).tobytes() for place in kept}) == len(kept)
    holding = {NAMES.index(font) for font in NAMES if get_font(file_of(font)).get_char_index(ord(character))}
    dropped = holding - set(kept)
    assert dropped
    for place in dropped:  # for the first of its twins
        earlier = [outlined(character, NAMES[one], 32) for one in kept if one < place]
        assert max(likeness(one, outlined(character, NAMES[place], 32)) for one in earlier) > 0.999


def test_a_font_without_the_character_is_left_out():
    with_emoji = [NAMES[place] for place in fonts_with("😀")]
    assert with_emoji == ["DejaVuSans"]
    assert all(len(fonts_with(digit)) == len(NAMES) for digit in DIGITS)


# --- what every set of images holds -----------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.sampled_from(DIGITS + "AßЖ∑"), min_size=1, max_size=8, unique=True).map("".join),
    st.integers(1, 60),
    st.integers(4, 64),
    st.floats(0, 3),
    st.integers(0, 2**40),
)
def test_shapes_types_ranges_and_balance(characters, count, side, variation, seed):
    found = render(characters, count, seed=seed, side=side, variation=variation)
    assert found.images.shape == (count, side**2)
    assert found.labels.shape == found.fonts.shape == (count,)
    assert (found.images.dtype, found.labels.dtype, found.fonts.dtype) == (torch.float32, torch.int64, torch.int64)
    assert found.characters == characters
    assert 0 <= found.images.min() <= found.images.max() <= 1
    each = found.labels.bincount(minlength=len(characters))
    assert each.max() - each.min() <= 1
    for label, place in zip(found.labels.tolist(), found.fonts.tolist(), strict=True):
        assert place in fonts_with(characters[label])


def test_characters_come_in_shuffled_order_and_fonts_in_equal_shares():
    found = render(DIGITS, 16000, seed=0, side=4)
    follows = (found.labels[1:] == (found.labels[:-1] + 1) % 10).float().mean().item()
    assert follows == pytest.approx(0.1, abs=5 * (0.09 / 16000) ** 0.5)
    pairs = torch.stack([found.labels * 16 + found.fonts]).flatten().bincount(minlength=160)
    statistic = ((pairs - 100) ** 2 / 100).sum().item()  # chi-square, 150 degrees of freedom: labels come out even
    assert abs(statistic - 150) < 5 * 300**0.5


def test_the_digit_can_be_read_in_a_new_image():
    known, new = render(DIGITS, 2000, seed=1), render(DIGITS, 500, seed=2)
    nearest = torch.cdist(new.images, known.images).argmin(dim=1)
    assert (known.labels[nearest] == new.labels).float().mean() > 0.9


def fingerprint():
    found = render(DIGITS + "AßЖ∑", 2500, seed=5)
    return hashlib.sha256(found.images.numpy().tobytes() + found.labels.numpy().tobytes()).hexdigest()


def test_another_process_with_other_threads_draws_the_same():
    code = "import torch, test_glyphs; torch.set_num_threads(3); print(test_glyphs.fingerprint())"
    command = [sys.executable, "-c", code]
    there = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stdout
    assert there.strip() == fingerprint()


def test_no_other_chance_is_used_or_touched():
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    first = render(DIGITS, 50, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    torch.manual_seed(99)
    assert same(render(DIGITS, 50, seed=3), first)
    torch.set_rng_state(state)
    assert not torch.equal(render(DIGITS, 50, seed=4).images, first.images)


def test_images_are_the_same_in_chunks_of_any_size(monkeypatch):
    whole = render(DIGITS, 100, seed=1)
    monkeypatch.setattr(drawing, "_CHUNK", 7)
    assert torch.allclose(render(DIGITS, 100, seed=1).images, whole.images, rtol=0, atol=1e-6)


def test_a_smaller_image_is_the_larger_one_averaged():
    sizes = {side: render(DIGITS, 40, seed=1, side=side) for side in (4, 8, 16, 32)}
    for side, found in sizes.items():
        averaged = F.avg_pool2d(sizes[32].images.view(-1, 1, 32, 32), 32 // side).flatten(1)
        assert torch.allclose(found.images, averaged, rtol=0, atol=1e-6)


# --- the form ---------------------------------------------------------------------------------


def drawn(character, form, side=64, font="DejaVuSans-Bold"):
    field = drawing._field(character, NAMES.index(font)).unsqueeze(0)
    return drawing._draw(field, torch.zeros(len(form), dtype=torch.long), form, side).view(-1, side, side).double()


def moments(images):
    """Return the centre (n, 2) of the ink and its covariance (n, 2, 2), in half sides, right and down."""
    side = images.shape[-1]
    at = (torch.arange(side) + 0.5) * 2 / side - 1
    points = torch.stack(torch.meshgrid(at, at, indexing="xy"), dim=-1).view(-1, 2).double()
    weights = images.flatten(1) / images.flatten(1).sum(dim=1, keepdim=True)
    centre = weights @ points
    away = points - centre.unsqueeze(1)
    return centre, torch.einsum("np,npi,npj->nij", weights, away, away)


def form(**amounts):
    names = ("turn", "slant", "width", "height", "right", "down", "stroke")
    return torch.tensor([[amounts.get(name, 0.0) for name in names]])


def test_turned_slanted_stretched_and_moved_by_what_is_asked():
    chance = torch.Generator().manual_seed(0)
    forms = 0.6 * torch.tensor(drawing._FORM) * (2 * torch.rand(200, 7, generator=chance) - 1)  # nothing is cut off
    forms[:, 6] = 0
    centre, spread = moments(drawn("5", forms))
    (start,), (extent,) = moments(drawn("5", form()))
    for one, middle, covariance in zip(forms.double(), centre, spread, strict=True):
        turn, slant, width, height, right, down, _ = one.tolist()
        c, s = np.cos(turn), np.sin(turn)
        change = torch.tensor(np.array([[c, -s], [s, c]]) @ [[1, -slant], [0, 1]] @ np.diag([1 + width, 1 + height]))
        moved = torch.tensor([right, down], dtype=torch.float64)
        assert torch.allclose(middle, change @ start + moved, atol=0.005)  # a sixth of a pixel
        assert torch.allclose(covariance, change @ extent @ change.T, atol=0.02 * extent.max().item())


@pytest.mark.parametrize(("character", "axis"), [("|", 0), ("—", 1)])
def test_a_stroke_grows_on_both_sides_by_what_is_asked(character, axis):
    strokes = torch.linspace(-0.025, 0.025, 11)
    images = drawn(character, torch.cat([form(stroke=stroke) for stroke in strokes.tolist()]))
    middle = images[:, 32, :] if axis == 0 else images[:, :, 32]
    width = middle.sum(dim=1)
    assert torch.allclose(width - width[5], (2 * 0.85 * 64) * strokes.double(), atol=0.2)  # pixels


@pytest.mark.parametrize("font", ["DejaVuSans-Bold", "STIXGeneral"])
def test_wider_strokes_only_add_ink(font):
    strokes = torch.linspace(-0.035, 0.07, 15)
    for character in DIGITS:
        images = drawn(character, torch.cat([form(stroke=stroke) for stroke in strokes.tolist()]), font=font)
        assert (images[1:] >= images[:-1]).all()
        assert (images[1:].sum(dim=(1, 2)) > images[:-1].sum(dim=(1, 2))).all()


def test_no_image_is_empty():
    for seed in range(3):
        assert (render(DIGITS + TWINS, 2000, seed=seed, variation=3).images.amax(dim=1) > 0).all()
    hairline = drawn("—", form(stroke=-0.5), side=32, font="STIXGeneral")
    assert hairline.sum() > 1


def test_variation_zero_gives_one_image_per_character_and_font():
    characters = DIGITS + TWINS
    found = render(characters, 3000, seed=0, side=32, variation=0)
    pictures = {}
    for image, label, place in zip(found.images, found.labels.tolist(), found.fonts.tolist(), strict=True):
        pictures.setdefault((label, place), set()).add(image.numpy().tobytes())
    assert all(len(one) == 1 for one in pictures.values())
    distinct = set.union(*pictures.values())
    assert len(distinct) == len(pictures) == sum(len(fonts_with(one)) for one in characters)


def test_more_variation_is_further_away():
    still, *others = (render(DIGITS, 300, seed=0, variation=v).images for v in (0, 0.25, 0.5, 0.75, 1))
    distance = [(one - still).square().mean().item() for one in others]
    assert distance == sorted(set(distance))
    assert distance[0] > 0


@pytest.mark.parametrize("variation", [0.5, 1, 3])
def test_forms_fill_the_ranges_that_are_promised(variation, monkeypatch):
    seen = []
    draw = drawing._draw
    monkeypatch.setattr(drawing, "_draw", lambda f, which, form, side: seen.append(form) or draw(f, which, form, side))
    render(DIGITS, 10000, seed=0, side=4, variation=variation)
    forms = torch.cat(seen) / variation
    # 12 degrees, 0.3, 15 % twice, 6 % of the side twice, 5 % of the height in all
    promised = torch.tensor([np.deg2rad(12), 0.3, 0.15, 0.15, 2 * 0.06, 2 * 0.06, 0.05 / 2])
    assert (forms.abs().amax(dim=0) <= 1.01 * promised).all()
    assert (forms.amax(dim=0) > 0.98 * promised).all()
    assert (forms.amin(dim=0) < -0.98 * promised).all()
    assert ((forms / promised).mean(dim=0).abs() < 5 / (3 * 10000) ** 0.5).all()
    across = torch.corrcoef(forms.T) - torch.eye(7)
    assert across.abs().max() < 5 / 10000**0.5


def test_little_ink_is_cut_off(monkeypatch):
    """At variation 1 a wide or slanted character may reach beyond the image, but not by much."""
    seen = []
    draw = drawing._draw
    monkeypatch.setattr(drawing, "_draw", lambda *all_of: seen.append(all_of) or draw(*all_of))
    found = render(DIGITS, 2000, seed=0, side=32)
    ((at, which, forms, side),) = seen
    monkeypatch.setattr(drawing, "_FILL", drawing._FILL / 2)  # the same, in the middle of an image twice as wide
    whole = draw(at, which, forms * torch.tensor([1, 1, 1, 1, 0.5, 0.5, 1]), 2 * side).sum(dim=1)
    lost = 1 - found.images.sum(dim=1) / whole
    assert lost.mean() < 0.01
    assert (lost > 0.1).float().mean() < 0.01


# --- printed digits ---------------------------------------------------------------------------


def test_printed_digits_stack_the_seeds():
    found = printed_digits(30, 3)
    assert found.images.shape == (3, 30, 64)
    assert found.labels.shape == found.fonts.shape == (3, 30)
    assert found.characters == DIGITS
    assert (found.labels.view(-1, 30).sort(dim=1).values == torch.arange(10).repeat_interleave(3)).all()
    assert same(printed_digits(30, 3), found)
    assert torch.equal(printed_digits(30, [2]).images[0], found.images[2])


def test_seeds_and_parts_have_streams_of_their_own(monkeypatch):
    monkeypatch.delenv("CTKD_SEED", raising=False)
    found, other = printed_digits(30, 2), printed_digits(30, 2, part="test")
    every = torch.cat([found.images, other.images]).flatten(1)
    assert len(every.unique(dim=0)) == 4
    monkeypatch.setenv("CTKD_SEED", "7")
    assert torch.equal(printed_digits(30, 1).images, printed_digits(30, [7000]).images)
    assert not torch.equal(printed_digits(30, 1).images[0], found.images[0])


def test_side_and_variation_reach_the_images():
    assert printed_digits(10, 1, side=16).images.shape == (1, 10, 256)
    still = printed_digits(2000, 1, side=16, variation=0).images[0]
    assert len(still.unique(dim=0)) == 160


def test_thousands_of_characters_take_no_time():
    render(DIGITS, 10, seed=0)
    start = time.perf_counter()
    render(DIGITS, 10000, seed=0)
    assert time.perf_counter() - start < 6  # for a busy machine; `make bench` has the bar


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: render("", 5, seed=0), ValueError, "characters: expected a text of distinct characters, got ''"),
        (lambda: render("121", 5, seed=0), ValueError, "characters: expected a text of distinct .*got '121'"),
        (lambda: render(["1"], 5, seed=0), ValueError, r"characters: expected a text of distinct .*got \['1'\]"),
        (lambda: render("1 2", 5, seed=0), ValueError, r"character: .*DejaVuSans, .* can draw, got ' ' \(U\+0020\)"),
        (lambda: render("A한", 5, seed=0), ValueError, r"character: .* a font of .*draw, got '한' \(U\+D55C\)"),
        (lambda: render("\n", 5, seed=0), ValueError, r"character: .*got '\\n' \(U\+000A\)"),
        (lambda: render("\ud800", 5, seed=0), ValueError, r"character: .*got '\\ud800' \(U\+D800\)"),
        (lambda: fonts_with("ab"), ValueError, "character: expected one character, got 'ab'"),
        (lambda: fonts_with(""), ValueError, "character: expected one character, got ''"),
        (lambda: fonts_with(["a"]), ValueError, r"character: expected one character, got \['a'\]"),
        (lambda: fonts_with(7), ValueError, "character: expected one character, got 7"),
        (lambda: render("1", 0, seed=0), ValueError, "count: expected at least 1, got 0"),
        (lambda: render("1", 5.0, seed=0), TypeError, "count: expected an int, got float"),
        (lambda: render("1", True, seed=0), TypeError, "count: expected an int, got bool"),
        (lambda: render("1", 5, seed=-1), ValueError, "seed: expected at least 0, got -1"),
        (lambda: render("1", 5, seed=None), TypeError, "seed: expected an int, got NoneType"),
        (lambda: render("1", 5, seed=0, side=3), ValueError, "side: expected 4 to 64, got 3"),
        (lambda: render("1", 5, seed=0, side=65), ValueError, "side: expected 4 to 64, got 65"),
        (lambda: render("1", 5, seed=0, side=8.0), TypeError, "side: expected an int, got float"),
        (lambda: render("1", 5, seed=0, variation=-0.1), ValueError, "variation: expected a finite .*got -0.1"),
        (lambda: render("1", 5, seed=0, variation=3.1), ValueError, "variation: expected .*at most 3, got 3.1"),
        (lambda: render("1", 5, seed=0, variation=np.nan), ValueError, "variation: expected a finite .*got nan"),
        (lambda: render("1", 5, seed=0, variation="1"), TypeError, "variation: expected a Python number, got str"),
        (lambda: printed_digits(0), ValueError, "count: expected at least 1, got 0"),
        (lambda: printed_digits(5, 0), ValueError, "seeds: expected 1 to 1000, got 0"),
        (lambda: printed_digits(5, "3"), TypeError, "seeds: expected an int or a sequence of ints, got '3'"),
        (lambda: printed_digits(5, 1, side=2), ValueError, "side: expected 4 to 64, got 2"),
        (lambda: printed_digits(5, 1, variation=4), ValueError, "variation: expected .*at most 3, got 4"),
    ],
)  # fmt: skip
def test_bad_input_names_the_argument(call, error, words):
    with pytest.raises(error, match=words):
        call()
