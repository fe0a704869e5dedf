"""The scaling suite's table of sizes, its fitted laws and their crossings.

A cell is one preset of one model, tested after each of its final trainings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from retbench.report.frames import EDGES, Floats
from retbench.report.quality.loss_frames import Place
from retbench.report.quality.trained import Tested, Tests
from retbench.stats import power_law
from retbench.stats.power_law import Crossing, PowerLaw

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


def cells(losses: pd.DataFrame, scalars: pd.DataFrame) -> pd.DataFrame:
    """One row per preset and model that was tested: its size, and loss, perplexity, bits per byte.

    Args:
        losses: as :func:`retbench.report.quality.loss_frames.losses` gives them.
        scalars: as :func:`retbench.report.quality.loss_frames.scalars` gives them.
    """
    tested = losses[losses["phase"] == "test"]
    return tested.merge(scalars, on=["preset", "model"], how="left", sort=False)[CELL_COLUMNS]


def with_sizes(ratios: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The ratios with the parameters of their baselines; ``table`` as :func:`cells` gives it."""
    sizes = table[["preset", "model", "parameters"]].rename(columns={"model": "baseline"})
    return ratios.merge(sizes, on=["preset", "baseline"], how="left", sort=False)[RATIO_COLUMNS]


def at_test(tested: Mapping[Place, Tested]) -> Tests:
    """What was tested in windows of the training's length, by preset and model."""
    return {
        (preset, model): test
        for (preset, phase, _, model), test in tested.items()
        if phase == "test"
    }


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
    tested: Mapping[Place, Tested],
    table: pd.DataFrame,
    models: Sequence[str],
    along: Along,
    *,
    smoke: bool = False,
) -> Laws:
    """The laws of every model over a size, and where the subject's meets the others'.

    A law takes the seeds that a model has at all its sizes; a crossing those of both models.

    Args:
        tested: at which place.
        table: as :func:`cells` gives it.
        models: the subject, then the baselines.
        along: which size.
        smoke: whether the run is a smoke run, which claims no crossing.
    """
    windows = at_test(tested)
    curves = {
        model: curve
        for model in models
        if (curve := _curve(windows, table, model, along)) is not None
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
    # A seed's losses may be none that a power law could have.
    if len(fits[0].lines) != len(fits[1].lines):
        return None
    return power_law.crossing(fits[0], fits[1])
