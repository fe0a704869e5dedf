"""How much memory a phase took, on a CPU and on a CUDA device.

On a CPU the figures are the process's resident set above what it held when the meter was made (the
interpreter and its libraries), so a meter is made after the imports and before the model. On a
CUDA device they are the bytes that torch's allocator handed out; what it reserved and what the
driver sees are figures of their own. Peaks are reset between phases.

    meter = meter_of("cpu")
    model = build()
    meter.reset()
    prefill()
    prefill_peak_bytes = meter.peak_bytes()
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
from typing import Any

from retbench.machine import host

_PROC_SELF = Path("/proc/self")
# malloc.h of glibc: options of mallopt, and its own limit of blocks that are mapped.
_M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -2, -3, -4
_USUAL_MMAPS, _USUAL_BYTES = 65536, 2**17  # its own numbers: of blocks; of threshold and pad
_LARGE_BLOCK_BYTES, _LARGEST_CHUNK_BYTES, _MOST_CHUNKS = 2**15, 2**32, 2**14
# malloc.c of glibc: the word before a block holds its size, and this bit where it has a map.
_WORD_BYTES, _IS_MMAPPED = ctypes.sizeof(ctypes.c_size_t), 2
_RESET_PEAK = "5"  # proc(5): written to clear_refs, sets VmHWM to VmRSS


def meter_of(device: str) -> MemoryMeter:
    """The meter of a device: ``cpu``, or a CUDA device such as ``cuda``."""
    if not device.startswith("cuda"):
        return MemoryMeter()
    import torch

    return _CudaMeter(device, torch.cuda)


class MemoryMeter:
    """The memory of this process on a CPU.

    Linux shows the resident set, and lets a process reset its peak. Elsewhere it is getrusage that
    tells, which knows only the peak since the process began.

    Attributes:
        source: where the figures come from: ``resident_set``, ``resident_set_without_reset``
            (where the peak is the process's since its start, and cannot be reset) or
            ``cuda_allocator``.
        baseline: bytes that every figure is above; 0 on a CUDA device.
    """

    def __init__(self) -> None:
        self._resets_peak = _peak_can_be_reset()
        self.source = "resident_set" if self._resets_peak else "resident_set_without_reset"
        self.reset()
        self.baseline = self._resident_bytes()

    def reset(self) -> None:
        """Give unused memory back, and let the peak start again from what is held now."""
        gc.collect()
        _free_mkl_buffers()
        _trim_heap()
        if self._resets_peak:
            (_PROC_SELF / "clear_refs").write_text(_RESET_PEAK)

    @contextlib.contextmanager
    def exact(self) -> Iterator[None]:
        """Reset, and let each large block that is allocated inside be given back when it is freed.

        A heap that keeps freed blocks, as one that is timed should, is as fragmented as its
        process's history made it: of the same prefill the peak of the resident set differed by 17%
        between processes. Inside, glibc maps every block of 32 KiB and more by itself. Other C
        libraries, and a GPU's allocator, are but reset.
        """
        self.reset()  # now, for what it frees would be a hole that the blocks inside fill
        with _large_blocks_mapped():
            self.reset()
            yield

    def peak_bytes(self) -> int:
        """The most that was held at once since the last reset, above the baseline."""
        return max(0, self._peak_resident_bytes() - self.baseline)

    def current_bytes(self) -> int:
        """What is held now, above the baseline."""
        return max(0, self._resident_bytes() - self.baseline)

    def idle_pool_bytes(self, pool: tuple[int, int] | None) -> int:
        """What a CUDA graph's private pool holds beyond the tensors in it; 0 where there is none.

        A replay works in there, but the allocator has counted those blocks as free since the
        capture: no peak contains them, and nobody else can have them.

        Args:
            pool: as ``torch.cuda.CUDAGraph.pool()`` names it.
        """
        return 0

    def reserved_peak_bytes(self) -> int | None:
        """The most that the CUDA allocator reserved since the last reset; None on a CPU."""
        return None

    def device_used_bytes(self) -> int | None:
        """What all processes use on the CUDA device, as the driver reports; None on a CPU."""
        return None

    def _peak_resident_bytes(self) -> int:
        if self._resets_peak:
            return host.field_bytes(_PROC_SELF / "status", "VmHWM") or 0
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

    def _resident_bytes(self) -> int:
        # Without /proc the standard library knows no current figure; the peak bounds it.
        return host.field_bytes(_PROC_SELF / "status", "VmRSS") or self._peak_resident_bytes()


class _CudaMeter(MemoryMeter):
    """The memory of this process on a CUDA device: torch's allocator, and the driver's view.

    Args:
        device: such as ``cuda``.
        cuda: ``torch.cuda``.
    """

    def __init__(self, device: str, cuda: Any) -> None:
        self._device, self._cuda = device, cuda
        self.source, self.baseline = "cuda_allocator", 0
        self.reset()

    def reset(self) -> None:
        gc.collect()
        self._cuda.synchronize(self._device)
        self._cuda.empty_cache()
        self._cuda.reset_peak_memory_stats(self._device)

    def peak_bytes(self) -> int:
        return int(self._cuda.max_memory_allocated(self._device))

    def current_bytes(self) -> int:
        return int(self._cuda.memory_allocated(self._device))

    def idle_pool_bytes(self, pool: tuple[int, int] | None) -> int:
        if pool is None:
            return 0
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
        (_PROC_SELF / "clear_refs").write_text(_RESET_PEAK)
    except OSError:
        return False
    return bool(host.field_bytes(_PROC_SELF / "status", "VmHWM"))


@contextlib.contextmanager
def _large_blocks_mapped() -> Iterator[None]:
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
