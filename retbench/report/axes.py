"""Which cells of a run lie on one of its two sweeps, over the context and over the batch size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from retbench.config.plan import Axis, Point
from retbench.report import units
from retbench.report.frames import Row

COLUMN: Mapping[Axis, str] = {"context": "seq_len", "batch": "batch_size"}
"""The column that varies along an axis."""


def on_sweep(points: Mapping[str, Point], table: pd.DataFrame, axis: Axis) -> pd.Series[bool]:
    """Which rows of a table that has a column ``point`` lie on the sweep along an axis.

    Args:
        points: of the plan, by id.
        table: any rows that name their point.
        axis: what the sweep varies.
    """
    return table["point"].isin([key for key, point in points.items() if axis in point.sweeps])


def is_plain(points: Mapping[str, Point], table: pd.DataFrame) -> pd.Series[bool]:
    """Which rows of a table are at a point that is a context and a batch size and nothing else."""
    return table["point"].isin([key for key, point in points.items() if not point.settings])


def held_at(table: pd.DataFrame, axis: Axis, configuration: Mapping[str, Any]) -> pd.Series[int]:
    """What a sweep along an axis does not vary, of each row: context, batch size, or tokens.

    Args:
        table: rows at plain points, with their context and batch size.
        axis: what the sweep varies.
        configuration: of the run; with tokens a step it is these that a sweep of contexts keeps.
    """
    if axis == "batch":
        return table["seq_len"]
    if "tokens_per_step" in configuration:
        return table["seq_len"] * table["batch_size"]
    return table["batch_size"]


def held(meta: Mapping[str, Any], axis: Axis) -> str:
    """What an axis does not vary."""
    configuration = meta["configuration"]
    if axis == "batch":
        return f"context {units.tokens(configuration['batch_context'])} tokens"
    if tokens := configuration.get("tokens_per_step"):
        return f"{tokens:,} tokens a step"
    return f"batch size {configuration['batch'][0]}"


def settings(points: Mapping[str, Point], row: Row) -> str:
    """What a row's point has besides a context and a batch size; a dash where that is nothing."""
    return ", ".join(points[row["point"]].texts.values()) or units.DASH
