"""What all training suites share: the sweep of learning rates, one training, and its curves.

Each model is tuned alike: in the first block it is trained once at every rate of the grid, which is
the same for all models; the rate with the lowest loss on the dev split is then the one at which its
seeds are trained, one a block. Nothing that is reported comes from the tuning trainings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from retbench.config.plan import Contender, Plan, Point, Setting
from retbench.config.run import PROFILES, RunConfig
from retbench.config.values import nearest
from retbench.errors import Misfit
from retbench.suites.base import Scalar, Suite
from retbench.suites.limits import CellFailure
from retbench.suites.quality_cost import QualityCost
from retbench.suites.session import Rows, Session
from retbench.training.config import Record, TrainingConfig

if TYPE_CHECKING:
    from models.config import ModelConfig
    from models.protocol import LanguageModel
    from retbench.data.batches import BatchSource

CAUSAL_TOKENS = 64
CAUSAL_TOLERANCE = 1e-5
"""How far an earlier logit may move, relative to the largest, when a later token changes: what
rounding does where a kernel's tiling depends on values it masks."""

TUNE, FINAL = "tune", "final"
# What the run decides on, for all trainings alike.
_SETTLED = ("steps", "batch_size", "seq_len", "learning_rate", "seed", "dtype", "compile")


class OrderedSource(Protocol):
    """A source of batches whose order can be told from another's."""

    def batch(self, step: int) -> Any:
        """See :class:`retbench.data.batches.BatchSource`."""

    def digest(self, steps: int) -> int:
        """A fingerprint of the first ``steps`` batches, below 2**48."""


@dataclass(frozen=True)
class Material:
    """What a model is trained on and chosen by.

    Attributes:
        source: gives the training batches.
        dev: a quick estimate of the loss on the dev split, in nat/token.
        final_dev: the loss by which the learning rate is chosen, in nat/token.
    """

    source: OrderedSource
    dev: Callable[[LanguageModel], float]
    final_dev: Callable[[LanguageModel], float]


class QualitySuite(Suite):
    """A suite whose cells each train a model of their own."""

    trains = True

    def contenders(self, config: RunConfig) -> tuple[Contender, ...]:
        """The models of the run."""
        return tuple(Contender(name, name, config.overrides_for(name)) for name in config.models)

    def coordinates(self, config: RunConfig) -> list[tuple[tuple[str, Setting], ...]]:
        """What there is a sweep and a final training for: presets or tasks; once by default."""
        return [()]

    def steps(self, config: RunConfig, point: Point) -> int:
        """Optimizer steps of a point's trainings, the same for all models."""
        return config.steps

    def plan(self, config: RunConfig) -> Plan:
        """For each coordinate every learning rate once, then a final training in every block."""
        points = []
        for coordinate in self.coordinates(config):
            points += tuning_points(config, coordinate)
            points.append(final_point(config, coordinate))
        blocks = PROFILES[config.profile].blocks
        return Plan(self.name, self.contenders(config), tuple(points), blocks, config.seed)

    def brief(
        self, config: RunConfig, contender: Contender, point: Point, scalar: Scalar
    ) -> dict[str, Any]:
        """Steps and learning rate: the point's own, or for a final training the best tried.

        Raises:
            CellFailure: if no training at any rate ended well.
        """
        tried = point.setting("stage") == TUNE
        rate = point.setting("lr") if tried else best_rate(config, point, scalar)
        return {"learning_rate": rate, "steps": self.steps(config, point)}

    def check(self, config: RunConfig, models: Mapping[str, ModelConfig]) -> None:
        """One context, one batch size, a type and a mode to train in, and known settings."""
        for name in ("context", "batch"):
            if len(getattr(config, name)) > 1:
                problem = f"{name}: the suite {self.name} trains at one, not at several"
                raise Misfit(problem, "name a single one", keys=(name,))
        if config.mode == "cudagraph":
            raise Misfit("mode: a training runs in eager or compile mode", keys=("mode",))
        known = [entry.name for entry in fields(TrainingConfig) if entry.name not in _SETTLED]
        for name in config.training:
            if name not in known:
                place = f"training.{name}"
                problem = f"train: unknown setting {name!r}"
                raise Misfit(problem, nearest(name, known), keys=(place, "training"))
        point = final_point(config, ())
        training_config(config, point, config.steps, config.learning_rates[0], 0)
        for family, model in models.items():
            if config.context[0] > model.max_len:
                problem = f"context {config.context[0]} exceeds the {model.max_len} tokens of "
                raise Misfit(f"{problem}{family} (its max_len)", keys=("context",))

    def cost(self, config: RunConfig, ceilings: Mapping[str, Any] | None) -> QualityCost:
        """FLOPs of forward and backward at the machine's rate."""
        return QualityCost(config, ceilings, partial(self.steps, config))

    def verify(self, session: Session) -> float:
        """No model may see the future: a changed last token moves no earlier logit."""
        return check_causality(session)


def tuning_points(config: RunConfig, coordinate: tuple[tuple[str, Setting], ...]) -> list[Point]:
    """A point for each learning rate, measured in the first block alone."""
    return [
        Point(
            config.context[0], config.batch[0], (*coordinate, ("stage", TUNE), ("lr", rate)),
            once=True,
        )
        for rate in config.learning_rates
    ]  # fmt: skip


def final_point(config: RunConfig, coordinate: tuple[tuple[str, Setting], ...]) -> Point:
    """The point of the trainings that are reported."""
    return Point(config.context[0], config.batch[0], (*coordinate, ("stage", FINAL)))


def best_rate(config: RunConfig, point: Point, scalar: Scalar) -> float:
    """The learning rate with the lowest final dev loss at a final point's coordinate.

    Raises:
        CellFailure: if no training at any rate ended well.
    """
    coordinate = tuple(pair for pair in point.settings if pair[0] != "stage")
    losses = {
        rate: scalar(tried.id, "final_dev_loss")
        for rate, tried in zip(
            config.learning_rates, tuning_points(config, coordinate), strict=True
        )
    }
    known = {rate: loss for rate, loss in losses.items() if loss is not None}
    if not known:
        raise CellFailure("error", "no learning rate to train at: every one that was tried failed")
    return min(known, key=lambda rate: (known[rate], rate))


def training_seed(session: Session, point: Point) -> int:
    """The seed of weights and data: one for all tuning, another for each block's final training."""
    is_final = point.setting("stage") == FINAL
    return session.config.seed + (1 + session.block if is_final else 0)


def training_config(
    config: RunConfig, point: Point, steps: int, rate: float, seed: int
) -> TrainingConfig:
    """How a cell's model is trained; the same for all models but for the rate.

    Raises:
        Misfit: for a setting out of its range.
    """
    return TrainingConfig(
        steps=steps,
        batch_size=point.batch_size,
        seq_len=point.seq_len,
        learning_rate=float(rate),
        seed=seed,
        dtype=config.dtype,
        compile=config.mode == "compile",
        **config.training,
    )


def train_cell(
    rows: Rows,
    material: Callable[[int], Material],
    progress: Callable[[str], None],
) -> LanguageModel:
    """Train a cell's model, and add its curves and its dev loss to the rows.

    Args:
        rows: take the cell's samples.
        material: what to train on, for a seed.
        progress: takes what goes on.

    Returns:
        The trained model, in evaluation mode.

    Raises:
        CellFailure: if the training diverges.
    """
    import torch

    from retbench.training.loop import train

    session, point = rows.session, rows.point
    seed = training_seed(session, point)
    steps, rate = rows.brief["steps"], rows.brief["learning_rate"]
    config = training_config(session.config, point, steps, rate, seed)
    stuff = material(seed)
    model = session.build(point, seed)
    _add_analytic(rows, model, config, stuff.source.digest(config.steps))

    def observe(record: Record) -> None:
        _add_record(rows, record)
        stage = point.setting("stage")
        progress(
            f"{stage}, rate {config.learning_rate:g}: step {record.step}/{config.steps}, "
            f"loss {record.train_loss:.3f}"
        )

    source: BatchSource = stuff.source
    progress("training")
    done = train(model, source, config, dev=lambda: stuff.dev(model), observe=observe)  # type: ignore[arg-type]
    rows.add("train", "learning_rate", config.learning_rate)
    if done.status != "ok":
        raise CellFailure("error", f"the training diverged: {done.cause}")
    rows.add("train", "train_tokens_per_s", done.tokens_per_s)
    model.eval()  # type: ignore[attr-defined]
    with torch.inference_mode(), session.autocast():
        loss = stuff.final_dev(model)
    if not math.isfinite(loss):
        raise CellFailure("error", f"the loss on the dev split is {loss}")
    rows.add("train", "final_dev_loss", loss)
    return model


def _add_analytic(rows: Rows, model: LanguageModel, config: TrainingConfig, order: int) -> None:
    tokens = config.steps * config.tokens_per_step
    flops = model.flops_per_token(config.seq_len, "train") * tokens
    for metric, value in (
        ("parameters", model.num_parameters()), ("train_tokens", tokens), ("train_flops", flops),
        ("data_order", order),
    ):  # fmt: skip
        rows.add("analytic", metric, value, implementation="analytic")


def _add_record(rows: Rows, record: Record) -> None:
    implementation = rows.session.training_implementation
    for metric, value in (
        ("train_loss", record.train_loss), ("dev_loss", record.dev_loss),
        ("train_s", record.seconds),
    ):  # fmt: skip
        if value is not None and math.isfinite(value):
            rows.add("train", metric, value, trial=record.step, implementation=implementation)


def check_causality(session: Session) -> float:
    """The largest change of an earlier logit, relative to the largest logit, over all forms.

    Raises:
        CellFailure: if a model sees the future.
    """
    import torch

    model = session.model
    length = min(CAUSAL_TOKENS, model.config.max_len)
    generator = torch.Generator().manual_seed(session.config.seed)
    vocab = model.config.vocab_size
    tokens = torch.randint(vocab, (1, length), generator=generator).to(session.device)
    changed = tokens.clone()
    changed[:, -1] = (changed[:, -1] + 1) % vocab
    worst = 0.0
    with torch.inference_mode():
        for form in (None, *getattr(model, "forms", ())):
            before, after = model(tokens, form=form), model(changed, form=form)
            moved = (before - after)[:, :-1].abs().max() / before.abs().max()
            worst = max(worst, float(moved))
    if not worst <= CAUSAL_TOLERANCE:  # NaN fails too
        raise CellFailure(
            "error",
            f"the model sees the future: a changed token moves earlier logits by {worst:.2g}",
        )
    return worst
