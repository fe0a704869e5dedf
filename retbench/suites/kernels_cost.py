"""How long the cells of the kernels suite take and how much memory they need, before they run.

A rough model, good to a factor of about two for the fused operations; no number of it enters a
table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from retbench.config.plan import Point
from retbench.config.run import PROFILES, RunConfig
from retbench.suites import bounds

if TYPE_CHECKING:
    from retbench.suites.kernels_shapes import Size

_CALL_S = {"cpu": 1e-4, "cuda": 1e-4}  # host work of one call
_TOKEN_S = {"cpu": 4e-5, "cuda": 5e-5}  # of one token of a recurrence
_COMPILE_S = {"cpu": 20.0, "cuda": 5.0}  # inductor keeps on disk what an earlier block compiled
_SCORES_KEPT = {"forward": 3, "train": 5}
_CELL_S = 0.4  # of any cell: the exact rows, and giving memory back before the clock runs
_GATE_CALLS = 3  # the first, the one that is checked, the one that finds how long it takes


@dataclass(frozen=True)
class KernelsCost:
    """What operations need of one machine."""

    config: RunConfig
    ceilings: Mapping[str, Any] | None

    def process_s(self, size: Size) -> float:
        """Seconds until the first cell: imports, and the check of a small case."""
        return bounds.start_s(0, self.config.device) + self._compile_s(size)

    def cell_s(self, size: Size, point: Point) -> float:
        """Seconds of the check, the warm-up and the trials; none where it is too long for them."""
        if size.operation.recurrent and size.operation.unsupported(size.case):
            return 0.0
        call_s = self._call_s(size, point)
        timed_s = bounds.phase_s(call_s, PROFILES[self.config.profile])
        return _CELL_S + self._compile_s(size) + _GATE_CALLS * call_s + timed_s

    def memory_bytes(self, size: Size, point: Point) -> int:
        """Inputs, outputs, gradients, and the scores of an operation that keeps them."""
        return size.case.moved_bytes + self._score_bytes(size)

    def _call_s(self, size: Size, point: Point) -> float:
        case, device = size.case, self.config.device
        dtype = str(point.setting("dtype"))
        compute_s = bounds.compute_s(case.flops, dtype, device, self.ceilings)
        moved = case.moved_bytes + 2 * self._score_bytes(size)
        call_s = max(compute_s, bounds.memory_s(moved, device, self.ceilings)) + _CALL_S[device]
        if size.operation.recurrent:
            call_s += case.time * _TOKEN_S[device] * (3 if case.direction == "train" else 1)
        return call_s

    def _score_bytes(self, size: Size) -> int:
        if size.operation.memory != "quadratic":
            return 0
        case = size.case
        pairs = case.batch * case.heads * case.time**2
        return _SCORES_KEPT[case.direction] * pairs * max(4, case.dtype.itemsize)

    def _compile_s(self, size: Size) -> float:
        return _COMPILE_S[self.config.device] if size.operation.compiles else 0.0
