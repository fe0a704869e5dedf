"""The training suite: seconds, memory and utilisation of one optimizer step, over length and batch.

Forward and backward cost three forwards, mostly in matrix products, and are compute-bound. In a
forward a token takes 24 d^2 FLOPs a layer in the matrices and 2 d T in attention over T tokens, or
8 d d_k in retention (and 6 c d more as it is computed in chunks of c): attention's overtake the
matrices' at T = 12 d, and retention's are the same at any length. The context is swept at equal
tokens a step, so that only the mixing changes. The optimizer is bandwidth-bound: AdamW reads a
weight, its gradient and two moments and writes all but the gradient, 28 bytes a parameter in
float32 whatever the tokens. Memory is those four, 16 bytes a parameter, and the activations, which
grow with the tokens.

A contender is a model, or one of its variants: another way to compute the same function. Its points
are every context at the same tokens a step, every batch size at ``batch_context``, and there also
every other mode and treatment of activations; the data loader is a point of its own. Importing this
module does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from models.config import ModelConfig
from models.registry import config_for
from retbench.config import values as value
from retbench.config.plan import Contender, Plan, Point, Setting
from retbench.config.requirements import require_tokenizers_vocabulary
from retbench.config.run import ModelsConfig, TimedModelsConfig
from retbench.config.settings import ByDevice, changed, first_of, setting
from retbench.config.values import nearest
from retbench.data.config import TextData
from retbench.distributed.launch import KINDS
from retbench.errors import Misfit, UserError
from retbench.suites.base import Suite, plan_in_turns, require_length, swept
from retbench.suites.cost import TrainingCost
from retbench.training.config import DTYPE

LOADER: tuple[tuple[str, Setting], ...] = (("part", "loader"),)
"""The settings of the point that times the data loader alone."""

UNSHARED: tuple[tuple[str, Setting], ...] = (("processes", 1),)
"""Those of the point, in a run of several processes, that times the step of one alone."""

_LOADER_S = 0.5
_COMPILE_S = 60.0


@dataclass(frozen=True)
class SharedEqually(ByDevice):
    """A default sweep, of it what a run's processes can share equally; all, where they can none.

    Attributes:
        sequences: of a step, at a size of the sweep and so many tokens a step.
    """

    sequences: Callable[[int, int], int]

    def __call__(self, known: Mapping[str, Any]) -> Any:
        """The sizes of the sweep."""
        sizes = super().__call__(known)
        processes, tokens = known["world_size"], known["tokens_per_step"]
        return tuple(n for n in sizes if self.sequences(n, tokens) % processes == 0) or sizes


@dataclass(frozen=True, kw_only=True)
class TrainingThroughputConfig(TimedModelsConfig, TextData):
    """Seconds, memory and utilisation of an optimizer step."""

    suite = "training"
    models: tuple[str, ...] = changed(
        ModelsConfig, "models", default=("retnet", "transformer", "transformer-gqa")
    )
    preset: str = changed(ModelsConfig, "preset", cpu="1m", cuda="350m")
    dtype: str = changed(ModelsConfig, "dtype", reader=DTYPE)
    context: tuple[int, ...] = changed(
        ModelsConfig, "context",
        default=SharedEqually(
            cpu=(512, 1024, 2048), cuda=value.powers(1024, 32768),
            sequences=lambda context, tokens: tokens // context,
        ),
    )  # fmt: skip
    batch: tuple[int, ...] = changed(
        ModelsConfig, "batch",
        default=SharedEqually(
            cpu=(4,), cuda=value.powers(1, 256), sequences=lambda batch, tokens: batch
        ),
    )  # fmt: skip
    timeout_s: float = changed(ModelsConfig, "timeout_s", cpu=600.0, cuda=900.0)
    batch_context: int = setting(
        value.positive, "Context of the sweep over batch sizes.", metavar="LENGTH",
        cpu=512, cuda=2048,
    )  # fmt: skip
    tokens_per_step: int = setting(
        value.positive, "Tokens of a step at any context.", metavar="TOKENS", cpu=2048, cuda=32768
    )
    modes: tuple[str, ...] = setting(
        value.SomeOf(("eager", "compile"), "mode"), "Modes of execution; the first sweeps.",
        cpu=("eager",), cuda=("eager", "compile"),
    )  # fmt: skip
    mode: str = first_of(ModelsConfig, "mode", "modes")
    activations: tuple[str, ...] = setting(
        value.SomeOf(("kept", "recomputed"), "activations"),
        "What the backward pass does for activations; the first sweeps.",
        cpu=("kept",), cuda=("kept", "recomputed"),
    )  # fmt: skip
    variants: tuple[str, ...] = setting(
        value.names, "Models' other implementations to measure beside them.", metavar="NAMES",
        cpu=("math",), cuda=("math", "cudnn", "parallel", "torch", "chunk-64", "chunk-256"),
    )  # fmt: skip
    parallel: str = setting(
        value.OneOf(("none", *KINDS), "parallel"), "How --processes share a step.",
        default="none",
    )  # fmt: skip
    world_size: int = setting(
        value.positive, "Processes that share a step, on all machines together.",
        flag="processes", default=1,
    )  # fmt: skip


class StepCost(TrainingCost):
    """What timed steps need of one machine, or of each process of several."""

    config: TrainingThroughputConfig

    def process_s(self, model: ModelConfig, /) -> float:
        """Seconds until the first cell: imports, the text, the weights, the gate in float64."""
        return self.start_s(3 * model.weight_bytes(4))

    def cell_s(self, model: ModelConfig, point: Point, /) -> float:
        """Seconds of the first step, the warm-up, whole steps and their parts."""
        if point.setting("part") is not None:
            return _LOADER_S
        alone = point.setting("processes") is not None
        step_s = self.step_s(model, point if alone else self._share(point))
        compiles = point.setting("mode", self.config.mode) == "compile"
        # Whole steps, then their parts; one step first, and one for the bytes that it keeps.
        return (_COMPILE_S if compiles else 0.0) + 2 * self.phase_s(step_s) + 2 * step_s

    def memory_bytes(self, model: ModelConfig, point: Point, /) -> int:
        """That of any training, of one process's part of a step."""
        return super().memory_bytes(model, self._share(point))

    def _share(self, point: Point) -> Point:
        return replace(point, batch_size=max(1, point.batch_size // self.config.world_size))


class TrainingThroughputSuite(Suite[TrainingThroughputConfig]):
    """Throughput of training."""

    config = TrainingThroughputConfig
    measurer = "retbench.suites.step_cell:TrainingMeasurer"
    cost = StepCost
    takes_turns = True

    def plan(self, config: TrainingThroughputConfig) -> Plan:
        """Both sweeps, the other ways to make a step, and the loader."""
        alone = [UNSHARED] if config.world_size > 1 else []
        bases = (_base(config, named) for named in (LOADER, *alone))
        points = dict.fromkeys([*sweep(config), *settings(config), *bases])
        longest = config.context[-1]
        primary = [("step_s", Point(longest, config.tokens_per_step // longest))]
        return plan_in_turns(config, _contenders(config), points, primary)

    def data(self, config: TrainingThroughputConfig) -> dict[str, Any]:
        """Encode the text, unless the cache has it."""
        dataset = config.dataset()
        longest = max(*config.context, config.batch_context)
        if len(dataset.train.tokens) <= longest:
            raise UserError(
                f"the training split of {dataset.name} has {len(dataset.train.tokens):,} tokens, "
                f"less than one window of {longest + 1:,}",
                "shorten the context or give more text",
            )
        return dataset.to_json()

    def model_options(self, config: TrainingThroughputConfig) -> dict[str, Any]:
        """The tokenizer's vocabulary."""
        return {"vocab_size": config.dataset().tokenizer.vocab_size}

    def check(self, config: TrainingThroughputConfig, models: Mapping[str, ModelConfig]) -> None:
        """Contexts that divide a step's tokens, and variants that some model has."""
        require_tokenizers_vocabulary(config.overrides)
        known = sorted({name for model in models.values() for name in model.variants()})
        for name in config.variants:
            if name not in known:
                problem = f"variants: no model of the run has a variant {name!r}"
                raise Misfit(problem, nearest(name, known), keys=("variants",))
        _check_lengths(config, models)


SUITE = TrainingThroughputSuite()


def sweep(config: TrainingThroughputConfig) -> list[Point]:
    """Every context at the same tokens a step, then every batch size at one context."""
    tokens = config.tokens_per_step
    sizes = [(context, tokens // context) for context in config.context]
    sizes += [(config.batch_context, batch) for batch in config.batch]
    return swept(sizes, lambda context, batch: context * batch == tokens, config.batch_context)


def settings(config: TrainingThroughputConfig) -> Iterator[Point]:
    """At one context every mode and treatment of activations but the first of each."""
    for mode, activations in product(config.modes, config.activations):
        named = (("mode", mode), ("activations", activations))
        first = (config.modes[0], config.activations[0])
        other = tuple(pair for pair, usual in zip(named, first, strict=True) if pair[1] != usual)
        if other:
            yield _base(config, other)


def _base(config: TrainingThroughputConfig, named: tuple[tuple[str, Setting], ...]) -> Point:
    batch = config.tokens_per_step // config.batch_context
    return Point(config.batch_context, batch, named)


def _contenders(config: TrainingThroughputConfig) -> Iterator[Contender]:
    """Each model, then those of its variants that the run asks for."""
    for family in config.models:
        options = config.overrides_for(family)
        yield Contender(family, family, options)
        model = config_for(family, config.preset, **options)
        known = model.variants()
        for name in config.variants:
            if name in known and replace(model, **known[name]) != model:
                yield Contender(f"{family}-{name}", family, options | known[name])


def _check_lengths(config: TrainingThroughputConfig, models: Mapping[str, ModelConfig]) -> None:
    """Contexts divide a step's tokens into sequences that the processes can share equally."""
    tokens, size = config.tokens_per_step, config.world_size
    swept = [("context", length) for length in config.context]
    for name, length in [*swept, ("batch_context", config.batch_context)]:
        flag, keys = name.replace("_", "-"), (name, "tokens_per_step")
        if tokens % length:
            raise Misfit(
                f"{flag} {length} does not divide the {tokens} tokens of a step",
                "every context must, so that all steps hold the same number of tokens",
                keys=keys,
            )
        require_length(name, length, models)
        if tokens // length % size:
            raise Misfit(
                f"{flag}: the {tokens // length} sequences of {length} tokens in a step cannot be "
                f"shared equally by {size} processes",
                f"use a multiple of {size * length} --tokens-per-step, or shorten it",
                keys=keys,
            )
    for sequences in config.batch:
        if sequences % size:
            problem = f"batch: {sequences} sequences cannot be shared equally by {size} processes"
            raise Misfit(problem, f"use multiples of {size}", keys=("batch",))
