"""Print the speed ratios the course promises, each pair measured in turn in one run: ``make bench``."""

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ctkd_lessons.conflict import pcgrad, task_gradients
from ctkd_lessons.course.examine import examine
from ctkd_lessons.course.exercises import MODULES, of_lesson
from ctkd_lessons.data import digits, glyphs, scenes, sinusoids
from ctkd_lessons.meta import maml_loss
from ctkd_lessons.models import conv, mlp
from ctkd_lessons.soft_targets import kd_loss
from ctkd_lessons.training import Source, fit

SEEDS, STEPS, BATCH, TASKS = 10, 600, 64, 8
DATA = digits.load(SEEDS)


def from_labels(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy."""
    return F.cross_entropy(model(x), y)


def from_soft(model: nn.Module, x: torch.Tensor, y: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
    """Return the distillation loss with cached teacher outputs."""
    return kd_loss(model(x), teacher_logits, 4.0)


def always_zero(*arguments: object) -> torch.Tensor:
    """Answer every exercise wrongly."""
    return torch.tensor(0.0)


def plainest_loop(make: Callable[[], nn.Module], seed: int, steps: int) -> None:
    """Train one student as a beginner would write it."""
    torch.manual_seed(seed)
    images, labels = DATA.images[DATA.train[seed]], DATA.labels[DATA.train[seed]]
    model = make()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(steps):
        rows = torch.randint(len(images), (BATCH,))
        optimiser.zero_grad()
        F.cross_entropy(model(images[rows]), labels[rows]).backward()
        optimiser.step()


class ManyTasks(nn.Module):
    """An MLP that asks of each image, task by task: is it digit k? The last layer has a row per task."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.heads = nn.Sequential(mlp([64, 32, 32, 32]), nn.ReLU()), nn.Linear(32, TASKS)
        self.optimiser = torch.optim.Adam(self.parameters(), lr=1e-3, fused=True)

    def losses(self) -> torch.Tensor:
        """Return the losses of a random batch, one per task."""
        rows = torch.randint(1000, (BATCH,))
        truth = (DATA.labels[rows, None] == torch.arange(TASKS)).float()
        return F.binary_cross_entropy_with_logits(
            self.heads(self.trunk(DATA.images[rows])), truth, reduction="none"
        ).mean(0)

    def step_along(self, direction: torch.Tensor) -> None:
        """Take an optimiser step with this gradient, or its beginning: the other parameters keep theirs."""
        start = 0
        for parameter in self.parameters():
            if start < len(direction):
                parameter.grad = direction[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()
        self.optimiser.step()


def quick_surgery(model: ManyTasks, steps: int) -> None:
    """Take PCGrad steps: one batched backward, then all on K × K numbers."""
    shared = sum(parameter.numel() for parameter in model.trunk.parameters())
    for _ in range(steps):
        gradients = task_gradients(model.losses(), model.parameters())
        direction = pcgrad(gradients[:, :shared], torch.rand(TASKS, TASKS).argsort(dim=1))
        model.step_along(torch.cat([direction, gradients[:, shared:].sum(dim=0)]))


def plain_surgery(model: ManyTasks, steps: int) -> None:
    """Take PCGrad steps as the paper writes them: K backward passes, a double loop over vectors of P numbers."""
    for _ in range(steps):
        losses, gradients = model.losses(), []
        model.heads.zero_grad()  # here the tasks' gradients add up
        for loss in losses:
            model.trunk.zero_grad()
            loss.backward(retain_graph=True)
            gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.trunk.parameters()]))
        total = torch.zeros_like(gradients[0])
        for i, gradient in enumerate(gradients):
            rest = gradient.clone()
            for j in torch.randperm(TASKS).tolist():
                product = rest @ gradients[j]
                if j != i and product < 0:
                    rest -= product / gradients[j].square().sum() * gradients[j]
            total += rest
        model.step_along(total)


class Few(NamedTuple):
    """Few-shot tasks and a network to meta-train; ``loss(params, x, y)``."""

    loss: Callable[..., Tensor]
    params: dict[str, Tensor]
    support: tuple[Tensor, Tensor]
    query: tuple[Tensor, Tensor]


def few(model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], support: tuple, query: tuple) -> Few:
    """Return the tasks with the model as a function of its parameters."""
    of_params = lambda params, x, y: loss(functional_call(model, params, (x,)), y)
    return Few(of_params, dict(model.named_parameters()), support, query)


def quick_meta_gradients(tasks: Few, steps: int) -> None:
    """Take MAML's loss and meta-gradient, second order, as the course does."""
    for _ in range(steps):
        torch.autograd.grad(maml_loss(*tasks), list(tasks.params.values()))


def plain_meta_gradients(tasks: Few, steps: int) -> None:
    """Take them as the paper writes them: one task after the other, PyTorch's own gradients."""
    names, values = list(tasks.params), list(tasks.params.values())
    for _ in range(steps):
        total = torch.zeros(())
        for x, y, query_x, query_y in zip(*tasks.support, *tasks.query, strict=True):
            gradients = torch.autograd.grad(tasks.loss(tasks.params, x, y), values, create_graph=True)
            adapted = [value - 0.01 * gradient for value, gradient in zip(values, gradients, strict=True)]
            total = total + tasks.loss(dict(zip(names, adapted, strict=True)), query_x, query_y)
        torch.autograd.grad(total / len(tasks.support[0]), values)


def seconds(work: Callable[[], object]) -> float:
    """Time one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def ratio(name: str, slow: Callable[[], object], quick: Callable[[], object], repeats: int = 5) -> None:
    """Time two ways in turn and print the median seconds and the median of the ratios."""
    slow(), quick()
    pairs = [(seconds(slow), seconds(quick)) for _ in range(repeats)]
    ratios = sorted(a / b for a, b in pairs)
    a, b = (median(column) for column in zip(*pairs, strict=True))
    print(f"{name}: {a:.2f} s / {b:.2f} s = {median(ratios):.2f} (from {ratios[0]:.2f} to {ratios[-1]:.2f})")


def main() -> None:
    """Measure everything."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {SEEDS} seeds, {STEPS} steps of {BATCH}")
    train = Source(DATA.images, DATA.labels, rows=DATA.train)
    small = partial(mlp, [64, 64, 64, 10])
    ratio(
        "MLP 64-64-64-10, ten plain loops / fit",
        lambda: [plainest_loop(small, seed, STEPS) for seed in range(SEEDS)],
        lambda: fit(small, from_labels, train, steps=STEPS, batch_size=BATCH),
    )
    small_conv = partial(conv, [8, 16], 10)
    ratio(
        "conv 8-16, ten plain loops of 60 steps / fit",
        lambda: [plainest_loop(small_conv, seed, 60) for seed in range(SEEDS)],
        lambda: fit(small_conv, from_labels, train, steps=60, batch_size=BATCH),
    )
    soft = Source(DATA.images, DATA.labels, rows=DATA.train, per_seed=[torch.randn(SEEDS, 1797, 10)])
    ratio(
        "distillation with cached teacher outputs / cross-entropy, in fit",
        lambda: fit(small, from_soft, soft, steps=STEPS),
        lambda: fit(small, from_labels, train, steps=STEPS),
    )
    model = ManyTasks()
    ratio(
        f"100 PCGrad steps of {TASKS} tasks, a loop over tasks / one batched backward (at least 2)",
        partial(plain_surgery, model, 100),
        partial(quick_surgery, model, 100),
    )
    waves = [sinusoids.draw(32, 10, [seed]) for seed in range(2)]
    on_waves = few(mlp([1, 40, 40, 1]), F.mse_loss, *((one.x[0], one.y[0]) for one in waves))
    ratio(
        "30 meta-gradients on 32 sine waves, a loop over tasks / maml_loss (at least 5)",
        partial(plain_meta_gradients, on_waves, 30),
        partial(quick_meta_gradients, on_waves, 30),
    )
    shots = [(torch.rand(4, 5 * each, 28 * 28), torch.arange(5 * each).expand(4, -1) % 5) for each in (1, 5)]
    on_images = few(conv([32] * 4, 5, side=28), F.cross_entropy, *shots)
    ratio(
        "4 meta-gradients on 4 tasks of 28 x 28 images, 5-way 1-shot, a loop over tasks / maml_loss (at least 1)",
        partial(plain_meta_gradients, on_images, 4),
        partial(quick_meta_gradients, on_images, 4),
    )
    compose = partial(scenes.compose, DATA.images, DATA.labels, 5000, side=16)
    for clutter in scenes.CLUTTER:
        taken = median(seconds(partial(compose, clutter=clutter)) for _ in range(5))
        print(f"5,000 scenes of 16 x 16, clutter {clutter!r}: {taken:.3f} s (at most 0.3)")
    first, *later = (seconds(partial(glyphs.render, glyphs.DIGITS, 10_000, seed=seed)) for seed in range(6))
    print(f"10,000 characters of 16 x 16: {median(later):.3f} s, the first time {first:.3f} s (at most 2)")
    for exercise in (exercise for number in MODULES for exercise in of_lesson(number)):
        right, wrong = (seconds(partial(examine, exercise, answer)) for answer in (exercise.reference, always_zero))
        print(f"check {exercise.id}: right answer {right:.2f} s, wrong answer {wrong:.2f} s")
    for name, command in {
        "import ctkd_lessons": ["-c", "import ctkd_lessons"],
        "ctkd --help": ["-c", "from ctkd_lessons.course.cli import app; app()", "--help"],
    }.items():
        run = partial(subprocess.run, [sys.executable, *command], stdout=subprocess.DEVNULL, check=True)
        print(f"{name}: {median(seconds(run) for _ in range(5)):.2f} s, the interpreter's start included")


if __name__ == "__main__":
    main()
