"""The run directory: written cell by cell, read and checked as a whole."""

from retbench.store.meta import RUN_FILE, SAMPLES_FILE, RunMeta, read_meta, write_meta
from retbench.store.run import Run, continue_command, folder_name, open_run
from retbench.store.writer import Known, RunWriter

__all__ = [
    "RUN_FILE",
    "SAMPLES_FILE",
    "Known",
    "Run",
    "RunMeta",
    "RunWriter",
    "continue_command",
    "folder_name",
    "open_run",
    "read_meta",
    "write_meta",
]
