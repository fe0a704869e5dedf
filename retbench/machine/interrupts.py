"""Ctrl-C, SIGTERM and SIGHUP as a flag that is looked at where stopping is safe.

An exception out of a signal handler can strike between any two steps, a half-started worker or a
half-written file behind it. Here a signal only sets a flag and wakes whoever polls the descriptor;
:meth:`Interrupts.check` then raises at a point of the program's choosing. A second signal raises at
once, for the user who does not want to wait.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import threading
from types import FrameType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Context manager that takes over the stopping signals, and gives them back.

    Outside the main thread Python delivers no signals: then it does nothing. A signal that is
    ignored (``nohup``) stays ignored.

    Attributes:
        requested: whether the user has asked to stop.
        descriptor: readable inside when a signal has come, and :meth:`check` is to be called.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}
        self._previous_wakeup = -1

    def __enter__(self) -> Self:
        self.descriptor, self._wakeup = os.pipe()  # macOS has no pipe2
        for end in (self.descriptor, self._wakeup):
            os.set_blocking(end, False)
        if threading.current_thread() is threading.main_thread():
            self._previous_wakeup = signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
            for number in _SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if threading.current_thread() is threading.main_thread():
            signal.set_wakeup_fd(self._previous_wakeup)
        os.close(self.descriptor)
        os.close(self._wakeup)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def wait(self, seconds: float) -> None:
        """Sleep that long, or until a signal comes; raises as :meth:`check` does."""
        poll = select.poll()
        poll.register(self.descriptor, select.POLLIN)
        poll.poll(math.ceil(seconds * 1000))
        self.check()

    def check(self) -> None:
        """Raise if the user has asked to stop.

        Raises:
            KeyboardInterrupt: a stopping signal has come.
        """
        with contextlib.suppress(BlockingIOError):
            os.read(self.descriptor, 4096)  # a signal of another kind wakes the poll as well
        if self.requested:
            raise KeyboardInterrupt
