"""What the summary makes of samples: levels, derived figures, failures, ratios, crossovers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from retbench.measure import stats
from retbench.report import summarise
from retbench.report.summary import Summary

from .conftest import FAILURES, MIB, PARAMETERS, MakeRun


def cell(summary: Summary, model: str, metric: str, context: int = 1024, batch: int = 1):
    found = summary.cells[
        (summary.cells["model"] == model)
        & (summary.cells["metric"] == metric)
        & (summary.cells["seq_len"] == context)
        & (summary.cells["batch_size"] == batch)
    ]
    assert len(found) == 1
    return found.iloc[0]


def ratio(summary: Summary, metric: str, baseline: str, context: int, batch: int = 1):
    rows = summary.ratios
    found = rows[
        (rows["metric"] == metric)
        & (rows["baseline"] == baseline)
        & (rows["seq_len"] == context)
        & (rows["batch_size"] == batch)
    ]
    assert len(found) == 1
    return found.iloc[0]


def test_a_value_is_the_median_of_process_medians_not_of_pooled_steps(make_run: MakeRun) -> None:
    run = make_run()
    frame = run.frame()
    rows = frame[(frame["metric"] == "tpot_s") & (frame["model"] == "retnet")]
    medians = rows[rows["point"] == "context=2048,batch=1"].groupby("process")["value"].median()
    found = cell(summarise(run), "retnet", "tpot_s", 2048)
    expected = stats.estimate(medians.to_numpy())
    assert (found["value"], found["low"], found["high"]) == (
        expected.value, expected.low, expected.high,
    )  # fmt: skip
    assert found["n"] == 3
    assert found["samples"] == 36


def test_percentiles_stand_only_where_the_samples_suffice(make_run: MakeRun) -> None:
    found = cell(summarise(make_run()), "retnet", "tpot_s")  # 36 steps
    assert math.isfinite(found["p90"])
    assert math.isnan(found["p95"])


def test_a_rate_is_work_over_the_median_time_and_its_interval_is_turned_over(
    make_run: MakeRun,
) -> None:
    summary = summarise(make_run())
    time = cell(summary, "transformer", "tpot_s", batch=4)
    rate = cell(summary, "transformer", "decode_tokens_per_s", batch=4)
    assert rate["value"] == 4 / time["value"]
    assert (rate["low"], rate["high"]) == (4 / time["high"], 4 / time["low"])
    prefill = cell(summary, "transformer", "prefill_tokens_per_s", batch=4)
    assert prefill["value"] == 4 * 1024 / cell(summary, "transformer", "ttft_s", batch=4)["value"]


def test_memory_is_the_largest_process_with_the_range(make_run: MakeRun) -> None:
    run = make_run()
    frame = run.frame()
    rows = frame[(frame["metric"] == "prefill_peak_bytes") & (frame["model"] == "retnet")]
    values = rows.loc[rows["point"] == "context=1024,batch=1", "value"]
    found = cell(summarise(run), "retnet", "prefill_peak_bytes")
    assert (found["value"], found["low"], found["high"]) == (
        values.max(), values.min(), values.max(),
    )  # fmt: skip
    assert found["method"] == "range"


def test_bounds_and_utilisation_follow_from_the_ceilings(make_run: MakeRun) -> None:
    summary = summarise(make_run())
    moved = 4 * PARAMETERS + 2 * MIB
    assert cell(summary, "retnet", "tpot_bound_s")["value"] == pytest.approx(moved / 4e10)
    mfu = cell(summary, "retnet", "prefill_mfu")["value"]
    time = cell(summary, "retnet", "ttft_s")["value"]
    assert mfu == pytest.approx(2 * PARAMETERS * 1024 / time / 2e11)


def test_without_ceilings_no_bound_and_no_utilisation_is_assumed(make_run: MakeRun) -> None:
    metrics = set(summarise(make_run(ceilings=None)).cells["metric"])
    assert not metrics & {"tpot_bound_s", "ttft_bound_s", "prefill_mfu"}
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
    make_run: MakeRun,
) -> None:
    setup = summarise(make_run()).setup.set_index(["model", "metric"])
    assert setup.loc[("retnet", "import_s"), "n"] == 3
    assert setup.loc[("retnet", "cold_start_s"), "value"] == pytest.approx(0.512)


def test_ratios_are_paired_by_block_on_logs(make_run: MakeRun) -> None:
    run = make_run()
    frame = run.frame()
    rows = frame[(frame["metric"] == "tpot_s") & (frame["point"] == "context=4096,batch=1")]
    medians = rows.groupby(["model", "block"])["value"].median()
    logs = np.log(medians["retnet"] / medians["transformer"])
    found = ratio(summarise(run), "tpot_s", "transformer", 4096)
    assert found["value"] == pytest.approx(np.exp(logs.mean()))
    assert found["low"] < found["value"] < found["high"]


def test_verdicts_say_slower_before_the_crossing_and_faster_beyond(make_run: MakeRun) -> None:
    summary = summarise(make_run(blocks=5))
    assert ratio(summary, "tpot_s", "transformer", 512)["verdict"] == "slower"
    assert ratio(summary, "tpot_s", "transformer", 8192)["verdict"] == "faster"


def test_an_inconclusive_ratio_says_how_many_blocks_would_settle_it(make_run: MakeRun) -> None:
    summary = summarise(make_run())
    undecided = summary.ratios[summary.ratios["verdict"] == "inconclusive"]
    assert (undecided["n_needed"] > 3).any()


def test_the_margin_is_the_noise_floor_where_that_exceeds_one_percent(make_run: MakeRun) -> None:
    noisy = summarise(make_run(calibration={"floor": 2.0}))
    timed = noisy.ratios[noisy.ratios["metric"].isin(["tpot_s", "ttft_s"])]
    assert set(timed["verdict"]) == {"equivalent"}


def test_memory_ratios_have_words_of_their_own(make_run: MakeRun) -> None:
    summary = summarise(make_run())
    assert ratio(summary, "state_bytes", "transformer", 4096)["verdict"] == "smaller"
    assert ratio(summary, "state_bytes", "transformer", 512)["verdict"] == "equivalent"
    assert ratio(summary, "state_bytes", "transformer-gqa", 512)["verdict"] == "larger"


def test_a_ratio_with_a_failed_side_is_a_row_that_says_so(make_run: MakeRun) -> None:
    found = ratio(summarise(make_run(failures=FAILURES)), "tpot_s", "transformer", 8192)
    assert math.isnan(found["value"])
    assert found["note"] == "transformer: oom"


def test_a_smoke_run_earns_no_verdict(make_run: MakeRun) -> None:
    summary = summarise(make_run(blocks=1, configuration={"profile": "smoke"}))
    assert set(summary.ratios["verdict"]) == {"no claim"}


def test_a_smoke_run_earns_no_crossover(make_run: MakeRun) -> None:
    rows = summarise(make_run(blocks=1, configuration={"profile": "smoke"})).crossovers
    assert len(rows)
    assert set(rows["status"]) == {"no claim"}
    assert rows[["value", "low", "high"]].isna().all(axis=None)


def test_the_crossover_is_found_where_the_law_puts_it(make_run: MakeRun) -> None:
    rows = summarise(make_run(blocks=5)).crossovers.set_index(["metric", "baseline"])
    found = rows.loc[("tpot_s", "transformer")]
    assert found["status"] == "reached"
    assert found["direction"] == "better"
    assert found["low"] < 2048 < found["high"]
    assert found["value"] == pytest.approx(2048, rel=0.03)


def test_a_crossover_not_reached_keeps_its_direction(make_run: MakeRun) -> None:
    rows = summarise(make_run()).crossovers.set_index(["metric", "baseline"])
    assert rows.loc[("ttft_s", "transformer"), "status"] == "always below"


def test_models_stand_in_the_order_of_the_plan(make_run: MakeRun) -> None:
    summary = summarise(make_run())
    assert summary.models == ("retnet", "transformer", "transformer-gqa")
    assert tuple(dict.fromkeys(summary.cells["model"])) == summary.models
