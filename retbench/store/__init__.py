"""The run directory: written cell by cell, read and checked as a whole."""

from retbench.store.meta import RUN_FILE, RunMeta, read_meta, write_meta
from retbench.store.run_directory import (
    SAMPLES_FILE,
    Known,
    Run,
    RunWriter,
    continue_command,
    open_run,
)

__all__ = [
    "RUN_FILE",
    "SAMPLES_FILE",
    "Known",
    "Run",
    "RunMeta",
    "RunWriter",
    "continue_command",
    "open_run",
    "read_meta",
    "write_meta",
]
