"""CUDA graphs for a machine without a GPU: a list of operators, which a replay runs again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class FakeGraph(TorchDispatchMode):
    """Keeps every operator that runs while it is entered; a replay writes into the same tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.kept.append((func, args, kwargs or {}, out))
        return out

    @torch.inference_mode()
    def replay(self) -> None:
        """Run all operators again on what their arguments hold by now."""
        self.replays += 1
        for func, args, kwargs, out in self.kept:
            again = func(*args, **kwargs)
            if isinstance(out, Tensor) and again.data_ptr() != out.data_ptr():
                out.copy_(again)


@pytest.fixture
def fake_graphs(monkeypatch: pytest.MonkeyPatch) -> list[FakeGraph]:
    """Has torch capture into the graphs that it returns."""
    made: list[FakeGraph] = []
    stream = SimpleNamespace(wait_stream=lambda other: None)

    def new() -> FakeGraph:
        made.append(FakeGraph())
        return made[-1]

    @contextmanager
    def capture(graph: FakeGraph) -> Iterator[None]:
        with graph:
            yield

    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda side: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", new)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    return made
