"""The choice of a learning rate from noisy trainings."""

from __future__ import annotations

import math

import numpy as np
import pytest

from retbench.stats.tuning import best_rate

RATES = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)


@pytest.mark.parametrize("vertex", RATES[1:4])
def test_the_parabolas_lowest_rate_is_chosen(vertex: float) -> None:
    losses = {rate: 2 + 0.02 * math.log(rate / vertex) ** 2 for rate in RATES}
    assert best_rate(losses) == vertex


def test_a_lucky_neighbour_does_not_win() -> None:
    losses = dict(zip(RATES, (2.064, 2.021, 2.012, 2.010, 2.037), strict=True))
    assert best_rate(losses) == 2e-3  # the lowest loss is that of 4e-3


def test_a_training_that_has_become_unstable_does_not_bend_the_choice() -> None:
    losses = dict(zip(RATES[1:], (1.8791, 1.8567, 1.7935, 1.9690), strict=True))
    assert best_rate(losses) == 4e-3  # of the parabola alone 2e-3, whose loss is 3.5% higher


def test_an_end_of_the_grid_does_not_win_over_a_lower_loss_inside() -> None:
    """The losses of a published ablation, of which the last is lowest on their parabola."""
    losses = dict(
        zip((8e-3, 1.6e-2, 3.2e-2, 6.4e-2), (2.1362, 2.0891, 2.1370, 2.1007), strict=True)
    )
    assert best_rate(losses) == 1.6e-2
    assert best_rate(losses | {6.4e-2: 2.0}) == 6.4e-2


@pytest.mark.parametrize(
    ("losses", "rate"),
    [
        ({1e-3: 2.0}, 1e-3),
        ({1e-3: 2.0, 2e-3: 1.9, 4e-3: 2.2}, 2e-3),
        ({1e-3: 1.9, 2e-3: 2.0, 4e-3: 1.9, 8e-3: 1.0}, 8e-3),  # no valley
        ({2e-3: 2.0, 1e-3: 2.0}, 1e-3),
    ],
)
def test_without_a_valley_of_four_the_lowest_loss_decides(
    losses: dict[float, float], rate: float
) -> None:
    assert best_rate(losses) == rate


def test_smoothing_finds_the_best_rate_more_often() -> None:
    draw = np.random.default_rng(0)
    truth = {rate: 2 + 0.02 * math.log(rate / 2e-3) ** 2 for rate in RATES}
    hits = np.zeros(2)
    for _ in range(500):
        noisy = {rate: loss + draw.normal(0, 0.01) for rate, loss in truth.items()}
        hits += [best_rate(noisy) == 2e-3, min(noisy, key=noisy.__getitem__) == 2e-3]
    assert hits[0] > hits[1] + 25
