"""Text from a model, through the same ``prefill`` and ``step`` that are timed."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from models.protocol import LanguageModel


def sample(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Choose the next token of each sequence.

    Args:
        logits: (batch, vocab), of any float type.
        temperature: divides the logits; 0 chooses greedily, infinity evenly.
        top_k: keep only that many of the likeliest tokens.
        top_p: keep the smallest set of likeliest tokens whose probabilities reach this sum
            (nucleus sampling, Holtzman et al. 2020, arXiv 1904.09751).
        generator: source of randomness, on the device of ``logits``.

    Returns:
        int64 of shape (batch,).

    Raises:
        ValueError: for a temperature that is negative or NaN, a ``top_k`` under 1, a ``top_p``
            outside (0, 1], or where a sequence's largest logit is infinite or NaN.
    """
    if not bool(logits.amax(-1).isfinite().all()):
        raise ValueError("the largest logit is no finite number")
    if not temperature >= 0:  # nor is NaN
        raise ValueError(f"temperature must not be negative: {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1: {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1]: {top_p}")
    if temperature == 0:
        return logits.argmax(-1)
    # The likeliest first: the order is the logits' own, which a temperature may make equal.
    ordered, order = logits.float().sort(dim=-1, descending=True, stable=True)
    kept = min(top_k or order.shape[-1], order.shape[-1])
    # Less than the first, no quotient overflows; an impossible token stays so at any temperature.
    below = ordered[..., :kept].double() - ordered[..., :1].double()
    scaled = torch.where(below.isneginf(), below, below / temperature).float()
    if top_p is not None and top_p < 1:  # all: a sum of float32 may reach 1 sooner
        probabilities = scaled.softmax(-1)
        # A token stays if those before it do not reach top_p yet, and the first always.
        dropped = probabilities.cumsum(-1) - probabilities >= top_p
        dropped[..., 0] = False
        scaled = scaled.masked_fill(dropped, float("-inf"))
    chosen = torch.full_like(ordered, float("-inf")).scatter(-1, order[..., :kept], scaled)
    return torch.multinomial(chosen.softmax(-1), 1, generator=generator).squeeze(-1)


@torch.inference_mode()
def generate(
    model: LanguageModel,
    prompt: Tensor,
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
) -> Iterator[Tensor]:
    """Continue a batch of prompts, one token at a time.

    Args:
        model: any language model.
        prompt: int64, (batch, time), at least one token, on the model's device.
        max_new_tokens: exactly so many tokens are made.
        temperature: divides the logits, see :func:`sample`.
        top_k: how many of the likeliest tokens are kept, see :func:`sample`.
        top_p: the sum of probabilities that is kept, see :func:`sample`.
        seed: the same seed gives the same text.

    Yields:
        The new tokens of each sequence, int64 of shape (batch,).

    Raises:
        ValueError: if the prompt is empty, or prompt and new tokens exceed the model's context.
    """
    batch_size, length = prompt.shape
    if length == 0:
        raise ValueError("the prompt is empty")
    state = model.init_state(batch_size, length + max_new_tokens, device=prompt.device)
    generator = torch.Generator(device=prompt.device).manual_seed(seed)
    logits = model.prefill(prompt, state)
    for made in range(1, max_new_tokens + 1):
        token = sample(
            logits, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator
        )
        yield token
        if made < max_new_tokens:
            logits = model.step(token, state)
