"""Flags that follow from the samples themselves (M12): counted and shown, nothing is ever removed.

``noisy`` and ``drift`` look at the blocks' values of a cell's times, ``outliers=k`` at the samples
inside each process. What the worker flagged while it measured is kept beside them.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from retbench.config.plan import Point
from retbench.metrics import METRICS
from retbench.report import units
from retbench.report.compare import TIMES
from retbench.report.frames import Floats, arrays, column, groups, records

NOISY = 0.10  # largest relative gap between the processes of a cell
DRIFT = 0.05  # least relative change from the first block to the last
DRIFT_BLOCKS = 5  # fewer put themselves in order by chance too often
DRIFT_DEVIATIONS = 2.4  # of the trend's sign count: all of 5 blocks in order, or 36 pairs of 45
MEMORY_SPREAD = 0.01  # over processes (M14)
OUTLIER_REACH = 3.0  # interquartile ranges beyond a quartile
OUTLIER_SAMPLES = 20  # of a process; quartiles of fewer say little

MEANING = {
    "noisy": f"their processes lie more than {NOISY:.0%} apart; that concerns absolute times, not "
    "the ratios of contenders that took turns",
    "alone": "they were not measured in turns, but by themselves",
    "drift": f"their blocks moved in one direction by more than {DRIFT:.0%}",
    "unsettled": "their times still changed when warm-up gave up",
    "launch_bound": "the host was slower than the device",
    "throttled": "the device slowed itself down",
    "foreign_process": "another program was running",
    "not_finite": "a value of theirs was NaN or infinite, and is left out",
    "threads_wait": "threads waited for a core that another program held; compute on fewer "
    "(--threads), or end that program",
}

Cell = tuple[str, str]


def of_cells(times: pd.DataFrame, processes: pd.DataFrame) -> dict[Cell, list[str]]:
    """The flags of each timed cell ``(model, point)``.

    Args:
        times: the samples that count, of any metric.
        processes: one value per block, cell and metric.
    """
    found: dict[Cell, list[str]] = {}
    timed = processes[processes["metric"].isin(TIMES)].sort_values("block", kind="stable")
    for (model, point, _), group in groups(timed, ["model", "point", "metric"]):
        flags = found.setdefault((model, point), [])
        values = column(group, "value")
        for name, applies in (("noisy", is_noisy(values)), ("drift", is_drift(values))):
            if applies and name not in flags:
                flags.append(name)
    for cell, count in _outliers(times[times["metric"].isin(TIMES)]).items():
        if count:
            found.setdefault(cell, []).append(f"outliers={count}")
    return found


def is_noisy(by_block: Floats) -> bool:
    """Whether the processes of a cell lie too far apart; ``by_block`` is of shape (blocks,)."""
    return bool(by_block.max() > by_block.min() * (1 + NOISY))


def is_drift(by_block: Floats) -> bool:
    """Whether the values move in one direction over the blocks, and by enough to matter.

    The direction is Mann's and Kendall's: of all pairs of blocks, those that rise less those that
    fall, in units of its standard deviation without a trend, sqrt(n (n - 1) (2 n + 5) / 18).

    Args:
        by_block: shape (blocks,), in the order of the blocks.
    """
    n = len(by_block)
    if n < DRIFT_BLOCKS or abs(math.log(by_block[-1] / by_block[0])) <= math.log1p(DRIFT):
        return False
    rises = sum(np.sign(later - earlier) for earlier, later in itertools.combinations(by_block, 2))
    return bool(abs(rises) >= DRIFT_DEVIATIONS * math.sqrt(n * (n - 1) * (2 * n + 5) / 18))


def _outliers(times: pd.DataFrame) -> Counter[Cell]:
    """How many samples of a cell lie far outside their own process's quartiles."""
    counts: Counter[Cell] = Counter()
    by_process = arrays(times, ["model", "point", "metric", "block"], "value")
    for (model, point, _, _), samples in by_process.items():
        counts[model, point] += count_outliers(samples)
    return counts


def count_outliers(samples: Floats) -> int:
    """Samples of one process beyond :data:`OUTLIER_REACH` interquartile ranges of its quartiles."""
    if len(samples) < OUTLIER_SAMPLES:
        return 0
    lower, upper = np.percentile(samples, [25, 75])
    reach = OUTLIER_REACH * (upper - lower)
    return int(np.count_nonzero((samples < lower - reach) | (samples > upper + reach)))


def varying_memory(cells: pd.DataFrame, points: Mapping[str, Point]) -> Iterator[str]:
    """Memory figures that differ between the processes (M14)."""
    ranges = cells[(cells["method"] == "range") & (cells["spread"] > MEMORY_SPREAD)]
    if len(ranges):
        worst = max(records(ranges), key=lambda row: float(row["spread"]))
        yield (
            f"{units.counted(len(ranges), 'memory figure')} var{'y' if len(ranges) > 1 else 'ies'} "
            f"by more than {units.rough(MEMORY_SPREAD)} over processes; the worst, "
            f"{METRICS[worst['metric']].title} of {worst['model']} at "
            f"{units.place(points[worst['point']])}, by {units.rough(worst['spread'])}"
        )


def flagged(statuses: pd.DataFrame) -> Iterator[str]:
    """How many cells carry each flag, and what it means."""
    cells: Counter[str] = Counter()
    outliers: list[int] = []
    for cell in statuses["flags"]:
        for flag in filter(None, cell.split(", ")):
            name, _, count = flag.partition("=")
            if name == "outliers":
                outliers.append(int(count))
            else:
                cells[name.partition(" x")[0]] += 1
    for flag, count in sorted(cells.items()):
        meaning = f": {MEANING[flag]}" if flag in MEANING else ""
        verb = "are" if count > 1 else "is"
        yield f"{count} of {len(statuses)} cells {verb} flagged {spoken(flag)}{meaning}"
    if outliers:
        total = sum(outliers)
        yield (
            f"{units.counted(total, 'sample')} of {units.counted(len(outliers), 'cell')} "
            f"{'are outliers' if total > 1 else 'is an outlier'}, beyond {OUTLIER_REACH:g} "
            "interquartile ranges of the process's quartiles, kept and counted"
        )


def spoken(flags: str) -> str:
    """Flags as people say them: foreign process x2, threads wait."""
    return flags.replace("_", " ")
