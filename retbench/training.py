"""The one training loop: the tutorial, the suites and the throughput figures all go through it.

    config = TrainingConfig(steps=1000, batch_size=8, seq_len=256, learning_rate=3e-3)
    training = train(model, RandomWindows(tokens, batch_size=8, seq_len=256, seed=0), config)
    training.records[-1].train_loss

A step is a forward pass, a backward pass and an AdamW update, and next to nothing else: batches
come from a thread, and the loss stays on the device until a record is due, so that a GPU is never
waited for in between. Nothing here is random; two trainings from equal weights over equal batches
are equal bit for bit where the kernels are (on a CPU they are, at the same number of threads).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint as recomputed

from retbench.errors import UserError
from retbench.trainingconfig import Record, Training, TrainingConfig

if TYPE_CHECKING:
    from retbench.data.batches import BatchSource

__all__ = [
    "IGNORED", "Checkpointer", "Progress", "Record", "Training", "TrainingConfig", "autocast",
    "make_optimizer", "next_token_loss", "train",
]  # fmt: skip

IGNORED = -100
"""A target that is not scored."""

DIVERGENCE_MARGIN = 0.5
"""A loss of so many nat/token above the first record's counts against a training."""

DIVERGENCE_SHARE = 0.1
"""A training has diverged once its loss was that high for so large a share of all steps..."""

DIVERGENCE_RECORDS = 5
"""... and in so many records in a row: a short training may well begin with a stumble."""

_FUSED_DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class Progress:
    """How far a training has come; with weights and optimizer, all that continues it.

    Attributes:
        step: optimizer steps made; the next batch is the source's of this number.
        seconds: time they took.
        records: the loss curves so far, of which the last is at ``step``.
    """

    step: int
    seconds: float
    records: tuple[Record, ...]


class Checkpointer(Protocol):
    """Keeps the state of a training, and gives it back; see :mod:`retbench.checkpointing`."""

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress | None:
        """Put a kept state into model and optimizer; None where there is none."""

    def keep(self, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        """Offered the state after every record whose loss is sound; may let it pass."""


def train(
    model: nn.Module,
    source: BatchSource,
    config: TrainingConfig,
    *,
    dev: Callable[[], float] | None = None,
    observe: Callable[[Record], None] | None = None,
    checkpoint: Checkpointer | None = None,
) -> Training:
    """Train a model in place.

    Args:
        model: maps int64 tokens (batch, time) to logits (batch, time, vocab); its weights say where
            the training runs. Left in the mode (training or evaluation) that it came in.
        source: ``batch(step)`` gives inputs and targets, int64 (batch, time); a target of
            ``IGNORED`` is not scored.
        config: how.
        dev: estimates the dev loss in nat/token; called every ``eval_every`` steps and after the
            last one, with the model in evaluation mode, without gradients, under the training's
            autocast. Its time is not counted.
        observe: told of every record; may raise to stop.
        checkpoint: continues an earlier training where it has one, and is offered the state.

    Returns:
        The loss curves and how it ended. A training that diverges is stopped and leaves the model
        as it was then.

    Raises:
        UserError: activations are to be checkpointed in a model without ``blocks``.
    """
    optimizer = make_optimizer(model, config)
    found = checkpoint.restore(model, optimizer) if checkpoint else None
    loop = _Loop(model, optimizer, config, found or Progress(0, 0.0, ()))
    was_training = model.training
    model.train()
    try:
        cause = loop.run(source, dev, observe, checkpoint)
    finally:
        model.train(was_training)
    tokens = config.tokens_per_step * (loop.records[-1].step if loop.records else 0)
    rate = tokens / loop.seconds if loop.seconds > 0 else math.nan
    return Training("diverged" if cause else "ok", cause, loop.records, loop.seconds, rate)


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) over what a model trains.

    Weights of matrices and embeddings decay; gains and biases, of one dimension, do not.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    fused = all(p.device.type in _FUSED_DEVICES and p.is_floating_point() for p in trained)
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate, betas=betas, fused=fused,
    )  # fmt: skip


def next_token_loss(logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy in nats, in float32 or wider.

    Args:
        logits: (batch, time, vocab), any floating-point type.
        targets: int64 (batch, time); those that are ``IGNORED`` do not count.
        reduction: ``mean`` or ``sum`` over the scored targets, or ``none`` for (batch * time,).
    """
    wide = torch.promote_types(logits.dtype, torch.float32)
    return F.cross_entropy(
        logits.flatten(0, 1).to(wide), targets.flatten(), ignore_index=IGNORED, reduction=reduction
    )


def autocast(device: torch.device, config: TrainingConfig) -> torch.autocast:
    """Where a training in bfloat16 computes its products in it; without effect in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.dtype == "bfloat16")


class _Loop:
    """One training in the making."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.AdamW,
        config: TrainingConfig,
        progress: Progress,
    ) -> None:
        self._model, self._optimizer, self._config = model, optimizer, config
        self._trained = [p for group in optimizer.param_groups for p in group["params"]]
        self._device = self._trained[0].device
        self._loss_of = self._loss
        if config.compile:
            self._loss_of = torch.compile(self._loss, dynamic=False)
        self.start = progress.step
        self.seconds = progress.seconds
        self.records = list(progress.records)

    def run(
        self,
        source: BatchSource,
        dev: Callable[[], float] | None,
        observe: Callable[[Record], None] | None,
        checkpoint: Checkpointer | None,
    ) -> str | None:
        """Make all steps; the cause where the training diverged."""
        from retbench.data.batches import prefetch

        config = self._config
        total = torch.zeros((), dtype=torch.float64, device=self._device)
        with ExitStack() as stack:
            if config.checkpoint_activations:
                stack.enter_context(_checkpointed_activations(self._model))
            steps = range(self.start, config.steps)
            batches = stack.enter_context(closing(prefetch(source, steps, self._device)))  # type: ignore[type-var]
            begun = time.perf_counter()
            for step, (inputs, targets) in enumerate(batches, self.start + 1):
                total += self._step(step - 1, inputs, targets)
                if step % config.record_every and step % config.eval_every and step < config.steps:
                    continue
                mean = total.item() / (step - (self.records[-1].step if self.records else 0))
                self.seconds += time.perf_counter() - begun
                total.zero_()
                record = self._record(step, mean, dev)
                self.records.append(record)
                cause = _divergence(self.records, config)
                if checkpoint and not cause:
                    state = Progress(step, self.seconds, tuple(self.records))
                    checkpoint.keep(self._model, self._optimizer, state)
                if observe:
                    observe(record)
                if cause:
                    return cause
                begun = time.perf_counter()
        return None

    def _step(self, step: int, inputs: Tensor, targets: Tensor) -> Tensor:
        """One update; the loss of its batch in nat/token, on the device."""
        config = self._config
        for group in self._optimizer.param_groups:
            group["lr"] = config.rate(step)
        loss = self._backward(inputs, targets)
        if config.grad_clip:
            nn.utils.clip_grad_norm_(self._trained, config.grad_clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return loss

    def _backward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Gradients of the batch's mean loss over all scored targets, however they are spread."""
        parts = self._config.accumulate
        scored = (targets != IGNORED).sum()
        losses = []
        for part in zip(inputs.chunk(parts), targets.chunk(parts), strict=True):
            loss = self._loss_of(*part, scored)
            loss.backward()
            losses.append(loss.detach())
        return losses[0] if parts == 1 else torch.stack(losses).sum()

    def _loss(self, inputs: Tensor, targets: Tensor, scored: Tensor) -> Tensor:
        """The part's share in the loss of a batch of that many scored targets."""
        with autocast(self._device, self._config):
            return next_token_loss(self._model(inputs), targets, "sum") / scored

    def _record(self, step: int, mean: float, dev: Callable[[], float] | None) -> Record:
        config, dev_loss = self._config, None
        due = step % config.eval_every == 0 or step == config.steps
        if dev is not None and due and math.isfinite(mean):
            self._model.eval()
            with torch.no_grad(), autocast(self._device, self._config):
                dev_loss = dev()
            self._model.train()
        tokens = step * config.tokens_per_step
        return Record(step, tokens, self.seconds, mean, dev_loss, config.rate(step - 1))


def _divergence(records: list[Record], config: TrainingConfig) -> str | None:
    """What is wrong with the last record; None where nothing is."""
    first, last = records[0], records[-1]
    for name, loss in (("train", last.train_loss), ("dev", last.dev_loss)):
        if loss is not None and not math.isfinite(loss):
            since = records[-2].step if len(records) > 1 else 0
            return f"the {name} loss is {loss}, after steps {since + 1} to {last.step}"
    limit = first.train_loss + DIVERGENCE_MARGIN
    sound = max(i for i, record in enumerate(records) if record.train_loss <= limit)
    high = last.step - records[sound].step
    if len(records) - 1 - sound < DIVERGENCE_RECORDS or high < DIVERGENCE_SHARE * config.steps:
        return None
    return (
        f"the train loss is {last.train_loss:.3g} nat/token and was above its start, "
        f"{first.train_loss:.3g}, for {high} steps"
    )


@contextmanager
def _checkpointed_activations(model: nn.Module) -> Iterator[None]:
    """Let every block keep its inputs alone and compute the rest anew in the backward pass.

    Chen et al. 2016, arXiv 1604.06174. Without gradients a block runs as ever.
    """
    blocks: Any = getattr(model, "blocks", None)
    if not isinstance(blocks, nn.ModuleList):
        raise UserError(
            "checkpoint_activations: the model has no blocks whose activations could be left out",
            "train it without",
        )
    for block in blocks:
        block.forward = partial(recomputed, block.forward, use_reentrant=False)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward  # the class's own shows again
