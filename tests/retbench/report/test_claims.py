"""The ledger of the paper's claims: what is evidence, and which verdict follows from it."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from models.layers import rms_norm
from models.registry import config_for
from retbench import suites
from retbench.config import plugins
from retbench.errors import UserError
from retbench.report.claims import page
from retbench.report.claims.entries import Claim, Expectation, Number, claims
from retbench.report.claims.evidence import COMPUTED, Evidence, Source, _may_turn, evidence
from retbench.report.claims.ledger import (
    LESS,
    PAPER_ONLY,
    VERDICTS,
    Entry,
    _rank,
    evidence_in,
    ledger,
)
from retbench.report.quality import scaling
from retbench.store import Run

from .conftest import MakeRun
from .every_suite import batches, rewritten
from .scaling_run import write_scaling

BY_ID = {claim.id: claim for claim in claims()}
ABLATED = {f"retnet-{part}" for part in config_for("retnet", "tiny").ablations()}


def of(expect: str, value: float, low: float, high: float) -> str:
    return Expectation.of(expect).outcome(Number(value, low, high))


def entry(claim: Claim, bounds: Any = None, **evidence: Evidence) -> Entry:
    return Entry(claim, evidence, bounds or {})  # type: ignore[arg-type]


def found(outcome: str, value: float = 0.5, *, exact: bool = False) -> Evidence:
    number = Number(value, 0.9 * value, 1.1 * value)
    return Evidence("run", "10m", "transformer", "", number, outcome, exact)  # type: ignore[arg-type]


def test_every_claim_can_be_judged_or_says_why_not() -> None:
    assert len(BY_ID) == len(claims()) >= 40
    for claim in claims():
        assert claim.says and claim.place and claim.figure, claim.id
        assert bool(claim.settle) != bool(claim.why_not), claim.id
        assert claim.test or claim.bound or claim.why_not, claim.id
        if claim.test:
            assert claim.test.suite in (*suites.names(), COMPUTED)
            assert bool(claim.test.baseline) == bool(claim.test.paper), claim.id
            if claim.test.suite not in ("kernels", "training"):
                known = {*plugins.families(), *ABLATED}
                named = {*claim.test.paper, *claim.test.strongest}
                named |= {claim.test.where.get("model", "retnet")}
                assert named <= known, claim.id


@pytest.mark.parametrize(
    ("expect", "number", "outcome"),
    [
        ("below 1", (0.8, 0.7, 0.9), "holds"),
        ("below 1", (0.9, 0.7, 1.1), "open"),
        ("below 1", (1.2, 1.1, 1.3), "fails"),
        ("below 1", (1.0, 1.0, 1.0), "fails"),
        ("above 1", (1.2, 1.1, 1.3), "holds"),
        ("above 1", (0.9, 0.8, 0.99), "fails"),
        ("at 0", (0.01, -0.05, 0.07), "holds"),
        ("at 0", (0.01, -0.5, 0.5), "open"),
        ("at 0", (0.5, 0.3, 0.7), "fails"),
        ("below 1e-4", (1e-6, 1e-6, 1e-6), "holds"),
    ],
)
def test_a_claim_holds_only_where_the_whole_interval_is(
    expect: str, number: tuple[float, float, float], outcome: str
) -> None:
    assert of(expect, *number) == outcome


def test_a_wrong_expectation_is_refused() -> None:
    with pytest.raises(ValueError, match="'under 1' is no expectation"):
        Expectation.of("under 1")


def test_small_scale_is_at_most_consistent_and_the_strongest_baseline_counts() -> None:
    claim = BY_ID["inf8"]
    assert entry(claim).verdict == "not tested"
    assert entry(claim, paper=found("holds")).verdict == "consistent at small scale"
    assert entry(claim, paper=found("fails")).verdict == "inconsistent at small scale"
    assert entry(claim, paper=found("open")).verdict == "open"
    only = entry(claim, paper=found("holds"), strongest=found("fails"))
    assert only.verdict == PAPER_ONLY
    doubtful = entry(claim, paper=found("holds"), strongest=found("open"))
    assert doubtful.verdict == "consistent at small scale"


def test_at_its_size_a_claim_is_reproduced_where_its_figure_is_reached() -> None:
    claim = BY_ID["inf8"]
    assert claim.ratio == 0.0642
    assert entry(claim, paper=found("holds", 0.06, exact=True)).verdict == "reproduced"
    assert entry(claim, paper=found("holds", 0.5, exact=True)).verdict == LESS
    elsewhere = entry(claim, paper=found("holds", 0.06, exact=True), strongest=found("fails"))
    assert elsewhere.verdict == "reproduced"  # the strongest was measured at another size
    assert entry(claim, paper=found("fails", 1.5, exact=True)).verdict == "contradicted"


def test_bytes_settle_memory_and_time_at_the_bound_settles_nothing() -> None:
    judged = {each.claim.id: each for each in ledger(claims(), [])}
    assert judged["inf8"].bounds["paper"].value == pytest.approx(0.369, abs=5e-4)
    assert judged["inf8"].bounds["strongest"].value == pytest.approx(0.804, abs=5e-4)
    assert judged["inf8"].verdict == "not tested"
    assert judged["inf1"].bounds["paper"].value == pytest.approx(
        (13.297 + 1.074) / (13.297 + 34.360), abs=1e-3
    )
    assert judged["inf1"].verdict == judged["eq3"].verdict == "reproduced"
    state = judged["inf3"].bounds["paper"]  # 1% of the weights at batch 1, 8% at batch 8
    assert (state.low, state.high) == pytest.approx((1.01, 1.08), abs=2e-3)
    assert judged["inf3"].verdict == "open"
    assert {each.verdict for each in judged.values()} <= set(VERDICTS)


def test_a_run_is_evidence_at_its_longest_context(make_run: MakeRun) -> None:
    run: Run = make_run(trials=4, steps=4, generation=True)
    judged = {each.claim.id: each for each in ledger(claims(), [run])}
    paper, strongest = (judged["inf8"].evidence[role] for role in ("paper", "strongest"))
    assert (paper.baseline, paper.where) == ("transformer", "8k tokens, batch 1")
    assert paper.number.value == pytest.approx(4 / 10, rel=0.02)
    assert (paper.outcome, paper.exact) == ("holds", False)
    assert (strongest.baseline, strongest.outcome) == ("transformer-gqa", "open")
    trend = judged["inf6"].evidence["paper"]
    assert trend.where == "8k tokens, batch 1 over 512 tokens, batch 1"
    assert trend.number.value == pytest.approx((4 / 6) / (4 / 2.25), rel=0.03)
    at_1k = judged["inf13"].evidence["paper"]
    assert (at_1k.outcome, judged["inf13"].verdict) == ("fails", "inconsistent at small scale")
    assert judged["eq1"].evidence["paper"].number.value == pytest.approx(1e-6, rel=0.05)
    assert judged["trn1"].evidence == {}


def test_a_trend_at_another_batch_than_the_papers_is_not_exact(make_run: MakeRun) -> None:
    run: Run = make_run(trials=4, steps=4, generation=True)
    run.meta["configuration"] |= {"preset": "6.7b", "device": "cuda", "dtype": "bfloat16"}
    found = ledger([BY_ID[name] for name in ("inf6", "inf7", "inf11", "inf12-length")], [run])
    assert len(found) == 4
    assert not any(evidence.exact for each in found for evidence in each.evidence.values())
    at = {"inf6": {"batch_size": 1}, "inf11": {"held": 1}}  # the run's
    for name, own in at.items():
        claim = BY_ID[name]
        assert claim.test is not None
        paper = claim.test.paper and ("transformer",)
        (here,) = ledger([replace(claim, test=replace(claim.test, at=own, paper=paper))], [run])
        assert here.evidence["paper"].exact


def test_at_the_papers_size_its_own_context_is_taken(make_run: MakeRun) -> None:
    run: Run = make_run(trials=4, steps=4)
    run.meta["configuration"] |= {"preset": "6.7b", "device": "cuda", "dtype": "bfloat16"}
    claim = BY_ID["inf8"]
    assert claim.test is not None
    (elsewhere,) = ledger([claim], [run])  # batch 8 is not in the run
    assert not elsewhere.evidence["paper"].exact
    at = {"seq_len": 4096, "batch_size": 1}
    own_kind = replace(claim, test=replace(claim.test, at=at, paper=("transformer",)))
    (exact,) = ledger([own_kind], [run])
    assert exact.evidence["paper"].exact
    assert exact.evidence["paper"].where == "4k tokens, batch 1"
    another = replace(claim, test=replace(claim.test, at=at))  # whose cache is not copied
    assert not ledger([another], [run])[0].evidence["paper"].exact
    run.meta["configuration"] |= {"overrides": {"n_layers": 2}}
    assert not ledger([own_kind], [run])[0].evidence["paper"].exact


def test_only_what_is_over_a_baseline_is_retnets(make_run: MakeRun) -> None:
    run: Run = make_run(trials=4, steps=4)
    for contender in run.meta["plan"]["contenders"]:
        names = {"retnet": "transformer", "transformer": "retnet"}
        contender["label"] = names.get(contender["label"], contender["label"])
    (judged,) = ledger([BY_ID["inf8"]], [run])
    assert judged.evidence == {}


def test_the_largest_models_are_looked_at_first_and_then_the_newest(make_run: MakeRun) -> None:
    runs = []
    for name, preset, started in (("a", "tiny", "9"), ("b", "10m", "1"), ("c", "10m", "2")):
        run: Run = make_run(name, trials=4, steps=4)
        run.meta["configuration"] |= {"preset": preset}
        run.meta["started"] = started
        runs.append(run)
    assert [run.path.name for run in sorted(runs, key=_rank, reverse=True)] == ["c", "b", "a"]


def test_the_scalings_of_section_2_2_are_taken_back_by_a_norm_without_an_epsilon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (judged,) = ledger([BY_ID["eq2"]], [])
    assert judged.verdict == "reproduced" and judged.evidence["paper"].number.value < 1e-12
    monkeypatch.setattr("models.layers.rms_norm", lambda x, eps: rms_norm(x, 1e-6))
    (judged,) = ledger([BY_ID["eq2"]], [])
    assert judged.verdict == "contradicted"


def test_minutes_on_a_gpu_are_the_limits_of_its_script() -> None:
    script = (Path(__file__).parents[3] / "results" / "gpu.sh").read_text()
    limits = {
        name: int(s) for name, s in re.findall(r"^measure (\S+) (\d+) ", script, re.MULTILINE)
    }
    on_gpu = {claim.settle for claim in claims() if claim.settle and claim.settle.minutes}
    assert len(on_gpu) >= 5
    for command in on_gpu:
        steps = command.command.split()[3:]
        assert abs(60 * command.minutes - sum(limits[step] for step in steps)) <= 40, command


def test_what_can_be_no_evidence_is_named(make_run: MakeRun, tmp_path: Path) -> None:
    sound = make_run("sound", trials=4, steps=4).path
    smoke = make_run("smoke", configuration={"profile": "smoke"}, steps=4).path
    broken = Path(shutil.copytree(sound, tmp_path / "broken"))
    (broken / "samples.jsonl").write_text("no\n")
    runs, skipped = evidence_in([smoke, sound, broken])
    assert [run.path for run in runs] == [sound]
    assert skipped["smoke"] == "a SMOKE run" and str(broken) in skipped["broken"]
    (smoke / "tables").mkdir()
    assert evidence_in([smoke / "tables" / ".."])[1] == evidence_in([smoke])[1]
    with pytest.raises(UserError, match="does not exist"):
        evidence_in([tmp_path / "nothing"])


def test_the_ledger_is_written_with_what_would_settle_the_rest(tmp_path: Path) -> None:
    found = ledger(claims(), [])
    said = page.said(found, {"old": "not finished", "bad": "q\udce9 is damaged"})
    files = page.write(found, said, tmp_path / "new")
    assert [file.name for file in files] == [
        "CLAIMS.md", "CLAIMS.json", "CLAIMS.png", "CLAIMS.svg",
    ]  # fmt: skip
    text = files[0].read_text()
    assert said[0] in text and "no evidence: old, not finished" in text
    assert r"no evidence: bad, q\udce9 is damaged" in text
    assert all(f"| {claim.id} |" in text for claim in claims())
    kept = json.loads(files[1].read_text())
    assert [each["id"] for each in kept["claims"]] == [claim.id for claim in claims()]
    plan = page.plan(found, lambda command: 7.2)
    settles = dict(zip(plan[::2], plan[1::2], strict=True))[
        "bash results/gpu.sh results decode-6.7b"
    ]
    assert settles.endswith("about 9 minutes on one H100") and "inf8" in settles
    assert any(line.endswith("; about 7 minutes here") for line in plan)
    settled = " ".join(plan)
    assert all(
        each.claim.id in settled
        for each in found if each.verdict == "not tested" and each.claim.settle
    )  # fmt: skip
    with pytest.raises(UserError, match="cannot write"):
        page.write(found, said, files[0] / "below")


@pytest.mark.parametrize(
    ("outcome", "edge", "turns"),
    [
        ("holds", "transformer", True),  # whose loss may be lower than it was found to be
        ("holds", "retnet", False),
        ("fails", "retnet", True),
        ("fails", "transformer", False),
    ],
)
def test_a_rate_at_the_end_of_its_grid_leaves_open_what_a_better_one_could_turn(
    outcome: Any, edge: str, turns: bool
) -> None:
    source = SimpleNamespace(is_at_edge=lambda model: model == edge)
    test = BY_ID["qua3"].test
    assert test is not None and test.expect.relation == "below"
    assert _may_turn(outcome, test, source, "transformer") is turns  # type: ignore[arg-type]


def test_a_ratio_of_fused_code_to_unfused_is_no_evidence_unless_asked_for(
    make_run: MakeRun,
) -> None:
    source = Source(make_run(trials=4, steps=4))
    claim = BY_ID["inf9"]
    assert claim.test is not None
    baseline, table = "transformer", claim.test.table
    ratios = source.frame(table).copy()
    apart = (ratios["metric"] == claim.test.where["metric"]) & (ratios["baseline"] == baseline)
    assert apart.any()
    said = {}
    for verdict, unfused in (("faster", ""), ("", baseline), ("faster", baseline)):
        ratios.loc[apart, ["value", "low", "high", "verdict", "unfused"]] = [
            0.1, 0.09, 0.11, verdict, unfused,
        ]  # fmt: skip
        source._tables[table] = ratios
        said[verdict, unfused] = evidence(claim, [source])["paper"].outcome
    assert said == {
        ("faster", ""): "holds", ("", baseline): "open", ("faster", baseline): "holds",
    }  # fmt: skip


RATES = {"learning_rates": (0.001, 0.003, 0.009)}


def test_a_grid_ends_where_no_rate_beyond_has_told_anything(
    make_run: MakeRun, tmp_path: Path
) -> None:
    assert not Source(make_run(trials=4, steps=4)).is_at_edge("retnet")  # nothing was tuned
    run = write_scaling(tmp_path / "inside", configuration=RATES)
    source, cells = Source(run), batches(run)
    assert not source.is_at_edge("retnet")
    assert _outcome(source) != "open"
    for cause, is_edge in (("took longer than 600 s", True), ("the training diverged: x", False)):
        failed = {"status": "error", "cause": cause, "value": None}
        lost = [
            [cell[-1] | failed]
            if "lr=0.009" in cell[-1]["point"] and cell[-1]["model"] == "retnet" else cell
            for cell in cells
        ]  # fmt: skip
        run = rewritten(run, tmp_path / str(is_edge), lost)
        found = scaling.content(run)
        said = "\n".join(found.warnings)
        assert ("retnet (1m, 3m, tiny) at its largest, 0.003" in said) is is_edge
        assert ("retnet error in tuning at 0.009: took longer than 600 s" in said) is is_edge
        (sized,) = (table for table in found.tables if table.name == "scaling")
        assert ("0.003 at the edge" in str(sized.cells)) is is_edge
        assert Source(run).is_at_edge("retnet") is is_edge
        assert (_outcome(Source(run)) == "open") is is_edge


def _outcome(source: Source) -> str:
    return evidence(BY_ID["qua2"], [source])["paper"].outcome
