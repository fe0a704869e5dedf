"""The command ``run``; see :mod:`retbench.cli`, which registers it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.main import get_command

from retbench import api, suites
from retbench.cli.exits import fail
from retbench.cli.options import (
    AsJson,
    Quiet,
    of_all_suites,
    option,
    path_option,
    suite_names,
    with_options,
)
from retbench.config.run import WHERE, RunConfig
from retbench.data.config import TextData
from retbench.distributed.launch import refuse_launch
from retbench.engine.forecast import forecast
from retbench.errors import UserError
from retbench.machine import ceilings, memory
from retbench.workers import agent

if TYPE_CHECKING:
    from retbench.cli.console import Console

EXAMPLES = """\b
Examples:
  retbench run inference
  retbench run perplexity --data 'books/*.txt' --tokenizer bpe:4096 --preset 10m
  retbench run inference --context 512:32768 --batch 1,8,32 --profile report --dry-run
  retbench run --resume --out results/mine
"""


def asked(words: list[str]) -> dict[str, Any]:
    """What the words behind ``retbench run`` ask for: the suite, and options by name.

    Raises:
        click.UsageError: there is no such option.
    """
    app = typer.Typer()
    app.command()(run)
    given = get_command(app).make_context("run", words).params
    options = {key: given[key] for key in of_all_suites() if given[key] not in (None, [], ())}
    return {"suite": given["named"] or given["suite"], **options}


@with_options(of_all_suites())
def run(
    suite: Annotated[
        str | None,
        typer.Argument(help="[default: inference]", metavar="SUITE", autocompletion=suite_names),
    ] = None,
    named: Annotated[
        str | None,
        typer.Option("--suite", help="The same.", autocompletion=suite_names, hidden=True),
    ] = None,
    nodes: Annotated[
        int, option("Machines that --processes run on, equally many on each.", "N", WHERE)
    ] = 1,
    node_rank: Annotated[int, option("Of this machine; the first, 0, writes.", "K", WHERE)] = 0,
    rendezvous: Annotated[
        str, option("Of the first machine, where all meet.", "HOST:PORT", WHERE)
    ] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show cells, minutes and memory; write nothing.")
    ] = False,
    config: Annotated[
        Path | None, path_option("TOML file with the same keys; flags win.", "FILE")
    ] = None,
    launcher: Annotated[
        str,
        option("slurm: each block as a job of a cluster. [default: local]", "local|slurm", WHERE,
               show_default=False),
    ] = "local",
    slurm: Annotated[
        list[str] | None,
        option("Ask for a partition, a time in minutes... Repeatable.", "KEY=VALUE", WHERE),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    **given: Any,
) -> None:  # fmt: skip
    """Measure a suite; write samples, tables and plots. Without a name, it is inference."""
    from retbench.cli.console import Console

    refuse_launch()
    if suite is not None and named is not None and suite != named:
        raise UserError(f"two suites are named, {suite} and {named}", "name one")
    console = Console(quiet=quiet, as_json=as_json)
    given |= {"resume": resume, "config_file": config, "launcher": launcher, "slurm": slurm or ()}
    _run(console, suite or named, given, agent.Nodes(nodes, node_rank, rendezvous), dry_run=dry_run)


def _run(
    console: Console,
    suite: str | None,
    given: Mapping[str, Any],
    nodes: agent.Nodes,
    *,
    dry_run: bool,
) -> None:
    """Measure, or say what would be; on a machine that is not the first do what that asks."""
    job = api.prepare(suite, nodes=nodes, **given)
    here = job.launcher is None
    if dry_run:
        _show_forecast(console, job.config, here=here)
        return
    if nodes.rank > 0:
        agent.serve(job.config, nodes, console.show)
        return
    if here and isinstance(job.config, TextData):
        job.config.dataset(console.reading)  # once: the run finds it encoded
    try:
        with console.progress(job.config, side_by_side=not here) as progress:
            done = api.carry_out(job, progress)
            content, files = api.write_derived(done)
    finally:
        agent.release(job.config, nodes)
    console.report(content, files)
    statuses = done.statuses()
    if len(statuses) and not (statuses["status"] == "ok").any():  # a failure to whatever started it
        first = statuses.iloc[0]
        fail(f"no cell of {done.path} succeeded; the first, of {first['model']}: {first['cause']}")


def _show_forecast(console: Console, config: RunConfig, *, here: bool) -> None:
    """Print what a run would need; of a machine that is not here nothing is known."""
    plan = suites.get(config.suite).plan(config)
    measured = available = None
    if here:
        measured = ceilings.measure(config.device, config.computed_dtypes, config.threads)
        available = memory.available_memory_bytes(config.device)
    if config.memory_limit_gib is not None:
        limit = int(config.memory_limit_gib * 2**30)
        available = limit if available is None else min(limit, available)
    console.forecast(forecast(config, plan, measured), available)
