"""Lesson 10's exercises with few-shot classes: prototypes, and drawing episodes."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ctkd_lessons import meta as lesson
from ctkd_lessons.course.exercises.description import (
    Answer,
    Case,
    Exercise,
    Mistake,
    Observation,
    Property,
    observe_call,
)
from ctkd_lessons.data import glyphs

# --- prototype_answers ------------------------------------------------------------------------


def _prototype_inputs(rng: np.random.Generator) -> list[Case]:
    def case(sizes: tuple[int, ...], queries: int, width: int, dtype: str, far: float = 0) -> Case:
        labels = np.repeat(np.arange(len(sizes)), sizes)
        # Not class by class, and the last class comes first: neither the order nor equal sizes may be relied upon.
        labels = np.concatenate([labels[-1:], rng.permutation(labels[:-1])])
        centres = rng.normal(0, 1.5, (len(sizes), width))
        return {
            "support": (centres[labels] + rng.normal(0, 1, (len(labels), width)) + far).astype(dtype),
            "labels": labels,
            "queries": (rng.normal(0, 1.5, (queries, width)) + far).astype(dtype),
            "classes": len(sizes),
        }

    return [
        case((4, 3, 5), 4, 3, "float64"),
        case((1, 1, 1, 1, 1), 3, 4, "float32"),
        case((2, 5), 5, 6, "float64"),
        case((5, 3, 4), 4, 3, "float32", far=1000),
        case((3,), 2, 2, "float64"),
    ]


def _right_prototypes(support: Tensor, labels: Tensor, queries: Tensor, classes: int) -> Tensor:
    return lesson.prototype_logits(queries, lesson.prototypes(support, labels, classes))


def _centres(support: Tensor, labels: Tensor, classes: int, ways: set[str]) -> Tensor:
    """Return what stands for each class."""
    if "blocks" in ways:
        rows = list(support.tensor_split(classes))
    elif "by_appearance" in ways:
        order = list(dict.fromkeys(labels.tolist()))
        rows = [support[labels == k] for k in order]
    else:
        rows = [support[labels == k] for k in range(classes)]
    if "summed" in ways:
        return torch.stack([one.sum(0) for one in rows])
    if "by_all" in ways or "by_even_share" in ways:
        size = len(support) / (1 if "by_all" in ways else classes)
        return torch.stack([one.sum(0) / size for one in rows])
    if "median" in ways:
        return torch.stack([one.median(0).values for one in rows])
    if "first_example" in ways:
        return torch.stack([one[0] for one in rows])
    if "one_centre" in ways:
        return support.mean(0).expand(classes, -1)
    return torch.stack([one.mean(0) for one in rows])


_SCORES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "absolute": lambda q, c: -(q[:, None] - c).abs().sum(2),
    "product": lambda q, c: q @ c.T,
    "cosine": lambda q, c: F.normalize(q) @ F.normalize(c).T,
    "short_form": lambda q, c: 2 * q @ c.T - q.square().sum(1, keepdim=True) - c.square().sum(1),
    "no_query_square": lambda q, c: 2 * q @ c.T - c.square().sum(1),
}


def _wrong_prototypes(support: Tensor, labels: Tensor, queries: Tensor, classes: int, **mistakes: bool) -> Tensor:
    ways = {name for name, on in mistakes.items() if on}
    if "unit" in ways:
        support, queries = F.normalize(support), F.normalize(queries)
    centres = _centres(support, labels, classes, ways)
    centres = centres.detach() if "centres_cut" in ways else centres
    queries = queries.detach() if "queries_cut" in ways else queries
    square = -(queries[:, None] - centres).square().sum(2)
    if "nearest" in ways or "each_example" in ways:
        all_squares = -(queries[:, None] - support).square().sum(2)
        of_class = [all_squares[:, labels == k] for k in range(classes)]
        square = torch.stack([one.amax(1) if "nearest" in ways else one.mean(1) for one in of_class], dim=1)
    for name, score in _SCORES.items():
        square = score(queries, centres) if name in ways else square
    if "root" in ways:
        square = -(-square).clamp(min=1e-30).sqrt()
    square = square / queries.shape[1] if "averaged" in ways else square / 2 if "half" in ways else square
    square = -square if "turned" in ways else square
    if "softmaxed" in ways or "log_softmaxed" in ways:
        square = torch.softmax(square, 1) if "softmaxed" in ways else F.log_softmax(square, 1)
    return square.argmax(1) if "decided" in ways else square


PROTOTYPE_ANSWERS = Exercise(
    id="10.prototype_answers",
    title="Nearest prototype",
    points=2,
    reference=_right_prototypes,
    inputs=_prototype_inputs,
    drive=observe_call,
    wrong=_wrong_prototypes,
    mistakes=(
        Mistake("turned", "the distances, without the minus", "The *nearest* prototype should get the largest logit."),
        Mistake(
            "root", "the distances where their squares belong", "‖·‖² has no root: add up squares, and stop there."
        ),
        Mistake("averaged", "averaged over the features", "The squares are added up over the D features."),
        Mistake("half", "half the right answer", "There is no ½ in front of the square."),
        Mistake(
            "softmaxed", "a softmax of the right answer", "Return logits: `F.cross_entropy` takes the softmax itself."
        ),
        Mistake(
            "log_softmaxed",
            "the log-softmax of the right answer",
            "Return the logits as they are: `F.cross_entropy` does the rest.",
        ),
        Mistake("decided", "the nearest class itself", "Return a logit per class, (m, C): a decision has no gradient."),
        Mistake(
            "one_centre",
            "computed with the mean of all examples for every class",
            "Each class has a prototype of its own: which rows belong to it?",
        ),
        Mistake("summed", "computed with sums where means belong", "How many examples has class k?"),
        Mistake(
            "by_all",
            "computed with prototypes divided by the number of *all* examples",
            "Divide each class's sum by that class's number. `(labels == k).mean` over all rows counts the others as "
            "zeros.",
        ),
        Mistake(
            "by_even_share",
            "computed as if all classes had as many examples",
            "Classes may differ in size: divide each sum by the class's own number.",
        ),
        Mistake(
            "blocks",
            "computed as if the examples came class by class, in equal numbers",
            "`labels` says which class a row belongs to. A `view` or `reshape` ignores it.",
        ),
        Mistake(
            "by_appearance",
            "right but for the order of the classes: as they first appear in `labels`",
            "Column k belongs to class k.",
        ),
        Mistake("median", "computed with medians for prototypes", "The prototype is the mean."),
        Mistake(
            "first_example", "computed with each class's first example for a prototype", "Average over all of them."
        ),
        Mistake(
            "nearest",
            "computed with each class's nearest example in the place of its mean",
            "That is the nearest neighbour. The prototype is a mean, made before any distance.",
        ),
        Mistake(
            "each_example",
            "the mean of the distances to a class's examples, not the distance to their mean",
            "The two differ by the class's spread. First the mean, then the distance.",
        ),
        Mistake("absolute", "computed with absolute differences (L1)", "The distance is the squared Euclidean one."),
        Mistake("product", "the products q · c", "Distance it is, not likeness: −‖q − c‖²."),
        Mistake(
            "cosine",
            "the cosines of queries and prototypes",
            "Matching networks use them. Here it is −‖q − c‖²: lengths count.",
        ),
        Mistake(
            "unit",
            "computed from embeddings brought to length one",
            "The embeddings are taken as they are.",
        ),
        Mistake(
            "short_form",
            "right only near the origin: q² − 2qc + c² loses the digits where embeddings are large",
            "Large numbers cancel there. Subtract first, then square.",
        ),
        Mistake(
            "no_query_square",
            "2qc − c², without the queries' own squares",
            "A softmax would not see the difference, but a reader of the logits would: return −‖q − c‖², all of it.",
        ),
        Mistake(
            "centres_cut",
            "right in value, but the prototypes are cut from the graph",
            "The embedding learns from both sides: nothing is detached.",
        ),
        Mistake(
            "queries_cut",
            "right in value, but the queries are cut from the graph",
            "Queries and prototypes come from the same embedding: both carry gradient.",
        ),
    ),
    properties=(Property("does not change when all embeddings move together", lambda answer: _moves_together(answer)),),
    sizes=lambda case: {
        "the number of features": case["support"].shape[1],
        "the number of classes": case["classes"],
        "the number of examples": len(case["labels"]),
    },
    alone=frozenset(
        {"decided", "one_centre", "blocks", "median", "first_example", "nearest", "each_example", "unit", "softmaxed"}
        | {"log_softmaxed", "by_appearance", "by_all", "by_even_share", "summed", "centres_cut", "queries_cut", "half"}
        | set(_SCORES)
    ),
)


def _moves_together(answer: Answer) -> bool:
    support, queries = torch.eye(4, dtype=torch.float64), torch.linspace(-1, 1, 8, dtype=torch.float64).view(2, 4)
    labels = torch.tensor([1, 0, 1, 0])
    return torch.allclose(answer(support, labels, queries, 2), answer(support + 7, labels, queries + 7, 2))


# --- sample_episode ---------------------------------------------------------------------------

_DRAWS, _REPEATED = 60, 5  # episodes drawn of each case, and how many of them once more


def _episode_inputs(rng: np.random.Generator) -> list[Case]:
    def case(sizes: tuple[int, ...], names: tuple[int, ...], ways: int, shots: int, queries: int) -> Case:
        labels = rng.permutation(np.repeat(names, sizes))
        return {"labels": labels, "ways": ways, "shots": shots, "queries": queries}

    return [
        case((6, 8, 7, 9), (0, 1, 2, 3), 3, 2, 3),
        case((5, 5, 5), (0, 1, 2), 2, 1, 4),  # no row is left over
        case((6, 5, 6), (2, 5, 9), 3, 3, 1),  # all classes, and their names have gaps
        case((4, 32, 4, 4), (0, 1, 2, 3), 1, 1, 3),  # one class is much larger than the others
    ]


def _observe_episode(answer: Answer, case: Case) -> Observation:
    """Draw many episodes, and the first few once more from an equal generator."""
    labels, sizes = torch.tensor(case["labels"]), (case["ways"], case["shots"], case["queries"])
    generator, again = (torch.Generator().manual_seed(7) for _ in range(2))
    copies = [labels.clone() for _ in range(_DRAWS)]
    drawn = [answer(copy, *sizes, generator) for copy in copies]
    seen: Observation = {"type": _form(drawn[0])}
    if seen["type"] != "tuple of 2 tensors":
        return seen
    seen |= {f"dtype of the {name}": str(rows.dtype) for name, rows in zip(("support", "query"), drawn[0], strict=True)}
    for place, name in enumerate(("support", "query")):
        shapes = {tuple(episode[place].shape) for episode in drawn}
        seen[f"shape of the {name}"] = " or ".join(sorted(map(str, shapes)))
    wanted = [str((sizes[0] * each,)) for each in sizes[1:]]
    if [seen["shape of the support"], seen["shape of the query"]] != wanted:
        return seen
    seen["rows"] = _rows(drawn)
    seen["rows again"] = _rows([answer(labels.clone(), *sizes, again) for _ in range(_REPEATED)])
    return seen | {"`labels` afterwards": copies[0].numpy()}


def _rows(episodes: list[tuple[Tensor, Tensor]]) -> np.ndarray:
    """Return each episode's rows, support first, as one row of a matrix."""
    return torch.stack([torch.cat(episode) for episode in episodes]).numpy()


def _read_episode(seen: Observation, case: Case) -> Observation:
    """Look at what must be true of each episode, and of all together."""
    if "rows" not in seen:
        return seen
    told = {key: value for key, value in seen.items() if key.startswith(("type", "dtype", "shape"))}
    rows, again, labels = seen["rows"], seen["rows again"], case["labels"]
    if rows.dtype.kind not in "iu":
        return told
    if rows.shape != (_DRAWS, case["ways"] * (case["shots"] + case["queries"])):
        raise ValueError(f"rows: expected those of {_DRAWS} episodes, got shape {rows.shape}")
    inside = bool(((rows >= 0) & (rows < len(labels))).all())
    told["rows between 0 and n − 1"] = "all" if inside else "not all"
    if not inside:
        return told
    different = bool((rows != rows[0]).any())
    told |= {
        "episode that an equal generator gives again": "the same"
        if np.array_equal(rows[:_REPEATED], again)
        else "another",
        "next episode of the same generator": "another" if different else "the same",
        "`labels` afterwards": seen["`labels` afterwards"],
    }
    if not different:
        return told
    supports, queries = np.split(rows, [case["ways"] * case["shots"]], axis=1)
    return told | _observe_rows(supports, queries, case) | _observe_classes(supports, queries, case)


def _form(episode: object) -> str:
    if not isinstance(episode, tuple) or not all(isinstance(one, Tensor) for one in episode):
        return type(episode).__name__
    return f"tuple of {len(episode)} tensors"


def _some(holds: Iterable) -> str:
    """Say of how many episodes something holds, given one truth for each."""
    return "some" if any(holds) else "none"


def _observe_rows(supports: np.ndarray, queries: np.ndarray, case: Case) -> Observation:
    """Look at the rows that many episodes (E, …) draw, whatever their classes."""
    pairs = list(zip(supports, queries, strict=True))
    asked, shown, rows = set(queries.flat), set(supports.flat), len(case["labels"])
    # Somebody who always takes a class's first rows never draws so many; three quarters of them may be chance.
    never_first = rows - len(np.unique(case["labels"])) * (case["shots"] + case["queries"])
    return {
        "episodes with rows that are in both support and query": _some(set(s) & set(q) for s, q in pairs),
        "episodes with a row twice in the support": _some(len(set(s)) < len(s) for s, _ in pairs),
        "episodes with a row twice in the query": _some(len(set(q)) < len(q) for _, q in pairs),
        "rows drawn at some time": "all" if rows - len(asked | shown) <= 3 * never_first // 4 else "not all",
        "rows that the support may hold": "any" if len(asked & shown) > len(asked) // 3 else "never those of the query",
    }


def _observe_classes(supports: np.ndarray, queries: np.ndarray, case: Case) -> Observation:
    """Look at the classes that many episodes (E, …) draw."""
    labels, ways = case["labels"], case["ways"]
    of_support, of_query = (labels[rows].reshape(len(rows), ways, -1) for rows in (supports, queries))
    mixed = [(blocks != blocks[:, :, :1]).any() for blocks in (of_support, of_query)]
    seen = {
        "episodes whose support does not come class by class": _some(mixed[:1]),
        "episodes whose query does not come class by class": _some(mixed[1:]),
    }
    if any(mixed):
        return seen
    named, asked = of_support[:, :, 0], of_query[:, :, 0]
    classes, counts = np.unique(named, return_counts=True)
    expected = len(named) * ways / len(np.unique(labels))
    rising = ways > 1 and (np.diff(named, axis=1) > 0).all()
    return seen | {
        "episodes with the same class twice": _some(len(set(one)) < ways for one in named),
        "episodes whose query asks for other classes, or in another order": _some([(named != asked).any()]),
        "classes drawn at some time": "all" if set(classes) == set(labels) else "not all",
        # Twice as often as it should be is an accident of one in ten thousand.
        "chance of a class": "the same for all" if counts.max() <= 2 * expected else "not the same for all",
        "classes in an episode": "always in rising order" if rising else "in any order",
    }


def _wrong_episode(
    labels: Tensor, ways: int, shots: int, queries: int, generator: torch.Generator, **mistakes: bool
) -> tuple[Tensor, ...]:
    on = {name for name, value in mistakes.items() if value}
    if "generator_ignored" in on:
        generator = None
    if "generator_reset" in on:
        generator.manual_seed(0)
    shuffled = lambda n: torch.randperm(n, generator=generator)
    classes = labels.unique()
    if "numbered" in on:
        classes = torch.arange(len(classes))
    order = shuffled(len(classes))
    if "with_replacement" in on:
        order = torch.randint(len(classes), (ways,), generator=generator)
    if "by_size" in on:
        order = torch.tensor([], dtype=torch.int64)
        while len(order.unique()) < ways:
            order = torch.cat([order, (classes == labels[shuffled(len(labels))[0]]).nonzero()[0]])
        order = torch.tensor(list(dict.fromkeys(order.tolist())))
    order = order.sort().values if "first_classes" in on else order[:ways]
    order = order[:ways].sort().values if "sorted" in on else order[:ways]
    of_query = shuffled(len(classes))[:ways] if "other_classes" in on else order
    support, query = [], []
    for one, asked in zip(classes[order], classes[of_query], strict=True):
        rows, others = (labels == one).nonzero().flatten(), (labels == asked).nonzero().flatten()
        if "places_in_class" in on:
            rows, others = torch.arange(len(rows)), torch.arange(len(others))
        if "first_rows" not in on:
            rows = rows[shuffled(len(rows))]
        if "rows_repeated" in on:
            rows = rows[torch.randint(len(rows), (len(rows),), generator=generator)]
        rest = rows[shots:] if "other_classes" not in on else others[shuffled(len(others))]
        if "overlap" in on:
            rest = rows[shuffled(len(rows))]
        support.append(rows[:shots])
        query.append(rest if "all_the_rest" in on else rest[:queries])
    if "interleaved" in on:
        return torch.stack(support, dim=1).flatten(), torch.stack(query, dim=1).flatten()
    pair = torch.cat(support), torch.cat(query)
    if "one_tensor" in on:
        return torch.cat(pair)
    if "labels_returned" in on:
        return labels[pair[0]], labels[pair[1]]
    return pair[::-1] if "swapped" in on else pair


SAMPLE_EPISODE = Exercise(
    id="10.sample_episode",
    title="Draw an episode",
    points=3,
    reference=glyphs.sample_episode,
    inputs=_episode_inputs,
    drive=_observe_episode,
    read=_read_episode,
    wrong=_wrong_episode,
    mistakes=(
        Mistake(
            "overlap",
            "a sampler whose queries may be among the examples to learn from",
            "Then a learner that remembers looks like one that understands. Shuffle a class's rows *once*, then cut: "
            "where does the query's slice begin?",
        ),
        Mistake(
            "rows_repeated",
            "a sampler that may draw a row twice",
            "`randint` puts every row back. `randperm` gives distinct ones.",
        ),
        Mistake(
            "with_replacement",
            "a sampler that may draw a class twice",
            "`randint` puts every class back. `randperm` gives distinct ones.",
        ),
        Mistake(
            "first_classes",
            "a sampler that always takes the first classes",
            "Every class should have its turn: shuffle them before you take the first `ways`.",
        ),
        Mistake(
            "sorted",
            "a sampler whose classes always come in rising order",
            "Otherwise a learner may guess a class from its place. Keep the shuffled order.",
        ),
        Mistake(
            "first_rows",
            "a sampler that always takes the first rows of a class",
            "Every row should have its turn: shuffle them before you cut.",
        ),
        Mistake(
            "by_size",
            "a sampler that draws large classes more often",
            "Who draws rows and looks at their labels does that. Draw among the distinct labels.",
        ),
        Mistake(
            "numbered",
            "a sampler that takes the classes to be 0, 1, 2, …",
            "Labels may have gaps: which ones are there? `labels.unique()` says it.",
        ),
        Mistake(
            "generator_ignored",
            "a sampler that draws from torch's global chance",
            "Every random call takes `generator=generator`: otherwise nobody can repeat the episode.",
        ),
        Mistake(
            "generator_reset",
            "a sampler that draws the same episode each time",
            "Leave the generator's seed to whoever made it.",
        ),
        Mistake(
            "other_classes",
            "a sampler that draws other classes for the query",
            "The queries ask for the very classes that the support shows, in the same order.",
        ),
        Mistake(
            "interleaved",
            "a sampler whose rows do not come class by class",
            "First all rows of the first class, then all of the second. Did a `stack` put the classes last? Is there "
            "a shuffle at the end?",
        ),
        Mistake(
            "places_in_class",
            "a sampler whose rows are places within the class",
            "Row 3 of a class is not row 3 of the data. `(labels == k).nonzero()` gives the latter.",
        ),
        Mistake("labels_returned", "a sampler that returns labels", "Return row numbers: places in `labels`."),
        Mistake("swapped", "a sampler that returns the query first", "First the support, then the query."),
        Mistake("all_the_rest", "a sampler whose query holds all that is left", "`queries` of each class, no more."),
        Mistake("one_tensor", "a sampler that returns one tensor", "Return two: the support's rows and the query's."),
    ),
    alone=frozenset(
        {"with_replacement", "by_size", "numbered", "generator_reset", "other_classes", "interleaved", "one_tensor"}
        | {"places_in_class", "labels_returned", "swapped", "all_the_rest"}
        | {"first_classes", "rows_repeated", "overlap"}
    ),
)
