"""Families of models by name: ``@register`` adds one, ``build`` makes a model of one.

A third party's family joins by one decorator in a file of its own, imported by hand or named by an
entry point of the group ``retbench.models``::

    @register("my-mixer")
    @dataclass(frozen=True)
    class MyConfig(DecoderConfig): ...
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from zlib import crc32

from models.config import ConfigError, ModelConfig

if TYPE_CHECKING:
    import torch

    from models.protocol import LanguageModel

ENTRY_POINT_GROUP = "retbench.models"
_BUILTIN = (
    "models.family.retnet",
    "models.family.transformer",
    "models.family.hybrid",
    "models.family.linear_attention",
    "models.family.gla",
    "models.family.h3",
)
_FAMILIES: dict[str, type[ModelConfig]] = {}

ConfigClass = TypeVar("ConfigClass", bound=type[ModelConfig])


def register(name: str) -> Callable[[ConfigClass], ConfigClass]:
    """Class decorator: make a subclass of :class:`ModelConfig` known under ``name``.

    Raises:
        ConfigError: if another class has that name already.
    """

    def add(config_class: ConfigClass) -> ConfigClass:
        known = _FAMILIES.get(name)
        if known is not None and _origin(known) != _origin(config_class):
            raise ConfigError(f"a model family named {name!r} is registered already")
        config_class.family = name
        _FAMILIES[name] = config_class
        return config_class

    return add


def families() -> tuple[str, ...]:
    """Names of all families, the built-in ones first."""
    _discover()
    return tuple(sorted(_FAMILIES, key=_place))  # stable: plugins in the order they came


def config_for(family: str, preset: str = "125m", **overrides: Any) -> ModelConfig:
    """The configuration of a family at a preset, any field overridden.

    Raises:
        ConfigError: for an unknown family, preset or field, or an impossible combination.
    """
    return _family(family).from_preset(preset, **overrides)


def implementations(family: str) -> tuple[str, ...]:
    """What a family's option ``implementation`` may be.

    Raises:
        ConfigError: for an unknown family.
    """
    return _family(family).implementations


def config_from_dict(values: dict[str, Any]) -> ModelConfig:
    """The inverse of :meth:`ModelConfig.to_dict`.

    Raises:
        ConfigError: for an unknown family or field.
    """
    options = dict(values)
    config_class = _family(str(options.pop("family", "")))
    try:
        return config_class(**options)
    except TypeError as error:
        raise ConfigError(str(error)) from None


def build(
    family: str,
    *,
    preset: str = "125m",
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    seed: int = 0,
    **overrides: Any,
) -> LanguageModel:
    """Build a model of a family: :func:`config_for`, then :meth:`ModelConfig.build`."""
    return config_for(family, preset, **overrides).build(device=device, dtype=dtype, seed=seed)


def load_plugin(source: str) -> None:
    """Import a file (``my_mixer.py``) or module (``my_package.mixer``) that registers families.

    Raises:
        ConfigError: if there is no such file or module.
    """
    if not source.endswith(".py"):
        try:
            importlib.import_module(source)
        except ModuleNotFoundError as error:
            raise ConfigError(f"no module to load models from: {error}") from None
        return
    path = Path(source).resolve()
    name = f"retbench_plugin_{path.stem}_{crc32(bytes(path)):08x}"
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not os.path.isfile(path):
        raise ConfigError(f"no file to load models from: {source}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]  # so that a second attempt fails as loudly
        raise


def _place(name: str) -> int:
    """Where a family's module stands among the built-in ones, in whatever order they loaded."""
    module = _FAMILIES[name].__module__
    return _BUILTIN.index(module) if module in _BUILTIN else len(_BUILTIN)


def _origin(config_class: type[ModelConfig]) -> tuple[str, str]:
    """What stays the same when a module is loaded anew."""
    return config_class.__module__, config_class.__qualname__


@cache
def _discover() -> None:
    for module in _BUILTIN:
        importlib.import_module(module)
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        entry.load()


def _family(name: str) -> type[ModelConfig]:
    _discover()
    try:
        return _FAMILIES[name]
    except KeyError:
        raise ConfigError(f"unknown model {name!r}; there are {', '.join(families())}") from None
