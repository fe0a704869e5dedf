"""The tables of the recall suite, and how its numbers are put into words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from retbench.report import stamp, units
from retbench.report.frames import groups, records
from retbench.report.layout import Table
from retbench.report.quality import recall_figures as figures
from retbench.report.quality import recall_frames as frames
from retbench.report.quality.recall_figures import Recall
from retbench.report.quality.trained import EDGES, ending

Place = tuple[str, int, int]

_INTERVAL = (
    "accuracy [low, high]: mean over training seeds with its 95% interval (Wilson's; seeds and "
    "sequences both random, every seed having answered the same ones; what is asked in one "
    "sequence counts as one answer)"
)
_GUESS = "guess: an answer drawn from those that were shown, knowing none of their places"
_DIFFERENCE = (
    "difference: subject - baseline in percentage points, paired by seed; above 0 the subject is "
    "right more often; verdicts have a margin of 1 point, are corrected over the whole table "
    "(Holm), and better or worse takes 5 seeds; inconclusive, n=6: 6 seeds would settle it; "
    "without n: only more questions would"
)


def accuracy_table(recall: Recall, difference: pd.DataFrame) -> Table:
    """One row per task, length and load: each model's accuracy, and how the subject compares."""
    subject, *baselines = recall.models
    cells = {(*place_of(row), row["model"]): row for row in records(recall.accuracy)}
    compared = {(*place_of(row), row["baseline"]): row for row in records(difference)}
    chances = recall.chance
    rows = []
    for place in sorted({place_of(row) for row in records(recall.accuracy)}, key=_order(recall)):
        task, length, load = place
        texts = [task, units.tokens(length), str(load)]
        if chances:
            texts.append(percent(frames.guess(chances, task, load)))
        texts += [interval(cells.get((*place, model))) for model in recall.models]
        for baseline in baselines:
            row = compared.get((*place, baseline))
            texts += [points(row), verdict(row)]
        rows.append(tuple(texts))
    header = ["Task", "Length", "Load", *(["Guess"] if chances else []), *recall.models]
    numeric = [False, True, True, *([True] if chances else []), *(True for _ in recall.models)]
    for baseline in baselines:
        header += [f"{subject} − {baseline}", "Verdict"]
        numeric += [True, False]
    loads = "; ".join(f"{task}: {frames.load_name(task)}" for task in recall.tasks)
    return Table(
        "accuracy", "Accuracy by length and load", tuple(header), tuple(rows), tuple(numeric),
        (_INTERVAL, _DIFFERENCE, f"load: {loads}", *((_GUESS,) if chances else ())),
        _stamp(recall),
        frame=_wide(recall.accuracy, difference), above=True, grouped=True, headline=False,
    )  # fmt: skip


def limit_table(recall: Recall, limit: pd.DataFrame) -> Table:
    """The first length and the first load at which a model is right less than 90% of the time."""
    rows = []
    for row in records(limit):
        along_length = row["along"] == "seq_len"
        name = frames.load_name(row["task"])
        held = f"{row['held']} {name}" if along_length else f"{units.tokens(row['held'])} tokens"
        if along_length and name == "needle":
            held = units.DASH
        rows.append((row["task"], row["model"], "length" if along_length else name, held,
                     falls(row, tokens=along_length)))  # fmt: skip
    return Table(
        "limits", "Where the accuracy falls under 90%",
        ("Task", "Model", "Along", "At", "Under 90% from"), tuple(rows),
        (False, False, False, True, False),
        ("the first length or load, ascending, at which the mean accuracy is under 90%",
         f"along the load the length is the training length, {units.tokens(recall.length)} tokens"),
        _stamp(recall), frame=limit, above=True, grouped=True, headline=True,
    )  # fmt: skip


def training_table(recall: Recall, rates: pd.DataFrame) -> Table:
    """One row per task and model: the chosen learning rate, the seeds, and the state's bytes."""
    chosen = {(row["task"], row["model"]): row["learning_rate"] for row in records(rates)}
    sizes = {
        key: (group["state_bytes"].min(), group["state_bytes"].max())
        for key, group in groups(recall.states, ["task", "model"])
    }
    rows, table = [], []
    for task in recall.tasks:
        for row in records(recall.endings[recall.endings["task"] == task]):
            key = (task, row["model"])
            rate, (low, high) = chosen.get(key), sizes.get(key, (None, None))
            state = units.DASH
            if low is not None and high is not None:
                state = " to ".join(dict.fromkeys((figures.size(low), figures.size(high))))
            rows.append((
                task, row["model"], units.DASH if rate is None else f"{rate:g}",
                f"{row['ok_blocks']} of {row['blocks']}", ending(row), state,
            ))  # fmt: skip
            table.append(row | {"learning_rate": rate, "state_low": low, "state_high": high})
    return Table(
        "training", "Trainings", ("Task", "Model", "Learning rate", "Seeds", "Status", "State"),
        tuple(rows), (False, False, True, True, False, True),
        ("learning rate: the one of the grid with the lowest dev loss, for each model and task",
         "state: of one sequence, from the shortest evaluation length to the longest"),
        _stamp(recall), frame=pd.DataFrame(table), above=False, grouped=True, headline=False,
    )  # fmt: skip


def percent(share: float | None) -> str:
    """A share as a percentage with one decimal; a dash for none."""
    return units.DASH if share is None or units.is_missing(share) else f"{100 * share:.1f}%"


def interval(row: Mapping[str, Any] | None) -> str:
    """An accuracy with its interval: 97.1% [93.2, 98.8]; a dash where it was not measured."""
    if row is None:
        return units.DASH
    text = percent(row["value"])
    if units.is_missing(row["low"]):
        return text
    return f"{text} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"


def points(row: Mapping[str, Any] | None) -> str:
    """A difference in percentage points with its interval: +2.0 [−1.0, +5.0]."""
    if row is None or units.is_missing(row["value"]):
        return units.DASH
    value, low, high = (f"{100 * row[edge]:+.1f}".replace("-", "−") for edge in EDGES)
    return value if units.is_missing(row["low"]) else f"{value} [{low}, {high}]"


def verdict(row: Mapping[str, Any] | None) -> str:
    """A verdict with the seeds that would settle it."""
    if row is None:
        return units.DASH
    needed = row["n_needed"]
    return str(row["verdict"]) + ("" if pd.isna(needed) else f", n={needed}")


def falls(row: Mapping[str, Any], *, tokens: bool) -> str:
    """Where an accuracy falls under 90%, in words."""

    def place(value: Any) -> str:
        return units.tokens(value) if tokens else str(value)

    if pd.isna(row["fails_at"]):
        return f"not up to {place(row['largest'])}"
    at = place(row["fails_at"])
    every = ", the smallest" if row["fails_at"] == row["smallest"] else ""
    return f"{at}{every}: {interval(row)}"


def place_of(row: Mapping[str, Any]) -> Place:
    """Task, length and load of a row."""
    return str(row["task"]), int(row["seq_len"]), int(row["load"])


def _order(recall: Recall) -> Callable[[Place], tuple[int, int, int]]:
    return lambda place: (recall.tasks.index(place[0]), place[1], place[2])


def _stamp(recall: Recall) -> tuple[str, ...]:
    return (stamp.conditions(recall.meta),)


def _wide(accuracy: pd.DataFrame, difference: pd.DataFrame) -> pd.DataFrame:
    """The frame of the table of accuracies: cells, then differences, told apart by ``quantity``."""
    compared = difference.rename(columns={"subject": "model"})
    return pd.concat(
        [accuracy.assign(quantity="accuracy"), compared.assign(quantity="difference")],
        ignore_index=True,
    )
