"""Lesson 11's exercises: right answers written differently pass, nearly right ones fail, odd ones hear something."""

import math
from itertools import product

import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ctkd_lessons import meta_transfer as lesson
from ctkd_lessons.course import exercises
from ctkd_lessons.course.check import check
from ctkd_lessons.course.comparing import differs
from ctkd_lessons.course.examine import cases_of, examine, observe
from ctkd_lessons.course.lessons import find as find_lesson
from ctkd_lessons.features import hint_loss
from ctkd_lessons.meta import adapt

# --- the parts of answers ---------------------------------------------------------------------


def feature_loss(distance=lambda h, g: F.mse_loss(h, g, reduction="sum") / (2 * len(h)), cut=True):
    """The two terms, from a distance."""

    def answer(logits, labels, mapped, shared, weight):
        task = -F.log_softmax(logits, 1).gather(1, labels[:, None]).mean()
        return task + weight * distance(mapped, shared.detach() if cut else shared)

    return answer


def by_enumeration(normalised=True):
    """Every combination of every exercise, in double precision."""

    def answer(answers, holds, strength):
        targets = [torch.zeros_like(p, dtype=torch.float64) for p in answers]
        for row in range(len(answers[0])):
            weights = {}
            for classes in product(*(range(p.shape[1]) for p in answers)):
                p = math.prod(answers[j][row, c].item() for j, c in enumerate(classes))
                weights[classes] = p * (1 if holds[classes] else math.exp(-strength))
            total = sum(weights.values()) if normalised else 1
            for classes, weight in weights.items():
                for j, c in enumerate(classes):
                    targets[j][row, c] += weight / total
        return tuple(one.to(answers[0].dtype) for one in targets)

    return answer


def by_messages(answers, holds, strength, wide=torch.float64):
    """Own answer times what the rule and the others say: probabilities, in double precision unless told otherwise."""
    factor = holds.to(wide) + (~holds).to(wide) * math.exp(-strength)
    letters = "abcdefg"[: len(answers)]
    wider = [p.detach().to(wide) for p in answers]
    made = []
    for j, own in enumerate(wider):
        terms = [f"z{letter}" for place, letter in enumerate(letters) if place != j]
        others = [p for place, p in enumerate(wider) if place != j]
        left = ",".join([letters, *terms]) + f"->{'z' if terms else ''}{letters[j]}"
        both = own * torch.einsum(left, factor, *others)
        made.append((both / both.sum(1, keepdim=True)).to(answers[0].dtype))
    return tuple(made)


def of_first_and_last(answers, holds, strength):
    """As if there were two parts at most."""
    first, *_, last = (p.detach().clamp(min=1e-38).log() for p in answers)
    if len(answers) == 1:
        return ((first + torch.where(holds, 0.0, -strength)).softmax(1),)
    joint = first[:, :, None] + last[:, None] + torch.where(holds, 0.0, -strength)
    joint = joint.flatten(1).softmax(1).view_as(joint)
    return joint.sum(2), joint.sum(1)


def with_partners(partners_of, combine):
    """Go through the queries; multiply, or whatever ``combine`` does, in double precision."""

    def answer(answers, pairs):
        p = answers.detach().double()
        rows = [combine(p[i], [p[j] for j in partners_of(i, pairs.tolist())]) for i in range(len(p))]
        return torch.stack(rows).to(answers.dtype)

    return answer


def once_each(i, pairs):
    return {a + b - i for a, b in pairs if i in (a, b)}


def every_time(i, pairs):
    return [a + b - i for a, b in pairs if i in (a, b)]


def multiplied(own, others):
    whole = own * math.prod(others)
    return whole / whole.sum()


def by_logs(answers, pairs, low=1e-40):
    """Sums of logs, gathered by index_add; of every pair one row only."""
    logs = answers.detach().double().clamp(min=low).log()
    pairs = torch.stack([pairs.amin(1), pairs.amax(1)], 1).unique(dim=0) if len(pairs) else pairs
    total = logs.index_add(0, pairs[:, 0], logs[pairs[:, 1]]).index_add(0, pairs[:, 1], logs[pairs[:, 0]])
    return total.softmax(1).to(answers.dtype)


def solved(images, targets, others, teacher, trust, ridge=0.01):
    """The head by least squares on stacked, weighted rows."""
    own, other = (torch.cat([x, torch.ones_like(x[:, :1])], 1) for x in (images, others))
    a, b = ((1 - trust) / len(own)).sqrt(), (trust / len(other)).sqrt()
    rows = torch.cat([a * own, b * other, ridge**0.5 * torch.eye(own.shape[1], dtype=own.dtype)])
    right = torch.cat([a * targets, b * teacher, torch.zeros(own.shape[1], targets.shape[1], dtype=own.dtype)])
    return torch.linalg.pinv(rows) @ right


def trusting(
    agreement=lambda teacher, labels: lesson.teacher_agreement(teacher, labels),
    share=lambda line, a: (line[0] + line[1] * a).sigmoid(),
    head=lesson.blended_head,
    soften=lambda logits: logits.softmax(1),
    score=lambda head, images, labels: F.cross_entropy(lesson.head_logits(head, images), labels),
):
    """A learned trust, with parts to exchange."""

    def answer(line, support, labels, others, teacher_support, teacher_others, queries, query_labels):
        targets = torch.zeros_like(support[:, :1]).repeat(1, teacher_others.shape[1])
        targets[torch.arange(len(labels)), labels] = 1
        trust = share(line, agreement(teacher_support, labels))
        return score(head(support, targets, others, soften(teacher_others).detach(), trust), queries, query_labels)

    return answer


def pair_by_pair(encoder, decoder, x, y, queries):
    """A running mean of codes, query by query."""
    code = 0
    for k in range(x.shape[-2]):
        code = code + encoder(torch.cat([x[..., k, :], y[..., k, :]], -1)) / x.shape[-2]
    answers = [decoder(torch.cat([queries[..., k, :], code], -1)) for k in range(queries.shape[-2])]
    return torch.stack(answers, -2)


def task_by_task(encoder, decoder, x, y, queries):
    if x.ndim > 2:
        return torch.stack([task_by_task(encoder, decoder, *one) for one in zip(x, y, queries, strict=True)])
    code = encoder(torch.hstack([x, y])).mean(0)
    return decoder(torch.hstack([queries, code.repeat(len(queries), 1)]))


def reading(code_of, encoded=lambda x, y: torch.cat([x, y], -1)):
    def answer(encoder, decoder, x, y, queries):
        code = code_of(encoder(encoded(x, y)))
        return decoder(torch.cat([queries, code.expand(*queries.shape[:-1], code.shape[-1])], -1))

    return answer


def mean_squared(params, x, y):
    return F.mse_loss(x @ params[0], y)


def teachers_first(start, support_x, support_y, lr, steps):
    """All teachers at once, before any student learns."""
    return torch.func.vmap(lambda x, y: adapt(mean_squared, (start,), x, y, lr=lr, steps=steps)[0])(
        support_x, support_y
    )


class Reader(nn.Module):
    def __init__(self, start):
        super().__init__()
        self.w = nn.Parameter(start.clone())
        self.v = nn.Parameter(torch.zeros(len(start), len(start), dtype=start.dtype))

    def forward(self, x, y, queries):
        return queries @ (self.w + self.v @ (x * y).mean(-2).unsqueeze(-1))


def in_modules(
    teachers=teachers_first,
    optimiser=lambda student, lr: torch.optim.SGD(student.parameters(), lr),
    prepare=lambda o: o.zero_grad(),
    reader=lambda support, t: (support[0][t], support[1][t]),
):
    """Distillation as one writes it with a module and an optimiser."""

    def answer(start, support_x, support_y, query_x, query_y, rounds, learning_rate, inner_lr, inner_steps):
        ends = teachers(start, support_x, support_y, inner_lr, inner_steps)
        student = Reader(start)
        descent = optimiser(student, learning_rate)
        for _ in range(rounds):
            for t, queries in enumerate(query_x):
                prepare(descent)
                F.mse_loss(student(*reader((support_x, support_y), t), queries), queries @ ends[t]).backward()
                descent.step()
        with torch.no_grad():
            error = F.mse_loss(student(support_x, support_y, query_x), query_y)
        return student.w, student.v, error.item()

    return answer


# --- right answers ----------------------------------------------------------------------------

RIGHT = [
    ("feature_level_loss", feature_loss()),
    ("feature_level_loss", feature_loss(hint_loss)),
    ("feature_level_loss", feature_loss(lambda h, g: F.mse_loss(h, g) * h.shape[1] / 2)),
    ("feature_level_loss", feature_loss(lambda h, g: torch.stack([d @ d for d in h - g]).mean() / 2)),
    ("rule_targets", by_enumeration()),
    ("rule_targets", by_messages),
    ("rule_targets", lambda *arguments: list(lesson.rule_targets(*arguments))),
    ("must_link_targets", with_partners(once_each, multiplied)),
    ("must_link_targets", by_logs),
    ("trust_loss", trusting()),
    ("trust_loss", trusting(head=solved)),
    ("trust_loss", trusting(lambda teacher, labels: torch.distributions.Categorical(
        logits=teacher.detach()).log_prob(labels).mean())),
    ("trust_loss", trusting(share=lambda line, a: 1 / (1 + (-line @ torch.stack([torch.ones_like(a), a])).exp()))),
    ("read_support", pair_by_pair),
    ("read_support", task_by_task),
    ("read_support", reading(lambda codes: codes.sum(-2, keepdim=True) / codes.shape[-2])),
    ("distil_meta_learner", in_modules()),
    ("transfer_gain", lambda a, s, c: 1 - (c - a) / (c - s)),
    ("transfer_gain", lambda a, s, c: np.array([(x - y) / (z - y) for x, y, z in zip(
        a, s, np.broadcast_to(c, a.shape), strict=True)])),
    ("transfer_gain", lambda a, s, c: np.divide(a - s, np.subtract(c, s))),
]  # fmt: skip


@pytest.mark.parametrize(("name", "answer"), RIGHT, ids=[f"{name}-{k}" for k, (name, _) in enumerate(RIGHT)])
def test_right_answers_written_differently_pass(name, answer):
    for seed in range(5):
        finding = examine(exercises.find(f"11.{name}"), answer, seed)
        assert finding.passed, (seed, finding.headline, finding.details)


@pytest.mark.parametrize("name", [exercise.name for exercise in exercises.of_lesson("11")])
@pytest.mark.parametrize("seed", range(5))
def test_right_answers_raise_nothing_and_are_finite(name, seed):
    """An error in the observation itself would pass as what is expected."""
    exercise = exercises.find(f"11.{name}")
    for case in cases_of(exercise, seed):
        seen = observe(exercise, exercise.reference, case)
        assert "raised" not in seen
        assert isinstance(seen["value"], np.ndarray)
        assert all(np.isfinite(one).all() for one in seen.values() if isinstance(one, np.ndarray))
        assert not [key for key, one in seen.items() if key.startswith("gradient into") and one != "none"]


# --- nearly right answers ---------------------------------------------------------------------

NEARLY = {
    "as many mapped as labelled": (
        "feature_level_loss",
        lambda z, y, h, g, w: F.cross_entropy(z, y) + w * (h - g.detach()).square().sum() / 2 / len(y),
    ),
    "a single shared feature": ("feature_level_loss", feature_loss(lambda h, g: F.mse_loss(h, g) / 2)),
    "a weight of one": ("feature_level_loss", lambda z, y, h, g, w: feature_loss()(z, y, h, g, 1.0)),
    "small differences": ("feature_level_loss", feature_loss(lambda h, g: F.smooth_l1_loss(h, g) * h.shape[1])),
    "a frozen map": ("feature_level_loss", feature_loss(lambda h, g: hint_loss(h.detach(), g))),
    "two parts": ("rule_targets", of_first_and_last),
    "an infinite strength": ("rule_targets", lambda a, holds, strength: by_messages(a, holds, math.inf)),
    "a finite strength": ("rule_targets", lambda a, holds, strength: by_messages(a, holds, min(strength, 3.0))),
    "probabilities that are not small": (
        "rule_targets",
        lambda *arguments: by_messages(*arguments, wide=arguments[0][0].dtype),
    ),
    "probabilities above zero": (
        "rule_targets",
        lambda a, holds, strength: lesson.rule_targets([p.clamp(min=1e-4) / p.clamp(min=1e-4).sum(1, True) for p in a],
                                                       holds, strength),
    ),
    "a rule that most rows keep": (
        "rule_targets",
        lambda a, holds, strength: tuple(p + 0 * p for p in by_messages(a, holds | ~holds, strength)),
    ),
    "pairs that don't meet": (
        "must_link_targets",
        with_partners(lambda i, pairs: [a + b - i for a, b in pairs if i in (a, b)][-1:], multiplied),
    ),
    "pairs given once": ("must_link_targets", with_partners(every_time, multiplied)),
    "sorted pairs": (
        "must_link_targets",
        with_partners(lambda i, pairs: {b for a, b in pairs if a == i and b > i} | {
            a for a, b in pairs if b == i and a < i}, multiplied),
    ),
    "probabilities above a thousandth": ("must_link_targets", lambda p, pairs: by_logs(p, pairs, low=1e-3)),
    "one pair at least": (
        "must_link_targets",
        lambda p, pairs: by_logs(p, torch.stack(pairs.unbind(0))),
    ),
    "labels that the teacher gets right": (
        "trust_loss",
        trusting(lambda teacher, labels: teacher.detach().log_softmax(1).amax(1).mean()),
    ),
    "a support with the last class": (
        "trust_loss",
        trusting(head=lambda x, y, o, t, a: lesson.blended_head(x, F.one_hot(y.argmax(1)).to(x), o, t, a)),
    ),
    "a trust of 0 to 1": ("trust_loss", trusting(share=lambda line, a: line[0] + line[1] * a)),
    "as many queries as support": (
        "trust_loss",
        lambda *given: trusting()(*given[:2], given[7][: len(given[2])], *given[3:7], given[7])
        if len(given[7]) == len(given[2]) else trusting()(*given),
    ),
    "a weaker ridge": ("trust_loss", trusting(head=lambda *given: lesson.blended_head(*given, ridge=0.001))),
    "one leading axis": ("read_support", reading(lambda codes: codes.mean(1, keepdim=True))),
    "no leading axis": ("read_support", reading(lambda codes: codes.mean(0))),
    "as many queries": (
        "read_support",
        lambda encoder, decoder, x, y, queries: decoder(
            torch.cat([queries, encoder(torch.cat([x, y], -1)).mean(-2, True).expand(*x.shape[:-1], -1)], -1)
        ),
    ),
    "one pair": ("read_support", reading(lambda codes: codes[..., :1, :])),
    "one inner step": (
        "distil_meta_learner",
        in_modules(lambda start, x, y, lr, n: teachers_first(start, x, y, lr, 1)),
    ),
    "single precision": (
        "distil_meta_learner",
        lambda start, *rest: in_modules()(start.float(), *rest),
    ),
    "few steps": (
        "distil_meta_learner",
        in_modules(optimiser=lambda student, lr: torch.optim.SGD(student.parameters(), lr, momentum=0.1)),
    ),
    "a ceiling for each seed": (
        "transfer_gain",
        lambda a, s, c: np.array([(x - y) / (z - y) for x, y, z in zip(a, s, c, strict=True)]),
    ),
    "gains below one": ("transfer_gain", lambda a, s, c: np.minimum((a - s) / (c - s), 1)),
    "gains above zero": ("transfer_gain", lambda a, s, c: np.maximum(a - s, 0) / (c - s)),
    "a single seed": ("transfer_gain", lambda a, s, c: (a - s.mean()) / (c - s.mean())),
}  # fmt: skip


@pytest.mark.parametrize(("name", "answer"), NEARLY.values(), ids=NEARLY)
@pytest.mark.parametrize("seed", range(5))
def test_answers_that_are_right_only_for(name, answer, seed):
    assert not examine(exercises.find(f"11.{name}"), answer, seed).passed


# --- the bug hunt -----------------------------------------------------------------------------

BUGS = ["on_queries", "all_together", "student_teaches", "one_code"]
MENDED = {
    "on_queries": [("known = query_x", "known = support_x"), ("query_y.flatten", "support_y.flatten")],
    "all_together": [("_x.flatten(0, 1), ", "_x[t], "), ("_y.flatten(0, 1)", "_y[t]")],
    "student_teaches": [("(w,)", "(start,)")],
    "one_code": [("(support_x.transpose", "support_x.transpose"),
                 (" / n).mean(dim=0).expand(tasks, width, 1)", " / n")],
}  # fmt: skip


def half_mended(bugs, changes=()):
    """Return the broken loop with these bugs mended, and other changes."""
    book = nbformat.read(find_lesson("11").solution, as_version=4)
    source = {cell.id: cell.source for cell in book.cells if cell.cell_type == "code"}
    code = source["broken_distil_meta_learner"]
    for old, new in [change for bug in BUGS if bug in bugs for change in MENDED[bug]] + list(changes):
        assert code.count(old) == 1, old
        code = code.replace(old, new)
    scope: dict = {}
    exec(source["imports"] + "\n" + code, scope)
    return scope["broken_distil_meta_learner"]


@pytest.mark.parametrize("which", range(2 ** len(BUGS)))
@pytest.mark.parametrize("seed", [0, 7])
def test_the_bug_hunt_names_what_is_left(which, seed):
    """Every subset of the four."""
    left = [bug for place, bug in enumerate(BUGS) if which >> place & 1]
    finding = examine(exercises.find("11.distil_meta_learner"), half_mended(set(BUGS) - set(left)), seed)
    assert [mistake.name for mistake in finding.mistakes] == left
    assert finding.passed == (not left)


@pytest.mark.parametrize(
    "change", [("(w,)", "(w.detach(),)"), ("query_x[t] @ adapted", "(query_x[t] @ adapted).detach()")]
)
@pytest.mark.parametrize("mended", [[], ["on_queries"], ["on_queries", "all_together", "one_code"]])
def test_a_bug_half_mended_is_told_from_a_bug(change, mended):
    """Without gradient the teacher moves all the same."""
    left = [bug for bug in BUGS if bug not in mended and bug != "student_teaches"] + ["moving_teacher"]
    finding = examine(exercises.find("11.distil_meta_learner"), half_mended(mended, [change]))
    assert [mistake.name for mistake in finding.mistakes] == left


# --- what other wrong answers hear ------------------------------------------------------------


def joint_only(answers, holds, strength):
    return torch.stack(lesson.rule_targets(answers[:1], holds.flatten(1).any(1) if holds.ndim > 1 else holds, strength))


def in_place(answers, pairs):
    made = by_logs(answers, pairs)
    answers.sqrt_()
    return made


def as_numpy(answers, pairs):
    return np.exp(by_logs(answers, pairs).numpy())


def learned_head(line, support, labels, others, teacher_support, teacher_others, queries, query_labels):
    """Draws a head of its own."""
    head = nn.Linear(support.shape[1], teacher_others.shape[1], dtype=support.dtype)
    return F.cross_entropy(head(queries), query_labels) * line.sigmoid().mean()


def detached_line(line, *rest):
    return trusting()(line.detach(), *rest)


def start_changed(start, *rest):
    w, v, error = in_modules()(start, *rest)
    start.copy_(w.detach())
    return w, v, error


def teacher_only(start, support_x, support_y, *rest):
    return teachers_first(start, support_x, support_y, 0.1, 1)


UNLISTED = [
    ("feature_level_loss", lambda *given: -lesson.feature_level_loss(*given), "wrong sign"),
    ("feature_level_loss", lambda *given: lesson.feature_level_loss(*given).item(), "Stay in torch to the end"),
    ("feature_level_loss", lambda *given: 2 * lesson.feature_level_loss(*given), "2 times the right one"),
    ("feature_level_loss", feature_loss(lambda h, g: (h - g).square().sum(1) / 2), "A loss is one number"),
    ("feature_level_loss", feature_loss(lambda h, g: hint_loss(h.detach(), g)), "no gradient reaches `mapped`"),
    ("feature_level_loss", feature_loss(lambda h, g: (h - g).mean().square() / 2), "The value differs"),
    ("rule_targets", joint_only, "returns a torch.Tensor; expected a tuple"),
    ("rule_targets", lambda a, holds, strength: lesson.rule_targets(a[::-1], holds.permute(
        *reversed(range(holds.ndim))), strength), "right but for the order of the targets"),
    ("rule_targets", lambda *given: lesson.rule_targets(*given)[:1], "The number of targets should be 2; yours is 1"),
    ("rule_targets", lambda *given: [p.double() for p in lesson.rule_targets(*given)], "should be torch.float32"),
    ("rule_targets", lambda a, holds, s: [p.log() for p in lesson.rule_targets(a, holds, s)], "differs at"),
    ("rule_targets", lambda a, holds, s: lesson.rule_targets(a, ~holds, s), "combinations that *keep* the rule"),
    ("rule_targets", lambda a, holds, s: by_enumeration()(a, holds, s if s < 3 else 3.0), "right on 4 of 7 inputs"),
    ("must_link_targets", lambda p, pairs: lesson.rule_targets([p[pairs[:, 0]], p[pairs[:, 1]]], torch.eye(
        p.shape[1]).bool())[0], "should have shape (6, 3); yours has (3, 3)"),
    ("must_link_targets", in_place, "changes its input `answers` in place"),
    ("must_link_targets", as_numpy, "returns a numpy.ndarray; expected a torch.Tensor"),
    ("must_link_targets", lambda p, pairs: by_logs(p, pairs).T, "transpose"),
    ("must_link_targets", lambda p, pairs: by_logs(p, pairs).log(), "The value differs"),
    ("must_link_targets", lambda p, pairs: by_logs(p, pairs, low=1e-3), "It is right on"),
    ("must_link_targets", NEARLY["one pair at least"][1], "stopped with RuntimeError"),
    ("trust_loss", learned_head, "another value on a second call"),
    ("trust_loss", detached_line, "α is cut from the graph"),
    ("trust_loss", lambda *given: float(trusting()(*given)), "Stay in torch to the end"),
    ("trust_loss", lambda *given: trusting()(*given) * len(given[7]), "summed over the queries"),
    ("trust_loss", trusting(score=lambda head, images, labels: F.cross_entropy(
        lesson.head_logits(head, images), labels, reduction="none")), "A loss is one number"),
    ("trust_loss", trusting(lambda teacher, labels: F.nll_loss(teacher, labels)), "The value differs"),
    ("trust_loss", trusting(soften=lambda logits: (logits / 2).softmax(1)), "The value differs"),
    ("trust_loss", trusting(head=lambda x, y, o, t, a: lesson.blended_head(x, y, o, t, a.item())),
     "α is cut from the graph"),
    ("read_support", reading(lambda codes: codes.median(-2, keepdim=True).values), "The value differs"),
    ("read_support", lambda encoder, decoder, x, y, queries: encoder(torch.cat([x, y], -1)).mean(-2),
     "should have shape"),
    ("read_support", lambda encoder, decoder, x, y, q: decoder(torch.cat([q, q, encoder(torch.cat(
        [x, y], -1)).mean(-2, True).expand(*q.shape[:-1], -1)], -1)), "the network takes 5 numbers of each example"),
    ("read_support", lambda encoder, decoder, x, y, q: decoder(q, encoder(x, y)), "stopped with TypeError"),
    ("read_support", reading(lambda codes: codes[..., torch.randperm(codes.shape[-2])[:1], :]),
     "another value on a second call"),
    ("distil_meta_learner", teacher_only, "returns a Tensor; expected a tuple of 3"),
    ("distil_meta_learner", lambda *given: in_modules()(*given)[:2], "returns a tuple of 2; expected a tuple of 3"),
    ("distil_meta_learner", start_changed, "changes its input `start` in place"),
    ("distil_meta_learner", NEARLY["few steps"][1], "`torch.optim.SGD` with no momentum"),
    ("distil_meta_learner", in_modules(reader=lambda support, t: (support[0][:, :1][t], support[1][:, :1][t])),
     "The w after training differs"),
    ("transfer_gain", lambda a, s, c: torch.tensor((a - s) / (c - s)), "expected a numpy.ndarray"),
    ("transfer_gain", lambda a, s, c: ((a - s) / (c - s)).tolist(), "returns a list; expected a numpy.ndarray"),
    ("transfer_gain", NEARLY["a ceiling for each seed"][1], "stopped with TypeError"),
    ("transfer_gain", lambda a, s, c: np.log(a / s) / np.log(c / s), "The value differs"),
    ("transfer_gain", NEARLY["gains below one"][1], "It is right on"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "answer", "words"), UNLISTED, ids=range(len(UNLISTED)))
def test_wrong_answers_nobody_listed_hear_something_useful(name, answer, words):
    panel = repr(check(f"11.{name}", answer))
    assert panel.startswith(f"✘ 11.{name}")
    assert words in panel


LISTED = [
    ("feature_level_loss", feature_loss(cut=False), ["not_detached"]),
    ("feature_level_loss", feature_loss(F.mse_loss), ["no_half", "element_mean"]),
    ("feature_level_loss", feature_loss(F.mse_loss, cut=False), ["no_half", "element_mean"]),
    ("feature_level_loss", feature_loss(lambda h, g: hint_loss(h.detach(), g)), ["mapped_cut"]),
    ("feature_level_loss", feature_loss(lambda h, g: F.mse_loss(h, g) / 2), ["element_mean"]),
    ("feature_level_loss", feature_loss(lambda h, g: torch.cdist(h, g).diagonal().mean()), ["length"]),
    ("feature_level_loss", feature_loss(lambda h, g: F.l1_loss(h, g) * h.shape[1]), ["absolute"]),
    ("feature_level_loss", feature_loss(lambda h, g: 1 - F.cosine_similarity(h, g).mean()), ["unit"]),
    ("feature_level_loss", feature_loss(lambda h, g: (h - g).square().sum() / 2, cut=False),
     ["not_detached", "summed"]),
    ("rule_targets", by_enumeration(normalised=False), ["not_normalised"]),
    ("rule_targets", NEARLY["probabilities that are not small"][1], ["underflows"]),
    ("rule_targets", NEARLY["an infinite strength"][1], ["strength_ignored"]),
    ("rule_targets", lambda a, holds, s: [p.detach() for p in a], ["rule_ignored"]),
    ("must_link_targets", with_partners(every_time, multiplied), ["counted_twice"]),
    ("must_link_targets", with_partners(once_each, lambda own, others: own * math.prod(others)), ["not_normalised"]),
    ("must_link_targets", with_partners(once_each, lambda own, others: torch.stack([own, *others]).mean(0)),
     ["averaged"]),
    ("must_link_targets", NEARLY["pairs that don't meet"][1], ["last_partner"]),
    ("must_link_targets", with_partners(lambda i, pairs: {b for a, b in pairs if a == i}, multiplied), ["first_only"]),
    ("trust_loss", trusting(lambda teacher, labels: F.cross_entropy(teacher.detach(), labels)), ["sign_turned"]),
    ("trust_loss", trusting(lambda teacher, labels: -F.cross_entropy(teacher, labels)), ["teacher_kept"]),
    ("trust_loss", trusting(share=lambda line, a: 1 - (line[0] + line[1] * a).sigmoid()), ["swapped"]),
    ("trust_loss", trusting(share=lambda line, a: line[0] + line[1] * a), ["no_sigmoid"]),
    ("trust_loss", trusting(share=lambda line, a: (line[0] + line[1] * a).sigmoid().detach()), ["trust_cut"]),
    ("trust_loss", trusting(lambda teacher, labels: -F.cross_entropy(teacher, labels),
                            share=lambda line, a: 1 - (line[0] + line[1] * a).sigmoid()), ["swapped", "teacher_kept"]),
    ("trust_loss", trusting(lambda teacher, labels: (teacher.argmax(1) == labels).double().mean().to(teacher)),
     ["accuracy"]),
    ("trust_loss", trusting(soften=lambda logits: logits), ["raw_teacher"]),
    ("trust_loss", trusting(score=lambda head, images, labels: F.cross_entropy(lesson.head_logits(
        head, images, 1.0), labels)), ["unscaled"]),
    ("read_support", reading(lambda codes: codes.sum(-2, keepdim=True)), ["summed"]),
    ("read_support", reading(lambda codes: codes.max(-2, keepdim=True)[0]), ["largest"]),
    ("read_support", reading(lambda codes: codes.mean(-2, keepdim=True), lambda x, y: x), ["x_only"]),
    ("read_support", reading(lambda codes: codes.mean(-2, keepdim=True), lambda x, y: torch.cat([x, y], -1).mean(
        -2, keepdim=True)), ["averaged_early"]),
    ("read_support", reading(lambda codes: codes.mean(dim=tuple(range(codes.ndim - 1)))), ["one_code"]),
    ("distil_meta_learner", in_modules(lambda start, x, *rest: start.expand(len(x), -1, -1)), ["not_adapted"]),
    ("distil_meta_learner", in_modules(lambda start, x, y, lr, n: teachers_first(start, x, y, lr, 1)),
     ["one_inner_step"]),
    ("distil_meta_learner", in_modules(prepare=lambda o: None), ["accumulates"]),
    ("distil_meta_learner", in_modules(lambda start, x, y, *rest: teachers_first(
        start, x[:1], y[:1], *rest).expand(len(x), -1, -1)), ["first_task"]),
    ("transfer_gain", lambda a, s, c: ((a - s) / (c - s)).mean(), ["averaged"]),
    ("transfer_gain", lambda a, s, c: np.mean(a - s) / np.mean(c - s), ["ratio_of_means"]),
    ("transfer_gain", lambda a, s, c: (c - a) / (c - s), ["left_over"]),
    ("transfer_gain", lambda a, s, c: (a - s) / s, ["of_scratch"]),
    ("transfer_gain", lambda a, s, c: 100 * np.clip((a - s) / (c - s), 0, None), ["no_negative", "percent"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "answer", "mistakes"), LISTED, ids=range(len(LISTED)))
def test_mistakes_written_differently_are_named(name, answer, mistakes):
    assert [mistake.name for mistake in examine(exercises.find(f"11.{name}"), answer).mistakes] == mistakes


# --- the references that no lesson module holds ------------------------------------------------


def test_a_pair_that_must_match_is_the_rule_of_equal_classes():
    """On one pair, the exercise's reference against the lesson's rule."""
    reference = exercises.find("11.must_link_targets").reference
    answers = torch.softmax(2 * torch.randn(6, 4, generator=torch.Generator().manual_seed(3)), 1)
    made = reference(answers, torch.tensor([[1, 4]]))
    equal = torch.eye(4, dtype=torch.bool)
    for row, target in zip((1, 4), lesson.rule_targets([answers[1:2], answers[4:5]], equal), strict=True):
        torch.testing.assert_close(made[row : row + 1], target)
    others = [0, 2, 3, 5]
    torch.testing.assert_close(made[others], answers[others])


def test_a_linear_student_can_learn_what_one_step_from_zero_does():
    """One inner step from 0 is Q · 2 · lr · mean(x y): V = 2 · lr · I and w = 0, where the bug hunt's loop arrives."""
    reference = exercises.find("11.distil_meta_learner").reference
    draw = torch.Generator().manual_seed(0)
    x, queries = (torch.randn(8, 6, 2, generator=draw, dtype=torch.float64) for _ in range(2))
    y = x @ torch.randn(8, 2, 1, generator=draw, dtype=torch.float64)
    start = torch.zeros(2, 1, dtype=torch.float64)
    w, v, error = reference(start, x, y, queries, queries @ torch.ones(8, 2, 1).double(), 500, 0.05, 0.25, 1)
    torch.testing.assert_close(v, 0.5 * torch.eye(2, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(w, start, atol=1e-6, rtol=0)
    assert error > 0.1


def test_the_written_inner_step_is_adapts():
    exercise = exercises.find("11.distil_meta_learner")
    for case in cases_of(exercise, 3):
        seen = [observe(exercise, answer, case) for answer in (exercise.reference, in_modules())]
        assert differs(*seen) is None
