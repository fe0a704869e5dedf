"""The suites that train: what they plan, how a rate is chosen, what a run of them gives."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import retbench
from retbench import report, suites
from retbench.config.plan import Contender, Plan, Point
from retbench.config.run import RunConfig
from retbench.data.dataset import SEVERAL, cache_folder, load_dataset
from retbench.engine.forecast import forecast
from retbench.engine.resolve import resolve
from retbench.errors import UserError
from retbench.store import Run, open_run, read_meta, write_meta
from retbench.suites.base import CellFailure
from retbench.suites.perplexity import test_documents as text_documents
from retbench.suites.quality import best_rate, final_point, tuning_points
from retbench.workers.worker import _text_of

from ...workers_here import workers_here
from .small_trainings import given, small

TEXT = ("perplexity", "scaling", "ablation")


def plan(config: RunConfig) -> Plan:
    return suites.get(config.suite).plan(config)


@pytest.mark.parametrize("suite", [*TEXT, "recall"])
def test_each_rate_is_tried_once_and_the_final_trainings_in_every_block(suite: str) -> None:
    cells = list(plan(small(suite, profile="quick")).cells())
    stages = [(block, point.setting("stage")) for block, _, point in cells]
    assert {block for block, stage in stages if stage == "tune"} == {0}
    assert {block for block, stage in stages if stage == "final"} == {0, 1, 2}
    first = [point.setting("stage") for block, c, point in cells if (block, c) == (0, cells[0][1])]
    assert first.index("final") == 2  # its rate is chosen before


def test_points_are_named_for_what_they_try() -> None:
    ids = [point.id for point in plan(small("scaling", presets="tiny,1m")).points]
    assert ids[0] == "preset=tiny,stage=tune,lr=0.001,context=32,batch=2"
    assert ids[2] == "preset=tiny,stage=final,context=32,batch=2"
    assert len(set(ids)) == 6


def test_a_point_survives_json() -> None:
    for point in plan(small("scaling")).points:
        assert Point.from_json(json.loads(json.dumps(point.to_json()))) == point


def test_an_ablation_compares_a_model_with_its_variants() -> None:
    labels = [contender.label for contender in plan(small("ablation")).contenders]
    assert labels[0] == "retnet"
    assert "retnet-no-gate" in labels and len(labels) == 6
    with pytest.raises(UserError, match="transformer names no parts that could be left out"):
        small("ablation", models="transformer")


def test_a_task_that_is_learned_sooner_is_trained_for_a_share_of_the_steps() -> None:
    config = small("recall", steps=40, tasks="mqar,copy")
    suite, contender = suites.get("recall"), Contender("retnet", "retnet")
    tuned = [point for point in plan(config).points if point.setting("stage") == "tune"]
    briefs = {
        str(point.setting("task")): suite.brief(config, contender, point, lambda *_: None)
        for point in tuned
    }
    assert {task: brief["steps"] for task, brief in briefs.items()} == {"mqar": 40, "copy": 20}


def scalars(**losses: float) -> Any:
    config = small("perplexity")
    tried = {f"lr={point.setting('lr'):g}": point.id for point in tuning_points(config, ())}
    known = {tried[f"lr={rate}"]: loss for rate, loss in losses.items()}

    def scalar(point: str, metric: str) -> float | None:
        return known.get(point) if metric == "final_dev_loss" else None

    return config, scalar


def test_the_rate_with_the_lowest_dev_loss_is_chosen() -> None:
    config, scalar = scalars(**{"0.001": 2.0, "0.004": 1.9})
    assert best_rate(config, final_point(config, ()), scalar) == 0.004
    config, scalar = scalars(**{"0.001": 2.0})  # the other diverged
    assert best_rate(config, final_point(config, ()), scalar) == 0.001


def test_without_any_rate_there_is_no_final_training() -> None:
    config, scalar = scalars()
    suite, point = suites.get("perplexity"), final_point(config, ())
    with pytest.raises(CellFailure, match="every one that was tried failed"):
        suite.brief(config, Contender("retnet", "retnet"), point, scalar)


@pytest.mark.parametrize(
    ("suite", "changes", "said"),
    [
        ("perplexity", {"context": "32,64"}, "context: the suite perplexity trains at one"),
        ("perplexity", {"batch": "2,4"}, "batch: the suite perplexity trains at one"),
        ("perplexity", {"train": ["wieght_decay=0"]}, "unknown setting 'wieght_decay'; did you m"),
        ("perplexity", {"train": ["weight_decay=-1"]}, "weight_decay: must not be negative"),
        ("perplexity", {"train": ["steps=3"]}, "unknown setting 'steps'"),
        ("perplexity", {"dtype": "float16"}, "dtype: must be float32 or bfloat16 in training"),
        ("perplexity", {"tokenizer": "words"}, "unknown tokenizer 'words'"),
        ("perplexity", {"overrides": {"vocab_size": 7}}, "vocab_size follows from the tokenizer"),
        ("perplexity", {"context": 200_000}, "exceeds the 131072 tokens that retnet can hold"),
        ("perplexity", {"lr": "fast"}, "lr: 'fast' is no list of numbers"),
        ("perplexity", {"lr": "2e-3,1e-3,0.0010000001"}, "0.001 and 0.0010000001 are the same to"),
        ("recall", {"tasks": "mqr"}, "unknown task 'mqr'; did you mean 'mqar'"),
        ("recall", {"context": 4}, "4 tokens are too few for the task mqar"),
        ("recall", {"data": "x.txt"}, "data: the suite recall has no use for it"),
        ("scaling", {"preset": "tiny"}, "preset: the suite scaling takes several; use --presets"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_starts(
    suite: str, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        small(suite, **changes)


@pytest.mark.parametrize("suite", [*TEXT, "recall"])
def test_the_defaults_of_a_cpu_end_within_ten_minutes_by_forecast(suite: str) -> None:
    config = resolve(suite, device="cpu")
    ceilings = {
        "bandwidth": [
            {"working_set_bytes": 2**30, "read_bytes_per_s": 1e10, "copy_bytes_per_s": 1e10}
        ],
        "matmul_flop_per_s": {"float32": 2.5e11},
    }
    assert forecast(config, plan(config), ceilings).total_s < 600


def short_documents(folder: Path, count: int, words: int) -> str:
    """A file of documents of ``words`` words of four bytes each."""
    file = folder / "docs.jsonl"
    texts = (f"{n:03d} " * words for n in range(count))
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(file)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("RETBENCH_CACHE", str(tmp_path / "cache"))
    cache_folder.cache_clear()
    yield
    cache_folder.cache_clear()


@pytest.mark.parametrize(("words", "longest"), [(5, 4), (10, 8), (80, 8)])
def test_short_documents_are_tested_on_together(
    tmp_path: Path, own_cache: None, words: int, longest: int
) -> None:
    """300 documents, of which the test split has about 15; the shorter they are the less of it."""
    data = short_documents(tmp_path, 300, words)
    config = small("perplexity", data=data, tokenizer="byte", context=8)
    suites.get("perplexity").data(config)
    documents = text_documents(config)
    assert len(documents.parts) >= SEVERAL
    assert min(len(tokens) for tokens, _ in documents.parts) > longest * 8


@pytest.mark.parametrize("suite", TEXT)
def test_a_text_too_short_to_test_on_is_refused_before_anything_is_trained(
    tmp_path: Path, own_cache: None, suite: str
) -> None:
    (tmp_path / "short.txt").write_text("to be or not to be\n" * 100)
    config = small(suite, data=str(tmp_path / "short.txt"), tokenizer="byte", context=64)
    with pytest.raises(UserError, match="too few for two documents of 65 to test on; give more"):
        suites.get(suite).data(config)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """A small run of each suite, made once."""
    folder = tmp_path_factory.mktemp("runs")
    text = short_documents(folder, 300, 65)
    made = {}
    with workers_here() as patch:
        patch.setenv("RETBENCH_CACHE", str(folder / "cache"))
        patch.setattr("retbench.engine.runner._Session._measure_ceilings", lambda self: None)
        patch.setattr("retbench.report.write_plots", lambda run, content=None: [])
        patch.setattr("retbench.suites.text_cell.DEV_TOKENS", 512)
        patch.setattr("retbench.suites.recall_cell.TEST_SEQUENCES", 16)
        patch.setattr("retbench.suites.recall_cell.DEV_SEQUENCES", 16)
        one_part = {"no-gate": {"gate": False}}  # of the six, which differ in their options alone
        patch.setattr("models.family.retnet.RetNetConfig.ablations", lambda self: one_part)
        for suite in (*TEXT, "recall"):
            options = given(suite)
            if suite != "recall":
                options |= {"data": text, "tokenizer": "byte", "overrides": {"n_layers": 1}}
            if suite == "recall":
                options["tasks"] = "copy"
            made[suite] = retbench.run(suite, out=folder / suite, **options)
    return made


@pytest.mark.parametrize("suite", [*TEXT, "recall"])
def test_a_run_measures_every_cell_and_has_a_report(runs: dict[str, Run], suite: str) -> None:
    run = runs[suite]
    assert run.meta["state"] == "finished"
    statuses = run.statuses()
    assert set(statuses["status"]) == {"ok"}, statuses[["model", "point", "cause"]].to_string()
    for name in ("numbers.json", "numbers.tex"):
        assert (run.path / name).stat().st_size
    content = report.content_of(run)
    assert content.figures() and any("SMOKE" in line for line in content.warnings)
    assert all(figure.data["value"].notna().any() for figure in content.figures())


@pytest.mark.parametrize("suite", ["perplexity", "recall"])
def test_all_models_of_a_block_see_the_same_data_in_the_same_order(
    runs: dict[str, Run], suite: str
) -> None:
    frame = runs[suite].frame()
    orders = frame[frame["metric"] == "data_order"].groupby(["block", "point"])["value"]
    assert (orders.nunique() == 1).all() and (orders.count() == 2).all()


def test_the_final_training_has_the_rate_that_the_dev_split_chose(runs: dict[str, Run]) -> None:
    frame = runs["perplexity"].frame()
    scalar = frame[frame["index"].isna()].pivot_table(
        index=["model", "point"], columns="metric", values="value"
    )
    for model in ("retnet", "transformer"):
        own = scalar.loc[model]
        tried = own[own.index.str.startswith("stage=tune")]
        best = tried["final_dev_loss"].idxmin()
        chosen = own.loc["stage=final,context=32,batch=2", "learning_rate"]
        assert chosen == tried.loc[best, "learning_rate"]


def test_every_protocol_scores_the_same_tokens_and_a_state_is_carried_where_it_is_constant(
    runs: dict[str, Run],
) -> None:
    frame = runs["perplexity"].frame()
    nats = frame[frame["metric"] == "test_nats"]
    documents = nats.groupby(["model", "phase", "seq_len"])["index"].nunique()
    assert documents.nunique() == 1
    carried = nats[nats["phase"] == "carried"]
    assert set(carried["model"]) == {"retnet"}
    assert set(carried["seq_len"]) == {32}  # the window changes nothing
    lengths = nats.loc[nats["phase"] == "length", "seq_len"]
    assert sorted(set(lengths)) == [16, 32, 64, 128, 256]
    assert set(nats.loc[nats["phase"] == "test", "implementation"]) == {"window=32,stride=16"}


def test_an_untrained_models_perplexity_is_that_of_guessing(runs: dict[str, Run]) -> None:
    """After four steps of warm-up the models know little: most of 256 bytes are as likely."""
    numbers = json.loads((runs["perplexity"].path / "numbers.json").read_text())
    for model in ("retnet", "transformer"):
        (cell,) = (row for row in numbers["perplexity"] if row["model"] == model)
        assert 60 < cell["perplexity"] < 300
        assert cell["bits_per_byte"] == pytest.approx(cell["loss"] / 0.6931, rel=0.01)


def test_a_smoke_run_makes_no_claim(runs: dict[str, Run]) -> None:
    numbers = json.loads((runs["perplexity"].path / "numbers.json").read_text())
    assert [row["verdict"] for row in numbers["perplexity"]] == [None, "no claim"]


def test_the_recall_of_a_length_comes_with_its_state(runs: dict[str, Run]) -> None:
    frame = runs["recall"].frame()
    state = frame[frame["metric"] == "state_bytes"].groupby(["model", "seq_len"])["value"].first()
    assert state["retnet"].nunique() == 1
    assert state["transformer"].is_monotonic_increasing
    accuracy = frame.loc[frame["metric"] == "accuracy", "value"]
    assert accuracy.between(0, 1).all()


class Rewrites:
    """An observer that writes another text once a cell is there; the next worker reads it."""

    def __init__(self, text: Path, after: str) -> None:
        self.text, self.after = text, after

    def cell(self, *_: Any) -> None:
        self.text.write_text(self.after)

    def worker(self, *_: Any) -> None:
        load_dataset.cache_clear()  # as a new process has it

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def test_a_text_that_has_become_too_short_is_another_one(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("none")
    config = small("perplexity", data=tmp_path / "text.txt", tokenizer="byte")
    assert "less than one window of 33" in _text_of(config)


def test_a_text_that_changes_ends_the_run_and_costs_no_cell(tmp_path: Path) -> None:
    text, out = tmp_path / "text.txt", tmp_path / "run"
    text.write_text(before := "to be or not? " * 600)
    options = given("perplexity") | {
        "data": text, "tokenizer": "byte", "overrides": {"n_layers": 1}, "lr": "1e-3",
    }  # fmt: skip
    with workers_here() as patch:
        patch.setattr("retbench.api.write_derived", lambda run: None)
        patch.setattr("retbench.engine.runner._Session._measure_ceilings", lambda self: None)
        with pytest.raises(UserError, match=r"the text changed .*; restore it and continue with: "):
            retbench.run(
                "perplexity", out=out, observer=Rewrites(text, "or not? " * 999), **options
            )
        assert set(open_run(out).statuses()["status"]) == {"ok"}
        with pytest.raises(UserError, match="was begun with another text"):
            retbench.run(None, out=out, resume=True, data=text)
        text.write_text(before)
        assert retbench.run(None, out=out, resume=True, data=text).meta["state"] == "finished"
    assert set(open_run(out).statuses()["status"]) == {"ok"}


def test_a_run_with_another_text_is_not_continued(
    runs: dict[str, Run], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = runs["perplexity"].path
    meta: Any = read_meta(path)
    copy = tmp_path / "run"
    copy.mkdir()
    (copy / "samples.jsonl").write_bytes((path / "samples.jsonl").read_bytes())
    meta["data"]["sha256"] = "0" * 64
    meta |= {"state": "interrupted", "samples": None}
    write_meta(copy, meta)
    with pytest.raises(UserError, match="was begun with another text"):
        retbench.run(None, out=copy, resume=True)
