"""The example of a foreign model: GPT-2 is trained like the others and is Hugging Face's own."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from models.registry import config_for, load_plugin
from retbench.training.step import next_token_loss

PLUGIN = Path(__file__).parents[2] / "examples" / "gpt2_reference.py"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="the example needs transformers"
)


@pytest.fixture(autouse=True)
def _registered() -> None:
    load_plugin(str(PLUGIN))


@pytest.mark.parametrize("preset", ["tiny", "1m", "10m"])
def test_it_is_as_large_as_the_others(preset: str) -> None:
    config = config_for("gpt2-reference", preset, vocab_size=64, max_len=64)
    expected = config_for("retnet", preset).num_parameters()
    assert config.build().num_parameters() == pytest.approx(expected, rel=0.005)
    assert config.num_parameters() == pytest.approx(expected, rel=0.005)


def test_its_loss_is_the_one_that_transformers_computes() -> None:
    model = config_for("gpt2-reference", "tiny", vocab_size=64, max_len=64).build(seed=3)
    tokens = torch.randint(64, (2, 33), generator=torch.Generator().manual_seed(0))
    ours = next_token_loss(model(tokens)[:, :-1], tokens[:, 1:])
    theirs = model.model(tokens, labels=tokens).loss
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)


def test_a_seed_decides_on_its_weights() -> None:
    config = config_for("gpt2-reference", "tiny", vocab_size=64, max_len=64)
    first, again, other = (config.build(seed=seed) for seed in (1, 1, 2))
    pairs = list(zip(first.parameters(), again.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    changed = zip(first.parameters(), other.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in changed)


def test_it_says_that_it_cannot_decode() -> None:
    model = config_for("gpt2-reference", "tiny", vocab_size=64, max_len=64).build()
    with pytest.raises(NotImplementedError, match="not decoded"):
        model.init_state(1, 8)
