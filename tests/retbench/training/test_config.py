"""The schedule, the defaults that follow from the number of steps, and the checks."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retbench.errors import Misfit
from retbench.training.config import RECORDS, Record, TrainingConfig


def config(**given: Any) -> TrainingConfig:
    return TrainingConfig(**{"steps": 100, "batch_size": 4, "seq_len": 8} | given)


def test_the_rate_rises_to_its_peak_and_ends_at_its_share() -> None:
    made = config(learning_rate=0.5, warmup_steps=10, final_ratio=0.1)
    rates = [made.rate(step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.05 * (step + 1) for step in range(10)])
    assert max(rates) == rates[9] == 0.5
    assert all(late < early for early, late in pairwise(rates[9:]))
    assert rates[-1] == pytest.approx(0.05)
    assert rates[54] == pytest.approx(0.05 + 0.45 / 2)  # half way down: the cosine's middle


def test_no_warm_up_begins_at_once() -> None:
    assert config(warmup_steps=0, learning_rate=1.0, steps=2).rate(0) == pytest.approx(0.55)


@given(st.integers(1, 10**6))
def test_the_defaults_keep_records_few_and_estimates_at_records(steps: int) -> None:
    made = config(steps=steps)
    assert -(-steps // made.record_every) <= RECORDS
    assert made.eval_every % made.record_every == 0
    assert made.warmup_steps < steps
    assert 1 <= -(-steps // made.eval_every) <= max(14, steps)


def test_own_intervals_are_kept() -> None:
    made = config(steps=1000, eval_every=25, warmup_steps=0)
    assert (made.eval_every, made.record_every, made.warmup_steps) == (25, 25, 0)
    assert config(steps=1000, eval_every=3).record_every == 3
    assert config(steps=1000, eval_every=10**18 + 3).record_every == 10  # a prime: none divides it
    assert config(steps=10**18, eval_every=10**18 - 11).record_every == 10**18 - 11  # nor this


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("steps", 0, "steps: must be at least 1, not 0"),
        ("steps", 1.5, r"steps: must be a whole number, not 1\.5"),
        ("steps", True, "steps: must be a whole number"),
        ("learning_rate", 0.0, "learning_rate: must be above 0"),
        ("learning_rate", float("nan"), "learning_rate: must be finite"),
        ("final_ratio", 1.5, "final_ratio: must be from 0 to 1"),
        ("warmup_steps", 100, "warmup_steps: must be at least 0 and below the 100 steps"),
        ("weight_decay", -0.1, "weight_decay: must not be negative"),
        ("beta2", 1.0, "beta2: must be at least 0 and below 1"),
        ("accumulate", 3, "accumulate: 3 parts do not divide the batch of 4"),
        ("eval_every", 0, "eval_every: must be at least 1"),
        ("dtype", "float16", "dtype: must be float32 or bfloat16"),
        ("compile", 1, "compile: must be true or false"),
    ],
)
def test_what_cannot_be_is_named(field: str, value: Any, says: str) -> None:
    with pytest.raises(Misfit, match=says) as caught:
        config(**{field: value})
    assert caught.value.keys == (f"training.{field}", field)


def test_a_record_of_an_infinite_loss_can_be_written_as_json() -> None:
    record = Record(1, 8, 0.1, float("inf"), float("nan"), 0.1)
    assert record.to_json() | {"seconds": 0} == {
        "step": 1, "tokens": 8, "seconds": 0, "train_loss": None, "dev_loss": None,
        "learning_rate": 0.1,
    }  # fmt: skip
