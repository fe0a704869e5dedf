"""The inference suite: its points, and what one cell measures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
import torch

from models.config import ConfigError
from retbench.config.plan import Contender, Point
from retbench.engine.resolve import resolve
from retbench.errors import Misfit
from retbench.machine import ceilings, host, interference
from retbench.machine.memory_meter import MemoryMeter
from retbench.metrics import METRICS
from retbench.suites.base import CellFailure
from retbench.suites.cell import Cell, Phase
from retbench.suites.execution import Execution, Generation
from retbench.suites.inference import SUITE
from retbench.suites.session import Rows, Session
from retbench.workers.worker import open_session

from ..conftest import measure
from .sessions import FAMILIES, MEASURER, WITH_PAPER, cell, configuration, session


def test_contexts_are_swept_at_the_first_batch_and_batches_at_one_context() -> None:
    plan = SUITE.plan(configuration(context="64,128", batch="1,4", batch_context=128))
    assert {point: point.sweeps for point in plan.points} == {
        Point(64, 1): ("context",), Point(128, 1): ("context", "batch"), Point(128, 4): ("batch",),
    }  # fmt: skip


def test_a_grid_has_every_pair_of_context_and_batch_size() -> None:
    plan = SUITE.plan(configuration(context="64,128", batch="1,4", batch_context=128, grid=True))
    assert set(plan.points) == {Point(64, 1), Point(128, 1), Point(64, 4), Point(128, 4)}


def test_one_batch_size_is_no_sweep_and_a_context_is_then_one_point() -> None:
    plan = SUITE.plan(resolve("inference", context="2048", batch="1", device="cpu"))
    assert plan.points == (Point(2048, 1),)
    assert plan.primary == (
        ("tpot_s", "context=2048,batch=1"),
        ("ttft_s", "context=2048,batch=1"),
    )


def test_all_models_run_the_same_points_and_the_longest_context_is_primary() -> None:
    plan = SUITE.plan(configuration(context="64,128", batch="1,4"))
    assert [c.family for c in plan.contenders] == list(FAMILIES)
    assert plan.primary == (("tpot_s", "context=128,batch=1"), ("ttft_s", "context=128,batch=1"))


@pytest.mark.parametrize(
    ("given", "blocks", "least"),
    [
        ({"profile": "smoke"}, 1, None),
        ({"profile": "quick"}, 15, 3),
        ({"profile": "report"}, 25, 5),
        ({"profile": "quick", "minutes": 0}, 3, None),
        ({"profile": "quick", "minutes": 1}, 15, 3),
    ],
)
def test_blocks_are_those_of_the_profile_and_with_minutes_as_many_more_as_it_allows(
    given: dict[str, Any], blocks: int, least: int | None
) -> None:
    plan = SUITE.plan(configuration(**given))
    assert (plan.blocks, plan.least) == (blocks, least)


def test_what_a_graph_keeps_for_itself_is_memory_of_decoding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(MemoryMeter, "idle_pool_bytes", lambda self, pool: 1 << 40)
    found = cell(session(), Point(64, 1))
    assert {metric for metric in found if found[metric][0]["value"] >= 1 << 40} == {
        "decode_peak_bytes", "steady_bytes",
    }  # fmt: skip


def test_a_cell_has_every_metric_of_the_suite_in_its_declared_unit() -> None:
    samples = cell(session(new_tokens=4), Point(64, 2))
    assert set(samples) == {
        "weights_bytes", "state_bytes", "prefill_flops", "prefill_hardware_flops", "prefill_bytes",
        "decode_flops", "decode_bytes",
        "cold_start_s", "step_error", "ttft_s", "tpot_s", "mean_tpot_s",
        "prefill_peak_bytes", "decode_peak_bytes", "steady_bytes",
    }  # fmt: skip
    for metric, found in samples.items():
        assert {sample["unit"] for sample in found} == {METRICS[metric].unit}
        assert {(sample["seq_len"], sample["batch_size"]) for sample in found} == {(64, 2)}
        assert all(sample["value"] > 0 for sample in found)


def test_a_slice_of_each_phase_is_one_sample_that_keeps_its_round() -> None:
    samples = cell(session(new_tokens=4), Point(64, 1))
    for metric, phase in (
        ("ttft_s", "prefill"), ("tpot_s", "decode"), ("mean_tpot_s", "generation"),
    ):  # fmt: skip
        found = [(sample["trial"], sample["phase"]) for sample in samples[metric]]
        assert found == [(number, phase) for number in range(3)]
    others = [one for metric, found in samples.items() for one in found if "_s" not in metric]
    assert {sample["trial"] for sample in others} == {None}


@pytest.mark.parametrize("family", WITH_PAPER)
def test_state_and_weight_bytes_are_those_of_the_tensors(family: str) -> None:
    one = session(family, new_tokens=16)
    samples = cell(one, Point(64, 2))
    assert samples["state_bytes"][0]["value"] == one.model.state_bytes(2, 64 + 16)
    weights = one.model.config.weight_bytes(4)
    assert samples["weights_bytes"][0]["value"] == pytest.approx(weights, rel=1e-3)


def watched_steps(one: Session) -> list[tuple[int, int]]:
    """The position of each step from now on, and the most tokens that its state can hold."""
    seen: list[tuple[int, int]] = []
    step = one.model.step

    def watched(token: torch.Tensor, state: Any) -> torch.Tensor:
        seen.append((int(state.position), state.max_len))
        return step(token, state)

    one.model.step = watched  # type: ignore[method-assign]
    return seen


def test_decoding_is_timed_at_the_context_that_was_prefilled() -> None:
    one = session(new_tokens=4)
    seen = watched_steps(one)
    ready = MEASURER.prepare(Rows(one, Point(64, 1)), lambda phase: None)
    ready.warm_up()
    seen.clear()
    ready.slice("decode", 0)
    assert 64 in {position for position, _ in seen} <= {64, 65, 66, 67}


def test_a_long_call_that_left_all_warm_is_not_made_again() -> None:
    made: list[int] = []
    phase = Phase("prefill", "ttft_s", lambda: made.append(0), first_s=10.0, is_warm=True)
    assert Cell(Rows(session(), Point(64, 1)), phase).warm_up() == {"prefill": 10.0}
    assert not made


@pytest.mark.parametrize("block", [0, 1, 2])
def test_a_prefill_is_warm_at_once_where_no_memory_was_read(block: int) -> None:
    ready = MEASURER.prepare(Rows(replace(session(), block=block), Point(64, 1)), lambda _: None)
    ready.phases["prefill"].first_s = 10.0
    assert (ready.warm_up()["prefill"] == 10.0) is (block == 2)


@pytest.mark.parametrize(("first_s", "calls"), [(10.0, 1), (0.0, 5)])
def test_a_long_call_is_made_once_more_before_it_is_timed(first_s: float, calls: int) -> None:
    """Its first one is no warm-up: the memory that it took has been given back meanwhile."""
    made: list[int] = []
    phase = Phase("prefill", "ttft_s", lambda: made.append(0), first_s=first_s)
    slices = Cell(Rows(session(), Point(64, 1)), phase).warm_up()
    assert (len(made) == 1) == (first_s > 0) and len(made) >= calls
    assert slices["prefill"] < 1.0  # of the call that was made, not of the first one


@pytest.mark.parametrize("family", WITH_PAPER)
@pytest.mark.parametrize(
    ("context", "positions"),
    [(64, [8, 24, 40, 56]), (8, [1, 3, 5, 7]), (3, [0, 1, 2])],
)
def test_a_generation_steps_at_positions_spread_evenly_in_states_no_longer_than_needed(
    family: str, context: int, positions: list[int]
) -> None:
    one = session(family)
    seen = watched_steps(one)
    run = Execution(one.model, 1, 72, "eager", torch.device("cpu"))
    generation = Generation(run, context)
    with torch.inference_mode():
        generation()
    assert len(generation) == len(positions)
    assert seen == [(position, position + 1) for position in positions]


def test_a_mean_step_of_a_generation_is_the_time_of_one_token() -> None:
    one = session(new_tokens=4)
    phase = MEASURER.prepare(Rows(one, Point(64, 1)), lambda phase: None).phases["generation"]
    assert (phase.metric, phase.per_call) == ("mean_tpot_s", Generation.POSITIONS)


class Meter:
    """Counts a joule each time that it is read."""

    source = "nvml"

    def __init__(self) -> None:
        self._joules = count(1)

    def read_j(self) -> float:
        return float(next(self._joules))


def test_where_energy_is_counted_a_cell_has_that_of_a_token_and_of_a_prefill(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("retbench.machine.energy.counter", lambda device: Meter())
    monkeypatch.setattr("retbench.suites.cell.ENERGY_S", 0.01)
    found = cell(session(), Point(64, 2))
    tags = ("token_j", "prefill_j", "idle_w")
    (token,), (prefill,), (idle,) = (found[tag] for tag in tags)
    (mean,) = found["mean_token_j"]
    assert 1 / mean["value"] == pytest.approx(round(1 / mean["value"]))  # of so many tokens
    assert {row["implementation"] for row in (token, prefill, idle)} == {"nvml"}
    assert prefill["value"] == 1.0  # the meter ticks once a sample, of one prefill
    steps = round(1 / (2 * token["value"]))  # of a sample, of two sequences each
    assert steps >= 1 and token["value"] == pytest.approx(1 / (2 * steps))
    assert idle["value"] > 0


def test_where_energy_is_not_counted_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retbench.machine.energy.counter", lambda device: None)
    found = cell(session(), Point(64, 1))
    assert not {"token_j", "mean_token_j", "prefill_j", "idle_w"} & set(found)


def test_exactly_the_prompt_is_prefilled_from_an_empty_state() -> None:
    one = session()
    seen: set[tuple[int, int]] = set()
    prefill = one.model.prefill

    def watched(tokens: torch.Tensor, state: Any) -> torch.Tensor:
        seen.add((tokens.shape[1], int(state.position)))
        return prefill(tokens, state)

    one.model.prefill = watched  # type: ignore[method-assign]
    cell(one, Point(64, 1))
    # All but the prompt check it and a step, one of them of a generation, and are not timed.
    assert seen == {(64, 0), (63, 0), (65, 0), (8, 0), (9, 0)}


SLOW = {
    "elapsed_s": 0.0,
    "matmul_flop_per_s": {},
    "bandwidth": [{"working_set_bytes": 4, "read_bytes_per_s": 1.0, "copy_bytes_per_s": 1.0}],
}


def test_a_step_faster_than_the_memory_allows_is_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "measure", lambda *arguments: SLOW)
    one = session()
    one.ceilings = SLOW
    with pytest.raises(CellFailure, match="bandwidth") as failure:
        cell(one, Point(64, 1))
    assert failure.value.status == "invalid"


def test_ceilings_that_were_measured_too_low_condemn_nothing(quick_ceilings: None) -> None:
    one = session()
    one.ceilings = SLOW
    assert cell(one, Point(64, 1))["tpot_s"]
    assert one.ceilings["bandwidth"][0] == SLOW["bandwidth"][0]
    assert len(one.ceilings["bandwidth"]) > 1


def test_the_memory_is_read_before_the_ceilings_are_measured_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = session()
    one.ceilings = SLOW
    order: list[str] = []
    peak_bytes = one.meter.peak_bytes

    def read() -> int:
        order.append("memory")
        return peak_bytes()

    def measured(*arguments: Any) -> dict[str, Any]:
        order.append("ceilings")
        fast = {"working_set_bytes": 4, "read_bytes_per_s": 1e15, "copy_bytes_per_s": 1e15}
        return SLOW | {"bandwidth": [fast]}

    monkeypatch.setattr(one.meter, "peak_bytes", read)
    monkeypatch.setattr(ceilings, "measure", measured)
    cell(one, Point(64, 1))
    assert order[-1] == "ceilings" and order.count("ceilings") == 1
    assert order.count("memory") >= 2  # of a prefill and of steps


def test_a_vocabulary_that_lacks_the_text_is_unsupported() -> None:
    small = Contender("retnet", "retnet", {"vocab_size": 100})
    with pytest.raises(CellFailure, match="vocabulary") as failure:
        MEASURER.verify(open_session(configuration(), small, 0, 0))
    assert failure.value.status == "unsupported"


def test_a_cache_that_grows_can_be_neither_compiled_nor_captured() -> None:
    with pytest.raises(Misfit, match="mode compile is impossible for transformer-paper"):
        configuration(models="transformer-paper", mode="compile")


def test_a_cell_of_which_nothing_was_compiled_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    with pytest.raises(ConfigError, match="compiled nothing"):
        MEASURER.prepare(Rows(session(mode="compile"), Point(64, 1)), lambda phase: None)


def graphs_of(monkeypatch: pytest.MonkeyPatch, eager: str) -> None:
    """Has torch make a graph of whatever it compiles, but for one of the model's calls."""

    def compile_(function: Callable[..., Any], **_: Any) -> Callable[..., Any]:
        def called(*given: Any) -> Any:
            if function.__name__ != eager:
                torch._dynamo.utils.counters["stats"]["unique_graphs"] += 1
            return function(*given)

        return called

    monkeypatch.setattr(torch, "compile", compile_)


@pytest.mark.parametrize("mode", ["compile", "compile-cudagraph"])
@pytest.mark.parametrize("eager", ["prefill", "step"])
def test_a_prefill_that_is_compiled_does_not_stand_for_the_step_nor_it_for_the_prefill(
    fake_graphs: Any, monkeypatch: pytest.MonkeyPatch, mode: str, eager: str
) -> None:
    no_memory_is_read = 2
    one = replace(session(), config=replace(configuration(), mode=mode), block=no_memory_is_read)
    graphs_of(monkeypatch, eager)
    with pytest.raises(ConfigError, match="compiled nothing"):
        MEASURER.prepare(Rows(one, Point(64, 1)), lambda phase: None)
    graphs_of(monkeypatch, "neither")
    MEASURER.prepare(Rows(one, Point(64, 1)), lambda phase: None)


def test_the_record_of_a_model_says_what_ran() -> None:
    record = MEASURER.describe(session("retnet", dtype="bfloat16"))
    assert record["weights_dtype"] == "bfloat16"
    assert record["state_dtype"] == "float32"
    assert record["implementation"] == {"prefill": "chunkwise-128", "decode": "recurrent"}
    assert record["config"]["ffn"] == "gelu"
    assert record["parameters"] == 98_624


def test_threads_that_wait_for_each_other_are_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interference, "barrier", lambda threads: lambda: 1.0 * threads)
    monkeypatch.setattr(host, "granted_cores", lambda: 2)
    flags = measure(Rows(session(threads=2), Point(64, 1)))
    assert interference.THREADS_WAIT in flags


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_cell_on_a_gpu_has_the_allocators_figures(family: str) -> None:
    one = session(family, device="cuda", mode="cudagraph", dtype="bfloat16")
    MEASURER.verify(one)
    samples = cell(one, Point(64, 2))
    assert {"prefill_reserved_bytes", "device_used_bytes"} <= set(samples)
    assert samples["steady_bytes"][0]["implementation"] == "cuda_allocator"
    kept = samples["weights_bytes"][0]["value"] + samples["state_bytes"][0]["value"]
    assert samples["decode_peak_bytes"][0]["value"] >= kept
