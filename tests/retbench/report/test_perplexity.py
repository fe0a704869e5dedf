"""Perplexity: what its intervals rest on, and its value by evaluation length."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from retbench.config.plan import Contender, Plan
from retbench.report.quality.columns import replicates, untuned
from retbench.report.quality.loss_frames import LOSS_COLUMNS, Losses, Tested
from retbench.report.quality.perplexity import lengths, lengths_figure
from retbench.report.units import DASH
from retbench.suites.quality import final_point

from .samples import PROVENANCE, configuration
from .scaling_run import CONTEXT

ALONE = {128: 9.0, 256: 8.0, 512: 8.5}
CONFIG = configuration("perplexity", preset="1m", context=(CONTEXT,), batch=(4,))
PLAN = Plan("perplexity", (Contender("retnet", "retnet"),), (final_point(CONFIG, ()),), 3, 0)
META = {
    "suite": "perplexity", "configuration": CONFIG.to_json(), "plan": PLAN.to_json(),
    "provenance": PROVENANCE, "stopped": None, "audit": None,
}  # fmt: skip


def found(**ways: float) -> Losses:
    """A run of one model, tested at three lengths and in other ways, by phase."""
    rows = [
        dict.fromkeys(LOSS_COLUMNS)
        | {"phase": phase, "seq_len": length, "model": "retnet", "n": 3, "documents": 8}
        | {"perplexity": value, "perplexity_low": value - 0.1, "perplexity_high": value + 0.1}
        for phase, values in {"length": ALONE, **{p: {CONTEXT: v} for p, v in ways.items()}}.items()
        for length, value in values.items()
    ]
    made = Losses(SimpleNamespace(meta=META, config=CONFIG, plan=PLAN))  # type: ignore[arg-type]
    made.losses, made.tested, made.caveat = pd.DataFrame(rows), {}, ""
    made.endings = pd.DataFrame([{"model": "retnet", "status": "ok", "ok_blocks": 3, "blocks": 3}])
    return made


def test_beyond_the_training_length_the_table_has_sliding_windows_and_the_carried_state() -> None:
    cells = lengths(found(carried=7.5, test=7.7)).cells
    shown = {row[1]: [text.partition(" ")[0] for text in row[2:]] for row in cells}
    assert shown["sliding"] == [DASH, "7.70", DASH]
    assert shown["state carried"] == [DASH, "7.50", DASH]


@pytest.mark.parametrize(
    ("ways", "label", "value", "drawn"),
    [
        ({"carried": 7.5, "test": 7.7}, "retnet, state carried", 7.5, [128, 256, 512]),
        ({"test": 7.7}, "retnet, sliding windows", 7.7, [256, 512]),
    ],
)
def test_the_figure_draws_how_a_model_would_read_a_longer_text(
    ways: dict[str, float], label: str, value: float, drawn: list[int]
) -> None:
    (across,) = lengths_figure(found(**ways)).curves
    assert across.label == label
    assert list(across.x) == drawn and set(across.value) == {value}


def test_a_ratio_at_a_context_is_paired_by_seed_and_document() -> None:
    models = ("retnet", "transformer")
    contenders = tuple(Contender(model, model) for model in models)
    plan = Plan("perplexity", contenders, PLAN.points, 5, 0)
    run = SimpleNamespace(meta=META | {"plan": plan.to_json()}, config=CONFIG, plan=plan)
    # Seeds and documents differ by far more than the two models, which do by as much in each.
    tokens, noise = np.full(8, 1000.0), np.add.outer(np.arange(5) / 4, np.arange(8) / 8)
    losses = Losses(run)  # type: ignore[arg-type]
    losses.tested = {
        ("1m", "last", CONTEXT, model): Tested(
            tuple(range(5)), (1 + noise + apart) * tokens, tokens, tokens, "last=32,window=256"
        )
        for model, apart in zip(models, (0.05, 0.0), strict=True)
    }
    row = losses.ratios_at("last", CONTEXT).iloc[0]
    assert (row["subject"], row["baseline"], row["verdict"]) == (*models, "worse")
    assert [row["low"], row["high"]] == pytest.approx([np.exp(0.05)] * 2)
    assert losses.ratios_at("ar_hit", CONTEXT)["note"].tolist() == ["not measured"]


def test_a_second_line_within_the_margin_of_the_first_is_left_out_and_named() -> None:
    alike = {"phase": "length", "model": "retnet", "perplexity": 7.5}
    near = found(carried=7.56)
    near.losses.loc[near.losses["phase"] == "length", list(alike)] = list(alike.values())
    figure = lengths_figure(near)
    assert not figure.curves
    assert any("within 1%" in n and n.endswith("line: retnet, state carried") for n in figure.notes)
    near.losses = near.losses.replace(7.56, 7.6)
    assert len(lengths_figure(near).curves) == 1


@pytest.mark.parametrize(
    ("whole", "by_ranges", "said"),
    [
        (True, True, "the ends of 9 texts whose beginnings are trained on"),
        (True, False, "9 documents of the same source, none of them trained on"),
        (False, True, "9 segments of one text"),
    ],
)
def test_a_note_says_what_the_intervals_take_as_replicates(
    whole: bool, by_ranges: bool, said: str
) -> None:
    data = {"by_ranges": by_ranges, "test": {"documents": 9, "whole": whole}}
    (note,) = replicates({"data": data})
    assert said in note
    assert "8 degrees of freedom" in note


def test_a_note_says_what_is_not_tuned() -> None:
    training = {"beta1": 0.9, "beta2": 0.98, "weight_decay": 0.1, "grad_clip": 1.0,
                "warmup_steps": 27, "final_ratio": 0.1}  # fmt: skip
    config = {"tie_embeddings": True, "decay": "eq8"}
    (note,) = untuned({"models": {"retnet": {"config": config, "training": training}}})
    for said in ("betas 0.9 and 0.98", "weight decay 0.1", "norm 1", "warm-up over 27 steps",
                 "tied embeddings", "decays (retnet: eq8)"):  # fmt: skip
        assert said in note
