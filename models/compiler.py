"""``torch.compile``, refused where a variable would leave code eager that is called compiled."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch

from models.config import ConfigError

Function = TypeVar("Function", bound=Callable[..., Any])

_OFF = ("TORCHDYNAMO_DISABLE", "TORCH_COMPILE_DISABLE")
_FALLS_BACK = "TORCHDYNAMO_SUPPRESS_ERRORS"
_OVERRIDES = (
    "TORCH_COMPILE_OVERRIDE_BACKENDS", "TORCH_COMPILE_OVERRIDE_DYNAMO_CONFIGS",
    "TORCH_COMPILE_OVERRIDE_INDUCTOR_CONFIGS", "TORCHDYNAMO_DEBUG_FUNCTION",
)  # fmt: skip


def compiled(function: Function, **options: Any) -> Function:
    """What ``torch.compile`` makes of a function for each shape anew.

    Args:
        function: what is to be compiled.
        options: of ``torch.compile``.

    Raises:
        ConfigError: see :func:`require_compiler`.
    """
    require_compiler()
    return cast(Function, torch.compile(function, dynamic=False, **options))


def require_compiler() -> None:
    """Refuse to call compiled what would run eagerly.

    Raises:
        ConfigError: a variable turns the compiler off, lets it fall back, or puts another backend
            or another way to compile in its place.
    """
    for name in _OFF:
        if os.environ.get(name) == "1":
            raise ConfigError(f"{name}=1 turns torch.compile off")
    if os.environ.get(_FALLS_BACK):
        raise ConfigError(f"{_FALLS_BACK} lets what cannot be compiled run eagerly")
    for name in _OVERRIDES:
        if os.environ.get(name):
            raise ConfigError(f"{name} may let what is called compiled run eagerly")


@contextmanager
def making_graphs(expected: bool) -> Iterator[None]:
    """Refuse, where compilation is expected inside, that torch made no graph of anything.

    Args:
        expected: whether what is called inside is called compiled for the first time.

    Raises:
        ConfigError: all of it ran eagerly.
    """
    if expected:
        torch._dynamo.utils.counters["stats"].pop("unique_graphs", None)
    yield
    if expected and not torch._dynamo.utils.counters["stats"]["unique_graphs"]:
        raise ConfigError("torch.compile has compiled nothing: what is called compiled ran eagerly")
