"""The run directory: written cell by cell, read and checked as a whole."""

from retbench.store.run_directory import (
    RUN_FILE,
    SAMPLES_FILE,
    Known,
    Run,
    RunWriter,
    continue_command,
    open_run,
    read_meta,
)

__all__ = [
    "RUN_FILE",
    "SAMPLES_FILE",
    "Known",
    "Run",
    "RunWriter",
    "continue_command",
    "open_run",
    "read_meta",
]
