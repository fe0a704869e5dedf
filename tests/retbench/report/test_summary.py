"""What the summary makes of samples: levels, derived figures, failures."""

from __future__ import annotations

import math

import pytest

from retbench.report import summarise
from retbench.report.speed.inference import content
from retbench.report.summary import Summary
from retbench.stats import intervals

from .conftest import FAILURES, MIB, PARAMETERS, MakeRun, cell
from .samples import CEILINGS, PROVENANCE


def test_a_value_is_the_median_of_process_medians_not_of_pooled_steps(summary: Summary) -> None:
    frame = summary.run.frame()
    rows = frame[(frame["metric"] == "tpot_s") & (frame["model"] == "retnet")]
    medians = rows[rows["point"] == "context=2048,batch=1"].groupby("process")["value"].median()
    found = cell(summary, "retnet", "tpot_s", 2048)
    expected = intervals.estimate(medians.to_numpy())
    assert (found["value"], found["low"], found["high"]) == (
        expected.value, expected.low, expected.high,
    )  # fmt: skip
    assert found["n"] == 3
    assert found["samples"] == 36


def test_percentiles_stand_only_where_the_samples_suffice(summary: Summary) -> None:
    found = cell(summary, "retnet", "tpot_s")  # 36 steps
    assert math.isfinite(found["p90"])
    assert math.isnan(found["p95"])


def test_a_rate_is_work_over_the_median_time_and_its_interval_is_turned_over(
    summary: Summary,
) -> None:
    time = cell(summary, "transformer", "tpot_s", batch=4)
    rate = cell(summary, "transformer", "decode_tokens_per_s", batch=4)
    assert rate["value"] == 4 / time["value"]
    assert (rate["low"], rate["high"]) == (4 / time["high"], 4 / time["low"])
    prefill = cell(summary, "transformer", "prefill_tokens_per_s", batch=4)
    assert prefill["value"] == 4 * 1024 / cell(summary, "transformer", "ttft_s", batch=4)["value"]


def test_memory_is_the_largest_process_with_the_range(summary: Summary) -> None:
    frame = summary.run.frame()
    rows = frame[(frame["metric"] == "prefill_peak_bytes") & (frame["model"] == "retnet")]
    values = rows.loc[rows["point"] == "context=1024,batch=1", "value"]
    found = cell(summary, "retnet", "prefill_peak_bytes")
    assert (found["value"], found["low"], found["high"]) == (
        values.max(), values.min(), values.max(),
    )  # fmt: skip
    assert found["method"] == "range"


def test_a_steps_bound_is_the_longer_of_its_bytes_and_its_flops(make_run: MakeRun) -> None:
    summary = summarise(make_run())
    moved = 4 * PARAMETERS + 2 * MIB
    assert cell(summary, "retnet", "tpot_bound_s")["value"] == pytest.approx(moved / 4e10)
    assert cell(summary, "retnet", "decode_intensity")["value"] < 1
    # 16 sequences on a machine whose bytes are many times as fast as its FLOPs.
    slow = CEILINGS | {"matmul_flop_per_s": {"float32": 1e9}}
    bound = cell(summarise(make_run("slow", ceilings=slow)), "retnet", "tpot_bound_s", batch=16)
    assert bound["value"] == pytest.approx(2 * PARAMETERS * 16 / 1e9)


def test_a_prefill_is_bound_by_its_bytes_where_they_take_longer(make_run: MakeRun) -> None:
    fast = CEILINGS | {"matmul_flop_per_s": {"float32": 1e18}}
    run = make_run(ceilings=fast)
    found = cell(summarise(run), "retnet", "ttft_bound_s")["value"]
    assert found == pytest.approx((4 * PARAMETERS + 2 * MIB) / 4e10)
    cells = next(table for table in content(run).tables if table.name == "cells")
    assert any("Prefill bound by bytes" in note for note in cells.notes)  # in every row


def test_utilisation_is_of_what_the_function_needs_or_of_what_its_form_computes(
    summary: Summary,
) -> None:
    share = cell(summary, "retnet", "prefill_matmul_share")["value"]
    time = cell(summary, "retnet", "ttft_s")["value"]
    assert share == pytest.approx(2 * PARAMETERS * 1024 / time / 2e11)
    computed = cell(summary, "retnet", "prefill_hardware_share")["value"]
    assert computed == pytest.approx(1.25 * share)


@pytest.mark.parametrize(
    ("name", "device", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "cuda", 989.4e12),
        ("NVIDIA H100 80GB HBM3", "cpu", None),
        ("NVIDIA Example", "cuda", None),
    ],
)
def test_mfu_takes_the_makers_peak_and_stands_only_where_it_is_known(
    make_run: MakeRun, name: str, device: str, peak: float | None
) -> None:
    run = make_run(
        configuration={"device": device, "dtype": "bfloat16"},
        provenance=PROVENANCE | {"gpu": {"name": name}},
    )
    summary = summarise(run)
    tables = content(run).tables
    titles = {column.title for table in tables for column in table.columns}
    if peak is None:
        assert "prefill_mfu" not in set(summary.cells["metric"])
        assert not any("MFU" in title or "HFU" in title for title in titles)
    else:
        time = cell(summary, "retnet", "ttft_s")["value"]
        found = cell(summary, "retnet", "prefill_mfu")["value"]
        assert found == pytest.approx(2 * PARAMETERS * 1024 / time / peak)
        notes = [note for table in tables for note in table.reading]
        assert any(note.startswith("peak: 989 TFLOP/s in bfloat16 (NVIDIA H100") for note in notes)
        assert "Prefill MFU" in titles and "Prefill, share of matmul rate" not in titles


def test_without_ceilings_no_bound_and_no_utilisation_is_assumed(make_run: MakeRun) -> None:
    metrics = set(summarise(make_run(ceilings=None)).cells["metric"])
    assert not metrics & {"tpot_bound_s", "ttft_bound_s", "prefill_matmul_share"}
    assert "decode_tokens_per_s" in metrics


def test_a_block_that_failed_does_not_count_and_is_reported(make_run: MakeRun) -> None:
    summary = summarise(make_run(failures=FAILURES))
    status = summary.statuses.set_index(["model", "point"])
    partly = status.loc[("transformer-gqa", "context=8192,batch=1")]
    assert (partly["status"], partly["ok_blocks"], partly["blocks"]) == ("timeout", 2, 3)
    assert cell(summary, "transformer-gqa", "tpot_s", 8192)["n"] == 2
    assert status.loc[("transformer", "context=8192,batch=1"), "cause"] == "oom of the test"
    assert summary.value("transformer", "tpot_s", 8192, 1) is None


def test_a_failed_cell_keeps_its_analytic_bound(make_run: MakeRun) -> None:
    summary = summarise(make_run(failures=FAILURES))
    assert math.isfinite(cell(summary, "transformer", "tpot_bound_s", 8192)["value"])


def test_setup_belongs_to_the_model_and_cold_start_is_the_first_of_a_process(
    summary: Summary,
) -> None:
    setup = summary.setup.set_index(["model", "metric"])
    assert setup.loc[("retnet", "import_s"), "n"] == 3
    assert setup.loc[("retnet", "cold_start_s"), "value"] == pytest.approx(0.512)


def test_a_step_says_how_much_of_it_is_not_bytes(summary: Summary) -> None:
    time, bound = (cell(summary, "retnet", tag) for tag in ("tpot_s", "tpot_bound_s"))
    share = cell(summary, "retnet", "tpot_over_bound")
    assert share["value"] == pytest.approx(time["value"] / bound["value"])
    assert share["low"] == pytest.approx(time["low"] / bound["value"])


def test_models_stand_in_the_order_of_the_plan(summary: Summary) -> None:
    assert summary.models == ("retnet", "transformer", "transformer-gqa")
    assert tuple(dict.fromkeys(summary.cells["model"])) == summary.models


@pytest.mark.parametrize(("counter", "said"), [(None, 1), ("rapl", 0)])
def test_a_machine_that_counts_no_energy_says_so(
    make_run: MakeRun, counter: str | None, said: int
) -> None:
    run = make_run(energy=counter is not None, provenance=PROVENANCE | {"energy_counter": counter})
    found = content(run)
    (cells,) = (table for table in found.tables if table.name == "cells")
    assert sum("energy: not available" in note for note in cells.notes) == said
    assert ("energy_context" in {figure.name for figure in found.figures()}) is (not said)
