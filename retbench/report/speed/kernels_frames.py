"""The kernels suite's samples as tidy frames: one row a cell, a ratio, a crossover.

A *setting* is all of a point but its context: direction, head dimension, type and batch size. What
is compared along the context is compared within one setting.
"""

from __future__ import annotations

import itertools
from functools import cached_property
from typing import Any

import pandas as pd

from retbench.report import crossovers, derive
from retbench.report.frames import Row, groups, ordered
from retbench.report.summary import Summary

SETTING = ["direction", "dtype", "head_dim", "batch_size"]
CROSSOVER_COLUMNS = [
    *SETTING, "baseline", "status", "value", "low", "high", "direction_beyond", "reason",
    "shortest", "longest", "n",
]  # fmt: skip


class Kernels(Summary):
    """All that the report says about one run, the operations of a point side by side.

    Cells, statuses, ratios and crossovers have the settings as columns; the models are the
    operations.
    """

    def planned(self, name: str) -> list[Any]:
        """The planned values of a column, ascending, or in the order of the plan for names."""
        configured = {"direction": "directions", "head_dim": "head_dims", "dtype": "dtypes",
                      "batch_size": "batch", "seq_len": "context"}  # fmt: skip
        return list(self.configuration[configured[name]])

    def settings(self) -> list[Row]:
        """Every setting that was planned."""
        values = itertools.product(*(self.planned(name) for name in SETTING))
        return [dict(zip(SETTING, chosen, strict=True)) for chosen in values]

    @cached_property
    def cells(self) -> pd.DataFrame:
        """As of any run, by setting and context."""
        return self._ordered(derive.with_derived(self))

    @cached_property
    def statuses(self) -> pd.DataFrame:
        """As of any run, by setting and context."""
        return self._ordered(super().statuses)

    @cached_property
    def ratios(self) -> pd.DataFrame:
        """As of any run."""
        return self.run.placed(super().ratios)

    @cached_property
    def crossovers(self) -> pd.DataFrame:
        """From which context on the subject wins or loses, per setting and other operation."""
        rows = []
        for setting, group in groups(self.run.placed(self.pairs), SETTING):
            for baseline in self.models[1:]:
                own = group[group["baseline"] == baseline]
                crossed = crossovers.crossing(own, self.ratios, self.meta)
                if crossed is not None:
                    rows.append((*setting, baseline, *crossed))
        return crossovers.table(rows, CROSSOVER_COLUMNS)

    def _ordered(self, table: pd.DataFrame) -> pd.DataFrame:
        orders = {"dtype": self.configuration["dtypes"], "model": self.models}
        return ordered(self.run.placed(table), [*SETTING, "seq_len", "model"], **orders)
