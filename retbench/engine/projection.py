"""A projection as a run directory, computed at once and in this process.

From then on its tables, plots and citations are made as any run's are.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from retbench import store
from retbench.config import plugins
from retbench.engine.resolve import model_configs
from retbench.machine.provenance import provenance
from retbench.store.results import new_folder
from retbench.suites import projection
from retbench.suites.projection import ProjectionConfig


def project(given: Mapping[str, Any]) -> store.Run:
    """Compute the lower bounds of memory and time, and write them as a run.

    Args:
        given: fields of :class:`ProjectionConfig`, by their names or flags, as values or as the
            text of a flag.

    Raises:
        UserError: an unknown model, preset or device; a folder that cannot be written.
    """
    config = ProjectionConfig(**ProjectionConfig.parse(given))
    sheets = config.sheets()
    models = model_configs(config, config.preset)
    planned = projection.plan(config, sheets)
    out = Path(config.out) if config.out else new_folder(config.suite, config.preset)
    known = plugins.published(config.plugins, out)
    meta: dict[str, Any] = {
        "suite": config.suite,
        "configuration": config.to_json() | {"out": None, "plugins": known},
        "plan": planned.to_json(),
        "data": None,
        "models": projection.describe(config, models),
        "provenance": provenance("cpu", config.threads, sys.orig_argv, seed=config.seed),
        "resumed": [],
        "hardware": {key: asdict(sheet) for key, sheet in sheets.items()},
        "ceilings": None,
        "audit": None,
        "primary": [],
        "block_s": {},
        "stopped": None,
        "warnings": [],
    }
    with store.RunWriter.create(out, meta) as writer:
        writer.append(*projection.cells(config, planned, models))
        writer.finish("finished")
    return store.open_run(out)
