"""One optimizer step of a model: the loop makes it many times, the training suite times its parts.

    step = Step(model, make_optimizer(model, config), config)
    loss = step(inputs, targets)                        # forward, backward and update
    loss = step.forward(inputs, targets); step.backward(loss); step.update()    # the same, apart

Of several processes each makes it of its own sequences, and the gradients become the batch's. The
layers may compute it in other ways, see :func:`changed_layers`: activations left out, or compiled
one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from models.compiler import compiled
from retbench.data.batches import IGNORED
from retbench.distributed.process_group import ALONE, Ranks
from retbench.errors import UserError
from retbench.training.config import TrainingConfig

Forward = Callable[..., Any]
Change = Callable[[Forward], Forward]


class Step:
    """What one update does, in the parts it is made of.

    Args:
        model: maps int64 tokens (batch, time) to logits (batch, time, vocab); what ``ranks`` have
            made of it where they share the work.
        optimizer: the optimizer of the model's trained parameters.
        config: gives type, compilation, accumulation and clipping; not the rate.
        ranks: the processes that make it together.

    Raises:
        ConfigError: it is to be compiled, and a variable turns the compiler off.

    Attributes:
        device: where it runs.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: TrainingConfig,
        ranks: Ranks = ALONE,
    ) -> None:
        self._model, self._optimizer, self._config = model, optimizer, config
        self._ranks = ranks
        self._trained = [p for group in optimizer.param_groups for p in group["params"]]
        self.device: torch.device = self._trained[0].device
        self._loss_of = self._loss
        if config.compile and ranks.compiles == "step":
            self._loss_of = compiled(self._loss)

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """One update; the mean loss over the scored targets in nat/token, on the device.

        Where ranks share the work it is this one's part: their mean is the loss.

        Args:
            inputs: int64 (batch, time).
            targets: int64 (batch, time); those that are ``IGNORED`` are not scored.
        """
        parts = self._config.accumulate
        scored = self._count(targets)
        losses: list[Tensor] = []
        for part in zip(inputs.chunk(parts), targets.chunk(parts), strict=True):
            with self._ranks.part(self._model, last=len(losses) == parts - 1):
                loss = self.forward(*part, scored)
                self.backward(loss)
            losses.append(loss.detach())
        self.update()
        return losses[0] if parts == 1 else torch.stack(losses).sum()

    def discarded(self, inputs: Tensor, targets: Tensor) -> None:
        """Forward and backward pass of a part of a batch, without an update; waits for the end.

        What compiles, tunes or loads kernels at its first call then has done so. There must be no
        gradients yet, and are none afterwards.
        """
        parts = self._config.accumulate
        scored = self._count(targets)
        self.differentiate(inputs.chunk(parts)[0], targets.chunk(parts)[0], scored)
        self._optimizer.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def differentiate(self, inputs: Tensor, targets: Tensor, scored: Tensor | None = None) -> None:
        """Forward and backward pass, whose gradients are left, as :meth:`forward` has it."""
        with self._ranks.part(self._model, last=True):
            self.backward(self.forward(inputs, targets, scored))

    def computed(self, config: TrainingConfig) -> Step:
        """The same model's step, computed another way."""
        return Step(self._model, self._optimizer, config, self._ranks)

    def forward(self, inputs: Tensor, targets: Tensor, scored: Tensor | None = None) -> Tensor:
        """The share of these sequences in the loss of a batch.

        ``scored`` counts the batch's targets, of a rank on average; where None the sequences are
        the whole of it.
        """
        return self._loss_of(inputs, targets, self._count(targets) if scored is None else scored)

    def backward(self, loss: Tensor) -> None:
        """Add its gradients to those there are."""
        loss.backward()

    def update(self) -> None:
        """Clip the gradients, let the optimizer use them, and drop them."""
        if self._config.grad_clip:
            nn.utils.clip_grad_norm_(self._trained, self._config.grad_clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def _count(self, targets: Tensor) -> Tensor:
        """Scored targets of a rank on average: the mean over ranks of losses is then the loss."""
        return self._ranks.all_reduce_mean((targets != IGNORED).sum())

    def _loss(self, inputs: Tensor, targets: Tensor, scored: Tensor) -> Tensor:
        with autocast(self.device, self._config):
            return next_token_loss(self._model(inputs), targets, "sum") / scored


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) over what a model trains.

    Weights of matrices and embeddings decay; gains and biases, of one dimension, do not.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in trained)
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


@contextmanager
def changed_layers(model: nn.Module, config: TrainingConfig, ranks: Ranks) -> Iterator[None]:
    """Let every layer of a model compute meanwhile as a training asks for.

    Args:
        model: not what ``ranks`` have made of it.
        config: may want activations computed anew, or compilation.
        ranks: the processes that train it; they say whether layers are what is compiled.

    Raises:
        UserError: the model has no ``layers``.
        ConfigError: they are to be compiled, and a variable turns the compiler off.
    """
    changes: dict[str, Change] = {}
    if config.checkpoint_activations:
        changes["checkpoint_activations"] = _recomputed
    if config.compile and ranks.compiles == "layer":
        changes["compile"] = _compiled
    layers: Any = getattr(model, "layers", None) if changes else ()
    if changes and not isinstance(layers, nn.ModuleList):
        raise UserError(
            f"{' and '.join(changes)}: the model has no layers to change", "train it without"
        )
    for layer in layers:
        for change in changes.values():  # what is compiled includes what is left out
            layer.forward = change(layer.forward)
    try:
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)  # the class's own shows again


def _recomputed(forward: Forward) -> Forward:
    """Keep the inputs alone, and compute the rest anew in the backward pass.

    Chen et al. 2016, arXiv 1604.06174. Without gradients a layer runs as ever.
    """
    return partial(checkpoint, forward, use_reentrant=False)


def _compiled(forward: Forward) -> Forward:
    """Go through ``torch.compile``; without gradients, in many shapes, as ever."""
    fast = compiled(forward)

    def either(*arguments: Any, **named: Any) -> Any:
        return (fast if torch.is_grad_enabled() else forward)(*arguments, **named)

    return either
