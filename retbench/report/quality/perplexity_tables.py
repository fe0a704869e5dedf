"""The tables of the perplexity and ablation suites."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from retbench.report import stamp, units
from retbench.report.frames import Row, records
from retbench.report.layout import Table
from retbench.report.quality.scaling_figures import count
from retbench.report.quality.scaling_tables import precise, printed, verdict
from retbench.report.quality.trained import EDGES, ending

_INTERVAL = "value [low, high]: 95% interval that takes seeds and test documents as random"
_CARRIED_ONCE = (
    "state carried: the window only cuts the computation and changes no value; tested at one length"
)


@dataclass(frozen=True)
class Perplexity:
    """What tables and figures are made from; see ``loss_frames`` for the frames.

    Attributes:
        meta: ``run.json``.
        models: in the order of the plan.
        is_ablation: whether the models are a whole and its variants.
        losses: one row per phase, window and model.
        ratios: one row per pair of models.
        scalars: one row per model.
        tuning: one row per model and learning rate.
        curves: one row per model, block and step.
        positions: one row per model, window, bucket and block.
        endings: one row per model.
    """

    meta: Mapping[str, Any]
    models: tuple[str, ...]
    is_ablation: bool
    losses: pd.DataFrame
    ratios: pd.DataFrame
    scalars: pd.DataFrame
    tuning: pd.DataFrame
    curves: pd.DataFrame
    positions: pd.DataFrame
    endings: pd.DataFrame

    @property
    def context(self) -> int:
        """Tokens of a training sequence."""
        return int(self.meta["configuration"]["context"][0])

    @property
    def protocol(self) -> str:
        """Window and stride of the test."""
        tested = self.losses.loc[self.losses["phase"] == "test", "protocol"]
        return ", ".join(dict.fromkeys(tested)) or "not measured"

    def at(self, phase: str) -> pd.DataFrame:
        """The losses of one phase."""
        return self.losses[self.losses["phase"] == phase]

    @property
    def carried_once(self) -> bool:
        """Whether a state was carried on in windows of one length; older runs tried several."""
        return self.at("carried")["seq_len"].nunique() == 1


def tables(found: Perplexity) -> tuple[Table, ...]:
    """Every table, in the order in which to read them."""
    made = (
        loss_table(found), length_table(found), tuning_table(found), training_table(found)
    )  # fmt: skip
    return tuple(table for table in made if table.rows)


def loss_table(found: Perplexity) -> Table:
    """One row per model: size, rate, perplexity, bits per byte, and the ratio with its verdict."""
    known = {row["model"]: row for row in records(found.at("test"))}
    sizes = {row["model"]: row for row in records(found.scalars)}
    # In an ablation a row is a variant over the whole; else the subject over that row's model.
    column = "subject" if found.is_ablation else "baseline"
    compared = {row[column]: row for row in records(found.ratios)}
    rows = []
    for end in records(found.endings):
        row, size = known.get(end["model"]), sizes[end["model"]]
        texts = [end["model"], count(size["parameters"]) if row else units.DASH]
        texts += [f"{size['learning_rate']:g}", str(row["n"])] if row else [units.DASH] * 2
        for name in ("perplexity", "bits_per_byte"):
            texts.append(printed(row, name) if row else units.DASH)
        ratio = compared.get(end["model"])
        texts += _compared(ratio)
        rows.append((*texts, ending(end)))
    subject = found.models[0]
    ratio_title = f"Over {subject}" if found.is_ablation else f"{subject} / model"
    meaning = (
        "ratio of perplexities variant / whole: above 1 the part that is left out helps"
        if found.is_ablation
        else "ratio of perplexities subject / model: below 1 the subject is better"
    )
    notes = (
        _INTERVAL,
        f"test protocol: {found.protocol}, in tokens; every token but a document's first scored "
        "once",
        f"{meaning}; paired by seed and document; margin of verdicts 1%, corrected over the table "
        "(Holm); better or worse takes 5 seeds",
        "learning rate: the one of the grid with the lowest dev loss, for each model",
    )
    header = ("Model", "Parameters", "Learning rate", "Seeds", "Perplexity", "Bits per byte",
              ratio_title, "Verdict", "Status")  # fmt: skip
    frame = found.at("test").merge(found.scalars, on="model", how="left", sort=False)
    frame = frame.merge(
        found.ratios.rename(columns={column: "model", "n": "pairs"}), on="model", how="left",
        sort=False,
    )  # fmt: skip
    return Table(
        "perplexity", "Perplexity", header, tuple(rows),
        (False, True, True, True, True, True, True, False, False),
        notes, _stamp(found), in_print=(0, 4, 6, 7) if found.is_ablation else (0, 4, 5, 6, 7),
        frame=frame, above=True, headline=True, defines=True,
    )  # fmt: skip


def _compared(row: Row | None) -> list[str]:
    if row is None:
        return [units.DASH, units.DASH]
    return [precise(*(row[edge] for edge in EDGES)), verdict(row)]


def length_table(found: Perplexity) -> Table:
    """One row per model and protocol: perplexity at every evaluation length."""
    rows_of = found.losses[found.losses["phase"].isin(("length", "carried"))]
    lengths = sorted({int(length) for length in rows_of["seq_len"]})
    names = {"length": "alone", "carried": "state carried"}
    rows = []
    for model in found.models:
        for phase, name in names.items():
            own = rows_of[(rows_of["model"] == model) & (rows_of["phase"] == phase)]
            if own.empty:
                continue
            cells = {row["seq_len"]: row for row in records(own)}
            texts = [printed(cells[n], "perplexity") if n in cells else units.DASH for n in lengths]
            rows.append((model, name, *texts))
    notes = (
        f"perplexity in windows of that many tokens, which stand alone or carry the state on from "
        f"the window before; trained at {units.tokens(found.context)}",
        *([_CARRIED_ONCE] if found.carried_once else []),
        _INTERVAL,
    )
    return Table(
        "lengths", "Perplexity by evaluation length",
        ("Model", "Windows", *(units.tokens(length) for length in lengths)), tuple(rows),
        (False, False, *(True for _ in lengths)), notes, _stamp(found), frame=rows_of,
        above=True,
    )  # fmt: skip


def tuning_table(found: Perplexity) -> Table:
    """One row per model: the dev loss at every learning rate, the chosen one marked."""
    rates = sorted({float(rate) for rate in found.tuning["learning_rate"]})
    rows = []
    for model in found.models:
        own = {
            row["learning_rate"]: row
            for row in records(found.tuning[found.tuning["model"] == model])
        }
        rows.append((model, *(_tried(own.get(rate)) for rate in rates)))
    notes = (
        "loss on the dev split after one training (nat/token); *: chosen; nothing else that is "
        "reported comes from these trainings",
    )
    return Table(
        "tuning", "Learning rates", ("Model", *(f"{rate:g}" for rate in rates)), tuple(rows),
        (False, *(True for _ in rates)), notes, _stamp(found), frame=found.tuning,
    )  # fmt: skip


def _tried(row: Row | None) -> str:
    if row is None:
        return units.DASH
    if units.is_missing(row["final_dev_loss"]):
        return str(row["status"])
    return f"{row['final_dev_loss']:.4f}{'*' if row['chosen'] else ''}"


def training_table(found: Perplexity) -> Table:
    """One row per model: what its final trainings took."""
    rows = []
    for row, end in zip(records(found.scalars), records(found.endings), strict=True):
        rows.append((
            row["model"], units.significant(row["train_tokens"] / 1e6) + "M"
            if not units.is_missing(row["train_tokens"]) else units.DASH,
            count(row["train_flops"], "train_flops")
            if not units.is_missing(row["train_flops"]) else units.DASH,
            units.significant(row["train_tokens_per_s"]), ending(end),
        ))  # fmt: skip
    notes = ("tokens/s on this machine, evaluation excluded: a hint, not a measurement of speed",)
    return Table(
        "training", "Final trainings", ("Model", "Tokens", "FLOPs", "Tokens/s", "Status"),
        tuple(rows), (False, True, True, True, False), notes, _stamp(found),
        frame=found.scalars.merge(found.endings, on="model", sort=False),
    )  # fmt: skip


def _stamp(found: Perplexity) -> tuple[str, ...]:
    return (stamp.conditions(found.meta), data(found.meta))


def data(meta: Mapping[str, Any]) -> str:
    """The text and the tokenizer, and what each model was trained on."""
    text = meta.get("data") or {}
    configuration = meta["configuration"]
    return (
        f"text {text.get('name', 'unknown')}, tokenizer {text.get('tokenizer', 'unknown')}; "
        f"{configuration['steps']} steps of {configuration['batch'][0]} x "
        f"{configuration['context'][0]} tokens"
    )
