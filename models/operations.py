"""Operations that mix a sequence, by name, to be compared alone: retention's and attention's.

An operation takes q and k (batch, heads, time, d_k) and v (batch, heads, time, d_v) and gives
(batch, heads, time, d_v). Which function it computes is its kind's, whatever computes it::

    retention    o_n = sum over m <= n of gamma^(n-m) (q_n . k_m) v_m       (Sun et al. 2023, eq. 5)
    attention    o_n = softmax over m <= n of (q_n . k_m / sqrt(d_k)) v_m

with the paper's decays, gamma_i = 1 - 2^(-5-i) of head i (eq. 8). The built-in ones stand in
:mod:`models.operations_builtin`; a third party's joins by :func:`register`, in a file that is
imported by hand or as a plugin.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from models.costs import pair_flops, retention_flops

Kind = Literal["retention", "attention"]
Direction = Literal["forward", "train"]
Mix = Callable[[Tensor, Tensor, Tensor], Tensor]

TRAIN_FLOPS = 3
"""FLOPs of forward and backward over those of forward: each product has two gradients."""


@dataclass(frozen=True)
class Case:
    """What an operation is asked to do.

    Attributes:
        kind: the function.
        direction: ``forward`` alone, or ``train``, forward and backward.
        batch: sequences.
        heads: heads; q, k and v have as many.
        time: tokens of a sequence.
        d_k: dimension of a head's queries and keys.
        d_v: dimension of a head's values.
        dtype: the type of q, k and v.
        device: where they are.
    """

    kind: Kind
    direction: Direction
    batch: int
    heads: int
    time: int
    d_k: int
    d_v: int
    dtype: torch.dtype
    device: torch.device

    @property
    def flops(self) -> int:
        """Analytic FLOPs that the function needs, two for a multiplication and its addition.

        Attention: every pair of a query and a key that it sees, twice. Retention: the cheapest
        form's, see :func:`models.costs.retention_flops`.
        """
        needed = (
            retention_flops(self.time, self.d_k, self.d_v)
            if self.kind == "retention"
            else pair_flops(self.time, self.d_k, self.d_v)
        )
        passes = TRAIN_FLOPS if self.direction == "train" else 1
        return self.batch * self.heads * needed * passes

    @property
    def moved_bytes(self) -> int:
        """Analytic bytes that must move: every input and output once, in training their gradients.

        In the inputs' type, whatever an implementation keeps between.
        """
        numbers = self.time * (2 * self.d_k + 2 * self.d_v)
        tensors = 2 if self.direction == "train" else 1
        return self.batch * self.heads * numbers * tensors * self.dtype.itemsize


@dataclass(frozen=True)
class Operation:
    """One implementation of a kind's function.

    Attributes:
        name: a name that no other operation has.
        kind: the function it computes.
        unsupported: says why it cannot do a case on this machine; None where it can.
        ready: a context for a case that gives the callable; what it does once, such as choosing a
            backend or making a mask, is not part of a call.
        packages: the packages whose installed versions decide on its speed.
        memory: ``quadratic`` where it keeps a number for every pair of tokens.
        compiles: whether its first call compiles it.
        recurrent: whether it makes its calls token by token.
    """

    name: str
    kind: Kind
    unsupported: Callable[[Case], str | None]
    ready: Callable[[Case], AbstractContextManager[Mix]]
    packages: tuple[str, ...] = ("torch",)
    memory: Literal["linear", "quadratic"] = "linear"
    compiles: bool = False
    recurrent: bool = False


_BUILTIN = "models.operations_builtin"
_OPERATIONS: dict[str, Operation] = {}


def register(operation: Operation) -> Operation:
    """Make an operation known under its name; returns it.

    Raises:
        ValueError: if another operation has that name already.
    """
    known = _OPERATIONS.setdefault(operation.name, operation)
    if known != operation:
        raise ValueError(f"an operation named {operation.name!r} is registered already")
    return operation


def names() -> tuple[str, ...]:
    """The names of all operations, the built-in ones first."""
    _discover()
    return tuple(_OPERATIONS)


def get(name: str) -> Operation:
    """The operation of that name.

    Raises:
        ValueError: if there is none.
    """
    if name not in names():
        raise ValueError(f"unknown operation {name!r}; there are {', '.join(names())}")
    return _OPERATIONS[name]


@cache
def _discover() -> None:
    """Import the built-in operations, and keep them before a plugin's that came first."""
    early = dict(_OPERATIONS)
    _OPERATIONS.clear()
    importlib.import_module(_BUILTIN)
    for operation in early.values():
        register(operation)
