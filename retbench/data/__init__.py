"""Prompts of real text for the suites, the same on every machine; no torch, no network.

    >>> prompt_tokens(batch_size=2, seq_len=512, seed=0).shape
    (2, 512)

Reading, building the tokenizer and encoding the corpus take about 0.15 s, once in a process; make
the prompts before a baseline of memory is taken.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from retbench.data.corpus import shakespeare
from retbench.data.tokenizer import gpt2

__all__ = ["corpus_tokens", "gpt2", "prompt_tokens", "shakespeare"]


@cache
def corpus_tokens() -> npt.NDArray[np.int64]:
    """The embedded corpus as GPT-2 tokens: int64 of shape (361613,), read-only.

    Raises:
        UserError: an embedded file is missing or damaged.
    """
    tokens = np.array(gpt2().encode_ordinary(shakespeare()), dtype=np.int64)
    tokens.flags.writeable = False
    return tokens


def prompt_tokens(batch_size: int, seq_len: int, seed: int) -> npt.NDArray[np.int64]:
    """Windows of the embedded corpus, one a sequence, determined by the arguments alone.

    The windows start at even distances from a random place, so they overlap only where the batch
    holds more tokens than the corpus; the text begins anew at its end. With the same batch size
    and seed, a longer prompt continues the shorter one.

    Args:
        batch_size: sequences, at most the tokens of the corpus.
        seq_len: tokens of each sequence.
        seed: chooses the place.

    Returns:
        int64 GPT-2 tokens of shape (batch_size, seq_len), rows all different windows.

    Raises:
        ValueError: a size is out of its range.
        UserError: an embedded file is missing or damaged.
    """
    tokens = corpus_tokens()
    if not 1 <= batch_size <= tokens.size or seq_len < 1:
        raise ValueError(f"no prompts of {batch_size} sequences of {seq_len} tokens")
    first = np.random.default_rng(seed).integers(tokens.size)
    starts = first + np.arange(batch_size) * tokens.size // batch_size
    window = starts[:, None] + np.arange(seq_len)
    return tokens.take(window, mode="wrap")
