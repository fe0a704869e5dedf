"""How long the cells of a training suite take and how much memory they need, before they run.

Good to a factor of about two: the FLOPs of forward and backward at a share of the matmul rate, the
host's work of each step, and the tests that follow a final training. No number of this module
enters a table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from models.config import ModelConfig
from retbench.config.plan import Point
from retbench.config.run import DTYPE_BYTES, ModelsConfig
from retbench.suites import bounds

# Host work of one layer in forward, backward and optimizer: dispatch or kernel launches.
_LAYER_STEP_S = {"eager": {"cpu": 1.5e-3, "cuda": 1.5e-3}, "compile": {"cpu": 1e-3, "cuda": 5e-4}}
_COMPILE_S = {"eager": 0.0, "compile": 90.0}
# Estimates on the dev split on the way, and the tests of a final model, over the training's time.
_DEV_SHARE = 0.1
_TEST_SHARE = 0.3
_OPTIMIZER_COPIES = 4  # the weights, their gradients and AdamW's two moments, all float32


@dataclass(frozen=True)
class QualityCost:
    """What trainings need of one machine; ``steps`` says how many a point's have."""

    config: ModelsConfig
    ceilings: Mapping[str, Any] | None
    steps: Callable[[Point], int]

    def process_s(self, model: ModelConfig) -> float:
        """Seconds until the first cell: imports, the text, the weights."""
        return bounds.start_s(model.weight_bytes(4), self.config.device)

    def cell_s(self, model: ModelConfig, point: Point) -> float:
        """Seconds of one training and what is tested after it."""
        share = 1 + _DEV_SHARE + (0.0 if point.once else _TEST_SHARE)
        trained_s = self.steps(point) * self.step_s(model, point)
        return _COMPILE_S[self.config.mode] + trained_s * share

    def step_s(self, model: ModelConfig, point: Point) -> float:
        """Seconds of one optimizer step."""
        computed_s = bounds.compute_s(
            model.hardware_flops_per_token(point.seq_len, "train") * point.tokens,
            self.config.dtype, self.config.device, self.ceilings,
        )  # fmt: skip
        return computed_s + model.n_layers * _LAYER_STEP_S[self.config.mode][self.config.device]

    def memory_bytes(self, model: ModelConfig, point: Point) -> int:
        """Weights, gradients, moments, the activations kept for the backward, and the logits."""
        # Of one token in one layer: residual, norms, mixer (RetNet's 8 d) and feed-forward.
        kept = model.n_layers * (16 * model.d_model + 2 * model.d_ff)
        activations = point.tokens * kept * DTYPE_BYTES[self.config.dtype]
        logits = 3 * point.tokens * model.vocab_size * 4
        return _OPTIMIZER_COPIES * model.weight_bytes(4) + activations + logits
