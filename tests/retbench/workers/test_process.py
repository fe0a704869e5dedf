"""How a worker's end is told from its status and its last line."""

from __future__ import annotations

import signal
import tempfile

import pytest

from retbench.workers.process import failure_of


@pytest.mark.parametrize(
    ("code", "said", "status"),
    [
        (1, "torch.OutOfMemoryError: CUDA out of memory", "oom"),
        (1, "[rank1]: MemoryError", "oom"),
        (127, "python: error while loading shared libraries: x: cannot map zero-fill pages", "oom"),
        (-signal.SIGABRT, "terminate called\n  what():  std::bad_alloc", "oom"),
        (-signal.SIGSEGV, "MemoryError", "error"),
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
