"""The lines that go with every table and figure: what was measured, on what, and how well."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from retbench.metrics import METRICS
from retbench.report import terms
from retbench.report.efficiency import processes_of
from retbench.report.units import counted, rough

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
        return (provenance.get("gpu") or {}).get("name") or "unknown GPU"
    name = provenance.get("processor", {}).get("name") or "unknown processor"
    return f"{name}, {counted(configuration['threads'], 'thread')}"


def conditions(meta: Mapping[str, Any]) -> str:
    """Hardware, dtype, mode, preset, profile and blocks, on one line.

    Where several processes share the work, their number follows the hardware, of which each has as
    much. A smoke run is stamped so that nobody cites it.
    """
    configuration = meta["configuration"]
    size, profile = processes_of(meta), configuration["profile"]
    return " · ".join(filter(None, (
        hardware(meta),
        f"{size} processes ({configuration['parallel']})" if size > 1 else None,
        *(configuration.get("dtypes") or [configuration.get("dtype")]),
        *(configuration.get(name) for name in ("mode", "preset")),
        f"{'SMOKE (no claims)' if profile == 'smoke' else f'profile {profile}'}, "
        f"{counted(measured_blocks(meta), 'block')}",
    )))  # fmt: skip


def measured_blocks(meta: Mapping[str, Any]) -> int:
    """How many blocks were measured: a plan that may stop early has the most there may be."""
    if stopped := meta["stopped"]:
        return int(stopped["blocks"])
    return len(meta["block_s"]) if "least" in meta["plan"] else int(meta["plan"]["blocks"])


def noise_floor(meta: Mapping[str, Any]) -> str:
    """What this machine was found to tell from nothing, and the margin that verdicts use.

    Of each metric, and whether the audit found what was planted.
    """
    audit, floors = meta["audit"], terms.floors(meta)
    found = "not audited"
    if floors:
        by_metric = ", ".join(
            f"{METRICS[tag].title} {rough(math.expm1(floor))}" for tag, floor in floors.items()
        )
        found = (
            f"{by_metric} (audit of {str(audit['time'])[:10]}: {audit['found']} of "
            f"{audit['planted']} planted differences of {audit['slowdown']:.0%} found)"
        )
    return f"noise floor: {found}; margin of verdicts: {rough(terms.margin(meta))}"


def environment(meta: Mapping[str, Any]) -> str | None:
    """The variables that decide how fast something computes; None where none was set."""
    found = meta["provenance"].get("environment")
    if not found:
        return None
    return "environment: " + " ".join(f"{name}={value}" for name, value in found.items())


def ended(meta: Mapping[str, Any]) -> str | None:
    """Why a run that could have gone on did not, and what is still open; None for any other."""
    stopped = meta["stopped"]
    if not stopped:
        return None
    said = f"ended after {stopped['blocks']} blocks: {stopped['why']}"
    still = len(stopped.get("open", ()))
    return f"{said}; {counted(still, 'ratio')} open" if still else said
