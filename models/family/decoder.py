"""A family whose models are the one skeleton that all share: it says what its mixer is."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from models.config import ModelConfig

if TYPE_CHECKING:
    import torch

    from models.decoder import Decoder
    from models.mixers.base import Mixer


class DecoderConfig(ModelConfig):
    """The configuration of a :class:`models.decoder.Decoder`; a family says what its mixer is."""

    @abstractmethod
    def mixer(self) -> Mixer:
        """A new, uninitialised mixer for one layer."""

    def build(
        self,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        seed: int = 0,
    ) -> Decoder:
        """Build the model; see :meth:`models.config.ModelConfig.build`."""
        from models.decoder import Decoder

        return Decoder(self, device=device, dtype=dtype, seed=seed)
