"""Rows and columns of data frames as plain Python and numpy, with their types."""

from __future__ import annotations

import math
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


def plain(row: Row, *names: str) -> Row:
    """Named values of a row as JSON has them: None where there is no number."""
    values = {name: row[name] for name in names}
    nothing = (None, math.inf, -math.inf)
    return {name: None if v in nothing or pd.isna(v) else v for name, v in values.items()}


def groups(table: pd.DataFrame, keys: list[str]) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    """The rows with equal ``keys``, in the order of the keys."""
    for key, group in table.groupby(keys, sort=True, observed=True):
        yield cast(tuple[Any, ...], key), group


def positions(table: pd.DataFrame, keys: list[str]) -> dict[tuple[Any, ...], NDArray[np.intp]]:
    """Where the rows with equal ``keys`` stand, in the order of the keys; for many small groups.

    Args:
        table: with any index, which is not looked at.
        keys: two columns or more.
    """
    found: Any = table.groupby(keys, sort=True, observed=True).indices
    return cast(dict[tuple[Any, ...], NDArray[np.intp]], found)


def arrays(table: pd.DataFrame, keys: list[str], name: str) -> dict[tuple[Any, ...], Floats]:
    """The numbers of a column, each of shape (rows,), by ``keys`` as :func:`positions` has them."""
    values = column(table, name)
    return {key: values[rows] for key, rows in positions(table, keys).items()}


def by_block(table: pd.DataFrame, columns: str, values: str = "value") -> pd.DataFrame:
    """A row a block and a column for each of what stands in ``columns``; NaN where there is none.

    A block has one row of each.
    """
    return table.set_index(["block", columns])[values].unstack(columns)


def column(table: pd.DataFrame, name: str) -> Floats:
    """A column of numbers, shape (rows,)."""
    return table[name].to_numpy(dtype=np.float64)
