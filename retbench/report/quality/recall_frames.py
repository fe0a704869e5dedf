"""Accuracies of the recall suite as tidy frames: cells, differences, limits, state.

A cell is one task at one evaluation length and one load (key-value pairs of ``mqar``, tokens of
``copy``, needles of ``needle``). A block counts for a task where its final training ended ok.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from retbench.data.recall import TASKS
from retbench.report.compare import NO_CLAIM
from retbench.report.frames import Floats, Row, column, edges, groups, ordered, records
from retbench.report.quality.trained import final, planned
from retbench.stats import quality

if TYPE_CHECKING:
    from retbench.store import Run

GOOD = 0.9  # an accuracy under this counts as failing the task
PLACE = ["task", "seq_len", "load"]
CELL_COLUMNS = [*PLACE, "model", "value", "low", "high", "n", "answers"]
DIFFERENCE_COLUMNS = [
    *PLACE, "subject", "baseline", "value", "low", "high", "n", "verdict", "n_needed",
]  # fmt: skip
LIMIT_COLUMNS = [
    "task", "model", "along", "held", "smallest", "largest", "fails_at", "value", "low", "high",
]  # fmt: skip
_NAN = float("nan")


def load_name(task: str) -> str:
    """What the load of a task counts."""
    return TASKS[task].load_name if task in TASKS else "load"


def chance(run: Run) -> dict[str, float]:
    """The accuracy of guessing among all answers, of the tasks whose description names it."""
    described = (run.meta["data"] or {}).get("tasks", {})
    return {
        task: float(described[task]["chance"])
        for task in planned(run, "task")
        if "chance" in described.get(task, {})
    }


def guess(chances: Mapping[str, float], task: str, load: int) -> float | None:
    """The accuracy of guessing at a load; None for a task whose chance is not known.

    Who has read what was shown, but not what belongs where, is right once in ``load`` times: that
    is no recall either.
    """
    if task not in chances:
        return None
    shown = task in TASKS and TASKS[task].shown
    return max(chances[task], 1 / load) if shown else chances[task]


def answers(run: Run) -> pd.DataFrame:
    """One row per task, length, load, model and block: ``correct`` of ``answers``.

    A sequence counts as one answer at most, its share of right ones as that answer's: what is asked
    in one sequence hangs together, for ``mqar`` asks about the same pairs again. Whatever ties
    them, the variance of such a share is no more than that of one answer, p (1 - p).
    """
    frame = final(run)
    keys = [*PLACE, "model", "block"]
    rows = frame[frame["phase"] == "recall"].rename(columns={"index": "load"})
    wide = rows.pivot_table(index=keys, columns="metric", values="value", observed=True)
    for metric in ("accuracy", "answers"):
        if metric not in wide:
            wide[metric] = np.nan
    wide = wide.dropna(subset=["accuracy", "answers"]).reset_index()
    sequences = (run.meta["data"] or {}).get("sequences", np.inf)
    wide["answers"] = wide["answers"].clip(upper=sequences)
    wide["correct"] = wide["accuracy"] * wide["answers"]
    return wide[[*keys, "correct", "answers"]].astype({"load": "int64"})


def cells(counted: pd.DataFrame, models: Sequence[str]) -> pd.DataFrame:
    """One row per task, length, load and model: the accuracy over seeds with its interval.

    Args:
        counted: as :func:`answers` gives it.
        models: the order of the rows.
    """
    rows = []
    for key, group in groups(counted, [*PLACE, "model"]):
        found = quality.accuracy(column(group, "correct"), column(group, "answers"))
        rows.append((*key, *edges(found), found.n, int(group["answers"].sum())))
    table = pd.DataFrame(rows, columns=CELL_COLUMNS)
    return ordered(table, [*PLACE, "model"], model=models)


def differences(counted: pd.DataFrame, models: Sequence[str], *, smoke: bool) -> pd.DataFrame:
    """One row per cell and baseline: subject - baseline, paired by seed, with its verdict.

    Args:
        counted: as :func:`answers` gives it.
        models: the subject, then the baselines.
        smoke: whether the run is a smoke run, which makes no claims.
    """
    subject, *baselines = models
    by_model = {(key[:-1], key[-1]): group for key, group in groups(counted, [*PLACE, "model"])}
    places = sorted({key for key, _ in by_model})
    rows: list[Row] = []
    pairs: list[tuple[Floats, Floats, Floats]] = []
    for baseline, key in itertools.product(baselines, places):
        if (key, subject) not in by_model or (key, baseline) not in by_model:
            continue
        both = by_model[key, subject].merge(
            by_model[key, baseline], on="block", suffixes=("", "_other")
        )
        right, other, asked = (column(both, n) for n in ("correct", "correct_other", "answers"))
        found = quality.accuracy_difference(right, other, asked)
        value, low, high = edges(found)
        rows.append(dict(zip(PLACE, key, strict=True)) | {
            "subject": subject, "baseline": baseline, "value": value, "low": low, "high": high,
            "n": found.n, "verdict": NO_CLAIM, "n_needed": None,
        })  # fmt: skip
        pairs.append((right, other, asked))
    if not smoke:
        for row, verdict in zip(rows, quality.accuracy_verdicts(pairs), strict=True):
            row |= {"verdict": verdict.word, "n_needed": verdict.n_needed}
    table = pd.DataFrame(rows, columns=DIFFERENCE_COLUMNS).astype({"n_needed": "Int64"})
    return ordered(table, [*PLACE, "baseline"], baseline=models)


def limits(accuracy: pd.DataFrame, length: int, order: Sequence[str]) -> pd.DataFrame:
    """Where the accuracy first falls under 90%: along the length, and along the load.

    Along the length the load is held, along the load the training length. ``fails_at`` is the first
    place, ascending, at which the accuracy (``value``) is under 90%; missing where there is none.

    Args:
        accuracy: as :func:`cells` gives it.
        length: the training length.
        order: of the tasks; models keep theirs.
    """
    rows = []
    at_length = accuracy[accuracy["seq_len"] == length]
    for along, held, table in (("seq_len", "load", accuracy), ("load", "seq_len", at_length)):
        places = [(t, m) for t in order for m in dict.fromkeys(accuracy["model"])]
        found = dict(groups(table, ["task", "model", held]))
        for task, model, fixed in sorted(found, key=lambda k: (places.index(k[:2]), k[2])):
            group = found[task, model, fixed]
            if len(group) < 2:
                continue
            ascending = group.sort_values(along)
            tried = ascending[along]
            under = records(ascending[ascending["value"] < GOOD])
            first = under[0] if under else {}
            rows.append((
                task, model, along, fixed, tried.min(), tried.max(), first.get(along),
                *(first.get(edge, _NAN) for edge in ("value", "low", "high")),
            ))  # fmt: skip
    return pd.DataFrame(rows, columns=LIMIT_COLUMNS).astype({"fails_at": "Int64"})


def states(run: Run) -> pd.DataFrame:
    """One row per task, model and evaluation length: ``state_bytes`` of one sequence."""
    frame = final(run)
    rows = frame[frame["metric"] == "state_bytes"]
    keys = ["task", "model", "seq_len"]
    grouped = rows.groupby(keys, observed=True, sort=True)["value"].max()
    return grouped.rename("state_bytes").reset_index()


def rates(run: Run) -> pd.DataFrame:
    """One row per task and model: the learning rate that was chosen on the dev set."""
    frame = final(run)
    rows = frame[frame["metric"] == "learning_rate"]
    grouped = rows.groupby(["task", "model"], observed=True, sort=True)["value"].first()
    return grouped.rename("learning_rate").reset_index()
