"""Processes that are forks of the test's own, which has imported torch already.

For runs in turns, whose workers need processes of their own: what several models set for a whole
process, such as which attention may run, they would set for each other. A fresh interpreter spends
three seconds of the processor on its imports; a fork none. Tests of how a worker starts, is
watched, fails and ends have fresh ones. A process that uses a GPU cannot be forked.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NoReturn

import pytest
import torch

from retbench.machine.interrupts import Interrupts
from retbench.machine.memory import oom_kills
from retbench.workers import worker as worker_process
from retbench.workers.process import PARENT, Worker

_POLL_S = 0.005


class WorkerForked(Worker):
    """A worker process as the runner has it, begun where the imports are done."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], interrupts: Interrupts
    ) -> None:
        self._interrupts = interrupts
        self._buffer, self._late = bytearray(), 0
        self._timeout_s, self._deadline = 0.0, math.inf
        self._oom_kills = oom_kills()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the worker)
        self._socket, theirs = socket.socketpair()
        variables = {**environment, PARENT: str(os.getpid())}

        def work() -> None:
            self._socket.close()
            os.setsid()
            os.dup2(theirs.fileno(), 0)
            for stream in (1, 2):
                os.dup2(self._log.fileno(), stream)
            os.environ.update(variables)
            worker_process.main()

        self._process = Fork(work)  # type: ignore[assignment]
        theirs.close()


class Fork:
    """A forked process, with what is asked of a ``subprocess.Popen``."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _be(work)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, or minus the signal that ended it."""
        until = math.inf if timeout is None else time.monotonic() + timeout
        while self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > until:
                raise subprocess.TimeoutExpired("a fork", timeout or 0.0)
            else:
                time.sleep(_POLL_S)
        return self._code


def _be(work: Callable[[], object]) -> NoReturn:
    """Be the fork: without the parent's signal handlers and captured streams, to the end."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        sys.stdout, sys.stderr = (os.fdopen(stream, "w", closefd=False) for stream in (1, 2))
        work()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else ended.code is not None
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


@contextmanager
def forked_workers() -> Iterator[pytest.MonkeyPatch]:
    """Runs that begin in this context have such workers; gives what patches further.

    They time slices of a millisecond, for no such test depends on a time.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("retbench.suites.cell.SLICE_S", 1e-3)
        if not torch.cuda.is_available():
            patch.setattr("retbench.engine.runner.Worker", WorkerForked)
        yield patch
