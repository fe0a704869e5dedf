"""The settings of the command ``train``: a training's, and what it trains, on what, and where.

No torch here, so that a mistake is reported at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from retbench.config import plugins, requirements
from retbench.config import values as value
from retbench.config.run import WHAT, ModelsConfig
from retbench.config.settings import changed, setting
from retbench.data.config import TextData
from retbench.errors import UserError
from retbench.machine.threads import beside_others
from retbench.training.config import TrainingConfig, record_every

if TYPE_CHECKING:
    from models.config import ModelConfig

MOST_STEPS_BETWEEN_RECORDS = 20
"""A progress bar wants news more often than a report does."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings(TextData, TrainingConfig):
    """What to train, on what, and how; one field a flag.

    The defaults end in two minutes on two cores, with samples that look like the embedded text.

    Raises:
        Misfit: a field is of a wrong type or out of its range.
    """

    model: str = setting(
        value.text, "Family of models.", metavar="NAME", group=WHAT, default="retnet",
        choices=plugins.families,
    )  # fmt: skip
    preset: str = changed(ModelsConfig, "preset", help="Size of the model.", default="1m")
    ffn: str = changed(ModelsConfig, "ffn", help="Feed-forward kind.")
    overrides: Mapping[str, value.Scalar] = changed(
        ModelsConfig, "overrides", help="Override a model's field. Repeatable."
    )
    plugins: tuple[str, ...] = changed(ModelsConfig, "plugins")
    device: str = changed(ModelsConfig, "device")
    threads: int = changed(ModelsConfig, "threads", help="CPU threads.")
    tokenizer: str = changed(TextData, "tokenizer", default="char")
    seq_len: int = changed(TrainingConfig, "seq_len", flag="context", default=256)
    batch_size: int = changed(TrainingConfig, "batch_size", flag="batch", default=8)
    steps: int = changed(TrainingConfig, "steps", default=800)
    learning_rate: float = changed(TrainingConfig, "learning_rate", flag="lr", default=3e-3)
    warmup_steps: int = changed(TrainingConfig, "warmup_steps", flag="warmup")
    record_every: int = changed(
        TrainingConfig, "record_every",
        default=lambda known: min(
            record_every(known["steps"], known["eval_every"]), MOST_STEPS_BETWEEN_RECORDS
        ),
    )  # fmt: skip
    dtype: str = changed(TrainingConfig, "dtype", cpu="float32", cuda="bfloat16")

    def training(self) -> TrainingConfig:
        """The loop's configuration alone."""
        return TrainingConfig(**{name: getattr(self, name) for name in TrainingConfig.settings()})

    def model_config(self, vocab_size: int) -> ModelConfig:
        """The model's configuration at a vocabulary.

        Raises:
            UserError: an unknown family, preset or field, or an impossible combination.
        """
        requirements.require_tokenizers_vocabulary(self.overrides)
        options = {"ffn": self.ffn, **self.overrides, "vocab_size": vocab_size}
        requirements.require_models([self.model], self.preset, self.plugins)
        config = requirements.model_config(self.model, self.preset, options)
        if self.seq_len > config.max_len:
            raise UserError(f"context: {self.seq_len} is beyond the model's {config.max_len}")
        return config


def settled(asked: Mapping[str, Any]) -> TrainSettings:
    """The settings of a new training: what was asked for, defaults for the rest.

    Args:
        asked: by field, as :meth:`TrainSettings.parse` gives them.

    Raises:
        UserError: values that do not go together, or that this machine cannot do.
    """
    device, threads = requirements.machine(asked.get("device"), asked.get("threads"))
    if asked.get("threads") is None:
        threads = beside_others(threads)
    return TrainSettings(**{**asked, "device": device, "threads": threads})
