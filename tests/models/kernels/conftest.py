"""Where the kernels run: on a GPU, or in Triton's interpreter."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

DEVICES: list[object] = ["cpu"] if os.environ.get("TRITON_INTERPRET") == "1" else []
if torch.cuda.is_available():
    DEVICES.append(pytest.param("cuda", marks=pytest.mark.gpu))


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.fixture
def pretend_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Has every GPU be one of a compute capability, given as two numbers."""
    if torch.cuda.is_available():
        torch.cuda.init()  # it asks for more than what the pretended GPU answers

    def pretend(major: int, minor: int) -> None:
        gpu = SimpleNamespace(major=major, minor=minor)
        monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: gpu)

    return pretend


@pytest.fixture(autouse=True)
def _no_gradients_by_default() -> None:
    """Overrides the models' fixture: most tests here ask for gradients."""
