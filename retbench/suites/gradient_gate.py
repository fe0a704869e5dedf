"""The gate of the training suite: a contender's gradients are those of its formula."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import nn

from models.protocol import LanguageModel
from retbench.suites.base import CellFailure
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

WEIGHT_FLOOR = {"float32": 1e-4, "bfloat16": 3e-2}
"""The floor of weights' gradients, which sum over tokens: those of single rows round unevenly."""


def check_gradients(session: Session) -> float:
    """How far the loss's gradients are from the formula's in float64, at the tokens' embeddings.

    What is wrong between the embeddings and the loss shows there; a weight's own gradient, that of
    a norm's gain for one, may be wrong alone, so every weight's is judged too, by parts of its
    rows. The reference is the same model, of the same weights, with the fields that
    ``ModelConfig.reference`` names; one without any is compared with itself in float64.

    Returns:
        The distance, relative L2, that ``GATE_QUANTILE`` of the tokens do not exceed, nor half of
        the tokens of any of the ``GATE_BLOCKS`` parts of the sequence.

    Raises:
        CellFailure: if it is too large or not a number, a weight's is, or the model embeds no
            tokens.
    """
    model = session.model
    length = min(GATE_TOKENS, model.config.max_len - 1)
    generator = torch.Generator().manual_seed(session.config.seed)
    tokens = torch.randint(model.config.vocab_size, (1, length + 1), generator=generator)
    tokens = tokens.to(session.device)
    exact = _gradients(session, _reference(session, torch.float64), tokens, exact=True)
    formula = _gradients(session, _reference(session, torch.float32), tokens)
    computed = _gradients(session, model, tokens)
    own_error, error = (_distance(found.tokens, exact.tokens) for found in (formula, computed))
    dtype = session.config.dtype
    limit = min(GATE_CAP, max(GATE_FLOOR[dtype], GATE_MARGIN * own_error))
    if not error <= limit:  # NaN fails too
        raise _wrong(error, limit, dtype)
    for name, gradient in exact.weights.items():
        far = wrong_weight(gradient, formula.weights[name], computed.weights[name], dtype)
        if far is not None:
            raise _wrong(*far, f"{dtype} at {name}")
    return error


def wrong_weight(
    exact: torch.Tensor, own: torch.Tensor, found: torch.Tensor, dtype: str
) -> tuple[float, float] | None:
    """Where a weight's gradient is too far from the exact one, by parts of its rows.

    Args:
        exact: the gradient, all three of one shape.
        own: what a right computation in the training's type comes to.
        found: what is judged.
        dtype: the training's type.

    Returns:
        The relative L2 distance of the first part that is wrong, and what is allowed there; None
        where none is.
    """
    own_error, error = (_of_rows(computed, exact) for computed in (own, found))
    least = own_error.clamp(min=float(own_error.median()))
    limits = (GATE_MARGIN * least).clamp(min=WEIGHT_FLOOR[dtype])
    wrong = ~(error <= limits) & ~(limits > GATE_CAP)  # beyond it the formula itself is lost
    if not wrong.any():
        return None
    first = int(wrong.nonzero()[0])
    return float(error[first]), float(limits[first])


def _wrong(error: float, limit: float, where: str) -> CellFailure:
    return CellFailure(
        "error",
        f"the gradients are not those of the formula: relative error {error:.2g}, allowed "
        f"{limit:.2g} in {where}",
    )


def _distance(computed: torch.Tensor, exact: torch.Tensor) -> float:
    """What most tokens' relative distances do not exceed, anywhere; both (time, d_model)."""
    distances = (computed - exact).norm(dim=-1) / exact.norm(dim=-1)
    halves = [float(part.quantile(0.5)) for part in distances.chunk(GATE_BLOCKS)]
    worst = float(distances.quantile(GATE_QUANTILE))
    return max(worst, *halves) if all(map(math.isfinite, halves)) else math.nan


def _of_rows(computed: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
    """Relative distances of a matrix's rows in ``GATE_BLOCKS`` parts; of a vector as a whole."""
    rows = len(exact) if exact.dim() > 1 else 1
    distances = []
    for one, other in zip(
        computed.double().reshape(rows, -1).chunk(GATE_BLOCKS),
        exact.double().reshape(rows, -1).chunk(GATE_BLOCKS),
        strict=True,
    ):
        same = torch.equal(one, other)  # a weight that takes no part has gradients of zero
        distances.append(0.0 if same else float((one - other).norm() / other.norm()))
    return torch.tensor(distances)


def _reference(session: Session, dtype: torch.dtype) -> LanguageModel:
    """The model as its formula says, its weights in that type."""
    model = session.model
    config = replace(model.config, **model.config.reference())
    reference = config.build(device=session.device, dtype=dtype, seed=session.config.seed)
    reference.load_state_dict(model.state_dict())  # type: ignore[attr-defined]
    return reference


@dataclass(frozen=True)
class _Gradients:
    """Of the mean loss: at the tokens' embeddings, float64 (time, d_model), and of each weight."""

    tokens: torch.Tensor
    weights: dict[str, torch.Tensor]


def _gradients(
    session: Session, model: LanguageModel, tokens: torch.Tensor, *, exact: bool = False
) -> _Gradients:
    """The gradients that a model computes; those of weights that take no part are zero."""
    module = cast(nn.Module, model)
    table = next((part for part in module.modules() if isinstance(part, nn.Embedding)), None)
    if table is None:
        raise CellFailure("unsupported", "the model has no embedding to check a gradient at")
    embedded: list[torch.Tensor] = []
    hook = table.register_forward_hook(lambda *call: embedded.append(call[-1]))
    try:
        with torch.autocast(session.device.type, enabled=False) if exact else session.autocast():
            loss = next_token_loss(model(tokens[:, :-1]), tokens[:, 1:])
    finally:
        hook.remove()
    weights = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
    at_tokens, *found = torch.autograd.grad(
        loss, [embedded[0], *weights.values()], allow_unused=True, materialize_grads=True
    )
    return _Gradients(
        at_tokens[0].double(), {n: g.float() for n, g in zip(weights, found, strict=True)}
    )
