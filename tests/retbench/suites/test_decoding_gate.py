"""The gate of the inference suite: what must be right before a cell is timed."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
import torch

from models import families
from models.attention import Int8Cache
from retbench.config.plan import Point
from retbench.suites import execution
from retbench.suites.base import CellFailure
from retbench.suites.execution import Execution, Generation, worst_distance
from retbench.suites.inference_cell import GATE_STEPS
from retbench.suites.session import Session

from .sessions import FAMILIES, MEASURER, WITH_PAPER, cell, session


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_every_family_passes_the_gate_in_every_dtype(family: str, dtype: str) -> None:
    error = MEASURER.verify(session(family, dtype=dtype))
    assert error <= {"float64": 1e-12, "float32": 1e-5}.get(dtype, 0.05)


@pytest.mark.parametrize("family", families())
def test_every_contender_passes_the_gate_as_a_processor_runs_it(family: str) -> None:
    # No further off than its numbers are rounded: those of an 8-bit cache to 1/254 of their range.
    assert MEASURER.verify(session(family)) <= (4e-3 if "8bit" in family else 1e-5)


def test_a_state_of_other_types_than_those_that_round_is_judged_by_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(execution, "state_dtypes", lambda model: ["bool", "complex64", "int64"])
    assert MEASURER.verify(session()) <= 1e-5


def test_a_head_that_an_8_bit_cache_lacks_is_not_within_its_rounding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = Int8Cache.read

    def without_a_head(cache: Int8Cache, *given: Any) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = read(cache, *given)
        return keys, values.index_fill(1, torch.tensor([0]), 0.0)

    one = session("transformer-gqa-8bit-cache", overrides={"d_model": 128, "n_heads": 16})
    monkeypatch.setattr(Int8Cache, "read", without_a_head)
    with pytest.raises(CellFailure, match=r"allowed 0\.02 in int8"):
        MEASURER.verify(one)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_that_forgets_its_prompt_fails_the_gate(family: str) -> None:
    broken = session(family)
    prefill = broken.model.prefill

    def forgetful(tokens: torch.Tensor, state: Any) -> torch.Tensor:
        logits = prefill(tokens, state)
        state.layers[0].reset()
        return logits

    broken.model.prefill = forgetful  # type: ignore[method-assign]
    with pytest.raises(CellFailure, match="does not reproduce the full forward") as failure:
        MEASURER.verify(broken)
    assert failure.value.status == "error"


def test_a_head_that_is_wrong_in_a_layer_of_many_fails_the_gate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from models.mixers import multihead

    right, layers, calls = multihead.decode_attention, 24, count()
    last = {layers * step + layers - 1 for step in range(GATE_STEPS)}  # of each step's

    def without_a_head(*given: Any) -> torch.Tensor:
        call, mixed = next(calls), right(*given)
        wrong = call in last or call >= layers * GATE_STEPS  # those of the shallow model
        return mixed.index_fill(1, torch.tensor([0]), 0.0) if wrong else mixed

    overrides = {"d_model": 128, "n_heads": 16, "n_layers": layers}
    one = session("transformer", dtype="bfloat16", overrides=overrides)
    monkeypatch.setattr(multihead, "decode_attention", without_a_head)
    with pytest.raises(CellFailure, match="the full forward of 1 of its layers"):
        MEASURER.verify(one)


def test_a_model_that_gives_nan_fails_the_gate() -> None:
    broken = session()
    with torch.no_grad():
        next(broken.model.parameters()).fill_(float("nan"))
    with pytest.raises(CellFailure, match="nan"):
        MEASURER.verify(broken)


def broken_step(one: Session, is_broken: Callable[[int], bool]) -> None:
    """From now on the model's steps give NaN at the positions that ``is_broken`` says."""
    step = one.model.step

    def stepped(token: torch.Tensor, state: Any) -> torch.Tensor:
        position = int(state.position)
        logits = step(token, state)
        return logits * float("nan") if is_broken(position) else logits

    one.model.step = stepped  # type: ignore[method-assign]


def test_logits_that_are_not_finite_are_an_error() -> None:
    one = session()
    steps = count()
    broken_step(one, lambda position: next(steps) > 2)  # all but the three that are checked
    with pytest.raises(CellFailure, match="not finite"):
        cell(one, Point(64, 1))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_is_checked_at_the_context_that_is_timed(family: str) -> None:
    one = session(family, context="300")
    broken_step(one, lambda position: position >= 300)
    assert MEASURER.verify(one) < 1e-5  # which decodes at 256 tokens at most
    with pytest.raises(CellFailure, match="context=300,batch=1 does not continue its prefill"):
        cell(one, Point(300, 1))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_generations_step_is_checked_in_its_own_state(family: str) -> None:
    one = session(family, context="300")
    broken_step(one, lambda position: position == 300 // 8)
    assert MEASURER.verify(one) < 1e-5
    with pytest.raises(CellFailure, match="of a generation at context=300,batch=3 does not cont"):
        cell(one, Point(300, 3))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prefills_own_logits_are_checked_at_the_context_that_is_timed(family: str) -> None:
    one = session(family, context="300")
    prefill = one.model.prefill

    def another_positions(tokens: torch.Tensor, state: Any) -> torch.Tensor:
        logits = prefill(tokens, state)
        return 3 * logits.roll(1, -1) if tokens.shape[1] == 300 else logits

    one.model.prefill = another_positions  # type: ignore[method-assign]
    assert MEASURER.verify(one) < 1e-5
    with pytest.raises(CellFailure, match="prefill at context=300,batch=2 is not one of a token l"):
        cell(one, Point(300, 2))


@pytest.mark.parametrize("family", WITH_PAPER)
@pytest.mark.parametrize("context", [1, 3, 64])
def test_a_generations_step_is_that_of_a_prefill(family: str, context: int) -> None:
    one = session(family)
    run = Execution(one.model, 2, context + 4, "eager", torch.device("cpu"))
    prompt = torch.randint(0, 50257, (2, context))
    run.prefill(prompt)
    run.step()
    logits = run.step_logits
    assert 0 <= run.prefill_error(prompt) < 1e-5
    assert 0 <= Generation(run, context).error(prompt) < 1e-5
    assert run.step_logits is logits
    assert run.step_error(prompt) < 1e-5  # as if nothing had come between


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_of_each_sequence_is_that_of_a_prefill_of_one_token_more(family: str) -> None:
    (error,) = cell(session(family), Point(64, 3))["step_error"]
    assert 0 <= error["value"] < 1e-5


def test_one_wrong_sequence_among_many_is_not_within_the_others_rounding() -> None:
    exact = torch.ones(1000, 3, dtype=torch.float64)
    wrong = exact.index_fill(0, torch.tensor([7]), 0.0)
    assert worst_distance(wrong, exact) == 1
    assert math.isnan(worst_distance(wrong.log() * 0, exact))


@pytest.mark.parametrize("entries", [slice(50240, None), slice(0, 64), slice(25024, 25056)])
def test_a_tile_of_a_vocabulary_is_not_within_the_others_rounding(entries: slice) -> None:
    generator = torch.Generator().manual_seed(0)
    exact, noise = torch.randn(2, 17, 50257, generator=generator, dtype=torch.float64)
    rounded = exact + 0.03 * noise
    assert worst_distance(rounded, exact) < 0.031  # of a whole vector: no block is far off
    rounded[3, entries] = 0
    assert worst_distance(rounded, exact) > 0.1


def test_a_block_of_small_entries_is_judged_beside_the_largest() -> None:
    exact = torch.ones(1, 64, dtype=torch.float64)
    exact[:, 16:32] = 1e-9
    assert worst_distance(exact + 1e-6, exact) == pytest.approx(2e-6)
