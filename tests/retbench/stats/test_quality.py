"""Verdicts on losses and accuracies, and intervals of accuracies."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retbench.stats import quality as quality

ONE_PERCENT = math.log(1.01)


def differences(centre, *, seeds=5, documents=20, spread=0.001, seed=0):
    """Differences of losses of this exact mean, shape (seeds, documents)."""
    rng = np.random.default_rng(seed)
    table = rng.normal(0, spread, (seeds, documents)) + rng.normal(0, spread, (seeds, 1))
    return table - table.mean() + centre


def verdicts(*tables, **options):
    return quality.loss_verdicts([(table, None) for table in tables], **options)


def words(*tables, **options):
    return [verdict.word for verdict in verdicts(*tables, **options)]


def test_a_lower_loss_is_better_and_a_higher_one_worse():
    assert words(differences(-0.05), differences(0.05)) == ["better", "worse"]


def test_a_difference_inside_one_percent_of_perplexity_is_equivalent():
    assert words(differences(0.9 * ONE_PERCENT, spread=1e-4)) == ["equivalent"]
    assert words(differences(1.1 * ONE_PERCENT, spread=1e-4)) == ["worse"]


def test_an_interval_across_the_margin_is_inconclusive():
    assert words(differences(0.01, spread=0.01)) == ["inconclusive"]


@pytest.mark.parametrize("seeds", [1, 2, 3, 4])
def test_fewer_than_five_seeds_never_earn_better_or_worse(seeds):
    (verdict,) = verdicts(differences(-0.5, seeds=seeds, spread=1e-5))
    assert verdict == quality.QualityVerdict("inconclusive", 5)


def test_three_seeds_may_be_equivalent_but_two_claim_nothing():
    assert words(differences(0.0, seeds=3, spread=1e-5)) == ["equivalent"]
    assert words(differences(0.0, seeds=2, spread=1e-5)) == ["inconclusive"]


def test_an_inconclusive_row_of_five_seeds_needs_more_than_five():
    (verdict,) = verdicts(differences(0.03, documents=2000, spread=0.03))
    assert verdict.word == "inconclusive"
    assert verdict.n_needed > 5


def test_a_row_that_seeds_cannot_settle_says_no_number():
    # The seeds agree exactly, the documents do not: only more documents would help.
    documents = np.random.default_rng(0).normal(0.012, 0.1, 20)
    assert verdicts(np.tile(documents, (5, 1))) == [quality.QualityVerdict("inconclusive", None)]


def test_nothing_measured_claims_nothing():
    assert verdicts(np.empty((0, 0))) == [quality.QualityVerdict("inconclusive", None)]


def test_a_row_that_stands_alone_may_fall_in_a_table():
    row = differences(0.016, spread=0.0025, seed=2)
    assert words(row) == ["worse"]
    assert words(*[row] * 30) == ["inconclusive"] * 30


def test_rows_of_too_few_seeds_do_not_weaken_the_others():
    row = differences(0.016, spread=0.0025, seed=2)
    few = [differences(0.0, seeds=2)] * 30
    assert words(row, *few)[0] == "worse"


def test_documents_are_weighed_by_their_tokens():
    table = np.tile([0.1, -0.1], (5, 1)) + differences(0, documents=2, spread=1e-6)
    near = np.tile([-0.0301, -0.03], (5, 1))
    assert quality.loss_verdicts([(near, [1, 1])])[0].word == "better"
    assert quality.loss_verdicts([(table, [1e4, 1])])[0].word != "better"


def test_equal_models_are_told_apart_in_at_most_6_tables_of_100():
    rng = np.random.default_rng(5)
    wrong = []
    for _ in range(300):
        shape = (4, 5, 20)  # rows, seeds, documents
        rows = rng.normal(0, 0.02, (4, 5, 1)) + rng.normal(0, 0.02, (4, 1, 20))
        rows = rows + rng.normal(0, 0.02, shape)
        wrong.append(set(words(*rows, margin=0.0)) != {"inconclusive"})
    assert np.mean(wrong) <= 0.06


# Accuracy


def test_the_accuracy_is_the_mean_over_seeds():
    assert quality.accuracy([50, 70], [100, 100]).value == pytest.approx(0.6)


def test_one_seed_has_wilson_s_interval():
    # Wilson's interval of 81 of 263, the worked example of Newcombe (1998): 0.2553 to 0.3662.
    result = quality.accuracy([81], [263])
    assert (result.low, result.high) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert (result.method, result.n) == ("wilson", 1)


@pytest.mark.parametrize("seeds", [1, 3, 5])
def test_always_right_is_not_certainly_always_right(seeds):
    result = quality.accuracy([200] * seeds, [200] * seeds)
    assert result.value == result.high == 1.0
    assert 0.9 < result.low < 1.0
    wrong = quality.accuracy([0] * seeds, [200] * seeds)
    assert wrong.value == wrong.low == 0.0
    assert wrong.high == pytest.approx(1 - result.low)


def test_seeds_that_disagree_widen_the_interval_however_many_answers_they_gave():
    result = quality.accuracy([1000, 1000, 0], [1000] * 3)
    assert result.low < 0.1 and result.high > 0.9


def test_a_failed_seed_is_left_out_and_not_counted():
    assert quality.accuracy([50, math.nan, 60], [100] * 3) == quality.accuracy([50, 60], [100] * 2)


def test_no_seed_has_no_accuracy():
    result = quality.accuracy([], [])
    assert math.isnan(result.value) and result.method == "none"


@pytest.mark.parametrize(("right", "asked"), [([1], [0]), ([5], [4]), ([-1], [4])])
def test_impossible_counts_are_refused(right, asked):
    with pytest.raises(ValueError, match="right answers"):
        quality.accuracy(right, asked)


@given(st.lists(st.integers(0, 64), min_size=1, max_size=6))
def test_an_accuracy_and_its_interval_stay_between_0_and_1(right):
    result = quality.accuracy(right, [64] * len(right))
    assert 0 <= result.low <= result.value <= result.high <= 1


@pytest.mark.parametrize("centre", [0.5, 0.9, 0.98])
@pytest.mark.parametrize(("seeds", "between"), [(1, 0.0), (3, 0.02), (5, 0.02), (5, 0.0)])
def test_the_interval_covers_the_true_accuracy(seeds, between, centre):
    rng = np.random.default_rng(seeds)
    places = np.clip(centre + rng.uniform(-1, 1, (800, seeds)) * between, 0, 1)
    results = [quality.accuracy(row, [256] * seeds) for row in rng.binomial(256, places)]
    assert np.mean([result.low <= centre <= result.high for result in results]) >= 0.93


def test_more_seeds_are_not_more_questions():
    right = [quality.accuracy([128] * seeds, [128] * seeds) for seeds in (1, 3, 10)]
    assert len({result.low for result in right}) == 1
    middling = [quality.accuracy([64] * seeds, [128] * seeds) for seeds in (1, 10)]
    assert middling[1].low == pytest.approx(middling[0].low)


@pytest.mark.parametrize("between", [0.1, 0.5])
def test_the_interval_covers_seeds_and_questions_that_all_seeds_share(between):
    rng = np.random.default_rng(3)
    repeats, seeds, questions = 500, 5, 128
    hard = rng.normal(0, 3, (repeats, 1, questions))
    seed = rng.normal(0, between, (repeats, seeds, 1))
    right = (rng.normal(0, 1, (repeats, seeds, questions)) < hard + seed).sum(axis=2)
    results = [quality.accuracy(row, [questions] * seeds) for row in right]
    assert np.mean([result.low <= 0.5 <= result.high for result in results]) >= 0.93


# Differences of accuracies


def test_the_difference_is_paired_by_seed():
    subject, baseline = np.array([900, 800, 700]), np.array([600, 500, 400])
    result = quality.accuracy_difference(subject, baseline, [1000] * 3)
    assert result.value == pytest.approx(0.3)
    assert result.low > 0.2  # unpaired, the seeds' spread would leave it open


def test_two_models_that_are_always_right_differ_by_0_without_certainty():
    result = quality.accuracy_difference([64] * 3, [64] * 3, [64] * 3)
    assert result.value == 0.0
    assert result.low < 0 < result.high


def test_a_difference_stays_between_minus_1_and_1():
    result = quality.accuracy_difference([20, 20], [0, 1], [20, 20])
    assert result.high == 1.0


def test_one_seed_covers_the_answers_alone():
    result = quality.accuracy_difference([80], [60], [100])
    assert result.method == "answers" and result.low > 0


def test_a_seed_without_a_partner_does_not_count():
    result = quality.accuracy_difference([50, math.nan, 60], [40, 10, math.nan], [100] * 3)
    assert result.n == 1 and result.value == pytest.approx(0.1)


def test_no_pair_has_no_difference():
    assert quality.accuracy_difference([math.nan], [1], [2]).method == "none"


def test_verdicts_on_accuracies():
    asked = [2000] * 5
    high, low = [1900, 1890, 1910, 1900, 1905], [1000, 1010, 990, 1005, 1000]
    rows = [(high, low, asked), (low, high, asked), ([2000] * 5, [2000] * 5, asked)]
    found = [verdict.word for verdict in quality.accuracy_verdicts(rows)]
    assert found == ["better", "worse", "equivalent"]


def test_accuracies_of_three_seeds_are_not_called_better():
    rows = [([190] * 3, [100] * 3, [200] * 3)]
    assert quality.accuracy_verdicts(rows) == [quality.QualityVerdict("inconclusive", 5)]


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_the_interval_of_a_difference_covers_the_truth(share):
    rng = np.random.default_rng(1)
    right = rng.binomial(256, share, (2, 600, 5))
    results = [quality.accuracy_difference(a, b, [256] * 5) for a, b in zip(*right, strict=True)]
    assert np.mean([result.low <= 0 <= result.high for result in results]) >= 0.93
