"""How the kernels' work is cut among programs, by shape and GPU."""

from __future__ import annotations

import pytest
import torch

from models.kernels.plan import GPU, plan_for, plan_of_states, split_count, step_columns

A100, H100 = GPU(108, 163 * 1024), GPU()


@pytest.mark.parametrize(
    ("gpu", "sequences", "d_k", "d_v", "tile", "warps"),
    [
        # Batch 1 of the presets: 10m has fewer programs than multiprocessors whatever the cut.
        (H100, 6, 64, 128, (32, 32), 4),
        (H100, 6, 128, 256, (64, 32), 4),
        (H100, 8, 128, 256, (64, 32), 4),
        (H100, 8, 256, 512, (128, 64), 8),
        # Halved once more, the ten heads of 2.7b would be two waves.
        (H100, 10, 256, 512, (128, 128), 8),
        (H100, 16, 256, 512, (128, 128), 8),
        (A100, 16, 256, 512, (128, 128), 8),
        (H100, 4, 256, 512, (64, 64), 4),
        (H100, 1, 256, 512, (32, 32), 4),
        (H100, 1000, 256, 512, (128, 128), 8),
        (H100, 1, 16, 512, (16, 32), 4),
        (H100, 1000, 16, 32, (16, 32), 4),
    ],
)
def test_a_state_is_cut_so_that_the_busiest_multiprocessor_moves_least(
    gpu: GPU, sequences: int, d_k: int, d_v: int, tile: tuple[int, int], warps: int
) -> None:
    whole = plan_for(torch.bfloat16, torch.device("cpu"))
    cut = plan_of_states(whole, sequences, d_k, d_v, gpu)
    assert (cut.rows, cut.columns) == tile
    assert cut.warps == warps


@pytest.mark.parametrize(
    ("gpu", "matrices", "itemsize", "columns"),
    [
        (H100, 1, 4, 8), (H100, 8, 4, 16), (H100, 10, 4, 8), (A100, 10, 4, 16), (H100, 16, 4, 32),
        (H100, 1000, 4, 32), (H100, 1, 2, 16), (H100, 16, 2, 32),
    ],
)  # fmt: skip
def test_few_heads_are_cut_finer_in_a_decode_step(
    gpu: GPU, matrices: int, itemsize: int, columns: int
) -> None:
    assert step_columns(matrices, 512, gpu, itemsize) == columns


@pytest.mark.parametrize(
    ("caches", "max_len", "splits"),
    [(1, 1, 1), (1, 64, 1), (1, 65, 2), (4, 8192, 64), (16, 8192, 16), (264, 8192, 1)],
)
def test_splits_are_one_wave_where_they_can_be(caches: int, max_len: int, splits: int) -> None:
    assert split_count(caches, max_len, 64, slots=264) == splits


def test_a_second_wave_is_begun_only_where_it_ends_earlier() -> None:
    def length(splits: int) -> int:
        return -(-3 * splits // 4) * (640 // splits + 64)

    best = split_count(3, 640, 64, slots=4)
    assert length(best) == min(length(splits) for splits in (1, 2, 5, 10))
