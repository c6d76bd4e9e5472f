"""The training runs behind the bank's debugging questions: what each question shows is made here.

``python -m ctkd_lessons.course.interview.runs`` trains them all on the course's own data, in about a minute,
writes ``bank/figures/<question-id>.png`` and prints the logs that stand in the other questions' text.
"""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from ctkd_lessons import plotting
from ctkd_lessons.course.interview import runs_domains, runs_losses, runs_meta, runs_networks
from ctkd_lessons.course.interview.bank import FOLDER
from ctkd_lessons.course.interview.runs_common import Curves

FIGURES = FOLDER / "figures"
_WIDTH = 640  # pixels
_FROM_ZERO = ("training loss", "KD loss", "labels' term", "class loss")
_STYLES = (("blue", "-", "o"), ("orange", "--", "s"), ("green", "-.", "^"))


@dataclass(frozen=True)
class Run:
    """A broken training.

    ``train(broken)``: its curves, or with ``broken=False`` those of the repaired one; ``panels``: which curves
    are drawn together, none for a log; ``scale``: of the figure's x axis.
    """

    train: Callable[[bool], Curves]
    panels: tuple[tuple[str, ...], ...] = ()
    scale: str = "linear"


RUNS = {
    "debugging-no-t-squared": Run(
        runs_losses.no_t_squared, (("accuracy, with the teacher", "accuracy, labels alone"),), "log"
    ),
    "debugging-kl-reduction": Run(runs_losses.mean_over_classes),
    "debugging-temperature-one-side": Run(runs_losses.temperature_on_one_side),
    "debugging-softmax-twice": Run(runs_losses.softmax_twice, (("training loss",), ("training accuracy",))),
    "debugging-misaligned-cache": Run(runs_losses.misaligned_cache, (("KD loss",), ("validation accuracy",))),
    "debugging-exploding-loss": Run(runs_losses.exploding_loss),
    "debugging-teacher-dropout": Run(runs_networks.teacher_in_train_mode),
    "debugging-teacher-not-detached": Run(
        runs_networks.teacher_not_detached, (("KD loss",), ("teacher's accuracy", "student's accuracy"))
    ),
    "debugging-hint-dominates": Run(
        runs_networks.hint_dominates, (("labels' term", "hint's term"), ("validation accuracy",))
    ),
    "debugging-reversal-at-once": Run(
        runs_domains.reversal_at_once, (("class loss", "critic's loss"), ("source accuracy", "target accuracy"))
    ),
    "debugging-mmd-bandwidth": Run(runs_domains.mmd_too_narrow),
    "debugging-three-examples": Run(runs_domains.three_examples),
    "debugging-batch-norm-domain": Run(
        runs_domains.batch_norm_of_the_source, (("mean shift before batch norm",), ("accuracy",))
    ),
    "debugging-serving-statistics": Run(runs_domains.serving_batch_statistics, (("accuracy",),), "log"),
    "debugging-chosen-on-target": Run(
        runs_domains.chosen_on_target, (("accuracy, as reported", "accuracy, new target images"),), "log"
    ),
    "debugging-first-order-as-maml": Run(runs_meta.missing_second_order),
    "debugging-support-scored": Run(runs_meta.support_scored),
}


def figure(run: Run, curves: Curves) -> Figure:
    """Draw the curves of a run, one panel beside the other."""
    x, *_ = curves
    size = (_WIDTH / plotting.mpl.rcParams["figure.dpi"], 2.5)
    drawn, axes = plotting.new(1, len(run.panels), size=size)
    for one, names in zip(axes[0], run.panels, strict=True):
        every = max(1, len(curves[x]) // 20)
        for name, (colour, dash, marker) in zip(names, _STYLES, strict=False):
            one.plot(
                curves[x],
                curves[name],
                dash,
                color=plotting.COLOURS[colour],
                marker=marker,
                ms=3,
                markevery=every,
                label=name,
            )
        _finish(one, x, names, curves, run.scale)
    return drawn


def _finish(one: Axes, x: str, names: tuple[str, ...], curves: Curves, scale: str) -> None:
    """Give a panel its title, ticks, limits and legend."""
    one.set(xlabel=x, xscale=scale, title=names[0] if len(names) == 1 else "")
    if scale == "log":  # few values, each worth its own tick
        one.set_xticks(curves[x], [f"{value:g}" for value in curves[x]], minor=False)
        one.minorticks_off()
    if names[0].endswith("accuracy"):
        one.set_ylim(0, 1.02)
    elif names[0] in _FROM_ZERO:
        one.set_ylim(bottom=0)
    if len(names) > 1:
        one.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=8, handlelength=2, columnspacing=1)


def small_png(drawn: Figure) -> bytes:
    """Return a figure as a PNG file of a few colours, a third of the size."""
    file = BytesIO()
    Image.open(BytesIO(plotting.png(drawn))).convert("RGB").quantize(48).save(file, format="PNG", optimize=True)
    return file.getvalue()


def log(curves: Curves) -> str:
    """Write the curves as a log: one line per value of the first, rounded."""
    names = list(curves)
    cells = [names, *([f"{value:.4g}" for value in row] for row in zip(*curves.values(), strict=True))]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(lines)


def main() -> None:
    """Write all figures, and print the logs."""
    FIGURES.mkdir(exist_ok=True)
    for question, run in RUNS.items():
        curves = run.train(True)
        if run.panels:
            (FIGURES / f"{question}.png").write_bytes(small_png(figure(run, curves)))
        print(f"\n{question}\n{log(curves)}")


if __name__ == "__main__":
    main()
