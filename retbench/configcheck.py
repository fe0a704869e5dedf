"""Checks that a configuration can be run on this machine, before anything is started.

What the models cannot do, their own configuration says (``models.config.ConfigError``); here it is
asked for every model of the run. Torch is imported only where a GPU is in question.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from retbench.configvalues import nearest
from retbench.errors import UserError

if TYPE_CHECKING:
    from models.config import ModelConfig
    from retbench.config import RunConfig


def default_device() -> str:
    """``cuda`` where there is a GPU that torch can use, else ``cpu``."""
    return "cuda" if cuda_available() else "cpu"


def cuda_available() -> bool:
    """Whether torch can use a GPU; without a GPU's device file torch need not be asked."""
    if not any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")):
        return False
    import torch

    return torch.cuda.is_available()


def physical_cores() -> int:
    """Physical cores this process may use: hyperthreads share one, a container's quota caps it."""
    allowed = os.sched_getaffinity(0)
    siblings = {_siblings(cpu) for cpu in allowed}
    return max(1, min(len(siblings), _quota() or len(siblings)))


def machine(device: str | None, threads: int | None) -> tuple[str, int]:
    """The device and threads asked for, or this machine's.

    Raises:
        UserError: an unknown device, a GPU that is not there, or no threads.
    """
    from retbench.config import DEVICES

    device = device or default_device()
    require_known("device", device, DEVICES)
    if device == "cuda" and not cuda_available():
        raise _no_gpu()
    if threads is not None and threads < 1:
        raise UserError(f"threads: must be at least 1, not {threads}")
    return device, threads or physical_cores()


def check(config: RunConfig) -> None:
    """Check names and combinations.

    Raises:
        UserError: for an unknown suite, preset or model (with the nearest name), a model named
            twice, or a combination that is impossible.
    """
    from retbench import suites

    require_known("suite", config.suite, suites.names())
    if repeated := sorted({name for name in config.models if config.models.count(name) > 1}):
        raise UserError(f"models: {repeated[0]!r} is named twice", "name each model once")
    if not config.models:
        raise UserError("models: needs at least one")
    _check_device(config)
    for family, model in model_configs(config).items():
        _check_length(config, family, model)


def model_configs(config: RunConfig) -> dict[str, ModelConfig]:
    """The configuration of every model of a run, by the name of its family.

    Raises:
        UserError: for an unknown model, preset or override, or sizes that do not fit together.
    """
    from models.config import PRESETS, ConfigError
    from models.registry import config_for, families

    load_plugins(config.plugins)
    require_known("preset", config.preset, PRESETS)
    for family in config.models:
        require_known("model", family, families())
    _check_override_families(config)
    found = {}
    for family in config.models:
        try:
            found[family] = config_for(family, config.preset, **config.overrides_for(family))
        except (ConfigError, TypeError) as problem:
            raise UserError(f"{family} at preset {config.preset}: {problem}") from None
    return found


def load_plugins(sources: Iterable[str]) -> None:
    """Import the files and modules that register further models.

    Raises:
        UserError: if there is no such file or module.
    """
    if not sources:
        return
    from models.config import ConfigError
    from models.registry import load_plugin

    for source in sources:
        try:
            load_plugin(source)
        except ConfigError as problem:
            raise UserError(f"plugins: {problem}") from None


def require_known(what: str, name: str, known: Iterable[str]) -> None:
    """Raise a UserError with the nearest known name for an unknown one."""
    names = list(known)
    if name not in names:
        raise UserError(f"unknown {what} {name!r}", nearest(name, names))


def _check_override_families(config: RunConfig) -> None:
    for key in config.overrides:
        family, dot, name = key.rpartition(".")
        if dot and family not in config.models:
            raise UserError(
                f"set: {key}: the run has no model {family!r}", nearest(family, config.models)
            )
        if name == "ffn":
            raise UserError("set: ffn is the same for all models of a comparison", "use --ffn")


def _check_device(config: RunConfig) -> None:
    if config.device == "cuda" and not cuda_available():
        raise _no_gpu()
    if config.mode == "cudagraph" and config.device != "cuda":
        raise UserError(
            f"mode cudagraph is impossible on device {config.device}: CUDA graphs need a GPU",
            "use --mode eager or compile",
        )


def _no_gpu() -> UserError:
    return UserError(
        "device cuda: there is no GPU that torch can use",
        "use --device cpu, or install a driver and a CUDA build of torch",
    )


def _check_length(config: RunConfig, family: str, model: ModelConfig) -> None:
    longest = {"context": max(config.context), "batch_context": config.batch_context}
    for name, length in longest.items():
        if length + config.new_tokens > model.max_len:
            raise UserError(
                f"{name.replace('_', '-')} {length} and {config.new_tokens} new tokens exceed the "
                f"{model.max_len} tokens that {family} can hold (its max_len)",
                f"shorten it or use --set max_len={length + config.new_tokens}",
            )


def _siblings(cpu: int) -> str:
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
    except OSError:
        return str(cpu)


def _quota() -> int | None:
    """Whole cores that a control group allows (cgroup v2), None for no limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, int(quota) // int(period))
    except (OSError, ValueError):
        return None
