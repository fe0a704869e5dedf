"""The recall tasks: every answer follows from what was read, and nothing is asked twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from retbench.data import recall
from retbench.data.recall import ASK, DELIMITER, IGNORED, TASKS, RecallBatches
from retbench.errors import UserError


def answer(task: str, tokens: list[int], at: int) -> int:
    """What a reader with perfect memory says after the token at ``at``."""
    read = tokens[: at + 1]
    if task == "needle":
        return read[read.index(ASK) + 1]
    if task == "mqar":
        return read[read.index(read[at]) + 1]
    copied = at - read.index(DELIMITER)
    first = next(i for i, token in enumerate(read) if token != recall.FILLER)
    return read[first + copied]


@pytest.mark.parametrize("name", list(TASKS))
@pytest.mark.parametrize("length", [32, 63, 64, 256])
def test_a_perfect_memory_is_always_right(name: str, length: int) -> None:
    task = TASKS[name]
    for load in task.fitting(length):
        tokens, targets = recall.test_set(task, length, load, 0, 20)
        assert tokens.shape == targets.shape == (20, length)
        assert tokens.min() >= 0 and tokens.max() < recall.VOCAB_SIZE
        for row, goal in zip(tokens.tolist(), targets.tolist(), strict=True):
            asked = [i for i, target in enumerate(goal) if target != IGNORED]
            assert asked
            assert [answer(name, row, i) for i in asked] == [goal[i] for i in asked]


@pytest.mark.parametrize("name", list(TASKS))
def test_guessing_is_right_as_often_as_is_said(name: str) -> None:
    task = TASKS[name]
    _, targets = recall.test_set(task, 64, task.loads[0], 0, 400)
    answers = targets[targets != IGNORED]
    counts = np.bincount(answers)
    assert (counts > 0).sum() == round(1 / task.chance)
    assert counts.max() / len(answers) < 3 * task.chance


def test_every_pair_is_asked_for() -> None:
    tokens, targets = recall.test_set(TASKS["mqar"], 64, 16, 0, 20)
    for row, goal in zip(tokens, targets, strict=True):
        assert set(row[goal != IGNORED]) == set(row[:32:2])


def test_a_needle_lies_anywhere() -> None:
    tokens, _ = recall.test_set(TASKS["needle"], 64, 1, 0, 400)
    places = {row.tolist().index(ASK) for row in tokens}
    assert min(places) < 4 and max(places) > 56


def batches(name: str = "mqar", **changes: Any) -> RecallBatches:
    given = {"task": TASKS[name], "batch_size": 8, "seq_len": 64, "seed": 0} | changes
    return RecallBatches(**given)


@pytest.mark.parametrize("name", list(TASKS))
def test_training_and_test_have_no_sequence_in_common(name: str) -> None:
    task = TASKS[name]
    trained = {tuple(row) for step in range(30) for row in batches(name).batch(step)[0].tolist()}
    tested = {
        tuple(row)
        for load in task.fitting(64)
        for row in recall.test_set(task, 64, load, 0, 50)[0].tolist()
    }
    chosen_by = {tuple(row) for row in recall.dev_set(task, 64, 0, 50)[0].tolist()}
    assert not trained & tested and not trained & chosen_by and not tested & chosen_by


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    first = batches().batch(5)
    assert all(np.array_equal(a, b) for a, b in zip(first, batches().batch(5), strict=True))
    assert not np.array_equal(first[0], batches().batch(6)[0])
    assert not np.array_equal(first[0], batches(seed=1).batch(5)[0])
    assert batches().digest(9) == batches().digest(9) != batches(seed=1).digest(9)


def test_training_mixes_all_loads_that_fit() -> None:
    source = batches("copy")
    found = {int((goal != IGNORED).sum()) for step in range(20) for goal in source.batch(step)[1]}
    assert found == set(TASKS["copy"].fitting(64))


def test_a_length_that_no_load_fits_into_is_refused() -> None:
    with pytest.raises(UserError, match="4 tokens are too few for the task mqar; it takes 8"):
        batches(seq_len=4)
