"""Flags that the report derives: they count and name, and never remove a sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from retbench.report import flags, summarise
from retbench.report.summary import Summary

from .conftest import MakeRun

POINT = "context=2048,batch=1"


def of(summary: Summary, model: str, point: str = POINT) -> str:
    rows = summary.statuses.set_index(["model", "point"])
    return str(rows.loc[(model, point), "flags"])


@pytest.mark.parametrize(
    ("by_block", "drifts"),
    [
        ([1.0, 1.02, 1.03, 1.05, 1.07], True),
        ([1.07, 1.05, 1.03, 1.02, 1.0], True),
        ([1.0, 1.01, 1.02, 1.03, 1.04], False),  # too little
        ([1.0, 1.04, 1.02, 1.05, 1.07], False),  # not in order
        ([1.0, 1.02, 1.04, 1.07], False),  # too few blocks
        ([1.0, 1.02, 1.01, 1.03, 1.04, 1.05, 1.07, 1.06, 1.08, 1.1], True),  # but for two swaps
    ],
)
def test_drift_is_a_trend_over_the_blocks(by_block: list[float], drifts: bool) -> None:
    assert flags.is_drift(np.array(by_block)) is drifts


def test_chance_alone_is_rarely_called_a_drift() -> None:
    rng = np.random.default_rng(0)
    for blocks in (5, 10):
        runs = np.exp(0.1 * rng.standard_normal((1000, blocks)))
        assert np.mean([flags.is_drift(run) for run in runs]) < 0.03


def test_processes_more_than_ten_percent_apart_are_noisy() -> None:
    assert flags.is_noisy(np.array([1.0, 1.05, 1.11]))
    assert not flags.is_noisy(np.array([1.0, 1.05, 1.09]))


def test_outliers_lie_three_interquartile_ranges_beyond_a_quartile() -> None:
    samples = np.concatenate([np.linspace(1.0, 1.1, 40), [1.2, 1.5, 0.5]])
    assert flags.count_outliers(samples) == 2
    assert flags.count_outliers(np.array([1.0] * 10 + [5.0])) == 0  # too few to have quartiles


def test_a_cell_carries_the_flags_of_its_samples_before_the_workers(make_run: MakeRun) -> None:
    def slower_each_block(row: dict[str, Any]) -> float:
        drifting = row["metric"] == "tpot_s" and row["point"] == POINT
        return 1.04 ** row["block"] if drifting and row["model"] == "retnet" else 1.0

    run = make_run(blocks=5, change=slower_each_block, flags={"retnet": ["unsettled"]})
    summary = summarise(run)
    assert of(summary, "retnet") == "noisy, drift, unsettled x5"
    assert of(summary, "retnet", "context=512,batch=1") == "unsettled x5"
    assert of(summary, "transformer") == ""
    assert any("1 of 21 cells is flagged drift" in line for line in summary.warnings)
    noisy = next(line for line in summary.warnings if "1 of 21 cells is flagged noisy" in line)
    assert "absolute times, not the ratios of contenders that took turns" in noisy


def test_a_cell_that_was_measured_alone_is_flagged_so(make_run: MakeRun) -> None:
    summary = summarise(make_run(alone=lambda model, context, block: context == 2048))
    assert of(summary, "retnet") == "alone x3"
    assert any("3 of 21 cells are flagged alone: they were not" in x for x in summary.warnings)


def test_outliers_are_counted_and_kept(make_run: MakeRun) -> None:
    seen = iter(range(100_000))

    def one_hiccup(row: dict[str, Any]) -> float:
        here = (row["metric"], row["point"], row["model"]) == ("tpot_s", POINT, "transformer")
        return 3.0 if here and next(seen) in (5, 30) else 1.0

    summary = summarise(make_run(steps=24, change=one_hiccup))
    assert of(summary, "transformer") == "outliers=2"
    assert any("2 samples of 1 cell are outliers" in line for line in summary.warnings)
    cells = summary.cells.set_index(["model", "point", "metric"])
    assert cells.loc[("transformer", POINT, "tpot_s"), "samples"] == 3 * 24
