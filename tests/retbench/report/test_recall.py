"""The report of the recall suite: accuracies, differences, limits, figures, findings."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retbench.report import export
from retbench.report.quality import recall
from retbench.report.quality.recall_frames import Recall
from retbench.store import Run

from .recall_run import ANSWERS, MODELS, TASKS, TRAINED, write_recall

Make = Callable[..., Run]
CHANCE = {"tasks": {"mqar": {"chance": 0.05}, "copy": {"chance": 0.1}}}


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return lambda **options: write_recall(
        tmp_path / f"run{len(list(tmp_path.iterdir()))}", **options
    )


def table(run: Run, name: str) -> Any:
    return next(found for found in recall.content(run).tables if found.name == name)


def cell(run: Run, model: str, task: str, seq_len: int, load: int) -> Any:
    found = Recall(run).accuracy.query(
        "model == @model and task == @task and seq_len == @seq_len and load == @load"
    )
    return found.iloc[0]


# Accuracies


def test_an_accuracy_is_the_mean_over_seeds_with_its_interval(make: Make) -> None:
    found = cell(make(seeds=3), "retnet", "mqar", 256, 16)
    assert found["value"] == pytest.approx(0.95, abs=0.02)
    assert found["low"] < found["value"] < found["high"] < 1
    assert (found["n"], found["answers"]) == (3, 3 * ANSWERS)


def test_one_seed_has_an_interval_of_its_answers(make: Make) -> None:
    found = cell(make(seeds=1), "retnet", "mqar", 256, 16)
    assert found["n"] == 1 and found["low"] < found["value"] < found["high"]


def test_what_is_asked_in_one_sequence_counts_as_one_answer(make: Make) -> None:
    apart, together = (
        cell(make(data=data), "retnet", "mqar", 256, 16) for data in (None, {"sequences": 64})
    )
    assert (apart["answers"], together["answers"]) == (3 * ANSWERS, 3 * 64)
    assert together["value"] == apart["value"]
    assert together["low"] < apart["low"] and together["high"] > apart["high"]


def test_a_seed_that_failed_does_not_count(make: Make) -> None:
    run = make(failures={("retnet", "mqar", 1): "error"})
    assert cell(run, "retnet", "mqar", 256, 16)["n"] == 2
    assert cell(run, "retnet", "copy", 256, 8)["n"] == 3


def test_trainings_of_the_learning_rate_do_not_count(make: Make) -> None:
    run = make()
    assert set(Recall(run).answers["block"]) == {0, 1, 2}
    assert Recall(run).scalars["learning_rate"].tolist() == [0.001] * 6


def test_every_task_length_and_load_has_a_row(make: Make) -> None:
    rows = table(make(), "accuracy").cells
    assert len(rows) == len(Recall(make()).accuracy) / len(MODELS)
    assert [row[0] for row in rows] == sorted((row[0] for row in rows), key=list(TASKS).index)


# Differences


def compared(run: Run) -> Any:
    return Recall(run).differences.set_index(["task", "seq_len", "load"])


def test_verdicts_of_five_seeds(make: Make) -> None:
    found = compared(make(seeds=5))
    assert found.loc[("mqar", 128, 32), "verdict"] == "worse"  # 60% against 97%
    assert found.loc[("mqar", 1024, 16), "verdict"] == "better"  # 95% against 24%
    assert found.loc[("mqar", 128, 32), "value"] == pytest.approx(-0.37, abs=0.03)


def test_three_seeds_never_say_better_or_worse(make: Make) -> None:
    found = compared(make(seeds=3))
    assert not set(found["verdict"]) & {"better", "worse"}
    assert found.loc[("mqar", 128, 32), "n_needed"] == 5


def test_a_smoke_run_makes_no_claim(make: Make) -> None:
    run = make(seeds=1, configuration={"profile": "smoke"})
    verdicts = {row[-1] for row in table(run, "accuracy").cells}
    assert verdicts == {"no claim"}
    assert any(line.startswith("SMOKE") for line in recall.content(run).warnings)


def test_models_are_paired_by_seed(make: Make) -> None:
    run = make(failures={("transformer", "mqar", 0): "oom"})
    assert compared(run).loc[("mqar", 256, 16), "n"] == 2


# Where it falls


def limit(run: Run, model: str, along: str, held: int) -> Any:
    return (
        Recall(run)
        .limits.query("task == 'mqar' and model == @model and along == @along and held == @held")
        .iloc[0]
    )


def test_the_length_at_which_the_accuracy_falls_under_90_percent(make: Make) -> None:
    run = make()
    assert limit(run, "transformer", "seq_len", 16)["fails_at"] == 512
    found = limit(run, "retnet", "seq_len", 16)
    assert recall.falls(found.to_dict()) == "not up to 1k"


def test_the_load_at_which_the_accuracy_falls_under_90_percent(make: Make) -> None:
    run = make()
    assert limit(run, "retnet", "load", TRAINED)["fails_at"] == 32
    found = limit(run, "transformer", "load", TRAINED)
    assert recall.falls(found.to_dict()) == "not up to 32"


def test_a_model_that_fails_from_the_start_says_so(make: Make) -> None:
    found = limit(make(), "retnet", "seq_len", 32)
    assert recall.falls(found.to_dict()).startswith("128, the smallest: ")


def test_tasks_stand_in_the_order_of_the_plan(make: Make) -> None:
    rows = table(make(), "limits").cells
    assert list(dict.fromkeys(row[0] for row in rows)) == ["mqar", "copy", "needle"]
    assert list(dict.fromkeys(row[1] for row in rows)) == list(MODELS)


# State


def test_the_state_of_each_model_is_listed(make: Make) -> None:
    rows = {(row[0], row[1]): row[-1] for row in table(make(), "training").cells}
    assert rows["mqar", "retnet"] == "16.0 KiB"
    assert rows["mqar", "transformer"] == "32.0 KiB to 512 KiB"


# Findings, warnings, numbers


def test_findings_say_how_the_models_compare_at_the_training_length_and_the_longest(
    make: Make,
) -> None:
    found = recall.content(make(seeds=5)).findings
    assert len(found) == 2 * len(TASKS)
    assert found[0].startswith("mqar at 128 tokens, 32 pairs: retnet ")
    assert found[0].endswith(", worse") and found[1].endswith(", better")


def test_two_that_are_always_right_are_the_same_to_the_points_that_it_can_tell(make: Make) -> None:
    def law(model: str, task: str, seq_len: int, load: int) -> float:
        return 1.0 if task == "mqar" else {"retnet": 0.9, "transformer": 0.85}.get(model, 0.5)

    few = {"sequences": 128}
    found = recall.content(make(seeds=5, law=law, data=few, spread=0.0)).findings
    assert re.search(r"transformer 100\.0%, the same, to [0-2]\.\d points", found[0])
    assert re.search(r"transformer \d+\.\d%, open \[−\d+, \+\d+\]", found[2])


def test_a_needle_is_one_needle(make: Make) -> None:
    assert "needle: one needle" in " ".join(table(make(), "accuracy").reading)


def test_a_model_that_guesses_among_what_was_shown_has_not_learned(make: Make) -> None:
    def law(model: str, task: str, seq_len: int, load: int) -> float:
        return 1 / load if model == "retnet" else 0.9

    found = recall.content(make(tasks={"mqar": (4, 8, 16)}, law=law, data=CHANCE)).warnings
    (said,) = [line for line in found if "has not learned" in line]
    assert said.startswith("mqar: retnet has not learned the task: ")
    assert "where guessing has 25.0%" in said


def test_one_load_well_above_guessing_is_learning(make: Make) -> None:
    found = recall.content(make(data=CHANCE)).warnings
    assert not any("has not learned" in line for line in found)


@pytest.mark.parametrize(
    ("task", "load", "expected"),
    [("mqar", 4, 0.25), ("copy", 31, 1 / 31), ("mqar", 32, 0.05), ("needle", 1, None)],
)
def test_guessing_is_among_what_was_shown_or_among_all(
    make: Make, task: str, load: int, expected: float | None
) -> None:
    chances = {"mqar": {"chance": 0.05}, "copy": {"chance": 0.03}}
    assert Recall(make(data={"tasks": chances})).guess(task, load) == expected


def test_the_needle_is_not_given_away_by_its_load(make: Make) -> None:
    run = make(data={"tasks": {"needle": {"chance": 0.03}}})
    assert Recall(run).guess("needle", 1) == 0.03


def test_few_seeds_and_an_unfinished_run_are_warned_of(make: Make) -> None:
    found = " ".join(recall.content(make(seeds=2, state="interrupted")).warnings)
    assert "2 training seeds" in found and "interrupted" in found


def test_numbers_hold_every_accuracy_and_are_json(make: Make) -> None:
    numbers = export.numbers(recall.content(make()))
    json.dumps(numbers, allow_nan=False)
    here = {"task": "mqar", "model": "retnet", "seq_len": 256, "load": 16}
    accuracy, difference = (row for row in numbers["accuracy"] if here.items() <= row.items())
    assert accuracy["n"] == 3 and accuracy["low"] < accuracy["value"]
    assert difference["verdict"] and difference["baseline"] == "transformer"


def test_accuracies_and_differences_can_be_cited(make: Make) -> None:
    cited = export.citations(recall.content(make()).tables)
    assert {"accuracy/mqar/retnet/256/16", "difference/mqar/retnet/transformer/256/16"} <= (
        cited.keys()
    )


def test_a_run_in_which_everything_failed_has_a_report(make: Make) -> None:
    failures = {(m, t, s): "error" for m in MODELS for t in TASKS for s in range(3)}
    run = make(failures=failures)
    content = recall.content(run)
    failed = [line for line in content.warnings if "error of the test" in line]
    assert len(failed) == len(MODELS) * len(TASKS)
    assert list(content.figures()) == []
    assert [table.name for table in content.tables] == ["training"]
    json.dumps(export.numbers(content), allow_nan=False)


def test_one_model_alone_has_no_differences(make: Make) -> None:
    run = make(models=("retnet",))
    content = recall.content(run)
    assert content.tables[0].header == ("Task", "Length", "Load", "retnet")
    assert content.findings[0].startswith("mqar at 128 tokens")


def test_the_same_samples_give_the_same_bytes(make: Make) -> None:
    run = make()
    first, second = (export.numbers(recall.content(run)) for _ in range(2))
    assert json.dumps(first) == json.dumps(second)
    assert recall.content(run).tables[0].cells == recall.content(run).tables[0].cells
