"""A projection as a run directory, computed at once and in this process.

From then on its tables, plots and citations are made as any run's are.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from retbench import store
from retbench.engine.opening import begin
from retbench.engine.resolve import model_configs
from retbench.errors import UserError
from retbench.machine import host
from retbench.machine.devices import DataSheet
from retbench.machine.provenance import provenance
from retbench.store.results import new_folder
from retbench.suites import projection
from retbench.suites.projection import HERE, ProjectionConfig


def project(given: Mapping[str, Any]) -> store.Run:
    """Compute the lower bounds of memory and time, and write them as a run.

    Args:
        given: fields of :class:`ProjectionConfig`, by their names or flags, as values or as the
            text of a flag.

    Raises:
        UserError: an unknown model, preset or device; a folder that cannot be written.
    """
    config = ProjectionConfig(**ProjectionConfig.parse(given))
    sheets = config.sheets(partial(measured_here, config.dtype))
    models = model_configs(config, config.preset)
    planned = projection.plan(config, sheets)
    out = Path(config.out) if config.out else new_folder(config.suite, config.preset)
    writer = begin(
        config, planned, out, models=projection.describe(config, models),
        provenance=provenance("cpu", config.threads, sys.orig_argv, seed=config.seed),
        hardware={key: asdict(sheet) for key, sheet in sheets.items()},
    )  # fmt: skip
    with writer:
        writer.append(*projection.cells(config, planned, models, sheets))
        writer.finish("finished")
    return store.open_run(out)


def measured_here(dtype: str) -> DataSheet:
    """This machine's device as a data sheet: bandwidth and matmul rate as they are measured now.

    The bandwidth is the best at any size, a cache's on a CPU, so that the bound stays one.

    Raises:
        UserError: nothing here computes in that dtype, or nothing tells how much memory there is.
    """
    import torch

    from retbench.machine import ceilings

    device, threads = host.default_device(), host.physical_cores()
    measured = ceilings.measure(device, (dtype,), threads)
    rate, bandwidth = ceilings.matmul_rate(measured, dtype), ceilings.peak_bandwidth(measured)
    if device == "cuda":
        memory: int | None = torch.cuda.mem_get_info()[1]
    else:
        found = provenance(device, threads, sys.orig_argv)["memory"]
        sizes = (found["total_bytes"], found["limit_bytes"])
        memory = min((size for size in sizes if size is not None), default=None)
    if memory is None:
        raise UserError(f"hardware: nothing says how much memory {HERE} has", "write a data sheet")
    if rate is None or bandwidth is None:
        raise UserError(f"hardware: {HERE} cannot be measured in {dtype}", "name another --dtype")
    return DataSheet(HERE, (), {dtype: rate}, memory, bandwidth, "measured on this machine")
