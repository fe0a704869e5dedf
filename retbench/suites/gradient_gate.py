"""The gate of the training suite: a contender's gradients are those of its formula."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import nn

from models.protocol import LanguageModel
from retbench.suites.limits import CellFailure
from retbench.suites.session import Session
from retbench.training.step import next_token_loss

GATE_TOKENS = 320
"""Tokens of the gate's sequence: more than a chunk, and not a multiple of one."""

GATE_QUANTILE = 0.9
"""Share of the tokens whose gradients must be right. A retention's first output is a multiple of
one vector, whose norm takes away all but its sign: where the factor is near zero, its gradient in
another type has nothing of the exact one. A wrong mask, decay or state is wrong at most tokens."""

GATE_BLOCKS = 20
"""Of each so many parts of the sequence, half the tokens' gradients must be right as well: a chunk
may be wholly wrong, and fewer tokens than that share of all."""

GATE_MARGIN = 2.0
GATE_FLOOR = {"float32": 1e-5, "bfloat16": 1e-2}
GATE_CAP = 0.6
"""Those gradients may be so many times as far from float64's as the formula itself is in the same
type, but for the floor: rounding grows with depth, in bfloat16 from 0.01 at ``tiny`` to 0.3 at
``350m``. A wrong mask, decay, state or gradient is off by 0.2 in the shallowest model and by over
the cap in deep ones."""


def check_gradients(session: Session) -> float:
    """How far the loss's gradients at the tokens' embeddings are from the formula's in float64.

    All that is differentiated lies between the embeddings and the loss, so a gradient that is lost
    or wrong anywhere is so there. The reference is the same model, of the same weights, with the
    fields that ``ModelConfig.reference`` names; one without any is compared with itself in float64.

    Returns:
        The distance, relative L2, that ``GATE_QUANTILE`` of the tokens do not exceed, nor half of
        the tokens of any of the ``GATE_BLOCKS`` parts of the sequence.

    Raises:
        CellFailure: if it is too large or not a number, or the model embeds no tokens.
    """
    model = session.model
    length = min(GATE_TOKENS, model.config.max_len - 1)
    generator = torch.Generator().manual_seed(session.config.seed)
    tokens = torch.randint(model.config.vocab_size, (1, length + 1), generator=generator)
    tokens = tokens.to(session.device)
    exact = _gradients(session, _reference(session, torch.float64), tokens, exact=True)
    formula = _gradients(session, _reference(session, torch.float32), tokens)
    computed = _gradients(session, model, tokens)
    own_error, error = (_distance(gradients, exact) for gradients in (formula, computed))
    limit = min(GATE_CAP, max(GATE_FLOOR[session.config.dtype], GATE_MARGIN * own_error))
    if not error <= limit:  # NaN fails too
        raise CellFailure(
            "error",
            f"the gradients are not those of the formula: relative error {error:.2g}, allowed "
            f"{limit:.2g} in {session.config.dtype}",
        )
    return error


def _distance(computed: torch.Tensor, exact: torch.Tensor) -> float:
    """What most tokens' relative distances do not exceed, anywhere; both (time, d_model)."""
    distances = (computed - exact).norm(dim=-1) / exact.norm(dim=-1)
    halves = [float(part.quantile(0.5)) for part in distances.chunk(GATE_BLOCKS)]
    worst = float(distances.quantile(GATE_QUANTILE))
    return max(worst, *halves) if all(map(math.isfinite, halves)) else math.nan


def _reference(session: Session, dtype: torch.dtype) -> LanguageModel:
    """The model as its formula says, its weights in that type."""
    model = session.model
    config = replace(model.config, **model.config.reference())
    reference = config.build(device=session.device, dtype=dtype, seed=session.config.seed)
    reference.load_state_dict(model.state_dict())  # type: ignore[attr-defined]
    return reference


def _gradients(
    session: Session, model: LanguageModel, tokens: torch.Tensor, *, exact: bool = False
) -> torch.Tensor:
    """Gradients of the mean loss at the embeddings of the tokens: float64 (time, d_model)."""
    tables = (part for part in model.modules() if isinstance(part, nn.Embedding))  # type: ignore[attr-defined]
    table = next(tables, None)
    if table is None:
        raise CellFailure("unsupported", "the model has no embedding to check a gradient at")
    embedded: list[torch.Tensor] = []
    hook = table.register_forward_hook(lambda *call: embedded.append(call[-1]))
    try:
        with torch.autocast(session.device.type, enabled=False) if exact else session.autocast():
            loss = next_token_loss(model(tokens[:, :-1]), tokens[:, 1:])
    finally:
        hook.remove()
    (gradient,) = torch.autograd.grad(loss, embedded[:1])
    return gradient[0].double()
