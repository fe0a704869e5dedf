"""Models on disk come back as they were, and what cannot be read is said of the file it is in."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from models.checkpoint import CONFIG, WEIGHTS, CheckpointError, load, save


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("tied", [True, False])
def test_a_model_comes_back_as_it_was(
    small: Any, family: str, dtype: torch.dtype, tied: bool, tmp_path: Path
) -> None:
    model = small.model(family, dtype, tie_embeddings=tied, ffn="swiglu", norm_eps=1e-5)
    save(model, tmp_path / "new" / "folder")
    again = load(tmp_path / "new" / "folder")
    assert again.config == model.config
    assert again.embedding.weight.dtype == dtype
    tokens = small.tokens(2, 12)
    assert torch.equal(again(tokens), model(tokens))
    assert not again.training


def test_a_model_may_be_loaded_in_another_type(small: Any, family: str, tmp_path: Path) -> None:
    model = small.model(family, torch.float32)
    save(model, tmp_path)
    tokens = small.tokens(1, 9)
    half = load(tmp_path, dtype=torch.bfloat16)
    assert torch.equal(half(tokens), model.bfloat16()(tokens))


def test_saving_again_replaces_the_model_and_leaves_no_other_file(
    small: Any, tmp_path: Path
) -> None:
    save(small.model("retnet"), tmp_path)
    other = small.model("transformer")
    save(other, tmp_path)
    assert sorted(f.name for f in tmp_path.iterdir()) == [CONFIG, WEIGHTS]
    assert load(tmp_path).config == other.config


def test_the_configuration_is_plain_json(small: Any, tmp_path: Path) -> None:
    save(small.model("retnet", chunk_size=7), tmp_path)
    values = json.loads((tmp_path / CONFIG).read_text())
    assert values["family"] == "retnet"
    assert values["chunk_size"] == 7


def changed(**fields: Any) -> Callable[[Path], object]:
    """Damage: rewrite fields of the configuration."""

    def apply(file: Path) -> None:
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))

    return apply


def pipe(file: Path) -> None:
    """Damage: a named pipe, which nobody writes to, in place of the file."""
    file.unlink()
    os.mkfifo(file)


def flipped(file: Path) -> None:
    """Damage: another sign of one weight."""
    content = bytearray(file.read_bytes())
    content[-1] ^= 0x80
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage", "complaint"),
    [
        (CONFIG, Path.unlink, "No such file"),
        (CONFIG, pipe, "config.json cannot be read: not a regular file"),
        (CONFIG, lambda f: f.write_text("{"), "Expecting"),
        (CONFIG, lambda f: f.write_text("[1]"), "not a JSON object"),
        (CONFIG, lambda f: f.write_bytes(b"\xff\xfe"), "can't decode"),
        (CONFIG, changed(family="gone"), "unknown model 'gone'"),
        (CONFIG, changed(colour="red"), "colour"),
        (CONFIG, changed(n_heads=5), "does not divide"),
        (CONFIG, changed(d_model="32"), "d_model must be int"),
        (CONFIG, changed(d_model=10**9), "more than 1,099,511,627,776 parameters"),
        (CONFIG, changed(n_layers=10**400), "n_layers must be below"),
        (CONFIG, changed(norm_eps=1e-3), "has changed"),
        (CONFIG, lambda f: f.write_text("[" * 100_000), "recursion"),
        (WEIGHTS, flipped, "has changed"),
        (WEIGHTS, lambda f: f.write_bytes(f.read_bytes().replace(b'"F', b'"I')), "of integers"),
        (WEIGHTS, Path.unlink, "is missing"),
        (WEIGHTS, pipe, "is missing"),
        (WEIGHTS, lambda f: f.write_bytes(b""), "damaged"),
        (WEIGHTS, lambda f: f.write_bytes(f.read_bytes()[:-9]), "damaged"),
        (WEIGHTS, lambda f: f.write_bytes(b"not weights" * 99), "damaged"),
    ],
)
def test_a_missing_or_damaged_file_is_named(
    small: Any, tmp_path: Path, name: str, damage: Callable[[Path], object], complaint: str
) -> None:
    save(small.model("retnet"), tmp_path)
    damage(tmp_path / name)
    with pytest.raises(CheckpointError, match=complaint) as caught:
        load(tmp_path)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize(
    "fields", [{"n_layers": 3}, {"n_layers": 10**6}, {"d_ff": 8}, {"tie_embeddings": False}]
)
def test_weights_of_another_configuration_are_named(
    small: Any, tmp_path: Path, fields: dict[str, Any]
) -> None:
    save(small.model("retnet"), tmp_path)
    changed(**fields)(tmp_path / CONFIG)
    with pytest.raises(CheckpointError, match="does not fit") as caught:
        load(tmp_path)
    assert str(tmp_path / WEIGHTS) in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(small: Any, tmp_path: Path, value: float) -> None:
    model = small.model("retnet")
    with torch.no_grad():
        model.embedding.weight[0, 0] = value
    save(model, tmp_path)
    with pytest.raises(CheckpointError, match=f"{WEIGHTS}: not all values of embedding.weight"):
        load(tmp_path)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        load(tmp_path / "nowhere")
