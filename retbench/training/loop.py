"""The one training loop: the tutorial, the suites and the throughput figures all go through it.

    config = TrainingConfig(steps=1000, batch_size=8, seq_len=256, learning_rate=3e-3)
    training = train(model, RandomWindows(tokens, batch_size=8, seq_len=256, seed=0), config)
    training.records[-1].train_loss

A step is a forward pass, a backward pass and an AdamW update, and next to nothing else: batches
come from a thread, and the loss stays on the device until a record is due, so that a GPU is never
waited for in between. Where the first pass compiles, tunes kernels or loads them, one is made and
forgotten before the clock starts, so that seconds and tokens/s are the steps' own. Nothing here is
random; two trainings from equal weights over equal batches are equal bit for bit where the kernels
are (on a CPU they are, at the same number of threads).

Several processes train one model together where ``ranks`` is a group of them: each then computes
its rows of every batch, and all stop at the same step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack, closing

import torch
from torch import nn

from models.compiler import making_graphs
from retbench.data.batches import BatchSource, prefetch
from retbench.distributed.process_group import ALONE, Ranks
from retbench.training.checkpointing import Checkpoints
from retbench.training.config import Record, Training, TrainingConfig
from retbench.training.step import Step, autocast, changed_layers, make_optimizer

__all__ = ["Record", "Training", "TrainingConfig", "train"]

DIVERGENCE_MARGIN = 0.5
"""A loss of so many nat/token above the first record's counts against a training."""

DIVERGENCE_SHARE = 0.1
"""A training has diverged once its loss was that high for so large a share of all steps..."""

DIVERGENCE_RECORDS = 5
"""... and in so many records in a row: a short training may well begin with a stumble."""

Check = Callable[[Step, tuple[torch.Tensor, torch.Tensor]], None]

_SUM_BITS = 45
"""Digits of a sum of float32 losses, of 24 bits each: float64 adds them up without rounding."""


def train(
    model: nn.Module,
    source: BatchSource,
    config: TrainingConfig,
    *,
    dev: Callable[[], float] | None = None,
    observe: Callable[[Record], None] | None = None,
    checkpoint: Checkpoints | None = None,
    stopping: Callable[[], bool] | None = None,
    ranks: Ranks = ALONE,
    check: Check | None = None,
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
        checkpoint: continues an earlier training where it has one, and is offered the state after
            every record whose loss is sound. With weights and optimizer the loss curves are all
            that continues a training: its next batch is the source's of the last record's step.
        stopping: asked after every step; where it says so, a record is made out of turn, after
            which ``observe`` may stop the training. What continues it makes no difference of that
            record. None of several ranks may be asked, for they record together.
        ranks: the processes that train it together. On every rank the model begins with the same
            weights, the source gives the whole batch, and ``dev`` the same estimate. The model may
            come back with its parameters sharded: see :meth:`Ranks.unshard`.
        check: given the step before the first is made, where one pass is made and forgotten, with
            what it takes in at once of its batch; may raise, and leaves no gradients. Not asked of
            a single sequence in eager mode, which is all there is to compare with.

    Returns:
        The loss curves and how it ended. A training that diverges is stopped and leaves the model
        as it was then.

    Raises:
        UserError: activations are to be checkpointed in a model without ``layers``.
    """
    loop = _Loop(model, config, checkpoint, ranks)
    was_training = model.training
    model.train()
    try:
        return loop.run(source, dev, observe, stopping, check)
    finally:
        model.train(was_training)


def _sum(mean: float, count: int) -> float:
    """The sum of so many float32 losses by their mean: it has fewer digits than the product."""
    mantissa, exponent = math.frexp(mean * count)
    return math.ldexp(round(math.ldexp(mantissa, _SUM_BITS)), exponent - _SUM_BITS)


class _Loop:
    """One training in the making."""

    def __init__(
        self,
        model: nn.Module,
        config: TrainingConfig,
        checkpoint: Checkpoints | None,
        ranks: Ranks,
    ) -> None:
        self._model, self._config, self._checkpoint, self._ranks = model, config, checkpoint, ranks
        wrapped = ranks.wrap(model)  # before the optimizer is made of its parameters
        self._optimizer = make_optimizer(model, config)
        self._step = Step(wrapped, self._optimizer, config, ranks)
        self._device = self._step.device
        self._records = list(checkpoint.restore(model, self._optimizer)) if checkpoint else []
        self._made, self._seconds, self._total = 0, 0.0, 0.0
        if self._records:
            last = self._records[-1]
            self._made, self._seconds = last.step, last.seconds
            if not self._is_due(last.step):  # made out of turn: its steps count in the next one
                self._records.pop()
                self._total = _sum(last.train_loss, last.step - self._recorded)

    @property
    def _recorded(self) -> int:
        """Steps made when the last record was."""
        return self._records[-1].step if self._records else 0

    def _is_due(self, step: int) -> bool:
        """Whether there is a record after a step, whatever happens."""
        config = self._config
        every = (config.record_every, config.eval_every, config.steps)
        return any(step % each == 0 for each in every)

    def run(
        self,
        source: BatchSource,
        dev: Callable[[], float] | None,
        observe: Callable[[Record], None] | None,
        stopping: Callable[[], bool] | None,
        check: Check | None,
    ) -> Training:
        """Make all steps, or those until the training has diverged."""
        config, records = self._config, self._records
        total = torch.tensor(self._total, dtype=torch.float64, device=self._device)
        with ExitStack() as stack:
            stack.enter_context(changed_layers(self._model, config, self._ranks))
            steps = range(self._made, config.steps)
            if steps and (config.compile or self._device.type != "cpu"):
                self._warm_up(source, check)
            batches = prefetch(source, steps, self._device, self._ranks)
            stack.enter_context(closing(batches))
            begun = time.perf_counter()
            for step, (inputs, targets) in enumerate(batches, steps.start + 1):
                for group in self._optimizer.param_groups:
                    group["lr"] = config.rate(step - 1)
                total += self._step(inputs, targets)
                if not self._is_due(step) and not (stopping and stopping()):
                    continue
                mean = self._ranks.all_reduce_mean(total).item() / (step - self._recorded)
                self._seconds += time.perf_counter() - begun
                total.zero_()
                record = self._record(step, mean, dev)
                records.append(record)
                cause = _divergence(records, config)
                if self._checkpoint and not cause:
                    self._checkpoint.keep(self._model, self._optimizer, records)
                if observe:
                    observe(record)
                if cause:
                    return Training(records, cause)
                begun = time.perf_counter()
        return Training(records)

    def _warm_up(self, source: BatchSource, check: Check | None) -> None:
        """One pass forward and backward whose results are dropped: all is as before but compiled.

        What was compiled before is of another model. The model's buffers and torch's random
        generators are put back; the gradients go, of which there are none between steps.
        """
        compiles = self._config.compile
        if compiles:
            torch.compiler.reset()
        first = prefetch(source, range(self._made, self._made + 1), self._device, self._ranks)
        buffers = [(buffer, buffer.clone()) for buffer in self._model.buffers()]
        used = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices=used), closing(first) as batches:
            for inputs, targets in batches:
                with making_graphs(compiles):
                    self._step.discarded(inputs, targets)
                first_inputs, first_targets = (
                    each.chunk(self._config.accumulate)[0] for each in (inputs, targets)
                )
                if check and (compiles or len(first_inputs) > 1):
                    check(self._step, (first_inputs, first_targets))
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)

    def _record(self, step: int, mean: float, dev: Callable[[], float] | None) -> Record:
        config, dev_loss = self._config, None
        due = step % config.eval_every == 0 or step == config.steps
        if dev is not None and due and math.isfinite(mean):
            self._model.eval()
            with torch.no_grad(), autocast(self._device, self._config):
                dev_loss = dev()
            self._model.train()
        tokens = step * config.tokens_per_step
        return Record(step, tokens, self._seconds, mean, dev_loss, config.rate(step - 1))


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
