"""Centres, intervals and the crossover length, checked by hand and by simulation."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retbench.measure import stats

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
    assert stats.estimate([1.0, 9.0, 2.0]).value == 2.0


def test_six_processes_get_the_exact_order_statistic_interval():
    result = stats.estimate([6.0, 1.0, 5.0, 2.0, 4.0, 3.0])
    assert (result.low, result.high, result.n, result.method) == (1.0, 6.0, 6, "order")


def test_ten_processes_drop_one_on_either_side():
    # 1 - 2 P(Binomial(10, 1/2) <= 1) = 0.979; dropping two would leave 0.891.
    result = stats.estimate(np.arange(1.0, 11.0))
    assert (result.low, result.high) == (2.0, 9.0)


def test_five_processes_get_student_t_on_logarithms():
    logs = np.array([-0.02, -0.01, 0.0, 0.01, 0.02])
    result = stats.estimate(np.exp(logs))
    reach = 2.7764 * logs.std(ddof=1) / math.sqrt(5)
    assert result.method == "t"
    assert math.log(result.high) == pytest.approx(reach, rel=1e-4)
    assert math.log(result.low) == pytest.approx(-reach, rel=1e-4)


def test_one_process_gets_no_interval():
    assert stats.estimate([3.0]) == stats.Estimate(3.0, None, None, 1, "none")


def test_no_process_gets_no_value():
    result = stats.estimate([])
    assert math.isnan(result.value) and result.n == 0 and result.method == "none"


def test_failed_processes_are_left_out_and_not_counted():
    assert stats.estimate([2.0, math.nan, 2.0]).n == 2


def test_equal_processes_get_an_interval_of_no_width():
    assert stats.estimate([2.0, 2.0, 2.0]) == stats.Estimate(
        2.0, pytest.approx(2.0), pytest.approx(2.0), 3, "t"
    )


@given(st.lists(st.floats(1e-6, 1e3), min_size=2, max_size=12))
def test_an_interval_holds_its_centre(values):
    result = stats.estimate(values)
    assert result.low <= result.value <= result.high


@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("n", [3, 5, 6, 10])
def test_the_interval_covers_the_true_latency_95_times_in_100(n, between):
    rng = np.random.default_rng(n)
    medians = process_medians(rng, 1.0, between, size=(1500, n))
    truth = np.median(process_medians(rng, 1.0, between, size=(100_000,)))
    results = [stats.estimate(row) for row in medians]
    coverage = np.mean([result.low <= truth <= result.high for result in results])
    assert coverage >= 0.935  # 95% less two and a half standard errors of 1500 trials


# Ratios


def test_a_ratio_is_the_geometric_mean_over_blocks():
    assert stats.ratio([2.0, 8.0], [1.0, 1.0]).value == pytest.approx(4.0)


def test_a_ratio_is_paired_so_that_drift_common_to_a_block_cancels():
    drift = np.array([1.0, 1.3, 0.7, 2.0])
    result = stats.ratio(0.5 * drift, drift)
    assert result.value == result.low == result.high == pytest.approx(0.5)


def test_a_block_without_a_partner_does_not_count():
    assert stats.ratio([1.0, 2.0, math.nan], [1.0, math.nan, 1.0]).n == 1


def test_blocks_that_cannot_be_paired_are_refused():
    with pytest.raises(ValueError, match="cannot pair"):
        stats.ratio([1.0, 2.0], [1.0])


def test_one_block_gives_a_ratio_without_an_interval():
    assert stats.ratio([1.0], [2.0]) == stats.Estimate(0.5, None, None, 1, "none")


@pytest.mark.parametrize("between", BETWEEN)
def test_the_ratio_interval_covers_the_true_ratio_95_times_in_100(between):
    rng = np.random.default_rng(1)
    subject = process_medians(rng, 1.05, between, size=(2000, 5))
    baseline = process_medians(rng, 1.0, between, size=(2000, 5))
    results = [stats.ratio(*pair) for pair in zip(subject, baseline, strict=True)]
    coverage = np.mean([result.low <= 1.05 <= result.high for result in results])
    assert 0.935 <= coverage <= 0.965


# Percentiles


@pytest.mark.parametrize(("q", "enough"), [(90, 29), (95, 59), (99, 299), (10, 29), (50, 5)])
def test_a_percentile_needs_enough_samples(q, enough):
    assert stats.percentile(np.ones(enough - 1), q) is None
    assert stats.percentile(np.ones(enough), q) == 1.0


def test_a_percentile_is_a_percentage_of_the_samples():
    assert stats.percentile(np.arange(101.0), 90) == 90.0


def test_a_fraction_is_no_percentile():
    with pytest.raises(ValueError, match="percentage"):
        stats.percentile(np.ones(100), 0.9)


# Stationarity


def test_two_like_windows_are_stationary():
    assert stats.is_stationary([5.0, 1.00, 1.01, 0.99, 1.00, 0.99, 1.01])


def test_medians_that_still_fall_are_not_stationary():
    assert not stats.is_stationary([1.05, 1.04, 1.05, 1.0, 1.01, 1.0])


def test_windows_of_wide_spread_are_not_stationary():
    assert not stats.is_stationary([1.0, 1.3, 0.8, 1.0, 1.3, 0.8])


def test_fewer_than_two_windows_are_not_stationary():
    assert not stats.is_stationary([1.0] * 5)


# The crossover length

LENGTHS = [512, 1024, 2048, 4096, 8192]


def power_law(at, slope=-0.5, blocks=1):
    """Ratios that cross 1 at length ``at``; shape (blocks, lengths)."""
    return np.tile((np.array(LENGTHS) / at) ** slope, (blocks, 1))


def test_the_crossover_is_interpolated_on_logarithms():
    result = stats.crossover(LENGTHS, power_law(3000.0))
    assert result.status == "reached"
    assert result.value == pytest.approx(3000.0)


def test_one_block_gives_a_crossover_without_an_interval():
    result = stats.crossover(LENGTHS, power_law(3000.0))
    assert (result.low, result.high, result.n) == (None, None, 1)


def test_the_crossover_of_several_blocks_is_their_geometric_median():
    ratios = np.vstack([power_law(at) for at in (1500.0, 2000.0, 6000.0)])
    result = stats.crossover(LENGTHS, ratios)
    assert result.value == pytest.approx(2000.0)
    assert result.low < 1500 and result.high > 6000


def test_lengths_may_come_in_any_order():
    result = stats.crossover(LENGTHS[::-1], power_law(3000.0)[:, ::-1])
    assert result.value == pytest.approx(3000.0)


def test_the_direction_says_who_wins_beyond_the_crossover():
    falling, rising = power_law(3000.0), power_law(3000.0, slope=0.5)
    assert stats.crossover(LENGTHS, falling).direction == "better"
    assert stats.crossover(LENGTHS, rising).direction == "worse"
    assert stats.crossover(LENGTHS, rising, lower_is_better=False).direction == "better"


@pytest.mark.parametrize(("ratio", "status"), [(0.5, "always below"), (2.0, "always above")])
def test_ratios_on_one_side_never_cross(ratio, status):
    result = stats.crossover(LENGTHS, np.full((3, 5), ratio))
    assert (result.status, result.value, result.direction) == (status, None, None)


def test_a_length_at_which_the_ratio_is_exactly_one_is_the_crossover():
    assert stats.crossover(LENGTHS, [[4.0, 2.0, 1.0, 0.5, 0.25]]).value == pytest.approx(2048)


@pytest.mark.parametrize(
    ("ratios", "reason"),
    [
        (
            [[2.0, 2.0, 2.0, 2.0, 2.0], [2.0, 2.0, 2.0, 2.0, 0.5], [2.0, 2.0, 2.0, 0.5, 0.5]],
            "blocks disagree: 2 of 3 cross",
        ),
        (
            [[2.0, 2.0, 0.5, 0.5, 0.5], [0.5, 0.5, 2.0, 2.0, 2.0]],
            "blocks disagree: 1 of 2 end below 1",
        ),
        ([[2.0, 2.0, 0.5, 2.0, 2.0]], "the ratio returns to the side that it began on"),
        ([[0.5] * 5, [2.0] * 5], "blocks disagree: 1 of 2 end below 1"),
        ([[1.0] * 5], "the ratio returns to the side that it began on"),
        ([[math.nan] * 5], "nothing was measured"),
    ],
)
def test_an_unclear_crossover_says_why(ratios, reason):
    result = stats.crossover(LENGTHS, ratios)
    assert (result.status, result.value, result.reason) == ("unclear", None, reason)


def test_a_clear_crossover_needs_no_reason():
    assert stats.crossover(LENGTHS, power_law(3000.0)).reason == ""


def test_a_ratio_that_wavers_about_one_crosses_where_it_stays():
    result = stats.crossover(LENGTHS, [[2.0, 0.99, 1.01, 0.5, 0.5]])
    assert 2048 < result.value < 4096


def test_lengths_without_a_baseline_are_passed_over():
    ratios = power_law(3000.0, blocks=3)
    ratios[:, -1] = math.nan  # out of memory
    assert stats.crossover(LENGTHS, ratios).value == pytest.approx(3000.0)


def test_a_block_that_misses_a_length_others_have_is_left_out():
    ratios = power_law(3000.0, blocks=3)
    ratios[0, 2:] = math.nan
    result = stats.crossover(LENGTHS, ratios)
    assert (result.status, result.n) == ("reached", 2)


def test_the_crossover_interval_covers_the_true_length_95_times_in_100():
    rng = np.random.default_rng(4)
    noise = np.exp(rng.normal(0, 0.02, (1000, 5, len(LENGTHS))))
    results = [stats.crossover(LENGTHS, power_law(3000.0, blocks=5) * block) for block in noise]
    assert {result.status for result in results} == {"reached"}
    coverage = np.mean([result.low <= 3000 <= result.high for result in results])
    assert coverage >= 0.935


def test_statistics_import_neither_torch_nor_scipy_stats():
    code = (
        "import sys; import retbench.measure.stats; "
        "sys.exit(bool({'torch', 'scipy.stats', 'pandas'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
