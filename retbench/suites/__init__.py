"""The suites by name. A suite says which points it has, and its measurer measures one."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from retbench.config.values import nearest
from retbench.errors import UserError

if TYPE_CHECKING:
    from retbench.config.run import RunConfig
    from retbench.suites.base import Suite
    from retbench.suites.measurer import Measurer

_NAMES = ("inference", "training", "kernels", "perplexity", "scaling", "ablation", "recall")


def names() -> tuple[str, ...]:
    """All suites."""
    return _NAMES


def get(name: str) -> Suite[Any]:
    """The suite of that name.

    Raises:
        UserError: if there is none; names the nearest.
    """
    if name not in _NAMES:
        raise UserError(f"unknown suite {name!r}", nearest(name, _NAMES))
    suite: Suite[Any] = importlib.import_module(f"retbench.suites.{name}").SUITE
    return suite


def measurer_of(name: str) -> Measurer:
    """What a worker does with the suite of that name; imports torch, so no parent asks for it."""
    kind: type[Measurer] = pkgutil.resolve_name(get(name).measurer)
    return kind()


def configuration(document: Mapping[str, Any]) -> RunConfig:
    """The configuration of a run, from what its ``to_json`` gave.

    Raises:
        UserError: there is no such suite, or a field is unknown, missing or of the wrong type.
    """
    settings = {name: raw for name, raw in document.items() if name != "suite"}
    name = str(document.get("suite"))
    if name == "projection":  # no suite: nothing of it is measured
        from retbench.suites.projection import ProjectionConfig

        return ProjectionConfig.from_json(settings)
    config: RunConfig = get(name).config.from_json(settings)
    return config
