"""Numbers as sentences: all that a reader needs, and every weakness in the sentence itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from retbench import report
from retbench.errors import UserError
from retbench.report.citing import Wanted, bibtex, sentences
from retbench.store import open_run

from .conftest import MakeRun, write_run
from .scaling_run import write_scaling

RESULTS = Path(__file__).parents[3] / "results"
SHORT = {"trials": 4, "steps": 4}
MADE = (
    "Measured on Example CPU, 2 threads, float32, eager, 10m, profile {}, {} blocks, with "
    "Retbench, version 0.1.0, commit abc123."
)
VERSION = {"versions": {"retbench": "0.1.0"}, "commit": {"hash": "abc123", "dirty": False},
           "processor": {"name": "Example CPU"}}  # fmt: skip


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> Any:
    run = write_run(tmp_path_factory.mktemp("runs") / "a", blocks=4, provenance=VERSION, **SHORT)
    return report.content_of(run)


def test_a_ratio_has_its_interval_its_verdict_and_how_it_was_measured(content: Any) -> None:
    said, equal = sentences(content, Wanted("TPOT", 8192, model="retnet"))[:2]
    assert said.startswith(
        "At a context of 8,192 tokens and a batch of 1, the TPOT of retnet is 0.399 ["
    )
    assert "] times that of transformer (98.75% interval over 4 blocks); retnet is faster. " in said
    assert said.endswith(MADE.format("quick", 4))
    assert "times that of transformer-gqa" in equal and "comparison is inconclusive" in equal


def test_a_value_has_its_unit_and_memory_its_range(content: Any) -> None:
    (time,) = sentences(content, Wanted("ttft_s", 512, model="transformer"))[1:]
    assert "the TTFT of transformer is 78.9 ms [" in time
    assert "(95% interval over 4 processes). " in time
    *_, memory = sentences(content, Wanted("state_bytes", 8192, 1, "transformer"), "markdown")
    assert memory.startswith("- At a context of 8,192 tokens")
    assert "the state of transformer is 32.0 MiB [32.0, 32.0] (range over 4 processes). " in memory
    latex = sentences(content, Wanted("state_bytes", 8192), "latex")[0]
    assert r"{[}0.0625, 0.0625] times" in latex


def test_a_variant_has_a_perplexity_of_its_own_beside_its_ratio() -> None:
    ablation = report.content_of(open_run(RESULTS / "cpu-tiny-ablation"))
    said = sentences(ablation, Wanted("perplexity", 256, model="retnet-no-gate"))
    assert any("the perplexity of retnet-no-gate is 9.59 [9.30, 9.89]" in line for line in said)
    (ratio,) = sentences(ablation, Wanted("perplexity_ratio", model="retnet-no-gate"))
    assert "of retnet-no-gate is 1.139 [1.098, 1.182] times that of retnet " in ratio


def test_without_a_wish_the_comparisons_that_were_named_before_the_run_are_cited(
    content: Any,
) -> None:
    said = sentences(content, Wanted())
    assert len(said) == 4 and all("context of 8,192 tokens" in line for line in said)


@pytest.mark.parametrize("model", ["retnet", "transformer"])
def test_a_named_comparison_that_failed_says_so_and_no_other_stands_in_for_it(
    make_run: MakeRun, model: str
) -> None:
    lost = report.content_of(make_run(failures={(model, 8192, 1): "timeout"}, **SHORT))
    said = sentences(lost, Wanted())
    assert len(said) == 4 and all("context of 8,192 tokens" in line for line in said)
    reason = f"TPOT of retnet is not compared with that of transformer ({model}: timeout). "
    assert reason in said[0] and reason in sentences(lost, Wanted("tpot_s", 8192, model=model))[0]
    assert sum("is not compared" in line for line in said) == (4 if model == "retnet" else 2)
    refused = rf"no such number \({model} timeout\); its metrics are tpot_s"
    with pytest.raises(UserError, match=refused):
        sentences(lost, Wanted("decode_tokens_per_s", 8192, model=model))


def test_where_no_named_comparison_was_measured_none_is_cited(make_run: MakeRun) -> None:
    run = make_run(primary=[["tpot_s", "context=16384,batch=1"]], **SHORT)
    with pytest.raises(UserError, match="has no comparison that was named before it; its metrics"):
        sentences(report.content_of(run), Wanted())


def test_a_number_says_of_how_many_blocks_or_seeds_its_sides_have_no_value(
    make_run: MakeRun, tmp_path: Path
) -> None:
    failures = {("transformer", 8192, 1): {0: "timeout", 2: "oom"}}
    timed = report.content_of(make_run(failures=failures, **SHORT))
    said = sentences(timed, Wanted("tpot_s", 8192, model="transformer"))
    assert len(said) == 2 and all("; transformer: timeout in 2 of 3 blocks" in s for s in said)
    assert not any("timeout" in s for s in sentences(timed, Wanted("tpot_s", 4096)))
    lost = {("retnet", "3m", seed): "timeout" for seed in (1, 2)}
    trained = report.content_of(write_scaling(tmp_path / "trained", seeds=5, failures=lost))
    said = sentences(trained, Wanted(model="retnet"))
    assert [("retnet: timeout in 2 of 5 seeds" in s) for s in said] == [
        "preset 3m" in s for s in said
    ]
    assert any("over 3 seeds" in s for s in said)


def test_what_weakens_a_number_stands_in_its_sentence(make_run: MakeRun) -> None:
    run = make_run(
        blocks=2, configuration={"profile": "smoke"}, state="interrupted",
        change=lambda row: 1.0 + 0.3 * row["block"] if row["metric"] == "tpot_s" else 1.0, **SHORT,
    )  # fmt: skip
    said = sentences(report.content_of(run), Wanted("tpot_s", 512, 1))
    assert len(said) == 5
    for line in said:
        assert "a SMOKE run: no claim can be made from it" in line
        assert "flagged noisy: their processes lie more than 10% apart" in line
        assert line.endswith("in a run that is not finished.")
        assert " is faster" not in line and " is slower" not in line


def test_a_number_that_the_run_lacks_is_refused(content: Any) -> None:
    with pytest.raises(UserError, match="no such number; its metrics are tpot_s, ttft_s"):
        sentences(content, Wanted("step_s"))


def test_the_entries_name_the_version_and_those_whom_the_project_cites(content: Any) -> None:
    entries = bibtex(content.meta)
    assert "version = {0.1.0}" in entries and "year = {2025}" in entries
    cited = (Path(__file__).parents[3] / "CITATION.cff").read_text()
    authors = [line.split(": ")[1].split(",")[0] for line in cited.splitlines() if "family" in line]
    assert authors and all(f"{author}, " in entries for author in authors)
