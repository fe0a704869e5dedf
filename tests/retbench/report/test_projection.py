"""The context from which on the bytes of one model at the bound are the fewer."""

from __future__ import annotations

import numpy as np
import pytest

from retbench.report.projection import needs_less_from

CONTEXTS = np.array([512.0, 1024.0, 2048.0])


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (512.0, "512"),  # a tie at the first context
        (1536.0, "1.5k"),
        (1024.0, "1.0k"),
        (300.0, "300"),  # below the first context
        (0.25, "1"),  # and not below one token
        (2049.0, "not up to 2k"),
    ],
)
def test_bytes_that_grow_by_one_a_token_meet_a_fixed_state_at_its_size(
    state: float, said: str
) -> None:
    assert needs_less_from(CONTEXTS, np.full(3, state), CONTEXTS) == said


def test_without_a_slope_there_is_no_telling_where_below_the_first_context_it_is() -> None:
    assert needs_less_from(CONTEXTS, np.full(3, 1.0), np.full(3, 2.0)) == "at 512 or before"
    assert needs_less_from(CONTEXTS[:1], np.ones(1), np.full(1, 2.0)) == "at 512 or before"


def test_a_subject_that_needs_more_in_the_end_has_no_break_even() -> None:
    assert needs_less_from(CONTEXTS, CONTEXTS, np.full(3, 600.0)) == "not told"
