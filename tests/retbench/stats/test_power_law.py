"""Scaling laws and where they meet."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retbench.stats.power_law import Crossing, crossing, power_law

SIZES = np.array([1e6, 3e6, 1e7, 3e7])


def law(scale, exponent, *, seeds=3, noise=0.0, seed=0, sizes=SIZES, **options):
    """The law fitted to losses of a known one, with noise on logarithms."""
    rng = np.random.default_rng(seed)
    noisy = np.exp(rng.normal(0, noise, (seeds, len(sizes))))
    return power_law(sizes, scale * sizes**-exponent * noisy, **options)


@given(st.floats(0.01, 0.5), st.floats(1.0, 50.0))
def test_an_exact_law_is_found(exponent, scale):
    found = law(scale, exponent)
    assert found.exponent.value == pytest.approx(exponent, rel=1e-6)
    assert found.scale.value == pytest.approx(scale, rel=1e-6)
    assert found.at(2e6) == pytest.approx(scale * 2e6**-exponent)


def test_the_interval_is_student_t_over_the_seeds():
    exponents = np.array([0.07, 0.08, 0.09])
    found = power_law(SIZES, 5 * SIZES ** -exponents[:, None])
    reach = 4.3027 * exponents.std(ddof=1) / math.sqrt(3)
    assert found.exponent.value == pytest.approx(0.08)
    assert found.exponent.high == pytest.approx(0.08 + reach, rel=1e-4)
    assert (found.exponent.n, found.exponent.method) == (3, "t")


def test_one_seed_gives_a_law_without_an_interval():
    found = power_law(SIZES, 5 * SIZES**-0.1)
    assert found.exponent.value == pytest.approx(0.1)
    assert (found.exponent.low, found.exponent.n) == (None, 1)


def test_two_sizes_are_enough_and_one_is_not():
    assert law(5, 0.1, sizes=SIZES[:2]).exponent.value == pytest.approx(0.1)
    assert law(5, 0.1, sizes=SIZES[:1]) is None


def test_sizes_may_come_in_any_order():
    losses = 5 * SIZES**-0.1
    assert power_law(SIZES[::-1], losses[::-1]).exponent.value == pytest.approx(0.1)


def test_a_seed_that_misses_a_size_is_left_out():
    losses = np.tile(5 * SIZES**-0.1, (3, 1))
    losses[0, 1] = math.nan
    assert power_law(SIZES, losses).exponent.n == 2


def test_a_size_that_every_seed_misses_is_passed_over():
    losses = np.tile(5 * SIZES**-0.1, (3, 1))
    losses[:, -1] = math.nan
    found = power_law(SIZES, losses)
    assert found.exponent.value == pytest.approx(0.1)
    assert (found.exponent.n, found.largest) == (3, SIZES[2])


def test_an_irreducible_loss_needs_four_sizes():
    assert law(5, 0.1, sizes=SIZES[:3], offset=True) is None


def test_an_irreducible_loss_is_found():
    found = power_law(SIZES, np.tile(1.2 + 20 * SIZES**-0.3, (2, 1)), offset=True)
    assert found.offset.value == pytest.approx(1.2, rel=1e-4)
    assert found.exponent.value == pytest.approx(0.3, rel=1e-3)
    assert found.at(5e6) == pytest.approx(1.2 + 20 * 5e6**-0.3, rel=1e-5)


def test_a_law_that_bends_the_other_way_has_no_irreducible_loss():
    found = power_law(SIZES, [3.0, 2.9, 2.6, 2.0], offset=True)
    assert found.offset.value == 0.0


def test_losses_that_do_not_fit_the_sizes_are_refused():
    with pytest.raises(ValueError, match="do not fit"):
        power_law(SIZES, [[1.0, 2.0]])


def test_the_interval_of_the_exponent_covers_the_truth():
    found = [law(5, 0.1, noise=0.01, seeds=5, seed=i).exponent for i in range(600)]
    assert np.mean([e.low <= 0.1 <= e.high for e in found]) >= 0.93


# Crossings: laws 5 x^-0.1 and a x^-0.05 meet at (5 / a)^20.


def baseline_meeting(at, **options):
    return law(5 * at**-0.05, 0.05, **options)


def test_laws_that_meet_within_the_sizes():
    found = crossing(law(5, 0.1), baseline_meeting(4e6))
    assert found.value == pytest.approx(4e6, rel=1e-6)
    assert (found.status, found.beyond, found.n) == ("within", "better", 3)


@pytest.mark.parametrize("at", [6e7, 5e5, 2.7e9])
def test_a_crossing_beyond_the_sizes_is_not_given(at):
    found = crossing(law(5, 0.1), baseline_meeting(at))
    assert found == Crossing("outside", None, None, None, None, 3)


def test_a_crossing_whose_interval_leaves_the_sizes_is_not_given():
    noisy = law(5, 0.1, noise=0.01, seeds=5)
    inner = crossing(noisy, baseline_meeting(6e6, seeds=5))
    assert SIZES[0] < inner.low < inner.value < inner.high < SIZES[-1]
    near = inner.value / inner.high * SIZES[-1] * 1.05  # the interval ends 5% beyond the sizes
    assert near < SIZES[-1]
    assert crossing(noisy, baseline_meeting(near, seeds=5)).status == "outside"


def test_who_is_better_beyond():
    assert crossing(baseline_meeting(4e6), law(5, 0.1)).beyond == "worse"


def test_slopes_that_are_not_told_apart_leave_it_unclear():
    noisy = crossing(law(5, 0.1, noise=0.05), law(5.1, 0.101, noise=0.05, seed=1))
    assert (noisy.status, noisy.value) == ("unclear", None)
    assert crossing(law(5, 0.1), law(5, 0.1)).status == "unclear"


def test_one_seed_gives_a_crossing_without_an_interval():
    found = crossing(law(5, 0.1, seeds=1), baseline_meeting(4e6, seeds=1))
    assert (found.status, found.low, found.high, found.n) == ("within", None, None, 1)


def test_models_whose_sizes_differ_a_little_are_compared_at_the_same_x():
    found = crossing(law(5, 0.1, sizes=SIZES * 1.004), baseline_meeting(4e6))
    assert found.value == pytest.approx(4e6, rel=1e-6)


def test_seeds_that_cannot_be_paired_are_refused():
    with pytest.raises(ValueError, match="numbers of seeds"):
        crossing(law(5, 0.1, seeds=2), law(5, 0.1, seeds=3))


def test_laws_with_an_irreducible_loss_are_refused():
    bent = power_law(SIZES, 1.2 + 20 * SIZES**-0.3, offset=True)
    with pytest.raises(ValueError, match="without an offset"):
        crossing(bent, bent)


def test_the_interval_of_the_crossing_covers_the_truth():
    at, hits = 5e6, []
    for i in range(600):
        subject = law(5, 0.1, noise=0.002, seeds=5, seed=2 * i)
        found = crossing(subject, baseline_meeting(at, noise=0.002, seeds=5, seed=2 * i + 1))
        assert found.status == "within"
        hits.append(found.low <= at <= found.high)
    assert np.mean(hits) >= 0.93
