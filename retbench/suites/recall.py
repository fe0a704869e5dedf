"""The recall suite: what a model can read back exactly, and what that costs in state.

A model that carries a state of constant size cannot hold everything it has read; one that caches
every token can. A layer of a RetNet keeps 2 d d_k numbers, one of a Transformer 2 d for each token:
as many at T = d_k tokens, and from there on RetNet's budget is the smaller, by d_k / T. So the
regime is capacity, not time: what decides is the load over the state. Each task is trained from
scratch, at one length with mixed loads, and tested over lengths, those beyond the training's
included, and over loads. Where attention wins, this shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.config import ModelConfig
from retbench.config import values as value
from retbench.config.plan import Point
from retbench.config.settings import changed, setting
from retbench.data import recall as tasks
from retbench.errors import Misfit, UserError
from retbench.suites.quality import Coordinate, QualityConfig, QualitySuite

TEST_SEQUENCES = 128


@dataclass(frozen=True, kw_only=True)
class RecallConfig(QualityConfig):
    """What a model reads back exactly, and what that costs in state."""

    suite = "recall"
    tasks: tuple[str, ...] = setting(
        value.SomeOf(tuple(tasks.TASKS), "task"), "Tasks, each trained by itself.",
        default=("mqar", "copy", "needle"),
    )  # fmt: skip
    preset: str = changed(QualityConfig, "preset", default="tiny")
    context: tuple[int, ...] = changed(QualityConfig, "context", cpu=(16,), cuda=(256,))
    batch: tuple[int, ...] = changed(QualityConfig, "batch", cpu=(64,), cuda=(256,))
    steps: int = changed(QualityConfig, "steps", cpu=1600, cuda=10_000)
    learning_rates: tuple[float, ...] = changed(
        QualityConfig, "learning_rates", cpu=(1e-3, 2e-3, 4e-3, 8e-3), cuda=(5e-4, 1e-3, 2e-3, 4e-3)
    )

    def steps_at(self, point: Point) -> int:
        """All of the run's for the hardest task, a share of them for one that is learned sooner."""
        return max(1, round(self.steps * tasks.TASKS[str(point.setting("task"))].share))


class RecallSuite(QualitySuite[RecallConfig]):
    """Synthetic recall tasks."""

    config = RecallConfig
    measurer = "retbench.suites.recall_cell:RecallMeasurer"

    def data(self, config: RecallConfig) -> dict[str, Any]:
        """The tasks are made as they are needed; what they are is kept with the run."""
        return {
            "tasks": {
                name: {"chance": task.chance, "loads": list(task.loads)}
                for name, task in ((name, tasks.TASKS[name]) for name in config.tasks)
            },
            "vocab_size": tasks.VOCAB_SIZE,
            "sequences": TEST_SEQUENCES,
        }

    def model_options(self, config: RecallConfig) -> dict[str, Any]:
        """The tasks' vocabulary."""
        return {"vocab_size": tasks.VOCAB_SIZE}

    def coordinates(self, config: RecallConfig) -> list[Coordinate]:
        """Every task is trained and tuned by itself."""
        return [(("task", name),) for name in config.tasks]

    def check(self, config: RecallConfig, models: Mapping[str, ModelConfig]) -> None:
        """Check as any such suite does; a context that each task fits into."""
        super().check(config, models)
        for name in config.tasks:
            try:
                source(config, name, 0)
            except UserError as problem:
                raise Misfit(problem.message, problem.hint, keys=("context",)) from None


SUITE = RecallSuite()


def source(config: RecallConfig, name: str, seed: int) -> tasks.RecallBatches:
    """Training batches of a task, by its name.

    Raises:
        UserError: the context is too short for the task.
    """
    return tasks.RecallBatches(tasks.TASKS[name], config.batch[0], config.context[0], seed)
