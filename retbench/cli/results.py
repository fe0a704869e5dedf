"""The commands that read what was measured; see :mod:`retbench.cli`, which registers them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from retbench.cli.options import AsJson

Folder = Annotated[Path, typer.Argument(help="A run directory.", metavar="DIR")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(show)
    app.command("list")(list_)
    app.command()(explain)


def _metrics(incomplete: str) -> list[str]:
    from retbench.metrics import METRICS

    return [tag for tag in METRICS if tag.startswith(incomplete)]


def _kinds(incomplete: str) -> list[str]:
    from retbench.report.inventory import KINDS

    return [kind for kind in KINDS if kind.startswith(incomplete)]


def _format(*known: str) -> Any:
    return typer.Option("--format", help="Of what is printed.", metavar="|".join(known))


def _require_format(given: str, known: tuple[str, ...]) -> None:
    from retbench.config.values import nearest
    from retbench.errors import UserError

    if given not in known:
        raise UserError(f"format: unknown format {given!r}", nearest(given, known, listed=True))


def show(folder: Folder, as_json: AsJson = False) -> None:
    """Print a run's tables; writes nothing."""
    from retbench import api, report
    from retbench.cli.console import Console

    content = report.content_of(api.open_run(folder))
    Console(as_json=as_json).report(content, tables=True)


def list_(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="[suites|models|presets|metrics|runs]", help="One kind alone.",
            autocompletion=_kinds,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """List suites, models, presets, metrics, and the runs in results/."""
    from retbench.cli.console import Console
    from retbench.report.inventory import inventory

    Console(as_json=as_json).inventory(inventory(kind))


TEXT_OR_MARKDOWN = ("text", "markdown")


def explain(
    metric: Annotated[
        str | None,
        typer.Argument(metavar="[METRIC]", help="Its tag or title.", autocompletion=_metrics),
    ] = None,
    form: Annotated[str, _format(*TEXT_OR_MARKDOWN)] = "text",
) -> None:
    """Say what a metric is: definition, unit, formula and centre; of all where none is named."""
    from retbench.report import glossary

    _require_format(form, TEXT_OR_MARKDOWN)
    typer.echo(glossary.markdown(metric) if form == "markdown" else glossary.described(metric))
