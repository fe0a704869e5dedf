"""The report of the scaling suite: how the loss falls with size, and whether two models' laws meet.

Per preset and model the tuned test loss with its interval, the ratio of perplexities subject over
baseline paired by seed and document, power laws over parameters and over training FLOPs, and the
size at which the subject's law meets a baseline's, if that lies among those measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from retbench.report import stamp, theme, units  # isort: skip (before matplotlib, see theme)
from matplotlib.ticker import EngFormatter

from retbench.report.content import Content, made
from retbench.report.figure import DECIDED, Axis, Curve, Figure, Panel, tuples
from retbench.report.frames import EDGES, Floats, Row, edges, edges_of, ordered, records
from retbench.report.quality.columns import (
    SEEDS,
    SETTLED,
    VERDICTS,
    compared,
    learning_rate,
    quantity,
    still_open,
    tested_on,
)
from retbench.report.quality.loss_frames import CROSSED, MARGIN, PAIRED, Losses
from retbench.report.quality.trained import ending
from retbench.report.quality.warnings import of_trainings
from retbench.report.tables import Column, Table, name
from retbench.report.terms import is_smoke
from retbench.stats.power_law import LEAST_SIZES_OFFSET, Crossing, PowerLaw, crossing, power_law

if TYPE_CHECKING:
    from retbench.store import Run

Along = Literal["parameters", "train_flops"]
ALONG: tuple[Along, ...] = ("parameters", "train_flops")
_TITLES: dict[Along, str] = {"parameters": "parameters", "train_flops": "training FLOPs"}
_NAMES: dict[Along, str] = {"parameters": "loss_parameters", "train_flops": "loss_flops"}
_AXES: dict[Along, Axis] = {
    "parameters": Axis("non-embedding parameters", text=EngFormatter(sep="")),
    "train_flops": Axis("FLOPs of one training", text=EngFormatter("FLOP")),
}
_PAPER = (
    "the RetNet paper (arXiv 2307.08621, figure 5) reports that RetNet does better than the "
    "Transformer above about 2B parameters"
)
_OVER = name("Over", lambda row: _TITLES[row["along"]])


class Scaling(Losses):
    """The losses of a run with several presets, over the size of the models."""

    @property
    def conditions(self) -> str:
        """The conditions of the run, with its presets in place of the one of the configuration."""
        named = " to ".join(dict.fromkeys((self.setting_values[0], self.setting_values[-1])))
        configuration = {**self.meta["configuration"], "preset": named}
        return stamp.conditions({**self.meta, "configuration": configuration})

    @cached_property
    def cells(self) -> pd.DataFrame:
        """One row per preset and model that was tested: its size, then what was measured."""
        sizes = self.scalars[
            ["preset", "model", "parameters", "train_flops", "train_tokens", "learning_rate"]
        ]
        tested = self.at("test").drop(columns=["phase", "seq_len"])
        return sizes.merge(tested, on=["preset", "model"], how="right", sort=False)

    @cached_property
    def sized(self) -> pd.DataFrame:
        """The ratios with the parameters of their baselines."""
        sizes = self.cells[["preset", "model", "parameters"]].rename(columns={"model": "baseline"})
        table = self.ratios.merge(sizes, on=["preset", "baseline"], how="left", sort=False)
        table.insert(3, "parameters", table.pop("parameters"))
        return table

    @cached_property
    def presets(self) -> list[str]:
        """All presets, ascending; one of unknown size follows the one before it in the plan."""
        sizes = self.scalars.groupby("preset", sort=False)["parameters"].max().ffill()
        return list(sizes.sort_values(kind="stable", na_position="first").index)

    def tested_presets(self, *models: str) -> set[str]:
        """The presets at which all of these models were tested."""
        known = (set(self.cells.loc[self.cells["model"] == model, "preset"]) for model in models)
        return set.intersection(*known)

    def laws(self, along: Along, *, offset: bool = False) -> dict[str, PowerLaw]:
        """The power law over a size of each model that has one.

        A law takes the seeds that a model has at all its sizes.

        Args:
            along: which size.
            offset: whether with an irreducible loss, which takes at least four sizes.
        """
        found = {}
        for model in self.models:
            sizes, losses = self._curve(model, along)
            law = power_law(sizes, losses.to_numpy(float), offset=offset)
            if law is not None:
                found[model] = law
        return found

    def crossing(self, along: Along, baseline: str) -> Crossing | None:
        """Where the subject's law meets a baseline's, over the presets and seeds that both have."""
        curves = [self._curve(model, along) for model in (self.models[0], baseline)]
        (_, upper), (_, lower) = curves
        shared = [preset for preset in upper if preset in lower]
        seeds = upper[shared].dropna().index.intersection(lower[shared].dropna().index)
        fits = []
        for sizes, losses in curves:
            kept = [preset in shared for preset in losses]
            fits.append(power_law(sizes[kept], losses.loc[seeds, shared].to_numpy(float)))
        if fits[0] is None or fits[1] is None:
            return None
        # A seed's losses may be none that a power law could have.
        if len(fits[0].lines) != len(fits[1].lines):
            return None
        return crossing(fits[0], fits[1])

    def _curve(self, model: str, along: Along) -> tuple[Floats, pd.DataFrame]:
        """Sizes, and losses with a row a seed and a column a preset, NaN where there is none."""
        own = self.cells[(self.cells["model"] == model) & self.cells[along].notna()]
        tests = {
            preset: self.tested[preset, "test", self.context, model] for preset in own["preset"]
        }
        losses = {
            preset: pd.Series(test.losses, index=list(test.seeds)) for preset, test in tests.items()
        }
        return own[along].to_numpy(dtype=np.float64), pd.DataFrame(losses)


def content(run: Run) -> Content:
    """All that the report says of a scaling run; the same samples give the same content."""
    scaling = Scaling(run)
    crossings = _crossings(scaling)
    return made(
        run, scaling.models, (_losses(scaling), _ratios(scaling), crossings, _laws(scaling)),
        partial(_figures, scaling), stamp=(scaling.conditions,),
        findings=_findings(scaling, crossings.frame), unsettled=still_open(scaling, scaling.ratios),
        warnings=of_trainings(scaling),
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
            yield f"the laws of {subject} and {row['baseline']} meet: {_meets(scaling, row)}"


def _losses(scaling: Scaling) -> Table:
    """One row per preset and model: its size, its learning rate, and how well it predicts."""
    frame = scaling.endings.merge(scaling.cells, on=["preset", "model"], how="left", sort=False)
    columns = [
        name("Preset", "preset"), name("Model", "model"),
        Column("Parameters", lambda row: units.count(row["parameters"]), metric="parameters"),
        learning_rate(scaling, 4), SEEDS,
        quantity("Test loss", "loss", "nat/token", rank=2, metric="test_nats"),
        quantity("Perplexity", "perplexity", rank=0),
        quantity("Bits per byte", "bits_per_byte", rank=1),
        Column("Status", ending, style="name", rank=2),
    ]  # fmt: skip
    return Table(
        "scaling", "Test loss by size", frame, columns, tested_on(scaling), grouped=True,
        above=True, cited={key: key for key in ("loss", "perplexity", "bits_per_byte")},
        ids=("model", "preset"),
    )  # fmt: skip


def _ratios(scaling: Scaling) -> Table:
    """One row per preset and baseline: the ratio of perplexities and its verdict."""
    columns = [
        name("Preset", "preset"), name("Baseline", "baseline"), SEEDS,
        Column("Ratio", units.ratio_of, rank=0),
        Column("Verdict", lambda row: units.verdict(row, "seed"), rank=0, style="verdict",
               note=SETTLED),
    ]  # fmt: skip
    notes = ("ratio of perplexities subject / baseline; below 1 the subject is better", VERDICTS)
    return Table(
        "ratios", f"Ratio of perplexities: {scaling.models[0]} / baseline", scaling.sized, columns,
        notes, grouped=True, above=True, cited={"value": "perplexity_ratio"},
        ids=("subject", "baseline", "preset"),
    )  # fmt: skip


def _laws(scaling: Scaling) -> Table:
    """The fitted power laws: one row per size they run over and model that has one."""
    rows: list[Row] = []
    for along in ALONG:
        with_offset = scaling.laws(along, offset=True)
        for model, law in scaling.laws(along).items():
            rows.append({"along": along, "model": model, "smallest": law.smallest,
                         "largest": law.largest, "n": law.exponent.n})  # fmt: skip
            estimates = {"exponent": law.exponent, "scale": law.scale}
            if (bent := with_offset.get(model)) is not None and bent.offset is not None:
                estimates |= {"offset": bent.offset, "offset_exponent": bent.exponent}
            for key, found in estimates.items():
                rows[-1] |= dict(zip((key, *edges_of(key)), edges(found), strict=True))
    names = ("exponent", "scale", "offset", "offset_exponent")
    keys = [each for key in names for each in (key, *edges_of(key))]
    frame = pd.DataFrame(rows, columns=["along", "model", "smallest", "largest", "n", *keys])
    columns = [
        _OVER, name("Model", "model"), Column("Sizes", partial(_sizes, scaling), style="name"),
        SEEDS,
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


def _sizes(scaling: Scaling, row: Row) -> str:
    known = scaling.tested_presets(row["model"])
    ends = " to ".join(_sized(row[end], row["along"]) for end in ("smallest", "largest"))
    return ", ".join(filter(None, (ends, units.gaps(known, scaling.presets))))


def _sized(size: float, along: Along) -> str:
    """A size of a model: its parameters, or the FLOPs of its training."""
    return units.count(size) if along == "parameters" else units.scaled(size, "flop")


def _crossings(scaling: Scaling) -> Table:
    """Where the subject's law meets each baseline's, if anywhere; a smoke run claims nothing."""
    rows: list[Row] = []
    for along in () if is_smoke(scaling.meta) else ALONG:
        for baseline in scaling.models[1:]:
            found = scaling.crossing(along, baseline)
            rows.append({"along": along, "baseline": baseline} | (asdict(found) if found else {}))
    notes = (
        "95% interval by Fieller's method, paired by seed; the law says nothing beyond the sizes "
        "measured, so a crossing whose interval reaches there is not given",
        _PAPER,
    )
    header = ["along", "baseline", "status", "value", "low", "high", "beyond", "n"]
    return Table(
        "crossing", f"Where the law of {scaling.models[0]} meets the baseline's",
        pd.DataFrame(rows, columns=header),
        [_OVER, name("Baseline", "baseline"),
         Column("Crossing", partial(_meets, scaling), rank=0, style="sentence")],
        notes, grouped=True, above=True, cited={"value": "crossing"}, ids=("baseline", "along"),
    )  # fmt: skip


def _meets(scaling: Scaling, row: Row) -> str:
    """A crossing in words, and at which sizes one of the two has no value."""
    known = scaling.tested_presets(scaling.models[0], row["baseline"])
    return "; ".join(filter(None, (_met(row), units.lacking(known, scaling.presets))))


def _met(row: Row) -> str:
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


def _figures(scaling: Scaling) -> Iterator[Figure]:
    """Each figure that there is data for."""
    for along in ALONG:
        if scaling.cells[along].notna().any():
            yield _loss_figure(scaling, along)
    if scaling.ratios["value"].notna().any():
        yield _ratio_figure(scaling)


def _loss_figure(scaling: Scaling, along: Along) -> Figure:
    """Test loss over a size, both logarithmic, with the fitted power laws.

    The marks are measured, the thin dashed lines fitted to them; a line ends where its marks do,
    and is interrupted where a size between them has none.
    """
    table = scaling.cells[scaling.cells[along].notna()].sort_values(along)
    data = table.assign(
        panel="", series=table["model"], x=table[along], value=table["loss"],
        low=table["loss_low"], high=table["loss_high"],
        point=[scaling.final_point(preset) for preset in table["preset"]],
        each=tuples(
            (scaling.tested[r["preset"], "test", scaling.context, r["model"]].losses
             for r in records(table)), table,
        ),
    )  # fmt: skip
    curves = []
    for model, law in scaling.laws(along).items():
        own = table[table["model"] == model]
        apart = np.diff(own["preset"].map(scaling.presets.index))
        x = np.geomspace(law.smallest, law.largest, 50)
        between = np.searchsorted(own[along], x).clip(1, len(apart)) - 1
        fitted = np.where(apart[between] > 1, math.nan, law.at(x))
        exponent = units.significant(law.exponent.value, 2)
        curves.append(Curve("", model, x, fitted, f"{model}: exponent {exponent}"))
    unjoined = {
        model: replace(style, line="") for model, style in theme.of_plan(scaling.meta).items()
    }
    keys = ["panel", "series", "preset", "model", "point", "x", along, *EDGES, "n", "each"]
    panel = Panel("", "", _AXES[along], Axis("test loss (nats per token)"))
    return scaling.figure(
        _NAMES[along], f"Test loss over {_TITLES[along]}", (panel,), data[keys],
        notes=("thin dashes: fitted power law",) if curves else (), styles=unjoined,
        interval=CROSSED, curves=curves, caption=scaling.conditions,
    )  # fmt: skip


def _ratio_figure(scaling: Scaling) -> Figure:
    """Perplexity of the subject over each baseline's, over parameters."""
    subject = scaling.models[0]
    table = ordered(scaling.sized, ["preset"], preset=scaling.presets)
    data = table.assign(
        panel="", series=table["baseline"], model=table["baseline"], x=table["parameters"],
        point=[scaling.final_point(preset) for preset in table["preset"]],
        open=~table["verdict"].isin(DECIDED),
        each=tuples(map(scaling.seed_ratios, records(table)), table),
    )  # fmt: skip
    missing = records(data[data["value"].isna()])
    lost = [("", row["model"], math.nan, f"{row['preset']} no pair") for row in missing]
    panel = Panel(
        "", "", _AXES["parameters"], Axis("ratio of perplexities"), MARGIN,
        (f"{subject} better", "worse"),
    )  # fmt: skip
    return scaling.figure(
        "ratio_parameters", f"Perplexity of {subject} over each baseline's", (panel,),
        data, lost, notes=(f"grey: margin ±{units.rough(MARGIN)}",),
        interval=PAIRED, caption=scaling.conditions,
    )  # fmt: skip
