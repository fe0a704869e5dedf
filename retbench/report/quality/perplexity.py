"""The report of the perplexity and ablation suites: is one model as good as another?

Test perplexity of every tuned model with an interval over seeds and documents, the ratio to the
subject (in an ablation: of each variant to the whole) paired by both, perplexity by evaluation
length and by position, the sweep of learning rates, and the loss curves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from retbench.metrics import METRICS
from retbench.report import units, warnings
from retbench.report.citations import letters, words
from retbench.report.content import Content, title_of
from retbench.report.frames import plain, records
from retbench.report.quality import loss_frames as frames
from retbench.report.quality import perplexity_figures as figures
from retbench.report.quality import perplexity_tables as tables
from retbench.report.quality.perplexity_tables import Perplexity
from retbench.report.quality.scaling_tables import is_smoke, precise, printed, verdict
from retbench.report.quality.trained import EDGES, endings
from retbench.report.summary import model_order

if TYPE_CHECKING:
    from retbench.store import Run

_METRICS = (
    "test_nats", "final_dev_loss", "train_loss", "dev_loss", "position_loss", "parameters",
    "train_tokens", "train_flops", "train_tokens_per_s", "learning_rate", "data_order",
)  # fmt: skip


def content(run: Run) -> Content:
    """All that the report says of a perplexity or ablation run."""
    meta, models = run.meta, model_order(run.meta)
    tested = frames.tests(run)
    found = Perplexity(
        meta=meta,
        models=models,
        is_ablation=meta["suite"] == "ablation",
        losses=_of_one_preset(frames.losses(tested, run, models)),
        ratios=_of_one_preset(frames.ratios(tested, run, comparisons(run), smoke=is_smoke(meta))),
        scalars=_of_one_preset(frames.scalars(run, models)),
        tuning=frames.tuning(run),
        curves=frames.curves(run),
        positions=frames.positions(run),
        endings=endings(run, models),
    )
    return Content(
        path=run.path,
        meta=meta,
        models=models,
        title=title_of(meta, models),
        tables=tables.tables(found),
        figures=figures.figures(found),
        warnings=warnings.of_trainings(run, models, found.tuning, found.endings),
        definitions=tuple((METRICS[tag].title, METRICS[tag].definition) for tag in _METRICS),
        numbers=_numbers(found),
        macros=tuple(_macros(found)),
        findings=tuple(_findings(found)),
    )


def _of_one_preset(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns="preset")


def comparisons(run: Run) -> list[tuple[str, str]]:
    """Subject and baseline of each ratio.

    The first model over each other one; in an ablation each variant over its own family's whole.
    """
    contenders = run.plan.contenders
    first, *others = [contender.label for contender in contenders]
    if run.plan.suite != "ablation":
        return [(first, other) for other in others]
    return [(c.label, c.family) for c in contenders if c.label != c.family]


def _numbers(found: Perplexity) -> dict[str, Any]:
    """The content of ``numbers.json``, unrounded."""
    cells: dict[str, Any] = {}
    for row in records(found.losses):
        at = cells.setdefault(row["model"], {}).setdefault(row["phase"], {})
        names = ("loss", "perplexity", "bits_per_byte")
        at[str(row["seq_len"])] = {
            "protocol": row["protocol"], "n": int(row["n"]), "documents": int(row["documents"]),
            **plain(row, *(name + end for name in names for end in ("", "_low", "_high"))),
        }  # fmt: skip
    return {
        "profile": found.meta["configuration"]["profile"],
        "subject": found.models[0],
        "data": found.meta.get("data"),
        "models": {
            row["model"]: plain(row, *frames.SCALARS) for row in records(found.scalars)
        },
        "cells": cells,
        "ratios": {
            f"{row['subject']} / {row['baseline']}": {
                **plain(row, *EDGES), "n": int(row["n"]), "verdict": row["verdict"] or None,
                **plain(row, "n_needed"),
            }
            for row in records(found.ratios)
        },
    }  # fmt: skip


def _macros(found: Perplexity) -> Iterator[tuple[str, str]]:
    """Perplexities, bits per byte and ratios: name without backslash, text."""
    for row in records(found.losses):
        phase = "" if row["phase"] == "test" else f"{letters(row['phase'])}{words(row['seq_len'])}"
        for name in ("perplexity", "bits_per_byte"):
            yield f"Retbench{letters(name)}{letters(row['model'])}{phase}", printed(row, name)
    for row in records(found.ratios):
        if not units.is_missing(row["value"]):
            name = f"RetbenchRatio{letters(row['subject'])}Over{letters(row['baseline'])}"
            yield name, precise(*(row[edge] for edge in EDGES))
            yield f"{name}Verdict", str(row["verdict"])


def _findings(found: Perplexity) -> Iterator[str]:
    for row in records(found.ratios):
        if units.is_missing(row["value"]):
            continue
        text = precise(*(row[edge] for edge in EDGES))
        yield (
            f"{row['subject']} has {text} times the perplexity of {row['baseline']} "
            f"({found.protocol}; {row['n']} seed{'s' if row['n'] != 1 else ''}): {verdict(row)}"
        )
    yield from _at_length(found, found.at("length"), found.at("carried"))


def _at_length(found: Perplexity, alone: pd.DataFrame, carried: pd.DataFrame) -> Iterator[str]:
    """How each model does beyond the length of its training."""
    for model in found.models if not found.is_ablation else ():
        values = _values(alone, model)
        longest = max(values, default=0)
        if longest > found.context and found.context in values:
            said = (
                f"{model} trained at {units.tokens(found.context)} tokens: perplexity "
                f"{units.significant(values[found.context])} in windows of that length, "
                f"{units.significant(values[longest])} at {units.tokens(longest)}"
            )
            kept = _values(carried, model)
            if found.context in kept:
                said += f"; with the state carried on {units.significant(kept[found.context])}"
            yield said


def _values(rows: pd.DataFrame, model: str) -> dict[int, float]:
    own: Sequence[dict[str, Any]] = records(rows[rows["model"] == model])
    return {int(row["seq_len"]): float(row["perplexity"]) for row in own}
