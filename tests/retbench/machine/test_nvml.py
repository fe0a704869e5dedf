from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from retbench.machine import nvml

from .conftest import NVMLError, refused

Driver = Callable[..., None]


@pytest.mark.parametrize("uuid", ["b-2", "GPU-b-2"])
def test_a_gpu_is_found_by_its_uuid_with_and_without_its_prefix(driver: Driver, uuid: str) -> None:
    driver(uuids=("GPU-a-1", "GPU-b-2"))
    found = nvml.gpu(uuid)
    assert found is not None and found.described()["name"] == "GPU 1"


def test_a_part_of_a_gpu_is_found_too(driver: Driver) -> None:
    driver(uuids=("GPU-a-1", "MIG-b-2"))
    found = nvml.gpu("b-2")
    assert found is not None and found.described()["name"] == "GPU 1"


def test_the_gpu_that_computes_is_torchs_and_not_the_drivers_first(driver: Driver) -> None:
    driver(uuids=("GPU-a-1", "GPU-b-2"))
    computing, first = nvml.computing_gpu(), nvml.gpu()
    assert computing is not None and first is not None
    assert (computing.read_j(), first.read_j()) == (10.0, 5.0)


def test_where_torch_cannot_compute_no_gpu_does(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert nvml.computing_gpu() is None and nvml.gpu() is not None


def test_what_the_driver_does_not_tell_is_none(driver: Driver) -> None:
    driver()
    gpu = nvml.gpu()
    assert gpu is not None
    described = gpu.described()
    assert described["mig_mode"] is None
    assert described["ecc_mode"] is True  # now; and off after a restart
    assert (described["max_memory_mhz"], described["power_limit_w"]) == (4000, 700.0)


def test_a_gpu_that_is_not_there_is_none(driver: Driver) -> None:
    driver(uuids=())
    assert nvml.gpu() is None and nvml.gpu("a-1") is None


@pytest.mark.parametrize("module", [None, SimpleNamespace(NVMLError=NVMLError, nvmlInit=refused)])
def test_without_a_binding_or_a_driver_there_is_no_gpu(
    monkeypatch: pytest.MonkeyPatch, module: object
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", module)
    nvml._library.cache_clear()
    try:
        assert nvml.gpu() is None and nvml.computing_gpu() is None
    finally:
        nvml._library.cache_clear()


def test_the_binding_has_all_that_is_asked(driver: Driver) -> None:
    """The made-up one proves nothing of names that NVIDIA's has not."""
    import pynvml

    driver()
    made_up = vars(nvml._library())
    assert [name for name in made_up if not hasattr(pynvml, name)] == []
