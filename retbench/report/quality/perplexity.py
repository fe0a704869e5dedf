"""The report of the perplexity and ablation suites: is one model as good as another?

Test perplexity of every tuned model with an interval over seeds and documents, the ratio to the
subject (in an ablation: of each variant to the whole) paired by both, perplexity by evaluation
length and by position, the sweep of learning rates, and the loss curves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from retbench.report import stamp, theme, units
from retbench.report.content import Content, made
from retbench.report.figure import DECIDED, Axis, Curve, Figure, Panel, tuples
from retbench.report.frames import EDGES, Row, column, groups, lookup, ordered, records
from retbench.report.quality.columns import (
    INTERVAL,
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
from retbench.report.tables import Column, Table, name, wide, within
from retbench.stats.estimate import exp

if TYPE_CHECKING:
    from retbench.store import Run

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
_LOSS = Axis("loss (nats per token)")
_DEV_LOSS = Axis("dev loss (nats per token)")
_PERPLEXITY = quantity("Perplexity", "perplexity", rank=0, metric="test_nats")


def content(run: Run) -> Content:
    """All that the report says of a perplexity or ablation run."""
    found = Losses(run)
    return made(
        run, found.models,
        (_losses(found), lengths(found), _contexts(found), _bigrams(found), _tuning(found),
         _trainings(found)),
        partial(_figures, found), stamp=_stamped(found), findings=_findings(found),
        unsettled=still_open(found, found.ratios), warnings=of_trainings(found),
    )  # fmt: skip


def _findings(found: Losses) -> Iterator[str]:
    """The change of perplexity in each comparison, then how each model does at length."""
    for row in records(found.ratios[found.ratios["value"].notna()]):
        yield f"{row['subject']} against {row['baseline']}: {compared(row)}"
    yield from _at_length(found)


def _at_length(found: Losses) -> Iterator[str]:
    """How each model does beyond the length of its training, and as it would be used there."""
    ways = {"test": "in sliding windows of the training length",
            "carried": "with the state carried on"}  # fmt: skip
    values = lookup(found.losses, ["phase", "model", "seq_len"], "perplexity")
    lengths = found.at("length")
    for model in found.models if not found.is_ablation else ():
        longest = lengths.loc[lengths["model"] == model, "seq_len"].max()
        at_context = values.get(("length", model, found.context))
        if at_context is not None and longest > found.context:
            said = (
                f"{model}: perplexity {units.significant(at_context)} at the training length, "
                f"{units.significant(values['length', model, longest])} at "
                f"{units.tokens(longest)} tokens"
            )
            for phase, way in ways.items():
                if (kept := values.get((phase, model, found.context))) is not None:
                    said += f"; {units.significant(kept)} {way}"
            yield said


def _losses(found: Losses) -> Table:
    """One row per model: size, rate, perplexity, bits per byte, and the ratio with its verdict."""
    meaning = "ratio of perplexities subject / model: below 1 the subject is better"
    if found.is_ablation:
        meaning = "ratio of perplexities variant / whole: above 1 the part that is left out helps"
    frame = found.endings
    for more in (found.at("test"), found.scalars):
        frame = frame.merge(more, on="model", how="left", sort=False)
    frame = _with_ratios(found, frame, found.ratios)
    columns = [
        name("Model", "model"),
        Column("Parameters", lambda row: units.count(row["parameters"]), rank=3,
               metric="parameters"),
        learning_rate(found, 4), SEEDS, _PERPLEXITY,
        quantity("Bits per byte", "bits_per_byte", rank=1),
        *_ratio_columns(found),
        Column("Status", ending, style="name", rank=2),
    ]  # fmt: skip
    return Table(
        "perplexity", "Perplexity", frame, columns, (*tested_on(found), f"{meaning}; {VERDICTS}"),
        above=True,
        cited={"perplexity": "perplexity", "bits_per_byte": "bits_per_byte",
               "value": "perplexity_ratio"}, ids=("model",),
    )  # fmt: skip


def _with_ratios(found: Losses, frame: pd.DataFrame, ratios: pd.DataFrame) -> pd.DataFrame:
    """Rows of models, and beside each the ratio that it is part of, over ``pairs`` seeds.

    In an ablation a row is a variant over the whole, else the subject over that row's model.
    """
    side = "subject" if found.is_ablation else "baseline"
    ratios = ratios.rename(columns={side: "model", "n": "pairs"})
    keys = [key for key in ("model", "phase", "seq_len") if key in frame and key in ratios]
    return frame.merge(ratios, on=keys, how="left", sort=False)


def _ratio_columns(found: Losses, at: Any = None, of: str = "") -> list[Column]:
    """The ratio of a model and its verdict.

    Args:
        found: the trainings.
        at: where in a row of :func:`wide` the ratio stands; None in a row of its own.
        of: what of the table is compared, where it is not all.
    """
    subject = found.models[0]
    title = f"Over {subject}" if found.is_ablation else f"{subject} / model"
    ratio, verdict = (
        text if at is None else within(at, text) for text in (units.ratio_of, _verdict)
    )
    return [
        Column(title + of, ratio, rank=0),
        Column("Verdict", verdict, rank=0, style="verdict", note=SETTLED),
    ]


def _verdict(row: Row) -> str:
    """The verdict of a row that is compared."""
    if not isinstance(row["verdict"], str):
        return units.DASH
    return units.verdict(row | {"n": row["pairs"]}, "seed")


def lengths(found: Losses) -> Table:
    """One row per model and protocol: perplexity at every evaluation length."""
    several = found.at("length")["seq_len"].nunique() > 1
    frame = found.losses[found.losses["phase"].isin(_WINDOWS if several else ())]
    rows = ordered(frame, ["model", "phase"], model=found.models, phase=tuple(_WINDOWS))
    columns = [
        name("Model", "model"), name("Windows", lambda row: _WINDOWS[row["phase"]]),
        *_length_columns(frame, "test_nats"),
    ]  # fmt: skip
    notes = [
        f"perplexity in windows of that many tokens, which stand alone but for sliding and carried "
        f"ones; trained at {units.tokens(found.context)}",
        _SLIDING,
        INTERVAL,
    ]
    return Table(
        "lengths", "Perplexity by evaluation length", frame, columns, notes,
        wide(rows, ["model", "phase"], "seq_len"), above=True,
        cited={"perplexity": "perplexity"}, ids=("model", "phase", "seq_len"),
    )  # fmt: skip


def _bigrams(found: Losses) -> Table:
    """One row per model: perplexity of what the window has shown before, and of the rest."""
    phases = {"ar_hit": "AR hit", "first_occur": "First occurrence"}
    frame = found.losses[found.losses["phase"].isin(phases)]
    frame = _with_ratios(found, frame, found.ratios_at("ar_hit", found.context))
    columns = [
        name("Model", "model"),
        *(Column(title, within(phase, _PERPLEXITY.cell), metric=f"{phase}_loss")
          for phase, title in phases.items()),
        *_ratio_columns(found, "ar_hit", " (AR hit)"),
    ]  # fmt: skip
    return Table(
        "bigrams", "Perplexity by what the window has shown", frame, columns,
        (_BIGRAMS, INTERVAL, VERDICTS), wide(frame, ["model"], "phase"),
        cited={"perplexity": "perplexity"}, ids=("model", "phase"),
    )  # fmt: skip


def _contexts(found: Losses) -> Table:
    """One row per model: perplexity of the same tokens at every context."""
    longest = found.context
    frame = _with_ratios(found, found.at("last"), found.ratios_at("last", longest))
    columns = [
        name("Model", "model"), *_length_columns(frame, "last_loss"),
        *_ratio_columns(found, longest, f" (at {units.tokens(longest)})"),
    ]  # fmt: skip
    return Table(
        "contexts", "Perplexity by context", frame, columns, (_LAST, INTERVAL, VERDICTS),
        wide(frame, ["model"], "seq_len"), cited={"perplexity": "perplexity"},
        ids=("model", "seq_len"),
    )  # fmt: skip


def _length_columns(frame: pd.DataFrame, metric: str) -> list[Column]:
    """A column per length; the longest is the last to be left out."""
    return [
        Column(units.tokens(n), within(n, _PERPLEXITY.cell),
               rank=int(n != frame["seq_len"].max()), metric=metric)
        for n in sorted({int(length) for length in frame["seq_len"]})
    ]  # fmt: skip


def _tuning(found: Losses) -> Table:
    """One row per model: the dev loss at every learning rate, the chosen one marked."""
    columns = [
        Column(f"{rate:g}", within(rate, _tried), metric="final_dev_loss")
        for rate in sorted({float(rate) for rate in found.tuning["learning_rate"]})
    ]
    note = (
        "loss on the dev split after one training (nat/token); *: chosen, the lowest on a parabola "
        "through them; nothing else that is reported comes from these trainings"
    )
    return Table(
        "tuning", "Learning rates", found.tuning, [name("Model", "model"), *columns], (note,),
        wide(found.tuning, ["model"], "learning_rate"),
    )  # fmt: skip


def _tried(row: Row) -> str:
    if units.is_missing(row["final_dev_loss"]):
        return str(row["status"])
    return f"{row['final_dev_loss']:.4f}{'*' if row['chosen'] else ''}"


def _trainings(found: Losses) -> Table:
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


def _stamped(found: Losses) -> tuple[str, str]:
    """The conditions of the run; its text and tokenizer, and what each model was trained on."""
    text = found.meta.get("data") or {}
    config = found.run.config
    return stamp.conditions(found.meta), (
        f"text {text.get('name', 'unknown')}, tokenizer {text.get('tokenizer', 'unknown')}; "
        f"{config.steps} steps of {config.batch[0]} x {found.context} tokens"
    )


def _figures(found: Losses) -> Iterator[Figure]:
    """Each figure that there is data for, the answer first."""
    if found.ratios["value"].notna().any():
        yield _ratios_figure(found)
    if found.curves["dev_loss"].notna().any():
        yield _loss_curves(found)
    if found.tuning["final_dev_loss"].notna().any():
        yield _tuning_figure(found)
    if found.at("length")["seq_len"].nunique() > 1:
        yield lengths_figure(found)
    if len(found.positions):
        yield _positions_figure(found)


def _loss_curves(found: Losses) -> Figure:
    """Dev loss over tokens, over FLOPs and over time."""
    rows = found.curves[found.curves["dev_loss"].notna()]
    panels = (
        Panel("tokens", "", Axis("tokens trained on (thousands)", divisor=1e3), _DEV_LOSS),
        Panel("flops", "", Axis("TFLOP", divisor=1e12), _DEV_LOSS),
        Panel("train_s", "", Axis("seconds of training"), _DEV_LOSS),
    )
    data = [
        _over_seeds(found, rows, "dev_loss", panel.key).assign(panel=panel.key) for panel in panels
    ]
    return found.figure(
        "loss_curves", "Dev loss over tokens, FLOPs and time", panels, pd.concat(data), shared=True,
        styles={m: replace(style, marker="") for m, style in theme.of_plan(found.meta).items()},
    )  # fmt: skip


def _tuning_figure(found: Losses) -> Figure:
    """Dev loss over the learning rate; the chosen rate's mark is filled."""
    table = found.tuning.assign(
        panel="", series=found.tuning["model"], x=found.tuning["learning_rate"],
        value=found.tuning["final_dev_loss"], n=1, open=~found.tuning["chosen"],
    )  # fmt: skip
    known = table[table["value"].notna()].sort_values("x")
    panel = Panel("", "", Axis("learning rate"), _DEV_LOSS)
    return found.figure(
        "tuning", "Dev loss over the learning rate", (panel,), known, table[table["value"].isna()],
        notes=("one training each",), opened="filled: chosen",
    )  # fmt: skip


def lengths_figure(found: Losses) -> Figure:
    """Perplexity over the length: in windows alone, and as a model would read a longer text.

    That is with the state carried on, or in sliding windows of the training's length.
    """
    rows = found.at("length").sort_values("seq_len")
    ticks = tuple(sorted({int(length) for length in rows["seq_len"]}))
    data = rows.assign(
        panel="", series=rows["model"], x=rows["seq_len"], value=rows["perplexity"],
        low=rows["perplexity_low"], high=rows["perplexity_high"], point=found.final_point(),
        each=tuples(
            (list(map(exp, test.losses)) if (test := found.test_of(row)) else ()
             for row in records(rows)), rows,
        ),
    )  # fmt: skip
    carried = found.at("carried")
    slid = found.at("test")
    ways = {"state carried": (carried, np.array(ticks)), "sliding windows": (
        slid[~slid["model"].isin(carried["model"])],
        np.array([n for n in ticks if n >= found.context]),
    )}  # fmt: skip
    alone = lookup(rows, ["model", "seq_len"], "perplexity")
    curves, alike = [], []
    for way, (table, x) in ways.items():
        for (model,), own in groups(table, ["model"]):
            level = own["perplexity"].iloc[0]
            apart = [abs(math.log(level / alone.get((model, n), math.inf))) for n in x]
            if max(apart) <= math.log1p(MARGIN):
                alike.append(f"{model}, {way}")
                continue
            levels = np.full(len(x), level)
            curves.append(Curve("", str(model), x, levels, f"{model}, {way}", theme.CARRIED))
    left_out = f"left out, for it lies within {units.rough(MARGIN)} of the model's line: "
    panel = Panel(
        "", "", Axis("evaluation length (tokens)", ticks, units.tokens), Axis("perplexity"),
        marks={f"training length, {units.tokens(found.context)} tokens": found.context},
    )  # fmt: skip
    return found.figure(
        "perplexity_length", "Perplexity over the evaluation length", (panel,),
        data[["panel", "series", "model", "point", "x", "seq_len", *EDGES, "n", "each"]],
        interval=CROSSED, curves=curves, notes=(left_out + "; ".join(alike),) if alike else (),
    )  # fmt: skip


def _positions_figure(found: Losses) -> Figure:
    """Loss by position in the window, a panel for each window."""
    panels, data = [], []
    for (window,), rows in groups(found.positions, ["seq_len"]):
        ticks = tuple(sorted({int(edge) for edge in rows["index"]}))
        x = Axis("position (tokens)", ticks, units.tokens)
        panels.append(Panel(str(window), f"Window of {units.tokens(window)} tokens", x, _LOSS))
        data.append(_over_seeds(found, rows, "value", "index").assign(panel=str(window)))
    return found.figure(
        "loss_position", "Loss by position in the window", panels, pd.concat(data),
        notes=("a mark: mean over the positions from the mark before up to it",), shared=True,
    )  # fmt: skip


def _ratios_figure(found: Losses) -> Figure:
    """The ratios of perplexities with their intervals, a row a pair, the largest first."""
    table = found.ratios.sort_values("value", ascending=False, na_position="last")
    named = "subject" if found.is_ablation else "baseline"
    data = table.assign(
        panel="", series=table[named], model=table["baseline"], point=found.final_point(),
        open=~table["verdict"].isin(DECIDED),
        row=table[named],
        text=[
            r["note"] or f"{units.ratio_of(r)}  {units.verdict(r, 'seed')}"
            for r in records(table)
        ],
        each=tuples(map(found.seed_ratios, records(table)), table),
    )  # fmt: skip
    first = found.models[0]
    title, sides = f"Perplexity of {first} over each baseline's", (f"{first} better", "worse")
    if found.is_ablation:
        title = f"Perplexity over that of {first}"
        sides = ("better without the part", "the part helps")
    panel = Panel("", "", Axis("ratio"), margin=MARGIN, sides=sides)
    return found.figure(
        "ratios", title, (panel,), data, (), geometry="rows",
        notes=(f"grey: margin ±{units.rough(MARGIN)}",), interval=PAIRED,
    )  # fmt: skip


def _over_seeds(found: Losses, rows: pd.DataFrame, of: str, along: str) -> pd.DataFrame:
    """Mean over the seeds, and the value of each, for each model and index."""
    table = []
    for (model, _), group in groups(rows, ["model", "index"]):
        values = column(group.sort_values("block"), of)
        table.append({
            "series": model, "model": model, "point": found.final_point(), "along": along,
            "x": float(column(group, along).mean()), "value": float(values.mean()),
            "n": len(values), "each": tuple(values),
        })  # fmt: skip
    return pd.DataFrame(table)
