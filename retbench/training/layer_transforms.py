"""Ways to compute a model's layers in training: activations left out, or compiled one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from models.compiler import compiled
from retbench.distributed.process_group import ALONE, Ranks
from retbench.errors import UserError
from retbench.training.config import TrainingConfig

Forward = Callable[..., Any]
Change = Callable[[Forward], Forward]


@contextmanager
def changed_layers(
    model: nn.Module, config: TrainingConfig, ranks: Ranks = ALONE
) -> Iterator[None]:
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
