"""The report of the inference suite, from its summary."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from retbench import metrics
from retbench.report import units
from retbench.report.content import Content, definitions, filled, title_of
from retbench.report.speed import exponents, grid_figures, inference_figures, tables
from retbench.report.speed.answers import answers, still_open
from retbench.report.speed.tables import BATCH, CONTEXT, FLAGS, STATUS
from retbench.report.summary import Summary, summarise
from retbench.report.tables import Table, name

if TYPE_CHECKING:
    from retbench.store import Run

# Metric, percentile, whether its interval is printed, and its rank.
_COLUMNS = (
    ("ttft_s", "", True, 1), ("prefill_tokens_per_s", "", False, 4), ("tpot_s", "", True, 0),
    ("tpot_s", "p90", False, 6), ("tpot_s", "p99", False, 6), ("tpot_bound_s", "", False, 5),
    ("tpot_over_bound", "", False, 5), ("decode_intensity", "", False, 6),
    ("mean_tpot_s", "", True, 3), ("decode_tokens_per_s", "", False, 2),
    ("state_bytes", "", False, 1),
    ("prefill_peak_bytes", "", False, 2), ("decode_peak_bytes", "", False, 1),
    ("token_j", "", False, 3), ("mean_token_j", "", False, 6), ("prefill_j", "", False, 5),
    ("idle_w", "", False, 8),
    ("prefill_above_weights_bytes", "", False, 6), ("decode_above_weights_bytes", "", False, 6),
    ("prefill_mfu", "", False, 7), ("prefill_matmul_share", "", False, 7),
    ("prefill_hfu", "", False, 8), ("prefill_hardware_share", "", False, 8),
    ("decode_bandwidth", "", False, 7), ("prefill_intensity", "", False, 7),
)  # fmt: skip
_TAILS = (
    "p90 and p99 describe the time per step of slices, each of several decode steps where one is "
    f"short, of all processes together; {units.DASH}: too few of them (p90 needs 29, p99 299)"
)
_GROWING = ("tpot_s", "mean_tpot_s", "ttft_s", "state_bytes", "decode_peak_bytes",
            "prefill_peak_bytes")  # fmt: skip
_ANSWERED = ("tpot_s", "ttft_s", "state_bytes")


def content(run: Run) -> Content:
    """All that the report says of an inference run."""
    summary = summarise(run)
    tables_ = filled(
        tables.ratios(summary, summary.ratios, metrics.compared()), tables.crossovers(summary),
        tables.batches(summary), exponents.table(summary, _GROWING), _cells(summary),
        tables.setup(summary),
    )  # fmt: skip
    return Content(
        path=summary.path,
        meta=summary.meta,
        title=title_of(summary.meta, summary.models),
        stamp=tables.stamped(summary.meta),
        findings=tuple(answers(summary, _ANSWERED)),
        unsettled=still_open(summary.ratios, summary.meta),
        tables=tables_,
        figures=lambda: chain(inference_figures.figures(summary), grid_figures.figures(summary)),
        warnings=summary.warnings,
        definitions=definitions(tables_),
    )


def _cells(summary: Summary) -> Table:
    """One row per model and point: every figure, or how the cell failed, and its flags."""
    columns = (
        tables.metric(
            summary.cells,
            tag,
            interval=interval,
            percentile=percentile,
            rank=rank,
            note=_TAILS if percentile else tables.peak_note(summary.meta, tag),
        )
        for tag, percentile, interval, rank in _COLUMNS
        if tables.shown(summary.cells, tag)
    )
    first = (name("Model", "model"), CONTEXT, BATCH, STATUS)
    return tables.cells(summary, [*first, *columns, FLAGS], tables.cell_notes(summary.meta))
