"""Few-shot tasks: renderings of many characters, and episodes drawn from them.

An *episode* of N ways, K shots and Q queries picks N characters, and of each K renderings to learn from
(the support) and Q others to be tested on (the queries). Vinyals et al. 2016, "Matching Networks for One
Shot Learning"; Lake et al. 2015, "Human-level concept learning through probabilistic program induction".
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ctkd_lessons import expect
from ctkd_lessons.data.glyphs.drawing import render
from ctkd_lessons.seeds import stream


@dataclass(frozen=True)
class Renderings:
    """R renderings of each of C characters, character by character.

    ``images``: (C·R, side²), float32 in [0, 1], 1 is ink; ``labels``: (C·R,), int64, places in
    ``characters``; ``count``: R.
    """

    images: Tensor
    labels: Tensor
    characters: str
    count: int


@dataclass(frozen=True)
class Episodes:
    """E episodes, as rows of a pool's images, class by class.

    ``support``: (E, N·K), ``query``: (E, N·Q): rows, int64; ``support_labels``, ``query_labels``: of the
    same shapes, int64 in 0 … N − 1, the classes as this episode numbers them.
    """

    support: Tensor
    query: Tensor
    support_labels: Tensor
    query_labels: Tensor


def renderings(characters: str, count: int, *, seed: int, side: int = 16, variation: float = 1.0) -> Renderings:
    """Draw ``count`` images of each character; the other arguments are those of ``render``."""
    expect.count("count", count)
    total = count * len(characters) if isinstance(characters, str) else count
    drawn = render(characters, max(total, 1), seed=seed, side=side, variation=variation)
    order = drawn.labels.argsort(stable=True)
    return Renderings(drawn.images[order], drawn.labels[order], characters, count)


def sample_episode(
    labels: Tensor, ways: int, shots: int, queries: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw one episode from labelled rows: its support rows (ways·shots,) and its query rows (ways·queries,).

    ``labels``: (n,), integers. Distinct classes in random order; of each, distinct rows. Both come class by
    class: the support's labels within the episode are ``arange(ways).repeat_interleave(shots)``.
    Raises ``ValueError`` for more ways than classes, or if a class has fewer than shots + queries rows.
    """
    _check_counts(ways, shots, queries)
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dtype == torch.bool:
        raise TypeError(f"labels: expected an integer tensor, got {getattr(labels, 'dtype', type(labels).__name__)}")
    if labels.ndim != 1 or not len(labels):
        raise ValueError(f"labels: expected at least one label, (n,), got shape {tuple(labels.shape)}")
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator: expected a torch.Generator, got {type(generator).__name__}")
    classes, sizes = labels.unique(return_counts=True)
    _at_most("ways", ways, len(classes), "the classes in labels")
    _at_most("shots + queries", shots + queries, int(sizes.min()), "the rows of the smallest class")
    support, query = [], []
    for one in classes[torch.randperm(len(classes), generator=generator)[:ways]]:
        rows = (labels == one).nonzero().flatten()
        rows = rows[torch.randperm(len(rows), generator=generator)]
        support.append(rows[:shots])
        query.append(rows[shots : shots + queries])
    return torch.cat(support), torch.cat(query)


def episodes(
    pool: Renderings, characters: str, *, ways: int = 5, shots: int = 1, queries: int = 5, count: int, seed: int
) -> Episodes:
    """Draw ``count`` episodes whose classes are among ``characters``: ``sample_episode``, for all of them at once.

    Raises ``ValueError`` for a character that the pool lacks, for more ways than characters, and for more
    shots + queries than the pool has renderings of each.
    """
    if not isinstance(pool, Renderings):
        raise TypeError(f"pool: expected Renderings, got {type(pool).__name__}")
    if not isinstance(characters, str) or not characters or len(set(characters)) < len(characters):
        raise ValueError(f"characters: expected a text of distinct characters, got {characters!r}")
    missing = [one for one in characters if one not in pool.characters]
    if missing:
        raise ValueError(f"characters: expected characters of the pool, got {missing[0]!r} (U+{ord(missing[0]):04X})")
    expect.count("count", count)
    expect.count("seed", seed, low=0)
    _check_counts(ways, shots, queries)
    _at_most("ways", ways, len(characters), "the characters to draw from")
    _at_most("shots + queries", shots + queries, pool.count, "the renderings of each character")
    chance = torch.Generator().manual_seed(stream(seed, "episodes"))
    places = torch.tensor([pool.characters.index(one) for one in characters])
    # The first few of shuffled things, for all episodes at once: random numbers, and what order sorts them.
    chosen = places[torch.rand(count, len(places), generator=chance).argsort(dim=1)[:, :ways]]
    of_each = torch.rand(count, ways, pool.count, generator=chance).argsort(dim=2)[:, :, : shots + queries]
    rows = chosen.unsqueeze(2) * pool.count + of_each
    support_labels, query_labels = (
        torch.arange(ways).repeat_interleave(each).repeat(count, 1) for each in (shots, queries)
    )
    return Episodes(rows[:, :, :shots].flatten(1), rows[:, :, shots:].flatten(1), support_labels, query_labels)


def _check_counts(ways: int, shots: int, queries: int) -> None:
    for name, value in (("ways", ways), ("shots", shots), ("queries", queries)):
        expect.count(name, value)


def _at_most(name: str, value: int, high: int, what: str) -> None:
    if value > high:
        raise ValueError(f"{name}: expected at most {high}, {what}, got {value}")
