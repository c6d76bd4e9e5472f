"""Lesson 07's exercises: right answers written differently pass, nearly right ones fail, odd ones hear something."""

import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch.distributions import Normal

from ctkd_lessons import conflict as lesson
from ctkd_lessons.course import exercises
from ctkd_lessons.course.check import check
from ctkd_lessons.course.examine import examine
from ctkd_lessons.course.lessons import find as find_lesson

# --- the parts of answers ---------------------------------------------------------------------


def in_a_double_loop(compare):
    """A matrix from a function of two gradients."""
    return lambda g: torch.stack([torch.stack([compare(a, b) for b in g]) for a in g])


def small_number_in_the_length(g, small=1e-8):
    unit = g / (g.norm(dim=1, keepdim=True) + small)
    return unit @ unit.T


def by_density(losses, s):
    """−log N(√L; 0, σ²), but for the constant."""
    return -(Normal(0, (s / 2).exp()).log_prob(losses.sqrt()) + 0.5 * np.log(2 * np.pi)).sum()


def by_search(first, second):
    """Minimise numerically."""
    square = lambda w: float((w * first + (1 - w) * second).double().square().sum())
    found = minimize_scalar(square, bounds=(0, 1), method="bounded", options={"xatol": 1e-9}).x
    return torch.tensor(0.5 if torch.equal(first, second) else found, dtype=first.dtype)


def expanded(first, second):
    a, b, c = first @ first, first @ second, second @ second
    square = a - 2 * b + c
    return ((c - b) / square).clamp(0, 1) if square > 1e-9 * (a + c) else torch.full_like(a, 0.5)


def three_cases(first, second):
    """As in algorithm 1 of the paper's appendix."""
    if torch.equal(first, second):
        return torch.tensor(0.5, dtype=first.dtype)
    if first @ second >= first @ first:
        return torch.ones((), dtype=first.dtype)
    if first @ second >= second @ second:
        return torch.zeros((), dtype=first.dtype)
    return (second - first) @ second / (second - first).square().sum()


def surgery(conflict=lambda p: p < 0, *, on_original=True, total=lambda rest: rest.sum(0), small=0.0, skip=True):
    """PCGrad as public code writes it, with parts to exchange."""

    def answer(gradients, order):
        rest = [g.clone() for g in gradients]
        for i, g in enumerate(rest):
            for j in order[i]:
                other = gradients[j] if on_original else rest[j]
                product = torch.dot(g, other)
                if conflict(product) and not (skip and j == i):
                    g -= product * other / (other.norm() ** 2 + small)
        return total(torch.stack(rest))

    return answer


def without_if(gradients, order):
    """The smaller of the product and zero decides."""
    total = 0
    for i, rest in enumerate(gradients):
        for j in order[i][order[i] != i]:
            other = gradients[j]
            rest = rest - (rest @ other).clamp(max=0) / (other @ other) * other
        total = total + rest
    return total


def shuffled_by_itself(gradients, order):
    return surgery()(gradients, torch.stack([torch.randperm(len(order)) for _ in order]))


def impartial(rows=F.normalize):
    """All K equations at once: equal components, and weights of sum one."""

    def answer(gradients):
        u, k = rows(gradients), len(gradients)
        left = torch.cat([(u[:1] - u[1:]) @ gradients.T, torch.ones(1, k, dtype=u.dtype)])
        right = torch.zeros(k, dtype=u.dtype)
        right[-1] = 1
        return torch.linalg.solve(left, right)

    return answer


def by_scaling(gradients):
    """Every component one; then all weights divided by their sum."""
    w = torch.linalg.solve(F.normalize(gradients) @ gradients.T, torch.ones(len(gradients), dtype=gradients.dtype))
    return w / w.sum()


def step_by_reference(trunk, heads, optimiser, x, targets, order, *, before=None, direction_of=lesson.pcgrad):
    """A step from the lesson's own parts."""
    losses = torch.stack([F.mse_loss(head(trunk(x)), t) for head, t in zip(heads, targets, strict=True)])
    parameters, own = list(trunk.parameters()), list(heads.parameters())
    direction = direction_of(lesson.task_gradients(losses, parameters, batched=False), order)
    of_heads = torch.autograd.grad(losses.sum(), own)
    for parameter, gradient in zip(own, of_heads, strict=True):
        parameter.grad = gradient
    for parameter, piece in zip(parameters, direction.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = piece.view_as(parameter)
    if before:
        before([*parameters, *own])
    optimiser.step()
    return losses.sum().item()


# --- right answers ----------------------------------------------------------------------------

RIGHT = [
    ("gradient_cosine", in_a_double_loop(lambda a, b: F.cosine_similarity(a, b, dim=0))),
    ("gradient_cosine", lambda g: F.cosine_similarity(g[:, None], g[None], dim=-1)),
    ("gradient_cosine", lambda g: torch.nan_to_num((g @ g.T) / (g.norm(dim=1)[:, None] * g.norm(dim=1)))),
    ("gradient_cosine", lambda g: F.normalize(g) @ F.normalize(g).T),
    ("uncertainty_loss", lambda losses, s: sum(a / (2 * v.exp()) + v / 2 for a, v in zip(losses, s, strict=True))),
    ("uncertainty_loss", lambda losses, s: (losses / s.exp() + torch.log(s.exp())).sum() / 2),
    ("two_task_weight", expanded),
    ("two_task_weight", three_cases),
    ("pcgrad", surgery()),
    ("pcgrad", without_if),
    ("pcgrad", surgery(total=lambda rest: rest.mean(0) * len(rest), small=1e-12)),
    ("impartial_weights", impartial()),
    ("impartial_weights", by_scaling),
    ("surgery_step", step_by_reference),
]  # fmt: skip


@pytest.mark.parametrize(("name", "answer"), RIGHT, ids=[f"{name}-{k}" for k, (name, _) in enumerate(RIGHT)])
def test_right_answers_written_differently_pass(name, answer):
    for seed in range(5):
        finding = examine(exercises.find(f"07.{name}"), answer, seed)
        assert finding.passed, (seed, finding.headline, finding.details)


# --- nearly right answers ---------------------------------------------------------------------

NEARLY = {
    "gradients that are not zero": ("gradient_cosine", torch.corrcoef),
    "large gradients": ("gradient_cosine", lambda g: small_number_in_the_length(g, 1e-6)),
    "losses above zero": ("uncertainty_loss", by_density),
    "variances above one": ("uncertainty_loss", lambda losses, s: (losses / s.exp() + s.abs()).sum() / 2),
    "a single task": ("uncertainty_loss", lambda losses, s: 0.5 * (losses / s.exp()).sum() + 0.5 * s.mean()),
    "conflicting gradients": (
        "two_task_weight",
        lambda a, b: torch.where(a @ b < 0, lesson.two_task_weight(a, b), (a.norm() < b.norm()).to(a.dtype)),
    ),
    "different gradients": ("two_task_weight", lambda a, b: ((b - a) @ b / ((b - a) @ (b - a))).clamp(0, 1)),
    "a guard by a small number": (
        "two_task_weight",
        lambda a, b: ((b - a) @ b / ((b - a).square().sum() + 1e-12)).clamp(0, 1),
    ),
    "tasks that never turn against themselves": ("pcgrad", surgery(skip=False)),
    "two tasks": ("pcgrad", lambda g, order: surgery()(g, torch.arange(len(g)).expand(len(g), -1))),
    "gradients of length one": ("impartial_weights", lambda g: impartial()(F.normalize(g))),
    "an equal share for two": ("impartial_weights", lambda g: (1 / g.norm(dim=1)) / (1 / g.norm(dim=1)).sum()),
    "weights that are positive": ("impartial_weights", lambda g: impartial()(g).clamp(min=0)),
    "a first step": (
        "surgery_step",
        lambda trunk, heads, optimiser, *rest: step_by_reference(
            trunk, heads, torch.optim.SGD([*trunk.parameters(), *heads.parameters()], lr=0.05), *rest
        ),
    ),
}


@pytest.mark.parametrize(("name", "answer"), NEARLY.values(), ids=NEARLY)
@pytest.mark.parametrize("seed", range(5))
def test_answers_that_are_right_only_for(name, answer, seed):
    assert not examine(exercises.find(f"07.{name}"), answer, seed).passed


# --- the bug hunt -----------------------------------------------------------------------------

BUGS = ["heads_too", "changed", "always", "accumulates", "added"]
MENDED = {
    "heads_too": [("[*trunk.parameters(), *heads.parameters()]", "list(trunk.parameters())")],
    "changed": [("rest[i] @ rest[j]", "rest[i] @ gradients[j]"), ("rest[j].square().sum() * rest[j]",
                 "gradients[j].square().sum() * gradients[j]")],
    "always": [("rest[i] -= product /", "rest[i] -= product.clamp(max=0) /")],
    "accumulates": [("losses.sum().backward", "optimiser.zero_grad()\n    losses.sum().backward")],
    "added": [("grad += ", "grad = ")],
}  # fmt: skip


def half_mended(bugs):
    """Return the broken step with these bugs mended."""
    book = nbformat.read(find_lesson("07").solution, as_version=4)
    source = {cell.id: cell.source for cell in book.cells if cell.cell_type == "code"}
    code = source["broken_surgery_step"]
    for old, new in (change for bug in bugs for change in MENDED[bug]):
        assert code.count(old) == 1, old
        code = code.replace(old, new)
    scope: dict = {}
    exec(source["imports"] + "\n" + code, scope)
    return scope["broken_surgery_step"]


@pytest.mark.parametrize("first", range(len(BUGS)))
@pytest.mark.parametrize("count", range(len(BUGS) + 1))
def test_the_bug_hunt_names_what_is_left(first, count):
    """Mended in turn from each place, until nothing is left."""
    mended = (BUGS + BUGS)[first : first + count]
    finding = examine(exercises.find("07.surgery_step"), half_mended(mended))
    left = [bug for bug in BUGS if bug not in mended]
    if "heads_too" in left and "added" not in left:  # then all gradients are overwritten, and none can pile up
        left = [bug for bug in left if bug != "accumulates"]
    assert [mistake.name for mistake in finding.mistakes] == left
    assert finding.passed == (count == len(BUGS))


# --- what other wrong answers hear ------------------------------------------------------------


def in_place(gradients, order):
    value = lesson.pcgrad(gradients, order)
    gradients[0] = 0
    return value


def gradients_of_the_trunk_only(trunk, heads, optimiser, *rest):
    """A loop that calls backward on something cut off."""
    trunk(rest[0]).detach().sum().backward()


def with_direction(direction_of):
    return lambda *arguments: step_by_reference(*arguments, direction_of=direction_of)


UNLISTED = [
    ("gradient_cosine", lambda g: F.cosine_similarity(g, g), "should have shape (3, 3); yours has (3,)"),
    ("gradient_cosine", lambda g: g.T @ g, "should have shape (3, 3); yours has (5, 5)"),
    ("gradient_cosine", lambda g: np.corrcoef(g.numpy()), "returns a numpy.ndarray; expected a torch.Tensor"),
    ("gradient_cosine", torch.corrcoef, "is the correlation: each gradient's mean was subtracted first"),
    ("gradient_cosine", lambda g: -lesson.gradient_cosine(g), "wrong sign"),
    ("gradient_cosine", lambda g: small_number_in_the_length(g, 1e-6), "Nearly right: within 2 % on every input"),
    ("gradient_cosine", lambda g: F.normalize(g.double()) @ F.normalize(g.double()).T, "dtype should be torch.float32"),
    ("uncertainty_loss", lambda losses, s: lesson.uncertainty_loss(losses, s).item(), "Stay in torch to the end"),
    ("uncertainty_loss", lambda losses, s: lesson.uncertainty_loss(losses, s).detach(), "No gradient flows"),
    ("uncertainty_loss", lambda losses, s: (losses / s.exp() + s).sum(), "e^(−s) L without the ½"),
    ("uncertainty_loss", by_density, "The gradient of `losses` holds nan or inf"),
    ("uncertainty_loss", lambda losses, s: -lesson.uncertainty_loss(losses, s), "wrong sign"),
    ("uncertainty_loss", NEARLY["a single task"][1], "right on 1 of 5 inputs"),
    ("two_task_weight", lambda a, b: float(lesson.two_task_weight(a, b)), "returns a float; expected a torch.Tensor"),
    ("two_task_weight", lambda a, b: lesson.two_task_weight(a, b)[None], "should have shape (); yours has (1,)"),
    ("two_task_weight", lambda a, b: (b - a) * b, "should have shape (); yours has (4,)"),
    ("pcgrad", surgery(total=lambda rest: rest.sum(1)), "should have shape (7,); yours has (5,)"),
    ("pcgrad", shuffled_by_itself, "gives another value on a second call"),
    ("pcgrad", in_place, "changes its input `gradients` in place"),
    ("pcgrad", surgery(small=0.1), "The value differs at"),
    ("pcgrad", surgery(total=lambda rest: rest.sum(0).tolist()), "returns a list; expected a torch.Tensor"),
    ("pcgrad", lambda g, order: lesson.mgda(g)[1], "The value differs at"),
    ("impartial_weights", lambda g: impartial()(g).tolist(), "returns a list; expected a torch.Tensor"),
    ("impartial_weights", lambda g: torch.linalg.solve(g, g[0]), "must be batches of square matrices"),
    ("impartial_weights", lambda g: impartial()(g) * len(g), "times the number of tasks"),
    ("surgery_step", lambda *arguments: None, "Does every path end in a `return`?"),
    ("surgery_step", lambda *arguments: torch.tensor(step_by_reference(*arguments)), "expected a float"),
    ("surgery_step", gradients_of_the_trunk_only, "What you call `backward` on depends on no parameter"),
    ("surgery_step", with_direction(lambda g, order: -lesson.pcgrad(g, order)), "The trunk after training differs"),
    ("surgery_step", with_direction(lambda g, order: lesson.mgda(g)[1]), "The trunk after training differs"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "answer", "words"), UNLISTED, ids=range(len(UNLISTED)))
def test_wrong_answers_nobody_listed_hear_something_useful(name, answer, words):
    panel = repr(check(f"07.{name}", answer))
    assert panel.startswith(f"✘ 07.{name}")
    assert words in panel


LISTED = [
    ("gradient_cosine", lambda g: g @ g.T / g.norm() ** 2, ["one_norm"]),
    ("gradient_cosine", lambda g: F.normalize(g, dim=0) @ F.normalize(g, dim=0).T, ["over_tasks"]),
    ("gradient_cosine", lambda g: F.normalize(g, 1) @ F.normalize(g, 1).T, ["absolute_length"]),
    ("gradient_cosine", lambda g: g @ g.T / (g.norm(dim=1)[:, None] * g.norm(dim=1)), ["unguarded"]),
    ("gradient_cosine", in_a_double_loop(torch.dot), ["products"]),
    ("gradient_cosine", lambda g: F.normalize(g) @ g.T, ["one_length"]),
    ("uncertainty_loss", lambda losses, s: (losses / (2 * s) + s.log() / 2).sum(), ["as_variance"]),
    ("uncertainty_loss", lambda losses, s: (losses / (2 * s**2) + s.log()).sum(), ["as_sigma"]),
    ("uncertainty_loss", lambda losses, s: (losses / (2 * s.exp() ** 2) + s).sum(), ["as_deviation"]),
    ("uncertainty_loss", lambda losses, s: (losses / s.exp() + F.softplus(s)).sum() / 2, ["softened"]),
    ("uncertainty_loss", lambda losses, s: lesson.uncertainty_loss(losses.detach(), s), ["losses_cut"]),
    ("uncertainty_loss", lambda losses, s: (losses * torch.exp(-s)).sum(), ["classification", "no_penalty"]),
    ("two_task_weight", lambda a, b: (b - a) @ b / (b - a).square().sum(), ["not_clamped", "unguarded"]),
    ("two_task_weight", lambda a, b: lesson.two_task_weight(b, a), ["other_weight"]),
    ("two_task_weight", lambda a, b: lesson.mgda(torch.stack([a, b]))[0] if (a != b).any() else torch.full_like(a[:2],
     0.5), ["both_weights"]),
    ("two_task_weight", NEARLY["a guard by a small number"][1], ["zero_at_equal"]),
    ("pcgrad", surgery(on_original=False), ["changed"]),
    ("pcgrad", surgery(lambda product: True), ["always"]),
    ("pcgrad", surgery(lambda product: True, skip=False), ["always", "itself"]),
    ("pcgrad", surgery(skip=False), ["itself"]),
    ("pcgrad", surgery(total=lambda rest: rest.mean(0)), ["averaged"]),
    ("pcgrad", lambda g, order: surgery()(g, torch.arange(len(g)).expand(len(g), -1)), ["order_ignored"]),
    ("pcgrad", lambda g, order: surgery()(g, order.T), ["order_column"]),
    ("pcgrad", lambda g, order: surgery()(F.normalize(g), order), ["unit"]),
    ("impartial_weights", impartial(rows=lambda g: g), ["raw_products"]),
    ("impartial_weights", lambda g: impartial()(F.normalize(g)), ["unit_mixture"]),
    ("impartial_weights", lambda g: lesson.mgda(F.normalize(g))[0], ["unit_mixture", "shortest"]),
    ("impartial_weights", lambda g: impartial()(g) @ g, ["direction"]),
    ("surgery_step", with_direction(lambda g, order: g.sum(0)), ["no_surgery"]),
    ("surgery_step", with_direction(lambda g, order: lesson.pcgrad(g, order) / len(g)), ["averaged"]),
    ("surgery_step", with_direction(lambda g, order: surgery(lambda product: True)(g, order)), ["always"]),
    ("surgery_step", lambda *arguments: step_by_reference(
        *arguments, before=lambda parameters: [setattr(p, "grad", None) for p in parameters]), ["zeroed_late"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "answer", "mistakes"), LISTED, ids=range(len(LISTED)))
def test_mistakes_written_differently_are_named(name, answer, mistakes):
    assert [mistake.name for mistake in examine(exercises.find(f"07.{name}"), answer).mistakes] == mistakes


def test_a_numerical_minimum_agrees_with_the_closed_form():
    """The exercise's formula against a search that knows no formula."""
    exercise = exercises.find("07.two_task_weight")
    for case in exercise.inputs(np.random.default_rng(1)):
        first, second = (torch.tensor(value).double() for value in case.values())
        assert by_search(first, second).item() == pytest.approx(lesson.two_task_weight(first, second).item(), abs=1e-4)
