"""How a worker's end is told from its status and its last line."""

from __future__ import annotations

import select
import signal
import tempfile
import time
from types import SimpleNamespace
from typing import Any

import pytest

from retbench.machine.interrupts import Interrupts
from retbench.workers import process
from retbench.workers.process import Worker, WorkerFailure, failure_of

WHERE = """Fatal Python error: Aborted

Current thread 0x00007f0e6ab41740 (most recent call first):
  File "x.py", line 3 in <module>

Extension modules: numpy._core._multiarray_umath, numpy.linalg._umath_linalg (total: 2)
"""
"""What Python adds at a signal where PYTHONFAULTHANDLER is set."""


@pytest.mark.parametrize(
    ("code", "said", "status"),
    [
        (1, "torch.OutOfMemoryError: CUDA out of memory", "oom"),
        (1, "[rank1]: MemoryError", "oom"),
        (127, "python: error while loading shared libraries: x: cannot map zero-fill pages", "oom"),
        (-signal.SIGABRT, "terminate called\n  what():  std::bad_alloc", "oom"),
        (-signal.SIGSEGV, "MemoryError", "error"),
        (-signal.SIGABRT, f"  what():  std::bad_alloc\n{WHERE}", "oom"),
        (-signal.SIGABRT, "MemoryError\nFatal Python error: none_dealloc: a bug", "error"),
        (1, "OpenBLAS error: Memory allocation still failed after 10 retries, giving up.", "oom"),
        (1, "OSError: [Errno 28] No space left on device: '/x/MemoryError/out'", "error"),
        (1, "x.py:3: UserWarning: the pool is out of memory, falling back to malloc", "error"),
    ],
)
def test_a_process_died_for_want_of_memory_where_its_last_words_say_so(
    code: int, said: str, status: str
) -> None:
    with tempfile.TemporaryFile() as log:
        log.write(f"{said}\n".encode())
        log.flush()
        assert failure_of(code, log, None).status == status


@pytest.mark.parametrize(("stopped_s", "answered"), [(900.0, True), (0.0, False)])
def test_time_in_which_all_was_stopped_does_not_count(
    monkeypatch: pytest.MonkeyPatch, stopped_s: float, answered: bool
) -> None:
    slept: list[int] = []

    class Poll:
        """Sleeps for as long as it is asked, and is stopped in the first sleep; then as usual."""

        def __init__(self) -> None:
            self._real = select.poll()

        def register(self, *given: Any) -> None:
            self._real.register(*given)

        def poll(self, milliseconds: int) -> list[tuple[int, int]]:
            slept.append(milliseconds)
            if len(slept) < 6:
                clock.now += milliseconds / 1000 + stopped_s * (len(slept) == 1)
                return []
            return self._real.poll()

    clock = SimpleNamespace(now=time.monotonic(), monotonic=lambda: clock.now)
    monkeypatch.setattr(process, "time", clock)
    monkeypatch.setattr(process, "select", SimpleNamespace(poll=Poll, POLLIN=select.POLLIN))
    reply = ["sh", "-c", """read line; echo '{"event": "done"}' >&0"""]
    with Interrupts() as interrupts, Worker(reply, {}, interrupts) as worker:
        worker.send({"do": "work"}, 60.0 if answered else 50.0)
        if answered:
            assert worker.receive() == {"event": "done"}
            assert worker.stopped_s == pytest.approx(stopped_s)
        else:
            with pytest.raises(WorkerFailure, match="not done within 50 s"):
                worker.receive()
    assert slept[:5] == [10_000] * 5
