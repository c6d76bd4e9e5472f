"""The picture of lesson 10: how far a few steps on a few points go, from different starts."""

from collections.abc import Mapping

import ipywidgets
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.func import functional_call

from ctkd_lessons import expect, plotting
from ctkd_lessons.data.sinusoids import REACH, Waves, wave
from ctkd_lessons.meta import adapt
from ctkd_lessons.widgets.frame import WHOLE, movable

_STYLES = (("blue", "-"), ("orange", "--"), ("green", "-."))


def adaptation_viewer(starts: Mapping[str, nn.Module], tasks: Waves, *, shots: int = 10, lr: float = 0.02) -> None:
    """Show what each start predicts after some inner steps, with sliders for the steps, their size and the task.

    ``starts``: name → network from (n, 1) to (n, 1), at most three; ``tasks``: T waves, of which the first
    ``shots`` points are learned from; ``lr``: the step size to begin with, 0.001 to 0.1.
    """
    if not 1 <= len(starts) <= len(_STYLES):
        raise ValueError(f"starts: expected 1 to {len(_STYLES)} networks, got {len(starts)}")
    if tasks.x.ndim != 3:
        raise ValueError(f"tasks: expected waves of one seed, x of shape (T, n, 1), got {tuple(tasks.x.shape)}")
    expect.count("shots", shots, high=tasks.x.shape[1])
    expect.number("lr", lr, low=0.001, high=0.1)
    names = " and ".join(starts)
    twin, axes = plotting.new(1, 3, size=(6.4, 2.2))
    for one, steps in zip(axes[0], (0, 1, 10), strict=True):
        _draw(one, starts, tasks, 0, shots, steps, lr)
    twin.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    plotting.show(
        twin,
        f"A wave, {shots} points on it, and what {names} predict after 0, 1 and 10 steps on these points; "
        "each title gives the step count and the mean squared errors.",
    )
    steps = ipywidgets.IntSlider(value=1, min=0, max=20, description="inner steps", style=WHOLE)
    size = ipywidgets.FloatLogSlider(value=lr, base=10, min=-3, max=-1, step=0.05, description="step size", style=WHOLE)
    place = ipywidgets.Dropdown(
        options=[
            (f"task {number + 1}: amplitude {a:.1f}, phase {p:.1f}", number)
            for number, (a, p) in enumerate(zip(tasks.amplitudes.tolist(), tasks.phases.tolist(), strict=True))
        ],
        description="wave",
    )

    def draw(steps: int, size: float, place: int) -> Figure:
        figure, axes = plotting.new(1, 1, size=(6, 3.6))
        _draw(axes[0, 0], starts, tasks, place, shots, steps, size)
        axes[0, 0].legend(loc="center left", bbox_to_anchor=(1, 0.5))
        return figure

    movable([steps, size, place], draw, "adaptation", width=620)


def _draw(
    axes: Axes, starts: Mapping[str, nn.Module], tasks: Waves, place: int, shots: int, steps: int, lr: float
) -> None:
    """Draw one task: its wave, its support points, and each start's prediction after the steps."""
    x, y = tasks.x[place, :shots], tasks.y[place, :shots]
    everywhere = torch.linspace(-REACH, REACH, 101).unsqueeze(1)
    truth = wave(everywhere, tasks.amplitudes[place], tasks.phases[place])
    axes.plot(everywhere[:, 0], truth[:, 0], color=plotting.COLOURS["grey"], linewidth=3, alpha=0.4, label="the wave")
    axes.plot(x[:, 0], y[:, 0], "ok", markersize=4, label=f"{shots} points")
    errors = []
    for (name, network), (colour, dash) in zip(starts.items(), _STYLES, strict=False):
        found = _after(network, x, y, everywhere, steps, lr)
        errors.append("diverges" if found is None else f"{float((found - truth).square().mean()):.2f}")
        if found is not None:
            axes.plot(everywhere[:, 0], found[:, 0], dash, color=plotting.COLOURS[colour], label=name)
    count = f"{steps} step" + "s" * (steps != 1)
    axes.set(title=f"{count}: " + ", ".join(errors), xlabel="x", ylim=(-6, 6))


def _after(network: nn.Module, x: Tensor, y: Tensor, everywhere: Tensor, steps: int, lr: float) -> Tensor | None:
    """Return what a network says everywhere after some steps on a few points; nothing if they diverge."""
    params = {name: tensor.detach() for name, tensor in network.named_parameters()}

    def loss(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(functional_call(network, params, (x,)), y)

    try:
        adapted = adapt(loss, params, x, y, lr=lr, steps=steps)
    except FloatingPointError:
        return None
    with torch.no_grad():
        found = functional_call(network, adapted, (everywhere,))
    return found if found.isfinite().all() else None
