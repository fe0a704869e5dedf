"""Losses of the perplexity and ablation suites as tidy frames: tests, ratios, tuning, curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from retbench.report.compare import NO_CLAIM
from retbench.report.frames import Floats, Row, groups, records
from retbench.report.quality.trained import EDGES, Tested, difference, edges, final
from retbench.stats import quality
from retbench.stats.crossed_effects import crossed

if TYPE_CHECKING:
    from retbench.store import Run

Place = tuple[str, int, str]
"""Phase (``test``, ``length``, ``carried``), window in tokens, model.

With the state carried on the window changes nothing but rounding: it is the training's length.
Older runs have the same value at every length.
"""

LOSS_COLUMNS = [
    "phase", "seq_len", "model", "protocol", "loss", "loss_low", "loss_high", "perplexity",
    "perplexity_low", "perplexity_high", "bits_per_byte", "bits_per_byte_low",
    "bits_per_byte_high", "n", "documents",
]  # fmt: skip
RATIO_COLUMNS = ["subject", "baseline", *EDGES, "n", "verdict", "n_needed", "note"]
SCALARS = (
    "parameters", "learning_rate", "train_tokens", "train_flops", "train_tokens_per_s",
    "final_dev_loss",
)  # fmt: skip
_NAN = float("nan")


def tests(run: Run) -> dict[Place, Tested]:
    """What was tested, by phase, window and model; documents scored alike in every phase."""
    frame = final(run)
    sizes = _documents(frame)
    rows = frame[(frame["metric"] == "test_nats") & frame["model"].isin(sizes)]
    found = {}
    for (phase, length, model), group in groups(rows, ["phase", "seq_len", "model"]):
        nats = group.pivot_table(index="block", columns="trial", values="value")
        tokens, bytes_ = sizes[model]
        found[str(phase), int(length), str(model)] = Tested(
            tuple(int(block) for block in nats.index), nats.to_numpy(dtype=np.float64),
            tokens, bytes_, str(group["implementation"].iloc[0]),
        )  # fmt: skip
    return found


def _documents(frame: pd.DataFrame) -> dict[str, tuple[Floats, Floats]]:
    """Tokens and bytes of every document, by model."""
    rows = frame[frame["phase"] == "test"]
    wide = rows.pivot_table(index=["model", "metric"], columns="trial", values="value")
    found = {}
    for model in dict.fromkeys(rows["model"]):
        if all((model, metric) in wide.index for metric in ("test_tokens", "test_bytes")):
            tokens, sizes = (
                wide.loc[(model, metric)].to_numpy(dtype=np.float64)
                for metric in ("test_tokens", "test_bytes")
            )
            found[str(model)] = (tokens, sizes)
    return found


def losses(tested: Mapping[Place, Tested], models: Sequence[str]) -> pd.DataFrame:
    """One row per phase, window and model: loss, perplexity and bits per byte with intervals."""
    rows = []
    for (phase, length, model), test in tested.items():
        loss = crossed(test.nats / test.tokens, test.tokens)
        bits = crossed(test.nats / math.log(2) / test.bytes, test.bytes)
        rows.append((
            phase, length, model, test.protocol, *edges(loss), *edges(loss.mapped(math.exp)),
            *edges(bits), loss.n, test.nats.shape[1],
        ))  # fmt: skip
    table = pd.DataFrame(rows, columns=LOSS_COLUMNS)
    place = table["model"].map({model: i for i, model in enumerate(models)})
    ordered = table.assign(_place=place).sort_values(["_place", "phase", "seq_len"], kind="stable")
    return ordered.drop(columns="_place").reset_index(drop=True)


def ratios(
    tested: Mapping[Place, Tested], pairs: Sequence[tuple[str, str]], window: int, *, smoke: bool
) -> pd.DataFrame:
    """One row per pair of models: perplexity of the first over the second's, and the verdict.

    Args:
        tested: by phase, window and model.
        pairs: subject and baseline of each row.
        window: of the test.
        smoke: whether the run is a smoke run, which makes no claims.
    """
    rows: list[Row] = []
    judged: list[tuple[int, Floats, Floats]] = []
    for subject, baseline in pairs:
        row: Row = dict.fromkeys(RATIO_COLUMNS) | {
            "subject": subject, "baseline": baseline, "n": 0, "verdict": "", "note": "",
            **dict.fromkeys(EDGES, _NAN),
        }  # fmt: skip
        rows.append(row)
        sides = [tested.get(("test", window, model)) for model in (subject, baseline)]
        if sides[0] is None or sides[1] is None:
            row["note"] = "not measured"
            continue
        gaps = difference(sides[0], sides[1])
        found = crossed(gaps, sides[0].tokens)
        row |= dict(zip(EDGES, edges(found.mapped(math.exp)), strict=True))
        row |= {"n": found.n, "verdict": NO_CLAIM}
        if found.n:
            judged.append((len(rows) - 1, gaps, sides[0].tokens))
    if not smoke:
        verdicts = quality.loss_verdicts([(gaps, tokens) for _, gaps, tokens in judged])
        for (place, *_), verdict in zip(judged, verdicts, strict=True):
            rows[place] |= {"verdict": verdict.word, "n_needed": verdict.n_needed}
    return pd.DataFrame(rows, columns=RATIO_COLUMNS).astype({"n_needed": "Int64"})


def scalars(run: Run, models: Sequence[str]) -> pd.DataFrame:
    """One row per model: its size, rate and training; medians over the final trainings."""
    frame = final(run)
    rows = frame[frame["metric"].isin(SCALARS) & frame["trial"].isna()]
    wide = rows.pivot_table(index="model", columns="metric", values="value", aggfunc="median")
    wide = wide.reindex(index=list(models), columns=list(SCALARS))
    wide.index.name, wide.columns.name = "model", None
    return wide.reset_index()


def tuning(run: Run) -> pd.DataFrame:
    """One row per coordinate and rate that was tried: dev loss, status, and whether it was chosen.

    The coordinate is what else the point names (a preset, a task), as text; empty for none.
    """
    frame, statuses = run.frame(), run.statuses()
    scored = frame[(frame["metric"] == "final_dev_loss") & frame["trial"].isna()]
    loss = {
        (row["model"], row["point"]): row["value"]
        for row in records(scored[["model", "point", "value"]])
    }
    ended = {(row["model"], row["point"]): row for row in records(statuses)}
    rows = []
    for point in run.meta["plan"]["points"]:
        settings = dict(point.get("settings", {}))
        if settings.pop("stage", None) != "tune":
            continue
        rate = settings.pop("lr")
        at = ",".join(f"{key}={value}" for key, value in settings.items())
        for contender in run.meta["plan"]["contenders"]:
            key = (contender["label"], point["point"])
            end = ended.get(key, {"status": "not run", "cause": None})
            value = loss.get(key, _NAN) if end["status"] == "ok" else _NAN
            rows.append(
                (contender["label"], at, rate, value, end["status"], end["cause"], point["point"])
            )
    columns = ["model", "at", "learning_rate", "final_dev_loss", "status", "cause", "point"]
    table = pd.DataFrame(rows, columns=columns)
    best = table.groupby(["model", "at"])["final_dev_loss"].transform("min")
    return table.assign(chosen=table["final_dev_loss"] == best)


def curves(run: Run) -> pd.DataFrame:
    """Dev loss of the final trainings: one row per model, block and step, with tokens and time."""
    frame = final(run)
    rows = frame[(frame["phase"] == "train") & frame["trial"].notna()]
    keys = ["model", "block", "trial"]
    wide = rows.pivot_table(index=keys, columns="metric", values="value").reset_index()
    wide = wide.reindex(columns=[*keys, "train_loss", "dev_loss", "train_s"])
    per_step = run.meta["configuration"]["context"][0] * run.meta["configuration"]["batch"][0]
    table = scalars(run, tuple(dict.fromkeys(wide["model"]))).set_index("model")
    flops = (table["train_flops"] / table["train_tokens"]).to_dict()
    tokens = wide["trial"].astype("float64") * per_step
    return wide.assign(tokens=tokens, flops=tokens * wide["model"].map(flops).astype("float64"))


def positions(run: Run) -> pd.DataFrame:
    """Loss by position: one row per model, window, bucket and block."""
    frame = final(run)
    rows = frame[frame["phase"] == "position"]
    return rows[["model", "seq_len", "trial", "block", "value"]].astype({"trial": "int64"})
