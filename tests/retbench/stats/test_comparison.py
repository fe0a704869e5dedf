"""Verdicts on ratios: by hand, and by simulation of what they are worth.

The simulations are the evidence for how far variances are moderated and for the level of a look;
:mod:`retbench.stats.comparison` states their figures, made with more repeats than these.
"""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import stdtrit

from retbench.stats import comparison
from retbench.stats.comparison import judge, level, paired_centre

EDGE = math.log(1.01)  # of the usual margin


def logs(*ratios):
    return [math.log(ratio) for ratio in ratios]


def words(rows, margin=0.01, **options):
    return [found.verdict for found in judge(rows, margin, **options)]


def covered(found, truth):
    return [
        math.log(row.low) <= at <= math.log(row.high) for row, at in zip(found, truth, strict=True)
    ]


# One row


def test_a_row_alone_is_a_plain_t_interval_on_logarithms():
    (found,) = judge([[-0.2, -0.1, 0.0]], 0.01)
    reach = 4.3027 * 0.1 / math.sqrt(3)
    assert math.log(found.value) == pytest.approx(-0.1)
    assert math.log(found.low) == pytest.approx(-0.1 - reach, rel=1e-4)
    assert math.log(found.high) == pytest.approx(-0.1 + reach, rel=1e-4)
    assert (found.n, found.confidence) == (3, 0.95)


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (logs(0.900, 0.901, 0.902), "faster"),
        (logs(1.100, 1.101, 1.102), "slower"),
        (logs(0.999, 1.000, 1.001), "equivalent"),
        (logs(0.97, 1.00, 1.06), "inconclusive"),
    ],
)
def test_the_verdict_is_where_the_interval_lies(row, verdict):
    assert words([row]) == [verdict]


@given(
    st.lists(st.lists(st.floats(-0.1, 0.1), min_size=2, max_size=5), min_size=1, max_size=6),
    st.sampled_from([0.0, 0.005, 0.05]),
    st.sampled_from([0.05, 0.04, 0.0025]),
)
def test_the_verdict_follows_from_the_printed_interval_alone(rows, floor, alpha):
    beyond = math.exp(max(EDGE, floor))
    for row in judge(rows, 0.01, floor, [1, 4, 4, 1, 1, 4][: len(rows)], alpha):
        bounds = (beyond, 1 / beyond, 1.01, 1 / 1.01)
        if any(math.isclose(edge, b, rel_tol=1e-9) for edge in (row.low, row.high) for b in bounds):
            continue  # on a bound to the last digit, where a logarithm rounds either way
        inside = row.low > 1 / 1.01 and row.high < 1.01
        expected = (
            "faster" if row.high < 1 / beyond
            else "slower" if row.low > beyond
            else "equivalent" if inside else "inconclusive"
        )  # fmt: skip
        assert row.verdict == expected


def test_a_floor_keeps_differences_from_being_told_and_never_makes_equivalence():
    row = logs(1.0200, 1.0201, 1.0202)
    assert words([row]) == ["slower"]
    assert words([row], floor=0.05) == ["inconclusive"]
    assert words([logs(0.999, 1.0, 1.001)], floor=0.05) == ["equivalent"]


def test_a_wider_margin_makes_equivalent_what_was_slower():
    assert words([logs(1.0200, 1.0201, 1.0202)], margin=0.05) == ["equivalent"]


def test_the_margin_is_as_wide_below_one_as_above():
    above = [math.log(1.01002)] * 3
    assert words([above]) == ["slower"]
    assert words([[-log for log in above]]) == ["faster"]


@pytest.mark.parametrize("row", [[], [-0.5], [-0.5, math.nan]])
def test_fewer_than_two_blocks_claim_nothing(row):
    (found,) = judge([row], 0.01)
    assert (found.verdict, found.n_needed) == ("inconclusive", None)
    assert math.isnan(found.low) and math.isnan(found.high) and math.isnan(found.resolution)


def test_rows_without_variance_are_decided_by_their_value():
    assert words([logs(0.5, 0.5), logs(1, 1), logs(2, 2)]) == ["faster", "equivalent", "slower"]


def test_the_centre_of_rounds_is_not_moved_by_a_few_bad_ones():
    # Of the ten means of two, six hold no bad round; the fifth and the sixth are the middle.
    assert paired_centre([0.01, 0.011, 0.012, 3.0]) == pytest.approx((0.0115 + 0.012) / 2)


def test_the_centre_of_two_rounds_is_their_mean():
    assert paired_centre([0.01, 0.03]) == pytest.approx(0.02)


# What it could have told, and what would settle it


def test_the_resolution_is_what_is_told_four_times_in_five():
    rng = np.random.default_rng(0)
    spread, n = 0.01, 6
    median = np.median([judge([rng.normal(0, spread, n)], 0.01)[0].resolution for _ in range(400)])
    rows = rng.normal(math.log1p(median), spread, (600, n))
    told = np.mean([words([row]) == ["slower"] for row in rows])
    assert 0.72 <= told <= 0.88


def test_an_inconclusive_row_says_how_many_blocks_would_settle_it():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, 400)

    def row(n):  # a ratio of 1.03 with a deviation of 4%, whatever the number of blocks
        part = noise[:n] - noise[:n].mean()
        return math.log(1.03) + 0.04 * part / part.std(ddof=1)

    (found,) = judge([row(5)], 0.01)
    assert found.verdict == "inconclusive" and found.n_needed > 5
    assert words([row(found.n_needed)]) == ["slower"]
    assert words([row(found.n_needed - 1)]) == ["inconclusive"]
    (looked,) = judge([row(5)], 0.01, alpha=0.01)
    assert looked.n_needed > found.n_needed
    assert words([row(looked.n_needed)], alpha=0.01) == ["slower"]
    assert words([row(looked.n_needed - 1)], alpha=0.01) == ["inconclusive"]


def test_a_ratio_on_the_margin_or_between_margin_and_floor_cannot_be_settled():
    on_it, between = [EDGE - 0.02, EDGE + 0.02], [0.019, 0.021]
    assert judge([on_it], 0.01)[0].n_needed is None
    assert judge([between], 0.01, floor=0.04)[0].n_needed is None
    assert judge([between], 0.01)[0].n_needed is not None


# Several rows


def test_a_family_holds_together_and_the_others_for_themselves():
    rng = np.random.default_rng(1)
    rows = list(rng.normal(0, 0.01, (3, 5)))
    first, _, last = judge(rows, 0.01, tests=[4, 4, 1])
    alone = judge(rows, 0.01)
    assert first.confidence == pytest.approx(1 - 0.05 / 4) and last == alone[2]
    assert first.low < alone[0].low and first.high > alone[0].high


def test_a_quiet_row_among_others_is_drawn_towards_them_and_a_noisy_one_keeps_its_own():
    rows = [[-0.01, 0.0, 0.01]] * 8
    (lucky, *_) = judge([[-1e-5, 0.0, 1e-5], *rows], 0.01)
    (by_itself,) = judge([[-1e-5, 0.0, 1e-5]], 0.01)
    assert math.log(lucky.high) > 50 * math.log(by_itself.high)
    (noisy, *_) = judge([[-0.3, 0.0, 0.3], *rows], 0.01)
    (alone,) = judge([[-0.3, 0.0, 0.3]], 0.01)
    assert math.log(noisy.high) == pytest.approx(math.log(alone.high), rel=0.01)


def test_rows_may_differ_in_blocks():
    rows = [logs(0.9, 0.901, 0.902, 0.9), logs(0.9), logs(1.1, 1.101)]
    found = judge(rows, 0.01)
    assert [row.n for row in found] == [4, 1, 2]
    assert [row.verdict for row in found][:2] == ["faster", "inconclusive"]


@pytest.mark.parametrize("value", [1e-3, 0.1, 1.0, 10.0, 1e3])
def test_the_inverse_of_trigamma(value):
    from scipy.special import polygamma

    assert float(polygamma(1, comparison._inverse_trigamma(value))) == pytest.approx(value)


# Coverage of intervals whose variances are moderated


def rows_of(rng, kind, correlation, rows, blocks):
    """Log ratios whose true value is 0, shape (rows, blocks), and each row's true deviation.

    Rows share part of their noise, as points measured by the same processes do.
    """

    def draw(*shape):
        return (
            rng.standard_t(4, shape) / math.sqrt(2) if kind == "tails" else rng.normal(0, 1, shape)
        )

    deviations = {
        "like": lambda: np.ones(rows),
        "tails": lambda: np.ones(rows),
        "unlike": lambda: np.exp(rng.uniform(math.log(0.5), math.log(4), rows)),
        "two kinds": lambda: np.where(np.arange(rows) % 2, 3.0, 0.5),
        "one noisy": lambda: np.where(np.arange(rows) == 0, 3.0, 0.5),
    }[kind]()
    noise = math.sqrt(correlation) * draw(1, blocks) + math.sqrt(1 - correlation) * draw(
        rows, blocks
    )
    return 0.01 * deviations[:, None] * noise, deviations


@pytest.mark.parametrize("blocks", [3, 5])
@pytest.mark.parametrize(
    ("kind", "correlation"),
    [("like", 0.0), ("like", 0.5), ("like", 0.8), ("unlike", 0.0), ("unlike", 0.5),
     ("two kinds", 0.5), ("one noisy", 0.5), ("tails", 0.0), ("tails", 0.5)],
)  # fmt: skip
def test_95_percent_intervals_cover_94_times_in_100(kind, correlation, blocks):
    rng = np.random.default_rng(blocks)
    hits, noisiest = [], []
    for _ in range(300):
        table, deviations = rows_of(rng, kind, correlation, 12, blocks)
        found = covered(judge(list(table), 0.01), [0.0] * len(table))
        hits.append(np.mean(found))
        noisiest.append(np.mean(np.array(found)[deviations == deviations.max()]))
    error = np.std(hits) / math.sqrt(len(hits))
    assert np.mean(hits) >= 0.94 - 1.5 * error
    assert np.mean(noisiest) >= 0.90 - 1.5 * np.std(noisiest) / math.sqrt(len(hits))


def test_rows_that_move_as_one_are_covered_93_times_in_100():
    rng = np.random.default_rng(9)
    hits = [
        np.mean(covered(judge(list(rows_of(rng, "like", 0.95, 12, 3)[0]), 0.01), [0.0] * 12))
        for _ in range(600)
    ]
    assert np.mean(hits) >= 0.93 - 1.5 * np.std(hits) / math.sqrt(len(hits))


def test_moderated_intervals_of_three_blocks_are_a_sixth_shorter():
    rng = np.random.default_rng(10)

    def half_widths(found):
        return [math.log(row.high / row.low) / 2 for row in found]

    together, apart = [], []
    for _ in range(100):
        table = list(rows_of(rng, "like", 0.5, 12, 3)[0])
        together += half_widths(judge(table, 0.01))
        apart += half_widths([judge([row], 0.01)[0] for row in table])
    assert np.median(together) < 0.85 * np.median(apart)


def test_a_primary_family_holds_together_94_times_in_100():
    rng = np.random.default_rng(11)
    held = []
    for _ in range(500):
        table, _ = rows_of(rng, "like", 0.5, 12, 3)
        found = judge(list(table), 0.01, tests=[4] * 4 + [1] * 8)
        held.append(all(covered(found[:4], [0.0] * 4)))
    assert np.mean(held) >= 0.94 - 1.5 * math.sqrt(0.94 * 0.06 / len(held))


@pytest.mark.parametrize(("spread", "found"), [(0.005, 0.999), (0.01, 0.97), (0.02, 0.40)])
def test_a_slowdown_of_5_percent_is_found_by_five_blocks(spread, found):
    rng = np.random.default_rng(3)
    tables = rng.normal(math.log(1.05), spread, (60, 8, 5))
    told = [word == "slower" for table in tables for word in words(list(table))]
    assert np.mean(told) >= found


def test_equal_sides_are_told_apart_in_at_most_1_table_of_100():
    rng = np.random.default_rng(4)
    tables = rng.normal(0, 0.01, (300, 8, 5))
    false = [bool({"faster", "slower"} & set(words(list(table)))) for table in tables]
    assert np.mean(false) <= 0.01


# Coverage of runs that look at their ratios to decide whether to stop


def sequential(rng, truth, spread, precision, first, most, alpha=None, repeats=4000):
    """How often the interval at which a run of one row stops covers the truth.

    It stops once the row is decided or narrower than the precision; the interval is plain t, as
    that of a row alone is.
    """
    noise = spread * rng.normal(0, 1, (repeats, most))
    live, hit = np.ones(repeats, bool), np.zeros(repeats, bool)
    for n in range(first, most + 1):
        part = noise[:, :n]
        off, error = part.mean(1), part.std(1, ddof=1) / math.sqrt(n)
        taken = alpha or level(n - first, is_last=n == most)
        reach = stdtrit(n - 1, 1 - taken / 2) * error
        low, high = truth + off - reach, truth + off + reach
        ends = (low > EDGE) | (high < -EDGE) | ((low > -EDGE) & (high < EDGE))
        ends |= (reach <= math.log1p(precision)) | (n == most)
        now = live & ends
        hit[now] = np.abs(off[now]) <= reach[now]
        live &= ~ends
    return hit.mean()


@pytest.mark.parametrize("precision", [0.001, 0.02])
@pytest.mark.parametrize("truth", [0.0, 0.9 * EDGE, EDGE, 1.1 * EDGE, 0.02])
def test_a_run_that_stops_early_covers_94_times_in_100(truth, precision):
    rng = np.random.default_rng(5)
    for spread in (0.002, 0.005, 0.01, 0.02, 0.1):
        found = sequential(rng, truth, spread, precision, first=3, most=12)
        assert found >= 0.94 - 1.6 * math.sqrt(0.94 * 0.06 / 4000), spread


def test_at_a_constant_level_ten_looks_would_not():
    rng = np.random.default_rng(6)
    found = sequential(rng, EDGE, 0.01, 0.001, first=3, most=12, alpha=0.05)
    assert found < 0.84


def test_a_table_that_stops_early_covers_94_times_in_100():
    rng = np.random.default_rng(7)
    truths = np.array([EDGE, EDGE, -EDGE, 0.0, 0.05, -0.2, 0.5, 0.02])
    hits, ends = [], []
    for _ in range(150):
        table = truths[:, None] + rows_of(rng, "like", 0.5, len(truths), 9)[0]
        for looks in range(1, 8):
            alpha = level(looks - 1, is_last=looks == 7)
            found = judge(list(table[:, : looks + 2]), 0.01, alpha=alpha)
            narrow = [math.log(row.high / row.low) / 2 <= math.log1p(0.02) for row in found]
            if all(
                thin or row.verdict != "inconclusive"
                for row, thin in zip(found, narrow, strict=True)
            ):
                break
        ends.append(looks)
        hits.append(np.mean(covered(found, truths)))
    assert len(set(ends)) > 1  # it does stop early, not always at once
    assert np.mean(hits) >= 0.94 - 1.5 * np.std(hits) / math.sqrt(len(hits))


def test_what_may_end_a_run_early_takes_little_and_no_more_than_a_fiftieth_in_all():
    early = [level(earlier, is_last=False) for earlier in range(20)]
    assert early[:3] == [0.01, 0.005, 0.0025]
    assert sum(early) <= 0.02
    assert level(0, is_last=True) == 0.05  # nothing that was seen could have ended the run
    assert level(5, is_last=True) == 0.04
