"""The shapes of the kernels suite: retention's heads and those of the matched Transformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from models import operations
from models.operations import Case, Kind, Operation
from retbench.config.plan import Point

RETENTION_HEADS = 8
VALUES_PER_KEY = 2  # d_v / d_k of a RetNet
ATTENTION_DIMS = 64, 128
"""A Transformer's heads have RetNet's d_k up to the first, else half of it up to the second."""


@dataclass(frozen=True)
class Size:
    """An operation, and what it has to do."""

    operation: Operation
    case: Case


def size_at(point: Point, operation: str, device: str) -> Size:
    """An operation, by its name, and what it has to do at a point."""
    named = operations.get(operation)
    return Size(named, case_of(point, named.kind, torch.device(device)))


def attention_dim(head_dim: int) -> int:
    """Head dimension of the Transformer that is matched with a RetNet of that d_k."""
    narrow, wide = ATTENTION_DIMS
    return head_dim if head_dim <= narrow else min(head_dim // 2, wide)


def case_of(point: Point, kind: Kind, device: torch.device) -> Case:
    """What an operation of a kind has to do at a point."""
    head_dim = int(point.setting("head_dim", 0) or 0)
    heads, d_k, d_v = RETENTION_HEADS, head_dim, VALUES_PER_KEY * head_dim
    if kind == "attention":
        d_k = d_v = attention_dim(head_dim)
        heads = RETENTION_HEADS * head_dim // d_k
    direction: Any = point.setting("direction")
    dtype = getattr(torch, str(point.setting("dtype")))
    return Case(kind, direction, point.batch_size, heads, point.seq_len, d_k, d_v, dtype, device)
