"""Sampling chooses as asked, and text comes out of the path that is timed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from models.generation import generate, sample

LOGITS = torch.tensor([[0.1, 0.4, 0.3, 0.2], [0.7, 0.1, 0.15, 0.05]]).log()


def draws(count: int, logits: Tensor = LOGITS, **options: Any) -> Tensor:
    """Frequencies of each token over many draws, (batch, vocab)."""
    generator = torch.Generator().manual_seed(0)
    rows = logits.repeat_interleave(count, dim=0)
    tokens = sample(rows, generator=generator, **options).view(logits.shape[0], count)
    return torch.stack([(tokens == t).double().mean(1) for t in range(logits.shape[1])], dim=1)


def test_temperature_zero_is_greedy() -> None:
    assert sample(LOGITS, temperature=0.0).tolist() == [1, 0]


def test_temperature_one_follows_the_probabilities() -> None:
    assert torch.allclose(draws(40_000), LOGITS.exp().double(), atol=0.01)


def test_temperature_sharpens_or_flattens() -> None:
    for temperature in (0.5, 2.0):
        expected = torch.softmax(LOGITS.double() / temperature, -1)
        assert torch.allclose(draws(40_000, temperature=temperature), expected, atol=0.01)


def test_top_k_keeps_the_likeliest_in_proportion() -> None:
    expected = torch.tensor([[0, 4 / 7, 3 / 7, 0], [0.7 / 0.85, 0, 0.15 / 0.85, 0]]).double()
    assert torch.allclose(draws(40_000, top_k=2), expected, atol=0.01)


def test_top_k_of_one_is_greedy_and_beyond_the_vocabulary_is_all() -> None:
    assert draws(100, top_k=1).tolist() == [[0, 1, 0, 0], [1, 0, 0, 0]]
    assert torch.equal(draws(1000, top_k=99), draws(1000))


def test_top_k_keeps_no_more_where_logits_tie() -> None:
    tied = torch.tensor([[1.0, 1.0, 1.0, 0.0]], dtype=torch.bfloat16)
    assert int((draws(1000, tied, top_k=2) > 0).sum()) == 2


@pytest.mark.parametrize(
    # Row one in order: 0.4, 0.3, 0.2, 0.1. The token that reaches the sum is kept.
    ("top_p", "kept"),
    [
        (1e-6, {1}),
        (0.39, {1}),
        (0.41, {1, 2}),
        (0.69, {1, 2}),
        (0.71, {1, 2, 3}),
        (1.0, {0, 1, 2, 3}),
    ],
)
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p: float, kept: set[int]) -> None:
    frequencies = draws(5000, top_p=top_p)[0]
    assert set(frequencies.nonzero().flatten().tolist()) == kept


def test_top_p_of_one_is_all_whatever_a_sum_of_float32_reaches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn_from = []

    def likeliest(probabilities: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        drawn_from.append(probabilities)
        return probabilities.argmax(-1, keepdim=True)

    monkeypatch.setattr(torch, "multinomial", likeliest)
    sample(torch.linspace(0, 30, 20_000)[None], top_p=1.0)
    assert (drawn_from[0] > 0).all()


def test_top_p_is_taken_of_what_temperature_and_top_k_leave() -> None:
    # Of the two kept by top_k, 4/7 and 3/7: 0.5 is reached by the first alone.
    assert draws(100, top_k=2, top_p=0.5)[0].tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize(
    "options", [{"temperature": -0.1}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.1}]
)
def test_options_out_of_range_are_errors(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        sample(LOGITS, **options)


def test_greedy_text_is_the_argmax_of_repeated_full_forwards(small: Any, family: str) -> None:
    model = small.model(family)
    tokens = small.tokens(2, 7)
    made = torch.stack(list(generate(model, tokens, 12, temperature=0.0)), dim=1)
    for _ in range(12):
        tokens = torch.cat((tokens, model(tokens)[:, -1:].argmax(-1)), dim=1)
    assert torch.equal(made, tokens[:, 7:])


def test_a_seed_gives_the_same_text_and_another_a_different_one(small: Any, family: str) -> None:
    model, prompt = small.model(family), small.tokens(2, 5)
    texts = [torch.stack(list(generate(model, prompt, 20, seed=s))) for s in (5, 5, 6)]
    assert torch.equal(texts[0], texts[1])
    assert not torch.equal(texts[0], texts[2])


@pytest.mark.parametrize("count", [0, 1, 6])
def test_exactly_so_many_tokens_are_made(small: Any, count: int) -> None:
    tokens = list(generate(small.model("retnet"), small.tokens(3, 4), count))
    assert [t.shape for t in tokens] == [(3,)] * count


def test_text_up_to_the_models_context_and_no_further(small: Any, family: str) -> None:
    model = small.model(family, max_len=10)
    assert len(list(generate(model, small.tokens(1, 4), 6))) == 6
    with pytest.raises(ValueError, match="beyond the model's 10"):
        list(generate(model, small.tokens(1, 4), 7))


def test_an_empty_prompt_is_an_error(small: Any) -> None:
    with pytest.raises(ValueError, match="prompt is empty"):
        list(generate(small.model("retnet"), small.tokens(1, 0), 3))


EDGE = torch.tensor([[0.0, 3.0, 2.0, float("-inf")]])


@pytest.mark.parametrize(
    ("asked", "possible"),
    [
        ({"temperature": 5e-324}, {1}),
        ({"temperature": 5e-324, "top_k": 2}, {1}),
        ({"temperature": float("inf")}, {0, 1, 2}),
        ({"temperature": float("inf"), "top_k": 2}, {1, 2}),
        ({"temperature": float("inf"), "top_p": 0.5}, {1, 2}),
        ({"top_p": 5e-324}, {1}),
        ({"top_k": 10**9, "temperature": 100.0}, {0, 1, 2}),
    ],
)
def test_at_its_limits_sampling_is_what_they_say(asked: Any, possible: set[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    found = sample(EDGE.expand(200, -1), generator=generator, **asked)
    assert set(found.tolist()) == possible


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("logits", [(0.0, float("nan")), (0.0, float("inf")), (float("-inf"),) * 2])
def test_logits_that_are_no_numbers_are_refused(
    temperature: float, logits: tuple[float, float]
) -> None:
    with pytest.raises(ValueError, match="the largest logit is no finite number"):
        sample(torch.tensor([logits]), temperature=temperature)


def test_a_temperature_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature"):
        sample(EDGE, temperature=float("nan"))
