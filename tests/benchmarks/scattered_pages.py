"""What scattered pages cost: the same runs with and without them, and blocks of memory read.

    export NUMPY_MADVISE_HUGEPAGE=0
    python tests/benchmarks/scattered_pages.py results/scattered-pages.csv results/page-reads.csv

The free memory is first scattered, as days of use do: a process takes a quarter of it, and gives
back every other page. Then 64 MiB after 64 MiB are taken, as the kernel gives them, until half of
what is available is held, and each is read twice: columns block, pass, ms (the fastest of three).
Then a RetNet is compared with both Transformers at 2,048 tokens in runs of three blocks, by turns
with the scattered pages held, as a run does, and without: columns pages, run, metric, baseline,
block, round, log_ratio. What follows is printed: the standard deviation of a pair of slices within
blocks, and of a block's centre.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from retbench import open_run
from retbench.machine.memory import available_memory_bytes
from retbench.stats.comparison import paired_centre

RUNS = 2
BLOCK_BYTES = 2**26
METRICS = ("tpot_s", "mean_tpot_s", "ttft_s")
WAYS = {"as they come": "pages.MOST_BYTES = 0; ", "scattered ones held": ""}
COLUMNS = ["pages", "run", "metric", "baseline", "block", "round", "log_ratio"]
SCATTER = """
import mmap, sys, time
size, page = int(sys.argv[1]) // 2**21 * 2**21, mmap.PAGESIZE
block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
block.madvise(mmap.MADV_NOHUGEPAGE)
for at in range(0, size, page):
    block[at] = 1
for at in range(0, size, 2 * page):
    block.madvise(mmap.MADV_DONTNEED, at, page)
print("scattered", flush=True)
time.sleep(10**6)
"""
PROGRAM = "from retbench.machine import pages; {}from retbench.cli.app import main; main()"


def main(pairs: Path, reads: Path) -> None:
    """Scatter memory, read it, make the runs, write both tables, and print what follows."""
    size = (available_memory_bytes() or 2**32) // 4
    command = [sys.executable, "-c", SCATTER, str(size)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as scatterer:
        assert scatterer.stdout is not None
        scatterer.stdout.readline()
        try:
            table = _reads((available_memory_bytes() or 2**32) // 2 // BLOCK_BYTES)
            found = pd.concat(_ratios(way, run) for run in range(RUNS) for way in WAYS)
        finally:
            scatterer.kill()
    table.to_csv(reads, index=False, float_format="%.4g")
    print(table.groupby("pass")["ms"].describe().to_string())
    found[COLUMNS].to_csv(pairs, index=False, float_format="%.5g")
    print(found.groupby(["pages", "metric"])[COLUMNS].apply(_spread).to_string())


def _reads(count: int) -> pd.DataFrame:
    blocks = [np.ones(BLOCK_BYTES // 4, dtype=np.float32) for _ in range(count)]
    rows = [(i, again, _read_ms(block)) for again in (0, 1) for i, block in enumerate(blocks)]
    return pd.DataFrame(rows, columns=["block", "pass", "ms"])


def _read_ms(block: np.ndarray) -> float:
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        block.sum()
        times.append(time.perf_counter() - begun)
    return min(times) * 1e3


def _ratios(way: str, number: int) -> pd.DataFrame:
    """The log ratio of each round of one run."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-c", PROGRAM.format(WAYS[way]), "run", "--suite", "inference"]
        command += ["--context", "2048", "--minutes", "0", "--quiet", "--out", str(run)]
        subprocess.run(command, check=True)
        frame = open_run(run).frame()
    timed = frame[frame["metric"].isin(METRICS)].astype({"metric": str, "model": str})
    timed = timed.rename(columns={"trial": "round"})
    index = ["metric", "block", "round"]
    logs = np.log(timed.pivot_table(index=index, columns="model", values="value"))
    against = logs.drop(columns="retnet").rsub(logs["retnet"], axis=0)
    long = against.stack().rename("log_ratio").rename_axis([*index, "baseline"]).reset_index()
    return long.assign(pages=way, run=number)


def _spread(own: pd.DataFrame) -> pd.Series:
    rows = own.groupby(["run", "baseline"])
    pair = rows.apply(lambda row: row.groupby("block")["log_ratio"].var().mean())
    centres = own.groupby(["run", "baseline", "block"])["log_ratio"].apply(paired_centre)
    block = centres.groupby(["run", "baseline"]).var()
    return pd.Series({"pair": np.sqrt(pair.mean()), "block": np.sqrt(block.mean())})


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
