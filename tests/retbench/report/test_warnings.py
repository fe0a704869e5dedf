"""What is unequal, noisy or missing is said beside the numbers."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd
import pytest

from retbench.report import summarise
from retbench.report.quality.warnings import edge_of_grid
from retbench.report.summary import Summary

from .conftest import AUDIT, FAILURES, MakeRun

SMALL = {"context": (512, 8192), "batch": (1,), "batch_context": 512}
"""Two of the points: there is as much to warn of."""


def test_a_fair_audited_complete_run_has_no_warning(summary: Summary) -> None:
    assert summary.warnings == ()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"configuration": {"profile": "smoke"}}, "SMOKE"),
        ({"audit": None}, "not audited (`retbench audit`); the margin of verdicts is 1%"),
        ({"audit": AUDIT | {"found": 18}}, "missed 2 of 20 differences of 5% that were planted"),
        ({"audit": AUDIT | {"false": 1}}, "found 1 difference between a model and itself"),
        ({"state": "interrupted"}, "not finished"),
        ({"provenance": {"commit": {"hash": "abc", "dirty": True}}}, "dirty"),
        (
            {"provenance": {"commit": None, "commit_unknown": "no git"}},
            "source ran: no git",
        ),
        ({"models": {"transformer": {"parameters": 10_100_000}}}, "+1.0% non-embedding"),
        ({"models": {"transformer": {"weights_dtype": "bfloat16"}}}, "unequal dtype of weights"),
        ({"models": {"retnet": {"state_dtype": "float64"}}}, "unequal dtype of the state"),
        ({"models": {"retnet": {"config": {"ffn": "swiglu"}}}}, "unequal feed-forward"),
        ({"flags": {"retnet": ["unsettled"]}}, "2 of 6 cells are flagged unsettled: their times"),
        ({"blocks": 2}, "come from 2 blocks"),
        ({"failures": FAILURES}, "transformer oom at context 8k batch 1: oom of the test"),
        ({"failures": FAILURES}, "(1 of 3 blocks)"),
        ({"warnings": ["commit changed before the run was resumed"]}, "commit changed before"),
    ],
)
def test_it_warns_of(make_run: MakeRun, options: dict[str, Any], said: str) -> None:
    small = {"configuration": SMALL | options.get("configuration", {})}
    assert any(said in warning for warning in summarise(make_run(**options | small)).warnings)


def test_parameters_within_half_a_percent_are_equal(make_run: MakeRun) -> None:
    run = make_run(models={"transformer": {"parameters": 10_040_000}})
    assert not any("parameters" in warning for warning in summarise(run).warnings)


def test_it_warns_of_attentions_math_backend_on_a_gpu_only(make_run: MakeRun) -> None:
    for device, expected in (("cuda", True), ("cpu", False)):
        run = make_run(device, configuration={"device": device}, implementations={
            "transformer": "sdpa:math"})  # fmt: skip
        assert any("math backend" in line for line in summarise(run).warnings) is expected


FUSED = {"retnet": "recurrent-triton", "transformer": "recurrent", "transformer-gqa": "sdpa-flash"}


def on_a_gpu(**more: Any) -> dict[str, Any]:
    return {"configuration": {"device": "cuda"} | more, "implementations": FUSED}


def test_a_fused_side_against_an_eager_one_has_no_verdict_on_times(make_run: MakeRun) -> None:
    summary = summarise(make_run(**on_a_gpu()))
    (warning,) = (line for line in summary.warnings if "unfused" in line)
    assert warning.startswith("transformer (recurrent) runs unfused where retnet (recurrent-triton")
    times = summary.ratios[summary.ratios["metric"] == "tpot_s"].groupby("baseline")
    assert set(times.get_group("transformer")["note"]) == {"transformer unfused"}
    assert set(times.get_group("transformer")["verdict"]) == {""}
    assert "slower" in set(times.get_group("transformer-gqa")["verdict"])
    memory = summary.ratios[summary.ratios["metric"] == "state_bytes"]
    assert set(memory["verdict"]) <= {"smaller", "larger", "equivalent"}
    of_times = summary.crossovers[summary.crossovers["metric"] == "tpot_s"]
    assert set(of_times["baseline"]) == {"transformer-gqa"}


@pytest.mark.parametrize(
    "options",
    [
        on_a_gpu(compare_unfused=True),
        on_a_gpu() | {"modes": dict.fromkeys(FUSED, "compile")},
        on_a_gpu() | {"configuration": {"device": "cpu"}},
    ],
    ids=["asked for", "compiled", "on a CPU"],
)
def test_it_has_one_where(make_run: MakeRun, options: dict[str, Any]) -> None:
    assert (summarise(make_run(**options)).ratios["verdict"] != "").all()


def test_it_warns_of_a_time_that_the_ceilings_forbid(make_run: MakeRun) -> None:
    slow = {
        "bandwidth": [
            {"working_set_bytes": 2**22, "read_bytes_per_s": 1e9, "copy_bytes_per_s": 1e9}
        ],
        "matmul_flop_per_s": {"float32": 1e9},
    }
    warnings = summarise(make_run(ceilings=slow)).warnings
    decoding = [line for line in warnings if "of what bandwidth" in line]
    assert decoding
    assert all("may have come from a cache" in line for line in decoding)
    prefilling = [line for line in warnings if "of what the measured ceilings allow" in line]
    assert prefilling
    assert all("do not believe it" in line for line in prefilling)


def test_it_warns_of_unequal_modes(make_run: MakeRun) -> None:
    run = make_run(modes={"transformer": "compile"})
    expected = "unequal execution mode: retnet eager, transformer compile, transformer-gqa eager"
    assert expected in summarise(run).warnings


def test_it_warns_of_memory_that_varies_over_processes(make_run: MakeRun) -> None:
    (line,) = (x for x in summarise(make_run(memory=0.05)).warnings if "vary by more" in x)
    assert re.fullmatch(
        r"\d+ memory figures vary by more than 1% over processes; the worst, (Prefill|Decode) peak "
        r"of [\w-]+ at context \w+ batch \d+, by [\d.]+%",
        line,
    )


def test_learning_rates_at_an_end_of_the_grid_take_one_line() -> None:
    ends = {("h3", "copy"): 4e-3, ("h3", "mqar"): 4e-3, ("retnet", "copy"): 2e-3,
            ("retnet", "mqar"): 4e-3, ("transformer", "mqar"): 1e-3}  # fmt: skip
    tried = pd.DataFrame([
        {"model": model, "at": f"task={task}", "learning_rate": rate, "final_dev_loss": 1.0,
         "chosen": rate == best, "cause": None}
        for (model, task), best in ends.items() for rate in (1e-3, 2e-3, 4e-3)
    ])  # fmt: skip
    beyond = "a better learning rate may lie beyond the grid, so no claim should rest on these: "
    assert list(edge_of_grid(tried)) == [
        f"{beyond}h3 (copy, mqar), retnet (mqar) at its largest, 0.004; "
        "transformer (mqar) at its smallest, 0.001",
    ]
    assert list(edge_of_grid(tried[tried["model"] == "h3"].iloc[:3].assign(at=""))) == [
        f"{beyond}h3 at its largest, 0.004"
    ]
    assert not list(edge_of_grid(tried[tried["model"] == "none"]))
    assert not list(edge_of_grid(tried[tried["learning_rate"] == 4e-3]))  # nothing was tuned


def test_a_flag_is_spoken_of_in_words(make_run: MakeRun) -> None:
    found = summarise(make_run(flags={"retnet": ["foreign_process"]}))
    assert "7 of 21 cells are flagged foreign process: another program was running" in (
        found.warnings
    )
