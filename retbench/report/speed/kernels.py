"""The report of the kernels suite: single operations, how fast and how near to what is possible."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from retbench.report import flags, terms, units, warnings
from retbench.report.content import Content, made
from retbench.report.frames import Row, groups, lookup, ordered, records, where
from retbench.report.glossary import CENTRE
from retbench.report.speed import comparison, tables
from retbench.report.speed import kernels_figures as figures
from retbench.report.speed.kernels_frames import SETTING, Kernels
from retbench.report.speed.tables import STATUS
from retbench.report.tables import CONTEXT, Column, Table, name
from retbench.store import Run

# Metric, and its rank.
_COLUMNS = (
    ("kernel_s", 0), ("kernel_error", 2), ("kernel_flop_per_s", 2), ("kernel_bandwidth", 3),
    ("kernel_share", 1), ("kernel_peak_bytes", 1), ("kernel_first_s", 4),
)  # fmt: skip
_FAILURE = ["model", "status", "cause"]


def content(run: Run) -> Content:
    """All that the report says of a kernels run; the same samples give the same content."""
    kernels = Kernels(run)
    return made(
        run, kernels.models,
        (_times(kernels), _ratios(kernels), _crossovers(kernels), _cells(kernels)),
        partial(figures.figures, kernels),
        stamp=tables.stamped(run.meta), findings=_findings(kernels),
        unsettled=comparison.unsettled(kernels),
        warnings=_warnings(kernels),
    )  # fmt: skip


def _warnings(kernels: Kernels) -> Iterator[str]:
    yield from warnings.claims(kernels.meta, "process")
    yield from warnings.audited(kernels.meta)
    yield from warnings.few_blocks(kernels.ratios)
    yield from flags.varying_memory(kernels.cells, kernels.points)
    yield from flags.flagged(kernels.statuses)
    failed = kernels.statuses[kernels.statuses["status"] != "ok"]
    for (model, status, cause), group in groups(failed.fillna({"cause": ""}), _FAILURE):
        points = [kernels.points[point] for point in group["point"]]
        planned = (kernels.statuses["model"] == model).sum()
        at = f"{len(points)} points, the first {units.place(points[0])}"
        if len(points) == 1:
            at = units.place(points[0])
        elif len(points) == planned:
            at = f"all {planned} points"
        yield f"{model} {status} at {at}" + (f": {cause}" if cause else "")
    yield from warnings.recorded(kernels.meta)


def _setting(kernels: Kernels) -> Column:
    """A setting in words; a batch size or type that all share is left to the conditions."""

    def text(row: Row) -> str:
        words = [f"{row['direction']}, d_k {row['head_dim']}"]
        if len(kernels.planned("dtype")) > 1:
            words.append(str(row["dtype"]))
        if kernels.planned("batch_size") != [1]:
            words.append(f"batch {row['batch_size']}")
        return ", ".join(words)

    return name("Setting", text)


def _times(kernels: Kernels) -> Table:
    """One row per setting and operation: the time at each context, or how the cell failed."""
    timed = kernels.cells[kernels.cells["metric"] == "kernel_s"]
    scale = units.scale_for("s", timed["value"])
    seconds = lookup(timed, [*SETTING, "model", "seq_len"], "value")
    ended = lookup(kernels.statuses, [*SETTING, "model", "seq_len"], "status")

    def time(row: Row, context: int) -> str:
        place = (*(row[key] for key in SETTING), row["model"], context)
        if (status := ended.get(place, "not run")) != "ok":
            return str(status).replace("_", " ")
        return units.significant(seconds[place] / scale.divisor)

    columns = [
        Column(units.tokens(n), partial(time, context=n)) for n in kernels.planned("seq_len")
    ]
    return Table(
        "times", f"Time of a call over context ({scale.symbol})", timed,
        [_setting(kernels), name("Operation", "model"), *columns], (CENTRE,),
        [setting | {"model": model} for setting in kernels.settings() for model in kernels.models],
        grouped=True, above=True, cited={"value": ""}, ids=("metric", "model", "point"),
    )  # fmt: skip


def _cells(kernels: Kernels) -> Table:
    """One row per point and operation: every figure, or how the cell failed and why."""
    shown = tables.metrics(kernels, _COLUMNS)
    why = Column(
        "Flags or cause",
        lambda row: flags.spoken(row["flags"]) if row["status"] == "ok" else row["cause"] or "",
        rank=9, style="sentence",
    )  # fmt: skip
    columns = [_setting(kernels), CONTEXT, name("Operation", "model"), STATUS, *shown, why]
    notes = (f"value [low, high]: {CENTRE}, with its 95% interval",)
    return tables.cells(kernels, columns, notes)


def _ratios(kernels: Kernels) -> Table:
    """The subject's time over each other operation's, with the verdict."""
    columns = [
        _setting(kernels), name("Baseline", "baseline"), CONTEXT, Column("Blocks", "n", rank=3),
        Column("Time", units.ratio_of, rank=0, metric="kernel_s"),
        Column("Verdict", units.verdict, rank=0, style="verdict", note=comparison.SETTLED),
    ]  # fmt: skip
    planned = {key: kernels.planned(key) for key in SETTING}
    places = [*SETTING, "baseline", "seq_len"]
    rows = records(ordered(kernels.ratios, places, baseline=kernels.models, **planned))
    return Table(
        "ratios", f"Ratios of times: {kernels.models[0]} / baseline", kernels.ratios, columns,
        comparison.ratio_notes(kernels.ratios, kernels.meta), rows, grouped=True, above=True,
        cited={"value": ""}, ids=("metric", "subject", "baseline", "point"),
    )  # fmt: skip


def _crossovers(kernels: Kernels) -> Table:
    """From which context on the subject is faster or slower."""
    columns = [_setting(kernels), name("Baseline", "baseline"), *comparison.CROSSING_COLUMNS]
    return Table(
        "crossover", f"Crossover of {kernels.models[0]}", comparison.claimed(kernels.crossovers),
        columns,
        (comparison.CROSSOVER_IS,), grouped=True, above=True, cited={"value": "crossover"},
        ids=("baseline", *SETTING),
    )  # fmt: skip


def _findings(kernels: Kernels) -> Iterator[str]:
    """Who is fastest in each setting, from which context on; a smoke run earns no claim (M2)."""
    if terms.is_smoke(kernels.meta):
        return
    times = kernels.cells[kernels.cells["metric"] == "kernel_s"]
    for setting in kernels.settings():
        fastest: list[tuple[str, int]] = []
        for (context,), group in groups(where(times, setting), ["seq_len"]):
            best = min(records(group), key=lambda row: float(row["value"]))["model"]
            if not fastest or fastest[-1][0] != best:
                fastest.append((str(best), int(context)))
        if fastest:
            known = set(where(times, setting)["seq_len"])
            lost = units.lacking(known, kernels.planned("seq_len"), units.tokens)
            said = f"{_setting(kernels).cell(setting)}: {_succession(fastest)}"
            yield "; ".join(filter(None, (said, lost)))


def _succession(fastest: list[tuple[str, int]]) -> str:
    """Who is fastest, then who, in words."""
    (first, shortest), *later = fastest
    if not later:
        return f"lowest median time: {first} at every context"
    then = ", ".join(f"{name} from {units.tokens(context)} on" for name, context in later)
    return f"lowest median time: {first} from {units.tokens(shortest)} tokens on, {then}"
