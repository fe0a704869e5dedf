"""Verdicts on quality, and accuracies: the training seed is the unit of replication.

A loss is compared paired by training seed and by document, an accuracy paired by training seed. The
margin is 1% of perplexity, or one percentage point of accuracy: less is *equivalent*. To say that
one model beats another takes at least five seeds (rule M2), to say that they are equivalent three;
a table's verdicts are corrected together by Holm's method.

    >>> losses = [[0.10, 0.11], [0.10, 0.12], [0.11, 0.12]]     # of 3 seeds, 2 documents
    >>> loss_verdicts([(losses, None)])
    [QualityVerdict(word='inconclusive', n_needed=5)]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr, stdtrit

from retbench.stats.crossed_effects import crossed_effect
from retbench.stats.estimate import (
    CONFIDENCE,
    Effect,
    Estimate,
    Floats,
    holm,
    satterthwaite,
    t_quantile,
)

MARGIN_NATS = math.log(1.01)  # 1% of perplexity, in nats per token
MARGIN_ACCURACY = 0.01
LEAST_SEEDS = 5  # to say that one model is better
LEAST_SEEDS_EQUIVALENT = 3  # to say anything
MOST_SEEDS = 1000  # a row that needs more will not be settled by further trainings


@dataclass(frozen=True)
class QualityVerdict:
    """What the difference of two models supports.

    Attributes:
        word: what the subject is, compared with the baseline, in a word.
        n_needed: for an inconclusive row, the training seeds at which an interval of this centre
            and spread would settle it, at least five; None where it cannot be told or no number
            of seeds would do, the test documents being too few.
    """

    word: Literal["better", "worse", "equivalent", "inconclusive"]
    n_needed: int | None = None


def loss_verdicts(
    rows: Sequence[tuple[ArrayLike, ArrayLike | None]], margin: float = MARGIN_NATS
) -> list[QualityVerdict]:
    """The verdict on each row of a table of differences of losses.

    Args:
        rows: for each comparison the differences subject - baseline, (seeds, documents), in nats
            per token, and the documents' weights, as :func:`crossed_effect` takes them.
        margin: difference that matters, nats per token.
    """
    effects = [crossed_effect(values, weights)[0] for values, weights in rows]
    return _verdicts(effects, margin, lower_is_better=True)


def accuracy_verdicts(
    rows: Sequence[tuple[ArrayLike, ArrayLike, ArrayLike]],
) -> list[QualityVerdict]:
    """The verdict on each row of a table of differences of accuracies.

    Args:
        rows: arguments of :func:`accuracy_difference`.
    """
    effects = [_difference(*row) for row in rows]
    return _verdicts(effects, MARGIN_ACCURACY, lower_is_better=False)


def _verdicts(
    effects: Sequence[Effect], margin: float, lower_is_better: bool
) -> list[QualityVerdict]:
    """The verdict on each effect, all corrected together.

    Rows of fewer than three seeds make no claim and do not count in the correction.
    """
    judged = {i: e for i, e in enumerate(effects) if e.n >= LEAST_SEEDS_EQUIVALENT}
    support = {i: _best_supported(effect, margin) for i, effect in judged.items()}
    levels = holm([p_value for _, p_value in support.values()], 1 - CONFIDENCE)
    corrected = dict(zip(support, levels, strict=True))
    verdicts = []
    for i, effect in enumerate(effects):
        level, stands = corrected.get(i, (1 - CONFIDENCE, False))
        side = support[i][0] if stands else 0
        if not stands:
            needed = _seeds_needed(effect, margin, level)
            verdicts.append(QualityVerdict("inconclusive", needed))
        elif side == 0:
            verdicts.append(QualityVerdict("equivalent"))
        elif effect.n < LEAST_SEEDS:
            verdicts.append(QualityVerdict("inconclusive", LEAST_SEEDS))
        else:
            verdicts.append(QualityVerdict("better" if (side < 0) == lower_is_better else "worse"))
    return verdicts


def _best_supported(effect: Effect, margin: float) -> tuple[int, float]:
    """The claim that an effect supports best against a margin, and its p-value.

    The claim is -1 (below ``-margin``), 0 (inside) or 1 (above ``margin``). Its p-value is the
    alpha at which the two-sided interval of confidence 1 - alpha just touches the margin from that
    side.
    """
    depth = {-1: -margin - effect.centre, 0: margin - abs(effect.centre), 1: effect.centre - margin}
    side = max(depth, key=lambda claim: depth[claim])
    if depth[side] <= 0:  # exactly on the margin
        return side, 1.0
    if effect.error == 0:
        return side, 0.0
    return side, float(2 * stdtr(effect.df, -depth[side] / effect.error))


def _seeds_needed(effect: Effect, margin: float, level: float) -> int | None:
    """Seeds at which an interval of this centre and spread clears the margin, at least five.

    From one seed only that it takes five. None where it would exceed a thousand, or where the part
    of the error that further seeds do not lower is too large by itself.

    Args:
        effect: the centre, and its error.
        margin: its half width, in the unit of the effect.
        level: 1 - confidence of the interval.
    """
    if effect.n < 2:
        return LEAST_SEEDS if effect.n else None
    least = max(LEAST_SEEDS, effect.n + 1)
    gap = abs(abs(effect.centre) - margin)
    single = max(effect.error**2 - effect.fixed, 0.0) * effect.n
    n = np.arange(least, MOST_SEEDS + 1, dtype=np.float64)
    falling = single / n
    variance = falling + effect.fixed
    if not variance.any():
        return least if gap > 0 else None
    spread = falling**2 / (n - 1) + effect.fixed**2 / effect.fixed_df
    df = np.divide(variance**2, spread, out=np.full_like(n, math.inf), where=spread > 0)
    settled = stdtrit(df, 1 - level / 2) * np.sqrt(variance) < gap
    return int(n[np.argmax(settled)]) if settled.any() else None


def accuracy(correct: ArrayLike, answers: ArrayLike) -> Estimate:
    """The mean accuracy over training seeds, with an interval that stays between 0 and 1.

    The variance is that of the seeds' mean plus that of the questions, p (1 - p) over the answers
    of one seed: every seed is asked the same questions, so that more seeds are not more questions.
    The interval is Wilson's score interval of as many answers as have that variance, with Student's
    t at Satterthwaite's degrees of freedom in place of the normal quantile. Where every answer of
    every seed is right it still has a lower end; that a further training fails altogether, equal
    seeds cannot tell. With one seed it is Wilson's interval itself and covers the questions alone;
    from two, which support no claim (M2), it may cover less than it says.

    Sources: Wilson (1927), "Probable inference, the law of succession, and statistical inference",
    JASA 22, 209-212; effective sample size, Korn and Graubard (1998), Survey Methodology 24,
    193-201; the two together, Dean and Pagano (2015), J. Survey Stat. Methodol. 3, 484-503.

    Args:
        correct: right answers of each seed, shape (seeds,).
        answers: answers of each seed, shape (seeds,), positive.

    Raises:
        ValueError: a seed has no answers, or more right ones than answers.
    """
    right, answered = _counts(correct, answers)
    n = len(answered)
    if n == 0:
        return Estimate(math.nan, None, None, 0, "none")
    shares = right / answered
    centre, questions = float(shares.mean()), float(answered.max())
    single = centre * (1 - centre)  # variance of one answer
    seeds = float(shares.var(ddof=1)) / n if n > 1 else 0.0
    df = satterthwaite([(seeds, n - 1), (single / questions, math.inf)])
    effective = single / (seeds + single / questions) if single / questions else questions
    low, high = _wilson(centre, effective, t_quantile(df))
    return Estimate(centre, min(low, centre), max(high, centre), n, "wilson")


def _wilson(share: float, answers: float, quantile: float) -> tuple[float, float]:
    """The shares whose score test does not reject ``share``."""
    square = quantile**2 / answers
    middle = (share + square / 2) / (1 + square)
    reach = math.sqrt(square * (share * (1 - share) + square / 4)) / (1 + square)
    return max(middle - reach, 0.0), min(middle + reach, 1.0)


def accuracy_difference(subject: ArrayLike, baseline: ArrayLike, answers: ArrayLike) -> Estimate:
    """The mean difference of accuracies subject - baseline, paired by training seed.

    Student's t; the variance is that of the seeds' differences plus that of the questions, which
    no further seed lowers, as in :func:`accuracy`, after one right and one wrong answer is added to
    each side (Agresti and Caffo 2000, The American Statistician 54, 280-288): two models that are
    always right differ by 0, but not with certainty. With one seed the interval covers the
    questions alone (method ``answers``).

    Args:
        subject: right answers of the subject in each seed, shape (seeds,).
        baseline: right answers of the baseline, in the same seeds and the same order.
        answers: answers of each side in each seed, shape (seeds,), positive.

    Raises:
        ValueError: as for :func:`accuracy`.
    """
    effect = _difference(subject, baseline, answers)
    estimate = effect.estimate("t" if effect.n > 1 else "answers")
    return estimate.mapped(lambda value: min(max(value, -1.0), 1.0))


def _difference(subject: ArrayLike, baseline: ArrayLike, answers: ArrayLike) -> Effect:
    above, below = np.asarray(subject, dtype=float), np.asarray(baseline, dtype=float)
    both = np.isfinite(above) & np.isfinite(below)
    answered = np.where(both, np.asarray(answers, dtype=float), math.nan)
    (above, answered), (below, _) = _counts(above, answered), _counts(below, answered)
    n = len(answered)
    if n == 0:
        return Effect(math.nan, math.nan, math.nan, 0)
    differences = (above - below) / answered
    questions = float(answered.max())
    means = np.array([(above / answered).mean(), (below / answered).mean()])
    shares = (means * questions + 1) / (questions + 2)
    fixed = float((shares * (1 - shares)).sum()) / (questions + 2)
    seeds = float(differences.var(ddof=1)) / n if n > 1 else 0.0
    df = satterthwaite([(seeds, n - 1), (fixed, math.inf)])
    return Effect(float(differences.mean()), math.sqrt(seeds + fixed), df, n, fixed=fixed)


def _counts(correct: ArrayLike, answers: ArrayLike) -> tuple[Floats, Floats]:
    """Right answers and answers of the seeds that have both."""
    right, answered = np.asarray(correct, dtype=float), np.asarray(answers, dtype=float)
    known = np.isfinite(right) & np.isfinite(answered)
    right, answered = right[known], answered[known]
    if (answered <= 0).any() or (right < 0).any() or (right > answered * (1 + 1e-9)).any():
        raise ValueError("right answers must lie between 0 and the answers, and these above 0")
    return right, answered
