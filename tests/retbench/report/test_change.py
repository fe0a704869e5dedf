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
