"""Reads a configuration file (TOML) and says in which line each key stands.

The keys are those of the command line's flags, with dashes or underscores; a table ``[set]`` holds
overrides of the models' configuration, and ``[set.FAMILY]`` those of one family alone::

    preset = "10m"
    context = "512:8192"

    [set]
    max_len = 16384
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from retbench.errors import UserError

_DEEPEST = 32
"""Tables and lists within each other; no key that there is needs more than four."""


def read_config_file(path: Path | str) -> tuple[dict[str, Any], dict[str, int]]:
    """Read a TOML file.

    Returns:
        Its top-level values, dashes in keys turned to underscores, and the line of each key,
        counted from 1; a key within a table stands there as ``table.key`` too.

    Raises:
        UserError: if it cannot be read, is not UTF-8, is not TOML or gives a key twice.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the configuration {path}: {error.strerror}") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8 text") from None
    try:
        document = parse_toml(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(_located(path, text, str(error))) from None
    except ValueError as problem:
        raise UserError(f"{path}: {problem}") from None
    values: dict[str, Any] = {}
    lines = _inner_lines(text)
    for written, value in document.items():
        key = written.replace("-", "_")
        lines[key] = _line_of(text, written)
        if key in values:
            raise UserError(f"{path}:{lines[key]}: {key} is given twice")
        values[key] = value
    return values, lines


def parse_toml(text: str) -> dict[str, Any]:
    """What a TOML text says.

    Raises:
        tomllib.TOMLDecodeError: it is no TOML.
        ValueError: it is nested too deeply, or holds a whole number beyond int64.
    """
    try:
        document = tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except ValueError as error:
        if isinstance(error, tomllib.TOMLDecodeError):
            raise
        raise ValueError("a number is too long") from None  # for Python, from 4,301 digits on
    _require_sound(document, _DEEPEST)
    return document


def _require_sound(value: Any, levels: int) -> None:
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("a number is beyond 64 bits")
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if inner and not levels:
        raise ValueError("nested too deeply")
    for each in inner:
        _require_sound(each, levels - 1)


def _located(path: Path, text: str, problem: str) -> str:
    """The parser's message, its position moved to the front where editors look for it."""
    found = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", problem)
    if found is None:
        return f"{path}: {problem}"
    line = found[1] or str(max(1, len(text.splitlines())))
    return f"{path}:{line}: not valid TOML: {problem[: found.start()]}"


def _inner_lines(text: str) -> dict[str, int]:
    """The line of each key of a table, as ``table.key``, as far as they are written plainly."""
    table = ""
    lines: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if opened := re.match(r"\s*\[([^\[\]]+)\]", line):
            table = re.sub(r"[\s\"']", "", opened[1])
        elif table and (given := re.match(r"\s*[\"']?([\w-]+)[\"']?\s*=", line)):
            lines.setdefault(f"{table}.{given[1].replace('-', '_')}", number)
    return lines


def _line_of(text: str, key: str) -> int:
    """The line that sets a top-level key, or opens its table; 1 if the key is written oddly."""
    name = rf"[\"']?{re.escape(key)}[\"']?"
    opening = re.compile(rf"\s*(?:{name}\s*[=.]|\[\s*{name}\s*[\].])")
    numbered = enumerate(text.splitlines(), start=1)
    return next((number for number, line in numbered if opening.match(line)), 1)
