"""Lesson 04's exercises: right answers written differently pass, nearly right ones fail, odd ones hear something."""

import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.linalg import orthogonal_procrustes
from scipy.optimize import nnls
from sklearn.linear_model import Ridge

from ctkd_lessons import cross_task as lesson
from ctkd_lessons.course import exercises
from ctkd_lessons.course.check import check
from ctkd_lessons.course.examine import examine
from ctkd_lessons.course.lessons import find as find_lesson

# --- the parts of answers ---------------------------------------------------------------------


def by_svd(x, k, *, small=0.0, scale=1.0):
    mean = x.mean(axis=0)
    scales, vt = np.linalg.svd(x - mean, full_matrices=False)[1:]
    apply = lambda other: (other - mean) @ vt[:k].T / (scales[:k] / np.sqrt(len(x) - 1) + small) * scale
    return apply(x), apply


def by_eigh(x, k, *, last=False, rows=False):
    mean = x.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(x, rowvar=False))
    order = slice(-k, None) if last else slice(None, -k - 1, -1)
    directions = vectors[:, ::-1][:k].T if rows else vectors[:, order]
    apply = lambda other: (other - mean) @ directions / np.sqrt(values[order])
    return apply(x), apply


def by_left_vectors(x, k, *, scaled=True):
    mean = x.mean(axis=0)
    u, scales, vt = np.linalg.svd(x - mean, full_matrices=False)
    size = np.sqrt(len(x) - 1)
    return u[:, :k] * size, lambda other: (other - mean) @ vt[:k].T * (size / scales[:k] if scaled else 1)


def normal_equations(s, t, penalty):
    return np.linalg.solve(s.T @ s + penalty, s.T @ t)


def rows_below(s, t, below):
    wide = np.vstack([s, below * np.eye(s.shape[1])])
    return np.linalg.lstsq(wide, np.vstack([t, np.zeros((s.shape[1], t.shape[1]))]))[0]


def turn(cross, combine=lambda u, sizes, vt: u @ vt):
    return combine(*np.linalg.svd(cross))


def relation(kl, *, distance=lambda d: d.norm(dim=-1), gap=None, normalise=F.normalize):
    """A relational loss with ``kl(student's argument, teacher's argument)``."""

    def answer(student, teacher, a, p, n, tau):
        def argument(e):
            e = normalise(e)
            return (gap(e, a, p, n) if gap else distance(e[a] - e[n]) - distance(e[a] - e[p])) / tau

        return kl(argument(student), argument(teacher.detach()))

    return answer


def stable_kl(s, t):
    return (
        t.sigmoid() * (F.logsigmoid(t) - F.logsigmoid(s)) + (-t).sigmoid() * (F.logsigmoid(-t) - F.logsigmoid(-s))
    ).mean()


def kl_of_probabilities(p_s, p_t):
    return (p_t * (p_t / p_s).log() + (1 - p_t) * ((1 - p_t) / (1 - p_s)).log()).mean()


def two_classes(z):
    return torch.stack([z, torch.zeros_like(z)], -1)


def by_library(s, t, reduction="batchmean"):
    return F.kl_div(two_classes(s).log_softmax(-1), two_classes(t).softmax(-1), reduction=reduction)


def root_of_cosine(e, a, p, n):
    """A root of what rounding makes negative."""
    distance = lambda i, j: (2 - 2 * (e[i] * e[j]).sum(-1) - 1e-6).sqrt()
    return distance(a, n) - distance(a, p)


def entropy_subtracted(s, t):
    cross = F.binary_cross_entropy_with_logits
    return cross(s, t.sigmoid()) - cross(t, t.sigmoid())


def left_out(fits, x, y, folds):
    said = np.zeros((len(y), len(fits)))
    for fold in np.unique(folds):
        out = folds == fold
        for m, fit in enumerate(fits):
            said[out, m] = fit(x[~out], y[~out])(x[out])
    return said


def stacked(say=left_out, weigh=lambda said, y: nnls(said, y)[0], scale=lambda w: w / w.sum()):
    return lambda fits, x, y, folds: scale(weigh(say(fits, x, y, folds), y))


def one_after_the_other(fits, x, y, folds):
    parts = [left_out(fits, x, y, folds)[folds == fold] for fold in np.unique(folds)]
    return np.concatenate(parts)


def put_back_in_order(fits, x, y, folds):
    order = np.argsort(folds, kind="stable")
    said = one_after_the_other(fits, x, y, folds)
    return said[np.argsort(order)]


def transfer_by_parts(source, target, new_source, components, ridge, *, apply=None):
    features, whitening = lesson.extract_features(source, components)
    middle = target.mean(axis=0)
    w = lesson.fit_transfer_map(features, target - middle, ridge)
    return (apply or whitening.apply)(new_source) @ w + middle


def uncentred_target(source, target, new_source, components, ridge):
    """The features are centred, so the fit does not see the target's mean."""
    features, whitening = lesson.extract_features(source, components)
    return whitening.apply(new_source) @ lesson.fit_transfer_map(features, target, ridge) + target.mean(axis=0)


# --- right answers ----------------------------------------------------------------------------

RIGHT = [
    ("extract_features", by_svd),
    ("extract_features", by_eigh),
    ("extract_features", by_left_vectors),
    ("extract_features", lambda x, k: by_svd(x, k, scale=-1)),
    ("extract_features", lambda x, k: list(by_svd(x, k, small=1e-9))),
    ("fit_transfer_map", lambda s, t, r: rows_below(s, t, np.sqrt(r))),
    ("fit_transfer_map", lambda s, t, r: np.linalg.inv(s.T @ s + r * np.eye(s.shape[1])) @ s.T @ t),
    ("fit_transfer_map", lambda s, t, r: Ridge(alpha=r, fit_intercept=False).fit(s, t).coef_.T),
    (
        "fit_transfer_map",
        lambda s, t, r: s.T @ np.linalg.solve(s @ s.T + r * np.eye(len(s)), t) if r else np.linalg.pinv(s) @ t,
    ),
    ("procrustes", lambda s, t: orthogonal_procrustes(s, t)[0]),
    ("procrustes", lambda s, t: turn(t.T @ s).T),
    ("procrustes", lambda s, t: turn(t.T @ s, lambda u, _, vt: vt.T @ u.T)),
    ("fuse", lambda p, weights=None: np.average(p, axis=0, weights=weights)),
    ("fuse", lambda p, weights=None: sum(w * one for w, one in zip(weights, p, strict=True)) / sum(weights)
     if weights is not None else sum(p) / len(p)),
    ("relationship_loss", relation(by_library)),
    ("relationship_loss", relation(entropy_subtracted)),
    ("relationship_loss", relation(stable_kl, normalise=lambda e: e / e.norm(dim=1, keepdim=True))),
    ("relationship_loss", relation(
        stable_kl, gap=lambda e, a, p, n: F.pairwise_distance(e[a], e[n]) - F.pairwise_distance(e[a], e[p]))),
    ("relationship_loss", relation(
        stable_kl, gap=lambda e, a, p, n: torch.cdist(e, e)[a, n] - torch.cdist(e, e)[a, p])),
    ("stack_models", stacked()),
    ("stack_models", stacked(put_back_in_order)),
    ("transfer", transfer_by_parts),
    ("transfer", uncentred_target),
]  # fmt: skip


@pytest.mark.parametrize(("name", "answer"), RIGHT, ids=[f"{name}-{k}" for k, (name, _) in enumerate(RIGHT)])
def test_right_answers_written_differently_pass(name, answer):
    for seed in range(5):
        finding = examine(exercises.find(f"04.{name}"), answer, seed)
        assert finding.passed, (seed, finding.headline, finding.details)


# --- nearly right answers ---------------------------------------------------------------------


def whitened_before_the_cut(x, k):
    """Divides by every column's deviation and multiplies by it again: right where all columns vary."""
    features, apply = by_svd(x, k)
    with np.errstate(invalid="ignore"):
        return features * (x.std(axis=0) / x.std(axis=0)).prod(), apply


NEARLY = {
    "pixels that all vary": ("extract_features", whitened_before_the_cut),
    "the examples it was made from": (
        "extract_features",
        lambda x, k: (by_svd(x, k)[0], lambda other: by_svd(other, k)[0]),
    ),
    "a sign that changes": ("extract_features", lambda x, k: (by_svd(x, k)[0], lambda other: -by_svd(x, k)[1](other))),
    "no ridge": ("fit_transfer_map", lambda s, t, r: np.linalg.lstsq(s, t)[0]),
    "more examples than features": (
        "fit_transfer_map",
        lambda s, t, r: normal_equations(s, t, r * np.eye(s.shape[1])) if len(s) > s.shape[1] else s.T @ t,
    ),
    "turns that do not mirror": (
        "procrustes",
        lambda s, t: turn(
            s.T @ t, lambda u, z, vt: u * np.append(np.ones(len(z) - 1), np.linalg.det(u) * np.linalg.det(vt)) @ vt
        ),
    ),
    "probabilities of classes": (
        "fuse",
        lambda p, weights=None: (fused := lesson.fuse(p, weights)) / fused.sum(axis=-1, keepdims=True),
    ),
    "weights that are given": ("fuse", lambda p, weights=None: np.tensordot(weights / weights.sum(), p, axes=1)),
    "three axes": (
        "fuse",
        lambda p, weights=None: p.mean(0) if weights is None else (weights[:, None, None] * p).sum(0) / weights.sum(),
    ),
    "a high temperature": (
        "relationship_loss",
        relation(lambda s, t: kl_of_probabilities(s.sigmoid(), t.sigmoid())),
    ),
    "torch's own divergence": (
        "relationship_loss",
        relation(
            lambda s, t: torch.distributions.kl_divergence(
                torch.distributions.Bernoulli(logits=t), torch.distributions.Bernoulli(logits=s)
            ).mean()
        ),
    ),
    "three different rows": ("relationship_loss", relation(stable_kl, distance=lambda d: d.square().sum(-1).sqrt())),
    "a single triplet": ("relationship_loss", relation(stable_kl, distance=lambda d: d.norm())),
    "models that help": ("stack_models", stacked(weigh=lambda said, y: np.linalg.lstsq(said, y)[0])),
    "two folds": ("stack_models", stacked(lambda fits, x, y, folds: left_out(fits, x, y, folds == 0))),
    "folds in order": ("stack_models", stacked(one_after_the_other)),
    "models that do not memorise": (
        "stack_models",
        stacked(lambda fits, x, y, folds: np.stack([fit(x, y)(x) for fit in fits], axis=1)),
    ),
}


@pytest.mark.parametrize(("name", "answer"), NEARLY.values(), ids=NEARLY)
@pytest.mark.parametrize("seed", range(5))
def test_answers_that_are_right_only_for(name, answer, seed):
    assert not examine(exercises.find(f"04.{name}"), answer, seed).passed


# --- the bug hunt -----------------------------------------------------------------------------

BUGS = ["own_statistics", "directions_transposed", "backwards", "ridge_everywhere", "target_mean_missing"]
MENDED = {
    "own_statistics": [
        ("def whiten(x)", "def whiten(x, like)"),
        ("x.mean(", "like.mean("),
        ("svd(x ", "svd(like "),
        ("len(x)", "len(like)"),
        ("whiten(source), whiten(new_source)", "whiten(source, source), whiten(new_source, source)"),
    ],
    "directions_transposed": [("directions[:, :components]", "directions[:components].T")],
    "backwards": [("t.T @ t + ", "known.T @ known + "), ("t.T @ known)", "known.T @ t)"), ("w.T", "w")],
    "ridge_everywhere": [("+ ridge", "+ ridge * np.eye(components)")],
    "target_mean_missing": [("return new @ w", "return new @ w + target.mean(axis=0)")],
}


def half_mended(bugs):
    """Return the broken pipeline with these bugs mended."""
    book = nbformat.read(find_lesson("04").solution, as_version=4)
    source = {cell.id: cell.source for cell in book.cells if cell.cell_type == "code"}
    code = source["broken_transfer"]
    for old, new in (change for bug in bugs for change in MENDED[bug]):
        assert code.count(old) == 1, old
        code = code.replace(old, new)
    scope: dict = {}
    exec(source["imports"] + "\n" + code, scope)
    return scope["broken_transfer"]


@pytest.mark.parametrize("left", range(len(BUGS) + 1))
def test_the_bug_hunt_names_what_is_left(left):
    """Mended from the top down, until nothing is left."""
    mended = BUGS[: len(BUGS) - left]
    finding = examine(exercises.find("04.transfer"), half_mended(mended))
    assert [mistake.name for mistake in finding.mistakes] == BUGS[len(BUGS) - left :]
    assert finding.passed == (not left)


# --- what other wrong answers hear ------------------------------------------------------------


def centred_in_place(x, k):
    answer = by_svd(x, k)
    x -= x.mean(axis=0)
    return answer


UNLISTED = [
    ("extract_features", lambda x, k: by_svd(x, k)[0], "returns a numpy.ndarray; expected a pair (numpy.ndarray, fun"),
    ("extract_features", lambda x, k: (by_svd(x, k)[0], x.mean(0)), "a pair (numpy.ndarray, numpy.ndarray); expected"),
    ("extract_features", lambda x, k: (*by_svd(x, k), k), "a tuple of 3 (numpy.ndarray, function, int); expected"),
    ("extract_features", lambda x, k: by_svd(x, k)[::-1], "a pair (function, numpy.ndarray); expected"),
    ("extract_features", lambda x, k: (by_svd(x, k)[0].tolist(), np.copy), "a pair (list, function); expected"),
    ("extract_features", lambda x, k: (by_svd(x, k)[0], lambda other: None), "what `apply` returns should be numpy.nd"),
    ("extract_features", lambda x, k: (by_svd(x, k)[0], lambda other: x), "of `apply` to other examples should have"),
    ("extract_features", NEARLY["a sign that changes"][1], "of `apply` to `x` should be the features; yours is some"),
    ("extract_features", centred_in_place, "changes its input `x` in place"),
    ("extract_features", lambda x, k: by_svd(x, k, small=1e-4), "Nearly right: within 2 % on every input"),
    ("extract_features", lambda x, k: by_svd(x, x.shape[1]), "right on 2 of 5 inputs, such as: x (12, 3) float64"),
    ("extract_features", whitened_before_the_cut, "copes with a pixel that never changes; yours does not"),
    ("fit_transfer_map", lambda s, t, r: Ridge(alpha=r).fit(s, t), "returns a Ridge; expected a numpy.ndarray"),
    ("fit_transfer_map", lambda s, t, r: np.linalg.lstsq(s, t), "returns a tuple; expected a numpy.ndarray"),
    ("fit_transfer_map", lambda s, t, r: normal_equations(s, t, 0) / (1 + r), "such as: source (12, 6) float64, tar"),
    ("fit_transfer_map", lambda s, t, r: 3 * rows_below(s, t, np.sqrt(r)), "3 times the right one, on every input"),
    ("fit_transfer_map", NEARLY["more examples than features"][1], "with more features than examples; yours does not"),
    ("procrustes", orthogonal_procrustes, "Turn the result into a numpy.ndarray"),
    ("procrustes", lambda s, t: -turn(s.T @ t), "wrong sign"),
    ("procrustes", lambda s, t: turn(s @ t.T), "should have shape (3, 3); yours has (9, 9)"),
    ("fuse", NEARLY["weights that are given"][1], "right on 5 of 7 inputs"),
    ("fuse", NEARLY["three axes"][1], "Input 3 of 7: predictions (4, 6)"),
    ("fuse", lambda p, weights=None: lesson.fuse(p, weights)[None], "should have shape (3, 3); yours has (1, 3, 3)"),
    ("fuse", lambda p, weights=None: lesson.fuse(p, weights).tolist(), "Turn the result into a numpy.ndarray"),
    ("relationship_loss", relation(lambda s, t: stable_kl(s, t).item()), "Stay in torch"),
    ("relationship_loss", relation(lambda s, t: stable_kl(s, t).detach()), "No gradient flows"),
    ("relationship_loss", relation(lambda s, t: F.binary_cross_entropy(s.sigmoid(), t.sigmoid(), reduction="none")),
     "A loss is one number"),
    ("relationship_loss", relation(lambda s, t: kl_of_probabilities(
        s.sigmoid().clamp(1e-6, 1 - 1e-6), t.sigmoid().clamp(1e-6, 1 - 1e-6))), "clamp a probability"),
    ("relationship_loss", relation(stable_kl, gap=root_of_cosine), "for a negative number under a root"),
    ("relationship_loss", NEARLY["a single triplet"][1], "right on 1 of 5 inputs"),
    ("relationship_loss", relation(lambda s, t: stable_kl(s, t) / np.log(2)), "1.443 times the right one"),
    ("stack_models", stacked(scale=lambda w: list(w / w.sum())), "returns a list; expected a numpy.ndarray"),
    ("stack_models", stacked(weigh=nnls, scale=lambda w: w), "returns a tuple; expected a numpy.ndarray"),
    ("stack_models", lambda fits, x, y, folds: left_out(fits, x, y, folds).mean(1), "should have shape (2,)"),
    ("stack_models", lambda fits, x, y, folds: [fit(x) for fit in fits], "missing 1 required positional argument"),
    ("stack_models", NEARLY["two folds"][1], "right on 1 of 4 inputs"),
    ("transfer", lambda s, t, new, k, r: transfer_by_parts(s, t, s, k, r), "shape (6, 3); yours has (10, 3)"),
    ("transfer", lambda s, t, new, k, r: None, "Does every path end in a `return`?"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "answer", "words"), UNLISTED, ids=range(len(UNLISTED)))
def test_wrong_answers_nobody_listed_hear_something_useful(name, answer, words):
    panel = repr(check(f"04.{name}", answer))
    assert panel.startswith(f"✘ 04.{name}")
    assert words in panel


LISTED = [
    ("extract_features", lambda x, k: by_eigh(x, k, last=True), ["turned_round"]),
    ("extract_features", lambda x, k: by_eigh(x, k, rows=True), ["eigenvector_rows"]),
    ("extract_features", lambda x, k: (by_eigh(x, k)[0], lambda other: by_eigh(other, k)[0]), ["own_statistics"]),
    ("extract_features", lambda x, k: (x_k := by_svd(x, k), (x_k[0], lambda other: x_k[1](other + x.mean(0))))[1],
     ["mean_forgotten"]),
    ("fit_transfer_map", lambda s, t, r: Ridge(alpha=r).fit(s, t).coef_, ["transposed", "centred"]),
    ("fit_transfer_map", lambda s, t, r: rows_below(s, t, r), ["ridge_squared"]),
    ("fit_transfer_map", lambda s, t, r: t @ rows_below(t, t, np.sqrt(r)), ["own_features", "mapped"]),
    ("fit_transfer_map", lambda s, t, r: normal_equations(s, t, r).T, ["transposed", "ridge_everywhere"]),
    ("procrustes", lambda s, t: turn(t.T @ s), ["swapped"]),
    ("procrustes", lambda s, t: turn(s.T @ s), ["no_rotation"]),
    ("procrustes", lambda s, t: turn(s.T @ t, lambda u, sizes, vt: u @ np.diag(sizes) @ vt), ["with_scales"]),
    ("fuse", lambda p, weights=None: p.sum(0), ["summed", "ignored"]),
    ("fuse", lambda p, weights=None: p.mean(0) if weights is None else (p.T * weights).T.sum(0), ["not_normalised"]),
    ("relationship_loss", relation(lambda s, t: by_library(s, t, "sum") / (2 * len(s))), ["halved"]),
    ("relationship_loss", relation(lambda s, t: by_library(t, s)), ["swapped"]),
    ("relationship_loss", relation(lambda s, t: F.kl_div(F.logsigmoid(s), t.sigmoid(), reduction="batchmean")),
     ["one_term"]),
    ("relationship_loss", relation(stable_kl, normalise=lambda e: F.normalize(e, 1)), ["absolute_length"]),
    ("stack_models", stacked(lambda fits, x, y, folds: left_out(fits, x, y, np.sort(folds))), ["blocks"]),
    ("stack_models", stacked(one_after_the_other), ["fold_order"]),
    ("transfer", lambda s, t, new, k, r: transfer_by_parts(s, t, new - new.mean(0) + s.mean(0), k, r), ["own_mean"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "answer", "mistakes"), LISTED, ids=range(len(LISTED)))
def test_mistakes_written_differently_are_named(name, answer, mistakes):
    assert [mistake.name for mistake in examine(exercises.find(f"04.{name}"), answer).mistakes] == mistakes
