"""Your own images: the one door through which data of yours comes in.

Two forms. An ``.npz`` file with ``images`` (n, height, width), uint8 0 … 255 or floats 0 … 1, and
``labels`` (n,), integers from 0 without a gap. Or a folder with one folder per class, images inside:
``mine/cat/1.png``, ``mine/dog/7.jpg``; classes in the order of their folders' names, grey values only.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
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
    path = Path(path)
    if path.is_dir():
        found = _from_folder(path)
    elif path.suffix == ".npz" and path.is_file():
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


def _from_npz(path: Path) -> tuple[list[np.ndarray], np.ndarray, tuple[str, ...]]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            missing = {"images", "labels"} - set(arrays.files)
            if missing:
                raise ValueError(
                    f"{path}: expected arrays 'images' and 'labels', got {', '.join(sorted(arrays.files)) or 'none'}"
                )
            images, labels = arrays["images"], arrays["labels"]
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise ValueError(f"{path}: expected a whole .npz file, got one that cannot be read ({error})") from None
    if images.ndim != 3 or not images.size:
        raise ValueError(f"{path}, images: expected (n, height, width), got shape {images.shape}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"{path}, labels: expected integers, got {labels.dtype}")
    if labels.shape != images.shape[:1]:
        raise ValueError(f"{path}, labels: expected one per image, ({len(images)},), got shape {labels.shape}")
    classes = int(labels.max()) + 1
    absent = sorted(set(range(classes)) - set(labels.tolist())) if classes <= len(labels) else ["some"]
    if labels.min() < 0 or absent or classes < 2:
        raise ValueError(
            f"{path}, labels: expected at least two classes, numbered from 0 without a gap, got "
            f"{int(labels.min())} to {int(labels.max())}, without {', '.join(map(str, absent)) or 'a second one'}"
        )
    grey = [_grey(f"{path}, images[{place}]", image) for place, image in enumerate(images)]
    return grey, labels.astype(np.int64), tuple(map(str, range(classes)))


def _from_folder(folder: Path) -> tuple[list[np.ndarray], np.ndarray, tuple[str, ...]]:
    classes = sorted(one for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))
    if len(classes) < 2:
        raise ValueError(f"{folder}: expected at least two folders, one per class, got {len(classes)}")
    images, labels = [], []
    for label, one in enumerate(classes):
        files = sorted(file for file in one.iterdir() if file.suffix.lower() in SUFFIXES)
        if not files:
            raise ValueError(f"{one}: expected images ({', '.join(SUFFIXES)}) of class {one.name!r}, got none")
        images += [_grey(str(file), _opened(file)) for file in files]
        labels += [label] * len(files)
    return images, np.array(labels, dtype=np.int64), tuple(one.name for one in classes)


def _opened(file: Path) -> np.ndarray:
    try:
        with Image.open(file) as image:
            if max(image.size) > _LARGEST:
                raise ValueError(f"{file}: expected at most {_LARGEST} pixels a side, got {image.size}")
            return np.asarray(image.convert("L"))
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file}: expected an image, got a file that cannot be read as one ({error})") from None


def _grey(name: str, image: np.ndarray) -> np.ndarray:
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
