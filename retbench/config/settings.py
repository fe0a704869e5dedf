"""Settings: frozen dataclasses whose fields say how they are read, named, explained and defaulted.

All that is made of a configuration is made from its fields: the command line's options and their
help, the keys of a file, the checks of single values, the defaults by device, and the JSON. So a
setting is added in one place::

    @dataclass(frozen=True, kw_only=True)
    class Mine(Settings):
        steps: int = setting(value.positive, "Optimizer steps.", cpu=350, cuda=1000)

    Mine(device="cpu").steps                    # 350
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from types import MappingProxyType
from typing import Any, Self

from retbench.config import values as value
from retbench.errors import Misfit, UserError

UNSET: Any = object()
"""Stands for a value that was not given."""


@dataclass(frozen=True)
class ByDevice:
    """A default of which a CPU and a GPU have each their own; called with the other settings."""

    cpu: Any
    cuda: Any

    def __call__(self, known: Mapping[str, Any]) -> Any:
        """The default on ``known["device"]``."""
        return self.cpu if known["device"] == "cpu" else self.cuda


@dataclass(frozen=True)
class Spec:
    """What a field says of itself.

    Attributes:
        reader: takes a flag's text, a file's or Python's value, and returns the checked one.
        help: what it is, in a sentence or two.
        default: its value, or a function of the other settings by name.
        flag: its name on the command line and in files, where that is not the field's; a field
            that nobody chooses has ``""``.
        metavar: stands for its value in help.
        group: the heading it stands under in help; the suite's own where ``""``.
        shown: its default in words, where those are not its value's.
        repeats: whether the flag may be given several times.
        first_of: the setting that takes several where this takes one, the first of those.
        choices: what a shell offers for it.
    """

    reader: value.Reader
    help: str = ""
    default: Any = UNSET
    flag: str | None = None
    metavar: str = ""
    group: str = ""
    shown: str = ""
    repeats: bool = False
    first_of: str = ""
    choices: Callable[[], Any] = tuple

    def read(self, raw: Any) -> Any:
        """The checked value; None passes where it is the default.

        Raises:
            ValueError: completes "name: ...".
        """
        return None if raw is None and self.default is None else self.reader(raw)


def setting(reader: value.Reader, help: str = "", **given: Any) -> Any:
    """A field of a :class:`Settings` class.

    Args:
        reader: see :class:`Spec`, as for the rest.
        help: what it is.
        given: further attributes of :class:`Spec`; ``cpu`` and ``cuda`` for a default of each.
    """
    return _field(Spec(reader, help), given)


def changed(base: type[Settings], name: str, **given: Any) -> Any:
    """A field as a base class has it, but for the attributes given; see :func:`setting`."""
    return _field(base.settings()[name], given)


def first_of(base: type[Settings], name: str, several: str) -> Any:
    """A base class's field of which a suite sweeps several values: the first of those."""
    return changed(base, name, flag="", first_of=several, default=lambda known: known[several][0])


def _field(entry: Spec, given: dict[str, Any]) -> Any:
    """A dataclass's field of a setting, but for the attributes given."""
    if "cpu" in given:
        given["default"] = ByDevice(given.pop("cpu"), given.pop("cuda"))
    entry = dataclasses.replace(entry, **given)
    metadata = {"setting": entry}
    if isinstance(entry.default, Mapping):
        # Not hashed: a mapping cannot be.
        return dataclasses.field(default_factory=dict, hash=False, metadata=metadata)
    if entry.default is UNSET:
        return dataclasses.field(metadata=metadata)
    default = UNSET if callable(entry.default) else entry.default
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A dataclass of settings; every field is made by :func:`setting`.

    Raises:
        Misfit: a value cannot be.
    """

    def __post_init__(self) -> None:
        """Check what was given, settle the rest, and keep mappings from being changed."""
        specs = self.settings()
        known = _Known(specs)
        for name, spec in specs.items():
            if (raw := getattr(self, name)) is UNSET:
                continue
            try:
                known[name] = spec.read(raw)
            except ValueError as problem:
                raise self.misfit(name, str(problem)) from None
        for name in specs:
            found = known[name]
            if isinstance(found, Mapping):
                found = MappingProxyType(dict(found))
            object.__setattr__(self, name, found)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the values alone: the proxies that keep mappings from being changed cannot be."""
        return partial(type(self), **Settings.to_json(self)), ()

    @classmethod
    def settings(cls) -> dict[str, Spec]:
        """What each field says of itself, by its name."""
        return {entry.name: entry.metadata["setting"] for entry in fields(cls)}

    @classmethod
    def by_key(cls) -> dict[str, str]:
        """The field that each key of a file sets: the keys are flags, and fields' names."""
        chosen = {name: entry for name, entry in cls.settings().items() if entry.flag != ""}
        flags = {entry.flag: name for name, entry in chosen.items() if entry.flag}
        return {**{name: name for name in chosen}, **flags}

    @classmethod
    def flag(cls, name: str) -> str:
        """What a field is called where users write it, without the dashes in front."""
        return (cls.settings()[name].flag or name).replace("_", "-")

    @classmethod
    def parse(
        cls, given: Mapping[str, Any], places: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Check and convert single values.

        Args:
            given: values by key, as a flag, a file or Python code gives them.
            places: where a key stands, for errors to begin with.

        Returns:
            The values by field.

        Raises:
            UserError: for an unknown key (with the nearest one), a key given twice, or a value that
                cannot be.
        """
        keys = cls.by_key()
        parsed: dict[str, Any] = {}
        for key, raw in given.items():
            where = (places or {}).get(key, "")
            if key not in keys:
                raise UserError(f"{where}unknown key {key!r}", value.nearest(key, keys))
            if keys[key] in parsed:
                raise UserError(f"{where}{key}: {keys[key]} is given twice")
            spec = cls.settings()[keys[key]]
            parsed[keys[key]] = value.read(f"{where}{cls.flag(keys[key])}", spec.read, raw)
        return parsed

    def to_json(self) -> dict[str, Any]:
        """Every field as JSON-able values; :meth:`from_json` gives back an equal object."""
        return {name: _plain(getattr(self, name)) for name in self.settings()}

    def contradictions(self, asked: Mapping[str, Any], *, but: Sequence[str] = ()) -> list[str]:
        """Which of the values asked for differ from these, one phrase each.

        Args:
            asked: by field.
            but: fields that may differ.
        """
        judged = {name: wanted for name, wanted in asked.items() if name not in but}
        return contradictions(self.to_json(), judged, self.flag)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_json`.

        Raises:
            UserError: if a field is unknown, of the wrong type, or missing and without a default.
        """
        known = cls.settings()
        if unknown := [name for name in document if name not in known]:
            raise UserError(f"unknown key {unknown[0]!r}", value.nearest(unknown[0], known))
        missing = [
            name for name, entry in known.items()
            if name not in document and (entry.default is UNSET or callable(entry.default))
        ]  # fmt: skip
        if missing:
            raise UserError(f"the stored configuration lacks {', '.join(missing)}")
        return cls(**document)

    @classmethod
    def misfit(cls, name: str, problem: str) -> Misfit:
        """What to raise for a field's value that cannot be used, and why."""
        return Misfit(f"{cls.flag(name)}: {problem}", keys=(name,))


class _Known(dict[str, Any]):
    """Settings by name; one that was not given is settled when it is looked up."""

    def __init__(self, settings: Mapping[str, Spec]) -> None:
        self._settings = settings

    def __missing__(self, name: str) -> Any:
        default = self._settings[name].default
        self[name] = default(self) if callable(default) else default
        return self[name]


def first_line(described: type) -> str:
    """The first line of a dataclass's docstring; empty where it has none, as under ``-OO``.

    ``dataclass`` then writes one that lists the fields.
    """
    said = described.__doc__ or ""
    return "" if said.startswith(f"{described.__name__}(") else said.partition("\n")[0]


def contradictions(
    stored: Mapping[str, Any], asked: Mapping[str, Any], flag: Callable[[str], str] = str
) -> list[str]:
    """Which of the values asked for differ from stored ones, one phrase each.

    Args:
        stored: as :meth:`Settings.to_json` gives them.
        asked: by field.
        flag: what a field is called where users write it.
    """
    return [
        f"{flag(name)} was {stored.get(name)!r}, not {_plain(wanted)!r}"
        for name, wanted in asked.items()
        if stored.get(name) != _plain(wanted)
    ]


def _plain(given: Any) -> Any:
    """A field's value as JSON can hold it."""
    if isinstance(given, tuple):
        return list(given)
    return dict(given) if isinstance(given, Mapping) else given
