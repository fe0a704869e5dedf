"""The suite that times optimizer steps: what it plans, what a cell measures, its gate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

import retbench
from retbench import report, suites
from retbench.config.plan import Contender, Point
from retbench.config.run import RunConfig
from retbench.engine.forecast import forecast
from retbench.engine.resolve import resolve
from retbench.errors import UserError
from retbench.report import export
from retbench.store import Run, open_run
from retbench.suites.base import CellFailure
from retbench.suites.session import Rows, Session
from retbench.suites.training_gate import check_gradients
from retbench.workers.worker import open_session

from ...forked_workers import forked_workers
from ..conftest import measure

SMALL: dict[str, Any] = {
    "preset": "tiny", "context": (32, 64), "batch": (1, 2), "batch_context": 32,
    "tokens_per_step": 128, "profile": "smoke", "threads": 1, "device": "cpu",
    "models": "retnet,transformer", "variants": "math,parallel", "activations": "kept,recomputed",
    "tokenizer": "byte",
}  # fmt: skip


def small(**changes: Any) -> RunConfig:
    return resolve("training", **{**SMALL, **changes})


def session(family: str = "retnet", dtype: str = "float32", **options: Any) -> Session:
    config = small(dtype=dtype)
    given = config.overrides_for(family) | options
    return open_session(config, Contender(family, family, given), 0, 0)


def measured(point: Point, **options: Any) -> dict[str, float]:
    rows = Rows(session(**options), point)
    measure(rows)
    return {row["metric"]: row["value"] for row in rows.samples if row["value"] is not None}


def test_a_context_has_the_batch_that_makes_all_steps_equal() -> None:
    points = suites.get("training").plan(small()).points
    assert [point.id for point in points] == [
        "context=32,batch=4", "context=64,batch=2", "context=32,batch=1", "context=32,batch=2",
        "activations=recomputed,context=32,batch=4", "part=loader,context=32,batch=4",
    ]  # fmt: skip


def test_a_point_says_which_sweeps_it_lies_on() -> None:
    sweeps = {point.id: point.sweeps for point in suites.get("training").plan(small()).points}
    assert sweeps == {
        "context=32,batch=4": ("context", "batch"), "context=64,batch=2": ("context",),
        "context=32,batch=1": ("batch",), "context=32,batch=2": ("batch",),
        "activations=recomputed,context=32,batch=4": (), "part=loader,context=32,batch=4": (),
    }  # fmt: skip


def test_every_mode_meets_every_treatment_of_activations_once() -> None:
    points = suites.get("training").plan(small(modes="eager,compile")).points
    named = [dict(point.settings) for point in points if point.settings]
    assert named == [
        {"activations": "recomputed"}, {"mode": "compile"},
        {"mode": "compile", "activations": "recomputed"}, {"part": "loader"},
    ]  # fmt: skip


def test_the_mode_that_is_named_first_is_the_one_that_sweeps() -> None:
    config = small(modes="compile,eager", activations="recomputed")
    named = [dict(point.settings) for point in suites.get("training").plan(config).points]
    assert config.mode == "compile"
    assert {"mode": "eager"} in named and {"mode": "compile"} not in named


def test_contenders_are_the_models_and_those_of_their_variants_that_they_have() -> None:
    plan = suites.get("training").plan(small(variants="math,parallel,chunk-64"))
    assert [contender.label for contender in plan.contenders] == [
        "retnet", "retnet-parallel", "retnet-chunk-64", "transformer", "transformer-math",
    ]  # fmt: skip
    assert plan.contenders[2].options["chunk_size"] == 64


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"context": 48}, "context 48 does not divide the 128 tokens of a step"),
        ({"variants": "maths"}, "no model of the run has a variant 'maths'; .*'math'"),
        ({"dtype": "float16"}, "dtype: must be float32 or bfloat16 in training"),
        ({"modes": "cudagraph"}, "unknown mode 'cudagraph'"),
        ({"mode": "eager"}, "takes several; use --modes"),
        ({"tokenizer": "chars"}, "char"),
        ({"overrides": {"vocab_size": 9}}, "follows from the tokenizer"),
        ({"implementation": "tritn"}, "no model of the run knows 'tritn'"),
        ({"overrides": {"max_len": 32}}, "context 64 exceeds the 32 tokens"),
        ({"steps": 3}, "has no use for it"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        small(**changes)


def test_a_text_shorter_than_one_window_is_refused(tmp_path: Any) -> None:
    text = tmp_path / "short.txt"
    text.write_text("a few words, and no more of them\n")
    with pytest.raises(UserError, match="less than one window of 65"):
        suites.get("training").data(small(data=str(text)))


def test_an_implementation_is_asked_of_the_models_that_know_it() -> None:
    config = small(implementation="math")
    assert config.overrides_for("transformer")["implementation"] == "math"
    assert "implementation" not in config.overrides_for("retnet")
    labels = [contender.label for contender in suites.get("training").plan(config).contenders]
    assert labels == ["retnet", "retnet-parallel", "transformer"]  # which is the math one already


def test_a_third_block_reads_no_memory() -> None:
    rows = Rows(replace(session(), block=2), Point(32, 2))
    measure(rows)
    found = {row["metric"] for row in rows.samples}
    assert "step_s" in found
    assert not {metric for metric in found if metric.endswith("_bytes")}


def test_a_cell_tells_the_parts_of_a_step_and_of_its_memory_apart() -> None:
    found = measured(Point(32, 2))
    assert {"step_s", "forward_s", "backward_s", "optimizer_s", "step_peak_bytes"} <= set(found)
    model = session().model
    assert found["gradients_bytes"] == sum(p.nbytes for p in model.parameters())
    moments = 2 * found["gradients_bytes"]
    assert moments < found["optimizer_bytes"] < moments * 1.01  # and a counter a parameter
    assert found["step_flops"] == model.flops_per_token(32, "train") * 64


def test_recomputing_keeps_fewer_activations_for_more_flops() -> None:
    kept = measured(Point(32, 2))
    recomputed = measured(Point(32, 2, (("activations", "recomputed"),)))
    assert 0 < recomputed["activations_bytes"] < kept["activations_bytes"] / 2
    assert recomputed["step_flops"] == kept["step_flops"] < kept["step_hardware_flops"]
    assert recomputed["step_hardware_flops"] > kept["step_hardware_flops"]


def test_attentions_scores_are_kept_by_the_math_kernel_alone() -> None:
    fused = measured(Point(64, 1), family="transformer")["activations_bytes"]
    plain = measured(Point(64, 1), family="transformer", implementation="math")
    assert plain["activations_bytes"] > fused


def test_the_casts_of_the_weights_are_no_activations() -> None:
    exact = measured(Point(32, 1), dtype="float32")["activations_bytes"]
    lower = measured(Point(32, 1), dtype="bfloat16")["activations_bytes"]
    assert lower < exact  # with them it would be a third more: 32 tokens are few, weights many


def test_the_kernel_is_the_one_that_runs_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.dtype] = []
    monkeypatch.setattr(
        "models.mixers.multihead.sdpa_backend", lambda q, k, v: asked.append(q.dtype) or "flash"
    )
    for dtype in ("float32", "bfloat16"):
        assert session("transformer", dtype=dtype).training_implementation == "sdpa-flash"
    assert asked[-1] == torch.bfloat16 and torch.float32 in asked


def test_a_cell_leaves_the_weights_as_they_were() -> None:
    rows = Rows(session(), Point(32, 2))
    model: Any = rows.session.model
    before = [p.detach().clone() for p in model.parameters()]
    measure(rows)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert not model.training and all(p.grad is None for p in model.parameters())


def test_a_model_that_draws_its_dropout_is_timed() -> None:
    rows = Rows(session(), Point(32, 2))
    model: Any = rows.session.model
    dropout = nn.Dropout(0.5)
    embedding = next(module for module in model.modules() if isinstance(module, nn.Embedding))
    embedding.register_forward_hook(lambda _, given, out: dropout(out))
    embedding.add_module("dropout", dropout)
    assert measure(rows) is not None and not dropout.training


def test_the_loader_is_a_cell_of_its_own() -> None:
    found = measured(Point(32, 4, (("part", "loader"),)))
    assert set(found) == {"batch_s"} and found["batch_s"] > 0


@pytest.mark.parametrize("options", [{"family": "transformer"}, {}, {"chunk_size": 32}])
def test_the_gate_passes_what_computes_the_formula(options: dict[str, Any]) -> None:
    assert 0 < suites.measurer_of("training").verify(session(**options)) < 1e-5


def test_the_gate_passes_a_retention_in_bfloat16_at_a_depth_where_the_first_token_is_lost() -> None:
    """In ten layers the gradient through the first token's norm loses every digit."""
    config = small(
        preset="30m", overrides={"d_model": 192, "n_heads": 3}, dtype="bfloat16", models="retnet",
        variants="parallel",
    )  # fmt: skip
    one = open_session(config, Contender("retnet", "retnet", config.overrides_for("retnet")), 0, 0)
    assert 1e-3 < check_gradients(one) < 0.15


@pytest.mark.parametrize("broken", ["decay", "state"])
def test_the_gate_finds_a_function_that_is_not_the_formulas(
    monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    from models.mixers import multiscale

    exact = multiscale.retention_chunkwise

    def other_decays(q: Any, k: Any, v: Any, log_gamma: Any, *others: Any) -> Any:
        return exact(q, k, v, 1.5 * log_gamma, *others)

    def lost_state(q: Any, k: Any, v: Any, *others: Any) -> Any:
        parts = (x.split(64, dim=2) for x in (q, k, v))
        outs = [exact(*part, *others)[0] for part in zip(*parts, strict=True)]
        return torch.cat(outs, dim=2), None

    change = other_decays if broken == "decay" else lost_state
    monkeypatch.setattr(multiscale, "retention_chunkwise", change)
    with pytest.raises(CellFailure, match="gradients are not those of the formula"):
        suites.measurer_of("training").verify(session())


def test_the_gate_finds_a_gradient_that_is_not_the_formulas(monkeypatch: Any) -> None:
    from models.mixers import multiscale

    exact = multiscale.retention_chunkwise

    def broken(q: Any, k: Any, *others: Any) -> Any:
        return exact(q, k.detach(), *others)  # the right loss, and no gradient of the keys

    monkeypatch.setattr(multiscale, "retention_chunkwise", broken)
    with pytest.raises(CellFailure, match="gradients are not those of the formula"):
        suites.measurer_of("training").verify(session())


@pytest.mark.parametrize(("weight", "rows"), [("mixer.gain", 8), ("mixer.qkvg.weight", 16)])
def test_the_gate_finds_a_weight_whose_gradient_is_wrong_alone(weight: str, rows: int) -> None:
    found = session("retnet-norm-gain")

    def lost(gradient: torch.Tensor) -> torch.Tensor:
        return torch.cat((gradient[:rows] / 2, gradient[rows:]))

    found.subject.layers[1].get_parameter(weight).register_hook(lost)
    with pytest.raises(CellFailure, match=f"formula.* in float32 at layers.1.{weight}"):
        suites.measurer_of("training").verify(found)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("wrong", [slice(1, None), slice(-1, None)])
def test_a_step_that_is_wrong_in_a_batch_alone_is_not_timed(
    monkeypatch: pytest.MonkeyPatch, wrong: slice, dtype: str
) -> None:
    from models.mixers.multiscale import MultiScaleRetention

    right = MultiScaleRetention.forward

    def lost(self: Any, x: torch.Tensor, *others: Any) -> torch.Tensor:
        kept = x.new_ones(len(x), 1, 1)
        kept[wrong] = float(len(x) == 1)
        return right(self, x, *others) * kept

    monkeypatch.setattr(MultiScaleRetention, "forward", lost)
    with pytest.raises(CellFailure, match="in the batch are not those of the sequence alone: "):
        measured(Point(32, 4), dtype=dtype)


def test_where_energy_is_counted_a_step_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Meter:
        source = "rapl"
        joules = 0.0

        def read_j(self) -> float:
            self.joules += 1
            return self.joules

    monkeypatch.setattr("retbench.machine.energy.counter", lambda device: Meter())
    monkeypatch.setattr("retbench.suites.cell.ENERGY_S", 0.01)
    found = measured(Point(32, 2))
    assert 1 / found["step_j"] == pytest.approx(round(1 / found["step_j"]))  # steps a sample
    assert found["idle_w"] > 0


def test_the_gate_finds_a_gradient_that_few_tokens_lose(monkeypatch: pytest.MonkeyPatch) -> None:
    from models.mixers import multiscale

    exact = multiscale.retention_chunkwise

    def broken(q: Any, *others: Any) -> Any:
        held = torch.cat((q[:, :, :32], q[:, :, 32:48].detach(), q[:, :, 48:]), dim=2)
        return exact(held, *others)  # 5% of the tokens, and all of a part of them

    monkeypatch.setattr(multiscale, "retention_chunkwise", broken)
    with pytest.raises(CellFailure, match="gradients are not those of the formula"):
        suites.measurer_of("training").verify(session())


def test_a_forecast_counts_every_cell() -> None:
    config = small()
    plan = suites.get("training").plan(config)
    expected = forecast(config, plan)
    assert len(expected.cells) == 4 * 6
    assert all(cell.seconds > 0 and cell.memory_bytes > 0 for cell in expected.cells)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "training"
    with forked_workers() as patch:
        patch.setattr("retbench.engine.runner._Session._measure_ceilings", lambda self: None)
        patch.setattr("retbench.report.write_plots", lambda run, content=None: [])
        retbench.run("training", out=str(out), **SMALL, overrides={"n_layers": 1})
    return open_run(out)


def test_a_run_is_reported_with_everything_that_was_asked(run: Run) -> None:
    found = report.content_of(run)
    assert [table.name for table in found.tables] == [
        "ratios", "steps", "loader", "setup",
    ]  # fmt: skip
    assert (run.statuses()["status"] == "ok").all()
    steps = next(table for table in found.tables if table.name == "steps")
    assert len(steps.cells) == 4 * 5  # the loader has a table of its own
    assert any("SMOKE" in line for line in found.warnings)
    assert not any("math backend" in line for line in found.warnings)
    assert all(figure.data["value"].notna().any() for figure in found.figures())


def test_ratios_name_the_settings_they_were_measured_at(run: Run) -> None:
    ratios = next(table for table in report.content_of(run).tables if table.name == "ratios")
    assert {row[3] for row in ratios.cells} == {"–", "recomputed"}
    assert "part=loader" not in str(pd.DataFrame(ratios.frame)["point"].tolist())


def test_a_ratio_is_cited_by_its_settings(run: Run) -> None:
    cited = export.citations(report.content_of(run).tables)
    keys = [key for key in cited if key.startswith("step_s/retnet/transformer/")]
    assert any("recomputed" in key for key in keys) and any("recomputed" not in key for key in keys)
