"""Lesson 03's exercises: right answers written differently pass, nearly right ones fail, odd ones hear something."""

import copy
import math

import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ctkd_lessons.course import exercises
from ctkd_lessons.course.check import check
from ctkd_lessons.course.examine import examine
from ctkd_lessons.course.lessons import find as find_lesson
from ctkd_lessons.soft_targets import kd_loss, soften

LAYERS = (nn.Linear, nn.Conv2d)


# --- the parts of answers ---------------------------------------------------------------------


def flops(layer, given, made):
    return 2 * made[0].numel() * layer.weight[0].numel()


def counting(rule):
    """An answer that adds up ``rule(layer, input, output)`` over all runs."""

    def answer(model, x):
        counts = []
        hook = lambda layer, given, made: counts.append(rule(layer, given[0], made))
        handles = [layer.register_forward_hook(hook) for layer in model.modules() if isinstance(layer, LAYERS)]
        was = model.training
        with torch.no_grad():
            model.eval()(x)
        model.train(was)
        for handle in handles:
            handle.remove()
        return sum(counts)

    return answer


def by_torch(model, x):
    with FlopCounterMode(display=False) as counter:
        copy.deepcopy(model).eval()(x)
    return counter.get_total_flops() // len(x)


def by_size(layer, given, made):
    if isinstance(layer, nn.Linear):
        return 2 * layer.in_features * layer.out_features * (given[0].numel() // layer.in_features)
    height, width = layer.kernel_size
    terms = height * width * layer.in_channels // layer.groups
    return 2 * terms * layer.out_channels * made.shape[2] * made.shape[3]


def kl(log_t, log_s):
    return (log_t.exp() * (log_t - log_s)).sum(-1).mean()


def dkd(s, t, labels, T, *, mask=None, reduce=torch.sum):
    """Right in the target's part; ``mask`` fills the target's logit instead of leaving it out."""
    target = F.one_hot(labels, s.shape[1]).bool()

    def parts(z):
        margin = z[target] - z.masked_fill(target, -math.inf).logsumexp(-1)
        pair = torch.stack([F.logsigmoid(margin), F.logsigmoid(-margin)], -1)
        rest = z[~target].view(len(z), -1) if mask is None else z.masked_fill(target, mask)
        return pair, F.log_softmax(rest, -1)

    (b_s, o_s), (b_t, o_t) = parts(s / T), parts(t.detach() / T)
    terms = o_t.exp() * (o_t - o_s)
    return T**2 * kl(b_t, b_s), T**2 * reduce(terms, -1).mean()


def dkd_row_by_row(s, t, labels, T):
    tckd = nckd = 0.0
    for row_s, row_t, y in zip(s / T, t.detach() / T, labels, strict=True):
        keep = [c for c in range(len(row_s)) if c != y]
        pairs = [torch.stack([row[y], row[keep].logsumexp(0)]).log_softmax(0) for row in (row_t, row_s)]
        tckd = tckd + kl(*pairs) * T**2 / len(s)
        nckd = nckd + kl(row_t[keep].log_softmax(0), row_s[keep].log_softmax(0)) * T**2 / len(s)
    return tckd, nckd


def dkd_from_released_code(s, t, labels, T):
    """The authors' way: fine until p_y rounds to 0 or 1."""
    target = F.one_hot(labels, s.shape[1])
    p_s, p_t = soften(s, T), soften(t, T).detach()
    pair = lambda p: torch.stack([(p * target).sum(1), (p * (1 - target)).sum(1)], 1)
    tckd = F.kl_div(pair(p_s).log(), pair(p_t), reduction="batchmean") * T**2
    log_s = F.log_softmax(s / T - 1000 * target, 1)
    nckd = F.kl_div(log_s, F.softmax(t.detach() / T - 1000 * target, 1), reduction="batchmean") * T**2
    return tckd, nckd


def learn(model, targets, images, steps, T, rate, loss=kd_loss, momentum=0.0):
    optimiser = torch.optim.SGD(model.parameters(), lr=rate, momentum=momentum)
    model.train()
    for _ in range(steps):
        value = loss(model(images), targets, T)
        model.zero_grad()
        value.backward()
        optimiser.step()
    return model.eval()(images).detach()


def chain(models, targets, *rest, **how):
    for model in models:
        targets = learn(model, targets, *rest, **how)
    return targets


def chain_by_recursion(models, targets, *rest):
    targets = learn(models[0], targets, *rest)
    return chain_by_recursion(models[1:], targets, *rest) if models[1:] else targets


def chain_asking_each_time(models, targets, images, steps, T, rate):
    teacher = lambda x: targets
    for model in models:
        model.train()
        for _ in range(steps):
            with torch.no_grad():
                soft = soften(teacher(images), T)
            gradients = torch.autograd.grad(T**2 * F.cross_entropy(model(images) / T, soft), list(model.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                    parameter -= rate * gradient
        teacher = model.eval()
    return teacher(images).detach()


def front(beats):
    """An answer that drops i if ``beats(cheaper, as cheap, better, as good)`` for some other row j."""

    def answer(costs, scores):
        costs = costs.reshape(len(scores), -1)
        rows = zip(costs, scores, strict=True)
        return np.array([not beats(costs < c, costs <= c, scores > s, scores >= s).any() for c, s in rows])

    return answer


right_front = front(lambda less, le, gt, ge: le.all(1) & ge & (less.any(1) | gt))


def front_by_hand(costs, scores):
    costs = [np.atleast_1d(c).tolist() for c in costs]
    goods = [[-value for value in c] + [s] for c, s in zip(costs, scores.tolist(), strict=True)]
    beats = lambda a, b: all(x >= y for x, y in zip(a, b, strict=True)) and a != b
    return np.array([not any(beats(a, b) for a in goods) for b in goods])


def best_so_far(costs, scores):
    kept, best = np.zeros(len(scores), dtype=bool), -np.inf
    for k in np.lexsort((-scores, costs.reshape(len(scores), -1)[:, 0])):
        kept[k], best = scores[k] > best, max(best, scores[k])
    return kept


def ensemble_loop(soft, evaluate=True):
    """A loop with ``soft(student logits, (M, B, C) teacher logits, T)`` as its soft term."""

    def answer(student, teachers, images, labels, steps, T, alpha, rate):
        optimiser = torch.optim.SGD(student.parameters(), lr=rate)
        with torch.no_grad():
            members = torch.stack([teacher.train(not evaluate)(images) for teacher in teachers])
        for _ in range(steps):
            logits = student(images)
            loss = alpha * soft(logits, members, T) + (1 - alpha) * F.cross_entropy(logits, labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    return answer


def mean_of_losses(logits, members, T):
    return torch.stack([kd_loss(logits, z, T) for z in members]).mean()


def divergence(logits, targets, T, factor=2):
    return T**factor * F.kl_div(F.log_softmax(logits / T, -1), targets, reduction="batchmean")


def targets_in_graph(student, teachers, images, labels, steps, T, alpha, rate):
    optimiser = torch.optim.SGD(student.parameters(), lr=rate)
    for _ in range(steps):
        targets = sum((teacher.eval()(images) / T).softmax(-1) for teacher in teachers) / len(teachers)
        logits = student(images)
        optimiser.zero_grad()
        (alpha * divergence(logits, targets, T) + (1 - alpha) * F.cross_entropy(logits, labels)).backward()
        optimiser.step()


# --- right answers ----------------------------------------------------------------------------

RIGHT = [
    ("count_flops", counting(flops)),
    ("count_flops", counting(by_size)),
    ("count_flops", by_torch),
    ("count_flops", lambda model, x: counting(flops)(model, x[:1])),
    ("count_flops", lambda model, x: np.int64(counting(flops)(copy.deepcopy(model).eval(), x))),
    ("ensemble_targets", lambda z, T: sum((member / T).softmax(-1) for member in z) / len(z)),
    ("ensemble_targets", lambda z, T: (F.log_softmax(z / T, -1).logsumexp(0) - math.log(len(z))).exp()),
    ("ensemble_targets", lambda z, T: torch.einsum("mbc->bc", soften(z, T)).detach() / z.shape[0]),
    ("dkd_terms", dkd),
    ("dkd_terms", dkd_row_by_row),
    ("dkd_terms", lambda *given: dkd(*given, mask=-1e9)),
    ("dkd_terms", lambda *given: dkd(*given, mask=-math.inf, reduce=torch.nansum)),
    ("teach_chain", chain),
    ("teach_chain", chain_by_recursion),
    ("teach_chain", chain_asking_each_time),
    ("pareto_front", right_front),
    ("pareto_front", front_by_hand),
    ("distil_ensemble", ensemble_loop(mean_of_losses)),
    ("distil_ensemble", ensemble_loop(lambda z, m, T: divergence(z, soften(m, T).mean(0), T))),
    ("distil_ensemble", ensemble_loop(lambda z, m, T: T**2 * F.cross_entropy(z / T, soften(m, T).mean(0)))),
    ("distil_ensemble", ensemble_loop(lambda z, m, T: kd_loss(z, T * soften(m, T).mean(0).log(), T))),
]


@pytest.mark.parametrize(("name", "answer"), RIGHT, ids=[f"{name}-{k}" for k, (name, _) in enumerate(RIGHT)])
def test_right_answers_written_differently_pass(name, answer):
    for seed in range(5):
        finding = examine(exercises.find(f"03.{name}"), answer, seed)
        assert finding.passed, (seed, finding.headline, finding.details)


# --- nearly right answers ---------------------------------------------------------------------


def square_image(layer, given, made):
    count = flops(layer, given, made)
    return count * made.shape[2] // made.shape[3] if made.ndim == 4 else count


def all_from_the_first(models, targets, *rest):
    answers = [chain(models[:1], targets, *rest)]
    return [*answers, *(learn(model, answers[0], *rest) for model in models[1:])][-1]


NEARLY = {
    "square images": ("count_flops", counting(square_image)),
    "batches of three": ("count_flops", counting(lambda *run: flops(*run) * len(run[2]) // 3)),
    "members that are equally sure": ("ensemble_targets", lambda z, T: soften(z.mean(0), T)),
    "one shift for the whole batch": (
        "ensemble_targets",
        lambda z, T: (p := ((z - z.max()) / T).exp()).div(p.sum(-1, keepdim=True)).mean(0),
    ),
    "a mask that is not low enough": ("dkd_terms", lambda *given: dkd(*given, mask=-100.0)),
    "logs of what may be 0": ("dkd_terms", dkd_from_released_code),
    "a student that is swapped in one term": (
        "dkd_terms",
        lambda s, t, y, T: (dkd(s, t, y, T)[0], dkd(t.detach(), s, y, T)[1]),
    ),
    "chains of two": ("teach_chain", all_from_the_first),
    "one step": ("teach_chain", lambda *given: chain(*given, momentum=0.9)),
    "one kind of cost": ("pareto_front", lambda c, s: right_front(c.reshape(len(s), -1)[:, 0], s)),
    "no ties": ("pareto_front", front(lambda less, le, gt, ge: less.all(1) & gt)),
    "no ties in cost": ("pareto_front", front(lambda less, le, gt, ge: le.all(1) & ge & less.any(1))),
    "no ties in score": ("pareto_front", front(lambda less, le, gt, ge: le.all(1) & gt)),
    "costs of one kind without equals": ("pareto_front", best_so_far),
    "a single teacher": ("distil_ensemble", ensemble_loop(lambda z, m, T: sum(kd_loss(z, one, T) for one in m))),
    "the first teacher": ("distil_ensemble", ensemble_loop(lambda z, m, T: kd_loss(z, m[0], T))),
}


@pytest.mark.parametrize(("name", "answer"), NEARLY.values(), ids=NEARLY)
@pytest.mark.parametrize("seed", range(5))
def test_answers_that_are_right_only_for(name, answer, seed):
    assert not examine(exercises.find(f"03.{name}"), answer, seed).passed


# --- the bug hunt -----------------------------------------------------------------------------

BUGS = ["logits_averaged", "teachers_training", "teachers_unsoftened", "log_missing", "no_square"]
MENDED = {
    "logits_averaged": ("members.mean(dim=0).softmax(dim=-1)", "members.softmax(dim=-1).mean(dim=0)"),
    "teachers_training": ("teacher(images)", "teacher.eval()(images)"),
    "teachers_unsoftened": ("for teacher in teachers])", "for teacher in teachers]) / temperature"),
    "log_missing": (".softmax(dim=-1)\n        soft", ".log_softmax(dim=-1)\n        soft"),
    "no_square": ("soft = F", "soft = temperature**2 * F"),
}


@pytest.mark.parametrize("left", range(len(BUGS) + 1))
def test_the_bug_hunt_names_what_is_left(left):
    """Mended from the top down, until nothing is left."""
    book = nbformat.read(find_lesson("03").solution, as_version=4)
    source = {cell.id: cell.source for cell in book.cells if cell.cell_type == "code"}
    code = source["broken_distil_ensemble"]
    for bug in BUGS[: len(BUGS) - left]:
        assert code.count(MENDED[bug][0]) == 1
        code = code.replace(*MENDED[bug])
    scope: dict = {}
    exec(source["imports"] + "\n" + code, scope)
    finding = examine(exercises.find("03.distil_ensemble"), scope["broken_distil_ensemble"])
    assert [mistake.name for mistake in finding.mistakes] == BUGS[len(BUGS) - left :]
    assert finding.passed == (not left)


# --- what other wrong answers hear ------------------------------------------------------------


def train_mode_left(model, x):
    value = counting(flops)(model.eval(), x)
    model.train()
    return value


def in_training_mode(model, x):
    with FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops() // len(x)


def dkd_with_epsilon(s, t, labels, T, epsilon=1e-8):
    target = F.one_hot(labels, s.shape[1]).bool()

    def parts(z):
        p_y = z.softmax(-1)[target]
        return torch.stack([p_y, 1 - p_y], -1), z[~target].view(len(z), -1).softmax(-1)

    pairs = zip(parts(s / T), parts(t.detach() / T), strict=True)
    return tuple(T**2 * kl((q + epsilon).log(), (p + epsilon).log()) for p, q in pairs)


def forgotten_batch_size(model, x):
    return counting(lambda layer, given, made: 2 * made.numel() * layer.weight[0].numel())(model, x) / len(x)


def zeroed(model, x):
    value = counting(flops)(model, x)
    nn.init.zeros_(next(model.parameters()))
    return value


def hooked_everywhere(model, x):
    counts = []
    for module in model.modules():
        module.register_forward_hook(lambda *run: counts.append(flops(*run)))
    model(x)
    return sum(counts)


def earlier_models_go_on(models, targets, *rest):
    for k in range(len(models)):
        answer = chain(models[: k + 1], targets, *rest)
    return answer


def one_forward_pass(models, targets, images, steps, T, rate):
    logits = models[0](images)
    for _ in range(steps):
        kd_loss(logits, targets, T).backward()


def negated_in_place(costs, scores):
    costs *= -1
    return right_front(-costs, scores)


def terms(change):
    return lambda *given: change(*dkd(*given))


UNLISTED = [
    ("count_flops", forgotten_batch_size, "returns a float; expected an int"),
    ("count_flops", lambda model, x: torch.tensor(by_torch(model, x)), "Turn the result into an int"),
    ("count_flops", lambda model, x: None, "Does every path end in a `return`?"),
    ("count_flops", counting(lambda *given: 3 * flops(*given)), "3 times the right one, on every input"),
    ("count_flops", counting(lambda *given: 0), "same value whatever it is given"),
    ("count_flops", train_mode_left, "The mode the model is left in should be evaluation; yours is training"),
    ("count_flops", zeroed, "changes its input `model` in place"),
    ("count_flops", hooked_everywhere, "has no attribute 'weight'"),
    ("count_flops", NEARLY["square images"][1], "right on 4 of 6 inputs, such as: x (4, 12)"),
    ("ensemble_targets", lambda z, T: soften(z, T), "should have shape (4, 5); yours has (3, 4, 5)"),
    ("ensemble_targets", lambda z, T: soften(z, T)[0], "right on 1 of 7 inputs, such as: logits (1, 6, 3)"),
    ("ensemble_targets", lambda z, T: soften(z, T).mean(0) * T, "times the temperature"),
    ("ensemble_targets", lambda z, T: soften(z, T).sum(0) / z.shape[1], "number of members and divided by the number"),
    ("ensemble_targets", lambda z, T: soften(z, T).mean(0).numpy(), "Stay in torch"),
    ("ensemble_targets", lambda z, T: soften(z, T).mean(0).double(), "dtype should be torch.float32"),
    ("ensemble_targets", lambda z, T: z.div_(T).softmax(-1).mean(0), "changes its input `logits` in place"),
    ("ensemble_targets", lambda z, T: (z / T).softmax().mean(0), "(line 1 of your function:"),
    ("ensemble_targets", lambda z: soften(z).mean(0), "Keep the name and the arguments"),
    ("dkd_terms", terms(lambda a, b: a + b), "Return a tuple (scalar tensor, scalar tensor) and nothing else"),
    ("dkd_terms", terms(lambda a, b: [a, b]), "a list (scalar tensor, scalar tensor); expected a tuple"),
    ("dkd_terms", terms(lambda a, b: (a, b, a + b)), "and nothing else"),
    ("dkd_terms", terms(lambda a, b: (a.item(), b.item())), "Stay in torch"),
    ("dkd_terms", terms(lambda a, b: (a.detach(), b.detach())), "No gradient flows"),
    ("dkd_terms", terms(lambda a, b: (a, 8 * b)), "The value differs in number 2 of the 2 you return"),
    ("dkd_terms", terms(lambda a, b: (a.expand(4), b)), "tensor of shape (4,), scalar tensor"),
    ("dkd_terms", lambda s, t, y, T: dkd(t, s, y, T), "Beside that: No gradient reaches `student_logits`"),
    ("dkd_terms", NEARLY["a mask that is not low enough"][1], "student_logits (6, 5) float32 up to ±20"),
    ("teach_chain", lambda *given: [chain(*given)], "Return a torch.Tensor and nothing else"),
    ("teach_chain", earlier_models_go_on, "`models[0]` after training differs"),
    ("teach_chain", earlier_models_go_on, "right on 1 of 4 inputs, such as: widths = [5]"),
    ("teach_chain", lambda *given: chain(*given, loss=lambda s, t, T: kd_loss(t, s, T)), "swapped arguments"),
    ("teach_chain", one_forward_pass, "run the model inside the loop"),
    ("teach_chain", lambda *given: chain(*given, loss=lambda s, t, T: F.mse_loss(s, t)), "Go through the loop"),
    ("teach_chain", lambda *given: chain(*given, momentum=0.5), "steps = 1"),
    ("teach_chain", lambda *given: chain(*given, momentum=0.5), "with no momentum"),
    ("dkd_terms", lambda *given: dkd_with_epsilon(*given), "Do you add a small constant inside a log"),
    ("dkd_terms", lambda *given: dkd_with_epsilon(*given, epsilon=1e-12), "Do you add a small constant inside a log"),
    ("count_flops", in_training_mode, "your forward pass moves the running averages"),
    ("pareto_front", lambda c, s: right_front(c, s).tolist(), "Turn the result into a numpy.ndarray"),
    ("pareto_front", lambda c, s: right_front(c, s) * 1, "Return True or False for each"),
    ("pareto_front", lambda c, s: s == s.max(), "expected False, got True"),
    ("pareto_front", lambda c, s: s == s.max(), "costs = [5.0, 3.0,"),
    ("pareto_front", lambda c, s: np.unique(right_front(c, s)), "should have shape (10,)"),
    ("pareto_front", negated_in_place, "changes its input `costs` in place"),
    ("distil_ensemble", targets_in_graph, "gradient left in the teachers should be none"),
    ("distil_ensemble", ensemble_loop(lambda z, m, T: 0.0), "order of `zero_grad`, `backward` and `step`"),
    ("distil_ensemble", NEARLY["the first teacher"][1], "right on 1 of 4 inputs, such as: teachers = 1"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "answer", "words"), UNLISTED, ids=range(len(UNLISTED)))
def test_wrong_answers_nobody_listed_hear_something_useful(name, answer, words):
    panel = repr(check(f"03.{name}", answer))
    assert panel.startswith(f"✘ 03.{name}")
    assert words in panel


LISTED = [
    ("count_flops", counting(lambda layer, x, y: layer.weight.numel() * 2), ["one_place", "one_row"]),
    ("count_flops", counting(lambda layer, x, y: flops(layer, x, y) // 2 * len(x)), ["multiply_adds", "whole_batch"]),
    ("ensemble_targets", lambda z, T: F.log_softmax(z, -1).mean(0).softmax(-1), ["logits_averaged", "no_temperature"]),
    ("dkd_terms", dkd_from_released_code, ["naive_target"]),
    ("dkd_terms", lambda *given: dkd(*given, mask=-math.inf), ["masked_log"]),
    ("dkd_terms", lambda s, t, y, T: (a := dkd(s, t, y, T)[0], kd_loss(s, t, T) - a), ["weighted"]),
    ("dkd_terms", lambda s, t, y, T: dkd(s, t, y, 1.0), ["no_square", "no_temperature"]),
    ("teach_chain", lambda models, t, *rest: [learn(m, t, *rest) for m in models][-1], ["no_chain"]),
    ("pareto_front", best_so_far, ["later_equals_dropped", "first_cost"]),
    ("distil_ensemble", ensemble_loop(lambda z, m, T: kd_loss(z, soften(m, T).mean(0), T)),
     ["probabilities_as_logits"]),
    ("distil_ensemble", ensemble_loop(lambda z, m, T: kd_loss(z, soften(m, T).mean(0).log(), T)), ["logs_as_logits"]),
    ("distil_ensemble",
     ensemble_loop(lambda z, m, T: T**2 * F.mse_loss(soften(z, T), soften(m, T).mean(0))), ["probabilities_squared"]),
    ("teach_chain", lambda *given: chain(*given, momentum=0.9), ["momentum"]),
    ("teach_chain", lambda models, *rest: (chain(models[:-1], *rest), models[-1].eval()(rest[1]).detach())[1],
     ["last_untaught"]),
    ("distil_ensemble", ensemble_loop(mean_of_losses, evaluate=False), ["teachers_training"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "answer", "mistakes"), LISTED, ids=range(len(LISTED)))
def test_mistakes_written_differently_are_named(name, answer, mistakes):
    assert [mistake.name for mistake in examine(exercises.find(f"03.{name}"), answer).mistakes] == mistakes
