"""The ablation suite: what each part of a model is worth, by leaving it out.

The parts are those that the model's own configuration names
(:meth:`models.config.ModelConfig.ablations`); every variant has as many parameters as the whole, is
tuned alike and tested as in the perplexity suite, but at the length of the training alone. Nothing
is timed; as in :mod:`retbench.suites.perplexity`, so few tokens a parameter tell how much a part
helps a model to learn, not what it is worth at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from models.config import ModelConfig
from models.registry import config_for
from retbench.config.plan import Contender
from retbench.config.settings import changed
from retbench.errors import Misfit
from retbench.suites.perplexity import PerplexityConfig, PerplexitySuite


@dataclass(frozen=True, kw_only=True)
class AblationConfig(PerplexityConfig):
    """What each part of a model is worth, by leaving it out."""

    suite = "ablation"
    models: tuple[str, ...] = changed(PerplexityConfig, "models", default=("retnet",))
    # On a CPU many short trainings, whose best rates are lower.
    steps: int = changed(PerplexityConfig, "steps", cpu=90, cuda=1000)
    learning_rates: tuple[float, ...] = changed(
        PerplexityConfig,
        "learning_rates",
        cpu=(1e-3, 2e-3, 4e-3, 8e-3),
        cuda=(5e-4, 1e-3, 2e-3, 4e-3),
    )


class AblationSuite(PerplexitySuite):
    """Perplexity of a model and of its variants."""

    config = AblationConfig
    measurer = "retbench.suites.text_cell:AblationMeasurer"

    def contenders(self, config: PerplexityConfig) -> tuple[Contender, ...]:
        """Each model of the run, followed by its variants."""
        variants = []
        for family in config.models:
            options = config.overrides_for(family)
            variants.append(Contender(family, family, options))
            whole = config_for(family, config.preset, **options)
            for part, lacking in whole.ablations().items():
                variants.append(Contender(f"{family}-{part}", family, {**options, **lacking}))
        return tuple(variants)

    def check(self, config: PerplexityConfig, models: Mapping[str, ModelConfig]) -> None:
        """Check as the perplexity suite does; a model without variants has nothing to leave out."""
        super().check(config, models)
        for family, model in models.items():
            if not model.ablations():
                problem = f"models: {family} names no parts that could be left out"
                raise Misfit(problem, "name a model that does, such as retnet", keys=("models",))


SUITE = AblationSuite()
