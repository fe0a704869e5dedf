"""The report of the kernels suite: rates, shares, ratios, crossovers, figures, findings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retbench.report import content_of, draw, theme, write_all
from retbench.report.content import Content
from retbench.report.speed.kernels_frames import Kernels, kernels
from retbench.store import Run

from .kernels_run import (
    BANDWIDTH,
    BYTES_PER_TOKEN,
    CONTEXTS,
    ERROR,
    FLOPS_PER_TOKEN,
    MATMUL_RATE,
    MISSING,
    MODELS,
    ending,
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


def sidecars(content: Content) -> dict[str, Any]:
    """Those of all figures, which are drawn."""
    with theme.fixed():
        return {name: make()[1] for name, make in content.figures.items()}


# Numbers


@pytest.mark.parametrize(("direction", "passes"), [("forward", 1), ("train", 3)])
def test_a_rate_is_analytic_work_over_the_median_time(
    make: Make, direction: str, passes: int
) -> None:
    found = kernels(make())
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
    metrics = set(kernels(make(ceilings=None)).cells["metric"])
    assert "kernel_flop_per_s" in metrics and "kernel_share" not in metrics


def test_the_subject_is_compared_with_each_operation_at_each_point(make: Make) -> None:
    ratios = kernels(make()).ratios
    own = ratios[(ratios["direction"] == "train") & (ratios["seq_len"] == 2048)]
    by_baseline = own.set_index("baseline")
    assert by_baseline.loc["sdpa-flash", "value"] == pytest.approx(1 / 2.048, rel=0.03)
    assert by_baseline.loc["sdpa-flash", "verdict"] == "faster"
    assert by_baseline.loc["fla-chunk", "note"] == "fla-chunk: unsupported"


@pytest.mark.parametrize("direction", ["forward", "train"])
def test_two_operations_cross_where_their_laws_do(make: Make, direction: str) -> None:
    crossovers = kernels(make(head_dims=(32, 64))).crossovers
    own = crossovers.query(
        "direction == @direction and baseline == 'sdpa-flash' and head_dim == 64"
    )
    assert own["status"].tolist() == ["reached"]
    assert own["value"].iloc[0] == pytest.approx(1000, rel=0.03)


def test_a_smoke_run_earns_no_claim(make: Make) -> None:
    run = make(configuration={"profile": "smoke"}, blocks=1)
    content = content_of(run)
    assert set(kernels(run).crossovers["status"]) == {"no claim"}
    assert set(kernels(run).ratios["verdict"]) == {"no claim", ""}
    assert content.findings == ()
    assert any("SMOKE" in warning for warning in content.warnings)


def test_the_primary_comparisons_are_those_of_one_point(make: Make) -> None:
    rows = kernels(make()).ratios
    assert set(rows.loc[rows["primary"], "point"]) == {POINT.format("forward", 4096)}
    confidence = rows.loc[rows["primary"] & (rows["n"] > 0), "confidence"]
    assert confidence.tolist() == pytest.approx([1 - 0.05 / 3] * len(confidence))
    (found,) = (t for t in content_of(make()).tables if t.name == "ratios")
    assert any(note.startswith("smallest difference") and "Time" in note for note in found.notes)


# Words


def test_findings_say_who_has_the_lowest_time_from_where_on(make: Make) -> None:
    assert content_of(make()).findings == (
        "forward, d_k 64: sdpa-flash has the lowest median time at 256 tokens, "
        "retention-chunkwise from 2k on",
        "train, d_k 64: sdpa-flash has the lowest median time at 256 tokens, "
        "retention-chunkwise from 2k on",
    )


def test_every_failure_is_a_warning_with_its_cause(make: Make) -> None:
    warnings = content_of(make()).warnings
    assert f"fla-chunk unsupported at all 8 points: {MISSING}" in warnings
    first = POINT.format("forward", 4096)
    assert f"sdpa-math oom at 2 points, the first {first}: out of memory of the test" in warnings


def test_the_glance_has_a_row_an_operation_and_a_column_a_context(make: Make) -> None:
    found = table(content_of(make()), "times")
    assert found.title == "Time of a call over context (ms)" and found.headline
    assert found.header == ("Setting", "Operation", "256", "512", "2k", "4k")
    rows = {row[:2]: row[2:] for row in found.rows}
    assert rows["forward, d_k 64", "fla-chunk"] == ("unsupported",) * 4
    assert rows["train, d_k 64", "sdpa-math"][3] == "oom"
    assert float(rows["forward, d_k 64", "retention-chunkwise"][2]) == pytest.approx(2.05, rel=0.02)


def test_the_measurements_have_every_cell_with_its_error_or_its_cause(make: Make) -> None:
    found = table(content_of(make()), "cells")
    assert len(found.rows) == len(MODELS) * len(CONTEXTS) * 2
    error = found.header.index("Error")
    for row in found.rows:
        if row[2] == "fla-chunk":
            assert row[3] == "unsupported" and row[error] == "–" and row[-1] == MISSING
        elif row[3] == "ok":
            assert float(row[error]) == pytest.approx(ERROR)


def test_types_and_batch_sizes_are_named_where_there_are_several(make: Make) -> None:
    several: Any = {"dtypes": ("float32", "bfloat16"), "batch": (1, 4)}
    found = table(content_of(make(configuration=several)), "ratios")
    assert {row[0] for row in found.rows} == {
        f"{direction}, d_k 64, {dtype}, batch {batch}"
        for direction in ("forward", "train")
        for dtype in several["dtypes"]
        for batch in several["batch"]
    }


# Figures


def test_there_is_a_figure_of_each_kind_for_every_head_dimension(make: Make) -> None:
    assert set(content_of(make(head_dims=(32, 64))).figures) == {
        f"{kind}_d{head_dim}_float32" for kind in ("time", "rate", "ratio") for head_dim in (32, 64)
    }


def test_every_cell_is_shown_or_left_out_for_a_reason(make: Make) -> None:
    planned = {(m, POINT.format(d, c)) for m in MODELS for d in ("forward", "train")
               for c in CONTEXTS}  # fmt: skip
    for name, sidecar in sidecars(content_of(make())).items():
        shown, left_out = (
            {(row["model"], row["point"]) for row in sidecar[part]}
            for part in ("shown", "left_out")
        )
        assert shown | left_out == planned and not shown & left_out
        assert all(row["value"] > 0 for row in sidecar["shown"])
        why = {(row["model"], row["why"]) for row in sidecar["left_out"]}
        assert {("fla-chunk", "unsupported"), ("sdpa-math", "oom")} <= why, name


def test_an_operation_that_never_succeeded_is_named_but_takes_no_room(make: Make) -> None:
    for name, sidecar in sidecars(content_of(make())).items():
        assert "no cell succeeded: fla-chunk" in sidecar["note"], name


def test_a_failure_names_its_operation_and_one_at_every_context_takes_one_line(make: Make) -> None:
    def endings(model: str, context: int, direction: str) -> tuple[str, str | None]:
        if model == "fla-chunk":
            return ("ok", None) if direction == "forward" else ("unsupported", "no backward")
        return ending(model, context)

    with theme.fixed():
        figure, _ = content_of(make(endings=endings)).figures["time_d64_float32"]()
    texts = [{text.get_text() for text in ax.texts} for ax in figure.axes]
    assert texts[0] == {"▲ sdpa-math: oom"}
    assert texts[1] == {"▲ sdpa-math: oom", "◆ fla-chunk: unsupported at every context"}


def test_a_run_in_which_nothing_succeeded_has_figures_all_the_same(make: Make) -> None:
    run = make(endings=lambda model, context, direction: ("error", "broken"))
    assert all(not sidecar["shown"] for sidecar in sidecars(content_of(run)).values())


# Files


def test_the_same_samples_give_the_same_files(make: Make) -> None:
    def digests(run: Run) -> dict[str, str]:
        files = write_all(run)
        return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}

    first = digests(make())
    assert first == digests(make()) and "cells.tex" in first and "report.html" in first


def test_numbers_carry_every_value_and_every_failure(make: Make) -> None:
    run = make()
    write_all(run)
    numbers = json.loads((run.path / "numbers.json").read_text())
    cell = numbers["cells"]["retention-chunkwise"][POINT.format("forward", 512)]
    assert cell["kernel_s"]["value"] == pytest.approx(512e-6, rel=0.02)
    assert (cell["kernel_error"]["value"], cell["kernel_error"]["n"]) == (ERROR, 3)
    ratio = numbers["ratios"]["sdpa-flash"][POINT.format("forward", 4096)]
    assert ratio["verdict"] == "faster"
    assert {row["model"] for row in numbers["failures"]} == {"fla-chunk", "sdpa-math"}
    tex = (run.path / "numbers.tex").read_text()
    macro = r"RetbenchKernelSdpaFlashForwardHeadSixtyFourFloatThirtyTwoContextFourKBatchOne"
    assert f"\\newcommand{{\\{macro}}}{{16." in tex


def test_a_legend_that_does_not_fit_takes_more_rows_and_leaves_the_axes_their_height() -> None:
    names = [f"retention-number-{n:02d}" for n in range(13)]
    with theme.fixed():
        few, few_axes = draw.canvas("title", "caption", "note", theme.styles(names[:4]), 2)
        many, many_axes = draw.canvas("title", "caption", "note", theme.styles(names), 2)
        boxes = []
        for figure, axes in ((few, few_axes), (many, many_axes)):
            figure.canvas.draw()  # type: ignore[attr-defined]
            legend = figure.legends[0].get_window_extent()
            assert legend.x0 >= 0 and legend.x1 <= figure.bbox.width
            assert legend.y0 > axes[0].get_window_extent().y1
            boxes.append(axes[0].get_window_extent().height)
    assert boxes[0] == pytest.approx(boxes[1])
    assert many.get_figheight() > few.get_figheight()
