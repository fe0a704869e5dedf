"""Paired timing for the targets: two functions in turn, the ratio taken pair by pair.

On a shared machine absolute times drift; the median of paired ratios does not.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Protocol

import pytest

WARM_UP_PAIRS = 3


class PairedRatio(Protocol):
    def __call__(
        self, first: Callable[[], object], second: Callable[[], object], pairs: int
    ) -> float: ...


@pytest.fixture(name="paired_ratio")
def paired_ratio_fixture() -> PairedRatio:
    """Gives :func:`paired_ratio` to tests, which cannot import from this folder."""
    return paired_ratio


def paired_ratio(first: Callable[[], object], second: Callable[[], object], pairs: int) -> float:
    """Median over pairs of the time of ``first`` over that of ``second``, run in turn."""
    for _ in range(WARM_UP_PAIRS):
        first()
        second()
    ratios = []
    for number in range(pairs):
        order = (first, second) if number % 2 else (second, first)
        times = {fn: _seconds(fn) for fn in order}
        ratios.append(times[first] / times[second])
    return statistics.median(ratios)


def _seconds(fn: Callable[[], object]) -> float:
    started = time.perf_counter()
    fn()
    return time.perf_counter() - started
