"""Lesson 06's exercises: right answers written differently pass, nearly right ones fail, odd ones hear something."""

import nbformat
import pytest
import torch
import torch.nn.functional as F

from ctkd_lessons import multi_task
from ctkd_lessons.course import exercises
from ctkd_lessons.course.check import check
from ctkd_lessons.course.examine import examine
from ctkd_lessons.course.lessons import find as find_lesson
from ctkd_lessons.pipeline import bridge_loss

# --- the parts of answers ---------------------------------------------------------------------


def shared(hint=bridge_loss, tasks=torch.sum):
    """An answer to shared_loss; ``hint(bridged, features)`` is the teacher's term."""
    return lambda losses, bridged, features, weight: tasks(losses) + weight * hint(bridged, features.detach())


def kl(student, teacher):
    return F.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), reduction="batchmean", log_target=True)


def separate(distance=kl, detach=torch.Tensor.detach):
    """An answer to separate_loss from a task's distance."""
    return lambda students, teachers, weights: sum(
        weight * distance(student, detach(teacher))
        for student, teacher, weight in zip(students, teachers, weights, strict=True)
    )


def weights_in_a_tensor(students, teachers, weights):
    distances = torch.stack(
        [kl(student, teacher.detach()) for student, teacher in zip(students, teachers, strict=True)]
    )
    return distances @ torch.tensor(weights, dtype=distances.dtype)


def returned_early(students, teachers, weights):
    for student, teacher, weight in zip(students, teachers, weights, strict=True):
        return weight * kl(student, teacher.detach())


def overwritten(students, teachers, weights):
    for student, teacher, weight in zip(students, teachers, weights, strict=True):
        loss = weight * kl(student, teacher.detach())
    return loss


def adaptive(values, heat=lambda temperature: temperature, total=len):
    """An answer to adaptive_weights from what the softmax gets."""
    return lambda student, teacher, temperature: (
        total(student) * (values(student.detach(), teacher.detach()) / heat(temperature)).softmax(0)
    )


def log_ratio(student, teacher):
    return student.log() - teacher.log()


def by_powers(student, teacher, temperature):
    raised = (student / teacher) ** (1 / temperature)
    return len(raised) * raised / raised.sum()


def from_the_largest(student, teacher, temperature):
    """Softmax by hand."""
    values = log_ratio(student.detach(), teacher.detach()) / temperature
    raised = (values - values.max()).exp()
    return raised / raised.mean()


def attention(distance):
    return lambda student, teacher: distance(student, teacher.detach())


def rows(scores):
    return scores.reshape(-1, scores.shape[-1])


def cross_entropy_less_entropy(student, teacher):
    p = rows(teacher).softmax(1)
    return F.cross_entropy(rows(student), p) - torch.special.entr(p).sum(1).mean()


def weighted_mean(known):
    return sum(w * z.softmax(-1) for z, w in known) / sum(w for _, w in known)


def distance_to(logits, target):
    return (torch.special.xlogy(target, target) - target * logits.log_softmax(-1)).sum(-1).mean()


def fusion(fuse=weighted_mean, distance=distance_to):
    """An answer to fusion_loss; ``fuse`` gets the pairs (logits, weight) of the teachers that have a task."""

    def answer(student, teachers, weights):
        total = 0
        for task, logits in student.items():
            known = [(one[task].detach(), w) for one, w in zip(teachers, weights, strict=True) if task in one]
            total = total + distance(logits, fuse(known))
        return total

    return answer


def fusion_by_log_sum_exp(student, teachers, weights):
    """In log space from end to end; a weight of 0 becomes −inf and then 0."""
    total = 0
    for task, logits in student.items():
        known = [
            (one[task].detach().log_softmax(-1), w) for one, w in zip(teachers, weights, strict=True) if task in one
        ]
        mixed = torch.stack([z + torch.tensor(w, dtype=z.dtype).log() for z, w in known]).logsumexp(0)
        logs = (mixed - mixed.logsumexp(-1, keepdim=True)).nan_to_num(neginf=-1e4)
        total = total + (logs.exp() * (logs - logits.log_softmax(-1))).sum(-1).mean()
    return total


def silent_is_even(student, teachers, weights):
    filled = [{task: one.get(task, torch.zeros_like(z)) for task, z in student.items()} for one in teachers]
    return fusion()(student, filled, weights)


def every_teacher_knows_all(student, teachers, weights):
    return sum(
        distance_to(z, weighted_mean([(one[task].detach(), w) for one, w in zip(teachers, weights, strict=True)]))
        for task, z in student.items()
    )


def schedule(row, first=2):
    """An answer to dwa_schedule; ``row(losses, t, T)`` from epoch ``first`` on, 1 before."""

    def answer(losses, temperature):
        table = losses.detach()
        ones = torch.ones_like(table[0])
        return torch.stack([ones if t < first else row(table, t, temperature) for t in range(len(table))])

    return answer


def dwa_row(table, t, temperature):
    return table.shape[1] * (table[t - 1] / table[t - 2] / temperature).softmax(0)


def dwa_by_shift(losses, temperature):
    """Two shifted tables, the first rows written over."""
    table = losses.detach()
    weights = table.shape[1] * (table.roll(1, 0) / table.roll(2, 0) / temperature).softmax(1)
    weights[:2] = 1
    return weights


def anneal(
    *,
    mode=lambda teacher: teacher.eval(),
    optimiser=torch.optim.SGD,
    targets=lambda p, one_hot, share: (1 - share) * p + share * one_hot,
    progress=lambda step, steps: step / (steps - 1),
    loss=F.cross_entropy,
    weigh=multi_task.adaptive_weights,
    zero=True,
    end=lambda loss: loss.item(),
):
    """An answer to anneal_tasks."""

    def answer(teachers, student, images, labels, batches, temperature, rate):
        descent = optimiser(student.parameters(), lr=rate)
        for step, rows in enumerate(batches):
            outputs = student(images[rows])
            with torch.no_grad():
                said = [mode(teacher)(images[rows]) for teacher in teachers]
            truth = labels[rows].T
            pairs = list(zip(outputs, said, truth, strict=True))
            share = progress(step, len(batches))
            losses = [loss(o, targets(z.softmax(1), F.one_hot(y, z.shape[1]), share)) for o, z, y in pairs]
            errors = torch.stack([F.cross_entropy(o, y) for o, _, y in pairs])
            weights = weigh(errors, torch.stack([F.cross_entropy(z, y) for _, z, y in pairs]), temperature)
            value = (weights * torch.stack(losses)).sum()
            if zero:
                descent.zero_grad()
            value.backward()
            descent.step()
        return end(value)

    return answer


def two_cross_entropies(output, target):
    """The cross-entropy by its definition."""
    return -(target * output.log_softmax(1)).sum(1).mean()


def frozen(teacher):
    return teacher.eval().requires_grad_(False)


def one_batch(*given):
    return anneal()(*given[:4], given[4][:1].repeat(2, 1), *given[5:])


# --- right answers ----------------------------------------------------------------------------

RIGHT = [
    ("shared_loss", multi_task.shared_loss),
    ("shared_loss", shared(lambda b, f: F.mse_loss(b, f) * f.shape[1])),
    ("shared_loss", shared(lambda b, f: F.mse_loss(b, f, reduction="sum") / len(f))),
    ("shared_loss", shared(lambda b, f: (b - f).norm(dim=1).square().mean())),
    ("separate_loss", separate()),
    ("separate_loss", separate(cross_entropy_less_entropy)),
    ("separate_loss", weights_in_a_tensor),
    ("adaptive_weights", adaptive(log_ratio)),
    ("adaptive_weights", adaptive(lambda student, teacher: (student / teacher).log())),
    ("adaptive_weights", from_the_largest),
    ("adaptive_weights", torch.no_grad()(lambda s, t, T: len(s) * (log_ratio(s, t) / T).softmax(0))),
    ("attention_loss", multi_task.attention_transfer),
    ("attention_loss", attention(lambda s, t: kl(rows(s), rows(t)))),
    ("attention_loss", attention(cross_entropy_less_entropy)),
    ("fusion_loss", fusion()),
    ("fusion_loss", fusion(distance=lambda z, p: F.kl_div(z.log_softmax(-1), p, reduction="batchmean"))),
    ("fusion_loss", fusion_by_log_sum_exp),
    ("dwa_schedule", schedule(dwa_row)),
    ("dwa_schedule", schedule(lambda table, t, T: multi_task.dwa_weights(table[t - 1], table[t - 2], T))),
    ("dwa_schedule", dwa_by_shift),
    ("anneal_tasks", anneal()),
    ("anneal_tasks", anneal(loss=two_cross_entropies)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "answer"), RIGHT, ids=[f"{name}-{k}" for k, (name, _) in enumerate(RIGHT)])
def test_right_answers_written_differently_pass(name, answer):
    for seed in range(5):
        finding = examine(exercises.find(f"06.{name}"), answer, seed)
        assert finding.passed, (seed, finding.headline, finding.details)


# --- nearly right answers ---------------------------------------------------------------------

NEARLY = {
    "a weight of one": ("shared_loss", lambda losses, b, f, weight: shared()(losses, b, f, 1.0)),
    "one example": ("shared_loss", shared(lambda b, f: (b - f).square().sum())),
    "one feature": ("shared_loss", shared(F.mse_loss)),
    "small logits": ("separate_loss", separate(lambda s, t: (t.softmax(1) * (t.softmax(1) / s.softmax(1)).log()).sum(
        1).mean())),
    "one task": ("separate_loss", returned_early),
    "an even number of classes": ("separate_loss", lambda s, t, w: kl(torch.stack(s), torch.stack(t).detach())),
    "three tasks": ("adaptive_weights", adaptive(log_ratio, total=lambda losses: 3)),
    "a temperature of one": ("adaptive_weights", adaptive(log_ratio, heat=lambda temperature: 1)),
    "a mild temperature": ("adaptive_weights", by_powers),
    "values": ("adaptive_weights", lambda s, t, T: len(s) * (log_ratio(s, t) / T).softmax(0)),
    "one attention": ("attention_loss", attention(kl)),
    "small scores": ("attention_loss", attention(lambda s, t: F.kl_div(rows(s).softmax(-1).log(), rows(t).softmax(-1),
                                                                       reduction="batchmean"))),
    "an attention per task": ("attention_loss", attention(lambda s, t: kl(s, t) / s.shape[1])),
    "teachers that know all": ("fusion_loss", every_teacher_knows_all),
    "small fused logits": ("fusion_loss", fusion(distance=lambda z, p: (p * (p.log() - z.log_softmax(-1))).sum(
        -1).mean())),
    "one teacher": ("fusion_loss", fusion(lambda known: known[0][0].softmax(-1))),
    "weights that sum to one": ("fusion_loss", fusion(lambda known: sum(w * z.softmax(-1) for z, w in known))),
    "long trainings": ("dwa_schedule", lambda losses, T: torch.cat([
        torch.ones_like(losses[:1]).repeat(2, 1),
        losses.shape[1] * (losses[1:-1].detach() / losses[:-2].detach() / T).softmax(1)])),
    "two epochs": ("dwa_schedule", lambda losses, T: torch.ones_like(losses)),
    "a first batch": ("anneal_tasks", one_batch),
    "a first step": ("anneal_tasks", anneal(zero=False)),
}  # fmt: skip


@pytest.mark.parametrize(("name", "answer"), NEARLY.values(), ids=NEARLY)
@pytest.mark.parametrize("seed", range(5))
def test_answers_that_are_right_only_for(name, answer, seed):
    assert not examine(exercises.find(f"06.{name}"), answer, seed).passed


# --- the bug hunt -----------------------------------------------------------------------------

BUGS = ["teachers_training", "last_teacher", "over_batch", "progress_reversed", "weights_not_detached"]
MENDED = {
    "teachers_training": [("teacher(images", "teacher.eval()(images")],
    "last_teacher": [
        ("        for teacher in teachers:", "        said = []\n        for teacher in teachers:"),
        ("                log_p = teacher", "                said.append(teacher"),
        ("dim=0)\n        losses", "dim=0))\n        losses"),
        ("            truth = ", "            log_p = said[k]\n            truth = "),
    ],
    "over_batch": [("log_softmax(dim=0)", "log_softmax(dim=1)")],
    "progress_reversed": [("progress * log_p.exp() + (1 - progress) *", "(1 - progress) * log_p.exp() + progress *")],
    "weights_not_detached": [("torch.stack(ratios).log()", "torch.stack(ratios).detach().log()")],
}


@pytest.mark.parametrize("left", range(len(BUGS) + 1))
def test_the_bug_hunt_names_what_is_left(left):
    """Mended from the top down, until nothing is left."""
    book = nbformat.read(find_lesson("06").solution, as_version=4)
    source = {cell.id: cell.source for cell in book.cells if cell.cell_type == "code"}
    code = source["broken_anneal_tasks"]
    for bug in BUGS[: len(BUGS) - left]:
        for old, new in MENDED[bug]:
            assert code.count(old) == 1
            code = code.replace(old, new)
    scope: dict = {}
    exec(source["imports"] + "\n" + code, scope)
    finding = examine(exercises.find("06.anneal_tasks"), scope["broken_anneal_tasks"])
    assert [mistake.name for mistake in finding.mistakes] == BUGS[len(BUGS) - left :]
    assert finding.passed == (not left)


# --- what other wrong answers hear ------------------------------------------------------------

UNLISTED = [
    ("shared_loss", lambda losses, b, f, w: losses + w * bridge_loss(b, f), "A loss is one number for the whole batch"),
    ("shared_loss", shared(lambda b, f: 1 - F.cosine_similarity(b, f).mean()), "right on 1 of 5 inputs"),
    ("shared_loss", lambda losses, b, f, w: shared()(losses.detach(), b, f, w), "No gradient reaches `losses`"),
    ("shared_loss", shared(tasks=lambda losses: losses.sum().item()), "No gradient reaches `losses`"),
    ("shared_loss", lambda losses, b, f: losses.sum(), "Keep the name and the arguments"),
    ("separate_loss", lambda s, t, w: [kl(*pair) for pair in zip(s, t, strict=True)], "returns a list; expected a"),
    ("separate_loss", lambda s, t, w: sum(torch.tensor(kl(*pair).item()) for pair in zip(s, t, strict=True)).to(s[0]),
     "No gradient flows"),
    ("separate_loss", separate(lambda s, t: 16 * kl(s / 4, t / 4)), "The value differs: expected"),
    ("separate_loss", separate(lambda s, t: 2 * kl(s, t)), "2 times the right one"),
    ("separate_loss", lambda s, t, w: separate()(s, t, w).double(), "The dtype should be torch.float32"),
    ("separate_loss", separate(lambda s, t: (t.softmax(1) * ((t.softmax(1) + 1e-8).log() - (s.softmax(1) + 1e-8).log()))
     .sum(1).mean()), "something caps the value"),
    ("adaptive_weights", lambda s, t, T: s.tolist(), "returns a list; expected a torch.Tensor"),
    ("adaptive_weights", NEARLY["three tasks"][1], "divided by the number of tasks and times 3"),
    ("adaptive_weights", adaptive(lambda s, t: (s / (t + 1e-2)).log()), "Do you add a small constant"),
    ("adaptive_weights", adaptive(lambda s, t: (s / t).log10()), "The value differs at"),
    ("adaptive_weights", lambda s, t, T: adaptive(log_ratio)(s, t, T).sum(), "should have shape (3,); yours has ()"),
    ("attention_loss", attention(lambda s, t: 3 * kl(rows(s), rows(t))), "3 times the right one"),
    ("attention_loss", attention(lambda s, t: kl(s, t) + kl(t, s)), "The value differs: expected"),
    ("attention_loss", attention(lambda s, t: kl(s[:, :, None], t)), "The value differs"),
    ("fusion_loss", every_teacher_knows_all, "stopped with KeyError: 'parity' (line"),
    ("fusion_loss", lambda s, t, w: s, "returns a dict; expected a torch.Tensor"),
    ("fusion_loss", lambda s, t, w: fusion()(s, t, [v**2 for v in w]), "right on 3 of 5 inputs"),
    ("fusion_loss", lambda s, t, w: sum(kl(z, t[0][k].detach()) for k, z in s.items() if k in t[0]),
     "On input 1 it gives what this gives: computed with the first teacher"),
    ("dwa_schedule", lambda losses, T: dwa_row(losses.detach(), len(losses), T), "should have shape (5, 3); yours"),
    ("dwa_schedule", lambda losses, T: schedule(dwa_row)(losses, T).T, "the transpose of the right one"),
    ("dwa_schedule", lambda losses, T: schedule(dwa_row)(losses, T).float(), "The dtype should be torch.float64"),
    ("dwa_schedule", NEARLY["long trainings"][1], "right on 6 of 7 inputs"),
    ("dwa_schedule", lambda losses, T: losses.fill_(1), "The value differs at"),
    ("anneal_tasks", anneal(mode=frozen), "The teachers' `requires_grad` should be as it was"),
    ("anneal_tasks", anneal(end=lambda loss: loss), "returns a torch.Tensor; expected a float"),
    ("anneal_tasks", anneal(end=lambda loss: None), "Does every path end in a `return`?"),
    ("anneal_tasks", anneal(weigh=lambda s, t, T: multi_task.adaptive_weights(s, t)), "student after training differs"),
    ("anneal_tasks", anneal(progress=lambda step, steps: step / (steps - 1) / 2), "student after training differs"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "answer", "words"), UNLISTED, ids=range(len(UNLISTED)))
def test_wrong_answers_nobody_listed_hear_something_useful(name, answer, words):
    panel = repr(check(f"06.{name}", answer))
    assert panel.startswith(f"✘ 06.{name}")
    assert words in panel


LISTED = [
    ("shared_loss", lambda losses, b, f, w: losses.sum() + w * F.mse_loss(b, f), ["not_detached", "element_mean"]),
    ("shared_loss", shared(F.mse_loss, torch.mean), ["element_mean", "tasks_averaged"]),
    ("shared_loss", lambda losses, b, f, w: (losses + w * bridge_loss(b, f)).sum(), ["per_task"]),
    ("shared_loss", shared(lambda b, f: (b - f).norm()), ["whole_norm"]),
    ("shared_loss", shared(lambda b, f: (b - f).norm() ** 2), ["summed"]),
    ("shared_loss", lambda losses, b, f, w: losses.sum() + w * bridge_loss(f, b), ["student_cut"]),
    ("separate_loss", separate(lambda s, t: kl(s, t) / s.shape[1]), ["element_mean"]),
    ("separate_loss", separate(detach=lambda teacher: teacher), ["not_detached"]),
    ("separate_loss", separate(lambda s, t: kl(t, s)), ["swapped"]),
    ("separate_loss", separate(lambda s, t: F.cross_entropy(s, t.softmax(1))), ["cross_entropy"]),
    ("separate_loss", separate(lambda s, t: F.kl_div(s.log_softmax(1), t, reduction="batchmean")), ["raw_teacher"]),
    ("separate_loss", lambda s, t, w: separate()(s, t[:1] * len(s), w), ["one_teacher"]),
    ("separate_loss", returned_early, ["first_task"]),
    ("separate_loss", overwritten, ["last_task"]),
    ("adaptive_weights", NEARLY["values"][1], ["not_detached"]),
    ("adaptive_weights", adaptive(lambda s, t: t / s, total=lambda s: 1), ["sums_to_one", "inverted", "no_log"]),
    ("adaptive_weights", adaptive(lambda s, t: s / t - 1), ["no_log"]),
    ("adaptive_weights", lambda s, t, T: by_powers(s.detach(), t.detach(), T), ["powers"]),
    ("adaptive_weights", lambda s, t, T: by_powers(s.detach(), t.detach(), 1), ["temperature_ignored"]),
    ("attention_loss", attention(kl), ["tasks_summed"]),
    ("attention_loss", attention(lambda s, t: kl(s.movedim(1, -1), t.movedim(1, -1))), ["tasks_summed", "over_tasks"]),
    ("attention_loss", attention(lambda s, t: kl(t, s)), ["swapped", "tasks_summed"]),
    ("attention_loss", attention(lambda s, t: kl(s.flatten(1), t.flatten(1))), ["flattened"]),
    ("attention_loss", attention(lambda s, t: kl(s.mean(1), t.mean(1)) if s.ndim == 3 else kl(s, t)),
     ["averaged_first"]),
    ("attention_loss", attention(lambda s, t: F.kl_div(s.log_softmax(-1), t.softmax(-1), reduction="none").mean()),
     ["patches_averaged"]),
    ("fusion_loss", fusion(lambda known: torch.stack([z for z, _ in known]).mean(0).softmax(-1)),
     ["logits_averaged", "weights_ignored"]),
    ("fusion_loss", fusion(lambda known: sum(w * z for z, w in known).softmax(-1)), ["logits_averaged", "unweighted"]),
    ("fusion_loss", fusion(lambda known: sum(w * z.softmax(-1) for z, w in known) / len(known)), ["divided_by_count"]),
    ("fusion_loss", fusion(lambda known: known, lambda z, known: sum(
        w * kl(z, one) for one, w in known) / sum(w for _, w in known)), ["losses_averaged"]),
    ("fusion_loss", silent_is_even, ["missing_as_even"]),
    ("fusion_loss", fusion(distance=F.cross_entropy), ["cross_entropy"]),
    ("fusion_loss", NEARLY["one teacher"][1], ["first_teacher"]),
    ("dwa_schedule", schedule(lambda table, t, T: dwa_row(table, t + 1, T), first=1), ["looks_ahead"]),
    ("dwa_schedule", schedule(lambda table, t, T: dwa_row(table, t + 1, T)), ["one_on"]),
    ("dwa_schedule", schedule(dwa_row, first=0), ["wrapped"]),
    ("dwa_schedule", schedule(lambda table, t, T: (table[t - 2] / table[t - 1] / T).softmax(0)),
     ["sums_to_one", "inverted"]),
    ("dwa_schedule", schedule(lambda table, t, T: multi_task.adaptive_weights(table[t - 1], table[t - 2], T)),
     ["logged"]),
    ("dwa_schedule", schedule(lambda table, t, T: table[t - 1] / table[t - 2]), ["ratios"]),
    ("anneal_tasks", anneal(mode=lambda teacher: teacher), ["teachers_training"]),
    ("anneal_tasks", anneal(progress=lambda step, steps: step / steps), ["progress_short"]),
    ("anneal_tasks", anneal(targets=lambda p, y, share: share * p + (1 - share) * y), ["progress_reversed"]),
    ("anneal_tasks", anneal(weigh=lambda s, t, T: multi_task.adaptive_weights(t, s, T)), ["weights_inverted"]),
    ("anneal_tasks", anneal(weigh=lambda s, t, T: len(s) * ((s / t).log() / T).softmax(0)), ["weights_not_detached"]),
    ("anneal_tasks", anneal(optimiser=torch.optim.Adam), ["adam"]),
    ("anneal_tasks", anneal(zero=False), ["accumulates"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "answer", "mistakes"), LISTED, ids=range(len(LISTED)))
def test_mistakes_written_differently_are_named(name, answer, mistakes):
    assert [mistake.name for mistake in examine(exercises.find(f"06.{name}"), answer).mistakes] == mistakes
