"""The scaling suite: the perplexity suite's comparison at several sizes of all models.

Every size is trained on the same tokens D, so the tokens per parameter D / N fall as the size N
grows: the larger sizes are limited by the data, and a power law over N that was fitted here holds
at this D alone. A training costs about 6 N D FLOPs, so the largest size takes most of the time.
"""

from __future__ import annotations

from dataclasses import dataclass

from retbench.config import values as value
from retbench.config.run import presets
from retbench.config.settings import changed, first_of, setting
from retbench.suites.perplexity import PerplexityConfig, PerplexitySuite
from retbench.suites.quality import Coordinate


@dataclass(frozen=True, kw_only=True)
class ScalingConfig(PerplexityConfig):
    """Perplexity of matched models over their size."""

    suite = "scaling"
    presets: tuple[str, ...] = setting(
        value.distinct_names, "Sizes of all models.", metavar="PRESETS", choices=presets,
        cpu=("50k", "tiny", "300k"), cuda=("30m", "125m", "350m"),
    )  # fmt: skip
    preset: str = first_of(PerplexityConfig, "preset", "presets")
    # On a CPU small batches, so that there are steps enough.
    batch: tuple[int, ...] = changed(PerplexityConfig, "batch", cpu=(2,), cuda=(32,))
    steps: int = changed(PerplexityConfig, "steps", cpu=500, cuda=1000)
    learning_rates: tuple[float, ...] = changed(
        PerplexityConfig,
        "learning_rates",
        cpu=(4e-3, 8e-3, 1.6e-2, 3.2e-2),
        cuda=(5e-4, 1e-3, 2e-3, 4e-3),
    )

    @property
    def sizes(self) -> tuple[str, ...]:
        """All that are swept."""
        return self.presets


class ScalingSuite(PerplexitySuite):
    """Perplexity of matched models over their size."""

    config = ScalingConfig
    measurer = "retbench.suites.text_cell:TextMeasurer"

    def coordinates(self, config: PerplexityConfig) -> list[Coordinate]:
        """Every preset is tuned by itself."""
        return [(("preset", preset),) for preset in config.sizes]


SUITE = ScalingSuite()
