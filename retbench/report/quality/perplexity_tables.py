"""The tables of the perplexity and ablation suites."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import pandas as pd

from retbench.report import stamp, units
from retbench.report.content import filled
from retbench.report.frames import Row, records
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
from retbench.report.quality.trained import EDGES, ending
from retbench.report.tables import Column, Table, name

_SLIDING = (
    "sliding: windows of the training's length that advance by half of it; state carried: from "
    "window to window; both have one value, however long the text is"
)
_WINDOWS = {"length": "alone", "test": "sliding", "carried": "state carried"}
_BIGRAMS = (
    "AR hit: tokens that complete a bigram seen before in the training window; first occurrence: "
    "all others (Arora et al. 2023, arXiv 2312.04927; bigrams frequent in training are counted too)"
)
_LAST = (
    "the last tokens of every training window, the same at any context (as in the RetNet paper, "
    "arXiv 2307.08621, table 8)"
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


def tables(found: Perplexity) -> tuple[Table, ...]:
    """Every table that has a row, in the order in which to read them."""
    makers = (_losses, lengths, _contexts, _bigrams, _tuning, _trainings)
    return filled(*(table(found) for table in makers))


def _losses(found: Perplexity) -> Table:
    """One row per model: size, rate, perplexity, bits per byte, and the ratio with its verdict."""
    # In an ablation a row is a variant over the whole; else the subject over that row's model.
    side = "subject" if found.is_ablation else "baseline"
    frame = (
        found.endings.merge(found.at("test"), on="model", how="left", sort=False)
        .merge(found.scalars, on="model", how="left", sort=False)
        .merge(found.ratios.rename(columns={side: "model", "n": "pairs"}), on="model", how="left",
               sort=False)
    )  # fmt: skip
    subject = found.models[0]
    title = f"Over {subject}" if found.is_ablation else f"{subject} / model"
    meaning = (
        "ratio of perplexities variant / whole: above 1 the part that is left out helps"
        if found.is_ablation
        else "ratio of perplexities subject / model: below 1 the subject is better"
    )
    columns = [
        name("Model", "model"),
        Column("Parameters", lambda row: units.count(row["parameters"]), rank=3,
               metric="parameters"),
        learning_rate(4, "model", found.meta), Column("Seeds", seeds, rank=3),
        quantity("Perplexity", "perplexity", rank=0, metric="test_nats"),
        quantity("Bits per byte", "bits_per_byte", rank=1),
        Column(title, lambda row: units.ratio(*(row[edge] for edge in EDGES)), rank=0),
        Column("Verdict", _verdict, rank=0, style="verdict", note=SETTLED),
        Column("Status", ending, style="name", rank=2),
    ]  # fmt: skip
    notes = (
        INTERVAL, protocol(found.protocol), *replicates(found.meta), *untuned(found.meta),
        f"{meaning}; {VERDICTS}",
    )  # fmt: skip
    return Table(
        "perplexity", "Perplexity", frame, columns, notes, above=True,
        cited={"perplexity": "perplexity", "bits_per_byte": "bits_per_byte",
               "value": "perplexity_ratio"}, ids=("model",),
    )  # fmt: skip


def _verdict(row: Row) -> str:
    """The verdict of a row that is compared."""
    if not isinstance(row["verdict"], str):
        return units.DASH
    return units.verdict(row | {"n": row["pairs"]}, "seed")


def lengths(found: Perplexity) -> Table:
    """One row per model and protocol: perplexity at every evaluation length."""
    several = found.at("length")["seq_len"].nunique() > 1
    frame = found.losses[found.losses["phase"].isin(_WINDOWS if several else ())]
    rows = _by_length(frame)
    place = {(model, phase): n for n, (model, phase) in enumerate(product(found.models, _WINDOWS))}
    columns = [
        name("Model", "model"),
        Column("Windows", lambda row: _WINDOWS[row["phase"]], rank=0, style="name"),
        *_length_columns(frame, "test_nats"),
    ]
    notes = [
        f"perplexity in windows of that many tokens, which stand alone but for sliding and carried "
        f"ones; trained at {units.tokens(found.context)}",
        _SLIDING,
        INTERVAL,
    ]
    return Table(
        "lengths", "Perplexity by evaluation length", frame, columns, notes,
        [rows[key] for key in sorted(rows, key=lambda key: place[key])], above=True,
        cited={"perplexity": "perplexity"}, ids=("model", "phase", "seq_len"),
    )  # fmt: skip


def _bigrams(found: Perplexity) -> Table:
    """One row per model: perplexity of what the window has shown before, and of the rest."""
    phases = {"ar_hit": "AR hit", "first_occur": "First occurrence"}
    frame = found.losses[found.losses["phase"].isin(phases)]
    rows: dict[str, Row] = {}
    for row in records(frame):
        rows.setdefault(row["model"], {"model": row["model"]})[row["phase"]] = row
    columns = [
        name("Model", "model"),
        *(Column(title, partial(_perplexity, key=phase), metric=f"{phase}_loss")
          for phase, title in phases.items()),
    ]  # fmt: skip
    return Table(
        "bigrams", "Perplexity by what the window has shown", frame, columns, (_BIGRAMS, INTERVAL),
        [rows[model] for model in found.models if model in rows],
        cited={"perplexity": "perplexity"}, ids=("model", "phase"),
    )  # fmt: skip


def _contexts(found: Perplexity) -> Table:
    """One row per model: perplexity of the same tokens at every context."""
    frame = found.at("last")
    rows = _by_length(frame)
    columns = [name("Model", "model"), *_length_columns(frame, "last_loss")]
    return Table(
        "contexts", "Perplexity by context", frame, columns, (_LAST, INTERVAL),
        [rows[model, "last"] for model in found.models if (model, "last") in rows],
        cited={"perplexity": "perplexity"}, ids=("model", "seq_len"),
    )  # fmt: skip


def _by_length(frame: pd.DataFrame) -> dict[tuple[str, str], Row]:
    """A row per model and phase, with the losses at each length under the length's digits."""
    rows: dict[tuple[str, str], Row] = {}
    for row in records(frame):
        rows.setdefault((row["model"], row["phase"]), dict(row))[str(row["seq_len"])] = row
    return rows


def _length_columns(frame: pd.DataFrame, metric: str) -> list[Column]:
    """A column per length; the longest is the last to be left out."""
    return [
        Column(units.tokens(n), partial(_perplexity, key=str(n)),
               rank=int(n != frame["seq_len"].max()), metric=metric)
        for n in sorted({int(length) for length in frame["seq_len"]})
    ]  # fmt: skip


def _perplexity(row: Row, key: str) -> str:
    found = row.get(key)
    return units.DASH if found is None else quantity("", "perplexity").cell(found)


def _tuning(found: Perplexity) -> Table:
    """One row per model: the dev loss at every learning rate, the chosen one marked."""
    rows: dict[str, Row] = {model: {"model": model} for model in found.models}
    for row in records(found.tuning):
        rows[row["model"]][f"{row['learning_rate']:g}"] = row
    columns = [
        Column(f"{rate:g}", partial(_tried, rate=f"{rate:g}"), metric="final_dev_loss")
        for rate in sorted({float(rate) for rate in found.tuning["learning_rate"]})
    ]
    note = (
        "loss on the dev split after one training (nat/token); *: chosen; nothing else that is "
        "reported comes from these trainings"
    )
    return Table(
        "tuning", "Learning rates", found.tuning, [name("Model", "model"), *columns], (note,),
        list(rows.values()),
    )  # fmt: skip


def _tried(row: Row, rate: str) -> str:
    if (found := row.get(rate)) is None:
        return units.DASH
    if units.is_missing(found["final_dev_loss"]):
        return str(found["status"])
    return f"{found['final_dev_loss']:.4f}{'*' if found['chosen'] else ''}"


def _trainings(found: Perplexity) -> Table:
    """One row per model: what its final trainings took."""
    columns = [
        name("Model", "model"),
        Column("Tokens", lambda row: units.count(row["train_tokens"]), metric="train_tokens"),
        Column("FLOPs", lambda row: units.scaled(row["train_flops"], "flop"), metric="train_flops"),
        Column("Tokens/s", lambda row: units.significant(row["train_tokens_per_s"]),
               metric="train_tokens_per_s"),
        Column("Status", ending, style="name"),
    ]  # fmt: skip
    return Table(
        "training", "Final trainings", found.scalars.merge(found.endings, on="model", sort=False),
        columns,
        ("tokens/s on this machine, evaluation excluded: a hint, not a measurement of speed",),
    )  # fmt: skip


def stamped(found: Perplexity) -> tuple[str, str]:
    """The conditions of the run; its text and tokenizer, and what each model was trained on."""
    text = found.meta.get("data") or {}
    configuration = found.meta["configuration"]
    return stamp.conditions(found.meta), (
        f"text {text.get('name', 'unknown')}, tokenizer {text.get('tokenizer', 'unknown')}; "
        f"{configuration['steps']} steps of {configuration['batch'][0]} x "
        f"{configuration['context'][0]} tokens"
    )
