"""The report of the scaling suite: how the loss falls with size, and whether two models' laws meet.

Per preset and model the tuned test loss with its interval, the ratio of perplexities subject over
baseline paired by seed and document, power laws over parameters and over training FLOPs, and the
size at which the subject's law meets a baseline's, if that lies among those measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd

from retbench.report import units
from retbench.report.content import Content, made
from retbench.report.frames import Row, edges, records
from retbench.report.quality import loss_frames, warnings
from retbench.report.quality import scaling_figures as figures
from retbench.report.quality import scaling_frames as frames
from retbench.report.quality.columns import (
    INTERVAL,
    SETTLED,
    VERDICTS,
    compared,
    learning_rate,
    protocol,
    quantity,
    replicates,
    seeds,
    still_open,
    untuned,
)
from retbench.report.quality.scaling_figures import TITLES, Scaling, conditions
from retbench.report.quality.scaling_frames import ALONG, Along
from retbench.report.quality.trained import ending, endings, planned
from retbench.report.summary import model_order
from retbench.report.tables import Column, Table, name
from retbench.report.terms import is_smoke
from retbench.stats.power_law import LEAST_SIZES_OFFSET

if TYPE_CHECKING:
    from retbench.store import Run

_PAPER = (
    "the RetNet paper (arXiv 2307.08621, figure 5) reports that RetNet does better than the "
    "Transformer above about 2B parameters"
)
_OVER = name("Over", lambda row: TITLES[row["along"]])
_SEEDS = Column("Seeds", seeds, rank=3)


def content(run: Run) -> Content:
    """All that the report says of a scaling run; the same samples give the same content."""
    models, tested, tuning = model_order(run.meta), loss_frames.tests(run), loss_frames.tuning(run)
    table = frames.cells(loss_frames.losses(tested, run, models), loss_frames.scalars(run, models))
    ratios = loss_frames.ratios(tested, run, [(models[0], other) for other in models[1:]])
    smoke = is_smoke(run.meta)
    scaling = Scaling(
        meta=run.meta,
        models=models,
        presets=planned(run, "preset"),
        tested=frames.at_test(tested),
        table=table,
        ratios=frames.with_sizes(ratios, table),
        endings=endings(run, models, "preset"),
        laws={along: frames.laws(tested, table, models, along, smoke=smoke) for along in ALONG},
        caveat=warnings.caveat(run, tuning),
    )
    crossings = _crossings(scaling)
    return made(
        run, models, (_losses(scaling), _ratios(scaling), crossings, _laws(scaling)),
        partial(figures.figures, scaling),
        stamp=(conditions(run.meta, scaling.presets),),
        findings=_findings(scaling, crossings.frame), unsettled=still_open(scaling.ratios),
        warnings=warnings.of_trainings(run, models, tuning, scaling.endings),
    )  # fmt: skip


def _findings(scaling: Scaling, crossings: pd.DataFrame) -> Iterator[str]:
    """For each baseline the change of perplexity at every size, then what the laws say."""
    subject = scaling.models[0]
    for baseline in scaling.models[1:]:
        rows = scaling.ratios[scaling.ratios["baseline"] == baseline]
        for row in records(rows[rows["value"].notna()]):
            yield f"{subject} against {baseline} at {row['preset']}: {compared(row)}"
    for row in records(crossings[crossings["status"].notna()]):
        if row["along"] == "parameters":
            yield f"the laws of {subject} and {row['baseline']} meet: {_meets(row)}"


def _losses(scaling: Scaling) -> Table:
    """One row per preset and model: its size, its learning rate, and how well it predicts."""
    frame = scaling.endings.merge(scaling.table, on=["preset", "model"], how="left", sort=False)
    columns = [
        name("Preset", "preset"), name("Model", "model"),
        Column("Parameters", lambda row: units.count(row["parameters"]), metric="parameters"),
        learning_rate(4, "model and preset", scaling.meta), _SEEDS,
        quantity("Test loss", "loss", "nat/token", rank=2, metric="test_nats"),
        quantity("Perplexity", "perplexity", rank=0),
        quantity("Bits per byte", "bits_per_byte", rank=1),
        Column("Status", ending, style="name", rank=2),
    ]  # fmt: skip
    protocols = ", ".join(dict.fromkeys(scaling.table["protocol"])) or "not measured"
    notes = (INTERVAL, protocol(protocols), *replicates(scaling.meta), *untuned(scaling.meta))
    cited = ("loss", "perplexity", "bits_per_byte")
    return Table(
        "scaling", "Test loss by size", frame, columns, notes, grouped=True, above=True,
        cited={key: key for key in cited}, ids=("model", "preset"),
    )  # fmt: skip


def _ratios(scaling: Scaling) -> Table:
    """One row per preset and baseline: the ratio of perplexities and its verdict."""
    columns = [
        name("Preset", "preset"), name("Baseline", "baseline"), _SEEDS,
        Column("Ratio", units.ratio_of, rank=0),
        Column("Verdict", lambda row: units.verdict(row, "seed"), rank=0, style="verdict",
               note=SETTLED),
    ]  # fmt: skip
    notes = (
        "ratio of perplexities subject / baseline; below 1 the subject is better", VERDICTS,
    )  # fmt: skip
    return Table(
        "ratios", f"Ratio of perplexities: {scaling.models[0]} / baseline", scaling.ratios, columns,
        notes, grouped=True, above=True, cited={"value": "perplexity_ratio"},
        ids=("subject", "baseline", "preset"),
    )  # fmt: skip


def _laws(scaling: Scaling) -> Table:
    """The fitted power laws: one row per size they run over and model that has one."""
    rows: list[Row] = []
    for along in ALONG:
        fits = scaling.laws[along]
        for model in scaling.models:
            if (law := fits.plain.get(model)) is None:
                continue
            bent = fits.bent.get(model)
            rows.append({"along": along, "model": model, "smallest": law.smallest,
                         "largest": law.largest, "n": law.exponent.n})  # fmt: skip
            estimates = {"exponent": law.exponent, "scale": law.scale, "offset": None,
                         "offset_exponent": None}  # fmt: skip
            if bent is not None:
                estimates |= {"offset": bent.offset, "offset_exponent": bent.exponent}
            for key, found in estimates.items():
                ends = edges(found) if found is not None else (None, None, None)
                rows[-1] |= dict(zip((key, f"{key}_low", f"{key}_high"), ends, strict=True))
    names = ("exponent", "scale", "offset", "offset_exponent")
    keys = [f"{key}{end}" for key in names for end in ("", "_low", "_high")]
    header = ["along", "model", "smallest", "largest", "n", *keys]
    frame = pd.DataFrame(rows, columns=header)
    columns = [
        _OVER, name("Model", "model"), Column("Sizes", _sizes, style="name"), _SEEDS,
        quantity("Exponent", "exponent", rank=0), quantity("Irreducible loss", "offset"),
        quantity("Exponent beside it", "offset_exponent"),
    ]  # fmt: skip
    notes = (
        "exponent b of loss = a x^-b (Kaplan et al. 2020), fitted to each seed; 95% interval over "
        "seeds, which says nothing about sizes that were not measured",
        "irreducible loss c, and b beside it, of loss = c + a x^-b (Hoffmann et al. 2022): "
        f"fitted from {LEAST_SIZES_OFFSET} sizes on",
        "every size is trained on the same tokens, so this is no compute-optimal frontier",
    )
    return Table(
        "laws", "Fitted power laws", frame, columns, notes, grouped=True,
        cited={"exponent": "exponent", "offset": "irreducible_loss"}, ids=("model", "along"),
    )  # fmt: skip


def _sizes(row: Row) -> str:
    return " to ".join(_sized(row[end], row["along"]) for end in ("smallest", "largest"))


def _sized(size: float, along: Along) -> str:
    """A size of a model: its parameters, or the FLOPs of its training."""
    return units.count(size) if along == "parameters" else units.scaled(size, "flop")


def _crossings(scaling: Scaling) -> Table:
    """Where the subject's law meets each baseline's, if anywhere; a smoke run claims nothing."""
    rows: list[Row] = []
    smoke = is_smoke(scaling.meta)
    for along in () if smoke else ALONG:
        for baseline in scaling.models[1:]:
            found = scaling.laws[along].crossings.get(baseline)
            rows.append({"along": along, "baseline": baseline})
            if found is None:
                continue
            rows[-1] |= {
                "status": found.status, "value": found.value, "low": found.low, "high": found.high,
                "beyond": found.beyond, "n": found.n,
            }  # fmt: skip
    notes = (
        "95% interval by Fieller's method, paired by seed; the law says nothing beyond the sizes "
        "measured, so a crossing whose interval reaches there is not given",
        _PAPER,
    )
    header = ["along", "baseline", "status", "value", "low", "high", "beyond", "n"]
    return Table(
        "crossing", f"Where the law of {scaling.models[0]} meets the baseline's",
        pd.DataFrame(rows, columns=header),
        [_OVER, name("Baseline", "baseline"), Column("Crossing", _meets, rank=0, style="sentence")],
        notes, grouped=True, above=True, cited={"value": "crossing"}, ids=("baseline", "along"),
    )  # fmt: skip


def _meets(row: Row) -> str:
    """A crossing in words."""
    if not isinstance(row["status"], str):
        return "not fitted: it takes two sizes of both models"
    if row["status"] == "outside":
        return "outside the sizes measured"
    if row["status"] == "unclear":
        return "unclear: the exponents are not told apart"
    at = _sized(row["value"], row["along"])
    if not units.is_missing(row["low"]) and not units.is_missing(row["high"]):
        at += f" [{_sized(row['low'], row['along'])}, {_sized(row['high'], row['along'])}]"
    noun = " parameters" if row["along"] == "parameters" else ""
    return f"{at}{noun}, {row['beyond']} beyond" + (", from one seed" if row["n"] < 2 else "")
