"""The report of the scaling suite: how the loss falls with size, and whether two models' laws meet.

Per preset and model the tuned test loss with its interval, the ratio of perplexities subject over
baseline paired by seed and document, power laws over parameters and over training FLOPs, and the
size at which the subject's law meets a baseline's, with how far that lies beyond what was measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from retbench.metrics import METRICS
from retbench.report import units, warnings
from retbench.report.citations import letters
from retbench.report.content import Content, title_of
from retbench.report.frames import plain, records
from retbench.report.quality import loss_frames
from retbench.report.quality import scaling_figures as figures
from retbench.report.quality import scaling_frames as frames
from retbench.report.quality import scaling_tables as tables
from retbench.report.quality.scaling_figures import Scaling, conditions
from retbench.report.quality.scaling_frames import ALONG
from retbench.report.quality.scaling_tables import (
    crossing_entry,
    estimate,
    is_smoke,
    meets,
    precise,
    printed,
    verdict,
)
from retbench.report.quality.trained import EDGES, endings, planned
from retbench.report.summary import model_order
from retbench.stats.estimate import Estimate

if TYPE_CHECKING:
    from retbench.store import Run

_METRICS = ("test_nats", "parameters", "train_flops", "train_tokens", "learning_rate")


def content(run: Run) -> Content:
    """All that the report says of a scaling run; the same samples give the same content."""
    meta, models = run.meta, model_order(run.meta)
    baselines = models[1:]
    smoke = is_smoke(meta)
    tested = loss_frames.tests(run)
    table = frames.cells(loss_frames.losses(tested, run, models), loss_frames.scalars(run, models))
    pairs = [(models[0], baseline) for baseline in baselines]
    ratios = loss_frames.ratios(tested, run, pairs, smoke=smoke)
    scaling = Scaling(
        meta, models, planned(run, "preset"), table,
        frames.with_sizes(ratios, table), endings(run, models, "preset"),
        {along: frames.laws(tested, table, models, along, smoke=smoke) for along in ALONG},
    )  # fmt: skip
    return Content(
        path=run.path,
        meta=meta,
        models=models,
        title=title_of(meta, models),
        tables=(
            tables.loss_table(scaling),
            *((tables.ratio_table(scaling), tables.crossing_table(scaling)) if baselines else ()),
            tables.law_table(scaling),
        ),
        figures=figures.figures(scaling),
        warnings=warnings.of_trainings(
            run, models, loss_frames.tuning(run), scaling.endings
        ),
        definitions=tuple((METRICS[tag].title, METRICS[tag].definition) for tag in _METRICS),
        numbers=_numbers(scaling),
        macros=tuple(_macros(scaling)),
        findings=tuple(_findings(scaling)),
    )  # fmt: skip


def _numbers(scaling: Scaling) -> dict[str, Any]:
    """The content of ``numbers.json``, unrounded."""
    cells: dict[str, Any] = {}
    for row in records(scaling.table):
        own = cells.setdefault(row["preset"], {})
        own[row["model"]] = plain(row, *frames.CELL_COLUMNS[2:])
    ratios: dict[str, Any] = {}
    for row in records(scaling.ratios):
        ratios.setdefault(row["preset"], {})[row["baseline"]] = {
            **plain(row, *EDGES), "n": int(row["n"]), "verdict": row["verdict"] or None,
            "note": row["note"] or None, **plain(row, "n_needed"),
        }  # fmt: skip
    laws: dict[str, Any] = {}
    for along, fits in scaling.laws.items():
        laws[along] = {
            "exponents": {model: _known(law.exponent) for model, law in fits.plain.items()},
            "irreducible": {
                model: _known(law.offset) for model, law in fits.bent.items() if law.offset
            },
            "crossings": {name: crossing_entry(found) for name, found in fits.crossings.items()},
        }
    return {
        "conditions": conditions(scaling.meta, scaling.presets),
        "profile": scaling.meta["configuration"]["profile"],
        "subject": scaling.models[0],
        "cells": cells,
        "ratios": ratios,
        "laws": laws,
    }


def _known(found: Estimate) -> dict[str, Any]:
    return {"value": found.value, "low": found.low, "high": found.high, "n": found.n}


def _macros(scaling: Scaling) -> Iterator[tuple[str, str]]:
    """Macros of perplexities, ratios and exponents: name without backslash, text."""
    for row in records(scaling.table):
        at = f"{letters(row['model'])}Preset{letters(row['preset'])}"
        for name in ("loss", "perplexity", "bits_per_byte"):
            yield f"Retbench{letters(name)}{at}", printed(row, name)
    for row in records(scaling.ratios):
        if units.is_missing(row["value"]):
            continue
        name = f"RetbenchRatio{letters(row['baseline'])}Preset{letters(row['preset'])}"
        yield name, precise(*(row[edge] for edge in EDGES))
        yield f"{name}Verdict", str(row["verdict"])
    for along in ALONG:
        over = letters(along)
        for model, law in scaling.laws[along].plain.items():
            yield f"RetbenchExponent{over}{letters(model)}", estimate(law.exponent)
        for baseline, found in scaling.laws[along].crossings.items():
            yield f"RetbenchCrossing{over}{letters(baseline)}", meets(found, along)


def _findings(scaling: Scaling) -> Iterator[str]:
    """For each baseline the ratio at every size, then what the laws say."""
    subject = scaling.models[0]
    laws = scaling.laws["parameters"]
    for baseline in scaling.models[1:]:
        rows = records(scaling.ratios[scaling.ratios["baseline"] == baseline])
        said = [
            f"{row['preset']} {precise(*(row[edge] for edge in EDGES))} ({verdict(row)})"
            for row in rows
            if not units.is_missing(row["value"])
        ]
        if said:
            yield f"perplexity of {subject} / {baseline}: {', '.join(said)}"
        if found := laws.crossings.get(baseline):
            yield f"crossing of {subject} and {baseline}: {meets(found, 'parameters')}"
