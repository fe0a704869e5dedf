"""The chunkwise kernels against the op's definition in float64: values, gradients, and as ops."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from models.kernels import chunk_op, support
from models.kernels.chunk_op import retention_chunk, unsupported
from models.kernels.plan import GPU, plan_for, plan_of_states
from models.retention import log_decays, retention_parallel

TOLERANCE = {
    # Sums of up to some hundred float32 products.
    torch.float32: 2e-6,
    # Operands, states and scores keep 8 bits, each off by up to 2^-8 (the interpreter cuts bits
    # off where a GPU rounds).
    torch.bfloat16: 2e-2,
    # Gradients are rounded to float16's 11 bits; a GPU's TF32 cuts each operand to as many.
    torch.float16: 5e-3,
}
"""Largest difference allowed, relative to the largest value."""

DTYPES = tuple(TOLERANCE)


def inputs(
    time: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    batch: int = 1,
    heads: int = 2,
    d_k: int = 16,
    d_v: int = 32,
    with_state: bool = True,
) -> list[Any]:
    """Queries, keys and values as a model makes them, views by token, and a state or None."""
    torch.manual_seed(time)
    q, k = torch.randn(2, batch, time, heads, d_k, dtype=dtype).transpose(2, 3)
    v = torch.randn(batch, time, heads, d_v, dtype=dtype).transpose(1, 2)
    state = torch.randn(batch, heads, d_k, d_v) if with_state else None
    return [None if x is None else x.to(device).requires_grad_() for x in (q, k, v, state)]


def distance(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected magnitude."""
    difference = (found.detach().double() - expected.detach()).abs().max()
    return float(difference / expected.detach().abs().max().clamp_min(1e-30))


def results(function: Any, leaves: list[Any], log_gamma: Tensor) -> list[Tensor]:
    """Output, final state, and the gradients of a loss that both of them enter."""
    q, k, v, state = leaves
    out, final = function(q, k, v, log_gamma, state)
    torch.manual_seed(0)
    slopes = [torch.randn(x.shape, dtype=torch.float64).to(q.device) for x in (out, final)]
    loss = (out.double() * slopes[0]).sum() + (final.double() * slopes[1]).sum()
    return [out, final, *torch.autograd.grad(loss, [x for x in leaves if x is not None])]


def in_float64(leaves: list[Any]) -> list[Any]:
    return [None if x is None else x.detach().double().requires_grad_() for x in leaves]


def assert_agrees(leaves: list[Any], log_gamma: Tensor | None = None) -> None:
    """The kernels' results of these inputs are those of the parallel form in float64."""
    q = leaves[0]
    if log_gamma is None:
        log_gamma = log_decays(q.shape[1], "eq8")
    log_gamma = log_gamma.to(q.device)
    found = results(retention_chunk, leaves, log_gamma)
    expected = results(retention_parallel, in_float64(leaves), log_gamma)
    names = ("out", "final", "grad q", "grad k", "grad v", "grad state")
    for name, x, y in zip(names, found, expected, strict=False):
        assert distance(x, y) < TOLERANCE[q.dtype], name


# --- values and gradients ------------------------------------------------------------------------


# float16's kernels are float32's but for the precision.
@pytest.mark.parametrize(
    ("dtype", "time"),
    [
        *((torch.float32, time) for time in (1, 63, 64, 65, 128, 257)),
        *((torch.bfloat16, time) for time in (1, 64, 129, 385)),
        (torch.float16, 65),
    ],
)
def test_any_length_agrees_with_the_definition(
    device: torch.device, dtype: torch.dtype, time: int
) -> None:
    assert_agrees(inputs(time, dtype, device, with_state=time % 2 == 1))


# The interpreter takes ten seconds for both at once.
WIDEST = [(256, 512)] if torch.cuda.is_available() else [(256, 6), (6, 512)]


# Every dimension is a kernel of its own.
@pytest.mark.parametrize(
    ("dtype", "d_k", "d_v"),
    [
        *((torch.float32, *d) for d in [(2, 4), (24, 48), (80, 20), (96, 192), *WIDEST]),
        *((torch.bfloat16, *d) for d in [(2, 4), (80, 20), (64, 128), *WIDEST]),
        (torch.float16, 24, 48),
    ],
)
def test_any_head_dimension_agrees_with_the_definition(
    device: torch.device, dtype: torch.dtype, d_k: int, d_v: int
) -> None:
    assert_agrees(inputs(70, dtype, device, heads=1, d_k=d_k, d_v=d_v))


def test_the_tiles_of_a_smaller_gpu_agree_with_the_definition(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = GPU(shared_bytes=99 * 1024)
    monkeypatch.setattr("models.kernels.plan.gpu_at", lambda device: small)
    assert plan_for(torch.bfloat16, device).rows == 64
    assert_agrees(inputs(70, torch.bfloat16, device, heads=1, d_k=100, d_v=120))


@pytest.mark.parametrize(
    ("dtype", "multiprocessors", "tile"),
    [
        (torch.bfloat16, 1, (128, 128)),
        (torch.bfloat16, 2, (128, 64)),
        (torch.bfloat16, 16, (32, 32)),
        (torch.float32, 1, (64, 64)),
        (torch.float32, 8, (64, 32)),
    ],
)
def test_any_cut_of_the_state_agrees_with_the_definition(
    device: torch.device,
    dtype: torch.dtype,
    multiprocessors: int,
    tile: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = GPU(multiprocessors)
    monkeypatch.setattr("models.kernels.chunk.gpu_at", lambda device: gpu)
    cut = plan_of_states(plan_for(dtype, device), 1, 100, 120, gpu)
    assert (cut.rows, cut.columns) == tile
    assert_agrees(inputs(70, dtype, device, heads=1, d_k=100, d_v=120))


@pytest.mark.parametrize("log_gamma", [0.0, -1e-12, -3e-8, -1e-3, -5.0])
def test_any_decay_agrees_with_the_definition(device: torch.device, log_gamma: float) -> None:
    leaves = inputs(70, torch.float32, device)
    assert_agrees(leaves, torch.tensor([log_gamma, -0.03], dtype=torch.float64))


def test_many_heads_and_sequences_do_not_mix(device: torch.device) -> None:
    assert_agrees(inputs(3, torch.float32, device, batch=2, heads=3, d_k=4, d_v=6))


def test_a_head_that_forgets_one_in_ten_million_forgets_it(device: torch.device) -> None:
    """Float32 would round its decay to 1; the state's own rounding is what is left."""
    q, k, v, state = inputs(64 * 50, torch.float32, device, heads=1, d_k=2, d_v=2)
    log_gamma = torch.tensor([-1e-7], dtype=torch.float64, device=device)
    with torch.no_grad():
        _, final = retention_chunk(q * 0, k * 0, v * 0, log_gamma, state)
    lost = 1 - float((final.double() / state.detach().double()).mean())
    assert lost == pytest.approx(1e-7 * 64 * 50, rel=5e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_output_before_a_changed_token_moves(device: torch.device, dtype: torch.dtype) -> None:
    q, k, v, _ = inputs(140, dtype, device, with_state=False)
    log_gamma = log_decays(2, "eq8").to(device)
    with torch.no_grad():
        before, _ = retention_chunk(q, k, v, log_gamma)
        for x in (q, k, v):
            x[:, :, 129] += 1.0
        after, _ = retention_chunk(q, k, v, log_gamma)
    assert torch.equal(after[:, :, :129], before[:, :, :129])
    assert not torch.equal(after[:, :, 129], before[:, :, 129])


def test_a_sequence_may_be_cut_and_the_state_carried_over(device: torch.device) -> None:
    leaves = inputs(150, torch.float32, device)
    log_gamma = log_decays(2, "eq8").to(device)

    def in_two(q: Tensor, k: Tensor, v: Tensor, log_gamma: Tensor, state: Tensor) -> Any:
        head, tail = ([x[:, :, part] for x in (q, k, v)] for part in (slice(70), slice(70, None)))
        first, state = retention_chunk(*head, log_gamma, state)
        second, state = retention_chunk(*tail, log_gamma, state)
        return torch.cat((first, second), dim=2), state

    expected = results(retention_parallel, in_float64(leaves), log_gamma)
    for x, y in zip(results(in_two, leaves, log_gamma), expected, strict=True):
        assert distance(x, y) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("which", ["out", "final"])
def test_the_gradient_of_either_result_alone(device: torch.device, which: str) -> None:
    """The other's is missing; that of a plain sum has no strides to walk."""
    leaves = inputs(20, torch.float32, device)
    log_gamma = log_decays(2, "eq8").to(device)
    grads = []
    for function, args in ((retention_chunk, leaves), (retention_parallel, in_float64(leaves))):
        result = function(*args[:3], log_gamma, args[3])[which == "final"]
        grads.append(torch.autograd.grad(result.sum(), args, materialize_grads=True))
    for x, y in zip(*grads, strict=True):
        assert distance(x, y) < TOLERANCE[torch.float32]


def test_inputs_of_any_strides(device: torch.device) -> None:
    q, k, v, _ = inputs(40, torch.float32, device)
    log_gamma = log_decays(2, "eq8").to(device)
    found = [
        retention_chunk(*(change(x) for x in (q, k, v)), log_gamma)[0]
        for change in (
            lambda x: x,
            lambda x: x.contiguous(),
            lambda x: x.mT.contiguous().mT,
            lambda x: torch.cat((x, x), -1)[..., : x.shape[-1]],
        )
    ]
    assert all(torch.equal(out, found[0]) for out in found[1:])


def test_inputs_by_token_are_read_where_they_lie(device: torch.device) -> None:
    x = inputs(5, torch.float32, device)[0]
    assert not x.is_contiguous()
    assert chunk_op._rows(x) is x


def test_an_empty_sequence_leaves_the_state_as_it_is(device: torch.device) -> None:
    q, k, v, state = inputs(0, torch.float32, device)
    out, final = retention_chunk(q, k, v, log_decays(2, "eq8").to(device), state)
    assert out.shape == (1, 2, 0, 32)
    assert torch.equal(final, state)


def test_float16_rows_beyond_its_range_stay_finite(device: torch.device) -> None:
    with torch.no_grad():
        q, k, v, _ = (100 * x for x in inputs(64, torch.float16, device))
        out, _ = retention_chunk(q, k, v, log_decays(2, "eq8").to(device))
    assert float(out.abs().max()) > torch.finfo(torch.float16).max
    assert bool(out.isfinite().all())


# --- what comes out ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_types_and_the_order_in_memory(device: torch.device, dtype: torch.dtype) -> None:
    leaves = inputs(9, dtype, device, batch=2)
    q, k, v, state = leaves
    out, final = retention_chunk(q, k, v, log_decays(2, "eq8").to(device), state)
    assert out.dtype == (torch.bfloat16 if dtype == torch.bfloat16 else torch.float32)
    assert out.transpose(1, 2).is_contiguous()
    assert final.dtype == torch.float32
    grads = torch.autograd.grad(out.float().sum() + final.sum(), leaves)
    assert [x.dtype for x in grads] == [dtype, dtype, dtype, torch.float32]
    assert all(x.transpose(1, 2).is_contiguous() for x in grads[:3])


# --- as operators --------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "with_state"), [(torch.float32, False), (torch.bfloat16, True)])
def test_the_ops_keep_the_contract_of_torch_library(
    device: torch.device, dtype: torch.dtype, with_state: bool
) -> None:
    q, k, v, state = inputs(5, dtype, device, d_k=4, d_v=6, with_state=with_state)
    log_gamma = log_decays(2, "eq8").to(device)
    torch.library.opcheck(chunk_op._forward, (q, k, v, log_gamma, state))


def test_compile_takes_it_without_a_graph_break(device: torch.device) -> None:
    leaves = inputs(20, torch.float32, device)
    log_gamma = log_decays(2, "eq8").to(device)

    def scaled(q: Tensor, k: Tensor, v: Tensor, log_gamma: Tensor, state: Tensor) -> Any:
        out, final = retention_chunk(2 * q, k, v, log_gamma, state)
        return out * 3, final

    backend = "inductor" if device.type == "cuda" else "aot_eager"
    compiled = torch.compile(scaled, fullgraph=True, backend=backend)
    found, expected = (results(f, leaves, log_gamma) for f in (compiled, scaled))
    for x, y in zip(found, expected, strict=True):
        assert distance(x, y.double()) < 1e-6


# --- what cannot run -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("d_k", "d_v", "dtype", "reason"),
    [
        (258, 512, torch.float32, "d_k = 258, d_v = 512 is beyond 256, 512"),
        (256, 513, torch.float32, "d_k = 256, d_v = 513 is beyond 256, 512"),
        (16, 32, torch.float64, "float64 is none of bfloat16, float16, float32"),
    ],
)
def test_what_cannot_run_says_why(
    device: torch.device, d_k: int, d_v: int, dtype: torch.dtype, reason: str
) -> None:
    assert unsupported(d_k, d_v, dtype, device) == reason
    q, v = (torch.empty(1, 1, 1, d, dtype=dtype, device=device) for d in (d_k, d_v))
    with pytest.raises(ValueError, match=reason):
        retention_chunk(q, q, v, torch.zeros(1, dtype=torch.float64))


@pytest.mark.parametrize("wrong", ["k", "v", "log_gamma", "state", "dtype", "decays"])
def test_inputs_that_do_not_fit_together_are_an_error(device: torch.device, wrong: str) -> None:
    q, k, v, state = inputs(5, torch.float32, device, d_v=16)
    log_gamma = log_decays(2, "eq8").to(device)
    if wrong == "k":
        k = k[:, :, :4]
    elif wrong == "v":
        v = v[:, :1]
    elif wrong == "log_gamma":
        log_gamma = log_gamma[:1]
    elif wrong == "state":
        state = state[..., :8]
    elif wrong == "dtype":
        k = k.bfloat16()
    else:
        log_gamma = log_gamma.float()
    with pytest.raises(ValueError, match="do not fit together"):
        retention_chunk(q, k, v, log_gamma, state)


def test_the_cpu_needs_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    reason = unsupported(16, 32, torch.float32, torch.device("cpu"))
    assert reason is not None and reason.startswith("needs a CUDA device, not cpu")


def test_a_machine_without_triton_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "_TRITON_INSTALLED", False)
    reason = unsupported(16, 32, torch.float32, torch.device("cpu"))
    assert reason == "Triton is not installed"


def test_a_gpu_of_amd_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.version.hip", "6.4")
    reason = unsupported(16, 32, torch.float32, torch.device("cuda"))
    assert reason == "the kernels are for NVIDIA GPUs"


def test_a_gpu_that_is_too_old_is_told_so(pretend_gpu: Callable[[int, int], None]) -> None:
    pretend_gpu(7, 5)
    reason = unsupported(16, 32, torch.float32, torch.device("cuda"))
    assert reason == "the GPU's compute capability 7.5 is below 8.0"


def test_the_models_are_imported_without_triton() -> None:
    code = "import sys, models.mixers.multiscale; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
