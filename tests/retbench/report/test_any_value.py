"""No value, no name and no failure of a run keeps its report from being written."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from retbench import api, report
from retbench.config.plan import Contender, Point
from retbench.errors import EXIT_FAILED, UserError
from retbench.report import drawing, figures, frames, theme, units
from retbench.report.figure import FAILURES, Axis, Figure, Panel
from retbench.report.marks import Marks
from retbench.report.speed.comparison import crossing

from .conftest import CONTEXTS, MakeRun
from .samples import Add, Ending, configuration, described, write
from .scaling_run import write_scaling

ROOT = Path(__file__).parents[3]
NAMES = ("$x_{^$ \\frac", "_hidden", '<b>&"%#100%\\', "[red]x[/red] {a} | `q`")


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (0.01, "1%"),
        (0.0025, "0.25%"),
        (0.354, "35%"),
        (1.0, "100%"),
        (0.0, "0%"),
        (1e-8, "1.0e-06%"),
    ],
)
def test_a_share_has_one_spelling(share: float, said: str) -> None:
    assert units.rough(share) == said


@pytest.mark.parametrize("loss", [800.0, 1e-300])
def test_a_loss_beyond_what_a_perplexity_can_be_is_reported(tmp_path: Path, loss: float) -> None:
    presets = {"tiny": 1e5, "1m": 8e5}
    run = write_scaling(tmp_path / "run", seeds=2, presets=presets, loss=lambda *_: loss)
    assert len(report.write_tables(run)) > 3


@pytest.mark.parametrize("factor", [0.0, 1e-300, 1e280])
def test_ratios_at_the_edge_of_what_a_number_holds_are_reported(
    make_run: MakeRun, factor: float
) -> None:
    run = make_run(
        blocks=2, trials=2, steps=2, change=lambda row: factor if row["model"] == "retnet" else 1.0
    )
    content = report.content_of(run)
    assert len(report.write_tables(run, content)) > 3
    for figure in itertools.islice(content.figures(), 2):
        drawing.draw(figure)


def test_any_name_is_written_and_drawn(tmp_path: Path) -> None:
    def law(add: Add, block: int, contender: Contender, point: Point) -> Ending:
        for metric in ("ttft_s", "tpot_s"):
            add("decode", metric, 1e-3 * (1 + block), trial=0)
        failed = point.seq_len == 512
        return ("error", "$y_{$ <i>", []) if failed else ("ok", None, [])

    config = configuration(
        "inference", models=NAMES, preset="1m", context=(256, 512, 1024), batch=(1,),
        batch_context=256, new_tokens=4, minutes=1.0,
    )  # fmt: skip
    run = write(tmp_path / "run", config, 2, law, None, {"models": described(NAMES, "1m", 1000)})
    content = report.content_of(run)
    report.write_tables(run, content)
    (first, *_) = content.figures()
    with theme.fixed():
        drawn, _ = drawing.draw(first)
        drawn.savefig(tmp_path / "figure.svg")
    assert "$x_{^$" in (tmp_path / "figure.svg").read_text()


@pytest.mark.parametrize("size", [1.7e308, 5e-324, float("inf"), 0.0])
def test_a_number_of_any_size_is_written_in_few_characters(size: float) -> None:
    assert len(units.with_interval(size, size / 2, size)) < 40
    assert units.tokens(size) and units.duration(size)
    assert units.factor({"value": size, "low": 0.0, "high": size})


def lines_of(ax: Axes) -> list[list[float]]:
    """The heights of each joined line."""
    return [list(line.get_ydata()) for line in ax.lines if line.get_linestyle() != "None"]


def test_a_line_is_interrupted_where_its_series_has_failed() -> None:
    panel = Panel("", "", Axis("context", (1.0, 2.0, 4.0)), Axis("s"))
    data = pd.DataFrame([
        {"panel": "", "series": "a", "x": x, "value": 1.0, "n": 1, "each": ()} for x in (1.0, 4.0)
    ])  # fmt: skip
    whole = Figure("f", "f", (panel,), data, {"a": theme.GREY}, "")
    failed = pd.DataFrame([("", "a", 2.0, "timeout")], columns=FAILURES)
    placeless = data.reindex([0, 2, 1]).fillna({"panel": "", "series": "a"})
    for figure, expected in (
        (whole, [1.0, 1.0]), (replace(whole, failures=failed), [1.0, np.nan, 1.0]),
        (replace(whole, data=placeless), [1.0, np.nan, 1.0]),
    ):  # fmt: skip
        ax = Drawing().add_subplot()
        Marks(ax, figure, panel, {}, []).lines()
        np.testing.assert_array_equal(lines_of(ax)[0], expected)


def test_a_crossover_says_at_which_lengths_there_is_no_value(make_run: MakeRun) -> None:
    lost = {("transformer", CONTEXTS[1], batch): "timeout" for batch in (1, 4, 16)}
    found = report.summarise(make_run(blocks=2, trials=3, steps=3, failures=lost)).crossovers
    rows = found[(found["baseline"] == "transformer") & (found["metric"] == "tpot_s")]
    assert "no value at 1k" in crossing(rows.iloc[0].to_dict())


FIRST = """
import importlib, os, sys
import pandas  # takes the most time, and is not what is asked about
assert "matplotlib" not in sys.modules
for name in sys.argv[1:]:
    if not (child := os.fork()):
        importlib.import_module(f"retbench.report.{name}")
        print(os.environ["MPLBACKEND"], flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, name
"""


def test_figures_need_no_backend_that_a_notebook_names() -> None:
    modules = ("theme", "quality.scaling", "claims.page")  # each the first that is imported
    named = {"MPLBACKEND": "nowhere-to-be-found", "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-c", FIRST, *modules]
    ended = subprocess.run(line, env=os.environ | named, capture_output=True, text=True)
    said = [named["MPLBACKEND"]] * len(modules)
    assert (ended.stdout.split(), ended.returncode) == (said, 0), ended.stderr


def test_rows_are_plain_python_whatever_a_column_holds() -> None:
    table = pd.DataFrame({
        "whole": [1, 2], "real": [0.5, np.nan], "text": ["a", "b"], "truth": [True, False],
        "some": pd.array([3, None], dtype="Int64"), "kind": pd.Categorical(["x", "y"]),
        "any": pd.Series([np.int64(4), None], dtype=object), "list": [[], ["flag"]],
    })  # fmt: skip
    found = frames.records(table)
    assert str(found) == str(table.to_dict("records"))  # NaN is equal to nothing
    assert [type(value) for value in found[0].values()] == [
        int, float, str, bool, int, str, int, list
    ]  # fmt: skip
    assert frames.records(table.iloc[:0]) == []


def test_settings_that_matplotlib_cannot_read_are_an_error_of_the_user(
    make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run(blocks=1, trials=1, steps=1).path
    (tmp_path / "matplotlibrc").write_bytes(b"# caf\xe9\n")
    line = [sys.executable, "-m", "retbench", "plot", str(run)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(line, env=environment, cwd=tmp_path, capture_output=True, text=True)
    *its_own, said = ended.stderr.splitlines()  # matplotlib warns of the file, too
    assert ended.returncode == 2 and "a file matplotlibrc: 'utf-8' codec" in said
    assert len(its_own) <= 1


def test_a_build_s_date_keeps_no_figure_from_being_drawn(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "x")
    run = make_run(blocks=1, trials=1, steps=1)
    least = min(report.content_of(run).figures(), key=lambda figure: len(figure.panels))
    figures.write([least], run, run.path)
    figures.write_for_print([least], run.path, 3.0)
    assert os.environ["SOURCE_DATE_EPOCH"] == "x"


def test_whatever_keeps_a_figure_from_being_drawn_is_one_line_that_says_how_to_go_on(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("of the test")

    run = make_run(blocks=1, trials=1, steps=1)
    monkeypatch.setattr(figures, "write", broken)
    message = r"ZeroDivisionError: of the test; the samples are"
    with pytest.raises(UserError, match=message) as told, api.explained(run):
        report.write_plots(run)
    assert told.value.exit_status == EXIT_FAILED
