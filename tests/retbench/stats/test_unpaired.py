"""Blocks of two runs: Welch's interval at Holm's level."""

from __future__ import annotations

import math

import numpy as np
import pytest

from retbench.stats.unpaired import judge

RNG = np.random.default_rng(0)


def test_one_row_has_welchs_interval() -> None:
    from scipy import stats  # a second, in each process that collects the tests

    before, after = RNG.normal(0, 0.02, 5), RNG.normal(0.1, 0.05, 7)
    (found,) = judge([(before, after)], margin=0.01)
    welch = stats.ttest_ind(after, before, equal_var=False).confidence_interval(0.95)
    assert (math.log(found.low), math.log(found.high)) == pytest.approx((welch.low, welch.high))
    assert found.value == pytest.approx(math.exp(after.mean() - before.mean()))
    assert found.confidence == pytest.approx(0.95)


def test_the_levels_are_holms_and_every_verdict_follows_from_its_interval() -> None:
    spread = np.array([-0.01, 0.0, 0.01, 0.02])
    rows = [(spread, spread + shift) for shift in (0.0, 0.04, 0.2, 0.05, -0.3)]
    found = judge(rows, margin=0.01)
    levels = [1 - one.confidence for one in found]
    assert levels == pytest.approx([0.05, 0.025, 0.0125, 0.05 / 3, 0.01])
    said = [one.verdict for one in found]
    assert said == ["inconclusive", "slower", "slower", "slower", "faster"]
    # What comes behind the first that is not told has the level of that.
    levels = [1 - one.confidence for one in judge([rows[0], rows[0], rows[2]], margin=0.01)]
    assert levels == pytest.approx([0.025, 0.025, 0.05 / 3])


def test_few_rows_of_many_equal_ones_are_told_to_differ() -> None:
    rows = [(RNG.normal(0, 0.05, 4), RNG.normal(0, 0.05, 4)) for _ in range(4000)]
    assert sum(one.verdict in ("faster", "slower") for one in judge(rows, margin=1e-9)) <= 1


def test_a_side_of_one_block_gives_no_interval_and_equal_blocks_an_exact_one() -> None:
    single, exact = judge([([0.0], [0.7, 0.7]), ([0.0, 0.0], [0.7, 0.7])], margin=0.01)
    assert single.verdict == "inconclusive" and math.isnan(single.low)
    assert exact.verdict == "slower" and exact.low == exact.high


def test_few_blocks_that_are_far_apart_have_an_interval_without_an_end() -> None:
    found, *_ = judge([([0.0, 0.001], [0.0, 1.4])] * 80, margin=0.01)
    assert (found.verdict, found.high) == ("inconclusive", math.inf)
    assert 0 <= found.low < 1e-300 and found.value == pytest.approx(math.exp(0.6995))


def test_a_difference_below_the_floor_is_not_told() -> None:
    rows = [(np.array([0.0, 0.001]), np.array([0.05, 0.051]))] * 2
    assert [one.verdict for one in judge(rows, 0.01, [0.1, 0.0])] == ["inconclusive", "slower"]
