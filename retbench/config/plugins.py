"""Third parties' models: imported from a file, a module or an installed package, and found again.

A run directory gets published, so ``run.json`` names a plugin's file without a folder of the
machine: relative to the run where both lie in the working directory, else by its name alone. A
resumed run finds the former by itself; for the latter the user says ``--plugin`` again.
"""

from __future__ import annotations

import os
import shlex
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path

from retbench.errors import Misfit, UserError


def load(sources: Iterable[str]) -> None:
    """Import the files and modules that register further models.

    Raises:
        Misfit: if there is no such file or module, or it cannot be imported.
    """
    for source in sources:
        from models.config import ConfigError
        from models.registry import load_plugin

        try:
            load_plugin(source)
        except ConfigError as problem:
            raise Misfit(f"plugin {source}: {problem}", keys=("plugins",)) from None
        except (Exception, SystemExit) as problem:  # it may do anything
            what = f"{type(problem).__name__}: {problem}{_line_in(source, problem)}"
            raise Misfit(f"plugin {source}: {what}", keys=("plugins",)) from problem


def families() -> tuple[str, ...]:
    """The names of all families of models, those of installed packages included.

    Raises:
        UserError: an installed package's model cannot be imported; says which.
    """
    from importlib.metadata import entry_points

    from models import registry

    try:
        return registry.families()
    except Exception:
        for entry in entry_points(group=registry.ENTRY_POINT_GROUP):
            try:
                entry.load()
            except Exception as problem:
                raise UserError(
                    f"the installed plugin {entry.name!r} ({entry.value}) cannot be imported: "
                    f"{type(problem).__name__}: {problem}",
                    "repair or uninstall it",
                ) from problem
        raise


def published(sources: Sequence[str], run: Path) -> list[str]:
    """What ``run.json`` says of plugins: modules as they are, files without the machine's folders.

    Args:
        sources: files and modules, as they were given.
        run: the run directory.
    """
    return [_published(source, run) for source in sources]


def located(sources: Sequence[str], run: Path) -> tuple[str, ...]:
    """The inverse of :func:`published`, from any working directory.

    Raises:
        UserError: a file is not where it was.
    """
    found = []
    for source in sources:
        path = run / source if _is_file(source) else Path(source)
        if _is_file(source) and not os.path.isfile(path):
            raise UserError(
                f"the plugin {source} of {run} is not there", "say with --plugin where it is now"
            )
        found.append(os.path.normpath(path) if _is_file(source) else source)
    return tuple(found)


def names(sources: Iterable[str]) -> list[str]:
    """The plugins' names, wherever their files are."""
    return [Path(source).name if _is_file(source) else source for source in sources]


def flags(sources: Sequence[str], run: Path) -> str:
    """What a command that continues the run has to say of plugins; empty where they are found."""
    try:
        located(published(sources, run), run)
    except UserError:
        return "".join(f" --plugin {shlex.quote(source)}" for source in sources)
    return ""


def _is_file(source: str) -> bool:
    return source.endswith(".py")  # as models.registry.load_plugin tells them apart


def _published(source: str, run: Path) -> str:
    if not _is_file(source):
        return source
    here, path = Path.cwd(), Path(source).resolve()
    if path.is_relative_to(here) and run.resolve().is_relative_to(here):
        return os.path.relpath(path, run.resolve())
    return path.name


def _line_in(source: str, problem: BaseException) -> str:
    """Where in a plugin's file an exception comes from; a syntax error says so itself."""
    steps = traceback.extract_tb(problem.__traceback__)
    lines = [step.lineno for step in steps if Path(step.filename) == Path(source).resolve()]
    return f" (line {lines[-1]})" if lines else ""
