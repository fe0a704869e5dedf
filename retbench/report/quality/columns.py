"""Columns, notes and sentences that the reports on trained models share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from retbench.config.run import PROFILES
from retbench.report import units
from retbench.report.content import open_line
from retbench.report.frames import Row, edges_of
from retbench.report.quality.loss_frames import Losses
from retbench.report.quality.trained import Trainings
from retbench.report.quality.warnings import at_an_end
from retbench.report.tables import Column
from retbench.stats import tuning

INTERVAL = "value [low, high]: 95% interval that takes seeds and test documents as random"
SETTLED = "inconclusive (+2 seeds): two seeds more would settle it"
VERDICTS = (
    "paired by seed and document; margin of verdicts 1%, corrected over the table (Holm); better "
    "or worse takes 5 seeds"
)
SEEDS = Column("Seeds", lambda row: units.count(row["n"]), rank=3)


def quantity(title: str, key: str, unit: str = "", *, rank: int = 1, metric: str = "") -> Column:
    """A column of a quantity with its interval: ``key``, ``key_low`` and ``key_high`` of a row."""

    def text(row: Row) -> str:
        return units.with_interval(row[key], *(row[edge] for edge in edges_of(key)))

    return Column(title, text, unit, rank, metric=metric)


def learning_rate(found: Trainings, rank: int) -> Column:
    """A column of the rate that was chosen for each model and place, and where in the grid."""
    grid = found.meta["configuration"]["learning_rates"]
    edges = {(model, at) for model, at, *_ in at_an_end(found.tuning)}

    def text(row: Row) -> str:
        rate = row.get("learning_rate")
        if units.is_missing(rate):
            return units.DASH
        at = f"{found.setting}={row[found.setting]}" if found.setting in row else ""
        return f"{rate:g} {'at the edge' if (row['model'], at) in edges else 'inside'}"

    fitted = len(grid) >= tuning.LEAST
    how = "is lowest on a parabola through the dev losses" if fitted else "has the lowest dev loss"
    and_place = f" and {found.setting}" if found.setting in found.endings else ""
    note = (
        f"learning rate: the one of the grid {', '.join(f'{rate:g}' for rate in grid)} that {how}, "
        f"for each model{and_place}; inside the grid, or at its edge, where a better one may lie "
        "beyond"
    )
    return Column("Learning rate", text, rank=rank, metric="learning_rate", note=note)


def tested_on(found: Losses) -> tuple[str, ...]:
    """How and on what models were tested, and how they were trained: notes."""
    return (
        INTERVAL,
        f"test protocol: {found.protocol}, in tokens; every token but a document's first scored "
        "once",
        *replicates(found.meta),
        *untuned(found.meta),
    )


def replicates(meta: Mapping[str, Any]) -> tuple[str, ...]:
    """What the test documents are, which the intervals take as random: a note, where it is known.

    Args:
        meta: ``run.json`` of a run on a text.
    """
    text = meta["data"] or {}
    if "test" not in text:
        return ()
    count = text["test"]["documents"]
    if not text["test"]["whole"]:
        what = f"{count} segments of one text, which tell nothing of how texts vary"
    elif text["by_ranges"]:
        what = f"the ends of {count} texts whose beginnings are trained on (in-domain)"
    else:
        what = f"{count} documents of the same source, none of them trained on (in-domain)"
    return (f"test documents: {what}; as replicates {count - 1} degrees of freedom at most",)


def untuned(meta: Mapping[str, Any]) -> tuple[str, ...]:
    """What of model and training is not tuned: a note, where it is known.

    Args:
        meta: ``run.json`` of a run whose trainings are carried through.
    """
    models = meta["models"]
    known = [model["training"] for model in models.values() if "training" in model]
    if not known:
        return ()
    used, configs = known[0], {label: model["config"] for label, model in models.items()}
    tied = {config.get("tie_embeddings") for config in configs.values()}
    decays = [f"{label}: {config['decay']}" for label, config in configs.items()
              if isinstance(config.get("decay"), str)]  # fmt: skip
    said = [
        f"AdamW with betas {used['beta1']:g} and {used['beta2']:g}",
        f"weight decay {used['weight_decay']:g}",
        f"gradients clipped to norm {used['grad_clip']:g}",
        f"linear warm-up over {used['warmup_steps']} steps, then a cosine to "
        f"{used['final_ratio']:g} of the peak",
        *(["tied embeddings"] if tied == {True} else []),
        "no dropout",
        *([f"decays ({', '.join(decays)})"] if decays else []),
    ]
    return (f"not tuned, the same for all: {'; '.join(said)}",)


def compared(row: Row) -> str:
    """A ratio of perplexities as the change that it is, with its verdict."""
    return f"perplexity {units.change(row)}, {units.verdict(row, 'seed')}"


def still_open(found: Trainings, judged: pd.DataFrame) -> str:
    """How many comparisons are open, and the seeds that would settle them.

    They are those that the run has planned and lacks, else those of a profile with more. Empty
    where none is open.

    Args:
        found: the trainings.
        judged: ``verdict`` and ``n_needed``, one row a comparison.
    """
    planned, known = found.run.plan.blocks, found.endings["ok_blocks"]
    missing = int((planned - known[known > 0]).sum())
    ways = {f"measure the {units.counted(missing, 'missing seed')}": planned} if missing else {}
    ways |= {
        f"repeat the run with --profile {profile.name}": profile.blocks
        for profile in PROFILES.values()
        if profile.blocks > planned
    }
    unsettled = judged[judged["verdict"] == "inconclusive"]
    needed = unsettled["n_needed"].dropna()
    settling = {way: int((needed <= seeds).sum()) for way, seeds in ways.items()}
    way = next((way for way, settled in settling.items() if settled), "")
    return open_line(len(unsettled), f"{len(judged)} comparisons", settling.get(way, 0), way)
