"""Lesson 11's exercises on learners that are given help: a learned trust, a student that reads the support."""

from collections.abc import Callable

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
    observe_call,
    observe_value,
    tensors,
)

# --- trust_loss -------------------------------------------------------------------------------


def _trust_inputs(rng: np.random.Generator) -> list[Case]:
    def case(line: tuple[float, float], sizes: tuple[int, int, int, int, int], dtype: str) -> Case:
        support, others, queries, width, classes = sizes
        middles = rng.normal(0, 1, (classes, width))

        def drawn(count: int, *, fixed: bool = True) -> tuple[np.ndarray, np.ndarray]:
            labels = rng.permutation(np.arange(count) % classes) if fixed else rng.integers(0, classes, count)
            return (middles[labels] + 0.7 * rng.normal(size=(count, width))).astype(dtype), labels.astype(np.int64)

        (images, labels), (other_images, _), (asked, answers) = drawn(support), drawn(others), drawn(queries)
        logits = {name: 1.5 * rng.normal(size=(count, classes)) for name, count in (("s", support), ("o", others))}
        logits["s"][np.arange(support), labels] += 0.5  # a teacher who knows something of these labels, not all
        return {
            "line": np.array(line, dtype),
            "support": images,
            "labels": labels,
            "others": other_images,
            "teacher_support": logits["s"].astype(dtype),
            "teacher_others": logits["o"].astype(dtype),
            "queries": asked,
            "query_labels": answers,
        }

    return [
        case((0.9, 0.1), (5, 8, 5, 3, 3), "float64"),
        case((2.4, 0.4), (3, 7, 3, 2, 4), "float32"),  # the last class is not in the support
        case((-0.5, -1.2), (4, 9, 4, 2, 2), "float64"),
        case((0.3, -0.7), (7, 4, 6, 3, 3), "float64"),
    ]


def _agreement(teacher: Tensor, labels: Tensor, ways: set[str]) -> Tensor:
    logs = F.log_softmax(teacher, dim=1)
    own = logs[torch.arange(len(labels)), labels]
    if "confidence" in ways:
        return logs.amax(dim=1).mean()
    if "accuracy" in ways:
        return (teacher.argmax(dim=1) == labels).to(teacher.dtype).mean()
    if "logit" in ways:
        return teacher[torch.arange(len(labels)), labels].mean()
    if "probability" in ways:
        return own.exp().mean()
    if "log_of_mean" in ways:
        return own.exp().mean().log()
    return own.sum() if "summed_agreement" in ways else own.mean()


def _trust(
    line: Tensor,
    support: Tensor,
    labels: Tensor,
    others: Tensor,
    teacher_support: Tensor,
    teacher_others: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    **mistakes: bool,
) -> Tensor:
    """Return how one learner fares on its queries when a line decides how far it trusts its teacher."""
    ways = {name for name, on in mistakes.items() if on}
    teacher_known = teacher_support if "teacher_kept" in ways else teacher_support.detach()
    if "agreement_on_queries" in ways and len(query_labels) != len(teacher_known):
        raise ValueError("labels: expected others")  # as `F.cross_entropy` does
    agreement = _agreement(teacher_known, query_labels if "agreement_on_queries" in ways else labels, ways)
    intercept, slope = line.flip(0) if "line_turned" in ways else line
    score = (intercept * agreement + slope) if "line_swapped" in ways else intercept + slope * agreement
    score = intercept - slope * agreement if "sign_turned" in ways else score
    score = intercept if "constant" in ways else slope * agreement if "no_intercept" in ways else score
    trust = score if "no_sigmoid" in ways else torch.sigmoid(score)
    trust = score.clamp(0, 1) if "clamped" in ways else score.tanh().abs() if "tanh" in ways else trust
    trust = trust.detach() if "trust_cut" in ways else trust
    trust = 1 - trust if "swapped" in ways else trust
    classes = teacher_others.shape[1]
    soft = torch.softmax(teacher_others, dim=1)
    soft = teacher_others if "raw_teacher" in ways else soft
    soft = F.one_hot(soft.argmax(dim=1), classes).to(soft.dtype) if "hard_teacher" in ways else soft
    fitted = (queries, query_labels) if "fits_queries" in ways else (support, labels)
    targets = F.one_hot(fitted[1], classes).to(support.dtype)
    head = lesson.blended_head(fitted[0], targets, others, soft, trust)
    head = head.detach() if "head_cut" in ways else head
    scale = 1.0 if "unscaled" in ways else 5.0
    scored = (support, labels) if "support_loss" in ways else (queries, query_labels)
    logits = lesson.head_logits(head, scored[0], scale)
    if "squared_error" in ways:
        return (logits / 5 - F.one_hot(scored[1], classes)).square().sum(dim=1).mean()
    if "softmax_twice" in ways:
        logits = logits.softmax(dim=1)
    loss = F.cross_entropy(logits, scored[1], reduction="sum" if "summed" in ways else "mean")
    if "both_losses" in ways:
        loss = loss + F.cross_entropy(lesson.head_logits(head, support), labels)
    return loss


TRUST_LOSS = Exercise(
    id="11.trust_loss",
    title="How far to trust the teacher",
    points=4,
    reference=_trust,
    inputs=_trust_inputs,
    drive=lambda answer, case: observe_call(answer, case, constants=("teacher_support", "teacher_others")),
    wrong=_trust,
    mistakes=(
        Mistake(
            "swapped",
            "computed with 1 − α and α in each other's place",
            "α is the *teacher's* share. Is that what you give to `blended_head`?",
        ),
        Mistake(
            "sign_turned",
            "computed with the agreement's sign turned: large where the teacher is wrong",
            "The agreement is the mean *log-probability*, at most 0. A cross-entropy is minus that.",
        ),
        Mistake(
            "trust_cut",
            "right in value, but α is cut from the graph",
            "The line is learned through α, and through the head that it decides on. Does α stay a tensor all the way?",
        ),
        Mistake(
            "head_cut",
            "right in value, but the head is cut from the graph",
            "The queries' loss must tell the line what another α would have done: through the head.",
        ),
        Mistake(
            "teacher_kept",
            "right in value, but gradient flows into `teacher_support`",
            "The teacher is a constant: it must not learn to look trustworthy.",
        ),
        Mistake(
            "support_loss",
            "computed with the loss on the support",
            "The head has just been fitted to the support. What shows whether the trust was right?",
        ),
        Mistake(
            "both_losses",
            "computed with the support's loss on top",
            "The line learns from the queries alone: the support is what the head was fitted to.",
        ),
        Mistake(
            "fits_queries",
            "computed with a head fitted to the queries' labels",
            "A new learner has no labels for its queries: they come in at the very end.",
        ),
        Mistake(
            "agreement_on_queries",
            "computed with the teacher's agreement with the *queries'* labels",
            "A new learner has labels for its support only, and `teacher_support` is about that.",
        ),
        Mistake(
            "accuracy",
            "computed with the teacher's accuracy in the place of its log-probability",
            "With a handful of labels an accuracy is coarse. Take the mean of log p(yᵢ).",
        ),
        Mistake(
            "confidence",
            "computed with the teacher's largest log-probability, whatever the label",
            "A teacher may be sure and wrong. The labels decide.",
        ),
        Mistake(
            "logit",
            "computed with the mean logit of the labels, not their log-probability",
            "Logits are not normalised: add a number to all of a row's, and the agreement would change.",
        ),
        Mistake(
            "probability",
            "computed with the mean probability of the labels, without the log",
            "The agreement is a mean of *logs*.",
        ),
        Mistake(
            "log_of_mean",
            "computed with the log of the mean probability",
            "First the log of each, then the mean.",
        ),
        Mistake(
            "summed_agreement",
            "computed with the sum over the support in the agreement",
            "More labels should not make a teacher less trustworthy: take the mean.",
        ),
        Mistake(
            "no_sigmoid",
            "computed without the sigmoid",
            "α is a share, between 0 and 1. A line has no such bounds.",
        ),
        Mistake(
            "clamped",
            "computed with a line that is cut at 0 and 1, without the sigmoid",
            "Where it is cut the line has no gradient any more. A sigmoid keeps α between 0 and 1, and the gradient.",
        ),
        Mistake(
            "line_swapped",
            "computed with intercept and slope in each other's place",
            "`line[0]` stands alone, `line[1]` is multiplied by the agreement.",
        ),
        Mistake(
            "constant",
            "computed with one trust for all learners: the agreement is not used",
            "The slope, `line[1]`, multiplies the agreement.",
        ),
        Mistake(
            "no_intercept",
            "computed without the intercept",
            "`line[0]` is the trust where the teacher knows every label for sure.",
        ),
        Mistake(
            "raw_teacher",
            "computed with the teacher's logits as targets",
            "The head fits numbers of 0 to 1: one-hot labels here, *probabilities* there.",
        ),
        Mistake(
            "hard_teacher",
            "computed with the teacher's most probable classes as targets",
            "How unsure the teacher is should reach the head: take its probabilities.",
        ),
        Mistake(
            "unscaled",
            "computed without the factor 5 in front of the logits",
            "`head_logits` has it: a head that fits numbers of 0 to 1 gives a softmax nearly nothing to tell apart.",
        ),
        Mistake(
            "softmax_twice",
            "computed with a softmax before `F.cross_entropy`",
            "`F.cross_entropy` applies the softmax itself.",
        ),
        Mistake(
            "squared_error",
            "the squared error on the queries",
            "The head is *fitted* by squared errors, and *judged* by the cross-entropy.",
        ),
        Mistake("summed", "summed over the queries", "Average over the queries."),
    ),
    properties=(
        Property(
            "gives the line a gradient",
            lambda answer: bool(_slope(answer).abs().min() > 0),
        ),
    ),
    sizes=lambda case: {
        "the number of support examples": len(case["labels"]),
        "the number of queries": len(case["query_labels"]),
    },
    alone=frozenset(
        {"fits_queries", "agreement_on_queries", "accuracy", "confidence", "logit", "probability", "log_of_mean"}
        | {"no_sigmoid", "clamped", "line_swapped", "constant", "no_intercept", "squared_error", "softmax_twice"}
        | {"trust_cut", "head_cut", "raw_teacher", "hard_teacher", "summed", "both_losses", "summed_agreement"}
    ),
)


def _slope(answer: Answer) -> Tensor:
    given = tensors(_trust_inputs(np.random.default_rng(0))[0])
    line = given.pop("line").requires_grad_()
    return torch.autograd.grad(answer(line, *given.values()), line)[0]


# --- read_support -----------------------------------------------------------------------------


def _read_inputs(rng: np.random.Generator) -> list[Case]:
    def case(leading: tuple[int, ...], support: int, queries: int, dtype: str) -> Case:
        drawn = {
            "x": (*leading, support, 1),
            "y": (*leading, support, 1),
            "queries": (*leading, queries, 1),
            "encoder_weights": (2, 4),
            "decoder_weights": (5, 1),
        }
        return {name: rng.normal(0, 1.5, shape).astype(dtype) for name, shape in drawn.items()}

    return [
        case((2,), 4, 4, "float64"),
        case((), 5, 3, "float32"),
        case((3,), 3, 6, "float64"),
        case((), 1, 2, "float64"),
        case((2, 2), 5, 5, "float32"),
    ]


def _network(weights: Tensor, bias: float) -> Callable[[Tensor], Tensor]:
    """Make a network that takes what it is given: too few numbers meet the first weights only."""

    def network(given: Tensor) -> Tensor:
        if given.shape[-1] > len(weights):
            raise ValueError(f"the network takes {len(weights)} numbers of each example, got {given.shape[-1]}")
        return torch.tanh(given @ weights[: given.shape[-1]] + bias)

    return network


def _observe_reading(answer: Answer, case: Case) -> Observation:
    """Call the answer with two small networks; gradients reach their weights."""

    def with_networks(x: Tensor, y: Tensor, queries: Tensor, encoder: Tensor, decoder: Tensor) -> Tensor:
        return answer(_network(encoder, 0.3), _network(decoder, -0.2), x, y, queries)

    return observe_call(with_networks, case)


def _read(
    encoder: Callable[[Tensor], Tensor],
    decoder: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    queries: Tensor,
    **mistakes: bool,
) -> Tensor:
    """Answer queries by a network that has read the support."""
    ways = {name for name, on in mistakes.items() if on}
    pairs = [y, x] if "y_first" in ways else [x] if "x_only" in ways else [y] if "y_only" in ways else [x, y]
    given = torch.cat(pairs, dim=-1)
    if "first_only" in ways or "last_only" in ways:
        given = given[..., :1, :] if "first_only" in ways else given[..., -1:, :]
    if "averaged_early" in ways:
        given = given.mean(dim=-2, keepdim=True)
    codes = encoder(given)
    if "queries_encoded" in ways:
        codes = torch.cat([codes, encoder(torch.cat([queries, torch.zeros_like(queries)], dim=-1))], dim=-2)
    if "averaged_late" in ways:
        each = [codes[..., k : k + 1, :].expand(*queries.shape[:-1], -1) for k in range(codes.shape[-2])]
        return torch.stack([decoder(torch.cat([queries, one], dim=-1)) for one in each]).mean(dim=0)
    if "over_tasks" in ways and codes.ndim > 2:
        code = codes.mean(dim=0, keepdim=True)
    elif "one_code" in ways:
        code = codes.flatten(0, -2).mean(dim=0)
    elif "not_averaged" in ways:
        return decoder(torch.cat([queries, codes], dim=-1))
    elif "within_codes" in ways:
        code = codes.mean(dim=-1, keepdim=True).expand_as(codes)
        return decoder(torch.cat([queries, code], dim=-1))
    elif "largest" in ways:
        code = codes.amax(dim=-2, keepdim=True)
    else:
        code = codes.sum(dim=-2, keepdim=True) if "summed" in ways else codes.mean(dim=-2, keepdim=True)
    code = code.detach() if "code_cut" in ways else code
    code = code.expand(*queries.shape[:-1], -1)
    entry = [code, queries] if "code_first" in ways else [code] if "code_only" in ways else [queries, code]
    return decoder(torch.cat(entry, dim=-1))


READ_SUPPORT = Exercise(
    id="11.read_support",
    title="A student that reads the support",
    points=3,
    reference=_read,
    inputs=_read_inputs,
    drive=_observe_reading,
    wrong=_read,
    mistakes=(
        Mistake(
            "summed",
            "computed with the sum of the codes",
            "Twice the support should not look like another task: take the mean.",
        ),
        Mistake(
            "largest",
            "computed with the largest entry of the codes, not with their mean",
            "That does not depend on the order either, but the equation has a mean.",
        ),
        Mistake(
            "x_only",
            "computed with an encoder that sees x alone",
            "What tells one task from another? The encoder reads *pairs*.",
        ),
        Mistake(
            "y_only",
            "computed with an encoder that sees y alone",
            "An answer without its question says little. The encoder reads *pairs*.",
        ),
        Mistake("y_first", "computed with y before x in each pair", "The encoder takes x first, then y."),
        Mistake(
            "code_first",
            "computed with the code before the query",
            "The decoder takes the query first, then the code.",
        ),
        Mistake(
            "code_only",
            "computed with a decoder that does not see the query",
            "Then all queries get the same answer. What stands beside the code?",
        ),
        Mistake(
            "first_only",
            "computed from the first pair alone",
            "All of the support is read. What happens to the code of the others?",
        ),
        Mistake(
            "last_only",
            "computed from the last pair alone",
            "All of the support is read. Does a loop overwrite the code?",
        ),
        Mistake(
            "averaged_early",
            "computed from the mean *pair*: averaged before the encoder",
            "A mean of pairs forgets which y belongs to which x. Encode each pair, then average.",
        ),
        Mistake(
            "averaged_late",
            "computed as a mean of answers, one for each pair of the support",
            "The codes are averaged *before* the decoder, so that one answer knows the whole support.",
        ),
        Mistake(
            "not_averaged",
            "computed without a mean: the code of pair i stands beside query i",
            "Support and queries don't belong together one by one, and may differ in number.",
        ),
        Mistake(
            "within_codes",
            "computed with the mean over the entries of a code, not over the support",
            "Which axis of (…, n, K) holds the support?",
        ),
        Mistake(
            "over_tasks",
            "right for a single task, but with several the mean goes over the tasks",
            "With leading axes dim=0 is no longer the support. Count the axes from the end.",
        ),
        Mistake(
            "one_code",
            "right for a single task, but with several they all share one code",
            "Each task has a support of its own, and a code of its own.",
        ),
        Mistake(
            "queries_encoded",
            "computed with the queries in the mean as well, y = 0 beside them",
            "The queries have no answers yet. The code is about the support alone.",
        ),
        Mistake(
            "code_cut",
            "right in value, but the code is cut from the graph",
            "The encoder learns from the answers, through the code.",
        ),
    ),
    properties=(
        Property(
            "does not change when the support is shuffled",
            lambda answer: torch.allclose(_answers_in_order(answer, [0, 1, 2]), _answers_in_order(answer, [2, 0, 1])),
        ),
    ),
    sizes=lambda case: {"the number of support pairs": case["x"].shape[-2]},
    alone=frozenset(
        {"largest", "x_only", "y_only", "code_only", "first_only", "last_only", "averaged_early", "averaged_late"}
        | {"not_averaged", "within_codes", "over_tasks", "one_code", "queries_encoded", "code_cut"}
    ),
)


def _answers_in_order(answer: Answer, order: list[int]) -> Tensor:
    x, y, queries = torch.tensor([[1.0], [2.0], [-1.0]]), torch.tensor([[0.5], [-1.0], [2.0]]), torch.tensor([[0.3]])
    encoder, decoder = (torch.cos(torch.arange(2.0 * n)).view(n, 2) for n in (2, 3))
    return answer(_network(encoder, 0.3), _network(decoder, -0.2), x[order], y[order], queries)


# --- distil_meta_learner: the bug hunt --------------------------------------------------------


def _distil_inputs(rng: np.random.Generator) -> list[Case]:
    def case(tasks: int, support: int, queries: int, width: int, rounds: int, inner_steps: int, dtype: str) -> Case:
        x, asked = rng.normal(size=(tasks, support, width)), rng.normal(size=(tasks, queries, width))
        own = rng.normal(0, 2, (tasks, width, 1))
        data = {
            "start": rng.normal(size=(width, 1)),
            "support_x": x,
            "support_y": x @ own + 0.3 * rng.normal(size=(tasks, support, 1)),
            "query_x": asked,
            "query_y": asked @ own,
        }
        rates = {"rounds": rounds, "learning_rate": 0.05, "inner_lr": 0.1, "inner_steps": inner_steps}
        return {name: value.astype(dtype) for name, value in data.items()} | rates

    return [
        case(3, 4, 5, 2, 2, 2, "float64"),
        case(2, 5, 3, 3, 3, 1, "float32"),
        case(4, 3, 4, 2, 1, 3, "float64"),
    ]


def _observe_distilling(answer: Answer, case: Case) -> Observation:
    """Look at the student after training, at the error it returns, and at what was given."""
    given = tensors(case)
    made = answer(*given.values())
    if not isinstance(made, (tuple, list)) or len(made) != 3:
        size = f" of {len(made)}" if isinstance(made, (tuple, list)) else ""
        return {"type": type(made).__name__ + size}
    seen: Observation = {"type": "tuple of 3"}
    for name, value in zip(("w after training", "V after training", "value"), made, strict=True):
        of_one = observe_value(value)
        if "value" not in of_one:
            return {"type": "tuple of 3"} | {f"type of {name}": of_one["type"]}
        seen[name] = of_one["value"].astype(case["start"].dtype)
    return seen | {f"`{name}` afterwards": value.numpy() for name, value in given.items() if isinstance(value, Tensor)}


def _adapted(start: Tensor, x: Tensor, y: Tensor, lr: float, steps: int) -> Tensor:
    """Take gradient steps down the mean squared error of a linear model, its gradient written out."""
    for _ in range(steps):
        start = start - lr * 2 / len(x) * (x.T @ (x @ start - y))
    return start


def _distil(
    start: Tensor,
    support_x: Tensor,
    support_y: Tensor,
    query_x: Tensor,
    query_y: Tensor,
    rounds: int,
    learning_rate: float,
    inner_lr: float,
    inner_steps: int,
    **mistakes: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Train a student that reads the support on what a teacher answers after its inner steps."""
    ways = {name for name, on in mistakes.items() if on}
    tasks, shots, width = support_x.shape
    inner_steps = 1 if "one_inner_step" in ways else inner_steps
    if "rates_swapped" in ways:
        learning_rate, inner_lr = inner_lr, learning_rate
    codes = support_x.mT @ support_y / (1 if "code_summed" in ways else shots)
    codes = codes.mean(dim=0, keepdim=True).expand_as(codes) if "one_code" in ways else codes
    codes = codes.roll(-1, 0) if "next_support" in ways else codes
    w = torch.zeros_like(start) if "from_zero" in ways else start.clone()
    v = torch.zeros(width, width, dtype=start.dtype)
    known_x, known_y = (query_x, query_y) if "on_queries" in ways else (support_x, support_y)
    pile, teacher = [0.0, 0.0], start
    for _ in range(rounds):
        of_round = [torch.zeros_like(w), torch.zeros_like(v)]
        for t in range(tasks):
            w, v = w.detach().requires_grad_(), v.detach().requires_grad_()
            origin = w if "student_teaches" in ways else w.detach() if "moving_teacher" in ways else teacher
            x, y = known_x[0 if "first_task" in ways else t], known_y[0 if "first_task" in ways else t]
            if "all_together" in ways:
                x, y = known_x.flatten(0, 1), known_y.flatten(0, 1)
            adapted = origin if "not_adapted" in ways else _adapted(origin, x, y, inner_lr, inner_steps)
            teacher = adapted.detach() if "carried_over" in ways else teacher
            asked = support_x[t] if "asked_support" in ways else query_x[t]
            targets = query_y[t] if "labels_learned" in ways else asked @ adapted
            gap = asked @ (w + v @ codes[t]) - targets
            loss = gap.square().sum() if "summed" in ways else gap.square().mean()
            loss = loss / 2 if "half" in ways else loss
            gradients = torch.autograd.grad(loss, [w, v])
            if "accumulates" in ways:
                pile = gradients = [a + b for a, b in zip(pile, gradients, strict=True)]
            if "once_a_round" in ways:
                of_round = [a + b / tasks for a, b in zip(of_round, gradients, strict=True)]
                continue
            w = w if "w_fixed" in ways else w - learning_rate * gradients[0]
            v = v - learning_rate * gradients[1]
        if "once_a_round" in ways:
            w, v = (old - learning_rate * step for old, step in zip((w, v), of_round, strict=True))
    answers = query_x @ (w + v @ codes)
    error = (answers - query_y).square().mean()
    if "error_on_support" in ways:
        error = (support_x @ (w + v @ codes) - support_y).square().mean()
    if "error_to_teacher" in ways:
        ends = [_adapted(start, *one, inner_lr, inner_steps) for one in zip(support_x, support_y, strict=True)]
        error = (answers - query_x @ torch.stack(ends)).square().mean()
    return w.detach(), v.detach(), error.detach()


# The four bugs of the broken loop come in any mixture, the third also half mended.
_MIXED = 5
_DISTIL_MISTAKES = (
    Mistake(
        "on_queries",
        "a loop whose teacher adapts to the queries and their labels",
        "A new task comes with labels for its support only: what the teacher knows more, no student can read there.",
    ),
    Mistake(
        "all_together",
        "a loop whose teacher adapts once to all tasks together",
        "Each task needs a teacher of its own, adapted to that task's examples. What does `flatten` do to the tasks?",
    ),
    Mistake(
        "student_teaches",
        "a loop whose teacher starts from the student's own w, and moves with it",
        "The teacher is a constant: the meta-learner's start, adapted. Where does it start here, and does gradient "
        "reach it?",
    ),
    Mistake(
        "one_code",
        "a loop whose student reads one code for all tasks",
        "The student sees the support of the task at hand. Over which axis does the mean go?",
    ),
    Mistake(
        "moving_teacher",
        "a loop whose teacher starts from the student's own w, though without gradient",
        "Without gradient it moves all the same: what it starts from changes at every step. Start from `start`.",
    ),
    Mistake(
        "first_task",
        "a loop whose teacher adapts to the first task only",
        "Each task needs a teacher of its own. Does the adaptation stand inside the loop over the tasks, and with its "
        "data?",
    ),
    Mistake(
        "carried_over",
        "a loop whose teacher goes on from where it ended at the task before",
        "Every task starts from `start`. Is it overwritten?",
    ),
    Mistake(
        "not_adapted",
        "a loop whose teacher answers without its inner steps",
        "`start` knows no task. The student learns from the *adapted* teacher.",
    ),
    Mistake(
        "labels_learned",
        "a loop whose student learns the queries' labels",
        "The labels of the queries are for the error alone. What does the adapted teacher answer?",
    ),
    Mistake(
        "asked_support",
        "a loop whose student answers the support, not the queries",
        "There the teacher repeats what the student was told. Ask both about the queries.",
    ),
    Mistake(
        "next_support",
        "a loop whose student reads the next task's support",
        "Support, queries and teacher belong to the same task.",
    ),
    Mistake("code_summed", "a loop whose student reads a sum, not a mean", "r is the *mean* of x y over the support."),
    Mistake(
        "one_inner_step",
        "a loop whose teacher takes one inner step, whatever `inner_steps` says",
        "`adapt` has an argument `steps`.",
    ),
    Mistake(
        "rates_swapped",
        "a loop with the two step sizes in each other's place",
        "`inner_lr` is the teacher's, `learning_rate` the student's.",
    ),
    Mistake(
        "from_zero",
        "a loop whose student starts at w = 0",
        "The student starts from the meta-learner's start; only V starts at 0.",
    ),
    Mistake("w_fixed", "a loop that trains V alone", "Both w and V take the step."),
    Mistake(
        "once_a_round",
        "a loop with one step a round, down the mean over the tasks",
        "Here each task takes a step of its own, one after the other.",
    ),
    Mistake(
        "accumulates",
        "a loop whose gradients pile up from step to step",
        "`backward` adds to `.grad`. What must happen before it?",
    ),
    Mistake("summed", "a loop whose loss is summed over the queries", "The student's loss is the mean."),
    Mistake("half", "a loop with ½ in front of the student's loss", "The mean squared difference has no ½ here."),
    Mistake(
        "error_to_teacher",
        "right in training, but the error it returns is the distance to the teacher",
        "How good the student is, `query_y` tells.",
    ),
    Mistake(
        "error_on_support",
        "right in training, but the error it returns is that on the support",
        "The student has read the answers there. Score it on the queries.",
    ),
)
DISTIL_META_LEARNER = Exercise(
    id="11.distil_meta_learner",
    title="Bug hunt: a student without inner steps",
    points=4,
    reference=_distil,
    inputs=_distil_inputs,
    drive=_observe_distilling,
    wrong=_distil,
    mistakes=_DISTIL_MISTAKES,
    at_once=4,
    alone=frozenset(mistake.name for mistake in _DISTIL_MISTAKES[_MIXED:]),
)
