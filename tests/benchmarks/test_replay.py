"""Replays recorded noise: which centre of a block's paired log ratios varies least between blocks.

The recordings are in ``results/``: audits, a model against itself, made with ``retbench audit --out
results/NAME-audit``; a longer one by its rounds; and RetNet against both Transformers, with another
process beside them that keeps half a core busy, and without.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from retbench.stats.comparison import paired_centre
from retbench.store import open_run

RESULTS = Path(__file__).parents[2] / "results"
RECORDINGS = sorted(path.parent for path in RESULTS.glob("*-audit*/run.json"))
METRICS = ("tpot_s", "mean_tpot_s", "ttft_s")

Floats = NDArray[np.float64]


def trimmed_mean(logs: Floats, share: float = 0.2) -> float:
    """The mean without a fifth at each end."""
    cut = int(len(logs) * share)
    return float(np.sort(logs)[cut : len(logs) - cut].mean())


CENTRES: dict[str, Callable[[Floats], float]] = {
    "median": lambda logs: float(np.median(logs)),
    "trimmed mean": trimmed_mean,
    "mean": lambda logs: float(np.mean(logs)),
    "paired_centre": paired_centre,
}


def paired_logs(recording: Path) -> pd.Series:
    """Log ratios A / B by metric, point, block and round."""
    frame = open_run(recording).frame()
    timed = frame[frame["metric"].isin(METRICS)]
    keys = ["metric", "point", "block", "trial"]
    wide = timed.pivot_table(index=keys, columns="model", values="value")
    return np.log(wide["A"] / wide["B"]).dropna()


def tables() -> dict[str, pd.Series]:
    """The same of what is kept as tables of rounds, by what was recorded."""
    audit, others = (pd.read_csv(RESULTS / f"{name}.csv") for name in ("audit-report", "same-core"))
    equals = audit[audit["against"] == "B"].assign(point=audit["context"])
    others = others[others["workers"] == "the same core"]
    others = others.assign(point=others["run"].astype(str) + others["baseline"])
    found = {"a model against itself": equals}
    for share, own in others.groupby("neighbour"):
        found[f"against others, {share:g} cores busy beside"] = own
    keys = ["metric", "point", "block", "round"]
    return {name: table.set_index(keys)["log_ratio"] for name, table in found.items()}


def block_deviation(logs: pd.Series, centre: Callable[[Floats], float]) -> pd.Series:
    """By metric and point the standard deviation over blocks of their centres."""
    keys = ["metric", "point", "block"]
    blocks = logs.groupby(level=keys).apply(lambda group: centre(group.to_numpy()))
    return blocks.groupby(level=["metric", "point"]).std()


def unpaired_deviation(recording: Path) -> pd.Series:
    """The same of the ratio of the processes' medians, without pairs."""
    frame = open_run(recording).frame()
    timed = frame[frame["metric"].isin(METRICS)]
    medians = timed.groupby(["metric", "point", "block", "model"])["value"].median()
    wide = medians.unstack("model")
    return np.log(wide["A"] / wide["B"]).groupby(level=["metric", "point"]).std()


def compared(name: str, logs: pd.Series, **further: pd.Series) -> None:
    """Print a recording's table, and require that the centre that is used is among the best."""
    found = pd.DataFrame(
        {kind: block_deviation(logs, centre) for kind, centre in CENTRES.items()} | further
    )
    by_metric = found.pow(2).groupby(level="metric").mean().pow(0.5)
    print(f"\n{name}: sd of a block's log ratio\n{by_metric.map('{:.2%}'.format).to_string()}")
    mean = found.mean()
    assert mean["paired_centre"] <= 1.15 * mean[list(CENTRES)].min()


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.name)
def test_the_centre_that_is_used_is_as_good_as_the_best(recording: Path) -> None:
    unpaired = {"unpaired medians": unpaired_deviation(recording)}
    compared(recording.name, paired_logs(recording), **unpaired)


def test_so_it_is_of_longer_recordings_with_and_without_a_neighbour() -> None:
    for name, logs in tables().items():
        compared(name, logs)
