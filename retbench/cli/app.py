"""The command line: flags in, one call each, errors as one line on stderr.

Exit status: 0 done, 1 a bug or a failed check, 2 a mistake of the user's, 3 a training that
diverged or a run that is worse than an earlier one, 130 interrupted. Heavy imports happen inside
the commands, so that ``plot`` and ``--help`` are quick.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer
from typer.main import get_command

from retbench import __version__, api, report
from retbench.cli import machine, results, run, train
from retbench.cli.exits import UsageProblem, end, fail, usage
from retbench.cli.model_sizes import model_sizes
from retbench.cli.options import (
    AsJson,
    Folder,
    GroupedCommand,
    Quiet,
    RunCommand,
    options,
    with_options,
)
from retbench.config.run import ModelsConfig
from retbench.config.values import is_writable
from retbench.errors import EXIT_INTERRUPTED, UserError
from retbench.machine.clock import garbage_collection_off
from retbench.machine.threads import limit_spinning

app = typer.Typer(
    name="retbench",
    help="Does a RetNet beat a Transformer of the same size, on this machine?",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


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

    from retbench.cli.console import Console

    if width and not paper:
        raise UserError("width: a plot for the screen has its own", "add --paper")
    with garbage_collection_off():  # a fifth of the time, and all that is read stays in use
        opened = api.open_run(folder)
        with api.explained(opened):
            if paper:
                from retbench.report.figures import inches

                files = report.write_paper(opened, inches(width or "3.25in"))
            else:
                files = report.write_plots(opened)
    Console(quiet=quiet).files(folder, files)
    for page in (file for file in files if shown and file.suffix == ".html"):
        webbrowser.open(page.resolve().as_uri())


def table(folder: Folder, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Make a run's tables anew from its samples, and print them."""
    from retbench.cli.console import Console

    with garbage_collection_off():  # as in plot
        opened = api.open_run(folder)
        content = report.content_of(opened)
        with api.explained(opened):
            files = report.write_tables(opened, content)
    Console(quiet=quiet, as_json=as_json).report(content, files, tables=True)


@with_options(options(ModelsConfig, "ffn", preset="all"))
def models(as_json: AsJson = False, **given: Any) -> None:
    """Print the sizes of all models. Fails where those of a preset differ by over 0.5%."""
    from retbench.cli.console import Console

    sizes = model_sizes(given.get("preset"), given.get("ffn", "gelu"))
    console = Console(as_json=as_json)
    console.sizes(sizes)
    if unequal := [size for size in sizes if not size.matches]:
        worst = max(unequal, key=lambda size: abs(size.ratio - 1))
        fail(
            f"{worst.family} at preset {worst.preset} has {worst.ratio:.4f} times the parameters "
            "of the first model, more than 0.5% off"
        )


app.command(cls=RunCommand, epilog=run.EXAMPLES)(run.run)
for command in (plot, table, models, machine.project, machine.doctor, machine.audit, results.show):
    app.command()(command)
app.command("list")(results.list_)
for command in (
    results.explain, results.compare, results.history, results.cite, results.claims,
    results.bundle, results.verify,
):  # fmt: skip
    app.command()(command)
app.command(cls=GroupedCommand)(train.train)
app.command()(train.generate)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command line and exit.

    Args:
        arguments: without the program's name; the process's own where None.
    """
    # A stream that the caller has closed is None: what would be printed there goes nowhere.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 (open to the end)
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):  # not every terminal has every character
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    limit_spinning()
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    # Accepted behind the command as well: that is where one adds it to a line that failed.
    words = [word for word in words if word != "--debug"]
    try:
        _require_surroundings(words)
        status = _invoke(words)
        sys.stdout.flush()  # what it cannot hold is better known now than while Python ends
    except SystemExit:
        raise
    except BaseException as error:  # a library in Rust panics with what is no Exception
        if debug:
            traceback.print_exc()
        end(error)
    sys.exit(status)


def _require_surroundings(words: Sequence[str]) -> None:
    """What is asked for must be text, and asked for from somewhere."""
    try:
        os.getcwd()
    except OSError as problem:
        raise UserError(
            f"the current folder is gone: {problem.strerror}", "cd to another"
        ) from None
    encoding = sys.getfilesystemencoding()
    for word in words:
        if not is_writable(word):
            hint = "" if encoding == "utf-8" else "set LC_ALL=C.UTF-8, or PYTHONUTF8=1"
            raise UserError(f"{word!r} is not {encoding.upper()}", hint)


def _invoke(words: list[str]) -> int:
    command = get_command(app)
    try:
        status = command.main(args=words, prog_name="retbench", standalone_mode=False)
    except UsageProblem as problem:
        raise UserError(usage(problem, command, words)) from None
    if status == EXIT_INTERRUPTED:  # how typer reports a Ctrl-C that nothing else has caught
        raise KeyboardInterrupt
    return status if isinstance(status, int) else 0
