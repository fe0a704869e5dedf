"""Which part of a text is trained on, chosen by, and reported on.

Many documents are split as wholes, by a hash of their content: a document lands in the same split
whatever else the text holds, and two equal ones never in two. Few documents, as a single file, are
each split by contiguous ranges: the first 90% to train on, then 5% and 5%.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial

from retbench.data.documents import EMBEDDED, HUB, Document, files_of, read_documents
from retbench.errors import UserError

SPLITS = ("train", "dev", "test")
FEW_DOCUMENTS = 20
"""From so many on documents are split as wholes."""

_SHARES = {"test": 0.05, "dev": 0.10}  # of the hashes below that; the rest is trained on
_EDGES = (0.90, 0.95)  # of a document's bytes
_LINE_END = re.compile(rb"\r?\n|\r|\xe2\x80[\xa8\xa9]|\xc2\x85")  # the latter Unicode's own
_SOUGHT = 0.025  # of them, behind an edge, for a line break: half of dev's share, or of test's
_SOUGHT_BYTES = 1 << 20  # at most


@dataclass(frozen=True)
class _Known:
    """What a first reading says of a document."""

    digest: str
    size: int


class Source:
    """A text that has been read once, in pieces, so that its documents are known.

    Args:
        data: a source that :func:`retbench.data.documents.read_documents` takes.
        text_key: the text's key in a row of a table.

    Raises:
        UserError: it cannot be read, or it is empty.

    Attributes:
        name: where it comes from, without a folder of this machine.
        sha256: the hash of the content, and of how it is split.
        bytes: UTF-8 bytes of all documents.
        by_ranges: whether each document is split, so that what is tested on ends a text whose
            beginning is trained on.
    """

    def __init__(self, data: str | None, text_key: str = "text") -> None:
        self._documents = partial(read_documents, data, text_key=text_key)
        self._known = known = _read(data, text_key, _stamp(data))
        self.name = EMBEDDED if data is None else data
        if data is not None and not data.startswith(HUB):
            self.name = os.path.basename(os.path.abspath(data))
        self.bytes = sum(document.size for document in known)
        self.by_ranges = len(known) < FEW_DOCUMENTS
        if not self.bytes:
            raise UserError(f"data: {data} is empty", "give a text")
        different = len({document.digest for document in known})
        if not self.by_ranges and different < len(SPLITS):
            raise UserError(
                f"data: only {different} of the {len(known)} documents of {data} differ, too few "
                f"for the splits {', '.join(SPLITS)}",
                "give other texts, or a single one, which is split by ranges",
            )
        listed = json.dumps([SPLITS, _EDGES, _SOUGHT, FEW_DOCUMENTS, [doc.digest for doc in known]])
        self.sha256 = hashlib.sha256(listed.encode()).hexdigest()

    def documents(self) -> Iterator[tuple[str, Document]]:
        """The parts of the text, read anew, each with the name of its split.

        Raises:
            UserError: here, or while a part is read to its end: the text is another by now.
        """
        if not self.by_ranges:
            yield from zip(_homes(self._known), self._again(), strict=True)
            return
        for split, low, high in zip(SPLITS, (0.0, *_EDGES), (*_EDGES, 1.0), strict=True):
            for document, doc in zip(self._again(), self._known, strict=True):
                edges = round(doc.size * low), round(doc.size * high)
                sought = min(round(doc.size * _SOUGHT), _SOUGHT_BYTES)
                part = partial(_part, document, *edges, sought)
                yield split, Document(document.name, part)

    def _again(self) -> Iterator[Document]:
        """The documents anew, unless there are fewer or more; the end of one tells of a change."""
        for document, doc in itertools.zip_longest(self._documents(), self._known):
            if document is None or doc is None:
                raise _changed(self.name)
            yield Document(document.name, partial(_unchanged, document, doc.digest))


def _stamp(data: str | None) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of the files: a text is read again once these have changed."""
    if data is None or data.startswith(HUB):
        return ()
    try:
        stats = [(str(file), file.stat()) for file in files_of(data)]
    except OSError as error:
        raise UserError(f"data: cannot read {error.filename}: {error.strerror}") from None
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


@cache
def _read(data: str | None, text_key: str, stamp: tuple[tuple[str, int, int], ...]) -> list[_Known]:
    """Digest and size of every document."""
    documents = []
    for document in read_documents(data, text_key=text_key):
        digest, size = hashlib.sha256(), 0
        for piece in document.pieces():
            content = piece.encode()
            digest.update(content)
            size += len(content)
        documents.append(_Known(digest.hexdigest(), size))
    return documents


def _unchanged(document: Document, known: str) -> Iterator[str]:
    digest = hashlib.sha256()
    for piece in document.pieces():
        digest.update(piece.encode())
        yield piece
    if digest.hexdigest() != known:
        raise _changed(document.name)


def _changed(name: str) -> UserError:
    return UserError(
        f"data: {name} changed while it was read", "try again when nothing writes to it"
    )


def _homes(known: list[_Known]) -> list[str]:
    """The split of each document, by its hash; the first by hash fill a split that got none."""
    homes = {}
    for document in known:
        place = int(document.digest[:13], 16) / 16**13
        homes[document.digest] = next((s for s, edge in _SHARES.items() if place < edge), "train")
    ranked = sorted(homes)
    for spare, split in enumerate(("test", "dev")):
        if split not in homes.values():
            homes[ranked[-1 - spare]] = split
    return [homes[document.digest] for document in known]


def _part(document: Document, low: int, high: int, sought: int) -> Iterator[str]:
    """The text of a range of bytes, its ends moved behind a line break among the ``sought`` next.

    Both neighbours of an edge move it alike, so that every character is in exactly one part,
    wherever the document is cut into pieces.
    """
    offset, content = 0, b""
    for piece in itertools.chain(document.pieces(), (None,)):  # all, to see whether they changed
        if piece is not None:
            content += piece.encode()
            end = offset + len(content)
            if any(edge <= end <= edge + sought + 1 for edge in (low, high)):
                continue  # what is sought behind the edge may be in the next piece
        start = _edge(content, low - offset, sought) if offset < low else 0
        stop = _edge(content, high - offset, sought) if offset < high else 0
        if start < stop:
            yield content[start:stop].decode()
        offset, content = offset + len(content), b""


def _edge(content: bytes, at: int, sought: int) -> int:
    """Where a piece is cut: behind a line break soon from ``at`` on, else between characters."""
    if at >= len(content):
        return len(content)
    if line_end := _LINE_END.search(content, at, at + sought):
        end = line_end.end()
        return end + (content[end - 1 : end + 1] == b"\r\n")  # the break's second half
    while at < len(content) and content[at] & 0xC0 == 0x80:  # inside a character of UTF-8
        at += 1
    return at
