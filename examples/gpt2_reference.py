"""GPT-2 as Hugging Face has it, joined to the comparison: `--plugin examples/gpt2_reference.py`.

An independent check of the harness: another team's code, of nanoGPT's architecture (learned
positions, LayerNorm and linear maps with biases, tanh GELU, tied head), at equal non-embedding
parameters, trained by the same loop on the same batches. It is also the example of how a model that
was written elsewhere joins: a configuration, and a thin module around the model.

It can be trained and scored, not decoded: `init_state` says so, and a suite that decodes reports
the model as unsupported.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from models import ModelConfig, Preset, register


@register("gpt2-reference")
@dataclass(frozen=True)
class GPT2Config(ModelConfig):
    """GPT-2 (Radford et al. 2019); `max_len` bounds its learned positions."""

    max_len: int = 4096

    @classmethod
    def preset_heads(cls, preset: Preset, d_model: int) -> int:
        """As many heads of the preset's `head_dim` as fit."""
        return max(1, d_model // preset.head_dim)

    def mixer_parameters(self) -> int:
        """q, k, v and out with biases, and what a layer has beside: LayerNorms' and other biases.

        The feed-forward's own biases depend on its width; counted here at four times d_model,
        their usual width, so that the budget of a layer is kept within 0.01%.
        """
        d = self.d_model
        return 4 * d * d + 4 * d + 2 * d + 5 * d

    def mixer_flops(self, tokens: int, *, context: int = 0) -> int:
        """Scores and weighted sum over the pairs a causal mask leaves."""
        pairs = tokens * context + tokens * (tokens + 1) // 2
        return pairs * 4 * self.d_model

    def mixer_state_bytes(self, batch_size: int, context: int, dtype_bytes: int) -> int:
        """Keys and values of every token."""
        return 2 * batch_size * context * self.d_model * dtype_bytes

    def build(
        self,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        seed: int = 0,
    ) -> GPT2Reference:
        """The model with GPT-2's own initialisation, drawn from a seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = GPT2Reference(self)
        return model.to(device=device, dtype=dtype or torch.float32).eval()


class GPT2Reference(nn.Module):
    """`transformers`' GPT-2 behind the protocol of `models.protocol.LanguageModel`."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        from transformers import GPT2Config as Sizes
        from transformers import GPT2LMHeadModel

        sizes = Sizes(
            vocab_size=config.vocab_size, n_positions=config.max_len, n_embd=config.d_model,
            n_layer=config.n_layers, n_head=config.n_heads, n_inner=config.d_ff,
            activation_function="gelu_new", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
            tie_word_embeddings=True, use_cache=False, bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        self.config = config
        self.model = GPT2LMHeadModel(sizes)

    @property
    def layers(self) -> nn.ModuleList:
        """The layers, whose activations may be checkpointed."""
        return self.model.transformer.h

    def forward(self, tokens: Tensor, *, form: str | None = None) -> Tensor:
        """Logits (batch, time, vocab) of int64 tokens (batch, time)."""
        return self.model(tokens).logits

    def init_state(self, *_: Any, **__: Any) -> NoReturn:
        """Not offered: this model is here to be trained and scored."""
        raise NotImplementedError("gpt2-reference is trained and scored, not decoded")

    prefill = step = init_state

    def implementation(self, phase: str) -> str:
        """Whose code runs."""
        return "transformers-gpt2"

    def num_parameters(self, embeddings: bool = False) -> int:
        """Parameters; token and position embeddings only if asked for."""
        outside = {id(self.model.transformer.wte.weight), id(self.model.transformer.wpe.weight)}
        return sum(p.numel() for p in self._own() if embeddings or id(p) not in outside)

    def flops_per_token(self, seq_len: int, phase: Any) -> float:
        """Analytic FLOPs per token."""
        return self.config.flops_per_token(seq_len, phase)

    def state_bytes(self, batch_size: int, context: int) -> int:
        """Analytic bytes of a KV cache."""
        return self.config.state_bytes(batch_size, context, 4)

    def _own(self) -> Iterator[Tensor]:
        return iter({id(p): p for p in self.model.parameters()}.values())
