"""A command that fails in one of several connected processes: ``failing.py HOW``."""

import os
import signal
import sys

from retbench import distributed
from retbench.cli import app
from retbench.errors import UserError


@app.app.command()
def fail(how: str) -> None:
    # One that stands still is waited for; the rest is given time, for processes start unevenly.
    with distributed.connect("ddp", timeout_s=15 if how == "stopped" else 120) as ranks:
        ranks.barrier()
        last = ranks.rank == ranks.size - 1
        if how == "all" or (how == "first" and ranks.first) or (how == "last" and last):
            raise UserError("there is no text", "name one")
        if how == "bug" and last:
            raise TypeError("it is broken")
        if how == "killed" and last:
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "stopped" and last:
            os.kill(os.getpid(), signal.SIGSTOP)
        if how == "other":
            ranks.require_same("text" if last else "other text", "text")
        ranks.barrier()


if __name__ == "__main__":
    app.main(["fail", *sys.argv[1:]])
