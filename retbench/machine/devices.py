"""What makers' data sheets say of devices: peaks that nothing measured here has to reach.

The figures stand in ``devices.toml`` beside this module, each with its source.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from importlib import resources
from typing import Any


@dataclass(frozen=True)
class DataSheet:
    """One device.

    Attributes:
        key: its short name, as one writes it on a command line.
        names: what torch calls it.
        flop_per_s: dense peak in FLOP/s, by the name of a dtype; float32 is that without TF32.
        memory_bytes: of device memory.
        bandwidth_bytes_per_s: of device memory.
        source: the maker's document.
        l2_bytes: of the last cache that all cores share; None where not published.
    """

    key: str
    names: tuple[str, ...]
    flop_per_s: Mapping[str, float]
    memory_bytes: float
    bandwidth_bytes_per_s: float
    source: str
    l2_bytes: int | None = None


@cache
def data_sheets() -> tuple[DataSheet, ...]:
    """Every device that is known."""
    text = resources.files(__package__).joinpath("devices.toml").read_text(encoding="utf-8")
    return read_sheets(tomllib.loads(text))


def read_sheets(document: Mapping[str, Any]) -> tuple[DataSheet, ...]:
    """The data sheets that a TOML document has, written as ``devices.toml`` is.

    Raises:
        ValueError: an entry lacks a figure or has one too many, or one is of the wrong type or
            less than 1; two have one key.
    """
    devices = document.get("device", [])
    if not isinstance(devices, list) or not all(isinstance(each, dict) for each in devices):
        raise ValueError("device must be a list of tables, each begun by [[device]]")
    sheets = tuple(map(_sheet, devices))
    keys = [sheet.key for sheet in sheets]
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise ValueError(f"device {twice[0]!r} occurs twice")
    return sheets


def _sheet(given: Mapping[str, Any]) -> DataSheet:
    named = f"device {given.get('key', '?')}"
    needed = {field.name for field in fields(DataSheet) if field.default is MISSING}
    if lacking := sorted(needed - given.keys()):
        raise ValueError(f"{named} lacks {lacking[0]}")
    if foreign := sorted(given.keys() - {field.name for field in fields(DataSheet)}):
        raise ValueError(f"{named} has an unknown entry {foreign[0]!r}")
    for name in ("key", "source"):
        if not isinstance(given[name], str):
            raise ValueError(f"{named}: {name} must be text, not {given[name]!r}")
    if not re.fullmatch(r"[\w.-]+", given["key"]):  # a figure's file is named after it
        raise ValueError(f"{named}: key must be letters, digits, '.', '_' and '-'")
    names = given["names"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{named}: names must be a list of texts")
    sizes = {name: size for name, size in given.items() if name.endswith(("_bytes", "_per_s"))}
    rates = sizes.pop("flop_per_s")
    if not isinstance(rates, Mapping):
        raise ValueError(f"{named}: flop_per_s must be a table, by dtype")
    for name, size in {**sizes, **rates}.items():
        if isinstance(size, bool) or not isinstance(size, int | float) or not 1 <= size < 1e30:
            raise ValueError(f"{named}: {name} must be a number of at least 1, not {size!r}")
    return DataSheet(**{**given, "names": tuple(names)})


def data_sheet(name: str | None) -> DataSheet | None:
    """The data sheet of the device that torch calls so; None for any other, never a likely one.

    A slice of a device (MIG) has a name of its own, and none of its figures.
    """
    known = {name.casefold(): sheet for sheet in data_sheets() for name in sheet.names}
    return known.get((name or "").casefold())
