"""Lesson 11's exercises with rules: targets that keep one, and queries that must show the same class."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ctkd_lessons import meta_transfer as lesson
from ctkd_lessons.course.exercises.description import (
    Answer,
    Case,
    Exercise,
    Mistake,
    Observation,
    Property,
    observe_value,
    observe_value_only,
    tensors,
)
from ctkd_lessons.course.exercises.shared import mistake_not_detached


def _leaf(value: object) -> object:
    """Return floating arrays as tensors that ask for a gradient: copies, which may be changed in place."""
    if not isinstance(value, np.ndarray):
        return value
    return torch.tensor(value, requires_grad=np.issubdtype(value.dtype, np.floating)).clone()


def _probabilities(rng: np.random.Generator, dtype: str, *shape: int) -> np.ndarray:
    return rng.dirichlet(np.ones(shape[-1]), shape[:-1]).astype(dtype)


def _with_tiny(answers: np.ndarray, *small: float) -> np.ndarray:
    """Make the first classes' probabilities very small, and the last one's nearly 1; rows differ."""
    tiny = answers[:, : len(small)] * np.array(small)
    rest = answers[:, len(small) :] / answers[:, len(small) :].sum(axis=1, keepdims=True)
    return np.concatenate([tiny, rest], axis=1).astype(answers.dtype)


# --- rule_targets -----------------------------------------------------------------------------


def _rule_inputs(rng: np.random.Generator) -> list[Case]:
    def case(examples: int, sizes: tuple[int, ...], strength: float, dtype: str) -> Case:
        answers = {f"answers_{j}": _probabilities(rng, dtype, examples, size) for j, size in enumerate(sizes)}
        holds = rng.random(sizes) < 0.5
        # Kept somewhere and broken somewhere, whatever the first part says.
        holds.reshape(sizes[0], -1)[:, 0], holds.reshape(sizes[0], -1)[:, -1] = True, False
        if len(sizes) == 1:
            holds = np.arange(sizes[0]) != 1
        return answers | {"holds": holds, "strength": strength}

    cases = [
        case(4, (3, 3), 1.5, "float64"),
        case(5, (2, 4), math.inf, "float32"),
        case(3, (2, 3, 2), 2.0, "float64"),
        case(4, (4,), 0.7, "float32"),
        case(3, (3, 3), math.inf, "float32"),
        case(3, (3, 2), 0.0, "float64"),
        case(4, (2, 3, 3), math.inf, "float64"),
    ]
    cases[0]["holds"] = np.array([[True, False, False], [True, True, False], [False, True, False]])
    # What the rule allows is so improbable that products leave the range of float32; and a probability of 0.
    cases[4]["answers_0"] = _with_tiny(cases[4]["answers_0"], 1e-28, 1e-30)
    cases[4]["answers_1"] = _with_tiny(cases[4]["answers_1"], 1e-30, 1e-29)
    cases[4]["holds"] = np.array([[True, False, False], [True, True, False], [False, False, False]])
    cases[2]["answers_1"][0] = [0, 0.25, 0.75]
    return cases


def _observe_rules(answer: Answer, case: Case) -> Observation:
    """Look at each part's target, whether gradient reaches the answers, and what was given afterwards."""

    def split(given: dict) -> tuple:
        return tuple(value for name, value in given.items() if name.startswith("answers")), given["holds"]

    given = tensors(case)
    answers, holds = split(given)
    targets = answer(answers, holds, case["strength"])
    if not isinstance(targets, (tuple, list)):
        return {"type": observe_value(targets)["type"]}
    seen: Observation = {"type": "tuple", "number of targets": str(len(targets))}
    for place, target in enumerate(targets):
        of_one = observe_value(target)
        seen[f"type of target {place}"] = of_one["type"]
        seen |= {f"{key} of target {place}": of_one[key] for key in ("dtype", "value") if key in of_one}
    again, _ = split({name: _leaf(value) for name, value in case.items()})
    made = answer(again, holds, case["strength"])
    seen["gradient into `answers`"] = "some" if any(getattr(one, "requires_grad", False) for one in made) else "none"
    seen |= {f"`{name}` afterwards": v.numpy() for name, v in given.items() if isinstance(v, Tensor)}
    values = [seen.get(f"value of target {place}") for place in range(len(targets))]
    if all(isinstance(one, np.ndarray) and one.ndim == 2 and len(one) == len(answers[0]) for one in values):
        seen["value"] = np.concatenate(values, axis=1)
    return seen


def _costs(joint: Tensor, holds: Tensor, strength: float, ways: set[str]) -> Tensor:
    """Return what is added to the logs of the joint probabilities (n, C_1, …, C_k)."""
    broken = holds if "inverted" in ways else ~holds
    cost = strength if "rewarded" in ways else -math.inf if "strength_ignored" in ways else -strength
    if "factor" in ways:
        cost = math.log(strength) if strength else -math.inf
    if "linear" in ways:
        cost = math.log1p(-strength) if strength < 1 else -math.inf
    if "rule_ignored" in ways:
        cost = 0.0
    costs = torch.where(broken, cost, 0.0).to(joint)
    if "infinity_times_zero" in ways:
        costs = -strength * (~holds).to(joint)
    if "broken_rows_only" in ways:
        kept = holds.flatten()[joint.flatten(1).argmax(1)]
        costs = torch.where(kept.view(-1, *([1] * holds.ndim)), 0.0, costs)
    return costs


def _in_shape(one: Tensor, place: int, parts: int) -> Tensor:
    return one.view(len(one), *(one.shape[1] if axis == place else 1 for axis in range(parts)))


def _marginal(joint: Tensor, place: int, ways: set[str]) -> Tensor:
    if "wrong_axis" in ways and joint.ndim > 2:
        return joint.sum(place + 1)
    axes = [axis for axis in range(1, joint.ndim) if axis != place + 1]
    if not axes:
        return joint
    most = joint.amax(axes)
    if "maxed" in ways or "maxed_normalised" in ways:
        return most if "maxed" in ways else most / most.sum(1, keepdim=True)
    return joint.mean(axes) if "averaged" in ways else joint.sum(axes)


def _wrong_rules(answers: tuple[Tensor, ...], holds: Tensor, strength: float, **mistakes: bool) -> tuple[Tensor, ...]:
    ways = {name for name, on in mistakes.items() if on}
    parts = [one if "not_detached" in ways else one.detach() for one in answers]
    targets: list[Tensor] = []
    for place, own in enumerate(parts):
        current = targets + parts[len(targets) :] if "in_turn" in ways else parts
        if "others_hard" in ways:
            current = [
                p if j == place else F.one_hot(p.argmax(1), p.shape[1]).to(p.dtype) for j, p in enumerate(current)
            ]
        used = [
            torch.full_like(p, 1 / p.shape[1]) if "own_left_out" in ways and j == place else p
            for j, p in enumerate(current)
        ]
        used = [p.square() if "own_twice" in ways and j == place else p for j, p in enumerate(used)]
        shaped = [_in_shape(p.clamp(min=torch.finfo(p.dtype).tiny), j, len(parts)) for j, p in enumerate(used)]
        logs = sum(one.log() for one in shaped)
        costs = _costs(logs, holds, strength, ways)
        if "underflows" in ways:
            joint = math.prod(_in_shape(p, j, len(parts)) for j, p in enumerate(used)) * costs.exp()
            joint = joint / joint.flatten(1).sum(1).view(-1, *([1] * holds.ndim))
        elif "not_normalised" in ways:
            joint = (logs + costs).exp()
        elif "over_batch" in ways:
            joint = (logs + costs).flatten().softmax(0).view_as(logs)
        else:
            joint = (logs + costs).flatten(1).softmax(1).view_as(logs)
        if "most_probable" in ways:
            joint = F.one_hot(joint.flatten(1).argmax(1), holds.numel()).to(joint.dtype).view_as(joint)
        target = _marginal(joint, place, ways)
        targets.append((target + own) / 2 if "mixed" in ways else target)
    return tuple(reversed(targets)) if "reversed_order" in ways else tuple(targets)


RULE_TARGETS = Exercise(
    id="11.rule_targets",
    title="Targets that keep a rule",
    points=3,
    reference=lesson.rule_targets,
    inputs=_rule_inputs,
    drive=_observe_rules,
    wrong=_wrong_rules,
    mistakes=(
        Mistake(
            "not_normalised",
            "not normalised: what the rule takes away is missing",
            "∝ asks for a division: over all combinations of an exercise, q adds up to 1.",
        ),
        Mistake(
            "over_batch",
            "normalised over all exercises together",
            "Each exercise has a q of its own, which adds up to 1 over the combinations.",
        ),
        Mistake(
            "most_probable",
            "the single most probable combination, as one-hot targets",
            "A marginal adds up q over *all* combinations that hold a class. How sure the answers are should stay.",
        ),
        Mistake(
            "maxed",
            "computed with a maximum over the other parts, where a sum belongs",
            "A marginal adds up: q_j(y) is the sum of q over all combinations whose part j is y.",
        ),
        Mistake(
            "maxed_normalised",
            "computed with a maximum over the other parts, and then normalised",
            "A marginal adds up: q_j(y) is the sum of q over all combinations whose part j is y. No maximum.",
        ),
        Mistake(
            "averaged",
            "computed with a mean over the other parts, where a sum belongs",
            "A target's classes add up to 1. Do yours?",
        ),
        Mistake(
            "wrong_axis",
            "summed over the part's own axis",
            "The target of part j keeps axis j. All *other* parts are added up.",
        ),
        Mistake(
            "reversed_order",
            "right but for the order of the targets",
            "The first target belongs to the first part. Which axis is left of the joint then?",
        ),
        Mistake(
            "inverted",
            "computed with the cost on the combinations that *keep* the rule",
            "`holds` is true where the rule holds: there the factor is 1.",
        ),
        Mistake(
            "rewarded",
            "computed with the factor e^(+β) where the rule is broken",
            "A broken rule makes a combination *less* probable. Mind the sign of β.",
        ),
        Mistake(
            "factor",
            "computed with the factor β in the place of e^(−β)",
            "β = 0 should change nothing and β = ∞ forbid: which factor does that?",
        ),
        Mistake(
            "linear",
            "computed with the factor 1 − β, cut at 0, in the place of e^(−β)",
            "That is e^(−β) for small β only.",
        ),
        Mistake(
            "strength_ignored",
            "computed as if β were infinite",
            "A broken rule costs β nats. Only β = ∞ forbids.",
        ),
        Mistake(
            "rule_ignored",
            "the answers as they came",
            "Does what `holds` says reach the joint probabilities?",
        ),
        Mistake(
            "broken_rows_only",
            "computed with the rule only where the most probable answers break it",
            "The rule speaks about every combination, so it changes answers that keep it, too: they become surer.",
        ),
        Mistake(
            "others_hard",
            "computed with the other parts' most probable classes, as if these were certain",
            "The other parts are unsure as well. Sum over all their classes, each with its probability.",
        ),
        Mistake(
            "own_left_out",
            "computed without the part's own answer",
            "What the rule and the others say is only half of it: p_j(y_j) is one of the factors.",
        ),
        Mistake(
            "own_twice",
            "computed with the part's own answer twice",
            "Each part's probability is in the product once. Does the marginal get it a second time?",
        ),
        Mistake(
            "in_turn",
            "computed in turn: each part hears the *corrected* targets of those before it",
            "All targets are marginals of one and the same q, made from the answers as they came.",
        ),
        Mistake(
            "mixed",
            "the mean of the answers and the corrected ones",
            "Return q's marginals alone: the strength β already says how far the rule is trusted.",
        ),
        Mistake(
            "underflows",
            "right but for very small probabilities, whose products become 0",
            "Add logs, and let a softmax over the combinations normalise. It subtracts the largest first.",
        ),
        Mistake(
            "infinity_times_zero",
            "right but for β = ∞, where it gives nan",
            "A product of β with a 0 where the rule holds: ∞ · 0 is nan. `torch.where` picks without multiplying.",
        ),
        mistake_not_detached("answers"),
    ),
    properties=(
        Property(
            "makes a pair of answers sure when the rule leaves one combination",
            lambda answer: all(
                torch.allclose(one, want)
                for one, want in zip(answer(_PAIR, _ONLY, math.inf), torch.eye(2)[:, None], strict=True)
            ),
        ),
    ),
    alone=frozenset(
        {"most_probable", "maxed", "maxed_normalised", "averaged", "wrong_axis", "reversed_order", "rule_ignored"}
        | {"rewarded", "factor", "linear", "strength_ignored", "broken_rows_only", "others_hard", "own_left_out"}
        | {"own_twice", "in_turn", "mixed", "underflows", "over_batch", "infinity_times_zero"}
    ),
)
_PAIR = (torch.tensor([[0.2, 0.8]]), torch.tensor([[0.6, 0.4]]))
_ONLY = torch.tensor([[False, True], [False, False]])


# --- must_link_targets: the variant that the lesson does not print -----------------------------


def _link_inputs(rng: np.random.Generator) -> list[Case]:
    def case(queries: int, classes: int, dtype: str, pairs: list[list[int]]) -> Case:
        linked = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        return {"answers": _probabilities(rng, dtype, queries, classes), "pairs": linked}

    cases = [
        case(6, 3, "float64", [[0, 3], [3, 1], [5, 4]]),
        case(5, 4, "float32", [[0, 1], [1, 0], [2, 4], [0, 1]]),
        case(4, 3, "float32", [[0, 1], [2, 0], [1, 2]]),
        case(7, 2, "float64", [[1, 0], [1, 2], [3, 1], [5, 6]]),
        case(4, 3, "float64", [[3, 0]]),
        case(3, 5, "float32", []),
    ]
    # Each class is so improbable for one of the three that the products leave the range of float32.
    tiny = np.array([[1, 1e-30, 1e-25], [1e-30, 1, 1e-25], [1e-31, 1e-30, 1]]) * (0.5 + rng.random((3, 3)))
    cases[2]["answers"][:3] = tiny / tiny.sum(axis=1, keepdims=True)
    cases[4]["answers"][0] = [0, 0.25, 0.75]
    cases[4]["answers"][1] = [1, 0, 0]
    cases[4]["answers"][3] = [0.5, 0.5, 0]
    return cases


def _observe_links(answer: Answer, case: Case) -> Observation:
    seen = observe_value_only(answer, case)
    if seen["type"] == "torch.Tensor":
        made = answer(*(_leaf(value) for value in case.values()))
        seen["gradient into `answers`"] = "some" if made.requires_grad else "none"
    return seen


def _counts(pairs: Tensor, queries: int, ways: set[str]) -> Tensor:
    """Return how often query i multiplies query j's answer, (n, n), itself left out."""
    first, second = pairs.unbind(1)
    counts = torch.zeros(queries, queries, dtype=torch.int64)
    if "second_only" not in ways:
        counts.index_put_((first, second), torch.ones_like(first), accumulate=True)
    if "first_only" not in ways:
        counts.index_put_((second, first), torch.ones_like(first), accumulate=True)
    if "last_partner" in ways:
        counts.zero_()
        for i, j in pairs.tolist():
            counts[i], counts[j] = 0, 0
            counts[i, j], counts[j, i] = 1, 1
    if "transitive" in ways:
        for _ in range(queries):
            counts = counts + counts @ counts
            counts = (counts > 0).long()
        counts.fill_diagonal_(0)
    return counts if "counted_twice" in ways else counts.clamp(max=1)


def _must_link(answers: Tensor, pairs: Tensor, **mistakes: bool) -> Tensor:
    """Return targets for queries of which some pairs are known to show the same class."""
    ways = {name for name, on in mistakes.items() if on}
    p = answers if "not_detached" in ways else answers.detach()
    if "in_turn" in ways:
        rows = list(p)
        for i, j in pairs.tolist():
            both = rows[i] * rows[j]
            rows[i] = rows[j] = both / both.sum()
        return torch.stack(rows)
    counts = _counts(pairs, len(p), ways)
    alone = counts.sum(1, keepdim=True) == 0
    if "smallest" in ways:
        low = [p[[i, *counts[i].nonzero().flatten().tolist()]].amin(0) for i in range(len(p))]
        return F.normalize(torch.stack(low), p=1, dim=1)
    weights = counts.to(p.dtype)
    if not ways & {"own_left_out", "unlinked_uniform"}:
        weights = weights + torch.eye(len(p), dtype=p.dtype)
    if "averaged" in ways:
        return weights @ p / weights.sum(1, keepdim=True)
    if "geometric" in ways:
        weights = weights / weights.sum(1, keepdim=True)
    source = p
    if "partners_hard" in ways:  # smoothed a little, as whoever writes it must
        source = F.one_hot(p.argmax(1), p.shape[1]).to(p.dtype).clamp(min=1e-6)
    logs = p.log() if "zero_times_infinity" in ways else source.clamp(min=torch.finfo(p.dtype).tiny).log()
    if "apart" in ways:
        logs = (1 - p).clamp(min=torch.finfo(p.dtype).tiny).log()
    total = weights @ logs
    if ways & {"apart", "partners_hard"}:
        total = counts.to(p.dtype) @ logs + p.clamp(min=torch.finfo(p.dtype).tiny).log()
    if "underflows" in ways:
        product = torch.stack([p[i] * math.prod(p[j] for j in counts[i].nonzero().flatten()) for i in range(len(p))])
        return product / product.sum(1, keepdim=True)
    targets = total.exp() if "not_normalised" in ways else total.softmax(0 if "over_queries" in ways else 1)
    if "hard" in ways:
        targets = F.one_hot(targets.argmax(1), p.shape[1]).to(p.dtype)
    return torch.where(alone, p, targets) if ways & {"own_left_out", "hard"} else targets


MUST_LINK_TARGETS = Exercise(
    id="11.must_link_targets",
    title="Two images of one class",
    points=3,
    reference=_must_link,
    inputs=_link_inputs,
    drive=_observe_links,
    wrong=_must_link,
    mistakes=(
        Mistake(
            "averaged",
            "the mean of the answers, not their normalised product",
            "A rule multiplies: a class that one of the two rules out is out for both. Does a mean do that?",
        ),
        Mistake(
            "geometric",
            "computed with a root of the product: the mean of the logs",
            "Two independent answers that agree are surer together than each alone. Add the logs, don't average them.",
        ),
        Mistake(
            "smallest",
            "computed with the smallest probability, not with the product",
            "If both images show class y, both answers are right at once: with which probability?",
        ),
        Mistake(
            "first_only",
            "right for the first query of each pair only",
            "The rule ties both: the second one hears the first as well.",
        ),
        Mistake(
            "second_only",
            "right for the second query of each pair only",
            "The rule ties both: the first one hears the second as well.",
        ),
        Mistake(
            "own_left_out",
            "computed without the query's own answer",
            "p_i(y) is one of the factors, too.",
        ),
        Mistake(
            "unlinked_uniform",
            "computed without the query's own answer, so that one without a partner answers nothing",
            "p_i(y) is one of the factors. An empty product is 1 for every class.",
        ),
        Mistake(
            "not_normalised",
            "not normalised",
            "∝ asks for a division: each row adds up to 1.",
        ),
        Mistake(
            "over_queries",
            "normalised over the queries, not over the classes",
            "Each *row* adds up to 1. Along which axis do the classes lie?",
        ),
        Mistake(
            "hard",
            "the most probable class as a one-hot target",
            "How sure the two are together is part of the answer: no argmax.",
        ),
        Mistake(
            "partners_hard",
            "computed with the partner's most probable class, as if it were certain",
            "The partner is unsure as well: multiply by its probabilities.",
        ),
        Mistake(
            "last_partner",
            "computed with the last pair of each query alone",
            "A query may be in several pairs. Does a later pair overwrite what an earlier one gave?",
        ),
        Mistake(
            "in_turn",
            "computed pair by pair, on answers that earlier pairs have changed",
            "Every factor is an answer as it came in. Which tensor do you read the partner's answer from?",
        ),
        Mistake(
            "transitive",
            "computed with the partners of partners as well",
            "Only pairs that are given count here: j is a partner of i if (i, j) or (j, i) is in `pairs`.",
        ),
        Mistake(
            "counted_twice",
            "computed with a partner as many times as its pair is given",
            "The same pair twice, or turned round, says nothing new: each partner counts once.",
        ),
        Mistake(
            "apart",
            "computed with 1 − p of the partner: as if the two showed *different* classes",
            "Where the partner finds a class probable, so should this query.",
        ),
        Mistake(
            "underflows",
            "right but for very small probabilities, whose products become 0",
            "Add logs, and let a softmax normalise: it subtracts the largest first.",
        ),
        Mistake(
            "zero_times_infinity",
            "right but for probabilities of 0, where it gives nan",
            "log 0 is −∞, and a matrix product multiplies it by 0 for every query that is no partner: 0 · ∞ is nan. "
            "Raise the probabilities to the smallest normal number first.",
        ),
        mistake_not_detached("answers"),
    ),
    properties=(
        Property(
            "gives both queries of a pair the same target",
            lambda answer: torch.allclose(*answer(torch.cat(_PAIR), torch.tensor([[0, 1]]))),
        ),
    ),
    sizes=lambda case: {
        "the number of queries": len(case["answers"]),
        "the number of classes": case["answers"].shape[1],
    },
    alone=frozenset(
        {"smallest", "in_turn", "hard", "partners_hard", "apart", "underflows", "zero_times_infinity", "over_queries"}
        | {"own_left_out", "unlinked_uniform", "last_partner", "transitive", "geometric", "averaged"}
    ),
)
