"""Whose workers a run measures with: this process's own, or one of every process of torchrun's.

    with crew.connect("ddp") as workers:          # returns in rank 0 alone
        execute(config, out=folder, crew=workers)

Rank 0 leads: it plans, writes and prints as if it were alone. In every other rank
:func:`connect` does what rank 0 says, and then ends the process.
"""

from __future__ import annotations

import itertools
import signal
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from retbench import workers
from retbench.config.run import RunConfig
from retbench.distributed.launch import Launch, required_launch
from retbench.errors import EXIT_FAILED, UserError
from retbench.machine.interrupts import Wakes
from retbench.workers.channel import channel_to_first, channels_of_first, meet_store
from retbench.workers.groupworker import GroupWorker
from retbench.workers.process import AnyWorker, Worker


class Crew(AbstractContextManager["Crew"]):
    """A process that is alone, with workers of its own.

    Attributes:
        kind: ``ddp`` or ``fsdp``, how workers share a model; None where there is one at a time.
        size: processes.
    """

    kind: str | None = None
    size: int = 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Let the others end."""

    def worker(self, command: Sequence[str], threads: int, interrupts: Wakes) -> AnyWorker:
        """A fresh worker for one contender; of several ranks one in each.

        Raises:
            WorkerFailure: it cannot be started.
        """
        return Worker(command, workers.variables(threads), interrupts)

    def flags(self) -> str:
        """What a command that continues the run must say besides, and where; with a blank first."""
        return f" --parallel {self.kind}, in {self.size} processes of torchrun" if self.kind else ""

    def require(self, config: RunConfig) -> None:
        """Raise the user's error where a run is not of as many processes as there are."""
        if (config.parallel, config.world_size) != (self.kind or "none", self.size):
            raise UserError(
                f"parallel: the run is of {config.world_size} processes ({config.parallel}), and "
                f"there {'is one' if self.size == 1 else f'are {self.size}'}",
                "several processes are led by the command line, under torchrun",
            )


ALONE = Crew()


class Leader(Crew):
    """Rank 0 of the processes that torchrun has started, connected with the others.

    Raises:
        UserError: they cannot be reached.
    """

    def __init__(self, kind: str, launched: Launch) -> None:
        self.kind, self.size = kind, launched.size
        self._store = meet_store(launched)  # kept: the workers meet there
        self._channels = channels_of_first(launched, self._store)
        self._groups = itertools.count()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Let the others end with the same exit status."""
        status = 0 if error is None else int(getattr(error, "exit_status", EXIT_FAILED))
        if isinstance(error, SystemExit):
            status = error.code if isinstance(error.code, int) else EXIT_FAILED
        if error is not None and threading.current_thread() is threading.main_thread():
            # torchrun ends the others when one has ended; what is to be told comes first.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for channel in self._channels.values():
            channel.send({"do": "end", "status": status})
            channel.close()

    def worker(self, command: Sequence[str], threads: int, interrupts: Wakes) -> AnyWorker:
        """See :meth:`Crew.worker`."""
        meeting = f"group-{next(self._groups)}"
        return GroupWorker(self._channels, meeting, command, threads, interrupts)


def connect(kind: str | None, command: Sequence[str] = workers.WORKER_COMMAND) -> Crew:
    """Join the processes that torchrun has started; returns where this one leads, or is alone.

    Args:
        kind: one of :data:`retbench.distributed.launch.KINDS`, or None for a process that is alone.
        command: the program that measures in a rank that follows.

    Raises:
        UserError: as :func:`retbench.distributed.connect`.
        SystemExit: this rank has followed another to the end of the run.
    """
    launched = required_launch(kind)
    if kind is None or launched is None:
        return ALONE
    if launched.rank == 0:
        return Leader(kind, launched)
    from retbench.workers.follower import follow

    channel = channel_to_first(launched, meet_store(launched))
    raise SystemExit(follow(channel, launched, command))
