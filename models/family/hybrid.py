"""A RetNet with attention in some of its layers: exact recall beside a state of fixed size.

As RetNet+ of the authors' later rewrite (OpenReview sxZlp9ZoHD), one attention layer in three.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Self

from models.config import ConfigError, ModelConfig
from models.family.retnet import RetNetConfig
from models.family.transformer import TransformerConfig
from models.presets import PRESETS
from models.registry import register


@register("retnet-hybrid")
@dataclass(frozen=True)
class HybridConfig(RetNetConfig):
    """Retention, and in the middle layer of every three multi-head attention.

    Its options are the retention layers'; ``d_ff`` too: an attention layer's feed-forward is as
    wide as the layer's budget leaves.

    Attributes:
        attention_every: layers of which one mixes by attention, the middle one.
        attention_heads: heads of that; 0 means as many of the preset's ``head_dim`` as fit.
    """

    attention_every: int = 3
    attention_heads: int = 0

    @classmethod
    def from_preset(cls, preset: str, **overrides: Any) -> Self:
        """As any family's; attention's heads follow from the preset unless they are given."""
        if preset in PRESETS and not overrides.get("attention_heads"):
            sizes = PRESETS[preset]
            width = overrides.get("d_model", sizes.d_model)
            overrides["attention_heads"] = TransformerConfig.preset_heads(sizes, width)
        return super().from_preset(preset, **overrides)

    def check(self) -> None:
        """As a RetNet; raise ConfigError for attention layers that cannot be."""
        super().check()
        if self.attention_every < 2:
            raise ConfigError(f"attention_every must be at least 2, not {self.attention_every}")
        if self.attention_heads < 1:
            raise ConfigError(f"attention_heads must be at least 1, not {self.attention_heads}")
        self._attention()

    @cached_property
    def layer_counts(self) -> tuple[tuple[Any, int], ...]:
        """Retention, and attention in the middle layer of every ``attention_every``."""
        retention = RetNetConfig(**_values(self, RetNetConfig))
        middle = len(range(self.attention_every // 2, self.n_layers, self.attention_every))
        return (retention, self.n_layers - middle), (self._attention(), middle)

    @property
    def layers(self) -> tuple[ModelConfig, ...]:  # type: ignore[override]
        """Each layer's configuration in its place."""
        retention, attention = (layer for layer, _ in self.layer_counts)
        middle = self.attention_every // 2
        return tuple(
            attention if layer % self.attention_every == middle else retention
            for layer in range(self.n_layers)
        )

    def ablations(self) -> dict[str, dict[str, Any]]:
        """None: the paper's are of a RetNet."""
        return {}

    def _attention(self) -> TransformerConfig:
        common = _values(self, ModelConfig)
        return TransformerConfig(**common | {"n_heads": self.attention_heads, "d_ff": 0})


def _values(config: ModelConfig, kind: Any) -> dict[str, Any]:
    """The fields of a configuration that a kind of configurations has."""
    return {field.name: getattr(config, field.name) for field in fields(kind)}
