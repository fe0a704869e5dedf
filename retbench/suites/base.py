"""What a suite is, and the session in which one worker process measures one contender.

Importing this module does not import torch: the parent process only plans.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, cast

from retbench.config.run import PROFILES, Profile, RunConfig
from retbench.measure import ceilings
from retbench.measure.clock import warm_up
from retbench.metrics import METRICS, Sample, Status
from retbench.plan import Contender, Plan, Point
from retbench.ranks.distributed import ALONE, Ranks

if TYPE_CHECKING:
    import torch

    from models.config import ModelConfig
    from models.protocol import LanguageModel
    from retbench.measure.clock import Clock, Timing
    from retbench.measure.memory import MemoryMeter


T = TypeVar("T")

Ceilings = Mapping[str, Any] | None
"""What a machine can do at most, see :mod:`retbench.measure.ceilings`; None where unknown."""

Scalar = Callable[[str, str], float | None]
"""Looks up ``(point id, metric)`` among one contender's committed figures of the first block that
have one value a process; None where there is none."""

PREFILL_TOKENS = 65536
"""Most tokens of one prefill call; a larger batch goes in by parts of whole sequences. Otherwise
the activations of its prefill, not its state, would decide how large a batch fits."""


class CellFailure(Exception):
    """A cell that cannot be measured, with the status of M17 that says why."""

    def __init__(self, status: Status, cause: str) -> None:
        super().__init__(cause)
        self.status = status
        self.cause = cause


@dataclass
class Session:
    """One worker process: what is measured, and what measures it.

    Attributes:
        config: of the run.
        contender: whose subject this is.
        block: round of the run, from 0.
        process: number of this process in the run, from 0.
        subject: what the suite built to be measured; for most a model, see :attr:`model`.
        device: where it is.
        clock: of that device.
        meter: of its memory; its baseline was taken after the imports, before the model.
        ceilings: of this machine as measured when the run began; None where unknown.
        options: overrides of the model's configuration that the suite asks for.
        ranks: the processes that measure together, each in a session of its own.
    """

    config: RunConfig
    contender: Contender
    block: int
    process: int
    subject: Any
    device: torch.device
    clock: Clock
    meter: MemoryMeter
    ceilings: Ceilings = None
    options: Mapping[str, Any] = field(default_factory=dict)
    ranks: Ranks = ALONE

    @cached_property
    def training_implementation(self) -> str:
        """What computes the mixing in training; asked for first before the model is shared out."""
        with self.autocast():
            return self.model.implementation("train")

    def autocast(self) -> torch.autocast:
        """Where trainings and tests of a run in bfloat16 compute; without effect in others."""
        import torch

        used = self.config.dtype == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=used)

    @cached_property
    def trained(self) -> Any:
        """What to call in the model's place in training, once and for all cells.

        From then on the model may hold a share of its parameters only.
        """
        return self.ranks.wrap(self.subject)

    @property
    def model(self) -> LanguageModel:
        """The subject of a suite that measures models, in evaluation mode."""
        return cast("LanguageModel", self.subject)

    @property
    def profile(self) -> Profile:
        """How often to measure."""
        return PROFILES[self.config.profile]

    def build(self, point: Point, seed: int) -> LanguageModel:
        """A new model of this contender, to be trained: float32 weights, at the point's preset.

        Args:
            point: whose setting ``preset``, if it has one, overrules the run's.
            seed: of the initialisation.
        """
        from models.registry import config_for

        preset = str(point.setting("preset", self.config.preset))
        options = {**self.contender.options, **self.options}
        config = config_for(self.contender.family, preset, **options)
        return config.build(device=self.device, seed=seed)

    def time(self, fn: Callable[[], object]) -> Timing:
        """Time a call that all ranks begin together: the slowest one's time is that of all."""
        ranks = self.ranks
        ranks.barrier()
        own = self.clock.time(fn)
        return replace(
            own,
            host_s=ranks.largest(own.host_s),
            device_s=None if own.device_s is None else ranks.largest(own.device_s),
        )

    def now(self) -> float:
        """Seconds on a clock that all ranks read alike, so that they agree on when to stop."""
        return self.ranks.from_first(time.perf_counter)

    def warm_up(self, trial: Callable[[], Sequence[Timing]]) -> list[str]:
        """Repeat a trial until its time no longer moves (rule M3); the flags of its samples."""

        def trial_s() -> float:
            return sum(timing.seconds for timing in trial())

        profile = self.profile
        return warm_up(
            trial_s, at_least=profile.warmup, budget_s=profile.phase_budget_s, now=self.now
        )

    def trials(self, trial: Callable[[], T]) -> Iterator[T]:
        """As many trials as the profile asks for, or as its time allows."""
        started = self.now()
        for number in range(self.profile.trials):
            spent_s = self.now() - started
            if number >= self.profile.min_trials and spent_s > self.profile.phase_budget_s:
                return
            yield trial()

    def require_physical(self, violation: Callable[[Ceilings], str | None]) -> None:
        """M15: a time that this machine cannot have taken makes the cell invalid.

        Before a cell is condemned the ceilings are measured again: other work on the machine may
        have lowered them when the run began. Of several ranks the first decides.

        Args:
            violation: says why a time is impossible under some ceilings; None where it is not.

        Raises:
            CellFailure: with the status ``invalid``.
        """
        cause = self.ranks.from_first(lambda: self._impossible(violation))
        if cause is not None:
            raise CellFailure("invalid", cause)

    def _impossible(self, violation: Callable[[Ceilings], str | None]) -> str | None:
        """Why a time is, by the ceilings measured again where it may be."""
        if self.ceilings is None or violation(self.ceilings) is None:
            return None
        config = self.config
        again = ceilings.measure(config.device, config.computed_dtypes, config.threads)
        self.ceilings = ceilings.merge(self.ceilings, again)
        return violation(self.ceilings)


def new_sample(
    config: RunConfig,
    contender: Contender,
    point: Point,
    phase: str,
    metric: str,
    value: float | None,
) -> Sample:
    """A sample of a declared metric, ok and of no process yet; ``value`` in the metric's unit."""
    return Sample(
        suite=config.suite,
        point=point.id,
        model=contender.label,
        preset=str(point.setting("preset", config.preset)),
        implementation="",
        mode=str(point.setting("mode", config.mode)),
        phase=phase,
        metric=metric,
        unit=METRICS[metric].unit,
        seq_len=point.seq_len,
        batch_size=point.batch_size,
        dtype=str(point.setting("dtype", config.dtype)),
        device=config.device,
        block=0,
        process=0,
        trial=None,
        value=value,
        status="ok",
        cause=None,
        flags=[],
    )


@dataclass
class Rows:
    """The samples of one cell in one process, as they are made.

    Attributes:
        session: of the process.
        point: of the cell.
        brief: what the suite's ``brief`` said of the cell.
        samples: so far.
    """

    session: Session
    point: Point
    brief: Mapping[str, Any] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)

    def add(
        self,
        phase: str,
        metric: str,
        value: float,
        *,
        trial: int | None = None,
        implementation: str = "",
        flags: Sequence[str] = (),
        seq_len: int | None = None,
    ) -> None:
        """Add one measurement of a declared metric, in that metric's unit.

        ``seq_len`` is the point's unless something else was measured at, as in a test of lengths.
        """
        session = self.session
        sample = new_sample(session.config, session.contender, self.point, phase, metric, value)
        sample |= {
            "implementation": implementation, "block": session.block, "process": session.process,
            "trial": trial, "flags": list(flags),
        }  # fmt: skip
        if seq_len:
            sample["seq_len"] = seq_len
        self.samples.append(sample)

    def flags(self) -> list[str]:
        """Every flag that any sample carries, once."""
        return sorted({flag for sample in self.samples for flag in sample["flags"]})


class Suite(Protocol):
    """A family of points and the way one is measured.

    Attributes:
        name: what ``--suite`` calls it.
        trains: whether a cell trains a model of its own, whose quality is then tested; otherwise
            it times the contender's one model.
    """

    name: str
    trains: ClassVar[bool]

    def plan(self, config: RunConfig) -> Plan:
        """Every cell of a run; called in the parent, must not import torch."""

    def data(self, config: RunConfig) -> dict[str, Any] | None:
        """Make the data set ready before any worker starts; called in the parent, without torch.

        Returns:
            What ``run.json`` keeps of it; None where there is nothing to make ready.

        Raises:
            UserError: the text cannot be read, or is too short.
        """
        return None

    def load(self, config: RunConfig) -> None:
        """Import in a worker what its cells will need, so that their memory is not charged for it.

        Called before the memory meter takes its baseline.
        """
        return None

    def model_options(self, config: RunConfig) -> dict[str, Any]:
        """Overrides of every model's configuration that the data ask for, such as the vocabulary.

        Called once :meth:`data` has been.
        """
        return {}

    def size(self, config: RunConfig, contender: Contender, point: Point | None = None) -> Any:
        """What :meth:`cost` reckons with: a model's configuration, at a point's own preset.

        Raises:
            UserError: if the data that decide on it cannot be read.
        """
        from retbench.config.requirements import model_config

        return model_config(config, contender, point)

    def build(
        self,
        config: RunConfig,
        contender: Contender,
        options: Mapping[str, Any],
        device: torch.device,
    ) -> Any:
        """What a worker measures: by default the contender's model, in evaluation mode.

        Args:
            config: of the run.
            contender: whose.
            options: what :meth:`model_options` gave.
            device: where it is to be.

        Raises:
            CellFailure: if it cannot be had on this machine.
        """
        import torch

        from models.registry import config_for

        # Weights that are trained are kept in float32, whatever type computes with them.
        dtype = torch.float32 if self.trains else getattr(torch, config.dtype)
        given = {**contender.options, **options}
        model = config_for(contender.family, config.preset, **given)
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
        self, config: RunConfig, contender: Contender, point: Point, scalar: Scalar
    ) -> dict[str, Any]:
        """What a worker must know of earlier cells to measure this one: JSON-able.

        Raises:
            CellFailure: if what it needs could not be measured.
        """
        return {}

    def check(self, config: RunConfig, models: Mapping[str, ModelConfig]) -> None:
        """Check what only this suite asks of a configuration; called in the parent, without torch.

        Args:
            config: of the run, its names and device known to be good.
            models: the configuration of each model, by family, at the run's preset.

        Raises:
            Misfit: for a combination that is impossible.
        """

    def cost(self, config: RunConfig, ceilings: Mapping[str, Any] | None) -> Cost:
        """A model of what cells need, for a forecast."""

    def verify(self, session: Session) -> float:
        """Check that the model computes what it should, before any clock runs.

        Returns:
            The error found, relative.

        Raises:
            CellFailure: if the model is broken; it is then never timed.
        """

    def measure(self, session: Session, rows: Rows, progress: Callable[[str], None]) -> None:
        """Measure the cell at ``rows.point`` and add its samples to ``rows``.

        ``progress`` takes the name of each phase as it begins.

        Raises:
            CellFailure: if it cannot be measured; out-of-memory errors may simply pass through.
        """


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
