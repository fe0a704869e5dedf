"""A text, split and encoded once, and from then on read through a memory map.

The encoded text lies in a folder of the cache, under a hash of its content: complete, or not there.
It is written beside and moved into place as a whole, so that two processes may race, and a killed
one leaves nothing half-done.

    >>> dataset = load_dataset(None, "char")                  # doctest: +SKIP
    >>> len(dataset.train.tokens), dataset.tokenizer.vocab_size    # doctest: +SKIP
    (1082338, 63)
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retbench.data.pretokens import in_pieces
from retbench.data.split import SPLITS, Source
from retbench.data.vocabulary import (
    Progress,
    Tokenizer,
    token_dtype,
    tokenizer_from_json,
    tokenizer_named,
)
from retbench.errors import UserError
from retbench.store import documents
from retbench.store.files import sha256, user_cache

SEVERAL = 4
"""Documents that an interval over documents takes at least."""

FORMAT = 3
_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Documents:
    """What a trained model is tested on.

    Attributes:
        parts: tokens, shape (tokens,), of each, and the bytes that all but the first stand for.
        whole: whether each is a document of its own, not a segment.
    """

    parts: list[tuple[NDArray[Any], int]]
    whole: bool


@dataclass(frozen=True)
class Split:
    """A part of a text, encoded.

    Attributes:
        tokens: shape (tokens,), uint16 or uint32, memory-mapped; documents one after the other.
        ends: int64 (documents,), where in ``tokens`` each document ends.
        bytes: int64 (documents,), UTF-8 bytes of each.
        tokenizer: what encoded it.
    """

    tokens: NDArray[Any]
    ends: NDArray[np.int64]
    bytes: NDArray[np.int64]
    tokenizer: Tokenizer

    def documents(self, at_most: int = 32, least: int = 2, longest: int | None = None) -> Documents:
        """The documents to test on, with the bytes that their tokens but the first stand for.

        Of more than ``at_most`` those are taken that lie at equal distances. Fewer than
        ``SEVERAL`` would tell nothing of how documents vary and are cut into equal segments; where
        that few stay because short ones are left out, the whole split is cut, across documents, as
        a training reads a text.

        Args:
            at_most: documents that are returned.
            least: tokens of a document or segment; shorter ones are left out.
            longest: tokens of a document that are used; all where None.

        Returns:
            The same for the same text, always.
        """
        starts = np.concatenate(([0], self.ends[:-1]))
        least = max(least, 2)
        every = [(a, b) for a, b in zip(starts.tolist(), self.ends.tolist(), strict=True)]
        ranges = [(a, b) for a, b in every if b - a >= least]
        whole = len(ranges) >= SEVERAL
        if len(ranges) < min(SEVERAL, len(every)):
            ranges = [(0, len(self.tokens))] if len(self.tokens) >= least else []
        if len(ranges) > at_most:
            chosen = np.arange(at_most) * len(ranges) // at_most
            ranges = [ranges[i] for i in chosen]
        elif ranges and not whole:
            ranges = _segments(ranges, at_most, least)
        parts = [self.tokens[a:b][:longest] for a, b in ranges]
        sizes = [len(self.tokenizer.decode_bytes(part[1:])) for part in parts]
        return Documents(list(zip(parts, sizes, strict=True)), whole)


def _segments(ranges: list[tuple[int, int]], at_most: int, least: int) -> list[tuple[int, int]]:
    """Ranges cut so that there are up to ``at_most``, none shorter than ``least``."""
    total = sum(b - a for a, b in ranges)
    segments = []
    for a, b in ranges:
        share = at_most * (b - a) // total
        parts = max(1, min(share, (b - a) // least))
        edges = [a + (b - a) * i // parts for i in range(parts + 1)]
        segments += list(itertools.pairwise(edges))
    return segments


@dataclass(frozen=True)
class Dataset:
    """A text, split and encoded.

    Attributes:
        name: where it comes from.
        tokenizer: what encoded it.
        train: the split that is trained on.
        dev: the split that the learning rate is chosen by.
        test: the split that is reported on.
        sha256: the hash of the tokens and their tokenizer.
        by_ranges: see :class:`retbench.data.split.Source`.
    """

    name: str
    tokenizer: Tokenizer
    train: Split
    dev: Split
    test: Split
    sha256: str
    by_ranges: bool

    def to_json(self) -> dict[str, Any]:
        """What ``run.json`` keeps of the data set."""
        return {
            "name": self.name,
            "tokenizer": self.tokenizer.name,
            "vocab_size": self.tokenizer.vocab_size,
            "sha256": self.sha256,
            "by_ranges": self.by_ranges,
            "splits": {
                name: {
                    "tokens": len(split.tokens),
                    "bytes": int(split.bytes.sum()),
                    "documents": len(split.ends),
                }
                for name in SPLITS
                for split in (getattr(self, name),)
            },
        }


@cache
def load_dataset(
    data: str | None, tokenizer: str, text_key: str = "text", *, progress: Progress | None = None
) -> Dataset:
    """Open a text that has been encoded before, or encode it now.

    Args:
        data: a source that :func:`retbench.data.documents.read_documents` takes.
        tokenizer: a name that :func:`retbench.data.vocabulary.tokenizer_named` takes.
        text_key: the text's key in a row of a table.
        progress: told how far the encoding has come.

    Raises:
        UserError: the text cannot be read or is empty, or there is no such tokenizer.
    """
    source = Source(data, text_key)
    key = hashlib.sha256(f"{FORMAT} {tokenizer} {source.sha256}".encode()).hexdigest()
    folder = cache_folder() / "data" / key[:32]
    dataset = _opened(folder, source)
    if dataset is None:
        encode(source, tokenizer, folder, progress)
        dataset = _opened(folder, source)
    if dataset is None:
        raise UserError(f"the encoded text in {folder} is damaged", "delete the folder")
    return dataset


def require_windows(dataset: Dataset, window: int) -> None:
    """Refuse a text one of whose splits does not hold a window of tokens and the next one.

    Raises:
        UserError: says which split is too short.
    """
    for name in SPLITS:
        tokens = len(getattr(dataset, name).tokens)
        if tokens < window + 1:
            raise UserError(
                f"data: the {name} split of {dataset.name} has {tokens:,} tokens, less than one "
                f"window of {window + 1:,}",
                "give more text or shorten --context",
            )


def _opened(folder: Path, source: Source) -> Dataset | None:
    manifest = manifest_of(folder)
    if manifest is None:
        return None
    tokenizer = tokenizer_from_json(manifest["tokenizer"])
    dtype = np.dtype(manifest["dtype"])
    splits = {}
    for split, sizes in manifest["splits"].items():
        file = folder / f"{split}.bin"
        tokens: NDArray[Any] = np.empty(0, dtype)
        if file.stat().st_size:
            tokens = np.memmap(file, dtype=dtype, mode="r")
        ends, lengths = (np.array(sizes[key], dtype=np.int64) for key in ("ends", "bytes"))
        splits[split] = Split(tokens, ends, lengths, tokenizer)
    return Dataset(
        name=source.name, tokenizer=tokenizer, sha256=manifest["tokens"],
        by_ranges=source.by_ranges, **splits,
    )  # fmt: skip


@cache
def cache_folder() -> Path:
    """Where encoded texts are kept: $RETBENCH_CACHE, else the user's cache, else a temporary one.

    Raises:
        UserError: $RETBENCH_CACHE cannot be written.
    """
    named = os.environ.get("RETBENCH_CACHE")
    folder = Path(os.path.expanduser(named)) if named else user_cache()
    try:
        if folder is None:
            raise OSError
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if named:
            raise UserError(f"RETBENCH_CACHE: cannot write {folder}: {error.strerror}") from None
        # The user's own, so that nobody else's files are taken for it.
        try:
            folder = Path(tempfile.gettempdir()) / f"retbench-{os.getuid()}"
            folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as problem:
            raise UserError(
                f"no folder for encoded texts: {problem.strerror or problem}",
                "let RETBENCH_CACHE name one that can be written",
            ) from None
    return folder


def manifest_of(folder: Path) -> dict[str, Any] | None:
    """What a folder of an encoded text holds; None where it is missing, old or damaged."""
    file = folder / _MANIFEST
    try:
        manifest = documents.unsealed(file, documents.read(file, ""), "")
        if (manifest["format"], manifest["folder"]) != (FORMAT, folder.name):
            return None
        files = {split: sha256(folder / f"{split}.bin") for split in SPLITS}
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
            manifest = _write(source, tokenizer, Path(new), progress) | {"folder": folder.name}
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
        "files": {split: sha256(folder / f"{split}.bin") for split in SPLITS},
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
