"""How long a run will take and how much memory its cells need, before and while it runs.

A rough model, good to a factor of about two: prefill is bound by the matmul rate or by memory
bandwidth, a decode step by the bytes it must move or by its FLOPs, and everything by the caps of
the profile. While a run goes on, :class:`TimeLeft` replaces it by what was observed, cell by cell.
No number of this module enters a table.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from retbench.config import PROFILES, Profile, RunConfig
from retbench.configcheck import model_configs
from retbench.measure import ceilings as ceiling
from retbench.plan import Contender, Plan, Point
from retbench.suites.base import PREFILL_TOKENS

if TYPE_CHECKING:
    from models.config import ModelConfig

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}

# For a machine that was not measured; only proportions between cells matter then.
_NOMINAL_BANDWIDTH = {"cpu": 1e10, "cuda": 2e12}
_NOMINAL_MATMUL_RATE = {"cpu": 1e11, "cuda": 3e14}

# What a forward reaches of the best matmul rate, and a decode step of the bandwidth.
_MATMUL_EFFICIENCY = 0.4
_BANDWIDTH_EFFICIENCY = 0.45
# Host work of one layer in one step: dispatch on a CPU, a launch (or its replay) on a GPU.
_LAYER_OVERHEAD_S = {
    "eager": {"cpu": 1e-4, "cuda": 3e-4},
    "compile": {"cpu": 4e-5, "cuda": 1e-4},
    "cudagraph": {"cpu": 0.0, "cuda": 2e-5},
}
# A worker's imports, gate and first calls; compilation comes on top, once a process.
_PROCESS_S = 4.0
_COMPILE_S = {"eager": 0.0, "compile": 45.0, "cudagraph": 2.0}
_INITIALISED_BYTES_PER_S = {"cpu": 5e8, "cuda": 2e10}
_SETTLED_TRIALS = 6


@dataclass(frozen=True)
class CellForecast:
    """What one cell is expected to need.

    Attributes:
        contender: the model.
        point: where it is measured.
        seconds: in one process, without starting it.
        memory_bytes: of weights, state and prefill activations at their peak.
    """

    contender: Contender
    point: Point
    seconds: float
    memory_bytes: int


@dataclass(frozen=True)
class Forecast:
    """What a run is expected to need.

    Attributes:
        cells: one entry per model and point, in the order of the plan.
        process_s: starting a worker of each model until its first cell, in seconds, by label.
        blocks: how often each cell is measured.
    """

    cells: tuple[CellForecast, ...]
    process_s: Mapping[str, float]
    blocks: int

    @property
    def total_s(self) -> float:
        """Wall time of the whole run, in seconds."""
        cells = sum(cell.seconds for cell in self.cells)
        return self.blocks * (cells + sum(self.process_s.values()))

    def unfit(self, available_bytes: int | None) -> list[CellForecast]:
        """The cells that need more than this memory; none where it is unknown."""
        if available_bytes is None:
            return []
        return [cell for cell in self.cells if cell.memory_bytes > available_bytes]


def forecast(config: RunConfig, plan: Plan, ceilings: Mapping[str, Any] | None = None) -> Forecast:
    """Forecast a run.

    Args:
        config: the resolved configuration.
        plan: the cells.
        ceilings: as ``retbench.measure.ceilings.measure`` gives them; nominal ones where None.
    """
    models = model_configs(config)
    costs = {c.label: _Cost(config, models[c.family], ceilings) for c in plan.contenders}
    return Forecast(
        cells=tuple(
            CellForecast(
                contender, point, costs[contender.label].cell_s(point),
                costs[contender.label].memory_bytes(point),
            )
            for contender in plan.contenders
            for point in plan.ascending()
        ),
        process_s={label: cost.process_s() for label, cost in costs.items()},
        blocks=plan.blocks,
    )  # fmt: skip


@dataclass(frozen=True)
class _Cost:
    """The cost model of one model on one machine."""

    config: RunConfig
    model: ModelConfig
    ceilings: Mapping[str, Any] | None

    @property
    def _profile(self) -> Profile:
        return PROFILES[self.config.profile]

    @property
    def _dtype_bytes(self) -> int:
        return DTYPE_BYTES[self.config.dtype]

    def process_s(self) -> float:
        weights = self.model.weight_bytes(self._dtype_bytes)
        build_s = weights / _INITIALISED_BYTES_PER_S[self.config.device]
        return _PROCESS_S + _COMPILE_S[self.config.mode] + build_s

    def cell_s(self, point: Point) -> float:
        prefill_s = self._prefill_s(point)
        steps_s = self.config.new_tokens * self._step_s(point)
        # Before the warm-up: the cold start, and a window of steps to find their length.
        once_s = prefill_s + steps_s
        return once_s + self._phase_s(prefill_s) + self._phase_s(steps_s)

    def _phase_s(self, trial_s: float) -> float:
        """Warm-up and timed trials of one phase, each under the profile's cap."""
        profile = self._profile
        budget_s = profile.phase_budget_s
        # A long trial warms itself: as many run as begin within the cap, none if it exceeds it. A
        # short one repeats until two windows are alike, six trials if the machine is calm.
        is_long = trial_s > budget_s / 3
        fewest = math.ceil(budget_s / trial_s) if is_long else max(profile.warmup, _SETTLED_TRIALS)
        fewest = 0 if trial_s > budget_s else fewest
        timed = max(profile.min_trials, min(profile.trials, math.ceil(budget_s / trial_s)))
        return (fewest + timed) * trial_s

    def _prefill_s(self, point: Point) -> float:
        flops = self.model.flops_per_token(point.seq_len, "prefill") * point.tokens
        moved = self.model.weight_bytes(self._dtype_bytes) + 2 * self._activation_bytes(point)
        return self._bound_s(flops, moved) + self._overhead_s()

    def _step_s(self, point: Point) -> float:
        flops = self.model.flops_per_token(point.seq_len, "decode") * point.batch_size
        moved = self.model.decode_bytes(point.batch_size, point.seq_len, self._dtype_bytes)
        return self._bound_s(flops, moved) + self._overhead_s()

    def _bound_s(self, flops: float, moved_bytes: float) -> float:
        device = self.config.device
        rate = ceiling.matmul_rate(self.ceilings, self.config.dtype)
        bandwidth = ceiling.bandwidth_at(self.ceilings, moved_bytes)
        compute_s = flops / (rate or _NOMINAL_MATMUL_RATE[device]) / _MATMUL_EFFICIENCY
        memory_s = moved_bytes / (bandwidth or _NOMINAL_BANDWIDTH[device]) / _BANDWIDTH_EFFICIENCY
        return max(compute_s, memory_s)

    def _overhead_s(self) -> float:
        return self.model.n_layers * _LAYER_OVERHEAD_S[self.config.mode][self.config.device]

    def _activation_bytes(self, point: Point) -> int:
        """Live activations of one layer at once: residual, mixer (RetNet's 8 d), feed-forward."""
        width = 8 * self.model.d_model + self.model.d_ff
        tokens = min(point.tokens, max(point.seq_len, PREFILL_TOKENS))
        return tokens * width * self._dtype_bytes

    def memory_bytes(self, point: Point) -> int:
        capacity = point.seq_len + self.config.new_tokens
        state = self.model.state_bytes(point.batch_size, capacity, self._dtype_bytes)
        weights = self.model.weight_bytes(self._dtype_bytes)
        logits = point.batch_size * self.model.vocab_size * self._dtype_bytes
        return weights + state + logits + self._activation_bytes(point)


@dataclass
class TimeLeft:
    """The time a run still needs: observed where a cell has been seen, else forecast and rescaled.

    Args:
        plan: the cells of the run.
        expected: its forecast.
        done: the ``(block, model, point)`` that an earlier session finished.
    """

    plan: Plan
    expected: Forecast
    done: Collection[tuple[int, str, str]] = ()
    _observed: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    _finished: set[tuple[int, str, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._finished = set(self.done)

    def observe(self, block: int, label: str, point_id: str, elapsed_s: float) -> None:
        """Take note of a finished cell and the seconds it took."""
        self._finished.add((block, label, point_id))
        self._observed.setdefault((label, point_id), []).append(elapsed_s)

    @property
    def cells_done(self) -> int:
        """Cells that are finished, of all blocks."""
        return len(self._finished)

    def seconds(self) -> float | None:
        """Seconds left; None until a cell has been observed."""
        if not self._observed:
            return None
        predicted = {(c.contender.label, c.point.id): c.seconds for c in self.expected.cells}
        scale = self._scale(predicted)
        left, workers = 0.0, set()
        for block, contender, point in self.plan.cells():
            cell = (contender.label, point.id)
            if (block, *cell) in self._finished:
                continue
            workers.add((block, contender.label))
            seen = self._observed.get(cell)
            left += sum(seen) / len(seen) if seen else scale * predicted[cell]
        return left + sum(self.expected.process_s[label] for _, label in workers)

    def _scale(self, predicted: Mapping[tuple[str, str], float]) -> float:
        """How much slower than forecast the observed cells were."""
        pairs = [(sum(seen) / len(seen), predicted[cell]) for cell, seen in self._observed.items()]
        expected = sum(seconds for _, seconds in pairs)
        return sum(seconds for seconds, _ in pairs) / expected if expected > 0 else 1.0
