"""What torchrun tells each process that it starts, read from the environment.

No torch here, so that a mistake is reported at once.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from retbench.errors import UserError

KINDS = ("ddp", "fsdp")

_FIRST_S = 10.0
"""How long rank 0 may take to fail as another did: a process that ends lets torchrun end it."""

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_ADDRESS = ("MASTER_ADDR", "MASTER_PORT")


class RankFailed(UserError):
    """What one process of several has to tell the user in the place of rank 0."""

    def __init__(self, message: str, hint: str | None, exit_status: int) -> None:
        super().__init__(message, hint)
        self.exit_status = exit_status


@dataclass(frozen=True)
class Launch:
    """What torchrun tells a process that it starts.

    Attributes:
        rank: the number of this process among all.
        size: how many there are.
        local_rank: its number on its machine; also that of its GPU.
        local_size: how many there are on its machine.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int


def launch() -> Launch | None:
    """What torchrun has told this process; None where it was started otherwise.

    Raises:
        UserError: the environment tells only a part of it.
    """
    if "RANK" not in os.environ and "WORLD_SIZE" not in os.environ:
        return None
    if missing := [name for name in (*_VARIABLES, *_ADDRESS) if not os.environ.get(name)]:
        raise UserError(
            f"the environment has RANK or WORLD_SIZE, but no {', '.join(missing)}",
            "start the processes with torchrun, or unset them",
        )
    try:
        rank, size, local_rank, local_size = (int(os.environ[name]) for name in _VARIABLES)
    except ValueError as error:
        raise UserError(f"{', '.join(_VARIABLES)} in the environment: {error}") from None
    return Launch(rank, size, local_rank, local_size)


def refuse_launch() -> None:
    """Raise the user's error in processes that torchrun has started, of a command that starts them.

    Raises:
        UserError: torchrun has started several.
    """
    launched = launch()
    if launched and launched.size > 1:
        raise UserError(
            f"torchrun has started {launched.size} processes, and run starts its processes itself",
            f"begin the command without torchrun, with --processes {launched.size}",
        )


def leave_to_first(error: UserError) -> None:
    """End where rank 0 of torchrun's processes tells the user the same; return where it is ours.

    What is found before the processes are connected, all find alike.
    """
    if isinstance(error, RankFailed) or "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    if os.environ.get("RANK", "0") != "0":
        time.sleep(_FIRST_S)  # or until torchrun ends this process, when rank 0 has told
        raise SystemExit(error.exit_status)
