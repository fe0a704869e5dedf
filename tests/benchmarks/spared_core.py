"""What a spared core is worth: audits on all cores and on all but one, beside a neighbour or not.

    python tests/benchmarks/spared_core.py results/spared-core.csv [MINUTES]

Each of the four is an audit of so many minutes (1.5 by default), a model against itself. Columns:
threads, neighbour (share of a core that another process keeps busy), metric, block, rounds, ratio
(of equals, by the centre that a run takes of its rounds).
"""

import csv
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from retbench import open_run
from retbench.machine.host import physical_cores
from retbench.stats.comparison import paired_centre

NEIGHBOUR = Path(__file__).parent / "neighbour.py"
METRICS = ("tpot_s", "mean_tpot_s", "ttft_s")


def main(out: Path, minutes: str) -> None:
    """Audit in the four ways and write the table."""
    rows = []
    for share in ("0", "0.5"):
        busy = subprocess.Popen([sys.executable, str(NEIGHBOUR), share]) if share != "0" else None
        try:
            for threads in (physical_cores(), physical_cores() - 1):
                rows += [(threads, share, *row) for row in _ratios(threads, minutes)]
        finally:
            if busy is not None:
                busy.kill()
    with out.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("threads", "neighbour", "metric", "block", "rounds", "ratio"))
        writer.writerows(rows)


def _ratios(threads: int, minutes: str) -> list[tuple[str, int, int, float]]:
    """Metric, block, rounds and the ratio of equals, of one audit."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "retbench", "audit", "--quiet", "--out", str(run)]
        command += ["--threads", str(threads), "--minutes", minutes]
        subprocess.run(command, check=True)
        frame = open_run(run).frame()
    timed = frame[frame["metric"].isin(METRICS) & frame["model"].isin(["A", "B"])]
    table = timed.pivot_table(
        index=["metric", "block", "trial"], columns="model", values="value", observed=True
    ).dropna()
    logs = np.log(table["A"] / table["B"])
    return [
        (str(metric), int(block), len(own), float(np.exp(paired_centre(own.to_numpy()))))
        for (metric, block), own in logs.groupby(["metric", "block"], observed=True)
    ]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "1.5")
