"""The pictures of lessons 04 to 07: from one task to another, and many tasks at once."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import ipywidgets
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from ctkd_lessons import expect, plotting
from ctkd_lessons.conflict import cagrad, mgda, pcgrad
from ctkd_lessons.cross_task import fit_transfer_map, procrustes
from ctkd_lessons.data.scenes import Scenes
from ctkd_lessons.multi_task import annealed_targets, fuse_answers
from ctkd_lessons.pipeline import box_iou, mask_iou, to_boxes
from ctkd_lessons.soft_targets import soften
from ctkd_lessons.widgets.frame import WHOLE, movable, numbered


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
    draw_mapped = partial(_draw_mapped, pairs=pairs, held_out=held_out, answers=answers, head=head)
    few, every = min(30, len(pairs[0]) - 1), len(pairs[0])
    twin, axes = plotting.new(1, 4, size=(10, 2.9))
    for one, name, size in zip(axes[0], ("target", "none", "ridge", "ridge"), (few, few, few, every), strict=True):
        draw_mapped(one, name, size, ridge=1.0)
    plotting.show(
        twin,
        "Held-out examples by their first two features, yes and no in two colours: the target's own; the source's, "
        "where the two are mixed; mapped from 30 pairs, and from all, where they lie as in the target's picture.",
    )

    count = ipywidgets.IntSlider(value=few, min=2, max=every, description="pairs", style=WHOLE)
    ridge = ipywidgets.FloatLogSlider(value=1, base=10, min=-3, max=3, step=0.25, description="ridge", style=WHOLE)
    kind = ipywidgets.Dropdown(options=["ridge", "rotation", "none"], description="map")

    def draw(count: int, ridge: float, kind: str) -> Figure:
        figure, axes = plotting.new(1, 2, size=(6.5, 3.2))
        for one, name in zip(axes[0], ("target", kind), strict=True):
            draw_mapped(one, name, count, ridge=ridge)
        return figure

    movable([count, ridge, kind], draw, "transfer-map", width=560)


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

    which = ipywidgets.Dropdown(options=numbered("scene", scenes.labels), description="scene")
    who = ipywidgets.Dropdown(options=list(answers), description="network")
    threshold = ipywidgets.FloatSlider(
        value=0.5, min=0.05, max=0.95, step=0.05, description="a pixel is ink from", style=WHOLE
    )

    def draw(place: int, name: str, threshold: float) -> Figure:
        figure, axes = plotting.new(1, 2, size=(5.2, 2.9))
        true = scenes.boxes[place], scenes.masks[place]
        plotting.scene(axes[0, 0], scenes.images[place], *true, f"true: {scenes.labels[place]}", "green")
        _draw_scene(axes[0, 1], scenes, place, name, answers[name], threshold)
        return figure

    movable([which, who, threshold], draw, "scene", width=520)


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

    which = ipywidgets.Dropdown(options=numbered("scene", scenes.labels), description="scene")
    share = ipywidgets.FloatSlider(
        value=0.5, max=1, step=0.05, description=f"share of {next(iter(outputs))}", style=WHOLE
    )
    progress = ipywidgets.FloatSlider(value=0.0, max=1, step=0.05, description="progress λ", style=WHOLE)

    def draw(place: int, share: float, progress: float) -> Figure:
        figure, axes = plotting.new(1, 4, size=(8, 2.2))
        _draw_said(axes[0, :3], scenes, outputs, place)
        _draw_target(axes[0, 3], scenes, outputs, place, share=share, progress=progress)
        return figure

    movable([which, share, progress], draw, "target", width=760)


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

    def draw(angle: int, first: float, second: float, c: float) -> Figure:
        figure, axes = plotting.new(1, 2, size=(8, 4))
        _draw_plane(axes[0], angle, first, second, c=c)
        return figure

    movable([angle, first, second, c], draw, "gradients", width=620)


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
