"""The exercises of lesson 08. Those on weights stand in ``shift_weights``, those that repair in ``shift_repair``."""

import numpy as np
import torch
from torch import Tensor

from ctkd_lessons import shift as lesson
from ctkd_lessons.course.exercises.description import (
    Answer,
    Case,
    Exercise,
    Mistake,
    Observation,
    Property,
    observe_call,
    observe_value_only,
)
from ctkd_lessons.course.exercises.shared import chosen, draw
from ctkd_lessons.course.exercises.shift_repair import LABEL_SHIFT_WEIGHTS, WEIGH_BY_DOMAIN
from ctkd_lessons.course.exercises.shift_weights import DENSITY_RATIO, EFFECTIVE_SAMPLE_SIZE, WEIGHTED_LOSS

# --- mmd --------------------------------------------------------------------------------------


def _mmd_inputs(rng: np.random.Generator) -> list[Case]:
    sizes = [(5, 4, 3), (4, 6, 2), (3, 3, 4), (6, 2, 1), (1, 4, 2)]
    # Powers of two, so that a float32 tensor made from the list loses nothing.
    gammas = [[0.125, 2.0], [0.25, 1.0, 0.03125], [0.5], [2.0, 0.125], [0.25]]
    cases = draw(rng, [{"x": (n, width), "y": (m, width)} for n, m, width in sizes])
    for case, some in zip(cases, gammas, strict=True):
        case["y"] += 1
        case["gammas"] = np.array(some)
    return cases


def _observe_mmd(answer: Answer, case: Case) -> Observation:
    """Give γ as a list of numbers."""
    samples, gammas = {name: case[name] for name in ("x", "y")}, case["gammas"]
    return observe_call(lambda x, y: answer(x, y, gammas.tolist()), samples)


def _wrong_kernel(a: Tensor, b: Tensor, gammas: list[float], switches: dict[str, bool]) -> Tensor:
    gaps = a[:, None] - b[None]
    d = gaps.abs().sum(-1) if "manhattan" in switches else gaps.square().sum(-1)
    d = d / a.shape[1] if "over_features" in switches else d
    if "distances" in switches:
        d = torch.where(d > 0, torch.where(d > 0, d, 1).sqrt(), 0)  # as `norm` and `cdist`: slope 0 at 0
    gammas = gammas[:1] if "first_gamma" in switches else gammas
    rates = {
        "gamma_inverted": lambda gamma: 1 / gamma,
        "bandwidth": lambda gamma: 1 / (2 * gamma**2),
        "variance": lambda gamma: 1 / (2 * gamma),
        "halved": lambda gamma: gamma / 2,
    }
    rate = chosen(rates, switches, lambda gamma: gamma)
    exponents = torch.stack([-rate(gamma) * d for gamma in gammas])
    if "gammas_added" in switches:
        return exponents.sum(0).exp()
    return exponents.exp().mean(0) if "kernels_averaged" in switches else exponents.exp().sum(0)


def _wrong_mmd(x: Tensor, y: Tensor, gammas: list[float], **switches: bool) -> Tensor:
    if "mean_difference" in switches:
        return (x.mean(0) - y.mean(0)).square().sum()
    if "median_gamma" in switches:
        gammas = [lesson.median_gamma(x, y)]
    xx, yy, xy = (_wrong_kernel(a, b, gammas, switches) for a, b in ((x, x), (y, y), (x, y)))
    n, m = len(x), len(y)
    counts = [n * n, m * m, n * m]
    if "unbiased" in switches or "diagonal_zero" in switches:
        xx, yy = (block - block.diag().diag() for block in (xx, yy))
        counts = [n * (n - 1), m * (m - 1), n * m] if "unbiased" in switches else counts
    counts = [m * m, n * n, n * m] if "sizes_swapped" in switches else counts
    counts = [n * n] * 3 if "first_size" in switches else [1] * 3 if "summed" in switches else counts
    within_x, within_y, across = (block.sum() / count for block, count in zip((xx, yy, xy), counts, strict=True))
    factor = 1 if "cross_once" in switches else -2 if "cross_added" in switches else 2
    value = within_x + (0 if "one_within" in switches else within_y) - factor * across
    return value.sqrt() if "rooted" in switches else value


_MMD_MISTAKES = (
    Mistake(
        "distances",
        "computed with distances where their squares belong",
        "exp(−γ ‖a − b‖) is another kernel. This one, the Gaussian, takes the *squared* distance.",
    ),
    Mistake(
        "kernels_averaged",
        "computed with the mean over the gammas, not the sum",
        "k is the *sum* of the kernels. Then another γ adds to the value, and changes nothing of the others.",
    ),
    Mistake("rooted", "the root of what is asked for", "The lesson's MMD is the squared one. Stop before the root."),
    Mistake(
        "cross_once",
        "computed with the mean across the samples counted once",
        "Expand (a − b)²: how often does the mixed term stand in it? Check: a sample and itself should give 0.",
    ),
    Mistake(
        "cross_added",
        "computed with the mean across the samples added",
        "Points that lie near each other *across* the samples make them alike. Which sign follows?",
    ),
    Mistake(
        "one_within",
        "computed without one sample's mean within",
        "Three means: x with itself, y with itself, x with y. Check: a sample and itself should give 0.",
    ),
    Mistake(
        "gamma_inverted",
        "computed with 1/γ where γ belongs",
        "γ multiplies the squared distance: a large γ looks closely.",
    ),
    Mistake(
        "bandwidth",
        "computed as if γ were a bandwidth σ: exp(−d² / 2σ²)",
        "Both ways of writing are common. Here γ stands where 1 / 2σ² would.",
    ),
    Mistake(
        "variance",
        "computed as if γ were a variance σ²: exp(−d² / 2σ²)",
        "γ is no variance but one over twice a variance: it multiplies the squared distance.",
    ),
    Mistake("halved", "computed with γ/2 in the exponent", "No ½: the exponent is −γ ‖a − b‖²."),
    Mistake(
        "unbiased",
        "the unbiased estimate",
        "The exercise asks for the V-statistic: a point's kernel with itself counts, and the means are over all n² and "
        "m² pairs.",
    ),
    Mistake(
        "diagonal_zero",
        "computed without the points' kernels with themselves, though still divided by n² and m²",
        "That is neither of the two estimates. Leave the diagonals in.",
    ),
    Mistake(
        "sizes_swapped",
        "computed with n and m swapped in the means within",
        "n² pairs lie within x, m² within y. `mean()` counts by itself.",
    ),
    Mistake(
        "first_size",
        "computed with all three sums divided by n²",
        "The samples may have different sizes. How many pairs does each sum have?",
    ),
    Mistake(
        "summed",
        "computed with sums over the pairs where means belong",
        "A sum grows with the samples. MMD compares three *means*.",
    ),
    Mistake(
        "over_features",
        "computed with squares averaged over the features, not summed",
        "‖a − b‖² is the sum over the D features. With a mean, γ would mean something else for each D.",
    ),
    Mistake(
        "manhattan",
        "computed with sums of absolute differences",
        "The Gaussian kernel takes the squared Euclidean distance.",
    ),
    Mistake(
        "gammas_added",
        "computed with one kernel whose γ is the sum of all",
        "First a kernel for each γ, then the sum of the kernels. Adding in the exponent multiplies them.",
    ),
    Mistake("first_gamma", "computed with the first γ only", "`gammas` is a list. Each adds a kernel."),
    Mistake(
        "median_gamma",
        "computed with the median heuristic's γ",
        "That is a way to *choose* γ. Here the gammas are given.",
    ),
    Mistake(
        "mean_difference",
        "the squared distance of the two means",
        "That is what MMD becomes with the kernel a · b. It misses every difference but that of the means.",
    ),
)


def _moved(answer: Answer, away: float) -> float:
    return float(answer(_SOME + away, _OTHERS + away, [0.5]))


_SOME = torch.tensor([[0.0, 0.5], [1.0, 0.2], [0.3, -0.4]])
_OTHERS = torch.tensor([[0.7, 1.5], [1.0, 0.9]])

MMD = Exercise(
    id="08.mmd",
    title="How far are two samples apart?",
    points=3,
    reference=lesson.mmd,
    inputs=_mmd_inputs,
    drive=_observe_mmd,
    wrong=_wrong_mmd,
    mistakes=_MMD_MISTAKES,
    properties=(
        Property("is 0 for a sample and itself", lambda answer: abs(float(answer(_SOME, _SOME, [0.5, 2.0]))) < 1e-6),
        Property(
            "keeps its digits in float32 far from the origin, where it subtracts before it squares",
            lambda answer: abs(_moved(answer, 1024.0) - _moved(answer, 0.0)) < 1e-3,  # of 0.74
        ),
    ),
    sizes=lambda case: {
        "the size of x": len(case["x"]),
        "the size of y": len(case["y"]),
        "the number of features": case["x"].shape[1],
        "the number of gammas": len(case["gammas"]),
    },
    alone=frozenset(
        {"cross_added", "bandwidth", "variance", "halved", "sizes_swapped", "first_size", "summed", "diagonal_zero"}
        | {"manhattan", "gammas_added", "first_gamma", "median_gamma", "mean_difference", "one_within"}
    ),
)


# --- proxy_a_distance -------------------------------------------------------------------------


def _proxy_inputs(rng: np.random.Generator) -> list[Case]:
    def domain(low: int, tied: int, high: int, dtype: str) -> np.ndarray:
        """Return probabilities, so many below ½, so many equal to it, and so many above."""
        parts = rng.uniform(0.02, 0.48, low), np.full(tied, 0.5), rng.uniform(0.52, 0.98, high)
        return rng.permutation(np.concatenate(parts)).astype(dtype)

    def case(source: tuple[int, int, int], target: tuple[int, int, int], dtype: str) -> Case:
        return {"p_of_source": domain(*source, dtype), "p_of_target": domain(*target, dtype)}

    return [
        case((3, 2, 15), (5, 1, 2), "float32"),
        case((1, 0, 4), (7, 1, 2), "float64"),
        case((7, 0, 3), (2, 1, 3), "float32"),  # worse than chance: below zero
        case((0, 0, 4), (8, 0, 0), "float64"),  # no error
        case((2, 1, 1), (4, 0, 4), "float64"),  # chance
        case((0, 1, 0), (0, 1, 0), "float32"),  # one point each, and the classifier cannot tell
    ]


def _observe_distance(answer: Answer, case: Case) -> Observation:
    """Observe a number to single precision: shares of points counted in float32 are right."""
    seen = observe_value_only(answer, case)
    if seen["type"] == "float":
        seen["value"] = seen["value"].astype(np.float32)
    return seen


def _distance_of(p_of_source: Tensor, p_of_target: Tensor) -> float:
    return lesson.proxy_a_distance(lesson.domain_error(p_of_source, p_of_target))


def _wrong_proxy(p_of_source: Tensor, p_of_target: Tensor, **switches: bool) -> float:
    limit = 0.5
    if "by_share" in switches:
        limit = len(p_of_source) / (len(p_of_source) + len(p_of_target))
    missed, mistaken = (p_of_source < limit).double(), (p_of_target >= limit).double()
    if "ties" in switches or "ties_wrong" in switches:
        missed = (p_of_source <= limit).double()
    if "ties" in switches or "ties_right" in switches:
        mistaken = (p_of_target > limit).double()
    if "soft" in switches:
        missed, mistaken = 1 - p_of_source.double(), p_of_target.double()
    error = (missed.mean() + mistaken.mean()) / 2
    if "pooled" in switches:
        error = torch.cat([missed, mistaken]).mean()
    if "source_only" in switches or "target_only" in switches:
        error = missed.mean() if "source_only" in switches else mistaken.mean()
    error = missed.mean() + mistaken.mean() if "errors_added" in switches else error
    error = torch.maximum(missed.mean(), mistaken.mean()) if "worse" in switches else error
    error = 1 - error if "accuracy" in switches else error
    if "error_itself" in switches:
        return float(error)
    value = (1 if "no_factor" in switches else 2) * (1 - (1 if "no_inner_factor" in switches else 2) * error)
    return float(value.abs() if "absolute" in switches else value.clamp(min=0) if "cut" in switches else value)


PROXY_A_DISTANCE = Exercise(
    id="08.proxy_a_distance",
    title="A distance from a classifier's errors",
    points=2,
    reference=_distance_of,
    inputs=_proxy_inputs,
    drive=_observe_distance,
    wrong=_wrong_proxy,
    mistakes=(
        Mistake(
            "pooled",
            "computed with one error rate over all points, so that the larger domain counts more",
            'With 900 source and 100 target points, "always source" errs on a tenth of them, and yet tells nothing. '
            "Take each domain's share of errors first.",
        ),
        Mistake(
            "accuracy",
            "right but for the sign: it takes the accuracy for the error",
            "Domains that can be told apart should give 2. p is the probability of the *source*: when is a source "
            "point judged wrongly?",
        ),
        Mistake(
            "no_factor",
            "computed without the factor 2 in front",
            "The distance runs from 0 at chance to 2 where no error is made.",
        ),
        Mistake(
            "no_inner_factor",
            "computed with ε where 2ε belongs",
            "At chance, ε = ½, the distance should be 0.",
        ),
        Mistake(
            "ties",
            "right but for p = ½, which it takes for the target",
            "The text says which domain a point with p = ½ is taken for.",
        ),
        Mistake(
            "ties_wrong",
            "right but for p = ½, which it counts as an error in both domains",
            "One comparison includes ½, the other does not: a point is taken for one domain or the other.",
        ),
        Mistake(
            "ties_right",
            "right but for p = ½, which it counts as right in both domains",
            "A point with p = ½ is taken for one domain, whichever it is from. In which domain is that an error?",
        ),
        Mistake(
            "absolute",
            "the distance without its sign",
            "An error above ½ makes it negative. Cutting the sign would turn chance into a distance.",
        ),
        Mistake(
            "cut",
            "computed with values below zero cut to zero",
            "At chance the error lies now above ½, now below. Keep the negative values, or the mean of many is too "
            "large.",
        ),
        Mistake(
            "errors_added",
            "computed with the sum of both domains' errors, not half of it",
            'A classifier that answers "source" everywhere errs on no source point and on every target point. That '
            "is chance, ε = ½.",
        ),
        Mistake(
            "source_only",
            "computed from the errors on the source alone",
            '"Always source" makes none of those. Which other errors are there?',
        ),
        Mistake(
            "target_only",
            "computed from the errors on the target alone",
            '"Always target" makes none of those. Which other errors are there?',
        ),
        Mistake(
            "worse",
            "computed from the worse of the two domains",
            "Both domains count alike: take the mean of the two error rates.",
        ),
        Mistake(
            "soft",
            "computed from the probabilities, not from decisions",
            "ε is a share of points judged wrongly. Each point is taken for one domain or the other first.",
        ),
        Mistake(
            "by_share",
            "computed with the source's share of the points for a threshold",
            "This classifier was trained with both domains counted alike, so it decides at ½.",
        ),
        Mistake("error_itself", "the error, not yet the distance", "Put ε into 2 (1 − 2 ε)."),
    ),
    sizes=lambda case: {
        "the number of source points": len(case["p_of_source"]),
        "the number of target points": len(case["p_of_target"]),
    },
    alone=frozenset(
        {"ties_wrong", "ties_right", "absolute", "cut", "errors_added", "source_only", "target_only", "worse", "soft"}
        | {"by_share", "error_itself"}
    ),
)

EXERCISES = (
    MMD,
    PROXY_A_DISTANCE,
    DENSITY_RATIO,
    EFFECTIVE_SAMPLE_SIZE,
    WEIGHTED_LOSS,
    LABEL_SHIFT_WEIGHTS,
    WEIGH_BY_DOMAIN,
)
