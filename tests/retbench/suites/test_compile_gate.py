"""The gate of a compiled step: it passes what is eager's but for rounding, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from models.config import ConfigError
from retbench.config.plan import Contender, Point
from retbench.distributed.process_group import Ranks
from retbench.engine.resolve import resolve
from retbench.suites.base import CellFailure
from retbench.suites.quality import tuning_points
from retbench.suites.session import Rows
from retbench.suites.step_cell import TrainingMeasurer
from retbench.suites.text_cell import PerplexityMeasurer
from retbench.workers.worker import open_session

Change = Callable[[Tensor], Tensor]
BATCH = 10  # more than parts, so that some have two sequences


def prepare(dtype: str = "float32", batch: int = BATCH) -> None:
    """Have a cell checked whose step goes through ``torch.compile``."""
    config = resolve(
        "training", preset="tiny", context=32, batch=batch, batch_context=32, modes="compile",
        tokens_per_step=32 * batch, profile="smoke", threads=1, device="cpu", models="retnet",
        tokenizer="byte", variants="parallel", dtype=dtype, overrides={"n_layers": 1},
    )  # fmt: skip
    session = open_session(config, Contender("retnet", "retnet", {"n_layers": 1}), 0, 0)
    rows = Rows(session, Point(32, batch, (("mode", "compile"),)))
    with rows.closing:
        TrainingMeasurer().prepare(rows, lambda _: None)
    assert all(weight.grad is None for weight in session.subject.parameters())


@pytest.fixture
def miscompiled(monkeypatch: pytest.MonkeyPatch) -> Callable[[Change], None]:
    """Has what ``torch.compile`` makes put something else in place of the mixers' outputs."""

    def install(change: Change) -> None:
        from models.mixers.multiscale import MultiScaleRetention

        right = MultiScaleRetention.forward
        wrong: list[None] = []

        def forward(self: Any, *arguments: Any) -> Any:
            out = right(self, *arguments)
            return change(out) if wrong else out

        def compile_(function: Callable[..., Any], **_: Any) -> Callable[..., Any]:
            def compiled(*arguments: Any, **named: Any) -> Any:
                torch._dynamo.utils.counters["stats"]["unique_graphs"] += 1
                wrong.append(None)
                try:
                    return function(*arguments, **named)
                finally:
                    wrong.pop()

            return compiled

        monkeypatch.setattr(MultiScaleRetention, "forward", forward)
        monkeypatch.setattr(torch, "compile", compile_)

    return install


def one_sequence(out: Tensor) -> Tensor:
    """The mixing of the last sequence left out."""
    return torch.cat((out[:-1], out[-1:] * 0))


def another_sequences(out: Tensor) -> Tensor:
    """The last two sequences exchanged."""
    return torch.cat((out[:-2], out[-1:], out[-2:-1]))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("change", [torch.zeros_like, one_sequence, another_sequences])
def test_a_compiled_step_whose_mixing_is_wrong_is_not_timed(
    miscompiled: Callable[[Change], None], change: Change, dtype: str
) -> None:
    miscompiled(change)
    with pytest.raises(CellFailure, match="compiled step's gradients are not the eager one's: "):
        prepare(dtype)


def test_the_last_of_many_sequences_is_judged_alone(
    miscompiled: Callable[[Change], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retbench.suites.training_gate.PARTS", 1)
    miscompiled(lambda out: torch.cat((out[:-1], out[-1:] * 0.85)))  # lost in the others' rounding
    with pytest.raises(CellFailure, match="compiled step's gradients are not the eager one's: "):
        prepare("bfloat16", 40)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_compiled_step_that_is_right_passes_and_is_compiled_once(
    monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    # Inductor's gradients are as near: 8e-7 in float32 and 0.026 in bfloat16, eager's own 0.030.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    with torch._dynamo.config.patch(error_on_recompile=True):
        prepare(dtype)


def train_one() -> None:
    """Have a cell of a suite of quality trained, its steps through ``torch.compile``."""
    config = resolve(
        "perplexity", preset="tiny", context=32, batch=BATCH, steps=2, lr="1e-3", mode="compile",
        profile="smoke", threads=1, device="cpu", models="retnet", tokenizer="byte",
        overrides={"n_layers": 1},
    )  # fmt: skip
    session = open_session(config, Contender("retnet", "retnet", {"n_layers": 1}), 0, 0)
    point = tuning_points(config, ())[0]
    rows = Rows(session, point, {"steps": 2, "learning_rate": 1e-3})
    PerplexityMeasurer().prepare(rows, lambda _: None)


@pytest.mark.parametrize("change", [torch.zeros_like, one_sequence])
def test_a_training_whose_compiled_step_is_wrong_is_not_made(
    miscompiled: Callable[[Change], None], change: Change
) -> None:
    miscompiled(change)
    with pytest.raises(CellFailure, match="compiled step's gradients are not the eager one's: "):
        train_one()


def test_trainings_whose_steps_are_compiled_are_made_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("retbench.suites.text_cell.DEV_TOKENS", 512)
    monkeypatch.setattr("retbench.suites.text_cell.FINAL_DEV_TOKENS", 512)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    with torch._dynamo.config.patch(error_on_recompile=True):
        train_one()
        train_one()
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    with pytest.raises(ConfigError, match="compiled nothing"):
        train_one()


def test_a_step_of_which_nothing_was_compiled_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    with pytest.raises(ConfigError, match="compiled nothing"):
        prepare()


def test_layers_that_are_compiled_one_by_one_are_compared_with_eager_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called: list[str] = []

    def backend(graph: Any, _: Any) -> Any:
        def half(*arguments: Any) -> Any:
            called.append("compiled")
            return tuple(0.5 * out for out in graph(*arguments))

        return half

    monkeypatch.setattr(Ranks, "compiles", "layer")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    with pytest.raises(CellFailure, match="compiled step's gradients are not the eager one's: "):
        prepare()
    assert called
