"""Two runs compared: nothing where they are one, and all that changed where it did."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from retbench.errors import UserError
from retbench.report import change
from retbench.store import Run

from .conftest import BATCHES, CONTEXTS, MODELS, MakeRun, write_run
from .samples import PROVENANCE

SHORT = {"trials": 3, "steps": 3}
SLOWER = SHORT | {"change": lambda row: 1.1 if row["unit"] == "s" else 1.0}


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_run(tmp_path_factory.mktemp("runs") / "a", blocks=5, **SHORT)


def test_a_run_does_not_differ_from_itself(before: Run) -> None:
    found = change.between(before, before)
    assert (found.differing, found.warnings) == ({}, ())
    assert set(found.counts) <= {"equivalent", "inconclusive"}
    assert (found.table.frame["value"] == 1).all()
    assert change.said(found)[0].startswith("nothing differs in hardware, versions")


def test_times_that_are_a_tenth_longer_are_slower_and_memory_is_not_larger(
    make_run: MakeRun, before: Run
) -> None:
    found = change.between(before, make_run("b", blocks=5, **SLOWER))
    frame = found.table.frame
    timed = frame[frame["unit"] == "s"]
    assert set(timed["verdict"]) == {"slower"}
    assert timed["value"].to_numpy() == pytest.approx(1.1)
    assert "larger" not in found.counts
    assert "| TPOT | retnet | 8k |" in change.markdown(found)


def test_what_differs_is_said_before_the_ratios(make_run: MakeRun, before: Run) -> None:
    other: dict[str, Any] = PROVENANCE | {
        "processor": {"name": "Other CPU"}, "versions": {"torch": "3.0"}, "machine_id": "other",
        "commit": {"hash": "def456", "dirty": True}, "load_average": [1.0],
        "environment": {"OMP_WAIT_POLICY": "active"},
    }  # fmt: skip
    found = change.between(before, make_run("b", blocks=3, provenance=other, **SHORT,
                                            configuration={"seed": 3}))  # fmt: skip
    assert found.differing == {
        "hardware": ["processor.name: Example CPU, then Other CPU", "machine_id: none, then other"],
        "versions": ["versions.torch: none, then 3.0"],
        "environment": ["environment.OMP_WAIT_POLICY: none, then active"],
        "commit": ["commit.hash: abc123, then def456", "commit.dirty: False, then True"],
        "configuration": ["seed: 0, then 3"],
    }
    assert "different machines" in found.warnings[0] and "dirty" in found.warnings[1]


def test_a_cell_that_now_fails_is_a_regression_and_one_that_took_no_turns_has_no_verdict(
    make_run: MakeRun, before: Run
) -> None:
    after = make_run(
        "b", blocks=3, failures={("transformer", 8192, 1): "oom"},
        alone=lambda model, context, block: context == 4096, **SHORT,
    )  # fmt: skip
    found = change.between(before, after)
    frame = found.table.frame
    (lost,) = frame[frame["verdict"] == "failed"].to_dict("records")
    assert (lost["model"], lost["seq_len"], lost["note"]) == (
        "transformer", 8192, "failed: oom",
    )  # fmt: skip

    timed = frame[(frame["unit"] == "s") & (frame["seq_len"] == 4096)]
    assert set(timed["note"]) == {"alone in one run"} and timed["verdict"].isna().all()


CELL = ("transformer", 8192, 1)


@pytest.mark.parametrize(
    ("then", "now", "said"),
    [
        ({1}, {0, 1, 2, 3, 4}, "failed: oom"),
        ({1}, {0, 1}, "failed: oom in 2 of 5 blocks"),
        (set(), {4}, "failed: oom in 1 of 5 blocks"),
        ({1}, {4}, ""),
        ({0, 1, 2, 3, 4}, {0, 1, 2, 3, 4}, ""),
        ({0, 1}, set(), ""),
    ],
)
def test_a_cell_that_fails_more_often_is_a_regression(
    make_run: MakeRun, then: set[int], now: set[int], said: str
) -> None:
    runs = [
        make_run(name, blocks=5, failures={CELL: dict.fromkeys(blocks, "oom")}, **SHORT)
        for name, blocks in (("a", then), ("b", now))
    ]
    frame = change.between(*runs).table.frame
    assert "".join(frame.loc[frame["verdict"] == "failed", "note"]) == said


def test_as_many_failures_among_fewer_blocks_and_a_smaller_share_of_more_are_no_regression(
    make_run: MakeRun,
) -> None:
    short = make_run("a", blocks=2, failures={CELL: {1: "oom"}}, **SHORT)
    long = make_run("b", blocks=5, failures={CELL: {1: "oom", 2: "oom"}}, **SHORT)
    assert "failed" not in change.between(short, long).counts
    long = make_run("c", blocks=5, failures={CELL: {1: "oom"}}, **SHORT)
    assert "failed" not in change.between(long, short).counts


def test_a_cell_that_the_second_run_has_not_tried_is_named(make_run: MakeRun, before: Run) -> None:
    shorter = make_run("b", blocks=3, configuration={"context": (512, 1024)}, **SHORT)
    found = change.between(before, shorter)
    gone = found.table.frame[found.table.frame["note"] == "not in the second run"]
    assert set(gone["seq_len"]) == {2048, 4096, 8192} and gone["verdict"].isna().all()
    assert "| Status | retnet | 8k |" in change.markdown(found)
    assert "not in the second run" not in change.markdown(change.between(shorter, before))
    other = make_run("c", blocks=1, configuration={"context": (64,), "batch": (1,),
                                                   "batch_context": 64}, **SHORT)  # fmt: skip
    with pytest.raises(UserError, match="no cell with a time or memory in common"):
        change.between(before, other)


def test_a_block_that_is_far_off_ends_no_comparison(make_run: MakeRun) -> None:
    def far(row: dict[str, Any]) -> float:
        return 1e3 if row["block"] and row["metric"] == "tpot_s" else 1.0

    runs = make_run("a", blocks=2, **SHORT), make_run("b", blocks=2, change=far, **SHORT)
    found = change.between(*runs)
    times = found.table.frame[found.table.frame["metric"] == "tpot_s"]
    assert (times["high"] == float("inf")).any() and "slower" not in set(times["verdict"])
    assert "inconclusive" in change.markdown(found)


def test_a_smoke_run_earns_no_verdict_of_times(make_run: MakeRun, before: Run) -> None:
    after = make_run("b", blocks=2, configuration={"profile": "smoke"}, **SLOWER)
    assert "slower" not in change.between(before, after).counts


def test_runs_that_have_nothing_in_common_are_refused(make_run: MakeRun, before: Run) -> None:
    cells = itertools.product(MODELS, CONTEXTS, BATCHES)
    nothing = make_run("b", blocks=1, failures=dict.fromkeys(cells, "error"))
    with pytest.raises(UserError, match="no cell with a time or memory in common"):
        change.between(nothing, before)
    nothing.meta["suite"] = "training"
    with pytest.raises(UserError, match=r"is of the suite training, .* of inference"):
        change.between(nothing, before)
