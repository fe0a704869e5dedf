"""Checks that a configuration can be run on this machine, before anything is started.

What the models cannot do, their own configuration says (``models.config.ConfigError``); here it is
asked for every model of the run. Torch is imported only where a GPU is in question.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from retbench import plugins
from retbench.config.values import nearest
from retbench.errors import Misfit
from retbench.ranks.distributed import Launch, launch

if TYPE_CHECKING:
    from models.config import ModelConfig
    from retbench.config.run import RunConfig
    from retbench.plan import Contender, Point

# What is set for a whole run by a flag, never for one model.
_OWN_FLAGS = {"ffn": "--ffn", "family": "--models", "preset": "--preset"}


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
    """The device and threads asked for, or this machine's; its cores are shared by torchrun's.

    Raises:
        UserError: an unknown device, a GPU that is not there, or no threads.
    """
    from retbench.config.run import DEVICES

    device = device or default_device()
    require_known("device", device, DEVICES)
    if device == "cuda" and not cuda_available():
        raise _no_gpu()
    if threads is not None:
        _check_threads(threads, here=True)
    return device, threads or own_cores(launch())


def own_cores(launched: Launch | None) -> int:
    """The cores of this process, where torchrun's on a machine share them."""
    return max(1, physical_cores() // (launched.local_size if launched else 1))


def check(config: RunConfig, *, here: bool = True) -> None:
    """Check names and combinations.

    Args:
        config: of the run.
        here: whether this machine is to run it: its GPU and processors are then looked at.

    Raises:
        Misfit: for an unknown suite, preset or model (with the nearest name), a model named
            twice, or a combination that is impossible.
    """
    from retbench import suites
    from retbench.config.defaults import is_used

    require_known("suite", config.suite, suites.names())
    if repeated := sorted({name for name in config.models if config.models.count(name) > 1}):
        problem = f"models: {repeated[0]!r} is named twice"
        raise Misfit(problem, "name each model once", keys=("models",))
    _check_device(config, here)
    _check_threads(config.threads, here)
    _check_processes(config)
    suite = suites.get(config.suite)
    if not is_used("models", config.suite):
        suite.check(config, {})
        return
    if not config.models:
        raise Misfit("models: needs at least one", keys=("models",))
    for preset in config.presets or (config.preset,):
        suite.check(config, model_configs(config, preset))


def model_config(
    config: RunConfig, contender: Contender, point: Point | None = None
) -> ModelConfig:
    """The configuration of a contender's model, at a point's own preset where it has one.

    Raises:
        ConfigError: if there is no such family, preset or option.
        UserError: if the data that decide on its vocabulary cannot be read.
    """
    from models.registry import config_for
    from retbench import suites

    plugins.load(config.plugins)
    preset = config.preset if point is None else str(point.setting("preset", config.preset))
    asked = suites.get(config.suite).model_options(config)
    return config_for(contender.family, preset, **{**contender.options, **asked})


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


def require_known(what: str, name: str, known: Iterable[str], *, key: str | None = None) -> None:
    """Raise a Misfit with the nearest known name for an unknown one."""
    names = list(known)
    if name not in names:
        raise Misfit(f"unknown {what} {name!r}", nearest(name, names), keys=(key or what,))


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
        if name in _OWN_FLAGS:
            problem = f"set: {name} is the same for all models of a comparison"
            raise Misfit(problem, f"use {_OWN_FLAGS[name]}", keys=places)


def _check_implementation(config: RunConfig) -> None:
    """A name that no model of the run knows would do nothing."""
    from models.registry import implementations

    known = {name for family in config.models for name in implementations(family)}
    if config.implementation is not None and config.implementation not in known:
        problem = f"implementation: no model of the run knows {config.implementation!r}"
        raise Misfit(
            problem, nearest(config.implementation, sorted(known)), keys=("implementation",)
        )


def _check_device(config: RunConfig, here: bool) -> None:
    if here and config.device == "cuda" and not cuda_available():
        raise _no_gpu()
    if config.mode == "cudagraph" and config.device != "cuda":
        raise Misfit(
            f"mode cudagraph is impossible on device {config.device}: CUDA graphs need a GPU",
            "use --mode eager or compile",
            keys=("mode", "device"),
        )


def _check_threads(threads: int, here: bool) -> None:
    """More threads than processors only get in each other's way: no number would mean a thing."""
    if threads < 1:
        raise Misfit(f"threads: must be at least 1, not {threads}", keys=("threads",))
    usable = len(os.sched_getaffinity(0))
    if here and threads > usable:
        problem = f"threads: {threads} are more than the {usable} processors one may use here"
        raise Misfit(problem, "use fewer", keys=("threads",))


def _check_processes(config: RunConfig) -> None:
    """A run of several processes is begun and continued by as many."""
    if config.parallel == "none":
        return
    launched = launch()
    if launched is None or launched.size != config.world_size:
        started = f"torchrun has started {launched.size}" if launched else "torchrun has not"
        raise Misfit(
            f"parallel: the run is of {config.world_size} processes ({config.parallel}), and "
            f"{started}" + ("" if launched else " started this one"),
            "continue it as it was begun: torchrun --nproc-per-node N -m retbench run, with "
            f"--parallel {config.parallel}",
            keys=("parallel", "world_size"),
        )
    if config.device == "cuda":
        _check_gpus(launched.local_size)


def _check_gpus(processes: int) -> None:
    """Each process of this machine needs a GPU of its own."""
    import torch

    count = torch.cuda.device_count()
    if processes > count:
        raise Misfit(
            f"device cuda: {processes} processes on a machine with {count} GPU{'s' * (count != 1)}",
            f"start at most {count} with --nproc-per-node, or use --device cpu",
            keys=("device",),
        )


def _no_gpu() -> Misfit:
    return Misfit(
        "device cuda: there is no GPU that torch can use",
        "use --device cpu, or install a driver and a CUDA build of torch",
        keys=("device",),
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
