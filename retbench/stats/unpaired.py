"""What the blocks of two runs, which were not measured in turns, say of the ratio of the two.

Blocks of different runs cannot be paired, so the ratio's logarithm is a difference of two means,
with Welch's interval for unequal variances (Welch 1947, Biometrika 34, 28-35). The verdicts of a
table hold together: by Holm's procedure (Holm 1979, Scand. J. Statist. 6, 65-70) the row with the
k-th smallest p-value of m is judged at alpha / (m - k + 1), up to the first that is not told, whose
level all others have. Every interval is printed at its row's level: the verdict follows from it.

    >>> found, = judge([([0.0, 0.01, -0.01], [0.7, 0.69, 0.71])], margin=0.01)
    >>> found.verdict, round(found.value, 2)
    ('slower', 2.01)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr

from retbench.stats.comparison import ALPHA, Verdict, verdict_of
from retbench.stats.estimate import Effect, Floats, exp, holm, satterthwaite, t_quantile


@dataclass(frozen=True)
class Change:
    """The ratio after / before of one row.

    Attributes:
        value: of the geometric means over blocks.
        low: lower end of its interval; NaN where a side has fewer than two blocks.
        high: upper end, likewise.
        confidence: of the interval.
        verdict: as :class:`retbench.stats.comparison.Comparison` has it.
    """

    value: float
    low: float
    high: float
    confidence: float
    verdict: Verdict


def judge(
    rows: Sequence[tuple[ArrayLike, ArrayLike]],
    margin: float,
    floors: Sequence[float] | None = None,
) -> list[Change]:
    """Judge the rows of one table together: that any is told wrongly has the probability ALPHA.

    Args:
        rows: natural logarithms of each block's value before, and of each after; at least one each.
        margin: relative difference that matters: 0.01 means ratios from 1 / 1.01 to 1.01 are equal.
        floors: noise floor of each row, a log ratio: below it a difference is not told from none.
    """
    inside = math.log1p(margin)
    bounds = [(inside, max(inside, floor)) for floor in floors or [0.0] * len(rows)]
    found = [
        _difference(np.asarray(before, dtype=float), np.asarray(after, dtype=float))
        for before, after in rows
    ]
    known = [i for i, effect in enumerate(found) if math.isfinite(effect.error)]
    judged = holm([_p_value(found[i], bounds[i][1]) for i in known], ALPHA)
    levels = {i: level for i, (level, _) in zip(known, judged, strict=True)}
    return [
        _change(effect, levels.get(i), both)
        for i, (effect, both) in enumerate(zip(found, bounds, strict=True))
    ]


def _difference(before: Floats, after: Floats) -> Effect:
    """The difference of two means of logarithms, with Welch's degrees of freedom."""
    centre = float(after.mean() - before.mean())
    n = min(len(before), len(after))
    if n < 2:
        return Effect(centre, math.nan, math.nan, n)
    parts = [(float(logs.var(ddof=1)) / len(logs), len(logs) - 1) for logs in (before, after)]
    return Effect(centre, math.sqrt(sum(part for part, _ in parts)), satterthwaite(parts), n)


def _p_value(effect: Effect, beyond: float) -> float:
    """Of the hypothesis that the true difference is no larger than ``beyond``."""
    gap = abs(effect.centre) - beyond
    if not effect.error:
        return float(gap <= 0)
    return min(1.0, 2 * float(stdtr(effect.df, -gap / effect.error)))


def _change(effect: Effect, level: float | None, bounds: tuple[float, float]) -> Change:
    """A row at its level; None where it has no spread."""
    value = exp(effect.centre)
    if level is None:
        return Change(value, math.nan, math.nan, math.nan, "inconclusive")
    reach = t_quantile(effect.df, 1 - level) * effect.error
    low, high = effect.centre - reach, effect.centre + reach
    return Change(value, exp(low), exp(high), 1 - level, verdict_of(low, high, bounds))
