"""The inference suite: TTFT, TPOT, memory and their analytic bounds over context and batch size.

Which regime a phase is in follows from its arithmetic intensity I, FLOPs over bytes that must move,
beside the machine's matmul rate over its bandwidth: some ten on a CPU in float32, hundreds on a GPU
in bfloat16. With N matrix parameters of b bytes, batch size B and S bytes of state that a step
moves a sequence, a decode step has

    I = (2 N B + i B S) / (b N + B S)

where i is 2/b for attention (times the query heads that share a KV head) and 1/2 for retention,
whose state is float32, read and written. That is far below any machine's: a decode step is
bandwidth-bound, and tells what a mixer keeps. A larger batch shares the weights and no state, so at
long contexts it helps attention little. A prefill of T tokens reads the weights once for all of
them, about 2 B T / b FLOPs a byte: from tens of tokens on a CPU and hundreds on a GPU it is
compute-bound, and tells what a mixer computes. On a small model both wait for the host's dispatch
instead; the metric ``tpot_over_bound`` says by how much. How a cell is measured stands in
:mod:`retbench.suites.inference_cell`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

from models.config import ModelConfig
from retbench.config import values as value
from retbench.config.plan import Contender, Plan, Point
from retbench.config.run import SWEEP, ModelsConfig, TimedModelsConfig
from retbench.config.settings import changed, setting
from retbench.data import prompt_tokens
from retbench.data.tokenizer import VOCAB_SIZE
from retbench.errors import Misfit
from retbench.machine.ceilings import Ceilings
from retbench.suites.base import Suite, plan_in_turns, require_length, swept
from retbench.suites.inference_cost import InferenceCost


@dataclass(frozen=True, kw_only=True)
class InferenceConfig(TimedModelsConfig):
    """Latency, throughput and memory of prefill and decode."""

    suite = "inference"
    models: tuple[str, ...] = changed(
        ModelsConfig, "models", default=("retnet", "transformer", "transformer-gqa")
    )
    preset: str = changed(ModelsConfig, "preset", cpu="10m", cuda="1.3b")
    mode: str = changed(ModelsConfig, "mode", cpu="eager", cuda="cudagraph")
    context: tuple[int, ...] = changed(
        ModelsConfig, "context", cpu=(1024, 2048, 4096), cuda=value.powers(512, 65536)
    )
    batch: tuple[int, ...] = changed(ModelsConfig, "batch", cpu=(1,), cuda=value.powers(1, 1024))
    timeout_s: float = changed(ModelsConfig, "timeout_s", cpu=600.0, cuda=900.0)
    batch_context: int = setting(
        value.positive, "Context of the sweep over batch sizes.", metavar="LENGTH",
        cpu=1024, cuda=8192,
    )  # fmt: skip
    grid: bool = setting(
        value.boolean, "Measure every context at every batch size.", group=SWEEP, default=False
    )
    new_tokens: int = setting(value.positive, "Decode steps of one trial.", cpu=8, cuda=32)


class InferenceSuite(Suite[InferenceConfig]):
    """Prefill and decode of matched models."""

    config = InferenceConfig
    measurer = "retbench.suites.inference_cell:InferenceMeasurer"
    takes_turns = True

    def plan(self, config: InferenceConfig) -> Plan:
        """Every context at the first batch size; several batch sizes at ``batch_context``.

        With a grid every context at every batch size.
        """
        sizes = set(product(config.context, config.batch if config.grid else config.batch[:1]))
        if len(config.batch) > 1:
            sizes |= {(config.batch_context, batch) for batch in config.batch}
        points = swept(sizes, lambda _, batch: batch == config.batch[0], config.batch_context)
        contenders = [Contender(name, name, config.overrides_for(name)) for name in config.models]
        longest = Point(config.context[-1], config.batch[0])
        primary = [("tpot_s", longest), ("ttft_s", longest)]
        return plan_in_turns(self.name, config, contenders, sorted(points), primary)

    def data(self, config: InferenceConfig) -> None:
        """Read and encode the embedded text that prompts are made of."""
        prompt_tokens(1, 1, config.seed)

    def check(self, config: InferenceConfig, models: Mapping[str, ModelConfig]) -> None:
        """Every model must hold the contexts and know every token of the prompts."""
        require_length("context", config.context[-1], models, config.new_tokens)
        if len(config.batch) > 1:
            require_length("batch_context", config.batch_context, models, config.new_tokens)
        for family, model in models.items():
            _check_vocabulary(family, model)
            if config.mode != "eager" and not model.static_state:
                raise Misfit(
                    f"mode {config.mode} is impossible for {family}: its state grows with each "
                    "step",
                    "use --mode eager",
                    keys=("mode", "models"),
                )

    def cost(self, config: InferenceConfig, ceilings: Ceilings) -> InferenceCost:
        """Bounds of prefill and decode steps under the caps of the profile."""
        return InferenceCost(config, ceilings)


SUITE = InferenceSuite()


def _check_vocabulary(family: str, model: ModelConfig) -> None:
    """The prompts are text of GPT-2's tokenizer, whose every token a model must know."""
    if model.vocab_size < VOCAB_SIZE:
        raise Misfit(
            f"set: vocab_size = {model.vocab_size} of {family} is less than the {VOCAB_SIZE} "
            "tokens that prompts are made of",
            keys=("overrides.vocab_size", f"overrides.{family}.vocab_size"),
        )
