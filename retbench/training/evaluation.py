"""How well a model predicts a text: nats of every token, each scored once.

A document is scored in windows (M13). With a stride shorter than the window a token is predicted
from at least ``window - stride`` tokens before it, where the document has them; with both equal the
windows stand alone, and the first tokens of each are predicted from little. A model with a state
can also carry it from window to window. Perplexity is exp(nats / tokens), bits per byte
nats / ln 2 / bytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from retbench.distributed.process_group import ALONE, Ranks
from retbench.training.step import next_token_loss

Floats = NDArray[np.float64]

Span = tuple[int, int, int]
"""First input, end of the inputs, and the first of them whose target is scored."""

BATCH_TOKENS = 16384
_LOGITS = 2**26  # numbers of one batch of logits at most: 256 MiB in float32


def token_nats(
    model: nn.Module, tokens: NDArray[Any], *, window: int, stride: int | None = None,
    ranks: Ranks = ALONE,
) -> Floats:  # fmt: skip
    """Negative log-likelihood of every token of a document but its first.

    Args:
        model: maps int64 tokens (batch, time) to logits (batch, time, vocab).
        tokens: shape (tokens,), any integer type, at least two.
        window: tokens that a prediction may look back on, at most.
        stride: tokens that a window scores, the first one excepted; the window's length where None.
        ranks: the processes that share the work; each gets the whole result.

    Returns:
        Nats, float64 of shape (tokens - 1,): entry i is of token i + 1.
    """
    return _nats_of(model, tokens, _windows(len(tokens) - 1, window, stride or window), ranks)


def last_nats(
    model: nn.Module, tokens: NDArray[Any], *, window: int, context: int, last: int
) -> Floats:
    """Nats of the last tokens of every whole window of a document: the same at any context.

    Args:
        model: maps int64 tokens (batch, time) to logits (batch, time, vocab).
        tokens: shape (tokens,).
        window: tokens of a window; what is left of the document is not scored.
        context: tokens before the last of a window that it is predicted from, the one before it
            from one less, and so on; at most ``window``.
        last: tokens that are scored in a window, at most ``context``.

    Returns:
        Nats, float64 of shape (windows, last).
    """
    ends = range(window, len(tokens), window)
    spans = [(end - context, end, end - last) for end in ends]
    nats = _nats_of(model, tokens, spans)[: len(ends) * window]
    return nats.reshape(-1, window)[:, window - last :]


@torch.no_grad()  # not inference_mode: a sharded model's buffers would be of no use in training
def _nats_of(
    model: nn.Module, tokens: NDArray[Any], spans: Iterable[Span], ranks: Ranks = ALONE
) -> Floats:
    """Nats of every token that a span scores, 0 of any other, shape (tokens - 1,)."""
    device = next(model.parameters()).device
    text = torch.from_numpy(np.asarray(tokens).astype(np.int64)).to(device)
    nats_of_text = torch.zeros(len(text) - 1, dtype=torch.float64)
    batches = list(_batches(spans))
    for turn in ranks.shard_indices(len(batches)):
        batch = batches[turn % len(batches)]
        length = batch[0][1] - batch[0][0]
        windows = torch.stack([text[start : stop + 1] for start, stop, _ in batch])
        nats = _nats(model(windows[:, :-1]), windows[:, 1:]).cpu()
        if turn >= len(batches):
            continue  # another rank scores it
        for row, (start, stop, scored) in enumerate(batch):
            nats_of_text[scored:stop] = nats[row, scored - start : length]
    return ranks.all_reduce_sum(nats_of_text).numpy()


def _windows(count: int, window: int, stride: int) -> Iterator[Span]:
    """Windows over ``count`` inputs, which predict as many targets: each is scored by one."""
    start = scored = 0
    while scored < count:
        stop = min(start + window, count)
        yield start, stop, scored
        start, scored = start + stride, stop


def _batches(spans: Iterable[Span]) -> Iterator[list[Span]]:
    """The spans in batches, each of one length and of no more than ``BATCH_TOKENS`` or one span."""
    for length, alike in itertools.groupby(spans, lambda span: span[1] - span[0]):
        whole, size = list(alike), max(1, BATCH_TOKENS // length)
        yield from (whole[start : start + size] for start in range(0, len(whole), size))


@torch.inference_mode()
def carried_nats(model: Any, tokens: NDArray[Any], *, window: int) -> Floats:
    """As :func:`token_nats`, the state carried through the whole document.

    A document longer than the model's ``max_len`` is shared equally by as few states as hold it:
    each token is scored still, those at the beginning of a share from little.

    Args:
        model: a decoder, with ``config``, ``init_state`` and ``score`` (see
            :mod:`models.decoder`).
        tokens: shape (tokens,).
        window: tokens that are taken into the state at once.
    """
    device = next(model.parameters()).device
    text = torch.from_numpy(np.asarray(tokens).astype(np.int64)).to(device)
    count = len(text) - 1
    states = -(-count // model.config.max_len)
    edges = [count * i // states for i in range(states + 1)]
    parts = []
    for first, last in itertools.pairwise(edges):
        state = model.init_state(1, last - first)
        for start in range(first, last, window):
            stop = min(start + window, last)
            logits = model.score(text[None, start:stop], state)
            parts.append(_nats(logits, text[None, start + 1 : stop + 1])[0].cpu())
    return torch.cat(parts).numpy()


def mean_loss(
    model: nn.Module, tokens: NDArray[Any], *, window: int, at_most: int, ranks: Ranks = ALONE
) -> float:
    """Nats per token over contiguous windows, as an estimate on a dev split.

    Args:
        model: maps int64 tokens (batch, time) to logits (batch, time, vocab).
        tokens: shape (tokens,).
        window: tokens of a window.
        at_most: tokens from the beginning that are scored.
        ranks: the processes that share the work; each gets the result.
    """
    return float(token_nats(model, tokens[: at_most + 1], window=window, ranks=ranks).mean())


def by_position(nats: Iterable[Floats], window: int) -> dict[int, float]:
    """Mean nats per token over the positions of a window, in buckets that double.

    Args:
        nats: nats of documents, from :func:`token_nats` with windows that stand alone.
        window: their length.

    Returns:
        By the end of a bucket, which is exclusive: 1 is of the position 0 alone, predicted from
        one token, 2 of 1, 4 of 2 and 3, and so on up to the window's length.
    """
    nats = list(nats)
    values = np.concatenate(nats)
    places = np.concatenate([np.arange(len(document)) % window for document in nats])
    edges = [0] + [2**power for power in range(window.bit_length()) if 2**power < window] + [window]
    means = {}
    for low, high in itertools.pairwise(edges):
        inside = (places >= low) & (places < high)
        if inside.any():
            means[high] = float(values[inside].mean())
    return means


def repeated_bigrams(tokens: NDArray[Any], window: int) -> NDArray[np.bool_]:
    """Where a token completes a bigram that its window has seen before: an AR hit.

    Arora et al. 2023, "Zoology", arXiv 2312.04927, section 3, who leave out bigrams that are
    frequent in training; here none is.

    Args:
        tokens: of a document, shape (tokens,).
        window: length of the windows, which stand alone.

    Returns:
        Of token i + 1 at entry i, shape (tokens - 1,).
    """
    ids = np.asarray(tokens).astype(np.int64)
    bigrams = ids[:-1] * (ids.max() + 1) + ids[1:]
    repeated = np.ones(len(bigrams), dtype=np.bool_)
    for start in range(0, len(bigrams), window):
        _, first = np.unique(bigrams[start : start + window], return_index=True)
        repeated[start + first] = False
    return repeated


def _nats(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of every position, in float32 or wider: float64 (batch, time)."""
    step = max(1, _LOGITS // logits.shape[-1])
    places = zip(logits.flatten(0, 1).split(step), targets.flatten().split(step), strict=True)
    parts = [next_token_loss(part[None], goal, "none") for part, goal in places]
    return torch.cat(parts).double().view(targets.shape)
