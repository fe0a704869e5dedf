"""Several processes of one command: how they are connected, and what they tell each other.

with distributed.connect("ddp") as ranks:     # started by torchrun
wrapped = ranks.wrap(model)
seconds = ranks.all_reduce_max(time_of(wrapped))
"""

from __future__ import annotations

from retbench.distributed.launch import KINDS, launch
from retbench.distributed.process_group import ALONE, Ranks
from retbench.errors import UserError

__all__ = ["TIMEOUT_S", "connect"]

TIMEOUT_S = 1800.0
"""How long a process waits for the others at most: rank 0 may have a large checkpoint to write."""


def connect(kind: str | None, timeout_s: float = TIMEOUT_S) -> Ranks:
    """Join the processes that torchrun has started; a context manager.

    Args:
        kind: one of ``KINDS``, or None for a process that is alone.
        timeout_s: how long to wait for another process before this one gives up.

    Raises:
        UserError: an unknown kind, processes without a kind, a kind without processes, or others
            that cannot be reached.
    """
    launched = launch()
    if kind is None:
        if launched and launched.size > 1:
            raise UserError(
                f"torchrun has started {launched.size} processes, which would all do the same",
                "say how they share the work, --parallel ddp or --parallel fsdp",
            )
        return ALONE
    if kind not in KINDS:
        raise UserError(f"parallel: unknown kind {kind!r}", f"there are {' and '.join(KINDS)}")
    if launched is None:
        raise UserError(
            f"--parallel {kind} is for the processes that torchrun starts, and it has started none",
            f"begin the command with: torchrun --nproc-per-node N -m retbench, and --parallel "
            f"{kind} behind the subcommand",
        )
    from retbench.distributed.torch_group import GROUPS

    return GROUPS[kind](launched, timeout_s)
