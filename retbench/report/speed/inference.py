"""The report of the inference suite, from its summary."""

from __future__ import annotations

from functools import partial

from retbench import metrics
from retbench.report.content import Content, made
from retbench.report.speed import comparison, exponents, inference_figures, tables
from retbench.report.speed.tables import FLAGS, STATUS
from retbench.report.summary import Summary
from retbench.report.tables import BATCH, CONTEXT, name
from retbench.store import Run

# Metric or percentile, and its rank.
_COLUMNS = (
    ("ttft_s", 1), ("prefill_tokens_per_s", 4), ("tpot_s", 0), ("tpot_s p90", 6),
    ("tpot_s p99", 6), ("tpot_bound_s", 5), ("tpot_over_bound", 5), ("decode_intensity", 6),
    ("mean_tpot_s", 3), ("decode_tokens_per_s", 2), ("state_bytes", 1), ("prefill_peak_bytes", 2),
    ("decode_peak_bytes", 1), ("token_j", 3), ("mean_token_j", 6), ("prefill_j", 5), ("idle_w", 8),
    ("prefill_above_weights_bytes", 6), ("decode_above_weights_bytes", 6), ("prefill_mfu", 7),
    ("prefill_matmul_share", 7), ("prefill_hfu", 8), ("prefill_hardware_share", 8),
    ("decode_bandwidth", 7), ("prefill_intensity", 7),
)  # fmt: skip
_GROWING = ("tpot_s", "mean_tpot_s", "ttft_s", "state_bytes", "decode_peak_bytes",
            "prefill_peak_bytes")  # fmt: skip
_ANSWERED = ("tpot_s", "ttft_s", "state_bytes")


def content(run: Run) -> Content:
    """All that the report says of an inference run."""
    summary = Summary(run)
    columns = [
        name("Model", "model"), CONTEXT, BATCH, STATUS, *tables.metrics(summary, _COLUMNS), FLAGS,
    ]  # fmt: skip
    shown = (
        comparison.ratios(summary, summary.ratios, metrics.compared()),
        comparison.crossovers(summary), tables.batches(summary),
        exponents.table(summary, _GROWING),
        tables.cells(summary, columns, tables.cell_notes(summary.meta)), tables.setup(summary),
    )  # fmt: skip
    return made(
        run, summary.models, shown, partial(inference_figures.figures, summary),
        stamp=tables.stamped(summary.meta), findings=comparison.answers(summary, _ANSWERED),
        unsettled=comparison.unsettled(summary), warnings=summary.warnings,
    )  # fmt: skip
