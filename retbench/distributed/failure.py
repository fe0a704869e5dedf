"""Processes that end for a reason: one of them tells the user, and none waits for ever.

What a process raises is either its own or follows from another's end, whose connection fails. Ranks
leave notes in the store through which they met: rank 0 tells what it knows, another rank what rank
0 does not tell for a while, and of a connection that has failed somebody tells only where nobody
has told the cause; then the processes of this machine that are no more can be named.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

from retbench.distributed.launch import RankFailed
from retbench.errors import EXIT_FAILED, UserError

GRACE_S = 3.0
"""How long a rank that has failed waits for others to say the same."""

DEATH_S = 1.0
"""How long after its connections a process of this machine may take to end."""


class Failures:
    """What one of several connected processes does when it fails.

    Args:
        store: through which the ranks met.
        rank: of this process.
        processes: host and process id of every rank.
    """

    def __init__(self, store: Store, rank: int, processes: Sequence[tuple[str, int]]) -> None:
        self._store, self._rank, self._processes = store, rank, processes

    def end(self, error: BaseException) -> None:
        """Return where this process is to raise its error; raise what it is to end with instead.

        Raises:
            RankFailed: this rank tells in the place of rank 0.
            RuntimeError: a bug, with the rank it was met in.
            SystemExit: another tells.
        """
        if threading.current_thread() is threading.main_thread():
            # torchrun ends the others when one has ended; what is to be told comes first.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if is_lost(error):
            self._tell_of_the_lost(error)
        self._note(f"told/{self._rank}", str(getattr(error, "exit_status", EXIT_FAILED)))
        if not self._rank or not isinstance(error, Exception):
            return
        if not isinstance(error, UserError):
            raise RuntimeError(f"rank {self._rank}: {type(error).__name__}: {error}") from error
        if self._wait_for("told/0", GRACE_S):
            raise SystemExit(error.exit_status) from error
        message = f"rank {self._rank}: {error.message}"
        raise RankFailed(message, error.hint, error.exit_status) from error

    def _tell_of_the_lost(self, error: BaseException) -> None:
        """Raise what this rank has to say of a connection that has failed."""
        dead = self._dead()
        self._note(f"lost/{self._rank}")
        speaker = min(set(range(len(self._processes))) - set(dead))
        told = self._told()
        if told is not None or self._rank != speaker:
            raise SystemExit(EXIT_FAILED if told is None else told) from error
        named = f"rank {', '.join(map(str, dead))} has ended" if dead else what_failed(error)
        raise RankFailed(
            f"the processes cannot go on: {named}", "what was finished is kept", EXIT_FAILED
        ) from error

    def _dead(self) -> list[int]:
        """Ranks of this machine whose processes have ended without having lost another first."""
        host, _ = self._processes[self._rank]
        here = {r: pid for r, (name, pid) in enumerate(self._processes) if name == host}
        until = time.monotonic() + DEATH_S
        while time.monotonic() < until and self._told() is None:
            if found := [rank for rank, pid in here.items() if _has_ended(pid)]:
                return [rank for rank in found if not self._has(f"lost/{rank}")]
            time.sleep(0.01)
        return []

    # Notes.

    def _told(self) -> int | None:
        """The exit status of a rank that has told, or is about to; None: nobody has."""
        for key in (f"told/{rank}" for rank in range(len(self._processes))):
            if self._has(key):
                return int(self._store.get(key))
        return None

    def _note(self, key: str, value: str = "") -> None:
        with suppress(RuntimeError):  # whoever holds the store has ended
            self._store.set(key, value)

    def _wait_for(self, key: str, seconds: float) -> bool:
        """Whether a note comes in time; the store's own waiting would write to stderr."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self._has(key):
                return True
            time.sleep(0.02)
        return False

    def _has(self, key: str) -> bool:
        try:
            return bool(self._store.check([key]))
        except RuntimeError:
            return False


def is_lost(error: BaseException) -> bool:
    """Whether an error is that of a connection; gloo's have no class of their own."""
    is_gloo = isinstance(error, RuntimeError) and "gloo" in str(error)
    return is_gloo or isinstance(error, dist.DistError)


def what_failed(error: BaseException) -> str:
    """The first sentence of a connection's error, without the line of code it comes from."""
    text = str(error).splitlines()[0].rpartition("] ")[2] or str(error)
    return f"the connection to one has failed ({text.partition('. ')[0].rstrip('.')})"


def _has_ended(pid: int) -> bool:
    """Whether a process of this machine has; it is a zombie until torchrun has seen it."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return True
    return state in "ZX"
