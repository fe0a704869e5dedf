"""The comparison: ratios of the subject and each baseline, with their verdicts.

The subject is the first model of the run; each other model is a baseline. A ratio is subject over
baseline: below 1 the subject is faster, or needs less memory. A block's ratio of times is a robust
centre over the rounds in which both took turns (M7); where both were measured alone, that of the
processes' medians. One in turns over one alone is no ratio. What blocks say together is
:mod:`retbench.stats.comparison`'s to judge (M11). Memory is nearly deterministic (M14): its
interval is the range over blocks, its verdict takes the margin alone and no statistics.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from retbench import metrics
from retbench.report import terms
from retbench.report.frames import Floats, Row, arrays, column, groups, lookup, records
from retbench.stats import comparison
from retbench.stats.estimate import exp

if TYPE_CHECKING:
    from retbench.report.summary import Summary

# A run has those of its suite; the others do not show.
TIMES, MEMORY = metrics.compared("time"), metrics.compared("memory")
ENERGY = metrics.compared("energy")
ALONE = "alone"  # the flag of a cell that was not measured in turns
NO_CLAIM = "no claim"
_OF_ENERGY = {"faster": "smaller", "slower": "larger"}

PAIR_COLUMNS = [
    "metric", "baseline", "seq_len", "batch_size", "point", "block", "ratio", "alone", "unfused",
]  # fmt: skip
RATIO_COLUMNS = [
    "metric", "seq_len", "batch_size", "point", "subject", "baseline", "value", "low", "high", "n",
    "confidence", "verdict", "resolution", "n_needed", "minutes_needed", "precision_needed",
    "primary", "alone", "unfused", "note",
]  # fmt: skip

_NAN = float("nan")
_UNKNOWN: Row = {
    "value": _NAN, "low": _NAN, "high": _NAN, "n": 0, "confidence": _NAN, "verdict": "",
    "resolution": _NAN, "n_needed": None, "minutes_needed": _NAN, "precision_needed": _NAN,
    "primary": False, "alone": False, "unfused": "", "note": "",
}  # fmt: skip
_NOTHING_NEEDED: Row = {"n_needed": None, "minutes_needed": _NAN, "precision_needed": _NAN}
_CELL = ["block", "model", "point"]
_FUSED = re.compile("triton|flash|efficient|cudnn|fa3|fla|compile", re.IGNORECASE)
"""In what a sample says that ran, or in its mode: a compiler fuses whatever it is given."""


def pairs(found: Summary) -> pd.DataFrame:
    """One row per metric, baseline, point and block that both sides were measured in.

    Returns:
        ``ratio``, NaN where only one side took turns; ``alone`` names who did not, a tuple;
        ``unfused`` the side that runs unfused where the other does not.
    """
    place = ["metric", "seq_len", "batch_size", "point", "block"]
    compared = found.processes[found.processes["metric"].isin(metrics.compared())]
    values = compared.pivot_table(index=place, columns="model", values="value", observed=True)
    alone, rounds = _alone(found.frame), _rounds(found.kept)
    unfused = _unfused(found)
    subject, *baselines = found.models
    rows = []
    for baseline in baselines:
        if not {subject, baseline} <= set(values.columns):
            continue
        both = values[[subject, baseline]].dropna()
        centres = _centres(rounds, subject, baseline)
        for (metric, seq_len, batch_size, point, block), pair in zip(
            both.index, both.to_numpy(dtype=float), strict=True
        ):
            apart = tuple(m for m in (subject, baseline) if (block, m, point) in alone)
            if metric not in TIMES or len(apart) == 2:
                ratio = pair[0] / pair[1] if pair[1] else _NAN
            else:
                ratio = _NAN if apart else centres.get((metric, point, block), _NAN)
            slow = unfused.get((metric, point, baseline), "")
            rows.append((metric, baseline, seq_len, batch_size, point, block, ratio, apart, slow))
    return pd.DataFrame(rows, columns=PAIR_COLUMNS)


def _alone(frame: pd.DataFrame) -> set[tuple[int, str, str]]:
    """Block, model and point of the cells that were not measured in turns."""
    ended = frame[frame["phase"] == "cell"]
    cells = ended.loc[ended["flags"].map(lambda flags: ALONE in flags), _CELL]
    return set(cells.itertuples(index=False, name=None))


def _rounds(kept: pd.DataFrame) -> pd.DataFrame:
    """Times by metric, point, block and round, a column a model."""
    timed = kept[kept["metric"].isin(TIMES) & kept["trial"].notna()]
    return timed.pivot_table(
        index=["metric", "point", "block", "trial"], columns="model", values="value", observed=True
    )


def _centres(rounds: pd.DataFrame, subject: str, baseline: str) -> Mapping[tuple[Any, ...], float]:
    """The ratio of each block, by metric, point and block, over the rounds that both sides have."""
    if not {subject, baseline} <= set(rounds.columns):
        return {}
    both = rounds[[subject, baseline]].dropna()
    logs = pd.DataFrame({"value": np.log(both[subject] / both[baseline])}).reset_index()
    return {
        key: exp(comparison.paired_centre(own))
        for key, own in arrays(logs, ["metric", "point", "block"], "value").items()
    }


def _unfused(found: Summary) -> dict[tuple[str, str, str], str]:
    """Which side runs unfused where the other does not, by metric, point and baseline.

    One runs in fused kernels on a GPU, the other in eager PyTorch: between the two, times say more
    of the code than of the models. A comparison that was asked for is none of these: where a
    contender has its implementation, or its form, by name; a run on a CPU and one that compares
    operations have none.
    """
    configuration, subject = found.configuration, found.models[0]
    if configuration["device"] != "cuda" or "models" not in configuration:
        return {}
    named = {
        contender["label"]
        for contender in found.meta["plan"]["contenders"]
        if {"implementation", "form"} & set(contender["options"])
    }
    timed = found.kept[found.kept["phase"].isin(["prefill", "decode", "generation", "train"])]
    first = timed.drop_duplicates(["metric", "point", "model"])
    ways = {
        (row["metric"], row["point"], row["model"]): f"{row['implementation']} {row['mode']}"
        for row in records(first[["metric", "point", "model", "implementation", "mode"]])
    }
    unfused = {}
    for (metric, point, model), way in ways.items():
        own = ways.get((metric, point, subject))
        if own is None or {model, subject} & named:
            continue
        if bool(_FUSED.search(own)) != bool(_FUSED.search(way)):
            unfused[metric, point, model] = model if _FUSED.search(own) else subject
    return unfused


def ratios(found: Summary) -> pd.DataFrame:
    """One row per metric, planned point and baseline; where there is none, ``note`` says why.

    Returns:
        ``value`` with its interval of ``confidence`` over ``n`` blocks, ``verdict``,
        ``resolution``: the smallest relative difference that the blocks could have told,
        ``n_needed``: blocks that would settle it, ``minutes_needed``: the time of those beyond the
        measured ones, ``precision_needed``: the precision to ask for, NaN where the run's own would
        not end it before; ``primary``: whether it is of the family named before the run; ``alone``:
        whether it comes from processes that took no turns; ``unfused``: which side runs unfused
        where the other does not, for which a time has no verdict unless the run was asked.
    """
    paired, statuses, meta = found.pairs, found.statuses, found.meta
    subject, *baselines = found.models
    by_row = dict(groups(paired, ["metric", "baseline", "point"]))
    value_of = lookup(found.measured, ["metric", "model", "point"], "value")
    ended = lookup(statuses, ["model", "point"], "status")
    points = statuses[["batch_size", "seq_len", "point"]].drop_duplicates()
    primary = {(metric, point) for metric, point in meta["primary"]}
    measured = set(found.measured["metric"])
    table: list[Row] = []
    in_blocks: list[Floats] = []
    for metric, baseline, at in itertools.product(
        (tag for tag in metrics.compared() if tag in measured),
        baselines,
        records(points.sort_values(["batch_size", "seq_len", "point"])),
    ):
        sides = subject, baseline
        missing = [model for model in sides if (metric, model, at["point"]) not in value_of]
        if len(missing) == 2 and all(ended.get((model, at["point"])) == "ok" for model in sides):
            continue  # the point has no such metric
        own = by_row.get((metric, baseline, at["point"]), paired.iloc[:0])
        known = column(own, "ratio")
        known = known[np.isfinite(known)]
        row: Row = {"metric": metric} | at | {"subject": subject, "baseline": baseline}
        row |= {"n": len(known), "primary": (metric, at["point"]) in primary}
        row["unfused"] = own["unfused"].max() if len(own) else ""
        row["alone"] = metric in TIMES and any(len(apart) == 2 for apart in own["alone"])
        if missing or not len(known):
            row["note"] = _why(at["point"], sides, ended, own["alone"])
        elif metric in MEMORY:
            whole, part = (value_of[metric, model, at["point"]] for model in sides)
            row |= memory_verdict(whole / part, known, terms.margin(meta))
        table.append(_UNKNOWN | row)
        in_blocks.append(known)
    _judge(table, in_blocks, len(baselines), meta)
    if not meta["configuration"].get("compare_unfused"):
        for row in table:
            if row["unfused"] and row["n"]:
                row |= {"verdict": "", "note": f"{row['unfused']} unfused"} | _NOTHING_NEEDED
    return pd.DataFrame(table, columns=RATIO_COLUMNS)


def memory_verdict(value: float, by_block: Floats, margin: float) -> Row:
    """Value, range and verdict of a ratio of memory, which takes no statistics (M14).

    Args:
        value: the ratio.
        by_block: those of the blocks.
        margin: relative difference that matters.
    """
    low, high = min(value, float(by_block.min())), max(value, float(by_block.max()))
    if high < 1 / (1 + margin):
        verdict = "smaller"
    elif low > 1 + margin:
        verdict = "larger"
    elif low >= 1 / (1 + margin) and high <= 1 + margin:
        verdict = "equivalent"
    else:
        verdict = "inconclusive"
    return {"value": value, "low": low, "high": high, "verdict": verdict}


def _judge(
    table: list[Row], in_blocks: list[Floats], baselines: int, meta: Mapping[str, Any]
) -> None:
    """Fill in what blocks say of times and energy, by metric; a smoke run earns no verdict (M2).

    The rows of the primary family hold together; however many of them were measured, it is as large
    as was planned.
    """
    family = baselines * sum(metric in TIMES for metric, _ in meta["primary"])
    for metric in (*TIMES, *ENERGY):
        places = [i for i, row in enumerate(table) if row["metric"] == metric and row["n"]]
        found = comparison.judge(
            [np.log(in_blocks[i]) for i in places],
            terms.margin(meta),
            terms.floors(meta).get(metric, 0.0),
            [family if table[i]["primary"] else 1 for i in places],
            terms.alpha(meta),
        )
        for i, said in zip(places, found, strict=True):
            table[i] |= asdict(said) | {
                "minutes_needed": _minutes(said.n_needed, said.n, meta),
                "precision_needed": math.expm1(said.gap)
                if said.gap <= terms.narrow(meta)
                else _NAN,
            }
            if metric in ENERGY:
                table[i]["verdict"] = _OF_ENERGY.get(said.verdict, said.verdict)
    if terms.is_smoke(meta):
        for row in table:
            row |= {"verdict": NO_CLAIM if row["n"] else ""} | _NOTHING_NEEDED


def _minutes(n_needed: int | None, n: int, meta: Mapping[str, Any]) -> float:
    """Minutes that the blocks beyond ``n`` would take, by the mean of those measured."""
    taken = list(meta["block_s"].values())
    if n_needed is None or not taken:
        return _NAN
    return (n_needed - n) * float(np.mean(taken)) / 60


def _why(
    point: str,
    sides: Sequence[str],
    ended: Mapping[tuple[str, str], str],
    alone: Iterable[tuple[str, ...]],
) -> str:
    """Why there is no ratio: how a side ended, or which one took no turns.

    Where both ran out of memory it is "both".
    """
    endings = {model: ended.get((model, point), "not run") for model in sides}
    if all(status.startswith("oom") for status in endings.values()):
        return "both: oom"
    failed = [f"{model}: {status}" for model, status in endings.items() if status != "ok"]
    apart = sorted({model for who in alone for model in who}, key=list(sides).index)
    if apart:
        return f"measured {ALONE}: {', '.join(apart)}"
    return ", ".join(failed) or "not measured"
