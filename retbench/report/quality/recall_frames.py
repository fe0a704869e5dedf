"""Accuracies of the recall suite as tidy frames: cells, differences, limits, state.

A cell is one task at one evaluation length and one load (key-value pairs of ``mqar``, tokens of
``copy``, needles of ``needle``). A block counts for a task where its final training ended ok.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from functools import cached_property

import numpy as np
import pandas as pd

from retbench.data.recall import TASKS
from retbench.report.compare import NO_CLAIM
from retbench.report.frames import EDGES, Floats, Row, column, edges, groups, ordered, records
from retbench.report.quality.trained import Trainings
from retbench.report.terms import is_smoke
from retbench.stats import quality

GOOD = 0.9  # an accuracy under this counts as failing the task
PLACE = ["task", "seq_len", "load"]
CELL_COLUMNS = [*PLACE, "model", *EDGES, "n", "answers"]
DIFFERENCE_COLUMNS = [*PLACE, "subject", "baseline", *EDGES, "n", "verdict", "n_needed"]
LIMIT_COLUMNS = ["task", "model", "along", "held", "smallest", "largest", "fails_at", *EDGES]


def load_name(task: str) -> str:
    """What the load of a task counts."""
    return TASKS[task].load_name if task in TASKS else "load"


class Recall(Trainings):
    """The trainings of a run whose models are tested on what they recall, each for its task."""

    setting = "task"

    @cached_property
    def chance(self) -> Mapping[str, float]:
        """The accuracy of guessing among all answers, of the tasks whose description names it."""
        described = (self.meta["data"] or {}).get("tasks", {})
        return {
            task: float(described[task]["chance"])
            for task in self.setting_values
            if "chance" in described.get(task, {})
        }

    def guess(self, task: str, load: int) -> float | None:
        """The accuracy of guessing at a load; None for a task whose chance is not known.

        Who has read what was shown, but not what belongs where, is right once in ``load`` times:
        that is no recall either.
        """
        if task not in self.chance:
            return None
        shown = task in TASKS and TASKS[task].shown
        return max(self.chance[task], 1 / load) if shown else self.chance[task]

    @cached_property
    def answers(self) -> pd.DataFrame:
        """One row per task, length, load, model and block: ``correct`` of ``answers``.

        A sequence counts as one answer at most, its share of right ones as that answer's: what is
        asked in one sequence hangs together, for ``mqar`` asks about the same pairs again. Whatever
        ties them, the variance of such a share is no more than that of one answer, p (1 - p).
        """
        keys = [*PLACE, "model", "block"]
        rows = self.final[self.final["phase"] == "recall"].rename(columns={"index": "load"})
        wide = rows.pivot_table(index=keys, columns="metric", values="value", observed=True)
        wide = wide.reindex(columns=["accuracy", "answers"]).dropna().reset_index()
        sequences = (self.meta["data"] or {}).get("sequences", np.inf)
        wide["answers"] = wide["answers"].clip(upper=sequences)
        wide["correct"] = wide["accuracy"] * wide["answers"]
        wide = wide[wide["answers"] > 0]
        return wide[[*keys, "correct", "answers"]].astype({"load": "int64"})

    @cached_property
    def accuracy(self) -> pd.DataFrame:
        """One row per task, length, load and model: the accuracy over seeds with its interval."""
        rows = []
        for key, group in groups(self.answers, [*PLACE, "model"]):
            found = quality.accuracy(column(group, "correct"), column(group, "answers"))
            rows.append((*key, *edges(found), found.n, int(group["answers"].sum())))
        table = pd.DataFrame(rows, columns=CELL_COLUMNS)
        return ordered(table, [*PLACE, "model"], model=self.models)

    @cached_property
    def differences(self) -> pd.DataFrame:
        """One row per cell and baseline: subject - baseline, paired by seed, with its verdict.

        A smoke run makes no claims (M2).
        """
        subject, *baselines = self.models
        by_model = dict(groups(self.answers, ["model", *PLACE]))
        places = sorted({key[1:] for key in by_model})
        rows: list[Row] = []
        pairs: list[tuple[Floats, Floats, Floats]] = []
        for baseline, place in itertools.product(baselines, places):
            if (subject, *place) not in by_model or (baseline, *place) not in by_model:
                continue
            here, there = (by_model[model, *place] for model in (subject, baseline))
            _, own, its = np.intersect1d(here["block"], there["block"], return_indices=True)
            if not len(own):  # no seed of which both have answers
                continue
            right, asked = (column(here, name)[own] for name in ("correct", "answers"))
            other = column(there, "correct")[its]
            found = quality.accuracy_difference(right, other, asked)
            rows.append(dict(zip((*PLACE, *EDGES), (*place, *edges(found)), strict=True)) | {
                "subject": subject, "baseline": baseline, "n": found.n, "verdict": NO_CLAIM,
                "n_needed": None,
            })  # fmt: skip
            pairs.append((right, other, asked))
        if not is_smoke(self.meta):
            for row, verdict in zip(rows, quality.accuracy_verdicts(pairs), strict=True):
                row |= {"verdict": verdict.word, "n_needed": verdict.n_needed}
        table = pd.DataFrame(rows, columns=DIFFERENCE_COLUMNS).astype({"n_needed": "Int64"})
        return ordered(table, [*PLACE, "baseline"], baseline=baselines)

    @cached_property
    def limits(self) -> pd.DataFrame:
        """Where the accuracy first falls under 90%: along the length, and along the load.

        Along the length the load is held, along the load the training length. ``fails_at`` is the
        first place, ascending, at which the accuracy (``value``) is under 90%; missing where there
        is none.
        """
        rows = []
        at_length = self.accuracy[self.accuracy["seq_len"] == self.context]
        tables = (("seq_len", "load", self.accuracy), ("load", "seq_len", at_length))
        for along, held, table in tables:
            keys = ["task", "model", held]
            ascending = ordered(table, [*keys, along], task=self.setting_values, model=self.models)
            for (task, model, fixed), group in ascending.groupby(keys, sort=False):
                if len(group) < 2:
                    continue
                under = records(group[group["value"] < GOOD])
                first = under[0] if under else {}
                rows.append((
                    task, model, along, fixed, group[along].iloc[0], group[along].iloc[-1],
                    first.get(along), *(first.get(edge, math.nan) for edge in EDGES),
                ))  # fmt: skip
        return pd.DataFrame(rows, columns=LIMIT_COLUMNS).astype({"fails_at": "Int64"})

    @cached_property
    def states(self) -> pd.DataFrame:
        """One row per task, model and evaluation length: ``state_bytes`` of one sequence."""
        rows = self.final[self.final["metric"] == "state_bytes"]
        grouped = rows.groupby(["task", "model", "seq_len"], observed=True)["value"]
        return grouped.max().reset_index(name="state_bytes")
