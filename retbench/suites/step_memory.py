"""The bytes that a training step holds, counted tensor by tensor, by what they are."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from retbench.training.step import Step

Local = Callable[[Tensor], Tensor]
"""This rank's share of a tensor."""


def held_bytes(
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
