"""Batches are functions of seed and step; the thread that makes them tells what goes wrong."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from retbench.data.batches import RandomWindows, prefetch
from retbench.errors import UserError

TOKENS = np.random.default_rng(0).integers(60, size=5000).astype(np.uint16)


def windows(seed: int = 0, tokens: Any = TOKENS) -> RandomWindows:
    return RandomWindows(tokens, batch_size=4, seq_len=16, seed=seed)


def test_targets_are_the_next_tokens() -> None:
    inputs, targets = windows().batch(3)
    assert inputs.shape == targets.shape == (4, 16)
    assert inputs.dtype == targets.dtype == np.int64
    assert np.array_equal(inputs[:, 1:], targets[:, :-1])
    starts = windows().starts(3)
    assert np.array_equal(inputs[1], TOKENS[starts[1] : starts[1] + 16])


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    source = windows()
    later = source.batch(7)[0]
    source.batch(2)
    assert np.array_equal(source.batch(7)[0], later)
    assert np.array_equal(windows().batch(7)[0], later)
    assert not np.array_equal(source.batch(8)[0], later)
    assert not np.array_equal(windows(seed=1).batch(7)[0], later)


def test_every_place_of_the_text_is_drawn() -> None:
    short = RandomWindows(TOKENS[:20], batch_size=64, seq_len=16, seed=0)
    drawn = {int(start) for step in range(8) for start in short.starts(step)}
    assert drawn == {0, 1, 2, 3}


def test_the_fingerprint_tells_order_and_text_apart() -> None:
    known = windows().digest(10)
    assert known == windows().digest(10) < 2**48
    assert known != windows().digest(11)
    assert known != windows(seed=1).digest(10)
    other = TOKENS.copy()
    other[17] += 1
    assert known != windows(tokens=other).digest(10)


def test_a_text_shorter_than_a_window_is_refused() -> None:
    with pytest.raises(UserError, match="has 16 tokens, less than one window of 17"):
        windows(tokens=TOKENS[:16])


def test_batches_come_in_order_as_tensors() -> None:
    source = windows()
    found = list(prefetch(source, range(3, 12), "cpu"))
    assert len(found) == 9
    for step, (inputs, targets) in enumerate(found, 3):
        expected = source.batch(step)
        assert np.array_equal(inputs.numpy(), expected[0])
        assert np.array_equal(targets.numpy(), expected[1])


def test_an_error_in_the_thread_is_raised_where_the_batch_is_used() -> None:
    class Broken:
        def batch(self, step: int) -> Any:
            if step == 2:
                raise ValueError("no such batch")
            return windows().batch(step)

    batches = prefetch(Broken(), range(5), "cpu")
    next(batches), next(batches)
    with pytest.raises(ValueError, match="no such batch"):
        next(batches)


def test_closing_ends_the_thread() -> None:
    batches = prefetch(windows(), range(10**6), "cpu")
    next(batches)
    batches.close()
    assert not any(thread.name.startswith("batches") for thread in threading.enumerate())
