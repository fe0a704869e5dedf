"""The largest batch that fits: per model, with what stopped it."""

from __future__ import annotations

import csv
import io
import json
import re
from types import SimpleNamespace

import pandas as pd
import pytest

from retbench.cli.console import Console
from retbench.report import capacity, content_of, summarise, write_tables
from retbench.report.summary import Summary
from retbench.suites.base import swept

from .conftest import MakeRun

NOTHING = pd.DataFrame(columns=["metric", "model", "point", "block", "value"])
ALL_TRIED = {1: "ok", 4: "ok", 16: "ok"}


def largest(ends: dict[int, str]) -> tuple[object, ...]:
    """What is found of one model whose batch sizes ended so."""
    statuses = pd.DataFrame(
        [
            ("retnet", 1024, batch, f"context=1024,batch={batch}", end, None)
            for batch, end in ends.items()
        ],
        columns=["model", "seq_len", "batch_size", "point", "status", "cause"],
    )
    points = {point.id: point for point in swept([(1024, b) for b in ends], lambda *_: False, 1024)}
    found = SimpleNamespace(statuses=statuses, processes=NOTHING, points=points, models=["retnet"])
    (row,) = capacity.largest_batches(found).to_dict("records")
    keys = ("batch_size", "stopped_at", "stopped_by", "largest_tried")
    return tuple(None if pd.isna(row[key]) else row[key] for key in keys)


def test_where_all_fit_it_is_the_largest_tried() -> None:
    assert largest(ALL_TRIED) == (16, None, None, 16)


def test_it_is_stopped_by_the_smallest_larger_one_that_failed() -> None:
    ends = ALL_TRIED | {4: "oom", 16: "oom_implied", 64: "oom_implied"}
    assert largest(ends) == (1, 4, "oom", 64)


def test_a_failure_in_the_middle_stops_nothing() -> None:
    assert largest(ALL_TRIED | {4: "timeout"}) == (16, None, None, 16)
    assert largest(ALL_TRIED | {4: "timeout", 64: "oom"}) == (16, 64, "oom", 64)


def test_where_none_fits_there_is_none() -> None:
    ends = {1: "error", 4: "oom"}
    assert largest(ends) == (None, 1, "error", 4)


def test_only_contexts_with_several_batch_sizes_count(summary: Summary) -> None:
    rows = summary.batches
    assert set(rows["seq_len"]) == {1024}
    assert list(rows["model"]) == ["retnet", "transformer", "transformer-gqa"]


def test_a_batch_fits_only_if_it_did_in_every_block(make_run: MakeRun) -> None:
    run = make_run(failures={("retnet", 1024, 16): {1: "oom"}})
    assert summarise(run).batches.set_index("model").loc["retnet", "batch_size"] == 4


def test_the_throughput_there_is_each_models_at_its_own_batch(make_run: MakeRun) -> None:
    run = make_run(failures={("transformer", 1024, 4): "oom", ("transformer", 1024, 16): "oom"})
    rows = summarise(run).batches.set_index("model")
    # Of the run's law: 16 sequences in 4 ms x 4, against 1 in 3 ms.
    assert rows.loc["retnet", "tokens_per_s"] == pytest.approx(1000, rel=0.03)
    assert rows.loc["transformer", "tokens_per_s"] == pytest.approx(1 / 3e-3, rel=0.03)
    assert rows.loc["retnet", "ratio"] == 1
    low, ratio, high = rows.loc["transformer", ["ratio_low", "ratio", "ratio_high"]]
    assert low < ratio < high
    assert ratio == pytest.approx(3, rel=0.05)


def test_it_is_in_every_kind_of_output(make_run: MakeRun, capsys) -> None:  # type: ignore[no-untyped-def]
    run = make_run(failures={("transformer", 1024, 4): "oom", ("transformer", 1024, 16): "oom"})
    write_tables(run)
    folder = run.path / "tables"
    assert "| transformer | 1 | 4: oom |" in (folder / "batch.md").read_text()
    assert "transformer & 1 & 4: oom" in (folder / "batch.tex").read_text()
    rows = list(csv.DictReader(io.StringIO((folder / "batch.csv").read_text())))
    assert rows[1]["batch_size"] == "1"
    numbers = json.loads((run.path / "numbers.json").read_text())
    found = {"batch_size": 1, "stopped_at": 4, "stopped_by": "oom", "largest_tried": 16}
    assert found.items() <= numbers["batch"][1].items()
    fits = {"batch_size": 16, "stopped_at": None, "stopped_by": None, "largest_tried": 16}
    assert fits.items() <= numbers["batch"][0].items()
    macro = r"\retbenchset{batch_size/transformer/1024}{1}"
    assert macro in (run.path / "numbers.tex").read_text()
    Console().report(content_of(run), tables=True)
    said = capsys.readouterr().out
    assert re.search(r"transformer +1  4: oom", said)
    assert re.search(r"retnet +16  none larger was tried", said)
