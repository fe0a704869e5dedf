"""JSON files that are written once and read back: sealed with a digest, and doubted when read.

A sealed document holds the SHA-256 of everything else in it, whatever its layout: what has been
edited by hand, or flipped on a disk, is refused instead of believed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retbench.errors import UserError
from retbench.store.files import read_file

SEAL = "sha256"


def parse(data: bytes | str) -> Any:
    """What a JSON text says.

    Raises:
        ValueError: it is no JSON that this program writes: damaged, nested too deeply, or with a
            number beyond int64 or float64, or with half a surrogate pair.
    """
    try:
        content = json.loads(data, parse_constant=_refuse, parse_int=_int64)
        json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("it holds half a surrogate pair") from None
    return content


def read(file: Path, remedy: str) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        file: the file.
        remedy: what to do where it is damaged.

    Raises:
        UserError: it cannot be read, or is damaged; names the file.
    """
    try:
        content = parse(read_file(file))
    except ValueError as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        known = isinstance(error, (json.JSONDecodeError, UnicodeDecodeError))
        why = "not JSON" if known else error
        raise UserError(f"{file}:{line}: damaged, {why}", remedy) from None
    if not isinstance(content, dict):
        raise UserError(f"{file}:1: damaged, not a JSON object", remedy)
    return content


def digest(content: Mapping[str, Any]) -> str:
    """The SHA-256 of what a document says, but for its seal.

    Raises:
        ValueError: it holds what JSON cannot.
    """
    rest = {key: value for key, value in content.items() if key != SEAL}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with its digest."""
    return {**content, SEAL: digest(content)}


def unsealed(file: Path, content: Mapping[str, Any], remedy: str) -> dict[str, Any]:
    """The content without its digest.

    Raises:
        UserError: it has none, or another: it is not what was written there.
    """
    if SEAL not in content:
        raise UserError(f"{file}:1: damaged, it lacks {SEAL!r}", remedy)
    if content[SEAL] != digest(content):
        raise UserError(f"{file}: changed since it was written (its SHA-256 differs)", remedy)
    return {key: value for key, value in content.items() if key != SEAL}


def _refuse(constant: str) -> float:
    raise ValueError(f"it holds {constant}")


def _int64(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**63:
        raise ValueError(f"it holds {digits:.25}, which is beyond 64 bits")
    return int(digits)
