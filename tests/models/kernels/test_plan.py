"""How the states of chunkwise retention are cut among programs."""

from __future__ import annotations

import pytest
import torch

from models.kernels.plan import plan_for, plan_of_states


@pytest.mark.parametrize(
    ("sequences", "d_k", "d_v", "tile", "warps"),
    [
        # Batch 1 of the presets: 10m has fewer programs whatever the cut.
        (6, 64, 128, (32, 32), 4),
        (6, 128, 256, (32, 32), 4),
        (8, 128, 256, (64, 32), 4),
        (8, 256, 512, (128, 64), 8),
        (4, 256, 512, (64, 64), 4),
        (1, 256, 512, (32, 32), 4),
        (16, 256, 512, (128, 128), 8),
        (1000, 256, 512, (128, 128), 8),
        (1, 16, 512, (16, 32), 4),
        (1000, 16, 32, (16, 32), 4),
    ],
)
def test_a_state_is_cut_until_the_gpu_is_full(
    sequences: int, d_k: int, d_v: int, tile: tuple[int, int], warps: int
) -> None:
    whole = plan_for(torch.bfloat16, torch.device("cpu"))
    cut = plan_of_states(whole, sequences, d_k, d_v)
    assert (cut.rows, cut.columns) == tile
    assert cut.warps == warps
