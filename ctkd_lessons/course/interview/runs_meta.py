"""Broken runs of learning to learn: a derivative left out, a score read from the support.

Each function runs the broken thing, or with ``broken=False`` the repaired one, and returns its curves.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from ctkd_lessons.course.interview.runs_common import SEED, Curves, chance, network, note
from ctkd_lessons.data import glyphs, sinusoids
from ctkd_lessons.meta import maml_loss, prototype_logits, prototypes

WAYS = 5


def missing_second_order(broken: bool = True) -> Curves:
    """Compare the gradient that the code reports with the slope that is there, for longer and longer inner steps."""
    waves, curves = sinusoids.draw(8, 20, [SEED]), {}
    x, y = waves.x[0].double(), waves.y[0].double()
    support, query = (x[:, :10], y[:, :10]), (x[:, 10:], y[:, 10:])
    model = network([1, 40, 40, 1]).double()
    loss = lambda p, x, y: F.mse_loss(functional_call(model, p, (x,)), y)
    start = {name: tensor.detach() for name, tensor in model.named_parameters()}
    for rate in (1e-4, 1e-3, 1e-2, 3e-2, 1e-1):
        own = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
        value = maml_loss(loss, own, support, query, lr=rate, first_order=broken)
        gradient = torch.autograd.grad(value, list(own.values()))
        reported = torch.cat([one.flatten() for one in gradient]).norm()
        ends = [
            maml_loss(loss, _moved(start, gradient, sign * 1e-6 / reported), support, query, lr=rate)
            for sign in (1, -1)
        ]
        measured = (ends[0] - ends[1]) / 2e-6
        shown = {"reported slope": reported, "measured slope": measured, "error": (reported / measured - 1).abs()}
        note(curves, {"inner step size": rate} | shown)
    return curves


def _moved(start: dict[str, Tensor], direction: tuple[Tensor, ...], length: Tensor) -> dict[str, Tensor]:
    return {name: one + length * way for (name, one), way in zip(start.items(), direction, strict=True)}


def support_scored(broken: bool = True) -> Curves:
    """Score a prototypical network on the very images that its prototypes were made of."""
    known, new = glyphs.characters("Latin", "Greek"), glyphs.characters("Armenian")
    pool = glyphs.renderings(known + new, 12, seed=SEED, side=12)
    drawn = glyphs.episodes(pool, known, ways=WAYS, count=201, seed=SEED)
    unseen = glyphs.episodes(pool, new, ways=WAYS, count=100, seed=SEED + 1)
    embed, curves = network([144, 128, 32]), {}
    optimiser = torch.optim.AdamW(embed.parameters(), lr=1e-3)
    logits = lambda support, query: _logits(embed(pool.images[support]), embed(pool.images[query]))
    with chance("noise"):
        for step in range(201):
            support, query, labels = drawn.support[step], drawn.query[step], drawn.query_labels[step]
            value = F.cross_entropy(logits(support, query), labels)
            if step % 40 == 0:
                scored = (unseen.support, unseen.support_labels) if broken else (unseen.query, unseen.query_labels)
                hits = [(logits(s, q).argmax(1) == y).float() for s, q, y in zip(unseen.support, *scored, strict=True)]
                shown = {"training loss": value.item(), "1-shot accuracy, new characters": torch.cat(hits).mean()}
                note(curves, {"step": step} | shown)
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
    return curves


def _logits(support: Tensor, query: Tensor) -> Tensor:
    return prototype_logits(query, prototypes(support, torch.arange(WAYS), WAYS))
