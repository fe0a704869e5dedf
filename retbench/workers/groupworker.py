"""The workers of all ranks as if they were one: asked together, and one that fails fails all.

Rank 0's worker is a child of this process; the others are children of the other ranks' processes
(see :mod:`retbench.workers.follower`), which are told what to ask them, and tell how it ended. Rank
0's samples count. Where another rank fails, the cell ends as that rank's did, and the cause names
it.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Self

from retbench import workers
from retbench.distributed.launch import RankFailed
from retbench.errors import EXIT_FAILED
from retbench.machine.interrupts import Wakes
from retbench.workers.channel import Channel, Message
from retbench.workers.process import Worker, WorkerFailure

GRACE_S = 2.0
"""How long after one rank's failure the others are waited for: whose was the first, and whether it
is common to all, shows then."""

DIED = "died"
"""The event of a rank whose worker gave no reply; with what a WorkerFailure says."""

Outcome = Message | WorkerFailure
"""What a worker has replied in the end, or why it has not."""


class GroupWorker:
    """A worker in every rank; stands where a :class:`retbench.workers.process.Worker` does.

    Args:
        channels: to the other ranks, by rank.
        meeting: a name that no other group of this launch has; the workers meet by it.
        command: the program of rank 0's worker.
        threads: that each computes on.
        interrupts: what ends a wait early.

    Raises:
        WorkerFailure: rank 0's cannot be started.
    """

    def __init__(
        self,
        channels: Mapping[int, Channel],
        meeting: str,
        command: Sequence[str],
        threads: int,
        interrupts: Wakes,
    ) -> None:
        self._channels, self._meeting = channels, meeting
        self._others = _Others(channels, interrupts)
        self._requests = 0
        self._timeout_s = self._deadline = 0.0
        self._own = Worker(command, workers.variables(threads, meeting), self._others)
        self._tell({"do": "begin", "meeting": meeting, "threads": threads})

    def ask(self, message: Message, timeout_s: float) -> Message:
        """See :meth:`retbench.workers.process.Worker.ask`."""
        self.send(message, timeout_s)
        return self.receive()

    def send(self, message: Message, timeout_s: float) -> None:
        """See :meth:`retbench.workers.process.Worker.send`; all workers are sent the message."""
        self._requests += 1
        self._timeout_s, self._deadline = timeout_s, time.monotonic() + timeout_s
        request = f"{self._meeting}.{self._requests}"
        self._others.expect(request)
        self._tell({"do": "ask", "request": request, "message": message, "timeout_s": timeout_s})
        self._own.send(message, timeout_s)

    def receive(self) -> Message:
        """See :meth:`retbench.workers.process.Worker.receive`; the phases are those of rank 0."""
        return self._heard(self._own.receive)

    def stop(self) -> None:
        """See :meth:`retbench.workers.process.Worker.stop`."""
        self._others.expect(None)
        self._tell({"do": "stop"})
        self._own.stop()

    def kill(self) -> None:
        """See :meth:`retbench.workers.process.Worker.kill`."""
        self._tell({"do": "kill"})
        self._own.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _tell(self, message: Message) -> None:
        for channel in self._channels.values():
            channel.send(message)

    def _heard(self, hear: Callable[[], Message]) -> Message:
        """Rank 0's next phase, or what all ranks have come to."""
        own: Outcome | None = None
        try:
            own = hear()
            if own["event"] == "phase":
                return own
        except WorkerFailure as failure:
            own = failure
        except _OtherFailed:
            pass
        outcomes = self._outcomes(own)
        return self._decided(outcomes)

    def _outcomes(self, own: Outcome | None) -> dict[int, Outcome]:
        """What has become of the request by rank, in time, or within a moment of a failure."""
        others = self._others
        if own is not None and _status(own) == "ok":
            others.wait(len(self._channels), self._deadline - time.monotonic())
        if own is None or _status(own) != "ok" or others.failed():
            others.wait(len(self._channels), GRACE_S, whatever=True)
            own = own or self._late()
        return ({} if own is None else {0: own}) | others.outcomes

    def _late(self) -> Outcome | None:
        """Rank 0's own outcome, after another's failure; None where it does not come soon."""
        self._others.expect(None)  # what is known of them is known
        try:
            reply = self._own.receive(GRACE_S)
            while reply["event"] == "phase":
                reply = self._own.receive(GRACE_S)
        except WorkerFailure as failure:
            return None if failure.status == "timeout" else failure
        return reply

    def _decided(self, outcomes: Mapping[int, Outcome]) -> Message:
        """The reply of all; what only some have failed in is raised, with the rank."""
        ranks = range(len(self._channels) + 1)
        failed = {rank: found for rank, found in outcomes.items() if _status(found) != "ok"}
        if not failed:
            if missing := [rank for rank in ranks if rank not in outcomes]:
                cause = f"rank {missing[0]}: not done within {self._timeout_s:g} s"
                raise WorkerFailure("timeout", cause)
            return _together(outcomes)
        first = outcomes.get(0)
        in_all = len(failed) == len(ranks)
        if in_all and isinstance(first, dict) and all(_same(first, f) for f in failed.values()):
            return first
        rank = min(failed, key=lambda rank: (_remoteness(failed[rank]), rank))
        found = _failure(failed[rank])
        raise WorkerFailure(found.status, f"rank {rank}: {found.cause}", presumed=found.presumed)


class _OtherFailed(Exception):
    """Another rank has failed in what all were asked; ends the wait for rank 0's own worker."""


class _Others:
    """What is heard of the other ranks; wakes whoever waits for rank 0's worker."""

    def __init__(self, channels: Mapping[int, Channel], interrupts: Wakes) -> None:
        self._channels, self._interrupts = channels, interrupts
        self._request: str | None = None
        self.outcomes: dict[int, Outcome] = {}

    @property
    def descriptors(self) -> tuple[int, ...]:
        """See :class:`retbench.machine.interrupts.Wakes`."""
        channels = (channel.fileno() for channel in self._channels.values())
        return (*self._interrupts.descriptors, *channels)

    def expect(self, request: str | None) -> None:
        """From now on only replies to this request count; None: none does, nor wakes anybody."""
        if request is not None:
            self.outcomes = {}
        self._request = request

    def check(self) -> None:
        """Take in what has come.

        Raises:
            _OtherFailed: another rank has failed in the request.
            RankFailed: another rank has ended.
            KeyboardInterrupt: the user asked to stop, here or there.
        """
        self._take_in()
        if self._request is not None and self.failed():
            raise _OtherFailed

    def failed(self) -> bool:
        """Whether any of the others has."""
        return any(_status(outcome) != "ok" for outcome in self.outcomes.values())

    def wait(self, count: int, seconds: float, *, whatever: bool = False) -> None:
        """Wait for so many outcomes, or until one is a failure, or ``whatever`` it is."""
        poll = select.poll()
        for descriptor in self.descriptors:
            poll.register(descriptor, select.POLLIN)
        until = time.monotonic() + seconds
        while len(self.outcomes) < count and (whatever or not self.failed()):
            left_s = until - time.monotonic()
            if left_s <= 0:
                return
            poll.poll(left_s * 1000)
            self._take_in()

    def _take_in(self) -> None:
        self._interrupts.check()
        for rank, channel in self._channels.items():
            try:
                messages = channel.received()
            except EOFError:
                raise RankFailed(
                    f"the processes cannot go on: rank {rank} has ended",
                    "what was finished is kept", EXIT_FAILED,
                ) from None  # fmt: skip
            for message in messages:
                if message.get("interrupted"):
                    raise KeyboardInterrupt
                if self._request is not None and message["request"] == self._request:
                    self.outcomes[rank] = _decoded(message["reply"])


def _decoded(reply: Message) -> Outcome:
    if reply["event"] != DIED:
        return reply
    return WorkerFailure(reply["status"], reply["cause"], presumed=reply["presumed"])


def _status(outcome: Outcome) -> str:
    """How it ended; a reply without a status is what was asked for."""
    if isinstance(outcome, WorkerFailure):
        return outcome.status
    return str(outcome.get("status") or "ok")


def _same(one: Message, other: Outcome) -> bool:
    """Whether two ranks have replied alike, so that neither need be named."""
    return isinstance(other, dict) and all(
        one.get(key) == other.get(key) for key in ("event", "status")
    )


def _failure(outcome: Outcome) -> WorkerFailure:
    if isinstance(outcome, WorkerFailure):
        return outcome
    return WorkerFailure(outcome["status"], str(outcome.get("cause")))


def _remoteness(outcome: Outcome) -> int:
    """How far a failure may be from the cause: some follow from that of another rank."""
    if isinstance(outcome, dict) and outcome.get("lost"):
        return 2
    return 1 if _status(outcome) == "timeout" else 0


def _together(outcomes: Mapping[int, Outcome]) -> Message:
    """Rank 0's reply, with what disturbed any of the ranks."""
    replies = [outcome for outcome in outcomes.values() if isinstance(outcome, dict)]
    first = replies[0]
    if "flags" not in first:
        return first
    flags = {str(flag) for reply in replies for flag in reply.get("flags") or ()}
    return first | {"flags": sorted(flags)}
