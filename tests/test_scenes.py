"""Scenes: what the generator promises, checked picture by picture and against a slow loop."""

import math
import time
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctkd_lessons.data import digits, scenes
from ctkd_lessons.data.scenes import CLUTTER, boxes_of, compose

SOURCE = digits.load(1)
IMAGES, LABELS = SOURCE.images, SOURCE.labels
EVERY_SIDE = pytest.mark.parametrize("side", [8, 12, 16, 24])
EVERY_CLUTTER = pytest.mark.parametrize("clutter", CLUTTER)


def drawn(count, height, seed=0, dtype=torch.float32):
    """Draw digits of another size: random ink on about half of the pixels, at least on one."""
    pixels = torch.rand(count, height**2, generator=torch.Generator().manual_seed(seed))
    pixels = torch.where(pixels > 0.5, pixels, 0)
    pixels[:, count % height**2] = 1
    return pixels.to(dtype)


def same(a, b):
    return all(torch.equal(getattr(a, field.name), getattr(b, field.name)) for field in fields(a))


def slow_box(mask):
    """Return the tight box of one mask, pixel by pixel."""
    filled = [(x, y) for y, row in enumerate(mask.tolist()) for x, value in enumerate(row) if value]
    xs, ys = zip(*filled, strict=True)
    return [min(xs), min(ys), max(xs) + 1, max(ys) + 1]


def pictures(found):
    return found.images.view(found.masks.shape)


def corners(found, images):
    """Return where the digits' squares begin: the box of the scene minus the box of the digit itself."""
    height = math.isqrt(images.shape[1])
    return (found.boxes - boxes_of(images[found.rows].view(-1, height, height) > 0))[:, :2].long()


# --- what every scene holds -------------------------------------------------------------------


@EVERY_SIDE
@EVERY_CLUTTER
def test_the_digit_stands_there_pixel_by_pixel(side, clutter):
    found = compose(IMAGES, LABELS, 60, side=side, clutter=clutter, seed=side)
    assert found.side == side
    assert found.images.shape == (60, side**2)
    assert torch.equal(found.labels, LABELS[found.rows])
    for picture, mask, box, (x, y), row in zip(
        pictures(found), found.masks, found.boxes, corners(found, IMAGES), found.rows, strict=True
    ):
        digit = IMAGES[row].view(8, 8)
        expected = torch.zeros(side, side, dtype=torch.bool)
        expected[y : y + 8, x : x + 8] = digit > 0
        assert torch.equal(mask, expected)
        assert torch.equal(picture[y : y + 8, x : x + 8][digit > 0], digit[digit > 0])
        assert box.tolist() == slow_box(mask)
        assert 0 <= x <= side - 8
        assert 0 <= y <= side - 8


def test_shapes_types_and_ranges():
    found = compose(IMAGES, LABELS, 7, side=12)
    assert (found.images.dtype, found.boxes.dtype, found.masks.dtype) == (torch.float32, torch.float32, torch.bool)
    assert found.labels.dtype == found.rows.dtype == torch.int64
    shapes = [tuple(getattr(found, field.name).shape) for field in fields(found)]
    assert shapes == [(7, 144), (7,), (7, 4), (7, 12, 12), (7,)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_images_keep_their_dtype(dtype):
    found, expected = compose(IMAGES.to(dtype), LABELS, 20, seed=1), compose(IMAGES, LABELS, 20, seed=1)
    assert found.images.dtype == dtype
    assert torch.equal(found.images.float(), expected.images)  # multiples of 1/32: exact in every dtype
    assert torch.equal(found.boxes, expected.boxes)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 9), st.integers(0, 7), st.integers(1, 30), st.sampled_from(list(CLUTTER)), st.integers(0, 2**20))
def test_digits_of_other_sizes(height, room, count, clutter, seed):
    images = drawn(11, height, seed)
    side = height + room
    found = compose(images, torch.arange(11) % 10, count, side=side, clutter=clutter, seed=seed)
    mask, picture = found.masks, pictures(found)
    assert picture.min() >= 0
    assert picture.max() <= 1
    assert torch.equal(mask.flatten(1).sum(1), (images[found.rows] > 0).sum(1))
    for one, ink, row, box in zip(picture, mask, found.rows, found.boxes, strict=True):
        assert torch.equal(one[ink], images[row][images[row] > 0])  # the digit's ink, in its own order
        assert box.tolist() == slow_box(ink)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 3), max_size=2), st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**20))
def test_boxes_are_tight(batch, height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(*batch, height, width, generator=generator) > 0.8
    masks[..., seed % height, seed % width] = True
    boxes = boxes_of(masks)
    assert boxes.dtype == torch.float32
    assert boxes.shape == (*batch, 4)
    expected = [slow_box(mask) for mask in masks.flatten(0, -3)] if batch else [slow_box(masks)]
    assert boxes.view(-1, 4).tolist() == expected


# --- where, which, how much clutter -----------------------------------------------------------


def test_every_position_is_reached_about_equally_often():
    found = compose(IMAGES, LABELS, 8100, side=16)
    x, y = corners(found, IMAGES).T
    counts = (9 * y + x).bincount(minlength=81)
    assert counts.min() > 50  # 100 expected, standard deviation 10
    assert counts.max() < 150


@pytest.mark.parametrize("count", [1, 5, 12, 13, 40])
def test_digits_take_turns(count):
    rows = torch.arange(3, 100, 8)  # 13 digits
    found = compose(IMAGES, LABELS, count, rows=rows)
    counts = found.rows.bincount(minlength=len(IMAGES))
    assert counts.sum() == count
    assert counts[rows].max() - counts[rows].min() <= 1
    if count == 12:
        assert not torch.equal(found.rows, found.rows.sort().values)
    if count == 40:  # each round in an order of its own
        assert not torch.equal(found.rows[:13], found.rows[13:26])


def outside(found):
    """Return the ink outside the digits."""
    return pictures(found)[~found.masks]


def test_levels_of_clutter():
    of = {name: compose(IMAGES, LABELS, 1000, clutter=name, seed=5) for name in CLUTTER}
    shares = {name: (outside(found) > 0).float().mean().item() for name, found in of.items()}
    assert shares["none"] == 0
    # 2, 4 and 4 crops of 16 pixels, four tenths of them ink or more, on 256 pixels.
    assert 0.05 < shares["little"] < 0.13 < shares["some"] < 0.26
    assert shares["some"] == shares["much"]
    assert outside(of["little"]).max() == outside(of["some"]).max() == 0.5
    assert outside(of["much"]).max() == 1
    assert torch.equal(2 * outside(of["some"]), outside(of["much"]))  # alike but for the darkness


@pytest.mark.parametrize("side", [8, 16, 24])
def test_density_of_clutter_is_that_of_the_area(side):
    # Digits that are ink all over: a lone crop covers 16 pixels, so k crops at most 16 k.
    full = torch.ones(5, 64)
    crops = round((side / 8) ** 2)
    background = scenes._background(full, 400, crops, side, torch.Generator().manual_seed(0))
    covered = background.sum(1)
    assert covered.max() <= 16 * crops
    assert covered.min() >= 16
    if crops > 1:
        assert covered.max() > 12 * crops  # and some strew them with little overlap
    assert (compose(full, torch.zeros(5).long(), 400, side=side).images > 0).sum(1).max() <= 64 + 16 * crops


def test_clutter_is_cropped_from_digits_square_by_square():
    # Pixels that number themselves show from where each came.
    digit = (torch.arange(64) + 1) / 64
    background = scenes._background(digit.unsqueeze(0), 300, 1, 16, torch.Generator().manual_seed(0)).view(-1, 16, 16)
    cuts, puts = set(), set()
    for canvas in background:
        x0, y0, x1, y1 = slow_box(canvas > 0)
        assert (x1 - x0, y1 - y0) == (4, 4)
        first = round(64 * canvas[y0, x0].item()) - 1
        cut_y, cut_x = divmod(first, 8)
        expected = digit.view(8, 8)[cut_y : cut_y + 4, cut_x : cut_x + 4]
        assert torch.equal(canvas[y0:y1, x0:x1], expected)
        cuts.add((cut_x, cut_y))
        puts.add((x0, y0))
    assert len(cuts) == 25  # every place of a digit
    assert {x for x, _ in puts} == {y for _, y in puts} == set(range(13))


def test_clutter_comes_from_many_digits_and_differs_from_scene_to_scene():
    found = compose(IMAGES, LABELS, 100, rows=torch.arange(1), clutter="much")
    assert len(found.images.unique(dim=0)) == 100
    shades = torch.linspace(0.1, 1, 10).unsqueeze(1).expand(10, 64).contiguous()
    background = scenes._background(shades, 500, 4, 16, torch.Generator().manual_seed(0))
    assert set(background.unique().tolist()) == {0.0, *shades[:, 0].tolist()}


# --- chance -----------------------------------------------------------------------------------


def test_same_seed_same_bits_whatever_came_before_and_with_any_threads():
    expected = compose(IMAGES, LABELS, 300, seed=3)
    torch.rand(17)
    chance, threads = torch.get_rng_state(), torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            assert same(compose(IMAGES, LABELS, 300, seed=3), expected)
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(chance, torch.get_rng_state())
    other = compose(IMAGES, LABELS, 300, seed=4)
    for name in ("images", "labels", "boxes", "rows"):
        assert not torch.equal(getattr(other, name), getattr(expected, name))


def test_one_thread_is_enough(monkeypatch):
    # Two threads that wait for a busy core take ten times as long.
    before, used, background = torch.get_num_threads(), [], scenes._background
    monkeypatch.setattr(scenes, "_background", lambda *all: used.append(torch.get_num_threads()) or background(*all))
    try:
        torch.set_num_threads(2)
        compose(IMAGES, LABELS, 5)
    finally:
        torch.set_num_threads(before)
    assert used == [1]


def test_inputs_are_left_unchanged():
    images, labels, rows = IMAGES.clone(), LABELS.clone(), torch.arange(9)
    compose(images, labels, 50, rows=rows, clutter="much").images.zero_()
    assert torch.equal(images, IMAGES)
    assert torch.equal(labels, LABELS)
    assert torch.equal(rows, torch.arange(9))


# --- parts ------------------------------------------------------------------------------------

SIZES = {"train": 1300, "validation": 370, "test": 400}


@pytest.fixture(scope="module")
def parts():
    return scenes.load(3, **SIZES)


def test_parts_have_their_shapes_and_are_composed_seed_by_seed(parts):
    source = digits.load(3)
    assert parts.seeds == source.seeds
    for name, count in SIZES.items():
        part = getattr(parts, name)
        assert part.images.shape == (3, count, 256)
        assert part.boxes.shape == (3, count, 4)
        assert part.masks.shape == (3, count, 16, 16)
        assert part.labels.shape == part.rows.shape == (3, count)
        assert part.side == 16
        for place, rows in enumerate(getattr(source, name)):
            assert set(part.rows[place].tolist()) == set(rows.tolist())  # all of this part, nothing else
            assert torch.equal(part.labels[place], source.labels[part.rows[place]])
    assert same(scenes.load(3, **SIZES).train, parts.train)
    alone = scenes.load([parts.seeds[2]], **SIZES).test
    assert torch.equal(alone.images[0], parts.test.images[2])
    assert not torch.equal(parts.test.images[0], parts.test.images[1])


@pytest.mark.parametrize("name", SIZES)
def test_no_part_holds_ink_of_another(name, parts, monkeypatch):
    source, before = digits.load(3), getattr(parts, name)

    def composed(images):
        monkeypatch.setattr(digits, "load", lambda seeds: replace(source, images=images))
        return getattr(scenes.load(3, **SIZES), name)

    for place, rows in enumerate(getattr(source, name)):
        own = torch.zeros(1797, 1, dtype=torch.bool)
        own[rows] = True
        # With all digits of other parts as black squares nothing in this part changes.
        after = composed(torch.where(own, source.images, 1))
        assert torch.equal(after.images[place], before.images[place])
        assert torch.equal(after.masks[place], before.masks[place])
        # With its own digits as black squares every scene does.
        assert (composed(torch.where(own, 1, source.images)).images[place] != before.images[place]).any(dim=1).all()


def test_the_variable_and_the_options_reach_the_scenes(monkeypatch):
    monkeypatch.setenv("CTKD_SEED", "7")
    found = scenes.load(2, train=5, validation=3, test=4, side=12, clutter="none")
    assert found.seeds == (7000, 7001)
    assert found.test.images.shape == (2, 4, 144)
    assert not pictures(found.train)[~found.train.masks].any()


def test_some_of_the_scenes_of_each_seed(parts):
    some, alone = parts.test.take(3, 8), compose(IMAGES, LABELS, 9)
    assert torch.equal(some.images, parts.test.images[:, 3:8])
    assert all(torch.equal(getattr(some, one.name), getattr(parts.test, one.name)[:, 3:8]) for one in fields(some))
    assert same(alone.take(0, 9), alone)
    assert torch.equal(alone.take(8, 9).masks, alone.masks[8:])


def test_thousands_of_scenes_take_no_time():
    start = time.perf_counter()
    compose(IMAGES, LABELS, 5000)
    first = time.perf_counter() - start
    start = time.perf_counter()
    compose(IMAGES, LABELS, 5000, side=24, clutter="much")
    assert min(first, time.perf_counter() - start) < 2  # a loop over the images takes longer; `make bench` has the bar


# --- bad input --------------------------------------------------------------------------------

FEW, CLASSES = IMAGES[:5], LABELS[:5]
ROW = torch.tensor([0])


@pytest.mark.parametrize(
    ("call", "error", "names"),
    [
        (lambda: compose(FEW, CLASSES, 3, side=7), ValueError, "side: expected at least the digit's 8 pixels, got 7"),
        (lambda: compose(FEW, CLASSES, 3, side=16.0), TypeError, "side: expected an int, got float"),
        (lambda: compose(FEW, CLASSES, 0), ValueError, "count: expected at least 1, got 0"),
        (lambda: compose(FEW, CLASSES, True), TypeError, "count: expected an int, got bool"),
        (lambda: compose(FEW, CLASSES, 3, clutter="lots"), ValueError, "clutter: expected one of .*'much'.*'lots'"),
        (lambda: compose(FEW[:, :60], CLASSES, 3), ValueError, r"images: expected flat squares .*got .*\(5, 60\)"),
        (lambda: compose(FEW.view(5, 8, 8), CLASSES, 3), ValueError, r"images: expected 2 axes .*got .*\(5, 8, 8\)"),
        (lambda: compose(FEW.tolist(), CLASSES, 3), TypeError, "images: expected a torch.Tensor, got list"),
        (lambda: compose(FEW.long(), CLASSES, 3), TypeError, "images: expected a floating dtype, got torch.int64"),
        (lambda: compose(16 * FEW, CLASSES, 3), ValueError, r"images: expected values in \[0, 1\]"),
        (lambda: compose(-FEW, CLASSES, 3), ValueError, r"images: expected values in \[0, 1\]"),
        (lambda: compose(FEW * torch.nan, CLASSES, 3), ValueError, "images: expected finite values"),
        (lambda: compose(FEW * 0, CLASSES, 3), ValueError, "images: expected ink in every digit, got an empty one"),
        (lambda: compose(FEW[:0], CLASSES[:0], 3), ValueError, "images: expected no axis of size zero"),
        (lambda: compose(FEW, CLASSES[:4], 3), ValueError, r"labels: expected shape \(5,\), got \(4,\)"),
        (lambda: compose(FEW, CLASSES + 9, 3), ValueError, "labels: expected classes 0 to 9, got 9 to 13"),
        (lambda: compose(FEW, CLASSES.float(), 3), TypeError, "labels: expected an integer dtype"),
        (lambda: compose(FEW, CLASSES, 3, rows=[0]), TypeError, "rows: expected an int64 tensor, got list"),
        (lambda: compose(FEW, CLASSES, 3, rows=ROW.int()), TypeError, "rows: expected an int64 tensor, got .*int32"),
        (lambda: compose(FEW, CLASSES, 3, rows=ROW[:0]), ValueError, r"rows: expected at least one .*got shape \(0,\)"),
        (lambda: compose(FEW, CLASSES, 3, rows=ROW[None]), ValueError, r"rows: expected .*got shape \(1, 1\)"),
        (lambda: compose(FEW, CLASSES, 3, rows=ROW + 5), ValueError, "rows: expected row numbers 0 to 4, got others"),
        (lambda: compose(FEW, CLASSES, 3, rows=ROW - 1), ValueError, "rows: expected row numbers 0 to 4, got others"),
        (lambda: boxes_of(FEW), TypeError, "masks: expected a boolean tensor, got torch.float32"),
        (lambda: boxes_of(None), TypeError, "masks: expected a boolean tensor, got NoneType"),
        (lambda: boxes_of(FEW[0] > 0), ValueError, r"masks: expected shape \(…, H, W\), got \(64,\)"),
        (lambda: boxes_of(FEW > 1), ValueError, "masks: expected at least one true pixel in each, got an empty one"),
        (lambda: compose(FEW, CLASSES, 3).take(-1, 2), ValueError, "start: expected 0 to 2, got -1"),
        (lambda: compose(FEW, CLASSES, 3).take(2, 2), ValueError, "stop: expected 3 to 3, got 2"),
        (lambda: compose(FEW, CLASSES, 3).take(0, 4), ValueError, "stop: expected 1 to 3, got 4"),
        (lambda: scenes.load(1, train=0), ValueError, "train: expected at least 1, got 0"),
        (lambda: scenes.load(1, validation=2.0), TypeError, "validation: expected an int, got float"),
        (lambda: scenes.load(1, test=-3), ValueError, "test: expected at least 1, got -3"),
        (lambda: scenes.load(0), ValueError, "seeds: expected 1 to 1000, got 0"),
        (lambda: scenes.load(1, train=2, side=6), ValueError, "side: expected at least the digit's 8 pixels, got 6"),
    ],
)  # fmt: skip
def test_bad_input_names_the_argument(call, error, names):
    with pytest.raises(error, match=names):
        call()
