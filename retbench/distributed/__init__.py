"""Several processes of one command: how they are connected, and what they tell each other.

with distributed.connect("ddp") as ranks:     # started by torchrun
wrapped = ranks.wrap(model)
seconds = ranks.all_reduce_max(time_of(wrapped))
"""

from __future__ import annotations

from retbench.distributed.launch import required_launch
from retbench.distributed.process_group import ALONE, Ranks

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
    launched = required_launch(kind)
    if kind is None or launched is None:
        return ALONE
    from retbench.distributed.torch_group import GROUPS

    return GROUPS[kind](launched, timeout_s)
