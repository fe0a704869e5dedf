"""Which contenders' mixers run in fused kernels on a GPU, and which in eager PyTorch.

Between the two, times say more of the code than of the models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from retbench.report.frames import records

_FUSED = re.compile("triton|flash|efficient|cudnn|fa3|fla|compile", re.IGNORECASE)
"""In what a sample says that ran, or in its mode: a compiler fuses whatever it is given."""

Unfused = Mapping[tuple[str, str, str], str]
"""By metric, point and baseline: which side runs unfused where the other one does not."""


def unfused(kept: pd.DataFrame, models: Sequence[str], meta: Mapping[str, Any]) -> Unfused:
    """The comparisons of times of which one side alone runs fused, unless that was asked for.

    It was where a contender has its implementation, or its form, by name; a run on a CPU and one
    that compares operations have none.

    Args:
        kept: the samples that count.
        models: the subject, then the baselines.
        meta: ``run.json``.
    """
    configuration = meta["configuration"]
    if configuration["device"] != "cuda" or "models" not in configuration:
        return {}
    named = {
        contender["label"]
        for contender in meta["plan"]["contenders"]
        if {"implementation", "form"} & set(contender["options"])
    }
    timed = kept[kept["phase"].isin(["prefill", "decode", "generation", "train"])]
    first = timed.drop_duplicates(["metric", "point", "model"])
    ways = {
        (row["metric"], row["point"], row["model"]): f"{row['implementation']} {row['mode']}"
        for row in records(first[["metric", "point", "model", "implementation", "mode"]])
    }
    found = {}
    for (metric, point, model), way in ways.items():
        own = ways.get((metric, point, models[0]))
        if own is None or {model, models[0]} & named:
            continue
        if bool(_FUSED.search(own)) != bool(_FUSED.search(way)):
            found[metric, point, model] = model if _FUSED.search(own) else models[0]
    return found
