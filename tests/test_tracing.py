"""The traced step gives what the function gives, with fewer operations."""

import pytest
import torch
import torch.nn.functional as F
from samples import normal
from torch.func import grad, grad_and_value, vmap

from ctkd_lessons.tracing import trace

LABELS = torch.arange(8).reshape(2, 4) % 3


def on_labels(weights, images, labels):
    return F.cross_entropy(images @ weights["layer"].T + weights["bias"], labels)


def on_answers(weights, images, labels):
    log_p = ((images @ weights["layer"].T + weights["bias"]) / 4).log_softmax(dim=1)
    target = (5 * (labels.unsqueeze(1) == torch.arange(3)).to(images)).softmax(dim=1)
    return 16 * (target * (target.log() - log_p)).sum(dim=1).mean()


def through_a_step(weights, images, labels):
    step = grad(on_labels)(weights, images, labels)
    return on_answers({name: weights[name] - 0.5 * step[name] for name in weights}, images, labels)


def examples(seed=0):
    weights = {"layer": normal(2, 3, 5, seed=seed), "bias": normal(2, 3, seed=seed + 1)}
    return weights, normal(2, 4, 5, seed=seed + 2), LABELS


@pytest.mark.parametrize("loss", [on_labels, on_answers, through_a_step])
def test_as_the_function_itself_for_other_numbers_too(loss):
    step = vmap(grad_and_value(loss))
    traced = trace(step, *examples())
    for seed in (0, 10, 20):
        (gradients, value), (gradients_too, value_too) = step(*examples(seed)), traced(*examples(seed))
        torch.testing.assert_close(value_too, value, rtol=1e-12, atol=1e-12)
        assert gradients.keys() == gradients_too.keys()
        for name in gradients:
            torch.testing.assert_close(gradients_too[name], gradients[name], rtol=1e-12, atol=1e-12)


def test_no_operation_stands_twice_or_does_nothing():
    operations = [node for node in trace(vmap(grad(on_answers)), *examples()).graph.nodes if node.op == "call_function"]
    assert len({(node.target, str(node.args), str(node.kwargs)) for node in operations}) == len(operations)
    assert not [node for node in operations if str(node.target) in ("aten.view.default", "aten.ones_like.default")]


def test_what_is_computed_once_is_not_shared_with_the_caller():
    traced = trace(lambda x: (x + torch.ones(3) * 2, torch.zeros_like(x)), torch.zeros(3))
    assert [one.tolist() for one in traced(torch.ones(3))] == [[3.0] * 3, [0.0] * 3]
    assert [one.tolist() for one in traced(torch.zeros(3))] == [[2.0] * 3, [0.0] * 3]


def test_random_numbers_are_drawn_anew_each_time():
    traced = trace(lambda x: (x + torch.rand(3), x + torch.rand(3), torch.rand_like(x)), torch.zeros(3))
    torch.manual_seed(0)
    drawn = [one for _ in range(2) for one in traced(torch.zeros(3))]
    torch.manual_seed(0)
    assert all(torch.equal(one, torch.rand(3)) for one in drawn)


def test_what_changes_in_place_stays_in_its_order():
    def counted(x):
        total = torch.zeros(3)
        total += x
        before = total * 1
        total += x
        return before, total

    traced = trace(counted, torch.ones(3))
    for _ in range(2):
        assert [one.tolist() for one in traced(torch.ones(3))] == [[1.0] * 3, [2.0] * 3]


def test_large_logits_stay_finite():
    traced = trace(lambda x: x.log_softmax(dim=1), torch.zeros(1, 3))
    torch.testing.assert_close(traced(torch.tensor([[1e5, 0.0, -1e5]])), torch.tensor([[0.0, -1e5, -2e5]]))
