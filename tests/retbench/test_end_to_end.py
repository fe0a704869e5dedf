"""Whole runs with real workers, as a user makes them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

import retbench
from retbench.machine.provenance import PROJECT_ROOT
from retbench.metrics import COLUMNS

SMALL = {
    "preset": "tiny", "context": "64,128", "batch": "1,2", "batch_context": 64,
    "profile": "smoke", "new_tokens": 2, "threads": 1,
}  # fmt: skip

MOVING_AVERAGE = '''
"""A mixer of a third party: the mean of all inputs so far, in one file with one decorator."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models import register
from models.decoder import DecoderConfig
from models.mixer import Mixer
from models.protocol import LayerState


@register("moving-average")
@dataclass(frozen=True)
class MovingAverageConfig(DecoderConfig):
    @classmethod
    def preset_heads(cls, preset, d_model):
        return 1

    def mixer(self):
        return MovingAverage(self.d_model)

    def mixer_parameters(self):
        return self.d_model**2

    def mixer_flops(self, tokens, *, context=0):
        return 2 * tokens * self.d_model

    def mixer_state_bytes(self, batch_size, context, dtype_bytes):
        return batch_size * (self.d_model + 1) * 4


@dataclass
class Sum(LayerState):
    total: Tensor
    count: Tensor

    def tensors(self):
        return self.total, self.count


class MovingAverage(Mixer):
    def __init__(self, d_model):
        super().__init__()
        self.out = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x, shared):
        return self.prefill(x, shared, self.init_state(len(x), 0, x.device, x.dtype))

    def init_state(self, batch_size, max_len, device, dtype):
        zeros = torch.zeros(batch_size, 1, self.out.in_features, device=device)
        return Sum(zeros, torch.zeros(batch_size, 1, 1, device=device))

    def prefill(self, x, shared, state):
        totals = state.total + x.float().cumsum(1)
        counts = state.count + torch.arange(1, x.shape[1] + 1, device=x.device)[:, None]
        state.total.copy_(totals[:, -1:])
        state.count.copy_(counts[:, -1:])
        return self.out((totals / counts).to(x.dtype))

    def step(self, x, shared, state):
        return self.prefill(x, shared, state)

    def implementation(self, phase):
        return "cumulative-sum"
'''


def coordinates(frame: pd.DataFrame) -> list[tuple[int, str, str]]:
    cells = frame[frame["phase"] == "cell"]
    return sorted(zip(cells["block"], cells["model"], cells["point"], strict=True))


def test_a_run_gives_every_cell_once_with_its_tables_and_plots(tmp_path: Path) -> None:
    run = retbench.run("inference", models=["retnet", "transformer"], out=tmp_path / "run", **SMALL)
    frame = run.frame()
    assert list(frame.columns) == list(COLUMNS)
    expected = [
        (0, model, point)
        for model in ("retnet", "transformer")
        for point in ("context=128,batch=1", "context=64,batch=1", "context=64,batch=2")
    ]
    assert coordinates(frame) == expected
    assert set(frame["status"]) == {"ok"}
    assert run.meta["state"] == "finished"
    for name in ("tables/cells.csv", "tables/ratios.md", "plots/tpot_context.png", "report.html"):
        assert (tmp_path / "run" / name).stat().st_size > 0, name


def test_a_mixer_from_outside_the_package_is_measured_like_any_other(tmp_path: Path) -> None:
    plugin = tmp_path / "moving_average.py"
    plugin.write_text(MOVING_AVERAGE)
    run = retbench.run(
        "inference",
        models=["retnet", "moving-average"],
        plugins=[str(plugin)],
        out=tmp_path / "run",
        **(SMALL | {"context": "64", "batch": "1"}),
    )
    frame = run.frame()
    other = frame[frame["model"] == "moving-average"]
    assert set(other["status"]) == {"ok"}
    assert {"ttft_s", "tpot_s", "state_bytes", "gate_error"} <= set(other["metric"])
    assert "cumulative-sum" in set(other["implementation"])
    sizes = [model["parameters"] for model in run.meta["models"].values()]
    assert max(sizes) / min(sizes) <= 1.005


def test_what_does_not_fit_is_reported_and_the_rest_is_measured(tmp_path: Path) -> None:
    run = retbench.run(
        "inference",
        models=["retnet", "transformer"],
        out=tmp_path / "run",
        memory_limit_gib=0.3,
        **(SMALL | {"batch": "1,8192,16384", "context": "64"}),
    )
    frame = run.frame()
    ends = frame[(frame["phase"] == "cell") & (frame["model"] == "transformer")]
    by_batch = dict(zip(ends["batch_size"], ends["status"], strict=True))
    assert by_batch == {1: "ok", 8192: "oom", 16384: "oom_implied"}


def test_a_run_that_was_killed_ends_like_one_that_was_not(tmp_path: Path) -> None:
    flags = [
        "--models", "retnet,transformer", "--preset", "tiny", "--context", "64,128,256",
        "--batch", "1", "--batch-context", "64", "--profile", "smoke", "--new-tokens", "2",
        "--threads", "1", "--quiet",
    ]  # fmt: skip
    command = [sys.executable, "-m", "retbench", "run", "--out", str(tmp_path / "run")]
    environment = os.environ | {"PYTHONPATH": str(PROJECT_ROOT)}
    samples = tmp_path / "run" / "samples.jsonl"
    with subprocess.Popen([*command, "--suite", "inference", *flags], env=environment) as process:
        deadline = time.monotonic() + 120
        while not (samples.exists() and samples.stat().st_size):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    before = samples.read_bytes()
    subprocess.run([*command, "--resume", "--quiet"], env=environment, check=True, timeout=120)
    assert samples.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    run = retbench.open_run(str(tmp_path / "run"))
    found = coordinates(run.frame())
    assert len(found) == len(set(found)) == 6
    assert run.meta["state"] == "finished"


def test_a_faulty_flag_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(retbench.errors.UserError, match="retnett"):
        retbench.run("inference", models=["retnett"], out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
