"""How much memory a phase took, on a CPU and on a CUDA device, and how much there is.

On a CPU the figures are the process's resident set above what it held when the meter was made (the
interpreter and its libraries), so a meter is made after the imports and before the model. On a
CUDA device they are the bytes that torch's allocator handed out; what it reserved and what the
driver sees are figures of their own. Peaks are reset between phases.

    meter = MemoryMeter("cpu")
    model = build()
    meter.reset()
    prefill()
    prefill_peak_bytes = meter.peak_bytes()
"""

from __future__ import annotations

import os
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retbench.errors import UserError
from retbench.machine import host
from retbench.machine.memory_probes import (
    PROC_SELF,
    field_bytes,
    large_blocks_mapped,
    probe_of,
    status_bytes,
)


class MemoryMeter:
    """The memory of this process on one device.

    Args:
        device: ``cpu``, or a CUDA device such as ``cuda``.
        cuda: what to use in place of ``torch.cuda``.

    Attributes:
        source: where the figures come from: ``resident_set``, ``resident_set_without_reset``
            (where the peak is the process's since its start, and cannot be reset) or
            ``cuda_allocator``.
        baseline: bytes that every figure is above; 0 on a CUDA device.
    """

    def __init__(self, device: str = "cpu", *, cuda: Any = None) -> None:
        self._probe = probe_of(device, cuda)
        self._probe.reset()
        self.source = self._probe.source
        self.baseline = self._probe.baseline_bytes()

    def reset(self) -> None:
        """Give unused memory back, and let the peak start again from what is held now."""
        self._probe.reset()

    @contextmanager
    def exact(self) -> Iterator[None]:
        """Reset, and let each large block that is allocated inside be given back when it is freed.

        A heap that keeps freed blocks, as one that is timed should, is as fragmented as its
        process's history made it: of the same prefill the peak of the resident set differed by 17%
        between processes. Inside, glibc maps every block of 32 KiB and more by itself. Other C
        libraries, and a GPU's allocator, are but reset.
        """
        self.reset()  # now, for what it frees would be a hole that the blocks inside fill
        with large_blocks_mapped():
            self.reset()
            yield

    def peak_bytes(self) -> int:
        """The most that was held at once since the last reset, above the baseline."""
        return max(0, self._probe.peak_bytes() - self.baseline)

    def current_bytes(self) -> int:
        """What is held now, above the baseline."""
        return max(0, self._probe.current_bytes() - self.baseline)

    def idle_pool_bytes(self, pool: tuple[int, int] | None) -> int:
        """What a CUDA graph's private pool holds beyond the tensors in it; 0 where there is none.

        A replay works in there, but the allocator has counted those blocks as free since the
        capture: no peak contains them, and nobody else can have them.

        Args:
            pool: as ``torch.cuda.CUDAGraph.pool()`` names it.
        """
        return 0 if pool is None else self._probe.idle_pool_bytes(pool)

    def reserved_peak_bytes(self) -> int | None:
        """The most that the CUDA allocator reserved since the last reset; None on a CPU."""
        return self._probe.reserved_peak_bytes()

    def device_used_bytes(self) -> int | None:
        """What all processes use on the CUDA device, as the driver reports; None on a CPU."""
        return self._probe.device_used_bytes()


def oom_kills() -> int | None:
    """How many processes the kernel has killed for want of memory since it started.

    None where it does not say so: it is Linux that counts them.
    """
    found = re.search(r"^oom_kill (\d+)$", host.read("/proc/vmstat"), re.MULTILINE)
    return int(found[1]) if found else None


def available_memory_bytes(
    device: str = "cpu", proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """Bytes that could be allocated now without swapping; None where nothing tells.

    On Linux what the kernel calls available, or what the process's control group leaves if that is
    less; on a CUDA device what the driver calls free, plus what torch holds but does not use.

    Args:
        device: ``cpu``, or a CUDA device such as ``cuda``.
        proc: where the kernel shows its processes and its memory.
        groups: where the control groups are mounted.
    """
    if device.startswith("cuda"):
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    meminfo = proc / "meminfo"
    if not meminfo.exists():
        return None
    available = field_bytes(meminfo, "MemAvailable")
    headroom = cgroup_headroom_bytes(groups, proc / "self" / "cgroup")
    return available if headroom is None else min(available, headroom)


def cgroup_headroom_bytes(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = PROC_SELF / "cgroup"
) -> int | None:
    """What the process's control groups still let it allocate; None where none sets a limit.

    Args:
        root: where the control groups are mounted, version 1 or 2.
        membership: the process's ``cgroup`` file.
    """
    files = {1: ("memory.limit_in_bytes", "memory.usage_in_bytes"),
             2: ("memory.max", "memory.current")}  # fmt: skip
    rooms = [
        _group_headroom(group, *files[version])
        for version, group in host.control_groups("memory", root, membership)
    ]
    return min((room for room in rooms if room is not None), default=None)


def _group_headroom(group: Path, limit: str, usage: str) -> int | None:
    """Limit less usage of one control group, its reclaimable file cache not counted as used."""
    try:
        bound = (group / limit).read_text().strip()
        used = int((group / usage).read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except OSError:
        return None
    if bound == "max":
        return None
    reclaimable = int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))
    return max(0, int(bound) - used + reclaimable)


def limit_further_memory(further_bytes: int) -> None:
    """Make allocations beyond a limit fail in this process, instead of the kernel killing it.

    Counts private writable memory, the stacks of threads started later included, on top of what
    there is already. For a CPU only: a CUDA driver maps more than it uses. Linux only; elsewhere
    nothing is bounded.

    Args:
        further_bytes: how much may still be allocated.
    """
    if not (PROC_SELF / "status").exists():
        return
    limit = status_bytes("VmData") + further_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


@contextmanager
def enough_memory(purpose: str, hint: str) -> Iterator[None]:
    """Make a want of memory, of the device or of the host, the user's error.

    Args:
        purpose: what the memory is for.
        hint: what to do where there is too little.

    Raises:
        UserError: there is too little.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or not is_out_of_memory(error):
            raise
        raise UserError(f"there is not enough memory for {purpose}", hint) from None


def is_out_of_memory(exception: BaseException) -> bool:
    """Whether an exception, or the one it was raised from or after, says that memory ran out.

    After: where a CUDA graph's capture is short of memory, ending it may fail for its own reason.
    """
    torch = sys.modules.get("torch")
    kinds = (MemoryError,) if torch is None else (MemoryError, torch.OutOfMemoryError)
    # numpy's word for an array of more bytes than there are addresses.
    too_big = isinstance(exception, ValueError) and str(exception).startswith("array is too big")
    if too_big or isinstance(exception, kinds):
        return True
    told = isinstance(exception, (RuntimeError, ImportError, OSError))
    if told and says_out_of_memory(str(exception)):
        return True
    earlier = exception.__cause__ or exception.__context__
    return earlier is not None and is_out_of_memory(earlier)


def says_out_of_memory(text: str) -> bool:
    """Whether a message is one that the allocator or the kernel ends with for want of memory.

    All that is guessed from a message is here. A library that is not mapped has met a memory limit,
    unless its file system lets nothing be executed; where that cannot be told it is no want of
    memory.
    """
    unmapped = re.search(r"(/\S+): failed to map segment", text)
    if unmapped is not None:
        try:
            if not os.statvfs(unmapped[1]).f_flag & os.ST_NOEXEC:
                return True
        except OSError:
            pass
    said = text.lower().replace(_FIXED_ROOM, "")
    return any(phrase in said for phrase in _OUT_OF_MEMORY_PHRASES)


# How Python, torch's CPU allocator, the C library and its loader, the C++ library, the CUDA driver
# and cuBLAS say it.
_OUT_OF_MEMORY_PHRASES = (
    "memoryerror",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "bad_alloc",
    "out of memory",
    "cublas_status_alloc_failed",
    "cannot map zero-fill pages",
)
_FIXED_ROOM = "cannot allocate memory in static tls block"  # which is full, whatever memory is free
