"""The kernels suite: its points, its matched shapes, its check against float64, its cells."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from models import ConfigError, operations
from models.operations import Case, Operation
from models.retention import log_decays, retention_chunkwise, retention_parallel
from retbench import suites
from retbench.config.plan import Contender, Point
from retbench.config.run import RunConfig
from retbench.engine.contender_worker import Verified
from retbench.engine.forecast import forecast
from retbench.engine.resolve import resolve
from retbench.errors import UserError
from retbench.machine import ceilings
from retbench.machine.clock import Timing
from retbench.metrics import METRICS
from retbench.suites.base import CellFailure
from retbench.suites.kernels import SUITE, attention_dim, case_of
from retbench.suites.kernels_cell import KernelsMeasurer
from retbench.suites.kernels_gate import TOLERANCE
from retbench.suites.session import Rows, Session
from retbench.workers.worker import open_session

from ..conftest import measure

CPU = torch.device("cpu")
MEASURER = KernelsMeasurer()
Change = Callable[[Tensor, Tensor, Tensor], Tensor]


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    """What a test registers is forgotten."""
    before = {name: operations.get(name) for name in operations.names()}
    yield
    operations._OPERATIONS.clear()
    operations._OPERATIONS.update(before)


def configuration(**given: Any) -> RunConfig:
    small = {"context": "96", "head_dims": 8, "operations": "retention-chunkwise,sdpa-flash"}
    machine = {"threads": 1, "profile": "smoke", "device": "cpu"}
    return resolve("kernels", **(small | machine | given))


def session(name: str = "retention-chunkwise", **given: Any) -> Session:
    return open_session(configuration(operations=name, **given), Contender(name, name), 0, 0)


def point(direction: str = "train", dtype: str = "float32", context: int = 96) -> Point:
    return Point(context, 1, (("direction", direction), ("head_dim", 8), ("dtype", dtype)))


def cell(one: Session, at: Point) -> dict[str, list[dict[str, Any]]]:
    rows = Rows(one, at)
    measure(rows)
    by_metric: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for sample in rows.samples:
        by_metric[sample["metric"]].append(dict(sample))
    return by_metric


@pytest.mark.parametrize("name", ["retention-compiled", "flex-attention", "mine"])
def test_an_operation_is_not_called_compiled_where_the_compiler_is_off(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = replace(operations.get("retention-chunkwise"), name="mine", compiles=True)
    operations.register(mine)
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    with pytest.raises(ConfigError, match="compile off"):
        session(name)


def test_an_operation_that_compiles_is_verified_in_each_process() -> None:
    verified = Verified(configuration(operations="retention-compiled,retention-chunkwise"))
    for name in ("retention-compiled", "retention-chunkwise"):
        verified.add(name)
        verified.add(name, "a point")
        assert verified.lacks(name) == verified.lacks(name, "a point") == ("compiled" in name)


# The plan


def test_every_combination_is_a_point() -> None:
    config = configuration(context="64,128", head_dims="8,16", dtypes="float32,bfloat16", batch=2)
    points = SUITE.plan(config).points
    assert len(points) == 2 * 2 * 2 * 2
    assert points[0].id == "direction=forward,head_dim=8,dtype=float32,context=64,batch=2"


def test_the_first_operation_is_the_subject() -> None:
    labels = [contender.label for contender in SUITE.plan(configuration()).contenders]
    assert labels == ["retention-chunkwise", "sdpa-flash"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"operations": "retention-chunkwize"}, "did you mean 'retention-chunkwise'"),
        ({"operations": "sdpa-math,sdpa-math"}, "'sdpa-math' is named twice"),
        ({"operations": ""}, "needs at least one"),
        ({"head_dims": "67"}, "no whole number of heads of 33"),
        ({"directions": "backward"}, "unknown direction 'backward'"),
        ({"dtypes": "float8"}, "unknown dtype 'float8'"),
        ({"models": "retnet"}, "the suite kernels has no use for it"),
        ({"dtype": "float32"}, "use --dtypes"),
    ],
)
def test_what_cannot_be_run_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        configuration(**given)


def test_a_configuration_survives_json() -> None:
    config = configuration(dtypes="float32,bfloat16")
    assert suites.configuration(config.to_json()) == config
    assert config.computed_dtypes == ("float32", "bfloat16")


def test_the_cpu_default_names_operations_that_a_cpu_has() -> None:
    config = resolve("kernels", device="cpu", threads=1)
    for name in config.operations:
        operation = operations.get(name)
        for at in SUITE.plan(config).points:
            short = replace(at, seq_len=512)
            assert operation.unsupported(case_of(short, operation.kind, CPU)) is None


@pytest.mark.parametrize(
    ("head_dim", "matched"), [(32, 32), (64, 64), (128, 64), (256, 128), (512, 128)]
)
def test_a_transformer_of_the_same_width_has_heads_of_its_own(head_dim: int, matched: int) -> None:
    at = Point(16, 2, (("direction", "train"), ("head_dim", head_dim), ("dtype", "bfloat16")))
    retention, attention = (case_of(at, kind, CPU) for kind in ("retention", "attention"))
    assert attention_dim(head_dim) == attention.d_k == attention.d_v == matched
    assert (retention.heads, retention.d_k, retention.d_v) == (8, head_dim, 2 * head_dim)
    assert retention.heads * retention.d_k == attention.heads * attention.d_k
    assert retention.dtype == attention.dtype == torch.bfloat16


# What is right


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", ["retention-chunkwise", "sdpa-flash"])
def test_a_right_operation_is_within_the_limit_of_its_type(name: str, dtype: str) -> None:
    error = MEASURER.verify(session(name, dtypes=dtype, directions="train", context="200"))
    assert 0 < error < TOLERANCE[getattr(torch, dtype)] / 2


def retained(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return retention_chunkwise(q, k, v, log_decays(q.shape[1], "eq8"), 32)[0]


def one_chunk_late(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out = retained(q, k, v)
    return torch.cat((out[:, :, :64], retained(q[:, :, 64:], k[:, :, 64:], v[:, :, 64:])), dim=2)


def other_decays(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return retention_parallel(q, k, v, log_decays(q.shape[1], "language-model"))[0]


def sees_the_future(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return retained(q, k, v) + (q * k.roll(-1, 2)).sum(-1, keepdim=True) * v.roll(-1, 2)


def no_gradient_of_k(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return retained(q, k.detach() + 0 * k, v)


def not_finite(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out = retained(q, k, v)
    hole = torch.zeros_like(out)
    hole[0, 0, 50, 0] = float("nan")  # no matter whether that row is among those checked
    return out + hole


def computing(
    change: Change, unsupported: Callable[[Case], str | None] = lambda case: None
) -> Session:
    """A session whose subject computes something else."""
    one = session()
    operation = Operation("mine", "retention", unsupported, lambda case: nullcontext(change))
    return replace(one, subject=operation)


@pytest.mark.parametrize(
    "change", [one_chunk_late, other_decays, sees_the_future, no_gradient_of_k, not_finite]
)
def test_a_wrong_operation_is_never_timed_but_its_error_is_kept(change: Change) -> None:
    rows = Rows(computing(change), point("train"))
    with pytest.raises(CellFailure, match=r"against float64, allowed 0.0001 in float32") as failure:
        measure(rows)
    assert failure.value.status == "error"
    metrics = {sample["metric"] for sample in rows.samples}
    assert "kernel_error" in metrics and "kernel_s" not in metrics


def test_a_wrong_gradient_does_not_spoil_the_forward_alone() -> None:
    assert cell(computing(no_gradient_of_k), point("forward"))["kernel_s"]


def test_an_operation_that_cannot_do_a_point_is_not_called() -> None:
    def unsupported(case: Case) -> str | None:
        return None if case.direction == "forward" else "it has no backward"

    one = computing(retained, unsupported)
    with pytest.raises(CellFailure, match="it has no backward") as failure:
        cell(one, point("train"))
    assert failure.value.status == "unsupported"
    assert MEASURER.verify(one) < TOLERANCE[torch.float32]  # of the forward, which it has


def test_an_operation_that_can_do_nothing_is_refused_once() -> None:
    with pytest.raises(CellFailure, match="no such kernel") as failure:
        MEASURER.verify(session("sdpa-cudnn"))
    assert failure.value.status == "unsupported"


# What a cell measures


def test_a_later_process_is_timed_alone() -> None:
    one = replace(session(), block=2)
    rows = Rows(one, point(), verify=False)
    measure(rows)
    assert {row["metric"] for row in rows.samples} == {
        "kernel_flops", "kernel_bytes", "kernel_first_s", "kernel_s",
    }  # fmt: skip


def test_a_first_call_that_compiles_does_not_stand_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A minute of it would have every slice be one call, and none warmed up."""
    one = replace(session(), block=2)
    calls = [Timing(60.0), Timing(1e-4)]
    monkeypatch.setattr(one.clock, "time", lambda fn, repeats=1: calls.pop(0))
    with (rows := Rows(one, point(), verify=False)).closing:
        ready = suites.measurer_of("kernels").prepare(rows, lambda phase: None)
    assert ready.phases["kernel"].first_s == 1e-4


@pytest.mark.parametrize("direction", ["forward", "train"])
def test_a_cell_has_every_metric_in_its_unit_and_type(direction: str) -> None:
    samples = cell(session(dtypes="float32,bfloat16"), point(direction, "bfloat16"))
    assert set(samples) == {
        "kernel_flops", "kernel_bytes", "kernel_first_s", "kernel_error", "kernel_peak_bytes",
        "kernel_s",
    }  # fmt: skip
    for metric, found in samples.items():
        assert {sample["unit"] for sample in found} == {METRICS[metric].unit}
        assert {sample["dtype"] for sample in found} == {"bfloat16"}
        assert all(sample["value"] > 0 for sample in found)
    assert [sample["trial"] for sample in samples["kernel_s"]] == [0, 1, 2]
    assert samples["kernel_error"][0]["value"] < TOLERANCE[torch.bfloat16]


def test_the_peak_is_that_of_the_calls_and_not_of_what_was_imported() -> None:
    """The parallel form keeps scores of every pair, 8 MiB of 8 heads; flash none."""
    mib = 2**20
    at = point("forward", context=512)
    scores = 8 * 512 * 512 * 4
    quadratic = cell(session("retention-parallel"), at)["kernel_peak_bytes"][0]["value"]
    fused = cell(session("sdpa-flash"), at)["kernel_peak_bytes"][0]["value"]
    assert scores / 2 < quadratic < 8 * scores
    assert fused < 6 * mib


def test_training_calls_forward_and_backward_and_forward_alone_keeps_no_graph() -> None:
    graphs = []

    def watched(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        graphs.append(torch.is_grad_enabled() and q.requires_grad)
        return retained(q, k, v)

    cell(computing(watched), point("forward"))
    assert set(graphs) == {False}
    graphs.clear()
    cell(computing(watched), point("train"))
    assert set(graphs) == {True}


def test_a_time_beyond_the_matmul_rate_of_its_own_type_is_invalid(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow = {"matmul_flop_per_s": {"float32": 1e30, "bfloat16": 1.0}, "bandwidth": [],
            "elapsed_s": 0.0}  # fmt: skip
    asked = []

    def measure(device: str, dtypes: tuple[str, ...], threads: int) -> dict[str, Any]:
        asked.append(dtypes)
        return slow

    monkeypatch.setattr(ceilings, "measure", measure)
    one = replace(session(dtypes="float32,bfloat16"), ceilings=slow)
    with pytest.raises(CellFailure, match="best bfloat16 matmul rate") as failure:
        cell(one, point("forward", "bfloat16"))
    assert failure.value.status == "invalid" and asked == [("float32", "bfloat16")]
    assert cell(one, point("forward", "float32"))["kernel_s"]


def test_a_longer_context_is_expected_to_take_longer() -> None:
    config = configuration(context="512,4096", operations="retention-parallel,sdpa-flash")
    expected = forecast(config, SUITE.plan(config))
    for name in config.operations:
        for direction in ("forward", "train"):
            own = [
                (one.seconds, one.memory_bytes)
                for one in expected.cells
                if (one.contender.label, one.point.setting("direction")) == (name, direction)
            ]
            assert own == sorted(own) and len(own) == 2 and own[0] < own[1]


def test_a_run_records_the_operation_and_the_versions_of_what_computes_it() -> None:
    assert MEASURER.describe(session()) == {
        "operation": "retention-chunkwise", "kind": "retention",
        "versions": {"torch": torch.__version__},
    }  # fmt: skip
