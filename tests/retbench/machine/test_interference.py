"""What disturbs a measurement is noticed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from retbench.machine import interference
from retbench.machine.interference import (
    FOREIGN_PROCESS,
    THROTTLED,
    Disturbances,
    cpu_s,
    foreign_cpu_s,
    gpu_flags,
    stolen_cpu_s,
)

BUSY_S = 0.3
LIMIT_S = 60.0


def test_another_process_that_computes_is_seen() -> None:
    before = foreign_cpu_s()
    if before is None:
        pytest.skip("this system has no /proc/stat")
    disturbances = Disturbances("cpu")
    burn = "import time; end = time.time() + 60\nwhile time.time() < end: pass"
    with subprocess.Popen([sys.executable, "-c", burn]) as other:
        with disturbances.watched():
            deadline = time.monotonic() + LIMIT_S
            while (foreign_cpu_s() or 0.0) - before < BUSY_S and time.monotonic() < deadline:
                time.sleep(0.01)
        flags = disturbances.flags()
        other.kill()
    assert flags == [FOREIGN_PROCESS]


def test_only_what_was_watched_counts_and_slices_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now, others = [0.0], [0.0]
    monkeypatch.setattr(interference.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(interference, "foreign_cpu_s", lambda **_: others[0])
    disturbances = Disturbances("cpu")
    others[0] += 9.0  # between slices
    for _ in range(10):
        with disturbances.watched():
            now[0] += 1.0
            others[0] += 0.09
    assert disturbances.flags() == []
    with disturbances.watched():
        others[0] += 0.2
    assert disturbances.flags() == [FOREIGN_PROCESS]


def test_threads_that_meet_late_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    late = [1.0, *[0.0] * 9]
    monkeypatch.setattr(interference, "barrier", lambda threads: late.pop)
    monkeypatch.setattr(interference, "foreign_cpu_s", lambda **_: 0.0)
    disturbances = Disturbances("cpu", threads=2)
    for _ in range(10):
        with disturbances.watched():
            pass
    assert disturbances.flags() == []  # one of ten
    late.append(1.0)
    with disturbances.watched():
        pass
    assert disturbances.flags() == [interference.THREADS_WAIT]


def test_how_long_threads_wait_for_each_other_is_timed() -> None:
    assert interference.barrier(2)() > 0


def test_own_work_is_taken_off(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 0 0 9000 50 0 0 0 0 0\ncpu0 100 0 0 9000 50 0 0 0 0 0\n")
    before = foreign_cpu_s(stat)
    own = time.process_time()
    while time.process_time() - own < 0.2:
        pass
    after = foreign_cpu_s(stat)
    assert before is not None and after is not None
    # The machine's count stands still in this file, so the whole difference is our own work.
    assert after - before == pytest.approx(-0.2, abs=0.05)


def test_a_system_that_does_not_tell_flags_nothing(tmp_path: Path) -> None:
    assert foreign_cpu_s(tmp_path / "absent") is None
    (tmp_path / "empty").touch()
    assert foreign_cpu_s(tmp_path / "empty") is stolen_cpu_s(tmp_path / "empty") is None


def test_a_process_whose_file_is_empty_has_used_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "")
    assert cpu_s(1) == 0


@pytest.mark.parametrize(
    ("reasons", "flags"),
    [
        (0x00, []),
        (0x01, []),  # idle
        (0x04, []),  # software power cap
        (0x40, [THROTTLED]),  # hardware thermal slowdown
        (0x24, [THROTTLED]),  # software thermal slowdown beside a power cap
    ],
)
def test_a_clock_held_back_is_flagged(
    driver: Callable[..., None], reasons: int, flags: list[str]
) -> None:
    driver(reasons=reasons)
    assert gpu_flags(1) == flags
