"""The commands that read what was measured; see :mod:`retbench.cli`, which registers them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from retbench import api, report, suites
from retbench.cli.options import AsJson, Folder, completing, option, path_option
from retbench.cli.run import asked
from retbench.config.values import OneOf, SomeOf, read, share
from retbench.engine.forecast import forecast
from retbench.engine.resolve import resolve
from retbench.errors import UserError
from retbench.metrics import METRICS
from retbench.report import glossary

TEXT_OR_MARKDOWN = ("text", "markdown")


class Regressed(UserError):
    """The second of two runs is worse in what --fail-on names."""

    exit_status = 3


def _kinds() -> Iterable[str]:
    from retbench.report.inventory import KINDS

    return KINDS


_METRICS = completing(METRICS.keys)


def _format(*known: str) -> Any:
    def one_of_them(given: str) -> str:
        return str(read("format", OneOf(known, "format"), given))

    return typer.Option(
        "--format", help="Of what is printed.", metavar="|".join(known), callback=one_of_them
    )


def show(folder: Folder, as_json: AsJson = False) -> None:
    """Print a run's tables; writes nothing."""
    from retbench.cli.console import Console

    content = report.content_of(api.open_run(folder))
    Console(as_json=as_json).report(content, tables=True)


def list_(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="[suites|models|presets|metrics|runs]", help="One kind alone.",
            autocompletion=completing(_kinds),
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """List suites, models, presets, metrics, and the runs in results/."""
    from retbench.cli.console import Console
    from retbench.report.inventory import inventory

    Console(as_json=as_json).inventory(inventory(kind))


def explain(
    metric: Annotated[
        str | None,
        typer.Argument(metavar="[METRIC]", help="Its tag or title.", autocompletion=_METRICS),
    ] = None,
    form: Annotated[str, _format(*TEXT_OR_MARKDOWN)] = "text",
) -> None:
    """Say what a metric is: definition, unit, formula and centre. Of all where none is named."""
    typer.echo(glossary.markdown(metric) if form == "markdown" else glossary.described(metric))


def compare(
    before: Annotated[Path, typer.Argument(help="The run that counts as 1.", metavar="A")],
    after: Annotated[Path, typer.Argument(help="The run that is judged.", metavar="B")],
    fail_on: Annotated[
        str | None, option("Exit with status 3 where a cell of B is that.", "slower,larger,failed")
    ] = None,
    margin: Annotated[
        str | None, option("Smallest difference that matters. [default: the runs']", "SHARE")
    ] = None,
    form: Annotated[str, _format(*TEXT_OR_MARKDOWN)] = "text",
    as_json: AsJson = False,
) -> None:
    """Compare two runs cell by cell, B / A. First it says what differs in machines and code."""
    from retbench.cli.console import Console
    from retbench.report import change

    asked = read("fail-on", SomeOf(change.REGRESSIONS, "verdict"), fail_on) if fail_on else ()
    least = read("margin", share, margin) if margin else None
    found = change.between(api.open_run(before), api.open_run(after), least)
    if form == "markdown":
        typer.echo(change.markdown(found))
    else:
        Console(as_json=as_json).change(found)
    worse = [f"{found.counts[verdict]} {verdict}" for verdict in asked if verdict in found.counts]
    if worse:
        raise Regressed(f"{after} against {before}: {', '.join(worse)}")


def history(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Runs of one suite.")],
    metric: Annotated[
        str | None,
        option("Its tag. [default: the first that models are compared by]", "METRIC",
               autocompletion=_METRICS),
    ] = None,
    form: Annotated[str, _format(*TEXT_OR_MARKDOWN)] = "text",
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Print a metric over several runs, in the order of their time. Each step has a verdict."""
    from retbench.cli.console import Console
    from retbench.report import export
    from retbench.report.history import history as history_of

    table = history_of([api.open_run(folder) for folder in folders], metric)
    if form == "markdown":
        typer.echo(export.markdown(table, ()).rstrip())
        return
    Console(as_json=as_json).table(table)


def cite(
    folder: Folder,
    metric: Annotated[
        str | None,
        option("Its tag or title. [default: what was named before the run]", "METRIC",
               autocompletion=_METRICS),
    ] = None,
    context: Annotated[int | None, option("At this context.", "N")] = None,
    batch: Annotated[int | None, option("At this batch size.", "N")] = None,
    model: Annotated[str | None, option("Of this model, or against it.", "NAME")] = None,
    form: Annotated[str, _format("text", "markdown", "latex")] = "text",
    bibtex: Annotated[
        bool, typer.Option("--bibtex", help="Print entries of Retbench and of RetNet's paper.")
    ] = False,
) -> None:  # fmt: skip
    """Print a run's numbers as sentences to cite. Each says all that weakens its number."""
    from retbench.report import citing

    content = report.content_of(api.open_run(folder))
    if bibtex:
        typer.echo(citing.bibtex(content.meta))
        return
    wanted = citing.Wanted(metric, context, batch, model)
    typer.echo("\n".join(citing.sentences(content, wanted, form)))


def claims(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[DIR]...", help="The evidence. [default: the runs in results/]"),
    ] = None,
    planned: Annotated[
        bool, typer.Option("--plan", help="Print what would settle the open ones; write nothing.")
    ] = False,
    out: Annotated[
        Path | None, path_option("The folder of CLAIMS.md. [default: results]", "DIR")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Judge the paper's claims one by one, by runs and by the bound. Writes CLAIMS.md."""
    from retbench.cli.console import Console
    from retbench.report.claims import entries, ledger, page

    sources, skipped = ledger.evidence_in(runs)
    found = ledger.ledger(entries.claims(), sources)
    console = Console(as_json=as_json)
    if planned:
        plan = page.plan(found, _minutes)
        console.emit({"plan": plan})
        if not as_json:
            typer.echo("\n".join(plan))  # a command is one line, to be copied
        return
    if runs and out is None:
        raise UserError("out: the ledger of some runs alone has no place in results/", "name one")
    said = page.said(found, skipped)
    files = page.write(found, said, out)
    console.show(*said, f"files: {', '.join(map(str, files))}")
    console.emit(page.document(found, said))


def _minutes(command: str) -> float:
    """What a command ``retbench run --flag value ...`` is likely to take here."""
    _, _, *words = shlex.split(command)
    config = resolve(**asked(words))
    return forecast(config, suites.get(config.suite).plan(config)).total_s / 60


def bundle(
    folder: Folder,
    out: Annotated[
        Path | None, path_option("A .tar.gz or .zip. [default: DIR.tar.gz]", "FILE")
    ] = None,
) -> None:
    """Pack a run into one archive that others can check. It holds the hash of every file."""
    from retbench.store.bundle import bundle

    typer.echo(bundle(api.open_run(folder), out))


def verify(
    file: Annotated[Path, typer.Argument(help="What bundle has made.", metavar="FILE")],
    out: Annotated[Path | None, path_option("Unpack it there once it is sound.", "DIR")] = None,
) -> None:
    """Check a bundled run, every file by its hash. With --out it is unpacked."""
    from retbench.report import stamp
    from retbench.store.bundle import verify

    run = verify(file, out)
    typer.echo(f"{file} is sound: {run.meta['suite']}, {run.meta['state']}; "
               f"{stamp.conditions(run.meta)}")  # fmt: skip
