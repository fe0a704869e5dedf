"""Scattered pages of memory, kept from the processes that are timed.

The kernel hands out the smallest pieces of free memory first, and before them the pages that were
last freed on the same processor. On a machine that has been up for a while these are gigabytes, and
a process whose pages lie one by one all over the memory is slower for good: each has an entry of
its own to be looked up, in a virtual machine in two tables. No pairing takes that away, for each
contender has its own pages. So this process takes the small pieces first, and what is left for
those that compute is contiguous. ``docs/measurement.md`` has the figures.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from retbench.machine import host
from retbench.machine.memory import available_memory_bytes

SMALL_BYTES = 2**18
"""Free memory in pieces below this size is scattered."""

MOST_SHARE, MOST_BYTES = 1 / 4, 2**33
"""Of the available memory, and at all, that is held at most."""

_SET = re.compile(r"cpu: (\d+)\s+count: +(\d+)")


class ScatteredPages:
    """Scattered free memory that this process holds; a context manager that gives it back.

    Args:
        cpus: the logical processors that the others compute on; none for all.
        proc: where the kernel shows its memory.

    Attributes:
        held_bytes: what is held.
    """

    def __init__(self, cpus: Sequence[int] = (), proc: Path = Path("/proc")) -> None:
        self._cpus, self._proc = cpus, proc
        self._held: list[mmap.mmap] = []
        self.held_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for block in self._held:
            block.close()
        self._held, self.held_bytes = [], 0

    def take(self, needed_bytes: float = 0.0) -> None:
        """Take what is scattered now; nothing where the kernel does not tell.

        Args:
            needed_bytes: what the others will need: so much of the available memory is left.
        """
        for cpu, size in freed_bytes(self._proc / "zoneinfo").items():
            if cpu in self._cpus or not self._cpus:
                with _on(cpu):
                    self._hold(size, needed_bytes)
        with _on(*self._cpus):
            self._hold(scattered_bytes(self._proc / "buddyinfo"), needed_bytes)

    def _hold(self, size: int, needed_bytes: float) -> None:
        """Hold so many bytes more, or as many as may be held."""
        room = (available_memory_bytes() or 0) + self.held_bytes
        most = min(MOST_BYTES, room * MOST_SHARE, room - needed_bytes) - self.held_bytes
        size = int(min(most, size)) // mmap.PAGESIZE * mmap.PAGESIZE
        if size <= 0:
            return
        with suppress(OSError):  # a limit of this process's own
            block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            if hasattr(mmap, "MADV_NOHUGEPAGE"):
                with suppress(OSError):  # a kernel without huge pages
                    block.madvise(mmap.MADV_NOHUGEPAGE)
            for page in range(0, size, mmap.PAGESIZE):
                block[page] = 1
            self._held.append(block)
            self.held_bytes += size


@contextmanager
def _on(*cpus: int) -> Iterator[None]:
    """Run on these logical processors inside, where the system lets a process choose."""
    if not cpus or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    with suppress(OSError):  # one that this process may not use
        os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def scattered_bytes(free: Path = Path("/proc/buddyinfo")) -> int:
    """Bytes of free memory in pieces below :data:`SMALL_BYTES`; 0 where the kernel does not tell.

    Args:
        free: lines such as ``Node 0, zone Normal 12 3 0 ...``: pieces of 1, 2, 4, ... pages.
    """
    small = (SMALL_BYTES // mmap.PAGESIZE).bit_length() - 1  # the first order that is not
    lines = host.read(free).splitlines()
    counts = [line.partition("zone")[2].split()[1 : 1 + small] for line in lines]
    pages = sum(int(count) << order for line in counts for order, count in enumerate(line))
    return pages * mmap.PAGESIZE


def freed_bytes(zones: Path = Path("/proc/zoneinfo")) -> dict[int, int]:
    """Bytes of the pages that the kernel keeps for a logical processor, which freed them, by it.

    Args:
        zones: of each zone, for each processor, ``cpu: 0`` and ``count: 12`` in pages.
    """
    found: dict[int, int] = {}
    for cpu, count in _SET.findall(host.read(zones)):
        found[int(cpu)] = found.get(int(cpu), 0) + int(count) * mmap.PAGESIZE
    return found
