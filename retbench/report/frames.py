"""Rows and columns of data frames as plain Python and numpy, with their types."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Row = dict[str, Any]


def records(table: pd.DataFrame) -> list[Row]:
    """The rows as dictionaries."""
    return cast(list[Row], table.to_dict("records"))


def groups(table: pd.DataFrame, keys: list[str]) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    """The rows with equal ``keys``, in the order of the keys."""
    for key, group in table.groupby(keys, sort=True, observed=True):
        yield cast(tuple[Any, ...], key), group


def column(table: pd.DataFrame, name: str) -> Floats:
    """A column of numbers, shape (rows,)."""
    return table[name].to_numpy(dtype=np.float64)
