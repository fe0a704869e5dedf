"""The report of a projection: bounds, and nothing that was measured.

The paper's Figure 6 (Sun et al. 2023, arXiv 2307.08621) is drawn beside them where it applies: its
model (6.7B) on its device (A100-80GB). Its points were read from the vector drawings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from retbench.metrics import IN_SUITE
from retbench.report import derivation, units
from retbench.report.content import Content, definitions, filled, title_of
from retbench.report.figure import Axis, Curve, Figure, Panel
from retbench.report.frames import Floats, Row, column, groups, records
from retbench.report.tables import Column, Table
from retbench.suites.projection import USABLE

if TYPE_CHECKING:
    from retbench.store import Run

IS = "bound, not a measurement"
_KEY = ["hardware", "model", "batch_size", "seq_len", "point"]
_SHOWN = (
    "held_bytes", "tpot_bound_s", "mean_tpot_bound_s", "ttft_bound_s", "largest_batch",
    "largest_batch_tokens_per_s",
)  # fmt: skip
_COMPARED = ("tpot_bound_s", "mean_tpot_bound_s", "ttft_bound_s", "held_bytes",
             "largest_batch_tokens_per_s")  # fmt: skip
# The paper's Figure 6: GB, words/s and ms; the sizes of its batch are reconstructed (8).
_LENGTHS = (2048, 3072, 4096, 5120, 6144, 7168, 8192)
_PAPER: Mapping[str, tuple[Sequence[int], Mapping[str, Sequence[float]], float]] = {
    "held_bytes": (_LENGTHS, {
        "transformer": (21.402, 25.716, 30.031, 34.345, 38.658, 42.972, 47.286),
        "retnet": (13.865,) * 7}, 1e9),
    "mean_tokens_per_s": (_LENGTHS, {
        "transformer": (90.52, 68.34, 57.77, 48.29, 45.75, 40.92, 36.74),
        "retnet": (310.44, 309.75, 309.30, 308.85, 310.84, 310.88, 310.27)}, 1.0),
    "tpot_bound_s": (tuple(range(1, 9)), {
        "transformer": (95.54, 127.75, 171.75, 209.01, 254.26, 294.57, 335.63, 377.69),
        "retnet": (23.18, 23.54, 23.96, 23.56, 24.38, 23.82, 23.97, 24.24)}, 1e-3),
}  # fmt: skip


def content(run: Run) -> Content:
    """All that the report says of a projection."""
    figures = run.frame()
    figures = figures[figures["phase"] == "analytic"]
    cells = figures.pivot_table(index=_KEY, columns="metric", values="value", sort=False)
    wide = cells.reset_index().assign(
        mean_tokens_per_s=lambda rows: rows["batch_size"] / rows["mean_tpot_bound_s"]
    )
    labels = [contender["label"] for contender in run.meta["plan"]["contenders"]]
    compared = _ratios(wide, labels)
    tables = filled(
        _ratio_table(compared), _break_even(wide, labels), _cell_table(wide, run.meta),
        derivation.table(wide, run.meta, _batch(run.meta)), _devices(run.meta),
    )  # fmt: skip
    return Content(
        path=run.path,
        meta=run.meta,
        title=title_of(run.meta, labels),
        stamp=(IS, _conditions(run.meta)),
        findings=tuple(_findings(compared, run.meta)),
        unsettled="",
        tables=tables,
        figures=partial(_figures, wide, run.meta),
        warnings=(),
        definitions=definitions(tables, IN_SUITE["projection"]),
    )


def _conditions(meta: Mapping[str, Any]) -> str:
    asked = meta["configuration"]
    return f"{asked['preset']} · {asked['dtype']} · data sheets of {', '.join(meta['hardware'])}"


def _ratios(wide: pd.DataFrame, labels: list[str]) -> pd.DataFrame:
    """The first model over each other one, by device, batch size, context and metric."""
    rows = []
    at = ["hardware", "batch_size", "seq_len", "point"]
    subject = wide[wide["model"] == labels[0]].set_index(at)
    for baseline in labels[1:]:
        other = wide[wide["model"] == baseline].set_index(at)
        ratio = (subject[list(_COMPARED)] / other[list(_COMPARED)]).reset_index()
        rows.append(ratio.assign(subject=labels[0], baseline=baseline))
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()


def _findings(compared: pd.DataFrame, meta: Mapping[str, Any]) -> Iterator[str]:
    """Against each baseline a step, memory and throughput on the first device, at one cell."""
    device, asked = next(iter(meta["hardware"])), meta["configuration"]
    context, batch = asked["batch_context"], _batch(meta)
    for row in records(compared):
        if (row["hardware"], row["seq_len"], row["batch_size"]) == (device, context, batch):
            step, held, most = (
                units.significant(row[metric])
                for metric in ("tpot_bound_s", "held_bytes", "largest_batch_tokens_per_s")
            )
            yield (
                f"{row['subject']} / {row['baseline']} at the bound of {device}, "
                f"{units.tokens(context)} tokens, batch {batch}: step {step}, memory {held}; at "
                f"the largest batches that fit {most} times the tokens/s"
            )


def _batch(meta: Mapping[str, Any]) -> int:
    """The batch size of what is drawn over the context: the paper's 8 where it is there."""
    sizes = meta["configuration"]["batch"]
    return 8 if 8 in sizes else int(sizes[-1])


def _number(metric: str, title: str, unit: str, divisor: float, rank: int = 1) -> Column:
    def text(row: Row) -> str:
        return units.significant(row[metric] / divisor)

    return Column(title, text, unit, rank, metric=metric if metric in _SHOWN else "")


_AT = (
    Column("Device", "hardware", rank=0, style="name"),
    Column("Batch", "batch_size", rank=0),
    Column("Context", lambda row: units.tokens(row["seq_len"]), rank=0),
)


def _ratio_table(compared: pd.DataFrame) -> Table:
    columns = [
        Column("Baseline", "baseline", rank=0, style="name"), *_AT,
        _number("tpot_bound_s", "Step", "", 1, 0),
        _number("mean_tpot_bound_s", "Step, mean of a generation", "", 1, 3),
        _number("ttft_bound_s", "Prefill", "", 1, 2),
        _number("held_bytes", "Weights and state", "", 1, 1),
        _number("largest_batch_tokens_per_s", "Tokens/s at the largest batch", "", 1, 2),
    ]  # fmt: skip
    order = ["baseline", "hardware", "batch_size", "seq_len"]
    frame = compared.sort_values(order, kind="stable") if len(compared) else compared
    return Table(
        "ratios", "Ratios at the bound", frame, columns,
        notes=(f"ratio = first model / baseline; {IS}; where a cell does not fit on the device it "
               "says what its bytes would take",),
        above=True, grouped=True,
    )  # fmt: skip


def _break_even(wide: pd.DataFrame, labels: list[str]) -> Table:
    """The context from which on the first model needs less, of memory and of a step's time.

    Bytes are linear in the context, so that a line between two contexts is exact; devices and batch
    sizes make no difference as long as bytes decide.
    """
    first = wide[(wide["hardware"] == wide["hardware"].iloc[0])
                 & (wide["batch_size"] == wide["batch_size"].min())]  # fmt: skip
    by_model = {model: own.sort_values("seq_len") for (model,), own in groups(first, ["model"])}
    rows = []
    for baseline in labels[1:]:
        row: Row = {"subject": labels[0], "baseline": baseline}
        for metric in ("state_bytes", "decode_bytes"):
            sides = (column(by_model[label], metric) for label in (labels[0], baseline))
            row[metric] = _crossing(column(by_model[baseline], "seq_len"), *sides)
        rows.append(row)
    columns = [
        Column("Baseline", "baseline", rank=0, style="name"),
        Column("Memory", "state_bytes", rank=0, style="name"),
        Column("Time of a step", "decode_bytes", rank=0, style="name"),
    ]
    return Table(
        "break_even", f"Context from which on {labels[0]} needs less", pd.DataFrame(rows), columns,
        notes=("of time it is another, for a recurrent state is read and written",), above=True,
    )  # fmt: skip


def _crossing(contexts: Floats, subject: Floats, baseline: Floats) -> str:
    """Where the subject's bytes become the fewer, as text."""
    less = subject - baseline
    if less[0] <= 0:
        return f"at {units.tokens(contexts[0])} and before" if less[-1] <= 0 else "not told"
    if less[-1] > 0:
        return f"not up to {units.tokens(contexts[-1])}"
    after = int(np.argmax(less <= 0))
    share = less[after - 1] / (less[after - 1] - less[after])
    return units.rounded_tokens(
        contexts[after - 1] + share * (contexts[after] - contexts[after - 1])
    )


def _cell_table(wide: pd.DataFrame, meta: Mapping[str, Any]) -> Table:
    room = {key: sheet["memory_bytes"] for key, sheet in meta["hardware"].items()}

    def fits(row: Row) -> str:
        return "yes" if row["held_bytes"] <= USABLE * room[row["hardware"]] else "no"

    def bound_by(row: Row) -> str:
        sheet = meta["hardware"][row["hardware"]]
        rate = sheet["flop_per_s"][meta["configuration"]["dtype"]]
        moving = row["decode_bytes"] / sheet["bandwidth_bytes_per_s"]
        return "bytes" if moving >= row["decode_flops"] / rate else "FLOPs"

    columns = [
        Column("Model", "model", rank=0, style="name"), *_AT,
        _number("held_bytes", "Weights and state", "GB", 1e9, 0),
        Column("Fits", fits, rank=0, style="name"),
        _number("tpot_bound_s", "Step", "ms", 1e-3, 0),
        Column("Bound by", bound_by, rank=4, style="name"),
        _number("mean_tpot_bound_s", "Step, mean of a generation", "ms", 1e-3, 2),
        _number("ttft_bound_s", "Prefill", "ms", 1e-3, 1),
        Column("Largest batch", lambda row: f"{row['largest_batch']:.0f}", rank=2,
               metric="largest_batch"),
        _number("largest_batch_tokens_per_s", "Tokens/s there", "", 1, 2),
    ]  # fmt: skip
    order = {label: place for place, label in enumerate(dict.fromkeys(wide["model"]))}
    frame = wide.sort_values(
        ["model", "hardware", "batch_size", "seq_len"], kind="stable",
        key=lambda values: values.map(order) if values.name == "model" else values,
    )  # fmt: skip
    return Table(
        "cells", "Bounds", frame, columns, notes=(IS, "GB are 10^9 bytes"), grouped=True,
        cited={metric: metric for metric in _SHOWN}, ids=("model", "point"),
    )  # fmt: skip


def _devices(meta: Mapping[str, Any]) -> Table:
    dtype = meta["configuration"]["dtype"]
    frame = pd.DataFrame([
        {"device": key, "memory_bytes": sheet["memory_bytes"],
         "bandwidth_bytes_per_s": sheet["bandwidth_bytes_per_s"],
         "flop_per_s": sheet["flop_per_s"][dtype], "source": sheet["source"]}
        for key, sheet in meta["hardware"].items()
    ])  # fmt: skip
    columns = [
        Column("Device", "device", rank=0, style="name"),
        _number("memory_bytes", "Memory", "GB", 1e9, 0),
        _number("bandwidth_bytes_per_s", "Bandwidth", "TB/s", 1e12, 0),
        _number("flop_per_s", f"{dtype}, dense", "TFLOP/s", 1e12, 0),
        Column("Source", "source", rank=1, style="sentence"),
    ]
    return Table("devices", "Devices", frame, columns)


def _figures(wide: pd.DataFrame, meta: Mapping[str, Any]) -> Iterator[Figure]:
    """For each device the paper's Figure 6 at the bound, and all cells on its roofline."""
    asked, batch = meta["configuration"], _batch(meta)
    for device in meta["hardware"]:
        own = wide[wide["hardware"] == device]
        over = own[(own["batch_size"] == batch) & own["seq_len"].isin(asked["context"])]
        context = Axis("context (tokens)", tuple(asked["context"]), units.tokens)
        panels = {
            "held_bytes": Panel("held_bytes", "", context, Axis("weights and state (GB)",
                                                                divisor=1e9)),
            "mean_tokens_per_s": Panel("mean_tokens_per_s", "", context,
                                       Axis("mean tokens/s")),
        }  # fmt: skip
        yield _figure(meta, f"context_{device}", f"At best on {device}, batch {batch}", over,
                      panels, "seq_len", device)  # fmt: skip
        along = own[own["seq_len"] == asked["batch_context"]]
        sizes = Axis("batch size (sequences)", tuple(asked["batch"]))
        panels = {"tpot_bound_s": Panel("tpot_bound_s", "", sizes, Axis("step (ms)", divisor=1e-3))}
        if len(asked["batch"]) > 1 and len(along):
            at = units.tokens(asked["batch_context"])
            yield _figure(meta, f"batch_{device}", f"A step at best on {device}, {at} tokens",
                          along, panels, "batch_size", device)  # fmt: skip
        yield _roofline(along.sort_values("batch_size"), meta, device)


def _figure(
    meta: Mapping[str, Any], name: str, title: str, rows: pd.DataFrame,
    panels: Mapping[str, Panel], along: str, device: str,
) -> Figure:  # fmt: skip
    data = pd.concat(
        rows.assign(panel=metric, metric=metric, value=rows[metric]) for metric in panels
    )
    curves = list(_paper(meta, panels, device))
    said = ["thin dashes: the paper's measured points"] if curves else []
    if "mean_tokens_per_s" in panels:
        said.append("mean: over a generation from nothing to the context")
    return _declared(meta, name, title, panels.values(), data.assign(x=data[along]), curves, said)


def _declared(
    meta: Mapping[str, Any], name: str, title: str, panels: Any, data: pd.DataFrame,
    curves: list[Curve], notes: Sequence[str],
) -> Figure:  # fmt: skip
    nothing: Mapping[str, Any] = dict.fromkeys(("low", "high", "each"))
    return Figure.of(
        meta, name, title, panels, data.assign(series=data["model"], **nothing), curves=curves,
        caption=_conditions(meta), caveat=IS.upper(), notes=tuple(notes),
    )  # fmt: skip


def _paper(meta: Mapping[str, Any], panels: Mapping[str, Panel], device: str) -> Iterator[Curve]:
    """The paper's points, where it measured what is projected."""
    asked = meta["configuration"]
    if (asked["preset"], device) != ("6.7b", "a100-80gb") or 8 not in asked["batch"]:
        return
    if asked["batch_context"] != 8192 and "tpot_bound_s" in panels:
        return
    for metric in panels:
        x, by_model, unit = _PAPER[metric]
        for model, values in by_model.items():
            if model in asked["models"]:
                yield Curve(metric, model, np.array(x, float), np.array(values) * unit)


def _roofline(along: pd.DataFrame, meta: Mapping[str, Any], device: str) -> Figure:
    """FLOP/s that a decode step could reach over its FLOPs a byte, under the device's roof."""
    sheet = meta["hardware"][device]
    bandwidth = sheet["bandwidth_bytes_per_s"]
    rate = sheet["flop_per_s"][meta["configuration"]["dtype"]]
    intensity = along["decode_flops"] / along["decode_bytes"]
    data = along.assign(panel="", metric="decode_flops", x=intensity,
                        value=np.minimum(rate, bandwidth * intensity))  # fmt: skip
    reach = np.array([intensity.min() / 2, rate / bandwidth, 4 * rate / bandwidth])
    roof = Curve("", "", reach, np.minimum(rate, bandwidth * reach), "roof")
    axes = Axis("FLOPs a byte"), Axis("TFLOP/s at best", divisor=1e12)
    sizes = ", ".join(map(str, meta["configuration"]["batch"]))
    at = units.tokens(meta["configuration"]["batch_context"])
    return _declared(
        meta, f"roofline_{device}", f"Where a decode step stands on {device}, {at} tokens",
        (Panel("", "", *axes),), data, [roof],
        (f"a mark a batch size, from the left {sizes}", "left of the bend bytes decide"),
    )  # fmt: skip
