"""Columns and notes that the reports on trained models share."""

from __future__ import annotations

from retbench.report import units
from retbench.report.frames import Row
from retbench.report.tables import Column

INTERVAL = "value [low, high]: 95% interval that takes seeds and test documents as random"
SETTLED = "inconclusive (+2 seeds): two seeds more would settle it"
VERDICTS = (
    "paired by seed and document; margin of verdicts 1%, corrected over the table (Holm); better "
    f"or worse takes 5 seeds; {SETTLED}"
)


def quantity(title: str, key: str, unit: str = "", *, rank: int = 1, metric: str = "") -> Column:
    """A column of a quantity with its interval: ``key``, ``key_low`` and ``key_high`` of a row."""

    def text(row: Row) -> str:
        return units.with_interval(row[key], row[f"{key}_low"], row[f"{key}_high"])

    return Column(title, text, unit, rank, metric=metric)


def learning_rate(rank: int) -> Column:
    """A column of the rate that was chosen."""

    def text(row: Row) -> str:
        rate = row.get("learning_rate")
        return units.DASH if units.is_missing(rate) else f"{rate:g}"

    return Column("Learning rate", text, rank=rank, metric="learning_rate")


def seeds(row: Row) -> str:
    """How many trainings a row rests on."""
    return units.DASH if units.is_missing(row["n"]) else f"{row['n']:.0f}"


def protocol(named: str) -> str:
    """How documents are tested, as a note."""
    return f"test protocol: {named}, in tokens; every token but a document's first scored once"
