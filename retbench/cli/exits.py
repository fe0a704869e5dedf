"""How a command line ends that has failed: one line on stderr, and an exit status."""

from __future__ import annotations

import atexit
import difflib
import errno
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import typer

from retbench.distributed.launch import leave_to_first
from retbench.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USER_ERROR, Interrupted, UserError
from retbench.machine.memory import is_out_of_memory, says_no_thread

# The base of typer's usage errors: click's own class, or the one typer carries since 0.2x.
UsageProblem: type[Exception] = typer.BadParameter.__mro__[2]


def end(error: BaseException) -> NoReturn:
    """Turn an exception into one line and an exit status."""
    if isinstance(error, KeyboardInterrupt | Interrupted):
        # A further Ctrl-C while Python takes itself apart would end in a traceback.
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    if isinstance(error, UserError):
        leave_to_first(error)
        fail(str(error), error.exit_status)
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        fail("interrupted", EXIT_INTERRUPTED)
    if isinstance(error, BrokenPipeError):
        # Whoever read our output has gone, as after `| head`: there is nobody to tell.
        _discard_output()
        sys.exit(EXIT_FAILED)
    if isinstance(error, OSError) and error.filename is None and error.errno == errno.ENOSPC:
        _discard_output()
        fail("cannot print: the disk that stdout goes to is full", EXIT_USER_ERROR)
    if is_out_of_memory(error) or says_no_thread(str(error)):
        fail("there is not enough memory; raise `ulimit -v`, or the group's limit", EXIT_USER_ERROR)
    fail(f"a bug: {type(error).__name__}: {error}; add --debug to see where")


def fail(message: str, status: int = EXIT_FAILED) -> NoReturn:
    """Print one line to stderr, and exit."""
    line = " ".join(str(message).split())
    print(f"retbench: error: {line}", file=sys.stderr)
    sys.exit(status)


def _discard_output() -> None:
    """Let what is still buffered for stdout go nowhere, for want of a place."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def usage(problem: Any, command: Any, words: Sequence[str]) -> str:
    """A usage error as one line, with the nearest flag or command for an unknown one."""
    context = getattr(problem, "ctx", None)
    message = " ".join(str(problem.format_message()).split()).rstrip(".")
    unknown = getattr(problem, "option_name", None)
    if unknown and hasattr(problem, "possibilities"):  # click's NoSuchOption
        scope = context.command if context is not None else command
        flags = [flag for parameter in scope.params for flag in parameter.opts]
        return f"unknown flag {unknown}; {_nearest(unknown, flags)}"
    if context is not None and message.startswith("No such command"):
        given = next(word for word in words if not word.startswith("-"))
        return f"unknown command {given!r}; {_nearest(given, list(command.commands))}"
    return message


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(sorted(known))}"
