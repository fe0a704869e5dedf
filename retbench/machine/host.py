"""The processors and GPUs that a process may use, and how the system is asked about itself."""

from __future__ import annotations

import math
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
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
    cores = len(cpu_of_each_core())
    return max(1, min(cores, int(quota_cores() or cores)))


def cpu_of_each_core() -> list[int]:
    """The first logical processor of each physical core that this process may use, ascending."""
    first: dict[str, int] = {}
    for cpu in sorted(usable_cpus()):
        first.setdefault(_siblings(cpu), cpu)
    return list(first.values())


def max_khz(cpu: int) -> int | None:
    """The highest clock of a logical processor in kHz; None where the system does not say."""
    return number(f"/sys/devices/system/cpu/cpu{cpu}/cpufreq/cpuinfo_max_freq")


def idle_ticks(stat: Path = Path("/proc/stat")) -> dict[int, int]:
    """For how many ticks of the kernel each logical processor has been idle; empty if unknown."""
    fields = [line.split() for line in read(stat).splitlines()]
    return {
        int(name.removeprefix("cpu")): int(idle) + int(waiting)
        for name, _, _, _, idle, waiting, *_ in (each for each in fields if len(each) > 5)
        if name.startswith("cpu") and name != "cpu"
    }


def granted_cores() -> int:
    """Processors that this process is granted, the tightest limit counting: affinity or quota."""
    usable = len(usable_cpus())
    quota = quota_cores()
    return usable if quota is None else max(1, min(usable, math.ceil(quota)))


def usable_cpus() -> set[int]:
    """The logical processors that this process may use: all, where the system does not say."""
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def quota_cores(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> float | None:
    """Cores that the tightest of the process's control groups grants; None where none limits it.

    Args:
        root: where the control groups are mounted, version 1 or 2.
        membership: the process's ``cgroup`` file.
    """
    quotas = [
        _quota(group / "cpu.max") if version == 2 else _quota(
            group / "cpu.cfs_quota_us", group / "cpu.cfs_period_us"
        )
        for version, group in control_groups("cpu", root, membership)
    ]  # fmt: skip
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota(*files: Path) -> float | None:
    quota, _, period = " ".join(map(read, files)).partition(" ")
    usable = quota.isdigit() and period.isdigit() and int(period) > 0
    return int(quota) / int(period) if usable else None


def control_groups(controller: str, root: Path, membership: Path) -> Iterator[tuple[int, Path]]:
    """The process's control groups, with the version of each: its own, and all above them.

    A group is bound by its ancestors' limits too; inside a container they may be hidden.

    Args:
        controller: of version 1, such as ``cpu``.
        root: where they are mounted.
        membership: the process's ``cgroup`` file.
    """
    for line in read(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            version, top = 2, root
        elif controller in controllers.split(","):
            version, top = 1, root / controller
            top = top if top.is_dir() else root / controllers
        else:
            continue
        group = top / path.lstrip("/")
        while group.is_relative_to(top):
            yield version, group
            group = group.parent


def read(file: Path | str) -> str:
    """What a small file of the system holds, without spaces around; empty if it cannot be read."""
    try:
        return Path(file).read_text(errors="replace").strip()
    except OSError:
        return ""


def number(file: Path | str) -> int | None:
    """The whole number that a small file of the system holds; None for anything else."""
    text = read(file)
    return int(text) if text.isdigit() else None


def field_bytes(file: Path, field: str) -> int | None:
    """A field of a file of the system that has lines ``Name:  123 kB``; None where it has none."""
    found = re.search(rf"^{field}:\s+(\d+) kB$", read(file), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def output(
    command: Sequence[str], timeout_s: float = 20.0, environment: Mapping[str, str] = os.environ
) -> str:
    """What a command prints; empty if it is not there, fails or takes too long."""
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=timeout_s, check=True,
            stdin=subprocess.DEVNULL, env=environment,
            encoding="utf-8", errors="surrogateescape",  # whatever the locale can write
        )  # fmt: skip
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _siblings(cpu: int) -> str:
    """A name of the core that a logical processor is on."""
    folder = f"/sys/devices/system/cpu/cpu{cpu}/topology"
    return read(f"{folder}/thread_siblings_list") or str(cpu)
