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
from retbench.suites.base import SLICE_S, Suite, plan_in_turns, require_length, swept
from retbench.suites.cost import Cost

PREFILL_TOKENS = 65536
"""Most tokens of one prefill call; a larger batch goes in by parts of whole sequences. Otherwise
the activations of its prefill, not its state, would decide how large a batch fits."""

# Host work of one layer in one step: dispatch on a CPU, a launch (or its replay) on a GPU.
_LAYER_OVERHEAD_S = {
    "eager": {"cpu": 1e-4, "cuda": 3e-4},
    "compile": {"cpu": 4e-5, "cuda": 1e-4},
    "cudagraph": {"cpu": 0.0, "cuda": 2e-5},
    "compile-cudagraph": {"cpu": 0.0, "cuda": 1e-5},
}
# A worker's imports, gate and first calls; compilation comes on top, once a process.
_COMPILE_S = {"eager": 0.0, "compile": 45.0, "cudagraph": 2.0, "compile-cudagraph": 47.0}


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


class InferenceCost(Cost):
    """What prefill and decode need of one machine."""

    config: InferenceConfig

    def process_s(self, model: ModelConfig, /) -> float:
        """Seconds until the first cell: imports, compilation, weights."""
        return self.start_s(model.weight_bytes(self.dtype_bytes)) + _COMPILE_S[self.config.mode]

    def cell_s(self, model: ModelConfig, point: Point, /) -> float:
        """Seconds of the first calls, and of warm-up and rounds of all phases."""
        prefill_s = self._prefill_s(model, point)
        step_s = self._step_s(model, point)
        # The first calls, and those that memory is read from.
        once_s = prefill_s + (1 + self.config.new_tokens) * step_s
        phases = (prefill_s, max(2 * step_s, SLICE_S), 8 * step_s)
        return once_s + sum(map(self.phase_s, phases))

    def memory_bytes(self, model: ModelConfig, point: Point, /) -> int:
        """Weights, state, logits and the activations of a prefill."""
        capacity = point.seq_len + self.config.new_tokens
        state = model.state_bytes(point.batch_size, capacity, self.dtype_bytes)
        weights = model.weight_bytes(self.dtype_bytes)
        logits = point.batch_size * model.vocab_size * self.dtype_bytes
        return weights + state + logits + self._activation_bytes(model, point)

    def _prefill_s(self, model: ModelConfig, point: Point) -> float:
        flops = model.hardware_flops_per_token(point.seq_len, "prefill") * point.tokens
        moved = model.weight_bytes(self.dtype_bytes) + 2 * self._activation_bytes(model, point)
        return self._call_s(model, flops, moved)

    def _step_s(self, model: ModelConfig, point: Point) -> float:
        flops = model.flops_per_token(point.seq_len, "decode") * point.batch_size
        moved = model.decode_bytes(point.batch_size, point.seq_len, self.dtype_bytes)
        return self._call_s(model, flops, moved)

    def _call_s(self, model: ModelConfig, flops: float, moved_bytes: float) -> float:
        host_s = model.n_layers * _LAYER_OVERHEAD_S[self.config.mode][self.config.device]
        return self.roofline_s(flops, moved_bytes, self.config.dtype) + host_s

    def _activation_bytes(self, model: ModelConfig, point: Point) -> int:
        """Live activations of one layer at once: residual, mixer (RetNet's 8 d), feed-forward."""
        width = 8 * model.d_model + model.d_ff
        tokens = min(point.tokens, max(point.seq_len, PREFILL_TOKENS))
        return tokens * width * self.dtype_bytes


class InferenceSuite(Suite[InferenceConfig]):
    """Prefill and decode of matched models."""

    config = InferenceConfig
    measurer = "retbench.suites.inference_cell:InferenceMeasurer"
    cost = InferenceCost
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
        return plan_in_turns(config, contenders, sorted(points), primary)

    def data(self, config: InferenceConfig) -> None:
        """Read and encode the embedded text that prompts are made of."""
        prompt_tokens(1, 1, config.seed)

    def check(self, config: InferenceConfig, models: Mapping[str, ModelConfig]) -> None:
        """Every model must hold the contexts and know every token of the prompts.

        Those are text of GPT-2's tokenizer.
        """
        require_length("context", config.context[-1], models, config.new_tokens)
        if len(config.batch) > 1:
            require_length("batch_context", config.batch_context, models, config.new_tokens)
        for family, model in models.items():
            if model.vocab_size < VOCAB_SIZE:
                raise Misfit(
                    f"set: vocab_size = {model.vocab_size} of {family} is less than the "
                    f"{VOCAB_SIZE} tokens that prompts are made of",
                    keys=("overrides.vocab_size", f"overrides.{family}.vocab_size"),
                )
            if config.mode != "eager" and not model.static_state:
                raise Misfit(
                    f"mode {config.mode} is impossible for {family}: its state grows with each "
                    "step",
                    "use --mode eager",
                    keys=("mode", "models"),
                )


SUITE = InferenceSuite()
