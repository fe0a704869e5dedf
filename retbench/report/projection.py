"""The report of a projection: bounds, and nothing that was measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from retbench.config.run import DTYPE_BYTES
from retbench.report import units
from retbench.report.content import Content, made
from retbench.report.frames import Floats, Row, column, groups, ordered, records, where
from retbench.report.projection_figures import IS, conditions, figures, usual_batch
from retbench.report.tables import BATCH, CONTEXT, Column, Table, name
from retbench.store import Run
from retbench.suites.projection import USABLE

DERIVATION = "derivation"
"""The name of the table that explains the bounds."""

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
        _derivation(wide, run.meta), _devices(run.meta),
    )  # fmt: skip
    return made(
        run, labels, tables, partial(figures, wide, run.meta), stamp=(IS, conditions(run.meta)),
        findings=_findings(compared, run.meta),
    )  # fmt: skip


def _one_cell(meta: Mapping[str, Any]) -> Row:
    """The first device, the context of the figures over the batch, and the batch of the others."""
    return {
        "hardware": next(iter(meta["hardware"])), "batch_size": usual_batch(meta),
        "seq_len": meta["configuration"]["batch_context"],
    }  # fmt: skip


def _ratios(wide: pd.DataFrame, labels: list[str]) -> pd.DataFrame:
    """The first model over each other one, by device, batch size, context and metric."""
    at = ["hardware", "batch_size", "seq_len", "point"]
    own = {model: wide[wide["model"] == model].set_index(at)[list(_COMPARED)] for model in labels}
    subject, *baselines = labels
    rows = [
        (own[subject] / own[baseline]).reset_index().assign(subject=subject, baseline=baseline)
        for baseline in baselines
    ]
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()


def _findings(compared: pd.DataFrame, meta: Mapping[str, Any]) -> Iterator[str]:
    """Against each baseline a step, memory and throughput on the first device, at one cell."""
    at = _one_cell(meta)
    for row in records(where(compared, at)):
        step, held = (units.significant(row[name]) for name in ("tpot_bound_s", "held_bytes"))
        most = row["largest_batch_tokens_per_s"]
        there = "at that context not one sequence of both fits"
        if math.isfinite(most) and most > 0:
            there = f"at the largest batches that fit {units.significant(most)} times the tokens/s"
        yield (
            f"{row['subject']} / {row['baseline']} at the bound of {at['hardware']}, "
            f"{units.tokens(at['seq_len'])} tokens, batch {at['batch_size']}: step {step}, "
            f"memory {held}; {there}"
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
        Column("Tokens/s", lambda row: units.significant(
            row["batch_size"] * row["seq_len"] / row["step_bound_s"])),
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
        moving, computing = _times_s(row, work, dtype, sheet)
        return "bytes" if moving >= computing else "FLOPs"

    return Column("Bound by", text, rank=4, style="name")


def _tokens_per_s_a_gb(row: Row) -> str:
    return units.significant(row["batch_size"] / row["tpot_bound_s"] / (row["held_bytes"] / 1e9))


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


def _derivation(wide: pd.DataFrame, meta: Mapping[str, Any]) -> Table:
    """How the bounds of each model come about at one cell: every factor of every figure."""
    at = _one_cell(meta)
    rows = [
        {"model": row["model"], "figure": figure, "how": how, "value": value}
        for row in records(where(wide, at))
        for figure, how, value in _derived(row, meta, meta["hardware"][at["hardware"]])
    ]
    columns = [
        name("Model", "model"),
        name("Figure", "figure"),
        Column("Derivation", "how", rank=0, style="sentence"),
        Column("Value", "value", rank=0),
    ]
    notes = (
        f"{at['hardware']}, {units.tokens(at['seq_len'])} tokens, batch {at['batch_size']}; "
        "GB are 10^9 bytes",
        "a step must read every matrix and the state once; of the embedding one row a sequence; "
        "what a cache gains by its new token is too little to count",
        "a training step has as many tokens as the prefill; AdamW reads weight, gradient and two "
        "moments in float32 and writes all but the gradient, 28 bytes a parameter",
    )
    frame = pd.DataFrame(rows, columns=["model", "figure", "how", "value"])
    return Table(DERIVATION, "How the bounds come about", frame, columns, notes, grouped=True)


def _derived(
    row: Row, meta: Mapping[str, Any], sheet: Mapping[str, Any]
) -> Iterator[tuple[str, str, str]]:
    """Each figure of one model: its name, its factors, and what they come to."""
    model, dtype = meta["models"][row["model"]], meta["configuration"]["dtype"]
    size, batch = DTYPE_BYTES[dtype], row["batch_size"]
    body, embedding = model["parameters"], model["parameters_embedding"]
    yield (
        "weights", f"({body:,} + {embedding:,} of embedding) parameters x {size} bytes",
        _gb(row["weights_bytes"]),
    )  # fmt: skip
    sequence = row["state_bytes"] / batch
    yield "state", f"{_gb(sequence)} a sequence x {batch}", _gb(row["state_bytes"])
    d_model, vocabulary = (model["config"][name] for name in ("d_model", "vocab_size"))
    matrices = (body + vocabulary * d_model + batch * d_model) * size
    written = row["decode_bytes"] - matrices - row["state_bytes"]
    yield (
        "bytes of a step",
        f"{_gb(matrices)} of matrices + {_gb(row['state_bytes'])} of state read + {_gb(written)} "
        "of it written",
        _gb(row["decode_bytes"]),
    )
    yield "step at least", _longer(row, "decode", dtype, sheet), _ms(row["tpot_bound_s"])
    yield (
        "largest batch",
        f"({USABLE:g} x {_gb(sheet['memory_bytes'])} - {_gb(row['weights_bytes'])}) / "
        f"{_gb(sequence)} a sequence",
        f"{row['largest_batch']:.0f}",
    )
    yield (
        "prefill at least", _longer(row, "prefill", dtype, sheet), _ms(row["ttft_bound_s"]),
    )  # fmt: skip
    tokens = batch * row["seq_len"]
    width = row["prefill_working_bytes"] / tokens / size
    yield (
        "prefill in passing",
        f"{tokens:,.0f} tokens x ({d_model:,} of residual + {width - d_model:,.0f} of the widest "
        f"operation) x {size} bytes",
        _gb(row["prefill_working_bytes"]),
    )
    layers = model["config"]["n_layers"]
    yield (
        "training memory",
        f"{body + embedding:,} parameters x 16 bytes + {tokens:,.0f} tokens x {layers} layers x "
        f"{d_model:,} x {size} bytes",
        _gb(row["training_bytes"]),
    )
    yield (
        "training step at least", _longer(row, "step", dtype, sheet), _ms(row["step_bound_s"]),
    )  # fmt: skip


def _times_s(row: Row, work: str, dtype: str, sheet: Mapping[str, Any]) -> tuple[float, float]:
    """Seconds in which a device moves the bytes of a piece of work, and computes its FLOPs.

    Args:
        row: of a cell, with ``{work}_bytes`` and ``{work}_flops``.
        work: ``decode``, ``prefill`` or ``step``.
        dtype: whose rate counts.
        sheet: the device's data sheet, as ``run.json`` has it.
    """
    moving = row[f"{work}_bytes"] / sheet["bandwidth_bytes_per_s"]
    return moving, row[f"{work}_flops"] / sheet["flop_per_s"][dtype]


def _longer(row: Row, work: str, dtype: str, sheet: Mapping[str, Any]) -> str:
    """The times of a piece of work's bytes and FLOPs, and which of them is the bound."""
    bandwidth, rate = sheet["bandwidth_bytes_per_s"], sheet["flop_per_s"][dtype]
    moving, computing = _times_s(row, work, dtype, sheet)
    return (
        f"{_gb(row[f'{work}_bytes'])} / {units.scaled(bandwidth, 'bytes/s')} = {_ms(moving)}; "
        f"{units.scaled(row[f'{work}_flops'], 'flop')} / {units.scaled(rate, 'flop/s')} = "
        f"{_ms(computing)}: the {'bytes' if moving >= computing else 'FLOPs'} take longer"
    )


def _gb(count: float) -> str:
    return f"{units.significant(count / 1e9)} GB"


def _ms(seconds: float) -> str:
    return f"{units.significant(1e3 * seconds)} ms"
