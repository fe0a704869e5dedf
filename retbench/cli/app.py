"""The command line: flags in, one call each, errors as one line on stderr.

Exit status: 0 done, 1 a bug or a failed check, 2 a mistake of the user's, 130 interrupted. Heavy
imports happen inside the commands, so that ``plot`` and ``--help`` are quick.
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
from retbench.cli import train
from retbench.distributed.launch import leave_to_first
from retbench.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USER_ERROR, Interrupted, UserError
from retbench.machine.threads import limit_spinning

if TYPE_CHECKING:
    from retbench.cli.console import Console
    from retbench.config.run import RunConfig
    from retbench.store import Run
    from retbench.workers.crew import Crew

# The base of typer's usage errors: click's own class, or the one typer carries since 0.2x.
_UsageProblem: type[Exception] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="retbench",
    help="Does a RetNet beat a Transformer of the same size, on this machine?",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Quiet = Annotated[bool, typer.Option("--quiet", help="Print no progress and no summary.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Folder = Annotated[Path, typer.Argument(help="A run directory.", metavar="DIR")]
Ffn = Annotated[str | None, typer.Option(help="Feed-forward kind: gelu (the paper) or swiglu.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda. [default: cuda where there is one]")]
Threads = Annotated[int | None, typer.Option(help="CPU threads. [default: physical cores]")]


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


@app.command()
def run(
    suite: Annotated[
        str | None,
        typer.Option(
            help="inference, training, kernels, perplexity, scaling, ablation or recall. "
            "[default: inference]"
        ),
    ] = None,
    models: Annotated[
        str | None, typer.Option(help="Families, commas between; the first is the subject.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Size of all models, such as 10m.")] = None,
    context: Annotated[
        str | None, typer.Option(help="Context lengths: 512,2048 or 512:8192 (powers of two).")
    ] = None,
    batch: Annotated[str | None, typer.Option(help="Batch sizes, written like --context.")] = None,
    batch_context: Annotated[
        int | None, typer.Option(help="Context of the sweep over batch sizes.")
    ] = None,
    new_tokens: Annotated[int | None, typer.Option(help="Decode steps of one trial.")] = None,
    device: Device = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16, float16 or float64.")
    ] = None,
    mode: Annotated[str | None, typer.Option(help="eager, compile or cudagraph.")] = None,
    implementation: Annotated[
        str | None, typer.Option(help="What computes the mixing, such as torch, triton or math.")
    ] = None,
    tokens_per_step: Annotated[
        int | None, typer.Option(help="Of the suite training: tokens of a step at any context.")
    ] = None,
    modes: Annotated[
        str | None, typer.Option(help="Of the suite training: eager, compile; the first sweeps.")
    ] = None,
    activations: Annotated[
        str | None, typer.Option(help="Of the suite training: kept, recomputed; likewise.")
    ] = None,
    variants: Annotated[
        str | None,
        typer.Option(help="Of the suite training: math, parallel, chunk-64 and others."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Text to train on: FILE, FOLDER, GLOB or hf:NAME. [default: embedded]"),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="char, byte, bpe:N, gpt2, cl100k_base or o200k_base.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps of one training.")] = None,
    lr: Annotated[
        str | None, typer.Option(help="Learning rates to try out, the same for all models.")
    ] = None,
    train: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Set a field of the training. Repeatable."),
    ] = None,
    presets: Annotated[str | None, typer.Option(help="Sizes of the suite scaling.")] = None,
    tasks: Annotated[
        str | None, typer.Option(help="Of the suite recall: mqar, copy, needle.")
    ] = None,
    operations: Annotated[
        str | None, typer.Option(help="Of the suite kernels; the first is the subject.")
    ] = None,
    directions: Annotated[
        str | None, typer.Option(help="Of the suite kernels: forward, train.")
    ] = None,
    head_dims: Annotated[
        str | None, typer.Option(help="Of the suite kernels, written like --context.")
    ] = None,
    dtypes: Annotated[
        str | None, typer.Option(help="Of the suite kernels, written like --dtype.")
    ] = None,
    parallel: Annotated[
        str | None,
        typer.Option(help="Of the suite training: share a step under torchrun, ddp or fsdp."),
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="smoke, quick, report or rigorous. [default: quick]")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of prompts, weights and order.")] = None,
    threads: Threads = None,
    ffn: Ffn = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Override a model's field; FAMILY.KEY=VALUE for one family. Repeatable.",
        ),
    ] = None,
    plugin: Annotated[
        list[str] | None, typer.Option(help="File or module that registers a model. Repeatable.")
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="Add blocks until all ratios are settled, or for so long; 0 adds none. "
            "[default: the profile's]"
        ),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="A ratio known this well is settled. [default: 2%]")
    ] = None,
    margin: Annotated[
        str | None, typer.Option(help="A difference that does not matter. [default: 1%]")
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds a cell may take.")] = None,
    memory_limit: Annotated[float | None, typer.Option(help="GiB a worker may take.")] = None,
    out: Annotated[
        str | None, typer.Option(metavar="PATH", help="Run directory. [default: in results/]")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show cells, minutes and memory; write nothing.")
    ] = False,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with the same keys; flags win.")
    ] = None,
    launcher: Annotated[
        str, typer.Option(help="local, or slurm: each block as a job of a cluster.")
    ] = "local",
    slurm: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="Ask for a partition, a time in minutes... Repeatable."
        ),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Measure a suite; write samples, tables and plots."""
    from retbench.cli.console import Console
    from retbench.workers import crew

    console = Console(quiet=quiet, as_json=as_json)
    given = dict(
        out=out, resume=resume, config_file=config, models=models, preset=preset,
        context=context, batch=batch, batch_context=batch_context, new_tokens=new_tokens,
        implementation=implementation, tokens_per_step=tokens_per_step, modes=modes,
        activations=activations, variants=variants, data=data, tokenizer=tokenizer, steps=steps,
        lr=lr, train=train or None, presets=presets, tasks=tasks, operations=operations,
        directions=directions, head_dims=head_dims, dtypes=dtypes, device=device,
        dtype=dtype, mode=mode, profile=profile, seed=seed,
        threads=threads, ffn=ffn, overrides=overrides or None, plugins=plugin or None,
        timeout=timeout, memory_limit=memory_limit, launcher=launcher, slurm=slurm or (),
        parallel=parallel, minutes=minutes, precision=precision, margin=margin,
    )  # fmt: skip
    with crew.connect(None if parallel == "none" else parallel) as workers:
        _run(console, workers, suite, given, dry_run=dry_run)


def _run(
    console: Console, workers: Crew, suite: str | None, given: Mapping[str, Any], *, dry_run: bool
) -> None:
    """Measure, or say what would be, in a process that is alone or leads others."""
    from retbench import api, report

    job = api.prepare(suite, **given)
    here = job.launcher is None
    if dry_run:
        _show_forecast(console, job.config, here=here)
        return
    progress = console.progress(job.config, side_by_side=not here)
    try:
        done, files = api.carry_out(job, progress, workers)
    finally:
        progress.close()
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
    quiet: Quiet = False,
) -> None:
    """Make all plots of a run anew from its samples, and its HTML report."""
    from retbench import api
    from retbench.cli.console import Console
    from retbench.machine.clock import garbage_collection_off

    if width and not paper:
        raise UserError("width: a plot for the screen has its own", "add --paper")
    with garbage_collection_off():  # a fifth of the time, and all that is read stays in use
        opened = api.open_run(folder)
        files = api.write_paper(opened, width or "3.25in") if paper else api.write_plots(opened)
    Console(quiet=quiet).files(folder, files)


@app.command()
def table(folder: Folder, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Make all tables of a run anew from its samples, and print the summary."""
    from retbench import api, report
    from retbench.cli.console import Console
    from retbench.machine.clock import garbage_collection_off

    with garbage_collection_off():  # as in plot
        opened = api.open_run(folder)
        content = report.content_of(opened)
        files = api.write_tables(opened, content)
    Console(quiet=quiet, as_json=as_json).report(content, files)


@app.command()
def models(
    preset: Annotated[str | None, typer.Option(help="One preset. [default: all]")] = None,
    ffn: Ffn = None,
    as_json: AsJson = False,
) -> None:
    """Print the sizes of all models; fail where those of a preset differ by over 0.5%."""
    from retbench.cli.console import Console
    from retbench.cli.model_sizes import model_sizes

    sizes = model_sizes(preset, ffn or "gelu")
    console = Console(as_json=as_json)
    console.sizes(sizes)
    if unequal := [size for size in sizes if not size.matches]:
        worst = max(unequal, key=lambda size: abs(size.ratio - 1))
        _fail(
            f"{worst.family} at preset {worst.preset} has {worst.ratio:.4f} times the parameters "
            "of the first model, more than 0.5% off"
        )


@app.command()
def doctor(device: Device = None, threads: Threads = None, as_json: AsJson = False) -> None:
    """Measure this machine's bandwidth and matmul rate; print what a run would record of it."""
    from retbench.cli.console import Console
    from retbench.config.requirements import machine
    from retbench.machine import ceilings
    from retbench.machine.provenance import provenance

    device, threads = machine(device, threads)
    console = Console(as_json=as_json)
    found = provenance(device, threads, sys.orig_argv)
    dtypes = ("float32", "bfloat16") + (("float16",) if device == "cuda" else ())
    console.machine(found, ceilings.measure(device, dtypes, threads))


@app.command()
def audit(
    suite: Annotated[
        str | None, typer.Option(help="inference, training or kernels. [default: inference]")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The model, or operation, that is compared with itself.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Its size.")] = None,
    context: Annotated[str | None, typer.Option(help="Context lengths. [default: 2048]")] = None,
    slowdown: Annotated[
        str, typer.Option(help="By how much a copy of it is slowed down, to be found.")
    ] = "5%",
    profile: Annotated[str | None, typer.Option(help="As of run. [default: quick]")] = None,
    minutes: Annotated[
        float | None, typer.Option(help="As of run. [default: 3, or those of another profile]")
    ] = None,
    mode: Annotated[str | None, typer.Option(help="As of run.")] = None,
    dtype: Annotated[str | None, typer.Option(help="As of run.")] = None,
    device: Device = None,
    threads: Threads = None,
    out: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Keep the run here. [default: nowhere]")
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Compare a model with itself, and with a slowed copy: can a difference be trusted here?"""
    from retbench import api
    from retbench.cli.console import Console
    from retbench.config import values
    from retbench.engine import audit as auditing
    from retbench.engine.resolve import resolve

    try:
        planted = values.share(slowdown)
    except ValueError as problem:
        raise UserError(f"slowdown: {problem}") from None
    if suite in suites.names() and not suites.get(suite).takes_turns:
        raise UserError(f"suite: {suite} has nothing that is timed in turns")
    config = resolve(
        suite, preset=preset, context=context or "2048", profile=profile, mode=mode,
        dtype=dtype, device=device, threads=threads,
        minutes=3 if minutes is None and profile in (None, "quick") else minutes,
        models=None if suite == "kernels" else model,
        operations=model if suite == "kernels" else None,
    )  # fmt: skip
    if model and len(config.models or config.operations) > 1:
        raise UserError("model: one model is compared with itself", "name a single one")
    if threads is None:
        config = api.beside_others(config)
    console = Console(quiet=quiet, as_json=as_json)
    auditing.require_storable()
    progress = console.progress(config)
    try:
        record = auditing.audit(config, slowdown=planted, out=out, observer=progress)
    finally:
        progress.close()
    console.audit(record, auditing.remember(record))


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
    except (Exception, KeyboardInterrupt) as error:
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
    from retbench import suites
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
