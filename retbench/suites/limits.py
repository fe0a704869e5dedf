"""What suites and the workers that measure them agree on."""

from __future__ import annotations

import os

from retbench.metrics import Status

PREFILL_TOKENS = 65536
"""Most tokens of one prefill call; a larger batch goes in by parts of whole sequences. Otherwise
the activations of its prefill, not its state, would decide how large a batch fits."""

SLICE_S = 0.02
"""Seconds that a slice lasts at least, where its call is shorter and may be repeated."""


FALLS_BACK = "TORCHDYNAMO_SUPPRESS_ERRORS"
COMPILER_OFF = ("TORCHDYNAMO_DISABLE", "TORCH_COMPILE_DISABLE")
"""Variables under which ``torch.compile`` returns what it was given."""


def require_compiler() -> None:
    """Refuse to call compiled what would run eagerly.

    Raises:
        CellFailure: a variable turns the compiler off.
    """
    for name in COMPILER_OFF:
        if os.environ.get(name) == "1":
            raise CellFailure("unsupported", f"{name}=1 turns torch.compile off")
    if os.environ.get(FALLS_BACK):
        raise CellFailure("unsupported", f"{FALLS_BACK} lets what cannot be compiled run eagerly")


class CellFailure(Exception):
    """A cell that cannot be measured, with the status of M17 that says why."""

    def __init__(self, status: Status, cause: str) -> None:
        super().__init__(cause)
        self.status = status
        self.cause = cause
