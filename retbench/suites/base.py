"""What a suite is: its points, and what they cost. What a worker does with it is its measurer's.

Importing this module does not import torch. Of the two halves of a suite the process that plans a
run has this one alone; a :class:`retbench.suites.measurer.Measurer` is loaded by workers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from itertools import compress
from typing import Any, ClassVar, Generic, TypeVar

from models.config import ModelConfig
from models.registry import config_for
from retbench.config import plugins
from retbench.config.plan import Axis, Contender, Plan, Point
from retbench.config.run import PROFILES, RunConfig
from retbench.errors import Misfit
from retbench.metrics import Status
from retbench.suites.cost import Cost

Config = TypeVar("Config", bound=RunConfig)

Scalar = Callable[[str, str], float | None]
"""Looks up ``(point id, metric)`` among one contender's committed figures of the first block that
have one value a process; None where there is none."""


SLICE_S = 0.02
"""Seconds that a slice lasts at least, where its call is shorter and may be repeated."""


class CellFailure(Exception):
    """A cell that cannot be measured, with the status of M17 that says why."""

    def __init__(self, status: Status, cause: str) -> None:
        super().__init__(cause)
        self.status = status
        self.cause = cause


def require_close(what: str, error: float, limit: float, where: str) -> None:
    """Raise a CellFailure where a relative error is not within what is allowed; NaN is not.

    Args:
        what: is then wrong, in words.
        error: the one that was found.
        limit: the largest that is allowed.
        where: it was found, such as a type of numbers.
    """
    if not error <= limit:
        cause = f"{what}: relative error {error:.2g}, allowed {limit:.2g} in {where}"
        raise CellFailure("error", cause)


def plan_in_turns(
    config: RunConfig,
    contenders: Iterable[Contender],
    points: Iterable[Point],
    primary: Iterable[tuple[str, Point]],
) -> Plan:
    """The plan of a suite whose contenders take turns: blocks are added until all is settled.

    Args:
        config: the run's configuration.
        contenders: the subject, then the others.
        points: the sweep.
        primary: metric and point of the comparisons that the run is made for.
    """
    profile = PROFILES[config.profile]
    adds = config.minutes > 0 and config.world_size == 1
    return Plan(
        config.suite, tuple(contenders), tuple(points),
        profile.most_blocks if adds else profile.blocks, config.seed,
        least=profile.blocks if adds else None,
        primary=tuple((metric, point.id) for metric, point in primary),
    )  # fmt: skip


def swept(
    sizes: Iterable[tuple[int, int]],
    along_context: Callable[[int, int], bool],
    batch_context: int,
) -> list[Point]:
    """The points of a sweep over the context and one over the batch size, which may share some.

    Args:
        sizes: context and batch size of each point, tokens and sequences.
        along_context: whether the sweep over the context has a context and batch size.
        batch_context: the context of the sweep over the batch size, tokens.
    """
    axes: tuple[Axis, ...] = ("context", "batch")
    points = []
    for context, batch in sizes:
        on = (along_context(context, batch), context == batch_context)
        points.append(Point(context, batch, sweeps=tuple(compress(axes, on))))
    return points


def model_config(
    config: RunConfig,
    contender: Contender,
    options: Mapping[str, Any],
    point: Point | None = None,
) -> ModelConfig:
    """The configuration of a contender's model, at a point's own preset where it has one.

    Args:
        config: the run's configuration.
        contender: the contender.
        options: what the suite's :meth:`Suite.model_options` gives.
        point: the point; the run's preset counts where None.

    Raises:
        ConfigError: if there is no such family, preset or option.
    """
    preset = config.preset if point is None else str(point.setting("preset", config.preset))
    return config_for(contender.family, preset, **{**contender.options, **options})


class Suite(ABC, Generic[Config]):
    """A family of points, and what the process that plans a run knows of them.

    Attributes:
        config: the class of its configuration; the settings of a run are its fields.
        measurer: what a worker does with the suite: module and class, a colon between.
        cost: a model of what cells need, for a forecast.
        takes_turns: whether the contenders of a block are timed in turns, side by side; otherwise
            one after the other.
    """

    config: type[Config]
    measurer: ClassVar[str]
    cost: ClassVar[type[Cost]]
    takes_turns: ClassVar[bool] = False

    @abstractmethod
    def plan(self, config: Config) -> Plan:
        """Every cell of a run."""

    def data(self, config: Config) -> dict[str, Any] | None:
        """Make the data set ready before any worker starts; a worker then calls it once more.

        Returns:
            What ``run.json`` keeps of it; None where there is nothing to make ready.

        Raises:
            UserError: the text cannot be read, or is too short.
        """
        return None

    def model_options(self, config: Config) -> dict[str, Any]:
        """Overrides of every model's configuration that the data ask for, such as the vocabulary.

        Called once :meth:`data` has been.
        """
        return {}

    def compiled(self, config: Config) -> set[str]:
        """The contenders, by label, that each process compiles anew whatever the run's mode is."""
        return set()

    def size(self, config: Config, contender: Contender, point: Point | None = None) -> Any:
        """What :meth:`cost` reckons with: a model's configuration, at a point's own preset.

        Raises:
            ConfigError: if there is no such family, preset or option.
            UserError: if the data that decide on it cannot be read.
        """
        plugins.load(config.plugins)
        return model_config(config, contender, self.model_options(config), point)

    def brief(
        self, config: Config, contender: Contender, point: Point, scalar: Scalar
    ) -> dict[str, Any]:
        """What a worker must know of earlier cells to measure this one: JSON-able.

        Raises:
            CellFailure: if what it needs could not be measured.
        """
        return {}

    def check(self, config: Config, models: Mapping[str, ModelConfig]) -> None:
        """Check what only this suite asks of a configuration.

        Args:
            config: the run's configuration, its names and device known to be good.
            models: the configuration of each model, by family, at the run's preset.

        Raises:
            Misfit: for a combination that is impossible.
        """
        return None


def require_length(
    name: str, length: int, models: Mapping[str, ModelConfig], new_tokens: int = 0
) -> None:
    """Raise a Misfit where a length, of the setting ``name``, is beyond what a model can hold.

    Args:
        name: of the setting.
        length: in tokens.
        models: the configuration of each model, by family.
        new_tokens: that follow.
    """
    more = f" and {new_tokens} new tokens exceed" if new_tokens else " exceeds"
    for family, model in models.items():
        if length + new_tokens > model.max_len:
            raise Misfit(
                f"{name.replace('_', '-')} {length}{more} the {model.max_len} tokens that {family} "
                "can hold (its max_len)",
                f"shorten it or use --set max_len={length + new_tokens}",
                keys=(name, "overrides.max_len", f"overrides.{family}.max_len"),
            )
