"""What a reader must know before believing a quality run: shared by the reports of all suites."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from retbench.report.fairness import PARAMETERS, source
from retbench.report.frames import groups, records
from retbench.report.quality.loss_frames import tuning
from retbench.report.units import is_missing, significant

if TYPE_CHECKING:
    from retbench.store import Run

LEAST_SEEDS, SEEDS_TO_CLAIM = 3, 5


def shared(run: Run, models: Sequence[str]) -> Iterator[str]:
    """Every warning that applies to a run, whatever its suite, the gravest first."""
    meta = run.meta
    if meta["configuration"]["profile"] == "smoke":
        yield "SMOKE profile: one short training a model; no claim can be made from these numbers"
    if meta.get("state") != "finished":
        yield f"the run is {meta.get('state')}, not finished: cells may be missing"
    yield from source(meta.get("provenance", {}))
    yield from _seeds(int(meta["plan"]["blocks"]))
    frame = run.frame()
    yield from _sizes(frame, models)
    yield from _order(frame)
    yield from _epochs(meta, frame)
    yield from edge_of_grid(tuning(run))
    yield from (str(warning) for warning in meta.get("warnings", []))


def caveat(run: Run) -> str:
    """What forbids, or weakens, claims from a run, for the header of a figure; else empty."""
    if run.meta["configuration"]["profile"] == "smoke":
        return "SMOKE: no claims"
    seeds = int(run.meta["plan"]["blocks"])
    few = [f"{seeds} seed{'s' if seeds > 1 else ''}"] if seeds < SEEDS_TO_CLAIM else []
    edge = ["learning rates at the grid's end"] if any(edge_of_grid(tuning(run))) else []
    return ", ".join([*few, *edge]) + (": no claim" if few else "")


def _seeds(seeds: int) -> Iterator[str]:
    if seeds < LEAST_SEEDS:
        plural = "s" if seeds > 1 else ""
        yield f"{seeds} training seed{plural}: at least {LEAST_SEEDS} are needed for any claim"
    elif seeds < SEEDS_TO_CLAIM:
        yield f"{seeds} training seeds: to say that one model beats another takes {SEEDS_TO_CLAIM}"


def _sizes(frame: pd.DataFrame, models: Sequence[str]) -> Iterator[str]:
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
    data = meta.get("data") or {}
    size = data.get("splits", {}).get("train", {}).get("tokens")
    trained = frame.loc[frame["metric"] == "train_tokens", "value"].max()
    if size and not is_missing(trained) and trained > size:
        yield (
            f"the training text was gone through {significant(trained / size, 2)} times: a larger "
            "model may have learned it by heart"
        )


def edge_of_grid(tried: pd.DataFrame) -> Iterator[str]:
    """Models whose best learning rate is the grid's smallest or largest, so may lie beyond it."""
    for (model, at), group in groups(tried, ["model", "at"]):
        known = group[group["final_dev_loss"].notna()]
        chosen = known.loc[known["chosen"], "learning_rate"]
        if chosen.empty or len(group) < 2:
            continue
        rate, rates = float(chosen.iloc[0]), group["learning_rate"]
        for end, name in ((rates.min(), "smallest"), (rates.max(), "largest")):
            if rate == end:
                where = f" at {at}" if at else ""
                yield f"{model}{where}: the best learning rate is the {name} of the grid, {rate:g}"


def failures(endings: pd.DataFrame) -> Iterator[str]:
    """Final trainings that failed, a line a model."""
    for row in records(endings[endings["status"] != "ok"]):
        cause = f": {row['cause']}" if isinstance(row["cause"], str) else ""
        share = f" in {row['blocks'] - row['ok_blocks']} of {row['blocks']} seeds"
        yield f"{row['model']} {row['status']}{share if row['ok_blocks'] else ''}{cause}"
