"""One training of a suite that compares quality: its curves and its dev loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from retbench.config.plan import Point
from retbench.suites.limits import CellFailure
from retbench.suites.quality import FINAL, training_config
from retbench.suites.session import Rows, Session
from retbench.training.config import Record, TrainingConfig

if TYPE_CHECKING:
    from models.protocol import LanguageModel
    from retbench.data.batches import BatchSource


class OrderedSource(Protocol):
    """A source of batches whose order can be told from another's."""

    def batch(self, step: int) -> Any:
        """See :class:`retbench.data.batches.BatchSource`."""

    def digest(self, steps: int) -> int:
        """A fingerprint of the first ``steps`` batches, below 2**48."""


@dataclass(frozen=True)
class Material:
    """What a model is trained on and chosen by.

    Attributes:
        source: gives the training batches.
        dev: a quick estimate of the loss on the dev split, in nat/token.
        final_dev: the loss by which the learning rate is chosen, in nat/token.
    """

    source: OrderedSource
    dev: Callable[[LanguageModel], float]
    final_dev: Callable[[LanguageModel], float]


def training_seed(session: Session, point: Point) -> int:
    """The seed of weights and data: one for all tuning, another for each block's final training."""
    is_final = point.setting("stage") == FINAL
    return int(session.config.seed) + (1 + session.block if is_final else 0)


def train_cell(
    rows: Rows,
    material: Callable[[int], Material],
    progress: Callable[[str], None],
) -> LanguageModel:
    """Train a cell's model, and add its curves and its dev loss to the rows.

    Args:
        rows: take the cell's samples.
        material: what to train on, for a seed.
        progress: takes what goes on.

    Returns:
        The trained model, in evaluation mode.

    Raises:
        CellFailure: if the training diverges.
    """
    import torch

    from retbench.training.loop import train

    session, point = rows.session, rows.point
    seed = training_seed(session, point)
    steps, rate = rows.brief["steps"], rows.brief["learning_rate"]
    config = training_config(session.config, point, steps, rate, seed)
    stuff = material(seed)
    model = session.build(point, seed)
    _add_analytic(rows, model, config, stuff.source.digest(config.steps))

    def observe(record: Record) -> None:
        _add_record(rows, record)
        stage = point.setting("stage")
        progress(
            f"{stage}, rate {config.learning_rate:g}: step {record.step}/{config.steps}, "
            f"loss {record.train_loss:.3f}"
        )

    source: BatchSource = stuff.source
    progress("training")
    done = train(model, source, config, dev=lambda: stuff.dev(model), observe=observe)  # type: ignore[arg-type]
    rows.add("train", "learning_rate", config.learning_rate)
    if done.status != "ok":
        raise CellFailure("error", f"the training diverged: {done.cause}")
    rows.add("train", "train_tokens_per_s", done.tokens_per_s)
    model.eval()  # type: ignore[attr-defined]
    with torch.inference_mode(), session.autocast():
        loss = stuff.final_dev(model)
    if not math.isfinite(loss):
        raise CellFailure("error", f"the loss on the dev split is {loss}")
    rows.add("train", "final_dev_loss", loss)
    return model


def _add_analytic(rows: Rows, model: LanguageModel, config: TrainingConfig, order: int) -> None:
    tokens = config.steps * config.tokens_per_step
    flops = model.flops_per_token(config.seq_len, "train") * tokens
    for metric, value in (
        ("parameters", model.num_parameters()), ("train_tokens", tokens), ("train_flops", flops),
        ("data_order", order),
    ):  # fmt: skip
        rows.add("analytic", metric, value, implementation="analytic")


def _add_record(rows: Rows, record: Record) -> None:
    implementation = rows.session.training_implementation
    for metric, value in (
        ("train_loss", record.train_loss), ("dev_loss", record.dev_loss),
        ("train_s", record.seconds),
    ):  # fmt: skip
        if value is not None and math.isfinite(value):
            rows.add("train", metric, value, index=record.step, implementation=implementation)
