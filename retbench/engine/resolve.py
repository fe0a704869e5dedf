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
from retbench.config.file import read_config_file
from retbench.config.requirements import (
    check_device,
    check_processes,
    check_threads,
    model_config,
    require_models,
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
    """What was asked for.

    Args:
        suite: as in :func:`resolve`.
        config_file: as there.
        otherwise: the suite whose settings these are where none is named.
        given: as there.

    Raises:
        UserError: for an unreadable file, an unknown suite or key or a value that cannot be.
    """
    flags = {key: raw for key, raw in given.items() if raw is not None}
    stored, lines = read_config_file(config_file) if config_file else ({}, {})
    places = {key: f"{config_file}:{line}: " for key, line in lines.items()}
    filed_suite = stored.pop("suite", None)
    named = suite if suite is not None else filed_suite
    try:
        settings = suites.get(str(otherwise if named is None else named)).config
    except UserError as problem:
        where = places.get("suite", "") if suite is None else ""
        raise UserError(where + problem.message, problem.hint) from None
    _require_used(settings, flags, {})
    _require_used(settings, stored, places)
    chosen, filed = settings.parse(flags), settings.parse(stored, places)
    values = {**({} if named is None else {"suite": settings.suite}), **filed, **chosen}
    overrides = chosen.get("overrides", {})
    if "overrides" in values:
        values["overrides"] = {**filed.get("overrides", {}), **overrides}
    fields = settings.by_key()
    located = {}
    for key, where in places.items():
        table, dot, inner = key.partition(".")
        name = fields.get(table, table)
        if inner not in overrides if dot else name not in chosen:
            located[name + dot + inner] = where
    return Asked(settings, values, located)


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
    config = asked.settings(**values)
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
        Misfit: for an unknown preset or model (with the nearest name), or a combination that is
            impossible.
    """
    check_device(config, here)
    check_threads(config.threads, here)
    check_processes(config)
    suite = suites.get(config.suite)
    if not isinstance(config, ModelsConfig):
        suite.check(config, {})
        return
    for preset in config.sizes:
        suite.check(config, model_configs(config, preset))


def model_configs(config: ModelsConfig, preset: str) -> dict[str, ModelConfig]:
    """The configuration of every model of a run, by the name of its family.

    Args:
        config: of the run.
        preset: the models' size.

    Raises:
        UserError: for an unknown model, preset or override, or sizes that do not fit together.
    """
    require_models(config.models, preset, config.plugins)
    _check_override_families(config)
    _check_implementation(config)
    return {
        family: model_config(family, preset, config.overrides_for(family))
        for family in config.models
    }


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
