"""The training suite: seconds, memory and utilisation of one optimizer step, over length and batch.

Forward and backward cost three forwards, mostly in matrix products, and are compute-bound. In a
forward a token takes 24 d^2 FLOPs a layer in the matrices and 2 d T in attention over T tokens, or
d (3 c + 8 d_k) in retention with chunks of c: attention's overtake the matrices' at T = 12 d, and
retention's are the same at any length. The context is swept at equal tokens a step, so that only
the mixing changes. The optimizer is bandwidth-bound: AdamW reads a weight, its gradient and two
moments and writes all but the gradient, 28 bytes a parameter in float32 whatever the tokens. Memory
is those four, 16 bytes a parameter, and the activations, which grow with the tokens.

A contender is a model, or one of its variants: another way to compute the same function. Its points
are every context at the same tokens a step, every batch size at ``batch_context``, and there also
every other mode and treatment of activations; the data loader is a point of its own. Importing this
module does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

from retbench.config.plan import Contender, Plan, Point, Setting
from retbench.config.run import RunConfig
from retbench.config.values import nearest
from retbench.data.dataset import load_dataset
from retbench.data.vocabulary import check_name
from retbench.distributed.process_group import ALONE
from retbench.errors import Misfit, UserError
from retbench.suites.base import Suite, plan_in_turns, swept
from retbench.suites.step_cost import StepCost

if TYPE_CHECKING:
    from models.config import ModelConfig
    from retbench.suites.cell import Cell
    from retbench.suites.session import Rows, Session

_DTYPES = ("float32", "bfloat16")  # those that retbench.training.config knows
LOADER: tuple[tuple[str, Setting], ...] = (("part", "loader"),)
"""The settings of the point that times the data loader alone."""

UNSHARED: tuple[tuple[str, Setting], ...] = (("processes", 1),)
"""Those of the point, in a run of several processes, that times the step of one alone."""


class TrainingThroughputSuite(Suite):
    """Throughput of training."""

    name = "training"
    trains = True  # weights are kept in float32, whatever type computes with them
    takes_turns = True

    def plan(self, config: RunConfig) -> Plan:
        """Both sweeps, the other ways to make a step, and the loader."""
        alone = [UNSHARED] if config.world_size > 1 else []
        bases = (_base(config, named) for named in (LOADER, *alone))
        points = dict.fromkeys([*sweep(config), *settings(config), *bases])
        longest = config.context[-1]
        primary = [("step_s", Point(longest, config.tokens_per_step // longest))]
        return plan_in_turns(self.name, config, list(_contenders(config)), list(points), primary)

    def data(self, config: RunConfig) -> dict[str, Any]:
        """Encode the text, unless the cache has it."""
        dataset = load_dataset(config.data, config.tokenizer)
        longest = max(*config.context, config.batch_context)
        if len(dataset.train.tokens) <= longest:
            raise UserError(
                f"the training split of {dataset.name} has {len(dataset.train.tokens):,} tokens, "
                f"less than one window of {longest + 1:,}",
                "shorten the context or give more text",
            )
        return dataset.to_json()

    def load(self, config: RunConfig) -> None:
        """The step, and what autograd and a compiler bring along."""
        from retbench.suites.step_cell import load

        load(compiles="compile" in config.modes)

    def model_options(self, config: RunConfig) -> dict[str, Any]:
        """The tokenizer's vocabulary."""
        return {"vocab_size": load_dataset(config.data, config.tokenizer).tokenizer.vocab_size}

    def check(self, config: RunConfig, models: Mapping[str, ModelConfig]) -> None:
        """Contexts that divide a step's tokens, and variants that some model has."""
        _check_names(config, models)
        for name in ("context", "batch_context"):
            lengths = config.context if name == "context" else (config.batch_context,)
            for length in lengths:
                _check_length(config, name, length, models)
        _check_shares(config)

    def cost(self, config: RunConfig, ceilings: Mapping[str, Any] | None) -> StepCost:
        """FLOPs of a step at the machine's rate, under the caps of the profile."""
        return StepCost(config, ceilings)

    def verify(self, session: Session) -> float:
        """No model sees the future, and its gradients are those of its formula."""
        from retbench.suites.gradient_gate import check_gradients
        from retbench.suites.quality_cell import check_causality

        check_causality(session)
        return check_gradients(session)

    def prepare(self, session: Session, rows: Rows, progress: Callable[[str], None]) -> Cell:
        """The loader, or a step: as a whole, in its parts, and its memory."""
        from retbench.suites import step_cell
        from retbench.suites.cell import Cell

        alone = {LOADER: step_cell.prepare_loader, UNSHARED: step_cell.prepare_unshared_step}
        if rows.point.settings not in alone:
            return step_cell.prepare_step(rows, progress)
        if not session.ranks.first:  # it waits for the next cell
            return Cell(rows)
        alone_rows = replace(rows, session=replace(session, ranks=ALONE))
        return alone[rows.point.settings](alone_rows, progress)


SUITE = TrainingThroughputSuite()


def sweep(config: RunConfig) -> list[Point]:
    """Every context at the same tokens a step, then every batch size at one context."""
    tokens = config.tokens_per_step
    sizes = [(context, tokens // context) for context in config.context]
    sizes += [(config.batch_context, batch) for batch in config.batch]
    return swept(sizes, lambda context, batch: context * batch == tokens, config.batch_context)


def settings(config: RunConfig) -> Iterator[Point]:
    """At one context every mode and treatment of activations but the first of each."""
    for mode, activations in product(config.modes, config.activations):
        named = (("mode", mode), ("activations", activations))
        first = (config.modes[0], config.activations[0])
        other = tuple(pair for pair, usual in zip(named, first, strict=True) if pair[1] != usual)
        if other:
            yield _base(config, other)


def _base(config: RunConfig, named: tuple[tuple[str, Setting], ...]) -> Point:
    batch = config.tokens_per_step // config.batch_context
    return Point(config.batch_context, batch, named)


def _check_shares(config: RunConfig) -> None:
    """Every batch is shared equally by the processes."""
    size = config.world_size
    for name in ("context", "batch_context"):
        for length in config.context if name == "context" else (config.batch_context,):
            rows = config.tokens_per_step // length
            if rows % size:
                raise Misfit(
                    f"{name.replace('_', '-')}: the {rows} sequences of {length} tokens in a step "
                    f"cannot be shared equally by {size} processes",
                    f"use a multiple of {size * length} --tokens-per-step, or shorten it",
                    keys=(name, "tokens_per_step"),
                )
    for rows in config.batch:
        if rows % size:
            raise Misfit(
                f"batch: {rows} sequences cannot be shared equally by {size} processes",
                f"use multiples of {size}", keys=("batch",),
            )  # fmt: skip


def _contenders(config: RunConfig) -> Iterator[Contender]:
    """Each model, then those of its variants that the run asks for."""
    from models.registry import config_for

    for family in config.models:
        options = config.overrides_for(family)
        yield Contender(family, family, options)
        model = config_for(family, config.preset, **options)
        known = model.variants()
        for name in config.variants:
            if name in known and replace(model, **known[name]) != model:
                yield Contender(f"{family}-{name}", family, options | known[name])


def _check_names(config: RunConfig, models: Mapping[str, ModelConfig]) -> None:
    known = sorted({name for model in models.values() for name in model.variants()})
    for name in config.variants:
        if name not in known:
            problem = f"variants: no model of the run has a variant {name!r}"
            raise Misfit(problem, nearest(name, known), keys=("variants",))
    if config.dtype not in _DTYPES:
        problem = f"dtype: a training computes in {' or '.join(_DTYPES)}, not in {config.dtype}"
        raise Misfit(problem, keys=("dtype",))
    try:
        check_name(config.tokenizer)
    except UserError as problem:
        raise Misfit(problem.message, problem.hint, keys=("tokenizer",)) from None
    for key in config.overrides:
        if key.rpartition(".")[2] == "vocab_size":
            what = "set: vocab_size follows from the tokenizer"
            raise Misfit(what, "use --tokenizer", keys=(f"overrides.{key}", "overrides"))


def _check_length(
    config: RunConfig, name: str, length: int, models: Mapping[str, ModelConfig]
) -> None:
    flag = name.replace("_", "-")
    if config.tokens_per_step % length:
        raise Misfit(
            f"{flag} {length} does not divide the {config.tokens_per_step} tokens of a step",
            "every context must, so that all steps hold the same number of tokens",
            keys=(name, "tokens_per_step"),
        )
    for family, model in models.items():
        if length > model.max_len:
            raise Misfit(
                f"{flag} {length} exceeds the {model.max_len} tokens of {family} (its max_len)",
                f"shorten it or use --set max_len={length}",
                keys=(name, "overrides.max_len", f"overrides.{family}.max_len"),
            )
