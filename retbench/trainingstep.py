"""One optimizer step of a model: the loop makes it many times, the training suite times its parts.

step = Step(model, make_optimizer(model, config), config)
loss = step(inputs, targets)                        # forward, backward and update
loss = step.forward(inputs, targets); step.backward(loss); step.update()    # the same, apart
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint as recomputed

from retbench.errors import UserError
from retbench.trainingconfig import TrainingConfig

IGNORED = -100
"""A target that is not scored."""

_FUSED_DEVICES = ("cpu", "cuda")


class Step:
    """What one update does, in the parts it is made of.

    Args:
        model: maps int64 tokens (batch, time) to logits (batch, time, vocab).
        optimizer: of its trained parameters.
        config: gives type, compilation, accumulation and clipping; not the rate.

    Attributes:
        device: where it runs.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, config: TrainingConfig
    ) -> None:
        self._model, self._optimizer, self._config = model, optimizer, config
        self._trained = [p for group in optimizer.param_groups for p in group["params"]]
        self.device: torch.device = self._trained[0].device
        self._loss_of = self._loss
        if config.compile:
            self._loss_of = torch.compile(self._loss, dynamic=False)

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """One update; the mean loss over the scored targets in nat/token, on the device.

        Args:
            inputs: int64 (batch, time).
            targets: likewise; those that are ``IGNORED`` are not scored.
        """
        parts = self._config.accumulate
        scored = (targets != IGNORED).sum()
        losses = []
        for part in zip(inputs.chunk(parts), targets.chunk(parts), strict=True):
            loss = self.forward(*part, scored)
            self.backward(loss)
            losses.append(loss.detach())
        self.update()
        return losses[0] if parts == 1 else torch.stack(losses).sum()

    def forward(self, inputs: Tensor, targets: Tensor, scored: Tensor | None = None) -> Tensor:
        """The share of these sequences in the loss of a batch.

        ``scored`` counts the batch's targets; where None the sequences are the whole of it.
        """
        count = (targets != IGNORED).sum() if scored is None else scored
        return self._loss_of(inputs, targets, count)

    def backward(self, loss: Tensor) -> None:
        """Add its gradients to those there are."""
        loss.backward()

    def update(self) -> None:
        """Clip the gradients, let the optimizer use them, and drop them."""
        if self._config.grad_clip:
            nn.utils.clip_grad_norm_(self._trained, self._config.grad_clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

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


@contextmanager
def checkpointed_activations(model: nn.Module) -> Iterator[None]:
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
