"""The figures of the recall suite: accuracy over length by task and load, and over the state."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from retbench.report import units
from retbench.report.figure import FAILURES, Axis, Curve, Figure, Panel, tuples
from retbench.report.frames import groups, records
from retbench.report.quality.recall_frames import PLACE, guess, load_name
from retbench.report.quality.trained import ending, final_point

_ACCURACY = Axis("accuracy", share=True)
_INTERVAL = "95% interval over seeds and sequences"


@dataclass(frozen=True)
class Recall:
    """What the figures are drawn from; see ``recall_frames`` for the frames.

    Attributes:
        meta: ``run.json``.
        models: in the order of the plan.
        tasks: in the order of the plan.
        answers: right ones by task, length, load, model and seed.
        accuracy: one row per task, length, load and model.
        states: state bytes per task, model and length.
        endings: how the final trainings ended, per task and model.
        length: the training length.
        chance: the accuracy of guessing among all answers, by task; see ``recall_frames.guess``.
        caveat: what forbids or weakens claims; empty where nothing does.
    """

    meta: Mapping[str, Any]
    models: tuple[str, ...]
    tasks: tuple[str, ...]
    answers: pd.DataFrame
    accuracy: pd.DataFrame
    states: pd.DataFrame
    endings: pd.DataFrame
    length: int
    chance: Mapping[str, float]
    caveat: str


def figures(recall: Recall) -> Iterator[Figure]:
    """Each figure that there is data for."""
    if recall.accuracy.empty:
        return
    by_seed = {
        key: tuple(own["correct"] / own["answers"])
        for key, own in groups(recall.answers, [*PLACE, "model"])
    }
    cells = recall.accuracy.assign(
        series=recall.accuracy["model"],
        point=[final_point(recall.meta, "task", task) for task in recall.accuracy["task"]],
        each=tuples(
            (by_seed[*(row[key] for key in PLACE), row["model"]]
             for row in records(recall.accuracy)), recall.accuracy,
        ),
    )  # fmt: skip
    yield over_length(recall, cells)
    if _differ(recall.states[recall.states["seq_len"] == recall.length]):
        yield over_state(recall, cells)


def _differ(states: pd.DataFrame) -> bool:
    """Whether in some task no more than half of the models keep a state of the same size."""
    return any(
        2 * own["state_bytes"].value_counts().max() <= len(own)
        for _, own in groups(states, ["task"])
    )


def over_length(recall: Recall, cells: pd.DataFrame) -> Figure:
    """Accuracy over the evaluation length: a row of panels a task, a panel a load."""
    panels, curves = [], []
    marks = {f"training length, {units.tokens(recall.length)} tokens": float(recall.length)}
    for task in recall.tasks:
        own = cells[cells["task"] == task]
        # A task in which every model failed keeps its panel.
        for load in sorted({int(load) for load in own["load"]}) or [0]:
            lengths = own.loc[own["load"] == load, "seq_len"]
            ticks = tuple(sorted({int(length) for length in lengths})) or (recall.length,)
            key = f"{task} {load}"
            x = Axis("evaluation length (tokens)", ticks, units.tokens)
            panels.append(Panel(key, _title(task, load), x, _ACCURACY, marks=marks, group=task))
            level = guess(recall.chance, task, load) if load else None
            if level is not None:
                curves.append(Curve(key, "", np.array(ticks), np.full(len(ticks), level), "guess"))
    data = cells.assign(panel=cells["task"] + " " + cells["load"].astype(str), x=cells["seq_len"])
    return _figure(recall, "accuracy_length", "Accuracy over length", panels, data, curves)


def over_state(recall: Recall, cells: pd.DataFrame) -> Figure:
    """Accuracy at the training length over the bytes of the state, a mark a model, a panel a task.

    The load is the heaviest of those that the training length holds.
    """
    panels, data = [], []
    merged = cells.merge(recall.states, on=["task", "model", "seq_len"])
    at_length = merged[merged["seq_len"] == recall.length]
    for task in (task for task in recall.tasks if task in set(at_length["task"])):
        own = at_length[at_length["task"] == task]
        load = int(own["load"].max())
        sizes = tuple(sorted(set(own["state_bytes"])))
        x = Axis("state of one sequence", sizes, size)
        panels.append(Panel(str(task), _title(task, load), x, _ACCURACY))
        data.append(own[own["load"] == load].assign(panel=task, x=own["state_bytes"]))
    return _figure(
        recall, "accuracy_state", "Accuracy over state size", panels, pd.concat(data), (),
        (f"at the training length, {units.tokens(recall.length)} tokens",),
    )  # fmt: skip


def _title(task: str, load: int) -> str:
    return f"{task}, {load} {load_name(task)}" if load > 1 else task


def _figure(
    recall: Recall, name: str, title: str, panels: list[Panel], data: pd.DataFrame,
    curves: Any, notes: tuple[str, ...] = (),
) -> Figure:  # fmt: skip
    failed = records(recall.endings[recall.endings["status"] != "ok"])
    lost = [
        (panel.key, row["model"], math.nan, ending(row))
        for panel in panels for row in failed if panel.key.split(" ")[0] == row["task"]
    ]  # fmt: skip
    grey = ["grey: guessing among what was shown"] if curves else []
    return Figure.of(
        recall.meta, name, title, panels, data, notes=(*notes, *grey), interval=_INTERVAL,
        each="seed", failures=pd.DataFrame(lost, columns=FAILURES), curves=curves, columns=4,
        caveat=recall.caveat,
        shared=True,
    )  # fmt: skip


def size(bytes_: float) -> str:
    """A number of bytes in its own unit: 512 B, 64 KiB."""
    scale = units.scale_for("bytes", [bytes_])
    return f"{bytes_ / scale.divisor:.3g} {scale.symbol}"
