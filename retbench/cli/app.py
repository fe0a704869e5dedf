"""The command line: flags in, one call each, errors as one line on stderr.

Exit status: 0 done, 1 a bug or a failed check, 2 a mistake of the user's, 3 a training that
diverged or a run that is worse than an earlier one, 130 interrupted. Heavy imports happen inside
the commands, so that ``plot`` and ``--help`` are quick.
"""

from __future__ import annotations

import atexit
import difflib
import errno
import os
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.main import get_command

from retbench import __version__, suites
from retbench.cli import machine, results, train
from retbench.cli.options import (
    AsJson,
    Quiet,
    RunCommand,
    of_all_suites,
    options,
    suite_names,
    with_options,
)
from retbench.config.run import WHERE, ModelsConfig
from retbench.data.config import TextData
from retbench.distributed.launch import leave_to_first, refuse_launch
from retbench.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USER_ERROR, Interrupted, UserError
from retbench.machine.threads import limit_spinning

if TYPE_CHECKING:
    from retbench.cli.console import Console
    from retbench.config.run import RunConfig
    from retbench.store import Run
    from retbench.workers.agent import Nodes

# The base of typer's usage errors: click's own class, or the one typer carries since 0.2x.
_UsageProblem: type[Exception] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="retbench",
    help="Does a RetNet beat a Transformer of the same size, on this machine?",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Folder = Annotated[Path, typer.Argument(help="A run directory.", metavar="DIR")]

_EXAMPLES = """\b
Examples:
  retbench run inference
  retbench run perplexity --data 'books/*.txt' --tokenizer bpe:4096 --preset 10m
  retbench run inference --context 512:32768 --batch 1,8,32 --profile report --dry-run
  retbench run --resume --out results/mine
"""


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"retbench {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(cls=RunCommand, epilog=_EXAMPLES)
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
        int,
        typer.Option(
            metavar="N",
            help="Machines that --processes run on, equally many on each.",
            rich_help_panel=WHERE,
        ),
    ] = 1,
    node_rank: Annotated[
        int,
        typer.Option(
            metavar="K", help="Of this machine; the first, 0, writes.", rich_help_panel=WHERE
        ),
    ] = 0,
    rendezvous: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            help="Of the first machine, where all meet.",
            rich_help_panel=WHERE,
        ),
    ] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show cells, minutes and memory; write nothing.")
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(help="TOML file with the same keys; flags win.", metavar="FILE"),
    ] = None,
    launcher: Annotated[
        str,
        typer.Option(
            help="slurm: each block as a job of a cluster. [default: local]",
            metavar="local|slurm",
            show_default=False,
            rich_help_panel=WHERE,
        ),
    ] = "local",
    slurm: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Ask for a partition, a time in minutes... Repeatable.",
            rich_help_panel=WHERE,
        ),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    **given: Any,
) -> None:
    """Measure a suite; write samples, tables and plots. Without a name, it is inference."""
    from retbench.cli.console import Console
    from retbench.workers.agent import Nodes

    refuse_launch()
    if suite is not None and named is not None and suite != named:
        raise UserError(f"two suites are named, {suite} and {named}", "name one")
    console = Console(quiet=quiet, as_json=as_json)
    given |= {"resume": resume, "config_file": config, "launcher": launcher, "slurm": slurm or ()}
    _run(console, suite or named, given, Nodes(nodes, node_rank, rendezvous), dry_run=dry_run)


def _run(
    console: Console, suite: str | None, given: Mapping[str, Any], nodes: Nodes, *, dry_run: bool
) -> None:
    """Measure, or say what would be; on a machine that is not the first do what that asks."""
    from retbench import api, report
    from retbench.workers import agent

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
    progress = console.progress(job.config, side_by_side=not here)
    try:
        done, files = api.carry_out(job, progress)
    finally:
        progress.close()
        agent.release(job.config, nodes)
    console.report(report.content_of(done), files)
    _require_a_number(done)


@app.command()
def plot(
    folder: Folder,
    paper: Annotated[
        bool,
        typer.Option("--paper", help="PDF for print instead, in plots/paper/, and captions.tex."),
    ] = False,
    width: Annotated[
        str | None, typer.Option(help="Of a figure on paper, e.g. 8.3cm. [default: 3.25in]")
    ] = None,
    shown: Annotated[
        bool, typer.Option("--open", help="Show the report in a browser when it is made.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Make a run's plots and HTML report anew from its samples."""
    import webbrowser

    from retbench import api
    from retbench.cli.console import Console
    from retbench.machine.clock import garbage_collection_off

    if width and not paper:
        raise UserError("width: a plot for the screen has its own", "add --paper")
    with garbage_collection_off():  # a fifth of the time, and all that is read stays in use
        opened = api.open_run(folder)
        files = api.write_paper(opened, width or "3.25in") if paper else api.write_plots(opened)
    Console(quiet=quiet).files(folder, files)
    for page in (file for file in files if shown and file.suffix == ".html"):
        webbrowser.open(page.resolve().as_uri())


@app.command()
def table(folder: Folder, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Make a run's tables anew from its samples, and print them."""
    from retbench import api, report
    from retbench.cli.console import Console
    from retbench.machine.clock import garbage_collection_off

    with garbage_collection_off():  # as in plot
        opened = api.open_run(folder)
        content = report.content_of(opened)
        files = api.write_tables(opened, content)
    Console(quiet=quiet, as_json=as_json).report(content, files, tables=True)


@app.command()
@with_options(options(ModelsConfig, "ffn", preset="all"))
def models(as_json: AsJson = False, **given: Any) -> None:
    """Print the sizes of all models. Fails where those of a preset differ by over 0.5%."""
    from retbench.cli.console import Console
    from retbench.cli.model_sizes import model_sizes

    sizes = model_sizes(given.get("preset"), given.get("ffn", "gelu"))
    console = Console(as_json=as_json)
    console.sizes(sizes)
    if unequal := [size for size in sizes if not size.matches]:
        worst = max(unequal, key=lambda size: abs(size.ratio - 1))
        _fail(
            f"{worst.family} at preset {worst.preset} has {worst.ratio:.4f} times the parameters "
            "of the first model, more than 0.5% off"
        )


machine.register(app)
results.register(app)
train.register(app)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command line and exit.

    Args:
        arguments: without the program's name; the process's own where None.
    """
    # A stream that the caller has closed is None: what would be printed there goes nowhere.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 (open to the end)
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    limit_spinning()
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    # Accepted behind the command as well: that is where one adds it to a line that failed.
    words = [word for word in words if word != "--debug"]
    try:
        status = _invoke(words)
        sys.stdout.flush()  # what it cannot hold is better known now than while Python ends
    except SystemExit:
        raise
    except BaseException as error:  # a library in Rust panics with what is no Exception
        if debug:
            traceback.print_exc()
        _end(error)
    sys.exit(status)


def _end(error: BaseException) -> NoReturn:
    """Turn an exception into one line and an exit status."""
    if isinstance(error, KeyboardInterrupt | Interrupted):
        # A further Ctrl-C while Python takes itself apart would end in a traceback.
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    if isinstance(error, UserError):
        leave_to_first(error)
        _fail(str(error), error.exit_status)
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        _fail("interrupted", EXIT_INTERRUPTED)
    if isinstance(error, BrokenPipeError):
        # Whoever read our output has gone, as after `| head`: there is nobody to tell.
        _discard_output()
        sys.exit(EXIT_FAILED)
    if isinstance(error, OSError) and error.filename is None and error.errno == errno.ENOSPC:
        _discard_output()
        _fail("cannot print: the disk that stdout goes to is full", EXIT_USER_ERROR)
    _fail(f"a bug: {type(error).__name__}: {error}; add --debug to see where")


def _discard_output() -> None:
    """Let what is still buffered for stdout go nowhere, for want of a place."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _invoke(words: list[str]) -> int:
    command = get_command(app)
    try:
        status = command.main(args=words, prog_name="retbench", standalone_mode=False)
    except _UsageProblem as problem:
        raise UserError(_usage(problem, command, words)) from None
    if status == EXIT_INTERRUPTED:  # how typer reports a Ctrl-C that nothing else has caught
        raise KeyboardInterrupt
    return status if isinstance(status, int) else 0


def _usage(problem: Any, command: Any, words: Sequence[str]) -> str:
    """A usage error as one line, with the nearest flag or command for an unknown one."""
    context = getattr(problem, "ctx", None)
    message = " ".join(str(problem.format_message()).split()).rstrip(".")
    unknown = getattr(problem, "option_name", None)
    if unknown and hasattr(problem, "possibilities"):  # click's NoSuchOption
        scope = context.command if context is not None else command
        flags = [flag for parameter in scope.params for flag in parameter.opts]
        return f"unknown flag {unknown}; {_nearest(unknown, flags)}"
    if context is not None and message.startswith("No such command"):
        given = next(word for word in words if not word.startswith("-"))
        return f"unknown command {given!r}; {_nearest(given, list(command.commands))}"
    return message


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(sorted(known))}"


def _require_a_number(run: Run) -> None:
    """A run of which nothing came is a failure to whatever started it."""
    statuses = run.statuses()
    if not len(statuses) or (statuses["status"] == "ok").any():
        return
    first = statuses.iloc[0]
    _fail(f"no cell of {run.path} succeeded; the first, of {first['model']}: {first['cause']}")


def _fail(message: str, status: int = EXIT_FAILED) -> NoReturn:
    from retbench.cli.console import error

    error(message)
    sys.exit(status)


def _show_forecast(console: Console, config: RunConfig, *, here: bool) -> None:
    """Print what a run would need; of a machine that is not here nothing is known."""
    from retbench.engine.forecast import forecast
    from retbench.machine import ceilings, memory

    plan = suites.get(config.suite).plan(config)
    measured = available = None
    if here:
        measured = ceilings.measure(config.device, config.computed_dtypes, config.threads)
        available = memory.available_memory_bytes(config.device)
    if config.memory_limit_gib is not None:
        limit = int(config.memory_limit_gib * 2**30)
        available = limit if available is None else min(limit, available)
    console.forecast(forecast(config, plan, measured), available)
