"""Files of several packed streams: read whole, or named as damaged."""

from __future__ import annotations

import bz2
import lzma
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from retbench.data.documents import read_documents
from retbench.data.streams import open_streams
from retbench.errors import UserError

Pack = Callable[[bytes], bytes]
PACK: dict[str, Pack] = {
    "bz2": bz2.compress, "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
}  # fmt: skip


def read(file: Path, packed: bytes) -> str:
    file.write_bytes(packed)
    return "".join(piece for document in read_documents(str(file)) for piece in document.pieces())


@pytest.mark.parametrize("name", PACK)
def test_every_stream_is_read(tmp_path: Path, name: str) -> None:
    noise = random.Random(0).randbytes(50_000).hex()
    texts = ["first\n" * 50_000, "", noise, "third"]
    packed = b"".join(PACK[name](text.encode()) for text in texts)
    assert read(tmp_path / "a.txt", packed) == "".join(texts)


@pytest.mark.parametrize("zeros", [4, 40_000])
def test_the_padding_that_xz_allows_between_streams_and_behind_them_is_skipped(
    tmp_path: Path, zeros: int
) -> None:
    packed = b"".join(lzma.compress(text) + bytes(zeros) for text in (b"to be ", b"or not"))
    assert read(tmp_path / "a.txt.xz", packed) == "to be or not"


@pytest.mark.parametrize("at", [0, 2, 6, 12, 20, -20, -2])
@pytest.mark.parametrize("name", ["bz2", "xz"])
def test_a_damaged_second_stream_is_told_of(tmp_path: Path, name: str, at: int) -> None:
    second = bytearray(PACK[name](b"or not to be"))
    second[at] ^= 0x10
    with pytest.raises(UserError, match=r"a.txt is damaged: .*; restore it from a copy"):
        read(tmp_path / "a.txt", PACK[name](b"to be, ") + second)


@pytest.mark.parametrize("rest", [b"junk", b"B", bytes(3), bytes(5), b"\xfd7zXZ\0"])
@pytest.mark.parametrize("name", PACK)
def test_what_follows_a_stream_and_is_none_is_told_of(
    tmp_path: Path, name: str, rest: bytes
) -> None:
    with pytest.raises(UserError, match=r"a.txt is damaged"):
        read(tmp_path / "a.txt", PACK[name](b"to be") + rest)


def test_the_file_is_closed_and_its_end_stays_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(lzma.compress(b"to be") + bytes(10_004))
    with open_streams(tmp_path / "a", lzma.LZMADecompressor, bytes(4)) as opened:
        assert [opened.read(), opened.read(), opened.read(1)] == [b"to be", b"", b""]
    assert opened.closed
