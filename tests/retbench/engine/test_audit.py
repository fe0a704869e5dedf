"""The audit: three copies of one contender, what is kept of it, and for which runs."""

from __future__ import annotations

import math
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from retbench import report, suites
from retbench.config.plan import Contender, Plan
from retbench.config.run import RunConfig
from retbench.engine import audit
from retbench.engine.resolve import resolve
from retbench.errors import UserError


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache of the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def config(suite: str = "inference", **given: Any) -> RunConfig:
    return resolve(suite, **{"device": "cpu", "threads": 1, "minutes": 0, **given})


def planned(suite: str = "inference", **given: Any) -> Plan:
    return audit.against_itself(config(suite, **given), slowdown=0.05)


def test_a_contender_meets_itself_and_a_slowed_copy() -> None:
    plan = planned(models="retnet,transformer")
    assert [(c.label, c.family, c.slowdown) for c in plan.contenders] == [
        ("A", "retnet", 0.0), ("B", "retnet", 0.0), ("slowed", "retnet", 0.05),
    ]  # fmt: skip
    assert (plan.blocks, plan.least) == (3, None)  # of profile quick


def test_blocks_are_added_for_the_minutes_of_the_run() -> None:
    plan = planned(minutes=3)
    assert (plan.blocks, plan.least) == (15, 3)


@pytest.mark.parametrize(
    ("suite", "given"),
    [
        ("inference", {"context": "512,1024"}),
        ("training", {"context": "256,512", "tokens_per_step": 512}),
        ("kernels", {"context": "256,512"}),
    ],
)
def test_every_context_has_the_primary_points_of_its_suite(
    suite: str, given: dict[str, Any]
) -> None:
    plan = planned(suite, **given)
    assert len(plan.points) == 2
    assert {point for _, point in plan.primary} == {point.id for point in plan.points}
    assert suites.get(suite).takes_turns


def test_what_is_found_between_equals_is_false_and_of_what_was_planted_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [
        ("tpot_s", "B", 1.02, "inconclusive"), ("tpot_s", "B", 0.97, "faster"),
        ("ttft_s", "B", 1.00, "equivalent"), ("tpot_s", "slowed", 0.95, "faster"),
        ("ttft_s", "slowed", 1.05, "slower"), ("ttft_s", "slowed", 0.96, "inconclusive"),
        ("state_bytes", "B", 0.50, "smaller"),
    ]  # fmt: skip
    ratios = pd.DataFrame(rows, columns=["metric", "baseline", "value", "verdict"])
    ratios = ratios.assign(point="context=64,batch=1", low=0.9, high=1.1, n=5)
    monkeypatch.setattr(report, "summarise", lambda run: SimpleNamespace(ratios=ratios))
    plan = Plan("inference", (Contender("A", "retnet"),), (), 5, seed=0)
    meta = {"provenance": {"machine_id": "one"}, "ceilings": None}
    run: Any = SimpleNamespace(meta=meta, plan=plan)
    found = audit._record(config(), run, 0.05)
    assert (found["compared"], found["false"]) == (3, 1)
    assert (found["planted"], found["found"]) == (3, 1)  # one was found the wrong way round
    assert found["floor"] == {"tpot_s": pytest.approx(-math.log(0.97)), "ttft_s": 0.0}


def record(given: RunConfig, **changes: Any) -> dict[str, Any]:
    found = {"slowdown": 0.05, "planted": 1, "found": 1, "time": "2025", "ceilings": None}
    return {"key": audit._key(given, "one"), "floor": {"tpot_s": 0.01}} | found | changes


def test_a_run_that_is_alike_finds_it_on_the_same_machine() -> None:
    assert audit.known(config(), "one") is None
    audit.remember(record(config()))
    found = audit.known(config(models="transformer", context="512"), "one")
    assert found is not None and found["floor"] == {"tpot_s": 0.01}
    assert audit.known(config(), "another") is None


@pytest.mark.parametrize("change", [{"dtype": "bfloat16"}, {"mode": "compile"}])
def test_a_run_of_another_type_or_mode_does_not(change: dict[str, str]) -> None:
    audit.remember(record(config()))
    assert audit.known(config(**change), "one") is None


def test_the_key_names_machine_device_type_mode_and_threads() -> None:
    assert audit._key(config(), "abc") == "abc cpu float32 eager 1"


def test_floors_of_other_metrics_are_kept_and_the_same_is_replaced() -> None:
    audit.remember(record(config(), floor={"tpot_s": 0.01, "ttft_s": 0.02}))
    audit.remember(record(config(), floor={"ttft_s": 0.03, "step_s": 0.04}))
    found = audit.known(config(), "one")
    assert found is not None
    assert found["floor"] == {"tpot_s": 0.01, "ttft_s": 0.03, "step_s": 0.04}


@pytest.mark.parametrize("text", ["[", "[]", '{"a": NaN}', "[" * 100_000, '{"sha256": ""}'])
def test_a_damaged_file_is_named_and_left(cache: Path, text: str) -> None:
    file = audit.cache_file()
    file.parent.mkdir(parents=True)
    file.write_text(text)
    for attempt in (audit.require_storable, lambda: audit.known(config(), "one")):
        with pytest.raises(UserError, match=r"audit\.json.*; delete it and run `retbench audit`"):
            attempt()
    assert file.read_text() == text


def test_a_pipe_in_place_of_the_file_is_not_waited_for(cache: Path) -> None:
    audit.cache_file().parent.mkdir(parents=True)
    os.mkfifo(audit.cache_file())
    for attempt in (audit.require_storable, lambda: audit.known(config(), "one")):
        with pytest.raises(UserError, match=r"cannot read .*audit\.json: not a regular file"):
            attempt()


@pytest.mark.parametrize("floor", ["x", {"tpot_s": "x"}, {"tpot_s": -1.0}, {"speed": 0.1}])
def test_a_floor_that_cannot_be_is_refused_before_anything_is_measured(floor: Any) -> None:
    audit.remember(record(config(), floor=floor))
    with pytest.raises(UserError, match=r"audit\.json is damaged, 'floor.*; delete it"):
        audit.known(config(), "one")
    audit.remember(record(config()))
    assert audit.known(config(), "one")


def test_in_a_cache_that_cannot_be_looked_into_there_is_no_audit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ("A" * 300)))
    assert audit.known(config(), "one") is None
    with pytest.raises(UserError, match=r"cannot write .*; set XDG_CACHE_HOME"):
        audit.require_storable()


def test_without_a_home_there_is_no_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", str)
    assert audit.known(config(), "one") is None
    with pytest.raises(UserError, match="no home folder for the audit"):
        audit.require_storable()
