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

from retbench.report import stamp, units, warnings
from retbench.report.content import Content, definitions, title_of
from retbench.report.frames import Row, groups, records
from retbench.report.quality import recall_figures as figures
from retbench.report.quality import recall_frames as frames
from retbench.report.quality import recall_tables as tables
from retbench.report.quality.columns import still_open
from retbench.report.quality.loss_frames import tuning
from retbench.report.quality.recall_figures import Recall
from retbench.report.quality.recall_tables import place_of
from retbench.report.quality.trained import endings, planned
from retbench.report.summary import model_order

if TYPE_CHECKING:
    from retbench.store import Run

LEARNED = 0.1  # of the way from guessing to always right: less is not having learned a task


def content(run: Run) -> Content:
    """All that the report says of a recall run; the same samples give the same content."""
    meta = run.meta
    models = model_order(meta)
    smoke = run.config.profile == "smoke"
    counted = frames.answers(run)
    accuracy = frames.cells(counted, models)
    difference = frames.differences(counted, models, smoke=smoke)
    length = run.config.context[0]
    limit = frames.limits(accuracy, length, planned(run, "task"))
    recall = Recall(
        meta, models, planned(run, "task"), accuracy, frames.states(run),
        endings(run, models, "task"), length, frames.chance(run),
    )  # fmt: skip
    tables_ = tables.tables(recall, difference, limit, frames.rates(run))
    return Content(
        path=run.path,
        meta=meta,
        title=title_of(meta, models),
        stamp=(stamp.conditions(meta),),
        findings=tuple(_findings(recall, difference)),
        unsettled=still_open(difference),
        tables=tables_,
        figures=partial(figures.figures, recall, run),
        warnings=tuple(_warnings(run, recall)),
        definitions=definitions(tables_),
    )


def _warnings(run: Run, recall: Recall) -> Iterator[str]:
    yield from warnings.of_trainings(run, recall.models, tuning(run), recall.endings)
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
    cells = {(*place_of(row), row["model"]): row for row in records(recall.accuracy)}
    compared = {(*place_of(row), row["baseline"]): row for row in records(difference)}
    for task in recall.tasks:
        places = sorted({place[:3] for place in cells if place[0] == task})
        for length in dict.fromkeys((recall.length, max((p[1] for p in places), default=0))):
            loads = [place[2] for place in places if place[1] == length]
            if loads:
                yield _sentence(recall.models, (task, length, max(loads)), cells, compared)


def _sentence(
    models: Sequence[str], place: tables.Place, cells: Mapping[Any, Row],
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
            said[-1] += f", {units.verdict(found, 'seed')}"
    return f"{task} at {units.tokens(length)} tokens{of}: {'; '.join(said)}"
