"""The sizes that have a name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """The sizes that a preset fixes; ``head_dim`` is attention's, ``retention_dim`` is d_k."""

    d_model: int
    n_layers: int
    head_dim: int
    retention_dim: int


# From 125m on a preset is named for all its parameters with tied GPT-2 embeddings, as in GPT-3;
# below, for the non-embedding ones, for there the embedding would be most of the model.
# d_k is 256 where the paper trained (1.3b and larger, its table 8); smaller models keep at least
# four heads, so that decays differ, and queries can share keys in fours.
PRESETS: dict[str, Preset] = {
    "50k": Preset(d_model=48, n_layers=2, head_dim=12, retention_dim=12),
    "tiny": Preset(d_model=64, n_layers=2, head_dim=16, retention_dim=16),
    "300k": Preset(d_model=96, n_layers=3, head_dim=24, retention_dim=24),
    "1m": Preset(d_model=128, n_layers=4, head_dim=32, retention_dim=32),
    "3m": Preset(d_model=256, n_layers=4, head_dim=32, retention_dim=64),
    "10m": Preset(d_model=384, n_layers=6, head_dim=48, retention_dim=64),
    "30m": Preset(d_model=512, n_layers=10, head_dim=64, retention_dim=64),
    "125m": Preset(d_model=768, n_layers=12, head_dim=64, retention_dim=128),
    "350m": Preset(d_model=1024, n_layers=24, head_dim=64, retention_dim=128),
    "1.3b": Preset(d_model=2048, n_layers=24, head_dim=128, retention_dim=256),
    "2.7b": Preset(d_model=2560, n_layers=32, head_dim=128, retention_dim=256),
    "6.7b": Preset(d_model=4096, n_layers=32, head_dim=128, retention_dim=256),
}
