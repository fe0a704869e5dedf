"""The folder in which encoded texts and tokenizers are kept between runs."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path

from retbench.errors import UserError


@cache
def cache_folder() -> Path:
    """Where encoded texts are kept: $RETBENCH_CACHE, else the user's cache, else a temporary one.

    Raises:
        UserError: $RETBENCH_CACHE cannot be written.
    """
    named = os.environ.get("RETBENCH_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(named) if named else Path(base) / "retbench"
    try:
        if base.startswith("~") and not named:  # neither a HOME nor an entry among the users
            raise OSError
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if named:
            raise UserError(f"RETBENCH_CACHE: cannot write {folder}: {error.strerror}") from None
        # The user's own, so that nobody else's files are taken for it.
        folder = Path(tempfile.gettempdir()) / f"retbench-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder
