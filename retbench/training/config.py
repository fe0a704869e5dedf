"""How a model is trained, and what a training tells of itself.

No torch here, so that a configuration is checked before anything heavy is imported.

    >>> config = TrainingConfig(steps=1000, batch_size=8, seq_len=256, learning_rate=3e-3)
    >>> config.warmup_steps, config.eval_every, config.record_every
    (50, 100, 10)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from retbench.config import values as value
from retbench.config.settings import Settings, setting
from retbench.errors import Misfit

RECORDS = 100
"""A training of the default intervals makes at most so many records, and a tenth as many estimates
on the dev split."""

DTYPE = value.OneOf(("float32", "bfloat16"), where=" in training")
"""Reads the types that a training computes in."""


def record_every(steps: int, eval_every: int) -> int:
    """Steps between records: the fewest that divide ``eval_every`` and make no more than RECORDS.

    Args:
        steps: of the training.
        eval_every: steps between estimates; the answer where it makes more records than that. Where
            there is none before the end, nothing has to divide it.
    """
    fewest = -(-steps // RECORDS)
    if eval_every > steps:
        return fewest
    parts = range(eval_every // fewest, 0, -1)  # RECORDS of them at most
    return next((eval_every // n for n in parts if eval_every % n == 0), eval_every)


def _estimate_every(steps: int) -> int:
    fewest = -(-steps // RECORDS)
    return max(1, round(steps / 10 / fewest)) * fewest


_share = value.Number(float, "be from 0 to 1", lambda given: 0 <= given <= 1)
_decay = value.Number(float, "be at least 0 and below 1", lambda given: 0 <= given < 1)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Settings):
    """The optimizer, its schedule, and how a step is computed.

    Raises:
        Misfit: a field is of a wrong type or out of its range.
    """

    steps: int = setting(value.positive, "Optimizer steps.")
    batch_size: int = setting(value.positive, "Sequences of an optimizer step.", metavar="SIZE")
    seq_len: int = setting(value.positive, "Tokens of a sequence.", metavar="LENGTH")
    learning_rate: float = setting(
        value.positive_float, "The peak, reached after the warm-up.", metavar="RATE", default=1e-3
    )
    final_ratio: float = setting(
        _share, "Rate of the last step over the peak.", metavar="RATIO", default=0.1
    )
    warmup_steps: int = setting(
        value.not_negative, "Steps over which the rate rises linearly.", 
        default=lambda known: known["steps"] // 20, shown="a twentieth of all",
    )  # fmt: skip
    weight_decay: float = setting(
        value.not_negative_float, "AdamW's, on parameters of two and more dimensions alone.",
        metavar="DECAY", default=0.1,
    )  # fmt: skip
    beta1: float = setting(_decay, "Decay of AdamW's first moment.", metavar="DECAY", default=0.9)
    beta2: float = setting(_decay, "Decay of AdamW's second moment.", metavar="DECAY", default=0.98)
    grad_clip: float = setting(
        value.not_negative_float, "The gradient's norm is scaled down to this; 0 for never.",
        metavar="NORM", default=1.0,
    )  # fmt: skip
    accumulate: int = setting(
        value.positive, "Parts that a batch is computed in, one after the other, to save memory.",
        metavar="PARTS", default=1,
    )  # fmt: skip
    seed: int = setting(value.seed, "Of the weights and of the order of the data.", default=0)
    eval_every: int = setting(
        value.positive, "Steps between estimates on the dev split.", metavar="STEPS",
        default=lambda known: _estimate_every(known["steps"]), shown="a tenth of all",
    )  # fmt: skip
    record_every: int = setting(
        value.positive, "Steps between records.", metavar="STEPS",
        default=lambda known: record_every(known["steps"], known["eval_every"]),
        shown="a hundredth of all, or the next divisor of --eval-every",
    )  # fmt: skip
    dtype: str = setting(
        DTYPE, "bfloat16 is for autocast: weights and optimizer stay in float32.",
        default="float32",
    )  # fmt: skip
    compile: bool = setting(
        value.boolean, "Train through torch.compile, forward and backward.", default=False
    )
    checkpoint_activations: bool = setting(
        value.boolean, "Compute activations anew in the backward pass, to save memory.",
        default=False,
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Check every field, settle those that were not given, and check what goes together."""
        super().__post_init__()
        if self.warmup_steps >= self.steps:
            within = f"must be at least 0 and below the {self.steps} steps"
            raise self.misfit("warmup_steps", f"{within}, not {self.warmup_steps}")
        if self.batch_size % self.accumulate:
            batch = f"the batch of {self.batch_size}"
            raise self.misfit("accumulate", f"{self.accumulate} parts do not divide {batch}")

    @classmethod
    def misfit(cls, name: str, problem: str) -> Misfit:
        """See :meth:`Settings.misfit`; a run gives these settings by the names of the fields."""
        written = cls.settings()[name].flag or name
        return Misfit(f"{written}: {problem}", keys=(f"training.{name}", name))

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one optimizer step takes in."""
        return self.batch_size * self.seq_len

    def rate(self, step: int) -> float:
        """The learning rate of a step: linear warm-up, then half a cosine.

        Loshchilov and Hutter 2017, arXiv 1608.03983, eq. 5, down to ``final_ratio`` of the peak at
        the last step.

        Args:
            step: the step's number, from 0 on.
        """
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps + 1) / (self.steps - self.warmup_steps)
        cosine = (1 + math.cos(math.pi * done)) / 2
        return self.learning_rate * (self.final_ratio + (1 - self.final_ratio) * cosine)


@dataclass(frozen=True)
class Record:
    """One point of the loss curves.

    Attributes:
        step: optimizer steps made.
        tokens: tokens they took in.
        seconds: time they took; evaluations, checkpoints and what a first pass compiles are not
            counted.
        train_loss: nat/token, mean over the steps since the record before.
        dev_loss: nat/token on the dev split; None where it was not estimated.
        learning_rate: the learning rate of the last step.
    """

    step: int
    tokens: int
    seconds: float
    train_loss: float
    dev_loss: float | None
    learning_rate: float

    def to_json(self) -> dict[str, Any]:
        """Every field; a loss that is not finite becomes None."""
        record = asdict(self)
        for name in ("train_loss", "dev_loss"):
            if record[name] is not None and not math.isfinite(record[name]):
                record[name] = None
        return record


@dataclass(frozen=True)
class Training:
    """How a training ended.

    Attributes:
        records: the loss curves, in the order of steps.
        cause: what was seen where it diverged, the loss not being finite or staying above its
            start; None where all went well.
    """

    records: Sequence[Record]
    cause: str | None = None

    @property
    def status(self) -> Literal["ok", "diverged"]:
        """Whether it diverged."""
        return "diverged" if self.cause else "ok"

    @property
    def seconds(self) -> float:
        """Time of all steps, counted as in :class:`Record`."""
        return self.records[-1].seconds if self.records else 0.0

    @property
    def tokens_per_s(self) -> float:
        """Tokens of all steps over their time."""
        return self.records[-1].tokens / self.seconds if self.seconds > 0 else math.nan
