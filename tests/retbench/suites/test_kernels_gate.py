"""The check of operations against float64: rows of the definition, and their gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from models.operations import Case, Direction, Kind
from models.retention import log_decays, retention_chunkwise, retention_parallel
from retbench.suites.distance import worst_block
from retbench.suites.kernels_gate import Call, checked_rows, exact_rows, inputs

CPU = torch.device("cpu")


def case(kind: Kind = "retention", dtype: torch.dtype = torch.float64) -> Case:
    direction: Direction = "train"
    return Case(kind, direction, 2, 4, 96, 8, 16 if kind == "retention" else 8, dtype, CPU)


def retained(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return retention_chunkwise(q, k, v, log_decays(q.shape[1], "eq8"), 32)[0]


@pytest.mark.parametrize("kind", ["retention", "attention"])
def test_exact_rows_are_those_of_the_whole(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """Output and gradients, against the parallel form and PyTorch's attention."""
    monkeypatch.setattr("retbench.suites.kernels_gate.ROWS", 20)  # fewer than are asked for
    asked = case(kind)
    q, k, v, grad = inputs(asked, seed=3)
    rows = checked_rows(asked.time, seed=3)
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    if kind == "retention":
        out = retention_parallel(*leaves, log_decays(asked.heads, "eq8"))[0]
    else:
        out = torch.nn.functional.scaled_dot_product_attention(*leaves, is_causal=True)
    sparse = torch.zeros_like(out)
    sparse[:, :, rows] = grad[:, :, rows]
    expected = dict(zip("qkv", torch.autograd.grad(out, leaves, sparse), strict=True))
    expected["out"] = out.detach()[:, :, rows]
    here = (1, asked.heads - 1)
    found = exact_rows(asked, here[1], q[here], k[here], v[here], rows, grad[here][rows])
    assert set(found) == set(expected)
    for name, exact in found.items():
        torch.testing.assert_close(exact, expected[name][here], rtol=1e-12, atol=1e-12)


def test_the_first_and_the_last_row_are_checked() -> None:
    rows = checked_rows(1000, seed=0).tolist()
    assert rows[0] == 0 and rows[-1] == 999 and 60 < len(rows) <= 66
    assert checked_rows(1, seed=0).tolist() == [0]


@pytest.mark.parametrize("time", [4096, 4100, 16384, 65536])
def test_no_chunk_of_a_kernel_goes_unchecked(time: int) -> None:
    for seed in range(20):
        rows = checked_rows(time, seed)
        assert (rows // 64).unique().tolist() == list(range(-(-time // 64)))
        assert rows[0] == 0 and rows[-1] == time - 1 and len(rows) <= -(-time // 64) + 2


def test_a_chunk_that_is_wrong_beyond_4096_tokens_is_found() -> None:
    asked = Case("retention", "train", 1, 1, 8192, 4, 4, torch.float64, CPU)

    def one_chunk_lost(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = retained(q, k, v)
        return torch.cat((out[:, :, :7040], 0 * out[:, :, 7040:7104], out[:, :, 7104:]), dim=2)

    for seed in range(4):
        assert Call(asked, retained, seed).error() < 1e-12
        assert Call(asked, one_chunk_lost, seed).error() > 0.9


def test_inputs_lie_in_memory_as_a_models_projections_leave_them() -> None:
    for x in inputs(case(), seed=0):
        assert x.transpose(1, 2).is_contiguous()


def test_a_call_gives_the_gradients_of_the_output_times_the_fixed_gradient() -> None:
    asked = case(dtype=torch.bfloat16)
    call = Call(asked, retained, seed=0)
    found: Any = call()
    call()  # the same again: nothing has piled up
    total = (retained(call.q, call.k, call.v) * call.grad).sum()
    torch.testing.assert_close(found, torch.autograd.grad(total, (call.q, call.k, call.v)))


@pytest.mark.parametrize("place", [(0, 0), (1, 3)])
def test_a_head_of_a_sequence_is_judged_by_its_own_norm(place: tuple[int, int]) -> None:
    asked = case()

    def one_head_off(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scale = torch.ones(asked.batch, asked.heads, 1, 1, dtype=v.dtype)
        scale[place] = 1 + 1e-6
        return retained(q, k, v) * scale

    right, wrong = (Call(asked, mix, seed=0).error() for mix in (retained, one_head_off))
    assert right < 1e-14
    assert wrong == pytest.approx(1e-6, rel=1e-3)


def test_a_late_row_of_attention_is_not_hidden_by_the_first_which_is_larger() -> None:
    asked = case("attention")

    def last_row_lost(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return torch.cat((out[:, :, :-1], 0 * out[:, :, -1:]), dim=2)

    assert Call(asked, last_row_lost, seed=0).error() > 0.9


def test_a_gradient_that_decays_have_all_but_forgotten_is_judged_beside_the_largest() -> None:
    exact = torch.ones(64, 2, dtype=torch.float64)
    exact[:32] = 1e-9
    assert float(worst_block(exact + 1e-9, exact, 16)) == pytest.approx(1e-8, rel=1e-3)
    assert float(worst_block(0 * exact, 0 * exact, 16)) == 0
    assert torch.isnan(worst_block(exact * float("nan"), exact, 16))
