"""Processes that are forks of the test's own, which has imported torch already.

For runs in turns, whose workers need processes of their own: what several models set for a whole
process, such as which attention may run, they would set for each other. A fresh interpreter spends
three seconds of the processor on its imports; a fork none. Tests of what a fresh one imports and
finds in its environment have fresh ones. A process that uses a GPU cannot be forked.
"""

from __future__ import annotations

import gc
import os
import runpy
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from retbench.workers.__main__ import _FIXED

Words = Sequence[str | Path]


class Forked(subprocess.Popen[Any]):
    """A Python program in a fork of this process; any other program as ever.

    Args:
        args: a function; ``[sys.executable, FLAG, ..., FILE or "-m", MODULE, WORD, ...]``; or what
            else ``subprocess.Popen`` takes.
        env: its environment variables; this process's where None.
        more: as of ``subprocess.Popen``.
    """

    def __init__(
        self,
        args: Callable[[], object] | Words,
        *,
        env: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        if callable(args):
            more["preexec_fn"] = partial(_be, args, env)
            args = ["a fork"]
        elif args[0] == sys.executable:
            more["preexec_fn"] = partial(_be, partial(_run, args[1:]), env)
        super().__init__(args, env=env, **more)


def _be(work: Callable[[], object], env: Mapping[str, str] | None) -> NoReturn:
    """Be the process, whose standard streams and folder are set, to its end."""
    status = 1
    try:
        sys.stdout, sys.stderr = (os.fdopen(stream, "w", closefd=False) for stream in (1, 2))
        gc.freeze()  # no fork need search what is imported for garbage, and thereby copy it
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _let_go_of_files()
        if env is not None:
            os.environ.clear()
            os.environ.update(env)
        os.environ[_FIXED] = "1"  # with others it would begin anew
        work()
        status = 0
    except SystemExit as ended:
        if isinstance(ended.code, int):
            status = ended.code
        elif ended.code is None:
            status = 0
        else:
            print(ended.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _let_go_of_files() -> None:
    """As a program's start does, upon which Popen returns; who writes to a file writes nowhere."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in map(int, os.listdir("/dev/fd")):
        if number > 2 and number != nowhere:
            os.dup2(nowhere, number, inheritable=False)


def _run(words: Words) -> None:
    """Run a program by the words of its command line behind ``python``."""
    flags = list(takewhile(("-P", "-S", "-u").__contains__, words))
    program, *more = (str(word) for word in words[len(flags) :])
    sys.argv = [program, *more]
    warnings.simplefilter("ignore", RuntimeWarning)  # runpy's, of what is imported already
    if program == "-m":
        sys.argv = more
        runpy.run_module(more[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[:0] = [] if "-P" in flags else [str(Path(program).parent)]
        runpy.run_path(program, run_name="__main__")


@contextmanager
def forked_workers() -> Iterator[pytest.MonkeyPatch]:
    """Runs that begin in this context have such workers; gives what patches further.

    They time slices of a millisecond, for no such test depends on a time.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("retbench.suites.cell.SLICE_S", 1e-3)
        if not torch.cuda.is_available():
            patch.setattr("subprocess.Popen", Forked)
        yield patch


@contextmanager
def forked_agents() -> Iterator[None]:
    """Agents of torchrun, too, that begin in this context have such workers."""
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    with forked_workers() as patch:
        patch.setattr(subprocess_handler, "Popen", subprocess.Popen)
        yield
