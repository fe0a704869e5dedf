"""The tables of the scaling suite, and how its numbers are put into words."""

from __future__ import annotations

import pandas as pd

from retbench.report import units
from retbench.report.content import filled
from retbench.report.frames import Row
from retbench.report.quality.columns import (
    INTERVAL,
    SETTLED,
    VERDICTS,
    learning_rate,
    protocol,
    quantity,
    replicates,
    seeds,
    untuned,
)
from retbench.report.quality.scaling_figures import TITLES, Scaling
from retbench.report.quality.scaling_frames import ALONG, Along
from retbench.report.quality.trained import EDGES, edges, ending
from retbench.report.tables import Column, Table, name
from retbench.stats.power_law import LEAST_SIZES_OFFSET

_PAPER = (
    "the RetNet paper (arXiv 2307.08621, figure 5) reports that RetNet does better than the "
    "Transformer above about 2B parameters"
)
_OVER = Column("Over", lambda row: TITLES[row["along"]], rank=0, style="name")
_SEEDS = Column("Seeds", seeds, rank=3)


def tables(scaling: Scaling, crossing: Table) -> tuple[Table, ...]:
    """Every table that has a row, in the order in which to read them."""
    return filled(_losses(scaling), _ratios(scaling), crossing, _laws(scaling))


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
        Column("Ratio", lambda row: units.ratio(*(row[edge] for edge in EDGES)), rank=0),
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
    return " to ".join(sized(row[end], row["along"]) for end in ("smallest", "largest"))


def sized(size: float, along: Along) -> str:
    """A size of a model: its parameters, or the FLOPs of its training."""
    return units.count(size) if along == "parameters" else units.scaled(size, "flop")


def crossings(scaling: Scaling) -> Table:
    """Where the subject's law meets each baseline's, if anywhere; a smoke run claims nothing."""
    rows: list[Row] = []
    is_smoke = scaling.meta["configuration"]["profile"] == "smoke"
    for along in () if is_smoke else ALONG:
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
        [_OVER, name("Baseline", "baseline"), Column("Crossing", meets, rank=0, style="sentence")],
        notes, grouped=True, above=True, cited={"value": "crossing"}, ids=("baseline", "along"),
    )  # fmt: skip


def meets(row: Row) -> str:
    """A crossing in words."""
    if not isinstance(row["status"], str):
        return "not fitted: it takes two sizes of both models"
    if row["status"] == "outside":
        return "outside the sizes measured"
    if row["status"] == "unclear":
        return "unclear: the exponents are not told apart"
    at = sized(row["value"], row["along"])
    if not units.is_missing(row["low"]) and not units.is_missing(row["high"]):
        at += f" [{sized(row['low'], row['along'])}, {sized(row['high'], row['along'])}]"
    noun = " parameters" if row["along"] == "parameters" else ""
    return f"{at}{noun}, {row['beyond']} beyond" + (", from one seed" if row["n"] < 2 else "")
