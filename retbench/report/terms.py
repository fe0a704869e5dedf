"""On what terms a run compares: its margin, noise floors and confidence, and whether it may claim.

All of it is read in ``run.json``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from retbench.config.run import TimedConfig
from retbench.metrics import TIMES_IN
from retbench.stats import comparison


def is_smoke(meta: Mapping[str, Any]) -> bool:
    """Whether it is a smoke run, which earns no claim (M2)."""
    return bool(meta["configuration"]["profile"] == "smoke")


def margin(meta: Mapping[str, Any]) -> float:
    """The relative difference that matters, as the run was asked."""
    return float(meta["configuration"].get("margin", TimedConfig.margin))


def narrow(meta: Mapping[str, Any]) -> float:
    """The half width of an interval of log ratios up to which a run calls a ratio known."""
    return math.log1p(float(meta["configuration"].get("precision", TimedConfig.precision)))


def floors(meta: Mapping[str, Any]) -> dict[str, float]:
    """The noise floors of the times that the run's suite compares, log ratios, by metric.

    Empty where none of them was audited, whatever is known of other suites' times.
    """
    known = (meta["audit"] or {}).get("floor", {})
    return {tag: known[tag] for tag in TIMES_IN.get(meta["suite"], ()) if tag in known}


def threshold(meta: Mapping[str, Any], metric: str) -> float:
    """The relative difference beyond which *faster* and *slower* lie: margin or floor (M11)."""
    return max(margin(meta), math.expm1(floors(meta).get(metric, 0.0)))


def was_looked_at(meta: Mapping[str, Any]) -> bool:
    """Whether a run might have ended before it did, had all been settled."""
    least = meta["plan"].get("least")
    whole = map(int, meta["block_s"])  # one that was made in two parts has no length
    return bool(meta["stopped"]) or (least is not None and max(whole, default=-1) + 1 >= least)


def alpha(meta: Mapping[str, Any]) -> float:
    """Share of a run's intervals that may miss the truth, by how often it was looked at.

    One that was interrupted has that of a last look.
    """
    if meta["stopped"]:
        return float(meta["stopped"]["alpha"])
    return comparison.LAST if was_looked_at(meta) else comparison.ALPHA
