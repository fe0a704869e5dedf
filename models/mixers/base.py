"""What a family of models brings to the skeleton: a mixer, and what it is told of positions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.config import ConfigError
from models.footprint import Phase
from models.protocol import LayerState


@dataclass(frozen=True)
class Span:
    """Where in their sequences some tokens stand.

    Attributes:
        positions: int64 of shape (time,), on the device.
        start: the first of them, known to the host; None in a decode step, which must not ask.
        form: the mixer's form to run; its default where None.
    """

    positions: Tensor
    start: int | None
    form: str | None = None


@dataclass
class MatrixState(LayerState):
    """A matrix of each head, (batch, heads, d_k, d_v), in the type that it is kept in."""

    matrices: Tensor


class Mixer(nn.Module, ABC):
    """Mixes information along the sequence; the only part in which families differ.

    Inputs and outputs are (batch, time, d_model). ``shared`` is what :meth:`prepare` made of the
    positions, once a call for all layers (rotary angles, decays, masks).
    """

    forms: tuple[str, ...] = ()
    """The forms that ``forward`` offers, the default first; empty where there is only one."""

    def initialise(self, generator: torch.Generator) -> None:
        """Set what shall not begin as the skeleton leaves it; called once, under ``no_grad``.

        The skeleton draws every parameter of two and more dimensions from Normal(0, 0.02) and
        leaves vectors as they were made.
        """

    def prepare(self, span: Span, state: LayerState | None) -> Any:
        """What all layers need of the positions; nothing by default."""
        return None

    @abstractmethod
    def forward(self, x: Tensor, shared: Any) -> Tensor:
        """Mix a whole sequence that starts at position 0."""

    @abstractmethod
    def init_state(
        self, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype
    ) -> LayerState:
        """An empty state for this layer."""

    @abstractmethod
    def prefill(self, x: Tensor, shared: Any, state: LayerState) -> Tensor:
        """Mix some tokens that follow those in the state, and take them in."""

    @abstractmethod
    def step(self, x: Tensor, shared: Any, state: LayerState) -> Tensor:
        """As :meth:`prefill` for one token, with no shape that depends on the position."""

    @abstractmethod
    def implementation(self, phase: Phase) -> str:
        """The form and kernel that run in a phase, for the record.

        Raises:
            ConfigError: if what the configuration asks for cannot run on this device or dtype.
        """


def in_triton(
    implementation: str,
    weight: Tensor,
    unsupported: Callable[[torch.dtype, torch.device], str | None],
    chosen: Collection[str] = ("auto",),
) -> bool:
    """Whether Triton's kernels compute a mixer: where asked for, else on a GPU where they can run.

    Args:
        implementation: that the configuration names.
        weight: of the mixer, in whose type and on whose device they would run.
        unsupported: says why they cannot, or None.
        chosen: the other names for which they are taken on a GPU.

    Raises:
        ConfigError: where they are asked for and cannot run.
    """
    insisted = implementation == "triton"
    if not (insisted or (weight.is_cuda and implementation in chosen)):
        return False
    reason = unsupported(weight.dtype, weight.device)
    if insisted and reason:
        raise ConfigError(f"implementation triton: {reason}")
    return reason is None
