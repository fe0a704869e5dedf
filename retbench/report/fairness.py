"""What a reader must know before believing the numbers: printed beside them, never in their place.

Fairness is checked, not assumed: what differs between the models but should not, what the machine
did during the run, and what failed, each as one line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from retbench.config.plan import Point
from retbench.machine.ceilings import TOLERANCE
from retbench.report import flags, units
from retbench.report.compare import TIMES, floors, margin
from retbench.report.frames import Row, records

PARAMETERS = 0.005  # of the subject's non-embedding parameters
MEMORY_SPREAD = 0.01  # over processes (M14)
MATH_BACKEND_FROM = 512  # tokens, on a GPU
LEAST_BLOCKS = 3


def warnings(
    meta: Mapping[str, Any],
    points: Mapping[str, Point],
    models: Sequence[str],
    modes: Mapping[str, str],
    cells: pd.DataFrame,
    statuses: pd.DataFrame,
    ratios: pd.DataFrame,
) -> tuple[str, ...]:
    """Every warning that applies to the run, the gravest first.

    Args:
        meta: ``run.json``.
        points: of the plan, by id.
        models: the subject, then the baselines.
        modes: the execution mode that the samples of each model name.
        cells: one value per cell and metric.
        statuses: how each cell ended.
        ratios: the comparison.
    """
    return (
        *claims(meta, ratios),
        *_fairness(meta, models, modes),
        *_attention(meta, cells),
        *_physics(cells),
        *varying_memory(cells),
        *flagged(statuses),
        *_failures(statuses, points),
        *(str(warning) for warning in meta.get("warnings", [])),
    )


def claims(meta: Mapping[str, Any], ratios: pd.DataFrame) -> Iterator[str]:
    """What keeps a run from proving anything."""
    if meta["configuration"]["profile"] == "smoke":
        yield "SMOKE profile: one short process a model; no claim can be made from these numbers"
    yield from audited(meta)
    if meta.get("state") != "finished":
        yield f"the run is {meta.get('state')}, not finished: cells may be missing"
    yield from source(meta.get("provenance", {}))
    few = ratios[(ratios["n"] > 0) & (ratios["n"] < LEAST_BLOCKS) & ratios["metric"].isin(TIMES)]
    if len(few):
        least, most = few["n"].min(), few["n"].max()
        blocks = f"{least}" if least == most else f"{least} or {most}"
        yield (
            f"{len(few)} of {int(ratios['metric'].isin(TIMES).sum())} ratios of times come from "
            f"{blocks} block{'s' if most > 1 else ''}; at least {LEAST_BLOCKS} are needed"
        )


def audited(meta: Mapping[str, Any]) -> Iterator[str]:
    """What is not known of this machine, or what its audit found amiss."""
    if not floors(meta):
        yield (
            "the noise floor of this machine is unknown: not audited (`retbench audit`); the "
            f"margin of verdicts is {margin(meta):.2%}"
        )
    audit = meta.get("audit") or {}
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


def source(provenance: Mapping[str, Any]) -> Iterator[str]:
    """What keeps a reader from finding the source that ran."""
    nested = [value for value in provenance.values() if isinstance(value, Mapping)]
    if any(part.get("dirty") for part in (provenance, *nested)):
        yield "the source tree was dirty: the commit does not say what ran"
    version = provenance.get("versions", {}).get("retbench")
    if "commit" in provenance and not (provenance["commit"] or version):
        yield "neither a commit nor an installed version says what source ran"


def _fairness(
    meta: Mapping[str, Any], models: Sequence[str], modes: Mapping[str, str]
) -> Iterator[str]:
    known = {model: meta["models"][model] for model in models if model in meta.get("models", {})}
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
    for what, of in (
        ("preset", {model: described["preset"] for model, described in known.items()}),
        ("dtype of weights", {m: described["weights_dtype"] for m, described in known.items()}),
        ("feed-forward", {m: described["config"].get("ffn") for m, described in known.items()}),
        ("execution mode", modes),
    ):
        yield from _unequal(what, of)
    states = {model: described["state_dtype"] for model, described in known.items()}
    for line in _unequal("dtype of the state", states):
        yield f"{line}; each is charged with the bytes it really keeps"


def _unequal(what: str, by_model: Mapping[str, Any]) -> Iterator[str]:
    if len({str(value) for value in by_model.values()}) > 1:
        yield f"unequal {what}: " + ", ".join(f"{m} {v}" for m, v in by_model.items())


def _attention(meta: Mapping[str, Any], cells: pd.DataFrame) -> Iterator[str]:
    if meta["configuration"]["device"] != "cuda":
        return
    timed = cells[cells["metric"].isin(TIMES) & (cells["seq_len"] >= MATH_BACKEND_FROM)]
    for model in timed.loc[timed["source"].str.contains(r"\bmath\b", case=False), "model"].unique():
        described = meta.get("models", {}).get(model, {})
        if described.get("config", {}).get("implementation") == "math":
            continue  # asked for, and named so
        yield f"{model} ran attention's math backend on a GPU: that is not the fused baseline"


def _physics(cells: pd.DataFrame) -> Iterator[str]:
    """Times below their own bound (M15).

    A worker has made `invalid` what beats the best ceiling of any size. A decode step below the
    bound of its own size is possible where caches help; a prefill below its bound is not.
    """
    value = cells.pivot_table(
        index=["model", "point"], columns="metric", values="value", sort=False
    )
    for time, bound, what in (
        ("tpot_s", "tpot_bound_s",
         "decodes at {:.0%} of the bandwidth measured at that size: part of what it reads may "
         "have come from a cache, or that bandwidth was measured low"),
        ("ttft_s", "ttft_bound_s",
         "prefills at {:.0%} of the measured matmul rate: do not believe it"),
        ("step_s", "step_bound_s",
         "is trained at {:.0%} of the measured matmul rate: do not believe it"),
    ):  # fmt: skip
        if not {time, bound} <= set(value.columns):
            continue
        for row in records(value[value[time] * TOLERANCE < value[bound]].reset_index()):
            yield f"{row['model']} at {row['point']} {what.format(row[bound] / row[time])}"


def varying_memory(cells: pd.DataFrame) -> Iterator[str]:
    """Memory figures that differ between the processes (M14)."""
    ranges = cells[(cells["method"] == "range") & (cells["spread"] > MEMORY_SPREAD)]
    if len(ranges):
        worst = max(records(ranges), key=lambda row: float(row["spread"]))
        yield (
            f"{len(ranges)} memory figures vary by more than {MEMORY_SPREAD:.0%} over processes; "
            f"the worst, {worst['metric']} of {worst['model']} at {worst['point']}, by "
            f"{worst['spread']:.1%}"
        )


def flagged(statuses: pd.DataFrame) -> Iterator[str]:
    """How many cells carry each flag, and what it means."""
    cells: Counter[str] = Counter()
    outliers: list[int] = []
    for cell in statuses["flags"]:
        for flag in filter(None, cell.split(", ")):
            name, _, count = flag.partition("=")
            if name == "outliers":
                outliers.append(int(count))
            else:
                cells[name.partition(" x")[0]] += 1
    for flag, count in sorted(cells.items()):
        meaning = f": {flags.MEANING[flag]}" if flag in flags.MEANING else ""
        yield f"{count} of {len(statuses)} cells are flagged {flag}{meaning}"
    if outliers:
        yield (
            f"{sum(outliers)} samples of {len(outliers)} cells are outliers, beyond "
            f"{flags.OUTLIER_REACH:g} interquartile ranges of their process's quartiles; they are "
            "kept and counted"
        )


def _failures(statuses: pd.DataFrame, points: Mapping[str, Point]) -> Iterator[str]:
    failed = statuses[statuses["status"] != "ok"]
    for (model, status), group in failed.groupby(["model", "status"], sort=False):
        places = "; ".join(f"{_place(points[row['point']])}{_share(row)}" for row in records(group))
        causes = group["cause"].dropna()
        cause = f": {causes.iloc[0]}" if len(causes) else ""
        yield f"{model} {status} at {places}{cause}"


def _place(point: Point) -> str:
    """A point in words, what it has besides context and batch size first."""
    named = (f"{name} {value}, " for name, value in point.texts.items())
    return f"{''.join(named)}context {units.tokens(point.seq_len)} batch {point.batch_size}"


def _share(row: Row) -> str:
    """How many blocks failed, where not all did."""
    return (
        f" ({row['blocks'] - row['ok_blocks']} of {row['blocks']} blocks)"
        if row["ok_blocks"]
        else ""
    )
