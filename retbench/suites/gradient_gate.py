"""The gate of the training suite: a contender's loss and gradients are those of its formula."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from retbench.suites.base import CellFailure, Session

if TYPE_CHECKING:
    import torch

    from models.protocol import LanguageModel

GATE_TOKENS = 320
"""Tokens of the gate's sequence: more than a chunk, and not a multiple of one."""

GATE_TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-1}
"""Largest relative L2 distance of all gradients from those of the formula in float64: rounding,
grown over the layers of a deep model. A wrong mask, decay or backward pass is off by far more."""


def check_gradients(session: Session) -> float:
    """The gradients' distance from those of the model's reference in float64.

    The reference is the same model, of the same weights, with the fields that
    ``ModelConfig.reference`` names; a model without any is compared with itself in float64.

    Raises:
        CellFailure: if it is too large, or not a number.
    """
    import torch

    model = session.model
    length = min(GATE_TOKENS, model.config.max_len - 1)
    generator = torch.Generator().manual_seed(session.config.seed)
    tokens = torch.randint(model.config.vocab_size, (1, length + 1), generator=generator)
    tokens = tokens.to(session.device)
    found = _gradients(session, model, tokens)
    exact = _gradients(session, _reference(session), tokens, exact=True)
    difference = sum(float((a - b).square().sum()) for a, b in zip(found, exact, strict=True))
    size = sum(float(b.square().sum()) for b in exact)
    error = math.sqrt(difference / size)
    limit = GATE_TOLERANCE[session.config.dtype]
    if not error <= limit:  # NaN fails too
        raise CellFailure(
            "error",
            f"the gradients are not those of the formula: relative error {error:.2g}, allowed "
            f"{limit:g} in {session.config.dtype}",
        )
    return error


def _reference(session: Session) -> LanguageModel:
    """The model as its formula says, in float64."""
    from dataclasses import replace

    import torch

    model = session.model
    config = replace(model.config, **model.config.reference())
    reference = config.build(device=session.device, dtype=torch.float64, seed=session.config.seed)
    reference.load_state_dict(model.state_dict())  # type: ignore[attr-defined]
    return reference


def _gradients(
    session: Session, model: LanguageModel, tokens: torch.Tensor, *, exact: bool = False
) -> list[torch.Tensor]:
    """Gradients of the mean loss, float64, in the order of the parameters."""
    import torch

    from retbench.suites.training_cell import autocast
    from retbench.trainingstep import next_token_loss

    parameters = list(model.parameters())
    with torch.autocast(session.device.type, enabled=False) if exact else autocast(session):
        loss = next_token_loss(model(tokens[:, :-1]), tokens[:, 1:])
    return [gradient.double() for gradient in torch.autograd.grad(loss, parameters)]
