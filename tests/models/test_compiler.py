"""Nothing is called compiled where a variable lets it run eagerly."""

from __future__ import annotations

import pytest
import torch

from models.compiler import compiled
from models.config import ConfigError


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("TORCHDYNAMO_DISABLE", "1", r"TORCHDYNAMO_DISABLE=1 turns torch\.compile off"),
        ("TORCH_COMPILE_DISABLE", "1", r"TORCH_COMPILE_DISABLE=1 turns torch\.compile off"),
        ("TORCHDYNAMO_SUPPRESS_ERRORS", "1", "lets what cannot be compiled run eagerly"),
        ("TORCH_COMPILE_OVERRIDE_BACKENDS", ">=0:eager", "may let what is called compiled run"),
        ("TORCH_COMPILE_OVERRIDE_INDUCTOR_CONFIGS", "0:x=1", "may let what is called compiled run"),
        ("TORCHDYNAMO_DEBUG_FUNCTION", "none", "may let what is called compiled run eagerly"),
        ("TORCH_COMPILE_OVERRIDE_DYNAMO_CONFIGS", "0:disable=True", "may let what is called comp"),
    ],
)
def test_a_variable_that_leaves_code_eager_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, says: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=says):
        compiled(torch.neg)


def test_a_variable_that_changes_nothing_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "0")
    monkeypatch.setenv("TORCH_COMPILE_OVERRIDE_BACKENDS", "")
    monkeypatch.setattr(torch, "compile", lambda function, **options: options)
    assert compiled(torch.neg, fullgraph=True) == {"dynamic": False, "fullgraph": True}
