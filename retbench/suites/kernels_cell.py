"""One cell of the kernels suite: an operation that is checked against float64, then timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from models.operations import Case, Operation
from retbench.config.plan import Point
from retbench.machine.ceilings import Ceilings, violates_matmul_rate
from retbench.suites.cell import Cell, Phase
from retbench.suites.kernels_gate import TOLERANCE, Call, inputs
from retbench.suites.kernels_shapes import case_of
from retbench.suites.limits import CellFailure
from retbench.suites.session import Rows, Session

GATE_TOKENS = 256


def verify(session: Session, points: Sequence[Point]) -> float:
    """Check an operation at the first of the points that it can do, shortened; its error.

    Raises:
        CellFailure: it is wrong, or can do none of them.
    """
    operation: Operation = session.subject
    reasons = []
    for point in points:
        short = Point(min(point.seq_len, GATE_TOKENS), 1, point.settings)
        case = case_of(short, operation.kind, session.device)
        reason = operation.unsupported(case)
        if reason is None:
            with _gradients(case), operation.ready(case) as mix:
                error = Call(
                    case, mix, *inputs(case, session.config.seed), session.config.seed
                ).error()
            _require_right(error, case.dtype)
            return error
        reasons.append(reason)
    several = len(set(reasons)) > 1
    which = "none of the planned points is supported; the first: " if several else ""
    raise CellFailure("unsupported", which + reasons[0])


def prepare(rows: Rows, progress: Callable[[str], None]) -> Cell:
    """Check the operation, read the peak of one call, and say what is timed.

    The bandwidth is no ceiling for the time of a call: small inputs stay in a cache, which is
    faster.

    Args:
        rows: take the cell's samples.
        progress: told of each phase.

    Raises:
        CellFailure: it is wrong there, or cannot do it.
    """
    session = rows.session
    operation: Operation = session.subject
    case = case_of(rows.point, operation.kind, session.device)
    reason = operation.unsupported(case)
    if reason is not None:
        raise CellFailure("unsupported", reason)
    rows.add("analytic", "kernel_flops", case.flops, implementation="analytic")
    rows.add("analytic", "kernel_bytes", case.moved_bytes, implementation="analytic")
    rows.closing.enter_context(_gradients(case))
    mix = rows.closing.enter_context(operation.ready(case))
    call = Call(case, mix, *inputs(case, session.config.seed), session.config.seed)
    progress("check")
    rows.add("gate", "kernel_first_s", session.clock.time(call).seconds)
    error = call.error()
    rows.add("gate", "kernel_error", error, implementation="float64")
    _require_right(error, case.dtype)
    progress("memory")
    with session.meter.exact():
        session.meter.reset()
        held = session.meter.current_bytes()  # inputs, and libraries that the check brought in
        first = session.time(call)
        peak = max(0, session.meter.peak_bytes() - held)
    rows.add("memory", "kernel_peak_bytes", peak, implementation=session.meter.source)
    progress("warm-up")
    dtype = str(rows.point.setting("dtype"))

    def violation(seconds: float, ceilings: Ceilings) -> str | None:
        return violates_matmul_rate(case.flops, seconds, dtype, ceilings)

    phase = Phase(
        "kernel",
        "kernel_s",
        call,
        most_calls=1_000_000,
        implementation=operation.name,
        violation=violation,
    )
    return Cell(rows, phase, first_s={"kernel": first.seconds})


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
