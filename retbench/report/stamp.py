"""The lines that go with every table and figure: what was measured, on what, and how well."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from retbench.metrics import METRICS
from retbench.report import terms
from retbench.report.efficiency import processes_of
from retbench.report.units import rough

HOW_TO_READ = (
    "ratio = subject / baseline, the geometric mean of the blocks' paired ratios (so not the "
    "quotient of two cells, each a median of medians); below 1 the subject is faster (or smaller), "
    "above 1 slower (or larger)"
)


def hardware(meta: Mapping[str, Any]) -> str:
    """The device that computed: the GPU's name, or the processor's with the threads used."""
    configuration = meta["configuration"]
    provenance = meta["provenance"]
    if configuration["device"] == "cuda":
        return _name(provenance.get("gpu")) or "unknown GPU"
    name = _name(provenance.get("processor")) or "unknown processor"
    threads = configuration["threads"]
    return f"{name}, {threads} thread{'s' if threads != 1 else ''}"


def _name(described: Any) -> str:
    """The name in a provenance entry: a string, a mapping with a name, or a list of those."""
    if isinstance(described, str):
        return described
    if isinstance(described, Mapping):
        return str(described.get("name") or described.get("model") or "")
    if isinstance(described, (list, tuple)) and described:
        return _name(described[0])
    return ""


def conditions(meta: Mapping[str, Any]) -> str:
    """Hardware, dtype, mode, preset, profile and blocks, on one line."""
    configuration = meta["configuration"]
    blocks = measured_blocks(meta)
    dtypes = configuration.get("dtypes") or [configuration.get("dtype")]
    named = [*dtypes, *(configuration.get(name) for name in ("mode", "preset"))]
    return " · ".join((
        hardware(meta),
        *processes(meta),
        *(given for given in named if given),
        f"{profile(meta)}, {blocks} block{'s' if blocks != 1 else ''}",
    ))  # fmt: skip


def measured_blocks(meta: Mapping[str, Any]) -> int:
    """How many blocks were measured: a plan that may stop early has the most there may be."""
    if stopped := meta["stopped"]:
        return int(stopped["blocks"])
    return len(meta["block_s"]) if "least" in meta["plan"] else int(meta["plan"]["blocks"])


def processes(meta: Mapping[str, Any]) -> tuple[str, ...]:
    """How many share the work and how, where several do: their threads or GPUs are one's each."""
    configuration = meta["configuration"]
    size = processes_of(meta)
    return (f"{size} processes ({configuration['parallel']})",) if size > 1 else ()


def profile(meta: Mapping[str, Any]) -> str:
    """The profile; a smoke run is stamped so that nobody cites it."""
    name = str(meta["configuration"]["profile"])
    return "SMOKE (no claims)" if name == "smoke" else f"profile {name}"


def noise_floor(meta: Mapping[str, Any]) -> str:
    """What this machine was found to tell from nothing, and the margin that verdicts use."""
    return "; ".join(
        (f"noise floor: {_floors(meta)}", f"margin of verdicts: {rough(terms.margin(meta))}")
    )


def environment(meta: Mapping[str, Any]) -> str | None:
    """The variables that decide how fast something computes; None where none was set."""
    found = meta["provenance"].get("environment")
    if not found:
        return None
    return "environment: " + " ".join(f"{name}={value}" for name, value in found.items())


def _floors(meta: Mapping[str, Any]) -> str:
    """The floor of each metric, and whether the audit found what was planted."""
    audit, floors = meta["audit"], terms.floors(meta)
    if floors:
        by_metric = ", ".join(
            f"{METRICS[metric].title} {rough(math.expm1(floor))}"
            for metric, floor in floors.items()
        )
        return (
            f"{by_metric} (audit of {str(audit['time'])[:10]}: {audit['found']} of "
            f"{audit['planted']} planted differences of {audit['slowdown']:.0%} found)"
        )
    return "not audited"


def ended(meta: Mapping[str, Any]) -> str | None:
    """Why a run that could have gone on did not, and what is still open; None for any other."""
    stopped = meta["stopped"]
    if not stopped:
        return None
    said = f"ended after {stopped['blocks']} blocks: {stopped['why']}"
    still = len(stopped.get("open", ()))
    return said + (f"; {still} ratio{'s' if still > 1 else ''} open" if still else "")
