"""From what was asked for to a configuration that can be run here.

Flags win over the configuration file, the file over the defaults, which stand in the class of each
suite's settings and nowhere else::

    config = resolve("inference", preset="10m", context="512:8192")
    config.context                              # (512, 1024, 2048, 4096, 8192)

What the models cannot do, their own configuration says (``models.config.ConfigError``); here it is
asked for every model of the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retbench import suites
from retbench.config import plugins
from retbench.config import values as value
from retbench.config.file import read_config_file
from retbench.config.requirements import (
    check_device,
    check_processes,
    check_threads,
    require_known,
)
from retbench.config.run import ModelsConfig, RunConfig
from retbench.config.values import nearest
from retbench.errors import Misfit, UserError

if TYPE_CHECKING:
    from models.config import ModelConfig

DEFAULT_SUITE = "inference"

# What is set for a whole run by a flag, never for one model.
_OWNFLAGS = {"ffn": "--ffn", "family": "--models", "preset": "--preset"}


@dataclass(frozen=True)
class Asked:
    """What was asked for, flags over file, without any default.

    Attributes:
        settings: the class of the suite's settings.
        values: by field; ``suite`` is among them where it was named.
        places: ``file:line: `` of what the file alone decides, by field, and by ``overrides.KEY``.
    """

    settings: type[RunConfig]
    values: dict[str, Any]
    places: dict[str, str]


def explicit(
    suite: str | None = None,
    *,
    config_file: Path | str | None = None,
    otherwise: str = DEFAULT_SUITE,
    **given: Any,
) -> Asked:
    """What was asked for; arguments as :func:`resolve`.

    Args:
        suite: see there.
        config_file: see there.
        otherwise: the suite whose settings these are where none is named.
        given: see there.

    Raises:
        UserError: for an unreadable file, an unknown suite or key or a value that cannot be.
    """
    flags = {key: raw for key, raw in given.items() if raw is not None}
    stored, lines = read_config_file(config_file) if config_file else ({}, {})
    places = {key: f"{config_file}:{line}: " for key, line in lines.items()}
    named = suite if suite is not None else stored.get("suite")
    where = places.get("suite", "") if suite is None else ""
    settings = _settings_of(otherwise if named is None else named, where)
    stored.pop("suite", None)
    _require_used(settings, flags, {})
    _require_used(settings, stored, places)
    chosen = settings.parse(flags)
    filed = settings.parse(stored, places)
    values = {**({} if named is None else {"suite": settings.suite}), **filed, **chosen}
    if "overrides" in values:
        values["overrides"] = {**filed.get("overrides", {}), **chosen.get("overrides", {})}
    return Asked(settings, values, _of_the_file(settings, places, chosen))


def _settings_of(suite: Any, where: str) -> type[RunConfig]:
    try:
        name = value.text(suite)
    except ValueError as problem:
        raise UserError(f"{where}suite: {problem}") from None
    if name not in suites.names():
        hint = nearest(name, suites.names())
        raise UserError(f"{where}unknown suite {name!r}", hint)
    found: type[RunConfig] = suites.get(name).config
    return found


def _require_used(
    settings: type[RunConfig], given: Mapping[str, Any], places: Mapping[str, str]
) -> None:
    """Refuse what would be ignored: whoever gives it expects an effect."""
    for key in given:
        where = places.get(key, "")
        if key in settings.by_key():
            continue
        unchosen = settings.settings().get(key)
        if unchosen is not None and unchosen.first_of:
            problem = f"{where}{key}: the suite {settings.suite} takes several"
            raise UserError(problem, f"use --{unchosen.first_of}")
        others = {name: suites.get(name).config for name in suites.names()}
        if owners := [name for name, other in others.items() if key in other.by_key()]:
            other = others[owners[0]]
            problem = (
                f"{other.flag(other.by_key()[key])}: the suite {settings.suite} has no use for it"
            )
            raise UserError(where + problem, f"it belongs to {', '.join(owners)}")


def _of_the_file(
    settings: type[RunConfig], places: Mapping[str, str], chosen: Mapping[str, Any]
) -> dict[str, str]:
    """Where a value stands that no flag overrules, by field; of overrides each by itself."""
    keys = settings.by_key() | {"suite": "suite"}
    found = {}
    for key, where in places.items():
        table, dot, inner = key.partition(".")
        name = keys[table]
        if inner not in chosen.get("overrides", {}) if dot else name not in chosen:
            found[name + dot + inner] = where
    return found


def resolve(
    suite: str | None = None,
    *,
    config_file: Path | str | None = None,
    here: bool = True,
    **given: Any,
) -> RunConfig:
    """Settle every field of a configuration and check that it can be run.

    Args:
        suite: name of the suite; the file's, or ``inference``, where None.
        config_file: a TOML file with the same keys, which ``given`` overrule.
        here: whether this machine is to run it, and must be able to.
        given: fields of the suite's configuration, by their names or flags, as values or as the
            text of a flag; None means not given. ``overrides`` are merged key by key.

    Raises:
        UserError: for an unreadable file, an unknown key or name, a value of the wrong type or out
            of range, or a combination that is impossible on this machine.
    """
    asked = explicit(suite, config_file=config_file, **given)
    values = {name: chosen for name, chosen in asked.values.items() if name != "suite"}
    config = asked.settings.settled(values)
    try:
        check(config, here=here)
    except Misfit as problem:
        place = next((asked.places[key] for key in problem.keys if key in asked.places), None)
        if place is None:
            raise
        raise UserError(f"{place}{problem.message}", problem.hint) from None
    return config


def check(config: RunConfig, *, here: bool = True) -> None:
    """Check names and combinations.

    Args:
        config: of the run.
        here: whether this machine is to run it: its GPU and processors are then looked at.

    Raises:
        Misfit: for an unknown preset or model (with the nearest name), a model named twice, or a
            combination that is impossible.
    """
    check_device(config, here)
    check_threads(config.threads, here)
    check_processes(config)
    suite = suites.get(config.suite)
    if not isinstance(config, ModelsConfig):
        suite.check(config, {})
        return
    if not config.models:
        raise Misfit("models: needs at least one", keys=("models",))
    if repeated := sorted({name for name in config.models if config.models.count(name) > 1}):
        problem = f"models: {repeated[0]!r} is named twice"
        raise Misfit(problem, "name each model once", keys=("models",))
    several = getattr(config, config.settings()["preset"].first_of, None)
    for preset in several or (config.preset,):
        suite.check(config, model_configs(config, preset))


def model_configs(config: ModelsConfig, preset: str) -> dict[str, ModelConfig]:
    """The configuration of every model of a run, by the name of its family.

    Args:
        config: of the run.
        preset: the models' size.

    Raises:
        UserError: for an unknown model, preset or override, or sizes that do not fit together.
    """
    from models.config import PRESETS, ConfigError
    from models.registry import config_for

    plugins.load(config.plugins)
    key = config.settings()["preset"].first_of or "preset"
    require_known("preset", preset, PRESETS, key=key)
    known = plugins.families()
    for family in config.models:
        require_known("model", family, known, key="models")
    _check_override_families(config)
    _check_implementation(config)
    found = {}
    for family in config.models:
        try:
            found[family] = config_for(family, preset, **config.overrides_for(family))
        except (ConfigError, TypeError) as problem:
            keys = [f"overrides.{key}" for key in config.overrides if _field(key) in str(problem)]
            message = f"{family} at preset {preset}: {problem}"
            raise Misfit(message, keys=[*keys, "overrides", "preset"]) from None
    return found


def _field(key: str) -> str:
    """The field that an override sets."""
    return key.rpartition(".")[2]


def _check_override_families(config: ModelsConfig) -> None:
    for key in config.overrides:
        family, dot, name = key.rpartition(".")
        places = (f"overrides.{key}", "overrides")
        if dot and family not in config.models:
            problem = f"set: {key}: the run has no model {family!r}"
            raise Misfit(problem, nearest(family, config.models), keys=places)
        if name in _OWNFLAGS:
            problem = f"set: {name} is the same for all models of a comparison"
            raise Misfit(problem, f"use {_OWNFLAGS[name]}", keys=places)


def _check_implementation(config: ModelsConfig) -> None:
    """A name that no model of the run knows would do nothing."""
    from models.registry import implementations

    known = {name for family in config.models for name in implementations(family)}
    if config.implementation is not None and config.implementation not in known:
        problem = f"implementation: no model of the run knows {config.implementation!r}"
        raise Misfit(
            problem, nearest(config.implementation, sorted(known)), keys=("implementation",)
        )
