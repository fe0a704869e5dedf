"""A text encoded once, into a folder of the cache: complete, or not there.

It is written beside and moved into place as a whole, so that two processes may race, and a killed
one leaves nothing half-done.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from retbench.data.pretokens import in_pieces
from retbench.data.split import SPLITS, Source
from retbench.data.vocabulary import Progress, Tokenizer, token_dtype, tokenizer_named
from retbench.errors import UserError
from retbench.store import documents

FORMAT = 2
_MANIFEST = "manifest.json"


@cache
def cache_folder() -> Path:
    """Where encoded texts are kept: $RETBENCH_CACHE, else the user's cache, else a temporary one.

    Raises:
        UserError: $RETBENCH_CACHE cannot be written.
    """
    named = os.environ.get("RETBENCH_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(named) if named else Path(base) / "retbench"
    try:
        if base.startswith("~") and not named:  # neither a HOME nor an entry among the users
            raise OSError
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if named:
            raise UserError(f"RETBENCH_CACHE: cannot write {folder}: {error.strerror}") from None
        # The user's own, so that nobody else's files are taken for it.
        folder = Path(tempfile.gettempdir()) / f"retbench-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def manifest_of(folder: Path) -> dict[str, Any] | None:
    """What a folder of an encoded text holds; None where it is missing, old or damaged."""
    file = folder / _MANIFEST
    try:
        manifest = documents.unsealed(file, documents.read(file, ""), "")
        if manifest["format"] != FORMAT:
            return None
        files = {split: _digest(folder / f"{split}.bin") for split in SPLITS}
    except (OSError, UserError, KeyError):
        return None
    return manifest if manifest["files"] == files else None


def encode(source: Source, name: str, folder: Path, progress: Progress | None) -> None:
    """Write an encoded text into a folder of its own, then move that into place.

    Args:
        source: the text.
        name: of its tokenizer.
        folder: where it is to be.
        progress: told how far it has come.

    Raises:
        UserError: it cannot be written, or there is no such tokenizer.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=folder.parent, prefix=f"{folder.name}.new-", ignore_cleanup_errors=True
        ) as new:
            tokenizer = tokenizer_named(
                name,
                lambda: _texts(source, ("train",), progress),
                every=lambda: _texts(source, SPLITS, progress),
                progress=progress,
            )
            manifest = _write(source, tokenizer, Path(new), progress)
            (Path(new) / _MANIFEST).write_text(json.dumps(documents.sealed(manifest)))
            _move(Path(new), folder)
    except OSError as error:
        raise UserError(
            f"cannot keep the encoded text in {folder.parent}: {error.strerror or error}",
            "make room, or let RETBENCH_CACHE name another folder",
        ) from None


def _texts(source: Source, splits: Sequence[str], progress: Progress | None) -> Iterator[str]:
    """The texts of some splits, with word of how far they have been read."""
    done = 0
    for split, document in source.documents():
        for text in in_pieces(document.pieces()) if split in splits else ():
            yield text
            done += len(text.encode())
            if progress:
                progress("reading the text", min(1.0, done / source.bytes))


def _write(
    source: Source, tokenizer: Tokenizer, folder: Path, progress: Progress | None
) -> dict[str, Any]:
    """Write one file a split; returns the manifest."""
    content = hashlib.sha256(json.dumps(tokenizer.to_json()).encode())
    sizes: dict[str, dict[str, list[int]]] = {s: {"ends": [], "bytes": []} for s in SPLITS}
    dtype, done = np.dtype(token_dtype(tokenizer.vocab_size)), 0
    with contextlib.ExitStack() as stack:
        files = {
            split: stack.enter_context(open(folder / f"{split}.bin", "wb")) for split in SPLITS
        }
        for split, document in source.documents():
            length = 0
            content.update(split.encode())
            for piece in in_pieces(document.pieces()):
                tokens = tokenizer.encode(piece)
                files[split].write(tokens.data)
                content.update(tokens.data)
                length += len(piece.encode())
                if progress:
                    progress("encoding the text", min(1.0, (done + length) / source.bytes))
            done += length
            sizes[split]["ends"].append(files[split].tell() // dtype.itemsize)
            sizes[split]["bytes"].append(length)
    return {
        "format": FORMAT,
        "files": {split: _digest(folder / f"{split}.bin") for split in SPLITS},
        "tokenizer": tokenizer.to_json(),
        "dtype": dtype.name,
        "tokens": content.hexdigest(),
        "splits": sizes,
    }


def _move(new: Path, folder: Path) -> None:
    """Put a finished folder into place; one that another process was quicker with may stay."""
    for _ in range(2):
        try:
            os.rename(new, folder)
            return
        except OSError:
            if manifest_of(folder) is not None:
                return
            damaged = Path(tempfile.mkdtemp(dir=folder.parent, prefix="damaged-"))
            with contextlib.suppress(OSError):
                os.rename(folder, damaged)
            shutil.rmtree(damaged, ignore_errors=True)
    os.rename(new, folder)


def _digest(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
