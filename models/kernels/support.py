"""Where Triton kernels can run, and the sizes that an op and its kernels agree on."""

from __future__ import annotations

import importlib.util
import os

import torch

CHUNKS = {torch.bfloat16: 128, torch.float16: 64, torch.float32: 64}
"""Tokens of a chunk of retention, by the type of the inputs."""

_TRITON_INSTALLED = importlib.util.find_spec("triton") is not None


def unavailable(device: torch.device) -> str | None:
    """Why no Triton kernel can run on a device; None where one can.

    For models to ask in each call, so it is cheap, and ``torch.compile`` can fold it away.
    """
    if not _TRITON_INSTALLED:
        return "Triton is not installed"
    if device.type == "cuda":
        if torch.version.hip is not None:  # PyTorch calls AMD's GPUs cuda too
            return "the kernels are for NVIDIA GPUs"
        gpu = torch.cuda.get_device_properties(device)
        if gpu.major < 8:
            return f"the GPU's compute capability {gpu.major}.{gpu.minor} is below 8.0"
        return None
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1":
        return None
    return f"needs a CUDA device, not {device.type} (or TRITON_INTERPRET=1, for tests on the CPU)"
