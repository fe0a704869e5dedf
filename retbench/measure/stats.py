"""From samples to claims: centres, intervals and the crossover length.

The process is the unit of replication, so every function here takes one value a process (or one
ratio a block), never a pool of trials. Latencies are positive and skewed: centres are medians,
and everything that needs a distribution works on logarithms. A value that is not finite and
positive stands for a measurement that failed; it is left out and not counted in ``n``.

The comparison of two sides has a module of its own, ``comparison.py``. So has quality:
:func:`crossed` for a loss over training seeds and documents (kept in ``twoway.py``, importable from
here), ``quality_stats.py`` for verdicts on losses and for accuracies, ``powerlaw.py`` for scaling
laws.

    >>> estimate([1.0, 1.1, 1.2, 1.3, 1.4, 1.5])
    Estimate(value=1.25, low=1.0, high=1.5, n=6, method='order')
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, stdtrit

from retbench.measure.estimate import Estimate, Floats
from retbench.measure.twoway import crossed

__all__ = [
    "Crossover", "Estimate", "crossed", "crossover", "estimate", "is_stationary", "percentile",
    "ratio",
]  # fmt: skip

STATIONARY_MEDIANS = 0.02  # largest relative gap between two windows' medians
STATIONARY_SPREAD = 0.10  # largest interquartile range of a window, relative to its median
WINDOW = 3  # trials in a window


def estimate(process_medians: ArrayLike, confidence: float = 0.95) -> Estimate:
    """The median over processes with a confidence interval for it.

    The interval is the exact one between order statistics x_(k) and x_(n+1-k), whose coverage
    1 - 2 P(Binomial(n, 1/2) < k) needs no distribution. At 95% it exists from n = 6 on; below
    that it is Student's t on the logarithms, from n = 2 on.

    Args:
        process_medians: one value a process, shape (n,), positive.
        confidence: coverage of the interval, between 0 and 1.
    """
    values = np.sort(_usable(process_medians))
    n = len(values)
    if n == 0:
        return Estimate(math.nan, None, None, 0, "none")
    centre = float(np.median(values))
    rank = _order_rank(n, confidence)
    if rank:
        return Estimate(centre, float(values[rank - 1]), float(values[n - rank]), n, "order")
    return _with_t_interval(centre, np.log(values), confidence)


def ratio(subject: ArrayLike, baseline: ArrayLike, confidence: float = 0.95) -> Estimate:
    """The ratio subject / baseline, paired by block.

    Its centre is the geometric mean of the blocks' ratios, its interval Student's t on their
    logarithms. A block in which either side has no value does not count.

    Args:
        subject: the subject's value in each block, shape (blocks,).
        baseline: the baseline's, in the same blocks and the same order.
        confidence: coverage of the interval, between 0 and 1.

    Raises:
        ValueError: the two have different lengths, so cannot be paired.
    """
    above, below = np.asarray(subject, dtype=float), np.asarray(baseline, dtype=float)
    if above.shape != below.shape:
        raise ValueError(f"cannot pair {above.size} blocks with {below.size}")
    paired = _is_usable(above) & _is_usable(below)
    if not paired.any():
        return Estimate(math.nan, None, None, 0, "none")
    logs = np.log(above[paired] / below[paired])
    return _with_t_interval(float(np.exp(logs.mean())), logs, confidence)


def percentile(samples: ArrayLike, q: float) -> float | None:
    """The ``q``-th percentile of the samples, or None where there are too few.

    Enough means that the largest sample lies beyond the percentile with 95% certainty,
    q^n <= 0.05: 29 samples for p90, 59 for p95, 299 for p99 (below the median, the smallest).

    Args:
        samples: shape (n,), any unit.
        q: a percentage, as in ``numpy.percentile``: 90 for p90.

    Raises:
        ValueError: ``q`` is not between 1 and 99, most likely a fraction.
    """
    if not 1 <= q <= 99:
        raise ValueError(f"q is a percentage between 1 and 99, not {q}")
    values = np.asarray(samples, dtype=float)
    values = values[np.isfinite(values)]
    share = max(q, 100 - q) / 100
    if len(values) < math.ceil(math.log(0.05) / math.log(share)):
        return None
    return float(np.percentile(values, q))


def is_stationary(times: Sequence[float], window: int = WINDOW) -> bool:
    """Whether the last two neighbouring windows of trials look alike: warm-up is over.

    Alike means medians within 2% of each other, and in each window an interquartile range within
    10% of its median. Fewer than two windows of trials are never stationary.
    """
    if len(times) < 2 * window:
        return False
    windows = np.asarray(times[-2 * window :], dtype=float).reshape(2, window)
    lower, medians, upper = np.percentile(windows, [25, 50, 75], axis=1)
    alike = medians.max() <= medians.min() * (1 + STATIONARY_MEDIANS)
    return bool(alike and np.all(upper - lower <= STATIONARY_SPREAD * medians))


@dataclass(frozen=True)
class Crossover:
    """The length at which the ratio subject / baseline crosses 1.

    Attributes:
        status: ``reached`` (in every block), ``always below`` or ``always above`` (1, at every
            length of every block, so not reached), or ``unclear``.
        value: the crossover length; the geometric median of the blocks'; None unless reached.
        low: lower end of its interval, None for a single block.
        high: upper end, likewise.
        direction: whether the subject is the ``better`` or the ``worse`` one beyond the crossover;
            None unless reached.
        n: blocks that were judged.
        reason: why it is unclear, a clause; empty where it is not.
    """

    status: Literal["reached", "always below", "always above", "unclear"]
    value: float | None
    low: float | None
    high: float | None
    direction: Literal["better", "worse"] | None
    n: int
    reason: str = ""


def crossover(
    lengths: ArrayLike,
    ratios: ArrayLike,
    confidence: float = 0.95,
    lower_is_better: bool = True,
) -> Crossover:
    """From which length on the subject wins, or loses.

    In each block log ratio over log length is interpolated piecewise; the block's crossover is its
    last crossing, from which the ratio stays on its final side. The interval is Student's t on the
    logarithms. Blocks that miss a length which another block has are left out, unless all do.

    Args:
        lengths: shape (lengths,), positive, in any order.
        ratios: subject / baseline, shape (blocks, lengths); NaN where either side has no value.
        confidence: coverage of the interval, between 0 and 1.
        lower_is_better: whether a ratio under 1 favours the subject (times) or not (rates).
    """
    at = np.asarray(lengths, dtype=float)
    order = np.argsort(at)
    table = np.asarray(ratios, dtype=float).reshape(-1, len(at))[:, order]
    curves = _complete_curves(np.log(at[order]), table)
    n = len(curves)
    if not n:
        return Crossover("unclear", None, None, None, None, 0, "nothing was measured")
    if all((logs < 0).all() for _, logs in curves):
        return Crossover("always below", None, None, None, None, n)
    if all((logs > 0).all() for _, logs in curves):
        return Crossover("always above", None, None, None, None, n)
    crossings = [_last_crossing(x, logs) for x, logs in curves]
    ends_below = [bool(logs[-1] < 0) for _, logs in curves]
    places = np.array([place for place in crossings if place is not None])
    if reason := _disagreement(n, len(places), sum(ends_below)):
        return Crossover("unclear", None, None, None, None, n, reason)
    centre = _with_t_interval(float(np.exp(np.median(places))), places, confidence)
    direction: Literal["better", "worse"] = "worse"
    if ends_below[0] == lower_is_better:
        direction = "better"
    return Crossover("reached", centre.value, centre.low, centre.high, direction, centre.n)


def _is_usable(values: Floats) -> NDArray[np.bool_]:
    """Which values are measurements: finite and positive."""
    return np.isfinite(values) & (values > 0)


def _usable(values: ArrayLike) -> Floats:
    """The measurements among the values, in their order."""
    array = np.asarray(values, dtype=float)
    return array[_is_usable(array)]


def _order_rank(n: int, confidence: float) -> int:
    """The largest k for which x_(k) .. x_(n+1-k) covers the median at ``confidence``, 0 if none."""
    ranks = np.arange(1, n // 2 + 1)
    coverage = 1 - 2 * bdtr(ranks - 1, n, 0.5)
    return int(np.count_nonzero(coverage >= confidence))  # coverage falls with the rank


def _with_t_interval(centre: float, logs: Floats, confidence: float) -> Estimate:
    """``centre`` with Student's t interval of the mean of ``logs``, widened to hold the centre."""
    n = len(logs)
    if n < 2:
        return Estimate(centre, None, None, n, "none")
    reach = stdtrit(n - 1, (1 + confidence) / 2) * logs.std(ddof=1) / math.sqrt(n)
    low, high = np.exp(logs.mean() - reach), np.exp(logs.mean() + reach)
    return Estimate(centre, min(float(low), centre), max(float(high), centre), n, "t")


def _complete_curves(log_lengths: Floats, ratios: Floats) -> list[tuple[Floats, Floats]]:
    """(log lengths, log ratios) of each block that has every length which any block has."""
    usable = _is_usable(ratios)
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
    """Log length of the last sign change, None where the curve ends on the side it began on."""
    below = logs < 0
    if below[0] == below[-1]:
        return None
    i = int(np.flatnonzero(below[1:] != below[:-1])[-1])
    share = logs[i] / (logs[i] - logs[i + 1])
    return float(log_lengths[i] + share * (log_lengths[i + 1] - log_lengths[i]))
