"""What ``retbench run`` does in every rank but 0: it keeps a worker, and does what rank 0 says.

It knows no configuration and writes nothing. It ends when rank 0 says so, or has ended.
"""

from __future__ import annotations

import select
from collections.abc import Sequence

from retbench import workers
from retbench.distributed.launch import Launch, RankFailed
from retbench.errors import EXIT_FAILED
from retbench.machine.interrupts import Interrupts
from retbench.workers.channel import Channel, Message
from retbench.workers.groupworker import DIED
from retbench.workers.process import Worker, WorkerFailure


def follow(
    channel: Channel, launched: Launch, command: Sequence[str] = workers.WORKER_COMMAND
) -> int:
    """Serve until rank 0 has done; returns the exit status that it ends with.

    Args:
        channel: to rank 0.
        launched: who this process is.
        command: the program that measures.

    Raises:
        RankFailed: rank 0 has ended without a word, and this is the rank that says so.
    """
    with Interrupts() as interrupts:
        follower = _Follower(channel, interrupts, command)
        try:
            while (message := follower.awaited())["do"] != "end":
                follower.obey(message)
            return int(message["status"])
        except EOFError:
            if launched.rank > 1:
                return EXIT_FAILED
            raise RankFailed(
                "the processes cannot go on: rank 0 has ended", "what was finished is kept",
                EXIT_FAILED,
            ) from None  # fmt: skip
        finally:
            follower.discard_worker()


class _Called(Exception):
    """Rank 0 wants something else than what the worker is waited for with."""


class _Follower:
    """One rank's part in the run; as the worker's interrupts it lets rank 0 end a wait."""

    def __init__(self, channel: Channel, interrupts: Interrupts, command: Sequence[str]) -> None:
        self._channel, self._interrupts, self._command = channel, interrupts, command
        self._worker: Worker | None = None
        self._start_failure: WorkerFailure | None = None
        self._pending: list[Message] = []
        self._told_of_interrupt = False

    @property
    def descriptors(self) -> tuple[int, ...]:
        """See :class:`retbench.machine.interrupts.Wakes`."""
        return (*self._interrupts.descriptors, self._channel.fileno())

    def check(self) -> None:
        """Take in what rank 0 says.

        Raises:
            _Called: it has said something.
            EOFError: it has ended.
        """
        try:
            self._interrupts.check()
        except KeyboardInterrupt:  # rank 0 decides what it means
            if not self._told_of_interrupt:
                self._channel.send({"interrupted": True})
            self._told_of_interrupt = True
        if not self._pending:
            self._pending = self._channel.received()
        if self._pending:
            raise _Called

    def awaited(self) -> Message:
        """Wait for what rank 0 says next."""
        poll = select.poll()
        for descriptor in self.descriptors:
            poll.register(descriptor, select.POLLIN)
        try:
            while True:
                self.check()
                poll.poll()
        except _Called:
            return self._pending.pop(0)

    def obey(self, message: Message) -> None:
        """Do what rank 0 has said, as far as it has not said more meanwhile."""
        if message["do"] == "begin":
            self._begin(message)
        elif message["do"] == "ask":
            self._ask(message)
        elif message["do"] == "stop" and self._worker is not None:
            self._stop()
        else:
            self.discard_worker()

    def discard_worker(self) -> None:
        """End the worker at once."""
        if self._worker is not None:
            self._worker.kill()
            self._worker = None

    def _begin(self, message: Message) -> None:
        self.discard_worker()
        self._start_failure = None
        variables = workers.variables(message["threads"], message["meeting"])
        try:
            self._worker = Worker(self._command, variables, self)
        except WorkerFailure as failure:
            self._start_failure = failure

    def _ask(self, message: Message) -> None:
        try:
            reply = self._reply(message["message"], message["timeout_s"])
        except _Called:
            return  # nobody waits for it any more
        except WorkerFailure as failure:
            reply = {
                "event": DIED, "status": failure.status, "cause": failure.cause,
                "presumed": failure.presumed,
            }  # fmt: skip
        reply.pop("rows", None)  # rank 0's count
        self._channel.send({"request": message["request"], "reply": reply})

    def _reply(self, message: Message, timeout_s: float) -> Message:
        if self._worker is None:
            raise self._start_failure or WorkerFailure("error", "there is no worker")
        reply = self._worker.ask(message, timeout_s)
        while reply["event"] == "phase":
            reply = self._worker.receive()
        return reply

    def _stop(self) -> None:
        assert self._worker is not None
        try:
            self._worker.stop()
        except _Called:
            pass  # it has been ended, if not by itself
        finally:
            self._worker = None
