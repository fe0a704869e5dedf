"""How many threads compute, where, and how long an idle one may spin: chosen before torch starts.

OpenMP's threads spin at a barrier before they sleep, libgomp's for some 300,000 turns, LLVM's and
Intel's for 200 ms. Beside another busy process the thread that is waited for is often not running,
and those that spin keep the processor from it. Half a millisecond of spinning costs a quiet machine
nothing that can be measured, and bounds what is lost on a busy one; where a core is left to the
others nothing is lost.
``docs/measurement.md`` has the figures.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from retbench.machine import host
from retbench.machine.interference import foreign_cpu_s

SPIN_LIMITS = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "0"}
"""Of libgomp, in turns of its loop; of LLVM's and Intel's runtimes, in whole milliseconds."""

# Whoever sets one of these has chosen for himself.
_CHOICES = ("OMP_WAIT_POLICY", *SPIN_LIMITS)

_LOOK_S = 0.3
_GLANCE_S = 0.1  # ten ticks of the kernel


def spin_limits(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that limit spinning; none where ``environment`` already sets a policy."""
    return {} if any(name in environment for name in _CHOICES) else dict(SPIN_LIMITS)


def limit_spinning() -> None:
    """Limit it in this process, whose OpenMP runtime reads its environment when it is loaded."""
    if "torch" not in sys.modules:
        os.environ.update(spin_limits())


def hindrance(threads: int, environment: Mapping[str, str] = os.environ) -> str | None:
    """The variable, with its value, that keeps so many threads from computing; None without one.

    torch counts them all none the less. Other ways to place threads are the user's choice.
    """
    placed = re.findall(r"(\d+)(?:-(\d+))?(?::(\d+))?", environment.get("GOMP_CPU_AFFINITY", ""))
    cpus = {
        cpu
        for first, last, step in placed
        for cpu in range(int(first), int(last or first) + 1, int(step or 1) or 1)
    }
    limit = environment.get("OMP_THREAD_LIMIT", "")
    hinders = {
        "OMP_THREAD_LIMIT": limit.isdecimal() and int(limit) < threads,
        "OMP_DYNAMIC": environment.get("OMP_DYNAMIC", "").lower() in ("true", "1", "yes", "on"),
        "OMP_MAX_ACTIVE_LEVELS": environment.get("OMP_MAX_ACTIVE_LEVELS") == "0",
        "GOMP_CPU_AFFINITY": sys.platform == "linux" and 0 < len(cpus) < threads,
    }
    found = next((name for name, true in hinders.items() if true and threads > 1), None)
    return found and f"{found}={environment[found]}"


def mean_cores(cpu_s: Callable[[], float | None], seconds: float = _LOOK_S) -> float | None:
    """How many cores a count of CPU seconds stands for on average; None where it is None.

    Args:
        cpu_s: gives the CPU seconds that were counted so far.
        seconds: how long to look; this process sleeps meanwhile.
    """
    before, started = cpu_s(), time.perf_counter()
    time.sleep(seconds)
    after = cpu_s()
    if before is None or after is None:
        return None
    return max(0.0, after - before) / (time.perf_counter() - started)


def beside_others(threads: int, spared: int = 0) -> int:
    """Of so many threads those to use: one less for each core that others keep busy, at least 1.

    ``spared`` cores have been left to them before.
    """
    busy = mean_cores(foreign_cpu_s) if threads > 1 else None
    return threads if busy is None else max(1, threads - max(0, round(busy) - spared))


def idle_cpus(threads: int) -> tuple[int, ...]:
    """The logical processors, one of a core, that so many threads had best compute on.

    Those that nobody used while this process slept for a moment, of these the fastest, for a
    processor may have cores of two kinds; none where all cores are needed, or the system does not
    let a process choose.
    """
    cores = host.cpu_of_each_core()
    if threads >= len(cores) or not hasattr(os, "sched_setaffinity"):
        return ()
    before = host.idle_ticks()
    time.sleep(_GLANCE_S)
    idle = {cpu: ticks - before.get(cpu, ticks) for cpu, ticks in host.idle_ticks().items()}
    least = max(idle.values(), default=0) / 2

    def worth(cpu: int) -> tuple[bool, int, int]:
        return idle.get(cpu, 0) >= least, host.max_khz(cpu) or 0, cpu  # the first has interrupts

    return tuple(sorted(sorted(cores, key=worth)[-threads:]))


def wait_policy() -> dict[str, str]:
    """The variables in force in a worker of this process."""
    chosen = {name: os.environ[name] for name in _CHOICES if name in os.environ}
    return chosen or spin_limits()


def shortage(threads: int, usual: int) -> str | None:
    """Why fewer threads compute than usual, as a sentence; None where as many do."""
    if threads >= usual:
        return None
    return f"threads: {threads} instead of {usual}, for other programs keep cores busy"


@contextmanager
def cpu_threads(threads: int) -> Iterator[None]:
    """Let torch use so many CPU threads inside."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
