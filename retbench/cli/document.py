"""The JSON document that ``--json`` prints of a run: the summary, numbers unrounded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from retbench.report.content import Content
    from retbench.report.summary import Summary


def of_summary(summary: Summary, files: Sequence[Path]) -> dict[str, Any]:
    """A run's summary: its tables as lists of records, in the units of the metrics."""
    return {
        "run": str(summary.path),
        "suite": summary.meta["suite"],
        "state": summary.meta["state"],
        "configuration": summary.configuration,
        "audit": summary.meta.get("audit"),
        "stopped": summary.meta.get("stopped"),
        "cells": _records(summary.cells),
        "statuses": _records(summary.statuses),
        "ratios": _records(summary.ratios),
        "crossovers": _records(summary.crossovers),
        "largest_batches": _records(summary.batches),
        "warnings": list(summary.warnings),
        "files": [str(file) for file in files],
    }


def of_content(content: Content, files: Sequence[Path]) -> dict[str, Any]:
    """What a run of any other suite says: its numbers, and its tables as lists of records."""
    return {
        "run": str(content.path),
        "suite": content.meta["suite"],
        "state": content.meta["state"],
        "configuration": content.meta["configuration"],
        "tables": {table.name: _records(table.frame) for table in content.tables},
        "numbers": content.numbers,
        "findings": list(content.findings),
        "warnings": list(content.warnings),
        "files": [str(file) for file in files],
    }


def plain(value: Any) -> Any:
    """A value that JSON can hold: numpy's numbers as Python's, no number as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    known = frame.astype(object).where(frame.notna(), None)
    return [{str(key): value for key, value in row.items()} for row in known.to_dict("records")]
