"""The kernels compile for GPUs of each kind, fit side by side, and use what the GPUs have."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from models.kernels.attend import RESIDENT

from ...benchmarks.occupancy import SCRIPT, cases, words
from .compile_ahead import MODELS

ROOT = Path(__file__).parents[3]
PUBLISHED = ("case", "kernel", "programs", "warps", "registers", "shared_bytes", "resident")
"""Columns of results/occupancy.csv that a compilation must give again."""

SPILLED_BYTES = 64
"""Of a thread's registers; some few that are seldom used, as decays that a loop does not need."""

CHUNKWISE = {"_states_kernel", "_scores_kernel", "_mix_kernel"}
GATE = {"_gated_norm", "_gated_norm_backward"}
STEP = {"_recur", "_finish", "_attend", "_combine"}


OWN = {
    90: [
        # A state in tiles of every size that has rows enough for wgmma.
        *(f"forward,bfloat16,1,{heads},256,512" for heads in (16, 8, 4)),
        "forward,bfloat16,1,6,128,256",
        "backward,bfloat16,1,8,256,512",
        "gate,bfloat16,1,8,512",
        "retain,bfloat16,1,8,1,256,512",
        "retain,bfloat16,1,4,2,256,512",
        "attend,bfloat16,1,16,1,128,8224",
        "attend,bfloat16,1,4,4,128,8224",
    ],
    80: [
        "forward,bfloat16,1,8,256,512",
        "backward,bfloat16,1,8,256,512",
        "retain,bfloat16,1,8,1,256,512",
        "attend,bfloat16,1,16,1,128,8224",
        "attend,bfloat16,1,4,4,128,8224",
    ],
    100: [
        "forward,bfloat16,1,8,256,512",
        "backward,bfloat16,1,8,256,512",
        "retain,bfloat16,1,8,1,256,512",
        "attend,bfloat16,1,4,4,128,8224",
    ],
    120: [
        "forward,bfloat16,1,8,256,512",
        "retain,bfloat16,1,8,1,256,512",
        "attend,bfloat16,1,4,4,128,8224",
    ],
}
"""Cases that are compiled, by compute capability."""

OTHERS = {
    "float16": [
        "forward,float16,1,6,64,128",
        "gate,float16,1,6,128",
        "retain,float16,1,8,1,256,512",
        "attend,float16,1,4,4,128,96",
    ],
    "float32": [
        "forward,float32,1,8,256,512",
        "gate,float32,1,8,512",
        "retain,float32,1,4,2,256,512",
        "attend,float32,1,16,1,128,96",
        "attend,float32,1,4,4,128,96",
    ],
    "tiny heads, those that must be masked, and the widest": [
        "forward,bfloat16,1,4,16,32",
        "retain,bfloat16,1,6,1,48,96",
        "attend,bfloat16,1,2,4,48,96",
        "attend,bfloat16,1,2,4,256,96",
        "gate,bfloat16,1,6,96",
    ],
}
"""Those of other types and heads, for the GPU with least shared memory."""


@pytest.mark.parametrize(
    ("capability", "tensor_cores"), [(90, "wgmma"), (80, "mma"), (100, "tcgen05"), (120, "mma")]
)
def test_the_kernels_fit_and_read_by_128_bits_into_tensor_cores(
    capability: int, tensor_cores: str
) -> None:
    kernels = compiled(capability, OWN[capability])
    for kernel in kernels:
        name = kernel["kernel"]
        if name in CHUNKWISE:
            assert kernel["tensor_cores"] == [tensor_cores], kernel
        if name in CHUNKWISE | {"_attend"}:
            assert set(kernel["bits_in_loops"]) <= {128}, kernel
        if name in GATE:
            assert kernel["bits"] == [128], kernel
        if name == "_recur":  # of the state; what it reads besides is a few numbers
            assert max(kernel["bits"]) == 128, kernel
        if kernel["case"] in cases():
            assert (capability, *(kernel[key] for key in PUBLISHED)) in published(), kernel
        if name == "_attend":
            rows = max(RESIDENT) if kernel["tensor_cores"] else 1
            assert kernel["resident"] >= RESIDENT[rows], kernel


@pytest.mark.parametrize("kind", OTHERS)
def test_kernels_of_other_types_and_heads_fit_any_gpu(kind: str) -> None:
    assert {kernel["kernel"] for kernel in compiled(120, OTHERS[kind])} == CHUNKWISE | GATE | STEP


def test_the_published_table_is_of_what_is_launched() -> None:
    """Every kernel of every preset, batch size and GPU, without a compilation."""
    keys = ("capability", *PUBLISHED[:4])
    found = {tuple(kernel[key] for key in keys) for kernel in said() if "fits" not in kernel}
    assert found == {row[:5] for row in published()}, "make it anew: tests/benchmarks/occupancy.py"


def test_all_that_is_published_fits_side_by_side_and_spills_hardly_anything() -> None:
    for row in rows():
        assert int(row["resident"]) >= 1 and int(row["stack_bytes"]) <= SPILLED_BYTES, row
        if row["kernel"] == "_attend":
            queries = max(RESIDENT) if row["tensor_cores"] else 1
            assert int(row["resident"]) >= RESIDENT[queries], row
        gpu = MODELS[round(10 * float(row["capability"]))]
        slots = int(row["resident"]) * gpu.multiprocessors
        assert float(row["waves"]) == pytest.approx(int(row["programs"]) / slots, abs=1e-3), row


def rows() -> list[dict[str, str]]:
    """Those of the published table."""
    with (ROOT / "results" / "occupancy.csv").open() as file:
        return list(csv.DictReader(file))


@cache
def published() -> set[tuple[Any, ...]]:
    """Capability times ten, and what ``PUBLISHED`` names of each row of the table."""
    return {
        (
            round(10 * float(row["capability"])),
            *(
                type_(row[key])
                for key, type_ in zip(PUBLISHED, (str, str, *[int] * 5), strict=True)
            ),
        )
        for row in rows()
    }


def compiled(capability: int, own: list[str]) -> list[dict[str, Any]]:
    """What the script says of each kernel that it compiles, which fits and spills nothing."""
    kernels = [
        kernel
        for kernel in said()
        if "fits" in kernel and kernel["capability"] == capability and kernel["case"] in own
    ]
    assert {kernel["case"] for kernel in kernels} == set(own)
    for kernel in kernels:
        assert kernel["fits"] and kernel["stack_bytes"] <= SPILLED_BYTES, kernel
        assert kernel["resident"] >= 1 and not kernel["local_memory"], kernel
    return kernels


@cache
def said() -> list[dict[str, Any]]:
    """What the script says of each launch, those of the published table uncompiled."""
    asked = [word for capability, own in OWN.items() for word in (str(capability), *own)]
    asked += ["120", *(case for own in OTHERS.values() for case in own)]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, SCRIPT, *asked, "--uncompiled", *words()],
        capture_output=True, text=True, env=environment | {"PYTHONPATH": str(ROOT)}, cwd=ROOT,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]
