"""Every exercise: the solution passes, the untouched sheet does not, every mistake gets its own hint."""

import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ctkd_lessons import soft_targets
from ctkd_lessons.course import exercises
from ctkd_lessons.course.check import CheckFailed, check, marked_up
from ctkd_lessons.course.comparing import differs
from ctkd_lessons.course.examine import cases_of, examine, observe
from ctkd_lessons.course.exercises import MODULES, of_lesson
from ctkd_lessons.course.lessons import find as find_lesson
from ctkd_lessons.features import activations, distance_loss, hint_loss, similarity_loss

ALL = [exercise for number in MODULES for exercise in of_lesson(number)]
COMBINATIONS = [
    pytest.param(exercise, group, id=f"{exercise.id}-{'+'.join(mistake.name for mistake in group)}")
    for exercise in ALL
    for group in exercise.combinations()
]
every_exercise = pytest.mark.parametrize("exercise", ALL, ids=lambda exercise: exercise.id)


def same_behaviour(exercise, left, right):
    return all(differs(observe(exercise, left, c), observe(exercise, right, c)) is None for c in cases_of(exercise))


@every_exercise
@pytest.mark.parametrize("seed", range(5))
def test_the_reference_passes_on_any_seed(exercise, seed):
    assert examine(exercise, exercise.reference, seed).passed


@every_exercise
def test_the_stub_is_not_attempted(exercise):
    def stub(*arguments):
        raise NotImplementedError

    finding = examine(exercise, stub)
    assert finding.verdict == "not attempted"
    assert "not attempted yet" in finding.headline


@every_exercise
def test_there_are_enough_mistakes_with_words_of_their_own(exercise):
    assert len(exercise.mistakes) >= 4
    for texts in ([m.hint for m in exercise.mistakes], [m.says for m in exercise.mistakes]):
        assert len(set(texts)) == len(texts)


def test_enough_exercises():
    assert all(len(of_lesson(number)) >= 4 for number in MODULES)


@pytest.mark.parametrize(("exercise", "group"), COMBINATIONS)
def test_every_mistake_and_every_pair_is_named(exercise, group):
    """A pair may behave as one of its halves (no temperature is no temperature, multiplied or not), never as right."""
    wrong = exercise.variant(*group)
    for seed in (0, 1) if len(group) == 1 else (0,):
        finding = examine(exercise, wrong, seed)
        assert finding.verdict == "wrong"
        if finding.mistakes != group:
            assert len(group) > 1, f"taken for {[m.name for m in finding.mistakes]}"
            assert set(finding.mistakes) < set(group)
            assert same_behaviour(exercise, wrong, exercise.variant(*finding.mistakes))
        for mistake in finding.mistakes:
            assert mistake.says in finding.headline
            assert mistake.hint in finding.details


@every_exercise
def test_observations_are_plain(exercise):
    """A grader sends them between processes."""
    for case in cases_of(exercise):
        assert all(isinstance(value, (np.ndarray, int, float)) for value in case.values())
        seen = observe(exercise, exercise.reference, case)
        assert all(isinstance(value, (str, np.ndarray)) for value in seen.values())


# --- what a learner is told, on kd_loss -------------------------------------------------------


def told(answer, exercise_id="01.kd_loss"):
    return repr(check(exercise_id, answer))


def by_hand(s, t, temperature):
    """Right, in another order: the cross-entropy minus the teacher's entropy, row by row."""
    total = 0
    for row_s, row_t in zip(s, t.detach(), strict=True):
        p = torch.softmax(row_t / temperature, 0)
        cross = -(p * F.log_softmax(row_s / temperature, 0)).sum()
        total = total + cross + torch.special.xlogy(p, p).sum()
    return total / len(s) * temperature**2


def by_library(s, t, temperature):
    log_s, log_t = F.log_softmax(s / temperature, -1), F.log_softmax(t.detach() / temperature, -1)
    return F.kl_div(log_s, log_t, reduction="batchmean", log_target=True) * temperature * temperature


@pytest.mark.parametrize("answer", [by_hand, by_library, lambda s, t, T: soft_targets.kd_loss(s, t, T)])
def test_right_answers_written_differently_pass(answer):
    assert check("01.kd_loss", answer).passed


def limit_without_gradient(s, t):
    with torch.no_grad():
        d = s - t
        return (d - d.mean(1, keepdim=True)) / d.numel()


def projected(s, w):
    return F.conv2d(s, w[..., None, None])


def maps_in_a_loop(f):
    return torch.stack([F.normalize(example.square().sum(0).flatten(), dim=0) for example in f])


def map_of_public_code(f):
    return F.normalize(f.pow(2).mean(1).view(f.size(0), -1))


def map_with_a_small_number(f):
    q = f.pow(2).sum(1, keepdim=True)
    return (q / (torch.norm(q, dim=(2, 3), keepdim=True) + 1e-6)).flatten(1)


def hint_by_matrix_product(s, t, w):
    difference = w @ s.flatten(2) - t.detach().flatten(2)
    return (difference.square().sum() / len(s)) / 2


def gram_of(f):
    rows = f.flatten(1)
    return rows @ rows.T


def similarity_by_columns(s, t):
    """G is symmetric: its columns may as well be divided."""
    return F.mse_loss(F.normalize(gram_of(s), dim=0), F.normalize(gram_of(t.detach()), dim=0))


def similarity_by_einsum(s, t):
    g_s, g_t = (torch.einsum("id,jd->ij", f.flatten(1), f.flatten(1)) for f in (s, t.detach()))
    return torch.dist(g_s / g_s.norm(dim=1, keepdim=True), g_t / g_t.norm(dim=1, keepdim=True)) ** 2 / len(s) ** 2


def relational(distances, *, mean=None, loss=F.smooth_l1_loss):
    """A relational loss from a function that gives all distances."""

    def answer(s, t):
        d_s, d_t = distances(s), distances(t.detach())
        of_pairs = mean or (lambda d: d.sum() / (len(d) * (len(d) - 1)))
        return loss(d_s / of_pairs(d_s), d_t / of_pairs(d_t))

    return answer


def off_diagonal_mean(d):
    return d[~torch.eye(len(d), dtype=torch.bool)].mean()


def direct(rows):
    return (rows[:, None] - rows[None]).norm(dim=-1)


def small_number_under_the_root(rows):
    return ((rows[:, None] - rows[None]).pow(2).sum(-1) + 1e-12).sqrt()


def gram_distances(rows):
    """As in the released code of the paper."""
    squares = rows.pow(2).sum(1)
    found = (squares[:, None] + squares[None] - 2 * rows @ rows.T).clamp(min=1e-12).sqrt()
    return found * (1 - torch.eye(len(rows), dtype=rows.dtype))


def centred_gram_distances(rows):
    return gram_distances(rows - rows.mean(0))


def cdist_by_differences(rows):
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")


def channels_by_library(s, t, T):
    log_s, log_t = (F.log_softmax(f.flatten(2) / T, -1) for f in (s, t.detach()))
    return F.kl_div(log_s, log_t, reduction="sum", log_target=True) * T * T / (s.shape[0] * s.shape[1])


def channels_as_rows(s, t, T):
    return soft_targets.kd_loss(s.reshape(-1, s[0, 0].numel()), t.reshape(-1, t[0, 0].numel()), T)


def with_context_manager(student, projector, teacher, layer, images, labels, steps, weight, learning_rate):
    """Another way to take the feature, and two optimisers in the place of one."""
    with torch.no_grad():
        target = activations(teacher.eval(), images, [str(layer)])[1][str(layer)]
    optimisers = [torch.optim.SGD(model.parameters(), learning_rate) for model in (student, projector)]
    for _ in range(steps):
        logits, seen = activations(student, images, [str(layer)])
        student.zero_grad()
        projector.zero_grad()
        F.cross_entropy(logits, labels).backward(retain_graph=True)
        (weight * hint_loss(projector(seen[str(layer)]), target)).backward()
        for optimiser in optimisers:
            optimiser.step()


@pytest.mark.parametrize(
    ("exercise_id", "answer"),
    [
        ("01.soften", lambda z, T: (z / T - (z / T).logsumexp(-1, keepdim=True)).exp()),
        ("01.soften", lambda z, T: torch.stack([torch.softmax(row / T, 0) for row in z])),
        ("01.kd_gradient_limit", limit_without_gradient),
        ("01.kd_gradient_limit", lambda s, t: limit_without_gradient(s, t.detach())),
        ("01.correct_bias", lambda z, c, o: z + o * F.one_hot(torch.tensor(c), z.shape[1])),
        ("01.correct_bias", lambda z, c, o: torch.cat([z[:, :c], z[:, c : c + 1] + o, z[:, c + 1 :]], 1)),
        ("02.attention_map", lambda f: F.normalize(torch.einsum("bmhw,bmhw->bhw", f, f).flatten(1))),
        ("02.attention_map", maps_in_a_loop),
        ("02.attention_map", map_of_public_code),
        ("02.attention_map", map_with_a_small_number),
        ("02.projected_hint", lambda s, t, w: hint_loss(torch.einsum("ts,bshw->bthw", w, s), t)),
        ("02.projected_hint", lambda s, t, w: F.mse_loss(projected(s, w), t.detach(), reduction="sum") / (2 * len(s))),
        ("02.projected_hint", hint_by_matrix_product),
        ("02.similarity_loss", lambda s, t: (F.normalize(gram_of(s)) - F.normalize(gram_of(t.detach()))).pow(2).mean()),
        ("02.similarity_loss", similarity_by_columns),
        ("02.similarity_loss", similarity_by_einsum),
        ("02.distance_loss", relational(direct)),
        ("02.distance_loss", relational(direct, mean=off_diagonal_mean, loss=F.huber_loss)),
        ("02.distance_loss", relational(cdist_by_differences)),
        ("02.distance_loss", relational(small_number_under_the_root)),
        ("02.distance_loss", relational(centred_gram_distances)),
        ("02.channel_loss", channels_by_library),
        ("02.channel_loss", channels_as_rows),
        ("02.distil_features", with_context_manager),
    ],
)
def test_more_right_answers_written_differently_pass(exercise_id, answer):
    assert check(exercise_id, answer).passed, told(answer, exercise_id)


def batch_maximum(z, T):
    powers = ((z - z.max()) / T).exp()
    return powers / powers.sum(-1, keepdim=True)


def lower_quantile(z, c, share):
    others = z.clone()
    others[:, c] = -torch.inf
    return (others.amax(-1) - z[:, c]).quantile(share, interpolation="lower").item()


def unguarded_map(f):
    energy = f.square().sum(1).flatten(1)
    return energy / energy.norm(dim=1, keepdim=True)


def hidden_nan_map(f):
    return torch.nan_to_num(unguarded_map(f))


def flat_similarity(s, t):
    """Right for maps, not for features without height and width."""
    g_s, g_t = (torch.einsum("amhw,bmhw->ab", f, f) for f in (s, t.detach()))
    return (F.normalize(g_s) - F.normalize(g_t)).square().mean()


def root_of_zero(rows):
    return (rows[:, None] - rows[None]).square().sum(-1).sqrt()


def channels_with_a_small_number(s, t, T):
    """The log of a softmax, kept from −inf by force."""
    p_s, p_t = (torch.softmax(f.flatten(2) / T, -1) for f in (s, t.detach()))
    return (p_t * ((p_t + 1e-8).log() - (p_s + 1e-8).log())).sum(-1).mean() * T * T


def labels_stop_at_the_features(student, projector, teacher, layer, *rest):
    """Only the hint trains what lies before the features."""
    cut = torch.nn.Sequential(*student[: layer + 1], Detach(), *student[layer + 1 :])
    exercises.find("02.distil_features").reference(cut, projector, teacher, layer, *rest)


class Detach(torch.nn.Module):
    def forward(self, x):
        return x.detach()


@pytest.mark.parametrize(
    ("exercise_id", "answer"),
    [
        ("01.soften", batch_maximum),
        ("01.balanced_offset", lower_quantile),
        ("02.attention_map", unguarded_map),
        ("02.attention_map", hidden_nan_map),
        ("02.projected_hint", lambda s, t, w: hint_loss(projected(s, w.detach()), t)),
        ("02.projected_hint", lambda s, t, w: hint_loss(projected(s.detach(), w), t)),
        ("02.similarity_loss", flat_similarity),
        ("02.distance_loss", relational(gram_distances)),
        ("02.distance_loss", relational(lambda rows: torch.cdist(rows, rows))),
        ("02.distance_loss", relational(root_of_zero)),
        ("02.distance_loss", relational(direct, mean=lambda d: d[d > 0].mean())),
        ("02.distance_loss", relational(direct, loss=lambda a, b: F.mse_loss(a, b) / 2)),
        ("02.channel_loss", channels_with_a_small_number),
        ("02.distil_features", labels_stop_at_the_features),
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_nearly_right_answers_fail(exercise_id, answer, seed):
    assert not examine(exercises.find(exercise_id), answer, seed).passed


def no_detach_by_library(s, t, T):
    return F.kl_div(F.log_softmax(s / T, -1), torch.softmax(t / T, -1), reduction="batchmean") * T * T


def gradient_left(student, teacher, *rest):
    exercises.find("01.distil").reference(student, teacher, *rest)
    teacher(rest[0]).sum().backward()


def teacher_frozen(student, projector, teacher, *rest):
    exercises.find("02.distil_features").reference(student, projector, teacher.requires_grad_(False), *rest)


def map_with_a_larger_number(f):
    energy = f.square().sum(1).flatten(1)
    return energy / (energy.norm(dim=1, keepdim=True) + 1e-3)


def larger_number_under_the_root(rows):
    return ((rows[:, None] - rows[None]).square().sum(-1) + 1e-6).sqrt()


def hint_behind_a_new_layer(s, t, w):
    layer = torch.nn.Conv2d(s.shape[1], t.shape[1], 1, dtype=s.dtype)
    layer.weight.data = w[..., None, None]
    return hint_loss(layer(s), t)


def helper(z):
    return z.no_such_method()


@pytest.mark.parametrize(
    ("exercise_id", "answer", "words"),
    [
        ("01.kd_loss", no_detach_by_library, "Gradient flows into `teacher_logits`; it should receive none"),
        ("01.kd_loss", lambda s, t, T: s.requires_grad_().sum() * 0 + right(s, t, T).double(), "The dtype"),
        ("01.kd_loss", lambda s, t, T: torch.tensor(s.numpy().sum()), "Stay in torch"),
        ("01.kd_loss", lambda s, t, T: right(s, t, T) + helper(s), '(line 1 of your function: `("01.kd_loss", lambda'),
        ("01.distil", gradient_left, "gradient left in the teacher should be none"),
        ("01.soften", lambda z, T: torch.softmax((z / T).long(), -1), "stopped with NotImplementedError"),
        ("02.attention_map", lambda f: f.square().sum(1), "should have shape (3, 10); yours has (3, 2, 5)"),
        ("02.attention_map", lambda f: F.normalize(f.square().sum(1)).flatten(1), "normalised over the height only"),
        ("02.attention_map", hidden_nan_map, "its gradient at a map of zeros is nan"),
        ("02.projected_hint", lambda s, t, w: F.mse_loss(projected(s, w), t) / 2, "half the mean over all elements"),
        ("02.projected_hint", lambda s, t, w: hint_loss(projected(s.detach(), w), t), "No gradient reaches `student_f"),
        (
            "02.projected_hint",
            lambda s, t, w: (projected(s, w) - t.detach()).square().sum((1, 2, 3)) / 2,
            "A loss is one number",
        ),
        (
            "02.similarity_loss",
            lambda s, t: similarity_loss(t, s),
            "the student is cut from the graph, not the teacher",
        ),
        ("02.similarity_loss", lambda s, t: similarity_loss(s, t) / 2, "0.5 times the right one"),
        ("02.similarity_loss", flat_similarity, "takes features without height and width, too; yours does not"),
        ("02.distance_loss", relational(direct, mean=torch.mean), "the zeros of the diagonal in the mean distance"),
        ("02.distance_loss", relational(gram_distances), "loses its digits in float32"),
        ("02.distance_loss", relational(lambda rows: torch.cdist(rows, rows)), "beyond 25 rows `torch.cdist`"),
        ("02.distance_loss", relational(root_of_zero), "its gradient is nan"),
        ("02.distance_loss", lambda s, t: distance_loss(s, t) * len(s), "times the number of examples"),
        (
            "02.distance_loss",
            lambda s, t: distance_loss(s.double(), t.double()),
            "dtype for float32 should be torch.fl",
        ),
        ("02.channel_loss", lambda s, t, T: channels_by_library(s, t, T) * len(s), "times the number of examples"),
        ("02.channel_loss", lambda s, t, T: channels_by_library(s, t, 1.0), "computed without the temperature"),
        ("02.attention_map", map_with_a_larger_number, "Do you add a small constant under a root"),
        ("02.distance_loss", relational(larger_number_under_the_root), "Nearly right: within 2 % on every input"),
        ("02.projected_hint", hint_behind_a_new_layer, "gives another value on a second call"),
        ("02.distil_features", teacher_frozen, "The teacher's `requires_grad` should be as it was; yours is False"),
        ("02.distil_features", lambda *arguments: None, "a loop after which the student is as it was"),
    ],
)
def test_these_are_told_too(exercise_id, answer, words):
    assert words in told(answer, exercise_id)


def right(s, t, temperature):
    return soft_targets.kd_loss(s, t, temperature)


def in_place(s, t, temperature):
    value = right(s, t, temperature)
    s.mul_(2)
    return value


def only_ten_classes(s, t, temperature):
    return right(s, t, temperature) * (s.shape[1] / 10)


def only_one_shape(s, t, temperature):
    return right(s, t, temperature) if s.shape == (4, 10) else right(s, t, temperature) + 1


def crashes(s, t, temperature):
    return s.no_such_method()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda s, t, T: 0.5 * right(s, t, T), "0.5 times the right one"),
        (lambda s, t, T: 3 * right(s, t, T), "3 times the right one"),
        (lambda s, t, T: -right(s, t, T), "wrong sign"),
        (lambda s, t, T: right(s, t, T) / T, "divided by the temperature"),
        (lambda s, t, T: right(s, t, T) * T, "times the temperature"),
        (
            lambda s, t, T: right(s, t, T) * len(s) / s.shape[1],
            "times the number of examples and divided by the number of",
        ),
        (lambda s, t, T: torch.tensor(0.1234, requires_grad=True) * 1, "same value whatever it is given"),
        (lambda s, t, T: right(s, t, T).detach().numpy(), "returns a numpy.ndarray; expected a torch.Tensor"),
        (lambda s, t, T: right(s, t, T).item(), "returns a float; expected a torch.Tensor"),
        (lambda s, t, T: None, "returns nothing"),
        (lambda s, t, T: right(s, t, T).double(), "dtype should be torch.float32; yours is torch.float64"),
        (lambda s, t, T: right(s, t, T).detach(), "No gradient flows"),
        (lambda s, t, T: right(s, t, T).expand(3), r"should have shape (); yours has (3,)"),
        (in_place, "changes its input `student_logits` in place"),
        (only_ten_classes, "times the number of classes and times 0.1"),
        (only_one_shape, "right on 1 of 7 inputs, such as: student_logits (4, 10)"),
        (crashes, "line 2 of your function: `return s.no_such_method()`"),
        (lambda s, t: right(s, t, 4.0), "Keep the name and the arguments"),
        (lambda s, t, T: right(s, t, T) * torch.nan, "nan or inf"),
        (lambda s, t, T: right(t, s, T), "with teacher and student swapped"),
        (lambda s, t, T: right(t, s, T), "Beside that: No gradient reaches `student_logits`"),
        ("a string", "should be a function"),
    ],
)
def test_other_wrong_answers_are_told_what_is_wrong(answer, words):
    panel = told(answer)
    assert panel.startswith("✘ 01.kd_loss")
    assert words in panel


def test_right_value_but_teacher_not_detached_fails():
    def answer(s, t, temperature):
        return (
            temperature**2
            * (
                torch.softmax(t / temperature, -1)
                * (F.log_softmax(t / temperature, -1) - F.log_softmax(s / temperature, -1))
            )
            .sum(-1)
            .mean()
        )

    assert "gradient flows into `teacher_logits`" in told(answer)


def test_a_mistake_beside_something_else_is_still_named():
    """Without T², and it changes its input."""

    def answer(s, t, temperature):
        value = right(s, t, temperature) / temperature**2
        s.zero_()
        return value

    panel = told(answer)
    assert "without the factor T²" in panel
    assert "Beside that: Your function changes its input `student_logits` in place." in panel


def test_a_mistake_that_explains_one_input_only_is_still_hinted_at():
    def box_iou(a, b):  # the union counts the overlap twice, and nothing guards against negative sides or 0 / 0
        shared = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).prod(dim=-1)
        return shared / ((a[..., 2:] - a[..., :2]).prod(dim=-1) + (b[..., 2:] - b[..., :2]).prod(dim=-1))

    panel = told(box_iou, "05.box_iou")
    assert "On input 1 this is computed with both areas added up" in panel
    assert "Take it away once." in panel


def test_transpose_is_named():
    answer = lambda z, T: torch.softmax(z / T, -1).T
    assert "the transpose of the right one" in told(answer, "01.soften")


def test_unlisted_slip_shows_place_and_size():
    panel = told(lambda z, T: soft_targets.soften(z, T).clamp(max=0.5), "01.soften")
    assert "differs at" in panel
    assert "expected" in panel
    assert "logits (" in panel


def test_gradients_switched_off_by_the_learner_do_no_harm():
    with torch.no_grad():
        assert check("01.kd_loss", right).passed


def test_a_check_leaves_the_learners_random_numbers_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    check("01.distil", exercises.find("01.distil").reference)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("exercise_id", "bugs"),
    [
        ("01.distil", ["teacher_training", "accumulates", "alpha_on_labels", "softmax_twice"]),
        (
            "02.distil_features",
            ["projector_left_out", "hook_stays", "teacher_training", "element_mean", "wrong_layer"],
        ),
    ],
)
def test_the_bug_hunt_names_what_is_left(exercise_id, bugs):
    number, name = exercise_id.split(".")
    book = nbformat.read(find_lesson(number).solution, as_version=4)
    scope: dict = {}
    source = {cell.id: cell.source for cell in book.cells if cell.cell_type == "code"}
    exec(source["imports"] + "\n" + source[f"broken_{name}"], scope)
    finding = examine(exercises.find(exercise_id), scope[f"broken_{name}"])
    assert [mistake.name for mistake in finding.mistakes] == bugs


def test_unknown_exercise_lists_the_known():
    with pytest.raises(ValueError, match=r"expected one of 01.soften, .* got '01.nothing'"):
        check("01.nothing", right)
    with pytest.raises(ValueError, match="lesson: expected one of 01"):
        check("99.nothing", right)


def test_panel_is_escaped_and_carries_a_record():
    data, metadata = check("01.kd_loss", lambda s, t, T: "<b>")._repr_mimebundle_()
    assert "<b>" not in data["text/html"]
    assert metadata["ctkd"]["verdict"] == "wrong"


def test_marks_become_html_but_not_inside_code():
    assert marked_up("*all* of `a*b*c`") == "<em>all</em> of <code>a*b*c</code>"


def test_nbgrader_gets_an_exception(monkeypatch):
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    assert check("01.kd_loss", right).passed
    with pytest.raises(CheckFailed, match=r"0\.5 times"):
        check("01.kd_loss", lambda s, t, T: 0.5 * right(s, t, T))
