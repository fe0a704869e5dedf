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
from scipy.special import stdtr, stdtrit

from retbench.stats.comparison import ALPHA, Verdict, verdict_of
from retbench.stats.estimate import Floats, holm


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


@dataclass(frozen=True)
class _Difference:
    """Of two means of logarithms: its standard error and Welch's degrees of freedom."""

    centre: float
    error: float
    df: float
    beyond: float

    @property
    def p(self) -> float:
        """Of the hypothesis that the true difference is no larger than ``beyond``."""
        gap = abs(self.centre) - self.beyond
        if not self.error:
            return float(gap <= 0)
        return min(1.0, 2 * float(stdtr(self.df, -gap / self.error)))

    def reach(self, alpha: float) -> float:
        """Half the width of the interval that misses with probability ``alpha``."""
        return float(stdtrit(self.df, 1 - alpha / 2)) * self.error if self.error else 0.0


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
    found = [
        _difference(np.asarray(before, dtype=float), np.asarray(after, dtype=float),
                    max(inside, floor))
        for (before, after), floor in zip(rows, floors or [0.0] * len(rows), strict=True)
    ]  # fmt: skip
    known = [i for i, one in enumerate(found) if math.isfinite(one.error)]
    judged = zip(known, holm([found[i].p for i in known], ALPHA), strict=True)
    levels = {i: level for i, (level, _) in judged}
    return [_change(one, levels.get(i), inside) for i, one in enumerate(found)]


def _change(found: _Difference, level: float | None, inside: float) -> Change:
    """A row at its level; None where it has no spread."""
    value = math.exp(found.centre)
    if level is None:
        return Change(value, math.nan, math.nan, math.nan, "inconclusive")
    low, high = found.centre - found.reach(level), found.centre + found.reach(level)
    said = verdict_of(low, high, (inside, found.beyond))
    return Change(value, math.exp(low), math.exp(high), 1 - level, said)


def _difference(before: Floats, after: Floats, beyond: float) -> _Difference:
    centre = float(after.mean() - before.mean())
    if min(len(before), len(after)) < 2:
        return _Difference(centre, math.nan, math.nan, beyond)
    shares = [float(logs.var(ddof=1)) / len(logs) for logs in (before, after)]
    total = sum(shares)
    counts = len(before), len(after)
    scatter = sum(share**2 / (n - 1) for share, n in zip(shares, counts, strict=True))
    df = total**2 / scatter if scatter else math.inf
    return _Difference(centre, math.sqrt(total), df, beyond)
