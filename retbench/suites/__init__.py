"""The suites by name. A suite says which points it has and how one point is measured."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from retbench.config.values import nearest
from retbench.errors import UserError

if TYPE_CHECKING:
    from retbench.config.run import RunConfig
    from retbench.suites.base import Suite

_NAMES = ("inference", "training", "kernels", "perplexity", "scaling", "ablation", "recall")
_MODULES = {name: f"retbench.suites.{name}" for name in _NAMES}


def names() -> tuple[str, ...]:
    """All suites."""
    return tuple(_MODULES)


def get(name: str) -> Suite[Any]:
    """The suite of that name.

    Raises:
        UserError: if there is none; names the nearest.
    """
    if name not in _MODULES:
        raise UserError(f"unknown suite {name!r}", nearest(name, _MODULES))
    suite: Suite[Any] = importlib.import_module(_MODULES[name]).SUITE
    return suite


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
