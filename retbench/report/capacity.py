"""What fits: the largest batch of each model, and the throughput there.

That is what a deployment buys, and where a small state pays twice: more sequences share one reading
of the weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from retbench.config.plan import Point
from retbench.report import axes, units
from retbench.report.frames import Floats, Row, in_blocks
from retbench.stats import intervals

if TYPE_CHECKING:
    from retbench.report.summary import Summary

COLUMNS = [
    "model", "seq_len", "batch_size", "stopped_at", "stopped_by", "cause", "largest_tried",
    "tokens_per_s", "low", "high", "ratio", "ratio_low", "ratio_high",
]  # fmt: skip


def largest_batches(found: Summary) -> pd.DataFrame:
    """The largest batch size that ended ok, per model and context that had several.

    ``stopped_at`` is the smallest larger batch size that failed, ``stopped_by`` its status; both
    are missing where the largest tried fits. A smaller one that failed, as by a timeout, stops
    nothing: a larger one is known to fit.

    Returns:
        Besides the throughput there, tokens a second of all sequences (of decoding, or of training
        steps), ``low`` and ``high``; ``ratio``: the subject's over the row's, each at its own
        largest batch, paired by block, with ``ratio_low`` and ``ratio_high``.
    """
    rows = []
    along = found.statuses[axes.is_plain(found.points, found.statuses)]
    for model, seq_len in itertools.product(found.models, sorted(along["seq_len"].unique())):
        at = (along["model"] == model) & (along["seq_len"] == seq_len)
        own = along[at].sort_values("batch_size")
        if len(own) < 2:
            continue
        fits = own.loc[own["status"] == "ok", "batch_size"].max()
        beyond = own[own["batch_size"] > fits] if fits == fits else own
        stop = beyond.iloc[0] if len(beyond) else {}
        rows.append({
            "model": model, "seq_len": seq_len, "batch_size": fits,
            "stopped_at": stop.get("batch_size"), "stopped_by": stop.get("status"),
            "cause": stop.get("cause"), "largest_tried": own["batch_size"].max(),
        })  # fmt: skip
    rates = _rates(found.processes, rows)
    for row in rows:
        subject = rates.get((found.models[0], row["seq_len"]))
        row |= _throughput(rates[row["model"], row["seq_len"]], subject)
    counts = dict.fromkeys(("seq_len", "batch_size", "stopped_at", "largest_tried"), "Int64")
    return pd.DataFrame(rows, columns=COLUMNS).astype(counts)


def _rates(processes: pd.DataFrame, rows: Sequence[Row]) -> dict[tuple[str, int], Floats]:
    """Tokens a second in each block, NaN where there is none, by model and context."""
    times = processes[processes["metric"].isin(["tpot_s", "step_s"])]
    by_cell = in_blocks(times)
    none = np.full(times["block"].nunique(), np.nan)
    found: dict[tuple[str, int], Floats] = {}
    for row in rows:
        model, batch, rate = row["model"], row["batch_size"], none
        if not units.is_missing(batch):
            point = Point(row["seq_len"], int(batch))
            # Of training a step makes all tokens of the batch, of decoding one a sequence.
            for metric, tokens in (("tpot_s", point.batch_size), ("step_s", point.tokens)):
                if (metric, model, point.id) in by_cell:
                    rate = tokens / by_cell[metric, model, point.id]
        found[model, row["seq_len"]] = rate
    return found


def _throughput(own: Floats, subject: Floats | None) -> Row:
    """The centre of the blocks' rates, and the subject's over them."""
    rate = intervals.estimate(own)
    ratio = intervals.ratio(own * np.nan if subject is None else subject, own)
    return {
        "tokens_per_s": rate.value, "low": rate.low, "high": rate.high,
        "ratio": ratio.value, "ratio_low": ratio.low, "ratio_high": ratio.high,
    }  # fmt: skip
