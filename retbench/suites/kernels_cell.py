"""One cell of the kernels suite: an operation that is checked against float64, then timed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from models import operations
from models.compiler import require_compiler
from models.operations import Case, Operation
from retbench import suites
from retbench.config.plan import Contender, Point
from retbench.config.run import RunConfig
from retbench.machine.provenance import version
from retbench.suites.base import CellFailure
from retbench.suites.cell import Cell, Phase
from retbench.suites.kernels import case_of
from retbench.suites.kernels_gate import TOLERANCE, Call
from retbench.suites.measurer import Measurer, Progress
from retbench.suites.session import Rows, Session

GATE_TOKENS = 256


class KernelsMeasurer(Measurer):
    """One operation, forward and backward."""

    def build(
        self,
        config: RunConfig,
        contender: Contender,
        options: Mapping[str, Any],
        device: torch.device,
    ) -> Operation:
        """The operation that the contender names.

        Raises:
            ConfigError: it compiles, and a variable turns the compiler off.
        """
        operation = operations.get(contender.family)
        if operation.compiles:
            require_compiler()
        return operation

    def describe(self, session: Session) -> dict[str, Any]:
        """The operation's name and kind, and the versions of what computes it."""
        operation: Operation = session.subject
        return {
            "operation": operation.name,
            "kind": operation.kind,
            "versions": {name: version(name) for name in operation.packages},
        }

    def verify(self, session: Session) -> float:
        """The first of the planned points that the operation can do, shortened, must be right."""
        operation: Operation = session.subject
        reasons = []
        for point in suites.get(session.config.suite).plan(session.config).points:
            short = Point(min(point.seq_len, GATE_TOKENS), 1, point.settings)
            case = case_of(short, operation.kind, session.device)
            reason = operation.unsupported(case)
            if reason is None:
                with _gradients(case), operation.ready(case) as mix:
                    error = Call(case, mix, session.config.seed).error()
                _require_right(error, case.dtype)
                return error
            reasons.append(reason)
        several = len(set(reasons)) > 1
        which = "none of the planned points is supported; the first: " if several else ""
        raise CellFailure("unsupported", which + reasons[0])

    def prepare(self, rows: Rows, progress: Progress) -> Cell:
        """Check the operation, read the peak of one call, and say what is timed.

        The bandwidth is no ceiling for the time of a call: small inputs stay in a cache, which is
        faster.
        """
        session = rows.session
        operation: Operation = session.subject
        case = case_of(rows.point, operation.kind, session.device)
        reason = operation.unsupported(case)
        if reason is not None:
            raise CellFailure("unsupported", reason)
        rows.add_analytic({"kernel_flops": case.flops, "kernel_bytes": case.moved_bytes})
        rows.closing.enter_context(_gradients(case))
        mix = rows.closing.enter_context(operation.ready(case))
        call = Call(case, mix, session.config.seed)
        progress("check")
        rows.add("gate", "kernel_first_s", session.clock.time(call).seconds)
        if rows.verify:
            error = call.error()
            rows.add("gate", "kernel_error", error, implementation="float64")
            _require_right(error, case.dtype)
        if session.reads_memory:
            progress("memory")
            _measure_memory(rows, call)
        progress("warm-up")
        phase = Phase(
            "kernel",
            "kernel_s",
            call,
            most_calls=1_000_000,
            implementation=operation.name,
            flops=case.flops,
            first_s=session.time(call).seconds,  # the very first one may have compiled
        )
        return Cell(rows, phase)


def _measure_memory(rows: Rows, call: Call) -> None:
    """The peak of a call above what is held before it."""
    session = rows.session
    with session.meter.exact():
        held = session.meter.current_bytes()  # inputs, and libraries that the check brought in
        call()
        peak = max(0, session.meter.peak_bytes() - held)
    rows.add("memory", "kernel_peak_bytes", peak, implementation=session.meter.source)


def _gradients(case: Case) -> torch.set_grad_enabled:
    """Gradients on where they are asked for, off where not."""
    return torch.set_grad_enabled(case.direction == "train")


def _require_right(error: float, dtype: torch.dtype) -> None:
    """Refuse to time what is wrong beyond the rounding of its type."""
    if not error <= TOLERANCE[dtype]:  # NaN fails too
        raise CellFailure(
            "error",
            f"relative error {error:.2g} against float64, allowed {TOLERANCE[dtype]:g} in "
            f"{str(dtype).removeprefix('torch.')}",
        )
