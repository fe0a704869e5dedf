"""The mean over training seeds and documents: exact cases, and coverage by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import stdtrit

from retbench.stats.crossed_effects import crossed, crossed_effect
from retbench.stats.estimate import Estimate, satterthwaite

TABLE = np.array([[1.0, 2.0, 4.0], [1.2, 2.1, 4.5]])  # 2 seeds, 3 documents


def test_the_mean_weighs_documents_by_their_tokens():
    tokens = np.array([10, 30, 60])
    pooled = (TABLE * tokens).sum(axis=1) / tokens.sum()  # summed nats over summed tokens
    assert crossed(TABLE, tokens).value == pytest.approx(pooled.mean())


def test_the_variance_is_that_of_seeds_and_of_documents_less_the_residual():
    # By hand: means of the seeds 7/3 and 2.6, of the documents 1.1, 2.05, 4.25, of all 2.46667.
    seeds = np.array([7 / 3, 2.6]).var(ddof=1) / 2
    documents = np.array([1.1, 2.05, 4.25]).var(ddof=1) / 3
    centre = TABLE.mean()
    rest = TABLE - TABLE.mean(1, keepdims=True) - TABLE.mean(0) + centre
    residual = (rest**2).sum() / ((2 - 1) * (3 - 1)) / 6
    variance = seeds + documents - residual
    df = variance**2 / (seeds**2 / 1 + documents**2 / 2 + residual**2 / 2)
    reach = stdtrit(df, 0.975) * math.sqrt(variance)
    result = crossed(TABLE)
    assert result.method == "crossed" and result.n == 2
    assert result.value == pytest.approx(centre)
    assert (result.low, result.high) == pytest.approx((centre - reach, centre + reach))


def test_the_variance_is_never_below_either_of_its_parts():
    # Seeds and documents contribute nothing: the difference of the parts would be negative.
    table = np.array([[1.0, -1.0], [-1.0, 1.0]]) + 5
    effect, _ = crossed_effect(table)
    assert effect.error == 0.0  # both means are the same everywhere
    table[0, 0] += 0.1
    effect, _ = crossed_effect(table)
    by_seed, by_document = table.mean(axis=1), table.mean(axis=0)
    assert effect.error**2 >= max(by_seed.var(ddof=1), by_document.var(ddof=1)) / 2 - 1e-15


def test_one_seed_covers_the_documents_alone():
    values = np.array([[1.0, 2.0, 4.0]])
    result = crossed(values)
    reach = stdtrit(2, 0.975) * values.std(ddof=1) / math.sqrt(3)
    assert (result.method, result.n) == ("documents", 1)
    assert result.high - result.value == pytest.approx(reach)


def test_one_document_covers_the_seeds_alone():
    values = np.array([[1.0], [2.0], [4.0]])
    result = crossed(values)
    reach = stdtrit(2, 0.975) * values.std(ddof=1) / math.sqrt(3)
    assert (result.method, result.n) == ("seeds", 3)
    assert result.high - result.value == pytest.approx(reach)


def test_one_seed_on_one_document_has_no_interval():
    assert crossed([[3.0]]) == Estimate(3.0, None, None, 1, "none")


@pytest.mark.parametrize("empty", [np.empty((0, 4)), np.empty((3, 0)), np.full((2, 3), math.nan)])
def test_nothing_has_no_value(empty):
    result = crossed(empty)
    assert math.isnan(result.value)
    assert (result.low, result.high, result.n, result.method) == (None, None, 0, "none")


def test_a_seed_that_diverged_is_left_out_and_not_counted():
    with_failure = np.vstack([TABLE, [math.nan, math.inf, 1.0]])
    assert crossed(with_failure, [1, 2, 3]) == crossed(TABLE, [1, 2, 3])


def test_a_document_that_nobody_scored_is_left_out():
    wider = np.column_stack([TABLE, [math.nan, math.nan]])
    assert crossed(wider, [1, 2, 3, 9]) == crossed(TABLE, [1, 2, 3])


def test_a_document_without_tokens_is_left_out():
    wider = np.column_stack([TABLE, [7.0, 8.0]])
    assert crossed(wider, [1, 2, 3, 0]) == crossed(TABLE, [1, 2, 3])


def test_only_the_proportions_of_weights_matter():
    once, twice = crossed(TABLE, [1, 2, 3]), crossed(TABLE, [2, 4, 6])
    assert (once.value, once.low, once.high) == pytest.approx((twice.value, twice.low, twice.high))


@pytest.mark.parametrize(
    ("values", "weights"),
    [
        ([1.0, 2.0], None),
        (TABLE, [1, 2]),
        (TABLE, [1, -2, 3]),
        (TABLE, [0, 0, 0]),
        (TABLE, [1, math.nan, 3]),
    ],
)
def test_what_cannot_be_weighed_is_refused(values, weights):
    with pytest.raises(ValueError):
        crossed(values, weights)


def test_pairing_by_seed_and_document_cancels_what_both_share():
    rng = np.random.default_rng(0)
    hard = rng.normal(2, 1, (1, 20)) + rng.normal(0, 0.3, (4, 1))
    result = crossed((hard + 0.01) - hard)
    assert (result.low, result.high) == pytest.approx((0.01, 0.01))


def test_a_loss_becomes_a_perplexity_with_its_interval():
    loss = crossed(TABLE)
    found = loss.mapped(math.exp)
    assert found.low == math.exp(loss.low) and found.value == math.exp(loss.value)
    assert crossed([[3.0]]).mapped(math.exp).low is None


def test_one_document_that_holds_nearly_all_tokens_leaves_one_degree_of_freedom():
    result, _ = crossed_effect(np.array([[1.0, 2.0, 3.0]]), [1e4, 1.0, 1.0])
    assert result.df == 1.0
    assert math.isfinite(result.error)


@given(st.lists(st.lists(st.floats(-5, 5), min_size=3, max_size=3), min_size=1, max_size=5))
def test_the_interval_holds_its_centre(rows):
    found = crossed(rows)
    assert found.low <= found.value <= found.high


# Standard deviations of (seed, document, rest), nats per token: a loss whose documents differ
# most, one whose seeds do, a paired difference of models, and pure rest.
SOURCES = [(0.01, 0.2, 0.02), (0.1, 0.02, 0.05), (0.02, 0.02, 0.1), (0.0, 0.0, 0.1)]


@pytest.mark.parametrize("sources", SOURCES)
@pytest.mark.parametrize(("seeds", "documents"), [(3, 20), (5, 9), (5, 32)])
@pytest.mark.parametrize("unequal", [False, True])
def test_the_interval_covers_the_truth_92_to_99_times_in_100(sources, seeds, documents, unequal):
    rng = np.random.default_rng(seeds)
    repeats = 600
    weights = rng.uniform(1, 3, documents) if unequal else None
    seed, document, rest = (
        rng.normal(0, sd, (repeats, *shape))
        for sd, shape in zip(sources, [(seeds, 1), (1, documents), (seeds, documents)], strict=True)
    )
    results = [crossed(table, weights) for table in 1.5 + seed + document + rest]
    coverage = np.mean([result.low <= 1.5 <= result.high for result in results])
    slack = 2.5 * math.sqrt(0.95 * 0.05 / repeats)  # of the simulation itself
    assert 0.92 - slack / 2 <= coverage
    assert coverage <= 0.99 + slack / 2


def test_pooling_what_is_crossed_would_not_cover_it():
    """Why the function is needed: seeds by documents taken as independent values miss."""
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(500):
        table = rng.normal(0, 0.1, (3, 1)) + rng.normal(0, 0.2, (1, 20))
        reach = 1.96 * table.std(ddof=1) / math.sqrt(table.size)
        hits.append(abs(table.mean()) <= reach)
    assert np.mean(hits) < 0.75


@pytest.mark.parametrize("size", [1e-300, 1e-150, 1e150, 1e300])
def test_degrees_of_freedom_have_no_scale(size: float) -> None:
    parts = [(2.0, 3.0), (0.5, 7.0), (0.0, 1.0)]
    expected = satterthwaite(parts)
    assert satterthwaite([(size * part, df) for part, df in parts]) == pytest.approx(expected)
