"""The forecast: bigger cells cost more, the profile's caps bind, and observations replace it."""

from __future__ import annotations

import pytest

from retbench import suites
from retbench.config.plan import Plan
from retbench.config.run import RunConfig
from retbench.engine.forecast import TimeLeft, forecast
from retbench.engine.resolve import resolve

CEILINGS = {
    "bandwidth": [{"working_set_bytes": 2**30, "read_bytes_per_s": 1e10, "copy_bytes_per_s": 1e10}],
    "matmul_flop_per_s": {"float32": 1e11},
}


def planned(**given: object) -> tuple[RunConfig, Plan]:
    config = resolve(device="cpu", **{"preset": "10m", **given})  # type: ignore[arg-type]
    return config, suites.get(config.suite).plan(config)


def test_longer_contexts_take_longer_and_more_memory() -> None:
    cells = forecast(*planned(models="transformer", batch=1), CEILINGS).cells
    ordered = sorted(cells, key=lambda cell: cell.point.seq_len)
    assert ordered[0].seconds < ordered[-1].seconds
    assert [c.memory_bytes for c in ordered] == sorted(c.memory_bytes for c in cells)


def test_memory_holds_the_weights_and_the_state() -> None:
    config, plan = planned(models="transformer", context=8192, batch=1, batch_context=8192)
    (cell,) = forecast(config, plan, CEILINGS).cells
    cache = 6 * 2 * (8192 + 8) * 384 * 4  # layers, keys and values, tokens, width, float32
    weights = 4 * (10_621_824 + 50257 * 384)
    assert cache + weights < cell.memory_bytes < 2 * (cache + weights)


def test_a_slower_machine_takes_longer() -> None:
    slow = {
        "bandwidth": [
            {**CEILINGS["bandwidth"][0], "read_bytes_per_s": 1e9, "copy_bytes_per_s": 1e9}
        ],
        "matmul_flop_per_s": {"float32": 1e10},
    }
    run = planned(profile="smoke")
    assert forecast(*run, slow).total_s > 3 * forecast(*run, CEILINGS).total_s


def test_the_cap_of_the_profile_bounds_a_cell_of_short_trials() -> None:
    config, plan = planned(models="retnet", context=512, batch=1, batch_context=512)
    (cell,) = forecast(config, plan, CEILINGS).cells
    assert cell.seconds < 3 * 1.5 * 1.2 + 2.0  # of three phases warm-up and rounds, with slack


def test_the_total_counts_every_block_and_the_start_of_each_worker() -> None:
    found = forecast(*planned(profile="quick"), CEILINGS)
    cells = sum(cell.seconds for cell in found.cells)
    assert found.total_s == pytest.approx(3 * (cells + sum(found.process_s.values())))


def test_blocks_that_may_be_added_are_not_foreseen() -> None:
    config, plan = planned(profile="quick")
    assert plan.blocks > plan.certain.blocks
    assert forecast(config, plan, CEILINGS) == forecast(config, plan.certain, CEILINGS)


def test_which_cells_do_not_fit_follows_from_the_memory() -> None:
    found = forecast(*planned(), CEILINGS)
    most = max(cell.memory_bytes for cell in found.cells)
    assert [cell.memory_bytes for cell in found.unfit(most - 1)] == [most]
    assert found.unfit(None) == []


def test_no_time_is_promised_before_a_cell_was_seen() -> None:
    config, plan = planned()
    assert TimeLeft(plan, forecast(config, plan)).seconds() is None


def test_what_was_observed_replaces_the_forecast() -> None:
    config, plan = planned(models="retnet", profile="quick", minutes=0)
    found = forecast(config, plan)
    left = TimeLeft(plan, found)
    for point in plan.points:
        left.observe(0, "retnet", point.id, 7.0)
    processes = 2 * found.process_s["retnet"]
    assert left.seconds() == pytest.approx(2 * len(plan.points) * 7.0 + processes)


def test_blocks_side_by_side_take_as_long_as_the_longest() -> None:
    config, plan = planned(models="retnet", profile="quick", minutes=0)
    found = forecast(config, plan)
    left = TimeLeft(plan, found, side_by_side=True)
    for point in plan.points:
        left.observe(0, "retnet", point.id, 7.0)
    assert left.seconds() == pytest.approx(len(plan.points) * 7.0 + found.process_s["retnet"])


def test_the_blocks_make_up_the_run_and_the_first_has_what_is_done_once() -> None:
    config, plan = planned(suite="perplexity", models="retnet", profile="quick")
    found = forecast(config, plan)
    blocks_s = [found.block_s(block) for block in range(plan.blocks)]
    assert sum(blocks_s) == pytest.approx(found.total_s)
    assert blocks_s[0] > blocks_s[1] == blocks_s[2]


def test_cells_not_seen_yet_are_rescaled_by_those_that_were() -> None:
    config, plan = planned(models="retnet", profile="smoke")
    found = forecast(config, plan)
    first, *others = found.cells
    left = TimeLeft(plan, found)
    left.observe(0, "retnet", first.point.id, 10 * first.seconds)
    expected = 10 * sum(cell.seconds for cell in others) + found.process_s["retnet"]
    assert left.seconds() == pytest.approx(expected)


def test_cells_of_an_earlier_session_are_not_counted_again() -> None:
    config, plan = planned(models="retnet", profile="smoke")
    done = {(block, contender.label, point.id) for block, contender, point in plan.cells()}
    last = (0, "retnet", plan.ascending()[-1].id)
    left = TimeLeft(plan, forecast(config, plan), done - {last})
    left.observe(*last, 1.0)
    assert left.cells_done == len(done)
    assert left.seconds() == 0.0
