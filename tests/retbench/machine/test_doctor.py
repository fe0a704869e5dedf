"""The doctor's checks, each on a made-up machine."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from retbench.machine import ceilings, doctor, host, interference, threads
from retbench.machine.doctor import GIB, Here

Write = Callable[[str, object], None]
Driver = Callable[..., None]
CACHED = {
    "bandwidth": [
        {"working_set_bytes": 4 << 20, "read_bytes_per_s": 9e10, "copy_bytes_per_s": 8e10},
        {"working_set_bytes": 64 << 20, "read_bytes_per_s": 3e10, "copy_bytes_per_s": 2e10},
    ],
    "matmul_flop_per_s": {"float32": 2e11},
    "elapsed_s": 1.0,
}


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return Here("cpu", 2, tmp_path / "results", None, tmp_path / "proc", tmp_path / "sys")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file of the made-up machine."""

    def write(name: str, text: object) -> None:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    return write


def counted(monkeypatch: pytest.MonkeyPatch, write: Write, user: int, steal: int) -> None:
    """Let this many ticks of 10 ms be counted in each second that is slept through."""
    now = [0]

    def sleep(seconds: float) -> None:
        now[0] += round(seconds)
        write("proc/stat", f"cpu {now[0] * user} 0 0 0 0 0 0 {now[0] * steal} 0 0")

    sleep(0)
    monkeypatch.setattr(interference, "_CLOCK_TICKS_PER_S", 100)
    monkeypatch.setattr(interference.os, "times", lambda: SimpleNamespace(user=0, system=0))
    monkeypatch.setattr(threads.time, "sleep", sleep)
    monkeypatch.setattr(threads.time, "perf_counter", lambda: float(now[0]))


@pytest.mark.parametrize(
    ("user", "steal", "load", "stolen"),
    [(5, 0, "ok", "ok"), (150, 0, "warn", "ok"), (0, 40, "warn", "warn")],
)
def test_other_work_and_a_hypervisor_that_takes_time_are_noticed(
    here: Here, write: Write, monkeypatch: pytest.MonkeyPatch,
    user: int, steal: int, load: str, stolen: str,
) -> None:  # fmt: skip
    counted(monkeypatch, write, user, steal)
    busy, taken = doctor.load(here), doctor.steal(here)
    assert (busy.state, taken.state) == (load, stolen)
    assert f"{(user + steal) / 100:.2f} cores" in busy.found
    assert f"{steal / 100:.2f} cores" in taken.found


@pytest.mark.parametrize(
    ("variables", "state"),
    [
        ({}, "ok"),
        ({"OMP_WAIT_POLICY": "passive"}, "ok"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "warn"),
        ({"GOMP_SPINCOUNT": "30000000"}, "warn"),
        ({"GOMP_SPINCOUNT": "infinite"}, "warn"),
        ({"KMP_BLOCKTIME": "200"}, "warn"),
    ],
)
def test_a_policy_that_lets_idle_threads_spin_is_noticed(
    here: Here, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], state: str
) -> None:
    for name in ("OMP_WAIT_POLICY", *threads.SPIN_LIMITS):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert doctor.spinning(here).state == state


@pytest.mark.parametrize(("late", "state"), [(3, "ok"), (4, "warn")])
def test_threads_that_meet_late_are_noticed(
    here: Here, monkeypatch: pytest.MonkeyPatch, late: int, state: str
) -> None:
    met_s = [5e-3] * late + [1e-5] * (doctor.MEETINGS - late)
    monkeypatch.setattr(interference, "barrier", lambda threads: met_s.pop)
    check = doctor.threads(here)
    assert check is not None
    assert check.state == state
    assert check.found == f"2 threads meet in 10 us, {late} of 30 times late"


@pytest.mark.parametrize(
    ("files", "state", "found"),
    [
        ({}, "ok", "not shown"),
        ({"scaling_governor": "performance"}, "ok", "governor performance"),
        ({"scaling_governor": "powersave"}, "warn", "governor powersave"),
        (
            {"scaling_governor": "performance", "scaling_max_freq": 2000000,
             "cpuinfo_max_freq": 3500000},
            "warn", "held to 2.0 of 3.5 GHz",
        ),
    ],
)  # fmt: skip
def test_a_clock_that_follows_the_load_is_noticed(
    here: Here, write: Write, files: dict[str, object], state: str, found: str
) -> None:
    for name, text in files.items():
        write(f"sys/devices/system/cpu/cpu0/cpufreq/{name}", text)
    check = doctor.frequency(here)
    assert check.state == state
    assert found in check.found


@pytest.mark.parametrize(
    ("free", "limit", "state"),
    [(8, "max", "ok"), (2, "max", "warn"), (0.5, "max", "fail"), (8, 2 * GIB, "warn")],
)
def test_memory_is_what_the_kernel_and_the_control_group_leave(
    here: Here, write: Write, free: float, limit: object, state: str
) -> None:
    write("proc/meminfo", f"MemAvailable: {int(free * 2**20)} kB")
    write("proc/self/cgroup", "0::/")
    write("sys/fs/cgroup/memory.max", limit)
    write("sys/fs/cgroup/memory.current", GIB // 2)
    write("sys/fs/cgroup/memory.stat", "inactive_file 0")
    assert doctor.memory(here).state == state


def test_a_system_that_shows_nothing_is_not_blamed(here: Here) -> None:
    looked = (doctor.load, doctor.steal, doctor.frequency, doctor.memory)
    assert {check(here).state for check in looked} == {"ok"}


@pytest.mark.parametrize(("free", "state"), [(9 * GIB, "ok"), (GIB // 2, "warn"), (9, "fail")])
def test_the_disk_that_results_will_be_on_is_looked_at(
    here: Here, monkeypatch: pytest.MonkeyPatch, free: int, state: str
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    assert doctor.disk(here).state == state


def test_a_folder_that_cannot_be_written_fails(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    assert doctor.disk(here).state == "fail"


@pytest.mark.parametrize(
    ("days", "floor", "state"),
    [(1, 0.01, "ok"), (90, 0.01, "warn"), (1, 0.3, "warn"), (-2, 0.01, "ok")],
)
def test_an_audit_that_is_old_or_found_noise_is_to_be_made_again(
    here: Here, days: int, floor: float, state: str
) -> None:
    time = (datetime.now(UTC) - timedelta(days=days)).isoformat()
    audit = {"time": time, "floor": {"tpot_s": floor}}
    check = doctor.audit(Here("cpu", 2, here.results, audit))
    assert check.state == state
    assert f"{max(days, 0)} days old" in check.found  # of tomorrow where a clock was set back
    assert doctor.audit(here).remedy == "retbench audit"


def graphics(monkeypatch: pytest.MonkeyPatch, usable: bool, built: str = "sm_90") -> None:
    """A made-up NVIDIA GPU, of compute capability 9.0."""
    monkeypatch.setattr(host, "cuda_available", lambda: usable)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: [built])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))


@pytest.mark.parametrize(
    ("there", "usable", "built", "state"),
    [
        (False, False, "", "ok"),
        (True, False, "", "warn"),
        (True, True, "sm_90a", "ok"),
        (True, True, "sm_120", "fail"),
    ],
)
def test_a_gpu_is_of_use_to_a_torch_that_was_built_for_it(
    here: Here, monkeypatch: pytest.MonkeyPatch, driver: Driver, there: bool, usable: bool,
    built: str, state: str,
) -> None:  # fmt: skip
    driver(uuids=("GPU-a-1",) * there)
    graphics(monkeypatch, usable, built)
    check = doctor.gpu(here)
    assert check.state == state
    assert not there or "GPU 0, 550.54" in check.found


@pytest.mark.parametrize(
    ("told", "state"),
    [({"processes": 1}, "ok"), ({"processes": 2}, "warn"), ({"reasons": 0x40}, "warn")],
)
def test_a_gpu_that_others_use_or_that_is_throttled_is_noticed(
    driver: Driver, told: dict[str, int], state: str
) -> None:
    driver(**told)
    check = doctor.gpu_quiet(Here("cuda", 2))
    assert check is not None and check.state == state


def test_it_says_whether_energy_is_counted_and_how_to_be_told(
    here: Here, write: Write, driver: Driver
) -> None:
    assert doctor.energy_counter(here).found.startswith("not available")
    write("sys/class/powercap/intel-rapl:0/name", "package-0")
    assert doctor.energy_counter(here).remedy.startswith("sudo chmod a+r")
    write("sys/class/powercap/intel-rapl:0/energy_uj", 17)
    assert doctor.energy_counter(here).found == "counted by RAPL"
    driver()
    assert doctor.energy_counter(Here("cuda", 1)).found == "counted by NVML"


def test_compiling_needs_a_compiler_or_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert doctor.compiler(Here("cpu", 1)).found.startswith("g++ is missing")
    assert doctor.compiler(Here("cuda", 1)).found.startswith("triton is missing")


def test_what_does_not_apply_here_is_left_out(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CHECKS", (doctor.gpu_quiet, doctor.frequency))
    assert [check.name for check in doctor.checklist(here)] == ["frequency"]


def measured(
    monkeypatch: pytest.MonkeyPatch, *results: dict[str, Any], others_s: float = 0.0
) -> list[dict[str, Any]]:
    """Let the ceilings be measured with these results; returns those that are left."""
    left = list(results)
    counted_s = [others_s, 0.0]
    monkeypatch.setattr(interference, "foreign_cpu_s", lambda **_: counted_s.pop())
    monkeypatch.setattr(ceilings, "measure", lambda *_: left.pop(0))
    return left


BUSY = CACHED | {"bandwidth": [CACHED["bandwidth"][0] | {"read_bytes_per_s": 1e9,
                 "copy_bytes_per_s": 1e9}, CACHED["bandwidth"][1]]}  # fmt: skip


def test_ceilings_that_can_be_are_measured_once(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = measured(monkeypatch, CACHED, BUSY)
    found, check = doctor.plausible_ceilings(here, ["float32"])
    assert (found, check.state, left) == (CACHED, "ok", [BUSY])


def test_ceilings_measured_beside_other_work_are_lower_bounds(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, CACHED, others_s=60.0)
    found, check = doctor.plausible_ceilings(here, ["float32"])
    assert (found, check.state) == (CACHED, "warn")


def test_a_cache_slower_than_memory_is_measured_again(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, BUSY, CACHED)
    found, _ = doctor.plausible_ceilings(here, ["float32"])
    assert found is not None and found["bandwidth"] == CACHED["bandwidth"]


def test_what_cannot_be_twice_is_refused(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, BUSY, BUSY)
    found, check = doctor.plausible_ceilings(here, ["float32"])
    assert (found, check.state) == (None, "fail")
    assert "1 GB/s at 4 MiB, 30 GB/s at more" in check.found


def test_a_rate_far_below_the_audits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, CACHED, CACHED)
    audit = {"ceilings": {"matmul_flop_per_s": {"float32": 9e11}}}
    found, check = doctor.plausible_ceilings(Here("cpu", 2, audit=audit), ["float32"])
    assert found is None and "200 GFLOP/s in float32, and 900 when it was audited" in check.found
