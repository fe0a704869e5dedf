"""One cell of the training suite: a staged batch, timed steps, their parts and their memory.

The learning rate is zero while steps are timed: the optimizer does all of its work, and every cell
finds the weights as they were built. Several ranks make each step together, of a batch whose rows
they share; all go through the same calls, for each of those is a meeting.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from retbench.data.batches import RandomWindows, prefetch
from retbench.data.dataset import load_dataset
from retbench.measure.ceilings import violates_matmul_rate
from retbench.measure.clock import LAUNCH_BOUND, Timing
from retbench.suites.base import Ceilings, CellFailure, Rows
from retbench.training.blockchanges import changed_blocks
from retbench.training.config import TrainingConfig
from retbench.training.step import Step, make_optimizer

Batch = tuple[Tensor, Tensor]
Progress = Callable[[str], None]

LOSS_TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-2}
"""Largest relative difference of a compiled step's loss from the eager one's: its rounding."""

LOADED_BATCHES = 8
"""Batches of one trial of the loader: twice as many as are made ahead, so that none is free."""


@dataclass(frozen=True)
class _Staged:
    """A model ready to be trained, with one batch on its device: this process's rows.

    Attributes:
        model: whose parameters the optimizer has; of several ranks perhaps a share of each.
        trained: what is called in its place.
        optimizer: its learning rate is 0.
        step: of all ranks together.
        batch: inputs and targets.
    """

    model: nn.Module
    trained: nn.Module
    optimizer: torch.optim.Optimizer
    step: Step
    batch: Batch


def load(*, compiles: bool) -> None:
    """Make a step of a tiny model, and import the compiler where it will be used."""
    model = nn.Embedding(2, 2)
    optimizer = make_optimizer(model, TrainingConfig(steps=1, batch_size=1, seq_len=1))
    tokens = torch.zeros(1, 1, dtype=torch.int64)
    Step(model, optimizer, TrainingConfig(steps=1, batch_size=1, seq_len=1))(tokens, tokens)
    if compiles:
        importlib.import_module("torch._inductor.compile_fx")


def measure_step(rows: Rows, progress: Progress) -> None:
    """Time whole steps, then their parts, and count the bytes of each kind.

    Of several ranks the time is the slowest's, the peak the largest, and the bytes are this one's.

    Raises:
        CellFailure: the loss is not finite, or a compiled step does not compute the eager one's.
    """
    session = rows.session
    implementation = session.training_implementation
    with _staged(rows) as staged:
        _add_analytic(rows)
        session.meter.reset()
        progress("first step")
        expected = _eager_loss(rows, staged)
        first = session.time(lambda: _check_loss(staged.step(*staged.batch), expected, rows))
        rows.add("setup", "cold_start_s", first.seconds)
        progress("steps")
        fastest_s = _time_steps(rows, staged, implementation, first)
        rows.add("memory", "step_peak_bytes", session.ranks.largest(session.meter.peak_bytes()),
                 implementation=session.meter.source)  # fmt: skip
        # Behind the peak: the check may measure the ceilings again, which takes memory.
        session.require_physical(partial(_violation, rows, fastest_s))
        progress("parts")
        _time_parts(rows, staged, implementation)
        _add_memory(rows, staged)


def measure_unshared_step(rows: Rows, progress: Progress) -> None:
    """Time the whole step with a model that no other rank has a share of.

    Args:
        rows: of a session that is alone.
        progress: told of each phase.

    Raises:
        CellFailure: as :func:`measure_step`.
    """
    session = rows.session
    model = session.build(rows.point, session.config.seed)
    own = replace(rows, session=replace(session, subject=model))
    implementation = own.session.training_implementation
    with _staged(own) as staged:
        progress("first step")
        expected = _eager_loss(own, staged)
        first = session.time(lambda: _check_loss(staged.step(*staged.batch), expected, own))
        progress("steps")
        fastest_s = _time_steps(own, staged, implementation, first)
        own.session.require_physical(partial(_violation, own, fastest_s))


def measure_loader(rows: Rows, progress: Progress) -> None:
    """Time batches as a training gets them, with nothing else to do."""
    session = rows.session
    source = _windows(rows)
    progress("loader")

    def trial() -> list[Timing]:
        with closing(prefetch(source, range(LOADED_BATCHES), session.device)) as batches:  # type: ignore[type-var]
            whole = session.clock.time(lambda: [None for _ in batches])
        return [Timing(whole.host_s / LOADED_BATCHES)]

    flags = session.warm_up(trial)
    for number, timings in enumerate(session.trials(trial)):
        for timing in timings:
            rows.add("loader", "batch_s", timing.seconds, trial=number, flags=flags,
                     implementation="prefetch")  # fmt: skip


@contextmanager
def _staged(rows: Rows) -> Iterator[_Staged]:
    """The model in training mode with an optimizer and a batch; left as it was found."""
    session, point = rows.session, rows.point
    recomputes = point.setting("activations", session.config.activations[0]) == "recomputed"
    config = TrainingConfig(
        steps=1,
        batch_size=point.batch_size,
        seq_len=point.seq_len,
        dtype=session.config.dtype,
        compile=point.setting("mode", session.config.modes[0]) == "compile",
        checkpoint_activations=recomputes,
    )
    model: Any = session.model
    trained = session.trained
    optimizer = make_optimizer(model, config)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    inputs, targets = (
        torch.from_numpy(array) for array in session.ranks.share(_windows(rows)).batch(0)
    )
    batch = inputs.to(session.device), targets.to(session.device)
    if config.compile:
        torch.compiler.reset()  # each cell has its own shapes
    with ExitStack() as stack:
        stack.callback(model.eval)
        stack.callback(optimizer.zero_grad, set_to_none=True)
        stack.enter_context(changed_blocks(model, config, session.ranks))
        model.train()
        step = Step(trained, optimizer, config, session.ranks)
        yield _Staged(model, trained, optimizer, step, batch)


def _windows(rows: Rows) -> RandomWindows:
    """Windows of the training split, of the point's shape."""
    config, point = rows.session.config, rows.point
    tokens = load_dataset(config.data, config.tokenizer).train.tokens
    return RandomWindows(
        tokens, batch_size=point.batch_size, seq_len=point.seq_len, seed=config.seed
    )


def _eager_loss(rows: Rows, staged: _Staged) -> float | None:
    """What a compiled step must come to; None where the step is not compiled."""
    session, point = rows.session, rows.point
    if point.setting("mode", session.config.modes[0]) == "eager":
        return None
    config = TrainingConfig(
        steps=1, batch_size=point.batch_size, seq_len=point.seq_len, dtype=session.config.dtype
    )
    with torch.no_grad():
        step = Step(staged.trained, staged.optimizer, config, session.ranks)
        return float(step.forward(*staged.batch))


def _check_loss(loss: Tensor, expected: float | None, rows: Rows) -> None:
    found = float(loss)
    if not math.isfinite(found):
        raise CellFailure("error", f"the loss of the first step is {found}")
    limit = LOSS_TOLERANCE[rows.session.config.dtype]
    if expected is not None and abs(found - expected) > limit * abs(expected):
        raise CellFailure(
            "error", f"the compiled step's loss is {found}, the eager one's {expected}"
        )


def _time_steps(rows: Rows, staged: _Staged, implementation: str, first: Timing) -> float:
    """Warm-up and trials of whole steps; seconds of the fastest."""
    session = rows.session

    def trial() -> list[Timing]:
        return [session.time(lambda: staged.step(*staged.batch))]

    # A step as long as all the time a phase may take was its own warm-up, if it only computed.
    compiles = rows.point.setting("mode", session.config.modes[0]) == "compile"
    is_warm = not compiles and first.seconds > session.profile.phase_budget_s
    flags = [] if is_warm else session.warm_up(trial)
    fastest_s = math.inf
    for number, timings in enumerate(session.trials(trial)):
        for timing in timings:
            fastest_s = min(fastest_s, timing.seconds)
            rows.add(
                "train", "step_s", timing.seconds, trial=number, implementation=implementation,
                flags=[*flags, LAUNCH_BOUND] if timing.launch_bound else flags,
            )  # fmt: skip
    return fastest_s


def _violation(rows: Rows, seconds: float, ceilings: Ceilings) -> str | None:
    session = rows.session  # the ceilings are one process's
    own = _flops(rows) / session.ranks.size
    return violates_matmul_rate(own, seconds, session.config.dtype, ceilings)


def _time_parts(rows: Rows, staged: _Staged, implementation: str) -> None:
    """Forward, backward and update, each waited for before the next begins."""
    session, step = rows.session, staged.step
    losses: list[Tensor] = []

    def trial() -> dict[str, Timing]:
        losses.clear()
        return {
            "forward_s": session.time(lambda: losses.append(step.forward(*staged.batch))),
            "backward_s": session.time(lambda: step.backward(losses[0])),
            "optimizer_s": session.time(step.update),
        }

    for number, timings in enumerate(session.trials(trial)):
        for metric, timing in timings.items():
            rows.add(
                "train", metric, timing.seconds, trial=number, implementation=implementation,
                flags=[LAUNCH_BOUND] if timing.launch_bound else [],
            )  # fmt: skip


def _add_memory(rows: Rows, staged: _Staged) -> None:
    """Bytes of the weights, of the gradients, of the optimizer, and of what a forward keeps."""
    local = rows.session.ranks.local
    kept, loss = _kept_for_backward(rows, staged)
    staged.step.backward(loss)
    weights = list(staged.model.parameters())
    moments = [
        value
        for state in staged.optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    ]
    for metric, tensors in (
        ("weights_bytes", [*weights, *staged.model.buffers()]),
        ("gradients_bytes", [p.grad for p in weights if p.grad is not None]),
        ("optimizer_bytes", moments),
    ):
        total = sum(local(tensor).nbytes for tensor in tensors)
        rows.add("memory", metric, total, implementation="tensors")
    rows.add("memory", "activations_bytes", kept, implementation="tensors")


def _kept_for_backward(rows: Rows, staged: _Staged) -> tuple[int, Tensor]:
    """Bytes that autograd keeps of one forward pass, weights and their casts not counted; its loss.

    The casts of an autocast are known in eager mode; a compiled graph may keep some among the rest.
    """
    local = rows.session.ranks.local
    own = {
        local(tensor).untyped_storage().data_ptr()
        for tensor in (*staged.model.parameters(), *staged.model.buffers(), *staged.batch)
    }
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and not _is_weight(tensor):
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = staged.step.forward(*staged.batch)
    return sum(kept.values()), loss


def _is_weight(tensor: Tensor) -> bool:
    """Whether a tensor is a parameter, its cast to another type, or a view of either.

    Weights that several ranks collect for a block's use lie elsewhere than this rank's share, and
    what an autocast makes of them elsewhere again.
    """
    whole = tensor if tensor._base is None else tensor._base
    made_by = whole.grad_fn
    if made_by is not None and made_by.name().startswith("ToCopyBackward"):
        (source, _), *_ = made_by.next_functions
        whole = getattr(source, "variable", whole)
    return isinstance(whole, nn.Parameter)


def _add_analytic(rows: Rows) -> None:
    rows.add("analytic", "step_flops", _flops(rows), implementation="analytic")


def _flops(rows: Rows) -> float:
    """Of forward and backward of the point's batch; what is computed anew is not counted twice."""
    point = rows.point
    return rows.session.model.flops_per_token(point.seq_len, "train") * point.tokens
