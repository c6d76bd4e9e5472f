"""Write a function down as a flat list of tensor operations, and leave out what adds nothing.

A training step of small networks is made of many small operations; on a CPU, calling one takes as long as
carrying it out. What ``vmap`` and ``grad`` write down holds operations without effect, repeated ones, and
constants made anew at every call. Without them a step takes a fifth less time.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch._decomp import get_decompositions
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.passes.dialect.common.cse_pass import CSEPass, get_CSE_banned_ops

aten = torch.ops.aten
_LIKE = {aten.zeros_like: torch.zeros, aten.ones_like: torch.ones}  # their input gives nothing but its form
_IDLE = (aten.view.default, aten._unsafe_view.default, aten.expand.default, aten.mul.Scalar)  # of the same form
# Over ten classes, PyTorch's own softmax takes three times as long as the plain operations it is made of.
_WRITTEN_OUT = get_decompositions(
    [aten._softmax, aten._softmax_backward_data, aten._log_softmax, aten._log_softmax_backward_data]
)
# Methods that take what the operation of that name takes: called in half the time of torch.ops.aten.….
_METHODS = """abs add amax bmm clamp cos div eq exp expand gather ge gt le log lt mean mm mul ne neg permute pow relu
rsqrt sigmoid sin sqrt squeeze sub sum tanh transpose unsqueeze view"""


def trace(function: Callable[..., Any], *examples: Any) -> GraphModule:
    """Trace a function of tensors, in any nesting, with arguments of the form of ``examples``.

    The function must not branch on a tensor's value.
    """
    # Fake tensors: shapes without values, twice as quick to trace. A loss may still hold real ones of its own.
    traced = make_fx(function, _WRITTEN_OUT, tracing_mode="fake", _allow_non_fake_inputs=True)(*examples)
    if any(node.target._schema.is_mutable for node in _operations(traced)):
        return traced  # what is changed in place must be made anew each time, and at its place in the order
    _drop_idle(traced)
    _keep_constants(traced)
    shortened = CSEPass(banned_ops=get_CSE_banned_ops())(traced).graph_module
    shortened.graph.set_codegen(traced.graph._codegen)  # the nesting of the arguments, which the pass forgets
    _call_methods(shortened)
    shortened.graph.eliminate_dead_code()
    shortened.recompile()
    return shortened


def _operations(traced: GraphModule) -> list[Node]:
    return [node for node in traced.graph.nodes if isinstance(node.target, torch._ops.OpOverload)]


def _drop_idle(traced: GraphModule) -> None:
    """Erase views to the same shape, transposes undone at once, and multiplications by 1: a third of all."""
    for node in _operations(traced):
        source = node.args[0] if node.args and isinstance(node.args[0], Node) else None
        if node.target is aten.transpose.int and source.target is aten.transpose.int:
            if set(source.args[1:]) == set(node.args[1:]):
                node.replace_all_uses_with(source.args[0])
        elif node.target in _IDLE and (node.target is not aten.mul.Scalar or node.args[1] == 1):
            before, after = source.meta["val"], node.meta["val"]
            if (before.shape, before.dtype) == (after.shape, after.dtype):
                node.replace_all_uses_with(source)
    traced.graph.eliminate_dead_code()


def _keep_constants(traced: GraphModule) -> None:
    """Compute once what depends on no input: numbers as tensors, zeros and ones in a tensor's form."""
    kept: dict[Node, torch.Tensor] = {}
    for node in _operations(traced):
        if torch.Tag.nondeterministic_seeded in node.target.tags:
            continue
        if node.target.overloadpacket in _LIKE:
            form = node.meta["val"]
            kept[node] = _LIKE[node.target.overloadpacket](form.shape, dtype=form.dtype, device=form.device)
        elif all(source in kept for source in node.all_input_nodes):
            args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), kept.__getitem__)
            kept[node] = node.target(*args, **kwargs)
    for number, (node, value) in enumerate(kept.items()):
        name = f"_kept_{number}"
        setattr(traced, name, value)
        with traced.graph.inserting_before(node):
            node.replace_all_uses_with(traced.graph.create_node("get_attr", name))
    traced.graph.eliminate_dead_code()


def _call_methods(traced: GraphModule) -> None:
    for node in _operations(traced):
        name = node.target.overloadpacket.__name__
        if name in _METHODS.split() and isinstance(node.args[0], Node):
            node.target = getattr(torch.Tensor, name)
