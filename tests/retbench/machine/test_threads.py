"""Threads: how long an idle one may spin, and how many compute beside other programs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from retbench import workers
from retbench.machine import threads


@pytest.fixture(autouse=True)
def no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has chosen a wait policy."""
    for name in ("OMP_WAIT_POLICY", *threads.SPIN_LIMITS):
        monkeypatch.delenv(name, raising=False)


def test_a_worker_limits_spinning() -> None:
    found = workers.variables(2)
    assert {name: found[name] for name in threads.SPIN_LIMITS} == threads.SPIN_LIMITS


def test_a_worker_finds_a_users_modules_after_ours_and_pythons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("models", "random", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not ours')")
    (tmp_path / "mine.py").write_text("import models.config, numpy, random")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    ended = subprocess.run(
        [*workers.START, "mine"], env=workers.variables(1), capture_output=True, text=True
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_checkout_whose_path_holds_a_colon_measures_itself(tmp_path: Path) -> None:
    package = tmp_path / "a:b" / "retbench"
    (package / "workers").mkdir(parents=True)
    (package / "__init__.py").write_text("print(__file__)")
    start = shutil.copy(workers.START[-1], package / "workers")
    command = [*workers.START[:-1], start, "retbench"]
    ended = subprocess.run(command, env=workers.variables(1), capture_output=True, text=True)
    assert ended.stdout == f"{package / '__init__.py'}\n"


def test_the_command_beside_a_module_named_like_pythons_takes_pythons(tmp_path: Path) -> None:
    (tmp_path / "typing.py").write_text("raise SystemExit('not ours')")
    path = os.environ | {"PYTHONPATH": str(Path(workers.__file__).parents[2])}
    line = [sys.executable, "-m", "retbench", "--version"]
    ended = subprocess.run(line, env=path, cwd=tmp_path, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_script_beside_a_module_of_that_name_is_told_to_rename_it(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text("")
    (tmp_path / "mine.py").write_text("import retbench\nretbench.run('nothing')")
    path = {"PYTHONPATH": str(Path(workers.__file__).parents[2])}
    ended = subprocess.run([sys.executable, tmp_path / "mine.py"], env=path, capture_output=True)
    said = f"ImportError: {tmp_path / 'models.py'} hides the package 'models'"
    assert ended.stderr.decode().strip().splitlines()[-1].startswith(said)


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_who_has_chosen_a_policy_keeps_it(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "chosen")
    assert threads.spin_limits(os.environ) == {}
    assert threads.wait_policy() == {name: "chosen"}
    assert workers.variables(2)[name] == "chosen"


def test_without_a_choice_the_policy_in_force_is_the_limit() -> None:
    assert threads.wait_policy() == threads.SPIN_LIMITS


def test_once_torch_is_there_it_is_too_late_to_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", object())
    threads.limit_spinning()
    assert not threads.SPIN_LIMITS.keys() & os.environ.keys()


def others(monkeypatch: pytest.MonkeyPatch, cores: float | None) -> None:
    """Let other processes keep so many cores busy; None where the system does not tell."""
    now = [0.0]
    monkeypatch.setattr(threads.time, "sleep", lambda s: now.__setitem__(0, now[0] + s))
    monkeypatch.setattr(threads.time, "perf_counter", lambda: now[0])
    busy = (lambda: None) if cores is None else (lambda: cores * now[0])
    monkeypatch.setattr(threads, "foreign_cpu_s", busy)


@pytest.mark.parametrize(
    ("usual", "spared", "busy", "left"),
    [
        (8, 0, 0.0, 8), (8, 0, 0.4, 8), (8, 0, 0.6, 7), (8, 0, 2.9, 5), (2, 0, 1.0, 1),
        (2, 0, 2.0, 1), (1, 0, 1.0, 1), (8, 0, None, 8), (7, 1, 0.9, 7), (7, 1, 2.0, 6),
    ],
)  # fmt: skip
def test_each_core_that_others_keep_busy_costs_a_thread_and_one_is_left(
    monkeypatch: pytest.MonkeyPatch, usual: int, spared: int, busy: float | None, left: int
) -> None:
    others(monkeypatch, busy)
    assert threads.beside_others(usual, spared) == left


@pytest.mark.parametrize(
    ("count", "idle", "fast", "chosen"),
    [
        (1, {0: 9, 2: 4, 4: 9, 6: 8}, (), (6,)),  # the first serves interrupts
        (1, {0: 9, 2: 4, 4: 2, 6: 0}, (), (0,)),
        (3, {0: 9, 2: 4, 4: 9, 6: 9}, (), (0, 4, 6)),
        (3, {}, (), (2, 4, 6)),
        (4, {0: 9, 2: 4, 4: 9, 6: 9}, (), ()),
        (2, {0: 9, 2: 8, 4: 9, 6: 9}, (0, 2), (0, 2)),
        (2, {0: 9, 2: 1, 4: 9, 6: 9}, (0, 2), (0, 6)),
    ],
)
def test_workers_keep_to_the_fastest_cores_that_were_idle(
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    idle: dict[int, int],
    fast: tuple[int, ...],
    chosen: tuple[int, ...],
) -> None:
    ticks = [{cpu: 100 for cpu in idle}, {cpu: 100 + more for cpu, more in idle.items()}]
    monkeypatch.setattr(threads.host, "cpu_of_each_core", lambda: [0, 2, 4, 6])
    monkeypatch.setattr(threads.host, "idle_ticks", lambda: ticks.pop(0))
    monkeypatch.setattr(
        threads.host, "max_khz", lambda cpu: 5_000_000 if cpu in fast else 3_000_000
    )
    monkeypatch.setattr(threads.time, "sleep", lambda s: None)
    assert threads.idle_cpus(count) == chosen


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
@pytest.mark.parametrize("asked", ["one", "none", "gone"])
def test_all_threads_of_a_worker_keep_to_the_cpus_that_its_environment_names(asked: str) -> None:
    usable = sorted(os.sched_getaffinity(0))
    cpus = {"one": usable[-1:], "none": [], "gone": [10**4]}[asked]
    program = (
        "import os, threading, time; from retbench.workers import CPUS, worker; "
        "early = threading.Thread(target=time.sleep, args=[10], daemon=True); early.start(); "
        "worker.keep_to_cpus(os.environ[CPUS]); "
        "print(sorted(os.sched_getaffinity(0)), sorted(os.sched_getaffinity(early.native_id)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=workers.variables(1, cpus), capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    kept = cpus if asked == "one" else usable
    assert done.stdout.strip() == f"{kept} {kept}"


@pytest.mark.parametrize(
    ("count", "environment", "found"),
    [
        (2, {"OMP_THREAD_LIMIT": "1"}, "OMP_THREAD_LIMIT=1"),
        (2, {"OMP_THREAD_LIMIT": "2", "OMP_DYNAMIC": "false"}, None),
        (2, {"OMP_DYNAMIC": "TRUE"}, "OMP_DYNAMIC=TRUE"),
        (2, {"OMP_THREAD_LIMIT": "\u00b2", "OMP_DYNAMIC": "1"}, "OMP_DYNAMIC=1"),
        (2, {"OMP_MAX_ACTIVE_LEVELS": "0"}, "OMP_MAX_ACTIVE_LEVELS=0"),
        (2, {"GOMP_CPU_AFFINITY": "0"}, "GOMP_CPU_AFFINITY=0"),
        (5, {"GOMP_CPU_AFFINITY": "0 3 4-8:2"}, None),
        (6, {"GOMP_CPU_AFFINITY": "0 3 4-8:2"}, "GOMP_CPU_AFFINITY=0 3 4-8:2"),
        (1, {"OMP_THREAD_LIMIT": "1", "OMP_DYNAMIC": "true", "GOMP_CPU_AFFINITY": "0"}, None),
        (2, {"OMP_PROC_BIND": "close", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}, None),
    ],
)
def test_what_keeps_threads_from_computing_is_named(
    count: int, environment: dict[str, str], found: str | None
) -> None:
    assert threads.hindrance(count, environment) == found


def test_a_shortage_of_threads_is_a_sentence() -> None:
    assert threads.shortage(2, 2) is None
    assert threads.shortage(1, 2) == ("threads: 1 instead of 2, for other programs keep cores busy")
