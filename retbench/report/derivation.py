"""How the bounds of a projection come about, at one cell: every factor of every figure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from retbench.config.run import DTYPE_BYTES
from retbench.report import units
from retbench.report.frames import Row, records
from retbench.report.tables import Column, Table, name
from retbench.suites.projection import USABLE

NAME = "derivation"


def table(cells: pd.DataFrame, meta: Mapping[str, Any], batch_size: int) -> Table:
    """The bounds of each model on the first device, at the context of the figures over the batch.

    Args:
        cells: one row per device, model, batch size and context, a column a metric.
        meta: ``run.json`` of the projection.
        batch_size: of the cell.
    """
    device, context = next(iter(meta["hardware"])), meta["configuration"]["batch_context"]
    at = (cells["hardware"] == device) & (cells["batch_size"] == batch_size)
    rows = [
        {"model": row["model"], "figure": figure, "how": how, "value": value}
        for row in records(cells[at & (cells["seq_len"] == context)])
        for figure, how, value in _derived(row, meta, meta["hardware"][device])
    ]
    columns = [
        name("Model", "model"),
        name("Figure", "figure"),
        Column("Derivation", "how", rank=0, style="sentence"),
        Column("Value", "value", rank=0),
    ]
    notes = (
        f"{device}, {units.tokens(context)} tokens, batch {batch_size}; GB are 10^9 bytes",
        "a step must read every matrix and the state once; of the embedding one row a sequence; "
        "what a cache gains by its new token is too little to count",
        "a training step has as many tokens as the prefill; AdamW reads weight, gradient and two "
        "moments in float32 and writes all but the gradient, 28 bytes a parameter",
    )
    frame = pd.DataFrame(rows, columns=["model", "figure", "how", "value"])
    return Table(NAME, "How the bounds come about", frame, columns, notes, grouped=True)


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


def times_s(row: Row, work: str, dtype: str, sheet: Mapping[str, Any]) -> tuple[float, float]:
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
    moving, computing = times_s(row, work, dtype, sheet)
    return (
        f"{_gb(row[f'{work}_bytes'])} / {units.scaled(bandwidth, 'bytes/s')} = {_ms(moving)}; "
        f"{units.scaled(row[f'{work}_flops'], 'flop')} / {units.scaled(rate, 'flop/s')} = "
        f"{_ms(computing)}: the {'bytes' if moving >= computing else 'FLOPs'} take longer"
    )


def _gb(count: float) -> str:
    return f"{units.significant(count / 1e9)} GB"


def _ms(seconds: float) -> str:
    return f"{units.significant(1e3 * seconds)} ms"
