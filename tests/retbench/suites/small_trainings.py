"""Configurations of trainings of four steps, for each suite that trains."""

from __future__ import annotations

from typing import Any

from retbench.config.run import RunConfig
from retbench.engine.resolve import resolve

SMALL = {
    "preset": "tiny", "context": 32, "batch": 2, "steps": 4, "lr": "1e-3,4e-3", "profile": "smoke",
    "threads": 1, "device": "cpu",
}  # fmt: skip


def small(suite: str, **changes: Any) -> RunConfig:
    return resolve(suite, **{**given(suite), **changes})


def given(suite: str) -> dict[str, Any]:
    options: dict[str, Any] = dict(SMALL)
    if suite == "scaling":
        del options["preset"]
        options["presets"] = "tiny"
    return options
