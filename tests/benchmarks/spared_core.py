"""What a spared core is worth: audits on all cores and on all but one, beside a neighbour or not.

    python tests/benchmarks/spared_core.py results/spared-core.csv [MINUTES]

Each of the four is an audit of so many minutes (1 by default, but at least its blocks), a model
against itself. Columns: threads, neighbour (share of a core that another process keeps busy),
metric, block, round, ratio (of the two equals' slices). What follows from them is printed: the
standard deviation of the log ratio of a pair of slices, within blocks, and of a block's centre.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from retbench import open_run
from retbench.machine.host import physical_cores
from retbench.stats.comparison import paired_centre

NEIGHBOUR = Path(__file__).parent / "neighbour.py"
METRICS = ("tpot_s", "mean_tpot_s", "ttft_s")
COLUMNS = ["threads", "neighbour", "metric", "block", "round", "ratio"]


def main(out: Path, minutes: str) -> None:
    """Audit in the four ways, write the table, and print what follows from it."""
    tables = []
    for share in ("0", "0.5"):
        busy = subprocess.Popen([sys.executable, str(NEIGHBOUR), share]) if share != "0" else None
        try:
            for threads in (physical_cores(), physical_cores() - 1):
                found = _ratios(threads, minutes)
                tables.append(found.assign(threads=threads, neighbour=share))
        finally:
            if busy is not None:
                busy.kill()
    table = pd.concat(tables)[COLUMNS]
    table.to_csv(out, index=False, float_format="%.6g")
    print(table.groupby(COLUMNS[:3])[COLUMNS].apply(_spread).to_string())


def _ratios(threads: int, minutes: str) -> pd.DataFrame:
    """The ratio of equals in each round of an audit."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "retbench", "audit", "--quiet", "--out", str(run)]
        command += ["--threads", str(threads), "--minutes", minutes]
        subprocess.run(command, check=True)
        frame = open_run(run).frame()
    timed = frame[frame["metric"].isin(METRICS) & frame["model"].isin(["A", "B"])]
    timed = timed.astype({"metric": str, "model": str}).rename(columns={"trial": "round"})
    wide = timed.pivot_table(index=["metric", "block", "round"], columns="model", values="value")
    return (wide["A"] / wide["B"]).dropna().rename("ratio").reset_index()


def _spread(own: pd.DataFrame) -> pd.Series:
    by_block = np.log(own["ratio"]).groupby(own["block"])
    return pd.Series({
        "blocks": by_block.ngroups, "rounds": round(len(own) / by_block.ngroups),
        "a pair": f"{np.sqrt(by_block.var().mean()):.1%}",
        "a block": f"{by_block.apply(paired_centre).std():.1%}",
    })  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "1")
