"""Real handwritten digits: 1,797 images of 8 × 8 pixels, shipped inside scikit-learn.

Source: Alpaydin & Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository. Each seed draws its own stratified train, validation and test part. Tune on
validation; read test once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from ctkd_lessons import expect
from ctkd_lessons.seeds import course_seeds, stream

CLASSES = 10


@dataclass(frozen=True)
class Digits:
    """The digits and, for each seed, which row belongs to which part.

    ``images``: (1797, 64), float32 in [0, 1]; ``labels``: (1797,), int64 in 0 … 9.
    ``train``: (S, 1077), ``validation``: (S, 360), ``test``: (S, 360): row numbers, int64.
    ``seeds``: the S seeds the parts were drawn from.
    """

    images: Tensor
    labels: Tensor
    train: Tensor
    validation: Tensor
    test: Tensor
    seeds: tuple[int, ...]

    def labelled_subset(self, count: int) -> Tensor:
        """Draw ``count`` training rows for each seed, with the class shares of the whole.

        Returns row numbers (S, count). Raises ``ValueError`` for fewer labels than classes, or for
        more than the training part holds; at least one of each class is left over, or nothing is.
        """
        available = self.train.shape[1]
        expect.count("count", count, low=CLASSES, high=available)
        if available - CLASSES < count < available:
            raise ValueError(f"count: expected at most {available - CLASSES}, or all {available}, got {count}")
        rows = [
            _stratified(part, self.labels, count, stream(seed, "labelled subset"))[0] if count < len(part) else part
            for part, seed in zip(self.train, self.seeds, strict=True)
        ]
        return torch.stack(rows)


def load(seeds: int | Sequence[int] = 10) -> Digits:
    """Load the digits and draw the parts of each seed: 60 % train, 20 % validation, 20 % test.

    ``seeds``: how many, or which. Raises ``ValueError``/``TypeError`` as ``course_seeds``.
    """
    numbers = course_seeds(seeds)
    pixels, labels = load_digits(return_X_y=True)
    labels = torch.from_numpy(labels).long()
    everything = torch.arange(len(labels))
    parts = []
    for seed in numbers:
        test, rest = _stratified(everything, labels, 360, stream(seed, "test part"))
        parts.append((test, *_stratified(rest, labels, 360, stream(seed, "validation part"))))
    test, validation, train = (torch.stack(column) for column in zip(*parts, strict=True))
    images = torch.from_numpy(pixels).float() / 16
    return Digits(images, labels, train, validation, test, tuple(numbers))


def _stratified(rows: Tensor, labels: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Split rows into ``count`` drawn ones and the rest, with the class shares of the whole."""
    drawn, rest = train_test_split(rows.numpy(), train_size=count, stratify=labels[rows].numpy(), random_state=seed)
    return torch.from_numpy(np.sort(drawn)), torch.from_numpy(np.sort(rest))
