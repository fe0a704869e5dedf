"""The suites by name. A suite says which points it has and how one point is measured."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from retbench.errors import UserError

if TYPE_CHECKING:
    from retbench.suites.base import Suite

_NAMES = ("inference", "training", "kernels", "perplexity", "scaling", "ablation", "recall")
_MODULES = {name: f"retbench.suites.{name}" for name in _NAMES}


def names() -> tuple[str, ...]:
    """All suites."""
    return tuple(_MODULES)


def get(name: str) -> Suite:
    """The suite of that name.

    Raises:
        UserError: if there is none.
    """
    if name not in _MODULES:
        raise UserError(f"unknown suite {name!r}", f"there are {', '.join(_MODULES)}")
    suite: Suite = importlib.import_module(_MODULES[name]).SUITE
    return suite
