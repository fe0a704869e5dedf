"""A third party's mixer: one file and one decorator, and it is measured like the others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch

from models import ConfigError, build, config_for, families, register, registry
from models.checkpoint import load, save
from models.decoder import Decoder
from models.family.retnet import RetNetConfig
from models.protocol import LanguageModel
from models.registry import load_plugin

GUIDE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
PLUGIN = GUIDE[GUIDE.index("# moving_average.py") :].partition("\n```\n")[0]


@pytest.fixture(autouse=True)
def _registry_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers is forgotten after it."""
    families()
    monkeypatch.setattr(registry, "_FAMILIES", dict(registry._FAMILIES))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("retbench_plugin") or name == "moving_average":
            del sys.modules[name]


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    file = tmp_path / "moving_average.py"
    file.write_text(PLUGIN)
    return file


# --- from outside the package --------------------------------------------------------------------


def test_a_mixer_from_a_file_is_a_family_like_any_other(plugin: Path) -> None:
    assert "moving-average" not in families()
    load_plugin(str(plugin))
    assert "moving-average" in families()
    model = build("moving-average", preset="tiny", vocab_size=31)
    assert isinstance(model, LanguageModel)


@pytest.mark.parametrize("ffn", ["gelu", "swiglu"])
@pytest.mark.parametrize("preset", ["tiny", "10m", "1.3b"])
def test_its_parameters_are_matched_without_its_doing(plugin: Path, preset: str, ffn: str) -> None:
    load_plugin(str(plugin))
    own, retnet = (
        config_for(name, preset, ffn=ffn).num_parameters() for name in ("moving-average", "retnet")
    )
    assert own == pytest.approx(retnet, rel=0.005)


def test_its_prefill_and_steps_reproduce_its_forward(plugin: Path, small: Any) -> None:
    load_plugin(str(plugin))
    model = small.model("moving-average")
    tokens = small.tokens(2, 12)
    expected = model(tokens)
    state = model.init_state(2, 12)
    logits = [model.prefill(tokens[:, :5], state), model.prefill(tokens[:, 5:8], state)]
    logits += [model.step(token, state) for token in tokens[:, 8:].T]
    for found, at in zip(logits, (4, 7, 8, 9, 10, 11), strict=True):
        assert small.distance(found, expected[:, at]) < 1e-10
    assert model.state_bytes(2, 12) == state.nbytes
    assert model.num_parameters() == model.config.num_parameters()


def test_its_own_options_can_be_set_and_its_models_saved(
    plugin: Path, small: Any, tmp_path: Path
) -> None:
    load_plugin(str(plugin))
    model = small.model("moving-average", scale=0.5)
    save(model, tmp_path / "saved")
    tokens = small.tokens(1, 6)
    assert torch.equal(load(tmp_path / "saved")(tokens), model(tokens))
    assert not torch.equal(small.model("moving-average")(tokens), model(tokens))


def test_a_module_is_loaded_by_its_name(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(plugin.parent)
    load_plugin("moving_average")
    assert "moving-average" in families()


def test_an_entry_point_is_found_by_itself(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(plugin.parent)
    entry = EntryPoint("moving-average", "moving_average", registry.ENTRY_POINT_GROUP)
    monkeypatch.setattr(
        registry, "entry_points", lambda group: [entry] if group == "retbench.models" else []
    )
    registry._discover.cache_clear()
    assert "moving-average" in families()


def test_loading_a_file_twice_is_loading_it_once(plugin: Path) -> None:
    load_plugin(str(plugin))
    first = registry._FAMILIES["moving-average"]
    load_plugin(str(plugin))
    assert registry._FAMILIES["moving-average"] is first


def test_two_files_of_one_name_are_two_plugins(plugin: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / plugin.name
    other.parent.mkdir()
    other.write_text(PLUGIN.replace("moving-average", "another-average"))
    load_plugin(str(plugin))
    load_plugin(str(other))
    assert {"moving-average", "another-average"} <= set(families())


def test_a_file_that_fails_fails_again(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("1 / 0")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            load_plugin(str(file))


@pytest.mark.parametrize("source", ["nowhere/mixer.py", "no_such_package.mixer"])
def test_a_plugin_that_is_not_there_is_an_error(source: str) -> None:
    with pytest.raises(ConfigError, match=r"no (file|module) to load models from"):
        load_plugin(source)


# --- names ---------------------------------------------------------------------------------------


def test_the_built_in_families_come_first() -> None:
    assert families()[0] == "retnet" and "transformer" in families()


def test_a_name_is_taken_once() -> None:
    @dataclass(frozen=True)
    class Other(RetNetConfig):
        pass

    with pytest.raises(ConfigError, match="'retnet' is registered already"):
        register("retnet")(Other)


def test_not_even_a_class_of_the_same_name_replaces_a_family(tmp_path: Path) -> None:
    file = tmp_path / "impostor.py"
    file.write_text(
        "from models import register\n"
        "from models.family.retnet import RetNetConfig as Base\n"
        "@register('retnet')\n"
        "class RetNetConfig(Base): pass\n"
    )
    with pytest.raises(ConfigError, match="'retnet' is registered already"):
        load_plugin(str(file))
    assert registry._FAMILIES["retnet"] is RetNetConfig


@pytest.mark.parametrize(
    ("family", "preset", "options", "complaint"),
    [
        ("retnett", "tiny", {}, "unknown model 'retnett'; there are retnet, retnet-"),
        ("retnet", "huge", {}, "unknown preset 'huge'; there are 50k, tiny, 300k, 1m"),
        ("retnet", "tiny", {"colour": 1}, "retnet has no option 'colour'"),
    ],
)
def test_an_unknown_name_is_an_error_that_lists_the_known(
    family: str, preset: str, options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        build(family, preset=preset, **options)


def test_a_build_is_of_its_family_preset_and_type() -> None:
    model = build("transformer-gqa", preset="tiny", dtype=torch.bfloat16, vocab_size=31)
    assert isinstance(model, Decoder)
    assert model.config == config_for("transformer-gqa", "tiny", vocab_size=31)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_the_registry_and_the_configurations_need_no_torch() -> None:
    program = "import sys, models; assert models.PRESETS; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
