"""Train many students at once: one per seed, all in the same batched operations.

The lesson writes the loss of *one* student; ``fit`` stacks the parameters of all seeds, maps the
loss over them with ``torch.func.vmap``, and takes one optimiser step for all. The mapped gradient
is traced once into a flat list of tensor operations, so a step costs no Python per seed.
Convolutions gain nothing from stacking on a CPU, so convolutional students train one by one.
"""

import copy
import inspect
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, jacrev, stack_module_state, vmap
from tqdm.auto import tqdm

from ctkd_lessons import expect
from ctkd_lessons.seeds import course_seeds, stream
from ctkd_lessons.sources import Source
from ctkd_lessons.threads import one_thread
from ctkd_lessons.tracing import trace

Loss = Callable[..., Tensor]
Combine = Callable[[Tensor, Tensor], Tensor]
_CHUNK = 100  # steps between two looks at the losses: divergence is reported, and progress shown


@dataclass(frozen=True)
class Students:
    """Trained students, one per seed.

    ``parameters`` and ``buffers``: name → (S, …), stacked; ``losses``: (S, steps), float32, the loss
    of each batch before its step; ``seeds``: the S seeds; ``skeleton``: a module of the students'
    form, its own numbers unused; ``stacked``: whether all students answer in one operation.
    """

    skeleton: nn.Module
    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    losses: Tensor
    seeds: tuple[int, ...]
    stacked: bool

    def one(self, place: int) -> nn.Module:
        """Return the student at ``place`` (0 … S − 1) as an ordinary module in evaluation mode."""
        model = copy.deepcopy(self.skeleton)
        model.load_state_dict({name: t[place] for name, t in (self.parameters | self.buffers).items()}, strict=False)
        return model.eval()

    @torch.no_grad()
    def predict(self, x: Tensor, *, per_seed: bool = False) -> Tensor:
        """Return what every student answers: (S, n, …).

        ``x``: (n, …), the same for all; with ``per_seed=True`` (S, n, …), one input per student.
        """
        if not isinstance(x, Tensor):
            raise TypeError(f"x: expected a torch.Tensor, got {type(x).__name__}")
        if per_seed and len(x) != len(self.seeds):
            raise ValueError(f"x: expected {len(self.seeds)} seeds first, got shape {tuple(x.shape)}")
        if not self.stacked:
            inputs = x if per_seed else [x] * len(self.seeds)
            return torch.stack([self.one(place)(inputs[place]) for place in range(len(self.seeds))])
        self.skeleton.eval()
        answer = vmap(lambda p, x: functional_call(self.skeleton, p, (x,)), in_dims=(0, 0 if per_seed else None))
        return answer(self.parameters, x)


def fit(
    make_student: Callable[[], nn.Module],
    loss: Loss,
    data: Source | Sequence[Source],
    *,
    seeds: int | Sequence[int] = 10,
    steps: int = 600,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    combine: Combine | None = None,
    together: bool | None = None,
    progress_bar: bool | None = None,
) -> Students:
    """Train one student per seed with AdamW and return them all.

    ``make_student()`` builds an untrained module; it is called once per seed, which fixes the
    initial weights. ``loss(model, *batch)`` returns a scalar; with several sources each batch is a
    tuple of its own: ``loss(model, labelled, unlabelled)``. A loss with an argument ``progress``
    receives the share of the training that is done, a tensor in [0, 1).
    ``combine(gradients, losses)``: for a loss that returns one loss per task, (K,). Once a step it
    receives (S, K, P) and (S, K), and returns the direction (S, P) for the P parameters that several
    tasks reach. A parameter that one task alone reaches follows its gradient. ``combine`` may keep a
    state; ``tuned`` gives each training a copy. Not for convolutions.
    ``together``: stack the seeds (default: unless the student holds a convolution or buffers). The stacked
    loss is traced once, so it must not branch on values or keep a state of its own.
    ``progress_bar``: default: after three seconds, unless the variable CTKD_NO_PROGRESS is set.

    Data and students live on the device of the data. Same arguments, same machine: bit-identical
    students. Raises ``ValueError``/``TypeError`` for bad arguments and ``FloatingPointError``,
    naming seed and step, when a loss is no longer finite.
    """
    sizes = {"seeds": seeds, "steps": steps, "batch_size": batch_size}
    job = _prepare(make_student, loss, data, **sizes, combine=combine, together=together)
    return _train(job, learning_rate, weight_decay, progress_bar)


def tuned(
    make_student: Callable[[], nn.Module],
    loss: Loss,
    data: Source | Sequence[Source],
    *,
    validate: Callable[[Students], ArrayLike],
    learning_rates: Sequence[float] = (1e-3, 1e-2),
    weight_decays: Sequence[float] = (0.0,),
    progress_bar: bool | None = None,
    **options: Any,
) -> Students:
    """Train with each learning rate and weight decay; return the students who validate best.

    ``validate(students)``: one score per seed, (S,), larger is better in the mean; it must not touch
    the test part. ``options``: further arguments of ``fit``. A learning rate at which a student
    diverges is out. Raises ``FloatingPointError`` if that leaves none.
    """
    for name, values in {"learning_rates": learning_rates, "weight_decays": weight_decays}.items():
        if not values:
            raise ValueError(f"{name}: expected at least one, got none")
    job = _prepare(make_student, loss, data, **options)
    best, best_score = None, -math.inf
    for learning_rate, weight_decay in product(learning_rates, weight_decays):
        try:
            fresh = replace(job, combine=copy.deepcopy(job.combine))
            students = _train(fresh, learning_rate, weight_decay, progress_bar)
        except FloatingPointError:
            continue
        score = float(np.mean(validate(students)))
        if not math.isfinite(score):
            raise ValueError(f"validate: expected finite scores, got a mean of {score}")
        if score > best_score:
            best, best_score = students, score
    if best is None:
        raise FloatingPointError(f"learning_rates: a student diverged at every one of {list(learning_rates)}")
    return best


def _sources(data: Source | Sequence[Source], seeds: int) -> list[Source]:
    sources = [data] if isinstance(data, Source) else data
    if not isinstance(sources, (list, tuple)) or not sources or not all(isinstance(one, Source) for one in sources):
        raise TypeError("data: expected a Source or several, such as Source(images, labels, rows=digits.train)")
    for source in sources:
        source.check_seeds(seeds)
    return list(sources)


def _train_stacked(model: nn.Module, together: bool | None) -> bool:
    """Decide whether the seeds can be stacked, and whether that is wanted."""
    if together not in (None, True, False):
        raise TypeError(f"together: expected True, False or None, got {together!r}")
    has_buffers = any(True for _ in model.buffers())  # training may change them, each seed's its own way
    if together and has_buffers:
        raise ValueError("together: expected False for a student with buffers, such as batch norm's running averages")
    if together is None:
        return not (has_buffers or any(isinstance(m, nn.modules.conv._ConvNd) for m in model.modules()))
    return together


class _Objective(nn.Module):
    """The loss of one student as a module, so that ``functional_call`` reaches the student inside."""

    def __init__(self, student: nn.Module, loss: Loss, *, spread: bool, per_task: bool) -> None:
        super().__init__()
        self.student, self.loss, self.spread, self.per_task = student.train(), loss, spread, per_task
        self.takes_progress = "progress" in inspect.signature(loss).parameters

    def forward(self, batches: list[tuple[Tensor, ...]], progress: Tensor) -> Tensor:
        extra = {"progress": progress} if self.takes_progress else {}
        value = self.loss(self.student, *(batches[0] if self.spread else batches), **extra)
        if not isinstance(value, Tensor) or value.ndim != self.per_task or not value.numel():
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            expected = "a loss per task, (K,), because of combine" if self.per_task else "a scalar tensor"
            raise ValueError(f"loss: expected {expected}, got {shape}")
        return value


@dataclass(frozen=True)
class _Job:
    """All of a training but its optimiser: may be run several times."""

    objectives: list[_Objective]
    sources: list[Source]
    orders: list[Tensor]  # per source: (steps, S, batch_size)
    seeds: list[int]
    combine: Combine | None
    shared: list[bool]  # which parameters several tasks reach
    step_once: Callable[..., tuple[list[Tensor], Tensor]] | None  # traced; none: one seed after the other

    @property
    def steps(self) -> int:
        return len(self.orders[0])

    def progress(self) -> Tensor:
        return torch.arange(self.steps, device=self.orders[0].device) / self.steps

    def batches(self, step: int) -> list[tuple[Tensor, ...]]:
        return [source.batch(order[step]) for source, order in zip(self.sources, self.orders, strict=True)]

    def parameters(self) -> tuple[list[str], list[Tensor], dict[str, Tensor]]:
        """Return names and stacked copies of what is trained, and what is not by name."""
        stacked = {name: tensor.detach().clone() for name, tensor in stack_module_state(self.objectives)[0].items()}
        names = [name for name, parameter in self.objectives[0].named_parameters() if parameter.requires_grad]
        return names, [stacked.pop(name) for name in names], stacked

    def combined(self, gradients: list[Tensor], losses: Tensor) -> list[Tensor]:
        """Make one gradient (S, …) per parameter of the tasks' gradients, each (S, K, …)."""
        shared = [one.flatten(2) for one, is_shared in zip(gradients, self.shared, strict=True) if is_shared]
        direction = self.combine(torch.cat(shared, dim=2), losses)
        expected = (len(self.seeds), sum(one.shape[2] for one in shared))
        if not isinstance(direction, Tensor) or direction.shape != expected:
            got = tuple(direction.shape) if isinstance(direction, Tensor) else type(direction).__name__
            raise ValueError(f"combine: expected it to return a direction per seed, {expected}, got {got}")
        pieces = iter(direction.split([one.shape[2] for one in shared], dim=1))
        # Contiguous, because the fused optimiser reads the numbers as they lie in memory.
        return [
            next(pieces).reshape(one.shape[:1] + one.shape[2:]).contiguous() if is_shared else one.sum(dim=1)
            for one, is_shared in zip(gradients, self.shared, strict=True)
        ]


def _prepare(
    make_student: Callable[[], nn.Module],
    loss: Loss,
    data: Source | Sequence[Source],
    *,
    seeds: int | Sequence[int] = 10,
    steps: int = 600,
    batch_size: int = 64,
    combine: Combine | None = None,
    together: bool | None = None,
) -> _Job:
    """Check the arguments of ``fit``, make the students, try the loss once, and trace it."""
    numbers = course_seeds(seeds)
    expect.count("steps", steps)
    expect.count("batch_size", batch_size)
    sources = _sources(data, len(numbers))
    models = [_make(make_student, seed, sources[0].device) for seed in numbers]
    if len({id(model) for model in models}) < len(models):
        raise ValueError("make_student: expected a new module at every call, got the same one twice")
    if combine is not None and not callable(combine):
        raise TypeError(f"combine: expected a function of gradients and losses, got {type(combine).__name__}")
    kind = {"spread": isinstance(data, Source), "per_task": combine is not None}
    job = _Job(
        objectives=[_Objective(model, loss, **kind) for model in models],
        sources=sources,
        orders=[source.orders(numbers, steps, batch_size, number) for number, source in enumerate(sources)],
        seeds=numbers,
        combine=combine,
        shared=[],
        step_once=None,
    )
    together = _train_stacked(models[0], together)
    if combine is not None and not together:
        raise ValueError(
            "combine: expected students that are trained together, got convolutions, buffers or together=False"
        )
    with _own_randomness(job):
        job = replace(job, shared=_rehearse(job))
        return replace(job, step_once=_traced(job)) if together else job


def _train(job: _Job, learning_rate: float, weight_decay: float, bar: bool | None) -> Students:
    expect.number("learning_rate", learning_rate, above=0)
    expect.number("weight_decay", weight_decay, low=0)
    make_optimiser = partial(torch.optim.AdamW, lr=learning_rate, weight_decay=weight_decay, fused=True)
    with _own_randomness(job):
        return (_train_together if job.step_once else _train_one_by_one)(job, make_optimiser, bar)


@contextmanager
def _own_randomness(job: _Job) -> Iterator[None]:
    """Give what a loss draws itself, such as dropout, its own stream; leave the caller's alone."""
    with torch.random.fork_rng():
        torch.manual_seed(stream(job.seeds[0], "noise"))
        yield


def _rehearse(job: _Job) -> list[bool]:
    """Compute one loss as plain PyTorch does, so that a mistake in it shows as a plain error.

    Returns which parameters several tasks reach (of a single task: it); nothing without ``combine``.
    """
    value, parameters = _first_loss(job, 0)
    if not value.requires_grad:
        raise ValueError("loss: expected a value that depends on the student, got one without gradient")
    if job.combine is None:
        return []
    reached = _reached(value, parameters)
    for place in range(1, len(job.seeds)):  # in the first batch of one seed, a task may have no example
        reached |= _reached(*_first_loss(job, place))
    shared = (reached.sum(dim=0) >= min(2, len(value))).tolist()
    if not any(shared):
        raise ValueError("loss: expected tasks that share parameters, because of combine, got none that do")
    return shared


def _first_loss(job: _Job, place: int) -> tuple[Tensor, list[nn.Parameter]]:
    """Return the loss of one student's first batch, and what is trained."""
    objective = copy.deepcopy(job.objectives[place])  # the student's running averages, if any, stay as they are
    batches = [tuple(tensor[place] for tensor in batch) for batch in job.batches(0)]
    parameters = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    return objective(batches, job.progress()[0]), parameters


def _reached(value: Tensor, parameters: list[nn.Parameter]) -> Tensor:
    """Return which task's loss depends on which parameter, (K, number of parameters).

    A nan sent back from one task arrives at what it depends on, a zero from the others stays zero.
    (Stacked losses send a gradient to everything, so that none being ``None`` says nothing.)
    """
    probes = torch.where(torch.eye(len(value), device=value.device) > 0, torch.nan, 0).to(value)
    found = [torch.autograd.grad(value, parameters, one, retain_graph=True, allow_unused=True) for one in probes]
    return torch.tensor([[one is not None and bool(one.isnan().any()) for one in task] for task in found])


def _traced(job: _Job) -> torch.fx.GraphModule:
    """Return the gradients and losses of all students as one flat list of tensor operations."""
    names, parameters, frozen = job.parameters()

    def one(
        values: list[Tensor], fixed: dict[str, Tensor], batches: list[tuple[Tensor, ...]], progress: Tensor
    ) -> Tensor:
        values_by_name = dict(zip(names, values, strict=True))
        return functional_call(job.objectives[0], values_by_name | fixed, (batches, progress))

    def one_twice(*arguments: Any) -> tuple[Tensor, Tensor]:
        value = one(*arguments)
        return value, value

    of_one = grad_and_value(one) if job.combine is None else jacrev(one_twice, has_aux=True)
    gradient = vmap(of_one, in_dims=(0, 0, 0, None), randomness="different")
    return trace(gradient, parameters, frozen, job.batches(0), job.progress()[0])


def _train_together(job: _Job, make_optimiser: Callable[..., torch.optim.Optimizer], bar: bool | None) -> Students:
    """Take every step for all seeds at once."""
    names, parameters, frozen = job.parameters()
    optimiser, progress = make_optimiser(parameters), job.progress()
    losses = torch.empty(job.steps, len(job.seeds), device=progress.device)
    with torch.no_grad(), one_thread():
        for step in _watched(job.steps, losses, job.seeds, bar):
            gradients, values = job.step_once(parameters, frozen, job.batches(step), progress[step])
            losses[step] = values.reshape(len(values), -1).sum(dim=1)
            if job.combine is not None:
                gradients = _combined(job, gradients, values, step)
            for parameter, value in zip(parameters, gradients, strict=True):
                parameter.grad = value
            optimiser.step()
    return _students(job.objectives, dict(zip(names, parameters, strict=True)) | frozen, losses, job, stacked=True)


def _combined(job: _Job, gradients: list[Tensor], losses: Tensor, step: int) -> list[Tensor]:
    try:
        return job.combined(gradients, losses)
    except ValueError as error:  # a combine that refuses nan, which came from a student's own numbers
        finite = torch.stack([one.flatten(1).isfinite().all(dim=1) for one in [*gradients, losses]]).all(dim=0)
        if finite.all():
            raise
        seed = job.seeds[finite.tolist().index(False)]
        raise _diverged(seed, "refused: " + str(error), step, job.steps) from error


def _train_one_by_one(job: _Job, make_optimiser: Callable[..., torch.optim.Optimizer], bar: bool | None) -> Students:
    """Train the seeds one after the other, each as in a plain PyTorch loop."""
    objectives, progress = copy.deepcopy(job.objectives), job.progress()
    losses = torch.empty(job.steps, len(job.seeds), device=progress.device)
    for place, objective in enumerate(objectives):
        optimiser = make_optimiser(list(objective.parameters()))
        tensors = [source.one_seed(place) for source in job.sources]
        orders = [order[:, place] for order in job.orders]
        for step in _watched(job.steps, losses[:, place : place + 1], job.seeds[place : place + 1], bar):
            batches = [tuple(t[order[step]] for t in ts) for ts, order in zip(tensors, orders, strict=True)]
            optimiser.zero_grad()
            try:
                value = objective(batches, progress[step])
            except ValueError as error:  # a loss that refuses nan, which came from the student's own numbers
                if all(parameter.isfinite().all() for parameter in objective.parameters()):
                    raise
                raise _diverged(job.seeds[place], "refused: " + str(error), step, job.steps) from error
            value.backward()
            optimiser.step()
            losses[step, place] = value.detach()
    return _students(objectives, stack_module_state(objectives)[0], losses, job, stacked=False)


def _students(
    objectives: list[_Objective], parameters: dict[str, Tensor], losses: Tensor, job: _Job, *, stacked: bool
) -> Students:
    models = [objective.student for objective in copy.deepcopy(objectives)]  # the job may run again
    parameters = {name.removeprefix("student."): tensor.detach() for name, tensor in parameters.items()}
    return Students(models[0], parameters, stack_module_state(models)[1], losses.T, tuple(job.seeds), stacked)


def _make(make_student: Callable[[], nn.Module], seed: int, device: torch.device) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(stream(seed, "weights"))
        model = make_student()
    if not isinstance(model, nn.Module) or not list(model.parameters()):
        raise TypeError(f"make_student: expected it to return a module with parameters, got {type(model).__name__}")
    return model.to(device)


def _watched(steps: int, losses: Tensor, seeds: list[int], bar: bool | None) -> Iterator[int]:
    """Yield the step numbers; show progress, and stop with an error when a loss is not finite."""
    disable = bool(os.environ.get("CTKD_NO_PROGRESS")) if bar is None else not bar
    with tqdm(total=steps, desc="training", file=sys.stdout, delay=3, leave=False, disable=disable) as shown:
        for step in range(steps):
            yield step
            if (step + 1) % _CHUNK == 0 or step + 1 == steps:
                begin = step - step % _CHUNK
                shown.update(step + 1 - begin)
                broken = (~torch.isfinite(losses[begin : step + 1])).nonzero()
                if len(broken):
                    first, place = broken[0].tolist()
                    value = losses[begin + first, place]
                    raise _diverged(seeds[place], f"{value:g}", begin + first, steps)


def _diverged(seed: int, value: str, step: int, steps: int) -> FloatingPointError:
    return FloatingPointError(
        f"the loss of the student of seed {seed} is {value} at step {step} of {steps}; "
        "try a smaller learning_rate, and look for a log or a division by zero"
    )
