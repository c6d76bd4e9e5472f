"""What the widgets share: controls in a row and, below, a picture that each of them changes."""

from collections.abc import Callable, Sequence

import ipywidgets
from IPython.display import display
from matplotlib.figure import Figure
from torch import Tensor

from ctkd_lessons import plotting

WHOLE = {"description_width": "initial"}  # the label of a slider is not cut


def movable(controls: Sequence[ipywidgets.ValueWidget], draw: Callable[..., Figure], name: str, *, width: int) -> None:
    """Display controls and the picture that ``draw`` makes of their values, anew whenever one changes.

    ``draw``: takes the values in the order of the controls; ``name``: the picture gets the CSS class
    ``ctkd-<name>``; ``width``: of the picture, in pixels.
    """
    picture = ipywidgets.Image(format="png", layout={"width": f"{width}px"})
    picture.add_class(f"ctkd-{name}")

    def redraw(_: object = None) -> None:
        picture.value = plotting.png(draw(*(control.value for control in controls)))

    for control in controls:
        control.observe(redraw, names="value")
    redraw()
    row = ipywidgets.HBox(controls, layout={"flex_flow": "row wrap"})  # a fourth control goes into a line of its own
    display(ipywidgets.VBox([row, picture]))


def numbered(kind: str, labels: Tensor) -> list[tuple[str, int]]:
    """Return one option of a ``Dropdown`` per label (n,): its text, such as "scene 1: a 7", and its place."""
    return [(f"{kind} {place + 1}: a {label}", place) for place, label in enumerate(labels.tolist())]
