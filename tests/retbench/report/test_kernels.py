"""The report of the kernels suite: rates, shares, ratios, crossovers, figures, findings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retbench.report import content_of, write_tables
from retbench.report.content import Content
from retbench.report.speed.kernels_frames import Kernels
from retbench.store import Run

from .kernels_run import (
    AUDIT,
    BANDWIDTH,
    BYTES_PER_TOKEN,
    CONTEXTS,
    ERROR,
    FLOPS_PER_TOKEN,
    MATMUL_RATE,
    MISSING,
    MODELS,
    write_kernels,
)

Make = Callable[..., Run]
POINT = "direction={},head_dim=64,dtype=float32,context={},batch=1"


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return lambda **options: write_kernels(
        tmp_path / f"run{len(list(tmp_path.iterdir()))}", **options
    )


def value(found: Kernels, model: str, metric: str, direction: str, context: int) -> float:
    rows = found.cells.query(
        "model == @model and metric == @metric and direction == @direction and seq_len == @context"
    )
    assert len(rows) == 1
    return float(rows["value"].iloc[0])


def table(content: Content, name: str) -> Any:
    return next(found for found in content.tables if found.name == name)


# Numbers


@pytest.mark.parametrize(("direction", "passes"), [("forward", 1), ("train", 3)])
def test_a_rate_is_analytic_work_over_the_median_time(
    make: Make, direction: str, passes: int
) -> None:
    found = Kernels(make())
    seconds = value(found, "sdpa-flash", "kernel_s", direction, 2048)
    flops, moved = (2048 * passes * each for each in (FLOPS_PER_TOKEN, BYTES_PER_TOKEN))
    rate, bandwidth, share = (
        value(found, "sdpa-flash", metric, direction, 2048)
        for metric in ("kernel_flop_per_s", "kernel_bandwidth", "kernel_share")
    )
    assert rate == pytest.approx(flops / seconds)
    assert bandwidth == pytest.approx(moved / seconds)
    assert share == pytest.approx(max(flops / MATMUL_RATE, moved / BANDWIDTH) / seconds)


def test_a_machine_whose_ceilings_are_unknown_gets_none_assumed(make: Make) -> None:
    metrics = set(Kernels(make(ceilings=None)).cells["metric"])
    assert "kernel_flop_per_s" in metrics and "kernel_share" not in metrics


def test_the_subject_is_compared_with_each_operation_at_each_point(make: Make) -> None:
    ratios = Kernels(make()).ratios
    own = ratios[(ratios["direction"] == "train") & (ratios["seq_len"] == 2048)]
    by_baseline = own.set_index("baseline")
    assert by_baseline.loc["sdpa-flash", "value"] == pytest.approx(1 / 2.048, rel=0.03)
    assert by_baseline.loc["sdpa-flash", "verdict"] == "faster"
    assert by_baseline.loc["fla-chunk", "note"] == "fla-chunk: unsupported"


@pytest.mark.parametrize("direction", ["forward", "train"])
def test_two_operations_cross_where_their_laws_do(make: Make, direction: str) -> None:
    crossovers = Kernels(make(head_dims=(32, 64))).crossovers
    own = crossovers.query(
        "direction == @direction and baseline == 'sdpa-flash' and head_dim == 64"
    )
    assert own["status"].tolist() == ["reached"]
    assert own["value"].iloc[0] == pytest.approx(1000, rel=0.03)


def test_a_smoke_run_earns_no_claim(make: Make) -> None:
    run = make(configuration={"profile": "smoke"}, blocks=1)
    content = content_of(run)
    assert set(Kernels(run).crossovers["status"]) == {"no claim"}
    assert set(Kernels(run).ratios["verdict"]) == {"no claim", ""}
    assert content.findings == ()
    assert any("SMOKE" in warning for warning in content.warnings)


def test_the_primary_comparisons_are_those_of_one_point(make: Make) -> None:
    rows = Kernels(make()).ratios
    assert set(rows.loc[rows["primary"], "point"]) == {POINT.format("forward", 4096)}
    confidence = rows.loc[rows["primary"] & (rows["n"] > 0), "confidence"]
    assert confidence.tolist() == pytest.approx([1 - 0.05 / 3] * len(confidence))
    (found,) = (t for t in content_of(make()).tables if t.name == "ratios")
    assert any(note.startswith("smallest difference") and "Time" in note for note in found.notes)


# Words


def test_findings_say_who_has_the_lowest_time_from_where_on(make: Make) -> None:
    assert content_of(make()).findings == (
        "forward, d_k 64: lowest median time: sdpa-flash from 256 tokens on, "
        "retention-chunkwise from 2k on",
        "train, d_k 64: lowest median time: sdpa-flash from 256 tokens on, "
        "retention-chunkwise from 2k on",
    )


def test_where_no_operation_has_a_value_nobody_is_the_fastest(make: Make) -> None:
    late = lambda model, context, direction: (  # noqa: E731
        ("timeout", "too long") if context == 4096 else ("ok", None)
    )
    content = content_of(make(models=MODELS[:2], endings=late))
    assert all(line.endswith("from 2k on; no value at 4k") for line in content.findings)
    (crossed,) = (table for table in content.tables if table.name == "crossover")
    assert all(row[-1].endswith("beyond; no value at 4k") for row in crossed.cells)


def test_an_audit_of_another_suite_s_times_says_nothing_of_these(make: Make) -> None:
    assert not any("not audited" in line for line in content_of(make()).warnings)
    of_another = AUDIT | {"floor": {"tpot_s": 0.004}, "found": 18}
    content = content_of(make(audit=of_another))
    assert any("not audited (`retbench audit --suite kernels`)" in w for w in content.warnings)
    assert "noise floor: not audited; margin of verdicts: 1%" in content.stamp
    assert "TPOT" not in " ".join(content.stamp) and "missed" not in " ".join(content.warnings)


def test_every_failure_is_a_warning_with_its_cause(make: Make) -> None:
    warnings = content_of(make()).warnings
    assert f"fla-chunk unsupported at all 8 points: {MISSING}" in warnings
    first = "direction forward, head dim 64, dtype float32, context 4k batch 1"
    assert f"sdpa-math oom at 2 points, the first {first}: out of memory of the test" in warnings


def test_the_glance_has_a_row_an_operation_and_a_column_a_context(make: Make) -> None:
    found = table(content_of(make()), "times")
    assert found.title == "Time of a call over context (ms)"
    assert found.header == ("Setting", "Operation", "256", "512", "2k", "4k")
    rows = {row[:2]: row[2:] for row in found.cells}
    assert rows["forward, d_k 64", "fla-chunk"] == ("unsupported",) * 4
    assert rows["train, d_k 64", "sdpa-math"][3] == "oom"
    assert float(rows["forward, d_k 64", "retention-chunkwise"][2]) == pytest.approx(2.05, rel=0.02)


def test_the_measurements_have_every_cell_with_its_error_or_its_cause(make: Make) -> None:
    found = table(content_of(make()), "cells")
    assert len(found.cells) == len(MODELS) * len(CONTEXTS) * 2
    error = found.header.index("Error")
    for row in found.cells:
        if row[2] == "fla-chunk":
            assert row[3] == "unsupported" and row[error] == "–" and row[-1] == MISSING
        elif row[3] == "ok":
            assert float(row[error]) == pytest.approx(ERROR)


def test_types_and_batch_sizes_are_named_where_there_are_several(make: Make) -> None:
    several: Any = {"dtypes": ("float32", "bfloat16"), "batch": (1, 4)}
    found = table(content_of(make(configuration=several)), "ratios")
    assert {row[0] for row in found.cells} == {
        f"{direction}, d_k 64, {dtype}, batch {batch}"
        for direction in ("forward", "train")
        for dtype in several["dtypes"]
        for batch in several["batch"]
    }


# Files


def test_the_same_samples_give_the_same_tables(make: Make) -> None:
    def digests(run: Run) -> dict[str, str]:
        files = write_tables(run)
        return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}

    run = make()
    first = digests(run)
    assert first == digests(run) and "cells.tex" in first


def test_numbers_carry_every_value_and_every_failure(make: Make) -> None:
    run = make()
    write_tables(run)
    numbers = json.loads((run.path / "numbers.json").read_text())
    cells = {(row["model"], row["point"], row["metric"]): row for row in numbers["cells"]}
    place = "retention-chunkwise", POINT.format("forward", 512)
    assert cells[*place, "kernel_s"]["value"] == pytest.approx(512e-6, rel=0.02)
    error = cells[*place, "kernel_error"]
    assert (error["value"], error["n"]) == (ERROR, 3)
    verdicts = {(row["baseline"], row["point"]): row["verdict"] for row in numbers["ratios"]}
    assert verdicts["sdpa-flash", POINT.format("forward", 4096)] == "faster"
    failed = {row["model"] for row in numbers["cells"] if row["status"] != "ok"}
    assert failed == {"fla-chunk", "sdpa-math"}
    key = f"kernel_s/sdpa-flash/{POINT.format('forward', 4096)}"
    assert f"\\retbenchset{{{key}}}{{16." in (run.path / "numbers.tex").read_text()
