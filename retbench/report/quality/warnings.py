"""What a reader must know before believing the numbers of trained models; printed beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from retbench.report import units
from retbench.report.frames import groups
from retbench.report.warnings import PARAMETERS, claims, recorded
from retbench.suites.quality import DIVERGED

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
        *_failed_tunings(found.tuning),
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


def at_an_end(tried: pd.DataFrame) -> Iterator[tuple[str, str, float, str]]:
    """Each chosen learning rate that is an end of its grid: model, coordinate, rate, which end.

    A grid ends where nothing is known beyond: a rate counts that has a dev loss, or at which the
    training diverged; one that ran out of time or memory does not.

    Args:
        tried: as :attr:`retbench.report.quality.trained.Trainings.tuning` has it.
    """
    known = tried[tried["final_dev_loss"].notna() | _diverged(tried)]
    for (model, at), group in groups(known, ["model", "at"]):
        rates = group["learning_rate"]
        for end, name in ((rates.min(), "smallest"), (rates.max(), "largest")):
            if (rates[group["chosen"]] == end).any():
                yield model, at, float(end), name


def _diverged(tried: pd.DataFrame) -> pd.Series[bool]:
    return tried["cause"].astype(str).str.startswith(DIVERGED)


def edge_of_grid(tried: pd.DataFrame) -> Iterator[str]:
    """Which models have the grid's smallest or largest learning rate, so may have a better beyond.

    One line for all; none where there was but one rate.
    """
    if tried["learning_rate"].nunique() < 2:
        return
    found: dict[str, dict[str, list[str]]] = {}
    for model, at, rate, name in at_an_end(tried):
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


def _failed_tunings(tried: pd.DataFrame) -> Iterator[str]:
    """The learning rates of which nothing is known."""
    lost = tried[(tried["status"] != "ok") & ~_diverged(tried)]
    for (at, model, status), group in groups(lost, ["at", "model", "status"]):
        place = f"{at.replace('=', ' ')}: " if at else ""
        rates = ", ".join(f"{rate:g}" for rate in group["learning_rate"])
        cause = f": {group['cause'].iloc[0]}" if isinstance(group["cause"].iloc[0], str) else ""
        yield f"{place}{model} {status.replace('_', ' ')} in tuning at {rates}{cause}"


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
