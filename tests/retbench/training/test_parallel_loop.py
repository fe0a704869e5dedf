"""Several processes train what one would."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent

ROUNDING = 1e-6
"""Of losses in float32: sums of gradients are added up in another order."""

KINDS = ("ddp", "fsdp")
CASES = ("plain", "accumulate", "ragged", "recomputed", "compiled", "transformer")


@pytest.fixture(scope="module")
def cases(
    forked: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """What came of the trainings of ``ranks.py`` by kind and case: alone, and in two processes."""
    folder = tmp_path_factory.mktemp("ranks")
    sizes = {"alone": 1, "ddp": 2, "fsdp": 2}
    ended = forked([size, 100, [HERE / "ranks.py", kind, folder]] for kind, size in sizes.items())
    for each in (each for ranks in ended for each in ranks):
        assert (each.status, each.err) == (0, "")
    return {kind: json.loads((folder / f"{kind}.json").read_text()) for kind in sizes}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_as_one(cases: dict[str, Any], kind: str, case: str) -> None:
    alone, together = cases["alone"][case], cases[kind][case]
    assert len(alone["train_loss"]) == 8
    assert together["train_loss"] == pytest.approx(alone["train_loss"], rel=ROUNDING)
    assert together["dev_loss"] == pytest.approx(alone["dev_loss"], rel=ROUNDING)
    assert together["norm"] == pytest.approx(alone["norm"], rel=ROUNDING)


@pytest.mark.parametrize("kind", KINDS)
def test_all_stop_where_a_training_diverges(cases: dict[str, Any], kind: str) -> None:
    alone, together = cases["alone"]["diverging"], cases[kind]["diverging"]
    assert together["status"] == alone["status"] == "diverged"
    assert len(together["train_loss"]) == len(alone["train_loss"]) < 40
