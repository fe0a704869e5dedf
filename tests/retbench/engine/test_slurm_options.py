"""What ``--launcher slurm`` is asked for: mistakes, and what a job needs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from retbench.cli.app import main
from retbench.engine.slurm import Launcher
from retbench.errors import UserError

pytest.importorskip("submitit")
pytestmark = pytest.mark.usefixtures("importable")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--launcher", "slum"], "unknown launcher 'slum'; did you mean 'slurm'?"),
        (["--slurm", "partition=gpu"], "nothing is launched through Slurm; add --launcher slurm"),
        (["--launcher", "slurm", "--slurm", "gpu"], "slurm: must be KEY=VALUE, not 'gpu'"),
        (
            ["--launcher", "slurm", "--slurm", "partion=gpu"],
            "slurm: unknown key 'partion'; did you mean 'partition'?",
        ),
        (
            ["--launcher", "slurm", "--slurm", "time=1:30"],
            "slurm: time: must be a whole number, not '1:30'",
        ),
        (["--launcher", "slurm", "--slurm", "exclusive=2"], "exclusive: must be true or false"),
        (
            ["--launcher", "slurm", "--threads", "4", "--slurm", "cpus_per_task=2"],
            "cpus_per_task: 2 are fewer than the run's 4 threads; add --threads 2",
        ),
    ],
)
def test_a_bad_option_is_one_line(
    tmp_path: Path,
    fake_slurm: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert refusal(capsys, *words).count(says) == 1
    assert not (tmp_path / "results").exists()


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["run", *words])
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err


def test_without_slurm_there_is_nothing_to_launch_through(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    said = refusal(capsys, "--launcher", "slurm")
    assert "there is no Slurm here, `sbatch` is not on the PATH" in said


def test_without_submitit_the_extra_is_named(
    fake_slurm: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert "pip install retbench[slurm]" in refusal(capsys, "--launcher", "slurm")


def test_a_machine_that_only_submits_needs_neither_gpu_nor_processors(
    fake_slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from retbench import api
    from retbench.machine import host

    monkeypatch.setattr(host, "cuda_available", lambda: False)
    job = api.prepare(device="cuda", threads=512, launcher="slurm", slurm={"qos": "high"})
    assert isinstance(job.launcher, Launcher)
    assert job.config.minutes == 0  # its blocks are submitted together: their number is settled
    asked = job.launcher.parameters(job.config, time_min=90)
    assert (asked["gpus_per_node"], asked["cpus_per_task"]) == (1, 512)
    assert (asked["timeout_min"], asked["slurm_qos"]) == (90, "high")


def test_a_job_has_what_all_processes_of_its_one_machine_need(
    fake_slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from retbench import api
    from retbench.workers.agent import Nodes

    shared = {"parallel": "ddp", "processes": 4, "threads": 2, "launcher": "slurm"}
    job = api.prepare("training", device="cuda", **shared)
    assert isinstance(job.launcher, Launcher)
    asked = job.launcher.parameters(job.config, time_min=90)
    assert (asked["gpus_per_node"], asked["cpus_per_task"]) == (4, 8)
    with pytest.raises(UserError, match="nodes: a job has one machine"):
        api.prepare("training", device="cuda", nodes=Nodes(2, 0, "host:1"), **shared)
