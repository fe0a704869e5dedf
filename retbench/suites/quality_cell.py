"""One cell of a suite that compares quality: a training, its curves and its dev loss, its tests."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from models.protocol import LanguageModel
from retbench.data.batches import RandomWindows
from retbench.data.recall import RecallBatches
from retbench.suites.base import CellFailure
from retbench.suites.cell import Cell
from retbench.suites.measurer import Measurer, Progress
from retbench.suites.quality import DIVERGED, FINAL, training_config
from retbench.suites.session import Rows, Session
from retbench.suites.training_gate import check_model, check_step
from retbench.training.config import Record, TrainingConfig
from retbench.training.loop import train

_UNTUNED = ("weight_decay", "beta1", "beta2", "grad_clip", "warmup_steps", "final_ratio")


@dataclass(frozen=True)
class Material:
    """What a model is trained on and chosen by.

    Attributes:
        source: gives the training batches.
        dev: a quick estimate of the loss on the dev split, in nat/token.
        final_dev: the loss by which the learning rate is chosen, in nat/token.
    """

    source: RandomWindows | RecallBatches
    dev: Callable[[LanguageModel], float]
    final_dev: Callable[[LanguageModel], float]


class QualityMeasurer(Measurer):
    """Trains a model for each cell, then tests it, unless the cell only tries a learning rate."""

    trains = True

    @abstractmethod
    def material(self, rows: Rows, seed: int) -> Material:
        """What a cell's model is trained on and chosen by, for a seed."""

    @abstractmethod
    def test(self, rows: Rows, model: LanguageModel, progress: Progress) -> None:
        """Add what a trained model is tested for, under the training's autocast."""

    def describe(self, session: Session) -> dict[str, Any]:
        """As any suite does, and what of the training is not tuned."""
        config = session.config
        trained = training_config(config, config.steps, config.learning_rates[0], 0)
        untuned = {name: getattr(trained, name) for name in _UNTUNED}
        return super().describe(session) | {"training": untuned}

    def verify(self, session: Session) -> float:
        """No model sees the future, or another sequence; its gradients are those of its formula."""
        return check_model(session)

    def prepare(self, rows: Rows, progress: Progress) -> Cell:
        """Train; then, unless this is a tuning cell, test. Nothing is timed in turns."""
        model = self._trained(rows, progress)
        if rows.point.setting("stage") == FINAL:
            progress("test")
            with rows.session.autocast():
                self.test(rows, model, progress)
        return Cell(rows)

    def _trained(self, rows: Rows, progress: Progress) -> LanguageModel:
        """The cell's model in evaluation mode; its curves and its dev loss are in the rows."""
        session, stage = rows.session, rows.point.setting("stage")
        # One seed of weights and data for all tuning, another for each block's final training.
        seed = int(session.config.seed) + (1 + session.block if stage == FINAL else 0)
        steps, rate = rows.brief["steps"], rows.brief["learning_rate"]
        config = training_config(session.config, steps, rate, seed)
        stuff = self.material(rows, seed)
        model = session.build(rows.point, seed)
        _add_analytic(rows, model, config, stuff.source.digest(config.steps))

        def observe(record: Record) -> None:
            _add_record(rows, record)
            progress(
                f"{stage}, rate {config.learning_rate:g}: step {record.step}/{config.steps}, "
                f"loss {record.train_loss:.3f}"
            )

        progress("training")
        done = train(
            model,  # type: ignore[arg-type]
            stuff.source,
            config,
            dev=lambda: stuff.dev(model),
            observe=observe,
            check=lambda step, batch: check_step(step, model, batch, config),  # type: ignore[arg-type]
        )
        rows.add("train", "learning_rate", config.learning_rate)
        if done.cause is not None:
            raise CellFailure("error", f"{DIVERGED}: {done.cause}")
        rows.add("train", "train_tokens_per_s", done.tokens_per_s)
        model.eval()  # type: ignore[attr-defined]
        with torch.inference_mode(), session.autocast():
            loss = stuff.final_dev(model)
        if not math.isfinite(loss):
            raise CellFailure("error", f"{DIVERGED}: the loss on the dev split is {loss}")
        rows.add("train", "final_dev_loss", loss)
        return model


def _add_analytic(rows: Rows, model: LanguageModel, config: TrainingConfig, order: int) -> None:
    tokens = config.steps * config.tokens_per_step
    rows.add_analytic({
        "parameters": model.num_parameters(), "train_tokens": tokens,
        "train_flops": model.flops_per_token(config.seq_len, "train") * tokens,
        "data_order": order,
    })  # fmt: skip


def _add_record(rows: Rows, record: Record) -> None:
    implementation = rows.session.training_implementation
    for metric, value in (
        ("train_loss", record.train_loss), ("dev_loss", record.dev_loss),
        ("train_s", record.seconds),
    ):  # fmt: skip
        if value is not None and math.isfinite(value):
            rows.add("train", metric, value, index=record.step, implementation=implementation)
