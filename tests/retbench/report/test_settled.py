"""Whether a run may stop: by the verdicts and intervals that its report would print."""

from __future__ import annotations

from dataclasses import replace
from itertools import compress
from typing import Any

import numpy as np
import pytest

from retbench.report import compare, summarise
from retbench.report.speed.comparison import still_open

from .conftest import MakeRun

NAME = "tpot_s of retnet / transformer-gqa at context=8192,batch=1"


def unsteady(row: dict[str, Any]) -> float:
    """Blocks that disagree by a few percent about the models that meet at 8,192 tokens."""
    here = row["metric"] == "tpot_s" and row["model"] == "transformer-gqa"
    return (1.06, 1.0, 1.04)[row["block"] % 3] if here and row["seq_len"] == 8192 else 1.0


def test_only_what_is_neither_decided_nor_narrow_is_open(make_run: MakeRun) -> None:
    run = make_run(change=unsteady)
    assert NAME in still_open(run, alpha=0.01)
    stopped = {"blocks": 3, "alpha": 0.01, "why": "the time is up", "open": []}
    reported = summarise(make_run("reported", change=unsteady, stopped=stopped)).ratios
    timed = reported[reported["metric"].isin(compare.TIMES)]
    wide = np.log(timed["high"] / timed["low"]) / 2 > np.log1p(0.02)
    expected = timed[wide & (timed["verdict"] == "inconclusive")]
    assert still_open(run, alpha=0.01) == [
        f"{row.metric} of retnet / {row.baseline} at {row.point}" for row in expected.itertuples()
    ]


@pytest.mark.parametrize("precision", [0.2, 0.001])
def test_the_precision_of_the_run_decides_what_is_narrow(
    make_run: MakeRun, precision: float
) -> None:
    run = make_run(configuration={"precision": precision})
    undecided = summarise(run).ratios["verdict"].eq("inconclusive").any()
    assert undecided  # some rows lie near the margin
    assert bool(still_open(run, alpha=0.01)) is (precision < 0.01)


def test_a_look_more_opens_what_a_look_fewer_had_settled(make_run: MakeRun) -> None:
    run = make_run(configuration={"precision": 0.001})
    assert set(still_open(run, alpha=0.01)) <= set(still_open(run, alpha=0.001))
    assert len(still_open(run, alpha=0.001)) > len(still_open(run, alpha=0.01))


def test_a_ratio_that_failed_is_not_waited_for_and_one_of_a_single_block_is(
    make_run: MakeRun,
) -> None:
    failed = make_run("failed", failures={("transformer-gqa", 8192, 1): "oom"}, change=unsteady)
    assert NAME not in still_open(failed, alpha=0.01)
    once = make_run("once", failures={("transformer-gqa", 8192, 1): {0: "oom", 1: "oom"}})
    assert NAME in still_open(once, alpha=0.01)


def test_a_run_of_one_model_has_nothing_to_settle(make_run: MakeRun) -> None:
    run = make_run()
    run.meta["plan"]["contenders"] = run.meta["plan"]["contenders"][:1]
    own = [model == "retnet" for model in run.columns["model"]]
    columns = {name: list(compress(values, own)) for name, values in run.columns.items()}
    assert still_open(replace(run, columns=columns), alpha=0.01) == []
