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
from typing import Any

import torch
from torch import Tensor, nn

from retbench.data.batches import RandomWindows, prefetch
from retbench.machine.ceilings import Ceilings, violates_matmul_rate
from retbench.machine.clock import Timing
from retbench.suites.cell import Cell, Phase
from retbench.suites.limits import CellFailure, require_compiler
from retbench.suites.session import Rows
from retbench.training.config import TrainingConfig
from retbench.training.layer_transforms import changed_layers
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
        model: the model that holds the optimizer's parameters, or a rank's share of each.
        trained: what is called in its place.
        optimizer: its learning rate is 0.
        step: the update that all ranks make together.
        batch: inputs and targets.
        implementation: what computes the mixing.
    """

    model: nn.Module
    trained: nn.Module
    optimizer: torch.optim.Optimizer
    step: Step
    batch: Batch
    implementation: str


def load(*, compiles: bool) -> None:
    """Make a step of a tiny model, and import the compiler where it will be used."""
    model = nn.Embedding(2, 2)
    optimizer = make_optimizer(model, TrainingConfig(steps=1, batch_size=1, seq_len=1))
    tokens = torch.zeros(1, 1, dtype=torch.int64)
    Step(model, optimizer, TrainingConfig(steps=1, batch_size=1, seq_len=1))(tokens, tokens)
    if compiles:
        importlib.import_module("torch._inductor.compile_fx")


def prepare_step(rows: Rows, progress: Progress) -> Cell:
    """Make the first step, count the bytes of each kind, and say what is timed.

    Two phases: whole steps, then their parts, each waited for before the next begins. Of several
    ranks the peak is the largest, and the bytes are this one's.

    Args:
        rows: take the cell's samples.
        progress: told of each phase.

    Raises:
        CellFailure: the loss is not finite, or a compiled step does not compute the eager one's.
    """
    session = rows.session
    staged = _stage(rows)
    _add_analytic(rows)
    first = _first_step(rows, staged, progress)
    progress("memory")
    with session.meter.exact():
        session.meter.reset()
        staged.step(*staged.batch)
    rows.add("memory", "step_peak_bytes", session.ranks.all_reduce_max(session.meter.peak_bytes()),
             implementation=session.meter.source)  # fmt: skip
    _add_memory(rows, staged)
    progress("warm-up")
    return Cell(rows, _steps(rows, staged), _parts(rows, staged), first_s={"train": first.seconds})


def prepare_unshared_step(rows: Rows, progress: Progress) -> Cell:
    """Time the whole step with a model that no other rank has a share of.

    Args:
        rows: take the cell's samples, in a session that is alone.
        progress: told of each phase.

    Raises:
        CellFailure: as :func:`prepare_step`.
    """
    session = rows.session
    model = session.build(rows.point, session.config.seed)
    unshared = replace(rows, session=replace(session, subject=model))
    staged = _stage(unshared)
    first = _first_step(unshared, staged, progress)
    return Cell(unshared, _steps(unshared, staged), first_s={"train": first.seconds})


def prepare_loader(rows: Rows, progress: Progress) -> Cell:
    """Time batches as a training gets them, with nothing else to do."""
    source, device = _windows(rows), rows.session.device

    def load_batches() -> None:
        with closing(prefetch(source, range(LOADED_BATCHES), device)) as batches:  # type: ignore[type-var]
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
        compile=_compiles(rows),
        checkpoint_activations=_recomputes(rows),
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
        require_compiler()
        torch.compiler.reset()  # each cell has its own shapes
    rows.closing.callback(model.eval)
    rows.closing.callback(optimizer.zero_grad, set_to_none=True)
    rows.closing.enter_context(changed_layers(model, config, session.ranks))
    model.train()
    step = Step(trained, optimizer, config, session.ranks)
    return _Staged(model, trained, optimizer, step, batch, implementation)


def _compiles(rows: Rows) -> bool:
    return rows.point.setting("mode", rows.session.config.modes[0]) == "compile"


def _first_step(rows: Rows, staged: _Staged, progress: Progress) -> Timing:
    """The first step, whose loss must be right; its time is the cold start."""
    progress("first step")
    expected = _eager_loss(rows, staged)
    first = rows.session.time(lambda: _check_loss(staged.step(*staged.batch), expected, rows))
    rows.add("setup", "cold_start_s", first.seconds)
    return first


def _windows(rows: Rows) -> RandomWindows:
    """Windows of the training split, of the point's shape."""
    config, point = rows.session.config, rows.point
    tokens = config.dataset().train.tokens
    return RandomWindows(
        tokens, batch_size=point.batch_size, seq_len=point.seq_len, seed=config.seed
    )


def _eager_loss(rows: Rows, staged: _Staged) -> float | None:
    """What a compiled step must come to; None where the step is not compiled."""
    session, point = rows.session, rows.point
    if not _compiles(rows):
        return None
    config = TrainingConfig(
        steps=1, batch_size=point.batch_size, seq_len=point.seq_len, dtype=session.config.dtype
    )
    with torch.no_grad():
        step = Step(staged.trained, staged.optimizer, config, session.ranks)
        return float(step.forward(*staged.batch))


def _check_loss(loss: Tensor, expected: float | None, rows: Rows) -> None:
    value = float(loss)
    if not math.isfinite(value):
        raise CellFailure("error", f"the loss of the first step is {value}")
    limit = LOSS_TOLERANCE[rows.session.config.dtype]
    if expected is not None and abs(value - expected) > limit * abs(expected):
        raise CellFailure(
            "error", f"the compiled step's loss is {value}, the eager one's {expected}"
        )


def _steps(rows: Rows, staged: _Staged) -> Phase:
    """Whole steps."""
    session = rows.session
    flops = _flops(rows) / session.ranks.size  # the ceilings are one process's

    def violation(seconds: float, ceilings: Ceilings) -> str | None:
        return violates_matmul_rate(flops, seconds, session.config.dtype, ceilings)

    return Phase(
        "train",
        "step_s",
        lambda: staged.step(*staged.batch),
        implementation=staged.implementation,
        violation=violation,
        energy="step_j",
        compiles=_compiles(rows),
    )


def _parts(rows: Rows, staged: _Staged) -> Phase:
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
    model_storages = {
        local(tensor).untyped_storage().data_ptr()
        for tensor in (*staged.model.parameters(), *staged.model.buffers(), *staged.batch)
    }
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in model_storages and not _is_weight(tensor):
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = staged.step.forward(*staged.batch)
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


def _add_analytic(rows: Rows) -> None:
    point, config = rows.point, rows.session.model.config
    computed = config.hardware_flops_per_token(point.seq_len, "train", recomputed=_recomputes(rows))
    rows.add("analytic", "step_flops", _flops(rows), implementation="analytic")
    rows.add("analytic", "step_hardware_flops", computed * point.tokens, implementation="analytic")


def _recomputes(rows: Rows) -> bool:
    first = rows.session.config.activations[0]
    return rows.point.setting("activations", first) == "recomputed"


def _flops(rows: Rows) -> float:
    """FLOPs that a step's forward and backward need."""
    point = rows.point
    return rows.session.model.flops_per_token(point.seq_len, "train") * point.tokens
