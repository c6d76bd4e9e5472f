"""Domains made of another: each kind does what its name says, against slow loops and SciPy."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from ctkd_lessons.data import digits
from ctkd_lessons.data.domains import KINDS, changed

DIGITS = digits.load(1).images[:300]
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], dtype=bool)


def pictures(count, side, seed, dtype=torch.float64):
    return torch.rand(count, side**2, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def ink(images):
    return images.sum(dim=-1)


# --- what every kind holds --------------------------------------------------------------------


@EVERY_KIND
def test_strength_zero_changes_nothing_and_shares_nothing(kind):
    same = changed(DIGITS, kind, 0)
    assert torch.equal(same, DIGITS)
    assert same.data_ptr() != DIGITS.data_ptr()


@EVERY_KIND
@pytest.mark.parametrize("strength", [1e-300, 1e-30, 1e-9])
def test_next_to_zero_next_to_nothing_changes(kind, strength):
    assert (changed(DIGITS, kind, strength) - DIGITS).abs().max() <= 1e-8


@EVERY_KIND
@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 3), max_size=3), st.integers(1, 9), st.floats(0, 1), st.integers(0, 2**40))
def test_shape_range_and_each_image_by_itself(kind, batch, side, strength, seed):
    images = pictures(int(np.prod(batch)), side, seed % 1000).view(*batch, side**2)
    before = images.clone()
    found = changed(images, kind, strength, seed=seed)
    assert found.shape == images.shape
    assert found.dtype == images.dtype
    assert 0 <= found.min() <= found.max() <= 1
    assert torch.equal(images, before)
    flat = changed(images.reshape(-1, side**2), kind, strength, seed=seed)
    assert torch.equal(found.reshape(-1, side**2), flat)
    if kind != "noisy":
        alone = torch.stack([changed(one, kind, strength) for one in images.reshape(-1, side**2)])
        assert torch.allclose(flat, alone, rtol=0, atol=1e-12)


@EVERY_KIND
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_precisions_give_the_same_but_for_rounding(kind, dtype):
    found, exact = changed(DIGITS.to(dtype), kind, 0.6), changed(DIGITS.double(), kind, 0.6)
    assert found.dtype == dtype
    assert (found.double() - exact).abs().max() <= 2 * torch.finfo(dtype).eps


@EVERY_KIND
def test_a_stronger_change_is_further_away(kind):
    distance = [float((changed(DIGITS, kind, s) - DIGITS).square().mean()) for s in (0, 0.2, 0.4, 0.6, 0.8, 1)]
    assert distance == sorted(set(distance))


@EVERY_KIND
def test_same_arguments_same_images_and_no_other_chance_is_touched(kind):
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    first = changed(DIGITS, kind, 0.7, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    torch.manual_seed(99)
    assert torch.equal(changed(DIGITS, kind, 0.7, seed=3), first)
    torch.set_rng_state(state)


def fingerprint():
    images = torch.stack([changed(DIGITS, kind, 0.6, seed=5) for kind in KINDS])
    return hashlib.sha256(images.numpy().tobytes()).hexdigest()


def test_another_process_with_other_threads_draws_the_same():
    code = "import torch, test_domains; torch.set_num_threads(3); print(test_domains.fingerprint())"
    command = [sys.executable, "-c", code]
    there = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stdout
    assert there.strip() == fingerprint()


# --- each kind --------------------------------------------------------------------------------


def test_inverted_is_the_negative():
    assert torch.equal(changed(DIGITS, "inverted", 1), 1 - DIGITS)
    assert torch.equal(changed(changed(DIGITS, "inverted", 1), "inverted", 1), DIGITS)
    assert torch.equal(changed(DIGITS, "inverted", 0.5), torch.full_like(DIGITS, 0.5))
    assert torch.allclose(changed(DIGITS, "inverted", 0.25), 0.75 * DIGITS + 0.25 * (1 - DIGITS))


def slow_neighbours(image, best):
    """Return the best of each pixel and its four neighbours, pixel by pixel."""
    side = len(image)
    found = np.empty_like(image)
    for y in range(side):
        for x in range(side):
            near = [(y, x), (y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            found[y, x] = best(image[a, b] for a, b in near if 0 <= a < side and 0 <= b < side)
    return found


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 9), st.floats(0, 1), st.integers(0, 1000))
def test_thick_and_thin_are_the_slow_loop(side, strength, seed):
    images = pictures(2, side, seed)
    for kind, best in {"thick": max, "thin": min}.items():
        for image, found in zip(images, changed(images, kind, strength), strict=True):
            image = image.view(side, side).numpy()
            expected = (1 - strength) * image + strength * slow_neighbours(image, best)
            assert np.allclose(found.view(side, side), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("side", [8, 16])
def test_thick_and_thin_are_scipys_dilation_and_erosion(side):
    images = pictures(20, side, 1) if side == 16 else DIGITS[:20]
    for image, thick, thin in zip(images, changed(images, "thick", 1), changed(images, "thin", 1), strict=True):
        image = image.view(side, side).numpy()
        dilated = ndimage.grey_dilation(image, footprint=CROSS, mode="constant", cval=0)
        eroded = ndimage.grey_erosion(image, footprint=CROSS, mode="constant", cval=1)  # beyond the edge lies no paper
        assert np.array_equal(thick.view(side, side), dilated)
        assert np.allclose(thin.view(side, side), eroded, rtol=0, atol=1e-7)


@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_thick_adds_ink_to_every_digit_and_thin_takes_some(strength):
    thick, thin = changed(DIGITS, "thick", strength), changed(DIGITS, "thin", strength)
    assert (thick >= DIGITS).all()
    assert (thin <= DIGITS + 1e-6).all()
    assert (ink(thick) > (1 + 0.5 * strength) * ink(DIGITS)).all()
    assert (ink(thin) < (1 - 0.5 * strength) * ink(DIGITS)).all()
    assert torch.allclose(thin, 1 - changed(1 - DIGITS, "thick", strength), atol=1e-6)  # thin ink is thick paper


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 24), st.floats(0.01, 1), st.integers(0, 1000))
def test_blurred_is_scipys_gaussian_filter(side, strength, seed):
    images, width = pictures(2, side, seed), strength * side / 8
    options = {"sigma": width, "mode": "constant", "radius": side}
    weight = ndimage.gaussian_filter(np.ones((side, side)), **options)  # near the edge less than 1 lies inside
    for image, found in zip(images, changed(images, "blurred", strength), strict=True):
        expected = ndimage.gaussian_filter(image.view(side, side).numpy(), **options) / weight
        assert np.allclose(found.view(side, side), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("strength", [0.3, 0.6, 1.0])
def test_blurred_keeps_ink_and_paper_and_takes_contrast(strength):
    found = changed(DIGITS, "blurred", strength)
    assert ink(found).sum() / ink(DIGITS).sum() == pytest.approx(1, abs=0.05)
    assert (found.std(dim=1) < DIGITS.std(dim=1)).all()
    for even in (0.0, 0.3, 1.0):
        assert torch.allclose(changed(torch.full((1, 64), even), "blurred", strength), torch.tensor(even))


@pytest.mark.parametrize("side", [17, 33, 65])
def test_a_blur_is_the_same_share_of_any_side(side):
    point = torch.zeros(side, side, dtype=torch.float64)
    point[side // 2, side // 2] = 1
    found = changed(point.flatten(), "blurred", 0.4).view(side, side)
    away = torch.arange(side) - side // 2
    spread = [((found.sum(dim=axis) * away**2).sum() / found.sum()).sqrt() / side for axis in (0, 1)]
    assert np.allclose(spread, 0.4 / 8, rtol=1e-3)


def test_noise_is_normal_with_half_the_strength_as_deviation():
    grey = torch.full((2000, 64), 0.5)
    noise = (changed(grey, "noisy", 0.2, seed=1) - 0.5) / 0.1  # beyond ±5 deviations it would be cut
    assert noise.mean().item() == pytest.approx(0, abs=5 / 128000**0.5)
    assert noise.std().item() == pytest.approx(1, abs=5 / (2 * 128000) ** 0.5)
    assert (noise.abs() > 1.96).float().mean().item() == pytest.approx(0.05, abs=5 * (0.05 * 0.95 / 128000) ** 0.5)
    neighbours = (noise[:, 1:] * noise[:, :-1]).mean().item()
    assert neighbours == pytest.approx(0, abs=5 / 126000**0.5)
    assert (noise[1:] * noise[:-1]).mean().item() == pytest.approx(0, abs=5 / 127936**0.5)  # each image its own


def test_stronger_noise_is_the_same_noise():
    weak, strong = (changed(DIGITS, "noisy", strength, seed=2) for strength in (0.1, 0.3))
    inside = (weak > 0) & (weak < 1) & (strong > 0) & (strong < 1)
    assert inside.float().mean() > 0.3
    assert torch.allclose(3 * (weak - DIGITS)[inside], (strong - DIGITS)[inside], atol=1e-6)
    assert ((strong - DIGITS).abs() >= (weak - DIGITS).abs() - 1e-6).all()


def test_each_seed_has_noise_of_its_own():
    grey = torch.full((200, 64), 0.5)
    one, two = (changed(grey, "noisy", 0.2, seed=seed) - 0.5 for seed in (0, 1))
    correlation = (one * two).mean() / (one.std() * two.std())
    assert abs(correlation) < 5 / 12800**0.5
    for kind in set(KINDS) - {"noisy"}:
        assert torch.equal(changed(DIGITS, kind, 0.5, seed=0), changed(DIGITS, kind, 0.5, seed=1))


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: changed(DIGITS, "bent", 0.5), ValueError, f"kind: .* {', '.join(KINDS)}, got 'bent'"),
        (lambda: changed(DIGITS, None, 0.5), ValueError, "kind: expected one of inverted, .*, got None"),
        (lambda: changed(DIGITS, ["thin"], 0.5), ValueError, r"kind: expected one of inverted, .*, got \['thin'\]"),
        (lambda: changed(DIGITS, "thin", -0.1), ValueError, "strength: expected a finite number at least 0 .*-0.1"),
        (lambda: changed(DIGITS, "thin", 1.1), ValueError, "strength: expected a finite number .*at most 1, got 1.1"),
        (lambda: changed(DIGITS, "thin", float("nan")), ValueError, "strength: expected a finite number .*got nan"),
        (lambda: changed(DIGITS, "thin", "1"), TypeError, "strength: expected a Python number, got str"),
        (lambda: changed(DIGITS, "thin", True), TypeError, "strength: expected a Python number, got bool"),
        (lambda: changed(DIGITS, "noisy", 0.5, seed=-1), ValueError, "seed: expected at least 0, got -1"),
        (lambda: changed(DIGITS, "noisy", 0.5, seed="1"), TypeError, "seed: expected an int, got str"),
        (lambda: changed(DIGITS[:, :60], "thin", 0), ValueError, r"images: expected square .*got shape \(300, 60\)"),
        (lambda: changed(DIGITS.view(-1, 8, 8), "thin", 1), ValueError, r"images: expected square .*\(300, 8, 8\)"),
        (lambda: changed(255 * DIGITS, "thin", 0.5), ValueError, "images: expected pixels from 0 to 1, .*divide by"),
        (lambda: changed(255 * DIGITS, "thin", 0), ValueError, "images: expected pixels from 0 to 1"),
        (lambda: changed(DIGITS - 0.01, "thin", 0.5), ValueError, "images: expected pixels from 0 to 1"),
        (lambda: changed(DIGITS * torch.nan, "thin", 0.5), ValueError, "images: expected finite values, got nan"),
        (lambda: changed(DIGITS.long(), "thin", 0.5), TypeError, "images: expected a floating dtype, got torch.int64"),
        (lambda: changed(DIGITS.numpy(), "thin", 0.5), TypeError, "images: expected a torch.Tensor, got ndarray"),
        (lambda: changed(DIGITS[:0], "thin", 0.5), ValueError, r"images: .*got shape \(0, 64\)"),
        (lambda: changed(torch.tensor(0.5), "thin", 0.5), ValueError, r"images: .*got shape \(\)"),
    ],
)  # fmt: skip
def test_bad_input_names_the_argument(call, error, words):
    with pytest.raises(error, match=words):
        call()
