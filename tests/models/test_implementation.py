"""Other ways to compute the same function: they change what runs, not what comes out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, _cur_sdpa_kernel_backends

from models import build
from models.config import ConfigError
from models.family.transformer import FUSED
from models.registry import config_for
from models.sdpa import CHOSEN, by_kernel

WAYS = [
    ("retnet", {"form": "parallel"}),
    ("transformer", {"implementation": "math"}),
    ("transformer-gqa", {"implementation": "flash"}),
]


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

    monkeypatch.setattr("models.mixers.multihead.causal_attention", spy)
    small.model("transformer", implementation="math")(small.tokens(1, 4))
    assert set(used) == {(False, True)}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cudnn", "PyTorch has no such kernel for float32 and head dimension 16 on cpu"),
        ("fa3", "needs a CUDA device, not cpu"),
    ],
)
def test_a_kernel_that_cannot_run_here_is_an_error_when_the_model_is_built(
    name: str, reason: str
) -> None:
    with pytest.raises(ConfigError, match=f"implementation {name}: {reason}"):
        build("transformer", preset="tiny", vocab_size=61, implementation=name)


def test_the_flash_kernel_alone_may_run_where_it_is_asked_for(
    small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, used = small.model("transformer", implementation="flash"), []

    def spy(q: Any, k: Any, v: Any, bias: Any = None) -> Any:
        used.append(_cur_sdpa_kernel_backends())
        return v

    monkeypatch.setattr("models.mixers.multihead.causal_attention", spy)
    model(small.tokens(1, 4))
    assert used == 2 * [[SDPBackend.FLASH_ATTENTION]]


def test_a_gpus_kernel_takes_16_bits_alone() -> None:
    with FakeTensorMode():
        q = torch.empty(1, 1, 4, 8, device="cuda")
    for name in CHOSEN:
        with pytest.raises(ConfigError, match="needs bfloat16 or float16, not float32"):
            by_kernel(name, q)
        by_kernel(name, q.bfloat16())


@pytest.mark.parametrize(
    ("family", "field", "value", "known"),
    [
        ("retnet", "form", "recurrent", "chunkwise, parallel"),
        ("retnet", "implementation", "math", "auto, torch, triton"),
        ("transformer", "implementation", "fast", "auto, torch, triton, math, flash, cudnn, fa3"),
    ],
)
def test_an_unknown_way_is_an_error_that_names_the_known_ones(
    family: str, field: str, value: str, known: str
) -> None:
    with pytest.raises(ConfigError, match=f"{field} must be one of {known}, not '{value}'"):
        config_for(family, "tiny", **{field: value})


def test_the_fused_kernels_that_may_be_asked_for_are_those_that_there_are() -> None:
    assert tuple(CHOSEN) == FUSED
