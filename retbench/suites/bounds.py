"""What a machine is likely to need for some FLOPs or bytes: what forecasts are made of.

No number of this module enters a table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from retbench.config.run import Profile
from retbench.machine import ceilings as ceiling

# For a machine that was not measured; only proportions between cells matter then.
_NOMINAL_BANDWIDTH = {"cpu": 1e10, "cuda": 2e12}
_NOMINAL_MATMUL_RATE = {"cpu": 1e11, "cuda": 3e14}

# What a forward reaches of the best matmul rate, and a decode step of the bandwidth.
_MATMUL_EFFICIENCY = 0.4
_BANDWIDTH_EFFICIENCY = 0.45

_PROCESS_S = 4.0
_SETTLED_TRIALS = 6
_INITIALISED_BYTES_PER_S = {"cpu": 5e8, "cuda": 2e10}


def compute_s(flops: float, dtype: str, device: str, ceilings: Mapping[str, Any] | None) -> float:
    """Seconds that so many FLOPs are likely to take; a nominal rate where none was measured."""
    rate = ceiling.matmul_rate(ceilings, dtype) or _NOMINAL_MATMUL_RATE[device]
    return flops / rate / _MATMUL_EFFICIENCY


def memory_s(moved_bytes: float, device: str, ceilings: Mapping[str, Any] | None) -> float:
    """Seconds that moving so many bytes is likely to take."""
    bandwidth = ceiling.bandwidth_at(ceilings, moved_bytes) or _NOMINAL_BANDWIDTH[device]
    return moved_bytes / bandwidth / _BANDWIDTH_EFFICIENCY


def start_s(weight_bytes: float, device: str) -> float:
    """Seconds that a worker takes over its imports and over initialising a model."""
    return _PROCESS_S + weight_bytes / _INITIALISED_BYTES_PER_S[device]


def phase_s(slice_s: float, profile: Profile) -> float:
    """Seconds that warm-up and rounds of one phase take a contender, under the profile's caps.

    A long slice warms itself: as many run as begin within half the cap, none if it exceeds that. A
    short one repeats until two windows are alike, six trials if the machine is calm.

    Args:
        slice_s: seconds of one slice, with what wakes the processor before it.
        profile: the run's profile.
    """
    budget_s = profile.phase_budget_s
    is_long = slice_s > budget_s / 6
    fewest = math.ceil(budget_s / 2 / slice_s) if is_long else max(profile.warmup, _SETTLED_TRIALS)
    fewest = 0 if slice_s > budget_s / 2 else fewest
    rounds = max(profile.min_rounds, min(profile.rounds, math.floor(budget_s / slice_s)))
    return (fewest + rounds) * slice_s
