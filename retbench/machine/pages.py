"""Scattered pages of memory, kept from the processes that are timed.

The kernel hands out the smallest pieces of free memory first. On a machine that has been up for a
while they are gigabytes, and a process whose pages lie one by one all over the memory is slower for
good, where each has entries of its own to be looked up, in a virtual machine in two tables: to read
64 MiB took from 6 to 20 ms. No pairing takes that away, for each contender has its own pages. So
this process takes the small pieces first, and what is left for those that compute is contiguous.
``docs/measurement.md`` has the figures.
"""

from __future__ import annotations

import mmap
from contextlib import suppress
from pathlib import Path
from typing import Self

from retbench.machine.memory import available_memory_bytes

SMALL_BYTES = 2**18
"""Free memory in pieces below this size is scattered."""

MOST_SHARE, MOST_BYTES = 1 / 8, 2**33
"""Of the available memory, and at all, that is held at most."""


class ScatteredPages:
    """Scattered free memory that this process holds; a context manager that gives it back.

    Args:
        free: where the kernel lists its free memory by the size of the pieces, proc(5).

    Attributes:
        held_bytes: what is held.
    """

    def __init__(self, free: Path = Path("/proc/buddyinfo")) -> None:
        self._free = free
        self._held: list[mmap.mmap] = []
        self.held_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for block in self._held:
            block.close()
        self._held, self.held_bytes = [], 0

    def take(self) -> None:
        """Take what is scattered now; nothing where the kernel does not tell."""
        room = available_memory_bytes() or 0
        most = min(MOST_BYTES, int((room + self.held_bytes) * MOST_SHARE)) - self.held_bytes
        size = min(most, scattered_bytes(self._free)) // mmap.PAGESIZE * mmap.PAGESIZE
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


def scattered_bytes(free: Path = Path("/proc/buddyinfo")) -> int:
    """Bytes of free memory in pieces below :data:`SMALL_BYTES`; 0 where the kernel does not tell.

    Args:
        free: lines such as ``Node 0, zone Normal 12 3 0 ...``: pieces of 1, 2, 4, ... pages.
    """
    try:
        lines = free.read_text().splitlines()
    except OSError:
        return 0
    small = (SMALL_BYTES // mmap.PAGESIZE).bit_length() - 1  # the first order that is not
    counts = [line.partition("zone")[2].split()[1 : 1 + small] for line in lines]
    pages = sum(int(count) << order for line in counts for order, count in enumerate(line))
    return pages * mmap.PAGESIZE
