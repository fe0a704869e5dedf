"""The errors a user can cause, and the exit status each ends in.

Everything a user can get wrong (a flag, a file, a folder, a damaged run) is raised as a
:class:`UserError`; the command line turns it into one line on stderr. Anything else is a bug.
"""

from __future__ import annotations

from collections.abc import Sequence

EXIT_FAILED = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


class UserError(Exception):
    """A mistake outside this program: says what is wrong and, where it can, what to do.

    Args:
        message: what is wrong, naming the flag, file or line.
        hint: what to do about it; joined to the message with a semicolon.
    """

    exit_status = EXIT_USER_ERROR

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.message = message
        self.hint = hint


class Misfit(UserError):
    """A value that is well-formed, and yet cannot be used here.

    Attributes:
        keys: the fields of the configuration that it comes from, the likeliest first; an override
            is ``overrides.KEY``.
    """

    def __init__(self, message: str, hint: str | None = None, *, keys: Sequence[str] = ()) -> None:
        super().__init__(message, hint)
        self.keys = tuple(keys)


class CheckFailed(UserError):
    """What was asked to be checked is not as it should be."""

    exit_status = EXIT_FAILED


class NotDerived(UserError):
    """Tables or figures could not be made; the samples that they are made of are whole."""

    exit_status = EXIT_FAILED


class Busy(UserError):
    """Another process writes to the run directory."""


class Interrupted(UserError):
    """The user stopped the run (Ctrl-C); what was finished is kept."""

    exit_status = EXIT_INTERRUPTED
