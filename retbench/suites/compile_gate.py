"""The gate of a compiled step: its gradients are the eager one's, sequences by sequences.

A loss says little: at initialisation it is about ln V whatever the mixer does. Weights' gradients
follow from everything that a step computes, forward and backward; and they are asked for with the
very function that is timed, whose targets are scored for some sequences at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from retbench.data.batches import IGNORED
from retbench.distributed.process_group import ALONE, Ranks
from retbench.suites.base import CellFailure
from retbench.suites.gradient_gate import wrong_weight
from retbench.training.config import TrainingConfig
from retbench.training.step import Step

PARTS = 8
"""Parts of a batch that are asked about one by one. What is wrong in one sequence of n is a part of
1 / n of its part's gradients at least: up to 64 sequences stand out of bfloat16's rounding."""

Gradients = dict[str, Tensor]


def check_compiled(
    step: Step,
    model: nn.Module,
    batch: tuple[Tensor, Tensor],
    config: TrainingConfig,
    ranks: Ranks = ALONE,
) -> None:
    """Compare the gradients of a compiled step with those of an eager one.

    Rounding is no fault, and grows with depth in bfloat16: the compiled step may be as far from an
    eager one in float32 as :func:`retbench.suites.gradient_gate.wrong_weight` says, which knows how
    far the eager one in the training's type is. The eager ones take in no more than a part of the
    batch, and what is kept of them is in the host's memory: a step that fits can be checked. Leaves
    no gradients.

    Args:
        step: the compiled step; there are no gradients yet.
        model: holds the parameters.
        batch: inputs and targets that the step is timed with, both (batch, time).
        config: how the step is computed.
        ranks: the processes that make it together; all raise, or none.

    Raises:
        CellFailure: they differ by more than their rounding.
    """
    exact_step, own_step = (
        step.computed(replace(config, compile=False, dtype=dtype))
        for dtype in ("float32", config.dtype)
    )
    inputs, targets = batch
    # Laid out as the targets are: for other strides the step would be compiled anew.
    scored = torch.empty_strided(
        targets.shape, targets.stride(), dtype=targets.dtype, device=targets.device
    )
    for rows in torch.arange(len(inputs), device=inputs.device).chunk(PARTS):
        part = inputs[rows], targets[rows]
        with torch.compiler.set_stance("force_eager"):  # layers that are compiled one by one too
            exact = _gradients(exact_step, model, part, ranks, Tensor.cpu)
            own = exact
            if config.dtype != "float32":
                own = _gradients(own_step, model, part, ranks, Tensor.cpu)
        scored.fill_(IGNORED)[rows] = targets[rows]
        found = _gradients(step, model, (inputs, scored), ranks)
        _require_equal(exact, own, found, config.dtype, ranks)


def _gradients(
    step: Step,
    model: nn.Module,
    batch: tuple[Tensor, Tensor],
    ranks: Ranks,
    keep: Callable[[Tensor], Tensor] = lambda gradient: gradient,
) -> Gradients:
    """This rank's share of the gradient of each weight that has one; none are left."""
    step.differentiate(*batch)
    found = {
        name: keep(ranks.local(weight.grad.detach()))
        for name, weight in model.named_parameters()
        if weight.grad is not None
    }
    model.zero_grad(set_to_none=True)
    return found


def _require_equal(
    exact: Mapping[str, Tensor], own: Gradients, found: Gradients, dtype: str, ranks: Ranks
) -> None:
    wrong = None
    if exact.keys() != found.keys():
        lacking = min(exact.keys() ^ found.keys())
        wrong = f"only one of them has a gradient at {lacking}"
    else:
        for name, gradient in exact.items():
            if gradient.numel() and (
                far := wrong_weight(gradient, own[name], found[name].to(gradient.device), dtype)
            ):
                wrong = f"relative error {far[0]:.2g}, allowed {far[1]:.2g} in {dtype} at {name}"
                break
    told = [each for each in ranks.all_gather(wrong) if each]
    if told:
        cause = f"the compiled step's gradients are not the eager one's: {told[0]}"
        raise CellFailure("error", cause)
