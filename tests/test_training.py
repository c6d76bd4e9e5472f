"""fit: the same as a plain loop, seed by seed; sources, progress, errors."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ctkd_lessons import conflict
from ctkd_lessons.data import digits
from ctkd_lessons.models import conv, mlp
from ctkd_lessons.seeds import stream
from ctkd_lessons.training import Source, fit, tuned

DATA = digits.load(seeds=4)
SMALL = partial(mlp, [64, 16, 10])
SHARED = SMALL()
TRAIN = Source(DATA.images, DATA.labels, rows=DATA.train)


def from_labels(model, x, y):
    return F.cross_entropy(model(x), y)


def largest_difference(a, b):
    return max((a[name] - b[name]).abs().max().item() for name in a)


def test_same_call_twice_is_bit_identical():
    first, second = (fit(SMALL, from_labels, TRAIN, seeds=4, steps=60) for _ in range(2))
    assert all(torch.equal(first.parameters[name], second.parameters[name]) for name in first.parameters)
    assert torch.equal(first.losses, second.losses)


def test_a_seed_is_the_same_whoever_stands_beside_it():
    ten = fit(SMALL, from_labels, TRAIN, seeds=4, steps=200)
    two = fit(SMALL, from_labels, Source(DATA.images, DATA.labels, rows=DATA.train[:2]), seeds=2, steps=200)
    assert largest_difference({n: p[:2] for n, p in ten.parameters.items()}, two.parameters) < 1e-4


def test_equals_a_plain_loop():
    fitted = fit(SMALL, from_labels, TRAIN, seeds=4, steps=50, batch_size=32, learning_rate=3e-3, weight_decay=0.1)
    for place, seed in enumerate(DATA.seeds):
        with torch.random.fork_rng():
            torch.manual_seed(stream(seed, "weights"))
            model = SMALL()
        optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
        for rows in TRAIN.order(place, seed, 50, 32, 0):
            optimiser.zero_grad()
            F.cross_entropy(model(DATA.images[rows]), DATA.labels[rows]).backward()
            optimiser.step()
        for name, value in model.named_parameters():
            assert torch.allclose(fitted.parameters[name][place], value, atol=1e-5), name


def test_together_equals_one_by_one():
    loss = lambda model, x, y, t, progress: from_labels(model, x, y) * (1 - progress) + F.mse_loss(model(x), t)
    targets = torch.randn(4, 1797, 10, generator=torch.Generator().manual_seed(0))
    source = Source(DATA.images, DATA.labels, rows=DATA.train, per_seed=[targets])
    fits = [fit(SMALL, loss, source, seeds=4, steps=40, together=together) for together in (True, False)]
    assert largest_difference(fits[0].parameters, fits[1].parameters) < 1e-5
    assert torch.allclose(fits[0].losses, fits[1].losses, atol=1e-4)
    assert torch.allclose(fits[0].predict(DATA.images[:5]), fits[1].predict(DATA.images[:5]), atol=1e-4)


def test_convolutions_train_one_by_one():
    students = fit(partial(conv, [4, 8], 10), from_labels, TRAIN, seeds=4, steps=5)
    assert not students.stacked
    assert students.predict(DATA.images[:3]).shape == (4, 3, 10)


def test_each_seed_learns_its_own_targets():
    """Constant targets that differ by seed: each student must come out with its own."""
    own = torch.arange(4.0).view(4, 1, 1).expand(4, 1797, 1).contiguous()
    students = fit(
        partial(mlp, [64, 1]),
        lambda model, x, t: F.mse_loss(model(x), t),
        Source(DATA.images, per_seed=[own]),
        seeds=4,
        steps=500,
        learning_rate=3e-2,
    )
    means = students.predict(DATA.images).mean(dim=(1, 2))
    assert torch.allclose(means, torch.arange(4.0), atol=0.1)


def test_only_the_named_rows_are_drawn_each_equally_often():
    rows = torch.arange(100, 150)
    order = Source(DATA.images, rows=rows).order(0, 0, 25, 8, 0)
    assert order.shape == (25, 8)
    assert order.flatten().bincount()[100:150].tolist() == [4] * 50


def test_several_sources_arrive_as_tuples():
    seen = []

    def loss(model, labelled, transfer):
        seen.append((len(labelled), len(transfer)))
        return from_labels(model, *labelled) + model(transfer[0]).square().mean()

    fit(SMALL, loss, [TRAIN, Source(DATA.images)], seeds=4, steps=2)
    assert seen[0] == (2, 1)


def test_one_is_an_ordinary_module():
    students = fit(SMALL, from_labels, TRAIN, seeds=4, steps=5)
    model = students.one(2)
    assert isinstance(model, nn.Sequential)
    assert torch.allclose(model(DATA.images), students.predict(DATA.images)[2], atol=1e-5)


def test_inputs_per_seed():
    students = fit(SMALL, from_labels, TRAIN, seeds=4, steps=5)
    own = DATA.images[DATA.test]
    assert torch.allclose(students.predict(own, per_seed=True)[1], students.predict(own[1])[1], atol=1e-5)


def test_dropout_is_off_when_predicting():
    students = fit(lambda: nn.Sequential(nn.Linear(64, 10), nn.Dropout(0.5)), from_labels, TRAIN, seeds=4, steps=3)
    assert torch.equal(students.predict(DATA.images), students.predict(DATA.images))


@pytest.mark.parametrize("together", [True, False])
def test_divergence_names_seed_and_step(together):
    poisoned = torch.zeros(4, 1797, 10)
    poisoned[2] = torch.inf

    def loss(model, x, poison, progress):
        return (model(x) + poison * (progress >= 0.5)).square().mean()

    with pytest.raises(FloatingPointError, match=f"seed {DATA.seeds[2]} is (inf|nan) at step"):
        fit(SMALL, loss, Source(DATA.images, per_seed=[poisoned]), seeds=4, steps=20, together=together)


def test_tuned_takes_the_best_and_passes_over_what_diverges():
    validate = lambda students: (students.predict(DATA.images).argmax(-1) == DATA.labels).float().mean(1).numpy()
    best = tuned(SMALL, from_labels, TRAIN, validate=validate, learning_rates=(1e-9, 1e-2, 1e20), seeds=4, steps=60)
    assert torch.equal(best.losses, fit(SMALL, from_labels, TRAIN, seeds=4, steps=60, learning_rate=1e-2).losses)
    with pytest.raises(FloatingPointError, match="every one"):
        tuned(SMALL, from_labels, TRAIN, validate=validate, learning_rates=(1e20, 1e21), seeds=4, steps=60)


@pytest.mark.parametrize(
    ("change", "error", "names"),
    [
        ({"seeds": 0}, ValueError, "seeds: expected 1 to 1000, got 0"),
        ({"seeds": 2.0}, TypeError, "seeds"),
        ({"seeds": [1, 1, 2, 3]}, ValueError, "seeds: expected distinct"),
        ({"seeds": 3}, ValueError, "data: expected 3 seeds"),
        ({"steps": 0}, ValueError, "steps"),
        ({"batch_size": -1}, ValueError, "batch_size"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate"),
        ({"weight_decay": -0.1}, ValueError, "weight_decay"),
        ({"data": None}, TypeError, "data: expected a Source"),
        ({"together": "yes"}, TypeError, "together: expected True, False or None"),
        ({"make_student": lambda: SHARED}, ValueError, "make_student: expected a new module"),
        ({"loss": lambda model, x, y: model(x).detach().mean()}, ValueError, "loss: .* without gradient"),
        ({"loss": lambda model, x, y: (model(x) - y).mean()}, RuntimeError, "size of tensor"),
        ({"data": []}, TypeError, "data: expected a Source"),
        ({"data": (DATA.images, DATA.labels)}, TypeError, "data: expected a Source"),
        ({"make_student": lambda: nn.ReLU()}, TypeError, "make_student"),
        ({"loss": lambda model, x, y: model(x)}, ValueError, r"loss: expected a scalar tensor, got \(64, 10\)"),
        ({"loss": lambda model, x, y: 1.0}, ValueError, "loss: expected a scalar tensor, got float"),
    ],
)
def test_bad_input_names_the_argument(change, error, names):
    arguments = {"make_student": SMALL, "loss": from_labels, "data": TRAIN, "seeds": 4, "steps": 2} | change
    with pytest.raises(error, match=names):
        fit(arguments.pop("make_student"), arguments.pop("loss"), arguments.pop("data"), **arguments)


@pytest.mark.parametrize(
    ("make", "error", "names"),
    [
        (lambda: Source(), TypeError, "at least one tensor"),
        (lambda: Source(np.zeros(3)), TypeError, "at least one tensor"),
        (lambda: Source(torch.zeros(3), torch.zeros(4)), ValueError, "same number of examples"),
        (lambda: Source(torch.zeros(3), per_seed=[torch.zeros(2, 4)]), ValueError, "same number of examples"),
        (lambda: Source(torch.zeros(3), rows=torch.tensor([3])), ValueError, "rows: .* below 3"),
        (lambda: Source(torch.zeros(3), rows=torch.tensor([], dtype=torch.int64)), ValueError, "rows: .* got none"),
        (lambda: Source(torch.zeros(3), rows=torch.tensor([0.0])), ValueError, "rows"),
        (lambda: Source(torch.zeros(3), rows=[0]), TypeError, "rows: expected a tensor"),
        (lambda: Source(torch.zeros(3), rows=torch.tensor(0)), TypeError, "rows: expected a tensor"),
        (lambda: Source(torch.zeros(3), per_seed=[torch.zeros(3)]), ValueError, "too few axes"),
    ],
)
def test_a_source_that_does_not_fit_says_so(make, error, names):
    with pytest.raises(error, match=names):
        make()


def test_running_averages_are_trained_one_by_one():
    make = lambda: nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))
    students = fit(make, from_labels, TRAIN, seeds=4, steps=3)
    assert students.buffers["1.num_batches_tracked"].tolist() == [3] * 4
    assert torch.allclose(students.one(1)(DATA.images), students.predict(DATA.images)[1], atol=1e-5)
    with pytest.raises(ValueError, match="together: expected False for a student with buffers"):
        fit(make, from_labels, TRAIN, seeds=4, steps=3, together=True)


@pytest.mark.parametrize("together", [True, False])
def test_frozen_parameters_stay(together):
    def make():
        model = SMALL()
        model[0].requires_grad_(False)
        return model

    students = fit(make, from_labels, TRAIN, seeds=4, steps=3, together=together)
    untrained = fit(SMALL, from_labels, TRAIN, seeds=4, steps=1, learning_rate=1e-30)
    assert torch.equal(students.parameters["0.weight"], untrained.parameters["0.weight"])
    assert not torch.equal(students.parameters["2.weight"], untrained.parameters["2.weight"])


def test_a_loss_may_hold_tensors_of_its_own():
    weight = torch.linspace(0.5, 2, 10)
    loss = lambda model, x, y: F.cross_entropy(model(x), y, weight=weight) + (model(x) @ torch.eye(10)).square().mean()
    fits = [fit(SMALL, loss, TRAIN, seeds=4, steps=20, together=together) for together in (True, False)]
    assert largest_difference(fits[0].parameters, fits[1].parameters) < 1e-5


@pytest.mark.parametrize("together", [True, False])
def test_each_step_draws_its_own_dropout_and_draws_it_again(together):
    """Traced once, but random at every step and for every seed; the same when repeated."""
    noise = lambda model, x: F.dropout(model(x) * 0 + 1, 0.5).mean()
    losses = [fit(SMALL, noise, Source(DATA.images), seeds=4, steps=6, together=together).losses for _ in range(2)]
    assert len(losses[0].unique()) > 12
    assert torch.equal(*losses)


def test_tuned_wants_rates_and_scores():
    with pytest.raises(ValueError, match="learning_rates: expected at least one"):
        tuned(SMALL, from_labels, TRAIN, validate=lambda students: [0.0], learning_rates=())
    with pytest.raises(ValueError, match="weight_decays: expected at least one"):
        tuned(SMALL, from_labels, TRAIN, validate=lambda students: [0.0], weight_decays=())
    with pytest.raises(ValueError, match="validate: expected finite scores"):
        tuned(SMALL, from_labels, TRAIN, validate=lambda students: [np.nan], seeds=4, steps=2)


@pytest.mark.parametrize("make", [SMALL, partial(conv, [2], 10)])
def test_tuned_trains_each_pair_as_fit_does(make):
    seen = []
    keep = lambda students: seen.append(students) or [0.0]
    tuned(make, from_labels, TRAIN, validate=keep, learning_rates=(1e-3, 1e-2), weight_decays=(0, 1), seeds=4, steps=5)
    pairs = [(1e-3, 0), (1e-3, 1), (1e-2, 0), (1e-2, 1)]
    for students, (rate, decay) in zip(seen, pairs, strict=True):
        alone = fit(make, from_labels, TRAIN, seeds=4, steps=5, learning_rate=rate, weight_decay=decay)
        assert all(torch.equal(alone.parameters[name], tensor) for name, tensor in students.parameters.items())


def test_a_loss_that_refuses_nan_counts_as_divergence_too():
    def loss(model, x, y):
        answer = model(x)
        if not torch.isfinite(answer).all():
            raise ValueError("answer: expected finite values")
        return (1e30 * answer).square().mean()

    make = lambda: conv([2], 2)
    data = Source(torch.rand(32, 64), torch.zeros(32))
    with pytest.raises(FloatingPointError, match=r"seed \d+ is (inf|nan|refused)"):
        fit(make, loss, data, seeds=2, steps=300, learning_rate=1e30)


# --- fit(…, combine=…): one gradient per task ----------------------------------------------------


class TwoHeads(nn.Module):
    """A trunk that both tasks share, and a head for each."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(64, 12), nn.Tanh())
        self.digit, self.parity = nn.Linear(12, 10), nn.Linear(12, 2)


def each_task(model, x, y):
    h = model.trunk(x)
    return torch.stack([F.cross_entropy(model.digit(h), y), 3 * F.cross_entropy(model.parity(h), y % 2)])


def both_tasks(model, x, y):
    return each_task(model, x, y).sum()


def added_up(gradients, losses):
    return gradients.sum(dim=1)


def surgery(gradients, losses):
    """PCGrad, in the order of the tasks."""
    order = torch.arange(gradients.shape[1]).expand(len(gradients), gradients.shape[1], gradients.shape[1])
    return torch.func.vmap(conflict.pcgrad)(gradients, order)


SHARED_PART, HEADS = ["trunk.0.weight", "trunk.0.bias"], ["digit.weight", "digit.bias", "parity.weight", "parity.bias"]


def test_gradients_added_up_train_like_the_sum_of_the_losses():
    options = {"seeds": 4, "steps": 40, "learning_rate": 1e-2, "weight_decay": 0.1}
    separate = fit(TwoHeads, each_task, TRAIN, combine=added_up, **options)
    plain = fit(TwoHeads, both_tasks, TRAIN, **options)
    for place in range(4):
        mine, theirs = ({n: p[place] for n, p in fitted.parameters.items()} for fitted in (separate, plain))
        assert largest_difference(mine, theirs) < 1e-4
    assert torch.allclose(separate.losses, plain.losses, atol=1e-4)


def test_combine_equals_a_plain_loop_seed_by_seed():
    """Each seed has images of its own: gradients given to another seed would show."""
    own = torch.rand(4, 1797, 64, generator=torch.Generator().manual_seed(0))
    source = Source(DATA.labels, rows=DATA.train, per_seed=[own])
    loss = lambda model, y, x: each_task(model, x, y)
    fitted = fit(TwoHeads, loss, source, seeds=4, steps=25, batch_size=16, learning_rate=1e-2, combine=surgery)
    order = torch.arange(2).expand(2, 2)
    for place, seed in enumerate(DATA.seeds):
        with torch.random.fork_rng():
            torch.manual_seed(stream(seed, "weights"))
            model = TwoHeads()
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0)
        for rows in source.order(place, seed, 25, 16, 0):
            losses = each_task(model, own[place, rows], DATA.labels[rows])
            optimiser.zero_grad()
            losses.sum().backward(retain_graph=True)
            direction = conflict.pcgrad(conflict.task_gradients(losses, model.trunk.parameters()), order)
            for parameter, value in zip(model.trunk.parameters(), direction.split([64 * 12, 12]), strict=True):
                parameter.grad = value.view_as(parameter)
            optimiser.step()
        for name, value in model.named_parameters():
            assert torch.allclose(fitted.parameters[name][place], value, atol=1e-4), (seed, name)


def test_combine_sees_every_seed_and_task_and_its_answer_reaches_that_seed():
    seen = []

    def only_the_third(gradients, losses):
        seen.append((gradients.shape, losses.clone()))
        return gradients.sum(dim=1) * (torch.arange(4) == 2).view(4, 1)

    fitted = fit(TwoHeads, each_task, TRAIN, seeds=4, steps=8, combine=only_the_third)
    untrained = fit(TwoHeads, both_tasks, TRAIN, seeds=4, steps=1, learning_rate=1e-30)
    for name in SHARED_PART:
        moved = (fitted.parameters[name] != untrained.parameters[name]).flatten(1).any(dim=1)
        assert moved.tolist() == [False, False, True, False]
    for name in HEADS:  # what one task alone reaches follows its gradient
        assert (fitted.parameters[name] != untrained.parameters[name]).flatten(1).any(dim=1).all()
    assert {shape for shape, _ in seen} == {(4, 2, 64 * 12 + 12)}
    assert torch.allclose(torch.stack([losses.sum(1) for _, losses in seen], 1), fitted.losses)


def test_a_single_task_shares_with_itself():
    single = fit(SMALL, lambda model, x, y: from_labels(model, x, y)[None], TRAIN, seeds=4, steps=20, combine=added_up)
    assert largest_difference(single.parameters, fit(SMALL, from_labels, TRAIN, seeds=4, steps=20).parameters) < 1e-5


def test_frozen_parameters_stay_with_combine():
    def make():
        model = TwoHeads()
        model.trunk[0].bias.requires_grad_(False)
        return model

    fitted = fit(make, each_task, TRAIN, seeds=4, steps=3, combine=surgery)
    untrained = fit(TwoHeads, both_tasks, TRAIN, seeds=4, steps=1, learning_rate=1e-30)
    assert torch.equal(fitted.parameters["trunk.0.bias"], untrained.parameters["trunk.0.bias"])


class Fading:
    """Counts its steps and gives the second task less weight at each."""

    steps = 0

    def __call__(self, gradients, losses):
        self.steps += 1
        return gradients[:, 0] + gradients[:, 1] / self.steps


def test_tuned_gives_each_training_a_state_of_its_own():
    state, seen = Fading(), []
    keep = lambda students: seen.append(students) or [0.0]
    options = {"seeds": 4, "steps": 6}
    tuned(TwoHeads, each_task, TRAIN, validate=keep, learning_rates=(1e-3, 1e-2), combine=state, **options)
    assert state.steps == 0
    for students, rate in zip(seen, (1e-3, 1e-2), strict=True):
        alone = fit(TwoHeads, each_task, TRAIN, learning_rate=rate, combine=Fading(), **options)
        assert all(torch.equal(alone.parameters[name], tensor) for name, tensor in students.parameters.items())


def test_a_combine_that_refuses_nan_names_the_seed():
    def one_at_a_time(gradients, losses):
        return torch.stack([conflict.mgda(one)[1] for one in gradients])

    poison = torch.zeros(4, 1797, 1)
    poison[2] = torch.inf
    loss = lambda model, x, p, progress: (model(x)[:, :2] + torch.where(progress >= 0.5, p, 0)).square().mean(0)
    source = Source(DATA.images, per_seed=[poison])
    with pytest.raises(FloatingPointError, match=f"seed {DATA.seeds[2]} is refused: gradients: .* at step 10 of 20"):
        fit(SMALL, loss, source, seeds=4, steps=20, combine=one_at_a_time)
    with pytest.raises(ValueError, match=r"^my own$"):
        fit(TwoHeads, each_task, TRAIN, seeds=4, steps=2, combine=refusing)


def refusing(gradients, losses):
    raise ValueError("my own")


def test_a_parameter_is_shared_whatever_the_first_batch_holds():
    """The second task has few examples: none in the first batch of some seeds."""
    rare = (torch.arange(1797) % 40 == 0).float()
    shapes = set()

    def loss(model, x, y, known):
        h = model.trunk(x)
        second = torch.where(known > 0, F.cross_entropy(model.parity(h), y % 2, reduction="none"), 0)
        return torch.stack([F.cross_entropy(model.digit(h), y), second.sum() / known.sum().clamp(min=1)])

    def look(gradients, losses):
        shapes.add(tuple(gradients.shape))
        return surgery(gradients, losses)

    source = Source(DATA.images, DATA.labels, rare, rows=DATA.train)
    fitted = fit(TwoHeads, loss, source, seeds=4, steps=60, batch_size=16, combine=look)
    assert shapes == {(4, 2, 64 * 12 + 12)}
    assert torch.isfinite(fitted.losses).all()


@pytest.mark.parametrize(
    ("change", "error", "names"),
    [
        ({"combine": "sum"}, TypeError, "combine: expected a function of gradients and losses, got str"),
        ({"loss": both_tasks}, ValueError, r"loss: expected a loss per task, \(K,\), because of combine, got \(\)"),
        ({"loss": lambda model, x, y: model.digit(model.trunk(x))}, ValueError, r"loss: .* got \(64, 10\)"),
        ({"loss": lambda model, x, y: each_task(model, x, y)[:0]}, ValueError, r"loss: .* got \(0,\)"),
        ({"combine": None}, ValueError, r"loss: expected a scalar tensor, got \(2,\)"),
        ({"combine": lambda g, losses: g}, ValueError, r"combine: .* per seed, \(4, 780\), got \(4, 2, 780\)"),
        ({"combine": lambda g, losses: g.sum((0, 1))}, ValueError, r"combine: expected .* got \(780,\)"),
        ({"combine": lambda g, losses: None}, ValueError, "combine: expected .* got NoneType"),
        ({"together": False}, ValueError, "combine: expected students that are trained together, got convolutions, bu"),
        ({"make_student": partial(conv, [2], 10)}, ValueError, "combine: .* got convolutions"),
        ({"make_student": lambda: nn.Sequential(nn.Linear(64, 2), nn.BatchNorm1d(2))}, ValueError, "combine: .* buff"),
        ({"loss": lambda model, x, y: torch.stack([model.digit.weight.sum(), model.parity.bias.sum()])}, ValueError,
         "loss: expected tasks that share parameters, because of combine, got none that do"),
    ],
)  # fmt: skip
def test_bad_combine_says_so(change, error, names):
    arguments = {"make_student": TwoHeads, "loss": each_task, "data": TRAIN, "combine": added_up} | change
    with pytest.raises(error, match=names):
        fit(arguments.pop("make_student"), arguments.pop("loss"), arguments.pop("data"), seeds=4, steps=2, **arguments)
