"""What this process is granted: the tightest limit counts, whichever says it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from retbench.config.requirements import check_threads, machine
from retbench.errors import Misfit, UserError
from retbench.machine import host


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def quota(folder: Path, membership: str, files: dict[str, str]) -> float | None:
    write(folder / "membership", membership)
    for name, text in files.items():
        write(folder / "root" / name, text)
    return host.quota_cores(folder / "root", folder / "membership")


@pytest.mark.parametrize(
    ("membership", "files", "cores"),
    [
        ("0::/a/b", {"a/cpu.max": "150000 100000", "a/b/cpu.max": "max 100000"}, 1.5),
        ("0::/a/b", {"a/cpu.max": "400000 100000", "a/b/cpu.max": "200000 100000"}, 2.0),
        ("0::/", {"cpu.max": "max 100000"}, None),
        (
            "4:cpu,cpuacct:/a",
            {
                "cpu,cpuacct/a/cpu.cfs_quota_us": "50000",
                "cpu,cpuacct/a/cpu.cfs_period_us": "100000",
            },
            0.5,
        ),
        (
            "4:cpu,cpuacct:/a",
            {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"},
            None,
        ),
        ("", {}, None),
    ],
)
def test_the_tightest_of_nested_groups_of_either_version_counts(
    tmp_path: Path, membership: str, files: dict[str, str], cores: float | None
) -> None:
    assert quota(tmp_path, membership, files) == cores


def test_threads_beyond_the_quota_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "usable_cpus", lambda: {0, 1, 2, 3})
    monkeypatch.setattr(host, "quota_cores", lambda: 1.5)
    assert host.granted_cores() == 2
    check_threads(2, here=True)
    with pytest.raises(Misfit, match="3 are more than the 2 processors"):
        check_threads(3, here=True)


@pytest.mark.parametrize("asked", [2, None])
def test_threads_that_a_variable_keeps_from_computing_are_refused(
    monkeypatch: pytest.MonkeyPatch, asked: int | None
) -> None:
    monkeypatch.setattr(host, "usable_cpus", lambda: {0, 1})
    monkeypatch.setattr(host, "quota_cores", lambda: None)
    monkeypatch.setattr(host, "_siblings", str)
    monkeypatch.setenv("OMP_THREAD_LIMIT", "1")
    with pytest.raises(UserError, match="OMP_THREAD_LIMIT=1 lets fewer than 2 threads compute"):
        machine("cpu", asked)
    check_threads(2, here=False)
    assert machine("cpu", 1) == ("cpu", 1)


def test_a_system_that_does_not_say_which_processors_gives_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    assert len(host.usable_cpus()) == os.cpu_count()
    assert host.physical_cores() >= 1


def test_of_hyperthreads_one_stands_for_their_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "usable_cpus", lambda: {1, 2, 3, 4, 5})
    monkeypatch.setattr(host, "_siblings", lambda cpu: str(cpu % 4))
    assert host.cpu_of_each_core() == [1, 2, 3, 4]


def test_what_a_command_prints_is_read_whatever_the_locale_can_write() -> None:
    program = (
        "from retbench.machine import host; "
        r"print(ascii(host.output(['printf', r'H\303\251l\303\250ne \377'])))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True,
        env=os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0"},
    )  # fmt: skip
    assert (ended.stdout, ended.stderr) == (r"'H\xe9l\xe8ne \udcff'" + "\n", "")


def test_idle_ticks_are_those_of_each_processor(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text(
        "cpu  10 0 5 700 30 0 1 0 0 0\ncpu0 5 0 2 300 10 0 1 0 0 0\n"
        "cpu11 5 0 3 400 20 0 0 0 0 0\nintr 12 3 4 5 6 7\nctxt 99\n"
    )
    assert host.idle_ticks(stat) == {0: 310, 11: 420}
    assert host.idle_ticks(tmp_path / "none") == {}
