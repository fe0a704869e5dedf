"""Files as UTF-8 text, unpacked; what a file is, is told by its content, and then by its name.

>>> [content.name for content in contents_of(Path("corpus.zip"))]    # doctest: +SKIP
['corpus.zip:one.txt', 'corpus.zip:two.txt']
"""

from __future__ import annotations

import bz2
import codecs
import contextlib
import gzip
import lzma
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import IO, Any, NoReturn

from retbench.data.streams import open_streams
from retbench.errors import UserError

BLOCK_BYTES = 1 << 20
_TOLD_BYTES = 1 << 16
"""So much of a file's beginning tells what is no text."""

TEXT_SUFFIXES = (".txt", ".text", ".md")
_MARKUP_SUFFIXES = (".html", ".htm", ".xhtml", ".xml", ".svg")
ROW_SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".tab")
LOOKED_FOR = f"it looks for {', '.join(f'*{suffix}' for suffix in TEXT_SUFFIXES + ROW_SUFFIXES)}"
"""What is taken for a text, in words."""

_PACKED: tuple[tuple[tuple[str, ...], re.Pattern[bytes], Any], ...] = (
    ((".gz", ".gzip"), re.compile(rb"\x1f\x8b"), gzip.open),
    ((".bz2", ".bzip2"), re.compile(rb"BZh[1-9]1AY&SY"),
     partial(open_streams, begin=bz2.BZ2Decompressor)),
    ((".xz",), re.compile(rb"\xfd7zXZ\0"),
     partial(open_streams, begin=lzma.LZMADecompressor, padding=bytes(4))),
    ((".lzma",), re.compile(rb"\x5d\0\0"), partial(open_streams, begin=lzma.LZMADecompressor)),
)  # fmt: skip
_ZIP = re.compile(rb"PK(\x03\x04|\x05\x06)")
_UNPACK = "unpack it and give the folder"
_ROWS = "write its rows as JSON lines"
_UNPACKERS = {
    ".zst": "zstd -d", ".zstd": "zstd -d", ".lz4": "lz4 -d", ".z": "gzip -d", ".br": "brotli -d",
    ".lz": "lzip -d", ".lzo": "lzop -d", ".sz": "snzip -d",
}  # fmt: skip
_ZEROS = (
    "no text: it holds zero bytes, as binary files and UTF-16 do",
    "convert it to UTF-8, for example with iconv",
)
_REFUSED = (
    (re.compile(rb"\x28\xb5\x2f\xfd"), "packed with zstd", "unpack it with zstd -d"),
    (re.compile(rb"\x04\x22\x4d\x18"), "packed with lz4", "unpack it with lz4 -d"),
    (re.compile(rb"\x1f\x9d"), "packed with compress", "unpack it with gzip -d"),
    (re.compile(rb"x(\x01|\x9c|\xda[^\x80-\xbf])"), "packed with zlib",
     "unpack it, for example with pigz -dc"),
    (re.compile(rb".{257}ustar(\0|  \0)", re.DOTALL), "a tar archive", _UNPACK),
    (re.compile(rb"!<arch>\n"), "an ar archive", _UNPACK),
    (re.compile(rb"7z\xbc\xaf\x27\x1c"), "a 7-Zip archive", _UNPACK),
    (re.compile(rb"Rar!\x1a\x07"), "a RAR archive", _UNPACK),
    (re.compile(rb"PAR1\x15"), "a Parquet table", _ROWS),
    (re.compile(rb"(ARROW|FEA)1\0"), "an Arrow table", _ROWS),
    (re.compile(rb"WARC/\d"), "a web archive (WARC)", "extract the texts of its records"),
    (re.compile(rb"version https://git-lfs\.github\.com/"), "a pointer of Git LFS, not the text",
     "fetch the text with git lfs pull"),
    (re.compile(rb"\S*/annex/objects/"), "a pointer of git-annex, not the text",
     "fetch the text with git annex get"),
    (re.compile(rb"(\xef\xbb\xbf)?(WEBVTT\b|\d+\r?\n(\d+:)?\d\d:\d\d[,.]\d{3} --> )"), "subtitles",
     "extract their text"),
    (re.compile(rb"(From \S+ .*\n)?([\w-]+: .*\n([ \t].*\n)*)*?"
                rb"(MIME-Version|Content-Transfer-Encoding): ", re.IGNORECASE), "mail",
     "extract the texts of its messages"),
    (re.compile(rb"-----BEGIN [A-Z0-9 ]+-----\r?\n"), "encoded (PEM)", "decode it"),
    (re.compile(rb"%PDF-"), "a PDF", "extract its text, for example with pdftotext"),
    (re.compile(rb"\{\\rtf"), "RTF, not plain text", "extract its text"),
    (re.compile(rb"%!PS"), "PostScript", "extract its text, for example with ps2ascii"),
    (re.compile(rb"(\xef\xbb\xbf)?(\s|<!--((?!-->).)*+-->)*+<"
                rb"(!--|\?xml[-\s]|(!doctype|html|head|body|svg|rss|tei|mediawiki)(?=[\s/>])"
                rb"|[a-z][\w:.]*\s+[\w:.-]+\s*=\s*[\"']|(?!s>)[a-z][\w:.]*>(?=.*</[a-z]))",
                re.IGNORECASE | re.DOTALL),  # a comment there is one without an end; <s> is a token
     "markup, not plain text", "extract its text, for example with pandoc -t plain"),
    *((magic, "packed twice", _UNPACK) for _, magic, _ in _PACKED), (_ZIP, "packed twice", _UNPACK),
    (re.compile(rb"\x1e\s*\{"), "a JSON text sequence", "delete its separators with tr -d '\\036'"),
    (re.compile(rb"[^\x1b\x80-\xff]*\x1b\$[@AB()]"), "ISO-2022, not UTF-8",
     "convert it, for example with iconv -f ISO-2022-JP"),
    (re.compile(rb"\xff\xfe\0\0|\0\0\xfe\xff"), "UTF-32, not UTF-8",
     "convert it with iconv -f UTF-32"),
    (re.compile(rb"\xff\xfe|\xfe\xff"), "UTF-16, not UTF-8", "convert it with iconv -f UTF-16"),
)  # fmt: skip
_TABLES = (".parquet", ".arrow", ".feather", ".orc", ".avro")
_KINDS = (*TEXT_SUFFIXES, *ROW_SUFFIXES, ".tar", *_TABLES)
_PACKINGS = ("", *_UNPACKERS, *(suffix for suffixes, _, _ in _PACKED for suffix in suffixes))
_ARCHIVES = (".zip", ".7z", ".rar", ".tgz", ".tbz", ".tbz2", ".txz", ".tlz", ".tzst")
_SOUGHT = (*_ARCHIVES, *(kind + packed for kind in _KINDS for packed in _PACKINGS))


@dataclass(frozen=True)
class Content:
    """What a file holds, or one file of an archive.

    Attributes:
        name: for messages: the path, with the member's of an archive.
        suffix: of the name, in small letters, without that of a packing program, whether or not it
            is packed: a browser unpacks some, and keeps the name.
        open: the unpacked bytes from their beginning; can be called again.
    """

    name: str
    suffix: str
    open: Callable[[], IO[bytes]]

    def head(self, size: int = 4096) -> bytes:
        """The first bytes.

        Raises:
            UserError: they cannot be read.
        """
        with _named(self.name), self.open() as stream:
            return stream.read(size)

    def texts(self) -> Iterator[str]:
        """The text in blocks that end between any two characters, without a byte order mark.

        Raises:
            UserError: it cannot be read, is damaged, holds a zero byte, or is not UTF-8 (says at
                which byte).
        """
        rest, offset = b"", 0
        with _named(self.name), self.open() as stream:
            while block := stream.read(BLOCK_BYTES):
                if b"\0" in block:
                    self.refuse(*_ZEROS)
                rest += block
                text, used = self._decoded(rest, offset, final=False)
                yield text if offset else text.removeprefix("\ufeff")
                rest, offset = rest[used:], offset + used
        self._decoded(rest, offset, final=True)

    def lines(self) -> Iterator[str]:
        """The text's lines, each with the line feed that ends it; raises as :meth:`texts` does."""
        line: list[str] = []
        for text in self.texts():
            *ended, rest = text.split("\n")
            for end in ended:
                yield "".join([*line, end, "\n"])
                line.clear()
            line.append(rest)
        if any(line):
            yield "".join(line)

    def refuse(self, what: str, remedy: str) -> NoReturn:
        """Raise the user's error that says what it is, and what to do."""
        raise UserError(f"data: {self.name} is {what}", remedy)

    def _decoded(self, data: bytes, offset: int, *, final: bool) -> tuple[str, int]:
        try:
            return codecs.utf_8_decode(data, "strict", final)
        except UnicodeDecodeError as error:
            raise UserError(
                f"data: {self.name} is not UTF-8 text: byte {offset + error.start} cannot be "
                "decoded",
                "convert it, for example with iconv",
            ) from None


def is_sought(name: str) -> bool:
    """Whether a file of a folder or an archive counts as a part of its text, by its name.

    What is packed in a way that is not unpacked here counts, so that it is refused and not missed.
    """
    return not name.startswith(".") and name.lower().endswith(_SOUGHT)


def contents_of(file: Path) -> Iterator[Content]:
    """What a file holds: itself, unpacked, or the texts of a zip archive by their names.

    Its content says how it is packed; its name where the content is no text either.

    Raises:
        UserError: it is no text, and what it is can be told; it holds none; it cannot be read.
    """
    plain = _content(str(file), lambda: file.open("rb"))
    head, suffix = plain.head(_TOLD_BYTES), file.suffix.lower()
    by_name = [opened for suffixes, _, opened in _PACKED if suffix in suffixes]
    if (by_name or suffix == ".zip") and not head:
        raise UserError(f"data: {file} is damaged: it is empty", "restore it from a copy")
    by_content = [opened for _, magic, opened in _PACKED if magic.match(head)]
    is_text, is_zip = _is_text(head), _ZIP.match(head)
    if not (by_content or is_text or is_zip):
        _refuse(plain, head)  # whatever its name says
    if is_zip or (suffix == ".zip" and not by_content and not is_text):
        found = _members(file)
    else:
        unpacked = by_content or ([] if is_text else by_name)
        found = [_content(plain.name, partial(unpacked[0], file) if unpacked else plain.open)]
    for content in found:
        head = content.head(_TOLD_BYTES)
        _refuse(content, head)
        if b"\0" in head:
            content.refuse(*_ZEROS)
        if content.suffix in _MARKUP_SUFFIXES:
            content.refuse("markup, not plain text", "extract its text")
        yield content


def _content(name: str, opened: Callable[[], IO[bytes]]) -> Content:
    path = PurePath(name.lower())
    packed = path.suffix in (*_PACKINGS, *_ARCHIVES)
    return Content(name, PurePath(path.stem).suffix if packed else path.suffix, opened)


def _refuse(content: Content, head: bytes) -> None:
    """Refuse what is no text and can be told: by its beginning, or else by its name."""
    for magic, what, remedy in _REFUSED:
        if magic.match(head):
            content.refuse(what, remedy)
    if _is_text(head):
        return
    if unpacker := _UNPACKERS.get(PurePath(content.name).suffix.lower()):
        content.refuse("packed, as its name says", f"unpack it with {unpacker}")
    if content.suffix in _TABLES:
        content.refuse("a table in binary, as its name says", _ROWS)


def _is_text(head: bytes) -> bool:
    """Whether a file can be a text by its beginning."""
    try:
        codecs.utf_8_decode(head, "strict", False)
    except UnicodeDecodeError:
        return False
    return b"\0" not in head


def _members(file: Path) -> list[Content]:
    with _named(str(file)):
        archive = zipfile.ZipFile(file)
    every = [entry for entry in archive.infolist() if entry.filename and not entry.is_dir()]
    names = {entry.filename: PurePath(entry.filename) for entry in every}
    shown = [n for n, path in names.items() if not _is_hidden(path)]
    kept = sorted(name for name in shown if is_sought(names[name].name))
    if len(shown) == 1:
        kept = shown
    if not kept:
        raise UserError(f"data: the archive {file} holds no text", LOOKED_FOR)
    times = Counter(entry.filename for entry in every)
    for name in kept:
        if times[name] > 1:  # by its name only the last can be opened
            raise UserError(
                f"data: {file}:{name} is there {times[name]} times", "pack it with each name once"
            )
    return [_content(f"{file}:{name}", partial(archive.open, name)) for name in kept]


def _is_hidden(path: PurePath) -> bool:
    inner = [part for part in path.parts if part != ".."]
    return not inner or any(part.startswith((".", "__MACOSX")) for part in inner)


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Turn what a file's reader raises into an error that names the file."""
    try:
        yield
    except (
        EOFError, OSError, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
        UnicodeDecodeError,  # of the name of an archive's member
    ) as error:  # fmt: skip
        if isinstance(error, OSError) and error.strerror:  # the system's, not gzip's or bz2's
            raise UserError(f"data: cannot read {name}: {error.strerror}") from None
        raise UserError(f"data: {name} is damaged: {error}", "restore it from a copy") from None
    except (RuntimeError, NotImplementedError) as error:  # zipfile's: a password, a rare packing
        raise UserError(f"data: cannot read {name}: {error}", _UNPACK) from None
