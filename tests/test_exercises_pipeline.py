"""Lesson 05's exercises: right answers written differently pass, nearly right ones fail, odd ones hear something."""

import copy
from contextlib import contextmanager

import nbformat
import pytest
import torch
import torch.nn.functional as F

from ctkd_lessons import pipeline
from ctkd_lessons.course import exercises
from ctkd_lessons.course.check import check
from ctkd_lessons.course.examine import examine
from ctkd_lessons.course.lessons import find as find_lesson
from ctkd_lessons.pipeline import KnowledgeExtractor, bridge_loss, mask_iou, task_losses

# --- the parts of answers ---------------------------------------------------------------------


class Extractor:
    """An answer to extract_knowledge; ``keep`` turns an output into what is kept."""

    def __init__(self, model, layers, keep=lambda output: output.detach().clone()):
        self.model, self.layers, self.keep, self.seen = model, layers, keep, {}

    def hook(self, name):
        return lambda layer, inputs, output: self.seen.__setitem__(name, self.keep(output))

    def __enter__(self):
        known = dict(self.model.named_modules())
        self.handles = [known[name].register_forward_hook(self.hook(name)) for name in self.layers]
        return self.seen

    def __exit__(self, *error):
        for handle in self.handles:
            handle.remove()


def keeping(keep):
    return lambda model, layers: Extractor(model, layers, keep)


class EntersItself(Extractor):
    def __enter__(self):
        super().__enter__()
        return self


class HooksAtOnce(Extractor):
    def __init__(self, model, layers):
        super().__init__(model, layers)
        super().__enter__()

    def __enter__(self):
        return self.seen


class Clears(Extractor):
    def __exit__(self, *error):
        super().__exit__()
        self.seen.clear()


class Swallows(Extractor):
    def __exit__(self, *error):
        super().__exit__()
        return True


class OnACopy(Extractor):
    def __init__(self, model, layers):
        super().__init__(copy.deepcopy(model), layers)


@contextmanager
def by_the_lesson(model, layers):
    knowledge = {}
    with KnowledgeExtractor(model, layers) as extractor:
        yield knowledge
        knowledge.update(extractor.knowledge)


class TrainsAfterwards(Extractor):
    def __exit__(self, *error):
        super().__exit__()
        self.model.train()


@contextmanager
def first_try(model, layers):
    """No copy, no detach, no finally."""
    seen, known = {}, dict(model.named_modules())
    handles = [
        known[name].register_forward_hook(lambda layer, inputs, output, name=name: seen.__setitem__(name, output))
        for name in layers
    ]
    yield seen
    for handle in handles:
        handle.remove()


@contextmanager
def one_loop(model, layers):
    """The name is looked up late, and only the last handle is kept."""
    seen, known = {}, dict(model.named_modules())
    for name in layers:

        def hook(layer, inputs, output):
            seen[name] = output.detach().clone()  # noqa: B023 -- the mistake

        handle = known[name].register_forward_hook(hook)
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def misspelt(model, layers):
    def hook(layer, inputs, output):
        output.dettach()

    handles = [dict(model.named_modules())[name].register_forward_hook(hook) for name in layers]
    try:
        yield {}
    finally:
        for handle in handles:
            handle.remove()


def undecorated(model, layers):
    yield {}


def fusion(scale, shares=lambda weights: [(weight / sum(weights)) ** 0.5 for weight in weights]):
    """An answer that joins ``scale(rows)``, times the shares."""
    return lambda knowledge, weights: torch.cat(
        [
            share * scale(features.detach().flatten(1))
            for share, features in zip(shares(weights), knowledge, strict=True)
        ],
        dim=1,
    )


def centred(rows):
    return rows - rows.mean(0)


def side_by_side(knowledge, weights):
    return torch.cat([one.flatten(1) for one in knowledge], 1)


def rms(rows):
    return centred(rows).square().sum(1).mean().sqrt()


def bridge(loss):
    return lambda features, knowledge, weight, bias: loss(F.linear(features, weight, bias), knowledge.detach())


def iou(a, b, *, plus=0, clamp=torch.relu, divide=lambda part, whole: part / whole.clamp(min=1e-6)):
    """IoU by coordinates."""
    size = lambda x0, x1: x1 - x0 + plus
    area = lambda box: size(box[..., 0], box[..., 2]) * size(box[..., 1], box[..., 3])
    width = clamp(size(torch.maximum(a[..., 0], b[..., 0]), torch.minimum(a[..., 2], b[..., 2])))
    height = clamp(size(torch.maximum(a[..., 1], b[..., 1]), torch.minimum(a[..., 3], b[..., 3])))
    shared = width * height
    return divide(shared, area(a) + area(b) - shared)


def iou_of_columns(a, b):
    """The four numbers are looked for on the second axis; and 0 / 0 is left as it is."""
    boxes = [torch.stack([box[:, 0], box[:, 1], box[:, 2], box[:, 3]], -1) for box in (a, b)]
    return iou(*boxes, divide=torch.divide)


def giou(a, b, *, divide=lambda part, whole: part / whole.clamp(min=1e-9), empty=lambda hull, union: hull - union):
    """Generalised IoU by what the areas add up to."""
    area = lambda box: (box[..., 2:] - box[..., :2]).prod(-1)
    hull = area(torch.cat([torch.minimum(a, b)[..., :2], torch.maximum(a, b)[..., 2:]], -1))
    score = iou(a, b, divide=divide)
    union = (area(a) + area(b)) / (1 + score)  # IoU · union = shared = areas − union
    return score - divide(empty(hull, union), hull)


def loss_of(student, labelled, transfer, weight, *, distance=bridge_loss):
    tasks = sum(task_losses(student(labelled[0]), *labelled[1:]).values())
    return tasks + weight * distance(student(transfer[0])["bridge"], transfer[1])


def go(loss, optimiser):
    optimiser.step()


def step(loss=loss_of, *, train=True, zero=True, optimise=go, end=torch.Tensor.item):
    def answer(student, optimiser, labelled, transfer, weight):
        student.train(train)
        if zero:
            optimiser.zero_grad()
        value = loss(student, labelled, transfer, weight)
        value.backward()
        optimise(value, optimiser)
        return end(value)

    return answer


def loss_fed_with_knowledge(student, labelled, transfer, weight):
    return loss_of(student, labelled, (transfer[1], transfer[1]), weight)


def one_forward_pass(student, labelled, transfer, weight):
    outputs, n = student(torch.cat([labelled[0], transfer[0]])), len(labelled[0])
    tasks = task_losses({name: output[:n] for name, output in outputs.items()}, *labelled[1:])
    return sum(tasks.values()) + weight * bridge_loss(outputs["bridge"][n:], transfer[1])


def two_backward_passes(student, optimiser, labelled, transfer, weight):
    student.train()
    optimiser.zero_grad()
    parts = loss_of(student, labelled, transfer, 0.0), weight * bridge_loss(student(transfer[0])["bridge"], transfer[1])
    for part in parts:
        part.backward()
    optimiser.step()
    return sum(parts).item()


def step_before_backward(student, optimiser, labelled, transfer, weight):
    value = loss_of(student.train(), labelled, transfer, weight)
    optimiser.step()
    optimiser.zero_grad()
    value.backward()
    return value.item()


def extract(teacher, layer, images):
    return KnowledgeExtractor(teacher, [layer]).extract(images)[layer]


def frozen(teacher, layer, images):
    return extract(teacher.requires_grad_(False), layer, images)


def hooked(teacher, layer, images):
    seen = {}
    teacher.eval()[int(layer)].register_forward_hook(lambda module, inputs, output: seen.update(kept=output.detach()))
    teacher(images)
    return seen["kept"]


def ink_of(masks):
    return masks.flatten(1).double()


def run(
    *,
    know=extract,
    fuse=pipeline.fuse_knowledge,
    optimiser=torch.optim.SGD,
    pixels=F.binary_cross_entropy_with_logits,
    hint=lambda student, scenes, fused, rows: bridge_loss(student(scenes[rows])["bridge"], fused[rows]),
    ink=lambda logits: logits > 0,
    score=lambda found, truth: mask_iou(found, truth).mean().item(),
):
    """An answer to run_pipeline."""

    def answer(teachers, layer, student, labelled, scenes, batches, test, weight, rate):
        (images, labels, masks), (test_images, test_masks) = labelled, test
        fused = fuse([know(teacher, layer, scenes) for teacher in teachers])
        descent = optimiser(student.parameters(), lr=rate)
        for rows in batches:
            outputs = student(images)
            loss = F.cross_entropy(outputs["class"], labels) + pixels(outputs["mask"], ink_of(masks))
            descent.zero_grad()
            (loss + weight * hint(student, scenes, fused, rows)).backward()
            descent.step()
        with torch.no_grad():
            found = ink(student.eval()(test_images)["mask"]).view_as(test_masks)
        return score(found, test_masks)

    return answer


# --- right answers ----------------------------------------------------------------------------

RIGHT = [
    ("extract_knowledge", Extractor),
    ("extract_knowledge", by_the_lesson),
    ("extract_knowledge", keeping(lambda output: output.clone().detach())),
    ("fuse_knowledge", pipeline.fuse_knowledge),
    ("fuse_knowledge", fusion(lambda rows: centred(rows) / centred(rows).norm() * len(rows) ** 0.5)),
    ("fuse_knowledge", fusion(lambda rows: centred(rows) / rows.var(0, unbiased=False).sum().sqrt())),
    ("fuse_knowledge", fusion(lambda rows: centred(rows) / (rms(rows) + 1e-8))),
    ("bridged_loss", bridge(lambda b, z: F.mse_loss(b, z) * z.shape[1])),
    ("bridged_loss", bridge(lambda b, z: F.mse_loss(b, z, reduction="sum") / len(z))),
    ("bridged_loss", lambda h, z, w, c: (h @ w.T + c - z.detach()).norm(dim=1).square().mean()),
    ("box_iou", iou),
    ("box_iou", lambda a, b: iou(a, b, divide=lambda part, whole: part / (whole + 1e-7))),
    ("box_iou", lambda a, b: iou(a, b, divide=lambda part, whole: (part / whole).nan_to_num(0))),
    ("student_step", pipeline.student_step),
    ("student_step", step(one_forward_pass)),
    ("student_step", two_backward_passes),
    ("generalised_iou", giou),
    ("run_pipeline", run()),
    ("run_pipeline", run(pixels=lambda logits, ink: F.binary_cross_entropy(logits.sigmoid(), ink))),
    ("run_pipeline", run(ink=lambda logits: logits.sigmoid() > 0.5)),
]


@pytest.mark.parametrize(("name", "answer"), RIGHT, ids=[f"{name}-{k}" for k, (name, _) in enumerate(RIGHT)])
def test_right_answers_written_differently_pass(name, answer):
    for seed in range(5):
        finding = examine(exercises.find(f"05.{name}"), answer, seed)
        assert finding.passed, (seed, finding.headline, finding.details)


# --- nearly right answers ---------------------------------------------------------------------


def only_if_apart(a, b):
    return torch.where(iou(a, b) > 0, iou(a, b), giou(a, b))


NEARLY = {
    "layers of the first level": ("extract_knowledge", lambda model, layers: Extractor(model, [
        name if hasattr(model, name) else name.partition(".")[0] for name in layers])),
    "layers without an in-place neighbour": ("extract_knowledge", keeping(lambda output: output.detach())),
    "a dtype": ("extract_knowledge", keeping(lambda output: output.detach().clone().float())),
    "no error": ("extract_knowledge", first_try),
    "one teacher": ("fuse_knowledge", lambda ks, w: pipeline.fuse_knowledge([side_by_side(ks, w)])),
    "equal weights": ("fuse_knowledge", lambda knowledge, weights: pipeline.fuse_knowledge(knowledge)),
    "rows": ("fuse_knowledge", lambda ks, w: pipeline.fuse_knowledge([k.mean(tuple(range(2, k.ndim))) if k.ndim > 2
                                                                      else k for k in ks], w)),
    "one example": ("bridged_loss", bridge(lambda b, z: (b - z).square().sum())),
    "boxes that overlap": ("box_iou", lambda a, b: iou(a, b, clamp=lambda side: side)),
    "boxes that have an area": ("box_iou", lambda a, b: iou(a, b, divide=torch.divide)),
    "lists of boxes": ("box_iou", iou_of_columns),
    "boxes that are apart": ("generalised_iou", only_if_apart),
    "values": ("generalised_iou", lambda a, b: giou(a, b, divide=lambda p, w: torch.where(w > 0, p / w, 0))),
    "a first step": ("student_step", step(zero=False)),
    "a weight of one": ("student_step", lambda *given: step()(*given[:-1], 1.0)),
    "a step without momentum": ("student_step", step(optimise=lambda loss, optimiser: torch.optim.SGD(
        optimiser.param_groups[0]["params"], lr=optimiser.param_groups[0]["lr"]).step())),
    "one batch": ("run_pipeline", lambda *given: run()(*given[:5], given[5][:1], *given[6:])),
    "a score": ("run_pipeline", run(score=lambda *masks: mask_iou(*(one.flatten(0, 1) for one in masks)).item())),
}  # fmt: skip


@pytest.mark.parametrize(("name", "answer"), NEARLY.values(), ids=NEARLY)
@pytest.mark.parametrize("seed", range(5))
def test_answers_that_are_right_only_for(name, answer, seed):
    assert not examine(exercises.find(f"05.{name}"), answer, seed).passed


# --- the bug hunt -----------------------------------------------------------------------------

BUGS = ["teachers_training", "not_fused", "misaligned", "sigmoid_twice", "logits_cut_at_half"]
MENDED = {
    "teachers_training": ("KnowledgeExtractor(teacher,", "KnowledgeExtractor(teacher.eval(),"),
    "not_fused": ("torch.cat(knowledge, dim=1)", "pipeline.fuse_knowledge(knowledge)"),
    "misaligned": ("fused[: len(rows)]", "fused[rows]"),
    "sigmoid_twice": (".sigmoid()", ""),
    "logits_cut_at_half": ("> 0.5", "> 0"),
}


@pytest.mark.parametrize("left", range(len(BUGS) + 1))
def test_the_bug_hunt_names_what_is_left(left):
    """Mended from the top down, until nothing is left."""
    book = nbformat.read(find_lesson("05").solution, as_version=4)
    source = {cell.id: cell.source for cell in book.cells if cell.cell_type == "code"}
    code = source["broken_run_pipeline"]
    for bug in BUGS[: len(BUGS) - left]:
        assert code.count(MENDED[bug][0]) == 1
        code = code.replace(*MENDED[bug])
    scope: dict = {}
    exec(source["imports"] + "\n" + code, scope)
    finding = examine(exercises.find("05.run_pipeline"), scope["broken_run_pipeline"])
    assert [mistake.name for mistake in finding.mistakes] == BUGS[len(BUGS) - left :]
    assert finding.passed == (not left)


# --- what other wrong answers hear ------------------------------------------------------------

UNLISTED = [
    ("extract_knowledge", keeping(lambda output: [output]), "for layer 'stem' should be torch.Tensor torch.float64"),
    ("extract_knowledge", keeping(lambda output: output.detach().numpy()), "yours is numpy.ndarray"),
    ("extract_knowledge", keeping(lambda output: output.detach().mean(0)), "should have shape (6, 4); yours has (4,)"),
    ("extract_knowledge", KnowledgeExtractor, "what `with` gives should be dict; yours is KnowledgeExtractor"),
    ("extract_knowledge", EntersItself, "yours is EntersItself"),
    ("extract_knowledge", HooksAtOnce, "hooks on the model before the block should be 1; yours is 4"),
    ("extract_knowledge", Clears, "layers kept should be ['act', 'block.0', 'stem']; yours is []"),
    ("extract_knowledge", TrainsAfterwards, "mode the model is left in should be evaluation; yours is training"),
    ("extract_knowledge", OnACopy, "yours is []"),
    ("extract_knowledge", undecorated, "A function under `@contextmanager` yields once"),
    ("extract_knowledge", misspelt, "(line 4 of your function: `output.dettach()`)"),
    ("extract_knowledge", lambda model: None, "Keep the name and the arguments"),
    ("fuse_knowledge", lambda knowledge, weights: knowledge, "returns a list; expected a torch.Tensor"),
    ("fuse_knowledge", lambda ks, w: pipeline.fuse_knowledge(ks, w).T, "shape of the value should be (5, 8); yours"),
    ("fuse_knowledge", fusion(lambda rows: (rows - rows.min()) / rms(rows)), "The mean of the columns differs"),
    ("fuse_knowledge", fusion(lambda rows: centred(rows) / rows.abs().max()), "The share of each teacher, mean ‖z_i‖²"),
    ("fuse_knowledge", fusion(lambda rows: (centred(rows) / rms(rows)).float()), "dtype should be torch.float64"),
    ("fuse_knowledge", fusion(lambda rows: rows.sub_(rows.mean(0)) / rms(rows)), "changes its input `knowledge[0]`"),
    ("bridged_loss", bridge(lambda b, z: (b - z).square()), "A loss is one number for the whole batch"),
    ("bridged_loss", bridge(lambda b, z: 3 * bridge_loss(b, z)), "3 times the right one"),
    ("bridged_loss", bridge(lambda b, z: bridge_loss(b, z) * len(z) / z.shape[1] ** 2), "differs: expected"),
    ("bridged_loss", bridge(lambda b, z: bridge_loss(b, z).item()), "Stay in torch"),
    ("bridged_loss", lambda h, z, w, c: F.mse_loss(torch.nn.Linear(*h.shape[1:], len(c), dtype=h.dtype)(h), z),
     "gives another value on a second call"),
    ("box_iou", lambda a, b: iou(a, b).mean(), "should have shape (5,); yours has ()"),
    ("box_iou", lambda a, b: iou(a[:, None], b[None]), "should have shape (5,); yours has (5, 5)"),
    ("box_iou", lambda a, b: iou(a, b, divide=lambda part, whole: part / (whole + 1e-2)), "Nearly right"),
    ("box_iou", lambda a, b: iou(a, b, clamp=lambda side: side.clamp(0, 1)), "right on 1 of 6 inputs, such as: a = ["),
    ("student_step", step(end=lambda loss: loss), "returns a torch.Tensor; expected a float"),
    ("student_step", step(end=lambda loss: None), "Does every path end in a `return`?"),
    ("student_step", step_before_backward, "does `step` come before it?"),
    ("student_step", step(lambda *given: torch.tensor(1.0)), "depends on no parameter"),
    ("student_step", step(lambda *given: 2 * loss_of(*given)), "The loss that the first step returns differs:"),
    ("student_step", NEARLY["a step without momentum"][1], "The student after training differs"),
    ("generalised_iou", lambda a, b: giou(a, b).detach(), "No gradient flows"),
    ("generalised_iou", lambda a, b: 2 * giou(a, b), "2 times the right one"),
    ("run_pipeline", run(know=frozen), "The teachers' `requires_grad` should be as it was"),
    ("run_pipeline", run(know=hooked), "hooks left in the teachers should be 0; yours is 2"),
    ("run_pipeline", run(score=lambda found, truth: mask_iou(found, truth).mean()), "expected a float"),
    ("run_pipeline", run(ink=lambda logits: logits > 1), "The value differs: expected"),
    ("run_pipeline", NEARLY["one batch"][1], "right on 1 of 3 inputs, such as: widths = [4, 2]"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "answer", "words"), UNLISTED, ids=range(len(UNLISTED)))
def test_wrong_answers_nobody_listed_hear_something_useful(name, answer, words):
    panel = repr(check(f"05.{name}", answer))
    assert panel.startswith(f"✘ 05.{name}")
    assert words in panel


LISTED = [
    ("extract_knowledge", first_try, ["left_after_error", "no_clone", "not_detached"]),
    ("extract_knowledge", one_loop, ["last_removed", "late_name"]),
    ("extract_knowledge", Swallows, ["swallows"]),
    ("fuse_knowledge", side_by_side, ["raw"]),
    ("fuse_knowledge", fusion(F.normalize), ["not_centred", "per_example"]),
    ("fuse_knowledge", fusion(lambda rows: (rows - rows.mean()) / rows.std()), ["one_mean", "deviation"]),
    ("fuse_knowledge", fusion(lambda rows: centred(rows) / (rows.std(0) + 1e-6)), ["per_feature_guarded"]),
    ("bridged_loss", bridge(F.mse_loss), ["element_mean"]),
    ("bridged_loss", lambda h, z, w, c: F.mse_loss(h @ w.T, z), ["element_mean", "no_bias"]),
    ("bridged_loss", bridge(F.huber_loss), ["smooth"]),
    ("box_iou", lambda a, b: iou(a, b, plus=1), ["inclusive"]),
    ("box_iou", iou_of_columns, ["no_guard", "columns"]),
    ("box_iou", lambda a, b: 1 - iou(a, b), ["loss"]),
    ("student_step", step(zero=False, train=False), ["in_evaluation", "accumulates"]),
    ("student_step", step(loss_fed_with_knowledge), ["knowledge_as_input"]),
    ("student_step", step(lambda *given: loss_of(*given, distance=F.mse_loss)), ["element_mean"]),
    ("student_step", step(lambda *given: loss_of(*given, distance=lambda b, z: bridge_loss(z, b))), ["bridge_cut"]),
    ("student_step", step(optimise=lambda *given: None), ["zeroed_late"]),
    ("generalised_iou", NEARLY["values"][1], ["late_guard"]),
    ("generalised_iou", only_if_apart, ["only_apart"]),
    ("generalised_iou", lambda a, b: giou(a, b, empty=lambda hull, union: union), ["covered"]),
    ("run_pipeline", run(hint=lambda student, scenes, fused, rows: bridge_loss(
        student(scenes[: len(rows)])["bridge"], fused[: len(rows)])), ["first_rows"]),
    ("run_pipeline", run(fuse=lambda knowledge: torch.cat([centred(k) / k.std(0) for k in knowledge], 1)),
     ["standardised"]),
    ("run_pipeline", run(pixels=F.mse_loss), ["masks_squared_logits"]),
    ("run_pipeline", run(optimiser=torch.optim.Adam), ["adam"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "answer", "mistakes"), LISTED, ids=range(len(LISTED)))
def test_mistakes_written_differently_are_named(name, answer, mistakes):
    assert [mistake.name for mistake in examine(exercises.find(f"05.{name}"), answer).mistakes] == mistakes
