"""Documents of text from a file, a folder, a pattern or a data set of the Hugging Face hub.

A document is read piece by piece, so that a text of any size passes through little memory. Pieces
end, wherever the text allows, behind a single line break between two other characters: there no
tokenizer joins what stands on its two sides, so that the pieces' tokens are the document's.

    >>> [document.name for document in read_documents(None)]
    ['shakespeare']
"""

from __future__ import annotations

import glob
import gzip
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

from retbench.data.corpus import shakespeare
from retbench.errors import UserError

EMBEDDED = "shakespeare"
HUB = "hf:"
PIECE_BYTES = 1 << 20

_TEXT_SUFFIXES = (".txt", ".md", ".text", ".jsonl")
_PACKED_SUFFIXES = ("", ".gz", ".xz")
_BREAK = re.compile(rb"(?<=[^\s])\n(?=[^\s])")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Document:
    """A text with a name.

    Attributes:
        name: where it comes from, for messages: a file's name, with the line in a ``.jsonl``.
        pieces: reads the text from its beginning, in pieces; can be called again.
    """

    name: str
    pieces: Callable[[], Iterator[str]]

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.pieces())


def read_documents(source: str | None, *, field: str = "text") -> Iterator[Document]:
    """Find the documents of a source, in an order that is always the same.

    Args:
        source: None for the embedded text; a file, a folder (its ``.txt``, ``.md`` and ``.jsonl``
            files, packed with gzip or xz or not, at any depth), a pattern such as ``books/*.txt``,
            or ``hf:NAME`` or ``hf:NAME:CONFIGURATION`` for the training split of a data set that
            the package ``datasets`` loads. A ``.jsonl`` has one document a line, anything else
            one a file.
        field: the text's key in a line of a ``.jsonl`` or a row of a data set.

    Raises:
        UserError: there is nothing to read; or, while a document is read, it is damaged, is not
            UTF-8 (names the file and the byte), or a line lacks the field or has in it what is no
            character.
    """
    if source is None:
        yield Document(EMBEDDED, lambda: iter((shakespeare(),)))
    elif source.startswith(HUB):
        yield from _of_hub(source.removeprefix(HUB), field)
    else:
        for file in files_of(source):
            yield from _of_file(file, field)


def files_of(source: str) -> list[Path]:
    """The files behind a file's, a folder's or a pattern's name, sorted.

    Raises:
        UserError: there are none.
    """
    path = Path(source)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if _is_text(file))
        if not files:
            known = ", ".join(f"*{suffix}" for suffix in _TEXT_SUFFIXES)
            raise UserError(f"data: the folder {source} holds no text", f"it looks for {known}")
        return files
    if path.is_file():
        return [path]
    matches = (Path(match) for match in glob.glob(source, recursive=True))
    files = sorted(match for match in matches if match.is_file())
    if not files:
        what = "no file matches" if glob.has_magic(source) else "there is no file or folder"
        raise UserError(f"data: {what} {source}", "name a text, a folder or a pattern")
    return files


def _is_text(file: Path) -> bool:
    name = file.name
    endings = tuple(text + packed for text in _TEXT_SUFFIXES for packed in _PACKED_SUFFIXES)
    return file.is_file() and not name.startswith(".") and name.endswith(endings)


def _of_file(file: Path, field: str) -> Iterator[Document]:
    if file.name.removesuffix(".gz").removesuffix(".xz").endswith(".jsonl"):
        for number, line in enumerate(_lines(file), start=1):
            if line.strip():
                text = _field(line, field, f"{file}:{number}")
                yield Document(f"{file.name}:{number}", partial(_whole, text))
    else:
        yield Document(file.name, partial(_pieces, file))


def _whole(text: str) -> Iterator[str]:
    yield text


def _open(file: Path) -> IO[bytes]:
    opener: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open}
    return cast(IO[bytes], opener.get(file.suffix, open)(file, "rb"))


def _blocks(file: Path) -> Iterator[bytes]:
    """The file's bytes, unpacked, in blocks of ``PIECE_BYTES``."""
    try:
        with _open(file) as stream:
            while block := stream.read(PIECE_BYTES):
                yield block
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"data: {file} is damaged: {error}", "restore it from a copy") from None
    except OSError as error:
        raise UserError(f"data: cannot read {file}: {error.strerror or error}") from None


def _pieces(file: Path) -> Iterator[str]:
    rest, offset = b"", 0
    for block in _blocks(file):
        if offset == 0 and not rest:
            offset = _bom(block)
            block = block[offset:]
        rest += block
        cut = _cut(rest)
        if cut:
            yield _decoded(rest[:cut], file, offset)
            rest, offset = rest[cut:], offset + cut
    if rest:
        yield _decoded(rest, file, offset)


def _bom(start: bytes) -> int:
    """Bytes of the mark that some programs begin a text with."""
    return len(_BOM) if start.startswith(_BOM) else 0


def _cut(data: bytes) -> int:
    """Where the last piece of ``data`` may end; 0 to wait for more of a very long line."""
    last = 0
    start = max(0, len(data) - (PIECE_BYTES // 4))
    for boundary in _BREAK.finditer(data, start):
        last = boundary.end()
    if last or len(data) < 2 * PIECE_BYTES:
        return last
    cut = len(data) - 1
    while cut > len(data) - 4 and data[cut] & 0xC0 == 0x80:  # inside a character of UTF-8
        cut -= 1
    return cut


def _decoded(data: bytes, file: Path, offset: int) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"data: {file} is not UTF-8 text: byte {offset + error.start} cannot be decoded",
            "convert it, for example with iconv",
        ) from None


def _lines(file: Path) -> Iterator[str]:
    rest, offset = b"", 0
    for block in _blocks(file):
        if offset == 0 and not rest:
            offset = _bom(block)
            block = block[offset:]
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield _decoded(line, file, offset)
            offset += len(line) + 1
    if rest:
        yield _decoded(rest, file, offset)


def _field(line: str, field: str, where: str) -> str:
    try:
        row = json.loads(line)
    except ValueError:
        raise UserError(f"data: {where}: not JSON") from None
    if not isinstance(row, dict) or not isinstance(row.get(field), str):
        raise UserError(f"data: {where}: it has no text in the field {field!r}")
    return _sound(str(row[field]), where)


def _sound(text: str, where: str) -> str:
    """The text, which JSON allows to hold halves of characters that UTF-8 cannot tell."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start].encode("unicode_escape").decode()
        raise UserError(
            f"data: {where}: character {error.start} of its text is {half}, half of one",
            "repair the line, or leave it out",
        ) from None
    return text


def _of_hub(name: str, field: str) -> Iterator[Document]:
    try:
        from datasets import load_dataset
    except ImportError:
        raise UserError(
            f"data: {HUB}{name} needs the package datasets", "pip install 'retbench[data]'"
        ) from None
    path, _, configuration = name.partition(":")
    try:
        rows: Iterable[Any] = load_dataset(path, configuration or None, split="train")
    except Exception as problem:  # whatever the hub, its scripts or the network say
        raise UserError(
            f"data: {HUB}{name} cannot be loaded: {type(problem).__name__}: {problem}"
        ) from None
    for number, row in enumerate(rows):
        if not isinstance(row.get(field), str):
            raise UserError(f"data: {HUB}{name}: row {number} has no text in the field {field!r}")
        text = _sound(row[field], f"{HUB}{name}: row {number}")
        yield Document(f"{name}:{number}", partial(_whole, text))
