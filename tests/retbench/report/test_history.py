"""A metric over several runs: their order, and a verdict where one run can be judged by another."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from retbench.errors import UserError
from retbench.report.history import history

from .conftest import BATCHES, CONTEXTS, MODELS, MakeRun

SHORT = {"trials": 4, "steps": 6}
MACHINE = {"machine_id": "m", "commit": {"hash": "0123456789", "dirty": False}}


def later(made: MakeRun, name: str, day: int, **changes: Any) -> Any:
    run = made(name, **({"provenance": MACHINE} | SHORT | changes))
    run.meta["started"] = f"2026-01-{day:02d}T00:00:00+00:00"
    return run


def test_runs_stand_in_the_order_of_their_time_with_the_step_that_each_one_is(
    make_run: MakeRun,
) -> None:
    def slower(row: dict[str, Any]) -> float:
        return 1.5 if row["metric"] == "tpot_s" and row["model"] == "retnet" else 1.0

    third = later(make_run, "third", 3, change=slower)
    first, second = later(make_run, "first", 1), later(make_run, "second", 2)
    table = history([third, first, second])
    frame = table.frame
    assert set(frame["metric"]) == {"tpot_s"}
    own = frame[(frame["model"] == "retnet") & (frame["point"] == "context=8192,batch=1")]
    assert list(own["run"]) == ["first", "second", "third"]
    assert list(own["commit"]) == ["0123456"] * 3
    assert list(own["verdict"])[::2] == ["", "slower"]
    assert own["value"].iloc[2] == pytest.approx(1.5, rel=0.03)
    other = frame[(frame["model"] == "transformer") & (frame["run"] == "third")]
    assert "slower" not in set(other["verdict"])
    here = replace(first, path=first.path / "..." / ".." / ".")
    assert history([here, second]).frame.equals(history([first, second]).frame)
    (heading, *_), *_ = table.cells
    assert heading == "retnet, context=512,batch=1"
    assert set(history([first, second], "ttft_s").frame["metric"]) == {"ttft_s"}


def test_there_is_no_verdict_between_machines(make_run: MakeRun) -> None:
    first = later(make_run, "first", 1)
    second = later(make_run, "second", 2, provenance={"machine_id": "n"})
    steps = history([first, second]).frame
    assert set(steps[steps["run"] == "second"]["verdict"]) == {"another machine"}


def test_there_is_none_between_environments_and_other_versions_are_named(make_run: MakeRun) -> None:
    first = later(make_run, "first", 1)
    second = later(make_run, "second", 2, provenance=MACHINE | {"versions": {"torch": "3.0"}})
    third = later(make_run, "third", 3, provenance=second.meta["provenance"] | {
        "environment": {"ATEN_CPU_CAPABILITY": "default"}})  # fmt: skip
    elsewhere = later(make_run, "elsewhere", 4, provenance=third.meta["provenance"] | {
        "environment": {
            "ATEN_CPU_CAPABILITY": "default", "CUDA_VISIBLE_DEVICES": "3",
            "TORCHINDUCTOR_CACHE_DIR": "job", "GOMP_SPINCOUNT": "0",
        }})  # fmt: skip
    table = history([first, second, third, elsewhere])
    frame = table.frame
    assert "another environment" not in set(frame[frame["run"] == "elsewhere"]["verdict"])
    assert set(frame[frame["run"] == "third"]["verdict"]) == {"another environment"}
    assert "another environment" not in set(frame[frame["run"] == "second"]["verdict"])
    assert table.notes[-1] == "second has other versions: versions.torch: none, then 3.0"


def test_a_run_in_which_a_cell_failed_has_a_row_and_the_next_is_judged_by_the_one_before(
    make_run: MakeRun,
) -> None:
    first = later(make_run, "first", 1)
    second = later(make_run, "second", 2, failures={("retnet", 8192, 1): "oom"})
    third = later(make_run, "third", 3, change=lambda row: 2.0 if row["unit"] == "s" else 1.0)
    frame = history([first, second, third]).frame
    own = frame[(frame["model"] == "retnet") & (frame["point"] == "context=8192,batch=1")]
    assert list(own["verdict"]) == ["", "oom", "slower"]
    assert own["value"].iloc[2] == pytest.approx(2.0, rel=0.03)
    other = frame[(frame["model"] == "retnet") & (frame["point"] == "context=512,batch=1")]
    assert list(other["verdict"])[::2] == ["", "slower"] and other["verdict"].iloc[1] != "oom"
    left = later(make_run, "left", 4, configuration={"context": (512,)}, audit=None)
    again = history([first, second, left]).frame
    assert list(again[again["point"] == "context=8192,batch=1"]["run"].unique()) == [
        "first", "second"]  # fmt: skip


def test_a_run_that_has_nothing_ends_no_history(make_run: MakeRun) -> None:
    cells = dict.fromkeys(product(MODELS, CONTEXTS, BATCHES), "timeout")
    first, third = later(make_run, "first", 1), later(make_run, "third", 3)
    second = later(make_run, "second", 2, failures=cells)
    frame = history([first, second, third]).frame
    assert set(frame[frame["run"] == "second"]["verdict"]) == {"timeout"}
    assert frame[frame["run"] == "third"]["value"].notna().all()
    with pytest.raises(UserError, match="no two of the runs have a cell in common"):
        history([first, second])


def test_one_run_has_no_history_and_an_unknown_metric_none(make_run: MakeRun) -> None:
    first, second = later(make_run, "first", 1), later(make_run, "second", 2)
    with pytest.raises(UserError, match="a history needs two runs or more"):
        history([first])
    with pytest.raises(UserError, match="no two of the runs have 'tpot'; did you mean 'tpot_s'"):
        history([first, second], "tpot")
