from __future__ import annotations

import contextlib
import importlib.util
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def small() -> ModuleType:
    """The module ``small.py``: models and data that train in milliseconds."""
    spec = importlib.util.spec_from_file_location("retbench_small", HERE / "small.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def full_disk() -> Callable[[int], AbstractContextManager[None]]:
    """``full_disk(limit_bytes)``: no file of this process grows beyond the limit meanwhile."""

    @contextlib.contextmanager
    def limit(limit_bytes: int) -> Iterator[None]:
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)

    return limit
