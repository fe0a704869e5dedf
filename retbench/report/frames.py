"""Rows and columns of data frames as plain Python and numpy, with their types."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from retbench.stats.estimate import Estimate

Floats = NDArray[np.float64]
Row = dict[str, Any]

EDGES = ("value", "low", "high")
"""The columns of a number and its interval."""


def edges_of(name: str) -> tuple[str, str]:
    """The columns of the interval of a column: ``low`` and ``high`` where it is ``value``."""
    prefix = "" if name == "value" else f"{name}_"
    return f"{prefix}low", f"{prefix}high"


def edges(found: Estimate) -> tuple[float, float, float]:
    """Value, low and high; NaN where there is none."""
    low, high = (math.nan if edge is None else edge for edge in (found.low, found.high))
    return found.value, low, high


def records(table: pd.DataFrame) -> list[Row]:
    """The rows as dictionaries: those of ``table.to_dict("records")``, which takes far longer."""
    columns = {str(name): _plain(table[name]) for name in table}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _plain(values: pd.Series[Any]) -> list[Any]:
    """The values of a column as plain Python, those of numpy among any objects too; NA is None."""
    found: list[Any] = values.tolist()
    if isinstance(values.dtype, np.dtype) and values.dtype != object:
        return found
    return [
        None if each is pd.NA else each.item() if isinstance(each, np.generic) else each
        for each in found
    ]


def lookup(table: pd.DataFrame, keys: Sequence[str], name: str) -> dict[Any, Any]:
    """The values of a column by those of two or more others, the last of equal ones."""
    places = zip(*(table[key] for key in keys), strict=True)
    return dict(zip(places, table[name], strict=True))


def where(table: pd.DataFrame, wanted: Mapping[str, Any]) -> pd.DataFrame:
    """The rows whose columns hold what is wanted; none where a column is missing."""
    for name, value in wanted.items():
        if name not in table:
            return table.iloc[:0]
        table = table[table[name] == value]
    return table


def ordered(table: pd.DataFrame, keys: Sequence[str], **orders: Sequence[Any]) -> pd.DataFrame:
    """The rows sorted by some columns, and numbered anew; equal ones stay as they are.

    Args:
        table: the rows.
        keys: the columns, the first of which decides first.
        orders: of the values of columns that are not sorted by size.
    """
    places = {name: {each: n for n, each in enumerate(order)} for name, order in orders.items()}

    def key(values: pd.Series[Any]) -> pd.Series[Any]:
        order = places.get(str(values.name))
        return values if order is None else values.astype(object).map(order)

    return table.sort_values(list(keys), kind="stable", key=key, ignore_index=True)


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


def by_block(
    table: pd.DataFrame, name: str, values: str = "value"
) -> tuple[Floats, Floats, Floats]:
    """The blocks, what stands in a column of numbers, and in a row a block the value of each.

    A block has one row of each number at most; NaN where it has none. The shapes are (blocks,),
    (numbers,) and (blocks, numbers), the first two ascending.
    """
    blocks, row = np.unique(column(table, "block"), return_inverse=True)
    numbers, place = np.unique(column(table, name), return_inverse=True)
    found = np.full((len(blocks), len(numbers)), np.nan)
    found[row, place] = column(table, values)
    return blocks, numbers, found


def in_blocks(processes: pd.DataFrame) -> dict[tuple[str, str, str], Floats]:
    """The value in each block, NaN where there is none, by metric, model and point."""
    found = processes.pivot_table(
        index=["metric", "model", "point"], columns="block", values="value", observed=True
    )
    return dict(zip(found.index.to_list(), found.to_numpy(dtype=np.float64), strict=True))


def column(table: pd.DataFrame, name: str) -> Floats:
    """A column of numbers, shape (rows,)."""
    return table[name].to_numpy(dtype=np.float64)
