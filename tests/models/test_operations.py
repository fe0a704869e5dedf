"""Operations by name: each computes its kind's function, or says why it cannot."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from models import operations, operations_builtin
from models.operations import Case, Kind, Operation, names, register
from models.retention import log_decays, retention_chunkwise, retention_recurrent
from models.sdpa import sdpa_backend

CPU = torch.device("cpu")
RETENTION = Case("retention", "forward", 2, 3, 75, 8, 16, torch.float32, CPU)
ATTENTION = replace(RETENTION, kind="attention", d_v=8)
CASES: dict[Kind, Case] = {"retention": RETENTION, "attention": ATTENTION}
EAGER = ("retention-chunkwise", "retention-parallel", "retention-recurrent", "sdpa-flash",
         "sdpa-math")  # fmt: skip
COMPILED = ("retention-compiled", "flex-attention")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
FLOAT32 = 1e-5  # relative; a wrong mask or decay is off by 0.1 or more


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    """What a test registers is forgotten."""
    before = {name: operations.get(name) for name in names()}
    yield
    operations._OPERATIONS.clear()
    operations._OPERATIONS.update(before)


def inputs(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """As a model's projections leave them: (batch, time, heads, dim) in memory."""
    generator = torch.Generator().manual_seed(1)
    shape = (case.batch, case.time, case.heads)
    q, k, v = (
        torch.randn(*shape, dim, generator=generator).to(case.dtype).transpose(1, 2)
        for dim in (case.d_k, case.d_k, case.d_v)
    )
    return q, k, v


def defined(case: Case, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The function of a kind, in float64."""
    q, k, v = (x.double() for x in (q, k, v))
    if case.kind == "retention":
        return retention_recurrent(q, k, v, log_decays(case.heads, "eq8"))[0]
    scores = q @ k.mT / case.d_k**0.5
    future = torch.ones(case.time, case.time, dtype=torch.bool).triu(1)
    return scores.masked_fill(future, float("-inf")).softmax(dim=-1) @ v


def off(name: str) -> float:
    """The relative distance of an operation's output from the definition."""
    operation = operations.get(name)
    case = CASES[operation.kind]
    assert operation.unsupported(case) is None
    q, k, v = inputs(case)
    expected = defined(case, q, k, v)
    with operation.ready(case) as mix:
        found = mix(q, k, v)
    assert found.shape == v.shape
    return float((found.double() - expected).norm() / expected.norm())


def test_an_operation_says_what_its_cost_depends_on() -> None:
    traits = {name: operations.get(name) for name in names()}
    quadratic = {name for name, operation in traits.items() if operation.memory == "quadratic"}
    assert quadratic == {"retention-parallel", "sdpa-math"}
    assert {name for name, operation in traits.items() if operation.compiles} == set(COMPILED)
    assert traits["retention-recurrent"].recurrent


@pytest.mark.parametrize("name", EAGER)
def test_an_operation_computes_its_kinds_function(name: str) -> None:
    assert off(name) < FLOAT32


@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_a_compiled_operation_computes_the_same_before_it_is_compiled(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []

    def compile_(function: Any, **options: Any) -> Any:
        compiled.append(options)
        return function

    monkeypatch.setattr(torch, "compile", compile_)
    assert off(name) < FLOAT32
    assert compiled[0] == {"dynamic": False, "fullgraph": True}


def test_each_case_is_compiled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or from the eighth shape on torch would run the function as it is, at another speed."""
    done = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: done.append("reset"))
    monkeypatch.setattr(torch, "compile", lambda function, **options: done.append("compile"))
    operation = operations.get("retention-compiled")
    for _ in range(2):
        with operation.ready(RETENTION):
            pass
    assert done == ["reset", "compile"] * 2


@pytest.mark.parametrize("backend", ["flash", "math"])
def test_attention_runs_the_backend_of_its_name(backend: str) -> None:
    with operations.get(f"sdpa-{backend}").ready(ATTENTION):
        assert sdpa_backend(*inputs(ATTENTION)) == backend


@pytest.mark.parametrize("name", ["sdpa-efficient", "sdpa-cudnn"])
def test_a_backend_that_the_device_lacks_says_so(name: str) -> None:
    reason = operations.get(name).unsupported(ATTENTION)
    assert reason == "PyTorch has no such kernel for float32 and head dimension 8 on cpu"


def test_flex_attention_cannot_train_on_a_cpu() -> None:
    train = replace(ATTENTION, direction="train")
    assert "no backward on cpu" in str(operations.get("flex-attention").unsupported(train))


def test_the_recurrence_is_run_up_to_a_length_that_is_shorter_in_training() -> None:
    limit = operations.get("retention-recurrent").unsupported
    assert limit(replace(RETENTION, time=4096)) is None
    assert limit(replace(RETENTION, time=1024, direction="train")) is None
    assert "token by token: at most 4096 tokens, not 4097" in str(
        limit(replace(RETENTION, time=4097))
    )
    assert "keeps a state of every token: at most 1024 tokens" in str(
        limit(replace(RETENTION, time=1025, direction="train"))
    )


# Packages that may be missing


def module(name: str, **contents: Any) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(contents)
    return made


def test_fla_gets_contiguous_tensors_by_token_and_no_scale_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def chunk_retention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, None]:
        assert all(x.is_contiguous() for x in (q, k, v))  # or it would copy them, on the clock
        by_head = (x.transpose(1, 2) for x in (q * scale, k, v))
        out, _ = retention_chunkwise(*by_head, log_decays(q.shape[2], "eq8"), 32)
        return out.transpose(1, 2), None

    fake = module("fla.ops.retention", chunk_retention=chunk_retention)
    monkeypatch.setitem(sys.modules, "fla.ops.retention", fake)
    monkeypatch.setattr(operations_builtin, "_no_fla", lambda case: None)
    q, k, v = inputs(RETENTION)
    with operations.get("fla-chunk").ready(RETENTION) as mix:
        found = mix(q, k, v)
    torch.testing.assert_close(found.double(), defined(RETENTION, q, k, v), rtol=1e-4, atol=1e-4)


def test_fla_that_is_not_installed_or_has_no_gpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = operations_builtin.importlib.util.find_spec
    for spec, reason in ((None, "is not installed"), (find_spec("torch"), "needs a CUDA device")):
        monkeypatch.setattr(operations_builtin.importlib.util, "find_spec", lambda name, s=spec: s)
        assert reason in str(operations.get("fla-chunk").unsupported(RETENTION))


@pytest.mark.skipif(not INTERPRETED, reason="Triton is imported for a GPU, and there is one")
def test_the_triton_kernel_computes_the_same_in_the_interpreter() -> None:
    assert off("retention-triton") < FLOAT32


def test_a_type_or_a_device_that_the_triton_kernel_lacks_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit = operations.get("retention-triton").unsupported
    assert "float64 is none of" in str(limit(replace(RETENTION, dtype=torch.float64)))
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert "needs a CUDA device, not cpu" in str(limit(RETENTION))


# Work


@pytest.mark.parametrize("time", [2, 100, 512, 683, 1366, 4096])
@pytest.mark.parametrize("d_k", [16, 256])
def test_no_chunk_size_needs_fewer_flops_than_are_counted(time: int, d_k: int) -> None:
    case = replace(RETENTION, batch=1, heads=1, time=time, d_k=d_k, d_v=2 * d_k)

    def chunked(size: int) -> int:
        """Pairs inside the chunks; a state made by all but the last, read by all but the first."""
        sizes = [min(size, time - start) for start in range(0, time, size)]
        inside = sum(n * (n + 1) // 2 * 2 * (case.d_k + case.d_v) for n in sizes)
        state = 2 * case.d_k * case.d_v
        return inside + state * (sum(sizes[:-1]) + sum(sizes[1:]))

    diagonal = 2 * (case.d_k + case.d_v) * time  # of each token with itself, not in the recurrence
    assert min(chunked(size) for size in range(1, time + 1)) >= case.flops - diagonal
    assert min(chunked(time), time * 4 * case.d_k * case.d_v) == case.flops


def test_attention_counts_the_pairs_that_are_seen() -> None:
    pairs = ATTENTION.time * (ATTENTION.time + 1) // 2
    assert ATTENTION.flops == 2 * 3 * pairs * 2 * (8 + 8)


def test_training_has_three_times_the_flops_and_the_gradients_bytes() -> None:
    train = replace(RETENTION, direction="train")
    assert train.flops == 3 * RETENTION.flops
    assert RETENTION.moved_bytes == sum(
        4 * x.numel() for x in (*inputs(RETENTION), inputs(RETENTION)[2])
    )
    assert train.moved_bytes == 2 * RETENTION.moved_bytes


# The registry


def never(case: Case) -> str | None:
    return "never"


def unready(case: Case) -> Any:
    raise AssertionError("nobody may ask for it")


def mine(name: str = "my-retention", unsupported: Callable[..., Any] = never) -> Operation:
    return Operation(name, "retention", unsupported, unready)


def test_a_third_partys_operation_joins_behind_the_built_in_ones() -> None:
    assert names()[0] == "retention-triton" and "flex-attention" in names()
    assert operations.get(register(mine()).name).unsupported(RETENTION) == "never"
    assert names()[-1] == "my-retention"


def test_a_name_is_given_once() -> None:
    register(mine())
    register(mine())  # the same again does no harm
    with pytest.raises(ValueError, match="'my-retention' is registered already"):
        register(mine(unsupported=lambda case: None))


def test_an_unknown_operation_is_named() -> None:
    with pytest.raises(ValueError, match="unknown operation 'rentention'; there are retention-"):
        operations.get("rentention")
