"""The clock, on operations of known length, and warm-up, on trials of known times.

Time stands still but for what operations take; `benchmarks/test_harness.py` has the machine's own.
"""

import gc
import itertools
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from retbench.machine.clock import (
    CLOCK_STEPS_IN_SAMPLE,
    LONGEST_SPIN_S,
    SHORTEST_SAMPLE_S,
    Clock,
    Timing,
    garbage_collection_off,
    resolution_s,
    slowed,
    warm_up,
)

ROOT = Path(__file__).parents[3]


@pytest.fixture
def busy(monkeypatch):
    """``busy(seconds)``: an operation that takes this long, and nothing else takes any time."""
    now = [0]
    monkeypatch.setattr(
        "retbench.machine.clock.time", SimpleNamespace(perf_counter_ns=lambda: now[0])
    )

    def make(*seconds):
        durations = itertools.cycle(seconds)

        def operation():
            now[0] += round(next(durations) * 1e9)

        return operation

    return make


# On a CPU


def test_an_operation_of_known_length_is_timed_right(busy):
    assert Clock().time(busy(0.001)) == Timing(0.001)


def test_a_batch_reports_the_time_of_one_call(busy):
    assert Clock().time(busy(0.0002), repeats=5) == Timing(0.0002)


def test_a_batch_calls_as_often_as_asked():
    calls = []
    Clock().time(lambda: calls.append(1), repeats=7)
    assert len(calls) == 7


def test_a_cpu_has_no_device_time_and_is_never_launch_bound(busy):
    timing = Clock("cpu").time(busy(0.0001))
    assert timing.device_s is None
    assert timing.seconds == timing.host_s
    assert not timing.launch_bound


def test_short_operations_are_batched_until_the_sample_is_long_enough(monkeypatch):
    monkeypatch.setattr("retbench.machine.clock.resolution_s", lambda: 1e-9)
    assert Clock().repeats_for(SHORTEST_SAMPLE_S["cpu"] / 4) == 4
    assert Clock().repeats_for(SHORTEST_SAMPLE_S["cpu"] / 3.5) == 4
    assert Clock().repeats_for(0.0) > 1000
    assert Clock("cuda:0", cuda=FakeCuda(1.0)).repeats_for(SHORTEST_SAMPLE_S["cuda"] / 4) == 4


def test_long_operations_are_not_batched():
    assert Clock().repeats_for(0.5) == 1


def test_a_coarse_clock_asks_for_longer_samples(monkeypatch):
    monkeypatch.setattr("retbench.machine.clock.resolution_s", lambda: 1e-4)
    assert Clock().repeats_for(0.0005) * 0.0005 == pytest.approx(CLOCK_STEPS_IN_SAMPLE * 1e-4)


def test_the_resolution_is_a_small_positive_time():
    assert 0 < resolution_s() < 1e-4


# The garbage collector


def test_the_garbage_collector_is_off_while_the_clock_runs():
    seen = []
    Clock().time(lambda: seen.append(gc.isenabled()))
    assert seen == [False]
    assert gc.isenabled()


def test_the_garbage_collector_is_restored_after_an_error():
    def fails():
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        Clock().time(fails)
    assert gc.isenabled()


def test_a_garbage_collector_that_was_off_stays_off():
    gc.disable()
    try:
        with garbage_collection_off():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


# On a CUDA device, with a stand-in that logs what is asked of it


class FakeCuda:
    """Stands in for ``torch.cuda``: work of ``device_ms`` between the last two events, and a log.

    A spin takes a nanosecond a cycle.
    """

    def __init__(self, device_ms):
        self.device_ms = device_ms
        self.log = []
        self.spins = []

    def Event(self, enable_timing):
        assert enable_timing
        return FakeEvent(self)

    def synchronize(self, device):
        self.log.append("synchronize")

    def _sleep(self, cycles):
        self.log.append("spin")
        self.spins.append(cycles)


class FakeEvent:
    def __init__(self, cuda):
        self.cuda = cuda
        self.place = None

    def record(self):
        self.place = self.cuda.log[-1]
        self.cuda.log.append("record")

    def elapsed_time(self, other):
        spins = self.place == "synchronize"
        return self.cuda.spins[-1] * 1e-6 if spins else self.cuda.device_ms


def test_events_lie_inside_and_synchronisation_outside_of_a_device_that_spins_first():
    cuda = FakeCuda(device_ms=1.0)
    Clock("cuda", cuda=cuda).time(lambda: cuda.log.append("call"), repeats=2)
    assert cuda.log == [
        "synchronize", "record", "spin", "record", "call", "call", "record", "synchronize",
    ]  # fmt: skip


def test_the_device_spins_as_long_as_launching_the_first_call_took(busy):
    cuda = FakeCuda(device_ms=8.0)
    clock = Clock("cuda", cuda=cuda)
    clock.time(busy(0.002), repeats=3)
    clock.time(busy(0.1))
    clock.time(busy(0.0))
    assert cuda.spins[1] * 1e-9 == pytest.approx(0.002, rel=1e-4)
    assert cuda.spins[2] * 1e-9 == pytest.approx(LONGEST_SPIN_S, rel=1e-4)


def test_device_time_is_in_seconds_a_call(busy):
    cuda = FakeCuda(device_ms=8.0)
    timing = Clock("cuda", cuda=cuda).time(busy(0.003), repeats=4)
    assert timing.device_s == pytest.approx(0.002)
    assert timing.host_s == pytest.approx(0.003 - cuda.spins[0] * 1e-9 / 4)
    assert timing.seconds == timing.device_s


@pytest.mark.parametrize(("host_s", "expected"), [(1.09, False), (1.11, True)])
def test_a_gap_over_10_percent_is_launch_bound(host_s, expected):
    assert Timing(host_s, 1.0, launch_s=0.1).launch_bound is expected


@pytest.mark.parametrize(("launch_s", "expected"), [(0.89, False), (0.91, True)])
def test_a_device_that_waits_for_each_launch_is_launch_bound(launch_s, expected):
    # Its events lie as far apart as the launches, so the clocks agree.
    assert Timing(1.0, 1.0, launch_s=launch_s).launch_bound is expected


def test_the_launch_is_that_of_the_first_call(busy):
    clock = Clock("cuda", cuda=FakeCuda(device_ms=8.0))
    assert clock.time(busy(0.001, 0.01), repeats=2).launch_s == pytest.approx(0.001)


# Warm-up, on a clock that moves only with the trials


@pytest.fixture
def trials(monkeypatch):
    """Makes a trial that takes the times given, and the list of those that ran."""
    ran = []
    monkeypatch.setattr(
        "retbench.machine.clock.time", SimpleNamespace(perf_counter=lambda: sum(ran))
    )

    def make(times):
        source = iter(times)

        def trial():
            ran.append(next(source))
            return ran[-1]

        return trial, ran

    return make


def test_warm_up_ends_when_times_no_longer_fall(trials):
    trial, ran = trials([5.0, 2.0, 1.5] + [1.0] * 20)
    assert warm_up(trial, at_least=3, budget_s=60) == []
    assert ran == [5.0, 2.0, 1.5] + [1.0] * 5  # two of the last four are of the window before


def test_a_machine_that_scatters_is_no_reason_to_go_on_warming_up(trials):
    trial, ran = trials([1.0, 1.3, 0.8, 1.3, 0.8, 1.0] + [1.0] * 20)
    assert warm_up(trial, at_least=3, budget_s=60) == []
    assert len(ran) == 6


def test_warm_up_runs_at_least_so_many_trials(trials):
    trial, ran = trials([1.0] * 20)
    assert warm_up(trial, at_least=10, budget_s=60) == []
    assert len(ran) == 10


def test_warm_up_gives_up_after_its_budget(trials):
    trial, ran = trials(0.95**i for i in itertools.count())
    assert warm_up(trial, at_least=3, budget_s=10) == ["unsettled"]
    assert 10 <= sum(ran) < 11


def test_warm_up_keeps_its_least_trials_beyond_the_budget(trials):
    trial, ran = trials([0.9] * 20)
    assert warm_up(trial, at_least=5, budget_s=3.0) == []
    assert len(ran) == 5


def test_a_trial_longer_than_the_budget_is_its_own_warm_up(trials):
    trial, ran = trials([10.0] * 5)
    assert warm_up(trial, at_least=3, budget_s=2.0) == []
    assert len(ran) == 1


@pytest.mark.parametrize(("second", "flags"), [(0.95, []), (0.7, ["unsettled"])])
def test_two_long_trials_are_flagged_only_where_they_differ(trials, second, flags):
    trial, ran = trials([1.0, second])
    assert warm_up(trial, at_least=3, budget_s=1.5) == flags
    assert len(ran) == 2


# What an audit plants, on a clock that moves only with the calls and with each look at it


@pytest.mark.parametrize("by", [0.05, 0.5])
def test_a_slowed_call_takes_longer_by_what_was_planted(monkeypatch, by):
    now = [0]

    def look():
        now[0] += 100
        return now[0]

    def call():
        now[0] += 10_000_000

    monkeypatch.setattr("retbench.machine.clock.time", SimpleNamespace(perf_counter_ns=look))
    operation = slowed(call, by, Clock())
    before = now[0]
    operation()
    assert now[0] - before == pytest.approx(10_000_000 * (1 + by), rel=1e-4)


def test_a_clock_that_can_be_set_gives_stamps_and_no_durations():
    found = {
        str(path.relative_to(ROOT))
        for package in ("retbench", "models")
        for path in (ROOT / package).rglob("*.py")
        if re.search(r"\btime\.time\(|datetime\.now\(", path.read_text())
    }
    stamps = ("machine/provenance", "engine/audit", "store/results", "store/writer",
              "workers/worker", "machine/doctor")  # fmt: skip
    assert found == {f"retbench/{name}.py" for name in stamps}
