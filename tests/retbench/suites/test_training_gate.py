"""What must be right of a model before it is trained for a verdict."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from models import families
from models.registry import config_for
from retbench import suites
from retbench.config.plan import Contender
from retbench.suites.base import CellFailure
from retbench.suites.session import Session
from retbench.suites.training_gate import check_causality
from retbench.workers.worker import open_session

from .small_trainings import small


class Seer:
    """A model whose outputs are of the token after at some positions, or always the same."""

    seen = None
    sees = slice(None)
    of_row = 0  # over how many rows of the batch another sequence is seen

    config = type("Config", (), {"max_len": 600, "vocab_size": 8})()

    def __call__(self, tokens: Any, *, form: str | None = None) -> Any:
        if self.seen is not None:
            return torch.full((*tokens.shape, 8), self.seen())
        read = tokens.clone()
        read[:, self.sees] = tokens.roll((self.of_row, -(self.of_row == 0)), (0, 1))[:, self.sees]
        return torch.nn.functional.one_hot(read, 8).float()


def of(model: Any, dtype: str = "float32", context: int = 32) -> Session:
    """A session of a model of any kind."""
    session = object.__new__(Session)
    session.config = small("perplexity", dtype=dtype, context=context)
    session.subject = model
    session.device = torch.device("cpu")
    return session


def built(suite: str, family: str, **changes: Any) -> Session:
    """A session of a family's model of a suite."""
    config = small(suite, models=family, **changes)
    suites.get(suite).data(config)
    return open_session(config, Contender(family, family, config.overrides_for(family)), 0, 0)


def test_a_transform_whose_last_digits_bfloat16_rounds_apart_sees_no_future() -> None:
    assert check_causality(of(config_for("h3", "1m", vocab_size=64).build(), "bfloat16")) <= 1e-5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("sees", "context"),
    [
        (slice(None), 32), (slice(64), 32), (slice(64, None), 32), (slice(192, 256), 32),
        (slice(256, 320), 512), (slice(448, 512), 512),
    ],
)  # fmt: skip
def test_a_model_that_sees_the_future_is_never_trained(
    dtype: str, sees: slice, context: int
) -> None:
    model = Seer()
    model.sees = sees
    session = of(model, dtype, context)
    with pytest.raises(CellFailure, match="the model sees the future"):
        check_causality(session)


def test_what_a_model_keeps_of_its_first_call_may_be_differentiated() -> None:
    kept: list[torch.Tensor] = []

    class Keeper(Seer):
        sees = slice(0, 0)

        def __call__(self, *given: Any, **options: Any) -> Any:
            kept.append(torch.ones(1))
            return super().__call__(*given, **options)

    check_causality(of(Keeper()))
    assert not any(tensor.is_inference() for tensor in kept)


@pytest.mark.parametrize("of_row", [1, -1, 2])
@pytest.mark.parametrize("sees", [slice(64, 128), slice(-1, None)])
def test_a_model_that_sees_another_sequence_of_its_batch_is_never_trained(
    of_row: int, sees: slice
) -> None:
    model = Seer()
    model.sees, model.of_row = sees, of_row
    with pytest.raises(CellFailure, match="the future, or another sequence"):
        check_causality(of(model))


@pytest.mark.parametrize("suite", ["perplexity", "scaling", "recall"])
def test_a_model_whose_gradient_is_not_its_formulas_is_never_trained(
    monkeypatch: pytest.MonkeyPatch, suite: str
) -> None:
    from models.mixers import multiscale

    exact = multiscale.retention_chunkwise

    def half(q: Any, *others: Any) -> Any:
        kept = q.shape[2] // 2  # the right output, and no gradient of half the queries
        return exact(torch.cat((q[:, :, :kept].detach(), q[:, :, kept:]), dim=2), *others)

    monkeypatch.setattr(multiscale, "retention_chunkwise", half)
    with pytest.raises(CellFailure, match="gradients are not those of the formula"):
        suites.measurer_of(suite).verify(built(suite, "retnet"))


def test_a_model_whose_state_is_not_what_was_seen_is_never_trained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = built("perplexity", "retnet")
    score = session.subject.score

    def forgetful(tokens: Any, state: Any) -> Any:
        for layer in state.layers:
            layer.reset()
        return score(tokens, state)

    session.subject.score = forgetful
    with pytest.raises(CellFailure, match="carried on does not reproduce the full forward"):
        suites.measurer_of("perplexity").verify(session)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", families())
def test_every_contender_passes_the_gate_of_a_training(family: str, dtype: str) -> None:
    error = suites.measurer_of("perplexity").verify(built("perplexity", family, dtype=dtype))
    assert 0 < error <= {"float32": 1e-5, "bfloat16": 0.05}[dtype]


def test_a_model_whose_logits_are_all_zero_sees_no_future() -> None:
    model = Seer()
    model.seen = lambda: 0.0  # type: ignore[assignment]
    assert check_causality(of(model)) == 0


@pytest.mark.parametrize("form", [0, 1])
def test_a_model_without_numbers_is_never_trained(form: int) -> None:
    model = Seer()
    model.forms = ("chunkwise",)  # type: ignore[attr-defined]
    calls = iter(range(4))
    model.seen = lambda: float("nan") if next(calls) // 2 == form else 1.0  # type: ignore[attr-defined]
    with pytest.raises(CellFailure, match="logits are no numbers"):
        check_causality(of(model))
