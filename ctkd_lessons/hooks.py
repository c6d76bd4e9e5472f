"""Look inside a network while it runs, and leave it as it was."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from ctkd_lessons import expect


@contextmanager
def listen(model: nn.Module, layers: Sequence[str], *, detach: bool = False) -> Iterator[dict[str, Tensor]]:
    """Within the block, note what the named layers put out: a dict name → tensor, the last run's.

    ``layers``: names as in ``model.named_modules()``, such as ``["2"]``. Gradients stay attached;
    with ``detach`` they don't, and the memory of the way there is free. The hooks are gone after the
    block, whatever happens in it. Raises ``ValueError``, listing the layers there are, for an
    unknown name, and ``TypeError`` for a layer that puts out no tensor.
    """
    known = expect_layers(model, layers)
    seen: dict[str, Tensor] = {}

    def note(name: str, output: object) -> None:
        if not isinstance(output, Tensor):
            raise TypeError(f"layers: expected layers that put out a tensor, {name!r} gave {type(output).__name__}")
        output = output.detach() if detach else output
        seen[name] = output.clone()  # an in-place ReLU after it would write over the original

    handles = [
        known[name].register_forward_hook(lambda module, inputs, output, name=name: note(name, output))
        for name in layers
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def expect_layers(model: nn.Module, layers: Sequence[str]) -> dict[str, nn.Module]:
    """Return the model's layers by name; raise unless ``layers`` is a list of at least one of them."""
    expect.module("model", model)
    known = {name: module for name, module in model.named_modules() if name}
    if not isinstance(layers, (list, tuple)) or not all(name in list(known) for name in layers):
        raise ValueError(f"layers: expected a list of names among {list(known)}, got {layers!r}")
    return known


def expect_heard(layers: Sequence[str], seen: dict[str, Tensor]) -> None:
    """Raise ``ValueError``, naming the layers the model did not run, if there are any."""
    silent = [name for name in layers if name not in seen]
    if silent:
        raise ValueError(f"layers: expected layers that the model runs, got {silent}, which it does not")
