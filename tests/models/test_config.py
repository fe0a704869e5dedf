"""Sizes: presets, equal parameters, and analytic figures that equal the counted ones."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from models import PRESETS, ConfigError, ModelConfig, build, config_for, families
from models.decoder import Decoder
from models.family.gla import GatedLinearAttentionConfig
from models.family.h3 import H3Config
from models.family.linear_attention import LinearAttentionConfig
from models.family.retnet import RetNetConfig
from models.family.transformer import TransformerConfig
from models.registry import config_from_dict

from .conftest import FAMILIES

WHOLE = ("transformer", "transformer-gqa", "transformer-modern", "transformer-paper")
ATTENTION = (*WHOLE, "transformer-window")
PRODUCTS = ("retnet", "linear-attention", *WHOLE)
"""Families whose mixing is matrix products over the same pairs of tokens."""
PAPERS = {"1.3b": (8, 1.208e9), "2.7b": (10, 2.517e9), "6.7b": (16, 6.442e9)}
"""Heads and non-embedding parameters of the paper's sizes."""


# --- presets and matching ------------------------------------------------------------------------


@pytest.mark.parametrize("ffn", ["gelu", "swiglu"])
@pytest.mark.parametrize("preset", PRESETS)
def test_models_of_one_preset_are_of_equal_size(preset: str, ffn: str) -> None:
    sizes = [config_for(family, preset, ffn=ffn).num_parameters() for family in FAMILIES]
    assert max(sizes) / min(sizes) - 1 < 0.005


@pytest.mark.parametrize("preset", PAPERS)
def test_the_papers_sizes(preset: str) -> None:
    heads, parameters = PAPERS[preset]
    config = config_for("retnet", preset)
    assert isinstance(config, RetNetConfig)
    assert (config.n_heads, config.d_k, config.d_v) == (heads, 256, 512)
    assert config.num_parameters() == pytest.approx(parameters, rel=1e-3)
    assert config.d_ff == 2 * config.d_model  # the paper's 4 d^2 of feed-forward


def test_the_transformers_feed_forward_is_the_usual_four_times_wide() -> None:
    assert config_for("transformer", "1.3b").d_ff == 4 * 2048


@pytest.mark.parametrize("preset", PRESETS)
def test_grouped_queries_share_a_kv_head_in_fours(preset: str) -> None:
    config = config_for("transformer-gqa", preset)
    assert isinstance(config, TransformerConfig)
    assert config.n_heads == 4 * config.n_kv_heads


@pytest.mark.parametrize("d_model", [48, 96, 320, 1008])
@pytest.mark.parametrize("ffn", ["gelu", "swiglu"])
def test_any_overridden_width_is_matched_too(d_model: int, ffn: str) -> None:
    sizes = [
        config_for(family, "tiny", d_model=d_model, n_heads=8, ffn=ffn).num_parameters()
        for family in FAMILIES
    ]
    assert max(sizes) / min(sizes) - 1 < 0.005


def test_overrides_win_over_the_preset() -> None:
    config = config_for("retnet", "tiny", n_layers=5, d_ff=7, chunk_size=9, vocab_size=11)
    assert isinstance(config, RetNetConfig)
    assert (config.n_layers, config.d_ff, config.chunk_size, config.vocab_size) == (5, 7, 9, 11)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_configuration_survives_its_dictionary(family: str) -> None:
    config = config_for(family, "10m", ffn="swiglu", tie_embeddings=False, rope_base=5e5)
    assert config_from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("family", "overrides", "complaint"),
    [
        ("retnet", {"n_heads": 7}, "n_heads = 7 does not divide d_model = 64"),
        ("retnet", {"d_model": 12, "n_heads": 4}, "even d_model / n_heads, not 3"),
        ("transformer", {"d_model": 12, "n_heads": 4}, "even d_model / n_heads, not 3"),
        (
            "retnet",
            {"decay": "fast"},
            "decay must be one of language-model, eq8, single, none, not 'fast'",
        ),
        ("retnet", {"chunk_size": 0}, "chunk_size must be at least 1"),
        ("retnet", {"ffn": "relu"}, "ffn must be 'gelu' or 'swiglu', not 'relu'"),
        ("retnet", {"n_layers": 0}, "n_layers must be at least 1, not 0"),
        ("retnet", {"d_ff": -1}, "d_ff must be 0"),
        ("retnet", {"d_model": "64"}, "d_model must be int, not '64'"),
        ("retnet", {"tie_embeddings": "no"}, "tie_embeddings must be bool, not 'no'"),
        ("retnet", {"n_kv": 2}, "retnet has no option 'n_kv'"),
        ("retnet", {"n_kv_heads": 3}, "n_kv_heads = 3 does not divide n_heads = 4"),
        ("retnet-gq", {"n_heads": 1}, "an even n_heads, not 1"),
        ("transformer", {"n_kv_heads": 3}, "n_kv_heads = 3 does not divide n_heads = 4"),
        ("transformer-gqa", {"n_heads": 2}, "n_heads in fours, not 2"),
    ],
)
def test_an_impossible_configuration_says_why(
    family: str, overrides: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        config_for(family, "tiny", **overrides)


def test_a_mixer_that_outgrows_its_layer_is_an_error() -> None:
    class Greedy(RetNetConfig):
        def mixer_parameters(self) -> int:
            return 13 * self.d_model**2

    with pytest.raises(ConfigError, match="more than the 12,288"):
        Greedy(d_model=32, n_layers=1, n_heads=4)


def test_a_mixer_that_leaves_next_to_nothing_still_has_a_feed_forward() -> None:
    class Large(RetNetConfig):
        def mixer_parameters(self) -> int:
            return 12 * self.d_model**2 - 3 * self.d_model

    assert Large(d_model=64, n_layers=1, n_heads=4).d_ff == 2


# --- analytic figures against counted ones -------------------------------------------------------


def small_model(family: str, **overrides: Any) -> Decoder:
    sizes = {"d_model": 32, "n_heads": 4, "vocab_size": 128, **overrides}
    model = build(family, preset="tiny", **sizes)
    assert isinstance(model, Decoder)
    return model


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("ffn", ["gelu", "swiglu"])
def test_parameters_are_those_of_the_tensors(family: str, ffn: str, tied: bool) -> None:
    model = small_model(family, ffn=ffn, tie_embeddings=tied, vocab_size=61)
    padding = 67 * 32  # of the head, to 128 rows
    counted = sum(t.numel() for t in model.parameters()) - padding
    outside = 61 * 32 * (1 if tied else 2)
    config = model.config
    assert model.num_parameters(embeddings=True) == counted
    assert config.num_parameters(embeddings=True) == counted
    assert model.num_parameters() == config.num_parameters() == counted - outside
    assert config.weight_bytes(4) == 4 * counted


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("context", [8, 40])
def test_state_bytes_are_those_of_the_tensors(
    family: str, dtype: torch.dtype, context: int
) -> None:
    model = small_model(family).to(dtype)
    state = model.init_state(3, context)
    model.prefill(torch.zeros(3, context, dtype=torch.int64), state)
    counted = sum(t.nbytes for layer in state.layers for t in layer.tensors())
    assert state.nbytes == counted
    assert model.state_bytes(3, context) == counted
    assert model.config.state_bytes(3, context, dtype.itemsize) == counted


def test_a_recurrent_state_does_not_grow_and_a_cache_does() -> None:
    retnet, transformer = config_for("retnet", "10m"), config_for("transformer", "10m")
    assert retnet.state_bytes(2, 100) == retnet.state_bytes(2, 10_000)
    assert transformer.state_bytes(2, 10_000) == 100 * transformer.state_bytes(2, 100)


def test_a_retnets_state_is_the_smaller_from_d_k_tokens_on() -> None:
    """The closed form of measurement.md: d_k tokens, twice that with a bfloat16 cache."""
    retnet, transformer = config_for("retnet", "1.3b"), config_for("transformer", "1.3b")
    assert retnet.state_bytes(1, 0, 4) == transformer.state_bytes(1, 256, 4)
    assert retnet.state_bytes(1, 0, 2) == transformer.state_bytes(1, 512, 2)
    grouped = config_for("transformer-gqa", "1.3b")
    assert retnet.state_bytes(1, 0, 2) == grouped.state_bytes(1, 2048, 2)


@pytest.mark.parametrize(("family", "tokens"), [("transformer", 1024), ("transformer-gqa", 4096)])
def test_a_retnets_step_moves_the_fewer_bytes_from_twice_as_many_tokens_on(
    family: str, tokens: int
) -> None:
    """For it reads its state and writes it: the closed form of measurement.md."""
    retnet, other = config_for("retnet", "1.3b"), config_for(family, "1.3b")
    assert retnet.mixer_step_bytes(1, 0, 2) == other.mixer_step_bytes(1, tokens, 2)
    assert retnet.state_bytes(1, 0, 2) == other.state_bytes(1, tokens // 2, 2)


def test_a_prefill_reads_its_weights_and_writes_its_state(family: str) -> None:
    config = config_for(family, "10m")
    moved = config.weight_bytes(2) + config.state_bytes(3, 100, 2)
    assert config.prefill_bytes(3, 100, 2) == moved


@pytest.mark.parametrize("tied", [True, False])
def test_a_step_moves_its_weights_once_and_its_state(family: str, tied: bool) -> None:
    model = small_model(family, tie_embeddings=tied).to(torch.bfloat16)
    state = model.init_state(3, 40)
    model.prefill(torch.zeros(3, 40, dtype=torch.int64), state)
    head = model.embedding if model.head is None else model.head
    matrices = sum(t.nbytes for layer in model.layers for t in layer.parameters())
    read = matrices + model.norm.weight.nbytes + head.weight.nbytes
    embedding_rows = 3 * 32 * 2
    moved = 0
    for layer, kept in zip(model.config.layers, state.layers, strict=True):
        # A recurrent state is also written; a cache that is copied, and read again.
        passes = {"transformer-paper": 3}.get(layer.family, 1 if layer.family in ATTENTION else 2)
        moved += passes * sum(t.nbytes for t in kept.tensors())
    assert model.config.decode_bytes(3, 40, 2) == read + embedding_rows + moved


def fused_product_flops(_added: Any, left: Any, right: Any, **_: Any) -> int:
    """FLOPs of an in-place baddbmm, from its operands' shapes; PyTorch's counter overlooks it."""
    batch, rows, inner = left
    return int(2 * batch * rows * inner * right[-1])


def counted_flops(model: Decoder, run: Any) -> int:
    """FLOPs that PyTorch's counter sees, attention by its two plain products."""
    unknown_to_it = {torch.ops.aten.baddbmm_: fused_product_flops}
    counter = FlopCounterMode(display=False, custom_mapping=unknown_to_it)
    with counter, sdpa_kernel(SDPBackend.MATH):
        run(model)
    return int(counter.get_total_flops())


def head_dims(config: ModelConfig) -> tuple[int, int]:
    """Of keys and of values, where a state of their product is kept."""
    if isinstance(config, LinearAttentionConfig):
        return config.head_dim, config.head_dim
    assert isinstance(config, RetNetConfig | GatedLinearAttentionConfig)
    return config.d_k, config.d_v


def scan_flops(config: ModelConfig, tokens: int) -> int:
    """Of the product over the states of one layer's chunks, which are fewer than the radix."""
    if not isinstance(config, RetNetConfig | LinearAttentionConfig):
        return 0
    d_k, d_v = head_dims(config)
    chunks = tokens // config.chunk_size
    return 2 * config.n_heads * (chunks + 1) ** 2 * d_k * d_v if chunks else 0


def as_counted(family: str) -> dict[str, Any]:
    """Attention by its two products, other mixers in chunks of which there are several."""
    if family == "transformer-paper":  # it computes so anyway
        return {}
    return {"implementation": "math"} if family in ATTENTION else {"chunk_size": 8}


@pytest.mark.parametrize("ffn", ["gelu", "swiglu"])
@pytest.mark.parametrize("tokens", [16, 35])
@pytest.mark.parametrize("family", PRODUCTS)
def test_a_prefills_hardware_flops_are_the_counted_ones(family: str, tokens: int, ffn: str) -> None:
    model = small_model(family, ffn=ffn, **as_counted(family))
    prompt = torch.zeros(1, tokens, dtype=torch.int64)
    state = model.init_state(1, tokens)
    counted = counted_flops(model, lambda m: m.prefill(prompt, state))
    expected = model.config.hardware_flops_per_token(tokens, "prefill") * tokens
    expected += model.config.n_layers * scan_flops(model.config, tokens)
    assert expected == pytest.approx(counted)


@pytest.mark.parametrize("tokens", [16, 32])
@pytest.mark.parametrize("family", PRODUCTS)
def test_forward_flops_add_the_head_at_every_position(family: str, tokens: int) -> None:
    model = small_model(family, **as_counted(family))
    batch = torch.zeros(1, tokens, dtype=torch.int64)
    counted = counted_flops(model, lambda m: m(batch))
    expected = model.config.hardware_flops_per_token(tokens, "forward") * tokens
    expected += model.config.n_layers * scan_flops(model.config, tokens)
    assert expected == pytest.approx(counted)


@pytest.mark.parametrize(
    ("family", "way"),
    [
        ("transformer", {"implementation": "math"}),
        ("transformer-gqa", {"implementation": "math"}),
        ("retnet", {"form": "parallel"}),
    ],
)
def test_a_trainings_flops_are_three_times_the_forwards(family: str, way: dict[str, str]) -> None:
    """The quadratic forms, of which every product has two of its size in the backward pass."""
    tokens = 32
    model = small_model(family, **way)
    batch = torch.zeros(1, tokens, dtype=torch.int64)
    with torch.enable_grad():
        counted = counted_flops(model, lambda m: m(batch).sum().backward())
    config = model.config
    expected = config.hardware_flops_per_token(tokens, "train") * tokens
    if family == "retnet":
        d_k, d_v = head_dims(config)
        # The final state is made in the forward pass, and of no use here.
        expected += 2 * config.n_layers * config.n_heads * tokens * d_k * d_v
    assert expected == pytest.approx(counted)


@pytest.mark.parametrize("tokens", [8, 32])
def test_glas_forward_flops_are_the_counted_ones(tokens: int) -> None:
    model = small_model("gla", chunk_size=8)
    config = model.config
    counted = counted_flops(model, lambda m: m(torch.zeros(1, tokens, dtype=torch.int64)))
    d_k, _ = head_dims(config)
    expected = config.hardware_flops_per_token(tokens, "forward") * tokens
    diagonal = config.n_layers * config.n_heads * tokens * 2 * d_k  # elementwise: not counted
    assert expected - diagonal == pytest.approx(counted)


def test_h3s_forward_flops_beside_its_transforms_are_the_counted_ones() -> None:
    """What a second sequence adds: the products that make the kernels serve a whole batch."""
    model = small_model("h3")
    config, tokens = model.config, 24
    one, two = (
        counted_flops(model, lambda m, n=n: m(torch.zeros(n, tokens, dtype=torch.int64)))
        for n in (1, 2)
    )
    transforms = config.n_layers * config.mixer_flops(tokens)
    whole = config.flops_per_token(tokens, "forward") * tokens
    assert whole - transforms == pytest.approx(two - one)


def test_h3s_transforms_grow_a_little_faster_than_the_sequence() -> None:
    config = config_for("h3", "10m")
    for tokens in (256, 1024, 8192):
        assert 2 < config.mixer_flops(2 * tokens) / config.mixer_flops(tokens) < 2.4


def test_decode_flops_are_the_counted_ones(family: str) -> None:
    model = small_model(family)
    context = 20
    state = model.init_state(1, context + 1)
    model.prefill(torch.zeros(1, context, dtype=torch.int64), state)
    token = torch.zeros(1, dtype=torch.int64)
    counted = counted_flops(model, lambda m: m.step(token, state))
    config = model.config
    # The state's update is elementwise, which the counter does not see; so is all of H3's mixing.
    for layer in config.layers:
        if isinstance(layer, H3Config):
            counted += layer.mixer_flops(1)
        elif layer.family not in ATTENTION:
            d_k, d_v = head_dims(layer)
            counted += 2 * getattr(layer, "n_kv_heads", layer.n_heads) * d_k * d_v
    assert model.flops_per_token(context, "decode") == counted


def test_training_is_three_forwards(family: str) -> None:
    config = config_for(family, "10m")
    assert config.flops_per_token(512, "train") == 3 * config.flops_per_token(512, "forward")


def test_layers_computed_anew_are_a_fourth_forward_of_the_hardware_alone() -> None:
    config = config_for("transformer", "10m")
    once, again = (
        config.hardware_flops_per_token(512, "train", recomputed=anew) for anew in (False, True)
    )
    head = 2 * config.vocab_size * config.d_model
    assert again - once == once / 3 - head


@pytest.mark.parametrize("tokens", [16, 4096])
def test_no_form_computes_less_than_the_model_flops_nor_changes_them(
    family: str, tokens: int
) -> None:
    config = config_for(family, "10m")
    forms = [replace(config, **way) for way in [{}, *config.variants().values()]]
    assert len({form.flops_per_token(tokens, "train") for form in forms}) == 1
    needed = config.flops_per_token(tokens, "train")
    assert all(form.hardware_flops_per_token(tokens, "train") >= needed for form in forms)


def test_only_attentions_work_per_token_grows_with_the_context() -> None:
    retnet, transformer = config_for("retnet", "10m"), config_for("transformer", "10m")
    assert retnet.flops_per_token(100, "decode") == retnet.flops_per_token(99_999, "decode")
    grown = [transformer.flops_per_token(n, "decode") for n in (100, 200, 300)]
    assert grown[2] - grown[1] == grown[1] - grown[0] == 100 * 4 * 384 * 6


@pytest.mark.parametrize("family", families())
def test_a_configuration_can_be_copied_and_sent(family: str) -> None:
    config = config_for(family, "tiny")
    config.num_parameters()  # whatever it keeps of that
    assert copy.deepcopy(config) == pickle.loads(pickle.dumps(config)) == config
