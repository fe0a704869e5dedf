"""The mean of a table of training seeds by test documents, with an interval that covers both.

Two sources of chance lie behind a perplexity: the seed of the training (initial weights, order of
the data) and the choice of the test documents. Every seed is tested on every document, so the two
are crossed: neither the pooled values nor the seeds' means alone say how far another seed on other
documents would come out.

The model is ``y[s, j] = mu + seed[s] + document[j] + rest[s, j]``, all but ``mu`` random. With
document weights ``w`` (summing to 1) the variance of the weighted mean is

    var(seed) / S + var(document) sum(w^2) + var(rest) sum(w^2) / S

The spread of the seeds' means estimates the first part and the third, the spread of the documents'
means the second and the third; the residuals give the third, which has then been counted twice.

Sources: two-way random effects without replication, Searle, Casella and McCulloch (1992),
"Variance Components", chapter 4; degrees of freedom, Satterthwaite (1946).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from retbench.stats.estimate import Effect, Estimate, Floats, Method, satterthwaite


def crossed(values: ArrayLike, weights: ArrayLike | None = None) -> Estimate:
    """The weighted mean over seeds and documents, both taken as random.

    A document that no seed has a finite value for is left out, then every seed that misses one:
    the table must be complete. ``n`` counts the seeds that remain.

    With one seed the interval covers the choice of documents alone (method ``documents``): another
    training may lie outside it. With one document it covers the seeds alone (method ``seeds``).

    Args:
        values: shape (seeds, documents), such as nats per token of each document, or differences
            of two models paired by seed and document.
        weights: shape (documents,), at least 0, such as tokens of each document, so that the mean
            is summed nats over summed tokens; None for equal weights.

    Raises:
        ValueError: the shapes do not fit, or the weights are negative or sum to 0.

        >>> crossed([[1.0, 3.0]], [3, 1]).value
        1.5
    """
    effect, method = crossed_effect(values, weights)
    return effect.estimate(method)


def crossed_effect(values: ArrayLike, weights: ArrayLike | None = None) -> tuple[Effect, Method]:
    """What :func:`crossed` makes its interval of, and the interval's method.

    The part of the variance that comes from the documents stays however many seeds there are.
    """
    table, share = _complete(values, weights)
    seeds, documents = table.shape
    if table.size == 0:
        return Effect(math.nan, math.nan, math.nan, 0), "none"
    by_seed, by_document = table @ share, table.mean(axis=0)
    centre = float(by_seed.mean())
    if seeds < 2 and documents < 2:
        return Effect(centre, math.nan, math.nan, seeds), "none"
    seed_part = float(by_seed.var(ddof=1)) / seeds if seeds > 1 else 0.0
    if documents < 2:
        return Effect(centre, math.sqrt(seed_part), seeds - 1, seeds), "seeds"
    scale, document_df = _weighting(share)
    document_part = scale * float(share**2 @ (by_document - centre) ** 2)
    if seeds < 2:
        error = math.sqrt(document_part)
        return Effect(centre, error, document_df, 1, document_part, document_df), "documents"
    rest = table - by_seed[:, None] - by_document + centre
    rest_part = scale * float((rest**2 @ share**2).sum()) / (seeds * (seeds - 1))
    # The difference of estimates can fall below either; the truth cannot.
    variance = max(seed_part + document_part - rest_part, seed_part, document_part)
    parts = [(seed_part, seeds - 1), (document_part, document_df)]
    df = satterthwaite([*parts, (rest_part, (seeds - 1) * document_df)], variance)
    fixed = max(variance - seed_part, 0.0)
    return Effect(centre, math.sqrt(variance), df, seeds, fixed, document_df), "crossed"


def _complete(values: ArrayLike, weights: ArrayLike | None) -> tuple[Floats, Floats]:
    """The table without what is missing, and the documents' weights, summing to 1."""
    table = np.asarray(values, dtype=float)
    if table.ndim != 2:
        raise ValueError(f"values must be of shape (seeds, documents), not {table.shape}")
    weight = np.ones(table.shape[1]) if weights is None else np.asarray(weights, dtype=float)
    if weight.shape != table.shape[1:]:
        raise ValueError(f"{table.shape[1]} documents cannot have weights of shape {weight.shape}")
    if not (np.isfinite(weight) & (weight >= 0)).all():
        raise ValueError("weights must be finite and at least 0")
    known = np.isfinite(table)
    scored = known.any(axis=0) & (weight > 0)
    table, weight = table[:, scored], weight[scored]
    if table.size == 0:
        if known.any():
            raise ValueError("the weights of the documents that have values sum to 0")
        return np.empty((0, 0)), np.empty(0)
    return table[np.isfinite(table).all(axis=1)], weight / weight.sum()


def _weighting(share: Floats) -> tuple[float, float]:
    """Factor that makes a weighted sum of squared deviations unbiased, and its freedom.

    For values of equal variance v, the sum of w^2 (y - mean)^2 has the expectation
    v (sum w^2 - 2 sum w^3 + (sum w^2)^2), and the variance of the mean is v sum w^2. The degrees
    of freedom are those of as many equal documents, never under 1.
    """
    second = float((share**2).sum())
    expectation = second - 2 * float((share**3).sum()) + second**2
    scale = second / max(expectation, 1e-12)  # 0 up to rounding where one document is everything
    return scale, max(second**2 / float((share**4).sum()) - 1, 1.0)
