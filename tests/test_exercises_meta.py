"""Lesson 10's exercises: right answers written differently pass, nearly right ones fail, odd ones hear something."""

import random
from functools import partial

import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.func import grad, vmap

from ctkd_lessons import meta as lesson
from ctkd_lessons.course import exercises
from ctkd_lessons.course.check import check
from ctkd_lessons.course.comparing import differs
from ctkd_lessons.course.examine import cases_of, examine, observe
from ctkd_lessons.course.lessons import find as find_lesson
from ctkd_lessons.data import glyphs

# --- the parts of answers ---------------------------------------------------------------------


def inner(
    gradients=lambda loss, now, batch: grad(loss)(now, *batch), *, keep=lambda new: new, times=lambda steps: steps
):
    """Inner steps with torch.func, with parts to exchange."""

    def answer(loss, params, batch, lr, steps):
        for _ in range(times(steps)):
            step = gradients(loss, params, batch)
            params = tuple(keep(a - lr * g) for a, g in zip(params, step, strict=True))
        return params

    return answer


def of_the_graph(loss, now, batch, *, graph):
    return torch.autograd.grad(loss(now, *batch), now, create_graph=graph)


def by_dict(loss, params, batch, lr, steps):
    named = {str(k): entry for k, entry in enumerate(params)}
    adapted = lesson.adapt(lambda named, *batch: loss(tuple(named.values()), *batch), named, *batch, lr=lr, steps=steps)
    return tuple(adapted.values())


def of_one_vector(loss, params, batch, lr, steps):
    """All parameters end to end."""
    sizes, shapes = [entry.numel() for entry in params], [entry.shape for entry in params]
    apart = lambda flat: tuple(piece.view(shape) for piece, shape in zip(flat.split(sizes), shapes, strict=True))
    flat = torch.cat([entry.flatten() for entry in params])
    for _ in range(steps):
        flat = flat - lr * grad(lambda flat: loss(apart(flat), *batch))(flat)
    return apart(flat)


def by_recursion(loss, params, batch, lr, steps):
    return params if not steps else by_recursion(loss, inner()(loss, params, batch, lr, 1), batch, lr, steps - 1)


def by_optimiser(loss, params, batch, lr, steps):
    """As ordinary training code has it: nothing can be differentiated afterwards."""
    copies = [entry.detach().clone().requires_grad_() for entry in params]
    optimiser = torch.optim.SGD(copies, lr=lr)
    for _ in range(steps):
        optimiser.zero_grad()
        loss(tuple(copies), *batch).backward()
        optimiser.step()
    return tuple(copies)


def mapped(loss, params, support, query, lr):
    """All tasks at once."""

    def one(support, query):
        return loss(inner()(loss, params, support, lr, 1), *query)

    return vmap(one)(support, query).mean()


def task_by_task(adapt=None, score=lambda loss, end, query: loss(end, *query), total=lambda values: sum(values)):
    """MAML's loss as a sum of shares, with parts to exchange."""
    adapt = adapt or inner()

    def answer(loss, params, support, query, lr):
        pairs = list(zip(zip(*support, strict=True), zip(*query, strict=True), strict=True))
        ends = [adapt(loss, params, own, lr, 1) for own, _ in pairs]
        return total([score(loss, end, asked) / len(pairs) for end, (_, asked) in zip(ends, pairs, strict=True)])

    return answer


def walked(ends=by_optimiser, centre=lambda all_ends: torch.stack(all_ends).mean(0)):
    """Reptile from any inner loop."""

    def answer(loss, params, support, lr, steps):
        made = [ends(loss, params, batch, lr, steps) for batch in zip(*support, strict=True)]
        return tuple(
            (entry - centre(list(column))).detach()
            for entry, column in zip(params, zip(*made, strict=True), strict=True)
        )

    return answer


def sum_of_gradients(loss, params, support, lr, steps):
    """Each way is α times the sum of the gradients met on it."""
    total = [torch.zeros_like(entry) for entry in params]
    for batch in zip(*support, strict=True):
        now = params
        for _ in range(steps):
            step = grad(loss)(now, *batch)
            now = tuple(a - lr * g for a, g in zip(now, step, strict=True))
            total = [a + lr * g / len(support[0]) for a, g in zip(total, step, strict=True)]
    return tuple(one.detach() for one in total)


def by_one_hot(support, labels, queries, classes):
    members = F.one_hot(labels, classes).to(support.dtype)
    centres = members.T @ support / members.sum(0)[:, None]
    return -((queries.unsqueeze(1) - centres.unsqueeze(0)) ** 2).sum(-1)


def by_index_add(support, labels, queries, classes):
    total = torch.zeros(classes, support.shape[1], dtype=support.dtype).index_add(0, labels, support)
    centres = total / labels.bincount(minlength=classes)[:, None]
    return torch.stack([-(query - centres).pow(2).sum(1) for query in queries])


def by_cdist(support, labels, queries, classes):
    centres = torch.stack([support[labels == k].mean(0) for k in range(classes)])
    return -(torch.cdist(queries, centres, compute_mode="donot_use_mm_for_euclid_dist") ** 2)


def equal_classes(support, labels, queries, classes):
    """Right where all classes are of one size, and in order."""
    centres = support[labels.argsort(stable=True)]
    centres = torch.stack([part.mean(0) for part in centres.tensor_split(classes)])
    return -(queries[:, None] - centres).square().sum(2)


def centred_first(support, labels, queries, classes):
    """The short form, made safe."""
    middle = support.mean(0)
    s, q = support - middle, queries - middle
    centres = torch.stack([s[labels == k].mean(0) for k in range(classes)])
    return 2 * q @ centres.T - q.square().sum(1, keepdim=True) - centres.square().sum(1)


def episode(
    classes=lambda labels, generator: labels.unique()[torch.randperm(len(labels.unique()), generator=generator)],
    rows=lambda labels, one, generator: _shuffled((labels == one).nonzero().flatten(), generator),
    cut=lambda rows, shots, queries: (rows[:shots], rows[shots : shots + queries]),
):
    """A sampler with parts to exchange."""

    def answer(labels, ways, shots, queries, generator):
        pairs = [cut(rows(labels, one, generator), shots, queries) for one in classes(labels, generator)[:ways]]
        return tuple(torch.cat(column) for column in zip(*pairs, strict=True))

    return answer


def _shuffled(values, generator):
    return values[torch.randperm(len(values), generator=generator)]


def by_sorted_chance(labels, ways, shots, queries, generator):
    """One random number for each row and each class; what is smallest is drawn."""
    chance = torch.rand(len(labels), generator=generator)
    names = labels.unique()
    drawn = names[torch.rand(len(names), generator=generator).argsort()[:ways]]
    order = chance.argsort()
    of_each = [order[labels[order] == one][: shots + queries] for one in drawn]
    table = torch.stack(of_each)
    return table[:, :shots].flatten(), table[:, shots:].flatten()


def by_numpy(labels, ways, shots, queries, generator):
    """NumPy's chance, seeded by torch's."""
    rng = np.random.default_rng(torch.randint(2**31, (1,), generator=generator).item())
    found = [rng.choice(np.flatnonzero(labels.numpy() == one), shots + queries, replace=False)
             for one in rng.choice(np.unique(labels.numpy()), ways, replace=False)]  # fmt: skip
    parts = np.split(np.stack(found), [shots], axis=1)
    return tuple(torch.from_numpy(part.reshape(-1)) for part in parts)


def by_python(labels, ways, shots, queries, generator):
    """Python's chance, which no torch generator knows."""
    names = random.sample(sorted(set(labels.tolist())), ways)
    drawn = [random.sample((labels == one).nonzero().flatten().tolist(), shots + queries) for one in names]
    return torch.tensor([row for rows in drawn for row in rows[:shots]]), torch.tensor(
        [row for rows in drawn for row in rows[shots:]]
    )


def one_order_for_all(labels, ways, shots, queries, generator):
    """One permutation of places, the same for every class: rows beyond the smallest class never come."""
    names = _shuffled(labels.unique(), generator)[:ways]
    order = torch.randperm(int(labels.unique(return_counts=True)[1].min()), generator=generator)
    table = torch.stack([(labels == one).nonzero().flatten()[order][: shots + queries] for one in names])
    return table[:, :shots].flatten(), table[:, shots:].flatten()


def sized(product=torch.mul, rate=lambda rate: rate, gradients=lambda *arguments: grad(arguments[0])(*arguments[1:])):
    """Meta-SGD with parts to exchange."""

    def answer(loss, params, rates, batch):
        step = gradients(loss, params, *batch)
        return tuple(a - product(rate(r), g) for a, r, g in zip(params, rates, step, strict=True))

    return answer


def by_addcmul(loss, params, rates, batch):
    return tuple(torch.addcmul(a, r, g, value=-1) for a, r, g in zip(params, rates, grad(loss)(params, *batch),
                                                                    strict=True))  # fmt: skip


def trained(meta_loss=None, *, make=torch.optim.SGD, sets=lambda part, step: part[step]):
    """Meta-training with the lesson's own loss and torch's optimiser."""
    meta_loss = meta_loss or (lambda loss, start, s, q, lr: lesson.maml_loss(loss, start, s, q, lr=lr))

    def answer(loss, params, support, query, lr, meta_lr):
        start = tuple(entry.detach().clone().requires_grad_() for entry in params)
        optimiser = make(start, lr=meta_lr)
        for step in range(len(support[0])):
            s, q = (tuple(sets(part, step) for part in batch) for batch in (support, query))
            optimiser.zero_grad()
            meta_loss(loss, start, s, q, lr).backward()
            optimiser.step()
        return start

    return answer


# --- right answers ----------------------------------------------------------------------------

RIGHT = [
    ("adapt", inner()),
    ("adapt", inner(partial(of_the_graph, graph=True))),
    ("adapt", by_dict),
    ("adapt", of_one_vector),
    ("adapt", by_recursion),
    ("maml_loss", mapped),
    ("maml_loss", task_by_task()),
    ("maml_loss", task_by_task(inner(partial(of_the_graph, graph=True)), total=lambda v: torch.stack(v).sum())),
    ("maml_loss", lambda loss, params, s, q, lr: lesson.maml_loss(loss, params, s, q, lr=lr, together=False)),
    ("reptile_direction", walked()),
    ("reptile_direction", walked(inner(partial(of_the_graph, graph=False)), lambda ends: sum(ends) / len(ends))),
    ("reptile_direction", sum_of_gradients),
    ("prototype_answers", by_one_hot),
    ("prototype_answers", by_index_add),
    ("prototype_answers", by_cdist),
    ("prototype_answers", centred_first),
    ("sample_episode", episode()),
    ("sample_episode", by_sorted_chance),
    ("sample_episode", by_numpy),
    ("meta_sgd", sized()),
    ("meta_sgd", by_addcmul),
    ("meta_train", trained()),
    ("meta_train", trained(mapped)),
]


@pytest.mark.parametrize(("name", "answer"), RIGHT, ids=[f"{name}-{k}" for k, (name, _) in enumerate(RIGHT)])
def test_right_answers_written_differently_pass(name, answer):
    for seed in range(5):
        finding = examine(exercises.find(f"10.{name}"), answer, seed)
        assert finding.passed, (seed, finding.headline, finding.details)


@pytest.mark.parametrize("exercise", exercises.of_lesson("10"), ids=lambda exercise: exercise.id)
def test_no_reference_and_no_mistake_raises(exercise):
    """Two answers that raise the same are equal to the judge."""
    for seed in range(3):
        for case in cases_of(exercise, seed):
            assert "raised" not in observe(exercise, exercise.reference, case)
            for mistake in exercise.mistakes:
                assert "raised" not in observe(exercise, exercise.variant(mistake), case), mistake.name


def test_a_right_sampler_passes_whatever_its_generator_draws():
    """What is looked at must not depend on luck."""
    exercise = exercises.find("10.sample_episode")
    for seed in range(40):

        def answer(labels, ways, shots, queries, generator, seed=seed):
            if generator is not answer.last:
                answer.last = generator.manual_seed(generator.initial_seed() + 1000 * seed)
            return glyphs.sample_episode(labels, ways, shots, queries, generator)

        answer.last = None
        for case in cases_of(exercise):
            right, seen = (observe(exercise, one, case) for one in (exercise.reference, answer))
            assert differs(right, seen) is None, (seed, differs(right, seen))


# --- nearly right answers ---------------------------------------------------------------------


def last_step_only(loss, params, batch, lr, steps):
    """The graph reaches back over the last step alone."""
    if steps > 1:
        params = tuple(entry.detach().requires_grad_() for entry in inner()(loss, params, batch, lr, steps - 1))
    return inner()(loss, params, batch, lr, min(steps, 1))


def clipped(loss, params, batch, lr, steps, *, most=0.5):
    return inner(lambda loss, now, batch: [g.clamp(-most, most) for g in grad(loss)(now, *batch)])(
        loss, params, batch, lr, steps
    )


NEARLY = {
    "steps above zero": ("adapt", inner(times=lambda steps: max(steps, 1))),
    "one step": ("adapt", last_step_only),
    "short gradients": ("adapt", clipped),
    "double precision": ("adapt", lambda loss, params, batch, *rest: tuple(
        entry.double() for entry in inner()(loss, params, batch, *rest))),
    "a single task": ("maml_loss", lambda loss, params, s, q, lr: task_by_task()(
        loss, params, tuple(part[:1] for part in s), tuple(part[:1] for part in q), lr)),
    "tasks alike": ("maml_loss", task_by_task(total=lambda values: torch.stack(values).median() * len(values))),
    "two tasks": ("maml_loss", task_by_task(total=lambda values: values[0] + values[-1])),
    "a network without hidden layer": ("maml_loss", task_by_task(clipped)),
    "one inner step": ("reptile_direction", lambda loss, params, s, lr, steps: walked()(loss, params, s, lr, 1)),
    "one task": ("reptile_direction", walked(centre=lambda ends: ends[0])),
    "classes of one size": ("prototype_answers", equal_classes),
    "more than one class": ("prototype_answers", lambda s, y, q, c: by_one_hot(s, y, q, c) - (c == 1)),
    "labels that begin with 0": ("prototype_answers", lambda s, y, q, c: by_one_hot(s, (y - y[0]) % c, q, c)),
    "labels without gaps": ("sample_episode", episode(lambda y, g: torch.randperm(len(y.unique()), generator=g))),
    "classes of equal size": ("sample_episode", one_order_for_all),
    "one example to learn from": ("sample_episode", episode(cut=lambda r, k, q: (r[:1].repeat(k), r[k : k + q]))),
    "a query of what is left": ("sample_episode", episode(cut=lambda r, k, q: (r[:k], r[k:]))),
    "rates above zero": ("meta_sgd", sized(rate=lambda rate: rate.abs())),
    "rates alike": ("meta_sgd", sized(rate=lambda rate: rate.flatten()[0])),
    "a single meta-step": ("meta_train", trained(make=partial(torch.optim.SGD, momentum=0.9))),
    "a first meta-step": ("meta_train", trained(sets=lambda part, step: part[0])),
    "long training": ("meta_train", trained(make=torch.optim.Adam)),
}  # fmt: skip


@pytest.mark.parametrize(("name", "answer"), NEARLY.values(), ids=NEARLY)
@pytest.mark.parametrize("seed", range(5))
def test_answers_that_are_right_only_for(name, answer, seed):
    assert not examine(exercises.find(f"10.{name}"), answer, seed).passed


# --- the bug hunt -----------------------------------------------------------------------------

BUGS = ["same_tasks", "carried", "first_order", "support_scored", "from_adapted"]
MENDED = {
    "same_tasks": [("for _ in range(steps)", "for step in range(steps)"), ("tensor[0, task]", "tensor[step, task]")],
    "carried": [("loss(adapted, *batch), adapted", "loss(params, *batch), params"),
                ("zip(adapted, gradients, strict=True))\n", "zip(params, gradients, strict=True))\n")],
    "first_order": [("*batch), adapted)", "*batch), adapted, create_graph=True)")],
    "support_scored": [("total + loss(adapted, *batch)", 
                        "total + loss(adapted, *[tensor[0, task] for tensor in query])")],
    "from_adapted": [("zip(adapted, gradients, strict=True)]", "zip(params, gradients, strict=True)]")],
}  # fmt: skip
ORDER = ["first_order", "support_scored", "carried", "from_adapted", "same_tasks"]  # so that each text is still there


def half_mended(bugs):
    """Return the broken training with these bugs mended."""
    book = nbformat.read(find_lesson("10").solution, as_version=4)
    source = {cell.id: cell.source for cell in book.cells if cell.cell_type == "code"}
    code = source["broken_meta_train"]
    for old, new in (change for bug in ORDER if bug in bugs for change in MENDED[bug]):
        assert old in code, old
        code = code.replace(old, new)
    scope: dict = {}
    exec(source["imports"] + "\n" + code, scope)
    return scope["broken_meta_train"]


@pytest.mark.parametrize("which", range(2 ** len(BUGS)))
@pytest.mark.parametrize("seed", [0, 7])
def test_the_bug_hunt_names_what_is_left(which, seed):
    """Every subset of the five."""
    left = [bug for place, bug in enumerate(BUGS) if which >> place & 1]
    finding = examine(exercises.find("10.meta_train"), half_mended(set(BUGS) - set(left)), seed)
    assert [mistake.name for mistake in finding.mistakes] == left
    assert finding.passed == (not left)


# --- what other wrong answers hear ------------------------------------------------------------


def as_list(answer):
    return lambda *arguments: list(answer(*arguments))


def in_place_without_no_grad(loss, params, batch, lr, steps):
    for entry, gradient in zip(params, grad(loss)(params, *batch), strict=True):
        entry -= lr * gradient
    return params


def by_data(loss, params, batch, lr, steps):
    """As the code of many tutorials changes parameters."""
    for _ in range(steps):
        for entry, gradient in zip(params, torch.autograd.grad(loss(params, *batch), params), strict=True):
            entry.data -= lr * gradient
    return params


def unpacked_wrongly(loss, params, batch, lr, steps):
    return inner(lambda loss, now, batch: grad(loss)(now, batch))(loss, params, batch, lr, steps)


def backward_only(loss, params, support, query, lr):
    for own, asked in zip(zip(*support, strict=True), zip(*query, strict=True), strict=True):
        loss(inner()(loss, params, own, lr, 1), *asked).backward()


def without_query_rows(labels, ways, shots, queries, generator):
    return glyphs.sample_episode(labels, ways, shots, queries, generator)[0]


def as_table(labels, ways, shots, queries, generator):
    support, query = glyphs.sample_episode(labels, ways, shots, queries, generator)
    return support.view(ways, shots), query.view(ways, queries)


def sorted_in_the_end(labels, *rest):
    support, query = glyphs.sample_episode(labels, *rest)
    return support.sort().values, query.sort().values


def relabelled(labels, ways, shots, queries, generator):
    support, query = glyphs.sample_episode(labels, ways, shots, queries, generator)
    labels[support] = torch.arange(ways).repeat_interleave(shots)
    return support, query


UNLISTED = [
    ("adapt", inner(keep=lambda new: new.detach().requires_grad_()), "no gradient flows from the answer to `params`"),
    ("adapt", as_list(inner()), "returns a list; expected a tuple of 3 tensors"),
    ("adapt", lambda loss, params, *rest: inner()(loss, params, *rest)[:2], "expected a tuple of 3 tensors"),
    ("adapt", in_place_without_no_grad, "a leaf Variable that requires grad is being used in an in-place operation"),
    ("adapt", unpacked_wrongly, "missing 1 required positional argument"),
    ("adapt", clipped, "The entry [0] that you return differs at"),
    ("adapt", last_step_only, "No gradient flows from your value to the inputs"),
    ("adapt", lambda loss, params, batch, lr: params, "Keep the name and the arguments"),
    ("adapt", inner(times=lambda steps: max(steps, 1)), "It is right on 4 of 5 inputs"),
    ("maml_loss", backward_only, "Does every path end in a `return`?"),
    ("maml_loss", lambda *arguments: mapped(*arguments).item(), "Stay in torch to the end"),
    ("maml_loss", lambda *arguments: -mapped(*arguments), "wrong sign"),
    ("maml_loss", lambda *arguments: mapped(*arguments) / 2, "0.5 times the right one"),
    ("maml_loss", lambda loss, params, s, q, lr: lesson.maml_loss(loss, params, s, q, lr=lr, steps=3),
     "The value differs"),
    ("reptile_direction", walked(centre=lambda ends: torch.stack(ends).amax(0)), "differs at"),
    ("reptile_direction", lambda *arguments: as_list(walked())(*arguments), "returns a list; expected a tuple"),
    ("reptile_direction", lambda loss, params, s, lr, steps: walked()(loss, params, s, lr, steps + 1), "differs at"),
    ("reptile_direction", lambda *arguments: None, "Does every path end in a `return`?"),
    ("prototype_answers", lambda s, y, q, c: by_one_hot(s, y, q, c).T, "the transpose of the right one"),
    ("prototype_answers", lambda s, y, q, c: by_one_hot(s, y, q, c).sum(), "should have shape (4, 3); yours has ()"),
    ("prototype_answers", lambda s, y, q, c: by_one_hot(s.double(), y, q.double(), c), "dtype should be torch.float32"),
    ("prototype_answers", lambda s, y, q, c: (by_one_hot(s, y, q, c), q.zero_())[0],
     "changes its input `queries` in place"),
    ("prototype_answers", NEARLY["classes of one size"][1], "It is right on"),
    ("prototype_answers", lambda s, y, q, c: by_one_hot(s, y, q, c).exp(), "differs at"),
    ("sample_episode", by_python, "draws from torch's global chance"),
    ("sample_episode", without_query_rows, "Return two: the support's rows and the query's"),
    ("sample_episode", as_table, "shape of the support should be (6,); yours is (3, 2)"),
    ("sample_episode", episode(cut=lambda r, k, q: (r[:k], r[torch.randint(len(r), (q,))])),
     "The episode that an equal generator gives again should be the same; yours is another"),
    ("sample_episode", sorted_in_the_end, "whose rows do not come class by class"),
    ("sample_episode", relabelled, "changes its input `labels` in place"),
    ("sample_episode", one_order_for_all, "The rows drawn at some time should be all; yours is not all"),
    ("sample_episode", lambda *arguments: tuple(one.int() for one in glyphs.sample_episode(*arguments)),
     "The dtype of the support should be torch.int64; yours is torch.int32"),
    ("sample_episode", lambda *arguments: glyphs.sample_episode(*arguments)[0].tolist(), "returns a list"),
    ("sample_episode", NEARLY["one example to learn from"][1], "with a row twice in the support should be none"),
    ("meta_sgd", sized(rate=lambda rate: rate.item()), "a Tensor with 6 elements cannot be converted to Scalar"),
    ("meta_sgd", sized(product=torch.matmul), "stopped with RuntimeError"),
    ("meta_sgd", lambda loss, params, rates, batch: sized()(loss, params, rates[::-1], batch), "differs at"),
    ("meta_sgd", sized(rate=lambda rate: 2 * rate), "differs at"),
    ("meta_train", trained(make=torch.optim.Adam), "differs at"),
    ("meta_train", trained(make=partial(torch.optim.SGD, momentum=0.9)), "It is right on 1 of 3 inputs"),
    ("meta_train", lambda *arguments: list(trained()(*arguments)), "returns a list; expected a tuple of 3 tensors"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "answer", "words"), UNLISTED, ids=range(len(UNLISTED)))
def test_wrong_answers_nobody_listed_hear_something_useful(name, answer, words):
    panel = repr(check(f"10.{name}", answer))
    assert panel.startswith(f"✘ 10.{name}")
    assert words in panel


def scored_on(which):
    return lambda loss, params, s, q, lr: mapped(loss, params, *which(s, q), lr)


LISTED = [
    ("adapt", inner(partial(of_the_graph, graph=False)), ["first_order"]),
    ("adapt", inner(lambda loss, now, batch: [g.detach() for g in grad(loss)(now, *batch)]), ["first_order"]),
    ("adapt", by_optimiser, ["detached"]),
    ("adapt", by_data, ["in_place"]),
    ("adapt", lambda loss, params, batch, lr, steps: inner()(loss, params, batch, -lr, steps), ["ascent"]),
    ("adapt", inner(times=lambda steps: steps + 1), ["one_more"]),
    ("adapt", inner(times=lambda steps: 1), ["one_step"]),
    ("adapt", inner(lambda loss, now, batch: [g / g.norm() for g in grad(loss)(now, *batch)]), ["unit"]),
    ("adapt", lambda loss, params, batch, lr, steps: tuple(
        a - steps * lr * g for a, g in zip(params, grad(loss)(params, *batch), strict=True)), ["start_gradient"]),
    ("adapt", inner(lambda loss, now, batch: grad(lambda p: sum(loss(p, x[None], y[None]) for x, y in
                                                               zip(*batch, strict=True)))(now)), ["summed"]),
    ("maml_loss", scored_on(lambda s, q: (s, s)), ["support_scored"]),
    ("maml_loss", scored_on(lambda s, q: (q, q)), ["query_learned"]),
    ("maml_loss", scored_on(lambda s, q: (q, s)), ["support_scored", "query_learned"]),
    ("maml_loss", lambda *arguments: mapped(*arguments) * len(arguments[2][0]), ["summed"]),
    ("maml_loss", task_by_task(inner(partial(of_the_graph, graph=False))), ["first_order"]),
    ("maml_loss", task_by_task(by_optimiser), ["cut"]),
    ("maml_loss", lambda loss, params, s, q, lr: lesson.maml_loss(loss, params, s, q, lr=lr, steps=2), ["two_steps"]),
    ("maml_loss", lambda loss, params, s, q, lr: lesson.maml_loss(loss, params, s, q, only=(len(params) - 1,), lr=lr),
     ["last_parameter"]),
    ("maml_loss", lambda loss, params, s, q, lr: vmap(loss, (None, 0, 0))(params, *q).mean(), ["not_adapted"]),
    ("maml_loss", lambda loss, params, s, q, lr: vmap(lambda *query: loss(inner()(
        lambda params, *s: vmap(loss, (None, 0, 0))(params, *s).mean(), params, s, lr, 1), *query))(*q).mean(),
     ["shared"]),
    ("maml_loss", lambda loss, params, s, q, lr: loss(inner()(loss, params, s, lr, 1), *q), ["shared"]),
    ("reptile_direction", lambda *arguments: tuple(-one for one in walked()(*arguments)), ["turned"]),
    ("reptile_direction", walked(centre=lambda ends: ends[-1]), ["last_task"]),
    ("reptile_direction", lambda loss, params, s, lr, steps: walked()(loss, params, s, lr, 1), ["first_gradient"]),
    ("reptile_direction", lambda *arguments: tuple(one / arguments[3] for one in walked()(*arguments)), ["by_rate"]),
    ("reptile_direction", walked(centre=lambda ends: torch.stack(ends)), ["per_task"]),
    ("prototype_answers", lambda s, y, q, c: -by_one_hot(s, y, q, c), ["turned"]),
    ("prototype_answers", lambda s, y, q, c: -torch.cdist(q, torch.stack([s[y == k].mean(0) for k in range(c)])),
     ["root"]),
    ("prototype_answers", lambda s, y, q, c: by_one_hot(s, y, q, c).log_softmax(1), ["log_softmaxed"]),
    ("prototype_answers", lambda s, y, q, c: by_one_hot(s.detach(), y, q, c), ["centres_cut"]),
    ("prototype_answers", lambda s, y, q, c: by_one_hot(s, y, q, c) / s.shape[1], ["averaged"]),
    ("prototype_answers", lambda s, y, q, c: by_one_hot(F.normalize(s), y, F.normalize(q), c), ["unit"]),
    ("sample_episode", episode(lambda y, g: y.unique()), ["first_classes"]),
    ("sample_episode", episode(rows=lambda y, one, g: (y == one).nonzero().flatten()), ["first_rows"]),
    ("sample_episode", episode(lambda y, g: torch.tensor(list(dict.fromkeys(_shuffled(y, g).tolist())))), ["by_size"]),
    ("sample_episode", lambda y, n, k, q, g: glyphs.sample_episode(y, n, k, q, g)[::-1], ["swapped"]),
    ("sample_episode", lambda y, n, k, q, g: glyphs.sample_episode(y, n, k, q, torch.Generator().manual_seed(3)),
     ["generator_reset"]),
    ("sample_episode", lambda y, n, k, q, g: glyphs.sample_episode(y, n, k, q, torch.default_generator),
     ["generator_ignored"]),
    ("meta_sgd", sized(rate=torch.Tensor.detach), ["rates_cut"]),
    ("meta_sgd", sized(rate=torch.mean), ["one_rate_each"]),
    ("meta_sgd", sized(rate=torch.exp), ["exponentiated"]),
    ("meta_sgd", sized(product=torch.add), ["rates_added"]),
    ("meta_sgd", sized(gradients=lambda loss, params, *batch: torch.autograd.grad(loss(params, *batch), params)),
     ["first_order"]),
    ("meta_train", trained(lambda loss, start, s, q, lr: lesson.maml_loss(loss, start, s, q, lr=lr, first_order=True)),
     ["first_order"]),
    ("meta_train", trained(sets=lambda part, step: part[0]), ["same_tasks"]),
    ("meta_train", trained(lambda loss, start, s, q, lr: lesson.maml_loss(loss, start, s, s, lr=lr)),
     ["support_scored"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "answer", "mistakes"), LISTED, ids=range(len(LISTED)))
def test_mistakes_written_differently_are_named(name, answer, mistakes):
    assert [mistake.name for mistake in examine(exercises.find(f"10.{name}"), answer).mistakes] == mistakes
