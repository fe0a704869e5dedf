"""What makers' data sheets say of devices: peaks that nothing measured here has to reach.

The figures stand in ``devices.toml`` beside this module, each with its source.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources


@dataclass(frozen=True)
class DataSheet:
    """One device.

    Attributes:
        names: what torch calls it.
        flop_per_s: dense peak in FLOP/s, by the name of a dtype; float32 is that without TF32.
        memory_bytes: of device memory.
        bandwidth_bytes_per_s: of device memory.
        source: the maker's document.
        l2_bytes: of the last cache that all cores share; None where not published.
    """

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
    return tuple(
        DataSheet(**given | {"names": tuple(given["names"])})
        for given in tomllib.loads(text)["device"]
    )


def data_sheet(name: str | None) -> DataSheet | None:
    """The data sheet of the device that torch calls so; None for any other, never a likely one.

    A slice of a device (MIG) has a name of its own, and none of its figures.
    """
    known = {name.casefold(): sheet for sheet in data_sheets() for name in sheet.names}
    return known.get((name or "").casefold())
