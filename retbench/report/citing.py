"""A run's numbers as sentences that stand for themselves: interval, n, hardware, mode and version.

What weakens a number stands in its own sentence, so that it cannot be left out by mistake.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from retbench.errors import UserError
from retbench.metrics import METRICS
from retbench.report import compare, export, stamp, terms, units
from retbench.report.content import Content
from retbench.report.flags import MEANING, spoken
from retbench.report.frames import Row, edges_of, records

FORMATS: dict[str, Callable[[str], str]] = {
    "text": str, "markdown": lambda said: f"- {said}", "latex": export.escape,
}  # fmt: skip
_NAMED = ("metric", "quantity", "subject", "baseline", "model", "point", "seq_len", "batch_size")
_PAPER = """@misc{sun2023retentive,
  author = {Sun, Yutao and Dong, Li and Huang, Shaohan and Ma, Shuming and Xia, Yuqing and
            Xue, Jilong and Wang, Jianyong and Wei, Furu},
  title = {Retentive Network: A Successor to {Transformer} for Large Language Models},
  year = {2023},
  eprint = {2307.08621},
  archivePrefix = {arXiv}
}"""

_CELL = ("model", "point", "preset", "task")
_Cells = Mapping[tuple[Any, ...], Row]
"""How each cell or training ended, and its flags, by what it has of :data:`_CELL`."""


@dataclass(frozen=True)
class Wanted:
    """Which numbers are asked for; None for any.

    Attributes:
        metric: a tag or title, or another name that ``numbers.tex`` has.
        context: tokens.
        batch: sequences.
        model: that a number is of, or that it is compared with.
    """

    metric: str | None = None
    context: int | None = None
    batch: int | None = None
    model: str | None = None

    def has(self, number: _Number) -> bool:
        """Whether a number is one of them."""
        names = (number.quantity.lower(), number.title.lower())
        return (
            (self.metric is None or self.metric.lower() in names)
            and (self.context is None or number.given("seq_len") == self.context)
            and (self.batch is None or number.given("batch_size") == self.batch)
            and (self.model is None or self.model in number.sides)
        )


@dataclass(frozen=True)
class _Number:
    """A number of a table that can be cited, or a comparison that has none.

    It is its quantity, and the row that it is of.
    """

    quantity: str
    name: str
    row: Row
    ids: tuple[str, ...]

    def given(self, key: str) -> Any:
        """A value of the row, None where there is none."""
        value = self.row.get(key)
        return None if value is None or pd.isna(value) else value

    @property
    def edges(self) -> tuple[float | None, float | None, float | None]:
        """The number and the ends of its interval."""
        low, high = edges_of(self.name)
        return self.given(self.name), self.given(low), self.given(high)

    @property
    def is_ratio(self) -> bool:
        """Whether it compares two models."""
        is_judged = self.name == "value" and "verdict" in self.row
        return is_judged and any(map(self.given, ("subject", "baseline")))

    @property
    def lost(self) -> str:
        """Why a comparison has no number or no verdict; empty where it has both."""
        if not self.is_ratio or (self.given("verdict") and not units.is_missing(self.row["value"])):
            return ""
        return str(self.given("note") or "not measured")

    @property
    def sides(self) -> tuple[str, ...]:
        """The model that it is of; of a comparison the subject and the baseline."""
        model = str(self.given("model"))
        if not self.is_ratio:
            return (model,)
        return tuple(str(self.given(side) or model) for side in ("subject", "baseline"))

    @property
    def title(self) -> str:
        """The quantity in the words of the tables."""
        metric = METRICS.get(self.quantity)
        if metric is None:
            return self.quantity.removesuffix("_ratio").replace("_", " ")
        first, rest = metric.title[0], metric.title[1:]
        return (first.lower() if rest[:1].islower() else first) + rest


def sentences(content: Content, wanted: Wanted, form: str = "text") -> list[str]:
    """The numbers that are wanted, a sentence each and one on how it was measured.

    A comparison that has none is a sentence too, which says why.

    Args:
        content: of a run's report.
        wanted: where it asks for nothing, the comparisons that were named before the run, or all
            where none were.
        form: one of :data:`FORMATS`.

    Raises:
        UserError: the run has no such number.
    """
    numbers = list(_numbers(content))
    found = [number for number in numbers if wanted.has(number)]
    if wanted == Wanted():
        is_named = bool(content.meta.get("primary"))
        compared = [number for number in numbers if number.is_ratio]
        found = [number for number in compared if number.row.get("primary") or not is_named]
    cells = _cells(content)
    if not found:
        raise _refusal(content, wanted, numbers, cells)
    said = (
        f"{_sentence(number, content.meta, cells)} {_made(number, content.meta)}"
        for number in found
    )
    return [FORMATS[form](sentence) for sentence in dict.fromkeys(said)]


def bibtex(meta: Mapping[str, Any]) -> str:
    """Entries of the tool, in the version that measured the run, and of RetNet's paper."""
    return f"""@software{{retbench,
  author = {{{{Retbench developers}}}},
  title = {{Retbench: a benchmark of {{RetNet}} against the {{Transformer}}}},
  year = {{{str(meta["started"])[:4]}}},
  version = {{{export.escape(_version(meta))}}}
}}

{_PAPER}"""


def _refusal(content: Content, wanted: Wanted, numbers: list[_Number], cells: _Cells) -> UserError:
    """That there is no such number, and what of the cells that would have it failed."""
    at = replace(wanted, metric=None)
    failed: list[str] = []
    if not numbers or any(map(Wanted(wanted.metric).has, numbers)):
        ends = [row for row in cells.values() if at.has(_Number("", "", row, ()))]
        failed = [f"{row['model']} {units.ending(row)}" for row in ends if row["status"] != "ok"]
    is_named = wanted == Wanted() and content.meta.get("primary")
    what = "no comparison that was named before it" if is_named else "no such number"
    because = f" ({', '.join(dict.fromkeys(failed))})" if failed else ""
    known = ", ".join(dict.fromkeys(number.quantity for number in numbers))
    return UserError(f"{content.path} has {what}{because}", f"its metrics are {known or 'none'}")


def _cells(content: Content) -> _Cells:
    frames = [table.frame for table in content.tables if "ok_blocks" in table.frame]
    rows = (row for frame in frames for row in records(frame))
    return {tuple(map(row.get, _CELL)): row for row in rows}


def _numbers(content: Content) -> Iterator[_Number]:
    """Every number of a model or of two; a crossover, a law or a count is none."""
    for table in content.tables:
        for row in records(table.frame):
            for name, quantity in table.cited.items():
                named = quantity or row.get("metric", row.get("quantity"))
                number = _Number(str(named), name, row, tuple(table.ids))
                has_interval = edges_of(name)[0] in row
                is_known = not units.is_missing(row[name]) or number.lost
                is_of_models = number.is_ratio or number.given("model")
                if named and is_known and has_interval and is_of_models:
                    yield number


def _sentence(number: _Number, meta: Mapping[str, Any], cells: _Cells) -> str:
    place, value = _place(number), "" if number.lost else _value(number)
    if number.lost:
        what = "accuracy" if number.quantity == "difference" else number.title
        said = "the {} of {} is not compared with that of {}".format(what, *number.sides)
    elif number.is_ratio and number.quantity == "difference":
        said = f"the accuracy of {number.sides[0]} less that of {number.sides[1]} is {value}"
    elif number.is_ratio:
        said = f"the {number.title} of {number.sides[0]} is {value} times that of {number.sides[1]}"
    else:
        said = f"the {number.title} of {number.sides[0]} is {value}"
    said = ", ".join([*place, said])
    why = number.lost or _basis(number)
    parts = [f"{said[0].upper()}{said[1:]} ({why})", _verdict(number)]
    parts += _weaknesses(number, meta, cells)
    return "; ".join(filter(None, parts)) + "."


def _place(number: _Number) -> list[str]:
    """Where in the sweep the number stands."""
    said = []
    if context := number.given("seq_len"):
        said.append(f"a context of {int(context):,} tokens")
    if batch := number.given("batch_size"):
        said.append(f"a batch of {int(batch)}")
    settings = str(number.given("point") or "").split(",")
    said += [part for part in settings if part and not part.startswith(("context=", "batch="))]
    said += [
        f"{key} {number.given(key)}"
        for key in number.ids
        if key not in _NAMED and number.given(key) is not None
    ]
    return [f"at {' and '.join(filter(None, (', '.join(said[:-1]), said[-1])))}"] if said else []


def _value(number: _Number) -> str:
    """The number with its unit and its interval."""
    value, low, high = number.edges
    assert value is not None
    if number.quantity == "difference" and low is not None and high is not None:
        return f"{units.points(value, low, high)} percentage points"
    if number.is_ratio:
        return units.ratio(value, low, high)
    scale = units.scale_for(str(number.given("unit") or ""), [value])
    text, bracket, interval = units.with_interval(value, low, high, scale.divisor).partition(" [")
    return f"{text} {scale.symbol}".rstrip() + bracket + interval


def _basis(number: _Number) -> str:
    """What the interval is, and over how many replicates."""
    metric = METRICS.get(number.quantity)
    one = "seed" if metric is None or metric.kind == "quality" else "process"
    if metric and number.is_ratio:
        one = "block"
    n = int(number.given("pairs" if number.is_ratio and "pairs" in number.row else "n") or 0)
    over = f"{n} processes" if one == "process" and n != 1 else units.counted(n, one)
    if metric and metric.kind == "analytic":
        return "computed, exact"
    if number.edges[1] is None:
        return f"{over}, no interval"
    if number.quantity in compare.MEMORY or (metric and metric.centre == "max"):
        return f"range over {over}"
    confidence = number.given("confidence") or 0.95
    return f"{100 * confidence:.4g}% interval over {over}"


def _verdict(number: _Number) -> str:
    said = number.given("verdict") if number.is_ratio and not number.lost else None
    if not said or said == compare.NO_CLAIM:
        return ""
    if said == "inconclusive":
        return "the comparison is inconclusive"
    return "the two are equivalent" if said == "equivalent" else f"{number.sides[0]} is {said}"


def _weaknesses(number: _Number, meta: Mapping[str, Any], cells: _Cells) -> Iterator[str]:
    """What forbids or weakens a claim from this number."""
    if terms.is_smoke(meta):
        yield "a SMOKE run: no claim can be made from it"
    if number.given("alone"):
        yield f"measured {compare.ALONE}, not in turns"
    for side in number.sides:
        cell = cells.get((side, *map(number.row.get, _CELL[1:])), {"status": "ok"})
        is_said = f"{side}: " in number.lost or number.lost.startswith("both: ")
        if cell["status"] != "ok" and not is_said:
            yield f"{side}: {units.ending(cell, 'blocks' if 'flags' in cell else 'seeds')}"
        for flag in "" if number.lost else cell.get("flags", "").split(", "):
            if meaning := MEANING.get(flag.partition(" ")[0]):
                yield f"cells of {side} are flagged {spoken(flag)}: {meaning}"


def _made(number: _Number, meta: Mapping[str, Any]) -> str:
    """On what it was measured, how and with what."""
    commit = meta["provenance"].get("commit") or {}
    source = [f"Retbench, version {_version(meta)}"]
    if commit.get("hash"):
        changed = " with changes" if commit.get("dirty") else ""
        source.append(f"commit {commit['hash'][:7]}{changed}")
    state = "" if meta["state"] == "finished" else ", in a run that is not finished"
    preset = meta["configuration"].get("preset") if number.given("preset") else None
    how = ", ".join(part for part in stamp.conditions(meta).split(" · ") if part != preset)
    return f"Measured on {how}, with {', '.join(source)}{state}."


def _version(meta: Mapping[str, Any]) -> str:
    return str(meta["provenance"].get("versions", {}).get("retbench") or "unknown")
