"""Your own images: the one door through which data of yours comes in.

``load(path)`` reads two forms, and gives images as the course's digits are: flat, grey, from 0 to 1.

- An ``.npz`` file, as ``np.savez("mine.npz", images=images, labels=labels)`` writes it. ``images``:
  (n, height, width), uint8 from 0 to 255 or floats from 0 to 1. ``labels``: (n,), integers from 0
  without a gap. The classes are called "0", "1", … Nothing in the file is run: pickled objects are
  refused.
- A folder with one folder per class: ``mine/cat/1.png``, ``mine/dog/7.jpg``. The folders' names are the
  classes, in the order of their text: "10" comes before "9". Colours become grey; a photo is turned
  upright as its camera says. At most 4096 pixels a side, 8 bits a pixel, nothing transparent. Hidden
  files, files of other kinds and whatever lies beside the class folders are passed over.

Either way: at least two classes and square images, which are brought to one size. Nothing is guessed:
what has another form is an error that names the file. Splitting into parts is left to you.
"""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from ctkd_lessons import expect

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif")
_LARGEST = 4096  # pixels: a larger side is a mistake here, or an attack


@dataclass(frozen=True)
class OwnImages:
    """``images``: (n, side²), float32 in [0, 1]; ``labels``: (n,), int64; ``classes``: their names."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]


def load(path: str | Path, *, side: int = 8, invert: bool = False) -> OwnImages:
    """Read images from an ``.npz`` file or a folder of one folder per class, and bring them to one size.

    ``side``: each image is averaged down (or blown up) to side × side; it must be square, or it would be
    squeezed. ``invert``: for dark ink on light paper; the course's digits have ink 1 on paper 0.
    Raises ``FileNotFoundError`` where there is nothing, and ``ValueError``/``TypeError`` that names file,
    class or array, what was expected and what came.
    """
    expect.count("side", side, low=2, high=256)
    if not isinstance(path, str | Path):
        raise TypeError(f"path: expected a str or a Path, got {type(path).__name__}")
    path = Path(path)
    if path.is_dir():
        found = _from_folder(path)
    elif path.suffix.lower() == ".npz" and path.is_file():
        found = _from_npz(path)
    elif path.exists():
        raise ValueError(
            f"{path}: expected an .npz file or a folder with one folder per class, got another kind of file"
        )
    else:
        raise FileNotFoundError(f"{path}: there is no such file or folder")
    images, labels, classes = found
    pixels = torch.cat([F.adaptive_avg_pool2d(torch.from_numpy(one).view(1, 1, *one.shape), side) for one in images])
    pixels = pixels.flatten(1).clamp(0, 1)
    return OwnImages(1 - pixels if invert else pixels, torch.from_numpy(labels), classes)


def _from_npz(path: Path) -> tuple[list[NDArray], NDArray, tuple[str, ...]]:
    images, labels = _arrays(path)
    if images.ndim != 3 or not images.size:
        raise ValueError(f"{path}, images: expected grey images (n, height, width), got shape {images.shape}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"{path}, labels: expected integers, got {labels.dtype}")
    if labels.shape != images.shape[:1]:
        raise ValueError(f"{path}, labels: expected one per image, ({len(images)},), got shape {labels.shape}")
    present = np.unique(labels)
    if len(present) < 2 or not np.array_equal(present, np.arange(len(present))):
        shown = ", ".join(map(str, present[:10])) + (", …" if len(present) > 10 else "")
        raise ValueError(f"{path}, labels: expected at least two classes, from 0 without a gap, got {shown}")
    grey = [_grey(f"{path}, images[{place}]", image) for place, image in enumerate(images)]
    return grey, labels.astype(np.int64), tuple(map(str, present))


def _arrays(path: Path) -> tuple[NDArray, NDArray]:
    """Return the two arrays of an ``.npz`` file."""
    if not zipfile.is_zipfile(path):  # np.load would take it for a pickle, and say so
        raise ValueError(f"{path}: expected a whole .npz file, as np.savez writes it, got another, or a part of one")
    try:
        with np.load(path, allow_pickle=False) as file:
            held = {name: file[name] for name in ("images", "labels") if name in file.files}
            names = ", ".join(sorted(file.files)) or "none"
    except (ValueError, OSError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: expected arrays of plain numbers, got what cannot be read ({error})") from None
    if len(held) < 2:
        raise ValueError(f"{path}: expected arrays 'images' and 'labels', got {names}")
    for name, one in held.items():
        if not isinstance(one, np.ndarray):  # np.load hands on the bytes of any other file
            raise ValueError(f"{path}, {name}: expected an array, as np.savez writes it, got a file of another kind")
    return held["images"], held["labels"]


def _from_folder(folder: Path) -> tuple[list[NDArray], NDArray, tuple[str, ...]]:
    classes = sorted(one for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))
    if len(classes) < 2:
        raise ValueError(f"{folder}: expected at least two folders, one per class, got {len(classes)}")
    images, labels = [], []
    for label, one in enumerate(classes):
        files = sorted(
            file for file in one.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
        )
        if not files:
            raise ValueError(f"{one}: expected images ({', '.join(SUFFIXES)}) of class {one.name!r}, got none")
        images += [_grey(str(file), _opened(file)) for file in files]
        labels += [label] * len(files)
    return images, np.array(labels, dtype=np.int64), tuple(one.name for one in classes)


def _opened(file: Path) -> NDArray:
    """Return one image file as grey values, uint8."""
    try:
        with Image.open(file) as image:
            size, mode = image.size, image.mode
            if max(size) <= _LARGEST:
                upright = ImageOps.exif_transpose(image)
                clear = upright.convert("RGBA").getextrema()[3][0] < 255
                grey = np.asarray(upright.convert("L"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file}: expected an image, got a file that cannot be read as one ({error})") from None
    if max(size) > _LARGEST:
        raise ValueError(f"{file}: expected at most {_LARGEST} pixels a side, got {' × '.join(map(str, size))}")
    if mode.startswith(("I", "F")):  # Pillow would cut every value above 255
        raise ValueError(f"{file}: expected 8 bits a pixel, got Pillow's mode {mode!r}")
    if clear:  # below may lie any colour: black ink on black, say
        raise ValueError(f"{file}: expected an image without transparency; lay it on paper first")
    return grey


def _grey(name: str, image: NDArray) -> NDArray:
    """Return one image as float32 in [0, 1]; raise unless it is square, in a known range and finite."""
    if image.ndim != 2 or image.shape[0] != image.shape[1]:
        raise ValueError(
            f"{name}: expected a square image, got {' × '.join(map(str, image.shape))}; cut or pad it first"
        )
    if image.dtype == np.uint8:
        return image.astype(np.float32) / 255
    if not np.issubdtype(image.dtype, np.floating):
        raise TypeError(f"{name}: expected uint8 (0 to 255) or floats (0 to 1), got {image.dtype}")
    if not np.isfinite(image).all() or image.min() < 0 or image.max() > 1:
        raise ValueError(f"{name}: expected finite values from 0 to 1, got {image.min():g} to {image.max():g}")
    return image.astype(np.float32)
