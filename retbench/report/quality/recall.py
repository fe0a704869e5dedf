"""The report of the recall suite: where a model still finds what it has read.

Accuracies by task, evaluation length and load, with differences subject - baseline paired by
training seed; the length and the load at which each model falls under 90%; what each keeps of a
sequence. An honest suite shows where attention wins, so no task, length or load is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from retbench.report import stamp, units
from retbench.report.content import Content, made
from retbench.report.figure import Axis, Curve, Figure, Panel, tuples
from retbench.report.frames import EDGES, Row, groups, lookup, ordered, records
from retbench.report.quality.columns import SETTLED, learning_rate, still_open, untuned
from retbench.report.quality.recall_frames import PLACE, Recall, load_name
from retbench.report.quality.trained import ending
from retbench.report.quality.warnings import of_trainings
from retbench.report.tables import Column, Table, name, wide, within

if TYPE_CHECKING:
    from retbench.store import Run

LEARNED = 0.1  # of the way from guessing to always right: less is not having learned a task
SAME = 0.03  # difference of accuracies up to which an open one is told as its interval's reach
_INTERVAL = (
    "accuracy [low, high]: mean over training seeds with its 95% interval (Wilson's; seeds and "
    "sequences both random, every seed having answered the same ones; what is asked in one "
    "sequence counts as one answer)"
)
_ACCURACY = Axis("accuracy", share=True)
_GUESS = "guess: an answer drawn from those that were shown, knowing none of their places"
_DIFFERENCE = (
    "difference: subject - baseline in percentage points, paired by seed; above 0 the subject is "
    "right more often; verdicts have a margin of 1 point, are corrected over the whole table "
    "(Holm), and better or worse takes 5 seeds; an answer says the same, to so many points, of an "
    f"open one whose interval lies within {100 * SAME:g} points of 0, else open and that interval"
)


def content(run: Run) -> Content:
    """All that the report says of a recall run; the same samples give the same content."""
    recall = Recall(run)
    return made(
        run, recall.models, (_accuracies(recall), _limits(recall), _trainings(recall)),
        partial(_figures, recall), stamp=(stamp.conditions(run.meta),), findings=_findings(recall),
        unsettled=still_open(recall, recall.differences),
        warnings=(*of_trainings(recall), *_not_learned(recall)),
    )  # fmt: skip


def _not_learned(recall: Recall) -> Iterator[str]:
    """The models that a longer training might have taught a task."""
    at_length = recall.accuracy[recall.accuracy["seq_len"] == recall.context]
    for (task, model), group in groups(at_length, ["task", "model"]):
        if task in recall.chance and _gain(recall, group) < LEARNED:
            best = max(records(group), key=lambda row: float(row["value"]))
            guess = recall.guess(task, best["load"])
            yield (
                f"{task}: {model} has not learned the task: {units.percent(best['value'])} at best "
                f"at the training length, where guessing has {units.percent(guess)}; a longer "
                "training may change its rank"
            )


def _gain(recall: Recall, group: pd.DataFrame) -> float:
    """How far, at its best load, a model is from guessing (0) to always right (1)."""
    gains = []
    for row in records(group):
        guess = recall.guess(row["task"], row["load"]) or 0.0
        gains.append((float(row["value"]) - guess) / (1 - guess) if guess < 1 else 0.0)
    return max(gains)


def _findings(recall: Recall) -> Iterator[str]:
    """For each task what separates the models at the training length and at the longest."""
    values = lookup(recall.accuracy, [*PLACE, "model"], "value")
    compared = {(*_place_of(row), row["baseline"]): row for row in records(recall.differences)}
    for task in recall.setting_values:
        own = recall.accuracy[recall.accuracy["task"] == task]
        for length in dict.fromkeys((recall.context, own["seq_len"].max())):
            loads = own.loc[own["seq_len"] == length, "load"]
            if loads.empty:
                continue
            said = []
            for model in recall.models:
                cell = (task, length, loads.max(), model)
                said.append(f"{model} {units.percent(values.get(cell))}")
                if cell in compared:
                    said[-1] += f", {_compared(compared[cell])}"
            counts = load_name(task)
            of = "" if counts == "needle" else f", {loads.max()} {counts}"
            yield f"{task} at {units.tokens(length)} tokens{of}: {'; '.join(said)}"


def _compared(row: Row) -> str:
    """A difference's verdict; where it is open, how far apart the two may be."""
    if row["verdict"] != "inconclusive" or units.is_missing(row["low"]):
        return units.verdict(row, "seed")
    if (reach := max(-row["low"], row["high"])) <= SAME:
        return f"the same, to {100 * reach:.1f} points"
    return f"open [{', '.join(f'{100 * row[edge]:+.0f}' for edge in EDGES[1:])}]".replace("-", "−")


def _accuracies(recall: Recall) -> Table:
    """One row per task, length and load: each model's accuracy, and how the subject compares."""
    subject, *baselines = recall.models

    def against(baseline: str) -> str:
        return f"{subject} − {baseline}"

    def guessed(row: Row) -> str:
        return units.percent(recall.guess(row["task"], row["load"]))

    accuracy = ordered(recall.accuracy, PLACE, task=recall.setting_values)
    rows = {_place_of(row): row for row in wide(accuracy, PLACE, "model")}
    for row in records(recall.differences):
        if (place := _place_of(row)) in rows:
            rows[place][against(row["baseline"])] = row
    columns = [
        name("Task", "task"),
        Column("Length", lambda row: units.tokens(row["seq_len"]), rank=0),
        Column("Load", "load", rank=0),
    ]  # fmt: skip
    if recall.chance:
        columns.append(Column("Guess", guessed, rank=2, note=_GUESS))
    columns += [
        Column(model, within(model, _interval), metric="accuracy") for model in recall.models
    ]
    for number, pair in enumerate(map(against, baselines)):
        rank = 2 + number if number else 0  # the first is the last to be left out
        columns += [
            Column(pair, within(pair, _points), rank=rank),
            Column("Verdict", within(pair, partial(units.verdict, replicate="seed")), rank=rank,
                   style="verdict", note=f"{SETTLED}; without seeds only more questions would"),
        ]  # fmt: skip
    named = {task: load_name(task) for task in recall.setting_values}
    loads = "; ".join(f"{t}: {'one needle' if n == 'needle' else n}" for t, n in named.items())
    notes = (_INTERVAL, _DIFFERENCE, f"load: {loads}")
    compared = recall.differences.rename(columns={"subject": "model"})
    frame = pd.concat(
        [recall.accuracy.assign(quantity="accuracy"), compared.assign(quantity="difference")],
        ignore_index=True,
    )
    return Table(
        "accuracy", "Accuracy by length and load", frame, columns, notes,
        list(rows.values()), grouped=True, above=True,
        cited={"value": ""}, ids=("quantity", "task", "model", "baseline", "seq_len", "load"),
    )  # fmt: skip


def _limits(recall: Recall) -> Table:
    """The first length and the first load at which a model is right less than 90% of the time."""

    def along(row: Row) -> str:
        return "length" if row["along"] == "seq_len" else load_name(row["task"])

    def held(row: Row) -> str:
        if row["along"] == "load":
            return f"{units.tokens(row['held'])} tokens"
        load = load_name(row["task"])
        return units.DASH if load == "needle" else f"{row['held']} {load}"

    columns = [
        name("Task", "task"), name("Model", "model"), Column("Along", along, style="name"),
        Column("At", held), Column("Under 90% from", falls, rank=0, style="sentence"),
    ]  # fmt: skip
    notes = (
        "the first length or load, ascending, at which the mean accuracy is under 90%",
        f"along the load the length is the training length, {units.tokens(recall.context)} tokens",
    )
    return Table(
        "limits", "Where the accuracy falls under 90%", recall.limits, columns, notes,
        records(ordered(recall.limits, ["task"], task=recall.setting_values)),
        grouped=True, above=True, cited={"fails_at": "fails_at"},
        ids=("task", "model", "along", "held"),
    )  # fmt: skip


def _trainings(recall: Recall) -> Table:
    """One row per task and model: the chosen learning rate, the seeds, and the state's bytes."""
    states = recall.states.groupby(["task", "model"], observed=True, as_index=False).agg(
        state_low=("state_bytes", "min"), state_high=("state_bytes", "max")
    )
    frame = recall.endings
    for more in (recall.scalars[["task", "model", "learning_rate"]], states):
        frame = frame.merge(more, on=["task", "model"], how="left", sort=False)

    def state(row: Row) -> str:
        sizes = (units.scaled(row[end], "bytes") for end in ("state_low", "state_high"))
        return " to ".join(dict.fromkeys(sizes))

    columns = [
        name("Task", "task"), name("Model", "model"),
        learning_rate(recall, 1),
        Column("Seeds", lambda row: f"{row['ok_blocks']} of {row['blocks']}"),
        Column("Status", ending, style="name"),
        Column("State", state, metric="state_bytes",
               note="state: of one sequence, from the shortest evaluation length to the longest"),
    ]  # fmt: skip
    return Table("training", "Trainings", frame, columns, untuned(recall.meta), grouped=True)


def _interval(row: Mapping[str, Any]) -> str:
    """An accuracy with its interval: 97.1% [93.2, 98.8]."""
    return units.percent(*(row[edge] for edge in EDGES))


def _points(row: Row) -> str:
    return units.points(*(row[edge] for edge in EDGES))


def falls(row: Mapping[str, Any]) -> str:
    """Where an accuracy falls under 90%, in words."""
    place = units.tokens if row["along"] == "seq_len" else str
    if pd.isna(row["fails_at"]):
        return f"not up to {place(row['largest'])}"
    every = ", the smallest" if row["fails_at"] == row["smallest"] else ""
    return f"{place(row['fails_at'])}{every}: {_interval(row)}"


def _place_of(row: Row) -> tuple[Any, ...]:
    """Task, length and load of a row."""
    return tuple(row[key] for key in PLACE)


def _figures(recall: Recall) -> Iterator[Figure]:
    """Each figure that there is data for."""
    if recall.accuracy.empty:
        return
    by_seed = {
        key: tuple(own["correct"] / own["answers"])
        for key, own in groups(recall.answers, [*PLACE, "model"])
    }
    cells = recall.accuracy.assign(
        series=recall.accuracy["model"],
        point=[recall.final_point(task) for task in recall.accuracy["task"]],
        each=tuples(
            (by_seed[*_place_of(row), row["model"]] for row in records(recall.accuracy)),
            recall.accuracy,
        ),
    )  # fmt: skip
    yield _over_length(recall, cells)
    if _differ(recall.states[recall.states["seq_len"] == recall.context]):
        yield _over_state(recall, cells)


def _differ(states: pd.DataFrame) -> bool:
    """Whether in some task no more than half of the models keep a state of the same size."""
    return any(
        2 * own["state_bytes"].value_counts().max() <= len(own)
        for _, own in groups(states, ["task"])
    )


def _over_length(recall: Recall, cells: pd.DataFrame) -> Figure:
    """Accuracy over the evaluation length: a row of panels a task, a panel a load."""
    panels, curves = [], []
    marks = {f"training length, {units.tokens(recall.context)} tokens": float(recall.context)}
    for task in recall.setting_values:
        own = cells[cells["task"] == task]
        # A task in which every model failed keeps its panel.
        for load in sorted({int(load) for load in own["load"]}) or [0]:
            lengths = own.loc[own["load"] == load, "seq_len"]
            ticks = tuple(sorted({int(length) for length in lengths})) or (recall.context,)
            key = f"{task} {load}"
            x = Axis("evaluation length (tokens)", ticks, units.tokens)
            panels.append(Panel(key, _title(task, load), x, _ACCURACY, marks=marks, group=task))
            level = recall.guess(task, load) if load else None
            if level is not None:
                curves.append(Curve(key, "", np.array(ticks), np.full(len(ticks), level), "guess"))
    data = cells.assign(panel=cells["task"] + " " + cells["load"].astype(str), x=cells["seq_len"])
    return _figure(recall, "accuracy_length", "Accuracy over length", panels, data, curves)


def _over_state(recall: Recall, cells: pd.DataFrame) -> Figure:
    """Accuracy at the training length over the bytes of the state, a mark a model, a panel a task.

    The load is the heaviest of those that the training length holds.
    """
    panels, data = [], []
    merged = cells.merge(recall.states, on=["task", "model", "seq_len"])
    at_length = merged[merged["seq_len"] == recall.context]
    for task in (task for task in recall.setting_values if task in set(at_length["task"])):
        own = at_length[at_length["task"] == task]
        load = int(own["load"].max())
        sizes = tuple(sorted(set(own["state_bytes"])))
        x = Axis("state of one sequence", sizes, _size)
        panels.append(Panel(str(task), _title(task, load), x, _ACCURACY))
        data.append(own[own["load"] == load].assign(panel=task, x=own["state_bytes"]))
    return _figure(
        recall, "accuracy_state", "Accuracy over state size", panels, pd.concat(data), (),
        (f"at the training length, {units.tokens(recall.context)} tokens",),
    )  # fmt: skip


def _title(task: str, load: int) -> str:
    return f"{task}, {load} {load_name(task)}" if load > 1 else task


def _figure(
    recall: Recall, name: str, title: str, panels: list[Panel], data: pd.DataFrame,
    curves: Sequence[Curve], notes: tuple[str, ...] = (),
) -> Figure:  # fmt: skip
    lost = [
        (panel.key, row["model"], math.nan, ending(row))
        for panel in panels for row in recall.failed if panel.key.split(" ")[0] == row["task"]
    ]  # fmt: skip
    grey = ["grey: guessing among what was shown"] if curves else []
    return recall.figure(
        name, title, panels, data, lost, notes=(*notes, *grey), curves=curves, columns=4,
        shared=True, interval="95% interval over seeds and sequences",
    )  # fmt: skip


def _size(bytes_: float) -> str:
    """A number of bytes in its own unit: 512 B, 64 KiB."""
    scale = units.scale_for("bytes", [bytes_])
    return f"{bytes_ / scale.divisor:.3g} {scale.symbol}"
