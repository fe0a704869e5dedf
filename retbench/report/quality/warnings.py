"""What a reader must know before believing the numbers of trained models; printed beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from retbench.report import units
from retbench.report.frames import groups
from retbench.report.warnings import PARAMETERS, claims, recorded

if TYPE_CHECKING:
    from retbench.report.quality.trained import Trainings

LEAST_SEEDS, SEEDS_TO_CLAIM = 3, 5


def of_trainings(found: Trainings) -> tuple[str, ...]:
    """Every warning that applies to a run of trained models, the gravest first."""
    frame = found.run.frame()
    return (
        *claims(found.meta, "training"),
        *_few_seeds(found.run.plan.blocks),
        *_unequal_sizes(frame, found.models),
        *_order(frame),
        *_epochs(found.meta, frame),
        *edge_of_grid(found.tuning),
        *_failed_trainings(found),
        *_not_finite(frame),
        *recorded(found.meta),
    )


def _few_seeds(seeds: int) -> Iterator[str]:
    if seeds < LEAST_SEEDS:
        plural = "s" if seeds > 1 else ""
        yield f"{seeds} training seed{plural}: at least {LEAST_SEEDS} are needed for any claim"
    elif seeds < SEEDS_TO_CLAIM:
        yield f"{seeds} training seeds: to say that one model beats another takes {SEEDS_TO_CLAIM}"


def _unequal_sizes(frame: pd.DataFrame, models: Sequence[str]) -> Iterator[str]:
    rows = frame[frame["metric"] == "parameters"]
    for (preset,), group in groups(rows, ["preset"]):
        sizes = group.groupby("model", observed=True)["value"].first()
        first = sizes.get(models[0])
        for model in models:
            excess = sizes.get(model, first) / first - 1 if first else 0.0
            if abs(excess) > PARAMETERS:
                yield (
                    f"{model} at preset {preset} has {excess:+.1%} non-embedding parameters "
                    f"compared with {models[0]}"
                )


def _order(frame: pd.DataFrame) -> Iterator[str]:
    rows = frame[frame["metric"] == "data_order"]
    orders = rows.groupby(["block", "point"], observed=True)["value"].nunique()
    if (orders > 1).any():
        yield "the models of a block were not trained on the same data in the same order"


def _epochs(meta: Mapping[str, Any], frame: pd.DataFrame) -> Iterator[str]:
    data = meta["data"] or {}
    size = data.get("splits", {}).get("train", {}).get("tokens")
    trained = frame.loc[frame["metric"] == "train_tokens", "value"].max()
    if size and not units.is_missing(trained) and trained > size:
        times = units.significant(trained / size, 2)
        yield (
            f"the training text was gone through {times} times: a larger model may have learned "
            "it by heart"
        )


def edge_of_grid(tried: pd.DataFrame) -> Iterator[str]:
    """Which models have the grid's smallest or largest learning rate, so may have a better beyond.

    One line for all.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for (model, at), group in groups(tried, ["model", "at"]):
        known = group[group["final_dev_loss"].notna()]
        chosen = known.loc[known["chosen"], "learning_rate"]
        if chosen.empty or len(group) < 2:
            continue
        rate, rates = float(chosen.iloc[0]), group["learning_rate"]
        for end, name in ((rates.min(), "smallest"), (rates.max(), "largest")):
            if rate == end:
                places = found.setdefault(f"its {name}, {rate:g}", {})
                places.setdefault(model, []).append(at.partition("=")[2])
    ends = []
    for end, places in found.items():
        named = [f"{model} ({', '.join(at)})" if any(at) else model for model, at in places.items()]
        ends.append(f"{', '.join(named)} at {end}")
    if ends:
        yield (
            "a better learning rate may lie beyond the grid, so no claim should rest on these: "
            + "; ".join(ends)
        )


def _failed_trainings(found: Trainings) -> Iterator[str]:
    for row in found.failed:
        place = f"preset {row['preset']}: " if "preset" in row else ""
        place += f"{row['task']}: " if "task" in row else ""
        cause = f": {row['cause']}" if isinstance(row["cause"], str) else ""
        yield f"{place}{row['model']} {units.ending(row, 'seeds')}{cause}"


def _not_finite(frame: pd.DataFrame) -> Iterator[str]:
    rows = frame[(frame["phase"] != "cell") & (frame["status"] != "ok")]
    for (model, cause, length), group in groups(rows, ["model", "cause", "seq_len"]):
        blocks = ", ".join(str(block) for block in sorted(set(group["block"])))
        yield f"{model}: {cause} at {units.tokens(length)} tokens in block {blocks}, and left out"
