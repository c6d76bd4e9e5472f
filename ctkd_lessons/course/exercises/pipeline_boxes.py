"""Lesson 05's exercises with boxes: intersection over union and its generalised form."""

from collections.abc import Callable
from itertools import cycle

import numpy as np
import torch
from torch import Tensor

from ctkd_lessons import pipeline as lesson
from ctkd_lessons.course.exercises.description import (
    Answer,
    Case,
    Exercise,
    Mistake,
    Observation,
    Property,
    observe_value_only,
)
from ctkd_lessons.course.exercises.shared import chosen

# Pairs of boxes in which something special happens.
_PAIRS = np.array(
    [
        [[1, 2, 5, 6], [1, 2, 5, 6]],  # the same box
        [[1, 1, 9, 7], [3, 2, 5, 5]],  # one in the other
        [[0, 1, 3, 6], [5, 2, 8, 7]],  # apart sideways only
        [[0, 0, 3, 4], [6, 7, 9, 9]],  # apart in both directions: two negative sides have a positive product
        [[2, 0, 5, 4], [5, 1, 8, 4]],  # they touch
        [[3, 3, 3, 7], [1, 2, 6, 8]],  # one is empty
        [[2, 4, 2, 4], [2, 4, 2, 4]],  # both are empty, in the same place
        [[1, 1, 1, 4], [5, 2, 8, 2]],  # both are empty, in other places
    ],
    dtype=np.float64,
)


def _box_inputs(rng: np.random.Generator) -> list[Case]:
    def overlapping(*shape: int) -> np.ndarray:
        corners, sizes = rng.uniform(0, 4, (2, *shape, 2)), rng.uniform(4.5, 12, (2, *shape, 2))
        return np.concatenate([corners, corners + sizes], axis=-1)

    some = _PAIRS[2:5].transpose(1, 0, 2)  # few enough to be shown to the learner
    pairs = (overlapping(5), some, overlapping(), overlapping(2, 3), overlapping(4), _PAIRS.transpose(1, 0, 2))
    return [
        {"a": a.astype(dtype), "b": b.astype(dtype)}
        for (a, b), dtype in zip(pairs, cycle(("float64", "float32")), strict=False)
    ]


def _observe_with_slope(answer: Answer, case: Case) -> Observation:
    """Observe the value, and whether its gradient can be used.

    Where two corners are equal the slope from the left is not that from the right: either may be given.
    """
    seen = observe_value_only(answer, case)
    a = torch.tensor(case["a"], requires_grad=True)
    value = answer(a, torch.tensor(case["b"]))
    if not isinstance(value, Tensor):
        return seen
    if not value.requires_grad:
        return seen | {"differentiable": "no"}
    value.sum().backward()
    finite = a.grad is not None and bool(a.grad.isfinite().all())
    return seen | {"differentiable": "yes", "gradient of the sum of your values": "finite" if finite else "nan or inf"}


def _sides(a: Tensor, b: Tensor) -> Tensor:
    return torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])


def _hull(a: Tensor, b: Tensor) -> Tensor:
    return torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])


def _ratio(part: Tensor, whole: Tensor, guard: str = "whole") -> Tensor:
    """Divide, 0 where there is nothing to divide by."""
    if guard == "none":
        return part / whole
    if guard == "late":
        return torch.where(whole > 0, part / whole, 0)
    return torch.where(whole > 0, part / torch.where(whole > 0, whole, 1), 0)


def _misread(boxes: Tensor, *, centre_size: bool, corner_size: bool) -> Tensor:
    """Take the four numbers for something else than two corners."""
    first, last = boxes[..., :2], boxes[..., 2:]
    if centre_size:
        return torch.cat([first - last / 2, first + last / 2], -1)
    return torch.cat([first, first + last], -1) if corner_size else boxes


def _wrong_areas(
    a: Tensor,
    b: Tensor,
    *,
    inclusive: bool = False,
    inclusive_overlap: bool = False,
    centre_size: bool = False,
    corner_size: bool = False,
    no_clamp: bool = False,
    area_clamped: bool = False,
    absolute: bool = False,
    overlap_is_hull: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the shared area, both boxes' areas and that of the box around both."""
    a, b = (_misread(boxes, centre_size=centre_size, corner_size=corner_size) for boxes in (a, b))
    sides = (_hull(a, b) if overlap_is_hull else _sides(a, b)) + (inclusive or inclusive_overlap)
    sides = sides.abs() if absolute else sides
    shared = (sides if no_clamp or area_clamped else sides.clamp(min=0)).prod(-1)
    of_a, of_b = ((boxes[..., 2:] - boxes[..., :2] + inclusive).prod(-1) for boxes in (a, b))
    return shared.clamp(min=0) if area_clamped else shared, of_a, of_b, (_hull(a, b) + inclusive).prod(-1)


_WHOLES: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "areas_added": lambda shared, of_a, of_b, hull: of_a + of_b,
    "dice": lambda shared, of_a, of_b, hull: (of_a + of_b) / 2,
    "added_again": lambda shared, of_a, of_b, hull: of_a + of_b + shared,
    "taken_twice": lambda shared, of_a, of_b, hull: of_a + of_b - 2 * shared,
    "smaller_area": lambda shared, of_a, of_b, hull: torch.minimum(of_a, of_b),
    "larger_area": lambda shared, of_a, of_b, hull: torch.maximum(of_a, of_b),
    "first_area": lambda shared, of_a, of_b, hull: of_a,
    "second_area": lambda shared, of_a, of_b, hull: of_b,
    "hull_area": lambda shared, of_a, of_b, hull: hull,
    "not_divided": lambda shared, of_a, of_b, hull: torch.ones_like(hull),
}


def _union(shared: Tensor, of_a: Tensor, of_b: Tensor, hull: Tensor) -> Tensor:
    return of_a + of_b - shared


def _wrong_iou(
    a: Tensor,
    b: Tensor,
    *,
    no_guard: bool = False,
    pairwise: bool = False,
    columns: bool = False,
    loss: bool = False,
    **switches: bool,
) -> Tensor:
    if columns:  # boxes[:, 0] in the place of boxes[..., 0]
        a, b = (torch.stack([boxes[:, k] for k in range(4)], -1) for boxes in (a, b))
    if pairwise:
        a, b = a.unsqueeze(-2), b.unsqueeze(-3)
    areas = _wrong_areas(a, b, **{name: on for name, on in switches.items() if name not in _WHOLES})
    whole = chosen(_WHOLES, switches, _union)(*areas)
    score = _ratio(areas[0], whole, guard="none" if no_guard else "whole")
    return 1 - score if loss else score


_OF_AREAS = (
    Mistake(
        "inclusive",
        "computed as if x1 and y1 still belonged to the box",
        "Here they are exclusive: a box from 2 to 5 is 3 pixels wide. The + 1 of older code is for inclusive ones.",
    ),
    Mistake(
        "no_clamp",
        "right only for boxes that overlap: a side of the overlap may come out negative",
        "Boxes that lie apart share nothing. And two negative sides have a positive product: what must be done to "
        "each *side*?",
    ),
    Mistake(
        "area_clamped",
        "computed from an overlap whose area is cut off at 0, not its sides",
        "Boxes apart in both directions have two negative sides, and a positive product. Cut off before you multiply.",
    ),
    Mistake(
        "absolute",
        "computed from absolute values of the sides",
        "A negative side means that the boxes lie apart: they share nothing, however far apart they are.",
    ),
    Mistake(
        "overlap_is_hull",
        "computed with the box around both in the place of their overlap",
        "The overlap begins where the *later* of the two begins and ends where the *earlier* ends: which is `minimum`, "
        "which `maximum`?",
    ),
    Mistake(
        "centre_size",
        "computed from boxes read as (centre x, centre y, width, height)",
        "The four numbers are two corners, (x0, y0, x1, y1).",
    ),
    Mistake(
        "corner_size",
        "computed from boxes read as (x0, y0, width, height)",
        "The last two numbers are the other corner, x1 and y1. How wide is the box then?",
    ),
    Mistake(
        "areas_added",
        "computed with both areas added up in the place of the union",
        "What both boxes cover is in that sum twice. Take it away once.",
    ),
    Mistake(
        "added_again",
        "computed with a union that holds the overlap three times",
        "The sum of the areas has the overlap twice. Is it too much or too little?",
    ),
    Mistake(
        "taken_twice",
        "computed with a union that lacks the overlap",
        "The sum of the areas has the overlap twice, and it belongs to the union: take it away *once*.",
    ),
)
_ALONE = {"absolute", "overlap_is_hull", "taken_twice"}
BOX_IOU = Exercise(
    id="05.box_iou",
    title="Intersection over union",
    points=2,
    reference=lesson.box_iou,
    inputs=_box_inputs,
    drive=observe_value_only,
    wrong=_wrong_iou,
    mistakes=(
        *_OF_AREAS,
        Mistake(
            "inclusive_overlap",
            "computed with a + 1 on the sides of the overlap",
            "x1 and y1 are exclusive: the overlap needs no + 1, as the boxes need none.",
        ),
        Mistake(
            "dice",
            "Dice's coefficient: twice the overlap, divided by the sum of both areas",
            "A relative, always larger. IoU divides the overlap by the union.",
        ),
        Mistake(
            "smaller_area",
            "the share of the smaller box that is covered",
            "A small box within a large one would score 1. Divide by the area that the two cover *together*.",
        ),
        Mistake("larger_area", "the share of the larger box that is covered", "Divide by what the two cover together."),
        Mistake(
            "first_area",
            "the share of `a` that is covered",
            "IoU treats both boxes alike: divide by what they cover together.",
        ),
        Mistake(
            "second_area",
            "the share of `b` that is covered",
            "A box over the whole canvas would score 1. Divide by what the two cover together.",
        ),
        Mistake(
            "hull_area",
            "divided by the area of the box around both",
            "That box has corners that neither of the two covers. Their union is smaller. (A ratio for x times a "
            "ratio for y divides by that box, too.)",
        ),
        Mistake("loss", "1 − IoU, the loss", "The function returns the score itself: 1 for equal boxes."),
        Mistake("not_divided", "the shared area, not divided", "It is in square pixels; IoU is a share."),
        Mistake(
            "no_guard",
            "right but for two boxes without area, where it divides 0 by 0",
            "There IoU is 0 by definition. Make sure that you never divide by 0.",
        ),
        Mistake(
            "pairwise",
            "a table of every box of `a` with every box of `b`",
            "A detector needs that. Here box i of `a` meets box i of `b`: (…, 4) and (…, 4) give (…).",
        ),
        Mistake(
            "columns",
            "right for a list of boxes only",
            "A single box has no second axis, and a batch of lists has more. The four numbers stand on the *last* "
            "axis: `boxes[..., 0]`.",
        ),
    ),
    properties=(
        Property(
            "treats both boxes alike",
            lambda answer: torch.allclose(
                answer(torch.tensor([1.0, 1.0, 9.0, 7.0]), torch.tensor([3.0, 2.0, 5.0, 9.0])),
                answer(torch.tensor([3.0, 2.0, 5.0, 9.0]), torch.tensor([1.0, 1.0, 9.0, 7.0])),
            ),
        ),
    ),
    alone=frozenset({"not_divided", "pairwise", "loss", "added_again", "inclusive_overlap", *_ALONE}),
)


# --- generalised_iou: the variant -------------------------------------------------------------


def _generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """GIoU = IoU − (|C| − |a ∪ b|) / |C|, C the smallest box around both; 0 where C has no area."""
    return _wrong_generalised(a, b)


_PENALTIES: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "without_overlap": lambda shared, of_a, of_b, hull: _ratio(hull - shared, hull),
    "without_areas": lambda shared, of_a, of_b, hull: _ratio(hull - of_a - of_b, hull),
    "by_union": lambda shared, of_a, of_b, hull: _ratio(hull - of_a - of_b + shared, of_a + of_b - shared),
    "covered": lambda shared, of_a, of_b, hull: _ratio(of_a + of_b - shared, hull),
    "not_relative": lambda shared, of_a, of_b, hull: hull - of_a - of_b + shared,
    "no_penalty": lambda shared, of_a, of_b, hull: torch.zeros_like(hull),
}


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """The squared distance of the centres, divided by the squared diagonal of the box around both."""
    apart = ((a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2).square().sum(-1)
    return _ratio(apart, _hull(a, b).square().sum(-1))


def _wrong_generalised(
    a: Tensor,
    b: Tensor,
    *,
    added: bool = False,
    loss: bool = False,
    clamped: bool = False,
    penalty_only: bool = False,
    distance: bool = False,
    no_guard: bool = False,
    late_guard: bool = False,
    hull_unguarded: bool = False,
    only_apart: bool = False,
    **switches: bool,
) -> Tensor:
    names = {*_WHOLES, *_PENALTIES}
    areas = _wrong_areas(a, b, **{name: on for name, on in switches.items() if name not in names})
    union = chosen(_WHOLES, switches, _union)(*areas)
    guard = "none" if no_guard else "late" if late_guard else "whole"
    right = lambda shared, of_a, of_b, hull: _ratio(hull - union, hull, "none" if hull_unguarded else guard)
    penalty = _distance(a, b) if distance else chosen(_PENALTIES, switches, right)(*areas)
    iou = 0.0 if penalty_only else _ratio(areas[0], union, guard)
    score = iou + penalty if added else iou - penalty
    score = torch.where(areas[0] > 0, iou, score) if only_apart else score
    score = score.clamp(min=0) if clamped else score
    return 1 - score if loss else score


def _pulls_together(answer: Answer) -> bool:
    """A step up the gradient brings a box nearer to another one far away."""
    a, b = torch.tensor([1.0, 1.0, 3.0, 4.0], requires_grad=True), torch.tensor([8.0, 6.0, 10.0, 9.0])
    answer(a, b).backward()
    return bool((a.grad[2:] > 0).all())


GENERALISED_IOU = Exercise(
    id="05.generalised_iou",
    title="Boxes that lie apart: generalised IoU",
    points=3,
    reference=_generalised_iou,
    inputs=_box_inputs,
    drive=_observe_with_slope,
    wrong=_wrong_generalised,
    mistakes=(
        *_OF_AREAS,
        Mistake(
            "hull_area",
            "computed with the area of C in the place of the union",
            "C has corners that neither box covers. Those corners are what the second term is about.",
        ),
        Mistake(
            "without_overlap",
            "computed with |C| − |a ∩ b| in the second term",
            "The second term counts what *neither* box covers: C without the union.",
        ),
        Mistake(
            "without_areas",
            "computed with |C| minus both areas in the second term",
            "What both boxes cover was taken away twice. Take the union away.",
        ),
        Mistake(
            "by_union",
            "computed with a second term divided by the union",
            "It is the share *of C* that neither box covers.",
        ),
        Mistake(
            "covered",
            "computed with the share of C that is covered",
            "The second term is the share of C that is *not* covered: 0 when the boxes are the same.",
        ),
        Mistake(
            "not_relative",
            "computed with a second term in square pixels",
            "It is a share: divide by the area of C.",
        ),
        Mistake(
            "no_penalty",
            "plain IoU",
            "It is 0 for all boxes that lie apart, near or far. The second term tells them apart.",
        ),
        Mistake(
            "penalty_only",
            "the second term alone",
            "It is taken away from IoU: both terms count.",
        ),
        Mistake("added", "the sum of both terms", "Empty room in C makes the score *worse*."),
        Mistake(
            "loss",
            "1 − GIoU, the loss",
            "The loss is made from it; the function returns the score itself, 1 for equal boxes.",
        ),
        Mistake(
            "clamped",
            "cut off at 0",
            "GIoU goes down to −1: below 0 it says how far apart the boxes are.",
        ),
        Mistake(
            "distance",
            "DIoU, which looks at the distance of the centres",
            "A later relative (Zheng et al. 2020). Here the second term is the share of C that neither box covers.",
        ),
        Mistake(
            "no_guard",
            "right but for boxes without area, where it divides 0 by 0",
            "An empty union makes IoU 0, an empty C the second term 0. Make sure that you never divide by 0.",
        ),
        Mistake(
            "hull_unguarded",
            "right but for a C without area, where its second term divides 0 by 0",
            "There the second term is 0. Make sure that you never divide by 0.",
        ),
        Mistake(
            "only_apart",
            "computed without the second term where the boxes overlap",
            "It counts there, too: two boxes that overlap may leave corners of C empty.",
        ),
        Mistake(
            "late_guard",
            "right in value, but its gradient is nan where a box has no area",
            "`torch.where` or `nan_to_num` hides a 0 / 0 from the value, not from the gradient. Make the *denominator* "
            "safe before you divide.",
        ),
    ),
    properties=(Property("draws two boxes that lie apart to each other by its gradient", _pulls_together),),
    alone=frozenset(
        {
            "not_relative",
            "distance",
            "no_penalty",
            "added_again",
            "without_overlap",
            "without_areas",
            "covered",
            "clamped",
            "hull_unguarded",
            "only_apart",
            *_ALONE,
        }
    ),
)
