"""Which cells of a run lie on one of its two sweeps, over the context and over the batch size.

Points with further settings (a mode, a treatment of activations) lie on neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import pandas as pd

from retbench.report import units

Axis = Literal["context", "batch"]

COLUMN: Mapping[Axis, str] = {"context": "seq_len", "batch": "batch_size"}
"""The column that varies along an axis."""


def on_axis(meta: Mapping[str, Any], table: pd.DataFrame, axis: Axis) -> pd.Series[bool]:
    """Which rows of a table with ``point``, ``seq_len`` and ``batch_size`` lie on an axis.

    The contexts are swept at the first batch size or, where a step holds the same number of tokens
    at any context, at that number.
    """
    configuration = meta["configuration"]
    found: pd.Series[bool] = table["point"].astype(str).str.startswith("context=")
    if axis == "batch":
        found &= table["seq_len"] == configuration["batch_context"]
    elif "tokens_per_step" in configuration:
        tokens = table["seq_len"].astype("int64") * table["batch_size"].astype("int64")
        found &= tokens == configuration["tokens_per_step"]
    else:
        found &= table["batch_size"] == configuration["batch"][0]
    return found


def held(meta: Mapping[str, Any], axis: Axis) -> str:
    """What an axis does not vary."""
    configuration = meta["configuration"]
    if axis == "batch":
        return f"context {units.tokens(configuration['batch_context'])} tokens"
    if "tokens_per_step" in configuration:
        return f"{configuration['tokens_per_step']:,} tokens a step"
    return f"batch size {configuration['batch'][0]}"


def settings_of(point: str) -> dict[str, str]:
    """The settings in a point's id, all but context and batch size."""
    named = dict(part.split("=", 1) for part in point.split(","))
    return {name: value for name, value in named.items() if name not in ("context", "batch")}
