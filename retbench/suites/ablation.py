"""The ablation suite: what each part of a model is worth, by leaving it out.

The parts are those that the model's own configuration names
(:meth:`models.config.ModelConfig.ablations`); every variant has as many parameters as the whole, is
tuned alike and tested as in the perplexity suite, but at the length of the training alone. Nothing
is timed; as in :mod:`retbench.suites.perplexity`, so few tokens a parameter tell how much a part
helps a model to learn, not what it is worth at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from retbench.config.plan import Contender
from retbench.config.run import RunConfig
from retbench.errors import Misfit
from retbench.suites.perplexity import PerplexitySuite

if TYPE_CHECKING:
    from models.config import ModelConfig


class AblationSuite(PerplexitySuite):
    """Perplexity of a model and of its variants."""

    name = "ablation"
    lengths = (1,)
    """The training's: six models are tested, and it is the parts that are compared."""

    def contenders(self, config: RunConfig) -> tuple[Contender, ...]:
        """Each model of the run, followed by its variants."""
        from models.registry import config_for

        variants = []
        for family in config.models:
            options = config.overrides_for(family)
            variants.append(Contender(family, family, options))
            whole = config_for(family, config.preset, **options)
            for part, changed in whole.ablations().items():
                variants.append(Contender(f"{family}-{part}", family, {**options, **changed}))
        return tuple(variants)

    def check(self, config: RunConfig, models: Mapping[str, ModelConfig]) -> None:
        """Check as the perplexity suite does; a model without variants has nothing to leave out."""
        super().check(config, models)
        for family, model in models.items():
            if not model.ablations():
                problem = f"models: {family} names no parts that could be left out"
                raise Misfit(problem, "name a model that does, such as retnet", keys=("models",))


SUITE = AblationSuite()
