"""What a reader must know before believing the numbers: printed beside them, never in their place.

Fairness is checked, not assumed: what differs between the models but should not, what the machine
did during the run, and what failed, each as one line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from retbench.config.plan import Point
from retbench.machine.ceilings import TOLERANCE
from retbench.report import flags, terms, units
from retbench.report.compare import TIMES
from retbench.report.frames import Row, lookup, records

if TYPE_CHECKING:
    from retbench.report.summary import Summary

PARAMETERS = 0.005  # of the subject's non-embedding parameters
MATH_BACKEND_FROM = 512  # tokens, on a GPU
LEAST_BLOCKS = 3


def of_times(summary: Summary) -> tuple[str, ...]:
    """Every warning that applies to a run of timed models, the gravest first."""
    meta, cells, ratios = summary.meta, summary.cells, summary.ratios
    return (
        *claims(meta, "process"),
        *audited(meta),
        *few_blocks(ratios),
        *_unequal_models(summary),
        *_unfused(meta, cells, ratios),
        *_attention(meta, cells),
        *_physics(cells, summary.points),
        *flags.varying_memory(cells, summary.points),
        *flags.flagged(summary.statuses),
        *_failures(summary.statuses, summary.points),
        *recorded(meta),
    )


def claims(meta: Mapping[str, Any], unit: str) -> Iterator[str]:
    """What keeps a run from proving anything, or a reader from finding the source that ran.

    Args:
        meta: ``run.json``.
        unit: what a block has one of for each model: a process or a training.
    """
    if terms.is_smoke(meta):
        yield f"SMOKE profile: one short {unit} a model; no claim can be made from these numbers"
    if meta["state"] != "finished":
        yield f"the run is {meta.get('state')}, not finished: cells may be missing"
    provenance = meta["provenance"]
    if (provenance.get("commit") or {}).get("dirty"):
        yield "the source tree was dirty: the commit does not say what ran"
    if "commit" in provenance and not provenance["commit"]:
        why = provenance.get("commit_unknown") or "for an unknown reason"
        yield f"no commit says what source ran: {why}"


def few_blocks(ratios: pd.DataFrame) -> Iterator[str]:
    """Ratios of times that come from fewer blocks than a claim needs."""
    timed = ratios[ratios["metric"].isin(TIMES)]
    few = timed[(timed["n"] > 0) & (timed["n"] < LEAST_BLOCKS)]
    if len(few):
        least, most = few["n"].min(), few["n"].max()
        blocks = f"{least}" if least == most else f"{least} or {most}"
        yield (
            f"{len(few)} of {len(timed)} ratios of times come from {blocks} "
            f"block{'s' if most > 1 else ''}; at least {LEAST_BLOCKS} are needed"
        )


def recorded(meta: Mapping[str, Any]) -> Iterator[str]:
    """What the run itself has warned of."""
    return map(str, meta["warnings"])


def audited(meta: Mapping[str, Any]) -> Iterator[str]:
    """What is not known of this machine, or what its audit found amiss."""
    if not terms.floors(meta):
        suite = "" if meta["suite"] == "inference" else f" --suite {meta['suite']}"
        yield (
            f"the noise floor of this machine is unknown: not audited (`retbench audit{suite}`); "
            f"the margin of verdicts is {units.rough(terms.margin(meta))}"
        )
        return
    audit = meta["audit"]
    if missed := audit.get("planted", 0) - audit.get("found", 0):
        yield (
            f"the audit of this machine missed {missed} of {audit['planted']} differences of "
            f"{audit['slowdown']:.0%} that were planted: such ones may be missed here too"
        )
    if false := audit.get("false"):
        yield (
            f"the audit of this machine found {false} difference{'s' * (false > 1)} between a "
            "model and itself"
        )


def _unequal_models(summary: Summary) -> Iterator[str]:
    models = summary.meta["models"]
    known = {model: models[model] for model in summary.models if model in models}
    if not known:
        return
    first, reference = next(iter(known.items()))
    for model, described in known.items():
        excess = described["parameters"] / reference["parameters"] - 1
        if abs(excess) > PARAMETERS:
            yield (
                f"{model} has {excess:+.1%} non-embedding parameters compared with {first} "
                f"({described['parameters']:,} against {reference['parameters']:,})"
            )
    modes = summary.frame.groupby("model", observed=True)["mode"].first()
    for what, of in (
        ("preset", {model: described["preset"] for model, described in known.items()}),
        ("dtype of weights", {m: described["weights_dtype"] for m, described in known.items()}),
        ("feed-forward", {m: described["config"].get("ffn") for m, described in known.items()}),
        ("execution mode", {str(model): mode for model, mode in modes.items()}),
    ):
        yield from _unequal(what, of)
    states = {model: described["state_dtype"] for model, described in known.items()}
    for line in _unequal("dtype of the state", states):
        yield f"{line}; each is charged with the bytes it really keeps"


def _unequal(what: str, by_model: Mapping[str, Any]) -> Iterator[str]:
    if len({str(value) for value in by_model.values()}) > 1:
        yield f"unequal {what}: " + ", ".join(f"{m} {v}" for m, v in by_model.items())


def _unfused(meta: Mapping[str, Any], cells: pd.DataFrame, ratios: pd.DataFrame) -> Iterator[str]:
    """Contenders of which one runs a fused kernel, the other PyTorch operation by operation."""
    asked = meta["configuration"].get("compare_unfused")
    ran = lookup(cells, ["metric", "point", "model"], "source")
    apart = ratios[ratios["unfused"] != ""].drop_duplicates(["baseline", "unfused"])
    for row in records(apart):
        sides = [row["subject"], row["baseline"]]
        fused = next(side for side in sides if side != row["unfused"])
        ways = [ran[row["metric"], row["point"], side] for side in (row["unfused"], fused)]
        yield (
            f"{row['unfused']} ({ways[0]}) runs unfused where {fused} ({ways[1]}) runs a fused "
            "kernel: their times compare code rather than models"
            + ("" if asked else "; no verdict on them without --compare-unfused")
        )


def _attention(meta: Mapping[str, Any], cells: pd.DataFrame) -> Iterator[str]:
    if meta["configuration"]["device"] != "cuda":
        return
    timed = cells[cells["metric"].isin(TIMES) & (cells["seq_len"] >= MATH_BACKEND_FROM)]
    for model in timed.loc[timed["source"].str.contains(r"\bmath\b", case=False), "model"].unique():
        if meta["models"].get(model, {}).get("config", {}).get("implementation") == "math":
            continue  # asked for, and named so
        yield f"{model} ran attention's math backend on a GPU: that is not the fused baseline"


def _physics(cells: pd.DataFrame, points: Mapping[str, Point]) -> Iterator[str]:
    """Times below their own bound (M15).

    A worker has made `invalid` what beats the best ceiling of any size. A decode step below the
    bound of its own size is possible where caches help; a prefill below its bound is not.
    """
    value = cells.pivot_table(
        index=["model", "point"], columns="metric", values="value", sort=False
    )
    for time, bound, what in (
        ("tpot_s", "tpot_bound_s",
         "decodes at {:.0%} of what bandwidth at that size and matmul rate allow: part of what it "
         "reads may have come from a cache, or a ceiling was measured low"),
        ("ttft_s", "ttft_bound_s",
         "prefills at {:.0%} of what the measured ceilings allow: do not believe it"),
        ("step_s", "step_bound_s",
         "is trained at {:.0%} of the measured matmul rate: do not believe it"),
    ):  # fmt: skip
        if not {time, bound} <= set(value.columns):
            continue
        for row in records(value[value[time] * TOLERANCE < value[bound]].reset_index()):
            said = what.format(row[bound] / row[time])
            yield f"{row['model']} at {units.place(points[row['point']])} {said}"


def _failures(statuses: pd.DataFrame, points: Mapping[str, Point]) -> Iterator[str]:
    failed = statuses[statuses["status"] != "ok"]
    for (model, status), group in failed.groupby(["model", "status"], sort=False):
        places = "; ".join(
            f"{units.place(points[row['point']])}{_share(row)}" for row in records(group)
        )
        causes = group["cause"].dropna()
        cause = f": {causes.iloc[0]}" if len(causes) else ""
        yield f"{model} {status} at {places}{cause}"


def _share(row: Row) -> str:
    """How many blocks failed, where not all did."""
    if not row["ok_blocks"]:
        return ""
    return f" ({row['blocks'] - row['ok_blocks']} of {row['blocks']} blocks)"
