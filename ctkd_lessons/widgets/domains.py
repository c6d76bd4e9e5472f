"""The pictures of lessons 08 and 09: from one domain to another."""

from collections.abc import Mapping, Sequence

import ipywidgets
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from ctkd_lessons import expect, plotting
from ctkd_lessons.cross_domain import confident_pseudo_labels, smooth_over_neighbours
from ctkd_lessons.data.domains import KINDS, changed
from ctkd_lessons.shift import median_gamma, mmd
from ctkd_lessons.widgets.frame import WHOLE, movable, numbered

STRENGTHS = [tenth / 10 for tenth in range(11)]


def shift_viewer(images: Tensor, labels: Tensor, network: nn.Module, reference: Tensor) -> None:
    """Show what a growing shift does to a digit, to accuracy and to MMD, with a choice of its kind.

    ``images``: (n, 64) in [0, 1], n ≥ 2; ``labels``: (n,); ``network``: classifier of such images;
    ``reference``: (m, 64), other images of the source, m ≥ 2, which MMD compares with.
    """
    expect.features("images", images, ndim=2, low_batch=2)
    expect.labels("labels", labels, examples=len(images), classes=10)
    curves = {kind: _over_strength(images, labels, network, reference, kind) for kind in KINDS}
    twin, axes = plotting.new(1, 3, size=(6.6, 2.2))
    for one, kind in zip(axes[0], ("noisy", "thin", "inverted"), strict=True):
        _draw_over_strength(one, curves[kind], kind)
    axes[0, 0].legend(fontsize=8, loc="center left")  # there the curves leave room
    plotting.show(
        twin,
        "Accuracy and MMD over the strength of a shift. Noisy: accuracy falls far while MMD hardly moves. Thin: MMD is "
        "high before accuracy falls. Inverted: accuracy falls to zero, MMD rises and turns back.",
    )
    kind = ipywidgets.Dropdown(options=list(KINDS), value="noisy", description="shift")
    strength = ipywidgets.FloatSlider(value=0.5, min=0, max=1, step=0.1, description="strength")
    digit = ipywidgets.Dropdown(options=numbered("example", labels[:10]), description="digit")

    @torch.no_grad()
    def draw(kind: str, strength: float, place: int) -> Figure:
        figure, axes = plotting.new(1, 3, size=(8, 2.5))
        image = changed(images[place], kind, strength)
        plotting.digit(axes[0, 0], image, f"{kind} {strength:.1f}")
        answer = network(image.unsqueeze(0))[0].softmax(dim=0)
        axes[0, 1].bar(range(10), answer.numpy(force=True), color=plotting.COLOURS["blue"])
        axes[0, 1].set(title=f"its answer ({labels[place]} is right)", ylim=(0, 1), xticks=range(10))
        _draw_over_strength(axes[0, 2], curves[kind], f"{len(images)} digits")
        axes[0, 2].axvline(strength, color="black", linewidth=0.8)
        axes[0, 2].legend(fontsize=8)
        return figure

    movable([kind, strength, digit], draw, "shift", width=700)


@torch.no_grad()
def _over_strength(
    images: Tensor, labels: Tensor, network: nn.Module, reference: Tensor, kind: str
) -> dict[str, list[float]]:
    """Return accuracy and MMD at each of ``STRENGTHS``."""
    gamma = median_gamma(reference, reference)
    there = [changed(images, kind, strength) for strength in STRENGTHS]
    return {
        "accuracy": [float((network(x).argmax(dim=1) == labels).double().mean()) for x in there],
        "MMD": [float(mmd(reference, x, [gamma], unbiased=True)) for x in there],
    }


def _draw_over_strength(axes: Axes, curves: Mapping[str, Sequence[float]], title: str) -> None:
    for (name, values), colour, mark in zip(curves.items(), ("blue", "orange"), ("o-", "s--"), strict=True):
        axes.plot(STRENGTHS, values, mark, markersize=3, color=plotting.COLOURS[colour], label=name)
    axes.set(title=title, xlabel="strength", ylim=(-0.05, 1.05))


def pseudo_label_viewer(images: Tensor, logits: Tensor, labels: Tensor, neighbours: Tensor) -> None:
    """Show which pseudo-labels are kept and how many of them are right, with sliders for both choices.

    ``images``: (n, 64) in [0, 1]; ``logits``: (n, C), a model's; ``labels``: (n,), the truth, to colour with;
    ``neighbours``: (n, k), rows.
    """
    expect.logits("logits", logits, ndim=2)
    expect.labels("labels", labels, examples=len(logits), classes=logits.shape[1])
    given = (images, logits.softmax(dim=1), labels, neighbours)
    plotting.show(
        _draw_pseudo_labels(*given, rounds=0, share=0.5),
        f"For each of {logits.shape[1]} classes, how many confident pseudo-labels are right and how many wrong; "
        "beside it, images whose confident label is wrong.",
    )
    rounds = ipywidgets.IntSlider(value=3, min=0, max=10, description="rounds of asking neighbours", style=WHOLE)
    share = ipywidgets.FloatSlider(value=0.5, min=0.1, max=1, step=0.1, description="share kept", style=WHOLE)

    def draw(rounds: int, share: float) -> Figure:
        return _draw_pseudo_labels(*given, rounds=rounds, share=share)

    movable([rounds, share], draw, "pseudo-labels", width=700)


def _draw_pseudo_labels(
    images: Tensor, probabilities: Tensor, labels: Tensor, neighbours: Tensor, *, rounds: int, share: float
) -> Figure:
    classes = probabilities.shape[1]
    said, kept = confident_pseudo_labels(smooth_over_neighbours(probabilities, neighbours, rounds), share)
    right = (said == labels) & kept
    counts = [said[some].bincount(minlength=classes).numpy(force=True) for some in (right, kept & ~right)]
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    of_classes, of_images = figure.subfigures(1, 2, width_ratios=(1.2, 1))
    axes = of_classes.subplots()
    axes.bar(range(classes), counts[0], color=plotting.COLOURS["blue"], label="right")
    axes.bar(range(classes), counts[1], bottom=counts[0], color=plotting.COLOURS["orange"], hatch="//", label="wrong")
    share_right = float(right.sum() / kept.sum().clamp(min=1))
    axes.set(
        title=f"{int(kept.sum())} kept, {share_right:.0%} of them right", xlabel="pseudo-label", xticks=range(classes)
    )
    axes.set_ylim(0, 1.3 * max(1, (counts[0] + counts[1]).max()))
    axes.legend(ncols=2, loc="upper center")
    wrong = (kept & ~right).nonzero()[:, 0][:8].tolist()
    for place, one in enumerate(of_images.subplots(2, 4).flat):
        one.set_axis_off()
        if place < len(wrong):
            plotting.digit(one, images[wrong[place]], f"taken for {said[wrong[place]]}")
    return figure
