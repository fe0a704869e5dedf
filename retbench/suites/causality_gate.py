"""Whether a model sees the future, checked before it is trained or timed."""

from __future__ import annotations

import math

import torch

from retbench.suites.limits import CellFailure
from retbench.suites.session import Session

CAUSAL_TOKENS = 64
CAUSAL_TOLERANCE = 1e-5
"""How far an earlier logit may move, relative to the largest beside it, when a later token changes:
what rounding does where a kernel's tiling depends on values it masks."""


def check_causality(session: Session) -> float:
    """The largest change of an earlier logit, relative to its position's largest, over all forms.

    Computed in the type that the run trains in.

    Raises:
        CellFailure: if a model sees the future.
    """
    model = session.model
    length = min(CAUSAL_TOKENS, model.config.max_len)
    generator = torch.Generator().manual_seed(session.config.seed)
    vocab = model.config.vocab_size
    tokens = torch.randint(vocab, (1, length), generator=generator).to(session.device)
    changed = tokens.clone()
    changed[:, -1] = (changed[:, -1] + 1) % vocab
    moved = []
    with torch.inference_mode(), session.autocast():
        for form in (None, *getattr(model, "forms", ())):
            before, after = model(tokens, form=form), model(changed, form=form)
            change, size = (before - after).abs().amax(-1), before.abs().amax(-1)
            moved.append(torch.where(change == 0, 0, change / size))
    worst = float(torch.stack(moved)[:, :, :-1].max())  # NaN where one is
    if math.isnan(worst):
        raise CellFailure("error", "the model's logits are no numbers")
    if not worst <= CAUSAL_TOLERANCE:
        raise CellFailure(
            "error",
            f"the model sees the future: a changed token moves earlier logits by {worst:.2g}",
        )
    return worst
