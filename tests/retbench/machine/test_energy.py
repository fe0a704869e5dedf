from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from retbench.machine import energy


class Counter:
    """Gives the counts that it was made of, then the last one again and again."""

    source = "nvml"

    def __init__(self, counts: Iterable[float | None]) -> None:
        self._counts = iter(counts)
        self._last: float | None = None

    def read_j(self) -> float | None:
        self._last = next(self._counts, self._last)
        return self._last


def zone(folder: Path, place: str, name: str, most: int = 1000) -> Callable[[int], None]:
    """Make a zone of RAPL; gives what sets its count, in microjoules."""
    made = folder / f"intel-rapl:{place}"
    made.mkdir(parents=True)
    (made / "name").write_text(f"{name}\n")
    (made / "max_energy_range_uj").write_text(f"{most}\n")

    def count(microjoules: int) -> None:
        (made / "energy_uj").write_text(f"{microjoules}\n")

    count(0)
    return count


def clock(step_s: float) -> Callable[[], float]:
    ticks = itertools.count()
    return lambda: next(ticks) * step_s


def test_what_calls_use_is_counted_from_one_tick_to_another() -> None:
    # Three looks up to the first tick; then ticks after two calls and after three.
    counter = Counter([10, 10, 10, 12, 12, 15, 15, 15, 19])
    calls: list[int] = []
    found = energy.used(counter, lambda: calls.append(1), 2.5, clock(0.5))
    assert found is not None
    assert (found.joules, found.calls, found.seconds) == (7, len(calls), 3.5)
    assert len(calls) == 5


def test_a_counter_that_stands_still_counts_nothing() -> None:
    assert energy.used(Counter([5.0]), lambda: None, 0.5, clock(0.1)) is None


def test_a_counter_that_is_lost_counts_nothing() -> None:
    assert energy.used(Counter([5.0, 6.0, None]), lambda: None, 0.5, clock(0.1)) is None
    assert energy.used(Counter([None]), lambda: None, 0.5, clock(0.1)) is None


def test_a_processors_counter_is_the_sum_of_its_packages_and_memory(tmp_path: Path) -> None:
    package, memory = zone(tmp_path, "0", "package-0"), zone(tmp_path, "0:1", "dram")
    core = zone(tmp_path, "0:0", "core")  # a part of the package
    found = energy.counter("cpu", tmp_path)
    assert found is not None and found.source == "rapl"
    before = found.read_j()
    package(300), memory(20), core(200)
    after = found.read_j()
    assert before is not None and after is not None
    assert after - before == pytest.approx(320e-6)


def test_a_count_that_begins_anew_goes_on(tmp_path: Path) -> None:
    package = zone(tmp_path, "0", "package-0", most=1000)
    package(900)
    found = energy.counter("cpu", tmp_path)
    assert found is not None
    package(100)
    assert found.read_j() == pytest.approx(200e-6)


def test_without_a_counter_or_leave_to_read_it_there_is_none(tmp_path: Path) -> None:
    assert energy.counter("cpu", tmp_path / "absent") is None
    zone(tmp_path, "0", "package-0")
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    assert energy.counter("cpu", tmp_path) is None


def test_a_gpus_counter_is_that_of_the_one_that_computes(driver: Callable[..., None]) -> None:
    driver(uuids=("GPU-a-1", "GPU-b-2"))
    found = energy.counter("cuda")
    assert found is not None and (found.source, found.read_j()) == ("nvml", 10.0)
    driver(uuids=())
    assert energy.counter("cuda") is None
