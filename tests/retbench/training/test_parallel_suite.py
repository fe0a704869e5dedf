"""``retbench run --suite training --parallel``: real workers of two processes measure one run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import retbench
from retbench import report, suites
from retbench.engine.resolve import resolve
from retbench.errors import UserError
from retbench.report.content import Content
from retbench.store import Run, open_run

MAIN = Path(retbench.__file__).parent / "__main__.py"
KINDS = ("ddp", "fsdp")
BASE, FATAL = "context=32,batch=4", "context=64,batch=2"
POINTS = ("context=32,batch=2", BASE, f"part=loader,{BASE}", f"processes=1,{BASE}", FATAL,
          "context=32,batch=8")  # fmt: skip

# A Transformer that rank 1 does not survive at a context of 64 tokens, if it is to die.
MORTAL = """
import os
import signal
from dataclasses import dataclass
from models.registry import register
from models.transformer import Attention, TransformerConfig

class Mortal(Attention):
    def forward(self, x, shared):
        if self.config.dies and self.training and x.shape[1] == 64 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x, shared)

@register("mortal")
@dataclass(frozen=True)
class MortalConfig(TransformerConfig):
    dies: int = 0

    def mixer(self):
        return Mortal(self)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands run: with a text, and a model that dies when it is told to."""
    folder = tmp_path_factory.mktemp("suite")
    lines = (f"the {'quick' if n % 3 else 'slow'} fox jumps {n % 7} times\n" for n in range(1000))
    (folder / "input.txt").write_text("".join(lines))
    (folder / "mortal.py").write_text(MORTAL)
    return folder


def words(kind: str, *more: str) -> list[str]:
    return [
        "run", "--suite", "training", "--models", "mortal", "--plugin", "mortal.py", "--variants",
        "", "--preset", "tiny", "--context", "32,64", "--batch", "2,8", "--batch-context", "32",
        "--tokens-per-step", "128", "--activations", "kept", "--profile", "smoke", "--threads",
        "1", "--device", "cpu", "--data", "input.txt", "--parallel", kind, *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def ended(forked: Callable[..., Any], folder: Path) -> dict[str, Any]:
    """How the processes of the run of each kind ended; in that of FSDP a worker dies."""
    dies = {"ddp": "0", "fsdp": "1"}
    programs = [
        [2, 100, [MAIN, *words(kind, "--set", f"dies={dies[kind]}", "--out", kind)]]
        for kind in KINDS
    ]
    return dict(zip(KINDS, forked(programs, folder), strict=True))


@pytest.fixture(scope="module")
def runs(folder: Path, ended: dict[str, Any]) -> dict[str, Run]:
    return {kind: open_run(folder / kind) for kind in KINDS}


def value(run: Run, point: str, metric: str) -> float:
    """The median of a metric's samples at a point."""
    frame = run.frame()
    found = frame.loc[(frame["point"] == point) & (frame["metric"] == metric), "value"]
    assert len(found) and (found > 0).all()
    return float(found.median())


@pytest.mark.parametrize("kind", KINDS)
def test_rank_0_alone_prints_and_writes(
    ended: dict[str, Any], runs: dict[str, Run], kind: str
) -> None:
    first, second = ended[kind]
    assert (first.status, second.status, second.out, second.err) == (0, 0, "", "")
    assert "Gain by 2 processes" in first.out
    assert runs[kind].meta["configuration"]["world_size"] == 2
    frame = runs[kind].frame()
    steps = frame[frame["metric"] == "step_s"]
    assert not steps.duplicated(["point", "trial"]).any()


def test_every_cell_of_two_processes_is_measured(runs: dict[str, Run]) -> None:
    endings = {point: row["status"] for (_, _, point), row in runs["ddp"].endings.items()}
    assert endings == dict.fromkeys(POINTS, "ok")


def test_a_worker_killed_in_another_rank_costs_its_cell_and_is_named(runs: dict[str, Run]) -> None:
    endings = {point: row for (_, _, point), row in runs["fsdp"].endings.items()}
    assert endings[FATAL]["cause"].startswith("rank 1: killed by signal 9")
    assert {point: row["status"] for point, row in endings.items()} == (
        dict.fromkeys(POINTS, "ok") | {FATAL: "oom"}
    )
    assert endings[POINTS[-1]]["process"] > endings[FATAL]["process"] >= 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_of_the_whole_batch_and_its_bytes_are_of_one_process(
    runs: dict[str, Run], kind: str
) -> None:
    run = runs[kind]
    assert value(run, BASE, "step_flops") == 2 * value(run, POINTS[0], "step_flops")
    parts = (f"{part}_s" for part in ("forward", "backward", "optimizer"))
    # Apart, each is waited for by all ranks; and a step may be disturbed.
    assert sum(value(run, BASE, part) for part in parts) > 0.2 * value(run, BASE, "step_s")
    held = {metric: value(run, BASE, f"{metric}_bytes") for metric in ("weights", "gradients")}
    whole = {
        metric: value(runs["ddp"], BASE, f"{metric}_bytes") for metric in ("weights", "gradients")
    }
    share = {"ddp": 1.0, "fsdp": 0.5}[kind]
    for metric in held:
        assert held[metric] == pytest.approx(share * whole[metric], rel=0.05)
    # What is kept for the backward is of the rows of one process, in either kind.
    kept = value(run, BASE, "activations_bytes")
    assert kept == value(runs["ddp"], BASE, "activations_bytes")
    assert kept == pytest.approx(2 * value(run, POINTS[0], "activations_bytes"), rel=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_the_report_says_what_the_processes_gain(runs: dict[str, Run], kind: str) -> None:
    run = runs[kind]
    content: Content = report.content_of(run)
    tables = {table.name: table for table in content.tables}
    (row,) = tables["processes"].frame.to_dict("records")
    alone, together = value(run, f"processes=1,{BASE}", "step_s"), value(run, BASE, "step_s")
    assert row["value"] == pytest.approx(alone / (2 * together), rel=1e-9)
    assert (row["model"], row["point"], row["processes"]) == ("mortal", BASE, 2)
    assert any("2 processes make a step of mortal" in finding for finding in content.findings)
    figures = tables["steps"].frame.set_index(["point", "metric"])["value"]
    rate = 128 / together
    assert figures[BASE, "step_tokens_per_s"] == pytest.approx(rate, rel=1e-9)
    assert figures[BASE, "process_tokens_per_s"] == pytest.approx(rate / 2, rel=1e-9)
    assert not any("processes" in row["point"] for row in tables["steps"].rows)
    assert f"2 processes ({kind})" in content.stamp[0]


def test_what_goes_wrong_is_told_once(
    forked: Callable[..., Any], folder: Path, runs: dict[str, Run]
) -> None:
    """A batch that cannot be shared, another number of processes than before, and the like."""
    mistakes = [
        (2, words("ddp", "--batch", "3"),
         "batch: 3 sequences cannot be shared equally by 2 processes; use multiples of 2"),
        (2, words("ddp", "--context", "128"),
         "context: the 1 sequences of 128 tokens in a step cannot be shared equally by 2"),
        (2, words("dpd"), "parallel: unknown kind 'dpd'"),
        (2, ["run", "--suite", "training"], "torchrun has started 2 processes"),
        (2, ["run", "--parallel", "ddp"], "parallel: the suite inference has no use for it"),
        (1, ["run", "--resume", "--out", "ddp", "--parallel", "ddp"],
         "parallel: the run is of 2 processes (ddp), and torchrun has started 1; continue it as"),
        (1, ["run", "--resume", "--out", "ddp"],
         "parallel: the run is of 2 processes (ddp), and torchrun has started 1"),
        (2, ["run", "--resume", "--out", "ddp", "--parallel", "fsdp"],
         "ddp was begun with another configuration: parallel was 'ddp', not 'fsdp'"),
    ]  # fmt: skip
    before = set(folder.iterdir())
    found = forked(([count, 60, [MAIN, *line]] for count, line, _ in mistakes), folder)
    for (_, line, said), (first, *others) in zip(mistakes, found, strict=True):
        assert (first.status, first.out) == (2, ""), line
        assert first.err.startswith(f"retbench: error: {said}") and first.err.count("\n") == 1
        assert [(each.out, each.err) for each in others] == [("", "")] * len(others)
        assert {each.status for each in others} <= {2}
    assert set(folder.iterdir()) == before


def test_without_torchrun_there_is_one_process() -> None:
    with pytest.raises(UserError, match=r"the run is of 1 processes \(ddp\), and torchrun has not"):
        resolve("training", parallel="ddp", device="cpu")


def test_defaults_are_those_that_the_processes_can_share(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, given in {
        "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, given)
    config = resolve("training", parallel="ddp", device="cpu", threads=1)
    assert (config.world_size, config.batch) == (2, (4,))
    assert config.context == (512, 1024)
    points = [point.id for point in suites.get("training").plan(config).points]
    assert [point for point in points if "processes" in point] == [
        "processes=1,context=512,batch=4"
    ]
