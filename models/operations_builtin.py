"""The built-in operations: retention in eager, compiled and Triton forms, and attention's kernels.

PyTorch's retention in chunks has the models' own default chunk. A package that is not installed is
imported by nobody, and its operations say so (:attr:`models.operations.Operation.unsupported`).
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from models.family.retnet import RetNetConfig
from models.kernels import chunk_op
from models.operations import Case, Kind, Mix, Operation, register
from models.retention import (
    log_decays,
    retention_chunkwise,
    retention_parallel,
    retention_recurrent,
)
from models.sdpa import no_kernel

# Most tokens of the recurrence in PyTorch, a few small calls a token: more only wait for them,
# and in training every token's state is kept.
_RECURRENT_TOKENS = {"forward": 4096, "train": 1024}

_FLA = "fla.ops.retention"
_PROBE_TOKENS = 128


def _anywhere(case: Case) -> str | None:
    """For what PyTorch computes with operators that every device has."""
    return None


def _chunkwise_mix(case: Case) -> Mix:
    log_gamma, chunk = _log_gamma(case), RetNetConfig.chunk_size
    return lambda q, k, v: retention_chunkwise(q, k, v, log_gamma, chunk)[0]


def _chunkwise(case: Case) -> AbstractContextManager[Mix]:
    return nullcontext(_chunkwise_mix(case))


def _parallel(case: Case) -> AbstractContextManager[Mix]:
    log_gamma = _log_gamma(case)
    return nullcontext(lambda q, k, v: retention_parallel(q, k, v, log_gamma)[0])


def _recurrent(case: Case) -> AbstractContextManager[Mix]:
    log_gamma = _log_gamma(case)
    return nullcontext(lambda q, k, v: retention_recurrent(q, k, v, log_gamma)[0])


def _too_long(case: Case) -> str | None:
    """Why the recurrence in PyTorch is not run at a length; None where it is."""
    most = _RECURRENT_TOKENS[case.direction]
    if case.time <= most:
        return None
    why = "keeps a state of every token" if case.direction == "train" else "goes token by token"
    return f"{case.direction} {why}: at most {most} tokens, not {case.time}"


@contextmanager
def _compiled(function: Callable[..., Tensor]) -> Iterator[Callable[..., Tensor]]:
    """Compiled for one case: from the eighth on, torch would run a function uncompiled."""
    torch.compiler.reset()
    yield torch.compile(function, dynamic=False, fullgraph=True)


def _triton(case: Case) -> AbstractContextManager[Mix]:
    log_gamma = _log_gamma(case)
    return nullcontext(lambda q, k, v: chunk_op.retention_chunk(q, k, v, log_gamma)[0])


def _no_triton(case: Case) -> str | None:
    return chunk_op.unsupported(case.d_k, case.d_v, case.dtype, case.device)


def _fla(function: str, case: Case) -> AbstractContextManager[Mix]:
    """A function of the package fla, which takes (batch, time, heads, dim) and the paper's decays.

    The inputs lie in memory that way, so that taking them so moves nothing.
    """
    retention: Any = getattr(importlib.import_module(_FLA), function)

    def mix(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        by_token = (x.transpose(1, 2) for x in (q, k, v))
        out: Tensor = retention(*by_token, scale=1.0)[0]
        return out.transpose(1, 2)

    return nullcontext(mix)


def _no_fla(case: Case) -> str | None:
    if importlib.util.find_spec("fla") is None:
        return "the package fla is not installed"
    if case.device.type != "cuda":
        return "the package fla needs a CUDA device"
    try:
        importlib.import_module(_FLA)
    except Exception as problem:  # it asks for the GPU and further packages while it is imported
        return f"the package fla cannot be imported: {problem}"
    return None


@contextmanager
def _sdpa(backend: SDPBackend, case: Case) -> Iterator[Mix]:
    with sdpa_kernel(backend):
        yield partial(F.scaled_dot_product_attention, is_causal=True)


def _no_sdpa(backend: SDPBackend, case: Case) -> str | None:
    """Whether PyTorch has that kernel for such heads, asked by a small call."""
    shape = (1, 1, _PROBE_TOKENS, case.d_k)
    train = case.direction == "train"
    x = torch.zeros(shape, dtype=case.dtype, device=case.device, requires_grad=train)
    return no_kernel(backend, x, x)


@contextmanager
def _flex(case: Case) -> Iterator[Mix]:
    sees = create_block_mask(_causal, None, None, case.time, case.time, device=case.device.type)
    with _compiled(flex_attention) as attention:
        yield partial(attention, block_mask=sees)


def _causal(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    return query >= key


def _no_flex(case: Case) -> str | None:
    if case.device.type == "cpu" and case.direction == "train":
        return "PyTorch's flex attention has no backward on cpu"
    return None


def _log_gamma(case: Case) -> Tensor:
    return log_decays(case.heads, "eq8").to(case.device)


_RETENTION: Kind = "retention"
_ATTENTION: Kind = "attention"

register(Operation("retention-triton", _RETENTION, _no_triton, _triton, ("torch", "triton")))
register(Operation("retention-chunkwise", _RETENTION, _anywhere, _chunkwise))
register(
    Operation(
        "retention-compiled", _RETENTION, _anywhere,
        lambda case: _compiled(_chunkwise_mix(case)), ("torch", "triton"), compiles=True,
    )
)  # fmt: skip
register(Operation("retention-parallel", _RETENTION, _anywhere, _parallel, memory="quadratic"))
register(Operation("retention-recurrent", _RETENTION, _too_long, _recurrent, recurrent=True))
for _name, _function in (
    ("fla-chunk", "chunk_retention"),
    ("fla-parallel", "parallel_retention"),
    ("fla-fused-recurrent", "fused_recurrent_retention"),
):
    register(
        Operation(
            _name, _RETENTION, _no_fla, partial(_fla, _function),
            ("torch", "triton", "flash-linear-attention", "fla-core"),
        )
    )  # fmt: skip
for _name, _backend in (
    ("sdpa-flash", SDPBackend.FLASH_ATTENTION),
    ("sdpa-efficient", SDPBackend.EFFICIENT_ATTENTION),
    ("sdpa-cudnn", SDPBackend.CUDNN_ATTENTION),
    ("sdpa-math", SDPBackend.MATH),
):
    register(
        Operation(
            _name, _ATTENTION, partial(_no_sdpa, _backend), partial(_sdpa, _backend),
            memory="quadratic" if _backend is SDPBackend.MATH else "linear",
        )
    )  # fmt: skip
register(
    Operation("flex-attention", _ATTENTION, _no_flex, _flex, ("torch", "triton"), compiles=True)
)
