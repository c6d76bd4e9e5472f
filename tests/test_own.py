"""Your own images: both forms read right, and each wrong file answered with what is wrong about it."""

import io
import pickle
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ctkd_lessons.data import own

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8)).astype(np.uint8)
PIXELS[:, 0, :2] = 0, 255
LABELS = np.array([2, 0, 1, 2, 0, 1])
ONE = PIXELS[0]


def npz(folder, **arrays):
    path = folder / "mine.npz"
    np.savez(path, **arrays)
    return path


def with_images(folder, images):
    return npz(folder, images=images, labels=LABELS)


def with_labels(folder, labels):
    return npz(folder, images=PIXELS, labels=np.asarray(labels))


def classes(folder, **found):
    """Write one folder per class; each file is an array to save, or its bytes."""
    for name, files in found.items():
        (folder / name).mkdir()
        for file, content in files.items():
            path = folder / name / file
            path.write_bytes(content) if isinstance(content, bytes) else Image.fromarray(content).save(path)
    return folder


def second(folder, content, file="1.png"):
    """Write a folder whose second class holds what is tested."""
    return classes(folder, cat={"1.png": ONE}, dog={file: content})


def png(image, **options):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png", **options)
    return file.getvalue()


# --- what is right ----------------------------------------------------------------------------


def test_an_npz_is_read_as_it_is(tmp_path):
    found = own.load(npz(tmp_path, images=PIXELS, labels=LABELS))
    assert (found.images.dtype, found.labels.dtype) == (torch.float32, torch.int64)
    assert torch.equal(found.images, torch.from_numpy(PIXELS.reshape(6, 64)).float() / 255)
    assert found.labels.tolist() == LABELS.tolist()
    assert found.classes == ("0", "1", "2")


def test_a_folder_is_read_as_it_is(tmp_path):
    path = classes(
        tmp_path, dog={"b.png": PIXELS[2], "a.BMP": PIXELS[1]}, cat={"z.png": PIXELS[0]}, **{"10": {"1.png": ONE}}
    )
    found = own.load(path)
    assert found.classes == ("10", "cat", "dog")
    assert found.labels.tolist() == [0, 1, 2, 2]
    assert (found.images.dtype, found.labels.dtype) == (torch.float32, torch.int64)
    assert torch.equal(found.images, torch.from_numpy(PIXELS[[0, 0, 1, 2]].reshape(4, 64)).float() / 255)


def test_both_forms_give_the_same(tmp_path):
    by_class = {f"class {label}": {} for label in range(3)}
    for place in LABELS.argsort(kind="stable"):
        by_class[f"class {LABELS[place]}"][f"{place}.png"] = PIXELS[place]
    (tmp_path / "folder").mkdir()
    folder = own.load(classes(tmp_path / "folder", **by_class), side=4)
    order = LABELS.argsort(kind="stable")
    file = own.load(npz(tmp_path, images=PIXELS[order], labels=LABELS[order]), side=4)
    assert torch.equal(folder.images, file.images)
    assert torch.equal(folder.labels, file.labels)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f8", np.longdouble])
def test_floats_are_taken_as_they_are(tmp_path, dtype):
    values = (np.arange(6 * 64).reshape(6, 8, 8) % 33 / 32).astype(dtype)  # exact in every dtype
    found = own.load(with_images(tmp_path, values)).images
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.from_numpy(values.astype(np.float32).reshape(6, 64)))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, ">i4", np.uint64])
def test_labels_of_every_integer_type(tmp_path, dtype):
    found = own.load(with_labels(tmp_path, LABELS.astype(dtype)))
    assert found.labels.dtype == torch.int64
    assert found.labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize("name", ["mine.NPZ", "my images.npz"])
def test_a_path_may_be_text_and_the_suffix_large(tmp_path, name):
    path = npz(tmp_path, images=PIXELS, labels=LABELS).rename(tmp_path / name)
    assert torch.equal(own.load(str(path)).images, own.load(path).images)


def test_a_compressed_file_is_the_same(tmp_path):
    np.savez_compressed(tmp_path / "small.npz", images=PIXELS, labels=LABELS, more=np.arange(3))
    small, plain = own.load(tmp_path / "small.npz"), own.load(npz(tmp_path, images=PIXELS, labels=LABELS))
    assert torch.equal(small.images, plain.images)


def test_larger_images_are_averaged_and_smaller_ones_blown_up(tmp_path):
    path = npz(tmp_path, images=PIXELS, labels=LABELS)
    for image, small, large in zip(PIXELS, own.load(path, side=4).images, own.load(path, side=16).images, strict=True):
        means = [[image[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean() / 255 for x in range(4)] for y in range(4)]
        assert torch.allclose(small.view(4, 4), torch.tensor(means, dtype=torch.float32), atol=1e-6)
        assert torch.allclose(large.view(16, 16), torch.from_numpy(image.repeat(2, 0).repeat(2, 1)).float() / 255)


def test_images_of_several_sizes_come_to_one(tmp_path):
    plain = np.full((28, 28), 51, dtype=np.uint8)
    found = own.load(second(tmp_path, plain)).images
    assert found.shape == (2, 64)
    assert torch.allclose(found[1], torch.tensor(0.2))


def test_invert_turns_dark_ink_into_ones(tmp_path):
    path = npz(tmp_path, images=PIXELS, labels=LABELS)
    assert torch.equal(own.load(path, invert=True).images, 1 - own.load(path).images)


def test_colours_become_grey(tmp_path):
    red, white = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 4), 255, np.uint8)
    red[..., 0] = 255
    found = own.load(classes(tmp_path, red={"1.png": red}, white={"1.png": white})).images
    assert torch.allclose(found[0], torch.tensor(0.299), atol=1 / 255)  # the weight of red in ITU-R 601 luma
    assert torch.equal(found[1], torch.ones(64))  # opaque: its fourth channel hides nothing


def test_a_photo_stands_upright(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6  # "the camera lay on its side": shown turned by 90° clockwise
    found = own.load(second(tmp_path, png(ONE, exif=turned.tobytes()))).images[1]
    assert torch.equal(found.view(8, 8), torch.from_numpy(np.rot90(ONE, -1).copy()).float() / 255)


def test_hidden_and_other_files_are_passed_over(tmp_path):
    classes(tmp_path, cat={"1.png": ONE, "._1.png": b"junk", "notes.txt": b"a"}, dog={"1.png": ONE, "Thumbs.db": b"b"})
    classes(tmp_path, **{".git": {"1.png": b"junk"}})
    (tmp_path / "loose.png").write_bytes(b"junk")
    found = own.load(tmp_path)
    assert found.classes == ("cat", "dog")
    assert found.images.shape == (2, 64)


# --- what is wrong ----------------------------------------------------------------------------


class Trap:
    """An object that leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def zipped(folder, **members):
    with zipfile.ZipFile(folder / "mine.npz", "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return folder / "mine.npz"


def written(folder, content, name="mine.npz"):
    (folder / name).write_bytes(content)
    return folder / name


def part_of(folder, share):
    whole = npz(folder, images=PIXELS, labels=LABELS).read_bytes()
    return written(folder, whole[: int(share * len(whole))])


def overwritten(folder, at, save):
    save(folder / "mine.npz", images=PIXELS, labels=LABELS)
    whole = (folder / "mine.npz").read_bytes()
    return written(folder, whole[:at] + b"\xff" * 50 + whole[at + 50 :])


def array_file(folder):
    np.save(folder / "mine.npy", PIXELS)
    return (folder / "mine.npy").rename(folder / "mine.npz")


def spotted(value):
    images = PIXELS / 255
    images[3, 2, 2] = value
    return images


def bomb():
    """Return a few bytes that claim to be an image of 65,535 × 65,535 pixels."""
    file = io.BytesIO()
    Image.fromarray(ONE).save(file, "gif")
    return file.getvalue()[:6] + b"\xff" * 4 + file.getvalue()[10:]


def clear_png():
    ink = np.zeros((8, 8, 4), np.uint8)
    ink[2:6, 3, 3] = 255  # a black stroke on nothing
    return ink


FILES = {
    "text": (lambda f: written(f, b"1,2,3"), "expected a whole .npz file"),
    "empty": (lambda f: written(f, b""), "expected a whole .npz file"),
    "truncated": (lambda f: part_of(f, 0.5), "expected a whole .npz file"),
    "truncated by a little": (lambda f: part_of(f, 0.98), "expected a whole .npz file"),
    "a single array": (array_file, "expected a whole .npz file"),
    "spoilt": (lambda f: overwritten(f, 200, np.savez), r"cannot be read \(Bad CRC-32 for file 'images.npy'\)"),
    "spoilt, compressed": (lambda f: overwritten(f, 90, np.savez_compressed), "expected arrays .*cannot be read"),
    "no array inside": (lambda f: zipped(f, images="a", labels="b"), "images: expected an array.*another kind"),
    "other members": (lambda f: zipped(f, readme="a"), "expected arrays 'images' and 'labels', got readme"),
    "no labels": (lambda f: npz(f, images=PIXELS), "expected arrays 'images' and 'labels', got images"),
    "no images": (lambda f: npz(f, x=PIXELS, labels=LABELS), "expected arrays 'images' and 'labels', got labels, x"),
    "nothing": (lambda f: npz(f), "expected arrays 'images' and 'labels', got none"),
    "labels of another length": (lambda f: with_labels(f, LABELS[:5]), r"labels: .* image, \(6,\), got shape \(5,\)"),
    "labels in a column": (lambda f: with_labels(f, LABELS[:, None]), r"labels: expected one .*got shape \(6, 1\)"),
    "one label": (lambda f: with_labels(f, 3), r"labels: expected one per image, \(6,\), got shape \(\)"),
    "negative labels": (lambda f: with_labels(f, LABELS - 1), "labels: .*from 0 without a gap, got -1, 0, 1$"),
    "labels from 1": (lambda f: with_labels(f, LABELS + 1), "labels: .*from 0 without a gap, got 1, 2, 3$"),
    "a class missing": (lambda f: with_labels(f, LABELS + (LABELS == 2)), "labels: .*without a gap, got 0, 1, 3$"),
    "one class": (lambda f: with_labels(f, 0 * LABELS), "labels: expected at least two classes, .*got 0$"),
    "a huge label": (
        lambda f: with_labels(f, np.array([0, 1, 0, 1, 0, 2**64 - 1], dtype=np.uint64)),
        "labels: .*without a gap, got 0, 1, 18446744073709551615$",
    ),
    "too many labels to list": (
        lambda f: npz(f, images=np.repeat(PIXELS, 2, axis=0), labels=2 * np.arange(12)),
        "got 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, …$",
    ),
    "not square": (lambda f: with_images(f, PIXELS[:, :4]), r"images\[0\]: expected a square image, got 4 × 8"),
    "colours": (
        lambda f: with_images(f, PIXELS[..., None].repeat(3, axis=3)),
        r"images: expected grey images \(n, height, width\), got shape \(6, 8, 8, 3\)",
    ),
    "flat": (lambda f: with_images(f, PIXELS.reshape(6, 64)), r"images: expected grey images .*got shape \(6, 64\)"),
    "no image": (lambda f: npz(f, images=PIXELS[:0], labels=LABELS[:0]), r"images: expected .*got shape \(0, 8, 8\)"),
    "no pixel": (lambda f: with_images(f, PIXELS[:, :0, :0]), r"images: expected .*got shape \(6, 0, 0\)"),
    "floats to 255": (lambda f: with_images(f, PIXELS / 1.0), r"images\[0\]: expected finite .*0 to 1, got 0 to 255"),
    "below zero": (lambda f: with_images(f, PIXELS / 255 - 0.5), r"images\[0\]: .*0 to 1, got -0.5 to 0.5"),
    "a little above one": (lambda f: with_images(f, spotted(1.001)), r"images\[3\]: .*0 to 1, got .* to 1.001"),
    "not a number": (lambda f: with_images(f, spotted(np.nan)), r"images\[3\]: expected finite values"),
    "infinite": (lambda f: with_images(f, spotted(np.inf)), r"images\[3\]: expected finite values"),
}  # fmt: skip
TYPES = {
    "float labels": (lambda f: with_labels(f, LABELS / 1.0), "labels: expected integers, got float64"),
    "boolean labels": (lambda f: with_labels(f, LABELS > 0), "labels: expected integers, got bool"),
    "names as labels": (lambda f: with_labels(f, LABELS.astype(str)), "labels: expected integers, got <U"),
    "int64 images": (lambda f: with_images(f, PIXELS.astype(int)), r"images\[0\]: expected uint8 .*got int64"),
    "boolean images": (lambda f: with_images(f, PIXELS > 9), r"images\[0\]: expected uint8 .*got bool"),
    "complex images": (lambda f: with_images(f, PIXELS / 255 + 0j), r"images\[0\]: expected uint8 .*got complex128"),
}
FOLDERS = {
    "no class folder": (lambda f: classes(f), "expected at least two folders, one per class, got 0"),
    "one class folder": (lambda f: classes(f, cat={"1.png": ONE}), "expected at least two folders, .*got 1"),
    "images without a class": (lambda f: written(f, png(ONE), "1.png").parent, "at least two folders, .*got 0"),
    "an empty class": (lambda f: classes(f, cat={"1.png": ONE}, dog={}), "dog: expected images .*'dog', got none"),
    "another kind of file": (lambda f: second(f, b"II*", "1.tif"), r"dog: expected images \(.png, .*'dog', got none"),
    "hidden files alone": (lambda f: second(f, png(ONE), ".1.png"), "dog: expected images .*'dog', got none"),
    "text": (lambda f: second(f, b"hello"), "1.png: expected an image, got a file that cannot be read as one"),
    "no byte": (lambda f: second(f, b""), "1.png: expected an image, got a file that cannot be read as one"),
    "truncated": (lambda f: second(f, png(ONE.repeat(9, 0).repeat(9, 1))[:200]), "1.png: expected an image, .*truncat"),
    "huge": (lambda f: second(f, np.zeros((4097, 1), np.uint8)), "1.png: expected at most 4096 pixels .*1 × 4097"),
    "a bomb": (lambda f: second(f, bomb(), "1.gif"), "1.gif: expected an image, .*limit"),
    "not square": (lambda f: second(f, ONE[:6]), "1.png: expected a square image, got 6 × 8"),
    "sixteen bits": (lambda f: second(f, ONE.astype(np.uint16) * 257), "1.png: expected 8 bits a pixel, .*'I;16'"),
    "transparent": (lambda f: second(f, clear_png()), "1.png: expected an image without transparency"),
}


@pytest.mark.parametrize(("make", "words"), [*FILES.values(), *FOLDERS.values()], ids=[*FILES, *FOLDERS])
def test_a_wrong_file_is_told_what_is_wrong(make, words, tmp_path):
    path = make(tmp_path)
    with pytest.raises(ValueError, match=words) as caught:
        own.load(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(("make", "words"), TYPES.values(), ids=TYPES)
def test_a_wrong_type_is_told_what_is_wrong(make, words, tmp_path):
    path = make(tmp_path)
    with pytest.raises(TypeError, match=words) as caught:
        own.load(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("name", ["images", "labels"])
def test_no_pickled_object_is_opened(tmp_path, name):
    trap = np.array([Trap(tmp_path / "sprung")] * 6)
    assert trap.dtype == object
    path = npz(tmp_path, **({"images": PIXELS, "labels": LABELS} | {name: trap}))
    with pytest.raises(ValueError, match=r"mine.npz: expected arrays of plain numbers, .*[Oo]bject arrays"):
        own.load(path)
    assert not (tmp_path / "sprung").exists()
    with np.load(path, allow_pickle=True) as file:
        assert file[name] is not None
    assert (tmp_path / "sprung").exists()  # the trap was set


def test_no_pickle_that_calls_itself_npz_is_opened(tmp_path):
    path = written(tmp_path, pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(ValueError, match=r"expected a whole \.npz file"):
        own.load(path)
    assert not (tmp_path / "sprung").exists()


def test_a_file_that_claims_more_than_it_holds(tmp_path):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (10**7, 10**4, 10**4)})
    path = zipped(tmp_path, **{"images.npy": file.getvalue(), "labels.npy": b""})
    with pytest.raises(ValueError, match=r"mine.npz: expected arrays of plain numbers, got what cannot be read"):
        own.load(path)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4), st.booleans())
def test_a_damaged_file_is_read_or_named(tmp_path_factory, damage, as_png):
    folder = tmp_path_factory.mktemp("damaged")
    content = bytearray(png(ONE) if as_png else npz(folder, images=PIXELS, labels=LABELS).read_bytes())
    for place, value in damage:
        content[place % len(content)] = value
    path = second(folder, bytes(content)) if as_png else written(folder, bytes(content))
    try:
        with warnings.catch_warnings(action="ignore"):  # Pillow's, of a large size in the header
            found, words = own.load(path), ""
    except (ValueError, TypeError) as error:
        found, words = None, str(error)
    if found is None:
        assert words.startswith(str(path))
    else:
        assert found.images.shape == (2 if as_png else 6, 64)
        assert torch.isfinite(found.images).all()


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda f: own.load(f / "none.npz"), FileNotFoundError, "none.npz: there is no such file or folder"),
        (lambda f: own.load(f / "none"), FileNotFoundError, "none: there is no such file or folder"),
        (lambda f: own.load(written(f, b"", "a.csv")), ValueError, "a.csv: expected an .npz file or a folder"),
        (lambda f: own.load(3), TypeError, "path: expected a str or a Path, got int"),
        (lambda f: own.load(None), TypeError, "path: expected a str or a Path, got NoneType"),
        (lambda f: own.load(b"mine.npz"), TypeError, "path: expected a str or a Path, got bytes"),
        (lambda f: own.load(f, side=1), ValueError, "side: expected 2 to 256, got 1"),
        (lambda f: own.load(f, side=257), ValueError, "side: expected 2 to 256, got 257"),
        (lambda f: own.load(f, side=8.0), TypeError, "side: expected an int, got float"),
    ],
)
def test_bad_arguments_are_named(call, error, words, tmp_path):
    with pytest.raises(error, match=words):
        call(tmp_path)
