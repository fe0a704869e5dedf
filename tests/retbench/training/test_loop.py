"""The training loop: what a step computes, what is recorded, and when it stops."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import ConfigError, build
from retbench.distributed.process_group import Ranks
from retbench.errors import UserError
from retbench.training.loop import Record, train
from retbench.training.step import IGNORED, make_optimizer, next_token_loss

FAMILIES = ("retnet", "transformer")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The loop's clock, in seconds; it moves only where a test moves it."""
    now = [0.0]
    stopped = SimpleNamespace(perf_counter=lambda: now[0])
    monkeypatch.setattr("retbench.training.loop.time", stopped)
    return now


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first | second)


def furthest(first: nn.Module, second: nn.Module) -> float:
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return max(float((a.double() - b.double()).detach().abs().max()) for a, b in pairs)


def test_it_is_the_textbook_loop(small: ModuleType) -> None:
    """Against AdamW, clipping and schedule written out, on the same batches."""
    config = small.training(steps=6, grad_clip=0.05, weight_decay=0.3, record_every=1)
    ours, theirs = small.Table(), small.Table()
    training = train(ours, small.source(), config)
    groups = [
        {"params": [theirs.table], "weight_decay": 0.3},
        {"params": [theirs.bias], "weight_decay": 0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    losses = []
    for step in range(6):
        inputs, targets = (torch.from_numpy(array) for array in small.source().batch(step))
        loss = F.cross_entropy(theirs(inputs).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 0.05)
        for group in optimizer.param_groups:
            group["lr"] = config.rate(step)
        optimizer.step()
        losses.append(loss.item())
    assert [r.train_loss for r in training.records] == pytest.approx(losses, rel=1e-6)
    assert furthest(ours, theirs) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_it_learns(small: ModuleType, family: str) -> None:
    training = train(small.decoder(family), small.source(), small.training(steps=60))
    assert training.status == "ok" and training.cause is None
    # The text's own entropy is 0.50 nat/token.
    assert training.records[0].train_loss > 2.5 and training.records[-1].train_loss < 1.0


def test_only_matrices_decay_and_the_optimizer_is_fused(small: ModuleType) -> None:
    model = small.decoder()
    optimizer = make_optimizer(model, small.training(weight_decay=0.2))
    decay = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    for parameter in model.parameters():
        assert decay[id(parameter)] == (0.2 if parameter.ndim >= 2 else 0.0)
    assert all(group["fused"] for group in optimizer.param_groups)


def test_frozen_parameters_stay(small: ModuleType) -> None:
    model = small.Table()
    model.bias.requires_grad_(False)
    train(model, small.source(), small.training())
    assert not model.bias.any()


class Ragged:
    """A batch in which the parts score very different numbers of targets."""

    def __init__(self, source: Any) -> None:
        self._source = source

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        inputs, targets = self._source.batch(step)
        targets = targets.copy()
        targets[0, 1:] = IGNORED
        targets[1] = IGNORED
        return inputs, targets


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_parts_are_the_whole_batch(small: ModuleType, parts: int) -> None:
    """Loss and weights, also where the parts score different numbers of targets, or none."""
    trained = []
    for accumulate in (1, parts):
        model = small.decoder(dtype=torch.float64)
        config = small.training(steps=8, accumulate=accumulate, record_every=1)
        losses = [r.train_loss for r in train(model, Ragged(small.source()), config).records]
        trained.append((losses, model))
    (whole, first), (partwise, second) = trained
    assert partwise == pytest.approx(whole, rel=1e-10)
    assert furthest(first, second) < 1e-9


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointed_activations_change_no_gradient(small: ModuleType, family: str) -> None:
    whole, saving = small.decoder(family), small.decoder(family)
    runs = 0

    def count(*_: object) -> None:
        nonlocal runs
        runs += 1

    saving.layers[0].mixer.register_forward_hook(count)
    config = small.training(steps=4)
    train(whole, small.source(), config)
    train(saving, small.source(), small.training(steps=4, checkpoint_activations=True))
    assert runs == 2 * 4  # forward, and once more for the backward pass
    assert equal(weights(whole), weights(saving))
    assert "forward" not in vars(saving.layers[0])


def test_activations_cannot_be_checkpointed_without_layers(small: ModuleType) -> None:
    with pytest.raises(UserError, match="no layers"):
        train(small.Table(), small.source(), small.training(checkpoint_activations=True))


def test_bfloat16_is_autocast(small: ModuleType) -> None:
    """Products in bfloat16; weights, loss and gradients in float32; the result nearly equal."""
    seen = set()
    model, exact = small.decoder(), small.decoder()
    model.layers[0].ffn.register_forward_hook(lambda _, __, out: seen.add(out.dtype))
    config = small.training(dtype="bfloat16")
    training = train(model, small.source(), config, dev=lambda: float(seen.add("dev") or 0))
    reference = train(exact, small.source(), small.training())
    assert seen == {torch.bfloat16, "dev"}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    last = training.records[-1].train_loss
    assert last == pytest.approx(reference.records[-1].train_loss, rel=0.06)


def test_compiled_it_learns_alike(small: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.compiler.reset()
    # Traces and graphs alone; the code that would be made of them takes twenty seconds.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    config = {"steps": 6, "record_every": 1}
    eager = train(small.Table(), small.source(), small.training(**config))
    compiled = train(small.Table(), small.source(), small.training(compile=True, **config))
    found, expected = ([r.train_loss for r in t.records] for t in (compiled, eager))
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["step", "layer"])
def test_it_is_not_called_compiled_where_the_compiler_is_off(
    small: ModuleType, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    monkeypatch.setattr(Ranks, "compiles", kind)
    model = build("retnet", preset="tiny", vocab_size=small.VOCAB)
    with pytest.raises(ConfigError, match="compile off"):
        train(model, small.source(), small.training(compile=True))


def test_records_are_means_and_the_dev_loss_is_estimated_in_between(
    small: ModuleType, clock: list[float]
) -> None:
    model, modes, seen = small.Table().eval(), [], []
    model.register_forward_hook(lambda *_: clock.__setitem__(0, clock[0] + 0.25))

    def dev() -> float:
        modes.append((model.training, torch.is_grad_enabled()))
        clock[0] += 100.0
        return 3.0

    config = small.training(steps=11)
    training = train(model, small.source(), config, dev=dev, observe=seen.append)
    single = train(small.Table(), small.source(), small.training(steps=11, record_every=1))
    losses = [record.train_loss for record in single.records]
    steps = [2, 4, 6, 8, 10, 11]
    assert [record.step for record in training.records] == steps
    assert [r.dev_loss for r in training.records] == [None, 3.0, None, 3.0, None, 3.0]
    means = [np.mean(losses[before:step]) for before, step in zip([0, *steps], steps, strict=False)]
    assert [r.train_loss for r in training.records] == pytest.approx(means, rel=1e-6)
    assert [r.tokens for r in training.records] == [64 * step for step in steps]
    assert [r.learning_rate for r in training.records] == [config.rate(s - 1) for s in steps]
    assert seen == training.records
    assert modes == [(False, False)] * 3
    assert not model.training  # as it came
    assert [r.seconds for r in training.records] == [0.25 * step for step in steps]  # not dev's
    assert training.seconds == 2.75 and training.tokens_per_s == 64 * 11 / 2.75


class Fails(nn.Module):
    """Gives what it is told at a step: loss by loss."""

    def __init__(self, logit: Callable[[int], float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, 2))
        self._logit, self._step = logit, 0

    def forward(self, tokens: Tensor) -> Tensor:
        self._step += 1
        # The last entry is no target: it takes the loss up, and to nothing finite if so told.
        logits = torch.zeros(*tokens.shape, 18) + self.weight.sum()
        logits[..., 17] = self._logit(self._step)
        return logits


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_it(small: ModuleType, bad: float) -> None:
    kept: list[int] = []

    class Keeps:
        restore = staticmethod(lambda *_: ())
        keep = staticmethod(lambda model, optimizer, records: kept.append(records[-1].step))

    seen: list[Record] = []
    model = Fails(lambda step: bad if step == 7 else 0.0)
    training = train(
        model, small.source(), small.training(), dev=lambda: 1.0, observe=seen.append,
        checkpoint=Keeps(),
    )  # fmt: skip
    assert training.status == "diverged"
    assert training.cause is not None and "steps 7 to 8" in training.cause
    assert [r.step for r in training.records] == [r.step for r in seen] == [2, 4, 6, 8]
    assert training.records[-1].dev_loss is None
    assert kept == [2, 4, 6]  # no broken state


def test_a_dev_loss_that_is_not_finite_stops_it(small: ModuleType) -> None:
    training = train(small.Table(), small.source(), small.training(), dev=lambda: math.nan)
    assert training.status == "diverged" and training.cause is not None
    assert training.cause.startswith("the dev loss is nan")


def test_a_loss_above_its_start_for_long_stops_it(small: ModuleType) -> None:
    training = train(
        Fails(lambda step: 0.0 if step <= 4 else 6.0), small.source(), small.training(steps=100)
    )
    assert training.status == "diverged" and training.cause is not None
    assert "was above its start, 2.89, for 10 steps" in training.cause
    assert training.records[-1].step == 14


def test_a_stumble_does_not_stop_it(small: ModuleType) -> None:
    model = Fails(lambda step: 6.0 if step > 2 and step % 10 in range(1, 7) else 0.0)
    assert train(model, small.source(), small.training(steps=60)).status == "ok"


def test_an_observer_may_stop_it(small: ModuleType) -> None:
    model = small.Table()
    before = weights(model)

    def stop(record: Record) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(model, small.source(), small.training(), observe=stop)
    assert model.training and not equal(before, weights(model))


def test_what_the_data_raise_ends_it(small: ModuleType) -> None:
    class Broken:
        def batch(self, step: int) -> Any:
            raise UserError("no more text")

    with pytest.raises(UserError, match="no more text"):
        train(small.Table(), Broken(), small.training())


def test_the_loss_is_taken_in_float32() -> None:
    logits = torch.randn(2, 3, 5, dtype=torch.bfloat16)
    targets = torch.tensor([[1, 2, IGNORED], [0, IGNORED, 4]])
    found = next_token_loss(logits, targets)
    each = next_token_loss(logits, targets, "none")
    assert found.dtype == each.dtype == torch.float32
    assert each.shape == (6,) and not each[2] and not each[4]
    assert found.item() == pytest.approx(each.sum().item() / 4)


def test_equal_trainings_are_equal_bit_for_bit(small: ModuleType) -> None:
    first = small.decoder()
    second = copy.deepcopy(first)
    curves = [
        [record.train_loss for record in train(model, small.source(), small.training()).records]
        for model in (first, second)
    ]
    assert curves[0] == curves[1] and equal(weights(first), weights(second))


# The pass before the clock starts. ``torch.compile`` is made to do nothing, so that any difference
# to a training without that pass is the pass's.


class Cold(nn.Module):
    """Is slow at its first call, draws random numbers, and keeps a buffer up to date."""

    def __init__(self, clock: list[float]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self._clock = clock
        self.table = nn.Parameter(torch.randn(17, 17, generator=generator))
        self.register_buffer("calls", torch.zeros(()))
        self._is_cold = True

    def forward(self, tokens: Tensor) -> Tensor:
        self._clock[0] += 0.5 if self._is_cold else 0.0
        self._is_cold = False
        self.calls += 1
        return F.dropout(self.table[tokens], 0.3, self.training)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_cold_start_is_made_before_the_clock_and_changes_nothing(
    small: ModuleType, uncompiled: None, clock: list[float], accumulate: int
) -> None:
    found = []
    for compiled in (False, True):
        torch.manual_seed(5)
        model = Cold(clock)
        config = small.training(compile=compiled, accumulate=accumulate)
        found.append((train(model, small.source(), config), weights(model)))
    (with_it, expected), (without_it, made) = found
    assert (with_it.seconds, without_it.seconds) == (0.5, 0.0)
    assert [r.train_loss for r in with_it.records] == [r.train_loss for r in without_it.records]
    assert equal(expected, made)


def test_nothing_is_computed_where_no_step_is_left(
    small: ModuleType, uncompiled: None, clock: list[float]
) -> None:
    config = small.training(compile=True)
    done = (Record(config.steps, 64, 1.0, 2.0, None, 0.1),)

    class Done:
        restore = staticmethod(lambda *_: done)

    model = Cold(clock)
    assert train(model, small.source(), config, checkpoint=Done()).seconds == 1.0  # type: ignore[arg-type]
    assert not model.calls
