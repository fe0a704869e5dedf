"""Memory figures of this process, limits on it, and the exceptions that say it ran out."""

import errno
import gc
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from retbench import workers
from retbench.machine import host, memory, memory_meter
from retbench.machine.memory_meter import MemoryMeter, _CudaMeter

MIB = 2**20
SLACK = 4 * MIB  # the interpreter's own comings and goings; the kernel counts pages in batches

linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")


def allocate(mib):
    """A tensor whose pages are all touched."""
    return torch.ones(mib * MIB, dtype=torch.uint8)


# On a CPU


@linux
def test_current_memory_counts_what_is_held_above_the_baseline():
    meter = MemoryMeter()
    held = allocate(64)
    assert meter.current_bytes() == pytest.approx(held.nbytes, abs=SLACK)
    del held
    meter.reset()  # a heap with a hole that large keeps what is freed into it
    assert meter.current_bytes() < SLACK


@linux
@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="torch is built without MKL")
def test_a_reset_gives_back_what_mkl_keeps():
    meter = MemoryMeter()
    square = torch.ones(1024, 1024)
    square @ square
    gc.collect()
    memory_meter._trim_heap()
    kept = meter.current_bytes()
    meter.reset()
    assert meter.current_bytes() < kept - MIB


FRAGMENTED = """
import gc
import sys
from retbench.machine.memory_meter import MemoryMeter

MIB = 2**20

def blocks(count):
    return [bytes([1]) * MIB for _ in range(count)]

def holed(kept):
    holes = []
    for _ in range(64):
        holes += blocks(1)
        kept.append(bytes([1]) * 4096)
    return holes

kept = []
if sys.argv[1] == "used":
    holed(kept)
gc.disable()
meter = MemoryMeter()
if sys.argv[1] == "full of garbage":
    garbage = holed(kept)
    garbage.append(garbage)
    del garbage
with meter.exact():
    held = blocks(32)
    del held
    held = blocks(16)
    print(meter.peak_bytes() // MIB, meter.current_bytes() // MIB)
del held
print(meter.current_bytes() // MIB)
"""


@linux
@pytest.mark.parametrize("heap", ["fresh", "used", "full of garbage"])
def test_exact_memory_does_not_depend_on_what_the_heap_has_been_used_for(heap):
    done = subprocess.run(
        [sys.executable, "-c", FRAGMENTED, heap],
        env=os.environ | workers.ALLOCATOR, capture_output=True, text=True, check=True,
    )  # fmt: skip
    peak, held, left = (int(word) for word in done.stdout.split())
    assert (peak, held, left) == (pytest.approx(32, abs=1), pytest.approx(16, abs=1), 0)


@linux
def test_the_peak_outlives_what_was_held():
    meter = MemoryMeter()
    del_me = allocate(64)
    del del_me
    assert meter.peak_bytes() == pytest.approx(64 * MIB, abs=SLACK)


@linux
def test_a_reset_forgets_the_peak_but_not_what_is_held():
    meter = MemoryMeter()
    held, passing = allocate(32), allocate(64)
    del passing
    meter.reset()
    assert meter.peak_bytes() == pytest.approx(held.nbytes, abs=SLACK)


@linux
def test_a_reset_gives_freed_heap_back():
    meter = MemoryMeter()
    # Many small blocks lie on the heap, which shrinks only when asked; the last one pins its top.
    blocks = [bytes(4096) for _ in range(16_000)]
    pin = bytes(4096)
    del blocks
    meter.reset()
    assert len(pin) and meter.current_bytes() < 16 * MIB


def test_a_cpu_has_no_allocator_figures_of_its_own():
    meter = MemoryMeter()
    assert meter.reserved_peak_bytes() is None
    assert meter.device_used_bytes() is None


@linux
def test_the_source_is_named():
    assert MemoryMeter().source.startswith("resident_set")


def test_without_a_resettable_peak_getrusage_is_used_and_named(monkeypatch, tmp_path):
    monkeypatch.setattr(memory_meter, "_PROC_SELF", tmp_path)
    meter = MemoryMeter()
    passing = allocate(64)
    del passing
    meter.reset()
    assert meter.source == "resident_set_without_reset"
    assert meter.peak_bytes() >= 0
    assert meter.baseline > 16 * MIB  # the interpreter and torch


# On a CUDA device, with a stand-in


class FakeCuda:
    """Stands in for ``torch.cuda``; the figures differ so that none can pass for another."""

    def __init__(self):
        self.log = []

    def synchronize(self, device):
        self.log.append("synchronize")

    def empty_cache(self):
        self.log.append("empty_cache")

    def reset_peak_memory_stats(self, device):
        self.log.append("reset_peak_memory_stats")

    def memory_allocated(self, device):
        return 100

    def max_memory_allocated(self, device):
        return 200

    def max_memory_reserved(self, device):
        return 300

    def mem_get_info(self, device):
        return 600, 1000

    def memory_snapshot(self):
        return [
            {"segment_pool_id": pool, "total_size": total, "allocated_size": used}
            for pool, total, used in (((0, 0), 9000, 100), ((0, 1), 70, 20), ((0, 1), 5, 0))
        ]


def test_cuda_figures_are_the_allocators_and_above_nothing():
    meter = _CudaMeter("cuda", FakeCuda())
    assert (meter.baseline, meter.current_bytes(), meter.peak_bytes()) == (0, 100, 200)
    assert meter.source == "cuda_allocator"


def test_cuda_allocated_reserved_and_device_use_are_three_figures():
    meter = _CudaMeter("cuda", FakeCuda())
    assert (meter.peak_bytes(), meter.reserved_peak_bytes(), meter.device_used_bytes()) == (
        200, 300, 400,
    )  # fmt: skip


def test_a_graphs_pool_is_what_it_reserved_less_what_is_counted_already():
    meter = _CudaMeter("cuda", FakeCuda())
    assert meter.idle_pool_bytes((0, 1)) == (70 - 20) + 5
    assert meter.idle_pool_bytes(None) == 0


def test_a_cuda_reset_waits_for_the_device_and_empties_the_cache_first():
    cuda = FakeCuda()
    meter = _CudaMeter("cuda", cuda)
    cuda.log.clear()
    meter.reset()
    assert cuda.log == ["synchronize", "empty_cache", "reset_peak_memory_stats"]


# Limits


def run_limited(code):
    """Run code in a process that may hold 256 MiB above what torch needs; returns its output."""
    setup = (
        "import torch, sys\n"
        "from retbench.machine.memory import *\n"
        "limit_further_memory(256 * 2**20)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", setup + code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@linux
def test_an_allocation_over_the_limit_fails_in_python_and_one_under_it_succeeds():
    over = "".join(
        f"try:\n    {allocation}\nexcept Exception as e:\n    print(is_out_of_memory(e))\n"
        for allocation in ("torch.ones(2**28)", "bytearray(2**30)")
    )
    under = "print(torch.ones(2**25).nbytes // 2**20)"
    assert run_limited(over + under).split() == ["True", "True", "128"]


# What there is


@linux
def test_available_memory_is_part_of_the_machines():
    total = host.field_bytes(Path("/proc/meminfo"), "MemTotal")
    assert 0 < memory.available_memory_bytes("cpu") <= total


def group(folder, *, limit, used, cache=0, version=2, high=None):
    """Writes a control group's files."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {
        2: ("memory.max", "memory.current", "inactive_file"),
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    }[version]
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\n{names[2]} {cache}\n")
    if high is not None:
        (folder / "memory.high").write_text(f"{high}\n")


def available(root, membership):
    """Bytes on a made-up machine with 10 KiB, of a process in these control groups."""
    (root / "self").mkdir()
    (root / "self/cgroup").write_text(membership)
    (root / "meminfo").write_text("MemAvailable:   10 kB\n")
    return memory.available_memory_bytes("cpu", proc=root, groups=root)


def test_a_control_group_leaves_its_limit_less_what_cannot_be_reclaimed(tmp_path):
    group(tmp_path / "job", limit=1000, used=700, cache=200)
    assert available(tmp_path, "0::/job\n") == 500


def test_the_tightest_of_nested_control_groups_counts(tmp_path):
    group(tmp_path / "outer", limit=1000, used=900)
    group(tmp_path / "outer/inner", limit="max", used=100)
    assert available(tmp_path, "0::/outer/inner\n") == 100


def test_a_control_group_without_a_limit_leaves_the_machines(tmp_path):
    group(tmp_path / "job", limit="max", used=700)
    assert available(tmp_path, "0::/job\n") == 10 * 1024


@pytest.mark.parametrize(
    ("most", "high", "least"), [("max", 1000, 1000), (800, 1000, 800), (900, "max", 900)]
)
def test_what_a_control_group_is_throttled_at_is_a_limit_too(tmp_path, most, high, least):
    group(tmp_path / "job", limit=most, high=high, used=700)
    assert available(tmp_path, "0::/job\n") == least - 700
    assert memory.limit_bytes(tmp_path, tmp_path / "self/cgroup") == least


def test_control_groups_of_version_1_are_read_too(tmp_path):
    group(tmp_path / "memory/job", limit=1000, used=700, cache=100, version=1)
    assert available(tmp_path, "5:cpuset:/\n4:memory:/job\n0::/\n") == 400


@pytest.mark.parametrize(("outer", "limit"), [(3000, 3000), (2**63 - 4096, None)])
def test_the_tightest_limit_is_told_and_none_where_there_is_none(tmp_path, outer, limit):
    group(tmp_path / "memory/a", limit=outer, used=0, version=1)
    group(tmp_path / "memory/a/b", limit=2**63 - 4096, used=0, version=1)
    (tmp_path / "cgroup").write_text("4:memory:/a/b\n")
    assert memory.limit_bytes(tmp_path, tmp_path / "cgroup") == limit


@pytest.mark.parametrize(
    ("file", "left"), [("memory.max", 10 * 1024), ("memory.current", 10 * 1024), ("memory.stat", 0)]
)
def test_a_file_of_a_control_group_that_shows_nothing_limits_nothing(tmp_path, file, left):
    group(tmp_path / "job", limit=1000, used=1000, cache=200)
    (tmp_path / "job" / file).write_text("")
    assert available(tmp_path, "0::/job\n") == left


# Exceptions


def test_every_way_of_saying_out_of_memory_is_recognised():
    for exception in (
        MemoryError(),
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        OSError("libx.so: cannot map zero-fill pages"),
    ):
        assert memory.is_out_of_memory(exception), exception


@pytest.mark.parametrize(
    ("text", "flags", "said"),
    [
        ("exit status 1: MemoryError", 0, True),
        ("terminate called after throwing an instance of 'std::bad_alloc'", 0, True),
        ("OSError: [Errno 12] Cannot allocate memory", 0, True),
        ("ImportError: /tmp/x.so: failed to map segment from shared object", 0, True),
        ("ImportError: /tmp/x.so: failed to map segment from shared object", os.ST_NOEXEC, False),
        ("ImportError: x.so: failed to map segment from shared object", 0, False),
        ("/tmp/x.so: failed to map segment from shared object: Permission denied", 0, False),
        ("/tmp/x.so: failed to map segment from shared object: Cannot allocate memory", 0, True),
        ("RuntimeError: cuFFT error: CUFFT_ALLOC_FAILED", 0, True),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", 0, True),
        ("HIPBLAS_STATUS_ALLOC_FAILED", 0, True),
        ("RuntimeError: no kernel; use a smaller batch if you run out of memory", 0, False),
        ("ImportError: /tmp/x.so: cannot map zero-fill pages", 0, True),
        ("ImportError: /tmp/x.so: cannot allocate memory in static TLS block", 0, False),
        ("a room without memory of it", 0, False),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'out of memory'", 0, False),
        ("OSError: [Errno 28] No space left on device: '/x/MemoryError-repro/out'", 0, False),
        ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED", 0, True),
        ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", 0, True),
        ("unhandled cuda error\nLast error:\nFailed to CUDA calloc async 2432 bytes", 0, True),
        ("unhandled system error\nLast error:\nFailed to malloc 64 bytes", 0, True),
        ("OpenBLAS error: Memory allocation still failed after 10 retries, giving up.", 0, True),
        ("OpenBLAS: malloc failed in gemm_driver", 0, True),
    ],
)
def test_only_the_allocators_and_the_kernels_words_are_want_of_memory(
    text, flags, said, monkeypatch
):
    monkeypatch.setattr(os, "statvfs", lambda file: SimpleNamespace(f_flag=flags))
    assert memory.says_out_of_memory(text) == said


def test_an_error_raised_from_want_of_memory_is_one():
    try:
        try:
            raise MemoryError
        except MemoryError as error:
            raise ValueError("compilation failed") from error
    except ValueError as outer:
        assert memory.is_out_of_memory(outer)


def test_an_error_while_cleaning_up_after_want_of_memory_is_one():
    try:
        try:
            raise torch.OutOfMemoryError
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error")
    except RuntimeError as outer:
        assert memory.is_out_of_memory(outer)


@pytest.mark.parametrize(
    ("later", "cause"), [(KeyError("x"), "kept"), (RuntimeError("shapes differ"), "hidden")]
)
def test_an_error_after_a_want_of_memory_that_was_met_is_none(later, cause):
    with pytest.raises(type(later)) as caught:
        try:
            raise MemoryError
        except MemoryError:
            if cause == "hidden":
                raise later from None
            raise later  # noqa: B904 (its context is what is tested)
    assert not memory.is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    "exception",
    [
        RuntimeError("shapes differ"),
        ValueError("out of memory"),
        KeyError("x"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/home/u/out of memory/a.txt"),
        OSError(errno.ENOSPC, "No space left on device", "/x/MemoryError-repro/out"),
    ],
)
def test_other_errors_are_not_want_of_memory(exception):
    assert not memory.is_out_of_memory(exception)


def test_an_impossible_array_raises_what_is_recognised():
    for count in (2**50, 2**62):
        with pytest.raises((MemoryError, ValueError)) as caught:
            np.empty(count, dtype=np.int64)
        assert memory.is_out_of_memory(caught.value)


def test_an_impossible_tensor_raises_what_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert memory.is_out_of_memory(caught.value)
