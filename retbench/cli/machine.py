"""The commands on devices: what this machine can do and be trusted with, and others' bounds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from retbench import api, suites
from retbench.cli.options import (
    AsJson,
    Quiet,
    option,
    options,
    path_option,
    suite_names,
    with_options,
)
from retbench.config.run import ModelsConfig
from retbench.errors import CheckFailed, UserError
from retbench.suites.inference import InferenceConfig
from retbench.suites.projection import ProjectionConfig


@with_options(
    options(
        ProjectionConfig, "models", "preset", "ffn", "overrides", "plugins", "context", "batch",
        "batch_context", "dtype", "hardware", "out",
    )
)  # fmt: skip
def project(
    quiet: Quiet = False,
    as_json: AsJson = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Print how the bounds of one cell come about.")
    ] = False,
    **given: Any,
) -> None:
    """Compute what no device can be better at: least memory and time, from data sheets."""
    from retbench.cli.console import Console
    from retbench.engine.projection import project as projected
    from retbench.report.projection import DERIVATION

    content, files = api.write_derived(projected(given))
    console = Console(quiet=quiet, as_json=as_json)
    console.report(content, files)
    if explain:
        console.tables(table for table in content.tables if table.name == DERIVATION)


@with_options(options(ModelsConfig, "device", "threads"))
def doctor(as_json: AsJson = False, **given: Any) -> None:
    """Say what here would spoil a run, and what to do; measure bandwidth and matmul rate."""
    from retbench.cli.console import Console
    from retbench.config.requirements import machine
    from retbench.engine import audit as auditing
    from retbench.engine.resolve import resolve
    from retbench.machine import doctor as machine_doctor
    from retbench.machine.provenance import provenance

    device, threads = machine(given.get("device"), given.get("threads"))
    usual = resolve(device=device, threads=given.get("threads"))  # as a timed run has it
    found = provenance(device, threads, sys.orig_argv)
    known = auditing.known(usual, found["machine_id"])
    here = machine_doctor.Here(device, threads, audit=known)
    checks = list(machine_doctor.checklist(here))
    dtypes = ("float32", "bfloat16") + (("float16",) if device == "cuda" else ())
    ceilings, plausible = machine_doctor.plausible_ceilings(here, dtypes)
    checks.append(plausible)
    Console(as_json=as_json).machine(checks, found, ceilings)
    if failed := [check.name for check in checks if check.state == "fail"]:
        raise CheckFailed(f"this machine fails in {', '.join(failed)}")


@with_options(
    options(
        InferenceConfig, "preset", "profile", "mode", "dtype", "device", "threads",
        context="2048", minutes="3, or those of another profile",
    )
)  # fmt: skip
def audit(
    suite: Annotated[
        str | None,
        option("[default: inference]", "inference|training|kernels", autocompletion=suite_names),
    ] = None,
    model: Annotated[
        str | None, option("The model, or operation, that is compared with itself.", "NAME")
    ] = None,
    slowdown: Annotated[
        str, option("By how much a copy of it is slowed down, to be found.", "SHARE")
    ] = "5%",
    out: Annotated[Path | None, path_option("Keep the run here. [default: nowhere]")] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    **given: Any,
) -> None:
    """Compare a model with itself, and with a slowed copy. Can a difference be trusted here?"""
    from retbench.cli.console import Console
    from retbench.config import values
    from retbench.engine import audit as auditing
    from retbench.engine.resolve import resolve

    planted = values.read("slowdown", values.share, slowdown)
    if suite in suites.names() and not suites.get(suite).takes_turns:
        raise UserError(f"suite: {suite} has nothing that is timed in turns")
    if model is not None and len(values.names(model)) > 1:
        raise UserError("model: one model is compared with itself", "name a single one")
    brief = {} if given.get("profile", "quick") != "quick" else {"minutes": 3}
    subject = {"operations" if suite == "kernels" else "models": model}
    config = resolve(suite, **{"context": "2048", **brief, **given, **subject})
    if "threads" not in given:
        config = api.beside_others(config)
    console = Console(quiet=quiet, as_json=as_json)
    auditing.require_storable()
    with console.progress(config) as progress:
        record = auditing.audit(config, slowdown=planted, out=out, observer=progress)
    console.audit(record, auditing.remember(record))
    if out is not None:
        api.write_derived(api.open_run(out))
