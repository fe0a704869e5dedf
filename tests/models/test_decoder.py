"""Every family: its three ways through the one skeleton agree, and none sees the future."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from models import build
from models.decoder import Decoder
from models.protocol import LanguageModel, State

from .conftest import FAMILIES

FORMS = {
    "retnet": ("chunkwise", "parallel", "recurrent"),
    "retnet-gq": ("chunkwise", "parallel", "recurrent"),
    "retnet-hybrid": ("chunkwise", "parallel", "recurrent"),
    "transformer": (None,),
    "transformer-gqa": (None,),
    "linear-attention": ("chunkwise", "parallel", "recurrent"),
    "gla": ("chunkwise", "recurrent"),
    "h3": ("parallel", "recurrent"),
}
WITH_FORMS = [family for family, forms in FORMS.items() if len(forms) > 1]
FAMILY_AND_FORM = [(family, form) for family, forms in FORMS.items() for form in forms]
EXACT = {torch.float64: 1e-10, torch.float32: 1e-4}
"""Largest difference allowed, relative to the largest logit, by type."""


def by_parts(model: Decoder, tokens: Tensor, parts: list[int], state: State) -> list[Tensor]:
    """Logits after each part, parts of one token by ``step`` and longer ones by ``prefill``."""
    logits = []
    for part in tokens.split(parts, dim=1):
        if part.shape[1] == 1:
            logits.append(model.step(part[:, 0], state))
        else:
            logits.append(model.prefill(part, state))
    return logits


# --- forward -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", EXACT)
@pytest.mark.parametrize("time", [1, 4, 5, 13])
@pytest.mark.parametrize("family", WITH_FORMS)
def test_all_forms_give_the_same_logits(
    small: Any, family: str, dtype: torch.dtype, time: int
) -> None:
    model = small.model(family, dtype)
    tokens = small.tokens(2, time)
    expected = model(tokens, form="recurrent")
    assert model.forms == FORMS[family]
    for form in (None, *FORMS[family]):
        assert small.distance(model(tokens, form=form), expected) < EXACT[dtype]


@pytest.mark.parametrize(("family", "form"), FAMILY_AND_FORM)
@pytest.mark.parametrize("time", [7, 11])
def test_changing_the_last_token_changes_no_earlier_logit(
    small: Any, family: str, form: str | None, time: int
) -> None:
    model = small.model(family)
    tokens = small.tokens(2, time)
    before = model(tokens, form=form)
    tokens[0, -1] = (tokens[0, -1] + 1) % small.vocab
    after = model(tokens, form=form)
    # A Fourier transform spreads its rounding over all positions.
    rounding = 1e-12 if family == "h3" and form == "parallel" else 0.0
    assert small.distance(after[:, :-1], before[:, :-1]) <= rounding
    assert small.distance(after[1], before[1]) <= rounding  # nor another sequence of the batch
    assert not torch.equal(after[0, -1], before[0, -1])


def test_an_early_token_reaches_every_later_logit(small: Any, family: str) -> None:
    model = small.model(family)
    tokens = small.tokens(1, 12)
    before = model(tokens)
    tokens[0, 2] = (tokens[0, 2] + 1) % small.vocab
    moved = (model(tokens) - before).abs().amax(-1)[0]
    assert bool((moved[2:] > 1e-6).all())


def test_the_order_of_earlier_tokens_matters(small: Any, family: str) -> None:
    model = small.model(family)
    tokens = torch.tensor([[1, 2, 3, 4, 5], [3, 2, 1, 4, 5]])
    first, second = model(tokens)[:, -1]
    assert small.distance(first, second) > 1e-3


def test_a_form_that_a_family_lacks_is_an_error(small: Any, family: str) -> None:
    with pytest.raises(ValueError, match=r"has no form 'wavelike'"):
        small.model(family)(small.tokens(1, 3), form="wavelike")


# --- prefill and step ----------------------------------------------------------------------------


@settings(
    max_examples=8,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    parts=st.lists(st.one_of(st.just(1), st.integers(2, 12)), min_size=2, max_size=6),
    dtype=st.sampled_from(sorted(EXACT, key=str)),
    batch=st.integers(1, 3),
    spare=st.integers(0, 9),
)
def test_any_split_into_prefills_and_steps_reproduces_forward(
    small: Any, family: str, parts: list[int], dtype: torch.dtype, batch: int, spare: int
) -> None:
    model = small.model(family, dtype)
    tokens = small.tokens(batch, sum(parts))
    expected = model(tokens)
    state = model.init_state(batch, sum(parts) + spare)
    ends = torch.tensor(parts).cumsum(0) - 1
    for logits, end in zip(by_parts(model, tokens, parts, state), ends, strict=True):
        assert small.distance(logits, expected[:, end]) < EXACT[dtype]
    assert int(state.position) == sum(parts)


@pytest.mark.parametrize(
    # bfloat16 keeps 8 bits; rounding of some dozens of operations in sequence adds up to this.
    ("dtype", "tolerance"),
    [(torch.bfloat16, 6e-2), (torch.float16, 8e-3)],
)
def test_half_precision_decoding_follows_its_own_forward(
    small: Any, family: str, dtype: torch.dtype, tolerance: float
) -> None:
    model = small.model(family, dtype)
    tokens = small.tokens(2, 40)
    expected = model(tokens)
    assert expected.dtype == dtype
    logits = by_parts(model, tokens, [23, 9, *[1] * 8], model.init_state(2, 40))
    assert small.distance(logits[0], expected[:, 22]) < tolerance
    assert small.distance(torch.stack(logits[1:], 1), expected[:, 31:]) < tolerance


def test_half_precision_keeps_positions_far_out(small: Any, family: str) -> None:
    """At 2,000 bfloat16 counts in steps of 8: positions in it would scramble the rotation."""
    exact = small.model(family, torch.float64)
    half = small.model(family, torch.float64).to(torch.bfloat16)
    tokens = small.tokens(1, 2000)
    assert small.distance(half(tokens)[:, -1], exact(tokens)[:, -1]) < 6e-2


@pytest.mark.parametrize("convert", [nn.Module.bfloat16, lambda m: m.to(torch.bfloat16)])
def test_a_converted_model_is_the_same_as_one_built_so(
    small: Any, family: str, convert: Any
) -> None:
    built = small.model(family, torch.bfloat16)
    converted = convert(small.model(family, torch.float32))
    tokens = small.tokens(2, 30)
    assert torch.equal(built(tokens), converted(tokens))


@pytest.mark.parametrize("state_dtype", [torch.float32, torch.float64])
def test_a_state_may_be_of_another_type_than_the_model(
    small: Any, family: str, state_dtype: torch.dtype
) -> None:
    model = small.model(family, torch.float32)
    tokens = small.tokens(2, 17)
    state = model.init_state(2, 17, dtype=state_dtype)
    assert state.layers[0].tensors()[0].dtype == state_dtype
    logits = by_parts(model, tokens, [8, 7, 1, 1], state)
    assert small.distance(logits[-1], model(tokens)[:, -1]) < 1e-4


def test_the_same_weights_decode_at_any_capacity(small: Any, family: str) -> None:
    model = small.model(family)
    tokens = small.tokens(1, 9)
    logits = [
        by_parts(model, tokens, [6, 1, 1, 1], model.init_state(1, capacity))[-1]
        for capacity in (9, 16, 100)
    ]
    assert small.distance(logits[1], logits[0]) < 1e-12
    assert small.distance(logits[2], logits[0]) < 1e-12


# --- the state -----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "transformer-paper"])
def test_shapes_and_addresses_of_a_state_never_change(small: Any, family: str) -> None:
    model = small.model(family)
    state = model.init_state(2, 12)

    def places() -> list[tuple[int, torch.Size]]:
        tensors = [t for layer in state.layers for t in layer.tensors()]
        return [(t.data_ptr(), t.shape) for t in (*tensors, state.position)]

    before = places()
    by_parts(model, small.tokens(2, 8), [5, 1, 1, 1], state)
    assert places() == before


def test_a_step_asks_nothing_of_the_device(small: Any, family: str) -> None:
    """No value is read back to the host and no shape depends on one: fit for a CUDA graph."""
    model = small.model(family, torch.float32)
    state = model.init_state(2, 8)
    token = small.tokens(2, 1)[:, 0]
    with torch.device("meta"):
        model.to("meta")
        state = model.init_state(2, 8, device="meta")
        logits = model.step(token.to("meta"), state)  # a read of any value would raise
    assert logits.shape == (2, small.vocab)


def test_a_clone_shares_no_memory(small: Any, family: str) -> None:
    model = small.model(family)
    tokens = small.tokens(2, 8)
    state = model.init_state(2, 10)
    model.prefill(tokens, state)
    copy = state.clone()
    first = model.step(tokens[:, 0], state)
    model.step(tokens[:, 1], state)
    assert torch.equal(model.step(tokens[:, 0], copy), first)


def test_a_batch_prefilled_by_rows_holds_what_one_prefill_gives(small: Any, family: str) -> None:
    model = small.model(family)
    tokens = small.tokens(3, 7)
    whole, parts = model.init_state(3, 9), model.init_state(3, 9)
    expected = model.prefill(tokens, whole)
    rows = [parts.rows(0, 2), parts.rows(2, 3)]
    pieces = zip(tokens.split([2, 1]), rows, strict=True)
    logits = torch.cat([model.prefill(*piece) for piece in pieces])
    parts.join(rows)
    assert small.distance(logits, expected) < 1e-12
    for layer, other in zip(parts.layers, whole.layers, strict=True):
        for found, kept in zip(layer.tensors(), other.tensors(), strict=True):
            assert small.distance(found, kept) < 1e-12
    assert int(parts.position) == 7


def test_a_reset_state_is_as_new(small: Any, family: str) -> None:
    model = small.model(family)
    tokens = small.tokens(2, 8)
    used, fresh = model.init_state(2, 10), model.init_state(2, 10)
    expected = model.prefill(tokens, fresh)
    model.prefill(tokens.flip(1), used)
    used.reset()
    assert torch.equal(model.prefill(tokens, used), expected)


@pytest.mark.parametrize("family", ["transformer", "transformer-gqa", "transformer-paper"])
def test_a_kv_cache_that_seeks_back_repeats_its_step(small: Any, family: str) -> None:
    model = small.model(family)
    tokens = small.tokens(2, 8)
    state = model.init_state(2, 10)
    model.prefill(tokens, state)
    first = model.step(tokens[:, 0], state)
    model.step(tokens[:, 1], state)
    state.seek(8)
    assert torch.equal(model.step(tokens[:, 0], state), first)


def test_a_prompt_beyond_the_state_is_an_error_that_leaves_it_whole(
    small: Any, family: str
) -> None:
    model = small.model(family)
    state = model.init_state(1, 6)
    model.prefill(small.tokens(1, 4), state)
    before = state.clone()
    with pytest.raises(ValueError, match=r"4 \+ 3 tokens into a state of 6"):
        model.prefill(small.tokens(1, 3), state)
    for layer, old in zip(state.layers, before.layers, strict=True):
        for tensor, saved in zip(layer.tensors(), old.tensors(), strict=True):
            assert torch.equal(tensor, saved)


def test_a_state_beyond_the_models_context_is_an_error(small: Any, family: str) -> None:
    with pytest.raises(ValueError, match="beyond the model's 20"):
        small.model(family, max_len=20).init_state(1, 21)


# --- training and building -----------------------------------------------------------------------


def test_gradients_reach_every_parameter(small: Any, family: str) -> None:
    model = small.model(family)
    model(small.tokens(2, 11)).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 0, name


@pytest.mark.parametrize("family", WITH_FORMS)
def test_gradients_of_all_forms_agree(small: Any, family: str) -> None:
    found: list[list[Tensor]] = []
    for form in FORMS[family]:
        model = small.model(family)
        model(small.tokens(2, 13), form=form).square().mean().backward()
        found.append([p.grad for p in model.parameters() if p.grad is not None])
    for *others, recurrent in zip(*found, strict=True):
        for other in others:
            assert small.distance(other, recurrent) < 1e-10


def test_every_family_keeps_the_protocol(small: Any, family: str) -> None:
    assert isinstance(small.model(family), LanguageModel)


def test_a_model_is_built_for_evaluation_from_its_seed_alone(family: str) -> None:
    sizes: dict[str, Any] = {"preset": "tiny", "vocab_size": 31}
    torch.manual_seed(1)
    first = build(family, seed=3, **sizes)
    torch.manual_seed(2)
    again, other = build(family, seed=3, **sizes), build(family, seed=4, **sizes)
    tokens = torch.arange(8)[None]
    assert isinstance(first, nn.Module) and not first.training
    assert torch.equal(first(tokens), again(tokens))
    assert not torch.equal(first(tokens), other(tokens))


@pytest.mark.parametrize("tied", [True, False])
def test_rows_that_pad_the_head_change_no_logit_and_are_not_trained(small: Any, tied: bool) -> None:
    model = small.model("retnet", tie_embeddings=tied)
    tokens = small.tokens(2, 6)
    weight = (model.embedding if model.head is None else model.head).weight
    expected = model(tokens)
    assert weight.shape[0] == 128 and expected.shape[-1] == small.vocab
    weight[small.vocab :] = 1e9
    assert torch.equal(model(tokens), expected)
    with torch.enable_grad():
        logits = model(tokens)
        nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten()).backward()
    assert weight.grad is not None
    assert not weight.grad[small.vocab :].any() and weight.grad[: small.vocab].any()


def test_an_untied_head_has_weights_of_its_own(small: Any, family: str) -> None:
    model = small.model(family, tie_embeddings=False)
    tokens = small.tokens(1, 5)
    before = model(tokens)
    assert model.head is not None
    model.head.weight.mul_(2)
    assert small.distance(model(tokens), 2 * before) < 1e-12


@pytest.mark.parametrize("ffn", ["gelu", "swiglu"])
def test_both_kinds_of_feed_forward_are_as_published(small: Any, ffn: str) -> None:
    network = small.model("transformer", ffn=ffn).layers[0].ffn
    x = torch.randn(3, 32, dtype=torch.float64)
    hidden = network.up(x)
    if ffn == "gelu":
        inner = nn.functional.gelu(hidden, approximate="tanh")
    else:
        gate, up = hidden.chunk(2, -1)
        inner = gate * gate.sigmoid() * up
    assert torch.allclose(network(x), inner @ network.down.weight.T)
