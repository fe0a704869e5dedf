"""What is printed of a report, on every published run: no cell is cut, the answer comes first."""

from __future__ import annotations

from functools import cache

import pandas as pd
import pytest

from retbench.cli import render
from retbench.cli.console import Console
from retbench.report import content_of
from retbench.report.content import Content
from retbench.report.tables import Column, Table
from retbench.store import open_run

from .conftest import ROOT

RUNS = sorted(path.parent.name for path in (ROOT / "results").glob("*/run.json"))


@cache
def content(name: str) -> Content:
    return content_of(open_run(ROOT / "results" / name))


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize("name", RUNS)
def test_every_cell_stands_whole_or_its_column_is_named(name: str, width: int) -> None:
    for table in content(name).tables:
        printed = render.of_table(table, width).plain
        assert max(map(len, printed.splitlines())) <= width, table.name
        words, shown = " ".join(printed.split()), table.fitted(width)
        for column, *cells in zip(shown.columns, *shown.cells, strict=True):
            for cell in cells:
                whole = cell.split() if column.breakable else [cell]
                assert all(part in printed for part in whole), (table.name, column.title)
        left_out = len(table.columns) - len(shown.columns)
        assert (left_out == 0) == (f"tables/{table.name}.md" not in words)
        for column in table.columns[table.grouped :]:
            assert all(part in words for part in column.title.split()), column.title


@pytest.mark.parametrize("width", ["80", "100"])
@pytest.mark.parametrize("name", RUNS)
def test_a_run_ends_with_at_most_twelve_lines(
    name: str, width: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retbench.cli.console.PIPED_COLUMNS", int(width))
    Console().report(content(name), [content(name).path / "tables" / "ratios.md"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 12
    assert content(name).findings[0].split()[0] in " ".join(lines[1:4])
    assert lines[-2].startswith("tables: retbench table ")


def test_columns_are_left_out_by_rank_and_verdicts_lose_their_details() -> None:
    rows = [{"a": "retnet", "b": "1.00", "c": "faster (+2 min)", "d": "2.00"}]
    columns = [
        Column("Model", "a", rank=0, style="name"), Column("First", "b", rank=2),
        Column("Verdict", "c", rank=0, style="verdict"), Column("Last", "d"),
    ]  # fmt: skip
    table = Table("made", "Made", pd.DataFrame(rows), columns)
    assert table.fitted(80).cells == [("retnet", "1.00", "faster (+2 min)", "2.00")]
    assert table.fitted(30).cells == [("retnet", "1.00", "faster", "2.00")]
    assert table.fitted(24).cells == [("retnet", "faster", "2.00")]
    assert table.missing(table.fitted(16)) == ["First", "Last"]
    assert table.fitted(10).cells == [("retnet",)]
    assert render.of_table(table, 10).plain
