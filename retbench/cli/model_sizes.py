"""The models of a preset side by side: are they the same size, and how large is their state?"""

from __future__ import annotations

from dataclasses import dataclass

from models.config import ConfigError
from models.presets import PRESETS
from models.registry import config_for
from retbench.config import plugins
from retbench.config.requirements import require_known
from retbench.config.run import FEED_FORWARDS
from retbench.errors import UserError

MATCH_TOLERANCE = 0.005
STATE_CONTEXT = 8192
_CACHE_DTYPE_BYTES = 2


@dataclass(frozen=True)
class ModelSize:
    """The analytic size of one model.

    Attributes:
        preset: the size's name.
        family: the model's name.
        d_model: width of the residual stream.
        n_layers: number of layers.
        n_heads: heads of the mixer.
        d_ff: width of the feed-forward.
        parameters: without embeddings.
        parameters_embedding: of embedding and head.
        ratio: parameters over those of the preset's first model.
        state_bytes: at 8192 tokens and batch 1, with a bfloat16 model.
    """

    preset: str
    family: str
    d_model: int
    n_layers: int
    n_heads: int
    d_ff: int
    parameters: int
    parameters_embedding: int
    ratio: float
    state_bytes: int

    @property
    def matches(self) -> bool:
        """Whether it is within 0.5% of the first model."""
        return abs(self.ratio - 1) <= MATCH_TOLERANCE


def model_sizes(preset: str | None = None, ffn: str = "gelu") -> list[ModelSize]:
    """Sizes of every registered model.

    Args:
        preset: one preset; all of them where None.
        ffn: feed-forward kind of all models.

    Raises:
        UserError: unknown preset or feed-forward kind, or a model that cannot be that size.
    """
    require_known("feed-forward", ffn, FEED_FORWARDS)
    if preset is not None:
        require_known("preset", preset, PRESETS)
    families = plugins.families()
    found: list[ModelSize] = []
    for name in [preset] if preset else PRESETS:
        first = None
        for family in families:
            try:
                config = config_for(family, name, ffn=ffn)
            except ConfigError as problem:
                raise UserError(f"{family} at preset {name}: {problem}") from None
            parameters = config.num_parameters()
            first = first or parameters
            found.append(
                ModelSize(
                    preset=name,
                    family=family,
                    d_model=config.d_model,
                    n_layers=config.n_layers,
                    n_heads=config.n_heads,
                    d_ff=config.d_ff,
                    parameters=parameters,
                    parameters_embedding=config.num_parameters(embeddings=True) - parameters,
                    ratio=parameters / first,
                    state_bytes=config.state_bytes(1, STATE_CONTEXT, _CACHE_DTYPE_BYTES),
                )
            )
    return found
