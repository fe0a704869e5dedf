"""What this machine can do at most, measured: memory bandwidth and matmul rate.

No peak is taken from a data sheet. A CPU's caches make its bandwidth depend on how much memory is
touched, so it is measured over working sets from 4 MiB to 1 GiB; a GPU has one size. A ceiling is
a maximum: the fastest of several operations and repeats counts. The result is a JSON document:

    {"device": "cpu", "threads": 2,
     "bandwidth": [{"working_set_bytes": 4194304, "read_bytes_per_s": 9.1e10,
                    "copy_bytes_per_s": 6.8e10}, ...],
     "matmul_flop_per_s": {"float32": 3.3e11, "bfloat16": 1.5e12},
     "elapsed_s": 2.6}

A copy's bytes count both ways, read and written. A size or dtype that the machine cannot do, or
that there was no time for, is absent.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from retbench.machine.clock import Clock
from retbench.machine.memory import available_memory_bytes
from retbench.machine.threads import cpu_threads

if TYPE_CHECKING:
    import torch

Ceilings = Mapping[str, Any] | None
"""What a machine can do at most, as :func:`measure` gives it; None where unknown."""
MIB = 2**20
CPU_WORKING_SETS = tuple(mib * MIB for mib in (4, 16, 64, 256, 1024))
CUDA_WORKING_SET = 4096 * MIB
CPU_MATMUL_SIZES = (1024, 2048)
CUDA_MATMUL_SIZES = (8192,)
PLAUSIBLE = 1.5  # a working set's bandwidth over a smaller one's; known rate over measured
TOLERANCE = 1.10  # a ceiling is itself measured: only a figure 10% beyond it breaks physics
_ROW = 4096  # columns of the matrix that is read: long enough to hide the cost of a row's end
_READ_BUDGET_S = 0.01  # for one operation at one working set, each time it is gone over
_MATMUL_BUDGET_S = 0.08  # for one size
_BANDWIDTH_BUDGET_S = 1.7  # after which no larger working set, and no further round, is begun


def measure(device: str, dtypes: Sequence[str], threads: int) -> dict[str, Any]:
    """Measure this machine's ceilings, in about three seconds.

    Args:
        device: ``cpu``, or a CUDA device such as ``cuda``.
        dtypes: names of torch dtypes to measure the matmul rate of.
        threads: CPU threads to use meanwhile.
    """
    started = time.perf_counter()
    on_cuda = device.startswith("cuda")
    with cpu_threads(threads):
        rates = {dtype: _matmul_flop_per_s(device, dtype) for dtype in dtypes}
        deadline = time.perf_counter() + _BANDWIDTH_BUDGET_S
        bandwidth = _bandwidths(device, _working_sets(device), deadline)
    return {
        "device": device,
        "threads": None if on_cuda else threads,
        "bandwidth": bandwidth,
        "matmul_flop_per_s": {dtype: rate for dtype, rate in rates.items() if rate is not None},
        "elapsed_s": time.perf_counter() - started,
    }


def merge(first: Ceilings, second: Mapping[str, Any]) -> dict[str, Any]:
    """The better figure of two measurements of one machine: other work can only lower a ceiling."""
    if first is None:
        return dict(second)
    rates = first["matmul_flop_per_s"], second["matmul_flop_per_s"]
    entries: dict[int, dict[str, float]] = {}
    for entry in [*first["bandwidth"], *second["bandwidth"]]:
        known = entries.setdefault(entry["working_set_bytes"], dict(entry))
        known.update({key: max(known[key], entry[key]) for key in entry})
    return {
        **second,
        "bandwidth": [entries[size] for size in sorted(entries)],
        "matmul_flop_per_s": {
            dtype: max(rate[dtype] for rate in rates if dtype in rate)
            for dtype in {**rates[0], **rates[1]}
        },
        "elapsed_s": first["elapsed_s"] + second["elapsed_s"],
    }


def implausible(ceilings: Mapping[str, Any], known: Ceilings = None) -> list[str]:
    """Why ceilings cannot be this machine's, a sentence each: something else ran meanwhile.

    A cache is no slower than the memory behind it, so a small working set has at least the
    bandwidth of a larger one; and no ceiling lies far below what was reached here before. Both
    within a factor of 1.5.

    Args:
        ceilings: what :func:`measure` gave.
        known: the same of an earlier day, with as many threads; None where there are none.
    """
    why = []
    sizes = [entry["working_set_bytes"] for entry in ceilings["bandwidth"]]
    for size, entry in zip(sizes, ceilings["bandwidth"], strict=True):
        reached = max(entry["read_bytes_per_s"], entry["copy_bytes_per_s"])
        larger = bandwidth_at(ceilings, size) or reached
        if larger > PLAUSIBLE * reached:
            why.append(
                f"{reached / 1e9:.3g} GB/s at {size / MIB:.0f} MiB, {larger / 1e9:.3g} GB/s at more"
            )
    for dtype, rate in (known or {}).get("matmul_flop_per_s", {}).items():
        now = matmul_rate(ceilings, dtype)
        if now is not None and rate > PLAUSIBLE * now:
            why.append(
                f"{now / 1e9:.3g} GFLOP/s in {dtype}, and {rate / 1e9:.3g} when it was audited"
            )
    return why


def bandwidth_at(ceilings: Ceilings, working_set_bytes: float) -> float | None:
    """The bandwidth that a working set of this size can reach at most, bytes/s.

    At each measured size the better of read and copy counts, or what a larger working set reached
    if that is more. Between sizes it is interpolated on logarithms; below the smallest and above
    the largest it is theirs. None where no bandwidth was measured.
    """
    entries = sorted(
        (entry["working_set_bytes"], max(entry["read_bytes_per_s"], entry["copy_bytes_per_s"]))
        for entry in (ceilings or {}).get("bandwidth", [])
    )
    if not entries:
        return None
    sizes, best = np.array(entries, dtype=float).T
    falling = np.maximum.accumulate(best[::-1])[::-1]
    size = max(float(working_set_bytes), 1.0)
    return float(np.exp(np.interp(math.log(size), np.log(sizes), np.log(falling))))


def peak_bandwidth(ceilings: Ceilings) -> float | None:
    """The best bandwidth reached at any working set, bytes/s; None where none was measured."""
    return bandwidth_at(ceilings, 0)


def matmul_rate(ceilings: Ceilings, dtype: str) -> float | None:
    """The best matmul rate reached in a dtype, FLOP/s; None where it was not measured."""
    rate = (ceilings or {}).get("matmul_flop_per_s", {}).get(dtype)
    return None if rate is None else float(rate)


def violates_physics(
    seconds: float, flops: float, moved_bytes: float, dtype: str, ceilings: Ceilings
) -> str | None:
    """Why work of these FLOPs and bytes cannot have taken so little time; None if it can.

    The floors are the best bandwidth at any working set and the best matmul rate of the type. Where
    one was not measured nothing is claimed.
    """
    rate, bandwidth = matmul_rate(ceilings, dtype), peak_bandwidth(ceilings)
    return _beyond(moved_bytes, seconds, bandwidth, "GB/s", "bandwidth") or _beyond(
        flops, seconds, rate, "GFLOP/s", f"{dtype} matmul rate"
    )


def _beyond(work: float, seconds: float, peak: float | None, unit: str, what: str) -> str | None:
    """The sentence that says by how much work over time exceeds a peak, None if it does not."""
    if peak is None or work <= TOLERANCE * peak * seconds:
        return None
    if seconds <= 0:
        return f"took {seconds:g} s, less than any work takes"
    rate = work / seconds
    return (
        f"needs {rate / 1e9:.3g} {unit}, {rate / peak:.3g} times the best {what} measured "
        f"on this machine ({peak / 1e9:.3g} {unit})"
    )


def _working_sets(device: str) -> tuple[int, ...]:
    """The sizes to measure, none over a quarter of the memory there is."""
    available = available_memory_bytes(device)
    quarter = math.inf if available is None else available // 4
    if device.startswith("cuda"):
        sizes: tuple[int, ...] = (int(min(CUDA_WORKING_SET, quarter)) // MIB * MIB,)
    else:
        sizes = CPU_WORKING_SETS
    return tuple(size for size in sizes if 0 < size <= quarter)


def _bandwidths(
    device: str, working_sets: Sequence[int], deadline: float
) -> list[dict[str, float]]:
    """Bandwidth at each working set, ascending, until the deadline (a ``perf_counter`` time).

    The sizes are gone over again and again while time is left, so that something else running for
    a moment does not lower one of them.
    """
    import torch

    clock = Clock(device)
    buffer = torch.empty(max(working_sets, default=0) // 4, device=device)
    fastest: dict[int, tuple[float, float]] = {}
    written = 0
    for size in working_sets:
        if fastest and time.perf_counter() > deadline:
            break
        # Pages never written all map to one page of zeros, which would be read from the cache.
        buffer[written // 4 : size // 4].fill_(1.0)
        written = size
        fastest[size] = _read_and_copy_s(clock, buffer[: size // 4])
    while fastest and time.perf_counter() < deadline:
        for size, (read_s, copy_s) in fastest.items():
            again = _read_and_copy_s(clock, buffer[: size // 4])
            fastest[size] = min(read_s, again[0]), min(copy_s, again[1])
    return [
        {
            "working_set_bytes": size,
            "read_bytes_per_s": size / read_s,
            "copy_bytes_per_s": size / copy_s,
        }
        for size, (read_s, copy_s) in fastest.items()
    ]


def _read_and_copy_s(clock: Clock, buffer: torch.Tensor) -> tuple[float, float]:
    """Seconds of the fastest way to read a buffer, and to copy one half of it to the other."""
    read_s = min(_fastest_s(clock, read, _READ_BUDGET_S) for read in _reads(buffer))
    source, target = buffer.chunk(2)
    return read_s, _fastest_s(clock, partial(target.copy_, source), _READ_BUDGET_S)


def _reads(buffer: torch.Tensor) -> list[Callable[[], object]]:
    """Operations that read the whole buffer once: which is fastest depends on size and machine."""
    import torch

    matrix = buffer.view(-1, _ROW)
    vector = torch.ones(_ROW, device=buffer.device)
    out = torch.empty(len(matrix), device=buffer.device)
    half = buffer.numel() // 2
    return [
        lambda: torch.mv(matrix, vector, out=out),
        lambda: torch.dot(buffer[:half], buffer[half:]),
        lambda: buffer.sum(),
    ]


def _matmul_flop_per_s(device: str, dtype: str) -> float | None:
    """The best rate of square products of random matrices; None where the dtype has no matmul.

    A ceiling is that of the fastest kernel that a model could run: which of them a layer, a batch
    of heads or a plain product takes differs by type and machine.
    """
    import torch

    clock = Clock(device)
    sizes = CUDA_MATMUL_SIZES if device.startswith("cuda") else CPU_MATMUL_SIZES
    generator = torch.Generator(device).manual_seed(0)
    best = 0.0
    for n in sizes:
        # Not zeros: a GPU's clock rises where no bit flips.
        left = torch.randn(n, n, device=device, generator=generator)
        try:
            left = left.to(getattr(torch, dtype))
            kernels = _products(left, on_cuda=device.startswith("cuda"))
            seconds = min(
                _fastest_s(clock, product, _MATMUL_BUDGET_S / len(kernels)) for product in kernels
            )
        except (NotImplementedError, RuntimeError):
            return best or None
        best = max(best, 2.0 * n**3 / seconds)
        if seconds > _MATMUL_BUDGET_S:
            break
    return best


def _products(left: torch.Tensor, *, on_cuda: bool) -> list[Callable[[], object]]:
    """Kernels that do the work of the product of a square matrix with another."""
    import torch

    right, out = left.clone(), torch.empty_like(left)
    kernels: list[Callable[[], object]] = [
        partial(torch.mm, left, right, out=out),
        partial(torch.nn.functional.linear, left, right),
        partial(torch.bmm, left.view(2, -1, len(left)), right.expand(2, -1, -1)),
    ]
    if not on_cuda and left.dtype in (torch.float16, torch.bfloat16):
        # As attention's kernels do on a processor that has no better for the type.
        wide = left.float()
        kernels.append(partial(torch.mm, wide, wide))
    return kernels


def _fastest_s(clock: Clock, operation: Callable[[], object], budget_s: float) -> float:
    """Seconds of the fastest of several samples, after two calls that are not counted."""
    deadline = time.perf_counter() + budget_s
    call_s = min(clock.time(operation).seconds for _ in range(2))
    repeats = clock.repeats_for(call_s)
    fastest = math.inf
    while True:
        fastest = min(fastest, clock.time(operation, repeats).seconds)
        if time.perf_counter() > deadline:
            return fastest
