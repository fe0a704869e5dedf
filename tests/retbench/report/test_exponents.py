"""How fast figures grow: the exponent of each sweep, and its word where the interval allows one."""

from __future__ import annotations

import pytest

from retbench.report import content_of, summarise
from retbench.report.speed import exponents
from retbench.report.summary import Summary

from .conftest import MakeRun


def test_an_exponent_is_fitted_to_each_block_and_has_a_word_where_it_is_whole(
    summary: Summary,
) -> None:
    found = {
        (row["metric"], row["model"], row["along"]): row
        for row in exponents.fitted(summary, ("tpot_s", "state_bytes"))
    }
    assert found["tpot_s", "retnet", "context"]["word"] == "constant"
    over_batch = found["tpot_s", "retnet", "batch"]  # the law is a square root
    assert over_batch["low"] < over_batch["value"] < over_batch["high"]
    assert over_batch["value"] == pytest.approx(0.5, abs=0.02)
    assert (over_batch["word"], over_batch["held"], over_batch["n"]) == ("", 1024, 3)
    state = found["state_bytes", "transformer", "context"]
    assert (state["value"], state["word"]) == (pytest.approx(1), "linear")
    assert found["state_bytes", "retnet", "context"]["word"] == "constant"


def test_one_block_gives_an_exponent_without_a_word(make_run: MakeRun) -> None:
    rows = exponents.fitted(summarise(make_run(blocks=1)), ("tpot_s",))
    assert {row["word"] for row in rows} == {""}


def test_the_table_is_in_the_report(make_run: MakeRun) -> None:
    growth = next(table for table in content_of(make_run()).tables if table.name == "exponents")
    row = next(row for row in growth.cells if row[:2] == ("State", "transformer"))
    assert row[2:] == ("context, 512 to 8k", "batch 1", "1.00 [1.00, 1.00]", "linear")


def test_a_row_says_at_which_sizes_there_is_no_value(make_run: MakeRun) -> None:
    lost = {("retnet", 1024, batch): "timeout" for batch in (1, 4, 16)}
    growth = next(t for t in content_of(make_run(failures=lost)).tables if t.name == "exponents")
    said = {row[1]: row[2] for row in growth.cells if row[0] == "TPOT" and row[3] == "batch 1"}
    assert said["retnet"] == "context, 512 to 8k, no value at 1k"
    assert said["transformer"] == "context, 512 to 8k"
