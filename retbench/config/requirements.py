"""Checks that names are known and that this machine has what a run asks of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from models.config import ConfigError, ModelConfig
from models.registry import config_for
from retbench.config import plugins
from retbench.config.run import CAPTURED_MODES, DEVICES, RunConfig, own_cores, presets
from retbench.config.values import nearest
from retbench.distributed.launch import launch
from retbench.errors import Misfit, UserError
from retbench.machine import host
from retbench.machine.threads import hindrance


def require_known(what: str, name: str, known: Iterable[str], *, key: str | None = None) -> None:
    """Raise a Misfit with the nearest known name for an unknown one; of presets with all."""
    names = list(known)
    if name not in names:
        hint = nearest(name, names, listed=what == "preset")
        raise Misfit(f"unknown {what} {name!r}", hint, keys=(key or what, f"{what}s"))


def require_tokenizers_vocabulary(overrides: Iterable[str]) -> None:
    """Raise a Misfit where an override of a model, by key, sets what its tokenizer decides on."""
    for key in overrides:
        if key.rpartition(".")[2] == "vocab_size":
            raise Misfit(
                "set: vocab_size follows from the tokenizer",
                "choose it by --tokenizer",
                keys=(f"overrides.{key}", "overrides"),
            )


def require_models(families: Iterable[str], preset: str, sources: Iterable[str]) -> None:
    """Load files and modules that register models, and raise a Misfit for an unknown name."""
    plugins.load(sources)
    require_known("preset", preset, presets())
    for family in families:
        require_known("model", family, plugins.families())


def model_config(family: str, preset: str, options: Mapping[str, Any]) -> ModelConfig:
    """The configuration of a family of models at a preset, any field overridden.

    Raises:
        Misfit: an unknown field, or sizes that do not fit together.
    """
    try:
        return config_for(family, preset, **options)
    except (ConfigError, TypeError) as problem:
        named = [name for name in options if name in str(problem)]
        keys = [f"overrides.{whose}{name}" for name in named for whose in ("", f"{family}.")]
        message = f"{family} at preset {preset}: {problem}"
        raise Misfit(message, keys=(*keys, "overrides", "preset")) from None


def machine(device: str | None, threads: int | None) -> tuple[str, int]:
    """The device and threads asked for, or this machine's; its cores are shared by torchrun's.

    Raises:
        UserError: an unknown device, a GPU that is not there, or threads that cannot be.
    """
    device = device or host.default_device()
    require_known("device", device, DEVICES)
    _require_gpu(device)
    processes = processes_here()
    threads = own_cores(processes) if threads is None else threads
    check_threads(threads, here=True, processes=processes)
    return device, threads


def processes_here() -> int:
    """How many processes of this command torchrun has started on this machine."""
    launched = launch()
    return launched.local_size if launched else 1


def check_device(config: RunConfig, here: bool) -> None:
    """Check that the device is there, where ``here``, and can do the mode."""
    if here:
        _require_gpu(config.device)
    if config.mode in CAPTURED_MODES and config.device != "cuda":
        raise Misfit(
            f"mode {config.mode} is impossible on device {config.device}: CUDA graphs need a GPU",
            "use --mode eager or compile",
            keys=("mode", "device"),
        )


def check_threads(threads: int, here: bool, processes: int = 1) -> None:
    """More threads than processors only get in each other's way: no number would mean a thing.

    Args:
        threads: of each process.
        here: whether this machine computes; another's processors are not known.
        processes: of them on this machine.

    Raises:
        Misfit: there are none, or more than processors that this process may use.
        UserError: a variable of the environment keeps so many from computing.
    """
    if threads < 1:
        raise Misfit(f"threads: must be at least 1, not {threads}", keys=("threads",))
    if here and (variable := hindrance(threads)):
        raise UserError(f"{variable} lets fewer than {threads} threads compute", "unset it")
    if here and threads > most_threads(processes):
        each = f" in each of {processes} processes" if processes > 1 else ""
        usable = host.granted_cores()
        problem = f"threads: {threads}{each} are more than the {usable} processors one may use here"
        raise Misfit(problem, "use fewer", keys=("threads",))


def most_threads(processes: int) -> int:
    """The threads of each of so many processes on this machine that have a processor each."""
    return max(1, host.granted_cores() // processes)


def check_processes(config: RunConfig) -> None:
    """Several processes share the work in some way, and a way to share needs several."""
    if (config.parallel == "none") != (config.world_size == 1):
        raise Misfit(
            f"processes: {config.world_size} with --parallel {config.parallel} is no way to share",
            "use --parallel ddp or fsdp with --processes 2 or more",
            keys=("world_size", "parallel"),
        )


def _require_gpu(device: str) -> None:
    if device == "cuda" and not host.cuda_available():
        raise Misfit(
            "device cuda: there is no GPU that torch can use",
            "use --device cpu, or install a driver and a CUDA build of torch",
            keys=("device",),
        )
