"""Files packed as streams of bz2, xz or lzma, one after another as `cat` and pbzip2 leave them.

Python's own readers take what follows the first stream for no part of the file where it is damaged,
and so cut the text short in silence.
"""

from __future__ import annotations

import bz2
import io
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

_READ_BYTES = io.DEFAULT_BUFFER_SIZE


def open_streams(
    file: Path,
    begin: Callable[[], bz2.BZ2Decompressor | lzma.LZMADecompressor],
    padding: bytes | None = None,
) -> IO[bytes]:
    """Open what all of a file's streams hold, as one.

    Args:
        file: a regular file.
        begin: makes what unpacks one stream.
        padding: what may follow a stream any number of times; at most four bytes.

    Raises:
        OSError: the file cannot be read; or, while it is read, a stream of bz2 is damaged.
        lzma.LZMAError: while it is read, a stream of xz or lzma is damaged, or is none.
        EOFError: while it is read, it ends within a stream.
    """
    return io.BufferedReader(_Streams(file.open("rb"), begin, padding))


class _Streams(io.RawIOBase):
    def __init__(self, file: IO[bytes], begin: Callable[[], Any], padding: bytes | None) -> None:
        self._file, self._begin, self._padding = file, begin, padding
        self._stream = begin()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        unpacked = b""
        while not unpacked:
            packed = b""
            if self._stream.eof:  # left where the next stream begins
                while (packed := self._file.read(4)) == self._padding:
                    pass
                if not packed:
                    return 0
                self._stream = self._begin()
            elif self._stream.needs_input and not (packed := self._file.read(_READ_BYTES)):
                raise EOFError("it ends within a stream")
            unpacked = self._stream.decompress(packed, len(buffer))
            if self._stream.eof:
                self._file.seek(-len(self._stream.unused_data), os.SEEK_CUR)
        buffer[: len(unpacked)] = unpacked
        return len(unpacked)

    def close(self) -> None:
        self._file.close()
        super().close()
