"""Retbench: does a RetNet beat a Transformer of the same size, and against which Transformer?

import retbench

run = retbench.run("inference", models=["retnet", "transformer"], preset="tiny")
run.frame()  # one row a sample: a pandas DataFrame
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retbench.store import Run

__version__ = "0.1.0"
__all__ = ["__version__", "open_run", "run"]


def run(suite: str = "inference", **given: Any) -> Run:
    """Measure a suite and return the run; see :func:`retbench.api.run` for the arguments."""
    _require_own_models()
    from retbench import api

    return api.run(suite, **given)


def open_run(path: str) -> Run:
    """Open the run in a folder; see :func:`retbench.store.open_run`."""
    _require_own_models()
    from retbench import store

    return store.open_run(path)


def _require_own_models() -> None:
    """Refuse to take a ``models`` of the user's, beside a script or before ours on the path.

    Raises:
        ImportError: another one would be imported; names it.
    """
    found = find_spec("models")
    origin = Path(found.origin if found is not None and found.origin else "models")
    if origin.parent.parent != Path(__file__).parent.parent:
        raise ImportError(f"{origin} hides the package 'models' that retbench needs: rename it")
