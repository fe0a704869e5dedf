"""Other ways to compute the same function: they change what runs, not what comes out."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from models import build
from models.config import ConfigError
from models.registry import config_for

WAYS = [("retnet", {"form": "parallel"}), ("transformer", {"implementation": "math"})]


@pytest.mark.parametrize(("family", "way"), WAYS)
def test_the_logits_are_the_same(small: Any, family: str, way: dict[str, Any]) -> None:
    tokens = small.tokens(2, 23)
    expected = small.model(family)(tokens)
    model = small.model(family, **way)
    state = model.init_state(2, 32)
    prefilled = [model.prefill(tokens[:, :9], state), model.prefill(tokens[:, 9:], state)]
    assert small.distance(model(tokens), expected) < 1e-10
    assert small.distance(torch.stack(prefilled, 1), expected[:, [8, 22]]) < 1e-10


@pytest.mark.parametrize(
    ("family", "way", "name"), [(*WAYS[0], "parallel"), (*WAYS[1], "sdpa-math")]
)
def test_the_record_names_what_runs(family: str, way: dict[str, Any], name: str) -> None:
    model = build(family, preset="tiny", vocab_size=61, **way)
    assert model.implementation("prefill") == name
    assert build(family, preset="tiny", vocab_size=61).implementation("prefill") != name


def test_the_math_kernel_is_what_runs_where_it_is_asked_for(
    small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []

    def spy(q: Any, k: Any, v: Any, bias: Any = None) -> Any:
        used.append(
            (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled())
        )
        return v

    monkeypatch.setattr("models.transformer.causal_attention", spy)
    small.model("transformer", implementation="math")(small.tokens(1, 4))
    assert set(used) == {(False, True)}


@pytest.mark.parametrize(
    ("family", "field", "value", "known"),
    [
        ("retnet", "form", "recurrent", "chunkwise, parallel"),
        ("retnet", "implementation", "math", "auto, torch, triton"),
        ("transformer", "implementation", "flash", "auto, torch, triton, math"),
    ],
)
def test_an_unknown_way_is_an_error_that_names_the_known_ones(
    family: str, field: str, value: str, known: str
) -> None:
    with pytest.raises(ConfigError, match=f"{field} must be one of {known}, not '{value}'"):
        config_for(family, "tiny", **{field: value})
