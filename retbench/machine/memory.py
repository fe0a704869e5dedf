"""How much memory there is, and what becomes of a want of it."""

from __future__ import annotations

import errno
import os
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from retbench.errors import UserError
from retbench.machine import host

# By version of control groups: the files of limits and usage, and the field of reclaimable memory.
# Above memory.high nothing is killed, but all is throttled to a crawl.
_GROUP_FILES = {
    1: (("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file"),
    2: (("memory.max", "memory.high"), "memory.current", "inactive_file"),
}
_NO_LIMIT = 2**62  # version 1 shows the most pages that it can count, which is more


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
        groups: where the control groups are mounted, version 1 or 2.
    """
    if device.startswith("cuda"):
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    available = host.field_bytes(proc / "meminfo", "MemAvailable")
    if available is None:
        return None
    found = host.control_groups("memory", groups, proc / "self" / "cgroup")
    rooms = [_group_headroom(group, version) for version, group in found]
    return min([available, *(room for room in rooms if room is not None)])


def limit_bytes(
    groups: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> int | None:
    """The tightest limit of the process's control groups; None where none limits it.

    Args:
        groups: where the control groups are mounted, version 1 or 2.
        membership: the process's ``cgroup`` file.
    """
    found = host.control_groups("memory", groups, membership)
    bounds = [_group_limit(group, version) for version, group in found]
    return min((b for b in bounds if b is not None and b < _NO_LIMIT), default=None)


def _group_limit(group: Path, version: int) -> int | None:
    """The least limit of one control group."""
    bounds = [host.number(group / limit) for limit in _GROUP_FILES[version][0]]
    return min((bound for bound in bounds if bound is not None), default=None)


def _group_headroom(group: Path, version: int) -> int | None:
    """Limit less usage of one control group, its reclaimable file cache not counted as used."""
    _, usage, cache = _GROUP_FILES[version]
    bound, used = _group_limit(group, version), host.number(group / usage)
    if bound is None or used is None:
        return None
    cached = re.search(rf"^{cache} (\d+)$", host.read(group / "memory.stat"), re.MULTILINE)
    return max(0, bound - used + (int(cached[1]) if cached else 0))


def limit_further_memory(further_bytes: int) -> None:
    """Make allocations beyond a limit fail in this process, instead of the kernel killing it.

    Counts private writable memory, the stacks of threads started later included, on top of what
    there is already. For a CPU only: a CUDA driver maps more than it uses. Linux only; elsewhere
    nothing is bounded.

    Args:
        further_bytes: how much may still be allocated.
    """
    held = host.field_bytes(Path("/proc/self/status"), "VmData")
    if held is None:
        return
    limit = held + further_bytes
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

    After: where a CUDA graph's capture is short of memory, ending it may fail for its own reason,
    with a RuntimeError. What else fails after a want of memory that was met has met another.
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
    earlier = exception.__cause__
    if isinstance(exception, RuntimeError) and not exception.__suppress_context__:
        earlier = exception.__context__
    return earlier is not None and is_out_of_memory(earlier)


def says_out_of_memory(text: str) -> bool:
    """Whether a message is one that the allocator or the kernel ends with for want of memory.

    All that is guessed from a message is here. An error of the system has a number, whatever the
    names say that follow it. A library that is not mapped, and does not say why, has met a memory
    limit, unless its file system lets nothing be executed; where that cannot be told it is no want
    of memory.
    """
    if numbered := re.search(r"\[Errno (\d+)\]", text):
        return int(numbered[1]) == errno.ENOMEM
    unmapped = re.search(r"(/\S+): failed to map segment from shared object(?!:)", text)
    if unmapped is not None:
        try:
            if not os.statvfs(unmapped[1]).f_flag & os.ST_NOEXEC:
                return True
        except OSError:
            pass
    return _OUT_OF_MEMORY.search(text.lower().replace(_FIXED_ROOM, "")) is not None


def says_no_thread(text: str) -> bool:
    """Whether a message is one for a thread that the system did not start.

    It says so where there is no memory for the stack, and where there are too many threads.
    """
    return re.search(r"thread creation failed|can't start new thread", text, re.I) is not None


# How Python, torch's CPU allocator, the C library and its loader, the C++ library, the CUDA driver,
# the libraries of CUDA and ROCm, NCCL and OpenBLAS say it.
_OUT_OF_MEMORY = re.compile(
    "memoryerror|can't allocate memory|cannot allocate memory|not enough memory|bad_alloc|"
    r"(?<!\brun )out of memory|\b(cu|hip)\w+_alloc(ation)?_failed|cannot map zero-fill pages|"
    r"failed to (malloc|cuda calloc|cuda host alloc)\b|"
    "openblas error: memory allocation still failed|openblas: malloc failed"
)
_FIXED_ROOM = "cannot allocate memory in static tls block"  # which is full, whatever memory is free
