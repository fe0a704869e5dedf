"""Retbench: does a RetNet beat a Transformer of the same size, and against which Transformer?

import retbench

run = retbench.run("inference", models=["retnet", "transformer"], preset="tiny")
run.frame()  # one row a sample: a pandas DataFrame
"""

from __future__ import annotations

import os
import sys

if sys.argv[:1] == ["-m"] and not sys.flags.safe_path:  # while Python looks for what ``-m`` names
    # It puts the current folder first, where a module of the user's may be named like any of ours
    # or of Python's.
    sys.path.append(sys.path.pop(0))
    sys.path.insert(0, os.path.dirname(__path__[0]))

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
    from retbench import store

    return store.open_run(path)


def _require_own_models() -> None:
    """Refuse to take a ``models`` of the user's, beside a script or before ours on the path.

    Raises:
        ImportError: another one would be imported; names it.
    """
    found = find_spec("models")
    places = [] if found is None else [Path(p) for p in found.submodule_search_locations or ()]
    if Path(__file__).resolve().parents[1] / "models" in [place.resolve() for place in places]:
        return
    there = places[0] if places else getattr(found, "origin", None)
    raise ImportError(
        f"{there} hides the package 'models' that retbench needs: rename it"
        if there
        else "the package 'models' that comes with retbench is missing: install it anew"
    )
