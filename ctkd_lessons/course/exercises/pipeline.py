"""The exercises of lesson 05: the cross-task pipeline. Boxes and training have files of their own."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import cycle

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctkd_lessons import pipeline as lesson
from ctkd_lessons.course.exercises import pipeline_boxes, pipeline_training
from ctkd_lessons.course.exercises.description import (
    Answer,
    Case,
    Exercise,
    Mistake,
    Observation,
    Property,
    observe_call,
    observe_value,
)
from ctkd_lessons.course.exercises.shared import (
    SUMMED,
    chosen,
    draw,
    hooks_on,
    mistake_not_detached,
    mistake_student_cut,
    parameters_of,
)

# --- extract_knowledge ------------------------------------------------------------------------


def _extraction_inputs(rng: np.random.Generator) -> list[Case]:
    def case(examples: int, later: int, uses: int, training: bool, *layers: str) -> Case:
        return {
            "layers": np.array(layers),
            "x": rng.normal(0, 1, (examples, 3)),
            "x_later": rng.normal(0, 1, (later, 3)),
            "uses": uses,
            "training": int(training),
        }

    # In another order than they run; a layer within a block; one that runs several times; a whole block.
    return [
        case(4, 6, 1, True, "stem", "block.0", "act"),
        case(5, 3, 1, False, "head", "stem"),
        case(3, 5, 2, True, "block.0"),
        case(2, 4, 3, False, "block", "head", "block.0"),
    ]


class _Watched(nn.Module):
    """A network whose activations work in place, with a hook of somebody else's."""

    def __init__(self, uses: int) -> None:
        super().__init__()
        self.stem, self.act = nn.Linear(3, 4), nn.ReLU(inplace=True)
        self.block = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))
        self.head = nn.Linear(4, 2)
        self.uses = uses
        self.stem.register_forward_hook(lambda module, inputs, output: None)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        for _ in range(self.uses):
            x = self.block(x)
        return self.head(x)


class _InterruptionError(Exception):
    """What goes wrong inside the learner's block."""


def _observe_extraction(answer: Answer, case: Case) -> Observation:
    """Watch two runs, then a run that is interrupted, and look at the knowledge and the network."""
    layers = case["layers"].tolist()
    torch.manual_seed(1)
    model, other = (_Watched(case["uses"]).double().train(bool(case["training"])) for _ in range(2))
    before = parameters_of(model)
    watched = answer(model, layers)
    early = hooks_on(model)
    with watched as knowledge:
        model(torch.tensor(case["x"]))
        made = model(torch.tensor(case["x_later"]))
        if made.requires_grad:
            made.sum().backward()
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return _describe_knowledge(knowledge, layers) | {
        "gradient of the model's weights inside the block": torch.cat([g.flatten() for g in gradients]).numpy(),
        "number of hooks on the model before the block": str(early),
        "number of hooks on the model after the block": str(hooks_on(model)),
        "error raised inside the block": _interrupt(answer(other, layers), other, torch.tensor(case["x"])),
        "number of hooks on the model after an error in the block": str(hooks_on(other)),
        "mode the model is left in": "training" if model.training else "evaluation",
        "`requires_grad` of the model's weights": str(all(p.requires_grad for p in model.parameters())),
        "`model` afterwards": parameters_of(model) - before,
    }


def _describe_knowledge(knowledge: object, layers: Sequence[str]) -> Observation:
    if not isinstance(knowledge, Mapping):
        return {"type of what `with` gives": type(knowledge).__name__}
    seen: Observation = {
        "type of what `with` gives": "dict",
        "list of the layers kept": str(sorted(map(str, knowledge))),
    }
    for name in (name for name in layers if name in knowledge):
        kept = observe_value(knowledge[name])
        seen[f"type of what is kept for layer {name!r}"] = f"{kept['type']} {kept.get('dtype', '')}".strip()
        if "value" in kept:
            seen[f"knowledge of layer {name!r}"] = kept["value"]
    graphs = any(isinstance(value, Tensor) and value.requires_grad for value in knowledge.values())
    return seen | {"gradient graph of the knowledge": "some" if graphs else "none"}


def _interrupt(watched: object, model: nn.Module, x: Tensor) -> str:
    try:
        with watched:
            model(x)
            raise _InterruptionError
    except _InterruptionError:
        return "passed on"
    return "swallowed"


@contextmanager
def _extract_knowledge(
    model: nn.Module,
    layers: Sequence[str],
    *,
    hooks_left: bool = False,
    left_after_error: bool = False,
    last_removed: bool = False,
    others_removed: bool = False,
    swallows: bool = False,
    inputs: bool = False,
    no_clone: bool = False,
    not_detached: bool = False,
    late_name: bool = False,
    model_output: bool = False,
    first_run: bool = False,
    replaces: bool = False,
    gradients_off: bool = False,
    left_in_eval: bool = False,
    frozen: bool = False,
    top_only: bool = False,
) -> Iterator[dict[str, Tensor]]:
    """Within the block, keep what the named layers put out in their last run."""
    known = dict(model.named_children() if top_only else model.named_modules())
    seen: dict[str, Tensor] = {}

    def note(name: str, given: Tensor, made: Tensor) -> Tensor | None:
        kept = given if inputs else made
        kept = kept if not_detached else kept.detach()
        kept = kept if no_clone else kept.clone()
        if not (first_run and name in seen):
            seen[name] = kept
        return made.detach() if replaces else None

    def listen(layer: nn.Module, name: str) -> torch.utils.hooks.RemovableHandle:
        return layer.register_forward_hook(lambda module, given, made: note(name, given[0], made))

    model.train(model.training and not left_in_eval).requires_grad_(not frozen)
    watched = [model if model_output else known[name] for name in layers]
    handles = [listen(layer, layers[-1] if late_name else name) for layer, name in zip(watched, layers, strict=True)]
    unmended = hooks_left
    try:
        with torch.set_grad_enabled(not gradients_off):
            yield seen
    except _InterruptionError:
        unmended = unmended or left_after_error
        if not swallows:
            raise
    finally:
        for handle in [] if unmended else handles[-1:] if last_removed else handles:
            handle.remove()
        for layer in watched if others_removed else ():
            layer._forward_hooks.clear()


EXTRACT_KNOWLEDGE = Exercise(
    id="05.extract_knowledge",
    title="A knowledge extractor that cleans up",
    points=3,
    reference=_extract_knowledge,
    inputs=_extraction_inputs,
    drive=_observe_extraction,
    wrong=_extract_knowledge,
    mistakes=(
        Mistake(
            "hooks_left",
            "right in value, but your hooks stay on the model",
            "They go on working at every later run. Keep what `register_forward_hook` returns: it can remove the hook.",
        ),
        Mistake(
            "left_after_error",
            "right, until something goes wrong inside the block: then your hooks stay",
            "The error arrives at the `yield`, and what stands after it is never reached. Which statement runs its "
            "last part whatever happens?",
        ),
        Mistake(
            "last_removed",
            "right in value, but of your hooks only the last is removed",
            "Each call of `register_forward_hook` returns a handle of its own. Where do the earlier ones go?",
        ),
        Mistake(
            "others_removed",
            "right in value, but it takes away hooks that are not yours",
            "Somebody else may be watching the same layer. Remove your own hooks, by their handles.",
        ),
        Mistake(
            "swallows",
            "right in value, but an error inside the block disappears",
            "Whoever uses your extractor must hear of it. Clean up and let the error pass: `finally`, not `except`.",
        ),
        Mistake(
            "inputs",
            "what goes *into* the layers",
            "A forward hook is called with the layer, its inputs and its output. Which of them do you keep?",
        ),
        Mistake(
            "no_clone",
            "spoilt where the next layer works in place",
            "An in-place ReLU after the layer writes over what you keep: it is the same memory. Copy it at once.",
        ),
        Mistake(
            "not_detached",
            "right in value, but it carries the teacher's graph",
            "Knowledge is a constant for the student, and a graph holds memory. Cut it off.",
        ),
        Mistake(
            "late_name",
            "all of it under the last name",
            "A function made in a loop looks a name up when it *runs*; by then the loop is at its end. How can each "
            "hook get a name of its own?",
        ),
        Mistake(
            "model_output",
            "the output of the whole model under every name",
            "Hook the layer that the name means. `model.named_modules()` gives both.",
        ),
        Mistake(
            "first_run",
            "of the first run, not the last",
            "A new run replaces what an earlier one left.",
        ),
        Mistake(
            "replaces",
            "right in value, but your hooks change the model",
            "What a forward hook returns takes the place of the layer's output. Return nothing.",
        ),
        Mistake(
            "gradients_off",
            "right in value, but nothing can be trained inside the block",
            "Your block switches gradients off for everyone in it. Only what you *keep* should be without a graph.",
        ),
        Mistake(
            "left_in_eval",
            "right in value, but it changes the model's mode",
            "An extractor only watches. Whoever runs the model decides on its mode.",
        ),
        Mistake(
            "frozen",
            "right in value, but it freezes the model's weights",
            "An extractor only watches. Cut what you keep from the graph, and leave `requires_grad` as it was.",
        ),
        Mistake(
            "top_only",
            "made for layers of the first level only",
            "A name such as `block.0` is a layer within a block. Which method of a module knows all names?",
        ),
    ),
    alone=frozenset(
        {
            "others_removed",
            "swallows",
            "model_output",
            "first_run",
            "replaces",
            "gradients_off",
            "left_in_eval",
            "frozen",
            "top_only",
        }
    ),
    at_once=5,  # a first try forgets several of these
)


# --- fuse_knowledge ---------------------------------------------------------------------------


def _fusion_inputs(rng: np.random.Generator) -> list[Case]:
    def case(dtype: str, weights: list[float], *shapes: tuple[int, ...]) -> Case:
        loud = cycle((1.0, 20.0, 0.3))
        layers = {
            f"knowledge[{k}]": rng.normal(rng.normal(0, size), size, shape).astype(dtype)
            for k, (shape, size) in enumerate(zip(shapes, loud, strict=False))
        }
        return layers | {"weights": np.array(weights)}

    # As wide as each other first: there even adding fits. Then other widths, maps, one teacher, a silent feature.
    cases = [
        case("float64", [1.0, 3.0], (5, 4), (5, 4)),
        case("float32", [2.0, 0.5, 1.0], (6, 3), (6, 5), (6, 2)),
        case("float64", [4.0], (4, 3)),
        case("float32", [1.0, 0.0], (3, 2, 2, 3), (3, 5)),
        case("float64", [0.2, 0.2, 0.6], (2, 3), (2, 1), (2, 4)),
        case("float64", [1.0, 1.0], (7, 6), (7, 2)),
    ]
    cases[-1]["knowledge[0]"][:, 2] = 0
    return cases


def _observe_fusion(answer: Answer, case: Case) -> Observation:
    """Call the answer with teachers whose graph is still there."""
    leaves = {name: torch.tensor(value, requires_grad=True) for name, value in case.items() if name != "weights"}
    given = [leaf.clone() for leaf in leaves.values()]
    value = answer(given, case["weights"].tolist())
    seen = _describe_fusion(observe_value(value), given)
    seen["gradient graph of the value"] = "some" if isinstance(value, Tensor) and value.requires_grad else "none"
    return seen | {f"`{name}` afterwards": one.detach().numpy() for name, one in zip(leaves, given, strict=True)}


def _describe_fusion(seen: Observation, knowledge: Sequence[Tensor]) -> Observation:
    """Add what tells more than the value: the means, and how much each teacher contributes."""
    found = seen.pop("value", None)
    if found is None:
        return seen
    widths = [one[0].numel() for one in knowledge]
    seen["shape of the value"] = str(found.shape)
    if found.shape == (len(knowledge[0]), sum(widths)):
        squares = np.square(found, dtype=np.float64).mean(0)
        seen["mean of the columns"] = found.mean(0, dtype=np.float64).astype("float32").round(5) + 0.0
        seen["share of each teacher, mean ‖z_i‖²,"] = np.array(
            [part.sum() for part in np.split(squares, np.cumsum(widths)[:-1])], dtype="float32"
        )
    # Compared as single precision: a tiny number in a denominator is no mistake.
    return seen | {"value": found.astype("float32")}


_MEANS: dict[str, Callable[[Tensor], Tensor]] = {
    "not_centred": lambda rows: torch.zeros_like(rows[0]),
    "row_mean": lambda rows: rows.mean(1, keepdim=True),
    "one_mean": lambda rows: rows.mean(),
    "layer_normalised": lambda rows: rows.mean(1, keepdim=True),
    "raw": lambda rows: torch.zeros_like(rows[0]),
    "raw_weighted": lambda rows: torch.zeros_like(rows[0]),
}
_SIZES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "not_scaled": lambda rows, centred: torch.ones((), dtype=rows.dtype),
    "no_root": lambda rows, centred: centred.square().sum(1).mean(),
    "per_feature": lambda rows, centred: centred.square().mean(0).sqrt() + 1e-10,
    "per_feature_deviation": lambda rows, centred: centred.std(0),
    "per_feature_guarded": lambda rows, centred: centred.std(0) + 1e-10,
    "per_feature_shared": lambda rows, centred: centred.square().mean(0).mul(rows.shape[1]).sqrt(),
    "per_example": lambda rows, centred: centred.norm(dim=1, keepdim=True),
    "element_size": lambda rows, centred: centred.square().mean().sqrt(),
    "element_deviation": lambda rows, centred: centred.std(),
    "deviation": lambda rows, centred: rows.std(),
    "layer_normalised": lambda rows, centred: centred.square().mean(1, keepdim=True).sqrt(),
    "unbiased": lambda rows, centred: centred.var(0).sum().sqrt(),
    "size_uncentred": lambda rows, centred: rows.square().sum(1).mean().sqrt(),
    "summed_size": lambda rows, centred: centred.norm(),
    "mean_length": lambda rows, centred: centred.norm(dim=1).mean(),
    "largest": lambda rows, centred: centred.abs().max(),
    "raw": lambda rows, centred: torch.ones((), dtype=rows.dtype),
    "raw_weighted": lambda rows, centred: torch.ones((), dtype=rows.dtype),
}
_JOINS: dict[str, Callable[[list[Tensor]], Tensor]] = {
    "added": sum,
    "stacked": torch.stack,
    "examples_joined": torch.cat,
}


def _wrong_fusion(
    knowledge: Sequence[Tensor],
    weights: Sequence[float],
    *,
    weights_ignored: bool = False,
    weights_not_normalised: bool = False,
    weights_softmaxed: bool = False,
    not_rooted: bool = False,
    roots_normalised: bool = False,
    not_detached: bool = False,
    pooled: bool = False,
    **switches: bool,
) -> Tensor:
    shares = np.ones(len(weights)) if weights_ignored else np.exp(weights) if weights_softmaxed else np.array(weights)
    shares = shares / (1 if weights_not_normalised else shares.sum())
    shares = shares if not_rooted or "raw_weighted" in switches else np.sqrt(shares)
    shares = shares / shares.sum() if roots_normalised else np.ones(len(shares)) if "raw" in switches else shares
    mean_of = chosen(_MEANS, switches, lambda rows: rows.mean(0))
    size_of = chosen(_SIZES, switches, lambda rows, centred: centred.square().sum(1).mean().sqrt())
    parts = []
    for one, share in zip(knowledge, shares.tolist(), strict=True):
        kept = one if not_detached else one.detach()
        rows = kept.flatten(2).mean(2) if pooled and kept.ndim > 2 else kept.flatten(1)
        centred = rows - mean_of(rows)
        parts.append(share * centred / size_of(rows, centred))
    return chosen(_JOINS, switches, partial(torch.cat, dim=1))(parts)


def _adds_up_to_one(answer: Answer) -> bool:
    layers = [torch.arange(12.0).view(4, 3).square(), torch.tensor([[1.0], [-2.0], [5.0], [0.0]])]
    return abs(float(answer(layers, [3.0, 5.0]).square().sum(1).mean()) - 1) < 1e-4


FUSE_KNOWLEDGE = Exercise(
    id="05.fuse_knowledge",
    title="Knowledge fusion",
    points=3,
    reference=lesson.fuse_knowledge,
    inputs=_fusion_inputs,
    drive=_observe_fusion,
    wrong=_wrong_fusion,
    mistakes=(
        Mistake(
            "raw",
            "the teachers side by side as they are",
            "The loudest and widest would drown the others. Each is centred, divided by its rms and multiplied by √w.",
        ),
        Mistake(
            "raw_weighted",
            "the teachers side by side, weighted but neither centred nor scaled",
            "A weight says little while one teacher's numbers are larger than another's. Centre, then divide by rms.",
        ),
        Mistake(
            "not_centred",
            "fused without centring",
            "What a feature says about *every* example tells none of them apart. Take its mean away first.",
        ),
        Mistake(
            "row_mean",
            "centred with each example's mean over the features",
            "The mean runs over the examples, one number for each feature. Which axis is that?",
        ),
        Mistake(
            "one_mean",
            "centred with one mean for the whole layer",
            "Each feature has a mean of its own, over the examples.",
        ),
        Mistake(
            "not_scaled",
            "fused without scaling",
            "A teacher with large numbers would drown the others. Divide by the size of its centred rows.",
        ),
        Mistake("no_root", "divided by rms², not by rms", "rms is the *root* of the mean squared length."),
        Mistake(
            "per_feature",
            "scaled feature by feature",
            "Then a wide layer counts more, and a feature that hardly varies is blown up. One number for each teacher.",
        ),
        Mistake(
            "per_feature_deviation",
            "scaled feature by feature, each divided by its `std`",
            "Then a wide layer counts more, and a feature that never varies is 0 / 0. One number for each teacher: "
            "rms_k.",
        ),
        Mistake(
            "per_feature_guarded",
            "scaled feature by feature, each divided by its `std` and kept from 0 / 0",
            "Then a wide layer counts more, and rounding in a feature that hardly varies is blown up. One number for "
            "each teacher: rms_k.",
        ),
        Mistake(
            "per_feature_shared",
            "scaled so that every feature of a teacher counts alike",
            "The teachers' shares are right. But within a teacher a feature that varies more says more: one rms for "
            "all its features.",
        ),
        Mistake(
            "per_example",
            "scaled example by example",
            "Examples about which a teacher says much keep their greater length. One number for each teacher.",
        ),
        Mistake(
            "element_size",
            "divided by the root of the mean squared *entry*",
            "Then a wide layer counts more than a narrow one. ‖·‖² adds up over the features; the mean runs over the "
            "examples.",
        ),
        Mistake(
            "layer_normalised",
            "centred and scaled example by example, as layer normalisation does",
            "Both go the other way here: the mean over the examples, and one rms for the whole teacher.",
        ),
        Mistake(
            "element_deviation",
            "divided by the `std` of all the centred numbers",
            "It averages over the features, where ‖·‖² adds up: a wide layer would count more. The mean runs over the "
            "examples.",
        ),
        Mistake(
            "deviation",
            "divided by the standard deviation of all the layer's numbers",
            "That mixes the features' means in, and averages where ‖·‖² adds up. Start from the centred rows.",
        ),
        Mistake(
            "unbiased",
            "divided by a size with n − 1 in place of n",
            "`var` and `std` divide by n − 1 unless told otherwise. Here it is the plain mean over n examples.",
        ),
        Mistake(
            "size_uncentred",
            "divided by the size of the rows *before* centring",
            "Measure what is left after the mean is gone.",
        ),
        Mistake(
            "summed_size",
            "divided by a size summed over the examples",
            "rms² is a *mean* over the examples, or the fused numbers shrink as there are more of them.",
        ),
        Mistake(
            "mean_length",
            "divided by the mean length of the rows",
            "Square first, average, then take the root: that makes the shares come out exactly.",
        ),
        Mistake("largest", "divided by the largest entry", "One outlier would rule the scale. Divide by rms."),
        Mistake(
            "weights_ignored",
            "fused with the same weight for all teachers",
            "`weights` says how much each teacher counts.",
        ),
        Mistake(
            "weights_not_normalised",
            "fused with weights that don't sum to one",
            "Weights (1, 3) and (2, 6) should mean the same. Divide by their sum.",
        ),
        Mistake(
            "weights_softmaxed",
            "fused with a softmax of the weights",
            "A weight of zero should silence a teacher, and twice the weight be twice the share. Divide by the sum.",
        ),
        Mistake(
            "roots_normalised",
            "fused with roots √w that sum to one",
            "The *weights* sum to one: first divide, then take the root.",
        ),
        Mistake(
            "not_rooted",
            "fused with w in the place of √w",
            "The bridge's loss squares what you give it. What must you multiply by, so that w comes out squared?",
        ),
        Mistake(
            "not_detached",
            "right in value, but it carries the teachers' graph",
            "Knowledge is a constant for the student. Cut each teacher from the graph.",
        ),
        Mistake(
            "pooled",
            "computed from maps averaged over their positions",
            "Where a teacher looks is part of what it knows. Flatten everything but the examples.",
        ),
        Mistake(
            "added",
            "the sum of the teachers, which fits only where all are equally wide",
            "Different teachers' features have nothing to do with each other. Put them side by side.",
        ),
        Mistake(
            "stacked",
            "the teachers one behind the other on a new axis, which fits only where all are equally wide",
            "Each example gets *one* row (Σ D_k), teacher beside teacher. `torch.stack` adds an axis; which call adds "
            "none?",
        ),
        Mistake(
            "examples_joined",
            "the teachers one below the other",
            "`torch.cat` joins along axis 0 unless told otherwise. There are still n examples.",
        ),
    ),
    properties=(Property("has rows whose squared length is 1 on average", _adds_up_to_one),),
    sizes=lambda case: {
        "the number of examples": len(case["knowledge[0]"]),
        "the number of teachers": len(case["weights"]),
        "the sum of the weights": case["weights"].sum(),
    },
    alone=frozenset(
        {
            "raw",
            "raw_weighted",
            "layer_normalised",
            "per_feature_guarded",
            "element_deviation",
            "mean_length",
            "largest",
            "roots_normalised",
            "weights_softmaxed",
            "added",
            "stacked",
            "examples_joined",
        }
    ),
)


# --- bridged_loss -----------------------------------------------------------------------------


def _bridge_inputs(rng: np.random.Generator) -> list[Case]:
    # Examples, the student's width, the knowledge's; equal widths first: a transposed weight fits.
    sizes = ((4, 3, 3), (5, 2, 6), (1, 4, 3), (3, 5, 2), (6, 3, 4))
    shapes = [{"features": (b, h), "knowledge": (b, d), "weight": (d, h), "bias": (d,)} for b, h, d in sizes]
    return draw(rng, shapes)


def _bridged_loss(features: Tensor, knowledge: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """mean_i ‖(W h_i + c) − z_i‖²."""
    return lesson.bridge_loss(F.linear(features, weight, bias), knowledge)


_DISTANCES: dict[str, Callable[[Tensor], Tensor]] = {
    "element_mean": lambda difference: difference.square().mean(),
    "halved": lambda difference: difference.square().sum(1).mean() / 2,
    "half_element_mean": lambda difference: difference.square().mean() / 2,
    "summed": lambda difference: difference.square().sum(),
    "batch_summed": lambda difference: difference.square().mean(1).sum(),
    "not_squared": lambda difference: difference.norm(dim=1).mean(),
    "whole_norm": lambda difference: difference.norm(),
    "absolute": lambda difference: difference.abs().sum(1).mean(),
    "absolute_mean": lambda difference: difference.abs().mean(),
    "smooth": lambda difference: F.smooth_l1_loss(difference, torch.zeros_like(difference)),
}


def _wrong_bridge(
    features: Tensor,
    knowledge: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    not_detached: bool = False,
    student_cut: bool = False,
    bridge_cut: bool = False,
    no_bias: bool = False,
    no_bridge: bool = False,
    transposed: bool = False,
    knowledge_bridged: bool = False,
    bridged_back: bool = False,
    unit_length: bool = False,
    cosine: bool = False,
    softened: bool = False,
    relative: bool = False,
    activated: bool = False,
    **switches: bool,
) -> Tensor:
    student = features.detach() if student_cut else features
    teacher = knowledge if not_detached or student_cut else knowledge.detach()
    weight, bias = (weight.detach(), bias.detach()) if bridge_cut else (weight, bias)
    if knowledge_bridged:
        student, teacher = teacher, student
    if bridged_back:
        difference = student - (teacher - bias) @ weight
    else:
        bridged = student @ (weight if transposed else weight.T) + (0 if no_bias else bias)
        bridged = student if no_bridge else bridged.relu() if activated else bridged
        if cosine:
            return 1 - F.cosine_similarity(bridged, teacher).mean()
        if softened:
            return F.kl_div(F.log_softmax(bridged, -1), teacher.softmax(-1), reduction="batchmean")
        if unit_length:
            bridged, teacher = F.normalize(bridged), F.normalize(teacher)
        difference = bridged - teacher
    if relative:
        return difference.square().sum() / teacher.square().sum()
    return chosen(_DISTANCES, switches, lambda difference: difference.square().sum(1).mean())(difference)


BRIDGED_LOSS = Exercise(
    id="05.bridged_loss",
    title="The loss at the end of the bridge",
    points=2,
    reference=_bridged_loss,
    inputs=_bridge_inputs,
    drive=partial(observe_call, constants=("knowledge",)),
    wrong=_wrong_bridge,
    mistakes=(
        Mistake(
            "element_mean",
            "the mean over all elements",
            "`F.mse_loss` gives this. ‖·‖² adds up over the features; the mean runs over the examples. Only then is "
            "the loss 1 for a bridge that always answers zero.",
        ),
        Mistake(
            "halved",
            "half the right one",
            "The hint loss of lesson 02 has a ½; this one has none, so that 1 means nothing learnt.",
        ),
        Mistake(
            "half_element_mean",
            "half the mean over all elements",
            "There is no ½ here, and `F.mse_loss` averages over the features, where ‖·‖² adds them up.",
        ),
        SUMMED,
        Mistake(
            "batch_summed",
            "summed over the examples and averaged over the features",
            "The other way round: ‖·‖² adds up over the features; the mean runs over the examples.",
        ),
        Mistake("not_squared", "the distance, not its square", "The formula has ‖·‖²: leave out the root."),
        Mistake(
            "whole_norm",
            "the norm of all differences together",
            "Each example has its own ‖·‖², a sum of squares without a root. Average those.",
        ),
        Mistake("absolute", "computed from absolute differences", "‖·‖² adds up squares, not absolute values."),
        Mistake(
            "absolute_mean",
            "the mean of the absolute differences",
            "`F.l1_loss` gives this. ‖·‖² adds up squares over the features; the mean runs over the examples.",
        ),
        Mistake(
            "relative",
            "divided by the size of the knowledge",
            "Fused knowledge has size 1 over all scenes, and a batch may know more or less than others. The formula "
            "divides by B only.",
        ),
        Mistake(
            "softened",
            "a KL divergence between softmaxes",
            "Features are no logits: they are compared as they are, by their squared distance.",
        ),
        Mistake(
            "smooth",
            "the smooth L1 loss",
            "It serves the boxes. Here the differences are squared, added up over the features, averaged over the "
            "examples.",
        ),
        mistake_not_detached("knowledge"),
        mistake_student_cut("features"),
        Mistake(
            "bridge_cut",
            "right in value, but no gradient reaches the bridge",
            "The bridge is trained with the student. `.detach()`, `.data` or a copy of `weight` or `bias` cuts it off.",
        ),
        Mistake("no_bias", "computed without the bridge's bias", "The bridge is W h + c."),
        Mistake(
            "no_bridge",
            "computed from the features as they are, which fits only where both are equally wide",
            "The student's features first cross the bridge: W h + c.",
        ),
        Mistake(
            "transposed",
            "computed with the transposed weight, which fits only where both are equally wide",
            "`weight` has shape (D, H): which of its axes meets the student's features?",
        ),
        Mistake(
            "knowledge_bridged",
            "computed with the bridge on the wrong side",
            "The bridge belongs to the student: it turns H features into D. The knowledge stays as it is.",
        ),
        Mistake(
            "bridged_back",
            "computed in the student's space: the knowledge came back over the bridge",
            "A bridge is crossed by the student. Compare in the knowledge's space, with D numbers per example.",
        ),
        Mistake(
            "unit_length",
            "computed from rows of length 1",
            "The knowledge was scaled when it was fused. How long a row is says how much there is to explain.",
        ),
        Mistake(
            "cosine",
            "one minus the cosine of the two",
            "It forgets the length of the rows. The formula is a squared distance.",
        ),
        Mistake(
            "activated",
            "computed with a ReLU at the end of the bridge",
            "Fused knowledge is centred: half of it is negative. The bridge is linear.",
        ),
    ),
    properties=(
        Property(
            "is 1 for fused knowledge and a bridge that always answers zero",
            lambda answer: (
                abs(
                    float(
                        answer(
                            torch.ones(4, 2),
                            lesson.fuse_knowledge([torch.arange(12.0).view(4, 3).square()]),
                            torch.zeros(3, 2),
                            torch.zeros(3),
                        )
                    )
                    - 1
                )
                < 1e-4
            ),
        ),
    ),
    sizes=lambda case: {
        "the number of examples": len(case["knowledge"]),
        "the width of the knowledge": case["knowledge"].shape[1],
    },
    alone=frozenset(
        {
            "whole_norm",
            "absolute",
            "absolute_mean",
            "relative",
            "softened",
            "smooth",
            "cosine",
            "unit_length",
            "transposed",
            "knowledge_bridged",
            "bridged_back",
            "no_bridge",
        }
    ),
)


EXERCISES = (
    EXTRACT_KNOWLEDGE,
    FUSE_KNOWLEDGE,
    BRIDGED_LOSS,
    pipeline_boxes.BOX_IOU,
    pipeline_training.STUDENT_STEP,
    pipeline_boxes.GENERALISED_IOU,
    pipeline_training.RUN_PIPELINE,
)
