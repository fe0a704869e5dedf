"""Centres and intervals, checked by hand and by simulation."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retbench.stats import intervals

# The machine of the simulations: a skewed 1% inside a process, 0.2 to 1% between processes.
WITHIN = 0.01
BETWEEN = [0.002, 0.005, 0.01]


def process_medians(rng, centre, between, *, size, trials=20):
    """Medians of processes whose trials have a long right tail; ``size`` of them, in seconds."""
    place = centre * np.exp(rng.normal(0, between, size))
    # The exponential's mean and deviation are both WITHIN; its median is WITHIN ln 2.
    trial = 1 + WITHIN * (rng.exponential(1, (*size, trials)) - math.log(2))
    return place * np.median(trial, axis=-1)


# The centre of a cell and its interval


def test_the_centre_is_the_median_of_the_processes():
    assert intervals.estimate([1.0, 9.0, 2.0]).value == 2.0


def test_six_processes_get_the_exact_order_statistic_interval():
    result = intervals.estimate([6.0, 1.0, 5.0, 2.0, 4.0, 3.0])
    assert (result.low, result.high, result.n, result.method) == (1.0, 6.0, 6, "order")


def test_ten_processes_drop_one_on_either_side():
    # 1 - 2 P(Binomial(10, 1/2) <= 1) = 0.979; dropping two would leave 0.891.
    result = intervals.estimate(np.arange(1.0, 11.0))
    assert (result.low, result.high) == (2.0, 9.0)


def test_five_processes_get_student_t_on_logarithms():
    logs = np.array([-0.02, -0.01, 0.0, 0.01, 0.02])
    result = intervals.estimate(np.exp(logs))
    reach = 2.7764 * logs.std(ddof=1) / math.sqrt(5)
    assert result.method == "t"
    assert math.log(result.high) == pytest.approx(reach, rel=1e-4)
    assert math.log(result.low) == pytest.approx(-reach, rel=1e-4)


def test_one_process_gets_no_interval():
    assert intervals.estimate([3.0]) == intervals.Estimate(3.0, None, None, 1, "none")


def test_no_process_gets_no_value():
    result = intervals.estimate([])
    assert math.isnan(result.value) and result.n == 0 and result.method == "none"


def test_failed_processes_are_left_out_and_not_counted():
    assert intervals.estimate([2.0, math.nan, 2.0]).n == 2


def test_equal_processes_get_an_interval_of_no_width():
    assert intervals.estimate([2.0, 2.0, 2.0]) == intervals.Estimate(
        2.0, pytest.approx(2.0), pytest.approx(2.0), 3, "t"
    )


@given(st.lists(st.floats(1e-6, 1e3), min_size=2, max_size=12))
def test_an_interval_holds_its_centre(values):
    result = intervals.estimate(values)
    assert result.low <= result.value <= result.high


@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("n", [3, 5, 6, 10])
def test_the_interval_covers_the_true_latency_95_times_in_100(n, between):
    rng = np.random.default_rng(n)
    medians = process_medians(rng, 1.0, between, size=(1500, n))
    truth = np.median(process_medians(rng, 1.0, between, size=(100_000,)))
    results = [intervals.estimate(row) for row in medians]
    coverage = np.mean([result.low <= truth <= result.high for result in results])
    assert coverage >= 0.935  # 95% less two and a half standard errors of 1500 trials


# Ratios


def test_a_ratio_is_the_geometric_mean_over_blocks():
    assert intervals.ratio([2.0, 8.0], [1.0, 1.0]).value == pytest.approx(4.0)


def test_a_ratio_is_paired_so_that_drift_common_to_a_block_cancels():
    drift = np.array([1.0, 1.3, 0.7, 2.0])
    result = intervals.ratio(0.5 * drift, drift)
    assert result.value == result.low == result.high == pytest.approx(0.5)


def test_a_block_without_a_partner_does_not_count():
    assert intervals.ratio([1.0, 2.0, math.nan], [1.0, math.nan, 1.0]).n == 1


def test_blocks_that_cannot_be_paired_are_refused():
    with pytest.raises(ValueError, match="cannot pair"):
        intervals.ratio([1.0, 2.0], [1.0])


def test_one_block_gives_a_ratio_without_an_interval():
    assert intervals.ratio([1.0], [2.0]) == intervals.Estimate(0.5, None, None, 1, "none")


@pytest.mark.parametrize("between", BETWEEN)
def test_the_ratio_interval_covers_the_true_ratio_95_times_in_100(between):
    rng = np.random.default_rng(1)
    subject = process_medians(rng, 1.05, between, size=(2000, 5))
    baseline = process_medians(rng, 1.0, between, size=(2000, 5))
    results = [intervals.ratio(*pair) for pair in zip(subject, baseline, strict=True)]
    coverage = np.mean([result.low <= 1.05 <= result.high for result in results])
    assert 0.935 <= coverage <= 0.965


# Percentiles


@pytest.mark.parametrize(("q", "enough"), [(90, 29), (95, 59), (99, 299), (10, 29), (50, 5)])
def test_a_percentile_needs_enough_samples(q, enough):
    assert intervals.percentile(np.ones(enough - 1), q) is None
    assert intervals.percentile(np.ones(enough), q) == 1.0


def test_a_percentile_is_a_percentage_of_the_samples():
    assert intervals.percentile(np.arange(101.0), 90) == 90.0


def test_a_fraction_is_no_percentile():
    with pytest.raises(ValueError, match="percentage"):
        intervals.percentile(np.ones(100), 0.9)


def test_statistics_import_neither_torch_nor_scipy_stats():
    code = (
        "import sys; import retbench.stats.intervals; "
        "sys.exit(bool({'torch', 'scipy.stats', 'pandas'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
