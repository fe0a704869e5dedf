"""An execution: prefills and steps in every mode give what the eager model gives."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from models import ConfigError, build
from models.protocol import LanguageModel
from retbench.config.run import CAPTURED_MODES, COMPILED_MODES
from retbench.suites.execution import Execution

from .conftest import FakeGraph

FAMILIES = ("retnet", "transformer", "transformer-gqa")


def small_model(family: str, **overrides: Any) -> LanguageModel:
    """A tiny model of 97 tokens' vocabulary: no run may have it, an execution may."""
    return build(family, preset="tiny", vocab_size=97, **overrides)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_just_long_enough_is_measured_to_its_last_token(family: str) -> None:
    model = small_model(family, max_len=14)
    run = Execution(model, 1, 14, "eager", torch.device("cpu"))
    run.prefill(torch.randint(0, 97, (1, 12)))
    run.step()
    run.step()
    assert int(run.state.position) == 14


@pytest.mark.parametrize("family", [*FAMILIES, "transformer-paper"])
def test_a_large_batch_prefilled_by_parts_decodes_as_if_in_one(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model(family)
    prompt = torch.randint(0, 97, (5, 12))
    logits = []
    for limit in (60, 25):  # all five sequences at once; two, two and one
        monkeypatch.setattr("retbench.suites.execution.PREFILL_TOKENS", limit)
        run = Execution(model, 5, 16, "eager", torch.device("cpu"))
        run.prefill(prompt)
        assert int(run.state.position) == 12
        run.step()
        logits.append(torch.stack((run.prompt_logits, run.step_logits)))
    assert torch.allclose(logits[1], logits[0], atol=1e-5)


def greedy_tokens(model: LanguageModel, mode: str, device: str = "cpu") -> torch.Tensor:
    """The greedy choices of three steps, made twice from the same state and position."""
    run = Execution(model, 1, 16, mode, torch.device(device))
    run.ready()
    made = []
    for _ in range(2):
        run.reset()
        run.prefill(torch.arange(12, device=device)[None])
        for _ in range(3):
            run.step()
            made.append(run.token.clone())
        assert int(run.state.position) == 15
    assert torch.equal(torch.cat(made[:3]), torch.cat(made[3:]))
    return torch.cat(made)


def test_a_compiled_step_gives_what_the_eager_one_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    # Inductor's C++ is torch's to test, and what it finds of processors lies in a shared cache.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    model = small_model("retnet", n_layers=1)
    assert torch.equal(greedy_tokens(model, "compile"), greedy_tokens(model, "eager"))


@pytest.mark.parametrize("mode", CAPTURED_MODES)
@pytest.mark.parametrize("family", [*FAMILIES, "transformer-window"])
def test_replays_of_a_prefill_and_of_steps_give_what_the_eager_ones_give(
    family: str, mode: str, fake_graphs: list[FakeGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda call, **_: compiled.append(call) or call)
    model = small_model(family)
    assert torch.equal(greedy_tokens(model, mode), greedy_tokens(model, "eager"))
    assert [graph.replays for graph in fake_graphs] == [6, 2]  # of the step, of the prefill
    assert len(compiled) == (2 if mode in COMPILED_MODES else 0)


def test_a_long_prefill_is_not_captured(
    fake_graphs: list[FakeGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retbench.suites.execution.CAPTURED_PREFILL_TOKENS", 11)
    model = small_model("retnet")
    assert torch.equal(greedy_tokens(model, "cudagraph"), greedy_tokens(model, "eager"))
    assert len(fake_graphs) == 1


def test_a_step_is_not_called_compiled_where_the_compiler_is_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    run = Execution(small_model("retnet"), 1, 16, "compile", torch.device("cpu"))
    with pytest.raises(ConfigError, match="compile off"):
        run.ready()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mode", CAPTURED_MODES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_captured_step_gives_what_the_eager_one_gives(family: str, mode: str) -> None:
    model = small_model(family).cuda()
    replayed, eager = (greedy_tokens(model, mode, "cuda") for mode in (mode, "eager"))
    assert torch.equal(replayed, eager)
