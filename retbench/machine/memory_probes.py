"""Where figures of memory come from: the kernel on a CPU, torch's allocator on a CUDA device.

:mod:`retbench.machine.memory` measures with them.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

PROC_SELF = Path("/proc/self")
# malloc.h of glibc: options of mallopt, and its own limit of blocks that are mapped.
_M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -2, -3, -4
_USUAL_MMAPS, _USUAL_BYTES = 65536, 2**17  # its own numbers: of blocks; of threshold and pad
_LARGE_BLOCK_BYTES, _LARGEST_CHUNK_BYTES, _MOST_CHUNKS = 2**15, 2**32, 2**14
# malloc.c of glibc: the word before a block holds its size, and this bit where it has a map.
_WORD_BYTES, _IS_MMAPPED = ctypes.sizeof(ctypes.c_size_t), 2
_RESET_PEAK = "5"  # proc(5): written to clear_refs, sets VmHWM to VmRSS


class Probe(Protocol):
    """A source of memory figures, absolute, in bytes."""

    source: str

    def reset(self) -> None:
        """Give unused memory back, and let the peak start again."""

    def baseline_bytes(self) -> int:
        """What every figure is to be above."""

    def peak_bytes(self) -> int:
        """The most that was held at once."""

    def current_bytes(self) -> int:
        """What is held now."""

    def idle_pool_bytes(self, pool: tuple[int, int]) -> int:
        """What a CUDA graph's private pool has reserved, less what is allocated in it."""

    def reserved_peak_bytes(self) -> int | None:
        """The most that the CUDA allocator reserved; None on a CPU."""

    def device_used_bytes(self) -> int | None:
        """What all processes use on the CUDA device; None on a CPU."""


def probe_of(device: str, cuda: Any) -> Probe:
    """The best source of figures for a device."""
    if device.startswith("cuda"):
        if cuda is None:
            import torch

            cuda = torch.cuda
        return _CudaAllocator(device, cuda)
    if _peak_can_be_reset():
        return _ResidentSet()
    return _ResourceUsage()


class _HostProbe:
    """What the two sources on a CPU share."""

    def reset(self) -> None:
        gc.collect()
        _free_mkl_buffers()
        _trim_heap()

    def current_bytes(self) -> int:
        return status_bytes("VmRSS")

    def baseline_bytes(self) -> int:
        return self.current_bytes()

    def idle_pool_bytes(self, pool: tuple[int, int]) -> int:
        return 0

    def reserved_peak_bytes(self) -> int | None:
        return None

    def device_used_bytes(self) -> int | None:
        return None


class _ResidentSet(_HostProbe):
    """Linux: VmRSS and VmHWM, whose peak the kernel lets a process reset."""

    source = "resident_set"

    def reset(self) -> None:
        super().reset()
        (PROC_SELF / "clear_refs").write_text(_RESET_PEAK)

    def peak_bytes(self) -> int:
        return status_bytes("VmHWM")


class _ResourceUsage(_HostProbe):
    """Elsewhere: getrusage, which knows only the peak since the process began."""

    source = "resident_set_without_reset"

    def peak_bytes(self) -> int:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

    def current_bytes(self) -> int:
        # Without /proc the standard library knows no current figure; the peak bounds it.
        return status_bytes("VmRSS") if (PROC_SELF / "status").exists() else self.peak_bytes()


class _CudaAllocator:
    """torch's caching allocator, and the driver's view of the device."""

    source = "cuda_allocator"

    def __init__(self, device: str, cuda: Any) -> None:
        self._device, self._cuda = device, cuda

    def reset(self) -> None:
        gc.collect()
        self._cuda.synchronize(self._device)
        self._cuda.empty_cache()
        self._cuda.reset_peak_memory_stats(self._device)

    def baseline_bytes(self) -> int:
        return 0

    def peak_bytes(self) -> int:
        return int(self._cuda.max_memory_allocated(self._device))

    def current_bytes(self) -> int:
        return int(self._cuda.memory_allocated(self._device))

    def idle_pool_bytes(self, pool: tuple[int, int]) -> int:
        return sum(
            int(segment["total_size"]) - int(segment["allocated_size"])
            for segment in self._cuda.memory_snapshot()
            if tuple(segment["segment_pool_id"]) == tuple(pool)
        )

    def reserved_peak_bytes(self) -> int | None:
        return int(self._cuda.max_memory_reserved(self._device))

    def device_used_bytes(self) -> int | None:
        free, total = self._cuda.mem_get_info(self._device)
        return int(total - free)


def _peak_can_be_reset() -> bool:
    """Whether this kernel shows the resident set and lets the process reset its peak."""
    try:
        (PROC_SELF / "clear_refs").write_text(_RESET_PEAK)
        return status_bytes("VmHWM") > 0
    except (OSError, KeyError):
        return False


def status_bytes(field: str) -> int:
    """A field of this process's status, in bytes."""
    return field_bytes(PROC_SELF / "status", field)


def field_bytes(path: Path, field: str) -> int:
    """A field of a ``Name:  123 kB`` file, in bytes."""
    for line in path.read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == field:
            return int(rest.split()[0]) * 1024
    raise KeyError(f"{path} has no field {field}")


@contextlib.contextmanager
def large_blocks_mapped() -> Iterator[None]:
    """Inside, glibc maps every block from 32 KiB on by itself, and unmaps it when it is freed.

    It would rather take a free chunk of its heap that is large enough, and keep that resident
    afterwards: so the free chunks are first taken, and not touched. Other C libraries have none of
    these calls.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        yield
        return
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.mallopt(_M_MMAP_MAX, _USUAL_MMAPS)
    libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK_BYTES)
    libc.mallopt(_M_TOP_PAD, 0)  # or a small block makes room for large ones
    chunks = list(islice(_free_chunks(libc), _MOST_CHUNKS))
    try:
        yield
    finally:
        for chunk in chunks:
            libc.free(chunk)
        _restore(libc, _M_MMAP_MAX, "MALLOC_MMAP_MAX_", _USUAL_MMAPS)
        _restore(libc, _M_MMAP_THRESHOLD, "MALLOC_MMAP_THRESHOLD_", _USUAL_BYTES)
        _restore(libc, _M_TOP_PAD, "MALLOC_TOP_PAD_", _USUAL_BYTES)


def _restore(libc: Any, option: int, variable: str, usual: int) -> None:
    """Set an option of malloc's as the process was started with it."""
    with contextlib.suppress(ValueError):
        libc.mallopt(option, int(os.environ.get(variable, usual)))


def _free_chunks(libc: Any) -> Iterator[int]:
    """Take every free chunk of glibc's heap of at least a large block's size; their addresses."""
    size = _LARGEST_CHUNK_BYTES
    while size >= _LARGE_BLOCK_BYTES:
        block = libc.malloc(size)
        if block and not ctypes.c_size_t.from_address(block - _WORD_BYTES).value & _IS_MMAPPED:
            yield block
            continue
        libc.free(block)
        size = size * 3 // 4


def _free_mkl_buffers() -> None:
    """Have MKL give back what its matrix products keep, where torch is built with it.

    There are the more of its buffers, of some 20 MB, the more often threads have happened to need
    one at the same time: with what earlier cells had left the peak of a prefill varied by 7%.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.__file__ is not None:
        library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(str(library)).mkl_serv_free_buffers()


def _trim_heap() -> None:
    """Ask glibc to give freed memory back to the kernel; other C libraries have no such call."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
