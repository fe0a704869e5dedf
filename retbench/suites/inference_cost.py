"""How long the cells of the inference suite take and how much memory they need, before they run.

A rough model, good to a factor of about two: prefill is bound by the matmul rate or by memory
bandwidth, a decode step by the bytes it must move or by its FLOPs, and everything by the caps of
the profile. No number of this module enters a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from models.config import ModelConfig
from retbench.config.plan import Point
from retbench.config.run import DTYPE_BYTES, PROFILES
from retbench.suites import bounds
from retbench.suites.limits import PREFILL_TOKENS, SLICE_S

if TYPE_CHECKING:
    from retbench.suites.inference import InferenceConfig

# Host work of one layer in one step: dispatch on a CPU, a launch (or its replay) on a GPU.
_LAYER_OVERHEAD_S = {
    "eager": {"cpu": 1e-4, "cuda": 3e-4},
    "compile": {"cpu": 4e-5, "cuda": 1e-4},
    "cudagraph": {"cpu": 0.0, "cuda": 2e-5},
    "compile-cudagraph": {"cpu": 0.0, "cuda": 1e-5},
}
# A worker's imports, gate and first calls; compilation comes on top, once a process.
_COMPILE_S = {"eager": 0.0, "compile": 45.0, "cudagraph": 2.0, "compile-cudagraph": 47.0}


@dataclass(frozen=True)
class InferenceCost:
    """What prefill and decode need of one machine."""

    config: InferenceConfig
    ceilings: Mapping[str, Any] | None

    @property
    def _dtype_bytes(self) -> int:
        return DTYPE_BYTES[self.config.dtype]

    def process_s(self, model: ModelConfig) -> float:
        """Seconds until the first cell: imports, compilation, weights."""
        weights = model.weight_bytes(self._dtype_bytes)
        return bounds.start_s(weights, self.config.device) + _COMPILE_S[self.config.mode]

    def cell_s(self, model: ModelConfig, point: Point) -> float:
        """Seconds of the first calls, and of warm-up and rounds of all phases."""
        prefill_s = self._prefill_s(model, point)
        step_s = self._step_s(model, point)
        # The first calls, and those that memory is read from.
        once_s = prefill_s + (1 + self.config.new_tokens) * step_s
        profile = PROFILES[self.config.profile]
        phases = (prefill_s, max(2 * step_s, SLICE_S), 8 * step_s)
        return once_s + sum(bounds.phase_s(slice_s, profile) for slice_s in phases)

    def memory_bytes(self, model: ModelConfig, point: Point) -> int:
        """Weights, state, logits and the activations of a prefill."""
        capacity = point.seq_len + self.config.new_tokens
        state = model.state_bytes(point.batch_size, capacity, self._dtype_bytes)
        weights = model.weight_bytes(self._dtype_bytes)
        logits = point.batch_size * model.vocab_size * self._dtype_bytes
        return weights + state + logits + self._activation_bytes(model, point)

    def _prefill_s(self, model: ModelConfig, point: Point) -> float:
        flops = model.hardware_flops_per_token(point.seq_len, "prefill") * point.tokens
        moved = model.weight_bytes(self._dtype_bytes) + 2 * self._activation_bytes(model, point)
        return self._bound_s(flops, moved) + self._overhead_s(model)

    def _step_s(self, model: ModelConfig, point: Point) -> float:
        flops = model.flops_per_token(point.seq_len, "decode") * point.batch_size
        moved = model.decode_bytes(point.batch_size, point.seq_len, self._dtype_bytes)
        return self._bound_s(flops, moved) + self._overhead_s(model)

    def _bound_s(self, flops: float, moved_bytes: float) -> float:
        compute_s = bounds.compute_s(flops, self.config.dtype, self.config.device, self.ceilings)
        return max(compute_s, bounds.memory_s(moved_bytes, self.config.device, self.ceilings))

    def _overhead_s(self, model: ModelConfig) -> float:
        return model.n_layers * _LAYER_OVERHEAD_S[self.config.mode][self.config.device]

    def _activation_bytes(self, model: ModelConfig, point: Point) -> int:
        """Live activations of one layer at once: residual, mixer (RetNet's 8 d), feed-forward."""
        width = 8 * model.d_model + model.d_ff
        tokens = min(point.tokens, max(point.seq_len, PREFILL_TOKENS))
        return tokens * width * self._dtype_bytes
