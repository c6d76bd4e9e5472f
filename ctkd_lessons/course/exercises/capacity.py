"""The exercises of lesson 03: choosing a teacher and a student."""

import copy
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctkd_lessons import capacity, scorecard, soft_targets
from ctkd_lessons.course.exercises.description import (
    Answer,
    Case,
    Exercise,
    Mistake,
    Observation,
    Property,
    observe_call,
    observe_value,
    observe_value_only,
    tensors,
)
from ctkd_lessons.course.exercises.shared import (
    ACCUMULATES,
    ADAM,
    ALPHA_ON_LABELS,
    CROSS_ENTROPY,
    NO_SQUARE,
    SOFTMAX_TWICE,
    STUDENT_UNSOFTENED,
    SUMMED,
    SWAPPED,
    TEACHER_UNSOFTENED,
    ZEROED_LATE,
    mistake_not_detached,
    mistake_student_cut,
    parameters_of,
    wrong_step,
    wrong_terms,
)

# --- count_flops ------------------------------------------------------------------------------


def _count_inputs(rng: np.random.Generator) -> list[Case]:
    def image(shape: tuple[int, ...], dtype: str = "float32", **layers: int) -> Case:
        return {"x": rng.normal(0, 1, shape).astype(dtype), **layers}

    # No batch of two: there the multiply-adds of the whole batch are the FLOPs of one example.
    return [
        image((3, 4, 6, 9), filters=6, kernel=3, stride=2, padding=1, groups=2, hidden=7, uses=2, training=1),
        image((4, 12), hidden=8, uses=0, training=0),
        image((1, 3, 7, 7), filters=5, kernel=3, stride=1, padding=0, groups=1, hidden=4, uses=1, training=0),
        image((5, 6), "float64", hidden=9, uses=3, training=1, normalised=1),
        image((3, 4, 10), "float64", hidden=6, uses=1, training=1),  # an example of four rows, as words in a text
        image((6, 8, 5, 4), filters=8, kernel=2, stride=1, padding=1, groups=8, hidden=3, uses=0, training=0),
    ]


def _build(case: Case) -> nn.Module:
    """Build a network: for images a convolution, then linear layers, one of them used several times."""
    shape, hidden = case["x"].shape, case["hidden"]
    first: list[nn.Module] = []
    if len(shape) == 4:
        channels, *rest = (case[name] for name in ("filters", "kernel", "stride", "padding"))
        first = [nn.Conv2d(shape[1], channels, *rest, groups=case["groups"]), nn.ReLU(), nn.Flatten()]
    inputs = nn.Sequential(*first)(torch.zeros(1, *shape[1:])).shape[-1]
    shared = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU())
    normalise = [nn.BatchNorm1d(hidden)] * case.get("normalised", 0)
    body = nn.Sequential(*first, nn.Linear(inputs, hidden), *normalise, nn.ReLU(), *[shared] * case["uses"])
    model = nn.Sequential(body, nn.Dropout(0.5), nn.Linear(hidden, 5))
    return model.to(torch.tensor(case["x"]).dtype).train(bool(case["training"]))


def _observe_count(answer: Answer, case: Case) -> Observation:
    """Build the model, let the answer count, and look at what became of the model."""
    model, x = _build(case), torch.tensor(case["x"])
    before, averages = parameters_of(model), [buffer.clone() for buffer in model.buffers()]
    value = answer(model, x)
    seen = observe_value(int(value) if isinstance(value, np.integer) else value)
    hooks = sum(len(layer._forward_hooks) + len(layer._forward_pre_hooks) for layer in model.modules())
    modes = {layer.training for layer in model.modules()}
    moved = not all(map(torch.equal, averages, model.buffers()))
    return seen | {
        "number of hooks left on the model": str(hooks),
        "mode the model is left in": "mixed" if len(modes) == 2 else "training" if modes.pop() else "evaluation",
        "state of the running averages": "moved" if moved else "as they were",
        "`model` afterwards": parameters_of(model) - before,
        "`x` afterwards": x.numpy(),
    }


def _wrong_count(
    model: nn.Module,
    x: Tensor,
    *,
    multiply_adds: bool = False,
    whole_batch: bool = False,
    biases: bool = False,
    one_place: bool = False,
    one_row: bool = False,
    input_size: bool = False,
    groups_ignored: bool = False,
    groups_twice: bool = False,
    kernel_once: bool = False,
    whole_weight: bool = False,
    one_less: bool = False,
    activations: bool = False,
    used_once: bool = False,
    top_only: bool = False,
    linear_only: bool = False,
    hooks_left: bool = False,
    left_in_eval: bool = False,
    moves_averages: bool = False,
    parameters: bool = False,
) -> int:
    if parameters:
        return sum(parameter.numel() for parameter in model.parameters())
    counts: list[tuple[nn.Module, int]] = []

    def note(layer: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        convolution = isinstance(layer, nn.Conv2d)
        outputs = made[0].numel()
        if isinstance(layer, nn.ReLU):
            counts.append((layer, outputs))
            return
        terms = layer.weight.numel() if whole_weight else layer.weight[0].numel()  # products in one output
        if one_place if convolution else one_row:
            outputs = len(layer.weight)
        elif input_size and convolution:
            outputs = len(layer.weight) * given[0][0, 0].numel()
        if convolution:
            terms = terms * (layer.groups if groups_ignored else 1) // (layer.groups if groups_twice else 1)
            terms //= layer.kernel_size[0] if kernel_once else 1
        count = outputs * ((1 if multiply_adds else 2) * terms + biases - one_less) * (len(x) if whole_batch else 1)
        counts.append((layer, count))

    kinds = (nn.Linear, *[nn.Conv2d] * (not linear_only), *[nn.ReLU] * activations)
    hooked = [layer for layer in (model.children() if top_only else model.modules()) if isinstance(layer, kinds)]
    handles = [layer.register_forward_hook(note) for layer in hooked]
    was = model.training
    with torch.no_grad():
        model.train(was and moves_averages)(x)
    if not left_in_eval:
        model.train(was)
    for handle in () if hooks_left else handles:
        handle.remove()
    return sum(dict(counts).values()) if used_once else sum(count for _, count in counts)


COUNT_FLOPS = Exercise(
    id="03.count_flops",
    title="Count the FLOPs",
    points=3,
    reference=scorecard.count_flops,
    inputs=_count_inputs,
    drive=_observe_count,
    wrong=_wrong_count,
    mistakes=(
        Mistake(
            "multiply_adds",
            "the number of multiply-adds, half the FLOPs",
            "A multiplication and an addition are two operations.",
        ),
        Mistake(
            "whole_batch",
            "counted for the whole batch",
            "The bill is per example: what would a batch of one cost?",
        ),
        Mistake("biases", "counted with the biases", "The convention leaves biases out, as PyTorch's counter does."),
        Mistake(
            "one_place",
            "counted as if a convolution were applied at one place only",
            "The kernel slides over the image. At how many places does it stop? Look at the output.",
        ),
        Mistake(
            "one_row",
            "counted as if a linear layer saw one row per example",
            "An example may have several rows, as the words of a text. The layer multiplies each of them.",
        ),
        Mistake(
            "input_size",
            "counted with the size of the convolution's input",
            "Stride and padding change the number of places. Count those of the output.",
        ),
        Mistake(
            "groups_ignored",
            "counted as if every filter saw all channels",
            "With `groups`, a filter sees only its share of the channels. The shape of `weight` knows.",
        ),
        Mistake(
            "groups_twice",
            "counted with the number of groups divided out twice",
            "The shape of `weight` has the share of the channels already.",
        ),
        Mistake(
            "whole_weight",
            "counted as if every output used the whole weight",
            "One output is one row of `weight` times the input, or one filter. How many products is that?",
        ),
        Mistake(
            "one_less",
            "counted with one addition less for each output",
            "True to the letter, but the convention is 2 per multiply-add: the first product is added to zero.",
        ),
        Mistake("activations", "counted with the activations", "Count linear layers and convolutions only."),
        Mistake(
            "kernel_once",
            "counted with a row of the kernel in the place of the kernel",
            "A kernel has a height *and* a width.",
        ),
        Mistake(
            "used_once",
            "counted once for each layer, however often it runs",
            "A layer that runs twice costs twice. Add to a total each time the hook is called.",
        ),
        Mistake(
            "top_only",
            "counted without the layers inside blocks",
            "`children()` stops at the first level. Which method visits every module?",
        ),
        Mistake("linear_only", "counted without the convolutions", "Hook `nn.Conv2d`, too."),
        Mistake(
            "hooks_left",
            "right in value, but your hooks stay on the model",
            "They would run at every later call. Keep what `register_forward_hook` returns: it can remove the hook.",
        ),
        Mistake(
            "left_in_eval",
            "right in value, but the model stays in evaluation mode",
            "Whoever trains on would train without dropout. Note `model.training` first and set it back.",
        ),
        Mistake(
            "moves_averages",
            "right in value, but your forward pass moves the running averages of batch normalisation",
            "In training mode every forward pass does that, also without gradients. In which mode do they rest?",
        ),
        Mistake(
            "parameters",
            "the number of parameters",
            "Parameters are what a model stores. FLOPs are what it does: let it run and watch.",
        ),
    ),
    properties=(
        Property(
            "does not change when an activation is added",
            lambda answer: (
                answer(nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Softmax(-1)), torch.ones(3, 3)) == 2 * 3 * 4
            ),
        ),
    ),
    sizes=lambda case: {"the number of examples": len(case["x"])},
    # What is left on the model shows beside a wrong count anyway.
    alone=frozenset(
        {
            "parameters",
            "whole_weight",
            "groups_twice",
            "one_less",
            "activations",
            "hooks_left",
            "left_in_eval",
            "moves_averages",
        }
    ),
)


# --- ensemble_targets -------------------------------------------------------------------------


def _ensemble_inputs(rng: np.random.Generator) -> list[Case]:
    shapes = ((3, 4, 5), (1, 6, 3), (5, 2, 10), (2, 7, 2), (4, 1, 6), (3, 3, 3))
    temperatures = (4.0, 2.0, 1.0, 0.5, 8.0, 3.0)
    cases = [
        {"logits": rng.normal(0, 3, shape).astype(dtype), "temperature": t}
        for shape, t, dtype in zip(shapes, temperatures, ("float64", "float32") * 3, strict=True)
    ]
    # One member is far surer than the others: it decides an average of logits alone.
    sure = rng.normal(0, 2, (3, 5, 4)).astype("float32")
    sure[0] = 1000.0 * rng.permuted(np.tile([1, 0, -1, -2], (5, 1)), axis=1)
    return [*cases, {"logits": sure, "temperature": 2.0}]


def _wrong_ensemble(
    logits: Tensor,
    temperature: float,
    *,
    logits_averaged: bool = False,
    logits_summed: bool = False,
    no_temperature: bool = False,
    multiplied: bool = False,
    softened_after: bool = False,
    softened_late: bool = False,
    geometric: bool = False,
    member_axis: bool = False,
    batch_axis: bool = False,
    summed: bool = False,
    over_batch: bool = False,
    vote: bool = False,
    surest: bool = False,
    hard: bool = False,
    unstable: bool = False,
    log_mean: bool = False,
) -> Tensor:
    axis = 1 if batch_axis else 0 if member_axis and not logits_averaged else -1
    if geometric:
        return F.log_softmax(logits / temperature, -1).mean(0).exp()
    plain = no_temperature or softened_after or softened_late
    scaled = logits if plain else logits * temperature if multiplied else logits / temperature
    if logits_averaged or logits_summed:
        scaled = scaled.mean(0, keepdim=True) if logits_averaged else scaled.sum(0, keepdim=True)
    soft = scaled.exp() / scaled.exp().sum(axis, keepdim=True) if unstable else torch.softmax(scaled, axis)
    if vote:
        soft = F.one_hot(soft.argmax(-1), soft.shape[-1]).to(logits.dtype)
    if surest:
        chosen = soft.amax(-1).argmax(0)
        return soft[chosen, torch.arange(len(chosen))]
    answer = soft.sum(0) if summed else soft.mean(1 if over_batch else 0)
    if softened_after:
        answer = torch.softmax(answer / temperature, -1)
    if softened_late:
        answer = answer ** (1 / temperature)
        answer = answer / answer.sum(-1, keepdim=True)
    if hard:
        answer = F.one_hot(answer.argmax(-1), answer.shape[-1]).to(logits.dtype)
    return answer.log() if log_mean else answer


ENSEMBLE_TARGETS = Exercise(
    id="03.ensemble_targets",
    title="Several teachers",
    points=2,
    reference=capacity.ensemble_targets,
    inputs=_ensemble_inputs,
    drive=observe_value_only,
    wrong=_wrong_ensemble,
    mistakes=(
        Mistake(
            "logits_averaged",
            "the softmax of averaged logits, which is the geometric mean of the probabilities",
            "A member with large logits outvotes the rest. Let each speak in probabilities first; then average.",
        ),
        Mistake(
            "logits_summed",
            "the softmax of summed logits, which is the product of the probabilities",
            "A product lets one member veto a class, and grows surer with every member. Take a mean of probabilities.",
        ),
        Mistake(
            "no_temperature",
            "the mean of plain probabilities, without the temperature",
            "Each member is softened: use `temperature`.",
        ),
        Mistake(
            "multiplied",
            "softened with logits multiplied by the temperature",
            "A high temperature should make the probabilities more even: should the logits grow or shrink?",
        ),
        Mistake(
            "softened_after",
            "a softmax of the averaged probabilities",
            "Probabilities are no logits. The temperature belongs inside each member's own softmax.",
        ),
        Mistake(
            "softened_late",
            "the mean of plain probabilities, softened afterwards",
            "The order matters: soften each member first, then average.",
        ),
        Mistake(
            "geometric",
            "the geometric mean of the probabilities",
            "A mean of *log*-probabilities is something else, and its rows do not sum to 1.",
        ),
        Mistake(
            "member_axis",
            "a softmax over the members",
            "`logits[m, b]` is what member m says of example b. Which axis holds the classes?",
        ),
        Mistake(
            "batch_axis",
            "a softmax over the examples",
            "In (M, B, C), `dim=1` is the examples' axis. Which axis holds the classes?",
        ),
        Mistake(
            "summed",
            "the sum over the members",
            "Each row should sum to 1: divide by the number of members.",
        ),
        Mistake(
            "over_batch",
            "averaged over the examples",
            "The members should go, the examples stay. Which axis holds the members?",
        ),
        Mistake(
            "vote",
            "a vote: each member names one class",
            "A vote throws away what the members say about the other classes. Average probabilities.",
        ),
        Mistake(
            "hard",
            "a hard label: the class that the members find likeliest together",
            "Keep what they say about the other classes: return the probabilities.",
        ),
        Mistake(
            "surest",
            "the answer of the surest member alone",
            "The members that doubt count as much as the one that is sure: take the mean.",
        ),
        Mistake(
            "unstable",
            "the right formula, but `exp` overflows for large logits",
            "Which function takes a softmax without that?",
        ),
        Mistake(
            "log_mean",
            "the log of the right answer",
            "Return the probabilities themselves. They lie between 0 and 1.",
        ),
    ),
    properties=(
        Property(
            "does not depend on the order of the members",
            lambda answer: torch.allclose(
                answer(torch.tensor([[[1.0, 2.0, 4.0]], [[3.0, 0.0, 1.0]]]), 2.0),
                answer(torch.tensor([[[3.0, 0.0, 1.0]], [[1.0, 2.0, 4.0]]]), 2.0),
            ),
        ),
    ),
    sizes=lambda case: {
        **dict(zip(("the number of members", "the number of examples"), case["logits"].shape, strict=False)),
        "the number of classes": case["logits"].shape[-1],
        "the temperature": case["temperature"],
    },
    alone=frozenset({"logits_summed", "softened_late", "geometric", "surest", "hard", "log_mean"}),
)


# --- dkd_terms --------------------------------------------------------------------------------


def _dkd_inputs(rng: np.random.Generator) -> list[Case]:
    def case(shape: tuple[int, int], scale: float, temperature: float, dtype: str) -> Case:
        student, teacher = rng.normal(0, scale, (2, *shape)).astype(dtype)
        labels = rng.integers(0, shape[1], shape[0])
        return {"student_logits": student, "teacher_logits": teacher, "labels": labels, "temperature": temperature}

    usual = [
        case((4, 5), 3, 4.0, "float64"),
        case((6, 10), 3, 3.0, "float32"),
        case((1, 3), 2, 1.0, "float64"),
        case((5, 2), 2, 2.0, "float64"),  # one class is left beside the target: NCKD is zero
        case((7, 4), 2, 8.0, "float32"),
    ]
    far = case((6, 5), 3, 1.0, "float32")
    # The student gives one class everything, the teacher another: as target and as one of the rest.
    for name, classes in (("student_logits", [0, 1, 2, 3, 4]), ("teacher_logits", [1, 2, 3, 4, 0])):
        far[name][np.arange(5), classes] = 200.0
        far[name][np.arange(5), np.add(classes, 2) % 5] = -200.0
        # In the last row the target has everything: a mask must lie below all the rest.
        far[name][5] += np.array([-200, 200, -200, -200, -200])
    far["labels"] = np.array([0, 1, 3, 4, 2, 1])
    return [*usual, far]


def _observe_terms(answer: Answer, case: Case) -> Observation:
    """Observe both terms as one tensor (2,), its gradient that of a weighted sum of the two."""
    kinds: list[str] = []

    def both(*arguments: object) -> object:
        terms = answer(*arguments)
        kinds.append(_kind(terms))
        several = isinstance(terms, (tuple, list)) and len(terms) and all(isinstance(term, Tensor) for term in terms)
        return torch.stack(list(terms)) if several and len({term.shape for term in terms}) == 1 else terms

    return observe_call(both, case, constants=("teacher_logits",)) | {"type": kinds[0]}


def _kind(terms: object) -> str:
    """Say what was returned: "tuple (scalar tensor, scalar tensor)"."""
    if not isinstance(terms, (tuple, list)):
        return observe_value(terms)["type"]
    kinds = [
        ("scalar tensor" if not term.ndim else f"tensor of shape {tuple(term.shape)}")
        if isinstance(term, Tensor)
        else type(term).__name__
        for term in terms
    ]
    return f"{type(terms).__name__} ({', '.join(kinds)})"


def _wrong_dkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float,
    *,
    order: bool = False,
    swapped: bool = False,
    no_square: bool = False,
    square_on_first: bool = False,
    no_temperature: bool = False,
    student_unsoftened: bool = False,
    teacher_unsoftened: bool = False,
    not_detached: bool = False,
    student_cut: bool = False,
    target_only: bool = False,
    not_renormalised: bool = False,
    student_not_renormalised: bool = False,
    zero_masked: bool = False,
    weighted: bool = False,
    weighted_by_student: bool = False,
    naive_target: bool = False,
    naive_rest: bool = False,
    masked_log: bool = False,
    predicted: bool = False,
    cross_entropy: bool = False,
    element_mean: bool = False,
    summed: bool = False,
    per_example: bool = False,
) -> tuple[Tensor, Tensor]:
    student = student_logits.detach() if student_cut else student_logits
    teacher = teacher_logits if not_detached or student_cut else teacher_logits.detach()
    target = F.one_hot(teacher.argmax(-1) if predicted else labels, teacher.shape[-1]).bool()
    scaled = (
        student / (1.0 if no_temperature or student_unsoftened else temperature),
        teacher / (1.0 if no_temperature or teacher_unsoftened else temperature),
    )

    def others(values: Tensor) -> Tensor:
        return values[~target].view(len(values), -1)

    def target_and_rest(z: Tensor) -> Tensor:
        return torch.stack([z[target], others(z).logsumexp(-1)], -1)

    def among_others(z: Tensor) -> Tensor:
        if masked_log:
            return z - 1000.0 * target
        return z * ~target if zero_masked else z if not_renormalised else others(z)

    def reduced(terms: Tensor) -> Tensor:
        terms = terms if element_mean else terms.sum(-1)
        return terms if per_example else terms.sum() if summed else terms.mean()

    divergence = partial(wrong_terms, temperature=1.0, swapped=swapped, cross_entropy=cross_entropy)
    tckd = divergence(*map(target_and_rest, scaled), log_of_softmax=naive_target)
    nckd = divergence(*map(among_others, scaled), log_of_softmax=naive_rest or masked_log)
    if not_renormalised:
        nckd = others(nckd)
    if student_not_renormalised:
        log_t = F.log_softmax(others(scaled[1]), -1)
        nckd = log_t.exp() * (log_t - others(F.log_softmax(scaled[0], -1)))
    if weighted or weighted_by_student:
        nckd = nckd * torch.softmax(target_and_rest(scaled[0 if weighted_by_student else 1]), -1)[:, 1:]
    square = 1.0 if no_square else temperature**2
    terms = square * reduced(tckd[:, :1] if target_only else tckd), (1 if square_on_first else square) * reduced(nckd)
    return terms[::-1] if order else terms


DKD_TERMS = Exercise(
    id="03.dkd_terms",
    title="The two halves of the distillation loss",
    points=4,
    reference=capacity.dkd_terms,
    inputs=_dkd_inputs,
    drive=_observe_terms,
    wrong=_wrong_dkd,
    mistakes=(
        Mistake("order", "the two terms in the other order", "TCKD, about the target class, comes first."),
        SWAPPED,
        NO_SQUARE,
        Mistake(
            "square_on_first",
            "computed with the factor T² in TCKD only",
            "A product binds closer than a comma. Both terms carry the factor.",
        ),
        Mistake(
            "no_temperature",
            "computed with both sides at temperature 1",
            "Both parts are about softened probabilities: divide the logits by T.",
        ),
        STUDENT_UNSOFTENED,
        TEACHER_UNSOFTENED,
        mistake_not_detached("teacher_logits"),
        mistake_student_cut("student_logits"),
        Mistake(
            "target_only",
            "computed with half of TCKD: the target's part alone",
            "b has two entries. The divergence sums over both: the target, and everything else.",
        ),
        Mistake(
            "not_renormalised",
            "computed with probabilities of the other classes that do not sum to 1",
            "p̂ is a distribution of its own, over C − 1 classes. Leave the target out *before* the softmax.",
        ),
        Mistake(
            "student_not_renormalised",
            "computed with a student whose probabilities of the other classes do not sum to 1",
            "The teacher's p̂ is right. The student's, too, is a distribution over C − 1 classes.",
        ),
        Mistake(
            "zero_masked",
            "computed with a target logit of 0 in NCKD",
            "A logit of 0 still gets a share of the softmax, often a large one. The target must be out altogether.",
        ),
        Mistake(
            "weighted",
            "NCKD with the weight 1 − p_y of the teacher: plain distillation again",
            "That weight mutes the term where the teacher is sure. DKD drops it.",
        ),
        Mistake(
            "weighted_by_student",
            "NCKD with the weight 1 − p_y of the student",
            "DKD drops the weight. And in plain distillation it is the teacher's, not the student's.",
        ),
        Mistake(
            "naive_target",
            "right for small logits, but in TCKD takes the log of a probability that has reached 0",
            "p_y or 1 − p_y rounds to 0. Build the log of the rest from log-probabilities: `logsumexp`.",
        ),
        Mistake(
            "naive_rest",
            "right for small logits, but in NCKD takes the log of a softmax that has reached 0",
            "Which function gives log-probabilities in one step?",
        ),
        Mistake(
            "masked_log",
            "computed with a masked target: its probability is 0, and 0 · log 0 makes NCKD nan",
            "Pick the C − 1 other logits out instead of masking one.",
        ),
        Mistake(
            "predicted",
            "computed with the teacher's own prediction as the target class",
            "The target class stands in `labels`, even where the teacher is wrong.",
        ),
        CROSS_ENTROPY,
        Mistake(
            "element_mean",
            "averaged over examples *and* classes",
            "Sum over the classes first, two in one term, C − 1 in the other; average over the examples only.",
        ),
        SUMMED,
        Mistake("per_example", "one number for each example", "Average over the examples: each term is a scalar."),
    ),
    properties=(
        Property(
            "adds up to `kd_loss`, for one example, once NCKD is weighted with the teacher's 1 − p_y",
            lambda answer: _adds_up(answer),
        ),
    ),
    sizes=lambda case: {
        "the number of classes": case["student_logits"].shape[1],
        "the number of examples": len(case["labels"]),
        "the temperature": case["temperature"],
    },
    alone=frozenset(
        {
            "element_mean",
            "summed",
            "per_example",
            "masked_log",
            "square_on_first",
            "student_not_renormalised",
            "weighted_by_student",
            "student_cut",
            "student_unsoftened",
            "teacher_unsoftened",
        }
    ),
)


def _adds_up(answer: Answer) -> bool:
    student, teacher = torch.tensor([[[1.0, -2.0, 0.5]], [[0.0, 2.0, 1.0]]], dtype=torch.float64)
    tckd, nckd = answer(student, teacher, torch.tensor([1]), 2.0)
    rest = 1 - soft_targets.soften(teacher, 2.0)[0, 1]
    return torch.allclose(tckd + rest * nckd, soft_targets.kd_loss(student, teacher, 2.0))


# --- teach_chain ------------------------------------------------------------------------------


def _chain_inputs(rng: np.random.Generator) -> list[Case]:
    def case(examples: int, widths: list[int], dtype: str, **numbers: float) -> Case:
        return {
            "widths": np.array(widths),
            "teacher_logits": rng.normal(0, 3, (examples, 3)).astype(dtype),
            "images": rng.normal(0, 1, (examples, 5)).astype(dtype),
            **numbers,
        }

    return [
        case(6, [6, 4], "float64", steps=2, temperature=3.0, learning_rate=0.2),
        case(5, [8, 6, 3], "float64", steps=3, temperature=2.0, learning_rate=0.1),
        case(7, [5], "float64", steps=4, temperature=5.0, learning_rate=0.2),
        case(9, [7, 5, 4, 2], "float32", steps=1, temperature=1.0, learning_rate=0.3),
    ]


def _normalised(inputs: int, width: int, outputs: int, like: Tensor) -> nn.Module:
    """Build a network that answers otherwise in training mode, but without chance."""
    # Its running averages are those of the last batch: a forward pass more per step makes no difference.
    normalise = nn.BatchNorm1d(width, momentum=1.0)
    layers = nn.Linear(inputs, width), normalise, nn.ReLU(), nn.Linear(width, outputs)
    return nn.Sequential(*layers).to(like.dtype)


def _observe_chain(answer: Answer, case: Case) -> Observation:
    """Build the chain, let the answer train it, and look at every model in turn."""
    given = tensors(case)
    widths, images = given.pop("widths"), given["images"]
    models = [_normalised(images.shape[1], int(width), 3, images) for width in widths]
    value = answer(models, *given.values())
    seen = observe_value(value)
    trained = {
        f"parameter vector of `models[{k}]` after training": parameters_of(model) for k, model in enumerate(models)
    }
    graph = "some" if isinstance(value, Tensor) and value.requires_grad else "none"
    afterwards = {f"`{name}` afterwards": given[name].numpy() for name in ("teacher_logits", "images")}
    # The models before the logits: the first one that differs tells where the chain breaks.
    return {"type": seen.pop("type")} | trained | seen | {"gradient graph of the value": graph} | afterwards


def _teach_chain(
    models: list[nn.Module],
    teacher_logits: Tensor,
    images: Tensor,
    steps: int,
    temperature: float,
    learning_rate: float,
    *,
    no_chain: bool = False,
    wrong_order: bool = False,
    side_by_side: bool = False,
    untrained_assistant: bool = False,
    teaches_in_training: bool = False,
    learns_in_evaluation: bool = False,
    hard: bool = False,
    probabilities: bool = False,
    accumulates: bool = False,
    zeroed_late: bool = False,
    default_temperature: bool = False,
    first_untaught: bool = False,
    last_untaught: bool = False,
    fourth_power: bool = False,
    momentum: bool = False,
    one_step_behind: bool = False,
    last_in_training: bool = False,
    returns_probabilities: bool = False,
    keeps_graph: bool = False,
    copies: bool = False,
    adam: bool = False,
) -> Tensor:
    """Train every model on the answers of the one before it; return the last one's logits."""
    chain = models[::-1] if wrong_order else copy.deepcopy(models) if copies else models
    optimiser = torch.optim.Adam if adam else partial(torch.optim.SGD, momentum=0.9 if momentum else 0.0)
    optimisers = [optimiser(model.parameters(), lr=learning_rate) for model in chain]
    answers = [model.eval()(images) for model in chain]  # replaced as the models learn
    turns = [k for _ in range(steps) for k in range(first_untaught, len(chain) - last_untaught)]
    for k in turns if side_by_side else sorted(turns):
        targets = teacher_logits if no_chain or k == 0 else answers[k - 1].detach()
        logits = chain[k].train(not learns_in_evaluation)(images)
        if hard:
            loss = F.cross_entropy(logits, targets.argmax(-1))
        else:
            softness = 4.0 if default_temperature else temperature
            loss = soft_targets.kd_loss(logits, targets.softmax(-1) if probabilities else targets, softness)
            loss = loss * temperature**2 if fourth_power else loss
        wrong_step(optimisers[k], loss, accumulates=accumulates, zeroed_late=zeroed_late)
        last = k == len(chain) - 1
        if last or not untrained_assistant:
            training = teaches_in_training or (last_in_training and last)
            answers[k] = logits if one_step_behind else chain[k].train(training)(images)
    answer = answers[-1] if turns or last_untaught else teacher_logits
    answer = answer if keeps_graph else answer.detach()
    return answer.softmax(-1) if returns_probabilities else answer


TEACH_CHAIN = Exercise(
    id="03.teach_chain",
    title="A chain of assistants",
    points=3,
    reference=_teach_chain,
    inputs=_chain_inputs,
    drive=_observe_chain,
    wrong=_teach_chain,
    mistakes=(
        Mistake(
            "no_chain",
            "no chain: every model learns from the first teacher",
            "Whose logits should the second model see?",
        ),
        Mistake(
            "wrong_order",
            "a chain that starts at its last model",
            "`models[0]` stands next to the teacher. It learns first.",
        ),
        Mistake(
            "side_by_side",
            "a chain whose models all learn at the same time",
            "An assistant should have finished before it teaches. Which loop goes inside, over models or over steps?",
        ),
        Mistake(
            "untrained_assistant",
            "a chain whose assistants gave their answers before they had learned",
            "When do you ask an assistant for its logits: before its training or after?",
        ),
        Mistake(
            "teaches_in_training",
            "a chain whose models answer in training mode",
            "Batch normalisation then looks at the batch. Before it teaches, a model goes to another mode.",
        ),
        Mistake(
            "learns_in_evaluation",
            "a chain whose models learn in evaluation mode",
            "Batch normalisation then never sees the batch. Which mode belongs to training?",
        ),
        Mistake(
            "hard",
            "a chain that hands on hard labels",
            "`argmax` keeps one class. An assistant should hand on what it says about all of them.",
        ),
        Mistake(
            "probabilities",
            "a chain that gives `kd_loss` probabilities",
            "`kd_loss` applies the softmax itself: what does it expect?",
        ),
        Mistake(
            "default_temperature",
            "a chain that leaves `kd_loss` at its default temperature, 4",
            "Hand `temperature` on.",
        ),
        Mistake(
            "first_untaught",
            "a chain whose first model never learns",
            "`models` holds students only. The first teacher is there as `teacher_logits`.",
        ),
        Mistake(
            "last_untaught",
            "a chain whose last model is unchanged",
            "`models` holds students only: the last one learns, too. Where does your loop end?",
        ),
        Mistake(
            "fourth_power",
            "a chain with the factor T² twice",
            "`kd_loss` holds it already.",
        ),
        ACCUMULATES,
        Mistake(
            "zeroed_late",
            "a chain after which the models are as they were",
            "Something clears the gradients between `backward` and `step`.",
        ),
        Mistake(
            "one_step_behind",
            "a chain that hands on the logits from before the last step",
            "The logits of your training loop are older than the last step, and come from training mode. Ask again.",
        ),
        Mistake(
            "last_in_training",
            "right but for the last model's answer: it comes from training mode",
            "The last model answers as every assistant does.",
        ),
        Mistake(
            "returns_probabilities",
            "right in training, but you return probabilities",
            "Return the logits, from before the softmax.",
        ),
        Mistake(
            "keeps_graph",
            "right in value, but the logits you return still carry their graph",
            "Nobody trains through them. Compute them where no graph is built.",
        ),
        Mistake(
            "copies",
            "right in value, but you trained copies",
            "The models you were given are as they were. Train them in place.",
        ),
        Mistake(
            "momentum",
            "right but for the optimiser: it has momentum",
            "Plain gradient descent is `torch.optim.SGD` with no momentum.",
        ),
        ADAM,
    ),
    alone=frozenset(
        {
            "wrong_order",
            "last_untaught",
            "fourth_power",
            "momentum",
            "untrained_assistant",
            "copies",
            "keeps_graph",
            "adam",
            "one_step_behind",
            "zeroed_late",
            "default_temperature",
            "first_untaught",
            "last_in_training",
            "returns_probabilities",
        }
    ),
)


# --- pareto_front: the variant whose answer the lesson does not print -------------------------


def _pareto_inputs(rng: np.random.Generator) -> list[Case]:
    def case(models: int, kinds: int | None, dtype: str) -> Case:
        costs = rng.integers(2, 9, (models, kinds or 1)).astype(dtype)
        scores = rng.integers(2, 9, models).astype(dtype)
        # The best twice; beside it one as dear but worse, and one as good but dearer.
        best, extra = scores.argmax(), np.eye(1, kinds or 1)
        costs = np.concatenate([costs, costs[[best, best]], costs[[best]] + extra])
        scores = np.concatenate([scores, scores[[best]], scores[[best]] - 1, scores[[best]]])
        order = rng.permutation(models + 3)
        return {"costs": costs[order, 0] if kinds is None else costs[order], "scores": scores[order]}

    return [
        case(7, None, "float64"),
        case(9, 2, "float64"),
        case(12, 3, "float32"),
        case(8, 1, "float32"),
        {"costs": rng.uniform(1, 9, 15), "scores": rng.uniform(0, 1, 15)},
        {"costs": rng.uniform(1, 9, (20, 2)), "scores": rng.uniform(0, 1, 20)},
        {"costs": np.array([3.0]), "scores": np.array([-1.0])},
        {"costs": np.full((4, 2), 2.0), "scores": np.full(4, 0.5)},
    ]


def _observe_mask(answer: Answer, case: Case) -> Observation:
    value = answer(case["costs"], case["scores"])
    return observe_value(value) | {f"`{name}` afterwards": case[name] for name in ("costs", "scores")}


def _wrong_pareto(
    costs: np.ndarray,
    scores: np.ndarray,
    *,
    equals_dropped: bool = False,
    later_equals_dropped: bool = False,
    itself: bool = False,
    strictly_in_all: bool = False,
    only_score: bool = False,
    only_cost: bool = False,
    neighbours: bool = False,
    first_cost: bool = False,
    costs_summed: bool = False,
    dear: bool = False,
    low_scores: bool = False,
    any_better: bool = False,
    dominated: bool = False,
    cost_order: bool = False,
    indices: bool = False,
) -> np.ndarray:
    table = costs.reshape(len(costs), -1)
    if first_cost or costs_summed:
        table = table[:, :1] if first_cost else table.sum(1, keepdims=True)
    goods = np.column_stack([table if dear else -table, -scores if low_scores else scores])
    as_good = (goods[:, None] >= goods[None]).all(-1)
    better = (goods[:, None] > goods[None]).any(-1)
    n = len(goods)
    if any_better:
        beaten = better
    elif strictly_in_all:
        beaten = (goods[:, None] > goods[None]).all(-1)
    elif itself:
        beaten = as_good
    elif only_score or only_cost:
        strictly = goods[:, None] > goods[None]
        beaten = as_good & (strictly[..., -1] if only_score else strictly[..., :-1].any(-1))
    elif neighbours:
        # Sorted by cost, then by score: is the next cheaper one at least as good?
        order = np.lexsort((-goods[:, -1], -goods[:, 0]))
        beaten = np.zeros((n, n), dtype=bool)
        beaten[order[:-1], order[1:]] = (goods[order[:-1]] >= goods[order[1:]])[:, -1]
    elif equals_dropped or later_equals_dropped:
        beaten = as_good & ~np.eye(n, dtype=bool)
        if later_equals_dropped:
            beaten &= better | (np.arange(n)[:, None] < np.arange(n))
    else:
        beaten = as_good & better
    kept = ~beaten.any(0)
    if dominated:
        kept = ~kept
    if cost_order:
        kept = kept[np.argsort(costs.reshape(n, -1)[:, 0])]
    return np.flatnonzero(kept) if indices else kept


PARETO_FRONT = Exercise(
    id="03.pareto_front",
    title="Which models are worth their price",
    points=2,
    reference=capacity.pareto_front,
    inputs=_pareto_inputs,
    drive=_observe_mask,
    wrong=_wrong_pareto,
    mistakes=(
        Mistake(
            "equals_dropped",
            "a front without the models that have an equal",
            "Two equal models: is either of them *better* than the other in anything?",
        ),
        Mistake(
            "later_equals_dropped",
            "a front that keeps one of several equal models",
            "Equal models are all kept. A model falls only to one that is better in something.",
        ),
        Mistake(
            "itself",
            "a front on which nothing is left",
            "Every model is as cheap and as good as itself. That must not push it out.",
        ),
        Mistake(
            "only_score",
            "a front that drops a model only for a better score",
            "One that is as good and cheaper pushes it out, too.",
        ),
        Mistake(
            "only_cost",
            "a front that drops a model only for a lower cost",
            "One that costs the same and is better pushes it out, too.",
        ),
        Mistake(
            "strictly_in_all",
            "a front that drops a model only if another is better in everything",
            "As cheap and better, or as good and cheaper, is enough to push a model out.",
        ),
        Mistake(
            "neighbours",
            "a front that compares each model with the next cheaper one only",
            "The model that pushes another out may cost far less. Compare with every model, or with the best so far.",
        ),
        Mistake(
            "first_cost",
            "a front for the first kind of cost alone",
            "With costs (n, k), a model may be worth its memory though not its FLOPs. All k count.",
        ),
        Mistake(
            "costs_summed",
            "a front for the sum of the costs",
            "FLOPs and bytes can't be added. To push a model out, another must be as cheap in every kind of cost.",
        ),
        Mistake("dear", "a front that takes dear for good", "Of costs, less is better."),
        Mistake("low_scores", "a front that takes low scores for good", "Of scores, more is better."),
        Mistake(
            "any_better",
            "a front that drops a model as soon as another is better in anything",
            "Cheaper but worse pushes nobody out. The other must be at least as good in everything else.",
        ),
        Mistake("dominated", "the mask turned round: the models that are *not* worth it", "True is for those kept."),
        Mistake(
            "cost_order",
            "the right mask, but in order of cost",
            "Say it of the models in the order in which they were given.",
        ),
        Mistake(
            "indices",
            "the numbers of the models on the front",
            "Return a mask: for each model, in the given order, True or False.",
        ),
    ),
    properties=(
        Property(
            "goes with the models when they come in another order",
            lambda answer: bool(
                np.array_equal(
                    answer(np.array([3.0, 1.0, 2.0, 2.0]), np.array([3.0, 1.0, 1.0, 2.0])),
                    answer(np.array([2.0, 2.0, 1.0, 3.0]), np.array([2.0, 1.0, 1.0, 3.0]))[::-1],
                )
            ),
        ),
    ),
    alone=frozenset({"neighbours", "costs_summed", "itself", "cost_order"}),
)


# --- distil_ensemble: the bug hunt ------------------------------------------------------------


def _ensemble_training_inputs(rng: np.random.Generator) -> list[Case]:
    def case(examples: int, teachers: int, dtype: str, **numbers: float) -> Case:
        return {
            "teachers": teachers,
            "images": rng.normal(0, 1, (examples, 5)).astype(dtype),
            "labels": rng.integers(0, 3, examples),
            **numbers,
        }

    # The first case is the quickest: every subset of the bugs is tried on it.
    return [
        case(5, 2, "float64", steps=1, temperature=3.0, alpha=0.8, learning_rate=0.2),
        case(6, 3, "float64", steps=3, temperature=4.0, alpha=0.6, learning_rate=0.1),
        case(9, 1, "float64", steps=2, temperature=2.0, alpha=0.9, learning_rate=0.1),
        case(7, 4, "float32", steps=2, temperature=1.5, alpha=0.3, learning_rate=0.2),
    ]


def _observe_ensemble_training(answer: Answer, case: Case) -> Observation:
    """Build a student and its teachers, fresh from their training, and look at all of them."""
    given = tensors(case)
    images = given["images"]
    student = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).to(images.dtype)
    teachers = [_normalised(5, 6, 3, images) for _ in range(given.pop("teachers"))]
    with torch.no_grad():  # as surely as trained ones
        for teacher in teachers:
            teacher[-1].weight.mul_(8)
    before = [parameters_of(teacher) for teacher in teachers]
    answer(student, teachers, *given.values())
    touched = any(p.grad is not None and p.grad.any() for teacher in teachers for p in teacher.parameters())
    after = [parameters_of(teacher) for teacher in teachers]
    return {
        "student after training": parameters_of(student),
        "`teachers` afterwards": np.concatenate(after) - np.concatenate(before),
        "gradient left in the teachers": "some" if touched else "none",
    }


def _distil_ensemble(
    student: nn.Module,
    teachers: list[nn.Module],
    images: Tensor,
    labels: Tensor,
    steps: int,
    temperature: float,
    alpha: float,
    learning_rate: float,
    *,
    logits_averaged: bool = False,
    teachers_training: bool = False,
    teachers_unsoftened: bool = False,
    log_missing: bool = False,
    no_square: bool = False,
    student_unsoftened: bool = False,
    labels_softened: bool = False,
    square_on_labels: bool = False,
    softmax_twice: bool = False,
    swapped: bool = False,
    element_mean: bool = False,
    not_averaged: bool = False,
    one_factor: bool = False,
    summed: bool = False,
    targets_divided: bool = False,
    probabilities_as_logits: bool = False,
    logs_as_logits: bool = False,
    student_probabilities_as_logits: bool = False,
    log_target: bool = False,
    probabilities_squared: bool = False,
    divided_by_square: bool = False,
    alpha_on_labels: bool = False,
    accumulates: bool = False,
    zeroed_late: bool = False,
    adam: bool = False,
) -> None:
    """Train the student in place by gradient descent on the whole batch."""
    optimiser = (torch.optim.Adam if adam else torch.optim.SGD)(student.parameters(), lr=learning_rate)
    with torch.no_grad():
        members = torch.stack([teacher.train(teachers_training)(images) for teacher in teachers])
    members = members / (1.0 if teachers_unsoftened or targets_divided else temperature)
    targets = members.mean(0).softmax(-1) if logits_averaged else members.softmax(-1).mean(0)
    if probabilities_as_logits or logs_as_logits:
        targets = torch.softmax((targets.log() if logs_as_logits else targets) / temperature, -1)
    targets = targets / temperature if targets_divided else targets * len(teachers) if summed else targets
    weight = 1 - alpha if alpha_on_labels else alpha
    for _ in range(steps):
        logits = student(images)
        log_s = F.log_softmax(logits if student_unsoftened else logits / temperature, -1)
        log_s = F.log_softmax(log_s.exp(), -1) if student_probabilities_as_logits else log_s
        first, second = (targets.log(), log_s.exp()) if swapped else (log_s.exp() if log_missing else log_s, targets)
        soft = F.kl_div(first, second, reduction="sum", log_target=log_target)
        soft = F.mse_loss(log_s.exp(), targets) * len(images) if probabilities_squared else soft
        soft = soft / (log_s.numel() if element_mean else 1 if not_averaged else len(images))
        scores = logits / temperature if labels_softened else logits.softmax(-1) if softmax_twice else logits
        hard = F.cross_entropy(scores, labels) * (temperature**2 if square_on_labels else 1.0)
        soft = soft * temperature ** (0 if no_square else 1 if one_factor else -2 if divided_by_square else 2)
        loss = weight * soft + (1 - weight) * hard
        wrong_step(optimiser, loss, accumulates=accumulates, zeroed_late=zeroed_late)


# The five bugs of the broken loop come in any mixture, and so does a temperature that is gone altogether.
_BUGS = 5
_LOOP_MISTAKES = (
    Mistake(
        "logits_averaged",
        "a loop that averages the teachers' logits",
        "One teacher with large logits then decides alone. Average what they say as probabilities.",
    ),
    Mistake(
        "teachers_training",
        "a loop whose teachers are still in training mode",
        "Batch normalisation then looks at the batch instead of what it has learned. Which method changes that?",
    ),
    Mistake(
        "teachers_unsoftened",
        "a loop that leaves the teachers' side at temperature 1",
        "Both sides are softened with the same temperature, each teacher by itself.",
    ),
    Mistake(
        "log_missing",
        "a loop that gives `F.kl_div` the student's probabilities",
        "`F.kl_div` takes *log*-probabilities first and probabilities second.",
    ),
    Mistake(
        "no_square",
        "a loop without the factor T²",
        "Without it the soft term fades beside the labels' term as the temperature grows.",
    ),
    Mistake(
        "student_unsoftened",
        "a loop that leaves the student's side at temperature 1",
        "Both sides are softened with the same temperature.",
    ),
    Mistake(
        "labels_softened",
        "a loop with a temperature in the labels' term",
        "The temperature belongs to the teachers' term. A label is compared at T = 1.",
    ),
    Mistake(
        "square_on_labels",
        "a loop with T² on the labels' term, too",
        "The factor makes up for the softening. Which of the two terms is softened?",
    ),
    SOFTMAX_TWICE,
    SWAPPED,
    Mistake(
        "element_mean",
        "a loop whose soft term is averaged over examples *and* classes",
        "`F.kl_div` does that unless told otherwise. Which `reduction` sums over the classes first?",
    ),
    Mistake(
        "not_averaged",
        "a loop whose soft term is summed over the batch",
        "Average over the examples, as the labels' term does.",
    ),
    Mistake(
        "one_factor",
        "a loop with a factor T where T² belongs",
        "The gradient shrinks like 1/T²: what makes up for that?",
    ),
    Mistake(
        "summed",
        "a loop that adds the teachers up",
        "Targets should sum to 1 for each example: divide by the number of teachers.",
    ),
    Mistake(
        "targets_divided",
        "a loop that divides the teachers' probabilities by the temperature",
        "Those targets no longer sum to 1. The temperature belongs inside the softmax.",
    ),
    Mistake(
        "probabilities_as_logits",
        "a loop that gives `kd_loss` the teachers' probabilities",
        "It would apply a softmax to them once more. Which logits, divided by T, have these probabilities?",
    ),
    Mistake(
        "logs_as_logits",
        "a loop that gives `kd_loss` log p̄ as the teacher's logits",
        "`kd_loss` divides its logits by T, and p̄ is soft already. What must you multiply log p̄ by?",
    ),
    Mistake(
        "student_probabilities_as_logits",
        "a loop with a log-softmax of the student's softmax",
        "`F.log_softmax` takes logits, divided by T. It stands in the place of the softmax, not behind it.",
    ),
    Mistake(
        "log_target",
        "a loop that gives `F.kl_div` probabilities with `log_target=True`",
        "With it, the second argument, too, must be log-probabilities. Without it, probabilities are right.",
    ),
    Mistake(
        "probabilities_squared",
        "a loop whose soft term is the mean squared error of the probabilities",
        "It hardly sees the small probabilities. Use the KL divergence.",
    ),
    Mistake(
        "divided_by_square",
        "a loop whose KL divergence is divided by T²",
        "The gradient shrinks like 1/T² by itself; the factor T² makes up for that.",
    ),
    ALPHA_ON_LABELS,
    ACCUMULATES,
    ZEROED_LATE,
    ADAM,
)
DISTIL_ENSEMBLE = Exercise(
    id="03.distil_ensemble",
    title="Bug hunt: an ensemble as teacher",
    points=4,
    reference=_distil_ensemble,
    inputs=_ensemble_training_inputs,
    drive=_observe_ensemble_training,
    wrong=_distil_ensemble,
    mistakes=_LOOP_MISTAKES,
    at_once=_BUGS,
    alone=frozenset(mistake.name for mistake in _LOOP_MISTAKES[_BUGS + 1 :]),
)

EXERCISES = (COUNT_FLOPS, ENSEMBLE_TARGETS, DKD_TERMS, TEACH_CHAIN, PARETO_FRONT, DISTIL_ENSEMBLE)
