"""Lesson 05's exercises that train: one step of the student, and the bug hunt through the whole pipeline."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctkd_lessons.course.exercises.description import (
    Answer,
    Case,
    Exercise,
    Mistake,
    Observation,
    observe_value,
    tensors,
)
from ctkd_lessons.course.exercises.shared import ADAM, ZEROED_LATE, chosen, hooks_on, parameters_of, wrong_step
from ctkd_lessons.pipeline import (
    BRIDGE,
    KnowledgeExtractor,
    MultiTaskNetwork,
    bridge_loss,
    fuse_knowledge,
    mask_iou,
    task_losses,
)

_SIDE, _CLASSES, _WIDTH = 3, 3, 9  # of the canvas; of the labels; of the knowledge: as wide as an image


class _Louder(nn.Module):
    """Answers otherwise in training mode, but without chance, and for each example by itself."""

    def forward(self, x: Tensor) -> Tensor:
        return 1.5 * x if self.training else x


def _student(bridge: int) -> MultiTaskNetwork:
    pixels, width = _SIDE**2, 6
    trunk = nn.Sequential(nn.Linear(pixels, width), _Louder(), nn.Tanh())
    outputs = {"class": _CLASSES, "box": 4, "mask": pixels, BRIDGE: bridge}
    return MultiTaskNetwork(trunk, {name: nn.Linear(width, size) for name, size in outputs.items()}).double()


def _images(rng: np.random.Generator, examples: int) -> np.ndarray:
    return rng.uniform(0, 1, (examples, _SIDE**2))


# --- student_step -----------------------------------------------------------------------------


def _step_inputs(rng: np.random.Generator) -> list[Case]:
    def case(labelled: int, transfer: int, **numbers: float) -> Case:
        corners, sizes = rng.uniform(0, 1.5, (labelled, 2)), rng.uniform(0.5, 1.5, (labelled, 2))
        return {
            "images": _images(rng, labelled),
            "labels": rng.integers(0, _CLASSES, labelled),
            "boxes": np.concatenate([corners, corners + sizes], axis=1),
            "masks": rng.random((labelled, _SIDE, _SIDE)) < 0.5,
            "transfer_images": _images(rng, transfer),
            "knowledge": rng.normal(0, 0.3, (transfer, _WIDTH)),
            **numbers,
        }

    # As many labelled scenes as others first: there even the wrong images fit.
    return [
        case(5, 5, weight=0.7, learning_rate=0.5, momentum=0.0),
        case(4, 4, weight=3.0, learning_rate=0.1, momentum=0.9),
        case(3, 8, weight=0.3, learning_rate=0.3, momentum=0.0),
    ]


def _observe_step(answer: Answer, case: Case) -> Observation:
    """Build a student that was just tested, let the answer take two steps, and look at it."""
    given = tensors(case)
    rate, momentum, weight = (given.pop(name) for name in ("learning_rate", "momentum", "weight"))
    *labelled, images, knowledge = given.values()
    student = _student(_WIDTH).eval()
    optimiser = torch.optim.SGD(student.parameters(), lr=rate, momentum=momentum)
    values = [observe_value(answer(student, optimiser, tuple(labelled), (images, knowledge), weight)) for _ in range(2)]
    seen: Observation = {"type": values[0]["type"]}
    if all("value" in value and np.size(value["value"]) == 1 for value in values):
        losses = np.array([float(value["value"]) for value in values])
        seen |= {
            "loss that the first step returns": losses[:1].reshape(()),
            "student after training": parameters_of(student),
        }
        seen["value"] = losses
    return seen | {f"`{name}` afterwards": value.numpy() for name, value in given.items()}


_TASK_SUMS: dict[str, Callable[[dict[str, Tensor]], Tensor]] = {
    "class_only": lambda losses: losses["class"],
    "no_box": lambda losses: losses["class"] + losses["mask"],
    "no_mask": lambda losses: losses["class"] + losses["box"],
    "tasks_averaged": lambda losses: sum(losses.values()) / len(losses),
    "no_tasks": lambda losses: 0.0 * sum(losses.values()),
}
_MIXTURES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "no_bridge": lambda tasks, hint, weight: tasks,
    "weight_ignored": lambda tasks, hint, weight: tasks + hint,
    "weight_on_tasks": lambda tasks, hint, weight: weight * tasks + hint,
    "mixed": lambda tasks, hint, weight: (1 - weight) * tasks + weight * hint,
    "weight_on_all": lambda tasks, hint, weight: weight * (tasks + hint),
}


def _wrong_loss(
    student: nn.Module,
    labelled: tuple[Tensor, ...],
    transfer: tuple[Tensor, Tensor],
    weight: float,
    *,
    knowledge_as_input: bool = False,
    hints_on_labelled: bool = False,
    bridge_cut: bool = False,
    element_mean: bool = False,
    **switches: bool,
) -> Tensor:
    images, *truth = labelled
    scenes, knowledge = transfer
    tasks = chosen(_TASK_SUMS, switches, lambda losses: sum(losses.values()))(task_losses(student(images), *truth))
    bridged = student(knowledge if knowledge_as_input else images if hints_on_labelled else scenes)[BRIDGE]
    hint = bridge_loss(bridged.detach() if bridge_cut else bridged, knowledge)
    hint = hint / (knowledge.shape[1] if element_mean else 1)
    return chosen(_MIXTURES, switches, lambda tasks, hint, weight: tasks + weight * hint)(tasks, hint, weight)


def _student_step(
    student: nn.Module,
    optimiser: torch.optim.Optimizer,
    labelled: tuple[Tensor, ...],
    transfer: tuple[Tensor, Tensor],
    weight: float,
    *,
    in_evaluation: bool = False,
    accumulates: bool = False,
    zeroed_late: bool = False,
    two_steps: bool = False,
    loss_after: bool = False,
    tasks_returned: bool = False,
    **switches: bool,
) -> float:
    """Train the student by one step; return the loss before it."""

    def total(**more: bool) -> Tensor:
        return _wrong_loss(student, labelled, transfer, weight, **switches | more)

    student.train(not in_evaluation)
    loss = total()
    if two_steps:
        for part in ("no_bridge", "no_tasks"):
            wrong_step(optimiser, total(**{part: True}), accumulates=False, zeroed_late=False)
    else:
        wrong_step(optimiser, loss, accumulates=accumulates, zeroed_late=zeroed_late)
    return (total() if loss_after else total(no_bridge=True) if tasks_returned else loss).item()


STUDENT_STEP = Exercise(
    id="05.student_step",
    title="The student's step",
    points=3,
    reference=_student_step,
    inputs=_step_inputs,
    drive=_observe_step,
    wrong=_student_step,
    mistakes=(
        Mistake(
            "knowledge_as_input",
            "a step that feeds the teachers' knowledge to the student as its *input*",
            "When the student is used there are no teachers to ask. It sees the scene; the knowledge is what its "
            "bridge should answer.",
        ),
        Mistake(
            "hints_on_labelled",
            "a step that compares the knowledge of transfer scenes with the student's answers for labelled ones",
            "Row i of the knowledge is about transfer scene i. Which images must the student see for its hint?",
        ),
        Mistake(
            "no_bridge",
            "a step without the bridge's loss",
            "Only the labels train the student. What tells it what the teachers know?",
        ),
        Mistake(
            "bridge_cut",
            "a step whose bridge loss sends no gradient to the student",
            "Its value is in the sum, but it has no graph. Which `no_grad` or `detach` is too much?",
        ),
        Mistake("weight_ignored", "a step without the weight", "`weight` says how much the bridge counts."),
        Mistake(
            "weight_on_tasks",
            "a step that puts the weight on the tasks",
            "`weight` says how much the *bridge* counts; each task counts 1.",
        ),
        Mistake(
            "mixed",
            "a step that weighs the tasks with 1 − weight",
            "That is lesson 01's α. Here the tasks keep their weight of 1, and `weight` may be above 1.",
        ),
        Mistake(
            "weight_on_all",
            "a step that puts the weight on the whole sum",
            "Mind the brackets: `weight` belongs to the bridge alone.",
        ),
        Mistake(
            "element_mean",
            "a step whose bridge loss is averaged over the features",
            "`F.mse_loss` does that. `bridge_loss` stands ready.",
        ),
        Mistake("class_only", "a step that learns only the class", "`task_losses` gives one loss for each task."),
        Mistake("no_box", "a step that leaves out the boxes", "`task_losses` gives three losses: add up all of them."),
        Mistake(
            "no_mask", "a step that leaves out the masks", "Segmentation is the third task. Add up all three losses."
        ),
        Mistake("no_tasks", "a step that learns nothing but the hint", "The student's own tasks count, too."),
        Mistake("tasks_averaged", "a step that averages the tasks", "The tasks' losses are added up."),
        Mistake(
            "in_evaluation",
            "a step in evaluation mode",
            "The student may come from a test. Which call puts it back to learning, dropout included?",
        ),
        Mistake(
            "accumulates",
            "a step whose gradients pile up on those of the step before",
            "`backward` adds to `.grad`. What must happen before it?",
        ),
        Mistake(
            "zeroed_late",
            "a step after which the student is as it was",
            "`zero_grad`, `backward`, `step`: are all three there, in this order?",
        ),
        Mistake(
            "two_steps",
            "two steps: one for the tasks, one for the bridge",
            "Add the losses up first; then one `backward` and one `step`.",
        ),
        Mistake(
            "loss_after",
            "right in training, but it returns the loss after the step",
            "Return the loss that the step went down from. No second run is needed.",
        ),
        Mistake(
            "tasks_returned",
            "right in training, but it does not return the loss it went down",
            "Return the whole sum, the bridge's part included, as it was before the step.",
        ),
    ),
    alone=frozenset(
        {
            "no_box",
            "no_mask",
            "no_tasks",
            "tasks_averaged",
            "weight_on_all",
            "zeroed_late",
            "two_steps",
            "loss_after",
            "tasks_returned",
        }
    ),
)


# --- run_pipeline: the bug hunt ---------------------------------------------------------------


def _pipeline_inputs(rng: np.random.Generator) -> list[Case]:
    def case(widths: list[int], steps: int, **numbers: float) -> Case:
        labelled, transfer, tested = 5, 8, 60  # with few, a wrong mean comes out right now and then
        return {
            "widths": np.array(widths),
            "images": _images(rng, labelled),
            "labels": rng.integers(0, _CLASSES, labelled),
            "masks": rng.random((labelled, _SIDE, _SIDE)) < 0.5,
            "transfer_images": _images(rng, transfer),
            "batches": np.stack([rng.permutation(transfer)[:4] for _ in range(steps)]),
            "test_images": _images(rng, tested),
            "test_masks": rng.random((tested, _SIDE, _SIDE)) < 0.5,
            **numbers,
        }

    # The first case is the quickest: every subset of the bugs is tried on it.
    return [
        case([4, 2], 1, weight=0.8, learning_rate=0.5),
        case([3, 5, 2], 3, weight=2.0, learning_rate=0.2),
        case([5], 2, weight=0.5, learning_rate=0.3),
    ]


def _teacher(width: int, loudness: float) -> nn.Module:
    """Build a teacher with batch normalisation that was trained on scenes of another kind."""
    # Its running averages are those of the last batch: a forward pass more makes no difference.
    layers = nn.Linear(_SIDE**2, width), nn.BatchNorm1d(width, momentum=1.0), nn.ReLU(), nn.Linear(width, 2)
    model = nn.Sequential(*layers).double()
    model(torch.randn(20, _SIDE**2, dtype=torch.float64))
    with torch.no_grad():
        model[1].weight.mul_(loudness)
        model[1].bias.add_(2 * loudness)  # no feature is silent
    return model


def _observe_pipeline(answer: Answer, case: Case) -> Observation:
    """Build student and teachers, let the answer run the pipeline, and look at all of them."""
    given = tensors(case)
    widths = given.pop("widths").tolist()
    teachers = [_teacher(width, 3.0**k) for k, width in enumerate(widths)]
    student = _student(sum(widths))
    with torch.no_grad():  # logits on both sides of any threshold
        student.heads["mask"].weight.mul_(4)
    before = [value.clone() for teacher in teachers for value in teacher.state_dict().values()]
    images, labels, masks, transfer_images, batches, test_images, test_masks, *numbers = given.values()
    tuples = (images, labels, masks), transfer_images, batches, (test_images, test_masks)
    value = observe_value(answer(teachers, "2", student, *tuples, *numbers))
    after = [value for teacher in teachers for value in teacher.state_dict().values()]
    parameters = [p for teacher in teachers for p in teacher.parameters()]
    return {
        "type": value["type"],
        # Compared as single precision: a tiny number in a denominator is no mistake.
        "student after training": parameters_of(student).astype("float32"),
        **({"value": value["value"]} if "value" in value else {}),
        "change of the teachers": "none" if all(map(torch.equal, before, after)) else "some",
        "gradient left in the teachers": "some" if any(p.grad is not None for p in parameters) else "none",
        "teachers' `requires_grad`": "as it was" if all(p.requires_grad for p in parameters) else "False",
        "number of hooks left in the teachers": str(sum(map(hooks_on, teachers))),
    }


_FUSIONS: dict[str, Callable[[list[Tensor]], Tensor]] = {
    "not_fused": lambda knowledge: torch.cat(knowledge, dim=1),
    "fused_centred": lambda knowledge: torch.cat([one - one.mean(0) for one in knowledge], dim=1),
    "standardised": lambda knowledge: torch.cat(
        [(one - one.mean(0)) / (one.std(0) + 1e-10) for one in knowledge], dim=1
    ),
    "fused_together": lambda knowledge: fuse_knowledge([torch.cat(knowledge, dim=1)]),
}
_MASK_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sigmoid_twice": lambda logits, truth: F.binary_cross_entropy_with_logits(logits.sigmoid(), truth),
    "masks_squared": lambda logits, truth: F.mse_loss(logits.sigmoid(), truth),
    "masks_squared_logits": lambda logits, truth: F.mse_loss(logits, truth),
    "masks_summed": lambda logits, truth: F.binary_cross_entropy_with_logits(logits, truth) * truth.shape[1],
    "no_masks": lambda logits, truth: 0 * logits.sum(),
}
_INKS: dict[str, Callable[[Tensor], Tensor]] = {
    "logits_cut_at_half": lambda logits: logits > 0.5,
    "all_ink": lambda logits: logits.sigmoid() > 0,
    "negated": lambda logits: logits < 0,
}


def _knowledge_of(teachers: Sequence[nn.Module], layer: str, images: Tensor, *, training: bool) -> list[Tensor]:
    extractors = [KnowledgeExtractor(teacher.train(training), [layer]) for teacher in teachers]
    for extractor in extractors:
        with extractor, torch.no_grad():
            extractor.model(images)
    return [extractor.knowledge[layer] for extractor in extractors]


def _run_pipeline(
    teachers: Sequence[nn.Module],
    layer: str,
    student: nn.Module,
    labelled: tuple[Tensor, Tensor, Tensor],
    transfer_images: Tensor,
    batches: Tensor,
    test: tuple[Tensor, Tensor],
    weight: float,
    learning_rate: float,
    *,
    teachers_training: bool = False,
    misaligned: bool = False,
    tested_in_training: bool = False,
    learns_in_evaluation: bool = False,
    scenes_misaligned: bool = False,
    first_rows: bool = False,
    bridge_left_out: bool = False,
    fused_per_batch: bool = False,
    whole_transfer_set: bool = False,
    element_mean: bool = False,
    no_hint: bool = False,
    weight_ignored: bool = False,
    accumulates: bool = False,
    zeroed_late: bool = False,
    adam: bool = False,
    pooled_score: bool = False,
    **switches: bool,
) -> float:
    """Teach the student in place what teachers and labels say; return its mean mask IoU on the test scenes."""
    (images, labels, masks), (test_images, test_masks) = labelled, test
    knowledge = _knowledge_of(teachers, layer, transfer_images, training=teachers_training)
    fuse = chosen(_FUSIONS, switches, fuse_knowledge)
    fused = fuse(knowledge)
    mask_loss = chosen(_MASK_LOSSES, switches, F.binary_cross_entropy_with_logits)
    trained = [p for name, p in student.named_parameters() if not (bridge_left_out and BRIDGE in name)]
    optimiser = (torch.optim.Adam if adam else torch.optim.SGD)(trained, lr=learning_rate)
    student.train(not learns_in_evaluation)
    for rows in batches:
        rows = torch.arange(len(fused)) if whole_transfer_set else rows
        told = fuse([one[rows] for one in knowledge]) if fused_per_batch else fused[rows]
        told = fused[: len(rows)] if misaligned or first_rows else told
        outputs = student(images)
        scenes = transfer_images[: len(rows)] if scenes_misaligned or first_rows else transfer_images[rows]
        hint = bridge_loss(student(scenes)[BRIDGE], told) / (told.shape[1] if element_mean else 1)
        hint = hint * (0 if no_hint else 1 if weight_ignored else weight)
        loss = F.cross_entropy(outputs["class"], labels)
        loss = loss + mask_loss(outputs["mask"], masks.flatten(1).double()) + hint
        wrong_step(optimiser, loss, accumulates=accumulates, zeroed_late=zeroed_late)
    with torch.no_grad():
        logits = student.train(tested_in_training)(test_images)["mask"]
    ink = chosen(_INKS, switches, lambda logits: logits > 0)(logits).view_as(test_masks)
    ink, truth = (one.flatten(0, 1) if pooled_score else one for one in (ink, test_masks))
    return mask_iou(ink, truth).mean().item()


# The five bugs of the broken pipeline come in any mixture; then what one may add when mending it.
_BUGS = 5
_PIPELINE_MISTAKES = (
    Mistake(
        "teachers_training",
        "a pipeline whose teachers are still in training mode",
        "Batch normalisation then looks at the batch, and every run changes the teacher. A network is in training mode "
        "until told otherwise.",
    ),
    Mistake(
        "not_fused",
        "a pipeline that puts raw knowledge side by side",
        "The teacher with the largest numbers then fills the bridge's loss, and part of it is the same for every "
        "scene. Exercise 2 centres and scales.",
    ),
    Mistake(
        "misaligned",
        "a pipeline that compares scenes with the knowledge about other scenes",
        "Row i of the knowledge is about transfer scene i. Which scenes does the student see in this step, and which "
        "rows of the knowledge does it get?",
    ),
    Mistake(
        "sigmoid_twice",
        "a pipeline that applies the sigmoid to the masks twice",
        "What do the words `with_logits` promise about the input? Twice squashed, no pixel ever leaves 0.5 to 0.73.",
    ),
    Mistake(
        "logits_cut_at_half",
        "a pipeline whose test takes logits for probabilities",
        "A pixel is ink where its *probability* is above ½. Which logit is that?",
    ),
    Mistake(
        "fused_centred",
        "a pipeline whose knowledge is centred but not scaled",
        "The teacher with the largest numbers still fills the bridge's loss. `fuse_knowledge` does both.",
    ),
    Mistake(
        "standardised",
        "a pipeline that scales the knowledge feature by feature",
        "Then a wide layer counts more than a narrow one. `fuse_knowledge` has one size for each teacher.",
    ),
    Mistake(
        "fused_together",
        "a pipeline that fuses all teachers as if they were one",
        "Each teacher is scaled by its own size: `fuse_knowledge` takes a list with one tensor for each.",
    ),
    Mistake(
        "fused_per_batch",
        "a pipeline that fuses anew for every batch",
        "Mean and size then change from batch to batch, and with them what the bridge should answer. Fuse once, for "
        "all transfer scenes.",
    ),
    Mistake(
        "scenes_misaligned",
        "a pipeline that compares the knowledge of this step's scenes with the student's answers for others",
        "`rows` belongs on both sides: which scenes does the student see?",
    ),
    Mistake(
        "first_rows",
        "a pipeline that takes the first scenes in every step",
        "Knowledge and scenes fit, but `batches` says which scenes a step sees: `rows`, on both sides.",
    ),
    Mistake(
        "bridge_left_out",
        "a pipeline whose bridge stays as it was",
        "The bridge learns with the student. Who is told which parameters to change?",
    ),
    Mistake(
        "whole_transfer_set",
        "a pipeline that shows all transfer scenes in every step",
        "Knowledge and scenes fit, but each step should see only the scenes of its batch: `rows`, on both sides.",
    ),
    Mistake(
        "masks_squared",
        "a pipeline that trains the masks with a squared error",
        "The masks' loss is the cross-entropy of each pixel.",
    ),
    Mistake(
        "masks_squared_logits",
        "a pipeline that pulls the masks' logits to 0 and 1",
        "Logits want to be far from 0 on both sides. The masks' loss is the cross-entropy of each pixel.",
    ),
    Mistake(
        "masks_summed",
        "a pipeline whose masks' loss is summed over the pixels",
        "It is the mean over pixels *and* scenes, or the masks drown the other tasks.",
    ),
    Mistake("no_masks", "a pipeline that does not train the masks", "The masks' loss is part of the sum."),
    Mistake(
        "all_ink",
        "a pipeline that takes every pixel for ink",
        "A probability is always above 0. Where does ink begin?",
    ),
    Mistake("negated", "a pipeline that takes background for ink", "Ink is where the logit is high."),
    Mistake(
        "pooled_score",
        "a pipeline that does not score each scene by itself",
        "One IoU for each scene, over all its pixels; then their mean.",
    ),
    Mistake(
        "tested_in_training",
        "a pipeline that tests the student in training mode",
        "Dropout and batch normalisation then still act as in training. What did the original do before the test?",
    ),
    Mistake(
        "learns_in_evaluation",
        "a pipeline whose student learns in evaluation mode",
        "The student is put to evaluation mode *after* its training, not before.",
    ),
    Mistake(
        "element_mean",
        "a pipeline whose bridge loss is averaged over the features",
        "`F.mse_loss` does that; `bridge_loss` adds up over the features.",
    ),
    Mistake(
        "no_hint",
        "a pipeline whose teachers play no part",
        "Only the labels train the student, and the bridge stays as it was. Is the hint in the loss, with its graph?",
    ),
    Mistake("weight_ignored", "a pipeline without the weight", "`weight` says how much the bridge counts."),
    Mistake(
        "accumulates",
        "a pipeline whose gradients pile up from step to step",
        "`backward` adds to `.grad`. What must happen before it?",
    ),
    ZEROED_LATE,
    ADAM,
)
RUN_PIPELINE = Exercise(
    id="05.run_pipeline",
    title="Bug hunt: the whole pipeline",
    points=4,
    reference=_run_pipeline,
    inputs=_pipeline_inputs,
    drive=_observe_pipeline,
    wrong=_run_pipeline,
    mistakes=_PIPELINE_MISTAKES,
    at_once=_BUGS,
    alone=frozenset(mistake.name for mistake in _PIPELINE_MISTAKES[_BUGS:]),
)
