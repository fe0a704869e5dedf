"""What there is to measure, with, and what was measured: names, each with a line about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from retbench import suites
from retbench.config import plugins
from retbench.config.settings import first_line
from retbench.config.values import nearest
from retbench.errors import UserError
from retbench.metrics import METRICS
from retbench.report import stamp
from retbench.report.summary import model_order
from retbench.store import RUN_FILE, read_meta
from retbench.store.results import RESULTS

Lines = Iterator[tuple[str, str]]


def inventory(kind: str | None = None) -> dict[str, list[tuple[str, str]]]:
    """Names and lines about them, by kind; of one kind, or of all.

    Raises:
        UserError: there is no such kind; an installed package's model cannot be imported.
    """
    if kind is not None and kind not in KINDS:
        raise UserError(f"nothing is listed as {kind!r}", nearest(kind, KINDS, listed=True))
    return {name: list(make()) for name, make in KINDS.items() if kind in (None, name)}


def _suites() -> Lines:
    for name in suites.names():
        yield name, first_line(suites.get(name).config)


def _models() -> Lines:
    from models.registry import config_for

    for family in plugins.families():
        yield family, first_line(type(config_for(family, "tiny")))


def _presets() -> Lines:
    from models import PRESETS

    for name, preset in PRESETS.items():
        yield name, f"{preset.n_layers} layers of width {preset.d_model}"


def _metrics() -> Lines:
    for metric in METRICS.values():
        yield metric.tag, f"{metric.title} ({metric.unit})"


def _runs() -> Lines:
    """The runs in the folder of results; one that cannot be read says why."""
    for folder in sorted(file.parent for file in RESULTS.glob(f"*/{RUN_FILE}")):
        try:
            meta = read_meta(folder)
        except UserError as problem:
            yield str(folder), str(problem)
            continue
        against = ", ".join(model_order(meta))
        yield str(folder), f"{meta['suite']}, {meta['state']}: {against}; {stamp.conditions(meta)}"


KINDS: dict[str, Callable[[], Lines]] = {
    "suites": _suites, "models": _models, "presets": _presets, "metrics": _metrics, "runs": _runs,
}  # fmt: skip
