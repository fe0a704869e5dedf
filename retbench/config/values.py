"""Reads single configuration values: from a flag's text, from TOML or JSON, from Python.

A reader takes the raw value and returns the checked one, or raises ValueError with a message that
completes "context: ...".
"""

from __future__ import annotations

import difflib
import itertools
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from retbench.errors import UserError

Reader = Callable[[Any], Any]
Scalar = bool | int | float | str


def nearest(name: str, known: Iterable[str], *, listed: bool = False) -> str:
    """What to suggest for an unknown name: the nearest known one, or all of them, or ``listed``."""
    known = list(known)
    folded = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.5)
    every = f"there are {', '.join(known)}" if known else "there are none"
    if not close:
        return every
    return f"did you mean {folded[close[0]]!r}?" + (f" {every}" if listed else "")


def text(raw: Any) -> str:
    """A non-empty string."""
    if not isinstance(raw, str):
        raise ValueError(f"must be text, not {raw!r}")
    if not raw.strip():
        raise ValueError("must not be empty")
    if not is_writable(raw):
        raise ValueError(f"{raw!r} is not UTF-8")
    if "\0" in raw:
        raise ValueError(f"{raw!r} holds a zero byte")
    return raw.strip()


def is_writable(text: str) -> bool:
    """Whether a text can be written as UTF-8: it holds no byte that could not be decoded."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def path(raw: Any) -> str:
    """A path, as text; ``~`` is the user's home."""
    found = text(fspath(raw) if isinstance(raw, PathLike) else raw)
    whole = os.path.expanduser(found)
    if found.partition("/")[0] == "~" and whole == found:
        raise ValueError(f"there is no home folder for {found!r}")
    return whole


def read(name: str, reader: Reader, raw: Any) -> Any:
    """A value by its reader.

    Raises:
        UserError: it cannot be; begins with the name.
    """
    try:
        return reader(raw)
    except ValueError as problem:
        raise UserError(f"{name}: {problem}") from None


def folder(raw: Any) -> Path:
    """The folder that ``--out`` names.

    Raises:
        UserError: it names none.
    """
    return Path(read("out", path, raw))


@dataclass(frozen=True)
class OneOf:
    """Reads one of a few names; ``what`` they name, or ``""`` where other names exist elsewhere."""

    known: tuple[str, ...]
    what: str = ""
    where: str = ""

    def __call__(self, raw: Any) -> str:
        """The name."""
        name = text(raw)
        if name in self.known:
            return name
        if self.what:
            raise ValueError(f"unknown {self.what} {name!r}; {nearest(name, self.known)}")
        raise ValueError(f"must be {' or '.join(self.known)}{self.where}, not {name!r}")


@dataclass(frozen=True)
class SomeOf:
    """Reads some of a few names, each once, in the order given: the first may count."""

    known: tuple[str, ...]
    what: str

    def __call__(self, raw: Any) -> tuple[str, ...]:
        """The names."""
        one = OneOf(self.known, self.what)
        found = tuple(dict.fromkeys(one(name) for name in names(raw)))
        if not found:
            raise ValueError("needs at least one value")
        return found


@dataclass(frozen=True)
class Number:
    """Reads a number: of a type, and as is demanded ("must ...")."""

    type: type[int] | type[float]
    demand: str
    holds: Callable[[Any], bool]

    def __call__(self, raw: Any) -> Any:
        """The number, in its type."""
        known = (int,) if self.type is int else (int, float)
        if isinstance(raw, bool) or not isinstance(raw, known):
            kind = "a whole number" if self.type is int else "a number"
            raise ValueError(f"must be {kind}, not {raw!r}")
        if isinstance(raw, float) and not math.isfinite(raw):
            raise ValueError(f"must be finite, not {raw}")
        if isinstance(raw, int) and raw >= 2**63:
            raise ValueError("must be less than 2**63")
        if not self.holds(raw):
            raise ValueError(f"must {self.demand}, not {raw}")
        return self.type(raw)


positive = Number(int, "be at least 1", lambda given: given >= 1)
not_negative = Number(int, "not be negative", lambda given: given >= 0)
seed = not_negative  # torch takes no more than 63 bits
positive_float = Number(float, "be above 0", lambda given: given > 0)
gibibytes = Number(float, "be above 0 and at most 2**33", lambda given: 0 < given <= 2**33)
not_negative_float = Number(float, "not be negative", lambda given: given >= 0)


def boolean(raw: Any) -> bool:
    """True or false."""
    if not isinstance(raw, bool):
        raise ValueError(f"must be true or false, not {raw!r}")
    return raw


def share(raw: Any) -> float:
    """A relative difference above 0 and below 1: ``2%``, ``0.02`` as text, or a number."""
    if isinstance(raw, str):
        number, percent, rest = raw.strip().partition("%")
        try:
            raw = float(number) / (100 if percent else 1)
        except ValueError:
            rest = raw
        if rest:
            raise ValueError(f"{rest!r} is no relative difference such as 2% or 0.02")
    found: float = positive_float(raw)
    if found >= 1:
        raise ValueError(f"must be below 1 (100%), not {found:g}; 2% is 0.02")
    return found


def ascending_floats(raw: Any) -> tuple[float, ...]:
    """Numbers above 0: ``1e-3,3e-3``, one number, or a sequence.

    Returns:
        Each number once, ascending; no two are the same in the six digits of a point's id.
    """
    if isinstance(raw, str):
        try:
            items: list[Any] = [float(part) for part in raw.split(",") if part.strip()]
        except ValueError:
            raise ValueError(f"{raw!r} is no list of numbers such as 1e-3,3e-3") from None
    else:
        items = _sequence([raw] if isinstance(raw, int | float) else raw)
    found = sorted({positive_float(item) for item in items})
    if not found:
        raise ValueError("needs at least one value")
    for one, other in itertools.pairwise(found):
        if f"{one:g}" == f"{other:g}":
            raise ValueError(f"{one!r} and {other!r} are the same to six digits; leave one out")
    return tuple(found)


def names(raw: Any) -> tuple[str, ...]:
    """Names: a sequence of them, or text with commas between."""
    parts = [part for part in raw.split(",") if part.strip()] if isinstance(raw, str) else raw
    return tuple(text(part) for part in _sequence(parts))


def distinct_names(raw: Any) -> tuple[str, ...]:
    """One name or more, each once: a sequence of them, or text with commas between."""
    found = names(raw)
    if not found:
        raise ValueError("needs at least one value")
    for name in found:
        if found.count(name) > 1:
            raise ValueError(f"{name!r} is named twice; name each once")
    return found


def ascending_sizes(raw: Any) -> tuple[int, ...]:
    """Sizes from 1 on: ``512,2048``, ``512:8192`` (its powers of two), both mixed, or a sequence.

    Returns:
        Each size once, ascending.

    >>> ascending_sizes("100,512:2048")
    (100, 512, 1024, 2048)
    """
    if isinstance(raw, str):
        found = [size for part in raw.split(",") for size in _size_or_range(part.strip())]
    else:
        found = [positive(item) for item in _sequence([raw] if isinstance(raw, int) else raw)]
    if not found:
        raise ValueError("needs at least one value")
    return tuple(sorted(set(found)))


def powers(first: int, last: int) -> tuple[int, ...]:
    """The powers of two from ``first`` to ``last``, both included."""
    exponents = range(first.bit_length() - 1, last.bit_length())
    return tuple(2**n for n in exponents if first <= 2**n <= last)


def overrides(raw: Any) -> dict[str, Scalar]:
    """Overrides of models' fields: a mapping (of families to mappings, too) or ``KEY=VALUE``s."""
    if isinstance(raw, Mapping):
        return _flat(raw)
    found = {}
    for item in _sequence([raw] if isinstance(raw, str) else raw):
        key, equals, given = text(item).partition("=")
        if not (equals and key.strip()):
            raise ValueError(f"must be KEY=VALUE, not {item!r}")
        found[_key(key)] = _finite(key, _scalar(given.strip()))
    return found


def _sequence(raw: Any) -> list[Any]:
    if isinstance(raw, str) or not isinstance(raw, Iterable):
        raise ValueError(f"must be a list, not {raw!r}")
    return list(raw)


def _size_or_range(part: str) -> list[int]:
    low, colon, high = part.partition(":")
    try:
        first, last = int(low), int(high if colon else low)
    except ValueError:
        raise ValueError(
            f"{part!r} is neither a whole number nor a range such as 512:8192"
        ) from None
    positive(first)
    positive(last)
    if not colon:
        return [first]
    found = powers(first, last)
    if not found:
        raise ValueError(f"the range {part!r} holds no power of two")
    if len(found) == 1 and first != last:
        what = f"the range {part!r} holds one power of two, {found[0]}"
        raise ValueError(f"{what}; list what is meant, such as {first},{last}")
    return list(found)


def _flat(tree: Mapping[str, Any]) -> dict[str, Scalar]:
    found: dict[str, Scalar] = {}
    for key, given in tree.items():
        if isinstance(given, Mapping):
            found |= {f"{key}.{inner}": deep for inner, deep in _flat(given).items()}
        elif isinstance(given, bool | int | float | str):
            found[_key(key)] = _finite(key, given)
        else:
            raise ValueError(f"{key} must be a number, text, true or false, not {given!r}")
    return found


def _finite(key: str, given: Scalar) -> Scalar:
    """The value, unless it is a number that cannot be stored."""
    if isinstance(given, float) and not math.isfinite(given):
        raise ValueError(f"{key} must be finite, not {given}")
    if isinstance(given, int) and not -(2**63) <= given < 2**63:
        raise ValueError(f"{key} must be within 64 bits")
    return given


def _key(written: str) -> str:
    """A field's name with underscores; a family's name before the dot keeps its dashes."""
    family, dot, name = written.strip().rpartition(".")
    return f"{family}{dot}{name.replace('-', '_')}"


def _scalar(given: str) -> Scalar:
    """A number, true or false where the text is one; else the text itself."""
    try:
        parsed = json.loads(given, parse_constant=str)
    except (ValueError, RecursionError):
        return given
    return parsed if isinstance(parsed, bool | int | float | str) else given
