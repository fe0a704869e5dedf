"""Centres and their intervals over the replicates of a run.

The process is the unit of replication, so every function here takes one value a process (or one
ratio a block), never a pool of trials. Latencies are positive and skewed: centres are medians,
and everything that needs a distribution works on logarithms. A value that is not finite and
positive stands for a measurement that failed; it is left out and not counted in ``n``.

    >>> estimate([1.0, 1.1, 1.2, 1.3, 1.4, 1.5])
    Estimate(value=1.25, low=1.0, high=1.5, n=6, method='order')
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr

from retbench.stats.estimate import CONFIDENCE, Estimate, Floats, t_quantile


def estimate(process_medians: ArrayLike) -> Estimate:
    """The median over processes with a confidence interval for it.

    The interval is the exact one between order statistics x_(k) and x_(n+1-k), whose coverage
    1 - 2 P(Binomial(n, 1/2) < k) needs no distribution. At 95% it exists from n = 6 on; below
    that it is Student's t on the logarithms, from n = 2 on.

    Args:
        process_medians: one value a process, shape (n,), positive.
    """
    medians = np.asarray(process_medians, dtype=float)
    values = np.sort(medians[is_usable(medians)])
    n = len(values)
    if n == 0:
        return Estimate(math.nan, None, None, 0, "none")
    centre = float(np.median(values))
    rank = _order_rank(n)
    if rank:
        return Estimate(centre, float(values[rank - 1]), float(values[n - rank]), n, "order")
    return with_t_interval(centre, np.log(values))


def ratio(subject: ArrayLike, baseline: ArrayLike) -> Estimate:
    """The ratio subject / baseline, paired by block.

    Its centre is the geometric mean of the blocks' ratios, its interval Student's t on their
    logarithms. A block in which either side has no value does not count.

    Args:
        subject: the subject's value in each block, shape (blocks,).
        baseline: the baseline's, in the same blocks and the same order.

    Raises:
        ValueError: the two have different lengths, so cannot be paired.
    """
    above, below = np.asarray(subject, dtype=float), np.asarray(baseline, dtype=float)
    if above.shape != below.shape:
        raise ValueError(f"cannot pair {above.size} blocks with {below.size}")
    paired = is_usable(above) & is_usable(below)
    if not paired.any():
        return Estimate(math.nan, None, None, 0, "none")
    logs = np.log(above[paired] / below[paired])
    return with_t_interval(float(np.exp(logs.mean())), logs)


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


def is_usable(values: Floats) -> NDArray[np.bool_]:
    """Which values are measurements: finite and positive."""
    return np.isfinite(values) & (values > 0)


def _order_rank(n: int) -> int:
    """The largest k for which x_(k) .. x_(n+1-k) covers the median, 0 if none does."""
    ranks = np.arange(1, n // 2 + 1)
    coverage = 1 - 2 * bdtr(ranks - 1, n, 0.5)
    return int(np.count_nonzero(coverage >= CONFIDENCE))  # coverage falls with the rank


def with_t_interval(centre: float, logs: Floats, confidence: float = CONFIDENCE) -> Estimate:
    """``centre`` with Student's t interval of the mean of ``logs``, widened to hold the centre."""
    n = len(logs)
    if n < 2:
        return Estimate(centre, None, None, n, "none")
    reach = t_quantile(n - 1, confidence) * logs.std(ddof=1) / math.sqrt(n)
    low, high = np.exp(logs.mean() - reach), np.exp(logs.mean() + reach)
    return Estimate(centre, min(float(low), centre), max(float(high), centre), n, "t")
