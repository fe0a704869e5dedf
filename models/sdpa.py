"""PyTorch's attention kernels by name: which one it chooses, and how to have it take another.

``math`` keeps the scores in memory. ``flash`` is FlashAttention-2 (Dao 2023, arXiv 2307.08691) on a
GPU, ``cudnn`` NVIDIA's, ``fa3`` FlashAttention-3 (Shah et al. 2024, arXiv 2407.08608), which takes
the place of ``flash`` in the whole process once its package is activated.
"""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import (
    SDPBackend,
    activate_flash_attention_impl,
    current_flash_attention_impl,
    sdpa_kernel,
)

from models.config import ConfigError

CHOSEN = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "fa3": SDPBackend.FLASH_ATTENTION,
}
"""The fused kernels that a configuration may insist on."""

_NAMES = {
    SDPBackend.MATH: "math",
    SDPBackend.FLASH_ATTENTION: "flash",
    SDPBackend.EFFICIENT_ATTENTION: "efficient",
    SDPBackend.CUDNN_ATTENTION: "cudnn",
}
_PROBE_TOKENS = 128


def by_kernel(name: str, q: Tensor) -> AbstractContextManager[None]:
    """A context in which attention of ``q`` is computed by a kernel: ``math`` or of ``CHOSEN``.

    Any other name leaves the choice to PyTorch.

    Raises:
        ConfigError: if a GPU's kernel is asked to compute in more than 16 bits.
    """
    if name == "math":
        return sdpa_kernel(SDPBackend.MATH)
    if name not in CHOSEN:
        return nullcontext()
    if q.is_cuda and q.dtype.itemsize != 2:
        dtype = str(q.dtype).removeprefix("torch.")
        raise ConfigError(f"implementation {name}: needs bfloat16 or float16, not {dtype}")
    return sdpa_kernel(CHOSEN[name])


def kernel_unsupported(
    name: str, head_dim: int, group: int, dtype: torch.dtype, device: torch.device
) -> str | None:
    """Why this machine cannot run a kernel of ``CHOSEN``; None where it can. Activates ``fa3``.

    Args:
        name: the kernel's.
        head_dim: dimension of a head.
        group: query heads of one KV head.
        dtype: of the products; on a GPU a wider one than 16 bits is asked for as bfloat16, in
            which float32 weights are trained.
        device: where they are.
    """
    if name == "fa3":
        if device.type != "cuda":
            return f"needs a CUDA device, not {device.type}"
        try:
            if current_flash_attention_impl() != "FA3":
                activate_flash_attention_impl("FA3")
        except (ImportError, RuntimeError, ValueError) as problem:
            return f"PyTorch cannot activate FlashAttention-3: {problem}"
    if device.type == "cuda" and dtype.itemsize != 2:
        dtype = torch.bfloat16
    q = torch.zeros(1, group, _PROBE_TOKENS, head_dim, dtype=dtype, device=device)
    return no_kernel(CHOSEN[name], q, q[:, :1])


def no_kernel(backend: SDPBackend, q: Tensor, k: Tensor) -> str | None:
    """Why PyTorch cannot compute causal attention of q (and back, where it has a gradient) so.

    Args:
        backend: the only one that it may choose.
        q: (batch, heads, time, head_dim), small, for it is tried.
        k: keys and values, (batch, kv_heads, time, head_dim).
    """
    train = q.requires_grad
    with warnings.catch_warnings(), torch.set_grad_enabled(train), sdpa_kernel(backend):
        warnings.simplefilter("ignore")  # why each kernel was not taken, a line each
        try:
            out = F.scaled_dot_product_attention(
                q, k, k, is_causal=True, enable_gqa=q.shape[1] != k.shape[1]
            )
            if train:
                out.sum().backward()
        except RuntimeError:
            dtype = str(q.dtype).removeprefix("torch.")
            return (
                f"PyTorch has no such kernel for {dtype} and head dimension {q.shape[-1]} on "
                f"{q.device.type}"
            )
    return None


def product_dtype(weight: Tensor) -> torch.dtype:
    """The type that a product with this weight comes in: its own, or that of an autocast."""
    device = weight.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return weight.dtype


def sdpa_backend(q: Tensor, k: Tensor, v: Tensor) -> str:
    """The kernel PyTorch chooses for causal attention: flash, efficient, cudnn, math."""
    choice = torch._fused_sdp_choice(q, k, v, None, 0.0, True, enable_gqa=q.shape[1] != k.shape[1])
    return _NAMES.get(SDPBackend(choice), "other")
