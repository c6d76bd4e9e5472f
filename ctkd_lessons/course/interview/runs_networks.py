"""Broken runs whose networks are at fault: modes, gradients, hints, statistics.

Each function trains the broken thing, or with ``broken=False`` the repaired one, and returns its curves.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctkd_lessons.course.interview.runs_common import (
    Curves,
    data,
    network,
    on_validation,
    part,
    taught,
    teacher,
    train,
)
from ctkd_lessons.features import hint_loss
from ctkd_lessons.soft_targets import kd_loss


def teacher_in_train_mode(broken: bool = True) -> Curves:
    """Ask a teacher with dropout that was left in training mode."""
    digit, trained, student = data(), teacher(), network([64, 64, 10])
    noisy = nn.Sequential(*trained[:4], nn.Dropout(0.5), trained[4]).train(broken)
    images = part("validation")[0]
    image = images[trained(images).softmax(dim=1).amax(dim=1).argmin()].unsqueeze(0)  # the one it is least sure of

    @torch.no_grad()
    def watch(value: float) -> dict[str, float]:
        first, second = (noisy(image).softmax(dim=1).amax() for _ in range(2))
        return {"KD loss": value, "teacher, image 7": first, "teacher, image 7 again": second}

    def loss(b: Tensor) -> Tensor:
        with torch.no_grad():
            said = noisy(digit.images[b])
        return kd_loss(student(digit.images[b]), said, 4.0)

    return train(student.parameters(), loss, digit.train[0], watch, steps=800, every=160)


def teacher_not_detached(broken: bool = True) -> Curves:
    """Let the optimiser hold both networks and the loss send its gradient to both."""
    digit, student = data(), network([64, 64, 10])
    master = taught([64, 128, 128, 10])

    def loss(b: Tensor) -> Tensor:
        said, z = master(digit.images[b]), student(digit.images[b])
        said = said if broken else said.detach()
        p = (said / 4).softmax(dim=1)
        return 16 * (p * ((said / 4).log_softmax(dim=1) - (z / 4).log_softmax(dim=1))).sum(dim=1).mean()

    def watch(value: float) -> dict[str, float]:
        return {
            "KD loss": value,
            "teacher's accuracy": on_validation(master),
            "student's accuracy": on_validation(student),
        }

    both = iter([*master.parameters(), *student.parameters()])
    return train(both, loss, digit.train[0], watch, steps=200, every=5, learning_rate=3e-3)


def hint_dominates(broken: bool = True) -> Curves:
    """Add a hint, a sum over many large features, to a labels' term fifteen times smaller."""
    digit, student, projector = data(), network([64, 6, 10]), network([6, 128], "projector")
    features = teacher()[:2](digit.images).detach()
    weight = 1.0 if broken else 0.01
    seen: dict[str, float] = {}

    def loss(b: Tensor) -> Tensor:
        hidden = student[:2](digit.images[b])
        hard = F.cross_entropy(student[2](hidden), digit.labels[b])
        hint = weight * hint_loss(projector(hidden), features[b])
        seen.update({"labels' term": hard.item(), "hint's term": hint.item()})
        return hard + hint

    def watch(_: float) -> dict[str, float]:
        return seen | {"validation accuracy": on_validation(student)}

    both = iter([*student.parameters(), *projector.parameters()])
    return train(both, loss, digit.train[0], watch, steps=400, every=20)
