"""One cell of the training suite: a staged batch, timed steps, their parts and their memory.

The learning rate is zero while steps are timed: the optimizer does all of its work, and every cell
finds the weights as they were built. Several ranks make each step together, of a batch whose rows
they share; all go through the same calls, for each of those is a meeting.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from models.compiler import making_graphs
from retbench.data.batches import RandomWindows, prefetch
from retbench.distributed.process_group import ALONE
from retbench.machine.clock import Timing
from retbench.suites.base import CellFailure
from retbench.suites.cell import Cell, Phase
from retbench.suites.measurer import Measurer, Progress
from retbench.suites.session import Rows, Session
from retbench.suites.training import LOADER, UNSHARED, TrainingThroughputConfig
from retbench.suites.training_gate import check_model, check_step
from retbench.training.config import TrainingConfig
from retbench.training.step import Step, changed_layers, make_optimizer

LOADED_BATCHES = 8
"""Batches of one trial of the loader: twice as many as are made ahead, so that none is free."""


Local = Callable[[Tensor], Tensor]
"""This rank's share of a tensor."""


@dataclass(frozen=True)
class _Staged:
    """The session's model ready to be trained, with one batch on its device: this process's rows.

    Attributes:
        config: how a step is computed.
        model: the model that holds the optimizer's parameters, or a rank's share of each.
        optimizer: its learning rate is 0.
        step: the update that all ranks make together.
        batch: inputs and targets.
        implementation: what computes the mixing.
    """

    config: TrainingConfig
    model: nn.Module
    optimizer: torch.optim.Optimizer
    step: Step
    batch: tuple[Tensor, Tensor]
    implementation: str


class TrainingMeasurer(Measurer):
    """Optimizer steps of one model."""

    trains = True

    def load(self, config: TrainingThroughputConfig) -> None:
        """Make a step of a tiny model, and import the compiler where it will be used."""
        model = nn.Embedding(2, 2)
        small = TrainingConfig(steps=1, batch_size=1, seq_len=1)
        tokens = torch.zeros(1, 1, dtype=torch.int64)
        Step(model, make_optimizer(model, small), small)(tokens, tokens)
        if "compile" in config.modes:
            importlib.import_module("torch._inductor.compile_fx")

    def verify(self, session: Session) -> float:
        """No model sees the future, and its gradients are those of its formula."""
        return check_model(session)

    def prepare(self, rows: Rows, progress: Progress) -> Cell:
        """The loader, or a step: as a whole, in its parts, and its memory."""
        alone = {LOADER: _loader, UNSHARED: _unshared_step}
        if rows.point.settings not in alone:
            return _step(rows, progress)
        if not rows.session.ranks.first:  # it waits for the next cell
            return Cell(rows)
        alone_rows = replace(rows, session=replace(rows.session, ranks=ALONE))
        return alone[rows.point.settings](alone_rows, progress)


def _step(rows: Rows, progress: Progress) -> Cell:
    """Make the first step, read what memory it needs, and say what is timed.

    Two phases: whole steps, then their parts, each waited for before the next begins.
    """
    session, point = rows.session, rows.point
    staged = _stage(rows)
    computed = session.model.config.hardware_flops_per_token(
        point.seq_len, "train", recomputed=staged.config.checkpoint_activations
    )
    rows.add_analytic({"step_flops": _flops(rows), "step_hardware_flops": computed * point.tokens})
    first = _first_step(rows, staged, progress)
    if session.reads_memory:
        progress("memory")
        _measure_memory(rows, staged)
    progress("warm-up")
    return Cell(rows, _steps(rows, staged, first), _parts(staged))


def _measure_memory(rows: Rows, staged: _Staged) -> None:
    """The peak of a step, of several ranks the largest; and this one's bytes of each kind."""
    session = rows.session
    with session.meter.exact():
        staged.step(*staged.batch)
    rows.add("memory", "step_peak_bytes", session.ranks.all_reduce_max(session.meter.peak_bytes()),
             implementation=session.meter.source)  # fmt: skip
    counted = _held_bytes(
        staged.model, staged.optimizer, staged.step, staged.batch, session.ranks.local
    )
    for metric, total in counted.items():
        rows.add("memory", metric, total, implementation="tensors")


def _unshared_step(rows: Rows, progress: Progress) -> Cell:
    """Time the whole step with a model that no other rank has a share of; the session is alone."""
    session = rows.session
    model = session.build(rows.point, session.config.seed)
    unshared = replace(rows, session=replace(session, subject=model))
    staged = _stage(unshared)
    first = _first_step(unshared, staged, progress)
    return Cell(unshared, _steps(unshared, staged, first))


def _loader(rows: Rows, progress: Progress) -> Cell:
    """Time batches as a training gets them, with nothing else to do."""
    source, device = _windows(rows), rows.session.device

    def load_batches() -> None:
        with closing(prefetch(source, range(LOADED_BATCHES), device)) as batches:
            for _ in batches:
                pass

    phase = Phase(
        "loader", "batch_s", load_batches, per_call=LOADED_BATCHES, implementation="prefetch"
    )
    return Cell(rows, phase)


def _stage(rows: Rows) -> _Staged:
    """The model in training mode with an optimizer and a batch, until the cell is closed."""
    session, point = rows.session, rows.point
    implementation = session.training_implementation
    config = TrainingConfig(
        steps=1,
        batch_size=point.batch_size,
        seq_len=point.seq_len,
        dtype=session.config.dtype,
        compile=point.setting("mode", session.config.mode) == "compile",
        checkpoint_activations=(
            point.setting("activations", session.config.activations[0]) == "recomputed"
        ),
    )
    model: nn.Module = session.subject
    trained = session.trained
    optimizer = make_optimizer(model, config)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    inputs, targets = (
        torch.from_numpy(array[session.ranks.rows(len(array))]) for array in _windows(rows).batch(0)
    )
    batch = inputs.to(session.device), targets.to(session.device)
    if config.compile:
        torch.compiler.reset()  # each cell has its own shapes
    rows.closing.callback(model.eval)
    rows.closing.callback(optimizer.zero_grad, set_to_none=True)
    rows.closing.enter_context(changed_layers(model, config, session.ranks))
    model.train()
    step = Step(trained, optimizer, config, session.ranks)
    return _Staged(config, model, optimizer, step, batch, implementation)


def _first_step(rows: Rows, staged: _Staged, progress: Progress) -> Timing:
    """The first step, which must be right; its time is the cold start.

    In eager mode one of a single sequence is what :func:`check_gradients` has seen but for its
    length.
    """
    progress("first step")
    with making_graphs(staged.config.compile):
        first = rows.session.time(lambda: _require_finite(staged.step(*staged.batch)))
    rows.add("setup", "cold_start_s", first.seconds)
    if staged.config.compile or (rows.verify and len(staged.batch[0]) > 1):
        progress("check")
        check_step(staged.step, staged.model, staged.batch, staged.config, rows.session.ranks)
    return first


def _require_finite(loss: Tensor) -> None:
    if not math.isfinite(value := float(loss)):
        raise CellFailure("error", f"the loss of the first step is {value}")


def _windows(rows: Rows) -> RandomWindows:
    """Windows of the training split, of the point's shape."""
    config, point = rows.session.config, rows.point
    tokens = config.dataset().train.tokens
    return RandomWindows(
        tokens, batch_size=point.batch_size, seq_len=point.seq_len, seed=config.seed
    )


def _steps(rows: Rows, staged: _Staged, first: Timing) -> Phase:
    """Whole steps."""
    return Phase(
        "train",
        "step_s",
        lambda: staged.step(*staged.batch),
        implementation=staged.implementation,
        flops=_flops(rows) / rows.session.ranks.size,  # the ceilings are one process's
        energy="step_j",
        compiles=staged.config.compile,
        first_s=first.seconds,
    )


def _parts(staged: _Staged) -> Phase:
    """Forward, backward and update of a step, one by one."""
    step = staged.step
    losses: list[Tensor] = []
    return Phase(
        "parts",
        "forward_s",
        step.update,
        before=losses.clear,
        parts={
            "forward_s": lambda: losses.append(step.forward(*staged.batch)),
            "backward_s": lambda: step.backward(losses[0]),
            "optimizer_s": step.update,
        },
        implementation=staged.implementation,
    )


def _flops(rows: Rows) -> float:
    """FLOPs that a step's forward and backward need."""
    point = rows.point
    return rows.session.model.flops_per_token(point.seq_len, "train") * point.tokens


def _held_bytes(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: Step,
    batch: tuple[Tensor, Tensor],
    local: Local,
) -> dict[str, int]:
    """Bytes by metric: of the weights, gradients and optimizer, and of what a forward keeps.

    Makes a forward and a backward pass of the batch, and leaves the gradients.

    Args:
        model: the model that holds the optimizer's parameters, or a rank's share of each.
        optimizer: has made a step before.
        step: computes the loss.
        batch: inputs and targets.
        local: this rank's share of a tensor.
    """
    held = [*model.parameters(), *model.buffers()]
    kept, loss = _kept_for_backward([*held, *batch], step, batch, local)
    step.backward(loss)
    moments = [
        value
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    ]
    kinds = {
        "weights_bytes": held,
        "gradients_bytes": [p.grad for p in model.parameters() if p.grad is not None],
        "optimizer_bytes": moments,
    }
    found = {
        metric: sum(local(tensor).nbytes for tensor in tensors) for metric, tensors in kinds.items()
    }
    return {**found, "activations_bytes": kept}


def _kept_for_backward(
    held: list[Tensor], step: Step, batch: tuple[Tensor, Tensor], local: Local
) -> tuple[int, Tensor]:
    """Bytes that autograd keeps of one forward pass, weights and their casts not counted; its loss.

    The casts of an autocast are known in eager mode; a compiled graph may keep some among the rest.
    """
    held_storages = {local(tensor).untyped_storage().data_ptr() for tensor in held}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held_storages and not _is_weight(tensor):
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = step.forward(*batch)
    return sum(kept.values()), loss


def _is_weight(tensor: Tensor) -> bool:
    """Whether a tensor is a parameter, its cast to another type, or a view of either.

    Weights that several ranks collect for a layer's use lie elsewhere than this rank's share, and
    what an autocast makes of them elsewhere again.
    """
    whole = tensor if tensor._base is None else tensor._base
    made_by = whole.grad_fn
    if made_by is not None and made_by.name().startswith("ToCopyBackward"):
        (source, _), *_ = made_by.next_functions
        whole = getattr(source, "variable", whole)
    return isinstance(whole, nn.Parameter)
