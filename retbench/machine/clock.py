"""One clock for every timed thing, on a CPU and on a CUDA device.

On a CPU it is the host's monotonic clock. On a CUDA device, where a call returns before its work
is done, the host's clock is read after a synchronisation and CUDA events measure the same work
from inside; both are kept, and so is the time that launching the first call took, which says
whether launching, not computing, took the time. The device spins until that call is launched:
otherwise the gap before its first kernel would be charged to whatever takes longest to launch. The
calls of a sample follow each other, so what fits into a GPU's L2 cache is found there: it is warm.
Garbage collection is off while the clock runs, and nothing but the work is on its line.

    clock = Clock("cpu")
    repeats = clock.repeats_for(clock.time(step).seconds)
    samples = [clock.time(step, repeats).seconds for _ in range(20)]
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from typing import Any

SHORTEST_SAMPLE_S = {"cpu": 1e-3, "cuda": 1e-2}  # a GPU's first and last kernel cost microseconds
CLOCK_STEPS_IN_SAMPLE = 100
FIRST_SPIN_CYCLES = 10**5  # some 50 us; later spins are as long as the launch before took
LONGEST_SPIN_S = 5e-3  # a first call may compile for minutes
LAUNCH_BOUND_GAP = 0.10  # of the time; a device kept busy is further behind its host than that
WINDOW = 3  # trials in a window of the warm-up
SETTLED_FALL = 0.02  # the median of a window may lie that much below that of the one before
LONG_TRIAL_FALL = 0.10  # the last of a few long trials may be that much faster than the one before
LAUNCH_BOUND = "launch_bound"
UNSETTLED = "unsettled"


@dataclass(frozen=True)
class Timing:
    """How long one call took, on average over the calls of one sample.

    Attributes:
        host_s: seconds on the host's clock, from the first call to the end of the last one's work.
        device_s: seconds between CUDA events around the same calls, None on a CPU.
        launch_s: seconds until the first call returned, its work launched; None on a CPU.
    """

    host_s: float
    device_s: float | None = None
    launch_s: float | None = None

    @property
    def seconds(self) -> float:
        """The time of a call: the device's own where there is one, else the host's."""
        return self.host_s if self.device_s is None else self.device_s

    @property
    def launch_bound(self) -> bool:
        """Whether the device waited for the host.

        Either the host took over 10% longer, or launching a call took the host all but 10% of the
        device's time. The second is what starves a device from call to call: its events then lie
        as far apart as the launches, and the two clocks agree.
        """
        if self.device_s is None or self.launch_s is None:
            return False
        gap = self.host_s > self.device_s * (1 + LAUNCH_BOUND_GAP)
        return gap or self.launch_s > self.device_s * (1 - LAUNCH_BOUND_GAP)


class Clock:
    """Times calls on one device.

    Args:
        device: ``cpu``, or a CUDA device such as ``cuda``; events are recorded on its current
            stream.
        cuda: what to use in place of ``torch.cuda``.
    """

    def __init__(self, device: str = "cpu", *, cuda: Any = None) -> None:
        self.device = device
        self._cuda = cuda
        self._spin_cycles = FIRST_SPIN_CYCLES
        if cuda is None and device.startswith("cuda"):
            import torch

            self._cuda = torch.cuda

    def time(self, fn: Callable[[], object], repeats: int = 1) -> Timing:
        """Time ``repeats`` calls of ``fn`` as one sample.

        Work that was queued before is waited for, so that it is not charged to ``fn``.
        """
        with garbage_collection_off():
            return self._on_cuda(fn, repeats) if self._cuda else _on_host(fn, repeats)

    def repeats_for(self, call_s: float) -> int:
        """Calls of that many seconds that make a sample long enough.

        That is 1 ms, on a CUDA device 10 ms, and 100 of the clock's steps.
        """
        shortest_s = SHORTEST_SAMPLE_S[self.device.partition(":")[0]]
        enough_s = max(shortest_s, CLOCK_STEPS_IN_SAMPLE * resolution_s())
        return max(1, math.ceil(enough_s / max(call_s, 1e-9)))

    def _on_cuda(self, fn: Callable[[], object], repeats: int) -> Timing:
        """Events inside, the host's clock outside; the time that the device spins is in neither."""
        spin, first, last = (self._cuda.Event(enable_timing=True) for _ in range(3))
        self._cuda.synchronize(self.device)
        start = time.perf_counter_ns()
        spin.record()
        self._cuda._sleep(self._spin_cycles)
        first.record()
        begun = time.perf_counter_ns()
        fn()
        # The first call alone: later ones may wait for room in the device's queue.
        launched = time.perf_counter_ns()
        for _ in repeat(None, repeats - 1):
            fn()
        last.record()
        self._cuda.synchronize(self.device)
        stop = time.perf_counter_ns()
        spin_s = spin.elapsed_time(first) * 1e-3  # events count in milliseconds
        launch_s = (launched - begun) * 1e-9
        self._spin_cycles = round(self._spin_cycles * min(launch_s, LONGEST_SPIN_S) / spin_s) + 1
        return Timing(
            host_s=((stop - start) * 1e-9 - spin_s) / repeats,
            device_s=first.elapsed_time(last) * 1e-3 / repeats,
            launch_s=launch_s,
        )


def slowed(fn: Callable[[], object], by: float, clock: Clock) -> Callable[[], object]:
    """``fn`` made slower on purpose: what an audit plants, to see whether it is found.

    On a CPU each call is followed by a wait of ``by`` times its own duration; on a CUDA device the
    wait is a kernel behind it on the stream, as long as ``by`` times a call took when this was
    made.

    Args:
        fn: what is timed.
        by: the relative slowdown; 0.05 makes a call take 1.05 times as long.
        clock: the clock of the device.
    """
    if not clock.device.startswith("cuda"):

        def on_host() -> None:
            start = time.perf_counter_ns()
            fn()
            end = time.perf_counter_ns()
            end += round((end - start) * by)
            while time.perf_counter_ns() < end:
                pass

        return on_host
    import torch

    cycles = 10**6
    call_s = min(clock.time(fn).seconds for _ in range(2))
    sleep_s = min(clock.time(lambda: torch.cuda._sleep(cycles)).seconds for _ in range(3))
    wait = max(1, round(cycles * by * call_s / sleep_s))

    def on_device() -> None:
        fn()
        torch.cuda._sleep(wait)

    return on_device


def _on_host(fn: Callable[[], object], repeats: int) -> Timing:
    """The host's clock around the calls."""
    start = time.perf_counter_ns()
    for _ in repeat(None, repeats):
        fn()
    stop = time.perf_counter_ns()
    return Timing((stop - start) * 1e-9 / repeats)


@contextmanager
def garbage_collection_off() -> Iterator[None]:
    """Keep the garbage collector off inside, and leave it as it was found."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def resolution_s() -> float:
    """The clock's smallest step in seconds: what it states or what it shows, whichever is worse."""
    shown_ns = []
    for _ in range(20):
        start = stop = time.perf_counter_ns()
        while stop == start:
            stop = time.perf_counter_ns()
        shown_ns.append(stop - start)
    return max(min(shown_ns) * 1e-9, time.get_clock_info("perf_counter").resolution)


def warm_up(
    trial: Callable[[], float],
    *,
    at_least: int,
    budget_s: float,
    now: Callable[[], float] | None = None,
) -> list[str]:
    """Repeat a trial until its time no longer falls.

    Ends once ``at_least`` trials have run and have settled (:func:`has_settled`), or when
    ``budget_s`` is spent. A trial longer than a third of the budget warms itself: then as many run
    as the budget holds, ``at_least`` or not, and so few are judged by the last two alone.

    Args:
        trial: runs one trial and returns its time in seconds.
        at_least: trials to run before the test.
        budget_s: wall-clock seconds after which no further trial starts.
        now: the clock of the budget, in seconds; this process's own where None.

    Returns:
        The flags: ``["unsettled"]`` where the times still fell at the end, else none.
    """
    now = now or time.perf_counter
    times: list[float] = []
    started = now()
    while True:
        times.append(trial())
        if len(times) >= at_least and has_settled(times):
            return []
        spent_s = now() - started
        is_long = spent_s / len(times) > budget_s / 3
        if spent_s >= budget_s and (is_long or len(times) >= at_least):
            few = len(times) < 2 * WINDOW and times[-1] >= times[-2:][0] * (1 - LONG_TRIAL_FALL)
            return [] if few else [UNSETTLED]


def has_settled(times: Sequence[float]) -> bool:
    """Whether the median of the last window of trials is no longer below that of the one before.

    What warms up gets faster: caches fill, clocks rise, code is compiled. So only a fall by more
    than 2% counts; times that rise or scatter are a matter of the machine, which other flags tell.
    Fewer than two windows of trials have never settled.
    """
    if len(times) < 2 * WINDOW:
        return False
    before, last = times[-2 * WINDOW : -WINDOW], times[-WINDOW:]
    return statistics.median(last) >= statistics.median(before) * (1 - SETTLED_FALL)
