"""The report of the recall suite: where a model still finds what it has read.

Accuracies by task, evaluation length and load, with differences subject - baseline paired by
training seed; the length and the load at which each model falls under 90%; what each keeps of a
sequence. An honest suite shows where attention wins, so no task, length or load is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from retbench.metrics import METRICS
from retbench.report import stamp, units, warnings
from retbench.report.citations import letters, words
from retbench.report.content import Content, title_of
from retbench.report.frames import Row, groups, plain, records
from retbench.report.quality import recall_figures as figures
from retbench.report.quality import recall_frames as frames
from retbench.report.quality import recall_tables as tables
from retbench.report.quality.loss_frames import tuning
from retbench.report.quality.recall_figures import Recall
from retbench.report.quality.recall_tables import interval, percent, place_of, points, verdict
from retbench.report.quality.trained import EDGES, endings, planned
from retbench.report.summary import model_order

if TYPE_CHECKING:
    from retbench.store import Run

LEARNED = 0.1  # of the way from guessing to always right: less is not having learned a task
_METRICS = ("accuracy", "answers", "state_bytes", "learning_rate")


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
    return Content(
        path=run.path,
        meta=meta,
        models=models,
        title=title_of(meta, models),
        tables=(
            tables.accuracy_table(recall, difference),
            tables.limit_table(recall, limit),
            tables.training_table(recall, frames.rates(run)),
        ),
        figures=figures.figures(recall),
        warnings=tuple(_warnings(run, recall)),
        definitions=tuple((METRICS[tag].title, METRICS[tag].definition) for tag in _METRICS),
        numbers=_numbers(recall, difference, limit),
        macros=tuple(_macros(recall, difference)),
        findings=tuple(_findings(recall, difference)),
    )  # fmt: skip


def _warnings(run: Run, recall: Recall) -> Iterator[str]:
    yield from warnings.of_trainings(run, recall.models, tuning(run), recall.endings)
    at_length = recall.accuracy[recall.accuracy["seq_len"] == recall.length]
    for (task, model), group in groups(at_length, ["task", "model"]):
        if task in recall.chance and _gain(task, group, recall.chance) < LEARNED:
            best = max(records(group), key=lambda row: float(row["value"]))
            guess = frames.guess(recall.chance, task, best["load"])
            yield (
                f"{task}: {model} has not learned the task: {percent(best['value'])} at best at "
                f"the training length, where guessing has {percent(guess)}; a longer training may "
                "change its rank"
            )


def _gain(task: str, group: pd.DataFrame, chances: Mapping[str, float]) -> float:
    """How far, at its best load, a model is from guessing (0) to always right (1)."""
    gains = []
    for row in records(group):
        guess = frames.guess(chances, task, row["load"]) or 0.0
        gains.append((float(row["value"]) - guess) / (1 - guess) if guess < 1 else 0.0)
    return max(gains)


def _numbers(recall: Recall, difference: pd.DataFrame, limit: pd.DataFrame) -> dict[str, Any]:
    """The content of ``numbers.json``, unrounded."""
    accuracies: dict[str, Any] = {}
    for row in records(recall.accuracy):
        at = accuracies.setdefault(row["task"], {}).setdefault(row["model"], {})
        at.setdefault(str(row["seq_len"]), {})[str(row["load"])] = _entry(row)
    compared: dict[str, Any] = {}
    for row in records(difference):
        at = compared.setdefault(row["task"], {}).setdefault(row["baseline"], {})
        own = at.setdefault(str(row["seq_len"]), {})
        own[str(row["load"])] = _entry(row) | {"verdict": row["verdict"]} | plain(row, "n_needed")
    limits = [
        {
            "task": row["task"], "model": row["model"], "along": row["along"],
            "held": int(row["held"]), "largest": int(row["largest"]), **plain(row, "fails_at"),
        }
        for row in records(limit)
    ]  # fmt: skip
    return {
        "conditions": stamp.conditions(recall.meta),
        "profile": recall.meta["configuration"]["profile"],
        "subject": recall.models[0],
        "training_length": recall.length,
        "chance": dict(recall.chance),
        "guess": {
            task: {str(load): frames.guess(recall.chance, task, load) for load in sorted(set(own))}
            for (task,), rows in groups(recall.accuracy, ["task"])
            if task in recall.chance
            for own in [rows["load"].tolist()]
        },
        "accuracy": accuracies,
        "differences": compared,
        "limits": limits,
        "states": [
            {key: row[key] for key in ("task", "model", "seq_len", "state_bytes")}
            for row in records(recall.states)
        ],
    }


def _entry(row: Row) -> dict[str, Any]:
    return plain(row, *EDGES) | {"n": int(row["n"]), "unit": "ratio"}


def _macros(recall: Recall, difference: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Macros of every accuracy and every difference: name without backslash, text."""
    for row in records(recall.accuracy):
        name = f"RetbenchAccuracy{letters(row['task'])}{letters(row['model'])}{_at(row)}"
        yield name, interval(row).replace("%", r"\%")
    for row in records(difference):
        name = f"RetbenchDifference{letters(row['task'])}{letters(row['baseline'])}{_at(row)}"
        yield name, points(row)
        yield f"{name}Verdict", str(row["verdict"])


def _at(row: Row) -> str:
    return f"Length{words(int(row['seq_len']))}Load{words(int(row['load']))}"


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
    models: Sequence[str], place: tuple[str, int, int], cells: Mapping[Any, Row],
    compared: Mapping[Any, Row],
) -> str:  # fmt: skip
    task, length, load = place
    subject, *baselines = models
    name = frames.load_name(task)
    of = "" if name == "needle" else f" and {load} {name}"
    said = (
        f"{task} at {units.tokens(length)} tokens{of}: {subject} {_accuracy(cells, place, subject)}"
    )
    against = [
        f"{baseline} {_accuracy(cells, place, baseline)}"
        + (f" ({verdict(found)})" if (found := compared.get((*place, baseline))) else "")
        for baseline in baselines
    ]
    return said + (" against " if against else "") + " and ".join(against)


def _accuracy(cells: Mapping[Any, Row], place: tables.Place, model: str) -> str:
    row = cells.get((*place, model))
    return "not measured" if row is None else interval(row)
