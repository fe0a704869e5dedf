"""The report of the scaling suite: losses, ratios, laws, crossings, figures, findings."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retbench.report import export
from retbench.report.quality import scaling
from retbench.report.quality.loss_frames import Tested, difference
from retbench.report.quality.scaling import Scaling
from retbench.store import Run

from .scaling_run import (
    CONTEXT,
    DOCUMENTS,
    EXPONENTS,
    MEET,
    MODELS,
    PRESETS,
    law,
    write_scaling,
)

Make = Callable[..., Run]
FOUR = PRESETS | {"10m": 1.06e7}


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return lambda **options: write_scaling(
        tmp_path / f"run{len(list(tmp_path.iterdir()))}", **options
    )


def cells(run: Run) -> Any:
    return Scaling(run).cells.set_index(["preset", "model"])


def ratios(run: Run) -> Any:
    return Scaling(run).ratios.set_index("preset")


def table(run: Run, name: str) -> Any:
    return next(found for found in scaling.content(run).tables if found.name == name)


# Losses


def test_the_loss_is_summed_nats_over_summed_tokens(make: Make) -> None:
    found = cells(make(spread=0.0)).loc[("1m", "retnet")]
    assert found["loss"] == pytest.approx(law("retnet", PRESETS["1m"]), rel=1e-9)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    assert (found["n"], found["documents"]) == (3, DOCUMENTS)


def test_bits_per_byte_are_of_the_bytes_of_the_text(make: Make) -> None:
    found = cells(make(spread=0.0)).loc[("1m", "retnet")]
    tokens = sum(1000 + 100 * i for i in range(DOCUMENTS))
    expected = found["loss"] / math.log(2) * tokens / (tokens + DOCUMENTS)
    assert found["bits_per_byte"] == pytest.approx(expected)


def test_the_interval_of_the_perplexity_is_that_of_the_loss(make: Make) -> None:
    found = cells(make()).loc[("tiny", "retnet")]
    assert found["perplexity_low"] == pytest.approx(math.exp(found["loss_low"]))
    assert found["loss_low"] < found["loss"] < found["loss_high"]


def test_every_preset_has_its_own_size_and_rate(make: Make) -> None:
    found = cells(make())
    assert found["parameters"].xs("retnet", level="model").tolist() == list(PRESETS.values())
    assert set(found["learning_rate"]) == {0.003}  # the better of the two, not the tried ones


def test_a_rate_at_the_edge_of_the_grid_is_printed_so_and_warned_of(make: Make) -> None:
    run = make()
    assert "Learning rate 0.003 at the edge" in table(run, "scaling").reading[-1]
    (said,) = (line for line in scaling.content(run).warnings if "beyond the grid" in line)
    assert f"retnet ({', '.join(sorted(PRESETS))})" in said
    assert "no claim should rest on these" in said
    inside = make(configuration={"learning_rates": (0.001, 0.003, 0.009)})
    assert "Learning rate 0.003 inside" in table(inside, "scaling").reading[-1]


# Ratios


def test_ratios_are_paired_by_seed_and_document(make: Make) -> None:
    found = ratios(make()).loc["tiny"]
    expected = math.exp(law("retnet", 1.0e5) - law("transformer", 1.001e5))
    assert found["low"] < expected < found["high"]
    assert found["high"] - found["low"] < 0.02  # unpaired, the documents' spread would rule


def test_verdicts_of_five_seeds_along_the_sizes(make: Make) -> None:
    found = ratios(make(seeds=5))
    assert found["verdict"].tolist()[0] == "worse"
    assert found["verdict"].tolist()[-1] == "better"


def test_three_seeds_never_say_better_or_worse(make: Make) -> None:
    found = ratios(make(seeds=3))
    assert not set(found["verdict"]) & {"better", "worse"}
    assert (found["n_needed"].dropna() >= 5).all()


def test_a_seed_that_failed_on_one_side_is_no_pair(make: Make) -> None:
    found = ratios(make(failures={("retnet", "1m", 0): "oom", ("transformer", "1m", 1): "error"}))
    assert found.loc["1m", "n"] == 1
    assert found.loc["tiny", "n"] == 3


def test_a_smoke_run_makes_no_claim(make: Make) -> None:
    run = make(seeds=1, configuration={"profile": "smoke"})
    assert {row[-1] for row in table(run, "ratios").cells} == {"no claim"}
    content = scaling.content(run)
    assert "crossing" not in {found.name for found in content.tables}
    assert not any("meet" in line for line in content.findings)


def test_models_tested_on_different_documents_are_not_compared(make: Make) -> None:
    tested = Scaling(make()).tested
    other = tested["tiny", "test", CONTEXT, "transformer"]
    shorter = Tested(other.seeds, other.nats, other.tokens + 1, other.bytes, "")
    with pytest.raises(ValueError, match="different documents"):
        difference(tested["tiny", "test", CONTEXT, "retnet"], shorter)


# Laws


def test_the_exponents_are_found(make: Make) -> None:
    found = Scaling(make(spread=1e-4)).laws("parameters")
    for model, exponent in EXPONENTS.items():
        assert found[model].exponent.value == pytest.approx(exponent, abs=1e-3)


def test_three_sizes_have_no_irreducible_loss_and_four_have(make: Make) -> None:
    assert Scaling(make()).laws("parameters", offset=True) == {}
    four = Scaling(make(presets=FOUR)).laws("parameters", offset=True)
    assert set(four) == set(MODELS)


def test_the_crossing_lies_where_the_laws_meet(make: Make) -> None:
    found = Scaling(make()).crossing("parameters", "transformer")
    assert found is not None and found.low is not None and found.high is not None
    assert found.low < MEET < found.high
    assert (found.status, found.beyond) == ("within", "better")


def test_a_crossing_beyond_the_sizes_is_not_given(make: Make) -> None:
    run = make(presets={"a": 1e5, "b": 2e5, "c": 4e5}, spread=1e-4)
    assert table(run, "crossing").cells[0][-1] == "outside the sizes measured"


def test_laws_that_are_not_told_apart_leave_it_unclear(make: Make) -> None:
    run = make(loss=lambda model, parameters: law("retnet", parameters))
    assert table(run, "crossing").cells[0][-1] == "unclear: the exponents are not told apart"


def test_one_seed_says_so(make: Make) -> None:
    assert table(make(seeds=1), "crossing").cells[0][-1].endswith("from one seed")


def test_a_crossing_takes_the_sizes_and_seeds_of_both(make: Make) -> None:
    failures = {("transformer", "3m", seed): "oom" for seed in range(3)}
    failures |= {("retnet", "tiny", 0): "error"}
    found = Scaling(make(failures=failures)).crossing("parameters", "transformer")
    assert found is not None and found.n == 2


def test_one_size_has_no_law(make: Make) -> None:
    run = make(presets={"tiny": 1e5})
    assert Scaling(run).laws("parameters") == {}
    assert table(run, "crossing").cells[0][-1].startswith("not fitted")
    assert "laws" not in {found.name for found in scaling.content(run).tables}


@pytest.mark.parametrize("preset", ["tiny", "10m"])
def test_a_crossing_names_a_size_at_the_end_that_has_no_value(make: Make, preset: str) -> None:
    lost = {("transformer", preset, seed): "timeout" for seed in range(3)}
    run = make(presets=FOUR, failures=lost)
    assert all(row[-1].endswith(f"; no value at {preset}") for row in table(run, "crossing").cells)


@pytest.mark.parametrize("models", [MODELS, MODELS[1:]])
def test_a_size_without_a_value_is_named_and_joined_by_no_line(
    make: Make, models: tuple[str, ...]
) -> None:
    lost = {(model, "1m", seed): "timeout" for model in models for seed in range(3)}
    content = scaling.content(make(presets=FOUR, failures=lost))
    said = {found.name: [" ".join(row) for row in found.cells] for found in content.tables}
    assert all("better beyond; no value at 1m" in row for row in said["crossing"])
    assert [", no value at 1m" in row for row in said["laws"]] == [m in models for m in MODELS] * 2
    assert content.findings[-1].endswith("better beyond; no value at 1m")
    for figure in content.figures():
        if figure.name == "ratio_parameters":
            assert figure.data["value"].isna().tolist() == [False, True, False, False]
            continue
        for model, curve in zip(MODELS, figure.curves, strict=True):
            assert np.isnan(curve.value[[1, -1]]).tolist() == [model in models, False]


# Tables, findings, numbers


def test_every_row_has_a_cell_for_every_column(make: Make) -> None:
    failures = {("transformer", "3m", seed): "oom" for seed in range(3)}
    for found in scaling.content(make(failures=failures, presets=FOUR)).tables:
        assert {len(row) for row in found.cells} == {len(found.header)}


def test_a_preset_that_failed_keeps_its_row(make: Make) -> None:
    run = make(failures={("transformer", "3m", seed): "oom" for seed in range(3)})
    assert table(run, "scaling").cells[-1][-2:] == ("–", "oom")
    assert table(run, "ratios").cells[-1][-1] == "not measured"


def test_the_paper_s_claim_stands_beside_the_crossing(make: Make) -> None:
    assert any("2307.08621" in note for note in table(make(), "crossing").notes)


def test_findings_give_the_ratio_at_every_size_and_the_crossing(make: Make) -> None:
    *ratios, crossing = scaling.content(make(seeds=5)).findings
    assert len(ratios) == len(PRESETS)
    assert ratios[0].startswith("retnet against transformer at tiny: perplexity +2")
    assert ratios[0].endswith("], worse") and ratios[-1].endswith("], better")
    assert crossing.startswith("the laws of retnet and transformer meet: ")


@pytest.mark.parametrize(
    ("profile", "seeds", "lost", "said"),
    [
        ("quick", 3, (), "3 of 3 comparisons; to settle all repeat the run with --profile report"),
        ("report", 5, (1, 2), "1 of 3 comparisons; to settle it measure the 2 missing seeds"),
    ],
)
def test_what_would_settle_a_comparison_is_not_the_profile_that_the_run_had(
    make: Make, profile: str, seeds: int, lost: tuple[int, ...], said: str
) -> None:
    failures = {("retnet", "3m", seed): "timeout" for seed in lost}
    run = make(seeds=seeds, failures=failures, configuration={"profile": profile})
    assert scaling.content(run).unsettled == f"open: {said}"


def test_numbers_are_json_and_hold_laws(make: Make) -> None:
    numbers = export.numbers(scaling.content(make(presets=FOUR)))
    json.dumps(numbers, allow_nan=False)
    law = numbers["laws"][0]
    assert (law["along"], law["model"]) == ("parameters", "retnet")
    assert law["exponent"] == pytest.approx(0.12, abs=0.01)
    assert all(row["perplexity"] > 1 for row in numbers["scaling"])


def test_losses_ratios_and_exponents_can_be_cited(make: Make) -> None:
    cited = export.citations(scaling.content(make(seeds=5)).tables)
    assert {"perplexity/retnet/1m", "exponent/retnet/parameters"} <= cited.keys()
    assert cited["perplexity_ratio/retnet/transformer/tiny"].startswith("1.2")
    assert cited["perplexity_ratio/retnet/transformer/tiny/verdict"] == "worse"


def test_a_run_in_which_everything_failed_has_a_report(make: Make) -> None:
    failures = {(m, p, s): "error" for m in MODELS for p in PRESETS for s in range(3)}
    content = scaling.content(make(failures=failures))
    assert list(content.figures()) == []
    assert len([line for line in content.warnings if "error" in line]) == 6
    json.dumps(export.numbers(content), allow_nan=False)


def test_one_model_alone_has_a_law_and_no_ratio(make: Make) -> None:
    content = scaling.content(make(models=("retnet",)))
    assert [found.name for found in content.tables] == ["scaling", "laws"]
    assert {figure.name for figure in content.figures()} == {"loss_parameters", "loss_flops"}


def test_a_seed_with_a_document_of_no_finite_loss_is_left_out_and_named(make: Make) -> None:
    run = make(not_finite=("retnet", "tiny", 1))
    tested = Scaling(run).tested
    assert tested["tiny", "test", CONTEXT, "retnet"].seeds == (0, 2)
    assert tested["tiny", "test", CONTEXT, "retnet"].nats.shape == (2, DOCUMENTS)
    content = scaling.content(run)
    (said,) = [line for line in content.warnings if "test_nats is nan" in line]
    assert said.startswith("retnet: ") and "256 tokens in block 1" in said
    assert list(content.figures())
    alone = make(not_finite=("retnet", "tiny", 0), seeds=1)
    assert ("tiny", "test", CONTEXT, "retnet") not in Scaling(alone).tested
