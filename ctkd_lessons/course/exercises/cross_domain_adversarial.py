"""Lesson 09's exercises with a critic of the domains: gradient reversal, DANN's loss, what the critic looks at."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import grad, vmap

from ctkd_lessons import cross_domain as lesson
from ctkd_lessons.course.exercises.description import (
    Answer,
    Case,
    Exercise,
    Mistake,
    Observation,
    Property,
    observe_call,
    observe_value,
    tensors,
)
from ctkd_lessons.course.exercises.shared import chosen, draw

# --- reverse_gradient -------------------------------------------------------------------------


def _reversal_inputs(rng: np.random.Generator) -> list[Case]:
    cases = draw(rng, [{"x": shape} for shape in [(3, 4), (2, 5), (6,), (2, 3, 2), (1, 2)]])
    as_tensor = np.array(2.5)
    for case, strength in zip(cases, (0.3, as_tensor, 1.0, 0.0, as_tensor.astype(np.float32)), strict=True):
        case["strength"] = strength
    return cases


def _observe_reversal(answer: Answer, case: Case) -> Observation:
    """Look at the value and at the gradient that comes back: alone, beside another path, under ``vmap``."""
    x = torch.tensor(case["x"], requires_grad=True)
    strength = case["strength"]
    if isinstance(strength, np.ndarray):
        strength = torch.tensor(strength, requires_grad=True)
    weights = torch.cos(torch.arange(x.numel(), dtype=x.dtype)).view(x.shape)
    used = x.clone()  # a hook or a change in place would reach a leaf
    made = answer(used, strength)
    seen = observe_value(made)
    if seen["type"] != "torch.Tensor" or made.shape != x.shape:
        return seen
    seen |= _gradients((weights * made).sum(), x, strength)
    used = x.clone()
    twice = (weights * answer(used, strength)).sum() + 3 * used.sum()
    seen["gradient of `x`, where something else uses it, too,"] = _gradients(twice, x, 0.0)["gradient of `x`"]
    strength = strength.detach() if isinstance(strength, Tensor) else strength
    seen |= _under_vmap(answer, x.detach(), strength, weights)
    seen["`x` afterwards"] = used.detach().numpy()
    seen["call where no gradient is needed"] = _outcome(lambda: answer(torch.tensor(case["x"]), strength))
    return seen


def _gradients(total: Tensor, x: Tensor, strength: float | Tensor) -> Observation:
    leaves = [x, strength] if isinstance(strength, Tensor) else [x]
    found = torch.autograd.grad(total, leaves, allow_unused=True) if total.requires_grad else [None] * len(leaves)
    seen: Observation = {"gradient of `x`": (torch.zeros_like(x) if found[0] is None else found[0]).numpy()}
    for gradient in found[1:]:
        seen["gradient into `strength`"] = "none" if gradient is None or not gradient.any() else "some"
    return seen


def _under_vmap(answer: Answer, x: Tensor, strength: float | Tensor, weights: Tensor) -> Observation:
    of_one = grad(lambda one, strength: (weights * answer(one, strength)).sum())
    each = isinstance(strength, Tensor)  # then with a strength for each
    strengths = torch.stack([strength, strength / 2]) if each else strength
    found: list[Tensor] = []
    mapped = vmap(of_one, in_dims=(0, 0 if each else None))
    outcome = _outcome(lambda: found.append(mapped(torch.stack([x, 2 * x]), strengths)))
    seen: Observation = {"call under `vmap`": outcome}
    return seen | {"gradient of `x` under `vmap`": found[0].numpy()} if found else seen


def _outcome(call: Callable[[], object]) -> str:
    try:
        call()
    except Exception:  # noqa: BLE001 -- an answer may raise anything; that it does is the observation
        return "an error"
    return "without error"


class _PlainReversal(torch.autograd.Function):
    """As in code from before ``torch.func``: forward saves, so that vmap cannot map it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float | Tensor) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradient, None


def _with_hook(x: Tensor, strength: float | Tensor, *, always: bool) -> Tensor:
    if always or x.requires_grad:  # on another tensor it raises
        x.register_hook(lambda gradient: -strength * gradient)
    return x


_WRONG_REVERSALS = {
    "not_reversed": lambda x, strength: lesson.reverse_gradient(lesson.reverse_gradient(x, strength), 1.0),
    "no_strength": lambda x, strength: lesson.reverse_gradient(x, 1.0),
    "identity": lambda x, strength: x.clone(),
    "scaled": lambda x, strength: -strength * x,
    "negated": lambda x, strength: -x,
    "cut": lambda x, strength: x.detach(),
    "one_too_few": lambda x, strength: x.detach() - strength * x,
    "for_strength_one": lambda x, strength: 2 * x.detach() - strength * x,
    "one_less": lambda x, strength: (1 + strength) * x - strength * x.detach(),
    "strength_learns": lambda x, strength: (x + strength * x.detach()).detach() - strength * x + 0 * x,
    "one_minus": lambda x, strength: (1 - strength) * x + strength * x.detach(),
    "hook": partial(_with_hook, always=False),
    "hook_always": partial(_with_hook, always=True),
    "plain_function": _PlainReversal.apply,
    "as_number": lambda x, strength: lesson.reverse_gradient(x, torch.as_tensor(strength).item()),
    "inverse": lambda x, strength: lesson.reverse_gradient(x, 1 / strength if strength else 0.0),
    "squared": lambda x, strength: lesson.reverse_gradient(x, strength**2),
}


def _wrong_reversal(x: Tensor, strength: float | Tensor, **mistake: bool) -> Tensor:
    return chosen(_WRONG_REVERSALS, mistake, lesson.reverse_gradient)(x, strength)


_REVERSAL_MISTAKES = (
    Mistake(
        "not_reversed",
        "right in value, but the gradient keeps its sign",
        "What lies before the critic should learn to *raise* the critic's loss. What must happen to the gradient?",
    ),
    Mistake(
        "no_strength",
        "right but for the strength: the gradient is multiplied by −1",
        "λ says how strongly the critic is heard. It multiplies the gradient.",
    ),
    Mistake(
        "identity",
        "right in value, but the gradient passes as it is",
        "The value stays; the gradient is multiplied by −λ. What knows both directions?",
    ),
    Mistake(
        "scaled",
        "a product with −λ, forward and backward",
        "The critic should see the features as they are. Only the way *back* is changed.",
    ),
    Mistake("negated", "the features with the opposite sign", "The critic should see the features as they are."),
    Mistake(
        "cut",
        "right in value, but no gradient comes back",
        "`detach` alone stops the gradient. It should come back, times −λ.",
    ),
    Mistake(
        "one_too_few",
        "right in gradient, but the value is (1 − λ) x",
        "The part with a gradient is −λ x. How much must the detached part hold, so that both add up to x?",
    ),
    Mistake(
        "for_strength_one",
        "right in gradient, but the value is x for λ = 1 only",
        "The part with a gradient is −λ x. How much must the detached part hold, whatever λ is?",
    ),
    Mistake(
        "one_less",
        "right in value, but the gradient is multiplied by 1 + λ",
        "Which of the two parts keeps its gradient? What stands in front of it comes back.",
    ),
    Mistake(
        "one_minus",
        "right in value, but the gradient is multiplied by 1 − λ",
        "Only −λ x keeps its gradient. The rest of the sum, up to x, is detached.",
    ),
    Mistake(
        "strength_learns",
        "right for x, but gradient flows into `strength`",
        "λ is set from outside. Trained down the loss it would run away: cut it off.",
    ),
    Mistake(
        "hook",
        "a hook on `x` itself, which turns *all* of its gradient round",
        "The classifier uses the same features, and its gradient should stay. Only what passes through the result "
        "is turned round.",
    ),
    Mistake(
        "hook_always",
        "a hook on `x` itself, which turns all of its gradient round, and stops where `x` needs none",
        "The classifier uses the same features, and its gradient should stay: only what passes through the result is "
        "turned round. And a tensor that needs no gradient takes no hook.",
    ),
    Mistake(
        "plain_function",
        "right for one network, but stops under `vmap`",
        "`fit` trains all seeds at once under `torch.func.vmap`. A `Function` needs a `setup_context` apart from its "
        "`forward`, and `generate_vmap_rule = True`. Or do without a class: one part detached, one not.",
    ),
    Mistake(
        "as_number",
        "right but where the strength is a tensor under `vmap`: it becomes a Python number",
        "`.item()` and `float()` stop where each seed has a strength of its own, and where `fit` traces the loss. "
        "Multiply by the tensor as it is.",
    ),
    Mistake("inverse", "right but for the strength: the gradient is divided by it", "−λ multiplies the gradient."),
    Mistake("squared", "right but for the strength, which counts twice", "Where does λ enter? Once is enough."),
)
REVERSE_GRADIENT = Exercise(
    id="09.reverse_gradient",
    title="Turn the gradient round",
    points=2,
    reference=lesson.reverse_gradient,
    inputs=_reversal_inputs,
    drive=_observe_reversal,
    wrong=_wrong_reversal,
    mistakes=_REVERSAL_MISTAKES,
    sizes=lambda case: {"one plus the strength": 1 + float(case["strength"])},
    alone=frozenset(mistake.name for mistake in _REVERSAL_MISTAKES),
)


# --- dann_loss --------------------------------------------------------------------------------

_CLASSES = 3


def _dann_inputs(rng: np.random.Generator) -> list[Case]:
    def case(n: int, m: int, dtype: str, strength: float) -> Case:
        return {
            "source": rng.normal(0, 1, (n, 4)).astype(dtype),
            "labels": rng.integers(0, _CLASSES, n),
            "target": rng.normal(0.7, 1.5, (m, 4)).astype(dtype),
            "strength": strength,
        }

    return [
        case(4, 4, "float64", 0.5),
        case(3, 7, "float32", 2.0),
        case(6, 2, "float64", 1.0),
        case(5, 3, "float64", 0.0),
        case(1, 2, "float32", 0.3),
    ]


def _network(dtype: torch.dtype) -> lesson.DomainNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = nn.Sequential(nn.Linear(4, 3), nn.Tanh()), nn.Linear(3, _CLASSES), nn.Linear(3, 1)
    with torch.no_grad():
        for part in parts[1:]:
            part.weight.mul_(3)  # clear opinions, so that mistakes show
    return lesson.DomainNetwork(*parts).to(dtype)


def _gradients_of(part: nn.Module) -> np.ndarray:
    each = [torch.zeros_like(one) if one.grad is None else one.grad for one in part.parameters()]
    return torch.cat([one.flatten() for one in each]).numpy()


def _observe_dann(answer: Answer, case: Case) -> Observation:
    """Build a network; look at the loss and at the gradient of each part."""
    given = tensors(case)
    model = _network(given["source"].dtype)
    value = answer(model, lesson.reverse_gradient, *given.values())
    seen = observe_value(value)
    if seen["type"] == "torch.Tensor" and value.numel() == 1:
        if value.requires_grad:
            value.sum().backward()
        seen["differentiable"] = "yes" if value.requires_grad else "no"
        for name in ("head", "critic", "trunk"):
            seen[f"gradient of the {name}"] = _gradients_of(getattr(model, name))
    named = {name: value for name, value in given.items() if isinstance(value, Tensor)}
    return seen | {f"`{name}` afterwards": tensor.numpy() for name, tensor in named.items()}


Reverse = Callable[[Tensor, float], Tensor]


def _right_dann(
    model: lesson.DomainNetwork, _: Reverse, source: Tensor, labels: Tensor, target: Tensor, strength: float
) -> Tensor:
    return lesson.dann_loss(model, source, labels, target, strength)


def _wrong_dann(
    model: lesson.DomainNetwork,
    reverse: Reverse,
    source: Tensor,
    labels: Tensor,
    target: Tensor,
    strength: float,
    *,
    not_reversed: bool = False,
    subtracted: bool = False,
    minus_too: bool = False,
    no_softmax: bool = False,
    reversed_head: bool = False,
    reversed_answers: bool = False,
    source_not_reversed: bool = False,
    target_not_reversed: bool = False,
    strength_ignored: bool = False,
    strength_on_loss: bool = False,
    strength_twice: bool = False,
    critic_cut: bool = False,
    source_cut: bool = False,
    target_cut: bool = False,
    head_cut: bool = False,
    swapped: bool = False,
    source_only: bool = False,
    target_only: bool = False,
    domains_added: bool = False,
    pooled: bool = False,
    summed: bool = False,
    softmax_twice: bool = False,
    sigmoid_twice: bool = False,
    no_classification: bool = False,
    no_domains: bool = False,
) -> Tensor:
    features = [model.trunk(one) for one in (source, target)]
    power = 1.0 if strength_ignored or strength_on_loss else strength
    plain = not_reversed or subtracted or reversed_answers
    skipped = (plain or source_not_reversed, plain or target_not_reversed)
    turned = [f if skip else reverse(f, power) for f, skip in zip(features, skipped, strict=True)]
    cut = (critic_cut or source_cut, critic_cut or target_cut)
    a_s, a_t = (model.critic(f.detach() if off else f) for f, off in zip(turned, cut, strict=True))
    if reversed_answers:
        a_s, a_t = reverse(a_s, strength), reverse(a_t, strength)
    if swapped:
        a_s, a_t = -a_s, -a_t
    if sigmoid_twice:
        a_s, a_t = torch.sigmoid(a_s), torch.sigmoid(a_t)
    each = F.softplus(-a_s), F.softplus(a_t)
    means = [one.sum() if summed else one.mean() for one in each]
    domains = torch.cat(each).mean() if pooled else sum(means) / (1 if domains_added else 2)
    domains = means[0] if source_only else means[1] if target_only else domains
    domains = domains * strength if strength_on_loss or strength_twice or subtracted else domains
    logits = model.head(turned[0] if reversed_head else features[0].detach() if head_cut else features[0])
    classification = F.cross_entropy(logits.softmax(1) if softmax_twice else logits, labels)
    classification = F.nll_loss(logits, labels) if no_softmax else classification
    if no_classification or no_domains:
        return domains if no_classification else classification
    return classification - domains if subtracted or minus_too else classification + domains


_DANN_MISTAKES = (
    Mistake(
        "not_reversed",
        "right in value, but the trunk *helps* the critic: nothing is reversed",
        "The trunk should move up the critic's loss. A reversal turns round what lies *before* it.",
    ),
    Mistake(
        "subtracted",
        "the domains' loss subtracted, without a reversal: the critic learns to be wrong",
        "The critic should get better, and only the trunk go against it. A minus turns both round.",
    ),
    Mistake(
        "minus_too",
        "reversed and subtracted: the trunk helps the critic, and the critic learns to be wrong",
        "The reversal is all the minus that is needed: both losses are added.",
    ),
    Mistake(
        "reversed_head",
        "right in value, but the head looks at reversed features, too",
        "The trunk should *help* the head. Reverse only what the critic sees.",
    ),
    Mistake(
        "reversed_answers",
        "right in value, but what is reversed is the critic's answer: the critic learns to be wrong",
        "Everything before the reversal goes up the loss. The critic should not: on which side of it does the reversal "
        "belong?",
    ),
    Mistake(
        "source_not_reversed",
        "right in value, but only the target's features are reversed",
        "The critic must be fooled from both sides: reverse the source's features, too.",
    ),
    Mistake(
        "target_not_reversed",
        "right in value, but only the source's features are reversed",
        "The critic must be fooled from both sides: reverse the target's features, too.",
    ),
    Mistake(
        "strength_ignored",
        "right in value, but reversed with strength 1",
        "`reverse` takes λ as its second argument.",
    ),
    Mistake(
        "strength_on_loss",
        "computed with λ in front of the domains' loss, not in the reversal",
        "Then the critic, too, learns λ times as fast: at λ = 0 not at all. Only the trunk's gradient takes λ.",
    ),
    Mistake(
        "strength_twice",
        "computed with λ in front of the domains' loss *and* in the reversal",
        "Then the trunk feels λ², and the critic λ. It belongs to the reversal alone.",
    ),
    Mistake(
        "critic_cut",
        "right in value, but the critic's gradient does not reach the trunk",
        "Then the critic learns and nobody listens. Which call cuts the features off?",
    ),
    Mistake(
        "source_cut",
        "right in value, but the critic's gradient does not reach the trunk through the source's features",
        "Both domains' features should move, the source's too.",
    ),
    Mistake(
        "target_cut",
        "right in value, but the critic's gradient does not reach the trunk through the target's features",
        "Without it the trunk never adapts to the target: both domains' features should move.",
    ),
    Mistake(
        "head_cut",
        "right in value, but the labels do not train the trunk",
        "The trunk needs features that tell the classes apart, too. Nothing is cut here.",
    ),
    Mistake(
        "swapped",
        "computed with the domains swapped: the target gets large logits",
        "DANN's authors label it so, and it trains as well. Here the *source* has large logits.",
    ),
    Mistake(
        "source_only",
        "computed with a critic that sees the source only",
        "A critic that sees one domain says that domain's name always. It needs both, each with weight ½.",
    ),
    Mistake(
        "target_only",
        "computed with a critic that sees the target only",
        "Whoever sees the target only calls everything target. The critic needs both domains, each with weight ½.",
    ),
    Mistake(
        "domains_added",
        "computed with the sum of both domains' means",
        "The domains' loss is half of that sum: log 2 for a critic that knows nothing.",
    ),
    Mistake(
        "pooled",
        "right for as many source as target images; else the larger domain counts more",
        "Both domains count alike: take each one's mean first.",
    ),
    Mistake(
        "summed",
        "computed with the critic's losses summed over the images",
        "Take each domain's mean, or the critic's part grows with the batch.",
    ),
    Mistake(
        "softmax_twice",
        "computed with probabilities given to `F.cross_entropy`",
        "`F.cross_entropy` applies the softmax itself: what does it expect?",
    ),
    Mistake(
        "no_softmax",
        "computed with `F.nll_loss` on logits",
        "`F.nll_loss` takes log-probabilities. `F.cross_entropy` takes logits.",
    ),
    Mistake(
        "sigmoid_twice",
        "computed with a sigmoid on the critic's logits, and another in the loss",
        "A loss on *logits* holds the sigmoid already.",
    ),
    Mistake(
        "no_classification",
        "the domains' loss alone",
        "Features that are all zero fool every critic. What keeps the classes apart?",
    ),
    Mistake("no_domains", "the classification loss alone", "The domains' loss is missing: does it reach the sum?"),
)
DANN_LOSS = Exercise(
    id="09.dann_loss",
    title="Features that fool a critic",
    points=3,
    reference=_right_dann,
    inputs=_dann_inputs,
    drive=_observe_dann,
    wrong=_wrong_dann,
    mistakes=_DANN_MISTAKES,
    sizes=lambda case: {
        "the number of source images": len(case["source"]),
        "the number of target images": len(case["target"]),
    },
    alone=frozenset(
        {"subtracted", "minus_too", "no_softmax", "source_not_reversed", "target_not_reversed", "strength_ignored"}
        | {"strength_on_loss", "strength_twice", "source_cut", "target_cut", "source_only", "target_only"}
        | {"critic_cut", "head_cut", "no_classification", "no_domains", "summed", "reversed_answers", "domains_added"}
    ),
)


# --- conditional_features: the variant --------------------------------------------------------


def _conditional_inputs(rng: np.random.Generator) -> list[Case]:
    cases = draw(rng, [{"features": (b, d), "probabilities": (b, c)} for b, d, c in
                       [(3, 4, 3), (2, 3, 5), (4, 3, 3), (5, 1, 4), (1, 6, 2), (3, 5, 1)]])  # fmt: skip
    for case in cases:
        case["probabilities"] = torch.tensor(case["probabilities"]).softmax(1).numpy()
    return cases


def _conditional_features(
    features: Tensor,
    probabilities: Tensor,
    *,
    features_first: bool = False,
    not_detached: bool = False,
    features_cut: bool = False,
    joined: bool = False,
    not_flattened: bool = False,
    softmax_twice: bool = False,
    hard: bool = False,
    in_step: bool = False,
    weighted: bool = False,
    averaged: bool = False,
    best_block: bool = False,
) -> Tensor:
    """Return p_c · f_d for every class c and feature d, flattened: (B, C·D).

    Source: Long et al. 2018, "Conditional Adversarial Domain Adaptation", section 3: the critic looks at the outer
    product of features and answers. The order, classes outermost, and the constant p are those of the authors' code.
    """
    p = probabilities if not_detached else probabilities.detach()
    f = features.detach() if features_cut else features
    if weighted:
        f = f * (1 + torch.special.xlogy(p, p).sum(1, keepdim=True).exp())
    p = p.softmax(1) if softmax_twice else p
    p = F.one_hot(p.argmax(1), p.shape[1]).to(p) if hard else p
    if joined:
        return torch.cat([f, p], dim=1)
    if in_step:
        return p.repeat(1, f.shape[1]) * f.repeat(1, p.shape[1])
    product = f.unsqueeze(2) * p.unsqueeze(1) if features_first else p.unsqueeze(2) * f.unsqueeze(1)
    if best_block:
        return product[torch.arange(len(p)), p.argmax(1)]
    product = product.mean(0, keepdim=True).expand_as(product) if averaged else product
    return product if not_flattened else product.flatten(1)


CONDITIONAL_FEATURES = Exercise(
    id="09.conditional_features",
    title="A critic that knows the answers",
    points=2,
    reference=_conditional_features,
    inputs=_conditional_inputs,
    drive=lambda answer, case: observe_call(answer, case, constants=("probabilities",)),
    wrong=_conditional_features,
    mistakes=(
        Mistake(
            "features_first",
            "right but for the order: the features are outermost",
            "Block c of the result is p_c · f, all features of one class side by side. Which axis is flattened slower?",
        ),
        Mistake(
            "not_detached",
            "right in value, but gradient flows into `probabilities`",
            "Here the answers only say *where* features should agree. Cut them off.",
        ),
        Mistake(
            "features_cut",
            "right in value, but the features are cut off",
            "The features are what the critic's gradient should move. The constant is the other one.",
        ),
        Mistake(
            "joined",
            "features and probabilities put end to end",
            "That the paper tries first, and drops: a linear critic cannot see how the two go together. Multiply every "
            "feature by every probability.",
        ),
        Mistake(
            "not_flattened",
            "right but for the shape: the products are not flattened",
            "The critic takes rows: (B, C·D).",
        ),
        Mistake("softmax_twice", "computed with a softmax of the probabilities", "They add up to one already."),
        Mistake(
            "hard",
            "computed with the first choice in the place of the probabilities",
            "An uncertain answer spreads its features over several blocks. Use the probabilities as they are.",
        ),
        Mistake(
            "in_step",
            "a product of two repeated rows, in which classes and features count up in step",
            "Every feature meets every class once. One of the two must repeat *each entry*, the other the whole row.",
        ),
        Mistake(
            "weighted",
            "weighted by how certain the answer is",
            "That is the paper's CDAN+E, a weight of the loss. Here the product alone is asked for.",
        ),
        Mistake(
            "averaged",
            "averaged over the batch",
            "Each image has a product of its own. Which axis should no sum run over?",
        ),
        Mistake(
            "best_block",
            "the block of the first choice alone",
            "All C blocks stand side by side: (B, C·D).",
        ),
    ),
    properties=(
        Property(
            "gives the features back when its blocks are added up",
            lambda answer: torch.allclose(answer(_F, _P).view(2, 3, 4).sum(1), _F, atol=1e-6),
        ),
    ),
    sizes=lambda case: {
        "the number of features": case["features"].shape[1],
        "the number of classes": case["probabilities"].shape[1],
    },
    alone=frozenset({"joined", "in_step", "best_block", "averaged", "weighted", "softmax_twice", "hard"}),
)
_F = torch.tensor([[1.0, 2.0, -1.0, 0.5], [0.3, 0.0, 2.0, -3.0]])
_P = torch.tensor([[0.5, 0.25, 0.25], [0.0, 0.9, 0.1]])
