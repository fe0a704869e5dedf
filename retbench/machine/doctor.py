"""What on this machine would spoil a run, found before it: one check a function.

A check looks at one thing and says what it found; where that is not as it should be, it also says
what to do. To add one, write a function of :class:`Here` and name it in :data:`CHECKS`.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
import shutil
import statistics
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

from retbench.machine import ceilings, energy, host, interference, nvml
from retbench.machine.memory import available_memory_bytes
from retbench.machine.threads import SPIN_LIMITS, cpu_threads, mean_cores, wait_policy
from retbench.metrics import METRICS

LOOK_S = 1.0  # the kernel counts in steps of 10 ms
STOLEN_CORES = 0.02
MEETINGS = 30
GIB = 2**30
ENOUGH_MEMORY_BYTES = 4 * GIB  # the largest working set of the ceilings is a quarter of it
LEAST_MEMORY_BYTES = GIB  # a worker holds half of it once its libraries are loaded
ENOUGH_DISK_BYTES, LEAST_DISK_BYTES = GIB, 2**26
AUDIT_DAYS = 30
QUIET_FLOOR = 0.05

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """What one check found.

    Attributes:
        name: what was looked at.
        state: ``warn`` where numbers made now would be doubtful, ``fail`` where there would be
            none.
        found: what there is, in words.
        remedy: what to do about it; empty where all is well.
    """

    name: str
    state: State
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Here:
    """The machine that is looked at, and where its kernel shows it.

    Attributes:
        device: ``cpu`` or ``cuda``, on which a run would be.
        threads: CPU threads that it would use.
        results: the folder that it would be written to.
        audit: what ``retbench audit`` has stored for such a run, None where it never ran.
        proc: where ``/proc`` is mounted.
        sys: where ``/sys`` is mounted.
    """

    device: str
    threads: int
    results: Path = Path("results")
    audit: Mapping[str, Any] | None = None
    proc: Path = Path("/proc")
    sys: Path = Path("/sys")


def checklist(here: Here) -> Iterator[Check]:
    """The result of every check that applies here, in the order of :data:`CHECKS`."""
    return (check for look in CHECKS if (check := look(here)) is not None)


def plausible_ceilings(here: Here, dtypes: Sequence[str]) -> tuple[dict[str, Any] | None, Check]:
    """This machine's ceilings and what to think of them; None where they cannot be its own.

    What :func:`retbench.machine.ceilings.implausible` doubts is measured once more, and the better
    of both counts.
    """
    known = (here.audit or {}).get("ceilings")
    disturbances = interference.Disturbances(here.device)
    with disturbances.watched():
        measured = ceilings.measure(here.device, dtypes, here.threads)
        if ceilings.implausible(measured, known):
            again = ceilings.measure(here.device, dtypes, here.threads)
            measured = ceilings.merge(measured, again)
    if why := ceilings.implausible(measured, known):
        found = f"twice impossible: {why[0]}"
        return None, Check("ceilings", "fail", found, "stop other programs, and look again")
    if disturbances.flags():
        found = "lower bounds, measured beside other work"
        return measured, Check("ceilings", "warn", found, "stop other programs, and look again")
    return measured, Check("ceilings", "ok", "measured, and plausible")


def load(here: Here) -> Check:
    """Other programs take processors, and the caches of those they leave."""
    busy = mean_cores(partial(interference.foreign_cpu_s, here.proc / "stat"), LOOK_S)
    if busy is None:
        return Check("load", "ok", "not shown by this system")
    found = f"others keep {busy:.2f} cores busy"
    is_quiet = busy <= interference.FOREIGN_CORES
    return _warn_unless(is_quiet, "load", found, "stop other programs, or quote only ratios")


def steal(here: Here) -> Check:
    """A hypervisor gives a virtual machine's processors to others, and its clock runs on."""
    stolen = mean_cores(partial(interference.stolen_cpu_s, here.proc / "stat"), LOOK_S)
    if stolen is None:
        return Check("steal", "ok", "not shown by this system")
    found = f"the hypervisor takes {stolen:.2f} cores away"
    remedy = "rent a machine with processors of its own"
    return _warn_unless(stolen <= STOLEN_CORES, "steal", found, remedy)


def spinning(here: Here) -> Check:
    """Threads that spin while they wait keep a busy machine's processors from those that work."""
    policy = wait_policy()
    found = ", ".join(f"{name}={value}" for name, value in policy.items())
    is_short = policy.get("OMP_WAIT_POLICY", "").lower() != "active" and not any(
        _spins_longer(policy.get(name, limit), limit) for name, limit in SPIN_LIMITS.items()
    )
    return _warn_unless(is_short, "spinning", found, f"unset {' and '.join(policy)}")


def threads(here: Here) -> Check | None:
    """Threads that wait for each other: a processor that others have stops all of them."""
    if here.device != "cpu":
        return None
    if here.threads == 1:
        return Check("threads", "ok", "1, which waits for none")
    with cpu_threads(here.threads):
        meet = interference.barrier(here.threads)
        met_s = [meet() for _ in range(MEETINGS)]
    late = sum(seconds > interference.BARRIER_S for seconds in met_s)
    found = (
        f"{here.threads} threads meet in {statistics.median(met_s) * 1e6:.0f} us, "
        f"{late} of {MEETINGS} times late"
    )
    is_prompt = late <= interference.LATE_MEETINGS * MEETINGS
    remedy = f"stop other programs, or --threads {here.threads - 1}"
    return _warn_unless(is_prompt, "threads", found, remedy)


def frequency(here: Here) -> Check:
    """A processor whose clock follows its load begins each measurement slowly."""
    folder = here.sys / "devices" / "system" / "cpu" / "cpu0" / "cpufreq"
    governor = host.read(folder / "scaling_governor")
    if not governor:
        return Check("frequency", "ok", "not shown: left to the firmware or the hypervisor")
    allowed, most = (host.number(folder / f"{at}_max_freq") for at in ("scaling", "cpuinfo"))
    found = f"governor {governor}"
    if allowed is not None and most is not None and allowed < most:
        found += f", held to {allowed / 1e6:.1f} of {most / 1e6:.1f} GHz"
        return Check("frequency", "warn", found, f"cpupower frequency-set -u {most}")
    if governor != "performance":
        return Check("frequency", "warn", found, "cpupower frequency-set -g performance")
    return Check("frequency", "ok", found)


def memory(here: Here) -> Check:
    """What can be allocated without swapping, under the limits of the control group."""
    free = available_memory_bytes("cpu", here.proc, here.sys / "fs" / "cgroup")
    if free is None:
        return Check("memory", "ok", "not shown by this system")
    found = f"{free / GIB:.1f} GiB can be allocated"
    if free < LEAST_MEMORY_BYTES:
        return Check("memory", "fail", found, "stop other programs, or raise the limit")
    if free < ENOUGH_MEMORY_BYTES:
        return Check("memory", "warn", found, "have 4 GiB free, else long contexts will not fit")
    return Check("memory", "ok", found)


def disk(here: Here) -> Check:
    """Where a run would be written: every sample is committed to it."""
    folder = here.results.absolute()
    while not os.path.exists(folder):
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        found = f"{here.results} cannot be written"
        return Check("disk", "fail", found, "go to a folder of yours, or use --out")
    free = shutil.disk_usage(folder).free
    found = f"{free / GIB:.1f} GiB free for {here.results}"
    if free < LEAST_DISK_BYTES:
        return Check("disk", "fail", found, "make room, or use --out")
    if free < ENOUGH_DISK_BYTES:
        return Check("disk", "warn", found, "make room before a run with a training")
    return Check("disk", "ok", found)


def audit(here: Here) -> Check:
    """Whether it is known what this machine finds between a model and itself."""
    if here.audit is None:
        return Check("audit", "warn", "none of this machine", "retbench audit")
    age = datetime.now(UTC) - datetime.fromisoformat(here.audit["time"])
    days = max(0, age.days)  # a clock can have been set back
    floors = {METRICS[tag].title: math.expm1(log) for tag, log in here.audit["floor"].items()}
    shown = ", ".join(f"{title} {floor:.1%}" for title, floor in floors.items())
    found = f"{days} days old, noise floor {shown}"
    if days > AUDIT_DAYS:
        return Check("audit", "warn", found, "retbench audit, for machines change")
    if max(floors.values(), default=0.0) > QUIET_FLOOR:
        return Check("audit", "warn", found, "retbench audit, when the machine is quiet")
    return Check("audit", "ok", found)


def gpu(here: Here) -> Check:
    """Whether there is a GPU, and torch was built for it."""
    usable = host.cuda_available()
    known = nvml.computing_gpu() if usable else nvml.gpu()
    driver = {} if known is None else known.described()
    answer = ", ".join(str(driver[key]) for key in ("name", "driver_version") if driver.get(key))
    if not usable:
        if not answer:
            return Check("gpu", "ok", "none: runs are on the CPU")
        return Check("gpu", "warn", f"{answer}, which torch cannot use", "install a CUDA build")
    import torch

    built = torch.cuda.get_arch_list()
    major, minor = torch.cuda.get_device_capability()
    found = f"{answer or torch.cuda.get_device_name()}, torch for CUDA {torch.version.cuda}"
    # Binaries of one major architecture run on its later members.
    majors = {match[1] for name in built if (match := re.match(r"sm_(\d+)\d", name))}
    if built and str(major) not in majors:
        found += f" without kernels for sm_{major}{minor}"
        return Check("gpu", "fail", found, "install a build of torch for this GPU")
    return Check("gpu", "ok", found)


def gpu_quiet(here: Here) -> Check | None:
    """Whether the GPU is held back, or others compute on it."""
    if here.device == "cpu":
        return None
    flags = interference.gpu_flags(1)
    if interference.THROTTLED in flags:
        return Check("gpu clock", "warn", "throttled", "cool the GPU, or raise its power limit")
    if flags:
        return Check("gpu clock", "warn", "other processes compute on the GPU", "stop them")
    return Check("gpu clock", "ok", "not held back, and nobody else computes")


def energy_counter(here: Here) -> Check:
    """Whether the energy of what is measured is counted."""
    counter = energy.counter(here.device, here.sys / "class/powercap")
    if counter is not None:
        return Check("energy", "ok", f"counted by {counter.source.upper()}")
    if here.device == "cuda" and importlib.util.find_spec("pynvml") is None:
        return Check("energy", "warn", "not available", "pip install nvidia-ml-py")
    if here.device == "cpu" and energy.rapl_zones(here.sys / "class/powercap"):
        remedy = "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj"
        return Check("energy", "warn", "counted, for root alone", remedy)
    return Check("energy", "ok", "not available: this machine shows no counter")


def compiler(here: Here) -> Check:
    """What ``--mode compile`` needs: Triton on a GPU, a C++ compiler and Python's headers else."""
    named = os.environ.get("CXX", "g++")
    if here.device == "cuda":
        missing = "" if importlib.util.find_spec("triton") else "triton"
        remedy = "pip install triton"
    elif shutil.which(named) is None:
        missing, remedy = named, "install a C++ compiler, or name it in CXX"
    else:
        header = Path(sysconfig.get_path("include")) / "Python.h"
        missing, remedy = "" if header.exists() else "Python.h", "install Python's headers"
    if missing:
        found = f"{missing} is missing: --mode compile is impossible"
        return Check("compiler", "warn", found, remedy)
    return Check("compiler", "ok", "triton" if here.device == "cuda" else named)


def packages(here: Here) -> Check:
    """Optional packages, without which a part of the suites is unsupported."""
    purposes = {"fla": "operations fla-*", "submitit": "--launcher slurm"}
    found = [
        name if importlib.util.find_spec(name) else f"{name} not installed (for {what})"
        for name, what in purposes.items()
    ]
    return Check("packages", "ok", ", ".join(found))


CHECKS: tuple[Callable[[Here], Check | None], ...] = (
    load, steal, spinning, threads, frequency, memory, disk, audit, gpu, gpu_quiet,
    energy_counter, compiler, packages,
)  # fmt: skip
"""All checks, in the order in which they are made; one that does not apply gives None."""


def _warn_unless(is_well: bool, name: str, found: str, remedy: str) -> Check:
    return Check(name, "ok", found) if is_well else Check(name, "warn", found, remedy)


def _spins_longer(value: str, limit: str) -> bool:
    """Whether a spin limit in force, perhaps a word such as INFINITE, is above our own."""
    return int(value) > int(limit) if value.isdigit() else True
