"""The list of what a figure shows and what it leaves out, and why: one format for every suite."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from retbench.report import units
from retbench.report.figure import Figure
from retbench.report.frames import Row, records

if TYPE_CHECKING:
    from retbench.store import Run

ELSEWHERE, UNMEASURED = "not in this figure", "not measured"
_HIDDEN = ("panel", "x", "each", "row", "text", "note", "cause", "point", "model")


def sidecar(figure: Figure, ends: Sequence[Row], notes: Iterable[str]) -> dict[str, Any]:
    """What is kept beside a figure: its texts, its marks, and the cells that it does not show.

    Args:
        figure: the declaration.
        ends: of the run's cells, see :func:`cells`: each counts for each of the figure's metrics.
        notes: how to read it.

    Returns:
        ``shown`` has a row a mark, with the model and the point of its cell, and the ``subject`` of
        a ratio; ``left_out`` a row for each cell of the plan that has no mark, with the reason.
    """
    drawn = figure.data[figure.data["value"].notna()]
    kept = [str(name) for name in drawn if name not in _HIDDEN]
    shown = [
        units.plain({name: row[name] for name in ("model", "point", *kept)})
        for row in records(drawn)
    ]
    metrics = list(dict.fromkeys(drawn["metric"])) if "metric" in drawn else [None]
    present = {
        (row[side], row["point"], row.get("metric"))
        for row in records(drawn) for side in ("model", "subject") if side in row
    }  # fmt: skip
    left_out = [
        end | ({} if metric is None else {"metric": metric})
        for end in ends
        for metric in metrics or [None]
        if (end["model"], end["point"], metric) not in present or end["why"] != ELSEWHERE
    ]
    return {
        "figure": figure.name, "title": figure.title, "caption": figure.caption,
        "caveat": figure.caveat, "note": " · ".join(notes), "shown": shown, "left_out": left_out,
    }  # fmt: skip


def cells(run: Run) -> list[Row]:
    """Every cell of the plan, and how it ended: ``why`` is its status, or that it is elsewhere."""
    ended: dict[tuple[Any, Any], list[Row]] = defaultdict(list)
    for row in records(run.statuses()[["model", "point", "status", "cause"]]):
        ended[row["model"], row["point"]].append(row)
    found = []
    for contender in run.meta["plan"]["contenders"]:
        for point in run.meta["plan"]["points"]:
            at = point.get("point") or f"context={point['seq_len']},batch={point['batch_size']}"
            own = ended.get((contender["label"], at), [])
            failed = [row for row in own if row["status"] != "ok"]
            worst = Counter(row["status"] for row in failed).most_common(1)
            why = worst[0][0] if worst else ELSEWHERE if own else UNMEASURED
            causes = (row["cause"] for row in failed if not pd.isna(row["cause"]))
            found.append({
                "model": contender["label"], "point": at, "why": why,
                "cause": next(causes, None), "blocks": len(failed) or len(own),
            })  # fmt: skip
    return found
