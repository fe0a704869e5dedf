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

from models.compiler import compiled
from models.family.retnet import RetNetConfig
from models.kernels import chunk_op
from models.operations import Case, Mix, Operation, register
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


def _mix(function: Callable[..., tuple[Tensor, Tensor]], case: Case) -> Mix:
    """Retention by a function of this project, with the paper's decays."""
    log_gamma = log_decays(case.heads, "eq8").to(case.device)
    return lambda q, k, v: function(q, k, v, log_gamma)[0]


def _ready(
    function: Callable[..., tuple[Tensor, Tensor]],
) -> Callable[[Case], AbstractContextManager[Mix]]:
    """What an operation is ready by that calls :func:`_mix` as it is."""
    return lambda case: nullcontext(_mix(function, case))


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
    yield compiled(function, fullgraph=True)


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


_CHUNKWISE = partial(retention_chunkwise, chunk_size=RetNetConfig.chunk_size)

register(
    Operation(
        "retention-triton", "retention", _no_triton, _ready(chunk_op.retention_chunk),
        ("torch", "triton"),
    )
)  # fmt: skip
register(Operation("retention-chunkwise", "retention", _anywhere, _ready(_CHUNKWISE)))
register(
    Operation(
        "retention-compiled", "retention", _anywhere,
        lambda case: _compiled(_mix(_CHUNKWISE, case)), ("torch", "triton"), compiles=True,
    )
)  # fmt: skip
register(
    Operation(
        "retention-parallel", "retention", _anywhere, _ready(retention_parallel), memory="quadratic"
    )
)
register(
    Operation(
        "retention-recurrent", "retention", _too_long, _ready(retention_recurrent), recurrent=True
    )
)
for _name, _function in (
    ("fla-chunk", "chunk_retention"),
    ("fla-parallel", "parallel_retention"),
    ("fla-fused-recurrent", "fused_recurrent_retention"),
):
    register(
        Operation(
            _name, "retention", _no_fla, partial(_fla, _function),
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
            _name, "attention", partial(_no_sdpa, _backend), partial(_sdpa, _backend),
            memory="quadratic" if _backend is SDPBackend.MATH else "linear",
        )
    )  # fmt: skip
register(
    Operation("flex-attention", "attention", _no_flex, _flex, ("torch", "triton"), compiles=True)
)
