"""The tables of the scaling suite, and how its numbers are put into words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from retbench.report import units
from retbench.report.compare import NO_CLAIM
from retbench.report.frames import Row, records
from retbench.report.layout import Table
from retbench.report.quality.scaling_figures import TITLES, Scaling, conditions, count
from retbench.report.quality.scaling_frames import ALONG, Along
from retbench.report.quality.trained import EDGES, edges, ending
from retbench.stats.estimate import Estimate
from retbench.stats.power_law import LEAST_SIZES_OFFSET, Crossing

_PAPER = (
    "the RetNet paper (arXiv 2307.08621, figure 5) reports that RetNet does better than the "
    "Transformer above about 2B parameters"
)


def loss_table(scaling: Scaling) -> Table:
    """One row per preset and model: its size, its learning rate, and how well it predicts."""
    known = {(row["preset"], row["model"]): row for row in records(scaling.table)}
    rows = []
    for end in records(scaling.endings):
        row = known.get((end["preset"], end["model"]))
        texts = [end["preset"], end["model"]]
        if row is None:
            texts += [units.DASH] * 6
        else:
            texts += [
                count(row["parameters"]), f"{row['learning_rate']:g}", str(row["n"]),
                *(printed(row, name) for name in ("loss", "perplexity", "bits_per_byte")),
            ]  # fmt: skip
        rows.append((*texts, ending(end)))
    protocols = ", ".join(dict.fromkeys(scaling.table["protocol"])) or "not measured"
    header = ("Preset", "Model", "Parameters", "Learning rate", "Seeds", "Test loss (nat/token)",
              "Perplexity", "Bits per byte", "Status")  # fmt: skip
    notes = (
        "value [low, high]: 95% interval that takes seeds and test documents as random",
        f"test protocol: {protocols}, in tokens; every token but a document's first scored once",
        "learning rate: the one of the grid with the lowest dev loss, for each model and preset",
    )
    return Table(
        "scaling", "Test loss by size", header, tuple(rows),
        (False, False, True, True, True, True, True, True, False), notes, _stamp(scaling),
        frame=scaling.table, above=True, grouped=True, headline=True,
    )  # fmt: skip


def ratio_table(scaling: Scaling) -> Table:
    """One row per preset and baseline: the ratio of perplexities and its verdict."""
    rows = [
        (
            row["preset"], row["baseline"], str(row["n"]),
            precise(*(row[edge] for edge in EDGES)), verdict(row),
        )
        for row in records(scaling.ratios)
    ]  # fmt: skip
    subject = scaling.models[0]
    notes = (
        "ratio of perplexities subject / baseline, paired by seed and document; below 1 the "
        "subject is better",
        "verdicts: margin 1%, corrected over the whole table (Holm); better or worse takes 5 "
        "seeds; inconclusive, n=6: 6 seeds would settle it",
    )
    return Table(
        "ratios", f"Ratio of perplexities: {subject} / baseline",
        ("Preset", "Baseline", "Seeds", "Ratio", "Verdict"), tuple(rows),
        (False, False, True, True, False), notes, _stamp(scaling),
        frame=scaling.ratios, above=True, grouped=True, headline=True,
    )  # fmt: skip


def law_table(scaling: Scaling) -> Table:
    """The fitted power laws: one row per model and size they run over."""
    rows, table = [], []
    for along, model in ((along, model) for along in ALONG for model in scaling.models):
        law = scaling.laws[along].plain.get(model)
        if law is None:
            rows.append((TITLES[along], model, *[units.DASH] * 5))
            continue
        bent = scaling.laws[along].bent.get(model)
        sizes = f"{count(law.smallest, along)} to {count(law.largest, along)}"
        offset = None if bent is None else bent.offset
        rows.append((
            TITLES[along], model, sizes, str(law.exponent.n), estimate(law.exponent),
            *(units.DASH if found is None else estimate(found)
              for found in (offset, None if bent is None else bent.exponent)),
        ))  # fmt: skip
        row: Row = {"along": along, "model": model, "smallest": law.smallest,
                    "largest": law.largest, "n": law.exponent.n}  # fmt: skip
        for name, found in (
            ("exponent", law.exponent), ("scale", law.scale), ("offset", offset),
            ("offset_exponent", None if bent is None else bent.exponent),
        ):  # fmt: skip
            ends = edges(found) if found is not None else (None, None, None)
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
        table.append(row)
    notes = (
        "exponent b of loss = a x^-b (Kaplan et al. 2020), fitted to each seed; 95% interval over "
        "seeds, which says nothing about sizes that were not measured",
        "irreducible loss c, and b beside it, of loss = c + a x^-b (Hoffmann et al. 2022): "
        f"fitted from {LEAST_SIZES_OFFSET} sizes on",
        "every size is trained on the same tokens, so this is no compute-optimal frontier",
    )
    header = ("Over", "Model", "Sizes", "Seeds", "Exponent", "Irreducible loss",
              "Exponent beside it")  # fmt: skip
    return Table(
        "laws", "Fitted power laws", header, tuple(rows),
        (False, False, False, True, True, True, True), notes, _stamp(scaling),
        frame=pd.DataFrame(table), above=False, grouped=True, headline=False,
    )  # fmt: skip


def crossing_table(scaling: Scaling) -> Table:
    """Where the subject's law meets each baseline's, if anywhere."""
    rows, table = [], []
    for along, baseline in ((a, b) for a in ALONG for b in scaling.models[1:]):
        found = scaling.laws[along].crossings.get(baseline)
        claim = NO_CLAIM if is_smoke(scaling.meta) else meets(found, along)
        rows.append((TITLES[along], baseline, claim))
        if found is not None:
            table.append({"along": along, "baseline": baseline, **crossing_entry(found)})
    notes = (
        "95% interval by Fieller's method, paired by seed; beyond the measured sizes the factor "
        "says how far, and the law is an assumption there",
        _PAPER,
    )
    return Table(
        "crossing", f"Where the law of {scaling.models[0]} meets the baseline's",
        ("Over", "Baseline", "Crossing"), tuple(rows), (False, False, False), notes,
        _stamp(scaling), frame=pd.DataFrame(table), above=True, grouped=True, headline=True,
    )  # fmt: skip


def meets(found: Crossing | None, along: Along) -> str:
    """A crossing in words."""
    if found is None:
        return "not fitted: it takes two sizes of both models"
    if found.value is None or found.factor is None:
        return "unclear: the exponents are not told apart"
    at = count(found.value, along)
    if found.low is not None and found.high is not None:
        at += f" [{count(found.low, along)}, {count(found.high, along)}]"
    noun = " parameters" if along == "parameters" else ""
    text = f"{at}{noun}, {found.beyond} beyond"
    if found.n < 2:
        text += ", from one seed"
    if found.status == "within":
        return text
    factor = f"{units.significant(found.factor, 2)} times beyond the sizes measured"
    if found.status == "near":
        return f"extrapolated, {factor}: {text}"
    return f"none near the sizes measured (the laws would meet {factor})"


def is_smoke(meta: Mapping[str, Any]) -> bool:
    """Whether a run is a smoke run, which makes no claims (M2)."""
    return bool(meta["configuration"]["profile"] == "smoke")


def verdict(row: Mapping[str, Any]) -> str:
    """A verdict with the seeds that would settle it, or why there is none."""
    if not row["verdict"]:
        return str(row["note"])
    needed = row["n_needed"]
    return str(row["verdict"]) + ("" if pd.isna(needed) else f", n={needed}")


def printed(row: Row, name: str) -> str:
    """A quantity of a cell with its interval."""
    return precise(row[name], row[f"{name}_low"], row[f"{name}_high"])


def estimate(found: Estimate) -> str:
    """An estimate with its interval."""
    return precise(found.value, found.low, found.high)


def precise(value: float, low: float | None, high: float | None) -> str:
    """``value [low, high]`` with as many digits as the interval supports, at least three (M16).

    >>> precise(1.01234, 1.01101, 1.01402)
    '1.0123 [1.0110, 1.0140]'
    """
    if low is None or high is None or not math.isfinite(high - low) or not low < high:
        return units.with_interval(value, low, high)
    supported = 1 - math.floor(math.log10((high - low) / 2))  # decimals of two digits of its half
    needed = 2 - math.floor(math.log10(max(abs(value), 1e-4)))  # decimals of three digits
    decimals = min(max(supported, needed, 0), 6)
    return f"{value:.{decimals}f} [{low:.{decimals}f}, {high:.{decimals}f}]"


def _stamp(scaling: Scaling) -> tuple[str, ...]:
    return (conditions(scaling.meta, scaling.presets),)


def crossing_entry(found: Crossing) -> dict[str, Any]:
    """A crossing's fields, unrounded."""
    return {
        "status": found.status, "value": found.value, "low": found.low, "high": found.high,
        "factor": found.factor, "beyond": found.beyond, "n": found.n,
    }  # fmt: skip
