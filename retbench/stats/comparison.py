"""The comparison of two sides: from log ratios by block to a ratio, its interval and its verdict.

A row is one comparison (a metric, a point, a baseline): a log ratio subject / baseline from each
block. Its centre is their mean, its interval Student's t over the blocks. The verdict is a function
of the interval alone: whoever reads the interval can tell the verdict.

**Variances are moderated.** Three blocks know little of their own spread: t is 4.3 at 2 degrees of
freedom. The rows of one metric in one run have spreads alike, so that each row's variance is drawn
towards a common one (Smyth 2004; limma's fitFDist and squeezeVar). The common one counts as d0
degrees of freedom, which are estimated from how far the rows' variances differ, but are

- at most half of the row's own n - 1: rows share their blocks and the subject's process, so that
  their variances agree by more than they know, and d0 comes out too large;
- times s0^2 / s^2 where the row's own variance is the larger: a noisy row among quiet ones keeps
  most of its own (the idea of Phipson et al. 2016, in its simplest form).

Coverage of 95% intervals by simulation (15 rows, 1,500 tables of 3 blocks; mean over the rows /
over the noisiest; then the median half width in true standard deviations, and that of plain t):

    rows alike, independent             97.9           1.68 (2.07)
    correlated by 0.5                   97.1           1.72 (2.09)
    by 0.8                              95.6           1.73 (2.07)
    by 0.95: they move as one           94.0           1.71 (2.07)
    deviations from 0.5 to 4%           96.6 / 93.7    1.91 (2.05)
    the same, correlated by 0.5         96.0 / 92.9    1.89 (2.05)
    half of the rows 6 times as noisy   96.2 / 93.2    2.03 (2.09)
    one row 6 times as noisy            96.8 / 92.7    1.77 (2.09)
    tails of t with 4 degrees           98.4           1.44 (1.75)

At 5 blocks it is 95.4 to 97.1, the noisiest rows 92.5 or more. A primary family of four
(Bonferroni) holds together in 95.1 to 99.7% of the tables. With the prior's own d0 and no weight, a
single noisy row would be covered in 71%, and rows correlated by 0.8 in 93%.

**Looking repeatedly costs coverage.** A run looks at its ratios after each block, and ends once all
are decided or narrow. Where the truth lies on the margin every wrong interval looks like a
decision, so that the errors of all looks add up: at a constant 95% ten looks would cover 81.6%. So
an early look takes little alpha, half as much as the one before: 0.01, 0.005, ..., 0.02 in all. A
run that is ended by its time was not ended by what was seen: its last look takes 0.04, or 0.05
where it is the only one. So no more than 6% of the intervals can miss, and those of a run that
needs all of its time are hardly wider than if it had never looked. Coverage of a row that is a
run's only one (nothing to be moderated by), by simulation, whatever its spread and the precision
asked for, the truth at the margin, near it or far: at least 94.4% over up to 13 looks from the
third block on (profile quick), 95.0% over 21 from the fifth on (report). A run of a fixed number of
blocks does not look, and pays nothing.

    >>> found, = judge([[-0.105, -0.104, -0.106]], margin=0.01)
    >>> found.verdict, round(found.value, 3), round(found.low, 3), round(found.high, 3)
    ('faster', 0.9, 0.898, 0.903)

Sources: Smyth (2004), "Linear models and empirical Bayes methods for assessing differential
expression", Stat. Appl. Genet. Mol. Biol. 3; Phipson, Lee, Majewski, Alexander and Smyth (2016),
Ann. Appl. Stat. 10, 946-963; looks: Lan and DeMets (1983), Biometrika 70, 659-663.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import polygamma, psi, stdtrit

from retbench.stats.estimate import Floats, exp, expm1

Verdict = Literal["faster", "slower", "equivalent", "inconclusive"]

ALPHA = 0.05  # of an interval of a run that was looked at once, after its last block
LAST = 0.04  # of the last look of a run that earlier looks might have ended
EARLY = 0.02  # of all looks that may end a run before its time
POWER = 0.80  # with which the difference called ``resolution`` would have been told
MOST_BLOCKS = 1000  # a row that needs more will not be settled by measuring longer

_PRIOR_SHARE = 0.5  # most degrees of freedom of the common variance, per one of the row's own
_LEAST_VARIANCE = 1e-5  # of the rows' median: a row without any would make the logarithms useless


@dataclass(frozen=True)
class Comparison:
    """What the blocks say of one ratio subject / baseline.

    Attributes:
        value: geometric mean over blocks; NaN without any.
        low: lower end of its interval, NaN for fewer than two blocks.
        high: upper end of its interval, NaN where ``low`` is.
        n: blocks.
        confidence: the confidence of the interval.
        verdict: *faster* or *slower* where the interval lies wholly beyond the larger of margin and
            floor, *equivalent* where it lies wholly inside the margin, else *inconclusive*.
        resolution: relative difference that these blocks would have told with a probability of
            :data:`POWER`, NaN for fewer than two.
        n_needed: the blocks that would settle an inconclusive row, were centre and spread to
            stay; None where it cannot be told or would be more than :data:`MOST_BLOCKS`.
        gap: the half width, a log ratio, below which the interval of an inconclusive row would
            settle it, were the centre to stay; NaN where ``n_needed`` is None.
    """

    value: float
    low: float
    high: float
    n: int
    confidence: float
    verdict: Verdict
    resolution: float = math.nan
    n_needed: int | None = None
    gap: float = math.nan


def paired_centre(logs: ArrayLike) -> float:
    """The robust centre of a block's log ratios, one a round: Hodges' and Lehmann's.

    It is the median of the means of all pairs of rounds, each with itself included (Hodges and
    Lehmann 1963, Ann. Math. Statist. 34, 598-611): up to 29% of the rounds may be anything. Of the
    recorded noise it varied less between blocks than the median, and beside a busy neighbour less
    than the mean (``tests/benchmarks/test_replay.py``).

    Args:
        logs: shape (rounds,), at least one.
    """
    values = np.asarray(logs, dtype=float)
    first, second = np.triu_indices(len(values))
    return float(np.median((values[first] + values[second]) / 2))


def level(earlier: int, *, is_last: bool) -> float:
    """Alpha of the intervals of one look at a run that may end early.

    Args:
        earlier: looks before it, each of which might have ended the run.
        is_last: whether the run ends with it whatever is seen.
    """
    if is_last:
        return LAST if earlier else ALPHA
    return EARLY / 2.0 ** (earlier + 1)


def judge(
    rows: Sequence[ArrayLike],
    margin: float,
    floor: float = 0.0,
    tests: Sequence[int] | None = None,
    alpha: float = ALPHA,
) -> list[Comparison]:
    """Judge the rows of one metric, whose variances are moderated over them.

    Args:
        rows: natural logarithms of the ratio, one a block; rows may differ in length. Those that
            are not finite are left out.
        margin: relative difference that matters: 0.01 means ratios from 1 / 1.01 to 1.01 are equal.
        floor: noise floor, a log ratio: below it a difference is not told from none.
        tests: for each row how many comparisons share its alpha (Bonferroni): all of a family that
            are to hold together, 1 for a row that stands for itself; None for 1 throughout.
        alpha: share of intervals that may miss the truth; see :func:`level`.
    """
    blocks = [np.asarray(row, dtype=float) for row in rows]
    blocks = [row[np.isfinite(row)] for row in blocks]
    inside = math.log1p(margin)
    bounds = inside, max(inside, floor)
    families = tests or [1] * len(blocks)
    return [
        _judged(row, variance, prior, bounds, alpha / family)
        for row, (variance, prior), family in zip(blocks, _moderated(blocks), families, strict=True)
    ]


def _judged(
    row: Floats, variance: float, prior: float, bounds: tuple[float, float], alpha: float
) -> Comparison:
    """One row whose moderated variance counts ``prior`` degrees of freedom beside its own."""
    n = len(row)
    centre = float(row.mean()) if n else math.nan
    if n < 2:
        return Comparison(exp(centre), math.nan, math.nan, n, 1 - alpha, "inconclusive")
    df, error = n - 1 + prior, math.sqrt(variance / n)
    reach = float(stdtrit(df, 1 - alpha / 2)) * error
    told = bounds[1] + reach + float(stdtrit(df, POWER)) * error
    verdict = verdict_of(centre - reach, centre + reach, bounds)
    needed, gap = None, max(abs(centre) - bounds[1], bounds[0] - abs(centre))
    if verdict == "inconclusive":
        needed = _blocks_needed(gap, variance, prior / (n - 1), n, alpha)
    return Comparison(
        exp(centre), exp(centre - reach), exp(centre + reach), n, 1 - alpha, verdict, expm1(told),
        needed, math.nan if needed is None else gap,
    )  # fmt: skip


def verdict_of(low: float, high: float, bounds: tuple[float, float]) -> Verdict:
    """What an interval of log ratios says.

    Args:
        low: its lower end.
        high: its upper end.
        bounds: log ratios inside which two are equal, and beyond which they differ.
    """
    inside, beyond = bounds
    if high < -beyond:
        return "faster"
    if low > beyond:
        return "slower"
    return "equivalent" if low > -inside and high < inside else "inconclusive"


def _blocks_needed(gap: float, variance: float, prior: float, n: int, alpha: float) -> int | None:
    """Blocks from which on an interval of this variance is narrower than ``gap`` to either side.

    ``prior`` is per degree of freedom of the row's own.
    """

    def is_settled(blocks: int) -> bool:
        reach = float(stdtrit((blocks - 1) * (1 + prior), 1 - alpha / 2))
        return reach * math.sqrt(variance / blocks) < gap

    candidates = range(n + 1, MOST_BLOCKS + 1)
    place = bisect_left(candidates, True, key=is_settled)  # a reach falls with the blocks
    return candidates[place] if place < len(candidates) else None


def _moderated(rows: Sequence[Floats]) -> list[tuple[float, float]]:
    """Variance of each row, and how many degrees of freedom it has beyond the row's own."""
    plain = [(float(row.var(ddof=1)) if len(row) > 1 else math.nan, 0.0) for row in rows]
    known = [i for i, row in enumerate(rows) if len(row) > 1]
    if len(known) < 2:
        return plain
    variances = np.array([plain[i][0] for i in known])
    df = np.array([len(rows[i]) - 1.0 for i in known])
    typical = float(np.median(variances))
    if typical == 0:
        return plain
    common, prior = _common_variance(np.maximum(variances, _LEAST_VARIANCE * typical), df)
    weights = np.minimum(prior, _PRIOR_SHARE * df)
    weights *= np.minimum(1, common / np.maximum(variances, common))
    moderated = (weights * common + df * variances) / (weights + df)
    for place, i in enumerate(known):
        plain[i] = float(moderated[place]), float(weights[place])
    return plain


def _common_variance(variances: Floats, df: Floats) -> tuple[float, float]:
    """The variance that the rows' own scatter about, and its degrees of freedom (fitFDist).

    Log variances have the mean log s0^2 + psi(df/2) - log(df/2) - psi(d0/2) + log(d0/2) and the
    variance trigamma(df/2) + trigamma(d0/2).
    """
    logs = np.log(variances) - psi(df / 2) + np.log(df / 2)
    excess = float(logs.var(ddof=1) - polygamma(1, df / 2).mean())
    if excess <= 0:
        return float(np.exp(logs.mean())), math.inf
    prior = 2 * _inverse_trigamma(excess)
    return float(np.exp(logs.mean() + psi(prior / 2) - np.log(prior / 2))), prior


def _inverse_trigamma(value: float) -> float:
    """The x > 0 whose trigamma is ``value``, by Newton's method (Smyth 2004, appendix)."""
    x = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(polygamma(1, x))
        step = trigamma * (1 - trigamma / value) / float(polygamma(2, x))
        x += step
        if -step < 1e-8 * x:
            break
    return x
