"""Batches as pure functions of a step, and a thread that keeps them ahead of the model.

The batch of a step depends on the seed and the step alone: a training that is continued needs no
other position in the data, and every model of a comparison sees the same batches in the same order,
which :meth:`RandomWindows.digest` puts into one number.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from retbench.distributed.process_group import ALONE, Ranks
from retbench.errors import UserError

if TYPE_CHECKING:
    import torch

Ints = NDArray[np.int64]

IGNORED = -100
"""A target that is not scored."""

AHEAD = 4
"""Batches that are made before they are asked for."""


class BatchSource(Protocol):
    """Where a training takes its batches from."""

    def batch(self, step: int) -> tuple[Ints, Ints]:
        """Inputs and targets of a step, int64 (batch, time); ``IGNORED`` ones are not scored."""


class RandomWindows:
    """Windows of a text at random places; the targets are the inputs' next tokens.

    Args:
        tokens: shape (tokens,), any unsigned type; may be memory-mapped.
        batch_size: windows of a batch.
        seq_len: tokens of a window.
        seed: with the step it decides on the places, through a counter-based generator (Philox,
            Salmon et al. 2011): no state, no order of calls.

    Raises:
        UserError: the text is shorter than one window and its last target.
    """

    def __init__(self, tokens: NDArray[Any], *, batch_size: int, seq_len: int, seed: int) -> None:
        if len(tokens) < seq_len + 1:
            raise UserError(
                f"the training text has {len(tokens):,} tokens, less than one window of "
                f"{seq_len + 1:,}",
                "shorten the context or give more text",
            )
        self._tokens = tokens
        self._batch_size, self._seq_len, self._seed = batch_size, seq_len, seed

    def starts(self, step: int) -> Ints:
        """Where the windows of a step begin: shape (batch,)."""
        generator = np.random.Generator(np.random.Philox(key=self._seed, counter=[0, 0, 0, step]))
        return generator.integers(len(self._tokens) - self._seq_len, size=self._batch_size)

    def batch(self, step: int) -> tuple[Ints, Ints]:
        """See :class:`BatchSource`; both of shape (batch, seq_len)."""
        places = self.starts(step)[:, None] + np.arange(self._seq_len + 1)
        windows = self._tokens[places].astype(np.int64)
        return windows[:, :-1], windows[:, 1:]

    def digest(self, steps: int) -> int:
        """A fingerprint of the first ``steps`` batches: of the text and of their places in it."""
        places = (self.starts(step).tobytes() for step in range(steps))
        return fingerprint((np.ascontiguousarray(self._tokens).data, *places))


def fingerprint(parts: Iterable[bytes | memoryview]) -> int:
    """48 bits of the SHA-256 of some bytes."""
    sha256 = hashlib.sha256()
    for part in parts:
        sha256.update(part)
    return int.from_bytes(sha256.digest()[:6], "big")


def prefetch(
    source: BatchSource, steps: range, device: torch.device | str, ranks: Ranks = ALONE
) -> Generator[tuple[torch.Tensor, torch.Tensor], None, None]:
    """The batches of some steps as tensors on a device, made by a thread while others are used.

    Args:
        source: its ``batch`` is called from the thread.
        steps: the steps whose batches are made, in order.
        device: where the tensors go; to a GPU through pinned memory, without waiting.
        ranks: the processes that share every batch; this one gets its rows alone.

    Yields:
        Inputs and targets, int64. What the source raises is raised here; closing the iterator ends
        the thread.
    """
    import torch

    is_gpu = torch.device(device).type == "cuda"

    def made(step: int) -> list[torch.Tensor]:
        pair = [torch.from_numpy(array[ranks.rows(len(array))]) for array in source.batch(step)]
        return [tensor.pin_memory() for tensor in pair] if is_gpu else pair

    thread = ThreadPoolExecutor(1, "batches")
    following = iter(steps)
    ahead = deque(thread.submit(made, step) for step in islice(following, AHEAD))
    try:
        while ahead:
            pair = ahead.popleft().result()
            ahead.extend(thread.submit(made, step) for step in islice(following, 1))
            inputs, targets = (tensor.to(device, non_blocking=True) for tensor in pair)
            yield inputs, targets
    finally:
        thread.shutdown(cancel_futures=True)
