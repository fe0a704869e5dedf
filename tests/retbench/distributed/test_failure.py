"""Several processes end together, with one word of what went wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
TELLS_ALONE = "retbench: error: there is no text; name one\n"


HOW = {"all": 2, "first": 2, "last": 2, "bug": 2, "killed": 3, "stopped": 2, "other": 2}
"""How processes fail (see ``failing.py``), and how many there are."""


@pytest.fixture(scope="module")
def failures(forked: Callable[..., Any]) -> dict[str, tuple[list[int], list[str]]]:
    """Statuses and errors of processes by how they fail; those that are left are ended."""
    ended = forked([size, 60, [HERE / "failing.py", how]] for how, size in HOW.items())
    assert all(each.out == "" for ranks in ended for each in ranks)
    return {
        how: ([each.status for each in ranks], [each.err for each in ranks])
        for how, ranks in zip(HOW, ended, strict=True)
    }


@pytest.mark.parametrize("how", ["all", "first"])
def test_rank_0_alone_tells_what_it_knows(failures: dict[str, Any], how: str) -> None:
    assert failures[how] == ([2, 2], [TELLS_ALONE, ""])


def test_another_rank_tells_what_rank_0_does_not_know(failures: dict[str, Any]) -> None:
    assert failures["last"] == ([2, 2], ["", TELLS_ALONE.replace("there", "rank 1: there")])


def test_a_bug_names_its_rank(failures: dict[str, Any]) -> None:
    statuses, errors = failures["bug"]
    assert statuses == [1, 1]
    assert errors[0] == "" and "rank 1: TypeError: it is broken" in errors[1]


def test_the_others_of_a_killed_process_end_and_one_names_it(failures: dict[str, Any]) -> None:
    statuses, errors = failures["killed"]
    assert statuses == [1, 1, -9]
    assert errors[1:] == ["", ""] and errors[0].count("\n") == 1
    assert "the processes cannot go on: rank 2 has ended; what was finished is kept" in errors[0]


def test_a_process_that_hangs_is_not_waited_for_for_ever(failures: dict[str, Any]) -> None:
    statuses, errors = failures["stopped"]
    assert statuses == [1, -9]  # the test ends the second
    assert errors[0].count("\n") == 1
    assert "the connection to one has failed (Timed out waiting 15000ms" in errors[0]


def test_ranks_of_unlike_machines_are_named(failures: dict[str, Any]) -> None:
    statuses, errors = failures["other"]
    assert statuses == [2, 2]
    assert errors[0].endswith("rank 1 has another text than rank 0; give all machines the same\n")
    assert errors[1] == ""
