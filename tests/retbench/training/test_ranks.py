"""Several processes train what one would, and end together, with one word of what went wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from retbench import distributed
from retbench.config import requirements
from retbench.distributed.process_group import ALONE
from retbench.errors import UserError
from retbench.machine import host

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
    assert len(alone["train_loss"]) == 24
    assert together["train_loss"] == pytest.approx(alone["train_loss"], rel=ROUNDING)
    assert together["dev_loss"] == pytest.approx(alone["dev_loss"], rel=ROUNDING)
    assert together["norm"] == pytest.approx(alone["norm"], rel=ROUNDING)


@pytest.mark.parametrize("kind", KINDS)
def test_all_stop_where_a_training_diverges(cases: dict[str, Any], kind: str) -> None:
    alone, together = cases["alone"]["diverging"], cases[kind]["diverging"]
    assert together["status"] == alone["status"] == "diverged"
    assert len(together["train_loss"]) == len(alone["train_loss"]) < 40


# Failures.

TELLS_ALONE = "retbench: error: there is no text; name one\n"


HOW = {"all": 2, "first": 2, "last": 2, "bug": 2, "killed": 3, "stopped": 2, "other": 2}
"""How processes fail (see ``failing.py``), and how many there are."""


@pytest.fixture(scope="module")
def failures(forked: Callable[..., Any]) -> dict[str, tuple[list[int], list[str]]]:
    """Statuses and errors of processes by how they fail; those that are left are ended."""
    ended = forked([size, 20, [HERE / "failing.py", how]] for how, size in HOW.items())
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
    assert "the connection to one has failed (Timed out waiting 5000ms" in errors[0]


def test_ranks_of_unlike_machines_are_named(failures: dict[str, Any]) -> None:
    statuses, errors = failures["other"]
    assert statuses == [2, 2]
    assert errors[0].endswith("rank 1 has another text than rank 0; give all machines the same\n")
    assert errors[1] == ""


# How processes are met.


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``launched(RANK="0", ...)``: the environment of a process that torchrun starts, changed."""

    def set_all(**changes: str | None) -> None:
        usual = {
            "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1",
        }  # fmt: skip
        for name, setting in (usual | changes).items():
            if setting is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, setting)

    return set_all


def test_a_kind_needs_processes() -> None:
    with pytest.raises(UserError, match=r"--parallel ddp is for .*; begin .*: torchrun --nproc"):
        distributed.connect("ddp")


def test_processes_need_a_kind(launched: Callable[..., None]) -> None:
    launched()
    with pytest.raises(UserError, match=r"torchrun has started 2 processes.*--parallel ddp or"):
        distributed.connect(None)
    launched(WORLD_SIZE="1", LOCAL_WORLD_SIZE="1")
    assert distributed.connect(None) is ALONE


def test_an_unknown_kind_is_refused(launched: Callable[..., None]) -> None:
    launched()
    with pytest.raises(UserError, match="parallel: unknown kind 'dp'; there are ddp and fsdp"):
        distributed.connect("dp")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"MASTER_PORT": None, "LOCAL_RANK": None}, "but no LOCAL_RANK, MASTER_PORT; start"),
        ({"RANK": "one"}, "RANK, .* in the environment: .*'one'"),
    ],
)
def test_an_environment_that_tells_half_is_refused(
    launched: Callable[..., None], changes: dict[str, str], match: str
) -> None:
    launched(**changes)
    with pytest.raises(UserError, match=match):
        distributed.connect("fsdp")


def test_processes_of_a_machine_share_its_cores(launched: Callable[..., None]) -> None:
    cores = host.physical_cores()
    assert requirements.machine("cpu", None) == ("cpu", cores)
    launched(WORLD_SIZE="16", LOCAL_WORLD_SIZE="2")
    assert requirements.machine("cpu", None) == ("cpu", max(1, cores // 2))
    assert requirements.machine("cpu", 1) == ("cpu", 1)


def test_others_that_cannot_be_reached_are_given_up(launched: Callable[..., None]) -> None:
    launched(RANK="1")  # and nothing listens on port 1
    with pytest.raises(UserError, match=r"rank 1 cannot reach the other processes at 127.0.0.1:1"):
        distributed.connect("ddp", timeout_s=1)


def test_a_process_alone_is_its_own_answer() -> None:
    tensor = torch.ones(3)
    assert ALONE.first and ALONE.size == 1 and ALONE.kind is None
    assert ALONE.mean(tensor) is tensor and ALONE.sum(tensor) is tensor
    assert ALONE.whole({"a": tensor})["a"] is tensor
    assert list(ALONE.turns(3)) == [0, 1, 2]
    assert ALONE.any(True) and not ALONE.any(False)
    assert ALONE.largest(2.5) == 2.5
    assert ALONE.from_first(lambda: 7) == 7
    model = torch.nn.Linear(2, 2)
    assert ALONE.wrap(model) is model and ALONE.device("cuda") == "cuda"
    ALONE.require_shares(3, 3)


def test_rows_and_turns_are_shared_out() -> None:
    from retbench.distributed.torch_group import Replicated

    class Source:
        def batch(self, step: int) -> tuple[Any, Any]:
            rows = np.arange(6)[:, None] + 10 * step
            return rows, -rows

    found, turns = [], []
    for rank in range(3):
        ranks = object.__new__(Replicated)  # connected to nothing
        ranks.rank, ranks.size = rank, 3
        inputs, targets = ranks.share(Source()).batch(1)
        assert (targets == -inputs).all()
        found.append(inputs[:, 0].tolist())
        turns.append(list(ranks.turns(4)))
    assert found == [[10, 11], [12, 13], [14, 15]]
    assert turns == [[0, 3], [1, 4], [2, 5]]  # 4 and 5 are padding
    with pytest.raises(UserError, match=r"batch: 8 sequences .* by 3 processes; .* multiple of 3"):
        ranks.require_shares(8, 1)
    with pytest.raises(UserError, match=r"6 .* 3 processes with 4 parts each .* multiple of 12"):
        ranks.require_shares(6, 4)
