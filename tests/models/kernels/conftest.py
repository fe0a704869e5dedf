"""Where the kernels run: on a GPU, or in Triton's interpreter."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

DEVICES: list[object] = ["cpu"] if os.environ.get("TRITON_INTERPRET") == "1" else []
if torch.cuda.is_available():
    DEVICES.append(pytest.param("cuda", marks=pytest.mark.gpu))


@pytest.fixture(scope="package", autouse=True)
def _quicker_interpreter() -> Iterator[None]:
    """Spare Triton's interpreter a quarter of its time, of which nothing comes.

    Without ``debug`` it reckons whether each sum of integers overflows and drops the answer. Before
    each call of a function in a kernel it replaces what Triton's language gives that: the kernel's
    launch has done so, but for what Triton's own functions use, which stays replaced from then on.
    """
    from triton.runtime import interpreter

    first, readied = interpreter.InterpretedFunction.__call__, set()

    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        if self.fn in readied:
            return self.rewrite()(*arguments, **named)
        readied.add(self.fn)
        return first(self, *arguments, **named)

    options = interpreter.InterpreterOptions(sanitize_overflow=False)
    assert not options.debug
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter.InterpretedFunction, "__call__", call)
        patch.setattr(interpreter.interpreter_builder, "options", options)
        yield


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
