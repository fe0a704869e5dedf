"""Documents of text from a file, a folder, a pattern or a data set of the Hugging Face hub.

A document is read piece by piece, so that a text of any size passes through little memory. Rows of
JSON and CSV are documents each.

    >>> [document.name for document in read_documents(None)][:2]
    ['shakespeare: Hamlet', 'shakespeare: King Lear']
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from retbench.data.corpus import plays
from retbench.data.rows import rows_of, text_in
from retbench.data.unpacking import BLOCK_BYTES, LOOKED_FOR, contents_of, is_sought
from retbench.errors import UserError

EMBEDDED = "shakespeare"
HUB = "hf:"
TEXT_KEY = "text"
_MADE_HERE = ({"run.json", "samples.jsonl"}, {"training.json", "tokenizer.json"})
"""What the folder of a run holds, or of a trained model, which may lie among the texts."""


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


def read_documents(source: str | None, *, text_key: str = TEXT_KEY) -> Iterator[Document]:
    """Find the documents of a source, in an order that is always the same.

    Args:
        source: None for the embedded plays; a file, a folder (its texts and tables at any depth,
            packed or not), a pattern such as ``books/*.txt``, or ``hf:NAME`` or
            ``hf:NAME:CONFIGURATION`` for the training split of a data set that the package
            ``datasets`` loads. JSON and CSV have one document a row, anything else one a file.
        text_key: the text's key in a row.

    Raises:
        UserError: there is nothing to read; or, while a document is read, it is damaged, is not
            text of UTF-8 (names the file and the byte), or a row lacks the key; or no file has rows
            that another key than the usual one could be of.
    """
    if source is None:
        yield from (_of_row(f"{EMBEDDED}: {title}", text) for title, text in plays().items())
    elif source.startswith(HUB):
        yield from _of_hub(source.removeprefix(HUB), text_key)
    else:
        has_rows = False
        for file in files_of(source):
            for content in contents_of(file):
                rows = rows_of(content, text_key)
                if rows is None:
                    yield Document(_short(content.name, file), content.texts)
                    continue
                has_rows = True
                yield from (_of_row(_short(place, file), text) for place, text in rows)
        if not has_rows and text_key != TEXT_KEY:
            raise UserError(
                f"data: {source} has no rows, so none with the field {text_key!r}",
                "leave out --text-key, or call a table .csv, .tsv or .jsonl",
            )


def files_of(source: str) -> list[Path]:
    """The files behind a file's, a folder's or a pattern's name, sorted.

    Of a folder those at any depth that can be texts by their names, what links lead to included,
    but for hidden folders and those of runs and of trained models. Each is there once.

    Raises:
        UserError: there are none, or a folder that may hold one cannot be listed.
    """
    path = Path(source)
    if os.path.isdir(path):
        files = _once(_walk(path))
        if not files:
            raise UserError(f"data: the folder {source} holds no text", LOOKED_FOR)
        return files
    if os.path.isfile(path):
        return [path]
    if os.path.exists(path):
        raise UserError(f"data: {source} is no regular file", "write its content to one first")
    files = _once(_matching(source))
    if not files:
        what = "no file matches" if glob.has_magic(source) else "there is no file or folder"
        raise UserError(f"data: {what} {source}", "name a text, a folder or a pattern")
    return files


def _once(files: Iterable[Path]) -> list[Path]:
    """Files in the order of their names, each under the first of them."""
    return sorted({os.path.realpath(file): file for file in sorted(files, reverse=True)}.values())


def _walk(top: Path) -> Iterator[Path]:
    """The files of a folder that are sought."""
    seen = set()
    for folder, below, names in os.walk(top, onerror=_refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen or any(made <= {*names} for made in _MADE_HERE):
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(name for name in below if not name.startswith("."))
        yield from filter(_is_file, (Path(folder, name) for name in names if is_sought(name)))


def _matching(pattern: str) -> Iterator[Path]:
    """The files that a pattern matches; glob passes over what it cannot look at, so look before."""
    whole = Path(pattern)
    for part in (whole, *whole.parents):
        if not glob.has_magic(str(part)):
            continue
        looked_at = part if part.name == "**" else part.parent
        for folder in filter(os.path.isdir, glob.iglob(str(looked_at), recursive=True)):
            if glob.has_magic(part.name):
                next(os.walk(folder, onerror=_refuse), None)
            else:
                _look_for(Path(folder, part.name))
    yield from filter(_is_file, map(Path, glob.iglob(pattern, recursive=True)))


def _is_file(path: Path) -> bool:
    """Whether it can be read, or is a link that leads nowhere: reading it will tell."""
    return os.path.isfile(path) or not os.path.exists(os.path.realpath(path))


def _look_for(path: Path) -> None:
    try:
        os.stat(path)
    except PermissionError as error:  # whether it is there cannot be known
        _refuse(error)
    except OSError:
        pass


def _refuse(error: OSError) -> NoReturn:
    raise UserError(f"data: cannot read {error.filename}: {error.strerror}") from None


def _short(place: str, file: Path) -> str:
    """A place in a file without the file's folder."""
    short = file.name + place.removeprefix(str(file))
    return short.encode(errors="backslashreplace").decode()  # a name need not be UTF-8


def _of_row(name: str, text: str) -> Document:
    starts = range(0, len(text), BLOCK_BYTES)
    return Document(name, lambda: (text[start : start + BLOCK_BYTES] for start in starts))


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
        for number, row in enumerate(rows):
            text = text_in(row, text_key, f"{HUB}{name}: row {number}")
            yield _of_row(f"{name}:{number}", text)
    except UserError:
        raise
    except Exception as problem:  # whatever the hub, its scripts, decoders or the network say
        raise UserError(
            f"data: {HUB}{name} cannot be loaded: {type(problem).__name__}: {problem}"
        ) from None
