"""Every widget: its static twin comes first, and each of its controls changes the picture."""

import ipywidgets
import numpy as np
import pytest
import torch

from ctkd_lessons import plotting, widgets
from ctkd_lessons.data import scenes, sinusoids
from ctkd_lessons.models import mlp, strided_conv
from ctkd_lessons.widgets import domains, frame, meta, plain, tasks

IMAGES, LABELS = torch.rand(4, 64, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 1, 4, 1])
LOGITS = 4 * torch.randn(4, 10, generator=torch.Generator().manual_seed(1))


def networks():
    torch.manual_seed(0)
    return {name: strided_conv([4, 4], 10) for name in ("teacher", "student")}


def starts():
    torch.manual_seed(0)
    return {name: mlp([1, 8, 1]) for name in ("one", "two")}


def waves(tasks=3, points=12):
    one = sinusoids.draw(tasks, points, seeds=[0])
    return sinusoids.Waves(one.x[0], one.y[0], one.amplitudes[0], one.phases[0])


def views(examples):
    return np.random.default_rng(examples).normal(size=(2, examples, 3))


def answers(seed, examples=5):
    torch.manual_seed(seed)
    return {name: torch.randn(examples, size) for name, size in {"class": 10, "box": 4, "mask": 256}.items()}


WIDGETS = {
    "adaptation": lambda: widgets.adaptation_viewer(starts(), waves()),
    "temperature": lambda: widgets.temperature_slider(IMAGES, LOGITS, LABELS),
    "attention": lambda: widgets.attention_viewer(IMAGES, LABELS, networks(), "2"),
    "transfer map": lambda: widgets.transfer_map_viewer(views(20), views(9), np.arange(9) % 2 == 0, lambda x: x[:, 0]),
    "scenes": lambda: widgets.scene_viewer(
        scenes.compose(torch.rand(10, 64), torch.arange(10), 5), {"one": answers(0), "two": answers(1)}
    ),
    "targets": lambda: widgets.target_viewer(
        scenes.compose(torch.rand(10, 64), torch.arange(10), 5),
        {"one": answers(0)["class"], "two": answers(1)["class"]},
    ),
    "rule": lambda: widgets.rule_viewer(
        torch.rand(2, 3, 64), torch.rand(2, 3, 10).softmax(dim=2), torch.eye(10, dtype=torch.bool).expand(10, 10, 10)
    ),
    "confidence": lambda: widgets.confidence_slider({"sure": 3 * LOGITS, "unsure": LOGITS}, LABELS),
    "gradients": widgets.gradient_plane,
    "pseudo-labels": lambda: widgets.pseudo_label_viewer(
        torch.rand(40, 64), answers(0, 40)["class"], torch.arange(40) % 10, torch.arange(80).view(40, 2) % 40
    ),
    "shift": lambda: widgets.shift_viewer(IMAGES, LABELS, networks()["teacher"], IMAGES.flip(0)),
}


@pytest.mark.parametrize("make", WIDGETS.values(), ids=WIDGETS)
def test_each_control_changes_the_picture(make, monkeypatch):
    shown = []
    monkeypatch.setattr(plotting, "show", lambda figure, alt: shown.append(alt))
    monkeypatch.setattr(frame, "display", shown.append)
    make()
    twin, box = shown
    assert twin.endswith(".")
    row, picture = box.children
    assert row.children
    for control in row.children:
        before = picture.value
        control.value = 2.0 if isinstance(control, ipywidgets.FloatLogSlider) else other_value(control)
        assert picture.value != before, control.description


def other_value(control):
    if isinstance(control, ipywidgets.Dropdown):
        return next(value for _, value in control._options_full if value != control.value)
    return control.value + 1


@pytest.mark.parametrize("erased", [0, 12])
def test_attention_viewer_draws_at_the_ends_of_its_slider(erased):
    _, axes = plotting.new(1, 4)
    plain._draw_erased(axes[0], IMAGES[0], networks()["teacher"], "2", erased)
    assert axes[0, 2].get_title() == f"{erased} places erased"


def test_gradient_plane_puts_every_method_at_the_mean_for_two_equal_gradients():
    for direction in tasks._directions(torch.tensor([[3.0, 0.0], [3.0, 0.0]]), c=0.0).values():
        assert torch.allclose(direction, torch.tensor([3.0, 0.0]))


def test_pseudo_label_viewer_counts_what_is_kept_and_right():
    probabilities = torch.eye(2)[torch.tensor([0, 0, 1, 1])] * 0.8 + 0.1
    figure = domains._draw_pseudo_labels(
        torch.rand(4, 64), probabilities, torch.tensor([0, 1, 1, 1]), torch.arange(4).view(4, 1), rounds=1, share=1.0
    )
    assert figure.subfigs[0].axes[0].get_title() == "4 kept, 75% of them right"
    assert figure.subfigs[1].axes[0].get_title() == "taken for 0"


@pytest.mark.parametrize("angle", [0, 179, 180])
def test_gradient_plane_draws_gradients_in_line(angle):
    _, axes = plotting.new(1, 2)
    tasks._draw_plane(axes[0], angle, 1.0, 1.0, c=0.5)
    assert np.isfinite([bar.get_height() for bar in axes[0, 1].patches]).all()


def test_adaptation_viewer_draws_what_plain_steps_give():
    network, tasks = starts()["one"], waves()
    x, y, lr = tasks.x[1, :10], tasks.y[1, :10], 0.05
    _, axes = plotting.new(1, 1)
    meta._draw(axes[0, 0], {"one": network}, tasks, 1, 10, 2, lr)
    optimiser = torch.optim.SGD(network.parameters(), lr=lr)
    for _ in range(2):
        optimiser.zero_grad()
        (network(x) - y).square().mean().backward()
        optimiser.step()
    drawn = {line.get_label(): line.get_ydata() for line in axes[0, 0].lines}
    everywhere = torch.linspace(-5, 5, 101).unsqueeze(1)
    expected = network(everywhere).detach()[:, 0]
    truth = tasks.amplitudes[1] * torch.sin(everywhere[:, 0] - tasks.phases[1])
    np.testing.assert_allclose(drawn["one"], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(drawn["the wave"], truth, rtol=1e-4, atol=1e-5)
    assert axes[0, 0].get_title() == f"2 steps: {(expected - truth).square().mean():.2f}"


def test_adaptation_viewer_says_when_steps_diverge():
    tasks = waves()
    tasks.y.mul_(1e6)
    _, axes = plotting.new(1, 1)
    meta._draw(axes[0, 0], starts(), tasks, 0, 10, 20, 0.1)
    assert axes[0, 0].get_title() == "20 steps: diverges, diverges"


def test_adaptation_viewer_refuses_what_it_cannot_draw():
    for given, options, message in (
        (({}, waves()), {}, "starts: expected 1 to 3 networks, got 0"),
        ((starts(), sinusoids.draw(2, 12, seeds=[0])), {}, "tasks: expected waves of one seed"),
        ((starts(), waves()), {"shots": 13}, "shots: "),
        ((starts(), waves()), {"lr": 1.0}, "lr: "),
    ):
        with pytest.raises(ValueError, match=message):
            widgets.adaptation_viewer(*given, **options)
