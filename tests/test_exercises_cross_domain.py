"""Lesson 09's exercises: right answers written differently pass, nearly right ones fail, odd ones hear something."""

import math
from itertools import product

import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ctkd_lessons import cross_domain as lesson
from ctkd_lessons.course import exercises
from ctkd_lessons.course.check import check
from ctkd_lessons.course.examine import cases_of, examine, observe
from ctkd_lessons.course.lessons import find as find_lesson

# --- the parts of answers ---------------------------------------------------------------------


def coral(covariance, compare=lambda a, b, width: (a - b).square().sum() / (4 * width**2)):
    """CORAL from a covariance and a comparison."""
    return lambda s, t: compare(covariance(s), covariance(t), s.shape[1])


def by_traces(s, t):
    """‖A − B‖² = tr A² + tr B² − 2 tr A B."""
    a, b = (torch.atleast_2d(torch.cov(f.T)) for f in (s, t))
    return (torch.trace(a @ a) + torch.trace(b @ b) - 2 * torch.trace(a @ b)) / (2 * s.shape[1]) ** 2


def by_moments(f):
    """E f f^T − mean mean^T, and n / (n − 1)."""
    return (f.T @ f / len(f) - torch.outer(f.mean(0), f.mean(0))) * len(f) / (len(f) - 1)


class Reversal(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, strength):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.strength = inputs[1]

    @staticmethod
    def backward(ctx, gradient):
        return gradient.neg() * ctx.strength, None


class OldReversal(torch.autograd.Function):
    """As the code of 2016 to 2022 has it."""

    @staticmethod
    def forward(ctx, x, strength):
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient.neg() * ctx.strength, None


class Unmapped(Reversal):
    generate_vmap_rule = False


def hook_on_a_copy(x, strength):
    made = x.view_as(x)
    if made.requires_grad:
        made.register_hook(lambda gradient: -strength * gradient)
    return made


def hook_where_gradient_flows(x, strength):
    if x.requires_grad:
        x.register_hook(lambda gradient: -strength * gradient)
    return x


def dann(*, split=None, loss=None, turn=lambda reverse, f, strength: reverse(f, strength), total=None):
    """DANN's loss as public code writes it: one batch of both domains, BCE with logits."""

    def answer(model, reverse, source, labels, target, strength):
        both = model.trunk(torch.cat([source, target]))
        f_s, f_t = split(both, len(source)) if split else (both[: len(source)], both[len(source) :])
        a_s, a_t = (model.critic(turn(reverse, f, strength)) for f in (f_s, f_t))
        bce = loss or F.binary_cross_entropy_with_logits
        parts = bce(a_s, torch.ones_like(a_s)), bce(a_t, torch.zeros_like(a_t))
        classes = F.cross_entropy(model.head(f_s), labels)
        return total(classes, *parts) if total else classes + (parts[0] + parts[1]) / 2

    return answer


def by_two_losses(model, reverse, source, labels, target, strength):
    """A loss for the critic on features cut off, and one for the trunk through a critic that is kept still."""
    features = model.trunk(source), model.trunk(target)
    still = {name: value.detach() for name, value in model.critic.named_parameters()}
    of_critic = lesson.domain_loss(*(model.critic(f.detach()) for f in features))
    of_trunk = lesson.domain_loss(*(torch.func.functional_call(model.critic, still, (f,)) for f in features))
    return F.cross_entropy(model.head(features[0]), labels) + of_critic - strength * (of_trunk - of_trunk.detach())


def joined_by(combine):
    """Conditional features image by image."""
    return lambda f, p: torch.stack([combine(a, b.detach()) for a, b in zip(f, p, strict=True)])


def places(quota=lambda share, n, classes: max(1, int(share * n / classes)), *, order=None, passes=None, cut=None):
    """Pseudo-labels class by class, seed by seed."""
    order = order or (lambda c: np.lexsort((np.arange(len(c)), -c)))
    passes = passes or (lambda c, threshold: c >= threshold)

    def answer(probabilities, share, threshold):
        confidence, labels = probabilities.max(-1)
        kept = torch.zeros_like(labels, dtype=torch.bool)
        for place in product(*(range(size) for size in labels.shape[:-1])):
            for c in range(probabilities.shape[-1]):
                own = (labels[place] == c).nonzero().flatten()
                first = own[order(confidence[place][own].numpy())]
                kept[place][first[: quota(share, labels.shape[-1], probabilities.shape[-1])]] = True
        return labels, kept & passes(confidence, threshold)

    return answer


def by_counting(probabilities, share, threshold):
    """Who stands before me? Everyone of my class who is more confident, or as confident and earlier."""
    confidence, labels = probabilities.max(-1)
    n, classes = probabilities.shape[-2:]
    mine, other = confidence[..., :, None], confidence[..., None, :]
    earlier = torch.ones(n, n, dtype=torch.bool).tril(-1)
    before = ((other > mine) | ((other == mine) & earlier)) & (labels[..., :, None] == labels[..., None, :])
    return labels, (before.sum(-1) < max(1, math.floor(share * n / classes))) & (confidence >= threshold)


def of_confident_only(probabilities, share, threshold):
    """The threshold first, then the places among what is left: the same."""
    confidence, labels = probabilities.max(-1)
    left = torch.where((confidence >= threshold)[..., None], probabilities, 0 * probabilities)
    return labels, places()(left, share, 0.0)[1] & (confidence >= threshold)


def by_topk(probabilities, share, threshold):
    """Without a word on ties, and with all places filled."""
    confidence, labels = probabilities.max(-1)
    quota = max(1, int(share * probabilities.shape[-2] / probabilities.shape[-1]))
    kept = torch.zeros_like(labels, dtype=torch.bool)
    for c in range(probabilities.shape[-1]):
        own = torch.where(labels == c, confidence, -1.0)
        kept.scatter_(-1, own.topk(quota).indices, True)
    return labels, kept & (confidence >= threshold)


def in_modules(each_seed=None, optimiser=torch.optim.SGD, reduce=None):
    """Self-training as one writes it for a single model, seed by seed."""

    def answer(weights, source, labels, target, rounds, steps, learning_rate, threshold):
        made = []
        for place, start in enumerate(weights):
            model = nn.Linear(*start.shape, bias=False, dtype=start.dtype)
            model.weight.data = start.T.clone()
            descent = optimiser(model.parameters(), lr=learning_rate)
            for _ in range(rounds):
                with torch.no_grad():
                    answers = model(target) if each_seed is None else each_seed(weights, target, place)
                    confidence, own = answers.softmax(-1).max(-1)
                kept = confidence >= threshold
                for _ in range(steps):
                    loss = F.cross_entropy(model(source), labels)
                    if kept.any():
                        loss = loss + (reduce or F.cross_entropy)(model(target)[kept], own[kept])
                    descent.zero_grad()
                    loss.backward()
                    descent.step()
            made.append(model.weight.detach().T)
        return torch.stack(made)

    return answer


def by_popping(domains, train, score):
    scores = {}
    for name in domains:
        others = dict(domains)
        left_out = others.pop(name)
        scores[name] = score(train(tuple(others.values())), left_out)
    return scores


def leaving_out(others=lambda domains, name: [d for n, d in domains.items() if n != name]):
    return lambda domains, train, score: {n: score(train(others(domains, n)), d) for n, d in domains.items()}


def in_two_passes(domains, train, score):
    models = {name: train([domains[other] for other in domains if other != name]) for name in domains}
    return {name: score(model, domains[name]) for name, model in models.items()}


# --- right answers ----------------------------------------------------------------------------

RIGHT = [
    ("coral_loss", coral(lambda f: torch.cov(f.T))),
    ("coral_loss", coral(by_moments)),
    ("coral_loss", coral(lambda f: torch.cov(f.T), lambda a, b, width: F.mse_loss(a, b) / 4)),
    ("coral_loss", by_traces),
    ("coral_loss", coral(lambda f: torch.einsum("ij,ik->jk", f - f.mean(0), f - f.mean(0)) / (len(f) - 1),
                         lambda a, b, width: torch.dist(a, b).square() / (2 * width) ** 2)),
    ("reverse_gradient", Reversal.apply),
    ("reverse_gradient", lambda x, strength: x.detach() - torch.as_tensor(strength).detach() * (x - x.detach())),
    ("reverse_gradient", lambda x, s: (x + s * x).detach() - (s.detach() if isinstance(s, torch.Tensor) else s) * x),
    ("reverse_gradient", hook_on_a_copy),
    ("dann_loss", dann()),
    ("dann_loss", dann(split=lambda both, n: both.tensor_split([n]))),
    ("dann_loss", by_two_losses),
    ("dann_loss", lambda model, reverse, source, labels, target, strength: lesson.dann_loss(
        model, source, labels, target, strength)),
    ("conditional_features", lambda f, p: torch.einsum("bc,bd->bcd", p.detach(), f).flatten(1)),
    ("conditional_features", lambda f, p: torch.bmm(p.detach()[:, :, None], f[:, None]).view(len(f), -1)),
    ("conditional_features", joined_by(lambda f, p: torch.kron(p, f))),
    ("conditional_features", joined_by(lambda f, p: torch.cat([one * f for one in p]))),
    ("conditional_features", lambda f, p: p.detach().repeat_interleave(f.shape[1], 1) * f.repeat(1, p.shape[1])),
    ("confident_pseudo_labels", places()),
    ("confident_pseudo_labels", by_counting),
    ("confident_pseudo_labels", of_confident_only),
    ("confident_pseudo_labels", lambda p, *rest: list(lesson.confident_pseudo_labels(p, *rest))),
    ("self_train", in_modules()),
    ("leave_one_domain_out", by_popping),
    ("leave_one_domain_out", leaving_out()),
    ("leave_one_domain_out", leaving_out(lambda domains, name: (d for n, d in domains.items() if n != name))),
    ("leave_one_domain_out", in_two_passes),
]  # fmt: skip


@pytest.mark.parametrize(("name", "answer"), RIGHT, ids=[f"{name}-{k}" for k, (name, _) in enumerate(RIGHT)])
def test_right_answers_written_differently_pass(name, answer):
    for seed in range(5):
        finding = examine(exercises.find(f"09.{name}"), answer, seed)
        assert finding.passed, (seed, finding.headline, finding.details)


def test_the_right_reversal_is_observed_without_an_error():
    """What is wrong with the observation itself would pass as what is expected."""
    exercise = exercises.find("09.reverse_gradient")
    for case in cases_of(exercise):
        seen = observe(exercise, exercise.reference, case)
        outcomes = {value for key, value in seen.items() if key.startswith("call")}
        assert outcomes == {"without error"}
        assert seen.get("gradient into `strength`", "none") == "none"


# --- nearly right answers ---------------------------------------------------------------------

NEARLY = {
    "as many examples": (
        "coral_loss",
        lambda s, t: coral(lambda f: (f - f.mean(0)).T @ (f - f.mean(0)) / (len(s) - 1))(s, t),
    ),
    "features of mean zero": ("coral_loss", coral(lambda f: f.T @ f / (len(f) - 1))),
    "a single feature": ("coral_loss", lambda s, t: (s.var(0) - t.var(0)).square().mean() / 4 / s.shape[1]),
    "many examples": ("coral_loss", coral(lambda f: torch.cov(f.T, correction=0))),
    "a number for the strength": (
        "reverse_gradient",
        lambda x, strength: (x + strength * x).detach() - strength * x,
    ),
    "strengths that can be read": ("reverse_gradient", lambda x, s: Reversal.apply(x, torch.as_tensor(s).item())),
    "one use of x": ("reverse_gradient", hook_where_gradient_flows),
    "one network": ("reverse_gradient", OldReversal.apply),
    "training": ("reverse_gradient", lambda x, s: x.view_as(x).mul_(1).register_hook(lambda g: -s * g) and x),
    "as many images": ("dann_loss", dann(split=lambda both, n: both.chunk(2))),
    "a strength of one": ("dann_loss", dann(turn=lambda reverse, f, strength: strength * reverse(f, 1.0))),
    "a balanced batch": (
        "dann_loss",
        lambda model, reverse, s, y, t, strength: (
            F.cross_entropy(model(s), y)
            + F.binary_cross_entropy_with_logits(
                model.critic(reverse(model.trunk(torch.cat([s, t])), strength)).flatten(),
                torch.cat([torch.ones(len(s)), torch.zeros(len(t))]).to(s),
            )
        ),
    ),
    "as many classes as features": (
        "conditional_features",
        lambda f, p: (
            (p.detach()[:, :, None] * f[:, None]).transpose(1, 2).reshape(len(f), -1)
            if f.shape[1] == p.shape[1]
            else (p.detach()[:, :, None] * f[:, None]).transpose(1, 2).flatten(1)
        ),
    ),
    "one example": (
        "conditional_features",
        lambda f, p: torch.outer(p.detach()[0], f[0]).view(1, -1).expand(len(f), -1),
    ),
    "a number of examples that C divides": (
        "confident_pseudo_labels",
        places(lambda share, n, classes: max(1, int(share * (n // classes)))),
    ),
    "no ties": ("confident_pseudo_labels", places(order=lambda c: np.argsort(c, kind="stable")[::-1].copy())),
    "classes with members enough": ("confident_pseudo_labels", by_topk),
    "a quota above one": ("confident_pseudo_labels", places(lambda share, n, classes: int(share * n / classes))),
    "a single seed": (
        "confident_pseudo_labels",
        lambda p, *rest: tuple(
            found.view(p.shape[:-1]) for found in lesson.confident_pseudo_labels(p.flatten(0, -2), *rest)
        ),
    ),
    "confident models": (
        "self_train",
        in_modules(reduce=lambda z, own: F.cross_entropy(z, own) * len(z) / (len(z) + 1)),
    ),
    "a single round": ("self_train", in_modules(lambda weights, target, place: target @ weights[place])),
    "models alike": ("self_train", in_modules(lambda weights, target, place: target @ weights[0])),
    "two domains": (
        "leave_one_domain_out",
        leaving_out(lambda domains, name: [d for n, d in domains.items() if n != name][:1]),
    ),
    "names in order": (
        "leave_one_domain_out",
        lambda domains, *rest: dict(sorted(leaving_out()(domains, *rest).items())),
    ),
}


@pytest.mark.parametrize(("name", "answer"), NEARLY.values(), ids=NEARLY)
@pytest.mark.parametrize("seed", range(5))
def test_answers_that_are_right_only_for(name, answer, seed):
    assert not examine(exercises.find(f"09.{name}"), answer, seed).passed


# --- the bug hunt -----------------------------------------------------------------------------

BUGS = ["made_once", "pooled", "all_kept", "source_dropped"]
LABELS = (
    "    p = torch.softmax(target @ weights, dim=-1).mean(dim=0)\n    own = F.one_hot(p.argmax(dim=-1), p.shape[-1])\n"
)
ROUNDS = "    for _ in range(rounds):\n"
KEPT = "of_target = (kept * of_target).sum(dim=-1) / kept.sum(dim=-1).clamp(min=1)"
MENDED = {
    "made_once": [(LABELS + ROUNDS, ROUNDS + LABELS.replace("    p", "        p").replace("    own", "        own"))],
    "pooled": [(".mean(dim=0)", "")],
    "all_kept": [(".sum(dim=-1).mean(dim=1)", f".sum(dim=-1)\n            {KEPT}"),
                 ("p.shape[-1])\n", "p.shape[-1]); kept = (p.amax(dim=-1) >= threshold).to(p.dtype)\n")],
    "source_dropped": [("loss = of_target.sum()", "loss = (of_source + of_target).sum()")],
}  # fmt: skip


def half_mended(bugs):
    """Return the broken loop with these bugs mended."""
    book = nbformat.read(find_lesson("09").solution, as_version=4)
    source = {cell.id: cell.source for cell in book.cells if cell.cell_type == "code"}
    code = source["broken_self_train"]
    for old, new in (change for bug in BUGS if bug in bugs for change in MENDED[bug]):
        assert code.count(old) == 1, old
        code = code.replace(old, new)
    scope: dict = {}
    exec(source["imports"] + "\n" + code, scope)
    return scope["broken_self_train"]


@pytest.mark.parametrize("which", range(2 ** len(BUGS)))
@pytest.mark.parametrize("seed", [0, 7])
def test_the_bug_hunt_names_what_is_left(which, seed):
    """Every subset of the four."""
    left = [bug for place, bug in enumerate(BUGS) if which >> place & 1]
    finding = examine(exercises.find("09.self_train"), half_mended(set(BUGS) - set(left)), seed)
    assert [mistake.name for mistake in finding.mistakes] == left
    assert finding.passed == (not left)


# --- what other wrong answers hear ------------------------------------------------------------


def emptied(domains, train, score):
    """Takes each domain out of the dict it was given."""
    return {name: score(train(list(domains.values())), domains.pop(name)) for name in list(domains)}


def of_a_critic_with_two_answers(model, reverse, source, labels, target, strength):
    features = reverse(model.trunk(torch.cat([source, target])), strength)
    domains = torch.cat([torch.zeros(len(source)), torch.ones(len(target))]).long()
    return F.cross_entropy(model(source), labels) + F.cross_entropy(model.critic(features), domains)


def kept_rows(p, share, threshold):
    labels, kept = lesson.confident_pseudo_labels(p, share, threshold)
    return labels, kept.nonzero()


def of_the_mean(p, share, threshold):
    return lesson.confident_pseudo_labels(p.mean(0) if p.ndim > 2 else p, share, threshold)


def in_place(weights, *rest):
    return weights.copy_(in_modules()(weights, *rest))


def turned(function):
    return lambda domains, train, score: {n: function(train, score, d, n) for n, d in domains.items()}


UNLISTED = [
    ("coral_loss", lambda s, t: -lesson.coral_loss(s, t), "wrong sign"),
    ("coral_loss", lambda s, t: lesson.coral_loss(s, t).item(), "Stay in torch to the end"),
    ("coral_loss", lambda s, t: np.cov(s.T) - np.cov(t.T), "returns a numpy.ndarray; expected a torch.Tensor"),
    ("coral_loss", lambda s, t: lesson.coral_loss(s, t) / len(s), "divided by the number of source examples"),
    ("coral_loss", coral(lambda f: torch.cov(f.T), lambda a, b, width: (a - b).square() / 4), "A loss is one number"),
    ("coral_loss", lambda s, t: lesson.coral_loss(s, t.sub_(1)), "changes its input `target` in place"),
    ("coral_loss", lambda s, t: lesson.coral_loss(s, t) + 0.1 * (s.mean() - t.mean()) ** 2, "The value differs"),
    ("reverse_gradient", lambda x, strength: Reversal.apply(x, 1 + strength), "The gradient of `x` differs at"),
    ("reverse_gradient", lambda x, strength: (1 + strength) * x.detach() + strength * x,
     "right on 1 of 5 inputs, such as: x (2, 3, 2) float64, strength = 0.0"),
    ("reverse_gradient", lambda x, strength: (1 + strength) * Reversal.apply(x, strength), "one plus the strength"),
    ("reverse_gradient", Reversal, "returns a Reversal; expected a torch.Tensor"),
    ("reverse_gradient", lambda x, strength: Reversal.apply(x, strength).mean(),
     "should have shape (3, 4); yours has ()"),
    ("reverse_gradient", lambda x, s: x.view_as(x).register_hook(lambda g: -s * g), "returns a RemovableHandle"),
    ("reverse_gradient", lambda x, strength: Reversal.apply(x.double(), strength), "dtype should be torch.float32"),
    ("reverse_gradient", lambda x: x, "Keep the name and the arguments"),
    ("dann_loss", dann(split=lambda both, n: both.chunk(2)), "right on 1 of 5 inputs, such as: source (4, 4)"),
    ("dann_loss", dann(turn=lambda reverse, f, strength: strength * reverse(f, 1.0)),
     "strength = 1.0. What is special"),
    ("dann_loss", dann(turn=lambda reverse, f, strength: reverse(f, -strength)), "strength: expected a finite number"),
    ("dann_loss", dann(total=lambda classes, a, b: (classes + (a + b) / 2).detach()), "No gradient flows"),
    ("dann_loss", dann(total=lambda classes, a, b: (classes, (a + b) / 2)), "returns a tuple; expected a torch.Tensor"),
    ("dann_loss", lambda model, reverse, s, y, t, strength: model.critic(s), "Write the shape of each array"),
    ("dann_loss", of_a_critic_with_two_answers, "Target 1 is out of bounds"),
    ("dann_loss", dann(loss=F.mse_loss), "The value differs"),
    ("conditional_features", lambda f, p: p * f, "must match the size of tensor b"),
    ("conditional_features", lambda f, p: torch.einsum("bc,bd->cd", p, f).flatten(),
     "should have shape (3, 12); yours has (12"),
    ("conditional_features", joined_by(lambda f, p: torch.cat([f, torch.outer(p, f).flatten()])), "yours has (3, 16)"),
    ("conditional_features", lambda f, p: joined_by(lambda a, b: torch.kron(b, a))(f, p).tolist(), "returns a list"),
    ("confident_pseudo_labels", lambda *given: lesson.confident_pseudo_labels(*given)[0], "expected a tuple of 2"),
    ("confident_pseudo_labels", lambda *given: lesson.confident_pseudo_labels(*given)[::-1],
     "The dtype of `labels` should be torch.int64; yours is torch.bool"),
    ("confident_pseudo_labels", lambda p, *rest: (p.argmax(-2), p.amax(-2) > 0),
     "should have shape (2, 17); yours has (2, 3)"),
    ("confident_pseudo_labels", kept_rows, "The dtype of `kept` should be torch.bool"),
    ("confident_pseudo_labels", of_the_mean, "should have shape (2, 17); yours has (17,)"),
    ("confident_pseudo_labels", by_topk, "right on 3 of 6 inputs"),
    ("confident_pseudo_labels", NEARLY["a number of examples that C divides"][1],
     "On input 1 it gives what this gives: computed with one place too few"),
    ("self_train", lambda *arguments: None, "Does every path end in a `return`?"),
    ("self_train", lambda *arguments: list(in_modules()(*arguments)), "returns a list; expected a torch.Tensor"),
    ("self_train", lambda *arguments: in_modules()(*arguments).mean(0),
     "should have shape (3, 3, 3); yours has (3, 3)"),
    ("self_train", in_place, "changes its input `weights` in place"),
    ("self_train", in_modules(optimiser=torch.optim.Adam), "The value differs at"),
    ("leave_one_domain_out", leaving_out(lambda domains, name: [d for d in domains.values() if d != domains[name]]),
     "Boolean value of Tensor with more than one value is ambiguous (line"),
    ("leave_one_domain_out", leaving_out(lambda domains, name: torch.cat([d for n, d in domains.items() if n != name])),
     "train: expected a list of domains, got a single tensor"),
    ("leave_one_domain_out", turned(lambda train, score, d, name: score(d, train([d]))),
     "score: expected a model first"),
    ("leave_one_domain_out", turned(lambda train, score, d, name: (train([d]), d)),
     "The score of each domain should be a number; yours is a tuple"),
    ("leave_one_domain_out", lambda *given: list(lesson.leave_one_domain_out(*given).values()),
     "returns a list; expected a dict"),
    ("leave_one_domain_out", lambda *given: min(lesson.leave_one_domain_out(*given).values()),
     "returns a float; expected a dict"),
    ("leave_one_domain_out", NEARLY["names in order"][1], "The names should be printed, thick, blurred, handwritten"),
    ("leave_one_domain_out", emptied, "differs"),
    ("leave_one_domain_out", leaving_out(lambda domains, name: [d for n, d in reversed(domains.items()) if n != name]),
     "The data that `train` received, call by call, should be thick + blurred + handwritten;"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "answer", "words"), UNLISTED, ids=range(len(UNLISTED)))
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_wrong_answers_nobody_listed_hear_something_useful(name, answer, words):
    panel = repr(check(f"09.{name}", answer))
    assert panel.startswith(f"✘ 09.{name}")
    assert words in panel


LISTED = [
    ("coral_loss", lambda s, t: F.mse_loss(torch.cov(s.T), torch.cov(t.T)), ["no_four"]),
    ("coral_loss", lambda s, t: F.mse_loss(torch.cov(s.T), torch.cov(t.T)) + F.mse_loss(s.mean(0), t.mean(0)),
     ["no_four", "with_means"]),
    ("coral_loss", coral(lambda f: torch.cov(f.T), lambda a, b, width: (a - b).square().sum() / 4), ["no_width"]),
    ("coral_loss", coral(lambda f: torch.cov(f.T, correction=0)), ["by_n"]),
    ("coral_loss", coral(lambda f: f.T @ f / (len(f) - 1)), ["not_centred"]),
    ("coral_loss", coral(lambda f: f.T @ f / len(f)), ["not_centred", "by_n"]),
    ("coral_loss", coral(lambda f: f.var(0)), ["diagonal_only"]),
    ("coral_loss", coral(lambda f: (f - f.mean()).T @ (f - f.mean()) / (len(f) - 1)), ["one_mean"]),
    ("coral_loss", lambda s, t: lesson.coral_loss(s, t.detach()), ["target_cut"]),
    ("coral_loss", lambda s, t: lesson.coral_loss(s, t).sqrt(), ["root_of_all"]),
    ("reverse_gradient", lambda x, strength: Reversal.apply(x, -strength), ["not_reversed"]),
    ("reverse_gradient", lambda x, strength: 2 * x.detach() - x, ["no_strength"]),
    ("reverse_gradient", lambda x, strength: x, ["identity"]),
    ("reverse_gradient", lambda x, strength: Reversal.apply(x, strength).detach(), ["cut"]),
    ("reverse_gradient", NEARLY["a number for the strength"][1], ["strength_learns"]),
    ("reverse_gradient", hook_where_gradient_flows, ["hook"]),
    ("reverse_gradient", OldReversal.apply, ["plain_function"]),
    ("reverse_gradient", Unmapped.apply, ["plain_function"]),
    ("reverse_gradient", NEARLY["strengths that can be read"][1], ["as_number"]),
    ("reverse_gradient", lambda x, s: x.detach() * s + (1 - s) * x, ["one_minus"]),
    ("dann_loss", dann(turn=lambda reverse, f, strength: f), ["not_reversed"]),
    ("dann_loss", dann(turn=lambda reverse, f, strength: reverse(f, 1.0)), ["strength_ignored"]),
    ("dann_loss", dann(turn=lambda reverse, f, strength: reverse(f.detach(), strength)), ["critic_cut"]),
    ("dann_loss", dann(loss=lambda a, y: F.binary_cross_entropy_with_logits(a.sigmoid(), y)), ["sigmoid_twice"]),
    ("dann_loss", dann(loss=lambda a, y: F.binary_cross_entropy_with_logits(a, 1 - y)), ["swapped"]),
    ("dann_loss", dann(total=lambda classes, a, b: classes + a + b), ["domains_added"]),
    ("dann_loss", dann(total=lambda classes, a, b: classes - (a + b) / 2), ["minus_too"]),
    ("dann_loss", dann(total=lambda classes, a, b: classes), ["no_domains"]),
    ("dann_loss", dann(total=lambda classes, a, b: classes + a), ["source_only"]),
    ("dann_loss", dann(split=lambda both, n: (both[:n], both[n:].detach())), ["target_cut"]),
    ("dann_loss", NEARLY["a balanced batch"][1], ["pooled"]),
    ("conditional_features", lambda f, p: torch.einsum("bc,bd->bcd", p, f).flatten(1), ["not_detached"]),
    ("conditional_features", joined_by(lambda f, p: torch.kron(f, p)), ["features_first"]),
    ("conditional_features", lambda f, p: torch.einsum("bc,bd->bdc", p, f).flatten(1),
     ["features_first", "not_detached"]),
    ("conditional_features", lambda f, p: torch.bmm(p.detach()[:, :, None], f[:, None]), ["not_flattened"]),
    ("conditional_features", joined_by(lambda f, p: torch.kron(p, f.detach())), ["features_cut"]),
    ("confident_pseudo_labels", NEARLY["no ties"][1], ["later_first"]),
    ("confident_pseudo_labels", NEARLY["a single seed"][1], ["pooled"]),
    ("confident_pseudo_labels", NEARLY["a quota above one"][1], ["may_be_none"]),
    ("confident_pseudo_labels", places(order=lambda c: np.argsort(c, kind="stable")), ["ascending"]),
    ("confident_pseudo_labels", places(passes=lambda c, threshold: c > threshold), ["strictly"]),
    ("confident_pseudo_labels", places(lambda share, n, classes: round(share * n / classes) or 1), ["rounded"]),
    ("confident_pseudo_labels", places(lambda share, n, classes: max(1, int(share * n))), ["not_divided"]),
    ("confident_pseudo_labels", lambda p, share, threshold: (p.argmax(-1), p.amax(-1) >= threshold), ["share_ignored"]),
    ("self_train", lambda weights, *rest: weights, ["unchanged"]),
    ("self_train", lambda w, s, y, t, rounds, steps, *rest: in_modules()(w, s, y, t, rounds * steps, 1, *rest),
     ["made_at_each_step"]),
    ("self_train", in_modules(lambda weights, target, place: target @ weights[place]), ["made_once"]),
    ("self_train", in_modules(reduce=lambda z, own: F.cross_entropy(z, own, reduction="sum")), ["summed"]),
    ("leave_one_domain_out", leaving_out(lambda domains, name: list(domains.values())), ["left_out_too"]),
    ("leave_one_domain_out", leaving_out(lambda domains, name: [n for n in domains if n != name]), ["names_given"]),
    ("leave_one_domain_out", leaving_out(lambda domains, name: {n: d for n, d in domains.items() if n != name}),
     ["mapping_given"]),
    ("leave_one_domain_out", lambda *given: np.mean(list(lesson.leave_one_domain_out(*given).values())).item(),
     ["mean_only"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "answer", "mistakes"), LISTED, ids=range(len(LISTED)))
def test_mistakes_written_differently_are_named(name, answer, mistakes):
    assert [mistake.name for mistake in examine(exercises.find(f"09.{name}"), answer).mistakes] == mistakes
