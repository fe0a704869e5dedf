"""Scaling laws: the loss as a power of the model's size or of the training FLOPs, and crossings.

The law is ``loss = scale * x**-exponent`` (Kaplan et al. 2020, arXiv 2001.08361, equation 1.1), a
line on logarithms; with an irreducible part ``loss = offset + scale * x**-exponent`` (Hoffmann et
al. 2022, arXiv 2203.15556, equation 2, of one variable). It is fitted to each training seed by
itself, and the intervals are Student's t over the seeds: they say how far another seed would lie,
not how far the law holds beyond the sizes it was fitted to.

    >>> law = power_law([1e6, 1e7, 1e8], [[3.0, 2.4, 1.92], [3.0, 2.4, 1.92]])
    >>> round(law.exponent.value, 4)
    0.0969
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from retbench.stats.estimate import Effect, Estimate, Floats, exp, t_quantile

LEAST_SIZES = 2
LEAST_SIZES_OFFSET = 4  # three numbers are fitted


@dataclass(frozen=True)
class PowerLaw:
    """A fitted law.

    Attributes:
        exponent: how fast the loss falls; positive where it does.
        scale: the loss, less the offset, at x = 1; an interval on logarithms.
        offset: the irreducible loss; None where none was fitted.
        lines: log loss at ``middle`` and slope over log x of each seed, shape (seeds, 2); the
            loss is that less the offset.
        offsets: the offset of each seed, shape (seeds,), 0 where none was fitted.
        middle: mean of log x.
        smallest: least x that was fitted to.
        largest: greatest x that was fitted to.
    """

    exponent: Estimate
    scale: Estimate
    offset: Estimate | None
    lines: Floats
    offsets: Floats
    middle: float
    smallest: float
    largest: float

    def at(self, x: ArrayLike) -> Floats:
        """The loss at ``x``, of any shape: the geometric mean over the seeds' laws."""
        u = np.log(np.asarray(x, dtype=float))[..., None] - self.middle
        logs = np.log(self.offsets + np.exp(self.lines[:, 0] + self.lines[:, 1] * u))
        return np.asarray(np.exp(logs.mean(axis=-1)), dtype=np.float64)


def power_law(x: ArrayLike, y: ArrayLike, *, offset: bool = False) -> PowerLaw | None:
    """Fit a power law to every seed, by least squares of logarithms.

    A seed that misses a size is left out, unless all do; then each is fitted to what it has.

    Args:
        x: sizes, shape (sizes,), positive, in any order: non-embedding parameters, or FLOPs.
        y: losses, shape (seeds, sizes) or (sizes,), positive; NaN where there is none.
        offset: whether to fit an irreducible loss too, by least squares of relative errors.

    Returns:
        The law, or None where no seed has enough sizes: two, with an offset four.
    """
    at = np.asarray(x, dtype=float)
    table = np.atleast_2d(np.asarray(y, dtype=float))
    if at.ndim != 1 or table.shape[1:] != at.shape:
        raise ValueError(f"{table.shape} losses do not fit {at.shape} sizes")
    least = LEAST_SIZES_OFFSET if offset else LEAST_SIZES
    known = np.isfinite(table) & (table > 0) & np.isfinite(at) & (at > 0)
    log = np.log(np.where(known.any(axis=0), at, 1.0))
    sizes = np.array([len(np.unique(log[has])) for has in known])  # equal ones are one
    if max(sizes, default=0) < least:
        return None
    fullest = sizes == sizes.max()
    table, known = table[fullest], known[fullest]
    used = known.any(axis=0)
    middle = float(log[used].mean())
    fits = [
        _fit(log[has] - middle, row[has], offset) for row, has in zip(table, known, strict=True)
    ]
    lines = np.array([(height, slope) for _, height, slope in fits])
    offsets = np.array([irreducible for irreducible, _, _ in fits])
    scales = _mean(lines[:, 0] - lines[:, 1] * middle)
    return PowerLaw(
        exponent=_mean(-lines[:, 1]),
        scale=scales.mapped(exp),
        offset=_mean(offsets).mapped(lambda value: max(value, 0.0)) if offset else None,
        lines=lines, offsets=offsets, middle=middle,
        smallest=float(at[used].min()), largest=float(at[used].max()),
    )  # fmt: skip


@dataclass(frozen=True)
class Crossing:
    """Where two laws meet.

    Attributes:
        status: ``within`` the fitted sizes, with its interval; ``outside``: the laws meet, or their
            interval ends, beyond them, of which the laws say nothing; or ``unclear``: the slopes
            are not told apart, so that the laws may meet anywhere or nowhere.
        value: the x at which they meet; None but within.
        low: lower end of its interval; None where there is none, as from one seed.
        high: upper end of its interval; None where ``low`` is.
        beyond: whether the subject is the ``better`` or the ``worse`` one at larger x; None but
            within.
        n: seeds behind it.
    """

    status: Literal["within", "outside", "unclear"]
    value: float | None
    low: float | None
    high: float | None
    beyond: Literal["better", "worse"] | None
    n: int


def crossing(subject: PowerLaw, baseline: PowerLaw) -> Crossing:
    """Where the laws of two models meet, paired by seed; both without an offset.

    The difference of the log losses is a line over log x, and its zero a ratio of two uncertain
    numbers, so the interval is that of Fieller (1954, J. R. Statist. Soc. B 16, 175-185): all x at
    which the mean difference over seeds is not told apart from 0. It is bounded only if the slopes
    differ significantly; otherwise the crossing is unclear. Of two seeds' laws that are equal in
    number they are taken as pairs in their order.

    Args:
        subject: its law.
        baseline: the other's, of the same seeds.

    Raises:
        ValueError: a law has an offset, or the numbers of seeds differ.
    """
    if subject.offset is not None or baseline.offset is not None:
        raise ValueError("crossings are of laws without an offset")
    if len(subject.lines) != len(baseline.lines):
        raise ValueError("the two laws come from different numbers of seeds")
    shift = subject.middle - baseline.middle  # both lines over u = log x - subject.middle
    other = baseline.lines + np.outer(baseline.lines[:, 1] * shift, [1.0, 0.0])
    gaps = subject.lines - other
    n = len(gaps)
    height, slope = (float(mean) for mean in gaps.mean(axis=0))
    nothing = Crossing("unclear", None, None, None, None, n)
    edges = _fieller(gaps) if n > 1 else None
    if slope == 0 or (n > 1 and edges is None):
        return nothing
    place, middle = -height / slope, subject.middle
    smallest = math.log(min(subject.smallest, baseline.smallest)) - middle
    largest = math.log(max(subject.largest, baseline.largest)) - middle
    reach = (place, *(edges or ()))
    if min(reach) < smallest or max(reach) > largest:
        return replace(nothing, status="outside")
    low, high = (None, None) if edges is None else (exp(edge + middle) for edge in edges)
    beyond: Literal["better", "worse"] = "better" if slope < 0 else "worse"
    return Crossing("within", exp(place + middle), low, high, beyond, n)


def _fieller(gaps: Floats) -> tuple[float, float] | None:
    """The zero's interval of the mean line of (height, slope), None where it is not bounded."""
    n = len(gaps)
    height, slope = gaps.mean(axis=0)
    (v_height, v_both), (_, v_slope) = np.cov(gaps, rowvar=False) / n * t_quantile(n - 1) ** 2
    # u with (height + slope u)^2 <= t^2 var(height + slope u): a u^2 + 2 b u + c <= 0
    a, b, c = slope**2 - v_slope, height * slope - v_both, height**2 - v_height
    if a <= 0:
        return None
    reach = math.sqrt(max(b * b - a * c, 0.0))
    return (-b - reach) / a, (-b + reach) / a


def _fit(u: Floats, losses: Floats, offset: bool) -> tuple[float, float, float]:
    """Offset, log scale at u = 0 and slope over u of one seed; u is centred log x."""
    if not offset:
        slope, height = np.polyfit(u, np.log(losses), 1)
        return 0.0, float(height), float(slope)
    exponents = np.geomspace(1e-3, 5.0, 200)
    for _ in range(4):  # each round narrows the bracket by a factor of 100
        errors = [_linear(u, losses, exponent)[0] for exponent in exponents]
        best = int(np.argmin(errors))
        edges = exponents[max(best - 1, 0)], exponents[min(best + 1, len(exponents) - 1)]
        fitted = float(exponents[best])
        exponents = np.geomspace(*edges, 200)
    _, irreducible, scale = _linear(u, losses, fitted)
    return irreducible, math.log(scale), -fitted


def _linear(u: Floats, losses: Floats, exponent: float) -> tuple[float, float, float]:
    """Squared relative error, offset (at least 0) and scale that fit best at one exponent."""
    columns = np.stack([np.ones_like(u), np.exp(-exponent * u)], axis=1) / losses[:, None]
    (irreducible, scale), *_ = np.linalg.lstsq(columns, np.ones_like(u), rcond=None)
    if irreducible < 0 or scale <= 0:
        irreducible, power = 0.0, columns[:, 1]
        scale = power.sum() / (power @ power)
    error = float(((columns @ [irreducible, scale] - 1) ** 2).sum())
    return error, float(irreducible), float(scale)


def _mean(values: Floats) -> Estimate:
    n = len(values)
    error = float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    return Effect(float(values.mean()), error, n - 1, n).estimate("t")
