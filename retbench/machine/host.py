"""The processors and GPUs that a process may use."""

from __future__ import annotations

import os
from pathlib import Path


def default_device() -> str:
    """``cuda`` where there is a GPU that torch can use, else ``cpu``."""
    return "cuda" if cuda_available() else "cpu"


def cuda_available() -> bool:
    """Whether torch can use a GPU; without a GPU's device file torch need not be asked."""
    if not any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")):
        return False
    import torch

    return torch.cuda.is_available()


def physical_cores() -> int:
    """Physical cores this process may use: hyperthreads share one, a container's quota caps it."""
    allowed = os.sched_getaffinity(0)
    siblings = {_siblings(cpu) for cpu in allowed}
    return max(1, min(len(siblings), _quota() or len(siblings)))


def _siblings(cpu: int) -> str:
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
    except OSError:
        return str(cpu)


def _quota() -> int | None:
    """Whole cores that a control group allows (cgroup v2), None for no limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, int(quota) // int(period))
    except (OSError, ValueError):
        return None
