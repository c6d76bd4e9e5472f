"""One style for every figure: colour-blind-safe, readable in print, with a text alternative."""

import base64
from collections.abc import Mapping, Sequence
from io import BytesIO

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from torch import Tensor

from ctkd_lessons.statistics import interval

# Okabe & Ito's palette; every series also has its own marker and dash, for print in grey.
COLOURS = {"blue": "#0072b2", "orange": "#d55e00", "green": "#009e73", "purple": "#cc79a7", "grey": "#666666"}
_MARKS = dict(zip(COLOURS, (("o", "-"), ("s", "--"), ("^", "-."), ("D", ":"), ("v", (0, (1, 1)))), strict=True))
# For every figure from here on: a legend, say, takes its style when it is made.
mpl.rcParams |= {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "legend.frameon": False,
    "figure.dpi": 110,
}


def new(rows: int = 1, columns: int = 1, size: tuple[float, float] = (7.0, 3.5)) -> tuple[Figure, np.ndarray]:
    """Return an empty figure in the course's style and its axes, (rows, columns). ``size``: inches."""
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def show(figure: Figure, alt: str) -> None:
    """Display a figure with its text alternative: what the picture shows, in one or two sentences."""
    from IPython.display import display  # here, because only notebooks need it

    if not alt:
        raise ValueError("alt: expected a sentence that says what the figure shows, got an empty text")
    picture = base64.b64encode(png(figure)).decode()
    display({"image/png": picture, "text/plain": alt}, raw=True, metadata={"image/png": {"alt": alt}})


def png(figure: Figure) -> bytes:
    """Return the figure as a PNG file."""
    file = BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def curve(axes: Axes, x: Sequence[float], values: Sequence[ArrayLike], label: str, colour: str = "blue") -> None:
    """Draw means over seeds with their 95 % intervals as a band.

    ``values``: one array (S,) per entry of ``x``; ``colour``: a name in ``COLOURS``.
    """
    if len(x) != len(values):
        raise ValueError(f"values: expected {len(x)} arrays, one per x, got {len(values)}")
    intervals = [interval(one) for one in values]
    marker, dash = _MARKS[colour]
    axes.plot(x, [i.mean for i in intervals], marker=marker, linestyle=dash, color=COLOURS[colour], label=label)
    low, high = [i.low for i in intervals], [i.high for i in intervals]
    axes.fill_between(x, low, high, color=COLOURS[colour], alpha=0.2, linewidth=0)


def bars(axes: Axes, rows: Mapping[str, ArrayLike]) -> None:
    """Draw one horizontal mark with its 95 % interval per row, the first row on top.

    ``rows``: name → (S,) values.
    """
    for place, (name, values) in enumerate(rows.items()):
        one = interval(values)
        colour = list(COLOURS)[place % len(COLOURS)]
        spread = [[one.mean - one.low], [one.high - one.mean]]
        axes.errorbar(one.mean, place, xerr=spread, fmt=_MARKS[colour][0], color=COLOURS[colour], capsize=4)
        axes.annotate(name, (one.mean, place), textcoords="offset points", xytext=(0, 9), ha="center", fontsize=9)
    axes.set_yticks([])
    axes.set_ylim(len(rows) - 0.5, -0.8)
    axes.spines["left"].set_visible(False)


def digit(axes: Axes, image: Tensor, title: str = "") -> None:
    """Draw one 8 × 8 digit, dark ink on light paper. ``image``: (64,) in [0, 1]."""
    axes.imshow(image.reshape(8, 8).numpy(force=True), cmap="gray_r", vmin=0, vmax=1)
    axes.set_title(title)
    axes.set_axis_off()


def scene(axes: Axes, image: Tensor, box: Tensor, mask: Tensor, title: str = "", colour: str = "blue") -> None:
    """Draw one scene with a box and the outline of a mask.

    ``image``: (side²,) in [0, 1]; ``box``: (4,), (x0, y0, x1, y1) in pixels; ``mask``: (side, side), bool.
    """
    side = len(mask)
    extent = (0, side, side, 0)  # pixel (0, 0) covers 0 … 1, as the boxes count
    axes.imshow(image.reshape(side, side).numpy(force=True), cmap="gray_r", vmin=0, vmax=1, extent=extent)
    x0, y0, x1, y1 = box.tolist()
    axes.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color=COLOURS[colour], linewidth=2)
    inside = mask.numpy(force=True)[:, :, None] * np.array([*mpl.colors.to_rgb(COLOURS["orange"]), 0.45])
    axes.imshow(inside, extent=extent)
    axes.set(title=title, xlim=(-0.2, side + 0.2), ylim=(side + 0.2, -0.2))
    axes.set_axis_off()


def digit_and_answers(image: Tensor, answers: Mapping[str, Tensor]) -> Figure:
    """Draw a digit and, beside it, one bar chart of class probabilities per answer.

    ``image``: (64,) in [0, 1]; ``answers``: title → (10,) probabilities.
    """
    figure, axes = new(1, 1 + len(answers), size=(1.6 + 2.3 * len(answers), 2.4))
    digit(axes[0, 0], image, "the digit")
    for one, (title, probabilities) in zip(axes[0, 1:], answers.items(), strict=True):
        one.bar(range(10), probabilities.numpy(force=True), color=COLOURS["blue"])
        one.set(title=title, ylim=(0, 1), xticks=range(10), xlabel="class")
    axes[0, 1].set_ylabel("probability")
    return figure
