"""How long the cells of the training suite take and how much memory they need, before they run.

Good to a factor of about two. No number of this module enters a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from models.config import ModelConfig
from retbench.config.plan import Point
from retbench.config.run import PROFILES
from retbench.suites import bounds
from retbench.suites.quality_cost import QualityCost

if TYPE_CHECKING:
    from retbench.suites.training import TrainingThroughputConfig

_LOADER_S = 0.5
_COMPILE_S = 60.0


@dataclass(frozen=True)
class StepCost:
    """What timed steps need of one machine, or of each process of several."""

    config: TrainingThroughputConfig
    ceilings: Mapping[str, Any] | None

    def process_s(self, model: ModelConfig) -> float:
        """Seconds until the first cell: imports, the text, the weights, the gate in float64."""
        return bounds.start_s(3 * model.weight_bytes(4), self.config.device)

    def cell_s(self, model: ModelConfig, point: Point) -> float:
        """Seconds of the first step, the warm-up, whole steps and their parts."""
        if point.setting("part") is not None:
            return _LOADER_S
        alone = point.setting("processes") is not None
        step_s = self._training.step_s(model, point if alone else self._share(point))
        compile_s = _COMPILE_S if self._mode(point) == "compile" else 0.0
        # Whole steps, then their parts; one step first, and one for the bytes that it keeps.
        phases_s = 2 * bounds.phase_s(step_s, PROFILES[self.config.profile])
        return compile_s + phases_s + 2 * step_s

    def memory_bytes(self, model: ModelConfig, point: Point) -> int:
        """Weights, gradients, moments, and the activations kept for the backward."""
        return self._training.memory_bytes(model, self._share(point))

    @property
    def _training(self) -> QualityCost:
        return QualityCost(self.config, self.ceilings, lambda point: 1)

    def _share(self, point: Point) -> Point:
        """One process's part of a step."""
        return replace(point, batch_size=max(1, point.batch_size // self.config.world_size))

    def _mode(self, point: Point) -> str:
        return str(point.setting("mode", self.config.modes[0]))
