"""The files of a report: the same bytes each time, without torch, fast, with every failure in."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from retbench.cli import document
from retbench.cli.console import Console
from retbench.report import (
    citations,
    compare,
    content_of,
    draw,
    summarise,
    tables,
    units,
    write_all,
    write_plots,
)
from retbench.report.plots import figures

from .conftest import AUDIT, FAILURES, MakeRun, write_run

ROOT = Path(__file__).parents[3]
FIGURES = (
    "tpot_context", "ttft_context", "throughput_context", "memory_context", "throughput_batch",
    "latency_batch", "pareto", "ratio_context",
)  # fmt: skip


def in_new_process(code: str, *arguments: str, **environment: str) -> str:
    """What ``code`` prints, run from the checkout by a fresh interpreter."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=variables
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


WRITE = """
import sys, time
from retbench import report
from retbench.store import open_run
report.write_all(open_run(sys.argv[1]))
assert "torch" not in sys.modules
"""


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_the_same_samples_give_the_same_bytes_in_any_process_without_torch(tmp_path: Path) -> None:
    found = []
    for seed in ("1", "2"):
        path = write_run(tmp_path / seed, failures=FAILURES).path
        matplotlibrc = tmp_path / f"matplotlibrc{seed}"  # a user's own settings must not matter
        matplotlibrc.write_text(f"lines.linewidth: {seed}\nsavefig.dpi: {100 * int(seed)}\n")
        in_new_process(WRITE, str(path), PYTHONHASHSEED=seed, MATPLOTLIBRC=str(matplotlibrc))
        found.append(digests(path))
    assert found[0] == found[1]
    assert {f"plots/{name}.{suffix}" for name in FIGURES for suffix in ("png", "svg", "json")} <= (
        found[0].keys()
    )
    assert {"report.html", "numbers.tex", "numbers.json", "tables/cells.tex"} <= found[0].keys()


def test_no_file_carries_a_date_or_a_version_of_the_software(make_run: MakeRun) -> None:
    run = make_run()
    for path in write_plots(run):
        content = path.read_bytes()
        assert b"dc:date" not in content
        assert b"Matplotlib v" not in content
        assert b"matplotlib.org" not in content


def test_every_cell_is_shown_or_left_out_with_its_reason(make_run: MakeRun) -> None:
    run = make_run(failures=FAILURES)
    write_plots(run)
    for name in FIGURES:
        sidecar = json.loads((run.path / "plots" / f"{name}.json").read_text())
        cells = [*sidecar["shown"], *sidecar["left_out"]]
        covered = {(row["model"], row["point"]) for row in cells}
        models = ("transformer", "transformer-gqa")  # the ratios' rows are those of baselines
        points = {point for _, point in covered}
        assert len(points) == 7
        assert {(model, point) for model in models for point in points} <= covered, name
    sidecar = json.loads((run.path / "plots" / "tpot_context.json").read_text())
    why = {(row["model"], row["point"]): row for row in sidecar["left_out"]}
    assert why["transformer", "context=8192,batch=1"]["why"] == "oom"
    assert why["transformer", "context=8192,batch=1"]["cause"] == "oom of the test"
    assert why["retnet", "context=1024,batch=4"]["why"] == "not on this axis"
    assert why["transformer-gqa", "context=8192,batch=1"]["blocks"] == 1


def test_a_failure_is_a_mark_with_its_status_in_every_plot(make_run: MakeRun) -> None:
    run = make_run(failures=FAILURES)
    write_plots(run)
    for name in ("tpot_context", "ttft_context", "throughput_context", "memory_context"):
        svg = (run.path / "plots" / f"{name}.svg").read_text()
        assert re.search(r">■ oom</text>", svg), name
        assert re.search(r">▲ timeout 1/3</text>", svg), name
    for name in ("throughput_batch", "latency_batch", "pareto"):
        assert "oom implied" in (run.path / "plots" / f"{name}.svg").read_text(), name


def test_a_run_in_which_everything_failed_still_has_its_figures(make_run: MakeRun) -> None:
    sick = {
        (model, context, batch): "error"
        for model in ("retnet", "transformer", "transformer-gqa")
        for context in (512, 1024, 2048, 4096, 8192)
        for batch in (1, 4, 16)
    }
    run = make_run(failures=sick, ceilings=None)
    write_all(run)
    assert ">● error</text>" in (run.path / "plots" / "tpot_context.svg").read_text()


def test_a_single_process_draws_without_intervals(make_run: MakeRun) -> None:
    run = make_run(blocks=1, configuration={"profile": "smoke"})
    write_all(run)
    for file in ("tables/cells.md", "tables/ratios.tex", "numbers.tex", "report.html"):
        assert "SMOKE" in (run.path / file).read_text(), file


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (["oom", "oom_implied", "oom_implied"], "oom"),
        (["timeout 1/3", "oom"], "timeout 1/3, oom"),
        (["oom_implied"], "oom implied"),
    ],
)
def test_neighbouring_failures_share_a_label(labels: list[str], text: str) -> None:
    assert draw.statuses(labels) == text


def test_a_figure_of_one_process_says_that_it_has_no_intervals(make_run: MakeRun) -> None:
    drawn = figures(summarise(make_run(blocks=1)))
    _, sidecar = drawn["tpot_context"]()
    assert "no intervals" in sidecar["note"]
    assert "band" not in sidecar["note"]


def test_the_axis_carries_real_lengths(make_run: MakeRun) -> None:
    run = make_run()
    write_plots(run)
    svg = (run.path / "plots" / "tpot_context.svg").read_text()
    assert all(f">{label}</text>" in svg for label in ("512", "1k", "2k", "4k", "8k"))
    assert ">TPOT (ms)</text>" in svg


def test_figures_are_functions_of_the_summary_that_return_figures(make_run: MakeRun) -> None:
    drawn = figures(summarise(make_run()))
    assert tuple(drawn) == FIGURES
    figure, sidecar = drawn["pareto"]()
    assert sidecar["figure"] == "pareto"
    assert len(figure.axes) == 1


def test_the_csv_has_every_digit_and_the_stamp(make_run: MakeRun) -> None:
    run = make_run()
    write_all(run)
    summary = summarise(run)
    with (run.path / "tables" / "cells.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = next(
        row for row in rows
        if (row["model"], row["metric"], row["point"])
        == ("retnet", "tpot_s", "context=8192,batch=1")
    )  # fmt: skip
    assert float(found["value"]) == summary.value("retnet", "tpot_s", 8192, 1)
    assert (found["profile"], found["noise_floor"]) == ("quick", "0.004")
    memory = next(row for row in rows if row["metric"] == "state_bytes")
    assert memory["noise_floor"] == ""


def test_markdown_states_how_to_read_a_ratio_and_defines_the_metrics(make_run: MakeRun) -> None:
    run = make_run(failures=FAILURES)
    write_all(run)
    ratios = (run.path / "tables" / "ratios.md").read_text()
    assert "below 1 the subject is faster" in ratios
    assert (
        "noise floor: TPOT 0.40%, Mean TPOT 0.40%, TTFT 0.80% (audit of 2025-01-01: 20 of 20 "
        "planted differences of 5% found); margin of verdicts: 1.00%"
    ) in ratios
    assert "| transformer | 8k | 1 | 0 | – | transformer: oom |" in ratios
    cells = (run.path / "tables" / "cells.md").read_text()
    assert "**TPOT**: time per output token" in cells
    assert "| transformer | 8k | 1 | oom |" in cells


def test_percentiles_of_tpot_stand_on_the_screen_and_not_in_print(make_run: MakeRun) -> None:
    run = make_run(steps=16)  # 48 of a cell: enough for p90, not for p99
    write_all(run)
    lines = (run.path / "tables" / "cells.md").read_text().splitlines()
    header, _, first = [line.split(" | ") for line in lines if line.startswith("|")][:3]
    at = dict(zip(header, first, strict=True))
    assert float(at["TPOT p90 (ms)"]) > 4
    assert at["TPOT p99 (ms)"] == units.DASH
    assert any("describe the time per step of slices" in line for line in lines)
    assert "p90" in (run.path / "report.html").read_text()
    assert "p90" not in (run.path / "tables" / "cells.tex").read_text()


def test_under_a_table_of_ratios_stands_what_it_could_have_told(make_run: MakeRun) -> None:
    stopped = {"blocks": 3, "alpha": 0.04, "why": "the time is up", "open": ["one", "two"]}
    apart = lambda model, context, block: context == 512  # noqa: E731
    run = make_run(stopped=stopped, alone=apart, generation=True)
    write_all(run)
    timed = summarise(run).ratios.query("metric == 'ttft_s'")["resolution"]
    notes = (run.path / "tables" / "ratios.md").read_text()
    median, worst = (units.significant(100 * x, 2) for x in (timed.median(), timed.max()))
    assert f"TTFT {median}% (worst row {worst}%)" in notes
    assert "Mean TPOT" in notes.partition("smallest difference")[2].partition("\n")[0]
    assert "[low, high]: 96% interval over blocks, of a run that might have ended" in notes
    assert "ended after 3 blocks: the time is up; 2 ratios open" in notes
    assert (
        "primary, named before the run: TPOT at context=8192,batch=1; TTFT at "
        "context=8192,batch=1, hold together (each 99.0%); other rows are exploratory"
    ) in notes
    assert "| transformer | 512 | 1 | 3 |" in notes and "slower, alone |" in notes
    assert "alone: they were not measured in turns" in notes
    assert "Holm" not in notes


def test_in_print_a_verdict_is_its_word(make_run: MakeRun) -> None:
    run = make_run(blocks=2)
    write_all(run)
    on_screen, printed = ((run.path / "tables" / f"ratios.{s}").read_text() for s in ("md", "tex"))
    rows = [line for line in on_screen.splitlines() if line.startswith("|")]
    assert any("inconclusive (tells " in line for line in rows)
    body = printed[printed.index("\\midrule") :]
    assert "inconclusive" in body and "(tells" not in body


def test_the_mean_over_a_generation_stands_beside_the_step(make_run: MakeRun) -> None:
    run = make_run(generation=True)
    write_all(run)
    tpot = json.loads((run.path / "plots" / "tpot_context.json").read_text())
    assert {row["metric"] for row in tpot["shown"]} == {"tpot_s", "mean_tpot_s"}
    ratio = json.loads((run.path / "plots" / "ratio_context.json").read_text())
    assert {row["metric"] for row in ratio["shown"]} == {"tpot_s", "mean_tpot_s", "ttft_s"}
    assert "Mean TPOT (ms)" in (run.path / "tables" / "cells.md").read_text()
    assert "RetbenchMeanTpotRetnetContextEightKBatchOne}" in (run.path / "numbers.tex").read_text()


def test_what_was_measured_alone_has_its_mark_where_there_is_no_ratio(make_run: MakeRun) -> None:
    run = make_run(alone=lambda model, context, block: (model, context) == ("transformer", 8192))
    write_plots(run)
    assert ">■ alone</text>" in (run.path / "plots" / "ratio_context.svg").read_text()
    sidecar = json.loads((run.path / "plots" / "ratio_context.json").read_text())
    assert "× alone: only one of the two took turns" in sidecar["note"]


def test_the_console_prints_what_the_blocks_could_have_told(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped = {"blocks": 2, "alpha": 0.04, "why": "the time is up", "open": ["one"]}
    summary = summarise(make_run(blocks=2, generation=True, stopped=stopped))
    Console().summary(summary)
    said = " ".join(capsys.readouterr().out.split())
    assert "smallest difference that 4 such runs in 5 would tell" in said
    assert "ended after 2 blocks: the time is up; 1 ratio open" in said
    assert "x bound" in said and "mean TPOT" in said
    assert "noise floor: TPOT 0.40%" in said and "transformer-gqa" in said
    open_ = (summary.ratios["verdict"] == "inconclusive").sum()
    timed = summary.ratios["metric"].isin(compare.TIMES).sum()
    assert f"{open_} of {timed} ratios of times are inconclusive" in said


def test_the_json_document_has_the_audit_and_why_the_run_ended(make_run: MakeRun) -> None:
    stopped = {"blocks": 3, "alpha": 0.04, "why": "the time is up", "open": []}
    found = document.plain(document.of_summary(summarise(make_run(stopped=stopped)), []))
    assert (found["audit"], found["stopped"]) == (AUDIT, stopped)
    assert {"confidence", "resolution", "minutes_needed", "primary", "alone"} <= set(
        found["ratios"][0]
    )


def test_a_footer_speaks_of_failures_only_where_there_are_any(make_run: MakeRun) -> None:
    for name, failures, said in (
        ("none", None, ""),
        ("some", {("transformer", 8192, 1): "oom"}, "×: failed"),
        ("implied", {("transformer", 4096, 1): "oom", ("transformer", 8192, 1): "oom_implied"},
         "×: failed (faint: implied by a smaller one)"),
    ):  # fmt: skip
        drawn = figures(summarise(make_run(name, failures=failures)))
        for figure in ("tpot_context", "ratio_context"):
            _, sidecar = drawn[figure]()
            assert sidecar["note"].partition("×")[2] == said.partition("×")[2], (name, figure)
        assert "×" not in drawn["latency_batch"]()[1]["note"]


def test_failed_batches_are_listed_by_status() -> None:
    found = draw.listed([4, 64, 128, 256], ["timeout 1/5", "oom", "oom_implied", "oom_implied"])
    assert found == "× 4: timeout 1/5 · × 64, 128, 256: oom"


def test_the_names_of_points_hide_no_marker_no_bar_and_no_other_name() -> None:
    figure = Figure()
    axes = figure.add_subplot()
    axes.set(xlim=(0, 10), ylim=(0, 10))
    points = [(5.0, 5.0, "16", "black"), (5.3, 5.0, "16", "red"), (5.15, 4.8, "4", "blue")]
    draw.names(axes, points, [(4.5, 5.5, 5.0), (4.5, 5.5, 4.8)])
    figure.canvas.draw()
    texts = [text.get_window_extent() for text in axes.texts]
    assert [text.get_text() for text in axes.texts] == ["16", "16", "4"]
    for i, box in enumerate(texts):
        assert not any(box.overlaps(other) for other in texts[:i])
        places = (axes.transData.transform((x, y)) for x, y, _, _ in points)
        assert not any(box.contains(*place) for place in places)


def test_why_there_is_no_ratio_is_said_once_a_row(make_run: MakeRun) -> None:
    run = make_run(failures={(model, 8192, 1): "oom" for model in ("retnet", "transformer")})
    write_all(run)
    rows = (run.path / "tables" / "ratios.md").read_text()
    assert rows.count("both: oom") == 1


def test_latex_rows_have_as_many_cells_as_columns_and_nothing_unescaped(make_run: MakeRun) -> None:
    run = make_run(failures=FAILURES)
    write_all(run)
    for path in sorted((run.path / "tables").glob("*.tex")):
        text = path.read_text()
        assert text.isascii(), path
        columns = re.search(r"\\begin\{tabular\}\{@\{\}([lr]+)@\{\}\}", text)
        assert columns
        body = text[text.index("\\toprule") : text.index("\\bottomrule")]
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert rows
        for row in rows:
            if row.startswith(r"\multicolumn"):  # the heading of a group
                assert row.startswith(rf"\multicolumn{{{len(columns[1])}}}{{@{{}}l}}{{\textit{{")
                continue
            assert len(re.findall(r"(?<!\\)&", row)) == len(columns[1]) - 1
            assert not re.search(r"(?<!\\)[_%#$]", row)
    assert r"oom\_implied" in (run.path / "tables" / "cells.tex").read_text()


def test_latex_hides_its_special_characters() -> None:
    assert tables.escape("a_b & 5% [µs]") == r"a\_b \& 5\% {[}\ensuremath{\mu}s]"


def test_macros_have_names_of_letters_that_are_unique(make_run: MakeRun) -> None:
    run = make_run(failures=FAILURES)
    _, _ = citations.write(content_of(run), run.path)
    text = (run.path / "numbers.tex").read_text()
    names = re.findall(r"\\newcommand\{\\(.+?)\}\{", text)
    assert len(names) == len(set(names)) == sum(not x.startswith("%") for x in text.splitlines())
    assert all(name.isalpha() and name.isascii() for name in names)
    assert "RetbenchTpotRetnetContextEightKBatchOneInterval" in names
    assert "RetbenchRatioTpotTransformerGqaContextFiveHundredTwelveBatchOneVerdict" in names
    assert "RetbenchCrossoverTpotTransformer" in names


@pytest.mark.parametrize(
    ("number", "name"),
    [(1, "One"), (512, "FiveHundredTwelve"), (8192, "EightK"), (65536, "SixtyFourK"),
     (1000, "OneThousand"), (32, "ThirtyTwo"), (1024 * 1024, "OneKK")],
)  # fmt: skip
def test_numbers_in_letters(number: int, name: str) -> None:
    assert citations.words(number) == name


def test_numbers_json_has_value_interval_and_unit(make_run: MakeRun) -> None:
    summary = summarise(make_run(failures=FAILURES))
    numbers = citations.numbers(summary)
    found = numbers["cells"]["retnet"]["context=8192,batch=1"]["tpot_s"]
    assert found["value"] == summary.value("retnet", "tpot_s", 8192, 1)
    assert found["low"] < found["value"] < found["high"]
    assert found["unit"] == "s"
    failed = numbers["ratios"]["transformer"]["context=8192,batch=1"]["tpot_s"]
    assert (failed["value"], failed["note"]) == (None, "transformer: oom")
    ratio = numbers["ratios"]["transformer-gqa"]["context=8192,batch=1"]["tpot_s"]
    assert ratio["primary"] and ratio["confidence"] == pytest.approx(1 - 0.05 / 4)
    assert ratio["resolution"] > 0.01
    assert numbers["noise_floor"] == AUDIT["floor"] and numbers["audit"]["found"] == 20


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if tag in ("script", "link", "img", "iframe") or name == "src":
                self.loaded.append(tag)


def test_the_page_loads_nothing_and_its_identifiers_are_unique(make_run: MakeRun) -> None:
    run = make_run(failures=FAILURES)
    write_all(run)
    text = (run.path / "report.html").read_text()
    page = _Page()
    page.feed(text)
    assert page.loaded == []
    assert len(page.ids) == len(set(page.ids))
    assert text.count("<svg ") == len(FIGURES)
    assert "transformer oom at context 8k" in text
    assert "Example CPU" in text
    assert len(text) < 1_000_000


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0123456, "0.0123"), (9.996, "10.0"), (12345.0, "12300"), (0.0, "0"), (1.0, "1.00"),
     (float("nan"), units.DASH), (None, units.DASH), (9.9e-7, "9.90e-07"), (-2.5, "-2.50"),
     (2.22e25, "2.22e+25")],
)  # fmt: skip
def test_three_significant_digits(value: float | None, text: str) -> None:
    assert units.significant(value) == text


@pytest.mark.parametrize(
    ("unit", "values", "symbol"),
    [("s", [0.002, 0.03], "ms"), ("s", [2e-5], "µs"), ("bytes", [3 * 2**30], "GiB"),
     ("bytes", [2**21], "MiB"), ("other", [1.0], "other")],
)  # fmt: skip
def test_a_scale_suits_the_typical_value(unit: str, values: list[float], symbol: str) -> None:
    assert units.scale_for(unit, values).symbol == symbol
