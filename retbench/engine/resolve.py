"""From what was asked for to a configuration that can be run here.

Flags win over the configuration file, the file over the defaults of suite and device, which stand
in :mod:`retbench.config.defaults` and nowhere else::

    config = resolve("inference", preset="10m", context="512:8192")
    config.context                              # (512, 1024, 2048, 4096, 8192)

What the models cannot do, their own configuration says (``models.config.ConfigError``); here it is
asked for every model of the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retbench import suites
from retbench.config import plugins
from retbench.config.defaults import DEFAULTS, SUITE_DEFAULTS, SWEPT, USED_BY, divisible, is_used
from retbench.config.file import read_config_file
from retbench.config.requirements import (
    check_device,
    check_processes,
    check_threads,
    own_cores,
    require_known,
)
from retbench.config.run import FLAGS, PROFILES, SHORT_NAMES, RunConfig, parse
from retbench.config.values import nearest
from retbench.distributed.launch import launch
from retbench.errors import Misfit, UserError
from retbench.machine import host

if TYPE_CHECKING:
    from models.config import ModelConfig

# What is set for a whole run by a flag, never for one model.
_OWNFLAGS = {"ffn": "--ffn", "family": "--models", "preset": "--preset"}


def explicit(
    suite: str | None = None, *, config_file: Path | str | None = None, **given: Any
) -> dict[str, Any]:
    """What was asked for, flags over file, without any default; arguments as :func:`resolve`.

    Raises:
        UserError: for an unreadable file, an unknown key or a value that cannot be.
    """
    return _asked(suite, config_file, given)[0]


def _asked(
    suite: str | None, config_file: Path | str | None, given: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """What was asked for, and ``file:line`` of what the file alone decides."""
    flags = {key: raw for key, raw in {"suite": suite, **given}.items() if raw is not None}
    chosen = parse(flags)
    if config_file is None:
        return chosen, {}
    values, lines = read_config_file(config_file)
    stored = parse(values, file=str(config_file), lines=lines)
    overrides = chosen.get("overrides", {})
    merged = {**stored.get("overrides", {}), **overrides}
    places = {}
    for key, line in lines.items():
        table, dot, inner = key.partition(".")
        name = SHORT_NAMES.get(table, table) + dot + inner
        if inner not in overrides if dot else name not in chosen:
            places[name] = f"{config_file}:{line}"
    return {**stored, **chosen, **({"overrides": merged} if merged else {})}, places


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
        given: fields of :class:`RunConfig`, as values or as the text of a flag; None means not
            given. ``overrides`` are merged key by key.

    Raises:
        UserError: for an unreadable file, an unknown key or name, a value of the wrong type or out
            of range, or a combination that is impossible on this machine.
    """
    chosen, places = _asked(suite, config_file, given)
    device = chosen.get("device") or host.default_device()
    name = chosen.get("suite", DEFAULTS["suite"])
    try:
        require_known("suite", name, suites.names())
        _require_used(name, chosen)
        shared = {key: given for key, given in DEFAULTS.items() if is_used(key, name)}
        defaults = {**shared, **SUITE_DEFAULTS[name, device], "device": device}
        launched = launch() if chosen.get("parallel", "none") != "none" else None
        if launched:
            defaults["world_size"] = launched.size
            defaults |= divisible(defaults, chosen.get("tokens_per_step"), launched.size)
        defaults["threads"] = chosen.get("threads") or own_cores(launched)
        if is_used("minutes", name):
            defaults["minutes"] = PROFILES[chosen.get("profile", defaults["profile"])].minutes
        # Of what is swept the first stands for the run where one name is wanted.
        for several, one in SWEPT:
            if several in defaults:
                defaults[one] = chosen.get(several, defaults[several])[0]
        config = RunConfig(**{**defaults, **chosen})
        check(config, here=here)
    except Misfit as problem:
        place = next((places[key] for key in problem.keys if key in places), None)
        if place is None:
            raise
        raise UserError(f"{place}: {problem.message}", problem.hint) from None
    return config


def _require_used(suite: str, chosen: Mapping[str, Any]) -> None:
    """Refuse what would be ignored: whoever gives it expects an effect."""
    for name in chosen:
        if not is_used(name, suite):
            flag = FLAGS.get(name, name).replace("_", "-")
            owners = f"it belongs to {', '.join(USED_BY[name])}"
            raise Misfit(f"{flag}: the suite {suite} has no use for it", owners, keys=(name,))
    for several, one in SWEPT:
        if one in chosen and is_used(several, suite):
            problem = f"{one}: the suite {suite} takes several"
            raise Misfit(problem, f"use --{several}", keys=(one,))


def check(config: RunConfig, *, here: bool = True) -> None:
    """Check names and combinations.

    Args:
        config: of the run.
        here: whether this machine is to run it: its GPU and processors are then looked at.

    Raises:
        Misfit: for an unknown suite, preset or model (with the nearest name), a model named
            twice, or a combination that is impossible.
    """
    require_known("suite", config.suite, suites.names())
    if repeated := sorted({name for name in config.models if config.models.count(name) > 1}):
        problem = f"models: {repeated[0]!r} is named twice"
        raise Misfit(problem, "name each model once", keys=("models",))
    check_device(config, here)
    check_threads(config.threads, here)
    check_processes(config)
    suite = suites.get(config.suite)
    if not is_used("models", config.suite):
        suite.check(config, {})
        return
    if not config.models:
        raise Misfit("models: needs at least one", keys=("models",))
    for preset in config.presets or (config.preset,):
        suite.check(config, model_configs(config, preset))


def model_configs(config: RunConfig, preset: str | None = None) -> dict[str, ModelConfig]:
    """The configuration of every model of a run, by the name of its family.

    Args:
        config: of the run.
        preset: the models' size; the run's where None.

    Raises:
        UserError: for an unknown model, preset or override, or sizes that do not fit together.
    """
    from models.config import PRESETS, ConfigError
    from models.registry import config_for

    plugins.load(config.plugins)
    preset = preset or config.preset
    require_known("preset", preset, PRESETS, key="presets" if config.presets else "preset")
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


def _check_override_families(config: RunConfig) -> None:
    for key in config.overrides:
        family, dot, name = key.rpartition(".")
        places = (f"overrides.{key}", "overrides")
        if dot and family not in config.models:
            problem = f"set: {key}: the run has no model {family!r}"
            raise Misfit(problem, nearest(family, config.models), keys=places)
        if name in _OWNFLAGS:
            problem = f"set: {name} is the same for all models of a comparison"
            raise Misfit(problem, f"use {_OWNFLAGS[name]}", keys=places)


def _check_implementation(config: RunConfig) -> None:
    """A name that no model of the run knows would do nothing."""
    from models.registry import implementations

    known = {name for family in config.models for name in implementations(family)}
    if config.implementation is not None and config.implementation not in known:
        problem = f"implementation: no model of the run knows {config.implementation!r}"
        raise Misfit(
            problem, nearest(config.implementation, sorted(known)), keys=("implementation",)
        )
