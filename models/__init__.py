"""What Retbench compares: matched-size language models that share all but their sequence mixer.

Imports nothing of :mod:`retbench`, and nothing heavy until a model is asked for::

    from models import build
    model = build("retnet", preset="10m")
    logits = model(tokens)                      # (batch, time) int64 -> (batch, time, vocab)
"""

from models.config import ConfigError, ModelConfig
from models.family.decoder import DecoderConfig
from models.presets import PRESETS, Preset
from models.registry import build, config_for, families, register

__all__ = [
    "PRESETS",
    "ConfigError",
    "DecoderConfig",
    "ModelConfig",
    "Preset",
    "build",
    "config_for",
    "families",
    "register",
]
