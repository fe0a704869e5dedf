"""What a worker process does before it measures: its imports, its limits, its model."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from retbench import suites
from retbench.config.plan import Contender
from retbench.config.run import RunConfig
from retbench.distributed.process_group import ALONE, Ranks
from retbench.machine.memory import available_memory_bytes, limit_further_memory
from retbench.suites.session import Session
from retbench.workers import CPUS

_MEMORY_KEPT_FREE = 0.05


def open_session(
    config: RunConfig,
    contender: Contender,
    block: int,
    process: int,
    ceilings: dict[str, Any] | None = None,
    ranks: Ranks = ALONE,
) -> Session:
    """Build what a contender is measured by and what measures it, in this process.

    On a machine of several ranks each takes a GPU of its own.

    Raises:
        CellFailure: if it cannot be had on this machine.
    """
    import torch

    from retbench.machine.clock import Clock
    from retbench.machine.memory_meter import meter_of

    suite, measurer = suites.get(config.suite), suites.measurer_of(config.suite)
    suite.data(config)  # read the text now: it belongs to the meter's baseline
    options = suite.model_options(config)
    measurer.load(config)
    device = torch.device(ranks.device(config.device))
    meter = meter_of(config.device)
    with meter.exact():
        subject = measurer.build(config, contender, options, device)
    clock = Clock(config.device)
    return Session(
        config, contender, block, process, subject, device, clock, meter, ceilings, options, ranks
    )


def prepare_process(config: RunConfig) -> None:
    """Import torch and third parties' models, set the threads, and keep to their processors.

    Not before: the imports of several workers may go on side by side.
    """
    import torch

    from models.registry import families, load_plugin

    torch.set_num_threads(config.threads)
    families()
    for plugin in config.plugins:
        load_plugin(plugin)
    keep_to_cpus(os.environ.get(CPUS, ""))


def keep_to_cpus(cpus: str) -> None:
    """Compute on these logical processors alone, commas between; on any where there are none.

    So do all threads that imports have started, and those that any of them starts.
    """
    if cpus:
        with contextlib.suppress(OSError, ValueError):  # one may have gone since
            chosen = [int(cpu) for cpu in cpus.split(",")]
            for thread in os.listdir("/proc/self/task"):
                os.sched_setaffinity(int(thread), chosen)


def bound_memory(config: RunConfig) -> None:
    """Make allocations beyond the run's limit fail."""
    import torch

    if config.device == "cpu":
        _bound_host_memory(config.memory_limit_gib)
    elif config.memory_limit_gib is not None:
        _, total = torch.cuda.mem_get_info()
        share = min(1.0, config.memory_limit_gib * 2**30 / total)
        torch.cuda.set_per_process_memory_fraction(share)


def _bound_host_memory(limit_gib: float | None) -> None:
    """Make allocations beyond the limit, or beyond what is free, fail rather than kill."""
    available = available_memory_bytes("cpu")
    limits = [] if available is None else [int(available * (1 - _MEMORY_KEPT_FREE))]
    if limit_gib is not None:
        limits.append(int(limit_gib * 2**30))
    if limits:
        limit_further_memory(min(limits))


def volunteer_for_the_oom_killer() -> None:
    """If the machine runs out of memory, let it be this process that goes, not the parent."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
