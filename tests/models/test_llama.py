"""The Transformer is Llama: the same weights give the logits of Hugging Face's implementation."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models import build
from models.decoder import Decoder

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="Llama is of transformers"
)

VOCAB, D_MODEL, D_FF, HEADS = 53, 32, 48, 4
TOLERANCE = 1e-5


def llama(kv_heads: int, tied: bool) -> Any:
    """A small Llama with random weights, made without any download."""
    import transformers  # seconds, in each process that collects the tests

    config = transformers.LlamaConfig(
        vocab_size=VOCAB, hidden_size=D_MODEL, intermediate_size=D_FF, num_hidden_layers=2,
        num_attention_heads=HEADS, num_key_value_heads=kv_heads, max_position_embeddings=256,
        rms_norm_eps=1e-6, tie_word_embeddings=tied, initializer_range=0.15,
    )  # fmt: skip
    torch.manual_seed(3)
    model = transformers.LlamaForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data.uniform_(0.5, 1.5)
    return model


def renamed(weights: dict[str, Tensor], tied: bool) -> dict[str, Tensor]:
    """Hugging Face's names and matrices to this project's, which joins those of one input."""
    head = F.pad(weights["lm_head.weight"], (0, 0, 0, 128 - VOCAB))
    embedding = head if tied else weights["model.embed_tokens.weight"]
    found = {"embedding.weight": embedding, "norm.weight": weights["model.norm.weight"]}
    if not tied:
        found["head.weight"] = head
    for i in range(2):
        theirs, ours = f"model.layers.{i}", f"layers.{i}"
        qkv = [weights[f"{theirs}.self_attn.{x}_proj.weight"] for x in "qkv"]
        up = [weights[f"{theirs}.mlp.{x}_proj.weight"] for x in ("gate", "up")]
        found |= {
            f"{ours}.mixer_norm.weight": weights[f"{theirs}.input_layernorm.weight"],
            f"{ours}.mixer.qkv.weight": torch.cat(qkv),
            f"{ours}.mixer.out.weight": weights[f"{theirs}.self_attn.o_proj.weight"],
            f"{ours}.ffn_norm.weight": weights[f"{theirs}.post_attention_layernorm.weight"],
            f"{ours}.ffn.up.weight": torch.cat(up),
            f"{ours}.ffn.down.weight": weights[f"{theirs}.mlp.down_proj.weight"],
        }
    return found


@pytest.fixture(params=[(4, True), (4, False), (1, True), (2, False)], ids=str)
def pair(request: pytest.FixtureRequest) -> tuple[Any, Decoder]:
    kv_heads, tied = request.param
    theirs = llama(kv_heads, tied)
    ours = build(
        "transformer", preset="tiny", d_model=D_MODEL, n_heads=HEADS, n_kv_heads=kv_heads,
        d_ff=D_FF, vocab_size=VOCAB, ffn="swiglu", tie_embeddings=tied,
    )  # fmt: skip
    assert isinstance(ours, Decoder)
    ours.load_state_dict(renamed(theirs.state_dict(), tied))
    return theirs, ours


def test_full_forward(pair: tuple[Any, Decoder], small: Any) -> None:
    theirs, ours = pair
    tokens = torch.randint(VOCAB, (2, 70))
    expected = theirs(tokens).logits
    assert float(expected.std()) > 0.1  # the comparison is not of zeros
    assert small.distance(ours(tokens), expected) < TOLERANCE


def test_prefill_and_cached_decode(pair: tuple[Any, Decoder], small: Any) -> None:
    theirs, ours = pair
    tokens = torch.randint(VOCAB, (2, 40))
    state = ours.init_state(2, 48)
    their_output = theirs(tokens[:, :25], use_cache=True)
    logits = ours.prefill(tokens[:, :25], state)
    assert small.distance(logits, their_output.logits[:, -1]) < TOLERANCE
    for token in tokens[:, 25:].split(1, dim=1):
        their_output = theirs(token, past_key_values=their_output.past_key_values, use_cache=True)
        logits = ours.step(token[:, 0], state)
        assert small.distance(logits, their_output.logits[:, -1]) < TOLERANCE
