"""The picture of lesson 11: what a rule makes of a model's answers."""

from collections.abc import Sequence

import ipywidgets
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ctkd_lessons import expect, plotting
from ctkd_lessons.meta_transfer import rule_targets
from ctkd_lessons.widgets.frame import WHOLE, movable


def rule_viewer(images: Tensor, answers: Tensor, holds: Tensor) -> None:
    """Show three digits that a rule ties together, a model's answers, and the targets that the rule makes of them.

    ``images``: (n, 3, 64), n exercises of three digits; ``answers``: (n, 3, 10) probabilities; ``holds``:
    (10, 10, 10) bool, which digits the rule allows. Sliders: the exercise and the rule's strength.
    """
    expect.logits("answers", answers, ndim=3)
    twin, axes = plotting.new(2, 6, size=(10, 3.6))
    for row, strength in zip(axes, (1.0, 20.0), strict=True):
        _draw(row, images[0], answers[0], holds, strength)
    plotting.show(
        twin,
        "Three handwritten digits of a sum, and under each the model's answer beside the rule's target: with "
        "strength 1 hardly different, with strength 20 nearly all weight lies on digits that add up.",
    )

    which = ipywidgets.Dropdown(options=[(f"sum {n + 1}", n) for n in range(len(images))], description="exercise")
    strength = ipywidgets.FloatSlider(value=10, max=20, step=0.5, description="strength β", style=WHOLE)

    def draw(place: int, strength: float) -> Figure:
        figure, axes = plotting.new(1, 6, size=(10, 2.1))
        _draw(axes[0], images[place], answers[place], holds, strength)
        return figure

    movable([which, strength], draw, "rule", width=760)


def _draw(axes: Sequence[Axes], images: Tensor, answers: Tensor, holds: Tensor, strength: float) -> None:
    """Draw each digit and, beside it, what the model answers and what the rule makes of that."""
    targets = rule_targets([answer.unsqueeze(0) for answer in answers], holds, strength)
    for place, (image, sign) in enumerate(zip(images, ("+", "=", ""), strict=True)):
        plotting.digit(axes[2 * place], image, f"β = {strength:g}" if not place else "")
        axes[2 * place].annotate(sign, (1.0, 0.5), xycoords="axes fraction", fontsize=14, va="center")
        bars = axes[2 * place + 1]
        digits = range(answers.shape[1])
        bars.bar(digits, targets[place][0].numpy(force=True), color=plotting.COLOURS["blue"], label="by the rule")
        bars.step(
            digits, answers[place].numpy(force=True), where="mid", color=plotting.COLOURS["orange"], label="model"
        )
        bars.set(ylim=(0, 1.02), xticks=(0, 5, 9), yticks=(0, 1))
    axes[1].legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=7)
