"""Whether a run may stop: which of its ratios its report could not yet call settled."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

from retbench.report import compare, terms
from retbench.report.frames import column, records
from retbench.report.summary import reduced

if TYPE_CHECKING:
    from retbench.store import Run, RunMeta


def still_open(run: Run, alpha: float) -> list[str]:
    """Name the ratios of times that are neither decided nor as narrow as the run was asked.

    They are those that the report will show, from the same code. A ratio that a failure leaves
    without any block is not waited for.

    Args:
        run: the run so far.
        alpha: of the intervals of this look (see :func:`retbench.stats.comparison.level`).
    """
    meta = cast("RunMeta", {**run.meta, "stopped": {"alpha": alpha}})
    found = reduced(run)
    table = compare.ratios(found, meta)
    timed = table[table["metric"].isin(compare.TIMES) & (table["n"] > 0)]
    narrow = np.log(column(timed, "high") / column(timed, "low")) / 2 <= terms.narrow(meta)
    rows = timed[(timed["verdict"] == "inconclusive") & ~narrow]
    return [
        f"{row['metric']} of {row['subject']} / {row['baseline']} at {row['point']}"
        for row in records(rows)
    ]
