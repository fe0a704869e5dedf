"""A RetNet whose chunkwise form the kernels compute is the same function, and says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from models import build
from models.config import ConfigError
from models.registry import config_for

FLOAT32 = 2e-5
"""Largest difference allowed after one or two layers in float32, relative to the largest value."""


def retnet(device: torch.device, implementation: str, **overrides: Any) -> Any:
    """The tiny preset in float32: two layers, four heads of 16."""
    options = {"vocab_size": 61, "implementation": implementation, **overrides}
    return build("retnet", preset="tiny", device=device, seed=1, **options)


def tokens_on(device: torch.device, time: int) -> Tensor:
    return torch.randint(61, (2, time), generator=torch.Generator().manual_seed(0)).to(device)


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("overrides", [{}, {"group_norm": False, "gate": False}])
def test_logits_and_gradients_are_those_of_torch(
    device: torch.device, overrides: dict[str, Any]
) -> None:
    tokens, found = tokens_on(device, 70), {}
    for name in ("torch", "triton"):
        model = retnet(device, name, n_layers=1, **overrides)
        logits = model(tokens)
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        found[name] = [logits.detach(), *torch.autograd.grad(loss, list(model.parameters()))]
    for x, y in zip(found["triton"], found["torch"], strict=True):
        assert distance(x, y) < FLOAT32


@torch.no_grad()
def test_a_prompt_in_parts_and_steps_continue_one_state(device: torch.device) -> None:
    tokens = tokens_on(device, 90)
    expected = retnet(device, "torch")(tokens)
    model = retnet(device, "triton")
    state = model.init_state(2, 90)
    found = [model.prefill(tokens[:, :70], state), model.prefill(tokens[:, 70:89], state)]
    found.append(model.step(tokens[:, 89], state))
    assert distance(torch.stack(found, 1), expected[:, [69, 88, 89]]) < FLOAT32


def test_bfloat16_is_as_near_to_float32_as_that_of_torch(device: torch.device) -> None:
    tokens = tokens_on(device, 150)
    with torch.no_grad():
        exact = retnet(device, "torch")(tokens)
        error = {
            name: distance(retnet(device, name).bfloat16()(tokens).float(), exact)
            for name in ("torch", "triton")
        }
    assert error["triton"] < 1.5 * error["torch"] < 0.05


@pytest.mark.parametrize("norm_gain", [False, True])
def test_norm_and_gate_are_one_kernel_forward_and_backward(
    device: torch.device, norm_gain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = retnet(device, "triton", n_layers=1, norm_gain=norm_gain)
    monkeypatch.setattr("models.mixers.multiscale.gated_rms_norm", None)
    tokens = tokens_on(device, 20)
    model(tokens).sum().backward()
    with torch.no_grad():
        model.prefill(tokens, model.init_state(2, 20))
    with pytest.raises(TypeError):
        retnet(device, "torch", n_layers=1)(tokens)


def test_compile_takes_the_whole_model(device: torch.device) -> None:
    model, tokens = retnet(device, "triton", n_layers=1), tokens_on(device, 70)
    backend = "inductor" if device.type == "cuda" else "aot_eager"
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    parameters = list(model.parameters())
    found, expected = (
        torch.autograd.grad(run(tokens).square().mean(), parameters) for run in (compiled, model)
    )
    for x, y in zip(found, expected, strict=True):
        assert distance(x, y) < FLOAT32


# --- which one runs ------------------------------------------------------------------------------


def test_the_record_names_the_kernel(device: torch.device) -> None:
    model = retnet(device, "triton")
    assert model.implementation("train") == "chunkwise-triton"
    assert model.implementation("decode") == "recurrent-triton"
    assert retnet(device, "triton", form="parallel").implementation("train") == "parallel"
    assert retnet(device, "torch").implementation("train") == "chunkwise-128"


@pytest.mark.parametrize(
    ("dtype", "major", "name"),
    [
        (torch.bfloat16, 9, "chunkwise-triton"),
        (torch.float64, 9, "chunkwise-128"),
        (torch.bfloat16, 7, "chunkwise-128"),
    ],
)
def test_auto_takes_the_kernels_on_a_gpu_where_they_can_run(
    pretend_gpu: Callable[[int, int], None], dtype: torch.dtype, major: int, name: str
) -> None:
    pretend_gpu(major, 0)
    mixer = config_for("retnet", "tiny").mixer()
    assert mixer.implementation("train") == "chunkwise-128"
    with FakeTensorMode():
        mixer.out.weight = torch.nn.Parameter(torch.empty(64, 128, dtype=dtype, device="cuda"))
    assert mixer.implementation("train") == name


def test_heads_that_no_kernel_takes_are_an_error_of_the_configuration() -> None:
    with pytest.raises(ConfigError, match="implementation triton: d_k = 512, d_v = 1024 is beyond"):
        config_for("retnet", "tiny", d_model=512, n_heads=1, implementation="triton")


def test_what_cannot_run_here_is_an_error_when_the_model_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    cpu = torch.device("cpu")
    with pytest.raises(ConfigError, match="implementation triton: needs a CUDA device, not cpu"):
        retnet(cpu, "triton")
    retnet(cpu, "auto")


def test_float64_is_an_error_when_the_model_is_built(device: torch.device) -> None:
    with pytest.raises(ConfigError, match="implementation triton: float64 is none of"):
        build("retnet", preset="tiny", device=device, dtype=torch.float64, implementation="triton")
