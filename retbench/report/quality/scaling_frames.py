"""Losses of the scaling suite as tidy frames: cells, ratios, fitted laws, crossings.

A cell is one preset of one model, tested after each of its final trainings. The loss is summed
nats over summed tokens of the test documents, its interval covers seeds and documents alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from retbench.report.compare import NO_CLAIM
from retbench.report.frames import Floats, Row, groups, records
from retbench.report.quality.trained import (
    EDGES,
    Tested,
    difference,
    edges,
    final,
    planned,
)
from retbench.stats import power_law, quality
from retbench.stats.crossed_effects import crossed
from retbench.stats.power_law import Crossing, PowerLaw

if TYPE_CHECKING:
    from retbench.store import Run

Along = Literal["parameters", "train_flops"]
ALONG: tuple[Along, ...] = ("parameters", "train_flops")
CELL_COLUMNS = [
    "preset", "model", "parameters", "train_flops", "train_tokens", "learning_rate", "protocol",
    "loss", "loss_low", "loss_high", "perplexity", "perplexity_low", "perplexity_high",
    "bits_per_byte", "bits_per_byte_low", "bits_per_byte_high", "n", "documents",
]  # fmt: skip
RATIO_COLUMNS = [
    "preset", "subject", "baseline", "parameters", *EDGES, "n", "verdict", "n_needed", "note",
]  # fmt: skip
_NAN = float("nan")
Tests = Mapping[tuple[str, str], Tested]


def tests(run: Run) -> dict[tuple[str, str], Tested]:
    """What was tested, by preset and model."""
    frame = final(run)
    rows = frame[frame["phase"] == "test"]
    found = {}
    for (preset, model), group in groups(rows, ["preset", "model"]):
        wide = {
            metric: part.pivot_table(index="block", columns="trial", values="value")
            for (metric,), part in groups(group, ["metric"])
        }
        if not {"test_nats", "test_tokens", "test_bytes"} <= set(wide):
            continue
        nats = wide["test_nats"]
        protocols = group.loc[group["metric"] == "test_nats", "implementation"]
        tokens, sizes = (  # the same for every seed
            wide[metric].reindex(columns=nats.columns).max().to_numpy(dtype=np.float64)
            for metric in ("test_tokens", "test_bytes")
        )
        found[str(preset), str(model)] = Tested(
            tuple(int(block) for block in nats.index), nats.to_numpy(dtype=np.float64), tokens,
            sizes, str(protocols.iloc[0]),
        )  # fmt: skip
    return found


def cells(run: Run, tested: Tests, models: Sequence[str]) -> pd.DataFrame:
    """One row per preset and model: its size, and loss, perplexity and bits per byte."""
    wanted = ("parameters", "train_flops", "train_tokens", "learning_rate")
    frame = final(run)
    scalar = frame[frame["metric"].isin(wanted)].groupby(
        ["preset", "model", "metric"], observed=True
    )["value"].first()  # fmt: skip
    rows = []
    for preset in planned(run, "preset"):
        for model in models:
            test = tested.get((preset, model))
            if test is None:
                continue
            loss = crossed(test.nats / test.tokens, test.tokens)
            bits = crossed(test.nats / math.log(2) / test.bytes, test.bytes)
            rows.append((
                preset, model, *(scalar.get((preset, model, name), _NAN) for name in wanted),
                test.protocol, *edges(loss), *edges(loss.mapped(math.exp)), *edges(bits), loss.n,
                test.nats.shape[1],
            ))  # fmt: skip
    return pd.DataFrame(rows, columns=CELL_COLUMNS)


def ratios(
    tested: Tests, table: pd.DataFrame, models: Sequence[str], *, smoke: bool
) -> pd.DataFrame:
    """One row per preset and baseline: perplexity of the subject over the baseline's.

    Args:
        tested: by preset and model.
        table: as :func:`cells` gives it.
        models: the subject, then the baselines.
        smoke: whether the run is a smoke run, which makes no claims.
    """
    subject, *baselines = models
    sizes = {(row["preset"], row["model"]): row["parameters"] for row in records(table)}
    rows: list[Row] = []
    judged: list[tuple[int, Floats, Floats]] = []
    for preset in dict.fromkeys(table["preset"]):
        for baseline in baselines:
            row: Row = dict.fromkeys(RATIO_COLUMNS) | {
                "preset": preset, "subject": subject, "baseline": baseline, "n": 0,
                "verdict": "", "note": "", **dict.fromkeys(EDGES, _NAN),
                "parameters": sizes.get((preset, baseline), _NAN),
            }  # fmt: skip
            rows.append(row)
            sides = tested.get((preset, subject)), tested.get((preset, baseline))
            if sides[0] is None or sides[1] is None:
                row["note"] = "not measured"
                continue
            gaps = difference(sides[0], sides[1])
            found = crossed(gaps, sides[0].tokens)
            row |= dict(zip(EDGES, edges(found.mapped(math.exp)), strict=True))
            row |= {"n": found.n, "verdict": NO_CLAIM}
            if found.n:
                judged.append((len(rows) - 1, gaps, sides[0].tokens))
    if not smoke:
        found_ = quality.loss_verdicts([(gaps, tokens) for _, gaps, tokens in judged])
        for (place, *_), verdict in zip(judged, found_, strict=True):
            rows[place] |= {"verdict": verdict.word, "n_needed": verdict.n_needed}
    return pd.DataFrame(rows, columns=RATIO_COLUMNS).astype({"n_needed": "Int64"})


@dataclass(frozen=True)
class Laws:
    """Fitted laws over one size.

    Attributes:
        along: the size, ``parameters`` or ``train_flops``.
        plain: the power law of each model, without an offset.
        bent: the law with an irreducible loss, of models with at least four sizes.
        crossings: of the subject with each baseline, paired by seed.
    """

    along: Along
    plain: Mapping[str, PowerLaw]
    bent: Mapping[str, PowerLaw]
    crossings: Mapping[str, Crossing]


def laws(
    tested: Tests, table: pd.DataFrame, models: Sequence[str], along: Along, *, smoke: bool = False
) -> Laws:
    """The laws of every model over a size, and where the subject's meets the others'.

    A law takes the seeds that a model has at all its sizes; a crossing those of both models.

    Args:
        tested: by preset and model.
        table: as :func:`cells` gives it.
        models: the subject, then the baselines.
        along: which size.
        smoke: whether the run is a smoke run, which claims no crossing.
    """
    curves = {
        model: curve
        for model in models
        if (curve := _curve(tested, table, model, along)) is not None
    }
    plain, bent, crossings = {}, {}, {}
    for model, (sizes, losses) in curves.items():
        table_ = losses.to_numpy(dtype=np.float64)
        if (law := power_law.power_law(sizes, table_)) is not None:
            plain[model] = law
        if (law := power_law.power_law(sizes, table_, offset=True)) is not None:
            bent[model] = law
    for baseline in models[1:]:
        if models[0] in curves and baseline in curves and not smoke:
            found = _crossing(curves[models[0]], curves[baseline])
            if found is not None:
                crossings[baseline] = found
    return Laws(along, plain, bent, crossings)


Curve = tuple[Floats, pd.DataFrame]


def _curve(tested: Tests, table: pd.DataFrame, model: str, along: Along) -> Curve | None:
    """Sizes, and losses with a row a seed and a column a preset, NaN where there is none."""
    own = table[(table["model"] == model) & table[along].notna()]
    if own.empty:
        return None
    losses = pd.DataFrame({
        preset: pd.Series(tested[preset, model].losses, index=list(tested[preset, model].seeds))
        for preset in own["preset"]
    })  # fmt: skip
    return own[along].to_numpy(dtype=np.float64), losses


def _crossing(subject: Curve, baseline: Curve) -> Crossing | None:
    """The crossing over the presets and the seeds that both sides have."""
    shared = [preset for preset in subject[1] if preset in baseline[1]]
    fits = []
    seeds = subject[1][shared].dropna().index.intersection(baseline[1][shared].dropna().index)
    for sizes, losses in (subject, baseline):
        kept = [preset in shared for preset in losses]
        fits.append(power_law.power_law(sizes[kept], losses.loc[seeds, shared].to_numpy(float)))
    if len(seeds) == 0 or fits[0] is None or fits[1] is None:
        return None
    return power_law.crossing(fits[0], fits[1])
