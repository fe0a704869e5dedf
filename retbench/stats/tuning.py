"""Which of the learning rates that were tried is the best, from one noisy training at each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

_EACH_SIDE = 2  # rates beside the lowest that its parabola goes through
LEAST = 4
"""Losses that a parabola is fitted to, at least: three lie on one as they are."""

_NOISE = 0.01  # by how much of itself the loss of one training may be off by chance


def best_rate(losses: Mapping[float, float]) -> float:
    """The rate with the lowest loss, that of one training being smoothed by its neighbours'.

    Near its lowest point a loss is a parabola in the rate's logarithm: where the lowest loss and
    those of up to two rates on each side are four or more, the one lowest on the parabola through
    them (least squares) is taken, of the rates whose own loss is within 1% of the lowest: beyond
    the rates at which a training is stable a loss rises faster than any parabola. Where the fitted
    one has no lowest point, the lowest loss decides. An end of the grid is taken only where its own
    loss is the lowest: a parabola says least there, and a better rate may lie beyond.

    Args:
        losses: finite, by learning rate; at least one.
    """
    lowest = min(losses, key=lambda rate: (losses[rate], rate))
    rates = sorted(losses)
    place = rates.index(lowest)
    near = rates[max(0, place - _EACH_SIDE) : place + _EACH_SIDE + 1]
    if len(near) < LEAST:
        return lowest
    logs = np.log(near)
    parabola = np.polyfit(logs, [losses[rate] for rate in near], 2)
    if parabola[0] <= 0:
        return lowest
    inner = {lowest, *rates[1:-1]}
    likely = [
        rate for rate in near if rate in inner and losses[rate] <= losses[lowest] * (1 + _NOISE)
    ]
    return min(likely, key=lambda rate: float(np.polyval(parabola, np.log(rate))))
