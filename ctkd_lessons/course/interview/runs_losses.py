"""Broken runs whose loss is at fault: temperature, reduction, order of examples, learning rate.

Each function trains the broken thing, or with ``broken=False`` the repaired one, and returns its curves.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ctkd_lessons.course.interview.runs_common import (
    Curves,
    accuracy,
    data,
    network,
    note,
    on_validation,
    part,
    teacher,
    train,
)
from ctkd_lessons.soft_targets import kd_loss

SIZES = [64, 64, 10]


def no_t_squared(broken: bool = True) -> Curves:
    """Mix a labels' term with a soft term that lacks its factor T²: high temperatures silence the teacher."""
    curves = {}
    alone = _of_fifty(0.0, 1.0)
    for temperature in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0):
        both = _of_fifty(1 / temperature**2 if broken else 1.0, temperature)
        note(curves, {"temperature": temperature, "accuracy, with the teacher": both, "accuracy, labels alone": alone})
    return curves


def _of_fifty(factor: float, temperature: float) -> float:
    """Return the validation accuracy after fifty digits, half their labels, half ``factor`` times the soft loss."""
    digit, said, student = data(), _said(), network(SIZES)

    def loss(b: Tensor) -> Tensor:
        z = student(digit.images[b])
        return 0.5 * factor * kd_loss(z, said[b], temperature) + 0.5 * F.cross_entropy(z, digit.labels[b])

    train(student.parameters(), loss, digit.labelled_subset(50)[0], lambda _: {})
    return on_validation(student)


def softmax_twice(broken: bool = True) -> Curves:
    """Give probabilities to a loss that expects logits: it cannot fall below log(e + 9) − 1 = 1.46."""
    digit, student = data(), network(SIZES)

    def answers(x: Tensor) -> Tensor:
        return student(x).softmax(dim=1) if broken else student(x)

    def loss(b: Tensor) -> Tensor:
        return F.cross_entropy(answers(digit.images[b]), digit.labels[b])

    images, labels = part("train")
    return train(
        student.parameters(),
        loss,
        digit.train[0],
        lambda value: {"training loss": value, "training accuracy": accuracy(student, images, labels)},
        steps=1000,
        every=50,
    )


def temperature_on_one_side(broken: bool = True) -> Curves:
    """Soften the teacher alone, T = 4: the student copies the softened answers as its own."""
    digit, said, student = data(), _said(), network(SIZES)

    def loss(b: Tensor) -> Tensor:
        z = student(digit.images[b])
        target = (said[b] / 4).softmax(dim=1)
        return F.cross_entropy(z, target) if broken else kd_loss(z, said[b], 4.0)

    return train(student.parameters(), loss, digit.train[0], lambda _: _sureness(student), steps=400, every=80)


def misaligned_cache(broken: bool = True) -> Curves:
    """Read the teacher's cached answers in another order than the images'."""
    digit, student = data(), network(SIZES)
    said = _said()
    if broken:  # written in a shuffled loader's order, read by row number
        said = said.clone()
        said[digit.train[0]] = said[digit.train[0].flip(0)]

    def watch(value: float) -> dict[str, float]:
        return {"KD loss": value, "validation accuracy": on_validation(student)}

    return train(student.parameters(), _kd(student, said), digit.train[0], watch, steps=400, every=20)


def exploding_loss(broken: bool = True) -> Curves:
    """Match logits by plain gradient descent with a step longer than the loss's curvature allows."""
    digit, said, student = data(), _said(), network([64, 10])

    def loss(b: Tensor) -> Tensor:
        return (student(digit.images[b]) - said[b]).square().sum(dim=1).mean()

    def watch(value: float) -> dict[str, float]:
        return {"loss": value, "largest weight": student[0].weight.detach().abs().max()}

    size = {"steps": 30, "every": 3, "learning_rate": 0.3 if broken else 0.01}
    return train(student.parameters(), loss, digit.train[0], watch, make_optimiser=torch.optim.SGD, **size)


def mean_over_classes(broken: bool = True) -> Curves:
    """Average the divergence over examples *and* classes, as ``reduction="mean"`` does."""
    digit, student, said = data(), network(SIZES), _said()
    seen: dict[str, float] = {}

    def loss(b: Tensor) -> Tensor:
        z = student(digit.images[b])
        log_p, target = F.log_softmax(z, dim=1), said[b].softmax(dim=1)
        # What reduction="mean" divides by, and what "batchmean" does.
        soft = F.kl_div(log_p, target, reduction="sum") / (z.numel() if broken else len(z))
        hard = F.cross_entropy(z, digit.labels[b])
        seen.update({"labels' loss": hard.item(), "soft loss": soft.item()})
        return 0.5 * hard + 0.5 * soft

    return train(student.parameters(), loss, digit.train[0], lambda _: dict(seen), steps=80, every=20)


def _kd(student: Callable[[Tensor], Tensor], said: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda b: kd_loss(student(data().images[b]), said[b], 4.0)


def _said() -> Tensor:
    """Return the teacher's logits for all digits."""
    return teacher()(data().images).detach()


def _sureness(student: Callable[[Tensor], Tensor]) -> dict[str, float]:
    images, labels = part("validation")
    log_p, own = student(images).detach().log_softmax(dim=1), teacher()(images).detach().softmax(dim=1)
    return {
        "accuracy": accuracy(student, images, labels),
        "mean confidence": log_p.exp().amax(dim=1).mean().item(),
        "teacher's confidence": own.amax(dim=1).mean().item(),
        "log loss": F.nll_loss(log_p, labels).item(),
    }
