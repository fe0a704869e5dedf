"""The processors and GPUs that a process may use, and how the system is asked about itself."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
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
    return max(1, min(len(siblings), int(quota_cores() or len(siblings))))


def quota_cores() -> float | None:
    """Cores that the control group grants (version 2); None where it sets no limit."""
    quota, _, period = read("/sys/fs/cgroup/cpu.max").partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def read(file: Path | str) -> str:
    """What a small file of the system holds, without spaces around; empty if it cannot be read."""
    try:
        return Path(file).read_text(errors="replace").strip()
    except OSError:
        return ""


def output(command: Sequence[str], timeout_s: float = 20.0) -> str:
    """What a command prints; empty if it is not there, fails or takes too long."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, check=True,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def smi(query: str) -> str:
    """nvidia-smi's bare answer to a query about the first GPU that CUDA shows to this process."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0] or "0"
    return output(["nvidia-smi", query, "--format=csv,noheader", f"--id={first}"], timeout_s=10.0)


def _siblings(cpu: int) -> str:
    """A name of the core that a logical processor is on."""
    folder = f"/sys/devices/system/cpu/cpu{cpu}/topology"
    return read(f"{folder}/thread_siblings_list") or str(cpu)
