"""Broken runs whose data have shifted: alignment, weights, statistics of the wrong images, choosing.

Each function trains the broken thing, or with ``broken=False`` the repaired one, and returns its curves.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctkd_lessons.course.interview.runs_common import (
    SEED,
    Curves,
    accuracy,
    chance,
    data,
    network,
    note,
    part,
    train,
)
from ctkd_lessons.cross_domain import DomainNetwork, dann_loss, domain_loss, ramp, standardise
from ctkd_lessons.data import domains, glyphs
from ctkd_lessons.shift import density_ratio, domain_probabilities, effective_sample_size, median_gamma, mmd


@cache
def printed() -> tuple[Tensor, Tensor]:
    """Return 1,000 printed digits, the other domain: images and labels."""
    drawn = glyphs.printed_digits(1000, [SEED])
    return drawn.images[0], drawn.labels[0]


def reversal_at_once(broken: bool = True) -> Curves:
    """Turn the critic's gradient round at thirty times its size from the first step on, without a ramp."""
    digit, (target, target_labels) = data(), printed()
    model = DomainNetwork(
        network([64, 32]), nn.Sequential(nn.ReLU(), network([32, 10], "head")), network([32, 1], "critic")
    )
    steps, taken, seen = 300, iter(range(301)), {}

    def loss(b: Tensor) -> Tensor:
        strength = 30.0 if broken else 0.3 * ramp(next(taken) / steps)
        source, labels, other = digit.images[b], digit.labels[b], target[b % len(target)]
        with torch.no_grad():
            seen["class loss"] = F.cross_entropy(model(source), labels)
            seen["critic's loss"] = domain_loss(*(model.critic(model.trunk(x)) for x in (source, other)))
        return dann_loss(model, source, labels, other, strength)

    def watch(_: float) -> dict[str, float]:
        home = accuracy(model, *part("validation"))
        return seen | {"source accuracy": home, "target accuracy": accuracy(model, target, target_labels)}

    return train(model.parameters(), loss, digit.train[0], watch, steps=steps)


def mmd_too_narrow(broken: bool = True) -> Curves:
    """Align features by MMD with a kernel far narrower than any distance between them."""
    digit, (target, target_labels) = data(), printed()
    trunk, head = network([64, 64]), network([64, 10], "head")
    model, seen = nn.Sequential(trunk, nn.ReLU(), head), {}

    def loss(b: Tensor) -> Tensor:
        own, other = trunk(digit.images[b]), trunk(target[b % len(target)])
        gamma = 1000.0 if broken else median_gamma(own, other)
        seen["class loss"] = hard = F.cross_entropy(model(digit.images[b]), digit.labels[b])
        seen["MMD"] = apart = mmd(own, other, [gamma])
        return hard + apart

    def watch(_: float) -> dict[str, float]:
        return {name: one.item() for name, one in seen.items()} | {
            "target accuracy": accuracy(model, target, target_labels)
        }

    return train(model.parameters(), loss, digit.train[0], watch, steps=300, every=60)


def three_examples(broken: bool = True) -> Curves:
    """Weigh handwriting so that it stands for print: hardly an image is of both, and a few get all the weight."""
    digit, (target, target_labels), student = data(), printed(), network([64, 10])
    rows = digit.train[0]
    weights = torch.ones(len(digit.images))
    if broken:
        p, _ = domain_probabilities(digit.images[rows], target, penalty=1.0)
        weights[rows] = density_ratio(p)
    size = effective_sample_size(weights[rows])

    def loss(b: Tensor) -> Tensor:
        each = F.cross_entropy(student(digit.images[b]), digit.labels[b], reduction="none")
        return (weights[b] * each).mean()

    def watch(value: float) -> dict[str, float]:
        shown = {"largest weight": weights[rows].max(), "n_eff": size, "weighted loss": value}
        return shown | {"target accuracy": accuracy(student, target, target_labels)}

    return train(student.parameters(), loss, rows, watch, steps=80, every=8, learning_rate=1e-2)


def batch_norm_of_the_source(broken: bool = True) -> Curves:
    """Read blurred digits with running averages that were taken from sharp ones."""
    digit, curves, test = data(), {}, part("test")
    with chance("weights"):
        model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10)).train()
    train(
        model.parameters(),
        lambda b: F.cross_entropy(model(digit.images[b]), digit.labels[b]),
        digit.train[0],
        lambda _: {},
    )
    for strength in (0.0, 0.25, 0.5, 0.75, 1.0):
        seen = domains.changed(test[0], "blurred", strength)
        averages = model[1]
        if not broken:  # anew, from the domain's own images, without a label
            averages.reset_running_stats()
            averages.momentum = None
            model.train()(domains.changed(part("train")[0], "blurred", strength))
        before = model.eval()[0](seen).detach()
        gap = (before.mean(dim=0) - averages.running_mean) / averages.running_var.sqrt()
        shown = {"mean shift before batch norm": gap.abs().mean(), "accuracy": accuracy(model, seen, test[1])}
        note(curves, {"blur": strength} | shown)
    return curves


def serving_batch_statistics(broken: bool = True) -> Curves:
    """Standardise what arrives by its own mean and spread, request by request."""
    digit, student, curves = data(), network([64, 64, 10]), {}
    images, (test, labels) = part("train")[0], part("test")
    seen = standardise(digit.images, images)
    loss = lambda b: F.cross_entropy(student(seen[b]), digit.labels[b])
    train(student.parameters(), loss, digit.train[0], lambda _: {})
    for size in (360, 120, 40, 20, 10, 5, 3, 2):
        requests = torch.stack(test.split(size))
        ready = standardise(requests, requests if broken else images.expand(len(requests), -1, -1))
        note(curves, {"images per request": size, "accuracy": accuracy(student, ready.flatten(0, 1), labels)})
    return curves


def chosen_on_target(broken: bool = True) -> Curves:
    """Choose among networks that differ by chance alone with forty labelled target images, and report that score."""
    digit, (images, labels), curves = data(), printed(), {}
    right = []
    for number in range(32):
        student = network([64, 64, 10], f"weights {number}")
        loss = lambda b, student=student: F.cross_entropy(student(digit.images[b]), digit.labels[b])
        train(student.parameters(), loss, digit.train[0], lambda _: {}, steps=100)
        right.append((student(images).argmax(dim=1) == labels).float())
    right = torch.stack(right)
    with chance("draws"):
        draws = [torch.randperm(len(labels)) for _ in range(200)]
    for tried in (1, 2, 4, 8, 16, 32):
        scores = torch.stack([_reported(right[:tried], order, broken) for order in draws]).mean(dim=0)
        note(
            curves,
            {"settings tried": tried, "accuracy, as reported": scores[0], "accuracy, new target images": scores[1]},
        )
    return curves


def _reported(right: Tensor, order: Tensor, broken: bool) -> Tensor:
    """Return the score reported and the score on new images, of the setting that the first forty images choose."""
    best = right[right[:, order[:40]].mean(dim=1).argmax()]
    reporting = order[:40] if broken else order[40:80]
    return torch.stack([best[reporting].mean(), best[order[80:]].mean()])
