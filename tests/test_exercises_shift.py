"""Lesson 08's exercises: right answers written differently pass, nearly right ones fail, odd ones hear something."""

import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import balanced_accuracy_score
from sklearn.metrics.pairwise import rbf_kernel

from ctkd_lessons import shift as lesson
from ctkd_lessons.course import exercises
from ctkd_lessons.course.check import check
from ctkd_lessons.course.examine import cases_of, examine, observe
from ctkd_lessons.course.lessons import find as find_lesson

# --- the parts of answers ---------------------------------------------------------------------


def differences(a, b):
    return (a[:, None] - b[None]).square().sum(-1)


def products(a, b):
    """‖a‖² + ‖b‖² − 2 a · b: loses digits far from the origin."""
    return a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T


def discrepancy(
    squares=differences, *, gamma_of=lambda gamma: gamma, mean=torch.mean, cross=2, end=lambda value: value
):
    """MMD from three kernel matrices, with parts to exchange."""

    def answer(x, y, gammas):
        k = lambda a, b: sum(torch.exp(-gamma_of(gamma) * squares(a, b)) for gamma in gammas)
        return end(mean(k(x, x)) + mean(k(y, y)) - cross * k(x, y).mean())

    return answer


def by_signs(x, y, gammas):
    """One matrix for all points, with weights 1/n and −1/m before and behind it."""
    points = torch.cat([x, y])
    squares = torch.cdist(points, points) ** 2
    signs = torch.cat([torch.full((len(x),), 1 / len(x)), torch.full((len(y),), -1 / len(y))]).to(x)
    return sum(signs @ (-gamma * squares).exp() @ signs for gamma in gammas)


def in_loops(x, y, gammas):
    def mean(left, right):
        total = 0
        for a in left:
            for b in right:
                for gamma in gammas:
                    total = total + torch.exp(-gamma * torch.dot(a - b, a - b))
        return total / (len(left) * len(right))

    return mean(x, x) - 2 * mean(x, y) + mean(y, y)


def by_tensor_of_gammas(x, y, gammas):
    rates = torch.tensor(gammas)[:, None, None]
    return sum(s * (-rates * differences(a, b)).exp().sum(0).mean() for s, a, b in ((1, x, x), (1, y, y), (-2, x, y)))


def without_own_pairs(k):
    return k[~torch.eye(len(k), dtype=torch.bool)].mean()


def root_at_zero(a, b):
    return (a[:, None] - b[None]).square().sum(-1).sqrt() ** 2


def by_confusion(p_of_source, p_of_target):
    """Scikit-learn's balanced accuracy."""
    truth = np.r_[np.ones(len(p_of_source)), np.zeros(len(p_of_target))]
    answer = torch.cat([p_of_source, p_of_target]).numpy() >= 0.5
    return float(2 * (2 * balanced_accuracy_score(truth, answer) - 1))


def in_single_precision(p_of_source, p_of_target):
    error = ((p_of_source < 0.5).float().mean() + (p_of_target >= 0.5).float().mean()) / 2
    return (2 * (1 - 2 * error)).item()


def overall(p_of_source, p_of_target):
    wrong = int((p_of_source < 0.5).sum() + (p_of_target >= 0.5).sum())
    return 2 * (1 - 2 * wrong / (len(p_of_source) + len(p_of_target)))


def distance_with(compare, other):
    """Errors by two comparisons with ½."""
    return lambda s, t: (2 - 2 * compare(s).double().mean() - 2 * other(t).double().mean()).item()


def by_logits(p):
    return torch.softmax(-torch.logit(p), 0) * len(p)


def by_target(p):
    odds = p / (1 - p)
    return (1 / odds) / (1 / odds).mean()


def normalised_first(weights):
    w = weights / weights.amax()
    return 1 / (w / w.sum()).square().sum()


def in_double(weights):
    w = weights.double()
    return (w.sum() ** 2 / w.pow(2).sum()).to(weights.dtype)


def by_log_softmax(logits, labels, weights):
    logs = F.log_softmax(logits, dim=1).gather(1, labels[:, None]).squeeze(1)
    return -(weights.detach() @ logs) / len(labels)


def by_nll(logits, labels, weights):
    each = logits.logsumexp(1) - logits[range(len(labels)), labels]
    with torch.no_grad():
        share = weights / len(weights)
    return sum(each * share)


def weighed(loss=lambda z, y: F.cross_entropy(z, y, reduction="none"), total=lambda terms, w: terms.mean()):
    return lambda logits, labels, weights: total(weights.detach() * loss(logits, labels), weights.detach())


def guarded_loss(logits, labels):
    """The log of a softmax, kept from −inf by force."""
    return F.nll_loss((logits.softmax(1) + 1e-9).log(), labels, reduction="none")


def solved(matrix=lambda c: c, *, shares=None, end=lambda w: w.clamp(min=0)):
    """Black-box shift estimation with parts to exchange."""
    shares = shares or (lambda predictions, classes: F.one_hot(predictions, classes).double().mean(0))
    return lambda c, predictions: end(torch.linalg.inv(matrix(c)) @ shares(predictions, len(c)).to(c.dtype))


def by_cramer(confusion, predictions):
    """Determinants, class by class."""
    q = torch.tensor([(predictions == i).double().mean() for i in range(len(confusion))]).to(confusion)
    whole = torch.linalg.det(confusion)
    found = []
    for j in range(len(confusion)):
        changed = confusion.clone()
        changed[:, j] = q
        found.append(torch.linalg.det(changed) / whole)
    return torch.relu(torch.stack(found))


def by_label_shares(confusion, predictions):
    """First the target's label shares, then the ratio."""
    labels = confusion.sum(0)
    target = torch.linalg.solve(confusion / labels, solved_shares(predictions, confusion))
    return (target / labels).clamp(min=0)


def solved_shares(predictions, confusion):
    return torch.bincount(predictions, minlength=len(confusion)).to(confusion) / len(predictions)


def non_negative(confusion, predictions):
    """Right but where a weight would be negative: there the others change, too."""
    from scipy.optimize import nnls

    q = solved_shares(predictions, confusion).double().numpy()
    return torch.from_numpy(nnls(confusion.double().numpy(), q)[0]).to(confusion.dtype)


def with_autograd(source, target, steps, learning_rate, *, folds=2, first=0, momentum=0.0, ratio=by_target):
    """The bug hunt by torch's own layers, losses and optimiser."""
    p = torch.zeros(len(source), dtype=source.dtype)
    for k in range(folds):
        judge = torch.nn.Linear(source.shape[1], 1, dtype=source.dtype)
        torch.nn.init.zeros_(judge.weight)
        torch.nn.init.zeros_(judge.bias)
        optimiser = torch.optim.SGD(judge.parameters(), lr=learning_rate, momentum=momentum)
        of_source = source[torch.arange(len(source)) % folds != k]
        of_target = target[torch.arange(first, first + len(target)) % folds != k]
        for _ in range(steps):
            optimiser.zero_grad()
            (F.softplus(-judge(of_source)).mean() / 2 + F.softplus(judge(of_target)).mean() / 2).backward()
            optimiser.step()
        p[k::folds] = torch.sigmoid(judge(source[k::folds]))[:, 0].detach()
    return ratio(p)


# --- right answers ----------------------------------------------------------------------------

RIGHT = [
    ("mmd", discrepancy()),
    ("mmd", by_signs),
    ("mmd", in_loops),
    ("mmd", by_tensor_of_gammas),
    ("mmd", discrepancy(lambda a, b: torch.cdist(a, b).pow(2))),
    ("mmd", discrepancy(lambda a, b: (a.unsqueeze(1) - b).norm(dim=2) ** 2)),
    ("mmd", lambda x, y, gammas: discrepancy(products)(x - x.mean(0), y - x.mean(0), gammas)),
    ("proxy_a_distance", by_confusion),
    ("proxy_a_distance", in_single_precision),
    ("density_ratio", by_target),
    ("density_ratio", lambda p: (1 / p - 1) / (1 / p - 1).mean()),
    ("density_ratio", lambda p: len(p) * F.normalize((1 - p) / p, p=1, dim=0)),
    ("effective_sample_size", normalised_first),
    ("effective_sample_size", in_double),
    ("effective_sample_size", lambda w: len(w) / (1 + (w / w.mean()).var(correction=0))),
    ("weighted_loss", by_log_softmax),
    ("weighted_loss", by_nll),
    ("weighted_loss", weighed()),
    ("label_shift_weights", solved()),
    ("label_shift_weights", by_cramer),
    ("label_shift_weights", by_label_shares),
    ("weigh_by_domain", with_autograd),
]  # fmt: skip


@pytest.mark.parametrize(("name", "answer"), RIGHT, ids=[f"{name}-{k}" for k, (name, _) in enumerate(RIGHT)])
def test_right_answers_written_differently_pass(name, answer):
    for seed in range(5):
        finding = examine(exercises.find(f"08.{name}"), answer, seed)
        assert finding.passed, (seed, finding.headline, finding.details)


# --- nearly right answers ---------------------------------------------------------------------

NEARLY = {
    "points near the origin": ("mmd", discrepancy(products)),
    "samples of one size": ("mmd", lambda x, y, g: discrepancy()(x, y, g) if len(x) == len(y) else 0 * x.sum()),
    "one gamma": ("mmd", lambda x, y, gammas: discrepancy()(x, y, gammas) / len(gammas)),
    "values without a gradient": ("mmd", discrepancy(root_at_zero)),
    "domains of one size": ("proxy_a_distance", overall),
    "points off the border": ("proxy_a_distance", distance_with(lambda s: s < 0.5, lambda t: t > 0.5)),
    "better than chance": ("proxy_a_distance", lambda s, t: max(0.0, by_confusion(s, t))),
    "points that could be of the target": ("density_ratio", lambda p: by_logits(p.clamp(max=0.99))),
    "p not near zero": ("density_ratio", lambda p: by_target(p.clamp(0.05, 1))),
    "weights of ordinary size": ("effective_sample_size", lambda w: w.sum() ** 2 / (w @ w)),
    "weights of mean one": ("effective_sample_size", lambda w: len(w) ** 2 / (w * w).sum()),
    "weights above zero": ("weighted_loss", weighed(total=lambda terms, w: terms[w > 0].mean())),
    "a batch of mean one": ("weighted_loss", weighed(total=lambda terms, w: terms.sum() / w.sum())),
    "small logits": ("weighted_loss", weighed(guarded_loss)),
    "solutions above zero": ("label_shift_weights", solved(end=lambda w: w)),
    "solutions above zero, by least squares": ("label_shift_weights", non_negative),
    "symmetric matrices": ("label_shift_weights", solved(lambda c: (c + c.T) / 2)),
    "an even number of source points": ("weigh_by_domain", lambda s, *rest: with_autograd(s, *rest, first=len(s))),
    "plain descent": ("weigh_by_domain", lambda *arguments: with_autograd(*arguments, momentum=0.1)),
}  # fmt: skip


@pytest.mark.parametrize(("name", "answer"), NEARLY.values(), ids=NEARLY)
@pytest.mark.parametrize("seed", range(5))
def test_answers_that_are_right_only_for(name, answer, seed):
    assert not examine(exercises.find(f"08.{name}"), answer, seed).passed


# --- the bug hunt -----------------------------------------------------------------------------

BUGS = ["in_sample", "carried_over", "uncounted", "inverted", "not_normalised"]
MENDED = {
    "in_sample": [("p[train] = torch.sigmoid(x[train] @ theta)", "p[~train] = torch.sigmoid(x[~train] @ theta)")],
    "carried_over": [("train = fold != k", "train = fold != k\n        theta = torch.zeros_like(x[0])")],
    "uncounted": [("torch.ones_like(t) / len(t)", "(t / t.sum() + (1 - t) / (1 - t).sum()) / 2")],
    "inverted": [("weights = p / (1 - p)", "weights = (1 - p) / p")],
    "not_normalised": [("return weights", "return weights / weights.mean()")],
}  # fmt: skip


def half_mended(bugs):
    """Return the broken function with these bugs mended."""
    book = nbformat.read(find_lesson("08").solution, as_version=4)
    source = {cell.id: cell.source for cell in book.cells if cell.cell_type == "code"}
    code = source["broken_weigh_by_domain"]
    for old, new in (change for bug in bugs for change in MENDED[bug]):
        assert code.count(old) == 1, old
        code = code.replace(old, new)
    scope: dict = {}
    exec(source["imports"] + "\n" + code, scope)
    return scope["broken_weigh_by_domain"]


@pytest.mark.parametrize("mended", range(2 ** len(BUGS)))
def test_the_bug_hunt_names_what_is_left(mended):
    """Every subset of the bugs, until nothing is left."""
    done = [bug for place, bug in enumerate(BUGS) if mended >> place & 1]
    finding = examine(exercises.find("08.weigh_by_domain"), half_mended(done))
    assert [mistake.name for mistake in finding.mistakes] == [bug for bug in BUGS if bug not in done]
    assert finding.passed == (done == BUGS)


# --- what other wrong answers hear ------------------------------------------------------------


def by_scikit_learn(x, y, gammas):
    k = lambda a, b: sum(rbf_kernel(a, b, gamma).mean() for gamma in gammas)
    return k(x, x) + k(y, y) - 2 * k(x, y)


def in_place(source, target, *rest):
    weights = with_autograd(source, target, *rest)
    source -= source.mean(0)
    return weights


def forgets_the_tensor(logits, labels, weights):
    return sum(w * F.cross_entropy(z[None], y[None]).item() for z, y, w in zip(logits, labels, weights, strict=True))


def random_start(source, target, steps, learning_rate):
    judge = torch.nn.Linear(source.shape[1], 1, dtype=source.dtype)
    return by_target(torch.sigmoid(judge(source))[:, 0].detach())


UNLISTED = [
    ("mmd", discrepancy(products), "keeps its digits in float32 far from the origin, where it subtracts before"),
    ("mmd", discrepancy(root_at_zero), "Look for a root"),
    ("mmd", discrepancy(end=lambda value: value / 2), "0.5 times the right one"),
    ("mmd", discrepancy(end=lambda value: -value), "wrong sign"),
    ("mmd", discrepancy(end=lambda value: value.item()), "returns a float; expected a torch.Tensor"),
    ("mmd", discrepancy(end=lambda value: value.double()), "dtype should be torch.float32; yours is torch.float64"),
    ("mmd", lambda x, y, gammas: discrepancy()(x, y.detach(), gammas), "No gradient reaches `y`"),
    ("mmd", lambda x, y, gammas: torch.exp(-gammas[0] * (x - y).square().sum(1)).mean(), "must match the size of tens"),
    ("mmd", by_scikit_learn, "expected a torch.Tensor"),
    ("mmd", discrepancy(end=lambda value: value.clamp(max=0.5)), "The value differs"),
    ("mmd", discrepancy(torch.cdist), "computed with distances where their squares belong"),
    ("proxy_a_distance", lambda s, t: torch.tensor(by_confusion(s, t)), "returns a torch.Tensor; expected a float"),
    ("proxy_a_distance", lambda s, t: by_confusion(s, t) / 4, "0.25 times the right one"),
    ("proxy_a_distance", lambda s, t: None, "Does every path end in a `return`?"),
    ("proxy_a_distance", lambda s, t: float((s - t).abs().mean()), "must match the size of tensor"),
    ("density_ratio", lambda p: by_target(p.clamp(max=0.9)), "Nearly right"),
    ("density_ratio", lambda p: by_target(p.clamp(max=0.9)), "expected 0, got 0.0009"),
    ("density_ratio", lambda p: ((1 - p) / (p + 1e-4)) / ((1 - p) / (p + 1e-4)).mean(), "differs at"),
    ("density_ratio", lambda p: by_target(p).mean(), "should have shape (6,); yours has ()"),
    ("density_ratio", lambda p: 2 * by_target(p), "2 times the right one"),
    ("density_ratio", lambda p: by_target(p).tolist(), "returns a list; expected a torch.Tensor"),
    ("effective_sample_size", lambda w: in_double(w).item(), "returns a float; expected a torch.Tensor"),
    ("effective_sample_size", lambda w: in_double(w).int(), "dtype should be torch.float32; yours is torch.int32"),
    ("effective_sample_size", lambda w: in_double(w) - 1, "The value differs"),
    ("effective_sample_size", lambda w: in_double(w).square(), "The value differs"),
    ("weighted_loss", lambda z, y, w: F.cross_entropy(z, y, weight=w.detach(), reduction="none").mean(),
     "which takes them for weights of *classes*"),
    ("weighted_loss", lambda z, y, w: (w * F.cross_entropy(z, y, reduction="none")).sum() / w.sum(),
     "division by the batch's sum of weights"),
    ("weighted_loss", lambda z, y, w: (w * F.cross_entropy(z, y, reduction="none")).sum() / w.sum(),
     "Beside that: Gradient flows into `weights`; it should receive none."),
    ("weighted_loss", forgets_the_tensor, "Beside that: No gradient reaches `logits`."),
    ("weighted_loss", lambda z, y, w: weighed()(z.detach(), y, w), "No gradient flows"),
    ("weighted_loss", weighed(lambda z, y: F.mse_loss(z.softmax(1), F.one_hot(y, z.shape[1]).to(z.dtype))),
     "The value differs"),
    ("weighted_loss", weighed(lambda z, y: F.nll_loss(z, y, reduction="none")), "The value differs"),
    ("weighted_loss", weighed(guarded_loss), "Right for small inputs, but too small for large ones"),
    ("label_shift_weights", solved(end=lambda w: w.clamp(min=0).double()), "dtype should be torch.float32"),
    ("label_shift_weights", solved(end=lambda w: w.clamp(min=0)[:, None]), "should have shape (4,); yours has (4, 1)"),
    ("label_shift_weights", lambda c, p: torch.linalg.solve(c, p), "stopped with RuntimeError"),
    ("label_shift_weights", solved(end=lambda w: w.clamp(min=0.01)), "differs at"),
    ("label_shift_weights", solved(end=lambda w: w.clamp(min=0)[[0]]), "should have shape (4,); yours has (1,)"),
    ("label_shift_weights", non_negative, "differs at"),
    ("weigh_by_domain", in_place, "changes its input `source` in place"),
    ("weigh_by_domain", random_start, "gives another value on a second call"),
    ("weigh_by_domain", lambda *a: with_autograd(*a, momentum=0.9), "differs at"),
    ("weigh_by_domain", lambda *a: with_autograd(*a, folds=3), "differs at"),
    ("weigh_by_domain", lambda s, t, k, rate: with_autograd(s, t, k + 1, rate), "differs at"),
    ("weigh_by_domain", lambda s, t, *rest: torch.cat([with_autograd(s, t, *rest), t[:, 0]]), "should have shape (9,)"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "answer", "words"), UNLISTED, ids=range(len(UNLISTED)))
def test_wrong_answers_nobody_listed_hear_something_useful(name, answer, words):
    panel = repr(check(f"08.{name}", answer))
    assert panel.startswith(f"✘ 08.{name}")
    assert words in panel


LISTED = [
    ("mmd", lambda x, y, gammas: lesson.mmd(x, y, gammas).sqrt(), ["rooted"]),
    ("mmd", discrepancy(cross=1), ["cross_once"]),
    ("mmd", discrepancy(gamma_of=lambda gamma: 1 / gamma), ["gamma_inverted"]),
    ("mmd", discrepancy(gamma_of=lambda sigma: 1 / (2 * sigma**2)), ["bandwidth"]),
    ("mmd", discrepancy(mean=without_own_pairs), ["unbiased"]),
    ("mmd", discrepancy(mean=lambda k: (k.sum() - k.trace()) / len(k) ** 2), ["diagonal_zero"]),
    ("mmd", discrepancy(lambda a, b: (a[:, None] - b).pow(2).mean(-1)), ["over_features"]),
    ("mmd", discrepancy(torch.cdist), ["distances"]),
    ("mmd", discrepancy(lambda a, b: torch.cdist(a, b, p=1)), ["manhattan"]),
    ("mmd", lambda x, y, gammas: sum(discrepancy(cross=1)(x, y, [g]) for g in gammas) / len(gammas),
     ["kernels_averaged", "cross_once"]),
    ("mmd", lambda x, y, gammas: discrepancy()(x, y, [sum(gammas)]), ["gammas_added"]),
    ("mmd", lambda x, y, gammas: ((x.mean(0) - y.mean(0)) ** 2).sum(), ["mean_difference"]),
    ("proxy_a_distance", overall, ["pooled"]),
    ("proxy_a_distance", lambda s, t: -overall(s, t), ["pooled", "accuracy"]),
    ("proxy_a_distance", lambda s, t: by_confusion(t, s), ["accuracy"]),
    ("proxy_a_distance", distance_with(lambda s: s <= 0.5, lambda t: t > 0.5), ["ties"]),
    ("proxy_a_distance", distance_with(lambda s: s.round() == 0, lambda t: t.round() == 1), ["ties"]),
    ("proxy_a_distance", distance_with(lambda s: s < 0.5, lambda t: t > 0.5), ["ties_right"]),
    ("proxy_a_distance", lambda s, t: by_confusion(s, t) / 2, ["no_factor"]),
    ("proxy_a_distance", lambda s, t: abs(by_confusion(s, t)), ["absolute"]),
    ("density_ratio", lambda p: (1 - p) / p, ["not_normalised"]),
    ("density_ratio", lambda p: F.normalize((1 - p) / p, p=1, dim=0), ["sum_one"]),
    ("density_ratio", lambda p: by_target(1 - p), ["inverted"]),
    ("density_ratio", lambda p: p / (1 - p), ["inverted", "not_normalised"]),
    ("density_ratio", lambda p: 1 - p, ["target_share", "not_normalised"]),
    ("density_ratio", lambda p: -torch.logit(p), ["logs"]),
    ("effective_sample_size", lambda w: w.sum() ** 2 / (w @ w), ["unscaled"]),
    ("effective_sample_size", lambda w: 1 / (w / w.sum()).square().sum() / len(w), ["share"]),
    ("effective_sample_size", lambda w: (w.mean() ** 2 / (w**2).mean()), ["unscaled", "share"]),
    ("effective_sample_size", lambda w: (w / w.sum()).square().sum(), ["inverted"]),
    ("effective_sample_size", lambda w: torch.distributions.Categorical(w / w.max()).perplexity(), ["perplexity"]),
    ("weighted_loss", lambda z, y, w: (w.detach() * F.cross_entropy(z, y)).mean(), ["mean_first"]),
    ("weighted_loss", lambda z, y, w: (w * F.cross_entropy(z, y)).sum(), ["mean_first", "summed"]),
    ("weighted_loss", lambda z, y, w: F.cross_entropy(z, y, weight=w), ["class_weights"]),
    ("weighted_loss", lambda z, y, w: F.cross_entropy(z, y, weight=w.detach()), ["class_weights"]),
    ("weighted_loss", lambda z, y, w: (w * F.cross_entropy(z, y, reduction="none")).mean(), ["not_detached"]),
    ("weighted_loss", weighed(lambda z, y: F.cross_entropy(z.softmax(1), y, reduction="none")), ["softmax_twice"]),
    ("weighted_loss", lambda z, y, w: (w.detach()[:, None] * -z.log_softmax(1) * F.one_hot(y, z.shape[1])).mean(),
     ["over_classes"]),
    ("weighted_loss", weighed(total=lambda terms, w: terms), ["per_example"]),
    ("label_shift_weights", solved(end=lambda w: w), ["not_cut"]),
    ("label_shift_weights", solved(lambda c: c.T), ["transposed"]),
    ("label_shift_weights", solved(lambda c: c / c.sum(0)), ["given_label"]),
    ("label_shift_weights", solved(lambda c: F.normalize(c, p=1, dim=1)), ["given_prediction"]),
    ("label_shift_weights", solved(lambda c: c.T, end=lambda w: w), ["not_cut", "transposed"]),
    ("label_shift_weights", solved(shares=lambda p, classes: torch.bincount(p, minlength=classes)), ["counts"]),
    ("label_shift_weights", solved(shares=lambda p, classes: torch.bincount(p) / len(p)), ["seen_only"]),
    ("label_shift_weights", lambda c, p: solved_shares(p, c) / c.sum(1), ["by_predictions"]),
    ("label_shift_weights", lambda c, p: (c**-1) @ solved_shares(p, c), ["elementwise"]),
    ("weigh_by_domain", lambda *a: with_autograd(*a, ratio=lambda p: (1 - p) / p), ["not_normalised"]),
    ("weigh_by_domain", lambda *a: with_autograd(*a, ratio=lambda p: p / (1 - p)), ["inverted", "not_normalised"]),
    ("weigh_by_domain", lambda *a: with_autograd(*a, ratio=lambda p: (1 - p) / (1 - p).mean()), ["target_share"]),
    ("weigh_by_domain", lambda s, t, k, rate: with_autograd(s, t, k, 2 * rate), ["doubled"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "answer", "mistakes"), LISTED, ids=range(len(LISTED)))
def test_mistakes_written_differently_are_named(name, answer, mistakes):
    assert [mistake.name for mistake in examine(exercises.find(f"08.{name}"), answer).mistakes] == mistakes


# --- the variant, which no module of the lesson holds -----------------------------------------


def test_label_shift_weights_are_the_true_ratio_where_only_the_labels_shift():
    """From exact shares, with predictions in exactly those shares."""
    given_label = torch.tensor([[0.8, 0.1, 0.2], [0.1, 0.7, 0.2], [0.1, 0.2, 0.6]], dtype=torch.float64)
    source, target = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([0.2, 0.2, 0.6]).double()
    counts = (1000 * given_label @ target).round().long()
    torch.testing.assert_close(counts.double() / 1000, given_label @ target)
    predictions = torch.repeat_interleave(torch.arange(3), counts)
    found = exercises.find("08.label_shift_weights").reference(given_label * source, predictions)
    torch.testing.assert_close(found, target / source)


def test_known_wrong_answers_print_no_warning(recwarn):
    """A check runs them to compare; what they print would stand in the learner's notebook."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    for exercise in exercises.of_lesson("08"):
        for mistakes in exercise.combinations():
            for case in cases_of(exercise):
                observe(exercise, exercise.variant(*mistakes), case)
    torch.set_warn_always(before)
    assert [str(warning.message) for warning in recwarn] == []
