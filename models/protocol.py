"""What the harness asks of a model, and what a model carries from token to token.

A model of any origin can be measured if it keeps to :class:`LanguageModel`; those built on
:class:`models.decoder.Decoder` do so already.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Protocol, Self, cast, runtime_checkable

import torch
from torch import Tensor

if TYPE_CHECKING:
    from models.config import ModelConfig
    from models.footprint import Phase


class LayerState:
    """The tensors that one mixer carries from token to token, a dataclass; updated in place.

    The first dimension of each tensor is the batch, and a state is made of its tensors alone:
    ``type(state)(*state.tensors())`` is the same one. Shapes and addresses never change, so that
    a decode step can be captured in a CUDA graph; unless the configuration's ``static_state`` says
    that they do.
    """

    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor of the state: by default the fields of the dataclass."""
        return tuple(getattr(self, field.name) for field in fields(cast(Any, self)))

    def clone(self) -> Self:
        """A copy that shares no memory."""
        return type(self)(*(tensor.clone() for tensor in self.tensors()))

    def rows(self, start: int, stop: int) -> Self:
        """The sequences ``start`` to ``stop - 1`` of the batch, in the same memory."""
        return type(self)(*(tensor[start:stop] for tensor in self.tensors()))

    def within(self, max_len: int) -> Self:
        """The same memory, for at most so many tokens; a state of constant size as it is."""
        return self

    def seek(self, position: int) -> None:
        """Make ready for a step at an earlier position, where the shapes depend on it."""

    def join(self, parts: Sequence[Self]) -> None:
        """Take over what was made of :meth:`rows`, where it is not in the same memory by now."""

    def reset(self) -> None:
        """Forget every token."""
        for tensor in self.tensors():
            tensor.zero_()


class State:
    """All that a model carries from token to token for one batch of sequences.

    Attributes:
        layers: one :class:`LayerState` a layer.
        position: int64 of shape (1,), on the device: how many tokens were taken in.
        max_len: how many tokens the state can take in.
    """

    def __init__(self, layers: Sequence[LayerState], position: Tensor, max_len: int) -> None:
        self.layers = tuple(layers)
        self.position = position
        self.max_len = max_len

    @property
    def nbytes(self) -> int:
        """Bytes of the layers' tensors (the 8 bytes of ``position`` are not counted)."""
        return sum(t.numel() * t.element_size() for layer in self.layers for t in layer.tensors())

    def clone(self) -> State:
        """A copy that shares no memory."""
        return State([layer.clone() for layer in self.layers], self.position.clone(), self.max_len)

    def rows(self, start: int, stop: int) -> State:
        """The sequences ``start`` to ``stop - 1`` in the same memory, to prefill them apart.

        The position is a copy on the host, where a prefill reads it without waiting for the
        device; :meth:`join` is to move that of the whole batch.
        """
        layers = [layer.rows(start, stop) for layer in self.layers]
        return State(layers, self.position.to("cpu", copy=True), self.max_len)

    def join(self, parts: Sequence[State]) -> None:
        """Be as the parts of the batch that :meth:`rows` gave, all at one position by now."""
        for layer, *own in zip(self.layers, *(part.layers for part in parts), strict=True):
            layer.join(own)
        self.position.fill_(int(parts[0].position))

    def within(self, max_len: int) -> State:
        """The same memory for at most ``max_len`` tokens, from the first on, with its own position.

        A cache is then no longer than that, as one that grows would be at that point.
        """
        layers = [layer.within(max_len) for layer in self.layers]
        return State(layers, self.position.clone(), min(max_len, self.max_len))

    def reset(self) -> None:
        """Forget every token."""
        self.position.zero_()
        for layer in self.layers:
            layer.reset()

    def seek(self, position: int) -> None:
        """Move the position alone, to an earlier one: enough to time a step there again.

        A KV cache is then as it was; a recurrent state keeps what it has taken in since, which
        changes the numbers and not the work.
        """
        self.position.fill_(position)
        for layer in self.layers:
            layer.seek(position)


@runtime_checkable
class LanguageModel(Protocol):
    """A decoder-only language model. Tokens are int64, logits in the model's dtype."""

    @property
    def config(self) -> ModelConfig:
        """The configuration that the model was built from."""

    def parameters(self) -> Iterator[Tensor]:
        """Every parameter once, as of a torch.nn.Module."""

    def buffers(self) -> Iterator[Tensor]:
        """Every buffer once, as of a torch.nn.Module."""

    def __call__(self, tokens: Tensor, *, form: str | None = None) -> Tensor:
        """Logits (batch, time, vocab) of tokens (batch, time), for training and scoring.

        ``form`` is ``parallel``, ``chunkwise`` or ``recurrent`` where the mixer has forms.
        """

    def init_state(
        self,
        batch_size: int,
        max_len: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> State:
        """An empty state for sequences of up to ``max_len`` tokens."""

    def prefill(self, tokens: Tensor, state: State) -> Tensor:
        """Take in tokens (batch, time); logits (batch, vocab) of the last position."""

    def step(self, token: Tensor, state: State) -> Tensor:
        """Take in one token a sequence, (batch,); logits (batch, vocab). Shapes never change."""

    def implementation(self, phase: Phase) -> str:
        """What computes the mixing in that phase: the form and kernel, for the record."""

    def num_parameters(self, embeddings: bool = False) -> int:
        """Parameters, counted over the actual tensors."""

    def flops_per_token(self, seq_len: int, phase: Phase) -> float:
        """Analytic FLOPs; see :meth:`models.config.ModelConfig.flops_per_token`."""

    def state_bytes(self, batch_size: int, context: int) -> int:
        """Analytic bytes of a state that holds ``context`` tokens at the model's dtype."""
