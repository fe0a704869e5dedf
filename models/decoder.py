"""The one decoder-only skeleton that all families share.

Embedding, pre-norm layers (x + mixer(norm(x)), then x + ffn(norm(x))), final norm, head. A family
differs in its :class:`models.mixers.base.Mixer` alone. Three ways through the model:

- ``forward``: all positions at once, for training and scoring;
- ``prefill``: a prompt into a state, logits of its last position only;
- ``step``: one token a sequence through the state, of fixed shapes, so that it can be captured in a
  CUDA graph or compiled.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.footprint import Phase
from models.layers import FeedForward, RMSNorm
from models.mixers.base import Mixer, Span
from models.protocol import LayerState, State

if TYPE_CHECKING:
    from models.family.decoder import DecoderConfig


class Layer(nn.Module):
    """One pre-norm layer: mixer, then feed-forward, each with its residual."""

    def __init__(self, config: DecoderConfig, **factory: Any) -> None:
        super().__init__()
        self.mixer_norm = RMSNorm(config.d_model, config.norm_eps, **factory)
        with factory["device"]:  # made there, not on the host and moved
            self.mixer = config.mixer().to(**factory)
        self.ffn_norm = RMSNorm(config.d_model, config.norm_eps, **factory)
        self.ffn = FeedForward(config.d_model, config.d_ff, config.ffn, **factory)

    def forward(
        self, x: Tensor, shared: Any, state: LayerState | None = None, *, step: bool = False
    ) -> Tensor:
        """Map (batch, time, d_model) to that shape; with a state, take the tokens into it."""
        normed = self.mixer_norm(x)
        if state is None:
            mixed = self.mixer(normed, shared)
        elif step:
            mixed = self.mixer.step(normed, shared, state)
        else:
            mixed = self.mixer.prefill(normed, shared, state)
        x = x + mixed
        return x + self.ffn(self.ffn_norm(x))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """A decoder-only language model around a family's mixer; keeps the LanguageModel protocol.

    Raises:
        ConfigError: if the mixer cannot run on the device or in the dtype as it is configured.
    """

    def __init__(
        self,
        config: DecoderConfig,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        factory: dict[str, Any] = {"device": torch.device(device), "dtype": dtype or torch.float32}
        self.config = config
        # Tied, it is the head's matrix too, and has the rows that pad it.
        rows = config.head_rows if config.tie_embeddings else config.vocab_size
        self.embedding = nn.Embedding(rows, config.d_model, **factory)
        self.layers = nn.ModuleList(Layer(layer, **factory) for layer in config.layers)
        # The first layer of each one's kind, which tells all of that kind about positions.
        self._kinds = [config.layers.index(layer) for layer in config.layers]
        self.norm = RMSNorm(config.d_model, config.norm_eps, **factory)
        self.head = (
            None
            if config.tie_embeddings
            else nn.Linear(config.d_model, config.head_rows, bias=False, **factory)
        )
        for phase in get_args(Phase):
            self.implementation(phase)  # an error now, not at the first use
        self._initialise(seed)
        self.eval()

    # The three ways through.

    def forward(self, tokens: Tensor, *, form: str | None = None) -> Tensor:
        """Logits of every position.

        Args:
            tokens: int64, (batch, time).
            form: one of the mixer's forms; its default where None.

        Returns:
            (batch, time, vocab), in the model's dtype.

        Raises:
            ValueError: if the mixer has no such form.
        """
        if form is not None and form not in self.forms:
            raise ValueError(f"{self.config.family} has no form {form!r}: {self.forms}")
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.embedding(tokens)
        prepared = self._prepare(Span(positions, 0, form))
        for layer, shared in zip(self.layers, prepared, strict=True):
            x = layer(x, shared)
        return self._logits(x)

    def prefill(self, tokens: Tensor, state: State) -> Tensor:
        """Take a prompt, or more of one, into the state.

        Args:
            tokens: int64, (batch, time), at least one token.
            state: updated in place; may hold earlier tokens.

        Returns:
            Logits of the last position, (batch, vocab).

        Raises:
            ValueError: if the state has no room for the tokens.
        """
        return self._logits(self._taken_in(tokens, state)[:, -1])

    def score(self, tokens: Tensor, state: State) -> Tensor:
        """As :meth:`prefill`, but logits of every position: (batch, time, vocab)."""
        return self._logits(self._taken_in(tokens, state))

    def _taken_in(self, tokens: Tensor, state: State) -> Tensor:
        """Take tokens into the state; what the last layer made of each, (batch, time, d_model)."""
        start, length = int(state.position), tokens.shape[1]
        if start + length > state.max_len:
            raise ValueError(f"{start} + {length} tokens into a state of {state.max_len}")
        positions = torch.arange(start, start + length, device=tokens.device)
        x: Tensor = self.embedding(tokens)
        prepared = self._prepare(Span(positions, start), state)
        for layer, shared, own in zip(self.layers, prepared, state.layers, strict=True):
            x = layer(x, shared, own)
        state.position += length
        return x

    def step(self, token: Tensor, state: State) -> Tensor:
        """Take one token a sequence into the state; the caller sees to it that there is room.

        Args:
            token: int64, (batch,).
            state: updated in place.

        Returns:
            Logits, (batch, vocab).
        """
        x = self.embedding(token[:, None])
        prepared = self._prepare(Span(state.position, None), state)
        for layer, shared, own in zip(self.layers, prepared, state.layers, strict=True):
            x = layer(x, shared, own, step=True)
        state.position += 1
        return self._logits(x[:, -1])

    def init_state(
        self,
        batch_size: int,
        max_len: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> State:
        """An empty state for ``batch_size`` sequences of up to ``max_len`` tokens.

        Raises:
            ValueError: if ``max_len`` is beyond the configuration's.
        """
        if max_len > self.config.max_len:
            raise ValueError(f"max_len {max_len} is beyond the model's {self.config.max_len}")
        weight = self.embedding.weight
        device = torch.device(device) if device is not None else weight.device
        layers = [
            layer.mixer.init_state(batch_size, max_len, device, dtype or weight.dtype)  # type: ignore[union-attr,operator]
            for layer in self.layers
        ]
        return State(layers, torch.zeros(1, dtype=torch.int64, device=device), max_len)

    # What the model says of itself.

    def num_parameters(self, embeddings: bool = False) -> int:
        """Parameters counted over the tensors; embedding and head only if asked for.

        The rows that pad the head are not counted.
        """
        outside = {id(self.embedding.weight)}
        if self.head is not None:
            outside.add(id(self.head.weight))
        inside = sum(p.numel() for p in self.parameters() if id(p) not in outside)
        tokens = self.config.vocab_size * self.config.d_model
        return inside + (len(outside) * tokens if embeddings else 0)

    def flops_per_token(self, seq_len: int, phase: Phase) -> float:
        """Analytic FLOPs per token; see :meth:`ModelConfig.flops_per_token`."""
        return self.config.flops_per_token(seq_len, phase)

    def state_bytes(self, batch_size: int, context: int) -> int:
        """Analytic bytes of the state at the model's dtype."""
        return self.config.state_bytes(batch_size, context, self.embedding.weight.element_size())

    def implementation(self, phase: Phase) -> str:
        """The form and kernel of the mixers in a phase."""
        names = (self._mixer(first).implementation(phase) for first in self._kinds)
        return "+".join(dict.fromkeys(names))

    @property
    def forms(self) -> tuple[str, ...]:
        """The forms that ``forward`` offers, the default first; empty where there is only one."""
        return self._mixer(0).forms

    def _mixer(self, layer: int) -> Mixer:
        return self.layers[layer].mixer  # type: ignore[return-value]

    def _prepare(self, span: Span, state: State | None = None) -> list[Any]:
        """What each layer is told of the positions."""
        made = {
            first: self._mixer(first).prepare(span, None if state is None else state.layers[first])
            for first in dict.fromkeys(self._kinds)
        }
        return [made[first] for first in self._kinds]

    @property
    def _head_weight(self) -> Tensor:
        return (self.embedding if self.head is None else self.head).weight

    def _logits(self, x: Tensor) -> Tensor:
        return F.linear(self.norm(x), self._head_weight)[..., : self.config.vocab_size]

    @torch.no_grad()
    def _initialise(self, seed: int) -> None:
        """Normal(0, 0.02), projections into the residual stream scaled by 1/sqrt(2 layers).

        GPT-2 (Radford et al. 2019, section 2.3); fla initialises its RetNet alike.
        """
        generator = torch.Generator(device=self.embedding.weight.device).manual_seed(seed)
        head, vocab_size = self._head_weight, self.config.vocab_size
        head[vocab_size:] = 0
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                continue
            into_residual = name.endswith(("out.weight", "down.weight"))
            std = 0.02 / math.sqrt(2 * self.config.n_layers) if into_residual else 0.02
            drawn = parameter[:vocab_size] if parameter is head else parameter
            drawn.normal_(0.0, std, generator=generator)
        for layer in self.layers:
            layer.mixer.initialise(generator)  # type: ignore[union-attr,operator]
