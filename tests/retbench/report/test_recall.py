"""The report of the recall suite: accuracies, differences, limits, figures, findings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retbench.report import theme
from retbench.report.quality import recall
from retbench.report.quality import recall_frames as frames
from retbench.report.quality.recall_figures import spread
from retbench.store import Run

from .recall_run import ANSWERS, LENGTHS, MODELS, TASKS, TRAINED, write_recall

Make = Callable[..., Run]
CHANCE = {"tasks": {"mqar": {"chance": 0.05}, "copy": {"chance": 0.1}}}


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return lambda **options: write_recall(
        tmp_path / f"run{len(list(tmp_path.iterdir()))}", **options
    )


def drawn(run: Run) -> dict[str, Any]:
    """The sidecars of all figures, which are drawn."""
    with theme.fixed():
        return {name: draw()[1] for name, draw in recall.content(run).figures.items()}


def table(run: Run, name: str) -> Any:
    return next(found for found in recall.content(run).tables if found.name == name)


def cell(run: Run, model: str, task: str, seq_len: int, load: int) -> Any:
    accuracy = frames.cells(frames.answers(run), MODELS)
    found = accuracy.query(
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
    assert set(frames.answers(run)["block"]) == {0, 1, 2}
    assert frames.rates(run)["learning_rate"].tolist() == [0.001] * 6


def test_every_task_length_and_load_has_a_row(make: Make) -> None:
    rows = table(make(), "accuracy").rows
    assert len(rows) == len(frames.cells(frames.answers(make()), MODELS)) / len(MODELS)
    assert [row[0] for row in rows] == sorted((row[0] for row in rows), key=list(TASKS).index)


# Differences


def compared(run: Run) -> Any:
    found = frames.differences(frames.answers(run), MODELS, smoke=False)
    return found.set_index(["task", "seq_len", "load"])


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
    verdicts = {row[-1] for row in table(run, "accuracy").rows}
    assert verdicts == {"no claim"}
    assert any(line.startswith("SMOKE") for line in recall.content(run).warnings)


def test_models_are_paired_by_seed(make: Make) -> None:
    run = make(failures={("transformer", "mqar", 0): "oom"})
    assert compared(run).loc[("mqar", 256, 16), "n"] == 2


# Where it falls


def limit(run: Run, model: str, along: str, held: int) -> Any:
    accuracy = frames.cells(frames.answers(run), MODELS)
    found = frames.limits(accuracy, TRAINED, tuple(TASKS))
    return found.query(
        "task == 'mqar' and model == @model and along == @along and held == @held"
    ).iloc[0]


def test_the_length_at_which_the_accuracy_falls_under_90_percent(make: Make) -> None:
    run = make()
    assert limit(run, "transformer", "seq_len", 16)["fails_at"] == 512
    found = limit(run, "retnet", "seq_len", 16)
    assert recall.tables.falls(found, tokens=True) == "not up to 1k"


def test_the_load_at_which_the_accuracy_falls_under_90_percent(make: Make) -> None:
    run = make()
    assert limit(run, "retnet", "load", TRAINED)["fails_at"] == 32
    found = limit(run, "transformer", "load", TRAINED)
    assert recall.tables.falls(found, tokens=False) == "not up to 32"


def test_a_model_that_fails_from_the_start_says_so(make: Make) -> None:
    found = limit(make(), "retnet", "seq_len", 32)
    assert recall.tables.falls(found, tokens=True).startswith("128, the smallest: ")


def test_tasks_stand_in_the_order_of_the_plan(make: Make) -> None:
    rows = table(make(), "limits").rows
    assert list(dict.fromkeys(row[0] for row in rows)) == ["mqar", "copy", "needle"]
    assert list(dict.fromkeys(row[1] for row in rows)) == list(MODELS)


# State


def test_the_state_of_each_model_is_listed(make: Make) -> None:
    rows = {(row[0], row[1]): row[-1] for row in table(make(), "training").rows}
    assert rows["mqar", "retnet"] == "16 KiB"
    assert rows["mqar", "transformer"] == "32 KiB to 512 KiB"


# Figures


def test_each_figure_lists_every_cell_as_shown_or_left_out(make: Make) -> None:
    run = make()
    cells = len(frames.cells(frames.answers(run), MODELS))
    for name, sidecar in drawn(run).items():
        assert len(sidecar["shown"]) + len(sidecar["left_out"]) == cells, name
        json.dumps(sidecar, allow_nan=False)


def test_the_figures_are_three(make: Make) -> None:
    assert set(drawn(make())) == {"accuracy_length", "accuracy_load", "accuracy_state"}


def test_a_single_load_needs_no_figure_over_load(make: Make) -> None:
    assert "accuracy_load" not in drawn(make(tasks={"needle": (1,)}))


def test_failures_are_in_the_figures_and_their_sidecars(make: Make) -> None:
    run = make(failures={("transformer", "needle", seed): "oom" for seed in range(3)})
    content = recall.content(run)
    with theme.fixed():
        figure, sidecar = content.figures["accuracy_length"]()
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert "■ × oom" in texts
    failed = [entry for entry in sidecar["left_out"] if entry["why"] == "oom"]
    assert failed == [
        {"task": "needle", "model": "transformer", "why": "oom", "cause": "oom of the test",
         "blocks": 3}
    ]  # fmt: skip
    assert "needle: transformer oom: oom of the test" in content.warnings


def test_the_accuracy_of_guessing_is_drawn_where_it_is_known(make: Make) -> None:
    content = recall.content(make(data=CHANCE))
    with theme.fixed():
        figure, _ = content.figures["accuracy_length"]()
    levels = [
        float(line.get_ydata()[0]) for axes in figure.axes for line in axes.lines
        if len(set(line.get_ydata())) == 1 and len(line.get_ydata()) == 2
    ]  # fmt: skip
    # One of 4 or 16 pairs that were shown, one of 32, where the chance among all answers is more.
    assert {0.25, 1 / 16, 0.05, 0.125, 0.1} <= set(levels)
    assert (
        dict(zip(content.tables[0].header, content.tables[0].rows[0], strict=True))["Guess"]
        == "25.0%"
    )


def test_the_state_of_a_retnet_stays_and_a_transformer_s_moves_right(make: Make) -> None:
    content = recall.content(make())
    with theme.fixed():
        figure, _ = content.figures["accuracy_state"]()
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == len(LENGTHS)]
    sizes = {line.get_color(): set(line.get_xdata()) for line in lines}
    styles = theme.styles(MODELS)
    assert sizes[styles["retnet"].color] == {16384.0}
    assert sizes[styles["transformer"].color] == {512.0 * length for length in LENGTHS}


@pytest.mark.parametrize(
    ("values", "also", "kept"),
    [([1], None, [1]), ([1, 2, 4, 8], None, [1, 4, 8]), ([1, 2, 4, 8], 2, [1, 2, 8]),
     ([1, 2, 4, 8], 16, [1, 4, 8]), ([1, 2, 4], 2, [1, 2, 4])],
)  # fmt: skip
def test_at_most_three_lines_a_model(values: list[int], also: int | None, kept: list[int]) -> None:
    assert spread(values, also) == kept


def test_a_figure_has_at_most_three_panels_and_says_what_it_leaves_out(make: Make) -> None:
    tasks = {name: (4,) for name in ("a", "b", "c", "d")}
    sidecars = drawn(make(tasks=tasks))
    left = {entry["task"] for entry in sidecars["accuracy_length"]["left_out"]}
    assert left == {"d"}


# Findings, warnings, numbers


def test_findings_say_how_the_models_compare_at_the_training_length_and_the_longest(
    make: Make,
) -> None:
    found = recall.content(make(seeds=5)).findings
    assert len(found) == 2 * len(TASKS)
    assert found[0].startswith("mqar at 128 tokens and 32 pairs: retnet ")
    assert found[0].endswith("(worse)") and found[1].endswith("(better)")


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
    task: str, load: int, expected: float | None
) -> None:
    assert frames.guess({"mqar": 0.05, "copy": 0.03}, task, load) == expected


def test_the_needle_is_not_given_away_by_its_load() -> None:
    assert frames.guess({"needle": 0.03}, "needle", 1) == 0.03


def test_few_seeds_and_an_unfinished_run_are_warned_of(make: Make) -> None:
    found = " ".join(recall.content(make(seeds=2, state="interrupted")).warnings)
    assert "2 training seeds" in found and "interrupted" in found


def test_numbers_hold_every_accuracy_and_are_json(make: Make) -> None:
    numbers = recall.content(make()).numbers
    json.dumps(numbers, allow_nan=False)
    entry = numbers["accuracy"]["mqar"]["retnet"]["256"]["16"]
    assert entry["n"] == 3 and entry["low"] < entry["value"]
    assert numbers["differences"]["mqar"]["transformer"]["256"]["16"]["verdict"]


def test_macros_have_distinct_names_of_letters(make: Make) -> None:
    names = [name for name, _ in recall.content(make()).macros]
    assert len(names) == len(set(names))
    assert all(name.isalpha() for name in names)


def test_a_run_in_which_everything_failed_has_a_report(make: Make) -> None:
    failures = {(m, t, s): "error" for m in MODELS for t in TASKS for s in range(3)}
    run = make(failures=failures)
    content = recall.content(run)
    failed = [line for line in content.warnings if "error of the test" in line]
    assert len(failed) == len(MODELS) * len(TASKS)
    assert content.figures == {} and content.tables[0].rows == ()
    json.dumps(content.numbers, allow_nan=False)


def test_a_task_in_which_every_model_failed_keeps_its_panel(make: Make) -> None:
    failures = {(model, "copy", seed): "error" for model in MODELS for seed in range(3)}
    content = recall.content(make(failures=failures))
    with theme.fixed():
        for draw in content.figures.values():
            draw()
        figure, _ = content.figures["accuracy_length"]()
    assert [axes.get_title(loc="left") for axes in figure.axes][1] == "copy"
    assert len(figure.axes[1].texts) == len(MODELS)


def test_one_model_alone_has_no_differences(make: Make) -> None:
    run = make(models=("retnet",))
    content = recall.content(run)
    assert content.tables[0].header == ("Task", "Length", "Load", "retnet")
    assert content.findings[0].startswith("mqar at 128 tokens")
    drawn(run)


def test_the_same_samples_give_the_same_bytes(make: Make) -> None:
    run = make()
    assert json.dumps(recall.content(run).numbers) == json.dumps(recall.content(run).numbers)
    assert recall.content(run).tables[0].rows == recall.content(run).tables[0].rows
