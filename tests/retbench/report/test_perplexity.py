"""Perplexity: what its intervals rest on, and its value by evaluation length."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import pytest

from retbench.config.plan import Contender, Plan
from retbench.report.quality.columns import replicates
from retbench.report.quality.loss_frames import LOSS_COLUMNS, RATIO_COLUMNS
from retbench.report.quality.perplexity_figures import lengths
from retbench.report.quality.perplexity_tables import Perplexity
from retbench.report.quality.perplexity_tables import lengths as length_table
from retbench.report.units import DASH
from retbench.suites.quality import final_point

from .samples import PROVENANCE, configuration
from .scaling_run import CONTEXT

ALONE = {128: 9.0, 256: 8.0, 512: 8.5}
CONFIG = configuration("perplexity", preset="1m", context=(CONTEXT,), batch=(4,))
PLAN = Plan("perplexity", (Contender("retnet", "retnet"),), (final_point(CONFIG, ()),), 3, 0)
META = {
    "configuration": CONFIG.to_json(), "plan": PLAN.to_json(), "provenance": PROVENANCE,
    "stopped": None, "audit": None,
}  # fmt: skip
ONCE, AS_BEFORE = {CONTEXT: 7.5}, dict.fromkeys(ALONE, 7.5)


def found(carried: Mapping[int, float]) -> Perplexity:
    """A run of one model, tested at three lengths, with its state carried on at those given."""
    rows = [
        dict.fromkeys(LOSS_COLUMNS)
        | {"phase": phase, "seq_len": length, "model": "retnet", "n": 3, "documents": 8}
        | {"perplexity": value, "perplexity_low": value - 0.1, "perplexity_high": value + 0.1}
        for phase, values in (("length", ALONE), ("carried", carried))
        for length, value in values.items()
    ]
    nothing = pd.DataFrame()
    ended = pd.DataFrame([{"model": "retnet", "status": "ok", "ok_blocks": 3, "blocks": 3}])
    return Perplexity(
        meta=META, models=("retnet",), is_ablation=False,
        losses=pd.DataFrame(rows), ratios=pd.DataFrame(columns=RATIO_COLUMNS), scalars=nothing,
        tuning=nothing, curves=nothing, positions=nothing, endings=ended,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("carried", "cells"),
    [(ONCE, [DASH, "7.50", DASH]), (AS_BEFORE, ["7.50", "7.50", "7.50"])],
)
def test_the_table_has_the_value_where_it_was_measured(
    carried: Mapping[int, float], cells: list[str]
) -> None:
    table = length_table(found(carried))
    row = next(row for row in table.cells if row[1] == "state carried")
    assert [text.partition(" ")[0] for text in row[2:]] == cells
    said = any("only cuts the computation" in note for note in table.notes)
    assert said == (carried == ONCE)


def test_the_figure_draws_a_single_value_across_all_lengths() -> None:
    (across,) = lengths(found(ONCE), {}).curves
    assert list(across.x) == list(ALONE) and set(across.value) == {7.5}
    assert across.label == "retnet, state carried"


@pytest.mark.parametrize(
    ("whole", "by_ranges", "said"),
    [
        (True, True, "the ends of 9 texts whose beginnings are trained on"),
        (True, False, "9 documents of the same source, none of them trained on"),
        (False, True, "9 segments of one text"),
    ],
)
def test_a_note_says_what_the_intervals_take_as_replicates(
    whole: bool, by_ranges: bool, said: str
) -> None:
    data = {"by_ranges": by_ranges, "test": {"documents": 9, "whole": whole}}
    (note,) = replicates({"data": data})
    assert said in note
    assert "8 degrees of freedom" in note
