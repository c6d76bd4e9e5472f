"""Few-shot characters: no two look alike, scripts are split whole, and episodes are drawn evenly."""

import hashlib
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctkd_lessons.data import glyphs
from ctkd_lessons.data.glyphs import (
    ALIKE,
    CANDIDATES,
    SCRIPTS,
    characters,
    distinct,
    fonts_with,
    render,
    renderings,
    sample_episode,
    scripts,
    similarity,
    split,
)

EVERY = "".join(SCRIPTS.values())
TWINS = (
    "AΑ AА BΒ BВ EΕ EЕ HΗ HН MΜ MМ OΟ OО O0 Oo PΡ PР TΤ TТ XΧ XХ cс aа oօ Oס Oⵔ Xⵝ Σ∑ Π∏ cC Ss vν ĸκ Kκ lI ΦФ Λ∧ ∨V "
    "Uᑌ uս hհ nո iі pρ ɛε ∆Δ ⊙ⵙ ○O ߀O +ⵜ ÀA ÖO ᐯV ᑎ∩ Зз γɣ △∆"
)
STRANGERS = "OX AB KO CG MW nh pq bd st ΞΣ ΨΦ ⊂⊃ ᐊᐅ +× ☎☃ ≤≥ בש بت ∴∵ ↑→"
POOL_CHARACTERS = SCRIPTS["Latin"] + SCRIPTS["Lao"]
TRIO = POOL_CHARACTERS[:3]


@cache
def likeness():
    """Return how alike all characters of the benchmark are, 0 with itself."""
    return similarity(EVERY, EVERY).fill_diagonal_(0)


@cache
def pool():
    return renderings(POOL_CHARACTERS, 20, seed=3)


def generator(seed):
    return torch.Generator().manual_seed(seed)


# --- characters that look alike ---------------------------------------------------------------


@pytest.mark.parametrize("twins", TWINS.split())
def test_twins_of_other_scripts_look_alike(twins):
    there, back = similarity(*twins), similarity(*reversed(twins))
    assert there.item() >= ALIKE
    assert there.item() == pytest.approx(back.item(), abs=1e-5)


@pytest.mark.parametrize("pair", STRANGERS.split())
def test_others_do_not(pair):
    assert similarity(*pair).item() < ALIKE


def test_a_letter_is_as_alike_to_itself_in_another_font():
    letters = [chr(code) for code in (*range(65, 91), *range(97, 123), *range(0x410, 0x450))]
    nearest = []
    for letter in letters:
        (drawn,) = scripts._drawings(letter)
        each = [one.unsqueeze(1) for one in drawn.unbind(dim=1)]
        nearest.append(scripts._compare(each, each).fill_diagonal_(0).amax(dim=1))
    nearest = torch.cat(nearest)
    assert len(nearest) == 16 * len(letters)
    assert 0.99 < (nearest >= ALIKE).float().mean() < 0.999
    assert nearest.quantile(0.1) - ALIKE > 0.03  # the bound is low enough that most pass easily


def test_no_two_characters_of_the_benchmark_look_alike():
    assert len(set(EVERY)) == len(EVERY)
    assert likeness().max() < ALIKE


@pytest.mark.parametrize("seed", [0, 1, 2, 11, 4711])
def test_no_test_character_has_a_look_alike_in_training(seed):
    parts = split(seed)
    seen, new = ([EVERY.index(one) for one in characters(*part)] for part in (parts.train, parts.test))
    assert len(set(seen) & set(new)) == 0
    assert likeness()[seen][:, new].max() < ALIKE


def test_the_measure_finds_a_look_alike_that_is_slipped_in():
    assert (similarity("СЅԜ", SCRIPTS["Latin"]).amax(dim=1) >= ALIKE).all()


def test_the_benchmark_is_what_the_candidates_leave():
    assert distinct(CANDIDATES) == SCRIPTS


def test_the_first_of_look_alikes_is_kept_and_what_no_font_has_is_not():
    found = distinct({"one": "AΑB한", "two": "ВАGA ", "three": ""})
    assert found == {"one": "AB", "two": "G", "three": ""}


# --- scripts ----------------------------------------------------------------------------------


def test_many_scripts_none_small_none_large():
    assert len(SCRIPTS) >= 12
    assert 450 <= len(EVERY) <= 700
    assert all(20 <= len(text) <= 60 for text in SCRIPTS.values())


def test_every_character_can_be_drawn_and_is_not_the_box_for_missing_ones():
    assert all(fonts_with(one) for one in EVERY)
    fields = {}
    for one in EVERY:
        field = glyphs.drawing._field(one, fonts_with(one)[0])
        assert fields.setdefault(field.numpy().tobytes(), one) == one


def test_characters_of_scripts():
    assert characters("Lao") == SCRIPTS["Lao"]
    assert characters("Lao", "Greek") == SCRIPTS["Lao"] + SCRIPTS["Greek"]


def test_splits_are_whole_disjoint_and_large_enough():
    seen = set()
    for seed in range(200):
        found = split(seed)
        assert (len(found.validation), len(found.test)) == (3, 4)
        assert sorted(found.train + found.validation + found.test) == sorted(SCRIPTS)
        assert all(len(characters(*part)) >= 20 for part in (found.train, found.validation, found.test))
        assert split(seed) == found
        seen.add(found)
    assert len(seen) > 190


def test_every_script_is_tested_as_often_as_any_other():
    draws = [name for seed in range(900) for name in split(seed).test]
    counts = torch.tensor([draws.count(name) for name in SCRIPTS]).double()
    expected = 900 * 4 / len(SCRIPTS)
    statistic = ((counts - expected) ** 2 / expected).sum().item() / (1 - 4 / len(SCRIPTS))  # drawn without repetition
    assert statistic < 50  # chi-square, 17 degrees of freedom: one in 20,000 is larger


@pytest.mark.parametrize(("validation", "test"), [(1, 1), (1, len(SCRIPTS) - 2), (len(SCRIPTS) - 2, 1)])
def test_splits_of_other_sizes(validation, test):
    for seed in range(50):
        found = split(seed, validation, test)
        assert (len(found.validation), len(found.test)) == (validation, test)
        assert all(len(characters(*part)) >= 20 for part in (found.train, found.validation, found.test))


# --- renderings -------------------------------------------------------------------------------


def test_renderings_come_character_by_character():
    found = renderings("Aد☃", 7, seed=0, side=8)
    assert found.images.shape == (21, 64)
    assert found.images.dtype == torch.float32
    assert found.labels.tolist() == [0] * 7 + [1] * 7 + [2] * 7
    assert (found.characters, found.count) == ("Aد☃", 7)
    assert len(found.images.unique(dim=0)) == 21
    drawn = render("Aد☃", 21, seed=0, side=8)
    for label in range(3):
        assert torch.equal(found.images[found.labels == label], drawn.images[drawn.labels == label])


def test_each_rendering_shows_its_character():
    known, new = renderings("AДش☃", 60, seed=1), renderings("AДش☃", 20, seed=2)
    nearest = torch.cdist(new.images, known.images).argmin(dim=1)
    assert (known.labels[nearest] == new.labels).float().mean() > 0.9


def test_variation_reaches_the_renderings():
    still = renderings("☃", 30, seed=0, variation=0)
    assert len(still.images.unique(dim=0)) == len(fonts_with("☃"))


def fingerprint():
    drawn = renderings(SCRIPTS["Greek"], 4, seed=5)
    found = glyphs.episodes(drawn, SCRIPTS["Greek"], shots=2, queries=2, count=50, seed=6)
    content = b"".join(one.numpy().tobytes() for one in (drawn.images, drawn.labels, found.support, found.query))
    return hashlib.sha256(content + repr([split(seed) for seed in range(5)]).encode()).hexdigest()


def test_another_process_with_other_threads_draws_the_same():
    code = "import torch, test_few_shot; torch.set_num_threads(3); print(test_few_shot.fingerprint())"
    command = [sys.executable, "-c", code]
    there = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stdout
    assert there.strip() == fingerprint()


# --- episodes ---------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 8), st.integers(1, 5), st.integers(1, 5), st.integers(1, 30), st.integers(0, 2**40))
def test_episodes_are_well_formed(ways, shots, queries, count, seed):
    found = glyphs.episodes(
        pool(), POOL_CHARACTERS[5:13], ways=ways, shots=shots, queries=queries, count=count, seed=seed
    )
    assert found.support.shape == found.support_labels.shape == (count, ways * shots)
    assert found.query.shape == found.query_labels.shape == (count, ways * queries)
    assert {one.dtype for one in vars(found).values()} == {torch.int64}
    for one in range(count):
        support, query = found.support[one], found.query[one]
        assert len({*support.tolist(), *query.tolist()}) == ways * (shots + queries)  # no row twice
        classes = pool().labels[support].view(ways, shots)
        assert (classes == classes[:, :1]).all()
        assert len(set(classes[:, 0].tolist())) == ways
        assert torch.equal(pool().labels[query].view(ways, queries), classes[:, :1].expand(ways, queries))
        assert {POOL_CHARACTERS[label] for label in classes[:, 0].tolist()} <= set(POOL_CHARACTERS[5:13])
        assert torch.equal(found.support_labels[one], torch.arange(ways).repeat_interleave(shots))
        assert torch.equal(found.query_labels[one], torch.arange(ways).repeat_interleave(queries))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(-3, 4), min_size=1, max_size=60), st.integers(0, 2**40), st.data())
def test_sampled_episodes_are_well_formed(values, seed, data):
    labels = torch.tensor(values)
    sizes = labels.unique(return_counts=True)[1]
    if sizes.min() < 2:
        with pytest.raises(ValueError, match=r"shots \+ queries: expected at most 1"):
            sample_episode(labels, 1, 1, 1, generator(seed))
        return
    ways = data.draw(st.integers(1, len(sizes)))
    shots = data.draw(st.integers(1, int(sizes.min()) - 1))
    queries = data.draw(st.integers(1, int(sizes.min()) - shots))
    support, query = sample_episode(labels, ways, shots, queries, generator(seed))
    assert support.dtype == query.dtype == torch.int64
    assert support.shape == (ways * shots,)
    assert query.shape == (ways * queries,)
    assert len({*support.tolist(), *query.tolist()}) == ways * (shots + queries)
    classes = labels[support].view(ways, shots)
    assert (classes == classes[:, :1]).all()
    assert len(set(classes[:, 0].tolist())) == ways
    assert torch.equal(labels[query].view(ways, queries), classes[:, :1].expand(ways, queries))


def one_by_one(count, ways, shots, queries):
    """Draw episodes from the first eight characters of the pool, one after the other."""
    chance, rows = generator(1), 8 * pool().count
    drawn = [sample_episode(pool().labels[:rows], ways, shots, queries, chance) for _ in range(count)]
    return torch.stack([support for support, _ in drawn]), torch.stack([query for _, query in drawn])


def all_at_once(count, ways, shots, queries):
    found = glyphs.episodes(pool(), POOL_CHARACTERS[:8], ways=ways, shots=shots, queries=queries, count=count, seed=1)
    return found.support, found.query


@pytest.mark.parametrize("drawn", [one_by_one, all_at_once])
def test_classes_and_rows_are_drawn_evenly(drawn):
    count, ways, shots, queries = 4000, 3, 2, 4
    support, query = drawn(count, ways, shots, queries)

    def chi_square(values, bins, drawn_at_once=1):
        expected = len(values) / bins
        free = 1 - (drawn_at_once - 1) / (bins - 1)  # drawn without repetition, counts vary less
        return (((values.bincount(minlength=bins) - expected) ** 2) / expected).sum().item() / free

    classes = pool().labels[support].view(count, ways, shots)[:, :, 0]
    for place in range(ways):  # each place of an episode holds any class: 7 degrees of freedom
        assert chi_square(classes[:, place], 8) < 32  # one in 25,000 is larger
    pairs = classes[:, 0] * 8 + classes[:, 1]
    pairs = torch.searchsorted(torch.tensor([place for place in range(64) if place // 8 != place % 8]), pairs)
    assert chi_square(pairs, 56) < 110  # 55 degrees of freedom; orders too, so support is not sorted by class
    for rows, each in ((support, shots), (query, queries)):
        within = (rows % pool().count).flatten()
        assert chi_square(within, pool().count, each) < 55  # 19 degrees of freedom
        assert chi_square((rows.view(count, ways, each)[:, :, 0] % pool().count).flatten(), pool().count) < 55


def test_other_seeds_draw_other_episodes_and_no_other_chance_is_used():
    state = torch.get_rng_state()
    first, again, other = (glyphs.episodes(pool(), POOL_CHARACTERS, count=20, seed=seed).support for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(
        sample_episode(pool().labels, 5, 1, 5, generator(0))[0], sample_episode(pool().labels, 5, 1, 5, generator(0))[0]
    )
    assert torch.equal(torch.get_rng_state(), state)


def test_every_rendering_and_every_character_may_be_used_up():
    found = glyphs.episodes(pool(), TRIO, ways=3, shots=15, queries=5, count=4, seed=0)
    wanted = torch.cat([torch.arange(20) + 20 * POOL_CHARACTERS.index(one) for one in TRIO])
    for support, query in zip(found.support, found.query, strict=True):
        assert torch.equal(torch.cat([support, query]).sort().values, wanted.sort().values)


def test_thousands_of_images_and_episodes_take_no_time():
    drawn = renderings(POOL_CHARACTERS, 150, seed=0)
    start = time.perf_counter()
    drawn = renderings(POOL_CHARACTERS, 150, seed=0)
    middle = time.perf_counter()
    glyphs.episodes(drawn, POOL_CHARACTERS, count=2000, seed=0)
    assert middle - start < 6  # for a busy machine: half a second on a quiet one
    assert time.perf_counter() - middle < 3  # a tenth


# --- bad input --------------------------------------------------------------------------------


def draw(**changes):
    arguments = {"pool": pool(), "characters": TRIO, "ways": 3, "count": 1, "seed": 0} | changes
    return glyphs.episodes(arguments.pop("pool"), arguments.pop("characters"), **arguments)


def sample(labels=(0, 0, 1, 1), ways=2, shots=1, queries=1, chance=None):
    labels = torch.tensor(labels) if isinstance(labels, tuple) else labels
    return sample_episode(labels, ways, shots, queries, chance or generator(0))


LAST = len(SCRIPTS)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: characters(), ValueError, r"scripts: expected at least one of N'Ko, .*Latin, .*Braille, got none"),
        (lambda: characters("Klingon"), ValueError, r"scripts: expected some of N'Ko, .*Braille, got 'Klingon'"),
        (lambda: characters("Lao", "lao"), ValueError, r"scripts: .*got 'lao'"),
        (lambda: characters(["Lao"]), ValueError, r"scripts: expected some of .*got \['Lao'\]"),
        (lambda: characters("Lao", "Lao"), ValueError, "scripts: expected distinct scripts, got Lao, Lao"),
        (lambda: split(-1), ValueError, "seed: expected at least 0, got -1"),
        (lambda: split("0"), TypeError, "seed: expected an int, got str"),
        (lambda: split(0, 0), ValueError, f"validation: expected 1 to {LAST - 2}, got 0"),
        (lambda: split(0, LAST - 1), ValueError, f"validation: expected 1 to {LAST - 2}, got {LAST - 1}"),
        (lambda: split(0, 3, 0), ValueError, f"test: expected 1 to {LAST - 4}, got 0"),
        (lambda: split(0, 3, LAST - 3), ValueError, f"test: expected 1 to {LAST - 4}, got {LAST - 3}"),
        (lambda: split(0, 3, 4.0), TypeError, "test: expected an int, got float"),
        (lambda: similarity("A", "한"), ValueError, r"character: .*got '한' \(U\+D55C\)"),
        (lambda: renderings("", 5, seed=0), ValueError, "characters: expected a text of distinct .*got ''"),
        (lambda: renderings("AA", 5, seed=0), ValueError, "characters: expected a text of distinct .*got 'AA'"),
        (lambda: renderings(5, 5, seed=0), ValueError, "characters: expected a text of distinct .*got 5"),
        (lambda: renderings("A한", 5, seed=0), ValueError, r"character: .*got '한' \(U\+D55C\)"),
        (lambda: renderings("A", 0, seed=0), ValueError, "count: expected at least 1, got 0"),
        (lambda: renderings("A", 2.0, seed=0), TypeError, "count: expected an int, got float"),
        (lambda: renderings("A", 2, seed=-1), ValueError, "seed: expected at least 0, got -1"),
        (lambda: renderings("A", 2, seed=0, side=3), ValueError, "side: expected 4 to 64, got 3"),
        (lambda: renderings("A", 2, seed=0, variation=4), ValueError, "variation: expected .*at most 3, got 4"),
        (lambda: draw(pool=pool().images), TypeError, "pool: expected Renderings, got Tensor"),
        (lambda: draw(characters=""), ValueError, "characters: expected a text of distinct characters, got ''"),
        (lambda: draw(characters=TRIO + TRIO[0]), ValueError, "characters: expected a text of distinct .*got '"),
        (lambda: draw(characters=["k"]), ValueError, r"characters: expected a text of distinct .*got \['k'\]"),
        (lambda: draw(characters=TRIO[0] + "☃☄"), ValueError, r"characters: .* of the pool, got '☃' \(U\+2603\)"),
        (lambda: draw(ways=4), ValueError, "ways: expected at most 3, the characters to draw from, got 4"),
        (lambda: draw(ways=0), ValueError, "ways: expected at least 1, got 0"),
        (lambda: draw(ways=True), TypeError, "ways: expected an int, got bool"),
        (lambda: draw(shots=0), ValueError, "shots: expected at least 1, got 0"),
        (lambda: draw(shots=1.0), TypeError, "shots: expected an int, got float"),
        (lambda: draw(queries=0), ValueError, "queries: expected at least 1, got 0"),
        (
            lambda: draw(shots=16),
            ValueError,
            r"shots \+ queries: expected at most 20, the renderings of each character, got 21",
        ),
        (lambda: draw(count=0), ValueError, "count: expected at least 1, got 0"),
        (lambda: draw(count="2"), TypeError, "count: expected an int, got str"),
        (lambda: draw(seed=-1), ValueError, "seed: expected at least 0, got -1"),
        (lambda: draw(seed=0.5), TypeError, "seed: expected an int, got float"),
        (lambda: sample(ways=3), ValueError, "ways: expected at most 2, the classes in labels, got 3"),
        (lambda: sample(ways=0), ValueError, "ways: expected at least 1, got 0"),
        (lambda: sample(shots=-1), ValueError, "shots: expected at least 1, got -1"),
        (lambda: sample(queries=None), TypeError, "queries: expected an int, got NoneType"),
        (lambda: sample(shots=2), ValueError, r"shots \+ queries: expected at most 2, .*smallest class, got 3"),
        (lambda: sample((0, 0, 1)), ValueError, r"shots \+ queries: expected at most 1, .*smallest class, got 2"),
        (lambda: sample(labels=[0, 0]), TypeError, "labels: expected an integer tensor, got list"),
        (lambda: sample((0.0, 1.0)), TypeError, "labels: expected an integer tensor, got torch.float32"),
        (lambda: sample((True, False)), TypeError, "labels: expected an integer tensor, got torch.bool"),
        (lambda: sample(torch.zeros(2, 2).long()), ValueError, r"labels: .*\(n,\), got shape \(2, 2\)"),
        (lambda: sample(torch.zeros(0).long()), ValueError, r"labels: .*\(n,\), got shape \(0,\)"),
        (lambda: sample(chance=7), TypeError, "generator: expected a torch.Generator, got int"),
    ],
)
def test_bad_input_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call()
