"""The sine waves of lesson 10: the formula against NumPy, the ranges, a stream for each seed and part."""

import math
from dataclasses import fields

import numpy as np
import pytest
import torch
from samples import normal
from scipy.stats import kstest

from ctkd_lessons.data import sinusoids


def parts(waves):
    return [getattr(waves, field.name) for field in fields(waves)]


def same(left, right):
    return all(map(torch.equal, parts(left), parts(right)))


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("tasks", [1, 4])
@pytest.mark.parametrize("points", [1, 7])
def test_shapes_and_dtype(seeds, tasks, points):
    waves = sinusoids.draw(tasks, points, seeds)
    assert waves.x.shape == waves.y.shape == (seeds, tasks, points, 1)
    assert waves.amplitudes.shape == waves.phases.shape == (seeds, tasks)
    assert all(one.dtype == torch.float32 for one in parts(waves))


def test_points_lie_on_their_waves():
    waves = sinusoids.draw(30, 9, 4)
    x, a, p = (one.numpy().astype(np.float64) for one in (waves.x, waves.amplitudes, waves.phases))
    expected = [[a[s, t] * np.sin(x[s, t, :, 0] - p[s, t]) for t in range(30)] for s in range(4)]
    np.testing.assert_allclose(waves.y[..., 0].numpy(), expected, rtol=0, atol=5e-6)


def test_a_wave_by_hand():
    x = torch.tensor([0, math.pi / 2, math.pi, -math.pi / 2], dtype=torch.float64)[:, None]
    found = sinusoids.wave(x, torch.tensor([2.0, 3]), torch.tensor([0, math.pi / 2], dtype=torch.float64))
    expected = torch.tensor([[0.0, 2, 0, -2], [-3, 0, 3, 0]], dtype=torch.float64)
    torch.testing.assert_close(found[..., 0], expected, rtol=0, atol=1e-12)


def test_a_wave_takes_any_leading_axes():
    x, a, p = normal(2, 3, 4, 5, 1), normal(2, 3, 4, seed=1), normal(2, 3, 4, seed=2)
    found = sinusoids.wave(x, a, p)
    assert found.shape == x.shape
    for place in np.ndindex(2, 3, 4):
        torch.testing.assert_close(found[place], a[place] * torch.sin(x[place] - p[place]), rtol=1e-14, atol=0)


def test_amplitudes_phases_and_places_are_uniform_over_the_papers_ranges():
    """4,000 waves of the first seed; a p-value this small is an accident of one in a million."""
    waves = sinusoids.draw(4000, 2, [0])
    for values, low, high in ((waves.amplitudes, 0.1, 5), (waves.phases, 0, math.pi), (waves.x, -5, 5)):
        numbers = values.flatten().double().numpy()
        assert low - 1e-6 <= numbers.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < numbers.max() <= high + 1e-6
        assert kstest(numbers, "uniform", args=(low, high - low)).pvalue > 1e-6
    together = np.corrcoef([waves.amplitudes[0].numpy(), waves.phases[0].numpy(), waves.x[0, :, 0, 0].numpy()])
    assert np.abs(together - np.eye(3)).max() < 5 / math.sqrt(4000)


def test_ranges_of_ones_own():
    waves = sinusoids.draw(500, 3, 2, amplitudes=(1, 2), phases=(-0.5, 0.5))
    assert 1 <= waves.amplitudes.min() < 1.02
    assert 1.98 < waves.amplitudes.max() <= 2
    assert -0.5 <= waves.phases.min() < -0.48
    assert 0.48 < waves.phases.max() <= 0.5
    one_wave = sinusoids.draw(5, 3, 2, amplitudes=(2.0, 2.0), phases=[0, 0])
    assert (one_wave.amplitudes == 2).all()
    torch.testing.assert_close(one_wave.y, 2 * one_wave.x.sin())


def test_other_ranges_leave_the_places_as_they_were():
    usual, other = sinusoids.draw(6, 4, 2), sinusoids.draw(6, 4, 2, amplitudes=(0.1, 1), phases=(0, 1))
    assert torch.equal(usual.x, other.x)
    assert not torch.equal(usual.y, other.y)


def test_same_arguments_same_waves_whatever_happened_to_the_global_chance():
    first = sinusoids.draw(5, 6, 3, part="test")
    torch.manual_seed(123)
    state = torch.random.get_rng_state()
    assert same(first, sinusoids.draw(5, 6, 3, part="test"))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_each_seed_has_a_stream_of_its_own_that_no_other_seed_moves():
    many = sinusoids.draw(5, 6, [4, 7, 2])
    for place, seed in enumerate([4, 7, 2]):
        alone = sinusoids.draw(5, 6, [seed])
        assert all(torch.equal(one[place], other[0]) for one, other in zip(parts(many), parts(alone), strict=True))
    for one in parts(many):
        assert not torch.equal(one[0], one[1])


def test_a_number_of_seeds_follows_ctkd_seed(monkeypatch):
    assert same(sinusoids.draw(5, 6, 2), sinusoids.draw(5, 6, [0, 1]))
    monkeypatch.setenv("CTKD_SEED", "3")
    assert same(sinusoids.draw(5, 6, 2), sinusoids.draw(5, 6, [3000, 3001]))


def test_parts_share_no_wave():
    drawn = [sinusoids.draw(50, 4, 2, part=part) for part in ("train", "validation", "test")]
    assert same(drawn[0], sinusoids.draw(50, 4, 2))  # "train" is the default
    named = [set(zip(one.amplitudes.flatten().tolist(), one.phases.flatten().tolist(), strict=True)) for one in drawn]
    assert len(set.union(*named)) == 3 * 2 * 50


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"tasks": 0}, ValueError, "tasks: expected at least 1, got 0"),
        ({"tasks": 2.0}, TypeError, "tasks: expected an int, got float"),
        ({"points": 0}, ValueError, "points: expected at least 1, got 0"),
        ({"points": "10"}, TypeError, "points: expected an int, got str"),
        ({"seeds": 0}, ValueError, "seeds: expected 1 to 1000, got 0"),
        ({"seeds": [1, 1]}, ValueError, r"seeds: expected distinct integers, got \[1, 1\]"),
        ({"seeds": "0"}, TypeError, "seeds: expected an int or a sequence of ints"),
        ({"amplitudes": 1.0}, TypeError, r"amplitudes: expected the two ends of a range, got 1\.0"),
        ({"amplitudes": (1, 2, 3)}, TypeError, r"amplitudes: expected the two ends of a range, got \(1, 2, 3\)"),
        ({"amplitudes": (2, 1)}, ValueError, r"amplitudes: expected the lower end first, got \(2, 1\)"),
        ({"amplitudes": (-1, 1)}, ValueError, "amplitudes: expected a finite number at least 0, got -1"),
        ({"amplitudes": (0, math.inf)}, ValueError, "amplitudes: expected a finite number at least 0, got inf"),
        ({"amplitudes": ("0", 1)}, TypeError, "amplitudes: expected a Python number, got str"),
        ({"phases": (1, 0)}, ValueError, r"phases: expected the lower end first, got \(1, 0\)"),
        ({"phases": (0, math.nan)}, ValueError, "phases: expected a finite number, got nan"),
        ({"phases": None}, TypeError, "phases: expected the two ends of a range, got None"),
    ],
)
def test_bad_input_says_what_is_wrong(change, error, words):
    with pytest.raises(error, match=words):
        sinusoids.draw(**({"tasks": 3, "points": 4, "seeds": 2} | change))
