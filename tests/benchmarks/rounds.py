"""Every round of a run: the log ratio of its first contender's time to each other's.

    python tests/benchmarks/rounds.py RUN > results/audit-report.csv

RUN is a run whose contenders took turns; of an audit the others are its equal and its slowed copy.
"""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd

from retbench.report.compare import TIMES
from retbench.store import Run, open_run

KEYS = ["metric", "seq_len", "batch_size", "block", "trial"]


def log_ratios(run: Run) -> pd.DataFrame:
    """One row for each metric, other contender, point, block and round."""
    subject, *others = (contender.label for contender in run.plan.contenders)
    frame = run.frame()
    timed = frame[frame["metric"].isin(TIMES) & frame["trial"].notna()]
    times = timed.pivot_table(index=KEYS, columns="model", values="value", observed=True)
    found = {other: np.log(times[subject] / times[other]).dropna() for other in others}
    table = pd.concat(found, names=["against"]).rename("log_ratio").reset_index()
    named = {"seq_len": "context", "batch_size": "batch", "trial": "round"}
    return table.rename(columns=named).astype({"round": "int64"})


if __name__ == "__main__":
    log_ratios(open_run(sys.argv[1])).to_csv(sys.stdout, index=False, float_format="%.5f")
