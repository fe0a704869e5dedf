"""The report of the recall suite: where a model still finds what it has read.

Accuracies by task, evaluation length and load, with differences subject - baseline paired by
training seed; the length and the load at which each model falls under 90%; what each keeps of a
sequence. An honest suite shows where attention wins, so no task, length or load is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from retbench.report import stamp, units
from retbench.report.content import Content, made
from retbench.report.frames import EDGES, Row, groups, ordered, records
from retbench.report.quality import recall_figures as figures
from retbench.report.quality import recall_frames as frames
from retbench.report.quality import warnings
from retbench.report.quality.columns import SETTLED, learning_rate, still_open, untuned
from retbench.report.quality.loss_frames import tuning
from retbench.report.quality.recall_figures import Recall
from retbench.report.quality.trained import ending, endings, planned
from retbench.report.summary import model_order
from retbench.report.tables import Column, Table, name, wide, within
from retbench.report.terms import is_smoke

if TYPE_CHECKING:
    from retbench.store import Run

Place = tuple[str, int, int]

LEARNED = 0.1  # of the way from guessing to always right: less is not having learned a task
SAME = 0.03  # difference of accuracies up to which an open one is told as its interval's reach
_INTERVAL = (
    "accuracy [low, high]: mean over training seeds with its 95% interval (Wilson's; seeds and "
    "sequences both random, every seed having answered the same ones; what is asked in one "
    "sequence counts as one answer)"
)
_GUESS = "guess: an answer drawn from those that were shown, knowing none of their places"
_DIFFERENCE = (
    "difference: subject - baseline in percentage points, paired by seed; above 0 the subject is "
    "right more often; verdicts have a margin of 1 point, are corrected over the whole table "
    "(Holm), and better or worse takes 5 seeds; an answer says the same, to so many points, of an "
    f"open one whose interval lies within {100 * SAME:g} points of 0, else open and that interval"
)


def content(run: Run) -> Content:
    """All that the report says of a recall run; the same samples give the same content."""
    models, tasks, counted, tried = (
        model_order(run.meta), planned(run, "task"), frames.answers(run), tuning(run),
    )  # fmt: skip
    recall = Recall(
        meta=run.meta,
        models=models,
        tasks=tasks,
        answers=counted,
        accuracy=frames.cells(counted, models),
        states=frames.states(run),
        endings=endings(run, models, "task"),
        length=run.config.context[0],
        chance=frames.chance(run),
        caveat=warnings.caveat(run, tried),
    )
    difference = frames.differences(counted, models, smoke=is_smoke(run.meta))
    limit = frames.limits(recall.accuracy, recall.length, tasks)
    return made(
        run, models,
        (_accuracies(recall, difference), _limits(recall, limit),
         _trainings(recall, frames.rates(run))),
        partial(figures.figures, recall),
        stamp=(stamp.conditions(run.meta),), findings=_findings(recall, difference),
        unsettled=still_open(difference),
        warnings=(
            *warnings.of_trainings(run, models, tried, recall.endings), *_not_learned(recall),
        ),
    )  # fmt: skip


def _not_learned(recall: Recall) -> Iterator[str]:
    """The models that a longer training might have taught a task."""
    at_length = recall.accuracy[recall.accuracy["seq_len"] == recall.length]
    for (task, model), group in groups(at_length, ["task", "model"]):
        if task in recall.chance and _gain(task, group, recall.chance) < LEARNED:
            best = max(records(group), key=lambda row: float(row["value"]))
            guess = frames.guess(recall.chance, task, best["load"])
            yield (
                f"{task}: {model} has not learned the task: {units.percent(best['value'])} at best "
                f"at the training length, where guessing has {units.percent(guess)}; a longer "
                "training may change its rank"
            )


def _gain(task: str, group: pd.DataFrame, chances: Mapping[str, float]) -> float:
    """How far, at its best load, a model is from guessing (0) to always right (1)."""
    gains = []
    for row in records(group):
        guess = frames.guess(chances, task, row["load"]) or 0.0
        gains.append((float(row["value"]) - guess) / (1 - guess) if guess < 1 else 0.0)
    return max(gains)


def _findings(recall: Recall, difference: pd.DataFrame) -> Iterator[str]:
    """For each task what separates the models at the training length and at the longest."""
    cells = {(*_place_of(row), row["model"]): row for row in records(recall.accuracy)}
    compared = {(*_place_of(row), row["baseline"]): row for row in records(difference)}
    for task in recall.tasks:
        places = sorted({place[:3] for place in cells if place[0] == task})
        for length in dict.fromkeys((recall.length, max((p[1] for p in places), default=0))):
            loads = [place[2] for place in places if place[1] == length]
            if loads:
                yield _sentence(recall.models, (task, length, max(loads)), cells, compared)


def _sentence(
    models: Sequence[str], place: Place, cells: Mapping[Any, Row],
    compared: Mapping[Any, Row],
) -> str:  # fmt: skip
    task, length, load = place
    name = frames.load_name(task)
    of = "" if name == "needle" else f", {load} {name}"
    said = []
    for model in models:
        accuracy = cells.get((*place, model), {}).get("value")
        said.append(f"{model} {units.percent(accuracy)}")
        if found := compared.get((*place, model)):
            said[-1] += f", {_compared(found)}"
    return f"{task} at {units.tokens(length)} tokens{of}: {'; '.join(said)}"


def _compared(row: Row) -> str:
    """A difference's verdict; where it is open, how far apart the two may be."""
    if row["verdict"] != "inconclusive" or units.is_missing(row["low"]):
        return units.verdict(row, "seed")
    if (reach := max(-row["low"], row["high"])) <= SAME:
        return f"the same, to {100 * reach:.1f} points"
    return f"open [{', '.join(f'{100 * row[edge]:+.0f}' for edge in EDGES[1:])}]".replace("-", "−")


def _accuracies(recall: Recall, difference: pd.DataFrame) -> Table:
    """One row per task, length and load: each model's accuracy, and how the subject compares."""
    subject, *baselines = recall.models

    def against(baseline: str) -> str:
        return f"{subject} − {baseline}"

    accuracy = ordered(recall.accuracy, frames.PLACE, task=recall.tasks)
    rows = {_place_of(row): row for row in wide(accuracy, frames.PLACE, "model")}
    for row in records(difference):
        if (place := _place_of(row)) in rows:
            rows[place][against(row["baseline"])] = row
    columns = [
        name("Task", "task"),
        Column("Length", lambda row: units.tokens(row["seq_len"]), rank=0),
        Column("Load", "load", rank=0),
    ]  # fmt: skip
    if recall.chance:
        columns.append(Column("Guess", partial(_guessed, recall.chance), rank=2, note=_GUESS))
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
    named = {task: frames.load_name(task) for task in recall.tasks}
    loads = "; ".join(f"{t}: {'one needle' if n == 'needle' else n}" for t, n in named.items())
    notes = (_INTERVAL, _DIFFERENCE, f"load: {loads}")
    compared = difference.rename(columns={"subject": "model"})
    frame = pd.concat(
        [recall.accuracy.assign(quantity="accuracy"), compared.assign(quantity="difference")],
        ignore_index=True,
    )
    return Table(
        "accuracy", "Accuracy by length and load", frame, columns, notes,
        list(rows.values()), grouped=True, above=True,
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


def _interval(row: Mapping[str, Any]) -> str:
    """An accuracy with its interval: 97.1% [93.2, 98.8]."""
    return units.percent(*(row[edge] for edge in EDGES))


def _points(row: Row) -> str:
    return units.points(*(row[edge] for edge in EDGES))


def _guessed(chances: Mapping[str, float], row: Row) -> str:
    return units.percent(frames.guess(chances, row["task"], row["load"]))


def falls(row: Mapping[str, Any]) -> str:
    """Where an accuracy falls under 90%, in words."""
    place = units.tokens if row["along"] == "seq_len" else str
    if pd.isna(row["fails_at"]):
        return f"not up to {place(row['largest'])}"
    every = ", the smallest" if row["fails_at"] == row["smallest"] else ""
    return f"{place(row['fails_at'])}{every}: {_interval(row)}"


def _place_of(row: Mapping[str, Any]) -> Place:
    """Task, length and load of a row."""
    return str(row["task"]), int(row["seq_len"]), int(row["load"])
