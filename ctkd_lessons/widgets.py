"""The pictures a learner can move. Each shows its static twin first, for readers without a kernel."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import ipywidgets
import numpy as np
import torch
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from ctkd_lessons import expect, plotting
from ctkd_lessons.conflict import cagrad, mgda, pcgrad
from ctkd_lessons.cross_task import fit_transfer_map, procrustes
from ctkd_lessons.data.scenes import Scenes
from ctkd_lessons.features import activations, attention_map
from ctkd_lessons.multi_task import annealed_targets, fuse_answers
from ctkd_lessons.pipeline import box_iou, mask_iou, to_boxes
from ctkd_lessons.soft_targets import soften

WHOLE = {"description_width": "initial"}  # the label of a slider is not cut


def temperature_slider(images: Tensor, logits: Tensor, labels: Tensor) -> None:
    """Show how the temperature changes a teacher's probabilities, with a slider and a choice of digits.

    ``images``: (n, 64) in [0, 1]; ``logits``: (n, 10), the teacher's; ``labels``: (n,).
    """
    expect.logits("logits", logits, ndim=2)
    expect.labels("labels", labels, examples=len(logits), classes=logits.shape[1])
    names = [f"example {place + 1}: a {label}" for place, label in enumerate(labels.tolist())]
    twin = _softened(images[0], logits[0], [1, 2, 4, 8])
    plotting.show(
        twin, f"A handwritten {labels[0]} and its teacher's probabilities, ever more even from T = 1 to T = 8."
    )

    slider = ipywidgets.FloatLogSlider(
        value=4, base=2, min=-1, max=5, step=0.1, description="temperature T", style=WHOLE
    )
    choice = ipywidgets.Dropdown(options=[(name, place) for place, name in enumerate(names)], description="digit")
    picture = ipywidgets.Image(format="png", layout={"width": "430px"})
    picture.add_class("ctkd-temperature")

    def redraw(_: object = None) -> None:
        picture.value = plotting.png(_softened(images[choice.value], logits[choice.value], [slider.value]))

    slider.observe(redraw, names="value")
    choice.observe(redraw, names="value")
    redraw()
    display(ipywidgets.VBox([ipywidgets.HBox([slider, choice]), picture]))


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

    names = [(f"example {place + 1}: a {label}", place) for place, label in enumerate(labels.tolist())]
    digit = ipywidgets.Dropdown(options=names, description="digit")
    who = ipywidgets.Dropdown(options=list(networks), description="network")
    erased = ipywidgets.IntSlider(value=4, min=0, max=12, description="places erased", style=WHOLE)
    picture = ipywidgets.Image(format="png", layout={"width": "700px"})
    picture.add_class("ctkd-attention")

    def redraw(_: object = None) -> None:
        figure, axes = plotting.new(1, 4, size=(8, 2.1))
        _draw_erased(axes[0], images[digit.value], networks[who.value], layer, erased.value)
        picture.value = plotting.png(figure)

    for control in (digit, who, erased):
        control.observe(redraw, names="value")
    redraw()
    display(ipywidgets.VBox([ipywidgets.HBox([digit, who, erased]), picture]))


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

    slider = ipywidgets.FloatLogSlider(
        value=4, base=2, min=-1, max=6, step=0.1, description="temperature T", style=WHOLE
    )
    picture = ipywidgets.Image(format="png", layout={"width": "430px"})
    picture.add_class("ctkd-confidence")

    def redraw(_: object = None) -> None:
        figure, axes = plotting.new(1, 1, size=(4.5, 3))
        _draw_confidence(axes[0, 0], logits, labels, slider.value)
        picture.value = plotting.png(figure)

    slider.observe(redraw, names="value")
    redraw()
    display(ipywidgets.VBox([slider, picture]))


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


def transfer_map_viewer(
    pairs: tuple[NDArray, NDArray],
    held_out: tuple[NDArray, NDArray],
    answers: NDArray,
    head: Callable[[NDArray], NDArray],
) -> None:
    """Show target features beside mapped source features, with sliders for the pairs and the ridge.

    ``pairs``: source and target features (n, D) of the examples that the map is learned on;
    ``held_out``: (m, D) each, other examples; ``answers``: (m,) bool, what is true of those;
    ``head``: (m, D) target features → (m,), positive for yes.
    """
    draw = partial(_draw_mapped, pairs=pairs, held_out=held_out, answers=answers, head=head)
    few, every = min(30, len(pairs[0]) - 1), len(pairs[0])
    twin, axes = plotting.new(1, 4, size=(10, 2.9))
    for one, name, size in zip(axes[0], ("target", "none", "ridge", "ridge"), (few, few, few, every), strict=True):
        draw(one, name, size, ridge=1.0)
    plotting.show(
        twin,
        "Held-out examples by their first two features, yes and no in two colours: the target's own; the source's, "
        "where the two are mixed; mapped from 30 pairs, and from all, where they lie as in the target's picture.",
    )

    kind = ipywidgets.Dropdown(options=["ridge", "rotation", "none"], description="map")
    count = ipywidgets.IntSlider(value=few, min=2, max=every, description="pairs", style=WHOLE)
    ridge = ipywidgets.FloatLogSlider(value=1, base=10, min=-3, max=3, step=0.25, description="ridge", style=WHOLE)
    picture = ipywidgets.Image(format="png", layout={"width": "560px"})
    picture.add_class("ctkd-transfer-map")

    def redraw(_: object = None) -> None:
        figure, axes = plotting.new(1, 2, size=(6.5, 3.2))
        for one, name in zip(axes[0], ("target", kind.value), strict=True):
            draw(one, name, count.value, ridge=ridge.value)
        picture.value = plotting.png(figure)

    for control in (count, ridge, kind):
        control.observe(redraw, names="value")
    redraw()
    display(ipywidgets.VBox([ipywidgets.HBox([count, ridge, kind]), picture]))


def _draw_mapped(
    axes: Axes,
    kind: str,
    count: int,
    *,
    ridge: float,
    pairs: tuple[NDArray, NDArray],
    held_out: tuple[NDArray, NDArray],
    answers: NDArray,
    head: Callable[[NDArray], NDArray],
) -> None:
    """Draw the first two features of held-out examples, carried over by a map of one kind."""
    source, target = (one[:count] for one in pairs)
    if kind == "target":
        shown, title = held_out[1], "the target's features"
    elif kind == "none":
        shown, title = held_out[0], "the source's, not mapped"
    else:
        learned = procrustes(source, target) if kind == "rotation" else fit_transfer_map(source, target, ridge)
        shown, title = held_out[0] @ learned, f"mapped, {count} pairs"
    right = np.mean((head(shown) > 0) == answers)
    for value, colour, marker in ((True, "blue", "o"), (False, "orange", "s")):
        x, y = shown[answers == value, :2].T
        label = "yes" if value else "no"
        axes.scatter(x, y, s=9, marker=marker, color=plotting.COLOURS[colour], alpha=0.6, label=label)
    axes.set(title=f"{title}\nthe head is right: {right:.0%}", xlabel="feature 1", ylabel="feature 2")
    axes.set(xlim=(-3, 3), ylim=(-3, 3.5))  # one scale, to compare; whitened features have a spread of one
    if kind == "target":
        axes.legend(loc="upper center", ncols=2, fontsize=8)


def scene_viewer(scenes: Scenes, answers: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Show scenes with the box, mask and class that each network answers, and its scores.

    ``scenes``: n scenes of one seed; ``answers``: network → "class" (n, C), "box" (n, 4) and "mask"
    (n, side²) outputs as ``pipeline.task_losses`` takes them.
    """
    twin, axes = plotting.new(1 + len(answers), 4, size=(7.2, 2.1 * (1 + len(answers))))
    for place in range(4):
        title = f"true: {scenes.labels[place]}"
        plotting.scene(axes[0, place], scenes.images[place], scenes.boxes[place], scenes.masks[place], title, "green")
        for row, (name, outputs) in zip(axes[1:], answers.items(), strict=True):
            _draw_scene(row[place], scenes, place, name, outputs, threshold=0.5)
    plotting.show(
        twin,
        f"Four scenes; above, the true box and mask, below those that each of {len(answers)} networks answers, "
        "with its digit and its two scores.",
    )

    names = [(f"scene {place + 1}: a {label}", place) for place, label in enumerate(scenes.labels.tolist())]
    which = ipywidgets.Dropdown(options=names, description="scene")
    who = ipywidgets.Dropdown(options=list(answers), description="network")
    threshold = ipywidgets.FloatSlider(
        value=0.5, min=0.05, max=0.95, step=0.05, description="a pixel is ink from", style=WHOLE
    )
    picture = ipywidgets.Image(format="png", layout={"width": "520px"})
    picture.add_class("ctkd-scene")

    def redraw(_: object = None) -> None:
        figure, axes = plotting.new(1, 2, size=(5.2, 2.9))
        place = which.value
        true = scenes.boxes[place], scenes.masks[place]
        plotting.scene(axes[0, 0], scenes.images[place], *true, f"true: {scenes.labels[place]}", "green")
        _draw_scene(axes[0, 1], scenes, place, who.value, answers[who.value], threshold.value)
        picture.value = plotting.png(figure)

    for control in (which, who, threshold):
        control.observe(redraw, names="value")
    redraw()
    display(ipywidgets.VBox([ipywidgets.HBox([which, who, threshold]), picture]))


def _draw_scene(
    axes: Axes, scenes: Scenes, place: int, name: str, outputs: Mapping[str, Tensor], threshold: float
) -> None:
    """Draw what one network answers about one scene, with its two scores."""
    box = to_boxes(outputs["box"][place], scenes.side)
    mask = outputs["mask"][place].sigmoid().view(scenes.side, scenes.side) > threshold
    scores = f"box {box_iou(box, scenes.boxes[place]):.2f}, mask {mask_iou(mask, scenes.masks[place]):.2f}"
    title = f"{name}: {outputs['class'][place].argmax()}\n{scores}"
    plotting.scene(axes, scenes.images[place], box, mask, title)
    axes.title.set_fontsize(9)


def target_viewer(scenes: Scenes, outputs: Mapping[str, Tensor]) -> None:
    """Show how two teachers' class answers and the label become one target, with sliders for both mixtures.

    ``scenes``: n scenes of one seed; ``outputs``: two teachers, name → (n, C) logits.
    """
    if len(outputs) != 2:
        raise ValueError(f"outputs: expected two teachers, got {list(outputs)}")
    for name, logits in outputs.items():
        expect.logits(f"outputs[{name!r}]", logits, ndim=2)
        expect.labels("scenes.labels", scenes.labels, examples=len(logits), classes=logits.shape[1])
    twin, axes = plotting.new(1, 6, size=(11, 2.2))
    _draw_said(axes[0, :3], scenes, outputs, place=0)
    for one, progress in zip(axes[0, 3:], (0.0, 0.5, 1.0), strict=True):
        _draw_target(one, scenes, outputs, 0, share=0.5, progress=progress)
    plotting.show(
        twin,
        f"A scene with a {scenes.labels[0]}, what two teachers say about its class, and the target made of both: at "
        "λ = 0 their mean, at λ = 1 the label alone.",
    )

    names = [(f"scene {place + 1}: a {label}", place) for place, label in enumerate(scenes.labels.tolist())]
    which = ipywidgets.Dropdown(options=names, description="scene")
    share = ipywidgets.FloatSlider(
        value=0.5, max=1, step=0.05, description=f"share of {next(iter(outputs))}", style=WHOLE
    )
    progress = ipywidgets.FloatSlider(value=0.0, max=1, step=0.05, description="progress λ", style=WHOLE)
    picture = ipywidgets.Image(format="png", layout={"width": "760px"})
    picture.add_class("ctkd-target")

    def redraw(_: object = None) -> None:
        figure, axes = plotting.new(1, 4, size=(8, 2.2))
        _draw_said(axes[0, :3], scenes, outputs, which.value)
        _draw_target(axes[0, 3], scenes, outputs, which.value, share=share.value, progress=progress.value)
        picture.value = plotting.png(figure)

    for control in (which, share, progress):
        control.observe(redraw, names="value")
    redraw()
    display(ipywidgets.VBox([ipywidgets.HBox([which, share, progress]), picture]))


def _draw_said(axes: Sequence[Axes], scenes: Scenes, outputs: Mapping[str, Tensor], place: int) -> None:
    """Draw a scene and, beside it, each teacher's class probabilities."""
    label = f"true: {scenes.labels[place]}"
    plotting.scene(axes[0], scenes.images[place], scenes.boxes[place], scenes.masks[place], label, "green")
    for one, (name, logits) in zip(axes[1:], outputs.items(), strict=True):
        one.bar(range(logits.shape[1]), soften(logits[place]).numpy(force=True), color=plotting.COLOURS["grey"])
        one.set(title=name, ylim=(0, 1), xticks=range(logits.shape[1]))


def _draw_target(
    axes: Axes, scenes: Scenes, outputs: Mapping[str, Tensor], place: int, *, share: float, progress: float
) -> None:
    """Draw the class target that two teachers and the label make together."""
    one_scene = [{"class": logits[place : place + 1]} for logits in outputs.values()]
    fused = fuse_answers(one_scene, [share, 1 - share])["class"]
    target = annealed_targets(fused, scenes.labels[place : place + 1], progress)[0]
    axes.bar(range(len(target)), target.numpy(force=True), color=plotting.COLOURS["blue"])
    axes.set(title=f"target, λ = {progress:.2g}", ylim=(0, 1), xticks=range(len(target)))


def gradient_plane() -> None:
    """Show two gradients in the plane, each method's direction, and what either task gains by it.

    Sliders: the angle between the gradients, their lengths, and how far CAGrad may leave the mean. The
    gain is the loss that a task loses per unit of the step's length, g_i · d / ‖d‖.
    """
    twin, axes = plotting.new(2, 2, size=(6, 4.8))
    for column, state in enumerate(((125, 1.0, 1.0), (125, 1.0, 4.0))):
        _draw_plane(axes[:, column], *state, c=0.5)
    plotting.show(
        twin,
        "Two gradients at 125 degrees and the directions of sum, PCGrad, MGDA and CAGrad, above their gains. With "
        "equal lengths all agree. With lengths 1 and 4, the sum makes task 1 worse, and MGDA serves both tasks alike.",
    )

    angle = ipywidgets.IntSlider(value=125, min=0, max=179, description="angle in degrees", style=WHOLE)
    first, second = (
        ipywidgets.FloatLogSlider(value=value, base=10, min=-1, max=1, step=0.05, description=name, style=WHOLE)
        for name, value in {"length of g₁": 1, "length of g₂": 4}.items()
    )
    c = ipywidgets.FloatSlider(value=0.5, min=0, max=2, step=0.05, description="c of CAGrad", style=WHOLE)
    picture = ipywidgets.Image(format="png", layout={"width": "620px"})
    picture.add_class("ctkd-gradients")

    def redraw(_: object = None) -> None:
        figure, axes = plotting.new(1, 2, size=(8, 4))
        _draw_plane(axes[0], angle.value, first.value, second.value, c=c.value)
        picture.value = plotting.png(figure)

    for control in (angle, first, second, c):
        control.observe(redraw, names="value")
    redraw()
    display(ipywidgets.VBox([ipywidgets.HBox([angle, first, second]), ipywidgets.HBox([c]), picture]))


def _directions(gradients: Tensor, c: float) -> dict[str, Tensor]:
    """Return the direction that each method makes of two gradients, at the scale of their mean."""
    order = torch.tensor([[0, 1], [0, 1]])  # of two tasks each meets one other: any order is the same
    return {
        "sum": gradients.mean(dim=0),
        "PCGrad": pcgrad(gradients, order) / 2,
        "MGDA": mgda(gradients)[1],
        "CAGrad": cagrad(gradients, c)[1],
    }


def _draw_plane(axes: Sequence[Axes], angle: float, first: float, second: float, *, c: float) -> None:
    """Draw two gradients with the methods' directions on the first axes, the tasks' gains on the second."""
    turn = math.radians(angle)
    gradients = torch.tensor([[first, 0.0], [second * math.cos(turn), second * math.sin(turn)]], dtype=torch.float64)
    directions = _directions(gradients, c)
    styles = dict(zip(directions, zip(plotting.COLOURS.values(), ("-", "--", "-.", ":"), strict=False), strict=True))
    for place, (x, y) in enumerate(gradients.tolist()):
        axes[0].annotate("", (x, y), (0, 0), arrowprops={"arrowstyle": "-|>", "color": "black", "linewidth": 2})
        axes[0].annotate(f"g{'₁₂'[place]}", (x, y), xytext=(4, 4), textcoords="offset points")
    for name, direction in directions.items():
        colour, dash = styles[name]
        axes[0].plot([0, direction[0]], [0, direction[1]], dash, color=colour, linewidth=2, label=name)
        axes[0].plot(*direction, marker="o", color=colour, markersize=5)
    reach = 1.15 * max(first, second)
    axes[0].set(xlim=(-reach, reach), ylim=(-0.15 * reach, reach), aspect="equal")
    axes[0].set_title(f"{angle:.0f}°, lengths {first:.2g} and {second:.2g}")
    axes[0].legend(loc="lower center", bbox_to_anchor=(0.5, 1.12), ncols=2, fontsize=8)
    _draw_gains(axes[1], gradients, directions)


def _draw_gains(axes: Axes, gradients: Tensor, directions: Mapping[str, Tensor]) -> None:
    """Draw what each task gains per unit of the step's length: below zero, its loss grows."""
    for task, (shift, colour, fill) in enumerate(((-0.2, "blue", True), (0.2, "orange", False))):
        gains = [float(gradients[task] @ d / d.norm().clamp(min=1e-12)) for d in directions.values()]
        places = np.arange(len(gains)) + shift
        style = {"color" if fill else "edgecolor": plotting.COLOURS[colour], "fill": fill, "linewidth": 2}
        axes.bar(places, gains, 0.36, label=f"task {task + 1}", **style)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(directions)), list(directions))
    axes.set(title="gain per unit of step", ylim=(min(0, axes.get_ylim()[0]), 1.3 * axes.get_ylim()[1]))
    axes.legend(loc="upper right", ncols=2, fontsize=8)
