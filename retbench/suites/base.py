"""What a suite is: its points, what they cost, and how a worker measures one.

Importing this module does not import torch. What a worker does with a suite stands in modules of
its own (``*_cell.py``), imported where it is called.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import compress
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from retbench.config import plugins
from retbench.config.plan import Axis, Contender, Plan, Point
from retbench.config.run import PROFILES, RunConfig
from retbench.errors import Misfit

if TYPE_CHECKING:
    import torch

    from models.config import ModelConfig
    from models.protocol import LanguageModel
    from retbench.suites.cell import Cell
    from retbench.suites.session import Rows, Session

Config = TypeVar("Config", bound=RunConfig)

Scalar = Callable[[str, str], float | None]
"""Looks up ``(point id, metric)`` among one contender's committed figures of the first block that
have one value a process; None where there is none."""


def plan_in_turns(
    name: str,
    config: RunConfig,
    contenders: Sequence[Contender],
    points: Sequence[Point],
    primary: Sequence[tuple[str, Point]],
) -> Plan:
    """The plan of a suite whose contenders take turns: blocks are added until all is settled.

    Args:
        name: the suite's name.
        config: the run's configuration.
        contenders: the subject, then the others.
        points: the sweep.
        primary: metric and point of the comparisons that the run is made for.
    """
    profile = PROFILES[config.profile]
    adds = config.minutes > 0 and config.world_size == 1
    return Plan(
        name, tuple(contenders), tuple(points),
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


class Suite(ABC, Generic[Config]):
    """A family of points and the way one is measured.

    Attributes:
        config: the class of its configuration; the settings of a run are its fields.
        trains: whether a cell trains a model of its own, whose quality is then tested; otherwise
            it times the contender's one model.
        takes_turns: whether the contenders of a block are timed in turns, side by side; otherwise
            one after the other.
    """

    config: type[Config]
    trains: ClassVar[bool]
    takes_turns: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """What ``--suite`` calls it."""
        return self.config.suite

    @abstractmethod
    def plan(self, config: Config) -> Plan:
        """Every cell of a run; called in the parent."""

    def data(self, config: Config) -> dict[str, Any] | None:
        """Make the data set ready before any worker starts; called in the parent.

        Returns:
            What ``run.json`` keeps of it; None where there is nothing to make ready.

        Raises:
            UserError: the text cannot be read, or is too short.
        """
        return None

    def load(self, config: Config) -> None:
        """Import in a worker what its cells will need, so that their memory is not charged for it.

        Called before the memory meter takes its baseline.
        """
        return None

    def model_options(self, config: Config) -> dict[str, Any]:
        """Overrides of every model's configuration that the data ask for, such as the vocabulary.

        Called once :meth:`data` has been.
        """
        return {}

    def size(self, config: Config, contender: Contender, point: Point | None = None) -> Any:
        """What :meth:`cost` reckons with: a model's configuration, at a point's own preset.

        Raises:
            ConfigError: if there is no such family, preset or option.
            UserError: if the data that decide on it cannot be read.
        """
        from models.registry import config_for

        plugins.load(config.plugins)
        preset = config.preset if point is None else str(point.setting("preset", config.preset))
        options = {**contender.options, **self.model_options(config)}
        return config_for(contender.family, preset, **options)

    def build(
        self,
        config: Config,
        contender: Contender,
        options: Mapping[str, Any],
        device: torch.device,
    ) -> Any:
        """What a worker measures: by default the contender's model, in evaluation mode.

        Args:
            config: the run's configuration.
            contender: the contender to build.
            options: what :meth:`model_options` gave.
            device: where it is to be.

        Raises:
            CellFailure: if it cannot be had on this machine.
        """
        import torch

        from models.registry import config_for

        # Weights that are trained are kept in float32, whatever type computes with them.
        dtype = torch.float32 if self.trains else getattr(torch, config.dtype)
        overrides = {**contender.options, **options}
        model = config_for(contender.family, config.preset, **overrides)
        return model.build(device=device, dtype=dtype, seed=config.seed)

    def describe(self, session: Session) -> dict[str, Any]:
        """What ``run.json`` keeps of a contender, under its label."""
        config, model = session.config, session.model
        weights = sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters()})
        return {
            "family": session.contender.family,
            "preset": config.preset,
            "config": model.config.to_dict(),
            "parameters": model.num_parameters(),
            "parameters_embedding": model.num_parameters(embeddings=True) - model.num_parameters(),
            "weights_dtype": ",".join(weights),
            "state_dtype": ",".join(_state_dtypes(model)),
            "implementation": {
                "prefill": model.implementation("prefill"),
                "decode": model.implementation("decode"),
            },
        }

    def brief(
        self, config: Config, contender: Contender, point: Point, scalar: Scalar
    ) -> dict[str, Any]:
        """What a worker must know of earlier cells to measure this one: JSON-able.

        Raises:
            CellFailure: if what it needs could not be measured.
        """
        return {}

    def check(self, config: Config, models: Mapping[str, ModelConfig]) -> None:
        """Check what only this suite asks of a configuration; called in the parent.

        Args:
            config: the run's configuration, its names and device known to be good.
            models: the configuration of each model, by family, at the run's preset.

        Raises:
            Misfit: for a combination that is impossible.
        """
        return None

    @abstractmethod
    def cost(self, config: Config, ceilings: Mapping[str, Any] | None) -> Cost:
        """A model of what cells need, for a forecast."""

    @abstractmethod
    def verify(self, session: Session) -> float:
        """Check that the model computes what it should, before any clock runs.

        Returns:
            The error found, relative.

        Raises:
            CellFailure: if the model is broken; it is then never timed.
        """

    def prepare(self, session: Session, rows: Rows, progress: Callable[[str], None]) -> Cell:
        """Make the cell at ``rows.point`` ready to be timed, and add what is not timed to ``rows``.

        A suite whose contenders do not take turns measures all of it here.

        Args:
            session: what this process measures with.
            rows: take the samples.
            progress: takes the name of each phase as it begins.

        Returns:
            What is to be timed in turns, phase by phase.

        Raises:
            CellFailure: if it cannot be measured; out-of-memory errors may simply pass through.
        """
        from retbench.suites.cell import Cell

        self.measure(session, rows, progress)
        return Cell(rows)

    def measure(self, session: Session, rows: Rows, progress: Callable[[str], None]) -> None:
        """Measure the cell at ``rows.point`` at one go; see :meth:`prepare`."""
        raise NotImplementedError


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


class Cost(Protocol):
    """What a suite's cells are expected to need of one machine, within a factor of about two.

    ``size`` is what the suite's own ``size`` gives: for most a model's configuration.
    """

    def process_s(self, size: Any, /) -> float:
        """Seconds from the start of a worker until its first cell."""

    def cell_s(self, size: Any, point: Point, /) -> float:
        """Seconds of a cell in one process."""

    def memory_bytes(self, size: Any, point: Point, /) -> int:
        """Memory of a cell at its peak."""


def _state_dtypes(model: LanguageModel) -> list[str]:
    """The types of a state's tensors; none for a model that can only be trained and scored."""
    try:
        state = model.init_state(1, 1)
    except NotImplementedError:
        return []
    return sorted({str(t.dtype).removeprefix("torch.") for s in state.layers for t in s.tensors()})
