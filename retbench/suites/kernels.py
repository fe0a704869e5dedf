"""The kernels suite: the mixing of a sequence alone, retention's forms beside attention's kernels.

One cell is an operation at a context, batch size, head dimension, type of numbers and direction:
forward alone, or forward and backward of the sum of its outputs, each times a fixed number. The
shapes are those of matched models: 8 retention heads of keys d_k and values 2 d_k against a
Transformer of the same width, 8 d_k.

Every input and output moves once at least, so over T tokens in numbers of b bytes the arithmetic
intensity of a forward is T / (2 b) FLOPs a byte for attention and, at long contexts, 4 d_k / (3 b)
for retention (half as much again with the backward). Attention becomes compute-bound with length;
retention has a fixed intensity, 21 at d_k = 64 in float32, and where that is below the machine's
matmul rate over bandwidth it is bandwidth-bound at any length. An operation that keeps its scores
moves T^2 numbers besides, and is bandwidth-bound too. Importing this module does not import torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from models.config import ModelConfig
from retbench.config import plugins
from retbench.config import values as value
from retbench.config.plan import Contender, Plan, Point
from retbench.config.requirements import require_known
from retbench.config.run import DTYPES, TimedConfig
from retbench.config.settings import changed, first_of, setting
from retbench.errors import Misfit
from retbench.suites.base import Suite, plan_in_turns
from retbench.suites.cost import Cost

if TYPE_CHECKING:
    import torch

    from models.operations import Case, Kind, Operation

RETENTION_HEADS = 8
VALUES_PER_KEY = 2  # d_v / d_k of a RetNet
ATTENTION_DIMS = 64, 128
"""A Transformer's heads have RetNet's d_k up to the first, else half of it up to the second."""

_CALL_S = 1e-4  # host work of one call
_TOKEN_S = {"cpu": 4e-5, "cuda": 5e-5}  # of one token of a recurrence
_COMPILE_S = {"cpu": 20.0, "cuda": 5.0}  # inductor keeps on disk what an earlier block compiled
_SCORES_KEPT = {"forward": 3, "train": 5}
_CELL_S = 0.4  # of any cell: the exact rows, and giving memory back before the clock runs
_GATE_CALLS = 3  # the first, the one that is checked, the one that finds how long it takes


@dataclass(frozen=True, kw_only=True)
class KernelsConfig(TimedConfig):
    """Retention and attention alone, forward and backward, against float64."""

    suite = "kernels"
    operations: tuple[str, ...] = setting(
        value.distinct_names, "What is compared; the first is the subject of every ratio.",
        metavar="NAMES",
        cpu=(
            "retention-chunkwise", "retention-parallel", "retention-recurrent", "sdpa-flash",
            "sdpa-math",
        ),
        cuda=(
            "retention-triton", "retention-chunkwise", "retention-compiled", "retention-parallel",
            "retention-recurrent", "fla-chunk", "fla-parallel", "fla-fused-recurrent",
            "sdpa-flash", "sdpa-efficient", "sdpa-cudnn", "sdpa-math", "flex-attention",
        ),
        shown="all of the device",
    )  # fmt: skip
    directions: tuple[str, ...] = setting(
        value.SomeOf(("forward", "train"), "direction"),
        "Passes: train is forward and backward.", default=("forward", "train"),
    )  # fmt: skip
    # On a GPU the paper's heads alone and few lengths, for the time's sake: two operations compile
    # anew for each point.
    head_dims: tuple[int, ...] = setting(
        value.ascending_sizes, "Dimensions of a head's keys, written like --context.",
        metavar="DIMS", cpu=(64,), cuda=(256,),
    )  # fmt: skip
    dtypes: tuple[str, ...] = setting(
        value.SomeOf(DTYPES, "dtype"), "Types of the inputs.", cpu=("float32",), cuda=("bfloat16",)
    )
    dtype: str = first_of(TimedConfig, "dtype", "dtypes")
    context: tuple[int, ...] = changed(
        TimedConfig, "context", cpu=value.powers(256, 2048), cuda=(2048, 4096, 16384, 65536)
    )
    batch: tuple[int, ...] = changed(TimedConfig, "batch", default=(1,))
    timeout_s: float = changed(TimedConfig, "timeout_s", default=300.0)

    @property
    def computed_dtypes(self) -> tuple[str, ...]:
        """Every type that an operation is measured in."""
        return self.dtypes


@dataclass(frozen=True)
class Size:
    """An operation, and what it has to do."""

    operation: Operation
    case: Case


class KernelsCost(Cost):
    """What operations need of one machine; the factor of two holds for the fused ones."""

    config: KernelsConfig

    def process_s(self, size: Size, /) -> float:
        """Seconds until the first cell: imports, and the check of a small case."""
        return self.start_s(0) + self._compile_s(size)

    def cell_s(self, size: Size, point: Point, /) -> float:
        """Seconds of the check, the warm-up and the trials; none where it is too long for them."""
        if size.operation.recurrent and size.operation.unsupported(size.case):
            return 0.0
        call_s = self._call_s(size, point)
        return _CELL_S + self._compile_s(size) + _GATE_CALLS * call_s + self.phase_s(call_s)

    def memory_bytes(self, size: Size, point: Point, /) -> int:
        """Inputs, outputs, gradients, and the scores of an operation that keeps them."""
        return size.case.moved_bytes + self._score_bytes(size)

    def _call_s(self, size: Size, point: Point) -> float:
        case = size.case
        moved = case.moved_bytes + 2 * self._score_bytes(size)
        call_s = self.roofline_s(case.flops, moved, str(point.setting("dtype"))) + _CALL_S
        if size.operation.recurrent:
            passes = 3 if case.direction == "train" else 1
            call_s += case.time * _TOKEN_S[self.config.device] * passes
        return call_s

    def _score_bytes(self, size: Size) -> int:
        if size.operation.memory != "quadratic":
            return 0
        case = size.case
        pairs = case.batch * case.heads * case.time**2
        return _SCORES_KEPT[case.direction] * pairs * max(4, case.dtype.itemsize)

    def _compile_s(self, size: Size) -> float:
        return _COMPILE_S[self.config.device] if size.operation.compiles else 0.0


class KernelsSuite(Suite[KernelsConfig]):
    """Single operations, forward and backward."""

    config = KernelsConfig
    measurer = "retbench.suites.kernels_cell:KernelsMeasurer"
    cost = KernelsCost
    takes_turns = True

    def plan(self, config: KernelsConfig) -> Plan:
        """Every context at every batch size, head dimension, type and direction."""
        swept = itertools.product(
            config.directions, config.dtypes, config.head_dims, config.batch, config.context
        )
        points = tuple(
            Point(
                context,
                batch,
                (("direction", direction), ("head_dim", head_dim), ("dtype", dtype)),
            )
            for direction, dtype, head_dim, batch, context in swept
        )
        contenders = [Contender(name, name) for name in config.operations]
        # Of the first direction, type, head dimension and batch size, at the longest context.
        primary = [("kernel_s", points[len(config.context) - 1])]
        return plan_in_turns(config, contenders, points, primary)

    def check(self, config: KernelsConfig, models: Mapping[str, ModelConfig]) -> None:
        """The operations must be known, and each head dimension have a matched Transformer."""
        from models import operations

        plugins.load(config.plugins)
        plugins.families()  # installed packages may bring operations along
        for name in config.operations:
            require_known("operation", name, operations.names(), key="operations")
        for head_dim in config.head_dims:
            if RETENTION_HEADS * head_dim % attention_dim(head_dim):
                problem = (
                    f"head-dims: a Transformer {RETENTION_HEADS * head_dim} wide has no whole "
                    f"number of heads of {attention_dim(head_dim)}"
                )
                raise Misfit(problem, "use a multiple of 16", keys=("head_dims",))

    def compiled(self, config: KernelsConfig) -> set[str]:
        """The operations that say so of themselves."""
        from models import operations

        return {name for name in config.operations if operations.get(name).compiles}

    def size(self, config: KernelsConfig, contender: Contender, point: Point | None = None) -> Size:
        """The operation and its case at a point, at the plan's first where None."""
        from models import operations

        operation = operations.get(contender.family)
        at = point or self.plan(config).points[0]
        return Size(operation, case_of(at, operation.kind, config.device))


SUITE = KernelsSuite()


def attention_dim(head_dim: int) -> int:
    """Head dimension of the Transformer that is matched with a RetNet of that d_k."""
    narrow, wide = ATTENTION_DIMS
    return head_dim if head_dim <= narrow else min(head_dim // 2, wide)


def case_of(point: Point, kind: Kind, device: torch.device | str) -> Case:
    """What an operation of a kind has to do at a point."""
    import torch

    from models.operations import Case

    head_dim = int(point.setting("head_dim", 0) or 0)
    heads, d_k, d_v = RETENTION_HEADS, head_dim, VALUES_PER_KEY * head_dim
    if kind == "attention":
        d_k = d_v = attention_dim(head_dim)
        heads = RETENTION_HEADS * head_dim // d_k
    direction: Any = point.setting("direction")
    dtype, on = getattr(torch, str(point.setting("dtype"))), torch.device(device)
    return Case(kind, direction, point.batch_size, heads, point.seq_len, d_k, d_v, dtype, on)
