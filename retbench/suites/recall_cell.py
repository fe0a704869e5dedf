"""One cell of the recall suite: what a trained model reads back, over lengths and loads."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from models.protocol import LanguageModel
from retbench.data import recall as tasks
from retbench.data.batches import IGNORED, Ints
from retbench.suites.measurer import Progress
from retbench.suites.quality_cell import Material, QualityMeasurer
from retbench.suites.recall import TEST_SEQUENCES, source
from retbench.suites.session import Rows
from retbench.training.step import next_token_loss

LENGTHS = (0.5, 1, 2, 4)
"""Lengths to test at, over that of the training."""

DEV_SEQUENCES = 256
_BATCH_TOKENS = 16384


class RecallMeasurer(QualityMeasurer):
    """Trains on one synthetic task."""

    def material(self, rows: Rows, seed: int) -> Material:
        """Sequences of every load that fits."""
        config, name = rows.session.config, str(rows.point.setting("task"))
        dev = tasks.dev_set(tasks.TASKS[name], config.context[0], config.seed, DEV_SEQUENCES)
        loss = partial(_loss, *dev)
        return Material(source(config, name, seed), loss, loss)

    def test(self, rows: Rows, model: LanguageModel, progress: Progress) -> None:
        """Accuracy at every length and load that fits, and the state's size at every length."""
        task = tasks.TASKS[str(rows.point.setting("task"))]
        for share in LENGTHS:
            length = int(share * rows.point.seq_len)
            loads = task.fitting(length)
            if not loads or length > model.config.max_len:
                continue
            rows.add_analytic({"state_bytes": model.state_bytes(1, length)}, seq_len=length)
            for load in loads:
                sequences = tasks.test_set(
                    task, length, load, rows.session.config.seed, TEST_SEQUENCES
                )
                right, answers = _right(model, *sequences)
                rows.add("recall", "accuracy", right / answers, index=load, seq_len=length)
                rows.add("recall", "answers", answers, index=load, seq_len=length)


def _loss(tokens: Ints, targets: Ints, model: LanguageModel) -> float:
    """Mean nats of the answers."""
    total = sum(float(next_token_loss(*part, "sum")) for part in _answered(model, tokens, targets))
    return total / int((targets != IGNORED).sum())


def _right(model: LanguageModel, tokens: Ints, targets: Ints) -> tuple[int, int]:
    """Answers whose likeliest token is the target, and all answers."""
    right = 0
    with torch.inference_mode():
        for logits, goal in _answered(model, tokens, targets):
            right += int((logits.argmax(-1) == goal).sum())
    return right, int((targets != IGNORED).sum())


def _answered(
    model: LanguageModel, tokens: Ints, targets: Ints
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The logits of some sequences at a time, and their targets beside them."""
    device = next(model.parameters()).device
    rows = max(1, _BATCH_TOKENS // tokens.shape[1])
    given, goals = (torch.from_numpy(array).split(rows) for array in (tokens, targets))
    for part, goal in zip(given, goals, strict=True):
        yield model(part.to(device)), goal.to(device)
