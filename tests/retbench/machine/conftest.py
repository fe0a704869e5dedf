"""A made-up NVIDIA driver, as its own binding shows it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from retbench.machine import nvml


class NVMLError(Exception):
    pass


def refused(*_: Any) -> Any:
    """What a driver does with a question that this GPU has no answer to."""
    raise NVMLError("not supported")


def binding(uuids: tuple[str, ...], processes: int, reasons: int) -> Any:
    """As much of pynvml as is asked, over GPUs of these uuids; a handle is a GPU's number."""

    def by_uuid(uuid: str) -> int:
        return uuids.index(uuid) if uuid in uuids else refused()

    return SimpleNamespace(
        NVMLError=NVMLError, NVML_CLOCK_SM=1, NVML_CLOCK_MEM=2, NVML_TEMPERATURE_GPU=0,
        nvmlDeviceGetHandleByIndex=lambda index: index if index < len(uuids) else refused(),
        nvmlDeviceGetHandleByUUID=by_uuid,
        nvmlDeviceGetName=lambda handle: f"GPU {handle}",
        nvmlSystemGetDriverVersion=lambda: "550.54",
        nvmlDeviceGetMaxClockInfo=lambda handle, clock: 2000 * clock,
        nvmlDeviceGetClockInfo=lambda handle, clock: 1000 * clock,
        nvmlDeviceGetEnforcedPowerLimit=lambda handle: 700_000,
        nvmlDeviceGetTemperature=lambda handle, sensor: 40,
        nvmlDeviceGetPersistenceMode=lambda handle: 1,
        nvmlDeviceGetEccMode=lambda handle: [1, 0],
        nvmlDeviceGetMigMode=refused,
        nvmlDeviceGetComputeRunningProcesses=lambda handle: [object()] * processes,
        nvmlDeviceGetCurrentClocksEventReasons=lambda handle: reasons,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: 5_000 * (handle + 1),
    )  # fmt: skip


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``driver(uuids=("GPU-a-1",), processes=1, reasons=0)``; torch computes on the last GPU."""

    def install(
        uuids: tuple[str, ...] = ("GPU-a-1",), processes: int = 1, reasons: int = 0
    ) -> None:
        monkeypatch.setattr(nvml, "_library", lambda: binding(uuids, processes, reasons))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        last = uuids[-1].removeprefix("GPU-") if uuids else "none"
        monkeypatch.setattr(
            torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=last)
        )

    return install
