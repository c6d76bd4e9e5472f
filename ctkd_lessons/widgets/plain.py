"""The pictures of lessons 01 to 03: what a teacher answers, where it looks, how sure it is."""

import math
from collections.abc import Mapping, Sequence

import ipywidgets
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from ctkd_lessons import expect, plotting
from ctkd_lessons.features import activations, attention_map
from ctkd_lessons.soft_targets import soften
from ctkd_lessons.widgets.frame import WHOLE, movable, numbered


def temperature_slider(images: Tensor, logits: Tensor, labels: Tensor) -> None:
    """Show how the temperature changes a teacher's probabilities, with a slider and a choice of digits.

    ``images``: (n, 64) in [0, 1]; ``logits``: (n, 10), the teacher's; ``labels``: (n,).
    """
    expect.logits("logits", logits, ndim=2)
    expect.labels("labels", labels, examples=len(logits), classes=logits.shape[1])
    twin = _softened(images[0], logits[0], [1, 2, 4, 8])
    plotting.show(
        twin, f"A handwritten {labels[0]} and its teacher's probabilities, ever more even from T = 1 to T = 8."
    )

    temperature = ipywidgets.FloatLogSlider(
        value=4, base=2, min=-1, max=5, step=0.1, description="temperature T", style=WHOLE
    )
    digit = ipywidgets.Dropdown(options=numbered("example", labels), description="digit")

    def draw(temperature: float, place: int) -> Figure:
        return _softened(images[place], logits[place], [temperature])

    movable([temperature, digit], draw, "temperature", width=430)


def _softened(image: Tensor, logits: Tensor, temperatures: list[float]) -> Figure:
    return plotting.digit_and_answers(image, {f"T = {t:.3g}": soften(logits, t) for t in temperatures})


def attention_viewer(images: Tensor, labels: Tensor, networks: Mapping[str, nn.Module], layer: str) -> None:
    """Show where a layer is active, and what a network answers once its most active places are erased.

    ``images``: (n, 64) in [0, 1]; ``labels``: (n,); ``networks``: name → classifier whose ``layer``
    puts out square maps.
    """
    twin, axes = plotting.new(len(networks), 4, size=(8, 2.1 * len(networks)))
    for row, network in zip(axes, networks.values(), strict=True):
        _draw_erased(row, images[0], network, layer, erased=4)
    for row, name in zip(axes, networks, strict=True):
        row[0].set_title(f"{name}: a {labels[0]}")
    plotting.show(
        twin,
        f"A handwritten {labels[0]}, the attention map of each of {len(networks)} networks, the digit without the four "
        "most active places, and what the network then answers.",
    )

    digit = ipywidgets.Dropdown(options=numbered("example", labels), description="digit")
    who = ipywidgets.Dropdown(options=list(networks), description="network")
    erased = ipywidgets.IntSlider(value=4, min=0, max=12, description="places erased", style=WHOLE)

    def draw(place: int, name: str, erased: int) -> Figure:
        figure, axes = plotting.new(1, 4, size=(8, 2.1))
        _draw_erased(axes[0], images[place], networks[name], layer, erased)
        return figure

    movable([digit, who, erased], draw, "attention", width=700)


@torch.no_grad()
def _draw_erased(axes: Sequence[Axes], image: Tensor, network: nn.Module, layer: str, erased: int) -> None:
    """Draw the digit, its map, the digit without the ``erased`` most active places, and the answer."""
    places = attention_map(activations(network, image.unsqueeze(0), [layer])[1][layer])[0]
    side = math.isqrt(len(places))
    gone = torch.zeros(len(places)).scatter(0, places.topk(erased).indices, 1).view(side, side)
    kept = image * (1 - gone.repeat_interleave(8 // side, 0).repeat_interleave(8 // side, 1)).flatten()
    plotting.digit(axes[0], image, "the digit")
    axes[1].imshow(places.view(side, side).numpy(force=True), cmap="viridis", vmin=0)
    axes[1].set(title="attention map", xticks=[], yticks=[])
    plotting.digit(axes[2], kept, f"{erased} places erased")
    axes[3].bar(range(10), soften(network(kept.unsqueeze(0))[0]).numpy(force=True), color=plotting.COLOURS["blue"])
    axes[3].set(title="its answer then", ylim=(0, 1), xticks=range(10))


def confidence_slider(logits: Mapping[str, Tensor], labels: Tensor) -> None:
    """Show how much weight each teacher leaves to the wrong classes, with a slider for the temperature.

    ``logits``: teacher → (n, C); ``labels``: (n,). The weight is 1 − p_y, the factor in front of
    ``dkd_terms``' second term.
    """
    for name, one in logits.items():
        expect.logits(name, one, ndim=2)
        expect.labels("labels", labels, examples=len(one), classes=one.shape[1])
    twin, axes = plotting.new(1, 3, size=(9, 2.8))
    for one, temperature in zip(axes[0], (1, 4, 16), strict=True):
        _draw_confidence(one, logits, labels, temperature)
    plotting.show(
        twin,
        f"Shares of {len(labels)} digits over the weight that each of {len(logits)} teachers leaves to the wrong "
        "classes: tiny at T = 1, most of all for the confident teacher; alike at T = 16.",
    )

    temperature = ipywidgets.FloatLogSlider(
        value=4, base=2, min=-1, max=6, step=0.1, description="temperature T", style=WHOLE
    )

    def draw(temperature: float) -> Figure:
        figure, axes = plotting.new(1, 1, size=(4.5, 3))
        _draw_confidence(axes[0, 0], logits, labels, temperature)
        return figure

    movable([temperature], draw, "confidence", width=430)


def _draw_confidence(axes: Axes, logits: Mapping[str, Tensor], labels: Tensor, temperature: float) -> None:
    """Draw, for each teacher, which share of the examples has a weight 1 − p_y below x."""
    shares = np.arange(1, len(labels) + 1) / len(labels)
    for (name, one), colour in zip(logits.items(), plotting.COLOURS.values(), strict=False):
        weights = 1 - soften(one, temperature).gather(1, labels.unsqueeze(1)).squeeze(1)
        style = {"color": colour, "linestyle": "-" if colour == plotting.COLOURS["blue"] else "--"}
        axes.step(weights.clamp(min=1e-6).sort().values.numpy(force=True), shares, where="post", label=name, **style)
    axes.set(xscale="log", xlim=(1e-6, 1.2), ylim=(0, 1.02), title=f"T = {temperature:.3g}", xlabel="weight 1 − p_y")
    axes.set_ylabel("share of the digits below")
    axes.legend(loc="upper left")
