"""Where every random number of the course comes from.

A seed stands for one whole repetition of an experiment: the split, the teacher, the initial
weights, the batch order, which examples carry labels. Repetition ``i`` uses seed
``1000 * CTKD_SEED + i``, so two values of the environment variable never share a seed.
"""

import hashlib
import os
from collections.abc import Sequence
from numbers import Integral

VARIABLE = "CTKD_SEED"
_STRIDE = 1000


def course_seeds(seeds: int | Sequence[int]) -> list[int]:
    """Return the seeds of an experiment.

    ``seeds``: a count (at most 1000), or the seeds themselves, which are returned as they are.
    Raises ``TypeError`` or ``ValueError`` if there is no seed, or if ``CTKD_SEED`` is no integer.
    """
    if isinstance(seeds, Sequence) and not isinstance(seeds, str):
        if not seeds or any(isinstance(s, bool) or not isinstance(s, Integral) for s in seeds):
            raise ValueError(f"seeds: expected at least one integer, got {seeds!r}")
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds: expected distinct integers, got {seeds!r}")
        return list(seeds)
    if isinstance(seeds, bool) or not isinstance(seeds, Integral):
        raise TypeError(f"seeds: expected an int or a sequence of ints, got {seeds!r}")
    if not 1 <= seeds <= _STRIDE:
        raise ValueError(f"seeds: expected 1 to {_STRIDE}, got {seeds}")
    return [_STRIDE * _shift() + i for i in range(seeds)]


def stream(seed: int, purpose: str) -> int:
    """Return the number that starts the random stream of one purpose, such as "weights".

    Streams of different purposes are unrelated, so a change in one leaves the others as they were.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:4], "little")


def _shift() -> int:
    text = os.environ.get(VARIABLE, "0")
    try:
        shift = int(text)
    except ValueError:
        shift = -1
    if shift < 0:
        raise ValueError(f"{VARIABLE}: expected a whole number of 0 or more, got {text!r}")
    return shift
