"""What suites and the workers that measure them agree on."""

from __future__ import annotations

from retbench.metrics import Status

PREFILL_TOKENS = 65536
"""Most tokens of one prefill call; a larger batch goes in by parts of whole sequences. Otherwise
the activations of its prefill, not its state, would decide how large a batch fits."""

SLICE_S = 0.02
"""Seconds that a slice lasts at least, where its call is shorter and may be repeated."""


class CellFailure(Exception):
    """A cell that cannot be measured, with the status of M17 that says why."""

    def __init__(self, status: Status, cause: str) -> None:
        super().__init__(cause)
        self.status = status
        self.cause = cause
