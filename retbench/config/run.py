"""What a run is asked to do: one frozen :class:`RunConfig`, checked before anything starts.

It is made by :func:`retbench.engine.resolve.resolve`. Neither torch nor a model is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from retbench.config import values as value
from retbench.config.defaults import OPTIONAL, is_used
from retbench.distributed.launch import KINDS
from retbench.errors import UserError


@dataclass(frozen=True)
class Profile:
    """How often a cell is measured (rule M2), and how long that may take.

    Attributes:
        name: what ``--profile`` calls it.
        blocks: fresh worker processes of each model, at least; they are the replicates.
        minutes: how long a run that takes turns may go on adding blocks, from its start; 0 for no
            block more than ``blocks``.
        rounds: the most rounds of a phase at a point.
        min_rounds: rounds that are made however long they take.
        phase_budget_s: seconds that each contender may take for the rounds of a phase.
        warmup: warm-up trials at least (rule M3).
    """

    name: str
    blocks: int
    minutes: float
    rounds: int
    min_rounds: int
    phase_budget_s: float
    warmup: int = 3

    @property
    def most_blocks(self) -> int:
        """Blocks after which a run ends whatever it has found."""
        return 5 * self.blocks


PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile("smoke", blocks=1, minutes=0, rounds=3, min_rounds=2, phase_budget_s=0.5),
        Profile("quick", blocks=3, minutes=5, rounds=60, min_rounds=2, phase_budget_s=0.5),
        Profile("report", blocks=5, minutes=30, rounds=100, min_rounds=3, phase_budget_s=4.0),
        Profile("rigorous", blocks=10, minutes=120, rounds=200, min_rounds=5, phase_budget_s=15.0),
    )
}
DEVICES = ("cpu", "cuda")
DTYPES = ("float32", "bfloat16", "float16", "float64")
MODES = ("eager", "compile", "cudagraph")
TRAINING_MODES = ("eager", "compile")
ACTIVATIONS = ("kept", "recomputed")
PARALLEL = ("none", *KINDS)
DIRECTIONS = ("forward", "train")
FEED_FORWARDS = ("gelu", "swiglu")

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}

SHORT_NAMES = {
    "timeout": "timeout_s",
    "memory_limit": "memory_limit_gib",
    "set": "overrides",
    "plugin": "plugins",
    "train": "training",
    "lr": "learning_rates",
}
FLAGS = {name: flag for flag, name in SHORT_NAMES.items()}


@dataclass(frozen=True)
class RunConfig:
    """A resolved configuration; nothing is left to a default.

    Attributes:
        suite: what is measured.
        models: names of families in the models' registry; the first is the subject of every ratio.
        preset: size of all models.
        context: context lengths, in tokens, swept at the first batch size; a training suite has
            one, the context of its training.
        batch: batch sizes, swept at ``batch_context``; a training suite has one, the sequences of
            an optimizer step.
        device: ``cpu`` or ``cuda``.
        dtype: of the weights and activations.
        mode: ``eager``, ``compile`` or ``cudagraph``, the same for all models.
        profile: a name in :data:`PROFILES`.
        seed: of prompts, weights and the order of the blocks.
        threads: compute threads of a worker.
        ffn: feed-forward kind of all models.
        implementation: what computes the mixing in every model that knows it; None for the
            device's own choice.
        timeout_s: a cell in one process is stopped once it has taken this long, in seconds.
        memory_limit_gib: memory a worker may take, in GiB; None for no limit.
        out: the run directory as it was asked for; None for one named after suite and time.
        plugins: files or modules that register further families of models.
        overrides: fields of the models' configuration: ``key`` for all, ``family.key`` for one.
        batch_context: context of the sweep over batch sizes, in tokens.
        new_tokens: decode steps of one trial.
        data: text to train and test on: a file, a folder, a pattern; None for the embedded one.
        tokenizer: its name.
        steps: optimizer steps of one training.
        learning_rates: the rates that are tried out, the same for all models.
        presets: sizes of a scaling run.
        tasks: of a recall run.
        training: fields of :class:`retbench.training.loop.TrainingConfig` to override.
        tokens_per_step: of a throughput step: at a context of n tokens its batch is this over n.
        modes: execution modes that a training step is measured in.
        activations: ``kept`` for the backward pass or ``recomputed`` in it, or both.
        variants: the models' other implementations to measure beside them, by name.
        operations: what the suite kernels compares, by name; the first is the subject.
        directions: ``forward``, ``train`` (forward and backward) or both.
        head_dims: dimensions of a head's keys that operations are measured at.
        dtypes: types of the operations' inputs.
        minutes: a run goes on adding blocks until its ratios are settled or this long has passed
            since it began; 0 for exactly the blocks of the profile.
        precision: a ratio is settled once it has a verdict, or an interval whose half width is
            less than this relative difference.
        margin: relative difference that matters: ratios within it are *equivalent*.
        parallel: how several processes share a training step: ``ddp``, ``fsdp``, or ``none``.
        world_size: how many do; torchrun's number, no choice of the run's.
    """

    suite: str
    device: str
    dtype: str
    profile: str
    seed: int
    threads: int
    timeout_s: float
    models: tuple[str, ...] = ()
    preset: str = ""
    context: tuple[int, ...] = ()
    batch: tuple[int, ...] = ()
    mode: str = "eager"
    ffn: str = "gelu"
    implementation: str | None = None
    memory_limit_gib: float | None = None
    out: str | None = None
    plugins: tuple[str, ...] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict, hash=False)
    batch_context: int = 0
    new_tokens: int = 0
    data: str | None = None
    tokenizer: str = ""
    steps: int = 0
    learning_rates: tuple[float, ...] = ()
    presets: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict, hash=False)
    tokens_per_step: int = 0
    modes: tuple[str, ...] = ()
    activations: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    operations: tuple[str, ...] = ()
    directions: tuple[str, ...] = ()
    head_dims: tuple[int, ...] = ()
    dtypes: tuple[str, ...] = ()
    minutes: float = 0.0
    precision: float = 0.02
    margin: float = 0.01
    parallel: str = "none"
    world_size: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "overrides", MappingProxyType(dict(self.overrides)))
        object.__setattr__(self, "training", MappingProxyType(dict(self.training)))

    @property
    def computed_dtypes(self) -> tuple[str, ...]:
        """Every type that something of the run is computed in."""
        return tuple(dict.fromkeys((self.dtype, *self.dtypes)))

    def overrides_for(self, family: str) -> dict[str, Any]:
        """Fields to override in one family's configuration.

        The feed-forward kind is one; so is the implementation, where the family knows it.
        """
        shared = {key: given for key, given in self.overrides.items() if "." not in key}
        if self.implementation is not None:
            from models.registry import implementations

            if self.implementation in implementations(family):
                shared["implementation"] = self.implementation
        prefix = f"{family}."
        own = {
            key.removeprefix(prefix): given
            for key, given in self.overrides.items()
            if key.startswith(prefix)
        }
        return {"ffn": self.ffn, **shared, **own}

    def to_json(self) -> dict[str, Any]:
        """Every field that the suite uses, as JSON-able values; :meth:`from_json` inverts it."""
        used = [f.name for f in fields(self) if is_used(f.name, self.suite)]
        return {name: _plain(getattr(self, name)) for name in used}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> RunConfig:
        """The inverse of :meth:`to_json`.

        Raises:
            UserError: if a field is missing, unknown or of the wrong type.
        """
        suite = str(document.get("suite"))
        used = [f.name for f in fields(cls) if is_used(f.name, suite)]
        required = [name for name in used if name not in OPTIONAL]
        if missing := [name for name in required if name not in document]:
            raise UserError(f"the stored configuration lacks {', '.join(missing)}")
        return cls(**parse(document))


def _plain(given: Any) -> Any:
    """A field's value as JSON can hold it."""
    if isinstance(given, tuple):
        return list(given)
    return dict(given) if isinstance(given, Mapping) else given


_READERS: dict[str, value.Reader] = {
    "suite": value.text,
    "models": value.names,
    "preset": value.text,
    "context": value.ascending_sizes,
    "batch": value.ascending_sizes,
    "batch_context": value.positive,
    "new_tokens": value.positive,
    "device": value.one_of("device", DEVICES),
    "dtype": value.one_of("dtype", DTYPES),
    "mode": value.one_of("mode", MODES),
    "profile": value.one_of("profile", tuple(PROFILES)),
    "seed": value.seed,
    "threads": value.positive,
    "ffn": value.one_of("feed-forward", FEED_FORWARDS),
    "implementation": value.optional(value.text),
    "timeout_s": value.positive_float,
    "memory_limit_gib": value.optional(value.positive_float),
    "out": value.optional(value.path),
    "plugins": value.names,
    "overrides": value.overrides,
    "data": value.optional(value.path),
    "tokenizer": value.text,
    "steps": value.positive,
    "learning_rates": value.ascending_floats,
    "presets": value.names,
    "tasks": value.names,
    "training": value.overrides,
    "tokens_per_step": value.positive,
    "modes": value.names_of("mode", TRAINING_MODES),
    "activations": value.names_of("activations", ACTIVATIONS),
    "variants": value.names,
    "operations": value.names,
    "directions": value.names_of("direction", DIRECTIONS),
    "head_dims": value.ascending_sizes,
    "dtypes": value.names_of("dtype", DTYPES),
    "minutes": value.minutes,
    "precision": value.share,
    "margin": value.share,
    "parallel": value.one_of("parallel", PARALLEL),
    "world_size": value.positive,
}


def parse(
    given: Mapping[str, Any], *, file: str | None = None, lines: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Check and convert single values, by the name of their field or flag.

    Args:
        given: values as a flag, a file or Python code gives them.
        file: the file they come from, to be named in errors.
        lines: the line of each key in that file.

    Raises:
        UserError: for an unknown key (with the nearest one), a key given twice, or a value that
            cannot be.
    """
    parsed: dict[str, Any] = {}
    for key, raw in given.items():
        where = f"{file}:{(lines or {}).get(key, 1)}: " if file else ""
        name = SHORT_NAMES.get(key, key)
        if name not in _READERS:
            known = [*_READERS, *SHORT_NAMES]
            raise UserError(f"{where}unknown key {key!r}", value.nearest(key, known))
        if name in parsed:
            raise UserError(f"{where}{key}: {name} is given twice")
        try:
            parsed[name] = _READERS[name](raw)
        except ValueError as problem:
            flag = FLAGS.get(name, name).replace("_", "-")
            raise UserError(f"{where}{flag}: {problem}") from None
    return parsed


def contradictions(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Which of the values asked for differ from a stored configuration, one phrase each.

    Args:
        stored: as :meth:`RunConfig.to_json` gives it.
        asked: some or all of its values; ``out`` may be another.
    """
    asked = {name: _plain(value) for name, value in asked.items() if name != "out"}
    return [
        f"{name.replace('_', '-')} was {stored.get(name)!r}, not {wanted!r}"
        for name, wanted in asked.items()
        if stored.get(name) != wanted
    ]
