"""The comparison: ratios with their verdicts, and the context at which two models are equal.

The subject is the first model of the run; each other model is a baseline. A ratio is subject over
baseline, paired by block (M7): below 1 the subject is faster, or needs less memory. Verdicts on
times are corrected together by Holm's method over the whole table (M11). Memory is nearly
deterministic (M14): its interval is the range over blocks, its verdict takes no statistics.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from retbench.measure import stats
from retbench.report.axes import on_axis
from retbench.report.frames import Floats, Row, records

# A run has those of its suite; the others do not show.
TIMES = ("tpot_s", "ttft_s", "step_s", "kernel_s")
MEMORY = (
    "prefill_peak_bytes", "decode_peak_bytes", "state_bytes", "step_peak_bytes",
    "activations_bytes",
)  # fmt: skip
CROSSING = (
    "tpot_s", "ttft_s", "decode_peak_bytes", "state_bytes", "step_s", "step_peak_bytes",
    "activations_bytes",
)  # fmt: skip
LEAST_MARGIN = 0.01
NO_CLAIM = "no claim"

RATIO_COLUMNS = [
    "metric", "seq_len", "batch_size", "point", "subject", "baseline", "value", "low", "high", "n",
    "verdict", "n_needed", "note",
]  # fmt: skip
CROSSOVER_COLUMNS = [
    "metric", "subject", "baseline", "batch_size", "status", "value", "low", "high", "direction",
    "shortest", "longest", "n",
]  # fmt: skip

BATCH_COLUMNS = [
    "model", "seq_len", "batch_size", "stopped_at", "stopped_by", "cause", "largest_tried",
]  # fmt: skip

_NAN = float("nan")
_UNKNOWN: Row = {
    "value": _NAN, "low": _NAN, "high": _NAN, "n": 0, "verdict": "", "n_needed": None, "note": "",
}  # fmt: skip


def floor(meta: Mapping[str, Any]) -> float | None:
    """The machine's noise floor as calibrated, a log ratio; None where it never was."""
    calibration = meta.get("calibration")
    return None if not calibration else float(calibration["floor"])


def margin(meta: Mapping[str, Any]) -> float:
    """The relative difference that counts: 1%, or the noise floor where that is larger (M11)."""
    return max(LEAST_MARGIN, math.expm1(floor(meta) or 0.0))


def ratios(
    processes: pd.DataFrame,
    cells: pd.DataFrame,
    statuses: pd.DataFrame,
    models: Sequence[str],
    meta: Mapping[str, Any],
) -> pd.DataFrame:
    """One row per metric, planned point and baseline; where a side is missing, ``note`` says why.

    Args:
        processes: one value per block, cell and metric.
        cells: one value per cell and metric.
        statuses: how each cell ended.
        models: the subject, then the baselines.
        meta: ``run.json``.
    """
    in_blocks = by_block(processes)
    largest = {(row["metric"], row["model"], row["point"]): row["value"] for row in records(cells)}
    ended = {(row["model"], row["point"]): row["status"] for row in records(statuses)}
    points = statuses[["batch_size", "seq_len", "point"]].drop_duplicates()
    measured = set(cells["metric"])
    table: list[Row] = []
    paired: list[Floats] = []
    for metric, baseline, at in itertools.product(
        (tag for tag in (*TIMES, *MEMORY) if tag in measured),
        models[1:],
        records(points.sort_values(["batch_size", "seq_len"])),
    ):
        row: Row = {"metric": metric} | at | {"subject": models[0], "baseline": baseline}
        keys = [(metric, model, at["point"]) for model in (models[0], baseline)]
        unmeasured = [
            ended.get((model, at["point"]))
            for key, model in zip(keys, (models[0], baseline), strict=True)
            if key not in in_blocks
        ]
        if unmeasured == ["ok", "ok"]:
            continue  # the point has no such metric
        if unmeasured:
            row["note"] = _why(keys, ended)
            found = np.array([])
        else:
            subject, other = (in_blocks[key] for key in keys)
            found = (subject / other)[np.isfinite(subject / other)]
            if metric in TIMES:
                row |= _timed(subject, other)
            elif len(found):
                row |= _memory(largest[keys[0]] / largest[keys[1]], found, margin(meta))
        row["n"] = len(found)
        table.append(_UNKNOWN | row)
        paired.append(found)
    _judge(table, paired, meta)
    return pd.DataFrame(table, columns=RATIO_COLUMNS)


def crossovers(
    processes: pd.DataFrame, models: Sequence[str], meta: Mapping[str, Any]
) -> pd.DataFrame:
    """The context from which on the ratio has changed sides, per metric and baseline.

    A smoke run earns none (M2): its rows have the status "no claim".

    Args:
        processes: one value per block, cell and metric.
        models: the subject, then the baselines.
        meta: ``run.json``.
    """
    # Where every step holds the same number of tokens the batch size is another at each context.
    configuration = meta["configuration"]
    batch_size = None if "tokens_per_step" in configuration else configuration["batch"][0]
    along = processes[on_axis(meta, processes, "context")]
    wide: Any = along.pivot_table(
        index=["metric", "model", "block"], columns="seq_len", values="value"
    )
    table = []
    for metric in (tag for tag in CROSSING if tag in set(along["metric"])):
        for baseline in models[1:]:
            if not all((metric, model) in wide.index for model in (models[0], baseline)):
                continue
            crossed = crossing(wide.loc[metric, models[0]] / wide.loc[metric, baseline], meta)
            if crossed is not None:
                table.append((metric, models[0], baseline, batch_size, *crossed))
    numbers = dict.fromkeys(("value", "low", "high"), "float64")
    return pd.DataFrame(table, columns=CROSSOVER_COLUMNS).astype(numbers)


def crossing(ratio: pd.DataFrame, meta: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """Where a ratio crosses 1; None where it is known at fewer than two contexts.

    Args:
        ratio: one row a block, one column a context, ascending.
        meta: ``run.json``; a smoke run earns no claim (M2).

    Returns:
        Status, value, low, high and direction, then the shortest and the longest context, and the
        number of blocks.
    """
    known = ratio.dropna(axis="columns", how="all")
    if known.shape[1] < 2:
        return None
    found = stats.crossover(known.columns.to_numpy(), known.to_numpy())
    claim: tuple[Any, ...] = (found.status, found.value, found.low, found.high, found.direction)
    if _is_smoke(meta):
        claim = (NO_CLAIM, None, None, None, None)
    return *claim, known.columns.min(), known.columns.max(), found.n


def largest_batches(statuses: pd.DataFrame, models: Sequence[str]) -> pd.DataFrame:
    """The largest batch size that ended ok, per model and context that had several.

    ``stopped_at`` is the smallest larger batch size that failed, ``stopped_by`` its status; both
    are missing where the largest tried fits. A smaller one that failed, as by a timeout, stops
    nothing: a larger one is known to fit.

    Args:
        statuses: how each cell ended.
        models: in the order of the rows.
    """
    rows = []
    plain = statuses[statuses["point"].astype(str).str.startswith("context=")]
    for model, seq_len in itertools.product(models, sorted(plain["seq_len"].unique())):
        at = (plain["model"] == model) & (plain["seq_len"] == seq_len)
        own = plain[at].sort_values("batch_size")
        if len(own) < 2:
            continue
        fits = own.loc[own["status"] == "ok", "batch_size"].max()
        beyond = own[own["batch_size"] > fits] if fits == fits else own
        stop = beyond.iloc[0] if len(beyond) else {}
        rows.append((
            model, seq_len, fits, stop.get("batch_size"), stop.get("status"), stop.get("cause"),
            own["batch_size"].max(),
        ))  # fmt: skip
    counts = dict.fromkeys(("seq_len", "batch_size", "stopped_at", "largest_tried"), "Int64")
    return pd.DataFrame(rows, columns=BATCH_COLUMNS).astype(counts)


def by_block(processes: pd.DataFrame) -> dict[tuple[str, str, str], Floats]:
    """The value in each block, NaN where there is none, by metric, model and point."""
    wide = processes.pivot_table(
        index=["metric", "model", "point"], columns="block", values="value", observed=True
    )
    return dict(zip(wide.index.to_list(), wide.to_numpy(dtype=float), strict=True))


def _timed(subject: Floats, baseline: Floats) -> Row:
    found = stats.ratio(subject, baseline)
    low, high = (_NAN if edge is None else edge for edge in (found.low, found.high))
    return {"value": found.value, "low": low, "high": high}


def _memory(value: float, by_block: Floats, margin_: float) -> Row:
    low, high = min(value, float(by_block.min())), max(value, float(by_block.max()))
    if high < 1 / (1 + margin_):
        verdict = "smaller"
    elif low > 1 + margin_:
        verdict = "larger"
    elif low >= 1 / (1 + margin_) and high <= 1 + margin_:
        verdict = "equivalent"
    else:
        verdict = "inconclusive"
    return {"value": value, "low": low, "high": high, "verdict": verdict}


def _judge(table: list[Row], by_block: list[Floats], meta: Mapping[str, Any]) -> None:
    """Fill in the verdicts on times, corrected over all of them; a smoke run earns none (M2)."""
    if _is_smoke(meta):
        for row in table:
            row["verdict"] = NO_CLAIM if row["n"] else ""
        return
    timed = [i for i, row in enumerate(table) if row["metric"] in TIMES and row["n"]]
    found = stats.verdicts([by_block[i].tolist() for i in timed], margin(meta))
    for i, verdict in zip(timed, found, strict=True):
        table[i] |= {"verdict": verdict.word, "n_needed": verdict.n_needed}


def _is_smoke(meta: Mapping[str, Any]) -> bool:
    return bool(meta["configuration"]["profile"] == "smoke")


def _why(keys: Sequence[tuple[str, str, str]], ended: Mapping[tuple[str, str], str]) -> str:
    """Which side is missing, and how it ended; "both" where both ran out of memory."""
    endings = {model: ended.get((model, point), "not run") for _, model, point in keys}
    if all(status.startswith("oom") for status in endings.values()):
        return "both: oom"
    failed = [f"{model}: {status}" for model, status in endings.items() if status != "ok"]
    return ", ".join(failed) or "not measured"
