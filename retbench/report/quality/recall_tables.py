"""The tables of the recall suite, and how its numbers are put into words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pandas as pd

from retbench.report import units
from retbench.report.content import filled
from retbench.report.frames import Row, records
from retbench.report.quality import recall_frames as frames
from retbench.report.quality.columns import SETTLED, learning_rate, untuned
from retbench.report.quality.recall_figures import Recall
from retbench.report.quality.trained import EDGES, ending
from retbench.report.tables import Column, Table, name

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
    "(Holm), and better or worse takes 5 seeds"
)


def tables(recall: Recall, difference: pd.DataFrame, limit: pd.DataFrame,
           rates: pd.DataFrame) -> tuple[Table, ...]:  # fmt: skip
    """Every table that has a row, in the order in which to read them."""
    return filled(
        _accuracies(recall, difference), _limits(recall, limit), _trainings(recall, rates)
    )


def _accuracies(recall: Recall, difference: pd.DataFrame) -> Table:
    """One row per task, length and load: each model's accuracy, and how the subject compares."""
    subject, *baselines = recall.models

    def against(baseline: str) -> str:
        return f"{subject} − {baseline}"

    rows: dict[Place, Row] = {}
    for row in records(recall.accuracy):
        place = place_of(row)
        rows.setdefault(place, dict(row))[row["model"]] = row
    for row in records(difference):
        if (place := place_of(row)) in rows:
            rows[place][against(row["baseline"])] = row
    columns = [
        name("Task", "task"),
        Column("Length", lambda row: units.tokens(row["seq_len"]), rank=0),
        Column("Load", "load", rank=0),
    ]  # fmt: skip
    if recall.chance:
        columns.append(Column("Guess", partial(_guessed, recall.chance), rank=2, note=_GUESS))
    columns += [
        Column(model, partial(_interval, model=model), metric="accuracy") for model in recall.models
    ]
    for baseline in baselines:
        pair = against(baseline)
        columns += [
            Column(pair, partial(_points, pair=pair), rank=0),
            Column("Verdict", partial(_verdict, pair=pair), rank=0, style="verdict",
                   note=f"{SETTLED}; without seeds only more questions would"),
        ]  # fmt: skip
    loads = "; ".join(f"{task}: {frames.load_name(task)}" for task in recall.tasks)
    notes = (_INTERVAL, _DIFFERENCE, f"load: {loads}")
    compared = difference.rename(columns={"subject": "model"})
    frame = pd.concat(
        [recall.accuracy.assign(quantity="accuracy"), compared.assign(quantity="difference")],
        ignore_index=True,
    )
    return Table(
        "accuracy", "Accuracy by length and load", frame, columns, notes,
        [rows[place] for place in sorted(rows, key=_order(recall))], grouped=True, above=True,
        cited={"value": ""}, ids=("quantity", "task", "model", "baseline", "seq_len", "load"),
    )  # fmt: skip


def _limits(recall: Recall, limit: pd.DataFrame) -> Table:
    """The first length and the first load at which a model is right less than 90% of the time."""

    def along(row: Row) -> str:
        return "length" if row["along"] == "seq_len" else frames.load_name(row["task"])

    def held(row: Row) -> str:
        if row["along"] == "load":
            return f"{units.tokens(row['held'])} tokens"
        load = frames.load_name(row["task"])
        return units.DASH if load == "needle" else f"{row['held']} {load}"

    columns = [
        name("Task", "task"), name("Model", "model"), Column("Along", along, style="name"),
        Column("At", held), Column("Under 90% from", falls, rank=0, style="sentence"),
    ]  # fmt: skip
    notes = (
        "the first length or load, ascending, at which the mean accuracy is under 90%",
        f"along the load the length is the training length, {units.tokens(recall.length)} tokens",
    )
    return Table(
        "limits", "Where the accuracy falls under 90%", limit, columns, notes,
        sorted(records(limit), key=lambda row: recall.tasks.index(row["task"])), grouped=True,
        above=True, cited={"fails_at": "fails_at"}, ids=("task", "model", "along", "held"),
    )  # fmt: skip


def _trainings(recall: Recall, rates: pd.DataFrame) -> Table:
    """One row per task and model: the chosen learning rate, the seeds, and the state's bytes."""
    states = recall.states.groupby(["task", "model"], observed=True, as_index=False).agg(
        state_low=("state_bytes", "min"), state_high=("state_bytes", "max")
    )
    frame = recall.endings
    for more in (rates, states):
        frame = frame.merge(more, on=["task", "model"], how="left", sort=False)

    def state(row: Row) -> str:
        sizes = (units.scaled(row[end], "bytes") for end in ("state_low", "state_high"))
        return " to ".join(dict.fromkeys(sizes))

    columns = [
        name("Task", "task"), name("Model", "model"),
        learning_rate(1, "model and task", recall.meta),
        Column("Seeds", lambda row: f"{row['ok_blocks']} of {row['blocks']}"),
        Column("Status", ending, style="name"),
        Column("State", state, metric="state_bytes",
               note="state: of one sequence, from the shortest evaluation length to the longest"),
    ]  # fmt: skip
    notes = untuned(recall.meta)
    return Table("training", "Trainings", frame, columns, notes, grouped=True)


def interval(row: Mapping[str, Any] | None) -> str:
    """An accuracy with its interval: 97.1% [93.2, 98.8]; a dash where it was not measured."""
    return units.DASH if row is None else units.percent(*(row[edge] for edge in EDGES))


def _guessed(chances: Mapping[str, float], row: Row) -> str:
    return units.percent(frames.guess(chances, row["task"], row["load"]))


def _interval(row: Row, model: str) -> str:
    return interval(row.get(model))


def _points(row: Row, pair: str) -> str:
    return units.points(*(row[pair][edge] for edge in EDGES)) if pair in row else units.DASH


def _verdict(row: Row, pair: str) -> str:
    return units.verdict(row[pair], "seed") if pair in row else units.DASH


def falls(row: Mapping[str, Any]) -> str:
    """Where an accuracy falls under 90%, in words."""
    place = units.tokens if row["along"] == "seq_len" else str
    if pd.isna(row["fails_at"]):
        return f"not up to {place(row['largest'])}"
    every = ", the smallest" if row["fails_at"] == row["smallest"] else ""
    return f"{place(row['fails_at'])}{every}: {interval(row)}"


def place_of(row: Mapping[str, Any]) -> Place:
    """Task, length and load of a row."""
    return str(row["task"]), int(row["seq_len"]), int(row["load"])


def _order(recall: Recall) -> Callable[[Place], tuple[int, int, int]]:
    return lambda place: (recall.tasks.index(place[0]), place[1], place[2])
