"""Tables, forecasts and sizes of models as rich renderables, each cell of a table whole.

Nothing here prints, and nothing is computed but the layout: numbers are rounded by
``retbench.report.units``, and a report's tables are laid out as they are declared.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from textwrap import fill, wrap
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from retbench.report import units
from retbench.report.units import scale_for, significant, with_interval

if TYPE_CHECKING:
    from retbench.cli.model_sizes import ModelSize
    from retbench.engine.forecast import Forecast
    from retbench.machine.doctor import Check
    from retbench.report.tables import Table as Declared

_CHECK_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}
_COLOURS = {"good": "green", "bad": "red", "same": "cyan", "open": "dim"}


def table(title: str, columns: Iterable[tuple[str, bool]]) -> Table:
    """An empty table; each column is its heading and whether it holds numbers."""
    made = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for heading, numeric in columns:
        # A number that is cut in two misleads; names may be.
        made.add_column(
            heading, justify="right" if numeric else "left", overflow="fold", no_wrap=numeric
        )
    return made


def of_table(declared: Declared, width: int) -> Text:
    """A report's table in at most ``width`` characters, every cell whole, its notes below it.

    Columns that do not fit are named, with the file that has them.
    """
    shown = declared.fitted(width)
    kept = range(shown.grouped, len(shown.columns))
    widths = [shown.width(i) for i in kept]
    if shown.columns[-1].breakable:  # it has the room there is
        longest = max(len(cells[-1]) for cells in shown.cells)
        widths[-1] = min(
            max(longest, widths[-1]), width - sum(widths[:-1]) - shown.GAP * len(kept[1:])
        )
    lines = Text(f"{declared.title}\n", style="bold")
    headings = [shown.heading(i) for i in kept]
    highest = max(map(len, headings))
    for line in zip(*([""] * (highest - len(each)) + [*each] for each in headings), strict=True):
        lines.append(_line(shown, line, widths))
    lines.append("─" * (sum(widths) + shown.GAP * len(kept[1:])) + "\n")
    for group, rows in shown.groups():
        lines.append(Text(f"{group}:\n", style="italic") if group else "")
        for cells in rows:
            for line in zip_longest(*map(wrap, cells, widths), fillvalue=""):
                lines.append(_line(shown, line, widths))
    notes = shown.reading
    if left_out := declared.missing(shown):
        plural = "s" * (len(left_out) > 1)
        notes.append(f"+{len(left_out)} column{plural} in tables/{declared.name}.md: "
                     f"{', '.join(left_out)}")  # fmt: skip
    for note in notes:
        lines.append(indented(note, width) + "\n")
    lines.rstrip()
    return lines


def indented(text: str, width: int) -> str:
    """Text in lines of ``width`` characters, the first by two to the right, the others by four."""
    return fill(text, width, initial_indent="  ", subsequent_indent="    ")


def height(lines: Iterable[str], width: int) -> int:
    """How many printed lines they are."""
    return sum(indented(line, width).count("\n") + 1 for line in lines)


def first(lines: Sequence[str], width: int, most: int) -> list[str]:
    """As many of the lines as ``most`` printed ones hold, and how many there are besides."""
    kept = list(lines)
    while kept and height(kept, width) > most - (len(kept) < len(lines)):
        kept.pop()
    left = len(lines) - len(kept)
    return [*kept, f"+{left} more in report.html"] if left else kept


def gravest(warnings: Sequence[str], width: int) -> list[str]:
    """The first warning, without its details where it is long, and how many there are besides."""
    if not warnings:
        return []
    more = f" (+{len(warnings) - 1} more in report.html)" if warnings[1:] else ""
    line = f"warning: {warnings[0]}{more}"
    if height([line], width) == 1:
        return [line]
    return [f"warning: {re.split('[:;] ', warnings[0])[0]}{more}"]


def _line(table: Declared, texts: Sequence[str], widths: Sequence[int]) -> Text:
    """One line of a table's cells."""
    line = Text()
    for column, text, width in zip(table.columns[table.grouped :], texts, widths, strict=True):
        style = _COLOURS[units.tone(text)] if column.style == "verdict" else ""
        line.append(f"{text:>{width}}" if column.numeric else f"{text:<{width}}", style=style)
        line.append(" " * table.GAP)
    line.rstrip()
    return line.append("\n")


def expected(forecast: Forecast, available_bytes: int | None) -> Table:
    """One row per model and point: expected seconds of a process, memory, whether that fits."""
    named = any(cell.point.settings for cell in forecast.cells)
    columns = [("model", False), *([("cell", False)] if named else []), ("context", True),
               ("batch", True), ("s per block", True), ("memory GiB", True),
               ("fits", False)]  # fmt: skip
    made = table("Expected", columns)
    for cell in forecast.cells:
        settings = ", ".join(str(given) for _, given in cell.point.settings)
        fits = available_bytes is None or cell.memory_bytes <= available_bytes
        word = "?" if available_bytes is None else "yes" if fits else "no"
        made.add_row(
            cell.contender.label, *([settings] if named else []),
            str(cell.point.seq_len), str(cell.point.batch_size),
            significant(cell.seconds, 2), significant(cell.memory_bytes / 2**30, 3),
            Text(word, style="" if fits else "bold red"),
        )  # fmt: skip
    return made


def memory_line(unfit: int, available_bytes: int | None) -> str:
    """How many cells would not fit the memory there is."""
    if available_bytes is None:
        return "the available memory is unknown"
    there_is = f"the {significant(available_bytes / 2**30)} GiB available"
    if unfit == 0:
        return f"all cells fit into {there_is}"
    return f"{unfit} cell{'s' * (unfit != 1)} would not fit into {there_is}"


def audit(record: Mapping[str, Any]) -> list[Table | Text]:
    """What an audit has found: every comparison, then the sum of it in sentences."""
    made = table(
        f"Audit: {record['contender']} against itself, and against a copy slowed by "
        f"{record['slowdown']:.0%}",
        [("metric", False), ("point", False), ("against", False), ("ratio", True),
         ("verdict", False)],
    )  # fmt: skip
    for row in record["rows"]:
        ratio = with_interval(row["value"], row["low"], row["high"])
        style = _COLOURS[units.tone(row["verdict"])]
        made.add_row(
            row["metric"], row["point"], row["baseline"], ratio, Text(row["verdict"], style=style)
        )
    floors = ", ".join(f"{name} {math.expm1(at):.2%}" for name, at in record["floor"].items())
    return [
        made,
        Text(f"between equals: {record['false']} of {record['compared']} comparisons show a "
             f"difference; noise floor: {floors}"),
        Text(f"planted {record['slowdown']:.0%}: found in {record['found']} of "
             f"{record['planted']} comparisons, {record['blocks']} blocks"),
    ]  # fmt: skip


def named(lines: Sequence[tuple[str, str]]) -> Table:
    """A line a name, and what is said of it."""
    rows = Table.grid(padding=(0, 2, 0, 0))
    for name, said in lines:
        rows.add_row(f"  {name}", said)
    return rows


def sizes(models: Sequence[ModelSize]) -> Table:
    """One row per preset and model."""
    columns = [("preset", False), ("model", False), ("d", True), ("layers", True),
               ("heads", True), ("d_ff", True), ("parameters", True), ("ratio", True),
               ("embedding", True), ("state", True)]  # fmt: skip
    title = "Parameters without embeddings; state of one sequence of 8,192 tokens (bfloat16 model)"
    made = table(title, columns)
    for size in models:
        scale = scale_for("bytes", [size.state_bytes])
        made.add_row(
            size.preset, size.family, str(size.d_model), str(size.n_layers), str(size.n_heads),
            str(size.d_ff), f"{size.parameters:,}",
            Text(f"{size.ratio:.4f}", style="" if size.matches else "bold red"),
            f"{size.parameters_embedding:,}",
            f"{significant(size.state_bytes / scale.divisor)} {scale.symbol}",
            end_section=size.family == models[-1].family,
        )  # fmt: skip
    return made


def checks(made: Sequence[Check]) -> Table:
    """A line a check: its state, what was looked at, what was found and what to do."""
    rows = Table.grid(padding=(0, 2, 0, 0))
    for check in made:
        found = Text(check.found, overflow="fold")
        if check.remedy:
            found.append(f"; {check.remedy}", style="bold")
        rows.add_row(Text(check.state, style=_CHECK_STYLES[check.state]), check.name, found)
    return rows


def ceilings(measured: Mapping[str, Any]) -> list[Table]:
    """Bandwidth by working set, and matmul rate by dtype."""
    columns = [("working set", True), ("read", True), ("copy", True)]
    bandwidth = table("Memory bandwidth at most", columns)
    for entry in measured["bandwidth"]:
        bandwidth.add_row(
            f"{entry['working_set_bytes'] // 2**20:,} MiB",
            f"{significant(entry['read_bytes_per_s'] / 1e9)} GB/s",
            f"{significant(entry['copy_bytes_per_s'] / 1e9)} GB/s",
        )
    rates = table("Matrix products at most", [("dtype", False), ("rate", True)])
    for dtype, rate in measured["matmul_flop_per_s"].items():
        rates.add_row(dtype, f"{significant(rate / 1e9)} GFLOP/s")
    return [bandwidth, rates]
