"""Documents of text from a file, a folder, a pattern or a data set of the Hugging Face hub.

A document is read piece by piece, so that a text of any size passes through little memory.

    >>> [document.name for document in read_documents(None)][:2]
    ['shakespeare: Hamlet', 'shakespeare: King Lear']
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retbench.data.corpus import plays
from retbench.data.rows import rows_of, text_in
from retbench.data.unpacking import LOOKED_FOR, contents_of, is_sought
from retbench.errors import UserError

EMBEDDED = "shakespeare"
HUB = "hf:"


@dataclass(frozen=True)
class Document:
    """A text with a name.

    Attributes:
        name: where it comes from, for messages: a file's name, with the place in a table.
        pieces: reads the text from its beginning, in pieces that end between any two characters;
            can be called again.
    """

    name: str
    pieces: Callable[[], Iterator[str]]


def read_documents(source: str | None, *, text_key: str = "text") -> Iterator[Document]:
    """Find the documents of a source, in an order that is always the same.

    Args:
        source: None for the embedded plays; a file, a folder (its texts and tables at any depth,
            packed or not), a pattern such as ``books/*.txt``, or ``hf:NAME`` or
            ``hf:NAME:CONFIGURATION`` for the training split of a data set that the package
            ``datasets`` loads. JSON and CSV have one document a row, anything else one a file.
        text_key: the text's key in a row.

    Raises:
        UserError: there is nothing to read; or, while a document is read, it is damaged, is not
            text of UTF-8 (names the file and the byte), or a row lacks the key.
    """
    if source is None:
        yield from (_of_row(f"{EMBEDDED}: {title}", text) for title, text in plays().items())
    elif source.startswith(HUB):
        yield from _of_hub(source.removeprefix(HUB), text_key)
    else:
        for file in files_of(source):
            yield from _of_file(file, text_key)


def files_of(source: str) -> list[Path]:
    """The files behind a file's, a folder's or a pattern's name, sorted.

    Raises:
        UserError: there are none.
    """
    path = Path(source)
    if os.path.isdir(path):
        files = sorted(file for file in path.rglob("*") if is_sought(file))
        if not files:
            raise UserError(f"data: the folder {source} holds no text", LOOKED_FOR)
        return files
    if os.path.isfile(path):
        return [path]
    matches = (Path(match) for match in glob.glob(source, recursive=True))
    files = sorted(match for match in matches if os.path.isfile(match))
    if not files:
        what = "no file matches" if glob.has_magic(source) else "there is no file or folder"
        raise UserError(f"data: {what} {source}", "name a text, a folder or a pattern")
    return files


def _of_file(file: Path, text_key: str) -> Iterator[Document]:
    for content in contents_of(file):
        rows = rows_of(content, text_key)
        if rows is None:
            yield Document(_short(content.name, file), content.texts)
        else:
            yield from (_of_row(_short(place, file), text) for place, text in rows)


def _short(place: str, file: Path) -> str:
    """A place in a file without the file's folder."""
    short = file.name + place.removeprefix(str(file))
    return short.encode(errors="backslashreplace").decode()  # a name need not be UTF-8


def _of_row(name: str, text: str) -> Document:
    return Document(name, lambda: iter((text,)))


def _of_hub(name: str, text_key: str) -> Iterator[Document]:
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
        text = text_in(row, text_key, f"{HUB}{name}: row {number}")
        yield _of_row(f"{name}:{number}", text)
