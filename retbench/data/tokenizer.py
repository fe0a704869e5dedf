"""GPT-2's tokenizer, built without a network from the merges OpenAI published.

``tiktoken.get_encoding("gpt2")`` downloads its ranks at the first use; here they are made from
``vocab.bpe``, which is carried in the package, and are the same.

    >>> gpt2().encode("hello world")
    [31373, 995]
"""

from __future__ import annotations

from functools import cache
from itertools import chain
from pathlib import Path

import tiktoken

from retbench.data.assets import read_verified

VOCAB_BPE_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
END_OF_TEXT = "<|endoftext|>"
VOCAB_SIZE = 50257

# How GPT-2 splits text before merging, in tiktoken's form: equivalent to the published
#   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
# but without backtracking.
SPLIT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"


@cache
def gpt2() -> tiktoken.Encoding:
    """The encoding ``gpt2``: 50,257 tokens, ``<|endoftext|>`` the last of them.

    Raises:
        UserError: the embedded merges are missing or damaged.
    """
    vocab_bpe = read_verified(Path("gpt2_vocab.bpe.gz"), VOCAB_BPE_SHA256)
    singles = (bytes([byte]) for byte in _bytes_of().values())
    merges = map(merged, vocab_bpe.splitlines()[1:])  # after "#version", in the order of ranks
    ranks = {token: rank for rank, token in enumerate(chain(singles, merges))}
    return tiktoken.Encoding(
        "gpt2",
        pat_str=SPLIT,
        mergeable_ranks=ranks,
        special_tokens={END_OF_TEXT: len(ranks)},
        explicit_n_vocab=VOCAB_SIZE,
    )


def merged(pair: str) -> bytes:
    """The bytes of a token, from the two that are merged to it as GPT-2's files write them."""
    return pair.replace(" ", "").translate(_bytes_of()).encode("latin-1")


@cache
def _bytes_of() -> dict[int, int]:
    """The byte behind each code point of GPT-2's files, in the order of its ranks.

    They write a byte as a printable character: itself where it is printable Latin-1, else the next
    free code point from 256 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: byte for byte in printable} | {256 + i: byte for i, byte in enumerate(others)}
