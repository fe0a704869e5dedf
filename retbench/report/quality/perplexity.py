"""The report of the perplexity and ablation suites: is one model as good as another?

Test perplexity of every tuned model with an interval over seeds and documents, the ratio to the
subject (in an ablation: of each variant to the whole) paired by both, perplexity by evaluation
length and by position, the sweep of learning rates, and the loss curves.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd

from retbench.report import stamp, units
from retbench.report.content import Content, made
from retbench.report.frames import Row, ordered, records
from retbench.report.quality import loss_frames as frames
from retbench.report.quality import perplexity_figures as figures
from retbench.report.quality import warnings
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
from retbench.report.quality.perplexity_figures import Perplexity
from retbench.report.quality.trained import ending, endings
from retbench.report.summary import model_order
from retbench.report.tables import Column, Table, name, wide, within

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
_PERPLEXITY = quantity("Perplexity", "perplexity", rank=0, metric="test_nats")


def content(run: Run) -> Content:
    """All that the report says of a perplexity or ablation run."""
    models, tested, tuning = model_order(run.meta), frames.tests(run), frames.tuning(run)
    found = Perplexity(
        meta=run.meta,
        models=models,
        is_ablation=run.meta["suite"] == "ablation",
        tested={tuple(place): test for (_, *place), test in tested.items()},
        losses=_of_one_preset(frames.losses(tested, run, models)),
        ratios=_of_one_preset(frames.ratios(tested, run, comparisons(run))),
        scalars=_of_one_preset(frames.scalars(run, models)),
        tuning=tuning,
        curves=frames.curves(run),
        positions=frames.positions(run),
        endings=endings(run, models),
        caveat=warnings.caveat(run, tuning),
    )
    return made(
        run, models, (table(found) for table in _TABLES), partial(figures.figures, found),
        stamp=_stamped(found), findings=_findings(found), unsettled=still_open(found.ratios),
        warnings=warnings.of_trainings(run, models, found.tuning, found.endings),
    )  # fmt: skip


def _of_one_preset(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns="preset")


def comparisons(run: Run) -> list[tuple[str, str]]:
    """Subject and baseline of each ratio.

    The first model over each other one; in an ablation each variant over its own family's whole.
    """
    contenders = run.plan.contenders
    first, *others = [contender.label for contender in contenders]
    if run.plan.suite != "ablation":
        return [(first, other) for other in others]
    return [(c.label, c.family) for c in contenders if c.label != c.family]


def _findings(found: Perplexity) -> Iterator[str]:
    """The change of perplexity in each comparison, then how each model does at length."""
    for row in records(found.ratios[found.ratios["value"].notna()]):
        yield f"{row['subject']} against {row['baseline']}: {compared(row)}"
    yield from _at_length(found)


def _at_length(found: Perplexity) -> Iterator[str]:
    """How each model does beyond the length of its training, and as it would be used there."""
    ways = {"test": "in sliding windows of the training length",
            "carried": "with the state carried on"}  # fmt: skip
    for model in found.models if not found.is_ablation else ():
        values = _values(found.at("length"), model)
        longest = max(values, default=0)
        if longest > found.context and found.context in values:
            said = (
                f"{model}: perplexity {units.significant(values[found.context])} at the training "
                f"length, {units.significant(values[longest])} at {units.tokens(longest)} tokens"
            )
            for phase, way in ways.items():
                if found.context in (kept := _values(found.at(phase), model)):
                    said += f"; {units.significant(kept[found.context])} {way}"
            yield said


def _values(rows: pd.DataFrame, model: str) -> dict[int, float]:
    own = rows[rows["model"] == model]
    return {int(row["seq_len"]): float(row["perplexity"]) for row in records(own)}


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
        _PERPLEXITY,
        quantity("Bits per byte", "bits_per_byte", rank=1),
        Column(title, units.ratio_of, rank=0),
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


def _bigrams(found: Perplexity) -> Table:
    """One row per model: perplexity of what the window has shown before, and of the rest."""
    phases = {"ar_hit": "AR hit", "first_occur": "First occurrence"}
    frame = found.losses[found.losses["phase"].isin(phases)]
    columns = [
        name("Model", "model"),
        *(Column(title, within(phase, _PERPLEXITY.cell), metric=f"{phase}_loss")
          for phase, title in phases.items()),
    ]  # fmt: skip
    rows = wide(ordered(frame, ["model"], model=found.models), ["model"], "phase")
    return Table(
        "bigrams", "Perplexity by what the window has shown", frame, columns, (_BIGRAMS, INTERVAL),
        rows, cited={"perplexity": "perplexity"}, ids=("model", "phase"),
    )  # fmt: skip


def _contexts(found: Perplexity) -> Table:
    """One row per model: perplexity of the same tokens at every context."""
    frame = found.at("last")
    columns = [name("Model", "model"), *_length_columns(frame, "last_loss")]
    rows = wide(ordered(frame, ["model"], model=found.models), ["model"], "seq_len")
    return Table(
        "contexts", "Perplexity by context", frame, columns, (_LAST, INTERVAL), rows,
        cited={"perplexity": "perplexity"}, ids=("model", "seq_len"),
    )  # fmt: skip


def _length_columns(frame: pd.DataFrame, metric: str) -> list[Column]:
    """A column per length; the longest is the last to be left out."""
    return [
        Column(units.tokens(n), within(n, _PERPLEXITY.cell),
               rank=int(n != frame["seq_len"].max()), metric=metric)
        for n in sorted({int(length) for length in frame["seq_len"]})
    ]  # fmt: skip


def _tuning(found: Perplexity) -> Table:
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
        wide(ordered(found.tuning, ["model"], model=found.models), ["model"], "learning_rate"),
    )  # fmt: skip


def _tried(row: Row) -> str:
    if units.is_missing(row["final_dev_loss"]):
        return str(row["status"])
    return f"{row['final_dev_loss']:.4f}{'*' if row['chosen'] else ''}"


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


def _stamped(found: Perplexity) -> tuple[str, str]:
    """The conditions of the run; its text and tokenizer, and what each model was trained on."""
    text = found.meta.get("data") or {}
    configuration = found.meta["configuration"]
    return stamp.conditions(found.meta), (
        f"text {text.get('name', 'unknown')}, tokenizer {text.get('tokenizer', 'unknown')}; "
        f"{configuration['steps']} steps of {configuration['batch'][0]} x "
        f"{configuration['context'][0]} tokens"
    )


_TABLES = (_losses, lengths, _contexts, _bigrams, _tuning, _trainings)  # in reading order
