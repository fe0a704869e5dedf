"""How numbers are printed: one scale for a column or an axis, three significant digits (M16).

Everything is kept in the unit of its metric (seconds, bytes, tokens/s); only here, at the edge, is
it divided by a scale that people read.

    >>> scale = scale_for("s", [0.0021, 0.0154])
    >>> scale.symbol, significant(0.0021 / scale.divisor)
    ('ms', '2.10')
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from retbench.config.plan import Point

T = TypeVar("T")

DASH = "–"  # what a table shows where there is no value

KIB = 1024
_LARGE = 1e12  # from here on a number is written with an exponent
_SMALL = 1e-12  # and one with an interval up to here


@dataclass(frozen=True)
class Scale:
    """A unit for people: ``value / divisor`` is in ``symbol``."""

    symbol: str
    divisor: float


# Largest first; the first whose divisor the typical value reaches is taken.
_SCALES: dict[str, tuple[Scale, ...]] = {
    "s": (Scale("s", 1.0), Scale("ms", 1e-3), Scale("µs", 1e-6)),
    "bytes": (
        Scale("GiB", float(KIB**3)), Scale("MiB", float(KIB**2)), Scale("KiB", float(KIB)),
        Scale("B", 1.0),
    ),
    "bytes/s": (Scale("TB/s", 1e12), Scale("GB/s", 1e9), Scale("MB/s", 1e6)),
    "flop": (
        Scale("PFLOP", 1e15), Scale("TFLOP", 1e12), Scale("GFLOP", 1e9), Scale("MFLOP", 1e6),
    ),
    "flop/s": (Scale("TFLOP/s", 1e12), Scale("GFLOP/s", 1e9), Scale("MFLOP/s", 1e6)),
    "J": (Scale("J", 1.0), Scale("mJ", 1e-3), Scale("µJ", 1e-6)),
    "ratio": (Scale("", 1.0),),
}  # fmt: skip


def scale_for(unit: str, values: Iterable[float]) -> Scale:
    """The scale that suits the median of ``values`` (in ``unit``); an unknown unit is kept."""
    scales = _SCALES.get(unit, (Scale(unit, 1.0),))
    sizes = sorted(abs(value) for value in values if math.isfinite(value) and value != 0)
    if not sizes:
        return scales[0]
    typical = sizes[len(sizes) // 2]
    return next((scale for scale in scales if typical >= scale.divisor), scales[-1])


def is_missing(value: Any) -> bool:
    """Whether there is no number: None, NaN, NA or an infinity."""
    return not isinstance(value, Real) or not math.isfinite(value)


def plain(value: Any) -> Any:
    """A value that JSON can hold: numpy's numbers as Python's, no number as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if hasattr(value, "item"):
        value = value.item()
    if not isinstance(value, str | bool) and is_missing(value):
        return None
    return value


def significant(value: float | None, digits: int = 3) -> str:
    """``value`` to ``digits`` significant digits; a dash for none.

    Below 1e-4 and from 1e12 on, where most digits would be filling, with an exponent.
    """
    if value is None or not math.isfinite(value):
        return DASH
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < _LARGE:
        return f"{value:.{digits - 1}e}"
    rounded = round(value, digits - 1 - _magnitude(value))
    # 9.996 becomes 10.0, which has one digit more before the point.
    return f"{rounded:.{max(digits - 1 - _magnitude(rounded), 0)}f}"


def with_interval(
    value: float | None,
    low: float | None = None,
    high: float | None = None,
    divisor: float = 1.0,
    digits: int = 3,
) -> str:
    """``value [low, high]`` over ``divisor``; the bare value where there is no interval.

    All three have the decimals that ``digits`` significant digits of the value need, or one digit
    of the interval's half width where that is finer, by at most two more (M16).

    >>> with_interval(0.0123456, 0.01234, 0.01236)
    '0.01235 [0.01234, 0.01236]'
    """
    if value is None or low is None or high is None or is_missing(value + high - low):
        return significant(value if value is None else value / divisor, digits)
    edges = value / divisor, low / divisor, high / divisor
    if not _SMALL < max(map(abs, edges)) < _LARGE:
        texts = [significant(edge, digits) for edge in edges]
        return f"{texts[0]} [{texts[1]}, {texts[2]}]"
    half = (edges[2] - edges[1]) / 2
    decimals = digits - 1 - _magnitude(edges[0])
    if half > 0:
        decimals = max(decimals, min(-_magnitude(half), decimals + 2))
    texts = [f"{round(edge, decimals):.{max(decimals, 0)}f}" for edge in edges]
    return f"{texts[0]} [{texts[1]}, {texts[2]}]"


def _magnitude(value: float) -> int:
    """The power of ten of a number's first digit."""
    return math.floor(math.log10(abs(value))) if value else 0


def ratio(value: float, low: float | None = None, high: float | None = None) -> str:
    """A ratio with its interval; from 1 to 2 to three decimals, as below 1."""
    return with_interval(value, low, high, digits=4 if 1 <= value < 2 else 3)


def ratio_of(row: Mapping[str, Any]) -> str:
    """A row's ratio, with its interval where it has one."""
    return ratio(row["value"], row["low"], row["high"])


def factor(row: Mapping[str, Any], lower: str = "faster", higher: str = "slower") -> str:
    """A ratio as people say it: 2.65x faster [2.57, 2.74].

    Args:
        row: of a ratio, subject over baseline, with ``value``, ``low`` and ``high``.
        lower: what the subject is below 1.
        higher: and above it.
    """
    edges = row["value"], row["low"], row["high"]
    if row["value"] < 1:
        edges = _inverse(row["value"]), _inverse(row["high"]), _inverse(row["low"])
    value, bracket, interval = with_interval(*edges).partition(" [")
    return f"{value}x {lower if row['value'] < 1 else higher}{bracket}{interval}"


def _inverse(value: float) -> float:
    return 1 / value if value else math.inf


def change(row: Mapping[str, Any]) -> str:
    """A ratio as the change in per cent that it is: +4.6% [+3.4, +5.8]."""
    value, low, high = (row[edge] - 1 for edge in ("value", "low", "high"))
    return _shares(value, low, high, "%", "+")


def rounded_tokens(count: float) -> str:
    """About so many tokens: 900, 2.1k."""
    return f"{count / KIB:.1f}k" if count >= KIB else f"{count:.0f}"


def tokens(count: float) -> str:
    """A number of tokens as people write it: 512, 1k, 64k."""
    if is_missing(count):
        return DASH
    whole = round(count)
    if whole >= KIB and whole % KIB == 0:
        return f"{whole // KIB}k"
    return f"{whole}"


def percent(share: float | None, low: float | None = None, high: float | None = None) -> str:
    """A share with its interval, in per cent: 97.1% [93.2, 98.8]."""
    return _shares(share, low, high, "%", "")


def points(value: float, low: float, high: float) -> str:
    """A difference of shares with its interval, in percentage points: +2.0 [−1.0, +5.0]."""
    return _shares(value, low, high, "", "+")


def _shares(
    value: float | None, low: float | None, high: float | None, unit: str, sign: str
) -> str:
    if value is None or is_missing(value):
        return DASH
    texts = [
        f"{100 * edge:{sign}z.1f}".replace("-", "−")
        for edge in (value, low, high)
        if edge is not None and not is_missing(edge)
    ]
    return f"{texts[0]}{unit}" + (f" [{texts[1]}, {texts[2]}]" if len(texts) == 3 else "")


def count(number: float) -> str:
    """A large number as people say it: 788k, 1.05M, 1.30B."""
    if is_missing(number) or number >= 1e15:
        return significant(number)
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{significant(number / size)}{letter}"
    return f"{number:.0f}"


def scaled(value: float, unit: str) -> str:
    """A value in its own scale: 2.46 TFLOP, 64.0 KiB."""
    if is_missing(value):
        return DASH
    scale = scale_for(unit, [value])
    return f"{significant(value / scale.divisor)} {scale.symbol}".rstrip()


def duration(seconds: float) -> str:
    """Seconds as people say them: ``40 s``, ``3 min``, ``2 h 05 min``."""
    if is_missing(seconds):
        return DASH
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def verdict(row: Mapping[str, Any], replicate: str = "block") -> str:
    """A comparison's verdict, or why there is none; where it is open, what would settle it.

    Args:
        row: of a table of ratios or differences.
        replicate: what its ``n`` counts.
    """
    if not row["verdict"]:
        return str(row["note"]) or DASH
    said = str(row["verdict"]) + (", alone" if row.get("alone") else "")
    if said != "inconclusive":
        return said
    if not is_missing(row.get("minutes_needed")):
        minutes = f"+{max(math.ceil(row['minutes_needed']), 1)} min"
        known = row.get("precision_needed", math.nan)
        return (
            f"{said} ({minutes})" if is_missing(known) else f"{said} ({minutes}, ±{below(known)})"
        )
    needed = row["n_needed"]
    if is_missing(needed):
        return said
    more = int(needed) - int(row["n"])
    return f"{said} (+{more} {replicate}{'s' * (more != 1)})"


def ending(row: Mapping[str, Any], replicates: str = "") -> str:
    """How a cell or a training ended, with the share that failed where only some did.

    Args:
        row: with ``status``, ``ok_blocks`` and ``blocks``.
        replicates: what these count, as it is to be named.
    """
    said = str(row["status"]).replace("_", " ")
    if row["status"] == "ok" or not row["ok_blocks"]:
        return said
    return f"{said} in {row['blocks'] - row['ok_blocks']} of {row['blocks']} {replicates}".rstrip()


def counted(number: int, what: str) -> str:
    """So many of something that takes an s: 1 cell, 2 cells."""
    return f"{number} {what}{'s' * (number != 1)}"


def place(point: Point) -> str:
    """A point in words, the sizes last: direction train, context 2k batch 1."""
    words = "".join(f"{name.replace('_', ' ')} {given}, " for name, given in point.texts.items())
    return f"{words}context {tokens(point.seq_len)} batch {point.batch_size}"


def gaps(known: Collection[T], planned: Sequence[T], text: Callable[[T], str] = str) -> str:
    """At which planned values, ascending, between known ones there is none; empty where at none."""
    places = [place for place, each in enumerate(planned) if each in known]
    return lacking(known, planned[places[0] : places[-1]] if places else (), text)


def lacking(known: Collection[T], planned: Sequence[T], text: Callable[[T], str] = str) -> str:
    """At which planned values there is none, those at the ends too; empty where at none."""
    lost = [text(each) for each in planned if each not in known]
    return f"no value at {', '.join(lost)}" if lost else ""


def rough(share: float) -> str:
    """A share to two digits, in per cent, without zeros that say nothing: 35%, 0.25%, 1%."""
    digits, point, decimals = significant(100 * share, 2).partition(".")
    if "e" not in decimals:
        decimals = decimals.rstrip("0")
    return f"{digits}{point if decimals else ''}{decimals}%"


def below(share: float) -> str:
    """A positive share to one digit, in per cent, rounded down: 0.3% of 0.0038."""
    size = 10.0 ** _magnitude(share)
    return rough(math.floor(share / size) * size)


_TONES = {"faster": "good", "smaller": "good", "better": "good", "slower": "bad", "larger": "bad",
          "worse": "bad", "equivalent": "same"}  # fmt: skip


def tone(verdict: str) -> str:
    """How a verdict is coloured: ``good``, ``bad``, ``same``, or ``open`` where there is none."""
    return _TONES.get(re.split("[ ,]", verdict)[0], "open")
