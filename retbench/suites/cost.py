"""What cells are likely to need of a machine, in seconds and bytes: what forecasts are made of.

Rough models, good to a factor of about two: FLOPs at a share of the matmul rate or bytes at one of
the bandwidth, the host's work beside them, and everything by the caps of the profile. Each suite
has its own beside its settings. No number of them enters a table.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from models.config import ModelConfig
from retbench.config.plan import Point
from retbench.config.run import DTYPE_BYTES, PROFILES
from retbench.machine import ceilings as ceiling
from retbench.machine.ceilings import Ceilings

# For a machine that was not measured; only proportions between cells matter then.
_NOMINAL_BANDWIDTH = {"cpu": 1e10, "cuda": 2e12}
_NOMINAL_MATMUL_RATE = {"cpu": 1e11, "cuda": 3e14}

# What a forward reaches of the best matmul rate, and a decode step of the bandwidth.
_MATMUL_EFFICIENCY = 0.4
_BANDWIDTH_EFFICIENCY = 0.45

_PROCESS_S = 4.0
_SETTLED_TRIALS = 6
_INITIALISED_BYTES_PER_S = {"cpu": 5e8, "cuda": 2e10}

# Host work of one layer in forward, backward and optimizer: dispatch or kernel launches.
_LAYER_STEP_S = {"eager": {"cpu": 1.5e-3, "cuda": 1.5e-3}, "compile": {"cpu": 1e-3, "cuda": 5e-4}}
_OPTIMIZER_COPIES = 4  # the weights, their gradients and AdamW's two moments, all float32


@dataclass(frozen=True)
class Cost(ABC):
    """What a suite's cells are expected to need of one machine.

    ``size`` is what the suite's own ``size`` gives: for most a model's configuration.

    Attributes:
        config: the run's configuration, of its suite's own class.
        ceilings: the machine's; nominal ones where None.
    """

    config: Any
    ceilings: Ceilings

    @abstractmethod
    def process_s(self, size: Any, /) -> float:
        """Seconds from the start of a worker until its first cell."""

    @abstractmethod
    def cell_s(self, size: Any, point: Point, /) -> float:
        """Seconds of a cell in one process."""

    @abstractmethod
    def memory_bytes(self, size: Any, point: Point, /) -> int:
        """Memory of a cell at its peak."""

    @property
    def dtype_bytes(self) -> int:
        """Bytes of a number in the run's type."""
        return DTYPE_BYTES[self.config.dtype]

    def compute_s(self, flops: float, dtype: str) -> float:
        """Seconds that so many FLOPs are likely to take."""
        rate = ceiling.matmul_rate(self.ceilings, dtype) or _NOMINAL_MATMUL_RATE[self.config.device]
        return flops / rate / _MATMUL_EFFICIENCY

    def roofline_s(self, flops: float, moved_bytes: float, dtype: str) -> float:
        """Seconds of what must compute and move so much: of the two that which takes longer."""
        nominal = _NOMINAL_BANDWIDTH[self.config.device]
        bandwidth = ceiling.bandwidth_at(self.ceilings, moved_bytes) or nominal
        return max(self.compute_s(flops, dtype), moved_bytes / bandwidth / _BANDWIDTH_EFFICIENCY)

    def start_s(self, weight_bytes: float) -> float:
        """Seconds that a worker takes over its imports and over initialising a model."""
        return _PROCESS_S + weight_bytes / _INITIALISED_BYTES_PER_S[self.config.device]

    def phase_s(self, slice_s: float) -> float:
        """Seconds that warm-up and rounds of one phase take a contender, under the profile's caps.

        A long slice warms itself: as many run as begin within half the cap, none if it exceeds
        that. A short one repeats until two windows are alike, six trials if the machine is calm.

        Args:
            slice_s: seconds of one slice, with what wakes the processor before it.
        """
        profile = PROFILES[self.config.profile]
        budget_s = profile.phase_budget_s
        fewest = max(profile.warmup, _SETTLED_TRIALS)
        if slice_s > budget_s / 6:
            fewest = math.ceil(budget_s / 2 / slice_s)
        fewest = 0 if slice_s > budget_s / 2 else fewest
        rounds = max(profile.min_rounds, min(profile.rounds, math.floor(budget_s / slice_s)))
        return (fewest + rounds) * slice_s


class TrainingCost(Cost):
    """What suites need that train: FLOPs of forward and backward, and the host's work of a step."""

    def step_s(self, model: ModelConfig, point: Point) -> float:
        """Seconds of one optimizer step."""
        flops = model.hardware_flops_per_token(point.seq_len, "train") * point.tokens
        host_s = model.n_layers * _LAYER_STEP_S[self.config.mode][self.config.device]
        return self.compute_s(flops, self.config.dtype) + host_s

    def memory_bytes(self, model: ModelConfig, point: Point, /) -> int:
        """Weights, gradients, moments, the activations kept for the backward, and the logits."""
        # Of one token in one layer: residual, norms, mixer (RetNet's 8 d) and feed-forward.
        kept = model.n_layers * (16 * model.d_model + 2 * model.d_ff)
        activations = point.tokens * kept * self.dtype_bytes
        logits = 3 * point.tokens * model.vocab_size * 4
        return _OPTIMIZER_COPIES * model.weight_bytes(4) + activations + logits
