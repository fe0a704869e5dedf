"""What a process asks of the others of its group, where it may be alone.

:class:`Ranks` is what a process that is alone answers, at no cost, so that code that may run in
several has no branches; :mod:`retbench.distributed.torch_group` holds those that are connected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Literal, TypeVar

from retbench.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

T = TypeVar("T")


class Ranks(AbstractContextManager["Ranks"]):
    """A process that is alone: rank 0 of 1.

    Attributes:
        kind: ``ddp`` or ``fsdp``; None where the process is alone.
        rank: the number of this process; rank 0 alone writes and prints.
        size: how many processes there are.
        compiles: what goes through ``torch.compile`` at once: the whole step, or each layer, where
            something is to be sent while the next is computed.
        mates: process ids of the other ranks on this machine.
    """

    kind: str | None = None
    rank: int = 0
    size: int = 1
    compiles: Literal["step", "layer"] = "step"
    mates: tuple[int, ...] = ()

    @property
    def first(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

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
        return nullcontext()

    def full_tensors(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Tensors of a wrapped model or its optimizer as one process would hold them.

        Asked by all ranks together; rank 0 gets them, the others nothing.
        """
        return tensors

    def distribute(
        self, tensors: Mapping[str, Tensor], like: Callable[[str], Tensor | None]
    ) -> Mapping[str, Tensor]:
        """The inverse: rank 0's tensors on all ranks, each laid out as ``like(name)``.

        Args:
            tensors: of rank 0; those of the others do not count.
            like: the tensor in whose place one is to be put; None: it is put there as a whole.
        """
        return tensors

    def unshard(self, model: nn.Module, build: Callable[[], nn.Module]) -> nn.Module:
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

    def rows(self, count: int) -> slice:
        """Those of this process in a batch of so many."""
        each = count // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def shard_indices(self, count: int) -> range:
        """Which of so many pieces of work this process does; beyond ``count``: any, as padding.

        As many on every rank, for a sharded model is only run by all together.
        """
        return range(self.rank, -(-count // self.size) * self.size, self.size)

    # What ranks tell each other. All call these together.

    def all_reduce_mean(self, value: Tensor) -> Tensor:
        """The mean over ranks, the same bits on each."""
        return value

    def all_reduce_sum(self, value: Tensor) -> Tensor:
        """The sum over ranks, the same bits on each."""
        return value

    def all_reduce_max(self, value: float) -> float:
        """The largest of the ranks' values: of times that of the slowest."""
        return value

    def local(self, tensor: Tensor) -> Tensor:
        """What this process itself holds of a wrapped model's tensor."""
        return tensor

    def barrier(self) -> None:
        """Wait for all others."""
        self.all_reduce_max(0.0)

    def broadcast(self, make: Callable[[], T]) -> T:
        """What ``make`` gives on rank 0, where alone it is called; must be picklable."""
        return make()

    def all_gather(self, value: T) -> list[T]:
        """The values of all ranks, by rank; must be picklable."""
        return [value]

    def failed_alike(self, error: Exception, how: str) -> bool:
        """Whether all ranks have failed in the same way, and within seconds.

        Asked by a rank that has failed, where the others may not have.

        Args:
            error: in which this rank has failed.
            how: what must be the same on all.
        """
        return True

    def require_same(self, value: str, what: str) -> None:
        """Raise the user's error where the value is not rank 0's on every rank.

        Args:
            value: to be compared.
            what: it is, for the message.
        """
        values = self.all_gather(value)
        if others := [rank for rank, found in enumerate(values) if found != values[0]]:
            raise UserError(
                f"rank {', '.join(map(str, others))} has another {what} than rank 0",
                "give all machines the same",
            )


ALONE = Ranks()
