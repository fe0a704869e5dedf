"""How a model is trained, and what a training tells of itself.

No torch here, so that a configuration is checked before anything heavy is imported.

    >>> config = TrainingConfig(steps=1000, batch_size=8, seq_len=256, learning_rate=3e-3)
    >>> config.warmup_steps, config.eval_every, config.record_every
    (50, 100, 10)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from retbench.errors import Misfit

RECORDS = 100
"""A training of the default intervals makes at most so many records, and a tenth as many estimates
on the dev split."""

AUTOMATIC = -1
"""Stands for a value that follows from the number of steps."""

_DTYPES = ("float32", "bfloat16")
_KINDS: dict[str, tuple[type, ...]] = {
    "int": (int,), "float": (float, int), "bool": (bool,), "str": (str,),
}  # fmt: skip


@dataclass(frozen=True)
class TrainingConfig:
    """The optimizer, its schedule, and how a step is computed.

    Attributes:
        steps: optimizer steps.
        batch_size: sequences of one optimizer step.
        seq_len: tokens of a sequence.
        learning_rate: the peak, reached after the warm-up.
        final_ratio: rate of the last step over the peak.
        warmup_steps: steps over which the rate rises linearly; a twentieth of all by default.
        weight_decay: AdamW's, on parameters of two and more dimensions alone.
        beta1: decay of AdamW's first moment.
        beta2: decay of AdamW's second moment.
        grad_clip: the gradient's norm is scaled down to this; 0 for never.
        accumulate: parts that a batch is computed in, one after the other, to save memory.
        seed: of the weights and of the order of the data; :func:`retbench.training.loop.train`
            itself draws nothing.
        eval_every: steps between estimates on the dev split; by default a tenth of all.
        record_every: steps between records; by default at most a hundredth of all, and a divisor
            of ``eval_every``.
        dtype: ``float32``, or ``bfloat16`` for autocast: weights and optimizer stay in float32.
        compile: whether forward and backward pass go through ``torch.compile``.
        checkpoint_activations: whether activations inside the blocks are computed anew in the
            backward pass, to save memory.

    Raises:
        Misfit: a field is of a wrong type or out of its range.
    """

    steps: int
    batch_size: int
    seq_len: int
    learning_rate: float = 1e-3
    final_ratio: float = 0.1
    warmup_steps: int = AUTOMATIC
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.98
    grad_clip: float = 1.0
    accumulate: int = 1
    seed: int = 0
    eval_every: int = AUTOMATIC
    record_every: int = AUTOMATIC
    dtype: str = "float32"
    compile: bool = False
    checkpoint_activations: bool = False

    def __post_init__(self) -> None:
        """Check every field and settle those that follow from others."""
        for entry in fields(self):
            self._check_type(entry.name, str(entry.type))
        self._check_ranges()
        if self.warmup_steps == AUTOMATIC:
            object.__setattr__(self, "warmup_steps", self.steps // 20)
        least = -(-self.steps // RECORDS)
        if self.eval_every == AUTOMATIC:
            tenth = max(1, round(self.steps / 10 / least)) * least
            object.__setattr__(self, "eval_every", tenth)
        if self.record_every == AUTOMATIC:
            object.__setattr__(self, "record_every", _divisor(self.eval_every, least))

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

    def to_json(self) -> dict[str, Any]:
        """Every field."""
        return asdict(self)

    def _check_type(self, name: str, kind: str) -> None:
        value = getattr(self, name)
        if type(value) not in _KINDS[kind]:
            raise _misfit(name, f"must be {_WORDS[kind]}, not {value!r}")
        if kind == "float" and not math.isfinite(value):
            raise _misfit(name, f"must be finite, not {value}")

    def _check_ranges(self) -> None:
        for name in ("steps", "batch_size", "seq_len", "accumulate"):
            self._check(name, "must be at least 1", lambda value: value >= 1)
        for name in ("eval_every", "record_every"):
            self._check(name, "must be at least 1", lambda v: v >= 1 or v == AUTOMATIC)
        self._check("learning_rate", "must be above 0", lambda value: value > 0)
        self._check("final_ratio", "must be from 0 to 1", lambda value: 0 <= value <= 1)
        for name in ("weight_decay", "grad_clip", "seed"):
            self._check(name, "must not be negative", lambda value: value >= 0)
        for name in ("beta1", "beta2"):
            self._check(name, "must be at least 0 and below 1", lambda value: 0 <= value < 1)
        within = f"must be at least 0 and below the {self.steps} steps"
        self._check("warmup_steps", within, lambda v: 0 <= v < self.steps or v == AUTOMATIC)
        if self.batch_size % self.accumulate:
            batch = f"the batch of {self.batch_size}"
            raise _misfit("accumulate", f"{self.accumulate} parts do not divide {batch}")
        if self.dtype not in _DTYPES:
            raise _misfit("dtype", f"must be float32 or bfloat16 in training, not {self.dtype!r}")

    def _check(self, name: str, demand: str, holds: Callable[[Any], bool]) -> None:
        value = getattr(self, name)
        if not holds(value):
            raise _misfit(name, f"{demand}, not {value}")


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
        status: ``diverged`` where the loss was not finite, or stayed above its start.
        cause: what was seen; None where all went well.
        records: the loss curves, in the order of steps.
        seconds: time of all steps, counted as in :class:`Record`.
        tokens_per_s: tokens of all steps over that.
    """

    status: Literal["ok", "diverged"]
    cause: str | None
    records: list[Record] = field(default_factory=list)
    seconds: float = 0.0
    tokens_per_s: float = 0.0


_WORDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}


def _misfit(name: str, problem: str) -> Misfit:
    return Misfit(f"{name}: {problem}", keys=(f"training.{name}", name))


def _divisor(of: int, least: int) -> int:
    """The smallest divisor that is at least ``least``; the number itself where that is smaller."""
    return next((n for n in range(least, of) if of % n == 0), of)
