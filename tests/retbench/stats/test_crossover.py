"""The crossover length, checked by hand and by simulation."""

import math

import numpy as np
import pytest

from retbench.stats.crossover import crossover

LENGTHS = [512, 1024, 2048, 4096, 8192]


def power_law(at, slope=-0.5, blocks=1):
    """Ratios that cross 1 at length ``at``; shape (blocks, lengths)."""
    return np.tile((np.array(LENGTHS) / at) ** slope, (blocks, 1))


def test_the_crossover_is_interpolated_on_logarithms():
    result = crossover(LENGTHS, power_law(3000.0))
    assert result.status == "reached"
    assert result.value == pytest.approx(3000.0)


def test_one_block_gives_a_crossover_without_an_interval():
    result = crossover(LENGTHS, power_law(3000.0))
    assert (result.low, result.high, result.n) == (None, None, 1)


def test_the_crossover_of_several_blocks_is_their_geometric_median():
    ratios = np.vstack([power_law(at) for at in (1500.0, 2000.0, 6000.0)])
    result = crossover(LENGTHS, ratios)
    assert result.value == pytest.approx(2000.0)
    assert result.low < 1500 and result.high > 6000


def test_lengths_may_come_in_any_order():
    result = crossover(LENGTHS[::-1], power_law(3000.0)[:, ::-1])
    assert result.value == pytest.approx(3000.0)


def test_the_direction_says_who_wins_beyond_the_crossover():
    falling, rising = power_law(3000.0), power_law(3000.0, slope=0.5)
    assert crossover(LENGTHS, falling).direction == "better"
    assert crossover(LENGTHS, rising).direction == "worse"


@pytest.mark.parametrize(
    ("ratios", "status"),
    [
        ([0.5] * 5, "always below"),
        ([2.0] * 5, "always above"),
        ([1.0] * 5, "always equal"),
        ([1.0, 1.1, 1.2, 1.2, 1.2], "always above"),
        ([1.2, 1.1, 1.1, 1.1, 1.0], "always above"),
        ([0.9, 0.9, 1.0, 0.95, 1.0], "always below"),
    ],
)
def test_ratios_on_one_side_never_cross_where_they_touch_one_either(ratios, status):
    result = crossover(LENGTHS, np.tile(ratios, (3, 1)))
    assert (result.status, result.value, result.direction) == (status, None, None)


def test_a_length_at_which_the_ratio_is_exactly_one_is_the_crossover():
    assert crossover(LENGTHS, [[4.0, 2.0, 1.0, 0.5, 0.25]]).value == pytest.approx(2048)


def test_a_ratio_that_begins_and_ends_at_one_crosses_where_its_side_changes():
    result = crossover(LENGTHS, [[1.0, 2.0, 0.5, 0.25, 1.0]])
    assert (result.status, result.direction) == ("reached", "better")
    assert result.value == pytest.approx(math.sqrt(1024 * 2048))


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
        ([[2.0, 0.5, 2.0, 2.0, 1.0]], "the ratio returns to the side that it began on"),
        ([[math.nan] * 5], "nothing was measured"),
    ],
)
def test_an_unclear_crossover_says_why(ratios, reason):
    result = crossover(LENGTHS, ratios)
    assert (result.status, result.value, result.reason) == ("unclear", None, reason)


def test_a_clear_crossover_needs_no_reason():
    assert crossover(LENGTHS, power_law(3000.0)).reason == ""


def test_a_ratio_that_wavers_about_one_crosses_where_it_stays():
    result = crossover(LENGTHS, [[2.0, 0.99, 1.01, 0.5, 0.5]])
    assert 2048 < result.value < 4096


def test_lengths_without_a_baseline_are_passed_over():
    ratios = power_law(3000.0, blocks=3)
    ratios[:, -1] = math.nan  # out of memory
    assert crossover(LENGTHS, ratios).value == pytest.approx(3000.0)


def test_a_block_that_misses_a_length_others_have_is_left_out():
    ratios = power_law(3000.0, blocks=3)
    ratios[0, 2:] = math.nan
    result = crossover(LENGTHS, ratios)
    assert (result.status, result.n) == ("reached", 2)


def test_the_crossover_interval_covers_the_true_length_95_times_in_100():
    rng = np.random.default_rng(4)
    noise = np.exp(rng.normal(0, 0.02, (1000, 5, len(LENGTHS))))
    results = [crossover(LENGTHS, power_law(3000.0, blocks=5) * block) for block in noise]
    assert {result.status for result in results} == {"reached"}
    coverage = np.mean([result.low <= 3000 <= result.high for result in results])
    assert coverage >= 0.935
