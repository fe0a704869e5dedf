"""Whether something disturbed a measurement: other work on the machine, or a GPU that slowed down.

Looks only before and after what is timed, and only ever flags (rule M12); nothing is dropped. The
kernel counts in steps of 10 ms, so one slice says little; the sum over the slices of a cell does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from retbench.machine import host, nvml

FOREIGN_PROCESS = "foreign_process"
THREADS_WAIT = "threads_wait"
THROTTLED = "throttled"

FOREIGN_CORES = 0.10
"""Cores that others may keep busy on average before a cell is flagged."""

BARRIER_S = 1e-3
"""Threads that run meet within some 10 us; one that waits for a core does so for milliseconds."""
LATE_MEETINGS = 0.10
"""Share of the slices before which threads may have met late, before a cell is flagged."""

# NVML's nvmlClocksEventReasons: hardware slowdown, software and hardware thermal slowdown, power
# brake. The software power cap is left out: a large matmul reaches it on a healthy machine.
_THROTTLE_REASONS = 0x08 | 0x20 | 0x40 | 0x80
_GRAIN = 32768  # at::internal::GRAIN_SIZE: numbers from which torch asks for one more thread
_MEETINGS = 8
_CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Disturbances:
    """What else a machine did while something was measured on it.

    Args:
        device: ``cpu``, or a CUDA device such as ``cuda``.
        mates: ids of the processes that take part in the measurement besides this one.
        companions: further processes of the run that are on the device, and idle.
        threads: of this process that compute; where they are several on a CPU, it is looked at
            before each slice how long they wait for each other.
    """

    def __init__(
        self, device: str, mates: Sequence[int] = (), companions: int = 0, threads: int = 1
    ) -> None:
        self._on_cuda = device.startswith("cuda")
        self._mates, self._companions = mates, companions
        self._meet = None if self._on_cuda or threads == 1 else barrier(threads)
        self._meetings_s: list[float] = []
        self._elapsed_s = 0.0
        self._foreign_s = 0.0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Take note of what others do meanwhile; may be entered again and again."""
        if self._meet is not None:
            self._meetings_s.append(self._meet())
        before, started = foreign_cpu_s(mates=self._mates), time.perf_counter()
        yield
        after = foreign_cpu_s(mates=self._mates)
        if before is not None and after is not None:
            self._foreign_s += after - before
            self._elapsed_s += time.perf_counter() - started

    def flags(self) -> list[str]:
        """The flags that apply to all that was watched; none where the machine does not tell."""
        if self._on_cuda:
            return gpu_flags(1 + self._companions)
        late = sum(seconds > BARRIER_S for seconds in self._meetings_s)
        flags = [FOREIGN_PROCESS] if self._foreign_s > FOREIGN_CORES * self._elapsed_s else []
        return flags + [THREADS_WAIT] * (late > LATE_MEETINGS * len(self._meetings_s))


def barrier(threads: int) -> Callable[[], float]:
    """A call that has so many of torch's threads meet a few times, and gives the slowest's seconds.

    torch must be set to use them; see :data:`BARRIER_S` for how long they take.
    """
    import torch

    numbers = torch.zeros(threads * _GRAIN)

    def meet() -> float:
        numbers.add_(1)  # wakes those that sleep
        slowest = 0.0
        for _ in range(_MEETINGS):
            begun = time.perf_counter()
            numbers.add_(1)
            slowest = max(slowest, time.perf_counter() - begun)
        return slowest

    return meet


def foreign_cpu_s(stat: Path = Path("/proc/stat"), mates: Sequence[int] = ()) -> float | None:
    """CPU seconds since boot in which somebody else worked, stolen time included; Linux only.

    Only differences mean something: the share of this process and of its ``mates`` is subtracted
    from all that was busy.
    """
    seconds = _cpu_seconds(stat)
    if seconds is None:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = seconds
    used = os.times()
    busy_s = user + nice + system + irq + softirq + steal
    return busy_s - used.user - used.system - sum(map(cpu_s, mates))


def stolen_cpu_s(stat: Path = Path("/proc/stat")) -> float | None:
    """CPU seconds since boot that a hypervisor gave to other machines; Linux only."""
    seconds = _cpu_seconds(stat)
    return None if seconds is None else seconds[-1]


def _cpu_seconds(stat: Path) -> list[float] | None:
    """The first eight counters of all processors together, proc(5); None where there are none."""
    ticks = host.read(stat).partition("\n")[0].split()[1:9]
    return [int(count) / _CLOCK_TICKS_PER_S for count in ticks] if len(ticks) == 8 else None


def cpu_s(pid: int) -> float:
    """CPU seconds of another process of this machine; 0 once it has ended."""
    fields = host.read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    # User and system time, counted from the state, which follows the name.
    return sum(map(int, fields[11:13])) / _CLOCK_TICKS_PER_S


def gpu_flags(own: int) -> list[str]:
    """What the driver says: more than our own processes on the GPU, and a clock held back."""
    gpu = nvml.computing_gpu()
    if gpu is None:
        return []
    flags = [FOREIGN_PROCESS] if (gpu.processes() or 0) > own else []
    return flags + ([THROTTLED] if gpu.clock_reasons() & _THROTTLE_REASONS else [])
