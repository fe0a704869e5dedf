"""How numbers are printed: one scale for a column or an axis, three significant digits (M16).

Everything is kept in the unit of its metric (seconds, bytes, tokens/s); only here, at the edge, is
it divided by a scale that people read.

    >>> scale = scale_for("s", [0.0021, 0.0154])
    >>> scale.symbol, significant(0.0021 / scale.divisor)
    ('ms', '2.10')
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

DASH = "–"  # what a table shows where there is no value

KIB = 1024


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
    "tokens/s": (Scale("tokens/s", 1.0),),
    "ratio": (Scale("", 1.0),),
    "tokens": (Scale("tokens", 1.0),),
}  # fmt: skip


def scale_for(unit: str, values: Iterable[float]) -> Scale:
    """The scale that suits the median of ``values`` (in ``unit``); an unknown unit is kept."""
    scales = _SCALES.get(unit, (Scale(unit, 1.0),))
    sizes = sorted(abs(value) for value in values if math.isfinite(value) and value != 0)
    if not sizes:
        return scales[0]
    typical = sizes[len(sizes) // 2]
    return next((scale for scale in scales if typical >= scale.divisor), scales[-1])


def is_missing(value: float | None) -> bool:
    """Whether there is no number: None, NaN or an infinity."""
    return value is None or not math.isfinite(value)


def significant(value: float | None, digits: int = 3) -> str:
    """``value`` to ``digits`` significant digits; a dash for none.

    Below 1e-4 and from 1e12 on, where most digits would be filling, with an exponent.
    """
    if value is None or not math.isfinite(value):
        return DASH
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e12:
        return f"{value:.{digits - 1}e}"
    magnitude = math.floor(math.log10(abs(value)))
    rounded = round(value, digits - 1 - magnitude)
    if rounded:  # 9.996 becomes 10.0, which has one digit more before the point
        magnitude = math.floor(math.log10(abs(rounded)))
    return f"{rounded:.{max(digits - 1 - magnitude, 0)}f}"


def with_interval(
    value: float | None, low: float | None, high: float | None, divisor: float = 1.0
) -> str:
    """``value [low, high]`` over ``divisor``; the bare value where there is no interval."""
    if value is None or is_missing(value):
        return DASH
    text = significant(value / divisor)
    if low is None or high is None or is_missing(low) or is_missing(high):
        return text
    return f"{text} [{significant(low / divisor)}, {significant(high / divisor)}]"


def rounded_tokens(count: float) -> str:
    """About so many tokens: 900, 2.1k."""
    return f"{count / KIB:.1f}k" if count >= KIB else f"{count:.0f}"


def tokens(count: float) -> str:
    """A number of tokens as people write it: 512, 1k, 64k."""
    whole = round(count)
    if whole >= KIB and whole % KIB == 0:
        return f"{whole // KIB}k"
    return f"{whole}"
