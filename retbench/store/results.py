"""The folder that runs and trainings are kept in where the user names none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from retbench.errors import UserError

RESULTS = Path("results")


def new_folder(*parts: str) -> Path:
    """A folder in :data:`RESULTS` named after what it is to hold and the time; it is not made.

    Args:
        parts: of its name; empty ones are left out.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    return RESULTS / "-".join(part for part in (*parts, stamp) if part)


def only_unfinished(
    what: str, file: str, read: Callable[[Path], Mapping[str, Any]], ended: tuple[str, ...]
) -> Path:
    """The one folder in :data:`RESULTS` whose work can be continued.

    Args:
        what: the work is: a run or a training.
        file: is in each folder of such work.
        read: gives what a folder says of itself, its ``state`` among it.
        ended: the states of what cannot be continued.

    Raises:
        UserError: there is none, or there are several.
    """
    found = []
    for folder in sorted(path.parent for path in RESULTS.glob(f"*/{file}")):
        try:
            state = read(folder)["state"]
        except UserError:
            continue  # another program's, or one that nothing can be said about
        if state not in ended:
            found.append(folder)
    if len(found) == 1:
        return found[0]
    listed = ": " + ", ".join(map(str, found)) if found else ""
    raise UserError(
        f"{RESULTS}/ holds {len(found) or 'no'} unfinished {what}{'s' * bool(found)}{listed}",
        "name one with --out",
    )
