"""What the driver of an NVIDIA GPU says of it, through NVML's own binding (nvidia-ml-py).

A GPU is found by its uuid, for CUDA and the driver may number the GPUs of a machine differently.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any


class Gpu:
    """One GPU as its driver knows it; what the driver does not tell is None.

    It is a :class:`retbench.machine.energy.Counter` of its own energy.

    Args:
        library: the binding, initialised.
        handle: of the GPU.
    """

    source = "nvml"

    def __init__(self, library: Any, handle: Any) -> None:
        self._library, self._handle = library, handle

    def described(self) -> dict[str, Any]:
        """Its name, driver, clocks in MHz, power limit in W, temperature in degrees, and modes."""
        library = self._library
        sm, memory = library.NVML_CLOCK_SM, library.NVML_CLOCK_MEM
        limit_mw = self._asked(library.nvmlDeviceGetEnforcedPowerLimit)
        return {
            "name": self._asked(library.nvmlDeviceGetName),
            "driver_version": _told(library, library.nvmlSystemGetDriverVersion),
            "max_sm_mhz": self._asked(library.nvmlDeviceGetMaxClockInfo, sm),
            "max_memory_mhz": self._asked(library.nvmlDeviceGetMaxClockInfo, memory),
            "sm_mhz": self._asked(library.nvmlDeviceGetClockInfo, sm),
            "memory_mhz": self._asked(library.nvmlDeviceGetClockInfo, memory),
            "power_limit_w": None if limit_mw is None else limit_mw / 1000,
            "temperature_c": self._asked(
                library.nvmlDeviceGetTemperature, library.NVML_TEMPERATURE_GPU
            ),
            "persistence_mode": self._mode(library.nvmlDeviceGetPersistenceMode),
            "ecc_mode": self._mode(library.nvmlDeviceGetEccMode),
            "mig_mode": self._mode(library.nvmlDeviceGetMigMode),
            "counts_energy": self.read_j() is not None,
        }

    def processes(self) -> int | None:
        """How many processes have memory of it, to compute."""
        running = self._asked(self._library.nvmlDeviceGetComputeRunningProcesses)
        return None if running is None else len(running)

    def clock_reasons(self) -> int:
        """The mask of nvmlClocksEventReasons that hold its clock back; 0 where it is not told."""
        return self._asked(self._library.nvmlDeviceGetCurrentClocksEventReasons) or 0

    def read_j(self) -> float | None:
        """Joules that it has used since its driver was loaded; of Volta and later.

        The counter is renewed some tens of times a second.
        """
        used_mj = self._asked(self._library.nvmlDeviceGetTotalEnergyConsumption)
        return None if used_mj is None else used_mj / 1000

    def _mode(self, question: Callable[..., Any]) -> bool | None:
        """Whether a mode is on now; some are told together with the one after a restart."""
        told = self._asked(question)
        now = told[0] if isinstance(told, (list, tuple)) else told
        return None if now is None else bool(now)

    def _asked(self, question: Callable[..., Any], *more: Any) -> Any:
        return _told(self._library, question, self._handle, *more)


def gpu(uuid: str | None = None) -> Gpu | None:
    """The GPU, or the part of one, of a uuid; the driver's first where that is None.

    Args:
        uuid: with or without its prefix, as torch gives it.

    Returns:
        None where there is no such GPU, no driver or no binding.
    """
    library = _library()
    if library is None:
        return None
    if uuid is None:
        found = _told(library, library.nvmlDeviceGetHandleByIndex, 0)
    else:
        is_whole = uuid.startswith(("GPU-", "MIG-"))
        names = [uuid] if is_whole else [f"GPU-{uuid}", f"MIG-{uuid}"]
        handles = (_told(library, library.nvmlDeviceGetHandleByUUID, name) for name in names)
        found = next((handle for handle in handles if handle is not None), None)
    return None if found is None else Gpu(library, found)


def computing_gpu() -> Gpu | None:
    """The GPU that torch computes on in this process; None as of :func:`gpu`, or without CUDA."""
    if _library() is None:
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    return gpu(str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid))


@cache
def _library() -> Any:
    """The binding, initialised once a process; None without it, or without a driver."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def _told(library: Any, question: Callable[..., Any], *arguments: Any) -> Any:
    """An answer of the driver; None where this GPU, driver or user is not given one."""
    try:
        return question(*arguments)
    except library.NVMLError:
        return None
