"""The kernels suite: the mixing of a sequence alone, retention's forms beside attention's kernels.

One cell is an operation at a context, batch size, head dimension, type of numbers and direction:
forward alone, or forward and backward of the sum of its outputs, each times a fixed number. The
shapes are those of matched models: 8 retention heads of keys d_k and values 2 d_k against a
Transformer of the same width, 8 d_k. Importing this module does not import torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING, Any

from retbench import plugins
from retbench.config.requirements import require_known
from retbench.config.run import PROFILES, RunConfig
from retbench.errors import Misfit
from retbench.measure.ceilings import violates_matmul_rate
from retbench.measure.clock import LAUNCH_BOUND, repeats_for
from retbench.plan import Contender, Plan, Point
from retbench.suites.base import CellFailure, Rows, Session, Suite
from retbench.suites.kernels_cost import KernelsCost, Size

if TYPE_CHECKING:
    import torch

    from models.config import ModelConfig
    from models.operations import Case, Kind, Operation
    from retbench.suites.kernels_gate import Call

RETENTION_HEADS = 8
VALUES_PER_KEY = 2  # d_v / d_k of a RetNet
ATTENTION_DIMS = 64, 128
"""A Transformer's heads have RetNet's d_k up to the first, else half of it up to the second."""

GATE_TOKENS = 256


class KernelsSuite(Suite):
    """Single operations, forward and backward."""

    name = "kernels"
    trains = False

    def plan(self, config: RunConfig) -> Plan:
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
        contenders = tuple(Contender(name, name) for name in config.operations)
        return Plan(self.name, contenders, points, PROFILES[config.profile].blocks, config.seed)

    def check(self, config: RunConfig, models: Mapping[str, ModelConfig]) -> None:
        """The operations must be known, and each head dimension have a matched Transformer."""
        from models import operations

        plugins.load(config.plugins)
        plugins.families()  # installed packages may bring operations along
        if not config.operations:
            raise Misfit("operations: needs at least one", keys=("operations",))
        for name in config.operations:
            require_known("operation", name, operations.names(), key="operations")
            if config.operations.count(name) > 1:
                problem = f"operations: {name!r} is named twice"
                raise Misfit(problem, "name each one once", keys=("operations",))
        for head_dim in config.head_dims:
            if RETENTION_HEADS * head_dim % attention_dim(head_dim):
                problem = (
                    f"head-dims: a Transformer {RETENTION_HEADS * head_dim} wide has no whole "
                    f"number of heads of {attention_dim(head_dim)}"
                )
                raise Misfit(problem, "use a multiple of 16", keys=("head_dims",))

    def size(self, config: RunConfig, contender: Contender, point: Point | None = None) -> Size:
        """The operation and its case at a point, at the plan's first where None."""
        import torch

        from models import operations

        kind = operations.get(contender.family).kind
        at = point or self.plan(config).points[0]
        return Size(contender.family, case_of(at, kind, torch.device(config.device)))

    def cost(self, config: RunConfig, ceilings: Mapping[str, Any] | None) -> KernelsCost:
        """Bounds of a call under the caps of the profile."""
        return KernelsCost(config, ceilings)

    def build(
        self,
        config: RunConfig,
        contender: Contender,
        options: Mapping[str, Any],
        device: torch.device,
    ) -> Operation:
        """The operation."""
        from models import operations

        return operations.get(contender.family)

    def describe(self, session: Session) -> dict[str, Any]:
        """Its kind, and the versions of what computes it."""
        operation: Operation = session.subject
        return {
            "operation": operation.name,
            "kind": operation.kind,
            "versions": {name: _version(name) for name in operation.packages},
        }

    def verify(self, session: Session) -> float:
        """The first of the planned points that it can do, shortened, must be right."""
        operation: Operation = session.subject
        reasons = []
        for point in self.plan(session.config).points:
            short = Point(min(point.seq_len, GATE_TOKENS), 1, point.settings)
            case = case_of(short, operation.kind, session.device)
            reason = operation.unsupported(case)
            if reason is None:
                with _ready(operation, case, session.config.seed) as call:
                    error = call.error()
                _require_right(error, case.dtype)
                return error
            reasons.append(reason)
        several = len(set(reasons)) > 1
        which = "none of the planned points is supported; the first: " if several else ""
        raise CellFailure("unsupported", which + reasons[0])

    def measure(self, session: Session, rows: Rows, progress: Callable[[str], None]) -> None:
        """Check against float64, then time; see the module's description."""
        operation: Operation = session.subject
        case = case_of(rows.point, operation.kind, session.device)
        reason = operation.unsupported(case)
        if reason is not None:
            raise CellFailure("unsupported", reason)
        rows.add("analytic", "kernel_flops", case.flops, implementation="analytic")
        rows.add("analytic", "kernel_bytes", case.moved_bytes, implementation="analytic")
        with _ready(operation, case, session.config.seed) as call:
            progress("check")
            rows.add("gate", "kernel_first_s", session.clock.time(call).seconds)
            error = call.error()
            rows.add("gate", "kernel_error", error, implementation="float64")
            _require_right(error, case.dtype)
            progress("time")
            _time(rows, call, case)


SUITE = KernelsSuite()


def attention_dim(head_dim: int) -> int:
    """Head dimension of the Transformer that is matched with a RetNet of that d_k."""
    narrow, wide = ATTENTION_DIMS
    return head_dim if head_dim <= narrow else min(head_dim // 2, wide)


def case_of(point: Point, kind: Kind, device: torch.device) -> Case:
    """What an operation of a kind has to do at a point."""
    import torch

    from models.operations import Case

    head_dim = int(point.setting("head_dim", 0) or 0)
    heads, d_k, d_v = RETENTION_HEADS, head_dim, VALUES_PER_KEY * head_dim
    if kind == "attention":
        d_k = d_v = attention_dim(head_dim)
        heads = RETENTION_HEADS * head_dim // d_k
    direction: Any = point.setting("direction")
    dtype = getattr(torch, str(point.setting("dtype")))
    return Case(kind, direction, point.batch_size, heads, point.seq_len, d_k, d_v, dtype, device)


@contextmanager
def _ready(operation: Operation, case: Case, seed: int) -> Iterator[Call]:
    """The operation with its inputs, gradients on where they are asked for."""
    import torch

    from retbench.suites.kernels_gate import Call, inputs

    with torch.set_grad_enabled(case.direction == "train"), operation.ready(case) as mix:
        yield Call(case, mix, *inputs(case, seed), seed)


def _require_right(error: float, dtype: torch.dtype) -> None:
    """No time without a green error."""
    from retbench.suites.kernels_gate import TOLERANCE

    if not error <= TOLERANCE[dtype]:  # NaN fails too
        raise CellFailure(
            "error",
            f"relative error {error:.2g} against float64, allowed {TOLERANCE[dtype]:g} in "
            f"{str(dtype).removeprefix('torch.')}",
        )


def _time(rows: Rows, call: Call, case: Case) -> None:
    """Warm-up, trials, the peak of memory, and M15's check of the fastest.

    The bandwidth is no ceiling for this check: small inputs stay in a cache, which is faster.
    """
    session = rows.session
    session.meter.reset()
    held = session.meter.current_bytes()  # inputs, and libraries that the check has brought in
    # M4: calls too short for the clock are timed several at once.
    repeats = repeats_for(session.clock.time(call).seconds)
    flags = session.warm_up(lambda: [session.clock.time(call, repeats)])
    timings = list(session.trials(lambda: session.clock.time(call, repeats)))
    peak = max(0, session.meter.peak_bytes() - held)
    rows.add("memory", "kernel_peak_bytes", peak, implementation=session.meter.source)
    for number, timing in enumerate(timings):
        rows.add(
            "kernel", "kernel_s", timing.seconds, trial=number, implementation=session.subject.name,
            flags=[*flags, LAUNCH_BOUND] if timing.launch_bound else flags,
        )  # fmt: skip
    dtype = str(rows.point.setting("dtype"))
    fastest_s = min(timing.seconds for timing in timings)
    session.require_physical(partial(violates_matmul_rate, case.flops, fastest_s, dtype))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
