"""Seeds, digits, models, controls, statistics, scorecard, plotting."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import accuracy_score, recall_score
from torch import nn

from ctkd_lessons import plotting
from ctkd_lessons.controls import shuffle_examples, shuffle_wrong_classes
from ctkd_lessons.data import digits
from ctkd_lessons.models import conv, mlp
from ctkd_lessons.scorecard import accuracy, count_parameters, latency, recall, scorecard
from ctkd_lessons.seeds import course_seeds, stream
from ctkd_lessons.statistics import ClaimBroken, claim, compare, interval, table

# --- seeds ------------------------------------------------------------------------------------


def test_the_variable_shifts_every_seed(monkeypatch):
    monkeypatch.delenv("CTKD_SEED", raising=False)
    assert course_seeds(3) == [0, 1, 2]
    monkeypatch.setenv("CTKD_SEED", "4711")
    shifted = course_seeds(3)
    assert shifted == [4711000, 4711001, 4711002]
    assert course_seeds([5, 7]) == [5, 7]


@pytest.mark.parametrize("value", ["-1", "x", "1.5", ""])
def test_a_bad_variable_is_named(monkeypatch, value):
    monkeypatch.setenv("CTKD_SEED", value)
    with pytest.raises(ValueError, match="CTKD_SEED: expected a whole number of 0 or more"):
        course_seeds(1)


def test_streams_are_fixed_and_apart():
    assert stream(0, "weights") == 103396355  # the first four bytes of SHA-256 of "0/weights"
    assert len({stream(seed, purpose) for seed in range(50) for purpose in ("weights", "test part")}) == 100


# --- digits -----------------------------------------------------------------------------------

DATA = digits.load(seeds=5)


def test_parts_are_whole_disjoint_and_stratified():
    assert DATA.images.shape == (1797, 64)
    assert DATA.images.dtype == torch.float32
    assert (DATA.images.min(), DATA.images.max()) == (0, 1)
    shares = DATA.labels.bincount() / len(DATA.labels)
    for train, validation, test in zip(DATA.train, DATA.validation, DATA.test, strict=True):
        assert torch.cat([train, validation, test]).sort().values.tolist() == list(range(1797))
        for part in (train, validation, test):
            assert ((DATA.labels[part].bincount() / len(part) - shares).abs() < 0.004).all()


def test_seeds_draw_other_parts_and_the_same_again():
    again = digits.load(seeds=5)
    assert torch.equal(again.test, DATA.test)
    assert torch.equal(again.labelled_subset(50), DATA.labelled_subset(50))
    assert not torch.equal(DATA.test[0], DATA.test[1])
    assert torch.equal(digits.load(seeds=[DATA.seeds[3]]).train[0], DATA.train[3])


@pytest.mark.parametrize("count", [10, 50, 333, 1077])
def test_labelled_subset_is_stratified_and_from_training(count):
    rows = DATA.labelled_subset(count)
    assert rows.shape == (5, count)
    for subset, train in zip(rows, DATA.train, strict=True):
        assert set(subset.tolist()) <= set(train.tolist())
        per_class = DATA.labels[subset].bincount(minlength=10)
        assert per_class.max() - per_class.min() <= max(1, 0.02 * count)
        assert len(subset.unique()) == count


def test_almost_all_labels_is_refused_in_words():
    with pytest.raises(ValueError, match="count: expected at most 1067, or all 1077, got 1070"):
        DATA.labelled_subset(1070)


@pytest.mark.parametrize("count", [9, 0, 1078])
def test_too_few_or_too_many_labels(count):
    with pytest.raises(ValueError, match=f"count: expected 10 to 1077, got {count}"):
        DATA.labelled_subset(count)


# --- models and controls ----------------------------------------------------------------------


def test_models_have_the_parameters_one_counts_by_hand():
    assert count_parameters(mlp([64, 32, 10])) == 64 * 32 + 32 + 32 * 10 + 10
    model = conv([4, 8], 10)
    assert count_parameters(model) == (9 * 4 + 4) + (9 * 4 * 8 + 8) + (8 * 16 * 10 + 10)
    assert model(torch.zeros(3, 64)).shape == (3, 10)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: mlp([64]), "sizes"),
        (lambda: mlp([64, 0]), "sizes: expected at least 1, got 0"),
        (lambda: conv([], 10), "channels"),
        (lambda: conv([1, 2, 3, 4, 5], 10), "channels: expected 1 to 4 entries"),
    ],
)
def test_bad_models(make, names):
    with pytest.raises(ValueError, match=names):
        make()


def test_shuffled_classes_keep_first_choice_and_values():
    logits = torch.randn(3, 200, 10, generator=torch.Generator().manual_seed(0))
    shuffled = shuffle_wrong_classes(logits, [0, 1, 2])
    assert torch.equal(shuffled.argmax(-1), logits.argmax(-1))
    assert torch.equal(shuffled.sort(-1).values, logits.sort(-1).values)
    # A wrong class stays in its place one time in nine.
    stays = (shuffled == logits).double().mean().item()
    assert stays == pytest.approx((1 + 9 / 9) / 10, abs=0.02)
    assert torch.equal(shuffle_wrong_classes(logits[:1], [0])[0], shuffled[0])
    with pytest.raises(ValueError, match="seeds: expected 3"):
        shuffle_wrong_classes(logits, [0])


def test_shuffled_examples_are_the_same_ones_in_another_order_and_stay_together():
    logits = torch.randn(3, 40, 5)
    features = logits[..., :2, None] + 7
    shuffled, beside = (shuffle_examples(outputs, [0, 1, 2]) for outputs in (logits, features))
    assert torch.equal(shuffled.sort(dim=1).values, logits.sort(dim=1).values)
    assert (shuffled != logits).any(dim=-1).float().mean() > 0.8
    assert torch.equal(beside, shuffled[..., :2, None] + 7)
    assert torch.equal(shuffle_examples(logits[1:2], [1])[0], shuffled[1])
    with pytest.raises(ValueError, match="seeds: expected 3, one per teacher, got 1"):
        shuffle_examples(logits, [0])


# --- statistics -------------------------------------------------------------------------------


def test_compare_is_the_paired_t_interval_of_scipy():
    rng = np.random.default_rng(0)
    baseline, method = rng.normal(0.8, 0.1, 10), rng.normal(0.85, 0.1, 10)
    mine, theirs = compare(baseline, method), stats.ttest_rel(method, baseline).confidence_interval(0.95)
    assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high))
    assert mine.mean == pytest.approx((method - baseline).mean())
    assert mine.positive == (method > baseline).sum()


def test_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    found = [interval(rng.normal(0, 1, 5)) for _ in range(4000)]
    covered = np.mean([one.low <= 0 <= one.high for one in found])
    # 4,000 tries at 95 %: four standard errors are 1.4 points.
    assert covered == pytest.approx(0.95, abs=0.014)


def test_claims_hold_or_break_by_the_near_end_of_the_interval(capsys):
    values = np.array([0.09, 0.1, 0.11])  # interval: 0.075 to 0.125
    claim("above", values, at_least=0.07)
    claim("below", values, at_most=0.13)
    assert capsys.readouterr().out.count("holds") == 2
    for bound in ({"at_least": 0.08}, {"at_most": 0.12}):
        with pytest.raises(ClaimBroken, match="BROKEN"):
            claim("not so", values, **bound)


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda: interval([0.5]), "at least 2 seeds"),
        (lambda: interval([[1.0, 2.0]]), "one number per seed"),
        (lambda: interval([1.0, np.nan]), "finite"),
        (lambda: interval([1.0, 2.0], confidence=95), "confidence"),
        (lambda: compare([1.0, 2.0], [1.0, 2.0, 3.0]), "method: expected 2 seeds"),
        (lambda: claim("both", [1.0, 2.0], at_least=0, at_most=1), "exactly one"),
        (lambda: claim("none", [1.0, 2.0]), "exactly one"),
        (lambda: table({"a": [1.0, 2.0]}, baseline="b"), "baseline: expected one of"),
    ],
)
def test_bad_statistics(call, names):
    with pytest.raises(ValueError, match=names):
        call()


def test_intervals_are_written_so_that_recorded_output_can_skip_them():
    assert str(interval([-0.1, -0.3])) == "−0.200 [−1.471, 1.071]"
    assert f"{interval([0.5, 0.5]):+}" == "+0.500 [+0.500, +0.500]"
    rows = table({"a": [1.0, 2.0], "b": [2.0, 3.5]}, baseline="a").splitlines()
    assert rows[1].startswith("a   1.500 [")
    assert "  +1.250 [" in rows[2]


# --- scorecard --------------------------------------------------------------------------------


def test_accuracy_and_recall_are_those_of_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 1797, 10, generator=generator)
    for place, rows in enumerate(DATA.test):
        truth, guess = DATA.labels[rows], logits[place, rows].argmax(-1)
        assert accuracy(logits, DATA.labels, DATA.test)[place] == pytest.approx(accuracy_score(truth, guess))
        theirs = recall_score(truth, guess, labels=[3], average=None)[0]
        assert recall(logits, DATA.labels, 3, DATA.test)[place] == pytest.approx(theirs)
    assert accuracy(logits, DATA.labels).shape == (5,)


def test_scorecard_measures():
    card = scorecard(mlp([64, 32, 10]), torch.zeros(1, 64))
    assert (card.parameters, card.flops) == (2410, 4736)
    assert 0 < card.latency < 1
    assert "2,410 parameters, 4,736 FLOPs" in str(card)
    slow = nn.Sequential(*[nn.Linear(600, 600) for _ in range(10)])
    assert latency(slow, torch.zeros(1, 600), repeats=20) > card.latency


@pytest.mark.parametrize(
    ("call", "error", "names"),
    [
        (lambda: accuracy(torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64)), ValueError, "logits"),
        (lambda: accuracy(torch.zeros(2, 3, 4), torch.zeros(3)), TypeError, "labels"),
        (lambda: accuracy(torch.zeros(2, 3, 4), torch.tensor([0, 1, 4])), ValueError, "labels"),
        (lambda: accuracy(torch.zeros(2, 3, 4), torch.tensor([0, 1, 3]), torch.tensor([[0]])), ValueError, "rows"),
        (
            lambda: accuracy(torch.zeros(1, 3, 4), torch.tensor([0, 1, 3]), torch.tensor([[3]])),
            ValueError,
            "rows: .*0 to 2",
        ),
        (lambda: accuracy(torch.zeros(1, 3, 4), torch.tensor([0, 1, 3]), torch.tensor([[0.0]])), TypeError, "rows"),
        (
            lambda: recall(torch.zeros(2, 3, 4), torch.tensor([0, 1, 3]), 2),
            ValueError,
            "at least one example of class 2",
        ),
        (lambda: scorecard(mlp([64, 10]), torch.zeros(2, 64)), ValueError, "example: expected one input"),
        (lambda: latency(mlp([64, 10]), torch.zeros(1, 64), repeats=0), ValueError, "repeats"),
    ],
)
def test_bad_scores(call, error, names):
    with pytest.raises(error, match=names):
        call()


# --- plotting ---------------------------------------------------------------------------------


def test_figures_need_a_text_and_fitting_data():
    figure, axes = plotting.new()
    with pytest.raises(ValueError, match="alt"):
        plotting.show(figure, "")
    with pytest.raises(ValueError, match="values: expected 2 arrays"):
        plotting.curve(axes[0, 0], [1, 2], [[1.0, 2.0]], "x")
    assert plotting.png(figure).startswith(b"\x89PNG")


def test_colours_differ_in_grey_or_by_mark():
    assert len(plotting.COLOURS) == len(plotting._MARKS)
    assert len(set(plotting._MARKS.values())) == len(plotting._MARKS)
