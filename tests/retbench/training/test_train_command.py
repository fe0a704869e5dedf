"""``retbench train``: what it prints and leaves behind, how it ends badly, what it refuses."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from retbench.config import requirements
from retbench.errors import UserError
from retbench.machine.threads import cpu_threads
from retbench.training import job, model_folder

from ..full_disk import full_disk
from .conftest import FILES, SMALL, Command, curve, record_of

MIXER = """
from dataclasses import dataclass
from models.registry import register
from models.family.retnet import RetNetConfig

@register("mine-{name}")
@dataclass(frozen=True)
class Mine(RetNetConfig):
    pass
"""


def test_it_says_what_it_does_and_what_came_of_it(command: Command, text: Path) -> None:
    ended = command("train", *SMALL, text, "--steps", "40", "--out", "run")
    assert (ended.status, ended.err) == (0, "")
    for said in (
        "retnet: ", "input.txt", "40 steps of 64 tokens", "step 40/40  loss", "tokens/s",
        "train loss", "dev loss", "bits per byte", "Sample",
        'python -m retbench generate run --prompt "..."',
    ):  # fmt: skip
        assert said in ended.out
    assert ended.out.count("step ") <= 3  # a line now and then


def test_json_is_one_document(command: Command, text: Path) -> None:
    ended = command("train", *SMALL, text, "--steps", "40", "--json", "--model", "transformer")
    found = json.loads(ended.out)
    assert "step 40/40" in ended.err
    assert found["folder"].startswith("results/train-transformer-tiny-")
    assert found["status"] == "ok" and len(found["records"]) == 40
    assert found["dev_loss"] == pytest.approx(found["records"][-1]["dev_loss"], rel=0.05)
    # One byte a character.
    assert found["bits_per_byte"] == pytest.approx(found["dev_loss"] * 1.442695, rel=1e-6)
    assert found["train_loss"] < 2.5 and found["tokens_per_s"] > 0 and found["sample"]


def test_the_folder_holds_the_model_and_its_record(trained: Path) -> None:
    assert {file.name for file in trained.iterdir()} == FILES
    record = record_of(trained)
    assert record["state"] == "finished"
    assert record["settings"]["overrides"] == {"d_model": 32, "n_heads": 4}
    assert record["data"]["name"] == "input.txt" and record["data"]["tokenizer"] == "char"
    assert record["settings"]["steps"] == 12 and len(record["records"]) == 12
    assert record["results"].keys() >= {"dev_loss", "train_loss", "bits_per_byte"}
    assert "versions" in record["provenance"]
    model, tokenizer = model_folder.load(trained)
    assert (
        model.config.vocab_size == tokenizer.vocab_size == len(set("thequickslowfxjmp 0123456\n"))
    )


def test_equal_settings_train_equal_models(command: Command, text: Path, trained: Path) -> None:
    command("train", *SMALL, text, "--steps", "12", "--out", "again", "--quiet")
    assert (
        Path("again/model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()
    )


def test_a_divergence_has_its_own_status(command: Command, text: Path) -> None:
    line = ["train", *SMALL, text, "--steps", "60", "--out", "run"]
    line[line.index("0.01")] = "1e6"
    ended = command(*line, "--grad-clip", "0", "--warmup", "0")
    assert (ended.status, ended.err.count("\n")) == (3, 1)
    assert "the training diverged: the train loss is" in ended.err
    assert "try a lower --lr" in ended.err
    record = record_of(Path("run"))
    assert record["state"] == "diverged" and record["cause"] in ended.err
    assert "has diverged: there is nothing" in command("train", "--resume", "--out", "run").err


def test_a_disk_that_fills_leaves_a_training_to_continue(
    command: Command, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first checkpoint fits; then there is room for small files alone."""
    from retbench.cli.training_display import TrainingDisplay

    show, disk = TrainingDisplay.record, full_disk(50_000)

    def record(self: TrainingDisplay, record: Any) -> None:
        if record.step == 3:
            disk.__enter__()
        show(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingDisplay, "record", record)
        ended = command("train", *SMALL, text, "--steps", "12", "--out", "run", "--quiet")
    disk.__exit__(None, None, None)
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert "cannot write run/checkpoints/step-00000004: File too large; what was" in ended.err
    assert [path.name for path in tmp_path.glob("run/checkpoints/*")] == ["step-00000003"]
    assert command("train", "--resume", "--out", "run", "--quiet").status == 0
    assert curve(Path("run"))[-1]["step"] == 12


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--steps", "0"), "steps: must be at least 1, not 0"),
        (("--steps", "many"), "Invalid value for '--steps'"),
        (("--batch", "4", "--accumulate", "3"), "accumulate: 3 parts do not divide the batch of 4"),
        (("--lr", "-1"), "lr: must be above 0"),
        (("--warmup", "-1"), "warmup: must not be negative"),
        (("--warmup", "5000"), "warmup: must be at least 0 and below"),
        (("--grad-clip", "-1"), "grad-clip: must not be negative"),
        (("--dtype", "float16"), "dtype: must be float32 or bfloat16 in training"),
        (("--model", "retnt"), "unknown model 'retnt'; did you mean 'retnet'?"),
        (("--preset", "2m"), "unknown preset '2m'"),
        (("--ffn", "relu"), "ffn: unknown feed-forward 'relu'"),
        (("--set", "n_heads"), "set: must be KEY=VALUE, not 'n_heads'"),
        (("--set", "heads=3"), "has no option 'heads'"),
        (("--set", "n_heads=3"), "n_heads = 3 does not divide d_model"),
        (("--set", "vocab_size=9"), "vocab_size follows from the tokenizer"),
        (("--set", "max_len=100", "--context", "200"), "context: 200 is beyond the model's 100"),
        (("--tokenizer", "chars"), "unknown tokenizer 'chars'"),
        (("--plugin", "nowhere.py"), "plugin nowhere.py: no file to load models from"),
        (("--model", "mine"), "unknown model 'mine'"),
        (("--device", "tpu"), "unknown device 'tpu'"),
        (("--threads", "0"), "threads: must be at least 1"),
        (("--contxt", "64"), "unknown flag --contxt; did you mean --context?"),
        (("--context", "600", "--data", "short.txt"), "less than one window"),
        (("--data", "empty.txt"), "empty.txt is empty"),
        (("--data", "missing.txt"), "missing.txt"),
        (("--out", "full"), "--out full is there already and not an empty folder"),
        (("--out", "of-mine"), "--out of-mine is there already and not an empty folder"),
        (("--resume", "--out", "full"), "full holds no training: training.json is missing"),
    ],
)
def test_mistakes_are_one_line(
    command: Command, tmp_path: Path, flags: tuple[str, ...], says: str
) -> None:
    for name, file in (("full", "file"), ("of-mine", "lock")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).touch()
    (tmp_path / "empty.txt").touch()
    (tmp_path / "short.txt").write_text("to be or not to be\n" * 20)
    before = sorted(tmp_path.rglob("*"))
    ended = command("train", *flags)
    assert (ended.status, ended.err.count("\n")) == (2, 1), ended.err
    assert says in ended.err
    kept = [path for path in tmp_path.rglob("*") if "cache" not in path.parts]
    assert sorted(kept) == before


@pytest.mark.parametrize("batch", ["100000000000", "9000000000000000000"])
def test_a_batch_that_the_host_has_no_memory_for_is_one_line(
    command: Command, text: Path, tmp_path: Path, batch: str
) -> None:
    ended = command("train", *SMALL, text, "--batch", batch, "--out", "run", "--quiet")
    assert (ended.status, ended.out, ended.err.count("\n")) == (2, "", 1), ended.err
    assert "not enough memory for this training" in ended.err
    assert "begin a new one with a smaller --batch" in ended.err
    assert record_of(tmp_path / "run")["state"] == "running"


def test_a_compiler_that_is_off_is_one_line(
    command: Command, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    ended = command("train", *SMALL, text, "--compile", "--out", "run")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.count("\n") == 1
    assert "compile: TORCHDYNAMO_DISABLE=1 turns torch.compile off; unset it" in ended.err
    assert not (tmp_path / "run").exists()


def test_a_plugin_is_trained_and_found_again(command: Command, text: Path, tmp_path: Path) -> None:
    name = tmp_path.name.replace("_", "-")
    Path("mixer.py").write_text(MIXER.format(name=name))
    model = ("--model", f"mine-{name}")
    ended = command(
        "train", *SMALL, text, "--steps", "4", *model, "--plugin", "mixer.py", "--out", "run"
    )
    assert ended.status == 0, ended.err
    assert "mixer.py" in record_of(Path("run"))["plugins"][0]
    assert command("generate", "run", "--tokens", "3").status == 0
    Path("mixer.py").rename("moved.py")
    ended = command("generate", "run", "--tokens", "3")
    assert ended.status == 2 and "say with --plugin where it is now" in ended.err


def test_tensorboard_is_written_or_its_lack_said(
    command: Command, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ["train", *SMALL, text, "--steps", "4", "--tensorboard", "board", "--out"]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    ended = command(*line, "run")
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert "--tensorboard needs the package tensorboard; install it" in ended.err
    written: list[tuple[str, float, int]] = []
    board = ModuleType("torch.utils.tensorboard")

    class Writer:
        def __init__(self, folder: str) -> None:
            assert folder == "board"

        def add_scalar(self, name: str, figure: float, step: int) -> None:
            written.append((name, figure, step))

        def close(self) -> None:
            written.append(("closed", 0, 0))

    board.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    assert command(*line, "other").status == 0
    records = record_of(Path("other"))["records"]
    expected = [("loss/train", record["train_loss"], record["step"]) for record in records]
    assert [entry for entry in written if entry[0] == "loss/train"] == expected
    assert written[-1][0] == "closed"


def test_a_text_that_changed_is_read_anew_in_the_same_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RETBENCH_CACHE", str(tmp_path / "cache"))
    read = []
    for word in ("abc", "xyz"):
        (tmp_path / "text.txt").write_text(f"{word} " * 500)
        asked = job.prepare(
            out=word, preset="tiny", data="text.txt", context=16, steps=1, threads=1
        )
        job.carry_out(asked)
        read.append(record_of(tmp_path / word)["data"]["sha256"])
    assert read[0] != read[1]


def test_a_plugin_that_sets_threads_leaves_a_training_its_own(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RETBENCH_CACHE", str(tmp_path / "cache"))
    asked = job.prepare(out="run", preset="tiny", data=text, context=16, steps=1, threads=1)
    # A rank that has not prepared the training itself loads plugins only now.
    loaded = requirements.require_models
    monkeypatch.setattr(
        requirements, "require_models", lambda *given: loaded(*given) or torch.set_num_threads(3)
    )
    monkeypatch.setattr(job, "_train", lambda *_: torch.get_num_threads())
    with cpu_threads(2):
        assert job.carry_out(asked) == 1


def test_bits_per_byte_are_those_of_the_tokens_whose_loss_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RETBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(job, "FINAL_TOKENS", 64)
    # Characters of one byte to the middle of the dev split, then of three.
    (tmp_path / "text.txt").write_text("abc " * 1000 + "かな漢字" * 27)
    asked = job.prepare(
        out="run", preset="tiny", data="text.txt", tokenizer="char", context=16, steps=1, threads=1
    )
    found = job.carry_out(asked).results
    assert found["bits_per_byte"] == pytest.approx(found["dev_loss"] / math.log(2))


def test_from_python(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RETBENCH_CACHE", str(tmp_path / "cache"))
    asked = job.prepare(out="run", preset="tiny", data=text, context=16, steps=3, threads=1)
    trained = job.carry_out(asked)
    assert trained.training.status == "ok" and trained.results["dev_loss"] > 0
    with pytest.raises(UserError, match="there already"):
        job.prepare(out="run")
    with pytest.raises(UserError, match="unknown key 'stepz'; did you mean 'steps'"):
        job.prepare(out="new", stepz=3)
