"""What the reports on trained models share: final trainings, how they ended, losses by document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from retbench.report import units
from retbench.report.frames import Floats, Row
from retbench.stats.estimate import exp

if TYPE_CHECKING:
    from retbench.store import Run

MARGIN = 0.01  # of perplexity
CROSSED = "95% interval over seeds and documents"
PAIRED = "95% interval, paired by seed and document"


@dataclass(frozen=True)
class Tested:
    """One trained model on the test documents.

    Attributes:
        seeds: blocks that ended ok and scored every document, in the order of the rows.
        nats: summed loss of each document, shape (seeds, documents), nats.
        tokens: scored in each document, shape (documents,).
        bytes: of the text of each document, shape (documents,).
        protocol: window and stride.
    """

    seeds: tuple[int, ...]
    nats: Floats
    tokens: Floats
    bytes: Floats
    protocol: str

    @property
    def losses(self) -> Floats:
        """Summed nats over summed tokens of each seed, shape (seeds,), nats per token."""
        return np.asarray(self.nats.sum(axis=1) / self.tokens.sum(), dtype=np.float64)


Tests = Mapping[tuple[Any, ...], Tested]
"""What was tested, by its place and model."""


def difference(subject: Tested, baseline: Tested) -> Floats:
    """Differences of losses paired by seed and document, shape (seeds, documents), nats/token.

    Raises:
        ValueError: the two were not tested on the same documents, so cannot be paired.
    """
    if not np.array_equal(subject.tokens, baseline.tokens):
        raise ValueError("the models were tested on different documents")
    both = sorted(set(subject.seeds) & set(baseline.seeds))
    sides = (side.nats[[side.seeds.index(seed) for seed in both]] for side in (subject, baseline))
    above, below = sides
    return np.asarray((above - below) / subject.tokens, dtype=np.float64)


def seed_ratios(tested: Tests, place: tuple[Any, ...], row: Row) -> tuple[float, ...]:
    """The ratio of perplexities of each seed that both sides have; empty where one is missing.

    Args:
        tested: by place and model.
        place: of the ratio.
        row: of the ratio, with its ``subject`` and ``baseline``.
    """
    subject, baseline = (tested.get((*place, row[side])) for side in ("subject", "baseline"))
    if subject is None or baseline is None:
        return ()
    gaps = difference(subject, baseline) @ subject.tokens / subject.tokens.sum()
    return tuple(map(exp, gaps))


def final_point(meta: Mapping[str, Any], setting: str = "", value: str = "") -> str:
    """The id of the final trainings' point: of all, or of those with that value of a setting."""
    for point in meta["plan"]["points"]:
        own = point.get("settings", {})
        if own.get("stage") == "final" and (not setting or str(own[setting]) == value):
            return str(point["point"])
    raise LookupError(f"the plan has no final training with {setting}={value}")


def planned(run: Run, setting: str) -> tuple[str, ...]:
    """The values of a setting that the points of the plan have, in its order."""
    named = (point.setting(setting) for point in run.plan.points)
    return tuple(dict.fromkeys(str(value) for value in named if value is not None))


def final(run: Run) -> pd.DataFrame:
    """Samples of final trainings that ended ok."""
    frame = run.frame()
    keys = ["block", "model", "point"]
    ended = frame[(frame["phase"] == "cell") & (frame["status"] == "ok")]
    ok = pd.MultiIndex.from_frame(frame[keys]).isin(pd.MultiIndex.from_frame(ended[keys]))
    kept = ok & (frame["stage"] == "final") & frame["value"].notna()
    return frame[kept & (frame["phase"] != "cell")]


def endings(run: Run, models: Sequence[str], setting: str | None = None) -> pd.DataFrame:
    """How the final trainings ended: a row a model, or one for each value of a setting and model.

    Returns:
        Columns ``setting`` if there is one, model, status (``ok``, the most frequent failure, or
        ``not run``), ok_blocks, blocks and cause.
    """
    statuses = run.statuses()
    statuses = statuses[statuses["stage"] == "final"]
    rows: list[tuple[Any, ...]] = []
    for value in (None,) if setting is None else planned(run, setting):
        for model in models:
            own = statuses[statuses["model"] == model]
            if setting is not None:
                own = own[own[setting] == value]
            failed = own[own["status"] != "ok"]
            status = "ok" if failed.empty else str(failed["status"].mode().iloc[0])
            status = "not run" if own.empty else status
            cause = None if failed.empty else failed["cause"].iloc[0]
            rows.append((value, model, status, len(own) - len(failed), len(own), cause))
    columns = [setting or "", "model", "status", "ok_blocks", "blocks", "cause"]
    table = pd.DataFrame(rows, columns=columns)
    return table if setting else table.drop(columns="")


def ending(row: Mapping[str, Any]) -> str:
    """How a row of :func:`endings` ended, with the share of seeds that failed where some did."""
    return units.ending(row, "seeds")
