"""A grid: every context at every batch size, in tables and figures a line a batch size."""

from __future__ import annotations

import pandas as pd

from retbench.report import content_of, drawing, summarise, theme, write_tables

from .conftest import BATCHES, CONTEXTS, MODELS, MakeRun

GRID = {"configuration": {"grid": True}, "trials": 3, "steps": 6}
LOST = {("transformer", 8192, 16): "oom"}


def test_every_batch_size_has_a_crossover_of_its_own(make_run: MakeRun) -> None:
    run = make_run(**GRID)
    assert len(run.points) == len(CONTEXTS) * len(BATCHES)
    rows = summarise(run).crossovers
    of_times = rows[(rows["metric"] == "tpot_s") & (rows["baseline"] == "transformer")]
    assert list(of_times["batch_size"]) == list(BATCHES)
    write_tables(run)
    macros = (run.path / "numbers.tex").read_text().splitlines()
    names = [line.partition("{")[2].partition("}")[0] for line in macros if "retbenchset" in line]
    assert len(names) == len(set(names))


def test_every_context_has_its_largest_batch(make_run: MakeRun) -> None:
    rows = summarise(make_run(failures=LOST, **GRID)).batches.set_index(["model", "seq_len"])
    assert len(rows) == len(MODELS) * len(CONTEXTS)
    assert rows.loc[("transformer", 8192), "batch_size"] == 4
    assert rows.loc[("transformer", 4096), "batch_size"] == 16


def test_a_panel_a_model_has_a_line_a_batch_size(make_run: MakeRun) -> None:
    run = make_run(failures=LOST, **GRID)
    made = {figure.name: figure for figure in content_of(run).figures()}
    figure = made["grid_tpot"]
    assert [panel.key for panel in figure.panels] == list(MODELS)
    labels = [f"batch {size}" for size in BATCHES]
    for _, own in figure.data.groupby("panel"):
        assert list(pd.unique(own["series"])) == labels
    assert figure.failures.to_numpy().tolist() == [["transformer", "batch 16", 8192, "oom"]]
    with theme.fixed():
        for name in ("grid_tpot", "grid_tpot_ratio"):
            picture, _ = drawing.draw(made[name])
            picture.draw_without_rendering()
    # The sweeps' own figures show the first batch size alone.
    assert set(made["tpot_context"].data["batch_size"]) == {BATCHES[0]}
