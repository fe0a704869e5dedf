"""Where the kernels run: on a GPU, or in Triton's interpreter."""

from __future__ import annotations

import os

import pytest
import torch

DEVICES: list[object] = ["cpu"] if os.environ.get("TRITON_INTERPRET") == "1" else []
if torch.cuda.is_available():
    DEVICES.append(pytest.param("cuda", marks=pytest.mark.gpu))


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def _no_gradients_by_default() -> None:
    """Overrides the models' fixture: most tests here ask for gradients."""
