"""The report of a projection: bounds, and nothing that was measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from retbench.report import derivation, units
from retbench.report.content import Content, made
from retbench.report.frames import Floats, Row, column, groups, ordered, records
from retbench.report.projection_figures import IS, conditions, figures, usual_batch
from retbench.report.tables import BATCH, CONTEXT, Column, Table, name
from retbench.suites.projection import USABLE

if TYPE_CHECKING:
    from retbench.store import Run

_KEY = ["hardware", "model", "batch_size", "seq_len", "point"]
_SHOWN = (
    "held_bytes", "tpot_bound_s", "mean_tpot_bound_s", "ttft_bound_s", "largest_batch",
    "largest_batch_tokens_per_s", "prefill_working_bytes", "training_bytes", "step_bound_s",
)  # fmt: skip
_COMPARED = (
    "tpot_bound_s", "mean_tpot_bound_s", "ttft_bound_s", "held_bytes",
    "largest_batch_tokens_per_s", "step_bound_s", "training_bytes",
)  # fmt: skip


def content(run: Run) -> Content:
    """All that the report says of a projection."""
    samples = run.frame()
    samples = samples[samples["phase"] == "analytic"]
    cells = samples.pivot_table(index=_KEY, columns="metric", values="value", sort=False)
    wide = cells.reset_index().assign(
        mean_tokens_per_s=lambda rows: rows["batch_size"] / rows["mean_tpot_bound_s"]
    )
    labels = [contender["label"] for contender in run.meta["plan"]["contenders"]]
    compared = _ratios(wide, labels)
    tables = (
        _ratio_table(compared), _break_even(wide, labels), _cell_table(wide, run.meta),
        _training_table(wide, run.meta),
        derivation.table(wide, run.meta, usual_batch(run.meta)), _devices(run.meta),
    )  # fmt: skip
    return made(
        run, labels, tables, partial(figures, wide, run.meta), stamp=(IS, conditions(run.meta)),
        findings=_findings(compared, run.meta),
    )  # fmt: skip


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
    context, batch = asked["batch_context"], usual_batch(meta)
    for row in records(compared):
        if (row["hardware"], row["seq_len"], row["batch_size"]) == (device, context, batch):
            step, held = (units.significant(row[name]) for name in ("tpot_bound_s", "held_bytes"))
            most = row["largest_batch_tokens_per_s"]
            yield (
                f"{row['subject']} / {row['baseline']} at the bound of {device}, "
                f"{units.tokens(context)} tokens, batch {batch}: step {step}, memory {held}; "
            ) + (
                f"at the largest batches that fit {units.significant(most)} times the tokens/s"
                if math.isfinite(most) and most > 0
                else "at that context not one sequence of both fits"
            )


def _number(metric: str, title: str, unit: str, divisor: float, rank: int = 1) -> Column:
    def text(row: Row) -> str:
        return units.significant(row[metric] / divisor)

    return Column(title, text, unit, rank, metric=metric if metric in _SHOWN else "")


_AT = (name("Device", "hardware"), BATCH, CONTEXT)


def _ratio_table(compared: pd.DataFrame) -> Table:
    columns = [
        name("Baseline", "baseline"), *_AT,
        _number("tpot_bound_s", "Step", "", 1, 0),
        _number("mean_tpot_bound_s", "Step, mean of a generation", "", 1, 3),
        _number("ttft_bound_s", "Prefill", "", 1, 2),
        _number("held_bytes", "Weights and state", "", 1, 1),
        _number("largest_batch_tokens_per_s", "Tokens/s at the largest batch", "", 1, 2),
        _number("step_bound_s", "Training step", "", 1, 3),
        _number("training_bytes", "Training memory", "", 1, 3),
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
            row[metric] = needs_less_from(column(by_model[baseline], "seq_len"), *sides)
        rows.append(row)
    columns = [
        name("Baseline", "baseline"),
        name("Memory", "state_bytes"),
        name("Time of a step", "decode_bytes"),
    ]
    return Table(
        "break_even", f"Context from which on {labels[0]} needs less", pd.DataFrame(rows), columns,
        notes=("of time it is another, for a recurrent state is read and written",), above=True,
    )  # fmt: skip


def needs_less_from(contexts: Floats, subject: Floats, baseline: Floats) -> str:
    """The context from which on the subject's bytes are no more than the baseline's, as text.

    Below the first context the line through the first two goes on, to one token at the least.

    Args:
        contexts: shape (contexts,), ascending.
        subject: its bytes at each of them.
        baseline: likewise.
    """
    less = subject - baseline
    if less[-1] > 0:
        return f"not up to {units.tokens(contexts[-1])}" if less[0] > 0 else "not told"
    after = int(np.argmax(less <= 0)) or 1
    if less[0] < 0 and (len(less) < 2 or less[1] >= less[0]):
        return f"at {units.tokens(contexts[0])} or before"
    if less[0] == 0:
        return units.rounded_tokens(contexts[0])
    share = less[after - 1] / (less[after - 1] - less[after])
    at = contexts[after - 1] + share * (contexts[after] - contexts[after - 1])
    return units.rounded_tokens(max(at, 1.0))


def _cell_table(wide: pd.DataFrame, meta: Mapping[str, Any]) -> Table:
    columns = [
        name("Model", "model"), *_AT,
        _number("held_bytes", "Weights and state", "GB", 1e9, 0),
        _fits("held_bytes", meta),
        _number("tpot_bound_s", "Step", "ms", 1e-3, 0),
        _bound_by("decode", meta),
        _number("mean_tpot_bound_s", "Step, mean of a generation", "ms", 1e-3, 2),
        Column("Tokens/s a GB", _tokens_per_s_a_gb, rank=3),
        _number("ttft_bound_s", "Prefill", "ms", 1e-3, 1),
        _number("prefill_working_bytes", "in passing", "GB", 1e9, 3),
        Column("Largest batch", lambda row: f"{row['largest_batch']:.0f}", rank=2,
               metric="largest_batch"),
        _number("largest_batch_tokens_per_s", "Tokens/s there", "", 1, 2),
    ]  # fmt: skip
    notes = (
        IS, "GB are 10^9 bytes", "tokens/s a GB: of decoding, over the weights and the state",
        "in passing: of a prefill of whole prompts, beside weights and state",
    )  # fmt: skip
    return Table(
        "cells", "Bounds", _in_order(wide), columns, notes=notes, grouped=True,
        cited={metric: metric for metric in _SHOWN}, ids=("model", "point"),
    )  # fmt: skip


def _training_table(wide: pd.DataFrame, meta: Mapping[str, Any]) -> Table:
    columns = [
        name("Model", "model"), *_AT,
        _number("training_bytes", "Memory", "GB", 1e9, 0),
        _fits("training_bytes", meta),
        _number("step_bound_s", "Step", "s", 1, 0),
        _bound_by("step", meta),
        Column("Tokens/s", _training_tokens_per_s, rank=1),
    ]  # fmt: skip
    notes = (
        f"{IS}, of one device",
        "memory: weights, gradients and AdamW's moments in float32, and every layer's input; what "
        "else a backward pass needs it would compute anew, whose time is not in the step's",
    )  # fmt: skip
    return Table("training", "A training step", _in_order(wide), columns, notes, grouped=True)


def _in_order(wide: pd.DataFrame) -> pd.DataFrame:
    """The cells by model, as these were asked for, device and size."""
    keys = ["model", "hardware", "batch_size", "seq_len"]
    return ordered(wide, keys, model=tuple(dict.fromkeys(wide["model"])))


def _fits(metric: str, meta: Mapping[str, Any]) -> Column:
    room = {key: USABLE * sheet["memory_bytes"] for key, sheet in meta["hardware"].items()}

    def text(row: Row) -> str:
        return "yes" if row[metric] <= room[row["hardware"]] else "no"

    return name("Fits", text)


def _bound_by(work: str, meta: Mapping[str, Any]) -> Column:
    """Which takes longer, moving the bytes of a piece of work or computing its FLOPs."""
    dtype = meta["configuration"]["dtype"]

    def text(row: Row) -> str:
        sheet = meta["hardware"][row["hardware"]]
        moving, computing = derivation.times_s(row, work, dtype, sheet)
        return "bytes" if moving >= computing else "FLOPs"

    return Column("Bound by", text, rank=4, style="name")


def _tokens_per_s_a_gb(row: Row) -> str:
    return units.significant(row["batch_size"] / row["tpot_bound_s"] / (row["held_bytes"] / 1e9))


def _training_tokens_per_s(row: Row) -> str:
    return units.significant(row["batch_size"] * row["seq_len"] / row["step_bound_s"])


def _devices(meta: Mapping[str, Any]) -> Table:
    dtype = meta["configuration"]["dtype"]
    frame = pd.DataFrame([
        {"device": key, "memory_bytes": sheet["memory_bytes"],
         "bandwidth_bytes_per_s": sheet["bandwidth_bytes_per_s"],
         "flop_per_s": sheet["flop_per_s"][dtype], "source": sheet["source"]}
        for key, sheet in meta["hardware"].items()
    ])  # fmt: skip
    columns = [
        name("Device", "device"),
        _number("memory_bytes", "Memory", "GB", 1e9, 0),
        _number("bandwidth_bytes_per_s", "Bandwidth", "TB/s", 1e12, 0),
        _number("flop_per_s", f"{dtype}, dense", "TFLOP/s", 1e12, 0),
        Column("Source", "source", rank=1, style="sentence"),
    ]
    return Table("devices", "Devices", frame, columns)
