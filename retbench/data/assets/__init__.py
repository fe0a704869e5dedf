"""The files carried in the package, and the one way to read them.

Each file is gzip and its content is verified against a SHA-256 that stands in the code: prompts
made from a damaged or replaced file would silently be other prompts.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from pathlib import Path

from retbench.errors import UserError

_FOLDER = Path(__file__).parent


def read_verified(path: Path, sha256: str) -> str:
    """The UTF-8 text in a gzip file.

    Args:
        path: the file; a relative path is one of this folder.
        sha256: the expected digest, in hexadecimal, of the uncompressed bytes.

    Raises:
        UserError: the file is missing, is not readable gzip, or holds other bytes.
    """
    path = _FOLDER / path
    hint = "install retbench again"
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {path}: {error}", hint) from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(f"{path} is not the file this version was released with", hint)
    return content.decode("utf-8")
