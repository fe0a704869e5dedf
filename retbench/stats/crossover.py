"""At which length a ratio crosses 1, with an interval over blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from retbench.stats.estimate import CONFIDENCE, Floats
from retbench.stats.intervals import is_usable, with_t_interval


@dataclass(frozen=True)
class Crossover:
    """The length at which the ratio subject / baseline crosses 1.

    Attributes:
        status: ``reached`` (in every block), ``always below`` or ``always above`` (1, at some
            length, and at none on its other side, so not reached), ``always equal``, or
            ``unclear``.
        value: the crossover length; the geometric median of the blocks'; None unless reached.
        low: lower end of its interval, None for a single block.
        high: upper end of its interval, None where ``low`` is.
        direction: whether the subject is the ``better`` or the ``worse`` one beyond the crossover;
            None unless reached.
        n: blocks that were judged.
        reason: why it is unclear, a clause; empty where it is not.
    """

    status: Literal["reached", "always below", "always above", "always equal", "unclear"]
    value: float | None
    low: float | None
    high: float | None
    direction: Literal["better", "worse"] | None
    n: int
    reason: str = ""


def crossover(lengths: ArrayLike, ratios: ArrayLike, confidence: float = CONFIDENCE) -> Crossover:
    """From which length on the subject wins, or loses: a ratio below 1 is the better one.

    In each block log ratio over log length is interpolated piecewise; the block's crossover is its
    last crossing, from which the ratio stays on its final side. The interval is Student's t on the
    logarithms. Blocks that miss a length which another block has are left out, unless all do.

    Args:
        lengths: shape (lengths,), positive, in any order.
        ratios: subject / baseline, shape (blocks, lengths); NaN where either side has no value.
        confidence: coverage of the interval, between 0 and 1.
    """
    at = np.asarray(lengths, dtype=float)
    order = np.argsort(at)
    table = np.asarray(ratios, dtype=float).reshape(-1, len(at))[:, order]
    curves = _complete_curves(np.log(at[order]), table)
    n = len(curves)
    if not n:
        return Crossover("unclear", None, None, None, None, 0, "nothing was measured")
    every = np.concatenate([logs for _, logs in curves])
    if not every.any():
        return Crossover("always equal", None, None, None, None, n)
    if (every <= 0).all():
        return Crossover("always below", None, None, None, None, n)
    if (every >= 0).all():
        return Crossover("always above", None, None, None, None, n)
    crossings = [_last_crossing(x, logs) for x, logs in curves]
    ends_below = [bool((logs[logs != 0][-1:] < 0).any()) for _, logs in curves]
    places = np.array([place for place in crossings if place is not None])
    if reason := _disagreement(n, len(places), sum(ends_below)):
        return Crossover("unclear", None, None, None, None, n, reason)
    centre = with_t_interval(float(np.exp(np.median(places))), places, confidence)
    direction: Literal["better", "worse"] = "better" if ends_below[0] else "worse"
    return Crossover("reached", centre.value, centre.low, centre.high, direction, centre.n)


def _complete_curves(log_lengths: Floats, ratios: Floats) -> list[tuple[Floats, Floats]]:
    """(log lengths, log ratios) of each block that has every length which any block has."""
    usable = is_usable(ratios)
    present = usable.any(axis=1)
    complete = present & usable[:, usable.any(axis=0)].all(axis=1)
    keep = complete if complete.any() else present
    return [
        (log_lengths[has], np.log(row[has]))
        for row, has in zip(ratios[keep], usable[keep], strict=True)
    ]


def _disagreement(n: int, crossing: int, ending_below: int) -> str:
    """Why ``n`` blocks have no crossover in common, of which so many cross; empty if they have."""
    if 0 < crossing < n:
        return f"blocks disagree: {crossing} of {n} cross"
    if 0 < ending_below < n:
        return f"blocks disagree: {ending_below} of {n} end below 1"
    return "" if crossing else "the ratio returns to the side that it began on"


def _last_crossing(log_lengths: Floats, logs: Floats) -> float | None:
    """Log length of the last sign change, None where the curve ends on the side it began on.

    A ratio of 1 is on neither side.
    """
    apart = np.flatnonzero(logs)
    below = logs[apart] < 0
    if not len(apart) or below[0] == below[-1]:
        return None
    i = int(apart[np.flatnonzero(below[1:] != below[:-1])[-1] + 1]) - 1
    share = logs[i] / (logs[i] - logs[i + 1])
    return float(log_lengths[i] + share * (log_lengths[i + 1] - log_lengths[i]))
