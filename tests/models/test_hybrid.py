"""A RetNet with attention layers: which layers they are, and what they weigh."""

from __future__ import annotations

from typing import Any

import pytest

from models import ConfigError, config_for
from models.attention import KVCache
from models.mixers.base import MatrixState


def test_the_middle_layer_of_three_is_attention(small: Any) -> None:
    model = small.model("retnet-hybrid", n_layers=7)
    kinds = [type(layer) for layer in model.init_state(1, 8).layers]
    R, A = MatrixState, KVCache
    assert kinds == [R, A, R, R, A, R, R]
    assert model.implementation("decode") == "recurrent+sdpa"


@pytest.mark.parametrize("preset", ["1m", "1.3b"])
def test_layers_are_those_of_the_pure_models(preset: str) -> None:
    hybrid = config_for("retnet-hybrid", preset, n_layers=3, state_dtype="model")
    retnet, transformer = (
        config_for(name, preset, n_layers=3, **options)
        for name, options in (("retnet", {"state_dtype": "model"}), ("transformer", {}))
    )
    assert hybrid.layers == (retnet, transformer, retnet)
    third = {
        figure: (2 * getattr(retnet, figure)(*given) + getattr(transformer, figure)(*given)) / 3
        for figure, given in (("state_bytes", (2, 99, 2)), ("flops_per_token", (64, "forward")))
    }
    assert hybrid.state_bytes(2, 99, 2) == third["state_bytes"]
    assert hybrid.flops_per_token(64, "forward") == pytest.approx(third["flops_per_token"])


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"attention_every": 1}, "attention_every must be at least 2, not 1"),
        ({"attention_heads": 3}, "n_heads = 3 does not divide d_model = 64"),
    ],
)
def test_layers_that_cannot_be_are_refused(options: dict[str, int], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        config_for("retnet-hybrid", "tiny", **options)
