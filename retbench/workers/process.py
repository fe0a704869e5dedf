"""One worker process: started in a session of its own, talked to in JSON lines, killed as a group.

Messages go to the worker's stdin; its replies come through a pipe of their own, so that whatever
a library prints cannot be mistaken for one. stdout and stderr go to an unnamed temporary file,
whose last line becomes the cause when the worker dies. While the worker measures, the parent sleeps
in one ``poll``: no thread, no timer, nothing that could disturb the clock.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, Self

from retbench.machine.interrupts import Wakes
from retbench.machine.provenance import anonymous
from retbench.metrics import Status

REPLY_FD = "RETBENCH_REPLY_FD"
PARENT = "RETBENCH_PARENT"

Message = dict[str, Any]

_EXIT_GRACE_S = 5.0
_LOG_TAIL_BYTES = 8192
_OUT_OF_MEMORY = ("MemoryError", "bad_alloc", "out of memory", "allocate memory")


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


class AnyWorker(AbstractContextManager["AnyWorker"], Protocol):
    """What measures, of one process or of several: see :class:`Worker`."""

    def send(self, message: Message, timeout_s: float) -> None:
        """Send a message, whose replies :meth:`receive` gets."""

    def ask(self, message: Message, timeout_s: float) -> Message:
        """Send a message and wait for the first reply."""

    def receive(self) -> Message:
        """Wait for the next reply."""

    def stop(self) -> None:
        """Let it end by itself, or soon."""

    def kill(self) -> None:
        """End it at once."""


class Worker:
    """A running worker process; a context manager that leaves no process behind.

    Args:
        command: the program and its arguments.
        environment: its environment variables; the descriptor for replies is added.
        interrupts: what ends a wait early.

    Raises:
        WorkerFailure: the process cannot be started.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], interrupts: Wakes
    ) -> None:
        self._interrupts = interrupts
        self._buffer = b""
        self._timeout_s = 0.0
        self._deadline = 0.0
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the worker)
        self._replies, theirs = os.pipe()
        try:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=self._log,
                stderr=self._log,
                env={**environment, REPLY_FD: str(theirs), PARENT: str(os.getpid())},
                pass_fds=(theirs,),
                start_new_session=True,
            )
        except OSError as error:
            os.close(self._replies)
            self._log.close()
            raise WorkerFailure("error", f"no worker can be started: {error.strerror}") from error
        finally:
            os.close(theirs)

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
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        assert self._process.stdin is not None
        # A worker that is gone is noticed when its reply is read, and its cause found there.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def receive(self, within_s: float = math.inf) -> Message:
        """Wait for the next reply; see :meth:`ask`, whose time ends ``within_s`` at the latest."""
        self._deadline = min(self._deadline, time.monotonic() + within_s)
        while b"\n" not in self._buffer:
            self._wait()
            chunk = os.read(self._replies, 1 << 16)
            if not chunk:
                raise self._death()
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return _decode(line)

    def _wait(self) -> None:
        """Sleep until there is something to read from the worker."""
        poll = select.poll()
        poll.register(self._replies, select.POLLIN)
        for descriptor in self._interrupts.descriptors:
            poll.register(descriptor, select.POLLIN)
        while True:
            left_s = self._deadline - time.monotonic()
            ready = dict(poll.poll(math.ceil(max(left_s, 0.0) * 1000)))
            if self._replies in ready:
                return
            self._interrupts.check()
            if time.monotonic() >= self._deadline:
                raise WorkerFailure("timeout", f"not done within {self._timeout_s:g} s")

    def _death(self) -> WorkerFailure:
        try:
            code = self._process.wait(_EXIT_GRACE_S)
        except subprocess.TimeoutExpired:
            return WorkerFailure("error", "the worker closed its replies and went on running")
        last = self._last_line()
        if code == -signal.SIGKILL:
            cause = "killed by signal 9, most likely by the kernel for want of memory"
            return WorkerFailure("oom", cause, presumed=True)
        status: Status = "oom" if any(mark in last for mark in _OUT_OF_MEMORY) else "error"
        how = f"exit status {code}" if code >= 0 else f"killed by signal {-code}"
        return WorkerFailure(status, f"{how}: {last}" if last else how)

    def _last_line(self) -> str:
        size = os.fstat(self._log.fileno()).st_size
        tail = os.pread(self._log.fileno(), _LOG_TAIL_BYTES, max(size - _LOG_TAIL_BYTES, 0))
        lines = [line.strip() for line in tail.decode(errors="replace").splitlines()]
        return anonymous(next((line for line in reversed(lines) if line), ""))[:300]

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
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._close_stdin()
        os.close(self._replies)
        self._log.close()

    def _close_stdin(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def _decode(line: bytes) -> Message:
    try:
        reply = json.loads(line, parse_constant=_refuse)
        if not isinstance(reply, dict) or not isinstance(reply.get("event"), str):
            raise ValueError("it names no event")
    except ValueError as problem:
        cause = f"the worker's reply makes no sense: {problem}"
        raise WorkerFailure("error", cause) from None
    return reply


def _refuse(constant: str) -> None:
    raise ValueError(f"it holds {constant}, which is no number of JSON")
