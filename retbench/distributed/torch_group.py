"""Processes that train one model together: by PyTorch's DDP, or by FSDP2.

DDP is of Li et al. 2020, arXiv 2006.15704, FSDP of Zhao et al. 2023, arXiv 2304.11277; GPUs are
connected by NCCL, processors by gloo.

Every rank makes each batch, which is seeded and cheap, and takes its rows, so that the order of the
data is one process's. The loss of a rank is the sum over its targets over the mean number of scored
targets of a rank: then the mean over ranks, which is what both kinds make of gradients, is the
loss's gradient over the whole batch.
"""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from types import TracebackType
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.fsdp import fully_shard
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from retbench.distributed.failure import GRACE_S, Failures, is_lost
from retbench.distributed.launch import Launch
from retbench.distributed.process_group import Ranks
from retbench.errors import UserError
from retbench.machine.host import cuda_available

T = TypeVar("T")


class Group(Ranks):
    """The processes that torchrun has started, connected.

    Args:
        launched: what it told this one.
        timeout_s: how long to wait for another before giving up.

    Raises:
        UserError: the others cannot be reached.
    """

    compiles: Literal["step", "layer"] = "layer"

    def __init__(self, launched: Launch, timeout_s: float) -> None:
        self.rank, self.size = launched.rank, launched.size
        self._launched = launched
        self._device = torch.device("cpu")
        self._failed = 0
        timeout = timedelta(seconds=timeout_s)
        # What the host decides on goes over gloo: it is not to wait for the GPU's queue.
        backend = "cpu:gloo,cuda:nccl" if cuda_available() else "gloo"
        try:
            store, _, _ = next(rendezvous("env://", timeout=timeout))
            dist.init_process_group(
                backend, store=store, rank=self.rank, world_size=self.size, timeout=timeout
            )
            own = socket.gethostname(), os.getpid()
            processes = self.all_gather(own)
            self.mates = tuple(pid for host, pid in processes if host == own[0] and pid != own[1])
            self._notes = PrefixStore("retbench", store)
            self._failures = Failures(self._notes, self.rank, processes)
        except (RuntimeError, ValueError) as error:
            address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            reason = str(error).splitlines()[0]
            raise UserError(
                f"rank {self.rank} cannot reach the other processes at {address}: {reason}"
            ) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Leave the group; of a failure one process tells (:mod:`retbench.distributed.failure`)."""
        if error is None:
            dist.destroy_process_group()
        else:
            self._failures.end(error)

    # The model.

    def device(self, kind: str) -> str:
        """See :meth:`Ranks.device`.

        Raises:
            UserError: there are fewer GPUs than processes on this machine.
        """
        if kind != "cuda":
            return kind
        count, local = torch.cuda.device_count(), self._launched
        if local.local_size > count:
            raise UserError(
                f"{local.local_size} processes on {socket.gethostname()}, which has {count} "
                f"GPU{'s' * (count != 1)}",
                f"start at most {count} with --nproc-per-node, or use --device cpu",
            )
        torch.cuda.set_device(local.local_rank)
        self._device = torch.device("cuda", local.local_rank)
        return str(self._device)

    def full_tensors(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """See :meth:`Ranks.full_tensors`; a tensor at a time, on the host."""
        found = {}
        for name, tensor in tensors.items():
            full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if self.first:
                found[name] = full.detach().cpu()
        return found

    def distribute(
        self, tensors: Mapping[str, Tensor], like: Callable[[str], Tensor | None]
    ) -> Mapping[str, Tensor]:
        """See :meth:`Ranks.distribute`; a tensor at a time."""
        kinds = self.broadcast(lambda: {n: (t.shape, t.dtype) for n, t in tensors.items()})
        return {
            name: self._distributed(tensors.get(name), *kind, like(name))
            for name, kind in kinds.items()
        }

    def _distributed(
        self, tensor: Tensor | None, shape: torch.Size, dtype: torch.dtype, like: Tensor | None
    ) -> Tensor:
        if self.first and tensor is not None:
            full = tensor.to(self._device).contiguous()
        else:
            full = torch.empty(shape, dtype=dtype, device=self._device)
        dist.broadcast(full, 0)
        if not isinstance(like, DTensor):
            return full
        own = distribute_tensor(full, like.device_mesh, like.placements, src_data_rank=None)
        return own.clone()  # not a view that keeps the whole in memory

    # What ranks tell each other.

    def all_reduce_mean(self, value: Tensor) -> Tensor:
        """See :meth:`Ranks.all_reduce_mean`."""
        return self.all_reduce_sum(value) / self.size

    def all_reduce_sum(self, value: Tensor) -> Tensor:
        """See :meth:`Ranks.all_reduce_sum`."""
        total = value.clone()
        dist.all_reduce(total)
        return total

    def all_reduce_max(self, value: float) -> float:
        """See :meth:`Ranks.all_reduce_max`."""
        most = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        return float(most)

    def broadcast(self, make: Callable[[], T]) -> T:
        """See :meth:`Ranks.broadcast`."""
        found: list[Any] = [make() if self.first else None]
        dist.broadcast_object_list(found, 0, device=torch.device("cpu"))
        return found[0]  # type: ignore[no-any-return]

    def all_gather(self, value: T) -> list[T]:
        """See :meth:`Ranks.all_gather`."""
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def failed_alike(self, error: Exception, how: str) -> bool:
        """See :meth:`Ranks.failed_alike`; ranks leave notes, for one may wait for another's sum."""
        if is_lost(error):
            return False
        self._failed += 1
        keys = [f"failed/{self._failed}/{rank}" for rank in range(self.size)]
        try:
            self._notes.set(keys[self.rank], how)
            self._notes.wait(keys, timedelta(seconds=GRACE_S))
            return {self._notes.get(key) for key in keys} == {how.encode()}
        except RuntimeError:  # no note has come, or whoever keeps them has ended
            return False


class Replicated(Group):
    """DDP: every process holds the whole model, and gradients are averaged."""

    kind = "ddp"

    def wrap(self, model: nn.Module) -> nn.Module:
        """See :meth:`Ranks.wrap`."""
        ids = [self._device.index] if self._device.type == "cuda" else None
        wrapped = DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)
        # The models' buffers are constants. (As an argument it is deprecated from torch 2.13 on.)
        wrapped.broadcast_buffers = False
        return wrapped

    def part(self, wrapped: nn.Module, last: bool) -> AbstractContextManager[object]:
        """See :meth:`Ranks.part`."""
        assert isinstance(wrapped, DistributedDataParallel)
        return nullcontext() if last else wrapped.no_sync()


class Sharded(Group):
    """FSDP2: each layer's parameters are spread over the processes, and collected for its use."""

    kind = "fsdp"

    def wrap(self, model: nn.Module) -> nn.Module:
        """See :meth:`Ranks.wrap`; the weights must be equal on all ranks, and are not checked."""
        # Logits are a view of those of the padded head, and nothing changes them in place.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
        mesh = init_device_mesh(self._device.type, (self.size,))
        layers = getattr(model, "layers", None)
        for layer in layers if isinstance(layers, nn.ModuleList) else ():
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return model

    def part(self, wrapped: Any, last: bool) -> AbstractContextManager[object]:
        """See :meth:`Ranks.part`."""
        wrapped.set_requires_gradient_sync(last)
        return nullcontext()

    def local(self, tensor: Tensor) -> Tensor:
        """See :meth:`Ranks.local`."""
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor

    def unshard(self, model: nn.Module, build: Callable[[], nn.Module]) -> nn.Module:
        """See :meth:`Ranks.unshard`."""
        weights = self.full_tensors(model.state_dict())
        if not self.first:
            return model
        collected = build()
        collected.load_state_dict(weights)
        return collected


GROUPS: dict[str, type[Group]] = {group.kind: group for group in (Replicated, Sharded)}
