"""What a run is asked to do: what all suites have in common of a configuration.

Each suite adds its own settings in a class beside it, and :func:`retbench.engine.resolve.resolve`
makes a configuration, checked before anything starts. Neither torch nor a model is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from retbench.config import plugins
from retbench.config import values as value
from retbench.config.settings import Settings, changed, setting
from retbench.machine import host


@dataclass(frozen=True)
class Profile:
    """How often a cell is measured (rule M2), and how long that may take.

    Rounds are no replicates, and intervals over few blocks are wide for their number alone: so
    ``rounds`` ends those of a short call, such as a decode step, and the time goes to blocks. What
    a block knows of a long call, such as a prefill, its few rounds limit: so ``phase_budget_s`` is
    long enough for more of them.

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
        Profile("quick", blocks=3, minutes=5.75, rounds=60, min_rounds=3, phase_budget_s=1.0),
        Profile("report", blocks=5, minutes=30, rounds=40, min_rounds=4, phase_budget_s=5.0),
        Profile("rigorous", blocks=10, minutes=120, rounds=80, min_rounds=6, phase_budget_s=10.0),
    )
}
MEMORY_BLOCKS = 2
"""Blocks in whose processes memory is read, which others repeat: their range says so (rule M14)."""

DEVICES = ("cpu", "cuda")
DTYPES = ("float32", "bfloat16", "float16", "float64")
COMPILED_MODES = ("compile", "compile-cudagraph")
CAPTURED_MODES = ("cudagraph", "compile-cudagraph")
MODES = ("eager", "compile", "cudagraph", "compile-cudagraph")
FEED_FORWARDS = ("gelu", "swiglu")

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}

SPARED_CORES = 1
"""Cores that a timed run leaves to whatever else the machine does."""

WHAT, SWEEP, HOW_SURE, WHERE, OUTPUT = "What", "Sweep", "How sure", "Where", "Output"
"""The headings of the options that suites share."""


def own_cores(processes: int, spared: int = 0) -> int:
    """The cores of each process, where so many share this machine's but for the spared ones."""
    return max(1, (host.physical_cores() - spared) // processes)


def presets() -> tuple[str, ...]:
    """The sizes of models, by name."""
    from models.presets import PRESETS

    return tuple(PRESETS)


@dataclass(frozen=True, kw_only=True)
class RunConfig(Settings):
    """A resolved configuration: the settings that every suite has; nothing is left to a default."""

    # No fields: what the suites without a setting of that name have.
    suite = ""
    preset = ""
    mode = "eager"
    minutes = 0.0
    parallel = "none"
    world_size = 1

    device: str = setting(
        value.OneOf(DEVICES, "device"), "Where models run.", group=WHERE,
        default=lambda known: host.default_device(), shown="cuda where there is a GPU",
    )  # fmt: skip
    dtype: str = setting(
        value.OneOf(DTYPES, "dtype"), "Type of weights and activations.", group=WHERE,
        cpu="float32", cuda="bfloat16",
    )  # fmt: skip
    threads: int = setting(
        value.positive, "Compute threads of a worker.", group=WHERE,
        default=lambda known: own_cores(known.get("world_size", 1)),
        shown="the physical cores",
    )  # fmt: skip
    timeout_s: float = setting(
        value.positive_float, "A cell that takes longer is stopped.", flag="timeout",
        metavar="SECONDS", group=WHERE,
    )  # fmt: skip
    memory_limit_gib: float | None = setting(
        value.gibibytes, "Memory a worker may take.", flag="memory_limit", metavar="GIB",
        group=WHERE, default=None, shown="no limit",
    )  # fmt: skip
    plugins: tuple[str, ...] = setting(
        value.names, "File or module that registers models. Repeatable.", flag="plugin",
        metavar="PATH", group=WHAT, default=(), repeats=True,
    )  # fmt: skip
    context: tuple[int, ...] = setting(
        value.ascending_sizes, "Context lengths: 512,2048 or 512:8192 (its powers of two).",
        metavar="LENGTHS", group=SWEEP,
    )  # fmt: skip
    batch: tuple[int, ...] = setting(
        value.ascending_sizes, "Batch sizes, written like --context.", metavar="SIZES", group=SWEEP
    )
    profile: str = setting(
        value.OneOf(tuple(PROFILES), "profile"), "How often a cell is measured.", group=HOW_SURE,
        default="quick",
    )  # fmt: skip
    seed: int = setting(
        value.seed, "Of prompts, weights and the order of turns.", group=HOW_SURE, default=0
    )
    out: str | None = setting(
        value.path, "The run directory.", metavar="PATH", group=OUTPUT, default=None,
        shown="a new one in results/",
    )  # fmt: skip

    @property
    def computed_dtypes(self) -> tuple[str, ...]:
        """Every type that something of the run is computed in."""
        return (self.dtype,)

    def to_json(self) -> dict[str, Any]:
        """The suite and every field; :func:`retbench.suites.configuration` inverts it."""
        return {"suite": self.suite, **super().to_json()}


@dataclass(frozen=True, kw_only=True)
class TimedConfig(RunConfig):
    """Settings of the suites whose contenders take turns: when there are enough blocks."""

    # Where all cores compute, whatever else the machine does keeps one of them waiting, and so all.
    threads: int = changed(
        RunConfig, "threads",
        default=lambda known: own_cores(known.get("world_size", 1), spared=SPARED_CORES),
        shown="the physical cores but one",
    )  # fmt: skip
    minutes: float = setting(
        value.not_negative_float,
        "Add blocks until all ratios are settled, for so long at most; 0 adds none.",
        metavar="MINUTES", group=HOW_SURE,
        default=lambda known: PROFILES[known["profile"]].minutes, shown="the profile's",
    )  # fmt: skip
    precision: float = setting(
        value.share, "A ratio is settled that has a verdict, or is known this well.",
        metavar="SHARE", group=HOW_SURE, default=0.02, shown="2%",
    )  # fmt: skip
    margin: float = setting(
        value.share, "A difference that does not matter: within it models are equivalent.",
        metavar="SHARE", group=HOW_SURE, default=0.01, shown="1%",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ModelsConfig(RunConfig):
    """Settings of the suites that compare models."""

    models: tuple[str, ...] = setting(
        value.distinct_names, "Families, commas between; the first is the subject of every ratio.",
        metavar="NAMES", group=WHAT, default=("retnet", "transformer"), choices=plugins.families,
    )  # fmt: skip
    preset: str = setting(
        value.text, "Size of all models.", metavar="PRESET", group=WHAT, choices=presets
    )
    ffn: str = setting(
        value.OneOf(FEED_FORWARDS, "feed-forward"), "Feed-forward kind of all models.",
        group=WHAT, default="gelu",
    )  # fmt: skip
    implementation: str | None = setting(
        value.text, "What computes the mixing, such as torch, triton or math.", metavar="NAME",
        group=WHAT, default=None, shown="the device's own",
    )  # fmt: skip
    overrides: Mapping[str, Any] = setting(
        value.overrides, "Override a model's field; FAMILY.KEY=VALUE for one family. Repeatable.",
        flag="set", metavar="KEY=VALUE", group=WHAT, default={}, repeats=True,
    )  # fmt: skip
    mode: str = setting(
        value.OneOf(MODES, "mode"), "How models are executed.", group=WHERE, default="eager"
    )

    @property
    def sizes(self) -> tuple[str, ...]:
        """The presets of the run's models: the one, or all that a suite sweeps."""
        return (self.preset,)

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


@dataclass(frozen=True, kw_only=True)
class TimedModelsConfig(TimedConfig, ModelsConfig):
    """Settings of the suites that time models in turns."""

    compare_unfused: bool = setting(
        value.boolean,
        "Give verdicts on times where one side alone runs a fused kernel on a GPU.",
        group=HOW_SURE, default=False,
    )  # fmt: skip
