"""The commands on devices: what this machine can do and be trusted with, and others' bounds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from retbench import suites
from retbench.cli.options import AsJson, Quiet, options, path_option, suite_names, with_options
from retbench.config.run import ModelsConfig
from retbench.errors import CheckFailed, UserError
from retbench.suites.inference import InferenceConfig
from retbench.suites.projection import ProjectionConfig


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(project)
    app.command()(doctor)
    app.command()(audit)


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
    from retbench import api, report
    from retbench.cli.console import Console
    from retbench.engine.projection import project as projected
    from retbench.report.projection import DERIVATION

    run = projected(given)
    content = report.content_of(run)
    console = Console(quiet=quiet, as_json=as_json)
    with api.explained(run):
        files = report.write_all(run, content)
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
        typer.Option(
            help="[default: inference]",
            metavar="inference|training|kernels",
            autocompletion=suite_names,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="The model, or operation, that is compared with itself.", metavar="NAME"),
    ] = None,
    slowdown: Annotated[
        str,
        typer.Option(help="By how much a copy of it is slowed down, to be found.", metavar="SHARE"),
    ] = "5%",
    out: Annotated[Path | None, path_option("Keep the run here. [default: nowhere]")] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    **given: Any,
) -> None:
    """Compare a model with itself, and with a slowed copy. Can a difference be trusted here?"""
    from retbench import api
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
    progress = console.progress(config)
    try:
        record = auditing.audit(config, slowdown=planted, out=out, observer=progress)
    finally:
        progress.close()
    console.audit(record, auditing.remember(record))
    if out is not None:
        api.write_derived(api.open_run(out))
