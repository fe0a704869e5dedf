"""A training that was interrupted, however, continues bit for bit, or says why it cannot."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from models import checkpoint as model_checkpoint
from retbench.errors import UserError
from retbench.training import checkpointing
from retbench.training.checkpointing import Checkpoints, latest
from retbench.training.loop import Record, Training, train
from retbench.training.step import make_optimizer

from ...forked_workers import Forked
from ..full_disk import full_disk


def trained(small: ModuleType, folder: Path | None = None, **more: Any) -> tuple[Training, Any]:
    """A training of the small decoder, continued where the folder holds a checkpoint."""
    model = small.decoder()
    checkpoints = Checkpoints(folder, "same") if folder else None
    training = train(
        model, small.source(), small.training(), dev=small.dev_of(model), checkpoint=checkpoints,
        **more,
    )  # fmt: skip
    return training, model


def curve(training: Training) -> list[Any]:
    """All that must not depend on interruptions: everything but times."""
    return [(r.step, r.tokens, r.train_loss, r.dev_loss, r.learning_rate) for r in training.records]


def same_weights(first: Any, second: Any) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def stop_at(step: int) -> Callable[[Record], None]:
    def stop(record: Record) -> None:
        if record.step >= step:
            raise KeyboardInterrupt

    return stop


@pytest.fixture
def interrupted(small: ModuleType, tmp_path: Path) -> Path:
    """A folder with the checkpoint of a training that was stopped after 14 steps."""
    with pytest.raises(KeyboardInterrupt):
        trained(small, tmp_path / "kept", observe=stop_at(14))
    return tmp_path / "kept"


@pytest.mark.parametrize("step", [2, 4, 14, 24])
def test_a_stopped_training_continues_bit_for_bit(
    small: ModuleType, tmp_path: Path, step: int
) -> None:
    undisturbed, expected = trained(small)
    with pytest.raises(KeyboardInterrupt):
        trained(small, tmp_path / "kept", observe=stop_at(step))
    training, model = trained(small, tmp_path / "kept")
    assert curve(training) == curve(undisturbed)
    assert same_weights(model, expected)


def test_a_killed_training_continues_bit_for_bit(small: ModuleType, tmp_path: Path) -> None:
    undisturbed, expected = trained(small)
    line = [sys.executable, small.__file__, str(tmp_path / "kept")]
    with Forked(line, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for step in process.stdout:
            if int(step) >= 10:
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    training, model = trained(small, tmp_path / "kept")
    assert curve(training) == curve(undisturbed)
    assert same_weights(model, expected)


def test_only_the_latest_checkpoint_stays(interrupted: Path) -> None:
    assert [path.name for path in interrupted.iterdir()] == ["step-00000012"]


def test_a_checkpoint_is_a_model_that_can_be_loaded(small: ModuleType, interrupted: Path) -> None:
    path = latest(interrupted)
    assert path is not None
    with pytest.raises(KeyboardInterrupt):
        trained(small, observe=stop_at(12))
    model = small.decoder()
    with pytest.raises(KeyboardInterrupt):
        train(model, small.source(), small.training(), dev=small.dev_of(model), observe=stop_at(12))
    assert same_weights(model_checkpoint.load(path), model)


def test_a_parameter_without_a_gradient_has_no_moments_yet(
    small: ModuleType, tmp_path: Path
) -> None:
    model = small.Table()
    model.spare = torch.nn.Parameter(torch.ones(3, 3))  # no part of any loss
    config, source = small.training(steps=8), small.source()
    checkpoints = Checkpoints(tmp_path, "same")
    with pytest.raises(KeyboardInterrupt):
        train(
            model, source, config, dev=lambda: 1.0, checkpoint=checkpoints, observe=stop_at(4)
        )  # fmt: skip
    again = small.Table(seed=1)
    again.spare = torch.nn.Parameter(torch.zeros(3, 3))
    resumed = train(again, source, config, dev=lambda: 1.0, checkpoint=checkpoints)
    undisturbed = small.Table()
    whole = train(undisturbed, source, config, dev=lambda: 1.0)
    assert curve(resumed) == curve(whole)
    assert torch.equal(again.table, undisturbed.table) and torch.equal(again.spare, model.spare)


def test_a_compiled_training_continues_bit_for_bit(
    small: ModuleType, tmp_path: Path, uncompiled: None
) -> None:
    """Each process makes a pass before its first step, which must leave no trace."""
    undisturbed, expected = trained(small)
    config, checkpoints = small.training(compile=True), Checkpoints(tmp_path, "same")

    def compiled(**more: Any) -> tuple[Training, Any]:
        model = small.decoder()
        dev = small.dev_of(model)
        found = train(model, small.source(), config, dev=dev, checkpoint=checkpoints, **more)
        return found, model

    with pytest.raises(KeyboardInterrupt):
        compiled(observe=stop_at(14))
    training, model = compiled()
    assert curve(training) == curve(undisturbed)
    assert same_weights(model, expected)


def test_random_generators_are_put_back(small: ModuleType, tmp_path: Path) -> None:
    model, checkpoints = small.Table(), Checkpoints(tmp_path, "same")
    optimizer = make_optimizer(model, small.training())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    record = Record(1, 64, 0.5, 2.0, 2.0, 0.1)
    torch.manual_seed(7)
    checkpoints.keep(model, optimizer, (record,))
    drawn = torch.rand(3)
    records = checkpoints.restore(model, make_optimizer(model, small.training()))
    assert records == (record,)
    assert torch.equal(torch.rand(3), drawn)


def test_nothing_is_written_where_none_is_due(small: ModuleType, tmp_path: Path) -> None:
    model = small.Table()
    train(model, small.source(), small.training(), checkpoint=Checkpoints(tmp_path, "same"))
    assert not list(tmp_path.iterdir())  # there were no estimates


def test_a_checkpoint_half_written_is_ignored_and_swept(
    small: ModuleType, interrupted: Path
) -> None:
    (interrupted / "step-00000016.new").mkdir()
    (interrupted / "step-00000016.new" / "model.safetensors").write_bytes(b"half")
    training, _ = trained(small, interrupted)
    assert curve(training) == curve(trained(small)[0])
    assert [path.name for path in interrupted.iterdir()] == ["step-00000024"]


@pytest.mark.parametrize("limit", [500, 20_000, 110_000, 140_000])
def test_a_full_disk_leaves_the_earlier_checkpoint(
    small: ModuleType, interrupted: Path, limit: int
) -> None:
    path = latest(interrupted)
    assert path is not None
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    largest = max(map(len, before.values()))
    full = pytest.raises(UserError, match=r"cannot write .*step-00000016: File too large; .*room")
    with full, full_disk(min(limit, largest - 1)):
        trained(small, interrupted)
    assert [found.name for found in interrupted.iterdir()] == [path.name]
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    assert curve(trained(small, interrupted)[0]) == curve(trained(small)[0])


def test_a_folder_that_cannot_be_made_is_named(small: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*file/kept/step-00000004: Not a directory"):
        trained(small, tmp_path / "file" / "kept")


def test_the_checkpoint_of_another_training_is_refused(
    small: ModuleType, interrupted: Path
) -> None:
    model = small.decoder()
    with pytest.raises(UserError, match="checkpoint of another model, tokenizer, data"):
        Checkpoints(interrupted, "other").restore(model, make_optimizer(model, small.training()))


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-9])


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


def _pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize("damage", [_truncate, _flip, Path.unlink, _pipe])
@pytest.mark.parametrize("name", ["model.safetensors", "training.safetensors", "progress.json"])
def test_damage_is_named(
    small: ModuleType, interrupted: Path, damage: Callable[[Path], None], name: str
) -> None:
    path = latest(interrupted)
    assert path is not None
    damage(path / name)
    model = small.decoder()
    with pytest.raises(UserError, match=r"step-00000012.*: damaged checkpoint: .*; delete it"):
        Checkpoints(interrupted, "same").restore(model, make_optimizer(model, small.training()))


def test_moments_of_another_model_are_refused(small: ModuleType, interrupted: Path) -> None:
    model = small.Table()
    optimizer = make_optimizer(model, small.training())
    with pytest.raises(UserError, match="damaged checkpoint"):
        Checkpoints(interrupted, "same").restore(model, optimizer)
    assert checkpointing.latest(interrupted / "nowhere") is None
