"""``retbench train --parallel`` under torchrun: it resumes in any number of processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import retbench
from retbench.machine.host import cuda_available
from retbench.training import model_folder

from ...forked_workers import forked_agents

ROUNDING = 1e-6  # of losses in float32, as in test_ranks.py
KINDS = ("ddp", "fsdp")
LIMIT_S = 250
FILES = {"config.json", "model.safetensors", "tokenizer.json", "training.json"}
MAIN = Path(retbench.__file__).parent / "__main__.py"
CALLS = 2 * 2
"""Of a mixer in a step of training: two parts through two layers."""

MISTAKES = {
    "batch: 3 sequences cannot be shared equally by 2 processes; use a multiple of 2":
        ["--batch", "3", "--device", "cpu"],
    "--out used is there already": ["--out", "used"],
}  # fmt: skip
"""What is said of options that several processes cannot have."""
if not cuda_available():
    MISTAKES["device cuda: there is no GPU that torch can use"] = ["--device", "cuda"]

# Rank 1 is killed in a call of a mixer in training, if the environment says in which, or gets a
# Ctrl-C, if the configuration does.
MORTAL = """
import os
import signal
from dataclasses import dataclass
from models.registry import register
from models.family.transformer import TransformerConfig
from models.mixers.multihead import Attention

class Mortal(Attention):
    calls = 0

    def forward(self, x, shared):
        Mortal.calls += self.training
        for signal_, at in (
            (signal.SIGKILL, int(os.environ.get("DIES", "0"))),
            (signal.SIGINT, self.config.stops),
        ):
            if self.training and Mortal.calls == at and os.environ.get("RANK") == "1":
                os.kill(os.getpid(), signal_)
        return super().forward(x, shared)

@register("fading")
@dataclass(frozen=True)
class MortalConfig(TransformerConfig):
    stops: int = 0

    def mixer(self):
        return Mortal(self)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands run: with a text, and a model that dies when it is told to."""
    folder = tmp_path_factory.mktemp("parallel")
    lines = (f"the {'quick' if n % 3 else 'slow'} fox jumps {n % 7} times\n" for n in range(1000))
    (folder / "input.txt").write_text("".join(lines))
    (folder / "fading.py").write_text(MORTAL)
    return folder


def begun(out: str, *more: str) -> list[str]:
    return [
        "train", "--model", "fading", "--plugin", "fading.py", "--preset", "tiny", "--set",
        "d_model=32", "--set", "n_heads=4", "--context", "16", "--batch", "4", "--accumulate", "2",
        "--threads", "1", "--device", "cpu", "--lr", "0.001", "--data", "input.txt", "--steps",
        "12", "--eval-every", "3", "--out", out, *more,
    ]  # fmt: skip


def torchrun(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command in two processes, of which one dies."""
    line = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    with forked_agents():
        return subprocess.run(
            [*line, "-m", "retbench", *words], cwd=folder, env=environment, capture_output=True,
            text=True, timeout=LIMIT_S,
        )  # fmt: skip


def curve(folder: Path) -> tuple[list[int], list[float], list[float]]:
    records = model_folder.read_record(folder)["records"]
    return (
        [record["step"] for record in records],
        [record["train_loss"] for record in records],
        [record["dev_loss"] for record in records if record["dev_loss"] is not None],
    )


def same_curve(folder: Path, other: Path) -> None:
    found, expected = curve(folder), curve(other)
    assert found[0] == expected[0] and len(expected[0]) == 12 and len(expected[2]) == 4
    assert found[1] == pytest.approx(expected[1], rel=ROUNDING)
    assert found[2] == pytest.approx(expected[2], rel=ROUNDING)


@pytest.fixture(scope="module")
def killed(forked: Callable[..., Any], folder: Path) -> dict[str, str]:
    """What was said of trainings in two processes of which one was killed, one under torchrun."""
    ddp, fsdp = (begun(kind, "--parallel", kind) for kind in KINDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIES", str(8 * CALLS))
        ((first, _),) = forked([[2, LIMIT_S, [MAIN, *fsdp]]], folder)
        return {"ddp": torchrun(folder, *ddp).stderr, "fsdp": first.err}


@pytest.fixture(scope="module")
def ended(forked: Callable[..., Any], folder: Path, killed: dict[str, str]) -> dict[str, Any]:
    """How others ended, all at once: undisturbed, continued, interrupted, and refused."""
    commands = {
        "alone": (1, begun("alone", "--quiet")),
        "stopped": (2, begun("stopped", "--parallel", "ddp", "--set", f"stops={5 * CALLS}")),
    }
    for kind, other in zip(KINDS, reversed(KINDS), strict=True):
        for name in ("one", "two"):
            shutil.copytree(folder / kind, folder / f"{kind}-{name}")
        resume = ["train", "--resume", "--out"]
        commands |= {
            f"both-{kind}": (2, begun(f"both-{kind}", "--json", "--parallel", kind)),
            f"{kind}-one": (1, [*resume, f"{kind}-one", "--quiet"]),
            f"{kind}-two": (2, [*resume, f"{kind}-two", "--parallel", other]),
        }
    (folder / "used").mkdir()
    (folder / "used" / "file").touch()
    for said, words in MISTAKES.items():
        commands[said] = (2, ["train", "--parallel", "fsdp", "--threads", "1", *words])
    found = forked(([count, LIMIT_S, [MAIN, *words]] for count, words in commands.values()), folder)
    return dict(zip(commands, found, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_rank_is_named_and_the_checkpoint_stays(
    folder: Path, killed: dict[str, str], kind: str
) -> None:
    told = [line for line in killed[kind].splitlines() if line.startswith("retbench:")]
    assert told == [
        "retbench: error: the processes cannot go on: rank 1 has ended; what was finished is kept"
    ]
    assert model_folder.read_record(folder / kind)["state"] == "running"
    assert [path.name for path in (folder / kind / "checkpoints").iterdir()] == ["step-00000006"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", ["one", "two"])
def test_it_resumes_in_one_process_and_in_two_of_the_other_kind(
    folder: Path, ended: dict[str, Any], number: str, kind: str
) -> None:
    continued = f"{kind}-{number}"
    assert [(rank.status, rank.err) for rank in ended[continued]] == [(0, "")] * (
        2 if number == "two" else 1
    )
    same_curve(folder / continued, folder / "alone")
    assert {file.name for file in (folder / continued).iterdir()} == FILES
    resumed = model_folder.read_record(folder / continued)["resumed"]
    assert [each["processes"] for each in resumed] == [2 if number == "two" else 1]


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_make_the_same_model_and_rank_0_alone_prints(
    folder: Path, ended: dict[str, Any], kind: str
) -> None:
    first, second = ended[f"both-{kind}"]
    assert (first.status, second.status) == (0, 0)
    assert (second.out, second.err) == ("", "")
    assert f"12 steps of 64 tokens (4 x 16), shared by 2 processes ({kind})" in first.err
    found = json.loads(first.out)
    assert found["processes"] == 2 and found["sample"]
    same_curve(folder / f"both-{kind}", folder / "alone")
    # The figures on the whole dev split, of weights that are nearly the same.
    alone = model_folder.read_record(folder / "alone")["results"]
    assert found["dev_loss"] == pytest.approx(alone["dev_loss"], rel=ROUNDING)
    model, tokenizer = model_folder.load(
        folder / f"both-{kind}", plugin_sources=[str(folder / "fading.py")]
    )
    assert model.config.vocab_size == tokenizer.vocab_size


def test_all_stop_at_the_record_after_a_ctrl_c_of_one(folder: Path, ended: dict[str, Any]) -> None:
    first, second = ended["stopped"]
    assert (first.status, second.status) == (130, 130)
    assert (first.err.count("\n"), second.err) == (1, "")
    assert "interrupted; the training in stopped is kept" in first.err
    assert [path.name for path in (folder / "stopped" / "checkpoints").iterdir()] == [
        "step-00000005"
    ]


@pytest.mark.parametrize("said", MISTAKES)
def test_what_goes_wrong_is_told_once(folder: Path, ended: dict[str, Any], said: str) -> None:
    first, second = ended[said]
    assert (first.status, first.out, second.status, second.out) == (2, "", 2, "")
    assert first.err.startswith(f"retbench: error: {said}")
    assert (first.err.count("\n"), second.err) == (1, "")
    assert not (folder / "results").exists()
