"""The kernels compile for an H100 and lesser GPUs, and fit into shared memory and registers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

LARGE = 227 * 1024
"""Shared memory that a block may have on an H100 (CUDA C++ Programming Guide)."""

SMALL = 99 * 1024
"""The least of those from compute capability 8.0 on, that of 8.6; at 8.0 itself it is 163 KiB."""

SPILLED_BYTES = 64
"""Of a thread's registers; some few that are seldom used, as decays that a loop does not need."""


@pytest.mark.parametrize(
    ("capability", "groups"),
    [
        (
            90,
            {
                "bfloat16:256x512,128x256,64x128,16x32": (6, LARGE),
                # Their blocks are the same on every GPU.
                "float16:64x128": (1, SMALL),
                "float32:256x512": (3, SMALL),
            },
        ),
        (80, {"bfloat16:256x512": (4, SMALL)}),
    ],
)
def test_every_kernel_compiles_and_fits(
    capability: int, groups: dict[str, tuple[int, int]]
) -> None:
    """By dtype and dimensions: into how many tiles a state is cut, and the shared memory."""
    kernels = compiled("compile_ahead.py", capability, *groups)
    for group, (tiles, shared_bytes) in groups.items():
        dtype, _, dims = group.partition(":")
        own = [k for k in kernels if k["dtype"] == dtype]
        assert {k["kernel"] for k in own} == {"_states_kernel", "_scores_kernel", "_mix_kernel"}
        assert len(own) == 3 * len(dims.split(",")) + 7 + 4
        assert len({tuple(k["tile"]) for k in own if k["kernel"] == "_states_kernel"}) == tiles
        check(own, shared_bytes)


def test_every_kernel_of_a_step_compiles_and_fits() -> None:
    kernels = compiled("compile_decode_ahead.py", "bfloat16", "float16", "float32")
    assert {k["kernel"] for k in kernels} == {"_recur", "_finish", "_attend", "_combine"}
    assert len(kernels) == 3 * 12
    check(kernels, SMALL)


def compiled(script: str, *arguments: object) -> list[dict[str, Any]]:
    """What a script prints of each kernel that it compiles."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, Path(__file__).with_name(script), *map(str, arguments)],
        capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


def check(kernels: list[dict[str, Any]], shared_bytes: int) -> None:
    """Nothing takes more shared memory, or spills."""
    for kernel in kernels:
        assert kernel["shared_bytes"] <= shared_bytes, kernel
        assert kernel["stack_bytes"] <= SPILLED_BYTES, kernel
