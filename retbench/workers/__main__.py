"""Start of a worker process, by the runner, never by hand; see :mod:`retbench.workers`."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys

_ADDR_NO_RANDOMIZE = 0x0040000
_FIXED = "RETBENCH_ADDRESSES_FIXED"


def fix_addresses() -> None:
    """Begin anew without randomised addresses, where the kernel lets us; Linux alone can.

    They decide how objects are hashed and how buffers are aligned: with them the peak of a prefill
    differed by some 13% from process to process, without by half of that.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        now = libc.personality(0xFFFFFFFF)
        if now == -1 or now & _ADDR_NO_RANDOMIZE or _FIXED in os.environ:
            return
        if libc.personality(now | _ADDR_NO_RANDOMIZE) != -1:
            os.environ[_FIXED] = "1"  # asked once, whatever comes of it
            os.execv(sys.executable, sys.orig_argv)


if __name__ == "__main__":  # not in a process that a library starts from this one
    fix_addresses()  # before anything is imported that would be imported once more
    from retbench.workers.worker import main

    main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # the interpreter would spend a second on giving back what the kernel takes at once
