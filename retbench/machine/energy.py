"""The energy that a device has used, by its own counter; where it has none, nothing is estimated.

Of a GPU it is NVML's counter: the whole board's. Of a processor it is RAPL's, read from Linux's
powercap: all its packages, and the memory where it is counted apart. On most systems only root may
read those files (CVE-2020-8694); ``retbench doctor`` says how to allow it. A counter is renewed in
ticks, up to 100 ms apart on a GPU, so what is measured begins and ends with a tick.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from retbench.machine import host, nvml

POWERCAP = Path("/sys/class/powercap")
POLL_S = 1e-3
"""Between two looks at a counter whose tick is waited for; RAPL's are as far apart."""
LONGEST_TICK_S = 1.0
"""A counter that stands still for so long while work is done does not count that work."""


class Counter(Protocol):
    """Joules that a device has used since some moment in the past."""

    source: str

    def read_j(self) -> float | None:
        """The count now, in joules; None where it cannot be read any more."""


@dataclass(frozen=True)
class Used:
    """What some calls used.

    Attributes:
        joules: between the first tick and the last.
        seconds: between the same ticks.
        calls: begun and ended meanwhile.
    """

    joules: float
    seconds: float
    calls: int


class _Rapl:
    """The sum over zones, each of which begins anew at its own maximum."""

    source = "rapl"

    def __init__(self, zones: list[Path]) -> None:
        self._zones = {zone: host.number(zone / "max_energy_range_uj") or 0 for zone in zones}
        self._last = {zone: host.number(zone / "energy_uj") or 0 for zone in zones}
        self._used_uj = 0

    def read_j(self) -> float | None:
        for zone, most in self._zones.items():
            now = host.number(zone / "energy_uj")
            if now is None:
                return None
            grown = now - self._last[zone]
            self._used_uj += grown if grown >= 0 else grown + most
            self._last[zone] = now
        return self._used_uj / 1e6


def counter(device: str, powercap: Path = POWERCAP) -> Counter | None:
    """What counts a device's energy; None where nothing does, or this user may not read it.

    Args:
        device: ``cpu``, or a CUDA device that torch computes on in this process.
        powercap: where Linux shows RAPL's zones.
    """
    found: Counter | None
    if device.startswith("cuda"):
        found = nvml.computing_gpu()
    else:
        zones = rapl_zones(powercap)
        readable = zones and all(host.number(zone / "energy_uj") is not None for zone in zones)
        found = _Rapl(zones) if readable else None
    return found if found is not None and found.read_j() is not None else None


def rapl_zones(powercap: Path = POWERCAP) -> list[Path]:
    """Folders of the packages, and of memory that no package counts; empty without RAPL."""
    names = {zone: host.read(zone / "name") for zone in sorted(powercap.glob("intel-rapl:*"))}
    return [zone for zone, name in names.items() if name.startswith("package") or name == "dram"]


def used(
    counter: Counter,
    call: Callable[[], object],
    least_s: float,
    now: Callable[[], float] = time.perf_counter,
) -> Used | None:
    """Wait for a tick of the counter, then repeat a call for so long and up to another tick.

    Args:
        counter: of the device that the call keeps busy.
        call: ends when its work has ended.
        least_s: seconds between the two ticks at least.
        now: the clock, in seconds.

    Returns:
        None where the counter cannot be read, or stands still.
    """
    begin = _tick(counter, counter.read_j(), partial(time.sleep, POLL_S), now)
    if begin is None:
        return None
    end, calls = begin, 0
    while end[1] - begin[1] < least_s:
        tick = _tick(counter, end[0], call, now)
        if tick is None:
            return None
        end, calls = tick, calls + tick[2]
    return Used(end[0] - begin[0], end[1] - begin[1], calls)


def _tick(
    counter: Counter, last: float | None, call: Callable[[], object], now: Callable[[], float]
) -> tuple[float, float, int] | None:
    """Call until the count is not the last one any more: the count, the moment, and the calls."""
    begun, calls, count, moment = now(), 0, last, math.inf
    while count is not None and count == last:
        if calls > 1 and moment - begun > LONGEST_TICK_S:
            return None
        call()
        calls += 1
        count, moment = counter.read_j(), now()
    return None if count is None else (count, moment, calls)
