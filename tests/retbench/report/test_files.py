"""The files of a report: the same bytes each time, without torch, fast, with every failure in."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import subprocess
import sys
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from retbench.report import (
    content_of,
    export,
    figure_data,
    html,
    summarise,
    units,
    write_all,
    write_tables,
)
from retbench.store import Run

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


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run in which cells have failed, with all its files, made once."""
    found = write_run(tmp_path_factory.mktemp("files") / "run", failures=FAILURES)
    write_all(found)
    return found


WRITE = """
import sys
from retbench import report
from retbench.store import open_run
report.write_all(open_run(sys.argv[1]))
assert "torch" not in sys.modules
"""


def write_tables_and_page(run: Run) -> None:
    """All but the figures, which take the most time."""
    content = content_of(run)
    write_tables(run, content)
    html.write(content, [], run.path)


BARE = """
import sys
sys.modules.update(pydantic=None, annotated_types=None)
from retbench.store import open_run
print(len(open_run(sys.argv[1]).plan.points))
"""


def test_a_checkout_beside_other_packages_reads_runs_by_their_seals(run: Run) -> None:
    assert int(in_new_process(BARE, str(run.path))) == len(run.plan.points)


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_the_same_samples_give_the_same_bytes_in_any_process_without_torch(
    run: Run, tmp_path: Path
) -> None:
    matplotlibrc = tmp_path / "matplotlibrc"  # a user's own settings must not matter
    matplotlibrc.write_text("lines.linewidth: 2\nsavefig.dpi: 200\n")
    path = write_run(tmp_path / "run", failures=FAILURES).path
    in_new_process(WRITE, str(path), PYTHONHASHSEED="1", MATPLOTLIBRC=str(matplotlibrc))
    found = digests(path)
    assert found == digests(run.path)
    assert {f"plots/{name}.{suffix}" for name in FIGURES for suffix in ("png", "svg", "json")} <= (
        found.keys()
    )
    assert {"report.html", "numbers.tex", "numbers.json", "tables/cells.tex"} <= found.keys()


def test_no_file_carries_a_date_or_a_version_of_the_software(run: Run) -> None:
    for path in (run.path / "plots").iterdir():
        content = path.read_bytes()
        assert b"dc:date" not in content
        assert b"Matplotlib v" not in content
        assert b"matplotlib.org" not in content


def test_a_single_process_draws_without_intervals(make_run: MakeRun) -> None:
    run = make_run(blocks=1, configuration={"profile": "smoke"})
    write_tables_and_page(run)
    for file in ("tables/cells.md", "tables/ratios.tex", "numbers.tex", "report.html"):
        assert "SMOKE" in (run.path / file).read_text(), file


def test_the_axis_carries_real_lengths(run: Run) -> None:
    svg = (run.path / "plots" / "tpot_context.svg").read_text()
    assert all(f">{label}</text>" in svg for label in ("512", "1k", "2k", "4k", "8k"))
    assert ">TPOT (ms)</text>" in svg


def test_the_csv_has_every_digit_and_the_stamp(run: Run) -> None:
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


def test_markdown_states_how_to_read_a_ratio_and_defines_the_metrics(run: Run) -> None:
    ratios = (run.path / "tables" / "ratios.md").read_text()
    assert "below 1 the subject is faster" in ratios
    assert (
        "noise floor: TPOT 0.4%, Mean TPOT 0.4%, TTFT 0.8% (audit of 2025-01-01: 20 of 20 "
        "planted differences of 5% found); margin of verdicts: 1%"
    ) in ratios
    assert "| transformer | 8k | 1 | 0 | – | transformer: oom |" in ratios
    assert "**TPOT**: time per output token" in (run.path / "tables" / "README.md").read_text()
    cells = (run.path / "tables" / "cells.md").read_text()
    assert "| transformer | 8k | 1 | oom |" in cells


def test_percentiles_of_tpot_stand_on_the_screen_and_not_in_print(make_run: MakeRun) -> None:
    run = make_run(steps=16)  # 48 of a cell: enough for p90, not for p99
    write_tables_and_page(run)
    lines = (run.path / "tables" / "cells.md").read_text().splitlines()
    header, _, first = [line.split(" | ") for line in lines if line.startswith("|")][:3]
    at = dict(zip(header, first, strict=True))
    assert float(at["TPOT p90 (ms)"]) > 4
    assert "TPOT p99 (ms)" not in at  # there is none
    assert any("describe the time per step of slices" in line for line in lines)
    assert "p90" in (run.path / "report.html").read_text()
    assert "p90" not in (run.path / "tables" / "cells.tex").read_text()


def test_under_a_table_of_ratios_stands_what_it_could_have_told(make_run: MakeRun) -> None:
    stopped = {"blocks": 3, "alpha": 0.04, "why": "the time is up", "open": ["one", "two"]}
    apart = lambda model, context, block: context == 512  # noqa: E731
    run = make_run(stopped=stopped, alone=apart, generation=True)
    write_tables(run)
    timed = summarise(run).ratios.query("metric == 'ttft_s'")["resolution"]
    notes = (run.path / "tables" / "ratios.md").read_text()
    median, worst = (units.rough(x) for x in (timed.median(), timed.max()))
    assert f"TTFT {median} (worst row {worst})" in notes
    assert "Mean TPOT" in notes.partition("smallest difference")[2].partition("\n")[0]
    assert "[low, high]: 96% interval over blocks, of a run that might have ended" in notes
    assert "ended after 3 blocks: the time is up; 2 ratios open" in notes
    assert (
        "primary, named before the run: TPOT at context=8192,batch=1; TTFT at "
        "context=8192,batch=1, hold together (each 99.0%); other rows are exploratory"
    ) in notes
    assert "| transformer | 512 | 1 |" in notes and "slower, alone |" in notes
    assert "alone: they were not measured in turns" in notes
    assert "Holm" not in notes


def test_in_print_a_verdict_is_its_word(make_run: MakeRun) -> None:
    run = make_run(blocks=2)
    write_tables(run)
    on_screen, printed = ((run.path / "tables" / f"ratios.{s}").read_text() for s in ("md", "tex"))
    rows = [line for line in on_screen.splitlines() if line.startswith("|")]
    assert any("inconclusive (+" in line for line in rows)
    body = printed[printed.index("\\midrule") :]
    assert "inconclusive" in body and "(+" not in body


def test_the_mean_over_a_generation_stands_beside_the_step(make_run: MakeRun) -> None:
    run = make_run(generation=True)
    content = content_of(run)
    write_tables(run, content)
    shown = {
        figure.name: {row["metric"] for row in figure_data.sidecar(figure, [], [])["shown"]}
        for figure in content.figures()
    }
    assert shown["tpot_context"] == {"tpot_s", "mean_tpot_s"}
    assert shown["ratio_context"] == {"tpot_s", "mean_tpot_s", "ttft_s"}
    assert "Mean TPOT (ms)" in (run.path / "tables" / "cells.md").read_text()
    assert "{mean_tpot_s/retnet/context=8192,batch=1}" in (run.path / "numbers.tex").read_text()


def test_the_answer_comes_first_and_what_is_open_with_what_settles_it(make_run: MakeRun) -> None:
    content = content_of(make_run(blocks=5, block_s={"0": 60.0}))
    assert re.fullmatch(
        r"retnet against transformer at 8k tokens: TPOT [\d.]+x faster \[[\d.]+, [\d.]+\]; "
        r"TTFT [\d.]+x faster \[[\d.]+, [\d.]+\]; State [\d.]+x smaller",
        content.findings[0],
    )
    assert any(line.startswith("TPOT against transformer: ") for line in content.findings)
    overview = export.overview(content)
    assert overview.index(content.findings[0]) < overview.index("## Tables")


def test_what_is_open_comes_with_what_settles_it(make_run: MakeRun) -> None:
    apart = lambda row: (1.0, 1.03, 0.98)[row["block"]] if row["model"] == "retnet" else 1.0  # noqa: E731
    content = content_of(make_run(change=apart, block_s={"0": 60.0, "1": 60.0, "2": 60.0}))
    assert re.fullmatch(
        r"open: \d+ of \d+ ratios of times; to settle (it|all|\d+ of them) repeat the run with "
        r"--minutes \d+ --precision [\d.]+%",
        content.unsettled,
    )
    precise = {"precision": 1e-9}
    run = make_run("precise", change=apart, block_s={"0": 60.0}, configuration=precise)
    assert re.search(r"--minutes \d+$", content_of(run).unsettled)


def test_a_smoke_run_answers_nothing(make_run: MakeRun) -> None:
    content = content_of(make_run(blocks=1, configuration={"profile": "smoke"}))
    assert content.findings == () and content.unsettled == ""
    assert "crossover" not in {table.name for table in content.tables}


def test_the_json_document_has_the_audit_and_why_the_run_ended(make_run: MakeRun) -> None:
    stopped = {"blocks": 3, "alpha": 0.04, "why": "the time is up", "open": []}
    found = export.document(content_of(make_run(stopped=stopped)), [])
    assert (found["audit"], found["stopped"]) == (AUDIT, stopped)
    assert {"confidence", "resolution", "minutes_needed", "primary", "alone"} <= set(
        found["tables"]["ratios"][0]
    )


def test_why_there_is_no_ratio_is_said_once_a_row(make_run: MakeRun) -> None:
    run = make_run(failures={(model, 8192, 1): "oom" for model in ("retnet", "transformer")})
    write_tables(run)
    rows = (run.path / "tables" / "ratios.md").read_text()
    assert rows.count("both: oom") == 1


def test_latex_rows_have_as_many_cells_as_columns_and_nothing_unescaped(run: Run) -> None:
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
    assert "oom implied" in (run.path / "tables" / "cells.tex").read_text()


def test_latex_hides_its_special_characters() -> None:
    assert export.escape("a_b & 5% [µs]") == r"a\_b \& 5\% {[}\ensuremath{\mu}s]"


def test_what_a_run_says_ends_no_comment_quote_or_cell(run: Run, make_run: MakeRun) -> None:
    said = "fused\n\n\\input{x} | # head"
    other = make_run(
        implementations={"retnet": said},
        provenance=run.meta["provenance"] | {"environment": {"MKL_NOTE": said}},
    )
    write_tables(other)
    texts = {file.name: file.read_text() for file in other.path.rglob("*.[mt]*")}
    assert {"numbers.tex", "README.md", "cells.md", "setup.tex"} <= texts.keys()
    for name, text in texts.items():
        assert not re.search(r"^\\(input|textbackslash)", text, re.MULTILINE), name


def test_a_number_is_cited_by_the_ids_of_its_samples(run: Run) -> None:
    summary = summarise(run)
    cited = export.citations(content_of(run).tables)
    value = 1e3 * (summary.value("retnet", "tpot_s", 8192, 1) or 0)
    key = "tpot_s/retnet/context=8192,batch=1"
    assert cited[key] == f"{units.significant(value)} ms"
    assert re.fullmatch(r"\[[\d.]+, [\d.]+\] ms", cited[f"{key}/interval"])
    assert cited["tpot_s/retnet/transformer-gqa/context=512,batch=1/verdict"] == "slower"
    assert int(cited["tpot_s/retnet/transformer"])  # the context where they cross
    assert "tpot_s/transformer/context=8192,batch=1" not in cited


def test_numbers_json_has_the_rows_of_every_table(run: Run) -> None:
    summary, content = summarise(run), content_of(run)
    numbers = json.loads((run.path / "numbers.json").read_text())
    assert {name: len(rows) for name, rows in numbers.items()} == {
        table.name: len(table.frame) for table in content.tables
    }
    here = {"model": "retnet", "metric": "tpot_s", "point": "context=8192,batch=1", "unit": "s"}
    (cell,) = (row for row in numbers["cells"] if here.items() <= row.items())
    assert cell["value"] == summary.value("retnet", "tpot_s", 8192, 1)
    failed = {"baseline": "transformer", "metric": "tpot_s", "point": "context=8192,batch=1"}
    (ratio,) = (row for row in numbers["ratios"] if failed.items() <= row.items())
    assert (ratio["value"], ratio["note"]) == (None, "transformer: oom")


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.loaded: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name == "href":
                self.links.append(value or "")
            if tag in ("script", "link", "img", "iframe") or name == "src":
                self.loaded.append(tag)


def test_the_page_loads_nothing_and_its_identifiers_are_unique(run: Run) -> None:
    text = (run.path / "report.html").read_text()
    page = _Page()
    page.feed(text)
    assert page.loaded == []
    assert len(page.ids) == len(set(page.ids))
    within = {link[1:] for link in page.links if link.startswith("#")}
    assert {"ratios", "figures", "cells", "provenance"} <= within <= set(page.ids)
    assert all((run.path / link).exists() for link in page.links if not link.startswith("#"))
    assert text.count("<svg ") == len(FIGURES)
    sidecars = (run.path / "plots" / f"{name}.json" for name in FIGURES)
    marks = [mark for path in sidecars for mark in json.loads(path.read_text())["marks"]]
    assert text.count('<g class="mark" tabindex="0"') == len(marks) > 0
    assert all(f'aria-label="{escape(mark["text"])}"' in text for mark in marks)
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


def test_runs_have_one_name_each_in_latex_however_they_are_pointed_at(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, content = set(), content_of(run)
    for name in ("plain", "lauf-ä", "lauf-ö", os.fsdecode(b"lauf-\xe9")):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        for folder in (tmp_path / name, Path(".")):
            text = export.write_numbers(content, folder)[0].read_text()
            found.add(re.findall(r"def.retbenchrun{(.*)}", text)[-1])
    assert len(found) == 4 and "plain" in found
