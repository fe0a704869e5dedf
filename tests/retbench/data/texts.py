"""Texts as tests write and find them."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
from pathlib import Path

from retbench.data.documents import read_documents


def names(source: str | None) -> list[str]:
    return [document.name for document in read_documents(source)]


PACKING = {
    "": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress,
    ".LZMA": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
}  # fmt: skip


def zipped(folder: Path, members: dict[str, str]) -> str:
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return str(folder / "a.zip")
