"""The recall suite: what a model can read back exactly, and what that costs in state.

A model that carries a state of constant size cannot hold everything it has read; one that caches
every token can. A layer of a RetNet keeps 2 d d_k numbers, one of a Transformer 2 d for each token:
as many at T = d_k tokens, and from there on RetNet's budget is the smaller, by d_k / T. So the
regime is capacity, not time: what decides is the load over the state. Each task is trained from
scratch, at one length with mixed loads, and tested over lengths, those beyond the training's
included, and over loads. Where attention wins, this shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from retbench.config import values as value
from retbench.config.plan import Point, Setting
from retbench.config.settings import changed, setting
from retbench.data import recall as tasks
from retbench.errors import Misfit, UserError
from retbench.suites.quality import FINAL, QualityConfig, QualitySuite
from retbench.suites.quality_cell import Material, train_cell
from retbench.suites.session import Rows, Session

if TYPE_CHECKING:
    from models.config import ModelConfig
    from models.protocol import LanguageModel

LENGTHS = (0.5, 1, 2, 4)
"""Lengths to test at, over that of the training."""

DEV_SEQUENCES = 256
TEST_SEQUENCES = 128
_BATCH_TOKENS = 16384


@dataclass(frozen=True, kw_only=True)
class RecallConfig(QualityConfig):
    """What a model reads back exactly, and what that costs in state."""

    suite = "recall"
    tasks: tuple[str, ...] = setting(
        value.SomeOf(tuple(tasks.TASKS), "task"), "Tasks, each trained by itself.",
        default=("mqar", "copy", "needle"),
    )  # fmt: skip
    preset: str = changed(QualityConfig, "preset", default="tiny")
    context: tuple[int, ...] = changed(QualityConfig, "context", cpu=(16,), cuda=(256,))
    batch: tuple[int, ...] = changed(QualityConfig, "batch", cpu=(64,), cuda=(256,))
    steps: int = changed(QualityConfig, "steps", cpu=1600, cuda=10_000)
    learning_rates: tuple[float, ...] = changed(
        QualityConfig, "learning_rates", cpu=(5e-4, 1e-3), cuda=(3e-4, 1e-3, 3e-3)
    )


class RecallSuite(QualitySuite[RecallConfig]):
    """Synthetic recall tasks."""

    config = RecallConfig

    def data(self, config: RecallConfig) -> dict[str, Any]:
        """The tasks are made as they are needed; what they are is kept with the run."""
        return {
            "tasks": {
                name: {"chance": task.chance, "loads": list(task.loads)}
                for name, task in ((name, tasks.TASKS[name]) for name in config.tasks)
            },
            "vocab_size": tasks.VOCAB_SIZE,
            "sequences": TEST_SEQUENCES,
        }

    def model_options(self, config: RecallConfig) -> dict[str, Any]:
        """The tasks' vocabulary."""
        return {"vocab_size": tasks.VOCAB_SIZE}

    def coordinates(self, config: RecallConfig) -> list[tuple[tuple[str, Setting], ...]]:
        """Every task is trained and tuned by itself."""
        return [(("task", name),) for name in config.tasks]

    def steps(self, config: RecallConfig, point: Point) -> int:
        """All of the run's for the hardest task, a share of them for one that is learned sooner."""
        task = tasks.TASKS[str(point.setting("task"))]
        return max(1, round(config.steps * task.share))

    def check(self, config: RecallConfig, models: Mapping[str, ModelConfig]) -> None:
        """Check as any such suite does; a context that each task fits into."""
        super().check(config, models)
        for name in config.tasks:
            try:
                _source(config, name, 0)
            except UserError as problem:
                raise Misfit(problem.message, problem.hint, keys=("context",)) from None

    def measure(self, session: Session, rows: Rows, progress: Callable[[str], None]) -> None:
        """Train on a task; then, unless this is a tuning cell, test over lengths and loads."""
        name = str(rows.point.setting("task"))
        model = train_cell(rows, partial(_material, session, name), progress)
        if rows.point.setting("stage") == FINAL:
            progress("test")
            with session.autocast():
                _add_tests(rows, model, tasks.TASKS[name])


SUITE = RecallSuite()


def _source(config: RecallConfig, name: str, seed: int) -> tasks.RecallBatches:
    return tasks.RecallBatches(tasks.TASKS[name], config.batch[0], config.context[0], seed)


def _material(session: Session, name: str, seed: int) -> Material:
    config = session.config
    dev = tasks.dev_set(tasks.TASKS[name], config.context[0], config.seed, DEV_SEQUENCES)
    loss = partial(_loss, *dev)
    return Material(_source(config, name, seed), loss, loss)


def _loss(tokens: tasks.Ints, targets: tasks.Ints, model: LanguageModel) -> float:
    """Mean nats of the answers."""
    import torch

    from retbench.training.step import next_token_loss

    device = next(model.parameters()).device
    total = 0.0
    for part in _parts(tokens):
        goal = torch.from_numpy(targets[part]).to(device)
        logits = model(torch.from_numpy(tokens[part]).to(device))
        total += float(next_token_loss(logits, goal, "sum"))
    return total / int((targets != tasks.IGNORED).sum())


def _parts(tokens: tasks.Ints) -> list[slice]:
    rows = max(1, _BATCH_TOKENS // tokens.shape[1])
    return [slice(start, start + rows) for start in range(0, len(tokens), rows)]


def _add_tests(rows: Rows, model: LanguageModel, task: tasks.Task) -> None:
    """Accuracy at every length and load that fits, and the state's size at every length."""
    config, session = model.config, rows.session
    for share in LENGTHS:
        length = int(share * rows.point.seq_len)
        loads = task.fitting(length)
        if not loads or length > config.max_len:
            continue
        rows.add(
            "analytic", "state_bytes", model.state_bytes(1, length), seq_len=length,
            implementation="analytic",
        )  # fmt: skip
        for load in loads:
            sequences = tasks.test_set(task, length, load, session.config.seed, TEST_SEQUENCES)
            right, answers = _right(model, *sequences)
            rows.add("recall", "accuracy", right / answers, index=load, seq_len=length)
            rows.add("recall", "answers", answers, index=load, seq_len=length)


def _right(model: LanguageModel, tokens: tasks.Ints, targets: tasks.Ints) -> tuple[int, int]:
    """Answers whose likeliest token is the target, and all answers."""
    import torch

    device = next(model.parameters()).device
    right = 0
    with torch.inference_mode():
        for part in _parts(tokens):
            answers = model(torch.from_numpy(tokens[part]).to(device)).argmax(-1).cpu().numpy()
            right += int(np.sum(answers == targets[part]))
    return right, int((targets != tasks.IGNORED).sum())
