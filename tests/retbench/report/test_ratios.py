"""Ratios of the summary: pairs, intervals, verdicts and crossovers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from retbench.report import compare, summarise, terms, units, write_tables
from retbench.report.speed.comparison import crossing
from retbench.report.summary import Summary
from retbench.stats.comparison import paired_centre

from .conftest import AUDIT, CONTEXTS, FAILURES, MakeRun, ratio, step_s


def test_ratios_are_paired_by_round_and_then_by_block_on_logs(summary: Summary) -> None:
    frame = summary.run.frame()
    rows = frame[(frame["metric"] == "tpot_s") & (frame["point"] == "context=4096,batch=1")]
    by_round = rows.set_index(["model", "block", "trial"])["value"]
    logs = np.log(by_round["retnet"] / by_round["transformer"]).groupby("block").agg(paired_centre)
    found = ratio(summary, "tpot_s", "transformer", 4096)
    assert found["value"] == pytest.approx(np.exp(logs.mean()))
    assert found["low"] < found["value"] < found["high"]
    assert found["n"] == 3


def test_what_slows_a_round_for_all_changes_no_ratio(make_run: MakeRun) -> None:
    def beside_a_neighbour(row: dict[str, Any]) -> float:
        return 3.0 if row["block"] == 1 and row["trial"] in (2, 3, 5, 7) else 1.0

    quiet, busy = (
        summarise(make_run("quiet")),
        summarise(make_run("busy", change=beside_a_neighbour)),
    )
    columns = ["value", "low", "high"]
    timed = quiet.ratios["metric"].isin(compare.TIMES)
    assert busy.cells["value"].ne(quiet.cells["value"]).any()
    assert np.allclose(quiet.ratios.loc[timed, columns], busy.ratios.loc[timed, columns])


def test_rounds_that_one_side_lost_do_not_count(make_run: MakeRun) -> None:
    def lost(row: dict[str, Any]) -> float:
        if row["model"] == "transformer" and row["block"] == 0 and (row["trial"] or 0) > 3:
            row["trial"] += 100  # a round that nobody else has
        return 1.0

    run = make_run(change=lost)
    frame = run.frame()
    rows = frame[(frame["metric"] == "tpot_s") & (frame["point"] == "context=512,batch=1")]
    by_round = rows.set_index(["model", "block", "trial"])["value"]
    logs = np.log(by_round["retnet"] / by_round["transformer"]).dropna().groupby("block")
    assert logs.count()[0] == 4
    found = ratio(summarise(run), "tpot_s", "transformer", 512)
    assert found["value"] == pytest.approx(np.exp(logs.agg(paired_centre).mean()))


def test_two_that_were_measured_alone_have_a_ratio_that_says_so(make_run: MakeRun) -> None:
    run = make_run(alone=lambda model, context, block: context == 8192 and "gqa" not in model)
    frame = run.frame()
    rows = frame[(frame["metric"] == "tpot_s") & (frame["point"] == "context=8192,batch=1")]
    medians = rows.groupby(["model", "block"])["value"].median()
    summary = summarise(run)
    found = ratio(summary, "tpot_s", "transformer", 8192)
    logs = np.log(medians["retnet"] / medians["transformer"])
    assert found["value"] == pytest.approx(np.exp(logs.mean()))
    assert found["alone"] and units.verdict(found) == "faster, alone"
    mixed = ratio(summary, "tpot_s", "transformer-gqa", 8192)
    assert (mixed["n"], mixed["verdict"]) == (0, "") and math.isnan(mixed["value"])
    assert units.verdict(mixed) == "measured alone: retnet"
    memory = ratio(summary, "state_bytes", "transformer-gqa", 8192)
    assert (memory["n"], memory["alone"]) == (3, False)
    assert not ratio(summary, "tpot_s", "transformer", 512)["alone"]


def test_a_block_in_which_one_was_measured_alone_does_not_count(make_run: MakeRun) -> None:
    run = make_run(alone=lambda model, context, block: (model, block) == ("transformer", 2))
    found = ratio(summarise(run), "tpot_s", "transformer", 512)
    assert (found["n"], found["note"], bool(found["alone"])) == (2, "", False)


def test_verdicts_say_slower_before_the_crossing_and_faster_beyond(make_run: MakeRun) -> None:
    summary = summarise(make_run(blocks=5))
    assert ratio(summary, "tpot_s", "transformer", 512)["verdict"] == "slower"
    assert ratio(summary, "tpot_s", "transformer", 8192)["verdict"] == "faster"


def unsteady(row: dict[str, Any]) -> float:
    """Blocks that disagree by a few percent about the models that meet at 8,192 tokens."""
    here = row["metric"] == "tpot_s" and row["model"] == "transformer-gqa"
    return (1.03, 1.0, 1.02)[row["block"] % 3] if here and row["seq_len"] == 8192 else 1.0


def test_an_inconclusive_ratio_says_what_it_tells_and_what_would_settle_it(
    make_run: MakeRun,
) -> None:
    seconds = {"0": 100.0, "1": 200.0, "2": 300.0}
    run = make_run(change=unsteady, block_s=seconds, configuration={"precision": 0.001})
    found = ratio(summarise(run), "tpot_s", "transformer-gqa", 8192)
    assert found["verdict"] == "inconclusive" and found["n_needed"] > 3
    assert found["minutes_needed"] == pytest.approx((found["n_needed"] - 3) * 200 / 60)
    minutes = math.ceil(found["minutes_needed"])
    assert found["resolution"] > 0
    assert math.isnan(found["precision_needed"])
    assert units.verdict(found) == f"inconclusive (+{minutes} min)"


def test_where_the_run_s_precision_would_end_it_before_a_smaller_one_is_named(
    make_run: MakeRun,
) -> None:
    run = make_run(change=unsteady, block_s={"0": 60.0}, configuration={"precision": 0.2})
    found = ratio(summarise(run), "tpot_s", "transformer-gqa", 8192)
    margin, half = math.log1p(0.01), math.log(found["high"] / found["low"]) / 2
    gap = abs(abs(math.log(found["value"])) - margin)
    assert found["precision_needed"] == pytest.approx(math.expm1(gap))
    assert gap < half < math.log1p(0.2)
    minutes, precision = math.ceil(found["minutes_needed"]), units.below(found["precision_needed"])
    assert units.verdict(found) == f"inconclusive (+{minutes} min, ±{precision})"


@pytest.mark.parametrize(("share", "said"), [(0.0038, "0.3%"), (0.02, "2%"), (0.199, "10%")])
def test_a_precision_to_ask_for_is_rounded_down(share: float, said: str) -> None:
    assert units.below(share) == said


def test_without_the_time_of_a_block_it_says_how_many(make_run: MakeRun) -> None:
    summary = summarise(make_run(change=unsteady, block_s={}))
    found = ratio(summary, "tpot_s", "transformer-gqa", 8192)
    assert math.isnan(found["minutes_needed"])
    assert units.verdict(found) == f"inconclusive (+{found['n_needed'] - 3:.0f} blocks)"


def test_a_noise_floor_keeps_times_from_being_told_apart(make_run: MakeRun) -> None:
    found = summarise(make_run(audit=AUDIT | {"floor": {"tpot_s": 2.0}})).ratios
    steps = found[found["metric"] == "tpot_s"].set_index(["baseline", "point"])["verdict"]
    assert not {"faster", "slower"} & set(steps)
    assert steps["transformer", "context=512,batch=1"] == "inconclusive"  # 1.6 is not equivalent
    memory = found[found["metric"] == "state_bytes"]["verdict"]
    assert {"smaller", "larger"} <= set(memory)


def test_an_audit_has_a_floor_of_each_metric(make_run: MakeRun) -> None:
    summary = summarise(make_run(audit=AUDIT | {"floor": {"tpot_s": 2.0, "ttft_s": 0.001}}))
    assert ratio(summary, "tpot_s", "transformer", 512)["verdict"] == "inconclusive"
    assert ratio(summary, "ttft_s", "transformer", 8192)["verdict"] == "faster"


def test_the_margin_of_the_run_decides_what_is_equivalent(make_run: MakeRun) -> None:
    for margin, word in ((0.01, "slower"), (0.7, "equivalent")):
        summary = summarise(make_run(str(margin), configuration={"margin": margin}))
        assert ratio(summary, "tpot_s", "transformer", 512)["verdict"] == word


def test_memory_is_judged_by_the_margin_whatever_the_noise_of_times(make_run: MakeRun) -> None:
    floors = {"audit": AUDIT | {"floor": dict.fromkeys(compare.TIMES, 0.35)}}
    peaks = {"retnet": 0.830, "transformer": 1.0, "transformer-gqa": 1.0}

    def peak(row: dict[str, Any]) -> float:
        if row["metric"] != "decode_peak_bytes":
            return 1.0
        return peaks[row["model"]] * 1e8 / row["value"] * (1 + 0.001 * (row["block"] == 1))

    found = ratio(
        summarise(make_run(change=peak, **floors)), "decode_peak_bytes", "transformer", 512
    )
    assert (found["value"], found["low"]) == (pytest.approx(0.83), pytest.approx(0.83))
    assert found["verdict"] == "smaller"


def test_the_primary_family_holds_together_and_other_rows_for_themselves(summary: Summary) -> None:
    rows = summary.ratios
    primary = rows[rows["primary"]]
    assert list(primary[["metric", "baseline", "point"]].itertuples(index=False, name=None)) == [
        (metric, baseline, "context=8192,batch=1")
        for metric in ("tpot_s", "ttft_s") for baseline in ("transformer", "transformer-gqa")
    ]  # fmt: skip
    assert primary["confidence"].tolist() == pytest.approx([1 - 0.05 / 4] * 4)
    others = rows[rows["metric"].isin(compare.TIMES) & ~rows["primary"]]
    assert others["confidence"].tolist() == pytest.approx([0.95] * len(others))
    assert rows.loc[rows["metric"].isin(compare.MEMORY), "confidence"].isna().all()


def test_a_run_that_looked_whether_to_stop_has_wider_intervals(make_run: MakeRun) -> None:
    stopped = {"blocks": 3, "alpha": 0.04, "why": "the time is up", "open": []}
    fixed, looked = (
        summarise(make_run("a")).ratios,
        summarise(make_run("b", stopped=stopped)).ratios,
    )
    timed = fixed["metric"].isin(compare.TIMES)
    width = {name: np.log(t["high"] / t["low"])[timed] for name, t in (("f", fixed), ("l", looked))}
    assert (width["l"] > width["f"]).all()
    assert looked.loc[timed & ~fixed["primary"], "confidence"].unique() == pytest.approx([0.96])


def test_an_interrupted_run_that_had_looked_whether_to_stop_has_wider_intervals_too(
    make_run: MakeRun,
) -> None:
    plan = make_run("fixed").meta["plan"]
    for least, confidence in ((3, 0.96), (4, 0.95)):
        run = make_run(f"l{least}", plan=plan | {"least": least}, state="interrupted")
        ratios = summarise(run).ratios
        others = ratios["metric"].isin(compare.TIMES) & ~ratios["primary"]
        assert ratios.loc[others, "confidence"].unique() == pytest.approx([confidence])
    lengths = {"0": 60.0, "2": 60.0}  # the second block was made in two parts
    run = make_run("parts", plan=plan | {"least": 3}, state="interrupted", block_s=lengths)
    assert terms.alpha(run.meta) == pytest.approx(0.04)


def test_memory_ratios_have_words_of_their_own(summary: Summary) -> None:
    assert ratio(summary, "state_bytes", "transformer", 4096)["verdict"] == "smaller"
    assert ratio(summary, "state_bytes", "transformer", 512)["verdict"] == "equivalent"
    assert ratio(summary, "state_bytes", "transformer-gqa", 512)["verdict"] == "larger"


def test_blocks_are_those_of_times_and_memory_says_its_own(make_run: MakeRun) -> None:
    run = make_run()
    write_tables(run)
    said = (run.path / "tables" / "ratios.md").read_text()
    assert "Blocks 3" in said
    assert "memory: read in the first 2 blocks" in said


def test_a_ratio_with_a_failed_side_is_a_row_that_says_so(make_run: MakeRun) -> None:
    found = ratio(summarise(make_run(failures=FAILURES)), "tpot_s", "transformer", 8192)
    assert math.isnan(found["value"])
    assert found["note"] == "transformer: oom"


def test_a_smoke_run_earns_no_verdict(make_run: MakeRun) -> None:
    summary = summarise(make_run(blocks=1, configuration={"profile": "smoke"}))
    assert set(summary.ratios["verdict"]) == {"no claim"}


def test_a_smoke_run_earns_no_crossover(make_run: MakeRun) -> None:
    rows = summarise(make_run(blocks=1, configuration={"profile": "smoke"})).crossovers
    assert len(rows)
    assert set(rows["status"]) == {"no claim"}
    assert rows[["value", "low", "high"]].isna().all(axis=None)


def test_the_crossover_is_found_where_the_law_puts_it(make_run: MakeRun) -> None:
    rows = summarise(make_run(blocks=5)).crossovers.set_index(["metric", "baseline"])
    found = rows.loc[("tpot_s", "transformer")]
    assert found["status"] == "reached"
    assert found["direction"] == "better"
    assert found["low"] < 2048 < found["high"]
    assert found["value"] == pytest.approx(2048, rel=0.03)


def test_a_crossover_not_reached_keeps_its_direction(make_run: MakeRun) -> None:
    quick = lambda row: 0.5 if (row["metric"], row["model"]) == ("ttft_s", "retnet") else 1.0  # noqa: E731
    rows = summarise(make_run(change=quick)).crossovers.set_index(["metric", "baseline"])
    found = rows.loc[("ttft_s", "transformer")]
    assert found["status"] == "always below"
    said = crossing(found.to_dict() | {"metric": "ttft_s"})
    assert said == "not reached: faster at every context"


def _equal_states(row: dict[str, Any]) -> float:
    """What makes the state of all models 1 GiB, and retnet's the smaller one at 4k."""
    if row["metric"] != "state_bytes":
        return 1.0
    smaller = row["seq_len"] == CONTEXTS[-2] and row["model"] == "retnet"
    return float(2**30 / row["value"] * (0.5 if smaller else 1.0))


@pytest.mark.parametrize(
    ("contexts", "said"),
    [
        (CONTEXTS[:3], "not reached: the same at every context"),
        (CONTEXTS, "no crossing seen; the same at 512, 1k, 2k, 8k"),
    ],
)
def test_a_ratio_of_one_is_on_neither_side(
    make_run: MakeRun, contexts: tuple[int, ...], said: str
) -> None:
    run = make_run(change=_equal_states, configuration={"context": contexts})
    rows = summarise(run).crossovers
    row = rows[(rows["metric"] == "state_bytes") & (rows["baseline"] == "transformer")]
    assert crossing(row.iloc[0].to_dict()) == said


@pytest.mark.parametrize(
    ("factors", "said"),
    [
        ((0.5, 0.5, 0.5), "not reached: faster at every context that has a value; "),
        ((0.9, 0.99, 0.5), "no crossing seen; open at 512, 1k, 2k, 4k; "),
    ],
)
@pytest.mark.parametrize("model", ["retnet", "transformer"])
def test_a_side_is_not_claimed_at_the_longest_context_where_a_model_has_failed(
    make_run: MakeRun, factors: tuple[float, ...], said: str, model: str
) -> None:
    lost = {(model, CONTEXTS[-1], 1): "timeout"}
    found = summarise(make_run(change=_at(CONTEXTS, factors), failures=lost)).crossovers
    row = found.set_index(["metric", "baseline"]).loc[("ttft_s", "transformer")].to_dict()
    assert crossing(row | {"metric": "ttft_s"}) == f"{said}no value at 8k"


def _at(contexts: tuple[int, ...], factors: tuple[float, ...]) -> Callable[[dict[str, Any]], float]:
    """TTFT of retnet as a share of what it would be, one factor a block, at some contexts."""
    place = {"metric": "ttft_s", "model": "retnet"}

    def change(row: dict[str, Any]) -> float:
        if row["seq_len"] in contexts and place.items() <= row.items():
            return factors[row["block"]]
        return 0.5 if place.items() <= row.items() else 1.0

    return change


@pytest.mark.parametrize(
    ("contexts", "factors", "said"),
    [
        ((512,), (0.8, 0.85, 1.0), "no crossing seen; open at 512"),
        (CONTEXTS, (0.8, 0.99, 0.5), "no crossing seen; open at every context"),
    ],
)
def test_a_side_without_a_verdict_at_every_context_is_not_claimed(
    make_run: MakeRun, contexts: tuple[int, ...], factors: tuple[float, ...], said: str
) -> None:
    found = summarise(make_run(change=_at(contexts, factors))).crossovers
    row = found.set_index(["metric", "baseline"]).loc[("ttft_s", "transformer")].to_dict()
    assert row["status"] == "not seen" and crossing(row | {"metric": "ttft_s"}) == said


def test_a_crossover_without_a_verdict_before_it_is_unclear(make_run: MakeRun) -> None:
    found = summarise(make_run(change=_at((512,), (1.05, 1.13, 1.07)))).crossovers
    row = found.set_index(["metric", "baseline"]).loc[("ttft_s", "transformer")]
    assert row["status"] == "unclear"
    assert re.fullmatch(r"near [\d.]+k?, but no verdict before it", row["reason"])


@pytest.mark.parametrize(
    ("factors", "reason"),
    [
        ((0.8, 1.0, 1.25), "interval 6"),
        ((0.6, 1.0, 3.0), "blocks disagree: 1 of 3 cross"),
        ((1.0,), "one block gives no interval"),
    ],
)
def test_an_unclear_crossover_has_a_reason(
    make_run: MakeRun, factors: tuple[float, ...], reason: str
) -> None:
    def differing(row: dict[str, Any]) -> float:
        here = row["metric"] == "tpot_s" and row["model"] == "retnet"
        return factors[row["block"]] if here else 1.0

    rows = summarise(make_run(blocks=len(factors), change=differing)).crossovers
    found = rows.set_index(["metric", "baseline"]).loc[("tpot_s", "transformer")]
    assert found["status"] == "unclear" and found["reason"].startswith(reason)
    assert found[["value", "low", "high"]].isna().all()
    assert crossing(found.to_dict() | {"metric": "tpot_s"}) == f"unclear: {found['reason']}"
    if len(factors) == 3 and reason.startswith("interval"):
        assert found["reason"].endswith(" is wider than a factor of 1.5")


def test_a_whole_generation_is_compared_and_crossed_as_a_step_is(make_run: MakeRun) -> None:
    summary = summarise(make_run(blocks=5, generation=True))
    assert ratio(summary, "mean_tpot_s", "transformer", 8192)["verdict"] == "faster"
    assert ratio(summary, "mean_tpot_s", "transformer", 512)["verdict"] == "slower"
    rows = summary.crossovers.set_index(["metric", "baseline"])
    assert rows.loc[("mean_tpot_s", "transformer"), "value"] == pytest.approx(4096, rel=0.03)


def test_energy_is_compared_by_block_and_is_larger_or_smaller(make_run: MakeRun) -> None:
    ratios = summarise(make_run(energy=True, blocks=5)).ratios
    own = ratios[(ratios["baseline"] == "transformer") & (ratios["seq_len"] == 8192)]
    row = own.set_index("metric").loc["token_j"]
    expected = step_s("retnet", 8192, 1) / step_s("transformer", 8192, 1)
    assert row["value"] == pytest.approx(expected, rel=0.02)
    assert row["low"] < expected < row["high"]
    assert (row["verdict"], row["n"]) == ("smaller", 5)
