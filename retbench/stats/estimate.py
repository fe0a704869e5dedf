"""What every statistic here returns: a centre with its interval, and what lies behind one.

An :class:`Effect` is a centre with its standard error: what an interval or a verdict is made of.
Its error has a part that falls with the number of replicates (processes, training seeds) and may
have one that does not, as where the test documents are the same for every seed.

    >>> Effect(0.0, 1.0, df=4.0, n=5).estimate("t").high
    2.7764451051977934
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Floats = NDArray[np.float64]
Method = Literal["order", "t", "crossed", "documents", "seeds", "wilson", "answers", "none"]

CONFIDENCE = 0.95
"""Of every interval, but where looks or corrections for several rows ask for more."""

_OVERFLOWS = 709.0  # natural logarithm of the largest float64, rounded down


def exp(value: float) -> float:
    """``math.exp``, infinite where it overflows; NaN of NaN."""
    return math.inf if value >= _OVERFLOWS else math.exp(value)


def t_quantile(df: float, confidence: float = CONFIDENCE) -> float:
    """How many standard errors Student's t interval reaches to either side of its centre."""
    return float(stdtrit(df, (1 + confidence) / 2))


def expm1(value: float) -> float:
    """``math.expm1``, infinite where it overflows; NaN of NaN."""
    return math.inf if value >= _OVERFLOWS else math.expm1(value)


@dataclass(frozen=True)
class Estimate:
    """A centre and its interval.

    Attributes:
        value: the centre, in the unit of what was given; NaN where nothing was.
        low: lower end of the interval, None where ``n`` supports none.
        high: upper end of the interval, None where ``low`` is.
        n: the number of processes, blocks or training seeds behind it.
        method: ``order`` (exact order statistics), ``t`` (Student's t, on logarithms for latencies
            and ratios), ``crossed`` (t over seeds and documents), ``documents`` or ``seeds`` (t
            over one of the two), ``wilson`` (score interval of a proportion), ``answers`` (normal,
            over the answers of one seed) or ``none``.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    method: Method

    def mapped(self, function: Callable[[float], float]) -> Estimate:
        """The estimate of ``function`` of the quantity; ``function`` must never decrease.

        A loss in nats becomes a perplexity by ``estimate.mapped(exp)``.
        """
        low, high = (None if edge is None else function(edge) for edge in (self.low, self.high))
        return replace(self, value=function(self.value), low=low, high=high)


@dataclass(frozen=True)
class Effect:
    """A centre with its standard error.

    Attributes:
        centre: the centre, in the unit of the values.
        error: standard error of the centre, at least 0; NaN where it is not known.
        df: its degrees of freedom; infinite where the error is known.
        n: replicates behind it.
        fixed: variance, part of ``error**2``, that more replicates do not lower.
        fixed_df: degrees of freedom of that part.
    """

    centre: float
    error: float
    df: float
    n: int
    fixed: float = 0.0
    fixed_df: float = math.inf

    def estimate(self, method: Method) -> Estimate:
        """The centre with Student's t interval; with none where the error is not known (NaN)."""
        if math.isnan(self.error):
            return Estimate(self.centre, None, None, self.n, "none")
        reach = t_quantile(self.df) * self.error
        return Estimate(self.centre, self.centre - reach, self.centre + reach, self.n, method)


def satterthwaite(parts: Sequence[tuple[float, float]], variance: float | None = None) -> float:
    """Degrees of freedom of a variance that was put together from parts.

    Source: Satterthwaite (1946), "An approximate distribution of estimates of variance components",
    Biometrics Bulletin 2, 110-114.

    Args:
        parts: variance and degrees of freedom of each; a part of 0 does not count.
        variance: the whole, where it is not the sum of the parts.
    """
    largest = max((part for part, _ in parts), default=0.0)
    if not 0 < largest < math.inf:
        return math.inf
    # By a power of two, which rounds nothing: squares of large variances leave a float's range.
    exponent = math.frexp(largest)[1]
    known = [(math.ldexp(part, -exponent), df) for part, df in parts if part > 0]
    whole = None if variance is None else math.ldexp(variance, -exponent)
    total = sum(part for part, _ in known) if whole is None else whole
    spread = sum(part**2 / df for part, df in known)
    if spread == 0:
        return math.inf
    return max(total**2 / spread, min(df for _, df in known))


def holm(p_values: Sequence[float], alpha: float) -> list[tuple[float, bool]]:
    """Holm's step-down correction: for each row its level, and whether its claim stands.

    All claims that stand are right together with probability 1 - ``alpha``. From the first row on
    that fails, all fail, at that row's level. (Holm 1979, Scand. J. Statist. 6, 65-70.)

    Args:
        p_values: the p-value of each row.
        alpha: the probability that any claim of the table stands and is wrong.
    """
    levels = [(alpha, False)] * len(p_values)
    level, standing = alpha, True
    for step, row in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if standing:
            level = alpha / (len(p_values) - step)
            standing = p_values[row] <= level
        levels[row] = (level, standing)
    return levels
