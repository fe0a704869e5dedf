"""What the harness costs: around a timed call, and around the cells of the default run."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import retbench
from retbench.machine.clock import Clock

MOST_OUTSIDE_CELLS = 0.35
DEFAULT_RUN_S = 360.0


def test_timing_nothing(benchmark: BenchmarkFixture) -> None:
    clock = Clock("cpu")
    benchmark(lambda: clock.time(lambda: None))


def test_an_operation_of_known_length_is_timed_right() -> None:
    """The best of many samples, for another program may interrupt one."""

    def operation() -> None:
        end = time.perf_counter() + 0.001
        while time.perf_counter() < end:
            pass

    clock = Clock("cpu")
    best_s = min(clock.time(operation).host_s for _ in range(150))
    assert best_s == pytest.approx(0.001, rel=0.02)
    assert clock.time(lambda: time.sleep(0.01)).host_s >= 0.01


def test_the_default_run_spends_its_time_on_cells(tmp_path: Path) -> None:
    run = retbench.run("inference", out=tmp_path / "run")
    cells_s = run.statuses()["value"].sum()
    elapsed_s = run.meta["elapsed_s"]
    outside = 1 - cells_s / elapsed_s
    print(f"\ndefault run: {elapsed_s:.0f} s, {outside:.1%} of them outside cells")
    assert outside < MOST_OUTSIDE_CELLS
    assert elapsed_s < DEFAULT_RUN_S
