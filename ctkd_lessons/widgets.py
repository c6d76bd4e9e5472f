"""The pictures a learner can move. Each shows its static twin first, for readers without a kernel."""

import ipywidgets
from IPython.display import display
from matplotlib.figure import Figure
from torch import Tensor

from ctkd_lessons import expect, plotting
from ctkd_lessons.soft_targets import soften


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

    whole = {"description_width": "initial"}  # the label is not cut
    slider = ipywidgets.FloatLogSlider(
        value=4, base=2, min=-1, max=5, step=0.1, description="temperature T", style=whole
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
