"""One worker process: started in a session of its own, talked to in JSON lines, ended as a group.

Messages and replies go over a socket, which is the worker's stdin, so that whatever a library
prints cannot be mistaken for a reply. stdout and stderr go to an unnamed temporary file, whose last
line becomes the cause when the worker dies. While the worker measures, the parent sleeps in
``poll``: no thread, nothing that could disturb a slice of time. The worker may be an agent for
several (:mod:`retbench.workers.agent`), which inherit the socket; the first of them uses it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

from retbench.machine.interrupts import Interrupts
from retbench.machine.memory import oom_kills, says_out_of_memory
from retbench.machine.provenance import anonymous
from retbench.metrics import STATUSES, Status
from retbench.store import documents

PARENT = "RETBENCH_PARENT"

Message = dict[str, Any]

DIED = "died"
"""The event in which an agent tells why a worker has died; what it has, `WorkerFailure` has."""

_EXIT_GRACE_S = 5.0
_LONGEST_POLL_S = 10.0  # after which the parent looks whether it was stopped
_OVERSLEPT_S = 1.0  # more than a busy machine delays it
_PR_SET_PDEATHSIG = 1
_LOG_TAIL_BYTES = 1 << 16
_LONGEST_REPLY_BYTES = 1 << 26
# How a line begins that says why a process ends: Python's of an exception, perhaps behind its rank,
# the C++ library's, the loader's, or that of OpenMP's runtime or of OpenBLAS.
_LAST_WORDS = re.compile(
    r"(\[rank\d+\]: ?)?[\w.]*Error\b|terminate called|what\(\):|.*: error while loading|libgomp:|"
    r"OpenBLAS( error)?:"
)
# What faulthandler adds at a signal: where it was, not why.
_WHERE = re.compile(r"^Fatal Python error: [\w -]+$.*\Z", re.M | re.S)
_LATE_REPLIES = 100  # far more than a cell has phases to tell of


class WorkerFailure(Exception):
    """The worker has died, said nothing in time, or said something that makes no sense.

    Attributes:
        status: how the cell it worked on ends.
        cause: why, in one line.
        presumed: whether the status is only the likeliest explanation.
    """

    def __init__(self, status: Status, cause: str, *, presumed: bool = False) -> None:
        super().__init__(cause)
        self.status: Status = status
        self.cause = cause
        self.presumed = presumed


class RankFailure(WorkerFailure):
    """One process of several has died, as their agent tells."""


class Worker(contextlib.AbstractContextManager["Worker"]):
    """A running worker process; a context manager that leaves no process behind.

    Args:
        command: the program and its arguments.
        environment: its environment variables; its parent's process id is added.
        interrupts: what ends a wait early.

    Attributes:
        stopped_s: seconds of the waits since the last message in which all was stopped.

    Raises:
        WorkerFailure: the process cannot be started.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], interrupts: Interrupts
    ) -> None:
        self._interrupts = interrupts
        self._buffer = bytearray()
        self._late = 0
        self._timeout_s = 0.0
        self._deadline = math.inf
        self.stopped_s = 0.0
        self._oom_kills = oom_kills()
        with contextlib.ExitStack() as opened:
            try:
                self._log = opened.enter_context(tempfile.TemporaryFile())
                self._socket, theirs = map(opened.enter_context, socket.socketpair())
                self._process = subprocess.Popen(
                    list(command),
                    stdin=theirs.fileno(),
                    stdout=self._log,
                    stderr=self._log,
                    env={**environment, PARENT: str(os.getpid())},
                    start_new_session=True,
                )
            except OSError as error:
                cause = f"no worker can be started: {error.strerror}"
                raise WorkerFailure("error", cause) from error
            opened.pop_all()  # closed with the worker
        theirs.close()

    def ask(self, message: Message, timeout_s: float) -> Message:
        """Send a message and wait for the first reply; :meth:`receive` gets further ones.

        Args:
            message: anything JSON can hold.
            timeout_s: how long the worker may take over all its replies.

        Returns:
            The reply; it has a key ``event``.

        Raises:
            WorkerFailure: there is none to be had.
            KeyboardInterrupt: the user asked to stop.
        """
        self.send(message, timeout_s)
        return self.receive()

    def send(self, message: Message, timeout_s: float) -> None:
        """Send a message; :meth:`receive` gets its replies, for ``timeout_s`` from now on."""
        self._timeout_s, self._late, self.stopped_s = timeout_s, 0, 0.0
        self._deadline = time.monotonic() + timeout_s
        # A worker that is gone is noticed when its reply is read, and its cause found there.
        with contextlib.suppress(ConnectionError):
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> Message:
        """Wait for the next reply; see :meth:`ask`."""
        # What had come in time is read, however late; who goes on talking is not heard for ever.
        self._interrupts.check()
        self._late += time.monotonic() >= self._deadline
        if self._late > _LATE_REPLIES:
            raise self._lateness()
        end = self._buffer.find(b"\n")
        while end < 0:
            self._wait()
            chunk = b""
            with contextlib.suppress(ConnectionError):  # it ended without reading all
                chunk = self._socket.recv(1 << 16)
            if not chunk:
                raise self._death()
            known = len(self._buffer)
            self._buffer += chunk
            if len(self._buffer) > _LONGEST_REPLY_BYTES:
                raise WorkerFailure("error", "the worker's reply does not end")
            end = self._buffer.find(b"\n", known)
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return _decode(line)

    def _wait(self) -> None:
        """Sleep until there is something to read from the worker."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._interrupts.descriptor, select.POLLIN)
        while True:
            begun = time.monotonic()
            left_s = min(max(self._deadline - begun, 0.0), _LONGEST_POLL_S)
            ready = dict(poll.poll(math.ceil(left_s * 1000)))
            overslept_s = time.monotonic() - begun - left_s
            if overslept_s > _OVERSLEPT_S:  # stopped, suspended or frozen, and the worker with it
                self._deadline += overslept_s
                self.stopped_s += overslept_s
            if self._socket.fileno() in ready:
                return
            self._interrupts.check()
            if time.monotonic() >= self._deadline:
                raise self._lateness()

    def _lateness(self) -> WorkerFailure:
        return WorkerFailure("timeout", f"not done within {self._timeout_s:g} s")

    def _death(self) -> WorkerFailure:
        try:
            code = self._process.wait(_EXIT_GRACE_S)
        except subprocess.TimeoutExpired:
            return WorkerFailure("error", "the worker closed its replies and went on running")
        return failure_of(code, self._log, self._oom_kills)

    def stop(self) -> None:
        """Ask the worker to end, give it a moment, and make sure that it has.

        Raises:
            KeyboardInterrupt: the user asked to stop.
        """
        try:
            self.ask({"do": "stop"}, _EXIT_GRACE_S)
            while True:
                self.receive()
        except WorkerFailure:
            pass  # the end of its replies, or of our patience
        finally:
            self.kill()

    def kill(self) -> None:
        """End the worker and all its children at once, and reap it. Harmless when repeated."""
        if self._log.closed:
            return
        self._signal(signal.SIGTERM)  # upon which an agent ends those of other sessions
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_EXIT_GRACE_S)
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._socket.close()
        self._log.close()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def __exit__(self, *_: object) -> None:
        self.kill()


def failure_of(code: int, log: BinaryIO, kills_before: int | None) -> WorkerFailure:
    """Why a process has died.

    Args:
        code: its exit status, or minus its signal.
        log: what it wrote; the last line may say why.
        kills_before: what :func:`retbench.machine.memory.oom_kills` said before it was started.
    """
    last = _last_line(log, code)
    if code == -signal.SIGKILL:
        kills = oom_kills()
        if kills is None or kills_before is None:
            cause = "killed by signal 9; whether for want of memory, this system does not say"
        elif kills == kills_before:
            cause = "killed by signal 9, not by the kernel for want of memory"
        else:
            cause = "killed by signal 9, most likely by the kernel for want of memory"
            return WorkerFailure("oom", cause, presumed=True)
        return WorkerFailure("error", cause)
    raised = (code >= 0 or code == -signal.SIGABRT) and _LAST_WORDS.match(last)
    status: Status = "oom" if raised and says_out_of_memory(last) else "error"
    how = f"exit status {code}" if code >= 0 else f"killed by signal {-code}"
    return WorkerFailure(status, f"{how}: {last}" if last else how)


def _last_line(log: BinaryIO, code: int) -> str:
    size = os.fstat(log.fileno()).st_size
    tail = os.pread(log.fileno(), _LOG_TAIL_BYTES, max(size - _LOG_TAIL_BYTES, 0))
    told = tail.decode(errors="replace")
    lines = [line.strip() for line in (_WHERE.sub("", told) if code < 0 else told).splitlines()]
    return anonymous(next((line for line in reversed(lines) if line), ""))[:300]


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends; Linux alone can.

    A parent that ended before the kernel was asked would leave us to work for nobody.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.environ.get(PARENT, str(os.getppid())) != str(os.getppid()):
        sys.exit()


def _decode(line: bytes) -> Message:
    try:
        reply = documents.parse(line)
        if not isinstance(reply, dict) or not isinstance(reply.get("event"), str):
            raise ValueError("it names no event")
        if reply["event"] == DIED and reply.get("status") not in STATUSES:
            raise ValueError("it names no status")
    except ValueError as problem:
        cause = f"the worker's reply makes no sense: {problem}"
        raise WorkerFailure("error", cause) from None
    if reply["event"] == DIED:
        presumed = reply.get("presumed") is True
        raise RankFailure(reply["status"], str(reply.get("cause")), presumed=presumed)
    return reply
