"""Workers in threads of the test's own process, which has imported torch already.

For tests of what a run measures, keeps and says: a process spends three seconds of the processor on
its imports, which most runs in tests would spend again and again. Tests of how a worker starts, is
watched, fails and ends have real ones, and so have runs in turns: what several models set for a
whole process, such as which attention may run, they would set for each other.
"""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import pytest

from retbench.distributed.process_group import ALONE
from retbench.machine.interrupts import Interrupts
from retbench.workers import worker as worker_process
from retbench.workers.process import Worker, WorkerFailure

_ENDS_WITHIN_S = 60.0


class WorkerHere(Worker):
    """Answers as a worker process does; to kill it is to wait for the end of its last answer."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], interrupts: Interrupts
    ) -> None:
        self._interrupts = interrupts
        self._buffer, self._late = bytearray(), 0
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the worker)
        self._socket, theirs = socket.socketpair()
        self._thread = threading.Thread(target=_answer, args=(theirs,), daemon=True)
        self._thread.start()

    def _death(self) -> WorkerFailure:
        return WorkerFailure("error", "the thread has ended")

    def kill(self) -> None:
        self._socket.close()
        self._thread.join(_ENDS_WITHIN_S)
        self._log.close()


def _answer(theirs: socket.socket) -> None:
    with theirs, theirs.makefile("rw", encoding="utf-8") as parent:
        worker = worker_process._Worker(parent, ALONE)
        for message in worker_process._messages(parent, ALONE):
            worker.answer(message)


@contextmanager
def workers_here() -> Iterator[pytest.MonkeyPatch]:
    """Runs that begin in this context have their workers here; gives what patches further."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("retbench.engine.runner.Worker", WorkerHere)
        # This process goes on when the run has ended.
        patch.setattr(worker_process, "bound_memory", lambda config: None)
        yield patch
