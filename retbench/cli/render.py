"""Summaries, forecasts and model tables as rich renderables, legible at 100 columns.

Nothing here prints, and nothing is computed but the layout: numbers come from
``retbench.report.summary`` and are rounded by ``retbench.report.units``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from retbench.report.units import DASH, Scale, scale_for, significant, with_interval

if TYPE_CHECKING:
    import pandas as pd

    from retbench.cli.model_sizes import ModelSize
    from retbench.engine.forecast import Forecast
    from retbench.machine.doctor import Check
    from retbench.report.layout import Table as Layout
    from retbench.report.summary import Summary

# Heading, metric, and whether the interval is shown beside the value.
_CELL_COLUMNS = (
    ("TTFT", "ttft_s", False),
    ("TPOT", "tpot_s", True),
    ("x bound", "tpot_over_bound", False),
    ("mean", "mean_tpot_s", False),
    ("tokens/s", "decode_tokens_per_s", False),
    ("peak", "peak_bytes", False),
    ("state", "state_bytes", False),
)
_NAME_COLUMNS = 22
_PEAKS = ("prefill_peak_bytes", "decode_peak_bytes")
_OPTIONAL = {"tpot_over_bound", "mean_tpot_s"}  # without a column where none was measured
_RATIO_COLUMNS = (
    ("TTFT", "ttft_s", True),
    ("TPOT", "tpot_s", True),
    ("mean TPOT", "mean_tpot_s", True),
    ("peak", "decode_peak_bytes", False),
    ("state", "state_bytes", False),
)
_CHECK_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}
_VERDICT_STYLES = {
    "faster": "green", "smaller": "green", "slower": "red", "larger": "red",
    "equivalent": "cyan", "inconclusive": "dim",
}  # fmt: skip


def duration(seconds: float) -> str:
    """Seconds as people say them: ``40 s``, ``3 min``, ``2 h 05 min``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min"


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


def of_table(laid_out: Layout) -> Group:
    """A report's table under its title, its notes below it: the columns that fit a page."""
    kept = laid_out.in_print or range(len(laid_out.header))
    made = table(laid_out.title, ())
    for i in kept:
        text = [laid_out.header[i], *(row[i] for row in laid_out.rows)]
        widest = max(len(line) for line in text)
        # Names are needed whole; a sentence may be broken.
        made.add_column(
            laid_out.header[i], justify="right" if laid_out.numeric[i] else "left",
            no_wrap=laid_out.numeric[i], overflow="fold", min_width=min(widest, _NAME_COLUMNS),
        )  # fmt: skip
    for row in laid_out.rows:
        made.add_row(*(row[i] for i in kept))
    notes = [Text(f"  {note}", style="dim") for note in laid_out.notes]
    return Group(made, *notes, Text(""))


def cells(summary: Summary) -> Table:
    """One row per model and point; a cell that failed shows how it ended, and why."""
    wide = _wide(summary.cells)
    shown = _measured(_CELL_COLUMNS, summary.cells)
    scales = {metric: _scale(summary.cells, metric) for _, metric, _ in shown}
    headings = [
        (
            f"{heading}\n{scales[metric].symbol}" if heading != scales[metric].symbol else heading,
            True,
        )
        for heading, metric, _ in shown
    ]
    made = table("Cells", [("context", True), ("batch", True), ("model", False), *headings])
    for row in _by_point(summary.statuses).to_dict("records"):
        place = (row["model"], row["point"])
        values = [
            _cell(wide, place, metric, scales[metric], interval) for _, metric, interval in shown
        ]
        if row["status"] != "ok":
            values = _failed(row, values)
        made.add_row(str(row["seq_len"]), str(row["batch_size"]), row["model"], *values)
    return made


def ratios(summary: Summary) -> list[Table]:
    """A table per baseline: subject over baseline, below 1 where the subject is better."""
    found = []
    for baseline, rows in summary.ratios.groupby("baseline", sort=False):
        subject = rows["subject"].iloc[0]
        title = f"{subject} / {baseline}: below 1, {subject} is faster or smaller"
        shown = _measured(_RATIO_COLUMNS, rows)
        headings = [(heading, not worded) for heading, _, worded in shown]
        made = table(title, [("context", True), ("batch", True), *headings])
        by_metric = rows.set_index(["metric", "point"]).to_dict("index")
        for point in rows.drop_duplicates("point").to_dict("records"):
            entries = [
                _ratio(by_metric.get((metric, point["point"])), worded)
                for _, metric, worded in shown
            ]
            made.add_row(str(point["seq_len"]), str(point["batch_size"]), *entries)
        found.append(made)
    return found


def settling(summary: Summary) -> list[str]:
    """What the blocks could have told, why the run ended, and what would settle the rest."""
    from retbench.report import compare, layout, stamp

    ratios = summary.ratios
    timed = ratios[ratios["metric"].isin(compare.TIMES)]
    lines = [layout.resolution(timed), stamp.ended(summary.meta)]
    open_ = timed[timed["verdict"] == "inconclusive"]
    if len(open_):
        said = f"{len(open_)} of {int((timed['n'] > 0).sum())} ratios of times are inconclusive"
        needed = open_["minutes_needed"].dropna()
        if len(needed):
            longest = duration(60 * float(needed.max()))
            said += f"; {longest} more would settle {len(needed)} of them"
        lines.append(said)
    return [line for line in lines if line]


def crossovers(summary: Summary) -> list[str]:
    """A sentence per metric and baseline: where the two are equal, or that it was not reached."""
    return [_crossover(row) for row in summary.crossovers.to_dict("records")]


def largest_batches(summary: Summary) -> list[str]:
    """A sentence per model: the largest batch that fits, and how the next one ended."""
    return [_largest_batch(row) for row in summary.batches.to_dict("records")]


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
        style = _VERDICT_STYLES.get(row["verdict"], "")
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


def _by_point(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of one point together, the models of a point in the order they came in."""
    return frame.sort_values(["batch_size", "seq_len"], kind="stable")


def _wide(frame: pd.DataFrame) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Rows by model, point and metric; the peak is the larger of prefill's and decode's."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in frame.to_dict("records"):
        record = {str(key): value for key, value in row.items()}
        place = (record["model"], record["point"])
        found[*place, record["metric"]] = record
        if record["metric"] in _PEAKS:
            known = found.get((*place, "peak_bytes"))
            if known is None or record["value"] > known["value"]:
                found[*place, "peak_bytes"] = record
    return found


def _measured(
    columns: Sequence[tuple[str, str, bool]], frame: pd.DataFrame
) -> list[tuple[str, str, bool]]:
    present = set(frame["metric"])
    return [column for column in columns if column[1] not in _OPTIONAL or column[1] in present]


def _scale(frame: pd.DataFrame, metric: str) -> Scale:
    from retbench.report.summary import metric_of

    wanted = _PEAKS if metric == "peak_bytes" else (metric,)
    unit = metric_of(wanted[0]).unit
    return scale_for(unit, frame.loc[frame["metric"].isin(wanted), "value"])


def _cell(
    wide: Mapping[tuple[str, str, str], Mapping[str, Any]],
    place: tuple[str, str],
    metric: str,
    scale: Scale,
    interval: bool,
) -> Text:
    row = wide.get((*place, metric))
    if row is None:
        return Text(DASH, style="dim")
    if interval:
        return Text(with_interval(row["value"], row["low"], row["high"], scale.divisor))
    return Text(significant(row["value"] / scale.divisor))


def _failed(row: Mapping[Any, Any], values: Sequence[Text]) -> list[Text]:
    """The status in the first column without a value; what was measured stays."""
    shown = list(values)
    place = next((i for i, text in enumerate(shown) if text.plain == DASH), 1)
    blocks = f" {row['ok_blocks']}/{row['blocks']} ok" if row["ok_blocks"] else ""
    shown[place] = Text(f"{row['status']}{blocks}", style="bold red")
    return shown


def _ratio(row: Mapping[Any, Any] | None, worded: bool) -> Text:
    from retbench.report.layout import verdict

    if row is None:
        return Text(DASH, style="dim")
    if row["note"]:
        return Text(row["note"], style="red") if worded else Text(DASH, style="dim")
    style = _VERDICT_STYLES.get(row["verdict"], "")
    if not worded:
        return Text(significant(row["value"]), style=style)
    value = with_interval(row["value"], row["low"], row["high"])
    return Text.assemble(f"{value} ", (verdict(row), style))


def _crossover(row: Mapping[Any, Any]) -> str:
    from retbench.report.compare import NO_CLAIM
    from retbench.report.summary import metric_of

    what = f"{metric_of(row['metric']).title}, {row['subject']} against {row['baseline']}"
    if row["status"] == NO_CLAIM:
        return f"{what}: {NO_CLAIM}"
    swept = f"from {row['shortest']} to {row['longest']} tokens at batch {row['batch_size']}"
    if row["status"] == "reached":
        value, low, high = (
            f"{row[key]:,.0f}" if row[key] == row[key] else "" for key in ("value", "low", "high")
        )
        interval = f" [{low}, {high}]" if low and high else ""
        return f"{what}: equal at {value}{interval} tokens, {row['direction']} beyond"
    if row["status"] == "unclear":
        return f"{what}: unclear {swept}, {row['reason']}"
    side = "better" if row["status"] == "always below" else "worse"
    return f"{what}: not reached, {side} everywhere {swept}"


def _largest_batch(row: Mapping[Any, Any]) -> str:
    from retbench.report.layout import largest, stopped

    return f"{row['model']} at {row['seq_len']} tokens: {largest(row)} ({stopped(row)})"
