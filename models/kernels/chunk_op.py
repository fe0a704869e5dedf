"""Chunkwise retention by Triton kernels, as custom ops with fakes and gradients.

The op computes what :func:`models.retention.retention_chunkwise` does, of the same arguments but
the chunk size, which the dtype sets::

    out, final = retention_chunk(q, k, v, log_gamma, state)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from models.kernels.limits import too_wide
from models.kernels.support import CHUNKS, unavailable


def retention_chunk(
    q: Tensor, k: Tensor, v: Tensor, log_gamma: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Retention of a whole sequence, linear in time; differentiable but for the decays.

    bfloat16 inputs are multiplied as such with float32 sums, and states and scores are rounded to
    bfloat16 before they are multiplied. float16 inputs are multiplied as TF32, which has float16's
    mantissa and float32's range, as do states and scores. float32 inputs are multiplied in full
    float32, or as TF32 where PyTorch's own products are allowed to be
    (``torch.backends.cuda.matmul.fp32_precision``). The state is carried in float32.

    Args:
        q: (batch, heads, time, d_k), any strides; best with a last one of 1, else it is copied.
        k: shaped like ``q``, with strides of its own.
        v: (batch, heads, time, d_v), of the same dtype.
        log_gamma: natural logarithms of the decays, (heads,) float64; a constant.
        state: the state before the first token, (batch, heads, d_k, d_v) float32; zeros where
            None.

    Returns:
        The output (batch, heads, time, d_v), bfloat16 for bfloat16 inputs and else float32, which
        lies in memory as (batch, time, heads, d_v); and the state after the last token, float32.

    Raises:
        ValueError: if shapes or dtypes do not fit together, or if :func:`unsupported` says why the
            kernels cannot run them.
    """
    fit = q.shape == k.shape and q.shape[:3] == v.shape[:3] and q.dtype == k.dtype == v.dtype
    fit = fit and log_gamma.shape == q.shape[1:2] and log_gamma.dtype == torch.float64
    if state is not None:
        shape = (*q.shape[:2], q.shape[-1], v.shape[-1])
        fit = fit and state.shape == shape and state.dtype == torch.float32
    if not fit:
        raise ValueError("q, k, v, log_gamma and state do not fit together: see the docstring")
    out, final = _forward(q, k, v, log_gamma, state)
    return out, final


def unsupported(d_k: int, d_v: int, dtype: torch.dtype, device: torch.device) -> str | None:
    """Why the kernels cannot run heads of these dimensions there; None where they can."""
    if reason := too_wide(d_k, d_v):
        return reason
    if dtype not in CHUNKS:
        return f"{str(dtype).removeprefix('torch.')} is none of bfloat16, float16, float32"
    return unavailable(device)


# --- the ops -------------------------------------------------------------------------------------


@torch.library.custom_op("retention::chunk", mutates_args=())
def _forward(
    q: Tensor, k: Tensor, v: Tensor, log_gamma: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    if reason := unsupported(q.shape[-1], v.shape[-1], q.dtype, q.device):
        raise ValueError(f"chunkwise retention in Triton: {reason}")
    from models.kernels.chunk import mix, scores, states
    from models.kernels.plan import plan_for

    q, k, v = (_rows(x) for x in (q, k, v))
    plan = plan_for(q.dtype, q.device)
    before, final = states(k, v, log_gamma, _initial(state), plan)
    weights = scores(q, k, log_gamma, plan)
    out = _empty_by_token(v, _out_dtype(v))
    return mix(q, before, weights, v, out, log_gamma, plan), final


@torch.library.custom_op("retention::chunk_backward", mutates_args=())
def _backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_gamma: Tensor,
    state: Tensor | None,
    grad_out: Tensor,
    grad_final: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and the initial state; the states are made again, not kept."""
    from models.kernels.chunk import mix, scores, states
    from models.kernels.plan import plan_for

    q, k, v, grad_out = (_rows(x) for x in (q, k, v, grad_out))
    plan = plan_for(q.dtype, q.device)
    # Each is freed once it is used: states and their gradients are the largest of all.
    before, _ = states(k, v, log_gamma, _initial(state), plan)
    grad_scores = scores(grad_out, v, log_gamma, plan)
    grad_q = mix(grad_out, before.mT, grad_scores, k, _empty_by_token(q, q.dtype), log_gamma, plan)
    del before
    after, grad_state = states(q, grad_out, log_gamma, _initial(grad_final), plan, reverse=True)
    grad_k = mix(
        v, after.mT, grad_scores.mT, q, _empty_by_token(k, k.dtype), log_gamma, plan, reverse=True
    )
    del grad_scores
    weights = scores(q, k, log_gamma, plan)
    grad_v = mix(
        k, after, weights.mT, grad_out, _empty_by_token(v, v.dtype), log_gamma, plan, reverse=True
    )
    return grad_q, grad_k, grad_v, grad_state


@_forward.register_fake
def _forward_fake(
    q: Tensor, k: Tensor, v: Tensor, log_gamma: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    return _empty_by_token(v, _out_dtype(v)), _empty_state(q, v)


@_backward.register_fake
def _backward_fake(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_gamma: Tensor,
    state: Tensor | None,
    grad_out: Tensor,
    grad_final: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grads = [_empty_by_token(x, x.dtype) for x in (q, k, v)]
    return grads[0], grads[1], grads[2], _empty_state(q, v)


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, grad_out: Tensor, grad_final: Tensor) -> tuple[Tensor | None, ...]:
    grads = _backward(*ctx.saved_tensors, grad_out, grad_final)
    has_state = ctx.saved_tensors[-1] is not None
    return *grads[:3], None, grads[3] if has_state else None


_forward.register_autograd(_differentiate, setup_context=_keep_inputs)


# --- what the ops share --------------------------------------------------------------------------


def _rows(x: Tensor) -> Tensor:
    """The tensor, copied only where a token's numbers do not lie side by side."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _initial(state: Tensor | None) -> Tensor | None:
    return None if state is None else state.contiguous()


def _out_dtype(v: Tensor) -> torch.dtype:
    return torch.bfloat16 if v.dtype == torch.bfloat16 else torch.float32


def _empty_by_token(like: Tensor, dtype: torch.dtype) -> Tensor:
    """(batch, heads, time, dim) that lies in memory as (batch, time, heads, dim)."""
    batch, heads, time, dim = like.shape
    return like.new_empty(batch, time, heads, dim, dtype=dtype).transpose(1, 2)


def _empty_state(q: Tensor, v: Tensor) -> Tensor:
    return q.new_empty(*q.shape[:2], q.shape[-1], v.shape[-1], dtype=torch.float32)
