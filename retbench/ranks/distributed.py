"""One command in several processes: what its code asks of the others, and how it is connected.

    with distributed.connect("ddp") as ranks:     # started by torchrun
        wrapped = ranks.wrap(model)
        seconds = ranks.largest(time_of(wrapped))

:class:`Ranks` is what a process that is alone answers, at no cost, so that code that may run in
several has no branches; :mod:`retbench.ranks.parallel` holds those that are connected. A process
learns its rank from the environment that torchrun sets, on one machine or on several.

No torch here, so that a mistake is reported at once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, TypeVar

from retbench.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from retbench.data.batches import BatchSource

KINDS = ("ddp", "fsdp")

TIMEOUT_S = 1800.0
"""How long a process waits for the others at most: rank 0 may have a large checkpoint to write."""

_FIRST_S = 10.0
"""How long rank 0 may take to fail as another did: a process that ends lets torchrun end it."""

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_ADDRESS = ("MASTER_ADDR", "MASTER_PORT")

MEETING = "RETBENCH_MEETING"
"""Variable with the name of a group, where a launch has several, one after the other."""

T = TypeVar("T")


class RankFailed(UserError):
    """What one process of several has to tell the user in the place of rank 0."""

    def __init__(self, message: str, hint: str | None, exit_status: int) -> None:
        super().__init__(message, hint)
        self.exit_status = exit_status


@dataclass(frozen=True)
class Launch:
    """What torchrun tells a process that it starts.

    Attributes:
        rank: the number of this process among all.
        size: how many there are.
        local_rank: its number on its machine; also that of its GPU.
        local_size: how many there are on its machine.
        meeting: which of the launch's groups this process joins.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    meeting: str = ""


class Ranks(AbstractContextManager["Ranks"]):
    """A process that is alone: rank 0 of 1.

    Attributes:
        kind: ``ddp`` or ``fsdp``; None where the process is alone.
        rank: the number of this process; rank 0 alone writes and prints.
        size: how many processes there are.
        compiles: what goes through ``torch.compile`` at once: the whole step, or each block, where
            something is to be sent while the next is computed.
        mates: process ids of the other ranks on this machine.
    """

    kind: str | None = None
    rank: int = 0
    size: int = 1
    compiles: Literal["step", "block"] = "step"
    mates: tuple[int, ...] = ()

    @property
    def first(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Leave the others; say what went wrong once."""

    # The model and its gradients.

    def device(self, kind: str) -> str:
        """The device of this process: of the GPUs of its machine, the one of its number."""
        return kind

    def wrap(self, model: nn.Module) -> nn.Module:
        """What to call in the model's place in training; gradients become the mean over ranks.

        May lay out the parameters anew, so that an optimizer is made afterwards. The model itself
        serves for evaluation, by all ranks together.
        """
        return model

    def part(self, wrapped: nn.Module, last: bool) -> AbstractContextManager[object]:
        """Around the forward and backward pass of a part of a batch; ranks meet at the last."""
        return _NOTHING

    def whole(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Tensors of a wrapped model or its optimizer as one process would hold them.

        Asked by all ranks together; rank 0 gets them, the others nothing.
        """
        return tensors

    def spread(
        self, tensors: Mapping[str, Tensor], like: Callable[[str], Tensor | None]
    ) -> Mapping[str, Tensor]:
        """The inverse: rank 0's tensors on all ranks, each laid out as ``like(name)``.

        Args:
            tensors: of rank 0; those of the others do not count.
            like: the tensor in whose place one is to be put; None: it is put there as a whole.
        """
        return tensors

    def gathered(self, model: nn.Module, build: Callable[[], nn.Module]) -> nn.Module:
        """The trained model for use in rank 0 alone; asked by all ranks together.

        Args:
            model: the one that was wrapped.
            build: makes another of its shape; called by rank 0 where weights are to be collected.
        """
        return model

    # Data.

    def require_shares(self, rows: int, parts: int) -> None:
        """Raise the user's error where a batch of ``rows`` cannot be shared out equally.

        Args:
            rows: sequences of a batch of all processes.
            parts: how many each process computes its own in, one after the other.
        """
        if rows % (self.size * parts):
            of_each = f" with {parts} parts each (--accumulate)" if parts > 1 else ""
            raise UserError(
                f"batch: {rows} sequences cannot be shared equally by {self.size} processes"
                f"{of_each}",
                f"use a multiple of {self.size * parts}",
            )

    def share(self, source: BatchSource) -> BatchSource:
        """The rows of this process in every batch."""
        return source

    def turns(self, count: int) -> range:
        """Which of so many pieces of work this process does; beyond ``count``: any, as padding.

        As many on every rank, for a sharded model is only run by all together.
        """
        return range(count)

    # What ranks tell each other. All call these together.

    def mean(self, value: Tensor) -> Tensor:
        """The mean over ranks, the same bits on each."""
        return value

    def sum(self, value: Tensor) -> Tensor:
        """The sum over ranks, the same bits on each."""
        return value

    def any(self, flag: bool) -> bool:
        """Whether the flag is up on any rank."""
        return flag

    def largest(self, value: float) -> float:
        """The largest of the ranks' values: of times that of the slowest."""
        return value

    def local(self, tensor: Tensor) -> Tensor:
        """What this process itself holds of a wrapped model's tensor."""
        return tensor

    def barrier(self) -> None:
        """Wait for all others."""

    def from_first(self, make: Callable[[], T]) -> T:
        """What ``make`` gives on rank 0, where alone it is called; must be picklable."""
        return make()

    def require_same(self, value: str, what: str) -> None:
        """Raise the user's error where the value is not rank 0's on every rank.

        Args:
            value: to be compared.
            what: it is, for the message.
        """


_NOTHING = nullcontext()
ALONE = Ranks()


def connect(kind: str | None, timeout_s: float = TIMEOUT_S) -> Ranks:
    """Join the processes that torchrun has started; a context manager.

    Args:
        kind: one of ``KINDS``, or None for a process that is alone.
        timeout_s: how long to wait for another process before this one gives up.

    Raises:
        UserError: an unknown kind, processes without a kind, a kind without processes, or others
            that cannot be reached.
    """
    launched = required_launch(kind)
    if kind is None or launched is None:
        return ALONE
    from retbench.ranks.parallel import GROUPS

    return GROUPS[kind](launched, timeout_s)


def required_launch(kind: str | None) -> Launch | None:
    """What torchrun has told this process, where a kind is asked for; None where none is.

    Raises:
        UserError: an unknown kind, processes without a kind, or a kind without processes.
    """
    launched = launch()
    if kind is None:
        if launched and launched.size > 1:
            raise UserError(
                f"torchrun has started {launched.size} processes, which would all do the same",
                "say how they share the work, --parallel ddp or --parallel fsdp",
            )
        return None
    if kind not in KINDS:
        raise UserError(f"parallel: unknown kind {kind!r}", f"there are {' and '.join(KINDS)}")
    if launched is None:
        raise UserError(
            f"--parallel {kind} is for the processes that torchrun starts, and it has started none",
            f"begin the command with: torchrun --nproc-per-node N -m retbench, and --parallel "
            f"{kind} behind the subcommand",
        )
    return launched


def launch() -> Launch | None:
    """What torchrun has told this process; None where it was started otherwise.

    Raises:
        UserError: the environment tells only a part of it.
    """
    if "RANK" not in os.environ and "WORLD_SIZE" not in os.environ:
        return None
    if missing := [name for name in (*_VARIABLES, *_ADDRESS) if not os.environ.get(name)]:
        raise UserError(
            f"the environment has RANK or WORLD_SIZE, but no {', '.join(missing)}",
            "start the processes with torchrun, or unset them",
        )
    try:
        rank, size, local_rank, local_size = (int(os.environ[name]) for name in _VARIABLES)
    except ValueError as error:
        raise UserError(f"{', '.join(_VARIABLES)} in the environment: {error}") from None
    return Launch(rank, size, local_rank, local_size, os.environ.get(MEETING, ""))


def leave_to_first(error: UserError) -> None:
    """End where rank 0 of torchrun's processes tells the user the same; return where it is ours.

    What is found before the processes are connected, all find alike.
    """
    if isinstance(error, RankFailed) or "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    if os.environ.get("RANK", "0") != "0":
        time.sleep(_FIRST_S)  # or until torchrun ends this process, when rank 0 has told
        raise SystemExit(error.exit_status)
