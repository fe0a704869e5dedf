"""Files that survive a kill or a full disk: atomic replacement, an append that can be undone.

What is opened for a run or a cache is a regular file: a pipe in its place would be waited for.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
from pathlib import Path
from typing import NoReturn

from retbench.errors import Busy, UserError

_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EISDIR)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def user_cache() -> Path | None:
    """The folder in the user's cache that is ours; None for a user without a home.

    The cache is $XDG_CACHE_HOME, or ``~/.cache`` where that is not absolute (XDG Base Directory
    Specification 0.8: a relative path is to be ignored).
    """
    for base in (os.environ.get("XDG_CACHE_HOME", ""), "~/.cache"):
        if os.path.isabs(found := os.path.expanduser(base)):
            return Path(found) / "retbench"
    return None


def cannot_write(path: Path, error: OSError) -> NoReturn:
    """Raise the user's error for a disk that is full, read-only or gone."""
    remedy = "make room" if error.errno in _FULL else "make it writable"
    hint = f"what was finished is kept; {remedy} or name another --out"
    raise UserError(f"cannot write {path}: {error.strerror or error}", hint) from error


def regular(path: str, flags: int) -> int:
    """An opener for :func:`open` that refuses what is no regular file.

    Raises:
        OSError: what is there is another thing, or it cannot be opened.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError(errno.EINVAL, "not a regular file", path)
    return os.open(path, flags, 0o666)


def read_file(path: Path) -> bytes:
    """What a regular file holds.

    Raises:
        UserError: it cannot be read, or is another thing; names it.
    """
    try:
        with open(path, "rb", opener=regular) as file:
            return file.read()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def sha256(path: Path) -> str:
    """The SHA-256 of a regular file, however large; raises :class:`OSError` as :func:`open`."""
    with open(path, "rb", opener=regular) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def replace_file(path: Path, temporary: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` as a whole: any reader, and any crash, sees the old or the new.

    Args:
        path: the file to replace or make.
        temporary: a name beside it that is free to use.
        data: the new content.

    Raises:
        UserError: it cannot be written; the old file stays.
    """
    try:
        with open(temporary, "wb", opener=regular) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        cannot_write(path, error)


def write_text(path: Path, text: str) -> None:
    """Write what can be made again; the old file stays where there is no room for the new one.

    Args:
        path: the file to replace or make.
        text: in UTF-8 then; what that cannot hold, as of a file's name, is escaped.

    Raises:
        OSError: it cannot be written.
    """
    new = path.with_name(f"{path.name}.new")
    try:
        with open(new, "wb", opener=regular) as file:
            file.write(text.encode(errors="backslashreplace"))
        os.replace(new, path)
    finally:
        with contextlib.suppress(OSError):
            new.unlink()


def sync_folder(folder: Path) -> None:
    """Put the names in a folder onto the disk, where its file system can do that for a folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)


class CommitLog:
    """A file that is only appended to, by one process at a time, a whole commit or nothing.

    It holds an advisory lock on the file until :meth:`close` or the end of the process, however
    that comes.

    Args:
        path: the file.
        create: make it where it does not exist.

    Raises:
        UserError: the file cannot be opened for writing.
        Busy: another process holds the lock.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self.path = path
        self.committed_bytes = 0
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        try:
            self._descriptor = os.open(path, flags, 0o644)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not create:
                raise UserError(f"{path} is missing", "restore it from a copy") from None
            cannot_write(path, error)
        self._lock()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise Busy(
                f"another process is writing to {self.path.parent}",
                "wait for it, or name another --out",
            ) from None
        except OSError:
            pass  # a file system without locks: one writer unguarded is better than none

    def append(self, data: bytes) -> None:
        """Append ``data``; it is on the disk when this returns.

        Raises:
            UserError: the disk is full or gone. The file is then as it was before.
        """
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]
            os.fsync(self._descriptor)
        except OSError as error:
            self._roll_back()
            cannot_write(self.path, error)
        except BaseException:
            self._roll_back()
            raise
        self.committed_bytes += len(data)

    def set_aside(self, keep: Path, committed_bytes: int) -> None:
        """Move what follows the first ``committed_bytes`` to the end of the file ``keep``.

        Raises:
            UserError: ``keep`` cannot be written; the log is then unchanged.
        """
        self.committed_bytes = committed_bytes
        excess = os.fstat(self._descriptor).st_size - committed_bytes
        if excess <= 0:
            return
        cut = os.pread(self._descriptor, excess, committed_bytes)
        try:
            with open(keep, "ab", opener=regular) as file:
                file.write(cut)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            cannot_write(keep, error)
        self._roll_back()

    def _roll_back(self) -> None:
        # Should this fail too, the tail stays uncommitted, and the next resume sets it aside.
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, self.committed_bytes)
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Release the lock."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
