"""Test losses of trained models as tidy frames: tests, losses, ratios, tuning, curves.

Perplexity, ablation and scaling share them: a row names its preset, of which only a scaling run
has several. A loss is summed nats over summed tokens of the test documents (M13); its interval
takes seeds and documents as random.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from retbench.report.compare import NO_CLAIM
from retbench.report.frames import EDGES, Floats, Row, edges, groups, lookup, ordered, records
from retbench.report.quality.trained import Tested, difference, final, planned
from retbench.report.terms import is_smoke
from retbench.stats import quality
from retbench.stats.crossed_effects import crossed
from retbench.stats.estimate import exp

if TYPE_CHECKING:
    from retbench.store import Run

Place = tuple[str, str, int, str]
"""Preset, phase (``test``, ``length``, ``carried``, ``last``, ``ar_hit``,
``first_occur``), window or context in tokens, model.

With the state carried on the window changes nothing but rounding: it is the training's length.
"""

LOSS_COLUMNS = [
    "preset", "phase", "seq_len", "model", "protocol", "loss", "loss_low", "loss_high",
    "perplexity", "perplexity_low", "perplexity_high", "bits_per_byte", "bits_per_byte_low",
    "bits_per_byte_high", "n", "documents",
]  # fmt: skip
RATIO_COLUMNS = ["preset", "subject", "baseline", *EDGES, "n", "verdict", "n_needed", "note"]
PER_TOKEN = ("last_loss", "ar_hit_loss", "first_occur_loss")
"""Metrics of a part of a document's tokens: documents are weighed by all of theirs."""
SCALARS = (
    "parameters", "learning_rate", "train_tokens", "train_flops", "train_tokens_per_s",
    "final_dev_loss",
)  # fmt: skip
_NAN = float("nan")


def presets(run: Run) -> tuple[str, ...]:
    """The presets that were trained, in the order of the plan."""
    return planned(run, "preset") or (run.config.preset,)


def tests(run: Run) -> dict[Place, Tested]:
    """What was tested, at which place; the documents are scored alike in every phase."""
    frame = final(run)
    documents = _documents(frame)
    rows = frame[frame["metric"].isin(("test_nats", *PER_TOKEN))]
    found = {}
    keys = ["preset", "phase", "seq_len", "model"]
    for (preset, phase, length, model), group in groups(rows, keys):
        if (preset, model) not in documents:
            continue
        tokens, sizes = documents[preset, model]
        table = group.pivot_table(index="block", columns="index", values="value")
        # A seed that lacks a document, as where its loss was not finite, says nothing of the whole.
        table = table.reindex(columns=range(len(tokens))).dropna()
        if table.empty:
            continue
        nats = table.to_numpy(dtype=np.float64)
        if group["metric"].iloc[0] in PER_TOKEN:
            nats = nats * tokens
        found[str(preset), str(phase), int(length), str(model)] = Tested(
            tuple(int(block) for block in table.index), nats, tokens, sizes,
            str(group["implementation"].iloc[0]),
        )  # fmt: skip
    return found


def _documents(frame: pd.DataFrame) -> dict[tuple[str, str], tuple[Floats, Floats]]:
    """Tokens and bytes of every document, by preset and model."""
    found = {}
    for key, group in groups(frame[frame["phase"] == "test"], ["preset", "model"]):
        wide = group.pivot_table(index="metric", columns="index", values="value")
        if {"test_tokens", "test_bytes"} <= set(wide.index):
            tokens, sizes = (wide.loc[tag].to_numpy(float) for tag in ("test_tokens", "test_bytes"))
            found[key[0], key[1]] = (tokens, sizes)
    return found


def losses(tested: Mapping[Place, Tested], run: Run, models: Sequence[str]) -> pd.DataFrame:
    """One row per place: loss, perplexity and bits per byte with intervals."""
    rows = []
    for place, test in tested.items():
        loss = crossed(test.nats / test.tokens, test.tokens)
        bits = crossed(test.nats / math.log(2) / test.bytes, test.bytes)
        rows.append((
            *place, test.protocol, *edges(loss), *edges(loss.mapped(exp)), *edges(bits),
            loss.n, test.nats.shape[1],
        ))  # fmt: skip
    table = pd.DataFrame(rows, columns=LOSS_COLUMNS)
    keys = ["preset", "model", "phase", "seq_len"]
    return ordered(table, keys, preset=presets(run), model=models)


def ratios(
    tested: Mapping[Place, Tested], run: Run, pairs: Sequence[tuple[str, str]]
) -> pd.DataFrame:
    """One row per preset and pair of models: perplexity of the first over the second's.

    Args:
        tested: at which place.
        run: whose presets and window of the test count.
        pairs: subject and baseline of each row.

    Returns:
        The ratio paired by seed and document, with its verdict; a smoke run makes no claims (M2).
    """
    window = run.config.context[0]
    rows: list[Row] = []
    judged: list[tuple[int, Floats, Floats]] = []
    for preset, (subject, baseline) in itertools.product(presets(run), pairs):
        row: Row = dict.fromkeys(RATIO_COLUMNS) | {
            "preset": preset, "subject": subject, "baseline": baseline, "n": 0, "verdict": "",
            "note": "", **dict.fromkeys(EDGES, _NAN),
        }  # fmt: skip
        rows.append(row)
        sides = [tested.get((preset, "test", window, model)) for model in (subject, baseline)]
        if sides[0] is None or sides[1] is None:
            row["note"] = "not measured"
            continue
        gaps = difference(sides[0], sides[1])
        found = crossed(gaps, sides[0].tokens)
        row |= dict(zip(EDGES, edges(found.mapped(exp)), strict=True))
        row |= {"n": found.n, "verdict": NO_CLAIM}
        if found.n:
            judged.append((len(rows) - 1, gaps, sides[0].tokens))
    if not is_smoke(run.meta):
        verdicts = quality.loss_verdicts([(gaps, tokens) for _, gaps, tokens in judged])
        for (place, *_), verdict in zip(judged, verdicts, strict=True):
            rows[place] |= {"verdict": verdict.word, "n_needed": verdict.n_needed}
    return pd.DataFrame(rows, columns=RATIO_COLUMNS).astype({"n_needed": "Int64"})


def scalars(run: Run, models: Sequence[str]) -> pd.DataFrame:
    """One row per preset and model: its size, rate and training; medians over final trainings."""
    frame = final(run)
    rows = frame[frame["metric"].isin(SCALARS) & frame["index"].isna()]
    keys = ["preset", "model"]
    wide = rows.pivot_table(index=keys, columns="metric", values="value", aggfunc="median")
    every = pd.MultiIndex.from_product([presets(run), models], names=keys)
    return wide.reindex(index=every, columns=list(SCALARS)).rename_axis(columns=None).reset_index()


def tuning(run: Run) -> pd.DataFrame:
    """One row per coordinate and rate that was tried: dev loss, status, and whether it was chosen.

    The coordinate is what else the point names (a preset, a task), as text; empty for none. Chosen
    is what the final trainings were made with.
    """
    frame, statuses = run.frame(), run.statuses()
    scored = frame[(frame["metric"] == "final_dev_loss") & frame["index"].isna()]
    loss = lookup(scored, ["model", "point"], "value")
    made_with = lookup(frame[frame["metric"] == "learning_rate"], ["model", "point"], "value")
    ended = {(row["model"], row["point"]): row for row in records(statuses)}
    rows: list[tuple[Any, ...]] = []
    best: dict[tuple[str, str], float | None] = {}
    for point in run.plan.points:
        settings = dict(point.settings)
        stage, rate = settings.pop("stage", None), settings.pop("lr", None)
        at = ",".join(f"{key}={value}" for key, value in settings.items())
        if stage != "tune":
            best |= {(c.label, at): made_with.get((c.label, point.id)) for c in run.plan.contenders}
            continue
        for contender in run.plan.contenders:
            key = (contender.label, point.id)
            end = ended.get(key, {"status": "not run", "cause": None})
            value = loss.get(key, _NAN) if end["status"] == "ok" else _NAN
            rows.append((contender.label, at, rate, value, end["status"], end["cause"], point.id))
    columns = ["model", "at", "learning_rate", "final_dev_loss", "status", "cause", "point"]
    table = pd.DataFrame(rows, columns=columns)
    chosen = [row["learning_rate"] == best.get((row["model"], row["at"])) for row in records(table)]
    return table.assign(chosen=chosen)


def curves(run: Run) -> pd.DataFrame:
    """Dev loss of the final trainings: one row per model, block and step, with tokens and time."""
    frame = final(run)
    rows = frame[(frame["phase"] == "train") & frame["index"].notna()]
    keys = ["model", "block", "index"]
    wide = rows.pivot_table(index=keys, columns="metric", values="value").reset_index()
    wide = wide.reindex(columns=[*keys, "train_loss", "dev_loss", "train_s"])
    per_step = run.config.context[0] * run.config.batch[0]
    table = scalars(run, tuple(dict.fromkeys(wide["model"]))).set_index("model")
    flops = (table["train_flops"] / table["train_tokens"]).to_dict()
    tokens = wide["index"].astype("float64") * per_step
    return wide.assign(tokens=tokens, flops=tokens * wide["model"].map(flops).astype("float64"))


def positions(run: Run) -> pd.DataFrame:
    """Loss by position: one row per model, window, bucket and block."""
    frame = final(run)
    rows = frame[frame["phase"] == "position"]
    return rows[["model", "seq_len", "index", "block", "value"]].astype({"index": "int64"})
