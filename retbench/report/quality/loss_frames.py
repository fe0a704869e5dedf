"""Test losses of trained models as tidy frames: tests, losses, ratios, curves, positions.

Perplexity, ablation and scaling share them: a row names its preset where the run has several. A
loss is summed nats over summed tokens of the test documents (M13); its interval takes seeds and
documents as random.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from retbench.report.compare import NO_CLAIM
from retbench.report.frames import EDGES, Floats, Row, by_block, edges, groups, ordered
from retbench.report.quality.trained import Trainings
from retbench.report.terms import is_smoke
from retbench.stats import quality
from retbench.stats.crossed_effects import crossed
from retbench.stats.estimate import exp

MARGIN = 0.01  # of perplexity
CROSSED = "95% interval over seeds and documents"
PAIRED = "95% interval, paired by seed and document"

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
RATIO_COLUMNS = [
    "preset", "phase", "seq_len", "subject", "baseline", *EDGES, "n", "verdict", "n_needed", "note",
]  # fmt: skip
PER_TOKEN = ("last_loss", "ar_hit_loss", "first_occur_loss")
"""Metrics of a part of a document's tokens: documents are weighed by all of theirs."""


@dataclass(frozen=True)
class Tested:
    """One trained model on the test documents.

    Attributes:
        seeds: blocks that ended ok and scored every document, in the order of the rows.
        nats: summed loss of each document, shape (seeds, documents), nats.
        tokens: scored in each document, shape (documents,).
        bytes: of the text of each document, shape (documents,).
        protocol: window and stride.
    """

    seeds: tuple[int, ...]
    nats: Floats
    tokens: Floats
    bytes: Floats
    protocol: str

    @property
    def losses(self) -> Floats:
        """Summed nats over summed tokens of each seed, shape (seeds,), nats per token."""
        return np.asarray(self.nats.sum(axis=1) / self.tokens.sum(), dtype=np.float64)


def difference(subject: Tested, baseline: Tested) -> Floats:
    """Differences of losses paired by seed and document, shape (seeds, documents), nats/token.

    Raises:
        ValueError: the two were not tested on the same documents, so cannot be paired.
    """
    if not np.array_equal(subject.tokens, baseline.tokens):
        raise ValueError("the models were tested on different documents")
    _, above, below = np.intersect1d(subject.seeds, baseline.seeds, return_indices=True)
    gaps = (subject.nats[above] - baseline.nats[below]) / subject.tokens
    return np.asarray(gaps, dtype=np.float64)


class Losses(Trainings):
    """The trainings of a run whose models are tested on a text."""

    @property
    def is_ablation(self) -> bool:
        """Whether the models are a whole and its variants."""
        return bool(self.meta["suite"] == "ablation")

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Subject and baseline of each ratio.

        The first model over each other one; in an ablation each variant over its own family's
        whole.
        """
        if not self.is_ablation:
            return [(self.models[0], other) for other in self.models[1:]]
        contenders = self.run.plan.contenders
        return [(c.label, c.family) for c in contenders if c.label != c.family]

    @cached_property
    def tested(self) -> dict[Place, Tested]:
        """What was tested, at which place; the documents are scored alike in every phase."""
        documents = self._documents()
        rows = self.final[self.final["metric"].isin(("test_nats", *PER_TOKEN))]
        found = {}
        keys = ["preset", "phase", "seq_len", "model"]
        for (preset, phase, length, model), group in groups(rows, keys):
            if (preset, model) not in documents:
                continue
            tokens, sizes = documents[preset, model]
            blocks, numbers, table = by_block(group, "index")
            table, numbers = table[:, : len(tokens)], numbers[: len(tokens)]
            # A seed that lacks a document, as where its loss was not finite, says nothing of all.
            known = ~np.isnan(table).any(axis=1)
            if not np.array_equal(numbers, np.arange(len(tokens))) or not known.any():
                continue
            # A column a document in memory: sums over documents depend on it in their last digit.
            nats = np.asfortranarray(table[known])
            if group["metric"].iloc[0] in PER_TOKEN:
                nats = nats * tokens
            found[str(preset), str(phase), int(length), str(model)] = Tested(
                tuple(map(int, blocks[known])), nats, tokens, sizes,
                str(group["implementation"].iloc[0]),
            )  # fmt: skip
        return found

    def _documents(self) -> dict[tuple[str, str], tuple[Floats, Floats]]:
        """Tokens and bytes of every document, by preset and model."""
        found = {}
        rows = self.final[self.final["phase"] == "test"]
        for key, group in groups(rows, ["preset", "model"]):
            wide = group.pivot_table(index="metric", columns="index", values="value")
            if {"test_tokens", "test_bytes"} <= set(wide.index):
                tokens, sizes = wide.loc["test_tokens"], wide.loc["test_bytes"]
                found[key[0], key[1]] = tokens.to_numpy(float), sizes.to_numpy(float)
        return found

    def test_of(self, row: Row, side: str = "model") -> Tested | None:
        """What a row is of: the model of one side, tested as the row says.

        Where the row does not say how, it is the test in windows of the training's length.
        """
        return self.tested.get((
            row.get("preset", self.setting_values[0]), row.get("phase", "test"),
            row.get("seq_len", self.context), row[side],
        ))  # fmt: skip

    def seed_ratios(self, row: Row) -> tuple[float, ...]:
        """The ratio of perplexities of each seed that both sides of a row of ratios have.

        Empty where one is missing.
        """
        subject, baseline = self.test_of(row, "subject"), self.test_of(row, "baseline")
        if subject is None or baseline is None:
            return ()
        gaps = difference(subject, baseline) @ subject.tokens / subject.tokens.sum()
        return tuple(map(exp, gaps))

    @cached_property
    def losses(self) -> pd.DataFrame:
        """One row per place: loss, perplexity and bits per byte with intervals."""
        rows = []
        for place, test in self.tested.items():
            loss = crossed(test.nats / test.tokens, test.tokens)
            bits = crossed(test.nats / math.log(2) / test.bytes, test.bytes)
            rows.append((
                *place, test.protocol, *edges(loss), *edges(loss.mapped(exp)), *edges(bits),
                loss.n, test.nats.shape[1],
            ))  # fmt: skip
        table = pd.DataFrame(rows, columns=LOSS_COLUMNS)
        keys = ["preset", "model", "phase", "seq_len"]
        return self.shown(ordered(table, keys, preset=self.setting_values, model=self.models))

    def at(self, phase: str) -> pd.DataFrame:
        """The losses of one phase."""
        return self.losses[self.losses["phase"] == phase]

    @property
    def protocol(self) -> str:
        """Window and stride of the test."""
        return ", ".join(dict.fromkeys(self.at("test")["protocol"])) or "not measured"

    @cached_property
    def ratios(self) -> pd.DataFrame:
        """The ratios of the test in windows of the training's length, see :meth:`ratios_at`."""
        return self.ratios_at("test", self.context).drop(columns=["phase", "seq_len"])

    def ratios_at(self, phase: str, seq_len: int) -> pd.DataFrame:
        """One row per preset and pair of models: perplexity of the first over the second's.

        It is paired by seed and document, and has its verdict, corrected over these rows; a smoke
        run makes no claims (M2).

        Args:
            phase: what of the test is compared, see :data:`Place`.
            seq_len: its window or context, tokens.
        """
        rows: list[Row] = []
        judged: list[tuple[Row, Floats, Floats]] = []
        for preset, (subject, baseline) in itertools.product(self.setting_values, self.pairs):
            row: Row = dict.fromkeys(RATIO_COLUMNS) | {
                "preset": preset, "phase": phase, "seq_len": seq_len, "subject": subject,
                "baseline": baseline, "n": 0, "verdict": "", "note": "",
                **dict.fromkeys(EDGES, math.nan),
            }  # fmt: skip
            rows.append(row)
            above, below = self.test_of(row, "subject"), self.test_of(row, "baseline")
            if above is None or below is None:
                row["note"] = "not measured"
                continue
            gaps = difference(above, below)
            if not len(gaps):
                row["note"] = "no seed of which both have a loss"
                continue
            found = crossed(gaps, above.tokens)
            row |= dict(zip(EDGES, edges(found.mapped(exp)), strict=True))
            row |= {"n": found.n, "verdict": NO_CLAIM}
            judged.append((row, gaps, above.tokens))
        if not is_smoke(self.meta):
            verdicts = quality.loss_verdicts([(gaps, tokens) for _, gaps, tokens in judged])
            for (row, *_), verdict in zip(judged, verdicts, strict=True):
                row |= {"verdict": verdict.word, "n_needed": verdict.n_needed}
        table = pd.DataFrame(rows, columns=RATIO_COLUMNS).astype({"n_needed": "Int64"})
        return self.shown(table)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """Dev loss of the final trainings: one row per model, block and step, with tokens and time.

        Of a run of one preset.
        """
        rows = self.final[(self.final["phase"] == "train") & self.final["index"].notna()]
        keys = ["model", "block", "index"]
        wide = rows.pivot_table(index=keys, columns="metric", values="value").reset_index()
        wide = wide.reindex(columns=[*keys, "train_loss", "dev_loss", "train_s"])
        per_step = self.context * self.run.config.batch[0]
        table = self.scalars.set_index("model")
        flops = (table["train_flops"] / table["train_tokens"]).to_dict()
        tokens = wide["index"].astype("float64") * per_step
        return wide.assign(tokens=tokens, flops=tokens * wide["model"].map(flops).astype("float64"))

    @cached_property
    def positions(self) -> pd.DataFrame:
        """Loss by position: one row per model, window, bucket and block."""
        rows = self.final[self.final["phase"] == "position"]
        return rows[["model", "seq_len", "index", "block", "value"]].astype({"index": "int64"})
