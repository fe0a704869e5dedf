"""Whether a model sees the future, checked before it is trained or timed."""

from __future__ import annotations

import math

import torch

from retbench.suites.base import CellFailure
from retbench.suites.session import Session

CAUSAL_TOKENS = 64
CAUSAL_TOLERANCE = 1e-5
"""How far an earlier logit may move, relative to the largest beside it, when a later token changes:
what rounding does where a kernel's tiling depends on values it masks."""

CAUSAL_ROUNDING = 0.05
"""How far in bfloat16, if in float32 it does not: a Fourier transform's last digit, in which every
token has a part, decides now and then to which of two neighbours, 0.4% apart, a number rounds, and
so in every layer."""


def check_causality(session: Session) -> float:
    """The largest change of an earlier logit, relative to its position's largest, over all forms.

    Computed in the type that the run trains in, and in float32 where rounding may be all it is.

    Raises:
        CellFailure: if a model sees the future.
    """
    with session.autocast():
        worst = _moved(session)
    if CAUSAL_TOLERANCE < worst <= CAUSAL_ROUNDING and session.config.dtype == "bfloat16":
        worst = _moved(session)
    if math.isnan(worst):
        raise CellFailure("error", "the model's logits are no numbers")
    if not worst <= CAUSAL_TOLERANCE:
        raise CellFailure(
            "error",
            f"the model sees the future: a changed token moves earlier logits by {worst:.2g}",
        )
    return worst


def _moved(session: Session) -> float:
    """The largest change of an earlier logit; NaN where one is."""
    model = session.model
    length = min(CAUSAL_TOKENS, model.config.max_len)
    generator = torch.Generator().manual_seed(session.config.seed)
    vocab = model.config.vocab_size
    tokens = torch.randint(vocab, (1, length), generator=generator).to(session.device)
    changed = tokens.clone()
    changed[:, -1] = (changed[:, -1] + 1) % vocab
    moved = []
    with torch.inference_mode():
        for form in (None, *getattr(model, "forms", ())):
            before, after = model(tokens, form=form), model(changed, form=form)
            change, size = (before - after).abs().amax(-1), before.abs().amax(-1)
            moved.append(torch.where(change == 0, 0, change / size))
    return float(torch.stack(moved)[:, :, :-1].max())
