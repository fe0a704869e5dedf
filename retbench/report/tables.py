"""What a table is: columns declared over the rows of a data frame.

A table is declared once, by its suite. From the declaration come its CSV (every digit of the
frame), its Markdown, LaTeX and HTML, what the console prints, and the numbers that can be cited.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from typing import Any, ClassVar, Literal

import pandas as pd

from retbench.report import units
from retbench.report.frames import Row, records

_SENTENCE = 28  # characters from which sentences, and why there is no verdict, are broken


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: its heading.
        text: the key of a row's value, or what makes a cell's text from a row.
        unit: of its numbers; stands under the heading.
        rank: in which order columns are left out where there is no room: the highest first, of
            equal ones the last; those of rank 0 only where nothing else is left.
        style: a number is set flush right; a sentence may be broken into lines; so may a
            verdict, which has a colour.
        metric: the tag of the metric that it shows, for its definition.
        note: how to read it; stands under the table where the column does.
    """

    title: str
    text: str | Callable[[Row], str]
    unit: str = ""
    rank: int = 1
    style: Literal["number", "name", "sentence", "verdict"] = "number"
    metric: str = ""
    note: str = ""

    @property
    def numeric(self) -> bool:
        """Whether it holds numbers."""
        return self.style == "number"

    @property
    def breakable(self) -> bool:
        """Whether a cell may be broken into lines: a sentence, or why there is no verdict."""
        return self.style in ("sentence", "verdict")

    @property
    def heading(self) -> str:
        """The title with its unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    def cell(self, row: Row) -> str:
        """The text of a row's cell; a dash where there is nothing."""
        if callable(self.text):
            return self.text(row)
        value = row.get(self.text)
        return units.DASH if value == "" or pd.isna(value) else str(value)


@dataclass(frozen=True, eq=False)
class Table:
    """A table, and all that is made from it.

    Attributes:
        name: of its files.
        title: what it shows.
        frame: what its CSV file and ``numbers.json`` hold, every digit.
        columns: what readers see.
        notes: how to read it, a line each; those of its columns follow.
        rows: what the columns make their cells from; by default the rows of ``frame``.
        grouped: whether the first column is a heading over the rows that share it, where a page or
            a terminal has no room for it.
        above: whether it stands before the figures, as a comparison does.
        cited: which columns of ``frame`` can be cited, each with the name that it has in LaTeX;
            an empty name stands for the metric of the row.
        noted: the metrics that its notes have in place of a column.
        ids: the columns of ``frame`` that tell its rows apart; in LaTeX their values name a number.
    """

    GAP: ClassVar[int] = 2  # characters between two columns

    name: str
    title: str
    frame: pd.DataFrame
    columns: Sequence[Column]
    notes: Sequence[str] = ()
    rows: Sequence[Row] | None = None
    grouped: bool = False
    above: bool = False
    noted: Sequence[str] = ()
    cited: Mapping[str, str] = field(default_factory=dict)
    ids: Sequence[str] = ()

    @property
    def reading(self) -> list[str]:
        """How to read the table and the columns that it has, a line each."""
        notes = (*self.notes, *(column.note for column in self.columns))
        return list(dict.fromkeys(filter(None, notes)))

    @property
    def header(self) -> tuple[str, ...]:
        """The headings of the columns."""
        return tuple(column.heading for column in self.columns)

    @cached_property
    def cells(self) -> list[tuple[str, ...]]:
        """The texts, a tuple a row."""
        rows = records(self.frame) if self.rows is None else self.rows
        return [tuple(column.cell(row) for column in self.columns) for row in rows]

    def fitted(self, width: int) -> Table:
        """The table without the columns that ``width`` characters have no room for.

        Where that is any, verdicts are their first word, since a note or the CSV has the rest.
        The heading of a group has a line of its own.
        """
        if self.total() <= width:
            return self
        kept = [_short(column) if column.style == "verdict" else column for column in self.columns]
        table = replace(self, columns=kept)
        while table.total() > width and (count := len(table.columns)) > self.grouped + 1:
            ranks = [column.rank for column in table.columns]
            dropped = count - 1 - ranks[::-1].index(max(ranks))
            table = table.only([i for i in range(count) if i != dropped])
        return table

    def only(self, kept: Sequence[int], **changes: Any) -> Table:
        """The table with the columns at these places, whose texts are not made again.

        Args:
            kept: the places, in their order.
            changes: other attributes to replace.
        """
        table = replace(self, columns=[self.columns[i] for i in kept], **changes)
        vars(table)["cells"] = [tuple(cells[i] for i in kept) for cells in self.cells]
        return table

    def total(self) -> int:
        """The characters of a line of the console."""
        widths = map(self.width, range(self.grouped, len(self.columns)))
        return sum(width + self.GAP for width in widths) - self.GAP

    def missing(self, shown: Table) -> list[str]:
        """The titles of the columns that a fitted table has left out; a verdict says of what."""
        kept = {(column.title, column.metric) for column in shown.columns}
        titles, before = [], ""
        for column in self.columns:
            if (column.title, column.metric) not in kept:
                of = f" of {before}" if column.style == "verdict" else ""
                titles.append(column.title + of)
            before = column.title
        return titles

    def condensed(self) -> Table:
        """The table without the columns that say the same in every row: a note says it once.

        Where that is nothing, neither does the note.
        """
        if len(self.cells) < 2:
            return self
        same = [
            i
            for i, column in enumerate(self.columns)
            if i and len({cells[i] for cells in self.cells}) == 1
            if column.style != "verdict" and (column.rank or column.style != "sentence")
        ]
        if not same:
            return self
        said = [i for i in same if self.cells[0][i] != units.DASH]
        note = "; ".join(f"{self.columns[i].heading} {self.cells[0][i]}" for i in said)
        return self.only(
            [i for i in range(len(self.columns)) if i not in same],
            notes=(*self.notes, f"in every row: {note}") if said else self.notes,
            noted=[self.columns[i].metric for i in said],
        )

    def groups(self) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
        """The heading of each group of rows and its rows' other cells; one of all where none is."""
        if not self.grouped:
            yield "", self.cells
            return
        for heading, rows in groupby(self.cells, key=lambda cells: cells[0]):
            yield heading, [cells[1:] for cells in rows]

    def width(self, index: int) -> int:
        """The characters that a column needs, its heading broken at spaces."""
        column = self.columns[index]
        longest = max((len(cells[index]) for cells in self.cells), default=0)
        if column.breakable:
            longest = min(longest, _SENTENCE)
        return max(longest, *map(len, column.heading.split()))

    def heading(self, index: int) -> list[str]:
        """The lines of a column's heading, its unit on the last."""
        column = self.columns[index]
        lines = textwrap.wrap(column.title, self.width(index), break_on_hyphens=False)
        return [*lines, f"({column.unit})"] if column.unit else lines


def _short(column: Column) -> Column:
    return replace(column, text=lambda row: column.cell(row).partition(" (")[0], note="")


def name(title: str, text: str | Callable[[Row], str]) -> Column:
    """A column of names, which always stays."""
    return Column(title, text, rank=0, style="name")


CONTEXT = Column("Context", lambda row: units.tokens(row["seq_len"]), rank=0)
BATCH = Column("Batch", "batch_size", rank=0)


def within(key: Any, text: Callable[[Row], str]) -> Callable[[Row], str]:
    """The text of a row that stands in a row of :func:`wide` under ``key``; a dash for none."""
    return lambda row: text(row[key]) if key in row else units.DASH


def wide(frame: pd.DataFrame, keys: Sequence[str], columns: str = "metric") -> list[Row]:
    """One row for all rows of a frame with equal ``keys``, each under its value in ``columns``.

    The first gives the other columns; the order is that of the first ones.
    """
    found: dict[tuple[Any, ...], Row] = {}
    for row in records(frame):
        place = tuple(row[key] for key in keys)
        found.setdefault(place, dict(row))[row[columns]] = row
    return list(found.values())
