"""How a worker process is started: the program, and what its environment must say."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from retbench.machine.threads import spin_limits

STARTED = time.perf_counter()
"""When a worker's imports began."""

START = (sys.executable, "-P", str(Path(__file__).with_name("start.py")))
"""The beginning of a command that runs a module of this checkout; see its file."""

WORKER_COMMAND = (*START, "retbench.workers")

# glibc's malloc gives large tensors back to the kernel and takes them again, page by page, or does
# not, as the heap of a process happens to lie: the same prefill took 70 ms in one process, 120 ms
# in the next. With these it keeps what it was given until the memory meter trims it, as do the
# allocators that torch's tuning guide recommends for serving. Other C libraries ignore them.
ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
    "MALLOC_ARENA_MAX": "1",
}


CPUS = "RETBENCH_CPUS"
"""The variable that names the logical processors which a worker keeps to, commas between."""

FOLDER = "RETBENCH_FOLDER"
"""The variable that names the folder whose modules a worker finds last: the current, or none."""


def variables(threads: int, cpus: Sequence[int] = ()) -> Mapping[str, str]:
    """The environment of a worker.

    Args:
        threads: that it computes on.
        cpus: the logical processors that it keeps to; none to let the system choose.
    """
    return os.environ | spin_limits() | _settled(threads, cpus)


def inherited() -> Mapping[str, str]:
    """What of this process's environment is in force in a worker: all that is not settled there."""
    settled = _settled(1, ())
    return {name: given for name, given in os.environ.items() if name not in settled}


def _settled(threads: int, cpus: Sequence[int]) -> dict[str, str]:
    """What a worker's environment says, whatever this process's does."""
    here = os.getcwd() if {"", os.getcwd()} & set(sys.path) else ""
    return ALLOCATOR | {
        "PYTHONHASHSEED": "0",  # the order of sets decides in which order memory is asked for
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        CPUS: ",".join(map(str, cpus)),
        "PYTHONSAFEPATH": "1",  # for the processes that a library starts from a worker
        FOLDER: here,
    }
