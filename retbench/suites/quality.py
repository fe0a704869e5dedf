"""What all suites that compare quality share: their settings, and the sweep of learning rates.

Each model is tuned alike: in the first block it is trained once at every rate of the grid, which is
the same for all models; the rate with the lowest loss on the dev split is then the one at which its
seeds are trained, one a block. Nothing that is reported comes from the tuning trainings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from models.config import ModelConfig
from retbench.config import values as value
from retbench.config.plan import Contender, Plan, Point, Setting
from retbench.config.run import PROFILES, ModelsConfig
from retbench.config.settings import changed, setting
from retbench.config.values import nearest
from retbench.errors import Misfit
from retbench.stats import tuning
from retbench.suites.base import CellFailure, Scalar, Suite, require_length
from retbench.suites.cost import TrainingCost
from retbench.training.config import DTYPE, TrainingConfig

Coordinate = tuple[tuple[str, Setting], ...]
"""The settings of a point besides its stage and rate: its preset or its task."""

TUNE, FINAL = "tune", "final"
DIVERGED = "the training diverged"
"""How a cell's cause begins whose learning rate was too large, which is known of it then."""

# What the run decides on, for all trainings alike.
_SETTLED = ("steps", "batch_size", "seq_len", "learning_rate", "seed", "dtype", "compile")

_COMPILE_S = {"eager": 0.0, "compile": 90.0}
# Estimates on the dev split on the way, and the tests of a final model, over the training's time.
_DEV_SHARE = 0.1
_TEST_SHARE = 0.3


@dataclass(frozen=True, kw_only=True)
class QualityConfig(ModelsConfig):
    """Settings of the suites whose trainings are carried through."""

    mode: str = changed(
        ModelsConfig, "mode", reader=value.OneOf(("eager", "compile"), where=" in training")
    )
    dtype: str = changed(ModelsConfig, "dtype", reader=DTYPE)
    context: tuple[int, ...] = changed(
        ModelsConfig, "context", help="Context of the training, in tokens.", metavar="LENGTH"
    )
    batch: tuple[int, ...] = changed(
        ModelsConfig, "batch", help="Sequences of an optimizer step.", metavar="SIZE"
    )
    timeout_s: float = changed(ModelsConfig, "timeout_s", default=3600.0)
    steps: int = setting(value.positive, "Optimizer steps of one training.")
    learning_rates: tuple[float, ...] = setting(
        value.ascending_floats, "Learning rates to try out, the same for all models.", flag="lr",
        metavar="RATES",
    )  # fmt: skip
    training: Mapping[str, Any] = setting(
        value.overrides, "Set a field of the training, such as weight_decay. Repeatable.",
        flag="train", metavar="KEY=VALUE", default={}, repeats=True,
    )  # fmt: skip

    def steps_at(self, point: Point) -> int:
        """Optimizer steps of a point's trainings, the same for all models."""
        return self.steps


Quality = TypeVar("Quality", bound=QualityConfig)


class QualityCost(TrainingCost):
    """What trainings, and the tests that follow a final one, need of one machine."""

    config: QualityConfig

    def process_s(self, model: ModelConfig, /) -> float:
        """Seconds until the first cell: imports, the text, the weights."""
        return self.start_s(model.weight_bytes(4))

    def cell_s(self, model: ModelConfig, point: Point, /) -> float:
        """Seconds of one training and what is tested after it."""
        share = 1 + _DEV_SHARE + (0.0 if point.once else _TEST_SHARE)
        trained_s = self.config.steps_at(point) * self.step_s(model, point)
        return _COMPILE_S[self.config.mode] + trained_s * share


class QualitySuite(Suite[Quality]):
    """A suite whose cells each train a model of their own."""

    cost = QualityCost

    def contenders(self, config: Quality) -> tuple[Contender, ...]:
        """The models of the run."""
        return tuple(Contender(name, name, config.overrides_for(name)) for name in config.models)

    def coordinates(self, config: Quality) -> list[Coordinate]:
        """What there is a sweep and a final training for: presets or tasks; once by default."""
        return [()]

    def plan(self, config: Quality) -> Plan:
        """For each coordinate every learning rate once, then a final training in every block."""
        points = []
        for coordinate in self.coordinates(config):
            points += tuning_points(config, coordinate)
            points.append(final_point(config, coordinate))
        blocks = PROFILES[config.profile].blocks
        return Plan(config.suite, self.contenders(config), tuple(points), blocks, config.seed)

    def brief(
        self, config: Quality, contender: Contender, point: Point, scalar: Scalar
    ) -> dict[str, Any]:
        """Steps and learning rate: the point's own, or for a final training the best tried.

        Raises:
            CellFailure: if no training at any rate ended well.
        """
        tried = point.setting("stage") == TUNE
        rate = point.setting("lr") if tried else best_rate(config, point, scalar)
        return {"learning_rate": rate, "steps": config.steps_at(point)}

    def check(self, config: Quality, models: Mapping[str, ModelConfig]) -> None:
        """One context, one batch size, and known settings of the training."""
        for name in ("context", "batch"):
            if len(getattr(config, name)) > 1:
                problem = f"{name}: the suite {config.suite} trains at one, not at several"
                raise Misfit(problem, "name a single one", keys=(name,))
        known = [name for name in TrainingConfig.settings() if name not in _SETTLED]
        for name in config.training:
            if name not in known:
                place = f"training.{name}"
                problem = f"train: unknown setting {name!r}"
                raise Misfit(problem, nearest(name, known), keys=(place, "training"))
        training_config(config, config.steps, config.learning_rates[0], 0)
        require_length("context", config.context[0], models)


def tuning_points(config: QualityConfig, coordinate: Coordinate) -> list[Point]:
    """A point for each learning rate, measured in the first block alone."""
    return [
        Point(
            config.context[0], config.batch[0], (*coordinate, ("stage", TUNE), ("lr", rate)),
            once=True,
        )
        for rate in config.learning_rates
    ]  # fmt: skip


def final_point(config: QualityConfig, coordinate: Coordinate) -> Point:
    """The point of the trainings that are reported."""
    return Point(config.context[0], config.batch[0], (*coordinate, ("stage", FINAL)))


def best_rate(config: QualityConfig, point: Point, scalar: Scalar) -> float:
    """The best learning rate by the final dev losses at a final point's coordinate.

    Raises:
        CellFailure: if no training at any rate ended well.
    """
    coordinate = tuple(pair for pair in point.settings if pair[0] != "stage")
    losses = {
        rate: scalar(tried.id, "final_dev_loss")
        for rate, tried in zip(
            config.learning_rates, tuning_points(config, coordinate), strict=True
        )
    }
    known = {rate: loss for rate, loss in losses.items() if loss is not None}
    if not known:
        raise CellFailure("error", "no learning rate to train at: every one that was tried failed")
    return tuning.best_rate(known)


def training_config(config: QualityConfig, steps: int, rate: float, seed: int) -> TrainingConfig:
    """How a cell's model is trained; the same for all models but for the rate.

    Raises:
        Misfit: for a setting out of its range.
    """
    return TrainingConfig(
        steps=steps,
        batch_size=config.batch[0],
        seq_len=config.context[0],
        learning_rate=float(rate),
        seed=seed,
        dtype=config.dtype,
        compile=config.mode == "compile",
        **config.training,
    )
