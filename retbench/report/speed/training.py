"""The report of the training suite, from the same summary as that of inference."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from retbench.report import axes, citations, compare, layout, units
from retbench.report.content import Content, title_of
from retbench.report.frames import Row, records
from retbench.report.speed import training_figures, training_tables
from retbench.report.summary import Summary, metric_of, summarise

if TYPE_CHECKING:
    from retbench.store import Run

# What the words of every suite mean in this one.
_HERE = {
    "cold_start_s": "the first step at these shapes, compilation included, in a process whose gate "
    "has run",
    "gate_s": "checking that no model sees the future, and that its gradients are its formula's",
    "gate_error": "relative L2 distance of the loss's gradient at a token's embedding from the "
    "formula's in float64, exceeded by one token in ten",
}


def content(run: Run) -> Content:
    """All that the report says of a training run; the same samples give the same content."""
    summary = summarise(run)
    return Content(
        path=summary.path,
        meta=summary.meta,
        models=summary.models,
        title=title_of(summary.meta, summary.models),
        tables=training_tables.tables(summary),
        figures=partial(training_figures.figures, summary),
        warnings=summary.warnings,
        definitions=tuple(
            (metric_of(tag).title, _HERE.get(tag, metric_of(tag).definition))
            for tag in training_tables.shown_metrics(summary)
        ),
        numbers=citations.numbers(summary),
        macros=citations.macros(summary),
        findings=tuple(_findings(summary)),
    )


def _findings(summary: Summary) -> Iterator[str]:
    """For each baseline the longest context, and where the two cross."""
    on_sweep = summary.ratios[axes.on_axis(summary.meta, summary.ratios, "context")]
    for baseline in summary.models[1:]:
        own = on_sweep[(on_sweep["baseline"] == baseline) & on_sweep["value"].notna()]
        steps = own[own["metric"] == "step_s"]
        if steps.empty:
            yield f"{summary.models[0]} and {baseline} have no context that both could train at"
            continue
        longest = records(steps.sort_values("seq_len"))[-1]
        activations = own[
            (own["metric"] == "activations_bytes") & (own["seq_len"] == longest["seq_len"])
        ]
        yield _sentence(summary, longest, records(activations))
    yield from _crossings(summary)
    for row in records(summary.efficiencies):
        if row["model"] == summary.models[0] and not row["note"]:
            gain = units.significant(row["value"] * row["processes"])
            yield (
                f"{row['processes']} processes make a step of {row['model']} {gain} times as fast "
                f"as one: a scaling efficiency of "
                f"{units.with_interval(row['value'], row['low'], row['high'])}"
            )


def _sentence(summary: Summary, step: Row, activations: list[Row]) -> str:
    ratio = units.with_interval(step["value"], step["low"], step["high"])
    said = (
        f"at {units.tokens(step['seq_len'])} tokens a step of {summary.models[0]} takes {ratio} of "
        f"the time of one of {step['baseline']}: {layout.verdict(step)}"
    )
    if activations:
        said += f"; it keeps {units.significant(activations[0]['value'])} of its activations"
    return said


def _crossings(summary: Summary) -> Iterator[str]:
    crossed = summary.crossovers[summary.crossovers["metric"].isin(compare.TIMES)]
    for row in records(crossed[crossed["status"] == "reached"]):
        yield f"against {row['baseline']}, step time: {layout.crossing(row)}"
