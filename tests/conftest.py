"""What holds for all tests."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import signal
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

from retbench.machine import pages
from retbench.machine.threads import limit_spinning
from retbench.workers import ALLOCATOR

# No test depends on how fast it is, nor on what an earlier run of it has drawn.
settings.register_profile("all tests", deadline=None, derandomize=True, database=None)
settings.load_profile("all tests")

# As in retbench/workers/start.py.
gc.set_threshold(10_000)
# Tests run beside each other: threads that spin there take minutes for what takes seconds, and a
# second thread of each has no core to run on.
limit_spinning()
# Nor is there memory for each to hold gigabytes of.
pages.MOST_BYTES = 0
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell has what it starts in the background ignore Ctrl-C, and so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
# What xdist starts from here keeps its heap, as workers do: half of the time of small trainings.
os.environ.update(ALLOCATOR)

if "-n" not in sys.argv or "PYTEST_XDIST_WORKER" in os.environ:  # else it hands tests out to others
    import torch

    if not torch.cuda.is_available():
        # Read when Triton is imported, which torch.compile does too: so before any test.
        os.environ.setdefault("TRITON_INTERPRET", "1")

RANKS = ("test_agent", "test_parallel_command", "test_parallel_loop", "test_failure")
"""Files whose programs are several processes each, which wait for one another: beside another of
them each takes two or three times as long, so that one at a time has the machine."""

SLOW = (
    "test_agent", "test_training_suites", "test_commands", "test_tutorial", "test_step_suite",
    "test_figures", "test_parallel_command", "test_slurm", "test_train_resume",
    "test_parallel_loop", "test_files", "test_chunk", "test_failure", "test_faults",
    "test_interruptions", "test_compile_ahead", "test_worker", "test_contributing",
)  # fmt: skip
"""Files that begin first, so that none of them is left over for one process at the end; between
those of :data:`RANKS` stand others."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slow files first: with ``--dist loadfile`` none is left over for one process."""
    order = {name: place for place, name in enumerate(SLOW)}
    items.sort(key=lambda item: order.get(item.path.stem, len(SLOW)))


@pytest.fixture(scope="module", autouse=True)
def _ranks_take_turns(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Let one file of :data:`RANKS` run at a time, whatever process of xdist it is in."""
    with contextlib.ExitStack() as stack:
        if request.path.stem in RANKS and "PYTEST_XDIST_WORKER" in os.environ:
            shared = tmp_path_factory.getbasetemp().parent
            fcntl.flock(stack.enter_context(open(shared / "ranks.lock", "w")), fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="module", autouse=True)
def _spare_the_collector() -> None:
    """Let it pass over what is there: a measurement collects before it, hundreds of times.

    A file of tests that has torch's compiler imported leaves objects that take it 0.3 s each time.
    """
    gc.collect(1)
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Let the end of Python find what it would."""
    gc.unfreeze()
