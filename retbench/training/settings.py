"""The settings of the command ``train``: defaults, checks, and what may change at a ``--resume``.

No torch here, so that a mistake is reported at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from retbench.config import plugins, requirements
from retbench.config import values as value
from retbench.errors import Misfit, UserError
from retbench.machine.threads import beside_others
from retbench.training.config import AUTOMATIC, TrainingConfig

if TYPE_CHECKING:
    from models.config import ModelConfig

MOST_STEPS_BETWEEN_RECORDS = 20
"""A progress bar wants news more often than a report does."""

_FLAGS_OF = {
    "seq_len": "context", "batch_size": "batch", "learning_rate": "lr", "warmup_steps": "warmup",
    "checkpoint_activations": "checkpoint-activations", "weight_decay": "weight-decay",
    "grad_clip": "grad-clip", "eval_every": "eval-every",
}  # fmt: skip

# What may differ when a training is continued: where things are, which the content's hash checks.
_LOCAL = ("data", "plugins")


@dataclass(frozen=True)
class TrainSettings:
    """What to train, on what, and how; one field a flag.

    The defaults end in two minutes on two cores, with samples that look like the embedded text.

    Attributes:
        model: the family.
        preset: its size.
        ffn: feed-forward kind.
        overrides: further fields of the model's configuration.
        plugins: files and modules that register models.
        data: the text, as :func:`retbench.data.dataset.load_dataset` takes it; None: embedded.
        tokenizer: its name.
        context: tokens of a sequence; further fields as in
            :class:`retbench.training.config.TrainingConfig`.
        device: ``cpu`` or ``cuda``.
        threads: CPU threads.
    """

    model: str = "retnet"
    preset: str = "1m"
    ffn: str = "gelu"
    overrides: Mapping[str, value.Scalar] = field(default_factory=dict)
    plugins: tuple[str, ...] = ()
    data: str | None = None
    tokenizer: str = "char"
    context: int = 256
    batch: int = 8
    steps: int = 800
    lr: float = 3e-3
    warmup: int = AUTOMATIC
    weight_decay: float = 0.1
    grad_clip: float = 1.0
    accumulate: int = 1
    seed: int = 0
    eval_every: int = AUTOMATIC
    device: str = "cpu"
    dtype: str = "float32"
    compile: bool = False
    checkpoint_activations: bool = False
    threads: int = 1

    def training(self) -> TrainingConfig:
        """The loop's configuration.

        Raises:
            UserError: a value is out of its range; names the flag.
        """
        options: dict[str, Any] = {
            "steps": self.steps, "batch_size": self.batch, "seq_len": self.context,
            "learning_rate": self.lr, "warmup_steps": self.warmup, "seed": self.seed,
            "weight_decay": self.weight_decay, "grad_clip": self.grad_clip, "dtype": self.dtype,
            "accumulate": self.accumulate, "eval_every": self.eval_every, "compile": self.compile,
            "checkpoint_activations": self.checkpoint_activations,
        }  # fmt: skip
        try:
            config = TrainingConfig(**options)
            if config.record_every > MOST_STEPS_BETWEEN_RECORDS:
                options["record_every"] = MOST_STEPS_BETWEEN_RECORDS
            return TrainingConfig(**options)
        except Misfit as problem:
            name, _, rest = problem.message.partition(":")
            raise UserError(f"{_FLAGS_OF.get(name, name)}:{rest}", problem.hint) from None

    def model_config(self, vocab_size: int) -> ModelConfig:
        """The model's configuration at a vocabulary.

        Raises:
            UserError: an unknown family, preset or field, or an impossible combination.
        """
        from models.config import PRESETS, ConfigError
        from models.registry import config_for

        plugins.load(self.plugins)
        requirements.require_known("preset", self.preset, PRESETS)
        requirements.require_known("model", self.model, plugins.families())
        if "vocab_size" in self.overrides:
            raise UserError(
                "set: vocab_size follows from the tokenizer", "choose it by --tokenizer"
            )
        options = {"ffn": self.ffn, **self.overrides, "vocab_size": vocab_size}
        try:
            config = config_for(self.model, self.preset, **options)
        except (ConfigError, TypeError) as problem:
            raise UserError(f"{self.model} at preset {self.preset}: {problem}") from None
        if self.context > config.max_len:
            raise UserError(f"context: {self.context} is beyond the model's {config.max_len}")
        return config

    def to_json(self) -> dict[str, Any]:
        """Every field but the plugins, whose places are recorded apart."""
        return {name: kept for name, kept in asdict(self).items() if name != "plugins"}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], sources: Iterable[str]) -> TrainSettings:
        """The inverse of :meth:`to_json`, with the places where the plugins are now.

        Raises:
            TypeError: fields are unknown.
        """
        return cls(**{**content, "plugins": tuple(sources)})

    def contradictions(self, asked: Mapping[str, Any]) -> list[str]:
        """Where what is asked for now differs from these settings."""
        return [
            f"{name} was {getattr(self, name)!r}, not {wanted!r}"
            for name, wanted in asked.items()
            if name not in _LOCAL and getattr(self, name) != wanted
        ]


def checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that were given, each checked by itself and in its own type.

    Args:
        given: values by the settings' names; None for what was not given.

    Raises:
        UserError: a value is not of its kind.
    """
    found = {}
    for entry in fields(TrainSettings):
        raw = given.get(entry.name)
        if raw is None:
            continue
        try:
            found[entry.name] = _READERS.get(entry.name, lambda same: same)(raw)
        except ValueError as problem:
            flag = _WRITTEN.get(entry.name, entry.name.replace("_", "-"))
            raise UserError(f"{flag}: {problem}") from None
    if unknown := sorted(set(given) - {entry.name for entry in fields(TrainSettings)}):
        raise TypeError(f"no such setting: {unknown[0]}")
    return found


def settled(asked: Mapping[str, Any]) -> TrainSettings:
    """The settings of a new training: what was asked for, defaults for the rest.

    Raises:
        UserError: values that do not go together, or that this machine cannot do.
    """
    device, threads = requirements.machine(asked.get("device"), asked.get("threads"))
    if asked.get("threads") is None:
        threads = beside_others(threads)
    defaults = {"dtype": "bfloat16" if device == "cuda" else "float32"}
    settings = TrainSettings(**{**defaults, **asked, "device": device, "threads": threads})
    settings.training()
    return settings


def _not_negative(raw: int) -> int:
    if raw < 0:
        raise ValueError(f"must not be negative, not {raw}")
    return raw


_WRITTEN = {"overrides": "set", "plugins": "plugin"}

_READERS: dict[str, value.Reader] = {
    "model": value.text,
    "preset": value.text,
    "ffn": value.one_of("feed-forward", ("gelu", "swiglu")),
    "overrides": value.overrides,
    "plugins": value.names,
    "data": value.path,
    "tokenizer": value.text,
    "seed": value.seed,
    "eval_every": value.positive,
    "warmup": _not_negative,
}
