"""``retbench generate``: text as it is made, from any saved model, and what it refuses."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models import build, checkpoint
from retbench.cli import training_display
from retbench.cli.training_display import stream_text
from retbench.data.vocabulary import tokenizer_named
from retbench.machine.threads import cpu_threads
from retbench.store import documents
from retbench.training import model_folder

Command = Callable[..., Any]


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """``saved(tokenizer, text)``: the folder of an untrained model with that tokenizer."""

    def save(name: str = "char", text: str = "to be or not\n") -> Path:
        tokenizer = tokenizer_named(name, lambda: iter([text]))
        model: Any = build("retnet", preset="tiny", vocab_size=tokenizer.vocab_size)
        record = {"state": "running", "settings": {}, "data": {}, "plugins": []}
        (tmp_path / "run").mkdir(exist_ok=True)
        model_folder.begin(tmp_path / "run", model.config, tokenizer, record)
        model_folder.finish(tmp_path / "run", model, record | {"state": "finished"})
        return tmp_path / "run"

    return save


@pytest.mark.parametrize("name", ["char", "byte", "gpt2"])
def test_it_continues_the_prompt(command: Command, saved: Callable[..., Path], name: str) -> None:
    folder = saved(name)
    first = command("generate", folder, "--prompt", "to be", "--tokens", "20", "--seed", "3")
    assert (first.status, first.err) == (0, "")
    assert first.out.startswith("to be") and first.out.endswith("\n")
    again = command("generate", folder, "--prompt", "to be", "--tokens", "20", "--seed", "3")
    other = command("generate", folder, "--prompt", "to be", "--tokens", "20", "--seed", "4")
    assert first.out == again.out != other.out


def test_a_plugin_that_sets_threads_leaves_the_command_its_own(
    command: Command, saved: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    loaded = model_folder.load
    monkeypatch.setattr(
        model_folder, "load",
        lambda *given, **named: (torch.set_num_threads(3), loaded(*given, **named))[1],
    )  # fmt: skip
    monkeypatch.setattr(
        training_display, "stream_text", lambda *_: computed.append(torch.get_num_threads())
    )
    with cpu_threads(2):
        assert command("generate", saved(), "--threads", "1").status == 0
    assert computed == [1]


def test_without_a_prompt_it_begins_where_the_vocabulary_knows_no_line(
    command: Command, saved: Callable[..., Path]
) -> None:
    ended = command("generate", saved("char", "ACGT"), "--tokens", "20")
    assert (ended.status, ended.err) == (0, "") and set(ended.out.strip()) <= set("ACGT")


def test_choices_are_heeded(command: Command, saved: Callable[..., Path]) -> None:
    line = ("generate", saved(), "--prompt", "to", "--tokens", "30")
    greedy = command(*line, "--temperature", "0").out
    assert greedy == command(*line, "--top-k", "1").out == command(*line, "--top-p", "1e-9").out
    assert len(command(*line).out.rstrip("\n")) >= len("to") + 29  # but for line breaks at the end


def test_characters_come_whole_and_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes of one character are waited for; whole ones are shown at once, broken ones marked."""
    tokenizer = tokenizer_named("byte", lambda: iter(()))
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stdout", shown)
    seen = []

    def tokens() -> Iterator[int]:
        for byte in "a€ö".encode() + b"\xe2\x82":
            seen.append(shown.getvalue())
            yield byte

    stream_text(tokens(), tokenizer)
    assert seen == ["", "a", "a", "a", "a€", "a€", "a€ö", "a€ö"]
    assert shown.getvalue() == "a€ö\ufffd\n"


def test_weights_alone_need_a_tokenizer_named(command: Command, tmp_path: Path) -> None:
    model: Any = build("transformer", preset="tiny", vocab_size=256)
    checkpoint.save(model, tmp_path / "saved")
    line = ("generate", "saved", "--prompt", "to be", "--tokens", "4")
    ended = command(*line)
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert "saved has no tokenizer.json; say with --tokenizer which, such as gpt2" in ended.err
    assert command(*line, "--tokenizer", "byte").out.startswith("to be")
    ended = command(*line, "--tokenizer", "gpt2")
    assert "the model knows 256 tokens, the tokenizer gpt2 has 50257" in ended.err
    for made in ("char", "bpe:300"):
        ended = command(*line, "--tokenizer", made)
        assert f"the tokenizer {made} is made from the training's text" in ended.err
        assert (ended.status, ended.err.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--prompt", "to be!"), "prompt: the character '!' does not occur in the text"),
        (("--prompt", ""), "prompt: needs at least one character"),
        (("--prompt", "\udcff"), "'\\udcff' is not UTF-8"),
        (("--temperature", "-1"), "Invalid value for '--temperature'"),
        (("--top-k", "0"), "Invalid value for '--top-k'"),
        (("--top-p", "0"), "top-p: must be above 0 and at most 1, not 0"),
        (("--top-p", "1.5"), "top-p: must be above 0 and at most 1, not 1.5"),
        (("--tokens", "0"), "Invalid value for '--tokens'"),
        (("--tokens", "200000"), "are more than the model's 131072; ask for fewer --tokens"),
        (("--device", "tpu"), "unknown device 'tpu'"),
        (("--tokenizer", "byte"), "has its own tokenizer, char; leave out --tokenizer"),
        (("--plugin", "nowhere.py"), "no file to load models from: nowhere.py"),
    ],
)
def test_mistakes_are_one_line(
    command: Command, saved: Callable[..., Path], flags: tuple[str, ...], says: str
) -> None:
    ended = command("generate", saved(), *flags)
    assert (ended.status, ended.out, ended.err.count("\n")) == (2, "", 1), ended.err
    assert says in ended.err


def _truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _of_an_unknown_family(file: Path) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | {"family": "hyena"}))


def _edited(file: Path) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | {"more": 1}))


def _wider(file: Path) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | {"d_model": 128, "d_ff": 0}))


@pytest.mark.parametrize(
    ("name", "damage", "says"),
    [
        ("model.safetensors", _truncated, "model.safetensors is damaged"),
        ("model.safetensors", Path.unlink, "holds no weights: model.safetensors is missing"),
        ("config.json", _truncated, "config.json: "),
        ("config.json", Path.unlink, "config.json cannot be read"),
        ("config.json", _of_an_unknown_family, "unknown model 'hyena'"),
        ("config.json", _wider, "does not fit config.json"),
        ("tokenizer.json", _truncated, "tokenizer.json:"),
        ("tokenizer.json", Path.unlink, "has no tokenizer.json"),
        ("tokenizer.json", _edited, "tokenizer.json: changed since it was written"),
        ("training.json", _edited, "training.json: changed since it was written"),
        ("training.json", _truncated, "training.json:"),
    ],
)
def test_damage_is_named(
    command: Command, saved: Callable[..., Path], name: str, damage: Callable[[Path], None],
    says: str,
) -> None:  # fmt: skip
    folder = saved()
    damage(folder / name)
    ended = command("generate", folder)
    assert (ended.status, ended.out, ended.err.count("\n")) == (2, "", 1), ended.err
    assert says in ended.err


def test_a_folder_that_is_not_there_is_named(command: Command) -> None:
    ended = command("generate", "nowhere")
    assert (ended.status, ended.err.count("\n")) == (2, 1)
    assert "there is no folder nowhere" in ended.err


def test_a_tokenizer_of_another_size_is_named(command: Command, saved: Callable[..., Path]) -> None:
    folder = saved()
    other = tokenizer_named("char", lambda: iter(["abc"]))
    assert np.array_equal(other.encode("cab"), [2, 0, 1])
    (folder / "tokenizer.json").write_text(json.dumps(documents.sealed(other.to_json())))
    ended = command("generate", folder)
    assert "the model knows 8 tokens, the tokenizer char has 3" in ended.err


def test_the_tokenizer_of_another_training_is_named(
    command: Command, saved: Callable[..., Path]
) -> None:
    folder = saved()
    model_folder.write_record(folder, model_folder.read_record(folder) | {"tokenizer": "another"})
    assert "tokenizer.json is of another training than training" in command("generate", folder).err


def test_a_model_that_the_host_has_no_memory_for_is_one_line(
    command: Command, saved: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_memory(*_: Any, **__: Any) -> Any:
        torch.empty(2**60, dtype=torch.uint8)

    for place in ("retbench.training.model_folder.load", "models.generation.generate"):
        with monkeypatch.context() as patch:
            patch.setattr(place, without_memory)
            ended = command("generate", saved(), "--prompt", "to", "--tokens", "20")
        assert (ended.status, ended.err.count("\n")) == (2, 1), ended.err
        assert "not enough memory for this model" in ended.err and "fewer --tokens" in ended.err
