"""How processes that torchrun has started meet, and what one that is alone answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from retbench import distributed
from retbench.config import requirements
from retbench.data.batches import prefetch
from retbench.distributed.process_group import ALONE
from retbench.errors import UserError
from retbench.machine import host


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
    with pytest.raises(UserError, match="in each of 2 processes are more than the"):
        requirements.machine("cpu", max(1, host.granted_cores() // 2) + 1)


def test_others_that_cannot_be_reached_are_given_up(launched: Callable[..., None]) -> None:
    launched(RANK="1")  # and nothing listens on port 1
    with pytest.raises(UserError, match=r"rank 1 cannot reach the other processes at 127.0.0.1:1"):
        distributed.connect("ddp", timeout_s=1)


def test_a_process_alone_is_its_own_answer() -> None:
    tensor = torch.ones(3)
    assert ALONE.first and ALONE.size == 1 and ALONE.kind is None
    assert ALONE.all_reduce_mean(tensor) is tensor and ALONE.all_reduce_sum(tensor) is tensor
    assert ALONE.full_tensors({"a": tensor})["a"] is tensor
    assert list(ALONE.shard_indices(3)) == [0, 1, 2]
    assert ALONE.all_reduce_max(2.5) == 2.5
    assert ALONE.broadcast(lambda: 7) == 7
    model = torch.nn.Linear(2, 2)
    assert ALONE.wrap(model) is model and ALONE.device("cuda") == "cuda"
    ALONE.require_shares(3, 3)
    assert ALONE.rows(3) == slice(0, 3)


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
        ((inputs, targets),) = prefetch(Source(), range(1, 2), "cpu", ranks)
        assert (targets == -inputs).all()
        found.append(inputs[:, 0].tolist())
        turns.append(list(ranks.shard_indices(4)))
    assert found == [[10, 11], [12, 13], [14, 15]]
    assert turns == [[0, 3], [1, 4], [2, 5]]  # 4 and 5 are padding
    with pytest.raises(UserError, match=r"batch: 8 sequences .* by 3 processes; .* multiple of 3"):
        ranks.require_shares(8, 1)
    with pytest.raises(UserError, match=r"6 .* 3 processes with 4 parts each .* multiple of 12"):
        ranks.require_shares(6, 4)
